//! Sends for whose end nobody waits.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use shmesh_io::{Chunks, Driver, Event, Slice, Wait};

use crate::harness::{Family, Kind, Subject, assert_same, noise};

/// Rounds of question and answer.
const ROUNDS: usize = 20;

fn send_unawaited(driver: &mut dyn Driver, sock: shmesh_io::SockId, pieces: &[&[u8]]) {
    let mut chunks = Chunks::new();
    for piece in pieces {
        chunks.push(Slice::from_vec(piece.to_vec()));
    }
    driver.send_unawaited(sock, chunks);
}

/// Only what the peer sends back ends the wait; that the question has left is told before.
pub fn are_told_with_what_comes_next(kind: Kind, family: Family) {
    let mut subject = Subject::new(kind);
    let (sock, mut peer) = subject.accepted(family, 1);
    subject.driver.start_recv(sock);
    let answering = thread::spawn(move || {
        for _ in 0..ROUNDS {
            let mut question = [0; 8];
            peer.read_exact(&mut question).unwrap();
            assert_eq!(&question, b"question");
            thread::sleep(Duration::from_millis(2));
            peer.write_all(b"answer").unwrap();
        }
    });
    let mut together = 0;
    for round in 0..ROUNDS {
        // Of one chunk and of several.
        let pieces: &[&[u8]] = if round % 2 == 0 { &[b"question"] } else { &[b"que", b"sti", b"on"] };
        send_unawaited(&mut *subject.driver, sock, pieces);
        let first = subject.next();
        assert!(matches!(first, Event::Sent { result: Ok(8), .. }), "{first:?}");
        together += usize::from(!subject.events.is_empty());
        assert_eq!(subject.receive(sock, 6), b"answer");
    }
    subject.join(answering).unwrap();
    // A wait may end early, for no reason at all; but not each time. (In a simulated world nobody waits for the peer's thread.)
    assert!(together > 0 || kind == Kind::Sim, "each wait ended because of a send");
}

pub fn are_told_without_a_wait(kind: Kind, family: Family) {
    let mut subject = Subject::new(kind);
    let (sock, mut peer) = subject.accepted(family, 1);
    send_unawaited(&mut *subject.driver, sock, &[b"words"]);
    subject.turn(Wait::Now);
    assert_eq!(subject.sent(sock).unwrap(), 5);
    send_unawaited(&mut *subject.driver, sock, &[b" and ", b"more"]);
    subject.driver.shutdown_write(sock);
    assert_eq!(subject.sent(sock).unwrap(), 9);
    assert_eq!(peer.read_all(), b"words and more");
}

/// More than fits into the socket: it is sent on as the peer reads, and told when all has left.
pub fn that_find_no_room_are_sent_on(kind: Kind, family: Family) {
    let mut subject = Subject::new(kind);
    let (sock, mut peer) = subject.accepted(family, 1);
    let bytes = noise(21, 7_000_000);
    let (front, back) = bytes.split_at(3_000_000);
    send_unawaited(&mut *subject.driver, sock, &[front, back]);
    subject.driver.shutdown_write(sock);
    for _ in 0..3 {
        subject.turn(Wait::Now);
    }
    let reader = thread::spawn(move || peer.read_all());
    assert_eq!(subject.sent(sock).unwrap(), 7_000_000);
    assert_same(&subject.join(reader).unwrap(), &bytes);
}

pub fn that_fail_say_so(kind: Kind, family: Family) {
    let mut subject = Subject::new(kind);
    let (sock, peer) = subject.accepted(family, 1);
    drop(peer);
    // The first may still find room before the peer's refusal is known.
    for _ in 0..100 {
        send_unawaited(&mut *subject.driver, sock, &[&[7; 1000]]);
        if subject.sent(sock).is_err() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("a peer that is gone took everything");
}

/// Each of many in one turn, some of which have no room, is told once and for itself.
pub fn are_told_apart(kind: Kind, family: Family) {
    let mut subject = Subject::new(kind);
    let bytes = noise(22, 5_000_000);
    let mut pairs: Vec<_> = (0..6).map(|tag| subject.accepted(family, tag)).collect();
    for (number, (sock, _)) in pairs.iter().enumerate() {
        if number % 3 == 1 {
            send_unawaited(&mut *subject.driver, *sock, &[&bytes]);
        } else {
            send_unawaited(&mut *subject.driver, *sock, &[b"short"]);
        }
    }
    // What is closed at once may have left, or not, and is not told.
    let (closed, _) = pairs.pop().unwrap();
    subject.driver.close(closed);
    for (number, (sock, mut peer)) in pairs.into_iter().enumerate() {
        let long = number % 3 == 1;
        let reader = thread::spawn(move || peer.read_all());
        assert_eq!(subject.sent(sock).unwrap(), if long { 5_000_000 } else { 5 });
        subject.driver.close(sock);
        subject.turn(Wait::Now);
        let got = subject.join(reader).unwrap();
        if long { assert_same(&got, &bytes) } else { assert_eq!(got, b"short") }
    }
    subject.assert_quiet(Duration::from_millis(3));
}
