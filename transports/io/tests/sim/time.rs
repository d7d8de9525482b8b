//! Virtual time, and what a driver does while it waits.

use std::cell::{Cell, RefCell};
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use shmesh_io::sim::{LOOK_EVERY, Link, Pause};
use shmesh_io::{Bell, Driver, Event, Wait, World};

use super::{SECOND, bytes, connected, driver, next, pass, read_all, tcp};

#[test]
fn a_way_takes_as_long_as_its_link_says() {
    let world = World::new(1);
    world.set_tcp(Link { latency: (700, 700), ..Link::tcp() });
    let mut server = driver(&world, "server");
    let mut client = driver(&world, "client");
    server.listen(world.listener(&tcp(80)).unwrap(), 1).unwrap();
    let start = world.now();
    let sock = client.connect(&tcp(80), 2).unwrap();
    assert_eq!(world.next_event_at(), Some(start + 700));
    let Some(Event::Accepted { sock: accepted, .. }) = next(&mut server) else {
        panic!("it connects");
    };
    assert_eq!(server.now(), start + 700);
    assert!(matches!(next(&mut client), Some(Event::Connected { tag: 2, result: Ok(()), .. })));
    assert_eq!(client.now(), start + 1400);
    server.start_recv(accepted);
    client.send(sock, bytes(b"hello"));
    assert!(matches!(next(&mut client), Some(Event::Sent { result: Ok(5), .. })));
    assert_eq!(client.now(), start + 1400, "a send completes when it is taken");
    let Some(Event::Received { data, .. }) = next(&mut server) else {
        panic!("it arrives");
    };
    assert_eq!((data.as_slice(), server.now()), (&b"hello"[..], start + 2100));
}

#[test]
fn segments_never_overtake_each_other() {
    let world = World::new(2);
    world.set_tcp(Link { latency: (1, 1_000_000), segment_max: 3, cut_ppm: 500_000, ..Link::tcp() });
    let (mut server, sock, peer) = connected(&world, &tcp(80));
    let text: Vec<u8> = (0..=255).cycle().take(20_000).collect();
    server.send(sock, bytes(&text));
    server.shutdown_write(sock);
    pass(&world, SECOND);
    assert_eq!(read_all(&peer).0, text);
}

#[test]
fn time_stands_still_until_somebody_moves_it() {
    let world = World::new(3);
    let mut one = driver(&world, "one");
    let start = one.refresh_clock();
    assert_eq!(start, World::EPOCH);
    for _ in 0..1000 {
        one.poll(Wait::Now, &mut Vec::new()).unwrap();
    }
    assert_eq!(one.refresh_clock(), start);
    world.set_tick(25);
    assert_eq!(one.refresh_clock(), start + 25);
    assert_eq!(one.refresh_clock(), start + 50);
    // What a driver knows is as old as its last look.
    world.advance_to(start + 5000);
    assert_eq!(one.now(), start + 50);
    one.poll(Wait::Now, &mut Vec::new()).unwrap();
    assert_eq!(one.now(), start + 5000);
    world.advance_to(start);
    assert_eq!(world.now(), start + 5000);
}

#[test]
fn a_blocker_hears_who_waits_for_what_and_until_when() {
    let world = World::new(4);
    let heard = Rc::new(RefCell::new(Vec::new()));
    let list = heard.clone();
    world.set_blocker(Rc::new(move |pause: &Pause<'_>| {
        list.borrow_mut().push((pause.node.name().to_owned(), pause.until, pause.fds.len()));
        pause.world.advance_to(pause.world.now() + 10);
    }));
    let mut one = driver(&world, "one");
    let eventfd = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
    one.watch(eventfd.into(), 1).unwrap();
    let start = world.now();
    one.poll(Wait::Forever, &mut Vec::new()).unwrap();
    one.poll(Wait::Until(start + 10_000), &mut Vec::new()).unwrap();
    // Neither of these waits.
    one.poll(Wait::Until(start + 20), &mut Vec::new()).unwrap();
    one.poll(Wait::Now, &mut Vec::new()).unwrap();
    let wanted = [("one".to_owned(), None, 2), ("one".to_owned(), Some(start + 10_000), 2)];
    assert_eq!(*heard.borrow(), wanted);
    assert_eq!(one.now(), start + 20);
}

