//! shm-v1 proved from outside: a C program that was written from docs/spec/shm-v1.md alone (`tests/c`) runs its conformance suite
//! against the sidecar. It is compiled here, with sanitizers where the compiler has them.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::OnceLock;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::process::{Process, until};
use crate::sidecar::{Driver, Sidecar, free_port};

on_each_driver!(
    every_case_of_the_suite_passes,
    a_sidecar_that_is_killed_is_judged_as_the_page_says,
    a_sidecar_that_stops_says_so,
);

const SOURCES: [&str; 8] = ["main.c", "lane.c", "session.c", "flow.c", "suite.c", "cases.c", "faults.c", "golden.c"];
const STRICT: [&str; 5] = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O2"];
const SANITIZERS: [&str; 2] = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests")
}

/// The compiled program; compiled once.
fn conformance() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shm-conformance");
        // Test processes that run side by side do not take it from under each other.
        let own = program.with_extension(std::process::id().to_string());
        if let Err(refusal) = compile(&own, &SANITIZERS) {
            eprintln!("without sanitizers, which this compiler refuses: {refusal}");
            compile(&own, &[]).unwrap_or_else(|refusal| panic!("it does not compile: {refusal}"));
        }
        std::fs::rename(&own, &program).expect("the same folder");
        program
    })
}

fn compile(to: &Path, more: &[&str]) -> Result<(), String> {
    let sources = SOURCES.map(|source| tests().join("c").join(source));
    let output = Command::new("cc").args(STRICT).args(more).args(sources).arg("-o").arg(to).output().expect("cc runs");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(conformance());
    // Each case ends with its process, and gives nothing back before.
    command.args(words).env("ASAN_OPTIONS", "detect_leaks=0").stdin(Stdio::null());
    command
}

/// A sidecar as the cases want it, before three services that send back what comes and one that says nothing.
struct Bench {
    sidecar: Sidecar,
    _services: Vec<Process>,
    _silent: UnixListener,
    folder: TempDir,
}

impl Bench {
    fn start(driver: Driver) -> Bench {
        let folder = TempDir::new().expect("a folder");
        let dir = folder.path().to_str().expect("a plain path");
        let silent = UnixListener::bind(folder.path().join("silent.sock")).expect("a socket");
        let ports = [(); 3].map(|()| free_port().to_string());
        let services =
            ["http", "dubbo", "raw"].into_iter().zip(&ports).map(|(protocol, port)| echo(dir, protocol, port));
        let services = services.collect();
        let words = [("dir", dir), ("echo", &ports[0]), ("dubbo", &ports[1]), ("raw", &ports[2])];
        let sidecar = Sidecar::start(driver, include_str!("../../c/sidecar.yaml"), &words);
        Bench { sidecar, _services: services, _silent: silent, folder }
    }

    fn socket(&self) -> String {
        self.folder.path().join("apps.sock").display().to_string()
    }
}

/// A running `shmesh echo`.
fn echo(folder: &str, protocol: &str, port: &str) -> Process {
    let log = Path::new(folder).join(protocol);
    let listen = format!("tcp:127.0.0.1:{port}");
    let process = Process::start(protocol, &log, &["echo", "--protocol", protocol, "--listen", &listen]);
    until("the service listens", || process.log().starts_with("listening on "));
    process
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].iter().map(|text| String::from_utf8_lossy(text)).collect()
}

fn every_case_of_the_suite_passes(driver: Driver) {
    let bench = Bench::start(driver);
    let output = command(&[&bench.socket(), "all"]).output().expect("it runs");
    assert!(output.status.success(), "{}", said(&output));
    let list = said(&command(&["list"]).output().expect("it runs"));
    let passed = said(&output).lines().filter(|line| line.starts_with("ok ")).count();
    assert_eq!(passed, list.lines().filter(|line| !line.ends_with("(apart)")).count(), "{}", said(&output));
    bench.sidecar.expect_metric("shmesh_sessions", 0.0);
    bench.sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
}

/// A case in which the program and the test take turns.
struct Turns {
    child: Child,
    /// Closed when nobody will say more.
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

impl Turns {
    fn start(bench: &Bench, case: &str) -> Turns {
        let mut command = command(&[&bench.socket(), case]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
        let (to, from) = (child.stdin.take(), child.stdout.take().expect("a pipe"));
        Turns { child, to, from: BufReader::new(from) }
    }

    /// Waits until it says this.
    fn expect(&mut self, words: &str) {
        let mut line = String::new();
        self.from.read_line(&mut line).expect("text");
        assert!(line.starts_with(words), "{line:?} instead of {words:?}");
    }

    fn go_on(&mut self) {
        self.to.as_mut().expect("a pipe").write_all(b"\n").expect("it reads");
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        // The case runs in a process of its own, which ends when its input does.
        self.to = None;
        let _ = self.child.wait();
    }
}

/// Whether each thread of a process is stopped.
fn stands_still(pid: i32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    tasks.flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
    })
}

/// One call was forwarded, one was published to a sidecar that stood still; then it is killed.
fn a_sidecar_that_is_killed_is_judged_as_the_page_says(driver: Driver) {
    let mut bench = Bench::start(driver);
    let mut turns = Turns::start(&bench, "death");
    turns.expect("forwarded");
    bench.sidecar.process.signal(Signal::SIGSTOP);
    // One thread takes the signal, and then stops the others.
    until("the sidecar stands still", || stands_still(bench.sidecar.process.pid()));
    turns.go_on();
    turns.expect("opened");
    bench.sidecar.process.signal(Signal::SIGKILL);
    turns.go_on();
    bench.sidecar.process.wait();
    turns.expect("ok death");
}

fn a_sidecar_that_stops_says_so(driver: Driver) {
    let mut bench = Bench::start(driver);
    let mut turns = Turns::start(&bench, "goaway");
    turns.expect("attached");
    bench.sidecar.process.signal(Signal::SIGTERM);
    turns.go_on();
    turns.expect("ok goaway");
    assert!(bench.sidecar.process.wait().success());
}

/// The reader in C and the one of `transports/shm` (its `tests/golden.rs`) agree on every segment.
#[test]
fn golden_segments_are_read_from_c_as_well() {
    let folder = tests().join("vectors/shm");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("the vectors")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    let output = command(&["golden"]).args(&files).output().expect("it runs");
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(said(&output).lines().filter(|line| line.starts_with("ok ")).count(), files.len());
    // And it does not pass whatever it reads.
    let text = std::fs::read_to_string(folder.join("valid-open-with-key.txt")).expect("a file");
    let scratch = TempDir::new().expect("a folder");
    for (good, wrong) in
        [("slot=2", "slot=1"), ("deadline_us=250000 ", ""), ("626f6479", "626f647a"), ("none", "breach kind")]
    {
        let file = scratch.path().join("wrong.txt");
        let changed: Vec<String> = text.lines().map(|line| line.replacen(good, wrong, 1)).collect();
        std::fs::write(&file, changed.join("\n")).expect("a file");
        let output = command(&["golden"]).arg(&file).output().expect("it runs");
        assert!(!output.status.success(), "{good} → {wrong}: {}", said(&output));
    }
}
