//! Bytes that are received straight into a block of a lane.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use shmesh_io::{Bell, Event, SLOT_BYTES, SockId, Wait};
use shmesh_shm::{Geometry, Header, LaneEnd, Mapping, OpenBlock, Side};

use crate::harness::{Family, Kind, PATIENCE, Peer, Subject, assert_same, noise};

/// The longest block.
const BLOCK_MAX: usize = 256 << 10;

/// A lane, with an app that takes each record at once.
pub struct Lane {
    app: LaneEnd,
    sidecar: LaneEnd,
}

impl Lane {
    pub fn new() -> Self {
        let geometry = Geometry { block_max: BLOCK_MAX as u32, arena_bytes: 2 << 20, ..Geometry::default() };
        let len = geometry.segment_bytes(1);
        let (to_proxy, to_app) = (Arc::new(Mapping::private(len).unwrap()), Arc::new(Mapping::private(len).unwrap()));
        let end = |side| LaneEnd::new(side, &to_proxy, &to_app, &geometry, 0);
        Self { app: end(Side::App), sidecar: end(Side::Sidecar) }
    }

    pub fn block(&mut self, len: usize) -> OpenBlock {
        self.sidecar.open_block(len as u32).unwrap()
    }

    /// What the app finds in a block that was put.
    pub fn pass(&mut self, block: OpenBlock, len: u32) -> Vec<u8> {
        assert!(len > 0);
        self.sidecar.put_block(&Header::new(shmesh_shm::Kind::Data, 1, 1), block, len).unwrap();
        self.sidecar.publish();
        assert_eq!(self.app.peek().unwrap().unwrap().length, len);
        let mut bytes = vec![0; len as usize];
        self.app.read_payload(0, &mut bytes).unwrap();
        self.app.advance();
        self.app.publish();
        bytes
    }

    fn lent(&mut self) -> u32 {
        self.sidecar.lent_blocks()
    }
}

/// Turns until so many blocks are lent; the kernel may have to be done with one first.
pub fn turn_until_lent(subject: &mut Subject, lane: &mut Lane, blocks: u32) {
    let deadline = Instant::now() + PATIENCE;
    while lane.lent() != blocks {
        assert!(Instant::now() < deadline, "{} blocks are lent, not {blocks}", lane.lent());
        let until = subject.driver.refresh_clock() + 1_000_000;
        subject.turn(Wait::Until(until));
    }
}

/// A socket that receives, with a block in place.
fn waiting(subject: &mut Subject, lane: &mut Lane, family: Family) -> (SockId, Peer) {
    let (sock, peer) = subject.accepted(family, 1);
    subject.driver.start_recv(sock);
    subject.turn(Wait::Now);
    subject.driver.land(sock, lane.block(1000));
    subject.assert_quiet(Duration::from_millis(3));
    assert_eq!(lane.lent(), 1);
    (sock, peer)
}

/// Hands the driver more than `uring` can queue, so that the kernel also completes what it can, before the next `poll`.
fn let_the_kernel_work(subject: &mut Subject) {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let bell = Bell::new(ours.into());
    for _ in 0..600 {
        subject.ring(&bell);
    }
}

/// The next thing that lands.
pub fn landed(subject: &mut Subject, lane: &mut Lane) -> Vec<u8> {
    match subject.next() {
        Event::Landed { tag: 1, block, len, .. } => lane.pass(block, len),
        other => panic!("unexpected {other:?}"),
    }
}

fn ended(subject: &mut Subject, sock: SockId) -> Option<std::io::Error> {
    match subject.next() {
        Event::Ended { sock: id, error, .. } if id == sock => error,
        other => panic!("unexpected {other:?}"),
    }
}

/// A peer that writes in pieces, then ends.
pub fn write_in_pieces(mut peer: Peer, bytes: Vec<u8>, piece: usize) -> JoinHandle<()> {
    thread::spawn(move || {
        for piece in bytes.chunks(piece) {
            peer.write_all(piece).unwrap();
        }
    })
}

