//! The thread that talks to apps on the session sockets: handshake, sign of life, look-ups. The data path is not here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, SystemTime};

use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use shmesh_io::driver::ACCEPT_PAUSE;
use shmesh_io::is_exhaustion;
use shmesh_shm::geometry::DIRECT_MODE;
use shmesh_shm::handshake::{
    FEATURE_LIVENESS, FEATURE_POLICY, FEATURE_PRIORITY, Hello, LaneInfo, Lookup, Message, Refused, RefusedCode,
    SILENCE_MS_MAX, VERSION, Welcome,
};
use shmesh_shm::{Geometry, Mapping, descriptors, doorbell, host, segment};

use crate::counters::lock;
use crate::direct::Direct;
use crate::handover::TakenDesk;
use crate::liveness::Liveness;
use crate::lookup::{Known, Lookups};
use crate::mailbox::{Mail, Postbox};
use crate::memory::NO_MEMORY;
use crate::quota::{Quota, SessionUse};
use crate::session::{NewLane, NewLanes, SessionView};
use crate::shared::Shared;

/// Its name. A process has it when it serves, and not before: that is how a supervisor, which may be of another version, knows that one has taken over.
pub const SESSION_THREAD: &str = "sessions";

/// Connections that have not said HELLO yet; beyond, the one that has been silent longest is closed.
pub const HANDSHAKES_MAX: usize = 64;

/// Lanes of one session at most, so that their descriptors fit one message.
pub const LANES_MAX: usize = 200;

/// What this sidecar knows beyond the first version of the page.
const FEATURES: u64 = FEATURE_LIVENESS | FEATURE_POLICY | FEATURE_PRIORITY;

/// How often connections that have not said HELLO yet are looked at.
const SILENT_LOOK: Duration = Duration::from_millis(500);

/// Bytes that wait for an app to take them; an app that asks on without taking answers has its session ended then.
pub const UNSAID_BYTES_MAX: usize = 1 << 20;

/// How often an app that serves may say where: each time, all apps that call it are told.
pub const SERVES_AT_MAX: u32 = 16;

/// Bytes taken from one connection at a time.
const READ_BYTES: usize = 4096;

/// What the thread is made of.
pub struct SessionThread {
    pub shared: Arc<Shared>,
    pub workers: Vec<Postbox>,
    pub listeners: Vec<(u16, UnixListener)>,
    /// Wakes this thread.
    pub bell: OwnedFd,
    /// Of every session that attaches.
    pub geometry: Geometry,
    pub liveness: Liveness,
    /// What another process's session thread gave, and the sessions that ended since.
    pub(crate) taken: Option<(TakenDesk, Vec<u64>)>,
}

/// One connection of an app.
pub(crate) struct Peer {
    pub socket: UnixStream,
    pub listener: u16,
    pub input: Vec<u8>,
    /// What its socket has not taken yet.
    pub unsaid: Vec<u8>,
    pub uid: u32,
    pub pid: i32,
    /// When it connected, on the clock of `host`.
    pub since: u64,
    pub session: Option<Session>,
}

pub(crate) struct Session {
    pub id: u64,
    pub _usage: Arc<SessionUse>,
    pub app: String,
    pub serves: Option<String>,
    /// Where the direct-mode word is, and what it says.
    pub to_app: Arc<Mapping>,
    pub direct: u64,
    pub welcome: Welcome,
    pub lookups: Lookups,
    /// Answers changed that it was not told, as it did not take those before.
    pub behind: bool,
    /// How often it said where it listens.
    pub said_where: u32,
    pub files: Files,
}

/// What the session is made of, kept for a process that goes on with it.
pub(crate) struct Files {
    pub to_proxy: OwnedFd,
    pub to_app: OwnedFd,
    pub worker_bells: Vec<OwnedFd>,
}

/// Why a connection is closed.
enum Close {
    Gone,
    Refused,
}

