//! One of two services behind the sidecar dies, or vanishes; the other one is well.

use std::thread;
use std::time::{Duration, Instant};

use super::{Results, World};
use crate::app::Callers;

/// What the sidecar knows of its cluster: it is quick to notice, and to forget, what happens in one round.
pub const KEYS: &str = "connect_timeout: 300ms, unacknowledged_timeout: 500ms, first_byte_timeout: 10m, \
                        outlier_detection: { base_ejection_time: 100ms }";

/// The longest time for which one that was killed is gone.
const GONE_MS: u64 = 60;

/// How long one has vanished: longer than it takes to notice it, and shorter.
const VANISHED_MS: [u64; 3] = [150, 900, 2_000];

/// Callers go on for so long when it is back.
const AFTERMATH: Duration = Duration::from_millis(300);

impl World {
    pub fn upstream_dies(&mut self, shim: Callers) -> Results {
        let which = self.random.below(self.services.len() as u64) as usize;
        self.services[which].die();
        // What is sent to it from now on is refused, all of it.
        let evaded = Instant::now();
        thread::sleep(Duration::from_millis(self.random.below(GONE_MS)));
        self.services[which].live();
        thread::sleep(AFTERMATH);
        (shim.finish(), evaded)
    }

    pub fn upstream_vanishes(&mut self, shim: Callers) -> Results {
        let network = self.network.as_ref().expect("it was made for this");
        let which = self.random.below(self.services.len() as u64) as usize;
        network.vanish(which);
        thread::sleep(Duration::from_millis(VANISHED_MS[self.random.below(VANISHED_MS.len() as u64) as usize]));
        network.appear(which);
        thread::sleep(AFTERMATH);
        (shim.finish(), Instant::now())
    }
}
