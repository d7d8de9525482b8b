//! The sidecar of a run: real workers and the real session desk, each a task.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use shmesh_engine::embed::{Control, Inspect, Parts, WorkerPart, assemble, take_over};
use shmesh_io::sim::SimDriver;
use shmesh_io::{Limits, Nanos, Target};
use shmesh_policy::{
    Address, Bind, Cluster, ClusterId, HttpSpec, Listener, Priority, Protocol, Route, RouteMatch, Routes, Snapshot,
};
use shmesh_shm::Geometry;

use crate::call::{APP, HALF, RAW, RAW_APP, SERVICE, SERVICE_APP, WEB};
use crate::journal;
use crate::machine::{Machine, ProcessId};
use crate::upgrade::{Meeting, Next};

/// Where everything is.
pub const HTTP_DOWN: &str = "10.0.0.1:80";
pub const DUBBO_DOWN: &str = "10.0.0.1:20880";
pub const RAW_DOWN: &str = "10.0.0.1:9";
pub const RAW_APP_DOWN: &str = "10.0.0.1:10";
pub const HTTP_UP: &str = "10.0.1.1:80";
pub const HTTP_UP_TOO: &str = "10.0.1.2:80";
pub const DUBBO_UP: &str = "10.0.2.1:20880";
pub const RAW_UP: &str = "10.0.3.1:9";
/// Nobody is there.
pub const NOBODY: &str = "10.0.9.9:80";

/// The name under which the serving app of a run serves.
pub const SERVING: &str = "echo-app";

/// How the sidecar of a run is made.
#[derive(Clone, Debug)]
pub struct Settings {
    pub socket: PathBuf,
    pub workers: usize,
    pub geometry: Geometry,
    pub buffered: u32,
    pub first_byte: Duration,
    pub pool_slots: u32,
    /// Calls that a session may have open.
    pub calls_per_session: u32,
    /// Calls that a client's connection, or a serving lane, may have waiting.
    pub calls_per_connection: u32,
}

/// A sidecar that runs.
pub struct Sidecar {
    pub process: ProcessId,
    version: u64,
    control: Rc<RefCell<Control>>,
    meeting: Meeting,
    listening: Rc<Listening>,
    settings: Settings,
    is_drained: Cell<bool>,
    counts: Rc<RefCell<Vec<Option<Inspect>>>>,
    asked: Rc<Cell<u64>>,
}

pub fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

impl Sidecar {
    /// Starts it; its listeners accept.
    pub fn start(machine: &Machine, settings: &Settings) -> Sidecar {
        journal::note(|| format!("a sidecar starts: {settings:?}"));
        let process = machine.process("sidecar");
        let listening = Rc::new(Listening::new(machine, settings));
        let snapshot = Arc::new(snapshot(settings));
        let parts = listening.parts(machine, settings, snapshot);
        let embedded = assemble(parts).expect("an engine");
        let meeting = Meeting::new(settings.workers);
        let counts = Rc::new(RefCell::new(vec![None; settings.workers]));
        let asked = Rc::new(Cell::new(0));
        for (index, mut worker) in embedded.workers.into_iter().enumerate() {
            let (machine_of, counts, asked) = (machine.clone(), counts.clone(), asked.clone());
            let meeting = meeting.clone();
            machine.spawn(process, &format!("worker-{index}"), move || {
                let mut answered = 0;
                while worker.turn().expect("a driver that works") {
                    machine_of.turned();
                    if asked.get() != answered {
                        answered = asked.get();
                        let inspected = worker.inspect();
                        counts.borrow_mut()[index] = Some(inspected);
                    }
                    meeting.worker(&machine_of, index, &mut worker);
                }
            });
        }
        let mut desk = embedded.desk;
        let (machine_of, at) = (machine.clone(), meeting.clone());
        machine.spawn(process, "sessions", move || {
            loop {
                desk.turn();
                at.desk(&machine_of, &mut desk);
            }
        });
        let control = Rc::new(RefCell::new(embedded.control));
        Sidecar {
            process,
            version: 1,
            control,
            counts,
            asked,
            meeting,
            listening,
            settings: settings.clone(),
            is_drained: Cell::new(false),
        }
    }

    /// Another sidecar goes on with everything, in the same process; or this one does, if that `fails`.
    pub fn upgrade(&self, machine: &Machine, ahead: Option<Nanos>, fails: bool) {
        if self.is_drained.get() {
            return;
        }
        let (control, settings) = (self.control.clone(), self.settings.clone());
        let (of, listening) = (machine.clone(), self.listening.clone());
        let before = control.borrow().clone();
        self.meeting.begin(
            machine,
            self.process,
            ahead,
            move || before.wake(),
            move |given| {
                if fails {
                    return None;
                }
                let snapshot = control.borrow().snapshot();
                let parts = listening.parts(&of, &settings, snapshot);
                let (embedded, lanes) = take_over(parts, given.desk).expect("sessions that can be gone on with");
                let mut workers = Vec::new();
                let given = given.workers.into_iter().zip(given.ahead);
                for ((mut worker, (given, ahead)), lanes) in embedded.workers.into_iter().zip(given).zip(lanes) {
                    worker.take(given, ahead, lanes).expect("a state that can be gone on with");
                    workers.push(worker);
                }
                *control.borrow_mut() = embedded.control;
                Some(Next { desk: embedded.desk, workers })
            },
        );
    }

    /// Closes the listeners and lets what is in flight finish.
    pub fn drain(&self) {
        if !self.meeting.is_held() {
            self.is_drained.set(true);
            self.control.borrow().drain();
        }
    }

