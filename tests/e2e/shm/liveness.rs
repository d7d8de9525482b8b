//! How apps learn that the sidecar is dead, or hung: the liveness sockets and the thread that holds them, and signs of life.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use shmesh_client::{Call, CallError, Client, Protocol, Request, Target, Wait};

use super::death::learn;
use super::{before, client, expect_sessions, put};
use crate::process::{PATIENCE, until};
use crate::service::{Service, http, noise_service};
use crate::sidecar::{Driver, Sidecar};

on_each_driver!(
    the_sockets_are_held_by_a_thread_with_a_file_table_of_its_own,
    a_call_is_answered_elsewhere_at_once_although_a_lot_of_memory_is_shared,
    a_stopped_sidecar_is_left_and_forwards_nothing_when_it_wakes_up,
    a_call_that_takes_long_is_no_reason_to_leave,
    an_exchange_leaves_a_stopped_sidecar,
    a_stream_of_a_stopped_sidecar_is_reset,
    an_async_stream_of_a_stopped_sidecar_is_reset,
);

/// Lanes whose arenas are used: 4 MiB of each in both directions.
const LANES: u16 = 32;
/// Calls in flight on each of them, which do not share blocks.
const CALLS: usize = 15;
/// Bytes of each, so that they need what a lane has.
const BODY: usize = 240 << 10;

/// Descriptors in the file table of the sidecar's thread of this name.
fn descriptors_of(sidecar: &Sidecar, name: &str) -> usize {
    let tasks = format!("/proc/{}/task", sidecar.process.pid());
    let named = fs::read_dir(tasks).expect("it runs").filter_map(|task| {
        let path = task.ok()?.path();
        (fs::read_to_string(path.join("comm")).ok()?.trim() == name).then_some(path)
    });
    let threads: Vec<_> = named.collect();
    let [thread] = &threads[..] else { panic!("{} threads are called {name}", threads.len()) };
    fs::read_dir(thread.join("fd")).expect("it runs").count()
}

fn the_sockets_are_held_by_a_thread_with_a_file_table_of_its_own(driver: Driver) {
    let service = noise_service();
    let sidecar = before(driver, &service.endpoint);
    // The standard ones, and where it is told.
    assert_eq!(descriptors_of(&sidecar, "liveness"), 4, "{}", sidecar.log());
    let clients = [client(&sidecar), client(&sidecar)];
    until("it has one more for each session", || descriptors_of(&sidecar, "liveness") == 6);
    let [first, second] = clients;
    drop(first);
    expect_sessions(&sidecar, 1);
    until("one is closed with its session", || descriptors_of(&sidecar, "liveness") == 5);
    assert_eq!(second.call(put("service", b"still here")).expect("an answer").body, b"still here");
}

/// Moves bodies through so much memory of each lane that the kernel has a lot to take down.
fn touch_arenas(client: &Client) {
    let body = vec![b'x'; BODY];
    let mut lanes: Vec<_> = (0..LANES).map(|_| client.lane().expect("a lane")).collect();
    for lane in &mut lanes {
        let head = b"PUT /echo HTTP/1.1\r\nHost: service\r\n\r\n";
        for _ in 0..CALLS {
            let mut call = Call::new(Target::Key(Protocol::Http, head), &[]);
            let payload = [&body[..]];
            call.payload = &payload;
            lane.submit(&call).expect("it fits");
        }
        for _ in 0..CALLS {
            let answer = lane.receive(Wait::For(PATIENCE)).expect("the sidecar is there").expect("in time");
            assert_eq!(answer.outcome.expect("an answer").body.len(), BODY);
        }
    }
}

fn a_call_is_answered_elsewhere_at_once_although_a_lot_of_memory_is_shared(driver: Driver) {
    let service = noise_service();
    let mut sidecar = before(driver, &service.endpoint);
    let client = Client::builder()
        .hang_timeout(crate::process::PATIENCE)
        .socket(sidecar.path("apps.sock"))
        .lanes(LANES)
        .connect()
        .expect("it attaches");
    touch_arenas(&client);
    let shared = sidecar.process.resident();
    learn(&client, || put("service", b"hello"));
    let killed = Instant::now();
    sidecar.process.signal(Signal::SIGKILL);
    let response = client.call(put("service", b"elsewhere")).expect("an answer");
    let took = killed.elapsed();
    assert_eq!(response.body, b"elsewhere");
    // A bound for machines that are busy; docs/RELIABILITY.md has the distribution.
    assert!(took < PATIENCE, "{took:?}");
    eprintln!("{}: {} MB resident, {took:?} from the kill to an answer", driver.name(), shared >> 20);
    sidecar.process.wait();
}

