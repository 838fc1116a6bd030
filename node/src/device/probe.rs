//! Whether this machine has what CUDA needs, told from files alone: device, driver library, run-time compiler, headers.
//!
//! It must look where the CUDA backend will look, or a program that was told yes panics in a worker thread. The backend opens
//! libraries by name, so the loader's own places count and a toolkit's folder does not; and it takes headers from the
//! first toolkit that it finds, whether or not they are in it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Device files of a driver, of which one is enough.
const DEVICES: [&str; 3] = ["dev/nvidiactl", "dev/nvidia0", "dev/dxg"];

/// Where the loader finds libraries besides `LD_LIBRARY_PATH` and what its cache lists.
const LIBRARIES: [&str; 7] = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "usr/lib64",
    "lib64",
    "usr/lib",
];

/// A machine as its files and its environment show it.
struct Machine {
    /// Its root folder.
    root: PathBuf,
    /// `CUDA_PATH`.
    cuda_path: Option<PathBuf>,
    /// `LD_LIBRARY_PATH`.
    library_path: Vec<PathBuf>,
    /// `CUDA_VISIBLE_DEVICES`.
    visible: Option<String>,
}

/// The first thing that is absent, as a clause; `None` if all is there.
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "without CUDA only the tests of this file are built"))]
pub(super) fn missing() -> Option<String> {
    let library_path = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let machine = Machine {
        root: PathBuf::from("/"),
        cuda_path: env::var_os("CUDA_PATH").map(PathBuf::from),
        library_path: env::split_paths(&library_path).filter(|folder| !folder.as_os_str().is_empty()).collect(),
        visible: env::var("CUDA_VISIBLE_DEVICES").ok(),
    };
    machine.missing()
}

impl Machine {
    fn missing(&self) -> Option<String> {
        if !DEVICES.iter().any(|device| self.root.join(device).exists()) {
            return Some("there is no NVIDIA device file (`/dev/nvidia0`)".to_owned());
        }
        if self.visible.as_deref().is_some_and(|devices| devices.is_empty() || devices.starts_with('-')) {
            return Some("CUDA_VISIBLE_DEVICES hides every device; unset it or name one".to_owned());
        }
        if !self.loads("libcuda.so") {
            return Some("the driver library `libcuda.so.1` was not found; install the NVIDIA driver".to_owned());
        }
        if !self.loads("libnvrtc.so") {
            return Some(self.without_compiler());
        }
        let Some(toolkit) = self.toolkit() else {
            return Some("there is no CUDA toolkit; install its headers or set CUDA_PATH".to_owned());
        };
        let header = toolkit.join("include/cuda_runtime.h");
        let absent = || format!("`{}` was not found; install the toolkit's headers or set CUDA_PATH", header.display());
        (!header.exists()).then(absent)
    }

    /// The one toolkit that the backend takes headers from.
    fn toolkit(&self) -> Option<PathBuf> {
        let of_system = || {
            let known = ["usr/local/cuda", "opt/cuda"].map(|folder| self.root.join(folder));
            let packaged = || self.root.join("usr/bin/nvcc").exists().then(|| self.root.join("usr"));
            known.into_iter().find(|folder| folder.exists()).or_else(packaged)
        };
        self.cuda_path.clone().or_else(of_system)
    }

    /// Whether the loader finds a library whose name starts so.
    fn loads(&self, name: &str) -> bool {
        let folders = LIBRARIES.iter().map(|folder| self.root.join(folder));
        let cached = || fs::read(self.root.join("etc/ld.so.cache")).unwrap_or_default();
        self.library_path.iter().cloned().chain(folders).any(|folder| holds(&folder, name))
            || cached().windows(name.len()).any(|bytes| bytes == name.as_bytes())
    }

    /// Why the run-time compiler cannot be loaded: because it is nowhere, or where the loader does not look.
    fn without_compiler(&self) -> String {
        let folders = self.toolkit().into_iter().flat_map(|root| [root.join("lib64"), root.join("lib")]);
        match folders.into_iter().find(|folder| holds(folder, "libnvrtc.so")) {
            Some(folder) => {
                format!(
                    "the compiler `libnvrtc.so` is in `{0}`, where the loader does not look; add `{0}` to LD_LIBRARY_PATH",
                    folder.display()
                )
            }
            None => "the compiler `libnvrtc.so` was not found; install the CUDA toolkit".to_owned(),
        }
    }
}

fn holds(folder: &Path, prefix: &str) -> bool {
    let named = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with(prefix);
    fs::read_dir(folder).is_ok_and(|entries| entries.flatten().any(named))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with these files, and what it lacks.
    fn lacks(files: &[&str], set: impl Fn(&mut Machine)) -> Option<String> {
        let root = tempfile::tempdir().expect("a folder");
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().expect("inside the folder")).expect("created");
            fs::write(path, if *file == "etc/ld.so.cache" { "..libnvrtc.so.12.." } else { "" }).expect("written");
        }
        let root = root.path().to_owned();
        let mut machine = Machine { root, cuda_path: None, library_path: Vec::new(), visible: None };
        set(&mut machine);
        machine.missing()
    }

    const ALL: [&str; 4] =
        ["dev/nvidia0", "usr/lib64/libcuda.so.1", "usr/lib64/libnvrtc.so.12", "usr/local/cuda/include/cuda_runtime.h"];

    #[test]
    fn each_absence_has_its_own_words() {
        assert_eq!(lacks(&ALL, |_| {}), None);
        for (absent, words) in [(0, "device file"), (1, "libcuda"), (2, "libnvrtc"), (3, "toolkit")] {
            let rest: Vec<_> = ALL.iter().enumerate().filter(|(at, _)| *at != absent).map(|(_, file)| *file).collect();
            assert!(lacks(&rest, |_| {}).expect("something is missing").contains(words), "without {}", ALL[absent]);
        }
        let hidden = |devices: &str| lacks(&ALL, |machine| machine.visible = Some(devices.to_owned()));
        assert!(hidden("").is_some() && hidden("-1").is_some() && hidden("1").is_none());
    }

    #[test]
    fn libraries_count_where_the_loader_looks() {
        let [device, driver, _, header] = ALL;
        assert_eq!(lacks(&[device, driver, header, "etc/ld.so.cache"], |_| {}), None);
        let beside = [device, driver, header, "usr/local/cuda/lib64/libnvrtc.so.12"];
        assert!(lacks(&beside, |_| {}).expect("not loaded").contains("LD_LIBRARY_PATH"));
        let named = |machine: &mut Machine| machine.library_path.push(machine.root.join("usr/local/cuda/lib64"));
        assert_eq!(lacks(&beside, named), None);
    }

    #[test]
    fn headers_count_in_the_first_toolkit_alone() {
        let [device, driver, compiler, _] = ALL;
        let files = |header| [device, driver, compiler, header, "usr/local/cuda/version.json"];
        assert!(
            lacks(&files("opt/cuda/include/cuda_runtime.h"), |_| {}).expect("not there").contains("usr/local/cuda")
        );
        let named = |machine: &mut Machine| machine.cuda_path = Some(machine.root.join("opt/cuda"));
        assert_eq!(lacks(&files("opt/cuda/include/cuda_runtime.h"), named), None);
        let packaged = ["usr/include/cuda_runtime.h", "usr/bin/nvcc"];
        assert_eq!(lacks(&[device, driver, compiler, packaged[0], packaged[1]], |_| {}), None);
        assert!(lacks(&[device, driver, compiler, packaged[0]], |_| {}).is_some());
    }
}
