//! Services behind the simulated network: HTTP/1.1, Dubbo2, raw. A task for each connection, written as blocking code.

use std::rc::Rc;

use shmesh_io::Target;
use shmesh_io::sim::ActorConn;
use shmesh_proto::dubbo::{
    FrameHeader, HEADER_LEN, PeekOutcome, first_argument, peek_request, write_heartbeat_reply, write_value_response,
};

use crate::call::{self, Manner, Spec};
use crate::ledger::Ledger;
use crate::machine::{Machine, ProcessId};
use crate::pipe::Pipe;
use crate::random::Random;

/// Longest frame that is taken.
const FRAME_MAX: u32 = 8 << 20;

/// How long a silent service keeps its connections, in nanoseconds.
const SILENCE: u64 = 500_000_000;

/// What is served.
#[derive(Clone, Copy, Debug)]
pub enum Service {
    Http,
    Dubbo,
    Raw,
}

/// Starts a service; it serves until the run ends.
pub fn start(machine: &Machine, ledger: &Ledger, mut random: Random, at: Target, service: Service) {
    let process = machine.process("upstream");
    let (owner, ledger) = (machine.clone(), ledger.clone());
    machine.spawn(process, &format!("{service:?}"), move || {
        let machine = owner;
        let listener = Rc::new(machine.world().listen(&at).expect("an address that is free"));
        loop {
            let waiting = listener.clone();
            machine.wait(None, move || waiting.is_acceptable());
            while let Some(conn) = listener.accept() {
                serve(&machine, process, &ledger, random.fork(), conn, service);
            }
        }
    });
}

fn serve(machine: &Machine, process: ProcessId, ledger: &Ledger, random: Random, conn: ActorConn, service: Service) {
    let (owner, ledger) = (machine.clone(), ledger.clone());
    machine.spawn(process, "connection", move || {
        let mut serving = Serving { pipe: Pipe::new(&owner, conn), machine: owner, ledger, random };
        // The peer may go at any time; there is nobody to tell.
        let _ = match service {
            Service::Http => serving.http(),
            Service::Dubbo => serving.dubbo(),
            Service::Raw => serving.raw(),
        };
    });
}

struct Serving {
    machine: Machine,
    ledger: Ledger,
    random: Random,
    pipe: Pipe,
}

/// The connection is over.
pub struct Over;

impl Serving {
    fn http(&mut self) -> Result<(), Over> {
        loop {
            let head = self.pipe.read_head()?;
            let path = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
            let Some(id) = call::id_of_path(path) else {
                self.machine.fail(format!("a head that nobody wrote: {:?}", String::from_utf8_lossy(&head)));
                return Err(Over);
            };
            let Some(spec) = self.ledger.spec(id) else { return Err(Over) };
            if spec.manner == Manner::Early && spec.request_len > 0 {
                // It has decided without the body, so it runs now.
                self.ledger.executed(id);
                self.answer(id, &spec)?;
                return Ok(());
            }
            let body = self.pipe.read_body(&head)?;
            if let Err(what) = call::same(&call::question(id, spec.request_len), &body) {
                self.ledger.mixed_up(id, &format!("arrived with another body: {what}"));
            }
            self.ledger.executed(id);
            self.answer(id, &spec)?;
        }
    }

