//! Models that come with the program, for places where nothing can be downloaded: a name stands where else a file does.
//!
//! `node/assets/README.md` says of each what it was trained on, how, and how good it is.

use std::{
    fs::File,
    io::{self, Cursor, Read, Seek},
    path::Path,
};

use semisam_shared::ids::Digest;

/// Name and file of each.
pub const SHIPPED: [(&str, &[u8]); 3] = [
    ("left-atrium-student", include_bytes!("../../assets/models/left-atrium-student.safetensors")),
    ("small-generalist", include_bytes!("../../assets/models/small-generalist.safetensors")),
    ("left-atrium-generalist", include_bytes!("../../assets/models/left-atrium-generalist.safetensors")),
];

/// Bytes that can be read from anywhere.
pub trait Bytes: Read + Seek {}
impl<T: Read + Seek> Bytes for T {}

/// The shipped model of this name, else the file at this path; with its length.
///
/// # Errors
/// If it is neither.
pub fn open(path: &Path) -> io::Result<(Box<dyn Bytes>, u64)> {
    if let Some((_, bytes)) = SHIPPED.iter().find(|(name, _)| path == Path::new(name)) {
        return Ok((Box::new(Cursor::new(*bytes)), bytes.len() as u64));
    }
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    Ok((Box::new(file), length))
}

/// The shipped model whose file has this digest.
pub fn named(digest: Digest) -> Option<&'static str> {
    SHIPPED.iter().find(|(_, bytes)| Digest::of(bytes) == digest).map(|(name, _)| *name)
}

/// Their names, for people.
pub fn names() -> String {
    SHIPPED.map(|(name, _)| format!("`{name}`")).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        device::Device,
        generalist::Generalist,
        model::{VNetConfig, checkpoint},
    };

    #[test]
    fn what_is_shipped_is_small_whole_and_what_its_name_says() {
        assert!(SHIPPED.iter().all(|(_, bytes)| bytes.len() <= 8 << 20));
        let student = checkpoint::read("left-atrium-student".as_ref()).expect("it is shipped");
        assert_eq!(VNetConfig::of(&student, None).expect("a student").classes, 2);
        for name in ["small-generalist", "left-atrium-generalist"] {
            let generalist = Generalist::open(name.as_ref(), Device::Cpu).expect("it is shipped");
            assert_eq!(generalist.network().name(), "prompted U-Net");
            assert_eq!(named(generalist.digest()), Some(name));
        }
        assert_eq!(named(Digest::of(b"another")), None);
        let error = checkpoint::read("small-generalist.pth".as_ref()).expect_err("no such file").to_string();
        assert!(error.contains("`small-generalist`"), "{error}");
    }
}
