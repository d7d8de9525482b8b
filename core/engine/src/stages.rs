//! Where a worker's time goes, stage by stage, while the setting `stages` is on. Off, each mark is one branch.
//!
//! A turn is cut at marks, and each piece is added to its stage once it is known whether the turn found anything to do: the
//! turns that did not are the wait loop.

use std::sync::Arc;

use shmesh_shm::host;

use crate::counters::WorkerCounters;

/// A piece of a turn.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Asleep in the driver.
    Parked,
    /// Sockets, timers, mail: what the driver completed, and what became of it.
    Driver,
    /// Records taken from rings, checked, turned into calls; the look-up of their route is counted apart, and is part of it.
    Ingress,
    /// Calls forwarded: *forwarded* stored, `withdrawn` read, requests put.
    Dispatch,
    /// Answers and requests published, sockets written to.
    Egress,
}

const STAGES: usize = 5;

/// A worker's stopwatch.
pub struct Stages {
    on: bool,
    mark: u64,
    turn: [u64; STAGES],
    counters: Arc<WorkerCounters>,
}

impl Stages {
    pub fn new(counters: Arc<WorkerCounters>) -> Stages {
        Stages { on: false, mark: 0, turn: [0; STAGES], counters }
    }

    /// Starts or stops to measure; between turns only.
    pub fn set(&mut self, on: bool) {
        if on != self.on {
            self.on = on;
            self.mark = host::now();
            self.turn = [0; STAGES];
        }
    }

    /// What passed since the last mark was this stage.
    #[inline]
    pub fn mark(&mut self, stage: Stage) {
        if self.on {
            let now = host::now();
            self.turn[stage as usize] += now - self.mark;
            self.mark = now;
        }
    }

    /// A turn is over.
    #[inline]
    pub fn turn_over(&mut self, worked: bool) {
        if self.on {
            self.add_up(worked);
        }
    }

    /// The beginning of something that is counted apart.
    #[inline]
    pub fn begin(&self) -> u64 {
        if self.on { host::now() } else { 0 }
    }

    /// A route was looked up since `begun`.
    #[inline]
    pub fn routed(&self, begun: u64) {
        if self.on {
            self.counters.stage_route.add(host::now() - begun);
        }
    }

    /// So many records were taken from a lane at which it was last looked at `looked`: each waited at most since then.
    #[inline]
    pub fn waited(&self, looked: u64, records: usize) {
        if self.on {
            let most = host::now().saturating_sub(looked);
            self.counters.stage_ring_wait.add(most * records as u64);
            self.counters.stage_records.add(records as u64);
        }
    }

    /// A call was answered so long after its record was taken.
    #[inline]
    pub fn answered(&self, took_ns: u64) {
        if self.on {
            self.counters.stage_upstream.add(took_ns);
            self.counters.stage_calls.add(1);
        }
    }

    #[cold]
    fn add_up(&mut self, worked: bool) {
        let [parked, driver, ingress, dispatch, egress] = std::mem::take(&mut self.turn);
        let counters = &self.counters;
        counters.stage_parked.add(parked);
        if worked {
            counters.stage_driver.add(driver);
            counters.stage_ingress.add(ingress);
            counters.stage_dispatch.add(dispatch);
            counters.stage_egress.add(egress);
        } else {
            counters.stage_wait.add(driver + ingress + dispatch + egress);
        }
    }
}
