//! One timer for each conn, call and lane, re-armed lazily.
//!
//! A deadline that moves later costs nothing: the entry that is in the wheel fires at its old time, the owner looks at its
//! real deadline and arms again. A table index has at most a few entries however many calls use it one after
//! the other, so a million calls a second do not fill the wheel.

use shmesh_io::Nanos;

/// Resolution of a timer: deadlines are met within this much, never early.
pub const TICK: Nanos = 2_000_000;

/// Slots of the wheel; deadlines beyond `TICK * SLOTS` go round again.
const SLOTS: usize = 4096;

/// Whose timer fired.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Owner {
    /// Index in the table of conns.
    Conn(u32),
    /// Index in the table of calls.
    Call(u32),
    /// Index in the table of lanes.
    Lane(u32),
}

/// A wheel of timers.
pub struct Timers {
    wheel: Vec<Vec<(Nanos, Owner)>>,
    /// The tick up to which everything has fired.
    tick: u64,
    len: usize,
    /// Not later than the first entry's time; exact after a pass.
    next: Nanos,
    /// Earliest entry in the wheel for each index, `Nanos::MAX` if none.
    armed_conns: Vec<Nanos>,
    armed_calls: Vec<Nanos>,
    armed_lanes: Vec<Nanos>,
}

impl Timers {
    /// An empty wheel.
    pub fn new(now: Nanos) -> Timers {
        Timers {
            wheel: (0..SLOTS).map(|_| Vec::new()).collect(),
            tick: now / TICK,
            len: 0,
            next: Nanos::MAX,
            armed_conns: Vec::new(),
            armed_calls: Vec::new(),
            armed_lanes: Vec::new(),
        }
    }

    /// Makes sure that the owner is looked at not later than one tick after `at`.
    #[inline]
    pub fn arm(&mut self, owner: Owner, at: Nanos) {
        if *self.armed(owner) > at {
            self.enter(owner, at);
        }
    }

    #[cold]
    fn enter(&mut self, owner: Owner, at: Nanos) {
        *self.armed(owner) = at;
        // One tick further than the time's own, so that nothing fires early; never in a slot already passed.
        let tick = (at / TICK + 1).max(self.tick + 1);
        self.wheel[tick as usize % SLOTS].push((at, owner));
        self.len += 1;
        self.next = self.next.min(tick * TICK);
    }

    /// When `expire` has to be called next; `None` if nothing is armed.
    pub fn next(&self) -> Option<Nanos> {
        (self.len > 0).then_some(self.next)
    }

    /// Moves what is due to `fired`. The owner compares its own deadline and arms again if that is later.
    pub fn expire(&mut self, now: Nanos, fired: &mut Vec<Owner>) {
        if self.len == 0 {
            self.tick = self.tick.max(now / TICK);
            return;
        }
        if now < self.next {
            return;
        }
        let target = now / TICK;
        let steps = (target.saturating_sub(self.tick)).min(SLOTS as u64);
        for step in 1..=steps {
            let slot = (self.tick + step) as usize % SLOTS;
            let mut entries = std::mem::take(&mut self.wheel[slot]);
            entries.retain(|&(at, owner)| {
                if at / TICK + 1 > target {
                    return true;
                }
                let armed = self.armed(owner);
                // A later entry of the same index was overtaken by an earlier one that is gone: still fire, it is harmless.
                if *armed == at {
                    *armed = Nanos::MAX;
                }
                fired.push(owner);
                self.len -= 1;
                false
            });
            self.wheel[slot] = entries;
        }
        self.tick = target;
        self.next = self.first_from(target);
    }

    /// The time of the first non-empty slot after `tick`, at most one round ahead.
    fn first_from(&self, tick: u64) -> Nanos {
        if self.len == 0 {
            return Nanos::MAX;
        }
        let ahead = (1..=SLOTS as u64)
            .find(|step| !self.wheel[(tick + step) as usize % SLOTS].is_empty())
            .unwrap_or(SLOTS as u64);
        (tick + ahead) * TICK
    }

    #[inline]
    fn armed(&mut self, owner: Owner) -> &mut Nanos {
        let (table, index) = match owner {
            Owner::Conn(index) => (&mut self.armed_conns, index as usize),
            Owner::Call(index) => (&mut self.armed_calls, index as usize),
            Owner::Lane(index) => (&mut self.armed_lanes, index as usize),
        };
        if table.len() <= index {
            table.resize(index + 1, Nanos::MAX);
        }
        &mut table[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fire(timers: &mut Timers, now: Nanos) -> Vec<Owner> {
        let mut fired = Vec::new();
        timers.expire(now, &mut fired);
        fired
    }

    #[test]
    fn fires_after_its_time_and_never_before() {
        let mut timers = Timers::new(1_000_000_000);
        timers.arm(Owner::Call(3), 1_010_000_000);
        assert!(fire(&mut timers, 1_009_999_999).is_empty());
        let next = timers.next().unwrap();
        assert!((1_010_000_000..=1_010_000_000 + 2 * TICK).contains(&next), "{next}");
        assert_eq!(fire(&mut timers, next), [Owner::Call(3)]);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn a_later_deadline_adds_no_entry() {
        let mut timers = Timers::new(0);
        for at in 1..100_000u64 {
            timers.arm(Owner::Call(0), 50_000_000 + at);
        }
        assert_eq!(timers.len, 1);
        timers.arm(Owner::Call(0), 1_000_000);
        assert_eq!(timers.len, 2);
    }

    #[test]
    fn goes_round_for_far_deadlines() {
        let mut timers = Timers::new(0);
        let far = TICK * (SLOTS as u64 * 3 + 17);
        timers.arm(Owner::Conn(1), far);
        let mut now = 0;
        let mut turns = 0;
        while now <= far {
            assert!(fire(&mut timers, now).is_empty());
            now = timers.next().unwrap();
            turns += 1;
            assert!(turns < 10, "wakes up at most once a round");
        }
        assert_eq!(fire(&mut timers, now), [Owner::Conn(1)]);
    }

    #[test]
    fn a_long_sleep_loses_nothing() {
        let mut timers = Timers::new(0);
        for index in 0..1000 {
            timers.arm(Owner::Conn(index), u64::from(index) * 1_000_000);
        }
        assert_eq!(fire(&mut timers, TICK * (SLOTS as u64 * 5)).len(), 1000);
    }
}
