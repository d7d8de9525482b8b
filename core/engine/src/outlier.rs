//! What endpoints do with calls, as balancing wants to know it: those that fail again and again are left out for a while
//! (`shmesh_policy::outlier`). Apps behind `shm:` are not among them: when one dies its session ends, and that is known at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use shmesh_io::{Driver, Nanos, Target};
use shmesh_policy::{Ejection, Outcome};

use crate::call::{Call, Peer};
use crate::conn::{Conn, HttpUp, RawUp, Role};
use crate::counters::lock;
use crate::resolve::HostName;
use crate::slab::Key;
use crate::timer::Owner;
use crate::upstream::{AddressId, ClusterState, EndpointState};
use crate::worker::Worker;

/// How often an endpoint was left out, by all workers. Rarely written, so shared by them.
#[derive(Default, Debug)]
pub struct EjectionCounts {
    /// Workers that leave it out now.
    pub out: AtomicU64,
    pub total: AtomicU64,
}

/// An endpoint that this worker leaves out.
pub struct Ejected {
    target: Target,
    counts: Arc<EjectionCounts>,
}

impl Drop for Ejected {
    fn drop(&mut self) {
        self.counts.out.fetch_sub(1, Relaxed);
    }
}

impl ClusterState {
    /// Whether an endpoint is left out.
    #[inline]
    pub fn is_out(&self, target: &Target) -> bool {
        !self.outliers.is_quiet() && self.outliers.is_out(target)
    }
}

impl<D: Driver> Worker<D> {
    /// Takes note of what an endpoint did with something of its cluster's.
    #[inline]
    pub(crate) fn observe(&mut self, cluster: u32, address: AddressId, outcome: Outcome) {
        if let Some(state) = self.clusters.get(cluster as usize)
            && (outcome != Outcome::Good || !state.outliers.is_quiet())
        {
            self.observe_suspect(cluster, address, outcome);
        }
    }

    /// As [`Worker::observe`], of the endpoint that a call's connection leads to.
    #[inline]
    pub(crate) fn observe_call(&mut self, call: Key<Call>, dest: Key<Conn>, outcome: Outcome) {
        if let Some(cluster) = self.calls.get(call).map(|call| call.cluster)
            && let Some(address) = self.address_of(dest)
        {
            self.observe(cluster, address, outcome);
        }
    }

    /// A connection to an endpoint failed, or what came over it. `call` suffered from it, unless that says nothing of the endpoint.
    #[cold]
    pub(crate) fn endpoint_failed(&mut self, call: Option<Key<Call>>, dest: Key<Conn>) {
        let Some(address) = self.address_of(dest) else { return };
        self.addresses.get(address).counters.failures.add(1);
        if let Some(call) = call {
            self.observe_call(call, dest, Outcome::LocalOriginFailure);
        }
    }

    /// A connection was not made, for which these calls waited; some may be over by now.
    pub(crate) fn not_connected(&mut self, waiting: &[Key<Call>], dest: Key<Conn>) {
        let alive = waiting.iter().copied().find(|&call| self.calls.get(call).is_some());
        let Some(address) = self.address_of(dest) else { return };
        let left = self.addresses.get(address).take_left(dest);
        self.endpoint_failed(alive, dest);
        let told = alive.and_then(|call| self.calls.get(call)).map(|call| call.cluster);
        for cluster in left.into_iter().filter(|&left| Some(left) != told) {
            self.observe(cluster, address, Outcome::LocalOriginFailure);
        }
    }

    /// A call leaves a connection that is being made. One such connection to an address goes on: what becomes of it says whether the endpoint is there,
    /// also where no caller is as patient as `connect`. `observed`: it says no more to the call's cluster.
    pub(crate) fn leave_connecting(&mut self, cluster: u32, dest: Key<Conn>, observed: bool) {
        let Some(address) = self.address_of(dest) else { return };
        // Of a single endpoint nothing is to be found out.
        let matters = !observed && self.endpoints_of(cluster) > 1;
        let first = self.addresses.get(address).leave(dest, matters.then_some(cluster));
        match self.conns.get_mut(dest).map(|conn| &mut conn.role) {
            Some(Role::HttpUp(HttpUp { call, .. }) | Role::RawUp(RawUp { call, .. })) if first => *call = None,
            // It is made for other calls, too.
            Some(Role::DubboUp(_)) => {}
            _ => self.drop_conn(dest),
        }
    }

    #[cold]
    fn observe_suspect(&mut self, cluster: u32, address: AddressId, outcome: Outcome) {
        let endpoints = self.endpoints_of(cluster);
        if endpoints < 2 {
            // There is nowhere else to go.
            return;
        }
        let now = self.driver.now();
        let target = self.addresses.get(address).target.clone();
        let Some(spec) = self.snapshot.clusters.get(cluster as usize).map(|cluster| cluster.outlier_detection) else {
            return;
        };
        let Some(state) = self.clusters.get_mut(cluster as usize) else { return };
        if let Some(ejection) = state.outliers.observe(&spec, &target, outcome, endpoints, now) {
            self.eject(cluster, address, target, ejection);
        }
    }

