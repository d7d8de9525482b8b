//! The engine in pieces, without its threads: whoever embeds it makes the drivers and runs the workers and the session desk
//! itself. The simulation (tests/sim) does, and so can a profiler that wants one worker on its own thread.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;

use arc_swap::ArcSwap;
use shmesh_io::Driver;
use shmesh_policy::Snapshot;
use shmesh_shm::Geometry;

use crate::conn::Role;
use crate::counters::{Registry, lock};
use crate::engine::{WorkerStart, prepare};
use crate::handover::TakenDesk;
pub use crate::handover::{Ahead, DeskHandover, FORMAT, FORMAT_MIN, Handover, Refusal};
use crate::lane::User;
use crate::liveness::Liveness;
use crate::load::LoadDesk;
use crate::mailbox::{Mail, Postbox};
pub use crate::quota::SessionUse;
use crate::resolve::Resolver;
use crate::session::SessionDesk;
pub use crate::session::{NewLane, NewLanes};
use crate::session_thread::{Desk, SessionThread};
use crate::shared::Shared;
use crate::worker::{Turn, Worker};

/// What an embedded engine is made of.
pub struct Parts<D> {
    pub snapshot: Arc<Snapshot>,
    /// One a worker.
    pub workers: Vec<WorkerPart<D>>,
    /// Listening session sockets, non-blocking, with the index of their listener in the snapshot.
    pub session_sockets: Vec<(u16, UnixListener)>,
    /// Of every session.
    pub geometry: Geometry,
}

/// A worker's driver and its listening sockets, in the order of the snapshot's listeners; `None` for session sockets.
pub struct WorkerPart<D> {
    pub driver: D,
    pub listeners: Vec<Option<OwnedFd>>,
}

/// The pieces.
pub struct Embedded<D: Driver> {
    pub workers: Vec<LoneWorker<D>>,
    pub desk: LoneDesk,
    pub control: Control,
}

/// Puts an engine together. Host names do not resolve in it: the threads that would ask for them do not exist. There is no
/// access log.
pub fn assemble<D: Driver>(parts: Parts<D>) -> io::Result<Embedded<D>> {
    Ok(put_together(parts, None)?.0)
}

/// Puts an engine together that goes on with another's sessions, and for each worker the lanes with which it is to [`LoneWorker::take`] that
/// of the other.
pub fn take_over<D: Driver>(parts: Parts<D>, desk: DeskHandover) -> io::Result<(Embedded<D>, Vec<Vec<NewLanes>>)> {
    put_together(parts, Some(desk))
}

fn put_together<D: Driver>(
    parts: Parts<D>,
    given: Option<DeskHandover>,
) -> io::Result<(Embedded<D>, Vec<Vec<NewLanes>>)> {
    let snapshot = parts.snapshot;
    let shared = Arc::new(Shared {
        version: AtomicU64::new(snapshot.version),
        snapshot: ArcSwap::new(snapshot),
        registry: Arc::new(Registry::default()),
        draining: AtomicBool::new(false),
        sessions: SessionDesk::default(),
        load: LoadDesk::default(),
    });
    let mut workers = Vec::new();
    for (index, part) in parts.workers.into_iter().enumerate() {
        let start = WorkerStart {
            shared: shared.clone(),
            index,
            resolver: Resolver::deaf(),
            log: None,
            in_flight: Arc::default(),
            drain_seen: Arc::default(),
            sockets: part.listeners,
        };
        workers.push(LoneWorker(prepare(start, || Ok(part.driver))?));
    }
    let bell = shmesh_shm::doorbell::worker_bell()?;
    *lock(&shared.sessions.bell) = Some(bell.try_clone()?);
    let postboxes: Vec<Postbox> = workers.iter().map(|worker| worker.0.mail.clone()).collect();
    let (mut lanes, mut taken) = (Vec::new(), None);
    if let Some(given) = given {
        shared.sessions.quotas.size_up();
        let desk = TakenDesk::map(given, &shared.sessions.quotas, workers.len()).map_err(io::Error::other)?;
        lanes = desk.lanes(workers.len())?;
        taken = Some((desk, Vec::new()));
    }
    let desk = Desk::new(SessionThread {
        shared: shared.clone(),
        workers: postboxes.clone(),
        listeners: parts.session_sockets,
        bell,
        geometry: parts.geometry,
        liveness: Liveness::without_thread(),
        taken,
    });
    Ok((Embedded { workers, desk: LoneDesk(desk), control: Control { shared, workers: postboxes } }, lanes))
}

/// A worker without a thread.
pub struct LoneWorker<D: Driver>(Worker<D>);

impl<D: Driver> LoneWorker<D> {
    /// One turn of its loop; may wait in the driver. False: it was told to stop.
    #[inline(never)] // where benches/instructions.sh begins and ends to count
    pub fn turn(&mut self) -> io::Result<bool> {
        self.0.turn().map(|turn| turn == Turn::GoOn)
    }

    /// What a session of so many lanes and bytes uses; `None` if the quotas do not allow it.
    pub fn admit(&self, uid: u32, lanes: u64, bytes: u64) -> Option<Arc<SessionUse>> {
        let spec = &self.0.snapshot.session;
        self.0.shared.sessions.quotas.admit(uid, lanes, bytes, spec).ok()
    }

    /// Lanes of an app begin, as if it had attached through the desk.
    pub fn attach(&mut self, lanes: NewLanes) {
        self.0.attach(lanes);
    }

