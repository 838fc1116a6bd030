//! The commands as a user calls them, on reference files and on broken folders.

use std::path::Path;

use clap::Parser;

use super::*;
use crate::data::grid::Grid;
use crate::data::nifti::write_labels;
use crate::data::volume::LabelMap;

#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long, global = true, value_enum, default_value_t)]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    #[command(subcommand)]
    Data(DataCommand),
    Metrics(MetricsArgs),
}

fn fixtures(name: &str) -> String {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures")).join(name).display().to_string()
}

fn call(args: &[&str]) -> Result<(u8, String), DataCommandError> {
    let mut out = Vec::new();
    let Arguments { format, command } = Arguments::try_parse_from([&["node"], args].concat()).unwrap();
    let code = match command {
        Command::Data(command) => run_data(&command, format, &mut out),
        Command::Metrics(args) => run_metrics(&args, format, &mut out),
    }?;
    Ok((code.code(), String::from_utf8(out).unwrap()))
}

fn lines(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn check_describes_the_stored_grid() {
    let folder = fixtures("nifti/geometry");
    let (code, out) = call(&["data", "check", &folder, "--format", "json"]).unwrap();
    let manifest = std::fs::read(Path::new(&folder).join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!((code, lines(&out).len()), (0, 9));
    for (line, expected) in lines(&out).iter().zip(manifest.as_array().unwrap()) {
        let mut fields: Vec<&String> = line.as_object().unwrap().keys().collect();
        fields.sort();
        assert_eq!(fields, ["axes", "classes", "error", "file", "ok", "shape", "spacing_mm"]);
        assert!(line["file"].as_str().unwrap().ends_with(expected["file"].as_str().unwrap()));
        assert_eq!((&line["axes"], &line["shape"]), (&expected["axcodes"], &expected["shape"]));
        assert_eq!((&line["ok"], &line["error"]), (&json!(true), &Value::Null));
        assert!(line["spacing_mm"].as_array().unwrap().iter().all(|spacing| spacing.as_f64().unwrap() > 0.0));
    }
}

#[test]
fn check_refuses_every_malformed_file() {
    let (code, out) = call(&["data", "check", &fixtures("nifti/malformed"), "--format", "json"]).unwrap();
    assert_eq!((code, lines(&out).len()), (1, 15));
    assert!(lines(&out).iter().all(|line| line["ok"] == false && line["error"].is_string()));
    let (code, out) = call(&["data", "check", &fixtures("nifti/malformed")]).unwrap();
    assert!(code == 1 && out.ends_with("15 files, 15 with problems\n"), "{out}");
}

#[test]
fn check_matches_labels_with_images() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("hospital");
    let root_text = root.display().to_string();
    let made =
        ["data", "synth", "--out", &root_text, "--patients", "3", "--labelled", "2", "--shape", "16", "16", "12"];
    assert_eq!(call(&made).unwrap().0, 0);
    let (code, out) = call(&["data", "check", &root_text]).unwrap();
    assert!(code == 0 && out.contains("(classes 0 1)") && out.contains("; 3 patients, "), "{out}");
    assert!(matches!(call(&made), Err(DataCommandError::Synth(SynthError::NotEmpty(_)))));
    let grid = Grid::centred([16, 16, 13], [2.5; 3]);
    let labels = LabelMap { shape: grid.shape, affine: grid.affine, values: vec![0; grid.count()] };
    std::fs::remove_file(root.join("labels/p000_v1.nii.gz")).unwrap();
    for name in ["p000_v1.nii", "stray.nii.gz"] {
        write_labels(&root.join("labels").join(name), &labels).unwrap();
    }
    std::fs::copy(root.join("images/p001_v1.nii.gz"), root.join("labels/p002_v1.nii.gz")).unwrap();
    std::fs::write(root.join("patients.csv"), "name,patient\nnobody,1\n").unwrap();
    let (code, out) = call(&["data", "check", &root_text, "--format", "json"]).unwrap();
    assert_eq!(code, 1);
    let problem = |name: &str| {
        let lines = lines(&out);
        let line = lines.iter().find(|line| line["file"].as_str().unwrap().ends_with(name)).unwrap();
        line["error"].as_str().unwrap().to_owned()
    };
    assert!(problem("labels/p000_v1.nii").contains("not on the grid of its image"));
    assert!(problem("labels/stray.nii.gz").contains("has no image"));
    assert!(problem("labels/p002_v1.nii.gz").contains("from 0 to 255"));
    assert!(problem("patients.csv").contains("no scan `nobody`"));
}

#[test]
fn check_says_how_to_train_on_the_values_that_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().display().to_string();
    let Grid { shape, affine } = Grid::centred([4, 4, 4], [2.5; 3]);
    let write = |values: [u8; 4]| {
        let labels = LabelMap { shape, affine, values: values.repeat(16) };
        for part in ["images", "labels"] {
            std::fs::create_dir_all(folder.path().join(part)).unwrap();
            write_labels(&folder.path().join(part).join("a.nii.gz"), &labels).unwrap();
        }
        call(&["data", "check", &root]).unwrap().1
    };
    assert!(
        write([0, 5, 37, 90]).ends_with("--map 5=1,37=2,90=3, or name fewer of them and `other=0` for background\n")
    );
    assert!(write([0, 1, 2, 3]).ends_with("3 classes beside the background: `train` with --classes 4\n"));
    assert!(write([0, 1, 1, 0]).ends_with("1 of them labelled\n"));
    write([0, 5, 0, 0]);
    let (_, out) = call(&["data", "check", &root, "--format", "json"]).unwrap();
    let classes: Vec<Value> = lines(&out).into_iter().map(|mut line| line["classes"].take()).collect();
    assert_eq!(classes, [Value::Null, serde_json::json!([0, 5])]);
}

