//! The old process's side of an upgrade. Until it says *commit* it can go on as if nothing had been, and does whenever anything goes wrong.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, TryLockError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;
use prost::Message as _;
use shmesh_io::net;

use super::messages::{Last, Plan, Take};
use super::wire::{Frame, Kind, Wire, make_room, open_descriptors};
use super::{Ahead, DeskHandover, FORMAT, FORMAT_MIN, Handover, Known, Over, RestOrder, UpgradeSocket};
use crate::counters::lock;
use crate::engine::{Engine, StartError};
use crate::mailbox::{Mail, Postbox};

/// How long whoever connects to the upgrade socket may take to say what it wants.
pub const TAKE_WITHIN: Duration = Duration::from_secs(1);
/// How long the new process may take to be ready for the workers' states; this one serves meanwhile.
pub const PREPARE_WITHIN: Duration = Duration::from_secs(10);
/// How long the workers may take to give what they can while they work.
pub const AHEAD_WITHIN: Duration = Duration::from_secs(5);
/// How long it may take to map the sessions; calls go on meanwhile, but no app can attach.
pub const MAP_WITHIN: Duration = Duration::from_secs(5);
/// How long the workers may take to come to rest.
pub const REST_WITHIN: Duration = Duration::from_secs(1);
/// How long calls may pause until the new process can go on with them.
pub const RESTORE_WITHIN: Duration = Duration::from_secs(2);

/// How long a last word may take.
const SAY_WITHIN: Duration = Duration::from_secs(1);
/// How long a process that was told that it does not take over may hold copies of everything.
pub const SEE_OFF_WITHIN: Duration = Duration::from_secs(10);

/// How long the old process waits until it ends: the system takes down what it had at the cost of whoever runs on that CPU, and the new one has
/// calls to go on with that have waited already.
const END_AFTER: Duration = Duration::from_millis(50);

/// Descriptors that are left for calls while every other one is there twice; with less nothing is given ahead.
const DESCRIPTORS_LEFT: u64 = 256;

/// How often a worker that gives signs of life is asked to stop that.
const HOLDS_EVERY: Duration = Duration::from_micros(20);

/// Mode of the upgrade socket: nobody else's.
const MODE: u32 = 0o600;

/// Why nothing is handed over any more.
const DRAINING: &str = "this sidecar is draining: there is nothing to hand over";

/// What the old process gives besides the engine.
pub struct Giver {
    pub engine: Weak<Engine>,
    /// The configuration in force, as it was written. `None`: the one without a file.
    pub config: Box<dyn Fn() -> Option<String> + Send + Sync>,
    /// The admin interface's socket.
    pub admin: OwnedFd,
    /// Why a process with this id may not take over, if so.
    pub forbids: Box<dyn Fn(i32) -> Option<String> + Send + Sync>,
    /// Called once, when another process has gone on with everything.
    pub over: Box<dyn Fn(HandedOver) + Send + Sync>,
}

/// Another process goes on with everything.
#[derive(Clone, Debug)]
pub struct HandedOver {
    /// What it calls its version.
    pub version: String,
    pub pid: i32,
    /// How long the workers rested.
    pub pause: Duration,
}

/// Why this process goes on itself.
#[derive(Debug, thiserror::Error)]
enum Aborted {
    /// Nothing had begun.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Sentence(String),
    #[error("the new process {0}")]
    Theirs(String),
    #[error("{what}: {error}")]
    Io { what: &'static str, error: io::Error },
}

impl Giver {
    /// Listens for a successor on this socket, in a thread of its own, for as long as the process lives.
    pub fn listen(self, path: &Path) -> Result<(), StartError> {
        let listening = net::listen_unix(path, MODE).map_err(|error| StartError::Listen {
            name: "upgrade_socket".into(),
            bind: format!("unix:{}", path.display()),
            error: error.to_string(),
        })?;
        Ok(self.go_on(UpgradeSocket { socket: UnixListener::from(listening.socket), name: listening.name })?)
    }

