//! `semisam-node bench train`: iterations of local training on a folder of scans, from scan to moved weights.

use std::{collections::BTreeMap, num::NonZeroUsize, path::PathBuf, sync::atomic::AtomicBool, time::Instant};

use clap::Args;

use super::{
    super::{
        storage::{StorageArgs, fetch_all},
        viewing::parse_patch,
    },
    BenchError, Setting,
    measure::{Memory, Report, Times, milliseconds},
};
use crate::{
    data::folder::Cohort,
    model::{VNetConfig, layout},
    train::local::{LocalRun, Method, Report as Word, State, train},
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
    let config = VNetConfig::binary(args.base_filters);
    config.check()?;
    let cohort = Cohort::open(&args.data)?;
    cohort.require_labelled()?;
    let (loading, never) = (Instant::now(), AtomicBool::new(false));
    let storage = args.storage.open(None)?;
    let scans = fetch_all(cohort.scans(), args.spacing, storage, &never)?.expect("nobody cancels");
    let load_seconds = milliseconds(loading) / 1e3;

    let steps = args.setting.warm_up + args.steps.get();
    let run = LocalRun::new(config, args.method, args.patch, steps as u64, args.seed);
    let state = State::new(&run, &layout::initial(&config, args.seed));
    let memory = Memory::before();
    let (mut start, mut ms, mut loss) = (Instant::now(), Vec::with_capacity(steps), 0.0);
    let (mut waited, mut waited_before) = (0.0, 0.0);
    let mut each = |word: &Word<'_>| {
        ms.push(milliseconds(start));
        start = Instant::now();
        loss = word.losses().total;
        waited = word.waited;
        if word.step == args.setting.warm_up as u64 {
            waited_before = waited;
        }
    };
    train(device, &run, state, &scans, &never, &mut each)?;
    let memory = memory.peaked();

    let times = Times::new(ms.split_off(args.setting.warm_up));
    let seconds = times.ms.iter().sum::<f64>() / 1e3;
    let (per_second, share) = (times.ms.len() as f64 / seconds, (waited - waited_before) / seconds);
    let report = Report::new("train", device, memory, BTreeMap::from([("iteration", times)]));
    let report = report.with("iterations_per_second", per_second).with("waited", share);
    Ok(report.with("load_seconds", load_seconds).with("scans", scans.len()).with("loss", loss))
}
