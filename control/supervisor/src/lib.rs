//! What a supervisor of one sidecar decides: when it is started, started again, replaced by another binary, and when that is taken back.
//!
//! A state machine without processes, signals or a clock: [`Supervisor::handle`] and [`Supervisor::expire`] take what happened, and
//! [`Supervisor::actions`] says what is to be done about it. `shmesh supervise` does it.
//!
//! | the sidecar | and | then |
//! |---|---|---|
//! | ends | nobody asked for that | starts again after a pause, which doubles until one lives for [`STEADY`] |
//! | ends with code 2 | it does not know its arguments | the supervisor ends as well: no restart helps |
//! | is told to end | | is waited for, at most for [`Settings::stop_timeout`], then killed; its exit code is the supervisor's |
//!
//! An upgrade asks the new binary for its version, then whether it takes the configuration, and then lets it take over. It has taken over when the old
//! process has ended: what the new one says of itself counts for nothing. Until then any failure of the new one leaves the old one as it was; and if the new one ends within
//! [`STEADY`] after that, the binary before it is started again. If the old one dies before it has handed over, which the new one says by ending with
//! [`PREDECESSOR_DIED`], that is no fault of the new one, which is started anew.

#![forbid(unsafe_code)]

mod back_off;
mod note;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use back_off::BackOff;
pub use note::{Level, Note};

/// A sidecar that lives for so long works: what it was before is forgotten, and so are the ends before it.
pub const STEADY: Duration = Duration::from_secs(60);
/// How long a new binary may take to say its version, and again to check the configuration.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a sidecar that was told twice to end may take.
pub const STOP_AT_ONCE: Duration = Duration::from_secs(5);
/// The exit code of a sidecar that was to take over from one that died before it had given everything: there is nothing to go on with, and nobody
/// left who serves (`EX_TEMPFAIL` of sysexits(3)).
pub const PREDECESSOR_DIED: u8 = 75;
/// The exit code of a program that does not know its arguments.
const WRONG_USAGE: i32 = 2;

/// What can be set.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a sidecar that was told to end may take; longer than its own drain.
    pub stop_timeout: Duration,
    /// How long a new sidecar may take until the old one has ended.
    pub upgrade_timeout: Duration,
    /// There is a configuration file that a new binary can check.
    pub has_config: bool,
}

/// A child process, numbered in the order in which they are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Child(u32);

/// A binary, numbered in the order in which they are first used: what lay at the path then, whatever lies there now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Binary(u32);

/// What a child is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// To say its version.
    Version,
    /// To check the configuration.
    Check,
    /// To be the sidecar.
    Run,
    /// To be the sidecar in place of the one that runs.
    TakeOver,
}

/// What the supervisor is asked for, and children are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Terminate,
    Interrupt,
    Hangup,
    /// Of a child: at once. The supervisor itself is never asked.
    Kill,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Ended {
        child: Child,
        end: End,
        /// What it printed; empty for a sidecar, which writes to the log itself.
        said: String,
    },
    /// Somebody sent it to the supervisor.
    Signal(Signal),
    /// The sidecar is to be replaced by what lies at the binary's path.
    Upgrade,
}

/// How a child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Code(i32),
    /// By a signal with this number.
    Signal(i32),
    /// It could not be started.
    NotStarted(String),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A binary that was not mentioned before is the one that lies at the path now.
    Start {
        child: Child,
        binary: Binary,
        task: Task,
    },
    Signal {
        child: Child,
        signal: Signal,
    },
    /// Kill the new sidecar, unless it serves already, or the old one is just ending: that one has handed over then, and the system may take long
    /// to end a process.
    Abandon {
        new: Child,
        old: Child,
    },
    /// It will not be started again.
    Forget(Binary),
    Say(Note),
    /// Nothing is left to do: this is the exit code.
    Exit(u8),
}

/// The state machine.
#[derive(Debug)]
pub struct Supervisor {
    settings: Settings,
    children: u32,
    binaries: u32,
    /// What the sidecar is started from.
    binary: Binary,
    sidecar: Sidecar,
    back_off: BackOff,
    upgrade: Option<Upgrade>,
    trial: Option<Trial>,
    stop: Option<Stop>,
    actions: Vec<Action>,
}

