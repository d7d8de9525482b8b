//! A connection to the own socket of a serving app: HTTP/1.1, Dubbo2, a raw call or a raw stream, as its first byte says
//! (docs/spec/shm-v1.md §6.1).

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::poll::PollFlags;
use shmesh_proto::dubbo::{self, FrameHeader, HEADER_LEN};
use shmesh_proto::http1::{
    BodyKind, BodyReader, CONTINUE, ConnectionOption, Framing, HeadLimits, OwnOut, RequestHead, RequestOut,
    ResponseHead, ResponseOut, Status, TargetForm, Version, write_own_response, write_request, write_response,
};
use shmesh_shm::{Protocol, Reset};

use crate::clock;
use crate::raw_request::{RawRequest, Taken, write_len};
use crate::served::{Handler, Served, ServedResponse, StreamEvent, StreamId, StreamReply};
use crate::server::REQUEST_BYTES_MAX;

/// What a raw call begins with; a [`RawRequest`] follows. The answer has its length in front, as a u64.
pub(crate) const RAW_CALL: u8 = 5;
/// What a raw stream begins with.
pub(crate) const RAW_STREAM: u8 = 4;
/// Bytes of answers that wait for the peer; beyond, nothing more is read from it.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// Bytes that are read from one connection at a time.
const READ_BYTES: usize = 64 << 10;
/// Where the ids of streams have a lane's number.
const NO_LANE: u16 = u16::MAX;

/// What all connections need to answer, used again and again.
#[derive(Debug, Default)]
pub(crate) struct Answering {
    response: ServedResponse,
    reply: StreamReply,
    connections: u64,
}

