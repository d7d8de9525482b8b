//! Descriptors, slots and shared blocks come back, and running out of them is survived.

use std::cell::Cell;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, UnixAddr, connect, socket};
use shmesh_io::{Chunks, Event, Keep, Limits, SharedSlice, SockId, Target, Wait};

use crate::harness::{
    Family, Kind, Peer, Place, SUBJECT, Subject, alone, assert_same, descriptors, noise, pair, place,
};
use crate::stage::stage;

/// Turns until `done`, for completions of cancelled operations to come in.
fn turn_until(subject: &mut Subject, mut done: impl FnMut(&mut Subject) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !done(subject) {
        assert!(Instant::now() < deadline, "not given back in time");
        let until = subject.driver.refresh_clock() + 1_000_000;
        subject.turn(Wait::Until(until));
    }
}

pub fn gives_everything_back_after_a_close_in_flight(kind: Kind, family: Family) {
    let mut subject = Subject::with(kind, Limits::default(), alone());
    let (listener, place) = place(kind, family);
    let listener = subject.driver.listen(listener, 1).unwrap();
    // Settle first: buffers are lent to the kernel once and for all.
    subject.turn(Wait::Now);
    let pool = subject.pool();
    let (free_before, before) = (pool.free(), descriptors(kind));
    let (stuck, waiting) = (noise(1, 9_000_000), noise(2, 50_000));
    for round in 0..9 {
        let mut peers: Vec<Peer> = (0..10).map(|_| Peer::connect(&place.dial)).collect();
        let mut socks: Vec<SockId> = Vec::new();
        while socks.len() < 10 {
            if let Event::Accepted { sock, .. } = subject.next() {
                socks.push(sock);
            }
        }
        for (i, sock) in socks.iter().enumerate() {
            subject.driver.start_recv(*sock);
            if i % 2 == 0 {
                subject.send(*sock, &stuck);
            }
            if i % 3 == 0 {
                subject.driver.stop_recv(*sock);
            }
        }
        for peer in &mut peers {
            peer.write_all(&waiting).unwrap();
        }
        if round % 2 == 0 {
            subject.turn(Wait::Now);
        }
        // One that connects at this moment.
        let connecting = subject.driver.connect(&place.target, 2).unwrap();
        for sock in socks {
            if round % 3 == 0 {
                subject.driver.close_reset(sock);
            } else {
                subject.driver.close(sock);
            }
        }
        subject.driver.close(connecting);
        // It may have reached the listener.
        subject.turn(Wait::Now);
        subject.turn(Wait::Now);
        for event in subject.events.drain(..) {
            if let Event::Accepted { sock, .. } = event {
                subject.driver.close(sock);
            }
        }
        drop(peers);
    }
    turn_until(&mut subject, |subject| {
        for event in std::mem::take(&mut subject.events) {
            if let Event::Accepted { sock, .. } = event {
                subject.driver.close(sock);
            }
        }
        descriptors(kind) == before && pool.held() == 0 && pool.free() >= free_before
    });
    assert_eq!(pool.free(), free_before);
    subject.driver.close(listener);
    turn_until(&mut subject, |_| descriptors(kind) == before - 1);
}

