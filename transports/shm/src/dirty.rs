//! Which lanes a worker should look at: the session page's words. docs/spec/shm-v1.md §7.

use std::fmt;
use std::sync::Arc;

use crate::atomics::{Ordering, fence};
use crate::geometry::{MAX_LANES_PER_WORKER, MAX_WORKERS, worker_word};
use crate::region::Mapping;

/// The app's side: marks lanes before their worker is rung. Shared by all threads of the session.
#[derive(Clone)]
pub struct Dirty {
    to_proxy: Arc<Mapping>,
    to_app: Arc<Mapping>,
}

impl Dirty {
    pub fn new(to_proxy: &Arc<Mapping>, to_app: &Arc<Mapping>) -> Dirty {
        Dirty { to_proxy: to_proxy.clone(), to_app: to_app.clone() }
    }

    /// Marks the lane that has this bit of this worker's word. To be called after the lane's `publish` said to ring
    /// (its SeqCst fence stands between the record and the load of `seen` here) and before the eventfd is written.
    ///
    /// # Panics
    /// When `worker` or `bit` is beyond the page's limits; WELCOME was checked for that.
    pub fn mark(&self, worker: u16, bit: u8) {
        assert!(worker < MAX_WORKERS && u16::from(bit) < MAX_LANES_PER_WORKER, "beyond the session page");
        let at = worker_word(worker);
        let mask = 1 << bit;
        let seen = self.to_app.load(at) & mask != 0;
        self.to_proxy.change_bits(at, mask, !seen); // model: dirty
    }
}

impl fmt::Debug for Dirty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dirty").finish_non_exhaustive()
    }
}

/// The sidecar's side, one for each worker of the session.
pub struct DirtyWatch {
    to_proxy: Arc<Mapping>,
    to_app: Arc<Mapping>,
    at: usize,
    seen: u64,
}

impl DirtyWatch {
    /// # Panics
    /// When `worker` is beyond the page's limit.
    pub fn new(to_proxy: &Arc<Mapping>, to_app: &Arc<Mapping>, worker: u16) -> DirtyWatch {
        assert!(worker < MAX_WORKERS, "beyond the session page");
        DirtyWatch { to_proxy: to_proxy.clone(), to_app: to_app.clone(), at: worker_word(worker), seen: 0 }
    }

    /// As [`DirtyWatch::new`], going on where another process stopped, which had `seen` these bits.
    ///
    /// # Panics
    /// As [`DirtyWatch::new`].
    pub fn go_on(to_proxy: &Arc<Mapping>, to_app: &Arc<Mapping>, worker: u16, seen: u64) -> DirtyWatch {
        DirtyWatch { seen, ..DirtyWatch::new(to_proxy, to_app, worker) }
    }

    /// The bits as they were the last time.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// The bits of the lanes that were marked since the last time; look at each of them now. One load when there are none.
    pub fn take(&mut self) -> u64 {
        let dirty = self.to_proxy.load(self.at);
        let changed = dirty ^ self.seen;
        if changed != 0 {
            self.seen = dirty;
            self.to_app.store(self.at, dirty);
            // SeqCst: pairs with the fence in `LaneEnd::publish`. A shim that still loads the old `seen` published
            // before the look that follows here, so that look finds its records.
            fence(Ordering::SeqCst); // model: seen
        }
        changed
    }

    /// Whether a lane was marked. One load.
    pub fn is_due(&self) -> bool {
        self.to_proxy.load(self.at) != self.seen
    }
}
