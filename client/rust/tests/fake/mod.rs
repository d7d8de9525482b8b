//! A sidecar for the shim's tests: the real rings, handshake and doorbells, and answers of its own making.
//!
//! HTTP calls are echoed (status 200, the head's path in `x-path`), Dubbo and raw calls too, streams byte by byte. Paths
//! that begin with one of these do something else: `/reset/CODE`, `/turn-down/CODE` (the same before it is forwarded),
//! `/accepted` and `/forwarded` (no answer ever, in that state), `/die` (forwarded, then the sidecar dies), `/die-early`
//! (accepted, then it dies), `/early` (answers before the request has ended).
#![allow(dead_code)]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shmesh_shm::geometry::DIRECT_MODE;
use shmesh_shm::handshake::{
    self, Endpoints, FEATURE_POLICY, FEATURE_PRIORITY, Hello, LaneInfo, Message, Policy, Refused, RefusedCode, Welcome,
};
use shmesh_shm::{
    CallState, DirectShares, DirtyWatch, Flags, Geometry, Header, INLINE_KEY, Kind, LaneEnd, Mapping, Protocol, Reset,
    Side, TOTAL_UNKNOWN, doorbell, segment,
};

/// Small enough that parts, credit, full rings and full arenas all happen.
pub const SMALL: Geometry = Geometry {
    entries: 16,
    stride: 512,
    slots: 8,
    arena_bytes: 128 << 10,
    block_min: 1 << 10,
    block_max: 32 << 10,
    window: 32 << 10,
};

#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub geometry: Geometry,
    pub endpoints: Vec<String>,
    /// Looks are answered with this, if the app understands it, instead of the endpoints.
    pub policy: Option<Policy>,
    /// So many of them are answered, and the others never.
    pub lookups_max: Option<u64>,
    /// What the direct-mode word says, by priority.
    pub direct: Option<DirectShares>,
    pub refuse: Option<Refused>,
}

/// What the serving app answered.
#[derive(Debug, PartialEq, Eq)]
pub enum FromApp {
    Answer { code: u16, head: Vec<u8>, body: Vec<u8> },
    Reset(Reset),
}

/// A call or stream towards the serving app.
pub struct ToApp {
    pub protocol: Protocol,
    pub stream: bool,
    pub one_way: bool,
    pub head: Vec<u8>,
    pub body: Vec<u8>,
    pub answer: mpsc::Sender<FromApp>,
}

#[derive(Debug, Default)]
pub struct Counts {
    pub opens: AtomicU64,
    pub defines: AtomicU64,
    pub inline_keys: AtomicU64,
    pub resets: AtomicU64,
    pub lookups: AtomicU64,
    /// Sessions that were refused.
    pub refused: AtomicU64,
    /// Where the serving app said that it listens itself.
    pub served_at: Mutex<Option<String>>,
    /// Blocks that were still lent to the app when a session ended orderly.
    pub leaked: AtomicU64,
}

