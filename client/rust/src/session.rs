//! A session: the handshake, the mapped segments, the socket that tells of the sidecar's death.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shmesh_shm::handshake::{
    self, FEATURE_LIVENESS, Hello, LaneInfo, Lookup, Message, Refused, RefusedCode, SILENCE_MS_MAX, VERSION, Welcome,
};
use shmesh_shm::{Dirty, ForkGuard, LaneEnd, Mapping, Protocol, Side, doorbell, host};

use crate::clock;
use crate::directory::Directory;
use crate::error::ConnectError;
use crate::wire::Wire;

/// How often a busy session looks for messages of the sidecar, in nanoseconds.
const INBOX_EVERY_NS: u64 = 20_000_000;

/// How long the sidecar may be silent during the handshake.
const SILENCE: Duration = Duration::from_millis(SILENCE_MS_MAX);

/// What to ask for when attaching.
#[derive(Clone, Debug)]
pub(crate) struct Attach {
    pub socket: PathBuf,
    pub name: String,
    pub calling_lanes: u16,
    pub serving: bool,
    pub max_spin: Duration,
    pub directory: Option<Arc<Directory>>,
    /// A sidecar that gives no sign of life for so long while a call waits is left; zero = never.
    pub hang_timeout: Duration,
}

/// One attachment to a sidecar, shared by its lanes.
#[derive(Debug)]
pub(crate) struct Session {
    socket: UnixStream,
    /// Ends when the sidecar is dead, before the session socket does. Nothing is ever said there.
    liveness: Option<UnixStream>,
    workers: Vec<OwnedFd>,
    dirty: Dirty,
    guard: Option<ForkGuard>,
    gone: AtomicBool,
    hung: AtomicBool,
    /// Of which it was not said, or which the sidecar does not know: 0.
    hang_ns: u64,
    going: AtomicBool,
    looked_at: AtomicU64,
    /// Bytes of the sidecar that are no whole message yet. Whoever holds it reads and writes the socket.
    inbox: Mutex<Vec<u8>>,
    directory: Option<Arc<Directory>>,
}

impl Session {
    /// Attaches: HELLO, WELCOME, descriptors, mappings. The lanes come in the order of WELCOME.
    pub fn attach(attach: &Attach) -> Result<(Arc<Session>, Vec<Wire>), ConnectError> {
        let socket = connect(&attach.socket)?;
        greet(&socket, attach)?;
        let (welcome, descriptors) = welcome(&socket)?;
        socket.set_nonblocking(true).map_err(mapping_error)?;
        Session::open(socket, welcome, descriptors, attach)
    }

