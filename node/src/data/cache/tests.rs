use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use proptest::prelude::*;
use semisam_shared::ids::Digest;
use tempfile::TempDir;

use super::*;
use crate::data::volume::Volume;

/// A second later each time it is asked.
fn clock(seconds: &Arc<AtomicU64>) -> Clock {
    let seconds = seconds.clone();
    Box::new(move || UnixMillis(1000 * seconds.fetch_add(1, Ordering::SeqCst)))
}

fn open(folder: &TempDir, bytes: u64) -> Cache {
    Cache::open(&folder.path().join("cache"), bytes, clock(&Arc::new(AtomicU64::new(1_000_000)))).expect("a cache")
}

fn key(name: &str) -> Key {
    Key::new(1, [1.0; 3], Digest::of(name.as_bytes()), None)
}

/// A scan that its number tells from others.
fn scan(number: u16, side: usize, labelled: bool) -> (Image, Option<LabelMap>) {
    let (shape, affine) = ([side; 3], [[f64::from(number); 4]; 4]);
    let values = (0..side.pow(3)).map(|at| f32::from(number) + at as f32).collect();
    let labels = labelled.then(|| Volume { shape, affine: [[0.5; 4]; 4], values: vec![number as u8; side.pow(3)] });
    (Volume { shape, affine, values }, labels)
}

fn put(cache: &Cache, name: &str, (image, labels): &(Image, Option<LabelMap>)) {
    cache.put(&key(name), image, labels.as_ref());
}

/// The names of those among `names` that have an entry.
fn there<'a>(cache: &Cache, names: &[&'a str]) -> Vec<&'a str> {
    names.iter().copied().filter(|name| cache.path(&key(name)).exists()).collect()
}

fn bits(image: &Image) -> Vec<u32> {
    image.values.iter().map(|value| value.to_bits()).collect()
}

proptest! {
    #[test]
    fn what_is_kept_is_found_bit_by_bit(
        shape in prop::array::uniform3(1_usize..9),
        seed in any::<u32>(),
        affine in prop::array::uniform4(prop::array::uniform4(-1e3_f64..1e3)),
        labelled in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = open(&folder, 1 << 20);
        let count = shape.iter().product::<usize>() as u32;
        let values = (0..count).map(|at| f32::from_bits(seed.wrapping_mul(at.wrapping_add(1)))).collect();
        let image = Volume { shape, affine, values };
        let labels = labelled.then(|| Volume { shape, affine, values: (0..count).map(|at| at as u8).collect() });
        prop_assert!(cache.get(&key("a")).is_none());
        cache.put(&key("a"), &image, labels.as_ref());
        prop_assert_eq!(fs::metadata(cache.path(&key("a"))).expect("an entry").len(), entry::size(&image, labels.as_ref()));
        let (found, found_labels) = open(&folder, 1 << 20).get(&key("a")).expect("kept");
        prop_assert_eq!((found.shape, found.affine, bits(&found)), (shape, affine, bits(&image)));
        prop_assert!(found_labels == labels);
        prop_assert!(cache.get(&key("b")).is_none());
    }

    /// Entries that somebody made up never take the program down, nor much memory.
    #[test]
    fn arbitrary_bytes_are_no_entry(bytes in prop::collection::vec(any::<u8>(), 0..600), extents in prop::array::uniform3(any::<u64>())) {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = open(&folder, 1 << 20);
        put(&cache, "a", &scan(1, 2, true));
        let path = cache.path(&key("a"));
        let mut forged = fs::read(&path).expect("an entry");
        for (place, extent) in forged[56..80].chunks_exact_mut(8).zip(extents) {
            place.copy_from_slice(&extent.to_le_bytes());
        }
        for bad in [bytes, forged] {
            fs::write(&path, bad).expect("written");
            prop_assert!(cache.get(&key("a")).is_none() && !path.exists());
        }
    }
}

