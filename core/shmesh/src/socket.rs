//! Stream sockets of the commands: TCP and Unix behind one type, blocking unless a call says otherwise.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::sys::time::TimeSpec;

use crate::address::Address;

/// Time for a TCP connection to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connected stream socket.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Connects, the addresses of a host name one after the other. TCP sockets get TCP_NODELAY.
    ///
    /// # Errors
    /// The last one that the system gave. `shm:` addresses are not sockets: `InvalidInput`.
    pub fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp { host, port } => {
                let mut last = None;
                for address in (host.as_str(), *port).to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                        Ok(stream) => {
                            stream.set_nodelay(true)?;
                            return Ok(Self::Tcp(stream));
                        }
                        Err(error) => last = Some(error),
                    }
                }
                Err(last.unwrap_or_else(|| io::Error::other("the host name has no address")))
            }
            Address::Unix(path) => UnixStream::connect(path).map(Self::Unix),
            Address::Shm(_) => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, "shared memory is not reached through a stream socket"))
            }
        }
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
        }
    }

    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        }
    }

    /// Bounds every blocking read that follows; `None` waits for ever.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(timeout),
            Self::Unix(stream) => stream.set_read_timeout(timeout),
        }
    }

    /// Sends what the socket takes without waiting; 0 when it takes nothing now.
    pub fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        unless_blocked(|| send(self.as_fd().as_raw_fd(), bytes, flags)).map(|n| n.unwrap_or(0))
    }

    /// Receives what is there without waiting: `None` when nothing is, `Some(0)` at the end.
    pub fn receive_now(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        unless_blocked(|| recv(self.as_fd().as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT))
    }

    /// Receives, waiting until something is there (or the read timeout: `None`); `Some(0)` at the end.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        unless_blocked(|| recv(self.as_fd().as_raw_fd(), buffer, MsgFlags::empty()))
    }

    /// Waits until the socket can do what is asked, or `timeout` has gone by.
    pub fn wait(&self, read: bool, write: bool, timeout: Option<Duration>) -> io::Result<()> {
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, read);
        events.set(PollFlags::POLLOUT, write);
        let mut fds = [PollFd::new(self.as_fd(), events)];
        match ppoll(&mut fds, timeout.map(TimeSpec::from_duration), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A socket that accepts streams.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Binds and listens. The file of a Unix socket that nobody answers is replaced.
    pub fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp { host, port } => TcpListener::bind((host.as_str(), *port)).map(Self::Tcp),
            Address::Unix(path) => {
                remove_if_dead(path)?;
                UnixListener::bind(path).map(Self::Unix)
            }
            Address::Shm(_) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "shared memory is not listened on through a stream socket",
            )),
        }
    }

    pub fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
        }
    }

    /// The address with the port that the system chose where 0 was asked for.
    pub fn address(&self, asked: &Address) -> Address {
        match (self, asked) {
            (Self::Tcp(listener), Address::Tcp { host, port }) => {
                Address::Tcp { host: host.clone(), port: listener.local_addr().map_or(*port, |local| local.port()) }
            }
            _ => asked.clone(),
        }
    }
}

/// Repeats a call that a signal interrupted; `None` when it would have had to wait.
fn unless_blocked(mut call: impl FnMut() -> nix::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        match call() {
            Ok(n) => return Ok(Some(n)),
            Err(Errno::EAGAIN) => return Ok(None),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Removes a socket file whose owner is gone; any other file is left for `bind` to complain of.
fn remove_if_dead(path: &Path) -> io::Result<()> {
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Ok(()),
    }
}
