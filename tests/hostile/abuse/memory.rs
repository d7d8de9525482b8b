//! What an app can do to the memfds themselves.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::stat::{Mode, fchmod};
use shmesh_shm::Mapping;
use shmesh_shm::geometry::CONSUMED;

use super::Scene;
use crate::app::App;
use crate::entry::{ANSWER, CODE, END, Entry, FLAGS, HEAD_LEN, HTTP, KIND, NONE, OPEN, ROUTE};
use crate::process::PATIENCE;
use crate::role::{self, Actor};
use crate::sidecar::Driver;

on_each_driver!(
    the_seals_hold,
    holes_are_survived,
    another_uid_cannot_write_what_the_sidecar_writes,
    root_can_and_that_is_told,
);

/// Somebody without rights.
const NOBODY: u32 = 65_534;

fn the_seals_hold(driver: Driver) {
    let mut scene = Scene::start(driver);
    let descriptors = scene.descriptors();
    let app = App::attach_patiently(&scene.sidecar.path("apps.sock"), 2, None);
    for (index, memfd) in app.memfds.iter().enumerate() {
        let len = app.to_proxy.len() as i64;
        // Of `to_app` a descriptor to write with has to be made first, which only root and the sidecar's own uid can.
        let file = writable(memfd);
        for other in [0, 4096, len - 4096, len - 1, len + 1, 2 * len] {
            let refused = file.set_len(other as u64).expect_err("a sealed size");
            assert_eq!(refused.raw_os_error(), Some(Errno::EPERM as i32), "segment {index}, {other} bytes");
        }
        let grown = fallocate(&file, FallocateFlags::empty(), len, 4096);
        assert_eq!(grown, Err(Errno::EPERM), "segment {index}");
        let collapsed = fallocate(&file, FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, 0, 4096);
        assert!(collapsed.is_err(), "segment {index}");
        // More seals would keep the sidecar, or its successor, from mapping it.
        for seal in [SealFlag::F_SEAL_WRITE, SealFlag::from_bits_retain(0x10), SealFlag::F_SEAL_GROW] {
            assert_eq!(fcntl(&file, FcntlArg::F_ADD_SEALS(seal)), Err(Errno::EPERM), "segment {index}");
        }
        // A mode of no rights keeps nobody out who has a descriptor.
        let _ = fchmod(&file, Mode::empty());
    }
    scene.others_are_served();
    drop(app);
    scene.nothing_is_left(descriptors);
}

/// A descriptor to write with.
fn writable(memfd: &OwnedFd) -> File {
    let path = format!("/proc/self/fd/{}", memfd.as_raw_fd());
    let reopened = OpenOptions::new().read(true).write(true).open(path);
    reopened.unwrap_or_else(|_| memfd.try_clone().expect("a descriptor").into())
}

fn punch(file: &File, from: i64, len: i64) {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(file, flags, from, len).expect("holes can be made");
}

fn open(slot: u64, generation: u64, path: &str) -> (Entry, Vec<u8>) {
    let key = format!("POST {path} HTTP/1.1\r\nHost: service\r\n\r\n").into_bytes();
    let open = Entry::new(OPEN, slot, generation).with(CODE, HTTP).with(FLAGS, END).with(ROUTE, NONE);
    (open.with(HEAD_LEN, key.len() as u64), key)
}

fn holes_are_survived(driver: Driver) {
    let mut scene = Scene::start(driver);
    let descriptors = scene.descriptors();
    let mut app = App::attach_patiently(&scene.sidecar.path("apps.sock"), 1, None);
    let file = File::from(app.memfds[0].try_clone().expect("a descriptor"));
    let arena = (app.lanes[0].at + app.geometry.arena_at()) as i64;
    // The body goes while it is sent from where it lies: what arrives are zeroes, as many as were announced.
    for generation in 1..=60 {
        let (entry, key) = open(0, generation, "/");
        app.say(0, entry, &[key, vec![b'x'; 200_000]].concat());
        punch(&file, arena, i64::from(app.geometry.arena_bytes));
        let answer = loop {
            let taken = app.await_next(0, PATIENCE).expect("an answer");
            if taken.entry.get(KIND) == ANSWER {
                break taken;
            }
        };
        // The key may be gone as well: then it is malformed.
        assert!(matches!(answer.entry.get(CODE), 200 | 400), "{answer:?}");
        if generation % 16 == 0 {
            scene.others_are_served();
        }
    }
    // The counters as well: they are behind what they were.
    punch(&file, 0, app.to_proxy.len() as i64);
    app.ring(0);
    assert!(app.ends_within(PATIENCE), "a session whose counters went back goes on");
    assert_eq!(scene.offence().as_deref(), Some("published"));
    scene.others_are_served();
    drop((app, file));
    scene.nothing_is_left(descriptors);
}