impl SessionThread {
    /// Runs until the process ends or the bell's other end is gone.
    pub fn start(self) -> io::Result<()> {
        // What it opens is open when the process says that it is ready.
        let desk = Desk::new(self);
        thread::Builder::new().name(SESSION_THREAD.into()).spawn(move || desk.run())?;
        Ok(())
    }
}

/// The thread's work.
pub(crate) struct Desk {
    pub shared: Arc<Shared>,
    workers: Vec<Postbox>,
    listeners: Vec<(u16, UnixListener)>,
    bell: OwnedFd,
    geometry: Geometry,
    pub liveness: Liveness,
    /// In the order in which they came, which is the order in which they are looked at.
    pub peers: BTreeMap<u64, Peer>,
    pub names: HashSet<String>,
    /// The sockets of their own on which serving apps listen, by name.
    pub served_at: HashMap<String, String>,
    pub next_peer: u64,
    pub next_session: u64,
    pub next_worker: usize,
    version: u64,
    said_goodbye: bool,
    /// Given up when no other descriptor is left, so that one app at a time is still heard, and told why it is refused.
    spare: Option<OwnedFd>,
    /// Until when nobody is accepted, on the clock of `host`: there is no descriptor.
    accepts_at: u64,
}

impl Desk {
    pub fn new(parts: SessionThread) -> Desk {
        let version = parts.shared.version.load(Ordering::Acquire);
        if parts.taken.is_none() {
            parts.shared.sessions.quotas.size_up();
        }
        let mut desk = Desk {
            shared: parts.shared,
            workers: parts.workers,
            listeners: parts.listeners,
            bell: parts.bell,
            geometry: parts.geometry,
            liveness: parts.liveness,
            peers: BTreeMap::new(),
            names: HashSet::new(),
            served_at: HashMap::new(),
            next_peer: 0,
            next_session: 1,
            next_worker: 0,
            version,
            said_goodbye: false,
            spare: spare(),
            accepts_at: 0,
        };
        if let Some((taken, ended)) = parts.taken {
            desk.go_on(taken, &ended);
        }
        desk
    }

    /// For ever.
    pub fn run(mut self) {
        loop {
            self.turn();
        }
    }

    /// Waits, and does what there is to do.
    pub fn turn(&mut self) {
        let (readable, bell, accept) = self.wait();
        if bell {
            let mut count = [0; 8];
            let _ = nix::unistd::read(&self.bell, &mut count);
            self.look_around();
        }
        for index in accept {
            self.accept(index);
        }
        for id in readable {
            if let Err(close) = self.read(id).and_then(|()| self.catch_up(id)) {
                self.close(id, &close);
            }
        }
        self.close_silent();
        self.spare = self.spare.take().or_else(spare);
    }

    /// Waits for something to do: peers to read, the bell, listeners to accept from.
    fn wait(&self) -> (Vec<u64>, bool, Vec<usize>) {
        let ids: Vec<u64> = self.peers.keys().copied().collect();
        let waiting = self.peers.values().filter(|peer| peer.session.is_none()).count();
        let pause = Duration::from_nanos(self.accepts_at.saturating_sub(host::now()));
        let listeners: &[_] = if self.said_goodbye || !pause.is_zero() { &[] } else { &self.listeners };
        let mut polled = vec![PollFd::new(self.bell.as_fd(), PollFlags::POLLIN)];
        polled.extend(listeners.iter().map(|(_, listener)| PollFd::new(listener.as_fd(), PollFlags::POLLIN)));
        polled.extend(ids.iter().map(|id| {
            let peer = &self.peers[id];
            let mut events = PollFlags::POLLIN;
            events.set(PollFlags::POLLOUT, peer.is_behind());
            PollFd::new(peer.socket.as_fd(), events)
        }));
        let timeouts = [(waiting > 0).then_some(SILENT_LOOK), Some(pause).filter(|pause| !pause.is_zero())];
        let timeout = timeouts.into_iter().flatten().min();
        if host::poll(&mut polled, timeout).is_err() {
            return (Vec::new(), false, Vec::new());
        }
        let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        let accept = (0..listeners.len()).filter(|&index| ready(&polled[1 + index])).collect();
        let first = 1 + listeners.len();
        let readable = ids.iter().enumerate().filter(|(index, _)| ready(&polled[first + index])).map(|(_, id)| *id);
        (readable.collect(), ready(&polled[0]), accept)
    }

