//! What the consortium prepares before the first round, from synthetic volumes alone: a weakly trained student, or one that
//! knows the anatomy, the
//! directions in which updates are released, and the clip norm. No hospital's data is touched, so it costs no privacy.

use std::{
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use semisam_node::{
    data::{
        normalise::normalise,
        recipe::{self as anatomy, RecipeError},
        synth,
    },
    device::Device,
    model::{
        checkpoint::{self, CheckpointError},
        layout,
    },
    train::{
        TrainError,
        crops::PreparedScan,
        pretrain::{Pretraining, anatomical_scan, pretrain, public_subspace, synthetic_deltas},
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
    /// The anatomy.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The student that knows it.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
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

/// A student that knows the anatomy, and the page that it is of.
#[derive(Clone, Debug, PartialEq)]
pub struct Anatomy {
    /// A file, or the name of a shipped student.
    pub model: PathBuf,
    /// A file, or the name of a shipped recipe.
    pub recipe: String,
    /// How voxels of the scans are stored.
    pub axes: Vec<[bool; 3]>,
}

/// Makes the synthetic scan of a number.
type Volumes = Box<dyn Fn(u64) -> PreparedScan + Sync>;

/// Trains the start, unless the anatomy comes with one, and finds the basis; both are written to `folder`.
pub(crate) fn make(
    (recipe, anatomy, seed): (&Recipe, Option<&Anatomy>, u64),
    device: Device,
    folder: &Path,
    progress: &Progress,
) -> Result<Start, StartError> {
    let (model, volume, description) = match anatomy {
        None => weakly_trained((recipe, seed), device, progress)?,
        Some(anatomy) => anatomical((recipe, seed), anatomy)?,
    };
    let numbers = (BASIS_VOLUMES, recipe.start.basis_patients);
    let local = recipe.local_training();
    let deltas = synthetic_deltas(device, recipe.network(), &model, &local, numbers, &volume)?;
    let (basis, clip_norm) = public_subspace(&deltas, recipe.coordinates as usize, &[])?;
    Ok(Start {
        model: write(&folder.join("initial.safetensors"), &model)?,
        basis: write(&folder.join("basis.safetensors"), &to_weights(&basis)?)?,
        clip_norm: clip_norm * recipe.clip_factor,
        description,
    })
}

/// A student that was trained for a moment on anonymous volumes.
fn weakly_trained(
    (recipe, seed): (&Recipe, u64),
    device: Device,
    progress: &Progress,
) -> Result<(Weights, Volumes, String), StartError> {
    let own = recipe.clone();
    let volume = move |number: u64| synthetic_volume(&own, seed, number);
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
    let model = pretrain(device, recipe.network(), &settings, &volume, &never, &mut |_, _| bar.step())?;
    let description = match start.steps {
        0 => "untrained, random weights".to_owned(),
        steps => format!("weakly trained: {steps} steps on {} anonymous synthetic volumes", start.volumes),
    };
    Ok((model, Box::new(volume), description))
}

/// The student of an anatomy, and its volumes.
fn anatomical((recipe, seed): (&Recipe, u64), anatomy: &Anatomy) -> Result<(Weights, Volumes, String), StartError> {
    let model = checkpoint::read(&anatomy.model)?;
    layout::blank(&recipe.network()).same_architecture(&model)?;
    let [spacing, ..] = recipe.spacing_mm;
    let ways = anatomy::Recipe::open(&anatomy.recipe)?.stored(&anatomy.axes, spacing)?;
    let volume = move |number: u64| anatomical_scan(&ways, seed, number);
    let description = format!("`{}`, trained on synthetic anatomy", anatomy.model.display());
    Ok((model, Box::new(volume), description))
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
