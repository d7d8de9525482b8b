//! One timer for each conn, call, lane and cluster, re-armed lazily.
//!
//! A deadline that moves later costs nothing: the entry that is in the wheel fires at its old time, the owner looks at its
//! real deadline and arms again. One that moves earlier takes its entry along. So a table index has one entry however many calls
//! use it one after the other, with whatever deadlines their apps think of.

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
    /// Index of a cluster.
    Cluster(u32),
}

/// A wheel of timers.
pub struct Timers {
    /// The first timer of each slot.
    wheel: Vec<Link>,
    /// The timers of all owners.
    timers: Vec<Timer>,
    /// The tick up to which everything has fired.
    tick: u64,
    len: usize,
    /// Not later than the first entry's time; exact after a pass.
    next: Nanos,
}

/// Position in `Timers::timers`, or `NONE`.
type Link = u32;
const NONE: Link = Link::MAX;

/// One owner's timer, linked with the others of its slot.
#[derive(Clone)]
struct Timer {
    /// `Nanos::MAX` when it is in no slot.
    at: Nanos,
    slot: u32,
    before: Link,
    behind: Link,
}

const UNARMED: Timer = Timer { at: Nanos::MAX, slot: 0, before: NONE, behind: NONE };

impl Owner {
    /// Owners take turns in one table.
    fn link(self) -> Link {
        match self {
            Owner::Conn(index) => index * 4,
            Owner::Call(index) => index * 4 + 1,
            Owner::Lane(index) => index * 4 + 2,
            Owner::Cluster(index) => index * 4 + 3,
        }
    }

    fn of(link: Link) -> Owner {
        match link % 4 {
            0 => Owner::Conn(link / 4),
            1 => Owner::Call(link / 4),
            2 => Owner::Lane(link / 4),
            _ => Owner::Cluster(link / 4),
        }
    }
}

impl Timers {
    /// An empty wheel.
    pub fn new(now: Nanos) -> Timers {
        Timers { wheel: vec![NONE; SLOTS], timers: Vec::new(), tick: now / TICK, len: 0, next: Nanos::MAX }
    }

    /// Makes sure that the owner is looked at not later than one tick after `at`.
    #[inline(always)]
    pub fn arm(&mut self, owner: Owner, at: Nanos) {
        if self.timers.get(owner.link() as usize).is_none_or(|timer| timer.at > at) {
            self.enter(owner, at);
        }
    }

    #[cold]
    fn enter(&mut self, owner: Owner, at: Nanos) {
        let link = owner.link();
        if self.timers.len() <= link as usize {
            self.timers.resize(link as usize + 1, UNARMED);
        }
        // Its owner looks at its deadline when the earlier time comes, and arms again for the later one.
        self.leave(link);
        // One tick further than the time's own, so that nothing fires early; never in a slot already passed.
        let tick = (at / TICK + 1).max(self.tick + 1);
        let slot = (tick % SLOTS as u64) as u32;
        let behind = std::mem::replace(&mut self.wheel[slot as usize], link);
        if let Some(behind) = self.timers.get_mut(behind as usize) {
            behind.before = link;
        }
        self.timers[link as usize] = Timer { at, slot, before: NONE, behind };
        self.len += 1;
        self.next = self.next.min(tick * TICK);
    }

    /// Takes a timer out of its slot, if it is in one.
    fn leave(&mut self, link: Link) {
        let timer = std::mem::replace(&mut self.timers[link as usize], UNARMED);
        if timer.at == Nanos::MAX {
            return;
        }
        match self.timers.get_mut(timer.before as usize) {
            Some(before) => before.behind = timer.behind,
            None => self.wheel[timer.slot as usize] = timer.behind,
        }
        if let Some(behind) = self.timers.get_mut(timer.behind as usize) {
            behind.before = timer.before;
        }
        self.len -= 1;
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
            let mut link = self.wheel[(self.tick + step) as usize % SLOTS];
            while let Some(&Timer { at, behind, .. }) = self.timers.get(link as usize) {
                if at / TICK < target {
                    self.leave(link);
                    fired.push(Owner::of(link));
                }
                link = behind;
            }
        }
        self.tick = target;
        self.next = self.first_from(target);
    }

    /// The time of the first non-empty slot after `tick`, at most one round ahead.
    fn first_from(&self, tick: u64) -> Nanos {
        if self.len == 0 {
            return Nanos::MAX;
        }
        let ahead =
            (1..=SLOTS as u64).find(|step| self.wheel[(tick + step) as usize % SLOTS] != NONE).unwrap_or(SLOTS as u64);
        (tick + ahead) * TICK
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
        assert_eq!(timers.next(), Some(TICK));
        assert_eq!(timers.len, 1, "an earlier one takes its place");
    }

    /// An app chooses the deadlines of its calls: ever shorter ones, or a short one after each long one.
    #[test]
    fn no_order_of_deadlines_fills_the_wheel() {
        let mut timers = Timers::new(0);
        for call in 0..100_000u64 {
            timers.arm(Owner::Call(0), 15_000_000_000 - call);
        }
        assert_eq!(timers.len, 1);
        let mut timers = Timers::new(0);
        for now in (0..1000).map(|turn| turn * 3 * TICK) {
            fire(&mut timers, now);
            timers.arm(Owner::Call(0), now + 15_000_000_000);
            timers.arm(Owner::Call(0), now + TICK / 2);
        }
        assert_eq!(timers.len, 1);
    }

    #[test]
    fn timers_of_one_slot_leave_it_in_any_order() {
        for first in 0..4 {
            let mut timers = Timers::new(0);
            (0..4).for_each(|index| timers.arm(Owner::Lane(index), 100 * TICK));
            timers.arm(Owner::Lane(first), 50 * TICK);
            assert_eq!(fire(&mut timers, 60 * TICK), [Owner::Lane(first)]);
            let mut rest = fire(&mut timers, 101 * TICK);
            rest.sort_unstable_by_key(|owner| owner.link());
            let others = (0..4).filter(|&index| index != first).map(Owner::Lane);
            assert_eq!(rest, others.collect::<Vec<_>>());
            assert_eq!((timers.len, timers.next()), (0, None));
        }
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
