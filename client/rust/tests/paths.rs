//! Which way a call takes when the sidecar is gone, and by which rules.

mod fake;
mod service;

use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use fake::{FakeSidecar, Settings};
use service::Service;
use shmesh_client::{CallError, Client, DubboKey, Ran, Request};
use shmesh_shm::DirectShares;
use shmesh_shm::handshake::{Policy, Refused, RefusedCode};
use tempfile::TempDir;

/// Generous: what is bounded by less than this did not wait for ever.
const SOON: Duration = Duration::from_secs(20);
/// Longer than anything takes that is not stuck, also on a machine that stands still for a while.
const PATIENCE: Duration = Duration::from_secs(300);
/// A good while longer than the listeners of a sidecar that died are left alone.
const SETTLED: Duration = Duration::from_millis(600);

/// A client whose sidecar said this of `reviews`, and died.
fn after(policy: Policy) -> (TempDir, Client) {
    after_calls(policy, &[])
}

/// A client that made these calls through its sidecar, which said this of each, and died.
fn after_calls(policy: Policy, calls: &[&Request<'static>]) -> (TempDir, Client) {
    let dir = tempfile::tempdir().unwrap();
    let (sidecar, client) = beside(&dir.path().join("s"), policy);
    for &call in calls {
        client.call(call.clone()).unwrap();
    }
    sidecar.wait_for_lookups(1 + calls.len() as u64);
    sidecar.kill();
    // The client notices with this call, which nobody knows a way for.
    client.call(Request::raw("nobody", b"")).unwrap_err();
    (dir, client)
}

fn beside(socket: &Path, policy: Policy) -> (FakeSidecar, Client) {
    let sidecar = FakeSidecar::start(socket, Settings { policy: Some(policy), ..Settings::default() });
    let client = Client::builder().socket(sidecar.path()).lanes(1).connect().unwrap();
    assert_eq!(client.call(get("/learn")).unwrap().status, 200);
    sidecar.wait_for_lookups(1);
    (sidecar, client)
}

fn to(endpoints: &[&Service]) -> Policy {
    Policy { endpoints: endpoints.iter().map(|service| service.address.clone()).collect(), ..Policy::default() }
}

fn get(path: &str) -> Request<'static> {
    Request::http("GET", "reviews", path)
}

fn post(path: &str) -> Request<'static> {
    Request::http("POST", "reviews", path).body(b"body")
}

/// Nobody listens there.
const NOWHERE: &str = "tcp:127.0.0.1:1";

#[test]
fn the_central_proxy_comes_before_the_endpoints_and_the_listener_before_both() {
    let dir = tempfile::tempdir().unwrap();
    let (listener, central, direct) = (Service::unix(&dir.path().join("l")), Service::tcp(), Service::tcp());
    let policy = Policy {
        listeners: vec![listener.address.clone()],
        central_proxy: Some(central.address.clone()),
        ..to(&[&direct])
    };
    let (_dir, client) = after(policy);
    let seen = || (listener.requests(), central.requests(), direct.requests());
    std::thread::sleep(SETTLED);
    assert_eq!((client.call(post("/b")).unwrap().status, seen()), (202, (1, 0, 0)));
    // What nobody asked about goes to proxies, which know the way, and not to endpoints.
    assert_eq!(client.call(Request::http("GET", "elsewhere", "/")).unwrap().status, 202);
    assert_eq!(seen(), (2, 0, 0));
}

#[test]
fn the_listener_of_a_sidecar_that_has_just_died_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (listener, central) = (Service::unix(&dir.path().join("l")), Service::tcp());
    let policy = Policy {
        listeners: vec![listener.address.clone()],
        central_proxy: Some(central.address.clone()),
        ..Policy::default()
    };
    let (sidecar, client) = beside(&dir.path().join("s"), policy);
    sidecar.kill();
    // Long enough that the end of the session is noticed before a call is made.
    std::thread::sleep(Duration::from_millis(50));
    let began = Instant::now();
    assert_eq!(client.call(post("/a")).unwrap().status, 202);
    // On a machine that stood still meanwhile it need not be so.
    if began.elapsed() < Duration::from_millis(200) {
        assert_eq!((listener.requests(), central.requests()), (0, 1));
    }
}

