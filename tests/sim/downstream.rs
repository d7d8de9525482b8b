//! Clients that reach the sidecar over TCP.

use shmesh_client::Ran;
use shmesh_io::Target;
use shmesh_proto::dubbo::{FrameHeader, HEADER_LEN};

use crate::call::{self, APP, Parts, Spec, To, WEB};
use crate::ledger::{End, Ledger};
use crate::machine::{Machine, ProcessId};
use crate::pipe::Pipe;
use crate::random::Random;
use crate::sidecar::{DUBBO_DOWN, HTTP_DOWN, addr};
use crate::upstream::Over;

/// How long a client waits for an answer.
const PATIENCE: u64 = 4_000_000_000;

/// A client.
pub struct Downstream {
    pub machine: Machine,
    pub ledger: Ledger,
    pub process: ProcessId,
    pub random: Random,
    pub rounds: u64,
    pub bytes_max: u64,
    pub served: bool,
}

impl Downstream {
    pub fn http(mut self) {
        let mut left = self.rounds;
        while left > 0 {
            let conn = self.machine.world().connect(&Target::Tcp(addr(HTTP_DOWN)));
            let mut pipe = Pipe::new(&self.machine, conn);
            pipe.deadline = Some(self.machine.now() + PATIENCE);
            if pipe.connected().is_err() {
                left -= 1;
                self.machine.sleep(3_000_000);
                continue;
            }
            while left > 0 {
                left -= 1;
                pipe.deadline = Some(self.machine.now() + PATIENCE);
                if self.http_call(&mut pipe).is_err() {
                    break;
                }
            }
        }
        self.ledger.rest(self.process);
    }

    fn http_call(&mut self, pipe: &mut Pipe) -> Result<(), Over> {
        let host = if self.served && self.random.percent(40) { APP } else { WEB };
        let spec = Spec::draw(&mut self.random, To::Http(host), self.bytes_max, self.ledger.is_calm());
        let id = self.ledger.begin(self.process, spec);
        let outcome = self.http_exchange(pipe, id, &spec, host);
        match outcome {
            Ok(Some((status, head, body))) => {
                self.ledger.answered(id, status, &head, &body);
                let closes = String::from_utf8_lossy(&head).to_ascii_lowercase().contains("connection: close");
                // After an answer of the sidecar's own it depends; a new connection is never wrong.
                if closes || status != 200 { Err(Over) } else { Ok(()) }
            }
            Ok(None) => {
                self.ledger.end(id, End::GivenUp(Ran::Maybe));
                Err(Over)
            }
            Err(Over) => {
                self.ledger.end(id, End::Failed(Ran::Maybe, "the connection ended".into()));
                Err(Over)
            }
        }
    }

    fn http_exchange(&mut self, pipe: &mut Pipe, id: u64, spec: &Spec, host: &str) -> Result<Option<Parts>, Over> {
        let body = call::question(id, spec.request_len);
        let mut out = call::head(id, spec, host).into_bytes();
        if spec.method() != "GET" && self.random.percent(40) {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
            let mut rest = &body[..];
            while !rest.is_empty() {
                let len = (1 + self.random.sized(rest.len() as u64) as usize).min(rest.len());
                out.extend_from_slice(format!("{len:x}\r\n").as_bytes());
                out.extend_from_slice(&rest[..len]);
                out.extend_from_slice(b"\r\n");
                rest = &rest[len..];
            }
            out.extend_from_slice(b"0\r\n\r\n");
        } else {
            if spec.method() != "GET" {
                out.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
            }
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(&body);
        }
        let gives_up = !self.ledger.is_calm() && self.random.percent(6);
        if gives_up {
            let cut = self.random.below(out.len() as u64 + 1) as usize;
            pipe.write(&out[..cut])?;
            self.machine.sleep(50_000);
            if self.random.percent(50) {
                pipe.reset();
            }
            return Ok(None);
        }
        // An answer may come, and the connection end, before everything was taken.
        let sent = pipe.write(&out);
        let answer = pipe.read_head().and_then(|head| {
            let body = pipe.read_body(&head)?;
            let text = String::from_utf8_lossy(&head).into_owned();
            let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(Over)?;
            Ok((status, head, body))
        });
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(over) => {
                sent?;
                Err(over)
            }
        }
    }

    pub fn dubbo(mut self) {
        let mut left = self.rounds;
        while left > 0 {
            let conn = self.machine.world().connect(&Target::Tcp(addr(DUBBO_DOWN)));
            let mut pipe = Pipe::new(&self.machine, conn);
            pipe.deadline = Some(self.machine.now() + PATIENCE);
            if pipe.connected().is_err() {
                left -= 1;
                self.machine.sleep(3_000_000);
                continue;
            }
            let mut flying: Vec<(u64, Spec)> = Vec::new();
            let outcome = self.dubbo_batch(&mut pipe, &mut left, &mut flying);
            for (id, _) in flying {
                let end = match outcome {
                    Ok(()) => End::GivenUp(Ran::Maybe),
                    Err(Over) => End::Failed(Ran::Maybe, "the connection ended".into()),
                };
                self.ledger.end(id, end);
            }
        }
        self.ledger.rest(self.process);
    }

    fn dubbo_batch(&mut self, pipe: &mut Pipe, left: &mut u64, flying: &mut Vec<(u64, Spec)>) -> Result<(), Over> {
        let count = self.random.range(1, 4).min(*left);
        *left -= count;
        for _ in 0..count {
            let spec = Spec::draw(&mut self.random, To::Dubbo, self.bytes_max, self.ledger.is_calm());
            let id = self.ledger.begin(self.process, spec);
            flying.push((id, spec));
            pipe.write(&call::frame(id, &spec))?;
        }
        if !self.ledger.is_calm() && self.random.percent(10) {
            return Ok(());
        }
        while !flying.is_empty() {
            let head: [u8; HEADER_LEN] = pipe.read_exact(HEADER_LEN)?.try_into().map_err(|_| Over)?;
            let Ok(header) = FrameHeader::parse(&head, u32::MAX) else {
                self.machine.fail("a Dubbo consumer got what is no frame");
                return Err(Over);
            };
            let body = pipe.read_exact(header.body_len as usize)?;
            if header.event {
                continue;
            }
            let Some(at) = flying.iter().position(|(id, _)| *id == header.id) else {
                self.machine.fail(format!("a Dubbo consumer got an answer to {}, which it did not ask", header.id));
                return Err(Over);
            };
            let (id, _) = flying.swap_remove(at);
            let frame = [&head[..], &body].concat();
            self.ledger.answered(id, u16::from(header.status), &[], &frame);
        }
        Ok(())
    }
}
