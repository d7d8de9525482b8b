//! Messages that two parsers may read differently: each is refused and the connection closed, or it reaches the other side as exactly
//! one message that can be read in one way only. Requests over TCP, a Unix socket and a stream in shared memory here, as calls in
//! `shm/ambiguous.rs`; answers in `answers.rs`.
//!
//! Both sides of the sidecar read by the letter of RFC 9112, and nothing that reads comes from shmesh.

mod answers;
pub mod chunks;
pub mod framing;
pub mod heads;
mod lenient;
mod replies;
pub mod upstream;

use replies::replies;
use upstream::{Log, Seen, recording};

use super::{Ways, before};
use crate::sidecar::Driver;

on_each_driver!(heads_of_two_meanings, framings_of_two_meanings, chunks_of_two_meanings);

/// What a message may become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    Refused,
    /// Refused with this status.
    Status(u16),
    /// One request of this method, target and body; the connection goes on.
    One(&'static str, &'static str, &'static str),
    /// As above, and the connection ends behind it.
    Last(&'static str, &'static str, &'static str),
    /// No route takes it, so that nothing reaches the upstream; the connection goes on.
    Elsewhere,
}

/// A message, and what may become of it.
pub struct Case {
    pub bytes: Vec<u8>,
    pub expect: Expect,
}

/// The statuses of a refusal.
pub const REFUSALS: [u16; 5] = [400, 414, 431, 501, 505];

/// Follows each message on its connection. After a refused one it must go nowhere.
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n";

fn heads_of_two_meanings(driver: Driver) {
    judge_all(driver, &heads::cases());
}

fn framings_of_two_meanings(driver: Driver) {
    judge_all(driver, &framing::cases());
}

fn chunks_of_two_meanings(driver: Driver) {
    judge_all(driver, &chunks::cases());
}

fn judge_all(driver: Driver, cases: &[Case]) {
    let (service, log) = recording();
    let sidecar = before(driver, &[&service.endpoint]);
    let ways = Ways::into(&sidecar);
    let mut wrong = Vec::new();
    for case in cases {
        for (way, piece) in [("tcp", usize::MAX), ("uds", usize::MAX), ("shm", usize::MAX), ("tcp", 1), ("shm", 3)] {
            log.clear();
            let answer = exchange(&ways, way, piece, &case.bytes);
            if let Err(why) = judge(case.expect, &answer, &log) {
                wrong.push(format!("{way} in pieces of {piece}, {}: {why}", shown(&case.bytes)));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), 5 * cases.len(), wrong.join("\n"));
}

/// Sends a message in pieces, and what follows it; everything that is answered.
fn exchange(ways: &Ways<'_>, way: &str, piece: usize, bytes: &[u8]) -> Vec<u8> {
    let mut wire = ways.connect(way);
    // A long message goes in a few hundred pieces, so that it is there in time on any machine.
    let piece = piece.max(bytes.len() / 256);
    // A connection that was refused takes no more.
    let _ =
        bytes.chunks(piece).try_for_each(|piece| wire.try_send(piece)).and_then(|()| wire.try_send(NEXT.as_bytes()));
    wire.end();
    wire.rest().0
}

fn judge(expect: Expect, answer: &[u8], log: &Log) -> Result<(), String> {
    let whole = understood(log)?;
    let replies = replies(answer, &[false, false])?;
    let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    let told: Vec<_> = whole.iter().map(|seen| (&seen.method[..], &seen.target[..], &seen.body[..])).collect();
    let next = ("GET", "/next", &b""[..]);
    let as_expected = match expect {
        Expect::Refused => matches!(statuses[..], [status] if REFUSALS.contains(&status)) && told.is_empty(),
        Expect::Status(status) => statuses == [status] && told.is_empty(),
        Expect::One(method, target, body) => {
            statuses == [200, 200] && told == [(method, target, body.as_bytes()), next]
        }
        Expect::Last(method, target, body) => statuses == [200] && told == [(method, target, body.as_bytes())],
        Expect::Elsewhere => statuses == [404, 200] && told == [next],
    };
    // RFC 9112 §9.6: who closes says so, and says why.
    let refused = matches!(expect, Expect::Refused | Expect::Status(_));
    let said = !refused || replies.iter().all(|reply| reply.closes && !reply.reason.is_empty());
    match as_expected && said {
        true => Ok(()),
        false => Err(format!("not {expect:?}: {replies:?}, and the upstream got {told:?}")),
    }
}

/// The whole requests that reached the upstream, of which none may be ambiguous.
pub fn understood(log: &Log) -> Result<Vec<Seen>, String> {
    let mut seen = log.take();
    if let Some(flaw) = seen.iter().find_map(|seen| seen.flaw.as_ref()) {
        return Err(format!("the upstream got what can be read in two ways: {flaw}"));
    }
    seen.retain(|seen| seen.whole);
    Ok(seen)
}

/// As much of a message as a person wants to read.
pub fn shown(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(300)].escape_ascii().to_string()
}

fn refused(bytes: impl AsRef<[u8]>) -> Case {
    Case { bytes: bytes.as_ref().to_vec(), expect: Expect::Refused }
}