/// Calls that go round a sidecar that is there go by what it says, not by what the one before said.
#[test]
fn while_the_switch_is_on_the_sidecar_is_asked_where_calls_go() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Service::tcp(), Service::tcp());
    let (sidecar, client) = beside(&dir.path().join("s"), to(&[&old]));
    sidecar.kill();
    let settings = Settings { policy: Some(to(&[&new])), direct: Some(DirectShares::all(1000)), ..Settings::default() };
    let sidecar = FakeSidecar::start(&dir.path().join("s"), settings);
    let until = Instant::now() + PATIENCE;
    while new.requests() == 0 {
        assert_eq!(client.call(get("/learn")).unwrap().status, 202, "never through it");
        assert!(Instant::now() < until, "calls still go where the one before said");
    }
    let before = old.requests();
    for _ in 0..20 {
        assert_eq!(client.call(get("/learn")).unwrap().status, 202);
    }
    assert_eq!(old.requests(), before);
    assert_eq!(sidecar.counts.opens.load(SeqCst), 0);
}

/// What the sidecar has no room for did not run. It is made elsewhere, and not by a listener of the same sidecar; the next one goes
/// through it again.
#[test]
fn a_call_that_the_sidecar_has_no_room_for_goes_round_it() {
    let dir = tempfile::tempdir().unwrap();
    let (listener, direct) = (Service::unix(&dir.path().join("l")), Service::tcp());
    let policy = Policy { listeners: vec![listener.address.clone()], ..to(&[&direct]) };
    let (_sidecar, client) = beside(&dir.path().join("s"), policy);
    const OVERLOADED: &str = "/turn-down/7";
    // Where it goes is asked with the first one, which may be through before that is answered.
    let _ = (client.call(post(OVERLOADED)), client.call(get("/reset/7")));
    let until = Instant::now() + PATIENCE;
    while !client.knows_way_round(&post(OVERLOADED)) || !client.knows_way_round(&get("/reset/7")) {
        assert_eq!(client.call(get("/learn")).unwrap().status, 200);
        assert!(Instant::now() < until, "the look-up is not answered");
    }
    let before = direct.requests();
    let sent = || direct.requests() - before;
    for count in 1..=3 {
        assert_eq!((client.call(post(OVERLOADED)).unwrap().status, sent()), (202, 2 * count - 1));
        let mut exchange = client.exchange(&post(OVERLOADED), None).unwrap();
        exchange.finish().unwrap();
        assert_eq!((exchange.head().unwrap().0, exchange.is_direct(), sent()), (202, true, 2 * count));
        assert_eq!(client.call(post("/")).unwrap().status, 200, "through it");
    }
    // What was forwarded may have run: then there was no room for another attempt.
    assert_eq!((client.call(get("/reset/7")).unwrap().status, sent()), (202, 7));
    let error = client.call(post("/reset/7")).unwrap_err();
    assert!(matches!(error, CallError::Overloaded { ran: Ran::Maybe, .. }), "{error:?}");
    // Other refusals are those of the service, or of the routes.
    let error = client.call(get("/turn-down/3")).unwrap_err();
    assert!(matches!(error, CallError::Refused(_)), "{error:?}");
    // Nobody knows another way.
    let alone = Client::builder().socket(dir.path().join("s")).lanes(1).fallback(false).connect().unwrap();
    let error = alone.call(post(OVERLOADED)).unwrap_err();
    assert!(matches!(error, CallError::Overloaded { ran: Ran::No, .. }), "{error:?}");
    assert_eq!((listener.requests(), sent()), (0, 7));
}

