//! Connections begin and end as they should, and are reported once.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use shmesh_io::{Chunks, Event, PeerAddr, Target, Wait};

use crate::harness::{Family, Kind, Peer, Subject, empty_place, fresh_path, limit_backlog_to_one, noise, place};

pub fn accepts_with_tag_and_peer(kind: Kind, family: Family) {
    let mut subject = Subject::new(kind);
    let (listener, place) = place(kind, family);
    subject.driver.listen(listener, 77).unwrap();
    let peers: Vec<Peer> = (0..100).map(|_| Peer::connect(&place.dial)).collect();
    for _ in &peers {
        let Event::Accepted { tag, sock, peer } = subject.next() else {
            panic!("only connections arrive");
        };
        assert_eq!(tag, 77);
        match (family, peer) {
            (Family::Unix, PeerAddr::Unix) => {}
            (Family::Tcp, PeerAddr::Tcp(addr)) => {
                assert!(peers.iter().any(|peer| peer.local_addr() == Some(addr)));
            }
            other => panic!("{other:?}"),
        }
        subject.driver.set_tag(sock, 78);
        subject.driver.start_recv(sock);
    }
    for mut peer in peers {
        peer.write_all(b"x").unwrap();
        let tag = subject.find(|event| match event {
            Event::Received { tag, .. } => Some(*tag),
            _ => None,
        });
        assert_eq!(tag, 78);
    }
}

pub fn connects(kind: Kind, family: Family) {
    let mut subject = Subject::new(kind);
    let (listener, place) = place(kind, family);
    let sock = subject.driver.connect(&place.target, 5).unwrap();
    let Event::Connected { tag, sock: id, result } = subject.next() else {
        panic!("only the connection arrives");
    };
    result.unwrap();
    assert_eq!((tag, id), (5, sock));
    let mut peer = Peer::accept(kind, family, &listener);
    subject.driver.start_recv(sock);
    subject.send(sock, b"ping");
    assert_eq!(subject.sent(sock).unwrap(), 4);
    let mut ping = [0; 4];
    peer.read_exact(&mut ping).unwrap();
    peer.write_all(b"pong").unwrap();
    assert_eq!(subject.receive(sock, 4), b"pong");
}

pub fn reports_a_refused_connect_once(kind: Kind, family: Family) {
    let mut subject = Subject::new(kind);
    let place = empty_place(kind, family);
    let sock = subject.driver.connect(&place.target, 5).unwrap();
    let error = subject.connected(sock).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    subject.assert_quiet(Duration::from_millis(5));
    subject.driver.close(sock);
    subject.assert_quiet(Duration::from_millis(5));
    if family == Family::Unix {
        let missing = Target::Unix(fresh_path());
        let sock = subject.driver.connect(&missing, 5).unwrap();
        let error = subject.connected(sock).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let too_long = Target::Unix("/x".repeat(100).into());
        subject.driver.connect(&too_long, 5).unwrap_err();
    }
}

pub fn connects_when_the_backlog_has_room_again(kind: Kind, family: Family) {
    // Unix only: a TCP connect that finds no room repeats its SYN after a second, which is nothing of ours.
    let mut subject = Subject::new(kind);
    let (listener, place) = place(kind, family);
    limit_backlog_to_one(kind, &listener);
    let socks: Vec<_> = (0..6).map(|i| subject.driver.connect(&place.target, i).unwrap()).collect();
    subject.turn(Wait::Now);
    subject.turn(Wait::Now);
    let mut peers = Vec::new();
    for _ in &socks {
        let result = subject.find(|event| match event {
            Event::Connected { result, .. } => Some(std::mem::replace(result, Ok(()))),
            _ => None,
        });
        result.unwrap();
        peers.push(Peer::accept(kind, family, &listener));
    }
    subject.assert_quiet(Duration::from_millis(5));
}

pub fn stops_and_resumes_accepting(kind: Kind, family: Family) {
    let mut subject = Subject::new(kind);
    let (listener, place) = place(kind, family);
    let listener = subject.driver.listen(listener, 1).unwrap();
    subject.turn(Wait::Now);
    subject.driver.stop_accept(listener);
    subject.turn(Wait::Now);
    subject.turn(Wait::Now);
    let mut peer = Peer::connect(&place.dial);
    subject.assert_quiet(Duration::from_millis(5));
    subject.driver.resume_accept(listener);
    // Told twice is as good as once.
    subject.driver.resume_accept(listener);
    let Event::Accepted { sock, .. } = subject.next() else {
        panic!("the connection was waiting");
    };
    subject.driver.start_recv(sock);
    peer.write_all(b"hello").unwrap();
    assert_eq!(subject.receive(sock, 5), b"hello");
    subject.driver.stop_accept(listener);
    subject.driver.resume_accept(listener);
    let _second = Peer::connect(&place.dial);
    let Event::Accepted { .. } = subject.next() else {
        panic!("accepting again");
    };
    subject.assert_quiet(Duration::from_millis(5));
}

