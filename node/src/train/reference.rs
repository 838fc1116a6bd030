//! Comparison with the published implementation: logits, losses and gradients on a recorded input.
//!
//! The file holds a batch of two, labels for the first sample, a teacher's probabilities, a generalist's mask for the
//! second, the two term weights, and what PyTorch made of them. Sizes are read off the shapes.

use burn::tensor::{Tensor, TensorData};
use semisam_shared::weights::{self, Weights};
use serde::Serialize;

use super::losses::{Logits, Losses, Opinion, Targets, TermWeights, losses};
use crate::{
    device::{Device, TrainBackend, Work},
    model::{
        ModelError, VNetConfig,
        vnet::{VNet, to_host},
    },
};

/// How far one output is from the reference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Deviation {
    /// Name in the reference file.
    pub name: String,
    /// Largest absolute difference.
    pub max_abs_error: f64,
    /// The same, divided by the largest magnitude of the reference. The gradient of a bias that the norm after it
    /// cancels is zero but for rounding: it is divided by the largest magnitude of its layer's weight gradient.
    pub max_rel_error: f64,
}

/// All outputs of a reference file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Groups of GroupNorm.
    pub groups: usize,
    /// In ascending order of name.
    pub outputs: Vec<Deviation>,
}

/// Why there is nothing to compare.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// A tensor that the comparison needs.
    #[error("the reference file has no tensor `{0}` of a fitting shape")]
    Missing(String),
    /// The weights are no student.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// Computes every output that `reference` names with `student` and tells how far it is off.
///
/// The number of groups leaves no trace in weights: unless given, it is the divisor of the filters whose logits are nearest.
///
/// # Errors
/// If the weights are no V-Net or the reference lacks an input.
pub fn compare(
    device: Device,
    student: &Weights,
    groups: Option<usize>,
    reference: &Weights,
) -> Result<Comparison, ReferenceError> {
    let config = VNetConfig::of(student, groups)?;
    let candidates = match groups {
        Some(groups) => vec![groups],
        None => (1..=config.base_filters).filter(|groups| config.base_filters.is_multiple_of(*groups)).collect(),
    };
    let mut best: Option<Comparison> = None;
    for groups in candidates {
        let found = with_groups(device, student, VNetConfig { groups, ..config }, reference)?;
        if best.as_ref().is_none_or(|best| found.of_logits() < best.of_logits()) {
            best = Some(found);
        }
    }
    best.ok_or_else(|| ReferenceError::Missing("logits".to_owned()))
}

impl Deviation {
    /// How far `found` is from `expected`; the relative error is by the largest magnitude in `scale`.
    pub fn between(name: &str, expected: &[f32], found: &[f32], scale: &[f32]) -> Self {
        let max_abs_error = expected.iter().zip(found).map(|(a, b)| f64::from(a - b).abs()).fold(0.0, nan_max);
        let scale = scale.iter().map(|v| f64::from(v.abs())).fold(0.0, nan_max).max(f64::from(f32::MIN_POSITIVE));
        Self { name: name.to_owned(), max_abs_error, max_rel_error: max_abs_error / scale }
    }
}

impl Comparison {
    fn of_logits(&self) -> f64 {
        self.outputs.iter().find(|output| output.name == "logits").map_or(f64::INFINITY, |output| output.max_abs_error)
    }
}

fn with_groups(
    device: Device,
    student: &Weights,
    config: VNetConfig,
    reference: &Weights,
) -> Result<Comparison, ReferenceError> {
    let outputs = device.run(Forward { config, student, reference })?;
    let outputs = reference
        .iter()
        .filter(|(name, _)| *name == "logits" || name.starts_with("loss.") || name.starts_with("grad."))
        .map(|(name, expected)| {
            let found = outputs.get(name).ok_or_else(|| ReferenceError::Missing(name.to_owned()))?;
            deviation(&config, name, expected, found, reference)
        })
        .collect::<Result<_, ReferenceError>>()?;
    Ok(Comparison { groups: config.groups, outputs })
}

fn deviation(
    config: &VNetConfig,
    name: &str,
    expected: &weights::Tensor,
    found: &weights::Tensor,
    reference: &Weights,
) -> Result<Deviation, ReferenceError> {
    if expected.values.len() != found.values.len() {
        return Err(ReferenceError::Missing(name.to_owned()));
    }
    let weight_of_layer = cancelled_bias(config, name, expected).and_then(|weight| reference.get(&weight));
    Ok(Deviation::between(name, &expected.values, &found.values, &weight_of_layer.unwrap_or(expected).values))
}

/// The weight beside a convolution's bias that the following norm cancels, which is where each channel is its own group.
fn cancelled_bias(config: &VNetConfig, name: &str, expected: &weights::Tensor) -> Option<String> {
    let path = name.strip_suffix(".bias")?;
    let unit: usize = path.rsplit_once(".conv.")?.1.parse().ok()?;
    (unit.is_multiple_of(3) && expected.values.len() == config.groups).then(|| format!("{path}.weight"))
}

