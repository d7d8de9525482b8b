//! Drivers that let go of everything, and go on, or have another one go on.

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use shmesh_io::{Chunks, Event, Slice, SockId, Wait};

use crate::harness::{Family, Kind, PATIENCE, Peer, Subject, assert_same, noise, place};
use crate::landing::{Lane, landed, turn_until_lent, write_in_pieces};

/// Bytes each way.
const BYTES: usize = 600_000;

/// What follows a rest.
#[derive(Copy, Clone, PartialEq)]
enum Then {
    Resume,
    /// A driver of this kind goes on.
    Change(Kind),
}

pub fn goes_on_after_a_rest(kind: Kind, family: Family) {
    converses(kind, family, |_| Then::Resume);
}

pub fn another_driver_goes_on(kind: Kind, family: Family) {
    converses(kind, family, |_| Then::Change(kind));
}

/// The two real ones in turn, with going on in between.
pub fn drivers_take_over_from_each_other(kind: Kind, family: Family) {
    if kind == Kind::Sim || !Kind::Uring.is_possible() {
        return;
    }
    converses(kind, family, |rest| match (rest % 3, kind) {
        (0, _) => Then::Resume,
        (1, Kind::Epoll) | (2, Kind::Uring) => Then::Change(Kind::Uring),
        _ => Then::Change(Kind::Epoll),
    });
}

/// Sends and receives, stops and starts, with and without blocks; and rests every now and then. Nothing is lost, doubled or mixed up.
fn converses(kind: Kind, family: Family, then: impl Fn(usize) -> Then) {
    let mut rests = 0;
    for seed in 1..=6 {
        let choices = noise(seed, 1 << 16);
        let mut choices = choices.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap()) as usize).cycle();
        let mut choose = |below: usize| choices.next().unwrap() % below;
        let (mut subject, mut lane) = (Subject::new(kind), Lane::new());
        let (mut sock, peer) = subject.accepted(family, 1);
        let (to_peer, from_peer) = (noise(seed + 100, BYTES), noise(seed + 200, BYTES));
        let writing = peer.try_clone();
        let writer = write_whole(writing, from_peer.clone(), 1 + choose(40_000));
        let reader = read_slowly(peer, BYTES);
        let (mut got, mut put, mut left) = (Vec::new(), 0, 0);
        let (mut receiving, mut sending, mut ended) = (false, false, false);
        let deadline = Instant::now() + 3 * PATIENCE;
        while !ended || left < BYTES {
            assert!(Instant::now() < deadline, "seed {seed}: {} bytes came, {left} left", got.len());
            match choose(10) {
                0 => {
                    subject.driver.stop_recv(sock);
                    receiving = false;
                }
                1..=3 if !ended => {
                    subject.driver.start_recv(sock);
                    receiving = true;
                }
                4 => subject.driver.land(sock, lane.block(1 + choose(60_000))),
                5 | 6 => subject.driver.set_aside(sock),
                _ => {}
            }
            if !sending && put < BYTES {
                let most = (BYTES - put).min(1 + choose(300_000));
                let mut chunks = Chunks::new();
                for piece in to_peer[put..put + most].chunks(1 + most / (1 + choose(4))) {
                    chunks.push(Slice::from_vec(piece.to_vec()));
                }
                put += most;
                sending = true;
                if choose(2) == 0 {
                    subject.driver.send(sock, chunks);
                } else {
                    subject.driver.send_unawaited(sock, chunks);
                }
            }
            let rest = choose(6) == 0;
            if rest {
                subject.suspend();
            } else {
                let until = subject.driver.refresh_clock() + choose(300_000) as u64;
                subject.turn(if choose(2) == 0 { Wait::Now } else { Wait::Until(until) });
            }
            for event in std::mem::take(&mut subject.events) {
                match event {
                    Event::Received { data, .. } => got.extend_from_slice(&data),
                    Event::Landed { block, len, .. } => got.extend_from_slice(&lane.pass(block, len)),
                    Event::Ended { error: None, .. } => ended = true,
                    Event::Sent { result: Ok(_), .. } => {
                        sending = false;
                        left = put;
                    }
                    other => panic!("seed {seed}: {other:?}"),
                }
            }
            if rest {
                rests += 1;
                match then(rests) {
                    Then::Resume => subject.driver.resume(),
                    Then::Change(kind) => {
                        let known = hand_over(&mut subject, sock, kind);
                        sock = known.sock;
                        if receiving {
                            subject.driver.start_recv(sock);
                        }
                        assert_eq!(known.unsent > 0, sending, "seed {seed}: a send is told, or it is left");
                    }
                }
            }
        }
        assert_same(&got, &from_peer);
        assert_same(&subject.join(reader).unwrap(), &to_peer);
        subject.join(writer).unwrap();
        subject.driver.close(sock);
        turn_until_lent(&mut subject, &mut lane, 0);
    }
    assert!(rests > 0);
}

struct HandedOver {
    sock: SockId,
    /// Bytes.
    unsent: usize,
}

