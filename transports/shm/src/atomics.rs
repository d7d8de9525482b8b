//! The atomics that the rings are built on: the processor's, or loom's when the models run.

#[cfg(not(any(loom, shmesh_sim)))]
pub(crate) use std::sync::atomic::fence;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::AtomicU32;

/// In the simulation one thread is all processes, and stores wait until a fence.
#[cfg(shmesh_sim)]
pub(crate) fn fence(order: Ordering) {
    if order == Ordering::SeqCst {
        crate::delayed::flush_stores();
    }
}
