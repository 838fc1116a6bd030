//! Measurements that fill `BENCHMARKS.md`: each runs the real programs many times and makes a table of what they print.

pub mod accuracy;
pub mod privacy;
pub mod record;
