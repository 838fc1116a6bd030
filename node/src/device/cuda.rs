//! What CUDA does in another way than with stock operations, and what it does with these.
//!
//! Burn could try the kernels that it has for each product and size, and keep the fastest. That took ten seconds for each of some
//! dozen sizes on every machine where nothing was kept from before; so it is switched off, and what it may choose is named here
//! (ARCHITECTURE.md).

use burn::{
    backend::{Autodiff, Cuda},
    tensor::{Tensor, TensorPrimitive, ops::ConvOptions},
};
use burn_cubecl::kernel::conv::{ConvStrategy, conv_forward};

use super::{Placement, TrainBackend};
use crate::model::{
    conv::{operator::ConvBackend, pieces},
    pool::PoolBackend,
    resize::ResizeBackend,
    sam::operator::TransformerBackend,
};

impl TrainBackend for Autodiff<Cuda> {
    const PER_SAMPLE: bool = false;
    const PLACEMENT: Placement = Placement::Resident;
}

impl ConvBackend for Cuda {
    /// On tensor cores, where the device has them.
    fn same(x: Tensor<Self, 5>, weight: Tensor<Self, 5>) -> Tensor<Self, 5> {
        let [_, _, kernel @ ..] = weight.dims();
        let options = ConvOptions::new([1; 3], kernel.map(|side| side / 2), [1; 3], 1);
        let [image, kernels] = [&x, &weight].map(|tensor| tensor.clone().into_primitive().tensor());
        match conv_forward(image, kernels, None, options, ConvStrategy::ImplicitGemm) {
            Ok(y) => Tensor::from_primitive(TensorPrimitive::Float(y)),
            Err(_) => pieces::same(x, weight, pieces::FITS),
        }
    }
}

impl PoolBackend for Cuda {}

impl ResizeBackend for Cuda {}

impl TransformerBackend for Cuda {}
