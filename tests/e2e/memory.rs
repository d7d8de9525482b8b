//! Memory runs out: what is new is refused by name, what is there goes on, and when there is room again so is everything.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use shmesh_client::{CallError, Client, ClientBuilder, ConnectError, DubboKey, Ran, Request};

use crate::bytes::{MIB, Noise};
use crate::dubbo::{ask, call as invocation, echo_provider};
use crate::process::{PATIENCE, until};
use crate::service::{noise_service, saying};
use crate::shm::App;
use crate::sidecar::{Driver, Sidecar};

on_each_driver!(
    short_of_memory_it_refuses_by_name_and_keeps_what_it_has,
    memory_that_cannot_be_mapped_is_refused_by_name,
);

/// So little counts as short that there is room for whatever the sidecar does: the bound is 1 % of the group's limit.
const CONFIG: &str = "
listeners:
  - { name: apps, shm: $dir/apps.sock }
  - { name: web, tcp: 127.0.0.1:$web, protocol: http }
  - { name: rpc, tcp: 127.0.0.1:$rpc, protocol: dubbo }
  - { name: raw, tcp: 127.0.0.1:$raw, protocol: raw, cluster: service }
routes:
  - { match: { host: service }, cluster: service }
  - { match: { host: local }, cluster: local }
  - { match: { service: com.demo.GreetService }, cluster: greeter }
