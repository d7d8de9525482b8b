//! Bytes in and out of conns: accepting, receiving, sending, closing. What the bytes mean is decided elsewhere, by role.

use std::io;

use shmesh_io::{Chunk, Chunks, Driver, Nanos, PeerAddr, Slice, SockId, Tag};
use shmesh_policy::Protocol;

use crate::call::{Failure, Kind, Peer};
use crate::conn::{Conn, DubboDown, Finish, HttpDown, Pipe, RawDown, Role};
use crate::dubbo_own::Own;
use crate::frame::FrameReader;
use crate::slab::Key;
use crate::token::Token;
use crate::worker::{FIRST_REQUEST_GRACE, LINGER, RAW_IDLE, Worker};

/// Bytes that are handed to the driver at once; it tells when all of them left.
pub(crate) const BATCH_MAX: usize = 64 * 1024;

/// A send may go unawaited if it is no longer than this: what waits behind such a one never makes its source pause.
const UNAWAITED_MAX: usize = 16 * 1024;

impl<D: Driver> Worker<D> {
    /// A client connected to listener `index`.
    pub(crate) fn accepted(&mut self, index: usize, sock: SockId, peer: PeerAddr) {
        let Some(Some(listener)) = self.listeners.get(index) else {
            self.driver.close(sock);
            return;
        };
        if self.downstreams >= self.snapshot.limits.connections_per_worker {
            self.counters.over_limit.add(1);
            self.driver.close(sock);
            return;
        }
        let (protocol, cluster) = (listener.protocol, listener.cluster);
        self.counters.accepted.add(1);
        let conn = self.new_downstream(Pipe::Socket(sock), protocol, index as u16, cluster);
        if let PeerAddr::Tcp(address) = peer
            && let Some(Conn { role: Role::HttpDown(down), .. }) = self.conns.get_mut(conn)
        {
            down.address = Some(address.ip().to_canonical());
        }
    }

    /// Who connects to a listener waits.
    #[cold]
    pub(crate) fn accept_paused(&mut self, tag: Tag, error: &io::Error) {
        if self.shared.registry.exhausted_anew("accept") {
            let Token::Listener(index) = Token::of(tag) else { return };
            let listener = self.snapshot.listeners.get(index).map_or("", |listener| &listener.name);
            tracing::warn!(listener, %error, "connections cannot be accepted, and wait");
        }
    }

    /// A client's byte stream, by socket or lane, begins.
    pub(crate) fn new_downstream(
        &mut self,
        pipe: Pipe,
        protocol: Protocol,
        listener: u16,
        cluster: Option<u32>,
    ) -> Key<Conn> {
        let now = self.driver.now();
        let role = match protocol {
            Protocol::Http => Role::HttpDown(HttpDown {
                listener,
                address: None,
                call: None,
                body: None,
                keep_alive: true,
                old: false,
                head_started: false,
                served: false,
            }),
            Protocol::Dubbo => {
                let (frames, own) = (FrameReader::default(), Own::default());
                Role::DubboDown(DubboDown { listener, frames, waiting: 0, extended: false, own })
            }
            Protocol::Raw => Role::RawDown(RawDown { call: None }),
        };
        self.downstreams += 1;
        let key = self.new_conn(Conn::new(pipe, role, now));
        self.start_recv(key);
        if protocol == Protocol::Raw {
            self.raw_begin(key, listener, cluster);
        } else {
            let idle = if self.draining { FIRST_REQUEST_GRACE } else { self.idle_for(key) };
            self.set_conn_deadline(key, now + idle);
        }
        key
    }

    /// Bytes arrived.
    pub(crate) fn conn_received(&mut self, key: Key<Conn>, data: Slice) {
        let now = self.driver.now();
        let Some(conn) = self.conns.get_mut(key) else { return };
        // What comes behind the last answer is no reason to wait longer for that to be taken.
        if conn.finish != Finish::Close {
            conn.active = now;
        }
        if conn.input.is_empty() {
            conn.input = data;
        } else {
            let mut joined = Vec::with_capacity(conn.input.len() + data.len());
            joined.extend_from_slice(conn.input.as_slice());
            joined.extend_from_slice(data.as_slice());
            conn.input = Slice::from_vec(joined);
        }
        self.conn_input(key);
    }

