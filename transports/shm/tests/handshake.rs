//! Messages over a real socket pair, with descriptors; and bytes that are no messages.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use proptest::prelude::*;
use shmesh_shm::handshake::{
    self, Endpoints, HandshakeError, Hello, LaneInfo, Lookup, MESSAGE_HEADER_BYTES, Message, Policy, Refused, Welcome,
};
use shmesh_shm::{Geometry, Protocol, segment};

fn hello() -> Hello {
    Hello { version_min: 1, version_max: 3, calling_lanes: 8, serving: true, features: 0, name: "orders".into() }
}

fn welcome(lanes: u16) -> Welcome {
    let lane = |i: u16| LaneInfo { serving: i.is_multiple_of(3), worker: (i % 4) as u8, bit: (i / 4) as u8 };
    Welcome {
        version: 1,
        workers: 4,
        features: 0,
        geometry: Geometry::default(),
        lanes: (0..lanes).map(lane).collect(),
    }
}

fn all() -> Vec<Message> {
    vec![
        Message::Hello(hello()),
        Message::Hello(Hello { serving: false, name: String::new(), ..hello() }),
        Message::Welcome(welcome(7)),
        Message::Refused(Refused { code: 1, version_min: 1, version_max: 1, sentence: "shm 1 is spoken here".into() }),
        Message::Lookup(Lookup { id: 9, protocol: Protocol::Dubbo2, key: b"\x01\x01\x00s".to_vec() }),
        Message::Endpoints(Endpoints { id: 9, endpoints: vec!["tcp:127.0.0.1:80".into(), "unix:/run/x".into()] }),
        Message::Endpoints(Endpoints { id: 10, endpoints: vec![] }),
        Message::GoAway,
        Message::Policy(11, policy()),
        Message::ServesAt("/run/shmesh/orders.app.sock".into()),
    ]
}

fn policy() -> Policy {
    Policy {
        endpoints: vec!["tcp:10.0.0.1:80".into(), "tcp:reviews:80".into()],
        app_sockets: vec!["unix:/run/orders".into()],
        listeners: vec!["unix:/run/http".into()],
        central_proxy: Some("tcp:10.0.0.9:15001".into()),
        connect_timeout: Some(Duration::from_millis(1000)),
        first_byte_timeout: Some(Duration::from_secs(15)),
        request_timeout: None,
        attempts: Some(2),
        idempotent: Some(false),
        priority: None,
    }
}

fn encoded(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes).unwrap();
    bytes
}

/// What another version of this code must read, byte by byte.
#[test]
fn a_policy_has_these_bytes() {
    let golden: [&[u8]; 11] = [
        b"SHMS\x07\0\x01\0\x8a\0\0\0\0\0\0\0",
        b"\x0b\0\0\0",
        b"\x01\0\x0f\0tcp:10.0.0.1:80",
        b"\x01\0\x0e\0tcp:reviews:80",
        b"\x07\0\x0e\0unix:/run/http",
        b"\x09\0\x10\0unix:/run/orders",
        b"\x08\0\x12\0tcp:10.0.0.9:15001",
        b"\x02\0\x08\0\x40\x42\x0f\0\0\0\0\0",
        b"\x03\0\x08\0\xc0\xe1\xe4\0\0\0\0\0",
        b"\x05\0\x04\0\x02\0\0\0",
        b"\x06\0\x01\0\0",
    ];
    assert_eq!(encoded(&Message::Policy(11, policy())), golden.concat());
}

#[test]
fn fields_of_a_policy_that_are_not_known_are_skipped() {
    let read = |fields: &[&[u8]]| Policy::decode(&fields.concat());
    let known: &[u8] = b"\x05\0\x04\0\x03\0\0\0";
    let expected = Policy { attempts: Some(3), ..Policy::default() };
    assert_eq!(read(&[b"\xff\xff\x02\0xx", known, b"\x63\0\0\0"]), Ok(expected));
    for broken in
        [&b"\x05\0\x05\0\x03\0\0\0\0"[..], b"\x05\0\x04\0\x03", b"\x05", b"\x06\0\x01\0\x02", b"\x01\0\x01\0\xff"]
    {
        assert!(Policy::decode(broken).is_err(), "{broken:?}");
    }
}

#[test]
fn a_path_that_no_socket_can_have_is_not_told() {
    for path in ["", "relative", "/with\0nul", &format!("/{}", "a".repeat(107))] {
        let mut bytes = Vec::new();
        assert!(Message::ServesAt(path.into()).encode(&mut bytes).is_err(), "{path:?}");
        assert!(bytes.is_empty());
    }
}

#[test]
fn messages_come_back_from_one_stream_however_it_is_cut() {
    let stream: Vec<u8> = all().iter().flat_map(encoded).collect();
    for step in [1, 2, 7, 100, stream.len()] {
        let (mut buffer, mut got) = (Vec::new(), Vec::new());
        for piece in stream.chunks(step) {
            buffer.extend_from_slice(piece);
            while let Some((message, used)) = Message::decode(&buffer).unwrap() {
                buffer.drain(..used);
                got.push(message);
            }
        }
        assert_eq!((got, buffer.len()), (all(), 0), "in pieces of {step}");
    }
}

#[test]
fn the_bytes_of_hello_are_those_of_the_page() {
    let bytes = encoded(&Message::Hello(hello()));
    let mut want = b"SHMS\x01\x00\x01\x00\x18\x00\x00\x00\x00\x00\x00\x00".to_vec();
    want.extend_from_slice(b"\x01\x00\x03\x00\x08\x00\x01\x00\0\0\0\0\0\0\0\0\x06\x00orders");
    assert_eq!(bytes, want);
}

