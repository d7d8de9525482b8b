//! The driver on epoll: readiness, turned into completions.
//!
//! Sockets are registered once, edge-triggered; whether one is readable or writable is remembered here, so that
//! stopping and starting to receive costs no system call. A send is tried at once, and its completion waits
//! for the next `poll`. EPOLLOUT is asked for only when a send did not get through: a Unix socket would otherwise
//! wake the worker each time its peer reads.

mod sockets;

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{connect, getsockopt, sockopt};
use shmesh_shm::OpenBlock;

use self::sockets::{Arrival, Connecting, Kind, Listener, Sending, Sent, Socket, Stream, list_if_readable, stream_mut};
use crate::bell::Bell;
use crate::chunk::Chunks;
use crate::clock::{Clock, Random};
use crate::driver::{ACCEPT_PAUSE, AtRest, Driver, Event, Limits, Nanos, PeerCheck, SockId, Tag, Target, Wait};
use crate::earlier::Earlier;
use crate::pool::Pool;
use crate::slice::Slice;
use crate::table::Table;
use crate::waker::Waker;
use crate::{socket, sys};

/// Slots that one socket may fill in one `poll`, so that a fast peer does not keep the others waiting.
const SLOTS_PER_SOCKET_AND_POLL: usize = 4;

/// Connections taken from one listener in one `poll`.
const ACCEPTS_PER_POLL: usize = 64;

/// Sockets whose readiness one system call reports.
const READY_PER_POLL: usize = 256;

/// A Unix listener whose backlog is full refuses to queue; the driver asks again after this long.
const UNIX_CONNECT_RETRY: Nanos = 1_000_000;

/// Stands for the waker in the readiness list; no socket has it, because no table has 2^32 rows.
const WAKER: u64 = u64::MAX;

/// See the [module documentation](self).
#[derive(Debug)]
pub struct EpollDriver {
    epoll: Epoll,
    sockets: Table<Socket>,
    pool: Pool,
    clock: Clock,
    random: Random,
    waker: Waker,
    /// Sockets with a completion that happened outside `poll`.
    completed: VecDeque<SockId>,
    /// Those of them for which no wait ends.
    unawaited: VecDeque<SockId>,
    /// Sends refused because another one was in flight, or for want of a connection.
    refused: Vec<(SockId, Errno, Chunks)>,
    /// Sockets that may have more to read, without the kernel telling again.
    readable: Vec<SockId>,
    /// That list, while it is worked through.
    reading: Vec<SockId>,
    /// Listeners that pause, and until when.
    paused: Vec<(SockId, Nanos)>,
    /// Unix sockets whose connect has to be asked for again.
    unqueued: Vec<SockId>,
    ready: Box<[libc::epoll_event]>,
    /// How often `poll` was called.
    polls: u64,
    suspended: bool,
}

impl EpollDriver {
    /// Makes a driver for the current thread.
    pub fn new(limits: Limits) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let waker = Waker::new()?;
        epoll.add(&waker, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, WAKER))?;
        Ok(Self {
            epoll,
            sockets: Table::new(),
            pool: Pool::new(limits.pool_slots)?,
            clock: Clock::new(),
            random: Random::new(),
            waker,
            completed: VecDeque::new(),
            unawaited: VecDeque::new(),
            refused: Vec::new(),
            readable: Vec::new(),
            reading: Vec::new(),
            paused: Vec::new(),
            unqueued: Vec::new(),
            ready: vec![libc::epoll_event { events: 0, u64: 0 }; READY_PER_POLL].into(),
            polls: 0,
            suspended: false,
        })
    }
}

