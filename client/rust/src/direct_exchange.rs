//! A call whose bodies are streamed, over a connection of its own that goes round the sidecar.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::PollFlags;

use crate::clock;
use crate::direct::{Failed, Place, Rules, SILENCE, Why};
use crate::direct_answer::DirectAnswer;
use crate::direct_request::{DirectRequest, Message};
use crate::error::Ran;
use crate::peer::Peer;

/// Bytes of a request's body that are written together.
const PIECE_BYTES: usize = 16 << 10;
/// Bytes of the answer that wait to be read; beyond, the peer is held back.
const UNREAD_BYTES_MAX: usize = 256 << 10;

/// The connection, and how far request and answer are.
#[derive(Debug)]
pub(crate) struct DirectExchange {
    peer: Peer,
    place: Arc<Place>,
    rules: Rules,
    request: DirectRequest,
    /// Bytes of the request that are to be written, and how many of them were.
    out: Vec<u8>,
    written: usize,
    /// Something of the request may have arrived.
    was_sent: bool,
    finished: bool,
    /// The server takes no more of the request.
    is_refused: bool,
    /// When something was written last.
    asked: u64,
    answer: DirectAnswer,
    /// Bytes of the answer that were not looked at yet.
    received: Vec<u8>,
    /// Bytes of its body, and how many of them were read.
    body: Vec<u8>,
    read: usize,
    answered: bool,
    /// The peer sends no more.
    ended: bool,
}

impl DirectExchange {
    /// Connects. `total`: bytes of the request's body, if known.
    pub fn open(
        place: &Arc<Place>,
        message: &Message,
        total: Option<u64>,
        rules: Rules,
    ) -> Result<DirectExchange, Failed> {
        let connect = || {
            let left = rules.left()?.unwrap_or(rules.connect_timeout);
            Peer::connect(&place.address, left.min(rules.connect_timeout))
        };
        let refused = |error: io::Error| Failed {
            ran: Ran::No,
            sent: 0,
            why: if rules.left().is_err() { Why::Late } else { Why::Refused },
            sentence: format!("{}: {error}", place.address),
        };
        let peer = connect().map_err(refused)?;
        let request = DirectRequest::new(message, total, place.of_app);
        if request.is_until_end() {
            peer.set_reset_at_end(true).map_err(refused)?;
        }
        Ok(DirectExchange {
            peer,
            place: place.clone(),
            rules,
            request,
            answer: DirectAnswer::new(message, place.of_app),
            out: Vec::new(),
            written: 0,
            was_sent: false,
            finished: false,
            is_refused: false,
            asked: clock::now(),
            received: Vec::new(),
            body: Vec::new(),
            read: 0,
            answered: false,
            ended: false,
        })
    }

