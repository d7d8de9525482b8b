//! Serving: an app receives calls over shared memory, under a name that one process at a time may hold.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shmesh_shm::geometry::MAX_HEAD_BYTES;
use shmesh_shm::wait::default_max_spin;
use shmesh_shm::{Flags, Header, Kind, Protocol, Reset, Step, TOTAL_UNKNOWN, Violation, Waiter, host};

use crate::buffers::Buffers;
use crate::clock;
use crate::error::{CallError, ConnectError};
use crate::flow::{First, Inbound, Outbound, Pumped, part_len};
use crate::served::{Handler, Served, ServedResponse, StreamEvent, StreamId, StreamReply};
use crate::session::{Attach, Session};
use crate::wire::{Wire, sleep_on};

/// Most bytes of a request that is assembled.
const REQUEST_BYTES_MAX: usize = 128 << 20;
/// Answers wait for the others of their batch no longer than this, in nanoseconds.
const BATCH_NS_MAX: u64 = 50_000;
/// How often `serve_until` looks at its flag while nothing comes, in nanoseconds.
const FLAG_EVERY_NS: u64 = 100_000_000;

/// An app that serves: a lane for every worker of the sidecar.
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
    session: Arc<Session>,
    lanes: Vec<ServingLane>,
    waiter: Waiter,
}

impl Server {
    /// Attaches under this name. Fails with the name-taken refusal while another process holds it.
    pub fn attach(socket: impl AsRef<Path>, name: &str) -> Result<Server, ConnectError> {
        Server::attach_spinning(socket, name, default_max_spin(1))
    }

    /// As [`Server::attach`], spinning for calls at most so long before sleeping; 0 = sleep at once.
    pub fn attach_spinning(socket: impl AsRef<Path>, name: &str, max_spin: Duration) -> Result<Server, ConnectError> {
        let attach = Attach {
            socket: socket.as_ref().to_owned(),
            name: name.to_owned(),
            calling_lanes: 0,
            serving: true,
            max_spin,
            directory: None,
            // A hung sidecar is no reason to stop serving: it may wake up, and there is no other.
            hang_timeout: Duration::ZERO,
        };
        let (session, wires) = Session::attach(&attach)?;
        let serving = (0..).zip(wires).filter(|(_, wire)| wire.info.serving);
        let lanes: Vec<_> = serving.map(|(lane, wire)| ServingLane::new(lane, wire)).collect();
        if lanes.is_empty() {
            return Err(ConnectError::NoLanes);
        }
        Ok(Server { session, lanes, waiter: Waiter::new(max_spin) })
    }

    /// Serves on this thread until the sidecar is gone, which the error says; attach again then.
    pub fn serve_forever(&mut self, handler: &mut impl Handler) -> Result<(), CallError> {
        serve(&self.session, &mut self.lanes, &mut self.waiter, None, handler)
    }

    /// Serves on this thread until the flag is set (looked at every 100 ms while nothing comes), or the sidecar is gone.
    pub fn serve_until(&mut self, stop: &AtomicBool, handler: &mut impl Handler) -> Result<(), CallError> {
        serve(&self.session, &mut self.lanes, &mut self.waiter, Some(stop), handler)
    }

    /// For the simulation: blocks that the sidecar has not given back.
    #[cfg(shmesh_sim)]
    pub fn lent_blocks(&mut self) -> u32 {
        self.lanes.iter_mut().map(|lane| lane.wire.end.lent_blocks()).sum()
    }

    /// The lanes, to be served by a thread each.
    pub fn into_lanes(self) -> Vec<ServingLane> {
        self.lanes
    }
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
        }
    }

    /// Serves this lane on this thread until the flag is set (looked at every 100 ms while nothing comes), or the sidecar
    /// is gone, which the error says.
    pub fn serve_until(&mut self, stop: &AtomicBool, handler: &mut impl Handler) -> Result<(), CallError> {
        let session = self.wire.session.clone();
        let mut waiter = Waiter::new(self.wire.max_spin);
        serve(&session, std::slice::from_mut(self), &mut waiter, Some(stop), handler)
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
        wait(session, lanes, waiter, stop.map(|_| FLAG_EVERY_NS));
    }
}

/// Waits until a lane has something, the session ends, or for so long.
fn wait(session: &Session, lanes: &mut [ServingLane], waiter: &mut Waiter, timeout_ns: Option<u64>) {
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
                park(session, lanes, timeout_ns);
                return waiter.end(clock::now());
            }
        }
        now = clock::now();
    }
}

fn park(session: &Session, lanes: &mut [ServingLane], timeout_ns: Option<u64>) {
    let quiet = lanes.iter_mut().all(|lane| lane.wire.end.announce(lane.full));
    if quiet {
        let bells: Vec<BorrowedFd<'_>> = lanes.iter().map(|lane| lane.wire.bell()).collect();
        sleep_on(&bells, session, timeout_ns);
    }
    for lane in lanes {
        lane.wire.end.unpark();
        if quiet {
            lane.wire.drain_bell();
        }
    }
}
