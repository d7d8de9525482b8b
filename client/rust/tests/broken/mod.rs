//! A sidecar that cannot be trusted: it answers, and changes what it has written, before it is read and while it is.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use shmesh_shm::geometry::{
    CONSUMED, HEADER_BYTES, PARKED, PUBLISHED, RELEASED, RELEASES_AT, SLOT_WORDS, WORKER_WORDS,
};
use shmesh_shm::handshake::{self, Endpoints, Hello, LaneInfo, Message, Welcome};
use shmesh_shm::{
    CallState, Flags, Geometry, Header, INLINE_KEY, Kind, LaneEnd, Mapping, Protocol, Side, doorbell, segment,
};

/// Small enough that everything is met soon.
const GEOMETRY: Geometry = Geometry {
    entries: 16,
    stride: 512,
    slots: 8,
    arena_bytes: 128 << 10,
    block_min: 1 << 10,
    block_max: 32 << 10,
    window: 32 << 10,
};

/// How long a session lasts at most.
const LIFE: Duration = Duration::from_millis(60);

/// Words that are changed in one go while they may be read.
const BURST: u64 = 12;

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.word() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

pub struct BrokenSidecar {
    path: PathBuf,
    mutations: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl BrokenSidecar {
    pub fn start(path: &Path, seed: u64) -> BrokenSidecar {
        println!("a broken sidecar of seed {seed}");
        let listener = UnixListener::bind(path).unwrap();
        let (mutations, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ended) = (mutations.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut random = Random(seed);
            while let Ok((socket, _)) = listener.accept() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                // One after the other: the shim that is tested has one session at a time.
                let _ = serve(socket, &mut random, &count, &ended);
            }
        });
        BrokenSidecar { path: path.to_owned(), mutations, stop, thread: Some(thread) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Words, fields and bytes changed so far.
    pub fn mutations(&self) -> u64 {
        self.mutations.load(Ordering::SeqCst)
    }
}

impl Drop for BrokenSidecar {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(&self.path);
        let outcome = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            outcome.unwrap().unwrap();
        }
    }
}

struct Lane {
    end: LaneEnd,
    bell: OwnedFd,
    at: usize,
    serving: bool,
    generation: u64,
    put: u64,
}

/// One session, from HELLO to its end. `None`: the shim is gone, or never was.
fn serve(mut socket: UnixStream, random: &mut Random, mutations: &AtomicU64, stop: &AtomicBool) -> Option<()> {
    socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let hello = read_hello(&mut socket)?;
    let serving = u16::from(hello.serving);
    let count = hello.calling_lanes.clamp(1 - serving, 4) + serving;
    let infos: Vec<LaneInfo> =
        (0..count).map(|lane| LaneInfo { serving: lane >= count - serving, worker: 0, bit: lane as u8 }).collect();
    let len = GEOMETRY.segment_bytes(count);
    let memfds = [segment::create("to_proxy", len).ok()?, segment::create("to_app", len).ok()?];
    let to_proxy = Arc::new(Mapping::read_only(&memfds[0], len).ok()?);
    let to_app = Arc::new(Mapping::read_write(&memfds[1], len).ok()?);
    let worker = doorbell::worker_bell().ok()?;
    let (ours, theirs): (Vec<OwnedFd>, Vec<OwnedFd>) = infos.iter().map(|_| doorbell::lane_bell().unwrap()).unzip();
    welcome(&socket, &infos, &memfds, &worker, &theirs, random, mutations)?;
    drop((memfds, theirs));
    let mut lanes: Vec<Lane> = infos
        .iter()
        .zip(ours)
        .enumerate()
        .map(|(index, (info, bell))| Lane {
            end: LaneEnd::new(Side::Sidecar, &to_proxy, &to_app, &GEOMETRY, index as u16),
            bell,
            at: GEOMETRY.lane_at(index as u16),
            serving: info.serving,
            generation: 0,
            put: 0,
        })
        .collect();
    socket.set_nonblocking(true).ok()?;
    let until = Instant::now() + LIFE;
    while Instant::now() < until && !stop.load(Ordering::SeqCst) {
        for lane in &mut lanes {
            lane.turn(&to_app, random, mutations)?;
        }
        let mut piece = [0; 4096];
        if let Ok(0) = socket.read(&mut piece) {
            return None;
        }
        if random.one_in(400) {
            babble(&mut socket, random, mutations)?;
        }
        // Not each time: beside busy processes that would be one turn in some milliseconds.
        if random.one_in(16) {
            std::thread::yield_now();
        }
    }
    Some(())
}

