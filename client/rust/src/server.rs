//! Serving: an app receives calls over shared memory, under a name that one process at a time may hold.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::poll::PollFlags;
use shmesh_shm::geometry::MAX_HEAD_BYTES;
use shmesh_shm::wait::default_max_spin;
use shmesh_shm::{Flags, Header, Kind, Protocol, Reset, Step, TOTAL_UNKNOWN, Violation, Waiter, host};

use crate::buffers::Buffers;
use crate::clock;
use crate::error::{CallError, ConnectError};
use crate::flow::{First, Inbound, Outbound, Pumped, part_len};
use crate::own_socket::OwnSocket;
use crate::reattachment::Reattachment;
use crate::served::{Handler, Served, ServedResponse, StreamEvent, StreamId, StreamReply};
use crate::session::{Attach, Session};
use crate::wire::{Wire, sleep_on};

/// Most bytes of a request that is assembled.
pub(crate) const REQUEST_BYTES_MAX: usize = 128 << 20;
/// Answers wait for the others of their batch no longer than this, in nanoseconds.
const BATCH_NS_MAX: u64 = 50_000;
/// How often `serve_until` looks at its flag while nothing comes, in nanoseconds.
const FLAG_EVERY_NS: u64 = 100_000_000;

/// An app that serves: a lane for every worker of the sidecar, and a Unix socket of its own, on which callers reach it while the
/// sidecar is gone.
///
/// ```no_run
/// use shmesh_client::{Served, ServedResponse, Server};
///
/// let mut server = Server::attach("/run/shmesh/shmesh.sock", "my-app")?;
/// server.serve_forever(&mut |request: &mut Served<'_>, response: &mut ServedResponse| {
///     response.header("content-type", "text/plain");
///     response.body.extend_from_slice(request.body);
/// })?;
/// # Ok::<(), shmesh_client::CallError>(())
/// ```
#[derive(Debug)]
pub struct Server {
    attach: Attach,
    session: Arc<Session>,
    lanes: Vec<ServingLane>,
    waiter: Waiter,
    own_socket: Option<OwnSocket>,
}

/// Settings of a [`Server`].
#[derive(Clone, Debug)]
pub struct ServerBuilder {
    attach: Attach,
    own_socket: Own,
}

/// Where a serving app listens itself.
#[derive(Clone, Debug)]
enum Own {
    /// Beside the session socket, if that is possible.
    Default,
    At(PathBuf),
    Nowhere,
}

impl Server {
    /// Attaches under this name, with every setting as it is unless set. Fails with the name-taken refusal while another
    /// process holds the name.
    pub fn attach(socket: impl AsRef<Path>, name: &str) -> Result<Server, ConnectError> {
        Server::builder(socket, name).attach()
    }

    /// Settings first.
    pub fn builder(socket: impl AsRef<Path>, name: &str) -> ServerBuilder {
        let attach = Attach {
            socket: socket.as_ref().to_owned(),
            name: name.to_owned(),
            calling_lanes: 0,
            serving: true,
            max_spin: default_max_spin(1),
            fallback: None,
            // A hung sidecar is no reason to stop serving: it may wake up, and there is no other.
            hang_timeout: Duration::ZERO,
        };
        ServerBuilder { attach, own_socket: Own::Default }
    }

    /// The Unix socket on which the app itself listens; none if that was not wanted, or not possible where it is unless set.
    pub fn own_socket(&self) -> Option<&Path> {
        self.own_socket.as_ref().map(OwnSocket::path)
    }

    /// Serves on this thread. When the sidecar goes away, callers are still answered on the app's own socket, and the app attaches
    /// again once there is a sidecar; streams over lanes are reset. Without an own socket this ends with the sidecar, which the
    /// error says.
    pub fn serve_forever(&mut self, handler: &mut impl Handler) -> Result<(), CallError> {
        self.serve(None, handler)
    }

    /// As [`Server::serve_forever`], until the flag is set (looked at every 100 ms while nothing comes).
    pub fn serve_until(&mut self, stop: &AtomicBool, handler: &mut impl Handler) -> Result<(), CallError> {
        self.serve(Some(stop), handler)
    }

