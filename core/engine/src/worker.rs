//! The worker: one thread, its loop turn, and the tables of plain state that everything else works on.
//!
//! A turn: take what the driver completed, the mail, the records of hot lanes and the timers; each moves some state
//! machine and may put calls into `ready` and conns or lanes into the lists to be flushed. At the turn's end the ready calls are forwarded
//! together, and everything that goes to one destination leaves together. Then, with nothing left to do, wait.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use shmesh_io::{Driver, Event, Nanos, SockId, Wait};
use shmesh_policy::{Protocol, Snapshot};
use shmesh_proto::http1::{HeadLimits, RequestHead, ResponseHead};
use shmesh_shm::{Step, host};

use crate::access_log::AccessLog;
use crate::call::Call;
use crate::conn::{Conn, Finish, Pipe, Role};
use crate::counters::{CallCounters, WorkerCounters};
use crate::date::DateNow;
use crate::dubbo_route::Attachments;
use crate::engine::Sockets;
use crate::handover::{Giving, Handover, Known, RestOrder};
use crate::host::HostState;
use crate::idle::Idle;
use crate::known_front::KnownFronts;
use crate::lane::Lane;
use crate::mailbox::{Mail, Postbox};
use crate::relay::Taken;
use crate::resolve::{HostName, Resolver};
use crate::session::Attached;
use crate::shared::Shared;
use crate::slab::{Key, Slab};
use crate::stages::{Stage, Stages};
use crate::timer::{Owner, Timers};
use crate::token::Token;
use crate::upstream::{Addresses, ClusterState, clusters};

/// While lanes are hot, the driver is asked for events at least this often.
const DRIVER_INTERVAL: Nanos = 10_000;

/// A lane without a record for this long is no longer looked at each turn; its app rings instead.
pub const LANE_COOLS_AFTER: Nanos = 2_000_000;

/// While draining, how long connections are still accepted that had been made before: closing a listener resets them.
const LISTENERS_LINGER: Nanos = 100_000_000;

/// While draining, how long a client that connected and said nothing yet is waited for.
pub const FIRST_REQUEST_GRACE: Nanos = 1_000_000_000;

/// How long an app's or client's peer may take to close after we have said everything.
pub const LINGER: Nanos = 2_000_000_000;

/// A passed-through connection without a byte in either direction is closed after an hour: idle database connections
/// are normal, forgotten ones are not.
pub const RAW_IDLE: Nanos = 3_600_000_000_000;

