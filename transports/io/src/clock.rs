//! Time and randomness of a real driver.

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

/// SplitMix64 (Steele, Lea, Flood 2014), seeded by the operating system.
#[derive(Debug)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn new() -> Self {
        // `RandomState` takes its keys from getrandom(2).
        Self { state: RandomState::new().build_hasher().finish() }
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
