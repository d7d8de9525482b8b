//! One call whose bodies are streamed: for what is too large to be held whole.

use std::io::{self, Read, Write};

use crate::call::CallId;
use crate::calls::ReadOutcome;
use crate::error::CallError;
use crate::lane::Lane;

/// A call in progress. Write the request's body, [`Exchange::finish`] it, ask for the [`Exchange::head`], read the answer's body. The
/// answer may begin before the request has ended. Dropping it in between gives the call up.
#[derive(Debug)]
pub struct Exchange {
    lane: Lane,
    id: CallId,
}

impl Exchange {
    pub(crate) fn new(lane: Lane, id: CallId) -> Exchange {
        Exchange { lane, id }
    }

    /// The request's body is complete.
    pub fn finish(&mut self) -> Result<(), CallError> {
        let calls = self.lane.calls_mut();
        calls.end(self.id);
        loop {
            calls.turn();
            if calls.is_sent(self.id) {
                return Ok(());
            }
            calls.wait(None);
        }
    }

    /// Waits for the answer to begin: its status, and for HTTP its head in text.
    pub fn head(&mut self) -> Result<(u16, Vec<u8>), CallError> {
        let calls = self.lane.calls_mut();
        loop {
            calls.turn();
            if let Some((status, head)) = calls.head(self.id)? {
                return Ok((status, head.to_vec()));
            }
            calls.wait(None);
        }
    }

    /// Reads bytes of the answer's body; 0 = it is complete.
    pub fn read_body(&mut self, into: &mut [u8]) -> Result<usize, CallError> {
        if into.is_empty() {
            return Ok(0);
        }
        let calls = self.lane.calls_mut();
        loop {
            calls.turn();
            match calls.read(self.id, into)? {
                ReadOutcome::Bytes(len) => return Ok(len),
                ReadOutcome::End => return Ok(0),
                ReadOutcome::Empty => drop(calls.wait(None)),
            }
        }
    }

    /// Writes bytes of the request's body: how many were taken, at least one. 0 = the answer is complete and no more is
    /// wanted.
    pub fn write_body(&mut self, bytes: &[u8]) -> Result<usize, CallError> {
        let calls = self.lane.calls_mut();
        loop {
            calls.turn();
            match calls.write(self.id, bytes)? {
                // Credit need not come any more once the answer is complete.
                0 if calls.is_sent(self.id) || calls.is_answered(self.id) || bytes.is_empty() => return Ok(0),
                0 => drop(calls.wait(None)),
                len => return Ok(len),
            }
        }
    }
}

impl Read for Exchange {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(self.read_body(into)?)
    }
}

impl Write for Exchange {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.write_body(bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lane.flush();
        Ok(())
    }
}
