//! What operators see and do: checks, reloads, the admin interface, addresses that are taken, and the end.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::bytes::{KIB, MIB, Noise};
use crate::process::until;
use crate::service::{Service, http, noise_service, saying};
use crate::sidecar::{Driver, Sidecar, check};
use crate::wire::Wire;

on_each_driver!(
    a_changed_file_is_taken,
    sighup_takes_the_file,
    a_bad_file_changes_nothing,
    listeners_stay_as_they_are_while_it_runs,
    the_admin_interface_shows_what_is_in_force,
    a_cluster_may_come_in_front_of_others,
    sigterm_lets_calls_in_flight_finish,
    sigterm_lets_slow_readers_take_their_answers,
    calls_are_cut_when_the_drain_takes_too_long,
    an_idle_sidecar_ends_at_once,
    a_port_that_another_sidecar_serves_is_refused,
    a_port_that_somebody_else_serves_is_refused,
    a_socket_file_that_nobody_answers_is_replaced,
    a_socket_that_somebody_answers_is_refused,
    a_sidecar_that_was_killed_can_be_started_again,
);

const CONFIG: &str = "
listeners: [ { name: web, tcp: 127.0.0.1:$web, protocol: http } ]
routes: [ { match: { host: service }, cluster: service } ]
clusters: [ { name: service, endpoints: [ \"$up\" ] } ]
";

const GET: &str = "GET / HTTP/1.1\r\nHost: service\r\n\r\n";

#[test]
fn check_says_what_is_wrong_and_what_to_write_instead() {
    let listener = "listeners: [ { name: a, tcp: 127.0.0.1:1, protocol: http } ]\n";
    for (config, expected) in [
        ("foo: 1\n", "c.yaml:1:1: unknown key `foo`"),
        ("listners: []\n", "c.yaml:1:1: unknown key `listners`; did you mean `listeners`?"),
        (
            &format!("{listener}routes:\n  - match: {{ hots: a }}\n    cluster: b\n"),
            "c.yaml:3:14: unknown key `hots`; did you mean `host`?",
        ),
        (
            &format!("{listener}routes:\n  - {{ match: {{ host: a }}, cluster: nowhere }}\n"),
            "c.yaml:3:36: there is no cluster `nowhere`",
        ),
        (
            &format!("{listener}clusters:\n  - {{ name: a, endpoints: [ \"127.0.0.1:80\" ] }}\n"),
            "c.yaml:3:29: `127.0.0.1:80` does not say how it is reached; write `tcp:127.0.0.1:80`",
        ),
        (
            &format!(
                "{listener}clusters:\n  - name: a\n    endpoints: [ \"tcp:h:1\" ]\n  - name: a\n    endpoints: [ \"tcp:h:1\" ]\n"
            ),
            "c.yaml:5:11: the cluster on line 3 has the name `a` already; write another",
        ),
        (&format!("{listener}timeouts: {{ idle: 60 }}\n"), "c.yaml:2:19: "),
        ("listeners: [ { name: a\n", "c.yaml:1:14: this is not YAML"),
    ] {
        let (code, text) = check(config);
        assert_eq!(code, Some(1), "{config}");
        assert!(text.starts_with(expected), "{config}\n{text}");
    }
    // All faults at once, a line for each.
    let (code, text) = check(
        "listeners:\n  - { name: a, tcp: nowhere, protocol: http }\nroutes:\n  - { match: {}, cluster: b }\nclusters:\n  - { name: c }\n",
    );
    assert_eq!((code, text.lines().count()), (Some(1), 3), "{text}");
    let (code, text) = check(listener);
    assert_eq!((code, text.trim().starts_with("c.yaml: ok (1 listener")), (Some(0), true), "{text}");
}

#[test]
fn the_configuration_of_the_documentation_is_good() {
    let guide = include_str!("../../docs/CONFIG.md");
    let mut checked = 0;
    for block in guide.split("```yaml\n").skip(1) {
        let (config, _) = block.split_once("```").expect("an end");
        if config.contains("listeners:") {
            let (code, text) = check(config);
            assert_eq!(code, Some(0), "{text}\n{config}");
            checked += 1;
        }
    }
    assert!(checked >= 2);
}

#[test]
fn a_bad_file_is_refused_at_start() {
    let mut sidecar = Sidecar::launch(Driver::Epoll, "listenrs: []\n", &[], &[]);
    assert_eq!(sidecar.process.wait().code(), Some(1));
    assert!(
        sidecar.log().contains("shmesh.yaml:2:1: unknown key `listenrs`; did you mean `listeners`?"),
        "{}",
        sidecar.log()
    );
}

/// Two services, of which the configuration names one.
struct Pair {
    sidecar: Sidecar,
    _services: [Service; 2],
    other: String,
}

impl Pair {
    fn start(driver: Driver) -> Pair {
        let services = [saying("first"), saying("second")];
        let sidecar = Sidecar::start(driver, CONFIG, &[("up", &services[0].endpoint)]);
        assert_eq!(sidecar.connect("web").ask(GET).text(), "first");
        let other = services[1].endpoint.clone();
        Pair { sidecar, _services: services, other }
    }

    fn config_of_other(&self) -> String {
        CONFIG.replace("$up", &self.other)
    }

    fn reloads(&self, result: &str) -> f64 {
        self.sidecar.metric(&format!("shmesh_config_reloads_total{{result=\"{result}\"}}"))
    }
}

fn a_changed_file_is_taken(driver: Driver) {
    let mut pair = Pair::start(driver);
    let mut wire = pair.sidecar.connect("web");
    assert_eq!(wire.ask(GET).text(), "first");
    let config = pair.config_of_other();
    pair.sidecar.write_config(&config);
    // On the connection that is open, and without one call that fails.
    until("the new service answers", || {
        let answer = wire.ask(GET);
        assert_eq!(answer.status(), 200);
        answer.text() == "second"
    });
    until("it is counted", || pair.reloads("taken") == 1.0);
    assert_eq!(pair.reloads("refused"), 0.0);
    assert_eq!(pair.sidecar.metric("shmesh_snapshot_version"), 2.0);
    // Written again in place, as some editors do.
    let config = std::fs::read_to_string(pair.sidecar.config_file()).expect("a file");
    std::fs::write(pair.sidecar.config_file(), config.replace("host: service", "host: renamed")).expect("a file");
    until("the route has another host", || wire.ask(GET).status() == 404);
}

fn sighup_takes_the_file(driver: Driver) {
    let pair = Pair::start(driver);
    // Nothing has changed, and it is taken again all the same.
    pair.sidecar.process.signal(Signal::SIGHUP);
    until("the reload is counted", || pair.reloads("taken") == 1.0);
    assert_eq!(pair.sidecar.connect("web").ask(GET).text(), "first");
}

fn a_bad_file_changes_nothing(driver: Driver) {
    let mut pair = Pair::start(driver);
    let bad = pair.config_of_other().replace("cluster: service }", "cluster: sevrice }");
    pair.sidecar.write_config(&bad);
    until("the refusal is counted", || pair.reloads("refused") >= 1.0);
    let log = pair.sidecar.log();
    assert!(log.contains("there is no cluster `sevrice`; did you mean `service`?"), "{log}");
    assert_eq!(pair.sidecar.connect("web").ask(GET).text(), "first", "the last good one is in force");
    assert_eq!(pair.sidecar.metric("shmesh_snapshot_version"), 1.0);
    assert_eq!(pair.sidecar.get("/ready").0, 200);
    let good = pair.config_of_other();
    pair.sidecar.write_config(&good);
    until("the good one is taken", || pair.sidecar.connect("web").ask(GET).text() == "second");
}

fn listeners_stay_as_they_are_while_it_runs(driver: Driver) {
    let mut pair = Pair::start(driver);
    let other = pair.config_of_other().replace("$web", "$elsewhere");
    pair.sidecar.write_config(&other);
    until("the refusal is counted", || pair.reloads("refused") >= 1.0);
    assert!(pair.sidecar.log().contains("restart"), "{}", pair.sidecar.log());
    assert_eq!(pair.sidecar.connect("web").ask(GET).text(), "first");
}

/// A raw listener names its cluster, which is another one by number after this.
fn a_cluster_may_come_in_front_of_others(driver: Driver) {
    let web = saying("web");
    let stream = Service::tcp(|mut wire| wire.send("stream"));
    let config = "
listeners:
  - { name: raw, tcp: 127.0.0.1:$raw, protocol: raw, cluster: stream }
  - { name: web, tcp: 127.0.0.1:$web, protocol: http }
routes: [ { match: { host: service }, cluster: service } ]
clusters:
  - { name: service, endpoints: [ \"$up\" ] }
  - { name: stream, endpoints: [ \"$stream\" ] }
";
    let words = [("up", &*web.endpoint), ("stream", &*stream.endpoint)];
    let mut sidecar = Sidecar::start(driver, config, &words);
    let expect_both = |sidecar: &Sidecar| {
        assert_eq!(sidecar.connect("web").ask(GET).text(), "web");
        assert_eq!(sidecar.connect("raw").rest(), (b"stream".to_vec(), true));
    };
    expect_both(&sidecar);
    let more = config.replace("clusters:\n", "clusters:\n  - { name: new, endpoints: [ \"tcp:127.0.0.1:1\" ] }\n");
    for (reloads, config) in [more.as_str(), config].into_iter().enumerate() {
        sidecar.write_config(config);
        until("it is taken", || {
            let metrics = sidecar.metrics();
            let refused = metrics.get("shmesh_config_reloads_total{result=\"refused\"}").copied().unwrap_or(0.0);
            assert_eq!(refused, 0.0, "{}", sidecar.log());
            metrics.get("shmesh_config_reloads_total{result=\"taken\"}") == Some(&(reloads as f64 + 1.0))
        });
        expect_both(&sidecar);
    }
}

fn the_admin_interface_shows_what_is_in_force(driver: Driver) {
    let service = saying("ok");
    let config = "
listeners:
  - { name: web, tcp: 127.0.0.1:$web, protocol: http }
  - { name: apps, shm: $dir/apps.sock }
routes: [ { match: { host: service, path_prefix: / }, cluster: service } ]
clusters: [ { name: service, endpoints: [ \"$up\" ] } ]
timeouts: { first_byte: 7s }
";
    let sidecar = Sidecar::start(driver, config, &[("up", &service.endpoint)]);
    assert_eq!(sidecar.connect("web").ask(GET).text(), "ok");
    assert_eq!(sidecar.get("/ready"), (200, "ready\n".to_owned()));
    assert_eq!(sidecar.get("/live").0, 200);
    let snapshot = sidecar.json("/snapshot");
    assert_eq!(snapshot["routes"][0]["cluster"], "service");
    assert_eq!(snapshot["clusters"][0]["endpoints"][0], service.endpoint.as_str());
    assert_eq!(snapshot["timeouts"]["first_byte"], "7s");
    assert_eq!(snapshot["timeouts"]["idle"], "60s".to_owned(), "defaults included");
    assert!(snapshot["limits"]["headers"].is_u64());
    assert_eq!(sidecar.json("/sessions"), serde_json::json!([]));
    assert_eq!(sidecar.json("/clusters")[0]["endpoints"][0]["connections"], 1);
    let (status, text) = sidecar.get("/metrics");
    assert_eq!(status, 200);
    for name in [
        "shmesh_requests_total",
        "shmesh_request_duration_seconds",
        "shmesh_sessions",
        "shmesh_lanes",
        "shmesh_ring_full_total",
    ] {
        assert_eq!(text.matches(&format!("# TYPE {name} ")).count(), 1, "{name}");
        assert_eq!(text.matches(&format!("# HELP {name} ")).count(), 1, "{name}");
    }
    assert_eq!(
        sidecar.metric(&format!(
            "shmesh_build_info{{version=\"{}\",driver=\"{}\"}}",
            env!("CARGO_PKG_VERSION"),
            driver.name()
        )),
        1.0
    );
    let (status, text) = sidecar.get("/nothing");
    assert_eq!(status, 404);
    for path in ["/ready", "/live", "/snapshot", "/sessions", "/clusters", "/metrics"] {
        assert!(text.contains(path), "{text}");
    }
    let answer = Wire::tcp(sidecar.tcp("admin")).ask("POST /ready HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(answer.status(), 405);
}

/// A service that answers after a while.
fn slow(delay: Duration) -> Service {
    http(move |head, wire| {
        wire.body(head, false, |_| ());
        std::thread::sleep(delay);
        let _ = wire.try_send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
    })
}

fn sigterm_lets_calls_in_flight_finish(driver: Driver) {
    let service = slow(Duration::from_millis(1200));
    let mut sidecar = Sidecar::start(driver, CONFIG, &[("up", &service.endpoint)]);
    let mut idle = sidecar.connect("web");
    let mut busy = sidecar.connect("web");
    busy.send(GET);
    sidecar.expect_metric("shmesh_calls_in_flight", 1.0);
    sidecar.process.signal(Signal::SIGTERM);
    until("it is not ready any more", || sidecar.get("/ready").0 == 503);
    assert_eq!(sidecar.get("/live").0, 200);
    idle.expect_closed();
    until("the listener is closed", || Wire::try_tcp(sidecar.tcp("web")).is_none());
    let answer = busy.answer();
    assert_eq!((answer.status(), answer.text().as_str()), (200, "done"));
    assert_eq!(answer.head.get("connection"), Some("close"));
    assert_eq!(sidecar.process.wait().code(), Some(0));
}

/// What the sidecar took from the service and the client did not take yet is part of the call.
fn sigterm_lets_slow_readers_take_their_answers(driver: Driver) {
    let service = noise_service();
    let mut sidecar = Sidecar::start(driver, CONFIG, &[("up", &service.endpoint)]);
    let lens = [300 * KIB, MIB, 2 * MIB, 5 * MIB];
    let mut readers: Vec<Wire> = lens.iter().map(|_| sidecar.connect("web")).collect();
    for (wire, len) in readers.iter_mut().zip(lens) {
        wire.send(format!("GET /give/{len}/{len}/length HTTP/1.1\r\nHost: service\r\n\r\n"));
    }
    // Now each has as much under way as the buffers take.
    std::thread::sleep(Duration::from_millis(300));
    sidecar.process.signal(Signal::SIGTERM);
    until("the listener is closed", || Wire::try_tcp(sidecar.tcp("web")).is_none());
    std::thread::sleep(Duration::from_millis(300));
    for (wire, len) in readers.iter_mut().zip(lens) {
        let answer = wire.answer();
        assert_eq!((answer.status(), answer.body.len() as u64), (200, len));
        Noise::new(len).check(&answer.body);
        wire.expect_closed();
    }
    assert_eq!(sidecar.process.wait().code(), Some(0));
}

fn calls_are_cut_when_the_drain_takes_too_long(driver: Driver) {
    let service = slow(Duration::from_secs(20));
    let config = format!("{CONFIG}drain_timeout: 400ms\n");
    let mut sidecar = Sidecar::start(driver, &config, &[("up", &service.endpoint)]);
    let mut wire = sidecar.connect("web");
    wire.send(GET);
    sidecar.expect_metric("shmesh_calls_in_flight", 1.0);
    let started = Instant::now();
    sidecar.process.signal(Signal::SIGTERM);
    assert_eq!(sidecar.process.wait().code(), Some(0));
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(390) && took < Duration::from_secs(5), "{took:?}");
    let (bytes, _) = wire.rest();
    assert!(!bytes.starts_with(b"HTTP/1.1 200"));
}

fn an_idle_sidecar_ends_at_once(driver: Driver) {
    let service = saying("ok");
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut sidecar = Sidecar::start(driver, CONFIG, &[("up", &service.endpoint)]);
        let mut wire = sidecar.connect("web");
        assert_eq!(wire.ask(GET).text(), "ok");
        let started = Instant::now();
        sidecar.process.signal(signal);
        assert_eq!(sidecar.process.wait().code(), Some(0));
        assert!(started.elapsed() < Duration::from_secs(3), "{signal}: {:?}", started.elapsed());
        wire.expect_closed();
    }
}

/// Starts a sidecar that has to refuse; gives its exit code and what it said.
fn refusal(driver: Driver, config: &str, words: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut sidecar = Sidecar::launch(driver, config, words, &[]);
    let code = sidecar.process.wait().code();
    (code, sidecar.log())
}

fn a_port_that_another_sidecar_serves_is_refused(driver: Driver) {
    let service = saying("ok");
    let first = Sidecar::start(driver, CONFIG, &[("up", &service.endpoint)]);
    let port = first.tcp("web").port().to_string();
    // With several workers each binds the port, which the kernel would allow to a second sidecar as well.
    for workers in ["", "workers: 2\n"] {
        let config = format!("{CONFIG}{workers}");
        let (code, log) = refusal(driver, &config, &[("up", &service.endpoint), ("web", &port)]);
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains(&format!("127.0.0.1:{port}")), "{log}");
    }
    let admin = first.tcp("admin").port().to_string();
    let (code, log) = refusal(driver, CONFIG, &[("up", &service.endpoint), ("admin", &admin)]);
    assert_eq!(code, Some(1));
    assert!(log.contains(&format!("127.0.0.1:{admin}")), "{log}");
    assert_eq!(first.connect("web").ask(GET).text(), "ok", "the first one is not disturbed");
}

fn a_port_that_somebody_else_serves_is_refused(driver: Driver) {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let (code, log) = refusal(driver, CONFIG, &[("up", "tcp:127.0.0.1:1"), ("web", &port)]);
    assert_eq!(code, Some(1));
    assert!(log.contains(&format!("127.0.0.1:{port}")) && log.contains("web"), "{log}");
}

const SOCKETS: &str = "
listeners:
  - { name: web, unix: $sock, protocol: http }
  - { name: apps, shm: $shm }
routes: [ { match: { host: service }, cluster: service } ]
clusters: [ { name: service, endpoints: [ \"$up\" ] } ]
";

fn a_socket_file_that_nobody_answers_is_replaced(driver: Driver) {
    let service = saying("ok");
    let folder = tempfile::TempDir::new().expect("a folder");
    let paths = ["web.sock", "apps.sock"].map(|name| folder.path().join(name));
    for path in &paths {
        // The file stays when the socket is closed.
        drop(UnixListener::bind(path).expect("a socket"));
        assert!(path.exists());
    }
    let [sock, shm] = paths.each_ref().map(|path| path.to_str().expect("a plain path"));
    let sidecar = Sidecar::start(driver, SOCKETS, &[("up", &service.endpoint), ("sock", sock), ("shm", shm)]);
    assert_eq!(Wire::unix(&paths[0]).ask(GET).text(), "ok");
    drop(sidecar);
    // A file that is no socket is nobody's to remove.
    std::fs::remove_file(&paths[0]).expect("it is there");
    std::fs::File::create(&paths[0]).and_then(|mut file| file.write_all(b"precious")).expect("a file");
    let (code, log) = refusal(driver, SOCKETS, &[("up", &service.endpoint), ("sock", sock), ("shm", shm)]);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains(sock), "{log}");
    assert_eq!(std::fs::read(&paths[0]).expect("it is there"), b"precious");
}

fn a_socket_that_somebody_answers_is_refused(driver: Driver) {
    let service = saying("ok");
    let folder = tempfile::TempDir::new().expect("a folder");
    let [sock, shm] = ["web.sock", "apps.sock"].map(|name| folder.path().join(name));
    let (sock_text, shm_text) = (sock.to_str().expect("a plain path"), shm.to_str().expect("a plain path"));
    let words = [("up", &*service.endpoint), ("sock", sock_text), ("shm", shm_text)];
    let first = Sidecar::start(driver, SOCKETS, &words);
    let (code, log) = refusal(driver, SOCKETS, &words);
    assert_eq!(code, Some(1));
    assert!(log.contains(sock_text) && log.contains(&first.process.pid().to_string()), "path and pid: {log}");
    let only_shm = "listeners: [ { name: apps, shm: $shm } ]\n";
    let (code, log) = refusal(driver, only_shm, &words);
    assert_eq!(code, Some(1));
    assert!(log.contains(shm_text) && log.contains(&first.process.pid().to_string()), "path and pid: {log}");
    assert_eq!(Wire::unix(&sock).ask(GET).text(), "ok", "the first one is not disturbed");
    // Somebody else's socket: a pid, too.
    let theirs = folder.path().join("theirs.sock");
    let _theirs = UnixListener::bind(&theirs).expect("a socket");
    let words = [words[0], ("sock", theirs.to_str().expect("a plain path")), ("shm", shm_text)];
    let (code, log) = refusal(driver, SOCKETS, &words);
    assert_eq!(code, Some(1));
    assert!(log.contains("theirs.sock") && log.contains(&std::process::id().to_string()), "{log}");
}

fn a_sidecar_that_was_killed_can_be_started_again(driver: Driver) {
    let service = saying("ok");
    let folder = tempfile::TempDir::new().expect("a folder");
    let [sock, shm] = ["web.sock", "apps.sock"].map(|name| folder.path().join(name));
    let words = [
        ("up", &*service.endpoint),
        ("sock", sock.to_str().expect("a plain path")),
        ("shm", shm.to_str().expect("a plain path")),
    ];
    let config = format!("{SOCKETS}  - {{ name: unused, endpoints: [ \"tcp:h:1\" ] }}\n").replace(
        "clusters: [ { name: service, endpoints: [ \"$up\" ] } ]\n",
        "clusters:\n  - { name: service, endpoints: [ \"$up\" ] }\n",
    );
    let config = config.replace("routes:", "  - { name: tcp, tcp: 127.0.0.1:$web, protocol: http }\nroutes:");
    let mut sidecar = Sidecar::start(driver, &config, &words);
    for _ in 0..2 {
        assert_eq!(Wire::unix(&sock).ask(GET).text(), "ok");
        assert_eq!(sidecar.connect("web").ask(GET).text(), "ok");
        sidecar.process.signal(Signal::SIGKILL);
        sidecar.process.wait();
        sidecar.start_again();
    }
}
