//! No descriptor is left: what is new is refused by name, or waits; what is there goes on; and nothing turns in circles.

use std::process::Command;
use std::thread;
use std::time::Duration;

use shmesh_client::{CallError, Client, ConnectError, Ran, Request};

use crate::process::{PATIENCE, until};
use crate::service::{http, saying};
use crate::sidecar::{Driver, Sidecar};

on_each_driver!(without_descriptors_it_refuses_by_name_and_keeps_what_it_has);

const CONFIG: &str = "
listeners:
  - { name: apps, shm: $dir/apps.sock }
  - { name: web, tcp: 127.0.0.1:$web, protocol: http }
routes:
  - { match: { host: known }, cluster: known }
  - { match: { host: new }, cluster: new }
  - { match: { host: anew }, cluster: anew }
clusters:
  - { name: known, endpoints: [ \"$known\" ] }
  - { name: new, endpoints: [ \"$new\" ] }
  - { name: anew, endpoints: [ \"$anew\" ] }
";

/// A descriptor with a higher number than this, which it may have been started with, stays out of the count.
const NUMBER_MAX: usize = 200;
/// Longer than it mostly takes to close a connection.
const SETTLED: Duration = Duration::from_secs(1);
/// How long its CPU time is looked at, and what it may use of that. It tries again every 100 ms; who turns in circles uses all of it.
const WATCHED: Duration = Duration::from_secs(1);
const USED_MAX: Duration = Duration::from_millis(700);

/// Its soft limit of descriptors, and a new one.
struct Limit {
    pid: String,
    was: String,
}

impl Limit {
    fn of(sidecar: &Sidecar) -> Limit {
        let pid = sidecar.process.pid().to_string();
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("it has a limit");
        Limit { pid, was: line.split_whitespace().next().expect("a number").to_owned() }
    }

    /// False: this machine has no `prlimit`.
    fn set(&self, soft: &str) -> bool {
        let outcome = Command::new("prlimit").args(["--pid", &self.pid, &format!("--nofile={soft}:")]).status();
        match &outcome {
            Ok(status) => assert!(status.success(), "prlimit: {status}"),
            Err(error) => eprintln!("skipped: prlimit: {error}"),
        }
        outcome.is_ok()
    }
}

/// Its open descriptors below a number, without files of the kernel's that it reads now and then.
fn descriptors(sidecar: &Sidecar, below: usize) -> Vec<usize> {
    let folder = std::fs::read_dir(format!("/proc/{}/fd", sidecar.process.pid())).expect("it runs");
    let numbers = folder.filter_map(|entry| {
        let entry = entry.ok()?;
        let is_of_kernel =
            std::fs::read_link(entry.path()).is_ok_and(|to| to.starts_with("/proc") || to.starts_with("/sys"));
        (!is_of_kernel).then_some(entry.file_name().to_str()?.parse().ok()?)
    });
    numbers.filter(|number| *number < below).collect()
}

/// CPU time so far, in hundredths of a second (fields 14 and 15 of proc_pid_stat(5)).
fn cpu(sidecar: &Sidecar) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", sidecar.process.pid())).expect("it runs");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name in brackets").1.split_whitespace().collect();
    let ticks: u64 = [11, 12].map(|field: usize| fields[field].parse::<u64>().expect("a number")).iter().sum();
    Duration::from_millis(10 * ticks)
}

fn get(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

fn call<'a>(host: &str) -> Request<'a> {
    Request::http("GET", host, "/").timeout(PATIENCE)
}

fn builder(sidecar: &Sidecar) -> shmesh_client::ClientBuilder {
    Client::builder().hang_timeout(PATIENCE).socket(sidecar.path("apps.sock")).lanes(1).fallback(false)
}

fn without_descriptors_it_refuses_by_name_and_keeps_what_it_has(driver: Driver) {
    // Nothing of `new` stays behind an answer.
    let known = saying("known");
    let new = http(|head, wire| {
        wire.body(head, false, |_| ());
        let _ = wire.try_send(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\nnew");
    });
    // Each call to it needs a new connection.
    let anew = http(|_, wire| {
        let _ = wire.try_send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nanew");
        wire.end();
    });
    let words = [("known", &*known.endpoint), ("new", &*new.endpoint), ("anew", &*anew.endpoint)];
    let sidecar = Sidecar::start_with(driver, CONFIG, &words, &["--workers", "1"]);
    let client = builder(&sidecar).connect().expect("it attaches");
    let with_a_way_round = builder(&sidecar).fallback(true).connect().expect("it attaches");
    until("it knows the way round", || {
        assert_eq!(with_a_way_round.call(call("anew")).expect("an answer").status, 200);
        with_a_way_round.knows_way_round(&call("anew"))
    });
    let mut kept = sidecar.connect("web");
    let mut answers = |host: &str| {
        kept.send(get(host));
        let answer = kept.answer();
        match client.call(call(host)) {
            Ok(shared) => assert_eq!((shared.status, ""), (answer.status(), answer.reason())),
            Err(CallError::Overloaded { ran: Ran::No, .. }) => assert_eq!(answer.reason(), "exhausted"),
            Err(error) => panic!("{error:?}"),
        }
        (answer.status(), answer.reason().to_owned())
    };
    let fine = (200, String::new());
    assert_eq!(answers("known"), fine);

    let limit = Limit::of(&sidecar);
    let most = descriptors(&sidecar, NUMBER_MAX).into_iter().max().expect("it has some") + 1;
    if !limit.set(&most.to_string()) {
        return;
    }
    let (mut filling, mut refused) = (Vec::new(), 0);
    until("it is full", || {
        // One number is set aside by a thread that waits in accept(2), and is shown by nobody. Nobody else is to wait for one: a listener
        // that tries again may be faster than the sessions' thread when that gives up its spare one.
        while descriptors(&sidecar, most).len() + 1 < most {
            let mut wire = sidecar.connect("web");
            assert_eq!(wire.ask(get("known")).status(), 200);
            filling.push(wire);
        }
        let is_full = match client.call(call("new")) {
            Ok(answer) => {
                assert_eq!(answer.status, 200);
                false
            }
            Err(CallError::Overloaded { ran: Ran::No, .. }) => true,
            Err(error) => panic!("{error:?}"),
        };
        refused += u32::from(is_full);
        // What the admin interface was asked for at the start may be closed late.
        thread::sleep(SETTLED);
        is_full && descriptors(&sidecar, most).len() + 1 >= most
    });
    for _ in 0..3 {
        assert_eq!(answers("known"), fine);
        assert_eq!(answers("new"), (503, "exhausted".to_owned()));
        assert_eq!(with_a_way_round.call(call("anew")).expect("an answer from the service itself").status, 200);
        refused += 3;
    }
    match builder(&sidecar).connect() {
        Err(CallError::Connect(ConnectError::Refused { sentence, .. })) => {
            assert!(sentence.contains("cannot be set up"), "{sentence}");
        }
        other => panic!("{other:?}"),
    }
    // On `uring` a listener keeps the limit that it began with, and goes on accepting.
    let mut late = sidecar.connect("web");
    late.send(get("known"));
    let before = cpu(&sidecar);
    thread::sleep(WATCHED);
    let used = cpu(&sidecar).saturating_sub(before);
    assert!(used < USED_MAX, "{used:?} in {WATCHED:?}");
    assert_eq!(answers("known"), fine);

    drop(filling);
    assert!(limit.set(&limit.was));
    assert_eq!(late.answer().status(), 200);
    assert_eq!(answers("new"), fine);
    let other = builder(&sidecar).connect().expect("there is room again");
    assert_eq!(other.call(call("known")).expect("an answer").status, 200);
    let counted = |what: &str| sidecar.metric(&format!("shmesh_exhausted_total{{what=\"{what}\"}}"));
    assert_eq!(counted("connect"), f64::from(refused));
    assert!(counted("session") >= 1.0);
    if driver == Driver::Epoll {
        until("what was put off is counted", || counted("accept") >= 1.0);
        assert!(sidecar.log().contains("connections cannot be accepted, and wait"), "{}", sidecar.log());
    }
}
