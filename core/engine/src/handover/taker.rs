//! The new process's side of an upgrade. Nothing that it does before *commit* has an effect outside, so that the old one can go on at any time.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use prost::Message as _;
use shmesh_io::net::UnixName;
use shmesh_io::{Choice, Driver};
use shmesh_policy::{Bind, Snapshot};

use super::giver::{MAP_WITHIN, PREPARE_WITHIN, REST_WITHIN, RESTORE_WITHIN};
use super::messages::{DeskState, Last, Plan, Take};
use super::wire::{Frame, Kind, Wire, make_room};
use super::{Ahead, DeskHandover, FORMAT, FORMAT_MIN, Handover, Refusal, TakenDesk};
use crate::counters::lock;
use crate::direct::Direct;
use crate::engine::{Engine, Listening, Sockets, StartError, WORKERS_MAX, choose, open_log};
use crate::liveness::Liveness;
use crate::resolve::Resolver;
use crate::session::NewLanes;
use crate::session_thread::SessionThread;
use crate::worker::Worker;

/// How long the old process may take to answer; it may have other things to do than what it needs for its part.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How long a process takes to be gone whose connection has ended because it is killed.
const ENDED_WITHIN: Duration = Duration::from_secs(5);

/// What else there is to start waits for so long: the calls that waited need the CPUs.
const CALLS_FIRST: Duration = Duration::from_millis(5);

/// Why this process does not go on with another's work. That one does, unless it is gone.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    #[error("the sidecar that runs refuses the upgrade: {0}")]
    Refused(String),
    #[error("the sidecar that runs has given up the upgrade and goes on: {0}")]
    Aborted(String),
    #[error("the sidecar that runs ended in the middle of the upgrade; start this one without --upgrade")]
    Gone,
    #[error("the upgrade socket {path}: {error}")]
    Socket { path: String, error: io::Error },
    #[error("what the sidecar that runs hands over cannot be used: {0}")]
    Unusable(String),
    #[error(transparent)]
    Start(#[from] StartError),
}

impl From<Refusal> for TakeError {
    fn from(refusal: Refusal) -> TakeError {
        TakeError::Unusable(refusal.to_string())
    }
}

/// The sidecar that runs, ready to hand over; it goes on serving meanwhile, and whenever this is dropped.
#[derive(Debug)]
pub struct Predecessor {
    wire: Wire,
    plan: Plan,
    listening: Listening,
    admin: OwnedFd,
    upgrade: [OwnedFd; 2],
    /// A pipe whose other end it closes by ending.
    ended: OwnedFd,
}

/// What this process goes on with.
pub struct TakenOver {
    pub engine: Engine,
    pub admin: TcpListener,
    /// An error: nobody can take over from this process.
    pub upgrade: io::Result<UpgradeSocket>,
    /// Apps that are attached.
    pub sessions: usize,
}

/// The socket on which the next process will ask.
#[derive(Debug)]
pub struct UpgradeSocket {
    pub(super) socket: UnixListener,
    pub(super) name: UnixName,
}

