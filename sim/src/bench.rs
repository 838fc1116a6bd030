//! Measurements that fill `BENCHMARKS.md`: each runs the real programs many times and makes a table of what they print.

pub mod accuracy;
pub mod inputs;
pub mod privacy;
pub mod record;

/// Sides of a crop as the command line takes them.
fn sides<T: ToString>(patch: [T; 3]) -> String {
    patch.map(|side| side.to_string()).join(",")
}
