//! Services that keep a record of what reaches them, and of what never may.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shmesh_proto::dubbo::{FrameHeader, HEADER_LEN, PeekOutcome, first_argument, peek_request, write_value_response};

use crate::attacker::SECRET;
use crate::corpus::SERVICE;
use crate::strict::{Message, Next, Strict};

/// The value of X-Caller in what neighbours ask; attackers say something else.
pub const NEIGHBOUR: &str = "neighbour";

/// Longest body of a Dubbo frame that anybody sends here.
const FRAME_MAX: u32 = 1 << 20;

#[derive(Default)]
pub struct Record {
    faults: Mutex<Vec<String>>,
    /// Names of the calls that ran and must not run twice.
    ran: Mutex<HashSet<String>>,
    pub whole: AtomicU64,
    pub broken_off: AtomicU64,
    pub frames: AtomicU64,
    turns: AtomicU64,
}

/// A service for each protocol, and one that breaks off where it hurts.
pub struct Upstream {
    pub record: Arc<Record>,
    pub http: String,
    pub flaky: String,
    pub dubbo: String,
    pub raw: String,
    stop: Arc<AtomicBool>,
}

impl Upstream {
    pub fn start() -> Upstream {
        let record = Arc::new(Record::default());
        let stop = Arc::new(AtomicBool::new(false));
        Upstream {
            http: serve(&record, &stop, Record::serve_http),
            flaky: serve(&record, &stop, Record::serve_flaky),
            dubbo: serve(&record, &stop, Record::serve_dubbo),
            raw: serve(&record, &stop, Record::serve_raw),
            record,
            stop,
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn serve(record: &Arc<Record>, stop: &Arc<AtomicBool>, handle: fn(&Record, TcpStream)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("tcp:{}", listener.local_addr().expect("bound"));
    listener.set_nonblocking(true).expect("a socket");
    let (record, stop) = (record.clone(), stop.clone());
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let Ok((stream, _)) = listener.accept() else {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            };
            stream.set_nonblocking(false).expect("a socket");
            stream.set_nodelay(true).expect("a socket");
            let record = record.clone();
            std::thread::spawn(move || handle(&record, stream));
        }
    });
    endpoint
}

impl Record {
    /// Fails if something came that may not come.
    pub fn check(&self) {
        let faults = self.faults.lock().expect("no panic");
        assert!(faults.is_empty(), "{} faults upstream, of which the first: {}", faults.len(), faults[0]);
    }

    fn fault(&self, what: String) {
        self.faults.lock().expect("no panic").push(what);
    }

    fn serve_http(&self, stream: TcpStream) {
        let mut strict = Strict::new(stream);
        loop {
            let request = match strict.next() {
                Next::Whole(request) => request,
                Next::Ended => return,
                Next::BrokenOff => {
                    self.broken_off.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Next::Fault(fault) => return self.fault(fault),
            };
            self.whole.fetch_add(1, Ordering::Relaxed);
            self.judge(&request);
            let head_only = request.start.starts_with("HEAD ");
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", request.body.len());
            let mut answer = head.into_bytes();
            if !head_only {
                answer.extend_from_slice(&request.body);
            }
            if strict.stream().write_all(&answer).is_err() {
                return;
            }
        }
    }

    /// Takes a request or two, and goes away before, during or after the next one.
    fn serve_flaky(&self, stream: TcpStream) {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        let mut strict = Strict::new(stream);
        for _ in 0..turn % 3 {
            let Next::Whole(request) = strict.next() else { return };
            self.judge(&request);
            self.run_once(&request);
            if strict.stream().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
                return;
            }
        }
        match turn / 3 % 4 {
            0 => {}
            1 => drop(strict.stream().read(&mut [0; 100])),
            2 => {
                if let Next::Whole(request) = strict.next() {
                    self.run_once(&request);
                }
            }
            _ => {
                if let Next::Whole(request) = strict.next() {
                    self.run_once(&request);
                    let _ = strict.stream().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf");
                }
            }
        }
    }

    /// A request that is not idempotent runs once, whatever became of its answer.
    fn run_once(&self, request: &Message) {
        let name = request.all("x-call").concat();
        if request.start.starts_with("POST ") && !name.is_empty() && !self.ran.lock().expect("no panic").insert(name) {
            self.fault(format!("a POST ran twice: {request:?}"));
        }
    }

    fn judge(&self, request: &Message) {
        let hosts = request.all("host");
        let host = hosts.first().map(|host| host.to_ascii_lowercase());
        let host = host.as_deref().map(|host| host.split(':').next().unwrap_or(host));
        if !matches!(host, Some("service" | "flaky")) || hosts.len() > 1 {
            self.fault(format!("a request of no route arrived: {request:?}"));
        }
        let [method, target, "HTTP/1.1"] = request.start.split(' ').collect::<Vec<_>>()[..] else {
            return self.fault(format!("not a request line: {:?}", request.start));
        };
        if method.is_empty() || !target.starts_with('/') || target.contains("/smuggled") {
            self.fault(format!("not a request line: {:?}", request.start));
        }
        let own = request.all("x-caller") == [NEIGHBOUR];
        let secret = request.body.windows(SECRET.len()).any(|window| window == SECRET);
        if own != secret {
            self.fault(format!("bytes of one caller are in the request of another: {request:?}"));
        }
    }

    fn serve_dubbo(&self, mut stream: TcpStream) {
        let mut header = [0; HEADER_LEN];
        while stream.read_exact(&mut header).is_ok() {
            let Ok(parsed) = FrameHeader::parse(&header, FRAME_MAX) else {
                return self.fault(format!("not a Dubbo header: {header:?}"));
            };
            let mut body = vec![0; parsed.body_len as usize];
            if stream.read_exact(&mut body).is_err() {
                return;
            }
            if parsed.event || !parsed.request {
                continue;
            }
            self.frames.fetch_add(1, Ordering::Relaxed);
            let Ok(PeekOutcome::Done(peek)) = peek_request(parsed.serialization, &body, true) else {
                return self.fault(format!("a frame that cannot be read: {parsed:?}"));
            };
            let path = peek.path.of(peek.texts(&body));
            if path != SERVICE.as_bytes() {
                self.fault(format!("a frame of no route arrived: {:?}", String::from_utf8_lossy(path)));
            }
            if !parsed.two_way {
                continue;
            }
            let mut answer = Vec::new();
            match first_argument(parsed.serialization, &body, &peek) {
                // The argument is the attacker's own, and need not be readable.
                Ok(argument) => write_value_response(&mut answer, &parsed, argument.of(&body)),
                Err(_) => write_value_response(&mut answer, &parsed, b"\x00"),
            }
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    }

    fn serve_raw(&self, mut stream: TcpStream) {
        let mut piece = [0; 4096];
        while let Ok(len) = stream.read(&mut piece)
            && len > 0
            && stream.write_all(&piece[..len]).is_ok()
        {
            if piece[..len].windows(SECRET.len()).any(|window| window == SECRET) {
                self.fault("a neighbour's bytes came raw".to_owned());
            }
        }
    }
}