    fn serve(&mut self, stop: Option<&AtomicBool>, handler: &mut impl Handler) -> Result<(), CallError> {
        loop {
            let own = self.own_socket.as_mut();
            match serve(&self.session, &mut self.lanes, own, &mut self.waiter, stop, handler) {
                Err(CallError::SidecarGone(_) | CallError::Violation(_)) if self.own_socket.is_some() => {}
                outcome => return outcome,
            }
            for lane in &mut self.lanes {
                lane.reset_streams(handler);
            }
            // Their memory goes back at once.
            self.lanes.clear();
            if !self.serve_alone(stop, handler)? {
                return Ok(());
            }
        }
    }

    /// Serves on the own socket until there is a sidecar. False: the flag was set.
    fn serve_alone(&mut self, stop: Option<&AtomicBool>, handler: &mut impl Handler) -> Result<bool, CallError> {
        let mut reattachment = Reattachment::new();
        loop {
            if stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                return Ok(false);
            }
            if self.session.is_forked() {
                return Err(CallError::Forked);
            }
            if let Some((session, wires)) = reattachment.advance(&self.attach)
                && let Ok(lanes) = serving_lanes(wires)
            {
                if let Some(own) = &self.own_socket {
                    session.serves_at(own.path());
                }
                (self.session, self.lanes) = (session, lanes);
                return Ok(true);
            }
            match &mut self.own_socket {
                Some(own) => own.wait(reattachment.pause(), handler),
                None => host::sleep(reattachment.pause()),
            }
        }
    }

    /// For the simulation: blocks that the sidecar has not given back.
    #[cfg(shmesh_sim)]
    pub fn lent_blocks(&mut self) -> u32 {
        self.lanes.iter_mut().map(|lane| lane.wire.end.lent_blocks()).sum()
    }

    /// The lanes, to be served by a thread each; the first one serves the own socket, too. All this ends with the sidecar.
    pub fn into_lanes(mut self) -> Vec<ServingLane> {
        if let Some(first) = self.lanes.first_mut() {
            first.own_socket = self.own_socket.take();
        }
        self.lanes
    }
}

impl ServerBuilder {
    /// Longest time to spin for calls before sleeping; 0 = sleep at once. 100 µs unless set.
    #[must_use]
    pub fn max_spin(mut self, max_spin: Duration) -> ServerBuilder {
        self.attach.max_spin = max_spin;
        self
    }

    /// Where the app itself listens: an absolute path of at most 107 bytes, readable and writable by its user and group. Unless
    /// set: `NAME.app.sock` beside the session socket, if a socket can be made there.
    #[must_use]
    pub fn own_socket(mut self, path: impl AsRef<Path>) -> ServerBuilder {
        self.own_socket = Own::At(path.as_ref().to_owned());
        self
    }

    /// The app does not listen itself: while its sidecar is gone it cannot be reached.
    #[must_use]
    pub fn without_own_socket(mut self) -> ServerBuilder {
        self.own_socket = Own::Nowhere;
        self
    }

    /// Attaches. Fails with the name-taken refusal while another process holds the name.
    pub fn attach(self) -> Result<Server, ConnectError> {
        let (session, wires) = Session::attach(&self.attach)?;
        let lanes = serving_lanes(wires)?;
        // Whoever holds the name may take the socket over.
        let own_socket = match &self.own_socket {
            // All sockets of the simulation but the session's are the world's.
            Own::Default if cfg!(shmesh_sim) => None,
            Own::Default => OwnSocket::bind(&OwnSocket::default_path(&self.attach.socket, &self.attach.name)).ok(),
            Own::At(path) => {
                let refused = |error: std::io::Error| ConnectError::OwnSocket {
                    path: path.display().to_string(),
                    reason: error.to_string(),
                };
                Some(OwnSocket::bind(path).map_err(refused)?)
            }
            Own::Nowhere => None,
        };
        if let Some(own) = &own_socket {
            session.serves_at(own.path());
        }
        let waiter = Waiter::new(self.attach.max_spin);
        Ok(Server { attach: self.attach, session, lanes, waiter, own_socket })
    }
}

