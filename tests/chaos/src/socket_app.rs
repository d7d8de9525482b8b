//! An app without the shim: HTTP over a connection that it keeps, to a listener of the sidecar.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::calls::{Call, Called, Outcome, Way};
use crate::http;
use crate::sidecar::Setup;
use crate::stream::Stream;

/// Until there is a sidecar again.
const LOOKS_AGAIN: Duration = Duration::from_millis(5);

/// A call is made again for so long: longer than a sidecar takes to start on a busy machine.
pub const PERSISTS: Duration = Duration::from_secs(120);

/// Nothing that happens to a sidecar makes it silent for longer while it lives.
pub const SILENCE: Duration = Duration::from_secs(120);

pub struct SocketApp {
    way: Way,
    setup: Setup,
    connection: Option<(Stream, Vec<u8>)>,
}

/// Why there was no answer.
enum Unanswered {
    /// Not a byte was sent.
    NotSent(io::Error),
    /// Whoever gets no answer over a socket has to take it that the call was forwarded.
    Sent(io::Error),
}

impl SocketApp {
    pub fn new(setup: &Setup, way: Way) -> SocketApp {
        SocketApp { way, setup: setup.clone(), connection: None }
    }

    pub fn call(&mut self) -> Called {
        let call = Call::next();
        let request = http::request(call.method(), call.number, call.text.as_bytes());
        let late = call.started + PERSISTS;
        let mut reconnected = false;
        loop {
            let unanswered = match self.attempt(&request) {
                Ok(answer) => {
                    let outcome = call.answered(answer.status(), answer.head(), &answer.body);
                    return Called { reconnected, ..call.ended(self.way, outcome) };
                }
                Err(unanswered) => unanswered,
            };
            self.connection = None;
            reconnected = true;
            let persists = self.way == Way::Uds && Instant::now() < late;
            let outcome = match unanswered {
                Unanswered::NotSent(_) if persists => None,
                Unanswered::Sent(_) if persists && call.is_idempotent() => None,
                Unanswered::NotSent(error) => Some(Outcome::NotRun(error.to_string())),
                Unanswered::Sent(error) => Some(Outcome::Maybe(error.to_string())),
            };
            if let Some(outcome) = outcome {
                return Called { reconnected, ..call.ended(self.way, outcome) };
            }
            thread::sleep(LOOKS_AGAIN);
        }
    }

    fn attempt(&mut self, request: &[u8]) -> Result<http::Message, Unanswered> {
        let (stream, input) = match self.connection.take() {
            Some(kept) => self.connection.insert(kept),
            None => self
                .connection
                .insert((self.setup.connect(self.way, SILENCE).map_err(Unanswered::NotSent)?, Vec::new())),
        };
        let mut stream = &*stream;
        // As short as it is, it leaves whole or not at all.
        stream.write_all(request).map_err(Unanswered::NotSent)?;
        match http::receive(&mut stream, input) {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(Unanswered::Sent(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(Unanswered::Sent(error)),
        }
    }
}