    fn answer(&mut self, id: u64, spec: &Spec) -> Result<(), Over> {
        let body = call::answer(id, spec.answer_len);
        let padding = "p".repeat(spec.padding);
        let mut out = format!("HTTP/1.1 200 OK\r\nx-id: {id}\r\nx-padding: {padding}\r\n").into_bytes();
        let length = format!("content-length: {}\r\n", body.len());
        match spec.manner {
            Manner::HangsUp => return Err(Over),
            Manner::Silent => {
                self.machine.sleep(SILENCE);
                return Err(Over);
            }
            Manner::Slow => {
                let time = self.random.range(1_000, 8_000_000);
                self.machine.sleep(time);
            }
            _ => {}
        }
        match spec.manner {
            Manner::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n"),
            Manner::UntilClose => out.extend_from_slice(b"\r\n"),
            Manner::Closes | Manner::Early => {
                out.extend_from_slice(length.as_bytes());
                out.extend_from_slice(b"connection: close\r\n\r\n");
            }
            _ => {
                out.extend_from_slice(length.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
        }
        if spec.manner == Manner::Chunked {
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
            out.extend_from_slice(&body);
        }
        match spec.manner {
            Manner::Dies | Manner::Vanishes => {
                let cut = self.random.below(out.len() as u64) as usize;
                self.pipe.write(&out[..cut])?;
                if spec.manner == Manner::Vanishes {
                    self.pipe.vanish();
                } else if self.random.percent(50) {
                    self.pipe.reset();
                }
                return Err(Over);
            }
            Manner::Dribble => {
                for piece in out.chunks((out.len() / 7).max(1)) {
                    self.pipe.write(piece)?;
                    let time = self.random.range(100, 200_000);
                    self.machine.sleep(time);
                }
            }
            _ => self.pipe.write(&out)?,
        }
        match spec.manner {
            Manner::UntilClose | Manner::Closes => Err(Over),
            Manner::Early => {
                // What still comes is taken, so that the answer is not lost by a reset.
                self.pipe.shutdown();
                self.pipe.drain();
                Err(Over)
            }
            _ => Ok(()),
        }
    }

    fn dubbo(&mut self) -> Result<(), Over> {
        let mut answers: Vec<Vec<u8>> = Vec::new();
        loop {
            // Answers leave in any order, once nothing more is there to be read.
            if !answers.is_empty() && (!self.pipe.has_more() || answers.len() > 8) {
                let at = self.random.below(answers.len() as u64) as usize;
                let out = answers.swap_remove(at);
                self.pipe.write(&out)?;
                continue;
            }
            let head: [u8; HEADER_LEN] = self.pipe.read_exact(HEADER_LEN)?.try_into().map_err(|_| Over)?;
            let Ok(header) = FrameHeader::parse(&head, FRAME_MAX) else {
                self.machine.fail("a Dubbo provider got what is no frame");
                return Err(Over);
            };
            let body = self.pipe.read_exact(header.body_len as usize)?;
            if header.event {
                if header.two_way && header.request {
                    let mut out = Vec::new();
                    write_heartbeat_reply(&mut out, &header);
                    self.pipe.write(&out)?;
                }
                continue;
            }
            let Some((id, value)) = argument(&header, &body) else {
                self.machine.fail("a Dubbo provider got a request without its argument");
                return Err(Over);
            };
            let Some(spec) = self.ledger.spec(id) else { return Err(Over) };
            let expected = call::text(id, spec.request_len);
            if !value.windows(expected.len()).any(|part| part == expected) {
                self.ledger.mixed_up(id, "arrived with another argument");
            }
            self.ledger.executed(id);
            match spec.manner {
                Manner::HangsUp | Manner::Dies => return Err(Over),
                Manner::Vanishes => {
                    self.pipe.vanish();
                    return Err(Over);
                }
                Manner::Silent => continue,
                Manner::Slow => {
                    let time = self.random.range(1_000, 2_000_000);
                    self.machine.sleep(time);
                }
                _ => {}
            }
            if header.two_way == spec.one_way {
                self.ledger.mixed_up(id, "arrived as another kind of call");
            }
            if header.two_way {
                let mut out = Vec::new();
                write_value_response(&mut out, &header, value);
                answers.push(out);
            }
        }
    }

    fn raw(&mut self) -> Result<(), Over> {
        let bytes = self.pipe.read_to_end()?;
        let Some(id) = bytes.first_chunk().map(|id| u64::from_be_bytes(*id)) else { return Ok(()) };
        let Some(spec) = self.ledger.spec(id) else { return Err(Over) };
        let expected = call::question(id, spec.request_len);
        if !self.ledger.is_calm() && bytes.len() - 8 < expected.len() && expected.starts_with(&bytes[8..]) {
            // Raw bytes have no framing: when the sidecar is killed in the middle, its kernel ends them in order.
            return Err(Over);
        }
        if let Err(what) = call::same(&expected, &bytes[8..]) {
            self.ledger.mixed_up(id, &format!("arrived with other bytes: {what}"));
        }
        self.ledger.executed(id);
        if spec.manner.answers() {
            self.pipe.write(&call::answer(id, spec.answer_len))?;
            self.pipe.shutdown();
            self.pipe.drain();
        }
        Ok(())
    }
}

/// The id in a request's argument, and the argument as it is encoded.
pub fn argument<'a>(header: &FrameHeader, body: &'a [u8]) -> Option<(u64, &'a [u8])> {
    let Ok(PeekOutcome::Done(peek)) = peek_request(header.serialization, body, true) else { return None };
    let value = first_argument(header.serialization, body, &peek).ok()?.of(body);
    let id = value.windows(17).filter(|part| part[16] == b':').find_map(call::id_of_text)?;
    Some((id, value))
}
