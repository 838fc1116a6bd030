use serde_json::Value;

use super::*;
use crate::{
    cli::sam::{GeneralistArgs, SamCommand, evaluate::EvaluateArgs, refine::RefineArgs, run as run_sam},
    data::synth::{Style, SynthSpec, write_cohort},
    model::{VNetConfig, layout},
};

fn args(out: &Path, steps: u64, minutes: Option<f64>) -> PretrainArgs {
    PretrainArgs {
        recipes: vec!["blobs".to_owned()],
        out: out.to_owned(),
        steps,
        minutes,
        batch: 2,
        spacing: 4.0,
        patch: [16, 16, 16],
        axes: vec![],
        learning_rate: 2e-3,
        widths: [2, 2, 4, 4],
        calibration: 2,
        seed: 5,
        device: DeviceChoice::Cpu,
    }
}

fn lines(command: &SamCommand, stop: &AtomicBool) -> Result<Vec<Value>, super::super::SamCommandError> {
    let mut out = Vec::new();
    run_sam(command, Format::Json, &mut out, stop)?;
    let text = String::from_utf8(out).expect("JSON is text");
    Ok(text.lines().map(|line| serde_json::from_str(line).expect("a line is a document")).collect())
}

#[test]
fn a_run_in_many_sittings_gives_the_same_file_and_it_can_be_used() {
    let (folder, never) = (tempfile::tempdir().expect("a folder"), AtomicBool::new(false));
    let (whole, pieces) = (folder.path().join("whole.safetensors"), folder.path().join("pieces.safetensors"));
    let pretrain = |out: &Path, minutes| {
        lines(&SamCommand::Pretrain(args(out, 3, minutes)), &never).expect("it runs").pop().expect("a last line")
    };
    let last = pretrain(&whole, None);
    assert_eq!(last["card"]["steps"], serde_json::json!([3, 3]));
    for done in 1..=3 {
        // six microseconds are over after one step
        let last = pretrain(&pieces, Some(1e-7));
        assert_eq!(last["card"]["steps"], serde_json::json!([done, 3]));
    }
    let bytes = |path: &Path| std::fs::read(path).expect("its own file");
    assert!(bytes(&whole) == bytes(&pieces));
    let style = Style::from_seed(1);
    let spec =
        SynthSpec { style, shape: [20, 18, 16], spacing_mm: [4.0; 3], patients: 2, labelled_patients: 1, seed: 1 };
    let data = folder.path().join("data");
    write_cohort(&spec, &data).expect("a cohort");
    let generalist = GeneralistArgs { checkpoint: whole, device: DeviceChoice::Cpu };
    let evaluate = EvaluateArgs { generalist, data: data.clone(), clicks: vec![1, 3], first: Some(1), seed: 1 };
    let found = lines(&SamCommand::Evaluate(evaluate), &never).expect("it works");
    assert_eq!((found.len(), &found[1]["case"], &found[1]["prompts"]), (2, &"mean".into(), &"truth".into()));
    let dice = |clicks: &str| found[1]["dice"][clicks].as_f64().expect("a number");
    assert!((0.0..=1.0).contains(&dice("1")) && (0.0..=1.0).contains(&dice("3")));
    let student = folder.path().join("student.safetensors");
    let config = VNetConfig::binary(2);
    std::fs::write(&student, layout::initial(&config, 1).to_safetensors().expect("bytes")).expect("written");
    let refine = RefineArgs {
        generalist: GeneralistArgs { checkpoint: pieces, device: DeviceChoice::Cpu },
        student,
        data,
        share: 0.0,
        prompt_confidence: 0.5,
        first: Some(1),
        seed: 1,
        spacing: 4.0,
        patch: [16, 16, 16],
    };
    for (share, prompt_confidence, named) in [(0.0, 7.0, "prompt confidence"), (1.5, 0.5, "generalist share")] {
        let wrong = RefineArgs { share, prompt_confidence, ..refine.clone() };
        assert!(lines(&SamCommand::Refine(wrong), &never).expect_err("refused").to_string().contains(named));
    }
    let found = lines(&SamCommand::Refine(refine), &never).expect("it works");
    assert_eq!((found.len(), &found[1]["prompts"], &found[1]["class"]), (2, &"student".into(), &Value::Null));
    for prompts in ["mask", "point", "both"] {
        assert!(found[0]["generalist"][prompts].as_f64().is_some_and(|dice| (0.0..=1.0).contains(&dice)));
    }
    // the mean of one object is that object, left out or not
    for part in ["student", "generalist", "target"] {
        assert!(found[1].get(part).is_some() && found[1][part] == found[0][part], "{part}");
    }
}

#[test]
fn a_request_to_stop_keeps_the_state_and_writes_no_network() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("small.safetensors");
    let found = lines(&SamCommand::Pretrain(args(&out, 3, None)), &AtomicBool::new(true)).expect("it stops");
    assert_eq!(found.last().expect("a line")["stopped"], true);
    assert!(!out.exists() && folder.path().join("small.state.safetensors").exists());
    let other = PretrainArgs { seed: 6, ..args(&out, 3, None) };
    let error = lines(&SamCommand::Pretrain(other), &AtomicBool::new(false)).expect_err("another run's state");
    assert!(error.to_string().contains("small.state.safetensors") && error.to_string().contains("other settings"));
}

#[test]
fn what_is_asked_for_wrongly_is_named() {
    assert!(parse_sides("64,48,32").is_ok() && parse_sides("64,48,30").is_err() && parse_sides("64,48").is_err());
    assert!(parse_widths("8,16,48,96").is_ok() && parse_widths("8,12,48,96").is_err() && parse_widths("8,16").is_err());
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("small.safetensors");
    let error = |args: PretrainArgs| {
        lines(&SamCommand::Pretrain(args), &AtomicBool::new(false)).expect_err("refused").to_string()
    };
    for minutes in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300] {
        assert!(error(args(&out, 3, Some(minutes))).contains("--minutes"));
    }
    assert!(error(args(&out, 0, None)).contains("`steps`"));
    assert!(error(PretrainArgs { recipes: vec!["blobs:no".to_owned()], ..args(&out, 3, None) }).contains("`blobs:no`"));
    assert!(error(args(&folder.path().join("no/such/folder/x.safetensors"), 1, None)).contains("no/such/folder"));
}
