//! `semisam-node bench train`: iterations of local training on a folder of scans, from scan to moved weights.

use std::{collections::BTreeMap, num::NonZeroUsize, path::PathBuf, sync::atomic::AtomicBool, time::Instant};

use clap::Args;
use rayon::prelude::*;

use super::{
    super::{train::load, viewing::parse_patch},
    BenchError, Setting,
    measure::{Memory, Report, Times, milliseconds},
};
use crate::{
    data::folder::Cohort,
    model::{VNetConfig, layout},
    train::{
        crops::PreparedScan,
        local::{LocalRun, Method, Report as Word, State, train},
    },
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
    let loading = Instant::now();
    let scans = cohort.scans().collect::<Vec<_>>().into_par_iter().map(|scan| load(scan, args.spacing));
    let scans = scans.collect::<Result<Vec<PreparedScan>, _>>()?;
    let load_seconds = milliseconds(loading) / 1e3;
    let (labelled, unlabelled): (Vec<_>, Vec<_>) = scans.into_iter().partition(|scan| scan.labels.is_some());

    let steps = args.setting.warm_up + args.steps.get();
    let run = LocalRun::new(config, args.method, args.patch, steps as u64, args.seed);
    let state = State::new(&run, &layout::initial(&config, args.seed));
    let memory = Memory::before();
    let (mut start, mut ms, mut loss) = (Instant::now(), Vec::with_capacity(steps), 0.0);
    let mut each = |word: &Word<'_>| {
        ms.push(milliseconds(start));
        start = Instant::now();
        loss = word.losses().total;
    };
    train(device, &run, state, (&labelled, &unlabelled), &AtomicBool::new(false), &mut each)?;
    let memory = memory.peaked();

    let times = Times::new(ms.split_off(args.setting.warm_up));
    let per_second = times.ms.len() as f64 / (times.ms.iter().sum::<f64>() / 1e3);
    let report = Report::new("train", device, memory, BTreeMap::from([("iteration", times)]));
    let report = report.with("iterations_per_second", per_second).with("load_seconds", load_seconds);
    Ok(report.with("scans", labelled.len() + unlabelled.len()).with("loss", loss))
}
