//! What is handed over before calls have to wait: descriptors of what the old worker serves meanwhile, and in the new one everything that can be
//! made of them. Handing a thousand connections over in a pause makes it several times as long.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::Sender;

use prost::Message as _;
use shmesh_io::{Bell, Chunk, Chunks, Driver, Nanos, SockId};
use shmesh_shm::{LaneEnd, Side};

use super::messages::{AheadLane, AheadState};
use super::state::{self, ConnState, WorkerState};
use super::take::Leases;
use super::{FORMAT, Refusal};
use crate::call::{Call, Kind};
use crate::conn::{Conn, Pipe, Role};
use crate::lane::Lane;
use crate::session::NewLanes;
use crate::slab::Key;
use crate::token::Token;
use crate::upstream::AddressId;
use crate::worker::Worker;

/// For so long, in nanoseconds, another process may have copies of sockets: longer than all steps of an upgrade take together, and the end of
/// a process that is seen off.
pub(super) const COPIED_FOR: Nanos = 60_000_000_000;

/// Conns and calls that are given in a turn of the worker, which serves in between; and after so many bytes the turn ends. More than the kernel
/// works off of a ring at once (twenty) would have calls wait behind what is taken back for them.
const SLICE: usize = 16;
const SLICE_BYTES: usize = 1 << 20;

/// What a worker gives, or gets, ahead.
#[derive(Debug, Default)]
pub struct Ahead {
    pub(super) state: AheadState,
    /// The bells of its lanes, and then the sockets.
    pub(super) descriptors: Vec<OwnedFd>,
}

/// What a worker is giving.
pub(crate) struct Giving {
    ahead: Ahead,
    lanes: Vec<Key<Lane>>,
    conns: Vec<Key<Conn>>,
    calls: Vec<Key<Call>>,
    asked: Sender<io::Result<Ahead>>,
}

/// What the other process has already.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(super) lanes: HashSet<AheadLane>,
    pub(super) conns: HashSet<u64>,
    /// It was told what was drafted.
    pub(super) drafts: bool,
}

/// What a worker has made of what it got ahead.
pub(crate) struct Ready {
    pub(super) sessions: Vec<NewLanes>,
    /// Lanes on which nothing has happened.
    pub(super) lanes: HashMap<AheadLane, Lane>,
    /// Of conns that have changed, or are not made yet.
    pub(super) socks: HashMap<u64, SockId>,
}

impl Ahead {
    /// What is not given again.
    pub(crate) fn known(&self) -> Known {
        let AheadState { lanes, conns, draft } = &self.state;
        let (lanes, conns) = (lanes.iter().copied().collect(), conns.iter().copied().collect());
        Known { lanes, conns, drafts: draft.is_some() }
    }
}

impl<D: Driver> Worker<D> {
    /// Begins to give what can be given while it works.
    pub(crate) fn give_ahead(&mut self, asked: Sender<io::Result<Ahead>>) {
        let mut ahead = Ahead::default();
        // Of another attempt.
        self.conns.forget_drafts();
        self.calls.forget_drafts();
        self.copied_until = self.driver.now() + COPIED_FOR;
        ahead.state.draft = Some(WorkerState {
            format: FORMAT,
            conn_generations: self.conns.generations(|_| true),
            call_generations: self.calls.generations(|_| true),
            lane_generations: self.lanes.generations(|_| true),
            addresses: self.give_addresses(),
            ..WorkerState::default()
        });
        let (lanes, conns, calls) = (self.lanes.keys(), self.conns.keys(), self.calls.keys());
        self.giving = Some(Giving { ahead, lanes, conns, calls, asked });
        self.moving = true;
    }

    /// Some more of what is given ahead, and of what begins after it was taken.
    #[cold]
    pub(crate) fn move_on(&mut self) {
        self.begin_conns();
        self.give_slice();
        self.moving = self.giving.is_some() || !self.beginning.is_empty();
    }