#[test]
fn a_bell_rung_by_another_process_ends_the_wait() {
    let world = World::new(5);
    let ours = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
    let theirs = std::os::fd::AsFd::as_fd(&ours).try_clone_to_owned().unwrap();
    let rings = Rc::new(Cell::new(0));
    let count = rings.clone();
    // Another process runs while this one waits.
    world.set_blocker(Rc::new(move |_: &Pause<'_>| {
        count.set(count.get() + 1);
        ours.write(1).unwrap();
        ours.write(1).unwrap();
    }));
    let mut one = driver(&world, "one");
    one.watch(theirs, 9).unwrap();
    for round in 1..=10 {
        assert!(matches!(next(&mut one), Some(Event::Rung { tag: 9 })));
        assert_eq!(rings.get(), round, "each edge is reported once");
    }
}

#[test]
fn polls_that_do_not_wait_look_at_bells_now_and_then() {
    let world = World::new(6);
    let ours = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
    let theirs = std::os::fd::AsFd::as_fd(&ours).try_clone_to_owned().unwrap();
    let mut one = driver(&world, "one");
    one.watch(theirs, 9).unwrap();
    ours.write(1).unwrap();
    let mut events = Vec::new();
    for _ in 0..LOOK_EVERY {
        one.poll(Wait::Now, &mut events).unwrap();
    }
    assert!(matches!(events[..], [Event::Rung { tag: 9 }]), "{events:?}");
    // A waker is noticed at once.
    one.waker().wake();
    assert!(one.node().has_due());
    one.poll(Wait::Now, &mut events).unwrap();
    assert!(matches!(events[..], [_, Event::Woken]), "{events:?}");
    assert!(!one.node().has_due());
}

#[test]
fn what_was_reported_is_no_longer_readable() {
    let world = World::new(12);
    let mut one = driver(&world, "one");
    let ours = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
    let theirs = std::os::fd::AsFd::as_fd(&ours).try_clone_to_owned().unwrap();
    one.watch(theirs, 9).unwrap();
    one.waker().wake();
    ours.write(1).unwrap();
    assert!(matches!(next(&mut one), Some(Event::Woken)));
    assert!(matches!(next(&mut one), Some(Event::Rung { tag: 9 })));
    // Else a blocker that waits for its descriptors would never wait again.
    let waited = Rc::new(Cell::new(false));
    let flag = waited.clone();
    world.set_blocker(Rc::new(move |pause: &Pause<'_>| {
        let mut fds: Vec<_> = pause.fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        assert_eq!(poll(&mut fds, PollTimeout::ZERO).unwrap(), 0);
        flag.set(true);
    }));
    one.poll(Wait::Forever, &mut Vec::new()).unwrap();
    assert!(waited.get());
}

#[test]
fn a_descriptor_that_has_ended_is_rung_once() {
    let world = World::new(7);
    let mut one = driver(&world, "one");
    let (watched, other) = UnixStream::pair().unwrap();
    one.watch(watched.into(), 3).unwrap();
    drop(other);
    assert!(matches!(next(&mut one), Some(Event::Rung { tag: 3 })));
    assert!(next(&mut one).is_none());
    // What an app may pass as a doorbell and cannot be read.
    let (reader, writer) = nix::unistd::pipe().unwrap();
    drop(reader);
    one.watch(writer, 4).unwrap();
    let mut events = Vec::new();
    for _ in 0..5 {
        one.poll(Wait::Until(world.now()), &mut events).unwrap();
    }
    assert!(events.len() <= 1, "{events:?}");
}

#[test]
fn a_ring_reaches_a_real_descriptor() {
    let world = World::new(8);
    let mut one = driver(&world, "one");
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    one.ring(&Bell::new(ours.into()));
    let mut ring = [0; 8];
    assert_eq!(theirs.read(&mut ring).unwrap(), 1);
}
