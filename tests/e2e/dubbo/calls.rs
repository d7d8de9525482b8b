//! Calls that go well, and where they go.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use shmesh_proto::dubbo::{Event, Invocation, serialization, write_event};

use super::{Frame, ask, before, call, call_in, echo_provider, invocation, provider, read_frame, request, vectors};
use crate::bytes::MIB;
use crate::process::until;
use crate::service::Service;
use crate::sidecar::{Driver, Sidecar};

on_each_driver!(
    two_way_calls_are_answered_under_their_own_ids,
    one_way_calls_are_forwarded_and_not_answered,
    one_way_calls_outlive_their_connection,
    one_way_calls_reach_a_provider_that_takes_its_time,
    every_golden_request_passes_untouched,
    every_golden_answer_passes_untouched,
    large_arguments_pass,
    frames_may_come_in_any_pieces,
    heartbeats_are_answered_by_every_hop,
    the_group_decides_where_a_call_goes,
    version_and_method_decide_where_a_call_goes,
    tag_and_attachments_decide_where_a_call_goes,
    a_service_seen_before_is_looked_up,
);

fn two_way_calls_are_answered_under_their_own_ids(driver: Driver) {
    let service = echo_provider();
    let sidecar = before(driver, &service.endpoint);
    let mut wire = sidecar.connect("rpc");
    for id in [1, 0, u64::MAX, 1 << 63, 0x0102_0304_0506_0708] {
        for serialization in [serialization::HESSIAN2, serialization::FASTJSON2] {
            for text in ["shmesh", "", "žluťoučký 🐎", &"x".repeat(40_000)] {
                assert_eq!(ask(&mut wire, &call_in(serialization, id, text)).value(), text);
            }
        }
    }
    assert_eq!(sidecar.requests("rpc", "greeter", 20), 40.0);
    assert_eq!(service.accepted(), 1);
}

fn one_way_calls_are_forwarded_and_not_answered(driver: Driver) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let list = seen.clone();
    let service = provider(move |frame, wire| {
        list.lock().expect("no panic").push((frame.header.two_way, frame.body.clone()));
        if frame.header.two_way {
            wire.send(frame.echo());
        }
    });
    let sidecar = before(driver, &service.endpoint);
    let mut wire = sidecar.connect("rpc");
    let one_way = request(5, false, serialization::HESSIAN2, &invocation("notice"));
    for _ in 0..10 {
        wire.send(&one_way);
    }
    // What comes back is the answer to the one that wants one.
    assert_eq!(ask(&mut wire, &call(6, "question")).value(), "question");
    let seen = seen.lock().expect("no panic");
    assert_eq!(seen.len(), 11);
    assert!(seen[..10].iter().all(|(two_way, body)| !two_way && *body == one_way[16..]));
    assert_eq!(sidecar.requests("rpc", "greeter", 20), 11.0);
}

fn one_way_calls_outlive_their_connection(driver: Driver) {
    let seen = Arc::new(Mutex::new(0));
    let count = seen.clone();
    let service = provider(move |_, _| *count.lock().expect("no panic") += 1);
    let sidecar = before(driver, &service.endpoint);
    let one_way = request(5, false, serialization::HESSIAN2, &invocation("notice"));
    for round in 1..=10 {
        let mut wire = sidecar.connect("rpc");
        wire.send(&one_way);
        drop(wire);
        until("the provider has it", || *seen.lock().expect("no panic") == round);
    }
}

/// It says nothing, as nobody asked it anything, and it takes what it is sent: that is a sign of life.
fn one_way_calls_reach_a_provider_that_takes_its_time(driver: Driver) {
    // Three times `idle` is less than all of them take, and far more than one.
    const CALLS: usize = 30;
    let seen = Arc::new(Mutex::new(0));
    let count = seen.clone();
    let service = provider(move |_, _| {
        std::thread::sleep(Duration::from_millis(300));
        *count.lock().expect("no panic") += 1;
    });
    let config = format!("{}timeouts: {{ idle: 2s }}\n", super::CONFIG);
    let sidecar = Sidecar::start(driver, &config, &[("up", &service.endpoint), ("patience", "15s")]);
    let mut wire = sidecar.connect("rpc");
    let one_way = request(5, false, serialization::HESSIAN2, &invocation(&"x".repeat(1_000_000)));
    for _ in 0..CALLS {
        wire.send(&one_way);
    }
    until("the provider has all of them", || *seen.lock().expect("no panic") == CALLS);
}

