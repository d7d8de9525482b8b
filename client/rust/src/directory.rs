//! Where calls go, as the sidecar said while it was there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use shmesh_shm::Protocol;

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
    endpoints: Option<Vec<String>>,
}

impl Directory {
    /// Asks about a subject through this session, unless it was asked already. `key` as in DEFINE.
    pub fn ask(&self, session: &Arc<Session>, subject: Subject, key: &[u8]) {
        let protocol = subject.protocol;
        let mut state = self.lock();
        let id = match state.ids.get(&subject) {
            Some(id) => *id,
            None if state.entries.len() >= MAX_LOOKUPS => return,
            None => {
                let id = state.entries.len() as u32;
                state.ids.insert(subject, id);
                state.entries.push(Entry { asked: Weak::new(), endpoints: None });
                id
            }
        };
        let entry = &mut state.entries[id as usize];
        if entry.asked.upgrade().is_some_and(|asked| !asked.is_gone()) {
            return;
        }
        entry.asked = Arc::downgrade(session);
        drop(state);
        if !session.lookup(id, protocol, key) {
            self.lock().entries[id as usize].asked = Weak::new();
        }
    }

    /// An answer came.
    pub fn learn(&self, id: u32, endpoints: Vec<String>) {
        if let Some(entry) = self.lock().entries.get_mut(id as usize) {
            entry.endpoints = Some(endpoints);
        }
    }

    /// Where calls of this subject go. Of one without an answer: where all others of the same authority, service or
    /// cluster go, if they agree.
    pub fn endpoints(&self, subject: &Subject) -> Option<Vec<String>> {
        let state = self.lock();
        let answer = |id: &u32| state.entries[*id as usize].endpoints.as_ref();
        if let Some(endpoints) = state.ids.get(subject).and_then(answer) {
            return Some(endpoints.clone());
        }
        let alike = |known: &&Subject| known.protocol == subject.protocol && known.of == subject.of;
        let ids = state.ids.iter().filter(|(other, _)| alike(other)).map(|(_, id)| id);
        let mut known = ids.filter_map(answer);
        let first = known.next()?;
        known.all(|other| other == first).then(|| first.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
