//! The student network, a V-Net, and the generalist, SAM-Med3D: weights by PyTorch name, and the files that they are read from.
//!
//! In reading order: [`layout`] (which tensors there are, and their first values), [`vnet`] (the computation), [`leaves`]
//! (tensors by name), [`conv`], [`norm`], [`pool`] and [`resize`] (operations), [`checkpoint`] (safetensors and PyTorch
//! files); [`sam`] is the generalist, [`prompt_unet`] a small one that can be trained here.

pub mod checkpoint;
pub mod conv;
pub mod layout;
pub mod leaves;
pub mod norm;
pub mod pool;
pub mod prompt_unet;
mod recorded;
pub mod resize;
pub mod sam;
pub mod shipped;
pub mod vnet;

use serde::{Deserialize, Serialize};

use semisam_shared::weights::Weights;

/// The architecture of a student (spec/semisam.md, section 3): a V-Net of five levels with GroupNorm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VNetConfig {
    /// Channels of the image.
    pub in_channels: usize,
    /// Classes, background included.
    pub classes: usize,
    /// Channels of the first level; each of the four deeper levels doubles them.
    pub base_filters: usize,
    /// Groups of every GroupNorm; divides `base_filters`.
    pub groups: usize,
}

/// Why an architecture is impossible or cannot be told from weights.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A number that no network can have.
    #[error(
        "no such V-Net: {base_filters} filters in {groups} groups, {classes} classes, {in_channels} image channels; the groups must divide the filters, and two classes are the least"
    )]
    Config {
        /// Channels of the first level.
        base_filters: usize,
        /// Groups of GroupNorm.
        groups: usize,
        /// Classes.
        classes: usize,
        /// Channels of the image.
        in_channels: usize,
    },
    /// The tensors that tell the sizes are absent.
    #[error("the weights are not those of a V-Net: tensor `{name}` is missing or does not have five dimensions")]
    Foreign {
        /// The tensor looked for.
        name: &'static str,
    },
    /// BatchNorm mixes patients.
    #[error(
        "the weights hold BatchNorm statistics (`{name}`), which mix patients; convert the network to GroupNorm first"
    )]
    BatchNorm {
        /// A tensor of running statistics.
        name: String,
    },
    /// The names or shapes do not fit.
    #[error(transparent)]
    Weights(#[from] semisam_shared::weights::WeightsError),
    /// A side that cannot be halved four times.
    #[error("a V-Net takes images whose sides are multiples of 16, but this one is {found:?} voxels; pad or crop it")]
    Side {
        /// The sides.
        found: [usize; 3],
    },
}

impl VNetConfig {
    /// A two-class, one-channel V-Net with one group per filter of the first level.
    pub fn binary(base_filters: usize) -> Self {
        Self { in_channels: 1, classes: 2, base_filters, groups: base_filters }
    }

    /// Refuses sizes that no network can have.
    ///
    /// # Errors
    /// If a number is zero, there is one class, or the groups do not divide the filters.
    pub fn check(&self) -> Result<(), ModelError> {
        let Self { in_channels, classes, base_filters, groups } = *self;
        let possible =
            in_channels > 0 && classes > 1 && base_filters > 0 && groups > 0 && base_filters.is_multiple_of(groups);
        if possible { Ok(()) } else { Err(ModelError::Config { base_filters, groups, classes, in_channels }) }
    }

    /// Reads the sizes off the shapes of `weights` and checks that every tensor is there.
    ///
    /// The number of groups leaves no trace in the weights: it is the number of filters unless given.
    ///
    /// # Errors
    /// If the weights are not those of a V-Net with GroupNorm.
    pub fn of(weights: &Weights, groups: Option<usize>) -> Result<Self, ModelError> {
        if let Some((name, _)) = weights.iter().find(|(name, _)| name.contains("running_")) {
            return Err(ModelError::BatchNorm { name: name.to_owned() });
        }
        let shape = |name: &'static str| match weights.get(name) {
            Some(tensor) if tensor.shape.len() == 5 => Ok(&tensor.shape),
            _ => Err(ModelError::Foreign { name }),
        };
        let (head, stem) = (shape("out_conv.weight")?, shape("block_one.conv.0.weight")?);
        let (classes, base_filters, in_channels) = (head[0], head[1], stem[1]);
        let config = Self { in_channels, classes, base_filters, groups: groups.unwrap_or(base_filters) };
        config.check()?;
        layout::blank(&config).same_architecture(weights)?;
        Ok(config)
    }
}
