//! A successor that goes only so far: what it says and takes is written here from core/engine/src/handover/wire.rs.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use shmesh_shm::descriptors;

use crate::process::PATIENCE;
use crate::sidecar::Sidecar;

const TAKE: u8 = 1;
const REFUSED: u8 = 2;
const PLAN: u8 = 3;
const PREPARED: u8 = 4;
const DESK: u8 = 5;
const MAPPED: u8 = 6;
const WORKER: u8 = 7;
const LAST: u8 = 8;
pub const ABORT: u8 = 12;

/// How far it goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Step {
    /// It connects.
    Connected,
    /// It was told the plan.
    Plan,
    /// It was given the sessions.
    Desk,
    /// It was given the workers.
    Workers,
}

pub const STEPS: [Step; 4] = [Step::Connected, Step::Plan, Step::Desk, Step::Workers];

pub struct Half {
    socket: UnixStream,
    /// What it was given; closed when it ends.
    given: Vec<OwnedFd>,
}

impl Half {
    pub fn connect(sidecar: &Sidecar) -> Half {
        let socket = UnixStream::connect(sidecar.path("apps.sock.upgrade")).expect("an upgrade socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a flag");
        Half { socket, given: Vec::new() }
    }

    /// Asks, as one that reads these formats. The refusal's sentence is the error.
    pub fn take(&mut self, format_min: u8, format_max: u8) -> Result<(), String> {
        // Fields 1, 2 and 4 of a protobuf message, as varints: the last one takes descriptors ahead.
        self.say(TAKE, &[8, format_min, 16, format_max, 32, 1]);
        let (kind, bytes) = self.hear().expect("an answer");
        match kind {
            PLAN => Ok(()),
            REFUSED => Err(String::from_utf8(bytes).expect("text")),
            other => panic!("{other} came"),
        }
    }

    pub fn go_to(&mut self, step: Step) {
        if step >= Step::Plan {
            self.take(1, 1).expect("a plan");
        }
        if step >= Step::Desk {
            self.say(PREPARED, &[]);
            assert_eq!(self.hear().expect("sessions").0, DESK);
        }
        if step >= Step::Workers {
            self.say(MAPPED, &[]);
            loop {
                match self.hear().expect("workers").0 {
                    WORKER => {}
                    LAST => break,
                    other => panic!("{other} came"),
                }
            }
        }
    }

    /// What is said next; `None`: the other side ended.
    pub fn verdict(&mut self) -> Option<u8> {
        self.hear().map(|(kind, _)| kind)
    }

    fn say(&mut self, kind: u8, bytes: &[u8]) {
        let mut frame = vec![kind];
        frame.extend((bytes.len() as u32).to_le_bytes());
        frame.extend(0u32.to_le_bytes());
        frame.extend(bytes);
        self.socket.write_all(&frame).expect("it is there");
    }

    fn hear(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; 9];
        self.socket.read_exact(&mut header).ok()?;
        let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let mut bytes = vec![0; number(1) as usize];
        self.socket.read_exact(&mut bytes).ok()?;
        let all = self.given.len() + number(5) as usize;
        while self.given.len() < all {
            descriptors::receive(self.socket.as_fd(), &mut [0], &mut self.given).ok().filter(|&len| len > 0)?;
        }
        Some((header[0], bytes))
    }
}
