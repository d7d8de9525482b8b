//! One immutable, versioned set of listeners, routes, clusters, endpoints and settings.

use std::ffi::OsStr;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shmesh_proto::http1::Lenient;

use crate::address::{Address, check_unix_path};
use crate::limit::{Limits, Quotas, Timeouts};
use crate::outlier::OutlierDetection;
use crate::route::{DubboKey, DubboRoute, HttpKey, Routes, Way};
use crate::yielding::YieldSpec;

/// Everything that a worker needs to know to serve; published whole, never changed afterwards.
///
/// [`Snapshot::default`] has no listener, no route and no cluster, and every setting at its default.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts published snapshots of one process, from 1; 0 is a snapshot that nobody published yet.
    pub version: u64,
    /// Where the admin interface listens.
    pub admin: AdminSpec,
    /// What the sidecar listens on.
    pub listeners: Vec<Listener>,
    /// Which cluster takes a call.
    pub routes: Routes,
    /// The clusters; a [`ClusterId`] is an index in this list.
    pub clusters: Vec<Cluster>,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How much of everything there may be.
    pub limits: Limits,
    /// Settings of sessions over shared memory.
    pub session: SessionSpec,
    /// How host names are looked up.
    pub dns: Dns,
    /// Where apps go when this sidecar is gone, before they go directly.
    pub central_proxy: CentralProxy,
    /// Where the next process asks to take over; see [`Snapshot::upgrade_socket`].
    pub upgrade_socket: Option<PathBuf>,
    /// When calls go round this sidecar because it has too little CPU.
    pub yielding: YieldSpec,
    /// The access log; off when `None`.
    pub access_log: Option<AccessLog>,
    /// The longest that a worker spins for records before it sleeps; it spins less where that catches nothing. 0: never;
    /// `None`: 100 µs.
    pub max_spin: Option<Duration>,
    /// Workers measure where their time goes.
    pub stages: bool,
    /// Number of workers; `None` lets the process choose by its CPU quota.
    pub workers: Option<usize>,
}

impl Snapshot {
    /// Where the next process asks to take over: as configured, or beside the first session socket. `None`: nowhere.
    pub fn upgrade_socket(&self) -> Option<PathBuf> {
        let beside = || {
            let socket = self.listeners.iter().find_map(|listener| match &listener.bind {
                Bind::Shm(path) => Some(path),
                Bind::Tcp(_) | Bind::Unix(_) => None,
            })?;
            let mut path = socket.as_os_str().to_owned();
            path.push(".upgrade");
            Some(path.into())
        };
        self.upgrade_socket.clone().or_else(beside)
    }

    /// Where an HTTP call goes, if any route takes it.
    pub fn route_http(&self, key: &HttpKey<'_>) -> Option<Way> {
        self.routes.http(key)
    }

    /// Where all HTTP calls with this authority, path and method go. `None` also when it is not one cluster for all
    /// of them, because routes look at their headers or queries.
    pub fn route_all_http(&self, key: &HttpKey<'_>) -> Option<Way> {
        self.routes.all_http(key)
    }

    /// Where a Dubbo call goes; see [`DubboRoute`].
    pub fn route_dubbo(&self, key: &DubboKey<'_>) -> DubboRoute {
        self.routes.dubbo(key)
    }

    /// Where a Dubbo call goes of which nothing is known: the way of a route which asks for nothing, as any other may
    /// be meant for other calls.
    pub fn route_unread_dubbo(&self) -> Option<Way> {
        self.routes.unread_dubbo()
    }

    /// The cluster of that name. Looks through the list: for raw calls, whose answer is kept per lane or connection.
    pub fn cluster_named(&self, name: &str) -> Option<ClusterId> {
        self.clusters.iter().position(|cluster| &*cluster.name == name).map(|index| ClusterId(index as u32))
    }

    /// The cluster behind an id of this snapshot; `None` for an id of a snapshot that had more clusters.
    pub fn cluster(&self, id: ClusterId) -> Option<&Cluster> {
        self.clusters.get(id.0 as usize)
    }

    /// Who may attach through this listener: its own list, or else the one of all sessions.
    pub fn allow_uids<'a>(&'a self, listener: &'a Listener) -> &'a AllowUids {
        listener.allow_uids.as_ref().unwrap_or(&self.session.allow_uids)
    }
}

/// Something that the sidecar listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Unique name, used in metrics and messages.
    pub name: Arc<str>,
    /// What it is bound to.
    pub bind: Bind,
    /// What is spoken on it. Means nothing for [`Bind::Shm`]: there every call names its own protocol.
    pub protocol: Protocol,
    /// Where raw connections go; `None` for every other protocol.
    pub cluster: Option<ClusterId>,
    /// How HTTP is served on it; for [`Bind::Shm`], on streams.
    pub http: HttpSpec,
    /// Who may attach ([`Bind::Shm`] only); `None` takes [`SessionSpec::allow_uids`].
    pub allow_uids: Option<AllowUids>,
}

