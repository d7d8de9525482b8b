//! Blocking peers in a simulated world, for test bodies that were written for real sockets.
//!
//! A world stays on its thread, and so does the driver under test. Peers on other threads send their wishes to that thread,
//! which fulfils them at every turn of the driver ([`serve`]) and while it joins them ([`join`]); on the thread itself a
//! wish is fulfilled at once, and virtual time passes until it can be.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::Instant;

use shmesh_io::sim::{ActorConn, Faults, Link, Progress, Read};
use shmesh_io::{Target, World};

use crate::harness::PATIENCE;

/// What one write takes at most: more than there ever is room for.
const WRITE_MAX: usize = 2 << 20;

thread_local! {
    static STAGE: RefCell<Option<Rc<Stage>>> = const { RefCell::new(None) };
}

/// This thread's world and the peers in it.
pub struct Stage {
    pub world: World,
    conns: RefCell<BTreeMap<u64, ActorConn>>,
    waiting: RefCell<Vec<Wish>>,
    wishes: Receiver<Wish>,
    bridge: Bridge,
}

/// The way to a stage, from any thread.
#[derive(Clone)]
pub struct Bridge {
    sender: Sender<Wish>,
    thread: ThreadId,
    next_peer: Arc<AtomicU64>,
}

struct Wish {
    peer: u64,
    what: What,
    answer: Sender<io::Result<Vec<u8>>>,
}

enum What {
    Connect(Target),
    Read(usize),
    Write(Vec<u8>),
    Shutdown,
    Reset,
    Close,
}

/// Begins anew. Seed 0 is a smooth world; in others, everything that a driver is allowed to do to an engine happens often.
pub fn reset(seed: u64) {
    let world = World::new(seed);
    if seed > 0 {
        world.set_tcp(Link { latency: (1, 300_000), segment_max: 3000, cut_ppm: 300_000, ..Link::tcp() });
        world.set_unix(Link { segment_max: 4096, cut_ppm: 200_000, ..Link::unix() });
        world.set_faults(Faults {
            delay_ppm: 20_000,
            delay_max: 1_000_000,
            empty_poll_ppm: 100_000,
            late_report_ppm: 200_000,
            ..Faults::default()
        });
    }
    let (sender, wishes) = channel();
    let bridge = Bridge { sender, thread: thread::current().id(), next_peer: Arc::new(AtomicU64::new(0)) };
    let stage = Stage { world, conns: RefCell::default(), waiting: RefCell::default(), wishes, bridge };
    STAGE.set(Some(Rc::new(stage)));
}

pub fn stage() -> Rc<Stage> {
    STAGE.with_borrow(|stage| stage.clone()).expect("reset before each test")
}

/// Waits for a thread while its peers' wishes are fulfilled.
pub fn join<T>(thread: JoinHandle<T>) -> thread::Result<T> {
    let stage = stage();
    while !thread.is_finished() {
        stage.let_time_pass();
        stage.serve();
        thread::yield_now();
    }
    thread.join()
}

impl Stage {
    pub fn bridge(&self) -> Bridge {
        self.bridge.clone()
    }

    /// The other side of a connection that a driver adopts.
    pub fn pair(&self) -> (OwnedFd, SimPeer) {
        let (ours, theirs) = self.world.pair().unwrap();
        (ours, self.enter(theirs))
    }

    pub fn accept(&self, listener: &OwnedFd) -> SimPeer {
        let conn = self.wait_for(|| self.world.accept_on(listener).unwrap()).expect("a connection in time");
        self.enter(conn)
    }

    fn enter(&self, conn: ActorConn) -> SimPeer {
        let peer = self.bridge.new_peer();
        self.conns.borrow_mut().insert(peer.handle.id, conn);
        peer
    }

    /// Fulfils what can be fulfilled now.
    pub fn serve(&self) {
        let mut waiting = self.waiting.take();
        waiting.extend(self.wishes.try_iter());
        waiting.retain(|wish| match self.fulfil(wish.peer, &wish.what) {
            Some(answer) => {
                // Whoever no longer waits for it does without.
                let _ = wish.answer.send(answer);
                false
            }
            None => true,
        });
        self.waiting.borrow_mut().append(&mut waiting);
    }

    fn let_time_pass(&self) {
        if let Some(time) = self.world.next_event_at() {
            self.world.advance_to(time);
        }
    }