/// One worker.
pub struct Worker<D: Driver> {
    pub(crate) driver: D,
    pub(crate) shared: Arc<Shared>,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) mail: Postbox,
    pub(crate) resolver: Resolver,
    pub(crate) log: Option<AccessLog>,

    pub(crate) listeners: Vec<Option<ListenerState>>,
    pub(crate) conns: Slab<Conn, true>,
    pub(crate) calls: Slab<Call, true>,
    pub(crate) lanes: Slab<Lane>,
    pub(crate) sessions: HashMap<u64, Attached>,
    /// Serving lanes by the name of their app.
    pub(crate) serving: HashMap<Arc<str>, Key<Lane>>,
    pub(crate) clusters: Vec<ClusterState>,
    pub(crate) addresses: Addresses,
    pub(crate) hosts: HashMap<HostName, HostState>,
    /// How many of them are names of requests.
    pub(crate) named_hosts: usize,

    /// Calls whose destination can take them now.
    pub(crate) ready: Vec<Key<Call>>,
    pub(crate) dirty_conns: Vec<Key<Conn>>,
    pub(crate) dirty_lanes: Vec<Key<Lane>>,
    /// Lanes whose next part was too much for this turn, those that had none of it before those that had.
    pub(crate) deferred: Vec<Key<Lane>>,
    /// How many had none.
    pub(crate) overlooked: usize,
    /// Payload that this turn has put into rings of apps.
    pub(crate) put_bytes: u64,
    /// Something waits for a send that nobody awaited when it began.
    pub(crate) awaits_send: bool,
    /// Conns whose input is to be looked at again.
    pub(crate) revisit: Vec<Key<Conn>>,
    pub(crate) hot: Vec<Key<Lane>>,
    /// Lanes that wait for room in a ring or arena.
    pub(crate) blocked: Vec<Key<Lane>>,
    /// Requests that are about to be relayed.
    pub(crate) taken: Vec<Taken>,
    /// Calls that are relayed, and in no table.
    pub(crate) relayed: usize,
    /// Lanes whose blocks are being sent from where they lie.
    pub(crate) lending: Vec<Key<Lane>>,
    /// It comes to rest, or rests: no block is given to the driver.
    pub(crate) resting: bool,
    /// Conns that receive into blocks.
    pub(crate) landings: usize,
    /// Those that did when the worker came to rest.
    pub(crate) landings_stopped: Vec<Key<Conn>>,
    /// Bytes of records that were read as keys and heads, or taken to be relayed, ever.
    pub(crate) parsed: u64,

    pub(crate) timers: Timers,
    pub(crate) counters: Arc<WorkerCounters>,
    pub(crate) call_counters: CallCounters,
    pub(crate) in_flight: Arc<AtomicU64>,
    /// The worker knows that it drains, and `in_flight` counts accordingly.
    pub(crate) drain_seen: Arc<AtomicBool>,
    pub(crate) downstreams: u32,
    /// Calls that have to do with a socket.
    pub(crate) socket_calls: u32,
    pub(crate) draining: bool,
    listeners_close_at: Nanos,
    stopping: bool,
    /// Another process is about to go on.
    rest_order: Option<(RestOrder<Handover>, Known)>,
    /// Until then another process may have copies of sockets.
    pub(crate) copied_until: Nanos,
    /// Something is in `beginning` or `giving`.
    pub(crate) moving: bool,
    /// Conns that another process had and that have not begun to work here, the next one last.
    pub(crate) beginning: Vec<Key<Conn>>,
    /// What is being given to another process ahead of the rest.
    pub(crate) giving: Option<Giving>,
    pub(crate) idle: Idle,
    pub(crate) stages: Stages,
    pub(crate) date: DateNow,

    // Scratch, kept so that a turn allocates nothing.
    pub(crate) scratch: Vec<u8>,
    pub(crate) fronts: KnownFronts,
    pub(crate) attachments: Attachments,
    pub(crate) head_bytes: Vec<u8>,
    pub(crate) drained: Vec<crate::lane::SlotRef>,
    pub(crate) spare: Vec<shmesh_io::Chunks>,
    pub(crate) request_head: RequestHead,
    pub(crate) response_head: ResponseHead,
    events: Vec<Event>,
    fired: Vec<Owner>,
}

/// A listening socket.
pub(crate) struct ListenerState {
    pub sock: SockId,
    pub protocol: Protocol,
    pub cluster: Option<u32>,
}

/// What a worker is made of.
pub(crate) struct WorkerParts<D: Driver> {
    pub driver: D,
    pub shared: Arc<Shared>,
    pub mail: Postbox,
    pub resolver: Resolver,
    pub log: Option<AccessLog>,
    pub in_flight: Arc<AtomicU64>,
    pub drain_seen: Arc<AtomicBool>,
}

impl<D: Driver> Worker<D> {
    pub(crate) fn new(parts: WorkerParts<D>) -> Worker<D> {
        let WorkerParts { driver, shared, mail, resolver, log, in_flight, drain_seen } = parts;
        let now = driver.now();
        let counters = shared.registry.worker();
        let stages = Stages::new(counters.clone());
        let call_counters = CallCounters::new(shared.registry.clone());
        let mut worker = Worker {
            driver,
            snapshot: Arc::new(Snapshot::default()),
            mail,
            resolver,
            log,
            listeners: Vec::new(),
            conns: Slab::default(),
            calls: Slab::default(),
            lanes: Slab::default(),
            sessions: HashMap::new(),
            serving: HashMap::new(),
            clusters: Vec::new(),
            addresses: Addresses::default(),
            hosts: HashMap::new(),
            named_hosts: 0,
            ready: Vec::new(),
            dirty_conns: Vec::new(),
            dirty_lanes: Vec::new(),
            deferred: Vec::new(),
            overlooked: 0,
            put_bytes: 0,
            awaits_send: false,
            revisit: Vec::new(),
            hot: Vec::new(),
            blocked: Vec::new(),
            taken: Vec::new(),
            relayed: 0,
            lending: Vec::new(),
            resting: false,
            landings: 0,
            landings_stopped: Vec::new(),
            parsed: 0,
            timers: Timers::new(now),
            counters,
            call_counters,
            in_flight,
            drain_seen,
            downstreams: 0,
            socket_calls: 0,
            draining: false,
            listeners_close_at: 0,
            stopping: false,
            rest_order: None,
            copied_until: 0,
            beginning: Vec::new(),
            giving: None,
            moving: false,
            idle: Idle::new(now),
            stages,
            date: DateNow::default(),
            scratch: Vec::new(),
            fronts: KnownFronts::default(),
            attachments: Attachments::default(),
            head_bytes: Vec::new(),
            drained: Vec::new(),
            spare: Vec::new(),
            request_head: RequestHead::default(),
            response_head: ResponseHead::default(),
            events: Vec::new(),
            fired: Vec::new(),
            shared,
        };
        worker.take_snapshot();
        worker
    }

