//! The machine that all processes of a run share: it decides who runs next, lets time pass, and kills.
//!
//! A process is a name and some tasks (its threads). A task is a coroutine that is interrupted after a random number of
//! accesses to shared memory, or when it waits. One seed decides everything.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use nix::poll::{PollFd, PollFlags};
use shmesh_io::Nanos;
use shmesh_io::sim::World;
use shmesh_shm::delayed::{StoreBuffer, flush_stores, swap_stores};
use shmesh_shm::host;

use crate::coroutine::{self, Coroutine};
use crate::journal;
use crate::random::Random;

/// Descriptors are looked at whenever nobody can run, and else once in so many turns.
const LOOK_EVERY: u64 = 6;

/// Accesses to shared memory that a task may make without being interrupted, whatever was drawn.
const STEPS_MAX: u64 = 20_000;

/// Turns of all tasks in one run; more is a hang.
const TURNS_MAX: u64 = 400_000;

/// Accesses of one task between two signs of life ([`Machine::turned`]), if it gives any.
const STEPS_PER_TURN_MAX: u64 = 200_000;

/// Bytes of payload that are copied in a nanosecond.
const COPIED_PER_NS: u64 = 10;

/// What an access to shared memory takes, in nanoseconds.
const STEP_NS: Nanos = 4;

/// How tasks are interrupted.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Mean number of accesses to shared memory between two interruptions.
    pub steps: u64,
    /// Stores of a thread that others may not see yet.
    pub store_depth: usize,
    /// The longest that a yield takes, in nanoseconds.
    pub yield_max: Nanos,
}

/// Clock, processes and tasks of one run. Cheap to clone.
#[derive(Clone)]
pub struct Machine(Rc<Inner>);

struct Inner {
    world: World,
    pace: Pace,
    random: RefCell<Random>,
    processes: RefCell<Vec<Process>>,
    tasks: RefCell<Vec<Task>>,
    running: Cell<Option<usize>>,
    turns: Cell<u64>,
    fingerprint: Cell<u64>,
    failure: RefCell<Option<String>>,
}

/// A process of a run.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct ProcessId(usize);

struct Process {
    name: String,
    alive: bool,
    stopped_until: Nanos,
    worked: Cell<Nanos>,
}

struct Task {
    name: String,
    process: usize,
    coroutine: Option<Coroutine>,
    state: State,
    stores: StoreBuffer,
    /// Gives signs of life.
    turning: bool,
    steps: u64,
}

enum State {
    Ready,
    Waiting(Waiting),
    Over,
}

#[derive(Default)]
struct Waiting {
    until: Option<Nanos>,
    descriptors: Vec<(RawFd, i16)>,
    ready: Option<Box<dyn Fn() -> bool>>,
}

impl Machine {
    pub fn new(world: &World, pace: Pace, random: Random) -> Machine {
        let inner = Rc::new(Inner {
            world: world.clone(),
            pace,
            random: RefCell::new(random),
            processes: RefCell::default(),
            tasks: RefCell::default(),
            running: Cell::new(None),
            turns: Cell::new(0),
            fingerprint: Cell::new(0),
            failure: RefCell::default(),
        });
        host::install(Some(inner.clone()));
        host::enter(true, u64::MAX);
        let weak = Rc::downgrade(&inner);
        world.set_blocker(Rc::new(move |pause| {
            let Some(inner) = weak.upgrade() else { return };
            flush_stores();
            let node = pause.node.clone();
            inner.suspend(State::Waiting(Waiting {
                until: pause.until,
                descriptors: pause.fds.iter().map(|fd| (fd.as_raw_fd(), PollFlags::POLLIN.bits())).collect(),
                ready: Some(Box::new(move || node.has_due())),
            }));
        }));
        Machine(inner)
    }

    pub fn world(&self) -> &World {
        &self.0.world
    }

    pub fn now(&self) -> Nanos {
        self.0.world.now()
    }

    /// A process without a task yet.
    pub fn process(&self, name: &str) -> ProcessId {
        let mut processes = self.0.processes.borrow_mut();
        processes.push(Process { name: name.to_owned(), alive: true, stopped_until: 0, worked: Cell::new(0) });
        ProcessId(processes.len() - 1)
    }

