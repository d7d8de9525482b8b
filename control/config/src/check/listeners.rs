//! Listeners and what they are bound to.

use std::collections::HashMap;

use shmesh_policy::{Bind, ClusterId, HttpSpec, Listener, Protocol};

use super::clusters::NamedClusters;
use super::lenient::Of;
use super::{Admin, Faults, Names, allow_uids};
use crate::file::ListenerEntry;
use crate::located::{At, Place};
use crate::scalar::{PathText, SocketText};

pub(super) fn read(
    entries: Vec<At<ListenerEntry>>,
    clusters: &NamedClusters,
    admin: &Admin,
    faults: &mut Faults,
) -> Vec<Listener> {
    let mut names = Names::new("listener");
    let mut addresses = Addresses::with_admin(admin);
    let mut listeners = Vec::with_capacity(entries.len());
    for At { value: mut entry, place } in entries {
        let label = match &entry.name.0 {
            Some(name) => format!("listener `{}`", name.value.0),
            None => "this listener".to_owned(),
        };
        let name = names.read(entry.name.0.take(), place, faults);
        let Some(address) = written_address(&mut entry, &label, place, faults) else {
            continue;
        };
        let spoken = match address.value {
            WrittenAddress::Shm(_) => over_shm(&entry, &label, faults),
            WrittenAddress::Unix(_) | WrittenAddress::Tcp(_) => over_socket(&entry, &label, place, clusters, faults),
        };
        let allow_uids = allow_uids(entry.allow_uids.0.take(), faults);
        let bind = faults.take(address.place, address.value.read());
        let (Some(name), Some(bind)) = (name, bind) else {
            continue;
        };
        addresses.take(&bind, &name, address.place, faults);
        let Some((protocol, cluster)) = spoken else {
            continue;
        };
        let http = http(&entry, &bind, protocol, &label, faults);
        listeners.push(Listener { name: name.into(), bind, protocol, cluster, http, allow_uids });
    }
    listeners
}

/// The one address of an entry.
enum WrittenAddress {
    Shm(PathText),
    Unix(PathText),
    Tcp(SocketText),
}

impl WrittenAddress {
    fn read(&self) -> Result<Bind, String> {
        match self {
            WrittenAddress::Shm(path) => path.read_socket().map(Bind::Shm),
            WrittenAddress::Unix(path) => path.read_socket().map(Bind::Unix),
            WrittenAddress::Tcp(address) => address.read().map(Bind::Tcp),
        }
    }
}

/// Takes the first address out of the entry; none, or a second one, is a fault.
fn written_address(
    entry: &mut ListenerEntry,
    label: &str,
    place: Place,
    faults: &mut Faults,
) -> Option<At<WrittenAddress>> {
    fn written<S>(key: Option<At<S>>, kind: fn(S) -> WrittenAddress) -> Option<At<WrittenAddress>> {
        key.map(|At { value, place }| At { value: kind(value), place })
    }
    let mut addresses: Vec<At<WrittenAddress>> = [
        written(entry.shm.0.take(), WrittenAddress::Shm),
        written(entry.unix.0.take(), WrittenAddress::Unix),
        written(entry.tcp.0.take(), WrittenAddress::Tcp),
    ]
    .into_iter()
    .flatten()
    .collect();
    addresses.sort_by_key(|address| address.place);
    let mut addresses = addresses.into_iter();
    let Some(first) = addresses.next() else {
        let message =
            format!("{label} has no address; write one of `tcp: 127.0.0.1:PORT`, `unix: /PATH` and `shm: /PATH`");
        faults.add(place, message);
        return None;
    };
    if let Some(second) = addresses.next() {
        faults.add(second.place, format!("{label} has an address already; write a listener of its own for this one"));
    }
    Some(first)
}

/// What is spoken over shared memory is said by every call, so the listener says nothing.
fn over_shm(entry: &ListenerEntry, label: &str, faults: &mut Faults) -> Option<(Protocol, Option<ClusterId>)> {
    if let Some(protocol) = &entry.protocol.0 {
        let message =
            format!("{label} takes every protocol, because it is bound to shared memory; leave `protocol` out");
        faults.add(protocol.place, message);
    }
    if let Some(cluster) = &entry.cluster.0 {
        let message = format!("calls over shared memory name their cluster themselves; leave `cluster` out of {label}");
        faults.add(cluster.place, message);
    }
    Some((Protocol::Raw, None))
}

