//! Clusters and their endpoints.

use std::collections::HashMap;

use shmesh_policy::{Cluster, ClusterId, Endpoint, OutlierDetection, Timeouts};

use super::lenient::{Of, lenient};
use super::{Faults, Names};
use crate::file::{ClusterEntry, OutlierDetectionEntry};
use crate::located::{At, Place};
use crate::nearest::nearest;
use crate::scalar::{Count, Interval, Name, Target};

/// The clusters by their names.
///
/// A cluster with a fault has a name all the same, so that what refers to it is not blamed as well.
pub(super) struct NamedClusters {
    pub clusters: Vec<Cluster>,
    ids: HashMap<String, ClusterId>,
}

pub(super) fn read(entries: Vec<At<ClusterEntry>>, timeouts: &Timeouts, faults: &mut Faults) -> NamedClusters {
    let mut named = NamedClusters { clusters: Vec::with_capacity(entries.len()), ids: HashMap::new() };
    let mut names = Names::new("cluster");
    for At { value: entry, place } in entries {
        let label =
            entry.name.0.as_ref().map_or_else(|| "this cluster".into(), |name| format!("cluster `{}`", name.value.0));
        let name = names.read(entry.name.0, place, faults);
        let dynamic = entry.dynamic_forward_proxy.0.is_some_and(|dynamic| dynamic.value);
        let original = entry.original_dst.0.as_ref().is_some_and(|original| original.value);
        if let Some(At { place, .. }) = entry.original_dst.0
            && dynamic
            && original
        {
            let message = format!(
                "{label} forwards to the host that a request names already; leave out `original_dst`, or \
                 `dynamic_forward_proxy`"
            );
            faults.add(place, message);
        }
        let instead = match (dynamic, original) {
            (true, _) => Some(("to the host that a request names", "dynamic_forward_proxy")),
            (false, true) => Some(("to where a connection was going", "original_dst")),
            (false, false) => None,
        };
        let endpoints = endpoints(entry.endpoints.0, instead, place, &label, faults);
        let per_connection = entry.connection_pool_per_downstream_connection.0.filter(|key| key.value);
        if let (Some(key), true) = (&per_connection, dynamic) {
            faults.add(
                key.place,
                format!(
                    "{label} forwards HTTP requests, and only Dubbo consumers have connections of their own; leave out \
                     `connection_pool_per_downstream_connection`, or `dynamic_forward_proxy`"
                ),
            );
        }
        let connect_timeout = faults.read(entry.connect_timeout.0, Interval::read);
        let first_byte_timeout = faults.read(entry.first_byte_timeout.0, Interval::read);
        let request_timeout = faults.read(entry.request_timeout.0, Interval::read_optional);
        let unacknowledged_timeout = faults.read(entry.unacknowledged_timeout.0, Interval::read_optional);
        let outlier_detection = outlier_detection(entry.outlier_detection.0, faults);
        let connect_ports = connect_ports(entry.connect_ports.0, dynamic, &label, faults);
        let lenient = lenient(entry.lenient.0, Of::Answers, faults);
        let Some(name) = name else { continue };
        named.ids.insert(name.clone(), ClusterId(named.clusters.len() as u32));
        named.clusters.push(Cluster {
            name: name.into(),
            endpoints,
            dynamic_forward_proxy: dynamic,
            connect_ports,
            lenient,
            connection_pool_per_downstream_connection: per_connection.is_some(),
            dubbo_extension: entry.dubbo_extension.0.is_some_and(|extension| extension.value),
            original_dst: original,
            connect_timeout: connect_timeout.unwrap_or(timeouts.connect),
            first_byte_timeout: first_byte_timeout.unwrap_or(timeouts.first_byte),
            request_timeout: request_timeout.unwrap_or(timeouts.request),
            unacknowledged_timeout: unacknowledged_timeout.unwrap_or(timeouts.unacknowledged),
            outlier_detection,
        });
    }
    named
}

