//! The simulated world and its driver, beyond what every driver promises: time, faults, processes that die, and above
//! all that a run is its seed's.

#![forbid(unsafe_code)]

#[path = "sim/cost.rs"]
mod cost;
#[path = "sim/faults.rs"]
mod faults;
#[path = "sim/processes.rs"]
mod processes;
#[path = "sim/scenario.rs"]
mod scenario;
#[path = "sim/time.rs"]
mod time;

use shmesh_io::sim::{ActorConn, Read};
use shmesh_io::{Chunks, Driver, Event, Limits, SimDriver, Slice, SockId, Target, Wait, World};

const SECOND: u64 = 1_000_000_000;

fn tcp(port: u16) -> Target {
    Target::Tcp(([10, 0, 0, 1], port).into())
}

fn driver(world: &World, name: &str) -> SimDriver {
    SimDriver::new(world, name, Limits { pool_slots: 32 }).unwrap()
}

fn bytes(bytes: &[u8]) -> Chunks {
    Chunks::from(Slice::from_vec(bytes.to_vec()))
}

/// Polls until something comes, at most for a virtual minute.
fn next(driver: &mut SimDriver) -> Option<Event> {
    let mut events = Vec::new();
    let until = driver.refresh_clock() + 60 * SECOND;
    while events.is_empty() && driver.now() < until {
        driver.poll(Wait::Until(until), &mut events).unwrap();
    }
    assert!(events.len() <= 1, "one thing at a time here: {events:?}");
    events.pop()
}

/// Lets so much time pass in a world where nobody waits.
fn pass(world: &World, nanos: u64) {
    world.advance_to(world.now() + nanos);
}

/// A driver of "server" with a listener, a connected actor, and the accepted side.
fn connected(world: &World, at: &Target) -> (SimDriver, SockId, ActorConn) {
    let mut server = driver(world, "server");
    server.listen(world.listener(at).unwrap(), 1).unwrap();
    let peer = world.connect(at);
    let Some(Event::Accepted { sock, .. }) = next(&mut server) else {
        panic!("it connects");
    };
    pass(world, SECOND);
    server.start_recv(sock);
    (server, sock, peer)
}

fn read_all(peer: &ActorConn) -> (Vec<u8>, Read) {
    let mut got = Vec::new();
    loop {
        match peer.recv(&mut got) {
            Read::Bytes(_) => {}
            end => return (got, end),
        }
    }
}
