//! Apps that call at a steady rate, each call with a number of its own, and write down what became of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use shmesh_client::{CallError, Client, Request, Response};

/// Threads that call.
pub const CALLERS: usize = 4;

/// Between the end of a call and the next one.
const PAUSE: Duration = Duration::from_micros(300);

/// No call takes longer.
pub const TIMEOUT: Duration = Duration::from_secs(5);

static NEXT: AtomicU64 = AtomicU64::new(1);

/// One call and what its caller got.
pub struct Called {
    pub call: u64,
    pub idempotent: bool,
    pub started: Instant,
    pub ended: Instant,
    pub outcome: Result<(), CallError>,
}

/// Callers at work.
pub struct Callers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Called>>>,
}

impl Callers {
    pub fn start(client: &Client) -> Callers {
        let stop = Arc::new(AtomicBool::new(false));
        let caller = |_| {
            let (client, stop) = (client.clone(), stop.clone());
            thread::spawn(move || {
                let mut calls = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    calls.push(call(&client));
                    thread::sleep(PAUSE);
                }
                calls
            })
        };
        let threads = (0..CALLERS).map(caller).collect();
        Callers { stop, threads }
    }

    /// What each of them called.
    pub fn finish(self) -> Vec<Vec<Called>> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("a caller panicked")).collect()
    }
}

/// One call: a PUT, which may run twice, or a POST, which may not.
pub fn call(client: &Client) -> Called {
    let call = NEXT.fetch_add(1, Ordering::Relaxed);
    let idempotent = call.is_multiple_of(2);
    let number = call.to_string();
    let request = Request::http(if idempotent { "PUT" } else { "POST" }, "service", "/run")
        .header("x-call", &number)
        .body(number.as_bytes())
        .timeout(TIMEOUT);
    let started = Instant::now();
    let outcome = client.call(request).and_then(|response| check(&response, number.as_bytes()));
    Called { call, idempotent, started, ended: Instant::now(), outcome }
}

fn check(response: &Response, body: &[u8]) -> Result<(), CallError> {
    if response.status == 200 {
        assert!(response.body == body, "the answer of another call");
        return Ok(());
    }
    // The sidecar says so when its upstream fails; there is nothing here that may.
    let head = String::from_utf8_lossy(&response.head);
    Err(CallError::Cancelled { ran: shmesh_client::Ran::Maybe, sentence: format!("answered {head}") })
}