fn serving_lanes(wires: Vec<Wire>) -> Result<Vec<ServingLane>, ConnectError> {
    let serving = (0..).zip(wires).filter(|(_, wire)| wire.info.serving);
    let lanes: Vec<_> = serving.map(|(lane, wire)| ServingLane::new(lane, wire)).collect();
    if lanes.is_empty() { Err(ConnectError::NoLanes) } else { Ok(lanes) }
}

/// One serving lane, in the hands of one thread.
#[derive(Debug)]
pub struct ServingLane {
    index: u16,
    wire: Wire,
    slots: Vec<Slot>,
    sending: VecDeque<u32>,
    resets: VecDeque<(u32, u64, Reset, String)>,
    response: ServedResponse,
    reply: StreamReply,
    status_line: Vec<u8>,
    buffers: Buffers,
    /// The last pump stopped for lack of room.
    full: bool,
    /// Of the app, served by the thread of this lane.
    own_socket: Option<OwnSocket>,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u64,
    busy: bool,
    queued: bool,
    stream: bool,
    one_way: bool,
    protocol: Option<Protocol>,
    deadline_us: u32,
    head: Vec<u8>,
    body: Vec<u8>,
    out: Outbound,
    inbound: Inbound,
    /// Bytes of a stream for which credit is held back until the replies are sent.
    held: u32,
}

impl ServingLane {
    fn new(index: u16, wire: Wire) -> ServingLane {
        let slots = wire.end.geometry().slots;
        ServingLane {
            index,
            wire,
            slots: (0..slots).map(|_| Slot::default()).collect(),
            sending: VecDeque::new(),
            resets: VecDeque::new(),
            response: ServedResponse::default(),
            reply: StreamReply::default(),
            status_line: Vec::new(),
            buffers: Buffers::default(),
            full: false,
            own_socket: None,
        }
    }

    /// Serves this lane on this thread until the flag is set (looked at every 100 ms while nothing comes), or the sidecar
    /// is gone, which the error says.
    pub fn serve_until(&mut self, stop: &AtomicBool, handler: &mut impl Handler) -> Result<(), CallError> {
        let session = self.wire.session.clone();
        let mut waiter = Waiter::new(self.wire.max_spin);
        let mut own = self.own_socket.take();
        let outcome = serve(&session, std::slice::from_mut(self), own.as_mut(), &mut waiter, Some(stop), handler);
        self.own_socket = own;
        outcome
    }

    /// The session is over: the handler hears of the end of every stream.
    fn reset_streams(&mut self, handler: &mut impl Handler) {
        for slot in 0..self.slots.len() as u32 {
            let Slot { busy, stream, generation, .. } = self.slots[slot as usize];
            if busy && stream {
                let id = StreamId { lane: self.index, slot, generation };
                self.reply = StreamReply::default();
                handler.stream(StreamEvent::Reset(id, Reset::Died), &mut self.reply);
            }
        }
    }

    /// Everything that can be done without waiting. True if there was something.
    fn turn(&mut self, handler: &mut impl Handler) -> Result<bool, Violation> {
        let mut published = 0;
        let mut any = false;
        while let Some(header) = self.wire.end.peek()? {
            any = true;
            let began = clock::now();
            if published == 0 {
                published = began;
            }
            self.take(&header, handler)?;
            if began.saturating_sub(published) > BATCH_NS_MAX {
                self.pump();
                self.wire.publish();
                published = began;
            }
        }
        self.pump();
        self.wire.publish();
        Ok(any)
    }