/// It may be the app that serves that had no room for raw bytes: its own socket leads to the same one.
#[test]
fn what_may_have_run_does_not_go_past_the_sidecar_to_the_same_app() {
    let dir = tempfile::tempdir().unwrap();
    let app = UnixListener::bind(dir.path().join("app")).unwrap();
    let policy = Policy { app_sockets: vec![format!("unix:{}", dir.path().join("app").display())], ..to(&[]) };
    let (_sidecar, client) = beside(&dir.path().join("s"), policy);
    let request = || Request::raw("bytes", b"GET /reset/7").idempotent(true);
    let _ = client.call(request());
    let until = Instant::now() + PATIENCE;
    while !client.knows_way_round(&request()) {
        assert_eq!(client.call(get("/learn")).unwrap().status, 200);
        assert!(Instant::now() < until, "the look-up is not answered");
    }
    let error = client.call(request()).unwrap_err();
    assert!(matches!(error, CallError::Overloaded { ran: Ran::Maybe, .. }), "{error:?}");
    app.set_nonblocking(true).unwrap();
    assert!(app.accept().is_err(), "nobody is there");
}

/// Where others of its authority go, or what the authority looks like, is a guess for when nobody can be asked.
#[test]
fn a_call_that_the_sidecar_has_no_room_for_and_said_nothing_of_goes_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::tcp();
    let policy = Policy { central_proxy: Some(service.address.clone()), ..to(&[&service]) };
    let settings = Settings { policy: Some(policy), lookups_max: Some(1), ..Settings::default() };
    let sidecar = FakeSidecar::start(&dir.path().join("s"), settings);
    let client = Client::builder().hang_timeout(SOON).socket(sidecar.path()).lanes(1).connect().unwrap();
    let until = Instant::now() + PATIENCE;
    while !client.knows_way_round(&get("/learn")) {
        assert_eq!(client.call(get("/learn")).unwrap().status, 200);
        assert!(Instant::now() < until, "the look-up is not answered");
    }
    let overloaded = |error: CallError| matches!(error, CallError::Overloaded { ran: Ran::No, .. });
    let authority = service.address.strip_prefix("tcp:").unwrap();
    for authority in ["reviews", authority, "elsewhere"] {
        let request = Request::http("POST", authority, "/turn-down/7").body(b"body");
        assert!(overloaded(client.call(request.clone()).unwrap_err()), "{authority}");
        let mut exchange = client.exchange(&request, None).unwrap();
        exchange.finish().unwrap();
        assert!(overloaded(exchange.head().unwrap_err()), "{authority}");
    }
    assert_eq!(service.requests(), 0);
    // Once it is gone, guesses are all that there is.
    sidecar.kill();
    client.call(Request::raw("nobody", b"")).unwrap_err();
    assert_eq!((client.call(post("/turn-down/7")).unwrap().status, service.requests()), (202, 1));
}

#[test]
fn paths_that_refuse_lead_on_and_come_last_for_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let dead = dir.path().join("dead");
    drop(UnixListener::bind(&dead).unwrap());
    let direct = Service::tcp();
    let policy = Policy {
        listeners: vec![format!("unix:{}", dead.display()), "unix:/nonexistent/socket".into()],
        central_proxy: Some(NOWHERE.into()),
        ..to(&[&direct])
    };
    let (_dir, client) = after(policy);
    std::thread::sleep(SETTLED);
    for count in 1..20 {
        assert_eq!((client.call(post("/")).unwrap().status, direct.requests()), (202, count));
    }
}

#[test]
fn a_sidecar_that_refuses_sessions_takes_calls_over_its_listener() {
    let dir = tempfile::tempdir().unwrap();
    let (listener, direct) = (Service::unix(&dir.path().join("l")), Service::tcp());
    let policy = Policy { listeners: vec![listener.address.clone()], ..to(&[&direct]) };
    let socket = dir.path().join("s");
    let (sidecar, client) = beside(&socket, policy);
    sidecar.kill();
    let _other = refusing(&socket, RefusedCode::Identity);
    // The first attempt to attach may still be the one before, which is not repeated at once.
    let until = Instant::now() + SOON;
    while listener.requests() == 0 {
        assert_eq!(client.call(post("/")).unwrap().status, 202);
        assert!(Instant::now() < until, "it never went there");
    }
}

