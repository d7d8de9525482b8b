//! Sessions as the rest of the engine sees them: what a worker is handed when an app attaches, and the desk through which
//! workers and the session thread talk.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use crossbeam::queue::SegQueue;
use shmesh_shm::{DirtyWatch, Geometry, Mapping};

use crate::counters::lock;
use crate::direct::Direct;
use crate::handover::{DeskHandover, RestOrder};
use crate::lane::Lane;
use crate::quota::{QuotaDesk, SessionUse};
use crate::slab::Key;

/// The lanes of one session that belong to one worker.
pub struct NewLanes {
    pub session: u64,
    pub app: Arc<str>,
    pub listener: u16,
    pub worker: u16,
    pub to_proxy: Arc<Mapping>,
    pub to_app: Arc<Mapping>,
    pub geometry: Geometry,
    /// What the session counts against.
    pub usage: Arc<SessionUse>,
    /// The eventfd that the app rings.
    pub bell: OwnedFd,
    pub lanes: Vec<NewLane>,
}

/// One of them.
pub struct NewLane {
    pub lane: u16,
    pub bit: u8,
    pub serving: bool,
    /// Rings the app. None: it comes with the state of the worker that another process had.
    pub bell: Option<OwnedFd>,
}

/// A session in a worker.
pub struct Attached {
    pub watch: DirtyWatch,
    pub bell: shmesh_io::SockId,
    /// Lanes by their bit.
    pub lanes: Vec<Option<Key<Lane>>>,
}

/// What is known of a session; for the admin interface.
#[derive(Clone, Debug)]
pub struct SessionView {
    pub id: u64,
    /// The name that the app gave itself; may be empty.
    pub app: String,
    pub uid: u32,
    /// As the kernel tells; means something only in the sidecar's PID namespace. Never an identity.
    pub pid: i32,
    pub calling: u32,
    pub serving: u32,
    /// The app cannot write `to_app`.
    pub isolation: bool,
    pub since: SystemTime,
}

/// Where workers leave word for the session thread, and everyone finds the list of sessions.
#[derive(Default)]
pub struct SessionDesk {
    /// Sessions that a worker wants ended.
    pub ended: SegQueue<u64>,
    /// Wakes the session thread.
    pub bell: Mutex<Option<OwnedFd>>,
    pub list: Mutex<HashMap<u64, SessionView>>,
    /// Which apps are to go round.
    pub direct: Mutex<Direct>,
    /// The session thread is to come to rest.
    pub rest: Mutex<Option<RestOrder<DeskHandover>>>,
    /// What sessions may take, and have.
    pub quotas: QuotaDesk,
}

impl SessionDesk {
    /// Ends a session whose app broke shm-v1.
    pub fn end(&self, session: u64) {
        self.ended.push(session);
        self.wake();
    }

    /// The sessions that workers wanted ended so far; for when all of these threads rest.
    pub fn ended_so_far(&self) -> Vec<u64> {
        let ended: Vec<u64> = std::iter::from_fn(|| self.ended.pop()).collect();
        ended.iter().for_each(|&session| self.ended.push(session));
        ended
    }

    /// Makes the session thread look at its surroundings: sessions to end, a new snapshot, draining.
    pub fn wake(&self) {
        if let Some(bell) = lock(&self.bell).as_ref() {
            // A full eventfd is rung already.
            let _ = shmesh_shm::doorbell::ring_worker(bell);
        }
    }
}
