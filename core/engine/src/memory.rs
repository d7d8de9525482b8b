//! Whether there is memory for new work: what the sidecar's cgroup has used of its limit, or one above it.
//!
//! Above `limits.memory_percent` of it new calls and sessions are refused by name, and what is there goes on: so the kernel does not have
//! to end the process, which would cost everything that is there. This is seen from outside, by the thread that looks at the
//! load (`load.rs`); an allocation that fails all the same ends the process, and its apps go round it.

use shmesh_policy::Limits;
use shmesh_shm::cgroup::{self, MemoryGroup};

use crate::usage;

/// How often is looked which limits there are.
const LIMITS_EVERY: u64 = 1_000_000_000;
/// Memory that is free is given back when there begins to be too little, if that was not done within this time ...
const GIVEN_BACK_EVERY: u64 = 1_000_000_000;
/// ... and so often while it lasts: it takes long, and who allocates waits for it meanwhile.
const GIVEN_BACK_EVERY_IF_SHORT: u64 = 10_000_000_000;
/// A line in the log is followed by the next one of its kind after so long at the earliest.
const TOLD_EVERY: u64 = 10_000_000_000;
/// At least this part of what a cgroup uses has to be the sidecar's own: otherwise its refusals would spare nothing worth while.
const OWN_PART: u64 = 4;

/// What an app or caller reads that is refused.
pub(crate) const NO_MEMORY: &str =
    "shmesh: the sidecar has no memory left for anything new (limits.memory_percent); see docs/OPERATIONS.md";

/// What is looked at, and what was found.
#[derive(Default)]
pub(crate) struct Memory {
    groups: Vec<MemoryGroup>,
    /// When the groups were looked for last.
    groups_at: Option<u64>,
    is_short: bool,
    /// When free memory was given back last, and when a line was written that there is too little.
    given_back_at: Option<u64>,
    told_at: Option<u64>,
    /// The newest such line was not taken back yet.
    told: bool,
}

/// A group with too little memory.
#[derive(Debug, PartialEq, Eq)]
struct Shortage {
    used: u64,
    limit: u64,
    own: u64,
}

impl Memory {
    /// Looks: whether there is too little.
    pub fn look(&mut self, now: u64, limits: &Limits) -> bool {
        if is_due(self.groups_at, now, LIMITS_EVERY) {
            self.groups_at = Some(now);
            self.groups = cgroup::memory_groups();
        }
        let mut shortage = self.shortage(limits);
        if shortage.is_some() && is_due(self.given_back_at, now, self.give_back_every()) {
            self.given_back_at = Some(now);
            // What was freed is used again by what comes next, but the kernel counts it.
            shmesh_io::give_back_free_memory();
            shortage = self.shortage(limits);
        }
        self.tell(now, shortage.as_ref());
        self.is_short = shortage.is_some();
        self.is_short
    }

    fn give_back_every(&self) -> u64 {
        if self.is_short { GIVEN_BACK_EVERY_IF_SHORT } else { GIVEN_BACK_EVERY }
    }

    fn shortage(&self, limits: &Limits) -> Option<Shortage> {
        self.groups.iter().find_map(|group| {
            let bound = limits.memory_bound(group.limit, self.is_short)?;
            // The first number is the greater one, and cheap.
            if group.charged()? < bound {
                return None;
            }
            shortage(group.used()?, group.limit, bound, usage::own_memory)
        })
    }

    fn tell(&mut self, now: u64, shortage: Option<&Shortage>) {
        match shortage {
            Some(Shortage { used, limit, own }) if !self.is_short && is_due(self.told_at, now, TOLD_EVERY) => {
                (self.told_at, self.told) = (Some(now), true);
                tracing::warn!(used, limit, own, "the sidecar is short of memory: new calls and sessions are refused");
            }
            None if self.told => {
                self.told = false;
                tracing::info!("there is memory for new calls and sessions again");
            }
            _ => {}
        }
    }
}

/// Whether a group has too little, of whose use so much is the sidecar's `own`.
fn shortage(used: u64, limit: u64, bound: u64, own: impl FnOnce() -> Option<u64>) -> Option<Shortage> {
    let own = (used >= bound).then(own)??;
    (own.saturating_mul(OWN_PART) >= used).then_some(Shortage { used, limit, own })
}

fn is_due(last: Option<u64>, now: u64, every: u64) -> bool {
    last.is_none_or(|last| now.saturating_sub(last) >= every)
}

/// What is used of the limit, and the limit, of the group that is nearest to it. `None`: there is no limit.
pub(crate) fn fullest() -> Option<(u64, u64)> {
    let groups = cgroup::memory_groups();
    let used = groups.iter().filter_map(|group| Some((group.used()?, group.limit)));
    used.max_by_key(|&(used, limit)| u128::from(used) * 1_000_000 / u128::from(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_short_at_its_bound_if_much_of_it_is_the_sidecars_own() {
        let of = |used, own| shortage(used, 1000, 950, || own);
        assert_eq!(of(949, Some(949)), None);
        assert_eq!(of(950, Some(949)), Some(Shortage { used: 950, limit: 1000, own: 949 }));
        assert_eq!(of(960, Some(240)), Some(Shortage { used: 960, limit: 1000, own: 240 }));
        assert_eq!(of(960, Some(239)), None, "others have it");
        assert_eq!(of(960, None), None);
        // Pages that two processes share count in full for both.
        assert_eq!(of(960, Some(u64::MAX)), Some(Shortage { used: 960, limit: 1000, own: u64::MAX }));
    }

    #[test]
    fn what_was_freed_is_given_back() {
        const PIECE: usize = 4096;
        const PIECES: usize = 16 * 1024;
        let mut pieces: Vec<Vec<u8>> = (0..PIECES).map(|_| vec![1; PIECE]).collect();
        let full = usage::own_memory().expect("the kernel tells");
        assert!(full >= (PIECES * PIECE) as u64);
        // What is kept lies between the others and above them, so that none of it goes back by itself.
        let mut index = 0;
        pieces.retain(|_| {
            index += 1;
            index % 8 == 0
        });
        let before = usage::own_memory().expect("the kernel tells");
        shmesh_io::give_back_free_memory();
        let after = usage::own_memory().expect("the kernel tells");
        if cfg!(target_env = "gnu") {
            assert!(after + (PIECES * PIECE / 2) as u64 <= before, "{full}, {before}, {after}");
        }
        assert!(pieces.iter().all(|piece| piece[0] == 1));
    }
}
