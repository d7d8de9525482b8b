//! The simulated driver: the network's state, turned into completions.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use nix::errno::Errno;
use shmesh_shm::OpenBlock;

use super::bells::Bells;
use super::connection::{EndId, Owner};
use super::network::{Happening, ListenerId, VirtualClock};
use super::stream::{Sending, Sent, Stream};
use super::world::{Node, World};
use crate::bell::Bell;
use crate::chunk::Chunks;
use crate::clock::Random;
use crate::driver::{
    ACCEPT_PAUSE, AtRest, Driver, Event, Limits, Nanos, PeerAddr, PeerCheck, SockId, Tag, Target, Wait,
};
use crate::earlier::Earlier;
use crate::pool::Pool;
use crate::slice::Slice;
use crate::socket;
use crate::table::Table;
use crate::waker::Waker;

/// Slots that one socket may fill in one `poll`, as with `epoll`.
const SLOTS_PER_SOCKET_AND_POLL: usize = 4;

/// Connections taken from one listener in one `poll`.
const ACCEPTS_PER_POLL: usize = 64;

/// The driver of one worker in a simulated world. See the [module documentation](super).
pub struct SimDriver {
    pub(super) world: World,
    pub(super) node: Node,
    pub(super) waker: Waker,
    pub(super) clock: Rc<VirtualClock>,
    now: Nanos,
    random: Random,
    pool: Pool,
    pub(super) sockets: Table<Socket>,
    pub(super) bells: Bells,
    /// Sends that were not begun.
    pub(super) refused: Vec<(SockId, Errno, Chunks)>,
    /// Sockets whose send is done, which is no reason to end a wait.
    unawaited: Vec<SockId>,
    /// The list of sockets to which something happened, while it is worked through.
    sorting: Vec<SockId>,
    pub(super) rung: Vec<SockId>,
    /// What is on its way from chunks to the network, or from there to a block.
    piece: Vec<u8>,
    polls: u32,
    suspended: bool,
}

pub(super) struct Socket {
    pub(super) tag: Tag,
    pub(super) kind: Kind,
    /// The placeholder, kept as long as a kernel socket would be; of a connection that began here, once it rests.
    pub(super) fd: Option<OwnedFd>,
}

pub(super) enum Kind {
    Listener(Listener),
    Stream(Stream),
    Watched,
}

pub(super) struct Listener {
    id: ListenerId,
    accepting: bool,
    /// Until when it pauses.
    paused_until: Nanos,
}

impl SimDriver {
    /// A driver of the process called `name`. A process may have several.
    ///
    /// # Errors
    /// The waker's eventfd or the pool's memory cannot be had.
    pub fn new(world: &World, name: &str, limits: Limits) -> io::Result<Self> {
        let pool = Pool::new(limits.pool_slots)?;
        let (node, waker, random) = world.settle_in(name)?;
        Ok(Self {
            world: world.clone(),
            node,
            waker,
            clock: world.clock(),
            now: world.now(),
            random,
            pool,
            sockets: Table::new(),
            bells: Bells::default(),
            refused: Vec::new(),
            unawaited: Vec::new(),
            sorting: Vec::new(),
            rung: Vec::new(),
            piece: Vec::new(),
            polls: 0,
            suspended: false,
        })
    }

    /// Its place in the world.
    pub fn node(&self) -> Node {
        self.node.clone()
    }
}

impl Driver for SimDriver {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn now(&self) -> Nanos {
        self.now
    }

    fn refresh_clock(&mut self) -> Nanos {
        self.world.tick();
        self.now = self.clock.now.get();
        self.now
    }