#[test]
fn check_of_nothing_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    assert!(call(&["data", "check", &path]).unwrap_err().to_string().contains("images/NAME.nii.gz"));
    assert!(call(&["data", "check", &format!("{path}/no")]).unwrap_err().to_string().contains("check the path"));
    std::fs::create_dir(folder.path().join("images")).unwrap();
    assert!(call(&["data", "check", &path]).unwrap_err().to_string().contains("put the scans there"));
}

#[test]
fn canonical_keeps_values_and_place() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.nii.gz");
    for entry in std::fs::read_dir(fixtures("nifti/geometry")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(image) = read_image(&path) else { continue };
        call(&["data", "canonical", path.to_str().unwrap(), "--out", out.to_str().unwrap()]).unwrap();
        let (written, grid) = (read_image(&out).unwrap(), read_grid(&out).unwrap());
        assert_eq!((&written.values, grid.axes.as_str()), (&image.values, "RAS"));
        Grid::from(&written).must_equal(&(&image).into()).unwrap();
        assert!(grid.affine.iter().flatten().zip(image.affine.iter().flatten()).all(|(a, b)| (a - b).abs() < 1e-4));
    }
    let out = out.to_str().unwrap();
    assert!(matches!(call(&["data", "canonical", out, "--out", out]), Err(DataCommandError::SameFile(_))));
}

#[test]
fn metrics_have_their_fields_and_nulls() {
    let (pred, truth) = (fixtures("metrics/case01_pred.nii.gz"), fixtures("metrics/case01_truth.nii.gz"));
    let (code, out) = call(&["metrics", &pred, &truth, "--format", "json"]).unwrap();
    let fields: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 0);
    assert!((fields["hd95_mm"].as_f64().unwrap() - 2.5).abs() < 1e-6);
    assert!((fields["assd_vox"].as_f64().unwrap() - 1.293_875_934_964_931_8).abs() < 1e-6);
    assert_eq!(fields.as_object().unwrap().len(), 12);
    let (_, out) = call(&["metrics", &pred, &truth, "--class", "9"]).unwrap();
    assert!(out.contains("dice") && out.contains("1.0000"));
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.nii");
    let mut labels = read_labels(Path::new(&truth)).unwrap();
    labels.values.fill(0);
    write_labels(&empty, &labels).unwrap();
    let (_, out) = call(&["metrics", empty.to_str().unwrap(), &truth, "--format", "json"]).unwrap();
    let fields: Value = serde_json::from_str(&out).unwrap();
    assert!(fields["dice"] == 0.0 && fields["hd_mm"].is_null() && fields["asd_reverse_vox"].is_null());
    let other = fixtures("metrics/case02_truth.nii.gz");
    let message = call(&["metrics", &pred, &other]).unwrap_err().to_string();
    assert!(message.contains("different grids") && message.contains("case02_truth"), "{message}");
}

#[test]
fn recipes_are_listed_printed_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("scans").display().to_string();
    let made =
        ["data", "synth", "--recipe", "anything", "--out", &out, "--count", "2", "--shape", "20,16,12", "--seed", "4"];
    let (code, words) = call(&made).unwrap();
    assert!(code == 0 && words.contains("2 volumes of `anything`"), "{words}");
    assert_eq!(call(&["data", "check", &out]).unwrap().0, 0);
    assert!(matches!(call(&made), Err(DataCommandError::Cohort(_))), "nothing is overwritten");
    let (_, list) = call(&["data", "synth", "--recipe", "list", "--format", "json"]).unwrap();
    assert_eq!(lines(&list).len(), 4);
    let (_, text) = call(&["data", "synth", "--recipe", "anything", "--print"]).unwrap();
    assert!(text.contains("[[part]]"));
    assert!(matches!(call(&["data", "synth", "--recipe", "none"]), Err(DataCommandError::Recipe(_))));
    assert!(Arguments::try_parse_from(["node", "data", "synth"]).is_err(), "a hospital needs a folder");
}

#[test]
fn one_number_stands_for_all_axes_and_two_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("scans").display().to_string();
    let made = ["data", "synth", "--recipe", "anything", "--out", &out, "--count", "1", "--shape", "16"];
    assert_eq!(call(&[&made[..], &["--spacing", "3"]].concat()).unwrap().0, 0);
    let (_, checked) = call(&["data", "check", &out, "--format", "json"]).unwrap();
    let scan = &lines(&checked)[0];
    assert_eq!((&scan["shape"], &scan["spacing_mm"]), (&json!([16, 16, 16]), &json!([3.0, 3.0, 3.0])));
    for (option, values) in [("shape", "8,8"), ("spacing", "2,2")] {
        let two = ["data", "synth", "--recipe", "anything", &format!("--{option}"), values];
        assert!(matches!(call(&two), Err(DataCommandError::Axes(name, _)) if name == option));
    }
}