#[test]
fn a_damaged_entry_is_taken_away_and_made_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = open(&folder, 1 << 20);
    let (one, other) = (scan(1, 3, true), scan(2, 3, true));
    put(&cache, "a", &one);
    put(&cache, "other", &other);
    let path = cache.path(&key("a"));
    let good = fs::read(&path).expect("an entry");
    let mut damaged: Vec<Vec<u8>> = (0..good.len())
        .map(|at| {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            bytes
        })
        .collect();
    damaged.extend([0, 1, 100, good.len() - 33, good.len() - 1].map(|length| good[..length].to_vec()));
    damaged.push([&good[..], &[0]].concat());
    // whole, but of another scan
    damaged.push(fs::read(cache.path(&key("other"))).expect("an entry"));
    for bytes in damaged {
        fs::write(&path, bytes).expect("written");
        assert!(cache.get(&key("a")).is_none() && !path.exists());
    }
    put(&cache, "a", &one);
    assert!(cache.get(&key("a")) == Some(one) && cache.get(&key("other")) == Some(other));
}

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let (image, labels) = scan(1, 4, false);
    let size = entry::size(&image, labels.as_ref());
    let cache = open(&folder, 3 * size + size / 2);
    let names = ["a", "b", "c", "d", "e"];
    for (number, name) in names[..3].iter().enumerate() {
        put(&cache, name, &scan(number as u16, 4, false));
    }
    assert!(cache.get(&key("a")).is_some());
    put(&cache, "d", &scan(3, 4, false));
    assert_eq!(there(&cache, &names), ["a", "c", "d"]);
    // One that is just being read stays, though it is the oldest.
    let reader = File::open(cache.path(&key("c"))).expect("an entry");
    reader.lock_shared().expect("locks");
    put(&cache, "e", &scan(4, 4, false));
    assert_eq!(there(&cache, &names), ["c", "d", "e"]);
    drop(reader);
    // A smaller bound holds from the start, and what alone is larger is not kept.
    let smaller = open(&folder, size);
    assert_eq!(there(&smaller, &names), ["e"]);
    put(&smaller, "a", &scan(1, 5, false));
    assert_eq!(there(&smaller, &names), ["e"]);
    put(&smaller, "b", &scan(1, 4, false));
    assert_eq!(there(&smaller, &names), ["b"]);
}

#[test]
fn only_entries_of_what_is_there_are_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = open(&folder, 1 << 20);
    let names = ["a", "b", "c"];
    names.iter().for_each(|name| put(&cache, name, &scan(1, 2, true)));
    let stranger = folder.path().join("cache/letter.txt");
    fs::write(&stranger, "not ours").expect("written");
    cache.keep_only(&[key("b"), key("z")].into()).expect("removed");
    assert_eq!(there(&cache, &names), ["b"]);
    assert!(Cache::open(&folder.path().join("cache"), 0, Box::new(|| UnixMillis(0))).is_ok());
    assert_eq!((there(&cache, &names).len(), stranger.exists()), (0, true));
}

/// Two programs know nothing of each other but the folder.
#[test]
fn programs_that_share_a_folder_always_find_what_they_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let size = entry::size(&scan(0, 6, true).0, scan(0, 6, true).1.as_ref());
    let hits = AtomicU64::new(0);
    thread::scope(|scope| {
        for thread in 0..4_u16 {
            let (folder, hits) = (&folder, &hits);
            scope.spawn(move || {
                let cache = open(folder, 3 * size);
                for turn in 0..60_u16 {
                    let number = (turn * (thread + 1)) % 5;
                    let (name, expected) = (number.to_string(), scan(number, 6, true));
                    match cache.get(&key(&name)) {
                        Some(found) => {
                            hits.fetch_add(1, Ordering::SeqCst);
                            assert!(found == expected);
                        }
                        None => put(&cache, &name, &expected),
                    }
                }
            });
        }
    });
    assert!(hits.into_inner() > 0);
    let cache = open(&folder, 3 * size);
    let left: u64 = cache.entries().expect("a folder").iter().map(|entry| entry.bytes).sum();
    assert!(left <= 3 * size, "{left}");
    let unfinished = fs::read_dir(folder.path().join("cache")).expect("a folder").filter_map(Result::ok);
    assert!(unfinished.into_iter().all(|file| !file.file_name().to_string_lossy().starts_with(WRITING)));
}

#[test]
fn what_a_crash_left_unfinished_goes_unless_somebody_writes() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = open(&folder, 1 << 20);
    let unfinished = folder.path().join("cache").join(format!("{WRITING}x"));
    fs::write(&unfinished, "half of a scan").expect("written");
    let writer = cache.lock().expect("a lock");
    writer.lock_shared().expect("locks");
    open(&folder, 1 << 20);
    assert!(unfinished.exists());
    drop(writer);
    open(&folder, 1 << 20);
    assert!(!unfinished.exists());
}

#[test]
fn a_cache_that_fails_costs_time_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = open(&folder, 1 << 20);
    fs::remove_dir_all(folder.path().join("cache")).expect("removed");
    put(&cache, "a", &scan(1, 2, true));
    assert!(cache.get(&key("a")).is_none());
    let file = folder.path().join("file");
    fs::write(&file, "no folder").expect("written");
    let error = Cache::open(&file, 1, Box::new(|| UnixMillis(0))).expect_err("a file");
    assert!(error.to_string().contains("file"), "{error}");
}

#[cfg(unix)]
#[test]
fn voxels_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let cache = open(&folder, 1 << 20);
    put(&cache, "a", &scan(1, 2, true));
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    let inside = folder.path().join("cache");
    assert_eq!([&inside, &cache.path(&key("a")), &inside.join(LOCK)].map(|path| mode(path)), [0o700, 0o600, 0o600]);
    fs::set_permissions(&inside, fs::Permissions::from_mode(0o777)).expect("changed");
    let error = Cache::open(&inside, 1, Box::new(|| UnixMillis(0))).expect_err("others may write");
    assert!(error.to_string().contains("chmod 700"), "{error}");
}
