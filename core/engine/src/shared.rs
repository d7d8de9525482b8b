//! What all threads of the engine see.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use arc_swap::ArcSwap;
use shmesh_policy::Snapshot;

use crate::counters::Registry;
use crate::load::LoadDesk;
use crate::session::SessionDesk;

/// Shared by the workers, the session thread and the control side.
pub struct Shared {
    /// The newest snapshot; a worker picks it up between turns.
    pub snapshot: ArcSwap<Snapshot>,
    /// Its version, so that a turn looks at one word.
    pub version: AtomicU64,
    pub registry: Arc<Registry>,
    pub draining: AtomicBool,
    pub sessions: SessionDesk,
    /// What the process has to work with.
    pub load: LoadDesk,
}
