//! Finds the logs below a folder. Symbolic links are not followed, so that a folder cannot lead elsewhere or in circles;
//! one that stands where a log should is told.

use std::path::{Path, PathBuf};

use super::VerifyError;

/// How deep logs may lie.
const DEPTH: usize = 8;

/// What an auditor reads.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) journals: Vec<PathBuf>,
    pub(super) ledgers: Vec<PathBuf>,
    pub(super) plans: Vec<PathBuf>,
    pub(super) stores: Vec<PathBuf>,
    pub(super) notes: Vec<String>,
}

/// Everything to be checked below `folder`, in order of name.
pub(super) fn search(folder: &Path) -> Result<Found, VerifyError> {
    let mut found = Found::default();
    descend(folder, folder, 0, &mut found)?;
    Ok(found)
}

/// `path` as findings name it.
pub(super) fn relative(folder: &Path, path: &Path) -> String {
    let parts = path.strip_prefix(folder).unwrap_or(path).components();
    parts.map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// The entries of `folder` by name; whether each is a folder, a file, or neither.
pub(super) fn entries(folder: &Path) -> Result<Vec<(PathBuf, std::fs::FileType)>, VerifyError> {
    let failed = |source| VerifyError::Read { path: folder.to_owned(), source };
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        entries.push((entry.path(), entry.file_type().map_err(failed)?));
    }
    entries.sort_by(|(one, _), (two, _)| one.cmp(two));
    Ok(entries)
}

fn descend(root: &Path, folder: &Path, depth: usize, found: &mut Found) -> Result<(), VerifyError> {
    for (path, kind) in entries(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let list = match name.as_str() {
            "journal.jsonl" => Some(&mut found.journals),
            "ledger.jsonl" => Some(&mut found.ledgers),
            "plan.json" => Some(&mut found.plans),
            "store" => Some(&mut found.stores),
            _ => None,
        };
        match list {
            Some(list) if kind.is_file() != (name == "store") && !kind.is_symlink() => list.push(path),
            Some(_) => found.notes.push(format!(
                "`{}` is not what its name says (a symbolic link?) and was not read",
                relative(root, &path)
            )),
            None if kind.is_dir() && depth < DEPTH => descend(root, &path, depth + 1, found)?,
            None if kind.is_dir() => {
                found.notes.push(format!("`{}` lies too deep and was not searched", relative(root, &path)));
            }
            None => {}
        }
    }
    Ok(())
}
