//! Clients that reach the sidecar over TCP.

use std::collections::VecDeque;

use shmesh_client::Ran;
use shmesh_io::Target;
use shmesh_io::sim::World;
use shmesh_proto::dubbo::{FrameHeader, HEADER_LEN};

use crate::call::{self, APP, RAW, RAW_APP, SERVICE, SERVICE_APP, Spec, To, WEB};
use crate::ledger::{End, Ledger};
use crate::machine::{Machine, ProcessId};
use crate::pipe::Pipe;
use crate::random::Random;
use crate::sidecar::{DUBBO_DOWN, HTTP_DOWN, RAW_APP_DOWN, RAW_DOWN, addr};
use crate::upstream::Over;

/// How long a client waits for an answer.
const PATIENCE: u64 = 4_000_000_000;

/// When a client begins nothing more: its calls may all be lost.
const LIFE: u64 = World::EPOCH + 5_000_000_000;

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
        while left > 0 && self.machine.now() < LIFE {
            let conn = self.machine.world().connect(&Target::Tcp(addr(HTTP_DOWN)));
            let mut pipe = Pipe::new(&self.machine, conn);
            pipe.deadline = Some(self.machine.now() + PATIENCE);
            if pipe.connected().is_err() {
                left -= 1;
                self.machine.sleep(3_000_000);
                continue;
            }
            while left > 0 && self.machine.now() < LIFE {
                let ahead = if self.random.percent(40) { self.random.range(1, 5) } else { 1 };
                let batch = ahead.min(left);
                left -= batch;
                pipe.deadline = Some(self.machine.now() + PATIENCE);
                if self.http_calls(&mut pipe, batch).is_err() {
                    break;
                }
            }
        }
        self.ledger.rest(self.process);
    }

    /// Calls that are made one behind the other, without waiting for an answer in between; their answers come in order.
    fn http_calls(&mut self, pipe: &mut Pipe, count: u64) -> Result<(), Over> {
        let mut out = Vec::new();
        let mut calls = VecDeque::new();
        for _ in 0..count {
            let host = if self.served && self.random.percent(40) { APP } else { WEB };
            let spec = Spec::draw(&mut self.random, To::Http(host), self.bytes_max, self.ledger.is_calm());
            let id = self.ledger.begin(self.process, spec);
            self.http_request(&mut out, id, &spec, host);
            calls.push_back(id);
        }
        let over = self.http_exchange(pipe, &out, &mut calls);
        let end = match over {
            Ok(true) => return Ok(()),
            Ok(false) => End::GivenUp(Ran::Maybe),
            Err(Over) => End::Failed(Ran::Maybe, "the connection ended".into()),
        };
        for id in calls {
            self.ledger.end(id, end.clone());
        }
        Err(Over)
    }

    fn http_request(&mut self, out: &mut Vec<u8>, id: u64, spec: &Spec, host: &str) {
        let body = call::question(id, spec.request_len);
        out.extend_from_slice(call::head(id, spec, host).as_bytes());
        if spec.method() == "GET" {
            out.extend_from_slice(b"\r\n");
        } else if self.random.percent(40) {
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
            out.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
            out.extend_from_slice(&body);
        }
    }

    /// Writes requests and takes their answers. False: it gave up.
    fn http_exchange(&mut self, pipe: &mut Pipe, out: &[u8], calls: &mut VecDeque<u64>) -> Result<bool, Over> {
        let gives_up = !self.ledger.is_calm() && self.random.percent(8);
        if gives_up {
            let cut = self.random.below(out.len() as u64 + 1) as usize;
            pipe.write(&out[..cut])?;
            let moment = self.random.sized(3_000_000);
            self.machine.sleep(moment);
            self.leave(pipe);
            return Ok(false);
        }
        // An answer may come, and the connection end, before everything was taken.
        pipe.reads_ahead = calls.len() > 1;
        let sent = pipe.write(out);
        while let Some(id) = calls.pop_front() {
            let answer = pipe.read_head().and_then(|head| {
                let body = pipe.read_body(&head)?;
                let text = String::from_utf8_lossy(&head).into_owned();
                let status: u16 = text.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(Over)?;
                Ok((status, head, body))
            });
            let Ok((status, head, body)) = answer else {
                calls.push_front(id);
                return Err(Over);
            };
            self.ledger.answered(id, status, &head, &body);
            let closes = String::from_utf8_lossy(&head).to_ascii_lowercase().contains("connection: close");
            // After an answer of the sidecar's own it depends; a new connection is never wrong.
            if closes || status != 200 && calls.is_empty() {
                return Err(Over);
            }
        }
        sent.map(|()| true)
    }

    /// Goes without waiting for anything: closes, breaks off, or is never heard of again.
    fn leave(&mut self, pipe: &mut Pipe) {
        match self.random.below(3) {
            0 => pipe.reset(),
            1 => pipe.vanish(),
            _ => {}
        }
    }

    /// Raw connections, one after the other.
    pub fn raw(mut self) {
        for _ in 0..self.rounds {
            if self.machine.now() >= LIFE {
                break;
            }
            let (at, cluster) =
                if self.served && self.random.percent(60) { (RAW_APP_DOWN, RAW_APP) } else { (RAW_DOWN, RAW) };
            let conn = self.machine.world().connect(&Target::Tcp(addr(at)));
            let mut pipe = Pipe::new(&self.machine, conn);
            pipe.deadline = Some(self.machine.now() + PATIENCE);
            if pipe.connected().is_err() {
                self.machine.sleep(3_000_000);
                continue;
            }
            let spec = Spec::draw(&mut self.random, To::Raw(cluster), self.bytes_max, self.ledger.is_calm());
            let id = self.ledger.begin(self.process, spec);
            let question = call::raw_question(id, spec.request_len);
            pipe.reads_ahead = true;
            if !self.ledger.is_calm() && self.random.percent(15) {
                let cut = self.random.below(question.len() as u64 + 1) as usize;
                let _ = pipe.write(&question[..cut]);
                let moment = self.random.sized(500_000);
                self.machine.sleep(moment);
                if self.random.percent(50) {
                    pipe.reset();
                }
                self.ledger.end(id, End::GivenUp(Ran::Maybe));
                continue;
            }
            let answer = pipe.write(&question).and_then(|()| {
                pipe.shutdown();
                pipe.read_to_end()
            });
            match answer {
                Ok(answer) => self.ledger.answered_raw(id, &answer),
                Err(Over) => self.ledger.end(id, End::Failed(Ran::Maybe, "the connection ended".into())),
            }
        }
        self.ledger.rest(self.process);
    }

    pub fn dubbo(mut self) {
        let mut left = self.rounds;
        while left > 0 && self.machine.now() < LIFE {
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
            let service = if self.served && self.random.percent(40) { SERVICE_APP } else { SERVICE };
            let spec = Spec::draw(&mut self.random, To::Dubbo(service), self.bytes_max, self.ledger.is_calm());
            let id = self.ledger.begin(self.process, spec);
            flying.push((id, spec));
            pipe.write(&call::frame(id, &spec))?;
        }
        if !self.ledger.is_calm() && self.random.percent(10) {
            let moment = self.random.sized(3_000_000);
            self.machine.sleep(moment);
            self.leave(pipe);
            return Ok(());
        }
        // Nobody says what became of those.
        flying.retain(|(id, spec)| {
            if spec.one_way {
                self.ledger.end(*id, End::Answered);
            }
            !spec.one_way
        });
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
