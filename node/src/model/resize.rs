//! Trilinear resizing as an operator of a backend.
//!
//! burn interpolates in two dimensions only. A backend that has nothing better inherits three matrix products, one per
//! axis; the CPU has a kernel (`semisam_kernels::resize`). On top of either, [`Autodiff`] records one step, whose gradient
//! is the adjoint map.

use burn::{
    backend::autodiff::{
        Autodiff,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::{Tensor, TensorData, TensorMetadata, TensorPrimitive, backend::Backend, ops::FloatTensor},
};
pub use semisam_kernels::resize::Alignment;
use semisam_kernels::resize::weights;

/// Images in the size `to` [d, h, w].
///
/// # Shapes
/// [batch, channels, d, h, w] -> [batch, channels, to].
pub fn trilinear<B: ResizeBackend>(x: Tensor<B, 5>, to: [usize; 3], alignment: Alignment) -> Tensor<B, 5> {
    Tensor::from_primitive(TensorPrimitive::Float(B::resize(x.into_primitive().tensor(), to, alignment)))
}

/// A backend that resizes images [batch, channels, d, h, w].
pub trait ResizeBackend: Backend {
    /// Images in the size `to`.
    fn resize(x: FloatTensor<Self>, to: [usize; 3], alignment: Alignment) -> FloatTensor<Self> {
        products::<Self>(x, to, alignment)
    }

    /// The gradient with respect to images of the size `from`, from that of the result.
    fn resize_gradient(gradient: FloatTensor<Self>, from: [usize; 3], alignment: Alignment) -> FloatTensor<Self> {
        products_gradient::<Self>(gradient, from, alignment)
    }
}

/// [`ResizeBackend::resize`] by stock operations.
fn products<B: Backend>(x: FloatTensor<B>, to: [usize; 3], alignment: Alignment) -> FloatTensor<B> {
    let from = sides(&x);
    along_axes::<B>(x, |axis, device| matrix(from[axis], to[axis], alignment, device).transpose())
}

/// [`ResizeBackend::resize_gradient`] by stock operations.
fn products_gradient<B: Backend>(gradient: FloatTensor<B>, from: [usize; 3], alignment: Alignment) -> FloatTensor<B> {
    let to = sides(&gradient);
    along_axes::<B>(gradient, |axis, device| matrix(from[axis], to[axis], alignment, device))
}

/// The interpolation matrix of an axis, [to, from].
fn matrix<B: Backend>(from: usize, to: usize, alignment: Alignment, device: &B::Device) -> Tensor<B, 2> {
    Tensor::from_data(TensorData::new(weights(from, to, alignment), [to, from]), device)
}

/// Multiplies the w, h and d axes by matrices [side, new side].
fn along_axes<B: Backend>(x: FloatTensor<B>, matrix: impl Fn(usize, &B::Device) -> Tensor<B, 2>) -> FloatTensor<B> {
    let mut x = Tensor::<B, 5>::from_primitive(TensorPrimitive::Float(x));
    for axis in [2, 1, 0] {
        let matrix = matrix(axis, &x.device());
        let turned = x.swap_dims(2 + axis, 4);
        let ([a, b, c, d, side], [_, new]) = (turned.dims(), matrix.dims());
        x = turned.reshape([a * b * c * d, side]).matmul(matrix).reshape([a, b, c, d, new]).swap_dims(2 + axis, 4);
    }
    x.into_primitive().tensor()
}

fn sides(x: &impl TensorMetadata) -> [usize; 3] {
    let [_, _, d, h, w] = x.shape().dims();
    [d, h, w]
}

/// The step that autodiff records.
#[derive(Debug)]
struct Resized;

impl<B: ResizeBackend> Backward<B, 1> for Resized {
    /// The size before.
    type State = ([usize; 3], Alignment);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let (from, alignment) = ops.state;
        if let [Some(parent)] = ops.parents {
            gradients.register::<B>(parent.id, B::resize_gradient(gradient, from, alignment));
        }
    }
}

impl<B: ResizeBackend, C: CheckpointStrategy> ResizeBackend for Autodiff<B, C> {
    fn resize(x: FloatTensor<Self>, to: [usize; 3], alignment: Alignment) -> FloatTensor<Self> {
        let from = sides(&x.primitive);
        match Backward::<B, 1>::prepare::<C>(Resized, [x.node.clone()]).compute_bound().stateful() {
            OpsKind::Tracked(step) => step.finish((from, alignment), B::resize(x.primitive, to, alignment)),
            OpsKind::UnTracked(step) => step.finish(B::resize(x.primitive, to, alignment)),
        }
    }

    fn resize_gradient(_: FloatTensor<Self>, _: [usize; 3], _: Alignment) -> FloatTensor<Self> {
        panic!("the gradient of a resized image has no gradient of its own: differentiate once only")
    }
}

#[cfg(test)]
mod tests;
