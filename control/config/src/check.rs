//! The keys of a file to a snapshot; everything that is wrong with them at once.

mod clusters;
mod conditions;
pub(crate) mod lenient;
mod listeners;
mod routes;

use std::collections::HashMap;
use std::net::SocketAddr;

use shmesh_policy::{
    AccessLog, Address, AdminSpec, AllowUids, CentralProxy, Dns, Limits, SessionSpec, Snapshot, Timeouts, YieldSpec,
};

use crate::error::Fault;
use crate::file::{
    AccessLogEntry, AdminEntry, CentralProxyEntry, DnsEntry, File, LimitsEntry, SessionEntry, TimeoutsEntry, YieldEntry,
};
use crate::located::{At, Key, Place};
use crate::scalar::{Count, Interval, PathText, Size, Target};

/// Most worker threads: what a session over shared memory can have (docs/spec/shm-v1.md §8).
const WORKERS_MAX: u32 = 32;
/// Most lanes of a session (docs/spec/shm-v1.md §8).
const LANES_MAX: u32 = 200;
/// Most sessions. Each takes a dozen descriptors and more.
const SESSIONS_MAX: u32 = 4096;
/// Most calls that a quota lets be open: the slots of all lanes that there can be.
const CALLS_MAX: u32 = SESSIONS_MAX * LANES_MAX * 256;
/// Most route ids of a quota: 1,024 on each lane (docs/spec/shm-v1.md §8).
const ROUTE_IDS_MAX: u32 = SESSIONS_MAX * LANES_MAX * 1024;
/// Least bytes of a quota. Less is no lane; a mistyped unit most likely.
const BYTES_LEAST: u64 = 1 << 20;
/// Most bytes of a quota, 1 TiB.
const BYTES_MAX: u64 = 1 << 40;
/// Most name servers. resolv.conf(5) has three.
const NAME_SERVERS_MAX: usize = 8;

