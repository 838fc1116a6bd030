//! What names a prepared scan: the bytes of its files, the spacing, and the way it is prepared.

use std::{fs::File, io, path::Path};

use semisam_shared::ids::Digest;
use sha2::{Digest as _, Sha256};

/// Names an entry. Never logged: it would tell whether a scan that somebody knows is here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(Digest);

impl Key {
    /// Of a scan whose image and label have these digests, at `spacing_mm`, prepared in the way of this number. A scan
    /// without a label and one with an empty label have different keys.
    pub fn new(preparation: u32, spacing_mm: [f64; 3], image: Digest, label: Option<Digest>) -> Self {
        let mut hash = Sha256::new_with_prefix(b"semisam/prepared scan\0");
        hash.update(preparation.to_le_bytes());
        for spacing in spacing_mm {
            hash.update(spacing.to_le_bytes());
        }
        hash.update(image.0);
        if let Some(label) = label {
            hash.update(label.0);
        }
        Self(Digest(hash.finalize().into()))
    }

    /// Of something else, which this digest names.
    pub fn of(name: Digest) -> Self {
        Self(name)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0.0
    }

    /// The name of its file.
    pub(super) fn name(&self) -> String {
        self.0.to_string()
    }

    /// Whether [`Key::name`] may have given this.
    pub(super) fn is_name(name: &str) -> bool {
        name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    }
}

/// The digest of a file's bytes.
///
/// # Errors
/// If it cannot be read.
pub fn digest_of_file(path: &Path) -> io::Result<Digest> {
    File::open(path).and_then(Digest::of_reader)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Parts = (u32, [f64; 3], [u8; 32], Option<[u8; 32]>);

    fn parts() -> impl Strategy<Value = Parts> {
        // Few values each, so that equal parts are met as well as different ones.
        let digest = || prop_oneof![Just([0; 32]), Just([1; 32]), any::<[u8; 32]>()];
        let spacing = prop::array::uniform3(prop_oneof![Just(1.0), Just(2.5), 0.1_f64..5.0]);
        (0_u32..3, spacing, digest(), prop::option::of(digest()))
    }

    fn key((preparation, spacing, image, label): Parts) -> Key {
        Key::new(preparation, spacing, Digest(image), label.map(Digest))
    }

    proptest! {
        #[test]
        fn keys_are_equal_where_everything_is_and_nowhere_else(one in parts(), two in parts()) {
            prop_assert_eq!(key(one) == key(two), one == two);
            prop_assert!(Key::is_name(&key(one).name()));
        }

        #[test]
        fn the_digest_of_a_file_is_that_of_its_bytes_whatever_its_name(bytes in prop::collection::vec(any::<u8>(), 0..600_000)) {
            let folder = tempfile::tempdir().expect("a folder");
            for name in ["one.nii.gz", "two"] {
                let path = folder.path().join(name);
                std::fs::write(&path, &bytes).expect("written");
                prop_assert_eq!(digest_of_file(&path).expect("read"), Digest::of(&bytes));
            }
        }
    }

    #[test]
    fn other_files_are_no_entries() {
        for name in ["", "readme", &"g".repeat(64), &"A".repeat(64), &"0".repeat(63), "../etc/passwd"] {
            assert!(!Key::is_name(name), "{name}");
        }
    }
}
