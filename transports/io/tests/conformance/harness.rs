//! A driver under test, peers made of blocking sockets (or what behaves like them), and waiting with a deadline.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use shmesh_io::probe::Refusal;
use shmesh_io::sim::Link;
use shmesh_io::{
    Bell, Chunks, Driver, EpollDriver, Event, Limits, Nanos, Pool, SimDriver, Slice, SockId, Tag, Target, UringDriver,
    Wait, Waker, probe,
};

use crate::stage::{self, Bridge, SimPeer, stage};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Copy, Clone, PartialEq, Debug)]
pub enum Kind {
    Epoll,
    Uring,
    Sim,
}

#[derive(Copy, Clone, PartialEq, Debug)]
pub enum Family {
    Tcp,
    Unix,
}

impl Kind {
    pub fn is_possible(self) -> bool {
        match self {
            Self::Epoll | Self::Sim => true,
            Self::Uring => {
                static REFUSAL: OnceLock<Option<Refusal>> = OnceLock::new();
                // The probe's descriptors would be counted by a test that runs alone.
                let _turn = DESCRIPTORS.read().unwrap_or_else(|e| e.into_inner());
                let refusal = REFUSAL.get_or_init(|| probe::uring().err());
                if let Some(refusal) = refusal {
                    eprintln!("SKIPPED, nothing checked: {refusal}");
                }
                refusal.is_none()
            }
        }
    }
}

impl Kind {
    fn driver(self, limits: Limits) -> Box<dyn Driver> {
        match self {
            Self::Epoll => Box::new(EpollDriver::new(limits).unwrap()),
            Self::Uring => Box::new(UringDriver::new(limits).unwrap()),
            Self::Sim => Box::new(SimDriver::new(&stage().world, SUBJECT, limits).unwrap()),
        }
    }
}

/// Tests that count this process's descriptors run alone; all others run side by side.
static DESCRIPTORS: RwLock<()> = RwLock::new(());

