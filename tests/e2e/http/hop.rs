//! What a proxy adds to a message, counts in it, and answers in another's place.

use super::{WAYS, Ways, before, quoted};
use crate::process::until;
use crate::service::{Service, http};
use crate::sidecar::{Driver, Sidecar};
use crate::wire::{Answer, Head};

on_each_driver!(
    a_request_without_an_id_gets_one,
    ids_are_in_the_access_log,
    the_address_of_the_client_is_told_where_it_is_asked_for,
    an_answer_without_a_date_gets_one,
    forwards_of_options_and_trace_are_counted,
);

/// As the others, and listeners with other settings.
const CONFIG: &str = "
listeners:
  - { name: web, tcp: 127.0.0.1:$web, protocol: http, use_remote_address: $told }
  - { name: web-uds, unix: $dir/web.sock, protocol: http, use_remote_address: $told }
  - { name: apps, shm: $dir/apps.sock, use_remote_address: $told }
  - { name: plain, tcp: 127.0.0.1:$plain, protocol: http, request_id: false }
routes: [ { match: { host: service }, cluster: service } ]
clusters: [ { name: service, endpoints: [ $up ] } ]
access_log: { path: $dir/access.log }
";

fn start(driver: Driver, told: bool, service: &Service) -> Sidecar {
    let told = told.to_string();
    Sidecar::start(driver, CONFIG, &[("up", &quoted(&[&service.endpoint])), ("told", &told)])
}

/// A service that answers with the fields of the request's head, a line each.
fn telling() -> Service {
    http(|head, wire| {
        wire.body(head, false, |_| ());
        let lines = head.fields.iter().map(|(name, value)| format!("{name}: {value}\n"));
        let text = format!("{}\n{}", head.start, lines.collect::<String>());
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()));
    })
}

/// Values of a field, as the service got them.
fn told(answer: &Answer, name: &str) -> Vec<String> {
    let text = answer.text();
    let lines = text.lines().filter_map(|line| line.split_once(": ").filter(|(field, _)| *field == name));
    lines.map(|(_, value)| value.to_owned()).collect()
}

fn get(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: service\r\n{lines}\r\n")
}

/// RFC 9562 §5.4.
fn assert_uuid(id: &str) {
    let parts: Vec<&str> = id.split('-').collect();
    assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{id}");
    assert!(parts.concat().bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{id}");
    assert!(parts[2].starts_with('4') && parts[3].starts_with(['8', '9', 'a', 'b']), "{id}");
}

fn a_request_without_an_id_gets_one(driver: Driver) {
    let service = telling();
    let sidecar = start(driver, false, &service);
    let ways = Ways::into(&sidecar);
    let mut ids = Vec::new();
    for way in WAYS {
        let mut wire = ways.connect(way);
        for lines in ["", "", "Connection: x-request-id\r\nX-Request-Id: mine\r\n"] {
            let made = told(&wire.ask(get(lines)), "x-request-id");
            assert_eq!(made.len(), 1, "{way} {lines}: {made:?}");
            assert_uuid(&made[0]);
            ids.extend(made);
        }
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let answer = wire.ask(get(&format!("X-REQUEST-ID: mine\r\ntraceparent: {trace}\r\ntracestate: a=b\r\n")));
        assert_eq!(told(&answer, "x-request-id"), ["mine"], "{way}");
        assert_eq!(
            (told(&answer, "traceparent"), told(&answer, "tracestate")),
            (vec![trace.into()], vec!["a=b".into()])
        );
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3 * WAYS.len(), "they differ");
    let mut wire = sidecar.connect("plain");
    assert!(told(&wire.ask(get("")), "x-request-id").is_empty());
    assert_eq!(told(&wire.ask(get("x-request-id: mine\r\n")), "x-request-id"), ["mine"]);
}

fn ids_are_in_the_access_log(driver: Driver) {
    let service = telling();
    let sidecar = start(driver, false, &service);
    let ways = Ways::into(&sidecar);
    let mut expected = Vec::new();
    for way in WAYS {
        let mut wire = ways.connect(way);
        expected.extend(told(&wire.ask(get("")), "x-request-id"));
        let mine = format!("mine-{way}\"\\");
        wire.ask(get(&format!("x-request-id: {mine}\r\n")));
        expected.push(mine);
    }
    // No one names this.
    assert_eq!(sidecar.connect("plain").ask(get("")).status(), 200);
    expected.push("none".into());
    let mut logged = Vec::new();
    until("all calls are logged", || {
        let text = std::fs::read_to_string(sidecar.path("access.log")).unwrap_or_default();
        let whole = text.lines().filter(|line| line.ends_with('}'));
        logged = whole.map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON")).collect();
        logged.len() == expected.len()
    });
    let ids: Vec<&str> = logged.iter().map(|line| line["request_id"].as_str().unwrap_or("none")).collect();
    assert_eq!(ids, expected);
}

fn the_address_of_the_client_is_told_where_it_is_asked_for(driver: Driver) {
    let service = telling();
    let lines = "X-Forwarded-For: 10.0.0.1\r\nx-forwarded-for: 10.0.0.2, 10.0.0.3\r\nX-Forwarded-Proto: https\r\n";
    let before = vec!["10.0.0.1".to_owned(), "10.0.0.2, 10.0.0.3".to_owned()];
    let sidecar = start(driver, true, &service);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        let mut wire = ways.connect(way);
        let answer = wire.ask(get(lines));
        // A peer on a Unix socket or in shared memory has no address.
        let expected =
            if way == "tcp" { vec!["10.0.0.1, 10.0.0.2, 10.0.0.3, 127.0.0.1".into()] } else { before.clone() };
        assert_eq!(told(&answer, "x-forwarded-for"), expected, "{way}");
        assert_eq!(told(&answer, "x-forwarded-proto"), ["http"], "{way}");
        let answer = wire.ask(get(""));
        let expected: &[&str] = if way == "tcp" { &["127.0.0.1"] } else { &[] };
        assert_eq!(told(&answer, "x-forwarded-for"), expected, "{way}");
        // A client cannot have ours taken out.
        let answer = wire.ask(get("Connection: x-forwarded-for, x-forwarded-proto\r\nx-forwarded-for: a\r\n"));
        assert_eq!(told(&answer, "x-forwarded-for"), expected, "{way}");
        assert_eq!(told(&answer, "x-forwarded-proto"), ["http"], "{way}");
    }
    let sidecar = start(driver, false, &service);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        let answer = ways.connect(way).ask(get(lines));
        assert_eq!(told(&answer, "x-forwarded-for"), before, "{way}");
        assert_eq!(told(&answer, "x-forwarded-proto"), ["https"], "{way}");
    }
}