    /// A call's time is over: whether that says something about the endpoint that has it.
    pub(crate) fn observe_timeout(&mut self, key: Key<Call>, too_long: bool, now: Nanos) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let (cluster, took) = (call.cluster, now.saturating_sub(call.started));
        let Some(Peer::Conn(dest)) = call.dest else { return };
        let waits_for_caller = call.forwarded && call.exchange().is_some_and(|exchange| !exchange.request_ended);
        if call.answered || waits_for_caller {
            return;
        }
        // A caller may be in a hurry; the cluster's own time is what the operator grants.
        let granted = self.clusters.get(cluster as usize).map_or(Nanos::MAX, |cluster| cluster.request);
        if too_long && took < granted {
            return;
        }
        self.endpoint_failed(Some(key), dest);
        if self.conns.get(dest).is_some_and(|conn| !conn.is_made()) {
            if let Some(call) = self.calls.get_mut(key) {
                call.dest = None;
            }
            self.leave_connecting(cluster, dest, true);
        }
    }

    /// Where a connection to an upstream leads.
    pub(crate) fn address_of(&self, key: Key<Conn>) -> Option<AddressId> {
        match &self.conns.get(key)?.role {
            Role::HttpUp(up) => Some(up.address),
            Role::DubboUp(up) => Some(up.address),
            Role::RawUp(up) => Some(up.address),
            _ => None,
        }
    }

    fn eject(&mut self, cluster: u32, address: AddressId, target: Target, ejection: Ejection) {
        let Some(name) = self.snapshot.clusters.get(cluster as usize).map(|cluster| cluster.name.clone()) else {
            return;
        };
        let endpoint = self.configured_name(cluster, address, &target);
        tracing::warn!(
            cluster = %name, %endpoint, %target, seconds = ejection.time.as_secs_f64(), times = ejection.times,
            "an endpoint fails and is left out for a while"
        );
        let counts = lock(&self.shared.registry.ejections).entry((name, endpoint)).or_default().clone();
        counts.total.fetch_add(1, Relaxed);
        self.count_out(cluster, target, counts);
    }

    /// Another worker had left it out, and this one goes on.
    pub(crate) fn leave_out(&mut self, cluster: u32, target: Target) {
        let Some(address) = self.addresses.intern_found(target.clone(), &self.shared.registry) else { return };
        let Some(name) = self.snapshot.clusters.get(cluster as usize).map(|cluster| cluster.name.clone()) else {
            return;
        };
        let endpoint = self.configured_name(cluster, address, &target);
        let counts = lock(&self.shared.registry.ejections).entry((name, endpoint)).or_default().clone();
        self.count_out(cluster, target, counts);
    }

    fn count_out(&mut self, cluster: u32, target: Target, counts: Arc<EjectionCounts>) {
        counts.out.fetch_add(1, Relaxed);
        if let Some(state) = self.clusters.get_mut(cluster as usize) {
            state.ejected.push(Ejected { target, counts });
        }
        self.arm_return(cluster);
    }

    /// The time of a cluster's endpoints that are left out is over, or is not yet.
    pub(crate) fn cluster_timer(&mut self, cluster: u32, now: Nanos) {
        let Some(state) = self.clusters.get_mut(cluster as usize) else { return };
        for target in state.outliers.returned(now) {
            state.ejected.retain(|ejected| ejected.target != target);
            let name = self.snapshot.clusters.get(cluster as usize).map_or("-", |cluster| &*cluster.name);
            tracing::info!(cluster = %name, %target, "an endpoint is in turn again");
        }
        self.arm_return(cluster);
    }

    /// What was known of a cluster's endpoints holds for the cluster of this name in a new snapshot.
    pub(crate) fn inherit_outliers(&mut self, mut from: Vec<ClusterState>, names: impl Fn(usize) -> Option<u32>) {
        for (index, old) in from.iter_mut().enumerate() {
            let Some(cluster) = names(index) else { continue };
            if let Some(new) = self.clusters.get_mut(cluster as usize) {
                new.outliers = std::mem::take(&mut old.outliers);
                new.ejected = std::mem::take(&mut old.ejected);
                self.arm_return(cluster);
            }
        }
    }

    fn arm_return(&mut self, cluster: u32) {
        let next = self.clusters.get(cluster as usize).and_then(|state| state.outliers.next_return());
        if let Some(at) = next {
            self.timers.arm(Owner::Cluster(cluster), at);
        }
    }

    /// How many places serve a cluster: a host name is as many as it has addresses.
    fn endpoints_of(&self, cluster: u32) -> usize {
        let Some(state) = self.clusters.get(cluster as usize) else { return 0 };
        let count = |endpoint: &EndpointState| match endpoint {
            EndpointState::Socket(_) | EndpointState::Shm { .. } => 1,
            EndpointState::Host { host, port } => {
                let name = HostName { host: host.to_ascii_lowercase().into(), port: *port, of_request: false };
                self.hosts.get(&name).map_or(1, |host| host.addresses().len().max(1))
            }
            EndpointState::Original => 0,
        };
        state.endpoints.iter().map(count).sum()
    }

    /// How the configuration names the endpoint that has this address.
    fn configured_name(&self, cluster: u32, address: AddressId, target: &Target) -> String {
        let Some(state) = self.clusters.get(cluster as usize) else { return target.to_string() };
        let is_it = |endpoint: &EndpointState| match (endpoint, target) {
            (EndpointState::Socket(own), _) => *own == address,
            (EndpointState::Host { host, port }, Target::Tcp(target)) => {
                let name = HostName { host: host.to_ascii_lowercase().into(), port: *port, of_request: false };
                self.hosts.get(&name).is_some_and(|host| host.addresses().contains(target))
            }
            _ => false,
        };
        let at = state.endpoints.iter().position(is_it);
        let configured = self.snapshot.clusters.get(cluster as usize).map(|cluster| &cluster.endpoints);
        let configured = at.and_then(|at| configured?.get(at)).map(|endpoint| endpoint.address.to_string());
        configured.unwrap_or_else(|| target.to_string())
    }
}
