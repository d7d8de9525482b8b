//! What a worker knows of a host name: its addresses, how long they hold, and the calls that wait for them. No I/O, no clock.

use std::net::SocketAddr;
use std::time::Duration;

use shmesh_io::Nanos;
use shmesh_policy::RoundRobin;

use crate::call::Call;
use crate::resolve::{Outcome, RETRY_AFTER};
use crate::slab::Key;

/// Addresses still serve for so long past their time while they are being looked up again: a busy name's calls never wait for
/// that. Of a name that was not used for longer, the next call waits, as its service may be somewhere else by now.
const GRACE: Nanos = 1_000_000_000;

/// The longest that addresses serve past their time while name servers are silent (RFC 8767 §5 has one to three days).
const STALE_MAX: Nanos = 24 * 3600 * 1_000_000_000;

/// What is known of a host name.
#[derive(Default)]
pub struct HostState {
    /// Those of one family, then those of the other.
    addresses: Vec<SocketAddr>,
    turn: RoundRobin,
    /// Addresses of the second family are taken first: one of the first family refused.
    second_first: bool,
    /// Until then it is used as it is.
    fresh_until: Nanos,
    /// After that the addresses are not used any more, whatever happens.
    stale_until: Nanos,
    asked: bool,
    /// Calls wait for what was asked, although there are addresses.
    held: bool,
    /// Calls that wait for an answer.
    waiting: Vec<Key<Call>>,
}

/// What is known of a name, for a process that goes on with it: all but what was asked, and who waits.
pub struct HostRest {
    pub addresses: Vec<SocketAddr>,
    pub turn: u64,
    pub second_first: bool,
    pub fresh_until: Nanos,
    pub stale_until: Nanos,
}

/// Where among a name's addresses a call began.
#[derive(Copy, Clone, Default, Debug)]
pub struct Order {
    first: usize,
    second_first: bool,
}

/// What a call can do.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// Go there; and how many addresses the name has.
    At(SocketAddr, usize),
    /// Wait.
    Wait,
    /// Fail: there is no such host.
    Nothing,
}

impl HostState {
    /// Whether somebody has to ask for the name now; it counts as asked from then on.
    pub fn begin_asking(&mut self, now: Nanos) -> bool {
        if self.asked || self.fresh_until > now {
            return false;
        }
        self.asked = true;
        self.held = now > self.fresh_until + GRACE;
        true
    }

    /// What a call does that has tried `tried` of the name's addresses already: the next one in turn, then each of the others, one
    /// family and the other by turns. Its first pick leaves in `order` where it began.
    pub fn pick(&mut self, now: Nanos, tried: u32, order: &mut Order) -> Use {
        if self.addresses.is_empty() || self.asked && self.held {
            return if self.asked { Use::Wait } else { Use::Nothing };
        }
        if self.asked && self.stale_until <= now {
            return Use::Wait;
        }
        let first = self.addresses[0].is_ipv4();
        let of_first = self.addresses.iter().take_while(|address| address.is_ipv4() == first).count();
        let of_second = self.addresses.len() - of_first;
        if tried == 0 {
            order.second_first = self.second_first && of_second > 0;
            order.first = self.turn.pick(if order.second_first { of_second } else { of_first });
        }
        let tried = tried as usize;
        let index = if of_second == 0 {
            (order.first + tried) % of_first
        } else {
            let second = order.second_first ^ (tried % 2 == 1);
            if tried > 0 {
                // The family before this one refused.
                self.second_first = second;
            }
            let (front, of) = if second { (of_first, of_second) } else { (0, of_first) };
            front + (order.first + tried / 2) % of
        };
        Use::At(self.addresses[index], self.addresses.len())
    }

    /// Other name servers are in force: what these said is to be asked again.
    pub fn expire(&mut self) {
        self.fresh_until = 0;
    }

    /// The call has to wait for an answer.
    pub fn wait(&mut self, call: Key<Call>) {
        self.waiting.push(call);
    }

    /// Takes an answer; gives the calls that go on with it.
    pub fn resolved(&mut self, outcome: Outcome, port: u16, now: Nanos) -> Vec<Key<Call>> {
        self.held = false;
        match outcome {
            Outcome::Late if self.addresses.is_empty() || self.stale_until <= now => return Vec::new(),
            Outcome::Late => return std::mem::take(&mut self.waiting),
            Outcome::Found { addresses, ttl } => {
                let new: Vec<SocketAddr> = addresses.iter().map(|&ip| SocketAddr::new(ip, port)).collect();
                if new != self.addresses {
                    self.second_first = false;
                }
                self.addresses = new;
                self.fresh_until = now + nanos(ttl);
                self.stale_until = self.fresh_until + STALE_MAX;
            }
            Outcome::Absent { ttl } => {
                self.addresses.clear();
                self.fresh_until = now + nanos(ttl);
            }
            Outcome::Failed => {
                if self.stale_until <= now {
                    self.addresses.clear();
                }
                self.fresh_until = now + nanos(RETRY_AFTER);
            }
        }
        self.asked = false;
        std::mem::take(&mut self.waiting)
    }

