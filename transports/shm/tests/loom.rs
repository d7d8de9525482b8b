//! Models of a lane under loom: every order of events that the memory model allows, on any processor. Whatever is guarded by an
//! index (records, payloads, released offsets) is plain memory in a model, so that reading or writing it too early is found
//! even where the values happen to be right.
//!
//! Each ordering that the source marks with `// model: NAME` is needed: `weaken.sh` beside this file weakens one after the other and
//! demands that the model named there fails. loom takes SeqCst accesses for AcqRel ones, so what needs SeqCst is a fence.
//!
//!     just model
#![cfg(loom)]

use std::sync::Arc;

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use shmesh_shm::geometry::{
    CONSUMED, PARKED, PUBLISHED, RELEASED, RELEASES_AT, SIGN_OF_LIFE, SLOT_WORDS, WITHDRAWN, worker_word,
};
use shmesh_shm::{CallState, Dirty, DirtyWatch, Flags, Geometry, Header, Kind, LaneEnd, Mapping, Side};

const LANES: u16 = 2;

const GEOMETRY: Geometry =
    Geometry { entries: 2, stride: 64, slots: 2, arena_bytes: 4096, block_min: 64, block_max: 4096, window: 4096 };

/// Bytes of a payload that goes into a block; an inline one has up to 16.
const BLOCK: usize = 20;

/// What the models touch.
fn segment() -> Arc<Mapping> {
    let mut words = vec![worker_word(0)..worker_word(0) + 8];
    let mut guarded = Vec::new();
    for lane in 0..LANES {
        let at = GEOMETRY.lane_at(lane);
        for offset in [PUBLISHED, CONSUMED, RELEASED, PARKED, WITHDRAWN, SIGN_OF_LIFE, SLOT_WORDS, SLOT_WORDS + 8] {
            words.push(at + offset..at + offset + 8);
        }
        let (ring, arena) = (at + GEOMETRY.ring_at(), at + GEOMETRY.arena_at());
        guarded.push(at + RELEASES_AT..at + RELEASES_AT + 8);
        guarded.push(ring..ring + 128);
        guarded.push(arena..arena + 128);
    }
    Arc::new(Mapping::of_ranges(&words, &guarded))
}

struct Segments {
    to_proxy: Arc<Mapping>,
    to_app: Arc<Mapping>,
}

impl Segments {
    fn new() -> Segments {
        Segments { to_proxy: segment(), to_app: segment() }
    }

    fn end(&self, side: Side, lane: u16) -> LaneEnd {
        LaneEnd::new(side, &self.to_proxy, &self.to_app, &GEOMETRY, lane)
    }

    /// Both ends of the first lane.
    fn ends(&self) -> (LaneEnd, LaneEnd) {
        (self.end(Side::App, 0), self.end(Side::Sidecar, 0))
    }
}

fn put(lane: &mut LaneEnd, number: u64) -> bool {
    lane.put(&Header::new(Kind::Data, 0, number), &[&(number * 1000).to_le_bytes()]).is_ok()
}

