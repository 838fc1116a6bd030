//! Whether this machine has what CUDA needs, told from files alone: device, driver library, run-time compiler, headers.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Where the toolkit is looked for besides `CUDA_PATH`.
const TOOLKITS: [&str; 3] = ["/usr/local/cuda", "/opt/cuda", "/usr"];

/// Where the loader finds libraries besides `LD_LIBRARY_PATH`.
const LIBRARIES: [&str; 8] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/nvidia/lib64",
    "/usr/lib/wsl/lib",
    "/run/opengl-driver/lib",
];

/// The first thing that is absent, as a clause; `None` if all is there.
pub(super) fn missing() -> Option<String> {
    if !["/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg"].iter().any(|device| Path::new(device).exists()) {
        return Some("there is no NVIDIA device file (`/dev/nvidia0`)".to_owned());
    }
    let libraries = library_folders();
    if !holds(&libraries, "libcuda.so") {
        return Some("the driver library `libcuda.so.1` was not found; install the NVIDIA driver".to_owned());
    }
    if !holds(&libraries, "libnvrtc.so") {
        return Some("the compiler `libnvrtc.so` was not found; install the CUDA toolkit or set CUDA_PATH".to_owned());
    }
    let header = |root: &PathBuf| root.join("include/cuda_runtime.h").exists();
    if !toolkits().iter().any(header) {
        return Some("`cuda_runtime.h` was not found; install the CUDA toolkit's headers or set CUDA_PATH".to_owned());
    }
    None
}

fn toolkits() -> Vec<PathBuf> {
    env::var_os("CUDA_PATH").map(PathBuf::from).into_iter().chain(TOOLKITS.map(PathBuf::from)).collect()
}

fn library_folders() -> Vec<PathBuf> {
    let named = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let of_toolkits = toolkits().into_iter().flat_map(|root| [root.join("lib64"), root.join("lib")]);
    env::split_paths(&named).chain(LIBRARIES.map(PathBuf::from)).chain(of_toolkits).collect()
}

fn holds(folders: &[PathBuf], prefix: &str) -> bool {
    let named = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with(prefix);
    folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).any(|entries| entries.flatten().any(named))
}
