//! Which cluster takes a call, and which route wins when several match.

use std::collections::HashMap;
use std::sync::Arc;

use crate::pattern::{Pattern, Precision};
use crate::snapshot::ClusterId;

/// Longest authority that a route with a `host` is looked up for: a DNS name has 253 bytes (RFC 1035 §2.3.4), and a
/// stack buffer for its lower-case form is cheap. A longer one is matched by routes without `host` only.
pub const HOST_BYTES_MAX: usize = 255;

/// A match and the cluster that takes the calls it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Which calls.
    pub matching: RouteMatch,
    /// Where they go.
    pub cluster: ClusterId,
}

/// Which calls a route takes. An absent key matches anything.
///
/// `host` and `path_prefix` exist in HTTP only, `service`, `group` and `version` in Dubbo only: a route that has one
/// of them takes calls of that protocol only. A route with none of them takes both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteMatch {
    /// The host of the authority, without regard to case and port. An IPv6 address stands in brackets.
    pub host: Option<Arc<str>>,
    /// Whole leading segments of the path, as sent: `/a` takes `/a`, `/a/`, `/a/b` and `/a?x`, but not `/ab`. A slash
    /// at its end changes nothing; `/` takes every path.
    pub path_prefix: Option<Arc<str>>,
    /// The Dubbo interface or path.
    pub service: Option<Pattern>,
    /// The Dubbo group; a call without one has the empty group.
    pub group: Option<Pattern>,
    /// The Dubbo service version; a call without one, or with `0.0.0`, has the empty version.
    pub version: Option<Pattern>,
    /// The HTTP method or the Dubbo method, with its case.
    pub method: Option<Pattern>,
}

/// How closely a route says what it takes: the greater one wins, and among equals the one listed first.
///
/// Compared key by key, from the first field to the last; a later one counts only when all before it are equal:
///
/// - HTTP: an exact `host` before none; then the longer `path_prefix`, any before none; then `method`.
/// - Dubbo: `service`, then `group`, then `version`, then `method`; for each an exact text before a glob, a glob with
///   more literal bytes before one with fewer, and any glob (even `*`) before none.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Specificity {
    /// [`Precision::Exact`] or [`Precision::Absent`]; a host is never a glob.
    pub host: Precision,
    /// 0 when absent, else 1 + its bytes without a slash at the end.
    pub path_prefix: usize,
    pub service: Precision,
    pub group: Precision,
    pub version: Precision,
    pub method: Precision,
}

/// What a Dubbo call is routed by.
#[derive(Copy, Clone, Debug)]
pub struct DubboKey<'a> {
    /// The path, which is the interface unless configured otherwise.
    pub service: &'a [u8],
    /// The method; of a generic call `$invoke`.
    pub method: &'a [u8],
    /// The service version, if the call has one.
    pub version: Option<&'a [u8]>,
    /// The group, as far as it is known.
    pub group: Group<'a>,
}

/// What is known about the group of a Dubbo call.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Group<'a> {
    /// Nobody looked for it yet: it lies behind the arguments.
    Unknown,
    /// The call has none.
    None,
    /// This one.
    Is(&'a [u8]),
}

/// Where a Dubbo call goes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum DubboRoute {
    /// To this cluster.
    To(ClusterId),
    /// The best route so far asks for the group, which is [`Group::Unknown`]: look for it, and ask again.
    NeedsGroup,
    /// No route takes it: status 60.
    NoRoute,
}

/// All routes, indexed so that a call looks only at those that name its host or service, and at those that name none.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    list: Vec<Route>,
    http: Index,
    dubbo: Index,
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
        best_first.sort_by_key(|&at| std::cmp::Reverse(list[at].matching.specificity()));
        let mut http = Index::default();
        let mut dubbo = Index::default();
        for at in best_first {
            let matching = &list[at].matching;
            if matching.is_http() {
                http.push(matching.host.as_deref(), at as u32);
            }
            if matching.is_dubbo() {
                dubbo.push(matching.service.as_ref().and_then(Pattern::exact), at as u32);
            }
        }
        Routes { list, http, dubbo }
    }

    /// The routes in the order in which they are listed, with hosts, prefixes and versions in their normal form.
    pub fn list(&self) -> &[Route] {
        &self.list
    }

    /// See [`crate::Snapshot::route_http`].
    pub fn http(&self, authority: &[u8], path_and_query: &[u8], method: &[u8]) -> Option<ClusterId> {
        let path = path_of(path_and_query);
        let mut lower_case = [0; HOST_BYTES_MAX];
        let named = self.http.named(lower_case_host(authority, &mut lower_case));
        // Host comes first in `Specificity`, so a route that names it beats every route that does not.
        let mut candidates = named.iter().chain(&self.http.others).map(|&at| &self.list[at as usize]);
        candidates.find(|route| route.matching.takes_path_and_method(path, method)).map(|route| route.cluster)
    }

    /// See [`crate::Snapshot::route_dubbo`].
    pub fn dubbo(&self, key: &DubboKey<'_>) -> DubboRoute {
        let named = self.dubbo.named(Some(key.service));
        for &at in named.iter().chain(&self.dubbo.others) {
            let route = &self.list[at as usize];
            match route.matching.takes_dubbo(key) {
                Some(true) => return DubboRoute::To(route.cluster),
                Some(false) => {}
                None => return DubboRoute::NeedsGroup,
            }
        }
        DubboRoute::NoRoute
    }
}

