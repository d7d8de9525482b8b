//! The engine's numbers under the names that Prometheus sees.

use shmesh_engine::{Count, EndpointView, View};
use shmesh_metrics::{Distribution, Family, Sample, Values};

/// All metrics of a sidecar.
pub fn families(view: View, driver: &'static str, reloads: [(&'static str, u64); 2]) -> Vec<Family> {
    let mut families = vec![
        build(driver),
        requests(&view),
        durations(&view),
        endpoint_connections(&view),
        endpoint_failures(&view),
        endpoint_ejected(&view),
        endpoint_ejections(&view),
        Family {
            name: "shmesh_config_reloads_total",
            help: "New configurations since the start, by what came of them.",
            values: Values::Counter(
                reloads.map(|(result, value)| Sample { labels: vec![("result", result.to_owned())], value }).into(),
            ),
        },
    ];
    families.extend(view.counters.into_iter().map(|count| single(count, Values::Counter)));
    families.extend(view.gauges.into_iter().map(|count| single(count, Values::Gauge)));
    families
}

fn build(driver: &'static str) -> Family {
    Family {
        name: "shmesh_build_info",
        help: "Always 1; the labels say what runs.",
        values: Values::Gauge(vec![Sample {
            labels: vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("driver", driver.to_owned())],
            value: 1,
        }]),
    }
}

fn requests(view: &View) -> Family {
    let samples = view.requests.iter().map(|request| Sample {
        labels: vec![
            ("listener", request.listener.clone()),
            ("cluster", request.cluster.clone()),
            ("code", request.code.clone()),
        ],
        value: request.count,
    });
    Family {
        name: "shmesh_requests_total",
        help: "Calls that were answered, by HTTP or Dubbo status.",
        values: Values::Counter(samples.collect()),
    }
}

fn durations(view: &View) -> Family {
    let distributions = view.durations.iter().map(|duration| Distribution {
        labels: vec![("listener", duration.listener.clone()), ("cluster", duration.cluster.clone())],
        bounds: duration.bounds_seconds.clone(),
        counts: duration.counts.clone(),
        sum: duration.sum_seconds,
    });
    Family {
        name: "shmesh_request_duration_seconds",
        help: "Time from a call's head to the end of its answer.",
        values: Values::Histogram(distributions.collect()),
    }
}

fn endpoint_connections(view: &View) -> Family {
    Family {
        name: "shmesh_endpoint_connections",
        help: "Open connections to an endpoint; 1 for an app that is attached and serves.",
        values: Values::Gauge(endpoints(view, |endpoint| endpoint.connections)),
    }
}

fn endpoint_failures(view: &View) -> Family {
    Family {
        name: "shmesh_endpoint_failures_total",
        help: "Connections to an endpoint that failed, and calls that it did not answer. An address that several clusters name has one count, which each of them shows.",
        values: Values::Counter(endpoints(view, |endpoint| endpoint.failures)),
    }
}

fn endpoint_ejected(view: &View) -> Family {
    Family {
        name: "shmesh_endpoint_ejected",
        help: "Workers that leave an endpoint out for now, because it failed again and again (outlier_detection).",
        values: Values::Gauge(endpoints(view, |endpoint| endpoint.ejected)),
    }
}

fn endpoint_ejections(view: &View) -> Family {
    Family {
        name: "shmesh_endpoint_ejections_total",
        help: "How often workers left an endpoint out for a while (outlier_detection).",
        values: Values::Counter(endpoints(view, |endpoint| endpoint.ejections)),
    }
}

fn endpoints(view: &View, value: impl Fn(&EndpointView) -> u64) -> Vec<Sample> {
    let pairs =
        view.clusters.iter().flat_map(|cluster| cluster.endpoints.iter().map(move |endpoint| (cluster, endpoint)));
    let samples = pairs.map(|(cluster, endpoint)| Sample {
        labels: vec![("cluster", cluster.name.clone()), ("endpoint", endpoint.address.clone())],
        value: value(endpoint),
    });
    samples.collect()
}

fn single(count: Count, values: fn(Vec<Sample>) -> Values) -> Family {
    Family {
        name: count.name,
        help: count.help,
        values: values(vec![Sample { labels: count.labels, value: count.value }]),
    }
}