    /// Something changed outside: an upgrade, a worker ended a session, a new snapshot, draining.
    fn look_around(&mut self) {
        let order = lock(&self.shared.sessions.rest).take();
        if let Some(order) = order {
            self.rest(&order);
        }
        while let Some(session) = self.shared.sessions.ended.pop() {
            let peer = self.peers.iter().find(|(_, peer)| peer.session.as_ref().is_some_and(|s| s.id == session));
            if let Some((&id, _)) = peer {
                self.close(id, &Close::Gone);
            }
        }
        let version = self.shared.version.load(Ordering::Acquire);
        if version != self.version {
            self.version = version;
            self.answer_again();
        }
        let direct = lock(&self.shared.sessions.direct);
        for session in self.peers.values_mut().filter_map(|peer| peer.session.as_mut()) {
            session.tell_direct(&direct, self.shared.load.yielded());
        }
        drop(direct);
        if self.shared.draining.load(Ordering::Acquire) && !self.said_goodbye {
            self.said_goodbye = true;
            self.listeners.clear();
            for peer in self.peers.values_mut().filter(|peer| peer.session.is_some()) {
                // An app that does not read this learns it from the end of the connection.
                let _ = peer.tell(&Message::GoAway);
            }
        }
    }

    fn accept(&mut self, index: usize) {
        let Some((listener_index, listener)) = self.listeners.get(index) else { return };
        let mut accepted = listener.accept();
        if accepted.as_ref().is_err_and(is_exhaustion) && self.spare.take().is_some() {
            accepted = listener.accept();
        }
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => {
                if !is_exhaustion(&error) || self.shared.registry.exhausted_anew("session-accept") {
                    tracing::warn!(%error, "cannot accept on a session socket");
                }
                // Not in a tight loop.
                self.accepts_at = host::now() + ACCEPT_PAUSE;
                return;
            }
        };
        let listener = *listener_index;
        if socket.set_nonblocking(true).is_err() {
            return;
        }
        let Ok(credentials) = getsockopt(&socket, PeerCredentials) else { return };
        // An app speaks as soon as it is connected: the one that has been silent longest makes room.
        let silent = self.peers.iter().filter(|(_, peer)| peer.session.is_none());
        if silent.clone().count() >= HANDSHAKES_MAX
            && let Some((&oldest, _)) = silent.min_by_key(|(_, peer)| peer.since)
        {
            self.peers.remove(&oldest);
        }
        let peer = Peer {
            socket,
            listener,
            input: Vec::new(),
            unsaid: Vec::new(),
            uid: credentials.uid(),
            pid: credentials.pid(),
            since: host::now(),
            session: None,
        };
        self.peers.insert(self.next_peer, peer);
        self.next_peer += 1;
    }

    fn read(&mut self, id: u64) -> Result<(), Close> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        let mut buffer = [0; READ_BYTES];
        match peer.socket.read(&mut buffer) {
            Ok(0) => return Err(Close::Gone),
            Ok(n) => peer.input.extend_from_slice(&buffer[..n]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(_) => return Err(Close::Gone),
        }
        loop {
            let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
            match Message::decode(&peer.input) {
                Ok(None) => return Ok(()),
                Ok(Some((message, used))) => {
                    peer.input.drain(..used);
                    self.hear(id, message)?;
                }
                Err(error) => {
                    let sentence = format!("shmesh: {error}");
                    return Err(self.refuse(id, RefusedCode::Malformed, &sentence));
                }
            }
        }
    }

    fn hear(&mut self, id: u64, message: Message) -> Result<(), Close> {
        let attached = self.peers.get(&id).is_some_and(|peer| peer.session.is_some());
        match message {
            Message::Hello(hello) if !attached => self.welcome(id, &hello),
            Message::Lookup(lookup) if attached => self.look_up(id, lookup),
            Message::ServesAt(path) if attached => self.serves_at(id, path),
            _ => Err(self.refuse(id, RefusedCode::Malformed, "shmesh: this message has no place here")),
        }
    }

    fn welcome(&mut self, id: u64, hello: &Hello) -> Result<(), Close> {
        let snapshot = self.shared.snapshot.load_full();
        let Some(peer) = self.peers.get(&id) else { return Ok(()) };
        let (uid, listener) = (peer.uid, peer.listener);
        let allowed = snapshot
            .listeners
            .get(listener as usize)
            .is_some_and(|l| snapshot.allow_uids(l).allows(nix::unistd::geteuid().as_raw(), uid));
        if !allowed {
            let sentence = format!("shmesh: uid {uid} is not in allow_uids of this session socket");
            return Err(self.refuse(id, RefusedCode::Identity, &sentence));
        }
        if !(hello.version_min..=hello.version_max).contains(&VERSION) {
            let sentence = format!(
                "shmesh: this sidecar speaks shm version {VERSION}, the app versions {} to {}; update the older of the two",
                hello.version_min, hello.version_max
            );
            return Err(self.refuse(id, RefusedCode::Version, &sentence));
        }
        let attached = self.peers.values().filter(|peer| peer.session.is_some()).count();
        if attached >= snapshot.session.sessions_max as usize {
            return Err(self.over_quota(id, Quota::Sessions, snapshot.session.sessions_max.into(), ""));
        }
        if self.shared.load.is_short_of_memory() {
            self.shared.registry.exhausted("session");
            return Err(self.refuse(id, RefusedCode::Limit, NO_MEMORY));
        }
        if hello.serving && self.names.contains(&hello.name) {
            let sentence = format!("shmesh: another process serves under the name {:?}", hello.name);
            return Err(self.refuse(id, RefusedCode::NameTaken, &sentence));
        }
        let lanes_max = snapshot.session.lanes_max as usize;
        if hello.serving && self.workers.len() > lanes_max {
            let why = format!(": serving takes a lane on each of {} workers", self.workers.len());
            return Err(self.over_quota(id, Quota::Lanes, lanes_max as u64, &why));
        }
        let lanes = self.plan(hello, lanes_max);
        let bytes = 2 * self.geometry.segment_bytes(lanes.len() as u16) as u64;
        let admitted = self.shared.sessions.quotas.admit(uid, lanes.len() as u64, bytes, &snapshot.session);
        let usage = match admitted {
            Ok(usage) => usage,
            Err((quota, most)) => {
                let why = format!(": {} lanes, {bytes} bytes are too many", lanes.len());
                return Err(self.over_quota(id, quota, most, &why));
            }
        };
        match self.attach(id, hello, lanes, usage) {
            Ok(()) => Ok(()),
            Err(error) => {
                if !is_exhaustion(&error) || self.shared.registry.exhausted_anew("session") {
                    tracing::error!(%error, "a session cannot be set up");
                }
                let sentence = format!("shmesh: the session cannot be set up: {error}");
                Err(self.refuse(id, RefusedCode::Limit, &sentence))
            }
        }
    }

    /// Makes the segments, tells the app, hands the lanes to the workers.
    fn attach(&mut self, id: u64, hello: &Hello, lanes: Vec<LaneInfo>, usage: Arc<SessionUse>) -> io::Result<()> {
        let workers = self.workers.len();
        let geometry = self.geometry;
        let bytes = geometry.segment_bytes(lanes.len() as u16);
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };

        let to_proxy = segment::create("shmesh-to-proxy", bytes)?;
        let to_app = segment::create("shmesh-to-app", bytes)?;
        let for_app = segment::for_app(&to_app, peer.uid)?;
        // They count until they are unmapped, which blocks that are still on their way put off.
        let to_proxy_map = Arc::new(Mapping::read_only(&to_proxy, bytes)?.keeping(usage.clone()));
        let to_app_map = Arc::new(Mapping::read_write(&to_app, bytes)?.keeping(usage.clone()));
        let worker_bells: Vec<OwnedFd> = (0..workers).map(|_| doorbell::worker_bell()).collect::<io::Result<_>>()?;
        let mut lane_bells = Vec::with_capacity(lanes.len());
        for _ in &lanes {
            lane_bells.push(doorbell::lane_bell()?);
        }

        let session = self.next_session;
        self.next_session += 1;
        let features = hello.features & FEATURES;
        let app: Arc<str> = hello.name.as_str().into();
        let view = SessionView {
            id: session,
            app: hello.name.clone(),
            uid: peer.uid,
            pid: peer.pid,
            calling: lanes.iter().filter(|lane| !lane.serving).count() as u32,
            serving: lanes.iter().filter(|lane| lane.serving).count() as u32,
            isolation: for_app.isolation,
            since: SystemTime::now(),
        };
        let welcome = Welcome { version: VERSION, workers: workers as u16, features, geometry, lanes: lanes.clone() };
        // The workers get theirs first, so that nothing the app rings is lost.
        let mut to_hand: Vec<NewLanes> = Vec::new();
        for (worker, bell) in worker_bells.iter().enumerate() {
            to_hand.push(NewLanes {
                session,
                app: app.clone(),
                listener: peer.listener,
                worker: worker as u16,
                to_proxy: to_proxy_map.clone(),
                to_app: to_app_map.clone(),
                geometry,
                usage: usage.clone(),
                bell: bell.try_clone()?,
                lanes: Vec::new(),
            });
        }
        let mut app_bells = Vec::with_capacity(lanes.len());
        for (index, (info, (ours, theirs))) in lanes.iter().zip(lane_bells).enumerate() {
            to_hand[info.worker as usize].lanes.push(NewLane {
                lane: index as u16,
                bit: info.bit,
                serving: info.serving,
                bell: Some(ours),
            });
            app_bells.push(theirs);
        }
        // Nothing can fail between here and the place where the session is known, and where its end is seen to.
        let liveness = (features & FEATURE_LIVENESS != 0).then(|| self.liveness.begin(session)).transpose()?;
        for (worker, lanes) in to_hand.into_iter().enumerate() {
            if !lanes.lanes.is_empty() {
                self.workers[worker].send(Mail::Attach(Box::new(lanes)));
            }
        }

        let serves = hello.serving.then(|| hello.name.clone());
        self.names.extend(serves.clone());
        let mut attached = Session {
            id: session,
            _usage: usage,
            app: hello.name.clone(),
            serves,
            to_app: to_app_map,
            direct: 0,
            lookups: Lookups::new(features),
            behind: false,
            said_where: 0,
            welcome,
            files: Files { to_proxy, to_app, worker_bells },
        };
        attached.tell_direct(&lock(&self.shared.sessions.direct), self.shared.load.yielded());
        tracing::info!(
            session,
            app = ?hello.name,
            uid = view.uid,
            calling = view.calling,
            serving = view.serving,
            isolation = if view.isolation { "read-only" } else { "none" },
            "an app attached"
        );
        lock(&self.shared.sessions.list).insert(session, view);
        // Last, so that whoever has read it can be called and is shown. Should it not arrive, the session ends with the connection.
        let Files { to_proxy, worker_bells, .. } = &attached.files;
        let mut fds: Vec<BorrowedFd<'_>> = vec![to_proxy.as_fd(), for_app.memfd.as_fd()];
        fds.extend(worker_bells.iter().map(AsFd::as_fd));
        fds.extend(app_bells.iter().map(AsFd::as_fd));
        fds.extend(liveness.iter().map(AsFd::as_fd));
        let said = say(&peer.socket, &Message::Welcome(attached.welcome.clone()), &fds);
        peer.session = Some(attached);
        said
    }

    /// Which lanes a session gets: the calling ones spread over the workers, a serving one for each.
    fn plan(&mut self, hello: &Hello, lanes_max: usize) -> Vec<LaneInfo> {
        let workers = self.workers.len();
        let serving = if hello.serving { workers } else { 0 };
        let most = lanes_max.min(LANES_MAX).min(64 * workers).saturating_sub(serving);
        let least = usize::from(!hello.serving);
        let calling = (hello.calling_lanes as usize).clamp(least, most.max(least));
        let mut bits = vec![0u8; workers];
        let mut take = |worker: usize, serving: bool| {
            let bit = bits[worker];
            bits[worker] += 1;
            LaneInfo { serving, worker: worker as u8, bit }
        };
        let first = self.next_worker;
        self.next_worker = (first + calling) % workers;
        let mut lanes: Vec<LaneInfo> = (0..calling).map(|index| take((first + index) % workers, false)).collect();
        lanes.extend((0..serving).map(|worker| take(worker, true)));
        lanes
    }

    /// Where calls with a key go, for the time when this sidecar does not.
    fn look_up(&mut self, id: u64, lookup: Lookup) -> Result<(), Close> {
        let snapshot = self.shared.snapshot.load_full();
        let known = Known { snapshot: &snapshot, served_at: &self.served_at };
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        let answer = peer.session.as_mut().and_then(|session| session.lookups.ask(lookup, &known));
        answer.map_or(Ok(()), |answer| peer.tell(&answer))
    }

    /// A new snapshot, or an app listens elsewhere: sessions hear of every answer that changed.
    fn answer_again(&mut self) {
        for session in self.peers.values_mut().filter_map(|peer| peer.session.as_mut()) {
            session.behind = true;
        }
        let ids: Vec<u64> = self.peers.keys().copied().collect();
        for id in ids {
            if let Err(close) = self.catch_up(id) {
                self.close(id, &close);
            }
        }
    }

    /// Tells an app what it was not told yet, as far as it takes it: of each look-up the newest answer.
    fn catch_up(&mut self, id: u64) -> Result<(), Close> {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.is_behind()) else { return Ok(()) };
        peer.flush()?;
        let Peer { socket, unsaid, session: Some(session), .. } = peer else { return Ok(()) };
        if !unsaid.is_empty() || !session.behind {
            return Ok(());
        }
        let snapshot = self.shared.snapshot.load_full();
        let known = Known { snapshot: &snapshot, served_at: &self.served_at };
        let mut outcome = Ok(());
        let told = session.lookups.tell_changed(&known, |answer| {
            outcome = tell(socket, unsaid, answer);
            outcome.is_ok() && unsaid.is_empty()
        });
        session.behind = !told;
        outcome
    }

    /// An app that serves listens on a socket of its own, too.
    fn serves_at(&mut self, id: u64, path: String) -> Result<(), Close> {
        let session = self.peers.get(&id).and_then(|peer| peer.session.as_ref());
        let Some(name) =
            session.filter(|session| session.welcome.features & FEATURE_POLICY != 0).and_then(|s| s.serves.clone())
        else {
            return Err(self.refuse(id, RefusedCode::Malformed, "shmesh: only an app that serves may say where"));
        };
        if self.served_at.get(&name) == Some(&path) {
            return Ok(());
        }
        let said = self.peers.get_mut(&id).and_then(|peer| peer.session.as_mut()).map(|session| {
            session.said_where += 1;
            session.said_where
        });
        if said.is_some_and(|said| said > SERVES_AT_MAX) {
            let sentence = format!("shmesh: an app that serves may say where {SERVES_AT_MAX} times");
            return Err(self.refuse(id, RefusedCode::Limit, &sentence));
        }
        self.served_at.insert(name, path);
        self.answer_again();
        Ok(())
    }

    fn over_quota(&mut self, id: u64, quota: Quota, most: u64, why: &str) -> Close {
        self.shared.sessions.quotas.refused(quota);
        let sentence = format!("shmesh: {} = {most} is reached{why}", quota.name());
        self.refuse(id, RefusedCode::Limit, &sentence)
    }

    fn refuse(&mut self, id: u64, code: RefusedCode, sentence: &str) -> Close {
        if let Some(peer) = self.peers.get_mut(&id) {
            tracing::warn!(uid = peer.uid, reason = sentence, "an app is refused");
            let refused = Message::Refused(Refused {
                code: code as u16,
                version_min: VERSION,
                version_max: VERSION,
                sentence: sentence.into(),
            });
            // An app that does not listen sees the end of the connection.
            let _ = peer.tell(&refused);
        }
        Close::Refused
    }

    fn close(&mut self, id: u64, close: &Close) {
        let Some(peer) = self.peers.remove(&id) else { return };
        let Some(session) = peer.session else { return };
        if let Some(name) = &session.serves {
            self.names.remove(name);
            // Whoever was told of its socket keeps that: a sidecar that stops loses its apps first.
            self.served_at.remove(name);
        }
        for worker in &self.workers {
            worker.send(Mail::Detach { session: session.id });
        }
        lock(&self.shared.sessions.list).remove(&session.id);
        self.liveness.end(session.id);
        let how = match close {
            Close::Gone => "gone",
            Close::Refused => "refused",
        };
        tracing::info!(session = session.id, how, "a session ended");
    }

    /// Who connects has to speak soon.
    fn close_silent(&mut self) {
        let (now, silence) = (host::now(), SILENCE_MS_MAX * 1_000_000);
        self.peers.retain(|_, peer| peer.session.is_some() || now.saturating_sub(peer.since) < silence);
    }
}

