//! Processes that end, and what their peers see of it.

use std::io::ErrorKind;
use std::os::fd::AsFd;

use nix::sys::eventfd::EventFd;
use shmesh_io::sim::{Progress, Read};
use shmesh_io::{Driver, Event, Target, Wait, World};

use super::{SECOND, bytes, connected, driver, next, pass, read_all, tcp};

#[test]
fn a_killed_process_ends_its_streams_in_order_if_all_was_read() {
    for at in [tcp(80), Target::Unix("/app.sock".into())] {
        let world = World::new(1);
        let (mut server, sock, peer) = connected(&world, &at);
        server.send(sock, bytes(b"last words"));
        world.kill("server");
        pass(&world, SECOND);
        assert_eq!(read_all(&peer), (b"last words".to_vec(), Read::Eof));
        assert!(server.node().is_dead());
    }
}

#[test]
fn a_killed_process_resets_what_it_had_not_read() {
    for at in [tcp(80), Target::Unix("/app.sock".into())] {
        let world = World::new(2);
        let (_server, _, peer) = connected(&world, &at);
        assert_eq!(peer.send(b"unread").unwrap(), 6);
        pass(&world, SECOND);
        world.kill("server");
        pass(&world, SECOND);
        assert_eq!(read_all(&peer).1, Read::Reset);
    }
}

#[test]
fn a_killed_process_does_nothing_any_more() {
    let world = World::new(3);
    let (mut server, sock, peer) = connected(&world, &tcp(80));
    let mut other = driver(&world, "other");
    world.kill("server");
    server.send(sock, bytes(b"from the grave"));
    server.shutdown_write(sock);
    server.close_reset(sock);
    server.poll(Wait::Forever, &mut Vec::new()).unwrap_err();
    server.connect(&tcp(80), 1).unwrap_err();
    other.poll(Wait::Now, &mut Vec::new()).unwrap();
    // Its listener is closed, and the name is free for a successor.
    let refused = world.connect(&tcp(80));
    pass(&world, SECOND);
    assert_eq!(refused.progress(), Progress::Failed(ErrorKind::ConnectionRefused));
    assert_eq!(read_all(&peer), (Vec::new(), Read::Eof));
    let mut successor = driver(&world, "server");
    successor.listen(world.listener(&tcp(80)).unwrap(), 1).unwrap();
    let _second = world.connect(&tcp(80));
    assert!(matches!(next(&mut successor), Some(Event::Accepted { .. })));
    let node = server.node();
    drop(server);
    assert!(node.has_due() && node.is_dead() && !successor.node().is_dead());
    assert_eq!(successor.node().open_sockets(), 2);
}

#[test]
fn connections_that_nobody_accepted_are_reset_with_their_listener() {
    let world = World::new(4);
    let mut server = driver(&world, "server");
    let listener = server.listen(world.listener(&tcp(80)).unwrap(), 1).unwrap();
    server.stop_accept(listener);
    let peer = world.connect(&tcp(80));
    pass(&world, SECOND);
    assert_eq!(peer.progress(), Progress::Connected);
    server.close(listener);
    pass(&world, SECOND);
    assert_eq!(read_all(&peer).1, Read::Reset);
}

#[test]
fn a_machine_that_loses_its_power_says_nothing() {
    let world = World::new(5);
    let (_server, _, peer) = connected(&world, &tcp(80));
    world.vanish("server");
    let unanswered = world.connect(&tcp(80));
    assert_eq!(peer.send(b"hello").unwrap(), 5);
    pass(&world, 100 * SECOND);
    assert_eq!(read_all(&peer), (Vec::new(), Read::Nothing));
    assert_eq!(unanswered.progress(), Progress::Connecting);
}

#[test]
fn an_actor_that_vanishes_says_nothing_either() {
    let world = World::new(6);
    let (mut server, sock, peer) = connected(&world, &tcp(80));
    peer.vanish();
    assert!(next(&mut server).is_none());
    server.send(sock, bytes(b"hello"));
    assert!(matches!(next(&mut server), Some(Event::Sent { result: Ok(5), .. })));
    assert!(next(&mut server).is_none());
    server.close(sock);
    assert_eq!(world.census().open_ends, 0);
}

#[test]
fn several_listen_at_one_tcp_address_and_share_its_connections() {
    let world = World::new(7);
    let mut workers = [driver(&world, "sidecar"), driver(&world, "sidecar")];
    for worker in &mut workers {
        worker.listen(world.listener(&tcp(80)).unwrap(), 1).unwrap();
    }
    let _peers: Vec<_> = (0..60).map(|_| world.connect(&tcp(80))).collect();
    pass(&world, SECOND);
    let counts = workers.each_mut().map(|worker| {
        let mut events = Vec::new();
        worker.poll(Wait::Now, &mut events).unwrap();
        events.len()
    });
    assert_eq!(counts[0] + counts[1], 60);
    assert!(counts.iter().all(|count| *count > 10), "{counts:?}");
    // Not so a path.
    let path = Target::Unix("/one".into());
    let _first = world.listener(&path).unwrap();
    assert_eq!(world.listener(&path).unwrap_err().kind(), ErrorKind::AddrInUse);
}

#[test]
fn an_adopted_pair_is_a_connection() {
    let world = World::new(8);
    let mut one = driver(&world, "one");
    let (ours, theirs) = world.pair().unwrap();
    theirs.send(b"early").unwrap();
    let sock = one.adopt(ours, 4).unwrap();
    one.start_recv(sock);
    let Some(Event::Received { tag: 4, data, .. }) = next(&mut one) else {
        panic!("it was there");
    };
    assert_eq!(data.as_slice(), b"early");
    theirs.shutdown();
    assert!(matches!(next(&mut one), Some(Event::Ended { error: None, .. })));
    one.send(sock, bytes(b"answer"));
    assert_eq!(read_all(&theirs).0, b"answer");
}

#[test]
fn only_placeholders_of_the_right_kind_are_taken() {
    let world = World::new(9);
    let mut one = driver(&world, "one");
    let eventfd = EventFd::new().unwrap();
    let stranger = || eventfd.as_fd().try_clone_to_owned().unwrap();
    assert_eq!(one.listen(stranger(), 1).unwrap_err().raw_os_error(), Some(nix::libc::ENOTSOCK));
    assert_eq!(one.adopt(stranger(), 1).unwrap_err().raw_os_error(), Some(nix::libc::ENOTSOCK));
    let (ours, _theirs) = world.pair().unwrap();
    one.listen(ours, 1).unwrap_err();
    one.adopt(world.listener(&tcp(80)).unwrap(), 1).unwrap_err();
    assert_eq!(one.node().open_sockets(), 0);
}

#[test]
fn a_port_is_chosen_for_who_names_none() {
    let world = World::new(10);
    let [a, b] = [0; 2].map(|port| world.listener(&tcp(port)).unwrap());
    let (a, b) = (world.address_of(&a).unwrap(), world.address_of(&b).unwrap());
    assert_ne!(a, b);
    assert_ne!(a, tcp(0));
    let listener = world.listen(&tcp(0)).unwrap();
    assert_ne!(listener.address(), tcp(0));
}
