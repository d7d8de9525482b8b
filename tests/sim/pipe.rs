//! A simulated connection as blocking code sees it.

use std::rc::Rc;

use shmesh_io::Nanos;
use shmesh_io::sim::{ActorConn, Progress, Read};

use crate::machine::Machine;
use crate::upstream::Over;

/// A connection with what was read of it and not used yet.
pub struct Pipe {
    machine: Machine,
    conn: Option<Rc<ActorConn>>,
    input: Vec<u8>,
    /// Gives up then, whatever is missing.
    pub deadline: Option<Nanos>,
    /// Reads while it waits to write: for one who asks ahead.
    pub reads_ahead: bool,
}

impl Pipe {
    pub fn new(machine: &Machine, conn: ActorConn) -> Pipe {
        Pipe {
            machine: machine.clone(),
            conn: Some(Rc::new(conn)),
            input: Vec::new(),
            deadline: None,
            reads_ahead: false,
        }
    }

    fn conn(&self) -> Result<Rc<ActorConn>, Over> {
        self.conn.clone().ok_or(Over)
    }

    fn wait(&self, ready: impl Fn() -> bool + 'static) -> Result<(), Over> {
        if self.deadline.is_some_and(|deadline| self.machine.now() >= deadline) {
            return Err(Over);
        }
        self.machine.wait(self.deadline, ready);
        Ok(())
    }

    /// Until it is connected.
    pub fn connected(&mut self) -> Result<(), Over> {
        let conn = self.conn()?;
        loop {
            match conn.progress() {
                Progress::Connected => return Ok(()),
                Progress::Failed(_) => return Err(Over),
                Progress::Connecting => {
                    let waiting = conn.clone();
                    self.wait(move || waiting.progress() != Progress::Connecting)?;
                }
            }
        }
    }

    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), Over> {
        let conn = self.conn()?;
        while !bytes.is_empty() {
            match conn.send(bytes) {
                Ok(0) => {
                    let (waiting, reads_ahead) = (conn.clone(), self.reads_ahead);
                    self.wait(move || waiting.is_writable() || reads_ahead && waiting.is_readable())?;
                    if reads_ahead && !matches!(conn.recv(&mut self.input), Read::Bytes(_) | Read::Nothing) {
                        return Err(Over);
                    }
                }
                Ok(sent) => bytes = &bytes[sent..],
                Err(_) => return Err(Over),
            }
        }
        Ok(())
    }

    /// Something can be read without waiting.
    pub fn has_more(&self) -> bool {
        !self.input.is_empty() || self.conn.as_ref().is_some_and(|conn| conn.is_readable())
    }

    /// Reads what is there, at least a byte. False: the stream has ended.
    pub fn fill(&mut self) -> Result<bool, Over> {
        let conn = self.conn()?;
        loop {
            match conn.recv(&mut self.input) {
                Read::Bytes(_) => return Ok(true),
                Read::Eof => return Ok(false),
                Read::Reset => return Err(Over),
                Read::Nothing => {
                    let waiting = conn.clone();
                    self.wait(move || waiting.is_readable())?;
                }
            }
        }
    }

    pub fn read_exact(&mut self, len: usize) -> Result<Vec<u8>, Over> {
        while self.input.len() < len {
            if !self.fill()? {
                return Err(Over);
            }
        }
        Ok(self.input.drain(..len).collect())
    }

    pub fn read_to_end(&mut self) -> Result<Vec<u8>, Over> {
        while self.fill()? {}
        Ok(std::mem::take(&mut self.input))
    }

    /// A head with its empty line.
    pub fn read_head(&mut self) -> Result<Vec<u8>, Over> {
        loop {
            if let Some(at) = self.input.windows(4).position(|part| part == b"\r\n\r\n") {
                return Ok(self.input.drain(..at + 4).collect());
            }
            if !self.fill()? {
                return Err(Over);
            }
        }
    }

    fn read_line(&mut self) -> Result<Vec<u8>, Over> {
        loop {
            if let Some(at) = self.input.windows(2).position(|part| part == b"\r\n") {
                let line = self.input.drain(..at + 2).collect::<Vec<u8>>();
                return Ok(line[..at].to_vec());
            }
            if !self.fill()? {
                return Err(Over);
            }
        }
    }

    /// The body that a head announces; of an answer without framing, everything until the end.
    pub fn read_body(&mut self, head: &[u8]) -> Result<Vec<u8>, Over> {
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        if head.contains("transfer-encoding: chunked") {
            let mut body = Vec::new();
            loop {
                let line = self.read_line()?;
                let text = String::from_utf8_lossy(&line).into_owned();
                let len = usize::from_str_radix(text.split(';').next().unwrap_or("").trim(), 16).map_err(|_| Over)?;
                if len == 0 {
                    while !self.read_line()?.is_empty() {}
                    return Ok(body);
                }
                body.extend(self.read_exact(len)?);
                self.read_exact(2)?;
            }
        }
        match head.split("content-length:").nth(1) {
            Some(rest) => {
                let len = rest.split("\r\n").next().and_then(|len| len.trim().parse().ok()).ok_or(Over)?;
                self.read_exact(len)
            }
            None if head.starts_with("http/") => self.read_to_end(),
            None => Ok(Vec::new()),
        }
    }

    /// Ends this side's stream.
    pub fn shutdown(&mut self) {
        if let Some(conn) = &self.conn {
            conn.shutdown();
        }
    }

    /// Takes and forgets what comes until the end.
    pub fn drain(&mut self) {
        while matches!(self.fill(), Ok(true)) {
            self.input.clear();
        }
    }

    /// Is never heard of again.
    pub fn vanish(&mut self) {
        if let Some(conn) = self.conn.take().and_then(Rc::into_inner) {
            conn.vanish();
        }
    }

    /// Breaks the connection.
    pub fn reset(&mut self) {
        if let Some(conn) = self.conn.take().and_then(Rc::into_inner) {
            conn.reset();
        }
    }
}
