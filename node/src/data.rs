//! Scans: from files on disk to training patches. In reading order: [`volume`], [`grid`], [`nifti`], [`metrics`].

pub mod grid;
pub mod metrics;
pub mod nifti;
pub mod volume;
