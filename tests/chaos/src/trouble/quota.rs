//! A cgroup that gives the sidecar next to no time.

use std::thread;
use std::time::{Duration, Instant};

use shmesh_client::Client;

use super::{Results, World};
use crate::app::Callers;
use crate::verdict::Verdict;

/// So many µs out of so many: it stands still for shorter than apps wait for a sign of life, and for longer.
const SHARES_US: [(u32, u32); 4] = [(20_000, 100_000), (2_000, 100_000), (1_000, 300_000), (1_000, 900_000)];

/// How long that lasts.
const STARVED: Duration = Duration::from_millis(1_500);

/// Once it has its time again calls go through it again, all of them: after the longest pause that the shim makes between two looks, the
/// steps of a return, and what a busy machine adds.
const RETURNS_WITHIN: Duration = Duration::from_secs(60);

impl World {
    pub fn starve(&mut self, shim: Callers, client: &Client, verdict: &mut Verdict) -> Results {
        let quota = self.quota.as_ref().expect("it was made for this");
        let share = SHARES_US[self.random.below(SHARES_US.len() as u64) as usize];
        quota.hold(self.sidecar.pid()).expect("a cgroup takes it");
        quota.limit(Some(share)).expect("a cgroup takes its quota");
        thread::sleep(STARVED);
        quota.limit(None).expect("a cgroup takes its quota");
        let lifted = Instant::now();
        let calls = shim.finish();
        self.settle(client);
        verdict.returned(lifted.elapsed(), RETURNS_WITHIN);
        (calls, Instant::now())
    }
}
