use std::{fs, sync::atomic::AtomicBool};

use semisam_shared::ids::UnixMillis;
use tempfile::TempDir;

use super::*;
use crate::{
    data::{
        grid::Grid,
        nifti::{self, write_image, write_labels},
        volume::Volume,
    },
    device::Device,
    model::{VNetConfig, layout},
    train::{
        local::{LocalRun, Method, State, train},
        prepare::prepare,
    },
};

const SPACING: [f64; 3] = [1.5; 3];

/// A folder with scans on disk.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a scan of its own number, with a label.
    fn scan(&self, name: &str, number: usize) -> Scan {
        let Grid { shape, affine } = Grid::centred([20 + number, 24, 22], [1.0; 3]);
        let count = shape.iter().product::<usize>();
        let values = (0..count).map(|at| ((at * (number + 3)) % 997) as f32).collect();
        let (image, label) = (self.path(&format!("{name}.nii.gz")), self.path(&format!("{name}-label.nii.gz")));
        write_image(&image, &Volume { shape, affine, values }).expect("written");
        let inside = |at: usize| u8::from((8..14).contains(&(at % 22)) && (8..14).contains(&(at / 22 % 24)));
        write_labels(&label, &Volume { shape, affine, values: (0..count).map(inside).collect() }).expect("written");
        Scan { name: name.to_owned(), image, label: Some(label) }
    }

    fn storage(&self, memory_bytes: u64) -> Storage {
        let cache = Cache::open(&self.path("cache"), 1 << 30, Box::new(|| UnixMillis(1_000_000))).expect("a cache");
        Storage { cache: Some(Arc::new(cache)), memory_bytes }
    }

    fn set(&self, scans: &[Scan], memory_bytes: u64) -> ScanSet {
        ScanSet::on_disk(scans.to_vec(), SPACING, self.storage(memory_bytes))
    }

    fn entries(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.path("cache")).expect("a folder").map(|file| file.expect("a file").path());
        let mut entries: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "scan")).collect();
        entries.sort();
        entries
    }
}

fn from_files(scan: &Scan) -> PreparedScan {
    let (image, labels) = scan.read().expect("sound");
    prepare(&image, labels.as_ref(), SPACING).expect("it fits")
}

fn unlabelled(scan: &Scan) -> Scan {
    Scan { label: None, ..scan.clone() }
}

#[test]
fn wherever_a_scan_comes_from_it_is_the_same() {
    let place = Place::new();
    let scans = [place.scan("a", 1), unlabelled(&place.scan("b", 2))];
    for memory_bytes in [0, 1 << 30] {
        for _ in 0..2 {
            let set = place.set(&scans, memory_bytes);
            for _ in 0..2 {
                assert!(scans.iter().enumerate().all(|(at, scan)| *set.get(at).expect("sound") == from_files(scan)));
            }
            assert_eq!((set.positions(true), set.positions(false)), (vec![0], vec![1]));
        }
    }
    let without = ScanSet::on_disk(scans.clone(), SPACING, Storage { cache: None, memory_bytes: 0 });
    assert!(*without.get(0).expect("sound") == from_files(&scans[0]));
    assert_eq!(place.entries().len(), 2);
}

#[test]
fn a_scan_that_is_kept_is_not_prepared_again_whatever_its_name() {
    let place = Place::new();
    let scan = place.scan("a", 1);
    let set = place.set(std::slice::from_ref(&scan), 0);
    let marked = PreparedScan { image: from_files(&place.scan("other", 9)).image, labels: None };
    let key = OnDisk::new(Vec::new(), SPACING, place.storage(0), None).key(&scan).expect("sound");
    place.storage(0).cache.expect("one").put(&key, &marked.image, None);
    assert!(*set.get(0).expect("kept") == marked, "taken from the cache");
    let renamed = Scan { image: place.path("renamed.nii.gz"), ..scan.clone() };
    fs::rename(&scan.image, &renamed.image).expect("renamed");
    assert!(*place.set(&[renamed], 0).get(0).expect("kept") == marked, "taken from the cache");
    assert_eq!(place.entries().len(), 1);
    // A scan that was seen once is trained on from the cache, even where its files are out of reach.
    assert!(*set.get(0).expect("kept") == marked);
}