pub enum Turn {
    Shared(#[expect(dead_code)] RwLockReadGuard<'static, ()>),
    Alone(#[expect(dead_code)] RwLockWriteGuard<'static, ()>),
}

pub fn alone() -> Turn {
    Turn::Alone(DESCRIPTORS.write().unwrap_or_else(|e| e.into_inner()))
}

/// Descriptors of this process; in a simulated world, what would be one.
pub fn descriptors(kind: Kind) -> usize {
    if kind == Kind::Sim {
        let census = stage().world.census();
        return census.open_ends + census.listeners;
    }
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The simulated process that the driver belongs to.
pub const SUBJECT: &str = "subject";

/// The driver under test and the events that no one has asked for yet.
pub struct Subject {
    pub driver: Box<dyn Driver>,
    pub events: VecDeque<Event>,
    kind: Kind,
    turn: Turn,
}

impl Subject {
    pub fn new(kind: Kind) -> Self {
        let turn = Turn::Shared(DESCRIPTORS.read().unwrap_or_else(|e| e.into_inner()));
        Self::with(kind, Limits::default(), turn)
    }

    pub fn with(kind: Kind, limits: Limits, turn: Turn) -> Self {
        Self { driver: kind.driver(limits), events: VecDeque::new(), kind, turn }
    }

    /// Takes another driver; the one before is dropped when the caller drops it.
    pub fn change_driver(&mut self, kind: Kind) -> Box<dyn Driver> {
        assert!(self.events.is_empty());
        std::mem::replace(&mut self.driver, kind.driver(Limits::default()))
    }

    /// Suspends the driver, and turns until it rests.
    pub fn suspend(&mut self) {
        self.driver.suspend();
        let deadline = Instant::now() + PATIENCE;
        while !self.driver.is_at_rest() {
            assert!(Instant::now() < deadline, "the driver does not come to rest");
            let until = self.driver.refresh_clock() + 1_000_000;
            self.turn(Wait::Until(until));
        }
    }

    /// Drops the driver; the turn goes on.
    pub fn end(self) -> Turn {
        drop(self.events);
        drop(self.driver);
        self.turn
    }

    pub fn pool(&self) -> Pool {
        self.driver.pool().clone()
    }

    pub fn waker(&self) -> Waker {
        self.driver.waker()
    }

    pub fn ring(&mut self, bell: &Bell) {
        self.driver.ring(bell);
    }

    /// One `poll`; what it yields is queued.
    pub fn turn(&mut self, wait: Wait) -> usize {
        if self.kind == Kind::Sim {
            stage().serve();
        }
        let mut batch = Vec::new();
        self.driver.poll(wait, &mut batch).unwrap();
        let count = batch.len();
        self.events.extend(batch);
        if self.kind == Kind::Sim && count == 0 {
            // Its time flies; the peers' threads need theirs.
            std::thread::yield_now();
        }
        count
    }

    /// Waits for a peer's thread.
    pub fn join<T>(&self, thread: JoinHandle<T>) -> std::thread::Result<T> {
        if self.kind == Kind::Sim { stage::join(thread) } else { thread.join() }
    }

    /// The next event, in order.
    pub fn next(&mut self) -> Event {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            assert!(Instant::now() < deadline, "no event in time");
            let until = self.driver.refresh_clock() + 100_000_000;
            self.turn(Wait::Until(until));
        }
    }

    /// Takes out the first event that `wanted` picks, now or later; the others stay in order.
    pub fn find<T>(&mut self, mut wanted: impl FnMut(&mut Event) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for at in 0..self.events.len() {
                if let Some(found) = wanted(&mut self.events[at]) {
                    self.events.remove(at);
                    return found;
                }
            }
            assert!(Instant::now() < deadline, "not in time; got {:?}", self.events);
            let until = self.driver.refresh_clock() + 100_000_000;
            self.turn(Wait::Until(until));
        }
    }

    /// Turns for a while and says which events came.
    pub fn listen_for(&mut self, time: Duration) -> Vec<Event> {
        let end = self.driver.refresh_clock() + time.as_nanos() as Nanos;
        while self.driver.refresh_clock() < end {
            self.turn(Wait::Until(end));
        }
        self.events.drain(..).collect()
    }

    pub fn assert_quiet(&mut self, time: Duration) {
        let events = self.listen_for(time);
        assert!(events.is_empty(), "unexpected: {events:?}");
    }

    /// A connection between the driver (accepted, tagged) and a blocking peer.
    pub fn accepted(&mut self, family: Family, tag: Tag) -> (SockId, Peer) {
        let (listener, place) = place(self.kind, family);
        let listener = self.driver.listen(listener, tag).unwrap();
        let peer = Peer::connect(&place.dial);
        let sock = self.find(|event| match event {
            Event::Accepted { sock, .. } => Some(*sock),
            _ => None,
        });
        self.driver.close(listener);
        self.driver.set_tag(sock, tag);
        (sock, peer)
    }

    pub fn send(&mut self, sock: SockId, bytes: &[u8]) {
        self.driver.send(sock, Chunks::from(Slice::from_vec(bytes.to_vec())));
    }

    pub fn sent(&mut self, sock: SockId) -> io::Result<u64> {
        self.find(|event| match event {
            Event::Sent { sock: id, result, chunks, .. } if *id == sock => {
                assert!(chunks.is_empty());
                Some(std::mem::replace(result, Ok(0)))
            }
            _ => None,
        })
    }

    pub fn connected(&mut self, sock: SockId) -> io::Result<()> {
        self.find(|event| match event {
            Event::Connected { sock: id, result, .. } if *id == sock => Some(std::mem::replace(result, Ok(()))),
            _ => None,
        })
    }

    /// Receives until the end, which may be an error.
    pub fn receive_all(&mut self, sock: SockId) -> (Vec<u8>, Option<io::Error>) {
        let mut bytes = Vec::new();
        loop {
            let end = self.find(|event| match event {
                Event::Received { sock: id, data, .. } if *id == sock => {
                    assert!(!data.is_empty());
                    bytes.extend_from_slice(data);
                    Some(None)
                }
                Event::Ended { sock: id, error, .. } if *id == sock => Some(Some(error.take())),
                _ => None,
            });
            if let Some(error) = end {
                return (bytes, error);
            }
        }
    }

    /// Receives exactly so many bytes.
    pub fn receive(&mut self, sock: SockId, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < len {
            self.find(|event| match event {
                Event::Received { sock: id, data, .. } if *id == sock => {
                    bytes.extend_from_slice(data);
                    Some(())
                }
                _ => None,
            });
        }
        assert_eq!(bytes.len(), len);
        bytes
    }
}

/// An address to listen on, gone with this value.
pub struct Place {
    pub target: Target,
    pub dial: Dial,
    path: Option<PathBuf>,
}

/// How peers get to a place.
#[derive(Clone)]
pub struct Dial {
    target: Target,
    /// The way into a simulated world.
    bridge: Option<Bridge>,
}

impl Place {
    fn new(target: Target, bridge: Option<Bridge>, path: Option<PathBuf>) -> Self {
        Self { target: target.clone(), dial: Dial { target, bridge }, path }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

pub fn place(kind: Kind, family: Family) -> (OwnedFd, Place) {
    if kind == Kind::Sim {
        let target = match family {
            Family::Tcp => Target::Tcp(([127, 0, 0, 1], 0).into()),
            Family::Unix => Target::Unix(fresh_path()),
        };
        let listener = stage().world.listener(&target).unwrap();
        let target = stage().world.address_of(&listener).unwrap();
        return (listener, Place::new(target, Some(stage().bridge()), None));
    }
    match family {
        Family::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let target = Target::Tcp(listener.local_addr().unwrap());
            (listener.into(), Place::new(target, None, None))
        }
        Family::Unix => {
            let path = fresh_path();
            let listener = UnixListener::bind(&path).unwrap();
            (listener.into(), Place::new(Target::Unix(path.clone()), None, Some(path)))
        }
    }
}

/// Lets only one connection (two, on Linux) wait to be accepted.
pub fn limit_backlog_to_one(kind: Kind, listener: &OwnedFd) {
    if kind == Kind::Sim {
        stage().world.set_unix(Link { backlog: 1, ..Link::unix() });
    } else {
        nix::sys::socket::listen(listener, nix::sys::socket::Backlog::new(1).unwrap()).unwrap();
    }
}

/// An address where nobody listens.
pub fn empty_place(kind: Kind, family: Family) -> Place {
    let (listener, place) = place(kind, family);
    if kind == Kind::Sim {
        stage().world.close_listener(&listener).unwrap();
    }
    drop(listener);
    place
}

pub fn fresh_path() -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("shmesh-io-{}-{number}.sock", std::process::id()))
}