clusters:
  - { name: service, endpoints: [ \"$up\" ] }
  - { name: local, endpoints: [ \"shm:my-app\" ] }
  - { name: greeter, endpoints: [ \"$greeter\" ] }
limits: { memory_percent: 1 }
timeouts: { first_byte: 10m, idle: 10m }
";

/// What [`invocation`] calls.
const GREETER: DubboKey<'static> = DubboKey {
    service: "com.demo.GreetService",
    method: "sayHello",
    group: Some("g1"),
    version: Some("1.0.0"),
    tag: None,
};

/// What the sidecar uses in its group at least, before the group's limit is so many times that: two and a half times what
/// the bound allows.
const USED_MIN: u64 = MIB / 2;
const TIMES: u64 = 40;
/// A limit that nothing comes near.
const PLENTY: u64 = 1 << 45;
/// How often is asked whether something changed, by a call: the sidecar looks ten times a second.
const ASKED_EVERY: Duration = Duration::from_millis(50);

/// A control group of its own for the memory of a process, of version 2 or 1; removed when dropped.
struct Group {
    folder: PathBuf,
    limit: &'static str,
    used: &'static str,
}

impl Group {
    /// The error says why there is none.
    fn of(pid: i32) -> Result<Group, String> {
        let name = format!("shmesh-memory-{pid}");
        let mut reasons = Vec::new();
        for (root, limit, used) in [
            ("/sys/fs/cgroup", "memory.max", "memory.current"),
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
        ] {
            let root = Path::new(root);
            // Of no hierarchy, or of another kind, it would let a folder be made.
            if !root.join("cgroup.procs").exists() {
                continue;
            }
            let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
            let group = Group { folder: root.join(&name), limit, used };
            let made = fs::create_dir(&group.folder)
                .and_then(|()| fs::metadata(group.folder.join(limit)))
                .and_then(|_| fs::write(group.folder.join("cgroup.procs"), pid.to_string()));
            match made {
                Ok(()) => return Ok(group),
                Err(error) => reasons.push(format!("{}: {error}", group.folder.display())),
            }
        }
        Err(format!("no control group for memory can be made here: {}", reasons.join("; ")))
    }

    fn used(&self) -> u64 {
        let text = fs::read_to_string(self.folder.join(self.used)).expect("it counts");
        text.trim().parse().expect("a number")
    }

    fn set_limit(&self, bytes: u64) {
        fs::write(self.folder.join(self.limit), bytes.to_string()).expect("it takes a limit");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A group with processes cannot be removed: what is in it moves up.
        let above = self.folder.parent().map(|folder| folder.join("cgroup.procs"));
        for pid in fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default().lines() {
            if let Some(above) = &above {
                let _ = fs::write(above, pid);
            }
        }
        let removed = (0..50).any(|_| {
            thread::sleep(Duration::from_millis(20));
            fs::remove_dir(&self.folder).is_ok() || !self.folder.exists()
        });
        if !removed {
            eprintln!("{} is left behind", self.folder.display());
        }
    }
}

fn builder(sidecar: &Sidecar) -> ClientBuilder {
    Client::builder().hang_timeout(PATIENCE).socket(sidecar.path("apps.sock")).lanes(1).fallback(false)
}

fn client(sidecar: &Sidecar) -> Result<Client, CallError> {
    builder(sidecar).connect()
}

fn give(host: &str) -> Request<'_> {
    Request::http("GET", host, "/give/2/20/length").timeout(PATIENCE)
}

fn short_of_memory_it_refuses_by_name_and_keeps_what_it_has(driver: Driver) {
    let (service, greeter) = (noise_service(), echo_provider());
    let words = [("up", &*service.endpoint), ("greeter", &*greeter.endpoint)];
    let sidecar = Sidecar::start_with(driver, CONFIG, &words, &["--workers", "1"]);
    let group = match Group::of(sidecar.process.pid()) {
        Ok(group) => group,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let app = client(&sidecar).expect("it attaches");
    let with_a_way_round = builder(&sidecar).fallback(true).connect().expect("it attaches");
    let _serving = App::start(&sidecar, "my-app");
    let (mut web, mut rpc) = (sidecar.connect("web"), sidecar.connect("rpc"));
    // What is there: a tunnel, and a request that has come in half.
    let (mut tunnel, mut upload) = (sidecar.connect("raw"), sidecar.connect("web"));
    assert_eq!(tunnel.ask("GET /give/1/10/length HTTP/1.1\r\n\r\n").body.len(), 10);
    upload.send("PUT /take/7 HTTP/1.1\r\nHost: service\r\nContent-Length: 2000\r\n\r\n");
    let mut noise = Noise::new(7);
    upload.send(noise.take(1000));
    sidecar.expect_metric("shmesh_calls_in_flight", 2.0);

    let mut answers = |host: &str| {
        let answer = web.ask(format!("GET /give/2/20/length HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        match app.call(give(host)) {
            Ok(shared) => assert_eq!((shared.status, ""), (answer.status(), answer.reason())),
            Err(CallError::Overloaded { ran: Ran::No, .. }) => assert_eq!(answer.reason(), "exhausted"),
            Err(error) => panic!("{error:?}"),
        }
        (answer.status(), answer.reason().to_owned())
    };
    let (taken, refused) = ((200, String::new()), (503, "exhausted".to_owned()));
    assert_eq!(answers("service"), taken);
    assert_eq!(ask(&mut rpc, &invocation(1, "x")).header.status, 20);
    let body = Noise::new(3).take(MIB as usize);
    until("the sidecar uses some memory", || {
        let request = Request::http("PUT", "service", "/echo").body(&body).timeout(PATIENCE);
        assert_eq!(app.call(request).expect("an answer").body.len(), body.len());
        group.used() >= USED_MIN
    });

    until("it knows the way round", || {
        assert_eq!(with_a_way_round.call(give("service")).expect("an answer").status, 200);
        with_a_way_round.knows_way_round(&give("service"))
    });

    group.set_limit(group.used() * TIMES);
    let mut before = None;
    until("it refuses", || {
        thread::sleep(ASKED_EVERY);
        // The answer of one may be older than that of the other.
        let refused = match app.call(give("service")) {
            Ok(answer) => {
                assert_eq!(answer.status, 200);
                false
            }
            Err(CallError::Overloaded { ran: Ran::No, .. }) => true,
            Err(error) => panic!("{error:?}"),
        };
        before = refused.then(|| sidecar.metric("shmesh_exhausted_total{what=\"memory\"}"));
        refused
    });
    for host in ["service", "local"] {
        assert_eq!(answers(host), refused, "{host}");
    }
    assert_eq!(ask(&mut rpc, &invocation(2, "x")).header.status, 80);
    match app.call(Request::dubbo(GREETER, &invocation(4, "x")).timeout(PATIENCE)) {
        Err(CallError::Overloaded { ran: Ran::No, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(with_a_way_round.call(give("service")).expect("an answer from the service itself").status, 200);
    let (rest, _) = sidecar.connect("raw").rest();
    assert!(rest.is_empty());
    assert_eq!(sidecar.metric("shmesh_exhausted_total{what=\"memory\"}"), before.expect("it refused") + 8.0);
    match client(&sidecar) {
        Err(CallError::Connect(ConnectError::Refused { sentence, .. })) => {
            assert!(sentence.contains("limits.memory_percent"), "{sentence}");
        }
        other => panic!("{other:?}"),
    }
    let shown = sidecar.metrics();
    assert_eq!((shown["shmesh_memory_short"], shown["shmesh_exhausted_total{what=\"session\"}"]), (1.0, 1.0));
    assert!(shown["shmesh_memory_used_bytes"] * 100.0 > shown["shmesh_memory_limit_bytes"]);
    // What is there goes on.
    assert_eq!(tunnel.ask("GET /give/1/30/length HTTP/1.1\r\n\r\n").body.len(), 30);
    upload.send(noise.take(1000));
    assert_eq!(upload.answer().text(), "2000");

    group.set_limit(PLENTY);
    until("there is room again", || {
        thread::sleep(ASKED_EVERY);
        sidecar.metric("shmesh_memory_short") == 0.0
    });
    for host in ["service", "local"] {
        assert_eq!(answers(host), taken, "{host}");
    }
    assert_eq!(ask(&mut rpc, &invocation(3, "x")).header.status, 20);
    client(&sidecar).expect("it attaches again");
    let log = sidecar.log();
    assert_eq!(log.matches("short of memory").count(), 1, "{log}");
    assert!(log.contains("memory for new calls and sessions again"));
}

/// Address space of a process, in bytes.
fn address_space(sidecar: &Sidecar) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", sidecar.process.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).expect("a process has one");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") * 1024
}

fn memory_that_cannot_be_mapped_is_refused_by_name(driver: Driver) {
    /// More than the sidecar needs for anything else, and less than each of the two files of as many lanes as it allows (261 MiB).
    const LEFT: u64 = 192 * MIB;
    let service = saying("ok");
    let words = [("up", &*service.endpoint), ("greeter", &*service.endpoint)];
    let sidecar = Sidecar::start_with(driver, CONFIG, &words, &["--workers", "1"]);
    let app = client(&sidecar).expect("it attaches");
    let ok = |app: &Client| {
        let answer = app.call(Request::http("GET", "service", "/").timeout(PATIENCE));
        answer.expect("an answer").body == b"ok"
    };
    assert!(ok(&app));
    let limit = format!("--as={}:", address_space(&sidecar) + LEFT);
    let set = Command::new("prlimit").args(["--pid", &sidecar.process.pid().to_string(), &limit]).status();
    match set {
        Ok(status) => assert!(status.success(), "prlimit: {status}"),
        Err(error) => return eprintln!("skipped: prlimit: {error}"),
    }
    let large = Client::builder().hang_timeout(PATIENCE).socket(sidecar.path("apps.sock")).lanes(64).fallback(false);
    match large.connect() {
        Err(CallError::Connect(ConnectError::Refused { sentence, .. })) => {
            assert!(sentence.contains("cannot be set up"), "{sentence}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(sidecar.metric("shmesh_exhausted_total{what=\"session\"}"), 1.0);
    assert!(ok(&app), "who is attached goes on");
    assert!(ok(&client(&sidecar).expect("there is room for a small one")));
}
