//! A connection to somebody other than the sidecar, blocking, each wait bounded.

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::linger;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, setsockopt, socket, sockopt,
};
use shmesh_policy::Address;
use shmesh_shm::host;

use crate::{clock, names};

/// The shortest time that a socket waits; 0 would be for ever.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Peer {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Peer {
    /// Connects. Refusals of a Unix socket come at once, also when its listener has stopped accepting.
    pub fn connect(address: &Address, timeout: Duration) -> io::Result<Peer> {
        // The simulation has no network of the kernel's: there everybody refuses.
        if cfg!(shmesh_sim) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        match address {
            Address::Tcp(address) => connect_tcp(&[*address], clock::now().saturating_add(clock::nanos(timeout))),
            Address::Host { host, port } => {
                let until = clock::now().saturating_add(clock::nanos(timeout));
                connect_tcp(&names::look_up(host, *port, timeout)?, until)
            }
            Address::Unix(path) => connect_unix(path).map(Peer::Unix),
            Address::Shm(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Nothing came since the last answer, neither bytes nor the end: another call may be made.
    pub fn is_quiet(&self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        matches!(recv(self.as_fd().as_raw_fd(), &mut [0; 1], flags), Err(Errno::EAGAIN))
    }

    /// Reads; waits no longer than this.
    pub fn read(&mut self, into: &mut [u8], timeout: Option<Duration>) -> io::Result<usize> {
        let timeout = timeout.map(|timeout| timeout.max(WAIT_MIN));
        loop {
            let outcome = match self {
                Peer::Tcp(stream) => stream.set_read_timeout(timeout).and_then(|()| stream.read(into)),
                Peer::Unix(stream) => stream.set_read_timeout(timeout).and_then(|()| stream.read(into)),
            };
            match outcome {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }

    /// Writes some bytes; waits no longer than this.
    pub fn write(&mut self, bytes: &[u8], timeout: Option<Duration>) -> io::Result<usize> {
        let timeout = timeout.map(|timeout| timeout.max(WAIT_MIN));
        match self {
            Peer::Tcp(stream) => stream.set_write_timeout(timeout)?,
            Peer::Unix(stream) => stream.set_write_timeout(timeout)?,
        }
        loop {
            // An app that did not ask for it gets no SIGPIPE.
            match send(self.as_fd().as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
                Err(Errno::EINTR) => {}
                outcome => return Ok(outcome?),
            }
        }
    }

    /// Reads what is there, without waiting.
    pub fn try_read(&self, into: &mut [u8]) -> nix::Result<usize> {
        recv(self.as_fd().as_raw_fd(), into, MsgFlags::MSG_DONTWAIT)
    }

    /// Writes what goes, without waiting.
    pub fn try_write(&self, bytes: &[u8]) -> nix::Result<usize> {
        send(self.as_fd().as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)
    }

    /// Waits until one of these can be done without waiting, or for so long. What can be.
    pub fn wait(&self, events: PollFlags, timeout: Option<Duration>) -> io::Result<PollFlags> {
        let mut fds = [PollFd::new(self.as_fd(), events)];
        match host::poll(&mut fds, timeout) {
            Ok(_) => Ok(fds[0].revents().unwrap_or(PollFlags::POLLERR)),
            Err(Errno::EINTR) => Ok(PollFlags::empty()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// From now on the connection ends in a reset when it is dropped, or in order again: for bytes whose end says that they are all. Over
    /// a Unix socket there is no such thing.
    pub fn set_reset_at_end(&self, resets: bool) -> io::Result<()> {
        match self {
            Peer::Tcp(stream) => {
                Ok(setsockopt(stream, sockopt::Linger, &linger { l_onoff: resets.into(), l_linger: 0 })?)
            }
            Peer::Unix(_) => Ok(()),
        }
    }

    /// Ends one direction or both.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Peer::Tcp(stream) => stream.shutdown(how),
            Peer::Unix(stream) => stream.shutdown(how),
        }
    }
}

impl AsFd for Peer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Peer::Tcp(stream) => stream.as_fd(),
            Peer::Unix(stream) => stream.as_fd(),
        }
    }
}

/// `until` in nanoseconds of the clock.
fn connect_tcp(addresses: &[SocketAddr], until: u64) -> io::Result<Peer> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for (tried, address) in addresses.iter().enumerate() {
        let left = Duration::from_nanos(until.saturating_sub(clock::now()));
        // Each has a share of the time, so that one that is silent does not take that of the others.
        let share = left / (addresses.len() - tried) as u32;
        match TcpStream::connect_timeout(address, share.max(WAIT_MIN)) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(Peer::Tcp(stream));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A connect to a listener whose queue is full would block without a bound; nonblocking, it fails.
fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let descriptor = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(descriptor.as_raw_fd(), &UnixAddr::new(path)?)?;
    let stream = UnixStream::from(descriptor);
    stream.set_nonblocking(false)?;
    Ok(stream)
}
