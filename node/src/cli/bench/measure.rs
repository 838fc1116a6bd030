//! What a measurement tells: times, memory, threads and the instructions of the CPU.
//!
//! Minimum and median of single repetitions, because other programs only ever add time. Memory is what the kernel says
//! of the whole process (`proc_pid_status(5)`): the peak, and how much was there just before the first repetition.

use std::{collections::BTreeMap, fmt::Write, fs, time::Instant};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::device::Device;

/// How long each repetition took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Times {
    /// Milliseconds, in order.
    pub ms: Vec<f64>,
    /// The shortest.
    pub min_ms: f64,
    /// The middle one, or the mean of the two middle ones.
    pub median_ms: f64,
}

/// Memory of the process; absent where the system does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// Resident just before the first repetition.
    pub rss_before_bytes: Option<u64>,
    /// The most that was ever resident.
    pub peak_rss_bytes: Option<u64>,
}

/// The result of a command.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was measured.
    pub bench: &'static str,
    /// Of each part, by its name.
    pub times: BTreeMap<&'static str, Times>,
    /// How many threads compute.
    pub threads: usize,
    /// The instructions that the kernels use.
    pub cpu_path: String,
    /// Where it was computed.
    pub device: String,
    /// Of the process.
    #[serde(flatten)]
    pub memory: Memory,
    /// What only this measurement tells.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Times {
    /// Of repetitions that took `ms`; zero if there was none.
    pub fn new(ms: Vec<f64>) -> Self {
        let mut sorted = ms.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |position: usize| sorted.get(position).copied().unwrap_or(0.0);
        let median_ms = (at(sorted.len().saturating_sub(1) / 2) + at(sorted.len() / 2)) / 2.0;
        Self { min_ms: at(0), median_ms, ms }
    }

    /// Does `work` `warm_up` times uncounted and then `repeats` times.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn measure<E>(warm_up: usize, repeats: usize, mut work: impl FnMut() -> Result<(), E>) -> Result<Self, E> {
        let mut ms = Vec::with_capacity(repeats);
        for repetition in 0..warm_up + repeats {
            let start = Instant::now();
            work()?;
            if repetition >= warm_up {
                ms.push(milliseconds(start));
            }
        }
        Ok(Self::new(ms))
    }
}

/// Since `start`.
pub fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

impl Memory {
    /// Now, as the state before the first repetition.
    pub fn before() -> Self {
        Self { rss_before_bytes: of_process("VmRSS"), peak_rss_bytes: None }
    }

    /// Adds the peak so far.
    pub fn peaked(self) -> Self {
        self.with_peak(of_process("VmHWM"))
    }

    /// Adds `peak`. proc(5) calls both counts inaccurate, and threads that free memory move one before the other:
    /// where it is below what was seen before the first repetition, that was the peak.
    fn with_peak(self, peak: Option<u64>) -> Self {
        Self { peak_rss_bytes: peak.map(|peak| peak.max(self.rss_before_bytes.unwrap_or(0))), ..self }
    }
}

/// A field of /proc/self/status, in bytes.
fn of_process(field: &str) -> Option<u64> {
    field_bytes(&fs::read_to_string("/proc/self/status").ok()?, field)
}

/// `field` of a text of lines like `VmHWM:     1234 kB`.
fn field_bytes(status: &str, field: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

impl Report {
    /// Of `bench` on `device`, with the threads of the current pool.
    pub fn new(bench: &'static str, device: Device, memory: Memory, times: BTreeMap<&'static str, Times>) -> Self {
        let threads = rayon::current_num_threads();
        Self {
            bench,
            times,
            threads,
            cpu_path: semisam_kernels::simd::path().to_string(),
            device: device.to_string(),
            memory,
            more: Map::new(),
        }
    }

    /// With one more thing to tell.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    /// For people.
    pub fn words(&self) -> String {
        let mut words = format!("{}, {} threads, {} ({})", self.bench, self.threads, self.device, self.cpu_path);
        for (name, Times { ms, min_ms, median_ms }) in &self.times {
            let _ = write!(words, "\n{name:<10} min {min_ms:>10.2} ms   median {median_ms:>10.2} ms   of {}", ms.len());
        }
        if let Memory { rss_before_bytes: Some(before), peak_rss_bytes: Some(peak) } = self.memory {
            let [peak, before] = [peak, before].map(|bytes| bytes as f64 / f64::from(1 << 20));
            let _ = write!(words, "\nmemory     peak {peak:.0} MiB, {before:.0} MiB of it before the first repetition");
        }
        for (name, value) in &self.more {
            let _ = write!(words, "\n{name}: {value}");
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_few_and_of_none() {
        let of = |ms: &[f64]| (Times::new(ms.to_vec()).min_ms, Times::new(ms.to_vec()).median_ms);
        assert_eq!(of(&[3.0, 1.0, 2.0]), (1.0, 2.0));
        assert_eq!(of(&[4.0, 1.0, 2.0, 3.0]), (1.0, 2.5));
        assert_eq!(of(&[5.0]), (5.0, 5.0));
        assert_eq!(of(&[]), (0.0, 0.0));
        assert_eq!(Times::new(vec![3.0, 1.0]).ms, [3.0, 1.0]);
    }

    #[test]
    fn warm_up_is_done_but_not_counted() {
        let mut done = 0;
        let times = Times::measure(2, 3, || {
            done += 1;
            Ok::<(), ()>(())
        });
        assert_eq!((times.expect("nothing fails").ms.len(), done), (3, 5));
        let mut left = 2;
        let failed = Times::measure(0, 5, || {
            left -= 1;
            if left == 0 { Err("no more") } else { Ok(()) }
        });
        assert_eq!(failed, Err("no more"));
    }

    #[test]
    fn memory_is_read_from_the_status_text() {
        let status = "Name:\tx\nVmHWMX:\t7 kB\nVmHWM:\t   2048 kB\nVmRSS:\t3 kB\nThreads:\t1\n";
        assert_eq!(field_bytes(status, "VmHWM"), Some(2 << 20));
        assert_eq!(field_bytes(status, "VmRSS"), Some(3072));
        assert_eq!(field_bytes(status, "Threads"), None);
        assert_eq!(field_bytes("VmHWM: many kB", "VmHWM"), None);
        assert_eq!(field_bytes("", "VmHWM"), None);
    }

    #[test]
    fn a_peak_that_linux_counts_too_low_is_what_was_seen_before() {
        let before = |bytes| Memory { rss_before_bytes: bytes, peak_rss_bytes: None };
        assert_eq!(before(Some(121_102_336)).with_peak(Some(120_860_672)).peak_rss_bytes, Some(121_102_336));
        assert_eq!(before(Some(7)).with_peak(Some(9)).peak_rss_bytes, Some(9));
        assert_eq!(before(None).with_peak(Some(9)).peak_rss_bytes, Some(9));
        assert_eq!(before(Some(7)).with_peak(None).peak_rss_bytes, None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_peak_is_no_less_than_what_was_there_before() {
        let memory = Memory::before().peaked();
        assert!(memory.rss_before_bytes > Some(1 << 16) && memory.peak_rss_bytes >= memory.rss_before_bytes);
    }
}