fn put_block(lane: &mut LaneEnd, number: u8) {
    lane.put(&Header::new(Kind::Data, 0, u64::from(number)), &[&[number; BLOCK]]).expect("room for two");
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

/// Takes one record with a block if there is one, and checks it.
fn take_block(lane: &mut LaneEnd, number: u8) -> bool {
    if lane.peek().expect("an honest peer").is_none() {
        return false;
    }
    let mut bytes = [0; BLOCK];
    lane.read_payload(0, &mut bytes).expect("all of it");
    assert_eq!(bytes, [number; BLOCK]);
    lane.advance();
    true
}

#[test]
fn records_and_payloads_arrive_whole() {
    loom::model(|| {
        let (mut app, mut sidecar) = Segments::new().ends();
        let producer = thread::spawn(move || {
            for number in 1..=2 {
                assert!(put(&mut app, number));
                app.publish();
            }
        });
        let mut next = 1;
        next += u64::from(take(&mut sidecar, next));
        next += u64::from(take(&mut sidecar, next));
        producer.join().unwrap();
        while take(&mut sidecar, next) {
            next += 1;
        }
        assert_eq!(next, 3);
    });
}

#[test]
fn an_entry_is_not_written_again_before_it_was_read() {
    loom::model(|| {
        let (mut app, mut sidecar) = Segments::new().ends();
        put(&mut app, 1);
        put(&mut app, 2);
        app.publish();
        let consumer = thread::spawn(move || {
            assert!(take(&mut sidecar, 1));
            sidecar.publish();
            // The second one is consumed first and read where it lies.
            sidecar.peek().expect("an honest peer").expect("it was published");
            let place = sidecar.advance_in_place(0).expect("it was peeked");
            let mut bytes = [0; 8];
            assert!(sidecar.read_in_place(&place, &mut bytes));
            assert_eq!(u64::from_le_bytes(bytes), 2000);
            sidecar.give_back(place);
            sidecar.publish();
            (sidecar, 3)
        });
        // Only if an entry is free again.
        let third = put(&mut app, 3);
        app.publish();
        let (mut sidecar, next) = consumer.join().unwrap();
        assert_eq!(take(&mut sidecar, next), third);
    });
}

#[test]
fn a_block_is_not_written_again_before_it_was_read_and_given_back() {
    loom::model(|| {
        let (mut app, mut sidecar) = Segments::new().ends();
        put_block(&mut app, 1);
        app.publish();
        let consumer = thread::spawn(move || {
            assert!(take_block(&mut sidecar, 1));
            sidecar.publish();
            sidecar
        });
        // The arena lends the same memory again once it came back, and other memory before that. There is room in the ring
        // for two, so nothing is learned from `consumed`.
        let came_back = app.lent_blocks() == 0;
        put_block(&mut app, 2);
        app.publish();
        let mut sidecar = consumer.join().unwrap();
        assert!(take_block(&mut sidecar, 2));
        sidecar.publish();
        // An offset that was not lent, read too early, would be a broken peer's.
        assert_eq!((app.lent_blocks(), app.peek()), (0, Ok(None)), "came back early: {came_back}");
    });
}

#[test]
fn whoever_sleeps_for_records_is_rung() {
    loom::model(|| {
        let (mut app, mut sidecar) = Segments::new().ends();
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
        let (mut app, mut sidecar) = Segments::new().ends();
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
        let (mut app, mut sidecar) = segments.ends();
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

/// The worker is rung after each mark, and looks.
#[test]
fn a_sign_of_life_that_was_asked_for_is_given() {
    loom::model(|| {
        let segments = Segments::new();
        let (app, mut sidecar) = segments.ends();
        let dirty = Dirty::new(&segments.to_proxy, &segments.to_app);
        let mut watch = DirtyWatch::new(&segments.to_proxy, &segments.to_app, 0);
        let asker = thread::spawn(move || {
            for number in 1..=2 {
                app.ask(number);
                dirty.mark(0, 0);
            }
            app
        });
        let mut look = |sidecar: &mut LaneEnd| {
            if watch.take() != 0 {
                sidecar.tell();
            }
        };
        look(&mut sidecar);
        let app = asker.join().unwrap();
        look(&mut sidecar);
        assert_eq!(app.told(), 2, "nobody looked after the last question");
    });
}

/// A worker that sleeps on two lanes, each used by a thread of the app: parked flags, dirty words and one bell together.
#[test]
fn a_worker_asleep_on_two_lanes_is_woken_for_each() {
    let mut model = loom::model::Builder::new();
    // Switches away from a thread that could have gone on; without a bound this takes minutes.
    model.preemption_bound = Some(3);
    model.check(|| {
        let segments = Segments::new();
        let bell = Arc::new(AtomicUsize::new(0));
        let mut lanes: Vec<(LaneEnd, u64)> = (0..LANES).map(|lane| (segments.end(Side::Sidecar, lane), 1)).collect();
        for (lane, _) in &mut lanes {
            assert!(lane.park(false));
        }
        let producers = [0u8, 1].map(|lane| {
            let mut app = segments.end(Side::App, u16::from(lane));
            let dirty = Dirty::new(&segments.to_proxy, &segments.to_app);
            let bell = bell.clone();
            thread::spawn(move || {
                for number in 1..=2 {
                    put(&mut app, number);
                    if app.publish() {
                        dirty.mark(0, lane);
                        // As the kernel's eventfd: a write, and whoever polls sees what was before it.
                        bell.fetch_add(1, Ordering::AcqRel);
                    }
                }
            })
        });
        let mut watch = DirtyWatch::new(&segments.to_proxy, &segments.to_app, 0);
        let mut heard = 0;
        // Edge-triggered: looks only when the bell was rung since the last time.
        let mut wake = || {
            let rung = bell.load(Ordering::Acquire);
            if rung == heard {
                return;
            }
            heard = rung;
            let changed = watch.take();
            for (bit, (lane, next)) in lanes.iter_mut().enumerate() {
                if changed & 1 << bit != 0 {
                    lane.unpark();
                    loop {
                        while take(lane, *next) {
                            *next += 1;
                        }
                        if lane.park(false) {
                            break;
                        }
                    }
                }
            }
        };
        wake();
        for producer in producers {
            producer.join().unwrap();
        }
        wake();
        for (lane, next) in &lanes {
            assert_eq!((*next, lane.has_work()), (3, false), "a record lies in a lane that nobody looks at");
        }
    });
}

#[test]
fn a_call_is_not_both_withdrawn_and_forwarded_unseen() {
    loom::model(|| {
        let (app, sidecar) = Segments::new().ends();
        let worker = thread::spawn(move || {
            // Two calls, one fence.
            sidecar.set_state(0, 7, CallState::Forwarded);
            sidecar.set_state(1, 7, CallState::Forwarded);
            LaneEnd::fence();
            [0, 1].map(|slot| !sidecar.is_withdrawn(slot, 7))
        });
        app.withdraw(1, 7);
        let judged_not_run = app.state(1) != (7, CallState::Forwarded);
        let [other, forwarded] = worker.join().unwrap();
        assert!(!(forwarded && judged_not_run), "it ran, and is called again");
        assert!(other, "nobody withdrew this one");
    });
}

#[test]
fn no_call_of_a_withdrawn_lane_is_forwarded_unseen() {
    loom::model(|| {
        let (app, sidecar) = Segments::new().ends();
        let worker = thread::spawn(move || {
            sidecar.set_state(0, 7, CallState::Forwarded);
            LaneEnd::fence();
            !sidecar.is_withdrawn(0, 7)
        });
        app.withdraw_lane();
        let judged_not_run = app.state(0) != (7, CallState::Forwarded);
        let forwarded = worker.join().unwrap();
        assert!(!(forwarded && judged_not_run), "it ran, and is called again");
    });
}

#[test]
fn whoever_takes_the_end_of_an_answer_reads_answered() {
    loom::model(|| {
        let (mut app, mut sidecar) = Segments::new().ends();
        let worker = thread::spawn(move || {
            sidecar.set_state(0, 7, CallState::Forwarded);
            sidecar.set_state(0, 7, CallState::Answered);
            let mut header = Header::new(Kind::Answer, 0, 7);
            header.flags = Flags::END;
            sidecar.put(&header, &[]).unwrap();
            sidecar.publish();
        });
        if app.peek().unwrap().is_some() {
            assert_eq!(app.state(0), (7, CallState::Answered), "the answer came before it was given");
        }
        worker.join().unwrap();
    });
}

#[test]
fn whoever_reads_answered_finds_the_parts_before() {
    loom::model(|| {
        let (mut app, mut sidecar) = Segments::new().ends();
        let worker = thread::spawn(move || {
            sidecar.put(&Header::new(Kind::Answer, 0, 7), &[b"part"]).unwrap();
            sidecar.publish();
            // The last part follows only after this, or never if the sidecar dies here.
            sidecar.set_state(0, 7, CallState::Answered);
        });
        if app.state(0) == (7, CallState::Answered) {
            assert!(app.peek().unwrap().is_some(), "an answer without its first part");
        }
        worker.join().unwrap();
    });
}
