//! One call to an address, without the sidecar: over a connection that is kept, or a new one.

use std::io;
use std::net::Shutdown;
use std::time::Duration;

use shmesh_policy::Address;
use shmesh_policy::retry::{Attempt, Retry};
use shmesh_proto::dubbo::{FrameHeader, HEADER_LEN, write_heartbeat_reply};

use crate::call::{Request, RequestKind, Response};
use crate::clock;
use crate::error::Ran;
use crate::http_answer::HttpAnswer;
use crate::idle::Idle;
use crate::own_connection::RAW_CALL;
use crate::peer::Peer;
use crate::raw_request::{LEN_BYTES, write_len};

/// How long a connection may be silent in the middle of a message.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);
/// A body of so many bytes leaves together with its head.
const TOGETHER_BYTES: usize = 16 << 10;

/// Somewhere to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub address: Address,
    /// It is the own socket of an app that serves.
    pub of_app: bool,
}

/// By which rules.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub connect_timeout: Duration,
    pub first_byte_timeout: Duration,
    /// Nanoseconds of the clock.
    pub deadline: Option<u64>,
    pub idempotent: bool,
    pub answer_bytes_max: usize,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct Failed {
    pub ran: Ran,
    /// How often something of it was sent.
    pub sent: u32,
    pub why: Why,
    pub sentence: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// There was no connection to be had.
    Refused,
    /// The connection ended, or what came is no answer.
    Broke,
    /// It took too long.
    Late,
    /// The app itself announced another body than it wrote.
    Unfit,
}

/// Makes the call.
pub(crate) fn call(place: &Place, request: &Request<'_>, rules: &Rules, idle: &Idle) -> Result<Response, Failed> {
    let address = &place.address;
    let mut sent = 0;
    let mut attempts = 0;
    loop {
        let failed = |sent, why, error: io::Error| {
            let ran = if sent == 0 { Ran::No } else { Ran::Maybe };
            Failed { ran, sent, why, sentence: format!("{address}: {error}") }
        };
        attempts += 1;
        let first = attempts == 1;
        let kept = first.then(|| idle.take(address, request.protocol(), rules.idempotent)).flatten();
        let reused = kept.is_some();
        let left = rules.left().map_err(|error| failed(sent, Why::Late, error))?;
        let connect =
            || Peer::connect(address, left.map_or(rules.connect_timeout, |left| left.min(rules.connect_timeout)));
        let peer = kept.map_or_else(connect, Ok).map_err(|error| failed(sent, Why::Refused, error))?;
        let mut talk = Conversation::new(peer, rules);
        let outcome = match &request.kind {
            RequestKind::Http { head, body } => talk.http(head, body),
            RequestKind::Dubbo { frame, .. } => talk.dubbo(frame, request.is_one_way()),
            RequestKind::Raw { bytes, .. } => talk.raw(bytes, place.of_app),
        };
        let error = match outcome {
            Ok(response) => {
                if talk.keep {
                    idle.give_back(address, request.protocol(), talk.peer);
                }
                return Ok(response);
            }
            Err(error) => error,
        };
        // What was sent may have been executed, whatever came back.
        sent += u32::from(talk.sent > 0);
        if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
            return Err(failed(sent, Why::Late, io::ErrorKind::TimedOut.into()));
        }
        let attempt = Attempt {
            idempotent: rules.idempotent,
            bytes_sent: talk.sent,
            replayable: true,
            reused_connection: reused,
            // Whether to go on elsewhere is decided where the paths are known.
            endpoint_left: false,
            response_started: talk.answered,
            attempts,
        };
        if attempt.decide() != Retry::Again {
            return Err(failed(sent, Why::Broke, error));
        }
    }
}

impl Rules {
    /// The time that is left for the call. None: as long as bytes move.
    pub fn left(&self) -> io::Result<Option<Duration>> {
        let Some(deadline) = self.deadline else { return Ok(None) };
        match deadline.saturating_sub(clock::now()) {
            0 => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(Some(Duration::from_nanos(left))),
        }
    }
}

/// A request and its answer on a connection.
struct Conversation<'a> {
    peer: Peer,
    rules: &'a Rules,
    /// Bytes that came and were not looked at yet.
    received: Vec<u8>,
    sent: u64,
    /// When the request had been sent.
    asked: u64,
    /// A byte of the answer came.
    answered: bool,
    /// The connection is good for another call.
    keep: bool,
}

