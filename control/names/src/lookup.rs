//! One look-up: what the machine's files say first, then its name servers, as resolv.conf(5) and hosts(5) have it.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};

use shmesh_engine::Outcome;

use super::{TTL_MAX, TTL_MIN, TTL_NEGATIVE_MAX};

/// Where the machine says how names are looked up.
const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";

/// How long an answer out of the hosts file is used: the file is looked at again then.
const HOSTS_TTL: Duration = Duration::from_secs(5);

/// The longest that one attempt waits for a server before the next one begins; `options timeout` can make it less.
const TRY_TIME_MAX: Duration = Duration::from_secs(1);

/// How long the addresses of one family wait for those of the other (RFC 8305 §3 has 50 ms for a person who waits).
const OTHER_FAMILY_WAIT: Duration = Duration::from_millis(200);

/// Largest hosts file, or resolv.conf, that is read.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What asks the name servers, as the machine's files and our configuration say.
pub(super) struct Client {
    resolv_conf: PathBuf,
    hosts_file: PathBuf,
    /// `None`: not looked yet.
    seen: Option<Seen>,
    hosts: Hosts,
    /// `None`: it cannot be made, which the log says.
    resolver: Option<TokioResolver>,
    search: Vec<Name>,
    ndots: usize,
    generation: u64,
}

/// What the client was made from.
#[derive(PartialEq, Eq)]
struct Seen {
    resolv_conf: Option<FileState>,
    hosts: Option<FileState>,
    servers: Vec<SocketAddr>,
}

/// What changes with a file's content: device, inode, size, time in nanoseconds.
type FileState = (u64, u64, u64, i128);

/// A look-up that is about to begin.
pub(super) enum Plan {
    /// The hosts file has it.
    Known(Outcome),
    /// These names are asked for until one has addresses.
    Ask(TokioResolver, Vec<Name>),
}

impl Default for Client {
    fn default() -> Client {
        Client::of(RESOLV_CONF.into(), HOSTS.into())
    }
}

impl Client {
    fn of(resolv_conf: PathBuf, hosts_file: PathBuf) -> Client {
        Client {
            resolv_conf,
            hosts_file,
            seen: None,
            hosts: Hosts::default(),
            resolver: None,
            search: Vec::new(),
            ndots: 1,
            generation: 0,
        }
    }

    /// Looks at the files again, and at the configured servers; true if anything is different from before.
    pub fn refresh(&mut self, servers: &[SocketAddr]) -> bool {
        let (resolv_conf, hosts) = (state_of(&self.resolv_conf), state_of(&self.hosts_file));
        let seen = Seen { resolv_conf, hosts, servers: servers.to_vec() };
        if self.seen.as_ref() == Some(&seen) {
            return false;
        }
        self.seen = Some(seen);
        self.generation += 1;
        self.hosts = read_hosts(&self.hosts_file);
        let (config, options) = read_config(&self.resolv_conf, servers);
        self.search = search_list(&config);
        self.ndots = options.ndots;
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        self.resolver = builder.build().inspect_err(|error| tracing::error!(%error, "host names cannot resolve")).ok();
        true
    }

    /// Counts what [`refresh`](Self::refresh) found different.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How to look up a name.
    pub fn plan(&self, host: &str) -> Plan {
        let name = Name::from_ascii(host).or_else(|_| Name::from_utf8(host));
        let (Ok(mut name), Some(resolver)) = (name, &self.resolver) else {
            return Plan::Known(Outcome::Absent { ttl: TTL_NEGATIVE_MAX });
        };
        let in_file: Vec<IpAddr> = [RecordType::A, RecordType::AAAA]
            .into_iter()
            .filter_map(|family| self.hosts.lookup_static_host(&Query::query(name.clone(), family)))
            .flat_map(|found| addresses_of(&found))
            .collect();
        if !in_file.is_empty() {
            return Plan::Known(Outcome::Found { addresses: in_file.into(), ttl: HOSTS_TTL });
        }
        if name.is_fqdn() {
            return Plan::Ask(resolver.clone(), vec![name]);
        }
        let as_it_is_first = name.num_labels() as usize > self.ndots || name.is_localhost();
        let mut names: Vec<Name> =
            self.search.iter().filter_map(|domain| name.clone().append_domain(domain).ok()).collect();
        name.set_fqdn(true);
        names.insert(if as_it_is_first { 0 } else { names.len() }, name);
        Plan::Ask(resolver.clone(), names)
    }
}

impl Plan {
    /// Does it.
    pub async fn run(self) -> Outcome {
        let (resolver, names) = match self {
            Plan::Known(outcome) => return outcome,
            Plan::Ask(resolver, names) => (resolver, names),
        };
        let mut failed = false;
        let mut ttl = TTL_NEGATIVE_MAX;
        for name in names {
            match ask(&resolver, name).await {
                found @ Outcome::Found { .. } => return found,
                Outcome::Absent { ttl: of_this } => ttl = ttl.min(of_this),
                Outcome::Failed | Outcome::Late => failed = true,
            }
        }
        // A name of which something could not be learned may well exist.
        if failed { Outcome::Failed } else { Outcome::Absent { ttl } }
    }
}