/// What the file says, or all its faults in the order of their places.
pub(crate) fn check(file: File) -> Result<Snapshot, Vec<Fault>> {
    let mut faults = Faults::default();
    let (timeouts, limits) = (timeouts(&file, &mut faults), limits(file.limits.0, &mut faults));
    let admin = admin(file.admin.0, &mut faults);
    let session = session(file.session.0, &mut faults);
    let dns = dns(file.dns.0, &mut faults);
    let central_proxy = central_proxy(file.central_proxy.0, &mut faults);
    let upgrade_socket = faults.read(file.upgrade_socket.0, PathText::read_socket);
    let yielding = yielding(file.r#yield.0, &mut faults);
    let access_log = access_log(file.access_log.0, &mut faults);
    let workers = faults.read(file.workers.0, |count: &Count| count.read(1, WORKERS_MAX)).map(|count| count as usize);
    let max_spin = faults.read(file.max_spin.0, Interval::read_spin);
    let named = clusters::read(entries(file.clusters), &timeouts, &mut faults);
    let routes = routes::read(entries(file.routes), &named, &mut faults);
    let listeners = listeners::read(entries(file.listeners), &named, &admin, &mut faults);
    if listeners.is_empty() && faults.list.is_empty() {
        // As a file looks that is being written at this moment.
        faults.add(
            Place::START,
            "there is no listener, so nothing would be served; write for example \
             `listeners: [ { name: http-out, tcp: 127.0.0.1:15001, protocol: http } ]`",
        );
    }
    if !faults.list.is_empty() {
        faults.list.sort_by_key(|fault| (fault.line, fault.column));
        return Err(faults.list);
    }
    Ok(Snapshot {
        version: 0,
        admin: admin.spec,
        listeners,
        routes,
        clusters: named.clusters,
        timeouts,
        limits,
        session,
        dns,
        central_proxy,
        upgrade_socket,
        yielding,
        access_log,
        workers,
        max_spin,
        stages: file.stages.0.is_some_and(|stages| stages.value),
    })
}

/// Collects what is wrong.
#[derive(Default)]
struct Faults {
    list: Vec<Fault>,
}

impl Faults {
    fn add(&mut self, place: Place, message: impl Into<String>) {
        self.list.push(Fault::new(place, message));
    }

    /// The value, if it can be used; the sentence about it otherwise.
    fn take<T>(&mut self, place: Place, value: Result<T, String>) -> Option<T> {
        value.map_err(|message| self.add(place, message)).ok()
    }

    /// Reads a key that may be absent.
    fn read<S, T>(&mut self, key: Option<At<S>>, read: impl FnOnce(&S) -> Result<T, String>) -> Option<T> {
        key.and_then(|at| self.take(at.place, read(&at.value)))
    }
}

/// Names of listeners, or of clusters, and the lines where they stand.
struct Names {
    of: &'static str,
    lines: HashMap<String, u64>,
}

impl Names {
    fn new(of: &'static str) -> Names {
        Names { of, lines: HashMap::new() }
    }

    /// The name, unless it is missing (then `entry` is to blame), malformed, or taken.
    fn read(&mut self, name: Option<At<crate::scalar::Name>>, entry: Place, faults: &mut Faults) -> Option<String> {
        let Some(name) = name else {
            faults.add(entry, format!("this {} has no name; write `name: …`", self.of));
            return None;
        };
        let text = faults.take(name.place, name.value.read())?.to_owned();
        if let Some(line) = self.lines.get(&text) {
            let message = format!("the {} on line {line} has the name `{text}` already; write another", self.of);
            faults.add(name.place, message);
            return None;
        }
        self.lines.insert(text.clone(), name.place.line);
        Some(text)
    }
}

/// The admin address, and whether the file names it.
struct Admin {
    spec: AdminSpec,
    written: bool,
}

fn admin(entry: Option<At<AdminEntry>>, faults: &mut Faults) -> Admin {
    let mut spec = AdminSpec::default();
    let Some(At { value: entry, .. }) = entry else {
        return Admin { spec, written: false };
    };
    spec.allow_remote = entry.allow_remote.0.is_some_and(|allow| allow.value);
    let Some(At { value, place }) = entry.address.0 else {
        return Admin { spec, written: false };
    };
    if let Some(address) = faults.take(place, value.read()) {
        if !address.ip().is_loopback() && !spec.allow_remote {
            let loopback = SocketAddr::new(AdminSpec::default().address.ip(), address.port());
            faults.add(
                place,
                format!(
                    "other machines could reach the admin interface on `{address}`, and it has no authentication; \
                     write `{loopback}`, or add `allow_remote: true`"
                ),
            );
        }
        spec.address = address;
    }
    Admin { spec, written: true }
}

fn timeouts(file: &File, faults: &mut Faults) -> Timeouts {
    let mut timeouts = Timeouts::default();
    if let Some(At { value: TimeoutsEntry { connect, first_byte, request, idle, unacknowledged, head_read }, .. }) =
        &file.timeouts.0
    {
        let settings = [
            (&mut timeouts.connect, connect),
            (&mut timeouts.first_byte, first_byte),
            (&mut timeouts.idle, idle),
            (&mut timeouts.head_read, head_read),
        ];
        for (setting, key) in settings {
            *setting = faults.read(key.0.clone(), Interval::read).unwrap_or(*setting);
        }
        timeouts.request = faults.read(request.0.clone(), Interval::read_optional).unwrap_or(timeouts.request);
        timeouts.unacknowledged =
            faults.read(unacknowledged.0.clone(), Interval::read_optional).unwrap_or(timeouts.unacknowledged);
    }
    // Zero is a wish here: stop without waiting.
    let drain = faults.read(file.drain_timeout.0.clone(), Interval::read_with_zero);
    timeouts.drain = drain.unwrap_or(timeouts.drain);
    timeouts
}

fn limits(entry: Option<At<LimitsEntry>>, faults: &mut Faults) -> Limits {
    const KIB: u32 = 1024;
    const MIB: u32 = 1024 * KIB;
    let mut limits = Limits::default();
    let Some(At { value: entry, .. }) = entry else {
        return limits;
    };
    let start_line_place = entry.start_line_bytes.0.as_ref().map(|at| at.place);

    let sizes = [
        (&mut limits.head_bytes, entry.head_bytes, KIB, MIB),
        (&mut limits.start_line_bytes, entry.start_line_bytes, 256, MIB),
        (&mut limits.dubbo_body_bytes, entry.dubbo_body_bytes, KIB, 1024 * MIB),
        (&mut limits.buffered_bytes_per_connection, entry.buffered_bytes_per_connection, 16 * KIB, 64 * MIB),
    ];
    for (setting, key, least, most) in sizes {
        *setting = faults.read(key.0, |size: &Size| size.read(least, most)).unwrap_or(*setting);
    }
    let counts = [
        (&mut limits.connections_per_worker, entry.connections_per_worker, 1, 1_000_000),
        (&mut limits.pool_idle_per_cluster, entry.pool_idle_per_cluster, 0, 65_536),
        (&mut limits.calls_per_connection, entry.calls_per_connection, 1, 65_536),
        (&mut limits.streams_per_lane, entry.streams_per_lane, 1, 65_536),
        (&mut limits.memory_percent, entry.memory_percent, 0, 100),
    ];
    for (setting, key, least, most) in counts {
        *setting = faults.read(key.0, |count: &Count| count.read(least, most)).unwrap_or(*setting);
    }
    let headers = faults.read(entry.headers.0, |count: &Count| count.read(1, 1024));
    limits.headers = headers.map_or(limits.headers, |count| count as u16);

    if limits.start_line_bytes > limits.head_bytes {
        match start_line_place {
            Some(place) => faults.add(
                place,
                format!(
                    "a request line of {} does not fit in a head of {}; write less here, or more at `head_bytes`",
                    crate::scalar::bytes(limits.start_line_bytes),
                    crate::scalar::bytes(limits.head_bytes)
                ),
            ),
            // Only the head was made smaller: the line follows.
            None => limits.start_line_bytes = limits.head_bytes,
        }
    }
    limits
}

fn session(entry: Option<At<SessionEntry>>, faults: &mut Faults) -> SessionSpec {
    let mut session = SessionSpec::default();
    let Some(At { value: entry, .. }) = entry else {
        return session;
    };
    if let Some(uids) = allow_uids(entry.allow_uids.0, faults) {
        session.allow_uids = uids;
    }
    let sessions = faults.read(entry.sessions_max.0, |count: &Count| count.read(1, SESSIONS_MAX));
    session.sessions_max = sessions.unwrap_or(session.sessions_max);
    let lanes = faults.read(entry.lanes_max.0, |count: &Count| count.read(1, LANES_MAX));
    session.lanes_max = lanes.unwrap_or(session.lanes_max);

    let quotas = &mut session.quotas;
    let counts = [
        (&mut quotas.lanes_per_uid, entry.lanes_per_uid, SESSIONS_MAX * LANES_MAX),
        (&mut quotas.calls_per_session, entry.calls_per_session, CALLS_MAX),
        (&mut quotas.calls_per_uid, entry.calls_per_uid, CALLS_MAX),
        (&mut quotas.route_ids_per_session, entry.route_ids_per_session, ROUTE_IDS_MAX),
        (&mut quotas.route_ids_per_uid, entry.route_ids_per_uid, ROUTE_IDS_MAX),
    ];
    for (setting, key, most) in counts {
        *setting = faults.read(key.0, |count: &Count| count.read(1, most)).unwrap_or(*setting);
    }
    let mut bytes = |key: Key<Size>| faults.read(key.0, |size: &Size| size.read_long(BYTES_LEAST, BYTES_MAX));
    quotas.bytes_per_session = bytes(entry.bytes_per_session).unwrap_or(quotas.bytes_per_session);
    quotas.bytes_per_uid = bytes(entry.bytes_per_uid);
    quotas.bytes_max = bytes(entry.bytes_max);
    session
}

/// `None` when the key is absent.
fn allow_uids(key: Option<At<Vec<At<Count>>>>, faults: &mut Faults) -> Option<AllowUids> {
    let At { value: entries, place } = key?;
    if entries.is_empty() {
        faults
            .add(place, "nobody could attach; write at least one uid, or leave the key out to allow your own and root");
    }
    // The last uid stands for "no change" (chown(2)), so no process has it.
    let uids = entries.into_iter().filter_map(|uid| faults.take(uid.place, uid.value.read(0, u32::MAX - 1)));
    Some(AllowUids::Listed(uids.collect()))
}

fn dns(entry: Option<At<DnsEntry>>, faults: &mut Faults) -> Dns {
    let Some(At { value: servers, place }) = entry.and_then(|at| at.value.servers.0) else {
        return Dns::default();
    };
    if servers.is_empty() || servers.len() > NAME_SERVERS_MAX {
        let message =
            format!("write 1 to {NAME_SERVERS_MAX} name servers, or leave the key out for those of /etc/resolv.conf");
        faults.add(place, message);
    }
    Dns { servers: servers.into_iter().filter_map(|at| faults.take(at.place, at.value.read())).collect() }
}

fn central_proxy(entry: Option<At<CentralProxyEntry>>, faults: &mut Faults) -> CentralProxy {
    let Some(At { value: entry, place }) = entry else { return CentralProxy::default() };
    if entry.http.0.is_none() && entry.dubbo.0.is_none() {
        faults.add(place, "this central proxy takes nothing; write `http: \"tcp:HOST:PORT\"`, `dubbo: …`, or both");
    }
    let mut address = |key: Key<Target>| {
        let At { value, place } = key.0?;
        let address = faults.take(place, value.read())?;
        if let Address::Shm(name) = &address {
            let message = format!(
                "`shm:{name}` is reached through the sidecar, and this is for when that is gone; write `tcp:HOST:PORT`"
            );
            faults.add(place, message);
        }
        Some(address)
    };
    CentralProxy { http: address(entry.http), dubbo: address(entry.dubbo) }
}

fn yielding(entry: Option<At<YieldEntry>>, faults: &mut Faults) -> YieldSpec {
    let mut spec = YieldSpec::default();
    let Some(At { value: YieldEntry { enabled, cpu_percent, lag, max_percent }, .. }) = entry else { return spec };
    spec.enabled = enabled.0.is_none_or(|enabled| enabled.value);
    for (setting, key) in [(&mut spec.cpu_percent, cpu_percent), (&mut spec.max_percent, max_percent)] {
        *setting = faults.read(key.0, |count: &Count| count.read(1, 100)).unwrap_or(*setting);
    }
    spec.lag = faults.read(lag.0, Interval::read_optional).unwrap_or(spec.lag);
    spec
}

fn access_log(entry: Option<At<AccessLogEntry>>, faults: &mut Faults) -> Option<AccessLog> {
    let At { value: entry, place } = entry?;
    let Some(At { value: path, place }) = entry.path.0 else {
        faults.add(place, "this access log has no file; write `path: /var/log/shmesh/access.log`");
        return None;
    };
    faults.take(place, path.read_file()).map(|path| AccessLog { path })
}

/// The entries of a list that may be absent.
fn entries<T>(key: Key<Vec<At<T>>>) -> Vec<At<T>> {
    key.0.map(|at| at.value).unwrap_or_default()
}
