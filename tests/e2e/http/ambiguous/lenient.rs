//! With everything tolerated that can be (`lenient`): what is in order passes as before, what is mended reaches the other side as
//! messages that can be read in one way only, and all else is refused.

use super::super::{WAYS, Ways, quoted};
use super::replies::replies;
use super::upstream::{Log, recording};
use super::{Expect, REFUSALS, chunks, exchange, framing, heads, judge, shown, understood};
use crate::service::{Service, http};
use crate::sidecar::{Driver, Sidecar};

on_each_driver!(
    requests_with_everything_tolerated,
    requests_with_one_flaw_tolerated,
    a_request_leaves_as_it_should_have_been,
    an_answer_arrives_as_it_should_have_been,
    nothing_is_mended_unless_it_is_said,
);

const CONFIG: &str = "
listeners:
  - { name: web, tcp: 127.0.0.1:$web, protocol: http, lenient: [ $requests ] }
  - { name: web-uds, unix: $dir/web.sock, protocol: http, lenient: [ $requests ] }
  - { name: apps, shm: $dir/apps.sock, lenient: [ $requests ] }
routes: [ { match: { host: service, path_prefix: / }, cluster: service } ]
clusters: [ { name: service, endpoints: [ $up ], lenient: [ $answers ] } ]
";

/// What may be tolerated in requests.
const FLAWS: [&str; 3] = ["obs_fold", "bare_lf", "repeated_content_length"];

/// A sidecar that tolerates everything in front of a service, or that does not.
pub fn tolerant(driver: Driver, service: &Service, requests: bool, answers: bool) -> Sidecar {
    let (of_both, of_answers) = (FLAWS.join(", "), "space_before_colon");
    let requests = if requests { &of_both } else { "" };
    let answers = if answers { format!("{of_both}, {of_answers}") } else { String::new() };
    tolerant_of(driver, service, requests, &answers)
}

fn tolerant_of(driver: Driver, service: &Service, requests: &str, answers: &str) -> Sidecar {
    let words = [("up", &*quoted(&[&service.endpoint])), ("requests", requests), ("answers", answers)];
    Sidecar::start(driver, CONFIG, &words)
}

fn requests_with_everything_tolerated(driver: Driver) {
    let (service, log) = recording();
    let sidecar = tolerant(driver, &service, true, true);
    hold(&sidecar, &log, &[("tcp", usize::MAX), ("uds", 2), ("shm", usize::MAX)]);
}

/// What one flaw is tolerated for must not let another one through.
fn requests_with_one_flaw_tolerated(driver: Driver) {
    for flaw in FLAWS {
        let (service, log) = recording();
        let sidecar = tolerant_of(driver, &service, flaw, "");
        hold(&sidecar, &log, &[("tcp", usize::MAX)]);
        let ways = Ways::into(&sidecar);
        for flawed in ["Content-Length: 50\n \r\n", "Transfer-Encoding: chunkedX\n \r\n", "Host: serviceX\n \r\n"] {
            for first in ["X: a\r\n b\r\n", "Content-Length: 5\r\nContent-Length: 5\r\n", "Y: a\n"] {
                let request = format!(
                    "POST /a HTTP/1.1\r\nHost: service\r\n{first}{flawed}\r\nhelloGET /b HTTP/1.1\r\nHost: service\r\n\r\n"
                );
                log.clear();
                let answer = exchange(&ways, "tcp", usize::MAX, request.as_bytes());
                assert_eq!(understood(&log).map(|whole| whole.len()), Ok(0), "{flaw}: {request:?}");
                assert!(answer.starts_with(b"HTTP/1.1 400 "), "{flaw}: {request:?}: {}", shown(&answer));
            }
        }
    }
}