impl Predecessor {
    /// Asks whoever listens on this upgrade socket to hand over. `None`: nobody does.
    pub fn find(path: &Path) -> Result<Option<Predecessor>, TakeError> {
        let failed = |error: io::Error| TakeError::Socket { path: path.display().to_string(), error };
        let socket = match UnixStream::connect(path) {
            Ok(socket) => socket,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(error) => return Err(failed(error)),
        };
        // What it says is obeyed: it has to be a sidecar of this user, or of root's.
        let owner = getsockopt(&socket, PeerCredentials).map_err(|errno| failed(errno.into()))?.uid();
        if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
            return Err(failed(io::Error::other(format!(
                "a process of uid {owner} listens there, which is not this one's"
            ))));
        }
        let wire = Wire::new(socket).map_err(failed)?;
        let version = env!("CARGO_PKG_VERSION").into();
        let take = Take { format_min: FORMAT_MIN, format_max: FORMAT, version, ahead: false, drafts: true };
        let until = Instant::now() + ANSWER_WITHIN;
        // One that refuses may have said so already, and closed its end.
        let _ = wire.send(Kind::Take, &take.encode_to_vec(), &[], until);
        let Frame { bytes, descriptors, .. } = expect(&wire, Kind::Plan, ANSWER_WITHIN)?;
        let plan = Plan::decode(&*bytes).map_err(|error| TakeError::Unusable(error.to_string()))?;
        Predecessor::of(wire, plan, descriptors).map(Some)
    }

    fn of(wire: Wire, plan: Plan, descriptors: Vec<OwnedFd>) -> Result<Predecessor, TakeError> {
        let unusable = |what: &str| TakeError::Unusable(what.to_owned());
        if !(FORMAT_MIN..=FORMAT).contains(&plan.format) {
            return Err(Refusal::Format { theirs: plan.format }.into());
        }
        if !(1..=WORKERS_MAX).contains(&(plan.workers as usize)) {
            return Err(unusable("a number of workers that cannot be"));
        }
        let mut descriptors = descriptors.into_iter();
        let listening: Listening = plan
            .listener_descriptors
            .iter()
            .map(|&count| descriptors.by_ref().take(count as usize).collect())
            .collect();
        let mut next = || descriptors.next();
        let (Some(admin), Some(upgrade), Some(claim), Some(ended)) = (next(), next(), next(), next()) else {
            return Err(unusable("fewer listening sockets than it names"));
        };
        Ok(Predecessor { wire, plan, listening, admin, upgrade: [upgrade, claim], ended })
    }

    /// Its configuration, as it was written; `None`: the one without a file.
    pub fn config(&self) -> Option<&str> {
        self.plan.config.as_deref()
    }

    /// Of the snapshot that it made of that.
    pub fn snapshot_version(&self) -> u64 {
        self.plan.snapshot_version
    }

    /// What it calls its version.
    pub fn version(&self) -> &str {
        &self.plan.version
    }

    /// It is not to be gone on with: tells it why.
    pub fn leave(&self, why: &str) {
        let _ = self.wire.say(Kind::Failed, why, Instant::now() + Duration::from_secs(1));
    }

    /// Goes on with its work, by its own configuration. When this returns, every listener accepts.
    /// `direct` says what apps are told of the way round, and is asked when nobody else can change that any more.
    pub fn take_over(
        self,
        snapshot: Arc<Snapshot>,
        driver: Choice,
        resolver: &Resolver,
        direct: impl FnOnce() -> Direct,
    ) -> Result<TakenOver, TakeError> {
        let outcome = self.prepare(snapshot, driver, resolver).and_then(|prepared| self.restore(prepared));
        let prepared = match outcome {
            Ok(prepared) => prepared,
            Err(error) => {
                // It is told only what it does not know.
                if !matches!(error, TakeError::Aborted(_) | TakeError::Gone) {
                    self.leave(&error.to_string());
                }
                return Err(error);
            }
        };
        self.go_on(prepared, direct)
    }

    /// Everything that takes time.
    fn prepare(&self, snapshot: Arc<Snapshot>, driver: Choice, resolver: &Resolver) -> Result<Prepared, TakeError> {
        let same = snapshot.listeners.len() == self.listening.len()
            && snapshot.listeners.iter().zip(&self.listening).all(|(listener, sockets)| match listener.bind {
                Bind::Tcp(_) => sockets.len() == self.plan.workers as usize,
                Bind::Unix(_) | Bind::Shm(_) => sockets.len() == 2,
            });
        if !same {
            return Err(TakeError::Unusable("its listeners are not those of its configuration".into()));
        }
        // They arrive beside this process's own, and those of sockets are kept twice for a moment.
        make_room(2 * self.plan.open_descriptors as usize);
        let log = open_log(&snapshot)?;
        let liveness = Liveness::start();
        let mut engine = Engine::new(snapshot.clone(), choose(driver)?, Vec::new(), Vec::new());
        engine.shared.sessions.quotas.size_up();
        let mut workers = Vec::new();
        for _ in 0..self.plan.workers {
            let (sender, restoring) = channel();
            engine.start_worker(resolver, &log, Vec::new(), Some(restoring))?;
            workers.push(sender);
        }
        Ok(Prepared {
            engine,
            snapshot,
            liveness,
            workers,
            desk: TakenDesk::default(),
            ended: Vec::new(),
            go: Vec::new(),
            names: Vec::new(),
            thread: None,
        })
    }

    /// Takes everything, and with the word to do so has workers go on.
    fn restore(&self, mut prepared: Prepared) -> Result<Prepared, TakeError> {
        let count = prepared.workers.len();
        self.say(Kind::Prepared);
        let frame = expect(&self.wire, Kind::Desk, ANSWER_WITHIN)?;
        let quotas = &prepared.engine.shared.sessions.quotas;
        let state = DeskState::decode(&*frame.bytes).map_err(Refusal::Garbled)?;
        prepared.desk = TakenDesk::map(DeskHandover { state, descriptors: frame.descriptors }, quotas, count)?;
        let ended = || TakeError::Unusable("a worker ended".into());
        let lanes = prepared.desk.lanes(count).map_err(Refusal::Io)?;
        let mut outcomes = Vec::new();
        let mut give = Vec::new();
        for (index, (sessions, ahead)) in lanes.into_iter().zip(prepared.desk.take_ahead(count)).enumerate() {
            let (done, outcome) = channel();
            let (giver, given) = channel();
            let (go, word) = channel();
            let sockets = self.sockets_of(index, &prepared.snapshot).map_err(Refusal::Io)?;
            let restoring = Restoring { sessions, ahead, sockets, done, given, word };
            prepared.workers[index].send(restoring).map_err(|_| ended())?;
            outcomes.push(outcome);
            give.push(giver);
            prepared.go.push(go);
        }
        let all_done = || -> Result<(), TakeError> {
            outcomes.iter().try_for_each(|outcome: &Receiver<_>| Ok(outcome.recv().map_err(|_| ended())??))
        };
        all_done()?;
        self.say(Kind::Mapped);

        for worker in give {
            let frame = expect(&self.wire, Kind::Worker, MAP_WITHIN + REST_WITHIN + RESTORE_WITHIN)?;
            let given = Handover { state: frame.bytes, descriptors: frame.descriptors };
            worker.send(given).map_err(|_| ended())?;
        }
        let last = expect(&self.wire, Kind::Last, RESTORE_WITHIN)?;
        prepared.ended = Last::decode(&*last.bytes).map_err(Refusal::Garbled)?.ended;
        all_done()?;

        // Whatever can fail for want of a descriptor is done before the word.
        let mut listeners = Vec::new();
        for (index, (listener, sockets)) in prepared.snapshot.listeners.iter().zip(&self.listening).enumerate() {
            let (Bind::Unix(path) | Bind::Shm(path), [socket, claim]) = (&listener.bind, &sockets[..]) else {
                continue;
            };
            prepared.names.push((path.to_path_buf(), claim.try_clone().map_err(Refusal::Io)?));
            if let Bind::Shm(_) = listener.bind {
                listeners.push((index as u16, UnixListener::from(socket.try_clone().map_err(Refusal::Io)?)));
            }
        }
        let liveness = std::mem::replace(&mut prepared.liveness, Liveness::without_thread());
        prepared.thread = Some(prepared.engine.session_thread(listeners, liveness).map_err(Refusal::Io)?);

        self.say(Kind::Restored);
        match self.wire.await_verdict() {
            Ok(Some(frame)) if frame.kind == Kind::Commit => {}
            Ok(Some(frame)) => return Err(TakeError::Aborted(frame.sentence())),
            // It ended without a word, with everything in the hands of this process.
            Ok(None) if !self.has_ended() => return Err(TakeError::Aborted("it lives, and did not say why".into())),
            Ok(None) => tracing::warn!("the sidecar that handed over ended before its last word; this one goes on"),
            Err(error) => return Err(TakeError::Unusable(error.to_string())),
        }
        // Before anything else: even giving back the memory of what was read here takes longer than a call.
        for go in prepared.go.drain(..) {
            let _ = go.send(());
        }
        thread::sleep(CALLS_FIRST);
        Ok(prepared)
    }

    /// From here on an error is the end of this sidecar.
    fn go_on(self, prepared: Prepared, direct: impl FnOnce() -> Direct) -> Result<TakenOver, TakeError> {
        let engine = prepared.engine;
        *lock(&engine.shared.sessions.direct) = direct();
        let io = |error: io::Error| TakeError::Start(StartError::Thread(error));
        let sessions = prepared.desk.sessions();
        for (path, claim) in prepared.names {
            match UnixName::go_on(&path, claim) {
                Ok(name) => engine.keep_name(name),
                Err(error) => {
                    let path = path.display();
                    tracing::warn!(%error, %path, "a socket file will be left behind when this sidecar ends");
                }
            }
        }
        let Some(mut desk) = prepared.thread else { return Err(io(io::Error::other("there is no session thread"))) };
        desk.taken = Some((prepared.desk, prepared.ended));
        desk.start().map_err(io)?;
        // Something may have been left for it to see to.
        engine.shared.sessions.wake();
        *lock(&engine.listening) = Some(self.listening);
        engine.is_up().map_err(io)?;
        let [socket, claim] = self.upgrade;
        let socket = UnixListener::from(socket);
        let path = socket.local_addr().ok().and_then(|address| Some(address.as_pathname()?.to_owned()));
        let name =
            path.ok_or_else(|| io::Error::other("it has no name")).and_then(|path| UnixName::go_on(&path, claim));
        let admin = TcpListener::from(self.admin);
        Ok(TakenOver { engine, admin, upgrade: name.map(|name| UpgradeSocket { socket, name }), sessions })
    }

    /// Whether the other process is gone, which the end of the connection alone does not say.
    fn has_ended(&self) -> bool {
        let mut polled = [PollFd::new(self.ended.as_fd(), PollFlags::POLLIN)];
        shmesh_shm::host::poll(&mut polled, Some(ENDED_WITHIN)).is_ok()
            && polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
    }

    fn sockets_of(&self, worker: usize, snapshot: &Snapshot) -> io::Result<Sockets> {
        let of_listener = |(listener, sockets): (&shmesh_policy::Listener, &Vec<OwnedFd>)| match listener.bind {
            Bind::Tcp(_) => sockets[worker].try_clone().map(Some),
            Bind::Unix(_) => sockets[0].try_clone().map(Some),
            Bind::Shm(_) => Ok(None),
        };
        snapshot.listeners.iter().zip(&self.listening).map(of_listener).collect()
    }

    fn say(&self, kind: Kind) {
        // That the other side is gone, or has given up, is found out by what it says next.
        let _ = self.wire.send(kind, &[], &[], Instant::now() + PREPARE_WITHIN);
    }
}