fn hand_over(subject: &mut Subject, sock: SockId, kind: Kind) -> HandedOver {
    let before = subject.change_driver(kind);
    let rest = before.at_rest(sock).unwrap();
    let socket = rest.socket.try_clone_to_owned().unwrap();
    let arrived: Vec<Slice> = rest.arrived.iter().map(|slice| Slice::from_vec(slice.to_vec())).collect();
    let end = rest.end.map(|error| error.map(|error| error.kind().into()));
    let mut chunks = Chunks::new();
    for chunk in rest.unsent.into_iter().flat_map(Chunks::iter) {
        let shmesh_io::Chunk::Private(slice) = chunk else { panic!("a block was sent") };
        chunks.push(Slice::from_vec(slice.to_vec()));
    }
    let unsent = chunks.len_bytes();
    let sock = subject.driver.adopt(socket, 1).unwrap();
    subject.driver.precede(sock, arrived, end);
    if unsent > 0 {
        subject.driver.send(sock, chunks);
    }
    drop(before);
    HandedOver { sock, unsent }
}

fn write_whole(peer: Peer, bytes: Vec<u8>, piece: usize) -> thread::JoinHandle<()> {
    let end = peer.try_clone();
    let writer = write_in_pieces(peer, bytes, piece);
    thread::spawn(move || {
        writer.join().unwrap();
        end.end_writing();
    })
}

/// Slowly, so that sends find no room.
fn read_slowly(mut peer: Peer, bytes: usize) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut got = Vec::new();
        let mut piece = vec![0; 20_000];
        while got.len() < bytes {
            let len = peer.read(&mut piece).unwrap();
            assert_ne!(len, 0, "the end after {} bytes", got.len());
            got.extend_from_slice(&piece[..len]);
            if got.len() % 7 == 0 {
                thread::sleep(Duration::from_micros(300));
            }
        }
        got
    })
}

/// A send that found no room is cut off between two bytes, and nothing of it leaves while the driver rests.
pub fn a_send_is_cut_off_and_gone_on_with(kind: Kind, family: Family) {
    let mut subject = Subject::new(kind);
    let (mut sock, peer) = subject.accepted(family, 1);
    let bytes = noise(31, 20_000_000);
    subject.send(sock, &bytes);
    subject.driver.shutdown_write(sock);
    subject.turn(Wait::Now);
    for _ in 0..3 {
        subject.suspend();
        let unsent = |subject: &Subject| subject.driver.at_rest(sock).unwrap().unsent.map_or(0, Chunks::len_bytes);
        let before = unsent(&subject);
        assert!(before > 0 && before < bytes.len(), "{before} bytes are left");
        subject.assert_quiet(Duration::from_millis(3));
        assert_eq!(unsent(&subject), before);
        subject.driver.resume();
        subject.turn(Wait::Now);
    }
    subject.suspend();
    let known = hand_over(&mut subject, sock, kind);
    sock = known.sock;
    subject.driver.shutdown_write(sock);
    let reader = read_slowly(peer, bytes.len());
    assert_eq!(subject.sent(sock).unwrap(), known.unsent as u64);
    assert_same(&subject.join(reader).unwrap(), &bytes);
}

/// What had arrived elsewhere comes before what arrives here, and only when it is wanted.
pub fn what_had_arrived_comes_first(kind: Kind, family: Family) {
    for ended in [false, true] {
        let mut subject = Subject::new(kind);
        let (before, mut peer) = subject.accepted(family, 1);
        subject.suspend();
        let old = subject.change_driver(kind);
        let socket = old.at_rest(before).unwrap().socket.try_clone_to_owned().unwrap();
        let arrived = vec![Slice::from_vec(b"one ".to_vec()), Slice::from_vec(b"two ".to_vec())];
        let end = ended.then(|| Some(std::io::ErrorKind::ConnectionReset.into()));
        let sock = subject.driver.adopt(socket, 1).unwrap();
        subject.driver.precede(sock, arrived, end);
        drop(old);
        if !ended {
            peer.write_all(b"three").unwrap();
        }
        subject.assert_quiet(Duration::from_millis(3));
        subject.driver.start_recv(sock);
        if ended {
            let (bytes, error) = subject.receive_all(sock);
            assert_eq!(bytes, b"one two ");
            assert_eq!(error.unwrap().kind(), std::io::ErrorKind::ConnectionReset);
        } else {
            assert_eq!(subject.receive(sock, 13), b"one two three");
        }
        subject.assert_quiet(Duration::from_millis(3));
    }
}

/// The peer sees the end while another process has the socket, too; a reset where it was cut. (In the simulation a close ends it for all.)
pub fn what_is_severed_ends_for_its_peer(kind: Kind, family: Family) {
    if kind == Kind::Sim {
        return;
    }
    for cut in [false, true] {
        let mut subject = Subject::new(kind);
        let (sock, mut peer) = subject.accepted(family, 1);
        subject.driver.start_recv(sock);
        subject.turn(Wait::Now);
        let copy = subject.driver.at_rest(sock).unwrap().socket.try_clone_to_owned().unwrap();
        subject.driver.sever(sock, cut);
        if cut {
            subject.driver.close_reset(sock);
        } else {
            subject.driver.close(sock);
        }
        subject.turn(Wait::Now);
        let mut bytes = Vec::new();
        let end = peer.read_to_end(&mut bytes);
        let is_reset = end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        assert_eq!((is_reset, bytes.len()), (cut && family == Family::Tcp, 0), "{end:?}");
        drop(copy);
    }
}

