//! Comparison of a SAM-Med3D with the original implementation: embedding, encodings, masks and scores on recorded inputs.
//!
//! A reference file holds `image`, any of `image_embedding` and `dense_pe`, and for each prompt CASE the inputs
//! `CASE.points`, `CASE.labels`, `CASE.mask` and the outputs `CASE.sparse`, `CASE.dense`, `CASE.{single,multi}.iou`,
//! `CASE.{single,multi}.low_res_logits` and `CASE.{single,multi}.full_res_logits`, the last thinned out to every n-th voxel.
//! Every tensor that is no input is an output; one that this file does not know is an error, never skipped.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData, backend::Backend};
use semisam_shared::weights::{self, Weights};
use serde::Serialize;

use crate::{
    device::{Device, TrainBackend, Work},
    model::{
        sam::{Answer, Click, Prompt, Sam, SamError, Sign, operator::TransformerBackend, resize::trilinear},
        vnet::to_host,
    },
    train::reference::Deviation,
};

/// All outputs of a reference file, in ascending order of name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// One for each output.
    pub outputs: Vec<Deviation>,
}

/// Why there is nothing to compare.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// A tensor that is absent, has an unfitting shape, or is not known.
    #[error("tensor `{name}` of the reference file {problem}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The weights, or an input that does not fit them.
    #[error(transparent)]
    Sam(#[from] SamError),
}

/// Computes every output that `reference` names with the network of `weights`, and tells how far it is off.
///
/// # Errors
/// If the weights are no SAM-Med3D, or the reference lacks an input or holds something unknown.
pub fn compare(device: Device, weights: Weights, reference: &Weights) -> Result<Comparison, ReferenceError> {
    device.run(Compare { weights, reference })
}

struct Compare<'a> {
    weights: Weights,
    reference: &'a Weights,
}

impl Work for Compare<'_> {
    type Output = Result<Comparison, ReferenceError>;

    fn run<B: TrainBackend>(self, device: &B::Device) -> Self::Output {
        let sam = Sam::<B::InnerBackend>::new(self.weights, device)?;
        let image = self.reference.get("image").ok_or_else(|| problem("image", "is missing"))?;
        let embedding = sam.encode(five("image", image, device)?)?;
        let mut inputs = Inputs { reference: self.reference, sam, embedding, answers: BTreeMap::new(), device };
        let outputs = self.reference.iter().filter(|(name, _)| !is_input(name));
        let outputs = outputs.map(|(name, expected)| {
            let found = inputs.output(name, expected)?;
            if found.len() != expected.values.len() {
                let reason = format!("has {} values, but the network gives {}", expected.values.len(), found.len());
                return Err(problem(name, reason));
            }
            Ok(Deviation::between(name, &expected.values, &found, &expected.values))
        });
        Ok(Comparison { outputs: outputs.collect::<Result<_, _>>()? })
    }
}

fn is_input(name: &str) -> bool {
    name == "image" || [".points", ".labels", ".mask"].iter().any(|part| name.ends_with(part))
}

fn problem(name: &str, problem: impl Into<String>) -> ReferenceError {
    ReferenceError::Tensor { name: name.to_owned(), problem: problem.into() }
}

struct Inputs<'a, B: Backend> {
    reference: &'a Weights,
    sam: Sam<B>,
    embedding: Tensor<B, 5>,
    answers: BTreeMap<String, Answer<B>>,
    device: &'a B::Device,
}

