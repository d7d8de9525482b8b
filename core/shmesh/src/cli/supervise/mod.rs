//! `shmesh supervise`: runs the sidecar as a child and keeps it running; fit to be the first process of a container.
//!
//! What is to be done is decided in `shmesh-supervisor`; here are the processes (`children.rs`), their binaries (`kept.rs`) and the signals.
//! Everything happens on the main thread, which lives as long as the process: the system takes the end of the thread that started a
//! child for the end of its parent.

mod children;
mod kept;

use std::io;
use std::process::ExitCode;
use std::time::Instant;

use nix::sys::prctl::set_child_subreaper;
use shmesh_supervisor::{Action, Event, Level, Note, Settings, Signal, Supervisor};
use tokio::signal::unix::{self, SignalKind, signal};
use tracing::{Instrument, error, error_span, info, warn};

use crate::cli::run::log;
use crate::cli::{SuperviseArgs, fail};
use children::Children;
use kept::Kept;

/// Supervises until it is told to end; gives the exit code of the sidecar.
pub fn supervise(args: &SuperviseArgs) -> ExitCode {
    log::start(args.run.log_level, args.run.log_format);
    match start(args) {
        Ok(code) => ExitCode::from(code),
        Err(sentence) => fail(&sentence),
    }
}

fn start(args: &SuperviseArgs) -> Result<u8, String> {
    let path = match &args.binary {
        Some(path) => std::path::absolute(path),
        None => std::env::current_exe(),
    };
    let path = path.map_err(|error| format!("the binary has no path: {error}"))?;
    // The one fault that no restart can mend; later ones are told in the log.
    Kept::open(&path).map_err(|error| format!("the binary {}: {error}", path.display()))?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("the supervisor cannot be set up: {error}"))?;
    let settings = Settings {
        stop_timeout: args.stop_timeout,
        upgrade_timeout: args.upgrade_timeout,
        has_config: args.run.config.is_some(),
    };
    let children = Children::new(path, &args.run);
    // Lines of the sidecar come on the same stderr.
    let span = error_span!("supervisor");
    let code = runtime.block_on(follow(settings, children).instrument(span));
    code.map_err(|error| format!("signals cannot be received: {error}"))
}

/// Does what the state machine says, until it says that nothing is left.
async fn follow(settings: Settings, mut children: Children) -> io::Result<u8> {
    let mut signals = Signals::register()?;
    // As the first process of a container it is told of every orphan anyway.
    if let Err(error) = set_child_subreaper(true) {
        warn!("children that the sidecar leaves behind are not reaped here: {error}");
    }
    let mut supervisor = Supervisor::new(settings, Instant::now());
    loop {
        if let Some(code) = perform(&mut supervisor, &mut children) {
            return Ok(code);
        }
        let told = signals.next(supervisor.deadline()).await;
        let now = Instant::now();
        match told {
            Told::Children => {
                for event in children.reap() {
                    supervisor.handle(event, now);
                }
            }
            Told::Event(event) => supervisor.handle(event, now),
            Told::Late => {
                // One that has ended by now is not late.
                for event in children.reap() {
                    supervisor.handle(event, now);
                }
                supervisor.expire(now);
            }
        }
    }
}

/// Gives the exit code when it is over.
fn perform(supervisor: &mut Supervisor, children: &mut Children) -> Option<u8> {
    loop {
        let actions = supervisor.actions();
        if actions.is_empty() {
            return None;
        }
        for action in actions {
            match action {
                Action::Start { child, binary, task } => {
                    if let Err(event) = children.start(child, binary, task) {
                        supervisor.handle(event, Instant::now());
                    }
                }
                Action::Signal { child, signal } => children.signal(child, signal),
                Action::Abandon { new, old } => children.abandon(new, old),
                Action::Forget(binary) => children.forget(binary),
                Action::Say(note) => say(&note),
                Action::Exit(code) => return Some(code),
            }
        }
    }
}

fn say(note: &Note) {
    match note.level() {
        Level::Info => info!("{note}"),
        Level::Warn => warn!("{note}"),
        Level::Error => error!("{note}"),
    }
}

/// What woke the supervisor.
enum Told {
    /// One or more have ended.
    Children,
    Event(Event),
    /// The time has come.
    Late,
}

struct Signals {
    child: unix::Signal,
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
    upgrade: unix::Signal,
}

impl Signals {
    fn register() -> io::Result<Self> {
        Ok(Self {
            child: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self, deadline: Option<Instant>) -> Told {
        let late = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.child.recv() => Told::Children,
            _ = self.terminate.recv() => Told::Event(Event::Signal(Signal::Terminate)),
            _ = self.interrupt.recv() => Told::Event(Event::Signal(Signal::Interrupt)),
            _ = self.hangup.recv() => Told::Event(Event::Signal(Signal::Hangup)),
            _ = self.upgrade.recv() => Told::Event(Event::Upgrade),
            () = late => Told::Late,
        }
    }
}