    /// Goes on with the upgrade socket that another process had.
    pub fn go_on(self, upgrade: UpgradeSocket) -> io::Result<()> {
        let UpgradeSocket { socket, name } = upgrade;
        socket.set_nonblocking(false)?;
        let claim = name.claim().try_clone_to_owned()?;
        // Its other end is closed when this process has ended, whatever happened before.
        let (ended, alive) = io::pipe()?;
        let handed = [socket.as_fd().try_clone_to_owned()?, claim, ended.into()];
        if let Some(engine) = self.engine.upgrade() {
            engine.keep_name(name);
        }
        let giver = Arc::new((self, handed));
        let busy = Arc::new(AtomicBool::new(false));
        thread::Builder::new().name("upgrade".into()).spawn(move || {
            let _alive = alive;
            loop {
                let Ok((successor, _)) = socket.accept() else {
                    // Out of descriptors, most likely: not in a tight loop.
                    thread::sleep(Duration::from_millis(100));
                    continue;
                };
                let (giver, busy) = (giver.clone(), busy.clone());
                let spawned = thread::Builder::new()
                    .name("upgrading".into())
                    .spawn(move || giver.0.serve(successor, &giver.1, &busy));
                if let Err(error) = spawned {
                    tracing::error!(%error, "an upgrade cannot be begun");
                }
            }
        })?;
        Ok(())
    }

    /// Serves one that connected to the upgrade socket.
    fn serve(&self, successor: UnixStream, upgrade: &[OwnedFd; 3], busy: &AtomicBool) {
        // The mode of the file keeps everybody else out but root, who is to run the new one as the user of the old one.
        let Ok(peer) = getsockopt(&successor, PeerCredentials) else { return };
        let (pid, uid) = (peer.pid(), peer.uid());
        let Ok(wire) = Wire::new(successor) else { return };
        let begun = Instant::now();
        let soon = || Instant::now() + SAY_WITHIN;
        if busy.swap(true, Ordering::AcqRel) {
            let sentence = "another upgrade of this sidecar is going on: wait until it is over, then try again";
            let _ = wire.say(Kind::Refused, sentence, soon());
            return tracing::warn!(pid, "a second upgrade is refused while one is going on");
        }
        // Dropping it makes everybody go on.
        let mut resting = Resting::default();
        let outcome =
            self.judge(pid, uid).and_then(|engine| self.hand_over(&engine, &wire, upgrade, pid, &mut resting));
        match outcome {
            Ok(over) => {
                tracing::info!(
                    pid,
                    version = over.version,
                    took_ms = begun.elapsed().as_millis() as u64,
                    pause_us = over.pause.as_micros() as u64,
                    "handed over: the new process goes on, this one ends"
                );
                thread::sleep(END_AFTER);
                // It stays busy: there is nothing left to give.
                (self.over)(over);
            }
            Err(aborted) => {
                let kind = if matches!(aborted, Aborted::Refused(_)) { Kind::Refused } else { Kind::Abort };
                // Said before anybody goes on: from then on what the other one was given is not true any more.
                let _ = wire.say(kind, &aborted.to_string(), soon());
                let has_copies = !resting.0.is_empty();
                drop(resting);
                busy.store(false, Ordering::Release);
                tracing::error!(pid, reason = %aborted, "the upgrade did not happen; this sidecar goes on");
                if has_copies {
                    see_off(&wire, pid);
                }
            }
        }
    }

    /// Whether that process may take over, and from whom.
    fn judge(&self, pid: i32, uid: u32) -> Result<Arc<Engine>, Aborted> {
        let own = nix::unistd::geteuid();
        if uid != own.as_raw() {
            let sentence = format!("this sidecar runs as uid {own}, the new process as {uid}: run it as the same");
            return Err(Aborted::Refused(sentence));
        }
        if let Some(sentence) = (self.forbids)(pid) {
            return Err(Aborted::Refused(sentence));
        }
        self.engine.upgrade().ok_or(Aborted::Refused(DRAINING.into()))
    }

    fn hand_over(
        &self,
        engine: &Engine,
        wire: &Wire,
        upgrade: &[OwnedFd; 3],
        pid: i32,
        resting: &mut Resting,
    ) -> Result<HandedOver, Aborted> {
        let take = heed(wire)?;
        let version = self.tell_plan(engine, wire, &take, upgrade)?;
        expect(wire, Kind::Prepared, PREPARE_WITHIN)?;

        // Until the end: nobody drains in between, or sets what the other one could not know of.
        let mut handed_over = lock(&engine.handed_over);
        if engine.shared.draining.load(Ordering::Acquire) {
            return Err(Aborted::Refused(DRAINING.into()));
        }
        let mut desk = rest_desk(engine, resting)?;
        let mut known: Vec<Known> = engine.postboxes().iter().map(|_| Known::default()).collect();
        if take.drafts && has_room_for_copies() {
            for (ahead, known) in workers_ahead(engine)?.into_iter().zip(&mut known) {
                *known = ahead.known();
                desk.add(ahead);
            }
        }
        send(wire, Kind::Desk, &desk.state.encode_to_vec(), &desk.descriptors, MAP_WITHIN)?;
        drop(desk);
        expect(wire, Kind::Mapped, MAP_WITHIN)?;

        let paused = Instant::now();
        let workers = rest_workers(engine, known, resting)?;
        if engine.shared.version.load(Ordering::Acquire) != version {
            return Err(Aborted::Sentence("the configuration changed meanwhile: try again".into()));
        }
        let until = Instant::now() + RESTORE_WITHIN;
        for Handover { state, descriptors } in &workers {
            let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            let sent = wire.send(Kind::Worker, state, &descriptors, until);
            sent.map_err(|error| Aborted::Io { what: "a worker cannot be handed over", error })?;
        }
        let ended = engine.shared.sessions.ended_so_far();
        send(wire, Kind::Last, &Last { ended }.encode_to_vec(), &[], RESTORE_WITHIN)?;
        expect(wire, Kind::Restored, RESTORE_WITHIN)?;
        resting.hold()?;
        send(wire, Kind::Commit, &[], &[], SAY_WITHIN)?;
        *handed_over = true;
        engine.forget_names();
        let pause = paused.elapsed();
        resting.over();
        Ok(HandedOver { version: take.version, pid, pause })
    }