    fn open(
        socket: UnixStream,
        welcome: Welcome,
        descriptors: Vec<OwnedFd>,
        attach: &Attach,
    ) -> Result<(Arc<Session>, Vec<Wire>), ConnectError> {
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
            liveness,
            workers,
            dirty: Dirty::new(&to_proxy, &to_app),
            guard: ForkGuard::new().ok(),
            gone: AtomicBool::new(false),
            hung: AtomicBool::new(false),
            hang_ns: if welcome.has_liveness() { clock::nanos(attach.hang_timeout) } else { 0 },
            going: AtomicBool::new(false),
            looked_at: AtomicU64::new(clock::now()),
            inbox: Mutex::default(),
            directory: attach.directory.clone(),
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
        self.gone.store(true, Ordering::Relaxed);
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

    /// The sidecar is stopping: nothing new should be opened here.
    pub fn is_going(&self) -> bool {
        self.going.load(Ordering::Relaxed)
    }

    /// This process is a child of the one that attached.
    pub fn is_forked(&self) -> bool {
        self.guard.as_ref().is_some_and(ForkGuard::is_child)
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

    /// Takes the messages of the sidecar that are there, and notices its end.
    pub fn look(&self) {
        // Another thread that looks at this moment does it for both.
        if let Ok(mut inbox) = self.inbox.try_lock() {
            self.look_into(&mut inbox);
        }
    }

    /// Asks where calls with this key go. False = not now (the socket is full), or never (the session is gone).
    pub fn lookup(&self, id: u32, protocol: Protocol, key: &[u8]) -> bool {
        let mut bytes = Vec::new();
        let message = Message::Lookup(Lookup { id, protocol, key: key.to_vec() });
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
                Ok(0) => break self.gone.store(true, Ordering::Relaxed),
                Ok(len) => inbox.extend_from_slice(&piece[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => break self.gone.store(true, Ordering::Relaxed),
            }
        }
        loop {
            match Message::decode(inbox) {
                Ok(Some((message, used))) => {
                    inbox.drain(..used);
                    self.take(message);
                }
                Ok(None) => return,
                Err(_) => return self.gone.store(true, Ordering::Relaxed),
            }
        }
    }

    fn take(&self, message: Message) {
        match message {
            Message::Endpoints(endpoints) => {
                if let Some(directory) = &self.directory {
                    directory.learn(endpoints.id, endpoints.endpoints);
                }
            }
            Message::GoAway => self.going.store(true, Ordering::Relaxed),
            // Nothing else may come after WELCOME.
            _ => self.gone.store(true, Ordering::Relaxed),
        }
    }
}

fn connect(path: &Path) -> Result<UnixStream, ConnectError> {
    let socket_error = |error: io::Error| ConnectError::Socket {
        path: path.display().to_string(),
        kind: error.kind(),
        reason: error.to_string(),
    };
    let socket = UnixStream::connect(path).map_err(socket_error)?;
    let silence = Some(SILENCE);
    socket.set_read_timeout(silence).map_err(socket_error)?;
    socket.set_write_timeout(silence).map_err(socket_error)?;
    Ok(socket)
}

fn greet(socket: &UnixStream, attach: &Attach) -> Result<(), ConnectError> {
    let hello = Hello {
        version_min: VERSION,
        version_max: VERSION,
        calling_lanes: attach.calling_lanes,
        serving: attach.serving,
        features: FEATURE_LIVENESS,
        name: attach.name.clone(),
    };
    let mut bytes = Vec::new();
    Message::Hello(hello).encode(&mut bytes)?;
    // A sidecar that refuses at once may have closed already; what it said is still there to be read.
    let _ = handshake::send(socket.as_fd(), &bytes, &[]);
    Ok(())
}

fn welcome(socket: &UnixStream) -> Result<(Welcome, Vec<OwnedFd>), ConnectError> {
    let (mut bytes, mut descriptors) = (Vec::new(), Vec::new());
    loop {
        match Message::decode(&bytes)? {
            Some((Message::Welcome(welcome), _)) if welcome.version != VERSION => {
                return Err(version(welcome.version, welcome.version));
            }
            Some((Message::Welcome(welcome), _)) => {
                let (announced, came) = (welcome.descriptors(), descriptors.len());
                if announced != came {
                    return Err(ConnectError::Descriptors { announced, came });
                }
                return Ok((welcome, descriptors));
            }
            Some((Message::Refused(refused), _)) => return Err(refusal(refused)),
            Some(_) => return Err(ConnectError::Handshake(handshake::HandshakeError::Range)),
            None => {}
        }
        if !host::await_readable(socket.as_fd(), SILENCE) {
            return Err(ConnectError::Silent { seconds: SILENCE_MS_MAX / 1000 });
        }
        let mut piece = [0; 4096];
        match handshake::receive(socket.as_fd(), &mut piece, &mut descriptors) {
            Ok(0) => return Err(ConnectError::Closed),
            Ok(len) => bytes.extend_from_slice(&piece[..len]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(ConnectError::Silent { seconds: SILENCE_MS_MAX / 1000 });
            }
            Err(_) => return Err(ConnectError::Closed),
        }
    }
}

fn refusal(refused: Refused) -> ConnectError {
    if refused.code == RefusedCode::Version as u16 {
        return version(refused.version_min, refused.version_max);
    }
    ConnectError::Refused { code: refused.code, sentence: refused.sentence }
}

fn version(theirs_min: u16, theirs_max: u16) -> ConnectError {
    ConnectError::Version { ours_min: VERSION, ours_max: VERSION, theirs_min, theirs_max }
}

fn mapping_error(error: io::Error) -> ConnectError {
    ConnectError::Mapping(error.to_string())
}
