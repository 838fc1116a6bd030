//! One step of autodiff with gradients of our own, and the way between tensors and what backends compute with.

use burn::{
    backend::autodiff::{
        Autodiff, NodeId,
        checkpoint::strategy::CheckpointStrategy,
        ops::{Backward, OpsKind},
    },
    tensor::{Tensor, TensorPrimitive, backend::Backend, ops::FloatTensor},
};

/// What `compute` makes of the inputs, recorded as `step`, which finds all of them again in its state.
pub(super) fn record<B: Backend, C: CheckpointStrategy, S, const N: usize>(
    step: S,
    inputs: [FloatTensor<Autodiff<B>>; N],
    compute: impl FnOnce([FloatTensor<B>; N]) -> FloatTensor<B>,
) -> FloatTensor<Autodiff<B>>
where
    S: Backward<B, N, State = [NodeId; N]>,
{
    let values = inputs.each_ref().map(|input| input.primitive.clone());
    let nodes = inputs.each_ref().map(|input| input.node.clone());
    match step.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(mut step) => {
            let state = inputs.each_ref().map(|input| step.checkpoint(input));
            // while the inputs live, no other thread's backward pass sweeps their nodes away
            let result = step.finish(state, compute(values));
            drop(inputs);
            result
        }
        OpsKind::UnTracked(step) => step.finish(compute(values)),
    }
}

/// The tensor of what a backend has computed.
pub(super) fn tensor<B: Backend, const D: usize>(primitive: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

/// What a backend computes with.
pub(super) fn primitive<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> FloatTensor<B> {
    tensor.into_primitive().tensor()
}
