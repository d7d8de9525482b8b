//! Attaching: connect, HELLO, WELCOME, as a state machine that whoever wants a lane advances, and that blocks nobody.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, socket};
use shmesh_shm::handshake::{
    self, FEATURE_LIVENESS, FEATURE_POLICY, FEATURE_PRIORITY, HandshakeError, Hello, Message, Refused, RefusedCode,
    SILENCE_MS_MAX, VERSION, Welcome,
};
use shmesh_shm::{ForkGuard, host};

use crate::clock;
use crate::error::ConnectError;
use crate::session::Attach;

/// How long the sidecar may be silent during the handshake.
pub(crate) const SILENCE: Duration = Duration::from_millis(SILENCE_MS_MAX);

/// What this shim knows beyond the first version of the page.
const FEATURES: u64 = FEATURE_LIVENESS | FEATURE_POLICY | FEATURE_PRIORITY;

/// An attachment under way: HELLO was said.
#[derive(Debug)]
pub(crate) struct Attachment {
    socket: UnixStream,
    received: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    guard: Option<ForkGuard>,
    /// When the sidecar was silent for too long, on the shim's clock.
    late: u64,
}

/// How far it is.
#[derive(Debug)]
pub(crate) enum Progress {
    /// The sidecar has not said WELCOME yet.
    Pending(Attachment),
    Done(Welcomed),
}

/// What WELCOME brought.
#[derive(Debug)]
pub(crate) struct Welcomed {
    pub socket: UnixStream,
    pub welcome: Welcome,
    pub descriptors: Vec<OwnedFd>,
    /// What the sidecar said behind it.
    pub behind: Vec<u8>,
}

impl Attachment {
    /// Connects and says HELLO.
    pub fn begin(attach: &Attach) -> Result<Attachment, ConnectError> {
        let socket = connect(&attach.socket)?;
        greet(&socket, attach)?;
        let late = clock::now().saturating_add(clock::nanos(SILENCE));
        Ok(Attachment { socket, received: Vec::new(), descriptors: Vec::new(), guard: ForkGuard::new().ok(), late })
    }

    /// Another process began it, from which this one was forked.
    pub fn is_forked(&self) -> bool {
        self.guard.as_ref().is_some_and(ForkGuard::is_child)
    }

    /// Looks for WELCOME.
    pub fn advance(mut self) -> Result<Progress, ConnectError> {
        loop {
            if let Some((message, used)) = Message::decode(&self.received)? {
                return self.take(message, used).map(Progress::Done);
            }
            let mut piece = [0; 4096];
            match handshake::receive(self.socket.as_fd(), &mut piece, &mut self.descriptors) {
                Ok(0) => return Err(ConnectError::Closed),
                Ok(len) => self.received.extend_from_slice(&piece[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && clock::now() < self.late => {
                    return Ok(Progress::Pending(self));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(ConnectError::Silent { seconds: SILENCE_MS_MAX / 1000 });
                }
                Err(_) => return Err(ConnectError::Closed),
            }
        }
    }

    /// Waits until there is something to look for, at most so long.
    pub fn wait(&self, longest: Duration) {
        let left = Duration::from_nanos(self.late.saturating_sub(clock::now()));
        // An interrupted wait is a short one.
        let _ = host::poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], Some(longest.min(left)));
    }

    fn take(mut self, message: Message, used: usize) -> Result<Welcomed, ConnectError> {
        let welcome = match message {
            Message::Welcome(welcome) if welcome.version != VERSION => {
                return Err(version(welcome.version, welcome.version));
            }
            Message::Welcome(welcome) => welcome,
            Message::Refused(refused) => return Err(refusal(refused)),
            _ => return Err(ConnectError::Handshake(HandshakeError::Range)),
        };
        let (announced, came) = (welcome.descriptors(), self.descriptors.len());
        if announced != came {
            return Err(ConnectError::Descriptors { announced, came });
        }
        let behind = self.received.split_off(used);
        Ok(Welcomed { socket: self.socket, welcome, descriptors: self.descriptors, behind })
    }
}

/// Connects without waiting: a sidecar that is stopped does not take connections, and the place for those that wait is finite.
fn connect(path: &Path) -> Result<UnixStream, ConnectError> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let connected = socket(AddressFamily::Unix, SockType::Stream, flags, None).and_then(|socket| {
        nix::sys::socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(UnixStream::from(socket))
    });
    connected.map_err(io::Error::from).map_err(|error| ConnectError::Socket {
        path: path.display().to_string(),
        kind: error.kind(),
        reason: error.to_string(),
    })
}

fn greet(socket: &UnixStream, attach: &Attach) -> Result<(), ConnectError> {
    let hello = Hello {
        version_min: VERSION,
        version_max: VERSION,
        calling_lanes: attach.calling_lanes,
        serving: attach.serving,
        features: FEATURES,
        name: attach.name.clone(),
    };
    let mut bytes = Vec::new();
    Message::Hello(hello).encode(&mut bytes)?;
    // A sidecar that refuses at once may have closed already; what it said is still there to be read.
    let _ = handshake::send(socket.as_fd(), &bytes, &[]);
    Ok(())
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
