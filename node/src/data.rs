//! Scans: from files on disk to training patches. In reading order: [`volume`], [`grid`], [`nifti`], [`folder`],
//! [`classes`], [`resample`], [`normalise`], [`cache`], [`patch`], [`flip`], [`components`], [`metrics`], [`click`],
//! [`preview`], [`synth`], [`recipe`], [`mixture`].

pub mod cache;
pub mod classes;
pub mod click;
pub mod components;
pub mod flip;
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
