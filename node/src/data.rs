//! Scans: from files on disk to training patches. In reading order: [`volume`], [`grid`], [`nifti`], [`folder`], [`resample`], [`normalise`], [`metrics`].

pub mod folder;
pub mod grid;
pub mod metrics;
pub mod nifti;
pub mod normalise;
pub mod resample;
pub mod volume;