/// The other end: a plain blocking socket.
pub enum Peer {
    Tcp(TcpStream),
    Unix(UnixStream),
    Sim(SimPeer),
}

/// A connected pair of Unix sockets: one for the driver to adopt.
pub fn pair(kind: Kind) -> (OwnedFd, Peer) {
    if kind == Kind::Sim {
        let (ours, theirs) = stage().pair();
        return (ours, Peer::Sim(theirs));
    }
    let (ours, theirs) = UnixStream::pair().unwrap();
    (ours.into(), Peer::Unix(theirs))
}

impl Peer {
    pub fn connect(dial: &Dial) -> Self {
        if let Some(bridge) = &dial.bridge {
            return Self::Sim(bridge.connect(&dial.target));
        }
        let peer = match &dial.target {
            Target::Tcp(addr) => Self::Tcp(TcpStream::connect(addr).unwrap()),
            Target::Unix(path) => Self::Unix(UnixStream::connect(path).unwrap()),
        };
        peer.set_patience();
        peer
    }

    pub fn accept(kind: Kind, family: Family, listener: &OwnedFd) -> Self {
        if kind == Kind::Sim {
            return Self::Sim(stage().accept(listener));
        }
        let listener = listener.try_clone().unwrap();
        // Accepting gives up after this time.
        let time = nix::sys::time::TimeVal::new(PATIENCE.as_secs() as i64, 0);
        nix::sys::socket::setsockopt(&listener, nix::sys::socket::sockopt::ReceiveTimeout, &time).unwrap();
        let peer = match family {
            Family::Tcp => {
                let listener = TcpListener::from(listener);
                listener.set_nonblocking(false).unwrap();
                Self::Tcp(listener.accept().unwrap().0)
            }
            Family::Unix => {
                let listener = UnixListener::from(listener);
                listener.set_nonblocking(false).unwrap();
                Self::Unix(listener.accept().unwrap().0)
            }
        };
        peer.set_patience();
        peer
    }

    fn set_patience(&self) {
        let time = Some(PATIENCE);
        match self {
            Self::Tcp(s) => s.set_read_timeout(time).and(s.set_write_timeout(time)).unwrap(),
            Self::Unix(s) => s.set_read_timeout(time).and(s.set_write_timeout(time)).unwrap(),
            // Has it.
            Self::Sim(_) => {}
        }
    }

    pub fn try_clone(&self) -> Self {
        match self {
            Self::Tcp(s) => Self::Tcp(s.try_clone().unwrap()),
            Self::Unix(s) => Self::Unix(s.try_clone().unwrap()),
            Self::Sim(s) => Self::Sim(s.another()),
        }
    }

    pub fn set_nonblocking(&mut self, yes: bool) {
        match self {
            Self::Tcp(s) => s.set_nonblocking(yes).unwrap(),
            Self::Unix(s) => s.set_nonblocking(yes).unwrap(),
            Self::Sim(s) => s.set_nonblocking(yes),
        }
    }

    pub fn end_writing(&self) {
        match self {
            Self::Tcp(s) => s.shutdown(Shutdown::Write).unwrap(),
            Self::Unix(s) => s.shutdown(Shutdown::Write).unwrap(),
            Self::Sim(s) => s.end_writing(),
        }
    }

    pub fn reset(self) {
        match self {
            Self::Tcp(s) => {
                let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
                nix::sys::socket::setsockopt(&s, nix::sys::socket::sockopt::Linger, &at_once).unwrap();
            }
            Self::Unix(_) => {}
            Self::Sim(s) => s.reset(),
        }
    }

    /// Over TCP.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(s) => Some(s.local_addr().unwrap()),
            Self::Unix(_) => None,
            Self::Sim(s) => s.local_addr(),
        }
    }

    pub fn read_all(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).unwrap();
        bytes
    }
}

impl Read for Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.read(buffer),
            Self::Unix(s) => s.read(buffer),
            Self::Sim(s) => s.read(buffer),
        }
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.write(bytes),
            Self::Unix(s) => s.write(bytes),
            Self::Sim(s) => s.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes that look random and can be made again from the seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Compares without printing megabytes.
pub fn assert_same(got: &[u8], wanted: &[u8]) {
    if got != wanted {
        let at = got.iter().zip(wanted).position(|(a, b)| a != b);
        panic!("{} bytes instead of {}, first difference at {at:?}", got.len(), wanted.len());
    }
}
