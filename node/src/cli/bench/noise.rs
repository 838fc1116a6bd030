//! `semisam-node bench noise`: how long the noise of a release takes, beside opendp's sampler, and in how much memory.
//!
//! A key is made and the table is built anew in each repetition, as in a release. Memory is the peak while our own sampler
//! draws, less the vector itself and what was there before; opendp is measured afterwards, so that it counts nowhere.
//! Nanoseconds of a coordinate are those that the threads computed, by the kernel's account (schedstat of each thread):
//! waiting for a core that other programs have does not count. It counts in ticks of the scheduler: measure many at once.

use std::{collections::BTreeMap, fs, num::NonZeroUsize};

use clap::Args;
use semisam_shared::{
    chain::Head,
    ids::{Digest, RoundNumber, SiteId},
    ledger::Query,
    plan::SIGMA,
};

use super::{
    BenchError, Setting,
    measure::{Memory, Report, Times},
};
use crate::privacy::noise::{self, NoiseError, Purpose};

/// `semisam-node bench noise`.
#[derive(Clone, Debug, Args)]
pub struct NoiseArgs {
    /// Coordinates of a release.
    #[arg(long, default_value = "1000000", value_name = "P")]
    pub coordinates: NonZeroUsize,
    /// Coordinates that opendp draws, which takes a hundred times as long; 0 leaves it out.
    #[arg(long, default_value_t = 100_000, value_name = "P")]
    pub opendp_coordinates: usize,
    /// Repetitions that are counted.
    #[arg(long, default_value = "5", value_name = "N")]
    pub repeats: NonZeroUsize,
    /// Threads, warm-up, device.
    #[command(flatten)]
    pub setting: Setting,
}

/// Measures.
///
/// # Errors
/// If the operating system gives no entropy.
pub fn run(args: &NoiseArgs) -> Result<Report, BenchError> {
    let device = args.setting.start()?;
    let (coordinates, theirs, repeats) = (args.coordinates.get(), args.opendp_coordinates, args.repeats.get());
    let query = Query { plan: Digest::ZERO, round: RoundNumber(1), model: Digest::ZERO };
    let purpose = Purpose { site: SiteId([0; 32]), query, reserve: 0, head: Head::EMPTY };
    let memory = Memory::before();
    let draw = || noise::draw(coordinates, SIGMA, &purpose).map(drop);
    let (drawn, own) = measured(args.setting.warm_up, repeats, draw)?;
    let mut times = BTreeMap::from([("draw", drawn)]);
    let memory = memory.peaked();
    let beyond = memory.rss_before_bytes.zip(memory.peak_rss_bytes);
    let beyond = beyond.map(|(before, peak)| peak as i64 - before as i64 - (coordinates * size_of::<i64>()) as i64);
    let mut opendp = None;
    if theirs > 0 {
        let draw = || noise::draw_reference(theirs, SIGMA).map(drop);
        let (drawn, least) = measured(args.setting.warm_up.min(1), repeats, draw)?;
        times.insert("opendp", drawn);
        opendp = least;
    }
    let each = |computed: Option<u64>, count: usize| computed.map(|computed| computed as f64 / count as f64);
    Ok(Report::new("noise", device, memory, times)
        .with("coordinates", coordinates)
        .with("opendp_coordinates", theirs)
        .with("cpu_ns_per_coordinate", each(own, coordinates))
        .with("opendp_cpu_ns_per_coordinate", each(opendp, theirs))
        .with("bytes_beyond_the_vector", beyond))
}

/// The times of `work`, and the least nanoseconds that all threads computed in one repetition.
fn measured(
    warm_up: usize,
    repeats: usize,
    mut work: impl FnMut() -> Result<(), NoiseError>,
) -> Result<(Times, Option<u64>), NoiseError> {
    let mut least: Option<u64> = None;
    let times = Times::measure(warm_up, repeats, || {
        let before = computed();
        work()?;
        let took = before.zip(computed()).map(|(before, after)| after.saturating_sub(before));
        least = least.into_iter().chain(took).min();
        Ok::<(), NoiseError>(())
    })?;
    Ok((times, least))
}

/// Nanoseconds that the threads of this process have computed so far; none where the system does not tell.
fn computed() -> Option<u64> {
    let threads = fs::read_dir("/proc/self/task").ok()?.flatten();
    threads
        .map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok()?.split(' ').next()?.parse::<u64>().ok())
        .sum()
}
