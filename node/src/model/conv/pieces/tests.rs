use burn::{
    backend::Flex,
    tensor::{Distribution, module::conv3d, ops::ConvOptions},
};

use super::*;

fn random(shape: [usize; 5]) -> Tensor<Flex, 5> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Default::default())
}

fn assert_close(found: Tensor<Flex, 5>, expected: Tensor<Flex, 5>, what: &str) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let largest = expected.clone().abs().max().into_scalar();
    let apart = (found - expected).abs().max().into_scalar();
    assert!(apart <= 1e-5 * largest, "{what}: {apart} of {largest}");
}

/// However few slices, or samples, are laid out at once.
#[test]
fn a_convolution_in_slabs_is_burns() {
    let (x, weight) = (random([3, 2, 6, 4, 5]), random([4, 2, 3, 3, 3]));
    let expected = conv3d(x.clone(), weight.clone(), None, ConvOptions::new([1; 3], [1; 3], [1; 3], 1));
    let sample = 2 * 27 * 6 * 4 * 5;
    for fits in [1, sample / 6, sample / 2, sample / 6 * 4, sample, 2 * sample, 3 * sample] {
        assert_close(same(x.clone(), weight.clone(), fits), expected.clone(), &format!("{fits} fit"));
    }
    let weight = random([4, 2, 1, 5, 3]);
    let expected = conv3d(x.clone(), weight.clone(), None, ConvOptions::new([1; 3], [0, 2, 1], [1; 3], 1));
    assert_close(same(x, weight, FITS), expected, "another kernel");
}

/// However few voxels a piece of the sum has, and however little is laid out at once.
#[test]
fn the_gradient_of_a_weight_in_pieces_is_the_whole_one() {
    let (x, slope) = (random([3, 2, 6, 4, 5]), random([3, 4, 6, 4, 5]));
    let whole = |kernel| gradient_of_weight(x.clone(), slope.clone(), kernel, (usize::MAX, FITS));
    let sample = 2 * 27 * 6 * 4 * 5;
    for kernel in [[3, 3, 3], [1, 1, 1], [1, 5, 3]] {
        for (piece, fits) in [(1, FITS), (40, FITS), (21, 1), (1, sample / 2), (60, sample), (60, 2 * sample)] {
            let found = gradient_of_weight(x.clone(), slope.clone(), kernel, (piece, fits));
            assert_close(found, whole(kernel), &format!("{kernel:?}, {piece} voxels, {fits} fit"));
        }
    }
    // by its definition, at two places of the kernel
    let found = whole([3, 3, 3]);
    let at =
        |tensor: &Tensor<Flex, 5>, place: [usize; 5]| tensor.clone().slice(place.map(|at| at..at + 1)).into_scalar();
    for (taps, shift) in [([1, 1, 1], [0, 0, 0]), ([0, 1, 2], [-1_isize, 0, 1])] {
        let mut sum = 0.0_f32;
        for place in (0_usize..3 * 6 * 4 * 5).map(|at| [at / 120, at / 20 % 6, at / 5 % 4, at % 5]) {
            let there: [Option<usize>; 3] = std::array::from_fn(|axis| {
                let at = place[axis + 1].checked_add_signed(shift[axis])?;
                (at < [6, 4, 5][axis]).then_some(at)
            });
            if let [Some(d), Some(h), Some(w)] = there {
                sum += at(&slope, [place[0], 3, place[1], place[2], place[3]]) * at(&x, [place[0], 1, d, h, w]);
            }
        }
        let found = at(&found, [3, 1, taps[0], taps[1], taps[2]]);
        assert!((found - sum).abs() < 1e-4, "{found} for {sum}");
    }
}