    fn random(&mut self) -> u64 {
        self.random.next()
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn listen(&mut self, socket: OwnedFd, tag: Tag) -> io::Result<SockId> {
        self.check_alive()?;
        let id = self.world.listener_of(&socket)?;
        let listener = Listener { id, accepting: true, paused_until: 0 };
        let sock = self.insert(tag, Kind::Listener(listener), Some(socket));
        let owner = self.owner(sock);
        self.world.net(|net| {
            if let Some(listener) = net.listeners.get_mut(id) {
                listener.owner = owner;
            }
        });
        // Some may wait already.
        self.node.0.list(sock);
        Ok(sock)
    }

    fn stop_accept(&mut self, listener: SockId) {
        if let Some(listener) = self.listener_mut(listener) {
            listener.accepting = false;
        }
    }

    fn resume_accept(&mut self, listener: SockId) {
        if let Some(found) = self.listener_mut(listener) {
            found.accepting = true;
            found.paused_until = 0;
            self.node.0.list(listener);
        }
    }

    fn connect(&mut self, target: &Target, tag: Tag) -> io::Result<SockId> {
        self.check_alive()?;
        if let Target::Unix(path) = target {
            socket::unix_addr(path)?;
        }
        if self.node.0.out_of_descriptors.get() {
            return Err(Errno::EMFILE.into());
        }
        let end = self.world.net(|net| net.new_connecting(target, Owner::Nobody));
        let mut stream = Stream::new(end);
        stream.connecting = true;
        let sock = self.insert(tag, Kind::Stream(stream), None);
        self.own(end, sock);
        self.world.net(|net| net.knock_first(end));
        Ok(sock)
    }

    fn adopt(&mut self, socket: OwnedFd, tag: Tag) -> io::Result<SockId> {
        self.check_alive()?;
        let end = self.world.end_of(&socket)?;
        let sock = self.insert(tag, Kind::Stream(Stream::new(end)), Some(socket));
        self.own(end, sock);
        Ok(sock)
    }

    fn original_dst(&self, _sock: SockId) -> Option<SocketAddr> {
        // The world has no packet filter.
        None
    }

    fn check_peer(&mut self, _sock: SockId, _check: PeerCheck) {
        // Its network loses nothing: a peer that is gone has said so.
    }

    fn set_tag(&mut self, sock: SockId, tag: Tag) {
        if let Some(socket) = self.sockets.get_mut(sock) {
            socket.tag = tag;
        }
    }

    fn start_recv(&mut self, sock: SockId) {
        if let Some(stream) = stream_mut(&mut self.sockets, sock) {
            stream.receiving = true;
            let end = stream.end;
            let earlier = !stream.earlier.is_empty();
            if earlier || self.world.net(|net| net.ends.get(end).is_some_and(|end| end.is_readable())) {
                self.node.0.list(sock);
            }
        }
    }

    fn stop_recv(&mut self, sock: SockId) {
        if let Some(stream) = stream_mut(&mut self.sockets, sock) {
            stream.receiving = false;
            stream.block = None;
        }
    }

    fn land(&mut self, sock: SockId, block: OpenBlock) {
        if let Some(stream) = stream_mut(&mut self.sockets, sock)
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
        if let Some(stream) = stream_mut(&mut self.sockets, sock) {
            stream.always_alone = always;
            stream.alone |= always;
        }
    }

    fn shutdown_write(&mut self, sock: SockId) {
        if let Some(stream) = stream_mut(&mut self.sockets, sock) {
            if stream.sending.is_some() {
                stream.shutdown_after_send = true;
            } else {
                let end = stream.end;
                self.world.net(|net| net.finish(end));
            }
        }
    }

    /// Here closing ends a connection, whoever has it.
    fn sever(&mut self, _: SockId, _: bool) {}

    fn close(&mut self, sock: SockId) {
        self.remove(sock, false);
    }

    fn close_reset(&mut self, sock: SockId) {
        self.remove(sock, true);
    }

    fn watch(&mut self, fd: OwnedFd, tag: Tag) -> io::Result<SockId> {
        self.check_alive()?;
        let sock = self.insert(tag, Kind::Watched, None);
        self.bells.watch(sock, fd);
        Ok(sock)
    }

    fn ring(&mut self, bell: &Bell) {
        if !self.node.is_dead() {
            socket::ring(bell);
        }
    }

    fn poll(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()> {
        self.report_unawaited(events);
        let before = events.len();
        self.polls = self.polls.wrapping_add(1);
        if self.has_due() {
            self.check_alive()?;
            self.collect(events);
        }
        if wait != Wait::Now && events.len() == before && !self.node.0.due.get() {
            self.wait(wait, events);
            self.check_alive()?;
        } else if self.polls.is_multiple_of(self.world.look_every()) {
            self.look_at_bells(events);
        }
        if self.suspended {
            self.make_placeholders()?;
        }
        self.now = self.clock.now.get();
        Ok(())
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn suspend(&mut self) {
        self.suspended = true;
    }

    fn is_at_rest(&self) -> bool {
        self.suspended && self.rests()
    }

    fn resume(&mut self) {
        self.suspended = false;
        let all: Vec<SockId> = self.sockets.iter().map(|(sock, _)| sock).collect();
        all.into_iter().for_each(|sock| self.node.0.list(sock));
    }

    fn at_rest(&self, sock: SockId) -> Option<AtRest<'_>> {
        self.sockets.get(sock)?.at_rest()
    }

    fn precede(&mut self, sock: SockId, arrived: Vec<Slice>, end: Option<Option<io::Error>>) {
        if let Some(stream) = stream_mut(&mut self.sockets, sock) {
            stream.earlier = Earlier::new(arrived, end);
        }
        self.node.0.list(sock);
    }
}

impl SimDriver {
    fn begin_send(&mut self, sock: SockId, chunks: Chunks, awaited: bool) {
        if self.node.is_dead() {
            return;
        }
        let Some(stream) = stream_mut(&mut self.sockets, sock) else {
            return;
        };
        let refusal = match stream {
            Stream { connecting: true, .. } => Some(Errno::ENOTCONN),
            Stream { sending: None, sent: None, .. } => None,
            _ => Some(Errno::EALREADY),
        };
        if let Some(errno) = refusal {
            self.refused.push((sock, errno, chunks));
            self.node.0.due.set(true);
            return;
        }
        let end = stream.end;
        let failed = self.world.net(|net| {
            let failed = net.chance(net.faults.send_error_ppm);
            if failed {
                net.break_off(end);
            }
            failed
        });
        if failed {
            let mut chunks = chunks;
            chunks.clear();
            stream.sent = Some(Sent { chunks, result: Err(Errno::ECONNRESET.into()) });
        } else {
            let held = self.suspended && !chunks.is_empty();
            stream.sending = Some(Sending { bytes: chunks.len_bytes() as u64, chunks });
            if !held {
                stream.go_on_sending(&self.world, &mut self.piece);
            }
        }
        match &stream.sent {
            Some(Sent { result: Ok(_), .. }) if !awaited => self.unawaited.push(sock),
            Some(_) => self.node.0.list(sock),
            None => {}
        }
    }

    fn check_alive(&self) -> io::Result<()> {
        if self.node.is_dead() { Err(io::Error::other("this process was killed")) } else { Ok(()) }
    }

    /// [`Node::has_due`], in fewer steps.
    pub(super) fn has_due(&self) -> bool {
        self.node.0.due.get() || self.waker.is_pending()
    }

    fn owner(&self, sock: SockId) -> Owner {
        Owner::Driver(self.node.number(), sock)
    }

    fn insert(&mut self, tag: Tag, kind: Kind, fd: Option<OwnedFd>) -> SockId {
        let open = &self.node.0.open;
        open.set(open.get() + 1);
        self.sockets.insert(Socket { tag, kind, fd })
    }

    fn own(&mut self, end: EndId, sock: SockId) {
        let owner = self.owner(sock);
        self.world.net(|net| {
            if let Some(end) = net.ends.get_mut(end) {
                end.owner = owner;
                end.listed = false;
            }
        });
    }

    fn remove(&mut self, sock: SockId, reset: bool) {
        let Some(socket) = self.sockets.remove(sock) else {
            return;
        };
        let open = &self.node.0.open;
        open.set(open.get() - 1);
        // A killed process has nothing left to close.
        let dead = self.node.is_dead();
        match &socket.kind {
            Kind::Watched => self.bells.forget(sock),
            Kind::Listener(listener) if !dead => self.world.net(|net| net.close_listener(listener.id)),
            Kind::Stream(stream) if !dead => self.world.net(|net| net.close(stream.end, reset)),
            _ => {}
        }
    }

    fn listener_mut(&mut self, sock: SockId) -> Option<&mut Listener> {
        match &mut self.sockets.get_mut(sock)?.kind {
            Kind::Listener(listener) => Some(listener),
            _ => None,
        }
    }

    fn report_unawaited(&mut self, events: &mut Vec<Event>) {
        for sock in self.unawaited.drain(..) {
            if let Some(Socket { tag, kind: Kind::Stream(stream), .. }) = self.sockets.get_mut(sock)
                && let Some(Sent { chunks, result }) = stream.sent.take()
            {
                events.push(Event::Sent { tag: *tag, sock, result, chunks });
            }
        }
    }

    /// Reports what is due, in any order.
    pub(super) fn collect(&mut self, events: &mut Vec<Event>) {
        let place = &self.node.0;
        if place.dead.get() {
            return;
        }
        if self.waker.is_pending() {
            self.waker.drain();
            self.waker.take();
            events.push(Event::Woken);
        }
        if !place.due.replace(false) {
            return;
        }
        let mut sorting = mem::take(&mut self.sorting);
        mem::swap(&mut *place.listed.borrow_mut(), &mut sorting);
        for (sock, errno, mut chunks) in mem::take(&mut self.refused) {
            chunks.clear();
            if let Some(socket) = self.sockets.get(sock) {
                events.push(Event::Sent { tag: socket.tag, sock, result: Err(errno.into()), chunks });
            }
        }
        if sorting.len() > 1 {
            self.world.net(|net| {
                for at in (1..sorting.len()).rev() {
                    sorting.swap(at, net.random.below(at as u64 + 1) as usize);
                }
            });
        }
        for sock in sorting.drain(..) {
            self.report(sock, events);
        }
        self.sorting = sorting;
    }

    fn report(&mut self, sock: SockId, events: &mut Vec<Event>) {
        match self.sockets.get(sock) {
            Some(Socket { kind: Kind::Listener(_), .. }) => self.accept(sock, events),
            Some(Socket { kind: Kind::Stream(_), .. }) => self.report_stream(sock, events),
            _ => {}
        }
    }

    fn report_stream(&mut self, sock: SockId, events: &mut Vec<Event>) {
        let Some(Socket { tag, kind: Kind::Stream(stream), .. }) = self.sockets.get_mut(sock) else {
            return;
        };
        let (tag, end) = (*tag, stream.end);
        let sends = stream.sending.is_some() || stream.sent.is_some();
        let (answer, receives_first) = self.world.net(|net| {
            let Some(end) = net.ends.get_mut(end) else {
                return (None, false);
            };
            end.listed = false;
            let answer = end.answer.take();
            let first = sends && end.is_readable() && net.chance(super::PPM / 2);
            (answer, first)
        });
        if let Some(answer) = answer {
            // The socket of a failed connect stays "connecting": it never gets further.
            stream.connecting = answer.is_err();
            events.push(Event::Connected { tag, sock, result: answer.map_err(Into::into) });
        }
        if receives_first {
            self.receive(sock, events);
        }
        if let Some(stream) = stream_mut(&mut self.sockets, sock) {
            if !self.suspended {
                stream.go_on_sending(&self.world, &mut self.piece);
            }
            if let Some(Sent { chunks, result }) = stream.sent.take() {
                events.push(Event::Sent { tag, sock, result, chunks });
            }
        }
        if !receives_first {
            self.receive(sock, events);
        }
    }

    /// Reads a socket's share, if something is there and wanted.
    fn receive(&mut self, sock: SockId, events: &mut Vec<Event>) {
        let Some(Socket { tag, kind: Kind::Stream(stream), .. }) = self.sockets.get_mut(sock) else {
            return;
        };
        if !stream.receiving || stream.ended || stream.connecting || self.suspended {
            return;
        }
        let tag = *tag;
        if !stream.earlier.is_empty() {
            stream.done_in = self.polls;
            stream.ended = stream.earlier.report(tag, sock, events);
        }
        let mut share = SLOTS_PER_SOCKET_AND_POLL;
        while share > 0 && !stream.ended && stream.done_in != self.polls {
            share -= 1;
            let found = self.world.net(|net| {
                let late = net.faults.late_report_ppm;
                match net.ends.get(stream.end) {
                    Some(end) if end.is_readable() => {}
                    _ => return Found::Nothing,
                }
                if net.chance(late) {
                    return Found::Later;
                }
                let Some(end) = net.ends.get_mut(stream.end) else {
                    return Found::Nothing;
                };
                if let Some(error) = end.take_end() {
                    return Found::End(error);
                }
                let arrived = end.inbound.arrived;
                let cut_ppm = net.tcp.cut_ppm;
                let cut = arrived > 1 && net.chance(cut_ppm);
                let len = if cut { 1 + net.random.below(arrived as u64 - 1) as usize } else { arrived };
                if let Some(block) = &stream.block {
                    self.piece.resize(len.min(block.len()), 0);
                    net.read(stream.end, &mut self.piece);
                    return Found::Piece;
                }
                let read = |room: &mut [u8]| {
                    let len = len.min(room.len());
                    Ok(net.read(stream.end, &mut room[..len]))
                };
                self.pool.receive_with(read).map_or_else(|_| Found::Nothing, Found::Bytes)
            });
            match found {
                Found::Nothing => return,
                Found::Later => break,
                Found::End(error) => {
                    stream.ended = true;
                    stream.block = None;
                    events.push(Event::Ended { tag, sock, error: error.map(Into::into) });
                    return;
                }
                Found::Bytes(data) => {
                    if mem::replace(&mut stream.alone, stream.always_alone) {
                        stream.done_in = self.polls;
                    }
                    events.push(Event::Received { tag, sock, data });
                }
                Found::Piece => {
                    let Some(mut block) = stream.block.take() else {
                        return;
                    };
                    // Others may run while it is written, so the network is not borrowed then.
                    let fits = block.write(0, &self.piece);
                    assert!(fits, "no more was read than there was room for");
                    events.push(Event::Landed { tag, sock, block, len: self.piece.len() as u32 });
                    stream.alone = true;
                    stream.done_in = self.polls;
                }
            }
        }
        if self.world.net(|net| net.ends.get(stream.end).is_some_and(|end| end.is_readable())) {
            self.node.0.list(sock);
        }
    }

    fn accept(&mut self, sock: SockId, events: &mut Vec<Event>) {
        for _ in 0..ACCEPTS_PER_POLL {
            let Some(Socket { tag, kind: Kind::Listener(listener), .. }) = self.sockets.get_mut(sock) else {
                return;
            };
            let (tag, id) = (*tag, listener.id);
            let now = self.clock.now.get();
            if !listener.accepting || listener.paused_until > now || self.suspended {
                return;
            }
            let exhausted = self.node.0.out_of_descriptors.get();
            let number = self.node.number();
            let accepted = self.world.net(|net| {
                net.listeners.get(id).filter(|listener| !listener.backlog.is_empty())?;
                if exhausted || net.chance(net.faults.accept_pause_ppm) {
                    net.schedule(now + ACCEPT_PAUSE, Happening::Nudge(number, sock));
                    return Some(None);
                }
                let end = net.accept(id)?;
                let (unix, remote) = net.ends.get(end).map(|end| (end.unix, end.remote))?;
                let peer = match remote {
                    Some(addr) if !unix => PeerAddr::Tcp(addr),
                    _ => PeerAddr::Unix,
                };
                Some(Some((end, peer)))
            });
            match accepted {
                None => return,
                Some(None) => {
                    listener.paused_until = now + ACCEPT_PAUSE;
                    events.push(Event::AcceptPaused { tag, error: Errno::EMFILE.into() });
                    return;
                }
                Some(Some((end, peer))) => {
                    let new = self.insert(0, Kind::Stream(Stream::new(end)), None);
                    self.own(end, new);
                    events.push(Event::Accepted { tag, sock: new, peer });
                }
            }
        }
        self.node.0.list(sock);
    }
}

/// What a look at the receiving side of a socket found.
enum Found {
    Nothing,
    /// Something, but not yet.
    Later,
    End(Option<Errno>),
    Bytes(Slice),
    /// Bytes for a block.
    Piece,
}

fn stream_mut(sockets: &mut Table<Socket>, id: SockId) -> Option<&mut Stream> {
    match &mut sockets.get_mut(id)?.kind {
        Kind::Stream(stream) => Some(stream),
        _ => None,
    }
}

/// What a process leaves behind when it ends.
impl Drop for SimDriver {
    fn drop(&mut self) {
        self.node.0.waker.take();
        if !self.node.is_dead() {
            let number = self.node.number();
            self.world.net(|net| net.kill(number));
        }
    }
}
