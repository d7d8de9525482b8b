//! What is counted: each worker writes its own words, the control side adds them up when asked.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use shmesh_policy::Snapshot;

use crate::outlier::EjectionCounts;

/// What is refused or put off again and again has a line in the log as often.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Upper bounds of the histogram's buckets, in microseconds; one more bucket holds the rest.
pub const BOUNDS_US: [u64; 18] = [
    5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    10_000_000,
];

const BOUNDS_NS: [u64; BOUNDS_US.len()] = {
    let mut bounds = BOUNDS_US;
    let mut index = 0;
    while index < bounds.len() {
        bounds[index] *= 1_000;
        index += 1;
    }
    bounds
};

/// A word that one thread writes and others read.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning thread may call this.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes away; only the owning thread may call this.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Names and values.
pub type Labels = &'static [(&'static str, &'static str)];

macro_rules! worker_counters {
    ($($(#[doc = $help:literal])+ $field:ident => $name:literal $({ $label:ident = $value:literal })?;)+) => {
        /// Plain counters of one worker.
        #[derive(Default, Debug)]
        pub struct WorkerCounters { $($(#[doc = $help])+ pub $field: Counter,)+ }

        impl WorkerCounters {
            /// Name, help, labels and value of each counter.
            pub fn each(&self) -> Vec<(&'static str, &'static str, Labels, u64)> {
                vec![$((
                    $name,
                    concat!($($help),+).trim_ascii(),
                    &[$((stringify!($label), $value))?][..],
                    self.$field.get(),
                ),)+]
            }
        }
    };
}

worker_counters! {
    /// Records that had to wait because a ring or arena towards an app was full.
    ring_full => "shmesh_ring_full_total";
    /// Times that a worker went to sleep.
    parks => "shmesh_worker_parks_total";
    /// Time in which a worker that did not sleep found nothing to do, in nanoseconds.
    spun => "shmesh_worker_spin_nanoseconds_total";
    /// Connections accepted.
    accepted => "shmesh_downstream_connections_total";
    /// Connections refused because of connections_per_worker.
    over_limit => "shmesh_downstream_connections_refused_total";
    /// Connections made to upstreams.
    connects => "shmesh_upstream_connections_total";
    /// Connections to upstreams that failed.
    connect_failures => "shmesh_upstream_connect_failures_total";
    /// Calls that were sent once more because their connection ended before an answer came.
    retries => "shmesh_upstream_retries_total";
    /// HTTP messages from downstream that were refused as malformed.
    http_malformed => "shmesh_http_malformed_total";
    /// HTTP heads that were mended as `lenient` says.
    http_mended => "shmesh_http_mended_total";
    /// Dubbo frames from downstream that were refused as malformed.
    dubbo_malformed => "shmesh_dubbo_malformed_total";
    /// Dubbo heartbeats answered.
    heartbeats => "shmesh_dubbo_heartbeats_total";
    /// Dubbo requests that were routed, by the dearest source of what decided: record, extension, strings, skipper.
    dubbo_keys_of_record => "shmesh_dubbo_key_source_total" { source = "record" };
    /// Dubbo requests that were routed, by the dearest source of what decided: record, extension, strings, skipper.
    dubbo_keys_of_extension => "shmesh_dubbo_key_source_total" { source = "extension" };
    /// Dubbo requests that were routed, by the dearest source of what decided: record, extension, strings, skipper.
    dubbo_keys_of_strings => "shmesh_dubbo_key_source_total" { source = "strings" };
    /// Dubbo requests that were routed, by the dearest source of what decided: record, extension, strings, skipper.
    dubbo_keys_of_skipper => "shmesh_dubbo_key_source_total" { source = "skipper" };
    /// Dubbo requests whose strings were read, as the worker had not seen these lately.
    dubbo_fronts_read => "shmesh_dubbo_strings_read_total";
    /// Answers that came after their call was over, and were dropped.
    late_answers => "shmesh_late_answers_total";
    /// Calls over shared memory that the app withdrew before they were forwarded.
    withdrawn => "shmesh_withdrawn_total";
    /// Bytes of payload that the worker copied on their way between apps and sockets; those that are sent from where they
    /// lie, or received to where they stay, are not among them.
    copied => "shmesh_copied_bytes_total";
    /// Stages: time asleep in the driver, in nanoseconds. These count while `stages` is on.
    stage_parked => "shmesh_stage_parked_nanoseconds_total";
    /// Stages: time in turns that found nothing to do.
    stage_wait => "shmesh_stage_wait_nanoseconds_total";
    /// Stages: time for sockets, timers and mail.
    stage_driver => "shmesh_stage_driver_nanoseconds_total";
    /// Stages: time for taking records and turning them into calls, routes included.
    stage_ingress => "shmesh_stage_ingress_nanoseconds_total";
    /// Stages: time for looking up routes.
    stage_route => "shmesh_stage_route_nanoseconds_total";
    /// Stages: time for forwarding calls.
    stage_dispatch => "shmesh_stage_dispatch_nanoseconds_total";
    /// Stages: time for publishing records and writing to sockets.
    stage_egress => "shmesh_stage_egress_nanoseconds_total";
    /// Stages: how long records waited in their ring at most, added up.
    stage_ring_wait => "shmesh_stage_ring_wait_nanoseconds_total";
    /// Stages: records that waited.
    stage_records => "shmesh_stage_records_total";
    /// Stages: time from taking a call to its answer, added up over calls.
    stage_upstream => "shmesh_stage_upstream_nanoseconds_total";
    /// Stages: calls that were answered.
    stage_calls => "shmesh_stage_calls_total";
    /// Access log lines dropped because the writer was behind.
    log_dropped => "shmesh_access_log_dropped_total";
}

/// Counters of one endpoint in one worker.
#[derive(Default, Debug)]
pub struct EndpointCounters {
    pub connections: Counter,
    pub failures: Counter,
}

/// Calls of one listener, cluster and code in one worker.
#[derive(Default, Debug)]
pub struct CallCounter {
    pub count: Counter,
}

/// Durations of calls of one listener and cluster in one worker.
#[derive(Default, Debug)]
pub struct DurationCounter {
    pub buckets: [Counter; BOUNDS_US.len() + 1],
    pub sum_ns: Counter,
}

/// Names of a listener and of a cluster.
pub type Names = (Arc<str>, Arc<str>);

/// Names of a listener and of a cluster, and how the call ended.
pub type CallNames = (Arc<str>, Arc<str>, u16);

/// Name of a cluster, and an endpoint as it is configured there.
pub type EndpointName = (Arc<str>, String);

/// What was refused because the process was out of descriptors or memory.
#[derive(Clone, Default)]
pub struct Exhausted {
    pub count: u64,
    logged: Option<Instant>,
}

/// Everything that all workers count, by name.
#[derive(Default)]
pub struct Registry {
    pub workers: Mutex<Vec<Arc<WorkerCounters>>>,
    pub calls: Mutex<HashMap<CallNames, Vec<Arc<CallCounter>>>>,
    pub durations: Mutex<HashMap<Names, Vec<Arc<DurationCounter>>>>,
    pub endpoints: Mutex<HashMap<String, Vec<Arc<EndpointCounters>>>>,
    /// Endpoints that were left out, by cluster and endpoint. Rare, so under a lock.
    pub ejections: Mutex<HashMap<EndpointName, Arc<EjectionCounts>>>,
    /// Sessions ended because their app broke shm-v1, by reason. Rare, so under a lock.
    pub breaches: Mutex<BTreeMap<&'static str, u64>>,
    /// What was refused because the process was out of descriptors or memory, by what it was. Rare, so under a lock.
    pub exhausted: Mutex<BTreeMap<&'static str, Exhausted>>,
}

impl Registry {
    /// Counters of an endpoint for one worker.
    pub fn endpoint(&self, address: String) -> Arc<EndpointCounters> {
        let counters = Arc::new(EndpointCounters::default());
        lock(&self.endpoints).entry(address).or_default().push(counters.clone());
        counters
    }

    /// One worker counts no more for an endpoint.
    pub fn forget_endpoint(&self, address: &str, counters: &Arc<EndpointCounters>) {
        let mut endpoints = lock(&self.endpoints);
        if let Some(of_workers) = endpoints.get_mut(address) {
            of_workers.retain(|known| !Arc::ptr_eq(known, counters));
            if of_workers.is_empty() {
                endpoints.remove(address);
            }
        }
    }

    /// A session ended because its app broke shm-v1.
    pub fn breached(&self, reason: &'static str) {
        *lock(&self.breaches).entry(reason).or_default() += 1;
    }

    /// Something was refused because the process is out of descriptors or memory.
    pub fn exhausted(&self, what: &'static str) {
        lock(&self.exhausted).entry(what).or_default().count += 1;
    }

    /// As [`Registry::exhausted`]. Whether this is worth a line in the log: one of each in [`LOG_EVERY`] is.
    pub fn exhausted_anew(&self, what: &'static str) -> bool {
        let now = Instant::now();
        let mut exhausted = lock(&self.exhausted);
        let Exhausted { count, logged } = exhausted.entry(what).or_default();
        *count += 1;
        let due = logged.is_none_or(|logged| now.duration_since(logged) >= LOG_EVERY);
        if due {
            *logged = Some(now);
        }
        due
    }

    /// Counters of one worker.
    pub fn worker(&self) -> Arc<WorkerCounters> {
        let counters = Arc::new(WorkerCounters::default());
        lock(&self.workers).push(counters.clone());
        counters
    }

    /// How many workers there are.
    pub fn worker_count(&self) -> usize {
        lock(&self.workers).len()
    }
}

/// One worker's way to the counters of calls: found by index, registered by name when new.
pub struct CallCounters {
    registry: Arc<Registry>,
    calls: HashMap<(u16, u32, u16), Arc<CallCounter>>,
    durations: HashMap<(u16, u32), Arc<DurationCounter>>,
    /// By name, so that a new snapshot finds what an older one registered.
    named_calls: HashMap<CallNames, Arc<CallCounter>>,
    named_durations: HashMap<Names, Arc<DurationCounter>>,
    /// Most calls are like the one before.
    last: Option<LastCall>,
}

/// Indices of listener and cluster, and the code, of the newest call; and its counters.
type LastCall = ((u16, u32, u16), Arc<CallCounter>, Arc<DurationCounter>);

impl CallCounters {
    pub fn new(registry: Arc<Registry>) -> CallCounters {
        CallCounters {
            registry,
            calls: HashMap::new(),
            durations: HashMap::new(),
            named_calls: HashMap::new(),
            named_durations: HashMap::new(),
            last: None,
        }
    }

    /// Forgets indices, which mean something else in another snapshot.
    pub fn snapshot_changed(&mut self) {
        self.calls.clear();
        self.durations.clear();
        self.last = None;
    }

    /// Counts a call. `cluster` = `u32::MAX` if no route took it.
    #[inline(always)]
    pub fn count(&mut self, snapshot: &Snapshot, listener: u16, cluster: u32, code: u16, took_ns: u64) {
        let key = (listener, cluster, code);
        if self.last.as_ref().is_none_or(|last| last.0 != key) {
            self.last = Some((key, self.call(snapshot, key), self.duration(snapshot, (listener, cluster))));
        }
        if let Some((_, call, duration)) = &self.last {
            call.count.add(1);
            let bucket = BOUNDS_NS.iter().position(|&bound| took_ns <= bound).unwrap_or(BOUNDS_NS.len());
            duration.buckets[bucket].add(1);
            duration.sum_ns.add(took_ns);
        }
    }

    fn call(&mut self, snapshot: &Snapshot, key: (u16, u32, u16)) -> Arc<CallCounter> {
        let (registry, named) = (&self.registry, &mut self.named_calls);
        let counter = self.calls.entry(key).or_insert_with(|| {
            let (listener, cluster) = names(snapshot, key.0, key.1);
            let name = (listener, cluster, key.2);
            named
                .entry(name.clone())
                .or_insert_with(|| {
                    let counter = Arc::new(CallCounter::default());
                    lock(&registry.calls).entry(name).or_default().push(counter.clone());
                    counter
                })
                .clone()
        });
        counter.clone()
    }

    fn duration(&mut self, snapshot: &Snapshot, key: (u16, u32)) -> Arc<DurationCounter> {
        let (registry, named) = (&self.registry, &mut self.named_durations);
        let counter = self.durations.entry(key).or_insert_with(|| {
            let name = names(snapshot, key.0, key.1);
            named
                .entry(name.clone())
                .or_insert_with(|| {
                    let counter = Arc::new(DurationCounter::default());
                    lock(&registry.durations).entry(name).or_default().push(counter.clone());
                    counter
                })
                .clone()
        });
        counter.clone()
    }
}

/// Names behind the indices; a call that no route took has the cluster "-".
pub fn names(snapshot: &Snapshot, listener: u16, cluster: u32) -> Names {
    let listener = snapshot.listeners.get(listener as usize).map_or_else(|| "-".into(), |l| l.name.clone());
    let cluster = snapshot.clusters.get(cluster as usize).map_or_else(|| "-".into(), |c| c.name.clone());
    (listener, cluster)
}

/// A lock whose holder panicked still guards whole values here.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