#[test]
fn classes_are_made_of_labels_that_are_kept_as_they_are() {
    let place = Place::new();
    let scan = place.scan("a", 1);
    let set = |map: Option<&str>, memory| {
        let map = map.map(|map| map.parse().expect("a map"));
        ScanSet::with_classes([scan.clone()], SPACING, place.storage(memory), map)
    };
    let plain = from_files(&scan).labels.expect("it has labels");
    // Prepared with one map, taken from the cache with another, and in memory the second time.
    for (map, class) in [(Some("7=1,1=2"), 2), (Some("1=1"), 1), (None, 1)] {
        let set = set(map, 1 << 30);
        for _ in 0..2 {
            let labels = set.get(0).expect("sound").labels.clone().expect("it has labels");
            assert!(labels.values.iter().zip(&plain.values).all(|(found, value)| *found == value * class));
        }
        assert_eq!(set.check(2).is_ok(), class == 1);
    }
    assert_eq!(place.entries().len(), 1);
    let error = set(Some("9=1"), 0).get(0).expect_err("no class for 1").to_string();
    assert!(error.contains("a-label.nii.gz") && error.contains("value 1 has no class"), "{error}");
}

#[test]
fn what_is_prepared_from_something_else_is_another_entry() {
    let place = Place::new();
    let (scan, other) = (place.scan("a", 1), place.scan("b", 2));
    let set = |scan: &Scan, spacing| ScanSet::on_disk([scan.clone()], spacing, place.storage(0));
    let mut entries = 0;
    let mut is_new = |set: ScanSet| {
        set.get(0).expect("sound");
        entries += 1;
        assert_eq!(place.entries().len(), entries);
    };
    is_new(set(&scan, SPACING));
    is_new(set(&scan, [1.5, 1.5, 2.0]));
    is_new(set(&unlabelled(&scan), SPACING));
    fs::copy(&other.image, &scan.image).expect("replaced");
    is_new(set(&unlabelled(&scan), SPACING));
    let label = scan.label.as_ref().expect("it has one");
    fs::copy(other.label.as_ref().expect("it has one"), label).expect("replaced");
    is_new(set(&scan, SPACING));
    let last = set(&scan, SPACING);
    last.get(0).expect("sound");
    last.forget_others().expect("removed");
    assert_eq!(place.entries().len(), 1);
}

#[test]
fn a_label_that_nobody_declared_is_never_opened() {
    let place = Place::new();
    let scans = [place.scan("a", 1), place.scan("b", 2), place.scan("c", 3)];
    for scan in &scans[1..] {
        fs::write(scan.label.as_ref().expect("it has one"), "no scan at all").expect("written");
    }
    // A pipe without a writer: whoever opened it would wait for ever.
    let (garbage, label) = (&scans[1], scans[2].label.as_ref().expect("it has one"));
    fs::remove_file(label).expect("removed");
    let pipe = std::process::Command::new("mkfifo").arg(label).status();
    let declared = [scans[0].clone(), unlabelled(garbage), unlabelled(&scans[2])];
    let set = place.set(&declared, 0);
    set.check(2).expect("they fit");
    let run = LocalRun::new(VNetConfig::binary(1), Method::MeanTeacher, [16; 3], 3, 1);
    let start = State::new(&run, &layout::initial(&run.config, 1));
    train(Device::Cpu, &run, start, &set, &AtomicBool::new(false), &mut |_| {}).expect("they fit");
    let error = place.set(std::slice::from_ref(garbage), 0).get(0).expect_err("its label is garbage").to_string();
    assert!(error.contains("b-label.nii.gz"), "{error}");
    if pipe.is_ok_and(|made| made.success()) {
        let error = place.set(&scans[2..], 0).get(0).expect_err("its label is a pipe").to_string();
        assert!(error.contains("c-label.nii.gz") && error.contains("not a file"), "{error}");
    }
}

