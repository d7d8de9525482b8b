//! Endpoints that fail again and again are left out for a while (`outlier_detection`), over HTTP, Dubbo and raw bytes.
//!
//! One worker, so that endpoints are in turn by the letter. Times of ejections are either so long that no test outlives them, or it is
//! waited for what comes after them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::dns::{NameServer, Says};
use crate::process::until;
use crate::service::{Service, http, saying, saying_at};
use crate::sidecar::{Driver, Sidecar, free_port, requests_name};
use crate::wire::Wire;

on_each_driver!(
    what_refuses_is_not_asked_for_ever,
    what_dies_again_and_again_is_left_out_and_comes_back,
    what_ends_in_the_middle_of_each_answer_is_left_out,
    what_answers_in_streams_that_never_end_is_well,
    what_ends_a_long_answer_is_no_failure,
    what_switches_protocols_is_well,
    what_never_answers_is_left_out,
    what_was_left_out_is_asked_when_nobody_else_is_left,
    answers_count_where_the_operator_says_so,
    a_cluster_may_do_without,
    addresses_of_a_name_are_left_out_one_by_one,
    what_is_known_outlives_a_new_configuration,
    dubbo_providers_are_left_out,
    raw_connections_go_to_whom_is_left,
);

const CONFIG: &str = "
listeners:
  - { name: web, tcp: 127.0.0.1:$web, protocol: http }
  - { name: rpc, tcp: 127.0.0.1:$rpc, protocol: dubbo }
  - { name: raw, tcp: 127.0.0.1:$raw, protocol: raw, cluster: service }
routes: [ { match: {}, cluster: service } ]
clusters: [ { name: service, endpoints: [ $up ], first_byte_timeout: $patience$more } ]
workers: 1
";

const GET: &str = "GET / HTTP/1.1\r\nhost: h\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nhi";

/// What ends after three failures, and not before the test.
const LONG: &str =
    ", outlier_detection: { consecutive_local_origin_failure: 3, base_ejection_time: 1h, max_ejection_time: 1h }";

fn start(driver: Driver, endpoints: &[&str], more: &str) -> Sidecar {
    start_patient(driver, endpoints, more, "30s")
}

fn start_patient(driver: Driver, endpoints: &[&str], more: &str, patience: &str) -> Sidecar {
    let up: Vec<String> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    Sidecar::start(driver, CONFIG, &[("up", &up.join(", ")), ("more", more), ("patience", patience)])
}

fn nobody() -> String {
    format!("tcp:127.0.0.1:{}", free_port())
}

/// What the admin interface shows of an endpoint: failures, ejections, and whether it is left out.
fn shown(sidecar: &Sidecar, endpoint: &str) -> (u64, u64, u64) {
    let clusters = sidecar.json("/clusters");
    let endpoints = clusters[0]["endpoints"].as_array().expect("a list");
    let found = endpoints.iter().find(|found| found["address"] == endpoint).expect("it is there");
    let number = |key: &str| found[key].as_u64().expect("a number");
    (number("failures"), number("ejections"), number("ejected"))
}

fn count(wire: &mut Wire, request: &str, calls: usize, status: u16) -> usize {
    (0..calls).filter(|_| wire.ask(request).status() == status).count()
}

/// Without a word of configuration.
fn what_refuses_is_not_asked_for_ever(driver: Driver) {
    let (nobody, well) = (nobody(), saying("well"));
    let sidecar = start(driver, &[&nobody, &well.endpoint], "");
    let mut wire = sidecar.connect("web");
    assert_eq!(count(&mut wire, GET, 40, 200), 40);
    assert_eq!(shown(&sidecar, &nobody), (5, 1, 1), "after five failures");
    assert_eq!(shown(&sidecar, &well.endpoint), (0, 0, 0));
    let label = format!("{{cluster=\"service\",endpoint=\"{nobody}\"}}");
    assert_eq!(sidecar.metric(&format!("shmesh_endpoint_ejected{label}")), 1.0);
    assert_eq!(sidecar.metric(&format!("shmesh_endpoint_ejections_total{label}")), 1.0);
    assert_eq!(sidecar.log().matches("is left out for a while").count(), 1, "it is said once");
}