/// Asks for both families; IPv4 comes first.
async fn ask(resolver: &TokioResolver, name: Name) -> Outcome {
    let (v4, v6) = (resolver.lookup(name.clone(), RecordType::A), resolver.lookup(name.clone(), RecordType::AAAA));
    tokio::pin!(v4, v6);
    // Whoever is second has some more time if the first one has addresses, and its own if not.
    let (v4, v6) = tokio::select! {
        first = &mut v4 => {
            let first = read(first);
            let second = second(&first, v6).await;
            (first, second)
        }
        first = &mut v6 => {
            let first = read(first);
            let second = second(&first, v4).await;
            (second, first)
        }
    };
    match (v4, v6) {
        (Outcome::Found { addresses: v4, ttl: a }, Outcome::Found { addresses: v6, ttl: b }) => {
            Outcome::Found { addresses: v4.iter().chain(v6.iter()).copied().collect(), ttl: a.min(b) }
        }
        (found @ Outcome::Found { .. }, _) | (_, found @ Outcome::Found { .. }) => found,
        (Outcome::Absent { ttl: a }, Outcome::Absent { ttl: b }) => Outcome::Absent { ttl: a.min(b) },
        _ => Outcome::Failed,
    }
}

async fn second(first: &Outcome, other: impl Future<Output = Result<Lookup, NetError>>) -> Outcome {
    match first {
        Outcome::Found { .. } => tokio::time::timeout(OTHER_FAMILY_WAIT, other).await.map_or(Outcome::Failed, read),
        _ => read(other.await),
    }
}

/// What a server said about one family.
fn read(answer: Result<Lookup, NetError>) -> Outcome {
    let absent = |ttl: Option<u32>| {
        let ttl = ttl.map_or(TTL_MIN, |seconds| Duration::from_secs(seconds.into()));
        Outcome::Absent { ttl: ttl.clamp(TTL_MIN, TTL_NEGATIVE_MAX) }
    };
    match answer {
        Ok(lookup) => {
            let addresses = addresses_of(&lookup);
            if addresses.is_empty() {
                return absent(None);
            }
            let ttl = lookup.valid_until().saturating_duration_since(Instant::now());
            Outcome::Found { addresses: addresses.into(), ttl: ttl.clamp(TTL_MIN, TTL_MAX) }
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(nothing))) => absent(nothing.negative_ttl),
        Err(error) => {
            tracing::debug!(%error, "a name server does not answer");
            Outcome::Failed
        }
    }
}

