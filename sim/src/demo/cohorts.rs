//! Gives each hospital its scans: synthetic ones, or real ones dealt from one folder.
//!
//! Scans of one patient stay together, labels of patients that are to count as unlabelled are not handed over, and what
//! is held out lies outside the folder that the node is told of.

use std::path::{Path, PathBuf};

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use semisam_node::data::{
    folder::{Cohort, FolderError, Patient, Scan},
    synth::{Style, SynthError, SynthSpec, TargetFamily, write_cohort},
};

use super::{
    disk::{self, DiskError},
    layout::Hospital,
    plan::Recipe,
};

/// Patients of each hospital whose labels a demonstration hands over, where scans are dealt.
pub(crate) const LABELLED: usize = 2;
/// A hospital's default policy takes part from so many patients on.
const LEAST_PATIENTS: usize = 3;
/// Names of scans that are held out.
const HELD_OUT: &str = "test_";

/// How patients are given to hospitals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Dealing {
    /// One after another, like cards.
    #[default]
    RoundRobin,
    /// The first ones to the first hospital, and so on.
    Blocks,
}

/// The hospitals cannot be given scans.
#[derive(Debug, thiserror::Error)]
pub enum CohortsError {
    /// Synthetic scans could not be written.
    #[error(transparent)]
    Synth(#[from] SynthError),
    /// The folder of scans is not one.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Not enough to deal.
    #[error(
        "`{}` has {patients} patients to learn from, but {hospitals} hospitals need {LEAST_PATIENTS} each: add scans, or ask for fewer with --hospitals", data.display()
    )]
    TooFew {
        /// The folder.
        data: PathBuf,
        /// How many there are.
        patients: usize,
        /// How many hospitals there are.
        hospitals: usize,
    },
    /// Nothing to score with.
    #[error(
        "`{}` has no labelled scan to hold out: label at least one scan called `{HELD_OUT}..`, or, if none is called so, one more scan", .0.display()
    )]
    NothingHeldOut(PathBuf),
    /// Nothing to learn from.
    #[error("no scan in `{}` that is left to learn from has a label: add files to its folder of labels", .0.display())]
    NoLabel(PathBuf),
    /// The file system said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Writes synthetic scans for every hospital, each in a style of its own.
pub(crate) fn synthesise(hospitals: &[Hospital], recipe: &Recipe, seed: u64) -> Result<(), CohortsError> {
    for (hospital, index) in hospitals.iter().zip(0..) {
        let cohort = &recipe.cohort;
        let seed = seed.wrapping_mul(1_000_003).wrapping_add(index * 10);
        let spec = SynthSpec {
            style: style(index, seed),
            shape: cohort.shape,
            spacing_mm: recipe.spacing_mm,
            patients: cohort.patients,
            labelled_patients: cohort.labelled,
            seed: seed + 1,
        };
        write_cohort(&spec, &hospital.scans())?;
        let held_out =
            SynthSpec { patients: cohort.held_out, labelled_patients: cohort.held_out, seed: seed + 2, ..spec };
        write_cohort(&held_out, &hospital.held_out())?;
    }
    Ok(())
}

/// The style of hospital number `index`: neighbours differ in the shape of the target too.
pub(crate) fn style(index: u64, seed: u64) -> Style {
    let style = Style::from_seed(seed);
    let family = match index % 3 {
        0 => TargetFamily::Ellipsoid,
        1 => TargetFamily::Bilobed,
        _ => TargetFamily::Lobulated,
    };
    Style { family, contrast: style.contrast.abs(), ..style }
}

