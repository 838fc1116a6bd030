//! `semisam-sim bench privacy`: what a federation learns under noise, beside what each hospital learns alone, and beside a
//! federation without noise (spec/privacy.md, section 14). In reading order: [`runs`] (what is measured), [`federation`]
//! (rounds with the node's own releases), [`trainings`] (what hospitals do for themselves), [`table`].
//!
//! The plan is a file as people write it; its noise multiplier is replaced by what each epsilon demands, its clip norm by what
//! `semisam-node student basis` finds. Every seed deals the patients anew. What is done is written down at once, so that the same
//! command goes on where it was stopped. Scores are of the held-out scans, after the last round or step.

pub mod federation;
pub mod runs;
pub mod scans;
pub mod table;
pub mod trainings;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use semisam_node::{
    data::cache::{Cache, CacheError},
    device::Device,
    generalist::store::Store,
    model::{checkpoint, checkpoint::CheckpointError},
    participant::contribution::Contributor,
    train::scans::Storage,
};
use semisam_shared::{
    clock,
    decimal::Decimal,
    ids::Digest,
    plan::{Plan, ReadPlan, ReadPlanError, ReleaseSpace},
    weights::{Weights, WeightsError},
};

use self::{
    federation::{FederationError, Files},
    runs::{Arm, Of, Training},
    scans::{Places, Scans, ScansError},
    table::Row,
    trainings::{Trainings, TrainingsError, basis},
};
use crate::{
    bench::{
        inputs::{self, InputsError},
        record::{Record, RecordError, Score},
        sides,
    },
    demo::{
        children::{ChildError, Launcher},
        disk::{self, DiskError},
        layout::Hospital,
        plan::calibrate,
        progress::Progress,
    },
};

/// Bytes of prepared scans that are kept on disk, and of those that are held in memory.
const CACHE: u64 = 8 << 30;
const MEMORY: u64 = 1 << 30;

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything is written.
    pub out: PathBuf,
    /// What is measured.
    pub settings: Settings,
    /// Trainings of hospitals at once, each on one thread.
    pub jobs: usize,
}

/// Everything that a table is a function of, beside the scans.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where scans come from.
    pub scans: Scans,
    /// The plan, as people write it.
    pub plan: PathBuf,
    /// The model before round 1.
    pub init: PathBuf,
    /// The anatomy of the basis, and how scans are stored.
    pub basis: Basis,
    /// Hospitals.
    pub hospitals: u32,
    /// Labelled patients of each, in the order of columns.
    pub labelled: Vec<usize>,
    /// What private federations promise.
    pub epsilons: Vec<f64>,
    /// Measurements of each kind, with seeds from 1.
    pub seeds: u64,
    /// What a hospital does that trains alone.
    pub alone: Training,
    /// What a hospital does that goes on from the common model; no step skips this.
    pub tune: Training,
}

/// How the basis is made.
#[derive(Clone, Debug)]
pub struct Basis {
    /// The anatomy.
    pub recipe: String,
    /// How voxels of the scans are stored.
    pub axes: String,
    /// Directions.
    pub directions: u32,
    /// Synthetic patients.
    pub patients: u32,
}

impl Settings {
    /// The rows of the table.
    pub fn arms(&self) -> Vec<Arm> {
        [Arm::Alone, Arm::Plain].into_iter().chain(self.epsilons.iter().copied().map(Arm::Private)).collect()
    }

