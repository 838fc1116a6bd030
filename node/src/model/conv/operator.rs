//! The 3x3x3 convolution as an operator of a backend, with a gradient of its own.
//!
//! A backend that has nothing better inherits the stock operator; the CPU computes directly ([`super::direct`]). On
//! top of either, [`Autodiff`] records the operator as one step (spec/cpu-kernels.md, section 5.5).

use burn::{
    backend::autodiff::{
        Autodiff, NodeId,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::{
        backend::Backend,
        ops::{ConvOptions, FloatTensor},
    },
};

/// Gradients of a convolution; that of the input only where it is asked for.
#[derive(Debug)]
pub struct ConvGradients<B: Backend> {
    /// With respect to the input.
    pub x: Option<FloatTensor<B>>,
    /// With respect to the weight.
    pub weight: FloatTensor<B>,
    /// With respect to the bias.
    pub bias: FloatTensor<B>,
}

/// A backend with a 3x3x3 convolution of stride 1 and padding 1.
pub trait ConvBackend: Backend {
    /// `x` [batch, inputs, d, h, w], `weight` [outputs, inputs, 3, 3, 3], `bias` [outputs].
    fn conv_same(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::conv3d(x, weight, Some(bias), options())
    }

    /// Its gradients, given that of its result.
    fn conv_same_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        with_x: bool,
    ) -> ConvGradients<Self> {
        let of_x = with_x.then(|| Self::conv3d_x_backward(x.clone(), weight.clone(), gradient.clone(), options()));
        let of_weight = Self::conv3d_weight_backward(x.clone(), weight, gradient.clone(), options());
        ConvGradients { x: of_x, weight: of_weight, bias: Self::conv3d_bias_backward(x, bias, gradient) }
    }
}

fn options() -> ConvOptions<3> {
    ConvOptions::new([1; 3], [1; 3], [1; 3], 1)
}

/// The step that autodiff records.
#[derive(Debug)]
struct ConvSame;

impl<B: ConvBackend> Backward<B, 3> for ConvSame {
    /// Input, weight and bias.
    type State = [NodeId; 3];

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let [x, weight, bias] = ops.state.map(|node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node));
        let [of_x, of_weight, of_bias] = ops.parents;
        let found = B::conv_same_gradients(x, weight, bias, gradient, of_x.is_some());
        let pairs = [(of_x, found.x), (of_weight, Some(found.weight)), (of_bias, Some(found.bias))];
        for (node, gradient) in pairs {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                gradients.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: ConvBackend, C: CheckpointStrategy> ConvBackend for Autodiff<B, C> {
    fn conv_same(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [x.node.clone(), weight.node.clone(), bias.node.clone()];
        match Backward::<B, 3>::prepare::<C>(ConvSame, nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut step) => {
                let state = [step.checkpoint(&x), step.checkpoint(&weight), step.checkpoint(&bias)];
                step.finish(state, B::conv_same(x.primitive, weight.primitive, bias.primitive))
            }
            OpsKind::UnTracked(step) => step.finish(B::conv_same(x.primitive, weight.primitive, bias.primitive)),
        }
    }
}
