//! The file as it is written: its keys, and nothing decided yet.
//!
//! Every key may be absent here, and every scalar is a text, so that what is missing or wrong is found by
//! [`crate::check`], all of it at once, with its place. What the doc comments say becomes the published schema.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::located::{At, Key};
use crate::scalar::{
    Count, Expression, Flaw, Host, HttpPath, Interval, Method, Name, PathPrefix, PathText, PriorityName, ProtocolName,
    Size, SocketText, Target, TextPattern, ValueName, ValueText,
};

/// Configuration of shmesh, a sidecar proxy for RPC traffic over shared memory, Unix sockets and TCP.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "shmesh configuration", extend("required" = ["listeners"]))]
pub(crate) struct File {
    /// The admin interface. Default: on 127.0.0.1:15000.
    pub admin: Key<AdminEntry>,
    /// What the sidecar listens on. At least one.
    pub listeners: Key<Vec<At<ListenerEntry>>>,
    /// Which cluster takes a call: more specific routes first, then the one listed first.
    pub routes: Key<Vec<At<RouteEntry>>>,
    /// Named sets of endpoints that serve the same.
    pub clusters: Key<Vec<At<ClusterEntry>>>,
    /// How long things may take.
    pub timeouts: Key<TimeoutsEntry>,
    /// How long calls in flight may go on after SIGTERM. Default: 30s.
    pub drain_timeout: Key<Interval>,
    /// How much of everything there may be.
    pub limits: Key<LimitsEntry>,
    /// Sessions over shared memory.
    pub session: Key<SessionEntry>,
    /// How host names are looked up.
    pub dns: Key<DnsEntry>,
    /// Where apps go when their sidecar is gone, before they go directly. Default: none.
    pub central_proxy: Key<CentralProxyEntry>,
    /// Path of the Unix socket on which `shmesh run --upgrade` asks to take over. Default: beside the first session socket, with
    /// `.upgrade` behind its name.
    pub upgrade_socket: Key<PathText>,
    /// When a share of the calls of apps goes round the sidecar because it has too little CPU.
    pub r#yield: Key<YieldEntry>,
    /// One line of JSON for each call. Default: off.
    pub access_log: Key<AccessLogEntry>,
    /// Number of worker threads. Default: as many as the process may use CPUs.
    pub workers: Key<Count>,
    /// The longest that a worker spins for records before it sleeps, or 0s; at most 10ms. Default: 100us.
    pub max_spin: Key<Interval>,
    /// Whether workers measure where their time goes, for /metrics and `shmesh bench --stages`; a few clock readings a
    /// turn. Default: false.
    pub stages: Key<bool>,
}

/// The admin interface.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Admin")]
pub(crate) struct AdminEntry {
    /// IP address and port. Loopback, unless `allow_remote`. Default: 127.0.0.1:15000.
    pub address: Key<SocketText>,
    /// Whether other machines may reach it; it has no authentication of its own. Default: false.
    pub allow_remote: Key<bool>,
}

/// Exactly one of `shm`, `unix` and `tcp`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Listener", extend("required" = ["name"]))]
pub(crate) struct ListenerEntry {
    /// Unique among listeners; appears in metrics and messages.
    pub name: Key<Name>,
    /// Session socket: apps attach shared memory here, and may then speak any protocol.
    pub shm: Key<PathText>,
    /// Path of a Unix socket.
    pub unix: Key<PathText>,
    /// IP address and port.
    pub tcp: Key<SocketText>,
    /// What is spoken. For `unix` and `tcp` only, and required there.
    pub protocol: Key<ProtocolName>,
    /// Where the bytes go. For `protocol: raw` only, and required there.
    pub cluster: Key<Name>,
    /// Whether a request without `x-request-id` gets one. For HTTP, over `shm` its streams. Default: true.
    pub request_id: Key<bool>,
    /// Whether the peer's address goes to the end of `x-forwarded-for`, and `x-forwarded-proto` says http. For HTTP, over
    /// `shm` its streams. Default: false.
    pub use_remote_address: Key<bool>,
    /// Flaws of requests that are mended: `obs_fold`, `bare_lf`, `repeated_content_length`. For HTTP, over `shm` its streams.
    /// Default: none.
    pub lenient: Key<Vec<At<Flaw>>>,
    /// Users whose processes may attach. For `shm` only. Default: `session.allow_uids`.
    pub allow_uids: Key<Vec<At<Count>>>,
}

