//! Scans: from files on disk to training patches. In reading order: [`volume`], [`grid`], [`nifti`], [`folder`],
//! [`resample`], [`normalise`], [`cache`], [`patch`], [`metrics`], [`click`], [`preview`], [`synth`], [`recipe`],
//! [`mixture`].

pub mod cache;
pub mod click;
pub mod folder;
pub mod grid;
pub mod metrics;
pub mod mixture;
pub mod nifti;
pub mod normalise;
pub mod patch;
pub mod preview;
pub mod recipe;
pub mod resample;
pub mod synth;
pub mod volume;
