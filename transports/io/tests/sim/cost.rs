//! What the simulation itself costs. Prints, and judges nothing: run with `--release -- --ignored --nocapture cost`.

use nix::time::{ClockId, clock_gettime};
use shmesh_io::{Driver, Event, Wait, World};

use super::{bytes, connected, driver, next, tcp};

const ROUNDS: u32 = 200_000;

/// Of this thread, in nanoseconds: other tests' share of the processor does not count.
fn processor_time() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

fn print(what: &str, start: u64) {
    println!("{what}: {} ns", (processor_time() - start) / u64::from(ROUNDS));
}

#[test]
#[ignore = "prints times"]
fn cost() {
    let world = World::new(1);
    let mut idle = driver(&world, "idle");
    let mut events = Vec::new();
    let start = processor_time();
    for _ in 0..ROUNDS {
        idle.poll(Wait::Now, &mut events).unwrap();
    }
    print("poll with nothing due", start);
    let bell = nix::sys::eventfd::EventFd::from_flags(nix::sys::eventfd::EfdFlags::EFD_NONBLOCK).unwrap();
    idle.watch(bell.into(), 1).unwrap();
    let start = processor_time();
    for _ in 0..ROUNDS {
        idle.poll(Wait::Now, &mut events).unwrap();
    }
    print("the same with a doorbell", start);

    let (mut server, accepted, peer) = connected(&world, &tcp(80));
    drop(peer);
    server.close(accepted);
    let mut client = driver(&world, "client");
    let sock = client.connect(&tcp(80), 2).unwrap();
    let Some(Event::Accepted { sock: accepted, .. }) = next(&mut server) else {
        panic!("it connects");
    };
    assert!(matches!(next(&mut client), Some(Event::Connected { result: Ok(()), .. })));
    server.start_recv(accepted);
    client.start_recv(sock);
    client.send(sock, bytes(&[7; 64]));
    let start = processor_time();
    let mut echoes = 0;
    while echoes < ROUNDS {
        for (driver, is_server) in [(&mut server, true), (&mut client, false)] {
            driver.poll(Wait::Until(world.now() + 1_000_000), &mut events).unwrap();
            for event in events.drain(..) {
                if let Event::Received { sock, data, .. } = event {
                    driver.send(sock, data.into());
                    echoes += u32::from(!is_server);
                }
            }
        }
    }
    print("an echo of 64 bytes", start);
}
