//! The layouts of a folder of scans: what is an image, what is a label, before anything is matched or opened.
//!
//! * plain: `images/NAME.nii[.gz]`, `labels/NAME.nii[.gz]`
//! * nnU-Net raw: `imagesTr/NAME_0000.nii.gz`, `labelsTr/NAME.nii.gz`, and `imagesTs`, `labelsTs` alike
//! * BIDS: `sub-X[/ses-Y]/FOLDER/IMAGE.nii.gz`, labels beside the image or anywhere under `derivatives/`, named
//!   `IMAGE_SOMETHING.nii.gz` (`sub-1_T1w_dseg`) or after the image without its last part (`sub-1_dseg`)

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{FolderError, patients};

/// How deep a BIDS dataset is searched.
const BIDS_DEPTH: usize = 6;
/// Last parts of names that mark a label in BIDS; `seg-` and `lesion-` with anything after them do so too.
const BIDS_LABELS: [&str; 6] = ["dseg", "probseg", "mask", "seg", "label", "lesion"];

/// A NIfTI file of a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is called within the layout.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// The BIDS subject.
    pub subject: Option<String>,
}

/// What a folder holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Where images are looked for.
    pub images_folder: PathBuf,
    /// Images, by path.
    pub images: Vec<Entry>,
    /// Labels, by path.
    pub labels: Vec<Entry>,
    bids: bool,
}

impl Listing {
    /// Finds the layout of a folder and lists it.
    pub fn of(root: &Path) -> Result<Self, FolderError> {
        if !root.is_dir() {
            return Err(FolderError::Missing(root.to_owned()));
        }
        if root.join("images").is_dir() {
            let images = flat_files(&root.join("images"))?;
            let labels = files_where_present(&root.join("labels"))?;
            return Ok(Self { images_folder: root.join("images"), images, labels, bids: false });
        }
        if root.join("imagesTr").is_dir() || root.join("imagesTs").is_dir() {
            return Self::nnunet(root);
        }
        let subjects = folders(root)?.into_iter().any(|folder| subject_of(&folder).is_some());
        if subjects { Self::bids(root) } else { Err(FolderError::Layout(root.to_owned())) }
    }

    fn nnunet(root: &Path) -> Result<Self, FolderError> {
        let mut images = files_where_present(&root.join("imagesTr"))?;
        images.extend(files_where_present(&root.join("imagesTs"))?);
        for image in &mut images {
            if let Some((case, channel)) = image.name.rsplit_once('_')
                && channel.len() == 4
                && channel.bytes().all(|byte| byte.is_ascii_digit())
            {
                if channel != "0000" {
                    return Err(FolderError::Channel(image.path.clone()));
                }
                image.name = case.to_owned();
            }
        }
        let mut labels = files_where_present(&root.join("labelsTr"))?;
        labels.extend(files_where_present(&root.join("labelsTs"))?);
        Ok(Self { images_folder: root.join("imagesTr"), images, labels, bids: false })
    }

    fn bids(root: &Path) -> Result<Self, FolderError> {
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for folder in folders(root)?.into_iter().filter(|folder| subject_of(folder).is_some()) {
            for mut entry in files_below(&folder, BIDS_DEPTH)? {
                entry.subject = subject_of(&folder);
                if is_bids_label(&entry.name) { labels.push(entry) } else { images.push(entry) }
            }
        }
        if root.join("derivatives").is_dir() {
            labels.extend(
                files_below(&root.join("derivatives"), BIDS_DEPTH)?.into_iter().filter(|e| is_bids_label(&e.name)),
            );
        }
        Ok(Self { images_folder: root.to_owned(), images, labels, bids: true })
    }

    /// The patient of each scan that `patients.csv` lists; empty where there is no such file.
    pub fn patients(&self, root: &Path) -> Result<BTreeMap<String, String>, FolderError> {
        patients::read(root, |name| self.images.iter().any(|image| image.name == name))
    }

    /// Name of the image that a label belongs to; the label's own name where there is none.
    pub fn image_of(&self, label: &Entry) -> Result<String, FolderError> {
        if !self.bids {
            return Ok(label.name.clone());
        }
        let named_after = |stem: &str| label.name.strip_prefix(stem).is_some_and(|rest| rest.starts_with('_'));
        // After the whole name of an image: the longest, so that `sub-1_T1w_run-2` is not taken for `sub-1_T1w`.
        let whole = self.images.iter().filter(|image| named_after(&image.name)).max_by_key(|image| image.name.len());
        if let Some(image) = whole {
            return Ok(image.name.clone());
        }
        let subject_part =
            |image: &Entry| image.name.rsplit_once('_').map_or(String::new(), |(start, _)| start.to_owned());
        let label_part = subject_part(label);
        let mut candidates = self.images.iter().filter(|image| subject_part(image) == label_part);
        match (candidates.next(), candidates.next()) {
            (Some(image), None) => Ok(image.name.clone()),
            (Some(image), Some(_)) => {
                Err(FolderError::AmbiguousLabel { label: label.path.clone(), image: image.path.clone() })
            }
            (None, _) => Ok(label.name.clone()),
        }
    }
}

/// A file name without `.nii` or `.nii.gz`; none where it has neither.
pub(super) fn stem(name: &str) -> Option<&str> {
    [".nii.gz", ".nii"].into_iter().find_map(|extension| {
        let cut = name.len().checked_sub(extension.len())?;
        let end = name.get(cut..)?;
        (cut > 0 && end.eq_ignore_ascii_case(extension)).then(|| &name[..cut])
    })
}

/// NIfTI files directly in a folder, by path. Hidden files are not scans.
pub fn flat_files(folder: &Path) -> Result<Vec<Entry>, FolderError> {
    let entry = |path: PathBuf| {
        let name = stem(path.file_name()?.to_str()?)?.to_owned();
        (!name.starts_with('.') && !path.is_dir()).then_some(Entry { name, path, subject: None })
    };
    Ok(children(folder)?.into_iter().filter_map(entry).collect())
}

fn files_where_present(folder: &Path) -> Result<Vec<Entry>, FolderError> {
    if folder.is_dir() { flat_files(folder) } else { Ok(Vec::new()) }
}

fn files_below(folder: &Path, depth: usize) -> Result<Vec<Entry>, FolderError> {
    let mut entries = flat_files(folder)?;
    if depth > 0 {
        for folder in folders(folder)? {
            entries.extend(files_below(&folder, depth - 1)?);
        }
    }
    Ok(entries)
}

fn folders(folder: &Path) -> Result<Vec<PathBuf>, FolderError> {
    Ok(children(folder)?.into_iter().filter(|path| path.is_dir()).collect())
}

fn children(folder: &Path) -> Result<Vec<PathBuf>, FolderError> {
    let failed = |error| FolderError::Read { path: folder.to_owned(), error };
    let mut paths = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>())
        .map_err(failed)?;
    paths.sort();
    Ok(paths)
}

fn subject_of(folder: &Path) -> Option<String> {
    let name = folder.file_name()?.to_str()?;
    (name.starts_with("sub-") && folder.is_dir()).then(|| name.to_owned())
}

fn is_bids_label(name: &str) -> bool {
    let last = name.rsplit_once('_').map_or(name, |(_, last)| last);
    BIDS_LABELS.contains(&last) || last.starts_with("seg-") || last.starts_with("lesion-")
}
