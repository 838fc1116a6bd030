//! Prompts for a generalist from a student's own prediction, and nothing else (spec/semisam.md, sections 2 and 5.4).
//!
//! In reading order: [`belief`] (what the student thinks of one class), [`components`], [`clicks`] (where to click), and
//! here the conversation about one scan: first prompts, then corrections, each made from the generalist's last answer and
//! the firm part of the belief. A conversation is a function of its arguments: it starts from nothing for every scan, every
//! class and every set of prompts (E4), draws from a generator of its own (E12), and sees no label, because none of its
//! arguments could hold one (E1).

pub mod belief;
pub mod clicks;
pub mod components;

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Embedding, Generalist, GeneralistError, network::Prompts, view::seen};
use crate::{
    data::{grid::Grid, resample::image_onto},
    model::sam::Click,
};
use belief::{Belief, Firm};
use clicks::{Choice, First, Rule};

/// What a set of prompts is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Points, corrected.
    Point,
    /// The student's map, as logits.
    Mask,
    /// The student's map and points, corrected.
    Both,
}

/// Which points come with a correction; the generalist's last mask always does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum History {
    /// The newest alone, as in SemiSAM.
    Newest,
    /// All of them, as in SAM-Med3D's own inference.
    All,
}

/// How a generalist is prompted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prompting {
    /// Probability from which the student counts as sure.
    pub confidence: f32,
    /// Points to start with.
    pub first: First,
    /// Corrections after them.
    pub corrections: usize,
    /// How they are chosen.
    pub rule: Rule,
    /// Which points come with them.
    pub history: History,
}

impl Default for Prompting {
    fn default() -> Self {
        let first = First { inside: 3, near: 1, far: 1 };
        Self { confidence: 0.8, first, corrections: 2, rule: Rule::Ritm, history: History::All }
    }
}

/// What a generalist makes of a belief: logits on the belief's grid, and which voxels it could see.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Above zero is object (E7); beyond what was seen there is nothing to read.
    pub logits: Vec<f32>,
    /// Whether a voxel lies in what the generalist saw.
    pub seen: Vec<bool>,
}

impl Answer {
    /// What it takes for the object: logits above zero, which is probabilities above one half.
    pub fn mask(&self) -> Vec<bool> {
        self.logits.iter().zip(&self.seen).map(|(logit, seen)| *seen && *logit > 0.0).collect()
    }

    /// Dice of its mask and the belief's, within what was seen.
    pub fn agreement(&self, belief: &Belief) -> f64 {
        let voxels = self.mask().into_iter().zip(belief.mask()).zip(&self.seen);
        overlap(voxels.map(|((drawn, believed), seen)| (drawn, believed && *seen)))
    }
}

/// Dice of two masks, voxel by voxel; 0 if both are empty, since two that see no object agree on none.
pub fn overlap(voxels: impl Iterator<Item = (bool, bool)>) -> f64 {
    let (mut common, mut all) = (0_usize, 0_usize);
    for (a, b) in voxels {
        common += usize::from(a && b);
        all += usize::from(a) + usize::from(b);
    }
    if all == 0 { 0.0 } else { 2.0 * common as f64 / all as f64 }
}

/// Asks `generalist` about the object of `belief`, on a view of the same scan that it has embedded.
///
/// Nothing where there is nothing to ask: the student is sure of no voxel of the object, or of none outside it (E10).
///
/// # Errors
/// If the embedding is another generalist's, or of a scan with other axes.
pub fn ask(
    generalist: &Generalist,
    embedding: &Embedding,
    belief: &Belief,
    (kind, how): (Kind, &Prompting),
    random: &mut ChaCha8Rng,
) -> Result<Option<Answer>, GeneralistError> {
    let grid = belief.grid();
    let seen = seen(&embedding.grid, &grid);
    let firm = belief.firm(how.confidence, &seen);
    if !firm.inside.contains(&true) || !firm.outside.contains(&true) {
        return Ok(None);
    }
    let mask_grid = generalist.mask_grid(embedding);
    let mask = match kind {
        Kind::Point => vec![0.0; mask_grid.count()], // as in the published training, where nothing was drawn yet
        Kind::Mask | Kind::Both => belief.logits_on(&mask_grid)?,
    };
    let first = match kind {
        Kind::Mask => Vec::new(),
        Kind::Point | Kind::Both => clicks::first(belief, &firm, how.first, random),
    };
    let clicks = first.into_iter().map(|choice| click(choice, &grid, &embedding.grid)).collect();
    let talk = Talk { generalist, embedding, grid, seen, firm };
    let corrections = if kind == Kind::Mask { 0 } else { how.corrections };
    talk.run(Prompts { clicks, mask: Some(mask) }, corrections, how, random).map(Some)
}

/// A conversation about one object of one scan.
struct Talk<'a> {
    generalist: &'a Generalist,
    embedding: &'a Embedding,
    grid: Grid,
    seen: Vec<bool>,
    firm: Firm,
}

impl Talk<'_> {
    fn run(
        self,
        mut prompts: Prompts,
        corrections: usize,
        how: &Prompting,
        random: &mut ChaCha8Rng,
    ) -> Result<Answer, GeneralistError> {
        let mut clicks = prompts.clicks.clone();
        let mut drawing = self.generalist.decode(self.embedding, &prompts)?;
        let mut answer = Answer { logits: image_onto(&drawing.logits, &self.grid)?.values, seen: self.seen };
        for _ in 0..corrections {
            let Some(choice) = clicks::correction(&answer.mask(), &self.firm, how.rule, random) else { break };
            let newest = click(choice, &self.grid, &self.embedding.grid);
            clicks.push(newest);
            prompts = Prompts {
                clicks: match how.history {
                    History::Newest => vec![newest],
                    History::All => clicks.clone(),
                },
                mask: Some(drawing.logits.values),
            };
            drawing = self.generalist.decode(self.embedding, &prompts)?;
            answer.logits = image_onto(&drawing.logits, &self.grid)?.values;
        }
        Ok(answer)
    }
}

/// A voxel of the student's grid as the generalist takes it: in voxels (x, y, z) of its view.
fn click((at, sign): Choice, grid: &Grid, view: &Grid) -> Click {
    let [_, ny, nz] = grid.shape;
    let voxel = [at / nz / ny, at / nz % ny, at % nz].map(|index| index as f64);
    Click { at: view.voxel(grid.world(voxel)).map(|index| index as f32), sign }
}

#[cfg(test)]
mod tests;