/// Answers each call after `time`, and notes the body of each that came.
fn slow(time: Duration) -> (Service, Arc<Mutex<Vec<Vec<u8>>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let service = http(move |head, wire| {
        let mut body = Vec::new();
        wire.body(head, false, |piece| body.extend_from_slice(piece));
        let waits = body.starts_with(b"slow");
        noted.lock().expect("no panic").push(body);
        if waits {
            thread::sleep(time);
        }
        let _ = wire.try_send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    (service, seen)
}

/// Stops the sidecar: when this returns, none of its threads runs.
fn stop(sidecar: &Sidecar) {
    sidecar.process.signal(Signal::SIGSTOP);
    let tasks = format!("/proc/{}/task", sidecar.process.pid());
    let is_stopped = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    };
    until("all of its threads are stopped", || {
        fs::read_dir(&tasks).expect("it runs").all(|task| is_stopped(task.expect("an entry")))
    });
}

/// Leaves a sidecar that gives no sign of life within a second of being asked: enough for one that runs on a busy machine.
fn impatient(sidecar: &Sidecar) -> Client {
    let client = Client::builder().socket(sidecar.path("apps.sock")).hang_timeout(Duration::from_secs(2));
    client.connect().expect("it attaches")
}

fn post(body: &'static [u8]) -> Request<'static> {
    Request::http("POST", "service", "/echo").body(body)
}

fn a_stopped_sidecar_is_left_and_forwards_nothing_when_it_wakes_up(driver: Driver) {
    let (service, seen) = slow(Duration::from_secs(4));
    let times = |body: &[u8]| seen.lock().expect("no panic").iter().filter(|known| *known == body).count();
    let sidecar = before(driver, &service.endpoint);
    let client = impatient(&sidecar);
    learn(&client, || post(b"quick"));
    learn(&client, || put("service", b"quick"));
    let forwarded = ["PUT", "POST"].map(|method| {
        let client = client.clone();
        thread::spawn(move || client.call(Request::http(method, "service", "/echo").body(b"slow")))
    });
    until("both are being answered", || times(b"slow") == 2);
    let through = sidecar.requests("apps", "service", 200);
    stop(&sidecar);
    // A call that the sidecar never sees, and two that it forwarded.
    assert_eq!(client.call(post(b"round")).expect("an answer").body, b"ok");
    let [put_call, post_call] = forwarded.map(|call| call.join().expect("no panic"));
    assert_eq!(put_call.expect("an idempotent call is made again").body, b"ok");
    let error = post_call.expect_err("it may have run");
    assert!(matches!(error, CallError::MaybeExecuted(_)), "{error:?}");
    assert!(error.to_string().contains("no sign of life"), "{error}");

    sidecar.process.signal(Signal::SIGCONT);
    sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
    until("calls go through it again", || {
        assert_eq!(client.call(put("service", b"after")).expect("an answer").body, b"ok");
        sidecar.requests("apps", "service", 200) > through + 2.0
    });
    assert_eq!((times(b"round"), times(b"slow")), (1, 3), "nothing that was withdrawn ran");
}

fn a_call_that_takes_long_is_no_reason_to_leave(driver: Driver) {
    let (service, seen) = slow(Duration::from_secs(3));
    let sidecar = before(driver, &service.endpoint);
    // Asked for a sign of life twice.
    let client = impatient(&sidecar);
    assert_eq!(client.call(post(b"slow")).expect("an answer").body, b"ok");
    assert_eq!(sidecar.requests("apps", "service", 200), 1.0, "through the sidecar");
    assert_eq!(seen.lock().expect("no panic").len(), 1);
}

fn an_exchange_leaves_a_stopped_sidecar(driver: Driver) {
    let (service, seen) = slow(Duration::from_secs(4));
    let times = |body: &[u8]| seen.lock().expect("no panic").iter().filter(|known| *known == body).count();
    let sidecar = before(driver, &service.endpoint);
    let client = impatient(&sidecar);
    learn(&client, || put("service", b"quick"));
    learn(&client, || post(b"quick"));
    let begin = |method| {
        let request = Request::http(method, "service", "/echo");
        let mut exchange = client.exchange(&request, None).expect("the sidecar is there");
        exchange.write_all(b"slow").expect("it is taken");
        exchange.finish().expect("it is taken");
        exchange
    };
    let (mut put, mut post) = (begin("PUT"), begin("POST"));
    until("both are being answered", || times(b"slow") == 2);
    stop(&sidecar);
    let error = post.head().expect_err("it may have run");
    assert!(matches!(error, CallError::MaybeExecuted(_)), "{error:?}");
    assert_eq!(put.head().expect("an idempotent one is made again").0, 200);
    assert!(put.is_direct() && !post.is_direct());
    assert_eq!(times(b"slow"), 3);
    // Another one goes round at once.
    let mut another = client.exchange(&Request::http("POST", "service", "/echo"), None).expect("a way");
    another.finish().expect("it is taken");
    assert_eq!((another.head().expect("an answer").0, another.is_direct()), (200, true));
}

/// Sends back what comes.
fn echo() -> Service {
    Service::tcp(|mut wire| {
        let mut back = wire.twin();
        let _ = wire.each_piece(u64::MAX, |piece| drop(back.try_send(piece)));
    })
}

/// How many bytes are known to have been passed on.
fn acknowledged(error: &std::io::Error) -> u64 {
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error:?}");
    match error.get_ref().and_then(|inner| inner.downcast_ref::<CallError>()) {
        Some(CallError::StreamReset { acknowledged, sentence }) => {
            assert!(sentence.contains("no sign of life"), "{sentence}");
            *acknowledged
        }
        other => panic!("{other:?}"),
    }
}

/// Whoever reads, whoever writes until there is no room, and whoever expects nothing.
fn a_stream_of_a_stopped_sidecar_is_reset(driver: Driver) {
    let service = echo();
    let sidecar = before(driver, &service.endpoint);
    for stopped in 0..3 {
        // A session each, so that none learns of it from another.
        let client = impatient(&sidecar);
        let mut stream = client.stream(Protocol::Raw, Some("service")).expect("a stream");
        let mut reader = stream.try_clone().expect("another handle");
        let (reads, read) = std::sync::mpsc::channel();
        let resting = thread::spawn(move || {
            loop {
                match reader.read(&mut [0; 8]) {
                    Ok(len) => reads.send(len).expect("it is waited for"),
                    Err(error) => return error,
                }
            }
        });
        // In between it is at rest, long enough to be asked about.
        for pause in [0, 2200] {
            thread::sleep(Duration::from_millis(pause));
            stream.write_all(b"x").expect("it is taken");
            assert_eq!(read.recv_timeout(PATIENCE), Ok(1));
        }
        stop(&sidecar);
        let error = match stopped {
            0 => {
                stream.write_all(b"x").expect("it is taken");
                stream.read(&mut [0; 8]).expect_err("it hangs")
            }
            1 => loop {
                if let Err(error) = stream.write_all(&[7; 10_000]) {
                    break error;
                }
            },
            _ => resting.join().expect("no panic"),
        };
        assert!(acknowledged(&error) <= 2);
        sidecar.process.signal(Signal::SIGCONT);
        drop(stream);
        sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
    }
}

fn an_async_stream_of_a_stopped_sidecar_is_reset(driver: Driver) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let service = echo();
    let sidecar = before(driver, &service.endpoint);
    // The runtime has no clock of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    for writes in [true, false] {
        let client = impatient(&sidecar);
        runtime.block_on(async {
            let mut stream = client.async_stream(Protocol::Raw, Some("service")).expect("a stream");
            for len in [1, 1000, 100_000] {
                let sent = vec![b'x'; len];
                stream.write_all(&sent).await.expect("it is taken");
                let mut back = vec![0; len];
                stream.read_exact(&mut back).await.expect("it comes back");
                assert!(back == sent);
            }
            let (mut reader, mut writer) = tokio::io::split(stream);
            let resting = tokio::spawn(async move { reader.read(&mut [0; 8]).await.expect_err("it hangs") });
            tokio::task::yield_now().await;
            stop(&sidecar);
            if writes {
                let error = loop {
                    if let Err(error) = writer.write_all(&[7; 10_000]).await {
                        break error;
                    }
                };
                acknowledged(&error);
            }
            acknowledged(&resting.await.expect("no panic"));
        });
        sidecar.process.signal(Signal::SIGCONT);
        sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
    }
}
