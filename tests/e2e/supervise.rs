//! `shmesh supervise`: restarts, the end, orphans, and upgrades to binaries that are no good. Those are shell scripts that do what the command
//! line asks of them and no more.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shmesh_client::{Client, Request};
use tempfile::TempDir;

use crate::process::{PATIENCE, SHMESH, until};
use crate::service::{http, saying};
use crate::sidecar::{Driver, Sidecar};
use crate::wire::Wire;

on_each_driver!(an_upgrade_keeps_every_connection);

const CONFIG: &str = "
listeners:
  - { name: web, tcp: 127.0.0.1:$web, protocol: http }
  - { name: apps, shm: $dir/apps.sock }
routes: [ { match: { host: service }, cluster: service } ]
clusters: [ { name: service, endpoints: [ \"$up\" ] } ]
timeouts: { first_byte: 10m, idle: 1h }
";

const GET: &str = "GET / HTTP/1.1\r\nHost: service\r\n\r\n";

/// What a script does that passes every check.
const CHECKS: &str = "case $1 in --version) echo shmesh 9.9.9; exit;; check) exit;; esac\n";

/// A file that can be executed. A process of its own writes it: another test's child would hold it open for a moment otherwise, and
/// then the system refuses to execute it.
fn script(path: &Path, text: &str) {
    let mut shell = Command::new("sh")
        .args(["-c", "cat > \"$0.new\" && chmod +x \"$0.new\" && mv \"$0.new\" \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("a shell");
    let mut stdin = shell.stdin.take().expect("a pipe");
    stdin.write_all(format!("#!/bin/sh\n{text}").as_bytes()).expect("it reads");
    drop(stdin);
    assert!(shell.wait().expect("it ends").success());
}

/// A supervised sidecar whose binary can be replaced.
struct Supervised {
    sidecar: Sidecar,
    binaries: TempDir,
}

impl Supervised {
    /// Of the real binary, found through a link.
    fn start(up: &str, args: &[&str]) -> Supervised {
        Self::start_with(up, args, |path| symlink(SHMESH, path).expect("a link"))
    }

    fn start_with(up: &str, args: &[&str], put: impl FnOnce(&Path)) -> Supervised {
        let mut supervised = Self::launch(up, args, put);
        supervised.wait_started();
        supervised
    }

    fn wait_started(&mut self) {
        self.sidecar.wait_ready();
        // Which the supervisor may say after that.
        self.expect_log("started the sidecar");
    }

    fn launch(up: &str, args: &[&str], put: impl FnOnce(&Path)) -> Supervised {
        Self::launch_on(Driver::Epoll, up, args, put)
    }

    fn launch_on(driver: Driver, up: &str, args: &[&str], put: impl FnOnce(&Path)) -> Supervised {
        let binaries = TempDir::new().expect("a folder");
        let path = binaries.path().join("shmesh");
        put(&path);
        let binary = path.to_str().expect("a plain path");
        let sidecar = Sidecar::supervise(driver, CONFIG, &[("up", up)], &[&["--binary", binary], args].concat());
        Supervised { sidecar, binaries }
    }

    fn binary(&self) -> PathBuf {
        self.binaries.path().join("shmesh")
    }

    /// Puts a script in the binary's place, and asks for the upgrade.
    fn upgrade_to(&self, text: &str) {
        script(&self.binary(), text);
        self.sidecar.process.signal(Signal::SIGUSR2);
    }

    /// Those that were started to be the sidecar, in this order.
    fn pids(&self) -> Vec<i32> {
        let log = self.sidecar.log();
        let started = log.lines().filter(|line| line.contains("started the sidecar"));
        let pids = started.filter_map(|line| line.split("pid=").nth(1)?.split_whitespace().next()?.parse().ok());
        pids.collect()
    }

    fn upgrades(&self) -> usize {
        self.sidecar.log().matches("INFO supervisor: upgraded").count()
    }

    fn expect_log(&self, what: &str) {
        until(&format!("the log says {what:?}"), || self.sidecar.log().contains(what));
    }

    /// Waits until so many were started, and the last one takes calls.
    fn expect_start(&mut self, count: usize) {
        until(&format!("sidecar number {count} is started"), || self.pids().len() == count);
        self.sidecar.wait_ready();
        assert_eq!(self.sidecar.connect("web").ask(GET).text(), "ok");
    }

    /// The one that was started as this one, from 0.
    fn kill_sidecar(&self, at: usize) {
        kill(Pid::from_raw(self.pids()[at]), Signal::SIGKILL).expect("it runs");
    }

    /// It ends as it should, and nothing of it is left.
    fn end(&mut self) {
        self.sidecar.process.signal(Signal::SIGTERM);
        assert_eq!(self.sidecar.process.wait().code(), Some(0));
        for pid in self.pids() {
            assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} is left");
        }
    }
}

impl Drop for Supervised {
    /// A supervisor that is killed has no time to end what it started: one that still runs, as the test failed, gets it.
    fn drop(&mut self) {
        if self.sidecar.process.ended().is_none() {
            self.sidecar.process.signal(Signal::SIGTERM);
            self.sidecar.process.signal(Signal::SIGTERM);
            let late = Instant::now() + Duration::from_secs(10);
            while self.sidecar.process.ended().is_none() && Instant::now() < late {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

#[test]
fn one_that_dies_is_started_again() {
    let service = saying("ok");
    let mut supervised = Supervised::start(&service.endpoint, &[]);
    for at in 0..2 {
        supervised.kill_sidecar(at);
        supervised.expect_start(at + 2);
    }
    let log = supervised.sidecar.log();
    assert_eq!(log.matches("the sidecar was ended by signal 9 after").count(), 2, "{log}");
    supervised.end();
}

#[test]
fn one_that_ends_again_and_again_is_started_ever_more_rarely() {
    let mut supervised = Supervised::launch("tcp:127.0.0.1:1", &[], |path| script(path, "exit 1\n"));
    for pause in ["100ms", "200ms", "400ms"] {
        supervised.expect_log(&format!("it starts again in {pause}"));
    }
    supervised.end();
}

#[test]
fn the_end_waits_for_calls_and_a_second_signal_does_not() {
    let (arrived, arrival) = mpsc::channel();
    let (go, may_go) = mpsc::channel();
    let may_go = Mutex::new(may_go);
    let service = http(move |_, wire| {
        arrived.send(()).expect("the test waits");
        let _ = may_go.lock().expect("nobody panicked").recv();
        let _ = wire.try_send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    });
    for signals in [&[Signal::SIGTERM][..], &[Signal::SIGINT, Signal::SIGTERM]] {
        let mut supervised = Supervised::start(&service.endpoint, &[]);
        let mut wire = supervised.sidecar.connect("web");
        wire.send(GET);
        arrival.recv().expect("the service is there");
        supervised.sidecar.process.signal(signals[0]);
        supervised.expect_log("draining");
        match signals.get(1) {
            None => {
                go.send(()).expect("the service waits");
                assert_eq!(wire.answer().text(), "ok");
            }
            Some(&signal) => {
                supervised.sidecar.process.signal(signal);
                supervised.expect_log("told to end again, calls are cut");
                wire.expect_closed();
                go.send(()).expect("the service waits");
            }
        }
        assert_eq!(supervised.sidecar.process.wait().code(), Some(0));
    }
}

#[test]
fn its_exit_code_is_passed_on() {
    let text = "sleep 600 &\ntrap 'kill $!; exit 7' TERM\necho traps >&2\nwait\n";
    let mut supervised = Supervised::launch("tcp:127.0.0.1:1", &[], |path| script(path, text));
    supervised.expect_log("traps");
    supervised.sidecar.process.signal(Signal::SIGTERM);
    assert_eq!(supervised.sidecar.process.wait().code(), Some(7));
}

#[test]
fn one_that_does_not_end_in_time_is_killed() {
    let text = "trap '' TERM\necho traps >&2\nexec sleep 600\n";
    let args = ["--stop-timeout", "100ms"];
    let mut supervised = Supervised::launch("tcp:127.0.0.1:1", &args, |path| script(path, text));
    supervised.expect_log("traps");
    supervised.sidecar.process.signal(Signal::SIGTERM);
    assert_eq!(supervised.sidecar.process.wait().code(), Some(137));
    supervised.expect_log("the sidecar has not ended in time, and is killed");
}

#[test]
fn sighup_reaches_the_sidecar() {
    let service = saying("ok");
    let mut supervised = Supervised::start(&service.endpoint, &[]);
    supervised.sidecar.process.signal(Signal::SIGHUP);
    supervised.expect_log("why=\"SIGHUP\"");
    supervised.end();
}

/// What the sidecar leaves behind comes to the supervisor, and not to whoever is next.
#[test]
fn orphans_are_reaped() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("pid");
    // The orphan ends when its parent has.
    let text = format!(
        "parent=$$\n(while kill -0 $parent; do sleep 0.01; done) 2>/dev/null &\necho $! > {0}.new && mv {0}.new {0}\n",
        file.display()
    );
    let mut supervised = Supervised::launch("tcp:127.0.0.1:1", &[], |path| script(path, &text));
    until("there is an orphan", || file.exists());
    let pid = std::fs::read_to_string(&file).expect("it is there");
    supervised.expect_log(&format!("reaped an orphan pid={}", pid.trim()));
    supervised.end();
}

/// The system tells it; nobody else is there to do it.
#[test]
fn the_sidecar_ends_with_its_supervisor() {
    let service = saying("ok");
    let mut supervised = Supervised::start(&service.endpoint, &[]);
    assert_eq!(supervised.sidecar.connect("web").ask(GET).text(), "ok");
    supervised.sidecar.process.signal(Signal::SIGKILL);
    supervised.sidecar.process.wait();
    supervised.expect_log("INFO draining");
    supervised.expect_log("INFO ended");
    until("nobody listens", || Wire::try_tcp(supervised.sidecar.tcp("web")).is_none());
}

#[test]
fn a_binary_that_is_no_good_from_the_start_ends_it() {
    let mut missing = Supervised::launch("tcp:127.0.0.1:1", &[], |_| ());
    assert_eq!(missing.sidecar.process.wait().code(), Some(1));
    let said = format!("shmesh: the binary {}: No such file", missing.binary().display());
    assert!(missing.sidecar.log().contains(&said), "{}", missing.sidecar.log());
    // Wrong usage is not mended by starting it again.
    let mut other = Supervised::launch("tcp:127.0.0.1:1", &[], |path| script(path, "exit 2\n"));
    assert_eq!(other.sidecar.process.wait().code(), Some(2));
    assert!(other.sidecar.log().contains("does not know these arguments"), "{}", other.sidecar.log());
}

#[test]
fn a_binary_that_fails_its_checks_is_refused() {
    let service = saying("ok");
    let mut supervised = Supervised::start(&service.endpoint, &[]);
    let mut wire = supervised.sidecar.connect("web");
    for (text, said) in [
        ("echo true 1.0\n", "asked `--version` the new binary did not say that it is shmesh: true 1.0"),
        ("echo cannot >&2; exit 3\n", "asked `--version` the new binary ended with code 3: cannot"),
        (
            "[ $1 = --version ] && echo shmesh 9.9.9 && exit\n[ $# = 3 ] && [ $1 = check ] && echo \"$3:1:1: odd\" && exit 1\n",
            "asked `check` the new binary ended with code 1: $config:1:1: odd",
        ),
    ] {
        supervised.upgrade_to(text);
        let config = supervised.sidecar.config_file().display().to_string();
        supervised.expect_log(&format!("upgrade refused, the sidecar goes on: {}", said.replace("$config", &config)));
        assert_eq!(wire.ask(GET).text(), "ok");
    }
    std::fs::remove_file(supervised.binary()).expect("it is there");
    supervised.sidecar.process.signal(Signal::SIGUSR2);
    supervised.expect_log("could not be started (No such file");
    assert_eq!(wire.ask(GET).text(), "ok");
    assert_eq!(supervised.pids().len(), 1);
    supervised.end();
}

#[test]
fn one_that_ends_before_it_took_over_changes_nothing() {
    let service = saying("ok");
    let mut supervised = Supervised::start(&service.endpoint, &[]);
    let mut wire = supervised.sidecar.connect("web");
    supervised.upgrade_to(&format!("{CHECKS}exit 1\n"));
    supervised.expect_log("the new one ended with code 1 before it had taken over");
    assert_eq!(wire.ask(GET).text(), "ok");
    // The binary before is what is started again, though another lies at its path.
    supervised.kill_sidecar(0);
    supervised.expect_start(3);
    supervised.end();
}

#[test]
fn one_that_does_not_take_over_in_time_is_killed() {
    let service = saying("ok");
    let mut supervised = Supervised::start(&service.endpoint, &["--upgrade-timeout", "100ms"]);
    let mut wire = supervised.sidecar.connect("web");
    supervised.upgrade_to(&format!("{CHECKS}exec sleep 600\n"));
    supervised.expect_log("the new one had not taken over in time, and was killed");
    assert_eq!(wire.ask(GET).text(), "ok");
    assert_eq!(supervised.pids().len(), 2);
    supervised.end();
}

#[test]
fn a_second_upgrade_during_one_is_refused() {
    let service = saying("ok");
    let mut supervised = Supervised::start(&service.endpoint, &[]);
    supervised.upgrade_to(&format!("{CHECKS}exec sleep 600\n"));
    until("it takes over", || supervised.pids().len() == 2);
    supervised.sidecar.process.signal(Signal::SIGUSR2);
    supervised.expect_log("WARN supervisor: upgrade refused: another one is under way");
    // Both are told to end; the sleep does so by the signal.
    supervised.sidecar.process.signal(Signal::SIGTERM);
    supervised.sidecar.process.wait();
    until("nobody listens", || Wire::try_tcp(supervised.sidecar.tcp("web")).is_none());
}

/// Of a program and of a script: the latter is opened once more by its interpreter.
#[test]
fn one_that_dies_soon_after_it_took_over_is_taken_back() {
    let service = saying("ok");
    let wrapper = format!("exec {SHMESH} \"$@\"\n");
    let put: [&dyn Fn(&Path); 2] = [&|path| symlink(SHMESH, path).expect("a link"), &|path| script(path, &wrapper)];
    for put in put {
        let mut supervised = Supervised::start_with(&service.endpoint, &[], put);
        let old = supervised.pids()[0];
        // It makes the old one end as if it had taken over, and is no good.
        let asked = supervised.binaries.path().join("asked");
        let ends = format!("echo \"$*\" > {}; kill -TERM {old}; exec sleep 600\n", asked.display());
        supervised.upgrade_to(&format!("{CHECKS}{ends}"));
        supervised.expect_log("INFO supervisor: upgraded");
        let args = std::fs::read_to_string(asked).expect("it is there");
        let config = supervised.sidecar.config_file();
        let expected = format!("run --upgrade --config {} --driver epoll ", config.display());
        assert!(args.starts_with(&expected), "{args}");
        supervised.kill_sidecar(1);
        supervised.expect_log("after it had taken over; back to the binary before it");
        supervised.expect_start(3);
        // And so from then on.
        supervised.kill_sidecar(2);
        supervised.expect_start(4);
        supervised.end();
    }
}

/// The old one dies while the new one takes over, and before it has given everything: the new one says so, and starts anew.
#[test]
fn one_whose_predecessor_dies_starts_anew() {
    let service = saying("ok");
    let mut supervised = Supervised::start(&service.endpoint, &[]);
    let old = supervised.pids()[0];
    let dies = format!("case $2 in --upgrade) kill -KILL {old}; exit 75;; esac\n");
    supervised.upgrade_to(&format!("{CHECKS}{dies}exec {SHMESH} \"$@\"\n"));
    supervised.expect_log("had not been given everything by the one that died, and starts anew");
    supervised.expect_start(3);
    let log = supervised.sidecar.log();
    assert!(!log.contains("back to the binary before it") && !log.contains("upgrade taken back"), "{log}");
    // It is the new binary.
    let args = std::fs::read_to_string(format!("/proc/{}/cmdline", supervised.pids()[2])).expect("it runs");
    assert!(!args.contains("--upgrade"), "{args}");
    supervised.end();
}

/// It was stopped after its last word: the new one serves, and is not the one that is killed at the end of the time.
#[test]
fn one_whose_predecessor_is_stopped_stays() {
    const TRIES: usize = 20;
    let service = saying("ok");
    let mut supervised = Supervised::start(&service.endpoint, &["--upgrade-timeout", "10s"]);
    let mut wire = supervised.sidecar.connect("web");
    let said = |supervised: &Supervised, what: &str| supervised.sidecar.log().matches(what).count();
    let (over, failed) = ("handed over: the new process goes on", "upgrade taken back");
    for _ in 0..TRIES {
        let at = supervised.pids().len() - 1;
        let old = supervised.pids()[at];
        let before = (said(&supervised, over), said(&supervised, failed));
        supervised.sidecar.process.signal(Signal::SIGUSR2);
        until("it has handed over, or not", || (said(&supervised, over), said(&supervised, failed)) != before);
        if said(&supervised, failed) > before.1 {
            continue;
        }
        // It ends within a tenth of a second.
        let _ = kill(Pid::from_raw(old), Signal::SIGSTOP);
        until("it is stopped, or gone", || matches!(state_of(old), 'T' | 'Z' | 'X'));
        if state_of(old) != 'T' {
            until("it is upgraded", || state_of(old) == 'X');
            continue;
        }
        supervised.expect_log("the old sidecar has handed over and does not end: it is killed");
        supervised.expect_log("was ended by signal 9 while the new one was taking over; the new one goes on");
        assert_eq!(wire.ask(GET).text(), "ok");
        assert_eq!(supervised.pids().len(), at + 2);
        assert!(matches!(state_of(supervised.pids()[at + 1]), 'R' | 'S'));
        return supervised.end();
    }
    panic!("none could be stopped between its last word and its end");
}

/// As proc_pid_stat(5) has it; X: there is no such process.
fn state_of(pid: i32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next()).unwrap_or('X')
}

/// The real thing: clients at work, and one that waits for its answer all the while.
fn an_upgrade_keeps_every_connection(driver: Driver) {
    let (go, may_go) = mpsc::channel();
    let may_go = Mutex::new(may_go);
    let service = http(move |head, wire| {
        if head.path() == "/slow" {
            let _ = may_go.lock().expect("nobody panicked").recv();
        }
        let _ = wire.try_send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    });
    let wrapper = format!("exec {SHMESH} \"$@\"\n");
    let mut supervised =
        Supervised::launch_on(driver, &service.endpoint, &[], |path| symlink(SHMESH, path).expect("a link"));
    supervised.wait_started();
    let answered = AtomicUsize::new(0);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut wire = supervised.sidecar.connect("web");
                while !is_over.load(Ordering::Relaxed) {
                    assert_eq!(wire.ask(GET).text(), "ok");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
            scope.spawn(|| {
                let app = Client::builder().hang_timeout(PATIENCE).socket(supervised.sidecar.path("apps.sock"));
                let app = app.connect().expect("it attaches");
                while !is_over.load(Ordering::Relaxed) {
                    let request = Request::http("POST", "service", "/").idempotent(false).timeout(PATIENCE);
                    assert_eq!(app.call(request).expect("an answer").body, b"ok");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let end = EndOfClients(&is_over);
        let more = || {
            let before = answered.load(Ordering::Relaxed);
            until("calls are answered", || answered.load(Ordering::Relaxed) > before + 20);
        };
        let mut slow = supervised.sidecar.connect("web");
        slow.send("GET /slow HTTP/1.1\r\nHost: service\r\n\r\n");
        more();
        supervised.upgrade_to(&wrapper);
        until("it is upgraded", || supervised.upgrades() == 1);
        assert_eq!(supervised.pids().len(), 2);
        more();
        // Who tells the sidecar itself gets the same, from the same hands.
        kill(Pid::from_raw(supervised.pids()[1]), Signal::SIGUSR2).expect("it runs");
        until("it is upgraded again", || supervised.upgrades() == 2);
        assert_eq!(supervised.pids().len(), 3);
        more();
        go.send(()).expect("the service waits");
        assert_eq!(slow.answer().text(), "ok");
        drop(end);
    });
    // One that dies is replaced by the binary before it, here the same.
    supervised.kill_sidecar(2);
    supervised.expect_log("back to the binary before it");
    supervised.expect_start(4);
    supervised.end();
}

/// Clients end with the test also if it fails.
struct EndOfClients<'a>(&'a AtomicBool);

impl Drop for EndOfClients<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A configuration that is refused is told with its place, and read again at each start.
#[test]
fn one_whose_configuration_is_mended_comes_up() {
    let service = saying("ok");
    let mut sidecar = Sidecar::supervise(Driver::Epoll, "listenrs: []\n", &[("up", &service.endpoint)], &[]);
    until("it says where", || sidecar.log().contains("shmesh.yaml:2:1: unknown key `listenrs`"));
    until("it tries again", || sidecar.log().contains("it starts again in 200ms"));
    sidecar.write_config(CONFIG);
    sidecar.wait_ready();
    assert_eq!(sidecar.connect("web").ask(GET).text(), "ok");
    sidecar.process.signal(Signal::SIGTERM);
    assert_eq!(sidecar.process.wait().code(), Some(0));
}
