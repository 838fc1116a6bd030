//! What a scanner adds: texture of tissues, blur, a bias field and noise.
//!
//! The bias is a sum of Legendre polynomials of order one and two along each axis, so it costs an addition per voxel. Noise
//! is close to Gaussian: the sum of four uniforms (Irwin and Hall) from one word of SplitMix64 (Steele, Lea, Flood, OOPSLA
//! 2014) per voxel, a function of the voxel's number.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::Acquisition;
use super::paint::{Canvas, Look};
use super::smooth::Smooth;
use super::space::Point;
use super::view::Raster;
use crate::data::volume::{Image, LabelMap};

/// No blur is wider than this many voxels: wider ones leave nothing to see.
const WIDEST_BLUR: f64 = 8.0;

/// What the scanner shows of a painted volume.
pub(super) fn acquire(
    acquisition: &Acquisition,
    look: &Look,
    canvas: Canvas,
    raster: &Raster,
    random: &mut ChaCha8Rng,
) -> (Image, LabelMap) {
    let Canvas { mut values, classes, tissues, .. } = canvas;
    let grain = Smooth::draw(raster.shape, raster.spacing, acquisition.grain_mm.draw(random), random);
    if look.textures.iter().any(|strength| *strength > 0.0) {
        roughen(&mut values, &tissues, &look.textures, &grain, raster.shape);
    }
    blur(&mut values, raster.shape, raster.spacing, acquisition.blur_mm.draw(random));
    let bias = Bias::draw(raster.shape, acquisition.bias.draw(random), random);
    let (deviation, key) = (acquisition.noise.draw(random) as f32, random.random::<u64>());
    let [nx, ny, nz] = raster.shape;
    for i in 0..nx {
        for j in 0..ny {
            let (start, factor) = ((i * ny + j) * nz, bias.axes[0][i] + bias.axes[1][j]);
            for (k, value) in values[start..start + nz].iter_mut().enumerate() {
                *value = *value * (factor + bias.axes[2][k]) + deviation * normal(key, (start + k) as u64);
            }
        }
    }
    let affine = raster.grid().affine;
    let image = Image { shape: raster.shape, affine, values };
    (image, LabelMap { shape: raster.shape, affine, values: classes })
}

fn roughen(values: &mut [f32], tissues: &[u16], textures: &[f32], grain: &Smooth, [nx, ny, nz]: [usize; 3]) {
    let mut row = vec![0.0; nz];
    for i in 0..nx {
        for j in 0..ny {
            grain.row(i, j, &mut row);
            let start = (i * ny + j) * nz;
            for ((value, tissue), grain) in values[start..].iter_mut().zip(&tissues[start..]).zip(&row) {
                *value += textures[usize::from(*tissue)] * grain;
            }
        }
    }
}

/// Blurs along each axis by repeated kernels of three, whose variances add up to the one asked for.
fn blur(values: &mut [f32], shape: [usize; 3], spacing: Point, deviation_mm: Point) {
    let [nx, ny, nz] = shape;
    for (axis, (count, inner)) in [(nx, ny * nz), (ny, nz), (nz, 1)].into_iter().enumerate() {
        let variance = (deviation_mm[axis] / spacing[axis]).min(WIDEST_BLUR).powi(2);
        let passes = (variance / 0.5).ceil();
        for _ in 0..passes as usize {
            let beside = (0.5 * variance / passes) as f32;
            values.chunks_exact_mut(count * inner).for_each(|block| blur_block(block, inner, beside));
        }
    }
}

/// One kernel along the first axis of a block [n, inner]; the border repeats.
fn blur_block(block: &mut [f32], inner: usize, beside: f32) {
    if inner == 1 {
        let mut before = block[0];
        for at in 0..block.len() {
            let (here, after) = (block[at], block[(at + 1).min(block.len() - 1)]);
            block[at] = here + beside * (before + after - 2.0 * here);
            before = here;
        }
        return;
    }
    let mut before = block[..inner].to_vec();
    let count = block.len() / inner;
    for at in 0..count {
        let (head, tail) = block.split_at_mut((at + 1) * inner);
        let here = &mut head[at * inner..];
        for (position, (here, before)) in here.iter_mut().zip(&mut before).enumerate() {
            let old = *here;
            let after = tail.get(position).copied().unwrap_or(old);
            *here = old + beside * (*before + after - 2.0 * old);
            *before = old;
        }
    }
}

