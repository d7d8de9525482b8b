//! What HTTP is routed by, the same over every way in: sockets, calls over shared memory, and streams.

use std::io::{Read, Write};

use shmesh_client::{Client, Protocol, Request};

use crate::process::until;
use crate::service::{Service, saying};
use crate::sidecar::{Driver, Sidecar};
use crate::wire::Wire;

on_each_driver!(routes_are_the_same_over_every_way_in);

/// Each cluster's one service says the cluster's name.
const CLUSTERS: [&str; 7] = ["plain", "tier", "quiet", "exact", "versioned", "german", "suffix"];

const CONFIG: &str = r#"
listeners:
  - { name: web, tcp: 127.0.0.1:$web, protocol: http }
  - { name: web-uds, unix: $dir/web.sock, protocol: http }
  - { name: apps, shm: $dir/apps.sock }
routes:
  - { match: { host: h }, cluster: plain }
  - { match: { host: h, headers: [ { name: X-Tier, exact: gold } ] }, cluster: tier }
  - { match: { host: h, headers: [ { name: x-tier, exact: gold }, { name: x-debug, present: false } ] }, cluster: quiet }
  - { match: { host: h, path: /exact }, cluster: exact }
  - { match: { host: h, path_regex: '/v\d+(/.*)?' }, cluster: versioned }
  - { match: { host: h, query: [ { name: lang, prefix: de } ] }, cluster: german }
  - { match: { host: "*.h" }, cluster: suffix }
clusters:
"#;

/// A request without a body, and the cluster that takes it; none: 404.
struct Case {
    host: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    cluster: Option<&'static str>,
}

const fn case(
    host: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    cluster: &'static str,
) -> Case {
    Case { host, path, headers, cluster: Some(cluster) }
}

const GOLD: &[(&str, &str)] = &[("x-tier", "gold")];
const GOLD_DEBUG: &[(&str, &str)] = &[("X-TIER", "gold"), ("X-Debug", "")];
const SILVER_GOLD: &[(&str, &str)] = &[("x-tier", "silver"), ("x-tier", "gold")];
const LIST: &[(&str, &str)] = &[("x-tier", "silver, gold")];

const CASES: [Case; 13] = [
    case("h", "/", &[], "plain"),
    case("H:80", "/?langde", GOLD, "quiet"),
    case("h", "/", GOLD_DEBUG, "tier"),
    case("h", "/", SILVER_GOLD, "quiet"),
    case("h", "/", LIST, "plain"),
    case("h", "/?a=b&lang=de-AT", &[], "german"),
    case("h", "/?lang=en", &[], "plain"),
    case("h", "/exact?lang=de", GOLD, "exact"),
    case("h", "/exact/", &[], "plain"),
    case("h", "/v2/a?b", GOLD, "versioned"),
    case("h", "/a/v2", &[], "plain"),
    case("a.h:80", "/", GOLD, "suffix"),
    Case { host: "ah", path: "/", headers: &[], cluster: None },
];

/// A sidecar of one worker before a service for each cluster.
fn start(driver: Driver) -> (Sidecar, Vec<Service>) {
    let services: Vec<Service> = CLUSTERS.into_iter().map(saying).collect();
    let words: Vec<(&str, &str)> =
        CLUSTERS.into_iter().zip(&services).map(|(name, service)| (name, &*service.endpoint)).collect();
    (Sidecar::start_with(driver, &config(), &words, &["--workers", "1"]), services)
}

fn config() -> String {
    let clusters = CLUSTERS.map(|name| format!("  - {{ name: {name}, endpoints: [ \"${name}\" ] }}\n"));
    format!("{CONFIG}{}", clusters.concat())
}

fn client(sidecar: &Sidecar) -> Client {
    Client::builder()
        .hang_timeout(crate::process::PATIENCE)
        .socket(sidecar.path("apps.sock"))
        .name("test")
        .connect()
        .expect("it attaches")
}

impl Case {
    fn request(&self) -> Request<'static> {
        let request = Request::http("GET", self.host, self.path);
        self.headers.iter().fold(request, |request, (name, value)| request.header(name, value))
    }

    fn text(&self) -> String {
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("GET {} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", self.path, self.host)
    }

    fn expect(&self, status: u16, body: &[u8], way: &str) {
        let body = String::from_utf8_lossy(body);
        match self.cluster {
            Some(cluster) => assert_eq!((status, &*body), (200, cluster), "{way}: {}", self.text()),
            None => assert_eq!(status, 404, "{way}: {}", self.text()),
        }
    }
}

/// Status and body of the next answer on a stream.
fn answer(stream: &mut impl Read) -> (u16, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    let mut body = vec![0; length.and_then(|length| length.parse().ok()).expect("a length")];
    stream.read_exact(&mut body).expect("a body");
    (status, body)
}

fn expect_everywhere(sidecar: &Sidecar, client: &Client, cases: &[Case]) {
    let mut sockets = [("tcp", sidecar.connect("web")), ("uds", Wire::unix(&sidecar.path("web.sock")))];
    let mut stream = client.stream(Protocol::Http, None).expect("a stream");
    for case in cases {
        for (way, wire) in &mut sockets {
            let answer = wire.ask(case.text());
            case.expect(answer.status(), &answer.body, way);
        }
        stream.write_all(case.text().as_bytes()).expect("it is taken");
        let (status, body) = answer(&mut stream);
        case.expect(status, &body, "stream");
    }
    // The first time a key travels in the record, later it is a defined one; calls with other keys come between.
    for _ in 0..4 {
        for case in cases {
            let response = client.call(case.request()).expect("an answer");
            case.expect(response.status, &response.body, "call");
        }
    }
}

fn routes_are_the_same_over_every_way_in(driver: Driver) {
    let (mut sidecar, _services) = start(driver);
    let client = client(&sidecar);
    expect_everywhere(&sidecar, &client, &CASES);

    // What is in force is shown as it was written, and keys that were defined before are looked at anew.
    let shown = &sidecar.json("/snapshot")["routes"][2]["match"];
    assert_eq!(shown["headers"][0], serde_json::json!({ "name": "x-tier", "exact": "gold" }));
    assert_eq!(shown["headers"][1], serde_json::json!({ "name": "x-debug", "present": false }));
    let swapped = config().replace("{ match: { host: h }, cluster: plain }", "{ match: { host: h }, cluster: tier }");
    sidecar.write_config(&swapped.replace("x-tier, exact: gold", "x-tier, not: { regex: 'go.*' }"));
    let mut wire = sidecar.connect("web");
    until("the new routes are in force", || wire.ask(CASES[0].text()).text() == "quiet");
    let cases = [
        case("h", "/", &[], "quiet"),
        case("h", "/", GOLD, "tier"),
        case("h", "/", GOLD_DEBUG, "tier"),
        case("h", "/", SILVER_GOLD, "tier"),
        case("h", "/", LIST, "quiet"),
        case("h", "/exact?lang=de", GOLD, "exact"),
        case("a.h:80", "/", GOLD, "suffix"),
    ];
    expect_everywhere(&sidecar, &client, &cases);
}