    /// One record, consumed here.
    fn take(&mut self, header: &Header, handler: &mut impl Handler) -> Result<(), Violation> {
        let state = &mut self.slots[header.slot as usize];
        if header.kind == Kind::Open {
            if state.busy || header.generation <= state.generation {
                return Err(Violation::Generation);
            }
            let window = self.wire.end.geometry().window;
            state.begin(header, window)?;
            if header.total != TOTAL_UNKNOWN {
                self.buffers.lend(&mut state.body, header.total as usize);
            }
            self.wire.end.append_payload(0..header.head_len, &mut state.head)?;
            if state.stream {
                let opened = StreamEvent::Opened(self.stream_id(header), protocol(header)?);
                self.tell(header.slot, opened, handler);
            }
            return self.take_payload(header, header.head_len, handler);
        }
        if !state.busy || header.generation != state.generation {
            self.wire.end.advance();
            return Ok(());
        }
        match header.kind {
            Kind::Data => return self.take_payload(header, 0, handler),
            Kind::Credit => {
                state.out.grant(header.credit);
                self.enqueue(header.slot);
            }
            Kind::Reset => {
                let why = header.reset_code().ok_or(Violation::Code)?;
                let stream = state.stream;
                self.close(header.slot);
                if stream {
                    let event = StreamEvent::Reset(self.stream_id(header), why);
                    self.reply = StreamReply::default();
                    handler.stream(event, &mut self.reply);
                }
            }
            Kind::Open | Kind::Answer | Kind::Define => return Err(Violation::Direction),
        }
        self.wire.end.advance();
        Ok(())
    }

    /// Payload of an OPEN or DATA, which is consumed here.
    fn take_payload(&mut self, header: &Header, from: u32, handler: &mut impl Handler) -> Result<(), Violation> {
        let state = &mut self.slots[header.slot as usize];
        if !state.busy {
            // The handler refused the stream.
            self.wire.end.advance();
            return Ok(());
        }
        if state.inbound.is_ended() {
            return Err(Violation::Kind);
        }
        let end = header.flags.end();
        state.inbound.came(header.length, end)?;
        if state.stream {
            state.body.clear();
        }
        self.wire.end.append_payload(from..header.length, &mut state.body)?;
        self.wire.end.advance();
        if state.stream {
            state.held += header.length;
            self.take_stream(header, end, handler);
        } else if end {
            self.answer(header.slot, handler);
        } else if state.body.len() > REQUEST_BYTES_MAX {
            let sentence = format!("the request is longer than {REQUEST_BYTES_MAX} bytes");
            self.reset(header.slot, Reset::Overloaded, sentence);
        } else {
            state.inbound.used(header.length);
            self.enqueue(header.slot);
        }
        Ok(())
    }

    fn take_stream(&mut self, header: &Header, end: bool, handler: &mut impl Handler) {
        let id = self.stream_id(header);
        let slot = header.slot;
        let body = std::mem::take(&mut self.slots[slot as usize].body);
        if !body.is_empty() {
            self.tell(slot, StreamEvent::Data(id, &body), handler);
        }
        self.slots[slot as usize].body = body;
        if end && self.slots[slot as usize].busy {
            self.tell(slot, StreamEvent::Ended(id), handler);
        }
        self.enqueue(slot);
    }

    /// Tells the handler of a stream's event and does what it replies.
    fn tell(&mut self, slot: u32, event: StreamEvent<'_>, handler: &mut impl Handler) {
        self.reply.bytes.clear();
        self.reply.end = false;
        self.reply.reset = None;
        handler.stream(event, &mut self.reply);
        let state = &mut self.slots[slot as usize];
        if let Some(why) = self.reply.reset {
            return self.reset(slot, why, String::new());
        }
        state.out.push(&self.reply.bytes, &mut self.buffers);
        if self.reply.end {
            state.out.end();
        }
        self.enqueue(slot);
    }

