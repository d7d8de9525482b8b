//! What an app that serves is asked, and what it answers.

use std::time::Duration;

use shmesh_proto::http1::reason_phrase;
use shmesh_shm::{Protocol, Reset};

/// A call that came in, whole.
#[derive(Debug)]
pub struct Served<'a> {
    pub protocol: Protocol,
    /// HTTP: request line and headers in text, with the empty line. Empty otherwise.
    pub head: &'a [u8],
    /// HTTP: the body. Dubbo: the whole frame. Raw: the bytes. The handler may keep them, or swap them into its answer.
    pub body: &'a mut Vec<u8>,
    /// The caller gives up after this, counted from when the sidecar sent it.
    pub timeout: Option<Duration>,
    /// No answer but that it was taken is wanted.
    pub one_way: bool,
}

impl<'a> Served<'a> {
    /// HTTP: the method.
    pub fn method(&self) -> &'a [u8] {
        self.head.split(|byte| *byte == b' ').next().unwrap_or_default()
    }

    /// HTTP: path and query.
    pub fn path(&self) -> &'a [u8] {
        self.head.split(|byte| *byte == b' ').nth(1).unwrap_or_default()
    }

    /// HTTP: the first header of this name, in any case, without the white space around its value.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.head.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let is_it = line[..colon].eq_ignore_ascii_case(name.as_bytes());
            is_it.then(|| line[colon + 1..].trim_ascii())
        })
    }
}

/// The answer to a call. Comes empty, with status 200; its memory is used again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServedResponse {
    /// HTTP: the body. Dubbo: the whole frame, with the request's id. Raw: the bytes.
    pub body: Vec<u8>,
    pub(crate) status: u16,
    /// Header lines.
    pub(crate) headers: Vec<u8>,
    pub(crate) failure: Option<(Reset, String)>,
}

impl ServedResponse {
    /// HTTP: the status; 200 unless set.
    pub fn status(&mut self, status: u16) -> &mut ServedResponse {
        self.status = status;
        self
    }

    /// HTTP: adds a header. Framing headers are the sidecar's: do not add them. One that would break the line (a name that is
    /// no token, a line break in the value) is left out.
    pub fn header(&mut self, name: &str, value: impl AsRef<[u8]>) -> &mut ServedResponse {
        let value = value.as_ref();
        let name_ok = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
        if name_ok && !value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            for piece in [name.as_bytes(), b": ", value, b"\r\n"] {
                self.headers.extend_from_slice(piece);
            }
        }
        self
    }

    /// No answer: the call fails for this reason.
    pub fn fail(&mut self, why: Reset, sentence: &str) {
        self.failure = Some((why, sentence.to_owned()));
    }

    pub(crate) fn clear(&mut self) {
        self.body.clear();
        self.status = 200;
        self.headers.clear();
        self.failure = None;
    }

    /// What goes into `code` of the ANSWER.
    pub(crate) fn code(&self, protocol: Protocol) -> u16 {
        match protocol {
            Protocol::Http => self.status,
            Protocol::Dubbo2 => self.body.get(3).map_or(0, |status| u16::from(*status)),
            Protocol::Raw => 0,
        }
    }

    /// The status line.
    pub(crate) fn write_status_line(&self, out: &mut Vec<u8>) {
        let status = self.status.clamp(100, 999);
        let digits = [100, 10, 1].map(|place| b'0' + (status / place % 10) as u8);
        for piece in [&b"HTTP/1.1 "[..], &digits, b" ", reason_phrase(status).as_bytes(), b"\r\n"] {
            out.extend_from_slice(piece);
        }
    }
}

/// A stream that the sidecar opened. Unique on its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId {
    pub(crate) lane: u16,
    pub(crate) slot: u32,
    pub(crate) generation: u64,
}

/// What happens on a stream.
#[derive(Clone, Copy, Debug)]
pub enum StreamEvent<'a> {
    /// It begins.
    Opened(StreamId, Protocol),
    /// Bytes came.
    Data(StreamId, &'a [u8]),
    /// No more bytes will come; answering may go on.
    Ended(StreamId),
    /// It is over.
    Reset(StreamId, Reset),
}

/// What a handler does on a stream in return. Comes empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamReply {
    /// Bytes to send. More than the peer takes are kept, and the peer is then given no more credit to send.
    pub bytes: Vec<u8>,
    /// No more bytes will be sent.
    pub end: bool,
    /// Ends the stream at once.
    pub reset: Option<Reset>,
}

/// What an app does with the calls that it serves. A closure over (request, response) is one.
pub trait Handler {
    /// Answers a call.
    fn call(&mut self, request: &mut Served<'_>, response: &mut ServedResponse);

    /// Takes part in a byte stream. Refuses streams unless implemented.
    fn stream(&mut self, event: StreamEvent<'_>, reply: &mut StreamReply) {
        if let StreamEvent::Opened(..) = event {
            reply.reset = Some(Reset::Refused);
        }
    }
}

impl<F: FnMut(&mut Served<'_>, &mut ServedResponse)> Handler for F {
    fn call(&mut self, request: &mut Served<'_>, response: &mut ServedResponse) {
        self(request, response);
    }
}