/// RFC 9110 §5.6.7: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn assert_date(head: &Head) {
    let date = head.get("date").unwrap_or_else(|| panic!("no Date: {head:?}"));
    let shape: String = date
        .chars()
        .map(|c| {
            if c.is_ascii_digit() {
                '0'
            } else if c.is_ascii_alphabetic() {
                'a'
            } else {
                c
            }
        })
        .collect();
    assert_eq!(shape, "aaa, 00 aaa 0000 00:00:00 aaa", "{date}");
    assert!(date.ends_with(" GMT") && date[12..16].parse::<u32>().expect("a year") >= 2025, "{date}");
}

fn an_answer_without_a_date_gets_one(driver: Driver) {
    const OLD: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    let service = http(|head, wire| {
        wire.send(match head.path() {
            "/with" => format!("HTTP/1.1 200 OK\r\nDATE: {OLD}\r\nContent-Length: 0\r\n\r\n"),
            "/named" => format!("HTTP/1.1 200 OK\r\nConnection: date\r\nDate: {OLD}\r\nContent-Length: 0\r\n\r\n"),
            "/204" => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
            "/hints" => "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
        });
    });
    let sidecar = before(driver, &[&service.endpoint]);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        let mut wire = ways.connect(way);
        let mut head = |path: &str| {
            wire.send(format!("GET {path} HTTP/1.1\r\nHost: service\r\n\r\n"));
            wire.head().expect("an answer")
        };
        assert_eq!(head("/with").get("date"), Some(OLD), "{way}");
        for path in ["/", "/204", "/named"] {
            assert_date(&head(path));
        }
        let hints = head("/hints");
        assert_eq!((hints.status(), hints.get("date")), (103, None), "{way}");
        assert_date(&wire.head().expect("it"));
        // Ours have it, too.
        assert_date(&wire.ask("GET / HTTP/1.1\r\nHost: nobody\r\n\r\n").head);
        assert_date(&wire.ask("GET / HTTP/1.1\r\nHost: a b\r\n\r\n").head);
    }
}

fn forwards_of_options_and_trace_are_counted(driver: Driver) {
    let service = telling();
    let sidecar = before(driver, &[&service.endpoint]);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        let mut wire = ways.connect(way);
        let mut ask = |method: &str, lines: &str| {
            wire.ask(format!("{method} /a HTTP/1.1\r\nHost: service\r\nCookie: secret\r\nX-A: b\r\n{lines}\r\n"))
        };
        for method in ["OPTIONS", "TRACE"] {
            for (sent, left) in [("1", "0"), ("010", "9"), ("99999999999999999999999", "18446744073709551614")] {
                let answer = ask(method, &format!("Max-Forwards: {sent}\r\n"));
                assert_eq!(told(&answer, "max-forwards"), [left], "{way} {method}");
            }
            assert!(told(&ask(method, ""), "max-forwards").is_empty());
        }
        // Others count nothing.
        assert_eq!(told(&ask("GET", "Max-Forwards: 0\r\n"), "max-forwards"), ["0"], "{way}");
        let answer = ask("OPTIONS", "Max-Forwards: 0\r\n");
        assert_eq!((answer.status(), answer.reason()), (200, "max-forwards"), "{way}");
        // What is secret is not shown (RFC 9110 §9.3.8).
        let answer = ask("TRACE", "max-forwards: 0\r\n");
        assert_eq!((answer.status(), answer.head.get("content-type")), (200, Some("message/http")), "{way}");
        assert_eq!(answer.text(), "TRACE /a HTTP/1.1\r\nHost: service\r\nX-A: b\r\nmax-forwards: 0\r\n\r\n");
        // The connection goes on, but not behind content that nobody wants.
        assert_eq!(ask("GET", "").status(), 200);
        let answer = ask("OPTIONS", "Max-Forwards: 0\r\nContent-Length: 2\r\n");
        assert_eq!((answer.status(), answer.head.get("connection")), (200, Some("close")), "{way}");
        for lines in [
            "Max-Forwards: x\r\n",
            "Max-Forwards: -1\r\n",
            "Max-Forwards:\r\n",
            "Max-Forwards: 1\r\nMax-Forwards: 1\r\n",
        ] {
            let request = format!("TRACE /a HTTP/1.1\r\nHost: service\r\n{lines}\r\n");
            let answer = ways.connect(way).ask(request);
            assert_eq!((answer.status(), answer.reason()), (400, "bad-max-forwards"), "{way} {lines}");
        }
    }
}