fn another_uid_cannot_write_what_the_sidecar_writes(driver: Driver) {
    if !nix::unistd::getuid().is_root() {
        eprintln!("skipped: only root can be somebody else");
        return;
    }
    let mut scene = Scene::start(driver);
    let descriptors = scene.descriptors();
    let folder = scene.sidecar.path("");
    let mut actor = Actor::start_as(NOBODY, &folder, "reopens", &scene.sidecar.path("apps.sock"));
    actor.expect("attached");
    let isolated = |how: &str| scene.sidecar.metric(&format!("shmesh_sessions_by_isolation{{isolation=\"{how}\"}}"));
    assert_eq!((isolated("read-only"), isolated("none")), (1.0, 0.0));
    assert_eq!(scene.sidecar.json("/sessions")[0]["isolation"], true);
    assert!(scene.sidecar.log().contains("isolation=\"read-only\""));
    actor.cue();
    actor.expect("kept out");
    scene.others_are_served();
    actor.kill();
    scene.nothing_is_left(descriptors);
}

/// An actor without rights: attaches, tries, and is served like anybody.
pub fn reopen(socket: &Path) {
    assert!(!nix::unistd::getuid().is_root());
    let mut app = App::attach_patiently(socket, 1, None);
    role::say("attached");
    role::await_cue();
    let path = format!("/proc/self/fd/{}", app.memfds[1].as_raw_fd());
    for options in [OpenOptions::new().write(true), OpenOptions::new().read(true).write(true)] {
        let refused = options.open(&path).expect_err("no right to write");
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{refused}");
    }
    assert!(Mapping::read_write(&app.memfds[1], app.to_app.len()).is_err(), "mapped writable");
    let file = File::from(app.memfds[1].try_clone().expect("a descriptor"));
    assert!(file.write_at(b"x", 0).is_err() && file.set_len(0).is_err());
    assert!(fchmod(&file, Mode::S_IRWXU | Mode::S_IRWXO).is_err(), "it is not its owner");
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    assert!(fallocate(&file, flags, 0, 4096).is_err(), "holes in what it may not write");
    let (entry, key) = open(0, 1, "/");
    app.say(0, entry, &key);
    let answer = app.await_next(0, PATIENCE).expect("an answer");
    assert_eq!(answer.entry.get(CODE), 200, "{answer:?}");
    role::say("kept out");
    role::await_cue();
}

fn root_can_and_that_is_told(driver: Driver) {
    let mut scene = Scene::start(driver);
    let descriptors = scene.descriptors();
    let mut app = App::attach_patiently(&scene.sidecar.path("apps.sock"), 1, None);
    let isolated = |how: &str| scene.sidecar.metric(&format!("shmesh_sessions_by_isolation{{isolation=\"{how}\"}}"));
    assert_eq!((isolated("read-only"), isolated("none")), (0.0, 1.0));
    assert_eq!(scene.sidecar.json("/sessions")[0]["isolation"], false);
    assert!(scene.sidecar.log().contains("isolation=\"none\""));
    // It spoils everything that the sidecar has written: counters, records, states. The sidecar never looks there.
    let to_app = Mapping::read_write(writable(&app.memfds[1]), app.to_app.len()).expect("its own uid may");
    let control = app.lanes[0].at;
    for round in 1..=50 {
        let (entry, key) = open(0, round, "/");
        app.say(0, entry, &key);
        // But for what it has to know itself before it says the next.
        for word in (0..512).filter(|word| *word != CONSUMED / 8) {
            to_app.store(control + 8 * word, u64::MAX / round);
        }
        scene.sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
        if app.is_over() {
            break;
        }
    }
    scene.others_are_served();
    drop((app, to_app));
    std::thread::sleep(Duration::from_millis(10));
    scene.nothing_is_left(descriptors);
}
