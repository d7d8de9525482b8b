//! A child process that ends with the test, and says what it had to say if the test fails.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub const SHMESH: &str = env!("CARGO_BIN_EXE_shmesh");

/// Longer than anything takes that works, also on a busy machine: where many processes end at once, the kernel was seen to take two
/// minutes to close the inotify descriptor of one.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Bytes of a log that a failed test shows.
const SHOWN_MAX: usize = 6_000;

/// A running process, killed when it is dropped.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `shmesh` with its stderr in a file.
    pub fn start(name: &str, log: &Path, args: &[&str]) -> Process {
        Self::launch(name, log, Command::new(SHMESH).args(args))
    }

    /// Starts a program with its stderr in a file.
    pub fn launch(name: &str, log: &Path, command: &mut Command) -> Process {
        let stderr = File::create(log).expect("a log file");
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().expect("the binary starts");
        Process { child, name: name.to_owned(), log: log.to_owned() }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What it wrote to stderr so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("it runs");
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is a child")
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        until(&format!("{} ends", self.name), || {
            status = self.ended();
            status.is_some()
        });
        status.expect("it ended")
    }

    /// Bytes of memory that are its own and in RAM (VmRSS of /proc).
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has one");
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number");
        kib * 1024
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it runs").count()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let mut from = log.len().saturating_sub(SHOWN_MAX);
            while !log.is_char_boundary(from) {
                from += 1;
            }
            eprintln!("---- stderr of {} ----\n{}", self.name, &log[from..]);
        }
    }
}

/// Runs `shmesh` to its end.
pub fn shmesh(args: &[&str]) -> Output {
    Command::new(SHMESH).args(args).stdin(Stdio::null()).output().expect("the binary starts")
}

/// Runs `shmesh`, which has to succeed; gives its stdout.
pub fn shmesh_ok(args: &[&str]) -> Vec<u8> {
    let output = shmesh(args);
    assert!(output.status.success(), "shmesh {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Waits until something is so, and fails if it never is.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let late = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < late, "in {} s it did not happen that {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(5));
    }
}
