//! `semisam-node bench train`: iterations of local training on a folder of scans, from scan to moved weights.

use std::{collections::BTreeMap, num::NonZeroUsize, path::PathBuf, sync::atomic::AtomicBool, time::Instant};

use clap::Args;

use super::{
    super::{
        guides::GuideArgs,
        storage::{StorageArgs, fetch_all},
        train::at_least_one,
        viewing::parse_patch,
    },
    BenchError, Setting,
    measure::{Memory, Report, Times, milliseconds},
};
use crate::{
    data::folder::Cohort,
    model::{VNetConfig, checkpoint, layout},
    train::local::{Aid, LocalRun, Method, Report as Word, State, train_guided},
};

/// `semisam-node bench train`.
#[derive(Clone, Debug, Args)]
pub struct TrainBenchArgs {
    /// A folder of scans, some with labels.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// What unlabelled scans are used for.
    #[arg(long, value_enum, default_value = "mean-teacher")]
    pub method: Method,
    /// Voxel size to train at, in millimetres.
    #[arg(long, default_value_t = 2.5, value_name = "MM")]
    pub spacing: f64,
    /// Sides of a training crop in voxels, multiples of 16.
    #[arg(long, default_value = "64,48,32", value_name = "X,Y,Z", value_parser = parse_patch)]
    pub patch: [usize; 3],
    /// Channels of the student's first level.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub base_filters: usize,
    /// Iterations that are counted.
    #[arg(long, default_value = "20", value_name = "S")]
    pub steps: NonZeroUsize,
    /// Names the first weights and everything drawn.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Start from this model instead of random weights.
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,
    /// Open the labels of the first so many labelled scans, by name, and of no other: the rest count as unlabelled.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub labels: Option<usize>,
    /// Generalists.
    #[command(flatten)]
    pub guides: GuideArgs,
    /// Prepared scans; there is a cache only where a folder is named.
    #[command(flatten)]
    pub storage: StorageArgs,
    /// Threads, warm-up, device.
    #[command(flatten)]
    pub setting: Setting,
}

/// Measures.
///
/// # Errors
/// If the device is absent, there is no such network, or scans cannot be read or do not fit.
pub fn run(args: &TrainBenchArgs) -> Result<Report, BenchError> {
    let device = args.setting.start()?;
    let mut config = VNetConfig::binary(args.base_filters);
    config.check()?;
    let mut start = layout::initial(&config, args.seed);
    if let Some(path) = &args.init {
        start = checkpoint::read(path)?;
        config = VNetConfig::of(&start, None)?;
    }
    let cohort = Cohort::open(&args.data)?;
    cohort.require_labelled()?;
    let (loading, never) = (Instant::now(), AtomicBool::new(false));
    let storage = args.storage.open(None)?;
    let scans =
        fetch_all(cohort.declared(args.labels).iter(), (args.spacing, None), storage, &never)?.expect("nobody cancels");
    let load_seconds = milliseconds(loading) / 1e3;

    let steps = args.setting.warm_up + args.steps.get();
    let mut run = LocalRun::new(config, args.method, args.patch, steps as u64, args.seed);
    let generalists = args.guides.open(&mut run, device)?;
    let store = args.storage.open_embeddings(None)?;
    let state = State::new(&run, &start);
    let memory = Memory::before();
    let (mut start, mut ms, mut loss) = (Instant::now(), Vec::with_capacity(steps), 0.0);
    let (mut waited, mut waited_before, mut asked, mut asked_before) = (0.0, 0.0, 0.0, 0.0);
    let mut each = |word: &Word<'_>| {
        ms.push(milliseconds(start));
        start = Instant::now();
        loss = word.losses().total;
        (waited, asked) = (word.waited, word.asked);
        if word.step == args.setting.warm_up as u64 {
            (waited_before, asked_before) = (waited, asked);
        }
    };
    let aid = Aid { generalists: &generalists, store: &store, ..Aid::default() };
    train_guided(device, &run, state, &scans, aid, &never, &mut each)?;
    let memory = memory.peaked();

    let times = Times::new(ms.split_off(args.setting.warm_up));
    let seconds = times.ms.iter().sum::<f64>() / 1e3;
    let (per_second, share) = (times.ms.len() as f64 / seconds, (waited - waited_before) / seconds);
    let report = Report::new("train", device, memory, BTreeMap::from([("iteration", times)]));
    let report = report.with("iterations_per_second", per_second).with("waited", share);
    let report = report.with("asked", (asked - asked_before) / seconds);
    Ok(report.with("load_seconds", load_seconds).with("scans", scans.len()).with("loss", loss))
}
