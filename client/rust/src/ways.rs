//! Which way the next call goes, for all threads of a client: [`Refuge`] behind a lock that nobody takes while the sidecar is well.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use shmesh_policy::refuge::Way;
use shmesh_policy::{Failure, Refuge, Visit};

use crate::clock;
use crate::error::CallError;

/// A multiplier whose multiples fall evenly: 2^64 by the golden ratio.
const EVENLY: u64 = 0x9E37_79B9_7F4A_7C15;

/// Through the sidecar or round it.
#[derive(Debug)]
pub(crate) struct Ways {
    refuge: Mutex<Refuge>,
    /// The sidecar is used for every call. A thread that reads an old value goes through a sidecar that just failed, and finds that out, or
    /// takes the lock in vain.
    using: AtomicBool,
    drawn: AtomicU64,
}

/// Through the sidecar: how a call that goes there reports what became of it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Through {
    /// Every call goes there.
    Settled,
    /// On the way back to it.
    Trying(Visit),
}

impl Ways {
    pub fn new() -> Ways {
        let refuge = Mutex::new(Refuge::new(clock::now()));
        Ways { refuge, using: AtomicBool::new(true), drawn: AtomicU64::new(0) }
    }

    /// None: round the sidecar.
    pub fn choose(&self) -> Option<Through> {
        if self.using.load(Ordering::Relaxed) {
            return Some(Through::Settled);
        }
        let mut refuge = self.lock();
        let way = refuge.way(clock::now(), self.draw());
        self.using.store(refuge.is_using(), Ordering::Relaxed);
        match way {
            Way::Through(visit) => Some(Through::Trying(visit)),
            Way::Round => None,
        }
    }

    /// What became of a call that went through.
    pub fn tell(&self, through: Through, error: Option<&CallError>) {
        match (error.filter(|error| error.is_sidecar_lost()), through) {
            (None, Through::Settled) => {}
            (None, Through::Trying(visit)) => self.lock().went_well(visit),
            (Some(error), through) => {
                let failure = match error {
                    CallError::Connect(_) => Failure::Absent,
                    _ => Failure::Broke,
                };
                let random = self.draw();
                let mut refuge = self.lock();
                let visit = match through {
                    // Of an earlier stay, perhaps, if all went fast; then one pause too many is made.
                    Through::Settled if refuge.is_using() => refuge.visit(),
                    Through::Settled => return,
                    Through::Trying(visit) => visit,
                };
                refuge.failed(visit, failure, clock::now(), random);
                self.using.store(refuge.is_using(), Ordering::Relaxed);
            }
        }
    }

    /// Attaching is under way: the call went round, and the next one may look again.
    pub fn not_yet(&self, through: Through) {
        if let Through::Trying(visit) = through {
            self.lock().was_not_tried(visit);
        }
    }

    /// A number below 1,000; as many of each as of any other, and well mixed.
    pub fn draw(&self) -> u32 {
        let mixed = self.drawn.fetch_add(1, Ordering::Relaxed).wrapping_add(1).wrapping_mul(EVENLY);
        (((mixed >> 32) * 1000) >> 32) as u32
    }

    fn lock(&self) -> MutexGuard<'_, Refuge> {
        self.refuge.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_a_thousand_is_one() {
        let ways = Ways::new();
        for share in [1, 10, 500, 999] {
            let drawn = (0..10_000).filter(|_| ways.draw() < share).count() as u32;
            assert!(drawn.abs_diff(10 * share) <= 10, "{drawn} of 10,000 for {share}");
        }
    }
}