fn outlier_detection(entry: Option<At<OutlierDetectionEntry>>, faults: &mut Faults) -> OutlierDetection {
    let mut spec = OutlierDetection::default();
    let Some(At { value: entry, .. }) = entry else { return spec };
    let counts = [
        (&mut spec.consecutive_local_origin_failure, entry.consecutive_local_origin_failure, u32::MAX),
        (&mut spec.consecutive_gateway_failure, entry.consecutive_gateway_failure, u32::MAX),
        (&mut spec.consecutive_5xx, entry.consecutive_5xx, u32::MAX),
        (&mut spec.max_ejection_percent, entry.max_ejection_percent, 100),
    ];
    for (setting, key, most) in counts {
        *setting = faults.read(key.0, |count: &Count| count.read(0, most)).unwrap_or(*setting);
    }
    let times = [
        (&mut spec.base_ejection_time, entry.base_ejection_time),
        (&mut spec.max_ejection_time, entry.max_ejection_time),
    ];
    for (setting, key) in times {
        *setting = faults.read(key.0, Interval::read).unwrap_or(*setting);
    }
    spec
}

/// `instead` of endpoints: where it forwards to, and the key that says so.
fn endpoints(
    key: Option<At<Vec<At<Target>>>>,
    instead: Option<(&str, &str)>,
    cluster: Place,
    label: &str,
    faults: &mut Faults,
) -> Vec<Endpoint> {
    match (key, instead) {
        (None, Some(_)) => Vec::new(),
        (Some(At { place, .. }), Some((to, key))) => {
            faults.add(
                place,
                format!("{label} forwards {to}, so it has no endpoints; leave out `endpoints`, or `{key}`"),
            );
            Vec::new()
        }
        (None, None) => {
            faults.add(cluster, format!("{label} has no endpoints; write `endpoints: [ \"tcp:HOST:PORT\" ]`"));
            Vec::new()
        }
        (Some(At { value, place }), None) => {
            if value.is_empty() {
                faults.add(place, format!("{label} has no endpoints; write at least one: `[ \"tcp:HOST:PORT\" ]`"));
            }
            let addresses = value.into_iter().filter_map(|target| faults.take(target.place, target.value.read()));
            addresses.map(|address| Endpoint { address }).collect()
        }
    }
}

fn connect_ports(key: Option<At<Vec<At<Count>>>>, dynamic: bool, label: &str, faults: &mut Faults) -> Vec<u16> {
    let Some(At { value, place }) = key else { return Vec::new() };
    if !dynamic {
        faults.add(
            place,
            format!(
                "{label} has endpoints, and CONNECT goes to the host that it names; leave out `connect_ports`, or write \
                 `dynamic_forward_proxy: true`"
            ),
        );
    }
    let ports = value.into_iter().filter_map(|port| faults.take(port.place, port.value.read(1, u32::from(u16::MAX))));
    ports.map(|port| port as u16).collect()
}

impl NamedClusters {
    /// The cluster that a route or a listener names.
    pub fn find(&self, name: &At<Name>, faults: &mut Faults) -> Option<ClusterId> {
        let text = faults.take(name.place, name.value.read())?;
        let found = self.ids.get(text).copied();
        if found.is_none() {
            let mut names: Vec<&str> = self.ids.keys().map(String::as_str).collect();
            names.sort_unstable();
            let message = match nearest(text, names.iter().copied()) {
                Some(meant) => format!("there is no cluster `{text}`; did you mean `{meant}`?"),
                None => format!("there is no cluster `{text}`; write the name of one that stands under `clusters`"),
            };
            faults.add(name.place, message);
        }
        found
    }

    /// Whether the cluster forwards to the host that a request names.
    pub fn is_dynamic(&self, id: ClusterId) -> bool {
        self.clusters[id.0 as usize].dynamic_forward_proxy
    }
}