/// A socket that was set aside receives like any other, however that is interrupted, and is gone when it is closed. (The simulation sets nothing aside.)
pub fn what_is_set_aside_receives_all_the_same(kind: Kind, family: Family) {
    const A_WHILE: Duration = Duration::from_millis(3);
    if kind == Kind::Sim {
        return;
    }
    let mut subject = Subject::new(kind);
    let (sock, mut peer) = subject.accepted(family, 1);
    subject.driver.start_recv(sock);
    subject.turn(Wait::Now);
    let set_aside = |subject: &mut Subject| {
        subject.driver.set_aside(sock);
        subject.assert_quiet(A_WHILE);
    };
    for _ in 0..3 {
        set_aside(&mut subject);
        for bytes in [b"one", b"two"] {
            peer.write_all(bytes).unwrap();
            assert_eq!(subject.receive(sock, 3), bytes);
        }
    }
    set_aside(&mut subject);
    subject.driver.stop_recv(sock);
    peer.write_all(b"three").unwrap();
    subject.assert_quiet(A_WHILE);
    subject.driver.start_recv(sock);
    assert_eq!(subject.receive(sock, 5), b"three");
    set_aside(&mut subject);
    subject.suspend();
    peer.write_all(b"four").unwrap();
    subject.assert_quiet(A_WHILE);
    subject.driver.resume();
    assert_eq!(subject.receive(sock, 4), b"four");
    // Bytes that are there when it is set aside.
    peer.write_all(b"five").unwrap();
    subject.driver.set_aside(sock);
    assert_eq!(subject.receive(sock, 4), b"five");
    set_aside(&mut subject);
    let mut lane = Lane::new();
    subject.driver.land(sock, lane.block(100));
    subject.assert_quiet(A_WHILE);
    peer.write_all(b"six").unwrap();
    assert_eq!(landed(&mut subject, &mut lane), b"six");
    set_aside(&mut subject);
    // As another process has it.
    let copy = subject.driver.at_rest(sock).unwrap().socket.try_clone_to_owned().unwrap();
    subject.driver.close(sock);
    peer.write_all(b"seven").unwrap();
    subject.assert_quiet(A_WHILE);
    let (next, mut other) = subject.accepted(family, 2);
    subject.driver.start_recv(next);
    other.write_all(b"eight").unwrap();
    assert_eq!(subject.receive(next, 5), b"eight");
    drop(copy);
    turn_until_lent(&mut subject, &mut lane, 0);
}

/// While a driver rests, who connects waits in the backlog, and is accepted afterwards; a listener that was stopped stays so.
pub fn accepts_after_a_rest(kind: Kind, family: Family) {
    let mut subject = Subject::new(kind);
    let (listener, at) = place(kind, family);
    let (stopped, nobody) = place(kind, family);
    let listener = subject.driver.listen(listener, 7).unwrap();
    let stopped = subject.driver.listen(stopped, 8).unwrap();
    subject.driver.stop_accept(stopped);
    subject.turn(Wait::Now);
    subject.suspend();
    let _peers = [Peer::connect(&at.dial), Peer::connect(&nobody.dial)];
    subject.assert_quiet(Duration::from_millis(20));
    subject.driver.resume();
    assert!(matches!(subject.next(), Event::Accepted { tag: 7, .. }));
    subject.assert_quiet(Duration::from_millis(3));
    subject.driver.resume_accept(stopped);
    assert!(matches!(subject.next(), Event::Accepted { tag: 8, .. }));
    // Asked for while it rests.
    subject.driver.stop_accept(listener);
    subject.suspend();
    subject.driver.resume_accept(listener);
    let _peer = Peer::connect(&at.dial);
    subject.assert_quiet(Duration::from_millis(3));
    subject.driver.resume();
    assert!(matches!(subject.next(), Event::Accepted { tag: 7, .. }));
}

/// Connects go on, and are not handed over.
pub fn connects_while_it_rests(kind: Kind, family: Family) {
    let mut subject = Subject::new(kind);
    let (listener, at) = place(kind, family);
    let sock = subject.driver.connect(&at.target, 3).unwrap();
    assert!(subject.driver.at_rest(sock).is_none());
    subject.suspend();
    subject.connected(sock).unwrap();
    subject.suspend();
    assert!(subject.driver.at_rest(sock).unwrap().unsent.is_none());
    subject.driver.resume();
    let mut peer = Peer::accept(kind, family, &listener);
    subject.send(sock, b"hello");
    subject.driver.shutdown_write(sock);
    assert_eq!(subject.sent(sock).unwrap(), 5);
    assert_eq!(peer.read_all(), b"hello");
}