impl<B: TransformerBackend> Inputs<'_, B> {
    /// The values that the network gives for the output `name`.
    fn output(&mut self, name: &str, expected: &weights::Tensor) -> Result<Vec<f32>, ReferenceError> {
        match name {
            "image_embedding" => return Ok(host(self.embedding.clone())),
            "dense_pe" => return Ok(host(self.sam.dense_encoding())),
            _ => {}
        }
        let unknown = || problem(name, "is no output that this program knows");
        let (case, part) = name.split_once('.').ok_or_else(unknown)?;
        match part {
            "sparse" => Ok(self.sam.sparse(&self.clicks(case)?).map(host).unwrap_or_default()),
            "dense" => Ok(host(self.sam.dense(self.mask(case)?)?)),
            _ => {
                let (kind, part) = part.split_once('.').ok_or_else(unknown)?;
                let answer = self.answer(case)?;
                let masks = answer.scores.dims()[1];
                let (first, count) = match kind {
                    "single" => (0, 1),
                    "multi" => (1, masks - 1),
                    _ => return Err(unknown()),
                };
                match part {
                    "iou" => Ok(host(answer.scores.narrow(1, first, count))),
                    "low_res_logits" => Ok(host(answer.logits.narrow(1, first, count))),
                    "full_res_logits" => {
                        let full = trilinear(answer.logits.narrow(1, first, count), self.sam.config().image());
                        Ok(host(thinned(full, &expected.shape)))
                    }
                    _ => Err(unknown()),
                }
            }
        }
    }

    fn answer(&mut self, case: &str) -> Result<Answer<B>, ReferenceError> {
        if let Some(answer) = self.answers.get(case) {
            return Ok(answer.clone());
        }
        let prompt = Prompt { clicks: self.clicks(case)?, mask: self.mask(case)?, padded: false };
        let answer = self.sam.decode(self.embedding.clone(), &prompt)?;
        self.answers.insert(case.to_owned(), answer.clone());
        Ok(answer)
    }

    fn clicks(&self, case: &str) -> Result<Vec<Click>, ReferenceError> {
        let (points, labels) = (format!("{case}.points"), format!("{case}.labels"));
        let Some(places) = self.reference.get(&points) else { return Ok(Vec::new()) };
        let signs = self.reference.get(&labels).ok_or_else(|| problem(&labels, "is missing"))?;
        if places.shape != [1, signs.values.len(), 3] {
            return Err(problem(&points, format!("has shape {:?}, not that of its labels and 3", places.shape)));
        }
        let clicks = places.values.chunks_exact(3).zip(&signs.values).map(|(at, label)| {
            let sign = match *label {
                1.0 => Sign::Foreground,
                0.0 => Sign::Background,
                -1.0 => Sign::NoPoint,
                other => return Err(problem(&labels, format!("holds {other}, but a label is 1, 0 or -1"))),
            };
            Ok(Click { at: [at[0], at[1], at[2]], sign })
        });
        clicks.collect()
    }

    fn mask(&self, case: &str) -> Result<Option<Tensor<B, 5>>, ReferenceError> {
        let name = format!("{case}.mask");
        self.reference.get(&name).map(|mask| five(&name, mask, self.device)).transpose()
    }
}

/// Every n-th voxel, where n is what leaves as many as `shape` has along its last axis.
fn thinned<B: Backend>(x: Tensor<B, 5>, shape: &[usize]) -> Tensor<B, 5> {
    let [_, _, d, h, w] = x.dims();
    let step = w.div_ceil(shape.last().copied().unwrap_or(1).max(1)).max(1);
    let device = x.device();
    let every = |extent: usize| Tensor::arange_step(0..extent as i64, step, &device);
    x.select(2, every(d)).select(3, every(h)).select(4, every(w))
}

fn five<B: Backend>(name: &str, tensor: &weights::Tensor, device: &B::Device) -> Result<Tensor<B, 5>, ReferenceError> {
    if tensor.shape.len() != 5 {
        return Err(problem(name, format!("has shape {:?}, not five dimensions", tensor.shape)));
    }
    Ok(Tensor::from_data(TensorData::new(tensor.values.clone(), tensor.shape.clone()), device))
}

fn host<B: Backend, const D: usize>(x: Tensor<B, D>) -> Vec<f32> {
    to_host(x.into_data())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::checkpoint;

    #[test]
    fn embedding_masks_and_scores_are_those_of_the_original() {
        let fixture = |name: &str| {
            let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/sam_med3d"));
            checkpoint::read(&folder.join(name)).expect("a fixture")
        };
        let reference = fixture("sam_med3d_tiny_io.safetensors");
        let found = compare(Device::Cpu, fixture("sam_med3d_tiny.pth"), &reference).expect("a SAM-Med3D");
        assert_eq!(found.outputs.len(), 2 + 4 * 7, "every output of the four prompts");
        for output in &found.outputs {
            let most = if output.name.ends_with("logits") { 1e-4 } else { 1e-5 };
            assert!(output.max_abs_error <= most, "{output:?}");
        }
    }
}