    /// Starts a task.
    pub fn spawn(&self, process: ProcessId, name: &str, body: impl FnOnce() + 'static) {
        let task = Task {
            name: name.to_owned(),
            process: process.0,
            coroutine: Some(Coroutine::new(body)),
            state: State::Ready,
            stores: StoreBuffer::default(),
            turning: false,
            steps: 0,
        };
        let mut tasks = self.0.tasks.borrow_mut();
        tasks.push(task);
        let task = tasks.last_mut().expect("just pushed");
        task.stores.depth = self.0.pace.store_depth;
    }

    pub fn is_alive(&self, process: ProcessId) -> bool {
        self.0.processes.borrow()[process.0].alive
    }

    /// All tasks of the process have ended.
    pub fn is_over(&self, process: ProcessId) -> bool {
        self.0.tasks.borrow().iter().filter(|task| task.process == process.0).all(|task| task.coroutine.is_none())
    }

    /// Ends a process as SIGKILL does, wherever it is.
    pub fn kill(&self, process: ProcessId) {
        let name = {
            let mut processes = self.0.processes.borrow_mut();
            let process = &mut processes[process.0];
            process.alive = false;
            process.name.clone()
        };
        journal::note(|| format!("{name} is killed"));
        self.0.world.kill(&name);
        for index in 0.. {
            let (coroutine, stores) = {
                let mut tasks = self.0.tasks.borrow_mut();
                let Some(task) = tasks.get_mut(index) else { break };
                if task.process != process.0 {
                    continue;
                }
                task.state = State::Over;
                (task.coroutine.take(), std::mem::take(&mut task.stores))
            };
            arrive(stores);
            if let Some(mut coroutine) = coroutine {
                host::enter(false, u64::MAX);
                coroutine.unwind();
                host::enter(true, u64::MAX);
            }
        }
    }

    /// Ends all processes, and the machine with them.
    pub fn end(&self) {
        let all = self.0.processes.borrow().len();
        (0..all).map(ProcessId).filter(|process| self.is_alive(*process)).for_each(|process| self.kill(process));
        host::install(None);
    }

    /// Stops a process as SIGSTOP does, until then.
    pub fn stop(&self, process: ProcessId, until: Nanos) {
        {
            let process = &mut self.0.processes.borrow_mut()[process.0];
            journal::note(|| format!("{} is stopped until {}", process.name, (until - World::EPOCH) / 1000));
            process.stopped_until = until;
        }
        for task in self.0.tasks.borrow_mut().iter_mut().filter(|task| task.process == process.0) {
            let depth = task.stores.depth;
            arrive(std::mem::take(&mut task.stores));
            task.stores.depth = depth;
        }
    }

    /// Something is wrong; the first word counts.
    pub fn fail(&self, what: impl Into<String>) {
        let what = what.into();
        journal::note(|| format!("WRONG: {what}"));
        self.0.failure.borrow_mut().get_or_insert(what);
    }

    pub fn failure(&self) -> Option<String> {
        self.0.failure.borrow().clone()
    }

    pub fn turns(&self) -> u64 {
        self.0.turns.get()
    }

    /// What the run was like: runs that are the same have the same one.
    pub fn fingerprint(&self) -> u64 {
        self.0.fingerprint.get() ^ self.0.world.fingerprint().rotate_left(32)
    }

    /// For tasks: the one that runs gives a sign of life.
    pub fn turned(&self) {
        if let Some(running) = self.0.running.get() {
            let task = &mut self.0.tasks.borrow_mut()[running];
            task.turning = true;
            task.steps = 0;
        }
    }

    /// The time that a process has worked, as its accesses to shared memory and its copies of payload account for it.
    pub fn worked(&self, process: ProcessId) -> Nanos {
        self.0.processes.borrow()[process.0].worked.get()
    }

    /// What it takes to copy so much payload.
    pub fn copying(bytes: u64) -> Nanos {
        bytes / COPIED_PER_NS
    }

    /// For tasks: does this without being interrupted.
    pub fn at_once<T>(&self, what: impl FnOnce() -> T) -> T {
        let left = host::steps_left();
        host::enter(true, u64::MAX);
        let outcome = what();
        host::enter(true, left);
        outcome
    }