/// It would have none for what comes over its listener either.
#[test]
fn a_sidecar_that_has_no_room_for_sessions_gets_no_calls_over_its_listener() {
    let dir = tempfile::tempdir().unwrap();
    let (listener, direct) = (Service::unix(&dir.path().join("l")), Service::tcp());
    let policy = Policy { listeners: vec![listener.address.clone()], ..to(&[&direct]) };
    let (there, full, socket) = (dir.path().join("there"), dir.path().join("full"), dir.path().join("s"));
    let sidecar = FakeSidecar::start(&there, Settings { policy: Some(policy), ..Settings::default() });
    symlink(&there, &socket).unwrap();
    let client = Client::builder().socket(&socket).lanes(1).connect().unwrap();
    assert_eq!(client.call(get("/learn")).unwrap().status, 200);
    sidecar.wait_for_lookups(1);
    // At no time is nobody there.
    let full = refusing(&full, RefusedCode::Limit);
    let next = dir.path().join("next");
    symlink(full.path(), &next).unwrap();
    std::fs::rename(&next, &socket).unwrap();
    sidecar.kill();
    let until = Instant::now() + PATIENCE;
    // With the second one the app knows of the first.
    while full.counts.refused.load(SeqCst) < 2 {
        assert_eq!(client.call(post("/")).unwrap().status, 202);
        assert!(Instant::now() < until, "it never tried to attach");
    }
    let before = direct.requests();
    for _ in 0..20 {
        assert_eq!(client.call(post("/")).unwrap().status, 202);
    }
    assert_eq!((listener.requests(), direct.requests()), (0, before + 20));
}

fn refusing(socket: &Path, code: RefusedCode) -> FakeSidecar {
    let refuse = Some(Refused { code: code as u16, version_min: 1, version_max: 1, sentence: "no".into() });
    FakeSidecar::start(socket, Settings { refuse, ..Settings::default() })
}

#[test]
fn a_listener_that_ends_without_an_answer_may_have_run_the_call() {
    let dir = tempfile::tempdir().unwrap();
    let (listener, direct) = (Service::unix(&dir.path().join("l")), Service::tcp());
    let policy = Policy { listeners: vec![listener.address.clone()], ..to(&[&direct]) };
    let (_dir, client) = after(policy);
    std::thread::sleep(SETTLED);
    let error = client.call(post("/break")).unwrap_err();
    assert!(matches!(error, CallError::MaybeExecuted(_)), "{error:?}");
    assert_eq!((listener.requests(), direct.requests()), (1, 0));
    std::thread::sleep(SETTLED);
    let response = client.call(get("/leave").timeout(SOON)).unwrap();
    assert_eq!((response.status, listener.requests()), (202, 2));
    std::thread::sleep(SETTLED);
    // Idempotent: the next path gets it, and breaks it, too.
    let error = client.call(get("/break")).unwrap_err();
    assert!(matches!(error, CallError::Direct { ran: Ran::Maybe, .. }), "{error:?}");
    assert_eq!(listener.requests(), 3);
    assert!(direct.requests() >= 1);
}

#[test]
fn endpoints_take_turns_and_their_connections_are_kept() {
    let (one, other) = (Service::tcp(), Service::tcp());
    let (_dir, client) = after(to(&[&one, &other]));
    for _ in 0..20 {
        // Whether a connection is still good for a call is a matter of time, unless the call may be made twice.
        assert_eq!(client.call(get("/").body(b"x")).unwrap().status, 202);
    }
    assert_eq!((one.requests(), other.requests()), (10, 10));
    assert!(one.connections() <= 3 && other.connections() <= 3, "{} {}", one.connections(), other.connections());
}

#[test]
fn a_connection_that_its_server_left_is_no_failure() {
    let service = Service::tcp();
    let (_dir, client) = after(to(&[&service]));
    for count in 1..=20 {
        assert_eq!(client.call(get("/leave")).unwrap().status, 202);
        assert_eq!(service.requests(), count, "each ran once");
    }
}

