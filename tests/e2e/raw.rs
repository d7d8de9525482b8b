//! Raw listeners: bytes as they come, both ways at once, and each direction ends by itself.

use std::time::Duration;

use crate::bytes::{KIB, MIB, Noise};
use crate::process::until;
use crate::service::Service;
use crate::sidecar::{Driver, Sidecar, free_port};
use crate::wire::Wire;

on_each_driver!(
    bytes_flow_both_ways_at_once,
    each_direction_ends_by_itself,
    the_server_may_speak_first_and_end_first,
    an_upstream_that_refuses_ends_the_connection,
    the_next_endpoint_when_one_refuses,
    an_end_in_disorder_is_passed_on,
    a_slow_reader_does_not_fill_the_memory,
    connections_leave_nothing_behind,
);

const CONFIG: &str = "
listeners:
  - { name: raw, tcp: 127.0.0.1:$raw, protocol: raw, cluster: service }
  - { name: raw-uds, unix: $dir/raw.sock, protocol: raw, cluster: service }
clusters: [ { name: service, endpoints: [ \"$up\" ] } ]
";

fn before(driver: Driver, endpoint: &str) -> Sidecar {
    Sidecar::start(driver, CONFIG, &[("up", endpoint)])
}

/// Sends `len` bytes of a seed and ends its direction, while the other direction is read to its end and compared.
fn exchange(mut wire: Wire, sent: (u64, u64), expected: (u64, u64)) {
    let mut writer = wire.twin();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut noise = Noise::new(sent.0);
            while noise.made() < sent.1 {
                let left = (sent.1 - noise.made()).min(70_000);
                writer.send(noise.take(left as usize));
            }
            writer.end();
        });
        let mut noise = Noise::new(expected.0);
        wire.each_piece(u64::MAX, |piece| noise.check(piece)).expect("an end in order");
        assert_eq!(noise.made(), expected.1);
    });
}

fn bytes_flow_both_ways_at_once(driver: Driver) {
    for len in [0, 1, 100, 16 * KIB + 1, MIB, 8 * MIB] {
        // The two directions differ in length, so that one ends while the other goes on.
        let back = len / 3 + 5;
        let service = Service::tcp(move |wire| exchange(wire, (2, back), (1, len)));
        let sidecar = before(driver, &service.endpoint);
        exchange(sidecar.connect("raw"), (1, len), (2, back));
        exchange(Wire::unix(&sidecar.path("raw.sock")), (1, len), (2, back));
        sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
    }
}

fn each_direction_ends_by_itself(driver: Driver) {
    // The service answers only when it has seen the end.
    let service = Service::tcp(|mut wire| {
        let (bytes, in_order) = wire.rest();
        assert!(in_order);
        wire.send(format!("{} bytes", bytes.len()));
    });
    let sidecar = before(driver, &service.endpoint);
    for len in [0, 5, 100_000] {
        let mut wire = sidecar.connect("raw");
        wire.send(vec![b'x'; len]);
        wire.end();
        let (answer, in_order) = wire.rest();
        assert_eq!((String::from_utf8_lossy(&answer).into_owned(), in_order), (format!("{len} bytes"), true));
    }
}

fn the_server_may_speak_first_and_end_first(driver: Driver) {
    let service = Service::tcp(|mut wire| {
        wire.send("220 ready\r\n");
        wire.end();
        let (bytes, in_order) = wire.rest();
        assert_eq!((bytes.len(), in_order), (300_000, true));
    });
    let sidecar = before(driver, &service.endpoint);
    let mut wire = sidecar.connect("raw");
    let (greeting, in_order) = wire.rest();
    assert_eq!((greeting.as_slice(), in_order), (&b"220 ready\r\n"[..], true));
    wire.send(vec![1; 300_000]);
    wire.end();
    sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
}

fn an_upstream_that_refuses_ends_the_connection(driver: Driver) {
    let sidecar = before(driver, &format!("tcp:127.0.0.1:{}", free_port()));
    for bytes in [&b""[..], b"hello"] {
        // It may be reset before this side has noticed that it is made.
        let Some(mut wire) = Wire::try_tcp(sidecar.tcp("raw")) else { continue };
        let _ = wire.try_send(bytes);
        let (answer, _) = wire.rest();
        assert!(answer.is_empty());
    }
    sidecar.expect_metric("shmesh_upstream_connect_failures_total", 2.0);
    sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
}

fn the_next_endpoint_when_one_refuses(driver: Driver) {
    let service = Service::tcp(|mut wire| wire.send("here"));
    let config = CONFIG.replace("\"$up\"", "\"tcp:127.0.0.1:$nobody\", \"$up\"");
    let sidecar = Sidecar::start(driver, &config, &[("up", &service.endpoint)]);
    for _ in 0..6 {
        let mut wire = sidecar.connect("raw");
        assert_eq!(wire.exactly(4).expect("a greeting"), b"here");
    }
}

fn an_end_in_disorder_is_passed_on(driver: Driver) {
    // A server that closes with bytes unread resets the connection.
    let service = Service::tcp(|mut wire| {
        wire.send("some");
        wire.exactly(1);
    });
    let sidecar = before(driver, &service.endpoint);
    let mut wire = sidecar.connect("raw");
    wire.send(vec![1; 100_000]);
    let (bytes, in_order) = wire.rest();
    assert!(!in_order, "{} bytes and an end in order, as if all had been said", bytes.len());
    sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
}

fn a_slow_reader_does_not_fill_the_memory(driver: Driver) {
    let service = Service::tcp(|mut wire| {
        let piece = vec![7; 100_000];
        while wire.try_send(&piece).is_ok() {}
    });
    let sidecar = before(driver, &service.endpoint);
    let before = sidecar.process.resident();
    let wires: Vec<Wire> = (0..8).map(|_| sidecar.connect("raw")).collect();
    std::thread::sleep(Duration::from_millis(500));
    let grown = sidecar.process.resident().saturating_sub(before);
    assert!(grown < 16 * MIB, "{} KiB are held for clients that read nothing", grown / KIB);
    drop(wires);
    sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
}

fn connections_leave_nothing_behind(driver: Driver) {
    let service = Service::tcp(|mut wire| {
        let (bytes, _) = wire.rest();
        let _ = wire.try_send(&bytes);
    });
    let sidecar = before(driver, &service.endpoint);
    let idle = sidecar.process.descriptors();
    for round in 0..50 {
        let mut wire = sidecar.connect("raw");
        let _ = wire.try_send(&vec![3; round * 1000]);
        if round % 2 == 0 {
            wire.end();
            assert_eq!(wire.rest().0.len(), round * 1000);
        }
    }
    sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
    until("the descriptors are closed", || sidecar.process.descriptors() <= idle);
}
