//! Which cluster takes a call, and which route wins when several match.

mod dubbo;
mod http;
mod precedence;
mod tree;

use std::fmt;
use std::sync::Arc;

use crate::condition::{Condition, Fields, Regex};
use crate::pattern::Pattern;
use crate::snapshot::ClusterId;
use crate::yielding::Priority;
use dubbo::{DubboIndex, NO_VERSION};
use http::{HttpIndex, host_len};

pub use precedence::{PathPrecision, Specificity};

/// Longest authority that a route with a `host` is looked up for: a DNS name has 253 bytes (RFC 1035 §2.3.4), and a
/// stack buffer for its lower-case form is cheap. A longer one is matched by routes without `host` only.
pub const HOST_BYTES_MAX: usize = 255;

/// The attachment that is a call's group (`CommonConstants.GROUP_KEY` of Dubbo Java).
pub const GROUP_KEY: &str = "group";

/// The attachment that is a call's tag (`CommonConstants.TAG_KEY` of Dubbo Java).
pub const TAG_KEY: &str = "dubbo.tag";

/// A match and the cluster that takes the calls it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Which calls.
    pub matching: RouteMatch,
    /// Where they go.
    pub cluster: ClusterId,
    /// Whether sending such a call twice does no harm; `None`: its protocol says (RFC 9110 §9.2.2 for HTTP, and of Dubbo
    /// calls none).
    pub idempotent: Option<bool>,
    /// Which calls go round the sidecar first when it has too much to do.
    pub priority: Priority,
}

/// What the route that takes a call says of it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Where it goes.
    pub cluster: ClusterId,
    /// As [`Route::idempotent`].
    pub idempotent: Option<bool>,
    /// As [`Route::priority`].
    pub priority: Priority,
}

impl Way {
    /// To a cluster, and nothing else is said.
    pub fn to(cluster: ClusterId) -> Way {
        Way { cluster, idempotent: None, priority: Priority::Default }
    }
}

/// Which calls a route takes. An absent key matches anything.
///
/// `host`, `path`, `headers` and `query` exist in HTTP only, `service`, `group`, `version`, `tag` and `attachments` in
/// Dubbo only: a route that has one of them takes calls of that protocol only. A route with none of them takes both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteMatch {
    /// The host of the authority, without regard to case and port.
    pub host: Option<HostMatch>,
    /// The path, as sent.
    pub path: Option<PathMatch>,
    /// The Dubbo interface or path.
    pub service: Option<Pattern>,
    /// The Dubbo group; a call without one has the empty group.
    pub group: Option<Pattern>,
    /// The Dubbo service version; a call without one, or with `0.0.0`, has the empty version.
    pub version: Option<Pattern>,
    /// The HTTP method or the Dubbo method, with its case.
    pub method: Option<Pattern>,
    /// The Dubbo tag, [`TAG_KEY`]; a call without one has the empty tag.
    pub tag: Option<Pattern>,
    /// What must hold for the header fields, all of it.
    pub headers: Vec<Condition>,
    /// What must hold for the parameters of the query, all of it.
    pub query: Vec<Condition>,
    /// What must hold for the attachments of a Dubbo call, all of it.
    pub attachments: Vec<Condition>,
}

/// Which hosts. An IPv6 address stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostMatch {
    /// This one.
    Exact(Arc<str>),
    /// Those that have one label or more in front of these: `a.b` takes `x.a.b` and `y.x.a.b`, but not `a.b`.
    Suffix(Arc<str>),
}

/// Which paths; the query does not belong to them. Nothing is decoded, and no dots are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// This one.
    Exact(Arc<str>),
    /// Whole leading segments: `/a` takes `/a`, `/a/` and `/a/b`, but not `/ab`. A slash at its end changes nothing; `/`
    /// takes every path.
    Prefix(Arc<str>),
    /// Those that it describes as a whole.
    Regex(Regex),
}

/// What an HTTP call is routed by.
#[derive(Copy, Clone)]
pub struct HttpKey<'a> {
    /// What the request names, with its port as sent.
    pub authority: &'a [u8],
    /// In origin form; an empty one means `/`.
    pub path_and_query: &'a [u8],
    /// Compared with its case (RFC 9110 §9.1).
    pub method: &'a [u8],
    /// Looked at only when a route asks for headers whose host, path and method fit.
    pub headers: &'a dyn Fields,
}

/// What a Dubbo call is routed by.
#[derive(Copy, Clone)]
pub struct DubboKey<'a> {
    /// The path, which is the interface unless configured otherwise.
    pub service: &'a [u8],
    /// The method; of a generic call `$invoke`.
    pub method: &'a [u8],
    /// The service version, if the call has one.
    pub version: Option<&'a [u8]>,
    /// The group, as far as it is known.
    pub group: Attached<'a>,
    /// The tag, as far as it is known.
    pub tag: Attached<'a>,
    /// All attachments that routes ask for; `None` while nobody has looked.
    pub attachments: Option<&'a dyn Fields>,
}

/// What is known of a value that lies in the attachments of a Dubbo call, behind its arguments.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Attached<'a> {
    /// Nobody has looked for it yet.
    Unknown,
    /// The call has none.
    None,
    /// This one.
    Is(&'a [u8]),
}

