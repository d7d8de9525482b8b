//! Callers that go on while the sidecar is replaced, over shared memory and over TCP, with calls that may not run twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use shmesh_client::Request;

use crate::process::{PATIENCE, until};
use crate::service::{Service, http};
use crate::sidecar::Sidecar;

/// How many calls show that calls go on.
const MORE: u64 = 20;

/// A service that counts what it runs, and nobody else calls.
pub struct Counting {
    pub service: Service,
    ran: Arc<AtomicU64>,
}

impl Counting {
    pub fn start() -> Counting {
        let ran = Arc::new(AtomicU64::new(0));
        let count = ran.clone();
        let service = http(move |head, wire| {
            wire.body(head, false, |_| ());
            count.fetch_add(1, Ordering::Relaxed);
            let _ = wire.try_send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        });
        Counting { service, ran }
    }
}

/// Callers with one call after the other; any that fails fails the test.
pub struct Callers {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Callers {
    /// Two over shared memory, and two over TCP on one connection each.
    pub fn start(sidecar: &Sidecar) -> Callers {
        let mut callers = Callers { stop: Arc::default(), answered: Arc::default(), threads: Vec::new() };
        for _ in 0..2 {
            let client = super::client(sidecar);
            callers.go_on(move || {
                let request = Request::http("POST", "service", "/").body(b"x").idempotent(false).timeout(PATIENCE);
                assert_eq!(client.call(request).expect("an answer").body, b"ok");
            });
            let mut wire = sidecar.connect("web");
            callers.go_on(move || {
                let request = "POST / HTTP/1.1\r\nhost: service\r\ncontent-length: 1\r\n\r\nx";
                assert_eq!(wire.ask(request).text(), "ok");
            });
        }
        callers.expect_more();
        callers
    }

    /// Calls that begin now are answered.
    pub fn expect_more(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        until("calls go on", || self.answered.load(Ordering::Relaxed) >= before + MORE);
    }

    /// Each call was answered, and ran once.
    pub fn finish(mut self, counting: &Counting) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("every call is answered");
        }
        assert_eq!(self.answered.load(Ordering::Relaxed), counting.ran.load(Ordering::Relaxed));
    }

    fn go_on(&mut self, mut call: impl FnMut() + Send + 'static) {
        let (stop, answered) = (self.stop.clone(), self.answered.clone());
        self.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                call();
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
}

impl Drop for Callers {
    /// They end with the test also if it fails.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
