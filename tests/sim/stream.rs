//! Apps that use streams in place of connections.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use shmesh_client::{Client, Protocol, Ran};
use shmesh_proto::dubbo::{FrameHeader, HEADER_LEN};

use crate::app::Caller;
use crate::call::{self, Parts, Spec, To};
use crate::ledger::End;

/// How long a read or write may take.
const PATIENCE: Duration = Duration::from_secs(3);

impl Caller {
    /// A stream of any protocol.
    pub fn stream(&mut self, client: &Client) {
        match self.random.below(10) {
            0..=2 if self.plan.raw_streams => self.raw_stream(client),
            3..=4 => self.dubbo_stream(client),
            _ => self.http_stream(client),
        }
    }

    /// A raw stream: the call, the end of this direction, the answer until the other one ends.
    fn raw_stream(&mut self, client: &Client) {
        let cluster = self.raw_cluster();
        let Ok(mut stream) = client.stream(Protocol::Raw, Some(cluster)) else { return };
        stream.set_read_timeout(Some(PATIENCE));
        stream.set_write_timeout(Some(PATIENCE));
        let spec = Spec { to: To::Raw(cluster), one_way: false, ..self.spec() };
        let id = self.ledger.begin(self.process, spec);
        let question = call::raw_question(id, spec.request_len);
        if self.patience() < u64::MAX {
            let cut = self.random.below(question.len() as u64 + 1) as usize;
            let _ = stream.write_all(&question[..cut]);
            let moment = self.random.sized(500_000);
            self.machine.sleep(moment);
            return self.ledger.end(id, End::GivenUp(Ran::Maybe));
        }
        let mut answer = Vec::new();
        let outcome = stream
            .write_all(&question)
            .and_then(|()| stream.shutdown(Shutdown::Write))
            .and_then(|()| stream.read_to_end(&mut answer));
        match outcome {
            Ok(_) => self.ledger.answered_raw(id, &answer),
            Err(error) => self.ledger.end(id, End::Failed(Ran::Maybe, format!("the raw stream: {error}"))),
        }
    }

    /// Dubbo over a stream: some frames, then their answers in any order.
    fn dubbo_stream(&mut self, client: &Client) {
        let Ok(mut stream) = client.stream(Protocol::Dubbo2, None) else { return };
        stream.set_read_timeout(Some(PATIENCE));
        stream.set_write_timeout(Some(PATIENCE));
        let mut flying = Vec::new();
        let mut sent = Ok(());
        for _ in 0..self.random.range(1, 4) {
            let service = self.service();
            let spec = Spec::draw(&mut self.random, To::Dubbo(service), self.plan.bytes_max, self.ledger.is_calm());
            let id = self.ledger.begin(self.process, spec);
            flying.push((id, spec));
            sent = sent.and_then(|()| stream.write_all(&call::frame(id, &spec)));
        }
        if self.patience() < u64::MAX {
            let moment = self.random.sized(500_000);
            self.machine.sleep(moment);
            return flying.into_iter().for_each(|(id, _)| self.ledger.end(id, End::GivenUp(Ran::Maybe)));
        }
        let mut outcome = sent;
        if outcome.is_ok() {
            // Nobody says what became of those.
            for (id, _) in flying.extract_if(.., |(_, spec)| spec.one_way) {
                self.ledger.end(id, End::Answered);
            }
        }
        while outcome.is_ok() && !flying.is_empty() {
            outcome = read_frame(&mut stream).map(|(header, frame)| {
                if header.event {
                    return;
                }
                match flying.iter().position(|(id, _)| *id == header.id) {
                    Some(at) => self.ledger.answered(flying.swap_remove(at).0, u16::from(header.status), &[], &frame),
                    None => self.machine.fail(format!("an answer to {} on a stream that did not ask", header.id)),
                }
            });
        }
        if let Err(error) = outcome {
            for (id, _) in flying {
                self.ledger.end(id, End::Failed(Ran::Maybe, format!("the Dubbo stream: {error}")));
            }
        }
    }

