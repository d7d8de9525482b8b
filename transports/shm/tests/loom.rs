//! Models of the lane under loom: every order of events that the memory model allows, for aarch64 too. One thing loom
//! does not model: a load that is put off until after a later store of its own thread. The Release stores of `consumed`
//! and `released`, which prevent just that, are therefore held by review alone.
//!
//!     RUSTFLAGS="--cfg loom" cargo test --release -p shmesh-shm --test loom --target-dir target/loom
#![cfg(loom)]

use std::ops::Range;
use std::sync::Arc;

use loom::thread;
use shmesh_shm::geometry::{PARKED, PUBLISHED, RELEASED, RELEASES_AT, SLOT_WORDS, WITHDRAWN, worker_word};
use shmesh_shm::{CallState, Dirty, DirtyWatch, Geometry, Header, Kind, LaneEnd, Mapping, Side};

const GEOMETRY: Geometry =
    Geometry { entries: 2, stride: 64, slots: 1, arena_bytes: 4096, block_min: 64, block_max: 4096, window: 4096 };

/// The words that the models touch.
fn segment() -> Arc<Mapping> {
    let at = GEOMETRY.lane_at(0);
    let word = |offset: usize| at + offset..at + offset + 8;
    let ring = at + GEOMETRY.ring_at();
    let arena = at + GEOMETRY.arena_at();
    let consumed = shmesh_shm::geometry::CONSUMED;
    let ranges: [Range<usize>; 10] = [
        worker_word(0)..worker_word(0) + 8,
        word(PUBLISHED),
        word(consumed),
        word(RELEASED),
        word(PARKED),
        word(WITHDRAWN),
        word(SLOT_WORDS),
        word(RELEASES_AT),
        ring..ring + 128,
        arena..arena + 64,
    ];
    Arc::new(Mapping::of_ranges(&ranges))
}

struct Segments {
    to_proxy: Arc<Mapping>,
    to_app: Arc<Mapping>,
}

impl Segments {
    fn new() -> Segments {
        Segments { to_proxy: segment(), to_app: segment() }
    }

    fn end(&self, side: Side) -> LaneEnd {
        LaneEnd::new(side, &self.to_proxy, &self.to_app, &GEOMETRY, 0)
    }
}

fn put(lane: &mut LaneEnd, number: u64) -> bool {
    lane.put(&Header::new(Kind::Data, 0, number), &[&(number * 1000).to_le_bytes()]).is_ok()
}

/// Takes one record if there is one, and checks it.
fn take(lane: &mut LaneEnd, number: u64) -> bool {
    let Some(header) = lane.peek().expect("an honest peer") else {
        return false;
    };
    let mut bytes = [0; 8];
    lane.read_payload(0, &mut bytes).expect("eight bytes");
    assert_eq!((header.generation, u64::from_le_bytes(bytes)), (number, number * 1000));
    lane.advance();
    true
}

#[test]
fn records_and_payloads_arrive_whole_and_entries_are_reused_safely() {
    loom::model(|| {
        let segments = Segments::new();
        let (mut app, mut sidecar) = (segments.end(Side::App), segments.end(Side::Sidecar));
        put(&mut app, 1);
        put(&mut app, 2);
        app.publish();
        let consumer = thread::spawn(move || {
            let mut next = 1;
            for _ in 0..2 {
                next += u64::from(take(&mut sidecar, next));
                sidecar.publish();
            }
            (sidecar, next)
        });
        // Only if an entry is free again.
        let third = put(&mut app, 3);
        app.publish();
        let (mut sidecar, mut next) = consumer.join().unwrap();
        while take(&mut sidecar, next) {
            next += 1;
        }
        assert_eq!(next, if third { 4 } else { 3 });
    });
}

#[test]
fn a_block_is_not_written_again_before_it_was_read_and_given_back() {
    loom::model(|| {
        let segments = Segments::new();
        let (mut app, mut sidecar) = (segments.end(Side::App), segments.end(Side::Sidecar));
        let block = |value: u8| [value; 24];
        app.put(&Header::new(Kind::Data, 0, 1), &[&block(1)]).unwrap();
        app.publish();
        let consumer = thread::spawn(move || {
            if sidecar.peek().unwrap().is_some() {
                let mut bytes = [0; 24];
                sidecar.read_payload(0, &mut bytes).unwrap();
                assert_eq!(bytes, [1; 24]);
                sidecar.advance();
                sidecar.publish();
            }
        });
        // The arena lends the same memory again once it came back, and other memory before that.
        if app.lent_blocks() == 0 {
            app.put(&Header::new(Kind::Data, 0, 2), &[&block(2)]).unwrap();
            app.publish();
        }
        consumer.join().unwrap();
    });
}

#[test]
fn whoever_sleeps_for_records_is_rung() {
    loom::model(|| {
        let segments = Segments::new();
        let (mut app, mut sidecar) = (segments.end(Side::App), segments.end(Side::Sidecar));
        let producer = thread::spawn(move || {
            put(&mut app, 1);
            app.publish()
        });
        let sleeps = sidecar.park(false);
        let rung = producer.join().unwrap();
        assert!(rung || !sleeps, "asleep, and nobody rings");
    });
}

#[test]
fn whoever_sleeps_for_room_is_rung() {
    loom::model(|| {
        let segments = Segments::new();
        let (mut app, mut sidecar) = (segments.end(Side::App), segments.end(Side::Sidecar));
        put(&mut app, 1);
        put(&mut app, 2);
        app.publish();
        let consumer = thread::spawn(move || {
            assert!(take(&mut sidecar, 1));
            sidecar.publish()
        });
        let sleeps = !put(&mut app, 3) && app.park(true);
        let rung = consumer.join().unwrap();
        assert!(rung || !sleeps, "asleep, and nobody rings");
    });
}

#[test]
fn a_marked_lane_is_looked_at() {
    loom::model(|| {
        let segments = Segments::new();
        let (mut app, mut sidecar) = (segments.end(Side::App), segments.end(Side::Sidecar));
        let dirty = Dirty::new(&segments.to_proxy, &segments.to_app);
        let mut watch = DirtyWatch::new(&segments.to_proxy, &segments.to_app, 0);
        let producer = thread::spawn(move || {
            for number in 1..=2 {
                put(&mut app, number);
                app.publish();
                dirty.mark(0, 0);
            }
        });
        let mut next = 1;
        let mut look = |sidecar: &mut LaneEnd, watch: &mut DirtyWatch| {
            if watch.take() != 0 {
                while take(sidecar, next) {
                    next += 1;
                }
            }
        };
        look(&mut sidecar, &mut watch);
        producer.join().unwrap();
        // The eventfd was written after the last mark, so the worker looks once more.
        look(&mut sidecar, &mut watch);
        assert_eq!(next, 3, "a record lies in a lane that nobody looks at");
    });
}

#[test]
fn a_call_is_not_both_withdrawn_and_forwarded_unseen() {
    for whole_lane in [false, true] {
        loom::model(move || {
            let segments = Segments::new();
            let (app, sidecar) = (segments.end(Side::App), segments.end(Side::Sidecar));
            let worker = thread::spawn(move || {
                sidecar.set_state(0, 7, CallState::Forwarded);
                LaneEnd::fence();
                !sidecar.is_withdrawn(0, 7)
            });
            match whole_lane {
                true => app.withdraw_lane(),
                false => app.withdraw(0, 7),
            }
            let judged_not_run = app.state(0) != (7, CallState::Forwarded);
            let forwarded = worker.join().unwrap();
            assert!(!(forwarded && judged_not_run), "it ran, and is called again");
        });
    }
}
