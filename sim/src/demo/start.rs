//! What the consortium prepares before the first round, from synthetic volumes alone: a weakly trained student, the
//! directions in which updates are released, and the clip norm. No hospital's data is touched, so it costs no privacy.

use std::{
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use semisam_node::{
    data::{normalise::normalise, synth},
    device::Device,
    train::{
        TrainError,
        crops::PreparedScan,
        pretrain::{Pretraining, pretrain, public_subspace, synthetic_deltas},
        subspace::{SubspaceError, to_weights},
    },
};
use semisam_shared::weights::{Weights, WeightsError};

use super::{
    disk::{self, DiskError},
    plan::Recipe,
    progress::Progress,
};

/// Numbers of the volumes from which the basis is made: none of those that the student was trained on.
const BASIS_VOLUMES: u64 = 1 << 32;

/// The start could not be made.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Training.
    #[error("the starting model cannot be trained")]
    Train(#[from] TrainError),
    /// The basis.
    #[error(transparent)]
    Subspace(#[from] SubspaceError),
    /// The files.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The file system said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// The consortium's files.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    /// The starting model.
    pub(crate) model: PathBuf,
    /// The basis.
    pub(crate) basis: PathBuf,
    /// The clip norm that fits them.
    pub(crate) clip_norm: f64,
    /// What was done, in words.
    pub(crate) description: String,
}

/// Trains the start and finds the basis; both are written to `folder`.
pub(crate) fn make(
    recipe: &Recipe,
    seed: u64,
    device: Device,
    folder: &Path,
    progress: &Progress,
) -> Result<Start, StartError> {
    let network = recipe.network();
    let volume = |number: u64| synthetic_volume(recipe, seed, number);
    let start = &recipe.start;
    let settings = Pretraining {
        scans: start.volumes,
        steps: start.steps,
        batch: start.batch,
        patch: recipe.patch.map(|side| side as usize),
        learning_rate: start.learning_rate,
        augment: false,
        seed,
    };
    let bar = progress.count("starting model", start.steps);
    let never = AtomicBool::new(false);
    let model = pretrain(device, network, &settings, &volume, &never, &mut |_, _| bar.step())?;
    drop(bar);

    let numbers = (BASIS_VOLUMES, start.basis_patients);
    let deltas = synthetic_deltas(device, network, &model, &recipe.local_training(), numbers, &volume)?;
    let (basis, clip_norm) = public_subspace(&deltas, recipe.coordinates as usize, &[])?;
    let description = match start.steps {
        0 => "untrained, random weights".to_owned(),
        steps => format!("weakly trained: {steps} steps on {} anonymous synthetic volumes", start.volumes),
    };
    Ok(Start {
        model: write(&folder.join("initial.safetensors"), &model)?,
        basis: write(&folder.join("basis.safetensors"), &to_weights(&basis)?)?,
        clip_norm: clip_norm * recipe.clip_factor,
        description,
    })
}

/// Volume number `number`: a style and an anatomy of its own, none of a hospital's.
fn synthetic_volume(recipe: &Recipe, seed: u64, number: u64) -> PreparedScan {
    let seed = seed.wrapping_mul(7_919).wrapping_add(1 << 40).wrapping_add(number);
    let style = synth::Style::from_seed(seed);
    let (mut image, labels) = synth::synth_case(&style, recipe.start.shape, recipe.spacing_mm, seed);
    normalise(&mut image);
    PreparedScan { image, labels: Some(labels) }
}

fn write(path: &Path, weights: &Weights) -> Result<PathBuf, StartError> {
    disk::write(path, &weights.to_safetensors()?)?;
    Ok(path.into())
}