pub fn gives_everything_back_when_dropped(kind: Kind, family: Family) {
    let turn = alone();
    let before = descriptors(kind);
    let mut subject = Subject::with(kind, Limits::default(), turn);
    let pool = subject.pool();
    let (listener, place) = place(kind, family);
    subject.driver.listen(listener, 1).unwrap();
    let mut peers = Vec::new();
    let mut slices = Vec::new();
    for _ in 0..5 {
        let mut peer = Peer::connect(&place.dial);
        peer.write_all(b"kept").unwrap();
        let Event::Accepted { sock, .. } = subject.next() else {
            panic!("only connections");
        };
        subject.driver.start_recv(sock);
        let mut received = 0;
        while received < 4 {
            let slice = subject.find(|event| match event {
                Event::Received { data, .. } => Some(data.clone()),
                _ => None,
            });
            received += slice.len();
            slices.push(slice);
        }
        subject.events.clear();
        subject.send(sock, &noise(1, 9_000_000));
        subject.turn(Wait::Now);
        peers.push(peer);
    }
    let _turn = subject.end();
    for peer in &mut peers {
        let mut rest = Vec::new();
        // A cut is an end, or a reset over TCP.
        let _ = peer.read_to_end(&mut rest);
        assert!(rest.len() < 9_000_000);
    }
    drop(peers);
    let kept: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
    assert_eq!(kept, b"kept".repeat(5));
    drop(slices);
    assert_eq!((pool.free(), pool.held()), (pool.capacity(), 0));
    let deadline = Instant::now() + Duration::from_secs(5);
    while descriptors(kind) > before {
        assert!(Instant::now() < deadline, "descriptors are left");
        std::thread::sleep(Duration::from_millis(1));
    }
}

struct Block(Rc<Cell<u32>>);

impl Keep for Block {}

impl Drop for Block {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

pub fn releases_shared_blocks_when_sent_or_closed(kind: Kind, family: Family) {
    let bytes: &'static [u8] = noise(17, 9_000_000).leak();
    let released = Rc::new(Cell::new(0));
    // SAFETY: leaked, so there for ever.
    let block = |len| unsafe { SharedSlice::new(bytes.as_ptr(), len, Rc::new(Block(released.clone()))) };
    let mut subject = Subject::new(kind);
    let (sock, mut peer) = subject.accepted(family, 1);
    subject.driver.send(sock, Chunks::from(block(1000)));
    assert_eq!(subject.sent(sock).unwrap(), 1000);
    assert_eq!(released.get(), 1);
    let mut got = [0; 1000];
    peer.read_exact(&mut got).unwrap();
    assert_same(&got, &bytes[..1000]);
    // Stuck, then closed.
    subject.driver.send(sock, Chunks::from(block(9_000_000)));
    subject.turn(Wait::Now);
    assert_eq!(released.get(), 1);
    subject.driver.close(sock);
    turn_until(&mut subject, |_| released.get() == 2);
}

pub fn keeps_going_when_slices_hold_the_whole_pool(kind: Kind, family: Family) {
    const SOCKETS: usize = 1500;
    let turn = alone();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard).unwrap();
    let limits = Limits { pool_slots: 32 };
    let mut subject = Subject::with(kind, limits, turn);
    let pool = subject.pool();
    let mut pairs: Vec<(SockId, Peer)> = Vec::new();
    if family == Family::Unix {
        for i in 0..SOCKETS {
            let (ours, theirs) = pair(kind);
            let sock = subject.driver.adopt(ours, i as u64).unwrap();
            pairs.push((sock, theirs));
        }
    } else {
        let (listener, place) = place(kind, family);
        subject.driver.listen(listener, 1).unwrap();
        for i in 0..SOCKETS {
            let peer = Peer::connect(&place.dial);
            let Event::Accepted { sock, .. } = subject.next() else {
                panic!("only connections");
            };
            subject.driver.set_tag(sock, i as u64);
            pairs.push((sock, peer));
        }
    }
    for (i, (sock, peer)) in pairs.iter_mut().enumerate() {
        peer.write_all(&noise(i as u64, 20_000)).unwrap();
        subject.driver.start_recv(*sock);
    }
    // Everything is held, nothing is let go.
    let mut held = vec![Vec::new(); SOCKETS];
    let mut missing = SOCKETS * 20_000;
    while missing > 0 {
        let Event::Received { tag, data, .. } = subject.next() else {
            panic!("only bytes");
        };
        missing -= data.len();
        held[tag as usize].push(data);
    }
    assert!(pool.held() <= 24, "{}", pool.held());
    assert!(pool.heap_fallbacks() > 0);
    for (i, slices) in held.iter().enumerate() {
        let bytes: Vec<u8> = slices.iter().flat_map(|s| s.iter().copied()).collect();
        assert_same(&bytes, &noise(i as u64, 20_000));
    }
    // And back, with all of it still held; heads are written too.
    for (i, (sock, _)) in pairs.iter().enumerate() {
        let mut chunks = Chunks::from(pool.append(b"head "));
        chunks.extend(held[i].iter().cloned());
        subject.driver.send(*sock, chunks);
    }
    for (i, (sock, peer)) in pairs.iter_mut().enumerate() {
        assert_eq!(subject.sent(*sock).unwrap(), 20_005);
        let mut back = vec![0; 20_005];
        peer.read_exact(&mut back).unwrap();
        assert_same(&back[5..], &noise(i as u64, 20_000));
    }
    drop(held);
    drop(pool);
}

