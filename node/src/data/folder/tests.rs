//! Layouts, patients, and everything that may be wrong with a folder.

use super::*;
use crate::data::nifti::{write_image, write_labels};

fn make(files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"").unwrap();
    }
    folder
}

fn patients(cohort: &Cohort) -> Vec<(&str, Vec<(&str, bool)>)> {
    cohort
        .patients
        .iter()
        .map(|patient| {
            (patient.id.as_str(), patient.scans.iter().map(|scan| (scan.name.as_str(), scan.label.is_some())).collect())
        })
        .collect()
}

fn message(files: &[&str]) -> String {
    Cohort::open(make(files).path()).unwrap_err().to_string()
}

#[test]
fn plain_folders_with_and_without_patients() {
    let folder = make(&["images/b.nii", "images/a.nii.gz", "images/c.nii.gz", "labels/a.nii", "images/notes.txt"]);
    let cohort = Cohort::open(folder.path()).unwrap();
    let alone = vec![("a", vec![("a", true)]), ("b", vec![("b", false)]), ("c", vec![("c", false)])];
    assert_eq!(patients(&cohort), alone);
    assert!(cohort.require_labelled().is_ok());
    std::fs::write(folder.path().join("patients.csv"), "\u{feff}name,patient\r\nc , 7\r\n\"a.nii.gz\",7\r\n\r\n")
        .unwrap();
    let cohort = Cohort::open(folder.path()).unwrap();
    assert_eq!(patients(&cohort), vec![("7", vec![("a", true), ("c", false)]), ("b", vec![("b", false)])]);
    assert!(!format!("{cohort:?}").contains("images/"));
}

#[test]
fn nnunet_raw() {
    let files = ["imagesTr/x_0000.nii.gz", "imagesTr/y_0000.nii.gz", "labelsTr/x.nii.gz", "imagesTs/z_0000.nii.gz"];
    let cohort = Cohort::open(make(&files).path()).unwrap();
    let expected = vec![("x", vec![("x", true)]), ("y", vec![("y", false)]), ("z", vec![("z", false)])];
    assert_eq!(patients(&cohort), expected);
    assert!(message(&["imagesTr/x_0000.nii.gz", "imagesTr/x_0001.nii.gz"]).contains("second channel"));
}

#[test]
fn bids_subjects_are_patients() {
    let cohort = Cohort::open(
        make(&[
            "dataset_description.json",
            "sub-01/anat/sub-01_T1w.nii.gz",
            "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii.gz",
            "sub-02/ses-2/anat/sub-02_ses-2_T1w.nii.gz",
            "sub-03/anat/sub-03_T1w.nii.gz",
            "sub-03/anat/sub-03_T2w.nii.gz",
            "derivatives/labels/sub-01/anat/sub-01_T1w_seg-manual.nii.gz",
            "derivatives/manual/sub-02/ses-2/anat/sub-02_ses-2_dseg.nii.gz",
            "sub-03/anat/sub-03_T2w_dseg.nii.gz",
        ])
        .path(),
    )
    .unwrap();
    let expected = vec![
        ("sub-01", vec![("sub-01_T1w", true)]),
        ("sub-02", vec![("sub-02_ses-1_T1w", false), ("sub-02_ses-2_T1w", true)]),
        ("sub-03", vec![("sub-03_T1w", false), ("sub-03_T2w", true)]),
    ];
    assert_eq!(patients(&cohort), expected);
    let two = ["sub-3/anat/sub-3_T1w.nii.gz", "sub-3/anat/sub-3_T2w.nii.gz", "derivatives/x/sub-3/sub-3_dseg.nii.gz"];
    assert!(message(&two).contains("fits several images"));
    assert!(message(&["sub-3/anat/sub-3_T1w.nii", "derivatives/x/sub-4_dseg.nii"]).contains("has no image"));
}

#[test]
fn every_mistake_says_what_to_do() {
    let missing = Cohort::open(Path::new("no/such/folder")).unwrap_err().to_string();
    assert!(missing.contains("`no/such/folder`") && missing.contains("check the path"));
    assert!(message(&["scan.nii"]).contains("images/NAME.nii.gz"));
    assert!(message(&["images/readme.txt"]).contains("put the scans there"));
    assert!(message(&["images/a.nii", "labels/b.nii"]).contains("labels/b.nii` has no image"));
    assert!(message(&["images/a.nii", "images/a.nii.gz"]).contains("same scan by name"));
    assert!(message(&["images/a.nii", "labels/a.nii", "labels/a.nii.gz"]).contains("same scan by name"));
    let unlabelled = make(&["images/a.nii"]);
    let error = Cohort::open(unlabelled.path()).unwrap().require_labelled().unwrap_err();
    assert!(error.to_string().contains("no labelled scan"));
}

#[test]
fn patient_tables_are_checked() {
    let folder = make(&["images/a.nii", "images/b.nii"]);
    let with = |table: &str| {
        std::fs::write(folder.path().join("patients.csv"), table).unwrap();
        Cohort::open(folder.path()).map_err(|error| error.to_string())
    };
    for (table, expected) in [
        ("a,1\n", "line 1: the first line must be `name,patient`"),
        ("name;patient\na;1\n", "separate with commas"),
        ("name,patient\na,1\nx,1\n", "line 3: there is no scan `x`"),
        ("name,patient\na,1\na,2\n", "listed twice"),
        ("name,patient\na,\n", "has no patient"),
        ("name,patient\na,1,2\n", "3 fields"),
        ("name,patient\na,b\n", "list that scan too"),
        ("", "line 1"),
    ] {
        let message = with(table).unwrap_err();
        assert!(message.contains(expected) && message.contains("patients.csv"), "{message}");
    }
    assert_eq!(with("name,patient\na,a\n").unwrap().patients.len(), 2);
}

#[test]
fn labels_on_another_grid_are_refused_when_read() {
    let folder = make(&["images/x", "labels/x"]);
    let grid = Grid::centred([4, 5, 6], [1.0; 3]);
    let image = Image { shape: grid.shape, affine: grid.affine, values: vec![1.0; 120] };
    let mut labels = LabelMap { shape: grid.shape, affine: grid.affine, values: vec![1; 120] };
    let scan = Scan {
        name: "a".into(),
        image: folder.path().join("images/a.nii.gz"),
        label: Some(folder.path().join("labels/a.nii.gz")),
    };
    write_image(&scan.image, &image).unwrap();
    write_labels(scan.label.as_ref().unwrap(), &labels).unwrap();
    assert_eq!(scan.read().unwrap().1, Some(labels.clone()));
    labels.affine[0][3] += 1.0;
    write_labels(scan.label.as_ref().unwrap(), &labels).unwrap();
    let message = scan.read().unwrap_err().to_string();
    assert!(message.contains("1.000 mm apart") && message.contains("resample the label"), "{message}");
}