    /// HTTP over a stream, one request after the other.
    fn http_stream(&mut self, client: &Client) {
        let Ok(mut stream) = client.stream(Protocol::Http, None) else { return };
        stream.set_read_timeout(Some(PATIENCE));
        stream.set_write_timeout(Some(PATIENCE));
        for _ in 0..self.random.range(1, 3) {
            let mut spec = self.spec();
            let To::Http(host) = spec.to else { continue };
            spec.request_len = spec.request_len.min(2000);
            let id = self.ledger.begin(self.process, spec);
            let mut out = call::head(id, &spec, host).into_bytes();
            let body = call::question(id, spec.request_len);
            if spec.method() != "GET" {
                out.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
            }
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(&body);
            if self.patience() < u64::MAX {
                out.truncate(self.random.below(out.len() as u64 + 1) as usize);
                let _ = stream.write_all(&out);
                let moment = self.random.sized(500_000);
                self.machine.sleep(moment);
                return self.ledger.end(id, End::GivenUp(Ran::Maybe));
            }
            // An answer may come, and the stream end, before everything was taken.
            let sent = stream.write_all(&out);
            let outcome = read_answer(&mut stream).or_else(|error| sent.and(Err(error)));
            match outcome {
                Ok((status, head, body)) => {
                    self.ledger.answered(id, status, &head, &body);
                    if !keeps_alive(&head) {
                        return;
                    }
                }
                Err(error) => {
                    self.ledger.end(id, End::Failed(Ran::Maybe, format!("the stream: {error}")));
                    return;
                }
            }
        }
    }
}

/// A whole Dubbo frame, and its header.
fn read_frame(stream: &mut impl Read) -> io::Result<(FrameHeader, Vec<u8>)> {
    let mut head = [0; HEADER_LEN];
    stream.read_exact(&mut head)?;
    let header = FrameHeader::parse(&head, u32::MAX).map_err(|error| io::Error::other(error.to_string()))?;
    let mut frame = head.to_vec();
    frame.resize(HEADER_LEN + header.body_len as usize, 0);
    stream.read_exact(&mut frame[HEADER_LEN..])?;
    Ok((header, frame))
}

/// Whether another request may follow.
fn keeps_alive(head: &[u8]) -> bool {
    !String::from_utf8_lossy(head).to_ascii_lowercase().contains("connection: close")
}

/// Status, head and body of an HTTP answer.
fn read_answer(stream: &mut impl Read) -> io::Result<Parts> {
    let end = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let mut bytes = Vec::new();
    let mut more = |bytes: &mut Vec<u8>| -> io::Result<bool> {
        let mut piece = [0; 2000];
        let len = stream.read(&mut piece)?;
        bytes.extend_from_slice(&piece[..len]);
        Ok(len > 0)
    };
    let head_len = loop {
        if let Some(at) = bytes.windows(4).position(|part| part == b"\r\n\r\n") {
            break at + 4;
        }
        if !more(&mut bytes)? {
            return Err(end());
        }
    };
    let head: Vec<u8> = bytes.drain(..head_len).collect();
    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(end)?;
    let mut body = Vec::new();
    if text.contains("transfer-encoding: chunked") {
        loop {
            let Some(at) = bytes.windows(2).position(|part| part == b"\r\n") else {
                if !more(&mut bytes)? {
                    return Err(end());
                }
                continue;
            };
            let len = usize::from_str_radix(&String::from_utf8_lossy(&bytes[..at]), 16).map_err(|_| end())?;
            while bytes.len() < at + 2 + len + 2 {
                if !more(&mut bytes)? {
                    return Err(end());
                }
            }
            body.extend_from_slice(&bytes[at + 2..at + 2 + len]);
            bytes.drain(..at + 2 + len + 2);
            if len == 0 {
                return Ok((status, head, body));
            }
        }
    }
    match text.split("content-length: ").nth(1) {
        Some(rest) => {
            let len: usize = rest.split("\r\n").next().and_then(|len| len.parse().ok()).ok_or_else(end)?;
            while bytes.len() < len {
                if !more(&mut bytes)? {
                    return Err(end());
                }
            }
            Ok((status, head, bytes[..len].to_vec()))
        }
        None => {
            while more(&mut bytes)? {}
            Ok((status, head, bytes))
        }
    }
}