fn read_hello(socket: &mut UnixStream) -> Option<Hello> {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 256];
        let len = socket.read(&mut piece).ok().filter(|&len| len > 0)?;
        bytes.extend_from_slice(&piece[..len]);
        if let Some((Message::Hello(hello), _)) = Message::decode(&bytes).ok()? {
            return Some(hello);
        }
    }
}

/// Says WELCOME, one time in eight with something wrong in it. `None`: that was all.
fn welcome(
    socket: &UnixStream,
    lanes: &[LaneInfo],
    memfds: &[OwnedFd; 2],
    worker: &OwnedFd,
    bells: &[OwnedFd],
    random: &mut Random,
    mutations: &AtomicU64,
) -> Option<()> {
    let welcome = Welcome { version: 1, workers: 1, features: 0, geometry: GEOMETRY, lanes: lanes.to_vec() };
    let mut bytes = Vec::new();
    Message::Welcome(welcome).encode(&mut bytes).unwrap();
    let mut fds: Vec<BorrowedFd<'_>> = vec![memfds[0].as_fd(), memfds[1].as_fd(), worker.as_fd()];
    fds.extend(bells.iter().map(AsFd::as_fd));
    let small = segment::create("small", 4096).ok()?;
    let loose = tempfile::tempfile().ok()?;
    loose.set_len(1 << 20).ok()?;
    let wrong = random.one_in(8);
    if wrong {
        mutations.fetch_add(1, Ordering::SeqCst);
        match random.below(6) {
            // A field of the message.
            0 | 1 => {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.word() as u8;
            }
            // Not all of the descriptors, or more than that.
            2 => fds.truncate(random.below(fds.len() as u64) as usize),
            3 => fds.extend([worker.as_fd(); 20]),
            // A segment that is too short, or may shrink.
            4 => fds[random.below(2) as usize] = small.as_fd(),
            _ => fds[random.below(2) as usize] = loose.as_fd(),
        }
    }
    handshake::send(socket.as_fd(), &bytes, &fds).ok()?;
    (!wrong || random.one_in(2)).then_some(())
}

/// Says something on the session socket that has no place there, or means nothing.
fn babble(socket: &mut UnixStream, random: &mut Random, mutations: &AtomicU64) -> Option<()> {
    let mut bytes = Vec::new();
    let endpoints = vec!["tcp:127.0.0.1:1".to_owned(), "shm:x".to_owned(), "\0".to_owned(), "unix:/".to_owned()];
    Message::Endpoints(Endpoints { id: random.below(3) as u32, endpoints }).encode(&mut bytes).unwrap();
    if random.one_in(4) {
        Message::GoAway.encode(&mut bytes).unwrap();
    }
    for _ in 0..random.below(3) {
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] = random.word() as u8;
        mutations.fetch_add(1, Ordering::SeqCst);
    }
    // A shim that does not read is of no interest.
    let _ = socket.write(&bytes);
    Some(())
}

impl Lane {
    fn turn(&mut self, memory: &Mapping, random: &mut Random, mutations: &AtomicU64) -> Option<()> {
        // The shim keeps to the page, unless it was led to believe what is not so: then this session is over.
        while let Some(header) = self.end.peek().ok()? {
            let mut payload = vec![0; header.length as usize];
            self.end.read_payload(0, &mut payload).ok()?;
            self.end.advance();
            self.hear(&header, payload, memory, random, mutations);
        }
        if self.serving && random.one_in(16) {
            self.generation += 1;
            let mut open = Header::new(Kind::Open, random.below(8) as u32, self.generation);
            let key = b"POST /x HTTP/1.1\r\nHost: app\r\n\r\n";
            (open.code, open.route, open.head_len) = (Protocol::Http as u16, INLINE_KEY, key.len() as u32);
            open.flags = if random.one_in(4) { Flags::STREAM } else { Flags::END };
            self.put(&open, &[key, &vec![b'q'; random.below(2_000) as usize]], memory, random, mutations);
        }
        if random.one_in(64) {
            self.spoil_words(memory, random, mutations);
        }
        if self.end.publish() || random.one_in(16) {
            let _ = doorbell::ring_lane(&self.bell);
        }
        if random.one_in(8) {
            self.flip(memory, random, mutations);
        }
        Some(())
    }

