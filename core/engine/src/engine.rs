//! The engine as the binary sees it: start, publish, drain, stop, and the numbers.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use arc_swap::ArcSwap;
use shmesh_io::{Choice, Driver, EpollDriver, Limits as DriverLimits, UringDriver, net, probe};
use shmesh_policy::{Bind, Listener, Snapshot};
use shmesh_shm::Geometry;

use crate::access_log::AccessLog;
use crate::counters::{Registry, lock};
use crate::direct::Direct;
use crate::handover::Restoring;
use crate::liveness::Liveness;
use crate::load::{LoadDesk, Observer};
use crate::mailbox::{Mail, Postbox};
use crate::resolve::Resolver;
use crate::session::SessionDesk;
use crate::session_thread::SessionThread;
use crate::shared::Shared;
use crate::worker::{Worker, WorkerParts};

/// How to run.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    pub driver: Choice,
    /// Number of workers; else the snapshot's, else by the CPU quota.
    pub workers: Option<usize>,
}

/// Which driver runs, and why if it is not the preferred one.
#[derive(Clone, Debug)]
pub struct DriverReport {
    pub name: &'static str,
    pub stepped_down: Option<String>,
}

/// Why the engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("listener {name} ({bind}): {error}")]
    Listen { name: String, bind: String, error: String },
    #[error("--driver uring: {0}; use --driver auto or epoll")]
    NoUring(String),
    #[error("the access log {path}: {error}")]
    AccessLog { path: String, error: io::Error },
    #[error("{workers} workers are asked for; at most {max} are possible")]
    Workers { workers: usize, max: usize },
    #[error("a thread or its driver cannot be started: {0}")]
    Thread(#[from] io::Error),
}

/// Why a snapshot is not taken.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("listeners cannot change while shmesh runs; restart it to take them")]
    Listeners,
}

/// As many workers as docs/spec/shm-v1.md allows.
pub const WORKERS_MAX: usize = 32;

/// A running engine.
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
    workers: Vec<Postbox>,
    threads: Vec<JoinHandle<()>>,
    in_flight: Vec<Arc<AtomicU64>>,
    drain_seen: Vec<Arc<AtomicBool>>,
    driver: DriverReport,
    ready: AtomicBool,
    /// Socket files, removed when the engine ends or drains.
    names: Mutex<Vec<net::UnixName>>,
    /// The listening sockets by listener, and the claims to their names, for a process that goes on with them. None while draining.
    pub(crate) listening: Mutex<Option<Listening>>,
    /// Held while everything is being handed over; true once another process goes on.
    pub(crate) handed_over: Mutex<bool>,
}

/// The listening sockets of one worker, by listener.
pub(crate) type Sockets = Vec<Option<OwnedFd>>;

/// What each listener is made of: TCP a socket for each worker, Unix and session sockets one socket and the claim to their name.
pub(crate) type Listening = Vec<Vec<OwnedFd>>;

/// What a worker's thread says when it is up.
type Started = io::Result<Postbox>;

impl Engine {
    /// Binds the listeners and starts the threads; when this returns, every listener accepts. `resolver` is asked for host names.
    pub fn start(snapshot: Arc<Snapshot>, options: EngineOptions, resolver: Resolver) -> Result<Engine, StartError> {
        let driver = choose(options.driver)?;
        let liveness = Liveness::start();
        let workers = options.workers.or(snapshot.workers).unwrap_or_else(workers_by_quota);
        if workers == 0 || workers > WORKERS_MAX {
            return Err(StartError::Workers { workers, max: WORKERS_MAX });
        }
        let log = open_log(&snapshot)?;
        let bound = bind(&snapshot, workers)?;
        let mut engine = Engine::new(snapshot, driver, bound.names, bound.listening);
        for sockets in bound.sockets {
            engine.start_worker(&resolver, &log, sockets, None)?;
        }
        let desk = engine.session_thread(bound.sessions, liveness)?;
        desk.start()?;
        engine.is_up()?;
        Ok(engine)
    }

