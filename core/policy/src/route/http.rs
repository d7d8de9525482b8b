//! HTTP routes, indexed by host and then by path, so that a call looks only at those whose host and path it has.

use std::collections::HashMap;

use super::tree::Tree;
use super::{HOST_BYTES_MAX, HostMatch, HttpKey, PathMatch, Route, RouteMatch, Way, looked};
use crate::condition::Query;
use crate::yielding::Priority;

/// Routes by host, in the order of [`super::Specificity`]: the host itself, then suffixes from the longest on, then any.
#[derive(Clone, Debug, Default)]
pub(super) struct HttpIndex {
    exact: HashMap<Box<[u8]>, Paths>,
    /// By labels, the last one first.
    suffixes: Tree<Paths>,
    any: Paths,
}

/// Routes of one host by path, in the order of [`super::PathPrecision`]. Each list is best first.
#[derive(Clone, Debug, Default)]
struct Paths {
    exact: HashMap<Box<[u8]>, Vec<u32>>,
    regexes: Vec<u32>,
    /// By segments.
    prefixes: Tree<Vec<u32>>,
    any: Vec<u32>,
}

impl HttpIndex {
    /// Adds a route in normal form, which is in the list at `at`; better ones come first.
    pub fn push(&mut self, matching: &RouteMatch, at: u32) {
        let paths = match &matching.host {
            Some(HostMatch::Exact(host)) => self.exact.entry(host.as_bytes().into()).or_default(),
            Some(HostMatch::Suffix(labels)) => self.suffixes.entry(labels_of(labels.as_bytes())),
            None => &mut self.any,
        };
        let list = match &matching.path {
            Some(PathMatch::Exact(path)) => paths.exact.entry(path.as_bytes().into()).or_default(),
            Some(PathMatch::Regex(_)) => &mut paths.regexes,
            Some(PathMatch::Prefix(prefix)) => paths.prefixes.entry(segments_of(prefix.as_bytes())),
            None => &mut paths.any,
        };
        list.push(at);
    }

    /// Where the best route leads that takes a call.
    pub fn way(&self, list: &[Route], key: &HttpKey<'_>) -> Option<Way> {
        let query = Query(split_target(key.path_and_query).1);
        let best = self.best(list, key, |route| {
            let RouteMatch { headers, query: parameters, .. } = &route.matching;
            headers.iter().all(|condition| condition.holds(key.headers))
                && parameters.iter().all(|condition| condition.holds(&query))
        });
        best.map(Route::way)
    }

    /// Where every call goes that has this authority, path and method, if that is one cluster for all of them. Where not all routes
    /// say the same of being idempotent, such a call may be one that is not; and it has the highest of
    /// their priorities.
    pub fn way_of_all(&self, list: &[Route], key: &HttpKey<'_>) -> Option<Way> {
        let mut of_some: Option<Way> = None;
        let mut disagree = false;
        let mut differ = false;
        let mut priority = Priority::Low;
        let of_others = self.best(list, key, |route| {
            let takes_all = route.matching.headers.is_empty() && route.matching.query.is_empty();
            if !takes_all {
                let first = of_some.get_or_insert(route.way());
                disagree |= first.cluster != route.cluster;
                differ |= first.idempotent != route.idempotent;
                priority = priority.max(route.priority);
            }
            takes_all
        })?;
        let of_some = of_some.unwrap_or(of_others.way());
        differ |= of_some.idempotent != of_others.idempotent;
        let idempotent = if differ { Some(false) } else { of_others.idempotent };
        let agree = !disagree && of_some.cluster == of_others.cluster;
        agree.then_some(Way { cluster: of_others.cluster, idempotent, priority: priority.max(of_others.priority) })
    }

    /// The best route that takes host, path and method of a call, and of which `takes_rest` says yes.
    fn best<'r>(
        &self,
        list: &'r [Route],
        key: &HttpKey<'_>,
        mut takes_rest: impl FnMut(&Route) -> bool,
    ) -> Option<&'r Route> {
        let path = split_target(key.path_and_query).0;
        let mut lower_case = [0; HOST_BYTES_MAX];
        let host = lower_case_host(key.authority, &mut lower_case);
        let mut takes = |route: &&Route| {
            looked();
            let matching = &route.matching;
            let path_fits = match &matching.path {
                Some(PathMatch::Regex(regex)) => regex.matches(path),
                // The index found it by its path.
                Some(PathMatch::Exact(_) | PathMatch::Prefix(_)) | None => true,
            };
            let method_fits = matching.method.as_ref().is_none_or(|method| method.matches(key.method));
            method_fits && path_fits && takes_rest(route)
        };
        let lists = self.of_host(host).flat_map(|paths| paths.of_path(path));
        lists.flatten().map(|&at| &list[at as usize]).find(|route| takes(route))
    }

    fn of_host<'i>(&'i self, host: Option<&[u8]>) -> impl Iterator<Item = &'i Paths> {
        let exact = host.filter(|_| !self.exact.is_empty()).and_then(|host| {
            looked();
            self.exact.get(host)
        });
        // At least one label stands for the `*`.
        let labels = host.and_then(|host| host.iter().position(|&byte| byte == b'.').map(|dot| (host, dot)));
        let suffixes = labels
            .filter(|&(_, dot)| dot > 0)
            .into_iter()
            .flat_map(|(host, dot)| self.suffixes.nearest_first(labels_of(&host[dot + 1..])));
        exact.into_iter().chain(suffixes).chain([&self.any])
    }
}

impl Paths {
    /// Lists whose routes have a path that takes this one, regular expressions apart.
    fn of_path(&self, path: &[u8]) -> impl Iterator<Item = &Vec<u32>> {
        let exact = if self.exact.is_empty() {
            None
        } else {
            looked();
            self.exact.get(path)
        };
        let prefixes = self.prefixes.nearest_first(segments_of(path));
        exact.into_iter().chain([&self.regexes]).chain(prefixes).chain([&self.any])
    }
}

/// The last one first.
fn labels_of(host: &[u8]) -> impl Iterator<Item = &[u8]> {
    host.rsplit(|&byte| byte == b'.')
}

/// The parts between slashes. `/` has none, and so has what does not begin with a slash (`*` of OPTIONS).
fn segments_of(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let segments = path.strip_prefix(b"/").filter(|rest| !rest.is_empty());
    segments.into_iter().flat_map(|segments| segments.split(|&byte| byte == b'/'))
}

/// The part before the query, `/` when empty (RFC 9112 §3.2.1), and the query without its `?`.
fn split_target(path_and_query: &[u8]) -> (&[u8], &[u8]) {
    let mark = path_and_query.iter().position(|&byte| byte == b'?');
    let (path, query) = match mark {
        Some(at) => (&path_and_query[..at], &path_and_query[at + 1..]),
        None => (path_and_query, &[][..]),
    };
    (if path.is_empty() { b"/" } else { path }, query)
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
pub(super) fn host_len(authority: &[u8]) -> usize {
    let end = if authority.first() == Some(&b'[') {
        authority.iter().position(|&byte| byte == b']').map(|at| at + 1)
    } else {
        authority.iter().rposition(|&byte| byte == b':')
    };
    end.unwrap_or(authority.len())
}