    fn hear(
        &mut self,
        header: &Header,
        payload: Vec<u8>,
        memory: &Mapping,
        random: &mut Random,
        mutations: &AtomicU64,
    ) {
        let (slot, generation) = (header.slot, header.generation);
        if self.serving || !matches!(header.kind, Kind::Open | Kind::Data) || random.one_in(16) {
            return;
        }
        let state = if random.one_in(4) { CallState::Answered } else { CallState::Forwarded };
        self.end.set_state(slot, generation, state);
        let credit = Header::credit(slot, generation, header.length.max(1));
        self.put(&credit, &[], memory, random, mutations);
        let end = header.flags.end() || random.one_in(2);
        let mut answer = Header::new(Kind::Data, slot, generation);
        if header.flags.stream() || header.kind == Kind::Data {
            answer.flags = Flags::NONE.with_end(random.one_in(8));
            return self.put(&answer, &[&payload], memory, random, mutations);
        }
        let head = b"HTTP/1.1 200 OK\r\nx: y\r\n\r\n";
        answer.kind = Kind::Answer;
        (answer.code, answer.head_len, answer.flags) = (200, head.len() as u32, Flags::NONE.with_end(end));
        let body = &payload[..payload.len().min(20_000)];
        self.put(&answer, &[head, body], memory, random, mutations);
    }

    /// Puts a record, and changes one to four of its fields before anybody can have read it.
    fn put(&mut self, header: &Header, parts: &[&[u8]], memory: &Mapping, random: &mut Random, mutations: &AtomicU64) {
        if self.end.put(header, parts).is_err() {
            return;
        }
        let entry = self.entry_at(self.put);
        self.put += 1;
        if !random.one_in(4) {
            return;
        }
        for _ in 0..1 + random.below(4) {
            let at = entry + 8 * random.below(6 + 4) as usize;
            let now = memory.load(at);
            let lie = match random.below(4) {
                0 => now ^ 1 << random.below(64),
                1 => now.wrapping_add(1),
                2 => now & 0xFFFF_FFFF | random.below(1 << 20) << 32,
                _ => random.word(),
            };
            memory.store(at, lie);
            mutations.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Changes counters, flags, states, releases, `seen`.
    fn spoil_words(&self, memory: &Mapping, random: &mut Random, mutations: &AtomicU64) {
        let at = match random.below(8) {
            0 => self.at + PUBLISHED,
            1 => self.at + CONSUMED,
            2 => self.at + RELEASED,
            3 => self.at + PARKED,
            4 | 5 => self.at + SLOT_WORDS + 8 * random.below(8) as usize,
            6 => self.at + RELEASES_AT + 8 * random.below(16) as usize,
            _ => WORKER_WORDS * random.below(3) as usize,
        };
        let near = memory.load(at).wrapping_add(random.below(5)).wrapping_sub(2);
        memory.store(at, if random.one_in(2) { near } else { random.word() });
        mutations.fetch_add(1, Ordering::SeqCst);
    }

    /// Changes words while the shim may be reading them, and puts most of them back.
    fn flip(&self, memory: &Mapping, random: &mut Random, mutations: &AtomicU64) {
        for _ in 0..BURST {
            let entry = self.entry_at(self.put.wrapping_sub(random.below(4)));
            let at = entry + 8 * random.below(u64::from(HEADER_BYTES) / 8 + 8) as usize;
            let before = memory.load(at);
            memory.store(at, random.word());
            for _ in 0..random.below(64) {
                std::hint::spin_loop();
            }
            if !random.one_in(8) {
                memory.store(at, before);
            }
        }
        mutations.fetch_add(BURST, Ordering::SeqCst);
    }

    fn entry_at(&self, record: u64) -> usize {
        let place = record & u64::from(GEOMETRY.entries - 1);
        self.at + GEOMETRY.ring_at() + place as usize * GEOMETRY.stride as usize
    }
}