/// Reads a request and ends the connection, or answers, once it is well.
fn sick(well: Arc<AtomicBool>) -> Service {
    Service::tcp(move |mut wire| {
        while let Some(head) = wire.head() {
            wire.body(&head, false, |_| ());
            if !well.load(Ordering::Relaxed) {
                return;
            }
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nagain");
        }
    })
}

fn what_dies_again_and_again_is_left_out_and_comes_back(driver: Driver) {
    let is_well = Arc::new(AtomicBool::new(false));
    let (dying, well) = (sick(is_well.clone()), saying("well"));
    let sidecar = start(driver, &[&dying.endpoint, &well.endpoint], LONG);
    let mut wire = sidecar.connect("web");
    assert_eq!(count(&mut wire, POST, 6, 502), 3, "each second call, and then no more");
    assert_eq!(count(&mut wire, POST, 20, 200), 20);
    assert_eq!(dying.accepted(), 3);

    let soon = LONG.replace("1h", "100ms");
    let sidecar = start(driver, &[&dying.endpoint, &well.endpoint], &soon);
    let mut wire = sidecar.connect("web");
    until("it is left out", || {
        wire.ask(POST);
        shown(&sidecar, &dying.endpoint).1 > 0
    });
    is_well.store(true, Ordering::Relaxed);
    until("it is in turn again", || wire.ask(POST).text() == "again");
    until("nobody leaves it out", || shown(&sidecar, &dying.endpoint).2 == 0);
    assert!(sidecar.log().contains("is in turn again"));
}