impl Driver for EpollDriver {
    fn name(&self) -> &'static str {
        "epoll"
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
        socket::set_nonblocking(&socket)?;
        let kind = Kind::Listener(Listener { tcp, wanted: true });
        let id = self.insert(socket, tag, kind);
        self.register_or_remove(id, LISTENER)?;
        Ok(id)
    }

    fn stop_accept(&mut self, listener: SockId) {
        self.paused.retain(|(id, _)| *id != listener);
        if let Some(socket) = self.sockets.get_mut(listener)
            && let Kind::Listener(Listener { wanted, .. }) = &mut socket.kind
        {
            *wanted = false;
            socket.unregister(&self.epoll);
        }
    }

    fn resume_accept(&mut self, listener: SockId) {
        if let Some(socket) = self.sockets.get_mut(listener)
            && let Kind::Listener(Listener { wanted, .. }) = &mut socket.kind
            && {
                *wanted = true;
                !self.suspended
            }
            && !socket.registered
            && socket.register(&self.epoll, listener, LISTENER).is_err()
        {
            // Out of kernel memory or watches: as good as out of descriptors.
            self.paused.push((listener, self.clock.now() + ACCEPT_PAUSE));
        }
    }

    fn connect(&mut self, target: &Target, tag: Tag) -> io::Result<SockId> {
        let (socket, addr) = socket::for_target(target, true)?;
        let mut stream = Stream::new(matches!(target, Target::Unix(_)));
        stream.connecting = Some(Connecting { addr, result: None });
        let id = self.insert(socket, tag, Kind::Stream(stream));
        self.start_connect(id)?;
        Ok(id)
    }

    fn adopt(&mut self, socket: OwnedFd, tag: Tag) -> io::Result<SockId> {
        let tcp = socket::is_tcp(socket.as_fd())?;
        if tcp {
            socket::set_nodelay(&socket)?;
        }
        socket::set_nonblocking(&socket)?;
        let id = self.insert(socket, tag, Kind::Stream(Stream::new(!tcp)));
        self.register_or_remove(id, STREAM)?;
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
        if let Some(socket) = self.sockets.get_mut(sock) {
            socket.tag = tag;
        }
    }

    fn start_recv(&mut self, sock: SockId) {
        if let Some((_, stream)) = stream_mut(&mut self.sockets, sock) {
            stream.receiving = true;
            list_if_readable(&mut self.readable, sock, stream);
        }
    }

    fn stop_recv(&mut self, sock: SockId) {
        if let Some((_, stream)) = stream_mut(&mut self.sockets, sock) {
            stream.receiving = false;
            stream.block = None;
        }
    }

    fn land(&mut self, sock: SockId, block: OpenBlock) {
        if let Some((_, stream)) = stream_mut(&mut self.sockets, sock)
            && stream.receiving
            && !stream.ended
            && stream.block.is_none()
            && !block.is_empty()
        {
            stream.block = Some(block);
        }
    }

    fn send(&mut self, sock: SockId, chunks: Chunks) {
        self.begin_send(sock, chunks, true);
    }

    fn send_unawaited(&mut self, sock: SockId, chunks: Chunks) {
        self.begin_send(sock, chunks, false);
    }

    fn receive_alone(&mut self, sock: SockId, always: bool) {
        if let Some((_, stream)) = stream_mut(&mut self.sockets, sock) {
            stream.always_alone = always;
            stream.alone |= always;
        }
    }

    fn shutdown_write(&mut self, sock: SockId) {
        if let Some((fd, stream)) = stream_mut(&mut self.sockets, sock) {
            if stream.sending.is_some() {
                stream.shutdown_after_send = true;
            } else {
                socket::shutdown_write(fd);
            }
        }
    }

    fn sever(&mut self, sock: SockId, cut: bool) {
        if let Some(socket) = self.sockets.get(sock) {
            socket::sever(&socket.fd, cut);
        }
    }

    fn close(&mut self, sock: SockId) {
        if let Some(mut socket) = self.sockets.remove(sock) {
            // A description that others hold too (a listener handed over, an eventfd of an app) stays registered when
            // our descriptor closes.
            socket.unregister(&self.epoll);
        }
        self.paused.retain(|(id, _)| *id != sock);
    }

    fn close_reset(&mut self, sock: SockId) {
        if let Some(socket) = self.sockets.get(sock) {
            socket::reset_on_close(&socket.fd);
        }
        self.close(sock);
    }

    fn watch(&mut self, fd: OwnedFd, tag: Tag) -> io::Result<SockId> {
        let id = self.insert(fd, tag, Kind::Watched);
        self.register_or_remove(id, WATCHED)?;
        Ok(id)
    }

    fn ring(&mut self, bell: &Bell) {
        socket::ring(bell);
    }

    fn poll(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()> {
        self.polls += 1;
        while let Some(id) = self.unawaited.pop_front() {
            self.report_socket(id, events);
        }
        let before = events.len();
        self.report_completed(events);
        if !self.suspended {
            self.read_more(events);
        }
        let something = events.len() > before || !self.readable.is_empty() && !self.suspended;
        let timeout = self.timeout(wait, something);
        let count = sys::epoll_wait(&self.epoll.0, &mut self.ready, timeout)?;
        self.clock.refresh();
        for at in 0..count {
            let libc::epoll_event { events: flags, u64 } = self.ready[at];
            let flags = EpollFlags::from_bits_retain(flags as i32);
            if u64 == WAKER {
                self.waker.take();
                events.push(Event::Woken);
            } else {
                self.on_ready(unpack(u64), flags, events);
            }
        }
        self.end_pauses();
        self.retry_connects(events);
        Ok(())
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn suspend(&mut self) {
        self.suspended = true;
        for id in self.wanted_listeners() {
            if let Some(socket) = self.sockets.get_mut(id) {
                socket.unregister(&self.epoll);
            }
        }
    }

    fn is_at_rest(&self) -> bool {
        self.suspended && self.completed.is_empty() && self.unawaited.is_empty() && self.refused.is_empty()
    }

    fn resume(&mut self) {
        self.suspended = false;
        for id in self.wanted_listeners() {
            let paused = self.paused.iter().any(|(paused, _)| *paused == id);
            if !paused {
                self.resume_accept(id);
            }
        }
        let sends = |(id, socket): (SockId, &Socket)| match &socket.kind {
            Kind::Stream(stream) if stream.sending.is_some() => Some(id),
            _ => None,
        };
        let sending: Vec<SockId> = self.sockets.iter().filter_map(sends).collect();
        for id in sending {
            self.go_on_sending(id, true);
        }
    }

    fn at_rest(&self, sock: SockId) -> Option<AtRest<'_>> {
        self.sockets.get(sock)?.at_rest()
    }

    fn precede(&mut self, sock: SockId, arrived: Vec<Slice>, end: Option<Option<io::Error>>) {
        if let Some((_, stream)) = stream_mut(&mut self.sockets, sock) {
            stream.earlier = Earlier::new(arrived, end);
        }
    }
}