    /// Listens on these sockets, by listener.
    pub(crate) fn listen(&mut self, sockets: Sockets) -> io::Result<()> {
        for (index, (socket, listener)) in sockets.into_iter().zip(&self.snapshot.listeners).enumerate() {
            let (protocol, cluster) = (listener.protocol, listener.cluster.map(|cluster| cluster.0));
            self.listeners.push(match socket {
                Some(socket) => {
                    let sock = self.driver.listen(socket, Token::Listener(index).tag())?;
                    Some(ListenerState { sock, protocol, cluster })
                }
                None => None,
            });
        }
        Ok(())
    }

    /// Runs until told to stop.
    pub(crate) fn run(mut self) -> io::Result<()> {
        while self.turn()? == Turn::GoOn {
            while let Some((order, known)) = self.rest_order.take() {
                self.rest(&order, &known)?;
            }
        }
        Ok(())
    }

    /// One turn: everything that is there is handled once; with nothing there, it waits a little, or parks in the driver.
    pub(crate) fn turn(&mut self) -> io::Result<Turn> {
        if self.hot.is_empty() && self.revisit.is_empty() && self.deferred.is_empty() {
            // Nothing to look at but what the driver brings.
            return self.parked_turn();
        }
        // Hot lanes are looked at each turn, the driver when sockets are busy, or else now and then.
        let mut worked = !self.revisit.is_empty() || !self.deferred.is_empty();
        let asked = self.idle.asked;
        if !self.idle.waiting || self.socket_calls > 0 || self.driver.now().saturating_sub(asked) >= DRIVER_INTERVAL {
            worked |= self.drive(Wait::Now)?;
            self.idle.asked = self.driver.now();
        }
        worked |= self.lanes_ingress();
        self.stages.mark(Stage::Ingress);
        if self.end_of_turn() == Turn::Stop {
            return Ok(Turn::Stop);
        }
        // Parts that are left for the next turn: nobody rings for those.
        worked |= !self.deferred.is_empty();
        let now = self.driver.refresh_clock();
        self.stages.turn_over(worked);
        if worked {
            self.idle.found(now);
            self.rouse_load();
            return Ok(Turn::GoOn);
        }
        self.counters.spun.add(self.idle.nothing_for(now));
        self.idle.look_at_quota(now, || self.shared.registry.worker_count());
        match self.idle.step(now, self.calls_in_flight() > 0) {
            Step::Pause => host::spin(),
            Step::Yield => host::yield_now(),
            // All lanes that could be parked are cold now, so the driver is the one to wait in.
            Step::Park if self.park_lanes() => return self.parked_turn(),
            Step::Park => {}
        }
        Ok(Turn::GoOn)
    }

    /// A turn that waits in the driver for as long as nothing happens.
    fn parked_turn(&mut self) -> io::Result<Turn> {
        self.counters.parks.add(1);
        let wait = self.next_wake();
        self.drive(wait)?;
        let now = self.driver.now();
        self.idle.asked = now;
        self.idle.woken(now);
        self.lanes_ingress();
        self.stages.mark(Stage::Ingress);
        let turn = self.end_of_turn();
        self.stages.turn_over(true);
        self.rouse_load();
        Ok(turn)
    }

    /// Something was done, and who looks after the load is to know.
    fn rouse_load(&mut self) {
        if std::mem::take(&mut self.idle.stirred) {
            self.shared.load.rouse();
        }
    }