    /// Gives what it can give before it rests.
    pub fn give_ahead(&mut self) -> io::Result<Ahead> {
        let (asked, ahead) = channel();
        self.0.give_ahead(asked);
        while self.0.giving.is_some() {
            self.0.give_slice();
        }
        ahead.recv().map_err(io::Error::other)?
    }

    /// Comes to rest and gives away everything that it did not give ahead; `None` if it did not come to rest in time. Either way it can go on.
    pub fn give(&mut self, ahead: Option<&Ahead>) -> io::Result<Option<Handover>> {
        let known = ahead.map(Ahead::known).unwrap_or_default();
        if !self.0.come_to_rest()? { Ok(None) } else { self.0.give(&known).map(Some) }
    }

    /// Works again after [`LoneWorker::give`].
    pub fn go_on(&mut self) {
        self.0.go_on();
    }

    /// Goes on with what another worker gave. This one was just made, with the same snapshot.
    pub fn take(&mut self, given: Handover, ahead: Option<Ahead>, sessions: Vec<NewLanes>) -> Result<(), Refusal> {
        let ready = self.0.prepare_to_take(sessions, ahead.unwrap_or_default())?;
        self.0.take(given, ready)?;
        self.0.begin();
        Ok(())
    }

    /// The driver.
    pub fn driver(&mut self) -> &mut D {
        &mut self.0.driver
    }

    /// What is in its tables now.
    pub fn inspect(&mut self) -> Inspect {
        let worker = &mut self.0;
        let mut counts = Inspect {
            calls: worker.calls.len() + worker.relayed,
            sessions: worker.sessions.len(),
            lanes: worker.lanes.len(),
            blocked_lanes: worker.blocked.len(),
            ..Inspect::default()
        };
        for key in worker.conns.keys() {
            let Some(conn) = worker.conns.get(key) else { continue };
            match &conn.role {
                Role::HttpUp(up) if up.call.is_none() && up.connected => counts.conns_idle += 1,
                Role::DubboUp(up) if up.waiting == 0 && up.queue.is_empty() => counts.conns_idle += 1,
                Role::HttpUp(_) | Role::DubboUp(_) | Role::RawUp(_) => counts.conns_up += 1,
                Role::HttpDown(_) | Role::DubboDown(_) | Role::RawDown(_) => counts.conns_down += 1,
                Role::Lingering => counts.conns_lingering += 1,
            }
        }
        for key in worker.lanes.keys() {
            let Some(lane) = worker.lanes.get_mut(key) else { continue };
            counts.slots_used += lane.slots.iter().filter(|slot| slot.user != User::Free).count();
            counts.calls_waiting += lane.waiting.len();
            counts.slots_lost += match lane.serves {
                Some(_) => lane.slots.iter().filter(|slot| slot.user == User::Free).count().abs_diff(lane.free.len()),
                None => 0,
            };
            counts.blocks_lent += lane.end.lent_blocks() as usize;
            counts.returns_kept += usize::from(lane.end.has_returns());
        }
        counts
    }
}

/// The session thread's work without its thread.
pub struct LoneDesk(Desk);

impl LoneDesk {
    /// Serves for ever.
    pub fn run(self) {
        self.0.run();
    }

    /// Waits for something to do, and does it.
    pub fn turn(&mut self) {
        self.0.turn();
    }

    /// Gives everything away; it can go on all the same.
    pub fn give(&mut self) -> io::Result<DeskHandover> {
        self.0.give()
    }
}

/// What the control side does to an engine.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
    workers: Vec<Postbox>,
}

impl Control {
    /// Makes a snapshot with the same listeners the current one.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        let version = snapshot.version;
        self.shared.snapshot.store(snapshot);
        self.shared.version.store(version, Ordering::Release);
        self.wake();
    }

    /// The snapshot in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// Closes the listeners and lets what is in flight finish.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Release);
        for worker in &self.workers {
            worker.send(Mail::Drain);
        }
        self.shared.sessions.wake();
    }

    /// Ends the workers at once.
    pub fn stop(&self) {
        for worker in &self.workers {
            worker.send(Mail::Stop);
        }
    }

    /// Makes the workers and the desk look at their surroundings.
    pub fn wake(&self) {
        for worker in &self.workers {
            worker.wake();
        }
        self.shared.sessions.wake();
    }

    /// Sessions that are attached.
    pub fn sessions(&self) -> usize {
        lock(&self.shared.sessions.list).len()
    }
}

/// What is in a worker's tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inspect {
    /// Calls in flight.
    pub calls: usize,
    /// Clients' connections, and streams that stand in for them.
    pub conns_down: usize,
    /// Connections to upstreams that are not idle.
    pub conns_up: usize,
    /// Connections to upstreams that wait for the next call.
    pub conns_idle: usize,
    /// Connections on which everything was said.
    pub conns_lingering: usize,
    pub sessions: usize,
    pub lanes: usize,
    /// Lanes that wait for room.
    pub blocked_lanes: usize,
    /// Slots of all lanes that are in use.
    pub slots_used: usize,
    /// Slots of serving lanes that are in neither state: used, or known to be free.
    pub slots_lost: usize,
    /// Calls that wait for a slot of a serving lane.
    pub calls_waiting: usize,
    /// Blocks of the sidecar's arenas that apps have.
    pub blocks_lent: usize,
    /// Lanes with blocks of the app that the sidecar is done with and has not given back.
    pub returns_kept: usize,
}
