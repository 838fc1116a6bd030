//! Which tensors a V-Net has, in the names of the published PyTorch network, and their first values.
//!
//! The network is a table: stages one after another, each a few units of convolution, GroupNorm and ReLU
//! (spec/semisam.md, section 3; github yulequan/UA-MT `networks/vnet.py` gives the names). First values are PyTorch's
//! defaults, drawn here from a ChaCha generator, so that a seed means the same model on every backend.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use semisam_shared::weights::{Tensor, Weights};

use super::VNetConfig;

/// What the convolution of a stage's units does to the sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// 3x3x3, sides kept.
    Same,
    /// 2x2x2 with stride 2: sides halved. The stage's input is kept for the way up.
    Down,
    /// Transposed 2x2x2 with stride 2: sides doubled. What was kept at this level is added.
    Up,
}

/// One stage of the network.
#[derive(Clone, Copy, Debug)]
pub struct Stage {
    /// First part of its tensors' names.
    pub name: &'static str,
    /// What its convolutions do.
    pub sampling: Sampling,
    /// How many units it has.
    pub units: usize,
    /// Channels going in, in multiples of the first level's; 0 stands for the image.
    inputs: usize,
    /// Channels coming out, in the same multiples.
    outputs: usize,
    /// Whether dropout follows it in training, where it is used at all.
    pub dropout: bool,
}

impl Stage {
    /// Channels that come out of it.
    pub fn channels(&self, config: &VNetConfig) -> usize {
        self.outputs * config.base_filters
    }
}

const fn stage(name: &'static str, sampling: Sampling, units: usize, inputs: usize, outputs: usize) -> Stage {
    Stage { name, sampling, units, inputs, outputs, dropout: false }
}

const fn with_dropout(stage: Stage) -> Stage {
    Stage { dropout: true, ..stage }
}

/// The stages in the order of computation; `out_conv` follows.
pub const STAGES: [Stage; 17] = [
    stage("block_one", Sampling::Same, 1, 0, 1),
    stage("block_one_dw", Sampling::Down, 1, 1, 2),
    stage("block_two", Sampling::Same, 2, 2, 2),
    stage("block_two_dw", Sampling::Down, 1, 2, 4),
    stage("block_three", Sampling::Same, 3, 4, 4),
    stage("block_three_dw", Sampling::Down, 1, 4, 8),
    stage("block_four", Sampling::Same, 3, 8, 8),
    stage("block_four_dw", Sampling::Down, 1, 8, 16),
    with_dropout(stage("block_five", Sampling::Same, 3, 16, 16)),
    stage("block_five_up", Sampling::Up, 1, 16, 8),
    stage("block_six", Sampling::Same, 3, 8, 8),
    stage("block_six_up", Sampling::Up, 1, 8, 4),
    stage("block_seven", Sampling::Same, 3, 4, 4),
    stage("block_seven_up", Sampling::Up, 1, 4, 2),
    stage("block_eight", Sampling::Same, 2, 2, 2),
    stage("block_eight_up", Sampling::Up, 1, 2, 1),
    with_dropout(stage("block_nine", Sampling::Same, 1, 1, 1)),
];

/// A tensor of an architecture.
pub(super) struct Entry {
    name: String,
    shape: Vec<usize>,
    /// 1/√fan_in for what is drawn; `None` for the weight (one) and bias (zero) of a norm.
    bound: Option<f32>,
}

/// The tensors of an architecture, in order of computation.
pub(super) type Entries = Vec<Entry>;

/// Every tensor of the architecture, in order of computation.
fn entries(config: &VNetConfig) -> Entries {
    let mut entries = Vec::new();
    for stage in STAGES {
        let outputs = stage.channels(config);
        for unit in 0..stage.units {
            let inputs = match (unit, stage.inputs) {
                (0, 0) => config.in_channels,
                (0, inputs) => inputs * config.base_filters,
                _ => outputs,
            };
            unit_entries(&mut entries, (stage.name, unit), stage.sampling, [inputs, outputs]);
        }
    }
    convolution_entries(&mut entries, "out_conv", vec![config.classes, config.base_filters, 1, 1, 1], config.classes);
    entries
}

