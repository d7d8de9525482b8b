//! HTTP/1.1 through every listener.

pub mod ambiguous;
mod bodies;
mod connect;
mod forward_proxy;
mod hop;
mod huge;
mod idempotent;
mod malformed;
mod messages;
mod numbers;
mod timeouts;
pub mod upgrade;
mod upstreams;

use shmesh_client::{Client, Protocol};

use crate::sidecar::{Driver, Sidecar};
use crate::wire::{Stream, Wire};

/// All three kinds of listener before one cluster, whose endpoints are `$up`; `$more` are further lines.
const CONFIG: &str = "
listeners:
  - { name: web, tcp: 127.0.0.1:$web, protocol: http }
  - { name: web-uds, unix: $dir/web.sock, protocol: http }
  - { name: apps, shm: $dir/apps.sock }
routes: [ { match: { host: service, path_prefix: / }, cluster: service } ]
clusters: [ { name: service, endpoints: [ $up ] } ]
timeouts: { connect: 1s, first_byte: 15s, idle: 60s, head_read: 10s }
";

/// A sidecar before these endpoints.
fn before(driver: Driver, endpoints: &[&str]) -> Sidecar {
    Sidecar::start(driver, CONFIG, &[("up", &quoted(endpoints))])
}

fn quoted(endpoints: &[&str]) -> String {
    endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect::<Vec<_>>().join(", ")
}

/// The ways in. What HTTP/1.1 asks for holds on each of them.
const WAYS: [&str; 3] = ["tcp", "uds", "shm"];

/// A client that comes in by each way.
struct Ways<'a> {
    sidecar: &'a Sidecar,
    app: Client,
}

impl Ways<'_> {
    fn into(sidecar: &Sidecar) -> Ways<'_> {
        let app = Client::builder()
            .hang_timeout(crate::process::PATIENCE)
            .socket(sidecar.path("apps.sock"))
            .fallback(false)
            .connect();
        Ways { sidecar, app: app.expect("a session") }
    }

    /// A new connection, or what stands in for one.
    fn connect(&self, way: &str) -> Wire {
        // Whoever reads of a failure wants to know.
        println!("over {way}");
        match way {
            "tcp" => self.sidecar.connect("web"),
            "uds" => Wire::unix(&self.sidecar.path("web.sock")),
            _ => Wire::new(Stream::Shm(self.app.stream(Protocol::Http, None).expect("a stream"))),
        }
    }
}
