//! Scans: from files on disk to training patches.

pub mod volume;
