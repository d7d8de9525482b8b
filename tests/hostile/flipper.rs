//! A thread that changes words of `to_proxy` while the sidecar reads them: between check and use, if there is such a place.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use shmesh_shm::geometry::{CONSUMED, PARKED, PUBLISHED, RELEASED, SLOT_WORDS, WITHDRAWN};
use shmesh_shm::{Geometry, Mapping};

use crate::app::App;
use crate::choices::Choices;

/// Changes that are made in one go before the thread looks whether it should stop.
const BURST: u64 = 256;

/// What is changed.
#[derive(Clone)]
struct Target {
    memory: Arc<Mapping>,
    geometry: Geometry,
    lane_at: usize,
    /// The ring's newest entry, near which changes meet a reader.
    newest: u64,
}

#[derive(Default)]
struct Shared {
    target: Mutex<Option<Target>>,
    flips: AtomicU64,
    stop: AtomicBool,
}

pub struct Flipper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Flipper {
    pub fn start(seed: u64) -> Flipper {
        let shared = Arc::new(Shared::default());
        let run = shared.clone();
        let thread = std::thread::spawn(move || {
            let mut choices = Choices::Seeded(seed);
            while !run.stop.load(Ordering::Relaxed) {
                let target = run.target.lock().expect("no panic").clone();
                let Some(target) = target else {
                    std::thread::park();
                    continue;
                };
                for _ in 0..BURST {
                    target.flip(&mut choices);
                }
                run.flips.fetch_add(BURST, Ordering::Relaxed);
                // The machine has few cores, and others have to get on as well.
                std::thread::yield_now();
            }
        });
        Flipper { shared, thread: Some(thread) }
    }

    /// Changes this app's memory from here on.
    pub fn aim(&self, app: &App, lane: usize) {
        let state = &app.lanes[lane];
        let target =
            Target { memory: app.to_proxy.clone(), geometry: app.geometry, lane_at: state.at, newest: state.put };
        *self.shared.target.lock().expect("no panic") = Some(target);
        self.thread.as_ref().expect("it runs").thread().unpark();
    }

    /// Leaves it alone.
    pub fn rest(&self) {
        *self.shared.target.lock().expect("no panic") = None;
    }

    /// Words changed so far.
    pub fn flips(&self) -> u64 {
        self.shared.flips.load(Ordering::Relaxed)
    }
}

impl Drop for Flipper {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it runs");
        thread.thread().unpark();
        let _ = thread.join();
    }
}

impl Target {
    /// Changes one word, and puts it back as a rule: the reader may see both.
    fn flip(&self, choices: &mut Choices) {
        let Geometry { entries, stride, .. } = self.geometry;
        let place = (self.newest.wrapping_add(choices.below(16))) & u64::from(entries - 1);
        let entry = self.lane_at + self.geometry.ring_at() + place as usize * stride as usize;
        let at = match choices.below(24) {
            // The header: length and block in one word, head and route in another.
            0..=11 => entry + 8 * choices.below(6) as usize,
            // A key, a frame's header, a chunk line.
            12..=19 => entry + 48 + 8 * choices.below(24) as usize,
            20 => self.lane_at + self.geometry.arena_at() + 8 * choices.below(64) as usize,
            21 => self.lane_at + PARKED,
            22 => self.lane_at + SLOT_WORDS + 8 * choices.below(8) as usize,
            _ => self.lane_at + choices.pick(&[PUBLISHED, CONSUMED, RELEASED, WITHDRAWN]),
        };
        let before = self.memory.load(at);
        let lie = match choices.below(3) {
            0 => before ^ 1 << choices.below(64),
            1 => before.wrapping_add(1 << choices.pick(&[0, 6, 32, 38])),
            _ => choices.word(),
        };
        self.memory.store(at, lie);
        for _ in 0..choices.below(32) {
            std::hint::spin_loop();
        }
        if !choices.one_in(8) {
            self.memory.store(at, before);
        }
    }
}