fn every_golden_request_passes_untouched(driver: Driver) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let list = seen.clone();
    let service = provider(move |frame, wire| {
        list.lock().expect("no panic").push(frame.clone());
        if frame.header.two_way {
            let mut answer = Frame::parse(&vectors()["RESP_OK4"]);
            answer.header.id = frame.header.id;
            answer.header.serialization = frame.header.serialization;
            wire.send(answer.bytes());
        }
    });
    let config =
        super::CONFIG.replace("service: com.demo.GreetService, method: \"*\"", "service: \"*\", method: \"*\"");
    let sidecar = Sidecar::start(driver, &config, &[("up", &service.endpoint), ("patience", "15s")]);
    let mut wire = sidecar.connect("rpc");
    let mut sent = Vec::new();
    for (name, bytes) in vectors() {
        let frame = Frame::parse(&bytes);
        let known = [serialization::HESSIAN2, serialization::FASTJSON2].contains(&frame.header.serialization);
        if !frame.header.request || frame.header.event || !known {
            continue;
        }
        wire.send(&bytes);
        if frame.header.two_way {
            let answer = read_frame(&mut wire).unwrap_or_else(|| panic!("{name}: no answer"));
            assert_eq!((answer.header.id, answer.header.status), (frame.header.id, 20), "{name}");
        }
        sent.push((name, frame));
    }
    assert!(sent.len() >= 6, "{} requests", sent.len());
    until("all requests came", || seen.lock().expect("no panic").len() == sent.len());
    for ((name, sent), seen) in sent.iter().zip(seen.lock().expect("no panic").iter()) {
        assert_eq!(sent.body, seen.body, "{name}");
        let mut header = seen.header;
        header.id = sent.header.id;
        assert_eq!(sent.header, header, "{name}: only the id may differ");
    }
}

fn every_golden_answer_passes_untouched(driver: Driver) {
    let answers: Vec<(String, Frame)> = vectors()
        .into_iter()
        .map(|(name, bytes)| (name, Frame::parse(&bytes)))
        .filter(|(_, frame)| !frame.header.request && !frame.header.event)
        .collect();
    assert!(answers.len() >= 5);
    let list = Mutex::new(answers.clone().into_iter());
    let service = provider(move |frame, wire| {
        let (_, mut answer) = list.lock().expect("no panic").next().expect("one for each call");
        answer.header.id = frame.header.id;
        wire.send(answer.bytes());
    });
    let sidecar = before(driver, &service.endpoint);
    let mut wire = sidecar.connect("rpc");
    for (name, mut expected) in answers {
        expected.header.id = 77;
        assert_eq!(ask(&mut wire, &call(77, "x")), expected, "{name}");
    }
}

fn large_arguments_pass(driver: Driver) {
    let service = echo_provider();
    let sidecar = before(driver, &service.endpoint);
    let mut wire = sidecar.connect("rpc");
    for len in [MIB, 2 * MIB, 7 * MIB] {
        let text: String = (0..len).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
        for serialization in [serialization::HESSIAN2, serialization::FASTJSON2] {
            let value = ask(&mut wire, &call_in(serialization, len, &text)).value();
            assert!(value == text, "{len} bytes, serialization {serialization}");
        }
    }
}

fn frames_may_come_in_any_pieces(driver: Driver) {
    let service = echo_provider();
    let sidecar = before(driver, &service.endpoint);
    let mut wire = sidecar.connect("rpc");
    for byte in call(1, "slowly") {
        wire.send([byte]);
    }
    assert_eq!(read_frame(&mut wire).expect("an answer").value(), "slowly");
    // Many in one piece, cut in the middle of the last header.
    let many: Vec<u8> = (0..50).flat_map(|id| call(id, &format!("call {id}"))).collect();
    let last = many.len() - call(49, "call 49").len() + 7;
    wire.send(&many[..last]);
    for _ in 0..49 {
        read_frame(&mut wire).expect("an answer");
    }
    wire.send(&many[last..]);
    let answer = read_frame(&mut wire).expect("an answer");
    assert_eq!((answer.header.id, answer.value().as_str()), (49, "call 49"));
}

fn heartbeats_are_answered_by_every_hop(driver: Driver) {
    let asked = Arc::new(Mutex::new(None));
    let answer = asked.clone();
    // The provider sends a heartbeat before its first answer, and waits for what comes back.
    let service = provider(move |frame, wire| {
        assert!(!frame.header.event, "heartbeats of consumers are not forwarded");
        if frame.value_of_first_argument() == "beat" {
            let mut beat = Vec::new();
            write_event(&mut beat, 4711, serialization::HESSIAN2, Event::Heartbeat);
            wire.send(beat);
            *answer.lock().expect("no panic") = read_frame(wire);
        }
        wire.send(frame.echo());
    });
    let sidecar = before(driver, &service.endpoint);
    let mut wire = sidecar.connect("rpc");
    for (id, serialization) in [(9, serialization::HESSIAN2), (u64::MAX, serialization::FASTJSON2)] {
        let mut beat = Vec::new();
        write_event(&mut beat, id, serialization, Event::Heartbeat);
        let answer = ask(&mut wire, &beat);
        assert!(answer.header.event && answer.header.status == 20 && answer.header.serialization == serialization);
    }
    assert_eq!(service.accepted(), 0, "nobody was called");
    assert_eq!(ask(&mut wire, &call(1, "beat")).value(), "beat");
    let answer = asked.lock().expect("no panic").take().expect("the provider's heartbeat was answered");
    assert!(answer.header.event && !answer.header.request);
    assert_eq!((answer.header.id, answer.header.status), (4711, 20));
    assert_eq!(sidecar.metric("shmesh_dubbo_heartbeats_total"), 3.0);
}

