//! The session thread's part of an upgrade: apps' connections, and what their sessions are made of.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shmesh_shm::Mapping;
use shmesh_shm::handshake::{Message, Welcome};

use super::messages::{AheadState, AppState, AttachedState, DeskState, LookupState};
use super::{Ahead, Over, Refusal, RestOrder};
use crate::counters::lock;
use crate::liveness::Liveness;
use crate::lookup::Lookups;
use crate::quota::QuotaDesk;
use crate::session::{NewLane, NewLanes, SessionView};
use crate::session_thread::{Desk, Files, Peer, Session};

/// The session thread at rest, as the next process gets it.
#[derive(Debug)]
pub struct DeskHandover {
    pub(super) state: DeskState,
    pub(super) descriptors: Vec<OwnedFd>,
}

impl DeskHandover {
    /// Adds what a worker gives ahead.
    pub(super) fn add(&mut self, ahead: Ahead) {
        self.state.ahead.push(ahead.state);
        self.descriptors.extend(ahead.descriptors);
    }
}

/// What another session thread gave, mapped and ready to go on with.
#[derive(Default)]
pub(crate) struct TakenDesk {
    apps: Vec<TakenApp>,
    next_session: u64,
    next_worker: usize,
    /// What workers gave before they rest; none if the other process does not do that.
    ahead: Vec<Ahead>,
}

struct TakenApp {
    peer: Peer,
    view: Option<SessionView>,
    served_at: Option<String>,
    liveness: Option<OwnedFd>,
    lanes: Vec<LanesOfWorker>,
}

/// The lanes that a session has on one worker, with everything but their bells, which the worker gives.
struct LanesOfWorker {
    to_proxy: Arc<Mapping>,
    bell: OwnedFd,
}

impl Desk {
    /// Gives everything away, and does nothing until it is known whether the other process goes on.
    pub(crate) fn rest(&mut self, order: &RestOrder<DeskHandover>) {
        let given = self.give().map(Some);
        if order.rested.send(given).is_err() {
            return;
        }
        // It writes nothing while it waits, held or not.
        if let Ok(Over) = order.outcome.recv() {
            // All this is another process's now, which must not see any of it dropped. But for these: the other process has copies, and should it
            // die its apps are to see that at once.
            self.liveness = Liveness::without_thread();
            loop {
                std::thread::park();
            }
        }
    }

    pub(crate) fn give(&mut self) -> io::Result<DeskHandover> {
        let mut state =
            DeskState { next_session: self.next_session, next_worker: self.next_worker as u32, ..DeskState::default() };
        let mut descriptors = Vec::new();
        let mut liveness = self.liveness.copies()?;
        for peer in self.peers.values() {
            descriptors.push(peer.socket.try_clone()?.into());
            let attached = match &peer.session {
                None => None,
                Some(session) => {
                    let Files { to_proxy, to_app, worker_bells } = &session.files;
                    for file in [to_proxy, to_app].into_iter().chain(worker_bells) {
                        descriptors.push(file.try_clone()?);
                    }
                    let liveness = liveness.remove(&session.id);
                    let mut attached = self.give_session(session)?;
                    attached.liveness = liveness.is_some();
                    descriptors.extend(liveness);
                    Some(attached)
                }
            };
            state.apps.push(AppState {
                listener: peer.listener.into(),
                input: peer.input.clone(),
                unsaid: peer.unsaid.clone(),
                uid: peer.uid,
                pid: peer.pid,
                since: peer.since,
                session: attached,
            });
        }
        Ok(DeskHandover { state, descriptors })
    }