/// A smooth factor around 1, the sum of a function of each axis.
struct Bias {
    axes: [Vec<f32>; 3],
}

impl Bias {
    fn draw(shape: [usize; 3], strength: f64, random: &mut ChaCha8Rng) -> Self {
        let terms: [[f64; 2]; 3] = std::array::from_fn(|_| std::array::from_fn(|_| random.random_range(-1.0..=1.0)));
        let most: f64 = terms.iter().flatten().map(|term| term.abs()).sum::<f64>().max(1e-9);
        let axes = std::array::from_fn(|axis| {
            let [first, second] = terms[axis];
            let at = |index: usize| {
                let t = (2.0 * index as f64 + 1.0) / shape[axis] as f64 - 1.0;
                let field = (first * t + second * (1.5 * t * t - 0.5)) / most;
                (1.0 / 3.0 + strength * field) as f32
            };
            (0..shape[axis]).map(at).collect()
        });
        Self { axes }
    }
}

/// Close to a standard normal, the same for the same key and number.
#[inline]
fn normal(key: u64, number: u64) -> f32 {
    let mut word = key.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^= word >> 31;
    let sum = (word & 0xffff) + (word >> 16 & 0xffff) + (word >> 32 & 0xffff) + (word >> 48);
    // Four uniforms on 0..65536: mean 4 * 65535 / 2, variance 4 * 65536^2 / 12.
    (sum as f32 - 131_070.0) * (1.0 / 37_837.227)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(values: impl Iterator<Item = f32> + Clone) -> (f64, f64) {
        let count = values.clone().count() as f64;
        let mean = values.clone().map(f64::from).sum::<f64>() / count;
        (mean, values.map(|value| (f64::from(value) - mean).powi(2)).sum::<f64>() / count)
    }

    #[test]
    fn noise_has_mean_zero_and_variance_one_and_no_memory() {
        let draws: Vec<f32> = (0..100_000).map(|number| normal(7, number)).collect();
        let (mean, variance) = moments(draws.iter().copied());
        assert!(mean.abs() < 0.015 && (variance - 1.0).abs() < 0.015, "{mean} {variance}");
        let beside = draws.windows(2).map(|pair| f64::from(pair[0] * pair[1])).sum::<f64>() / 1e5;
        assert!(beside.abs() < 0.015, "{beside}");
        assert_ne!(normal(7, 3), normal(8, 3));
    }

    #[test]
    fn a_blur_spreads_a_point_by_its_deviation_and_keeps_the_sum() {
        let shape = [31, 33, 35];
        let mut values = vec![0.0; 31 * 33 * 35];
        values[(15 * 33 + 16) * 35 + 17] = 1.0;
        blur(&mut values, shape, [1.0, 2.0, 1.0], [1.6, 2.0, 0.5]);
        let mut spread = [0.0; 3];
        for (at, value) in values.iter().enumerate() {
            let place = [at / 35 / 33, at / 35 % 33, at % 35].map(|index| index as f64);
            for axis in 0..3 {
                spread[axis] += f64::from(*value) * (place[axis] - [15.0, 16.0, 17.0][axis]).powi(2);
            }
        }
        assert!((values.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        for (found, expected) in spread.into_iter().zip([2.56, 1.0, 0.25]) {
            assert!((found / expected - 1.0).abs() < 1e-3, "{found} {expected}");
        }
    }

    #[test]
    fn a_bias_stays_within_its_strength() {
        use rand::SeedableRng;
        for seed in 0..50 {
            let bias = Bias::draw([9, 8, 7], 0.3, &mut ChaCha8Rng::seed_from_u64(seed));
            let (low, high) = bias.axes.iter().fold((0.0, 0.0), |(low, high), axis| {
                (
                    low + axis.iter().copied().fold(f32::MAX, f32::min),
                    high + axis.iter().copied().fold(f32::MIN, f32::max),
                )
            });
            assert!(low > 0.699 && high < 1.301 && low < high, "{low} {high}");
        }
    }
}
