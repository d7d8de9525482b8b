//! Whether calls go through the sidecar or round it: leaving one that failed, and coming back to it.
//!
//! | state | calls | until |
//! |---|---|---|
//! | using | go through | it fails |
//! | left | go round | the pause is over |
//! | returning | a share goes through, step by step more | [`SHARES`] are through, then it is used; or it fails |
//!
//! Each step of a return takes [`STEP`], and at least one call that went well. A failure ends the return, and the next pause is twice as
//! long: a sidecar that dies again and again is tried ever more rarely, up to [`PAUSE_MAX`]. Time without a failure makes the pause
//! shorter again, by half for each [`HEALTH`]. Times are nanoseconds of the caller's clock.

/// Of a thousand calls so many go through in each step of a return.
pub const SHARES: [u32; 4] = [10, 50, 200, 500];
/// How long a step of a return takes at least.
pub const STEP: u64 = 100_000_000;
/// The first pause after a failure.
pub const PAUSE_MIN: u64 = 100_000_000;
/// The longest pause after a sidecar that was there has failed.
pub const PAUSE_MAX: u64 = 10_000_000_000;
/// The longest pause while none is there: looking costs next to nothing, and calls wait for it to come.
pub const PAUSE_ABSENT_MAX: u64 = 1_000_000_000;
/// Time of use without a failure after which the pause is half as long.
pub const HEALTH: u64 = 10_000_000_000;

/// Where a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through the sidecar. What becomes of it is to be told with this.
    Through(Visit),
    /// Round it.
    Round,
}

/// One stay with the sidecar, from a return to the next failure. What is told of an earlier stay says nothing about this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visit(u64);

/// How the sidecar failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It was there, and died, hung or broke the protocol.
    Broke,
    /// It was not to be had.
    Absent,
}

/// The state machine. Whoever makes calls asks it first and tells it afterwards.
#[derive(Clone, Debug)]
pub struct Refuge {
    state: State,
    visit: u64,
    /// The pause after the next failure.
    pause: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Using {
        since: u64,
    },
    Left {
        until: u64,
    },
    Returning {
        step: usize,
        since: u64,
        /// When the last call of this step was sent through.
        tried: Option<u64>,
        /// And one went well.
        well: bool,
    },
}

impl Refuge {
    /// Begins with using the sidecar.
    pub fn new(now: u64) -> Refuge {
        Refuge { state: State::Using { since: now }, visit: 0, pause: PAUSE_MIN }
    }

    /// Where the next call goes. `random` is below 1,000.
    pub fn way(&mut self, now: u64, random: u32) -> Way {
        match &mut self.state {
            State::Using { .. } => Way::Through(Visit(self.visit)),
            State::Left { until } if now < *until => Way::Round,
            State::Left { .. } => {
                self.state = State::Returning { step: 0, since: now, tried: Some(now), well: false };
                Way::Through(Visit(self.visit))
            }
            State::Returning { step, since, tried, well } => {
                if *well && now.saturating_sub(*since) >= STEP {
                    (*step, *since, *tried, *well) = (*step + 1, now, None, false);
                    if *step == SHARES.len() {
                        self.state = State::Using { since: now };
                        return Way::Through(Visit(self.visit));
                    }
                }
                // One in the time of a step goes through in any case, or few calls would take long to come back.
                if tried.is_some_and(|tried| now.saturating_sub(tried) < STEP) && random >= SHARES[*step] {
                    return Way::Round;
                }
                *tried = Some(now);
                Way::Through(Visit(self.visit))
            }
        }
    }

    /// Every call goes through, until a failure is told.
    pub fn is_using(&self) -> bool {
        matches!(self.state, State::Using { .. })
    }

    /// The stay that calls which go through now belong to.
    pub fn visit(&self) -> Visit {
        Visit(self.visit)
    }