/// Connections that wait at a place while this process has no descriptor left.
enum Shortage {
    Real { limits: (u64, u64), fillers: Vec<std::fs::File>, _clients: Vec<OwnedFd> },
    Simulated { _clients: Vec<Peer> },
}

impl Shortage {
    fn begin(kind: Kind, place: &Place, clients: usize) -> Self {
        if kind == Kind::Sim {
            let clients = (0..clients).map(|_| Peer::connect(&place.dial)).collect();
            stage().world.exhaust_descriptors(SUBJECT, true);
            return Self::Simulated { _clients: clients };
        }
        // The clients' descriptors exist before there are no more.
        let (domain, addr) = match &place.target {
            Target::Tcp(addr) => (AddressFamily::Inet, Ok(SockaddrStorage::from(*addr))),
            Target::Unix(path) => (AddressFamily::Unix, Err(UnixAddr::new(path).unwrap())),
        };
        let clients: Vec<_> =
            (0..clients).map(|_| socket(domain, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap()).collect();
        let limits = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        // Just above the highest one in use, with the gaps below it filled.
        let highest = std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .map(|entry| {
                let name = entry.unwrap().file_name();
                name.to_str().unwrap().parse::<u64>().unwrap()
            })
            .max()
            .unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, highest + 1, limits.1).unwrap();
        let mut fillers = Vec::new();
        while let Ok(filler) = std::fs::File::open("/dev/null") {
            fillers.push(filler);
        }
        for client in &clients {
            match &addr {
                Ok(addr) => connect(client.as_raw_fd(), addr).unwrap(),
                Err(addr) => connect(client.as_raw_fd(), addr).unwrap(),
            }
        }
        Self::Real { limits, fillers, _clients: clients }
    }

    /// There are descriptors again; the connections stay.
    fn end(&mut self) {
        match self {
            Self::Simulated { .. } => stage().world.exhaust_descriptors(SUBJECT, false),
            Self::Real { limits, fillers, .. } => {
                setrlimit(Resource::RLIMIT_NOFILE, limits.0, limits.1).unwrap();
                fillers.clear();
            }
        }
    }
}

pub fn pauses_when_descriptors_run_out(kind: Kind, family: Family) {
    const CLIENTS: usize = 3;
    let mut subject = Subject::with(kind, Limits::default(), alone());
    let (listener, place) = place(kind, family);
    let mut shortage = Shortage::begin(kind, &place, CLIENTS);
    // Only now: io_uring takes the limit from when accepting was asked for.
    subject.driver.listen(listener, 1).unwrap();
    let end = subject.driver.refresh_clock() + 350_000_000;
    let mut turns = 0;
    while subject.driver.refresh_clock() < end {
        subject.turn(Wait::Until(end));
        turns += 1;
    }
    let told: Vec<Event> = subject.events.drain(..).collect();
    shortage.end();
    // After each pause it is tried again.
    assert!((2..=4).contains(&told.len()), "{told:?}");
    assert!(told.iter().all(|event| matches!(event, Event::AcceptPaused { tag: 1, .. })), "{told:?}");
    assert!(turns < 30, "{turns} turns: that is spinning");
    for _ in 0..CLIENTS {
        let Event::Accepted { .. } = subject.next() else {
            panic!("they were waiting");
        };
    }
}
