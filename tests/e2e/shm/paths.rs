//! Which way calls take when the sidecar is gone, as it said itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::Signal;
use shmesh_client::{Client, Request};
use tempfile::TempDir;

use super::{App, put};
use crate::process::{PATIENCE, until};
use crate::service::{Gate, http, saying};
use crate::sidecar::{Driver, Sidecar};

on_each_driver!(
    calls_go_to_the_central_proxy_first,
    a_route_that_is_idempotent_is_called_again,
    an_app_that_serves_is_reached_without_the_sidecar,
    an_app_that_starts_without_its_sidecar_knows_the_way,
);

const CONFIG: &str = "
listeners:
  - { name: apps, shm: $dir/apps.sock }
  - { name: web, tcp: 127.0.0.1:$web, protocol: http }
  - { name: http-uds, unix: $dir/http.sock, protocol: http }
routes:
  - { match: { host: service, method: POST }, cluster: service, idempotent: true }
  - { match: { host: service }, cluster: service }
  - { match: { host: local }, cluster: local }
clusters:
  - { name: service, endpoints: [ \"$up\" ] }
  - { name: local, endpoints: [ \"shm:my-app\" ] }
central_proxy: { http: \"$central\" }
";

fn start(driver: Driver, up: &str, central: &str) -> Sidecar {
    Sidecar::start(driver, CONFIG, &[("up", up), ("central", central)])
}

/// Nobody listens there.
const NOWHERE: &str = "tcp:127.0.0.1:1";

fn kill(sidecar: &mut Sidecar) {
    sidecar.process.signal(Signal::SIGKILL);
    sidecar.process.wait();
}

/// Calls until the shim knows where such calls go, which is told by a file that it writes.
fn learn(client: &Client, file: &std::path::Path, request: impl Fn() -> Request<'static>, knows: &str) {
    let known = || std::fs::read(file).is_ok_and(|bytes| bytes.windows(knows.len()).any(|at| at == knows.as_bytes()));
    until("the shim knows the way", || {
        client.call(request()).expect("an answer");
        known()
    });
}

fn learning(sidecar: &Sidecar, folder: &TempDir) -> (Client, std::path::PathBuf) {
    let file = folder.path().join("test.policy");
    let client = Client::builder().socket(sidecar.path("apps.sock")).policy_file(&file).connect();
    (client.expect("it attaches"), file)
}

fn calls_go_to_the_central_proxy_first(driver: Driver) {
    let (service, central, folder) = (saying("direct"), saying("central"), TempDir::new().expect("a folder"));
    let mut sidecar = start(driver, &service.endpoint, &central.endpoint);
    let (client, file) = learning(&sidecar, &folder);
    let get = || Request::http("GET", "service", "/").timeout(PATIENCE);
    learn(&client, &file, get, "http.sock");
    assert_eq!(client.call(get()).expect("an answer").body, b"direct");
    kill(&mut sidecar);
    for _ in 0..20 {
        assert_eq!(client.call(get()).expect("an answer").body, b"central");
    }
}

fn a_route_that_is_idempotent_is_called_again(driver: Driver) {
    let (seen, gate) = (Arc::new(AtomicUsize::new(0)), Gate::default());
    let (count, killed) = (seen.clone(), gate.clone());
    let service = http(move |head, wire| {
        let mut body = Vec::new();
        wire.body(head, false, |piece| body.extend_from_slice(piece));
        if body == b"slow" && count.fetch_add(1, Ordering::Relaxed) == 0 {
            killed.pass();
        }
        let _ = wire.try_send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let folder = TempDir::new().expect("a folder");
    let mut sidecar = start(driver, &service.endpoint, NOWHERE);
    let (client, file) = learning(&sidecar, &folder);
    let post = |body: &'static [u8]| Request::http("POST", "service", "/").body(body).timeout(PATIENCE);
    learn(&client, &file, || post(b"quick"), "POST /");
    let call = std::thread::spawn(move || client.call(post(b"slow")));
    until("it is being answered", || seen.load(Ordering::Relaxed) == 1);
    kill(&mut sidecar);
    gate.open();
    assert_eq!(call.join().expect("no panic").expect("it is made again").body, b"ok");
    assert_eq!(seen.load(Ordering::Relaxed), 2);
}

fn an_app_that_serves_is_reached_without_the_sidecar(driver: Driver) {
    let folder = TempDir::new().expect("a folder");
    let mut sidecar = start(driver, NOWHERE, NOWHERE);
    let app = App::start(&sidecar, "my-app");
    let (client, file) = learning(&sidecar, &folder);
    learn(&client, &file, || put("local", b"hello"), "my-app.app.sock");
    for round in 0..3 {
        kill(&mut sidecar);
        for _ in 0..20 {
            assert_eq!(client.call(put("local", b"alone")).expect("an answer").body, b"alone", "round {round}");
        }
        sidecar.start_again();
        let web = "PUT / HTTP/1.1\r\nHost: local\r\nContent-Length: 2\r\n\r\nhi";
        until("the app serves again", || sidecar.connect("web").ask(web).status() == 200);
        until("calls go through the new sidecar", || {
            assert_eq!(client.call(put("local", b"again")).expect("an answer").body, b"again");
            sidecar.requests("apps", "local", 200) > 0.0
        });
    }
    drop(app);
}

fn an_app_that_starts_without_its_sidecar_knows_the_way(driver: Driver) {
    let (service, folder) = (saying("direct"), TempDir::new().expect("a folder"));
    let mut sidecar = start(driver, &service.endpoint, NOWHERE);
    let (client, file) = learning(&sidecar, &folder);
    let get = || Request::http("GET", "service", "/").timeout(PATIENCE);
    learn(&client, &file, get, "http.sock");
    drop(client);
    // Another life of the app; the sidecar's ends before it was asked anything.
    let (client, _) = learning(&sidecar, &folder);
    kill(&mut sidecar);
    assert_eq!(client.call(get()).expect("an answer").body, b"direct");
}
