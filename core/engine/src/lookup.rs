//! What apps are told about where their calls go and by which rules, for the time when this sidecar is gone: the answers to
//! LOOKUP (docs/spec/shm-v1.md §6).

use std::collections::{BTreeMap, HashMap};

use shmesh_policy::{Address, Bind, Cluster, ClusterId, Listener, Priority, Protocol as Spoken, Snapshot, retry};
use shmesh_proto::http1::RequestHead;
use shmesh_shm::handshake::{Endpoints, FEATURE_POLICY, FEATURE_PRIORITY, Lookup, MAX_MESSAGE_BYTES, Message, Policy};
use shmesh_shm::{Priority as Told, Protocol};

use crate::route_key::RouteKey;

/// Look-ups of one session; more are not answered.
pub const LOOKUPS_MAX: usize = 1024;

/// Bytes of the keys in these; more are not answered.
pub const LOOKUP_BYTES_MAX: usize = 512 * 1024;

/// Bytes of one list of addresses that an app is told, so that they fit a message with everything else: more than a thousand
/// endpoints, of which it will not need the others.
const LIST_BYTES_MAX: usize = MAX_MESSAGE_BYTES / 4;

/// Where the answers come from.
pub(crate) struct Known<'a> {
    pub snapshot: &'a Snapshot,
    /// The sockets of their own on which serving apps listen, by name.
    pub served_at: &'a HashMap<String, String>,
}

/// What one session has asked, and what it was told.
#[derive(Debug)]
pub(crate) struct Lookups {
    answers: BTreeMap<u32, (Lookup, Policy)>,
    /// Bytes of their keys.
    bytes: usize,
    /// The app understands POLICY.
    policies: bool,
    /// And priorities in it.
    priorities: bool,
}

impl Lookups {
    pub fn new(features: u64) -> Lookups {
        Lookups {
            answers: BTreeMap::new(),
            bytes: 0,
            policies: features & FEATURE_POLICY != 0,
            priorities: features & FEATURE_PRIORITY != 0,
        }
    }

    /// The answer. None: the session asks too much.
    pub fn ask(&mut self, lookup: Lookup, known: &Known<'_>) -> Option<Message> {
        let before = self.answers.get(&lookup.id).map(|(before, _)| before.key.len());
        let bytes = self.bytes - before.unwrap_or(0) + lookup.key.len();
        if before.is_none() && self.answers.len() >= LOOKUPS_MAX || bytes > LOOKUP_BYTES_MAX {
            return None;
        }
        self.bytes = bytes;
        let policy = self.policy(&lookup, known);
        let message = self.message(lookup.id, &policy);
        self.answers.insert(lookup.id, (lookup, policy));
        Some(message)
    }

    /// Says every answer that is another one now, until `say` is false: the app is behind. What was not said is found again.
    pub fn tell_changed(&mut self, known: &Known<'_>, mut say: impl FnMut(&Message) -> bool) -> bool {
        let mut answers = std::mem::take(&mut self.answers);
        let goes_on = answers.iter_mut().all(|(id, (lookup, told))| {
            let now = self.policy(lookup, known);
            if now == *told {
                return true;
            }
            *told = now;
            say(&self.message(*id, told))
        });
        self.answers = answers;
        goes_on
    }

    /// What was asked, and what was told: the messages.
    pub fn rest(&self) -> impl Iterator<Item = (Message, Message)> {
        self.answers.iter().map(|(id, (lookup, told))| (Message::Lookup(lookup.clone()), self.message(*id, told)))
    }

    /// Goes on with a look-up that another process answered so.
    pub fn go_on(&mut self, lookup: Lookup, told: Message) {
        let told = match told {
            Message::Policy(_, policy) => policy,
            Message::Endpoints(told) => Policy { endpoints: told.endpoints, ..Policy::default() },
            _ => Policy::default(),
        };
        self.bytes += lookup.key.len();
        self.answers.insert(lookup.id, (lookup, told));
    }