/// Every message of the corpus is forwarded as one that can be read in one way, or refused.
fn hold(sidecar: &Sidecar, log: &Log, ways_and_pieces: &[(&'static str, usize)]) {
    let ways = Ways::into(sidecar);
    let (mut wrong, mut mended) = (Vec::new(), 0);
    for case in heads::cases().into_iter().chain(framing::cases()).chain(chunks::cases()) {
        for &(way, piece) in ways_and_pieces {
            log.clear();
            let answer = exchange(&ways, way, piece, &case.bytes);
            let judged = match case.expect {
                Expect::Refused | Expect::Status(_) => understood(log).and_then(|whole| {
                    let replies = replies(&answer, &vec![false; whole.len() + 1])?;
                    let (served, rest) = replies.split_at(whole.len().min(replies.len()));
                    mended += usize::from(!whole.is_empty());
                    // Nothing is read behind a refusal, and what was forwarded was answered.
                    match rest {
                        _ if served.len() < whole.len() || served.iter().any(|reply| reply.status != 200) => {
                            Err(format!("{whole:?} but {replies:?}"))
                        }
                        [] => Ok(()),
                        [last] if REFUSALS.contains(&last.status) || last.status == 405 || last.status == 404 => Ok(()),
                        _ => Err(format!("{replies:?}")),
                    }
                }),
                expect => judge(expect, &answer, log),
            };
            wrong.extend(judged.err().map(|why| format!("{way} in pieces of {piece}, {}: {why}", shown(&case.bytes))));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(mended > 0, "something was to be mended");
}

const FLAWED: &str = "PUT /a HTTP/1.1\nHost: service\r\nX-Folded: one\r\n two\r\n\tthree  \r\nContent-Length: 2\r\n\
                      content-length: 2, 2\r\nX-Last: x\n\n";

fn a_request_leaves_as_it_should_have_been(driver: Driver) {
    let service = http(|head, wire| {
        let mut body = Vec::new();
        wire.body(head, false, |piece| body.extend_from_slice(piece));
        let fields = ["x-folded", "content-length", "x-last"].map(|name| head.get(name).unwrap_or("none").to_owned());
        let text = format!("{} {}", fields.join("|"), String::from_utf8_lossy(&body));
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()));
    });
    let sidecar = tolerant(driver, &service, true, false);
    let ways = Ways::into(&sidecar);
    let request = format!("{FLAWED}hi");
    for way in WAYS {
        for piece in [request.len(), 7, 1] {
            let mut wire = ways.connect(way);
            for _ in 0..2 {
                request.as_bytes().chunks(piece).for_each(|piece| wire.send(piece));
                assert_eq!(wire.answer().text(), "one two three|2|x hi", "{way} in pieces of {piece}");
            }
        }
    }
    assert_eq!(sidecar.metric("shmesh_http_mended_total"), 18.0);
}

fn an_answer_arrives_as_it_should_have_been(driver: Driver) {
    let service = flawed();
    let sidecar = tolerant(driver, &service, false, true);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        let mut wire = ways.connect(way);
        for _ in 0..3 {
            let answer = wire.ask("GET / HTTP/1.1\r\nHost: service\r\n\r\n");
            assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"), "{way}");
            let fields = ["x-folded", "x-spaced", "x-last"].map(|name| answer.head.get(name));
            assert_eq!(fields, [Some("one two"), Some("a"), Some("x")], "{way}");
        }
    }
    assert_eq!(service.accepted(), 1, "the connection goes on");
}

/// A service whose answers have every flaw that can be mended.
fn flawed() -> Service {
    http(|head, wire| {
        wire.body(head, false, |_| ());
        let _ = wire.try_send(
            b"HTTP/1.1 200 OK\r\nX-Folded: one\r\n two\r\nX-Spaced \t: a\r\nContent-Length : 2\r\nContent-Length: 2, 2\r\n\
              X-Last: x\n\nok",
        );
    })
}

/// Each side has its own list, and calls over shared memory send no heads that would need one.
fn nothing_is_mended_unless_it_is_said(driver: Driver) {
    let service = flawed();
    let (requests, answers) = (tolerant(driver, &service, true, false), tolerant(driver, &service, false, true));
    let (of_requests, of_answers) = (Ways::into(&requests), Ways::into(&answers));
    for way in WAYS {
        let answer = of_requests.connect(way).ask("GET / HTTP/1.1\r\nHost: service\r\n\r\n");
        assert_eq!((answer.status(), answer.reason()), (502, "upstream-malformed"), "{way}");
        assert_eq!(of_answers.connect(way).ask(FLAWED).reason(), "bare-lf", "{way}");
        // White space before a colon is for answers only (RFC 9112 §5.1).
        let answer = of_requests.connect(way).ask("GET / HTTP/1.1\r\nHost : service\r\n\r\n");
        assert_eq!((answer.status(), answer.reason()), (400, "space-before-colon"), "{way}");
    }
}
