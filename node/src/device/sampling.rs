//! Pooling and resizing on the CPU, with own kernels.

use burn::backend::Flex;
use burn_flex::FlexTensor;
use semisam_kernels::{pool::Pool, resize::Resize};

use super::{tensor, values};
use crate::model::{
    pool::PoolBackend,
    resize::{Alignment, ResizeBackend},
};

impl PoolBackend for Flex {
    fn max_pool(x: FlexTensor, kernel: [usize; 3]) -> FlexTensor {
        let (x, shape) = contiguous(&x);
        let pool = Pool::new(shape, kernel);
        tensor(pool.max(values(&x)), &image(shape, pool.blocks()))
    }

    fn max_pool_gradient(x: FlexTensor, kernel: [usize; 3], gradient: FlexTensor) -> FlexTensor {
        let ((x, shape), (gradient, _)) = (contiguous(&x), contiguous(&gradient));
        tensor(Pool::new(shape, kernel).max_gradient(values(&x), values(&gradient)), &shape)
    }

    fn mean_pool(x: FlexTensor, kernel: [usize; 3]) -> FlexTensor {
        let (x, shape) = contiguous(&x);
        let pool = Pool::new(shape, kernel);
        tensor(pool.mean(values(&x)), &image(shape, pool.blocks()))
    }

    fn mean_pool_gradient(gradient: FlexTensor, kernel: [usize; 3], shape: [usize; 5]) -> FlexTensor {
        let (gradient, _) = contiguous(&gradient);
        tensor(Pool::new(shape, kernel).mean_gradient(values(&gradient)), &shape)
    }
}

impl ResizeBackend for Flex {
    fn resize(x: FlexTensor, to: [usize; 3], alignment: Alignment) -> FlexTensor {
        let (x, shape) = contiguous(&x);
        let [_, _, d, h, w] = shape;
        tensor(Resize::new([d, h, w], to, alignment).apply(values(&x)), &image(shape, to))
    }

    fn resize_gradient(gradient: FlexTensor, from: [usize; 3], alignment: Alignment) -> FlexTensor {
        let (gradient, shape) = contiguous(&gradient);
        let [_, _, d, h, w] = shape;
        tensor(Resize::new(from, [d, h, w], alignment).gradient(values(&gradient)), &image(shape, from))
    }
}

fn contiguous(x: &FlexTensor) -> (FlexTensor, [usize; 5]) {
    let x = x.to_contiguous();
    let shape = x.layout().shape().dims::<5>();
    (x, shape)
}

fn image([batch, channels, ..]: [usize; 5], [d, h, w]: [usize; 3]) -> [usize; 5] {
    [batch, channels, d, h, w]
}