    fn give_session(&self, session: &Session) -> io::Result<AttachedState> {
        let view = lock(&self.shared.sessions.list).get(&session.id).cloned();
        let since = view.as_ref().map_or(UNIX_EPOCH, |view| view.since);
        let lookup =
            |(asked, told): (Message, Message)| Ok(LookupState { asked: encoded(&asked)?, told: encoded(&told)? });
        Ok(AttachedState {
            id: session.id,
            welcome: encoded(&Message::Welcome(session.welcome.clone()))?,
            app: session.app.clone(),
            serves: session.serves.is_some(),
            served_at: session.serves.as_ref().and_then(|name| self.served_at.get(name).cloned()),
            isolation: view.is_some_and(|view| view.isolation),
            since_unix_ms: since.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
            direct: session.direct,
            lookups: session.lookups.rest().map(lookup).collect::<io::Result<_>>()?,
            liveness: false,
            behind: session.behind,
        })
    }

    /// Goes on with what another process's session thread gave, less the sessions that ended meanwhile.
    pub(crate) fn go_on(&mut self, taken: TakenDesk, ended: &[u64]) {
        self.next_session = taken.next_session.max(1);
        self.next_worker = taken.next_worker;
        for app in taken.apps {
            let (id, session) = (self.next_peer, app.peer.session.as_ref());
            self.next_peer += 1;
            if let (Some(session), Some(view)) = (session, app.view) {
                if let Some(name) = &session.serves {
                    self.names.insert(name.clone());
                    self.served_at.extend(app.served_at.map(|path| (name.clone(), path)));
                }
                if let Some(end) = app.liveness {
                    self.liveness.keep(session.id, end);
                }
                lock(&self.shared.sessions.list).insert(session.id, view);
            }
            self.peers.insert(id, app.peer);
        }
        for &session in ended {
            self.shared.sessions.end(session);
        }
        // What the words say was the other process's load.
        self.shared.sessions.wake();
    }
}

impl TakenDesk {
    /// Maps what another session thread gave, for so many workers.
    pub(crate) fn map(given: DeskHandover, quotas: &QuotaDesk, workers: usize) -> Result<TakenDesk, Refusal> {
        let DeskHandover { state, descriptors } = given;
        let mut descriptors = descriptors.into_iter();
        let mut apps = Vec::with_capacity(state.apps.len());
        for app in state.apps {
            apps.push(TakenApp::map(app, &mut descriptors, quotas, workers)?);
        }
        let ahead = |state: AheadState| {
            let count = state.lanes.len() + state.conns.len();
            Ahead { state, descriptors: descriptors.by_ref().take(count).collect() }
        };
        let ahead = state.ahead.into_iter().map(ahead).collect();
        Ok(TakenDesk {
            apps,
            ahead,
            next_session: state.next_session,
            next_worker: state.next_worker as usize % workers.max(1),
        })
    }

    /// For each worker its lanes of every session. The bells of the lanes are the worker's to give.
    pub(crate) fn lanes(&self, workers: usize) -> io::Result<Vec<Vec<NewLanes>>> {
        let mut of_workers: Vec<Vec<NewLanes>> = (0..workers).map(|_| Vec::new()).collect();
        for app in &self.apps {
            let Some(session) = &app.peer.session else { continue };
            let name: Arc<str> = session.app.as_str().into();
            for (worker, (of_worker, lanes)) in of_workers.iter_mut().zip(&app.lanes).enumerate() {
                let of_this = |(_, lane): &(u16, &shmesh_shm::handshake::LaneInfo)| usize::from(lane.worker) == worker;
                let new_lane = |(number, lane): (u16, &shmesh_shm::handshake::LaneInfo)| NewLane {
                    lane: number,
                    bit: lane.bit,
                    serving: lane.serving,
                    bell: None,
                };
                let lanes_here: Vec<NewLane> =
                    (0..).zip(&session.welcome.lanes).filter(of_this).map(new_lane).collect();
                if lanes_here.is_empty() {
                    continue;
                }
                of_worker.push(NewLanes {
                    session: session.id,
                    app: name.clone(),
                    listener: app.peer.listener,
                    worker: worker as u16,
                    to_proxy: lanes.to_proxy.clone(),
                    to_app: session.to_app.clone(),
                    geometry: session.welcome.geometry,
                    usage: session._usage.clone(),
                    bell: lanes.bell.try_clone()?,
                    lanes: lanes_here,
                });
            }
        }
        Ok(of_workers)
    }