    /// One measurement under these settings.
    pub fn of(&self, settings: &Digest, labelled: usize, (arm, training): Row, seed: u64) -> Of {
        Of { settings: *settings, hospitals: self.hospitals, labelled, arm, training, seed }
    }
}

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum PrivacyError {
    /// The file system said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The scans.
    #[error(transparent)]
    Scans(#[from] ScansError),
    /// A program failed.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// What is known already.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The rounds.
    #[error(transparent)]
    Federation(#[from] FederationError),
    /// What hospitals do for themselves.
    #[error(transparent)]
    Trainings(#[from] TrainingsError),
    /// The first model.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The plan does not read.
    #[error("`{}` cannot be used", path.display())]
    Plan {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: ReadPlanError,
    },
    /// More labels than patients.
    #[error(
        "--labelled {asked} asks for more labelled patients than each of {hospitals} hospitals has ({there}): ask for fewer, or share the scans among fewer --hospitals"
    )]
    Labelled {
        /// How many are asked for.
        asked: usize,
        /// How many there are.
        there: u32,
        /// Who shares them.
        hospitals: u32,
    },
    /// The scans cannot be told from others.
    #[error(transparent)]
    Inputs(#[from] InputsError),
    /// What synthetic patients send has no length.
    #[error("the clip norm of the basis is {0}: make another basis, of more --synthetic-patients")]
    ClipNorm(f64),
    /// Prepared scans cannot be kept.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// This executable cannot be found, so it cannot start programs.
    #[error("cannot find this program's own file, which is needed to start the others")]
    Executable(#[source] std::io::Error),
}

/// What measurements share.
struct Bench<'a> {
    settings: &'a Settings,
    digest: Digest,
    places: Places,
    trainings: Trainings,
    plan: Plan,
    model: PathBuf,
    basis: PathBuf,
    cache: Arc<Cache>,
    progress: &'a Progress,
}

/// Measures what is not on record yet, and writes `table.md`. Answers the table.
///
/// # Errors
/// If scans are missing, a program fails, or a result cannot be written. What was done is kept.
pub fn run(options: &Options, progress: &Progress) -> Result<String, PrivacyError> {
    disk::create_folder(&options.out)?;
    let mut record = Record::open(&options.out.join("runs.jsonl"))?;
    let bench = Bench::prepare(options, progress)?;
    let settings = &options.settings;
    for seed in 1..=settings.seeds {
        for &labelled in &settings.labelled {
            bench.measure(labelled, seed, &mut record)?;
        }
    }
    let table = table::table(settings, &bench.digest, &record);
    disk::write(&options.out.join("table.md"), table.as_bytes())?;
    Ok(table)
}

impl<'a> Bench<'a> {
    /// Parts the scans, and makes the model's file and the basis.
    fn prepare(options: &'a Options, progress: &'a Progress) -> Result<Self, PrivacyError> {
        let (settings, out) = (&options.settings, disk::absolute(&options.out)?);
        let executable = std::env::current_exe().map_err(PrivacyError::Executable)?;
        let (places, logs) = (Places { test: out.join("test"), out: out.clone() }, out.join("logs"));
        disk::create_folder(&logs)?;
        let model = out.join("initial.safetensors");
        disk::write(&model, &checkpoint::read(&settings.init)?.to_safetensors()?)?;
        // what is wrong with plan or scans is said before minutes are spent on the basis
        let mut plan = plan(settings)?;
        let spacing = plan.scans.spacing_mm[0].get();
        plan.quorum = settings.hospitals;
        let (hospitals, asked) = (settings.hospitals, settings.labelled.iter().copied().max().unwrap_or(0));
        let there = settings.scans.prepare(&places, hospitals, spacing)?;
        if asked > there as usize {
            return Err(PrivacyError::Labelled { asked, there, hospitals });
        }
        plan.privacy.expected_patients = there;
        let launcher = Launcher { executable, threads: 1 };
        let (basis, clip_norm) = basis(settings, &launcher, &model, (&out, options.jobs))?;
        complete(&mut plan, &model, (&basis, clip_norm))?;
        let trainings = Trainings {
            launcher,
            jobs: options.jobs,
            spacing: spacing.to_string(),
            patch: sides(plan.scans.patch),
            test: places.test.clone(),
            logs,
            cache: out.join("cache"),
        };
        let cache = Arc::new(Cache::open(&out.join("cache"), CACHE, Box::new(clock::now))?);
        let digest = digest(settings, &plan)?;
        Ok(Self { settings, digest, places, trainings, plan, model, basis, cache, progress })
    }

    /// Everything about one number of labels and one seed.
    fn measure(&self, labelled: usize, seed: u64, record: &mut Record<Of>) -> Result<(), PrivacyError> {
        let rows = table::rows(self.settings);
        let of = |row: Row| self.settings.of(&self.digest, labelled, row, seed);
        if rows.iter().all(|row| record.find(&of(*row)).is_some()) {
            return Ok(());
        }
        let spacing = self.plan.scans.spacing_mm[0].get();
        let settings = self.settings;
        let hospitals = settings.scans.deal(&self.places, settings.hospitals, (labelled, seed), spacing)?;
        for row in rows {
            let start = match row.0 {
                Arm::Alone => self.model.clone(),
                // the one without training of its own comes first and makes it
                _ if record.find(&of(row)).is_some() => continue,
                arm => self.common(&of((arm, None)), &hospitals)?,
            };
            self.keep(of(row), record, || match row.1 {
                Some(training) => Ok(self.trainings.each(&hospitals, &start, (training, seed))?),
                None => Ok(self.trainings.evaluate(&start)?),
            })?;
        }
        Ok(())
    }

    /// The common model of a measurement; what an interrupted command had is taken as it is.
    fn common(&self, of: &Of, hospitals: &[Hospital]) -> Result<PathBuf, PrivacyError> {
        let folder = self.places.out.join("models").join(format!("{of}-{}", self.digest.short()));
        let model = folder.with_extension("safetensors");
        if !model.exists() {
            let started = Instant::now();
            if folder.exists() {
                disk::remove_folder(&folder)?;
            }
            disk::create_folder(&folder)?;
            let common = self.federate(of, hospitals, &folder)?;
            disk::write(&model, &common.to_safetensors()?)?;
            disk::remove_folder(&folder)?;
            self.progress.say(&format!("{of}: federated in {:.0} s", started.elapsed().as_secs_f64()));
        }
        Ok(model)
    }

    /// Measures, unless it is on record, and writes it down.
    fn keep(
        &self,
        of: Of,
        record: &mut Record<Of>,
        measure: impl FnOnce() -> Result<Score, PrivacyError>,
    ) -> Result<(), PrivacyError> {
        if record.find(&of).is_none() {
            let started = Instant::now();
            let score = measure()?;
            let seconds = started.elapsed().as_secs_f64();
            self.progress.say(&format!("{of}: dice {:.3} in {seconds:.0} s", score.dice));
            record.add(of, score, Some(seconds))?;
        }
        Ok(())
    }

    /// The common model after all rounds.
    fn federate(&self, of: &Of, hospitals: &[Hospital], folder: &Path) -> Result<Weights, PrivacyError> {
        let mut plan = self.plan.clone();
        // patients' draws are named by the plan
        plan.name = format!("{}, seed {}", plan.name, of.seed);
        let closed = |round| self.progress.say(&format!("{of}: round {round} of {} closed", self.plan.rounds));
        let storage = || Storage { cache: Some(self.cache.clone()), memory_bytes: MEMORY };
        let embeddings = Arc::new(Cache::open(&self.places.out.join("embeddings"), CACHE, Box::new(clock::now))?);
        let contributors: Vec<Contributor> = hospitals
            .iter()
            .map(|hospital| {
                let contributor = Contributor::new(hospital.scans(), Device::Cpu, storage());
                contributor.with_generalists(self.places.out.join("generalists"), Store::shared(embeddings.clone()))
            })
            .collect();
        let files = Files { model: &self.model, basis: &self.basis };
        let Arm::Private(epsilon) = of.arm else {
            return Ok(federation::plain(&plan, files, &contributors, folder, closed)?);
        };
        let noise = calibrate(epsilon, plan.privacy.delta.get(), plan.rounds);
        plan.privacy.noise_multiplier = Decimal::new(noise).expect("a calibrated noise multiplier is finite");
        let outcome = federation::private(&plan, files, &contributors, folder, closed)?;
        let spent = outcome.spent.iter().copied().fold(0.0, f64::max);
        self.progress.say(&format!("noise multiplier {noise}: every ledger says at most epsilon {spent:.3}"));
        Ok(outcome.model)
    }
}

/// The plan as people write it.
fn plan(settings: &Settings) -> Result<Plan, PrivacyError> {
    let text = disk::read_text(&settings.plan)?;
    let read = ReadPlan::parse(&text, Some(u64::from(settings.basis.directions)));
    Ok(read.map_err(|source| PrivacyError::Plan { path: settings.plan.clone(), source })?.plan)
}

/// Writes into `plan` what the files say.
fn complete(plan: &mut Plan, model: &Path, (basis, clip_norm): (&Path, f64)) -> Result<(), PrivacyError> {
    let bytes = disk::read(model)?;
    plan.initial_model = Digest::of(&bytes);
    plan.student.architecture = Weights::from_safetensors(&bytes)?.architecture();
    if let ReleaseSpace::Basis { basis: digest, .. } = &mut plan.privacy.release {
        *digest = Digest::of(&disk::read(basis)?);
    }
    plan.privacy.clip_norm = Decimal::new(clip_norm).ok_or(PrivacyError::ClipNorm(clip_norm))?;
    Ok(())
}

/// What names scans, plan and files.
fn digest(settings: &Settings, plan: &Plan) -> Result<Digest, PrivacyError> {
    let plan = plan.digest().map_err(FederationError::from)?;
    let scans = match &settings.scans {
        Scans::Folder(data) => inputs::scans(data)?.to_string(),
        Scans::Synthetic(patients) => format!("{patients} synthetic patients"),
    };
    Ok(Digest::of(format!("{plan} {scans}").as_bytes()))
}
