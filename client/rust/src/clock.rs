//! The shim's clock: nanoseconds since the process first looked.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

static START: OnceLock<Instant> = OnceLock::new();

/// Nanoseconds, monotonic.
pub(crate) fn now() -> u64 {
    nanos(START.get_or_init(Instant::now).elapsed())
}

/// The whole nanoseconds of a duration, as many as fit.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
