//! Parity with nibabel on reference files, refusal of malformed ones, and hostile bytes.

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use proptest::prelude::*;
use safetensors::SafeTensors;

use super::*;

fn fixtures(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/nifti")).join(name)
}

fn shared() -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let folder = PathBuf::from(std::env::var("SEMISAM_SHARED").unwrap_or_else(|_| default.to_owned()));
    if folder.join("data").is_dir() {
        return Some(folder);
    }
    assert_ne!(std::env::var("SEMISAM_REQUIRE_SHARED").as_deref(), Ok("1"), "no shared folder");
    eprintln!("skipped: no shared folder");
    None
}

/// A valid little-endian NIfTI-1 file of f32 voxels 0, 1, 2, ... with an identity sform.
fn plain(shape: [i16; 3]) -> Vec<u8> {
    let count = shape.iter().map(|&extent| extent as usize).product::<usize>();
    let mut bytes = vec![0; 352];
    bytes[..4].copy_from_slice(&348_i32.to_le_bytes());
    for (i, extent) in [3, shape[0], shape[1], shape[2], 1, 1, 1, 1].iter().enumerate() {
        bytes[40 + 2 * i..42 + 2 * i].copy_from_slice(&extent.to_le_bytes());
    }
    bytes[70..72].copy_from_slice(&16_i16.to_le_bytes());
    for at in [76, 80, 84, 88, 280, 300, 320] {
        put_f32(&mut bytes, at, 1.0);
    }
    put_f32(&mut bytes, 108, 352.0);
    bytes[254..256].copy_from_slice(&1_i16.to_le_bytes());
    bytes[344..348].copy_from_slice(b"n+1\0");
    bytes.extend((0..count).flat_map(|value| (value as f32).to_le_bytes()));
    bytes
}

