//! The processes: started, signalled, reaped.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::OsString;
use std::io::{self, PipeReader, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::ValueEnum;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{self, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use shmesh_engine::SESSION_THREAD;
use shmesh_supervisor::{Binary, Child, End, Event, Signal, Task};
use tracing::{debug, info, warn};

use super::kept::Kept;
use crate::cli::RunArgs;
use crate::cli::run::SUPERVISOR;

/// How much of what a check prints is read.
const SAID_MAX: u64 = 4096;

pub struct Children {
    /// Where binaries are found.
    path: PathBuf,
    config: Option<PathBuf>,
    /// The options of `run`.
    options: Vec<OsString>,
    /// Every sidecar looks for one to take over from.
    upgrade: bool,
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
    pub fn new(path: PathBuf, args: &RunArgs) -> Self {
        Self {
            path,
            config: args.config.clone(),
            options: options(args),
            upgrade: args.upgrade,
            binaries: BTreeMap::new(),
            running: Vec::new(),
        }
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
        let Some(running) = self.running(child) else { return };
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

    /// Kills the new one, unless the old one is ending or has handed over: one that was stopped just then has copies of every connection, and
    /// is the one that is too many.
    pub fn abandon(&self, new: Child, old: Child) {
        let has_handed_over = self.running(new).is_some_and(|new| serves(new.pid));
        match self.running(old) {
            Some(old) if is_ending(old.pid) => warn!(pid = old.pid.as_raw(), "the old sidecar takes long to end"),
            Some(running) if has_handed_over => {
                warn!(pid = running.pid.as_raw(), "the old sidecar has handed over and does not end: it is killed");
                self.signal(old, Signal::Kill);
            }
            _ => self.signal(new, Signal::Kill),
        }
    }

    fn running(&self, child: Child) -> Option<&Running> {
        self.running.iter().find(|running| running.child == child)
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
        let mut args: Vec<OsString> = Vec::new();
        match task {
            Task::Version => args.push("--version".into()),
            Task::Check => {
                args.push("check".into());
                args.extend(self.config.iter().flat_map(|file| ["--config".into(), file.into()]));
            }
            Task::Run | Task::TakeOver => {
                args.push("run".into());
                if self.upgrade || task == Task::TakeOver {
                    args.push("--upgrade".into());
                }
                args.extend_from_slice(&self.options);
            }
        }
        args
    }
}

/// The options of `run` as they are written, so that each binary reads them itself.
fn options(args: &RunArgs) -> Vec<OsString> {
    // Each by name: one that is new does not compile until it is passed on. Whether there is one to take over from is another question
    // at each start.
    let RunArgs { config, driver, workers, upgrade: _, log_level, log_format } = args;
    let mut written: Vec<OsString> = Vec::new();
    let mut option = |name: &str, value: OsString| written.extend([name.into(), value]);
    if let Some(file) = config {
        option("--config", file.into());
    }
    if let Some(workers) = workers {
        option("--workers", workers.to_string().into());
    }
    option("--driver", word(driver));
    option("--log-level", word(log_level));
    option("--log-format", word(log_format));
    written
}

fn word(value: &impl ValueEnum) -> OsString {
    value.to_possible_value().expect("no value is hidden from the command line").get_name().into()
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

/// Whether a process that was not reaped yet is on its way out: its exit code is decided, and nothing of it runs any more. On a machine
/// that is short of time the system can take many seconds for the rest, as closing an inotify descriptor waits for others.
fn is_ending(pid: Pid) -> bool {
    /// `PF_EXITING` of the kernel's `sched.h`.
    const EXITING: u32 = 4;
    /// Place of the flags behind the name, which is in brackets and may contain spaces (proc_pid_stat(5): the ninth field).
    const FLAGS: usize = 6;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let flags = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(FLAGS));
    flags.and_then(|flags| flags.parse::<u32>().ok()).is_some_and(|flags| flags & EXITING != 0)
}

/// Whether a sidecar has begun to serve: it has the thread that apps talk to then.
fn serves(pid: Pid) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut names = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
    names.any(|name| name.trim_end() == SESSION_THREAD)
}

/// Whether a signal that ends most processes has a meaning to this one yet.
fn catches_hangup(pid: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask & 1 << (signal::SIGHUP as u32 - 1) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_serves_is_known() {
        assert!(!serves(Pid::this()));
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let (begin, begun) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name(SESSION_THREAD.into()).spawn(move || {
            begin.send(()).expect("the test waits");
            let _ = ended.recv();
        });
        begun.recv().expect("it runs");
        assert!(serves(Pid::this()));
        drop(end);
        thread.expect("a thread").join().expect("it ends");
    }

    #[test]
    fn a_process_on_its_way_out_is_known() {
        assert!(!is_ending(Pid::this()));
        let mut child = Command::new("true").spawn().expect("it starts");
        let pid = Pid::from_raw(child.id() as i32);
        // Nobody reaps it.
        while !is_ending(pid) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        child.wait().expect("it is there");
        assert!(!is_ending(pid));
    }
}