/// Deals the scans of `data` to the hospitals, each of which gets the labels of at most `labels` patients. Answers how many patients there are to learn from and held out.
pub(crate) fn deal(
    data: &Path,
    hospitals: &[Hospital],
    (dealing, labels): (Dealing, usize),
) -> Result<(usize, usize), CohortsError> {
    let cohort = Cohort::open(data)?;
    cohort.require_labelled()?;
    let (held_out, learning) = hold_out(&cohort.patients);
    if held_out.is_empty() {
        return Err(CohortsError::NothingHeldOut(data.into()));
    }
    if learning.len() < LEAST_PATIENTS * hospitals.len() {
        let (patients, hospitals) = (learning.len(), hospitals.len());
        return Err(CohortsError::TooFew { data: data.into(), patients, hospitals });
    }
    if !learning.iter().any(|patient| labelled(patient)) {
        return Err(CohortsError::NoLabel(data.into()));
    }
    let hands = hands(learning.len(), hospitals.len(), dealing);
    for (hospital, hand) in hospitals.iter().zip(hands) {
        let patients: Vec<&Patient> = hand.into_iter().map(|index| learning[index]).collect();
        let with_labels = patients.iter().filter(|patient| labelled(patient)).take(labels);
        let with_labels: Vec<&str> = with_labels.map(|patient| patient.id.as_str()).collect();
        hand_over(&hospital.scans(), &patients, |patient| with_labels.contains(&patient.id.as_str()))?;
    }
    // Where there are too few to deal, every hospital is scored on all of them.
    let shares = match held_out.len() < hospitals.len() {
        true => vec![(0..held_out.len()).collect(); hospitals.len()],
        false => self::hands(held_out.len(), hospitals.len(), Dealing::RoundRobin),
    };
    for (hospital, share) in hospitals.iter().zip(shares) {
        let patients: Vec<&Patient> = share.into_iter().map(|index| held_out[index]).collect();
        hand_over(&hospital.held_out(), &patients, |_| true)?;
    }
    Ok((learning.len(), held_out.len()))
}

/// Parts the scans of `data` into a folder to learn from and one to score on, both with all their labels. Answers how many
/// labelled patients there are to learn from, and how many are held out.
pub(crate) fn part(data: &Path, learn: &Path, score: &Path) -> Result<(usize, usize), CohortsError> {
    let cohort = Cohort::open(data)?;
    cohort.require_labelled()?;
    let (held_out, learning) = hold_out(&cohort.patients);
    if held_out.is_empty() {
        return Err(CohortsError::NothingHeldOut(data.into()));
    }
    hand_over(learn, &learning, |_| true)?;
    hand_over(score, &held_out, |_| true)?;
    Ok((learning.iter().filter(|patient| labelled(patient)).count(), held_out.len()))
}

/// The patients of `from` once more in `to`, in an order that `seed` draws, which their names and their scans' then have.
pub(crate) fn in_drawn_order(from: &Path, to: &Path, seed: u64) -> Result<(), CohortsError> {
    let mut patients = Cohort::open(from)?.patients;
    patients.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    for (place, patient) in patients.iter_mut().enumerate() {
        patient.id = format!("{place:04}_{}", patient.id);
        patient.scans.iter_mut().for_each(|scan| scan.name = format!("{place:04}_{}", scan.name));
    }
    Ok(hand_over(to, &patients.iter().collect::<Vec<_>>(), |_| true)?)
}

/// The patients of several folders in one; their names say of which.
pub(crate) fn pool(from: &[PathBuf], to: &Path) -> Result<(), CohortsError> {
    let mut all = Vec::new();
    for (number, folder) in from.iter().enumerate() {
        let mut patients = Cohort::open(folder)?.patients;
        for patient in &mut patients {
            patient.id = format!("{number:02}_{}", patient.id);
            patient.scans.iter_mut().for_each(|scan| scan.name = format!("{number:02}_{}", scan.name));
        }
        all.extend(patients);
    }
    Ok(hand_over(to, &all.iter().collect::<Vec<_>>(), |_| true)?)
}

fn labelled(patient: &Patient) -> bool {
    patient.scans.iter().any(|scan| scan.label.is_some())
}

/// Who is held out (labelled ones alone, since the others cannot be scored), and who is learnt from. Whoever has a scan
/// called `test_..` is held out; if nobody has, the last fifth of those with labels are.
fn hold_out(patients: &[Patient]) -> (Vec<&Patient>, Vec<&Patient>) {
    let named = |patient: &&Patient| patient.scans.iter().any(|scan| scan.name.starts_with(HELD_OUT));
    let (mut held_out, mut learning): (Vec<_>, Vec<_>) = patients.iter().partition(named);
    if held_out.is_empty() {
        let mut candidates: Vec<&Patient> = learning.iter().filter(|patient| labelled(patient)).copied().collect();
        // One labelled patient at least is left to learn from.
        let share = candidates.len().div_ceil(5).min(candidates.len().saturating_sub(1));
        held_out = candidates.split_off(candidates.len() - share);
        learning.retain(|patient| !held_out.iter().any(|other| other.id == patient.id));
    }
    held_out.retain(|patient| labelled(patient));
    (held_out, learning)
}

