//! Ambiguous requests as calls: a head in a record may say nothing else than the record (docs/spec/shm-v1.md §3.1, RFC 9112 §11.2).

use shmesh_shm::{Flags, Header, INLINE_KEY, Kind, Protocol, Reset, TOTAL_UNKNOWN};

use super::handmade::Session;
use super::{before, expect_sessions};
use crate::http::ambiguous::upstream::{Log, recording};
use crate::http::ambiguous::{Case, Expect, REFUSALS, chunks, framing, heads, shown, understood};
use crate::sidecar::{Driver, Sidecar};

on_each_driver!(heads_of_two_meanings_in_calls, lengths_that_disagree_in_calls);

/// A route id that each call defines anew.
const ID: u32 = 7;

/// Longer heads do not fit into a record.
const HEAD_MAX: usize = 60_000;

/// A session by hand that calls, before an upstream that writes down what it gets.
struct Caller {
    session: Session,
    log: Log,
    generation: u64,
}

/// The messages that must not become two on a connection must not do so as calls; whatever is understood means the same.
fn heads_of_two_meanings_in_calls(driver: Driver) {
    let (service, log) = recording();
    let sidecar = before(driver, &service.endpoint);
    let mut caller = Caller::attach(&sidecar, log);
    let (mut wrong, mut taken) = (Vec::new(), 0);
    let cases = [heads::cases(), framing::cases(), chunks::cases()];
    for Case { bytes, expect } in cases.iter().flatten() {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
        let (head, body) = bytes.split_at(end);
        if head.len() > HEAD_MAX {
            continue;
        }
        for defined in [false, true] {
            let status = caller.call(defined, head, |open| open.flags = Flags::END, &[body]);
            match caller.judge(status, expect) {
                Ok(true) => taken += 1,
                Ok(false) => {}
                Err(why) => wrong.push(format!("defined: {defined}, {}: {why}", shown(bytes))),
            }
        }
    }
    assert!(wrong.is_empty(), "{} went wrong:\n{}", wrong.len(), wrong.join("\n"));
    // What is in order is not refused, chunks and other forms of target apart, which no record has.
    assert!(taken > 100, "only {taken} were understood");
    expect_sessions(&sidecar, 1);
}

/// Every length that a head and a record may say, and what comes: taken if they all agree, refused otherwise.
fn lengths_that_disagree_in_calls(driver: Driver) {
    let (service, log) = recording();
    let sidecar = before(driver, &service.endpoint);
    let mut caller = Caller::attach(&sidecar, log);
    for declared in [None, Some(0), Some(4), Some(5), Some(6)] {
        let length = declared.map_or(String::new(), |length| format!("Content-Length: {length}\r\n"));
        let head = format!("POST /case HTTP/1.1\r\nHost: service\r\n{length}\r\n");
        for total in [TOTAL_UNKNOWN, 0, 4, 5, 6, i64::MAX as u64, 1 << 63] {
            // All at once; the end apart; in two parts; more than a part too much.
            let hello: [&[&[u8]]; 4] = [&[b"hello"], &[b"hello", b""], &[b"hel", b"lo"], &[b"", b"hello"]];
            for parts in hello {
                let whole = parts.len() == 1;
                let agrees = declared.is_none_or(|declared| declared == 5) && [TOTAL_UNKNOWN, 5].contains(&total)
                    // Of a stream of unknown length no head may say how long it is.
                    && (whole || declared.is_none() || total == 5);
                // All that was announced is there before what exceeds it, and may be answered by then.
                if total == 0 && parts[0].is_empty() {
                    continue;
                }
                let expect = if agrees { Expect::One("POST", "/case", "hello") } else { Expect::Refused };
                let flags = if whole { Flags::END } else { Flags::NONE };
                for defined in [false, true] {
                    let open = |open: &mut Header| (open.flags, open.total) = (flags, total);
                    let status = caller.call(defined, head.as_bytes(), open, parts);
                    let judged = caller.judge(status, &expect);
                    assert_eq!(judged, Ok(agrees), "Content-Length {declared:?}, total {total}, {parts:?}");
                }
            }
        }
    }
    expect_sessions(&sidecar, 1);
}

impl Caller {
    fn attach(sidecar: &Sidecar, log: Log) -> Caller {
        Caller { session: Session::attach(sidecar), log, generation: 0 }
    }

    /// A call with this head, its body in parts of which the last one ends it; the status of its answer.
    fn call(&mut self, defined: bool, head: &[u8], how: impl FnOnce(&mut Header), parts: &[&[u8]]) -> u16 {
        self.generation += 1;
        let mut open = Header::new(Kind::Open, 0, self.generation);
        open.code = Protocol::Http as u16;
        how(&mut open);
        if defined {
            let mut define = Header::new(Kind::Define, 0, 0);
            (define.code, define.route) = (Protocol::Http as u16, ID);
            self.session.put(&define, &[head]);
            open.route = ID;
            self.session.put(&open, &[parts[0]]);
        } else {
            (open.route, open.head_len) = (INLINE_KEY, head.len() as u32);
            self.session.put(&open, &[head, parts[0]]);
        }
        for (n, part) in parts.iter().enumerate().skip(1) {
            let mut data = Header::new(Kind::Data, 0, self.generation);
            data.flags = if n + 1 == parts.len() { Flags::END } else { Flags::NONE };
            self.session.put(&data, &[part]);
        }
        let answer = self.session.next();
        assert_eq!((answer.kind, answer.generation), (Kind::Answer, self.generation), "{answer:?}");
        // It is over for us in any case.
        self.session.put(&Header::reset(0, self.generation, Reset::Cancelled), &[]);
        answer.code
    }

    /// Whether the call was taken, and the next one finds the upstream in order.
    fn judge(&mut self, status: u16, expect: &Expect) -> Result<bool, String> {
        let whole = understood(&self.log)?;
        let told: Vec<_> = whole.iter().map(|seen| (&seen.method[..], &seen.target[..], &seen.body[..])).collect();
        let refused = REFUSALS.contains(&status) && told.is_empty();
        let taken = match *expect {
            Expect::Refused | Expect::Status(_) => false,
            Expect::One(method, target, body) | Expect::Last(method, target, body) => {
                status == 200 && told == [(method, target, body.as_bytes())]
            }
            Expect::Elsewhere => status == 404 && told.is_empty(),
        };
        if !taken && !refused {
            return Err(format!("not {expect:?}: {status}, and the upstream got {told:?}"));
        }
        let head = b"GET /next HTTP/1.1\r\nHost: service\r\n\r\n";
        let next = self.call(false, head, |open| open.flags = Flags::END, &[b""]);
        let whole = understood(&self.log)?;
        match (next, &whole[..]) {
            (200, [seen]) if seen.target == "/next" && seen.body.is_empty() => Ok(taken),
            _ => Err(format!("the next call: {next}, and the upstream got {whole:?}")),
        }
    }
}
