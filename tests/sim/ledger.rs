//! The books: which calls were made, which ran, how each ended. What does not add up is reported to the machine.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use shmesh_client::Ran;
use shmesh_io::Nanos;

use crate::call::{self, Spec, To};
use crate::journal;
use crate::machine::{Machine, ProcessId};

/// The books of one run. Cheap to clone.
#[derive(Clone)]
pub struct Ledger(Rc<Books>);

struct Books {
    machine: Machine,
    calls: RefCell<BTreeMap<u64, Entry>>,
    next: Cell<u64>,
    /// Nothing goes wrong in this run, so calls have to succeed.
    calm: bool,
    /// The longest that a call may take, from its first byte to its end.
    longest: Nanos,
    released: Cell<bool>,
    /// The hosts that have to answer now.
    probing: RefCell<Vec<&'static str>>,
    /// Who calls them just now: one at a time, so that none is refused for the others.
    prober: Cell<Option<ProcessId>>,
    probed: RefCell<Vec<ProcessId>>,
    resting: RefCell<Vec<ProcessId>>,
    threads: RefCell<Vec<(ProcessId, usize)>>,
    kept: Cell<u32>,
}

struct Entry {
    spec: Spec,
    caller: ProcessId,
    began: Nanos,
    executed: u32,
    end: Option<End>,
}

/// How a call ended for its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With its answer.
    Answered,
    /// Without.
    Failed(Ran, String),
    /// The caller gave up.
    GivenUp(Ran),
}

impl Ledger {
    pub fn new(machine: &Machine, calm: bool, longest: Nanos) -> Ledger {
        Ledger(Rc::new(Books {
            machine: machine.clone(),
            calls: RefCell::default(),
            next: Cell::new(1),
            calm,
            longest,
            released: Cell::new(false),
            probing: RefCell::default(),
            prober: Cell::new(None),
            probed: RefCell::default(),
            resting: RefCell::default(),
            threads: RefCell::default(),
            kept: Cell::new(0),
        }))
    }

    pub fn is_calm(&self) -> bool {
        self.0.calm
    }

    /// A call is about to be made.
    pub fn begin(&self, caller: ProcessId, spec: Spec) -> u64 {
        let id = self.0.next.get();
        self.0.next.set(id + 1);
        let began = self.0.machine.now();
        journal::note(|| format!("call {id} begins: {spec:?}"));
        self.0.calls.borrow_mut().insert(id, Entry { spec, caller, began, executed: 0, end: None });
        id
    }

    /// A call that could not be made after all.
    pub fn forget(&self, id: u64) {
        journal::note(|| format!("call {id} is not made"));
        let entry = self.0.calls.borrow_mut().remove(&id);
        if entry.is_some_and(|entry| entry.executed > 0) {
            self.wrong(id, "ran and was never submitted");
        }
    }

    /// What a request that arrived somewhere asks for.
    pub fn spec(&self, id: u64) -> Option<Spec> {
        let spec = self.0.calls.borrow().get(&id).map(|entry| entry.spec);
        if spec.is_none() {
            self.wrong(id, "arrived and was never made");
        }
        spec
    }

    /// The whole request arrived at a service, and runs.
    pub fn executed(&self, id: u64) {
        journal::note(|| format!("call {id} runs"));
        let mut calls = self.0.calls.borrow_mut();
        let Some(entry) = calls.get_mut(&id) else { return };
        entry.executed += 1;
        let twice = entry.executed > 1 && !entry.spec.idempotent;
        let ran_after_all = matches!(entry.end, Some(End::Failed(Ran::No, _) | End::GivenUp(Ran::No)));
        drop(calls);
        if twice {
            self.wrong(id, "ran twice and is not idempotent");
        }
        if ran_after_all {
            self.wrong(id, "ran after it was judged not to run");
        }
    }

    /// A call ended for its caller.
    pub fn end(&self, id: u64, end: End) {
        journal::note(|| format!("call {id} ends: {end:?}"));
        let now = self.0.machine.now();
        let mut calls = self.0.calls.borrow_mut();
        let Some(entry) = calls.get_mut(&id) else { return };
        let before = entry.end.replace(end.clone());
        let (executed, took, spec) = (entry.executed, now - entry.began, entry.spec);
        drop(calls);
        if let Some(before) = before {
            self.wrong(id, &format!("ended twice: {before:?}, then {end:?}"));
        }
        match &end {
            End::Answered if executed == 0 && !spec.one_way => self.wrong(id, "was answered and never ran"),
            End::Failed(Ran::No, _) | End::GivenUp(Ran::No) if executed > 0 => {
                self.wrong(id, &format!("ran, and was judged not to have run: {end:?}"));
            }
            End::Failed(_, why) if self.0.calm && spec.manner.answers() => {
                self.wrong(id, &format!("failed though nothing is wrong: {why}"));
            }
            _ => {}
        }
        if took > self.0.longest {
            self.wrong(id, &format!("took {} µs, {} are the most", took / 1000, self.0.longest / 1000));
        }
    }