    /// For each worker what came ahead.
    pub(super) fn take_ahead(&mut self, workers: usize) -> Vec<Ahead> {
        let mut ahead = std::mem::take(&mut self.ahead);
        ahead.resize_with(workers, Ahead::default);
        ahead
    }

    /// How many apps are attached.
    pub(crate) fn sessions(&self) -> usize {
        self.apps.iter().filter(|app| app.peer.session.is_some()).count()
    }
}

impl TakenApp {
    fn map(
        app: AppState,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
        quotas: &QuotaDesk,
        workers: usize,
    ) -> Result<TakenApp, Refusal> {
        let mut next = || descriptors.next().ok_or(Refusal::Inconsistent("fewer descriptors than apps have"));
        let mut taken = TakenApp {
            peer: Peer {
                socket: UnixStream::from(next()?),
                listener: u16::try_from(app.listener).map_err(|_| Refusal::Inconsistent("a listener that is none"))?,
                input: app.input,
                unsaid: app.unsaid,
                uid: app.uid,
                pid: app.pid,
                since: app.since,
                session: None,
            },
            view: None,
            served_at: None,
            liveness: None,
            lanes: Vec::new(),
        };
        let Some(attached) = app.session else { return Ok(taken) };
        let Some(Message::Welcome(welcome)) = decoded(&attached.welcome) else {
            return Err(Refusal::Inconsistent("a session without its WELCOME"));
        };
        if usize::from(welcome.workers) != workers
            || welcome.lanes.iter().any(|lane| usize::from(lane.worker) >= workers)
        {
            return Err(Refusal::Inconsistent("a session with other workers"));
        }
        let Welcome { geometry, lanes, features, .. } = &welcome;
        let bytes = geometry.segment_bytes(lanes.len() as u16);
        let usage = quotas.go_on(app.uid, lanes.len() as u64, 2 * bytes as u64);
        let files = Files {
            to_proxy: next()?,
            to_app: next()?,
            worker_bells: (0..workers).map(|_| next()).collect::<Result<_, _>>()?,
        };
        let to_proxy = Arc::new(Mapping::read_only(&files.to_proxy, bytes)?.keeping(usage.clone()));
        let to_app = Arc::new(Mapping::read_write(&files.to_app, bytes)?.keeping(usage.clone()));
        for bell in &files.worker_bells {
            taken.lanes.push(LanesOfWorker { to_proxy: to_proxy.clone(), bell: bell.try_clone()? });
        }
        taken.liveness = if attached.liveness { Some(next()?) } else { None };
        let mut lookups = Lookups::new(*features);
        for LookupState { asked, told } in &attached.lookups {
            if let (Some(Message::Lookup(asked)), Some(told)) = (decoded(asked), decoded(told)) {
                lookups.go_on(asked, told);
            }
        }
        taken.view = Some(SessionView {
            id: attached.id,
            app: attached.app.clone(),
            uid: app.uid,
            pid: app.pid,
            calling: lanes.iter().filter(|lane| !lane.serving).count() as u32,
            serving: lanes.iter().filter(|lane| lane.serving).count() as u32,
            isolation: attached.isolation,
            since: SystemTime::UNIX_EPOCH + Duration::from_millis(attached.since_unix_ms),
        });
        taken.served_at = attached.served_at;
        taken.peer.session = Some(Session {
            id: attached.id,
            _usage: usage,
            serves: attached.serves.then(|| attached.app.clone()),
            app: attached.app,
            to_app,
            direct: attached.direct,
            lookups,
            behind: attached.behind,
            said_where: 0,
            welcome,
            files,
        });
        Ok(taken)
    }
}

fn encoded(message: &Message) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

fn decoded(bytes: &[u8]) -> Option<Message> {
    let (message, _) = Message::decode(bytes).ok()??;
    Some(message)
}