    /// Its addresses, as far as they are known.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Nobody waits for it: it can be forgotten.
    pub fn is_quiet(&self) -> bool {
        !self.asked
    }

    /// `None`: nothing is known yet.
    pub fn rest(&self) -> Option<HostRest> {
        (self.fresh_until > 0 || !self.addresses.is_empty()).then(|| HostRest {
            addresses: self.addresses.clone(),
            turn: self.turn.position() as u64,
            second_first: self.second_first,
            fresh_until: self.fresh_until,
            stale_until: self.stale_until,
        })
    }

    /// Goes on with what another process knew.
    pub fn go_on(rest: HostRest) -> HostState {
        let HostRest { addresses, turn, second_first, fresh_until, stale_until } = rest;
        let turn = RoundRobin::starting_at(turn as usize);
        HostState { addresses, turn, second_first, fresh_until, stale_until, ..HostState::default() }
    }

    /// Its time is over.
    pub fn is_old(&self, now: Nanos) -> bool {
        self.fresh_until <= now
    }
}

fn nanos(time: Duration) -> Nanos {
    time.as_nanos() as Nanos
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;
    const START: Nanos = 1_000 * SECOND;

    fn found(addresses: &[&str], seconds: u64) -> Outcome {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Outcome::Found { addresses, ttl: Duration::from_secs(seconds) }
    }

    fn at(address: &str, of: usize) -> Use {
        Use::At(address.parse().unwrap(), of)
    }

    fn known(outcome: Outcome) -> HostState {
        let mut state = HostState::default();
        assert!(state.begin_asking(START));
        state.resolved(outcome, 80, START);
        state
    }

    #[test]
    fn a_name_is_asked_for_once_and_again_when_its_time_is_over() {
        let mut state = HostState::default();
        assert!(state.begin_asking(START));
        assert_eq!(state.pick(START, 0, &mut Order::default()), Use::Wait);
        assert!(!state.begin_asking(START), "it is asked already");
        assert!(!state.is_quiet());
        state.resolved(found(&["10.0.0.1"], 30), 80, START);
        assert!(!state.begin_asking(START + 30 * SECOND - 1));
        assert_eq!(state.pick(START + 30 * SECOND - 1, 0, &mut Order::default()), at("10.0.0.1:80", 1));
        assert!(state.begin_asking(START + 30 * SECOND));
    }

    #[test]
    fn a_busy_name_serves_while_it_is_asked_for_and_one_that_rested_waits() {
        let busy = START + 30 * SECOND + GRACE;
        let mut state = known(found(&["10.0.0.1"], 30));
        assert!(state.begin_asking(busy));
        assert_eq!(state.pick(busy, 0, &mut Order::default()), at("10.0.0.1:80", 1));
        // However long that takes.
        assert_eq!(state.pick(busy + 10 * SECOND, 0, &mut Order::default()), at("10.0.0.1:80", 1));

        let mut state = known(found(&["10.0.0.1"], 30));
        assert!(state.begin_asking(busy + 1));
        assert_eq!(state.pick(busy + 1, 0, &mut Order::default()), Use::Wait);
        state.resolved(found(&["10.0.0.2"], 30), 80, busy + 2);
        assert_eq!(state.pick(busy + 2, 0, &mut Order::default()), at("10.0.0.2:80", 1));
    }

    #[test]
    fn old_addresses_serve_while_name_servers_are_silent_but_not_for_ever() {
        let late = START + 60 * SECOND;
        let mut state = known(found(&["10.0.0.1"], 30));
        assert!(state.begin_asking(late));
        assert_eq!(state.pick(late, 0, &mut Order::default()), Use::Wait);
        state.resolved(Outcome::Late, 80, late + SECOND);
        assert_eq!(
            state.pick(late + SECOND, 0, &mut Order::default()),
            at("10.0.0.1:80", 1),
            "it takes long, so the old one serves"
        );
        assert!(!state.begin_asking(late + SECOND), "the answer is still to come");
        state.resolved(Outcome::Failed, 80, late + 5 * SECOND);
        assert_eq!(state.pick(late + 5 * SECOND, 0, &mut Order::default()), at("10.0.0.1:80", 1));
        assert!(state.begin_asking(late + 5 * SECOND + nanos(RETRY_AFTER)));

        let mut state = known(found(&["10.0.0.1"], 30));
        let too_late = START + 30 * SECOND + STALE_MAX;
        assert!(state.begin_asking(too_late));
        assert_eq!(state.pick(too_late, 0, &mut Order::default()), Use::Wait);
        state.resolved(Outcome::Late, 80, too_late);
        assert_eq!(state.pick(too_late, 0, &mut Order::default()), Use::Wait, "too old to serve");
        state.resolved(Outcome::Failed, 80, too_late);
        assert_eq!(state.pick(too_late, 0, &mut Order::default()), Use::Nothing);
    }

    #[test]
    fn a_name_that_does_not_exist_any_more_has_no_addresses() {
        let mut state = known(found(&["10.0.0.1"], 30));
        let over = START + 30 * SECOND;
        assert!(state.begin_asking(over));
        state.resolved(Outcome::Absent { ttl: Duration::from_secs(7) }, 80, over);
        assert_eq!(state.pick(over, 0, &mut Order::default()), Use::Nothing);
        assert!(!state.begin_asking(over + 7 * SECOND - 1));
        assert!(state.begin_asking(over + 7 * SECOND));
        assert_eq!(state.pick(over + 7 * SECOND, 0, &mut Order::default()), Use::Wait);
    }

    #[test]
    fn addresses_take_turns_within_their_family_and_the_other_family_takes_over() {
        let mut state = known(found(&["10.0.0.1", "10.0.0.2", "::1"], 30));
        assert_eq!(state.pick(START, 0, &mut Order::default()), at("10.0.0.1:80", 3));
        assert_eq!(state.pick(START, 0, &mut Order::default()), at("10.0.0.2:80", 3));
        assert_eq!(state.pick(START, 0, &mut Order::default()), at("10.0.0.1:80", 3));
        // One refused: the call goes to the other family, and so do those after it.
        let mut order = Order::default();
        assert_eq!(state.pick(START, 0, &mut order), at("10.0.0.2:80", 3));
        assert_eq!(state.pick(START, 1, &mut order), at("[::1]:80", 3));
        let mut other = Order::default();
        assert_eq!(state.pick(START, 0, &mut other), at("[::1]:80", 3));
        assert!(matches!(state.pick(START, 2, &mut order), Use::At(SocketAddr::V4(_), 3)), "and back again");
        // Until that refuses; two calls that find out about the same do not undo each other.
        assert!(matches!(state.pick(START, 1, &mut other), Use::At(SocketAddr::V4(_), 3)));
        assert!(matches!(state.pick(START, 0, &mut Order::default()), Use::At(SocketAddr::V4(_), 3)));
    }

    #[test]
    fn a_call_tries_each_address_whatever_others_do_meanwhile() {
        let mut state = known(found(&["10.0.0.1", "10.0.0.2"], 30));
        let (mut one, mut two) = (Order::default(), Order::default());
        assert_eq!(state.pick(START, 0, &mut one), at("10.0.0.1:80", 2));
        assert_eq!(state.pick(START, 0, &mut two), at("10.0.0.2:80", 2));
        assert_eq!(state.pick(START, 1, &mut one), at("10.0.0.2:80", 2));
        assert_eq!(state.pick(START, 1, &mut two), at("10.0.0.1:80", 2));
    }

    #[test]
    fn another_process_goes_on_with_what_is_known() {
        let mut state = known(found(&["10.0.0.1", "10.0.0.2", "::1"], 30));
        assert_eq!(state.pick(START, 0, &mut Order::default()), at("10.0.0.1:80", 3));
        let over = START + 30 * SECOND;
        // It is being asked for.
        assert!(state.begin_asking(over));
        let mut next = HostState::go_on(state.rest().expect("something is known"));
        assert_eq!(next.pick(over - 1, 0, &mut Order::default()), at("10.0.0.2:80", 3), "it is that one's turn");
        assert!(!next.begin_asking(over - 1));
        assert!(next.begin_asking(over), "nobody will answer what the other one asked");
        // Nobody answers: they serve on.
        next.resolved(Outcome::Failed, 80, over + 5 * SECOND);
        assert_eq!(next.pick(over + 5 * SECOND, 0, &mut Order::default()), at("10.0.0.1:80", 3));

        assert!(HostState::default().rest().is_none());
        let absent = known(Outcome::Absent { ttl: Duration::from_secs(7) });
        let mut next = HostState::go_on(absent.rest().expect("that there is none is known"));
        assert!(!next.begin_asking(START + 7 * SECOND - 1));
        assert_eq!(next.pick(START, 0, &mut Order::default()), Use::Nothing);
    }

    #[test]
    fn calls_that_wait_go_on_with_the_answer() {
        let mut calls = crate::slab::Slab::<_, true>::default();
        let key = calls.insert(Call::new(
            crate::call::Peer::Conn(Key::from_bits(0)),
            0,
            0,
            crate::call::Kind::Exchange(Default::default()),
        ));
        let mut state = HostState::default();
        state.begin_asking(START);
        state.wait(key);
        assert!(state.resolved(Outcome::Late, 80, START + SECOND).is_empty(), "there is nothing to go on with");
        assert_eq!(state.resolved(Outcome::Failed, 80, START + 5 * SECOND), [key]);
        assert_eq!(state.pick(START + 5 * SECOND, 0, &mut Order::default()), Use::Nothing);
    }
}