/// However well their heads look.
fn what_ends_in_the_middle_of_each_answer_is_left_out(driver: Driver) {
    let cut = http(|head, wire| {
        wire.body(head, false, |_| ());
        let _ = wire.try_send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart");
        wire.end();
    });
    let well = saying("well");
    let sidecar = start(driver, &[&cut.endpoint, &well.endpoint], LONG);
    let is_whole = |_: &usize| {
        let mut wire = sidecar.connect("web");
        wire.send("GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
        wire.rest().0.ends_with(b"well")
    };
    assert_eq!((0..20).filter(is_whole).count(), 17);
    assert_eq!((cut.accepted(), shown(&sidecar, &cut.endpoint)), (3, (3, 1, 1)));
}

/// Each second call is never answered, and the others are left by their callers in the middle.
fn what_answers_in_streams_that_never_end_is_well(driver: Driver) {
    let streaming = Service::tcp(|mut wire| {
        if wire.head().expect("a request").path() == "/stream" {
            wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n");
            let _ = wire.each_piece(u64::MAX, |_| ());
        }
    });
    let sidecar = start(driver, &[&streaming.endpoint, &streaming.endpoint], LONG);
    for left in 1..=4 {
        let mut wire = sidecar.connect("web");
        wire.send("GET /stream HTTP/1.1\r\nhost: h\r\n\r\n");
        assert_eq!(wire.head().expect("an answer").status(), 200);
        assert_eq!(wire.exactly(8).as_deref(), Some(&b"3\r\none\r\n"[..]));
        wire.reset();
        sidecar.expect_metric(&requests_name("web", "service", 499), left as f64);
        assert_eq!(sidecar.connect("web").ask(POST).status(), 502);
    }
    assert_eq!(shown(&sidecar, &streaming.endpoint), (4, 0, 0));
}

fn what_ends_a_long_answer_is_no_failure(driver: Driver) {
    let cut = http(|head, wire| {
        wire.body(head, false, |_| ());
        let _ = wire.try_send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart");
        std::thread::sleep(std::time::Duration::from_millis(10_200));
        wire.end();
    });
    let sidecar = start_patient(driver, &[&cut.endpoint, &cut.endpoint], LONG, "10s");
    let mut wires: Vec<_> = (0..4).map(|_| sidecar.connect("web")).collect();
    wires.iter_mut().for_each(|wire| wire.send(GET));
    assert!(wires.iter_mut().all(|wire| wire.rest().0.ends_with(b"part")));
    assert_eq!(shown(&sidecar, &cut.endpoint), (4, 0, 0));
}

/// Each second call is never answered, and the others become tunnels.
fn what_switches_protocols_is_well(driver: Driver) {
    let switching = Service::tcp(|mut wire| {
        if wire.head().expect("a request").path() == "/ws" {
            wire.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
            let _ = wire.each_piece(u64::MAX, |_| ());
        }
    });
    let sidecar = start(driver, &[&switching.endpoint, &switching.endpoint], LONG);
    for _ in 0..4 {
        let mut wire = sidecar.connect("web");
        wire.send("GET /ws HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
        assert_eq!(wire.head().expect("an answer").status(), 101);
        assert_eq!(sidecar.connect("web").ask(POST).status(), 502);
    }
    assert_eq!(shown(&sidecar, &switching.endpoint), (4, 0, 0));
    // Nobody asked for that.
    let eager = http(|head, wire| {
        wire.body(head, false, |_| ());
        wire.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    });
    let well = saying("well");
    let sidecar = start(driver, &[&eager.endpoint, &well.endpoint], LONG);
    assert_eq!(count(&mut sidecar.connect("web"), POST, 20, 502), 3);
    assert_eq!(shown(&sidecar, &eager.endpoint), (3, 1, 1));
}

fn what_never_answers_is_left_out(driver: Driver) {
    let silent = Service::tcp(|mut wire| {
        let _ = wire.each_piece(u64::MAX, |_| ());
    });
    let well = saying("well");
    let sidecar = start_patient(driver, &[&silent.endpoint, &well.endpoint], LONG, "1s");
    let mut wire = sidecar.connect("web");
    until("it is left out", || {
        wire.ask(GET);
        shown(&sidecar, &silent.endpoint).2 > 0
    });
    assert_eq!(shown(&sidecar, &silent.endpoint).0, 3, "what it did not answer is counted");
    let before = silent.accepted();
    for _ in 0..20 {
        wire.ask(GET);
    }
    assert_eq!(silent.accepted(), before, "nobody asks it");
}

fn what_was_left_out_is_asked_when_nobody_else_is_left(driver: Driver) {
    let is_well = Arc::new(AtomicBool::new(false));
    let (dying, nobody) = (sick(is_well.clone()), nobody());
    let sidecar = start(driver, &[&dying.endpoint, &nobody], LONG);
    let mut wire = sidecar.connect("web");
    assert_eq!(count(&mut wire, POST, 3, 502), 3);
    // Of two endpoints one may be out, so the other one is asked, which refuses.
    assert_eq!(shown(&sidecar, &dying.endpoint).1, 1);
    is_well.store(true, Ordering::Relaxed);
    assert_eq!(count(&mut wire, POST, 10, 200), 10);
    let (_, ejections, ejected) = shown(&sidecar, &dying.endpoint);
    assert_eq!((ejections, ejected), (1, 1), "it stays out for its time");
}

fn answers_count_where_the_operator_says_so(driver: Driver) {
    let failing = |status: &'static str| {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let service = http(move |head, wire| {
            wire.body(head, false, |_| ());
            count.fetch_add(1, Ordering::Relaxed);
            wire.send(format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n"));
        });
        (service, asked)
    };
    let of_5xx = ", outlier_detection: { consecutive_5xx: 3, base_ejection_time: 1h, max_ejection_time: 1h }";
    let of_gateways = of_5xx.replace("consecutive_5xx", "consecutive_gateway_failure");
    for (more, status, expected) in [
        ("", "500", 20),
        ("", "503", 20),
        (of_5xx, "500", 3),
        (of_5xx, "503", 3),
        (&of_gateways, "500", 20),
        (&of_gateways, "502", 3),
        (of_5xx, "404", 20),
    ] {
        let ((failing, asked), well) = (failing(status), saying("well"));
        let sidecar = start(driver, &[&failing.endpoint, &well.endpoint], more);
        count(&mut sidecar.connect("web"), GET, 40, 200);
        assert_eq!(asked.load(Ordering::Relaxed), expected, "{status}, {more}");
    }
}

