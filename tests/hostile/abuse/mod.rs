//! What the abuse tests share: a sidecar before services, and the question whether everybody else is served.

pub mod answers;
pub mod bells;
pub mod greeting;
pub mod lives;
pub mod memory;

use shmesh_client::{Client, Request};

use crate::idle::expect_idle;
use crate::process::{PATIENCE, until};
use crate::service::{Service, http};
use crate::sidecar::{Driver, Sidecar};
use crate::wire::Wire;

/// A sidecar that lets uid `$other` attach as well, before a service that answers at once (`/`), never (`/never`) or
/// with a mebibyte (`/large`), and before an app that serves as `hostile`.
const CONFIG: &str = "
listeners:
  - { name: apps, shm: $dir/apps.sock, allow_uids: [ 0, $own, 65534 ] }
  - { name: web, tcp: 127.0.0.1:$web, protocol: http }
routes:
  - { match: { host: service }, cluster: service }
  - { match: { host: local }, cluster: local }
clusters:
  - { name: service, endpoints: [ \"$up\" ], first_byte_timeout: 60s }
  - { name: local, endpoints: [ \"shm:hostile\" ], first_byte_timeout: 2s }
workers: 1
";

/// Answer to `/large`.
pub const LARGE: usize = 1 << 20;

pub struct Scene {
    pub sidecar: Sidecar,
    _service: Service,
}

impl Scene {
    pub fn start(driver: Driver) -> Scene {
        Self::start_with(driver, CONFIG)
    }

    pub fn start_with(driver: Driver, config: &str) -> Scene {
        let service = http(answer);
        let own = nix::unistd::getuid().to_string();
        let sidecar = Sidecar::start(driver, config, &[("up", &service.endpoint), ("own", &own)]);
        Scene { sidecar, _service: service }
    }

    /// A new app attaches and is served.
    pub fn others_are_served(&self) {
        // What an offender has had counts until its worker has let go of it.
        let mut attached = None;
        until("another app attaches", || {
            let client = Client::builder()
                .hang_timeout(crate::process::PATIENCE)
                .socket(self.sidecar.path("apps.sock"))
                .lanes(1)
                .fallback(false);
            attached = client.connect().ok();
            attached.is_some()
        });
        let client = attached.expect("the app that attached");
        for _ in 0..5 {
            let request = Request::http("POST", "service", "/").body(b"x").timeout(PATIENCE);
            assert_eq!(client.call(request).expect("another app is served").body, b"ok");
        }
    }

    /// Everything that offenders had is given back, and the sidecar idles.
    pub fn nothing_is_left(&mut self, descriptors: usize) {
        self.sidecar.expect_metric("shmesh_sessions", 0.0);
        self.sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
        let upstream = || {
            let metrics = self.sidecar.metrics();
            let open = metrics.iter().filter(|(name, _)| name.starts_with("shmesh_endpoint_connections"));
            open.map(|(_, count)| *count as usize).sum::<usize>()
        };
        until("the descriptors are closed", || self.sidecar.process.descriptors() <= descriptors + upstream());
        let maps = || std::fs::read_to_string(format!("/proc/{}/maps", self.sidecar.process.pid())).expect("it runs");
        until("the segments are unmapped", || !maps().contains("shmesh-to"));
        self.idles();
        assert!(self.sidecar.process.ended().is_none());
        assert!(!self.sidecar.log().contains("panicked"), "a thread of the sidecar panicked");
    }

    /// The sidecar does nothing while nothing happens.
    pub fn idles(&self) {
        expect_idle(&self.sidecar.process);
    }

    /// Descriptors of the sidecar while nobody is there.
    pub fn descriptors(&self) -> usize {
        // What is opened once and kept: the pool of connections counts by itself.
        self.others_are_served();
        self.sidecar.expect_metric("shmesh_sessions", 0.0);
        let maps = || std::fs::read_to_string(format!("/proc/{}/maps", self.sidecar.process.pid())).expect("it runs");
        until("the segments are unmapped", || !maps().contains("shmesh-to"));
        self.sidecar.process.descriptors()
    }

    /// The label of the only violation so far.
    pub fn offence(&self) -> Option<String> {
        let name = "shmesh_session_violations_total{reason=\"";
        let metrics = self.sidecar.metrics();
        metrics.keys().find_map(|key| key.strip_prefix(name)?.strip_suffix("\"}").map(str::to_owned))
    }
}

fn answer(head: &crate::wire::Head, wire: &mut Wire) {
    wire.body(head, false, |_| ());
    match head.path() {
        // The client goes away some time.
        "/never" => drop(wire.each_piece(u64::MAX, |_| ())),
        "/large" => {
            let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n").into_bytes();
            answer.resize(answer.len() + LARGE, b'l');
            let _ = wire.try_send(&answer);
        }
        _ => drop(wire.try_send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")),
    }
}