#[derive(Clone, Copy, Debug)]
enum Sidecar {
    Lives {
        child: Child,
        since: Instant,
    },
    StartsAt(Instant),
    /// For good.
    Gone,
}

#[derive(Clone, Copy, Debug)]
struct Upgrade {
    binary: Binary,
    child: Child,
    /// What the child does; never `Run`.
    task: Task,
    /// The child is given up then; `None`: it was.
    late: Option<Instant>,
    /// The child has ended, as its predecessor died; of that the supervisor was not told yet.
    orphaned: bool,
}

/// A binary that took over is tried out.
#[derive(Clone, Copy, Debug)]
struct Trial {
    /// The binary before it.
    previous: Binary,
    until: Instant,
    /// Its process was to take over from one that died, and may find that it was not given everything.
    may_be_orphaned: bool,
}

/// The supervisor was told to end.
#[derive(Clone, Copy, Debug)]
struct Stop {
    /// Children are killed then; `None`: they were.
    late: Option<Instant>,
    code: u8,
}

impl Supervisor {
    /// Starts the sidecar.
    pub fn new(settings: Settings, now: Instant) -> Supervisor {
        let mut supervisor = Supervisor {
            settings,
            children: 0,
            binaries: 1,
            binary: Binary(0),
            sidecar: Sidecar::StartsAt(now),
            back_off: BackOff::default(),
            upgrade: None,
            trial: None,
            stop: None,
            actions: Vec::new(),
        };
        supervisor.expire(now);
        supervisor
    }