    /// Gives some more of it, and with the last of it all.
    pub(crate) fn give_slice(&mut self) {
        let Some(mut giving) = self.giving.take() else { return };
        match self.slice(&mut giving) {
            Ok(true) => self.giving = Some(giving),
            Ok(false) => drop(giving.asked.send(Ok(giving.ahead))),
            Err(error) => drop(giving.asked.send(Err(error))),
        }
    }

    /// False: that was the last.
    fn slice(&mut self, giving: &mut Giving) -> io::Result<bool> {
        let Giving { ahead: Ahead { state, descriptors }, lanes, conns, calls, .. } = giving;
        for key in lanes.drain(..) {
            let Some(lane) = self.lanes.get(key) else { continue };
            descriptors.push(lane.bell.as_fd().try_clone_to_owned()?);
            state.lanes.push(AheadLane { session: lane.session, lane: lane.number.into() });
        }
        let draft = state.draft.get_or_insert_default();
        let mut bytes = 0;
        for _ in 0..SLICE {
            if bytes > SLICE_BYTES {
                break;
            }
            if let Some(key) = conns.pop() {
                let Some((given, socket)) = self.give_conn(key, true) else { continue };
                if let Some(socket) = socket {
                    descriptors.push(socket.try_clone_to_owned()?);
                    state.conns.push(key.to_bits());
                }
                if self.conn_can_be_drafted(key) {
                    bytes += given.encoded_len();
                    draft.conns.push(given);
                    self.set_aside(key);
                    self.conns.set_drafted(key);
                }
            } else if let Some(key) = calls.pop() {
                if let Some(given) = self.give_call(key).filter(|_| self.call_can_be_drafted(key)) {
                    bytes += given.encoded_len();
                    draft.calls.push(given);
                    self.calls.set_drafted(key);
                }
            } else {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn set_aside(&mut self, key: Key<Conn>) {
        if let Some(Conn { pipe: Pipe::Socket(sock), .. }) = self.conns.get(key) {
            self.driver.set_aside(*sock);
        }
    }

    /// Whether all that there is to say of a conn changes with itself.
    fn conn_can_be_drafted(&self, key: Key<Conn>) -> bool {
        let Some(conn) = self.conns.get(key).filter(|_| !key.is_last()) else { return false };
        // A Dubbo connection names others, and waits for calls.
        let alone = !matches!(conn.role, Role::DubboDown(_) | Role::DubboUp(_));
        alone && !self.waits_in_driver(conn) && !is_lent(&conn.out)
    }

    /// Whether the driver has something of it that is to be told along with it.
    fn waits_in_driver(&self, conn: &Conn) -> bool {
        let Pipe::Socket(sock) = conn.pipe else { return false };
        let rest = self.driver.at_rest(sock);
        rest.is_none_or(|rest| !rest.arrived.is_empty() || rest.end.is_some() || rest.unsent.is_some())
    }

    /// The worker rests: whether the conn is as it was when it was drafted.
    pub(super) fn conn_is_as_drafted(&self, key: Key<Conn>) -> bool {
        let quiet = |conn: &Conn| !self.waits_in_driver(conn);
        self.conns.is_as_drafted(key) && self.conns.get(key).is_some_and(quiet) && !self.landings_stopped.contains(&key)
    }

    fn call_can_be_drafted(&self, key: Key<Call>) -> bool {
        let Some(call) = self.calls.get(key).filter(|_| !key.is_last()) else { return false };
        let Kind::Exchange(exchange) = &call.kind else { return false };
        let lent = is_lent(&exchange.pending) || exchange.replay.as_ref().is_some_and(is_lent);
        !lent && call.dest.is_none_or(|dest| self.goes_along(dest))
    }

    /// The worker rests: whether the call is as it was when it was drafted.
    pub(super) fn call_is_as_drafted(&self, key: Key<Call>) -> bool {
        let goes_along = |call: &Call| call.dest.is_none_or(|dest| self.goes_along(dest));
        self.calls.is_as_drafted(key) && self.calls.get(key).is_some_and(goes_along)
    }

    /// Makes everything that can be made before the other worker rests. `sessions` are those that have lanes there.
    pub(crate) fn prepare_to_take(&mut self, sessions: Vec<NewLanes>, ahead: Ahead) -> Result<Ready, Refusal> {
        let Ahead { state, descriptors } = ahead;
        if descriptors.len() != state.lanes.len() + state.conns.len() {
            return Err(Refusal::Inconsistent("descriptors ahead of which nothing is said"));
        }
        let mut descriptors = descriptors.into_iter();
        let mut bells: HashMap<AheadLane, OwnedFd> = state.lanes.into_iter().zip(descriptors.by_ref()).collect();
        let mut ready = Ready { sessions, lanes: HashMap::new(), socks: HashMap::new() };
        for new in &ready.sessions {
            for lane in &new.lanes {
                let at = AheadLane { session: new.session, lane: lane.lane.into() };
                if let Some(bell) = bells.remove(&at) {
                    ready.lanes.insert(at, self.new_lane(new, lane.lane, lane.serving, bell));
                }
            }
        }
        for (bits, socket) in state.conns.into_iter().zip(descriptors) {
            let key: Key<Conn> = Key::from_bits(bits);
            ready.socks.insert(bits, self.driver.adopt(socket, Token::Conn(key.to_tag()).tag())?);
        }
        self.take_draft(state.draft.unwrap_or_default(), &mut ready.socks)?;
        Ok(ready)
    }

    /// Conns and calls as they were. What has changed when the other worker rests is put in the place of these.
    fn take_draft(&mut self, draft: WorkerState, socks: &mut HashMap<u64, SockId>) -> Result<(), Refusal> {
        // There is nothing in these tables.
        let _ = (self.conns.begin(&draft.conn_generations), self.calls.begin(&draft.call_generations));
        let _ = self.lanes.begin(&draft.lane_generations);
        // Not those that nobody uses: the other worker may have others in their places by the time that it rests.
        let used: HashSet<u32> = draft.conns.iter().filter_map(address_of).collect();
        let mut addresses = vec![AddressId(u32::MAX); draft.addresses.len()];
        for index in used {
            let text = draft.addresses.get(index as usize);
            let text = text.ok_or(Refusal::Inconsistent("an address that was not told"))?;
            addresses[index as usize] = self.take_address(text)?;
        }
        for conn in draft.conns {
            let key = Key::from_bits(conn.key);
            self.take_conn(conn, &addresses, socks, &mut std::iter::empty(), &mut Leases::new())?;
            let is_quiet = |conn: &Conn| matches!(conn.pipe, Pipe::Socket(_)) && conn.out.is_empty();
            if self.conns.get(key).is_some_and(is_quiet) {
                // The driver does nothing for it as long as nobody polls.
                self.receive_again(key);
            } else {
                self.beginning.push(key);
            }
        }
        for call in draft.calls {
            let (key, deadline) = (Key::from_bits(call.key), call.deadline);
            self.take_call_state(call, &mut Leases::new())?;
            self.set_call_deadline(key, deadline);
        }
        Ok(())
    }

    pub(super) fn new_lane(&self, new: &NewLanes, number: u16, serving: bool, bell: OwnedFd) -> Lane {
        let end = LaneEnd::new(Side::Sidecar, &new.to_proxy, &new.to_app, &new.geometry, number);
        end.touch();
        Lane::new(end, new, number, serving, Bell::new(bell), self.driver.now())
    }
}

/// The index of the address that the conn goes to, if it goes to one.
fn address_of(conn: &ConnState) -> Option<u32> {
    match &conn.role {
        Some(state::Role::HttpUp(up)) => Some(up.address),
        Some(state::Role::DubboUp(up)) => Some(up.address),
        Some(state::Role::RawUp(up)) => Some(up.address),
        _ => None,
    }
}

/// Whether some of it lies in blocks that an app has lent.
fn is_lent(chunks: &Chunks) -> bool {
    chunks.iter().any(|chunk| matches!(chunk, Chunk::Shared(_)))
}
