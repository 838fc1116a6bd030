//! A disk that writes down what is done to it, on which a program ends when it is told to: before, within or after any
//! effect. After that nothing is done any more, as if the process were gone. From what was written down, every state that
//! a power cut may leave can be made ([`states_after_a_power_cut`]).

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use semisam_shared::disk::{Disk, RealDisk};

/// One thing that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    CreateFolder(PathBuf),
    /// Made if missing; emptied if `empty`.
    Open {
        path: PathBuf,
        empty: bool,
    },
    /// At the end of the file, or from its beginning.
    Write {
        path: PathBuf,
        bytes: Vec<u8>,
    },
    SetLength {
        path: PathBuf,
        length: u64,
    },
    Sync(PathBuf),
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    SyncFolder(PathBuf),
}

/// Where a program ends.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct End {
    /// At which effect, counted from 0.
    pub(super) at: usize,
    /// How many bytes of it are written, if it writes; anything else is done if this is not zero.
    pub(super) kept: usize,
}

/// The disk.
#[derive(Debug, Default)]
pub(super) struct Faulty {
    end: Option<End>,
    done: Mutex<Vec<Effect>>,
}

impl Faulty {
    /// One on which the program ends at `end`, or never.
    pub(super) fn ending(end: Option<End>) -> Self {
        Self { end, done: Mutex::default() }
    }

    /// What was done, the effect at which the program ended included.
    pub(super) fn effects(&self) -> Vec<Effect> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes an effect and answers how much of it is done: all, a part, or, if the program has ended, nothing.
    fn done(&self, effect: Effect) -> io::Result<Option<usize>> {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = || io::Error::other("the program has ended");
        match self.end {
            Some(end) if done.len() > end.at => Err(gone()),
            Some(end) if done.len() == end.at => {
                done.push(effect);
                Ok(Some(end.kept))
            }
            _ => {
                done.push(effect);
                Ok(None)
            }
        }
    }

    /// Does something whole, or not at all.
    fn whole<T>(&self, effect: Effect, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self.done(effect)? {
            None => act(),
            Some(0) => Err(io::Error::other("the program ends here")),
            Some(_) => act().and(Err(io::Error::other("the program ends here"))),
        }
    }
}

impl Disk for Faulty {
    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        self.whole(Effect::CreateFolder(folder.into()), || RealDisk.create_folder(folder))
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        self.whole(Effect::Open { path: path.into(), empty: true }, || RealDisk.create(path))
    }

    fn append_to(&self, path: &Path) -> io::Result<File> {
        self.whole(Effect::Open { path: path.into(), empty: false }, || RealDisk.append_to(path))
    }

    fn write(&self, path: &Path, file: &File, bytes: &[u8]) -> io::Result<()> {
        match self.done(Effect::Write { path: path.into(), bytes: bytes.into() })? {
            None => RealDisk.write(path, file, bytes),
            Some(kept) => RealDisk
                .write(path, file, &bytes[..kept.min(bytes.len())])
                .and(Err(io::Error::other("the program ends within a write"))),
        }
    }

    fn set_length(&self, path: &Path, file: &File, length: u64) -> io::Result<()> {
        self.whole(Effect::SetLength { path: path.into(), length }, || RealDisk.set_length(path, file, length))
    }

    fn sync(&self, path: &Path, file: &File) -> io::Result<()> {
        // Nobody cuts the power: waiting for the real disk would only take time.
        self.whole(Effect::Sync(path.into()), || file.metadata().map(|_| ()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.whole(Effect::Rename { from: from.into(), to: to.into() }, || RealDisk.rename(from, to))
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.whole(Effect::SyncFolder(folder.into()), || folder.metadata().map(|_| ()))
    }
}

/// What stands in a folder: names relative to it, and bytes.
pub(super) type State = BTreeMap<PathBuf, Vec<u8>>;

/// Puts a state into a new folder, its folders included.
pub(super) fn materialise(state: &State, folders: &[&str]) -> tempfile::TempDir {
    let place = tempfile::tempdir().expect("a folder");
    for folder in folders {
        fs::create_dir_all(place.path().join(folder)).expect("a folder");
    }
    for (name, bytes) in state {
        let path = place.path().join(name);
        if path.parent().is_some_and(Path::exists) {
            fs::write(path, bytes).expect("written");
        }
    }
    place
}

/// Every state that a power cut after `effects` may leave below `root`: of what was not synced, everything is there, nothing
/// is, one thing alone is missing, or the last write is torn.
pub(super) fn states_after_a_power_cut(effects: &[Effect], root: &Path) -> Vec<State> {
    let volatile = volatile(effects);
    let mut lost: Vec<Vec<usize>> = vec![Vec::new(), volatile.clone()];
    lost.extend(volatile.iter().map(|one| vec![*one]));
    let mut states: Vec<State> = lost.iter().map(|lost| replayed(effects, lost, None, root)).collect();
    if let (Some(last), Some(Effect::Write { bytes, .. })) = (effects.len().checked_sub(1), effects.last()) {
        let parts = [0, 1, bytes.len() / 3, bytes.len() / 2, bytes.len().saturating_sub(1)];
        states.extend(parts.map(|kept| replayed(effects, &[], Some((last, kept)), root)));
    }
    states.dedup();
    states
}

fn folder(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).into()
}

