//! A session: the handshake, the mapped segments, the socket that tells of the sidecar's death.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shmesh_shm::geometry::DIRECT_MODE;
use shmesh_shm::handshake::{self, FEATURE_POLICY, FEATURE_PRIORITY, LaneInfo, Lookup, Message, Policy};
use shmesh_shm::{DirectShares, Dirty, ForkGuard, LaneEnd, Mapping, Protocol, Side, doorbell, host};

use crate::attachment::{Attachment, Progress, SILENCE, Welcomed};
use crate::clock;
use crate::error::ConnectError;
use crate::fallback::Fallback;
use crate::wire::Wire;

/// How often a busy session looks for messages of the sidecar, in nanoseconds.
const INBOX_EVERY_NS: u64 = 20_000_000;

/// What to ask for when attaching.
#[derive(Clone, Debug)]
pub(crate) struct Attach {
    pub socket: PathBuf,
    pub name: String,
    pub calling_lanes: u16,
    pub serving: bool,
    pub max_spin: Duration,
    pub fallback: Option<Arc<Fallback>>,
    /// A sidecar that gives no sign of life for so long while a call waits is left; zero = never.
    pub hang_timeout: Duration,
}

/// One attachment to a sidecar, shared by its lanes.
#[derive(Debug)]
pub(crate) struct Session {
    socket: UnixStream,
    /// What both sides know.
    features: u64,
    /// Ends when the sidecar is dead, before the session socket does. Nothing is ever said there.
    liveness: Option<UnixStream>,
    workers: Vec<OwnedFd>,
    dirty: Dirty,
    guard: Option<ForkGuard>,
    /// What the sidecar writes; for the direct-mode word.
    to_app: Arc<Mapping>,
    gone: AtomicBool,
    hung: AtomicBool,
    /// Of which it was not said, or which the sidecar does not know: 0.
    hang_ns: u64,
    going: AtomicBool,
    looked_at: AtomicU64,
    ticked_at: AtomicU64,
    /// Bytes of the sidecar that are no whole message yet. Whoever holds it reads and writes the socket.
    inbox: Mutex<Vec<u8>>,
    fallback: Option<Arc<Fallback>>,
}

impl Session {
    /// Attaches and waits for it.
    pub fn attach(attach: &Attach) -> Result<(Arc<Session>, Vec<Wire>), ConnectError> {
        let mut attachment = Attachment::begin(attach)?;
        loop {
            attachment = match attachment.advance()? {
                Progress::Done(welcomed) => return Session::open(welcomed, attach),
                Progress::Pending(pending) => pending,
            };
            attachment.wait(SILENCE);
        }
    }

    /// Maps what WELCOME brought. The lanes come in its order.
    pub fn open(welcomed: Welcomed, attach: &Attach) -> Result<(Arc<Session>, Vec<Wire>), ConnectError> {
        let Welcomed { socket, welcome, descriptors, behind } = welcomed;
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or(ConnectError::NoLanes);
        let (to_proxy, to_app) = (next()?, next()?);
        let workers = (0..welcome.workers).map(|_| next()).collect::<Result<Vec<_>, _>>()?;
        let bells = welcome.lanes.iter().map(|_| next()).collect::<Result<Vec<_>, _>>()?;
        let liveness = welcome.has_liveness().then(next).transpose()?.map(UnixStream::from);
        let geometry = welcome.geometry;
        let bytes = geometry.segment_bytes(welcome.lanes.len() as u16);
        let to_proxy = Arc::new(Mapping::read_write(&to_proxy, bytes).map_err(mapping_error)?);
        let to_app = Arc::new(Mapping::read_only(&to_app, bytes).map_err(mapping_error)?);
        let session = Arc::new(Session {
            socket,
            features: welcome.features,
            liveness,
            workers,
            dirty: Dirty::new(&to_proxy, &to_app),
            guard: ForkGuard::new().ok(),
            to_app: to_app.clone(),
            gone: AtomicBool::new(false),
            hung: AtomicBool::new(false),
            hang_ns: if welcome.has_liveness() { clock::nanos(attach.hang_timeout) } else { 0 },
            going: AtomicBool::new(false),
            looked_at: AtomicU64::new(clock::now()),
            ticked_at: AtomicU64::new(clock::now()),
            inbox: Mutex::new(behind),
            fallback: attach.fallback.clone(),
        });
        let wire = |(lane, (info, bell)): (u16, (&LaneInfo, OwnedFd))| {
            let end = LaneEnd::new(Side::App, &to_proxy, &to_app, &geometry, lane);
            Wire::new(end, session.clone(), bell, *info, attach.max_spin)
        };
        let wires = (0..).zip(welcome.lanes.iter().zip(bells)).map(wire).collect();
        Ok((session, wires))
    }