    /// Looks at what was received, by role.
    pub(crate) fn conn_input(&mut self, key: Key<Conn>) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        match &mut conn.role {
            Role::HttpDown(_) => self.http_down_input(key),
            Role::HttpUp(_) => self.http_up_input(key),
            Role::DubboDown(_) => self.dubbo_down_input(key),
            Role::DubboUp(_) => self.dubbo_up_input(key),
            Role::RawDown(_) => self.raw_down_input(key),
            Role::RawUp(_) => self.raw_up_input(key),
            Role::Lingering => conn.input = Slice::empty(),
        }
    }

    /// The peer sends no more, in order (`None`) or not.
    pub(crate) fn conn_ended(&mut self, key: Key<Conn>, error: Option<io::Error>) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.ended = true;
        conn.receiving = false;
        let broken = error.is_some();
        match &conn.role {
            Role::HttpDown(_) => self.http_down_ended(key, broken),
            Role::HttpUp(_) => self.http_up_ended(key, broken),
            Role::DubboDown(_) => self.dubbo_down_ended(key, broken),
            Role::DubboUp(_) => self.dubbo_up_lost(key),
            Role::RawDown(_) => self.raw_down_ended(key, broken),
            Role::RawUp(_) => self.raw_up_ended(key, broken),
            Role::Lingering => self.drop_conn(key),
        }
    }

    /// A send ended.
    pub(crate) fn conn_sent(&mut self, key: Key<Conn>, result: io::Result<u64>, chunks: Chunks) {
        let now = self.driver.now();
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.sending = 0;
        if !conn.unawaited {
            conn.active = now;
        }
        if conn.out.is_empty() {
            // Its memory is used again.
            conn.out = chunks;
        }
        match result {
            Ok(_) => {
                let drained = conn.unsent() == 0;
                conn.behind = !drained;
                let stays = conn.finish == Finish::Stay;
                if self.raw_end_is_due(key) {
                    return self.raw_up_ended(key, false);
                }
                if !stays || !drained {
                    self.touch_conn(key);
                }
                if drained {
                    self.conn_drained(key);
                }
            }
            Err(error) => self.conn_send_failed(key, &error),
        }
    }

    /// Everything left that was to be sent: whoever feeds this conn may go on.
    pub(crate) fn conn_drained(&mut self, key: Key<Conn>) {
        let Some(conn) = self.conns.get(key) else { return };
        let Some(call) = conn.call() else {
            if matches!(conn.role, Role::DubboUp(_)) {
                return self.dubbo_retire(key);
            }
            // A client that did not take its answers was not read from either.
            if matches!(conn.role, Role::HttpDown(_) | Role::DubboDown(_)) && conn.finish == Finish::Stay {
                if !conn.input.is_empty() {
                    self.revisit.push(key);
                }
                self.start_recv(key);
                self.dubbo_resume_own(key);
            }
            return;
        };
        let Some(call) = self.calls.get(call) else { return };
        let source = if call.dest == Some(Peer::Conn(key)) { Some(call.origin) } else { call.dest };
        if let Some(source) = source {
            self.resume_source(source);
        }
    }

    fn conn_send_failed(&mut self, key: Key<Conn>, error: &io::Error) {
        tracing::debug!(?key, %error, "a send failed");
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.out.clear();
        match &mut conn.role {
            // What it still has to say may be an answer that explains: read on until it ends.
            Role::HttpUp(up) if up.call.is_some() && !conn.ended => up.broken = true,
            Role::HttpUp(_) => self.http_up_ended(key, true),
            Role::HttpDown(_) => self.http_down_ended(key, true),
            Role::DubboDown(_) => self.dubbo_down_ended(key, true),
            Role::DubboUp(_) => self.dubbo_up_lost(key),
            Role::RawDown(_) => self.raw_down_ended(key, true),
            Role::RawUp(_) => self.raw_up_ended(key, true),
            Role::Lingering => self.drop_conn(key),
        }
    }

    /// Hands everything that waits to the driver, or to the lane that carries the stream.
    pub(crate) fn flush_conns(&mut self) {
        let mut list = std::mem::take(&mut self.dirty_conns);
        for key in list.drain(..) {
            self.flush_conn(key);
        }
        if self.dirty_conns.is_empty() {
            self.dirty_conns = list;
        }
    }

    fn flush_conn(&mut self, key: Key<Conn>) {
        let (now, draining) = (self.driver.now(), self.draining);
        let leaving = self.dubbo_is_leaving(key);
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.listed = false;
        match conn.pipe {
            Pipe::Socket(sock) => {
                if conn.sending > 0 {
                    // There is something to do now when that has left.
                    self.awaits_send |= conn.unawaited;
                    return;
                }
                if matches!(&conn.role, Role::DubboUp(up) if !up.turns.is_empty()) {
                    self.dubbo_next_frames(key);
                }
                let Some(conn) = self.conns.get_mut(key) else { return };
                if !conn.out.is_empty() {
                    let chunks = next_batch(&mut conn.out);
                    conn.sending = chunks.len_bytes() as u64;
                    conn.unawaited = !draining && !leaving && nothing_follows(conn, &chunks);
                    conn.flushes += 1;
                    if let Role::HttpUp(up) = &mut conn.role {
                        up.sent = true;
                    }
                    if conn.unawaited {
                        conn.active = now;
                        self.driver.send_unawaited(sock, chunks);
                    } else {
                        self.driver.send(sock, chunks);
                    }
                    return;
                }
                if conn.finish != Finish::Stay && !conn.write_ended {
                    conn.write_ended = true;
                    self.driver.shutdown_write(sock);
                }
            }
            Pipe::Stream(at) => {
                let Some(lane) = self.lanes.get_mut(at.lane) else { return };
                let Some(slot) = lane.slot_mut(at) else { return };
                if !conn.out.is_empty() {
                    conn.flushes += 1;
                    // An app that takes nothing has its source paused before long: then nothing comes here any more.
                    conn.active = self.driver.now();
                }
                slot.out.append(&mut conn.out);
                if conn.finish != Finish::Stay && !conn.write_ended {
                    conn.write_ended = true;
                    slot.end = true;
                }
                if slot.has_output() {
                    lane.enqueue(at.slot);
                    self.touch_lane(at.lane);
                }
            }
        }
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.finish == Finish::Close && conn.write_ended {
            if conn.ended {
                self.drop_conn(key);
            } else {
                self.linger(key);
            }
        }
    }

    /// Waits for the peer to close, taking and dropping what it sends: closing at once would reset the connection and could
    /// take our last words with it (RFC 9112 §9.6).
    fn linger(&mut self, key: Key<Conn>) {
        let now = self.driver.now();
        let Some(conn) = self.conns.get_mut(key) else { return };
        if matches!(conn.role, Role::Lingering) {
            return;
        }
        conn.input = Slice::empty();
        let role = std::mem::replace(&mut conn.role, Role::Lingering);
        self.end_role(key, role);
        self.start_recv(key);
        self.set_conn_deadline(key, now + LINGER);
    }

    /// Receives again, unless the peer has ended.
    pub(crate) fn start_recv(&mut self, key: Key<Conn>) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.ended {
            return;
        }
        match conn.pipe {
            Pipe::Socket(_) if conn.receiving => {}
            Pipe::Socket(sock) => {
                conn.receiving = true;
                self.driver.start_recv(sock);
            }
            Pipe::Stream(at) => {
                if self.stream_has_room(key) {
                    self.grant(at);
                }
            }
        }
    }

    /// Takes nothing more for now.
    pub(crate) fn stop_recv(&mut self, key: Key<Conn>) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if !conn.receiving {
            return;
        }
        conn.receiving = false;
        if let Pipe::Socket(sock) = conn.pipe {
            self.driver.stop_recv(sock);
            // With its block.
            self.end_landing(key);
        }
    }

    /// A sink has room again: its source may go on.
    pub(crate) fn resume_source(&mut self, source: Peer) {
        match source {
            // An HTTP client that has sent its request waits; what follows is another request.
            Peer::Conn(key)
                if matches!(
                    self.conns.get(key).map(|conn| &conn.role),
                    Some(Role::HttpDown(down)) if down.call.is_some() && down.body.is_none()
                ) => {}
            Peer::Conn(key) => self.start_recv(key),
            Peer::Slot(at) => self.grant(at),
        }
    }

    /// Whether a stream's bytes go on at once, so that its app may send more.
    pub(crate) fn stream_has_room(&self, key: Key<Conn>) -> bool {
        let Some(conn) = self.conns.get(key) else { return false };
        let Some(call) = conn.call().and_then(|call| self.calls.get(call)) else { return true };
        if matches!(&conn.role, Role::HttpDown(down) if down.body.is_none()) {
            return conn.input.is_empty();
        }
        let pending = match &call.kind {
            Kind::Exchange(exchange) => exchange.pending.len_bytes() as u64,
            Kind::Dubbo(_) => 0,
        };
        pending + call.dest.map_or(0, |dest| self.backlog(dest)) < self.backlog_max()
    }

    /// A sink is full: its source has to wait. A lane's slot is simply not given credit.
    pub(crate) fn pause_source(&mut self, source: Peer) {
        if let Peer::Conn(key) = source
            && let Some(Conn { pipe: Pipe::Socket(_), .. }) = self.conns.get(key)
        {
            self.stop_recv(key);
        }
    }

    /// Bytes that wait in a sink.
    pub(crate) fn backlog(&self, sink: Peer) -> u64 {
        match sink {
            Peer::Conn(key) => match self.conns.get(key) {
                Some(Conn { pipe: Pipe::Stream(at), out, .. }) => out.len_bytes() as u64 + self.slot_backlog(*at),
                Some(conn) => conn.unsent(),
                None => 0,
            },
            Peer::Slot(at) => self.slot_backlog(at),
        }
    }

    fn slot_backlog(&self, at: crate::lane::SlotRef) -> u64 {
        let Some(slot) = self.lanes.get(at.lane).and_then(|lane| lane.slots.get(at.slot as usize)) else { return 0 };
        if slot.generation == at.generation { slot.out.len_bytes() as u64 } else { 0 }
    }

    /// A client has so many answers to take that nothing more is read from it; true if so.
    pub(crate) fn client_is_behind(&mut self, key: Key<Conn>) -> bool {
        let behind = self.backlog(Peer::Conn(key)) >= self.backlog_max();
        if behind {
            self.stop_recv(key);
        }
        behind
    }

    /// Bytes that may wait in a sink before its source is paused.
    pub(crate) fn backlog_max(&self) -> u64 {
        u64::from(self.snapshot.limits.buffered_bytes_per_connection)
    }

    /// Forgets a conn and closes what carries it.
    pub(crate) fn drop_conn(&mut self, key: Key<Conn>) {
        self.remove_conn(key, false);
    }

    /// Forgets a conn and tells its peer that something is missing.
    pub(crate) fn cut_conn(&mut self, key: Key<Conn>) {
        self.remove_conn(key, true);
    }

    fn remove_conn(&mut self, key: Key<Conn>, cut: bool) {
        self.end_landing(key);
        let Some(conn) = self.conns.remove(key) else { return };
        self.end_role(key, conn.role);
        if let Pipe::Socket(sock) = conn.pipe
            && self.driver.now() < self.copied_until
        {
            // The other process's copy would keep the connection open.
            self.driver.sever(sock, cut);
        }
        match conn.pipe {
            Pipe::Socket(sock) if cut => self.driver.close_reset(sock),
            Pipe::Socket(sock) => self.driver.close(sock),
            Pipe::Stream(at) => self.end_stream(at, cut),
        }
    }

    /// What others know of a conn that does no more what its role says.
    fn end_role(&mut self, key: Key<Conn>, role: Role) {
        if is_downstream(&role) {
            self.downstreams -= 1;
        }
        match role {
            Role::HttpUp(up) => {
                let address = self.addresses.get(up.address);
                address.idle.retain(|&idle| idle != key);
                address.lost(key, up.connected);
            }
            Role::DubboUp(up) => {
                let address = self.addresses.get(up.address);
                address.dubbo.retain(|&shared| shared != key);
                address.lost(key, up.connected);
                if let Some(Conn { role: Role::DubboDown(down), .. }) =
                    up.consumer.and_then(|consumer| self.conns.get_mut(consumer))
                {
                    down.own.lost(key);
                }
            }
            Role::DubboDown(down) => self.dubbo_leave_own(down.own),
            Role::RawUp(up) => self.addresses.get(up.address).lost(key, up.connected),
            Role::HttpDown(_) | Role::RawDown(_) | Role::Lingering => {}
        }
    }

    /// A conn's timer fired.
    pub(crate) fn conn_timer(&mut self, key: Key<Conn>, now: Nanos) {
        let Some(conn) = self.conns.get(key) else { return };
        if conn.deadline > now {
            self.set_conn_deadline(key, conn.deadline);
            return;
        }
        let idle_until = conn.active + self.idle_for(key);
        let conn = &self.conns.get(key).map(|conn| (&conn.role, conn.unsent(), conn.finish == Finish::Stay));
        let Some((role, unsent, stays)) = conn else { return };
        match role {
            Role::HttpUp(up) if !up.connected => self.connect_timed_out(key),
            Role::DubboUp(up) if !up.connected => self.connect_timed_out(key),
            Role::RawUp(up) if !up.connected => self.connect_timed_out(key),
            Role::Lingering => self.drop_conn(key),
            // Once everything is said, only taking it counts.
            Role::HttpDown(down) if *stays && down.call.is_none() && down.head_started => {
                self.counters.http_malformed.add(1);
                self.http_refuse(key, 408, "head-timeout", "shmesh: the request's head did not come in time");
                self.set_conn_deadline(key, now + self.idle_for(key));
            }
            Role::HttpDown(down) if *stays && down.call.is_none() && self.draining => self.drop_conn(key),
            // While a call is under way its own deadline decides, unless the client takes nothing.
            Role::HttpDown(down) if down.call.is_some() && *unsent == 0 => {
                self.set_conn_deadline(key, now + self.idle_for(key))
            }
            Role::HttpUp(up) if up.call.is_some() => self.set_conn_deadline(key, now + self.idle_for(key)),
            Role::DubboUp(_) => self.dubbo_up_timer(key, now),
            Role::DubboDown(down) if down.waiting > 0 => self.set_conn_deadline(key, now + self.idle_for(key)),
            _ if idle_until > now => self.set_conn_deadline(key, idle_until),
            _ => self.conn_idle(key),
        }
    }

    /// Nothing moved for too long.
    fn conn_idle(&mut self, key: Key<Conn>) {
        let Some(conn) = self.conns.get(key) else { return };
        match conn.call() {
            Some(call) => self.fail(call, Failure::Timeout),
            None if conn.unsent() > 0 => self.cut_conn(key),
            None => self.drop_conn(key),
        }
    }

    /// How long a conn of this role may be silent.
    pub(crate) fn idle_for(&self, key: Key<Conn>) -> Nanos {
        let idle = self.snapshot.timeouts.idle.as_nanos() as Nanos;
        match self.conns.get(key).map(|conn| &conn.role) {
            Some(Role::RawDown(_) | Role::RawUp(_)) => RAW_IDLE.max(idle),
            // Three missed heartbeats, as both Dubbo peers count.
            Some(Role::DubboDown(_)) => 3 * idle,
            _ => idle,
        }
    }

    /// The sidecar is stopping: idle clients are let go, busy ones after their answer.
    pub(crate) fn drain_conn(&mut self, key: Key<Conn>) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        match &mut conn.role {
            Role::HttpDown(down) => {
                down.keep_alive = false;
                if down.call.is_some() || down.head_started {
                    return;
                }
                if down.served {
                    self.finish_conn(key, Finish::Close);
                } else {
                    let now = self.driver.now();
                    self.set_conn_deadline(key, now + FIRST_REQUEST_GRACE);
                }
            }
            Role::DubboDown(down) => {
                let idle = down.waiting == 0;
                let mut frame = Vec::new();
                shmesh_proto::dubbo::write_event(
                    &mut frame,
                    0,
                    shmesh_proto::dubbo::serialization::HESSIAN2,
                    shmesh_proto::dubbo::Event::ReadOnly,
                );
                conn.out.push(Slice::from_vec(frame));
                let finish = if idle { Finish::Close } else { Finish::Stay };
                self.finish_conn(key, finish);
            }
            Role::HttpUp(_) | Role::DubboUp(_) | Role::RawDown(_) | Role::RawUp(_) | Role::Lingering => {}
        }
    }
}