    /// For tasks: waits until this is true, or until then.
    pub fn wait(&self, until: Option<Nanos>, ready: impl Fn() -> bool + 'static) {
        flush_stores();
        if host::is_alive() {
            self.0.suspend(State::Waiting(Waiting { until, descriptors: Vec::new(), ready: Some(Box::new(ready)) }));
        }
    }

    /// For tasks: lets time pass.
    pub fn sleep(&self, time: Nanos) {
        let until = self.now() + time;
        while host::is_alive() && self.now() < until {
            self.wait(Some(until), || false);
        }
    }

    /// Lets everybody run until that time, or until `done`, or until something is wrong. Says whether it was done.
    pub fn run(&self, until: Nanos, done: impl Fn() -> bool) -> bool {
        let inner = &self.0;
        let mut ready = Vec::new();
        loop {
            if inner.failure.borrow().is_some() {
                return false;
            }
            if done() {
                return true;
            }
            let now = self.now();
            if now >= until {
                return false;
            }
            inner.turns.set(inner.turns.get() + 1);
            if inner.turns.get() > TURNS_MAX {
                self.fail(format!("it never ends: {}", self.places()));
                return false;
            }
            self.wake(&mut ready);
            if ready.is_empty() {
                let next = self.next_wake().unwrap_or(Nanos::MAX).min(until);
                inner.world.advance_to(next);
                journal::set_now(next);
                continue;
            }
            let at = inner.random.borrow_mut().below(ready.len() as u64) as usize;
            self.resume(ready[at]);
        }
    }

    /// Where everybody is, for messages.
    pub fn places(&self) -> String {
        let processes = self.0.processes.borrow();
        let tasks = self.0.tasks.borrow();
        let at = |task: &Task| match &task.state {
            State::Ready => "ready".to_owned(),
            State::Waiting(Waiting { until: None, .. }) => "waits for ever".to_owned(),
            State::Waiting(Waiting { until: Some(until), .. }) => {
                format!("waits until {} µs", (until - World::EPOCH) / 1000)
            }
            State::Over => "over".to_owned(),
        };
        let living = tasks.iter().filter(|task| task.coroutine.is_some());
        let places: Vec<String> =
            living.map(|task| format!("{}/{} {}", processes[task.process].name, task.name, at(task))).collect();
        places.join("; ")
    }

    /// Collects the tasks that can run.
    fn wake(&self, ready: &mut Vec<usize>) {
        ready.clear();
        let now = self.now();
        let mut tasks = self.0.tasks.borrow_mut();
        let processes = self.0.processes.borrow();
        for (index, task) in tasks.iter_mut().enumerate() {
            if let State::Waiting(waiting) = &task.state
                && (waiting.until.is_some_and(|until| until <= now)
                    || waiting.ready.as_ref().is_some_and(|ready| ready()))
            {
                task.state = State::Ready;
            }
            if matches!(task.state, State::Ready) && processes[task.process].stopped_until <= now {
                ready.push(index);
            }
        }
        if !ready.is_empty() && !self.0.turns.get().is_multiple_of(LOOK_EVERY) {
            return;
        }
        let waits = |task: &Task| match &task.state {
            State::Waiting(waiting) => waiting.descriptors.len(),
            _ => 0,
        };
        let mut all = Vec::new();
        for task in tasks.iter() {
            if let State::Waiting(waiting) = &task.state {
                all.extend_from_slice(&waiting.descriptors);
            }
        }
        if all.is_empty() {
            return;
        }
        let mut found = Vec::new();
        coroutine::ready(&all, &mut found);
        let mut from = 0;
        for (index, task) in tasks.iter_mut().enumerate() {
            let count = waits(task);
            let rung = found[from..from + count].iter().any(|ready| *ready);
            from += count;
            if rung {
                task.state = State::Ready;
                if processes[task.process].stopped_until <= now {
                    ready.push(index);
                }
            }
        }
    }