    /// A call went through and was answered.
    pub fn went_well(&mut self, visit: Visit) {
        if let State::Returning { well, .. } = &mut self.state
            && visit.0 == self.visit
        {
            *well = true;
        }
    }

    /// A call that was to go through could not be tried yet: the next one may.
    pub fn was_not_tried(&mut self, visit: Visit) {
        if let State::Returning { tried, .. } = &mut self.state
            && visit.0 == self.visit
        {
            *tried = None;
        }
    }

    /// The sidecar failed a call. Only the first word of it in a stay counts. `random` is below 1,000: so that not all apps of a
    /// sidecar come back at the same time.
    pub fn failed(&mut self, visit: Visit, failure: Failure, now: u64, random: u32) {
        let healthy = match self.state {
            _ if visit.0 != self.visit => return,
            State::Left { .. } => return,
            State::Using { since } => now.saturating_sub(since) / HEALTH,
            State::Returning { .. } => 0,
        };
        let pause = self.pause.checked_shr(healthy.min(63) as u32).unwrap_or(0).max(PAUSE_MIN);
        let most = match failure {
            Failure::Broke => PAUSE_MAX,
            Failure::Absent => PAUSE_ABSENT_MAX,
        };
        // A long pause is not cut short because now nobody is there.
        self.pause = (pause * 2).min(most.max(pause));
        self.visit += 1;
        self.state = State::Left { until: now + pause + pause / 4 / 1000 * u64::from(random.min(999)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    fn through(refuge: &mut Refuge, now: u64, random: u32) -> Option<Visit> {
        match refuge.way(now, random) {
            Way::Through(visit) => Some(visit),
            Way::Round => None,
        }
    }

    /// Comes back with calls at this distance that all go well: how long that takes.
    fn come_back(refuge: &mut Refuge, mut now: u64, distance: u64) -> u64 {
        let began = now;
        while !refuge.is_using() {
            if let Some(visit) = through(refuge, now, 999) {
                refuge.went_well(visit);
            }
            now += distance;
        }
        now - began
    }

    #[test]
    fn it_is_left_at_once_and_tried_after_the_pause() {
        let mut refuge = Refuge::new(0);
        let visit = through(&mut refuge, 0, 999).expect("it is used");
        refuge.failed(visit, Failure::Broke, 5 * MS, 0);
        assert_eq!(through(&mut refuge, 104 * MS, 0), None);
        assert!(through(&mut refuge, 105 * MS, 999).is_some(), "the first call of a return goes through");
        assert!(through(&mut refuge, 106 * MS, 999).is_none(), "others by its share");
        assert!(through(&mut refuge, 106 * MS, SHARES[0] - 1).is_some());
    }

    #[test]
    fn the_share_grows_with_each_step_that_goes_well() {
        let mut refuge = Refuge::new(0);
        refuge.failed(refuge.visit(), Failure::Broke, 0, 0);
        let mut now = PAUSE_MIN;
        for share in SHARES {
            let first = through(&mut refuge, now, 999).expect("the first of a step");
            assert!(through(&mut refuge, now, share).is_none());
            assert!(through(&mut refuge, now, share - 1).is_some());
            now += STEP;
            assert!(through(&mut refuge, now, 999).is_some(), "another one, as nothing is known of the first");
            assert!(through(&mut refuge, now, share).is_none(), "in the same step, as nothing went well yet");
            refuge.went_well(first);
        }
        assert!(through(&mut refuge, now, 999).is_some());
        assert!(refuge.is_using());
    }

    #[test]
    fn rare_calls_bring_it_back_as_well() {
        let mut refuge = Refuge::new(0);
        refuge.failed(refuge.visit(), Failure::Broke, 0, 0);
        assert!(come_back(&mut refuge, PAUSE_MIN, 1000 * MS) <= 6000 * MS);
    }

    #[test]
    fn failures_while_returning_double_the_pause_and_health_shrinks_it() {
        let mut refuge = Refuge::new(0);
        let (mut now, mut pauses) = (0, Vec::new());
        for _ in 0..10 {
            refuge.failed(refuge.visit(), Failure::Broke, now, 0);
            let left = now;
            while through(&mut refuge, now, 999).is_none() {
                now += 10 * MS;
            }
            pauses.push((now - left) / MS);
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]);
        now += come_back(&mut refuge, now, 10 * MS);
        // Not at once: a return that succeeded is no time of health.
        refuge.failed(refuge.visit(), Failure::Broke, now, 0);
        assert!(through(&mut refuge, now + PAUSE_MAX - MS, 0).is_none());
        now += PAUSE_MAX;
        now += come_back(&mut refuge, now, 10 * MS);
        now += 3 * HEALTH + MS;
        refuge.failed(refuge.visit(), Failure::Broke, now, 0);
        assert!(through(&mut refuge, now + PAUSE_MAX / 8 - MS, 0).is_none());
        assert!(through(&mut refuge, now + PAUSE_MAX / 8, 0).is_some());
    }

    #[test]
    fn one_that_is_not_there_is_looked_for_each_second() {
        let mut refuge = Refuge::new(0);
        let mut now = 0;
        for _ in 0..20 {
            refuge.failed(refuge.visit(), Failure::Absent, now, 0);
            now += PAUSE_ABSENT_MAX;
            assert!(through(&mut refuge, now, 0).is_some());
        }
    }

    #[test]
    fn word_of_an_earlier_stay_changes_nothing() {
        let mut refuge = Refuge::new(0);
        let old = through(&mut refuge, 0, 0).expect("it is used");
        refuge.failed(old, Failure::Broke, 0, 0);
        refuge.failed(old, Failure::Broke, 50 * MS, 0);
        assert!(through(&mut refuge, PAUSE_MIN, 0).is_some(), "one failure, one pause");
        refuge.went_well(old);
        refuge.failed(old, Failure::Broke, PAUSE_MIN, 0);
        assert!(through(&mut refuge, PAUSE_MIN + STEP, 999).is_some(), "it was not left again");
        assert!(through(&mut refuge, PAUSE_MIN + STEP, SHARES[0]).is_none(), "still in the first step of the return");
    }

    proptest! {
        /// Whatever happens: between two times at which it is left lies at least the first one's pause, pauses do not shrink without
        /// time of health, and while it is left nothing goes through.
        #[test]
        fn it_does_not_flap(steps in prop::collection::vec((0u64..3_000, 0u32..1000, any::<bool>(), any::<bool>()), 1..300)) {
            let mut refuge = Refuge::new(0);
            let (mut now, mut left_at, mut pause): (u64, Option<u64>, u64) = (0, None, 0);
            let mut used_since = Some(0);
            for (passes, random, fails, absent) in steps {
                now += passes * MS;
                let way = refuge.way(now, random);
                if refuge.is_using() && used_since.is_none() {
                    used_since = Some(now);
                }
                let Way::Through(visit) = way else {
                    prop_assert!(left_at.is_some());
                    continue;
                };
                if let Some(left) = left_at {
                    prop_assert!(now >= left + pause, "{now} after {left} with a pause of {pause}");
                }
                if !fails {
                    refuge.went_well(visit);
                    continue;
                }
                let failure = if absent { Failure::Absent } else { Failure::Broke };
                refuge.failed(visit, failure, now, random);
                prop_assert!(!refuge.is_using());
                let State::Left { until } = refuge.state else { panic!("it is left") };
                let (before, healthy) = (pause, used_since.take().map_or(0, |since| (now - since) / HEALTH));
                pause = until - now;
                prop_assert!((PAUSE_MIN..=PAUSE_MAX * 5 / 4).contains(&pause));
                // Up to a quarter is chance.
                prop_assert!(pause * 5 / 4 >= (before >> healthy.min(63)), "{pause} after {before}, healthy {healthy}");
                left_at = Some(now);
            }
        }
    }
}