    /// Marks the lane and rings its worker.
    pub fn ring(&self, info: LaneInfo) {
        self.dirty.mark(u16::from(info.worker), info.bit);
        if let Some(bell) = self.workers.get(usize::from(info.worker))
            && doorbell::ring_worker(bell).is_err()
        {
            self.set_gone();
        }
    }

    /// The sidecar's end is closed, or it broke the protocol. Once true it stays so.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Ends the session. What the sidecar said until now is still taken.
    pub fn set_gone(&self) {
        self.look_into(&mut self.lock());
        self.end();
        // Wakes whoever sleeps on it in another thread.
        for socket in self.liveness.iter().chain([&self.socket]) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// The sidecar is there and does nothing: ends the session as its death would. A sidecar that wakes up again finds the calls
    /// withdrawn.
    pub fn set_hung(&self) {
        self.hung.store(true, Ordering::Relaxed);
        self.set_gone();
    }

    /// How long a sidecar may give no sign of life, in nanoseconds; 0 = it is not asked.
    pub fn hang_ns(&self) -> u64 {
        self.hang_ns
    }

    /// Why it ended.
    pub fn why_gone(&self) -> String {
        match self.hung.load(Ordering::Relaxed) {
            true => format!("it gave no sign of life for {:?}", Duration::from_nanos(self.hang_ns)),
            false => "its end of the session is closed".to_owned(),
        }
    }

    /// Of a thousand calls so many are to go round the sidecar, it says. One load.
    pub fn direct_shares(&self) -> DirectShares {
        DirectShares::from_word(self.to_app.load(DIRECT_MODE), self.features & FEATURE_PRIORITY != 0)
    }

    /// The sidecar says that of all calls, and there is a way round it for some of them.
    pub fn is_all_to_go_round(&self) -> bool {
        self.fallback.is_some() && self.direct_shares().is_all()
    }

    fn end(&self) {
        let first = !self.gone.swap(true, Ordering::Relaxed);
        if let Some(fallback) = &self.fallback
            && first
        {
            fallback.lost(clock::now());
        }
    }

    /// The sidecar is stopping: nothing new should be opened here.
    pub fn is_going(&self) -> bool {
        self.going.load(Ordering::Relaxed)
    }

    /// This process is a child of the one that attached.
    pub fn is_forked(&self) -> bool {
        self.guard.as_ref().is_some_and(ForkGuard::is_child)
    }

    /// What ends when the sidecar does, and says nothing else; older ones have none.
    #[cfg(feature = "tokio")]
    pub fn liveness(&self) -> Option<BorrowedFd<'_>> {
        self.liveness.as_ref().map(AsFd::as_fd)
    }