impl RouteMatch {
    /// Whether HTTP calls can match.
    pub fn is_http(&self) -> bool {
        self.service.is_none() && self.group.is_none() && self.version.is_none()
    }

    /// Whether Dubbo calls can match.
    pub fn is_dubbo(&self) -> bool {
        self.host.is_none() && self.path_prefix.is_none()
    }

    /// How closely it says what it takes.
    pub fn specificity(&self) -> Specificity {
        let precision = |key: &Option<Pattern>| key.as_ref().map_or(Precision::Absent, Pattern::precision);
        Specificity {
            host: if self.host.is_some() { Precision::Exact } else { Precision::Absent },
            path_prefix: self.path_prefix.as_deref().map_or(0, |prefix| 1 + prefix.trim_end_matches('/').len()),
            service: precision(&self.service),
            group: precision(&self.group),
            version: precision(&self.version),
            method: precision(&self.method),
        }
    }

    /// Lower-case host without port, prefix without a slash at its end (but `/`), `0.0.0` as the empty version: so
    /// that a look-up compares bytes.
    fn normalize(&mut self) {
        if let Some(host) = &mut self.host {
            *host = host[..host_len(host.as_bytes())].to_ascii_lowercase().into();
        }
        if let Some(prefix) = &mut self.path_prefix {
            let trimmed = prefix.trim_end_matches('/');
            *prefix = if trimmed.is_empty() { "/".into() } else { trimmed.into() };
        }
        if self.version.as_ref().and_then(Pattern::exact) == Some(NO_VERSION) {
            self.version = Some(Pattern::new(""));
        }
    }

    fn takes_path_and_method(&self, path: &[u8], method: &[u8]) -> bool {
        let path_fits = self.path_prefix.as_deref().is_none_or(|prefix| starts_with_segments(path, prefix));
        path_fits && matches_key(&self.method, method)
    }

    /// `None` when only the group decides, and nobody knows it.
    fn takes_dubbo(&self, key: &DubboKey<'_>) -> Option<bool> {
        let version = match key.version {
            Some(version) if version != NO_VERSION.as_bytes() => version,
            _ => b"",
        };
        if !matches_key(&self.service, key.service)
            || !matches_key(&self.version, version)
            || !matches_key(&self.method, key.method)
        {
            return Some(false);
        }
        match (&self.group, key.group) {
            (None, _) => Some(true),
            (Some(group), _) if group.is_everything() => Some(true),
            (Some(_), Group::Unknown) => None,
            (Some(group), Group::None) => Some(group.matches(b"")),
            (Some(group), Group::Is(name)) => Some(group.matches(name)),
        }
    }
}

/// What Dubbo writes for a service without a version (`org.apache.dubbo.remoting.Constants`, `DEFAULT_VERSION`).
const NO_VERSION: &str = "0.0.0";

/// Positions in [`Routes::list`], best first.
#[derive(Clone, Debug, Default)]
struct Index {
    /// Of routes that name the key's value.
    by_name: HashMap<Box<[u8]>, Vec<u32>>,
    /// Of all others.
    others: Vec<u32>,
}

impl Index {
    fn push(&mut self, name: Option<&str>, at: u32) {
        match name {
            Some(name) => self.by_name.entry(name.as_bytes().into()).or_default().push(at),
            None => self.others.push(at),
        }
    }

    fn named(&self, name: Option<&[u8]>) -> &[u32] {
        match name {
            Some(name) if !self.by_name.is_empty() => self.by_name.get(name).map_or(&[], Vec::as_slice),
            _ => &[],
        }
    }
}

fn matches_key(key: &Option<Pattern>, bytes: &[u8]) -> bool {
    key.as_ref().is_none_or(|pattern| pattern.matches(bytes))
}

/// The part before the query; `/` when empty (RFC 9112 §3.2.1).
fn path_of(path_and_query: &[u8]) -> &[u8] {
    let path = path_and_query.split(|&byte| byte == b'?').next().unwrap_or_default();
    if path.is_empty() { b"/" } else { path }
}

/// `prefix` in normal form.
fn starts_with_segments(path: &[u8], prefix: &str) -> bool {
    if prefix == "/" {
        return true;
    }
    path.strip_prefix(prefix.as_bytes()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// The host of an authority in lower case; `None` when it is longer than any host.
fn lower_case_host<'b>(authority: &[u8], buffer: &'b mut [u8; HOST_BYTES_MAX]) -> Option<&'b [u8]> {
    let host = &authority[..host_len(authority)];
    let lower_case = buffer.get_mut(..host.len())?;
    lower_case.copy_from_slice(host);
    lower_case.make_ascii_lowercase();
    Some(lower_case)
}

/// How many bytes of an authority come before its port (RFC 3986 §3.2).
fn host_len(authority: &[u8]) -> usize {
    let end = if authority.first() == Some(&b'[') {
        authority.iter().position(|&byte| byte == b']').map(|at| at + 1)
    } else {
        authority.iter().rposition(|&byte| byte == b':')
    };
    end.unwrap_or(authority.len())
}

#[cfg(test)]
mod tests;