#[test]
fn a_request_is_sent_as_often_as_the_policy_allows() {
    let service = Service::tcp();
    let policy = |attempts| Policy {
        attempts: Some(attempts),
        endpoints: vec![service.address.clone(); 5],
        ..Policy::default()
    };
    for attempts in [1, 3] {
        let (_dir, client) = after(policy(attempts));
        let before = service.requests();
        let error = client.call(get("/break")).unwrap_err();
        assert!(matches!(error, CallError::Direct { ran: Ran::Maybe, .. }), "{error:?}");
        assert_eq!(service.requests() - before, u64::from(attempts));
    }
}

#[test]
fn whether_a_call_is_made_again_the_caller_says_then_the_policy_then_the_method() {
    let direct = Service::tcp();
    for (of_policy, request, tries) in [
        (None, post("/break"), 1),
        (None, get("/break"), 2),
        (Some(true), post("/break"), 2),
        (Some(false), get("/break"), 1),
        (Some(true), post("/break").idempotent(false), 1),
        (Some(false), post("/break").idempotent(true), 2),
    ] {
        let policy = Policy { idempotent: of_policy, ..to(&[&direct, &direct]) };
        let (_dir, client) = after_calls(policy, &[&request]);
        let before = direct.requests();
        let error = client.call(request.clone()).unwrap_err();
        assert!(matches!(error, CallError::Direct { ran: Ran::Maybe, .. }), "{error:?}");
        assert_eq!(direct.requests() - before, tries, "{of_policy:?} {request:?}");
    }
}

/// Where others of the same authority go is a guess; that they may run twice says nothing of this one.
#[test]
fn a_call_that_the_sidecar_said_nothing_of_is_made_again_by_its_method() {
    let direct = Service::tcp();
    for (of_policy, request, tries) in [(true, post("/break"), 1), (true, get("/break"), 2), (false, get("/break"), 1)]
    {
        let (_dir, client) = after(Policy { idempotent: Some(of_policy), ..to(&[&direct, &direct]) });
        let before = direct.requests();
        client.call(request.clone()).unwrap_err();
        assert_eq!(direct.requests() - before, tries, "{of_policy} {request:?}");
    }
}

#[test]
fn the_policy_says_of_a_call_that_the_sidecar_took_along_whether_it_is_made_again() {
    let direct = Service::tcp();
    for (idempotent, request) in [(true, post("/die")), (false, get("/die"))] {
        let dir = tempfile::tempdir().unwrap();
        let policy = Policy { idempotent: Some(idempotent), ..to(&[&direct]) };
        let (_sidecar, client) = beside(&dir.path().join("s"), policy);
        match client.call(request) {
            Ok(response) => assert_eq!((response.status, idempotent), (202, true)),
            Err(error) => assert!(matches!(error, CallError::MaybeExecuted(_)) && !idempotent, "{error:?}"),
        }
    }
    assert_eq!(direct.requests(), 1);
}

#[test]
fn timeouts_of_the_policy_and_of_the_call_hold() {
    let service = Service::tcp();
    let before = service.requests();
    // Whoever does not get his turn in so short a time has sent nothing.
    let mut sent = [false; 3];
    for short in [100, 500, 2_500].map(Duration::from_millis) {
        let of_first_byte = Policy { first_byte_timeout: Some(short), ..to(&[&service]) };
        let of_call = Policy { request_timeout: Some(short), ..to(&[&service]) };
        let cases = [
            (of_first_byte, get("/silent")),
            (of_call, get("/silent")),
            (to(&[&service]), get("/silent").timeout(short)),
        ];
        for ((policy, request), sent) in cases.into_iter().zip(&mut sent).filter(|(_, sent)| !**sent) {
            let (_dir, client) = after(policy);
            let began = Instant::now();
            let error = client.call(request).unwrap_err();
            assert!(began.elapsed() >= short * 9 / 10 && began.elapsed() < SOON);
            let CallError::Timeout { ran, .. } = error else { panic!("{error:?}") };
            *sent = ran == Ran::Maybe;
        }
    }
    assert_eq!(sent, [true; 3]);
    assert!(service.requests() - before <= 3 * 3, "what took too long is not made again");
}