    /// What this app is told of a look-up.
    fn policy(&self, lookup: &Lookup, known: &Known<'_>) -> Policy {
        let mut policy = policy(lookup, known);
        policy.priority = policy.priority.filter(|_| self.priorities);
        if self.policies { policy } else { Policy { endpoints: policy.endpoints, ..Policy::default() } }
    }

    fn message(&self, id: u32, policy: &Policy) -> Message {
        if self.policies {
            Message::Policy(id, policy.clone())
        } else {
            Message::Endpoints(Endpoints { id, endpoints: policy.endpoints.clone() })
        }
    }
}

fn policy(lookup: &Lookup, known: &Known<'_>) -> Policy {
    let snapshot = known.snapshot;
    let mut policy = Policy::default();
    let mut head = RequestHead::default();
    let read = RouteKey::read(lookup.protocol, &lookup.key, snapshot, &mut head, &mut Vec::new());
    let Ok(key) = read else { return policy };
    let way = key.way_of_alike(snapshot);
    let to = way.map(|way| way.cluster);
    let listeners = snapshot.listeners.iter().filter(|listener| takes(listener, lookup.protocol, to));
    policy.listeners = list(listeners.filter_map(|listener| match &listener.bind {
        Bind::Unix(path) => Some(format!("unix:{}", path.display())),
        Bind::Shm(_) | Bind::Tcp(_) => None,
    }));
    let central = match lookup.protocol {
        Protocol::Http => &snapshot.central_proxy.http,
        Protocol::Dubbo2 => &snapshot.central_proxy.dubbo,
        Protocol::Raw => &None,
    };
    policy.central_proxy = central.as_ref().map(Address::to_string);
    if let Some(cluster) = to.and_then(|to| snapshot.cluster(to)) {
        govern(&mut policy, cluster, known);
    }
    // Where the shim cannot know which route takes a call, that one may say that it must not run twice.
    policy.idempotent = way.map_or(Some(false), |way| way.idempotent);
    policy.priority = match way.map_or(Priority::Default, |way| way.priority) {
        Priority::Low => Some(Told::Low),
        Priority::Default => None,
        Priority::High => Some(Told::High),
    };
    policy
}

/// The endpoints of the cluster and its rules.
fn govern(policy: &mut Policy, cluster: &Cluster, known: &Known<'_>) {
    let addresses = || cluster.endpoints.iter().map(|endpoint| &endpoint.address);
    policy.endpoints = list(addresses().filter(|address| !matches!(address, Address::Shm(_))).map(Address::to_string));
    policy.app_sockets = list(addresses().filter_map(|address| match address {
        Address::Shm(name) => known.served_at.get(&**name).map(|path| format!("unix:{path}")),
        Address::Tcp(_) | Address::Host { .. } | Address::Unix(_) => None,
    }));
    policy.connect_timeout = Some(cluster.connect_timeout);
    policy.first_byte_timeout = Some(cluster.first_byte_timeout);
    policy.request_timeout = cluster.request_timeout;
    policy.attempts = Some(retry::ATTEMPTS_MAX);
}

/// Whether calls that an app makes with this protocol can be made to that listener just as well.
fn takes(listener: &Listener, protocol: Protocol, cluster: Option<ClusterId>) -> bool {
    match (protocol, listener.protocol) {
        (Protocol::Http, Spoken::Http) | (Protocol::Dubbo2, Spoken::Dubbo) => true,
        (Protocol::Raw, Spoken::Raw) => cluster.is_some() && listener.cluster == cluster,
        _ => false,
    }
}