impl Answering {
    /// A number that no connection had before.
    pub fn next_id(&mut self) -> u64 {
        self.connections += 1;
        self.connections
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct OwnConnection {
    stream: UnixStream,
    id: StreamId,
    speech: Speech,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    /// The peer will send no more.
    ended: bool,
    /// No more is answered; closed when the output has left.
    closing: bool,
    /// When something came or left last; nanoseconds of the clock.
    moved_at: u64,
}

#[derive(Debug)]
enum Speech {
    Unknown,
    Http(Option<Box<Incoming>>),
    Dubbo,
    RawCall(RawRequest),
    RawStream(RawStream),
}

/// How far a raw stream is.
#[derive(Debug, Default)]
struct RawStream {
    /// The handler knows that no more comes.
    told_end: bool,
    /// The handler sends no more.
    finished: bool,
    /// The peer knows that.
    shut: bool,
}

/// An HTTP request whose body is coming in.
#[derive(Debug)]
struct Incoming {
    /// In text, as it comes over a lane.
    head: Vec<u8>,
    to_head: bool,
    keep_alive: bool,
    version: Version,
    reader: BodyReader,
    body: Vec<u8>,
}

impl OwnConnection {
    pub fn new(stream: UnixStream, number: u64) -> OwnConnection {
        OwnConnection {
            stream,
            id: StreamId { lane: NO_LANE, slot: 0, generation: number },
            speech: Speech::Unknown,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            ended: false,
            closing: false,
            moved_at: clock::now(),
        }
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether it is between two messages; none of a raw stream, whose ends may both be silent.
    pub fn rests(&self) -> Option<bool> {
        let between = match &self.speech {
            Speech::Unknown | Speech::Http(None) | Speech::Dubbo => true,
            Speech::Http(Some(_)) | Speech::RawCall(_) => false,
            Speech::RawStream(_) => return None,
        };
        Some(between && self.input.is_empty() && self.left() == 0)
    }

    /// Since when nothing came or left, in nanoseconds of the clock.
    pub fn quiet_since(&self) -> u64 {
        self.moved_at
    }

    /// What there is to wait for.
    pub fn waits_for(&self) -> PollFlags {
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, self.reads());
        events.set(PollFlags::POLLOUT, self.left() > 0);
        events
    }

    /// Reads, answers and writes what goes. False: it is over. `hung_up`: the peer neither sends nor reads any more.
    pub fn turn(&mut self, hung_up: bool, answering: &mut Answering, handler: &mut impl Handler) -> bool {
        let deserted = hung_up && self.ended;
        let outcome = self.read().and_then(|()| {
            while self.step(answering, handler) {}
            self.write()
        });
        let (streams, finished) = match &self.speech {
            Speech::RawStream(stream) => (true, stream.shut && self.ended),
            _ => (false, false),
        };
        let is_over = outcome.is_err() || deserted || finished || self.closing && self.left() == 0;
        if is_over && streams && !finished && !self.closing {
            answering.reply = StreamReply::default();
            handler.stream(StreamEvent::Reset(self.id, Reset::Cancelled), &mut answering.reply);
        }
        !is_over
    }

    fn reads(&self) -> bool {
        !self.ended && !self.closing && self.left() < OUTPUT_BYTES_MAX
    }

    fn left(&self) -> usize {
        self.output.len() - self.sent
    }

    fn read(&mut self) -> io::Result<()> {
        if !self.reads() {
            return Ok(());
        }
        let mut piece = [0; READ_BYTES];
        match self.stream.read(&mut piece) {
            Ok(0) => self.ended = true,
            Ok(len) => {
                self.moved_at = clock::now();
                self.input.extend_from_slice(&piece[..len]);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        while self.left() > 0 {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(len) => {
                    self.moved_at = clock::now();
                    self.sent += len;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.sent = 0;
        if let Speech::RawStream(RawStream { finished: true, shut, .. }) = &mut self.speech
            && !std::mem::replace(shut, true)
        {
            self.stream.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }

    /// One message, or one step towards it. False: more has to come, or to leave, first.
    fn step(&mut self, answering: &mut Answering, handler: &mut impl Handler) -> bool {
        if self.closing || self.left() >= OUTPUT_BYTES_MAX {
            return false;
        }
        let went_on = match &mut self.speech {
            Speech::Unknown => self.begin(answering, handler),
            Speech::Http(incoming) => {
                let incoming = incoming.take();
                self.http(incoming, answering, handler)
            }
            Speech::Dubbo => self.dubbo(answering, handler),
            Speech::RawCall(_) => self.raw_call(answering, handler),
            Speech::RawStream(_) => self.raw_stream(answering, handler),
        };
        // What ends in the middle of a message ends.
        self.closing |= self.ended && !went_on && !matches!(self.speech, Speech::RawStream(_));
        went_on
    }

    fn begin(&mut self, answering: &mut Answering, handler: &mut impl Handler) -> bool {
        let Some(first) = self.input.first() else { return false };
        match *first {
            RAW_CALL => self.speech = Speech::RawCall(RawRequest::default()),
            RAW_STREAM => self.speech = Speech::RawStream(RawStream::default()),
            first if first == dubbo::MAGIC[0] => self.speech = Speech::Dubbo,
            _ => self.speech = Speech::Http(None),
        }
        if matches!(self.speech, Speech::RawCall(_) | Speech::RawStream(_)) {
            self.input.remove(0);
        }
        if matches!(self.speech, Speech::RawStream(_)) {
            self.tell(StreamEvent::Opened(self.id, Protocol::Raw), answering, handler);
        }
        true
    }

    fn http(&mut self, incoming: Option<Box<Incoming>>, answering: &mut Answering, handler: &mut impl Handler) -> bool {
        let Some(mut incoming) = incoming else { return self.http_head() };
        while !incoming.reader.is_done() {
            let Ok(step) = incoming.reader.read(&self.input) else {
                return self.refuse(400, "malformed", "the body is malformed", false);
            };
            incoming.body.extend_from_slice(&self.input[step.data]);
            self.input.drain(..step.consumed);
            if incoming.body.len() > REQUEST_BYTES_MAX {
                return self.refuse(413, "too-long", "the body is too long", incoming.to_head);
            }
            if step.consumed == 0 && !incoming.reader.is_done() {
                self.speech = Speech::Http(Some(incoming));
                return false;
            }
        }
        let mut request = Served {
            protocol: Protocol::Http,
            head: &incoming.head,
            body: &mut incoming.body,
            timeout: None,
            one_way: false,
        };
        answering.response.clear();
        handler.call(&mut request, &mut answering.response);
        self.answer_http(&incoming, &mut answering.response);
        true
    }

    /// Takes the head of a request. False: it is not complete.
    fn http_head(&mut self) -> bool {
        let mut head = RequestHead::default();
        match head.parse(&self.input, &HeadLimits::default()) {
            Ok(Status::Complete) => {}
            Ok(Status::Partial) => return false,
            Err(error) => return self.refuse(400, "malformed", &error.to_string(), false),
        }
        if !matches!(head.form, TargetForm::Origin | TargetForm::Asterisk) {
            return self.refuse(400, "no-proxy", "this is no proxy", false);
        }
        let framing = if head.body == BodyKind::None { Framing::None } else { Framing::Unframed };
        let mut text = Vec::new();
        write_request(&mut text, &head, &self.input, &RequestOut { framing, ..RequestOut::default() });
        if head.expect_continue && head.body != BodyKind::None {
            self.output.extend_from_slice(CONTINUE);
        }
        let incoming = Incoming {
            to_head: head.is_head(&self.input),
            keep_alive: head.keep_alive,
            version: head.version,
            reader: BodyReader::new(head.body),
            head: text,
            body: Vec::new(),
        };
        self.input.drain(..head.len as usize);
        self.speech = Speech::Http(Some(Box::new(incoming)));
        true
    }

    fn answer_http(&mut self, incoming: &Incoming, response: &mut ServedResponse) {
        if let Some((why, sentence)) = response.failure.take() {
            let status = match why {
                Reset::Timeout => 504,
                Reset::Refused | Reset::Overloaded | Reset::Draining | Reset::NoRoute => 503,
                Reset::Cancelled | Reset::Died | Reset::Malformed | Reset::Withdrawn => 502,
            };
            self.answer_own(status, why.name(), &sentence, incoming.to_head, !incoming.keep_alive);
            return;
        }
        let mut text = Vec::new();
        response.write_status_line(&mut text);
        text.extend_from_slice(&response.headers);
        text.extend_from_slice(b"\r\n");
        // Whatever framing the handler wrote is not ours.
        let mut head = ResponseHead::default();
        let is_head = matches!(head.parse(&text, &HeadLimits::default(), true), Ok(Status::Complete));
        if !is_head || head.is_interim() {
            self.answer_own(502, "malformed", "the app's answer is malformed", incoming.to_head, !incoming.keep_alive);
            return;
        }
        let has_body = !incoming.to_head && !matches!(head.status, 204 | 304);
        let framing = if has_body { Framing::Length(response.body.len() as u64) } else { Framing::None };
        let connection = if incoming.keep_alive { ConnectionOption::KeepAlive } else { ConnectionOption::Close };
        let how = ResponseOut { framing, connection, version: incoming.version, date: None };
        write_response(&mut self.output, &head, &text, &how);
        if has_body {
            self.output.extend_from_slice(&response.body);
        }
        self.closing = !incoming.keep_alive;
    }

    /// Refuses a request and everything behind it.
    fn refuse(&mut self, status: u16, reason: &str, sentence: &str, to_head: bool) -> bool {
        self.answer_own(status, reason, sentence, to_head, true);
        true
    }

    fn answer_own(&mut self, status: u16, reason: &str, sentence: &str, no_body: bool, close: bool) {
        let own = OwnOut { status, reason, sentence, close, no_body, date: None };
        write_own_response(&mut self.output, &own);
        self.closing = close;
    }

    fn dubbo(&mut self, answering: &mut Answering, handler: &mut impl Handler) -> bool {
        let Some(bytes) = self.input.first_chunk::<HEADER_LEN>() else { return false };
        let Ok(header) = FrameHeader::parse(bytes, REQUEST_BYTES_MAX as u32) else {
            self.closing = true;
            return false;
        };
        let len = HEADER_LEN + header.body_len as usize;
        if self.input.len() < len {
            return false;
        }
        let mut frame: Vec<u8> = self.input.drain(..len).collect();
        match (header.request, header.event) {
            (true, false) => {}
            (true, true) => {
                if header.two_way {
                    dubbo::write_heartbeat_reply(&mut self.output, &header);
                }
                return true;
            }
            (false, _) => return true,
        }
        let one_way = !header.two_way;
        let mut request = Served { protocol: Protocol::Dubbo2, head: &[], body: &mut frame, timeout: None, one_way };
        answering.response.clear();
        handler.call(&mut request, &mut answering.response);
        match answering.response.failure.take() {
            _ if one_way => {}
            Some((_, sentence)) => {
                dubbo::write_error(&mut self.output, &header, dubbo::status::SERVER_ERROR, &sentence)
            }
            None => self.output.extend_from_slice(&answering.response.body),
        }
        true
    }

    fn raw_call(&mut self, answering: &mut Answering, handler: &mut impl Handler) -> bool {
        let Speech::RawCall(request) = &mut self.speech else { return false };
        match request.take(&mut self.input, REQUEST_BYTES_MAX) {
            Taken::Whole => {}
            Taken::Part => return false,
            Taken::TooLong => {
                self.closing = true;
                return false;
            }
        }
        let mut request =
            Served { protocol: Protocol::Raw, head: &[], body: &mut request.body, timeout: None, one_way: false };
        answering.response.clear();
        handler.call(&mut request, &mut answering.response);
        // Without its length an answer that broke off, or never came, would look like a shorter one.
        if answering.response.failure.take().is_none() {
            let body = &answering.response.body;
            write_len(&mut self.output, body.len());
            self.output.extend_from_slice(body);
        }
        self.closing = true;
        true
    }

    fn raw_stream(&mut self, answering: &mut Answering, handler: &mut impl Handler) -> bool {
        if !self.input.is_empty() {
            let bytes = std::mem::take(&mut self.input);
            self.tell(StreamEvent::Data(self.id, &bytes), answering, handler);
            return true;
        }
        let Speech::RawStream(stream) = &mut self.speech else { return false };
        if self.ended && !std::mem::replace(&mut stream.told_end, true) {
            self.tell(StreamEvent::Ended(self.id), answering, handler);
            return true;
        }
        false
    }

    /// Tells the handler of a stream's event and does what it replies.
    fn tell(&mut self, event: StreamEvent<'_>, answering: &mut Answering, handler: &mut impl Handler) {
        let reply = &mut answering.reply;
        reply.bytes.clear();
        reply.end = false;
        reply.reset = None;
        handler.stream(event, reply);
        self.output.extend_from_slice(&reply.bytes);
        self.closing |= reply.reset.is_some();
        if let Speech::RawStream(stream) = &mut self.speech {
            stream.finished |= reply.end;
        }
    }
}
