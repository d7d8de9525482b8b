//! What a worker keeps about clusters and the addresses behind them.

use std::collections::HashMap;
use std::sync::Arc;

use shmesh_io::{Nanos, Target};
use shmesh_policy::{Address, Outliers, RoundRobin, Snapshot};

use crate::conn::Conn;
use crate::counters::{EndpointCounters, Registry};
use crate::lane::Lane;
use crate::outlier::Ejected;
use crate::slab::Key;

/// Addresses that one worker knows beside those which are configured.
pub const ADDRESSES_MAX: usize = 16_384;

/// How many are looked at for one that can be replaced.
const REPLACEABLE_LOOKED_AT: usize = 256;

/// Index of an address in the worker's table.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct AddressId(pub u32);

/// Connections to one address.
pub struct AddressState {
    pub target: Target,
    /// HTTP connections without a call; the newest is used first, so that spare ones grow old and are closed.
    pub idle: Vec<Key<Conn>>,
    /// The Dubbo connections that carry this worker's calls; another one is made when all are full.
    pub dubbo: Vec<Key<Conn>>,
    pub counters: Arc<EndpointCounters>,
    /// Connections to it, those that are being made included.
    pub conns: u32,
    /// A connection that is being made, and that a call did not wait for.
    left: Option<Left>,
    /// The snapshot names it.
    configured: bool,
}

/// See [`AddressState::left`].
struct Left {
    conn: Key<Conn>,
    /// Those whose calls have left this one, or another one meanwhile.
    clusters: Vec<u32>,
}

/// A cluster of the current snapshot.
pub struct ClusterState {
    pub turn: RoundRobin,
    pub endpoints: Vec<EndpointState>,
    /// How long the first byte of an answer may take.
    pub first_byte: Nanos,
    /// How long a call may take altogether; `Nanos::MAX` = as long as bytes move.
    pub request: Nanos,
    /// Each Dubbo consumer has connections of its own.
    pub pool_per_consumer: bool,
    /// What is held against its endpoints.
    pub outliers: Outliers<Target>,
    /// Those of them that are left out.
    pub ejected: Vec<Ejected>,
}

/// An endpoint of the current snapshot.
pub enum EndpointState {
    Socket(AddressId),
    Host {
        host: Box<str>,
        port: u16,
    },
    /// The app of this name, and the lane on which it served when a call was last opened there.
    Shm {
        name: Arc<str>,
        lane: Option<Key<Lane>>,
    },
    /// Where the caller's connection was going.
    Original,
}

/// Addresses that this worker connected to, or may.
#[derive(Default)]
pub struct Addresses {
    ids: HashMap<Target, AddressId>,
    states: Vec<AddressState>,
    /// Where to look first for one that nobody uses.
    next: usize,
}

impl Addresses {
    /// The id of an address that a new snapshot names.
    pub fn intern(&mut self, target: Target, registry: &Registry) -> AddressId {
        let id = self.intern_told(target, registry);
        self.get(id).configured = true;
        id
    }

    /// The id of an address that another process's worker knew. None takes the place of another, however many there are: which of them are used is
    /// not known yet.
    pub fn intern_told(&mut self, target: Target, registry: &Registry) -> AddressId {
        self.ids.get(&target).copied().unwrap_or_else(|| self.add(target, registry))
    }

    /// The id of an address that was found some other way. With [`ADDRESSES_MAX`] known it takes the place of one that nobody uses; `None` if
    /// there is none.
    pub fn intern_found(&mut self, target: Target, registry: &Registry) -> Option<AddressId> {
        if let Some(&id) = self.ids.get(&target) {
            return Some(id);
        }
        if self.states.len() < ADDRESSES_MAX {
            return Some(self.add(target, registry));
        }
        for _ in 0..REPLACEABLE_LOOKED_AT {
            let at = self.next % self.states.len();
            self.next = at + 1;
            let state = &mut self.states[at];
            if state.conns == 0 && !state.configured {
                let id = AddressId(at as u32);
                let old = std::mem::replace(state, AddressState::new(target.clone(), registry));
                registry.forget_endpoint(&old.target.to_string(), &old.counters);
                self.ids.remove(&old.target);
                self.ids.insert(target, id);
                return Some(id);
            }
        }
        None
    }

    /// What is known of each address.
    pub fn states_mut(&mut self) -> impl Iterator<Item = &mut AddressState> {
        self.states.iter_mut()
    }

    /// The addresses in the order of their ids.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        self.states.iter().map(|state| &state.target)
    }

    /// Before the addresses of a new snapshot are interned.
    pub fn begin_snapshot(&mut self) {
        for state in &mut self.states {
            state.configured = false;
            if let Some(left) = &mut state.left {
                // Their indices mean something in the old snapshot only.
                left.clusters.clear();
            }
        }
    }

    fn add(&mut self, target: Target, registry: &Registry) -> AddressId {
        let id = AddressId(self.states.len() as u32);
        self.ids.insert(target.clone(), id);
        self.states.push(AddressState::new(target, registry));
        id
    }

    pub fn get(&mut self, id: AddressId) -> &mut AddressState {
        &mut self.states[id.0 as usize]
    }
}

impl AddressState {
    /// A connection to it is gone.
    pub fn lost(&mut self, conn: Key<Conn>, connected: bool) {
        self.conns -= 1;
        self.take_left(conn);
        if connected {
            self.counters.connections.sub(1);
        }
    }

