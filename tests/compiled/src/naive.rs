//! Code as one would write it, and that is wrong: the trap must find its second read. This is the crate's other unsafe module.

use shmesh_shm::Mapping;

use crate::probes::Seen;

/// Bytes that are copied.
pub const BYTES: usize = 256;

/// Copies a header to the stack, checks the byte at `field` of the copy, and copies the copy onward. Says what was checked
/// and what was passed on, unless the check refuses. The optimiser sees two copies and no write in between, and makes the
/// second one from the source of the first.
#[inline(never)]
pub fn copy_check_copy(memory: &Mapping, field: usize, onward: &mut [u8; BYTES]) -> Option<Seen> {
    let (shared, mut copy) = (memory.pointer(0, BYTES), [0; BYTES]);
    // SAFETY: the pointer is good for so many bytes; `copy` is private.
    unsafe { std::ptr::copy_nonoverlapping(shared, copy.as_mut_ptr(), BYTES) };
    let checked = copy[field];
    if checked > 100 {
        return None;
    }
    onward.copy_from_slice(&copy);
    Some((checked, onward[field]))
}

/// Reads a byte twice, and says so: found whatever the compiler does.
#[inline(never)]
pub fn read_twice(memory: &Mapping) -> Option<Seen> {
    let shared = memory.pointer(0, 1);
    // SAFETY: the pointer is good for a byte.
    let checked = unsafe { shared.read_volatile() };
    if checked > 100 {
        return None;
    }
    // SAFETY: as above.
    Some((checked, unsafe { shared.read_volatile() }))
}
