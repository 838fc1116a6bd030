//! Each measurement is made once, as small as can be, and tells what the comparison with PyTorch reads.

use clap::Parser;
use serde_json::Value;

use super::*;
use crate::data::synth::{Style, SynthSpec, write_cohort};

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: BenchArgs,
}

fn measure(line: &[&str]) -> Result<Value, String> {
    let Line { args } = Line::try_parse_from([&["bench"], line].concat()).map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    run(&args, Format::Json, &mut out).map_err(|error| error.to_string())?;
    Ok(serde_json::from_slice(&out).expect("one JSON document"))
}

/// What every document has, and the names of what was timed.
fn check(document: &Value, bench: &str, parts: &[&str], repeats: usize) {
    assert_eq!(document["bench"], bench);
    let times = document["times"].as_object().expect("times by name");
    assert!(times.keys().eq(parts), "{document}");
    for part in times.values() {
        let ms: Vec<f64> = part["ms"].as_array().expect("a list").iter().filter_map(Value::as_f64).collect();
        assert_eq!(ms.len(), repeats);
        let (min, median) = (part["min_ms"].as_f64(), part["median_ms"].as_f64());
        assert!(min > Some(0.0) && min <= median && ms.iter().all(|ms| Some(*ms) >= min), "{part}");
    }
    assert!(document["threads"].as_u64() > Some(0), "{document}");
    assert!(document["cpu_path"].as_str().is_some_and(|path| !path.is_empty()), "{document}");
    if cfg!(target_os = "linux") {
        let bytes = |name: &str| document[name].as_u64().expect("bytes");
        assert!(bytes("peak_rss_bytes") >= bytes("rss_before_bytes"), "{document}");
    }
}

#[test]
fn a_tiny_step_of_each_method() {
    for method in ["supervised", "mean-teacher"] {
        let small = ["--base-filters", "1", "--patch", "16,16,16", "--batch", "2", "--steps", "2"];
        let document = measure(&[&["step", "--method", method], &small[..]].concat()).expect("measured");
        check(&document, "step", &["forward", "step"], 2);
        assert!(document["loss"].as_f64().is_some_and(f64::is_finite), "{document}");
        assert!(document["parameters"].as_u64() > Some(1000), "{document}");
    }
}

#[test]
fn a_convolution_of_each_kind() {
    for (kernel, stride, operator) in
        [("3", "1", "same"), ("2", "2", "halve"), ("1", "1", "pointwise"), ("3", "2", "stock")]
    {
        let size = ["--inputs", "2", "--outputs", "3", "--side", "6", "--repeats", "2"];
        let line = [&["conv", "--kernel", kernel, "--stride", stride], &size[..]].concat();
        let document = measure(&line).expect("measured");
        check(&document, "conv", &["forward", "step"], 2);
        assert_eq!(document["operator"], operator);
        assert!(document["gflops"]["forward"].as_f64() > Some(0.0) && document["gflops"]["step"].as_f64() > Some(0.0));
    }
}

#[test]
fn noise_beside_opendp_and_alone() {
    let small = ["noise", "--coordinates", "20000", "--opendp-coordinates"];
    let document = measure(&[&small[..], &["200", "--repeats", "2"]].concat()).expect("measured");
    check(&document, "noise", &["draw", "opendp"], 2);
    for speed in ["cpu_ns_per_coordinate", "opendp_cpu_ns_per_coordinate"] {
        // The kernel counts in ticks of the scheduler, which may be longer than so small a measurement.
        assert!(!cfg!(target_os = "linux") || document[speed].as_f64() >= Some(0.0), "{document}");
    }
    let document = measure(&[&small[..], &["0", "--repeats", "1"]].concat()).expect("measured");
    check(&document, "noise", &["draw"], 1);
    assert!(document["opendp_cpu_ns_per_coordinate"].is_null(), "{document}");
}

#[test]
fn a_generalist_of_one_block() {
    let document = measure(&["sam", "--blocks", "1", "--steps", "2", "--warm-up", "0"]).expect("measured");
    check(&document, "sam", &["decode", "encode"], 2);
    assert_eq!((document["side"].as_u64(), document["blocks"].as_u64()), (Some(128), Some(1)));
}

#[test]
fn iterations_on_a_folder_of_scans() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("scans");
    let spec = SynthSpec {
        style: Style::from_seed(1),
        shape: [20; 3],
        spacing_mm: [2.5; 3],
        patients: 3,
        labelled_patients: 1,
        seed: 1,
    };
    write_cohort(&spec, &data).expect("written");
    let small = ["--base-filters", "1", "--patch", "16,16,16", "--steps", "3"];
    let line = [&["train", "--data", data.to_str().expect("text")], &small[..]].concat();
    let document = measure(&line).expect("measured");
    check(&document, "train", &["iteration"], 3);
    assert!(document["iterations_per_second"].as_f64() > Some(0.0), "{document}");
    assert!(document["waited"].as_f64().is_some_and(|share| (0.0..1.0).contains(&share)), "{document}");
    assert!(document["load_seconds"].as_f64() > Some(0.0) && document["scans"].as_u64() >= Some(3), "{document}");
}

#[test]
fn what_fits_no_network_is_refused_with_the_reason() {
    let refused = |line: &[&str], part: &str| {
        let message = measure(line).expect_err("must not be measured");
        assert!(message.contains(part), "{part}: {message}");
    };
    for patch in ["64,64,60", "0,16,16", "16,16", "16,16,sixteen"] {
        refused(&["step", "--patch", patch], "give three multiples of 16, such as 64,48,32");
        refused(&["train", "--data", ".", "--patch", patch], "give three multiples of 16");
    }
    refused(&["step", "--base-filters", "0"], "no such V-Net");
    refused(&["step", "--steps", "0"], "--steps");
    refused(&["noise", "--coordinates", "0"], "--coordinates");
    refused(&["conv", "--side", "2"], "at least");
    refused(&["conv", "--outputs", "0"], "at least one");
    refused(&["train", "--data", "no-such-folder"], "no-such-folder");
    let threads = (rayon::current_num_threads() + 1).to_string();
    refused(&["conv", "--threads", &threads], &format!("RAYON_NUM_THREADS={threads}"));
}
