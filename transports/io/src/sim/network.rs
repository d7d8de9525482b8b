//! The network's state: what happens when, who listens where, how connections begin.

use std::cell::{Cell, RefCell};
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;

use nix::errno::Errno;

use super::connection::{End, EndId, Owner};
use super::faults::{Faults, Link, PPM};
use crate::clock::Random;
use crate::driver::{Nanos, SockId, Target};
use crate::table::Table;
use crate::waker::Waker;

/// TCP asks again after so long when a listener has no room.
const SYN_RETRY: Nanos = 1_000_000_000;

/// What the other drivers do over a Unix socket.
const UNIX_RETRY: Nanos = 1_000_000;

/// The first port that is given to who asks for none.
const PORTS_FROM: u16 = 32_768;

/// Time, readable without a look at the network.
pub(super) struct VirtualClock {
    pub now: Cell<Nanos>,
    /// When something happens next; `Nanos::MAX`: never.
    pub next_at: Cell<Nanos>,
}

/// What a driver and the world know of each other.
pub(super) struct Place {
    pub name: String,
    pub number: u32,
    /// The driver's, as long as there is one: a world keeps no descriptor of those that are gone.
    pub waker: RefCell<Option<Waker>>,
    /// Something is listed, or it was killed.
    pub due: Cell<bool>,
    /// The driver's sockets to which something happened.
    pub listed: RefCell<Vec<SockId>>,
    pub dead: Cell<bool>,
    pub out_of_descriptors: Cell<bool>,
    /// Sockets in the driver's table.
    pub open: Cell<usize>,
}

impl Place {
    pub fn list(&self, sock: SockId) {
        self.listed.borrow_mut().push(sock);
        self.due.set(true);
    }
}

pub(super) type ListenerId = SockId;

pub(super) struct Listener {
    pub at: Target,
    pub owner: Owner,
    /// Connections that wait to be accepted, oldest first.
    pub backlog: VecDeque<EndId>,
    /// Its machine is gone: whoever asks gets no answer.
    pub silent: bool,
}

/// What a placeholder stands for.
#[derive(Copy, Clone)]
pub(super) enum Meant {
    Listener(ListenerId),
    End(EndId),
}

#[derive(Copy, Clone, Debug)]
pub(super) enum Happening {
    /// A connect reaches the address.
    Knock(EndId),
    /// The answer to a connect reaches who asked.
    Answer(EndId, Result<(), Errno>),
    /// The first segment in flight towards an end gets there.
    Arrive(EndId),
    /// An end hears that there is room to send.
    Room(EndId),
    Reset(EndId),
    Silence(EndId),
    /// A driver looks at a socket again.
    Nudge(u32, SockId),
}

struct Due {
    at: Nanos,
    /// Counts up: what was scheduled first happens first.
    order: u64,
    what: Happening,
}

pub(super) struct Net {
    pub clock: Rc<VirtualClock>,
    pub random: Random,
    pub faults: Faults,
    pub tcp: Link,
    pub unix: Link,
    pub ends: Table<End>,
    pub listeners: Table<Listener>,
    pub placeholders: Vec<Meant>,
    pub places: Vec<Rc<Place>>,
    pub fingerprint: u64,
    queue: BinaryHeap<Reverse<Due>>,
    scheduled: u64,
    next_port: u16,
    /// Paths where somebody listened once: their files are still there.
    bound: BTreeSet<PathBuf>,
}

impl Net {
    pub fn new(clock: Rc<VirtualClock>, random: Random) -> Self {
        Self {
            clock,
            random,
            faults: Faults::default(),
            tcp: Link::tcp(),
            unix: Link::unix(),
            ends: Table::new(),
            listeners: Table::new(),
            placeholders: Vec::new(),
            places: Vec::new(),
            fingerprint: 0,
            queue: BinaryHeap::new(),
            scheduled: 0,
            next_port: PORTS_FROM,
            bound: BTreeSet::new(),
        }
    }

    pub fn now(&self) -> Nanos {
        self.clock.now.get()
    }

    pub fn chance(&mut self, ppm: u32) -> bool {
        ppm != 0 && self.random.below(u64::from(PPM)) < u64::from(ppm)
    }

    /// A number of the range, both ends included.
    pub fn between(&mut self, (least, most): (u64, u64)) -> u64 {
        if most <= least { least } else { least + self.random.below(most - least + 1) }
    }