    /// Without threads.
    pub(crate) fn new(
        snapshot: Arc<Snapshot>,
        driver: DriverReport,
        names: Vec<net::UnixName>,
        listening: Listening,
    ) -> Engine {
        let shared = Arc::new(Shared {
            version: AtomicU64::new(snapshot.version),
            snapshot: ArcSwap::new(snapshot),
            registry: Arc::new(Registry::default()),
            draining: AtomicBool::new(false),
            sessions: SessionDesk::default(),
            load: LoadDesk::default(),
        });
        Engine {
            shared,
            workers: Vec::new(),
            threads: Vec::new(),
            in_flight: Vec::new(),
            drain_seen: Vec::new(),
            driver,
            ready: AtomicBool::new(false),
            names: Mutex::new(names),
            listening: Mutex::new(Some(listening)),
            handed_over: Mutex::new(false),
        }
    }

    /// Starts the next worker, at once or with what another process's worker gave.
    pub(crate) fn start_worker(
        &mut self,
        resolver: &Resolver,
        log: &Option<AccessLog>,
        sockets: Sockets,
        restoring: Option<Receiver<Restoring>>,
    ) -> Result<(), StartError> {
        let in_flight = Arc::new(AtomicU64::new(0));
        let drain_seen = Arc::new(AtomicBool::new(false));
        let start = WorkerStart {
            shared: self.shared.clone(),
            index: self.workers.len(),
            resolver: resolver.clone(),
            log: log.clone(),
            in_flight: in_flight.clone(),
            drain_seen: drain_seen.clone(),
            sockets,
        };
        let (thread, postbox) = if self.driver.name == "uring" {
            spawn(start, restoring, || UringDriver::new(DriverLimits::default()).map_err(io::Error::other))?
        } else {
            spawn(start, restoring, || EpollDriver::new(DriverLimits::default()))?
        };
        self.threads.push(thread);
        self.workers.push(postbox);
        self.in_flight.push(in_flight);
        self.drain_seen.push(drain_seen);
        Ok(())
    }

    /// What the session thread is made of, once all workers are there.
    pub(crate) fn session_thread(
        &self,
        listeners: Vec<(u16, UnixListener)>,
        liveness: Liveness,
    ) -> io::Result<SessionThread> {
        let shared = self.shared.clone();
        let bell = shmesh_shm::doorbell::worker_bell()?;
        *lock(&shared.sessions.bell) = Some(bell.try_clone()?);
        let (workers, geometry) = (self.workers.clone(), Geometry::default());
        Ok(SessionThread { shared, workers, listeners, bell, geometry, liveness, taken: None })
    }

    /// Every listener accepts: looks after the load from now on.
    pub(crate) fn is_up(&self) -> io::Result<()> {
        Observer::start(self.shared.clone())?;
        self.ready.store(true, Ordering::Release);
        Ok(())
    }

    /// The workers' boxes.
    pub(crate) fn postboxes(&self) -> &[Postbox] {
        &self.workers
    }

    /// Does something that another process could not know of if it went on in between; `None` while it is about to.
    pub fn unless_handing_over<T>(&self, change: impl FnOnce() -> T) -> Option<T> {
        let handed_over = self.handed_over.try_lock().ok().filter(|handed_over| !**handed_over)?;
        let changed = change();
        drop(handed_over);
        Some(changed)
    }

    /// Another process goes on: what dropping these would remove is its own.
    pub(crate) fn forget_names(&self) {
        std::mem::forget(std::mem::take(&mut *lock(&self.names)));
    }

    /// Has a socket file removed when the engine ends or drains.
    pub(crate) fn keep_name(&self, name: net::UnixName) {
        lock(&self.names).push(name);
    }

    /// The driver that the workers run on.
    pub fn driver(&self) -> &DriverReport {
        &self.driver
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Makes a snapshot the current one. The workers take it between two turns.
    pub fn publish(&self, snapshot: Arc<Snapshot>) -> Result<(), PublishError> {
        if !same_listeners(&self.shared.snapshot.load(), &snapshot) {
            return Err(PublishError::Listeners);
        }
        let version = snapshot.version;
        self.shared.snapshot.store(snapshot);
        self.shared.version.store(version, Ordering::Release);
        for worker in &self.workers {
            worker.wake();
        }
        self.shared.sessions.wake();
        Ok(())
    }

    /// The snapshot in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// Every listener accepts, and nobody asked to stop.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.shared.draining.load(Ordering::Acquire)
    }

    /// Tells every app which share of its calls goes round the sidecar: those that are attached at once, others when they attach.
    pub fn set_direct(&self, direct: Direct) {
        *lock(&self.shared.sessions.direct) = direct;
        self.shared.sessions.wake();
    }

