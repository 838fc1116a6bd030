//! The one place that reads the wall clock. Everything else takes the time as an argument.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::ids::UnixMillis;

/// The wall-clock time of this machine.
#[expect(clippy::disallowed_methods, reason = "the rim of the system: pure code takes time as an argument")]
pub fn now() -> UnixMillis {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}
