//! A generalist ready for use on scans.

pub mod reference;
