//! Over shared memory: apps that call, apps that serve, and what happens when one side goes away.

mod ambiguous;
mod attach;
mod calls;
mod death;
mod direct;
mod from_the_page;
mod handmade;
mod hyper;
mod liveness;
mod paths;
mod quotas;
mod serving;
mod streams;
mod yielding;

use shmesh_client::{Client, Request};
use tempfile::TempDir;

use crate::process::{PATIENCE, Process, until};
use crate::sidecar::{Driver, Sidecar};

/// Apps, and a listener of each kind, before services and an app that serves.
const CONFIG: &str = "
listeners:
  - { name: apps, shm: $dir/apps.sock }
  - { name: web, tcp: 127.0.0.1:$web, protocol: http }
  - { name: rpc, tcp: 127.0.0.1:$rpc, protocol: dubbo }
  - { name: raw, tcp: 127.0.0.1:$raw, protocol: raw, cluster: $raw_cluster }
routes:
  - { match: { host: service }, cluster: service }
  - { match: { host: local }, cluster: local }
  - { match: { service: com.demo.GreetService, group: g1 }, cluster: service }
  - { match: { service: com.demo.LocalService }, cluster: local }
clusters:
  - { name: service, endpoints: [ \"$up\" ] }
  - { name: local, endpoints: [ \"shm:my-app\" ] }
timeouts: { first_byte: 10s }
";

fn before(driver: Driver, endpoint: &str) -> Sidecar {
    // One worker on any machine, so that each session has the lanes that a test counts on.
    Sidecar::start_with(driver, CONFIG, &[("up", endpoint), ("raw_cluster", "service")], &["--workers", "1"])
}

/// Before nothing but an app that serves.
fn before_app(driver: Driver) -> Sidecar {
    Sidecar::start(driver, CONFIG, &[("up", "tcp:127.0.0.1:1"), ("raw_cluster", "local")])
}

/// Whose sidecar may be slow, as on a machine with more to do than it can; what is hung is looked at in `liveness`.
fn client(sidecar: &Sidecar) -> Client {
    Client::builder()
        .hang_timeout(crate::process::PATIENCE)
        .socket(sidecar.path("apps.sock"))
        .name("test")
        .connect()
        .expect("it attaches")
}

/// A PUT whose body comes back.
fn put<'a>(host: &str, body: &'a [u8]) -> Request<'a> {
    Request::http("PUT", host, "/echo").body(body).timeout(PATIENCE)
}

/// `shmesh echo` as an app that serves over shared memory.
pub struct App {
    pub process: Process,
    _folder: TempDir,
}

impl App {
    pub fn launch(sidecar: &Sidecar, name: &str) -> App {
        let folder = TempDir::new().expect("a folder");
        let listen = format!("shm:{}", sidecar.path("apps.sock").display());
        let args = ["echo", "--protocol", "http", "--listen", &listen, "--name", name];
        let process = Process::start("the app", &folder.path().join("stderr"), &args);
        App { process, _folder: folder }
    }

    /// Starts one and waits until it serves.
    pub fn start(sidecar: &Sidecar, name: &str) -> App {
        let app = App::launch(sidecar, name);
        until("the app serves", || app.process.log().starts_with("listening on "));
        app
    }
}

/// Waits until `sessions` apps are attached.
fn expect_sessions(sidecar: &Sidecar, sessions: usize) {
    sidecar.expect_metric("shmesh_sessions", sessions as f64);
}
