use proptest::prelude::*;

use super::*;
use crate::{
    simd::Path,
    source::{Affine, Term},
    testing::{close, draw, on_threads},
};

#[derive(Clone, Debug)]
struct Case {
    conv: Conv,
    /// [batch, inputs, d, h, w]
    shape: [usize; 5],
    outputs: usize,
    seed: u64,
    /// Whether the image is the sum of a plain one and a normalised one.
    sum: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let odd = prop::sample::select(vec![1_usize, 3, 5]);
    let same = (odd.clone(), odd.clone(), odd).prop_map(|(a, b, c)| Conv::same([a, b, c]));
    let strided = (1_usize..4, prop::array::uniform3(0_usize..2), 2_usize..4)
        .prop_map(|(kernel, padding, stride)| Conv { kernel: [kernel; 3], stride, padding });
    let kinds = prop_oneof![same, Just(Conv::same([3; 3])), Just(Conv::halving()), strided];
    let shape = (1_usize..3, 1_usize..7, prop::array::uniform3(3_usize..12));
    let wide = (Just(1), 1_usize..3, (3_usize..5, 3_usize..5, 30_usize..70).prop_map(|(a, b, c)| [a, b, c]));
    let many = (1_usize..3, 7_usize..20, prop::array::uniform3(3_usize..6));
    let shape = prop_oneof![3 => shape, 1 => wide, 1 => many];
    (kinds, shape, 1_usize..20, any::<u64>(), any::<bool>()).prop_map(
        |(conv, (n, c, [d, h, w]), outputs, seed, sum)| Case { conv, shape: [n, c, d, h, w], outputs, seed, sum },
    )
}

/// The numbers that a case reads, and the two terms that they are the sum of.
struct Image {
    plain: Vec<f32>,
    raw: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Image {
    fn of(case: &Case) -> Self {
        let (count, channels) = (case.shape.iter().product(), case.shape[0] * case.shape[1]);
        let number = |which: u64, count| draw(case.seed.wrapping_add(which), count);
        Self { plain: number(0, count), raw: number(1, count), scale: number(2, channels), shift: number(3, channels) }
    }

    fn terms(&self, sum: bool) -> Vec<Term<'_>> {
        let affine = Affine { scale: &self.scale, shift: &self.shift };
        let mut terms = vec![Term { values: &self.plain, affine: None }];
        terms.extend(sum.then_some(Term { values: &self.raw, affine: Some(affine) }));
        terms
    }

    fn values(&self, sum: bool) -> Vec<f64> {
        let of_channel = self.raw.len() / self.scale.len();
        let value = |(at, plain): (usize, &f32)| {
            let (scale, shift) = (f64::from(self.scale[at / of_channel]), f64::from(self.shift[at / of_channel]));
            let other = (scale * f64::from(self.raw[at]) + shift).max(0.0);
            f64::from(*plain) + if sum { other } else { 0.0 }
        };
        self.plain.iter().enumerate().map(value).collect()
    }
}

/// Visits each product of a convolution: places in image, weight and result.
fn products(case: &Case, mut each: impl FnMut(usize, usize, usize)) {
    let [batch, inputs, d, h, w] = case.shape;
    let Conv { kernel: [a, b, c], stride, padding } = case.conv;
    let [od, oh, ow] = case.conv.sides([d, h, w]);
    let reach = |at: usize, tap: usize, axis: usize, side: usize| {
        (at * stride + tap).checked_sub(padding[axis]).filter(|at| *at < side)
    };
    for n in 0..batch {
        for (m, i) in (0..case.outputs).flat_map(|m| (0..inputs).map(move |i| (m, i))) {
            for tap in 0..a * b * c {
                for at in 0..od * oh * ow {
                    let z = reach(at / (oh * ow), tap / (b * c), 0, d);
                    let (y, x) = (reach(at / ow % oh, tap / c % b, 1, h), reach(at % ow, tap % c, 2, w));
                    if let (Some(z), Some(y), Some(x)) = (z, y, x) {
                        let from = (((n * inputs + i) * d + z) * h + y) * w + x;
                        let result = (n * case.outputs + m) * od * oh * ow + at;
                        each(from, (m * inputs + i) * a * b * c + tap, result);
                    }
                }
            }
        }
    }
}

fn fits(case: &Case) -> bool {
    (0..3).all(|axis| case.shape[2 + axis] + 2 * case.conv.padding[axis] >= case.conv.kernel[axis])
}