const STREAM: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLRDHUP).union(EpollFlags::EPOLLET);
const STREAM_BLOCKED: EpollFlags = STREAM.union(EpollFlags::EPOLLOUT);
const WATCHED: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLET);
/// Level-triggered, and only one of the workers that share a listener is woken for a connection.
const LISTENER: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLEXCLUSIVE);

impl EpollDriver {
    fn insert(&mut self, fd: OwnedFd, tag: Tag, kind: Kind) -> SockId {
        self.sockets.insert(Socket { fd, tag, registered: false, kind })
    }

    fn register_or_remove(&mut self, id: SockId, flags: EpollFlags) -> io::Result<()> {
        let Some(socket) = self.sockets.get_mut(id) else {
            return Ok(());
        };
        let registered = socket.register(&self.epoll, id, flags);
        if registered.is_err() {
            self.sockets.remove(id);
        }
        registered
    }

    fn begin_send(&mut self, sock: SockId, chunks: Chunks, awaited: bool) {
        let Some((_, stream)) = stream_mut(&mut self.sockets, sock) else {
            return;
        };
        if stream.sending.is_some() || stream.sent.is_some() {
            self.refused.push((sock, Errno::EALREADY, chunks));
            return;
        }
        if stream.connecting.is_some() {
            self.refused.push((sock, Errno::ENOTCONN, chunks));
            return;
        }
        let held = self.suspended && !chunks.is_empty();
        stream.sending = Some(Sending { bytes: chunks.len_bytes() as u64, chunks });
        if !held {
            self.go_on_sending(sock, awaited);
        }
    }

    fn go_on_sending(&mut self, sock: SockId, awaited: bool) {
        let Some((fd, stream)) = stream_mut(&mut self.sockets, sock) else {
            return;
        };
        if let Some(sent) = stream.go_on_sending(fd) {
            let list = if awaited || sent.result.is_err() { &mut self.completed } else { &mut self.unawaited };
            list.push_back(sock);
            stream.sent = Some(sent);
        } else {
            self.await_writable(sock);
        }
    }

    fn wanted_listeners(&self) -> Vec<SockId> {
        let wanted = |socket: &Socket| matches!(socket.kind, Kind::Listener(Listener { wanted: true, .. }));
        self.sockets.iter().filter(|(_, socket)| wanted(socket)).map(|(id, _)| id).collect()
    }

    /// How long to wait in the kernel: not at all if there is something to report already.
    fn timeout(&mut self, wait: Wait, something: bool) -> Option<Nanos> {
        if something || wait == Wait::Now {
            return Some(0);
        }
        let mut timeout = match wait {
            Wait::Until(time) => Some(time.saturating_sub(self.clock.refresh())),
            _ => None,
        };
        if !self.unqueued.is_empty() {
            timeout = Some(timeout.unwrap_or(UNIX_CONNECT_RETRY).min(UNIX_CONNECT_RETRY));
        }
        if let Some(end) = self.paused.iter().map(|(_, end)| *end).min() {
            let pause = end.saturating_sub(self.clock.refresh());
            timeout = Some(timeout.unwrap_or(pause).min(pause));
        }
        timeout
    }

