use proptest::prelude::*;

use super::*;
use crate::testing::{close, draw, on_threads};

const EPSILON: f64 = 1e-5;

#[derive(Clone, Debug)]
struct Case {
    shape: [usize; 5],
    groups: usize,
    seed: u64,
    dropout: bool,
}

/// Groups of at least 16 numbers: those of a few may all be nearly equal, and what is left of them after the mean is rounding.
fn cases() -> impl Strategy<Value = Case> {
    let sides = prop_oneof![3 => prop::array::uniform3(1_usize..9), 1 => Just([2, 17, 33])];
    (1_usize..3, 1_usize..4, 1_usize..4, sides, any::<u64>(), any::<bool>())
        .prop_map(|(batch, groups, members, [d, h, w], seed, dropout)| Case {
            shape: [batch, groups * members, d, h, w],
            groups,
            seed,
            dropout,
        })
        .prop_filter("a group has numbers enough", |case| {
            let [_, channels, d, h, w] = case.shape;
            channels / case.groups * d * h * w >= 16
        })
}

/// What a case is made of.
struct Numbers {
    z: Vec<f32>,
    gradient: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
    keep: Option<Vec<f32>>,
}

impl Numbers {
    fn of(case: &Case) -> Self {
        let [batch, channels, ..] = case.shape;
        let number = |which: u64, count| draw(case.seed.wrapping_add(which), count);
        let count = case.shape.iter().product();
        // far from zero, as a convolution's bias may put it
        let z = number(0, count).into_iter().map(|z| 3.0 * z + 2.0).collect();
        let keep = number(4, batch * channels).into_iter().map(|keep| if keep > 0.0 { 2.0 } else { 0.0 }).collect();
        Self {
            z,
            gradient: number(1, count),
            scale: number(2, channels),
            shift: number(3, channels),
            keep: case.dropout.then_some(keep),
        }
    }

    fn norm(&self, case: &Case) -> GroupNorm<'_> {
        let Self { scale, shift, keep, .. } = self;
        let keep = keep.as_deref();
        GroupNorm { shape: case.shape, groups: case.groups, epsilon: EPSILON, scale, shift, keep }
    }
}

/// In f64, of `keep · relu(norm(z))`: its value before the ReLU, and the gradients of `z`, scale and shift.
fn definition(case: &Case, numbers: &Numbers) -> [Vec<f64>; 4] {
    let [batch, channels, d, h, w] = case.shape;
    let (voxels, members) = (d * h * w, channels / case.groups);
    let keep = |at: usize| numbers.keep.as_ref().map_or(1.0, |keep| f64::from(keep[at]));
    let (mut value, mut of_z) = (vec![0.0; numbers.z.len()], vec![0.0; numbers.z.len()]);
    let (mut of_scale, mut of_shift) = (vec![0.0; channels], vec![0.0; channels]);
    for group in 0..batch * case.groups {
        let range = group * members * voxels..(group + 1) * members * voxels;
        let count = range.len() as f64;
        let z = |at: usize| f64::from(numbers.z[at]);
        let mean = range.clone().map(z).sum::<f64>() / count;
        let variance = range.clone().map(|at| (z(at) - mean).powi(2)).sum::<f64>() / count;
        let inverse = (variance + EPSILON).sqrt().recip();
        let normal = |at: usize| (z(at) - mean) * inverse;
        let channel = |at: usize| at / voxels % channels;
        // the gradient of the normalised number
        let mut slope = vec![0.0; range.len()];
        for at in range.clone() {
            let [scale, shift] = [&numbers.scale, &numbers.shift].map(|of| f64::from(of[channel(at)]));
            value[at] = scale * normal(at) + shift;
            let through = if value[at] > 0.0 { keep(at / voxels) * f64::from(numbers.gradient[at]) } else { 0.0 };
            of_scale[channel(at)] += through * normal(at);
            of_shift[channel(at)] += through;
            slope[at - range.start] = through * scale;
        }
        let first = slope.iter().sum::<f64>() / count;
        let second = range.clone().map(|at| slope[at - range.start] * normal(at)).sum::<f64>() / count;
        for at in range.clone() {
            of_z[at] = inverse * (slope[at - range.start] - first - normal(at) * second);
        }
    }
    [value, of_z, of_scale, of_shift]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn statistics_and_gradients_are_by_definition(case in cases()) {
        let numbers = Numbers::of(&case);
        let [value, of_z, of_scale, of_shift] = definition(&case, &numbers);
        // a number on the edge of the ReLU may fall on either side of it
        prop_assume!(value.iter().all(|value| value.abs() > 1e-4));
        let [.., h, w] = case.shape;
        let voxels: usize = case.shape[2..].iter().product();
        // a sum over many places may be the small difference of large parts
        let of_sums = 2e-5 * (case.shape[0] * voxels) as f64 / 64.0;
        for path in Path::ALL.into_iter().filter(|path| path.available()) {
            let norm = numbers.norm(&case);
            let statistics = norm.statistics(&moments(path, &numbers.z, h * w));
            let (scale, shift) = norm.affine(&statistics);
            let kept = |at: usize| numbers.keep.as_ref().map_or(1.0, |keep| keep[at / voxels]);
            let found: Vec<f32> =
                numbers.z.iter().enumerate().map(|(at, z)| scale[at / voxels] * z + shift[at / voxels]).collect();
            let expected: Vec<f64> = value.iter().enumerate().map(|(at, value)| value * f64::from(kept(at))).collect();
            prop_assert!(close(&found, &expected, 2e-5), "value on {path}");
            let mut gradient = numbers.gradient.clone();
            let of_parameters = norm.gradients_on(path, &numbers.z, &statistics, &mut gradient);
            prop_assert!(close(&gradient, &of_z, 2e-5), "gradient of the input on {path}");
            prop_assert!(close(&of_parameters.scale, &of_scale, of_sums.max(2e-5)), "gradient of the scale on {path}");
            prop_assert!(close(&of_parameters.shift, &of_shift, of_sums.max(2e-5)), "gradient of the shift on {path}");
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit(case in cases()) {
        let numbers = Numbers::of(&case);
        let all = || {
            let norm = numbers.norm(&case);
            let statistics = norm.statistics(&moments_of_planes(&numbers.z, case.shape[3] * case.shape[4]));
            let mut gradient = numbers.gradient.clone();
            let of_parameters = norm.gradients(&numbers.z, &statistics, &mut gradient);
            (norm.affine(&statistics), gradient, of_parameters)
        };
        let one = on_threads(1, all);
        prop_assert!(one == on_threads(2, all) && one == on_threads(3, all));
    }
}