    /// When something happens by itself.
    fn next_wake(&self) -> Option<Nanos> {
        let now = self.now();
        let tasks = self.0.tasks.borrow();
        let processes = self.0.processes.borrow();
        let of_tasks = tasks.iter().filter_map(|task| {
            let stopped = processes[task.process].stopped_until;
            match &task.state {
                State::Ready => Some(stopped),
                State::Waiting(waiting) => waiting.until.map(|until| until.max(stopped)),
                State::Over => None,
            }
        });
        of_tasks.chain(self.0.world.next_event_at()).filter(|at| *at > now).min()
    }

    fn resume(&self, index: usize) {
        let inner = &self.0;
        let steps = inner.random.borrow_mut().geometric(inner.pace.steps).min(STEPS_MAX);
        let (mut coroutine, mut stores) = {
            let mut tasks = inner.tasks.borrow_mut();
            let task = &mut tasks[index];
            let Some(coroutine) = task.coroutine.take() else { return };
            (coroutine, std::mem::take(&mut task.stores))
        };
        inner.running.set(Some(index));
        swap_stores(&mut stores);
        host::enter(true, steps);
        let outcome = catch_unwind(AssertUnwindSafe(|| coroutine.resume()));
        let used = steps - host::steps_left().min(steps);
        let work = STEP_NS * used + Machine::copying(host::take_copied());
        host::enter(true, u64::MAX);
        swap_stores(&mut stores);
        inner.running.set(None);
        let goes_on = match outcome {
            Ok(goes_on) => goes_on,
            Err(_) => {
                let name = inner.tasks.borrow()[index].name.clone();
                self.fail(format!("{name} panicked: {}", crate::seeds::last_panic()));
                false
            }
        };
        {
            let mut tasks = inner.tasks.borrow_mut();
            let task = &mut tasks[index];
            if goes_on {
                task.coroutine = Some(coroutine);
                task.stores = stores;
            } else {
                task.state = State::Over;
                arrive(stores);
            }
            task.steps += used;
            let worked = &inner.processes.borrow()[task.process].worked;
            worked.set(worked.get() + work);
            if task.turning && task.steps > STEPS_PER_TURN_MAX {
                let what = format!("{} spins: {} steps without the end of a turn", task.name, task.steps);
                inner.failure.borrow_mut().get_or_insert(what);
            }
        }
        let mix = inner.fingerprint.get() ^ (index as u64) ^ (used << 8) ^ (self.now() << 20);
        inner.fingerprint.set(mix.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23));
        // Running takes time.
        let spent = 30 + work + inner.random.borrow_mut().below(60);
        inner.world.advance_to(self.now() + spent);
        journal::set_now(self.now());
    }
}

impl Inner {
    /// The running task lets go.
    fn suspend(&self, state: State) {
        let Some(running) = self.running.get().filter(|_| host::is_alive()) else { return };
        self.tasks.borrow_mut()[running].state = state;
        coroutine::suspend();
    }
}

impl host::Scheduler for Inner {
    fn now(&self) -> u64 {
        self.world.now()
    }

    fn preempt(&self) -> u64 {
        self.suspend(State::Ready);
        host::steps_left()
    }

    fn yield_now(&self) {
        flush_stores();
        let time = {
            let mut random = self.random.borrow_mut();
            let high = if random.percent(95) { self.pace.yield_max / 8 } else { self.pace.yield_max };
            random.range(500, high.max(500))
        };
        let until = Some(self.world.now() + time);
        self.suspend(State::Waiting(Waiting { until, ..Waiting::default() }));
    }

    fn note(&self, line: &dyn Fn() -> String) {
        let Some(running) = self.running.get() else { return };
        journal::note(|| {
            let task = &self.tasks.borrow()[running];
            format!("{}/{}: {}", self.processes.borrow()[task.process].name, task.name, line())
        });
    }

    fn block(&self, until: Option<u64>, fds: &mut [PollFd<'_>]) {
        flush_stores();
        let descriptors = fds.iter().map(|fd| (fd.as_fd().as_raw_fd(), fd.events().bits())).collect();
        self.suspend(State::Waiting(Waiting { until, descriptors, ready: None }));
    }
}

/// What a thread stored arrives in memory, now that it does not run any more.
fn arrive(mut stores: StoreBuffer) {
    swap_stores(&mut stores);
    flush_stores();
    swap_stores(&mut stores);
}