/// How a listener serves HTTP.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct HttpSpec {
    /// A request without `x-request-id` gets one.
    pub request_id: bool,
    /// The peer's address is appended to `x-forwarded-for`, and `x-forwarded-proto` is ours.
    pub use_remote_address: bool,
    /// Which flaws of requests are mended.
    pub lenient: Lenient,
}

impl Default for HttpSpec {
    fn default() -> Self {
        HttpSpec { request_id: true, use_remote_address: false, lenient: Lenient::default() }
    }
}

/// What a listener is bound to. Displays as `shm:PATH`, `unix:PATH` or `tcp:HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Bind {
    /// The session socket through which apps attach shared memory.
    Shm(PathBuf),
    /// A Unix stream socket.
    Unix(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Shm(path) => write!(f, "shm:{}", path.display()),
            Bind::Unix(path) => write!(f, "unix:{}", path.display()),
            Bind::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// What is spoken on a listener.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1, routed by its heads.
    Http,
    /// Dubbo2, routed by its heads and, where a route asks for it, by its group.
    Dubbo,
    /// Any bytes, passed through to the listener's cluster.
    Raw,
}

impl Protocol {
    /// The word for it in configuration, metrics and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::Dubbo => "dubbo",
            Protocol::Raw => "raw",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Index of a cluster in [`Snapshot::clusters`]; valid for that snapshot only.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u32);

/// A set of endpoints that serve the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Unique name, used in routes, metrics and messages.
    pub name: Arc<str>,
    /// Where it is served; never empty unless `dynamic_forward_proxy` or `original_dst`.
    pub endpoints: Vec<Endpoint>,
    /// A request in absolute form goes to the host that it names; there are no endpoints then.
    pub dynamic_forward_proxy: bool,
    /// Ports to which CONNECT makes a tunnel, of any host; only with `dynamic_forward_proxy`.
    pub connect_ports: Vec<u16>,
    /// Which flaws of HTTP answers are mended.
    pub lenient: Lenient,
    /// Each Dubbo consumer's connection has connections to providers of its own, which carry callbacks.
    pub connection_pool_per_downstream_connection: bool,
    /// Dubbo: endpoints are offered the routing key in front of the body (docs/spec/dubbo-ext-v1.md).
    pub dubbo_extension: bool,
    /// A connection that the packet filter redirected here goes on to where it was going; there are no endpoints then.
    pub original_dst: bool,
    /// How long a connection may take to be made; the effective value (own setting, or else [`Timeouts::connect`]).
    pub connect_timeout: Duration,
    /// How long the first byte of an answer may take, from the end of the request's head; the effective value
    /// (own setting, or else [`Timeouts::first_byte`]).
    pub first_byte_timeout: Duration,
    /// How long a call may take altogether; the effective value (own setting, or else [`Timeouts::request`]).
    pub request_timeout: Option<Duration>,
    /// How long what was sent may stay unacknowledged; the effective value (own setting, or else [`Timeouts::unacknowledged`]).
    pub unacknowledged_timeout: Option<Duration>,
    /// When an endpoint is left out for a while.
    pub outlier_detection: OutlierDetection,
}

impl Cluster {
    /// A cluster with these endpoints and the default timeouts.
    pub fn new(name: &str, endpoints: impl IntoIterator<Item = Address>) -> Cluster {
        let timeouts = Timeouts::default();
        Cluster {
            name: name.into(),
            endpoints: endpoints.into_iter().map(|address| Endpoint { address }).collect(),
            dynamic_forward_proxy: false,
            connect_ports: Vec::new(),
            lenient: Lenient::default(),
            connection_pool_per_downstream_connection: false,
            dubbo_extension: false,
            original_dst: false,
            connect_timeout: timeouts.connect,
            first_byte_timeout: timeouts.first_byte,
            request_timeout: timeouts.request,
            unacknowledged_timeout: timeouts.unacknowledged,
            outlier_detection: OutlierDetection::default(),
        }
    }
}

/// One place that serves a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// As configured; whoever connects resolves host names.
    pub address: Address,
}

/// Where the admin interface listens.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct AdminSpec {
    /// TCP address; loopback unless `allow_remote`.
    pub address: SocketAddr,
    /// The operator wants it reachable from other machines.
    pub allow_remote: bool,
}

impl AdminSpec {
    /// Port of the admin interface unless configured.
    pub const DEFAULT_PORT: u16 = 15000;
}

