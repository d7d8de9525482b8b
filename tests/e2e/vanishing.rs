//! Endpoints that say nothing any more, not even that they are gone: what of this needs no packet filter (tests/interop/blackhole has the rest).

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket};

use crate::bytes::{MIB, Noise};
use crate::dubbo::call;
use crate::process::until;
use crate::service::{Service, saying};
use crate::sidecar::{Driver, Sidecar};
use crate::wire::{Stream, Wire};

on_each_driver!(
    one_that_does_not_answer_a_syn_is_504,
    one_that_does_not_answer_a_syn_is_left_out_by_callers_that_do_not_wait,
    a_connection_that_nobody_waits_for_goes_to_the_pool,
    bytes_that_nobody_takes_end_a_call,
    bytes_that_nobody_takes_do_not_end_a_tunnel,
);

const CONFIG: &str = "
listeners:
  - { name: web, tcp: 127.0.0.1:$web, protocol: http }
  - { name: rpc, tcp: 127.0.0.1:$rpc, protocol: dubbo }
  - { name: raw, tcp: 127.0.0.1:$raw, protocol: raw, cluster: service }
routes: [ { match: {}, cluster: service } ]
clusters: [ { name: service, endpoints: [ $up ], connect_timeout: $connect, unacknowledged_timeout: $unacknowledged } ]
timeouts: { first_byte: 1h, idle: 1h }
workers: 1
";

const GET: &str = "GET / HTTP/1.1\r\nhost: h\r\n\r\n";

fn start(driver: Driver, endpoints: &[&str], connect: &str) -> Sidecar {
    start_patient(driver, endpoints, connect, "1s")
}

fn start_patient(driver: Driver, endpoints: &[&str], connect: &str, unacknowledged: &str) -> Sidecar {
    let up: Vec<String> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    let words = [("up", &up.join(", ")[..]), ("connect", connect), ("unacknowledged", unacknowledged)];
    Sidecar::start(driver, CONFIG, &words)
}

/// A listener that nobody accepts from and whose queue is full: the kernel drops each further SYN.
struct Deaf {
    endpoint: String,
    listener: OwnedFd,
    queued: Vec<TcpStream>,
}

impl Deaf {
    fn new() -> Deaf {
        let listener = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        bind(listener.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).expect("a port");
        listen(&listener, Backlog::new(1).expect("a backlog")).expect("it listens");
        let bound: SockaddrIn = getsockname(listener.as_raw_fd()).expect("an address");
        let address = SocketAddr::from(([127, 0, 0, 1], bound.port()));
        let mut queued = Vec::new();
        // A busy machine may be slow once; three in a row mean that the queue is full.
        let mut dropped = 0;
        while dropped < 3 {
            match TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
                Ok(stream) => {
                    dropped = 0;
                    queued.push(stream);
                }
                Err(_) => dropped += 1,
            }
        }
        Deaf { endpoint: format!("tcp:{address}"), listener, queued }
    }

    /// Makes room in the queue.
    fn hear(self) -> TcpListener {
        let listener = TcpListener::from(self.listener);
        for _ in self.queued {
            listener.accept().expect("it is in the queue");
        }
        listener
    }
}

fn one_that_does_not_answer_a_syn_is_504(driver: Driver) {
    let (deaf, well) = (Deaf::new(), saying("well"));
    let sidecar = start(driver, &[&deaf.endpoint], "300ms");
    let answer = sidecar.connect("web").ask(GET);
    assert_eq!((answer.status(), answer.reason()), (504, "connect-timeout"));
    assert_eq!(sidecar.metric("shmesh_upstream_connect_failures_total"), 1.0);
    // No byte was sent, so the next endpoint gets it, whatever it is; and after five of these nobody goes there first.
    let sidecar = start(driver, &[&deaf.endpoint, &well.endpoint], "300ms");
    let mut wire = sidecar.connect("web");
    for _ in 0..10 {
        assert_eq!(wire.ask("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nhi").text(), "well");
        assert_eq!(wire.ask(GET).text(), "well");
    }
    assert_eq!(sidecar.metric("shmesh_upstream_connect_failures_total"), 5.0);
}

