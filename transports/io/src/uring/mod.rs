//! The driver on io_uring: one ring a worker, operations submitted in batches, multishot where it exists.
//!
//! Accepting, receiving and watching are armed once and complete many times; the kernel says with each completion
//! whether more will come, and if not, they are armed again at the next `poll`. Arming and cancelling are decided at
//! `poll`, from what the engine wants by then, so that stopping and starting within a turn costs nothing. Receiving into
//! a block is asked for block by block ([`receiving`]).
//!
//! A cancelled operation still has its terminal completion to come. Until then a closed socket keeps its row (and its
//! descriptor) in the table, unreachable by its name; what a stopped socket received meanwhile is stashed. A driver that is
//! suspended ([`rest`]) wants nothing, and holds sends back. Sockets that were adopted, or set aside to be given away, are [`parking`].

#[allow(unsafe_code)] // lends slots to the kernel
mod buffers;
mod completions;
#[allow(unsafe_code)] // an empty msghdr
mod operation;
mod parking;
mod receiving;
mod rest;
#[allow(unsafe_code)] // hands memory to the kernel, and keeps it until it is back
mod ring;
mod sockets;

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use shmesh_shm::OpenBlock;

use self::operation::{Operation, Outgoing};
use self::parking::{Parking, Watch};
use self::ring::Ring;
use self::sockets::{Armed, Arrival, Kind, Listener, Socket, Stream};
use crate::bell::Bell;
use crate::chunk::Chunks;
use crate::clock::{Clock, Random};
use crate::driver::{AtRest, Driver, Event, Limits, Nanos, PeerCheck, SockId, Tag, Target, Wait};
use crate::pool::Pool;
use crate::probe::{Refusal, Step};
use crate::slice::Slice;
use crate::socket;
use crate::table::Table;
use crate::waker::Waker;

/// Completions that one `poll` takes; more wait for the next.
const COMPLETIONS_PER_POLL: usize = 4096;

/// Sockets to ask something of the kernel for in one `poll`: the engine has other things to look at than a thousand that were adopted.
const SETTLED_PER_POLL: usize = 256;

/// How long to wait when the kernel has no slot to receive into and none is free.
const STARVED_RETRY: Nanos = 1_000_000;

/// The waker and the parking have no rows in the table.
const WAKER: SockId = SockId::new(u32::MAX, 0);
const PARKING: SockId = SockId::new(u32::MAX, 1);

/// See the [module documentation](self).
pub struct UringDriver {
    // Dropped before the sockets, whose descriptors its operations use.
    ring: Ring,
    sockets: Table<Socket>,
    pool: Pool,
    clock: Clock,
    random: Random,
    waker: Waker,
    waker_armed: bool,
    parking: Parking,
    /// Sockets where something may have to be armed, cancelled or reported.
    dirty: Vec<SockId>,
    /// That list, while it is worked through.
    sorting: Vec<SockId>,
    /// Some of `dirty` were left for the next `poll`.
    unsettled: bool,
    /// Events that wait for the next `poll`, of sockets that may be closed before.
    refused: Vec<(SockId, io::Error, Chunks)>,
    /// Listeners that pause, and until when.
    paused: Vec<(SockId, Nanos)>,
    suspended: bool,
}

impl UringDriver {
    /// Makes a driver for the current thread.
    ///
    /// # Errors
    /// Which step the system refused. [`crate::probe::uring`] tells the same, and more, beforehand.
    pub fn new(limits: Limits) -> Result<Self, Refusal> {
        let pool = Pool::new(limits.pool_slots).map_err(Refusal::at(Step::Memory))?;
        Ok(Self {
            ring: Ring::new(&pool)?,
            sockets: Table::new(),
            pool,
            clock: Clock::new(),
            random: Random::new(),
            waker: Waker::new().map_err(Refusal::at(Step::Memory))?,
            waker_armed: false,
            parking: Parking::new().map_err(Refusal::at(Step::Memory))?,
            dirty: Vec::new(),
            sorting: Vec::new(),
            unsettled: false,
            refused: Vec::new(),
            paused: Vec::new(),
            suspended: false,
        })
    }
}

