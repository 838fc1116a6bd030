//! Direct convolution 3x3x3 on the CPU: value, and gradients of input, weight and bias.
//!
//! The stock CPU operator rearranges its input into columns, and for the weight's gradient takes the whole output gradient
//! as a kernel; with the few channels of a federated student that costs several times the arithmetic. Here the input is
//! padded once, so that each tap of the kernel is the same plane shifted by a constant, read in one run without a gather
//! (spec/cpu-kernels.md, section 5). Plain Rust that the compiler vectorises. A task is one channel of the result and adds
//! in a fixed order, so the bits do not depend on the number of threads.

use rayon::prelude::*;

/// Taps of a kernel.
const TAPS: usize = 27;

/// Numbers that a partial sum is spread over.
const LANES: usize = 8;

/// Extents of a batch: [batch, channels, d, h, w].
pub type Shape = [usize; 5];

/// `weight` [outputs, channels, 3, 3, 3] over `x`, plus `bias` [outputs].
pub fn convolve(x: &[f32], shape: Shape, weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let [batch, inputs, d, h, w] = shape;
    let (outputs, row, plane) = (bias.len(), w + 2, (h + 2) * (w + 2));
    let padded = pad(x, shape);
    let mut y = vec![0.0; batch * outputs * d * h * w];
    y.par_chunks_mut(d * h * w).enumerate().for_each(|(at, y)| {
        let (sample, output) = (at / outputs, at % outputs);
        // the columns between two rows are computed too, and left behind
        let mut sums = vec![0.0; h * row - 2];
        for z in 0..d {
            sums.fill(bias[output]);
            for input in 0..inputs {
                let taps = &weight[(output * inputs + input) * TAPS..][..TAPS];
                let planes = &padded[((sample * inputs + input) * (d + 2) + z) * plane..][..3 * plane];
                for (taps, plane) in taps.chunks_exact(9).zip(planes.chunks_exact(plane)) {
                    add_taps(&mut sums, plane, row, taps);
                }
            }
            for (y, sums) in y[z * h * w..(z + 1) * h * w].chunks_exact_mut(w).zip(sums.chunks(row)) {
                y.copy_from_slice(&sums[..w]);
            }
        }
    });
    y
}

/// The gradient with respect to the input, from that of the result, of `shape`: the same sum with the kernel turned around.
pub fn input_gradient(gradient: &[f32], shape: Shape, weight: &[f32]) -> Vec<f32> {
    let outputs = shape[1];
    let inputs = weight.len() / (outputs * TAPS);
    let mut turned = vec![0.0; weight.len()];
    for output in 0..outputs {
        for input in 0..inputs {
            for tap in 0..TAPS {
                turned[(input * outputs + output) * TAPS + tap] =
                    weight[(output * inputs + input + 1) * TAPS - 1 - tap];
            }
        }
    }
    convolve(gradient, shape, &turned, &vec![0.0; inputs])
}

/// The gradients with respect to weight and bias, from the input, of `shape`, and the gradient of the result.
pub fn weight_gradient(x: &[f32], shape: Shape, gradient: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let [batch, inputs, d, h, w] = shape;
    let (row, plane, volume) = (w + 2, (h + 2) * (w + 2), d * h * w);
    let outputs = gradient.len() / (batch * volume);
    let padded = pad(x, shape);
    let spread = spread(gradient, h, w);
    let length = h * row - 2;
    let mut weight = vec![0.0; outputs * inputs * TAPS];
    weight.par_chunks_mut(TAPS).enumerate().for_each(|(at, weight)| {
        let (output, input) = (at / inputs, at % inputs);
        let mut sums = [0.0_f64; TAPS];
        for sample in 0..batch {
            for z in 0..d {
                let gradient = &spread[((sample * outputs + output) * d + z) * h * row..][..length];
                let planes = &padded[((sample * inputs + input) * (d + 2) + z) * plane..][..3 * plane];
                for (sums, plane) in sums.chunks_exact_mut(9).zip(planes.chunks_exact(plane)) {
                    for (sums, plane) in sums.chunks_exact_mut(3).zip([plane, &plane[row..], &plane[2 * row..]]) {
                        add_products(sums, gradient, plane);
                    }
                }
            }
        }
        weight.iter_mut().zip(sums).for_each(|(weight, sum)| *weight = sum as f32);
    });
    let bias = |output: usize| {
        let of_sample = |sample: usize| &gradient[(sample * outputs + output) * volume..][..volume];
        (0..batch).flat_map(of_sample).map(|g| f64::from(*g)).sum::<f64>() as f32
    };
    (weight, (0..outputs).map(bias).collect())
}

/// Adds nine taps of a plane to the flattened rows of sums.
fn add_taps(sums: &mut [f32], plane: &[f32], row: usize, taps: &[f32]) {
    let length = sums.len();
    let from = |start: usize| &plane[start..start + length];
    let (a, b, c) = (from(0), from(1), from(2));
    let (d, e, f) = (from(row), from(row + 1), from(row + 2));
    let (g, h, i) = (from(2 * row), from(2 * row + 1), from(2 * row + 2));
    for at in 0..length {
        let first = taps[0] * a[at] + taps[1] * b[at] + taps[2] * c[at];
        let second = taps[3] * d[at] + taps[4] * e[at] + taps[5] * f[at];
        let third = taps[6] * g[at] + taps[7] * h[at] + taps[8] * i[at];
        sums[at] += first + second + third;
    }
}

