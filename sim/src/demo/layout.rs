//! Where everything of a demonstration lies. Each party has a folder of its own, as it would have a machine of its own.
//!
//! ```text
//! semisam-demo/
//!   .semisam-demo            the marker: this folder may be replaced by the next demonstration
//!   consortium/              plan.toml, initial.safetensors, basis.safetensors, requests/, certificates/, log.txt
//!   consortium/coordinator/  the coordinator's folder: journal, store, keys
//!   hospital-a/              scans/, held-out/, log.txt, the certificates that it was sent
//!   hospital-a/node/         the node's folder: ledger, payloads, keys
//!   model.safetensors  prediction.png  summary.json
//! ```

use std::path::{Path, PathBuf};

use super::disk::{self, DiskError};

/// The file that says that a folder is ours.
const MARKER: &str = ".semisam-demo";

/// The folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// Somebody else's.
    #[error("`{}` exists and is not an earlier demonstration (it has no file `{MARKER}`): name another folder with --out, or move it away", .0.display())]
    Foreign(PathBuf),
    /// The file system said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// The folders of one demonstration.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// As the user wrote it.
    pub(crate) out: PathBuf,
    /// From the root of the file system, for programs.
    root: PathBuf,
}

/// The folders of one hospital.
#[derive(Clone, Debug)]
pub(crate) struct Hospital {
    /// What it is called.
    pub(crate) name: String,
    folder: PathBuf,
}

impl Layout {
    /// Makes an empty folder at `out`, replacing an earlier demonstration.
    pub(crate) fn prepare(out: &Path) -> Result<Self, LayoutError> {
        let root = disk::absolute(out)?;
        let occupied = if root.is_dir() { !disk::list(&root)?.is_empty() } else { root.exists() };
        if occupied {
            if !root.join(MARKER).is_file() {
                return Err(LayoutError::Foreign(out.into()));
            }
            disk::remove_folder(&root)?;
        }
        disk::create_folder(&root)?;
        disk::write(
            &root.join(MARKER),
            b"made by `semisam-sim demo`, which replaces this folder when it runs again\n",
        )?;
        let layout = Self { out: out.into(), root };
        for folder in [layout.requests(), layout.certificates()] {
            disk::create_folder(&folder)?;
        }
        Ok(layout)
    }

    /// The folder of hospital number `index`, counted from 0: `hospital-a` and so on.
    pub(crate) fn hospital(&self, index: usize) -> Result<Hospital, LayoutError> {
        let letter = char::from(b'a' + u8::try_from(index % 26).unwrap_or(0));
        let name = format!("hospital-{letter}");
        let hospital = Hospital { folder: self.root.join(&name), name };
        disk::create_folder(&hospital.folder)?;
        Ok(hospital)
    }

    /// Everything, from the root of the file system.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path as the user may type it where they stand.
    pub(crate) fn shown(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).map_or_else(|_| path.into(), |inside| self.out.join(inside))
    }

    /// What the people of the consortium keep.
    pub(crate) fn consortium(&self) -> PathBuf {
        self.root.join("consortium")
    }

    /// The coordinator's folder.
    pub(crate) fn coordinator(&self) -> PathBuf {
        self.consortium().join("coordinator")
    }

    /// Certificate requests that hospitals sent.
    pub(crate) fn requests(&self) -> PathBuf {
        self.consortium().join("requests")
    }

    /// Certificates that hospitals get.
    pub(crate) fn certificates(&self) -> PathBuf {
        self.consortium().join("certificates")
    }

    /// The coordinator's journal.
    pub(crate) fn journal(&self) -> PathBuf {
        self.coordinator().join("journal.jsonl")
    }
}

impl Hospital {
    /// Scans to learn from.
    pub(crate) fn scans(&self) -> PathBuf {
        self.folder.join("scans")
    }

    /// Labelled scans that nobody learns from.
    pub(crate) fn held_out(&self) -> PathBuf {
        self.folder.join("held-out")
    }

    /// The node's folder.
    pub(crate) fn node(&self) -> PathBuf {
        self.folder.join("node")
    }

    /// The node's ledger.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.node().join("ledger.jsonl")
    }

    /// What the node says.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("log.txt")
    }

    /// A file that was sent to this hospital.
    pub(crate) fn received(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_folder_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("demo");
        let layout = Layout::prepare(&out).expect("fresh");
        assert_eq!(layout.hospital(2).expect("made").name, "hospital-c");
        disk::write(&out.join("broken"), b"half a run").expect("written");
        Layout::prepare(&out).expect("ours");
        assert!(!out.join("broken").exists() && !out.join("hospital-c").exists());

        let foreign = folder.path().join("thesis");
        disk::create_folder(&foreign).expect("made");
        Layout::prepare(&foreign).expect("an empty folder is fine");
        std::fs::remove_file(foreign.join(MARKER)).expect("removed");
        disk::write(&foreign.join("chapter.txt"), b"years of work").expect("written");
        let error = Layout::prepare(&foreign).expect_err("not ours").to_string();
        assert!(error.contains("thesis") && error.contains("--out"), "{error}");
        assert!(foreign.join("chapter.txt").exists());
    }

    #[test]
    fn paths_are_shown_as_the_user_may_type_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut layout = Layout::prepare(&folder.path().join("demo")).expect("fresh");
        layout.out = "demo".into();
        assert_eq!(layout.shown(&layout.journal()), Path::new("demo/consortium/coordinator/journal.jsonl"));
    }
}