fn put_f32(bytes: &mut [u8], at: usize, value: f32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_i16(bytes: &mut [u8], at: usize, value: i16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Reads bytes as a file of the given name.
fn read_bytes(name: &str, bytes: &[u8]) -> Result<Image, NiftiError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let image = read_image(&path);
    let labels = read_labels(&path);
    if image.is_err() {
        assert!(labels.is_err());
    }
    image
}

fn refusal(name: &str, bytes: &[u8]) -> String {
    let message = read_bytes(name, bytes).expect_err("must be refused").to_string();
    assert!(message.contains(name) && message.contains(": "), "{message}");
    message
}

#[test]
fn geometry_matches_nibabel() {
    let bytes = std::fs::read(fixtures("geometry/expected_ras.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |name: &str| -> (Vec<usize>, Vec<f64>) {
        let view = expected.tensor(name).unwrap();
        let data = view.data();
        let values = match view.dtype() {
            safetensors::Dtype::F32 => {
                data.as_chunks::<4>().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect()
            }
            safetensors::Dtype::F64 => data.as_chunks::<8>().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
            other => panic!("{other:?}"),
        };
        (view.shape().to_vec(), values)
    };
    let manifest = std::fs::read(fixtures("geometry/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    for entry in manifest.as_array().unwrap() {
        let file = entry["file"].as_str().unwrap();
        let path = fixtures("geometry").join(file);
        let image = read_image(&path).unwrap();
        let (shape, voxels) = numbers(&format!("{file}|ras"));
        assert_eq!(shape[..3], image.shape, "{file}");
        assert_eq!(voxels.len(), image.values.len(), "{file}");
        for (&found, &expected) in image.values.iter().zip(&voxels) {
            assert!(
                (f64::from(found) - expected).abs() <= 1e-3 * expected.abs().max(1e-6),
                "{file} {found} {expected}"
            );
        }
        for (found, expected) in image.affine.iter().flatten().zip(numbers(&format!("{file}|affine")).1) {
            assert!((found - expected).abs() <= 1e-4, "{file} {found} {expected}");
        }
        let grid = read_grid(&path).unwrap();
        assert_eq!(grid.axes, entry["axcodes"].as_str().unwrap(), "{file}");
        assert_eq!(serde_json::json!(grid.shape), entry["shape"], "{file}");
    }
}

#[test]
fn malformed_files_are_refused_by_name() {
    let mut seen = 0;
    for entry in std::fs::read_dir(fixtures("malformed")).unwrap() {
        let path = entry.unwrap().path();
        let message = read_image(&path).expect_err(&path.display().to_string()).to_string();
        assert!(message.contains(path.file_name().unwrap().to_str().unwrap()), "{message}");
        assert!(read_labels(&path).is_err() && message.matches(": ").count() >= 2, "{message}");
        seen += 1;
    }
    assert_eq!(seen, 15);
}

#[test]
fn rest_of_a_gzip_stream_is_never_inflated() {
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::fast());
    encoder.write_all(&plain([8, 8, 8])).unwrap();
    let start = encoder.get_ref().len();
    encoder.write_all(&vec![0; 16 << 20]).unwrap();
    let mut bytes = encoder.finish().unwrap();
    // Were the tail inflated, these broken blocks would be noticed.
    let tail = start + (bytes.len() - start) / 2;
    bytes[tail..].fill(0xff);
    let image = read_bytes("bomb.nii.gz", &bytes).unwrap();
    assert_eq!((image.shape, image.values.len()), ([8; 3], 512));
}

#[test]
fn a_header_alone_cannot_allocate() {
    let mut bytes = plain([8, 8, 8]);
    [42, 44, 46].into_iter().for_each(|at| put_i16(&mut bytes, at, 800));
    assert!(refusal("lie.nii", &bytes).contains("copy is incomplete"));
    assert!(refusal("lie.nii.gz", &gzip(&bytes)).contains("copy is incomplete"));
    // Within what deflate could hold, but not there: the buffers grow with what was read.
    let mut bytes = plain([8, 8, 8]);
    [42, 44, 46].into_iter().for_each(|at| put_i16(&mut bytes, at, 50));
    assert!(refusal("lie.nii.gz", &gzip(&bytes)).contains("copy is incomplete"));
    [42, 44, 46].into_iter().for_each(|at| put_i16(&mut bytes, at, 32_767));
    assert!(refusal("huge.nii", &bytes).contains("more than"));
}

#[test]
fn truncation_at_any_byte_is_refused() {
    let whole = plain([3, 4, 5]);
    let zipped = gzip(&whole);
    assert!(read_bytes("whole.nii", &whole).is_ok() && read_bytes("whole.nii.gz", &zipped).is_ok());
    for length in 0..whole.len() {
        refusal("cut.nii", &whole[..length]);
    }
    for length in 0..zipped.len() {
        refusal("cut.nii.gz", &zipped[..length]);
    }
}

#[test]
fn gzip_is_known_by_content_and_members_are_joined() {
    let whole = plain([3, 4, 5]);
    assert!(read_bytes("zipped.nii", &gzip(&whole)).is_ok());
    let members = [gzip(&whole[..400]), gzip(&whole[400..])].concat();
    assert_eq!(read_bytes("members.nii.gz", &members).unwrap().values.len(), 60);
    assert!(refusal("plain.nii.gz", &whole).contains("rename it to .nii"));
    let mut flipped = gzip(&whole);
    let crc = flipped.len() - 8;
    flipped[crc] ^= 1;
    refusal("crc.nii.gz", &flipped);
}

#[test]
fn series_and_channels_say_what_to_do() {
    let mut bytes = plain([4, 4, 4]);
    put_i16(&mut bytes, 40, 4);
    put_i16(&mut bytes, 48, 1);
    assert!(read_bytes("one.nii", &bytes).is_ok());
    put_i16(&mut bytes, 48, 7);
    assert!(refusal("many.nii", &bytes).contains("has 7 time points, a 3-D scan is needed"));
    put_i16(&mut bytes, 48, 1);
    put_i16(&mut bytes, 40, 5);
    put_i16(&mut bytes, 50, 3);
    assert!(refusal("vector.nii", &bytes).contains("one value per voxel"));
    put_i16(&mut bytes, 40, 2);
    assert!(refusal("flat.nii", &bytes).contains("2 dimensions"));
}

#[test]
fn slope_zero_or_not_finite_is_none_and_a_bad_intercept_is_refused() {
    let mut bytes = plain([2, 2, 2]);
    for (slope, intercept, last) in [(0.0, 5.0, 7.0), (f32::NAN, 5.0, 7.0), (2.0, -3.0, 11.0)] {
        put_f32(&mut bytes, 112, slope);
        put_f32(&mut bytes, 116, intercept);
        assert_eq!(read_bytes("slope.nii", &bytes).unwrap().values[7], last);
    }
    put_f32(&mut bytes, 116, f32::NAN);
    assert!(refusal("slope.nii", &bytes).contains("scl_inter"));
}

#[test]
fn voxels_that_are_not_finite_are_refused_where_they_are() {
    let mut bytes = plain([2, 3, 4]);
    put_f32(&mut bytes, 352 + 4 * 9, f32::NAN);
    assert!(refusal("nan.nii", &bytes).contains("voxel [1, 1, 1]"));
}

#[test]
fn labels_are_whole_numbers_up_to_255() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("labels.nii");
    let mut bytes = plain([4, 8, 8]);
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(read_labels(&path).unwrap().values[255], 255);
    put_f32(&mut bytes, 116, 1.0);
    put_f32(&mut bytes, 112, 1.0);
    std::fs::write(&path, &bytes).unwrap();
    assert!(read_labels(&path).unwrap_err().to_string().contains("from 0 to 255"));
    put_f32(&mut bytes, 112, 0.5);
    std::fs::write(&path, &bytes).unwrap();
    assert!(read_labels(&path).is_err());
}

#[test]
fn affines_that_cannot_place_voxels_are_refused() {
    let mut degenerate = plain([2, 2, 2]);
    put_f32(&mut degenerate, 300, 0.0);
    put_f32(&mut degenerate, 284, 1.0);
    assert!(refusal("degenerate.nii", &degenerate).contains("degenerate"));
    let mut infinite = plain([2, 2, 2]);
    put_f32(&mut infinite, 292, f32::INFINITY);
    assert!(refusal("infinite.nii", &infinite).contains("not finite"));
    let mut flat = plain([2, 2, 2]);
    put_f32(&mut flat, 320, 0.0);
    assert!(refusal("flat.nii", &flat).contains("spacing along axis 3 is 0 mm"));
}

#[test]
fn without_forms_the_spacing_places_the_centre_as_nibabel_does() {
    let mut bytes = plain([3, 5, 7]);
    put_i16(&mut bytes, 254, 0);
    [(80, 3.0), (84, 2.0), (88, 1.0)].into_iter().for_each(|(at, spacing)| put_f32(&mut bytes, at, spacing));
    let image = read_bytes("centred.nii", &bytes).unwrap();
    // nibabel's documentation has [-3, 0, 0, 3], [0, 2, 0, -4], [0, 0, 1, -3] for the stored axes.
    let expected = [[3.0, 0.0, 0.0, -3.0], [0.0, 2.0, 0.0, -4.0], [0.0, 0.0, 1.0, -3.0], [0.0, 0.0, 0.0, 1.0]];
    assert_eq!(image.affine, expected);
    assert_eq!(image.values[0], 2.0);
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let affine = [[0.0, -2.0, 0.1, 5.0], [1.5, 0.0, 0.0, -7.0], [0.0, 0.2, 3.0, 9.0], [0.0, 0.0, 0.0, 1.0]];
    let image = Image { shape: [2, 3, 4], affine, values: (0..24).map(|value| value as f32 * 0.5).collect() };
    let path = folder.path().join("image.nii.gz");
    write_image(&path, &image).unwrap();
    let back = read_image(&path).unwrap();
    // Stored axes point to Anterior and Left: reading turns them.
    assert_eq!(read_grid(&path).unwrap().axes, "ALS");
    assert_eq!(back.shape, [3, 2, 4]);
    assert_eq!(back.values[back.index(2, 1, 3)], image.values[image.index(1, 0, 3)]);
    let missing = folder.path().join("missing/image.nii.gz");
    assert!(write_image(&missing, &image).unwrap_err().to_string().contains("folder exists"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn masks_are_written_on_the_grid_of_the_scan() {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixtures("geometry")).unwrap() {
        let scan = entry.unwrap().path();
        let Ok(image) = read_image(&scan) else { continue };
        let values: Vec<u8> = (0..image.values.len()).map(|at| (at % 251) as u8).collect();
        let labels = LabelMap { shape: image.shape, affine: image.affine, values };
        let path = folder.path().join("mask.nii.gz");
        write_labels_like(&scan, &labels, &path).unwrap();
        let (original, written) = (read_grid(&scan).unwrap(), read_grid(&path).unwrap());
        assert_eq!((&written.axes, written.shape), (&original.axes, original.shape));
        for (a, b) in written.affine.iter().flatten().zip(original.affine.iter().flatten()) {
            assert!((a - b).abs() < 1e-4);
        }
        let back = read_labels(&path).unwrap();
        assert_eq!(back.values, labels.values);
        let wrong = LabelMap { shape: [1, 1, 1], affine: image.affine, values: vec![0] };
        assert!(write_labels_like(&scan, &wrong, &path).is_err());
    }
}

#[test]
fn real_scans() {
    let Some(shared) = shared() else { return };
    let vendor = shared.join("data/vendor");
    let ct = read_image(&vendor.join("totalsegmentator_ct.nii.gz")).unwrap();
    let labels = read_labels(&vendor.join("totalsegmentator_ct_labels.nii.gz")).unwrap();
    assert_eq!((ct.shape, labels.shape), ([122, 101, 30], [122, 101, 30]));
    for series in ["ge_epi_las.nii.gz", "philips_epi.nii.gz"] {
        let message = read_image(&vendor.join(series)).unwrap_err().to_string();
        assert!(message.contains("has 3 time points, a 3-D scan is needed"), "{message}");
    }
    let atrium = read_labels(&shared.join("data/la/labels/train_000.nii.gz")).unwrap();
    assert!(atrium.values.iter().all(|&class| class <= 1) && atrium.values.contains(&1));
    assert!(read_image(&shared.join("data/la/images/train_000.nii.gz")).is_ok());
    assert!(read_labels(&shared.join("data/la/images/train_000.nii.gz")).is_err());
    let bomb = shared.join("reference/nifti/malformed/bomb.nii.gz");
    assert_eq!(read_image(&bomb).unwrap().shape, [8; 3]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..1200), zipped: bool) {
        let bytes = if zipped { gzip(&bytes) } else { bytes };
        let _ = read_bytes("noise.nii", &bytes);
    }

    #[test]
    fn mutated_headers_never_panic(
        edits in prop::collection::vec((4_usize..352, any::<u8>()), 1..12),
        geometry in any::<bool>(), zipped: bool,
    ) {
        let mut bytes = plain([5, 4, 3]);
        for (at, value) in edits {
            // Half of the cases keep the counts, so that the geometry is reached.
            if !geometry || (76..344).contains(&at) {
                bytes[at] = value;
            }
        }
        let bytes = if zipped { gzip(&bytes) } else { bytes };
        if let Ok(image) = read_bytes("mutated.nii", &bytes) {
            prop_assert_eq!(image.count(), image.values.len());
            prop_assert!(image.values.iter().all(|value| value.is_finite()));
            prop_assert!(image.affine.iter().flatten().all(|number| number.is_finite()));
        }
    }

    #[test]
    fn mutated_nifti2_headers_never_panic(edits in prop::collection::vec((4_usize..540, any::<u8>()), 1..12)) {
        let mut bytes = std::fs::read(fixtures("geometry/06_ASR_int16_nifti2.nii.gz")).unwrap();
        let mut plain = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(bytes.as_slice()), &mut plain).unwrap();
        bytes = plain;
        edits.into_iter().for_each(|(at, value)| bytes[at] = value);
        let _ = read_bytes("mutated2.nii", &bytes);
    }
}
