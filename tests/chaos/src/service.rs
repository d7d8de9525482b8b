//! The service behind the sidecar: runs what it is asked, and writes down what it ran and for whom. Over a Unix socket, where the kernel says which
//! process is at the other end: the sidecar, or the app itself.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::random::Random;

/// The longest time that it takes for a call that comes through the sidecar, so that some are always in flight. Others are answered at once: how
/// long it takes to find another way is what is measured.
const SLOW_US: u64 = 1_500;

/// What the service has run.
#[derive(Clone, Default)]
pub struct Record(Arc<Mutex<HashMap<u64, Runs>>>);

/// How often a call ran.
#[derive(Clone, Copy, Debug, Default)]
pub struct Runs {
    pub through_sidecar: u32,
    pub direct: u32,
}

impl Runs {
    pub fn all(self) -> u32 {
        self.through_sidecar + self.direct
    }
}

impl Record {
    pub fn runs(&self, call: u64) -> Runs {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&call).copied().unwrap_or_default()
    }

    fn ran(&self, call: u64, direct: bool) {
        let mut record = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = record.entry(call).or_default();
        *if direct { &mut runs.direct } else { &mut runs.through_sidecar } += 1;
    }
}

/// Listens, for as long as the process runs.
pub fn start(path: &Path) -> io::Result<Record> {
    let listener = UnixListener::bind(path)?;
    let record = Record::default();
    let kept = record.clone();
    thread::spawn(move || {
        for (stream, seed) in listener.incoming().flatten().zip(1..) {
            let record = kept.clone();
            // A connection that breaks is the sidecar's end.
            thread::spawn(move || _ = serve(stream, &record, Random::new(seed)));
        }
    });
    Ok(record)
}

fn serve(mut stream: UnixStream, record: &Record, mut random: Random) -> io::Result<()> {
    let credentials = getsockopt(&stream, PeerCredentials)?;
    let direct = credentials.pid() == std::process::id().cast_signed();
    let mut input = Vec::new();
    while let Some(request) = receive(&mut stream, &mut input)? {
        if let Some(call) = request.call {
            record.ran(call, direct);
            if !direct {
                thread::sleep(Duration::from_micros(random.below(SLOW_US)));
            }
        }
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", request.body.len());
        stream.write_all(&[head.as_bytes(), &request.body].concat())?;
    }
    Ok(())
}

struct Request {
    /// Which call it is, if it counts.
    call: Option<u64>,
    body: Vec<u8>,
}

/// The next request; nothing at the end of the connection.
fn receive(stream: &mut UnixStream, input: &mut Vec<u8>) -> io::Result<Option<Request>> {
    let mut piece = [0; 64 << 10];
    loop {
        if let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&input[..end]).to_ascii_lowercase();
            let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
            let length = field("content-length:").unwrap_or(0) as usize;
            if input.len() >= end + 4 + length {
                let rest = input.split_off(end + 4 + length);
                let body = std::mem::replace(input, rest).split_off(end + 4);
                return Ok(Some(Request { call: field("x-call:"), body }));
            }
        }
        match stream.read(&mut piece)? {
            0 => return Ok(None),
            len => input.extend_from_slice(&piece[..len]),
        }
    }
}