/// Unlike `f64::max`, keeps a NaN.
fn nan_max(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

struct Forward<'a> {
    config: VNetConfig,
    student: &'a Weights,
    reference: &'a Weights,
}

impl Work for Forward<'_> {
    type Output = Result<Weights, ReferenceError>;

    fn run<B: TrainBackend>(self, device: &B::Device) -> Self::Output {
        let input = self.input("input")?;
        let shape: [usize; 5] =
            input.shape.as_slice().try_into().map_err(|_| ReferenceError::Missing("input".to_owned()))?;
        let voxels: usize = shape[2..].iter().product();
        let network = VNet::<B>::tracked(&VNet::new(self.config, self.student, device)?);
        let images = Tensor::from_data(TensorData::new(input.values.clone(), shape), device);
        let logits = network.forward(images, None)?;
        let output_shape = logits.dims();
        let values = to_host(logits.clone().into_data());
        let (targets, weights) = (self.targets(shape[0], voxels)?, self.term_weights()?);
        let (terms, gradient) =
            losses(Logits { values: &values, classes: self.config.classes, voxels }, &targets, weights);
        let gradient = Tensor::<B, 5>::from_data(TensorData::new(gradient, output_shape), device);
        let gradients = network.gradient((logits * gradient).sum().backward());
        let gradients = self.student.with_flat(&gradients).expect("a gradient has its network's shape");
        Ok(collect(values, output_shape, terms, &gradients))
    }
}

impl Forward<'_> {
    fn input(&self, name: &str) -> Result<&weights::Tensor, ReferenceError> {
        self.reference.get(name).ok_or_else(|| ReferenceError::Missing(name.to_owned()))
    }

    /// Labels of the first sample, the teacher for all, the mask for the others.
    fn targets(&self, samples: usize, voxels: usize) -> Result<Targets, ReferenceError> {
        let classes = |name: &str, sample: usize| {
            let values = self.input(name)?.values.get(sample * voxels..(sample + 1) * voxels);
            let values = values.ok_or_else(|| ReferenceError::Missing(name.to_owned()))?;
            Ok::<Vec<u8>, ReferenceError>(values.iter().map(|class| *class as u8).collect())
        };
        let mut targets = Targets { teacher: Some(self.input("teacher_prob")?.values.clone()), ..Targets::default() };
        for sample in 0..samples {
            targets.labels.push(if sample == 0 { Some(classes("label", sample)?) } else { None });
            let mask = (sample > 0).then(|| classes("sam_mask", sample)).transpose()?;
            targets.opinions.push(mask.map(|mask| Opinion::of_mask(&mask, self.config.classes)));
        }
        Ok(targets)
    }

    fn term_weights(&self) -> Result<TermWeights, ReferenceError> {
        match self.input("weights")?.values.as_slice() {
            [teacher, generalist] => {
                // the recipe halves the generalist's ramp
                let (teacher, generalist) = (f64::from(*teacher), 0.5 * f64::from(*generalist));
                Ok(TermWeights { pseudo: 0.0, teacher, generalist })
            }
            _ => Err(ReferenceError::Missing("weights".to_owned())),
        }
    }
}

fn collect(logits: Vec<f32>, shape: [usize; 5], terms: Losses, gradients: &Weights) -> Weights {
    let scalar = |value: f64| weights::Tensor { shape: vec![1], values: vec![value as f32] };
    let named = [
        ("logits", weights::Tensor { shape: shape.to_vec(), values: logits }),
        ("loss.ce", scalar(terms.cross_entropy)),
        ("loss.dice", scalar(terms.dice)),
        ("loss.teacher", scalar(terms.teacher)),
        ("loss.sam", scalar(terms.generalist)),
        ("loss.total", scalar(terms.total)),
    ];
    let named = named.into_iter().map(|(name, tensor)| (name.to_owned(), tensor));
    let gradients = gradients.iter().map(|(name, tensor)| (format!("grad.{name}"), tensor.clone()));
    Weights::new(named.chain(gradients)).expect("each tensor has as many values as its shape says")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::checkpoint;

    fn fixture(name: &str) -> std::path::PathBuf {
        std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/vnet")).join(name)
    }

    #[test]
    fn logits_losses_and_gradients_are_those_of_pytorch() {
        let student = checkpoint::read(&fixture("vnet_tiny.safetensors")).expect("a fixture");
        let reference = checkpoint::read(&fixture("vnet_tiny_io.safetensors")).expect("a fixture");
        let comparison = compare(Device::Cpu, &student, None, &reference).expect("a V-Net");
        assert_eq!(comparison, compare(Device::Cpu, &student, Some(4), &reference).expect("a V-Net"));
        assert_eq!(comparison.outputs.len(), 6 + student.iter().count());
        for deviation in &comparison.outputs {
            let good = match deviation.name.starts_with("grad.") {
                true => deviation.max_rel_error <= 1e-3,
                false => deviation.max_abs_error <= 1e-4,
            };
            assert!(good, "{deviation:?}");
        }
    }
}
