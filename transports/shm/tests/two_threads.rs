//! Both ends in threads of their own, over memfds and real doorbells: nothing is lost, reordered or leaked, and no
//! wake-up is missed.

mod pair;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pair::{SMALL, data, pattern, payload};
use shmesh_shm::{Dirty, DirtyWatch, Flags, LaneEnd, Mapping, NoRoom, Side, doorbell, segment};

const RECORDS: u64 = 60_000;

/// Lengths that go inline, into small blocks and into large ones, and fill the arena.
fn length(number: u64) -> usize {
    [0, 8, 64, 80, 81, 200, 700, 1024][(number % 8) as usize]
}

fn sleep_on(bell: &OwnedFd) {
    let mut fds = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
    let woken = poll(&mut fds, PollTimeout::from(5_000u16)).unwrap();
    assert!(woken > 0, "a wake-up was lost");
}

#[test]
fn every_record_is_echoed_and_every_sleep_ends() {
    let len = SMALL.segment_bytes(1);
    let memfds = [segment::create("to_proxy", len).unwrap(), segment::create("to_app", len).unwrap()];
    let worker_bell = doorbell::worker_bell().unwrap();
    let (ring_app, app_bell) = doorbell::lane_bell().unwrap();
    let theirs = segment::for_app(&memfds[1], 0).unwrap().memfd;

    let app_segments =
        [Arc::new(Mapping::read_write(&memfds[0], len).unwrap()), Arc::new(Mapping::read_only(&theirs, len).unwrap())];
    let sidecar_segments = [
        Arc::new(Mapping::read_only(&memfds[0], len).unwrap()),
        Arc::new(Mapping::read_write(&memfds[1], len).unwrap()),
    ];
    let bell = worker_bell.try_clone().unwrap();
    let app = thread::spawn(move || app(&app_segments, &bell, &app_bell));
    let sidecar = thread::spawn(move || sidecar(&sidecar_segments, &worker_bell, &ring_app));
    app.join().unwrap();
    sidecar.join().unwrap();
}

/// Sends all records, takes all echoes.
fn app([to_proxy, to_app]: &[Arc<Mapping>; 2], worker: &OwnedFd, bell: &OwnedFd) {
    let mut lane = LaneEnd::new(Side::App, to_proxy, to_app, &SMALL, 0);
    let dirty = Dirty::new(to_proxy, to_app);
    let (mut sent, mut got) = (0, 0);
    while got < RECORDS {
        while sent < RECORDS {
            let header = shmesh_shm::Header { flags: Flags::NONE.with_end(sent + 1 == RECORDS), ..data(sent + 1) };
            match lane.put(&header, &[&pattern(sent, length(sent))]) {
                Ok(()) => sent += 1,
                Err(NoRoom::TooLong) => unreachable!(),
                Err(NoRoom::Ring | NoRoom::Arena) => break,
            }
        }
        while let Some(header) = lane.peek().unwrap() {
            assert_eq!(header.generation, got + 1);
            assert_eq!(payload(&lane, header.length), pattern(got, length(got)));
            lane.advance();
            got += 1;
        }
        if lane.publish() {
            dirty.mark(0, 0);
            doorbell::ring_worker(worker).unwrap();
        }
        if got < RECORDS && lane.park(sent < RECORDS) {
            sleep_on(bell);
            assert!(doorbell::drain_lane(bell).unwrap());
            lane.unpark();
        }
    }
    assert_eq!(lane.unconsumed(), 0);
}

/// Echoes until the last record, woken as a worker is: by an eventfd and the dirty word.
fn sidecar([to_proxy, to_app]: &[Arc<Mapping>; 2], worker: &OwnedFd, app: &OwnedFd) {
    let mut lane = LaneEnd::new(Side::Sidecar, to_proxy, to_app, &SMALL, 0);
    let mut watch = DirtyWatch::new(to_proxy, to_app, 0);
    let mut last = false;
    while !last {
        let mut full = false;
        while let Some(header) = lane.peek().unwrap() {
            let bytes = payload(&lane, header.length);
            if lane.put(&header, &[&bytes]).is_err() {
                full = true;
                break;
            }
            lane.advance();
            last = header.flags.end();
        }
        if lane.publish() {
            doorbell::ring_lane(app).unwrap();
        }
        // Records that wait for room are not "work": only the peer's progress is worth waking for.
        let idle = if full { park_for_room(&mut lane) } else { lane.park(false) };
        if !last && idle {
            sleep_on(worker);
            let mut count = [0; 8];
            let _ = nix::unistd::read(worker, &mut count);
            assert_eq!(watch.take(), 1, "rung without a mark");
            lane.unpark();
        }
    }
    while lane.unconsumed() > 0 {
        thread::yield_now();
    }
    assert_eq!(lane.lent_blocks(), 0);
}

/// There is a record at hand, so `park` would not sleep; yield until the app made room.
fn park_for_room(lane: &mut LaneEnd) -> bool {
    let _ = lane.largest_part();
    thread::yield_now();
    false
}