    fn report_completed(&mut self, events: &mut Vec<Event>) {
        while let Some(id) = self.completed.pop_front() {
            self.report_socket(id, events);
        }
        for (sock, errno, mut chunks) in self.refused.drain(..) {
            chunks.clear();
            if let Some(socket) = self.sockets.get(sock) {
                events.push(Event::Sent { tag: socket.tag, sock, result: Err(errno.into()), chunks });
            }
        }
    }

    fn report_socket(&mut self, id: SockId, events: &mut Vec<Event>) {
        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        let tag = socket.tag;
        let Kind::Stream(stream) = &mut socket.kind else {
            return;
        };
        if let Some(Sent { chunks, result }) = stream.sent.take() {
            events.push(Event::Sent { tag, sock: id, result, chunks });
        }
        if let Some(result) = stream.connecting.as_mut().and_then(|c| c.result.take()) {
            stream.connecting = None;
            events.push(Event::Connected { tag, sock: id, result });
        }
    }

    fn read_more(&mut self, events: &mut Vec<Event>) {
        // Who is still readable after its share is listed anew, for the next time.
        mem::swap(&mut self.readable, &mut self.reading);
        for at in 0..self.reading.len() {
            let id = self.reading[at];
            if let Some((_, stream)) = stream_mut(&mut self.sockets, id) {
                stream.listed = false;
                self.read(id, events);
            }
        }
        self.reading.clear();
    }

    fn on_ready(&mut self, id: SockId, flags: EpollFlags, events: &mut Vec<Event>) {
        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        match &mut socket.kind {
            Kind::Watched => events.push(Event::Rung { tag: socket.tag }),
            Kind::Listener(_) => self.accept(id, events),
            Kind::Stream(_) => self.on_stream_ready(id, flags, events),
        }
    }

    fn on_stream_ready(&mut self, id: SockId, flags: EpollFlags, events: &mut Vec<Event>) {
        const FAILED: EpollFlags = EpollFlags::EPOLLERR.union(EpollFlags::EPOLLHUP);
        const ENDING: EpollFlags = FAILED.union(EpollFlags::EPOLLRDHUP);
        const READABLE: EpollFlags = ENDING.union(EpollFlags::EPOLLIN);
        const WRITABLE: EpollFlags = FAILED.union(EpollFlags::EPOLLOUT);

        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        let tag = socket.tag;
        let Kind::Stream(stream) = &mut socket.kind else {
            return;
        };
        stream.readable |= flags.intersects(READABLE);
        stream.end_in_sight |= flags.intersects(ENDING);
        if flags.intersects(WRITABLE) {
            if stream.connecting.is_some() {
                stream.connecting = None;
                events.push(Event::Connected { tag, sock: id, result: connect_result(&socket.fd) });
            } else if !self.suspended
                && let Some(Sent { chunks, result }) = stream.go_on_sending(&socket.fd)
            {
                events.push(Event::Sent { tag, sock: id, result, chunks });
                self.stop_awaiting_writable(id);
            }
        }
        self.read(id, events);
    }

    /// Reads a socket's share, if it is readable and wanted.
    fn read(&mut self, id: SockId, events: &mut Vec<Event>) {
        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        let tag = socket.tag;
        let Kind::Stream(stream) = &mut socket.kind else {
            return;
        };
        if stream.receiving && !self.suspended && !stream.earlier.is_empty() {
            // What may be landed into a block comes in a later `poll`.
            stream.done_in = self.polls;
            if stream.earlier.report(tag, id, events) {
                stream.end();
            }
        }
        let mut share = SLOTS_PER_SOCKET_AND_POLL;
        let suspended = self.suspended;
        let wanted = |stream: &Stream| stream.receiving && stream.readable && !stream.ended && !suspended;
        while share > 0 && wanted(stream) && stream.done_in != self.polls {
            match stream.receive(&socket.fd, &self.pool) {
                Ok(None) => {
                    stream.end();
                    events.push(Event::Ended { tag, sock: id, error: None });
                }
                Ok(Some(Arrival::Bytes(data))) => {
                    share -= 1;
                    if mem::replace(&mut stream.alone, stream.always_alone) {
                        stream.done_in = self.polls;
                    }
                    events.push(Event::Received { tag, sock: id, data });
                }
                Ok(Some(Arrival::Block(block, len))) => {
                    stream.alone = true;
                    stream.done_in = self.polls;
                    events.push(Event::Landed { tag, sock: id, block, len });
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => stream.readable = false,
                    _ => {
                        stream.end();
                        events.push(Event::Ended { tag, sock: id, error: Some(error) });
                    }
                },
            }
        }
        list_if_readable(&mut self.readable, id, stream);
    }

