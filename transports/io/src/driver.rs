//! The driver: what a worker runs on.
//!
//! A driver is completion-based. The engine asks for operations, then calls [`Driver::poll`] once a loop
//! turn and gets what was completed as a batch of [`Event`]s. A driver also carries time and randomness, so
//! that a simulated one can replay a run from a seed.
//!
//! # Rules that every driver keeps (the conformance suite holds them to these)
//!
//! * A driver is made on the thread that uses it and never leaves it.
//! * A socket is named by a [`SockId`] from the moment it is made until [`Driver::close`]. The name of a closed
//!   socket is stale: every call with it does nothing, and no later `poll` produces an event for it. Events of the
//!   batch that was already handed out may still name it: compare [`SockId`]s, not only tags.
//! * Nothing an engine passes in can block the thread or make the driver fail for other sockets.
//! * `poll` may return without an event (a signal, a partial send, an early timer).
//! * [`Event::Ended`] comes at most once for a socket, after the last [`Event::Received`] and [`Event::Landed`].

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use shmesh_shm::OpenBlock;

use crate::bell::Bell;
use crate::chunk::Chunks;
use crate::pool::Pool;
use crate::slice::Slice;
use crate::waker::Waker;

/// Monotonic time in nanoseconds (CLOCK_MONOTONIC on a real driver, virtual on a simulated one).
pub type Nanos = u64;

/// Chosen by the engine for each socket; comes back in every event of that socket.
pub type Tag = u64;

/// The completion-based I/O interface of one worker. See the [module documentation](self) for the rules.
pub trait Driver {
    /// `"uring"`, `"epoll"` or `"sim"`: for the log, the metrics and the admin interface.
    fn name(&self) -> &'static str;

    /// The time of this loop turn: as old as the last [`poll`](Self::poll) or [`refresh_clock`](Self::refresh_clock).
    fn now(&self) -> Nanos;

    /// Reads the clock.
    fn refresh_clock(&mut self) -> Nanos;

    /// A random number: uniform, fast, not for secrets.
    fn random(&mut self) -> u64;

    /// The worker's buffers.
    fn pool(&self) -> &Pool;

    /// Accepts connections on a socket that is bound and listening. Each one arrives as [`Event::Accepted`].
    /// A listener that fails for good reports [`Event::Ended`] with the error.
    ///
    /// When the process is out of descriptors or memory, the driver pauses the listener for
    /// [`ACCEPT_PAUSE`] and goes on by itself.
    fn listen(&mut self, socket: OwnedFd, tag: Tag) -> io::Result<SockId>;

    /// Stops accepting; connections that the driver already took from the kernel may still arrive.
    /// The kernel goes on queueing up to the backlog.
    fn stop_accept(&mut self, listener: SockId);

    /// Accepts again after [`stop_accept`](Self::stop_accept).
    fn resume_accept(&mut self, listener: SockId);

    /// Starts to connect; completes with [`Event::Connected`], refusals included. There is no timeout: the engine
    /// has timers, and closes. A socket that failed to connect has to be closed too.
    ///
    /// # Errors
    /// Only what has nothing to do with the target: no more descriptors, a path too long for `sockaddr_un`.
    fn connect(&mut self, target: &Target, tag: Tag) -> io::Result<SockId>;

    /// Takes over a connected stream socket. Not yet receiving.
    fn adopt(&mut self, socket: OwnedFd, tag: Tag) -> io::Result<SockId>;

    /// Where an accepted TCP connection was going before the packet filter redirected it here (SO_ORIGINAL_DST; `iptables -j
    /// REDIRECT`). `None` if nothing redirected it.
    fn original_dst(&self, sock: SockId) -> Option<SocketAddr>;

    /// Has the kernel find out whether the peer of a TCP connection is still there; one that is not ends with ETIMEDOUT, as by
    /// [`Event::Ended`] or [`Event::Sent`]. Without it a peer that vanished without a word is not missed before 15 minutes, or ever.
    fn check_peer(&mut self, sock: SockId, check: PeerCheck);

    /// Changes the tag of the socket's later events.
    fn set_tag(&mut self, sock: SockId, tag: Tag);

    /// Receives until told to stop: [`Event::Received`] whenever there is something, then [`Event::Ended`].
    fn start_recv(&mut self, sock: SockId);

    /// Stops receiving: no later `poll` yields a [`Event::Received`], [`Event::Landed`] or [`Event::Ended`] of this
    /// socket until [`start_recv`](Self::start_recv). Nothing is lost: what had left the kernel already is kept for then.
    fn stop_recv(&mut self, sock: SockId);

