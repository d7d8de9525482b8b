//! Connections that carried a direct call and may carry another.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shmesh_policy::Address;
use shmesh_shm::Protocol;

use crate::clock;
use crate::peer::Peer;

/// Connections that are kept altogether.
const IDLE_MAX: usize = 64;
/// Connections that are kept to one address.
const IDLE_PER_ADDRESS: usize = 8;
/// How long a connection is kept: servers close theirs after five seconds and more.
const IDLE_FOR: Duration = Duration::from_secs(4);
/// How long a connection is good for a call that must not be made twice, as its server may be closing it at this moment.
const IDLE_FOR_ONCE: Duration = Duration::from_secs(1);

/// Idle connections, by whom they lead to.
#[derive(Debug, Default)]
pub(crate) struct Idle {
    kept: Mutex<Vec<Kept>>,
    /// How many these are.
    count: AtomicUsize,
}

#[derive(Debug)]
struct Kept {
    address: Address,
    protocol: Protocol,
    peer: Peer,
    since: u64,
    /// A child of `fork` must not talk on its parent's connections.
    process: u32,
}

impl Idle {
    /// The connection that was used last, if there is one that still seems to be open.
    pub fn take(&self, address: &Address, protocol: Protocol, idempotent: bool) -> Option<Peer> {
        let now = clock::now();
        self.expire(now);
        let longest = clock::nanos(if idempotent { IDLE_FOR } else { IDLE_FOR_ONCE });
        let process = std::process::id();
        let mut kept = self.lock();
        loop {
            let fits = |one: &Kept| one.protocol == protocol && one.address == *address;
            let found = kept.iter().rposition(fits)?;
            let one = kept.remove(found);
            self.count.store(kept.len(), Ordering::Relaxed);
            let is_young = now.saturating_sub(one.since) < longest;
            if is_young && one.process == process && one.peer.is_quiet() {
                return Some(one.peer);
            }
        }
    }

    /// Keeps a connection whose call is over.
    pub fn give_back(&self, address: &Address, protocol: Protocol, peer: Peer) {
        let mut kept = self.lock();
        let alike = kept.iter().filter(|one| one.address == *address).count();
        if alike >= IDLE_PER_ADDRESS || kept.len() >= IDLE_MAX {
            return;
        }
        let (since, process) = (clock::now(), std::process::id());
        kept.push(Kept { address: address.clone(), protocol, peer, since, process });
        self.count.store(kept.len(), Ordering::Relaxed);
    }

    /// Closes what was kept too long.
    pub fn expire(&self, now: u64) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut kept = self.lock();
        kept.retain(|one| now.saturating_sub(one.since) < clock::nanos(IDLE_FOR));
        self.count.store(kept.len(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