    /// A call of this cluster did not wait until the connection was made; none: it is not to be told. Whether that is the connection that goes on.
    pub fn leave(&mut self, conn: Key<Conn>, cluster: Option<u32>) -> bool {
        let Some(cluster) = cluster else { return false };
        let left = self.left.get_or_insert_with(|| Left { conn, clusters: Vec::new() });
        if !left.clusters.contains(&cluster) {
            left.clusters.push(cluster);
        }
        left.conn == conn
    }

    /// The clusters whose calls did not wait for this connection.
    pub fn take_left(&mut self, conn: Key<Conn>) -> Vec<u32> {
        self.left.take_if(|left| left.conn == conn).map(|left| left.clusters).unwrap_or_default()
    }

    fn new(target: Target, registry: &Registry) -> AddressState {
        let counters = registry.endpoint(target.to_string());
        AddressState { target, idle: Vec::new(), dubbo: Vec::new(), counters, conns: 0, left: None, configured: false }
    }
}

/// The clusters of a snapshot in the form that a worker uses; each starts its round at random.
pub fn clusters(
    snapshot: &Snapshot,
    mut intern: impl FnMut(Target) -> AddressId,
    mut random: impl FnMut() -> u64,
) -> Vec<ClusterState> {
    snapshot
        .clusters
        .iter()
        .map(|cluster| ClusterState {
            turn: RoundRobin::starting_at((random() >> 33) as usize),
            first_byte: cluster.first_byte_timeout.as_nanos() as Nanos,
            request: cluster.request_timeout.map_or(Nanos::MAX, |within| within.as_nanos() as Nanos),
            pool_per_consumer: cluster.connection_pool_per_downstream_connection,
            outliers: Outliers::default(),
            ejected: Vec::new(),
            endpoints: cluster
                .endpoints
                .iter()
                .map(|endpoint| match &endpoint.address {
                    Address::Tcp(address) => EndpointState::Socket(intern(Target::Tcp(*address))),
                    Address::Unix(path) => EndpointState::Socket(intern(Target::Unix(path.to_path_buf()))),
                    Address::Host { host, port } => EndpointState::Host { host: (**host).into(), port: *port },
                    Address::Shm(name) => EndpointState::Shm { name: name.clone(), lane: None },
                })
                .chain(cluster.original_dst.then_some(EndpointState::Original))
                .collect(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(number: usize) -> Target {
        Target::Tcp(std::net::SocketAddr::from((
            [10, 0, (number >> 8) as u8, number as u8],
            80 + (number >> 16) as u16,
        )))
    }

    #[test]
    fn an_address_that_nobody_uses_makes_room_for_another() {
        let (mut addresses, registry) = (Addresses::default(), Registry::default());
        let configured = addresses.intern(target(0), &registry);
        let used = addresses.intern_found(target(1), &registry).expect("room");
        addresses.get(used).conns = 1;
        for number in 2..ADDRESSES_MAX {
            addresses.intern_found(target(number), &registry).expect("room");
        }
        for number in ADDRESSES_MAX..3 * ADDRESSES_MAX {
            let id = addresses.intern_found(target(number), &registry).expect("the place of another");
            assert_eq!(addresses.get(id).target, target(number));
            assert_eq!(addresses.intern_found(target(number), &registry), Some(id), "it is known");
        }
        assert_eq!(addresses.states.len(), ADDRESSES_MAX);
        assert_eq!(addresses.ids.len(), ADDRESSES_MAX);
        assert_eq!(crate::counters::lock(&registry.endpoints).len(), ADDRESSES_MAX);
        assert_eq!(addresses.intern_found(target(0), &registry), Some(configured));
        assert_eq!(addresses.intern_found(target(1), &registry), Some(used));
    }

    #[test]
    fn addresses_that_are_handed_over_stay_apart_however_many_there_are() {
        let (mut old, mut new, registry) = (Addresses::default(), Addresses::default(), Registry::default());
        for number in 0..ADDRESSES_MAX {
            old.intern_found(target(number), &registry).expect("room");
        }
        // More than there may be, as a snapshot finds room in any case.
        for number in ADDRESSES_MAX..ADDRESSES_MAX + 3 {
            old.intern(target(number), &registry);
            new.intern(target(number), &registry);
        }
        let told: Vec<Target> = old.targets().cloned().collect();
        let ids: Vec<AddressId> = told.iter().map(|target| new.intern_told(target.clone(), &registry)).collect();
        for (target, id) in told.iter().zip(ids) {
            assert_eq!(new.get(id).target, *target);
        }
        assert_eq!(new.states.len(), old.states.len(), "nor does the table grow with each upgrade");
    }

    #[test]
    fn there_is_no_room_while_all_are_used() {
        let (mut addresses, registry) = (Addresses::default(), Registry::default());
        for number in 0..ADDRESSES_MAX {
            let id = addresses.intern_found(target(number), &registry).expect("room");
            addresses.get(id).conns = 1;
        }
        assert_eq!(addresses.intern_found(target(ADDRESSES_MAX), &registry), None);
        // A new snapshot finds room in any case, and what it does not name any more is free again.
        let configured = addresses.intern(target(ADDRESSES_MAX), &registry);
        addresses.begin_snapshot();
        for _ in 0..ADDRESSES_MAX / REPLACEABLE_LOOKED_AT + 1 {
            if let Some(id) = addresses.intern_found(target(ADDRESSES_MAX + 1), &registry) {
                assert_eq!(id, configured);
                return;
            }
        }
        panic!("no room");
    }
}
