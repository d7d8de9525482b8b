//! What is counted and logged agrees with what was sent.

use super::{before, quoted};
use crate::process::until;
use crate::service::{http, saying};
use crate::sidecar::{Driver, Sidecar, free_port};

on_each_driver!(
    calls_are_counted_by_listener_cluster_and_code,
    connections_are_counted,
    the_access_log_has_a_line_for_each_call,
    two_workers_count_together,
);

fn calls_are_counted_by_listener_cluster_and_code(driver: Driver) {
    let service = http(|head, wire| {
        let status = head.path().trim_start_matches('/');
        wire.send(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"));
    });
    let sidecar = before(driver, &[&service.endpoint]);
    let mut tcp = sidecar.connect("web");
    let mut unix = crate::wire::Wire::unix(&sidecar.path("web.sock"));
    for (wire, calls) in [(&mut tcp, 5), (&mut unix, 3)] {
        for _ in 0..calls {
            for (host, code) in [("service", 200), ("service", 404), ("service", 503), ("nowhere", 200)] {
                wire.ask(format!("GET /{code} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            }
        }
    }
    for (listener, calls) in [("web", 5.0), ("web-uds", 3.0)] {
        for code in [200, 404, 503] {
            assert_eq!(sidecar.requests(listener, "service", code), calls, "{listener} {code}");
        }
        assert_eq!(sidecar.requests(listener, "-", 404), calls, "{listener}, no route");
        let labels = format!("{{listener=\"{listener}\",cluster=\"service\"}}");
        assert_eq!(sidecar.metric(&format!("shmesh_request_duration_seconds_count{labels}")), 3.0 * calls);
        let infinite = labels.replace('}', ",le=\"+Inf\"}");
        let bucket = sidecar.metrics().into_iter().find(|(name, _)| {
            name.starts_with("shmesh_request_duration_seconds_bucket")
                && name.contains(&format!("\"{listener}\""))
                && name.contains("\"service\"")
                && name.contains("le=\"+Inf\"")
        });
        assert_eq!(bucket.map(|(_, value)| value), Some(3.0 * calls), "{infinite}");
    }
    assert_eq!(sidecar.metric("shmesh_calls_in_flight"), 0.0);
}

fn connections_are_counted(driver: Driver) {
    let service = saying("ok");
    let nobody = format!("tcp:127.0.0.1:{}", free_port());
    let sidecar = before(driver, &[&service.endpoint, &nobody]);
    let mut wires: Vec<_> = (0..7).map(|_| sidecar.connect("web")).collect();
    for wire in &mut wires {
        wire.ask("GET / HTTP/1.1\r\nHost: service\r\n\r\n");
    }
    assert_eq!(sidecar.metric("shmesh_downstream_connections_total"), 7.0);
    assert_eq!(sidecar.metric("shmesh_upstream_connections_total"), service.accepted() as f64);
    assert!(sidecar.metric("shmesh_upstream_connect_failures_total") >= 3.0);
    let clusters = sidecar.json("/clusters");
    assert_eq!(clusters[0]["name"], "service");
    assert_eq!(clusters[0]["endpoints"][0]["address"], service.endpoint.as_str());
    assert_eq!(clusters[0]["endpoints"][0]["connections"], service.accepted());
    assert_eq!(clusters[0]["endpoints"][1]["connections"], 0);
}

fn the_access_log_has_a_line_for_each_call(driver: Driver) {
    let service = saying("ok");
    let config = "
listeners: [ { name: web, tcp: 127.0.0.1:$web, protocol: http } ]
routes: [ { match: { host: service }, cluster: service } ]
clusters: [ { name: service, endpoints: [ $up ] } ]
access_log: { path: $dir/access.log }
";
    let sidecar = Sidecar::start(driver, config, &[("up", &quoted(&[&service.endpoint]))]);
    let mut wire = sidecar.connect("web");
    for host in ["service", "nowhere", "service"] {
        wire.ask(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    }
    let file = sidecar.path("access.log");
    let read = || std::fs::read_to_string(&file).unwrap_or_default();
    until("three lines are written", || read().lines().count() == 3);
    let lines: Vec<serde_json::Value> = read().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let codes: Vec<u64> = lines.iter().map(|line| line["code"].as_u64().expect("a code")).collect();
    assert_eq!(codes, [200, 404, 200]);
    assert_eq!((lines[0]["listener"].as_str(), lines[0]["cluster"].as_str()), (Some("web"), Some("service")));
    assert_eq!(lines[1]["cluster"], "-");
    assert!(
        lines.iter().all(|line| line["duration_us"].is_u64() && line["unix_ms"].as_u64() > Some(1_500_000_000_000))
    );
}

fn two_workers_count_together(driver: Driver) {
    let service = saying("ok");
    let up = quoted(&[&service.endpoint]);
    let sidecar = Sidecar::start_with(driver, super::CONFIG, &[("up", &up)], &["--workers", "2"]);
    assert_eq!(sidecar.metric("shmesh_workers"), 2.0);
    let mut wires: Vec<_> = (0..40).map(|_| sidecar.connect("web")).collect();
    for wire in &mut wires {
        assert_eq!(wire.ask("GET / HTTP/1.1\r\nHost: service\r\n\r\n").text(), "ok");
    }
    assert_eq!(sidecar.requests("web", "service", 200), 40.0);
    // The kernel spreads connections over the workers' sockets, and each has a pool of its own.
    assert!(service.accepted() >= 2, "{} upstream connections", service.accepted());
}