/// A match and the cluster that takes the calls it matches.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Route", extend("required" = ["match", "cluster"]))]
pub(crate) struct RouteEntry {
    /// Which calls; `{}` takes every call.
    pub r#match: Key<MatchEntry>,
    /// Name of the cluster.
    pub cluster: Key<Name>,
    /// Whether sending such a call twice does no harm. Default: HTTP as the method has it (RFC 9110 §9.2.2), Dubbo false.
    pub idempotent: Key<bool>,
    /// Which calls go round the sidecar first while it yields: `low` before `default` before `high`. Default: default.
    pub priority: Key<PriorityName>,
}

/// An absent key matches anything. `host`, `headers`, `query` and one of `path`, `path_prefix` and `path_regex` are
/// HTTP only; `service`, `group`, `version`, `tag` and `attachments` are Dubbo only.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Match")]
pub(crate) struct MatchEntry {
    /// Host of an HTTP request, without regard to case and port. `*.example.com` takes any labels in front of these.
    pub host: Key<Host>,
    /// Path of an HTTP request, without its query.
    pub path: Key<HttpPath>,
    /// Leading segments of the path of an HTTP request: `/a` takes `/a` and `/a/b`, but not `/ab`.
    pub path_prefix: Key<PathPrefix>,
    /// A regular expression for the whole path of an HTTP request, without its query.
    pub path_regex: Key<Expression>,
    /// Interface of a Dubbo call.
    pub service: Key<TextPattern>,
    /// Group of a Dubbo call; `""` is a call without group.
    pub group: Key<TextPattern>,
    /// Service version of a Dubbo call; `""` is a call without version.
    pub version: Key<TextPattern>,
    /// Method of an HTTP request or a Dubbo call, with its case.
    pub method: Key<Method>,
    /// What must hold for the headers of an HTTP request, all of it. Names have no case.
    pub headers: Key<Vec<At<ConditionEntry>>>,
    /// What must hold for the parameters in the query of an HTTP request, all of it. Nothing is decoded.
    pub query: Key<Vec<At<ConditionEntry>>>,
    /// Tag of a Dubbo call, its attachment `dubbo.tag`; `""` is a call without tag.
    pub tag: Key<TextPattern>,
    /// What must hold for the attachments of a Dubbo call, all of it. Names have a case.
    pub attachments: Key<Vec<At<ConditionEntry>>>,
}

/// A name and exactly one of `exact`, `prefix`, `regex`, `present` and `not`. Where the name comes several times, one
/// value that fits is enough.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Condition", extend("required" = ["name"]))]
pub(crate) struct ConditionEntry {
    /// Of the header, of the parameter, or of the attachment.
    pub name: Key<ValueName>,
    /// The whole value, with its case.
    pub exact: Key<ValueText>,
    /// What the value begins with.
    pub prefix: Key<ValueText>,
    /// A regular expression for the whole value.
    pub regex: Key<Expression>,
    /// Whether the name must be there, or must not.
    pub present: Key<bool>,
    /// No value may fit this; so it holds also when there is none.
    pub not: Key<NotEntry>,
}

/// Exactly one of `exact`, `prefix` and `regex`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Not")]
pub(crate) struct NotEntry {
    /// The whole value, with its case.
    pub exact: Key<ValueText>,
    /// What the value begins with.
    pub prefix: Key<ValueText>,
    /// A regular expression for the whole value.
    pub regex: Key<Expression>,
}