/// A provider that answers with its own name.
fn named(name: &'static str) -> Service {
    provider(move |frame, wire| {
        let request = call_in(frame.header.serialization, frame.header.id, name);
        wire.send(Frame::parse(&request).echo());
    })
}

fn the_group_decides_where_a_call_goes(driver: Driver) {
    let (one, two, rest) = (named("one"), named("two"), named("rest"));
    let config = "
listeners: [ { name: rpc, tcp: 127.0.0.1:$rpc, protocol: dubbo } ]
routes:
  - { match: { service: com.demo.GreetService, group: g1 }, cluster: one }
  - { match: { service: com.demo.GreetService, group: \"g2*\" }, cluster: two }
  - { match: { service: com.demo.GreetService, group: \"\" }, cluster: rest }
  - { match: { service: com.demo.Plain }, cluster: rest }
clusters:
  - { name: one, endpoints: [ \"$one\" ] }
  - { name: two, endpoints: [ \"$two\" ] }
  - { name: rest, endpoints: [ \"$rest\" ] }
";
    let words = [("one", &*one.endpoint), ("two", &*two.endpoint), ("rest", &*rest.endpoint)];
    let sidecar = Sidecar::start(driver, config, &words);
    let mut wire = sidecar.connect("rpc");
    let large = "y".repeat(300_000);
    for serialization in [serialization::HESSIAN2, serialization::FASTJSON2] {
        for (group, expected) in [(Some("g1"), "one"), (Some("g2"), "two"), (Some("g2-blue"), "two"), (None, "rest")] {
            for argument in [Some("a"), Some(large.as_str()), None] {
                let call = Invocation { group, argument: argument.map(str::as_bytes), ..invocation("") };
                let answer = ask(&mut wire, &request(3, true, serialization, &call));
                assert_eq!(answer.value(), expected, "{group:?}");
            }
        }
        let call = Invocation { group: Some("g3"), ..invocation("a") };
        assert_eq!(ask(&mut wire, &request(3, true, serialization, &call)).error().0, 60);
    }
    let skipped = key_source(&sidecar, "skipper");
    assert_eq!(skipped, 26.0, "each of these was walked over");
    let plain = Invocation { path: "com.demo.Plain", ..invocation("a") };
    assert_eq!(ask(&mut wire, &request(3, true, serialization::HESSIAN2, &plain)).value(), "rest");
    assert_eq!(key_source(&sidecar, "skipper"), skipped, "no route asks for its group");
}

fn version_and_method_decide_where_a_call_goes(driver: Driver) {
    let (one, two) = (named("one"), named("two"));
    let config = "
listeners: [ { name: rpc, tcp: 127.0.0.1:$rpc, protocol: dubbo } ]
routes:
  - { match: { service: com.demo.GreetService, method: \"say*\", version: 1.0.0 }, cluster: one }
  - { match: { service: com.demo.GreetService, version: 2.0.0 }, cluster: two }
  - { match: { service: com.demo.GreetService, method: \"other\", version: \"\" }, cluster: two }
clusters: [ { name: one, endpoints: [ \"$one\" ] }, { name: two, endpoints: [ \"$two\" ] } ]
";
    let sidecar = Sidecar::start(driver, config, &[("one", &one.endpoint), ("two", &two.endpoint)]);
    let mut wire = sidecar.connect("rpc");
    for (version, method, expected) in [
        (Some("1.0.0"), "sayHello", Some("one")),
        (Some("1.0.0"), "other", None),
        (Some("2.0.0"), "other", Some("two")),
        (None, "other", Some("two")),
        (Some("0.0.0"), "other", Some("two")),
        (None, "sayHello", None),
        (Some("3.0.0"), "sayHello", None),
    ] {
        let call = Invocation { version, method, ..invocation("a") };
        let answer = ask(&mut wire, &request(3, true, serialization::HESSIAN2, &call));
        match expected {
            Some(expected) => assert_eq!(answer.value(), expected, "{version:?} {method}"),
            None => {
                let (status, sentence) = answer.error();
                assert_eq!(status, 60, "{version:?} {method}");
                assert!(sentence.starts_with("shmesh: no route"), "{sentence}");
            }
        }
    }
    assert_eq!(key_source(&sidecar, "skipper"), 0.0);
}

fn tag_and_attachments_decide_where_a_call_goes(driver: Driver) {
    let (one, two, rest) = (named("one"), named("two"), named("rest"));
    let config = "
listeners: [ { name: rpc, tcp: 127.0.0.1:$rpc, protocol: dubbo } ]
routes:
  - { match: { service: com.demo.GreetService, tag: \"gray*\" }, cluster: one }
  - { match: { service: com.demo.GreetService, tag: \"\", attachments: [ { name: tenant, regex: 't[0-9]+' }, { name: debug, present: false } ] }, cluster: two }
  - { match: { service: com.demo.GreetService, group: g1 }, cluster: rest }
clusters:
  - { name: one, endpoints: [ \"$one\" ] }
  - { name: two, endpoints: [ \"$two\" ] }
  - { name: rest, endpoints: [ \"$rest\" ] }
";
    let words = [("one", &*one.endpoint), ("two", &*two.endpoint), ("rest", &*rest.endpoint)];
    let sidecar = Sidecar::start(driver, config, &words);
    let mut wire = sidecar.connect("rpc");
    type Case = (Option<&'static str>, &'static [(&'static str, &'static str)], Option<&'static str>);
    let cases: [Case; 9] = [
        (None, &[("dubbo.tag", "gray")], Some("one")),
        (None, &[("tenant", "t1"), ("dubbo.tag", "gray-2")], Some("one")),
        (None, &[("tenant", "t1")], Some("two")),
        (None, &[("dubbo.tag", ""), ("tenant", "t12")], Some("two")),
        // Of a name that comes twice the last one counts, as it does when Java reads the map.
        (None, &[("tenant", "x"), ("tenant", "t1")], Some("two")),
        (Some("g1"), &[("tenant", "t1"), ("debug", "")], Some("rest")),
        (Some("g1"), &[("Tenant", "t1")], Some("rest")),
        (Some("g2"), &[("tenant", "x")], None),
        (None, &[("dubbo.tag", "blue"), ("tenant", "t1")], None),
    ];
    for serialization in [serialization::HESSIAN2, serialization::FASTJSON2] {
        for (group, attachments, expected) in cases {
            let call = Invocation { group, attachments, ..invocation("a") };
            let answer = ask(&mut wire, &request(3, true, serialization, &call));
            match expected {
                Some(expected) => assert_eq!(answer.value(), expected, "{group:?} {attachments:?}"),
                None => assert_eq!(answer.error().0, 60, "{group:?} {attachments:?}"),
            }
        }
    }
    assert_eq!(key_source(&sidecar, "skipper"), 18.0, "once for each call, whatever was asked for");
    assert_eq!(key_source(&sidecar, "strings"), 0.0);
    // No route asks for anything of this one.
    let other = Invocation { path: "com.demo.Other", ..invocation("a") };
    assert_eq!(ask(&mut wire, &request(3, true, serialization::HESSIAN2, &other)).error().0, 60);
    assert_eq!((key_source(&sidecar, "skipper"), key_source(&sidecar, "strings")), (18.0, 1.0));
}

fn a_service_seen_before_is_looked_up(driver: Driver) {
    let service = echo_provider();
    let words = [("up", &*service.endpoint), ("patience", "15s")];
    let sidecar = Sidecar::start_with(driver, super::CONFIG, &words, &["--workers", "1"]);
    let mut wires = [sidecar.connect("rpc"), sidecar.connect("rpc")];
    for round in 0..10 {
        for wire in &mut wires {
            for serialization in [serialization::HESSIAN2, serialization::FASTJSON2] {
                for method in ["sayHello", "sayBye"] {
                    let call = Invocation { method, ..invocation("a") };
                    assert_eq!(ask(wire, &request(round, true, serialization, &call)).value(), "a");
                }
            }
        }
    }
    assert_eq!(key_source(&sidecar, "strings"), 80.0);
    assert_eq!(sidecar.metric("shmesh_dubbo_strings_read_total"), 4.0, "each once");
    let nowhere = Invocation { path: "com.demo.Nowhere", ..invocation("a") };
    for _ in 0..2 {
        assert_eq!(ask(&mut wires[0], &request(1, true, serialization::HESSIAN2, &nowhere)).error().0, 60);
    }
    assert_eq!(sidecar.metric("shmesh_dubbo_strings_read_total"), 5.0);
}

pub(super) fn key_source(sidecar: &Sidecar, source: &str) -> f64 {
    sidecar.metric(&format!("shmesh_dubbo_key_source_total{{source=\"{source}\"}}"))
}

impl Frame {
    fn value_of_first_argument(&self) -> String {
        Frame::parse(&self.echo()).value()
    }
}
