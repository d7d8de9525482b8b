//! Being woken, being rung, ringing, and waiting.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use shmesh_io::{Bell, Event, Wait};

use crate::harness::{Family, Kind, Subject};

pub fn wakes_from_another_thread(kind: Kind, _: Family) {
    let mut subject = Subject::new(kind);
    // Before the poll.
    subject.waker().wake();
    subject.turn(Wait::Forever);
    assert!(matches!(subject.next(), Event::Woken));
    // During the poll, many times, each seen with what was written before it.
    let waker = subject.waker();
    let seen = Arc::new(AtomicU64::new(0));
    let told = Arc::new(AtomicU64::new(0));
    let thread = {
        let (seen, told) = (seen.clone(), told.clone());
        thread::spawn(move || {
            for i in 1..=500 {
                told.store(i, Ordering::Relaxed);
                waker.wake();
                while seen.load(Ordering::Relaxed) < i {
                    thread::yield_now();
                }
            }
        })
    };
    while seen.load(Ordering::Relaxed) < 500 {
        assert!(matches!(subject.next(), Event::Woken));
        seen.store(told.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    thread.join().unwrap();
    // Many wakes, one event or few.
    for _ in 0..1000 {
        subject.waker().wake();
    }
    let events = subject.listen_for(Duration::from_millis(5));
    assert!((1..=2).contains(&events.len()), "{}", events.len());
}

fn eventfd() -> (EventFd, OwnedFd) {
    let ours = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).unwrap();
    let theirs = std::os::fd::AsFd::as_fd(&ours).try_clone_to_owned().unwrap();
    (ours, theirs)
}

pub fn hears_every_ring_after_quiet(kind: Kind, _: Family) {
    let mut subject = Subject::new(kind);
    let (bell, watched) = eventfd();
    let (other, other_watched) = eventfd();
    subject.driver.watch(watched, 31).unwrap();
    subject.driver.watch(other_watched, 32).unwrap();
    subject.assert_quiet(Duration::from_millis(5));
    for round in 0..2000 {
        bell.write(1).unwrap();
        let Event::Rung { tag } = subject.next() else {
            panic!("rung in round {round}");
        };
        assert_eq!(tag, 31);
        // Let an event that nobody rang for come, so that the next one is ours.
        subject.turn(Wait::Now);
        subject.events.clear();
    }
    other.write(1).unwrap();
    let Event::Rung { tag } = subject.next() else {
        panic!("the other one was rung");
    };
    assert_eq!(tag, 32);
    // Rung without a pause by another thread: the last ring is never lost.
    let count = Arc::new(AtomicU64::new(0));
    let thread = {
        let count = count.clone();
        thread::spawn(move || {
            for i in 1..=20_000 {
                count.store(i, Ordering::Release);
                bell.write(1).unwrap();
            }
        })
    };
    let mut last = 0;
    while last < 20_000 {
        let Event::Rung { .. } = subject.next() else {
            panic!("only rings");
        };
        last = count.load(Ordering::Acquire);
    }
    thread.join().unwrap();
}

pub fn stops_watching_a_shared_descriptor(kind: Kind, _: Family) {
    let mut subject = Subject::new(kind);
    let (bell, watched) = eventfd();
    let id = subject.driver.watch(watched, 31).unwrap();
    subject.turn(Wait::Now);
    bell.write(1).unwrap();
    assert!(matches!(subject.next(), Event::Rung { tag: 31 }));
    subject.driver.close(id);
    // The app still has the other descriptor of the same eventfd.
    subject.turn(Wait::Now);
    bell.write(1).unwrap();
    subject.assert_quiet(Duration::from_millis(10));
    // Whoever comes next in its place hears only its own rings.
    let (next_bell, next_watched) = eventfd();
    subject.driver.watch(next_watched, 41).unwrap();
    bell.write(1).unwrap();
    subject.assert_quiet(Duration::from_millis(5));
    next_bell.write(1).unwrap();
    assert!(matches!(subject.next(), Event::Rung { tag: 41 }));
}

pub fn never_blocks_on_a_doorbell(kind: Kind, _: Family) {
    let mut subject = Subject::new(kind);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    // Whatever a peer does to a description that it shares.
    ours.set_nonblocking(false).unwrap();
    let bell = Bell::new(ours.into());
    let start = Instant::now();
    for i in 0..5000 {
        subject.ring(&bell);
        if i % 50 == 0 {
            subject.turn(Wait::Now);
        }
    }
    subject.assert_quiet(Duration::from_millis(5));
    assert!(start.elapsed() < Duration::from_secs(3));
    // It did ring, until it was full.
    theirs.set_nonblocking(true).unwrap();
    let mut rings = [0; 4096];
    let count = std::io::Read::read(&mut theirs, &mut rings).unwrap();
    assert!(count > 1, "{count}");
    assert!(rings[..count].iter().all(|byte| *byte == 1));
    // Nobody behind it any more.
    drop(theirs);
    for _ in 0..10 {
        subject.ring(&bell);
        subject.turn(Wait::Now);
    }
    subject.assert_quiet(Duration::from_millis(5));
}

pub fn rings_a_bell_that_is_dropped_at_once(kind: Kind, _: Family) {
    let mut subject = Subject::new(kind);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let bell = Bell::new(ours.into());
    subject.ring(&bell);
    drop(bell);
    // Likely to get the number of the bell, were it closed by now.
    let (innocent, mut victim) = UnixStream::pair().unwrap();
    subject.turn(Wait::Now);
    subject.turn(Wait::Now);
    theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut rings = Vec::new();
    std::io::Read::read_to_end(&mut theirs, &mut rings).unwrap();
    assert_eq!(rings, [1], "one ring, then the end: nothing keeps the bell");
    victim.set_nonblocking(true).unwrap();
    std::io::Read::read(&mut victim, &mut [0; 1]).unwrap_err();
    drop(innocent);
}

pub fn waits_as_long_as_told(kind: Kind, _: Family) {
    let mut subject = Subject::new(kind);
    subject.turn(Wait::Now);
    for wait_us in [0, 50, 700, 1_000, 20_300] {
        let start = subject.driver.refresh_clock();
        let until = start + wait_us * 1000;
        // An early return is allowed, a late one is what the machine makes of it.
        let mut turns = 0;
        while subject.driver.now() < until {
            subject.turn(Wait::Until(until));
            turns += 1;
        }
        let took = subject.driver.now() - start;
        assert!(took < wait_us * 1000 + 3_000_000_000, "{took} ns");
        assert!(turns <= 3, "{turns} turns: that is spinning");
        assert!(subject.events.is_empty());
    }
    let start = Instant::now();
    for _ in 0..100 {
        subject.turn(Wait::Now);
    }
    assert!(start.elapsed() < Duration::from_secs(1));
    // A time that has passed is now.
    subject.turn(Wait::Until(1));
    let random: Vec<u64> = (0..4).map(|_| subject.driver.random()).collect();
    assert!(random.windows(2).all(|pair| pair[0] != pair[1]));
}
