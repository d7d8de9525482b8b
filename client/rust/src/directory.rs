//! Where calls go and by which rules, as the sidecar said while it was there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use shmesh_policy::Address;
use shmesh_shm::Protocol;
use shmesh_shm::handshake::Policy;

use crate::direct::Place;
use crate::session::Session;

/// Most keys that are asked about.
const MAX_LOOKUPS: usize = 1024;

/// The answers to LOOKUP, kept beyond the sessions that they came through.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By id of the lookup.
    entries: Vec<Entry>,
    ids: HashMap<Subject, u32>,
}

/// What a lookup is about: calls with the same subject are routed alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Subject {
    pub protocol: Protocol,
    /// HTTP: the authority. Dubbo: the service. Raw: the cluster.
    pub of: Vec<u8>,
    /// What else routes may look at.
    pub detail: Vec<u8>,
}

#[derive(Debug)]
struct Entry {
    asked: Weak<Session>,
    answer: Option<Arc<Answer>>,
}

/// What the sidecar said, ready to be used.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub policy: Policy,
    /// Places that serve such calls.
    pub endpoints: Vec<Arc<Place>>,
    /// Unix listeners of the sidecar.
    pub listeners: Vec<Arc<Place>>,
    pub central_proxy: Option<Arc<Place>>,
}

impl Answer {
    pub fn new(policy: Policy) -> Answer {
        // An address of a kind that this shim does not know is of no use to it.
        let place = |text: &String, of_app: bool| match text.parse() {
            Ok(Address::Shm(_)) | Err(_) => None,
            Ok(address) => Some(Arc::new(Place { address, of_app })),
        };
        let endpoints = policy.endpoints.iter().filter_map(|text| place(text, false));
        let apps = policy.app_sockets.iter().filter_map(|text| place(text, true));
        let listeners = policy.listeners.iter().filter_map(|text| place(text, false));
        Answer {
            endpoints: endpoints.chain(apps).collect(),
            listeners: listeners.collect(),
            central_proxy: policy.central_proxy.as_ref().and_then(|text| place(text, false)),
            policy,
        }
    }
}

impl Directory {
    /// Asks about a subject through this session, unless it was asked already. `key` as in DEFINE.
    pub fn ask(&self, session: &Arc<Session>, subject: Subject, key: impl FnOnce() -> Vec<u8>) {
        let protocol = subject.protocol;
        let mut state = self.lock();
        let Some(id) = state.id_of(subject) else { return };
        let entry = &mut state.entries[id as usize];
        if entry.asked.upgrade().is_some_and(|asked| !asked.is_gone()) {
            return;
        }
        entry.asked = Arc::downgrade(session);
        drop(state);
        if !session.lookup(id, protocol, key()) {
            self.lock().entries[id as usize].asked = Weak::new();
        }
    }

    /// An answer came. False: it says nothing new.
    pub fn learn(&self, id: u32, policy: Policy) -> bool {
        let mut state = self.lock();
        let Some(entry) = state.entries.get_mut(id as usize) else { return false };
        if entry.answer.as_ref().is_some_and(|answer| answer.policy == policy) {
            return false;
        }
        entry.answer = Some(Arc::new(Answer::new(policy)));
        true
    }

    /// What was known before this process began. What was learned since counts more.
    pub fn remember(&self, subject: Subject, policy: Policy) {
        let mut state = self.lock();
        if let Some(id) = state.id_of(subject) {
            state.entries[id as usize].answer.get_or_insert_with(|| Arc::new(Answer::new(policy)));
        }
    }

    /// Everything that is known.
    pub fn answers(&self) -> Vec<(Subject, Arc<Answer>)> {
        let state = self.lock();
        let answer = |id: &u32| state.entries[*id as usize].answer.clone();
        state.ids.iter().filter_map(|(subject, id)| Some((subject.clone(), answer(id)?))).collect()
    }

    /// What the sidecar said of calls of this subject.
    pub fn exact(&self, subject: &Subject) -> Option<Arc<Answer>> {
        let state = self.lock();
        state.ids.get(subject).and_then(|id| state.entries[*id as usize].answer.clone())
    }

    /// What is known of calls of this subject. Of one without an answer: of all others of the same authority, service or
    /// cluster, if they agree; but that those may run twice says nothing of this one.
    pub fn answer(&self, subject: &Subject) -> Option<Arc<Answer>> {
        if let Some(answer) = self.exact(subject) {
            return Some(answer);
        }
        let state = self.lock();
        let answer = |id: &u32| state.entries[*id as usize].answer.as_ref();
        let alike = |known: &&Subject| known.protocol == subject.protocol && known.of == subject.of;
        let ids = state.ids.iter().filter(|(other, _)| alike(other)).map(|(_, id)| id);
        let mut known = ids.filter_map(answer);
        let first = known.next()?;
        let agree = known.all(|other| other == first);
        let mut policy = first.policy.clone();
        policy.idempotent = policy.idempotent.filter(|idempotent| !idempotent);
        agree.then(|| Arc::new(Answer::new(policy)))
    }

    /// The proxies that take all calls of a protocol and route them themselves, of whatever was asked about.
    pub fn proxies(&self, protocol: Protocol) -> Option<Arc<Answer>> {
        if protocol == Protocol::Raw {
            return None;
        }
        let state = self.lock();
        let mut ids = state.ids.iter().filter(|(subject, _)| subject.protocol == protocol).map(|(_, id)| *id);
        ids.find_map(|id| state.entries[id as usize].answer.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The id of a subject, a new one if need be; none when there are too many.
    fn id_of(&mut self, subject: Subject) -> Option<u32> {
        if let Some(id) = self.ids.get(&subject) {
            return Some(*id);
        }
        if self.entries.len() >= MAX_LOOKUPS {
            return None;
        }
        let id = self.entries.len() as u32;
        self.ids.insert(subject, id);
        self.entries.push(Entry { asked: Weak::new(), answer: None });
        Some(id)
    }
}
