//! Requests in absolute form, sent to the host that they name, as the embedded configuration does.

use crate::service::{Service, http, saying};
use crate::sidecar::{Driver, Sidecar, free_port};

on_each_driver!(
    an_absolute_form_request_goes_to_the_host_that_it_names,
    what_names_no_host_has_no_route,
    a_request_to_the_sidecar_itself_is_refused,
    a_named_host_that_refuses_is_503,
);

/// As the embedded default, on other ports.
const CONFIG: &str = "
listeners:
  - { name: apps, shm: $dir/apps.sock }
  - { name: http-out, tcp: 127.0.0.1:$out, protocol: http }
routes: [ { match: { path_prefix: / }, cluster: named-by-request } ]
clusters: [ { name: named-by-request, dynamic_forward_proxy: true } ]
";

fn port_of(service: &Service) -> &str {
    service.endpoint.rsplit_once(':').expect("a port").1
}

fn an_absolute_form_request_goes_to_the_host_that_it_names(driver: Driver) {
    let service = http(|head, wire| {
        wire.body(head, false, |_| ());
        let text = format!("{} {}", head.start, head.get("host").unwrap_or("none"));
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()));
    });
    let other = saying("other");
    let sidecar = Sidecar::start(driver, CONFIG, &[]);
    let mut wire = sidecar.connect("out");
    let port = port_of(&service);
    for host in ["localhost", "127.0.0.1", "LOCALHOST"] {
        let answer = wire.ask(format!("GET http://{host}:{port}/a?b=c HTTP/1.1\r\nHost: decoy\r\n\r\n"));
        assert_eq!(
            answer.text(),
            format!("GET /a?b=c HTTP/1.1 {host}:{port}"),
            "Host is the target's (RFC 9112 §3.2.2)"
        );
        // Another host on the same connection.
        let answer = wire.ask(format!("GET http://{host}:{}/ HTTP/1.1\r\nHost: decoy\r\n\r\n", port_of(&other)));
        assert_eq!(answer.text(), "other");
    }
    let answer = wire.ask(format!("GET http://localhost:{port} HTTP/1.1\r\nHost: decoy\r\n\r\n"));
    assert_eq!(answer.text(), format!("GET / HTTP/1.1 localhost:{port}"), "an empty path is /");
}

fn what_names_no_host_has_no_route(driver: Driver) {
    let sidecar = Sidecar::start(driver, CONFIG, &[]);
    let answer = sidecar.connect("out").ask("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!((answer.status(), answer.reason()), (404, "no-route"));
}

fn a_request_to_the_sidecar_itself_is_refused(driver: Driver) {
    let sidecar = Sidecar::start(driver, CONFIG, &[]);
    let own = sidecar.tcp("out");
    for host in [own.to_string(), format!("localhost:{}", own.port())] {
        let answer = sidecar.connect("out").ask(format!("GET http://{host}/ HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!((answer.status(), answer.reason()), (508, "loop"), "{host}");
    }
}

fn a_named_host_that_refuses_is_503(driver: Driver) {
    let sidecar = Sidecar::start(driver, CONFIG, &[]);
    let mut wire = sidecar.connect("out");
    for (host, reason) in [
        (format!("127.0.0.1:{}", free_port()), "upstream-refused"),
        ("no-such-host.invalid".to_owned(), "host-unresolved"),
    ] {
        let answer = wire.ask(format!("GET http://{host}/ HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!((answer.status(), answer.reason()), (503, reason), "{host}");
    }
}