impl Driver for UringDriver {
    fn name(&self) -> &'static str {
        "uring"
    }

    fn now(&self) -> Nanos {
        self.clock.now()
    }

    fn refresh_clock(&mut self) -> Nanos {
        self.clock.refresh()
    }

    fn random(&mut self) -> u64 {
        self.random.next()
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn listen(&mut self, socket: OwnedFd, tag: Tag) -> io::Result<SockId> {
        let tcp = socket::is_tcp(socket.as_fd())?;
        if tcp {
            // Accepted sockets inherit it.
            socket::set_nodelay(&socket)?;
        }
        let listener = Listener { tcp, wanted: true, armed: Armed::No };
        Ok(self.insert(socket, tag, Kind::Listener(listener)))
    }

    fn stop_accept(&mut self, listener: SockId) {
        self.want_accept(listener, false);
    }

    fn resume_accept(&mut self, listener: SockId) {
        self.want_accept(listener, true);
    }

    fn connect(&mut self, target: &Target, tag: Tag) -> io::Result<SockId> {
        let (socket, addr) = socket::for_target(target, false)?;
        let mut stream = Stream::new(matches!(target, Target::Tcp(_)));
        stream.connecting = true;
        let id = self.insert(socket, tag, Kind::Stream(stream));
        if let Some(socket) = self.sockets.get(id) {
            self.ring.connect(id, socket.fd.as_fd(), addr);
        }
        Ok(id)
    }

    fn adopt(&mut self, socket: OwnedFd, tag: Tag) -> io::Result<SockId> {
        let tcp = socket::is_tcp(socket.as_fd())?;
        if tcp {
            socket::set_nodelay(&socket)?;
        }
        // Nothing is wanted of it so far: it is not to be looked at before those of which something is.
        let kind = Kind::Stream(Stream::new(tcp));
        let id = self.sockets.insert(Socket { fd: socket, tag, closing: false, listed: false, kind });
        self.park(id);
        Ok(id)
    }

    fn original_dst(&self, sock: SockId) -> Option<SocketAddr> {
        socket::original_dst(&self.sockets.get(sock)?.fd)
    }

    fn check_peer(&mut self, sock: SockId, check: PeerCheck) {
        if let Some(socket) = self.sockets.get(sock) {
            // It fails only on a socket that has failed already.
            let _ = socket::check_peer(&socket.fd, check);
        }
    }

    fn set_tag(&mut self, sock: SockId, tag: Tag) {
        if let Some(socket) = self.live_mut(sock) {
            socket.tag = tag;
        }
    }

    fn start_recv(&mut self, sock: SockId) {
        if let Some(stream) = self.stream_mut(sock)
            && !stream.receiving
        {
            stream.receiving = true;
            if !stream.is_parked() || !stream.stash.is_empty() {
                self.look_at(sock);
            }
        }
    }

    fn set_aside(&mut self, sock: SockId) {
        if let Some(stream) = self.stream_mut(sock)
            && stream.armed == Armed::Yes
        {
            stream.to_be_parked = true;
            self.look_at(sock);
        }
    }

    fn stop_recv(&mut self, sock: SockId) {
        if let Some(stream) = self.stream_mut(sock)
            && stream.receiving
        {
            stream.receiving = false;
            stream.take_block_back();
            self.look_at(sock);
        }
    }

    fn land(&mut self, sock: SockId, block: OpenBlock) {
        if let Some(stream) = self.stream_mut(sock)
            && stream.accepts(&block)
        {
            stream.landing.block = Some(block);
            self.look_at(sock);
        }
    }

    fn send(&mut self, sock: SockId, chunks: Chunks) {
        self.begin_send(sock, chunks, true);
    }

    fn send_unawaited(&mut self, sock: SockId, chunks: Chunks) {
        self.begin_send(sock, chunks, false);
    }

    fn receive_alone(&mut self, sock: SockId, always: bool) {
        if let Some(stream) = self.stream_mut(sock)
            && stream.always_alone != always
        {
            stream.always_alone = always;
            stream.alone |= always;
            if !stream.is_parked() {
                self.look_at(sock);
            }
        }
    }

    fn shutdown_write(&mut self, sock: SockId) {
        if let Some(socket) = self.live_mut(sock)
            && let Kind::Stream(stream) = &mut socket.kind
        {
            if stream.sending {
                stream.shutdown_after_send = true;
            } else {
                socket::shutdown_write(&socket.fd);
            }
        }
    }

    fn sever(&mut self, sock: SockId, cut: bool) {
        if let Some(socket) = self.live_mut(sock) {
            socket::sever(&socket.fd, cut);
        }
    }

    fn close(&mut self, sock: SockId) {
        let Some(socket) = self.sockets.get_mut(sock).filter(|socket| !socket.closing) else {
            return;
        };
        socket.closing = true;
        if let Kind::Stream(stream) = &mut socket.kind {
            stream.stash.clear();
            stream.landing.block = None;
            self.parking.turn(&mut stream.watch, Watch::Nothing, sock, socket.fd.as_fd());
        }
        if socket.is_idle() {
            self.sockets.remove(sock);
        } else {
            self.look_at(sock);
        }
        self.paused.retain(|(id, _)| *id != sock);
    }

    fn close_reset(&mut self, sock: SockId) {
        if let Some(socket) = self.live_mut(sock) {
            socket::reset_on_close(&socket.fd);
        }
        self.close(sock);
    }

    fn watch(&mut self, fd: OwnedFd, tag: Tag) -> io::Result<SockId> {
        Ok(self.insert(fd, tag, Kind::Watched(Armed::No)))
    }

    fn ring(&mut self, bell: &Bell) {
        self.ring.ring(bell);
    }

    fn poll(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()> {
        let before = events.len();
        if !mem::replace(&mut self.waker_armed, true) {
            self.ring.watch(WAKER, Operation::Waker, self.waker.as_fd());
        }
        if !mem::replace(&mut self.parking.watched, true) {
            self.ring.watch(PARKING, Operation::Parking, self.parking.fd());
        }
        let slots = self.ring.refill();
        self.report_refused(events);
        self.end_pauses();
        self.settle(slots, events);
        let timeout = self.timeout(wait, events.len() > before);
        // A suspended driver waits for all that it has cancelled: the kernel works off twenty operations each time that it is entered for one.
        let count = if self.suspended { self.ring.cancelled().clamp(1, COMPLETIONS_PER_POLL / 2) } else { 1 };
        self.ring.enter(timeout, count)?;
        self.clock.refresh();
        for _ in 0..COMPLETIONS_PER_POLL {
            let Some(completion) = self.ring.next_completion() else {
                break;
            };
            self.complete(completion, events);
        }
        Ok(())
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn suspend(&mut self) {
        self.suspended = true;
        self.look_at_all();
    }

    fn is_at_rest(&self) -> bool {
        self.suspended && self.rests()
    }

    fn resume(&mut self) {
        self.suspended = false;
        self.send_held();
        self.look_at_all();
    }

    fn at_rest(&self, sock: SockId) -> Option<AtRest<'_>> {
        self.sockets.get(sock)?.at_rest()
    }

    fn precede(&mut self, sock: SockId, arrived: Vec<Slice>, end: Option<Option<io::Error>>) {
        if let Some(stream) = self.stream_mut(sock) {
            stream.ended = end.is_some();
            stream.stash.extend(arrived.into_iter().map(Arrival::Bytes));
            stream.stash.extend(end.map(Arrival::End));
        }
    }
}

/// What the engine's calls need.
impl UringDriver {
    fn insert(&mut self, fd: OwnedFd, tag: Tag, kind: Kind) -> SockId {
        let id = self.sockets.insert(Socket { fd, tag, closing: false, listed: false, kind });
        self.look_at(id);
        id
    }

    fn live_mut(&mut self, id: SockId) -> Option<&mut Socket> {
        self.sockets.get_mut(id).filter(|socket| !socket.closing)
    }

    fn stream_mut(&mut self, id: SockId) -> Option<&mut Stream> {
        match &mut self.live_mut(id)?.kind {
            Kind::Stream(stream) => Some(stream),
            _ => None,
        }
    }

    fn begin_send(&mut self, sock: SockId, chunks: Chunks, awaited: bool) {
        let Some(socket) = self.sockets.get_mut(sock).filter(|s| !s.closing) else {
            return;
        };
        let Kind::Stream(stream) = &mut socket.kind else {
            return;
        };
        if stream.connecting || stream.sending {
            let errno = if stream.sending { Errno::EALREADY } else { Errno::ENOTCONN };
            self.refused.push((sock, errno.into(), chunks));
            return;
        }
        stream.sending = true;
        if chunks.is_empty() {
            stream.sent_nothing = Some(chunks);
            self.look_at(sock);
        } else if self.suspended {
            stream.held = Some(Outgoing::new(chunks));
        } else if awaited {
            self.ring.send(sock, socket.fd.as_fd(), Outgoing::new(chunks));
        } else {
            self.ring.send_silently(sock, socket.fd.as_fd(), Outgoing::new(chunks));
        }
    }

    /// Watches a socket of which the ring is asked nothing.
    fn park(&mut self, id: SockId) {
        if let Some(socket) = self.sockets.get_mut(id)
            && let Kind::Stream(stream) = &mut socket.kind
        {
            self.parking.turn(&mut stream.watch, Watch::Readable, id, socket.fd.as_fd());
        }
    }

    fn want_accept(&mut self, id: SockId, wanted: bool) {
        self.paused.retain(|(paused, _)| *paused != id);
        if let Some(socket) = self.live_mut(id)
            && let Kind::Listener(listener) = &mut socket.kind
        {
            listener.wanted = wanted;
            self.look_at(id);
        }
    }

    /// Has the next `poll` look at the socket.
    fn look_at(&mut self, id: SockId) {
        if let Some(socket) = self.sockets.get_mut(id)
            && !mem::replace(&mut socket.listed, true)
        {
            self.dirty.push(id);
        }
    }
}

/// Before the kernel is entered.
impl UringDriver {
    fn report_refused(&mut self, events: &mut Vec<Event>) {
        for (sock, error, mut chunks) in self.refused.drain(..) {
            chunks.clear();
            if let Some(socket) = self.sockets.get(sock).filter(|socket| !socket.closing) {
                events.push(Event::Sent { tag: socket.tag, sock, result: Err(error), chunks });
            }
        }
    }

    /// A pause ends by asking again; `wanted` never changed.
    fn end_pauses(&mut self) {
        if self.paused.is_empty() {
            return;
        }
        let now = self.clock.refresh();
        while let Some(at) = self.paused.iter().position(|(_, end)| *end <= now) {
            let (listener, _) = self.paused.swap_remove(at);
            self.look_at(listener);
        }
    }

    /// Brings what is armed in line with what is wanted.
    fn settle(&mut self, slots: bool, events: &mut Vec<Event>) {
        mem::swap(&mut self.dirty, &mut self.sorting);
        let count = if self.suspended { self.sorting.len() } else { self.sorting.len().min(SETTLED_PER_POLL) };
        self.unsettled = count < self.sorting.len();
        self.dirty.extend_from_slice(&self.sorting[count..]);
        for at in 0..count {
            let id = self.sorting[at];
            let Some(socket) = self.sockets.get_mut(id) else {
                continue;
            };
            socket.listed = false;
            if socket.closing {
                cancel_all(&mut self.ring, id, socket);
                continue;
            }
            let fd = socket.fd.as_fd();
            match &mut socket.kind {
                Kind::Watched(armed) => {
                    if *armed == Armed::No {
                        *armed = Armed::Yes;
                        self.ring.watch(id, Operation::Watch, fd);
                    }
                }
                Kind::Listener(listener) => {
                    let paused = self.paused.iter().any(|(paused, _)| *paused == id);
                    match (listener.wanted && !paused && !self.suspended, listener.armed) {
                        (true, Armed::No) => {
                            listener.armed = Armed::Yes;
                            self.ring.accept(id, fd);
                        }
                        (false, Armed::Yes) => {
                            listener.armed = Armed::Cancelling;
                            self.ring.cancel(id, Operation::Accept);
                        }
                        _ => {}
                    }
                }
                Kind::Stream(stream) => {
                    if let Some(chunks) = stream.sent_nothing.take() {
                        stream.sending = false;
                        events.push(Event::Sent { tag: socket.tag, sock: id, result: Ok(0), chunks });
                    }
                    let reported = stream.report_stash(socket.tag, id, events);
                    if self.suspended {
                        stream.cancel_send(&mut self.ring, id);
                    }
                    stream.settle_parking(&mut self.ring, &self.parking, id, fd, self.suspended);
                    if !stream.settle(&mut self.ring, id, fd, slots, reported, self.suspended) {
                        socket.listed = true;
                        self.dirty.push(id);
                    }
                }
            }
        }
        self.sorting.clear();
    }

    /// How long to wait in the kernel: not at all if there is something to report already.
    fn timeout(&mut self, wait: Wait, something: bool) -> Option<Nanos> {
        if something || self.unsettled || wait == Wait::Now {
            return Some(0);
        }
        let mut timeout = match wait {
            Wait::Until(time) => Some(time.saturating_sub(self.clock.refresh())),
            _ => None,
        };
        if !self.dirty.is_empty() {
            // Nothing was reported, so only sockets without slots are listed after `settle`.
            timeout = Some(timeout.unwrap_or(STARVED_RETRY).min(STARVED_RETRY));
        }
        if let Some(end) = self.paused.iter().map(|(_, end)| *end).min() {
            let pause = end.saturating_sub(self.clock.now());
            timeout = Some(timeout.unwrap_or(pause).min(pause));
        }
        timeout
    }
}

/// Cancels what a closed socket still has in the kernel.
fn cancel_all(ring: &mut Ring, id: SockId, socket: &mut Socket) {
    match &mut socket.kind {
        Kind::Watched(armed) => cancel_armed(ring, id, Operation::Watch, armed),
        Kind::Listener(listener) => cancel_armed(ring, id, Operation::Accept, &mut listener.armed),
        Kind::Stream(stream) => {
            cancel_armed(ring, id, Operation::Receive, &mut stream.armed);
            cancel_armed(ring, id, Operation::Land, &mut stream.landing.armed);
            if !mem::replace(&mut stream.cancelling_send, true) {
                if stream.connecting {
                    ring.cancel(id, Operation::Connect);
                } else if stream.sending {
                    ring.cancel(id, Operation::Send);
                }
            }
        }
    }
}

fn cancel_armed(ring: &mut Ring, id: SockId, operation: Operation, armed: &mut Armed) {
    if *armed == Armed::Yes {
        *armed = Armed::Cancelling;
        ring.cancel(id, operation);
    }
}
