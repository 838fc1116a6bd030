use burn::{
    backend::{Autodiff, Flex},
    tensor::{Distribution, Tensor},
};

use super::{Convolved, Image, composed, convolve};
use crate::model::layout::Sampling;

type Tracked = Autodiff<Flex>;

/// Sums of some hundred products that nearly cancel are this far apart when they are made in another order.
const TOLERANCE: f32 = 3e-4;

/// Raw results, scales and shifts of two terms, then weight and bias.
struct Leaves {
    raw: [Tensor<Tracked, 5>; 2],
    norms: [Tensor<Tracked, 1>; 4],
    keep: Tensor<Tracked, 5>,
    weight: Tensor<Tracked, 5>,
    bias: Tensor<Tracked, 1>,
}

impl Leaves {
    fn new(channels: usize, outputs: usize, sampling: Sampling, kernel: usize) -> Self {
        let device = Default::default();
        let drawn = || Distribution::Normal(0.3, 1.0);
        let raw = || Tensor::random([2, channels, 6, 4, 10], drawn(), &device).require_grad();
        let vector = |count| Tensor::random([count], drawn(), &device).require_grad();
        let keep: Vec<f32> = (0..2 * channels).map(|at| if at % 3 == 0 { 0.0 } else { 2.0 }).collect();
        let weight = if sampling == Sampling::Up { [channels, outputs] } else { [outputs, channels] };
        Self {
            raw: [raw(), raw()],
            norms: [vector(channels), vector(channels), vector(channels), vector(channels)],
            keep: Tensor::<Tracked, 1>::from_floats(keep.as_slice(), &device).reshape([2, channels, 1, 1, 1]),
            weight: Tensor::random([weight[0], weight[1], kernel, kernel, kernel], drawn(), &device).require_grad(),
            bias: vector(outputs),
        }
    }

    /// The sum of both terms, the first of them silenced in places; or the first alone; or its raw values.
    fn image(&self, terms: usize) -> Image<Tracked> {
        let term = |at: usize| {
            let raw = Convolved { values: self.raw[at].clone(), moments: None };
            Image::normalised(raw, self.norms[2 * at].clone(), self.norms[2 * at + 1].clone(), 2)
        };
        match terms {
            0 => Image::plain(self.raw[0].clone()),
            1 => term(0).silenced(self.keep.clone()),
            _ => term(0).silenced(self.keep.clone()).plus(term(1)),
        }
    }

    /// The gradients of a sum that weighs each result differently.
    fn gradients(&self, result: Tensor<Tracked, 5>) -> Vec<Vec<f32>> {
        let device = Default::default();
        let count = result.dims().iter().product::<usize>();
        let slope = Tensor::<Tracked, 1, burn::tensor::Int>::arange(0..count as i64, &device).float().sin();
        let gradients = (result.clone() * slope.reshape(result.dims())).sum().backward();
        let of_five = [&self.raw[0], &self.raw[1], &self.weight].map(|leaf| leaf.grad(&gradients).map(values));
        let of_one = self.norms.iter().chain([&self.bias]).map(|leaf| leaf.grad(&gradients).map(values));
        of_five.into_iter().chain(of_one).map(Option::unwrap_or_default).collect()
    }
}

fn values<const D: usize>(tensor: Tensor<Flex, D>) -> Vec<f32> {
    tensor.into_data().into_vec().expect("f32")
}

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    let largest = expected.iter().fold(1.0_f32, |largest, value| largest.max(value.abs()));
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= TOLERANCE * largest, "{what}: {worst} of {largest}");
}

/// The fused operation and its gradients are those of burn's own operations, one after another.
#[test]
fn fused_and_composed_agree_in_value_and_all_gradients() {
    for (sampling, kernel) in [(Sampling::Same, 3), (Sampling::Same, 1), (Sampling::Down, 2), (Sampling::Up, 2)] {
        for (channels, outputs) in [(2, 3), (4, 10)] {
            let leaves = Leaves::new(channels, outputs, sampling, kernel);
            for terms in 0..3 {
                let (weight, bias) = (|| leaves.weight.clone(), || leaves.bias.clone());
                // one after the other, because a backward pass clears what hangs on the same leaves
                let fused = convolve(leaves.image(terms), weight(), bias(), sampling).values;
                let (value, of_fused) = (values(fused.clone().inner()), leaves.gradients(fused));
                let composed = composed::convolve(leaves.image(terms), weight(), bias(), sampling);
                let what = format!("{sampling:?} {kernel} {channels} to {outputs}, {terms} terms");
                assert_close(&value, &values(composed.clone().inner()), &what);
                let pairs = of_fused.into_iter().zip(leaves.gradients(composed));
                for (number, (fused, composed)) in pairs.enumerate() {
                    assert_close(&fused, &composed, &format!("{what}, gradient {number}"));
                }
            }
        }
    }
}

/// The moments that a convolution gathers are those that the next one would compute.
#[test]
fn gathered_moments_change_nothing() {
    let leaves = Leaves::new(4, 6, Sampling::Same, 3);
    let raw = convolve(leaves.image(2), leaves.weight.clone(), leaves.bias.clone(), Sampling::Same);
    assert!(raw.moments.is_some());
    let unknown = Convolved { values: raw.values.clone(), moments: None };
    let next = |raw| {
        let norm = |at: usize| leaves.norms[at].clone().narrow(0, 0, 3).repeat_dim(0, 2);
        let device = Default::default();
        let weight = Tensor::<Tracked, 1>::from_floats([0.5_f32; 18].as_slice(), &device).reshape([3, 6, 1, 1, 1]);
        let image = Image::normalised(raw, norm(0), norm(1), 3);
        values(convolve(image, weight, norm(2).narrow(0, 0, 3), Sampling::Same).values.inner())
    };
    assert_eq!(next(raw), next(unknown));
}

/// Nodes that no tensor stood for while a convolution was computed were swept away by threads that ended a backward pass,
/// and a weight that is used twice lost half of its gradient.
#[test]
fn gradients_are_whole_while_another_thread_ends_backward_passes() {
    let device = Default::default();
    let gradient = || {
        let vector = |count: usize| Tensor::<Tracked, 1>::full([count], 0.1, &device).require_grad();
        let (weight, norm, bias) = (vector(4 * 4 * 27), [vector(4), vector(4)], vector(4));
        let layer = |image| {
            let raw = convolve(image, weight.clone().reshape([4, 4, 3, 3, 3]), bias.clone(), Sampling::Same);
            Image::normalised(raw, norm[0].clone(), norm[1].clone(), 2)
        };
        let first = layer(Image::plain(Tensor::full([1, 4, 8, 8, 8], 0.3, &device)));
        let last = layer(layer(first.clone()).plus(first));
        let out = convolve(last, weight.clone().reshape([4, 4, 3, 3, 3]), bias.clone(), Sampling::Same).values;
        let gradients = (out.clone() * out).sum().backward();
        values(weight.grad(&gradients).expect("a weight that was used"))
    };
    let (expected, over) = (gradient(), std::sync::atomic::AtomicBool::new(false));
    let found: Vec<_> = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let leaf = Tensor::<Tracked, 1>::ones([1], &device).require_grad();
                drop((leaf.clone() * leaf).backward());
            }
        });
        let found = (0..100).map(|_| gradient()).collect();
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        found
    });
    assert!(found.iter().all(|found| *found == expected), "a gradient is not whole");
}
