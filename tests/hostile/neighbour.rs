//! Those who do everything right while somebody else does not: their calls have to succeed, and in time.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use shmesh_client::{Client, DubboKey, Request, Response};
use shmesh_proto::dubbo::{FrameHeader, HEADER_LEN, Invocation, Reply, read_reply, serialization, write_request};

use crate::attacker::SECRET;
use crate::bytes::noise;
use crate::corpus::SERVICE;
use crate::process::PATIENCE;
use crate::strict::{Next, Strict};
use crate::upstream::NEIGHBOUR;

const KEY: DubboKey<'static> =
    DubboKey { service: SERVICE, method: "sayHello", group: Some("g1"), version: Some("1.0.0"), tag: None };

/// A caller over shared memory.
pub struct Neighbour {
    client: Client,
    calls: u64,
}

impl Neighbour {
    pub fn attach(path: &Path) -> Neighbour {
        // Without a way round the sidecar, or its failures would go unseen.
        let client = Client::builder()
            .hang_timeout(crate::process::PATIENCE)
            .socket(path)
            .name(NEIGHBOUR)
            .lanes(1)
            .fallback(false)
            .connect();
        Neighbour { client: client.expect("a neighbour attaches"), calls: 0 }
    }

    /// One call of 64 bytes, checked; how long it took.
    pub fn call(&mut self) -> Duration {
        self.calls += 1;
        let body = secret(self.calls, 64);
        let request =
            Request::http("POST", "service", "/n").header("X-Caller", NEIGHBOUR).body(&body).timeout(PATIENCE);
        let began = Instant::now();
        let response = self.client.call(request).expect("a neighbour's call succeeds");
        let took = began.elapsed();
        expect(&response, &body);
        took
    }

    /// A call of each other kind: a body in parts, a Dubbo frame on the connection that attackers use as well, and an app that serves.
    pub fn call_around(&mut self) {
        self.calls += 1;
        let long = secret(self.calls, 20_000);
        let post = |host| Request::http("POST", host, "/echo").header("X-Caller", NEIGHBOUR).timeout(PATIENCE);
        let response = self.client.call(post("service").body(&long)).expect("a neighbour's call succeeds");
        expect(&response, &long);
        let short = secret(self.calls, 100);
        let response = self.client.call(post("good").body(&short)).expect("a neighbour's call succeeds");
        expect(&response, &short);

        let text = format!("neighbour {}", self.calls);
        let invocation = Invocation {
            path: SERVICE,
            version: Some("1.0.0"),
            group: Some("g1"),
            method: "sayHello",
            argument: Some(text.as_bytes()),
            timeout_ms: None,
            attachments: &[],
        };
        let mut frame = Vec::new();
        write_request(&mut frame, self.calls, true, serialization::HESSIAN2, &invocation);
        let response = self.client.call(Request::dubbo(KEY, &frame).timeout(PATIENCE)).expect("an answer");
        let (header, body) = response.body.split_first_chunk::<HEADER_LEN>().expect("a frame");
        let header = FrameHeader::parse(header, u32::MAX).expect("a header");
        assert_eq!(header.id, self.calls);
        assert_eq!(read_reply(&header, body).expect("an answer"), Reply::Value(text));
    }
}

fn secret(call: u64, len: u64) -> Vec<u8> {
    [SECRET, &noise(call, len)].concat()
}

fn expect(response: &Response, body: &[u8]) {
    assert_eq!(response.status, 200, "{}", String::from_utf8_lossy(&response.body));
    assert!(response.body == body, "another answer came: {:?}", String::from_utf8_lossy(&response.body));
}

/// p50 and p99.
pub fn percentiles(times: &mut [Duration]) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

/// A neighbour who goes on calling on a thread of its own.
pub struct Steady {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

/// Between two calls of a steady neighbour.
const PAUSE: Duration = Duration::from_millis(1);

impl Steady {
    pub fn start(mut neighbour: Neighbour) -> Steady {
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut times = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                times.push(neighbour.call());
                if times.len() % 64 == 0 {
                    neighbour.call_around();
                }
                std::thread::sleep(PAUSE);
            }
            times
        });
        Steady { stop, thread }
    }

    /// A call failed, which its thread has told.
    pub fn is_broken(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends it; how long its calls took.
    pub fn stop(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("every call of a neighbour succeeds")
    }
}

/// A client that calls the attacker, who serves under a name: it gets errors, or answers, and never somebody else's.
pub struct Victim {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Victim {
    pub fn start(web: SocketAddr, apps: &Path) -> Victim {
        let stop = Arc::new(AtomicBool::new(false));
        let (ended, apps) = (stop.clone(), apps.to_owned());
        let thread = std::thread::spawn(move || {
            let client = Client::builder()
                .hang_timeout(crate::process::PATIENCE)
                .socket(apps)
                .name("victim")
                .lanes(1)
                .fallback(false)
                .connect();
            let client = client.expect("a victim attaches");
            let mut answers = 0;
            while !ended.load(Ordering::Relaxed) {
                answers += over_tcp(web, &ended);
                let timeout = Duration::from_millis(100);
                let request = Request::http("POST", "local", "/victim").body(b"of a victim").timeout(timeout);
                if let Ok(response) = client.call(request) {
                    assert_eq!(response.header("x-smuggled"), None, "{response:?}");
                    answers += 1;
                }
            }
            answers
        });
        Victim { stop, thread }
    }

    /// Ends it; how many answers it got.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no answer was another's")
    }
}

/// Some requests on one connection, each after the answer to the one before.
fn over_tcp(web: SocketAddr, ended: &AtomicBool) -> u64 {
    let stream = TcpStream::connect(web).expect("the listener accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut strict = Strict::new(stream);
    let mut answers = 0;
    for _ in 0..20 {
        if ended.load(Ordering::Relaxed) {
            break;
        }
        let request = b"POST /victim HTTP/1.1\r\nHost: local\r\nContent-Length: 11\r\n\r\nof a victim";
        if strict.stream().write_all(request).is_err() {
            break;
        }
        match strict.next() {
            Next::Whole(answer) => {
                assert!(answer.all("x-smuggled").is_empty(), "an answer hidden in an answer came: {answer:?}");
                answers += 1;
                if answer.all("connection") == ["close"] {
                    break;
                }
            }
            // The attacker's answer was cut, and the connection with it.
            Next::Ended | Next::BrokenOff => break,
            Next::Fault(fault) => panic!("an answer that is none: {fault}"),
        }
    }
    answers
}
