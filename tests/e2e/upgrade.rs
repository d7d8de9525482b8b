//! One sidecar takes over from another: nobody outside can tell, and whatever goes wrong before it has, the old one goes on.

mod callers;
mod coming;
mod half;
mod kinds;

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shmesh_client::{Client, Request};

use crate::bytes::{KIB, Noise};
use crate::dns::{NameServer, Says, at};
use crate::process::{PATIENCE, Process, SHMESH, until};
use crate::service::{Service, noise_service, saying};
use crate::sidecar::{Driver, Sidecar};
use crate::wire::Wire;
use callers::{Callers, Counting};
use half::Half;

on_each_driver!(
    sessions_do_not_notice,
    what_was_settled_stays_settled,
    an_endpoint_that_is_left_out_stays_out,
    the_next_death_is_learned_at_once,
    a_new_configuration_is_taken_afterwards,
    a_signal_starts_an_upgrade,
    successors_that_fail_leave_the_old_one_at_work,
    one_that_hangs_in_the_middle_is_not_waited_for,
    one_that_is_stopped_loses_no_call,
    an_old_one_that_dies_before_its_last_word_is_followed,
    turns_and_names_are_known_to_the_next_one,
    a_second_upgrade_is_refused_meanwhile,
    what_cannot_be_taken_over_is_refused,
);

const CONFIG: &str = "
listeners:
  - { name: apps, shm: $dir/apps.sock }
  - { name: web, tcp: 127.0.0.1:$web, protocol: http }
  - { name: web-uds, unix: $dir/web.sock, protocol: http }
  - { name: raw, tcp: 127.0.0.1:$raw, protocol: raw, cluster: service }
routes:
  - { match: { host: local }, cluster: local }
  - { match: {}, cluster: service }
