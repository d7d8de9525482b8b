//! The effective configuration, in the shape of the file.

use serde_json::{Map, Value, json};
use shmesh_policy::{
    AllowUids, Bind, Cluster, Condition, Limits, Listener, OutlierDetection, PathMatch, Priority, Protocol, Quotas,
    Route, Snapshot, Test, YieldSpec,
};

use crate::check::lenient::names;
use crate::scalar::interval;

/// Every setting with the value that is in force, defaults included.
///
/// Apart from `version`, the keys are those of the file, so that what comes out can be written to one (JSON is YAML)
/// and gives the same snapshot.
pub fn to_json(snapshot: &Snapshot) -> Value {
    let mut object = Map::new();
    object.insert("version".into(), json!(snapshot.version));
    object.insert(
        "admin".into(),
        json!({ "address": snapshot.admin.address.to_string(), "allow_remote": snapshot.admin.allow_remote }),
    );
    let listeners = snapshot.listeners.iter().map(|listener| listener_json(listener, snapshot));
    object.insert("listeners".into(), listeners.collect());
    let routes = snapshot.routes.list().iter().map(|route| route_json(route, snapshot));
    object.insert("routes".into(), routes.collect());
    object.insert("clusters".into(), snapshot.clusters.iter().map(cluster_json).collect());
    object.insert(
        "timeouts".into(),
        json!({
            "connect": interval(snapshot.timeouts.connect),
            "first_byte": interval(snapshot.timeouts.first_byte),
            "request": interval(snapshot.timeouts.request.unwrap_or_default()),
            "idle": interval(snapshot.timeouts.idle),
            "unacknowledged": interval(snapshot.timeouts.unacknowledged.unwrap_or_default()),
            "head_read": interval(snapshot.timeouts.head_read),
        }),
    );
    object.insert("drain_timeout".into(), json!(interval(snapshot.timeouts.drain)));
    object.insert("limits".into(), limits_json(&snapshot.limits));
    let mut session = json!({
        "sessions_max": snapshot.session.sessions_max,
        "lanes_max": snapshot.session.lanes_max,
    });
    quotas_json(&snapshot.session.quotas, &mut session);
    if let AllowUids::Listed(uids) = &snapshot.session.allow_uids {
        session["allow_uids"] = json!(uids);
    }
    object.insert("session".into(), session);
    if !snapshot.dns.servers.is_empty() {
        let servers = snapshot.dns.servers.iter().map(ToString::to_string);
        object.insert("dns".into(), json!({ "servers": servers.collect::<Vec<String>>() }));
    }
    let central = [("http", &snapshot.central_proxy.http), ("dubbo", &snapshot.central_proxy.dubbo)];
    let central =
        central.iter().filter_map(|(key, address)| Some(((*key).into(), json!(address.as_ref()?.to_string()))));
    let central: Map<String, Value> = central.collect();
    if !central.is_empty() {
        object.insert("central_proxy".into(), Value::Object(central));
    }
    if let Some(path) = &snapshot.upgrade_socket {
        object.insert("upgrade_socket".into(), json!(path.to_string_lossy()));
    }
    // Named one by one, so that a new setting cannot be forgotten.
    let YieldSpec { enabled, cpu_percent, lag, max_percent } = snapshot.yielding;
    let lag = interval(lag.unwrap_or_default());
    object.insert(
        "yield".into(),
        json!({ "enabled": enabled, "cpu_percent": cpu_percent, "lag": lag, "max_percent": max_percent }),
    );
    if let Some(log) = &snapshot.access_log {
        object.insert("access_log".into(), json!({ "path": log.path.to_string_lossy() }));
    }
    if let Some(workers) = snapshot.workers {
        object.insert("workers".into(), json!(workers));
    }
    if let Some(max_spin) = snapshot.max_spin {
        object.insert("max_spin".into(), json!(format!("{}us", max_spin.as_micros())));
    }
    if snapshot.stages {
        object.insert("stages".into(), json!(true));
    }
    Value::Object(object)
}

fn listener_json(listener: &Listener, snapshot: &Snapshot) -> Value {
    let mut object = json!({ "name": &*listener.name });
    match &listener.bind {
        Bind::Shm(path) => object["shm"] = json!(path.to_string_lossy()),
        Bind::Unix(path) => object["unix"] = json!(path.to_string_lossy()),
        Bind::Tcp(address) => object["tcp"] = json!(address.to_string()),
    }
    if !matches!(listener.bind, Bind::Shm(_)) {
        object["protocol"] = json!(listener.protocol.as_str());
    }
    if listener.protocol == Protocol::Raw
        && let Some(cluster) = listener.cluster.and_then(|id| snapshot.cluster(id))
    {
        object["cluster"] = json!(&*cluster.name);
    }
    if listener.protocol == Protocol::Http || matches!(listener.bind, Bind::Shm(_)) {
        object["request_id"] = json!(listener.http.request_id);
        object["use_remote_address"] = json!(listener.http.use_remote_address);
        object["lenient"] = json!(names(listener.http.lenient));
    }
    if let Some(AllowUids::Listed(uids)) = &listener.allow_uids {
        object["allow_uids"] = json!(uids);
    }
    object
}

