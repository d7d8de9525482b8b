//! The numbers, added up over all workers.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::UNIX_EPOCH;

use crate::counters::{BOUNDS_US, Exhausted, Labels, lock};
use crate::engine::Engine;
use crate::load_view;

/// Everything that admin and metrics show.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub requests: Vec<RequestCount>,
    pub durations: Vec<DurationCount>,
    pub sessions: Vec<SessionInfo>,
    pub clusters: Vec<ClusterView>,
    pub counters: Vec<Count>,
    pub gauges: Vec<Count>,
}

/// Calls that ended with `code`.
#[derive(Clone, Debug)]
pub struct RequestCount {
    pub listener: String,
    pub cluster: String,
    pub code: String,
    pub count: u64,
}

/// How long calls took.
#[derive(Clone, Debug)]
pub struct DurationCount {
    pub listener: String,
    pub cluster: String,
    /// Upper bounds; `counts` has one more, for what is above.
    pub bounds_seconds: Vec<f64>,
    pub counts: Vec<u64>,
    pub sum_seconds: f64,
}

/// A session.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    pub id: u64,
    pub app: String,
    pub uid: u32,
    /// In the sidecar's PID namespace; information only.
    pub pid: i32,
    pub lanes: u32,
    pub calling: u32,
    /// The name under which it serves.
    pub serving: Option<String>,
    pub isolation: bool,
    pub since_unix_ms: u64,
}

/// A cluster with its endpoints.
#[derive(Clone, Debug)]
pub struct ClusterView {
    pub name: String,
    pub endpoints: Vec<EndpointView>,
}

/// An endpoint. An app behind `shm:` has one connection while it is attached.
#[derive(Clone, Debug)]
pub struct EndpointView {
    pub address: String,
    pub connections: u64,
    pub failures: u64,
    /// How often a worker left it out for a while.
    pub ejections: u64,
    /// Workers that leave it out now.
    pub ejected: u64,
}

/// One number.
#[derive(Clone, Debug)]
pub struct Count {
    pub name: &'static str,
    pub help: &'static str,
    pub labels: Vec<(&'static str, String)>,
    pub value: u64,
}

impl Engine {
    /// Adds up what all workers count.
    pub fn view(&self) -> View {
        let sessions = self.sessions();
        let (bytes, bytes_max) = self.shared.sessions.quotas.bytes(&self.snapshot().session.quotas);
        let direct = self.direct();
        let direct_of =
            |app: String, share: u16| Count { labels: vec![("app", app)], ..gauge(DIRECT, DIRECT_HELP, share.into()) };
        let mut gauges = vec![
            direct_of("*".to_owned(), direct.share),
            gauge("shmesh_sessions", "Apps attached over shared memory.", sessions.len() as u64),
            Count {
                labels: vec![("isolation", "read-only".to_owned())],
                ..gauge(ISOLATION, ISOLATION_HELP, sessions.iter().filter(|s| s.isolation).count() as u64)
            },
            Count {
                labels: vec![("isolation", "none".to_owned())],
                ..gauge(ISOLATION, ISOLATION_HELP, sessions.iter().filter(|s| !s.isolation).count() as u64)
            },
            gauge("shmesh_lanes", "Lanes of attached apps.", sessions.iter().map(|s| u64::from(s.lanes)).sum()),
            gauge("shmesh_calls_in_flight", "Calls in flight.", self.in_flight()),
            gauge("shmesh_workers", "Worker threads.", self.workers() as u64),
            gauge("shmesh_session_bytes", "Bytes of the memory files of all sessions.", bytes),
            gauge("shmesh_session_bytes_max", "Bytes that they may have: session.bytes_max.", bytes_max),
            gauge("shmesh_snapshot_version", "Version of the snapshot in force.", self.snapshot().version),
        ];
        View {
            requests: self.requests(),
            durations: self.durations(),
            clusters: self.clusters(&sessions),
            sessions,
            counters: self.counters(),
            gauges: {
                gauges.extend(direct.apps.into_iter().map(|(app, share)| direct_of(app, share)));
                gauges.extend(load_view::gauges(&self.shared));
                gauges
            },
        }
    }

    fn requests(&self) -> Vec<RequestCount> {
        let mut list: Vec<RequestCount> = lock(&self.shared.registry.calls)
            .iter()
            .map(|((listener, cluster, code), workers)| RequestCount {
                listener: listener.to_string(),
                cluster: cluster.to_string(),
                code: code.to_string(),
                count: workers.iter().map(|worker| worker.count.get()).sum(),
            })
            .collect();
        list.sort_by(|a, b| (&a.listener, &a.cluster, &a.code).cmp(&(&b.listener, &b.cluster, &b.code)));
        list
    }

