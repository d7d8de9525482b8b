//! HTTP/1.1 through every listener.

mod bodies;
mod forward_proxy;
mod malformed;
mod messages;
mod numbers;
mod upstreams;

use crate::sidecar::{Driver, Sidecar};

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
