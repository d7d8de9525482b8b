//! Each fault does what it says, and to nobody else.

use std::io::ErrorKind;

use shmesh_io::driver::ACCEPT_PAUSE;
use shmesh_io::sim::{Faults, Link, PPM, Progress, Read};
use shmesh_io::{Chunks, Driver, Event, Target, Wait, World};

use super::{SECOND, bytes, connected, driver, next, pass, read_all, tcp};

#[test]
fn a_connect_is_refused_although_somebody_listens() {
    let world = World::new(1);
    world.set_faults(Faults { connect_refused_ppm: PPM, ..Faults::default() });
    let mut server = driver(&world, "server");
    server.listen(world.listener(&tcp(80)).unwrap(), 1).unwrap();
    let mut client = driver(&world, "client");
    client.connect(&tcp(80), 2).unwrap();
    let Some(Event::Connected { result, .. }) = next(&mut client) else {
        panic!("it is answered");
    };
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(next(&mut server).is_none());
    let actor = world.connect(&tcp(80));
    pass(&world, SECOND);
    assert_eq!(actor.progress(), Progress::Failed(ErrorKind::ConnectionRefused));
}

#[test]
fn a_connect_is_never_answered() {
    let world = World::new(2);
    world.set_faults(Faults { connect_lost_ppm: PPM, ..Faults::default() });
    let mut server = driver(&world, "server");
    server.listen(world.listener(&tcp(80)).unwrap(), 1).unwrap();
    let mut client = driver(&world, "client");
    let sock = client.connect(&tcp(80), 2).unwrap();
    assert!(next(&mut client).is_none());
    client.close(sock);
    drop((client, server));
    assert_eq!(world.census(), Default::default());
}