/// What is sent in one go: so much that a slow peer's progress still shows, now and then.
fn next_batch(out: &mut Chunks) -> Chunks {
    if out.len_bytes() <= BATCH_MAX {
        return std::mem::take(out);
    }
    let mut batch = Chunks::new();
    while batch.len_bytes() < BATCH_MAX
        && let Some(chunk) = out.pop_front()
    {
        batch.push(chunk);
    }
    batch
}

/// Whether nobody has anything to do when this has left, the last that there is to send: no source pauses because of it, nothing is closed
/// behind it, and no app gets memory back.
fn nothing_follows(conn: &Conn, chunks: &Chunks) -> bool {
    let last = conn.out.is_empty() && !conn.behind && conn.finish == Finish::Stay && !conn.ended;
    let reads_on = conn.receiving && conn.input.is_empty();
    let idle_then = match &conn.role {
        Role::HttpDown(down) => down.call.is_none() && reads_on,
        Role::HttpUp(up) => up.request_done,
        Role::DubboDown(_) => reads_on,
        Role::DubboUp(up) => up.turns.is_empty(),
        Role::RawDown(_) | Role::RawUp(_) | Role::Lingering => false,
    };
    last && idle_then
        && chunks.len_bytes() <= UNAWAITED_MAX
        && chunks.iter().all(|chunk| matches!(chunk, Chunk::Private(_)))
}

fn is_downstream(role: &Role) -> bool {
    matches!(role, Role::HttpDown(_) | Role::DubboDown(_) | Role::RawDown(_))
}