/// A named set of endpoints that serve the same.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Cluster", extend("required" = ["name"]))]
pub(crate) struct ClusterEntry {
    /// Unique among clusters; appears in routes, metrics and messages.
    pub name: Key<Name>,
    /// Where it is served: taken in turn, the next one when one refuses. At least one, unless
    /// `dynamic_forward_proxy` or `original_dst`.
    pub endpoints: Key<Vec<At<Target>>>,
    /// Forwards HTTP requests in absolute form to the host that they name; no endpoints then. Default: false.
    pub dynamic_forward_proxy: Key<bool>,
    /// Ports to which CONNECT makes a tunnel. Only with `dynamic_forward_proxy`. Default: none.
    pub connect_ports: Key<Vec<At<Count>>>,
    /// Flaws of HTTP answers over sockets that are mended: `obs_fold`, `bare_lf`, `repeated_content_length`,
    /// `space_before_colon`. Default: none.
    pub lenient: Key<Vec<At<Flaw>>>,
    /// Dubbo: each consumer's connection has connections to providers of its own, which carry callbacks. Default: false.
    pub connection_pool_per_downstream_connection: Key<bool>,
    /// Whether Dubbo endpoints, other sidecars of shmesh, are offered a call's routing key in front of its body. Default: false.
    pub dubbo_extension: Key<bool>,
    /// Forwards what comes through connections that the packet filter redirected here to where these were going; no endpoints
    /// then. Default: false.
    pub original_dst: Key<bool>,
    /// How long a connection may take to be made. Default: `timeouts.connect`.
    pub connect_timeout: Key<Interval>,
    /// How long the first byte of an answer may take. Default: `timeouts.first_byte`.
    pub first_byte_timeout: Key<Interval>,
    /// How long an HTTP or Dubbo call may take altogether, or 0s for as long as bytes move. Default: `timeouts.request`.
    pub request_timeout: Key<Interval>,
    /// How long what was sent may stay unacknowledged, or 0s for as long as the system has it. Default: `timeouts.unacknowledged`.
    pub unacknowledged_timeout: Key<Interval>,
    /// When an endpoint that fails again and again is left out for a while.
    pub outlier_detection: Key<OutlierDetectionEntry>,
}

/// When an endpoint that fails again and again is left out for a while; the names are Envoy's.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "OutlierDetection")]
pub(crate) struct OutlierDetectionEntry {
    /// Connections that fail and answers that do not come, in a row; 0: never. Default: 5.
    pub consecutive_local_origin_failure: Key<Count>,
    /// HTTP answers 502, 503 and 504 in a row; 0: never. Default: 0.
    pub consecutive_gateway_failure: Key<Count>,
    /// HTTP answers of 5xx in a row; 0: never. Default: 0.
    pub consecutive_5xx: Key<Count>,
    /// For how long, the first time; the second time in a row twice as long, and so on. Default: 30s.
    pub base_ejection_time: Key<Interval>,
    /// The longest. Default: 300s.
    pub max_ejection_time: Key<Interval>,
    /// Percentage of the endpoints that may be left out at once, one in any case; 0: none. Default: 50.
    pub max_ejection_percent: Key<Count>,
}

/// How long things may take.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Timeouts")]
pub(crate) struct TimeoutsEntry {
    /// Making a connection to an endpoint. Default: 1s.
    pub connect: Key<Interval>,
    /// From the end of a request's head to the first byte of its answer. Default: 15s.
    pub first_byte: Key<Interval>,
    /// From a request's head to the last byte of its answer, or 0s for as long as bytes move. Default: 0s.
    pub request: Key<Interval>,
    /// A connection without a byte in either direction. Default: 60s.
    pub idle: Key<Interval>,
    /// What was sent to an endpoint without its acknowledgement, or 0s for as long as the system has it. Default: 60s.
    pub unacknowledged: Key<Interval>,
    /// From the first byte of a request's head to its last. Default: 10s.
    pub head_read: Key<Interval>,
}