#[test]
fn a_scan_that_changes_meanwhile_is_named() {
    let place = Place::new();
    let (scan, other) = (place.scan("a", 1), place.scan("b", 2));
    let set = ScanSet::on_disk([unlabelled(&scan)], SPACING, Storage { cache: None, memory_bytes: 0 });
    set.get(0).expect("sound");
    fs::copy(&other.image, &scan.image).expect("replaced");
    let error = set.get(0).expect_err("another scan").to_string();
    assert!(error.contains("a.nii.gz") && error.contains("has changed"), "{error}");
}

#[test]
fn a_damaged_entry_is_made_again_in_the_same_bits() {
    let place = Place::new();
    let scan = place.scan("a", 1);
    let set = place.set(std::slice::from_ref(&scan), 0);
    set.get(0).expect("sound");
    let entry = place.entries().remove(0);
    let good = fs::read(&entry).expect("an entry");
    fs::write(&entry, &good[..good.len() / 2]).expect("cut off");
    assert!(*set.get(0).expect("made again") == from_files(&scan));
    assert_eq!(fs::read(&entry).expect("an entry"), good);
}

#[test]
fn a_label_of_a_foreign_class_is_named() {
    let place = Place::new();
    let scan = place.scan("a", 1);
    let labels = nifti::read_labels(scan.label.as_ref().expect("it has one")).expect("sound");
    let values = labels.values.iter().map(|label| 6 * label).collect();
    write_labels(scan.label.as_ref().expect("it has one"), &Volume { values, ..labels }).expect("written");
    let error = place.set(&[scan], 0).check(3).expect_err("no class 6").to_string();
    assert!(error.contains("a-label.nii.gz") && error.contains("class 6"), "{error}");
}

#[test]
fn training_from_disk_ends_in_the_bits_of_training_from_memory() {
    let place = Place::new();
    let scans =
        [place.scan("a", 1), unlabelled(&place.scan("b", 2)), place.scan("c", 3), unlabelled(&place.scan("d", 4))];
    let run = LocalRun { augment: true, ..LocalRun::new(VNetConfig::binary(1), Method::MeanTeacher, [16; 3], 5, 1) };
    let go = |set: ScanSet| {
        let start = State::new(&run, &layout::initial(&run.config, 1));
        train(Device::Cpu, &run, start, &set, &AtomicBool::new(false), &mut |_| {}).expect("they fit")
    };
    let expected = go(ScanSet::in_memory(scans.iter().map(from_files)));
    for memory_bytes in [0, 100_000] {
        assert!(go(place.set(&scans, memory_bytes)) == expected);
    }
    assert!(go(ScanSet::on_disk(scans.clone(), SPACING, Storage { cache: None, memory_bytes: 0 })) == expected);
}

/// What goes wrong on the thread that makes steps ends the training with its reason.
#[test]
fn a_scan_that_is_lost_ends_the_training() {
    let place = Place::new();
    let scans = [place.scan("a", 1), place.scan("b", 2)];
    let set = ScanSet::on_disk(scans.clone(), SPACING, Storage { cache: None, memory_bytes: 0 });
    set.check(2).expect("sound");
    let run = LocalRun::new(VNetConfig::binary(1), Method::Supervised, [16; 3], 1000, 1);
    let start = State::new(&run, &layout::initial(&run.config, 1));
    let mut steps = 0;
    let ended = train(Device::Cpu, &run, start, &set, &AtomicBool::new(false), &mut |report| {
        steps = report.step;
        if steps == 1 {
            fs::remove_file(&scans[1].image).expect("removed");
        }
    });
    let error = ended.err().expect("a scan is gone").to_string();
    assert!(error.contains("b.nii.gz") && steps < 20, "{steps}: {error}");
}