    /// Says what to prepare; gives the version of the snapshot of which that is true.
    fn tell_plan(&self, engine: &Engine, wire: &Wire, take: &Take, upgrade: &[OwnedFd; 3]) -> Result<u64, Aborted> {
        let (config, snapshot_version) = loop {
            let before = engine.snapshot().version;
            let config = (self.config)();
            if engine.snapshot().version == before {
                break (config, before);
            }
        };
        let twin = |fd: &OwnedFd| fd.try_clone();
        // Not sent while the lock is held: who drains takes it as well.
        let (counts, sockets) = {
            let listening = lock(&engine.listening);
            let Some(listening) = listening.as_ref() else { return Err(Aborted::Refused(DRAINING.into())) };
            let counts: Vec<u32> = listening.iter().map(|sockets| sockets.len() as u32).collect();
            (counts, listening.iter().flatten().map(twin).collect::<io::Result<Vec<_>>>())
        };
        let sockets = sockets.map_err(|error| Aborted::Io { what: "the listening sockets", error })?;
        // Each is copied once.
        let open_descriptors = open_descriptors();
        make_room(2 * open_descriptors);
        let plan = Plan {
            format: take.format_max.min(FORMAT),
            version: env!("CARGO_PKG_VERSION").into(),
            config,
            snapshot_version,
            workers: engine.workers() as u32,
            listener_descriptors: counts,
            open_descriptors: open_descriptors as u32,
        };
        let descriptors: Vec<BorrowedFd<'_>> =
            sockets.iter().chain([&self.admin]).chain(upgrade).map(AsFd::as_fd).collect();
        let until = Instant::now() + PREPARE_WITHIN;
        let sent = wire.send(Kind::Plan, &plan.encode_to_vec(), &descriptors, until);
        sent.map_err(|error| Aborted::Io { what: "the plan cannot be told", error })?;
        Ok(snapshot_version)
    }
}

/// Sees to it that a process ends that was told not to go on. While it hangs, its copies keep every connection open that this one closes,
/// and apps and clients from seeing the end of this process, should it die.
fn see_off(wire: &Wire, pid: i32) {
    let until = Instant::now() + SEE_OFF_WITHIN;
    loop {
        match wire.receive(until) {
            Ok(Some(_)) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => break,
            Ok(None) | Err(_) => return,
        }
    }
    // Its end of the connection is open, so it is still the one that it was. One that cannot be seen has 0.
    if pid > 1 && kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok() {
        tracing::warn!(pid, "the new process hangs with copies of every connection; it is killed");
    }
}

/// Who it is and what it wants.
fn heed(wire: &Wire) -> Result<Take, Aborted> {
    let frame = expect(wire, Kind::Take, TAKE_WITHIN)?;
    let take =
        Take::decode(&*frame.bytes).map_err(|error| Aborted::Refused(format!("TAKE cannot be read: {error}")))?;
    let (min, max) = (take.format_min, take.format_max);
    if max < FORMAT_MIN || min > FORMAT {
        return Err(Aborted::Refused(format!(
            "the new process (version {}) reads states of format {min} to {max}, this one writes {FORMAT_MIN} to {FORMAT}: upgrade by way of a version in between",
            take.version
        )));
    }
    Ok(take)
}

/// Whether this process may have every descriptor twice, and has some left for calls.
fn has_room_for_copies() -> bool {
    let wanted = 2 * open_descriptors() as u64 + DESCRIPTORS_LEFT;
    getrlimit(Resource::RLIMIT_NOFILE).is_ok_and(|(soft, _)| wanted <= soft)
}

fn rest_desk(engine: &Engine, resting: &mut Resting) -> Result<DeskHandover, Aborted> {
    let (order, given) = resting.order();
    *lock(&engine.shared.sessions.rest) = Some(order);
    engine.shared.sessions.wake();
    rested("the sessions", &given, Instant::now() + REST_WITHIN)
}

/// What each worker can give while it works. No app attaches meanwhile.
fn workers_ahead(engine: &Engine) -> Result<Vec<Ahead>, Aborted> {
    let ask = |worker: &Postbox| {
        let (asked, ahead) = channel();
        worker.send(Mail::Ahead(asked));
        ahead
    };
    let asked: Vec<_> = engine.postboxes().iter().map(ask).collect();
    let until = Instant::now() + AHEAD_WITHIN;
    asked.iter().map(|ahead| given_by("what a worker gives ahead", ahead, until)).collect()
}

fn rest_workers(engine: &Engine, known: Vec<Known>, resting: &mut Resting) -> Result<Vec<Handover>, Aborted> {
    let mut begin = |(worker, known): (&Postbox, Known)| {
        let (order, given) = resting.order();
        worker.send(Mail::Rest(order, known));
        given
    };
    let given: Vec<_> = engine.postboxes().iter().zip(known).map(&mut begin).collect();
    let until = Instant::now() + REST_WITHIN;
    given.iter().map(|given| rested("a worker", given, until)).collect()
}

/// Everybody who was told to rest. They go on when it is dropped.
#[derive(Default)]
struct Resting(Vec<(Sender<Over>, Arc<Mutex<bool>>)>);

impl Resting {
    fn order<T>(&mut self) -> (RestOrder<T>, Receiver<io::Result<Option<T>>>) {
        let (rested, given) = channel();
        let (sender, outcome) = channel();
        let held = Arc::<Mutex<bool>>::default();
        self.0.push((sender, held.clone()));
        (RestOrder { rested, outcome, held }, given)
    }