/// Everything but the word to go on.
struct Prepared {
    engine: Engine,
    snapshot: Arc<Snapshot>,
    liveness: Liveness,
    workers: Vec<Sender<Restoring>>,
    desk: TakenDesk,
    ended: Vec<u64>,
    go: Vec<Sender<()>>,
    /// Socket files, and the claims to their names.
    names: Vec<(PathBuf, OwnedFd)>,
    thread: Option<SessionThread>,
}

/// What a worker begins with that goes on with another process's.
pub(crate) struct Restoring {
    sessions: Vec<NewLanes>,
    ahead: Ahead,
    sockets: Sockets,
    /// Whether it is ready, and then whether it can go on.
    done: Sender<Result<(), Refusal>>,
    /// What that one knew when it rested.
    given: Receiver<Handover>,
    /// It is to; the sender's end: it is not.
    word: Receiver<()>,
}

impl<D: Driver> Worker<D> {
    /// Waits for what another process's worker gave, and for the word to go on with it. False: it is not to.
    pub(crate) fn restore(&mut self, restoring: &Receiver<Restoring>) -> bool {
        let Ok(Restoring { sessions, ahead, sockets, done, given, word }) = restoring.recv() else { return false };
        let ready = match self.prepare_to_take(sessions, ahead) {
            Ok(ready) => ready,
            Err(refusal) => {
                let _ = done.send(Err(refusal));
                return false;
            }
        };
        let _ = done.send(Ok(()));
        let Ok(given) = given.recv() else { return false };
        let taken = self.take(given, ready);
        let can = taken.is_ok();
        let _ = done.send(taken);
        if !can || word.recv().is_err() {
            return false;
        }
        if let Err(error) = self.listen(sockets) {
            tracing::error!(%error, "a listener that was handed over cannot be listened on; shmesh exits");
            std::process::exit(70);
        }
        self.begin();
        true
    }
}

/// The frame that comes next, which has to be of this kind.
fn expect(wire: &Wire, kind: Kind, within: Duration) -> Result<Frame, TakeError> {
    match wire.receive(Instant::now() + within) {
        Ok(Some(frame)) if frame.kind == kind => Ok(frame),
        Ok(Some(frame)) if frame.kind == Kind::Refused => Err(TakeError::Refused(frame.sentence())),
        Ok(Some(frame)) if frame.kind == Kind::Abort => Err(TakeError::Aborted(frame.sentence())),
        Ok(Some(frame)) => Err(TakeError::Unusable(format!("{:?} came where {kind:?} was due", frame.kind))),
        Ok(None) => Err(TakeError::Gone),
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof) => {
            Err(TakeError::Gone)
        }
        Err(error) => Err(TakeError::Unusable(error.to_string())),
    }
}
