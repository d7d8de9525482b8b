//! What a worker keeps about clusters and the addresses behind them.

use std::collections::HashMap;
use std::sync::Arc;

use shmesh_io::{Nanos, Target};
use shmesh_policy::{Address, RoundRobin, Snapshot};

use crate::conn::Conn;
use crate::counters::EndpointCounters;
use crate::lane::Lane;
use crate::slab::Key;

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
}

impl Addresses {
    /// The id of an address, new or known.
    pub fn intern(&mut self, target: Target, counters: impl FnOnce() -> Arc<EndpointCounters>) -> AddressId {
        if let Some(&id) = self.ids.get(&target) {
            return id;
        }
        let id = AddressId(self.states.len() as u32);
        self.ids.insert(target.clone(), id);
        self.states.push(AddressState { target, idle: Vec::new(), dubbo: Vec::new(), counters: counters() });
        id
    }

    /// Number of addresses.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    pub fn get(&mut self, id: AddressId) -> &mut AddressState {
        &mut self.states[id.0 as usize]
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
