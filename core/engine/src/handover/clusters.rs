//! Whose turn it is in a cluster, what a worker holds against its endpoints, and what it knows of host names: all of it goes on to hold in the next
//! process, which may find the name servers silent.

use std::net::SocketAddr;

use shmesh_io::Driver;
use shmesh_policy::{Outliers, RoundRobin, Suspect};

use super::Refusal;
use super::state::{ClusterRest, NameState, SuspectState};
use super::take::target;
use crate::host::{HostRest, HostState};
use crate::resolve::HostName;
use crate::worker::Worker;

impl<D: Driver> Worker<D> {
    pub(super) fn give_clusters(&self) -> Vec<ClusterRest> {
        let clusters = self.snapshot.clusters.iter().zip(&self.clusters);
        let rest = clusters.map(|(cluster, state)| ClusterRest {
            name: cluster.name.to_string(),
            turn: Some(state.turn.position() as u64),
            suspects: state
                .outliers
                .suspects()
                .iter()
                .map(|suspect| SuspectState {
                    address: suspect.endpoint.to_string(),
                    local_origin_failures: suspect.local_origin_failures,
                    gateway_failures: suspect.gateway_failures,
                    server_errors: suspect.server_errors,
                    times: suspect.times,
                    out_until: suspect.out_until,
                    back_since: suspect.back_since,
                })
                .collect(),
        });
        rest.collect()
    }

    pub(super) fn take_clusters(&mut self, clusters: &[ClusterRest]) -> Result<(), Refusal> {
        for cluster in clusters {
            // By name, as everything about clusters that is not the snapshot's own.
            let Some(id) = self.snapshot.cluster_named(&cluster.name) else { continue };
            let mut suspects = Vec::with_capacity(cluster.suspects.len());
            for state in &cluster.suspects {
                suspects.push(Suspect {
                    endpoint: target(&state.address)?,
                    local_origin_failures: state.local_origin_failures,
                    gateway_failures: state.gateway_failures,
                    server_errors: state.server_errors,
                    times: state.times,
                    out_until: state.out_until,
                    back_since: state.back_since,
                });
            }
            let out: Vec<_> =
                suspects.iter().filter(|suspect| suspect.out_until.is_some()).map(|s| s.endpoint.clone()).collect();
            if let Some(state) = self.clusters.get_mut(id.0 as usize) {
                state.outliers = Outliers::of(suspects);
                if let Some(turn) = cluster.turn {
                    state.turn = RoundRobin::starting_at(turn as usize);
                }
            }
            out.into_iter().for_each(|target| self.leave_out(id.0, target));
        }
        Ok(())
    }

    pub(super) fn give_names(&self) -> Vec<NameState> {
        let known = self.hosts.iter().filter_map(|(name, state)| Some((name, state.rest()?)));
        let names = known.map(|(name, rest)| NameState {
            host: name.host.to_string(),
            port: name.port.into(),
            of_request: name.of_request,
            addresses: rest.addresses.iter().map(|address| address.ip().to_string()).collect(),
            turn: rest.turn,
            second_first: rest.second_first,
            fresh_until: rest.fresh_until,
            stale_until: rest.stale_until,
        });
        names.collect()
    }

    pub(super) fn take_names(&mut self, names: &[NameState]) -> Result<(), Refusal> {
        const NONE: Refusal = Refusal::Inconsistent("an address of a host that is none");
        for state in names {
            let port = state.port as u16;
            let address = |ip: &String| ip.parse().map(|ip| SocketAddr::new(ip, port)).map_err(|_| NONE);
            let rest = HostRest {
                addresses: state.addresses.iter().map(address).collect::<Result<_, _>>()?,
                turn: state.turn,
                second_first: state.second_first,
                fresh_until: state.fresh_until,
                stale_until: state.stale_until,
            };
            let name = HostName { host: state.host.as_str().into(), port, of_request: state.of_request };
            self.named_hosts += usize::from(name.of_request);
            self.hosts.insert(name, HostState::go_on(rest));
        }
        Ok(())
    }
}