impl Default for AdminSpec {
    fn default() -> Self {
        AdminSpec { address: SocketAddr::from((Ipv4Addr::LOCALHOST, Self::DEFAULT_PORT)), allow_remote: false }
    }
}

/// Settings of sessions over shared memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSpec {
    /// Who may attach, by the uid that SO_PEERCRED tells.
    pub allow_uids: AllowUids,
    /// Most sessions that are attached at once. Each costs two memfds, counted in full against the sidecar's memory.
    pub sessions_max: u32,
    /// Most lanes of one session, calling and serving together. Each has rings and arenas of its own.
    pub lanes_max: u32,
    /// What the sessions may take.
    pub quotas: Quotas,
}

impl Default for SessionSpec {
    fn default() -> Self {
        // 64 processes of one pod, and a lane for each thread of a usual thread pool.
        SessionSpec { allow_uids: AllowUids::default(), sessions_max: 64, lanes_max: 64, quotas: Quotas::default() }
    }
}

impl SessionSpec {
    /// Where the session socket is unless configured: the same answer for a sidecar and for the apps beside it.
    ///
    /// `runtime_dir` is the value of `XDG_RUNTIME_DIR`, which only this user can enter; what is not an absolute path
    /// is ignored (XDG Base Directory Specification). `uid` keeps the users of /tmp apart.
    pub fn default_socket(runtime_dir: Option<&OsStr>, uid: u32) -> PathBuf {
        let in_runtime_dir =
            runtime_dir.map(Path::new).filter(|dir| dir.is_absolute()).map(|dir| dir.join("shmesh.sock"));
        match in_runtime_dir {
            Some(path) if check_unix_path(&path).is_ok() => path,
            _ => PathBuf::from(format!("/tmp/shmesh-{uid}.sock")),
        }
    }
}

/// Which users' processes may attach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AllowUids {
    /// The sidecar's own uid, and root.
    #[default]
    OwnAndRoot,
    /// These and nobody else.
    Listed(Vec<u32>),
}

impl AllowUids {
    /// Whether `peer` may attach to a sidecar that runs as `own`.
    pub fn allows(&self, own: u32, peer: u32) -> bool {
        match self {
            AllowUids::OwnAndRoot => peer == own || peer == 0,
            AllowUids::Listed(uids) => uids.contains(&peer),
        }
    }
}

/// How host names are looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Name servers; none: those of resolv.conf.
    pub servers: Vec<SocketAddr>,
}

/// The proxy of the whole mesh, by what is spoken to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CentralProxy {
    /// HTTP/1.1 requests, in origin form.
    pub http: Option<Address>,
    /// Dubbo2 frames.
    pub dubbo: Option<Address>,
}

/// The access log: JSON lines, appended to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// The file.
    pub path: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_found_by_name() {
        let snapshot = Snapshot { clusters: vec![Cluster::new("a", []), Cluster::new("b", [])], ..Snapshot::default() };
        assert_eq!(snapshot.cluster_named("b"), Some(ClusterId(1)));
        assert_eq!(snapshot.cluster_named("B"), None);
        assert_eq!(&*snapshot.cluster(ClusterId(1)).unwrap().name, "b");
        assert_eq!(snapshot.cluster(ClusterId(2)), None);
    }

    #[test]
    fn uids_are_allowed_by_the_listener_first() {
        let snapshot = Snapshot::default();
        let mut listener = Listener {
            name: "apps".into(),
            bind: Bind::Shm("/run/shmesh.sock".into()),
            protocol: Protocol::Raw,
            cluster: None,
            http: HttpSpec::default(),
            allow_uids: None,
        };
        assert!(snapshot.allow_uids(&listener).allows(1000, 1000));
        assert!(snapshot.allow_uids(&listener).allows(1000, 0));
        assert!(!snapshot.allow_uids(&listener).allows(1000, 1001));
        listener.allow_uids = Some(AllowUids::Listed(vec![1001]));
        assert!(snapshot.allow_uids(&listener).allows(1000, 1001));
        assert!(!snapshot.allow_uids(&listener).allows(1000, 1000), "a list replaces the default");
        assert!(!snapshot.allow_uids(&listener).allows(1000, 0), "a list replaces the default");
    }

    #[test]
    fn the_default_socket_is_in_a_directory_of_the_user() {
        let socket = |dir: Option<&str>| SessionSpec::default_socket(dir.map(OsStr::new), 1000);
        assert_eq!(socket(Some("/run/user/1000")), Path::new("/run/user/1000/shmesh.sock"));
        let too_long = format!("/{}", "d".repeat(107));
        for dir in [None, Some(""), Some("run"), Some(too_long.as_str())] {
            assert_eq!(socket(dir), Path::new("/tmp/shmesh-1000.sock"), "{dir:?}");
        }
    }
}
