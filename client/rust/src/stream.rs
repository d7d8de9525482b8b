//! A byte stream: what an app uses in place of a TCP connection.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use crate::direct_stream::DirectStream;
use crate::lane_stream::LaneStream;

/// A byte stream. Reads and writes as a `TcpStream` does; `try_clone` gives a second handle, so that one thread can read while
/// another writes. The last handle that is dropped ends the stream.
///
/// It stays where it was opened: one over the sidecar that goes away is reset, and the error says how many bytes had been passed
/// on ([`CallError::StreamReset`](crate::CallError::StreamReset)).
#[derive(Debug)]
pub struct Stream {
    path: Path,
}

#[derive(Debug)]
enum Path {
    Lane(LaneStream),
    Direct(DirectStream),
}

impl Stream {
    pub(crate) fn over_lane(stream: LaneStream) -> Stream {
        Stream { path: Path::Lane(stream) }
    }

    pub(crate) fn direct(stream: DirectStream) -> Stream {
        Stream { path: Path::Direct(stream) }
    }

    /// Whether the stream goes round the sidecar.
    pub fn is_direct(&self) -> bool {
        matches!(self.path, Path::Direct(_))
    }

    /// A second handle to the same stream.
    pub fn try_clone(&self) -> io::Result<Stream> {
        Ok(match &self.path {
            Path::Lane(stream) => Stream::over_lane(stream.try_clone()?),
            Path::Direct(stream) => Stream::direct(stream.clone()),
        })
    }

    /// Ends one direction or both. Reading after the reading side was shut gives the end at once, also in a thread that
    /// waits in `read` now.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match &self.path {
            Path::Lane(stream) => stream.shutdown(how),
            Path::Direct(stream) => stream.shutdown(how),
        }
    }

    /// How long a read may wait before it fails with `WouldBlock`; of this handle only.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        match &mut self.path {
            Path::Lane(stream) => stream.set_read_timeout(timeout),
            Path::Direct(stream) => stream.read_timeout = timeout,
        }
    }

    /// How long a write may wait before it fails with `WouldBlock`; of this handle only.
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        match &mut self.path {
            Path::Lane(stream) => stream.set_write_timeout(timeout),
            Path::Direct(stream) => stream.write_timeout = timeout,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.path {
            Path::Lane(stream) => stream.read(into),
            Path::Direct(stream) => stream.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.path {
            Path::Lane(stream) => stream.write(bytes),
            Path::Direct(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.path {
            Path::Lane(stream) => stream.flush(),
            Path::Direct(_) => Ok(()),
        }
    }
}