fn over_socket(
    entry: &ListenerEntry,
    label: &str,
    place: Place,
    clusters: &NamedClusters,
    faults: &mut Faults,
) -> Option<(Protocol, Option<ClusterId>)> {
    if let Some(uids) = &entry.allow_uids.0 {
        faults.add(
            uids.place,
            format!(
                "`allow_uids` is for listeners bound to shared memory; leave it out of {label}, or write `shm: /PATH`"
            ),
        );
    }
    let protocol = match &entry.protocol.0 {
        Some(protocol) => faults.take(protocol.place, protocol.value.read()),
        None => {
            faults.add(place, format!("{label} has no protocol; write `protocol: http`, `dubbo` or `raw`"));
            None
        }
    };
    let cluster = entry.cluster.0.as_ref();
    match (protocol?, cluster) {
        (Protocol::Raw, None) => {
            faults.add(place, format!("{label} passes raw bytes to nowhere; write `cluster: …` with the name of one"));
            None
        }
        (Protocol::Raw, Some(name)) => {
            let id = clusters.find(name, faults)?;
            if clusters.is_dynamic(id) {
                faults.add(
                    name.place,
                    format!(
                        "cluster `{}` forwards to the host that a request names, and raw bytes name none; write a \
                         cluster with endpoints",
                        name.value.0
                    ),
                );
            }
            Some((Protocol::Raw, Some(id)))
        }
        (protocol, Some(name)) => {
            faults.add(
                name.place,
                format!("calls on {label} are routed; leave `cluster` out and write a route, or write `protocol: raw`"),
            );
            Some((protocol, None))
        }
        (protocol, None) => Some((protocol, None)),
    }
}

/// How HTTP is served; a fault where none is.
fn http(entry: &ListenerEntry, bind: &Bind, protocol: Protocol, label: &str, faults: &mut Faults) -> HttpSpec {
    let mut spec = HttpSpec::default();
    let settings = [
        ("request_id", &mut spec.request_id, &entry.request_id.0),
        ("use_remote_address", &mut spec.use_remote_address, &entry.use_remote_address.0),
    ];
    let lenient = &entry.lenient.0;
    let mut places = vec![("lenient", lenient.as_ref().map(|at| at.place))];
    for (key, setting, written) in settings {
        places.push((key, written.as_ref().map(|at| at.place)));
        *setting = written.as_ref().map_or(*setting, |at| at.value);
    }
    if protocol != Protocol::Http && !matches!(bind, Bind::Shm(_)) {
        for (key, place) in places.into_iter().filter_map(|(key, place)| Some((key, place?))) {
            faults.add(place, format!("`{key}` is of HTTP, and {label} speaks {protocol}; leave it out"));
        }
    }
    spec.lenient = super::lenient::lenient(lenient.clone(), Of::Requests, faults);
    spec
}

/// Addresses that are taken, and by whom.
struct Addresses {
    owners: HashMap<String, String>,
}

impl Addresses {
    fn with_admin(admin: &Admin) -> Addresses {
        let owner = if admin.written {
            "the admin interface"
        } else {
            "the admin interface (which `admin: { address: … }` can move)"
        };
        let address = Bind::Tcp(admin.spec.address);
        Addresses { owners: HashMap::from([(Addresses::key(&address), owner.to_owned())]) }
    }

    fn take(&mut self, bind: &Bind, name: &str, place: Place, faults: &mut Faults) {
        let key = Addresses::key(bind);
        match self.owners.get(&key) {
            Some(owner) => faults.add(place, format!("`{key}` is the address of {owner} already; write another")),
            None => {
                self.owners.insert(key, format!("listener `{name}` on line {}", place.line));
            }
        }
    }

    /// A path is one socket, whatever is spoken on it.
    fn key(bind: &Bind) -> String {
        match bind {
            Bind::Shm(path) | Bind::Unix(path) => path.display().to_string(),
            Bind::Tcp(address) => address.to_string(),
        }
    }
}