fn a_cluster_may_do_without(driver: Driver) {
    let (nobody, well) = (nobody(), saying("well"));
    for more in ["consecutive_local_origin_failure: 0", "max_ejection_percent: 0"] {
        let sidecar = start(driver, &[&nobody, &well.endpoint], &format!(", outlier_detection: {{ {more} }}"));
        assert_eq!(count(&mut sidecar.connect("web"), GET, 40, 200), 40);
        assert_eq!(shown(&sidecar, &nobody), (20, 0, 0), "{more}: it is asked each second time");
    }
}

fn addresses_of_a_name_are_left_out_one_by_one(driver: Driver) {
    let port = free_port();
    let _well = saying_at(([127, 0, 0, 2], port).into(), "well");
    let server = NameServer::start();
    let both = ["127.0.0.1", "127.0.0.2"].map(|ip| ip.parse().expect("an address"));
    server.say("svc.test", Says::Addresses(both.to_vec(), 600));
    let config = format!("{CONFIG}dns: {{ servers: [ \"{}\" ] }}\n", server.address);
    let endpoint = format!("tcp:svc.test:{port}");
    let up = format!("\"{endpoint}\"");
    let sidecar = Sidecar::start(driver, &config, &[("up", &up), ("more", LONG), ("patience", "30s")]);
    let mut wire = sidecar.connect("web");
    assert_eq!(count(&mut wire, GET, 40, 200), 40);
    assert_eq!(sidecar.metric("shmesh_upstream_connect_failures_total"), 3.0);
    let (_, ejections, ejected) = shown(&sidecar, &endpoint);
    assert_eq!((ejections, ejected), (1, 1));
}

fn what_is_known_outlives_a_new_configuration(driver: Driver) {
    let (nobody, well) = (nobody(), saying("well"));
    let mut sidecar = start(driver, &[&nobody, &well.endpoint], LONG);
    let mut wire = sidecar.connect("web");
    assert_eq!(count(&mut wire, GET, 10, 200), 10);
    assert_eq!(shown(&sidecar, &nobody), (3, 1, 1));
    let version = sidecar.metric("shmesh_snapshot_version");
    sidecar.write_config(&format!("{CONFIG}drain_timeout: 7s\n"));
    until("the new configuration is in force", || sidecar.metric("shmesh_snapshot_version") > version);
    assert_eq!(count(&mut wire, GET, 10, 200), 10);
    assert_eq!(shown(&sidecar, &nobody), (3, 1, 1));
}

fn dubbo_providers_are_left_out(driver: Driver) {
    use crate::dubbo::{ask, call, echo_provider, read_frame};
    let dying = Service::tcp(|mut wire| {
        read_frame(&mut wire);
    });
    let (well, nobody) = (echo_provider(), nobody());
    let sidecar = start(driver, &[&dying.endpoint, &well.endpoint, &nobody, &well.endpoint], LONG);
    let mut wire = sidecar.connect("rpc");
    let statuses: Vec<u8> = (0..40).map(|id| ask(&mut wire, &call(id, "x")).header.status).collect();
    assert_eq!(statuses.iter().filter(|&&status| status != 20).count(), 3, "{statuses:?}");
    assert_eq!(dying.accepted(), 3);
    assert_eq!(shown(&sidecar, &nobody), (3, 1, 1));
    assert_eq!(shown(&sidecar, &dying.endpoint), (3, 1, 1));
}

fn raw_connections_go_to_whom_is_left(driver: Driver) {
    let echo = Service::tcp(|mut wire| {
        let byte = wire.exactly(1).expect("a byte");
        wire.send(byte);
    });
    let nobody = nobody();
    let sidecar = start(driver, &[&nobody, &echo.endpoint], LONG);
    for _ in 0..20 {
        let mut wire = sidecar.connect("raw");
        wire.send("x");
        assert_eq!(wire.rest().0, b"x");
    }
    assert_eq!(shown(&sidecar, &nobody), (3, 1, 1));
}