/// Which of `count` patients go to which hospital.
fn hands(count: usize, hospitals: usize, dealing: Dealing) -> Vec<Vec<usize>> {
    let owner = |index: usize| match dealing {
        Dealing::RoundRobin => index % hospitals,
        Dealing::Blocks => index * hospitals / count,
    };
    (0..hospitals).map(|hospital| (0..count).filter(|index| owner(*index) == hospital).collect()).collect()
}

/// Puts the scans of `patients` into `folder`, in the layout that a node reads.
fn hand_over(folder: &Path, patients: &[&Patient], with_labels: impl Fn(&Patient) -> bool) -> Result<(), DiskError> {
    let (images, labels) = (folder.join("images"), folder.join("labels"));
    disk::create_folder(&images)?;
    disk::create_folder(&labels)?;
    let mut rows = String::from("name,patient\n");
    for patient in patients {
        for scan in &patient.scans {
            let name = scan.name.replace(['/', '\\'], "_");
            disk::link(&scan.image, &images.join(file_name(&name, &scan.image)))?;
            if let Scan { label: Some(label), .. } = scan
                && with_labels(patient)
            {
                disk::link(label, &labels.join(file_name(&name, label)))?;
            }
            rows.push_str(&format!("{name},{}\n", patient.id));
        }
    }
    disk::write(&folder.join("patients.csv"), rows.as_bytes())
}