fn one_that_does_not_answer_a_syn_is_left_out_by_callers_that_do_not_wait(driver: Driver) {
    let deaf = Deaf::new();
    let well = Service::tcp(|mut wire| {
        let _ = wire.each_piece(u64::MAX, |_| ());
    });
    let frame = call(1, "x");
    for (listener, request) in [("web", GET.as_bytes()), ("rpc", &frame), ("raw", b"x")] {
        let sidecar = start(driver, &[&deaf.endpoint, &well.endpoint], "300ms");
        let ejected = format!("shmesh_endpoint_ejected{{cluster=\"service\",endpoint=\"{}\"}}", deaf.endpoint);
        let mut failures = 0.0;
        until("it is left out", || {
            let mut wire = sidecar.connect(listener);
            wire.send(request);
            std::thread::sleep(Duration::from_millis(50));
            wire.reset();
            let metrics = sidecar.metrics();
            failures = metrics["shmesh_upstream_connect_failures_total"];
            metrics.get(&ejected) == Some(&1.0)
        });
        // Another one may have begun between the last of these and the look.
        assert!((5.0..=6.0).contains(&failures), "{listener}: {failures}, one at a time");
    }
}

fn a_connection_that_nobody_waits_for_goes_to_the_pool(driver: Driver) {
    for (listener, kept) in [("web", true), ("raw", false)] {
        let deaf = Deaf::new();
        let sidecar = start_patient(driver, &[&deaf.endpoint, &deaf.endpoint], "1h", "1h");
        until("a call leaves a connection that is being made", || {
            let mut wire = sidecar.connect(listener);
            wire.send(GET);
            std::thread::sleep(Duration::from_millis(100));
            wire.reset();
            sidecar.get("/metrics").1.contains("code=\"499\"")
        });
        // The kernel asks again: after a second, after three, seven.
        let hears = deaf.hear();
        hears.set_nonblocking(true).expect("it is a socket");
        let mut accepted = None;
        until("the connection is made", || {
            accepted = hears.accept().ok();
            accepted.is_some()
        });
        let (stream, _) = accepted.expect("it was accepted");
        stream.set_nonblocking(false).expect("it is a socket");
        let mut service = Wire::new(Stream::Tcp(stream));
        sidecar.expect_metric("shmesh_upstream_connections_total", 1.0);
        if !kept {
            service.expect_closed();
            continue;
        }
        let mut wire = sidecar.connect(listener);
        wire.send(GET);
        assert_eq!(service.head().expect("a request").path(), "/");
        service.send("HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(wire.answer().status(), 204);
        assert_eq!(sidecar.metric("shmesh_upstream_connections_total"), 1.0);
    }
}

/// More than the kernel keeps of what nobody takes.
const MUCH: u64 = 64 * MIB;

fn bytes_that_nobody_takes_end_a_call(driver: Driver) {
    let service = Service::tcp(|wire| {
        // It takes nothing for as long as the test runs; the sidecar's connection ends before.
        std::thread::sleep(crate::process::PATIENCE * 2);
        drop(wire);
    });
    let sidecar = start(driver, &[&service.endpoint], "10s");
    let mut wire = sidecar.connect("web");
    let mut up = wire.twin();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let head = format!("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: {MUCH}\r\n\r\n");
            let mut sent = up.try_send(head.as_bytes());
            let mut noise = Noise::new(1);
            while sent.is_ok() && noise.made() < MUCH {
                sent = up.try_send(&noise.take(64 * 1024));
            }
        });
        // Neither `first_byte` nor `idle` would end it before tomorrow.
        let answer = wire.answer();
        assert_eq!((answer.status(), answer.reason()), (502, "upstream-died"));
        wire.cut();
    });
}

fn bytes_that_nobody_takes_do_not_end_a_tunnel(driver: Driver) {
    let service = Service::tcp(|mut wire| {
        std::thread::sleep(Duration::from_secs(4));
        let mut noise = Noise::new(1);
        wire.each_piece(u64::MAX, |piece| noise.check(piece)).expect("an end in order");
        wire.send(noise.made().to_string());
    });
    let sidecar = start(driver, &[&service.endpoint], "10s");
    let mut wire = sidecar.connect("raw");
    let mut noise = Noise::new(1);
    while noise.made() < MUCH {
        wire.send(noise.take(64 * 1024));
    }
    wire.end();
    assert_eq!(String::from_utf8(wire.rest().0).expect("a number"), MUCH.to_string());
}