    /// While receiving: the next bytes of this socket go into `block`, at most as many as it has room for, and come as
    /// [`Event::Landed`]. What the driver has received already, or receives until the block is in place, comes before
    /// that as [`Event::Received`], and never in the same `poll` as `Landed`: an engine that has less use for the block
    /// by then can still take it back. Nor does anything follow `Landed` in its `poll`, so that the next block comes in time.
    ///
    /// The first bytes of a socket, and the first after `Landed`, come alone in their `poll` and are at most
    /// [`SLOT_BYTES`](crate::SLOT_BYTES), so that a block for what follows them comes in time, too.
    ///
    /// Once for each call: after `Landed` the socket receives as before, unless another block is given. A second block
    /// before the first has landed is dropped, and so is an empty one, and one for a socket that is closed, ended or not
    /// receiving. [`Event::Ended`] drops it, too.
    ///
    /// [`stop_recv`](Self::stop_recv) takes the block back (dropped, as soon as the kernel is done with it). Bytes that
    /// came into it meanwhile are copied and kept, as all that had left the kernel.
    fn land(&mut self, sock: SockId, block: OpenBlock);

    /// Whether all bytes of this socket come alone, as the first ones do. For a socket whose answers go to apps: costs an operation
    /// a receive.
    fn receive_alone(&mut self, sock: SockId, always: bool);

    /// Sends all chunks in order; completes with one [`Event::Sent`]. One send at a time per socket: a second
    /// one before that event completes at once with `EALREADY` and sends nothing.
    ///
    /// The driver owns the chunks until the event (or until the kernel is done with them, after a `close`).
    /// An empty `chunks` completes with `Ok(0)`.
    fn send(&mut self, sock: SockId, chunks: Chunks);

    /// As [`send`](Self::send), for an engine that has nothing to do when all has left: that alone does not end a
    /// [`poll`](Self::poll) that waits. [`Event::Sent`] comes with the next `poll` that returns for whatever reason, before events
    /// that the sent bytes may have caused. A send that does not get through at once, or fails, is told as any other.
    fn send_unawaited(&mut self, sock: SockId, chunks: Chunks);

    /// Sends a FIN, after a send in flight, if there is one. The other direction goes on.
    fn shutdown_write(&mut self, sock: SockId);

    /// Nothing may come on this socket for a while, and then the driver may be suspended: it is to be quick then.
    fn set_aside(&mut self, _sock: SockId) {}

    /// Has the peer see the end at once, whatever copies of the socket other processes have; if it is `cut`, as [`close_reset`](Self::close_reset)
    /// would. To be followed by one of the two.
    fn sever(&mut self, sock: SockId, cut: bool);

    /// Closes, and cuts off a send in flight. Buffers that the kernel still uses stay inside until it is done.
    fn close(&mut self, sock: SockId);

    /// Closes with a reset (RST over TCP), to tell a peer that what it got is not all there was.
    fn close_reset(&mut self, sock: SockId);

    /// Watches a descriptor that others make readable (an eventfd that a shim rings): edge-triggered, never read.
    /// [`Event::Rung`] each time it is written to; rings in quick succession may share one event, and there may be
    /// one that nobody rang for.
    fn watch(&mut self, fd: OwnedFd, tag: Tag) -> io::Result<SockId>;

    /// Rings a peer's doorbell. Never blocks, whatever flags the peer has set on it; a full one counts as rung, and
    /// one whose peer is gone is ignored. Leaves at the latest with the next `poll`.
    fn ring(&mut self, bell: &Bell);