    /// One poll of the driver, and everything that came of it.
    pub(crate) fn drive(&mut self, wait: Wait) -> io::Result<bool> {
        let mut events = std::mem::take(&mut self.events);
        self.awaits_send = false;
        self.driver.poll(wait, &mut events)?;
        self.stages.mark(if wait == Wait::Now { Stage::Driver } else { Stage::Parked });
        let worked = !events.is_empty();
        // Mail first: what was posted before an event was caused is known when the event is handled. (An app that has attached is
        // called at once.)
        self.take_mail();
        for event in events.drain(..) {
            self.handle(event);
        }
        self.stages.mark(Stage::Driver);
        self.events = events;
        Ok(worked)
    }

    /// What every turn ends with: mail, timers, forwarding, flushing.
    #[inline(never)]
    pub(crate) fn end_of_turn(&mut self) -> Turn {
        if self.shared.version.load(Ordering::Acquire) != self.snapshot.version {
            self.take_snapshot();
        }
        self.take_mail();
        if self.stopping {
            return Turn::Stop;
        }
        self.fire_timers();
        self.close_listeners();
        if self.moving {
            self.move_on();
        }
        for _ in 0..2 {
            let mut again = std::mem::take(&mut self.revisit);
            for key in again.drain(..) {
                self.conn_input(key);
            }
            if self.revisit.is_empty() {
                self.revisit = again;
                break;
            }
        }
        self.stages.mark(Stage::Driver);
        self.begin_flush();
        loop {
            self.forward_ready();
            self.stages.mark(Stage::Dispatch);
            self.flush_conns();
            self.flush_lanes();
            self.stages.mark(Stage::Egress);
            // A slot that became free while flushing may have been waited for.
            if self.ready.is_empty() {
                break;
            }
        }
        self.in_flight.store(self.busy(), Ordering::Relaxed);
        if self.draining {
            self.drain_seen.store(true, Ordering::Release);
        }
        Turn::GoOn
    }

    fn handle(&mut self, event: Event) {
        self.idle.stirred |= !matches!(event, Event::Rung { .. } | Event::Woken);
        match event {
            Event::Accepted { tag, sock, peer } => {
                if let Token::Listener(index) = Token::of(tag) {
                    self.accepted(index, sock, peer);
                } else {
                    self.driver.close(sock);
                }
            }
            Event::AcceptPaused { tag, error } => self.accept_paused(tag, &error),
            Event::Connected { tag, sock, result } => {
                if let Some(key) = self.conn_of(tag, sock) {
                    self.connected(key, result);
                }
            }
            Event::Received { tag, sock, data } => {
                if let Some(key) = self.conn_of(tag, sock) {
                    self.conn_received(key, data);
                }
            }
            // No block is given to the driver.
            Event::Landed { tag, sock, block, len } => {
                if let Some(key) = self.conn_of(tag, sock) {
                    self.landed(key, block, len);
                }
            }
            Event::Ended { tag, sock, error } => match Token::of(tag) {
                Token::Conn(_) => {
                    if let Some(key) = self.conn_of(tag, sock) {
                        self.conn_ended(key, error);
                    }
                }
                Token::Listener(index) => {
                    tracing::error!(
                        listener = index,
                        ?error,
                        "a listener failed; no more connections are accepted on it"
                    );
                }
                Token::Session(_) | Token::None => {}
            },
            Event::Sent { tag, sock, result, chunks } => {
                if let Some(key) = self.conn_of(tag, sock) {
                    self.conn_sent(key, result, chunks);
                }
            }
            Event::Rung { tag } => {
                if let Token::Session(session) = Token::of(tag) {
                    self.session_rung(session);
                }
            }
            Event::Woken => {}
        }
    }

    /// The conn that an event is about, unless it is gone.
    fn conn_of(&self, tag: u64, sock: SockId) -> Option<Key<Conn>> {
        let Token::Conn(key) = Token::of(tag) else { return None };
        let key = self.conns.tagged(key)?;
        let conn = self.conns.get(key)?;
        (conn.pipe == Pipe::Socket(sock)).then_some(key)
    }

    fn take_mail(&mut self) {
        while let Some(mail) = self.mail.take() {
            match mail {
                Mail::Attach(lanes) => self.attach(*lanes),
                Mail::Detach { session } => self.detach(session),
                Mail::Resolved(answer) => self.resolved(answer),
                Mail::Ahead(asked) => self.give_ahead(asked),
                Mail::Rest(order, known) => self.rest_order = Some((order, known)),
                Mail::Drain => self.drain(),
                Mail::Stop => self.stopping = true,
            }
        }
    }

