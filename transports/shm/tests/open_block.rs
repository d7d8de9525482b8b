//! Blocks that are filled where they lie.

mod pair;

use pair::{SMALL, data, pair, pattern, payload};
use shmesh_shm::NoRoom;

/// Blocks of the largest size in the arena of [`SMALL`].
const LARGEST: usize = 4;

#[test]
fn what_was_filled_arrives() {
    let mut pair = pair(SMALL);
    for (number, len) in [(1, 700), (2, 1), (3, 0)] {
        let mut block = pair.sidecar.open_block(1000).unwrap();
        let bytes = pattern(number, len);
        assert!(block.write(0, &bytes));
        assert!(!block.write(1, &pattern(0, 1000)), "beyond the block");
        let mut copy = vec![0; 1000];
        assert!(!block.read(1, &mut copy), "beyond the block");
        assert!(block.read(0, &mut copy));
        assert_eq!(copy[..len], bytes);
        pair.sidecar.put_block(&data(number), block, len as u32).unwrap();
        pair.sidecar.publish();
        let header = pair.app.peek().unwrap().unwrap();
        assert_eq!((header.length as usize, payload(&pair.app, header.length)), (len, bytes));
        pair.app.advance();
        pair.app.publish();
    }
    assert_eq!(pair.sidecar.lent_blocks(), 0);
}

#[test]
fn what_was_opened_for_nothing_is_free_again() {
    let mut pair = pair(SMALL);
    assert_eq!(pair.sidecar.open_block(1025).unwrap_err(), NoRoom::TooLong);
    for _ in 0..3 {
        let blocks: Vec<_> = (0..LARGEST).map(|_| pair.sidecar.open_block(1024).unwrap()).collect();
        assert_eq!(pair.sidecar.open_block(64).unwrap_err(), NoRoom::Arena);
        assert_eq!(pair.sidecar.largest_part(), 0);
        drop(blocks);
        assert_eq!((pair.sidecar.lent_blocks(), pair.sidecar.largest_part()), (0, 1024));
    }
}

#[test]
fn a_block_goes_into_its_own_lane_and_no_further_than_its_end() {
    let (mut pair, mut other) = (pair(SMALL), pair::pair(SMALL));
    let block = other.sidecar.open_block(100).unwrap();
    let block = pair.sidecar.put_block(&data(1), block, 100).unwrap_err();
    let block = other.sidecar.put_block(&data(1), block, 101).unwrap_err();
    for number in 1..=u64::from(SMALL.entries) {
        other.sidecar.put(&data(number), &[b"x"]).unwrap();
    }
    let block = other.sidecar.put_block(&data(9), block, 100).unwrap_err();
    other.sidecar.publish();
    other.app.peek().unwrap().unwrap();
    other.app.advance();
    other.app.publish();
    other.sidecar.put_block(&data(9), block, 100).unwrap();
    assert_eq!((pair.sidecar.lent_blocks(), other.sidecar.lent_blocks()), (0, 1));
}