    /// Writes bytes of the request's body: how many were taken. 0 = the answer is complete, or there is nobody who wants more.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, Failed> {
        let outcome = self.put(bytes);
        outcome.map_err(|error| self.failed(&error))
    }

    /// The request's body is complete.
    pub fn finish(&mut self) -> Result<(), Failed> {
        let outcome = self.put_end();
        outcome.map_err(|error| self.failed(&error))
    }

    /// Waits for the answer's head.
    pub fn head(&mut self) -> Result<(u16, Vec<u8>), Failed> {
        let outcome = self.wait_head();
        outcome.map_err(|error| self.failed(&error))
    }

    /// The answer's head, if it has come.
    pub fn begun(&self) -> Option<(u16, &[u8])> {
        self.answer.head()
    }

    /// Reads bytes of the answer's body; 0 = it is complete.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize, Failed> {
        let outcome = self.get(into);
        outcome.map_err(|error| self.failed(&error))
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() || self.finished || !self.flush()? {
            return Ok(0);
        }
        let piece = &bytes[..bytes.len().min(PIECE_BYTES)];
        self.request.put(piece, &mut self.out)?;
        self.flush()?;
        Ok(piece.len())
    }

    fn put_end(&mut self) -> io::Result<()> {
        if self.finished {
            return Ok(());
        }
        // Who has answered wants no more: what was announced need not come then.
        self.is_refused |= self.answer.is_done();
        if !self.is_refused {
            self.request.end(&mut self.out)?;
            if self.flush()? && self.request.ends_connection() {
                self.peer.set_reset_at_end(false)?;
                self.peer.shutdown(Shutdown::Write)?;
            }
        }
        self.answer.asked(&mut self.out)?;
        self.finished = true;
        Ok(())
    }

    fn wait_head(&mut self) -> io::Result<(u16, Vec<u8>)> {
        self.begin();
        loop {
            self.flush()?;
            if let Some((status, head)) = self.answer.head() {
                return Ok((status, head.to_vec()));
            }
            self.wait_more()?;
        }
    }

    fn get(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.begin();
        loop {
            self.flush()?;
            let unread = &self.body[self.read..];
            let len = unread.len().min(into.len());
            if len > 0 || into.is_empty() {
                into[..len].copy_from_slice(&unread[..len]);
                self.read += len;
                return Ok(len);
            }
            self.body.clear();
            self.read = 0;
            if self.is_answered() {
                return Ok(0);
            }
            self.wait_more()?;
        }
    }

    /// The head goes before everything else, also where nothing follows.
    fn begin(&mut self) {
        self.request.begin(&mut self.out);
    }

    /// Writes what waits to be written. What the peer says meanwhile is taken, as it may not read on before it has said it. False: it wants
    /// no more, as its answer is complete, or it has begun to answer and closed.
    fn flush(&mut self) -> io::Result<bool> {
        while self.written < self.out.len() && !self.is_refused {
            match self.peer.try_write(&self.out[self.written..]) {
                Ok(len) => {
                    self.written += len;
                    self.was_sent = true;
                    // What is said behind the request does not stretch the time for an answer.
                    if !self.finished {
                        self.asked = clock::now();
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let mut events = PollFlags::POLLOUT;
                    events.set(PollFlags::POLLIN, self.takes_more());
                    if self.wait(events, SILENCE)?.contains(PollFlags::POLLIN) {
                        self.receive()?;
                    }
                }
                // A server may answer before it has read everything, and close: its answer counts. Bytes that simply end are none then.
                Err(errno) if !matches!(self.answer, DirectAnswer::Http(_)) => return Err(errno.into()),
                Err(errno) => {
                    while self.answer.head().is_none() {
                        self.wait_more().map_err(|_| io::Error::from(errno))?;
                    }
                    self.is_refused = true;
                }
            }
            self.is_refused |= self.is_answered();
        }
        self.out.clear();
        self.written = 0;
        Ok(!self.is_refused)
    }

    /// The whole answer is there.
    fn is_answered(&self) -> bool {
        self.answer.is_done() || self.ended && self.answer.may_end_here()
    }

    fn takes_more(&self) -> bool {
        !self.ended && self.body.len() - self.read < UNREAD_BYTES_MAX
    }

    /// Waits for more of the answer, as long as that may take.
    fn wait_more(&mut self) -> io::Result<()> {
        if self.ended {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let waited = Duration::from_nanos(clock::now().saturating_sub(self.asked));
        let longest = match self.answered || !self.finished {
            true => SILENCE,
            false => self.rules.first_byte_timeout.saturating_sub(waited),
        };
        if !self.wait(PollFlags::POLLIN, longest)?.is_empty() {
            self.receive()?;
        }
        Ok(())
    }

    /// What can be done then. Nothing: it was interrupted.
    fn wait(&self, events: PollFlags, longest: Duration) -> io::Result<PollFlags> {
        let left = self.rules.left()?.unwrap_or(longest).min(longest);
        let began = clock::now();
        let ready = self.peer.wait(events, Some(left))?;
        if ready.is_empty() && clock::now().saturating_sub(began) >= clock::nanos(left) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(ready)
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut piece = [0; PIECE_BYTES];
        match self.peer.try_read(&mut piece) {
            Ok(0) => {
                self.ended = true;
                self.answer.end();
            }
            Ok(len) => {
                self.received.extend_from_slice(&piece[..len]);
                self.answer.take(&mut self.received, &mut self.body)?;
                self.answered |= self.answer.is_coming();
                if self.finished {
                    self.answer.asked(&mut self.out)?;
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }

    fn failed(&self, error: &io::Error) -> Failed {
        let why = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Why::Late,
            // The system may call something so, too.
            io::ErrorKind::InvalidInput if error.raw_os_error().is_none() => Why::Unfit,
            _ => Why::Broke,
        };
        Failed {
            ran: if self.was_sent { Ran::Maybe } else { Ran::No },
            sent: u32::from(self.was_sent),
            why,
            sentence: format!("{}: {error}", self.place.address),
        }
    }
}
