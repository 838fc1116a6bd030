use burn::{
    backend::{Autodiff, Flex},
    tensor::{TensorData, Tolerance},
};
use proptest::prelude::*;

use super::*;
use crate::train::{generator, normal};

/// Numbers that are often equal, so that many a block has several maxima.
fn draw<B: Backend>(shape: [usize; 5], seed: u64) -> Tensor<B, 5> {
    let mut random = generator(seed, "test", &[]);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| (2.0 * normal(&mut random)).round()).collect();
    Tensor::from_data(TensorData::new(values, shape), &Default::default())
}

fn bare(x: &Tensor<Flex, 5>) -> FloatTensor<Flex> {
    x.clone().into_primitive().tensor()
}

fn same(found: FloatTensor<Flex>, expected: FloatTensor<Flex>) {
    let [found, expected] = [found, expected].map(|x| Tensor::<Flex, 5>::from_primitive(TensorPrimitive::Float(x)));
    found.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-6));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn kernels_and_stock_operations_agree(
        sides in prop::array::uniform3(1_usize..9), wish in prop::array::uniform3(1_usize..4), seed: u64,
    ) {
        let kernel: [usize; 3] = std::array::from_fn(|axis| wish[axis].min(sides[axis]));
        let blocks: [usize; 3] = std::array::from_fn(|axis| sides[axis] / kernel[axis]);
        let shape = [2, 3, sides[0], sides[1], sides[2]];
        let (x, g) = (draw(shape, seed), draw([2, 3, blocks[0], blocks[1], blocks[2]], seed ^ 1));
        let (x, g) = (|| bare(&x), || bare(&g));
        same(Flex::max_pool(x(), kernel), composed::max_pool::<Flex>(x(), kernel));
        same(Flex::mean_pool(x(), kernel), composed::mean_pool::<Flex>(x(), kernel));
        same(Flex::max_pool_gradient(x(), kernel, g()), composed::max_pool_gradient::<Flex>(x(), kernel, g()));
        same(Flex::mean_pool_gradient(g(), kernel, shape), composed::mean_pool_gradient::<Flex>(g(), kernel, shape));
    }
}

/// What autodiff makes of the recorded step is what it makes of the stock operations one by one.
#[test]
fn the_recorded_gradient_is_that_of_the_stock_operations() {
    let (shape, kernel) = ([2, 3, 5, 4, 7], [2, 2, 3]);
    let mut random = generator(5, "test", &[]);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| normal(&mut random)).collect();
    let x = || Tensor::<Autodiff<Flex>, 5>::from_data(TensorData::new(values.clone(), shape), &Default::default());
    let g = || draw::<Autodiff<Flex>>([2, 3, 2, 2, 2], 6);
    let gradient = |f: &dyn Fn(Tensor<Autodiff<Flex>, 5>) -> Tensor<Autodiff<Flex>, 5>| {
        let x = x().require_grad();
        x.grad(&(f(x.clone()) * g()).sum().backward()).expect("x is tracked").into_primitive().tensor()
    };
    let wrapped = |x| Tensor::from_primitive(TensorPrimitive::Float(x));
    let of_max = gradient(&|x| wrapped(composed::max_pool::<Autodiff<Flex>>(x.into_primitive().tensor(), kernel)));
    let of_mean = gradient(&|x| wrapped(composed::mean_pool::<Autodiff<Flex>>(x.into_primitive().tensor(), kernel)));
    same(gradient(&|x| max(x, kernel)), of_max);
    same(gradient(&|x| mean(x, kernel)), of_mean);
}

#[test]
#[should_panic(expected = "differentiate once only")]
fn a_second_gradient_is_refused() {
    let x = draw::<Autodiff<Autodiff<Flex>>>([1, 1, 4, 4, 4], 7).require_grad();
    let _ = mean(x, [2; 3]).sum().backward();
}