/// Adds the tensors of a unit of a stage: a convolution and its norm.
pub(super) fn unit_entries(
    entries: &mut Entries,
    (stage, unit): (&str, usize),
    sampling: Sampling,
    [inputs, outputs]: [usize; 2],
) {
    let shape = match sampling {
        Sampling::Same => vec![outputs, inputs, 3, 3, 3],
        Sampling::Down => vec![outputs, inputs, 2, 2, 2],
        Sampling::Up => vec![inputs, outputs, 2, 2, 2],
    };
    let (convolution, norm) = (format!("{stage}.conv.{}", 3 * unit), 3 * unit + 1);
    convolution_entries(entries, &convolution, shape, outputs);
    for part in ["weight", "bias"] {
        entries.push(Entry { name: format!("{stage}.conv.{norm}.{part}"), shape: vec![outputs], bound: None });
    }
}

/// Adds weight and bias of a convolution.
pub(super) fn convolution_entries(entries: &mut Entries, path: &str, shape: Vec<usize>, outputs: usize) {
    // PyTorch takes the second extent as fan-in, which for a transposed convolution is its outputs
    let fan_in: usize = shape[1..].iter().product();
    let bound = Some((fan_in as f32).sqrt().recip());
    entries.push(Entry { name: format!("{path}.weight"), shape, bound });
    entries.push(Entry { name: format!("{path}.bias"), shape: vec![outputs], bound });
}

/// Weights of these tensors, each value drawn for its tensor.
fn weights(entries: Entries, mut value: impl FnMut(&Entry) -> f32) -> Weights {
    let tensors = entries.into_iter().map(|entry| {
        let values = (0..entry.shape.iter().product()).map(|_| value(&entry)).collect();
        (entry.name, Tensor { shape: entry.shape, values })
    });
    Weights::new(tensors).expect("each tensor has as many values as its shape says")
}

/// Name and shape of every tensor of this architecture, in the order of the flat vector.
pub fn shapes(config: &VNetConfig) -> Vec<(String, Vec<usize>)> {
    shapes_of(entries(config))
}

/// Name and shape of these tensors, in the order of the flat vector.
pub(super) fn shapes_of(entries: Entries) -> Vec<(String, Vec<usize>)> {
    let mut shapes: Vec<_> = entries.into_iter().map(|entry| (entry.name, entry.shape)).collect();
    shapes.sort();
    shapes
}

/// Weights of this architecture, all zero: for names and shapes.
pub fn blank(config: &VNetConfig) -> Weights {
    blank_of(entries(config))
}

/// Weights of these tensors, all zero.
pub(super) fn blank_of(entries: Entries) -> Weights {
    weights(entries, |_| 0.0)
}

/// First weights from a seed: U(±1/√fan_in) for convolutions and their biases, one and zero for norms.
pub fn initial(config: &VNetConfig, seed: u64) -> Weights {
    initial_of(entries(config), seed)
}

/// As [`initial`], of these tensors.
pub(super) fn initial_of(entries: Entries, seed: u64) -> Weights {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    weights(entries, |entry| match entry.bound {
        Some(bound) => random.random_range(-bound..bound),
        None if entry.name.ends_with("weight") => 1.0,
        None => 0.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_network_has_the_published_size() {
        let config = VNetConfig::binary(16);
        assert_eq!(blank(&config).count(), 9_448_866);
        assert_eq!(VNetConfig::of(&blank(&config), None).expect("its own weights"), config);
        let shapes = shapes(&config).into_iter();
        assert!(shapes.eq(blank(&config).iter().map(|(name, tensor)| (name.to_owned(), tensor.shape.clone()))));
    }

    #[test]
    fn a_seed_is_a_model() {
        let config = VNetConfig::binary(2);
        assert_eq!(initial(&config, 7), initial(&config, 7));
        assert_ne!(initial(&config, 7), initial(&config, 8));
        let weights = initial(&config, 7);
        let stem = weights.get("block_one.conv.0.weight").expect("there");
        let bound = 1.0 / 27_f32.sqrt();
        assert!(stem.values.iter().all(|v| v.abs() <= bound) && stem.values.iter().any(|v| v.abs() > bound / 2.0));
        assert_eq!(weights.get("block_one.conv.1.weight").expect("there").values, [1.0, 1.0]);
    }

    #[test]
    fn foreign_weights_are_named() {
        let config = VNetConfig::binary(2);
        let tensors: Vec<_> = blank(&config)
            .iter()
            .filter(|(name, _)| *name != "block_two.conv.3.bias")
            .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
            .collect();
        let error = VNetConfig::of(&Weights::new(tensors).expect("shapes fit"), None).expect_err("one is missing");
        assert!(error.to_string().contains("missing [block_two.conv.3.bias]"), "{error}");
        assert!(VNetConfig { groups: 3, ..config }.check().is_err());
    }
}
