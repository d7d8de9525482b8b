//! The HTTP/1.1 echo: any method, 200, the body that came.

use std::io::Write;

use shmesh_proto::http1::{
    BodyKind, BodyReader, CHUNK_END, CONTINUE, HeadLimits, OwnOut, RequestHead, Status, Version, chunk_line,
    write_last_chunk, write_own_response,
};

use super::{Progress, Service};
use crate::cli::bench::payload::Check;

/// Answers are collected up to here before they are offered to the socket, in bytes: a large body
/// goes back while it is still coming in.
const ANSWER_BYTES_BATCH: usize = 256 * 1024;

/// One connection.
#[derive(Default)]
pub struct HttpEcho {
    limits: HeadLimits,
    head: RequestHead,
    body: Option<Body>,
    /// Whether bodies are compared.
    check: bool,
}

/// The request that is being answered.
struct Body {
    reader: BodyReader,
    answer: Answer,
    keep_alive: bool,
    check: Option<Check>,
}

/// How the body goes back.
#[derive(Clone, Copy, PartialEq)]
enum Answer {
    /// HEAD: not at all.
    Nothing,
    Plain,
    Chunked,
}

impl Service for HttpEcho {
    fn handle(&mut self, input: &[u8], out: &mut Vec<u8>) -> Progress {
        let mut consumed = 0;
        let from = out.len();
        while consumed < input.len() && out.len() - from < ANSWER_BYTES_BATCH {
            let rest = &input[consumed..];
            let step = match &mut self.body {
                None => self.begin(rest, out),
                Some(body) => body.pass(rest, out),
            };
            match step {
                Step::Took(0) => break,
                Step::Took(n) => consumed += n,
                Step::Close => {
                    return Progress { consumed, close: true };
                }
            }
            if let Some(body) = &self.body
                && body.reader.is_done()
            {
                if body.answer == Answer::Chunked {
                    write_last_chunk(out, &[]);
                }
                if !body.keep_alive {
                    return Progress { consumed, close: true };
                }
                self.body = None;
            }
        }
        Progress { consumed, close: false }
    }
}

enum Step {
    Took(usize),
    Close,
}

impl HttpEcho {
    /// With `check`, bodies are to be payloads of `shmesh bench`; the first other one ends the connection.
    pub fn new(check: bool) -> Self {
        Self { check, ..Self::default() }
    }

    /// Reads a head and writes the head of its answer.
    fn begin(&mut self, input: &[u8], out: &mut Vec<u8>) -> Step {
        match self.head.parse(input, &self.limits) {
            Ok(Status::Partial) => return Step::Took(0),
            Ok(Status::Complete) => {}
            Err(error) => {
                let sentence = error.to_string();
                refuse(out, error.status(), error.reason(), &sentence);
                return Step::Close;
            }
        }
        let head = &self.head;
        if head.is_connect(input) {
            refuse(out, 405, "connect", "this service opens no tunnels");
            return Step::Close;
        }
        let body_waits = head.len as usize == input.len();
        if head.expect_continue && body_waits && !matches!(head.body, BodyKind::None) {
            out.extend_from_slice(CONTINUE);
        }
        let answer = self.write_head(input, out);
        self.body = Some(Body {
            reader: BodyReader::new(self.head.body),
            answer,
            keep_alive: self.head.keep_alive,
            check: self.check.then(Check::default),
        });
        Step::Took(self.head.len as usize)
    }

    fn write_head(&self, input: &[u8], out: &mut Vec<u8>) -> Answer {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n");
        match (self.head.keep_alive, self.head.version) {
            (false, _) => out.extend_from_slice(b"connection: close\r\n"),
            (true, Version::Http10) => out.extend_from_slice(b"connection: keep-alive\r\n"),
            (true, Version::Http11) => {}
        }
        let (answer, length) = match self.head.body {
            _ if self.head.is_head(input) => (Answer::Nothing, Some(0)),
            BodyKind::Length(length) => (Answer::Plain, Some(length)),
            BodyKind::Chunked => (Answer::Chunked, None),
            BodyKind::None | BodyKind::UntilClose => (Answer::Plain, Some(0)),
        };
        match length {
            Some(length) => write_decimal(out, b"content-length: ", length),
            None => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        }
        out.extend_from_slice(b"\r\n");
        answer
    }
}

/// Answers what is not served; the connection ends behind it.
fn refuse(out: &mut Vec<u8>, status: u16, reason: &str, sentence: &str) {
    write_own_response(out, &OwnOut { status, reason, sentence, close: true, no_body: false, date: None });
}

fn write_decimal(out: &mut Vec<u8>, name: &[u8], value: u64) {
    out.extend_from_slice(name);
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{value}\r\n");
}

impl Body {
    /// Sends back what of the body lies at the front of `input`.
    fn pass(&mut self, input: &[u8], out: &mut Vec<u8>) -> Step {
        let Ok(step) = self.reader.read(input) else {
            // The answer has begun: all that is left to say is that it ends here.
            return Step::Close;
        };
        let data = &input[step.data];
        if let Some(check) = &mut self.check {
            check.take(data);
            if check.is_wrong() {
                return Step::Close;
            }
        }
        match self.answer {
            _ if data.is_empty() => {}
            Answer::Nothing => {}
            Answer::Plain => out.extend_from_slice(data),
            Answer::Chunked => {
                let (line, used) = chunk_line(data.len());
                out.extend_from_slice(&line[..used]);
                out.extend_from_slice(data);
                out.extend_from_slice(CHUNK_END);
            }
        }
        Step::Took(step.consumed)
    }
}