    /// A whole call is there: asks the handler and sends its answer.
    fn answer(&mut self, slot: u32, handler: &mut impl Handler) {
        let state = &mut self.slots[slot as usize];
        let Some(protocol) = state.protocol else { return };
        let mut request = Served {
            protocol,
            head: &state.head,
            body: &mut state.body,
            timeout: (state.deadline_us > 0).then(|| Duration::from_micros(u64::from(state.deadline_us))),
            one_way: state.one_way,
        };
        self.response.clear();
        handler.call(&mut request, &mut self.response);
        if let Some((why, sentence)) = self.response.failure.take() {
            return self.reset(slot, why, sentence);
        }
        let code = self.response.code(protocol);
        self.status_line.clear();
        if protocol == Protocol::Http {
            self.response.write_status_line(&mut self.status_line);
            self.response.headers.extend_from_slice(b"\r\n");
        }
        if state.one_way {
            self.response.body.clear();
        }
        let head_len = self.status_line.len() + self.response.headers.len();
        let longest = MAX_HEAD_BYTES.min(self.wire.end.geometry().block_max) as usize;
        if head_len > longest {
            let sentence = format!("the answer's head is longer than {longest} bytes");
            return self.reset(slot, Reset::Malformed, sentence);
        }
        let first = First { code, head_len: head_len as u32, total: self.response.body.len() as u64 };
        if !self.put_answer(slot, &first) {
            let parts = [&self.status_line, &self.response.headers, &self.response.body];
            self.slots[slot as usize].out.answer(first, parts.map(|part| &part[..]).concat());
            self.enqueue(slot);
        }
    }

    /// Puts the answer, or its head and the first part of its body and keeps the rest. False: there is no room for that now.
    fn put_answer(&mut self, slot: u32, first: &First) -> bool {
        let state = &mut self.slots[slot as usize];
        let head_len = first.head_len as usize;
        let len = head_len + self.response.body.len();
        let Ok(part) = part_len(&mut self.wire.end, len, state.out.credit()) else { return false };
        if part < head_len {
            return false;
        }
        let mut header = Header::new(Kind::Answer, slot, state.generation);
        header.flags = Flags::NONE.with_end(part == len);
        header.code = first.code;
        header.head_len = first.head_len;
        header.total = first.total;
        let body = &self.response.body[..part - head_len];
        if self.wire.end.put(&header, &[&self.status_line[..], &self.response.headers, body]).is_err() {
            return false;
        }
        state.out.was_put(part, part == len);
        if part == len {
            self.close_if_over(slot);
        } else {
            self.buffers.give_back(&mut state.body);
            let mut rest = Vec::new();
            self.buffers.lend(&mut rest, self.response.body.len());
            std::mem::swap(&mut rest, &mut self.response.body);
            state.out.rest(rest, part - head_len);
            self.enqueue(slot);
            self.wire.publish();
            self.pump();
        }
        true
    }

    fn pump(&mut self) {
        self.full = false;
        while let Some((slot, generation, why, sentence)) = self.resets.front() {
            let sentence = &sentence.as_bytes()[..sentence.len().min(self.wire.end.geometry().inline_max() as usize)];
            if self.wire.end.put(&Header::reset(*slot, *generation, *why), &[sentence]).is_err() {
                self.full = true;
                return;
            }
            self.resets.pop_front();
        }
        for _ in 0..self.sending.len() {
            let Some(slot) = self.sending.pop_front() else { return };
            if self.pump_slot(slot) == Pumped::NoRoom {
                self.sending.push_back(slot);
                self.full = true;
                return;
            }
            self.slots[slot as usize].queued = false;
            self.close_if_over(slot);
        }
    }

    fn pump_slot(&mut self, slot: u32) -> Pumped {
        let window = self.wire.end.geometry().window;
        let state = &mut self.slots[slot as usize];
        if !state.busy {
            return Pumped::Empty;
        }
        let pumped = state.out.pump(&mut self.wire, &mut self.buffers, slot, state.generation);
        if state.out.left() < window as usize {
            state.inbound.used(std::mem::take(&mut state.held));
        }
        if let Some(bytes) = state.inbound.due() {
            if self.wire.end.put(&Header::credit(slot, state.generation, bytes), &[]).is_err() {
                return Pumped::NoRoom;
            }
            state.inbound.granted();
        }
        pumped
    }

    fn enqueue(&mut self, slot: u32) {
        let state = &mut self.slots[slot as usize];
        if !state.queued {
            state.queued = true;
            self.sending.push_back(slot);
        }
    }

