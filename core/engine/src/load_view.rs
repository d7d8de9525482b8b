//! What /metrics shows of the CPU and the memory that the sidecar gets, and of what it costs its apps. What the kernel does not tell is absent.

use std::time::Duration;

use shmesh_policy::Priority;
use shmesh_policy::yielding::Reason;
use shmesh_shm::cgroup;

use crate::counters::lock;
use crate::memory;
use crate::shared::Shared;
use crate::usage;
use crate::view::{Count, gauge};

pub(crate) fn counters(shared: &Shared) -> Vec<Count> {
    let mut counts = vec![gauge(
        "shmesh_cpu_nanoseconds_total",
        "CPU time of the sidecar, all of its threads.",
        nanos(usage::own_cpu().0),
    )];
    if let Some(throttled) = cgroup::cpu_throttled() {
        counts.push(gauge(
            "shmesh_cpu_throttled_periods_total",
            "Periods in which the cgroup was stopped because its CPU quota was used up. Absent where no cgroup counts them.",
            throttled.periods,
        ));
        counts.push(gauge(
            "shmesh_cpu_throttled_nanoseconds_total",
            "Time for which the cgroup was stopped, added up over CPUs. Absent where no cgroup counts it.",
            throttled.nanos,
        ));
    }
    for (worker, run) in shared.load.runs() {
        counts.push(of_worker(
            worker,
            "shmesh_worker_cpu_nanoseconds_total",
            "CPU time of a worker, its waiting loop included. Absent where the kernel does not tell.",
            run.cpu,
        ));
        counts.push(of_worker(
            worker,
            "shmesh_worker_run_delay_nanoseconds_total",
            "Time in which a worker could have run and waited for a CPU. Absent where the kernel does not tell.",
            run.delay,
        ));
    }
    counts.push(gauge(
        "shmesh_load_roused_total",
        "How often the thread that looks at the load slept, as nothing happened, and was roused.",
        shared.load.roused(),
    ));
    let seen = shared.load.seen();
    counts.extend(Reason::ALL.map(|reason| Count {
        labels: vec![("reason", reason.as_str().to_owned())],
        ..gauge(
            "shmesh_yields_total",
            "How often a share of the calls of apps began to go round the sidecar, by what it had too little of.",
            seen.began[reason as usize],
        )
    }));
    counts
}

pub(crate) fn gauges(shared: &Shared) -> Vec<Count> {
    let seen = shared.load.seen();
    let yielded = shared.load.yielded();
    let mut gauges = Vec::new();
    if let Some(quota) = seen.quota {
        gauges.push(gauge(
            "shmesh_cpu_quota_millicores",
            "CPU quota of the cgroup, in thousandths of a core. Absent without one.",
            quota,
        ));
    }
    if let Some(used) = seen.used_permille {
        gauges.push(gauge(
            "shmesh_cpu_quota_used_permille",
            "Part of the CPU quota that the sidecar used in the last tenth of a second. Absent without one.",
            used.into(),
        ));
    }
    for (worker, lag) in seen.lags {
        gauges.push(of_worker(
            worker,
            "shmesh_worker_lag_nanoseconds",
            "How long a worker waited for a CPU each time that it could run, on the average of the last tenth of a second.",
            lag,
        ));
    }
    gauges.extend(Priority::ALL.map(|priority| Count {
        labels: vec![("priority", priority.as_str().to_owned())],
        ..gauge(
            "shmesh_yield_share",
            "Of a thousand calls of a priority so many are to go round the sidecar, as it has too little CPU.",
            priority.share(yielded).into(),
        )
    }));
    gauges.extend(Reason::ALL.map(|reason| Count {
        labels: vec![("reason", reason.as_str().to_owned())],
        ..gauge(
            "shmesh_yield_reason",
            "1: a share of the calls goes round the sidecar for this reason.",
            u64::from(seen.reason == Some(reason)),
        )
    }));
    if let Some((used, limit)) = memory::fullest() {
        gauges.push(gauge(
            "shmesh_memory_used_bytes",
            "Memory that the cgroup uses which is nearest to its limit, without files that nobody looked at lately. Absent without a \
             limit.",
            used,
        ));
        gauges.push(gauge("shmesh_memory_limit_bytes", "Its limit. Absent without one.", limit));
    }
    gauges.push(gauge(
        "shmesh_memory_short",
        "1: new calls and sessions are refused because of `limits.memory_percent`.",
        shared.load.is_short_of_memory().into(),
    ));
    if let Some(permille) = seen.tax_permille {
        gauges.push(gauge(
            "shmesh_mesh_tax_cpu_permille",
            "CPU time of the sidecar by that of the apps that are attached, over the last 5 s or more with calls. Absent before, and \
             where the processes of no app can be seen.",
            permille,
        ));
    }
    if let Some(permille) = tax_latency_permille(shared) {
        gauges.push(gauge(
            "shmesh_mesh_tax_latency_permille",
            "Time that calls spent in the sidecar itself by the time that they took altogether, since the start. Absent unless \
             `stages` is on, which it has to be from the start.",
            permille,
        ));
    }
    gauges
}

/// The stages in which workers do something for calls, and the time that records waited in their ring, by what calls took with that.
fn tax_latency_permille(shared: &Shared) -> Option<u64> {
    let (mut in_sidecar, mut waited) = (0, 0);
    for worker in lock(&shared.registry.workers).iter() {
        let stages = [&worker.stage_driver, &worker.stage_ingress, &worker.stage_dispatch, &worker.stage_egress];
        in_sidecar += stages.map(|stage| stage.get()).iter().sum::<u64>();
        waited += worker.stage_ring_wait.get();
    }
    if in_sidecar == 0 {
        return None;
    }
    let durations = lock(&shared.registry.durations);
    let took: u64 = durations.values().flatten().map(|of_worker| of_worker.sum_ns.get()).sum();
    permille(in_sidecar.saturating_add(waited), took.saturating_add(waited))
}

fn permille(part: u64, whole: u64) -> Option<u64> {
    let permille = (u128::from(part) * 1000).checked_div(whole.into())?;
    u64::try_from(permille).ok()
}

fn of_worker(worker: usize, name: &'static str, help: &'static str, time: Duration) -> Count {
    Count { labels: vec![("worker", worker.to_string())], ..gauge(name, help, nanos(time)) }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
