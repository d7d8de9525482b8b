//! What can be said, sent along or left unsaid on the session socket.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use shmesh_shm::geometry::PUBLISHED;
use shmesh_shm::handshake::{self, Lookup, MAX_DESCRIPTORS, Message, SILENCE_MS_MAX};
use shmesh_shm::{Protocol, doorbell};

use super::Scene;
use crate::app::{App, hello};
use crate::choices::Choices;
use crate::process::{PATIENCE, until};
use crate::sidecar::Driver;

on_each_driver!(
    descriptors_that_nobody_asked_for,
    hundreds_that_never_speak,
    hundreds_of_half_a_hello,
    two_thousand_hellos_that_are_none,
    lookups_whose_answers_nobody_reads,
    a_second_hello,
    a_name_that_looks_like_lines_of_the_log,
);

fn connect(scene: &Scene) -> UnixStream {
    let socket = UnixStream::connect(scene.sidecar.path("apps.sock")).expect("it accepts");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    socket
}

fn descriptors_that_nobody_asked_for(driver: Driver) {
    let mut scene = Scene::start(driver);
    let descriptors = scene.descriptors();
    let null: OwnedFd = std::fs::File::open("/dev/null").expect("it is there").into();
    let memfd = shmesh_shm::segment::create("none-of-yours", 4096).expect("a memfd");
    let bell = doorbell::worker_bell().expect("an eventfd");
    for many in [1, 3, 250, MAX_DESCRIPTORS] {
        let socket = connect(&scene);
        let own = socket.try_clone().expect("a descriptor");
        let kinds = [null.as_fd(), memfd.as_fd(), bell.as_fd(), own.as_fd()];
        let sent: Vec<BorrowedFd<'_>> = (0..many).map(|index| kinds[index % kinds.len()]).collect();
        // Some with half the HELLO, the same with the rest of it.
        let bytes = hello(1, None);
        let (half, rest) = bytes.split_at(20);
        handshake::send(socket.as_fd(), half, &sent).expect("it reads");
        handshake::send(socket.as_fd(), rest, &sent).expect("it reads");
        let app = App::welcomed(socket).expect("the HELLO is in order");
        let before = scene.sidecar.process.descriptors();
        let lookup = Lookup { id: 1, protocol: Protocol::Raw, key: b"service".to_vec() };
        let mut bytes = Vec::new();
        Message::Lookup(lookup).encode(&mut bytes).expect("a message");
        for _ in 0..20 {
            handshake::send(app.socket.as_fd(), &bytes, &sent).expect("it reads");
        }
        let mut answers = Vec::new();
        until("the look-ups are answered", || {
            let mut piece = [0; 4096];
            let len = (&app.socket).read(&mut piece).expect("answers");
            answers.extend_from_slice(&piece[..len]);
            let mut rest = &answers[..];
            let mut count = 0;
            while let Some((_, used)) = Message::decode(rest).expect("a message") {
                rest = &rest[used..];
                count += 1;
            }
            count == 20
        });
        assert!(scene.sidecar.process.descriptors() <= before, "{many} descriptors are kept");
        scene.others_are_served();
    }
    scene.nothing_is_left(descriptors);
}

fn hundreds_that_never_speak(driver: Driver) {
    let mut scene = Scene::start(driver);
    let descriptors = scene.descriptors();
    let began = Instant::now();
    let silent: Vec<UnixStream> = (0..300).map(|_| connect(&scene)).collect();
    scene.others_are_served();
    until("they are closed", || scene.sidecar.process.descriptors() <= descriptors + 8);
    let took = began.elapsed();
    assert!(took > Duration::from_millis(SILENCE_MS_MAX - 1_000), "closed after {took:?}, before they could speak");
    for mut socket in silent {
        assert_eq!(socket.read(&mut [0; 16]).unwrap_or(0), 0);
    }
    scene.nothing_is_left(descriptors);
}

fn hundreds_of_half_a_hello(driver: Driver) {
    let mut scene = Scene::start(driver);
    let descriptors = scene.descriptors();
    let whole = hello(200, Some("half"));
    let mut halves = Vec::new();
    for len in (1..whole.len()).cycle().take(200) {
        let mut socket = connect(&scene);
        // The one that has been silent longest makes room: it may be this one's turn already.
        let _ = socket.write_all(&whole[..len]);
        halves.push(socket);
    }
    scene.others_are_served();
    // Byte by byte is no way round the limit either.
    let mut slow = connect(&scene);
    let began = Instant::now();
    let mut left = whole.iter();
    until("the slow one is closed", || {
        if let Some(byte) = left.next() {
            let _ = slow.write_all(&[*byte]);
        }
        std::thread::sleep(Duration::from_millis(300));
        left.len() == 0 || slow.write_all(&[]).is_err() || began.elapsed() > Duration::from_secs(8)
    });
    slow.set_read_timeout(Some(PATIENCE)).expect("a socket");
    assert_eq!(slow.read(&mut [0; 16]).unwrap_or(0), 0, "it was let in");
    drop(halves);
    scene.nothing_is_left(descriptors);
}