    fn wait_for<T>(&self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return Some(found);
            }
            if Instant::now() > deadline {
                return None;
            }
            self.let_time_pass();
            self.serve();
        }
    }

    fn fulfil(&self, peer: u64, what: &What) -> Option<io::Result<Vec<u8>>> {
        let mut conns = self.conns.borrow_mut();
        if let What::Connect(target) = what {
            let conn = conns.entry(peer).or_insert_with(|| self.world.connect(target));
            return match conn.progress() {
                Progress::Connecting => None,
                Progress::Connected => Some(Ok(Vec::new())),
                Progress::Failed(kind) => Some(Err(kind.into())),
            };
        }
        if let What::Reset | What::Close = what {
            if let Some(conn) = conns.remove(&peer)
                && matches!(what, What::Reset)
            {
                conn.reset();
            }
            return Some(Ok(Vec::new()));
        }
        let Some(conn) = conns.get(&peer) else {
            return Some(Err(ErrorKind::NotConnected.into()));
        };
        match what {
            What::Read(max) => {
                let mut bytes = Vec::new();
                match conn.recv_up_to(*max, &mut bytes) {
                    Read::Bytes(_) | Read::Eof => Some(Ok(bytes)),
                    Read::Nothing => None,
                    Read::Reset => Some(Err(ErrorKind::ConnectionReset.into())),
                }
            }
            What::Write(bytes) => match conn.send(bytes) {
                Ok(0) if !bytes.is_empty() => None,
                // As many zeroes as bytes were taken.
                Ok(n) => Some(Ok(vec![0; n])),
                Err(error) => Some(Err(error)),
            },
            _ => {
                conn.shutdown();
                Some(Ok(Vec::new()))
            }
        }
    }
}

impl Bridge {
    fn new_peer(&self) -> SimPeer {
        let id = self.next_peer.fetch_add(1, Ordering::Relaxed);
        SimPeer { handle: Arc::new(Handle { id, bridge: self.clone() }), waits: true }
    }

    pub fn connect(&self, target: &Target) -> SimPeer {
        let peer = self.new_peer();
        peer.wish(What::Connect(target.clone())).unwrap();
        peer
    }

    fn is_here(&self) -> bool {
        self.thread == thread::current().id()
    }
}

/// A simulated peer that can be used as if it were a blocking socket.
pub struct SimPeer {
    handle: Arc<Handle>,
    waits: bool,
}

struct Handle {
    id: u64,
    bridge: Bridge,
}

impl SimPeer {
    fn wish(&self, what: What) -> io::Result<Vec<u8>> {
        let Handle { id, bridge } = &*self.handle;
        if bridge.is_here() {
            let stage = stage();
            let answer = match self.waits {
                true => stage.wait_for(|| stage.fulfil(*id, &what)),
                false => stage.fulfil(*id, &what),
            };
            return answer.unwrap_or_else(|| Err(ErrorKind::WouldBlock.into()));
        }
        let (sender, answer) = channel();
        bridge.sender.send(Wish { peer: *id, what, answer: sender }).expect("the stage is there until the test ends");
        answer.recv_timeout(PATIENCE).unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
    }

    pub fn another(&self) -> Self {
        Self { handle: self.handle.clone(), waits: self.waits }
    }

    pub fn set_nonblocking(&mut self, yes: bool) {
        self.waits = !yes;
    }

    pub fn end_writing(&self) {
        self.wish(What::Shutdown).unwrap();
    }

    pub fn reset(self) {
        self.wish(What::Reset).unwrap();
    }

    /// For the thread of the stage.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        stage().conns.borrow().get(&self.handle.id)?.local_addr()
    }

    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.wish(What::Read(buffer.len()))?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let first = &bytes[..bytes.len().min(WRITE_MAX)];
        Ok(self.wish(What::Write(first.to_vec()))?.len())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.bridge.is_here() {
            // Gone already at the end of a test's thread.
            let stage = STAGE.try_with(|stage| stage.try_borrow().ok()?.clone()).ok().flatten();
            if let Some(stage) = stage {
                let conn = stage.conns.borrow_mut().remove(&self.id);
                drop(conn);
            }
        } else {
            let (answer, _) = channel();
            let _ = self.bridge.sender.send(Wish { peer: self.id, what: What::Close, answer });
        }
    }
}