    pub fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Ended { child, end, said } => self.ended(child, end, &said, now),
            Event::Signal(Signal::Hangup) => self.signal_sidecars(Signal::Hangup),
            Event::Signal(signal) => self.end(signal, now),
            Event::Upgrade => self.begin_upgrade(now),
        }
    }

    /// What is to be done because of all that was told, in this order.
    pub fn actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// When [`Supervisor::expire`] has something to do, if nothing else happens before.
    pub fn deadline(&self) -> Option<Instant> {
        let start = match self.sidecar {
            Sidecar::StartsAt(at) => Some(at),
            _ => None,
        };
        let upgrade = self.upgrade.and_then(|upgrade| upgrade.late);
        let stop = self.stop.and_then(|stop| stop.late);
        [start, upgrade, stop, self.trial.map(|trial| trial.until)].into_iter().flatten().min()
    }

    /// Does what the time has come for.
    pub fn expire(&mut self, now: Instant) {
        let is_over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if let Sidecar::StartsAt(at) = self.sidecar
            && at <= now
        {
            let child = self.start(self.binary, Task::Run);
            self.sidecar = Sidecar::Lives { child, since: now };
        }
        if let Some(upgrade) = &mut self.upgrade
            && is_over(upgrade.late)
        {
            upgrade.late = None;
            match (upgrade.task, self.sidecar) {
                _ if upgrade.orphaned => self.give_orphan_up(),
                (Task::TakeOver, Sidecar::Lives { child: old, .. }) => {
                    self.actions.push(Action::Abandon { new: upgrade.child, old });
                }
                _ => self.actions.push(Action::Signal { child: upgrade.child, signal: Signal::Kill }),
            }
        }
        if let Some(trial) = self.trial.take_if(|trial| trial.until <= now) {
            self.say(Note::Steady);
            self.forget(trial.previous);
        }
        if let Some(stop) = &mut self.stop
            && is_over(stop.late)
        {
            stop.late = None;
            self.say(Note::StopTimedOut);
            self.signal_sidecars(Signal::Kill);
        }
    }

    fn ended(&mut self, child: Child, end: End, said: &str, now: Instant) {
        if let Some(upgrade) = self.upgrade.take_if(|upgrade| upgrade.child == child) {
            match self.stop {
                Some(_) => self.ended_in_stop(upgrade.task, end),
                None => self.upgrade_ended(upgrade, end, said, now),
            }
        } else if let Sidecar::Lives { child: sidecar, since } = self.sidecar
            && sidecar == child
        {
            match self.stop {
                Some(_) => {
                    self.sidecar = Sidecar::Gone;
                    self.ended_in_stop(Task::Run, end);
                }
                None => self.sidecar_ended(end, since, now),
            }
        }
    }

    /// Nobody asked for it, unless it was replaced.
    fn sidecar_ended(&mut self, end: End, since: Instant, now: Instant) {
        if let Some(upgrade) = self.upgrade.take_if(|upgrade| upgrade.task == Task::TakeOver) {
            let handed_over = end == End::Code(0) && !upgrade.orphaned;
            self.say(if handed_over { Note::Upgraded } else { Note::DiedInUpgrade(end) });
            self.replace_binary(upgrade.binary, now, !handed_over);
            self.sidecar = Sidecar::Lives { child: upgrade.child, since: now };
            if upgrade.orphaned {
                self.start_orphan_anew(now);
            }
            return;
        }
        let lived = now.saturating_duration_since(since);
        if end.is_of_orphan() && self.trial.is_some_and(|trial| trial.may_be_orphaned) {
            self.start_orphan_anew(now);
        } else if let Some(trial) = self.trial.take() {
            let failed = std::mem::replace(&mut self.binary, trial.previous);
            // The ends of another binary say nothing about this one.
            self.back_off = BackOff::default();
            self.sidecar = Sidecar::StartsAt(now + self.back_off.pause(lived));
            self.say(Note::RolledBack { end, lived });
            self.forget(failed);
        } else if end == End::Code(WRONG_USAGE) && self.upgrade.is_none() {
            self.sidecar = Sidecar::Gone;
            self.say(Note::WrongUsage);
            self.actions.push(Action::Exit(end.code()));
        } else {
            let pause = self.back_off.pause(lived);
            self.sidecar = Sidecar::StartsAt(now + pause);
            self.say(Note::Ended { end, lived, pause });
        }
    }

    fn begin_upgrade(&mut self, now: Instant) {
        if self.stop.is_some() {
            return self.say(Note::UpgradeWhileEnding);
        }
        if self.upgrade.is_some() {
            return self.say(Note::UpgradeInUpgrade);
        }
        self.say(Note::UpgradeBegins);
        let binary = Binary(self.binaries);
        self.binaries += 1;
        self.go_on_with_upgrade(binary, Task::Version, now);
    }

    fn go_on_with_upgrade(&mut self, binary: Binary, task: Task, now: Instant) {
        let child = self.start(binary, task);
        let timeout = match task {
            Task::TakeOver => self.settings.upgrade_timeout,
            _ => CHECK_TIMEOUT,
        };
        self.upgrade = Some(Upgrade { binary, child, task, late: Some(now + timeout), orphaned: false });
    }

    /// A step of the upgrade ended, before the old sidecar did.
    fn upgrade_ended(&mut self, upgrade: Upgrade, end: End, said: &str, now: Instant) {
        let Upgrade { binary, task, late, .. } = upgrade;
        let went_well = end == End::Code(0) && (task != Task::Version || said.starts_with("shmesh "));
        match task {
            Task::Version if went_well && self.settings.has_config => self.go_on_with_upgrade(binary, Task::Check, now),
            Task::Version | Task::Check if went_well => self.replace_sidecar(binary, now),
            Task::Version | Task::Check => {
                let said = said.lines().next().unwrap_or_default().to_owned();
                self.say(Note::UpgradeRefused { task, end, said, in_time: late.is_some() });
                self.forget(binary);
            }
            // The old one's end is told next, or it closed its connection and lives.
            Task::TakeOver if end.is_of_orphan() && late.is_some() => {
                self.upgrade = Some(Upgrade { orphaned: true, ..upgrade });
            }
            Task::Run | Task::TakeOver => {
                self.say(Note::TakeOverFailed { end, in_time: late.is_some() });
                self.forget(binary);
            }
        }
    }

    /// The new binary was found good.
    fn replace_sidecar(&mut self, binary: Binary, now: Instant) {
        match self.sidecar {
            Sidecar::Lives { .. } => self.go_on_with_upgrade(binary, Task::TakeOver, now),
            // There is nothing to take over: whoever upgrades a sidecar that dies again and again does it to mend that.
            Sidecar::StartsAt(_) | Sidecar::Gone => {
                self.say(Note::Upgraded);
                self.replace_binary(binary, now, false);
                let child = self.start(binary, Task::Run);
                self.sidecar = Sidecar::Lives { child, since: now };
            }
        }
    }

    fn replace_binary(&mut self, binary: Binary, now: Instant, may_be_orphaned: bool) {
        let previous = std::mem::replace(&mut self.binary, binary);
        if let Some(trial) = self.trial.replace(Trial { previous, until: now + STEADY, may_be_orphaned }) {
            self.forget(trial.previous);
        }
    }

    /// The binary that is tried out has lost the one from which it was to take over: at once, as nobody serves.
    fn start_orphan_anew(&mut self, now: Instant) {
        self.say(Note::Orphaned);
        if let Some(trial) = &mut self.trial {
            (trial.until, trial.may_be_orphaned) = (now + STEADY, false);
        }
        let child = self.start(self.binary, Task::Run);
        self.sidecar = Sidecar::Lives { child, since: now };
    }

    /// The one from which it was to take over lives.
    fn give_orphan_up(&mut self) {
        if let Some(upgrade) = self.upgrade.take() {
            self.say(Note::TakeOverFailed { end: End::Code(PREDECESSOR_DIED.into()), in_time: true });
            self.forget(upgrade.binary);
        }
    }

    /// SIGTERM or SIGINT: what runs is told, and waited for.
    fn end(&mut self, signal: Signal, now: Instant) {
        match &mut self.stop {
            None => {
                self.stop = Some(Stop { late: Some(now + self.settings.stop_timeout), code: 0 });
                self.say(Note::Stopping);
                self.end_upgrade();
                if let Sidecar::StartsAt(_) = self.sidecar {
                    self.sidecar = Sidecar::Gone;
                }
            }
            // The sidecar cuts its calls then.
            Some(Stop { late: Some(late), .. }) => *late = (*late).min(now + STOP_AT_ONCE),
            Some(_) => {}
        }
        self.signal_sidecars(signal);
        self.exit_if_alone();
    }

    /// A check is of no use any more; one that takes over has the time that sidecars have to end.
    fn end_upgrade(&mut self) {
        // Nobody is left of that.
        self.upgrade.take_if(|upgrade| upgrade.orphaned);
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.late = None;
            if upgrade.task != Task::TakeOver {
                self.actions.push(Action::Signal { child: upgrade.child, signal: Signal::Kill });
            }
        }
    }

    /// The code that is passed on is that of whoever was the sidecar last.
    fn ended_in_stop(&mut self, task: Task, end: End) {
        if let (Some(stop), Task::Run | Task::TakeOver) = (&mut self.stop, task) {
            stop.code = end.code();
        }
        self.exit_if_alone();
    }

    fn exit_if_alone(&mut self) {
        if let (Some(stop), Sidecar::Gone, None) = (&mut self.stop, self.sidecar, self.upgrade) {
            stop.late = None;
            self.actions.push(Action::Exit(stop.code));
        }
    }

    /// Those that are, or are about to be, the sidecar.
    fn signal_sidecars(&mut self, signal: Signal) {
        if let Sidecar::Lives { child, .. } = self.sidecar {
            self.actions.push(Action::Signal { child, signal });
        }
        if let Some(Upgrade { child, task: Task::TakeOver, .. }) = self.upgrade {
            self.actions.push(Action::Signal { child, signal });
        }
    }

    fn start(&mut self, binary: Binary, task: Task) -> Child {
        let child = Child(self.children);
        self.children += 1;
        self.actions.push(Action::Start { child, binary, task });
        child
    }

    fn forget(&mut self, binary: Binary) {
        self.actions.push(Action::Forget(binary));
    }

    fn say(&mut self, note: Note) {
        self.actions.push(Action::Say(note));
    }
}

impl End {
    fn is_of_orphan(&self) -> bool {
        *self == End::Code(PREDECESSOR_DIED.into())
    }

    /// As shells say it.
    fn code(&self) -> u8 {
        match self {
            End::Code(code) => (*code & 0xff) as u8,
            End::Signal(number) => ((128 + *number) & 0xff) as u8,
            End::NotStarted(_) => 1,
        }
    }
}
