//! The processes: started, signalled, reaped.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::OsString;
use std::io::{self, PipeReader, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{self, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use shmesh_supervisor::{Binary, Child, End, Event, Signal, Task};
use tracing::{debug, info, warn};

use super::kept::Kept;
use crate::cli::run::SUPERVISOR;

/// How much of what a check prints is read.
const SAID_MAX: u64 = 4096;

pub struct Children {
    /// Where binaries are found.
    path: PathBuf,
    config: Option<PathBuf>,
    run_args: Vec<OsString>,
    binaries: BTreeMap<Binary, Kept>,
    running: Vec<Running>,
}

struct Running {
    child: Child,
    pid: Pid,
    /// What a check prints.
    said: Option<PipeReader>,
}

impl Children {
    pub fn new(path: PathBuf, config: Option<PathBuf>, run_args: Vec<OsString>) -> Self {
        Self { path, config, run_args, binaries: BTreeMap::new(), running: Vec::new() }
    }

    /// Starts one, or says that it ended at once.
    pub fn start(&mut self, child: Child, binary: Binary, task: Task) -> Result<(), Event> {
        match self.spawn(binary, task) {
            Ok((pid, said)) => {
                self.running.push(Running { child, pid, said });
                Ok(())
            }
            Err(error) => Err(Event::Ended { child, end: End::NotStarted(error.to_string()), said: String::new() }),
        }
    }

    /// One that has ended is not there to be told.
    pub fn signal(&self, child: Child, signal: Signal) {
        let Some(running) = self.running.iter().find(|running| running.child == child) else { return };
        let number = match signal {
            Signal::Terminate => signal::SIGTERM,
            Signal::Interrupt => signal::SIGINT,
            Signal::Kill => signal::SIGKILL,
            Signal::Hangup if catches_hangup(running.pid) => signal::SIGHUP,
            // It has not read its file yet, and would end.
            Signal::Hangup => return,
        };
        if let Err(error) = kill(running.pid, number) {
            warn!(pid = running.pid.as_raw(), "{number} cannot be sent: {error}");
        }
    }

    pub fn forget(&mut self, binary: Binary) {
        self.binaries.remove(&binary);
    }

    /// Takes note of all that have ended, orphans too.
    pub fn reap(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => events.extend(self.ended(pid, End::Code(code))),
                Ok(WaitStatus::Signaled(pid, signal, _)) => events.extend(self.ended(pid, End::Signal(signal as i32))),
                // Of nobody else is a change asked for.
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return events,
                Ok(_) | Err(Errno::EINTR) => {}
                // It was ended by a signal that has no name, and is reaped: whoever is missing now.
                Err(_) => {
                    let missing = self.running.iter().find(|running| kill(running.pid, None) == Err(Errno::ESRCH));
                    if let Some(pid) = missing.map(|running| running.pid) {
                        events.extend(self.ended(pid, End::Signal(signal::SIGKILL as i32)));
                    }
                }
            }
        }
    }

    fn ended(&mut self, pid: Pid, end: End) -> Option<Event> {
        let Some(at) = self.running.iter().position(|running| running.pid == pid) else {
            debug!(pid = pid.as_raw(), "reaped an orphan");
            return None;
        };
        let Running { child, said, .. } = self.running.swap_remove(at);
        Some(Event::Ended { child, end, said: said.map(read).unwrap_or_default() })
    }

    fn spawn(&mut self, binary: Binary, task: Task) -> io::Result<(Pid, Option<PipeReader>)> {
        let path = self.path.clone();
        let kept = match self.binaries.entry(binary) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Kept::open(&path)?),
        };
        if kept.is_overwritten() {
            warn!("{} was overwritten in place: what was there before is gone", path.display());
        }
        let program = kept.program()?;
        let mut command = Command::new(&program.path);
        command.arg0(&path).args(self.args(task)).stdin(Stdio::null());
        // What is typed at a terminal reaches the supervisor alone, which passes it on once.
        command.process_group(0);
        command.env(SUPERVISOR, std::process::id().to_string());
        let mut said = None;
        if let Task::Version | Task::Check = task {
            let (reader, writer) = io::pipe()?;
            command.stdout(writer.try_clone()?).stderr(writer);
            said = Some(reader);
        }
        let pid = command.spawn()?.id();
        if let Task::Run | Task::TakeOver = task {
            info!(pid, binary = %path.display(), "started the sidecar");
        }
        Ok((Pid::from_raw(pid as i32), said))
    }

    fn args(&self, task: Task) -> Vec<OsString> {
        let mut args: Vec<OsString> = match task {
            Task::Version => vec!["--version".into()],
            Task::Check => vec!["check".into()],
            Task::Run => vec!["run".into()],
            Task::TakeOver => vec!["run".into(), "--upgrade".into()],
        };
        match (task, &self.config) {
            (Task::Version, _) | (Task::Check, None) => {}
            (Task::Check, Some(file)) => args.extend(["--config".into(), file.into()]),
            (Task::Run | Task::TakeOver, _) => args.extend_from_slice(&self.run_args),
        }
        args
    }
}

/// What lies in the pipe of one that has ended; somebody else may still hold the other end.
fn read(mut pipe: PipeReader) -> String {
    let mut bytes = Vec::new();
    if fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).is_ok() {
        // An error is the end of what there is.
        let _ = Read::by_ref(&mut pipe).take(SAID_MAX).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether a signal that ends most processes has a meaning to this one yet.
fn catches_hangup(pid: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask & 1 << (signal::SIGHUP as u32 - 1) != 0)
}