pub fn lands_blocks_among_other_bytes(kind: Kind, family: Family) {
    let (mut subject, mut lane) = (Subject::new(kind), Lane::new());
    let (sock, peer) = subject.accepted(family, 1);
    let bytes = noise(21, 5_000_000);
    let writer = write_in_pieces(peer, bytes.clone(), 30_011);
    let (mut got, mut in_blocks) = (Vec::new(), 0);
    let mut ended = false;
    subject.driver.start_recv(sock);
    while !ended {
        // A batch at a time: nothing follows what landed in it.
        let mut landed = false;
        let first = subject.next();
        for event in std::iter::once(first).chain(std::mem::take(&mut subject.events)) {
            assert!(!landed, "{event:?} in the same poll as a block");
            match event {
                Event::Received { data, .. } => {
                    got.extend_from_slice(&data);
                    // Some are dropped, as there is one already.
                    subject.driver.land(sock, lane.block(1 + got.len() % BLOCK_MAX));
                }
                Event::Landed { block, len, .. } => {
                    landed = true;
                    got.extend_from_slice(&lane.pass(block, len));
                    in_blocks += len as usize;
                    if in_blocks % 5 != 0 {
                        subject.driver.land(sock, lane.block(1 + got.len() % BLOCK_MAX));
                    }
                }
                Event::Ended { error, .. } => {
                    assert!(error.is_none(), "{error:?}");
                    ended = true;
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }
    subject.join(writer).unwrap();
    assert_same(&got, &bytes);
    assert!(in_blocks > 0);
    assert_eq!(lane.lent(), 0);
}

/// Who gives the next block when one has landed gets the rest without a copy.
pub fn lands_all_when_the_next_block_comes_in_time(kind: Kind, family: Family) {
    let (mut subject, mut lane) = (Subject::new(kind), Lane::new());
    let (sock, peer) = waiting(&mut subject, &mut lane, family);
    let bytes = noise(22, 5_000_000);
    let writer = write_in_pieces(peer, bytes.clone(), 70_001);
    let mut got = Vec::new();
    while got.len() < bytes.len() {
        got.extend(landed(&mut subject, &mut lane));
        subject.driver.land(sock, lane.block(1 + got.len() % BLOCK_MAX));
    }
    assert!(ended(&mut subject, sock).is_none());
    subject.join(writer).unwrap();
    assert_same(&got, &bytes);
}

/// A head, a body that lands, a head, a body that lands: only one slot of each is copied.
pub fn receives_one_slot_where_a_block_may_follow(kind: Kind, family: Family) {
    let (mut subject, mut lane) = (Subject::new(kind), Lane::new());
    let (sock, peer) = subject.accepted(family, 1);
    let bytes = noise(24, 2_000_000);
    let writer = write_in_pieces(peer, bytes.clone(), 200_000);
    let mut got = Vec::new();
    subject.driver.start_recv(sock);
    while got.len() < bytes.len() {
        match subject.next() {
            Event::Received { data, .. } => {
                assert!(data.len() <= SLOT_BYTES);
                got.extend_from_slice(&data);
            }
            other => panic!("unexpected {other:?}"),
        }
        assert!(subject.events.is_empty(), "in the same poll: {:?}", subject.events);
        if got.len() < bytes.len() {
            subject.driver.land(sock, lane.block(100_000));
            got.extend(landed(&mut subject, &mut lane));
            assert!(subject.events.is_empty(), "in the same poll: {:?}", subject.events);
        }
    }
    assert!(ended(&mut subject, sock).is_none());
    subject.join(writer).unwrap();
    assert_same(&got, &bytes);
}

pub fn lands_a_trickle_in_part_and_once(kind: Kind, family: Family) {
    let (mut subject, mut lane) = (Subject::new(kind), Lane::new());
    let (sock, mut peer) = waiting(&mut subject, &mut lane, family);
    peer.write_all(b"drop").unwrap();
    let mut got = landed(&mut subject, &mut lane);
    // In a simulated world what is left of four bytes comes apart.
    let rest = 4 - got.len();
    got.extend(subject.receive(sock, rest));
    assert_eq!(got, b"drop");
    peer.write_all(b"more").unwrap();
    assert_eq!(subject.receive(sock, 4), b"more");
    subject.driver.land(sock, lane.block(1));
    subject.turn(Wait::Now);
    peer.write_all(b"x").unwrap();
    assert_eq!(landed(&mut subject, &mut lane), b"x");
    assert_eq!(lane.lent(), 0);
}

/// What waited for a stopped socket comes first, and in a `poll` before the block's.
pub fn tells_what_it_had_before_a_block(kind: Kind, family: Family) {
    let (mut subject, mut lane) = (Subject::new(kind), Lane::new());
    let (sock, mut peer) = subject.accepted(family, 1);
    for round in 0..20 {
        let bytes = noise(round, 60_000);
        subject.driver.start_recv(sock);
        subject.turn(Wait::Now);
        // The first part is there when receiving stops, the rest when it starts again.
        peer.write_all(&bytes[..20_000]).unwrap();
        let_the_kernel_work(&mut subject);
        subject.driver.stop_recv(sock);
        subject.turn(Wait::Now);
        subject.turn(Wait::Now);
        assert!(subject.events.is_empty(), "{:?}", subject.events);
        peer.write_all(&bytes[20_000..]).unwrap();
        subject.driver.start_recv(sock);
        subject.driver.land(sock, lane.block(60_000));
        let (mut got, mut blocks) = (Vec::new(), 0);
        while got.len() < bytes.len() {
            let before = subject.next();
            let mut received = false;
            for event in std::iter::once(before).chain(std::mem::take(&mut subject.events)) {
                match event {
                    Event::Received { data, .. } => {
                        received = true;
                        got.extend_from_slice(&data);
                    }
                    Event::Landed { block, len, .. } => {
                        assert!(!received, "no time to take the block back");
                        blocks += 1;
                        got.extend_from_slice(&lane.pass(block, len));
                    }
                    other => panic!("unexpected {other:?}"),
                }
            }
        }
        assert_same(&got, &bytes);
        // If all came before, the block still waits.
        subject.driver.stop_recv(sock);
        turn_until_lent(&mut subject, &mut lane, 0);
        assert!(blocks <= 1);
    }
}

/// Both directions keep something in the kernel at once.
pub fn lands_while_it_sends(kind: Kind, family: Family) {
    let (mut subject, mut lane) = (Subject::new(kind), Lane::new());
    let (sock, mut peer) = waiting(&mut subject, &mut lane, family);
    let bytes = noise(23, 9_000_000);
    subject.send(sock, &bytes);
    subject.turn(Wait::Now);
    peer.write_all(b"!").unwrap();
    assert_eq!(landed(&mut subject, &mut lane), b"!");
    subject.driver.land(sock, lane.block(1000));
    let reader = thread::spawn(move || {
        let mut got = vec![0; 9_000_000];
        std::io::Read::read_exact(&mut peer, &mut got).unwrap();
        (got, peer)
    });
    assert_eq!(subject.sent(sock).unwrap(), 9_000_000);
    let (got, mut peer) = subject.join(reader).unwrap();
    assert_same(&got, &bytes);
    peer.write_all(b"?").unwrap();
    assert_eq!(landed(&mut subject, &mut lane), b"?");
}

pub fn ends_while_a_block_waits(kind: Kind, family: Family) {
    let (mut subject, mut lane) = (Subject::new(kind), Lane::new());
    let (sock, peer) = waiting(&mut subject, &mut lane, family);
    peer.end_writing();
    assert!(ended(&mut subject, sock).is_none());
    assert_eq!(lane.lent(), 0);
    // Before the block is in place.
    let (other, mut peer) = subject.accepted(family, 1);
    subject.driver.start_recv(other);
    subject.turn(Wait::Now);
    // A first word, after which receiving has no bounds.
    peer.write_all(b".").unwrap();
    assert_eq!(subject.receive(other, 1), b".");
    subject.turn(Wait::Now);
    peer.end_writing();
    let_the_kernel_work(&mut subject);
    subject.driver.land(other, lane.block(1000));
    assert!(ended(&mut subject, other).is_none());
    assert_eq!(lane.lent(), 0);
    // Nothing is to come.
    subject.driver.land(sock, lane.block(1000));
    assert_eq!(lane.lent(), 0);
    subject.assert_quiet(Duration::from_millis(3));
}

pub fn is_reset_while_a_block_waits(kind: Kind, family: Family) {
    let (mut subject, mut lane) = (Subject::new(kind), Lane::new());
    let (sock, peer) = waiting(&mut subject, &mut lane, family);
    peer.reset();
    let error = ended(&mut subject, sock);
    assert_eq!(error.is_some(), family == Family::Tcp, "{error:?}");
    assert_eq!(lane.lent(), 0);
}

pub fn gives_a_block_back_when_closed(kind: Kind, family: Family) {
    let (mut subject, mut lane) = (Subject::new(kind), Lane::new());
    for round in 0..6 {
        let (sock, mut peer) = waiting(&mut subject, &mut lane, family);
        if round % 2 == 0 {
            // Closed in the turn in which it would have landed.
            peer.write_all(b"too late").unwrap();
        }
        if round % 3 == 0 {
            subject.driver.close_reset(sock);
        } else {
            subject.driver.close(sock);
        }
        turn_until_lent(&mut subject, &mut lane, 0);
        assert!(subject.events.is_empty(), "{:?}", subject.events);
        // Before it was in place.
        let (sock, _peer) = subject.accepted(family, 1);
        subject.driver.start_recv(sock);
        subject.driver.land(sock, lane.block(1000));
        subject.driver.close(sock);
        assert_eq!(lane.lent(), 0);
        subject.driver.land(sock, lane.block(1000));
        assert_eq!(lane.lent(), 0, "the name is stale");
    }
}

pub fn gives_a_block_back_when_dropped(kind: Kind, family: Family) {
    let (mut subject, mut lane) = (Subject::new(kind), Lane::new());
    let (_sock, _peer) = waiting(&mut subject, &mut lane, family);
    let _turn = subject.end();
    assert_eq!(lane.lent(), 0);
}

pub fn gives_a_block_back_when_stopped(kind: Kind, family: Family) {
    let (mut subject, mut lane) = (Subject::new(kind), Lane::new());
    let (sock, mut peer) = waiting(&mut subject, &mut lane, family);
    for round in 0..20_u8 {
        let word = [b'a' + round; 100];
        // The bytes come before it is stopped, while, after; to be reported as without a block.
        if round % 3 == 0 {
            peer.write_all(&word).unwrap();
            let_the_kernel_work(&mut subject);
        }
        subject.driver.stop_recv(sock);
        if round % 3 == 1 {
            peer.write_all(&word).unwrap();
        }
        // Started again in the same turn, or when everything has settled.
        if round % 2 == 0 {
            turn_until_lent(&mut subject, &mut lane, 0);
            assert!(subject.events.is_empty(), "{:?}", subject.events);
        }
        if round % 3 == 2 {
            peer.write_all(&word).unwrap();
        }
        subject.driver.start_recv(sock);
        assert_same(&subject.receive(sock, word.len()), &word);
        turn_until_lent(&mut subject, &mut lane, 0);
        // With a new one.
        subject.driver.land(sock, lane.block(1000));
        subject.turn(Wait::Now);
        assert_eq!(lane.lent(), 1);
        if round % 4 == 0 {
            subject.driver.stop_recv(sock);
            subject.driver.start_recv(sock);
            subject.driver.land(sock, lane.block(1));
            turn_until_lent(&mut subject, &mut lane, 1);
            peer.write_all(b"+").unwrap();
            assert_eq!(landed(&mut subject, &mut lane), b"+");
            subject.driver.land(sock, lane.block(1000));
        }
        subject.assert_quiet(Duration::from_millis(2));
    }
}

pub fn drops_what_it_cannot_land(kind: Kind, family: Family) {
    let (mut subject, mut lane) = (Subject::new(kind), Lane::new());
    let (sock, mut peer) = subject.accepted(family, 1);
    // Not receiving.
    subject.driver.land(sock, lane.block(1000));
    assert_eq!(lane.lent(), 0);
    subject.driver.start_recv(sock);
    subject.driver.land(sock, lane.block(0));
    assert_eq!(lane.lent(), 0);
    // The second: before the first is in place, and after.
    subject.driver.land(sock, lane.block(1000));
    subject.driver.land(sock, lane.block(2000));
    assert_eq!(lane.lent(), 1);
    subject.assert_quiet(Duration::from_millis(3));
    subject.driver.land(sock, lane.block(2000));
    assert_eq!(lane.lent(), 1);
    peer.write_all(b"1").unwrap();
    assert_eq!(landed(&mut subject, &mut lane), b"1");
    peer.write_all(b"2").unwrap();
    assert_eq!(subject.receive(sock, 1), b"2");
    assert_eq!(lane.lent(), 0);
}

/// Random operations, from a seed, on one connection.
pub fn loses_nothing_whatever_is_done_with_blocks(kind: Kind, family: Family) {
    let mut in_blocks = 0;
    for seed in 1..=8 {
        let choices = noise(seed, 1 << 16);
        let mut choices = choices.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap()) as usize).cycle();
        let mut choose = |below: usize| choices.next().unwrap() % below;
        let (mut subject, mut lane) = (Subject::new(kind), Lane::new());
        let (sock, peer) = subject.accepted(family, 1);
        let bytes = noise(seed + 100, 1_000_000);
        let writer = write_in_pieces(peer, bytes.clone(), 1 + choose(40_000));
        let mut got = Vec::new();
        let (mut receiving, mut given, mut ended) = (false, None, false);
        let deadline = Instant::now() + PATIENCE;
        while !ended {
            assert!(Instant::now() < deadline, "seed {seed}: {} bytes so far", got.len());
            for _ in 0..choose(4) {
                match choose(8) {
                    0 => {
                        subject.driver.stop_recv(sock);
                        (receiving, given) = (false, None);
                    }
                    1..=3 => {
                        subject.driver.start_recv(sock);
                        receiving = true;
                    }
                    _ => {
                        let below = 2 << choose(18);
                        let len = 1 + choose(below);
                        subject.driver.land(sock, lane.block(len));
                        if receiving && given.is_none() {
                            given = Some(len);
                        }
                    }
                }
            }
            let until = subject.driver.refresh_clock() + choose(300_000) as u64;
            subject.turn(if choose(2) == 0 { Wait::Now } else { Wait::Until(until) });
            for event in std::mem::take(&mut subject.events) {
                assert!(receiving, "seed {seed}: {event:?} while stopped");
                match event {
                    Event::Received { data, .. } => got.extend_from_slice(&data),
                    Event::Landed { block, len, .. } => {
                        assert_eq!(Some(block.len()), given.take(), "seed {seed}: another block than was given");
                        got.extend_from_slice(&lane.pass(block, len));
                        in_blocks += len as usize;
                    }
                    Event::Ended { error, .. } => {
                        assert!(error.is_none(), "{error:?}");
                        ended = true;
                    }
                    other => panic!("unexpected {other:?}"),
                }
            }
        }
        subject.join(writer).unwrap();
        assert_same(&got, &bytes);
        turn_until_lent(&mut subject, &mut lane, 0);
    }
    assert!(in_blocks > 0);
}
