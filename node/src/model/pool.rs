//! Pooling as an operator of a backend: the maximum or the mean of disjoint blocks.
//!
//! burn has no pooling in three dimensions that can be differentiated on every backend. A backend that has nothing better
//! inherits compositions of stock operations; the CPU has kernels (`semisam_kernels::pool`). On top of either,
//! [`Autodiff`] records one step. What remains behind the last whole block of a side is left out.

mod composed;

use burn::{
    backend::autodiff::{
        Autodiff, NodeId,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::{Tensor, TensorMetadata, TensorPrimitive, backend::Backend, ops::FloatTensor},
};

/// The largest number of each block of `kernel` [d, h, w].
///
/// # Shapes
/// [batch, channels, d, h, w] -> [batch, channels, d / kernel, h / kernel, w / kernel], rounded down.
pub fn max<B: PoolBackend>(x: Tensor<B, 5>, kernel: [usize; 3]) -> Tensor<B, 5> {
    Tensor::from_primitive(TensorPrimitive::Float(B::max_pool(x.into_primitive().tensor(), kernel)))
}

/// The mean of each block of `kernel` [d, h, w].
///
/// # Shapes
/// [batch, channels, d, h, w] -> [batch, channels, d / kernel, h / kernel, w / kernel], rounded down.
pub fn mean<B: PoolBackend>(x: Tensor<B, 5>, kernel: [usize; 3]) -> Tensor<B, 5> {
    Tensor::from_primitive(TensorPrimitive::Float(B::mean_pool(x.into_primitive().tensor(), kernel)))
}

/// A backend that pools. `x` is [batch, channels, d, h, w]; the kernel is no larger.
pub trait PoolBackend: Backend {
    /// The largest number of each block.
    fn max_pool(x: FloatTensor<Self>, kernel: [usize; 3]) -> FloatTensor<Self> {
        composed::max_pool::<Self>(x, kernel)
    }

    /// The gradient of [`PoolBackend::max_pool`]: a block's goes to its first maximum.
    fn max_pool_gradient(x: FloatTensor<Self>, kernel: [usize; 3], gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::max_pool_gradient::<Self>(x, kernel, gradient)
    }

    /// The mean of each block.
    fn mean_pool(x: FloatTensor<Self>, kernel: [usize; 3]) -> FloatTensor<Self> {
        composed::mean_pool::<Self>(x, kernel)
    }

    /// The gradient of [`PoolBackend::mean_pool`] of an input of `shape`.
    fn mean_pool_gradient(gradient: FloatTensor<Self>, kernel: [usize; 3], shape: [usize; 5]) -> FloatTensor<Self> {
        composed::mean_pool_gradient::<Self>(gradient, kernel, shape)
    }
}

/// The steps that autodiff records.
#[derive(Debug)]
struct MaxPool;

#[derive(Debug)]
struct MeanPool;

impl<B: PoolBackend> Backward<B, 1> for MaxPool {
    /// Input and kernel.
    type State = (NodeId, [usize; 3]);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let (x, kernel) = ops.state;
        let x = checkpointer.retrieve_node_output::<FloatTensor<B>>(x);
        if let [Some(parent)] = ops.parents {
            gradients.register::<B>(parent.id, B::max_pool_gradient(x, kernel, gradient));
        }
    }
}

impl<B: PoolBackend> Backward<B, 1> for MeanPool {
    /// Kernel and the input's shape.
    type State = ([usize; 3], [usize; 5]);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let (kernel, shape) = ops.state;
        if let [Some(parent)] = ops.parents {
            gradients.register::<B>(parent.id, B::mean_pool_gradient(gradient, kernel, shape));
        }
    }
}

impl<B: PoolBackend, C: CheckpointStrategy> PoolBackend for Autodiff<B, C> {
    fn max_pool(x: FloatTensor<Self>, kernel: [usize; 3]) -> FloatTensor<Self> {
        match Backward::<B, 1>::prepare::<C>(MaxPool, [x.node.clone()]).compute_bound().stateful() {
            OpsKind::Tracked(mut step) => {
                let state = (step.checkpoint(&x), kernel);
                step.finish(state, B::max_pool(x.primitive, kernel))
            }
            OpsKind::UnTracked(step) => step.finish(B::max_pool(x.primitive, kernel)),
        }
    }

    fn max_pool_gradient(_: FloatTensor<Self>, _: [usize; 3], _: FloatTensor<Self>) -> FloatTensor<Self> {
        panic!("the gradient of a pooled image has no gradient of its own: differentiate once only")
    }

    fn mean_pool(x: FloatTensor<Self>, kernel: [usize; 3]) -> FloatTensor<Self> {
        let shape = x.primitive.shape().dims::<5>();
        match Backward::<B, 1>::prepare::<C>(MeanPool, [x.node.clone()]).compute_bound().stateful() {
            OpsKind::Tracked(step) => step.finish((kernel, shape), B::mean_pool(x.primitive, kernel)),
            OpsKind::UnTracked(step) => step.finish(B::mean_pool(x.primitive, kernel)),
        }
    }

    fn mean_pool_gradient(_: FloatTensor<Self>, _: [usize; 3], _: [usize; 5]) -> FloatTensor<Self> {
        panic!("the gradient of a pooled image has no gradient of its own: differentiate once only")
    }
}

#[cfg(test)]
mod tests;
