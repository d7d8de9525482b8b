//! The routing key in front of a body, between sidecars that agreed on it: docs/spec/dubbo-ext-v1.md.

use std::sync::{Arc, Mutex};

use shmesh_client::{Client, DubboKey, Request};
use shmesh_proto::dubbo::{
    ExtensionWriter, Invocation, agrees_to_extension, event, is_of_extension_offer, serialization,
    write_extension_answer, write_extension_offer, write_heartbeat_reply,
};

use super::calls::key_source;
use super::{Frame, ask, call, echo_provider, invocation, provider, read_frame, request, vectors};
use crate::service::Service;
use crate::sidecar::{Driver, Sidecar};
use crate::wire::Wire;

on_each_driver!(
    the_next_sidecar_is_told_over_tcp,
    the_next_sidecar_is_told_over_a_unix_socket,
    what_an_app_says_reaches_the_next_sidecar,
    the_provider_gets_what_the_consumer_wrote,
    nobody_gets_an_extended_frame_who_did_not_agree,
    a_stray_extended_frame_is_status_40,
    an_extended_frame_must_say_what_its_body_says,
    a_frame_at_the_limit_goes_as_it_is,
);

/// Knows groups, and tells the next one what it knows.
const FIRST: &str = "
listeners:
  - { name: rpc, tcp: 127.0.0.1:$rpc, protocol: dubbo }
  - { name: apps, shm: $dir/apps.sock }
