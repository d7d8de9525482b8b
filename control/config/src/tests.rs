//! Whole files: what they give, and what is said about those that are refused.

use std::path::Path;
use std::time::Duration;

use shmesh_policy::{
    AllowUids, Attached, Bind, ClusterId, DubboKey, DubboRoute, HttpKey, HttpSpec, Lenient, OutlierDetection, Priority,
    Protocol, Quotas, Snapshot, Way, YieldSpec,
};

use super::expression::REGEXES_MAX;
use super::*;

/// As scripts write it.
const SAMPLE: &str = r#"
admin: { address: 127.0.0.1:15000 }
listeners:
  - { name: apps,      shm: /run/shmesh/shmesh.sock }
  - { name: http-uds,  unix: /run/shmesh/http.sock, protocol: http }
  - { name: http-out,  tcp: 127.0.0.1:15001, protocol: http }
  - { name: dubbo-out, tcp: 127.0.0.1:15002, protocol: dubbo }
  - { name: raw-out,   tcp: 127.0.0.1:15003, protocol: raw, cluster: reviews }
routes:
  - { match: { host: reviews, path_prefix: / }, cluster: reviews }
  - { match: { host: local, path_prefix: / }, cluster: local }
  - { match: { service: com.demo.GreetService, method: "say*", group: g1, version: 1.0.0 }, cluster: greeter }
clusters:
  - { name: reviews, endpoints: [ "tcp:127.0.0.1:9080", "unix:/run/reviews.sock" ] }
  - { name: greeter, endpoints: [ "tcp:127.0.0.1:20880" ] }
  - { name: local,   endpoints: [ "shm:my-app" ] }
"#;

/// Every key.
const FULL: &str = r#"
admin: { address: "[::]:15000", allow_remote: true }
listeners:
  - name: apps
    shm: /run/shmesh/shmesh.sock
    allow_uids: [ 1000, 1001 ]
    use_remote_address: true
  - name: http-out
    tcp: "[::1]:15001"
    protocol: http
    request_id: false
    lenient: [ bare_lf, obs_fold ]
  - { name: raw, unix: /run/raw.sock, protocol: raw, cluster: b }
routes:
  - match: {}
    cluster: b
    idempotent: true
    priority: low
  - match: { host: "[::1]", path_prefix: /a/, method: GET }
    cluster: a
  - { match: { service: "*.S", group: "", version: 0.0.0 }, cluster: b }
  - match:
      host: "*.Example.com:80"
      path: /a%20b
      headers:
        - { name: X-Tier, exact: gold }
        - { name: x-empty, exact: "" }
        - { name: x-debug, present: true }
        - { name: x-internal, present: false }
        - { name: user-agent, not: { prefix: "curl/ " } }
        - { name: x-number, regex: "[0-9]+" }
      query:
        - { name: v, exact: 2 }
        - { name: V, not: { regex: "a.*" } }
        - { name: w, not: { exact: "" } }
        - { name: p, prefix: "%61" }
    cluster: b
  - { match: { path_regex: '/v\d+(/.*)?' }, cluster: b }
clusters:
  - { name: a, dynamic_forward_proxy: true, connect_ports: [ 443, 65535 ], lenient: [ space_before_colon, repeated_content_length ], connect_timeout: 250ms }
  - { name: b, endpoints: [ "tcp:example.com:80" ], first_byte_timeout: 2m, request_timeout: 0s, unacknowledged_timeout: 0s, connection_pool_per_downstream_connection: true }
  - name: c
    original_dst: true
    outlier_detection: { consecutive_local_origin_failure: 1, consecutive_gateway_failure: 2, consecutive_5xx: 3, base_ejection_time: 4s, max_ejection_time: 5s, max_ejection_percent: 6 }
timeouts: { connect: 2s, first_byte: 1500ms, request: 90s, idle: 1m, unacknowledged: 7s, head_read: 1h }
drain_timeout: 0s
limits:
  head_bytes: 32KiB
  start_line_bytes: 4096
  headers: 64
  dubbo_body_bytes: 16MiB
  connections_per_worker: 100
  pool_idle_per_cluster: 0
  calls_per_connection: 10
  streams_per_lane: 11
  buffered_bytes_per_connection: 64KiB
  memory_percent: 0
