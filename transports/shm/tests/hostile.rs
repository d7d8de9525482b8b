//! A peer that writes whatever it likes: every lie is a named violation or harmless, never a crash.

mod pair;

use pair::{Pair, SMALL, data, pair, payload};
use proptest::prelude::*;
use shmesh_shm::geometry::{CONSUMED, PUBLISHED, RELEASED, RELEASES_AT};
use shmesh_shm::{Header, INLINE_KEY, Kind, MAX_GENERATION, Violation};

const BLOCK_WORD: usize = 28;

impl Pair {
    /// Writes raw words as the app's first record, and publishes it.
    fn forge(&mut self, words: [u64; 6]) -> Result<Option<Header>, Violation> {
        let at = self.geometry.lane_at(0) + self.geometry.ring_at();
        for (i, word) in words.into_iter().enumerate() {
            self.to_proxy.store(at + 8 * i, word);
        }
        self.to_proxy.store_release(self.geometry.lane_at(0) + PUBLISHED, 1);
        self.sidecar.peek()
    }
}

fn words(kind: u64, flags: u64, code: u64, slot: u64) -> [u64; 6] {
    [kind | flags << 8 | code << 16 | slot << 32, 1, 0, 0xFFFF_FFFF << 32, 0, 0]
}

fn with(mut words: [u64; 6], index: usize, value: u64) -> [u64; 6] {
    words[index] = value;
    words
}

#[test]
fn every_field_out_of_range_has_its_violation() {
    let data = words(4, 0, 0, 1);
    let open = with(words(2, 0, 1, 1), 2, u64::from(INLINE_KEY));
    let define = with(words(1, 0, 1, 0), 1, 0);
    let block = |block: u64, length: u64| with(data, 3, length | block << 32);
    let cases: Vec<([u64; 6], Option<Violation>)> = vec![
        (data, None),
        (open, None),
        (define, None),
        (words(0, 0, 0, 0), Some(Violation::Kind)),
        (words(7, 0, 0, 0), Some(Violation::Kind)),
        (words(255, 0, 0, 0), Some(Violation::Kind)),
        (words(4, 8, 0, 0), Some(Violation::Flags)),
        (words(4, 2, 0, 0), Some(Violation::Flags)),
        (words(5, 1, 0, 0), Some(Violation::Flags)),
        (words(3, 4, 200, 0), Some(Violation::Flags)),
        (words(2, 0, 0, 0), Some(Violation::Code)),
        (words(2, 0, 4, 0), Some(Violation::Code)),
        (words(6, 0, 0, 0), Some(Violation::Code)),
        (words(6, 0, 10, 0), Some(Violation::Code)),
        (words(4, 0, 0, 4), Some(Violation::Slot)),
        (words(4, 0, 0, 0xFFFF_FFFF), Some(Violation::Slot)),
        (with(data, 1, 0), Some(Violation::Generation)),
        (with(data, 1, MAX_GENERATION), None),
        (with(data, 1, MAX_GENERATION + 1), Some(Violation::Generation)),
        (with(open, 2, 1024), Some(Violation::Route)),
        (with(open, 2, 1023), None),
        (with(with(open, 2, 3 | 8 << 32), 3, 8 | 0xFFFF_FFFF << 32), Some(Violation::Head)),
        (with(define, 2, 1024), Some(Violation::Route)),
        (with(define, 1, 1), Some(Violation::Generation)),
        (with(words(1, 0, 1, 1), 1, 0), Some(Violation::Slot)),
        (with(words(1, 0, 9, 0), 1, 0), Some(Violation::Code)),
        (with(data, 2, 1 << 32), Some(Violation::Head)),
        (with(data, 3, 80 | 0xFFFF_FFFF << 32), None),
        (with(data, 3, 81 | 0xFFFF_FFFF << 32), Some(Violation::Length)),
        (block(0, 1024), None),
        (block(0, 1025), Some(Violation::Length)),
        (block(1, 8), Some(Violation::Block)),
        (block(3072, 1024), None),
        (block(3136, 1024), Some(Violation::Block)),
        (block(4096, 0), Some(Violation::Block)),
        (block(0xFFFF_FFC0, 1024), Some(Violation::Block)),
    ];
    for (i, (words, expected)) in cases.into_iter().enumerate() {
        let outcome = pair(SMALL).forge(words);
        assert_eq!(outcome.err(), expected, "case {i}: {words:x?}");
    }
}

#[test]
fn only_the_app_defines() {
    let mut lane = pair(SMALL);
    let mut define = Header::new(Kind::Define, 0, 0);
    define.code = 1;
    lane.sidecar.put(&define, &[b"key"]).unwrap();
    lane.sidecar.publish();
    assert_eq!(lane.app.peek(), Err(Violation::Direction));
}

#[test]
fn a_violation_stays() {
    let mut lane = pair(SMALL);
    assert!(lane.forge(words(9, 0, 0, 0)).is_err());
    assert_eq!(lane.forge(words(4, 0, 0, 1)), Err(Violation::Kind));
}

