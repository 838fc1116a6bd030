//! A convolution with what comes before it as one step of autodiff.
//!
//! A backend that has nothing better inherits [`composed`], which burn differentiates by itself. The CPU has fused operations
//! with gradients of their own; on top of those [`Autodiff`] records one step that keeps the raw results of earlier
//! convolutions and nothing else (spec/cpu-kernels.md, section 5.5).

use burn::{
    backend::autodiff::{
        Autodiff, NodeId,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::{
        Tensor,
        backend::Backend,
        module::conv3d,
        ops::{ConvOptions, FloatTensor},
    },
};
use semisam_kernels::norm::Moments;

use std::sync::Arc;

use super::{
    Convolved, Image, Norm, Term, composed,
    pieces::{self, Product},
};
use crate::model::{
    layout::Sampling,
    norm,
    recorded::{primitive, tensor},
};

/// A backend that convolves.
pub trait ConvBackend: Backend {
    /// See [`super::convolve`].
    fn convolve(
        image: Image<Self>,
        weight: Tensor<Self, 5>,
        bias: Tensor<Self, 1>,
        sampling: Sampling,
    ) -> Convolved<Self> {
        Convolved { values: composed::convolve(image, weight, bias, sampling), moments: None }
    }

    /// A convolution with an odd kernel that keeps the sides: `x` [batch, inputs, d, h, w], `weight` [outputs, inputs, kernel].
    fn same(x: Tensor<Self, 5>, weight: Tensor<Self, 5>) -> Tensor<Self, 5> {
        let [_, _, kernel @ ..] = weight.dims();
        conv3d(x, weight, None, ConvOptions::new([1; 3], kernel.map(|side| side / 2), [1; 3], 1))
    }

    /// See [`norm::group_norm_relu`].
    fn normalise(x: Tensor<Self, 5>, scale: Tensor<Self, 1>, shift: Tensor<Self, 1>, groups: usize) -> Tensor<Self, 5> {
        norm::composed(x, scale, shift, groups)
    }

    /// What [`composed`] multiplies with.
    fn multiply(product: Product, x: Tensor<Self, 5>, weight: Tensor<Self, 5>) -> Tensor<Self, 5> {
        product.of(x, weight)
    }

    /// The gradients of its own [`ConvBackend::convolve`], if it has them.
    fn gradients() -> Option<ConvGradients<Self>> {
        None
    }
}

/// The gradients of a convolution, given that of its result: for each term that of its values, and of scale and shift
/// where it is normalised; then of the weight and of the bias. Those of the terms are left out where they are not wanted.
pub type ConvGradients<B> = fn(Image<B>, Tensor<B, 5>, Tensor<B, 5>, Sampling, bool) -> Vec<Option<FloatTensor<B>>>;

/// The step that autodiff records, with what is no tensor of it, or a constant.
#[derive(Debug)]
struct Convolution<B: Backend> {
    sampling: Sampling,
    /// Of each term, if it is normalised.
    norms: Vec<Option<Constants<B>>>,
    gradients: ConvGradients<B>,
}

#[derive(Debug)]
struct Constants<B: Backend> {
    groups: usize,
    keep: Option<Tensor<B, 5>>,
    moments: Option<Arc<Vec<Moments>>>,
}

impl<B: ConvBackend, const N: usize> Backward<B, N> for Convolution<B> {
    /// Values, scale and shift of each term, and the weight.
    type State = Vec<NodeId>;

    fn backward(self, ops: Ops<Self::State, N>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let mut nodes = ops.state.into_iter();
        let mut next = || {
            let node = nodes.next().expect("as many nodes as were recorded");
            checkpointer.retrieve_node_output::<FloatTensor<B>>(node)
        };
        let mut terms = Vec::new();
        for constants in self.norms {
            let values = tensor(next());
            let norm = constants.map(|Constants { groups, keep, moments }| {
                let (scale, shift) = (tensor(next()), tensor(next()));
                Norm { scale, shift, groups, keep, moments }
            });
            terms.push(Term { values, norm });
        }
        let weight = tensor(next());
        let wanted = ops.parents[..N - 2].iter().any(Option::is_some);
        let found = (self.gradients)(Image { terms }, weight, tensor(gradient), self.sampling, wanted);
        for (node, gradient) in ops.parents.into_iter().zip(found) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                gradients.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: ConvBackend, C: CheckpointStrategy> ConvBackend for Autodiff<B, C> {
    fn convolve(
        image: Image<Self>,
        weight: Tensor<Self, 5>,
        bias: Tensor<Self, 1>,
        sampling: Sampling,
    ) -> Convolved<Self> {
        let Some(gradients) = B::gradients() else {
            return Convolved { values: composed::convolve(image, weight, bias, sampling), moments: None };
        };
        let recording = Recording::<B>::of(image, weight, bias, sampling, gradients);
        match recording.tracked.len() {
            3 => recording.record::<C, 3>(),
            4 => recording.record::<C, 4>(),
            5 => recording.record::<C, 5>(),
            6 => recording.record::<C, 6>(),
            8 => recording.record::<C, 8>(),
            count => panic!("a convolution of {count} tensors: an image is one term, or the sum of two"),
        }
    }

    fn normalise(x: Tensor<Self, 5>, scale: Tensor<Self, 1>, shift: Tensor<Self, 1>, groups: usize) -> Tensor<Self, 5> {
        norm::record(x, scale, shift, groups)
    }

    fn multiply(product: Product, x: Tensor<Self, 5>, weight: Tensor<Self, 5>) -> Tensor<Self, 5> {
        pieces::record(product, x, weight)
    }
}

/// A convolution that is about to be recorded.
struct Recording<B: ConvBackend> {
    /// Values, scale and shift of each term, the weight, the bias.
    tracked: Vec<FloatTensor<Autodiff<B>>>,
    /// The same image on the inner backend.
    image: Image<B>,
    weight: Tensor<B, 5>,
    bias: Tensor<B, 1>,
    step: Convolution<B>,
}

impl<B: ConvBackend> Recording<B> {
    fn of<C: CheckpointStrategy>(
        image: Image<Autodiff<B, C>>,
        weight: Tensor<Autodiff<B, C>, 5>,
        bias: Tensor<Autodiff<B, C>, 1>,
        sampling: Sampling,
        gradients: ConvGradients<B>,
    ) -> Self {
        let (mut tracked, mut norms, mut terms) = (Vec::new(), Vec::new(), Vec::new());
        for Term { values, norm } in image.terms {
            let values = track(values, &mut tracked);
            let norm = norm.map(|Norm { scale, shift, groups, keep, moments }| {
                let (scale, shift) = (track(scale, &mut tracked), track(shift, &mut tracked));
                Norm { scale, shift, groups, keep: keep.map(|keep| track(keep, &mut Vec::new())), moments }
            });
            norms.push(norm.as_ref().map(|norm| Constants {
                groups: norm.groups,
                keep: norm.keep.clone(),
                moments: norm.moments.clone(),
            }));
            terms.push(Term { values, norm });
        }
        let (weight, bias) = (track(weight, &mut tracked), track(bias, &mut tracked));
        Self { tracked, image: Image { terms }, weight, bias, step: Convolution { sampling, norms, gradients } }
    }

    fn record<C: CheckpointStrategy, const N: usize>(self) -> Convolved<Autodiff<B, C>> {
        let Self { tracked, image, weight, bias, step } = self;
        let sampling = step.sampling;
        let nodes: [_; N] = std::array::from_fn(|at| tracked[at].node.clone());
        let compute = || {
            let Convolved { values, moments } = B::convolve(image, weight, bias, sampling);
            (primitive(values), moments)
        };
        let (result, moments) = match Backward::<B, N>::prepare::<C>(step, nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut step) => {
                // the gradient does not read the bias
                let state = tracked[..N - 1].iter().map(|tensor| step.checkpoint(tensor)).collect();
                // Values need not be held meanwhile, but nodes must: until the step is recorded, one that no tensor stands for is
                // swept away by any other thread that ends a backward pass, and its gradient with it.
                let named: Vec<Arc<NodeId>> = tracked.into_iter().map(|tensor| tensor.rc).collect();
                let (values, moments) = compute();
                let result = step.finish(state, values);
                drop(named);
                (result, moments)
            }
            OpsKind::UnTracked(step) => {
                let (values, moments) = compute();
                (step.finish(values), moments)
            }
        };
        Convolved { values: tensor(result), moments }
    }
}

/// The tensor on the inner backend; the one that autodiff knows goes into the list.
fn track<B: ConvBackend, C: CheckpointStrategy, const D: usize>(
    differentiated: Tensor<Autodiff<B, C>, D>,
    tracked: &mut Vec<FloatTensor<Autodiff<B>>>,
) -> Tensor<B, D> {
    let known = primitive(differentiated);
    let inner = tensor(known.primitive.clone());
    tracked.push(known);
    inner
}
