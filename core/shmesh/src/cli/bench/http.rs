//! HTTP/1.1 calls, pipelined when several are in flight; answers come in order.

use shmesh_proto::http1::{BodyReader, HeadLimits, ResponseHead, Status};

use super::payload::Payload;
use super::wire::{Answer, NOT_THE_ECHO, Step, Wire, unasked};

pub struct HttpWire {
    /// The head of every request.
    request: Vec<u8>,
    payload: Payload,
    limits: HeadLimits,
    head: ResponseHead,
    reading: Option<Reading>,
}

/// The answer whose body is coming in.
struct Reading {
    number: u64,
    body: BodyReader,
    /// Body bytes so far, and whether all were right.
    received: usize,
    right: bool,
    /// Why it is wrong whatever its body is.
    refused: Option<String>,
    close: bool,
}

impl HttpWire {
    pub fn new(method: &str, host: &str, payload: Payload) -> Self {
        let request = format!("{method} / HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n\r\n", payload.len());
        Self {
            request: request.into_bytes(),
            payload,
            limits: HeadLimits::default(),
            head: ResponseHead::default(),
            reading: None,
        }
    }

    /// Reads a head; `None` if it is not whole yet.
    fn begin(&mut self, input: &[u8], oldest: Option<u64>) -> Result<Option<usize>, String> {
        match self.head.parse(input, &self.limits, false) {
            Ok(Status::Partial) => return Ok(None),
            Ok(Status::Complete) => {}
            Err(error) => return Err(format!("an answer was not HTTP/1.1: {error}")),
        }
        let head = &self.head;
        if head.upgrade || !head.is_interim() {
            self.reading = Some(Reading {
                number: oldest.ok_or_else(unasked)?,
                body: BodyReader::new(head.body),
                received: 0,
                right: true,
                refused: (head.status != 200).then(|| refusal(head, input)),
                close: !head.keep_alive,
            });
        }
        Ok(Some(head.len as usize))
    }
}

impl Wire for HttpWire {
    fn request(&mut self, number: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.request);
        self.payload.append(number, out);
    }

    fn answer(&mut self, input: &[u8], oldest: Option<u64>, _: &mut Vec<u8>) -> Result<Step, String> {
        let mut consumed = 0;
        if self.reading.is_none() {
            match self.begin(input, oldest)? {
                Some(n) => consumed = n,
                None => return Ok(Step::default()),
            }
        }
        let Some(reading) = &mut self.reading else {
            return Ok(Step { consumed, answer: None });
        };
        while !reading.body.is_done() {
            let rest = &input[consumed..];
            let step = reading.body.read(rest).map_err(|error| format!("an answer's body was malformed: {error}"))?;
            if step.consumed == 0 {
                return Ok(Step { consumed, answer: None });
            }
            let data = &rest[step.data];
            reading.right &= self.payload.matches(reading.number, reading.received, data);
            reading.received += data.len();
            consumed += step.consumed;
        }
        let answer = self.reading.take().map(|reading| reading.judge(self.payload.len()));
        Ok(Step { consumed, answer })
    }

    fn end(&mut self) -> Option<Answer> {
        let ended = self.reading.take_if(|reading| reading.body.may_end_here());
        ended.map(|reading| reading.judge(self.payload.len()))
    }

    fn reset(&mut self) {
        self.reading = None;
    }
}

impl Reading {
    fn judge(self, payload_len: usize) -> Answer {
        let right = self.right && self.received == payload_len;
        let fault = self.refused.or_else(|| (!right).then(|| NOT_THE_ECHO.to_owned()));
        Answer { number: self.number, fault, close: self.close }
    }
}

fn refusal(head: &ResponseHead, input: &[u8]) -> String {
    match head.header(input, "x-shmesh-reason") {
        Some(reason) => {
            let reason = String::from_utf8_lossy(reason);
            format!("answered {} ({reason})", head.status)
        }
        None => format!("answered {}", head.status),
    }
}