    /// What apps are told.
    pub fn direct(&self) -> Direct {
        lock(&self.shared.sessions.direct).clone()
    }

    /// Closes the listeners and lets what is in flight finish.
    /// Not while everything is being handed over, for which it waits, and not afterwards: nothing of it is this process's any more.
    pub fn begin_drain(&self) {
        let handed_over = lock(&self.handed_over);
        if *handed_over {
            return;
        }
        self.shared.draining.store(true, Ordering::Release);
        lock(&self.names).clear();
        // The workers close theirs when what waits in their queues was accepted.
        *lock(&self.listening) = None;
        for worker in &self.workers {
            worker.send(Mail::Drain);
        }
        self.shared.sessions.wake();
    }

    /// Calls in flight. Once draining has begun it also counts what else is unfinished, and is not 0 before every worker
    /// knows of the draining.
    pub fn in_flight(&self) -> u64 {
        let draining = self.shared.draining.load(Ordering::Acquire);
        let unaware = draining && !self.drain_seen.iter().all(|seen| seen.load(Ordering::Acquire));
        self.in_flight.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>() + u64::from(unaware)
    }

    /// Ends the workers at once.
    pub fn stop(self) {
        for worker in &self.workers {
            worker.send(Mail::Stop);
        }
        for thread in self.threads {
            // A worker that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// Whether two snapshots listen in the same way. Clusters are compared by name: their indices may have moved.
fn same_listeners(old: &Snapshot, new: &Snapshot) -> bool {
    let cluster = |snapshot: &Snapshot, listener: &Listener| {
        listener.cluster.and_then(|id| snapshot.cluster(id)).map(|cluster| cluster.name.clone())
    };
    old.listeners.len() == new.listeners.len()
        && old.listeners.iter().zip(&new.listeners).all(|(a, b)| {
            a.name == b.name && a.bind == b.bind && a.protocol == b.protocol && cluster(old, a) == cluster(new, b)
        })
}

/// What a worker starts with.
pub(crate) struct WorkerStart {
    pub shared: Arc<Shared>,
    pub index: usize,
    pub resolver: Resolver,
    pub log: Option<AccessLog>,
    pub in_flight: Arc<AtomicU64>,
    pub drain_seen: Arc<AtomicBool>,
    pub sockets: Sockets,
}

/// Starts a worker's thread; the driver is made on it.
fn spawn<D: Driver>(
    start: WorkerStart,
    restoring: Option<Receiver<Restoring>>,
    driver: impl FnOnce() -> io::Result<D> + Send + 'static,
) -> Result<(JoinHandle<()>, Postbox), StartError> {
    let (sender, started) = channel::<Started>();
    let index = start.index;
    let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        start.shared.load.add_worker(index);
        let mut worker = match prepare(start, driver) {
            Ok(worker) => worker,
            Err(error) => {
                let _ = sender.send(Err(error));
                return;
            }
        };
        let _ = sender.send(Ok(worker.mail.clone()));
        if let Some(restoring) = restoring
            && !worker.restore(&restoring)
        {
            return;
        }
        if let Err(error) = worker.run() {
            // Without its driver a worker can serve nobody; the process is restarted, and shims go direct.
            tracing::error!(worker = index, %error, "the driver failed; shmesh exits");
            std::process::exit(70);
        }
    })?;
    match started.recv() {
        Ok(Ok(postbox)) => Ok((thread, postbox)),
        Ok(Err(error)) => Err(StartError::Thread(error)),
        Err(_) => Err(StartError::Thread(io::Error::other("the worker ended before it began"))),
    }
}

/// A worker that listens and is about to run.
pub(crate) fn prepare<D: Driver>(start: WorkerStart, driver: impl FnOnce() -> io::Result<D>) -> io::Result<Worker<D>> {
    let driver = driver()?;
    let mail = Postbox::new(driver.waker());
    let mut worker = Worker::new(WorkerParts {
        driver,
        shared: start.shared,
        mail,
        resolver: start.resolver,
        log: start.log,
        in_flight: start.in_flight,
        drain_seen: start.drain_seen,
    });
    worker.listen(start.sockets)?;
    Ok(worker)
}

struct Bound {
    sockets: Vec<Sockets>,
    listening: Listening,
    sessions: Vec<(u16, UnixListener)>,
    names: Vec<net::UnixName>,
}

/// Binds every listener: TCP once a worker, a Unix socket once for the worker that has it, session sockets for their thread.
fn bind(snapshot: &Snapshot, workers: usize) -> Result<Bound, StartError> {
    let mut bound = Bound {
        sockets: (0..workers).map(|_| Vec::new()).collect(),
        listening: Vec::new(),
        sessions: Vec::new(),
        names: Vec::new(),
    };
    for (index, listener) in snapshot.listeners.iter().enumerate() {
        let refused = |error: String| StartError::Listen {
            name: listener.name.to_string(),
            bind: listener.bind.to_string(),
            error,
        };
        for sockets in &mut bound.sockets {
            sockets.push(None);
        }
        match &listener.bind {
            Bind::Tcp(address) => {
                let listening = net::listen_tcp(*address, workers).map_err(|error| refused(error.to_string()))?;
                for (sockets, socket) in bound.sockets.iter_mut().zip(&listening) {
                    sockets[index] = Some(socket.try_clone().map_err(|error| refused(error.to_string()))?);
                }
                bound.listening.push(listening);
            }
            Bind::Unix(path) => {
                make_folder(path).map_err(refused)?;
                let listening = net::listen_unix(path, SOCKET_MODE).map_err(|error| refused(error.to_string()))?;
                for sockets in &mut bound.sockets {
                    let socket = listening.socket.try_clone().map_err(|error| refused(error.to_string()))?;
                    sockets[index] = Some(socket);
                }
                let claim = listening.name.claim().try_clone_to_owned().map_err(|error| refused(error.to_string()))?;
                bound.listening.push(vec![listening.socket, claim]);
                bound.names.push(listening.name);
            }
            Bind::Shm(path) => {
                make_folder(path).map_err(refused)?;
                let listening = net::listen_unix(path, SOCKET_MODE).map_err(|error| refused(error.to_string()))?;
                let socket = UnixListener::from(listening.socket);
                socket.set_nonblocking(true).map_err(|error| refused(error.to_string()))?;
                let claim = listening.name.claim().try_clone_to_owned().map_err(|error| refused(error.to_string()))?;
                let kept = socket.try_clone().map_err(|error| refused(error.to_string()))?;
                bound.listening.push(vec![kept.into(), claim]);
                bound.sessions.push((index as u16, socket));
                bound.names.push(listening.name);
            }
        }
    }
    Ok(bound)
}

/// Makes the folder of a socket file if just that one is missing, as `/run/shmesh` is after each boot.
fn make_folder(path: &Path) -> Result<(), String> {
    match path.parent() {
        Some(folder) if !folder.exists() => fs::create_dir(folder)
            .map_err(|error| format!("its folder {} is not there and cannot be made: {error}", folder.display())),
        _ => Ok(()),
    }
}

/// Mode of every socket file.
const SOCKET_MODE: u32 = 0o660;

pub(crate) fn choose(choice: Choice) -> Result<DriverReport, StartError> {
    match choice {
        Choice::Epoll => Ok(DriverReport { name: "epoll", stepped_down: None }),
        Choice::Uring => match probe::uring() {
            Ok(()) => Ok(DriverReport { name: "uring", stepped_down: None }),
            Err(refusal) => Err(StartError::NoUring(refusal.to_string())),
        },
        Choice::Auto => Ok(match probe::uring() {
            Ok(()) => DriverReport { name: "uring", stepped_down: None },
            Err(refusal) => DriverReport { name: "epoll", stepped_down: Some(refusal.to_string()) },
        }),
    }
}

pub(crate) fn open_log(snapshot: &Snapshot) -> Result<Option<AccessLog>, StartError> {
    let Some(spec) = &snapshot.access_log else { return Ok(None) };
    let opened = AccessLog::open(&spec.path);
    opened.map(Some).map_err(|error| StartError::AccessLog { path: spec.path.display().to_string(), error })
}

/// One worker for each whole core of the cgroup's quota, or of the machine, and never more than four: a sidecar that takes
/// more is no sidecar any more.
fn workers_by_quota() -> usize {
    // The standard library looks at affinity and at the cgroup's quota.
    let cores = thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).clamp(1, 4)
}
