//! The Unix socket on which a serving app listens itself, so that it stays reachable while its sidecar is gone.
//!
//! Whoever serves the lanes serves it, in the same thread and with the same handler: it is looked at between turns, and what wakes
//! the thread for a lane wakes it for the socket, too.

use std::fs::{self, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};
use shmesh_shm::handshake::MAX_PATH_BYTES;
use shmesh_shm::host;

use crate::clock;
use crate::own_connection::{Answering, OwnConnection};
use crate::served::Handler;

/// Connections that are open at once; others wait to be accepted.
const CONNECTIONS_MAX: usize = 256;
/// A connection that carried nothing for so long makes room for another one when there are too many, in nanoseconds: callers keep
/// theirs for four seconds.
const REST_NS_MAX: u64 = 5_000_000_000;
/// The same for one in the middle of a message.
const SILENCE_NS_MAX: u64 = 60_000_000_000;
/// How long nobody is accepted after that failed, in nanoseconds: out of descriptors, most likely.
const ACCEPT_PAUSE_NS: u64 = 100_000_000;
/// How often the socket is looked at while lanes are busy, in nanoseconds.
const LOOK_EVERY_NS: u64 = 1_000_000;

/// A listener and its connections.
#[derive(Debug)]
pub(crate) struct OwnSocket {
    path: PathBuf,
    listener: UnixListener,
    /// Of the file, to know it again.
    inode: u64,
    /// A child of `fork` must not remove the file of its parent.
    process: u32,
    connections: Vec<OwnConnection>,
    answering: Answering,
    looked_at: u64,
    /// The last look found something.
    busy: bool,
    /// Nobody is accepted before.
    accepts_at: u64,
}

impl OwnSocket {
    /// Where it is unless set: beside the session socket.
    pub fn default_path(session_socket: &Path, name: &str) -> PathBuf {
        session_socket.with_file_name(format!("{}.app.sock", name.replace('/', "_")))
    }

    /// Listens at `path`, in place of whoever did before: the caller holds the name that it serves under.
    pub fn bind(path: &Path) -> io::Result<OwnSocket> {
        if !path.is_absolute() || path.as_os_str().len() > MAX_PATH_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the path is not absolute, or too long for a socket",
            ));
        }
        let process = std::process::id();
        // Under another name first, so that there is a socket at each moment, and one that only those reach who may. The name is that of no
        // other app: process numbers are the same in the containers of a pod.
        let mut hasher = DefaultHasher::new();
        path.file_name().hash(&mut hasher);
        let beside = path.with_file_name(format!(".{:08x}", hasher.finish() as u32));
        let _ = fs::remove_file(&beside);
        let listener = UnixListener::bind(&beside)?;
        let placed = listener
            .set_nonblocking(true)
            .and_then(|()| fs::set_permissions(&beside, Permissions::from_mode(0o660)))
            .and_then(|()| fs::rename(&beside, path))
            .and_then(|()| fs::symlink_metadata(path));
        let inode = match placed {
            Ok(about) => about.ino(),
            Err(error) => {
                let _ = fs::remove_file(&beside);
                return Err(error);
            }
        };
        Ok(OwnSocket {
            path: path.to_owned(),
            listener,
            inode,
            process,
            connections: Vec::new(),
            answering: Answering::default(),
            looked_at: 0,
            busy: false,
            accepts_at: 0,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Does what can be done without waiting, if it is time to look. True if there was something.
    pub fn turn(&mut self, now: u64, handler: &mut impl Handler) -> bool {
        if !self.busy && now.saturating_sub(self.looked_at) < LOOK_EVERY_NS {
            return false;
        }
        self.looked_at = now;
        self.busy = self.look(Some(Duration::ZERO), handler);
        self.busy
    }

    /// Waits for something to do, and does it.
    pub fn wait(&mut self, timeout: Duration, handler: &mut impl Handler) {
        let timeout = self.due_ns().map_or(timeout, |due| timeout.min(Duration::from_nanos(due)));
        self.busy = self.look(Some(timeout), handler);
        self.looked_at = clock::now();
    }

    /// What to sleep on: whenever one of these wakes, it is time to look.
    pub fn descriptors(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.descriptors_with(self.accepts())
    }

    fn descriptors_with(&self, accepts: bool) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let listener = accepts.then(|| (self.listener.as_fd(), PollFlags::POLLIN));
        listener
            .into_iter()
            .chain(self.connections.iter().map(|connection| (connection.as_fd(), connection.waits_for())))
    }

    /// After how many nanoseconds there is a place for one more connection, if there is none now.
    pub fn due_ns(&self) -> Option<u64> {
        let (_, free_at) = self.quietest().filter(|_| self.connections.len() >= CONNECTIONS_MAX).unwrap_or_default();
        Some(free_at.max(self.accepts_at).saturating_sub(clock::now())).filter(|left| *left > 0)
    }

    /// There is a place for one more connection.
    fn accepts(&self) -> bool {
        if clock::now() < self.accepts_at {
            return false;
        }
        self.connections.len() < CONNECTIONS_MAX || self.quietest().is_some_and(|(_, at)| at <= clock::now())
    }

    /// The connection that makes room first, and when it may.
    fn quietest(&self) -> Option<(usize, u64)> {
        let leaves =
            |one: &OwnConnection| Some(one.quiet_since() + if one.rests()? { REST_NS_MAX } else { SILENCE_NS_MAX });
        let candidates = self.connections.iter().enumerate().filter_map(|(index, one)| Some((index, leaves(one)?)));
        candidates.min_by_key(|(_, at)| *at)
    }

    /// A descriptor woke the thread.
    pub fn woke(&mut self) {
        self.busy = true;
    }

    fn look(&mut self, timeout: Option<Duration>, handler: &mut impl Handler) -> bool {
        let accepting = self.accepts();
        let mut fds: Vec<_> = self.descriptors_with(accepting).map(|(fd, events)| PollFd::new(fd, events)).collect();
        if !host::poll(&mut fds, timeout).is_ok_and(|ready| ready > 0) {
            return false;
        }
        let ready: Vec<PollFlags> = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::POLLERR)).collect();
        let (accept, ready) = ready.split_at(usize::from(accepting));
        let mut ready = ready.iter();
        let answering = &mut self.answering;
        self.connections.retain_mut(|connection| {
            let ready = ready.next().copied().unwrap_or(PollFlags::empty());
            // A connection that has nothing to be seen to stays as it is.
            ready.is_empty() || connection.turn(ready.contains(PollFlags::POLLHUP), answering, handler)
        });
        if accept.iter().any(|ready| !ready.is_empty()) {
            self.accept();
        }
        true
    }

    fn accept(&mut self) {
        while self.accepts() {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The peer may be gone again, which costs the others a moment only.
                Err(_) => return self.accepts_at = clock::now() + ACCEPT_PAUSE_NS,
            };
            if self.connections.len() >= CONNECTIONS_MAX
                && let Some((quietest, _)) = self.quietest()
            {
                self.connections.swap_remove(quietest);
            }
            if stream.set_nonblocking(true).is_ok() {
                self.connections.push(OwnConnection::new(stream, self.answering.next_id()));
            }
        }
    }
}

impl Drop for OwnSocket {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|about| about.ino() == self.inode);
        if is_ours && self.process == std::process::id() {
            let _ = fs::remove_file(&self.path);
        }
    }
}