/// The effects that are not durable yet.
fn volatile(effects: &[Effect]) -> Vec<usize> {
    let mut open = Vec::new();
    // A file may have got another name since it was written to.
    let mut names: BTreeMap<usize, PathBuf> = BTreeMap::new();
    for (number, effect) in effects.iter().enumerate() {
        match effect {
            Effect::Sync(path) => open.retain(|at| {
                let data = matches!(effects[*at], Effect::Write { .. } | Effect::SetLength { .. });
                !(data && names.get(at) == Some(path))
            }),
            Effect::SyncFolder(synced) => open.retain(|at| match &effects[*at] {
                Effect::Open { path, .. } | Effect::CreateFolder(path) => folder(path) != *synced,
                Effect::Rename { to, .. } => folder(to) != *synced,
                _ => true,
            }),
            other => {
                if let Effect::Write { path, .. } | Effect::SetLength { path, .. } = other {
                    names.insert(number, path.clone());
                }
                if let Effect::Rename { from, to } = other {
                    names.values_mut().filter(|name| *name == from).for_each(|name| name.clone_from(to));
                }
                open.push(number);
            }
        }
    }
    open
}

/// What stands below `root` if the effects in `lost` never reached the disk.
fn replayed(effects: &[Effect], lost: &[usize], torn: Option<(usize, usize)>, root: &Path) -> State {
    let mut files: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    // Where the next write goes: at the end of a ledger, from the beginning of a payload that is opened again.
    let mut at: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for (number, effect) in effects.iter().enumerate() {
        let gone = lost.contains(&number);
        match effect {
            Effect::Open { path, empty } if !gone => {
                let bytes = files.entry(path.clone()).or_default();
                if *empty {
                    bytes.clear();
                }
            }
            Effect::Write { path, bytes } => {
                let kept = torn.filter(|(torn, _)| *torn == number).map_or(bytes.len(), |(_, kept)| kept);
                let appends = path.extension().is_some_and(|extension| extension == "jsonl");
                if let Some(file) = files.get_mut(path).filter(|_| !gone) {
                    let from = if appends { file.len() } else { at.get(path).copied().unwrap_or(0) };
                    file.resize(file.len().max(from + kept), 0);
                    file[from..from + kept].copy_from_slice(&bytes[..kept]);
                    at.insert(path.clone(), from + kept);
                }
            }
            Effect::SetLength { path, length } if !gone => {
                if let Some(file) = files.get_mut(path) {
                    file.resize(*length as usize, 0);
                }
            }
            Effect::Sync(path) => {
                at.remove(path);
            }
            Effect::Rename { from, to } if !gone => {
                if let Some(bytes) = files.remove(from) {
                    files.insert(to.clone(), bytes);
                }
            }
            _ => {}
        }
    }
    let relative = |path: PathBuf| path.strip_prefix(root).map(Path::to_path_buf).unwrap_or(path.clone());
    files.into_iter().map(|(path, bytes)| (relative(path), bytes)).collect()
}
