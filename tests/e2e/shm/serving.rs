//! Apps that serve over shared memory: whoever calls, and however much.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use shmesh_client::{
    Call, CallError, ConnectError, Lane, Protocol, Request, Served, ServedResponse, Server, Target, Wait,
};
use shmesh_shm::handshake::RefusedCode;

use super::{App, before_app, client, expect_sessions, put};
use crate::bytes::{KIB, MIB, Noise, noise};
use crate::process::{PATIENCE, shmesh_ok, until};
use crate::sidecar::{Driver, Sidecar};

on_each_driver!(
    http_from_a_socket_to_an_app,
    http_from_an_app_to_an_app,
    large_bodies_to_an_app,
    dubbo_to_an_app,
    raw_bytes_to_an_app,
    the_bench_runs_against_an_app,
    nobody_serves_under_the_name,
    a_name_that_is_taken_is_refused,
    an_app_says_status_headers_and_failures,
    two_workers_have_a_lane_each,
    many_callers_of_one_app,
    an_app_that_takes_no_more_refuses_raw_calls,
);

const SIZES: [u64; 9] = [0, 1, 64, 400, 464, 500, 64 * KIB, 256 * KIB + 1, MIB];

fn http_from_a_socket_to_an_app(driver: Driver) {
    let sidecar = before_app(driver);
    let _app = App::start(&sidecar, "my-app");
    let mut wire = sidecar.connect("web");
    for len in SIZES {
        let body = noise(len, len);
        wire.send(format!("PUT / HTTP/1.1\r\nHost: local\r\nContent-Length: {len}\r\n\r\n"));
        wire.send(&body);
        let answer = wire.answer();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.head.length(), Some(len));
        assert!(answer.body == body, "{len} bytes");
        wire.send("PUT / HTTP/1.1\r\nHost: local\r\nTransfer-Encoding: chunked\r\n\r\n");
        for piece in body.chunks(9_999) {
            wire.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
        }
        wire.send("0\r\n\r\n");
        assert!(wire.answer().body == body, "{len} bytes, chunked");
    }
    wire.send("HEAD / HTTP/1.1\r\nHost: local\r\n\r\n");
    assert_eq!(wire.answer_to(true).status(), 200);
    // An app cannot say that a client should go on; the sidecar does.
    wire.send("PUT / HTTP/1.1\r\nHost: local\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(wire.head().expect("an interim answer").status(), 100);
    assert_eq!(wire.ask("body").text(), "body");
    // Nor can it switch protocols: it is not asked to.
    let upgrade = "GET / HTTP/1.1\r\nHost: local\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(wire.ask(upgrade).status(), 200);
    assert_eq!(wire.ask(upgrade).status(), 200);
}

fn http_from_an_app_to_an_app(driver: Driver) {
    let sidecar = before_app(driver);
    let _app = App::start(&sidecar, "my-app");
    let client = client(&sidecar);
    expect_sessions(&sidecar, 2);
    for len in SIZES {
        let body = noise(len, len);
        let response = client.call(put("local", &body)).unwrap_or_else(|error| panic!("{len} bytes: {error}"));
        assert_eq!(response.status, 200);
        assert!(response.body == body, "{len} bytes");
    }
    assert_eq!(sidecar.requests("apps", "local", 200), SIZES.len() as f64);
}

fn large_bodies_to_an_app(driver: Driver) {
    let sidecar = before_app(driver);
    let _app = App::start(&sidecar, "my-app");
    let body = noise(5, 8 * MIB);
    let response = client(&sidecar).call(put("local", &body)).expect("an answer");
    assert!(response.body == body);
    let mut wire = sidecar.connect("web");
    let mut up = wire.twin();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            up.send(format!("PUT / HTTP/1.1\r\nHost: local\r\nContent-Length: {}\r\n\r\n", body.len()));
            up.send(&body);
        });
        assert!(wire.answer().body == body);
    });
}