session:
  allow_uids: [ 0 ]
  sessions_max: 3
  lanes_max: 4
  lanes_per_uid: 5
  bytes_max: 8192MiB
  bytes_per_session: 20MiB
  bytes_per_uid: 1048576KiB
  calls_per_session: 6
  calls_per_uid: 7
  route_ids_per_session: 8
  route_ids_per_uid: 9
dns: { servers: [ "10.96.0.10:53", "[::1]:5353" ] }
central_proxy: { http: "tcp:proxy:15001", dubbo: "unix:/run/proxy.sock" }
upgrade_socket: /run/shmesh/upgrade.sock
yield: { enabled: false, cpu_percent: 80, lag: 5ms, max_percent: 100 }
access_log: { path: /var/log/shmesh.log }
workers: 2
"#;

/// In front of what a test looks at, so that nothing else is wrong.
const LISTENER: &str = "listeners: [ { name: l, tcp: 127.0.0.1:1, protocol: http } ]\n";

fn accepted(text: &str) -> Snapshot {
    parse(text, "t.yaml").unwrap_or_else(|error| panic!("{text}\n{error}"))
}

fn http(snapshot: &Snapshot, host: &str, path: &str, headers: &[(&str, &str)]) -> Option<ClusterId> {
    let way = snapshot.route_http(&HttpKey {
        authority: host.as_bytes(),
        path_and_query: path.as_bytes(),
        method: b"GET",
        headers: &headers,
    });
    way.map(|way| way.cluster)
}