    fn durations(&self) -> Vec<DurationCount> {
        let mut list: Vec<DurationCount> = lock(&self.shared.registry.durations)
            .iter()
            .map(|((listener, cluster), workers)| DurationCount {
                listener: listener.to_string(),
                cluster: cluster.to_string(),
                bounds_seconds: BOUNDS_US.iter().map(|&us| us as f64 / 1e6).collect(),
                counts: (0..=BOUNDS_US.len())
                    .map(|bucket| workers.iter().map(|worker| worker.buckets[bucket].get()).sum())
                    .collect(),
                sum_seconds: workers.iter().map(|worker| worker.sum_ns.get()).sum::<u64>() as f64 / 1e9,
            })
            .collect();
        list.sort_by(|a, b| (&a.listener, &a.cluster).cmp(&(&b.listener, &b.cluster)));
        list
    }

    fn sessions(&self) -> Vec<SessionInfo> {
        let mut list: Vec<SessionInfo> = lock(&self.shared.sessions.list)
            .values()
            .map(|session| SessionInfo {
                id: session.id,
                app: session.app.clone(),
                uid: session.uid,
                pid: session.pid,
                lanes: session.calling + session.serving,
                calling: session.calling,
                serving: (session.serving > 0).then(|| session.app.clone()),
                isolation: session.isolation,
                since_unix_ms: session.since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
            })
            .collect();
        list.sort_by_key(|session| session.id);
        list
    }

    fn clusters(&self, sessions: &[SessionInfo]) -> Vec<ClusterView> {
        let endpoints = lock(&self.shared.registry.endpoints);
        let ejections = lock(&self.shared.registry.ejections);
        self.snapshot()
            .clusters
            .iter()
            .map(|cluster| ClusterView {
                name: cluster.name.to_string(),
                endpoints: cluster
                    .endpoints
                    .iter()
                    .map(|endpoint| {
                        let address = endpoint.address.to_string();
                        let workers = endpoints.get(&address).map_or(&[][..], Vec::as_slice);
                        let attached = address.strip_prefix("shm:").is_some_and(|name| {
                            sessions.iter().any(|session| session.serving.as_deref() == Some(name))
                        });
                        let ejections = ejections.get(&(cluster.name.clone(), address.clone()));
                        EndpointView {
                            ejections: ejections.map_or(0, |counts| counts.total.load(Relaxed)),
                            ejected: ejections.map_or(0, |counts| counts.out.load(Relaxed)),
                            connections: workers.iter().map(|worker| worker.connections.get()).sum::<u64>()
                                + u64::from(attached),
                            failures: workers.iter().map(|worker| worker.failures.get()).sum(),
                            address,
                        }
                    })
                    .collect(),
            })
            .collect()
    }

    fn counters(&self) -> Vec<Count> {
        let mut sums: Vec<Count> = Vec::new();
        let mut places: HashMap<(&'static str, Labels), usize> = HashMap::new();
        for worker in lock(&self.shared.registry.workers).iter() {
            for (name, help, labels, value) in worker.each() {
                let place = *places.entry((name, labels)).or_insert_with(|| {
                    let labels = labels.iter().map(|&(label, value)| (label, value.to_owned())).collect();
                    sums.push(Count { name, help, labels, value: 0 });
                    sums.len() - 1
                });
                sums[place].value += value;
            }
        }
        sums.extend(lock(&self.shared.registry.breaches).iter().map(|(reason, &value)| Count {
            name: "shmesh_session_violations_total",
            help: "Sessions ended because the app broke shm-v1, by what it did.",
            labels: vec![("reason", (*reason).to_owned())],
            value,
        }));
        let mut exhausted = lock(&self.shared.registry.exhausted).clone();
        exhausted.entry("accept").or_default();
        sums.extend(exhausted.into_iter().map(|(what, Exhausted { count: value, .. })| Count {
            name: "shmesh_exhausted_total",
            help: "What was refused, or put off for 100 ms (accept), because no descriptor or no memory was left.",
            labels: vec![("what", what.to_owned())],
            value,
        }));
        sums.extend(load_view::counters(&self.shared));
        sums.extend(self.shared.sessions.quotas.refusals().into_iter().map(|(limit, value)| Count {
            name: "shmesh_quota_refused_total",
            help: "Sessions, calls and route ids that were refused because an app had reached a quota, by its name.",
            labels: vec![("limit", limit.to_owned())],
            value,
        }));
        sums
    }
}

const DIRECT: &str = "shmesh_direct_share";
const DIRECT_HELP: &str =
    "Of a thousand calls of an app so many are to go round the sidecar; `*` is every app that is not named.";
const ISOLATION: &str = "shmesh_sessions_by_isolation";
const ISOLATION_HELP: &str = "Apps attached, by whether the kernel keeps them from writing the sidecar's segment.";

pub(crate) fn gauge(name: &'static str, help: &'static str, value: u64) -> Count {
    Count { name, help, labels: Vec::new(), value }
}
