//! A lane against a model of queues: any sequence of operations of both sides gives what two `VecDeque`s would.

mod pair;

use std::collections::VecDeque;

use pair::{SMALL, data, pair, pattern, payload};
use proptest::prelude::*;
use shmesh_shm::{BlockLease, LaneEnd, NoRoom};

#[derive(Clone, Debug)]
enum Operation {
    Put(usize),
    Publish,
    Take,
    TakeAndKeep,
    DropLease(usize),
    PublishTaken,
    /// Another process goes on with the side that puts.
    GoOn,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => prop_oneof![0usize..80, 60usize..100, 0usize..1100].prop_map(Operation::Put),
        4 => Just(Operation::Publish),
        5 => Just(Operation::Take),
        3 => Just(Operation::TakeAndKeep),
        3 => any::<usize>().prop_map(Operation::DropLease),
        4 => Just(Operation::PublishTaken),
        2 => Just(Operation::GoOn),
    ]
}

#[derive(Clone)]
struct Record {
    number: u64,
    len: usize,
}

/// What the producer and consumer of one direction should hold.
#[derive(Default)]
struct Model {
    put: VecDeque<Record>,
    visible: VecDeque<Record>,
    number: u64,
    /// Entries that the producer may not reuse yet: consumed ones count until the consumption is published.
    used: u32,
    taken: u32,
    /// Bytes of blocks lent, in whole blocks; given back, but not published.
    lent: u64,
    given_back: u64,
}

fn block_bytes(len: usize) -> u64 {
    if len <= 80 { 0 } else { (len as u64).next_power_of_two().max(64) }
}

impl Model {
    fn put(&mut self, lane: &mut LaneEnd, len: usize) {
        let number = self.number + 1;
        let bytes = pattern(number, len);
        let (left, right) = bytes.split_at(len / 3);
        match lane.put(&data(number), &[left, right]) {
            Ok(()) => {
                self.number = number;
                self.used += 1;
                self.lent += block_bytes(len);
                self.put.push_back(Record { number, len });
                assert!(self.used <= SMALL.entries && self.lent <= u64::from(SMALL.arena_bytes));
            }
            Err(NoRoom::TooLong) => assert!(len > 1024),
            Err(NoRoom::Ring) => assert_eq!(self.used, SMALL.entries),
            Err(NoRoom::Arena) => {
                assert!(u64::from(lane.largest_part()) < block_bytes(len), "a block was there");
                assert!(self.lent > 0);
            }
        }
    }

    fn publish(&mut self, lane: &mut LaneEnd) {
        lane.publish();
        self.visible.append(&mut self.put);
    }

    /// Takes a record, checked; with `keep` its block stays lent.
    fn take(&mut self, lane: &mut LaneEnd, keep: bool) -> Option<(BlockLease, Record)> {
        let header = lane.peek().unwrap();
        let Some(record) = self.visible.pop_front() else {
            assert_eq!(header, None);
            return None;
        };
        let header = header.expect("a published record is there");
        assert_eq!((header.generation, header.length as usize), (record.number, record.len));
        assert_eq!(payload(lane, header.length), pattern(record.number, record.len));
        self.taken += 1;
        let in_block = block_bytes(record.len) > 0;
        assert_eq!(lane.is_in_block(), in_block);
        if keep && in_block {
            return Some((lane.advance_keep().expect("it lies in a block"), record));
        }
        lane.advance();
        self.given_back += block_bytes(record.len);
        None
    }

    fn publish_taken(&mut self, lane: &mut LaneEnd) {
        lane.publish();
        self.used -= std::mem::take(&mut self.taken);
        self.lent -= std::mem::take(&mut self.given_back);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn both_directions_behave_as_queues(operations in proptest::collection::vec((any::<bool>(), operation()), 1..300)) {
        let mut lane = pair(SMALL);
        let mut models = [Model::default(), Model::default()];
        let mut leases: [Vec<(BlockLease, Record)>; 2] = Default::default();
        for (from_app, operation) in operations {
            let direction = usize::from(from_app);
            let (producer, consumer) = match from_app {
                true => (&mut lane.app, &mut lane.sidecar),
                false => (&mut lane.sidecar, &mut lane.app),
            };
            let model = &mut models[direction];
            match operation {
                Operation::Put(len) => model.put(producer, len),
                // A publish of a side makes visible what it put in one direction and what it took in the other.
                Operation::Publish => {
                    model.publish(producer);
                    models[1 - direction].publish_taken(producer);
                }
                Operation::PublishTaken => {
                    model.publish_taken(consumer);
                    models[1 - direction].publish(consumer);
                }
                Operation::GoOn => {
                    model.publish(producer);
                    models[1 - direction].publish_taken(producer);
                    let kept = &mut leases[1 - direction];
                    *producer = pair::go_on(producer, &lane.to_proxy, &lane.to_app, kept.iter_mut().map(|kept| &mut kept.0));
                }
                Operation::Take => drop(model.take(consumer, false)),
                Operation::TakeAndKeep => leases[direction].extend(model.take(consumer, true)),
                Operation::DropLease(which) if !leases[direction].is_empty() => {
                    let which = which % leases[direction].len();
                    let (lease, record) = leases[direction].swap_remove(which);
                    let mut bytes = vec![0; lease.len()];
                    assert!(lease.read(0, &mut bytes));
                    assert_eq!(bytes, pattern(record.number, record.len), "a kept block changed");
                    model.given_back += block_bytes(record.len);
                    drop(lease);
                }
                Operation::DropLease(_) => {}
            }
            prop_assert_eq!(lane.app.lent_bytes() >= models[1].lent, true);
        }
        drain(&mut lane, &mut models, leases);
    }
}

/// Everything is taken and given back: nothing may be left lent.
fn drain(lane: &mut pair::Pair, models: &mut [Model; 2], leases: [Vec<(BlockLease, Record)>; 2]) {
    drop(leases);
    lane.app.publish();
    lane.sidecar.publish();
    for model in models.iter_mut() {
        model.visible.append(&mut model.put);
    }
    while models[1].take(&mut lane.sidecar, false).is_some() || !models[1].visible.is_empty() {}
    while models[0].take(&mut lane.app, false).is_some() || !models[0].visible.is_empty() {}
    lane.app.publish();
    lane.sidecar.publish();
    assert_eq!((lane.app.lent_blocks(), lane.sidecar.lent_blocks()), (0, 0));
    assert_eq!((lane.app.unconsumed(), lane.sidecar.unconsumed()), (0, 0));
    assert_eq!((lane.app.room(), lane.sidecar.room()), (SMALL.entries, SMALL.entries));
}
