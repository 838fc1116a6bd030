//! Which tensors a promptable network has, and their first values.
//!
//! Level 0 has the image's voxels, each deeper level half as many along each side. `image.*` is computed once for a scan:
//! a V-Net down and up again, whose result at each level is a linear map, `image.feature_LEVEL`. `prompt.*` is computed
//! for every prompt: a lighter V-Net that starts at level 1 and takes up those features.

use semisam_shared::weights::Weights;

use super::PromptUNetConfig;
use crate::model::layout::{self, Entries, Sampling, convolution_entries, unit_entries};

/// Levels of the network: each side of an image is halved three times.
pub const LEVELS: usize = 4;

/// Maps that come out: the mask's logits, and how good each voxel's surroundings are.
pub const MAPS: usize = 2;

/// Maps that a prompt is drawn as: points in the object, points outside it, a mask.
pub const PROMPT_MAPS: usize = 3;

/// Units of each level of the image's way down, and of the deepest level.
pub(super) const IMAGE_UNITS: [usize; LEVELS] = [1, 2, 2, 3];

/// Units of each level of the prompt's way down; it has none at level 0.
pub(super) const PROMPT_UNITS: [usize; LEVELS] = [0, 1, 1, 2];

/// Every tensor of the architecture, in order of computation.
fn entries(config: &PromptUNetConfig) -> Entries {
    let (widths, mut entries) = (config.widths, Entries::new());
    let all = &mut entries;
    for level in 0..LEVELS {
        if level > 0 {
            down(all, "image", widths, level);
        }
        let inputs = if level == 0 { 1 } else { widths[level] };
        units(all, ("image", level), [inputs, widths[level]], IMAGE_UNITS[level]);
    }
    feature(all, widths, LEVELS - 1);
    for level in (0..LEVELS - 1).rev() {
        back(all, "image", widths, level);
        feature(all, widths, level);
    }
    convolution_entries(all, "prompt.in", vec![widths[1], PROMPT_MAPS, 2, 2, 2], widths[1]);
    for level in 1..LEVELS {
        if level > 1 {
            down(all, "prompt", widths, level);
        }
        units(all, ("prompt", level), [widths[level]; 2], PROMPT_UNITS[level]);
    }
    for level in (0..LEVELS - 1).rev() {
        back(all, "prompt", widths, level);
    }
    convolution_entries(all, "prompt.out", vec![MAPS, widths[0], 1, 1, 1], MAPS);
    entries
}

fn units(all: &mut Entries, (part, level): (&str, usize), [inputs, outputs]: [usize; 2], count: usize) {
    for unit in 0..count {
        let inputs = if unit == 0 { inputs } else { outputs };
        unit_entries(all, (&format!("{part}.level_{level}"), unit), Sampling::Same, [inputs, outputs]);
    }
}

fn down(all: &mut Entries, part: &str, widths: [usize; LEVELS], level: usize) {
    unit_entries(all, (&format!("{part}.down_{level}"), 0), Sampling::Down, [widths[level - 1], widths[level]]);
}

fn back(all: &mut Entries, part: &str, widths: [usize; LEVELS], level: usize) {
    unit_entries(all, (&format!("{part}.up_{level}"), 0), Sampling::Up, [widths[level + 1], widths[level]]);
    unit_entries(all, (&format!("{part}.back_{level}"), 0), Sampling::Same, [widths[level]; 2]);
}

fn feature(all: &mut Entries, widths: [usize; LEVELS], level: usize) {
    let width = widths[level];
    convolution_entries(all, &format!("image.feature_{level}"), vec![width, width, 1, 1, 1], width);
}

/// Name and shape of every tensor of this architecture, in the order of the flat vector.
pub fn shapes(config: &PromptUNetConfig) -> Vec<(String, Vec<usize>)> {
    layout::shapes_of(entries(config))
}

/// Weights of this architecture, all zero: for names and shapes.
pub fn blank(config: &PromptUNetConfig) -> Weights {
    layout::blank_of(entries(config))
}

/// First weights from a seed, drawn as those of a student ([`layout::initial`]).
pub fn initial(config: &PromptUNetConfig, seed: u64) -> Weights {
    layout::initial_of(entries(config), seed)
}