/// A provider that says everything but the answer.
#[test]
fn heartbeats_do_not_stretch_the_time_for_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("provider");
    let listener = UnixListener::bind(&path).unwrap();
    let heartbeat = b"\xda\xbb\xe2\x00\0\0\0\0\0\0\0\x01\0\0\0\x01N";
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            while stream.write_all(heartbeat).is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    });
    let endpoints = vec![format!("unix:{}", path.display())];
    let policy = Policy { endpoints, first_byte_timeout: Some(Duration::from_millis(300)), ..Policy::default() };
    let key = DubboKey { service: "s", method: "m", group: None, version: None, tag: None };
    let frame = b"\xda\xbb\xc2\x00\0\0\0\0\0\0\0\x07\0\0\0\x03abc";
    let (_dir, client) = after_calls(policy, &[&Request::dubbo(key, frame)]);
    let began = Instant::now();
    let error = client.call(Request::dubbo(key, frame)).unwrap_err();
    assert!(matches!(error, CallError::Timeout { ran: Ran::Maybe, .. }), "{error:?}");
    assert!(began.elapsed() < SOON);
}

/// The connection that was kept takes the request and ends, and there is nobody any more who would take it again.
#[test]
fn a_second_attempt_that_is_refused_says_what_became_of_the_first() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        drop(listener);
        let request = |stream: &mut std::net::TcpStream| {
            let mut bytes = Vec::new();
            while !bytes.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                bytes.push(byte[0]);
            }
        };
        request(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        request(&mut stream);
    });
    let (_dir, client) = after(Policy { endpoints: vec![address], ..Policy::default() });
    assert_eq!(client.call(get("/")).unwrap().status, 200);
    let error = client.call(get("/")).unwrap_err();
    assert!(matches!(error, CallError::Direct { ran: Ran::Maybe, .. }), "{error:?}");
    server.join().unwrap();
}

#[test]
fn http_of_which_nothing_is_known_goes_to_its_authority() {
    let service = Service::tcp();
    let (_dir, client) = after(Policy::default());
    let authority = service.address.strip_prefix("tcp:").unwrap();
    assert_eq!(client.call(Request::http("POST", authority, "/")).unwrap().status, 202);
    let error = client.call(Request::http("GET", "elsewhere", "/")).unwrap_err();
    assert!(matches!(error, CallError::SidecarGone(_) | CallError::Connect(_)), "{error:?}");
    // The sidecar said that there is no way.
    let error = client.call(get("/learn")).unwrap_err();
    assert!(matches!(error, CallError::SidecarGone(_) | CallError::Connect(_)), "{error:?}");
}

#[test]
fn what_was_learned_outlives_the_app() {
    let service = Service::tcp();
    let dir = tempfile::tempdir().unwrap();
    let (file, socket) = (dir.path().join("app.policy"), dir.path().join("s"));
    let client = || Client::builder().socket(&socket).policy_file(&file).connect().unwrap();
    let sidecar = FakeSidecar::start(&socket, Settings { policy: Some(to(&[&service])), ..Settings::default() });
    let first = client();
    first.call(get("/learn")).unwrap();
    sidecar.wait_for_lookups(1);
    sidecar.kill();
    assert_eq!(first.call(get("/learn")).unwrap().status, 202);
    drop(first);

    // Another life of the app, whose sidecar dies before it was asked anything.
    let sidecar = FakeSidecar::start(&socket, Settings::default());
    let second = client();
    sidecar.kill();
    assert_eq!(second.call(post("/learn")).unwrap().status, 202);
    // Broken, it says nothing, and is in nobody's way.
    drop(second);
    std::fs::write(&file, b"shmpol1\nnonsense").unwrap();
    let sidecar = FakeSidecar::start(&socket, Settings::default());
    let third = client();
    sidecar.kill();
    third.call(post("/learn")).unwrap_err();
}
