//! Convolutions on the CPU, with own kernels for value and gradients.

use std::sync::Arc;

use burn::{
    backend::Flex,
    tensor::{Tensor, TensorPrimitive},
};
use burn_flex::FlexTensor;
use semisam_kernels::{
    conv::Conv,
    norm::{GroupNorm, Moments, Statistics, moments_of_planes},
    source::{Affine, Source, Term},
};

use super::{tensor, values};
use crate::model::{
    conv::{
        self, Convolved, Image,
        operator::{ConvBackend, ConvGradients},
    },
    layout::Sampling,
    norm::EPSILON,
};

impl ConvBackend for Flex {
    fn convolve(
        image: Image<Self>,
        weight: Tensor<Self, 5>,
        bias: Tensor<Self, 1>,
        sampling: Sampling,
    ) -> Convolved<Self> {
        let input = Input::of(image);
        let ([.., kd, kh, kw], [weight, bias]) = (weight.dims(), [held(weight), held(bias)]);
        let (weight, bias) = (values(&weight), values(&bias));
        let [batch, _, sides @ ..] = input.shape;
        let (found, moments, sides) = input.read(|x| match sampling {
            Sampling::Same | Sampling::Down => {
                let conv = kind(sampling, [kd, kh, kw]);
                let found = conv.forward(x, weight, bias);
                (found.values, found.moments, conv.sides(sides))
            }
            Sampling::Up => {
                let sides = sides.map(|side| 2 * side);
                let found = Conv::halving().input_gradient(x, weight, bias, sides);
                let moments = moments_of_planes(&found, sides[1] * sides[2]);
                (found, moments, sides)
            }
        });
        let shape = [batch, bias.len(), sides[0], sides[1], sides[2]];
        Convolved { values: float(tensor(found, &shape)), moments: Some(Arc::new(moments)) }
    }

    fn gradients() -> Option<ConvGradients<Self>> {
        Some(gradients)
    }
}

/// See [`ConvGradients`].
fn gradients(
    image: Image<Flex>,
    weight: Tensor<Flex, 5>,
    gradient: Tensor<Flex, 5>,
    sampling: Sampling,
    wanted: bool,
) -> Vec<Option<FlexTensor>> {
    let input = Input::of(image);
    let (of_weight, of_result) = (weight.dims(), gradient.dims());
    let [weight, gradient] = [held(weight), held(gradient)];
    let terms = [Term { values: values(&gradient), affine: None }];
    let slope = Source::new(of_result, &terms);
    let [_, channels, sides @ ..] = input.shape;
    let [.., kd, kh, kw] = of_weight;
    let zeros = vec![0.0; channels];
    let (of_weights, of_bias, of_input) = input.read(|x| match sampling {
        Sampling::Same | Sampling::Down => {
            let conv = kind(sampling, [kd, kh, kw]);
            let (of_weights, of_bias) = conv.weight_gradient(x, &slope);
            let of_input = wanted.then(|| conv.input_gradient(&slope, values(&weight), &zeros, sides));
            (of_weights, of_bias, of_input)
        }
        Sampling::Up => {
            // the transpose's input is what a convolution that halves would give
            let (of_weights, _) = Conv::halving().weight_gradient(&slope, x);
            let of_input = wanted.then(|| Conv::halving().forward(&slope, values(&weight), &zeros).values);
            (of_weights, sums(values(&gradient), of_result), of_input)
        }
    });
    drop(gradient);
    let mut found = of_input.map_or_else(|| vec![None; input.tensors()], |of_input| input.gradients(of_input));
    found.push(Some(tensor(of_weights, &of_weight)));
    let outputs = of_bias.len();
    found.push(Some(tensor(of_bias, &[outputs])));
    found
}

fn kind(sampling: Sampling, kernel: [usize; 3]) -> Conv {
    if sampling == Sampling::Down { Conv::halving() } else { Conv::same(kernel) }
}

/// The sum of each channel over the batch.
fn sums(gradient: &[f32], [batch, channels, d, h, w]: [usize; 5]) -> Vec<f32> {
    let planes = moments_of_planes(gradient, h * w);
    let of_image = |n: usize, channel: usize| {
        let planes = &planes[(n * channels + channel) * d..][..d];
        planes.iter().map(|plane| plane.mean).sum::<f64>() * (h * w) as f64
    };
    (0..channels).map(|channel| (0..batch).map(|n| of_image(n, channel)).sum::<f64>() as f32).collect()
}

