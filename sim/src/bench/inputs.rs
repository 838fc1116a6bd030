//! Which files a measurement is of, by what is in them: files are exchanged under their names, and what was measured of one
//! must not stand for another.

use std::{
    io,
    path::{Path, PathBuf},
};

use semisam_node::{
    data::{
        cache::key::digest_of_file,
        folder::{Cohort, FolderError},
    },
    model::checkpoint::{self, CheckpointError},
};
use semisam_shared::ids::Digest;

/// Digests of what trainings are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// All scans with their labels.
    pub scans: Digest,
    /// The pre-trained student.
    pub init: Option<Digest>,
    /// Who is asked.
    pub generalist: Option<Digest>,
}

/// A file cannot be told from others.
#[derive(Debug, thiserror::Error)]
pub enum InputsError {
    /// The scans cannot be listed.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A model cannot be read.
    #[error(transparent)]
    Model(#[from] CheckpointError),
    /// A scan cannot be read.
    #[error("cannot read `{}`; check the path and that this program may read it", .0.display())]
    Read(PathBuf, #[source] io::Error),
}

impl Inputs {
    /// Those of a measurement; a model may be one that comes with the program.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn read(data: &Path, init: Option<&Path>, generalist: Option<&Path>) -> Result<Self, InputsError> {
        let model = |path: Option<&Path>| path.map(checkpoint::digest).transpose();
        Ok(Self { init: model(init)?, generalist: model(generalist)?, scans: scans(data)? })
    }
}

/// What names the scans of a folder: which patients have them, what they are called, and every byte of them and their labels.
///
/// # Errors
/// If one cannot be read.
pub fn scans(data: &Path) -> Result<Digest, InputsError> {
    let digest = |path: &PathBuf| digest_of_file(path).map_err(|source| InputsError::Read(path.clone(), source));
    let mut lines = String::new();
    for patient in Cohort::open(data)?.patients {
        for scan in &patient.scans {
            let label = scan.label.as_ref().map(digest).transpose()?;
            let label = label.map_or("no label".to_owned(), |label| label.to_string());
            lines += &format!("{:?} {:?} {} {label}\n", patient.id, scan.name, digest(&scan.image)?);
        }
    }
    Ok(Digest::of(lines.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use semisam_node::{
        data::synth::{Style, SynthSpec, write_cohort},
        model::shipped,
    };

    use super::*;

    #[test]
    fn what_is_exchanged_under_its_name_is_another_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let (data, init) = (folder.path().join("scans"), folder.path().join("start.safetensors"));
        let style = Style::from_seed(1);
        let spec = SynthSpec { style, shape: [8; 3], spacing_mm: [2.5; 3], patients: 2, labelled_patients: 2, seed: 1 };
        write_cohort(&spec, &data).expect("scans");
        fs::write(&init, b"one").expect("written");
        let read = || Inputs::read(&data, Some(&init), Some("small-generalist".as_ref())).expect("they are there");
        let before = read();
        assert_eq!(read(), before);
        assert!(before.generalist.is_some_and(|digest| shipped::named(digest) == Some("small-generalist")));
        fs::write(&init, b"two").expect("written");
        assert_eq!(read(), Inputs { init: Some(Digest::of(b"two")), ..before });
        let label = Cohort::open(&data).expect("scans").labelled().next().expect("one").label.clone().expect("a label");
        let text = fs::read(&label).expect("there");
        fs::write(&label, [&text[..], b"\0"].concat()).expect("written");
        assert_ne!(read().scans, before.scans);
        fs::write(&label, &text).expect("as it was");
        assert_eq!(read().scans, before.scans);
        fs::remove_file(&label).expect("removed");
        assert_ne!(read().scans, before.scans);
        let error = Inputs::read(&data, Some("no-such-student".as_ref()), None).expect_err("no file").to_string();
        assert!(error.contains("`no-such-student`"), "{error}");
    }
}