impl<'a> Conversation<'a> {
    fn new(peer: Peer, rules: &'a Rules) -> Conversation<'a> {
        Conversation { peer, rules, received: Vec::new(), sent: 0, asked: 0, answered: false, keep: false }
    }

    fn http(&mut self, head: &[u8], body: &[u8]) -> io::Result<Response> {
        let mut out = head.to_vec();
        let to_head = head.starts_with(b"HEAD ");
        if !body.is_empty() || !has_no_body_by_nature(head) {
            out.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        let mut rest = body;
        if body.len() <= TOGETHER_BYTES {
            out.extend_from_slice(std::mem::take(&mut rest));
        }
        // A server may answer before it has read everything, and close: its answer counts.
        let sent = self.send(&out).and_then(|()| self.send(rest));
        match self.http_answer(to_head) {
            Ok((response, keep)) => {
                self.keep = keep && sent.is_ok() && self.received.is_empty();
                Ok(response)
            }
            Err(error) => Err(sent.err().unwrap_or(error)),
        }
    }

    /// The answer, and whether the server keeps the connection.
    fn http_answer(&mut self, to_head: bool) -> io::Result<(Response, bool)> {
        let mut answer = HttpAnswer::new(to_head);
        let mut body = Vec::new();
        loop {
            answer.take(&mut self.received, &mut body)?;
            self.check_len(body.len())?;
            if answer.is_done() || self.receive()? == 0 {
                break;
            }
        }
        if !answer.may_end_here() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let keep = answer.keeps_alive();
        let (status, head) = answer.into_head();
        Ok((Response { status, head, body }, keep))
    }

    fn dubbo(&mut self, frame: &[u8], one_way: bool) -> io::Result<Response> {
        self.send(frame)?;
        if one_way {
            return Ok(Response::default());
        }
        let id = frame.get(4..12).ok_or(io::ErrorKind::InvalidInput)?;
        loop {
            // What else a provider says is no answer, and does not stretch the time for one.
            self.answered = false;
            let asked = self.asked;
            while self.received.len() < HEADER_LEN {
                self.must_receive()?;
                self.answered = false;
            }
            let Some(bytes) = self.received.first_chunk::<HEADER_LEN>() else { continue };
            let limit = u32::try_from(self.rules.answer_bytes_max).unwrap_or(u32::MAX);
            let header = FrameHeader::parse(bytes, limit).map_err(invalid)?;
            let len = HEADER_LEN + header.body_len as usize;
            let ours = !header.request && !header.event && &bytes[4..12] == id;
            self.answered = ours;
            while self.received.len() < len {
                self.must_receive()?;
                self.answered = ours;
            }
            let rest = self.received.split_off(len);
            let answer = std::mem::replace(&mut self.received, rest);
            if header.event && header.request && header.two_way {
                let mut reply = Vec::new();
                write_heartbeat_reply(&mut reply, &header);
                self.send(&reply)?;
                self.asked = asked;
            } else if ours {
                self.keep = self.received.is_empty();
                return Ok(Response { status: u16::from(header.status), head: Vec::new(), body: answer });
            }
        }
    }

    fn raw(&mut self, bytes: &[u8], to_app: bool) -> io::Result<Response> {
        if to_app {
            self.send_pieces(bytes)?;
        } else {
            // Until all of it is sent.
            self.peer.set_reset_at_end(true)?;
            self.send(bytes)?;
            self.peer.set_reset_at_end(false)?;
        }
        self.peer.shutdown(Shutdown::Write)?;
        while self.receive()? > 0 {
            self.check_len(self.received.len())?;
        }
        let mut body = std::mem::take(&mut self.received);
        if to_app {
            // An app that ends before its answer is whole has died, or refused the call.
            let len = body.first_chunk().map(|len| u64::from_le_bytes(*len));
            body.drain(..LEN_BYTES.min(body.len()));
            if len != Some(body.len() as u64) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(Response { status: 0, head: Vec::new(), body })
    }

    /// A raw request to the own socket of an app, as one piece.
    fn send_pieces(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut out = vec![RAW_CALL];
        if !bytes.is_empty() {
            write_len(&mut out, bytes.len());
        }
        if bytes.len() > TOGETHER_BYTES {
            self.send(&out)?;
            self.send(bytes)?;
            out.clear();
        } else {
            out.extend_from_slice(bytes);
        }
        write_len(&mut out, 0);
        self.send(&out)
    }

    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let left = self.rules.left()?.unwrap_or(SILENCE).min(SILENCE);
            let sent = self.peer.write(bytes, Some(left))?;
            self.sent += sent as u64;
            bytes = &bytes[sent..];
        }
        self.asked = clock::now();
        Ok(())
    }

    fn receive(&mut self) -> io::Result<usize> {
        let mut piece = [0; 16 << 10];
        let silence = if self.answered {
            SILENCE
        } else {
            let waited = Duration::from_nanos(clock::now().saturating_sub(self.asked));
            self.rules.first_byte_timeout.saturating_sub(waited)
        };
        let left = self.rules.left()?.unwrap_or(silence).min(silence);
        let len = self.peer.read(&mut piece, Some(left))?;
        self.answered |= len > 0;
        self.received.extend_from_slice(&piece[..len]);
        Ok(len)
    }

    fn must_receive(&mut self) -> io::Result<()> {
        match self.receive()? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    fn check_len(&self, len: usize) -> io::Result<()> {
        let most = self.rules.answer_bytes_max;
        if len > most {
            return Err(io::Error::other(format!("the answer is longer than {most} bytes")));
        }
        Ok(())
    }
}

/// RFC 9110 §8.6: a Content-Length of 0 is sent only where a body is to be expected.
pub(crate) fn has_no_body_by_nature(head: &[u8]) -> bool {
    [&b"GET "[..], b"HEAD ", b"DELETE ", b"OPTIONS ", b"TRACE "].iter().any(|method| head.starts_with(method))
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