fn addresses_of(lookup: &Lookup) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for address in lookup.answers().iter().filter_map(|record| record.data.ip_addr()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

fn state_of(path: &Path) -> Option<FileState> {
    let file = fs::metadata(path).ok()?;
    let changed = i128::from(file.mtime()) * 1_000_000_000 + i128::from(file.mtime_nsec());
    Some((file.dev(), file.ino(), file.len(), changed))
}

fn open(path: &Path) -> io::Result<io::Take<File>> {
    use io::Read;
    Ok(File::open(path)?.take(FILE_BYTES_MAX))
}

fn read_hosts(path: &Path) -> Hosts {
    let mut hosts = Hosts::default();
    if let Err(error) = open(path).and_then(|file| hosts.read_hosts_conf(file)) {
        tracing::debug!(%error, path = %path.display(), "the file is not used");
    }
    hosts
}

/// resolv.conf, with our servers in place of its own if there are any.
fn read_config(path: &Path, servers: &[SocketAddr]) -> (ResolverConfig, ResolverOpts) {
    use io::Read;

    let mut text = String::new();
    if let Err(error) = open(path).and_then(|mut file| file.read_to_string(&mut text)) {
        tracing::debug!(%error, path = %path.display(), "the file is not used");
        text.clear();
    }
    if !text.lines().any(|line| line.trim_start().starts_with("nameserver")) {
        // As resolv.conf(5) has it.
        text.push_str("\nnameserver 127.0.0.1\n");
    }
    let (config, mut options) = parse_resolv_conf(&text).unwrap_or_else(|error| {
        tracing::warn!(%error, path = %path.display(), "the file is not understood, and not used");
        let local = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
        (ResolverConfig::from_parts(None, Vec::new(), vec![local]), ResolverOpts::default())
    });
    options.timeout = options.timeout.min(TRY_TIME_MAX);
    // The hosts file is read here, and what is found is kept by who asks for it.
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = 0;
    options.preserve_intermediates = false;
    options.server_ordering_strategy = ServerOrderingStrategy::QueryStatistics;
    if servers.is_empty() {
        return (config, options);
    }
    let (domain, search, _) = config.into_parts();
    let servers = servers.iter().map(|server| {
        let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
        connections.iter_mut().for_each(|connection| connection.port = server.port());
        NameServerConfig::new(server.ip(), true, connections)
    });
    (ResolverConfig::from_parts(domain, search, servers.collect()), options)
}

/// The domains that are tried behind a name: those of `search`, or the machine's own.
fn search_list(config: &ResolverConfig) -> Vec<Name> {
    match config.search() {
        [] => config.domain().into_iter().cloned().collect(),
        search => search.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client of files with these contents.
    fn client(resolv_conf: &str, hosts: &str) -> (tempfile::TempDir, Client) {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("resolv.conf"), resolv_conf).unwrap();
        fs::write(at("hosts"), hosts).unwrap();
        let mut client = Client::of(at("resolv.conf"), at("hosts"));
        assert!(client.refresh(&[]), "nothing was known");
        (folder, client)
    }

    fn asked(client: &Client, host: &str) -> Vec<String> {
        match client.plan(host) {
            Plan::Ask(_, names) => names.iter().map(ToString::to_string).collect(),
            Plan::Known(outcome) => panic!("{host}: {outcome:?}"),
        }
    }

    fn known(client: &Client, host: &str) -> Option<Vec<String>> {
        match client.plan(host) {
            Plan::Known(Outcome::Found { addresses, .. }) => Some(addresses.iter().map(ToString::to_string).collect()),
            _ => None,
        }
    }

    #[test]
    fn the_search_list_comes_before_names_with_few_dots_and_behind_others() {
        let (_folder, client) =
            client("nameserver 10.96.0.10\nsearch shop.svc.cluster.local svc.cluster.local\noptions ndots:2\n", "");
        assert_eq!(
            asked(&client, "cart.shop"),
            ["cart.shop.shop.svc.cluster.local.", "cart.shop.svc.cluster.local.", "cart.shop."]
        );
        assert_eq!(asked(&client, "www.example.com")[0], "www.example.com.");
        assert_eq!(asked(&client, "www.example.com").len(), 3);
        assert_eq!(asked(&client, "cart."), ["cart."], "a dot at the end: as it is");
        assert_eq!(asked(&client, "my_service.")[0], "my_service.");
    }

    #[test]
    fn the_hosts_file_comes_first_and_is_read_again_when_it_changes() {
        let (folder, mut client) = client("nameserver 10.96.0.10\n", "10.0.0.1 cart Cart.shop\n::1 cart # of old\n");
        assert_eq!(known(&client, "cart").unwrap(), ["10.0.0.1", "::1"]);
        assert_eq!(known(&client, "CART.shop").unwrap(), ["10.0.0.1"]);
        assert_eq!(known(&client, "other"), None);
        assert!(!client.refresh(&[]), "nothing has changed");
        let generation = client.generation();
        fs::write(folder.path().join("hosts"), "10.0.0.2 other\n").unwrap();
        assert!(client.refresh(&[]));
        assert!(client.generation() > generation);
        assert_eq!((known(&client, "cart"), known(&client, "other").unwrap()), (None, vec!["10.0.0.2".to_owned()]));
        assert!(client.refresh(&["10.0.0.53:53".parse().unwrap()]), "other name servers are configured");
    }

    #[test]
    fn files_that_are_missing_or_strange_are_no_obstacle() {
        let missing = PathBuf::from("/nonexistent/file");
        let mut lonely = Client::of(missing.clone(), missing.clone());
        assert!(lonely.refresh(&[]));
        assert_eq!(asked(&lonely, "cart.").len(), 1);
        let (config, _) = read_config(&missing, &[]);
        assert_eq!(config.name_servers()[0].ip, Ipv4Addr::LOCALHOST, "resolv.conf(5)");
        let (_folder, strange) = client("nameserver nowhere\nsearch \u{1} ..\n\u{0}\u{7f}", "x y\n1.2.3 z\n");
        assert_eq!(asked(&strange, "cart.").len(), 1);
    }

    #[test]
    fn configured_servers_replace_those_of_the_file_and_nothing_else() {
        let (folder, _) = client("nameserver 10.96.0.10\nsearch shop\noptions ndots:5 timeout:9 attempts:4\n", "");
        let server = "127.0.0.1:5353".parse().unwrap();
        let (config, options) = read_config(&folder.path().join("resolv.conf"), &[server]);
        let ports: Vec<u16> = config.name_servers()[0].connections.iter().map(|connection| connection.port).collect();
        assert_eq!(
            (config.name_servers().len(), config.name_servers()[0].ip, &ports[..]),
            (1, server.ip(), &[5353, 5353][..])
        );
        assert_eq!((search_list(&config).len(), options.ndots, options.attempts), (1, 5, 4));
        assert_eq!(options.timeout, TRY_TIME_MAX);
    }
}