#[test]
fn indices_that_run_away_are_found() {
    let at = SMALL.lane_at(0);
    for published in [9, u64::MAX, 1 << 63] {
        let mut lane = pair(SMALL);
        lane.to_proxy.store(at + PUBLISHED, published);
        assert_eq!(lane.sidecar.peek(), Err(Violation::Published), "{published}");
    }
    let mut lane = pair(SMALL);
    lane.app.put(&data(1), &[]).unwrap();
    lane.app.put(&data(2), &[]).unwrap();
    lane.app.publish();
    lane.sidecar.peek().unwrap();
    lane.sidecar.advance();
    lane.sidecar.peek().unwrap();
    lane.sidecar.advance();
    lane.to_proxy.store(at + PUBLISHED, 1);
    assert_eq!(lane.sidecar.peek(), Err(Violation::Published), "backwards");

    for consumed in [1, u64::MAX] {
        let mut lane = pair(SMALL);
        lane.to_proxy.store(at + CONSUMED, consumed);
        assert_eq!(lane.sidecar.unconsumed(), 0);
        assert_eq!(lane.sidecar.peek(), Err(Violation::Consumed), "{consumed}");
    }
}

#[test]
fn the_peer_may_not_count_on_entries_that_it_was_not_told_are_free() {
    let mut lane = pair(SMALL);
    for i in 0..8 {
        lane.app.put(&data(i + 1), &[]).unwrap();
    }
    lane.app.publish();
    while lane.sidecar.peek().unwrap().is_some() {
        lane.sidecar.advance();
    }
    lane.to_proxy.store(SMALL.lane_at(0) + PUBLISHED, 9);
    assert_eq!(lane.sidecar.peek(), Err(Violation::Published));
}

#[test]
fn releases_of_what_is_not_lent_are_found() {
    let at = SMALL.lane_at(0);
    let lies: [(u64, &[u32], Violation); 5] = [
        (65, &[], Violation::Released),
        (u64::MAX, &[], Violation::Released),
        (1, &[64], Violation::ReleasedBlock),
        (1, &[0xFFFF_FFFF], Violation::ReleasedBlock),
        (2, &[0, 0], Violation::ReleasedBlock),
    ];
    for (released, offsets, violation) in lies {
        let mut lane = pair(SMALL);
        lane.sidecar.put(&data(1), &[&[1; 200]]).unwrap();
        lane.sidecar.publish();
        for (i, offset) in offsets.iter().enumerate() {
            lane.to_proxy.store_u32(at + RELEASES_AT + 4 * i, *offset);
        }
        lane.to_proxy.store_release(at + RELEASED, released);
        lane.sidecar.largest_part();
        assert_eq!(lane.sidecar.peek(), Err(violation), "{offsets:?}");
    }
}

#[test]
fn what_was_validated_is_what_is_used() {
    let mut lane = pair(SMALL);
    lane.app.put(&data(1), &[&[1; 200]]).unwrap();
    lane.app.publish();
    let header = lane.sidecar.peek().unwrap().unwrap();
    let entry = SMALL.lane_at(0) + SMALL.ring_at();
    lane.to_proxy.store_u32(entry + BLOCK_WORD, 0xFFFF_0000);
    lane.to_proxy.store_u32(entry + 24, 0xFFFF_FFFF);
    assert_eq!(lane.sidecar.peek().unwrap().unwrap().length, 200);
    assert_eq!(payload(&lane.sidecar, header.length), [1; 200]);
    lane.sidecar.advance();
    lane.sidecar.publish();
    assert_eq!(lane.app.lent_blocks(), 0, "the block that was validated was given back");
}

#[test]
fn a_range_outside_of_the_payload_is_refused() {
    let mut lane = pair(SMALL);
    assert_eq!(lane.sidecar.read_payload(0, &mut []), Err(Violation::PayloadRange), "nothing peeked");
    lane.app.put(&data(1), &[b"0123456789"]).unwrap();
    lane.app.publish();
    lane.sidecar.peek().unwrap();
    let mut four = [0; 4];
    assert_eq!(lane.sidecar.read_payload(6, &mut four), Ok(()));
    assert_eq!(&four, b"6789");
    for from in [7, 10, 11, u32::MAX] {
        assert_eq!(lane.sidecar.read_payload(from, &mut four), Err(Violation::PayloadRange));
    }
    let mut out = vec![1];
    assert_eq!(lane.sidecar.append_payload(4..8, &mut out), Ok(()));
    assert_eq!(out, b"\x014567");
    for (from, to) in [(4, 11), (11, 4), (0, u32::MAX)] {
        assert_eq!(lane.sidecar.append_payload(from..to, &mut out), Err(Violation::PayloadRange));
    }
    assert_eq!(out, b"\x014567");
}

proptest! {
    /// Any bytes at all in the app's control page, release ring and ring.
    #[test]
    fn any_bytes_are_survived(
        words in proptest::collection::vec((0usize..3000, any::<u64>()), 0..60),
        published in 0u64..12,
        steps in proptest::collection::vec(0u8..6, 0..40),
    ) {
        let mut lane = pair(SMALL);
        let at = SMALL.lane_at(0);
        for (index, word) in words {
            lane.to_proxy.store((at + 8 * index).min(lane.to_proxy.len() - 8), word);
        }
        lane.to_proxy.store(at + PUBLISHED, published);
        for step in steps {
            match step {
                0 => lane.sidecar.advance(),
                1 => drop(lane.sidecar.advance_keep()),
                2 => drop(lane.sidecar.put(&data(1), &[&[0; 300]])),
                3 => drop(lane.sidecar.publish()),
                4 => drop(lane.sidecar.park(true)),
                _ => if let Ok(Some(header)) = lane.sidecar.peek() {
                    prop_assert!(header.length <= SMALL.block_max && header.head_len <= header.length);
                    prop_assert_eq!(payload(&lane.sidecar, header.length).len(), header.length as usize);
                },
            }
        }
    }
}
