//! Bodies in serializations of which only the strings in front are read, or nothing.

use shmesh_proto::dubbo::{FrameHeader, serialization, status};

use super::{Frame, ask, provider};
use crate::sidecar::{Driver, Sidecar};

on_each_driver!(strings_decide_in_every_serialization_of_dubbo_2, what_is_not_read_goes_where_nothing_is_asked);

/// The group is asked for in one route only.
const CONFIG: &str = "
listeners: [ { name: rpc, tcp: 127.0.0.1:$rpc, protocol: dubbo } ]
routes:
  - { match: { service: com.demo.GreetService, method: say*, version: 1.0.0 }, cluster: greeter }
  - { match: { service: com.demo.Grouped, group: g1 }, cluster: greeter }
clusters: [ { name: greeter, endpoints: [ \"$up\" ] } ]
";

/// A provider that answers with the body that it got, as it is.
fn mirror() -> crate::service::Service {
    provider(|frame, wire| {
        let header = FrameHeader { request: false, two_way: false, status: status::OK, ..frame.header };
        wire.send(Frame { header, ..frame }.bytes());
    })
}

fn request(serialization: u8, id: u64, body: Vec<u8>) -> Frame {
    let body_len = body.len() as u32;
    let header = FrameHeader { request: true, two_way: true, event: false, serialization, status: 0, id, body_len };
    Frame { header, body }
}

/// Bodies of calls of com.demo.GreetService, version 1.0.0, that Dubbo wrote.
fn bodies() -> Vec<(u8, Vec<u8>)> {
    let lines = include_str!("../../vectors/serializations.txt").lines();
    let greetings = lines.filter(|line| line.contains(" 636f6d2e64656d6f2e477265657453657276696365/ "));
    let parse = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let hex = words[3].as_bytes().chunks(2);
        let bytes = hex.map(|two| u8::from_str_radix(str::from_utf8(two).expect(line), 16).expect(line));
        (words[0].parse().expect(line), bytes.collect())
    };
    greetings.map(parse).collect()
}

fn strings_decide_in_every_serialization_of_dubbo_2(driver: Driver) {
    let service = mirror();
    let sidecar = Sidecar::start(driver, CONFIG, &[("up", &service.endpoint)]);
    let mut wire = sidecar.connect("rpc");
    let bodies = bodies();
    assert_eq!(bodies.len(), 6);
    for (id, (serialization, body)) in (1..).zip(bodies) {
        let call = request(serialization, id, body);
        let answer = ask(&mut wire, &call.bytes());
        assert_eq!((answer.header.id, answer.header.serialization, answer.header.status), (id, serialization, 20));
        assert_eq!(answer.body, call.body, "{serialization}");
        // The same for a service that no route has, and for one whose group would have to be known.
        for (name, status, sentence) in
            [("com.demo.GreetServicE", 60, "shmesh: no route"), ("com.demo.Grouped", 40, "shmesh: the routes ask for")]
        {
            let Some(body) = renamed(serialization, &call.body, name) else { continue };
            let answer = ask(&mut wire, &request(serialization, id, body).bytes());
            let (told, why) = answer.error();
            assert_eq!(told, status, "{serialization} {name}: {why}");
            assert!(why.starts_with(sentence), "{serialization} {name}: {why}");
        }
    }
    assert_eq!(sidecar.metric("shmesh_dubbo_malformed_total"), 0.0, "none of these broke the protocol");
}

/// The body with another path, where it is written with its length in front of it.
fn renamed(serialization: u8, body: &[u8], name: &str) -> Option<Vec<u8>> {
    let old = b"com.demo.GreetService";
    let (len, wide) = match serialization {
        serialization::PROTOSTUFF => (4, true),
        serialization::FST => (1, false),
        _ => return None,
    };
    let at = body.windows(old.len()).position(|window| window == old).expect("the path");
    let length = if wide { (name.len() as u32).to_be_bytes().to_vec() } else { vec![name.len() as u8] };
    Some([&body[..at - len], &length, name.as_bytes(), &body[at + old.len()..]].concat())
}

fn what_is_not_read_goes_where_nothing_is_asked(driver: Driver) {
    let service = mirror();
    let unread = request(serialization::GSON, 7, b"\"2.0.2\"\n\"com.demo.GreetService\"\n".to_vec());
    let sidecar = Sidecar::start(driver, CONFIG, &[("up", &service.endpoint)]);
    let (status, sentence) = ask(&mut sidecar.connect("rpc"), &unread.bytes()).error();
    assert_eq!(status, 40, "{sentence}");
    assert!(sentence.contains("does not read in this serialization"), "{sentence}");
    let open = CONFIG.replace("routes:\n", "routes:\n  - { match: {}, cluster: greeter }\n");
    let sidecar = Sidecar::start(driver, &open, &[("up", &service.endpoint)]);
    let answer = ask(&mut sidecar.connect("rpc"), &unread.bytes());
    assert_eq!((answer.header.id, answer.header.status, &answer.body), (7, 20, &unread.body));
}