fn refused(text: &str) -> String {
    match parse(text, "t.yaml") {
        Ok(_) => panic!("accepted: {text}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_sample_is_read() {
    let snapshot = accepted(SAMPLE);
    let names: Vec<&str> = snapshot.clusters.iter().map(|cluster| &*cluster.name).collect();
    assert_eq!(names, ["reviews", "greeter", "local"]);
    let addresses = snapshot.clusters.iter().flat_map(|cluster| &cluster.endpoints);
    let addresses: Vec<String> = addresses.map(|endpoint| endpoint.address.to_string()).collect();
    assert_eq!(addresses, ["tcp:127.0.0.1:9080", "unix:/run/reviews.sock", "tcp:127.0.0.1:20880", "shm:my-app"]);
    let listeners: Vec<String> = snapshot
        .listeners
        .iter()
        .map(|listener| format!("{} {} {} {:?}", listener.name, listener.bind, listener.protocol, listener.cluster))
        .collect();
    assert_eq!(
        listeners[1..],
        [
            "http-uds unix:/run/shmesh/http.sock http None",
            "http-out tcp:127.0.0.1:15001 http None",
            "dubbo-out tcp:127.0.0.1:15002 dubbo None",
            "raw-out tcp:127.0.0.1:15003 raw Some(ClusterId(0))",
        ]
    );
    assert_eq!(snapshot.listeners[0].bind, Bind::Shm("/run/shmesh/shmesh.sock".into()));

    assert_eq!(http(&snapshot, "Reviews:15001", "/x", &[]), Some(ClusterId(0)));
    assert_eq!(http(&snapshot, "local", "", &[]), Some(ClusterId(2)));
    assert_eq!(http(&snapshot, "other", "/", &[]), None);
    let key = DubboKey {
        service: b"com.demo.GreetService",
        method: b"sayHello",
        version: Some(b"1.0.0"),
        group: Attached::Is(b"g1"),
        tag: Attached::None,
        attachments: None,
    };
    assert_eq!(snapshot.route_dubbo(&key), DubboRoute::To(Way::to(ClusterId(1))));
    assert_eq!(snapshot.route_dubbo(&DubboKey { group: Attached::Unknown, ..key }), DubboRoute::NeedsAttachments);
    assert_eq!(snapshot.route_dubbo(&DubboKey { method: b"ask", ..key }), DubboRoute::NoRoute);
    assert_eq!(snapshot.timeouts, shmesh_policy::Timeouts::default());
    assert_eq!(snapshot.limits, shmesh_policy::Limits::default());
}

#[test]
fn every_key_is_read() {
    let snapshot = accepted(FULL);
    assert_eq!(snapshot.admin.address.to_string(), "[::]:15000");
    assert!(snapshot.admin.allow_remote);
    assert_eq!(snapshot.listeners[0].allow_uids, Some(AllowUids::Listed(vec![1000, 1001])));
    assert_eq!(snapshot.listeners[2].cluster, Some(ClusterId(1)));
    assert_eq!(snapshot.listeners[2].protocol, Protocol::Raw);
    let mended = [
        Lenient { obs_fold: true, bare_lf: true, ..Lenient::default() },
        Lenient { repeated_content_length: true, space_before_colon: true, ..Lenient::default() },
    ];
    assert_eq!(snapshot.listeners[0].http, HttpSpec { use_remote_address: true, ..HttpSpec::default() });
    assert_eq!(snapshot.listeners[1].http, HttpSpec { request_id: false, lenient: mended[0], ..HttpSpec::default() });
    assert_eq!(snapshot.clusters[0].lenient, mended[1]);
    assert_eq!(snapshot.clusters[0].connect_ports, [443, 65535]);
    assert_eq!(snapshot.clusters[0].connect_timeout, Duration::from_millis(250));
    assert_eq!(snapshot.clusters[0].first_byte_timeout, Duration::from_millis(1500), "from `timeouts`");
    assert_eq!(snapshot.clusters[1].connect_timeout, Duration::from_secs(2), "from `timeouts`");
    assert_eq!(snapshot.clusters[1].first_byte_timeout, Duration::from_secs(120));
    assert_eq!(snapshot.clusters[0].request_timeout, Some(Duration::from_secs(90)), "from `timeouts`");
    assert_eq!(snapshot.clusters[1].request_timeout, None, "its own wish");
    assert_eq!(snapshot.clusters[0].unacknowledged_timeout, Some(Duration::from_secs(7)), "from `timeouts`");
    assert_eq!(snapshot.clusters[1].unacknowledged_timeout, None, "as the system has it");
    assert_eq!(snapshot.clusters[1].outlier_detection, OutlierDetection::default());
    let expected = OutlierDetection {
        consecutive_local_origin_failure: 1,
        consecutive_gateway_failure: 2,
        consecutive_5xx: 3,
        base_ejection_time: Duration::from_secs(4),
        max_ejection_time: Duration::from_secs(5),
        max_ejection_percent: 6,
    };
    assert_eq!(snapshot.clusters[2].outlier_detection, expected);
    assert_eq!(snapshot.routes.list()[0].idempotent, Some(true));
    assert_eq!(snapshot.routes.list()[0].priority, Priority::Low);
    let lag = Some(Duration::from_millis(5));
    assert_eq!(snapshot.yielding, YieldSpec { enabled: false, cpu_percent: 80, lag, max_percent: 100 });
    assert!(snapshot.clusters[1].connection_pool_per_downstream_connection);
    assert!(!snapshot.clusters[0].connection_pool_per_downstream_connection);
    assert_eq!(snapshot.clusters.iter().map(|cluster| cluster.original_dst).collect::<Vec<_>>(), [false, false, true]);
    assert_eq!(snapshot.timeouts.idle, Duration::from_secs(60));
    assert_eq!(snapshot.timeouts.head_read, Duration::from_secs(3600));
    assert_eq!(snapshot.timeouts.drain, Duration::ZERO);
    let limits = snapshot.limits;
    assert_eq!((limits.head_bytes, limits.start_line_bytes, limits.headers), (32768, 4096, 64));
    assert_eq!((limits.dubbo_body_bytes, limits.buffered_bytes_per_connection), (16 << 20, 64 << 10));
    assert_eq!((limits.connections_per_worker, limits.pool_idle_per_cluster), (100, 0));
    assert_eq!((limits.calls_per_connection, limits.streams_per_lane, limits.memory_percent), (10, 11, 0));
    assert_eq!(snapshot.session.allow_uids, AllowUids::Listed(vec![0]));
    assert_eq!((snapshot.session.sessions_max, snapshot.session.lanes_max), (3, 4));
    let quotas = Quotas {
        lanes_per_uid: 5,
        bytes_max: Some(8 << 30),
        bytes_per_session: 20 << 20,
        bytes_per_uid: Some(1 << 30),
        calls_per_session: 6,
        calls_per_uid: 7,
        route_ids_per_session: 8,
        route_ids_per_uid: 9,
    };
    assert_eq!(snapshot.session.quotas, quotas);
    assert_eq!(snapshot.dns.servers, ["10.96.0.10:53".parse().unwrap(), "[::1]:5353".parse().unwrap()]);
    assert_eq!(snapshot.upgrade_socket(), Some("/run/shmesh/upgrade.sock".into()));
    let central =
        [snapshot.central_proxy.http, snapshot.central_proxy.dubbo].map(|address| address.unwrap().to_string());
    assert_eq!(central, ["tcp:proxy:15001", "unix:/run/proxy.sock"]);
    assert_eq!(snapshot.access_log.unwrap().path, Path::new("/var/log/shmesh.log"));
    assert_eq!(snapshot.workers, Some(2));
}

/// Each condition of the long match decides on its own.
#[test]
fn conditions_are_read_with_their_meaning() {
    let snapshot =
        accepted(&FULL.replace("  - match: {}\n    cluster: b\n    idempotent: true\n    priority: low\n", ""));
    let fits = [("x-tier", "gold"), ("X-Empty", ""), ("x-debug", ""), ("user-agent", "curl/8"), ("x-number", "17")];
    let to = |path: &str, headers: &[(&str, &str)]| http(&snapshot, "a.example.com", path, headers);
    const PATH: &str = "/a%20b?v=2&p=%61b";
    assert_eq!(to(PATH, &fits), Some(ClusterId(1)));
    for left_out in [0, 1, 2, 4] {
        let mut headers = fits.to_vec();
        let (name, _) = headers.remove(left_out);
        assert_eq!(to(PATH, &headers), None, "without {name}");
    }
    let without_agent = [fits[0], fits[1], fits[2], fits[4]];
    assert_eq!(to(PATH, &without_agent), Some(ClusterId(1)), "`not` holds when there is none");
    for more in [("x-internal", ""), ("user-agent", "curl/ 8")] {
        assert_eq!(to(PATH, &[&fits[..], &[more]].concat()), None, "{more:?}");
    }
    for path in ["/a%20b?v=2", "/a%20b?p=%61b", "/a%20b?v=2&p=%61&V=a", "/a%20b?v=2&p=%61&w", "/a b?v=2&p=%61"] {
        assert_eq!(to(path, &fits), None, "{path}");
    }
    assert_eq!(http(&snapshot, "x", "/v12/y?z", &[]), Some(ClusterId(1)), "an expression for the path alone");
    assert_eq!(http(&snapshot, "x", "/v/y", &[]), None);
}

#[test]
fn expressions_of_a_file_are_counted() {
    let file = |count: usize| {
        let route = "  - { match: { path_regex: /a }, cluster: c }\n";
        let clusters = "clusters: [ { name: c, endpoints: [ \"tcp:h:1\" ] } ]";
        format!("{LISTENER}{clusters}\nroutes:\n{}", route.repeat(count))
    };
    accepted(&file(REGEXES_MAX));
    assert_eq!(
        refused(&file(REGEXES_MAX + 2)),
        format!(
            "t.yaml:{}:28: a file has at most 1024 regular expressions; write exact texts or prefixes instead",
            3 + REGEXES_MAX + 1
        )
    );
}

#[test]
fn what_is_in_force_can_be_read_again() {
    for text in [SAMPLE, FULL, &default_yaml()] {
        let mut json = to_json(&accepted(text));
        assert_eq!(json["version"], 0);
        json.as_object_mut().unwrap().remove("version");
        let again = accepted(&serde_json::to_string_pretty(&json).unwrap());
        let mut json_again = to_json(&again);
        json_again.as_object_mut().unwrap().remove("version");
        assert_eq!(json, json_again);
    }
    let json = to_json(&accepted(FULL));
    assert_eq!(json["clusters"][1]["endpoints"][0], "tcp:example.com:80");
    assert_eq!(json["routes"][1]["match"]["path_prefix"], "/a");
    let long = &json["routes"][3]["match"];
    assert_eq!(long["host"], "*.example.com");
    assert_eq!(long["path"], "/a%20b");
    assert_eq!(long["headers"][0], serde_json::json!({ "name": "x-tier", "exact": "gold" }));
    assert_eq!(long["headers"][3], serde_json::json!({ "name": "x-internal", "present": false }));
    assert_eq!(long["query"][1], serde_json::json!({ "name": "V", "not": { "regex": "a.*" } }));
    assert_eq!(json["routes"][4]["match"]["path_regex"], r"/v\d+(/.*)?");
    assert_eq!(json["timeouts"]["first_byte"], "1500ms");
    assert_eq!(json["clusters"][1]["request_timeout"], "0s");
    assert_eq!(json["listeners"][2]["cluster"], "b");
}

#[test]
fn a_smaller_head_takes_the_request_line_with_it() {
    let snapshot = accepted(&format!("{LISTENER}limits: {{ head_bytes: 2KiB }}"));
    assert_eq!(snapshot.limits.start_line_bytes, 2048);
}

/// A file, and what is said of it.
#[test]
fn refusals_name_the_place_and_the_mend() {
    let table = include_str!("refusals.txt");
    let mut cases = 0;
    for case in table.split("\n====\n") {
        let (text, expected) = case.split_once("\n----\n").unwrap_or_else(|| panic!("no answer in:\n{case}"));
        let text = text.replace("LISTENER\n", LISTENER);
        assert_eq!(refused(&text), expected.trim_end(), "for:\n{text}");
        cases += 1;
    }
    assert!(cases > 80, "the table was cut: {cases}");
}

#[test]
fn files_that_cannot_be_read_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shmesh.yaml");
    let name = path.display();
    assert_eq!(
        load(&path).unwrap_err().to_string(),
        format!(
            "{name}: there is no such file; write the path of one behind --config, or leave that out to run with the \
             default"
        )
    );
    std::fs::write(&path, b"# \xc3\xa9\nadmin: \xff").unwrap();
    assert_eq!(
        load(&path).unwrap_err().to_string(),
        format!("{name}:2:8: byte 0xff is not UTF-8; save the file in the encoding UTF-8")
    );
    std::fs::write(&path, vec![b'#'; FILE_BYTES_MAX as usize + 1]).unwrap();
    assert_eq!(
        load(&path).unwrap_err().to_string(),
        format!("{name}: it is larger than 4 MiB; write the path of a configuration file")
    );
    let of_directory = load(directory.path()).unwrap_err().to_string();
    assert!(
        of_directory.starts_with(&format!("{}: it cannot be read: ", directory.path().display())),
        "{of_directory}"
    );
    std::fs::write(&path, SAMPLE).unwrap();
    assert_eq!(load(&path).unwrap().clusters.len(), 3);
}

#[test]
fn ten_thousand_routes_are_read() {
    let mut text = format!("{LISTENER}clusters: [ {{ name: c, endpoints: [ \"tcp:h:1\" ] }} ]\nroutes:\n");
    for route in 0..10_000 {
        text.push_str(&format!("  - {{ match: {{ host: h{route}, path_prefix: /p{route} }}, cluster: c }}\n"));
    }
    let snapshot = accepted(&text);
    assert_eq!(http(&snapshot, "H9999:80", "/p9999/x", &[]), Some(ClusterId(0)));
}

#[test]
fn routes_ask_for_few_different_attachments() {
    let file = |names: usize| {
        let mut text = format!("{LISTENER}clusters: [ {{ name: c, endpoints: [ \"tcp:h:1\" ] }} ]\nroutes:\n");
        for route in 0..100 {
            let name = route % names;
            text.push_str(&format!(
                "  - {{ match: {{ attachments: [ {{ name: a{name}, exact: x }} ] }}, cluster: c }}\n"
            ));
        }
        text
    };
    assert_eq!(accepted(&file(32)).routes.attachment_names().len(), 34, "group and tag beside them");
    assert!(refused(&file(33)).contains("at most 32 different attachments"));
}

/// Every key is in docs/CONFIG.md, and every example there is accepted.
#[test]
fn the_page_tells_the_truth() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/CONFIG.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut keys = Vec::new();
    collect_keys(&schema(), &mut keys);
    assert!(keys.len() > 40, "{keys:?}");
    for key in keys {
        assert!(page.contains(&format!("`{key}`")), "docs/CONFIG.md does not explain `{key}`");
    }
    let examples = page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let mut count = 0;
    for example in examples {
        accepted(example);
        count += 1;
    }
    assert!(count > 0, "no example");
}

/// The names of all properties in a schema.
fn collect_keys(schema: &serde_json::Value, keys: &mut Vec<String>) {
    match schema {
        serde_json::Value::Object(object) => {
            if let Some(properties) = object.get("properties").and_then(|properties| properties.as_object()) {
                keys.extend(properties.keys().cloned());
            }
            object.values().for_each(|value| collect_keys(value, keys));
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| collect_keys(value, keys)),
        _ => {}
    }
}