pub struct FakeSidecar {
    pub counts: Arc<Counts>,
    path: PathBuf,
    commands: mpsc::Sender<ToApp>,
    stop: Arc<AtomicBool>,
    wake: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl FakeSidecar {
    pub fn start(path: &Path, settings: Settings) -> FakeSidecar {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        let wake = doorbell::worker_bell().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let counts = Arc::new(Counts::default());
        let (commands, received) = mpsc::channel();
        let mut run = Run {
            settings,
            listener,
            wake: wake.try_clone().unwrap(),
            stop: stop.clone(),
            counts: counts.clone(),
            commands: received,
            sessions: Vec::new(),
        };
        let thread = std::thread::spawn(move || run.run());
        FakeSidecar { counts, path: path.to_owned(), commands, stop, wake, thread: Some(thread) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a call on a serving lane.
    pub fn call_app(&self, to_app: ToApp) {
        self.commands.send(to_app).unwrap();
        doorbell::ring_worker(&self.wake).unwrap();
    }

    /// Waits until so many lookups were answered.
    pub fn wait_for_lookups(&self, count: u64) {
        while self.counts.lookups.load(Ordering::SeqCst) < count {
            std::thread::yield_now();
        }
    }

    /// Ends as a killed process does: everything is closed at once.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        doorbell::ring_worker(&self.wake).unwrap();
        if let Some(thread) = self.thread.take() {
            let outcome = thread.join();
            if !std::thread::panicking() {
                outcome.unwrap();
            }
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Drop for FakeSidecar {
    fn drop(&mut self) {
        self.end();
    }
}

struct Run {
    settings: Settings,
    listener: UnixListener,
    wake: OwnedFd,
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
    commands: mpsc::Receiver<ToApp>,
    sessions: Vec<Session>,
}

struct Session {
    socket: UnixStream,
    inbox: Vec<u8>,
    worker: OwnedFd,
    watch: DirtyWatch,
    lanes: Vec<Lane>,
    /// The app understands POLICY.
    policies: bool,
    over: bool,
}

struct Lane {
    end: LaneEnd,
    bell: OwnedFd,
    serving: bool,
    generations: Vec<u64>,
    routes: HashMap<u32, (Protocol, Vec<u8>)>,
    calls: HashMap<u32, Call>,
    blocked: bool,
}

struct Call {
    generation: u64,
    stream: bool,
    opener: bool,
    one_way: bool,
    code: u16,
    protocol: Protocol,
    head: Vec<u8>,
    body: Vec<u8>,
    received_end: bool,
    /// Our first record (ANSWER or OPEN) is due, or not any more.
    first: Option<(Kind, Vec<u8>)>,
    out: Vec<u8>,
    sent: usize,
    ends: bool,
    ended: bool,
    credit: u64,
    ungranted: u32,
    /// Bytes that the app may send.
    open: u64,
    answer: Option<mpsc::Sender<FromApp>>,
}

impl Run {
    fn run(&mut self) {
        while !self.stop.load(Ordering::SeqCst) {
            while let Ok(command) = self.commands.try_recv() {
                self.open(command);
            }
            let mut idle = true;
            for session in &mut self.sessions {
                if session.turn(&self.counts, &self.stop) {
                    idle = false;
                }
            }
            self.sessions.retain(|session| !session.over);
            if idle {
                self.sleep();
            }
        }
    }

    fn sleep(&mut self) {
        let mut fds = vec![
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        for session in &self.sessions {
            fds.push(PollFd::new(session.socket.as_fd(), PollFlags::POLLIN));
            fds.push(PollFd::new(session.worker.as_fd(), PollFlags::POLLIN));
        }
        let woken = poll(&mut fds, PollTimeout::try_from(300_000).unwrap()).unwrap();
        assert!(woken > 0, "nothing happened for five minutes");
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap()).collect();
        drop(fds);
        drain(&self.wake, ready[0]);
        for (session, ready) in self.sessions.iter_mut().zip(ready[2..].chunks(2)) {
            if ready[0] {
                session.read(&self.settings, &self.counts);
            }
            drain(&session.worker, ready[1]);
        }
        if ready[1] {
            self.accept();
        }
    }

    fn accept(&mut self) {
        let (mut socket, _) = self.listener.accept().unwrap();
        let mut bytes = Vec::new();
        let hello = loop {
            let mut piece = [0; 256];
            let len = socket.read(&mut piece).unwrap();
            if len == 0 {
                return;
            }
            bytes.extend_from_slice(&piece[..len]);
            if let Some((Message::Hello(hello), _)) = Message::decode(&bytes).unwrap() {
                break hello;
            }
        };
        if let Some(refused) = &self.settings.refuse {
            let mut bytes = Vec::new();
            Message::Refused(refused.clone()).encode(&mut bytes).unwrap();
            self.counts.refused.fetch_add(1, Ordering::SeqCst);
            socket.write_all(&bytes).unwrap();
            return;
        }
        let session = Session::welcome(socket, &hello, &self.settings);
        self.sessions.push(session);
    }

    fn open(&mut self, to_app: ToApp) {
        let mut lanes = self.sessions.iter_mut().flat_map(|session| &mut session.lanes);
        let lane = lanes.find(|lane| lane.serving).expect("a serving app");
        let slots = lane.end.geometry().slots;
        let slot = (0..slots).find(|slot| !lane.calls.contains_key(slot)).expect("a free slot");
        lane.generations[slot as usize] += 1;
        let window = u64::from(lane.end.geometry().window);
        let call = Call {
            generation: lane.generations[slot as usize],
            stream: to_app.stream,
            opener: true,
            one_way: to_app.one_way,
            code: to_app.protocol as u16,
            protocol: to_app.protocol,
            head: Vec::new(),
            body: Vec::new(),
            received_end: false,
            first: Some((Kind::Open, to_app.head)),
            out: to_app.body,
            sent: 0,
            ends: true,
            ended: false,
            credit: window,
            ungranted: 0,
            open: window,
            answer: Some(to_app.answer),
        };
        lane.calls.insert(slot, call);
    }
}

impl Session {
    fn welcome(socket: UnixStream, hello: &Hello, settings: &Settings) -> Session {
        let geometry = settings.geometry;
        let known = [(settings.policy.is_some(), FEATURE_POLICY), (settings.direct.is_some(), FEATURE_PRIORITY)];
        let features = hello.features & known.iter().filter(|(knows, _)| *knows).map(|(_, bit)| bit).sum::<u64>();
        let mut lanes = Vec::new();
        for bit in 0..hello.calling_lanes + u16::from(hello.serving) {
            lanes.push(LaneInfo { serving: bit >= hello.calling_lanes, worker: 0, bit: bit as u8 });
        }
        let len = geometry.segment_bytes(lanes.len() as u16);
        let memfds = [segment::create("to_proxy", len).unwrap(), segment::create("to_app", len).unwrap()];
        let to_proxy = Arc::new(Mapping::read_only(&memfds[0], len).unwrap());
        let to_app = Arc::new(Mapping::read_write(&memfds[1], len).unwrap());
        to_app.store(DIRECT_MODE, settings.direct.unwrap_or_default().word(true));
        let worker = doorbell::worker_bell().unwrap();
        let (ours, theirs): (Vec<OwnedFd>, Vec<OwnedFd>) = lanes.iter().map(|_| doorbell::lane_bell().unwrap()).unzip();
        let for_app = segment::for_app(&memfds[1], 1).unwrap().memfd;
        let mut fds = vec![memfds[0].as_fd(), for_app.as_fd(), worker.as_fd()];
        fds.extend(theirs.iter().map(AsFd::as_fd));
        let welcome = Welcome { version: 1, workers: 1, features, geometry, lanes: lanes.clone() };
        let mut bytes = Vec::new();
        Message::Welcome(welcome).encode(&mut bytes).unwrap();
        assert_eq!(handshake::send(socket.as_fd(), &bytes, &fds).unwrap(), bytes.len());
        socket.set_nonblocking(true).unwrap();
        let lane = |(index, (info, bell)): (usize, (&LaneInfo, OwnedFd))| Lane {
            end: LaneEnd::new(Side::Sidecar, &to_proxy, &to_app, &geometry, index as u16),
            bell,
            serving: info.serving,
            generations: vec![0; geometry.slots as usize],
            routes: HashMap::new(),
            calls: HashMap::new(),
            blocked: false,
        };
        Session {
            watch: DirtyWatch::new(&to_proxy, &to_app, 0),
            lanes: lanes.iter().zip(ours).enumerate().map(lane).collect(),
            socket,
            inbox: Vec::new(),
            worker,
            policies: features & FEATURE_POLICY != 0,
            over: false,
        }
    }

    /// Messages on the session socket.
    fn read(&mut self, settings: &Settings, counts: &Counts) {
        let mut piece = [0; 4096];
        loop {
            match self.socket.read(&mut piece) {
                Ok(0) => {
                    self.over = true;
                    let leaked: u32 = self.lanes.iter_mut().map(|lane| lane.end.lent_blocks()).sum();
                    counts.leaked.fetch_add(u64::from(leaked), Ordering::SeqCst);
                    return;
                }
                Ok(len) => self.inbox.extend_from_slice(&piece[..len]),
                Err(_) => break,
            }
        }
        while let Some((message, used)) = Message::decode(&self.inbox).unwrap() {
            self.inbox.drain(..used);
            let lookup = match message {
                Message::Lookup(lookup) => lookup,
                Message::ServesAt(path) if self.policies => {
                    *counts.served_at.lock().unwrap() = Some(path);
                    continue;
                }
                other => panic!("{other:?}"),
            };
            if settings.lookups_max.is_some_and(|most| counts.lookups.load(Ordering::SeqCst) >= most) {
                continue;
            }
            let answer = match &settings.policy {
                Some(policy) if self.policies => Message::Policy(lookup.id, policy.clone()),
                _ => Message::Endpoints(Endpoints { id: lookup.id, endpoints: settings.endpoints.clone() }),
            };
            let mut bytes = Vec::new();
            answer.encode(&mut bytes).unwrap();
            // A client that is gone by now is not told; its end is read next.
            let _ = self.socket.write_all(&bytes);
            counts.lookups.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// True if something was done, so that there may be more.
    fn turn(&mut self, counts: &Counts, stop: &AtomicBool) -> bool {
        self.watch.take();
        let mut any = false;
        for lane in &mut self.lanes {
            any |= lane.turn(counts, stop);
        }
        any || self.lanes.iter_mut().any(|lane| !lane.end.park(lane.blocked))
    }
}

impl Lane {
    fn turn(&mut self, counts: &Counts, stop: &AtomicBool) -> bool {
        let mut any = false;
        while let Some(header) = self.end.peek().unwrap() {
            any = true;
            self.take(&header, counts, stop);
            self.end.advance();
        }
        self.blocked = false;
        let mut slots: Vec<u32> = self.calls.keys().copied().collect();
        slots.sort_unstable();
        for slot in slots {
            any |= self.pump(slot);
        }
        if self.end.publish() {
            doorbell::ring_lane(&self.bell).unwrap();
        }
        any
    }

    fn take(&mut self, header: &Header, counts: &Counts, stop: &AtomicBool) {
        let mut payload = vec![0; header.length as usize];
        self.end.read_payload(0, &mut payload).unwrap();
        let (head, rest) = payload.split_at(header.head_len as usize);
        match header.kind {
            Kind::Define => {
                counts.defines.fetch_add(1, Ordering::SeqCst);
                self.routes.insert(header.route, (header.protocol().unwrap(), payload.clone()));
                return;
            }
            Kind::Open => self.take_open(header, head, rest, counts),
            _ => {}
        }
        let current = |call: &&mut Call| call.generation == header.generation;
        let Some(call) = self.calls.get_mut(&header.slot).filter(current) else { return };
        match header.kind {
            Kind::Credit => return call.credit += u64::from(header.credit),
            Kind::Reset => {
                counts.resets.fetch_add(1, Ordering::SeqCst);
                if let Some(answer) = &call.answer {
                    let _ = answer.send(FromApp::Reset(header.reset_code().unwrap()));
                }
                self.calls.remove(&header.slot);
                return;
            }
            Kind::Answer => {
                assert!(call.opener && !call.stream);
                call.code = header.code;
                call.head = head.to_vec();
                call.body.extend_from_slice(rest);
            }
            Kind::Data => call.body.extend_from_slice(rest),
            Kind::Open | Kind::Define => {}
        }
        call.open = call.open.checked_sub(u64::from(header.length)).expect("more than was granted");
        call.ungranted += header.length;
        call.received_end |= header.flags.end();
        self.act(header.slot, stop);
    }

    fn take_open(&mut self, header: &Header, head: &[u8], rest: &[u8], counts: &Counts) {
        assert!(!self.serving && !self.calls.contains_key(&header.slot), "the slot is in use");
        let generation = &mut self.generations[header.slot as usize];
        assert!(header.generation > *generation);
        *generation = header.generation;
        counts.opens.fetch_add(1, Ordering::SeqCst);
        let protocol = header.protocol().unwrap();
        let key = match header.route {
            INLINE_KEY => {
                counts.inline_keys.fetch_add(1, Ordering::SeqCst);
                head.to_vec()
            }
            id => {
                let (defined, key) = &self.routes[&id];
                assert_eq!(*defined, protocol);
                key.clone()
            }
        };
        self.end.set_state(header.slot, header.generation, CallState::Accepted);
        let window = u64::from(self.end.geometry().window);
        let call = Call {
            generation: header.generation,
            stream: header.flags.stream(),
            opener: false,
            one_way: header.flags.one_way(),
            code: 0,
            protocol,
            head: key,
            body: rest.to_vec(),
            received_end: false,
            first: None,
            out: Vec::new(),
            sent: 0,
            ends: false,
            ended: false,
            credit: window,
            ungranted: 0,
            open: window,
            answer: None,
        };
        if header.total != TOTAL_UNKNOWN && header.flags.end() {
            assert_eq!(header.total, rest.len() as u64);
        }
        self.calls.insert(header.slot, call);
    }

    /// Decides what to do with what came.
    fn act(&mut self, slot: u32, stop: &AtomicBool) {
        let call = self.calls.get_mut(&slot).unwrap();
        let generation = call.generation;
        if call.opener {
            if call.received_end
                && let Some(answer) = call.answer.take()
            {
                let (code, head) = (call.code, std::mem::take(&mut call.head));
                let _ = answer.send(FromApp::Answer { code, head, body: std::mem::take(&mut call.body) });
            }
            return;
        }
        if call.stream {
            call.out.append(&mut call.body);
            call.ends |= call.received_end;
            return;
        }
        let line = if call.protocol == Protocol::Raw { &call.body } else { &call.head };
        let line = String::from_utf8_lossy(line).into_owned();
        let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
        let dies = path.starts_with("/die");
        if path.starts_with("/early") && call.first.is_none() && !call.ended {
            call.first = Some((Kind::Answer, b"HTTP/1.1 413 Too Large\r\n\r\n".to_vec()));
            call.code = 413;
            call.ends = true;
            return;
        }
        if !call.received_end {
            return;
        }
        if path != "/accepted" && path != "/die-early" && !path.starts_with("/turn-down/") {
            self.end.set_state(slot, generation, CallState::Forwarded);
            LaneEnd::fence();
            if self.end.is_withdrawn(slot, generation) {
                return;
            }
        }
        if dies {
            stop.store(true, Ordering::SeqCst);
            return;
        }
        if let Some(code) = path.strip_prefix("/reset/").or(path.strip_prefix("/turn-down/")) {
            let why = Reset::from_u16(code.parse().unwrap()).unwrap();
            self.end.put(&Header::reset(slot, generation, why), &[b"as was asked"]).unwrap();
            self.calls.remove(&slot);
            return;
        }
        if path == "/accepted" || path == "/forwarded" {
            return;
        }
        let call = self.calls.get_mut(&slot).unwrap();
        let head = match call.protocol {
            Protocol::Http => format!("HTTP/1.1 200 OK\r\nx-path: {path}\r\n\r\n").into_bytes(),
            Protocol::Dubbo2 | Protocol::Raw => Vec::new(),
        };
        call.code = match call.protocol {
            Protocol::Http => 200,
            Protocol::Dubbo2 => 20,
            Protocol::Raw => 0,
        };
        call.first = Some((Kind::Answer, head));
        call.out = if call.one_way { Vec::new() } else { std::mem::take(&mut call.body) };
        call.ends = true;
    }

    /// Sends what there is to be sent. True if something was.
    fn pump(&mut self, slot: u32) -> bool {
        let mut any = false;
        let block_max = u64::from(self.end.geometry().block_max);
        let inline_max = u64::from(self.end.geometry().inline_max());
        let call = self.calls.get_mut(&slot).unwrap();
        loop {
            let left = (call.out.len() - call.sent) as u64;
            let head = call.first.as_ref().map_or(0, |(_, head)| head.len() as u64);
            let due = call.first.is_some() || left > 0 || call.ends && !call.ended;
            let wanted = (head + left).min(call.credit).min(block_max);
            let largest = u64::from(self.end.largest_part());
            let part = if wanted <= inline_max { wanted } else { wanted.min(largest.max(inline_max)) };
            if !due || left > 0 && call.credit == 0 || part < head {
                break;
            }
            let (kind, head) = call.first.clone().unwrap_or((Kind::Data, Vec::new()));
            let bytes = &call.out[call.sent..call.sent + part as usize - head.len()];
            let end = call.ends && bytes.len() as u64 == left;
            let mut header = Header::new(kind, slot, call.generation);
            header.flags = Flags::NONE.with_end(end);
            header.head_len = head.len() as u32;
            header.total = if kind == Kind::Data { TOTAL_UNKNOWN } else { call.out.len() as u64 };
            if kind != Kind::Data {
                header.code = call.code;
            }
            if kind == Kind::Open {
                header.route = INLINE_KEY;
                header.flags = header.flags | if call.stream { Flags::STREAM } else { Flags::NONE };
                header.flags = header.flags | if call.one_way { Flags::ONE_WAY } else { Flags::NONE };
            }
            if end && !call.opener {
                self.end.set_state(slot, call.generation, CallState::Answered);
            }
            if self.end.put(&header, &[&head, bytes]).is_err() {
                self.blocked = true;
                break;
            }
            any = true;
            call.sent += bytes.len();
            call.credit -= part;
            call.first = None;
            call.ended |= end;
        }
        // What is not sent back yet is not made room for.
        let backlog = if call.opener { 0 } else { call.out.len() - call.sent };
        let window = self.end.geometry().window;
        // Who has answered need not take the rest of a request.
        let listens = call.stream || call.opener || !call.ended;
        if listens && !call.received_end && call.ungranted >= window / 2 && backlog <= window as usize {
            let credit = Header::credit(slot, call.generation, call.ungranted);
            if self.end.put(&credit, &[]).is_ok() {
                call.open += u64::from(std::mem::take(&mut call.ungranted));
                any = true;
            } else {
                self.blocked = true;
            }
        }
        if call.ended && call.received_end {
            self.calls.remove(&slot);
        }
        any
    }
}

fn drain(eventfd: &OwnedFd, ready: bool) {
    if ready {
        let _ = nix::unistd::read(eventfd, &mut [0; 8]);
    }
}

/// A refusal as a sidecar of another version sends it.
pub fn other_version() -> Refused {
    Refused {
        code: RefusedCode::Version as u16,
        version_min: 7,
        version_max: 9,
        sentence: "this sidecar speaks shm 7 to 9, you speak 1".into(),
    }
}

/// Bytes that differ from those of every other number.
pub fn pattern(number: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (number.wrapping_mul(0x9E37_79B9).wrapping_add(i * 7) >> 3) as u8).collect()
}