/// Adds the inner products of a gradient with a row of a plane shifted by nothing, one and two.
fn add_products(sums: &mut [f64], gradient: &[f32], plane: &[f32]) {
    let length = gradient.len();
    let shifted: [&[f32]; 3] = std::array::from_fn(|shift| &plane[shift..shift + length]);
    let [a, b, c] = shifted.map(|values| values.chunks_exact(LANES));
    let chunks = gradient.chunks_exact(LANES);
    let (rest, done) = (chunks.remainder(), length - length % LANES);
    let mut lanes = [[0.0_f32; LANES]; 3];
    for (((g, a), b), c) in chunks.zip(a).zip(b).zip(c) {
        for lane in 0..LANES {
            lanes[0][lane] += g[lane] * a[lane];
            lanes[1][lane] += g[lane] * b[lane];
            lanes[2][lane] += g[lane] * c[lane];
        }
    }
    for ((sum, lanes), values) in sums.iter_mut().zip(lanes).zip(shifted) {
        let rest: f32 = rest.iter().zip(&values[done..]).map(|(g, value)| g * value).sum();
        *sum += f64::from(lanes.iter().sum::<f32>()) + f64::from(rest);
    }
}

/// One voxel of zeros around each volume.
fn pad(x: &[f32], [batch, channels, d, h, w]: Shape) -> Vec<f32> {
    let (row, plane) = (w + 2, (h + 2) * (w + 2));
    let mut padded = vec![0.0; batch * channels * (d + 2) * plane];
    for (x, padded) in x.chunks_exact(d * h * w).zip(padded.chunks_exact_mut((d + 2) * plane)) {
        for (x, padded) in x.chunks_exact(h * w).zip(padded[plane..].chunks_exact_mut(plane)) {
            for (x, padded) in x.chunks_exact(w).zip(padded[row..].chunks_exact_mut(row)) {
                padded[1..=w].copy_from_slice(x);
            }
        }
    }
    padded
}

/// Rows of width `w + 2` that end in zeros, so that what lies between two rows of a padded plane counts for nothing.
fn spread(values: &[f32], h: usize, w: usize) -> Vec<f32> {
    let planes = values.len() / (h * w);
    let mut spread = vec![0.0; planes * h * (w + 2)];
    for (values, spread) in values.chunks_exact(w).zip(spread.chunks_exact_mut(w + 2)) {
        spread[..w].copy_from_slice(values);
    }
    spread
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{generator, normal};
    use proptest::prelude::*;

    /// By definition, in f64.
    fn expected(x: &[f32], [batch, inputs, d, h, w]: Shape, weight: &[f32], bias: &[f32]) -> Vec<f64> {
        let mut y = Vec::new();
        let near = |at: usize, tap: usize, side: usize| (at + tap).checked_sub(1).filter(|at| *at < side);
        for (sample, output) in (0..batch).flat_map(|s| (0..bias.len()).map(move |o| (s, o))) {
            for at in 0..d * h * w {
                let mut sum = f64::from(bias[output]);
                for (input, tap) in (0..inputs).flat_map(|i| (0..TAPS).map(move |t| (i, t))) {
                    let z = near(at / (h * w), tap / 9, d);
                    let (r, c) = (near(at / w % h, tap / 3 % 3, h), near(at % w, tap % 3, w));
                    if let (Some(z), Some(r), Some(c)) = (z, r, c) {
                        let value = x[(((sample * inputs + input) * d + z) * h + r) * w + c];
                        sum += f64::from(value) * f64::from(weight[(output * inputs + input) * TAPS + tap]);
                    }
                }
                y.push(sum);
            }
        }
        y
    }

    fn product(a: &[f32], b: impl IntoIterator<Item = f64>) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * b).sum()
    }

    proptest! {
        /// The map is linear in the input and in the weight, so its gradients are its adjoints: `<g, conv(x)> = <dx, x>`.
        #[test]
        fn values_are_by_definition_and_gradients_are_adjoint(
            batch in 1_usize..3, inputs in 1_usize..4, outputs in 1_usize..4,
            sides in prop::array::uniform3(1_usize..8), seed: u64,
        ) {
            let shape = [batch, inputs, sides[0], sides[1], sides[2]];
            let mut random = generator(seed, "test", &[]);
            let mut draw = |count: usize| -> Vec<f32> { (0..count).map(|_| normal(&mut random)).collect() };
            let volume: usize = sides.iter().product();
            let (x, g) = (draw(batch * inputs * volume), draw(batch * outputs * volume));
            let (weight, bias) = (draw(outputs * inputs * TAPS), draw(outputs));
            let y = expected(&x, shape, &weight, &bias);
            for (found, expected) in convolve(&x, shape, &weight, &bias).iter().zip(&y) {
                prop_assert!((f64::from(*found) - expected).abs() < 1e-4);
            }
            let dx = input_gradient(&g, [batch, outputs, sides[0], sides[1], sides[2]], &weight);
            let (dw, db) = weight_gradient(&x, shape, &g);
            let zeros = vec![0.0; outputs];
            let scale = 1e-4 * (1.0 + (y.len() as f64).sqrt() * (inputs * TAPS) as f64);
            let other = draw(x.len());
            let along_x = product(&g, expected(&other, shape, &weight, &zeros));
            prop_assert!((along_x - product(&dx, other.iter().map(|v| f64::from(*v)))).abs() < scale);
            let other = draw(weight.len());
            let along_w = product(&g, expected(&x, shape, &other, &zeros));
            prop_assert!((along_w - product(&dw, other.iter().map(|v| f64::from(*v)))).abs() < scale);
            let sum: f64 = g.iter().map(|g| f64::from(*g)).sum();
            prop_assert!((sum - db.iter().map(|v| f64::from(*v)).sum::<f64>()).abs() < scale);
        }
    }
}