pub fn reports_a_reset(kind: Kind, family: Family) {
    let mut subject = Subject::new(kind);
    let (sock, peer) = subject.accepted(family, 1);
    subject.driver.start_recv(sock);
    subject.turn(Wait::Now);
    if family == Family::Unix {
        // A Unix socket resets when it is closed with bytes unread.
        subject.send(sock, b"unread");
        subject.sent(sock).unwrap();
    }
    peer.reset();
    let (bytes, error) = subject.receive_all(sock);
    assert!(bytes.is_empty());
    assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::ConnectionReset));
    subject.assert_quiet(Duration::from_millis(5));
}

pub fn sends_a_reset(kind: Kind, family: Family) {
    let mut subject = Subject::new(kind);
    let (sock, mut peer) = subject.accepted(family, 1);
    subject.driver.start_recv(sock);
    subject.send(sock, b"half an answ");
    subject.sent(sock).unwrap();
    subject.driver.close_reset(sock);
    subject.assert_quiet(Duration::from_millis(5));
    let mut bytes = Vec::new();
    let end = peer.read_to_end(&mut bytes);
    if family == Family::Tcp {
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    } else {
        end.unwrap();
    }
}

pub fn reports_a_send_to_a_closed_peer_once(kind: Kind, family: Family) {
    let mut subject = Subject::new(kind);
    let (sock, peer) = subject.accepted(family, 1);
    drop(peer);
    // The first one over TCP may leave before the reset comes back.
    let mut error = None;
    for _ in 0..100 {
        subject.send(sock, b"is anybody there");
        match subject.sent(sock) {
            Ok(n) => assert_eq!(n, 16),
            Err(e) => {
                error = Some(e);
                break;
            }
        }
        subject.listen_for(Duration::from_millis(1));
    }
    let error = error.expect("nobody is there");
    assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
    subject.assert_quiet(Duration::from_millis(5));
    subject.driver.close(sock);
}

pub fn reports_nothing_of_a_closed_socket(kind: Kind, family: Family) {
    let mut subject = Subject::new(kind);
    // A completed send that was not reported yet.
    let (sock, _peer) = subject.accepted(family, 1);
    subject.send(sock, b"x");
    subject.driver.close(sock);
    subject.assert_quiet(Duration::from_millis(5));
    // Bytes that arrived.
    let (sock, mut peer) = subject.accepted(family, 1);
    subject.driver.start_recv(sock);
    subject.turn(Wait::Now);
    peer.write_all(b"x").unwrap();
    subject.driver.close(sock);
    subject.assert_quiet(Duration::from_millis(5));
    // A send that is stuck, and a receive.
    let (sock, mut peer) = subject.accepted(family, 1);
    subject.driver.start_recv(sock);
    subject.send(sock, &noise(1, 20_000_000));
    subject.turn(Wait::Now);
    subject.driver.close(sock);
    subject.assert_quiet(Duration::from_millis(5));
    let mut got = Vec::new();
    let _ = peer.read_to_end(&mut got);
    assert!(got.len() < 20_000_000);
    // A connect.
    let (_listener, place) = place(kind, family);
    let sock = subject.driver.connect(&place.target, 9).unwrap();
    subject.driver.close(sock);
    subject.assert_quiet(Duration::from_millis(5));
}

pub fn ignores_stale_names(kind: Kind, family: Family) {
    let mut subject = Subject::new(kind);
    let (stale, _peer) = subject.accepted(family, 1);
    subject.driver.close(stale);
    subject.turn(Wait::Now);
    subject.turn(Wait::Now);
    let (fresh, mut peer) = subject.accepted(family, 2);
    assert_ne!(stale, fresh);
    subject.driver.start_recv(stale);
    subject.driver.stop_recv(stale);
    subject.driver.send(stale, Chunks::from(subject.pool().append(b"x")));
    subject.driver.shutdown_write(stale);
    subject.driver.set_tag(stale, 99);
    subject.driver.stop_accept(stale);
    subject.driver.resume_accept(stale);
    subject.driver.close(stale);
    subject.driver.close_reset(stale);
    subject.assert_quiet(Duration::from_millis(5));
    subject.driver.start_recv(fresh);
    subject.send(fresh, b"fresh");
    assert_eq!(subject.sent(fresh).unwrap(), 5);
    let mut got = [0; 5];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"fresh");
    peer.write_all(b"y").unwrap();
    let Event::Received { tag, .. } = subject.next() else {
        panic!("a byte was sent");
    };
    assert_eq!(tag, 2);
}

pub fn refuses_to_send_before_it_is_connected(kind: Kind, family: Family) {
    let mut subject = Subject::new(kind);
    let (_listener, place) = place(kind, family);
    let sock = subject.driver.connect(&place.target, 9).unwrap();
    subject.send(sock, b"too early");
    let error = subject.sent(sock).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    subject.connected(sock).unwrap();
    subject.send(sock, b"in time");
    assert_eq!(subject.sent(sock).unwrap(), 7);
}
