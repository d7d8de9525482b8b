//! CONNECT (RFC 9110 §9.3.6): a tunnel where it is allowed, after a 200 and not before.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{WAYS, Ways};
use crate::bytes::Noise;
use crate::process::until;
use crate::service::Service;
use crate::sidecar::{Driver, Sidecar, free_port, requests_name};
use crate::wire::Wire;

on_each_driver!(
    a_tunnel_leads_to_the_host_that_is_named,
    what_is_sent_ahead_follows_the_answer,
    a_service_that_speaks_first_is_heard_behind_the_answer,
    what_is_not_allowed_is_405,
    a_tunnel_that_cannot_be_made_says_why,
    a_connect_has_no_content,
);

/// To $open and $nobody CONNECT is allowed.
const CONFIG: &str = "
listeners:
  - { name: web, tcp: 127.0.0.1:$web, protocol: http }
  - { name: web-uds, unix: $dir/web.sock, protocol: http }
  - { name: apps, shm: $dir/apps.sock }
routes:
  - { match: { host: service }, cluster: service }
  - { match: { host: 127.0.0.2 }, cluster: closed }
  - { match: { host: 127.0.0.3, method: GET }, cluster: tunnels }
  - { match: { host: 127.0.0.1, path_prefix: / }, cluster: tunnels }
  - { match: { host: localhost, method: CONNECT }, cluster: tunnels }
  - { match: { host: no-such-host.invalid }, cluster: tunnels }
clusters:
  - { name: service, endpoints: [ \"tcp:127.0.0.1:$open\" ] }
  - { name: closed, dynamic_forward_proxy: true }
  - { name: tunnels, dynamic_forward_proxy: true, connect_ports: [ $open, $nobody, $web ] }
";

/// Says everything back, and something more at the end.
fn echo(mut wire: Wire) {
    let mut piece = [0; 16 * 1024];
    while let Ok(len @ 1..) = wire.read(&mut piece) {
        if wire.try_send(&piece[..len]).is_err() {
            return;
        }
    }
    let _ = wire.try_send(b"late");
    wire.end();
}

fn port_of(service: &Service) -> &str {
    service.endpoint.rsplit_once(':').expect("a port").1
}

fn start(driver: Driver, service: &Service) -> Sidecar {
    Sidecar::start(driver, CONFIG, &[("open", port_of(service)), ("nobody", &free_port().to_string())])
}

fn connect(host: &str, port: &str) -> String {
    format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n")
}

fn expect_tunnel(wire: &mut Wire) {
    let head = wire.head().expect("an answer");
    assert_eq!(head.status(), 200, "{}", head.start);
    assert_eq!((head.get("content-length"), head.get("transfer-encoding")), (None, None), "RFC 9110 §9.3.6");
    assert!(head.get("date").is_some());
}

fn a_tunnel_leads_to_the_host_that_is_named(driver: Driver) {
    let service = Service::tcp(echo);
    let sidecar = start(driver, &service);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        for host in ["127.0.0.1", "localhost"] {
            let mut wire = ways.connect(way);
            wire.send(connect(host, port_of(&service)));
            expect_tunnel(&mut wire);
            // What would be a request is none any more.
            let request = "GET / HTTP/1.1\r\nHost: service\r\n\r\n";
            wire.send(request);
            assert_eq!(wire.exactly(request.len()).as_deref(), Some(request.as_bytes()), "{way} {host}");
            let mut noise = Noise::new(5);
            for len in [1, 1000, 100_000, 3, 1_000_000] {
                let bytes = noise.take(len);
                let mut up = wire.twin();
                std::thread::scope(|scope| {
                    let sent = &bytes;
                    scope.spawn(move || up.send(sent));
                    assert!(wire.exactly(len).as_deref() == Some(&bytes), "{way} {host}: other bytes came back");
                });
            }
            // Each direction ends by itself.
            wire.send("the last");
            wire.end();
            let (rest, in_order) = wire.rest();
            assert_eq!((&*String::from_utf8_lossy(&rest), in_order), ("the lastlate", true), "{way} {host}");
        }
    }
    for listener in ["web", "web-uds", "apps"] {
        sidecar.expect_metric(&requests_name(listener, "tunnels", 200), 2.0);
    }
}

fn what_is_sent_ahead_follows_the_answer(driver: Driver) {
    let service = Service::tcp(echo);
    let sidecar = start(driver, &service);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        let mut wire = ways.connect(way);
        let ahead = Noise::new(6).take(20_000);
        wire.send([connect("127.0.0.1", port_of(&service)).as_bytes(), &ahead].concat());
        expect_tunnel(&mut wire);
        assert!(wire.exactly(ahead.len()).as_deref() == Some(&ahead), "{way}");
        // With the end behind it, too; and HTTP/1.0 has CONNECT as well.
        let mut wire = ways.connect(way);
        wire.send(connect("127.0.0.1", port_of(&service)).replace("HTTP/1.1", "HTTP/1.0") + "all");
        wire.end();
        expect_tunnel(&mut wire);
        let (rest, in_order) = wire.rest();
        assert_eq!((&*String::from_utf8_lossy(&rest), in_order), ("alllate", true), "{way}");
    }
}