    /// What ends when the sidecar does; to be polled for nothing but that.
    pub fn sign_of_end(&self) -> BorrowedFd<'_> {
        self.liveness.as_ref().unwrap_or(&self.socket).as_fd()
    }

    /// Something happened to that: its end, or an error.
    pub fn see_end(&self) {
        match self.liveness {
            // The session socket may take a while longer.
            Some(_) => self.set_gone(),
            None => self.look(),
        }
    }

    /// Looks for messages of the sidecar if it is time; `now` in nanoseconds.
    pub fn look_if_due(&self, now: u64) {
        if now.saturating_sub(self.looked_at.load(Ordering::Relaxed)) >= INBOX_EVERY_NS {
            self.looked_at.store(now, Ordering::Relaxed);
            self.look();
        }
    }

    /// Does what is to be done now and then, which may take a while: not with a lock in hand.
    pub fn tick_if_due(&self, now: u64) {
        if let Some(fallback) = &self.fallback
            && now.saturating_sub(self.ticked_at.load(Ordering::Relaxed)) >= INBOX_EVERY_NS
        {
            self.ticked_at.store(now, Ordering::Relaxed);
            fallback.tick(now);
        }
    }

    /// Takes the messages of the sidecar that are there, and notices its end.
    pub fn look(&self) {
        // Another thread that looks at this moment does it for both.
        if let Ok(mut inbox) = self.inbox.try_lock() {
            self.look_into(&mut inbox);
        }
    }

    /// Asks where calls with this key go. False = not now (the socket is full), or never (the session is gone).
    pub fn lookup(&self, id: u32, protocol: Protocol, key: Vec<u8>) -> bool {
        self.say(&Message::Lookup(Lookup { id, protocol, key }))
    }

    /// Tells on which socket of its own the app listens, if the sidecar wants to know.
    pub fn serves_at(&self, path: &Path) {
        if let Some(path) = path.to_str()
            && self.features & FEATURE_POLICY != 0
        {
            self.say(&Message::ServesAt(path.to_owned()));
        }
    }

    fn say(&self, message: &Message) -> bool {
        let mut bytes = Vec::new();
        if message.encode(&mut bytes).is_err() {
            return false;
        }
        // Messages may not mix; and half a message would end the session, so what does not fit at once is finished here.
        let inbox = self.lock();
        let begun = match handshake::send(self.socket.as_fd(), &bytes, &[]) {
            Ok(sent) => sent,
            Err(_) => return false,
        };
        let whole = self.finish(&bytes[begun..]);
        drop(inbox);
        if !whole {
            self.set_gone();
        }
        whole
    }

    fn finish(&self, mut rest: &[u8]) -> bool {
        let deadline = clock::now() + clock::nanos(SILENCE);
        while !rest.is_empty() {
            match handshake::send(self.socket.as_fd(), rest, &[]) {
                Ok(sent) => rest = &rest[sent..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && clock::now() < deadline => {
                    host::sleep(Duration::from_millis(1));
                }
                Err(_) => return false,
            }
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_into(&self, inbox: &mut Vec<u8>) {
        let mut piece = [0; 4096];
        loop {
            match (&self.socket).read(&mut piece) {
                Ok(0) => break self.end(),
                Ok(len) => inbox.extend_from_slice(&piece[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => break self.end(),
            }
        }
        loop {
            match Message::decode(inbox) {
                Ok(Some((message, used))) => {
                    inbox.drain(..used);
                    self.take(message);
                }
                Ok(None) => return,
                Err(_) => return self.end(),
            }
        }
    }

    fn learn(&self, id: u32, policy: Policy) {
        if let Some(fallback) = &self.fallback {
            fallback.learn(id, policy);
        }
    }

    fn take(&self, message: Message) {
        match message {
            Message::Endpoints(endpoints) => {
                self.learn(endpoints.id, Policy { endpoints: endpoints.endpoints, ..Policy::default() });
            }
            Message::Policy(id, policy) => self.learn(id, policy),
            Message::GoAway => self.going.store(true, Ordering::Relaxed),
            // Nothing else may come after WELCOME.
            _ => self.end(),
        }
    }
}

fn mapping_error(error: io::Error) -> ConnectError {
    ConnectError::Mapping(error.to_string())
}