#[test]
fn a_connection_is_reset_for_both() {
    let world = World::new(3);
    world.set_faults(Faults { reset_ppm: PPM, within: SECOND / 2, ..Faults::default() });
    let (mut server, _, peer) = connected(&world, &tcp(80));
    let Some(Event::Ended { error: Some(error), .. }) = next(&mut server) else {
        panic!("a reset");
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(read_all(&peer).1, Read::Reset);
    assert_eq!(read_all(&peer).1, Read::Eof);
    assert_eq!(peer.send(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn a_silent_connection_takes_bytes_until_its_window_is_full() {
    let world = World::new(4);
    world.set_tcp(Link { window: (50_000, 50_000), ..Link::tcp() });
    world.set_faults(Faults { silence_ppm: PPM, within: SECOND / 2, ..Faults::default() });
    let (mut server, sock, peer) = connected(&world, &tcp(80));
    server.send(sock, bytes(&[7; 40_000]));
    assert!(matches!(next(&mut server), Some(Event::Sent { result: Ok(40_000), .. })));
    server.send(sock, bytes(&[7; 40_000]));
    assert_eq!(peer.send(b"anybody").unwrap(), 7);
    drop(peer);
    assert!(next(&mut server).is_none(), "neither room, nor bytes, nor an end");
    server.close(sock);
    assert_eq!(world.census().open_ends, 0);
}

#[test]
fn what_is_on_its_way_when_silence_falls_does_not_arrive() {
    let world = World::new(12);
    world.set_tcp(Link { latency: (1000, 1000), ..Link::tcp() });
    world.set_faults(Faults { silence_ppm: PPM, within: 1, ..Faults::default() });
    let listener = world.listen(&tcp(80)).unwrap();
    let peer = world.connect(&tcp(80));
    pass(&world, 1000);
    let accepted = listener.accept().unwrap();
    assert_eq!(accepted.send(b"lost").unwrap(), 4);
    pass(&world, SECOND);
    assert_eq!(peer.progress(), Progress::Connected);
    assert_eq!(read_all(&peer), (Vec::new(), Read::Nothing));
}

#[test]
fn a_send_fails_with_its_connection() {
    let world = World::new(5);
    let (mut server, sock, peer) = connected(&world, &tcp(80));
    world.set_faults(Faults { send_error_ppm: PPM, ..Faults::default() });
    server.send(sock, bytes(b"lost"));
    let mut events = Vec::new();
    server.poll(Wait::Until(world.now() + SECOND), &mut events).unwrap();
    let error = events.into_iter().find_map(|event| match event {
        Event::Sent { result, .. } => Some(result.unwrap_err()),
        _ => None,
    });
    assert_eq!(error.unwrap().kind(), ErrorKind::ConnectionReset);
    pass(&world, SECOND);
    assert_eq!(read_all(&peer), (Vec::new(), Read::Reset));
}

#[test]
fn a_late_segment_holds_up_those_behind_it() {
    let world = World::new(6);
    world.set_tcp(Link { latency: (10, 10), ..Link::tcp() });
    let (mut server, _, peer) = connected(&world, &tcp(80));
    world.set_faults(Faults { delay_ppm: PPM, delay_max: SECOND, ..Faults::default() });
    let start = world.now();
    assert_eq!(peer.send(b"late").unwrap(), 4);
    world.set_faults(Faults::default());
    assert_eq!(peer.send(b"r").unwrap(), 1);
    let mut got = Vec::new();
    while got.len() < 5 {
        let Some(Event::Received { data, .. }) = next(&mut server) else {
            panic!("only late");
        };
        got.extend_from_slice(&data);
    }
    assert_eq!(got, b"later");
    assert!(server.now() > start + 10, "{}", server.now() - start);
}

#[test]
fn a_listener_pauses_and_goes_on() {
    let world = World::new(7);
    world.set_faults(Faults { accept_pause_ppm: PPM, ..Faults::default() });
    let mut server = driver(&world, "server");
    server.listen(world.listener(&tcp(80)).unwrap(), 1).unwrap();
    let _peer = world.connect(&tcp(80));
    let mut events = Vec::new();
    pass(&world, SECOND);
    server.poll(Wait::Now, &mut events).unwrap();
    assert!(matches!(events[..], [Event::AcceptPaused { tag: 1, .. }]), "{events:?}");
    assert_eq!(world.census().backlog, 1);
    world.set_faults(Faults::default());
    let start = world.now();
    assert!(matches!(next(&mut server), Some(Event::Accepted { .. })));
    assert_eq!(server.now(), start + ACCEPT_PAUSE);
}

#[test]
fn a_process_without_descriptors_neither_connects_nor_accepts() {
    let world = World::new(8);
    let mut server = driver(&world, "server");
    server.listen(world.listener(&tcp(80)).unwrap(), 1).unwrap();
    world.exhaust_descriptors("server", true);
    world.exhaust_descriptors("somebody else", true);
    let _peer = world.connect(&tcp(80));
    assert!(matches!(next(&mut server), Some(Event::AcceptPaused { tag: 1, .. })));
    let error = server.connect(&tcp(80), 3).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EMFILE));
    world.exhaust_descriptors("server", false);
    assert!(matches!(next(&mut server), Some(Event::Accepted { .. })));
}

#[test]
fn a_full_backlog_makes_tcp_ask_again_after_a_second() {
    let world = World::new(9);
    world.set_tcp(Link { backlog: 2, ..Link::tcp() });
    let listener = world.listen(&tcp(80)).unwrap();
    let conns: Vec<_> = (0..3).map(|_| world.connect(&tcp(80))).collect();
    pass(&world, SECOND / 2);
    let connected = |conns: &[shmesh_io::sim::ActorConn]| {
        conns.iter().filter(|conn| conn.progress() == Progress::Connected).count()
    };
    assert_eq!(connected(&conns), 2);
    let accepted = [listener.accept().unwrap(), listener.accept().unwrap()];
    assert!(listener.accept().is_none());
    pass(&world, SECOND / 4);
    assert_eq!(connected(&conns), 2);
    pass(&world, SECOND / 2);
    assert_eq!(connected(&conns), 3);
    drop((accepted, conns, listener));
    assert_eq!(world.census(), Default::default());
}

#[test]
fn polls_return_early_and_ring_for_nobody() {
    let world = World::new(10);
    world.set_faults(Faults { empty_poll_ppm: PPM, ..Faults::default() });
    let mut one = driver(&world, "one");
    let start = world.now();
    let mut events = Vec::new();
    one.poll(Wait::Until(start + SECOND), &mut events).unwrap();
    assert_eq!((world.now(), events.len()), (start, 0));
    world.set_faults(Faults { spurious_ring_ppm: PPM, ..Faults::default() });
    let bell = nix::sys::eventfd::EventFd::from_flags(nix::sys::eventfd::EfdFlags::EFD_NONBLOCK).unwrap();
    one.watch(bell.into(), 6).unwrap();
    one.poll(Wait::Forever, &mut events).unwrap();
    assert!(matches!(events[..], [Event::Rung { tag: 6 }]));
}

#[test]
fn what_is_reported_late_is_not_lost() {
    let world = World::new(11);
    let (mut server, _, peer) = connected(&world, &tcp(80));
    world.set_faults(Faults { late_report_ppm: PPM / 2, ..Faults::default() });
    let mut empty = 0;
    for _ in 0..50 {
        peer.send(b"x").unwrap();
        pass(&world, SECOND);
        let mut events: Vec<Event> = Vec::new();
        while events.is_empty() {
            server.poll(Wait::Forever, &mut events).unwrap();
            empty += u32::from(events.is_empty());
        }
    }
    assert!((20..100).contains(&empty), "{empty}");
}

#[test]
fn nothing_goes_wrong_unless_it_is_asked_for() {
    for seed in 0..50 {
        let world = World::new(seed);
        let at = if seed % 2 == 0 { tcp(80) } else { Target::Unix("/somewhere".into()) };
        let (mut server, sock, peer) = connected(&world, &at);
        server.send(sock, Chunks::new());
        assert!(matches!(next(&mut server), Some(Event::Sent { result: Ok(0), .. })));
        server.send(sock, bytes(b"fine"));
        assert!(matches!(next(&mut server), Some(Event::Sent { result: Ok(4), .. })));
        server.close(sock);
        pass(&world, SECOND);
        assert_eq!(read_all(&peer), (b"fine".to_vec(), Read::Eof));
    }
}