    fn reset(&mut self, slot: u32, why: Reset, sentence: String) {
        self.resets.push_back((slot, self.slots[slot as usize].generation, why, sentence));
        self.close(slot);
    }

    fn close_if_over(&mut self, slot: u32) {
        let state = &self.slots[slot as usize];
        if state.busy && state.inbound.is_ended() && state.out.is_ended() {
            self.close(slot);
        }
    }

    fn close(&mut self, slot: u32) {
        let state = &mut self.slots[slot as usize];
        state.busy = false;
        state.out.abandon(&mut self.buffers);
        self.buffers.give_back(&mut state.body);
    }

    fn stream_id(&self, header: &Header) -> StreamId {
        StreamId { lane: self.index, slot: header.slot, generation: header.generation }
    }
}

impl Slot {
    fn begin(&mut self, header: &Header, window: u32) -> Result<(), Violation> {
        self.protocol = Some(protocol(header)?);
        self.generation = header.generation;
        self.busy = true;
        self.stream = header.flags.stream();
        self.one_way = header.flags.one_way();
        self.deadline_us = header.deadline_us;
        self.head.clear();
        self.body.clear();
        self.held = 0;
        self.out.begin(window);
        self.inbound.begin(window);
        Ok(())
    }
}

fn protocol(header: &Header) -> Result<Protocol, Violation> {
    header.protocol().ok_or(Violation::Code)
}

/// Serves lanes of one session on this thread.
fn serve(
    session: &Session,
    lanes: &mut [ServingLane],
    mut own: Option<&mut OwnSocket>,
    waiter: &mut Waiter,
    stop: Option<&AtomicBool>,
    handler: &mut impl Handler,
) -> Result<(), CallError> {
    loop {
        let mut any = false;
        for lane in &mut *lanes {
            any |= lane.turn(handler).inspect_err(|_| session.set_gone())?;
        }
        if any {
            if let Some(own) = &mut own {
                own.turn(clock::now(), handler);
            }
            continue;
        }
        if stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return Ok(());
        }
        if session.is_forked() {
            return Err(CallError::Forked);
        }
        if session.is_gone() {
            return Err(CallError::SidecarGone(session.why_gone()));
        }
        // However busy it is: what is above has to be seen.
        let now = clock::now();
        if own.as_mut().is_some_and(|own| own.turn(now, handler)) {
            session.look_if_due(now);
            continue;
        }
        wait(session, lanes, own.as_deref_mut(), waiter, stop.map(|_| FLAG_EVERY_NS));
    }
}

/// Waits until a lane has something, the session ends, or for so long.
fn wait(
    session: &Session,
    lanes: &mut [ServingLane],
    own: Option<&mut OwnSocket>,
    waiter: &mut Waiter,
    timeout_ns: Option<u64>,
) {
    let mut now = clock::now();
    session.look_if_due(now);
    waiter.begin(now);
    loop {
        if lanes.iter_mut().any(|lane| lane.wire.has_news(lane.full)) || session.is_gone() {
            return waiter.end(now);
        }
        match waiter.step(now) {
            Step::Pause => host::spin(),
            Step::Yield => host::yield_now(),
            Step::Park => {
                park(session, lanes, own, timeout_ns);
                return waiter.end(clock::now());
            }
        }
        now = clock::now();
    }
}

fn park(session: &Session, lanes: &mut [ServingLane], own: Option<&mut OwnSocket>, timeout_ns: Option<u64>) {
    let quiet = lanes.iter_mut().all(|lane| lane.wire.end.announce(lane.full));
    let due_ns = own.iter().filter_map(|own| own.due_ns()).chain(timeout_ns).min();
    if quiet {
        let mut fds: Vec<_> = lanes.iter().map(|lane| (lane.wire.bell(), PollFlags::POLLIN)).collect();
        fds.extend(own.iter().flat_map(|own| own.descriptors()));
        sleep_on(&fds, session, due_ns);
    }
    for lane in lanes {
        lane.wire.end.unpark();
        if quiet {
            lane.wire.drain_bell();
        }
    }
    if let Some(own) = own {
        own.woke();
    }
}