fn dubbo_to_an_app(driver: Driver) {
    let sidecar = before_app(driver);
    let _app = App::start(&sidecar, "my-app");
    let large = "z".repeat(2_000_000);
    let tcp = format!("tcp:{}", sidecar.tcp("rpc"));
    let shm = format!("shm:{}", sidecar.path("apps.sock").display());
    for via in [&tcp, &shm] {
        for text in ["shmesh", "", "žluťoučký 🐎"] {
            let args = ["call", "--via", via, "--dubbo", "com.demo.LocalService", "sayHello", "--arg", text];
            assert_eq!(shmesh_ok(&args), format!("{text}\n").as_bytes(), "{via}");
        }
    }
    let mut wire = sidecar.connect("rpc");
    let invocation = shmesh_proto::dubbo::Invocation {
        path: "com.demo.LocalService",
        method: "sayHello",
        argument: Some(large.as_bytes()),
        ..Default::default()
    };
    let mut frame = Vec::new();
    shmesh_proto::dubbo::write_request(&mut frame, 7, true, 2, &invocation);
    wire.send(frame);
    let header = wire.exactly(16).expect("an answer");
    let header =
        shmesh_proto::dubbo::FrameHeader::parse(header.first_chunk().expect("16"), u32::MAX).expect("a header");
    let body = wire.exactly(header.body_len as usize).expect("a body");
    let reply = shmesh_proto::dubbo::read_reply(&header, &body).expect("an answer");
    assert!(reply == shmesh_proto::dubbo::Reply::Value(large));
}

fn raw_bytes_to_an_app(driver: Driver) {
    let sidecar = before_app(driver);
    let folder = tempfile::TempDir::new().expect("a folder");
    let listen = format!("shm:{}", sidecar.path("apps.sock").display());
    let args = ["echo", "--protocol", "raw", "--listen", &listen, "--name", "my-app"];
    let app = crate::process::Process::start("the app", &folder.path().join("stderr"), &args);
    until("the app serves", || app.log().starts_with("listening on "));
    for len in [0, 1, 100_000, 4 * MIB] {
        let mut wire = sidecar.connect("raw");
        let mut up = wire.twin();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                up.send(noise(4, len));
                up.end();
            });
            let mut noise = Noise::new(4);
            wire.each_piece(u64::MAX, |piece| noise.check(piece)).expect("an end in order");
            assert_eq!(noise.made(), len);
        });
        let bytes = noise(len + 1, len);
        let response = client(&sidecar).call(Request::raw("local", &bytes)).expect("an answer");
        assert!(response.body == bytes, "{len} bytes as a call");
    }
    sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
}

/// `shmesh bench` compares every answer, and counts.
fn the_bench_runs_against_an_app(driver: Driver) {
    let sidecar = before_app(driver);
    let _app = App::start(&sidecar, "my-app");
    let shm = format!("shm:{}", sidecar.path("apps.sock").display());
    let web = format!("tcp:{}", sidecar.tcp("web"));
    let rpc = format!("tcp:{}", sidecar.tcp("rpc"));
    for (via, protocol, target) in [
        (&shm, "http", "local"),
        (&shm, "dubbo", "com.demo.LocalService"),
        (&shm, "raw", "local"),
        (&web, "http", "local"),
        (&rpc, "dubbo", "com.demo.LocalService"),
    ] {
        for (inflight, payload) in [("1", "64"), ("64", "64"), ("8", "5000")] {
            let args = [
                "bench",
                "--via",
                via,
                "--protocol",
                protocol,
                "--target",
                target,
                "--payload",
                payload,
                "--inflight",
                inflight,
                "--connections",
                "2",
                "--duration",
                "300ms",
                "--json",
            ];
            let report: serde_json::Value = serde_json::from_slice(&shmesh_ok(&args)).expect("JSON");
            assert_eq!(report["errors"], 0, "{via} {protocol} {inflight} {payload}: {report}");
            // How many is the machine's affair: one that is shared may stand still for most of the 300 ms.
            let (ok, answered) = (report["ok"].as_u64(), report["answered"].as_u64());
            assert!(ok > Some(0) && answered >= ok, "{via} {protocol} {inflight} {payload}: {report}");
        }
    }
    sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
}

