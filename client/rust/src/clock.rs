//! The shim's clock: nanoseconds since the process first looked.

use std::time::Duration;

pub(crate) use shmesh_shm::host::now;

/// The whole nanoseconds of a duration, as many as fit.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
