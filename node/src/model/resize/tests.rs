use burn::{
    backend::{Autodiff, Flex},
    tensor::Tolerance,
};
use proptest::prelude::*;

use super::*;
use crate::train::{generator, normal};

fn draw<B: Backend>([d, h, w]: [usize; 3], seed: u64) -> Tensor<B, 5> {
    let mut random = generator(seed, "test", &[]);
    let values: Vec<f32> = (0..6 * d * h * w).map(|_| normal(&mut random)).collect();
    Tensor::from_data(TensorData::new(values, [2, 3, d, h, w]), &Default::default())
}

/// To the rounding of sums of up to 8 x 8 x 8 normal numbers, made in different orders.
fn same(found: FloatTensor<Flex>, expected: FloatTensor<Flex>) {
    let [found, expected] = [found, expected].map(|x| Tensor::<Flex, 5>::from_primitive(TensorPrimitive::Float(x)));
    found.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-4));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn kernels_and_stock_operations_agree(
        from in prop::array::uniform3(1_usize..9), to in prop::array::uniform3(1_usize..9), centres: bool, seed: u64,
    ) {
        let alignment = if centres { Alignment::Centres } else { Alignment::Faces };
        let [x, g] = [(from, seed), (to, seed ^ 1)].map(|(sides, seed)| draw::<Flex>(sides, seed));
        let [x, g] = [x, g].map(|x| move || x.clone().into_primitive().tensor());
        same(Flex::resize(x(), to, alignment), products::<Flex>(x(), to, alignment));
        same(Flex::resize_gradient(g(), from, alignment), products_gradient::<Flex>(g(), from, alignment));
    }
}

/// What autodiff makes of the recorded step is what it makes of the matrix products one by one.
#[test]
fn the_recorded_gradient_is_that_of_the_stock_operations() {
    let (from, to) = ([5, 4, 7], [3, 9, 7]);
    let gradient = |f: &dyn Fn(FloatTensor<Autodiff<Flex>>) -> FloatTensor<Autodiff<Flex>>| {
        let x = draw::<Autodiff<Flex>>(from, 5).require_grad();
        let y =
            Tensor::<Autodiff<Flex>, 5>::from_primitive(TensorPrimitive::Float(f(x.clone().into_primitive().tensor())));
        x.grad(&(y * draw(to, 6)).sum().backward()).expect("x is tracked").into_primitive().tensor()
    };
    for alignment in [Alignment::Faces, Alignment::Centres] {
        let recorded = gradient(&|x| Autodiff::<Flex>::resize(x, to, alignment));
        same(recorded, gradient(&|x| products::<Autodiff<Flex>>(x, to, alignment)));
    }
}

#[test]
#[should_panic(expected = "differentiate once only")]
fn a_second_gradient_is_refused() {
    let x = draw::<Autodiff<Autodiff<Flex>>>([2; 3], 7).require_grad();
    let _ = trilinear(x, [3; 3], Alignment::Faces).sum().backward();
}