fn route_json(route: &Route, snapshot: &Snapshot) -> Value {
    let matching = &route.matching;
    let host = matching.host.as_ref().map(ToString::to_string);
    let (path_key, path) = match &matching.path {
        Some(PathMatch::Exact(path)) => ("path", Some(&**path)),
        Some(PathMatch::Prefix(prefix)) => ("path_prefix", Some(&**prefix)),
        Some(PathMatch::Regex(regex)) => ("path_regex", Some(regex.as_str())),
        None => ("path", None),
    };
    let keys = [
        ("host", host.as_deref()),
        (path_key, path),
        ("service", matching.service.as_ref().map(|pattern| pattern.as_str())),
        ("group", matching.group.as_ref().map(|pattern| pattern.as_str())),
        ("version", matching.version.as_ref().map(|pattern| pattern.as_str())),
        ("method", matching.method.as_ref().map(|pattern| pattern.as_str())),
        ("tag", matching.tag.as_ref().map(|pattern| pattern.as_str())),
    ];
    let lists = [("headers", &matching.headers), ("query", &matching.query), ("attachments", &matching.attachments)];
    let mut matching: Map<String, Value> =
        keys.into_iter().filter_map(|(key, text)| Some((key.to_owned(), json!(text?)))).collect();
    for (key, conditions) in lists.into_iter().filter(|(_, conditions)| !conditions.is_empty()) {
        matching.insert(key.into(), conditions.iter().map(condition_json).collect());
    }
    let cluster = snapshot.cluster(route.cluster).map(|cluster| &*cluster.name);
    let mut object = json!({ "match": matching, "cluster": cluster });
    if let Some(idempotent) = route.idempotent {
        object["idempotent"] = json!(idempotent);
    }
    if route.priority != Priority::Default {
        object["priority"] = json!(route.priority.as_str());
    }
    object
}

fn condition_json(condition: &Condition) -> Value {
    let (key, text) = match &condition.test {
        Test::Present => return json!({ "name": &*condition.name, "present": !condition.not }),
        Test::Exact(text) => ("exact", &**text),
        Test::Prefix(text) => ("prefix", &**text),
        Test::Regex(regex) => ("regex", regex.as_str()),
    };
    let test = json!({ key: text });
    if condition.not {
        json!({ "name": &*condition.name, "not": test })
    } else {
        json!({ "name": &*condition.name, key: text })
    }
}

fn cluster_json(cluster: &Cluster) -> Value {
    let mut object = json!({
        "name": &*cluster.name,
        "connect_timeout": interval(cluster.connect_timeout),
        "first_byte_timeout": interval(cluster.first_byte_timeout),
        "request_timeout": interval(cluster.request_timeout.unwrap_or_default()),
        "unacknowledged_timeout": interval(cluster.unacknowledged_timeout.unwrap_or_default()),
        "lenient": names(cluster.lenient),
    });
    if cluster.connection_pool_per_downstream_connection {
        object["connection_pool_per_downstream_connection"] = json!(true);
    }
    if cluster.dynamic_forward_proxy {
        object["dynamic_forward_proxy"] = json!(true);
        object["connect_ports"] = json!(cluster.connect_ports);
    } else if cluster.original_dst {
        object["original_dst"] = json!(true);
    } else {
        let endpoints = cluster.endpoints.iter().map(|endpoint| endpoint.address.to_string());
        object["endpoints"] = endpoints.collect();
        object["outlier_detection"] = outlier_detection_json(&cluster.outlier_detection);
    }
    object
}

fn outlier_detection_json(spec: &OutlierDetection) -> Value {
    json!({
        "consecutive_local_origin_failure": spec.consecutive_local_origin_failure,
        "consecutive_gateway_failure": spec.consecutive_gateway_failure,
        "consecutive_5xx": spec.consecutive_5xx,
        "base_ejection_time": interval(spec.base_ejection_time),
        "max_ejection_time": interval(spec.max_ejection_time),
        "max_ejection_percent": spec.max_ejection_percent,
    })
}

fn quotas_json(quotas: &Quotas, session: &mut Value) {
    // Named one by one, so that a new quota cannot be forgotten.
    let Quotas {
        lanes_per_uid,
        bytes_max,
        bytes_per_session,
        bytes_per_uid,
        calls_per_session,
        calls_per_uid,
        route_ids_per_session,
        route_ids_per_uid,
    } = *quotas;
    session["lanes_per_uid"] = json!(lanes_per_uid);
    session["bytes_per_session"] = json!(bytes_per_session);
    session["calls_per_session"] = json!(calls_per_session);
    session["calls_per_uid"] = json!(calls_per_uid);
    session["route_ids_per_session"] = json!(route_ids_per_session);
    session["route_ids_per_uid"] = json!(route_ids_per_uid);
    // What is absent depends on the machine.
    for (key, bytes) in [("bytes_max", bytes_max), ("bytes_per_uid", bytes_per_uid)] {
        if let Some(bytes) = bytes {
            session[key] = json!(bytes);
        }
    }
}

fn limits_json(limits: &Limits) -> Value {
    // Named one by one, so that a new limit cannot be forgotten.
    let Limits {
        head_bytes,
        start_line_bytes,
        headers,
        dubbo_body_bytes,
        connections_per_worker,
        pool_idle_per_cluster,
        calls_per_connection,
        streams_per_lane,
        buffered_bytes_per_connection,
        memory_percent,
    } = *limits;
    json!({
        "head_bytes": head_bytes,
        "start_line_bytes": start_line_bytes,
        "headers": headers,
        "dubbo_body_bytes": dubbo_body_bytes,
        "connections_per_worker": connections_per_worker,
        "pool_idle_per_cluster": pool_idle_per_cluster,
        "calls_per_connection": calls_per_connection,
        "streams_per_lane": streams_per_lane,
        "buffered_bytes_per_connection": buffered_bytes_per_connection,
        "memory_percent": memory_percent,
    })
}