    pub fn link(&self, unix: bool) -> &Link {
        if unix { &self.unix } else { &self.tcp }
    }

    /// How long a segment takes.
    pub fn latency(&mut self, unix: bool) -> Nanos {
        let range = self.link(unix).latency;
        self.between(range)
    }

    /// Lets it happen at that time, or now, if that has come.
    pub fn schedule(&mut self, at: Nanos, what: Happening) {
        if at <= self.now() {
            self.happen(what);
            return;
        }
        self.scheduled += 1;
        self.queue.push(Reverse(Due { at, order: self.scheduled, what }));
        if at < self.clock.next_at.get() {
            self.clock.next_at.set(at);
        }
    }

    /// Moves the clock, and lets happen what is due until then.
    pub fn advance_to(&mut self, time: Nanos) {
        while self.clock.next_at.get() <= time {
            let Some(Reverse(Due { at, what, .. })) = self.queue.pop() else {
                break;
            };
            self.clock.now.set(at);
            self.happen(what);
            let next = self.queue.peek().map_or(Nanos::MAX, |Reverse(due)| due.at);
            self.clock.next_at.set(next);
        }
        if time > self.now() {
            self.clock.now.set(time);
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Knock(end) => self.knock(end),
            Happening::Answer(end, result) => self.answer(end, result),
            Happening::Arrive(end) => self.arrive(end),
            Happening::Room(end) => self.notify(end),
            Happening::Reset(end) => self.strike(end),
            Happening::Silence(end) => self.silence(end),
            Happening::Nudge(place, sock) => self.places[place as usize].list(sock),
        }
    }

    /// Lets a number into the fingerprint of the run.
    pub fn note(&mut self, what: u64) {
        let mixed = (self.fingerprint ^ what ^ self.now()).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.fingerprint = mixed ^ (mixed >> 29);
    }

    /// Tells the owner that something happened to its end.
    pub fn notify(&mut self, id: EndId) {
        if let Some(end) = self.ends.get_mut(id)
            && let Owner::Driver(place, sock) = end.owner
            && !end.listed
        {
            end.listed = true;
            self.places[place as usize].list(sock);
        }
    }

    // How connections begin.

    pub fn listen(&mut self, at: &Target) -> Result<ListenerId, Errno> {
        let mut at = at.clone();
        match &mut at {
            Target::Tcp(addr) if addr.port() == 0 => addr.set_port(self.free_port()),
            Target::Tcp(_) => {}
            Target::Unix(path) => {
                let taken = self.listeners.iter().any(|(_, listener)| listener.at == Target::Unix(path.clone()));
                if taken {
                    return Err(Errno::EADDRINUSE);
                }
                self.bound.insert(path.clone());
            }
        }
        let listener = Listener { at, owner: Owner::Nobody, backlog: VecDeque::new(), silent: false };
        Ok(self.listeners.insert(listener))
    }

    pub fn close_listener(&mut self, id: ListenerId) {
        if let Some(listener) = self.listeners.remove(id) {
            for end in listener.backlog {
                self.close(end, true);
            }
        }
    }

    pub fn accept(&mut self, id: ListenerId) -> Option<EndId> {
        self.listeners.get_mut(id)?.backlog.pop_front()
    }

    pub fn accept_for_actor(&mut self, id: ListenerId) -> Option<EndId> {
        let id = self.accept(id)?;
        if let Some(end) = self.ends.get_mut(id) {
            end.owner = Owner::Actor;
        }
        Some(id)
    }

    fn free_port(&mut self) -> u16 {
        loop {
            let port = self.next_port;
            self.next_port = self.next_port.checked_add(1).unwrap_or(PORTS_FROM);
            let taken = |listener: &Listener| matches!(listener.at, Target::Tcp(addr) if addr.port() == port);
            if !self.listeners.iter().any(|(_, listener)| taken(listener)) {
                return port;
            }
        }
    }