    /// Submits what was asked for, waits, and appends what was completed to `events`.
    ///
    /// # Errors
    /// Only if the driver itself is unusable.
    fn poll(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()>;

    /// A handle for other threads to end a `poll`.
    fn waker(&self) -> Waker;

    /// Begins to let go of all sockets, so that another driver can go on with them ([`at_rest`](Self::at_rest)): accepting, receiving and
    /// sending are taken back from the kernel, and nothing of that kind is begun until [`resume`](Self::resume); what the engine asks
    /// for meanwhile is noted. What the kernel has done by then is told by `poll` as ever. Connects that are under way go on; watches
    /// stay, and bells are rung.
    fn suspend(&mut self);

    /// Whether a suspended driver has let go: the kernel does nothing to any connected or listening socket, and whatever it did was told.
    fn is_at_rest(&self) -> bool;

    /// Goes on after [`suspend`](Self::suspend), as if nothing had been.
    fn resume(&mut self);

    /// What another driver needs to know of a connected socket, once this one [`is_at_rest`](Self::is_at_rest). `None` for what is not
    /// connected, or no connection.
    fn at_rest(&self, sock: SockId) -> Option<AtRest<'_>>;

    /// Of a socket that was adopted, and another driver had let go: `arrived` is told before anything is received; then, if there is an
    /// `end`, that, and nothing is received at all. To be called before anything else is asked of the socket.
    fn precede(&mut self, sock: SockId, arrived: Vec<Slice>, end: Option<Option<io::Error>>);
}

/// A connection that a suspended driver has let go.
#[derive(Debug)]
pub struct AtRest<'a> {
    pub socket: BorrowedFd<'a>,
    /// Bytes that have left the kernel, and were not told as receiving is stopped.
    pub arrived: Vec<&'a Slice>,
    /// What comes after these, if that is known already: the end, in order or with an error.
    pub end: Option<Option<&'a io::Error>>,
    /// What is left of the send that has not ended; its [`Event::Sent`] never comes. Never empty.
    pub unsent: Option<&'a Chunks>,
}

/// How long a listener pauses after the process ran out of descriptors or memory, in nanoseconds.
pub const ACCEPT_PAUSE: Nanos = 100_000_000;

/// What was completed.
#[derive(Debug)]
pub enum Event {
    /// A connection arrived at the listener tagged `tag`. `sock` has tag 0 and is not receiving yet.
    Accepted { tag: Tag, sock: SockId, peer: PeerAddr },
    /// No descriptor or no memory is left to accept with: the listener tagged `tag` accepts nothing for [`ACCEPT_PAUSE`].
    AcceptPaused { tag: Tag, error: io::Error },
    /// A [`Driver::connect`] ended.
    Connected { tag: Tag, sock: SockId, result: io::Result<()> },
    /// Bytes arrived; `data` is never empty.
    Received { tag: Tag, sock: SockId, data: Slice },
    /// Bytes arrived in the block that was given to [`Driver::land`]; `len` is never 0.
    Landed { tag: Tag, sock: SockId, block: OpenBlock, len: u32 },
    /// No more bytes will arrive. `None`: the peer ended its stream in order; it may still receive.
    Ended { tag: Tag, sock: SockId, error: Option<io::Error> },
    /// A send ended: `Ok` with the number of bytes, all of them, or the error that cut it short. `chunks` is
    /// emptied, to be filled again.
    Sent { tag: Tag, sock: SockId, result: io::Result<u64>, chunks: Chunks },
    /// A watched descriptor was rung.
    Rung { tag: Tag },
    /// A [`Waker`] was used.
    Woken,
}

/// How long [`Driver::poll`] may wait for an event.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Wait {
    /// Not at all.
    Now,
    /// Until this time on the driver's clock.
    Until(Nanos),
    /// Until something happens.
    Forever,
}

/// Names a socket of one driver. An index that is used again gets another generation.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub struct SockId {
    index: u32,
    generation: u32,
}

impl SockId {
    /// For drivers; an engine only gets and gives back ids.
    pub const fn new(index: u32, generation: u32) -> Self {
        Self { index, generation }
    }

    /// Position in the driver's table.
    pub const fn index(self) -> u32 {
        self.index
    }

    /// Tells apart the sockets that had the same index, one after the other.
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

/// When a peer counts as gone.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct PeerCheck {
    /// On a connection without a byte for so long it is asked for an acknowledgement, and again after each quarter of that.
    pub probe_after: Duration,
    /// What was sent may stay without acknowledgement, and the peer may take nothing, for so long (TCP_USER_TIMEOUT). `None`: as long as the
    /// system has it.
    pub unacknowledged: Option<Duration>,
}

/// Where an accepted connection came from.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum PeerAddr {
    Tcp(SocketAddr),
    Unix,
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => write!(f, "tcp:{addr}"),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// What to connect to.
#[derive(Clone, Eq, PartialEq, Hash, Debug)]
pub enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => write!(f, "tcp:{addr}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Sizes of a driver.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct Limits {
    /// Buffers of [`crate::SLOT_BYTES`] each in the pool.
    pub pool_slots: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { pool_slots: crate::pool::SLOTS_DEFAULT }
    }
}
