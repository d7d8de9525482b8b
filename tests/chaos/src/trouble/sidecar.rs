//! The sidecar dies, or is stopped for a while.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{Results, World};
use crate::app::Callers;
use crate::times::Goal;

/// A caller goes on calling for so long after trouble came.
const AFTERMATH: Duration = Duration::from_millis(30);

/// Until a caller's first answer from elsewhere, after a death.
pub const ELSEWHERE: [Goal; 2] = [(0.5, Duration::from_millis(1)), (0.99, Duration::from_millis(5))];

/// The cores that run it hear of a signal.
const TOLD_WITHIN: Duration = Duration::from_micros(200);

/// How long a sidecar is stopped.
const STOPPED_MS: [u64; 4] = [20, 150, 400, 900];

impl World {
    pub fn kill(&mut self, shim: Callers) -> Results {
        self.sidecar.signal(Signal::SIGKILL);
        let evaded = Instant::now() + TOLD_WITHIN;
        thread::sleep(AFTERMATH);
        let calls = shim.finish();
        self.sidecar.wait();
        self.sidecar = self.setup.start();
        (calls, evaded)
    }

    pub fn stop(&mut self, shim: Callers, is_quiet: bool) -> Results {
        self.sidecar.signal(Signal::SIGSTOP);
        let evaded = Instant::now() + TOLD_WITHIN;
        thread::sleep(Duration::from_millis(STOPPED_MS[self.random.below(STOPPED_MS.len() as u64) as usize]));
        self.sidecar.signal(Signal::SIGCONT);
        thread::sleep(10 * AFTERMATH);
        let calls = shim.finish();
        // See World::round.
        (calls, if is_quiet { evaded } else { Instant::now() })
    }
}