impl Peer {
    /// There is something to say as soon as its socket takes it.
    fn is_behind(&self) -> bool {
        !self.unsaid.is_empty() || self.session.as_ref().is_some_and(|session| session.behind)
    }

    fn tell(&mut self, message: &Message) -> Result<(), Close> {
        tell(&self.socket, &mut self.unsaid, message)
    }

    fn flush(&mut self) -> Result<(), Close> {
        flush(&self.socket, &mut self.unsaid)
    }
}

impl Session {
    fn tell_direct(&mut self, direct: &Direct, yielded: u16) {
        let word = direct.shares(&self.app, yielded).word(self.welcome.features & FEATURE_PRIORITY != 0);
        if word != self.direct {
            self.direct = word;
            self.to_app.store(DIRECT_MODE, word);
        }
    }
}

/// A descriptor that can be given up.
fn spare() -> Option<OwnedFd> {
    File::open("/dev/null").ok().map(OwnedFd::from)
}

/// Says it behind what was not said yet; what the socket does not take is kept.
fn tell(socket: &UnixStream, unsaid: &mut Vec<u8>, message: &Message) -> Result<(), Close> {
    message.encode(unsaid).map_err(|_| Close::Gone)?;
    flush(socket, unsaid)
}

fn flush(socket: &UnixStream, unsaid: &mut Vec<u8>) -> Result<(), Close> {
    while !unsaid.is_empty() {
        match descriptors::send(socket.as_fd(), unsaid, &[]) {
            Ok(sent) => drop(unsaid.drain(..sent)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && unsaid.len() <= UNSAID_BYTES_MAX => break,
            Err(_) => return Err(Close::Gone),
        }
    }
    Ok(())
}

fn say(socket: &UnixStream, message: &Message, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes).map_err(io::Error::other)?;
    let sent = descriptors::send(socket.as_fd(), &bytes, fds)?;
    if sent < bytes.len() {
        // The peer reads nothing and its buffer is full: it is as good as gone.
        (&mut &*socket).write_all(&bytes[sent..])?;
    }
    Ok(())
}
