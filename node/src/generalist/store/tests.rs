use std::{
    fs,
    sync::atomic::{AtomicUsize, Ordering},
};

use semisam_shared::ids::UnixMillis;

use super::*;
use crate::{
    device::Device,
    generalist::network,
    model::{
        checkpoint::{Description, described_halves},
        prompt_unet::{self, PromptUNetConfig},
        sam::{config::SamConfig, layout},
    },
};

fn tiny() -> Generalist {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/sam_med3d/sam_med3d_tiny.pth");
    Generalist::open(file.as_ref(), Device::Cpu).expect("a fixture")
}

fn scan(seed: usize) -> Image {
    let Grid { shape, affine } = Grid::centred([60, 20, 24], [2.0; 3]);
    let values = (0..shape.iter().product()).map(|at: usize| ((at * (37 + seed)) % 101) as f32).collect();
    Image { shape, affine, values }
}

fn store(folder: &Path) -> Store {
    Store::on_disk(Cache::open(folder, 1 << 24, Box::new(|| UnixMillis(1))).expect("a folder"))
}

/// A source that counts how often its voxels are asked for.
fn counted(image: Image) -> (Source, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let (source, counting) = (Source::of_image(image), count.clone());
    let Source { digest, grid, read } = source;
    let read = Box::new(move || {
        counting.fetch_add(1, Ordering::Relaxed);
        read()
    });
    (Source { digest, grid, read }, count)
}

#[test]
fn an_embedding_is_computed_once_and_comes_back_bit_for_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let (generalist, (source, read)) = (tiny(), counted(scan(1)));
    let [right, left] = [[40.0, 0.0, 0.0], [-40.0, 0.0, 0.0]];
    let first = store(folder.path()).embedding(&generalist, &source, right).expect("computed");
    let again = store(folder.path()).embedding(&generalist, &source, [1.0, 2.0, -3.0]).expect("found");
    assert!(first == again && read.load(Ordering::Relaxed) == 1, "the same station");
    assert!(first == Store::default().embedding(&generalist, &source, right).expect("computed anew"));
    assert_eq!(read.load(Ordering::Relaxed), 2);
    // 120 mm do not fit into the 96 mm that this network sees: the left half is another view
    let other = store(folder.path()).embedding(&generalist, &source, left).expect("computed");
    assert!(other != first && read.load(Ordering::Relaxed) == 3);
    let (another, _) = counted(scan(2));
    assert!(store(folder.path()).embedding(&generalist, &another, right).expect("computed") != first);
    // a renamed file and a copy are the same scan
    let (copy, read) = counted(scan(1));
    assert!(store(folder.path()).embedding(&generalist, &copy, right).expect("found") == first);
    assert_eq!(read.load(Ordering::Relaxed), 0);
}

/// The small network sees all of a scan at its own spacing, so that one station is enough wherever somebody looks.
#[test]
fn a_small_generalist_names_its_own_views() {
    let folder = tempfile::tempdir().expect("a folder");
    let text =
        r#"{"spacing_mm": 4.0, "temperature": 1.0, "steps": [0, 0], "seed": 1, "patch": [16, 16, 16], "recipes": []}"#;
    let weights = prompt_unet::layout::initial(&PromptUNetConfig { widths: [2, 4, 4, 4] }, 1);
    let path = folder.path().join("small.safetensors");
    fs::write(&path, described_halves(&weights, text).expect("bytes")).expect("written");
    let (generalist, (source, read)) = (Generalist::open(&path, Device::Cpu).expect("a file"), counted(scan(5)));
    let store = store(&folder.path().join("kept"));
    let first = store.embedding(&generalist, &source, [40.0, 0.0, 0.0]).expect("computed");
    // 120 x 40 x 48 mm
    assert_eq!(first.grid.shape, [32, 16, 16]);
    let again = store.embedding(&generalist, &source, [-40.0, 0.0, 0.0]).expect("found");
    assert!(again == first && read.load(Ordering::Relaxed) == 1);
    assert!(Store::NONE.embedding(&generalist, &source, [0.0; 3]).expect("computed anew") == first);
    store.keep_only(&[generalist], &[source]).expect("nothing else is there");
    let (same, read) = counted(scan(5));
    let generalist = Generalist::open(&path, Device::Cpu).expect("a file");
    assert!(store.embedding(&generalist, &same, [0.0; 3]).expect("kept") == first && read.load(Ordering::Relaxed) == 0);
}

#[test]
fn another_checkpoint_finds_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = SamConfig {
        grid: [2; 3],
        windows: vec![2; 2],
        width: 8,
        head: 4,
        hidden: 8,
        channels: 24,
        ..SamConfig::published()
    };
    let of = |seed: u64, digest: u8| Generalist {
        network: network::on_device(layout::drawn(&config, seed), &Description::default(), Device::Cpu)
            .expect("a network"),
        digest: Digest([digest; 32]),
    };
    let (source, read) = counted(scan(3));
    let store = store(folder.path());
    let [one, two] =
        [of(1, 1), of(2, 2)].map(|generalist| store.embedding(&generalist, &source, [0.0; 3]).expect("computed"));
    assert!(one != two && read.load(Ordering::Relaxed) == 2);
    assert!(store.embedding(&of(1, 1), &source, [0.0; 3]).expect("found") == one && read.load(Ordering::Relaxed) == 2);
}

/// Any byte that changes, and any cut, is noticed, and the embedding is computed anew.
#[test]
fn damage_is_noticed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (generalist, (source, read)) = (tiny(), counted(scan(4)));
    let expected = store(folder.path()).embedding(&generalist, &source, [0.0; 3]).expect("computed");
    let entry = || {
        let files = fs::read_dir(folder.path()).expect("a folder").map(|file| file.expect("a file").path());
        files.into_iter().find(|path| fs::metadata(path).expect("a file").len() > 1000).expect("an entry")
    };
    let good = fs::read(entry()).expect("bytes");
    let mut damaged: Vec<Vec<u8>> = [0, 17, 50, 60, 90, 200, good.len() / 2, good.len() - 1]
        .map(|at| {
            let mut bytes = good.clone();
            bytes[at] ^= 4;
            bytes
        })
        .into();
    damaged.extend([0, 10, 300, good.len() - 1].map(|length| good[..length].to_vec()));
    damaged.push([&good[..], &[0]].concat());
    for (number, bytes) in damaged.into_iter().enumerate() {
        let path = entry();
        fs::write(&path, bytes).expect("written");
        assert!(store(folder.path()).embedding(&generalist, &source, [0.0; 3]).expect("computed") == expected);
        assert_eq!(read.load(Ordering::Relaxed), number + 2, "{number}");
        assert_eq!(fs::read(entry()).expect("bytes"), good);
    }
}

#[test]
fn what_is_too_large_for_half_precision_becomes_its_largest_number() {
    assert_eq!([1e9, -1e9, 0.5, 1e-9].map(|value| half(value).to_f32()), [65504.0, -65504.0, 0.5, 0.0]);
}
