//! One sidecar goes on with the work of another: `shmesh run --upgrade`, and SIGUSR2, which starts that.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use shmesh_engine::{Engine, Giver, Predecessor, TakeError, UpgradeSocket};
use shmesh_policy::Snapshot;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::direct::DirectFile;
use super::reload::ConfigText;
use super::{Configured, Refusal, Running, supervised};
use crate::cli::RunArgs;

/// The latest that a sidecar which has handed over ends, whatever holds it up.
const GONE_WITHIN: Duration = Duration::from_millis(500);

/// How long admin answers in progress may take then, and lines of the access log.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// The sidecar that runs by this configuration; `None` if none does.
pub fn predecessor(snapshot: &Snapshot) -> Result<Option<Predecessor>, Refusal> {
    let Some(path) = snapshot.upgrade_socket() else {
        return Err(Refusal::start(
            "--upgrade: this configuration has no session socket beside which the upgrade socket would be; \
             write `upgrade_socket: /run/shmesh/upgrade.sock`, and restart once",
        ));
    };
    let found = Predecessor::find(&path).map_err(refusal)?;
    if found.is_none() {
        info!(upgrade_socket = %path.display(), "there is no sidecar to take over from; starting anew");
    }
    Ok(found)
}

/// Goes on with everything that it has, by its configuration.
pub fn take_over(args: &RunArgs, predecessor: Predecessor) -> Result<Running, Refusal> {
    let version = predecessor.version().to_owned();
    info!(version, "taking over from the sidecar that runs");
    let text = predecessor.config().map(str::to_owned);
    let configured = match Configured::of(text, "(the configuration in force)", predecessor.snapshot_version()) {
        Ok(configured) => configured,
        Err(refusal) => {
            predecessor.leave("its configuration is not understood");
            return Err(refusal);
        }
    };
    let resolver = shmesh_names::start().map_err(Refusal::start)?;
    let direct = DirectFile::of(&configured.snapshot);
    let snapshot = configured.snapshot.clone();
    let taken = predecessor.take_over(snapshot, args.driver.into(), &resolver, || direct.load()).map_err(refusal)?;
    info!(from = version, sessions = taken.sessions, workers = taken.engine.workers(), "taken over");
    let admin = taken.admin.set_nonblocking(true).and_then(|()| TcpListener::from_std(taken.admin));
    Ok(Running {
        engine: Arc::new(taken.engine),
        configured,
        admin: admin.map_err(Refusal::start)?,
        direct,
        upgrade_socket: Some(taken.upgrade),
    })
}

fn refusal(error: TakeError) -> Refusal {
    match error {
        TakeError::Gone => Refusal::Orphaned(error.to_string()),
        error => Refusal::start(error),
    }
}

/// Serves whoever wants to take over from this process, on the socket that it was handed or its own.
pub fn listen(
    engine: &Arc<Engine>,
    admin: &TcpListener,
    text: &ConfigText,
    over: &Arc<Notify>,
    socket: Option<io::Result<UpgradeSocket>>,
) -> Result<(), Refusal> {
    let snapshot = engine.snapshot();
    let Some(path) = snapshot.upgrade_socket() else { return Ok(()) };
    let (text, over) = (text.clone(), over.clone());
    let twin = admin.as_fd().try_clone_to_owned();
    let giver = |admin| Giver {
        engine: Arc::downgrade(engine),
        config: Box::new(move || text.lock().unwrap_or_else(PoisonError::into_inner).clone()),
        admin,
        forbids: Box::new(forbids),
        over: Box::new(move |_| {
            over.notify_one();
            thread::sleep(GONE_WITHIN);
            std::process::exit(0);
        }),
    };
    let taken_over = socket.is_some();
    let outcome = match (twin, socket) {
        (Err(error), _) => Err(error.to_string()),
        (Ok(twin), Some(socket)) => {
            socket.and_then(|socket| giver(twin).go_on(socket)).map_err(|error| error.to_string())
        }
        (Ok(twin), None) => giver(twin).listen(&path).map_err(|error| error.to_string()),
    };
    match outcome {
        // Who took over serves already.
        Err(error) if snapshot.upgrade_socket.is_some() && !taken_over => Err(Refusal::start(error)),
        Err(error) => {
            warn!(error, "this sidecar can only be replaced by ending it");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Why a process may not take over from this one: because that one's end would be the end of both.
fn forbids(successor: i32) -> Option<String> {
    if std::process::id() == 1 {
        let sentence = "this sidecar is the first process of its container, which would end with it: \
                        have it run by `shmesh supervise`, and send that SIGUSR2";
        return Some(sentence.to_owned());
    }
    let supervisor = supervised::supervisor()?;
    (parent_of(successor) != Some(supervisor.as_raw())).then(|| {
        format!(
            "this sidecar has a supervisor, process {supervisor}, which has to start the new one: send that SIGUSR2"
        )
    })
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the command, which may hold anything, come the state and the parent (proc(5)).
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Another process goes on. What is left is to finish admin answers and lines of the access log; nothing is undone, as all of it is the
/// other's.
pub async fn end(serving: JoinHandle<io::Result<()>>) -> ! {
    let _ = tokio::time::timeout(LAST_WORDS, serving).await;
    tokio::time::sleep(LAST_WORDS).await;
    info!("ended, as another process goes on");
    std::process::exit(0);
}

/// Starts upgrades of this process to what lies at its own path by then.
pub struct Upgrades {
    /// As it was when this process started: a file that was replaced since has the same.
    program: io::Result<PathBuf>,
    arguments: Vec<OsString>,
}

impl Upgrades {
    pub fn new() -> Upgrades {
        let mut arguments: Vec<OsString> = env::args_os().skip(1).collect();
        if !arguments.iter().any(|argument| argument == "--upgrade") {
            arguments.push("--upgrade".into());
        }
        Upgrades { program: env::current_exe(), arguments }
    }

    /// Starts the new process; the rest it does itself. Where there is a supervisor, whose child it has to be, that one is asked.
    pub fn begin(&self) {
        if let Some(supervisor) = supervised::supervisor() {
            match kill(supervisor, Signal::SIGUSR2) {
                Ok(()) => info!("SIGUSR2: passed on to the supervisor"),
                Err(error) => error!(%error, "SIGUSR2: the supervisor cannot be told; this process goes on"),
            }
            return;
        }
        let started = self.program.as_ref().map_err(io::Error::to_string).and_then(|program| {
            let child = Command::new(program).args(&self.arguments).spawn();
            child.map(|child| (program, child)).map_err(|error| format!("{}: {error}", program.display()))
        });
        match started {
            Ok((program, mut child)) => {
                info!(program = %program.display(), pid = child.id(), "SIGUSR2: a new process is to take over");
                // After a success this process ends first.
                thread::spawn(move || {
                    if let Ok(status) = child.wait() {
                        error!(%status, "the new process ended; this one goes on");
                    }
                });
            }
            Err(error) => error!(error, "SIGUSR2: the new process cannot be started; this one goes on"),
        }
    }
}