routes:
  - { match: { service: com.demo.GreetService, group: g1, attachments: [ { name: tenant, present: true } ] }, cluster: next }
  - { match: { service: com.demo.GreetService, group: g1, tag: \"*\" }, cluster: next }
  - { match: { service: \"*\", method: \"*\" }, cluster: next }
clusters: [ { name: next, endpoints: [ \"$next\" ], dubbo_extension: $extension } ]
limits: { dubbo_body_bytes: 64KiB }
";

/// Asks for all that may be told.
const SECOND: &str = "
listeners:
  - { name: rpc, tcp: 127.0.0.1:$rpc, protocol: dubbo }
  - { name: rpc-uds, unix: $dir/rpc.sock, protocol: dubbo }
routes:
  - { match: { service: com.demo.GreetService, group: g1, attachments: [ { name: tenant, exact: a } ] }, cluster: tenant }
  - { match: { service: com.demo.GreetService, group: g1 }, cluster: group }
  - { match: { service: \"*\", version: 9.9.9 }, cluster: group }
  - { match: { service: \"*\" }, cluster: rest }
clusters:
  - { name: tenant, endpoints: [ \"$up\" ] }
  - { name: group, endpoints: [ \"$up\" ] }
  - { name: rest, endpoints: [ \"$up\" ] }
";

fn first(driver: Driver, next: &str, extension: bool) -> Sidecar {
    let extension = extension.to_string();
    // One worker, so that one connection leads to the next sidecar.
    Sidecar::start_with(driver, FIRST, &[("next", next), ("extension", &extension)], &["--workers", "1"])
}

fn second(driver: Driver, service: &Service) -> Sidecar {
    Sidecar::start_with(driver, SECOND, &[("up", &service.endpoint)], &["--workers", "1"])
}

/// How often each source decided: extension, strings, skipper.
fn sources(sidecar: &Sidecar) -> [f64; 3] {
    ["extension", "strings", "skipper"].map(|source| key_source(sidecar, source))
}

fn the_next_sidecar_is_told_over_tcp(driver: Driver) {
    let service = echo_provider();
    let second = second(driver, &service);
    let next = format!("tcp:{}", second.tcp("rpc"));
    the_next_sidecar_is_told(driver, &second, &next, "rpc");
}

fn the_next_sidecar_is_told_over_a_unix_socket(driver: Driver) {
    let service = echo_provider();
    let second = second(driver, &service);
    let next = format!("unix:{}", second.path("rpc.sock").display());
    the_next_sidecar_is_told(driver, &second, &next, "rpc-uds");
}

fn the_next_sidecar_is_told(driver: Driver, second: &Sidecar, next: &str, listener: &str) {
    let first = first(driver, next, true);
    let mut wire = first.connect("rpc");
    let mut ask = |serialization, attachments: &[(&str, &str)]| {
        let call = Invocation { attachments, ..invocation("a") };
        assert_eq!(super::ask(&mut wire, &request(7, true, serialization, &call)).value(), "a");
    };
    // The first request goes ahead of the answer to the offer, in the ordinary form; that answer is here before the request's.
    ask(serialization::HESSIAN2, &[("tenant", "a")]);
    assert_eq!(sources(second), [0.0, 0.0, 1.0]);
    for serialization in [serialization::HESSIAN2, serialization::FASTJSON2] {
        ask(serialization, &[("tenant", "a")]);
        ask(serialization, &[("tenant", "b")]);
        ask(serialization, &[]);
    }
    assert_eq!(sources(second), [6.0, 0.0, 1.0], "nothing was walked over again");
    assert_eq!(sources(&first), [0.0, 0.0, 7.0]);
    let clusters = ["tenant", "group", "rest"].map(|cluster| second.requests(listener, cluster, 20));
    assert_eq!(clusters, [3.0, 4.0, 0.0], "as told");
}

fn what_an_app_says_reaches_the_next_sidecar(driver: Driver) {
    let service = echo_provider();
    let second = second(driver, &service);
    let first = first(driver, &format!("tcp:{}", second.tcp("rpc")), true);
    let client = Client::builder()
        .hang_timeout(crate::process::PATIENCE)
        .socket(first.path("apps.sock"))
        .name("test")
        .connect()
        .expect("it attaches");
    let key = DubboKey {
        service: "com.demo.GreetService",
        method: "sayHello",
        group: Some("g2"),
        version: Some("1.0.0"),
        tag: None,
    };
    for id in 0..3 {
        // The app says g2, and its word counts.
        let response = client.call(Request::dubbo(key, &call(id, "a"))).expect("an answer");
        assert_eq!(Frame::parse(&response.body).value(), "a");
    }
    assert_eq!(key_source(&first, "record"), 3.0);
    assert_eq!(sources(&second), [2.0, 0.0, 1.0]);
    let clusters = ["group", "rest"].map(|cluster| second.requests("rpc", cluster, 20));
    assert_eq!(clusters, [1.0, 2.0], "the frame says g1");
}

fn the_provider_gets_what_the_consumer_wrote(driver: Driver) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let list = seen.clone();
    let service = provider(move |frame, wire| {
        list.lock().expect("no panic").push(frame.clone());
        if frame.header.two_way {
            let mut answer = Frame::parse(&vectors()["RESP_OK4"]);
            answer.header.id = frame.header.id;
            wire.send(answer.bytes());
        }
    });
    let second = second(driver, &service);
    let first = first(driver, &format!("tcp:{}", second.tcp("rpc")), true);
    let mut wire = first.connect("rpc");
    ask(&mut wire, &call(1, "so that they have agreed"));
    let sent: Vec<Frame> = vectors()
        .into_values()
        .map(|bytes| Frame::parse(&bytes))
        .filter(|frame| frame.header.request && !frame.header.event && frame.header.two_way)
        .filter(|frame| [serialization::HESSIAN2, serialization::FASTJSON2].contains(&frame.header.serialization))
        .collect();
    assert!(sent.len() >= 5, "{}", sent.len());
    for frame in &sent {
        ask(&mut wire, &frame.bytes());
    }
    assert_eq!(key_source(&second, "extension") + key_source(&second, "skipper"), 1.0 + sent.len() as f64);
    assert!(key_source(&second, "extension") > 0.0);
    let seen = seen.lock().expect("no panic");
    for (sent, seen) in sent.iter().zip(&seen[1..]) {
        let mut header = seen.header;
        header.id = sent.header.id;
        assert_eq!((header, &seen.body), (sent.header, &sent.body), "only the id may differ");
    }
}

fn nobody_gets_an_extended_frame_who_did_not_agree(driver: Driver) {
    type Answer = fn(&Frame) -> Option<Vec<u8>>;
    // As Java answers, as Go and MOSN do, not at all, and one that knows another version only.
    let answers: [Answer; 4] = [
        |offer| {
            let mut out = Vec::new();
            write_heartbeat_reply(&mut out, &offer.header);
            Some(out)
        },
        |offer| {
            let mut header = offer.header;
            (header.request, header.two_way, header.status, header.body_len) = (false, false, 20, 2);
            Some([&header.encode()[..], b"NN"].concat())
        },
        |_| None,
        |offer| {
            let mut out = Vec::new();
            write_extension_answer(&mut out, &offer.header);
            *out.last_mut().expect("a digit") = b'2';
            Some(out)
        },
    ];
    for (at, answer) in answers.into_iter().enumerate() {
        let offers = Arc::new(Mutex::new(0));
        let count = offers.clone();
        let service = provider(move |frame, wire| {
            if frame.header.event {
                assert!(is_of_extension_offer(&frame.header));
                *count.lock().expect("no panic") += 1;
                if let Some(answer) = answer(&frame) {
                    wire.send(answer);
                }
            } else {
                assert_eq!(frame.header.serialization, serialization::HESSIAN2);
                wire.send(frame.echo());
            }
        });
        for (extension, expected) in [(false, 0), (true, 1)] {
            let sidecar = first(driver, &service.endpoint, extension);
            let mut wire = sidecar.connect("rpc");
            for id in 0..10 {
                assert_eq!(ask(&mut wire, &call(id, "a")).value(), "a", "{at}");
            }
            assert_eq!(*offers.lock().expect("no panic"), expected, "one for each connection, where configured");
        }
    }
}

/// A request with an extension header in front of its body.
fn extended(id: u64, plain: &[u8], write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = Frame::parse(plain);
    let mut body = Vec::new();
    write(&mut body);
    body.extend(&frame.body);
    frame.header.serialization = serialization::EXTENSION;
    frame.header.id = id;
    frame.header.body_len = body.len() as u32;
    frame.body = body;
    frame.bytes()
}

fn header(service: &str, method: &str, version: &str, group: &str) -> impl FnOnce(&mut Vec<u8>) {
    move |out| {
        let mut writer = ExtensionWriter::new(out, serialization::HESSIAN2, service.as_bytes(), method.as_bytes());
        writer.version(version.as_bytes());
        writer.group(group.as_bytes());
        writer.attachment("tenant", None);
        writer.tag(b"");
        assert!(writer.finish());
    }
}

const GREET: [&str; 3] = ["com.demo.GreetService", "sayHello", "1.0.0"];

fn a_stray_extended_frame_is_status_40(driver: Driver) {
    let service = echo_provider();
    let sidecar = second(driver, &service);
    for mut wire in [sidecar.connect("rpc"), Wire::unix(&sidecar.path("rpc.sock"))] {
        let plain = call(1, "a");
        let [service, method, version] = GREET;
        let stray = extended(5, &plain, header(service, method, version, "g1"));
        let (status, sentence) = ask(&mut wire, &stray).error();
        assert_eq!(status, 40, "{sentence}");
        // One that wants no answer gets none, and is not forwarded; no other than the next call is answered.
        let mut one_way = stray;
        one_way[2] &= !0x40;
        wire.send(&one_way);
        assert_eq!(ask(&mut wire, &plain).value(), "a");
    }
    assert_eq!(sidecar.metric("shmesh_dubbo_malformed_total"), 4.0);
    assert_eq!(service.accepted(), 1);
}

fn an_extended_frame_must_say_what_its_body_says(driver: Driver) {
    let service = echo_provider();
    let sidecar = second(driver, &service);
    let mut wire = sidecar.connect("rpc");
    let mut offer = Vec::new();
    write_extension_offer(&mut offer);
    wire.send(&offer);
    let answer = read_frame(&mut wire).expect("an answer");
    assert!(agrees_to_extension(&answer.header, &answer.body), "{answer:?}");
    assert_eq!(event(&answer.header, &answer.body), shmesh_proto::dubbo::Event::Heartbeat);

    let plain = call(1, "a");
    let [path, method, version] = GREET;
    let good = extended(2, &plain, header(path, method, version, "g1"));
    assert_eq!(ask(&mut wire, &good).value(), "a");
    for wrong in [
        header("com.demo.Other", method, version, "g1"),
        header(path, "other", version, "g1"),
        header(path, method, "9.9.9", "g1"),
        header(path, method, "", "g1"),
    ] {
        assert_eq!(ask(&mut wire, &extended(3, &plain, wrong)).error().0, 40);
    }
    for broken in [&b""[..], b"\x40", b"\x40\x01\x00\x06\x02\x00", b"\x40\x01\xff\xff\x02\x00"] {
        assert_eq!(ask(&mut wire, &extended(4, &plain, |out| out.extend(broken))).error().0, 40, "{broken:?}");
    }
    // What the header does not say is looked for in the body: its group is g1, it has no tenant.
    let silent = extended(5, &plain, |out| {
        let mut writer = ExtensionWriter::new(out, serialization::HESSIAN2, path.as_bytes(), method.as_bytes());
        writer.version(version.as_bytes());
        assert!(writer.finish());
    });
    assert_eq!(ask(&mut wire, &silent).value(), "a");
    // Its word is taken for what lies behind the arguments, as that of a record is.
    let elsewhere = extended(6, &plain, header(path, method, version, "g3"));
    assert_eq!(ask(&mut wire, &elsewhere).value(), "a");
    assert_eq!(ask(&mut wire, &plain).value(), "a", "an ordinary one");
    let clusters = ["tenant", "group", "rest"].map(|cluster| sidecar.requests("rpc", cluster, 20));
    assert_eq!(clusters, [0.0, 3.0, 1.0]);
    assert_eq!(sources(&sidecar), [2.0, 0.0, 2.0]);
}

fn a_frame_at_the_limit_goes_as_it_is(driver: Driver) {
    let service = echo_provider();
    let second = second(driver, &service);
    let first = first(driver, &format!("tcp:{}", second.tcp("rpc")), true);
    let mut wire = first.connect("rpc");
    ask(&mut wire, &call(1, "so that they have agreed"));
    let beside = call(1, &"x".repeat(60_000)).len() - 16 - 60_000;
    let text = "x".repeat(64 * 1024 - beside);
    let largest = call(2, &text);
    assert_eq!(largest.len() - 16, 64 * 1024);
    assert_eq!(ask(&mut wire, &largest).value(), text);
    assert_eq!(sources(&second), [0.0, 0.0, 2.0]);
    assert_eq!(ask(&mut wire, &call(3, &text[..30_000])).value(), text[..30_000]);
    assert_eq!(sources(&second), [1.0, 0.0, 2.0]);
}