    /// From here on nobody writes a word.
    fn hold(&self) -> Result<(), Aborted> {
        let until = Instant::now() + REST_WITHIN;
        for (_, held) in &self.0 {
            *loop {
                match held.try_lock() {
                    Ok(held) => break held,
                    Err(TryLockError::Poisoned(held)) => break held.into_inner(),
                    Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(HOLDS_EVERY),
                    Err(TryLockError::WouldBlock) => {
                        return Err(Aborted::Sentence("a worker did not stay at rest".into()));
                    }
                }
            } = true;
        }
        Ok(())
    }

    /// Another process goes on.
    fn over(&mut self) {
        for (sender, _) in self.0.drain(..) {
            let _ = sender.send(Over);
        }
    }
}

fn rested<T>(who: &str, given: &Receiver<io::Result<Option<T>>>, until: Instant) -> Result<T, Aborted> {
    given_by(who, given, until)?.ok_or_else(|| late(who))
}

fn given_by<T>(who: &str, given: &Receiver<io::Result<T>>, until: Instant) -> Result<T, Aborted> {
    match given.recv_timeout(until.saturating_duration_since(Instant::now())) {
        Ok(Ok(given)) => Ok(given),
        Ok(Err(error)) => Err(Aborted::Sentence(format!("{who} cannot be handed over: {error}"))),
        Err(_) => Err(late(who)),
    }
}

fn late(who: &str) -> Aborted {
    Aborted::Sentence(format!("{who} did not come in time: the machine, or its CPU quota, leaves it too little"))
}

fn send(wire: &Wire, kind: Kind, bytes: &[u8], descriptors: &[OwnedFd], within: Duration) -> Result<(), Aborted> {
    let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let sent = wire.send(kind, bytes, &descriptors, Instant::now() + within);
    sent.map_err(|error| Aborted::Theirs(format!("does not take what it is given: {error}")))
}

/// The frame that comes next, which has to be of this kind.
fn expect(wire: &Wire, kind: Kind, within: Duration) -> Result<Frame, Aborted> {
    match wire.receive(Instant::now() + within) {
        Ok(Some(frame)) if frame.kind == kind => Ok(frame),
        Ok(Some(frame)) if frame.kind == Kind::Failed => {
            Err(Aborted::Theirs(format!("cannot go on: {}", frame.sentence())))
        }
        Ok(Some(frame)) => Err(Aborted::Theirs(format!("said {:?} where {kind:?} was due", frame.kind))),
        Ok(None) => Err(Aborted::Theirs(format!("ended before it said {kind:?}"))),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            Err(Aborted::Theirs(format!("did not say {kind:?} within {within:?}")))
        }
        Err(error) => Err(Aborted::Theirs(format!("cannot be understood: {error}"))),
    }
}