fn two_thousand_hellos_that_are_none(driver: Driver) {
    let mut scene = Scene::start(driver);
    let descriptors = scene.descriptors();
    let path = scene.sidecar.path("apps.sock");
    let mut choices = Choices::Seeded(7);
    let (mut let_in, mut refused) = (0, 0);
    for _ in 0..2_000 {
        match greet(&path, &mut choices) {
            true => let_in += 1,
            false => refused += 1,
        }
    }
    // Some changes do not matter, most do.
    assert!(let_in > 50 && refused > 500, "{let_in} were let in, {refused} were not");
    scene.others_are_served();
    scene.nothing_is_left(descriptors);
}

/// Says a HELLO that was changed somewhere; whether it was let in.
fn greet(path: &Path, choices: &mut Choices) -> bool {
    let mut bytes = hello(choices.pick(&[0, 1, 3, u16::MAX]), choices.pick(&[None, Some("name"), Some("Ω")]));
    for _ in 0..choices.below(4) {
        let at = choices.below(bytes.len() as u64) as usize;
        match choices.below(4) {
            0 => bytes[at] ^= 1 << choices.below(8),
            1 => bytes[at] = choices.word() as u8,
            2 => bytes.truncate(at + 1),
            _ => bytes.insert(at, choices.word() as u8),
        }
    }
    let mut socket = UnixStream::connect(path).expect("it accepts");
    if socket.write_all(&bytes).is_err() {
        return false;
    }
    // One that waits for more gets its end now.
    socket.shutdown(std::net::Shutdown::Write).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut answer = Vec::new();
    let mut descriptors = Vec::new();
    loop {
        let mut piece = [0; 4096];
        match handshake::receive(socket.as_fd(), &mut piece, &mut descriptors) {
            Ok(0) => break,
            Ok(len) => answer.extend_from_slice(&piece[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("neither let in nor closed: {error}"),
        }
    }
    matches!(Message::decode(&answer).expect("the sidecar speaks in order"), Some((Message::Welcome(_), _)))
}

fn lookups_whose_answers_nobody_reads(driver: Driver) {
    let mut scene = Scene::start(driver);
    let descriptors = scene.descriptors();
    let resident = scene.sidecar.process.resident();
    let app = App::attach_patiently(&scene.sidecar.path("apps.sock"), 1, None);
    app.socket.set_write_timeout(Some(Duration::from_millis(500))).expect("a socket");
    let key = format!("GET / HTTP/1.1\r\nHost: service\r\nX: {}\r\n\r\n", "x".repeat(30_000)).into_bytes();
    let mut said = 0;
    for id in 0..20_000_u32 {
        let lookup = Lookup { id, protocol: Protocol::Http, key: key.clone() };
        let mut bytes = Vec::new();
        Message::Lookup(lookup).encode(&mut bytes).expect("a message");
        if (&app.socket).write_all(&bytes).is_err() {
            break;
        }
        said += 1;
    }
    // Either they are not answered any more, or the session has ended: nothing waits for this app.
    assert!(said > 100, "{said} look-ups");
    scene.others_are_served();
    let grown = scene.sidecar.process.resident().saturating_sub(resident);
    assert!(grown < 100 << 20, "the sidecar has grown by {grown} bytes");
    drop(app);
    scene.nothing_is_left(descriptors);
}

fn a_second_hello(driver: Driver) {
    let mut scene = Scene::start(driver);
    let descriptors = scene.descriptors();
    let app = App::attach_patiently(&scene.sidecar.path("apps.sock"), 1, Some("twice"));
    (&app.socket).write_all(&hello(1, Some("twice-more"))).expect("it reads");
    assert!(app.ends_within(PATIENCE));
    scene.others_are_served();
    drop(app);
    scene.nothing_is_left(descriptors);
}

fn a_name_that_looks_like_lines_of_the_log(driver: Driver) {
    let scene = Scene::start(driver);
    let app = App::attach_patiently(&scene.sidecar.path("apps.sock"), 1, Some("x\nFORGED \u{1b}[31mERROR all is lost"));
    // Whatever it is told about goes into the log: that it came, and what it broke.
    app.to_proxy.store_release(app.lanes[0].at + PUBLISHED, 1 << 40);
    app.ring(0);
    assert!(app.ends_within(PATIENCE));
    until("it is told", || scene.sidecar.log().contains("broke shm-v1"));
    let log = scene.sidecar.log();
    assert!(!log.lines().any(|line| line.starts_with("FORGED")), "a line of the log that an app wrote: {log}");
    assert!(!log.contains('\u{1b}'), "an app speaks to the terminal: {log:?}");
}
