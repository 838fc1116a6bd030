use proptest::prelude::*;

use super::*;
use crate::testing::{draw, on_threads};

fn paths() -> impl Iterator<Item = Path> {
    Path::ALL.into_iter().filter(|path| path.available())
}

/// The voxels of each block, in their order, as places in the image.
fn blocks(pool: Pool) -> Vec<Vec<usize>> {
    let ([d, h, w], [kd, kh, kw], [od, oh, ow]) = (pool.image, pool.kernel, pool.blocks());
    let mut found = Vec::new();
    for (plane, at) in (0..pool.planes).flat_map(|plane| (0..od * oh * ow).map(move |at| (plane, at))) {
        let corner = [at / (oh * ow) * kd, at / ow % oh * kh, at % ow * kw];
        let place = |tap: usize| {
            let (z, y, x) = (corner[0] + tap / (kh * kw), corner[1] + tap / kw % kh, corner[2] + tap % kw);
            ((plane * d + z) * h + y) * w + x
        };
        found.push((0..kd * kh * kw).map(place).collect());
    }
    found
}

fn first_maximum(x: &[f32], block: &[usize]) -> usize {
    block.iter().copied().reduce(|best, at| if x[at] > x[best] { at } else { best }).expect("a block has voxels")
}

proptest! {
    #[test]
    fn values_and_gradients_are_by_definition(
        batch in 1_usize..3, channels in 1_usize..3, sides in prop::array::uniform3(1_usize..=19),
        wish in prop::array::uniform3(1_usize..5), coarse: bool, seed: u64,
    ) {
        let kernel = std::array::from_fn(|axis| wish[axis].min(sides[axis]));
        let pool = Pool::new([batch, channels, sides[0], sides[1], sides[2]], kernel);
        let mut x = draw(seed, batch * channels * sides.iter().product::<usize>());
        if coarse {
            x.iter_mut().for_each(|x| *x = x.round()); // many a block then has several maxima
        }
        let (blocks, count) = (blocks(pool), kernel.iter().product::<usize>() as f64);
        let g = draw(seed ^ 1, blocks.len());
        let (mut of_max, mut of_mean) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        for (block, g) in blocks.iter().zip(&g) {
            of_max[first_maximum(&x, block)] = *g;
            block.iter().for_each(|at| of_mean[*at] = f64::from(*g) / count);
        }
        for path in paths() {
            let (max, mean) = (pool.reduce(&x, Statistic::Max, path), pool.reduce(&x, Statistic::Mean, path));
            prop_assert_eq!(max.len(), blocks.len());
            for ((block, max), mean) in blocks.iter().zip(max).zip(mean) {
                prop_assert_eq!(max, x[first_maximum(&x, block)]);
                let expected = block.iter().map(|at| f64::from(x[*at])).sum::<f64>() / count;
                prop_assert!((f64::from(mean) - expected).abs() < 1e-6, "{} for {}", mean, expected);
            }
            prop_assert_eq!(&pool.spread(Some(&x), &g, path), &of_max);
            for (found, expected) in pool.spread(None, &g, path).iter().zip(&of_mean) {
                prop_assert!((f64::from(*found) - expected).abs() < 1e-6);
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let (pool, x) = (Pool::new([2, 3, 9, 8, 7], [2; 3]), draw(1, 2 * 3 * 9 * 8 * 7));
    let all = || {
        let g = pool.mean(&x);
        [pool.max(&x), pool.max_gradient(&x, &g), pool.mean_gradient(&g), g]
    };
    let alone = on_threads(1, all);
    assert!([2, 3].into_iter().all(|threads| on_threads(threads, all) == alone));
}

#[test]
fn what_is_not_a_number_is_the_maximum() {
    let pool = Pool::new([1, 1, 1, 1, 6], [1, 1, 3]);
    let x = [1.0, f32::NAN, 5.0, f32::NEG_INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY];
    for path in paths() {
        let y = pool.reduce(&x, Statistic::Max, path);
        assert!(y[0].is_nan() && y[1] == f32::NEG_INFINITY);
        assert_eq!(pool.spread(Some(&x), &[2.0, 3.0], path), [0.0, 2.0, 0.0, 3.0, 0.0, 0.0]);
    }
}

#[test]
#[should_panic(expected = "do not fit into an image of [4, 1, 4]")]
fn a_kernel_larger_than_the_image_is_refused() {
    Pool::new([1, 1, 4, 1, 4], [2; 3]);
}