    fn accept(&mut self, listener: SockId, events: &mut Vec<Event>) {
        for _ in 0..ACCEPTS_PER_POLL {
            let Some(socket) = self.sockets.get(listener) else {
                return;
            };
            let (tag, Kind::Listener(Listener { tcp, .. })) = (socket.tag, &socket.kind) else {
                return;
            };
            let tcp = *tcp;
            let accepted = sys::accept(socket.fd.as_fd(), true)
                .and_then(|fd| socket::peer(fd.as_fd(), tcp).map(|peer| (fd, peer)))
                .and_then(|(fd, peer)| {
                    let id = self.insert(fd, 0, Kind::Stream(Stream::new(!tcp)));
                    self.register_or_remove(id, STREAM)?;
                    Ok((id, peer))
                });
            match accepted {
                Ok((sock, peer)) => events.push(Event::Accepted { tag, sock, peer }),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if socket::is_passing(&error) => {}
                Err(error) => {
                    self.stop_accept(listener);
                    if socket::is_exhaustion(&error) {
                        self.paused.push((listener, self.clock.now() + ACCEPT_PAUSE));
                        events.push(Event::AcceptPaused { tag, error });
                    } else {
                        events.push(Event::Ended { tag, sock: listener, error: Some(error) });
                    }
                    return;
                }
            }
        }
    }

    fn end_pauses(&mut self) {
        let now = self.clock.now();
        while let Some(at) = self.paused.iter().position(|(_, end)| *end <= now) {
            let (listener, _) = self.paused.swap_remove(at);
            self.resume_accept(listener);
        }
    }

    /// Asks the kernel to connect. A result that is there at once waits for the next `poll`.
    fn start_connect(&mut self, id: SockId) -> io::Result<()> {
        let Some(socket) = self.sockets.get_mut(id) else {
            return Ok(());
        };
        let Kind::Stream(Stream { unix, connecting: Some(connecting), blocked, .. }) = &mut socket.kind else {
            return Ok(());
        };
        match connect(socket.fd.as_raw_fd(), &connecting.addr) {
            Err(Errno::EINPROGRESS) => {
                *blocked = true;
                self.register_or_remove(id, STREAM_BLOCKED)
            }
            Err(Errno::EAGAIN) if *unix => {
                self.unqueued.push(id);
                Ok(())
            }
            Err(errno) => {
                connecting.result = Some(Err(errno.into()));
                self.completed.push_back(id);
                Ok(())
            }
            Ok(()) => {
                connecting.result = Some(Ok(()));
                self.completed.push_back(id);
                self.register_or_remove(id, STREAM)
            }
        }
    }

    fn retry_connects(&mut self, events: &mut Vec<Event>) {
        if self.unqueued.is_empty() {
            return;
        }
        for id in mem::take(&mut self.unqueued) {
            if let Err(error) = self.start_connect(id)
                && let Some(socket) = self.sockets.get(id)
            {
                events.push(Event::Connected { tag: socket.tag, sock: id, result: Err(error) });
            }
        }
        self.report_completed(events);
    }

    fn await_writable(&mut self, id: SockId) {
        let epoll = &self.epoll;
        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        if let Kind::Stream(stream) = &mut socket.kind
            && !stream.blocked
        {
            // Cannot fail for a descriptor that is registered. Reports at once if it is writable by now.
            stream.blocked = epoll.modify(&socket.fd, &mut EpollEvent::new(STREAM_BLOCKED, pack(id))).is_ok();
        }
    }

    /// TCP reports room only to those who ran out of it; a Unix socket each time its peer reads.
    fn stop_awaiting_writable(&mut self, id: SockId) {
        let epoll = &self.epoll;
        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        if let Kind::Stream(stream) = &mut socket.kind
            && stream.unix
            && stream.blocked
        {
            stream.blocked = epoll.modify(&socket.fd, &mut EpollEvent::new(STREAM, pack(id))).is_err();
        }
    }
}

fn connect_result(socket: &OwnedFd) -> io::Result<()> {
    match getsockopt(socket, sockopt::SocketError)? {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn pack(id: SockId) -> u64 {
    u64::from(id.index()) << 32 | u64::from(id.generation())
}

fn unpack(data: u64) -> SockId {
    SockId::new((data >> 32) as u32, data as u32)
}