    /// Sessions that are attached.
    pub fn sessions(&self) -> usize {
        self.control.borrow().sessions()
    }

    /// The same settings once more, as a new snapshot.
    pub fn publish(&mut self, settings: &Settings) {
        if self.meeting.is_held() {
            return;
        }
        self.version += 1;
        self.control.borrow().publish(Arc::new(Snapshot { version: self.version, ..snapshot(settings) }));
    }

    /// Asks every worker what it has; the answers come with its next turn.
    pub fn ask(&self) {
        self.counts.borrow_mut().fill(None);
        self.asked.set(self.asked.get() + 1);
        self.control.borrow().wake();
    }

    /// The answers, once all are there.
    pub fn answers(&self) -> Option<Vec<Inspect>> {
        self.counts.borrow().iter().copied().collect()
    }
}

/// The listening sockets, which each sidecar hands over to the next.
struct Listening {
    sessions: UnixListener,
    /// Of each worker, by listener.
    workers: Vec<Vec<Option<OwnedFd>>>,
}

impl Listening {
    fn new(machine: &Machine, settings: &Settings) -> Listening {
        let _ = std::fs::remove_file(&settings.socket);
        let sessions = UnixListener::bind(&settings.socket).expect("a socket");
        sessions.set_nonblocking(true).expect("a flag");
        let listener = |at: &str| Some(machine.world().listener(&Target::Tcp(addr(at))).expect("an address"));
        let of_worker =
            || vec![None, listener(HTTP_DOWN), listener(DUBBO_DOWN), listener(RAW_DOWN), listener(RAW_APP_DOWN)];
        Listening { sessions, workers: (0..settings.workers).map(|_| of_worker()).collect() }
    }

    /// With new drivers.
    fn parts(&self, machine: &Machine, settings: &Settings, snapshot: Arc<Snapshot>) -> Parts<SimDriver> {
        let twin = |socket: &Option<OwnedFd>| socket.as_ref().map(|socket| socket.try_clone().expect("a descriptor"));
        let worker = |listeners: &Vec<Option<OwnedFd>>| WorkerPart {
            driver: SimDriver::new(machine.world(), "sidecar", Limits { pool_slots: settings.pool_slots })
                .expect("a driver"),
            listeners: listeners.iter().map(twin).collect(),
        };
        Parts {
            snapshot,
            workers: self.workers.iter().map(worker).collect(),
            session_sockets: vec![(0, self.sessions.try_clone().expect("a descriptor"))],
            geometry: settings.geometry,
        }
    }
}

fn snapshot(settings: &Settings) -> Snapshot {
    let tcp = |at: &str| Address::Tcp(addr(at));
    let mut clusters = vec![
        Cluster::new("web", [tcp(HTTP_UP), tcp(HTTP_UP_TOO)]),
        Cluster::new("app", [Address::Shm(SERVING.into())]),
        Cluster::new("half", [tcp(NOBODY), tcp(HTTP_UP)]),
        Cluster::new("dubbo", [tcp(DUBBO_UP)]),
        Cluster::new(RAW, [tcp(RAW_UP)]),
        Cluster::new(RAW_APP, [Address::Shm(SERVING.into())]),
    ];
    for cluster in &mut clusters {
        cluster.connect_timeout = Duration::from_millis(50);
        cluster.first_byte_timeout = settings.first_byte;
    }
    let to_host = |host: &str, cluster| Route {
        matching: RouteMatch { host: Some(host.into()), ..RouteMatch::default() },
        cluster: ClusterId(cluster),
        idempotent: None,
        priority: Priority::Default,
    };
    let to_service = |service: &str, cluster| Route {
        matching: RouteMatch { service: Some(shmesh_policy::Pattern::new(service)), ..RouteMatch::default() },
        cluster: ClusterId(cluster),
        idempotent: None,
        priority: Priority::Default,
    };
    let routes = Routes::new(vec![
        to_host(WEB, 0),
        to_host(APP, 1),
        to_host(HALF, 2),
        to_service(SERVICE, 3),
        to_service(SERVICE_APP, 1),
    ]);
    let listener = |name: &str, bind, protocol| Listener {
        name: name.into(),
        bind,
        protocol,
        cluster: None,
        http: HttpSpec::default(),
        allow_uids: None,
    };
    let raw = |name: &str, at: &str, cluster| Listener {
        cluster: Some(ClusterId(cluster)),
        ..listener(name, Bind::Tcp(addr(at)), Protocol::Raw)
    };
    let listeners = vec![
        listener("apps", Bind::Shm(Path::new(&settings.socket).into()), Protocol::Raw),
        listener("http", Bind::Tcp(addr(HTTP_DOWN)), Protocol::Http),
        listener("dubbo", Bind::Tcp(addr(DUBBO_DOWN)), Protocol::Dubbo),
        raw("raw", RAW_DOWN, 4),
        raw("raw-app", RAW_APP_DOWN, 5),
    ];
    let mut snapshot = Snapshot { version: 1, listeners, routes, clusters, ..Snapshot::default() };
    snapshot.timeouts.connect = Duration::from_millis(50);
    snapshot.timeouts.first_byte = settings.first_byte;
    snapshot.timeouts.idle = Duration::from_millis(400);
    snapshot.timeouts.head_read = Duration::from_millis(300);
    snapshot.limits.buffered_bytes_per_connection = settings.buffered;
    snapshot.limits.calls_per_connection = settings.calls_per_connection;
    snapshot.session.quotas.calls_per_session = settings.calls_per_session;
    snapshot
}
