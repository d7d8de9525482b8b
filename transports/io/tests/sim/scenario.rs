//! A random scenario of drivers and actors, run from a seed: what arrives is what was sent, and the same seed gives
//! the same run.

use std::collections::BTreeMap;

use shmesh_io::sim::{ActorConn, Faults, Link, Progress, Read};
use shmesh_io::{Chunks, Driver, Event, SimDriver, Slice, SockId, Target, Wait, World};

use super::{SECOND, driver, pass, tcp};

/// Connections of each kind in a scenario.
const CONNS: u64 = 6;

const BYTES_MAX: u64 = 200_000;

/// The virtual time after which everything must have ended that can end.
const END: u64 = 20 * SECOND;

fn unix() -> Target {
    Target::Unix("/run/echo.sock".into())
}

#[test]
fn the_same_seed_is_the_same_run() {
    let mut all: Vec<(u64, Vec<String>)> = Vec::new();
    for seed in 0..12 {
        let first = run(seed, rough(), hostile());
        let second = run(seed, rough(), hostile());
        if first.log != second.log {
            let at = first.log.iter().zip(&second.log).position(|(a, b)| a != b);
            panic!("seed {seed}: the runs differ at line {at:?} of {}", first.log.len());
        }
        assert_eq!(first.fingerprint, second.fingerprint);
        assert!(first.log.len() > 100, "something happens: {}", first.log.len());
        for (other, log) in &all {
            assert_ne!(*log, first.log, "seeds {other} and {seed}");
        }
        all.push((seed, first.log));
    }
}

#[test]
fn without_faults_every_echo_is_complete() {
    for seed in 100..160 {
        let outcome = run(seed, rough(), mischief());
        assert_eq!(outcome.complete, 3 * CONNS, "seed {seed}:\n{}", outcome.log.join("\n"));
        assert_eq!(outcome.broken, 0);
    }
}

#[test]
fn with_faults_an_echo_is_a_beginning_of_what_was_sent() {
    let (mut complete, mut broken) = (0, 0);
    for seed in 200..260 {
        let outcome = run(seed, rough(), hostile());
        complete += outcome.complete;
        broken += outcome.broken;
    }
    assert!(complete > 100 && broken > 100, "{complete} and {broken}");
}

fn rough() -> Link {
    Link { latency: (100, 400_000), window: (2_000, 60_000), segment_max: 3_000, cut_ppm: 200_000, backlog: 4 }
}

/// What must not change anything but the order of events.
fn mischief() -> Faults {
    Faults {
        delay_ppm: 10_000,
        delay_max: SECOND / 10,
        accept_pause_ppm: 100_000,
        empty_poll_ppm: 100_000,
        spurious_ring_ppm: 100_000,
        late_report_ppm: 200_000,
        ..Faults::default()
    }
}

fn hostile() -> Faults {
    Faults {
        connect_refused_ppm: 50_000,
        connect_lost_ppm: 50_000,
        reset_ppm: 200_000,
        silence_ppm: 100_000,
        within: SECOND / 10,
        send_error_ppm: 5_000,
        ..mischief()
    }
}

struct Outcome {
    log: Vec<String>,
    fingerprint: u64,
    /// Echoes that came back whole.
    complete: u64,
    /// Connections that failed.
    broken: u64,
}

/// An echo server and a client on drivers, clients and an echo server that are actors; everybody talks to everybody.
fn run(seed: u64, link: Link, faults: Faults) -> Outcome {
    let world = World::new(seed);
    world.set_tcp(link.clone());
    world.set_unix(Link { latency: (0, 0), ..link });
    world.set_faults(faults);
    let mut server = Side::new("server", &world);
    let mut client = Side::new("client", &world);
    for at in [tcp(80), unix()] {
        server.driver.listen(world.listener(&at).unwrap(), 1).unwrap();
    }
    let echo = world.listen(&tcp(81)).unwrap();
    let mut echoing: Vec<Actor> = Vec::new();
    let mut actors: Vec<Actor> = Vec::new();
    for number in 0..CONNS {
        let at = if number % 2 == 0 { tcp(80) } else { unix() };
        actors.push(Actor::new(world.connect(&at), noise(world.random(), world.random() % BYTES_MAX)));
        for (at, number) in [(at, number), (tcp(81), CONNS + number)] {
            client.connect(&at, number, noise(world.random(), world.random() % BYTES_MAX));
        }
    }
    let mut log = vec![format!("drivers draw {} and {}", server.driver.random(), client.driver.random())];
    while world.now() < World::EPOCH + END {
        match world.random() % 8 {
            0 | 1 => server.turn(&world, &mut log),
            2 | 3 => client.turn(&world, &mut log),
            4 | 5 => {
                for (number, actor) in actors.iter_mut().enumerate() {
                    if let Some(line) = actor.step(world.random(), false) {
                        log.push(format!("{} actor {number} {line}", world.now()));
                    }
                }
            }
            6 => {
                while let Some(conn) = echo.accept() {
                    echoing.push(Actor::new(conn, Vec::new()));
                }
                for actor in &mut echoing {
                    actor.step(world.random(), true);
                }
            }
            _ if world.random().is_multiple_of(4) => pass(&world, world.random() % 200_000),
            _ => {
                // Nothing on its way may mean that somebody has yet to look.
                let next = world.next_event_at().unwrap_or(world.now() + END / 1000);
                world.advance_to(next);
            }
        }
    }
    let complete = actors.iter().filter(|actor| actor.is_whole()).count() + client.whole;
    let broken = actors.iter().filter(|actor| actor.broken).count() + client.broken;
    // Everything is closed by whoever has it; nothing is left.
    drop((server, client, actors, echoing, echo));
    assert_eq!(world.census(), Default::default(), "seed {seed}");
    Outcome { log, fingerprint: world.fingerprint(), complete: complete as u64, broken: broken as u64 }
}

