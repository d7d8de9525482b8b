//! Time of a real driver, and randomness of any.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use nix::time::{ClockId, clock_gettime};

use crate::driver::Nanos;

/// CLOCK_MONOTONIC as of the last look.
#[derive(Debug)]
pub(crate) struct Clock {
    now: Nanos,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { now: read() }
    }

    pub(crate) fn now(&self) -> Nanos {
        self.now
    }

    pub(crate) fn refresh(&mut self) -> Nanos {
        self.now = read();
        self.now
    }
}

fn read() -> Nanos {
    // CLOCK_MONOTONIC exists on every Linux; there is no error to handle.
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    /// Seeded by the operating system.
    pub(crate) fn new() -> Self {
        // `RandomState` takes its keys from getrandom(2).
        Self::seeded(RandomState::new().build_hasher().finish())
    }

    /// The same numbers for the same seed.
    pub(crate) const fn seeded(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A number below `limit`, which is not 0. (Uniform but for one part in 2^64 / limit.)
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_stands_still_between_looks() {
        let mut clock = Clock::new();
        let first = clock.now();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert_eq!(clock.now(), first);
        assert!(clock.refresh() >= first + 2_000_000);
    }

    #[test]
    fn two_generators_differ() {
        let (mut a, mut b) = (Random::new(), Random::new());
        let a: Vec<u64> = (0..8).map(|_| a.next()).collect();
        let b: Vec<u64> = (0..8).map(|_| b.next()).collect();
        assert_ne!(a, b);
        assert_ne!(a[0], a[1]);
    }
}
