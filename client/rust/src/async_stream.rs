//! A byte stream for a tokio runtime: what hyper and the like run on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::async_lane_stream::AsyncLaneStream;
use crate::call::CallId;
use crate::error::{CallError, Ran};
use crate::lane::Lane;
use crate::peer::Peer;

/// A byte stream. Use it as a `TcpStream`; `tokio::io::split` works. Dropping it ends it. It never spins: the runtime's
/// other tasks run meanwhile.
///
/// It stays where it was opened: one over the sidecar that dies or hangs is reset, and the error says how many bytes had been passed
/// on ([`CallError::StreamReset`]).
#[derive(Debug)]
pub struct AsyncStream {
    way: Way,
}

#[derive(Debug)]
enum Way {
    Lane(Box<AsyncLaneStream>),
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsyncStream {
    pub(crate) fn over_lane(lane: Lane, id: CallId) -> Result<AsyncStream, CallError> {
        let stream = AsyncLaneStream::new(lane, id).map_err(|error| CallError::SidecarGone(error.to_string()))?;
        Ok(AsyncStream { way: Way::Lane(Box::new(stream)) })
    }

    pub(crate) fn direct(peer: Peer) -> Result<AsyncStream, CallError> {
        let failed = |error: io::Error| CallError::Direct { ran: Ran::No, sentence: error.to_string() };
        let way = match peer {
            Peer::Tcp(stream) => stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)).map(Way::Tcp),
            Peer::Unix(stream) => {
                stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream)).map(Way::Unix)
            }
        };
        Ok(AsyncStream { way: way.map_err(failed)? })
    }

    /// Whether the stream goes round the sidecar.
    pub fn is_direct(&self) -> bool {
        !matches!(self.way, Way::Lane(_))
    }
}

impl AsyncRead for AsyncStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.way {
            Way::Lane(stream) => stream.poll_read(cx, into),
            Way::Tcp(stream) => Pin::new(stream).poll_read(cx, into),
            Way::Unix(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for AsyncStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.way {
            Way::Lane(stream) => stream.poll_write(cx, bytes),
            Way::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Way::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was written to a lane was published with it; sockets keep nothing back either.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.way {
            Way::Lane(stream) => stream.poll_shutdown(cx),
            Way::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Way::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