    /// Say so to clients that keep connections, and close the listeners, once what waits in their queues was accepted.
    fn drain(&mut self) {
        self.draining = true;
        self.listeners_close_at = self.driver.now() + LISTENERS_LINGER;
        for key in self.conns.keys() {
            self.drain_conn(key);
        }
    }

    fn close_listeners(&mut self) {
        if !self.draining || self.driver.now() < self.listeners_close_at {
            return;
        }
        for listener in self.listeners.iter_mut() {
            if let Some(state) = listener.take() {
                self.driver.close(state.sock);
            }
        }
    }

    fn calls_in_flight(&self) -> usize {
        self.calls.len() + self.relayed
    }

    /// What is not finished: calls, and while draining also answers that have not left, heads that have begun, and clients
    /// that connected and have had no chance yet to say anything.
    fn busy(&self) -> u64 {
        let calls = self.calls_in_flight() as u64;
        if !self.draining {
            return calls;
        }
        let conns = self.conns.keys().into_iter().filter_map(|key| self.conns.get(key));
        let unfinished = conns.filter(|conn| match &conn.role {
            Role::HttpDown(down) => conn.unsent() > 0 || down.head_started || !down.served,
            Role::DubboDown(_) | Role::RawDown(_) => conn.unsent() > 0,
            _ => false,
        });
        let lanes = self.lanes.keys().into_iter().filter_map(|key| self.lanes.get(key));
        let unread = lanes.filter(|lane| !lane.queue.is_empty());
        let accepting = self.listeners.iter().any(Option::is_some);
        calls + unfinished.count() as u64 + unread.count() as u64 + u64::from(accepting)
    }

    /// How long the driver may wait. Not at all while something is left for the next turn: room that an app made without a ring is found
    /// by the flush that ends a turn, and what that flush makes possible nobody would wake us for.
    fn next_wake(&self) -> Wait {
        let lanes = self.dirty_lanes.len() + self.deferred.len();
        if lanes + self.revisit.len() + self.ready.len() + self.dirty_conns.len() > 0
            || self.has_returns()
            || self.awaits_send
            || self.moving
        {
            return Wait::Now;
        }
        let timer = self.timers.next();
        let listeners =
            (self.draining && self.listeners.iter().any(Option::is_some)).then_some(self.listeners_close_at);
        match (timer, listeners) {
            (None, None) => Wait::Forever,
            (Some(at), None) | (None, Some(at)) => Wait::Until(at),
            (Some(a), Some(b)) => Wait::Until(a.min(b)),
        }
    }

    fn take_snapshot(&mut self) {
        let snapshot = self.shared.snapshot.load_full();
        for key in self.lanes.keys() {
            self.unlink_all(key);
        }
        // The index of a call's cluster means something in its own snapshot only.
        for key in self.calls.keys() {
            if let Some(call) = self.calls.get_mut(key) {
                let old = self.snapshot.clusters.get(call.cluster as usize);
                let new = old.and_then(|cluster| snapshot.cluster_named(&cluster.name));
                call.cluster = new.map_or(u32::MAX, |id| id.0);
            }
        }
        if snapshot.dns != self.snapshot.dns {
            self.hosts.values_mut().for_each(HostState::expire);
        }
        let (addresses, registry, driver) = (&mut self.addresses, &self.shared.registry, &mut self.driver);
        addresses.begin_snapshot();
        let new = clusters(&snapshot, |target| addresses.intern(target, registry), || driver.random());
        let old = std::mem::replace(&mut self.clusters, new);
        for (state, listener) in self.listeners.iter_mut().zip(&snapshot.listeners) {
            if let Some(state) = state {
                state.cluster = listener.cluster.map(|cluster| cluster.0);
            }
        }
        self.stages.set(snapshot.stages);
        self.idle.configure(snapshot.max_spin, self.shared.registry.worker_count());
        let before = std::mem::replace(&mut self.snapshot, snapshot.clone());
        self.inherit_outliers(old, |index| snapshot.cluster_named(&before.clusters.get(index)?.name).map(|id| id.0));
        self.call_counters.snapshot_changed();
    }

