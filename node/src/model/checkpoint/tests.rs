use std::{fs, path::PathBuf};

use super::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures")).join(name)
}

fn values<'a>(weights: &'a Weights, name: &str) -> &'a [f32] {
    &weights.get(name).expect("the fixture has it").values
}

#[test]
fn a_wrapped_checkpoint_is_unwrapped_and_runs_nothing() {
    let weights = read(&fixture("checkpoint/wrapped.pth")).expect("a checkpoint");
    assert_eq!(weights.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["a.bias", "a.weight", "b.weight"]);
    assert_eq!(weights.get("a.weight").expect("there").shape, [2, 3]);
    assert_eq!(values(&weights, "a.weight"), [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
    assert_eq!(values(&weights, "a.bias"), [0.5, -2.0]);
    assert_eq!(values(&weights, "b.weight"), [1.5, -3.0]);
    assert!(!Path::new("command-was-run").exists());
}

#[test]
fn both_formats_hold_the_same_published_network() {
    let published = read(&fixture("vnet/vnet_tiny.safetensors")).expect("a fixture");
    let shared = std::env::var("SEMISAM_SHARED")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared").to_owned());
    let path = Path::new(&shared).join("reference/vnet/vnet_tiny.pth");
    if !path.exists() {
        assert_ne!(std::env::var("SEMISAM_REQUIRE_SHARED").as_deref(), Ok("1"), "`{}` is missing", path.display());
        eprintln!("skipped: `{}` is missing", path.display());
        return;
    }
    assert_eq!(read(&path).expect("a checkpoint"), published);
}

#[test]
fn what_is_no_model_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let message = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("written");
        let error = read(&path).expect_err("no model").to_string();
        assert!(error.contains(name), "{error}");
        error
    };
    assert!(message("empty.pth", b"").contains("neither"));
    assert!(message("text.pth", b"these are no weights at all").contains("neither"));
    assert!(message("cut.safetensors", b"\xff\xff\xff\xff\0\0\0\0{\"a\"").contains("neither"));
    assert!(message("none.safetensors", b"\x02\0\0\0\0\0\0\0{}").contains("no tensors"));
    let integers = b"{\"a\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
    let mut file = (integers.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(integers);
    file.extend_from_slice(&[0; 4]);
    assert!(message("integers.safetensors", &file).contains("`a`"));
    let mut longer = fs::read(fixture("vnet/vnet_tiny.safetensors")).expect("a fixture");
    longer.extend_from_slice(b"more");
    assert!(message("longer.safetensors", &longer).contains("4 bytes after its last tensor"));
    assert!(read(&folder.path().join("absent.pth")).expect_err("absent").to_string().contains("absent.pth"));
}

#[test]
fn damaged_checkpoints_give_errors_not_panics() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("damaged.pth");
    let whole = fs::read(fixture("checkpoint/wrapped.pth")).expect("a fixture");
    for cut in (0..whole.len()).step_by(37) {
        fs::write(&path, &whole[..cut]).expect("written");
        assert!(read(&path).is_err(), "cut after {cut} bytes");
    }
}
