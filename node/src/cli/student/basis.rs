//! `semisam-node student basis`: the directions in which a plan's updates are released, and the clip norm that fits them.
//!
//! What synthetic patients of a recipe's anatomy would send under the plan spans the directions, strongest first
//! (spec/privacy.md, section 14). No patient is touched, so it costs no privacy; the same command gives the same file.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use clap::Args;
use semisam_shared::{
    plan::{ReadPlan, ReadPlanError, ReleaseSpace},
    weights::WeightsError,
};
use serde_json::json;

use crate::{
    cli::{Format, print, replacing, resolve},
    data::recipe::{Recipe, RecipeError, View},
    device::{DeviceChoice, DeviceError},
    model::{
        ModelError, VNetConfig,
        checkpoint::{self, CheckpointError},
    },
    participant::contribution::{local_training, network},
    train::{
        TrainError,
        patient::LocalTraining,
        pretrain::{anatomical_scan, public_subspace, synthetic_deltas},
        subspace::{SubspaceError, to_weights},
    },
};

/// Numbers of the volumes: none of those that a student was pre-trained on.
const VOLUMES: u64 = 1 << 32;

/// `semisam-node student basis`.
#[derive(Clone, Debug, Args)]
pub struct BasisArgs {
    /// The plan, as people write it (deploy/plan.toml is a sample): what a synthetic patient does is what it says.
    #[arg(long, value_name = "FILE")]
    pub plan: PathBuf,
    /// The model before round 1, or the name of a shipped one.
    #[arg(long, value_name = "FILE|NAME")]
    pub model: PathBuf,
    /// The anatomy: a file, or the name of a shipped recipe.
    #[arg(long, value_name = "FILE|NAME")]
    pub recipe: String,
    /// The basis, .safetensors.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// How many directions: what a site releases each round is so many numbers.
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub directions: u32,
    /// Synthetic patients, more than there are directions.
    #[arg(long, default_value_t = 300, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=4096))]
    pub patients: u32,
    /// Names everything drawn.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How voxels of the real scans are stored, where these do not say so: R or L, A or P, S or I. Repeat for several ways,
    /// each as often.
    #[arg(long, value_parser = View::flips, value_name = "RAS")]
    pub axes: Vec<[bool; 3]>,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    pub device: DeviceChoice,
}

/// Why there is no basis.
#[derive(Debug, thiserror::Error)]
pub enum BasisError {
    /// The plan.
    #[error("`{}` cannot be used", path.display())]
    Plan {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: ReadPlanError,
    },
    /// The plan releases something else.
    #[error("`{}` does not release in a basis: it needs none, or `space = \"basis\"`", .0.display())]
    NoBasis(PathBuf),
    /// Voxels are cubes in a recipe.
    #[error(
        "the plan's voxels must be cubes, because those of a recipe are: make the three numbers of `spacing_mm` equal"
    )]
    NoCubes,
    /// Recipe and plan are about different classes.
    #[error("`{recipe}` paints {painted} classes with the background, but the plan's student has {planned}")]
    Classes {
        /// The recipe's name.
        recipe: String,
        /// Its classes.
        painted: usize,
        /// The student's.
        planned: usize,
    },
    /// The recipe.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The model.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model is no student of the plan.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The computation.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// Too few patients.
    #[error(transparent)]
    Subspace(#[from] SubspaceError),
    /// The basis cannot be put into a file.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A file cannot be read or written.
    #[error("cannot read or write `{}`; check that it exists, may be written and that the disk has room", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The output.
    #[error("cannot print the result")]
    Print(#[from] io::Error),
}

/// Runs the command.
///
/// # Errors
/// If plan, model and recipe do not fit each other, or the file cannot be written.
pub fn run(args: &BasisArgs, format: Format, out: &mut dyn Write) -> Result<(), BasisError> {
    let file = |path: &PathBuf| {
        let path = path.clone();
        move |source| BasisError::File { path, source }
    };
    let device = resolve(args.device)?;
    let text = fs::read_to_string(&args.plan).map_err(file(&args.plan))?;
    let plan = read(args, &text)?;
    let [spacing, ..] = plan.scans.spacing_mm.map(|mm| mm.get());
    let config = network(&plan);
    let ways = Recipe::open(&args.recipe)?.stored(&args.axes, spacing)?;
    fits(&ways[0], config)?;
    let model = checkpoint::read(&args.model)?;
    let volume = |number: u64| anatomical_scan(&ways, args.seed, number);
    let settings = supervised(local_training(&plan));
    let numbers = (VOLUMES, u64::from(args.patients));
    let deltas = synthetic_deltas(device, config, &model, &settings, numbers, &volume)?;
    let (basis, clip_norm) = public_subspace(&deltas, args.directions as usize, &[])?;
    let bytes = checkpoint::half_precision(&to_weights(&basis)?)?;
    replacing::replace(&args.out, &bytes).map_err(file(&args.out))?;
    let words = format!(
        "`{}`: {} directions of {} weights, {} bytes, from {} synthetic patients of `{}`\nclip norm  {clip_norm:.4}: the \
         median length of what they send; write it into the plan as `privacy.clip_norm`",
        args.out.display(),
        args.directions,
        model.count(),
        bytes.len(),
        args.patients,
        ways[0].name()
    );
    let value = json!({
        "basis": args.out, "directions": args.directions, "weights": model.count(), "bytes": bytes.len(),
        "patients": args.patients, "recipe": ways[0].name(), "clip_norm": clip_norm,
    });
    Ok(print(out, format, &words, &value)?)
}

/// The plan, whose length of a release is what the command says.
fn read(args: &BasisArgs, text: &str) -> Result<semisam_shared::plan::Plan, BasisError> {
    let failed = |source| BasisError::Plan { path: args.plan.clone(), source };
    let plan = ReadPlan::parse(text, Some(u64::from(args.directions))).map_err(failed)?.plan;
    if !matches!(plan.privacy.release, ReleaseSpace::Basis { .. }) {
        return Err(BasisError::NoBasis(args.plan.clone()));
    }
    let [x, y, z] = plan.scans.spacing_mm;
    if x != y || y != z { Err(BasisError::NoCubes) } else { Ok(plan) }
}

fn fits(recipe: &Recipe, config: VNetConfig) -> Result<(), BasisError> {
    let (painted, planned) = (recipe.classes().len() + 1, config.classes);
    if painted == planned {
        return Ok(());
    }
    Err(BasisError::Classes { recipe: recipe.name().to_owned(), painted, planned })
}

/// Synthetic patients are all labelled: nobody needs to be asked about them.
fn supervised(settings: LocalTraining) -> LocalTraining {
    LocalTraining { consistency_weight: 0.0, pseudo_label_threshold: 1.0, certain: false, guidance: None, ..settings }
}
