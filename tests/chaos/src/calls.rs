//! Calls and what became of them, as their callers see it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// How a caller reaches the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Over shared memory, by the shim.
    Shm,
    /// HTTP over a Unix socket. Whoever does so makes a connection again when it has ended, and makes calls again that may run twice.
    Uds,
    /// HTTP over TCP. Whoever does so does nothing about errors.
    Tcp,
    /// Bytes through a tunnel to the service.
    Tunnel,
}

/// Those of which calls are counted.
pub const WAYS: [Way; 3] = [Way::Shm, Way::Uds, Way::Tcp];

/// One call and what its caller got.
pub struct Called {
    pub call: u64,
    pub way: Way,
    pub idempotent: bool,
    pub started: Instant,
    pub ended: Instant,
    pub outcome: Outcome,
    /// The connection that was kept for it had ended, or did.
    pub reconnected: bool,
}

impl Called {
    pub fn is_answered(&self) -> bool {
        matches!(self.outcome, Outcome::Answered)
    }
}

#[derive(Clone, Debug)]
pub enum Outcome {
    Answered,
    /// Nobody knows whether it ran: the shim says so, the sidecar says that its upstream died, or a socket ended without an answer.
    Maybe(String),
    /// It did not run: the shim or the sidecar says so, or no connection was to be had.
    NotRun(String),
    /// Anything else.
    Failed(String),
}

/// A call that is to be made.
pub struct Call {
    pub number: u64,
    /// It is also the body of the request, and of the answer.
    pub text: String,
    pub started: Instant,
}

impl Call {
    pub fn next() -> Call {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Call { number, text: number.to_string(), started: Instant::now() }
    }

    /// A PUT, which may run twice, or a POST, which may not.
    pub fn is_idempotent(&self) -> bool {
        self.number.is_multiple_of(2)
    }

    pub fn method(&self) -> &'static str {
        if self.is_idempotent() { "PUT" } else { "POST" }
    }

    /// An answer came.
    pub fn answered(&self, status: u16, head: &str, body: &[u8]) -> Outcome {
        match status {
            200 => {
                assert!(body == self.text.as_bytes(), "the answer of another call");
                Outcome::Answered
            }
            502 | 504 => Outcome::Maybe(head.into()),
            503 => Outcome::NotRun(head.into()),
            _ => Outcome::Failed(head.into()),
        }
    }

    pub fn ended(self, way: Way, outcome: Outcome) -> Called {
        let idempotent = self.is_idempotent();
        Called {
            call: self.number,
            way,
            idempotent,
            started: self.started,
            ended: Instant::now(),
            outcome,
            reconnected: false,
        }
    }
}
