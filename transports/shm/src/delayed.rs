//! Under `--cfg shmesh_sim`: stores as a processor makes them. The others see them later than the one that stores, in order, and at
//! the latest when it passes a SeqCst fence, an atomic read-modify-write, or enters the kernel. (That is x86; loom
//! explores what weaker machines do.)

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;

use memmap2::MmapRaw;

use crate::host;
use crate::region::store_late;

/// The stores of one thread that the others do not see yet.
#[derive(Default)]
pub struct StoreBuffer {
    stores: VecDeque<Store>,
    /// How many there may be; 0 = every store is seen at once.
    pub depth: usize,
}

struct Store {
    memory: Arc<MmapRaw>,
    at: usize,
    width: Width,
    value: u64,
}

/// How much is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Width {
    Word,
    Half,
}

thread_local! {
    static BUFFER: RefCell<StoreBuffer> = RefCell::new(StoreBuffer::default());
    static EMPTY: Cell<bool> = const { Cell::new(true) };
}

impl Store {
    fn apply(self) {
        store_late(&self.memory, self.at, self.width, self.value);
    }
}

/// The running thread becomes another one.
pub fn swap_stores(other: &mut StoreBuffer) {
    BUFFER.with_borrow_mut(|buffer| {
        std::mem::swap(buffer, other);
        EMPTY.set(buffer.stores.is_empty());
    });
}

/// Everything that the running thread stored is seen.
pub fn flush_stores() {
    if !EMPTY.get() {
        BUFFER.with_borrow_mut(|buffer| buffer.stores.drain(..).for_each(Store::apply));
        EMPTY.set(true);
    }
}

/// A step, and then what the running thread itself stored there, if nobody else sees it yet.
pub(crate) fn load(memory: &Arc<MmapRaw>, at: usize) -> Option<u64> {
    host::step();
    if EMPTY.get() {
        return None;
    }
    BUFFER.with_borrow(|buffer| {
        let mine = |store: &&Store| store.at == at && Arc::ptr_eq(&store.memory, memory);
        buffer.stores.iter().rev().find(mine).map(|store| store.value)
    })
}

/// A step; then true if the store was taken, or must not happen because the process is dead.
pub(crate) fn store(memory: &Arc<MmapRaw>, at: usize, width: Width, value: u64) -> bool {
    if !host::step() {
        return true;
    }
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.depth == 0 {
            return false;
        }
        buffer.stores.push_back(Store { memory: memory.clone(), at, width, value });
        if buffer.stores.len() > buffer.depth {
            buffer.stores.pop_front().into_iter().for_each(Store::apply);
        }
        EMPTY.set(false);
        true
    })
}

/// A step before something that waits for all earlier stores; false if the process is dead.
pub(crate) fn drained_step() -> bool {
    flush_stores();
    host::step()
}
