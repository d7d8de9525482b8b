//! Whether a sidecar that says nothing is alive: asked for only while somebody waits and nothing moved.
//!
//! Half of the bound goes by before it is asked, so that an answer in time costs nothing; the other half is its time to answer.
//! That is counted in pauses that this process was awake for: when both were stopped for a while, as all processes of a machine are,
//! the sidecar still has its time.
//!
//! A stream is at rest when nothing was written to it since something came: then silence is what is to be expected, and the first half
//! is twice as long after each sign of life, up to [`REST_NS_MAX`].

/// The second half of the bound is waited for in so many pauses.
const PAUSES: u32 = 4;
/// The longest time for which a sidecar is not asked while a stream is at rest, in nanoseconds.
const REST_NS_MAX: u64 = 10_000_000_000;

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// Nothing.
    Rest,
    /// Ask, with this number.
    Ask(u64),
    /// The sidecar is hung.
    Hung,
}

/// One lane's view of it. Reads no clock: `now` is in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Pulse {
    /// 0 = never asks.
    bound_ns: u64,
    /// The number that was asked with last.
    asked: u64,
    /// Signs of life since something moved.
    signs: u32,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Something moved since the last look.
    Moved,
    /// Nothing moved since some time before; asks at `ask_at`.
    Quiet { ask_at: u64 },
    /// Was asked.
    Asked { look_at: u64, pauses: u32 },
}

impl Pulse {
    pub fn new(bound_ns: u64) -> Pulse {
        Pulse { bound_ns, asked: 0, signs: 0, state: State::Moved }
    }

    /// Something came from the sidecar.
    #[inline]
    pub fn moved(&mut self) {
        self.state = State::Moved;
    }

    /// A stream that was at rest is not any more. True: it is to be looked at sooner than was said.
    pub fn rests_no_more(&mut self) -> bool {
        let slept = matches!(self.state, State::Quiet { .. }) && self.signs > 0;
        if slept {
            self.state = State::Moved;
        }
        slept
    }

    /// When to look again at the latest, after a look.
    pub fn due(&self) -> u64 {
        match self.state {
            _ if self.bound_ns == 0 => u64::MAX,
            State::Moved => 0,
            State::Quiet { ask_at } => ask_at,
            State::Asked { look_at, .. } => look_at,
        }
    }

    /// Nothing came until now. `told`: the number that the sidecar answered last. `rests`: nothing was to come.
    pub fn look(&mut self, now: u64, told: u64, rests: bool) -> Beat {
        let half = self.bound_ns / 2;
        match self.state {
            State::Moved => self.signs = 0,
            State::Asked { .. } if told == self.asked => self.signs += 1,
            State::Quiet { .. } | State::Asked { .. } => {}
        }
        let longer = half.saturating_mul(1 << self.signs.min(32)).min(REST_NS_MAX).max(half);
        let quiet = State::Quiet { ask_at: now.saturating_add(if rests { longer } else { half }) };
        let look_at = now.saturating_add(half / u64::from(PAUSES));
        match self.state {
            _ if self.bound_ns == 0 => Beat::Rest,
            State::Moved => self.rest(quiet),
            State::Quiet { ask_at } if now < ask_at => Beat::Rest,
            State::Quiet { .. } => {
                self.asked += 1;
                self.state = State::Asked { look_at, pauses: 0 };
                Beat::Ask(self.asked)
            }
            State::Asked { .. } if told == self.asked => self.rest(quiet),
            State::Asked { look_at, .. } if now < look_at => Beat::Rest,
            State::Asked { pauses, .. } if pauses + 1 == PAUSES => Beat::Hung,
            State::Asked { pauses, .. } => self.rest(State::Asked { look_at, pauses: pauses + 1 }),
        }
    }