#[test]
fn a_welcome_with_the_most_descriptors_arrives_whole() {
    let welcome = Welcome { workers: 32, ..welcome(200) };
    let message = Message::Welcome(welcome.clone());
    let (sidecar, app) = UnixStream::pair().unwrap();
    let memfd = segment::create("handed", 4096).unwrap();
    let marks: Vec<OwnedFd> = (0..welcome.descriptors()).map(|_| memfd.try_clone().unwrap()).collect();
    let borrowed: Vec<_> = marks.iter().map(AsFd::as_fd).collect();
    let bytes = encoded(&message);
    assert_eq!(handshake::send(sidecar.as_fd(), &bytes, &borrowed).unwrap(), bytes.len());

    let (mut buffer, mut descriptors) = (Vec::new(), Vec::new());
    let got = loop {
        let mut piece = [0; 100];
        let len = handshake::receive(app.as_fd(), &mut piece, &mut descriptors).unwrap();
        buffer.extend_from_slice(&piece[..len]);
        if let Some((message, _)) = Message::decode(&buffer).unwrap() {
            break message;
        }
    };
    assert_eq!(got, message);
    assert_eq!(descriptors.len(), 234);
    File::from(memfd).write_all(b"same").unwrap();
    let mut file = File::from(descriptors.pop().unwrap());
    file.rewind().unwrap();
    let mut text = [0; 4];
    file.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"same");
}

#[test]
fn the_end_of_the_peer_reads_as_nothing() {
    let (sidecar, app) = UnixStream::pair().unwrap();
    drop(sidecar);
    let mut descriptors = Vec::new();
    assert_eq!(handshake::receive(app.as_fd(), &mut [0; 16], &mut descriptors).unwrap(), 0);
    assert!(handshake::send(app.as_fd(), b"x", &[]).is_err(), "an error, and no SIGPIPE");
}

#[test]
fn what_is_not_a_message_has_its_reason() {
    let good = encoded(&Message::Hello(hello()));
    let changed = |message: &[u8], at: usize, value: u8| {
        let mut bytes = message.to_vec();
        bytes[at] = value;
        Message::decode(&bytes).map(|_| ())
    };
    assert_eq!(changed(&good, 0, b'G'), Err(HandshakeError::Magic));
    assert_eq!(changed(&good, 4, 99), Err(HandshakeError::Type(99)));
    assert_eq!(changed(&good, 6, 9), Ok(()), "HELLO settles versions, so any version may send it");
    assert_eq!(changed(&good, 10, 2), Err(HandshakeError::TooLong((2 << 16) + 0x18)));
    assert_eq!(changed(&good, 16, 4), Err(HandshakeError::Range), "version_min over version_max");
    assert_eq!(changed(&good, 22, 2), Err(HandshakeError::Range), "serving is 0 or 1");
    assert_eq!(changed(&good, 32, 7), Err(HandshakeError::Length));
    assert_eq!(changed(&good, 32, 5), Err(HandshakeError::Length));
    assert_eq!(changed(&good, 34, 0xff), Err(HandshakeError::Text));

    let welcome = encoded(&Message::Welcome(welcome(7)));
    assert_eq!(changed(&welcome, 6, 2), Err(HandshakeError::Version(2)));
    assert_eq!(changed(&welcome, 18, 0), Err(HandshakeError::Range), "no workers");
    assert_eq!(changed(&welcome, 18, 33), Err(HandshakeError::Range), "too many workers");
    assert!(matches!(changed(&welcome, 32, 3), Err(HandshakeError::Geometry(_))), "entries");
    let release_entries = 16 + 16 + 28;
    assert_eq!(changed(&welcome, release_entries, 1), Err(HandshakeError::Range));
    let first_lane = release_entries + 4;
    assert_eq!(changed(&welcome, first_lane + 1, 4), Err(HandshakeError::Range), "a worker that is not");
    assert_eq!(changed(&welcome, first_lane + 2, 64), Err(HandshakeError::Range), "a bit that is not");
}

#[test]
fn what_would_not_decode_is_not_sent() {
    let mut out = b"kept".to_vec();
    let long = "x".repeat(65);
    for name in ["", &long] {
        let hello = Message::Hello(Hello { name: name.into(), ..hello() });
        assert_eq!(hello.encode(&mut out), Err(HandshakeError::Text));
    }
    let key = Message::Lookup(Lookup { id: 1, protocol: Protocol::Http, key: vec![b'a'; 65_536] });
    assert!(matches!(key.encode(&mut out), Err(HandshakeError::TooLong(_))));
    let lanes = Message::Welcome(welcome(201));
    assert_eq!(lanes.encode(&mut out), Err(HandshakeError::Range));
    assert_eq!(out, b"kept");
}

proptest! {
    #[test]
    fn any_bytes_are_survived(
        which in 0usize..8,
        changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..8),
        cut in any::<usize>(),
    ) {
        let mut bytes = encoded(&all()[which]);
        let len = bytes.len();
        for (at, value) in changes {
            bytes[at % len] = value;
        }
        bytes.truncate(cut % (len + 1));
        if let Ok(Some((message, used))) = Message::decode(&bytes) {
            prop_assert!(used >= MESSAGE_HEADER_BYTES && used <= bytes.len());
            prop_assert!(message.encode(&mut Vec::new()).is_ok(), "what decodes can be encoded");
        }
    }
}
