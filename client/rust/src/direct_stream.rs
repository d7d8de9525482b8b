//! A byte stream that goes round the sidecar.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::PollFlags;

use crate::clock;
use crate::peer::Peer;

/// A handle to a connection. What it may wait is its own: a socket's timeouts would be those of all handles.
#[derive(Clone, Debug)]
pub(crate) struct DirectStream {
    peer: Arc<Peer>,
    pub read_timeout: Option<Duration>,
    pub write_timeout: Option<Duration>,
}

impl DirectStream {
    pub fn new(peer: Peer) -> DirectStream {
        DirectStream { peer: Arc::new(peer), read_timeout: None, write_timeout: None }
    }

    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.peer.shutdown(how)
    }

    /// Does it as soon as it can be done without waiting.
    fn when(
        &self,
        ready: PollFlags,
        timeout: Option<Duration>,
        mut attempt: impl FnMut(&Peer) -> nix::Result<usize>,
    ) -> io::Result<usize> {
        let until = timeout.map(|timeout| clock::now().saturating_add(clock::nanos(timeout)));
        loop {
            match attempt(&self.peer) {
                Err(Errno::EAGAIN) => {}
                Err(Errno::EINTR) => continue,
                outcome => return Ok(outcome?),
            }
            let left = until.map(|until| until.saturating_sub(clock::now()));
            if left == Some(0) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.peer.wait(ready, left.map(Duration::from_nanos))?;
        }
    }
}

impl Read for DirectStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.when(PollFlags::POLLIN, self.read_timeout, |peer| peer.try_read(into))
    }
}

impl Write for DirectStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.when(PollFlags::POLLOUT, self.write_timeout, |peer| peer.try_write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