fn noise(seed: u64, len: u64) -> Vec<u8> {
    (0..len).map(|i| (seed.wrapping_add(i).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u8).collect()
}

/// A process with a driver: echoes what is accepted, and checks the echo of what it connected.
struct Side {
    name: &'static str,
    driver: SimDriver,
    conns: BTreeMap<(u32, u32), Conn>,
    whole: usize,
    broken: usize,
}

struct Conn {
    sock: SockId,
    /// What it says of its own accord.
    said: Option<Vec<u8>>,
    to_send: Vec<u8>,
    got: Vec<u8>,
    connecting: bool,
    sending: usize,
    paused: bool,
    /// Its end was reported.
    ended: bool,
    finished: bool,
}

impl Side {
    fn new(name: &'static str, world: &World) -> Self {
        Self { name, driver: driver(world, name), conns: BTreeMap::new(), whole: 0, broken: 0 }
    }

    fn connect(&mut self, to: &Target, tag: u64, said: Vec<u8>) {
        let sock = self.driver.connect(to, tag).unwrap();
        let conn = Conn { connecting: true, said: Some(said.clone()), to_send: said, ..Conn::new(sock) };
        self.conns.insert(key(sock), conn);
    }

    fn turn(&mut self, world: &World, log: &mut Vec<String>) {
        let mut events = Vec::new();
        let wait = match world.random() % 4 {
            0 => Wait::Until(world.now() + world.random() % 100_000),
            _ => Wait::Now,
        };
        self.driver.poll(wait, &mut events).unwrap();
        for event in events {
            log.push(format!("{} {} {}", self.driver.now(), self.name, line(&event)));
            self.handle(event);
        }
        let keys: Vec<_> = self.conns.keys().copied().collect();
        for key in keys {
            self.advance(key, world);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Accepted { sock, .. } => {
                self.conns.insert(key(sock), Conn::new(sock));
                self.driver.start_recv(sock);
            }
            Event::Connected { sock, result, .. } => {
                let conn = self.conns.get_mut(&key(sock)).unwrap();
                assert!(conn.connecting, "connected twice");
                conn.connecting = false;
                self.driver.start_recv(sock);
                if result.is_err() {
                    self.give_up(sock);
                }
            }
            Event::Received { sock, data, .. } => {
                // Of a connection that was given up in this batch.
                let Some(conn) = self.conns.get_mut(&key(sock)) else { return };
                assert!(!conn.ended && !conn.paused && !conn.connecting && !data.is_empty());
                conn.got.extend_from_slice(&data);
                match &conn.said {
                    Some(said) => assert!(said.starts_with(&conn.got), "what comes back is not what was sent"),
                    None => conn.to_send.extend_from_slice(&data),
                }
            }
            Event::Ended { sock, error, .. } => {
                let Some(conn) = self.conns.get_mut(&key(sock)) else { return };
                assert!(!conn.ended && !conn.paused, "ended twice");
                conn.ended = true;
                if error.is_some() {
                    self.give_up(sock);
                }
            }
            Event::Sent { sock, result, chunks, .. } => {
                let Some(conn) = self.conns.get_mut(&key(sock)) else { return };
                assert!(conn.sending > 0 && chunks.is_empty(), "sent twice");
                match result {
                    Ok(n) => {
                        assert_eq!(n as usize, conn.sending);
                        conn.sending = 0;
                    }
                    Err(_) => self.give_up(sock),
                }
            }
            Event::AcceptPaused { .. } => {}
            Event::Landed { .. } => panic!("no block was given"),
            Event::Rung { .. } | Event::Woken => panic!("nobody rang"),
        }
    }

    fn give_up(&mut self, sock: SockId) {
        self.broken += usize::from(self.conns.remove(&key(sock)).unwrap().said.is_some());
        self.driver.close(sock);
    }

    /// Sends what is there, ends what is at its end, and plays with the receiving side.
    fn advance(&mut self, key: (u32, u32), world: &World) {
        let conn = self.conns.get_mut(&key).unwrap();
        if conn.connecting {
            return;
        }
        if !conn.ended && world.random().is_multiple_of(5) {
            conn.paused = !conn.paused;
            if conn.paused {
                self.driver.stop_recv(conn.sock);
            } else {
                self.driver.start_recv(conn.sock);
            }
        }
        if conn.sending == 0 && !conn.to_send.is_empty() {
            let len = 1 + (world.random() as usize) % conn.to_send.len();
            let rest = conn.to_send.split_off(len);
            let first = std::mem::replace(&mut conn.to_send, rest);
            conn.sending = len;
            let mut chunks = Chunks::new();
            for piece in first.chunks(20_000) {
                chunks.push(match world.random() % 2 {
                    0 if piece.len() <= 16_384 => self.driver.pool().append(piece),
                    _ => Slice::from_vec(piece.to_vec()),
                });
            }
            self.driver.send(conn.sock, chunks);
        }
        let all_sent = conn.sending == 0 && conn.to_send.is_empty();
        match &conn.said {
            Some(_) if all_sent && !conn.finished => {
                conn.finished = true;
                self.driver.shutdown_write(conn.sock);
            }
            Some(said) if conn.ended => {
                assert_eq!(*said == conn.got, all_sent);
                self.whole += usize::from(*said == conn.got);
                self.driver.close(conn.sock);
                self.conns.remove(&key);
            }
            None if conn.ended && all_sent => {
                self.driver.close(conn.sock);
                self.conns.remove(&key);
            }
            _ => {}
        }
    }
}

impl Conn {
    fn new(sock: SockId) -> Self {
        Self {
            sock,
            said: None,
            to_send: Vec::new(),
            got: Vec::new(),
            connecting: false,
            sending: 0,
            paused: false,
            ended: false,
            finished: false,
        }
    }
}

fn key(sock: SockId) -> (u32, u32) {
    (sock.index(), sock.generation())
}

fn line(event: &Event) -> String {
    match event {
        Event::Received { sock, data, .. } => format!("received {} {:?}", sock.index(), checksum(data)),
        other => format!("{other:?}"),
    }
}

fn checksum(data: &[u8]) -> (usize, u64) {
    (data.len(), data.iter().fold(0, |sum, byte| sum * 31 % 1_000_003 + u64::from(*byte)))
}

/// A plain peer: says something and reads its echo, or echoes.
struct Actor {
    conn: ActorConn,
    said: Vec<u8>,
    /// How much of it was taken.
    sent: usize,
    got: Vec<u8>,
    finished: bool,
    ended: bool,
    broken: bool,
}

impl Actor {
    fn new(conn: ActorConn, said: Vec<u8>) -> Self {
        Self { conn, said, sent: 0, got: Vec::new(), finished: false, ended: false, broken: false }
    }

    fn is_whole(&self) -> bool {
        self.ended && !self.broken && self.got == self.said
    }

    fn step(&mut self, random: u64, echoes: bool) -> Option<String> {
        if self.broken || (self.ended && self.finished) {
            return None;
        }
        match self.conn.progress() {
            Progress::Connecting => return None,
            Progress::Connected => {}
            Progress::Failed(_) => {
                self.broken = true;
                return Some("failed".into());
            }
        }
        let before = self.got.len();
        let read = match self.ended {
            true => Read::Nothing,
            false => self.conn.recv_up_to(1 + (random % 5_000) as usize, &mut self.got),
        };
        match read {
            Read::Bytes(n) if echoes => self.said.extend_from_slice(&self.got[before..before + n]),
            Read::Eof => self.ended = true,
            Read::Reset => self.broken = true,
            _ => {}
        }
        assert!(echoes || self.said.starts_with(&self.got), "what comes back is not what was sent");
        let rest = &self.said[self.sent..];
        if !rest.is_empty() {
            match self.conn.send(rest) {
                Ok(n) => self.sent += n,
                Err(_) => self.broken = true,
            }
        }
        if self.sent == self.said.len() && !self.finished && (!echoes || self.ended) {
            self.finished = true;
            self.conn.shutdown();
        }
        Some(format!("{read:?} {}", self.sent))
    }
}
