//! How long to wait before a sidecar that ended is started again.

use std::time::Duration;

use crate::STEADY;

/// The pause after a sidecar that had been steady.
pub const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest one.
pub const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The pause doubles with each end, and begins anew after a sidecar that had been steady.
#[derive(Debug, Default)]
pub struct BackOff {
    /// The pause before.
    last: Option<Duration>,
}

impl BackOff {
    /// The pause after a sidecar that lived for so long.
    pub fn pause(&mut self, lived: Duration) -> Duration {
        let pause = match self.last {
            Some(last) if lived < STEADY => (last * 2).min(PAUSE_MAX),
            _ => PAUSE_MIN,
        };
        self.last = Some(pause);
        pause
    }
}