    fn rest(&mut self, state: State) -> Beat {
        self.state = state;
        Beat::Rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Looks as often as it wants to until it does something: when, and what.
    fn next(pulse: &mut Pulse, now: &mut u64, told: u64) -> (u64, Beat) {
        loop {
            match pulse.look(*now, told, false) {
                Beat::Rest => *now = pulse.due(),
                beat => return (*now / MS, beat),
            }
        }
    }

    #[test]
    fn silence_is_asked_about_and_then_it_is_hung_at_the_bound() {
        let (mut pulse, mut now) = (Pulse::new(200 * MS), 1000 * MS);
        assert_eq!(next(&mut pulse, &mut now, 0), (1100, Beat::Ask(1)));
        assert_eq!(next(&mut pulse, &mut now, 0), (1200, Beat::Hung));
    }

    #[test]
    fn an_answer_buys_half_of_the_bound_and_a_late_one_counts() {
        let (mut pulse, mut now) = (Pulse::new(200 * MS), 0);
        assert_eq!(next(&mut pulse, &mut now, 0), (100, Beat::Ask(1)));
        for round in 1..10 {
            // Seen with the first look after it.
            now = pulse.due();
            assert_eq!(pulse.look(now, round, false), Beat::Rest);
            let quiet = now / MS;
            assert_eq!(next(&mut pulse, &mut now, round), (quiet + 100, Beat::Ask(round + 1)));
        }
        now += 99 * MS;
        assert_eq!(pulse.look(now, 9, false), Beat::Rest);
        assert_eq!(pulse.look(now, 10, false), Beat::Rest, "the answer to the last one");
        assert_eq!(next(&mut pulse, &mut now, 10).1, Beat::Ask(11));
    }

    #[test]
    fn whatever_moves_begins_it_anew() {
        let (mut pulse, mut now) = (Pulse::new(200 * MS), 0);
        for _ in 0..5 {
            next(&mut pulse, &mut now, 0);
            now += 90 * MS;
            assert_eq!(pulse.look(now, 0, false), Beat::Rest);
            pulse.moved();
            let moved = now / MS;
            assert_eq!(pulse.look(now, 0, false), Beat::Rest);
            assert_eq!(next(&mut pulse, &mut now, 0).0, moved + 100);
            pulse.moved();
        }
    }

    #[test]
    fn a_pause_of_everything_is_not_held_against_the_sidecar() {
        let (mut pulse, mut now) = (Pulse::new(200 * MS), 0);
        assert_eq!(next(&mut pulse, &mut now, 0).1, Beat::Ask(1));
        // A minute in which nobody ran; then there are three pauses left.
        now += 60_000 * MS;
        let (woke, mut looks) = (now, 0);
        while pulse.look(now, 0, false) == Beat::Rest {
            (now, looks) = (pulse.due(), looks + 1);
        }
        assert_eq!((now - woke, looks), (75 * MS, 3));
    }

    #[test]
    fn at_rest_it_is_asked_ever_more_rarely_and_at_once_when_that_is_over() {
        let (mut pulse, mut now) = (Pulse::new(200 * MS), 0);
        let mut asked = Vec::new();
        let mut told = 0;
        while asked.len() < 10 {
            match pulse.look(now, told, true) {
                Beat::Rest => now = pulse.due(),
                Beat::Ask(number) => {
                    asked.push(now / MS);
                    told = number;
                }
                Beat::Hung => panic!("it answered"),
            }
        }
        let silences: Vec<u64> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(silences, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]);
        now = pulse.due();
        assert_eq!(pulse.look(now, told, true), Beat::Rest);
        assert!(pulse.due() >= now + REST_NS_MAX);
        assert!(pulse.rests_no_more() && !pulse.rests_no_more());
        let over = now / MS;
        assert_eq!(next(&mut pulse, &mut now, told).0, over + 100);
    }

    #[test]
    fn without_a_bound_nothing_is_asked() {
        let mut pulse = Pulse::new(0);
        for now in [0, 1, u64::MAX] {
            assert_eq!((pulse.look(now, 0, false), pulse.due()), (Beat::Rest, u64::MAX));
        }
    }
}