    /// An answer came to the caller: it must be the right one, or say why there is none.
    pub fn answered(&self, id: u64, status: u16, head: &[u8], body: &[u8]) {
        let Some(spec) = self.spec(id) else { return };
        let own = match spec.to {
            To::Http(_) => call::excuse(&spec, status, head),
            // The sidecar's own answers have another status than OK.
            To::Dubbo(_) if status != 20 => Some((Ran::Maybe, format!("status {status}"))),
            // A raw answer that does not come is an empty one.
            To::Raw(_) if !spec.manner.answers() && body.is_empty() => Some((Ran::Maybe, "no answer".into())),
            To::Dubbo(_) | To::Raw(_) => None,
        };
        match (own, call::check(id, &spec, status, head, body)) {
            (Some((ran, why)), _) => self.end(id, End::Failed(ran, why)),
            (None, Ok(())) => self.end(id, End::Answered),
            (None, Err(what)) => self.mixed_up(id, &format!("has another answer: {what}")),
        }
    }

    /// The bytes of a raw connection came to their end. They have no framing: whatever breaks off between its ends may look like an
    /// end in order.
    pub fn answered_raw(&self, id: u64, answer: &[u8]) {
        let Some(spec) = self.spec(id) else { return };
        let ran = self.0.calls.borrow().get(&id).is_some_and(|entry| entry.executed > 0);
        let cut = !self.0.calm && (answer.len() < spec.answer_len || answer.is_empty() || !ran);
        if cut && call::answer(id, spec.answer_len).starts_with(answer) {
            return self.end(id, End::Failed(Ran::Maybe, "cut short".into()));
        }
        self.answered(id, 0, &[], answer);
    }

    /// Bytes that are not what they should be.
    pub fn mixed_up(&self, id: u64, what: &str) {
        self.wrong(id, what);
    }

    fn wrong(&self, id: u64, what: &str) {
        let spec = self.0.calls.borrow().get(&id).map(|entry| entry.spec);
        self.0.machine.fail(format!("call {id} {what} ({spec:?})"));
    }

    /// At the end: every call ended whose caller lived, and what nobody waited for ran, too.
    pub fn close(&self) {
        let calls = self.0.calls.borrow();
        let open = calls.iter().find(|(_, entry)| entry.end.is_none() && self.0.machine.is_alive(entry.caller));
        if let Some((id, _)) = open {
            let id = *id;
            drop(calls);
            self.wrong(id, "never ended");
            return;
        }
        let lost = calls.iter().find(|(_, entry)| self.0.calm && entry.spec.one_way && entry.executed == 0);
        if let Some((id, _)) = lost {
            let id = *id;
            drop(calls);
            self.wrong(id, "was handed on and never ran");
        }
    }

    /// Calls made, calls answered.
    pub fn counts(&self) -> (usize, usize) {
        let calls = self.0.calls.borrow();
        (calls.len(), calls.values().filter(|entry| entry.end == Some(End::Answered)).count())
    }

    /// A caller has nothing more to call.
    pub fn rest(&self, process: ProcessId) {
        self.0.resting.borrow_mut().push(process);
    }

    /// A caller that has several threads: so many have to rest.
    pub fn expect(&self, process: ProcessId, threads: usize) {
        self.0.threads.borrow_mut().push((process, threads));
    }

    pub fn rests(&self, process: ProcessId) -> bool {
        let threads = self.0.threads.borrow();
        let threads = threads.iter().find(|(of, _)| *of == process).map_or(1, |(_, threads)| *threads);
        self.0.resting.borrow().iter().filter(|resting| **resting == process).count() >= threads
    }

    /// Everything is well again: callers that rest are to call these hosts, and have to be answered.
    pub fn probe(&self, hosts: Vec<&'static str>) {
        *self.0.probing.borrow_mut() = hosts;
    }

    /// The hosts that the process has to call now.
    pub fn due_probes(&self, process: ProcessId) -> Vec<&'static str> {
        let hosts = self.0.probing.borrow();
        if hosts.is_empty() || self.is_probed(process) || self.0.prober.get().is_some() {
            return Vec::new();
        }
        self.0.prober.set(Some(process));
        hosts.clone()
    }

    /// It has called them.
    pub fn probed(&self, process: ProcessId) {
        self.0.prober.set(None);
        self.0.probed.borrow_mut().push(process);
    }

    pub fn is_probed(&self, process: ProcessId) -> bool {
        self.0.probed.borrow().contains(&process)
    }

    /// Callers may go.
    pub fn release(&self) {
        self.0.released.set(true);
    }

    pub fn is_released(&self) -> bool {
        self.0.released.get()
    }

    /// Blocks of an app's arenas that the sidecar still had when the app went.
    pub fn keep(&self, blocks: u32) {
        self.0.kept.set(self.0.kept.get() + blocks);
    }

    pub fn kept(&self) -> u32 {
        self.0.kept.get()
    }
}