/// As many as fit.
fn list(addresses: impl Iterator<Item = String>) -> Vec<String> {
    let mut bytes = 0;
    let fits = |address: &String| {
        bytes += 4 + address.len();
        bytes <= LIST_BYTES_MAX
    };
    addresses.take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(id: u32) -> Lookup {
        Lookup { id, protocol: Protocol::Raw, key: b"c".to_vec() }
    }

    fn told(snapshot: &Snapshot, features: u64) -> Message {
        let known = Known { snapshot, served_at: &HashMap::new() };
        Lookups::new(features).ask(raw(1), &known).expect("one look-up is allowed")
    }

    #[test]
    fn a_cluster_of_any_size_fits_a_message() {
        let endpoints =
            (0..u16::MAX).map(|port| format!("tcp:198.51.100.200:{}", port.max(1)).parse().expect("an address"));
        let snapshot = Snapshot { clusters: vec![Cluster::new("c", endpoints)], ..Snapshot::default() };
        for features in [0, FEATURE_POLICY] {
            let mut bytes = Vec::new();
            told(&snapshot, features).encode(&mut bytes).expect("it fits");
            assert!(bytes.len() > LIST_BYTES_MAX / 2);
        }
    }

    fn changed(lookups: &mut Lookups, known: &Known<'_>) -> Vec<Message> {
        let mut said = Vec::new();
        assert!(lookups.tell_changed(known, |message| {
            said.push(message.clone());
            true
        }));
        said
    }

    #[test]
    fn what_an_app_has_no_room_for_is_said_later_and_only_once_if_it_changes_again() {
        let none = HashMap::new();
        let mut snapshot = Snapshot { clusters: vec![Cluster::new("c", [])], ..Snapshot::default() };
        let mut lookups = Lookups::new(0);
        for id in 0..5 {
            lookups.ask(raw(id), &Known { snapshot: &snapshot, served_at: &none }).expect("it is allowed");
        }
        let mut change = |address: &str| {
            snapshot.clusters = vec![Cluster::new("c", [address.parse().expect("an address")])];
            snapshot.clone()
        };
        let (first, second) = (change("tcp:10.0.0.1:1"), change("tcp:10.0.0.1:2"));
        let mut said = Vec::new();
        let goes_on = lookups.tell_changed(&Known { snapshot: &first, served_at: &none }, |message| {
            said.push(message.clone());
            said.len() < 2
        });
        assert_eq!((goes_on, said.len()), (false, 2));
        let rest = changed(&mut lookups, &Known { snapshot: &second, served_at: &none });
        let newest = |id| Message::Endpoints(Endpoints { id, endpoints: vec!["tcp:10.0.0.1:2".into()] });
        assert_eq!(rest, [0, 1, 2, 3, 4].map(newest));
    }

    #[test]
    fn apps_of_either_kind_hear_of_what_they_understand_when_it_changes() {
        let none = HashMap::new();
        let mut cluster = Cluster::new("c", ["shm:app".parse().expect("an address")]);
        let snapshot = Snapshot { clusters: vec![cluster.clone()], ..Snapshot::default() };
        let known = Known { snapshot: &snapshot, served_at: &none };
        let (mut old, mut new) = (Lookups::new(0), Lookups::new(FEATURE_POLICY));
        assert_eq!(old.ask(raw(7), &known), Some(Message::Endpoints(Endpoints { id: 7, endpoints: vec![] })));
        let Some(Message::Policy(7, policy)) = new.ask(raw(7), &known) else { panic!("no policy") };
        assert_eq!((policy.app_sockets.len(), policy.attempts), (0, Some(retry::ATTEMPTS_MAX)));

        let served_at = HashMap::from([("app".to_owned(), "/run/app".to_owned())]);
        let known = Known { snapshot: &snapshot, served_at: &served_at };
        assert_eq!(changed(&mut old, &known), []);
        let expected = Policy { app_sockets: vec!["unix:/run/app".into()], ..policy };
        assert_eq!(changed(&mut new, &known), [Message::Policy(7, expected.clone())]);
        assert_eq!(changed(&mut new, &known), [], "once");

        cluster.request_timeout = Some(std::time::Duration::from_secs(3));
        let snapshot = Snapshot { clusters: vec![cluster], ..Snapshot::default() };
        let known = Known { snapshot: &snapshot, served_at: &served_at };
        assert_eq!(changed(&mut old, &known), []);
        let expected = Policy { request_timeout: Some(std::time::Duration::from_secs(3)), ..expected };
        assert_eq!(changed(&mut new, &known), [Message::Policy(7, expected)]);
    }
}