/// Value and all gradients are those of the definition in f64, on every path.
fn by_definition(case: &Case) -> Result<(), TestCaseError> {
    let image = Image::of(case);
    let (terms, x) = (image.terms(case.sum), image.values(case.sum));
    let source = Source::new(case.shape, &terms);
    let [batch, inputs, d, h, w] = case.shape;
    let weight = draw(case.seed.wrapping_add(4), case.outputs * inputs * case.conv.taps());
    let bias = draw(case.seed.wrapping_add(5), case.outputs);
    let [od, oh, ow] = case.conv.sides([d, h, w]);
    let result = [batch, case.outputs, od, oh, ow];
    let gradient = draw(case.seed.wrapping_add(6), result.iter().product());
    let of_output = |at: usize| at / (od * oh * ow) % case.outputs;
    let mut y: Vec<f64> = (0..gradient.len()).map(|at| f64::from(bias[of_output(at)])).collect();
    let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; weight.len()], vec![0.0; case.outputs]);
    products(case, |from, tap, to| {
        y[to] += x[from] * f64::from(weight[tap]);
        dx[from] += f64::from(gradient[to]) * f64::from(weight[tap]);
        dw[tap] += f64::from(gradient[to]) * x[from];
    });
    gradient.iter().enumerate().for_each(|(at, g)| db[of_output(at)] += f64::from(*g));
    let slope = [Term { values: &gradient, affine: None }];
    let slope = Source::new(result, &slope);
    // of all planes, as in `close`: a plane of a few small numbers is the difference of large ones
    let largest = y.iter().fold(1.0_f64, |largest, y| largest.max(y.abs()));
    for path in Path::ALL.into_iter().filter(|path| path.available()) {
        let found = case.conv.forward_on(path, &source, &weight, &bias);
        prop_assert!(close(&found.values, &y, 1e-5), "value on {path}");
        prop_assert_eq!(found.moments.len(), batch * case.outputs * od);
        for (plane, moments) in y.chunks(oh * ow).zip(&found.moments) {
            let mean = plane.iter().sum::<f64>() / plane.len() as f64;
            let squares: f64 = plane.iter().map(|y| (y - mean).powi(2)).sum();
            prop_assert!((mean - moments.mean).abs() < 1e-5 * largest);
            prop_assert!((squares - moments.squares).abs() < 1e-4 * (largest * largest + squares));
        }
        let zeros = vec![0.0; inputs];
        let found = case.conv.input_gradient_on(path, &slope, &weight, &zeros, [d, h, w]);
        prop_assert!(close(&found, &dx, 1e-5), "input gradient on {path}");
        let (weights, biases) = case.conv.weight_gradient_on(path, &source, &slope);
        // a sum over many places may be the small difference of large parts
        let tolerance = 1e-5 * (gradient.len() as f64 / case.outputs as f64 / 64.0).max(1.0);
        prop_assert!(close(&weights, &dw, tolerance), "weight gradient on {path}");
        prop_assert!(close(&biases, &db, tolerance), "bias gradient on {path}");
    }
    Ok(())
}

/// The bits do not depend on the number of threads.
fn same_bits(case: &Case) -> Result<(), TestCaseError> {
    let image = Image::of(case);
    let terms = image.terms(case.sum);
    let source = Source::new(case.shape, &terms);
    let [batch, inputs, d, h, w] = case.shape;
    let weight = draw(case.seed, case.outputs * inputs * case.conv.taps());
    let (bias, zeros) = (draw(case.seed, case.outputs), vec![0.5; inputs]);
    let [od, oh, ow] = case.conv.sides([d, h, w]);
    let result = [batch, case.outputs, od, oh, ow];
    let gradient = draw(case.seed, result.iter().product());
    let slope = [Term { values: &gradient, affine: None }];
    let slope = Source::new(result, &slope);
    let all = || {
        let value = case.conv.forward(&source, &weight, &bias);
        let dx = case.conv.input_gradient(&slope, &weight, &zeros, [d, h, w]);
        (value, dx, case.conv.weight_gradient(&source, &slope))
    };
    let with = |threads| on_threads(threads, all);
    let one = with(1);
    prop_assert!(one == with(2) && one == with(3));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn values_and_gradients_are_by_definition(case in cases().prop_filter("the kernel fits", fits)) {
        by_definition(&case)?;
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits(case in cases().prop_filter("the kernel fits", fits)) {
        same_bits(&case)?;
    }
}

/// Where there are many weights, they are packed a few at a time, and tasks divide the outputs.
#[test]
fn many_weights_on_few_voxels() {
    for (conv, inputs, outputs) in [(Conv::same([3; 3]), 66, 50), (Conv::halving(), 96, 101)] {
        let case = Case { conv, shape: [2, inputs, 4, 4, 4], outputs, seed: 7, sum: true };
        by_definition(&case).expect("by definition");
        same_bits(&case).expect("the same bits");
    }
}

/// What one call left in working memory must not be seen by the next.
#[test]
fn leftovers_that_are_no_numbers_do_no_harm() {
    let conv = Conv::same([3; 3]);
    let shape = [1, 3, 5, 6, 7];
    let run = |value: f32| {
        let (x, g) = (vec![value; 630], vec![value; 840]);
        let (x, g) = ([Term { values: &x, affine: None }], [Term { values: &g, affine: None }]);
        let (x, g) = (Source::new(shape, &x), Source::new([1, 4, 5, 6, 7], &g));
        let weight = vec![0.25; 324];
        let dx = conv.input_gradient(&g, &weight, &[0.0; 3], [5, 6, 7]);
        (conv.forward(&x, &weight, &[0.0; 4]).values, dx, conv.weight_gradient(&x, &g))
    };
    let clean = run(1.0);
    run(f32::NAN);
    assert_eq!(run(1.0), clean);
}
