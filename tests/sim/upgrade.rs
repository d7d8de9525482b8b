//! The sidecar is replaced while it works: all its workers and its session desk rest, give what they know, and others go on with that; or they go
//! on themselves, as if nothing had been.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use shmesh_engine::embed::{Ahead, DeskHandover, Handover, LoneDesk, LoneWorker};
use shmesh_io::Nanos;
use shmesh_io::sim::SimDriver;

use crate::journal;
use crate::machine::{Machine, ProcessId};

/// A sidecar that does not come to rest within this goes on, in nanoseconds.
const PATIENCE: u64 = 400_000_000;

/// How far an upgrade is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// There is none.
    None,
    /// The desk is to rest.
    Desk,
    /// Workers are to give what they can give while they work.
    Ahead,
    /// And the workers.
    Workers,
    /// All have given; whoever waits goes on, with what lies in `next` or with what it had.
    Over,
}

/// Where the threads of a sidecar meet for an upgrade.
#[derive(Clone)]
pub struct Meeting(Rc<Inner>);

struct Inner {
    phase: Cell<Phase>,
    desk: RefCell<Option<DeskHandover>>,
    ahead: RefCell<Vec<Option<Ahead>>>,
    workers: RefCell<Vec<Option<Handover>>>,
    /// A worker did not come to rest.
    failed: Cell<bool>,
    next_desk: RefCell<Option<LoneDesk>>,
    next_workers: RefCell<Vec<Option<LoneWorker<SimDriver>>>>,
    /// Who is still waiting for the end of the upgrade.
    waiting: Cell<usize>,
}

/// Everything that a sidecar gave.
pub struct Given {
    pub desk: DeskHandover,
    pub ahead: Vec<Option<Ahead>>,
    pub workers: Vec<Handover>,
}

/// Who goes on with it.
pub struct Next {
    pub desk: LoneDesk,
    pub workers: Vec<LoneWorker<SimDriver>>,
}

impl Meeting {
    pub fn new(workers: usize) -> Meeting {
        Meeting(Rc::new(Inner {
            phase: Cell::new(Phase::None),
            desk: RefCell::default(),
            ahead: RefCell::new((0..workers).map(|_| None).collect()),
            workers: RefCell::new((0..workers).map(|_| None).collect()),
            failed: Cell::new(false),
            next_desk: RefCell::default(),
            next_workers: RefCell::new((0..workers).map(|_| None).collect()),
            waiting: Cell::new(0),
        }))
    }

    /// One is going on.
    pub fn is_held(&self) -> bool {
        self.0.phase.get() != Phase::None || self.0.waiting.get() > 0
    }

    /// Begins one, in a task of its own. Workers give ahead for so long, if for any time. `make` gets everything, and makes those who go on, or none if the old ones are to.
    pub fn begin(
        &self,
        machine: &Machine,
        process: ProcessId,
        ahead: Option<Nanos>,
        wake: impl Fn() + 'static,
        make: impl FnOnce(Given) -> Option<Next> + 'static,
    ) {
        if self.is_held() {
            return;
        }
        let (meeting, machine_of) = (self.clone(), machine.clone());
        self.0.phase.set(Phase::Desk);
        machine.spawn(process, "upgrade", move || {
            let (inner, machine) = (meeting.0.clone(), machine_of);
            let until = machine.now() + PATIENCE;
            wake();
            let of = inner.clone();
            machine.wait(Some(until), move || of.desk.borrow().is_some());
            if let Some(time) = ahead.filter(|_| inner.desk.borrow().is_some()) {
                inner.phase.set(Phase::Ahead);
                wake();
                machine.sleep(time);
            }
            if inner.desk.borrow().is_some() {
                inner.phase.set(Phase::Workers);
                wake();
                let of = inner.clone();
                let all = move || of.failed.get() || of.workers.borrow().iter().all(Option::is_some);
                machine.wait(Some(until), all);
            }
            let ahead = inner.ahead.borrow_mut().iter_mut().map(Option::take).collect();
            let (desk, workers) =
                (inner.desk.take(), inner.workers.borrow_mut().iter_mut().map(Option::take).collect());
            let workers: Option<Vec<Handover>> = {
                let all: Vec<Option<Handover>> = workers;
                all.into_iter().collect()
            };
            if let (Some(desk), Some(workers)) = (desk, workers)
                && let Some(next) = make(Given { desk, ahead, workers })
            {
                journal::note(|| "another sidecar goes on".to_owned());
                *inner.next_desk.borrow_mut() = Some(next.desk);
                *inner.next_workers.borrow_mut() = next.workers.into_iter().map(Some).collect();
            } else {
                journal::note(|| "the upgrade does not happen, and the sidecar goes on".to_owned());
            }
            inner.failed.set(false);
            inner.phase.set(Phase::Over);
            let of = inner.clone();
            machine.wait(None, move || of.waiting.get() == 0);
            inner.phase.set(Phase::None);
        });
    }

    /// The desk, after each of its turns.
    pub fn desk(&self, machine: &Machine, desk: &mut LoneDesk) {
        if self.0.phase.get() != Phase::Desk || self.0.desk.borrow().is_some() {
            return;
        }
        *self.0.desk.borrow_mut() = Some(desk.give().expect("it can be given"));
        self.rest(machine);
        if let Some(next) = self.0.next_desk.take() {
            *desk = next;
        }
    }

    /// A worker, after each of its turns.
    pub fn worker(&self, machine: &Machine, index: usize, worker: &mut LoneWorker<SimDriver>) {
        if self.0.phase.get() == Phase::Ahead && self.0.ahead.borrow()[index].is_none() {
            self.0.ahead.borrow_mut()[index] = Some(worker.give_ahead().expect("what can be given"));
        }
        if self.0.phase.get() != Phase::Workers || self.0.failed.get() || self.0.workers.borrow()[index].is_some() {
            return;
        }
        match worker.give(self.0.ahead.borrow()[index].as_ref()).expect("a driver that works") {
            Some(given) => self.0.workers.borrow_mut()[index] = Some(given),
            // It goes on by itself.
            None => return self.0.failed.set(true),
        }
        self.rest(machine);
        // What goes on may give its turn to others.
        let next = self.0.next_workers.borrow_mut()[index].take();
        match next {
            Some(next) => *worker = next,
            None => worker.go_on(),
        }
    }

    fn rest(&self, machine: &Machine) {
        self.0.waiting.set(self.0.waiting.get() + 1);
        let of = self.0.clone();
        machine.wait(None, move || of.phase.get() == Phase::Over);
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}
