//! What a worker holds against endpoints goes on to hold in the next process.

use shmesh_io::Driver;
use shmesh_policy::{Outliers, Suspect};

use super::Refusal;
use super::state::{ClusterRest, SuspectState};
use super::take::target;
use crate::worker::Worker;

impl<D: Driver> Worker<D> {
    pub(super) fn give_outliers(&self) -> Vec<ClusterRest> {
        let clusters = self.snapshot.clusters.iter().zip(&self.clusters);
        let clusters = clusters.filter(|(_, state)| !state.outliers.is_quiet());
        let rest = clusters.map(|(cluster, state)| ClusterRest {
            name: cluster.name.to_string(),
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

    pub(super) fn take_outliers(&mut self, clusters: &[ClusterRest]) -> Result<(), Refusal> {
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
            }
            out.into_iter().for_each(|target| self.leave_out(id.0, target));
        }
        Ok(())
    }
}