fn nobody_serves_under_the_name(driver: Driver) {
    let sidecar = before_app(driver);
    let answer = sidecar.connect("web").ask("GET / HTTP/1.1\r\nHost: local\r\n\r\n");
    assert_eq!((answer.status(), answer.reason()), (503, "upstream-refused"));
    // Under another name does not help.
    let _app = App::start(&sidecar, "other-app");
    assert_eq!(sidecar.connect("web").ask("GET / HTTP/1.1\r\nHost: local\r\n\r\n").status(), 503);
    let app = App::start(&sidecar, "my-app");
    assert_eq!(sidecar.connect("web").ask("PUT / HTTP/1.1\r\nHost: local\r\nContent-Length: 2\r\n\r\nhi").text(), "hi");
    drop(app);
    expect_sessions(&sidecar, 1);
    assert_eq!(sidecar.connect("web").ask("GET / HTTP/1.1\r\nHost: local\r\n\r\n").status(), 503);
}

fn a_name_that_is_taken_is_refused(driver: Driver) {
    let sidecar = before_app(driver);
    let first = App::start(&sidecar, "my-app");
    let mut second = App::launch(&sidecar, "my-app");
    assert_eq!(second.process.wait().code(), Some(1));
    assert!(
        second.process.log().contains("another process serves under the name \"my-app\""),
        "{}",
        second.process.log()
    );
    let refused = Server::attach(sidecar.path("apps.sock"), "my-app").expect_err("it is taken");
    assert_eq!(refused.refused(), Some(RefusedCode::NameTaken), "{refused}");
    assert!(matches!(refused, ConnectError::Refused { .. }));
    drop(first);
    expect_sessions(&sidecar, 0);
    drop(Server::attach(sidecar.path("apps.sock"), "my-app").expect("it is free again"));
}

fn an_app_says_status_headers_and_failures(driver: Driver) {
    let sidecar = before_app(driver);
    let stop = AtomicBool::new(false);
    let mut server = Server::attach(sidecar.path("apps.sock"), "my-app").expect("it attaches");
    let mut answer = |request: &mut Served<'_>, response: &mut ServedResponse| {
        assert_eq!(request.header("host"), Some(&b"local"[..]));
        match request.path() {
            b"/teapot" => {
                response.status(418).header("x-kind", "stoneware");
                response.body.extend_from_slice(request.method());
            }
            b"/none" => {
                response.status(204);
            }
            b"/lies" => {
                // Framing is the sidecar's; what contradicts it is not passed on.
                response.header("content-length", "99");
            }
            b"/overloaded" => response.fail(shmesh_client::Reset::Overloaded, "too much"),
            _ => response.fail(shmesh_client::Reset::Died, "gone"),
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| server.serve_until(&stop, &mut answer));
        // However this ends, the server does, too.
        let _stop = Stop(&stop);
        let mut wire = sidecar.connect("web");
        let teapot = wire.ask("BREW /teapot HTTP/1.1\r\nHost: local\r\n\r\n");
        assert_eq!((teapot.status(), teapot.text().as_str()), (418, "BREW"));
        assert_eq!((teapot.head.get("x-kind"), teapot.head.length()), (Some("stoneware"), Some(4)));
        assert_eq!(wire.ask("GET /none HTTP/1.1\r\nHost: local\r\n\r\n").status(), 204);
        assert_eq!(wire.ask("GET /lies HTTP/1.1\r\nHost: local\r\n\r\n").reason(), "upstream-malformed");
        assert_eq!(wire.ask("GET /overloaded HTTP/1.1\r\nHost: local\r\n\r\n").status(), 503);
        assert_eq!(wire.ask("GET /died HTTP/1.1\r\nHost: local\r\n\r\n").status(), 502);
        let client = client(&sidecar);
        let response = client.call(Request::http("BREW", "local", "/teapot")).expect("an answer");
        assert_eq!((response.status, response.body.as_slice()), (418, &b"BREW"[..]));
        assert_eq!(response.header("x-kind"), Some(&b"stoneware"[..]));
        assert_eq!(client.call(Request::http("GET", "local", "/died")).expect("an answer").status, 502);
    });
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn two_workers_have_a_lane_each(driver: Driver) {
    let words = [("up", "tcp:127.0.0.1:1"), ("raw_cluster", "local")];
    let sidecar = Sidecar::start_with(driver, super::CONFIG, &words, &["--workers", "2"]);
    let app = App::start(&sidecar, "my-app");
    let client = client(&sidecar);
    let sessions = sidecar.json("/sessions");
    let serving =
        sessions.as_array().expect("a list").iter().find(|session| session["serving"] == "my-app").expect("the app");
    assert_eq!(serving["lanes"].as_u64().expect("a number") - serving["calling"].as_u64().expect("a number"), 2);
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let (client, sidecar) = (client.clone(), &sidecar);
            scope.spawn(move || {
                let mut wire = sidecar.connect("web");
                for call in 0..50 {
                    let body = noise(thread, call * 50);
                    assert!(client.call(put("local", &body)).expect("an answer").body == body);
                    wire.send(format!("PUT / HTTP/1.1\r\nHost: local\r\nContent-Length: {}\r\n\r\n", body.len()));
                    wire.send(&body);
                    assert!(wire.answer().body == body);
                }
            });
        }
    });
    drop(app);
    until("the app is gone", || !sidecar.get("/sessions").1.contains("my-app"));
}