/// How much of everything there may be.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Limits")]
pub(crate) struct LimitsEntry {
    /// Bytes of an HTTP head with its start line. Default: 64KiB.
    pub head_bytes: Key<Size>,
    /// Bytes of an HTTP request line. Default: 8KiB.
    pub start_line_bytes: Key<Size>,
    /// Header fields of an HTTP head. Default: 128.
    pub headers: Key<Count>,
    /// Bytes of a Dubbo body. Default: 8MiB.
    pub dubbo_body_bytes: Key<Size>,
    /// Downstream connections of one worker. Default: 16384.
    pub connections_per_worker: Key<Count>,
    /// Idle upstream connections that a worker keeps for one cluster. Default: 256.
    pub pool_idle_per_cluster: Key<Count>,
    /// Calls that wait on one connection. Default: 1024.
    pub calls_per_connection: Key<Count>,
    /// Streams that are open on one lane. Default: 256.
    pub streams_per_lane: Key<Count>,
    /// Bytes that wait on one connection because the other side is slow. Default: 256KiB.
    pub buffered_bytes_per_connection: Key<Size>,
    /// Percentage of its cgroup's memory from which on the sidecar takes no new calls and sessions; 1 to 100, or 0: none. Default: 95.
    pub memory_percent: Key<Count>,
}

/// Sessions over shared memory.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Session")]
pub(crate) struct SessionEntry {
    /// Users whose processes may attach. Default: the sidecar's own user, and root.
    pub allow_uids: Key<Vec<At<Count>>>,
    /// Sessions that are attached at once. Default: 64.
    pub sessions_max: Key<Count>,
    /// Lanes of one session. Default: 64.
    pub lanes_max: Key<Count>,
    /// Lanes of all sessions of one uid. Default: 2048.
    pub lanes_per_uid: Key<Count>,
    /// Bytes of the memory files of all sessions. Default: three quarters of the cgroup's memory limit, 16384MiB without one.
    pub bytes_max: Key<Size>,
    /// Bytes of the memory files of one session. Default: 2048MiB.
    pub bytes_per_session: Key<Size>,
    /// Bytes of the memory files of all sessions of one uid. Default: as `bytes_max`.
    pub bytes_per_uid: Key<Size>,
    /// Calls and streams that one session has open. Default: 4096.
    pub calls_per_session: Key<Count>,
    /// Calls and streams that all sessions of one uid have open. Default: 65536.
    pub calls_per_uid: Key<Count>,
    /// Route ids that one session has defined. Default: 16384.
    pub route_ids_per_session: Key<Count>,
    /// Route ids that all sessions of one uid have defined. Default: 131072.
    pub route_ids_per_uid: Key<Count>,
}

/// How host names are looked up.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Dns")]
pub(crate) struct DnsEntry {
    /// IP addresses and ports of name servers, at most 8. Default: those of /etc/resolv.conf, whose other settings hold either
    /// way.
    pub servers: Key<Vec<At<SocketText>>>,
}

/// A proxy for the whole mesh, with routes of its own. At least one of `http` and `dubbo`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "CentralProxy")]
pub(crate) struct CentralProxyEntry {
    /// Where it takes HTTP/1.1.
    pub http: Key<Target>,
    /// Where it takes Dubbo2.
    pub dubbo: Key<Target>,
}

/// When a share of the calls of apps goes round the sidecar because it has too little CPU.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Yield")]
pub(crate) struct YieldEntry {
    /// Whether it yields at all. Default: true.
    pub enabled: Key<bool>,
    /// Percentage of its cgroup's CPU quota that the sidecar uses when it begins; 1 to 100. Default: 90.
    pub cpu_percent: Key<Count>,
    /// How long a worker that could run waits for a CPU on the average when it begins, or 0s: that is no reason. Default: 0s.
    pub lag: Key<Interval>,
    /// Percentage of the calls that goes round at most; 1 to 100. Default: 90.
    pub max_percent: Key<Count>,
}

/// One line of JSON for each call.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "AccessLog", extend("required" = ["path"]))]
pub(crate) struct AccessLogEntry {
    /// The file that lines are appended to.
    pub path: Key<PathText>,
}
