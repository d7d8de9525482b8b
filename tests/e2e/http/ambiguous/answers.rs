//! Answers that two parsers may read differently: RFC 9112 §2.2, §4, §5, §6.3, §7.1 and §8. The caller gets 502, or is cut off if the head is
//! out already; and what came on that connection is nobody else's answer.

use std::sync::Arc;

use shmesh_client::Request;

use super::super::{WAYS, Ways, before};
use super::chunks::{FORGED, NO_ENDS, NO_EXTENSIONS, NO_SIZES, NO_TRAILERS};
use super::framing::{NO_CODINGS, NO_LENGTHS, TWICE};
use super::heads::NO_FIELDS;
use super::lenient::tolerant;
use super::replies::replies;
use super::shown;
use crate::process::PATIENCE;
use crate::service::{Service, http};
use crate::sidecar::{Driver, Sidecar};

on_each_driver!(
    answers_of_two_meanings,
    answers_that_are_no_heads,
    chunks_of_two_meanings_in_answers,
    answers_of_one_meaning,
    answers_with_everything_tolerated
);

/// First lines that are none.
const NO_LINES: [&str; 31] = [
    "HTTP/1.1 20 OK",
    "HTTP/1.1 2000 OK",
    "HTTP/1.1 099 OK",
    "HTTP/1.1 2x0 OK",
    "HTTP/1.1 +20 OK",
    "HTTP/1.1 -20 OK",
    "HTTP/1.1  200 OK",
    "HTTP/1.1 200\tOK",
    "HTTP/1.1\t200 OK",
    "HTTP/1.1 200OK",
    "HTTP/1.1",
    "HTTP/1.1 ",
    "HTTP/1 200 OK",
    "HTTP/11 200 OK",
    "HTTP/1.1.1 200 OK",
    "HTTP/01.1 200 OK",
    "HTTP/2.0 200 OK",
    "HTTP/2 200 OK",
    "HTTP/0.9 200 OK",
    "http/1.1 200 OK",
    "ICY 200 OK",
    "SSH-2.0-OpenSSH_9.2",
    "200 OK",
    " HTTP/1.1 200 OK",
    "\r\nHTTP/1.1 200 OK",
    "HTTP/1.1 200 O\0K",
    "HTTP/1.1 200 O\rK",
    "HTTP/1.1 200 O\u{7f}K",
    "HTTP/1.1 200 OK\nX: y",
    "\0HTTP/1.1 200 OK",
    "GET / HTTP/1.1",
];

/// Sent behind an answer that is over: nobody asked for it.
const UNASKED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";

/// What a service answers to one request, and what the caller is to get.
struct Answer {
    method: &'static str,
    bytes: String,
    /// The service ends the connection behind it.
    ends: bool,
    expect: Expect,
}