    /// Makes the end that is going to connect; [`knock_first`](Self::knock_first) begins.
    pub fn new_connecting(&mut self, to: &Target, owner: Owner) -> EndId {
        let unix = matches!(to, Target::Unix(_));
        let mut end = End::new(unix, owner, self.draw_window(unix));
        end.connecting = true;
        end.to = Some(to.clone());
        if !unix {
            end.local = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, self.free_port())));
        }
        self.ends.insert(end)
    }

    pub fn knock_first(&mut self, id: EndId) {
        let Some(unix) = self.ends.get(id).map(|end| end.unix) else {
            return;
        };
        if !unix {
            if self.chance(self.faults.connect_lost_ppm) {
                return;
            }
            if self.chance(self.faults.connect_refused_ppm) {
                let at = self.now() + self.latency(unix) + self.latency(unix);
                self.schedule(at, Happening::Answer(id, Err(Errno::ECONNREFUSED)));
                return;
            }
        }
        let at = self.now() + self.latency(unix);
        self.schedule(at, Happening::Knock(id));
    }

    fn knock(&mut self, id: EndId) {
        let Some(End { unix, to: Some(to), local, .. }) = self.ends.get(id) else {
            return;
        };
        let (unix, to, local) = (*unix, to.clone(), *local);
        let back_at = self.now() + self.latency(unix);
        let found: Vec<ListenerId> =
            self.listeners.iter().filter(|(_, l)| reaches(&to, &l.at)).map(|(id, _)| id).collect();
        if found.is_empty() {
            let missing = matches!(&to, Target::Unix(path) if !self.bound.contains(path));
            let errno = if missing { Errno::ENOENT } else { Errno::ECONNREFUSED };
            self.schedule(back_at, Happening::Answer(id, Err(errno)));
            return;
        }
        let chosen = if found.len() == 1 { 0 } else { self.random.below(found.len() as u64) as usize };
        let listener_id = found[chosen];
        let backlog_max = self.link(unix).backlog;
        let window = self.draw_window(unix);
        let Some(listener) = self.listeners.get_mut(listener_id) else {
            return;
        };
        if listener.silent {
            return;
        }
        if listener.backlog.len() >= backlog_max {
            let retry = if unix { UNIX_RETRY } else { SYN_RETRY };
            let at = self.now() + retry;
            self.schedule(at, Happening::Knock(id));
            return;
        }
        let mut server = End::new(unix, Owner::Nobody, window);
        server.peer = Some(id);
        server.remote = local;
        let server = self.ends.insert(server);
        listener.backlog.push_back(server);
        let owner = listener.owner;
        if let Some(end) = self.ends.get_mut(id) {
            end.peer = Some(server);
            // Nothing overtakes the answer.
            end.inbound.last_at = back_at;
        }
        if let Owner::Driver(place, sock) = owner {
            self.places[place as usize].list(sock);
        }
        self.note(1);
        self.foresee(id);
        self.schedule(back_at, Happening::Answer(id, Ok(())));
    }

    /// Decides what is going to happen to a new connection.
    fn foresee(&mut self, id: EndId) {
        let within = self.faults.within;
        if self.chance(self.faults.reset_ppm) {
            let at = self.now() + self.between((1, within));
            self.schedule(at, Happening::Reset(id));
        }
        if self.chance(self.faults.silence_ppm) {
            let at = self.now() + self.between((1, within));
            self.schedule(at, Happening::Silence(id));
        }
    }

    fn answer(&mut self, id: EndId, result: Result<(), Errno>) {
        if let Some(end) = self.ends.get_mut(id) {
            end.connecting = false;
            end.answer = Some(result);
            let what = if result.is_ok() { 2 } else { 3 };
            self.note(what);
            self.notify(id);
        }
    }

    /// Two ends that are connected already.
    pub fn new_pair(&mut self, owners: [Owner; 2]) -> [EndId; 2] {
        let [a, b] = owners.map(|owner| {
            let window = self.draw_window(true);
            self.ends.insert(End::new(true, owner, window))
        });
        for (id, peer) in [(a, b), (b, a)] {
            if let Some(end) = self.ends.get_mut(id) {
                end.peer = Some(peer);
            }
        }
        [a, b]
    }

    fn draw_window(&mut self, unix: bool) -> usize {
        let (least, most) = self.link(unix).window;
        (self.between((least as u64, most as u64)) as usize).max(1)
    }
}

/// Whether a connect to `to` gets to who listens at `at`.
fn reaches(to: &Target, at: &Target) -> bool {
    match (to, at) {
        (Target::Tcp(to), Target::Tcp(at)) => {
            to.port() == at.port() && (to.ip() == at.ip() || at.ip().is_unspecified())
        }
        _ => to == at,
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}