impl<'a> Attached<'a> {
    /// What is known of a value that was found; an empty one is none.
    pub fn of(value: &'a [u8]) -> Attached<'a> {
        if value.is_empty() { Attached::None } else { Attached::Is(value) }
    }
}

/// Where a Dubbo call goes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum DubboRoute {
    /// This way.
    To(Way),
    /// The best route so far asks for something of the attachments that is not known: look there, and ask again.
    NeedsAttachments,
    /// No route takes it: status 60.
    NoRoute,
}

/// All routes, indexed so that a call looks only at those that may take it; how many there are besides costs nothing.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    list: Vec<Route>,
    http: HttpIndex,
    dubbo: DubboIndex,
    attachment_names: Vec<Arc<str>>,
}

impl Routes {
    /// Takes the routes in the order in which they are listed.
    pub fn new(list: Vec<Route>) -> Routes {
        let mut list = list;
        for route in &mut list {
            route.matching.normalize();
        }
        let mut best_first: Vec<usize> = (0..list.len()).collect();
        // Stable: equals stay in the order in which they are listed.
        best_first.sort_by_cached_key(|&at| std::cmp::Reverse(list[at].matching.specificity()));
        let mut http = HttpIndex::default();
        let mut dubbo = DubboIndex::default();
        for at in best_first {
            let matching = &list[at].matching;
            if matching.is_http() {
                http.push(matching, at as u32);
            }
            if matching.is_dubbo() {
                dubbo.push(matching, at as u32);
            }
        }
        let asked = list.iter().flat_map(|route| &route.matching.attachments).map(|condition| condition.name.clone());
        let mut attachment_names: Vec<Arc<str>> =
            [GROUP_KEY, TAG_KEY].map(Arc::from).into_iter().chain(asked).collect();
        attachment_names.sort_unstable();
        attachment_names.dedup();
        Routes { list, http, dubbo, attachment_names }
    }

    /// Names of the attachments that any route can ask for, group and tag among them; each once.
    pub fn attachment_names(&self) -> &[Arc<str>] {
        &self.attachment_names
    }

    /// The routes in the order in which they are listed, with hosts, prefixes and versions in their normal form.
    pub fn list(&self) -> &[Route] {
        &self.list
    }

    /// See [`crate::Snapshot::route_http`].
    pub fn http(&self, key: &HttpKey<'_>) -> Option<Way> {
        self.http.way(&self.list, key)
    }

    /// See [`crate::Snapshot::route_all_http`].
    pub fn all_http(&self, key: &HttpKey<'_>) -> Option<Way> {
        self.http.way_of_all(&self.list, key)
    }

    /// See [`crate::Snapshot::route_dubbo`].
    pub fn dubbo(&self, key: &DubboKey<'_>) -> DubboRoute {
        self.dubbo.route(&self.list, key)
    }

    /// See [`crate::Snapshot::route_unread_dubbo`].
    pub fn unread_dubbo(&self) -> Option<Way> {
        self.dubbo.of_unread(&self.list)
    }
}

impl Route {
    fn way(&self) -> Way {
        Way { cluster: self.cluster, idempotent: self.idempotent, priority: self.priority }
    }
}

impl RouteMatch {
    /// Whether HTTP calls can match.
    pub fn is_http(&self) -> bool {
        let RouteMatch { service, group, version, tag, attachments, .. } = self;
        [service, group, version, tag].into_iter().all(Option::is_none) && attachments.is_empty()
    }

    /// Whether Dubbo calls can match.
    pub fn is_dubbo(&self) -> bool {
        self.host.is_none() && self.path.is_none() && self.headers.is_empty() && self.query.is_empty()
    }

    /// Lower-case host without port, prefix without a slash at its end (but `/`), `0.0.0` as the empty version: so
    /// that a look-up compares bytes.
    fn normalize(&mut self) {
        if let Some(HostMatch::Exact(host) | HostMatch::Suffix(host)) = &mut self.host {
            *host = host[..host_len(host.as_bytes())].to_ascii_lowercase().into();
        }
        if let Some(PathMatch::Prefix(prefix)) = &mut self.path {
            let trimmed = prefix.trim_end_matches('/');
            *prefix = if trimmed.is_empty() { "/".into() } else { trimmed.into() };
        }
        if self.version.as_ref().and_then(Pattern::exact) == Some(NO_VERSION) {
            self.version = Some(Pattern::new(""));
        }
    }
}

/// As it is written: a host, or `*.` and labels.
impl From<&str> for HostMatch {
    fn from(text: &str) -> HostMatch {
        match text.strip_prefix("*.") {
            Some(labels) => HostMatch::Suffix(labels.into()),
            None => HostMatch::Exact(text.into()),
        }
    }
}

impl fmt::Display for HostMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostMatch::Exact(host) => f.write_str(host),
            HostMatch::Suffix(labels) => write!(f, "*.{labels}"),
        }
    }
}

/// Something was looked up, or a route was looked at: counted in tests, which hold the sum against the number of routes.
#[inline(always)]
fn looked() {
    #[cfg(test)]
    tests::LOOKS.set(tests::LOOKS.get() + 1);
}

#[cfg(test)]
mod tests;