/// An image as slices.
struct Input {
    shape: [usize; 5],
    terms: Vec<Held>,
}

struct Held {
    values: FlexTensor,
    norm: Option<HeldNorm>,
}

/// A norm, with the statistics of its term and what they make of it.
struct HeldNorm {
    scale: FlexTensor,
    shift: FlexTensor,
    keep: Option<FlexTensor>,
    groups: usize,
    statistics: Statistics,
    affine: (Vec<f32>, Vec<f32>),
}

impl Input {
    fn of(image: Image<Flex>) -> Self {
        let shape = image.terms[0].values.dims();
        let of_term = |conv::Term { values, norm }: conv::Term<Flex>| {
            let values = held(values);
            let norm = norm.map(|norm| HeldNorm::of(norm, shape, &values));
            Held { values, norm }
        };
        Self { shape, terms: image.terms.into_iter().map(of_term).collect() }
    }

    fn read<T>(&self, work: impl FnOnce(&Source<'_>) -> T) -> T {
        let terms: Vec<Term<'_>> = self.terms.iter().map(Held::term).collect();
        work(&Source::new(self.shape, &terms))
    }

    /// Tensors that gradients are for.
    fn tensors(&self) -> usize {
        self.terms.iter().map(|term| if term.norm.is_some() { 3 } else { 1 }).sum()
    }

    /// From the gradient of the sum, in place for the last term.
    fn gradients(&self, gradient: Vec<f32>) -> Vec<Option<FlexTensor>> {
        let (last, others) = self.terms.split_last().expect("an image has a term");
        let mut found: Vec<_> = others.iter().flat_map(|term| term.gradients(gradient.clone(), self.shape)).collect();
        found.extend(last.gradients(gradient, self.shape));
        found.into_iter().map(Some).collect()
    }
}

impl Held {
    fn term(&self) -> Term<'_> {
        let affine = self.norm.as_ref().map(|norm| Affine { scale: &norm.affine.0, shift: &norm.affine.1 });
        Term { values: values(&self.values), affine }
    }

    fn gradients(&self, mut gradient: Vec<f32>, shape: [usize; 5]) -> Vec<FlexTensor> {
        let Some(norm) = &self.norm else { return vec![tensor(gradient, &shape)] };
        let of_norm = norm.kernel(shape).gradients(values(&self.values), &norm.statistics, &mut gradient);
        let channels = shape[1];
        vec![tensor(gradient, &shape), tensor(of_norm.scale, &[channels]), tensor(of_norm.shift, &[channels])]
    }
}

impl HeldNorm {
    fn of(norm: conv::Norm<Flex>, shape: [usize; 5], raw: &FlexTensor) -> Self {
        let conv::Norm { scale, shift, groups, keep, moments } = norm;
        let unknown = Statistics::default();
        let mut held = Self {
            scale: held(scale),
            shift: held(shift),
            keep: keep.map(held),
            groups,
            statistics: unknown,
            affine: (Vec::new(), Vec::new()),
        };
        let gathered: Arc<Vec<Moments>> =
            moments.unwrap_or_else(|| Arc::new(moments_of_planes(values(raw), shape[3] * shape[4])));
        held.statistics = held.kernel(shape).statistics(&gathered);
        held.affine = held.kernel(shape).affine(&held.statistics);
        held
    }

    fn kernel(&self, shape: [usize; 5]) -> GroupNorm<'_> {
        GroupNorm {
            shape,
            groups: self.groups,
            epsilon: EPSILON,
            scale: values(&self.scale),
            shift: values(&self.shift),
            keep: self.keep.as_ref().map(values),
        }
    }
}

/// A tensor's numbers in their order.
fn held<const D: usize>(tensor: Tensor<Flex, D>) -> FlexTensor {
    tensor.into_primitive().tensor().to_contiguous()
}

fn float<const D: usize>(tensor: FlexTensor) -> Tensor<Flex, D> {
    Tensor::from_primitive(TensorPrimitive::Float(tensor))
}