fn file_name(name: &str, original: &Path) -> String {
    let compressed = original.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
    format!("{name}.{}", if compressed { "nii.gz" } else { "nii" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::layout::Layout;

    /// A folder of empty files: dealing opens none of them.
    fn folder(root: &Path, scans: &[&str], unlabelled: &[&str]) -> PathBuf {
        for part in ["images", "labels"] {
            disk::create_folder(&root.join(part)).expect("made");
        }
        for name in scans {
            disk::write(&root.join("images").join(format!("{name}.nii.gz")), name.as_bytes()).expect("written");
            if !unlabelled.contains(name) {
                disk::write(&root.join("labels").join(format!("{name}.nii.gz")), b"mask").expect("written");
            }
        }
        root.into()
    }

    fn hospitals(root: &Path, count: usize) -> Vec<Hospital> {
        let layout = Layout::prepare(&root.join("out")).expect("fresh");
        (0..count).map(|index| layout.hospital(index).expect("made")).collect()
    }

    fn names(folder: &Path) -> Vec<String> {
        let files = disk::list(folder).expect("listed").into_iter();
        files.map(|path| path.file_name().expect("a name").to_string_lossy().replace(".nii.gz", "")).collect()
    }

    #[test]
    fn every_scan_is_dealt_once() {
        for (count, hospitals) in [(1, 1), (7, 3), (40, 4), (12, 4), (5, 26)] {
            for dealing in [Dealing::RoundRobin, Dealing::Blocks] {
                let hands = hands(count, hospitals, dealing);
                assert_eq!(hands.len(), hospitals);
                let mut all: Vec<usize> = hands.iter().flatten().copied().collect();
                all.sort_unstable();
                assert_eq!(all, (0..count).collect::<Vec<_>>());
                let sizes: Vec<usize> = hands.iter().map(Vec::len).collect();
                assert!(sizes.iter().max().expect("some") - sizes.iter().min().expect("some") <= 1, "{sizes:?}");
            }
        }
        assert_eq!(hands(6, 2, Dealing::RoundRobin), [[0, 2, 4], [1, 3, 5]]);
        assert_eq!(hands(6, 2, Dealing::Blocks), [[0, 1, 2], [3, 4, 5]]);
    }

    #[test]
    fn two_of_each_hospital_keep_their_labels_and_tests_are_held_out() {
        let root = tempfile::tempdir().expect("a folder");
        let scans = ["a", "b", "c", "d", "e", "f", "g", "h", "test_0", "test_1", "test_2"];
        let data = folder(&root.path().join("data"), &scans, &["a", "test_2"]);
        let hospitals = hospitals(root.path(), 2);
        assert_eq!(deal(&data, &hospitals, (Dealing::RoundRobin, LABELLED)).expect("dealt"), (8, 2));
        assert_eq!(names(&hospitals[0].scans().join("images")), ["a", "c", "e", "g"]);
        assert_eq!(names(&hospitals[0].scans().join("labels")), ["c", "e"], "the first two that have labels");
        assert_eq!(names(&hospitals[1].scans().join("labels")), ["b", "d"]);
        assert_eq!(names(&hospitals[0].held_out().join("images")), ["test_0"]);
        assert_eq!(names(&hospitals[1].held_out().join("labels")), ["test_1"]);
        assert_eq!(disk::read(&hospitals[1].scans().join("images/d.nii.gz")).expect("linked"), b"d");
    }

    #[test]
    fn a_drawn_order_is_in_the_names_and_loses_nobody() {
        let root = tempfile::tempdir().expect("a folder");
        let data = folder(&root.path().join("data"), &["a", "b", "c", "d", "e", "f"], &[]);
        let order = |seed: u64, to: &str| {
            let to = root.path().join(to);
            in_drawn_order(&data, &to, seed).expect("drawn");
            assert_eq!(names(&to.join("images")), names(&to.join("labels")));
            // as a training sees them
            let cohort = Cohort::open(&to).expect("a cohort");
            cohort.labelled().map(|scan| scan.name[5..].to_owned()).collect::<Vec<_>>()
        };
        let (one, again, two) = (order(1, "one"), order(1, "again"), order(2, "two"));
        assert!(one == again && one != two, "{one:?} {two:?}");
        let mut sorted = one;
        sorted.sort();
        assert_eq!(sorted, ["a", "b", "c", "d", "e", "f"]);
    }

    #[test]
    fn without_names_the_last_fifth_is_held_out_and_scans_of_a_patient_stay_together() {
        let root = tempfile::tempdir().expect("a folder");
        let scans = ["a1", "a2", "b", "c", "d", "e", "f", "g"];
        let data = folder(&root.path().join("data"), &scans, &[]);
        let rows = "name,patient\na1,p0\na2,p0\nb,p1\nc,p2\nd,p3\ne,p4\nf,p5\ng,p6\n";
        disk::write(&data.join("patients.csv"), rows.as_bytes()).expect("written");
        let hospitals = hospitals(root.path(), 1);
        assert_eq!(deal(&data, &hospitals, (Dealing::Blocks, LABELLED)).expect("dealt"), (5, 2));
        assert_eq!(names(&hospitals[0].held_out().join("images")), ["f", "g"]);
        assert_eq!(names(&hospitals[0].scans().join("labels")), ["a1", "a2", "b"]);
        let csv = disk::read_text(&hospitals[0].scans().join("patients.csv")).expect("read");
        assert!(csv.contains("a1,p0\na2,p0\nb,p1\n"), "{csv}");
    }

    #[test]
    fn what_cannot_be_dealt_is_named_with_a_remedy() {
        let root = tempfile::tempdir().expect("a folder");
        let refused = |name: &str, scans: &[&str], unlabelled: &[&str], count: usize| {
            let data = folder(&root.path().join(name), scans, unlabelled);
            deal(&data, &hospitals(root.path(), count), (Dealing::RoundRobin, LABELLED))
                .expect_err("refused")
                .to_string()
        };
        let few = refused("few", &["a", "b", "c", "d", "test_0"], &[], 2);
        assert!(few.contains("4 patients") && few.contains("--hospitals"), "{few}");
        let blind = refused("blind", &["a", "b", "c", "test_0"], &["test_0"], 1);
        assert!(blind.contains("hold out"), "{blind}");
        let mute = refused("mute", &["a", "b", "c", "test_0"], &["a", "b", "c"], 1);
        assert!(mute.contains("left to learn from"), "{mute}");
        let nothing = refused("nothing", &["a", "b", "c"], &["a", "b", "c"], 1);
        assert!(nothing.contains("label"), "{nothing}");
        let missing = deal(&root.path().join("nowhere"), &hospitals(root.path(), 1), (Dealing::Blocks, LABELLED));
        assert!(missing.expect_err("refused").to_string().contains("nowhere"));
    }
}
