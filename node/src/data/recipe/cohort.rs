//! Volumes of a recipe on disk, in the layout that [`crate::data::folder`] reads.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use thiserror::Error;

use super::Recipe;
use crate::data::nifti::{WriteError, write_image, write_labels};

/// Why volumes were not written.
#[derive(Debug, Error)]
pub enum CohortError {
    /// The folder holds something already: nothing is overwritten or mixed.
    #[error("`{0}` is not empty: name a new folder, or remove it first")]
    NotEmpty(PathBuf),
    /// Full disk, missing permission.
    #[error("cannot write `{path}` ({error}): check that it may be written to and that the disk is not full")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A volume could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Makes the volumes with numbers below `count`, and writes them to `images/` and `labels/` of a folder that is new or
/// empty, if there is one. Returns the time that making them took, the sum over all threads.
///
/// # Errors
/// If the folder holds something, or cannot be written to.
pub fn write_scans(recipe: &Recipe, seed: u64, count: u64, root: Option<&Path>) -> Result<Duration, CohortError> {
    let folders = root.map(prepare).transpose()?;
    let write = |number: u64| {
        let start = Instant::now();
        let (image, classes) = recipe.scan(seed, number);
        let taken = start.elapsed();
        if let Some([images, labels]) = &folders {
            let file = format!("s{number:05}.nii.gz");
            write_image(&images.join(&file), &image)?;
            write_labels(&labels.join(&file), &classes)?;
        }
        Ok(taken)
    };
    (0..count).into_par_iter().map(write).try_reduce(Duration::default, |a, b| Ok(a + b))
}

/// The two folders of a hospital, new or empty.
fn prepare(root: &Path) -> Result<[PathBuf; 2], CohortError> {
    if std::fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(CohortError::NotEmpty(root.to_owned()));
    }
    let folders = ["images", "labels"].map(|folder| root.join(folder));
    for path in &folders {
        std::fs::create_dir_all(path).map_err(|error| CohortError::Io { path: path.clone(), error })?;
    }
    Ok(folders)
}