fn a_service_that_speaks_first_is_heard_behind_the_answer(driver: Driver) {
    let service = Service::tcp(|mut wire| {
        wire.send("220 here");
        wire.end();
        let _ = wire.each_piece(u64::MAX, |_| ());
    });
    let sidecar = start(driver, &service);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        // Over shared memory they follow each other in one slot.
        for _ in 0..20 {
            let mut wire = ways.connect(way);
            wire.send(connect("127.0.0.1", port_of(&service)));
            expect_tunnel(&mut wire);
            assert_eq!(wire.exactly(8).as_deref(), Some(&b"220 here"[..]), "{way}");
            wire.end();
            wire.expect_closed();
        }
    }
}

fn what_is_not_allowed_is_405(driver: Driver) {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let service = Service::tcp(move |mut wire| {
        count.fetch_add(1, Ordering::Relaxed);
        echo(wire.twin());
        wire.cut();
    });
    let sidecar = start(driver, &service);
    let ways = Ways::into(&sidecar);
    let open = port_of(&service);
    for way in WAYS {
        for (host, port, why) in [
            ("127.0.0.1", "9", "this port is not listed"),
            ("127.0.0.2", open, "this cluster lists none"),
            ("127.0.0.3", open, "its route is for another method"),
            ("service", open, "a cluster with endpoints"),
            ("elsewhere", open, "no route"),
        ] {
            let mut wire = ways.connect(way);
            // What follows is no request, whatever it looks like.
            wire.send(connect(host, port) + "GET / HTTP/1.1\r\nHost: service\r\n\r\n");
            let answer = wire.answer();
            assert_eq!((answer.status(), answer.reason()), (405, "connect-not-allowed"), "{way}: {why}");
            // RFC 9110 §15.5.6 and §10.2.1: no method at all.
            assert_eq!((answer.head.get("allow"), answer.head.get("connection")), (Some(""), Some("close")), "{why}");
            wire.expect_closed();
        }
    }
    assert_eq!(seen.load(Ordering::Relaxed), 0, "nothing has reached the service");
}

fn a_tunnel_that_cannot_be_made_says_why(driver: Driver) {
    let service = Service::tcp(echo);
    let sidecar = start(driver, &service);
    let ways = Ways::into(&sidecar);
    let nobody = sidecar.tcp("nobody").port().to_string();
    let own = sidecar.tcp("web").port().to_string();
    for way in WAYS {
        for (host, port, status, reason) in [
            ("127.0.0.1", &nobody, 503, "upstream-refused"),
            ("no-such-host.invalid", &nobody, 503, "host-unresolved"),
            ("127.0.0.1", &own, 508, "loop"),
        ] {
            let mut wire = ways.connect(way);
            wire.send(connect(host, port) + "GET / HTTP/1.1\r\nHost: service\r\n\r\n");
            let answer = wire.answer();
            assert_eq!((answer.status(), answer.reason()), (status, reason), "{way}");
            assert_eq!(answer.head.get("connection"), Some("close"));
            wire.expect_closed();
        }
    }
    assert_eq!(service.accepted(), 0, "what was sent ahead is no request");
}

fn a_connect_has_no_content(driver: Driver) {
    let service = Service::tcp(echo);
    let sidecar = start(driver, &service);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        for framing in ["Content-Length: 2", "Transfer-Encoding: chunked"] {
            let head = connect("127.0.0.1", port_of(&service)).replace("Host:", &format!("{framing}\r\nHost:"));
            let answer = ways.connect(way).ask(head + "hi");
            assert_eq!((answer.status(), answer.reason()), (400, "connect-with-content"), "{way} {framing}");
        }
        // None at all is said in this way by some.
        let mut wire = ways.connect(way);
        wire.send(connect("127.0.0.1", port_of(&service)).replace("Host:", "Content-Length: 0\r\nHost:"));
        expect_tunnel(&mut wire);
    }
    until("those without content have reached the service", || service.accepted() == WAYS.len());
}