clusters:
  - { name: service, endpoints: [ \"$up\" ] }
  - { name: local, endpoints: [ \"shm:my-app\" ] }
timeouts: { first_byte: 10m, idle: 1h }
workers: 2
";

fn before(driver: Driver, service: &Service) -> Sidecar {
    Sidecar::start(driver, CONFIG, &[("up", &service.endpoint)])
}

/// The drivers by turns, as far as both can be had.
fn drivers(first: Driver) -> impl Iterator<Item = Driver> {
    let other = match first {
        Driver::Epoll if Driver::Uring.is_available() => Driver::Uring,
        _ => Driver::Epoll,
    };
    [other, first].into_iter().cycle()
}

fn client(sidecar: &Sidecar) -> Client {
    let builder = Client::builder().hang_timeout(PATIENCE).socket(sidecar.path("apps.sock")).name("caller");
    builder.connect().expect("it attaches")
}

fn get(client: &Client, host: &str) -> String {
    let answer = client.call(Request::http("GET", host, "/").timeout(PATIENCE)).expect("an answer");
    String::from_utf8(answer.body).expect("text")
}

/// Calls over shared memory by apps that call and serve, large ones as well, while the sidecar is replaced.
fn sessions_do_not_notice(driver: Driver) {
    let service = noise_service();
    let mut sidecar = before(driver, &service);
    let app = super::shm::App::start(&sidecar, "my-app");
    let stop = Arc::new(AtomicBool::new(false));
    let calls = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..3u64)
        .map(|seed| {
            let client = client(&sidecar);
            let (stop, calls) = (stop.clone(), calls.clone());
            thread::spawn(move || {
                let mut noise = Noise::new(seed + 1);
                while !stop.load(Ordering::Relaxed) {
                    for (host, len) in [("service", 100), ("local", 200), ("service", 700 * KIB), ("local", 300 * KIB)]
                    {
                        let body = noise.take(len as usize);
                        let request =
                            Request::http("PUT", host, "/echo").body(&body).idempotent(false).timeout(PATIENCE);
                        let answer = client.call(request).expect("an answer");
                        assert!(answer.status == 200 && answer.body == body);
                        calls.fetch_add(1, Ordering::Relaxed);
                    }
                }
                client
            })
        })
        .collect();
    let attached = sidecar_sessions(&sidecar);
    assert_eq!(attached.len(), 4);
    for driver in drivers(driver).take(6) {
        let before = calls.load(Ordering::Relaxed);
        sidecar.upgrade(driver);
        assert_eq!(sidecar_sessions(&sidecar), attached, "the same sessions, with the same lanes");
        until("calls go on", || calls.load(Ordering::Relaxed) > before + 12);
        assert!(!sidecar.log().contains("attached"), "{}", sidecar.log());
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("every call was answered");
    }
    drop(app);
    sidecar.expect_metric("shmesh_sessions", 0.0);
    sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
}

fn sidecar_sessions(sidecar: &Sidecar) -> Vec<serde_json::Value> {
    let mut sessions = sidecar.json("/sessions").as_array().expect("a list").clone();
    sessions.sort_by_key(|session| session["id"].as_u64());
    sessions
}

/// The names of apps, the direct mode, ids: all of it is known to the next process.
fn what_was_settled_stays_settled(driver: Driver) {
    let service = saying("ok");
    let mut sidecar = before(driver, &service);
    let _app = super::shm::App::start(&sidecar, "my-app");
    let caller = client(&sidecar);
    assert_eq!(get(&caller, "service"), "ok");
    for driver in drivers(driver).take(3) {
        sidecar.upgrade(driver);
        let other = super::shm::App::launch(&sidecar, "my-app");
        until("its name is taken", || other.process.log().contains("another process serves"));
        drop(other);
        let another = client(&sidecar);
        assert_eq!(get(&another, "service"), "ok");
        assert_eq!(get(&caller, "service"), "ok");
        drop(another);
        sidecar.expect_metric("shmesh_sessions", 2.0);
        let ids: Vec<u64> =
            sidecar_sessions(&sidecar).iter().map(|session| session["id"].as_u64().expect("an id")).collect();
        assert_eq!(ids, [1, 2]);
    }
    // The socket files are those of the last one, and go with it.
    sidecar.process.signal(Signal::SIGTERM);
    assert!(sidecar.process.wait().success());
    for socket in ["apps.sock", "web.sock", "apps.sock.upgrade", "apps.sock.lock"] {
        assert!(!sidecar.path(socket).exists(), "{socket} is left behind");
    }
}

fn an_endpoint_that_is_left_out_stays_out(driver: Driver) {
    let service = saying("ok");
    let config =
        CONFIG.replace("[ \"$up\" ]", "[ \"tcp:127.0.0.1:$nobody\", \"$up\" ]").replace("workers: 2", "workers: 1");
    let mut sidecar = Sidecar::start(driver, &config, &[("up", &service.endpoint)]);
    let mut wire = sidecar.connect("web");
    let ejected = |sidecar: &Sidecar| {
        let clusters = sidecar.json("/clusters");
        clusters[0]["endpoints"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| one["ejected"].as_u64())
            .collect::<Vec<_>>()
    };
    until("the one that refuses is left out", || {
        assert_eq!(wire.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n").text(), "ok");
        ejected(&sidecar) == [Some(1), Some(0)]
    });
    for driver in drivers(driver).take(2) {
        sidecar.upgrade(driver);
        assert_eq!(ejected(&sidecar), [Some(1), Some(0)]);
        assert_eq!(wire.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n").text(), "ok");
    }
    // Nobody asked it again.
    assert!(!sidecar.log().contains("an endpoint fails"), "{}", sidecar.log());
}

fn the_next_death_is_learned_at_once(driver: Driver) {
    let service = saying("ok");
    let mut sidecar = before(driver, &service);
    let caller = client(&sidecar);
    for driver in drivers(driver).take(2) {
        assert_eq!(get(&caller, "service"), "ok");
        sidecar.upgrade(driver);
    }
    assert_eq!(get(&caller, "service"), "ok");
    let direct = service.accepted();
    sidecar.process.signal(Signal::SIGKILL);
    sidecar.process.wait();
    // By the liveness socket: its hang timeout is far longer than this call's time.
    let request = Request::http("GET", "service", "/").idempotent(true).timeout(PATIENCE / 2);
    assert_eq!(caller.call(request).expect("it goes round").body, b"ok");
    assert!(service.accepted() > direct);
}

fn a_new_configuration_is_taken_afterwards(driver: Driver) {
    let (one, two) = (saying("one"), saying("two"));
    let mut sidecar = before(driver, &one);
    let mut wire = sidecar.connect("web");
    let ask = |wire: &mut Wire| wire.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n").text();
    assert_eq!(ask(&mut wire), "one");
    let caller = client(&sidecar);
    assert_eq!(get(&caller, "a"), "one");
    sidecar.write_config(&CONFIG.replace("$up", &two.endpoint));
    until("the new configuration is in force", || ask(&mut wire) == "two");
    sidecar.upgrade(driver);
    assert_eq!((ask(&mut wire), get(&caller, "a")), ("two".into(), "two".into()));
    sidecar.write_config(&CONFIG.replace("$up", &one.endpoint));
    // Each worker by itself.
    until("the configuration is followed", || ask(&mut wire) == "one");
    until("it is followed over shared memory", || get(&caller, "a") == "one");
}

/// Again and again, while calls go on.
fn a_signal_starts_an_upgrade(driver: Driver) {
    let counting = Counting::start();
    let sidecar = before(driver, &counting.service);
    let callers = Callers::start(&sidecar);
    // Those that come are not this process's children: they are found by the claim to a socket.
    let last = Claimant(sidecar.path("apps.sock.lock"));
    for _ in 0..4 {
        let old = last.pid().expect("somebody serves");
        kill(old, Signal::SIGUSR2).expect("it runs");
        until("another process serves", || last.pid().is_some_and(|pid| pid != old));
        until("the one before is gone", || is_gone(old));
        callers.expect_more();
    }
    callers.finish(&counting);
    let pid = last.pid().expect("somebody serves");
    assert_ne!(pid.as_raw(), sidecar.process.pid());
    kill(pid, Signal::SIGTERM).expect("it runs");
    until("it ends", || is_gone(pid));
}

/// Whoever has the claim to a socket, which the test ends if it fails.
struct Claimant(PathBuf);

impl Claimant {
    fn pid(&self) -> Option<Pid> {
        Some(Pid::from_raw(std::fs::read_to_string(&self.0).ok()?.trim().parse().ok()?))
    }
}

impl Drop for Claimant {
    fn drop(&mut self) {
        if let Some(pid) = self.pid().filter(|pid| thread::panicking() && !is_gone(*pid)) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

fn is_gone(pid: Pid) -> bool {
    kill(pid, None).is_err() || is_zombie(pid.as_raw())
}

fn is_zombie(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

/// Processes that end at each step before the last: calls go on, none fails.
fn successors_that_fail_leave_the_old_one_at_work(driver: Driver) {
    let service = saying("ok");
    let mut sidecar = before(driver, &service);
    let caller = client(&sidecar);
    let mut wire = sidecar.connect("web");
    let mut works = |sidecar: &mut Sidecar| {
        assert_eq!(sidecar.process.ended(), None);
        assert_eq!(wire.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n").text(), "ok");
        assert_eq!(get(&caller, "service"), "ok");
        assert_eq!(get(&client(sidecar), "service"), "ok");
    };
    for step in half::STEPS {
        let mut half = Half::connect(&sidecar);
        half.go_to(step);
        drop(half);
        until("it was noticed", || sidecar.log().contains("the upgrade did not happen"));
        works(&mut sidecar);
    }
    // And one that is well.
    sidecar.upgrade(driver);
    works(&mut sidecar);
}

/// It has all states and says nothing: the old one takes the word back, and the other may not go on when it wakes up.
fn one_that_hangs_in_the_middle_is_not_waited_for(driver: Driver) {
    let service = saying("ok");
    let mut sidecar = before(driver, &service);
    let caller = client(&sidecar);
    assert_eq!(get(&caller, "service"), "ok");
    let mut half = Half::connect(&sidecar);
    half.go_to(half::Step::Workers);
    // This call waits, and is answered.
    assert_eq!(get(&caller, "service"), "ok");
    assert_eq!(half.verdict(), Some(half::ABORT));
    drop(half);
    until("it was said why", || sidecar.log().contains("did not say Restored within"));
    sidecar.upgrade(driver);
    assert_eq!(get(&caller, "service"), "ok");
}

/// It is killed when it has given everything: whoever has that goes on.
fn an_old_one_that_dies_before_its_last_word_is_followed(driver: Driver) {
    let service = saying("ok");
    let mut sidecar = before(driver, &service);
    let mut wire = sidecar.connect("web");
    assert_eq!(wire.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n").text(), "ok");
    // The successor is stopped as soon as it was told the plan, so that the kill comes before everything was given, or after.
    for micros in [0, 500, 2_000] {
        let mut next = sidecar.successor(driver);
        until("it asks to take over", || next.log().contains("taking over") || next.ended().is_some());
        thread::sleep(Duration::from_micros(micros));
        sidecar.process.signal(Signal::SIGKILL);
        sidecar.process.wait();
        let mut status = None;
        until("it goes on, or says why not", || {
            status = next.ended();
            status.is_some() || next.log().contains("shmesh is ready")
        });
        if let Some(status) = status {
            // It had not been given everything.
            assert_eq!(status.code(), Some(75));
            assert!(next.log().contains("ended in the middle of the upgrade"), "{}", next.log());
            sidecar.start_again();
            wire = sidecar.connect("web");
        } else {
            sidecar.process = next;
            sidecar.wait_ready();
        }
        assert_eq!(wire.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n").text(), "ok");
    }
}

/// A successor that is stopped at some time, and goes on later: either the old one has given up by then and goes on, or it has handed over and is gone.
/// Which of them it is may be seen; a call is lost in no case, and none runs twice.
fn one_that_is_stopped_loses_no_call(driver: Driver) {
    let counting = Counting::start();
    let mut sidecar = before(driver, &counting.service);
    let callers = Callers::start(&sidecar);
    // Micros from where it has everything that does not change; and when it has everything, its predecessor's last word included.
    for micros in [Some(500), Some(2_000), Some(5_000), Some(10_000), None] {
        let given_up = |sidecar: &Sidecar| sidecar.log().matches("the upgrade did not happen").count();
        let before = given_up(&sidecar);
        let mut next = sidecar.successor(driver);
        until("it begins", || next.log().contains("taking over from"));
        match micros {
            Some(micros) => thread::sleep(Duration::from_micros(micros)),
            None => until("it has taken over", || next.log().contains("INFO taken over")),
        }
        next.signal(Signal::SIGSTOP);
        let handed_over = |sidecar: &Sidecar| sidecar.log().contains("handed over: the new process goes on");
        until("the old one goes on, or has handed over", || handed_over(&sidecar) || given_up(&sidecar) > before);
        if handed_over(&sidecar) {
            next.signal(Signal::SIGCONT);
            assert!(sidecar.process.wait().success());
            sidecar.process = next;
            sidecar.wait_ready();
        } else {
            assert!(micros.is_some(), "it goes on, although it had handed over");
            callers.expect_more();
            next.signal(Signal::SIGCONT);
            // It hears that it does not take over, or was killed before it woke up.
            assert!(!next.wait().success());
        }
        callers.expect_more();
    }
    callers.finish(&counting);
}

/// Whoever was to take over from one that dies says so by its exit code, however much it was told.
#[test]
fn one_whose_predecessor_dies_says_so() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let path = folder.path().join("upgrade.sock");
    let old = UnixListener::bind(&path).expect("a socket");
    old.set_nonblocking(true).expect("a flag");
    let config = format!("{CONFIG}upgrade_socket: $old\n");
    let words = [("up", "tcp:127.0.0.1:1"), ("old", path.to_str().expect("a plain path"))];
    // Nothing, some of a header, and some of what it announces: a plan of a thousand bytes.
    for told in [&[][..], &[3, 0], &[3, 0xe8, 3, 0, 0, 0, 0, 0, 0, 8]] {
        let mut next = Sidecar::launch(Driver::Epoll, &config, &words, &["--upgrade"]);
        let mut asking = None;
        until("it asks", || {
            asking = old.accept().ok();
            asking.is_some()
        });
        let (mut wire, _) = asking.expect("it asks");
        wire.set_nonblocking(false).expect("a flag");
        assert!(wire.read(&mut [0; 256]).expect("it says what it wants") > 0);
        wire.write_all(told).expect("it reads");
        drop(wire);
        assert_eq!(next.process.wait().code(), Some(75), "{}", next.log());
        assert!(next.log().contains("ended in the middle of the upgrade"), "{}", next.log());
    }
}

/// Round robin goes on where it was, and addresses hold though nobody could be asked for them.
fn turns_and_names_are_known_to_the_next_one(driver: Driver) {
    const CONFIG: &str = "
listeners:
  - { name: apps, shm: $dir/apps.sock }
  - { name: web, tcp: 127.0.0.1:$web, protocol: http }
routes:
  - { match: { host: in.test }, cluster: named }
  - { match: {}, cluster: three }
clusters:
  - { name: three, endpoints: [ \"$one\", \"$two\", \"$three\" ] }
  - { name: named, endpoints: [ \"tcp:svc.test:$port\" ] }
dns: { servers: [ \"$dns\" ] }
timeouts: { idle: 1h }
workers: 1
";
    let services = ["0", "1", "2"].map(saying);
    let port = services[0].endpoint.rsplit(':').next().expect("a port");
    let names = NameServer::start();
    names.say("svc.test", at("127.0.0.1", 3600));
    let mut words: Vec<(&str, &str)> =
        ["one", "two", "three"].into_iter().zip(services.iter().map(|service| &*service.endpoint)).collect();
    let server = names.address.to_string();
    words.extend([("dns", &*server), ("port", port)]);
    let mut sidecar = Sidecar::start(driver, CONFIG, &words);
    let mut wire = sidecar.connect("web");
    let mut ask = |host: &str| wire.ask(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).text();
    assert_eq!(ask("in.test"), "0");
    names.say("svc.test", Says::Silence);
    let first: usize = ask("a").parse().expect("a number");
    for (times, driver) in drivers(driver).take(6).enumerate() {
        sidecar.upgrade(driver);
        assert_eq!(ask("a"), ((first + times + 1) % 3).to_string());
        assert_eq!(ask("in.test"), "0");
    }
}

/// Nobody could be the first process of a container in its place.
#[test]
fn the_first_process_of_a_container_refuses_to_be_replaced() {
    let isolated = || {
        let mut unshare = Command::new("unshare");
        unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        unshare
    };
    if !isolated().arg("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return eprintln!("skipped: no process namespace can be made here");
    }
    let service = saying("ok");
    let mut sidecar = before(Driver::Epoll, &service);
    sidecar.process.signal(Signal::SIGTERM);
    assert!(sidecar.process.wait().success());
    let log = sidecar.path("contained");
    let mut contained = isolated();
    contained.args([SHMESH, "run", "--driver", "epoll", "--config"]).arg(sidecar.config_file());
    sidecar.process = Process::launch("the contained sidecar", &log, &mut contained);
    sidecar.wait_ready();
    let children = format!("/proc/{0}/task/{0}/children", sidecar.process.pid());
    let first = std::fs::read_to_string(children).expect("the system says");
    let first = Pid::from_raw(first.trim().parse().expect("one child"));
    let mut wire = sidecar.connect("web");
    for times in 1..=2 {
        kill(first, Signal::SIGUSR2).expect("it runs");
        until("it says why not", || sidecar.log().matches("is the first process of its container").count() >= times);
        assert_eq!(wire.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n").text(), "ok");
    }
    kill(first, Signal::SIGTERM).expect("it runs");
    assert!(sidecar.process.wait().success());
}

fn a_second_upgrade_is_refused_meanwhile(driver: Driver) {
    let service = saying("ok");
    let mut sidecar = before(driver, &service);
    let mut half = Half::connect(&sidecar);
    half.go_to(half::Step::Plan);
    let mut second = sidecar.successor(driver);
    assert_eq!(second.wait().code(), Some(1));
    assert!(second.log().contains("another upgrade of this sidecar is going on"), "{}", second.log());
    drop(half);
    until("the first is over", || sidecar.log().contains("the upgrade did not happen"));
    sidecar.upgrade(driver);
}

fn what_cannot_be_taken_over_is_refused(driver: Driver) {
    let service = saying("ok");
    let mut sidecar = before(driver, &service);
    // Versions that have no format in common.
    let mut half = Half::connect(&sidecar);
    let sentence = half.take(7, 9).expect_err("a refusal");
    assert!(sentence.contains("reads states of format 7 to 9"), "{sentence}");
    // A configuration that is wrong: nothing is asked of the one that runs.
    let good = std::fs::read_to_string(sidecar.config_file()).expect("a file");
    std::fs::write(sidecar.config_file(), "listeners: 7\n").expect("a file");
    let mut wrong = sidecar.successor(driver);
    assert_eq!(wrong.wait().code(), Some(1));
    assert!(wrong.log().contains("shmesh.yaml:1:"), "{}", wrong.log());
    std::fs::write(sidecar.config_file(), good).expect("a file");
    // Without a session socket there is no place for the upgrade socket, unless it is said.
    let bare = "listeners: [ { name: web, tcp: 127.0.0.1:$web, protocol: http } ]";
    let bare = Sidecar::start(driver, bare, &[]);
    let mut nowhere = bare.successor(driver);
    assert_eq!(nowhere.wait().code(), Some(1));
    assert!(nowhere.log().contains("write `upgrade_socket:"), "{}", nowhere.log());
    // One that drains has nothing to give.
    let mut wire = sidecar.connect("web");
    wire.send("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n");
    sidecar.expect_metric("shmesh_calls_in_flight", 1.0);
    let mut half = Half::connect(&sidecar);
    sidecar.process.signal(Signal::SIGTERM);
    until("it drains", || sidecar.log().contains("draining"));
    let sentence = half.take(1, 1).expect_err("a refusal");
    assert!(sentence.contains("is draining"), "{sentence}");
    wire.send("x");
    assert_eq!(wire.answer().text(), "ok");
    assert!(sidecar.process.wait().success());
}