    fn fire_timers(&mut self) {
        let now = self.driver.now();
        let mut fired = std::mem::take(&mut self.fired);
        self.timers.expire(now, &mut fired);
        for owner in fired.drain(..) {
            match owner {
                Owner::Conn(index) => {
                    if let Some(key) = self.conns.key_at(index as usize) {
                        self.conn_timer(key, now);
                    }
                }
                Owner::Lane(index) => {
                    if let Some(key) = self.lanes.key_at(index as usize) {
                        self.lane_timer(key, now);
                        self.relays_timer(key, now);
                    }
                }
                Owner::Call(index) => {
                    if let Some(key) = self.calls.key_at(index as usize) {
                        self.call_timer(key, now);
                    }
                }
                Owner::Cluster(index) => self.cluster_timer(index, now),
            }
        }
        self.fired = fired;
    }

    /// Sets when a conn gives up.
    pub(crate) fn set_conn_deadline(&mut self, key: Key<Conn>, at: Nanos) {
        if let Some(conn) = self.conns.get_mut(key) {
            conn.deadline = at;
            if at != Nanos::MAX {
                self.timers.arm(Owner::Conn(key.index() as u32), at);
            }
        }
    }

    /// Sets when a call times out.
    #[inline]
    pub(crate) fn set_call_deadline(&mut self, key: Key<Call>, at: Nanos) {
        if let Some(call) = self.calls.get_mut(key) {
            call.deadline = at.min(call.hard_deadline);
            let at = call.deadline;
            if at != Nanos::MAX {
                self.timers.arm(Owner::Call(key.index() as u32), at);
            }
        }
    }

    /// Takes a call out of the table.
    pub(crate) fn take_call(&mut self, key: Key<Call>) -> Option<Call> {
        let call = self.calls.remove(key)?;
        if call.on_socket {
            self.socket_calls -= 1;
        }
        Some(call)
    }

    /// The call has to do with a socket: the driver is asked each turn while there are such.
    pub(crate) fn note_socket(&mut self, key: Key<Call>) {
        if let Some(call) = self.calls.get_mut(key)
            && !call.on_socket
        {
            call.on_socket = true;
            self.socket_calls += 1;
        }
    }

    pub(crate) fn head_limits(&self) -> HeadLimits {
        head_limits(&self.snapshot)
    }

    /// Adds a connection to the table.
    pub(crate) fn new_conn(&mut self, conn: Conn) -> Key<Conn> {
        let pipe = conn.pipe;
        let key = self.conns.insert(conn);
        if let Pipe::Socket(sock) = pipe {
            self.driver.set_tag(sock, Token::Conn(key.to_tag()).tag());
        }
        key
    }

    /// Puts a conn on the list of those to flush.
    pub(crate) fn touch_conn(&mut self, key: Key<Conn>) {
        if let Some(conn) = self.conns.get_mut(key)
            && !conn.listed
        {
            conn.listed = true;
            self.dirty_conns.push(key);
        }
    }

    /// Puts a lane on the list of those to flush.
    pub(crate) fn touch_lane(&mut self, key: Key<Lane>) {
        if let Some(lane) = self.lanes.get_mut(key)
            && !lane.listed
        {
            lane.listed = true;
            self.dirty_lanes.push(key);
        }
    }

    /// Everything is said on this conn.
    pub(crate) fn finish_conn(&mut self, key: Key<Conn>, finish: Finish) {
        if let Some(conn) = self.conns.get_mut(key) {
            conn.finish = finish;
            let over = conn.ended && conn.write_ended && conn.out.is_empty();
            if over && finish == Finish::Close && matches!(conn.pipe, Pipe::Stream(_)) {
                // Not at the end of the turn: the stream's slot may be opened again by the app's next record.
                self.drop_conn(key);
                return;
            }
        }
        self.touch_conn(key);
    }
}

/// The codec's part of the limits.
pub(crate) fn head_limits(snapshot: &Snapshot) -> HeadLimits {
    let limits = &snapshot.limits;
    HeadLimits { head_bytes: limits.head_bytes, start_line_bytes: limits.start_line_bytes, headers: limits.headers }
}

/// Whether the worker goes on.
#[derive(PartialEq, Eq)]
pub(crate) enum Turn {
    GoOn,
    Stop,
}
