//! Which routing keys a lane has interned.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use shmesh_shm::{Protocol, ROUTE_IDS};

use crate::call::Route;

/// Keys of which only a hash is remembered, to tell the second use from the first.
const SEEN: usize = 256;

/// The interned keys of one lane.
#[derive(Debug)]
pub(crate) struct Routes {
    ids: [HashMap<Box<[u8]>, u32>; 3],
    next: u32,
    seen: Vec<u64>,
    hasher: RandomState,
}

impl Routes {
    pub fn new() -> Routes {
        Routes { ids: Default::default(), next: 0, seen: vec![0; SEEN], hasher: RandomState::new() }
    }

    /// The route of a key that is interned.
    pub fn get(&self, protocol: Protocol, key: &[u8]) -> Option<Route> {
        self.ids[table(protocol)].get(key).map(|id| Route { id: *id, protocol })
    }

    /// Whether a key came before, lately: then interning it pays.
    pub fn is_again(&mut self, key: &[u8]) -> bool {
        let hash = self.hasher.hash_one(key);
        let place = &mut self.seen[hash as usize % SEEN];
        std::mem::replace(place, hash) == hash
    }

    /// The id that the next interned key gets; none once all are taken.
    pub fn vacant(&self) -> Option<u32> {
        (self.next < ROUTE_IDS).then_some(self.next)
    }

    /// The key got the vacant id.
    pub fn insert(&mut self, protocol: Protocol, key: &[u8]) {
        self.ids[table(protocol)].insert(key.into(), self.next);
        self.next += 1;
    }
}

fn table(protocol: Protocol) -> usize {
    protocol as usize - 1
}
