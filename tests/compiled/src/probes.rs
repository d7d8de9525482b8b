//! What the sidecar and the shim read of their peer's memory, each in a function of its own, compiled as in a release.
//!
//! A probe that copies does what the optimiser likes best to undo: it copies to the stack, checks one byte of the copy (which one, is
//! not known to the compiler), and copies the copy onward. It says what was checked, and what was passed on.

use shmesh_io::SharedSlice;
use shmesh_shm::{BlockLease, CallState, DirtyWatch, Header, LaneEnd, Violation};

/// Payload bytes that are copied.
pub const HEAD_BYTES: usize = 256;

/// A checked byte is at most this.
const BYTE_MAX: u8 = 100;

/// A checked byte, and what was passed on in its place.
pub type Seen = (u8, u8);

#[inline(never)]
pub fn record(lane: &mut LaneEnd) -> Result<Option<Header>, Violation> {
    lane.peek()
}

/// A key or head as the engine copies it.
#[inline(never)]
pub fn head(lane: &mut LaneEnd, field: usize, onward: &mut Vec<u8>) -> Option<Seen> {
    let header = lane.peek().ok()??;
    let mut head = Vec::new();
    lane.append_payload(0..header.head_len, &mut head).ok()?;
    let checked = *head.get(field)?;
    if checked > BYTE_MAX {
        return None;
    }
    onward.clear();
    onward.extend_from_slice(&head);
    Some((checked, onward[field]))
}

#[inline(never)]
pub fn head_on_the_stack(lane: &LaneEnd, field: usize, onward: &mut [u8; HEAD_BYTES]) -> Option<Seen> {
    let mut head = [0; HEAD_BYTES];
    lane.read_payload(0, &mut head).ok()?;
    check_and_pass_on(&head, field, onward)
}

/// Bytes behind a head that is known.
#[inline(never)]
pub fn known_head(lane: &LaneEnd, head: &[u8]) -> Option<usize> {
    lane.place_behind(head).map(|place| place.len())
}

#[inline(never)]
pub fn lent_block(lease: &BlockLease, field: usize, onward: &mut [u8; HEAD_BYTES]) -> Option<Seen> {
    let mut head = [0; HEAD_BYTES];
    if !lease.read(0, &mut head) {
        return None;
    }
    check_and_pass_on(&head, field, onward)
}

#[inline(never)]
pub fn shared_slice(slice: &SharedSlice, field: usize, onward: &mut [u8; HEAD_BYTES]) -> Option<Seen> {
    let mut head = [0; HEAD_BYTES];
    slice.read_into(&mut head);
    check_and_pass_on(&head, field, onward)
}

/// What came back: as the number of blocks that are still lent.
#[inline(never)]
pub fn releases(lane: &mut LaneEnd) -> u32 {
    lane.lent_blocks()
}

#[inline(never)]
pub fn consumed(lane: &mut LaneEnd) -> u32 {
    lane.unconsumed()
}

#[inline(never)]
pub fn dirty(watch: &mut DirtyWatch) -> u64 {
    watch.take()
}

#[inline(never)]
pub fn withdrawn(lane: &LaneEnd, slot: u32, generation: u64) -> bool {
    lane.is_withdrawn(slot, generation)
}

#[inline(never)]
pub fn state(lane: &LaneEnd, slot: u32) -> (u64, CallState) {
    lane.state(slot)
}

#[inline(never)]
pub fn ring(lane: &mut LaneEnd) -> bool {
    lane.publish()
}

#[inline(always)]
fn check_and_pass_on(head: &[u8; HEAD_BYTES], field: usize, onward: &mut [u8; HEAD_BYTES]) -> Option<Seen> {
    let checked = head[field];
    if checked > BYTE_MAX {
        return None;
    }
    onward.copy_from_slice(head);
    Some((checked, onward[field]))
}