#[derive(Clone, Copy, Debug)]
enum Expect {
    /// 502, or the answer breaks off.
    Broken,
    /// This status and body, and no trailer.
    Given(u16, &'static str),
    /// Broken, or one answer.
    Unambiguous,
}

fn answers_that_are_no_heads(driver: Driver) {
    judge_all(driver, no_heads());
}

fn no_heads() -> Vec<Answer> {
    let lines = NO_LINES.iter().map(|line| broken(format!("{line}\r\nContent-Length: 2\r\n\r\nok")));
    let fields = NO_FIELDS.iter().flat_map(|field| {
        [format!("{field}\r\nContent-Length: 2"), format!("Content-Length: 2\r\n{field}")]
            .map(|fields| broken(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nok")))
    });
    // Nobody asked for another protocol (RFC 9110 §7.8).
    let switched = ["Connection: upgrade\r\nUpgrade: websocket\r\n", "Upgrade: h2c\r\n", ""];
    let switched =
        switched.iter().map(|fields| broken(format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n{UNASKED}")));
    lines.chain(fields).chain(switched).collect()
}

fn answers_of_two_meanings(driver: Driver) {
    judge_all(driver, two_meanings());
}

fn two_meanings() -> Vec<Answer> {
    let lengths = NO_LENGTHS.iter().map(|value| format!("Content-Length: {value}"));
    let codings = NO_CODINGS.iter().map(|value| format!("Transfer-Encoding: {value}"));
    let fields = lengths.chain(codings).chain(TWICE.iter().map(|fields| (*fields).to_owned()));
    let mut answers: Vec<Answer> =
        fields.map(|fields| broken(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"))).collect();
    answers.push(broken("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".into()));
    // To HEAD, and where no body follows, the framing has to make sense all the same.
    for (method, status) in [("HEAD", 200), ("GET", 204), ("GET", 304), ("GET", 103)] {
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Content-Length: x",
            "Content-Length: 1\r\nContent-Length: 2",
        ] {
            let bytes = format!("HTTP/1.1 {status} X\r\n{fields}\r\n\r\n");
            answers.push(Answer { method, ..broken(bytes) });
        }
    }
    answers
}

/// Whatever `lenient` makes of them, what reaches the client can be read in one way only, and nothing of it is the next request's.
fn answers_with_everything_tolerated(driver: Driver) {
    let answers = no_heads().into_iter().chain(two_meanings());
    // Some are mended to one that goes on up to the end.
    let answers = answers.map(|answer| Answer { expect: Expect::Unambiguous, ends: true, ..answer });
    judge_by(answers.collect(), |service| tolerant(driver, service, true, true));
}

fn chunks_of_two_meanings_in_answers(driver: Driver) {
    let sizes = NO_SIZES.iter().chain(&NO_EXTENSIONS);
    let mut bodies: Vec<String> = sizes
        .flat_map(|size| [format!("{size}\r\nhello\r\n0\r\n\r\n"), format!("2\r\nhe\r\n{size}\r\nhello\r\n0\r\n\r\n")])
        .collect();
    bodies.extend(NO_ENDS.iter().map(|body| (*body).to_owned()));
    bodies.extend(NO_TRAILERS.iter().map(|trailer| format!("5\r\nhello\r\n0\r\n{trailer}\r\n\r\n")));
    let chunked = |body: String| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    let mut answers: Vec<Answer> = bodies.into_iter().map(|body| broken(chunked(body))).collect();
    for body in ["5\r\nhello\r\n0\r\n", "5\r\nhello\r\n", "5\r\nhel", "5"] {
        answers.push(Answer { ends: true, ..broken(chunked(body.into())) });
    }
    for trailer in FORGED {
        answers.push(given("GET", 200, "hello", chunked(format!("5\r\nhello\r\n0\r\n{trailer}\r\n\r\n"))));
    }
    judge_all(driver, answers);
}

fn answers_of_one_meaning(driver: Driver) {
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let mut answers = vec![
        given("GET", 200, "ok", ok.into()),
        given("GET", 200, "ok", "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok".into()),
        given("GET", 200, "ok", "HTTP/1.7 200 \r\ncontent-length:2\r\n\r\nok".into()),
        given("GET", 200, "ok", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok".into()),
        given("GET", 200, "ok", "HTTP/1.1 200 OK\r\nConnection: content-length\r\nContent-Length: 2\r\n\r\nok".into()),
        given(
            "GET",
            200,
            "hello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: , chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n".into(),
        ),
        // RFC 9110 §15.2: any number of interim answers, and then the answer.
        given(
            "GET",
            200,
            "ok",
            format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n{ok}"),
        ),
        given("GET", 200, "ok", format!("HTTP/1.1 102 Processing\r\nContent-Length: 5\r\n\r\n{ok}")),
        // RFC 9112 §6.3: no body follows these, whatever the head says, and what follows is not asked for.
        given("HEAD", 200, "", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".into()),
        given("HEAD", 200, "", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into()),
        given("HEAD", 200, "", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".into()),
        given("GET", 204, "", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello".into()),
        given(
            "GET",
            204,
            "",
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".into(),
        ),
        given("GET", 304, "", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello".into()),
        // RFC 9112 §9.2: an answer that nobody asked for.
        given("GET", 200, "ok", format!("{ok}{UNASKED}")),
        given("GET", 200, "ok", format!("{ok}\r\n")),
        given("GET", 200, "ok", format!("{ok}more")),
        given(
            "GET",
            200,
            "hello",
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n{UNASKED}"),
        ),
        given("HEAD", 200, "", format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{UNASKED}")),
    ];
    // RFC 9112 §6.3 rule 8, §8: up to the end of the connection, or cut short.
    for bytes in [
        "HTTP/1.1 200 OK\r\n\r\nok",
        "HTTP/1.0 200 OK\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nok",
    ] {
        answers.push(Answer { ends: true, ..given("GET", 200, "ok", bytes.into()) });
    }
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2",
        "HTTP/1.1 100 Continue\r\n\r\n",
    ] {
        answers.push(Answer { ends: true, ..broken(bytes.into()) });
    }
    judge_all(driver, answers);
}

fn judge_all(driver: Driver, answers: Vec<Answer>) {
    judge_by(answers, |service| before(driver, &[&service.endpoint]));
}

fn judge_by(answers: Vec<Answer>, start: impl FnOnce(&Service) -> Sidecar) {
    let answers = Arc::new(answers);
    let service = saying(answers.clone());
    let sidecar = start(&service);
    let ways = Ways::into(&sidecar);
    let mut wrong = Vec::new();
    for (n, answer) in answers.iter().enumerate() {
        for way in WAYS {
            let judged = by_connection(&ways, way, n, answer)
                .and_then(|()| by_call(&ways, "GET", "/next", Expect::Given(200, "next")));
            wrong.extend(
                judged.err().map(|why| format!("{way}, {} {}: {why}", answer.method, shown(answer.bytes.as_bytes()))),
            );
        }
        let judged = by_call(&ways, answer.method, &format!("/{n}"), answer.expect)
            .and_then(|()| by_call(&ways, "GET", "/next", Expect::Given(200, "next")));
        wrong.extend(
            judged.err().map(|why| format!("call, {} {}: {why}", answer.method, shown(answer.bytes.as_bytes()))),
        );
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), 4 * answers.len(), wrong.join("\n"));
}

/// A service that says the n-th answer to `/n`, and `next` to the rest.
fn saying(answers: Arc<Vec<Answer>>) -> Service {
    http(move |head, wire| {
        let answer = head.path()[1..].parse().ok().and_then(|n: usize| answers.get(n));
        let next = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext";
        // Who was said nonsense may be gone.
        let _ = wire.try_send(answer.map_or(next, |answer| &answer.bytes).as_bytes());
        if answer.is_some_and(|answer| answer.ends) {
            wire.cut();
        }
    })
}

/// Two requests on one connection, of which the second has an answer in order.
fn by_connection(ways: &Ways<'_>, way: &str, n: usize, answer: &Answer) -> Result<(), String> {
    let mut wire = ways.connect(way);
    let request = format!("{} /{n} HTTP/1.1\r\nHost: service\r\n\r\n", answer.method);
    let next = "GET /next HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n";
    let _ = wire.try_send(format!("{request}{next}").as_bytes());
    wire.end();
    let replies = replies(&wire.rest().0, &[answer.method == "HEAD", false])?;
    let told: Vec<_> = replies.iter().map(|reply| (reply.status, reply.reason.as_str(), &reply.body[..])).collect();
    let next = (200, "", &b"next"[..]);
    let as_expected = match answer.expect {
        Expect::Broken => match &told[..] {
            [] => true,
            [(502, reason, _), rest @ ..] => {
                *reason == if answer.ends { "upstream-died" } else { "upstream-malformed" }
                    && (rest.is_empty() || rest == [next])
            }
            _ => false,
        },
        Expect::Unambiguous => matches!(&told[..], [] | [_]) || matches!(&told[..], [_, last] if *last == next),
        Expect::Given(status, body) => told == [(status, "", body.as_bytes()), next],
    };
    // One trailer of the list is no forgery.
    let forged = replies.iter().flat_map(|reply| &reply.trailers).find(|trailer| !trailer.starts_with("X: "));
    match (as_expected, forged) {
        (true, None) => Ok(()),
        _ => Err(format!("not {:?}: {replies:?} {forged:?}", answer.expect)),
    }
}

fn by_call(ways: &Ways<'_>, method: &str, path: &str, expect: Expect) -> Result<(), String> {
    let answered = ways.app.call(Request::http(method, "service", path).timeout(PATIENCE));
    let as_expected = match (&answered, expect) {
        (Ok(response), Expect::Broken) => response.status == 502,
        (Err(_), Expect::Broken) => true,
        (Ok(response), Expect::Given(status, body)) => response.status == status && response.body == body.as_bytes(),
        (_, Expect::Unambiguous) => true,
        (Err(_), Expect::Given(..)) => false,
    };
    if as_expected { Ok(()) } else { Err(format!("{path} is not {expect:?}: {answered:?}")) }
}

fn broken(bytes: String) -> Answer {
    Answer { method: "GET", bytes, ends: false, expect: Expect::Broken }
}

fn given(method: &'static str, status: u16, body: &'static str, bytes: String) -> Answer {
    Answer { method, bytes, ends: false, expect: Expect::Given(status, body) }
}