fn many_callers_of_one_app(driver: Driver) {
    let sidecar = before_app(driver);
    let app = App::start(&sidecar, "my-app");
    // More calls at once than the serving lane has slots: the rest wait for one.
    let mut wires: Vec<_> = (0..100).map(|_| sidecar.connect("web")).collect();
    for round in 0..5 {
        for (at, wire) in wires.iter_mut().enumerate() {
            let body = format!("{round}/{at}");
            wire.send(format!("PUT / HTTP/1.1\r\nHost: local\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        }
        for (at, wire) in wires.iter_mut().enumerate() {
            let answer = wire.answer();
            assert_eq!((answer.status(), answer.text()), (200, format!("{round}/{at}")));
        }
    }
    // If nobody takes them, they end as any call does.
    app.process.signal(Signal::SIGSTOP);
    for wire in &mut wires {
        wire.send("PUT / HTTP/1.1\r\nHost: local\r\nContent-Length: 2\r\n\r\nhi");
    }
    sidecar.expect_metric("shmesh_calls_in_flight", 100.0);
    drop(app);
    let mut statuses: Vec<u16> = wires.iter_mut().map(|wire| wire.answer().status()).collect();
    statuses.sort_unstable();
    assert_eq!((statuses[63], statuses[64]), (502, 503), "64 were handed over, the others were not: {statuses:?}");
}

/// As no room in the sidecar would be told, callers would go to the app's own socket instead.
fn an_app_that_takes_no_more_refuses_raw_calls(driver: Driver) {
    let config = format!("{}limits: {{ calls_per_connection: 1 }}\n", super::CONFIG);
    let words = [("up", "tcp:127.0.0.1:1"), ("raw_cluster", "local")];
    let sidecar = Sidecar::start_with(driver, &config, &words, &["--workers", "1"]);
    let mut server = Server::attach(sidecar.path("apps.sock"), "my-app").expect("it attaches");
    let client = client(&sidecar);
    let mut lanes = [client.lane().expect("a lane"), client.lane().expect("another")];
    let raw = Call::new(Target::Key(Protocol::Raw, b"local"), &[b"x"]);
    let submit = |lane: &mut Lane, calls: usize| {
        for _ in 0..calls {
            lane.submit(&raw).expect("a slot");
        }
        lane.flush();
    };
    // The app's own lane has a slot for each of these, and it does not look yet.
    submit(&mut lanes[0], 64);
    sidecar.expect_metric("shmesh_calls_in_flight", 64.0);
    // One may wait.
    submit(&mut lanes[1], 2);
    let refused = lanes[1].receive(Wait::For(PATIENCE)).expect("the sidecar is there").expect("an answer in time");
    let error = refused.outcome.expect_err("it takes no more");
    assert!(matches!(&error, CallError::Refused(sentence) if sentence.contains("limit")), "{error:?}");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            server.serve_until(&stop, &mut |request: &mut Served<'_>, response: &mut ServedResponse| {
                response.body.extend_from_slice(request.body);
            })
        });
        let _stop = Stop(&stop);
        for (lane, calls) in lanes.iter_mut().zip([64, 1]) {
            for _ in 0..calls {
                let answer = lane.receive(Wait::For(PATIENCE)).expect("the sidecar is there").expect("in time");
                assert_eq!(answer.outcome.expect("an answer").body, b"x");
            }
        }
    });
}
