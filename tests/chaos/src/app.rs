//! Apps that call at a steady rate, each call with a number of its own, and write down what became of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use shmesh_client::{CallError, Client, Request, Retry};

use crate::calls::{Call, Called, Outcome, Way};
use crate::sidecar::Setup;
use crate::socket_app::SocketApp;

/// Threads that call through the shim.
const CALLERS: usize = 4;

/// Between the end of a call and the next one; over sockets, which are there to be counted and not to be measured, longer.
const PAUSE: Duration = Duration::from_micros(300);
const SOCKET_PAUSE: Duration = Duration::from_millis(2);

/// No call through the shim takes longer.
pub const TIMEOUT: Duration = Duration::from_secs(120);

/// Callers at work.
pub struct Callers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Called>>>,
}

impl Callers {
    /// Through the shim.
    pub fn start(client: &Client) -> Callers {
        Callers::of((0..CALLERS).map(|_| {
            let client = client.clone();
            (PAUSE, move || call(&client))
        }))
    }

    /// Over the sidecar's Unix socket and over TCP, each with a connection of its own.
    pub fn over_sockets(setup: &Setup) -> Callers {
        Callers::of([Way::Uds, Way::Tcp].map(|way| {
            let mut app = SocketApp::new(setup, way);
            (SOCKET_PAUSE, move || app.call())
        }))
    }

    fn of<F: FnMut() -> Called + Send + 'static>(callers: impl IntoIterator<Item = (Duration, F)>) -> Callers {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |(pause, mut call): (Duration, F)| {
            let stop = stop.clone();
            thread::spawn(move || {
                let mut calls = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    calls.push(call());
                    thread::sleep(pause);
                }
                calls
            })
        };
        let threads = callers.into_iter().map(start).collect();
        Callers { stop, threads }
    }

    /// What each of them called.
    pub fn finish(self) -> Vec<Vec<Called>> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("a caller panicked")).collect()
    }
}

/// One call through the shim.
pub fn call(client: &Client) -> Called {
    let call = Call::next();
    let request = Request::http(call.method(), "service", "/run")
        .header("x-call", &call.text)
        .body(call.text.as_bytes())
        .timeout(TIMEOUT);
    let outcome = match client.call(request) {
        Ok(response) => call.answered(response.status, &String::from_utf8_lossy(&response.head), &response.body),
        Err(error @ CallError::MaybeExecuted(_)) => Outcome::Maybe(error.to_string()),
        Err(error) if error.retry() == Retry::Safe => Outcome::NotRun(error.to_string()),
        Err(error) => Outcome::Failed(error.to_string()),
    };
    call.ended(Way::Shm, outcome)
}
