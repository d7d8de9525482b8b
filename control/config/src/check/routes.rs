//! Routes and what they match.

use std::collections::HashSet;

use shmesh_policy::{PathMatch, Regex, Route, RouteMatch, Routes};

use super::Faults;
use super::clusters::NamedClusters;
use super::conditions::{self, Of};
use crate::expression::REGEXES_MAX;
use crate::file::{MatchEntry, RouteEntry};
use crate::located::{At, Key, Place};
use crate::scalar::{Expression, Host, HttpPath, Method, PathPrefix, PriorityName, TextPattern};

/// How many different attachments the routes of a file may ask for: a call's are compared with all of these.
const ATTACHMENT_NAMES_MAX: usize = 32;

/// How many expressions the file has so far.
#[derive(Default)]
pub(super) struct Expressions {
    read: usize,
}

impl Expressions {
    /// Compiles one, unless there are too many.
    pub fn read(&mut self, key: Key<Expression>, faults: &mut Faults) -> Option<Regex> {
        let At { value, place } = key.0?;
        self.read += 1;
        if self.read > REGEXES_MAX {
            if self.read == REGEXES_MAX + 1 {
                faults.add(
                    place,
                    format!(
                        "a file has at most {REGEXES_MAX} regular expressions; write exact texts or prefixes instead"
                    ),
                );
            }
            return None;
        }
        faults.take(place, value.read())
    }
}

pub(super) fn read(entries: Vec<At<RouteEntry>>, clusters: &NamedClusters, faults: &mut Faults) -> Routes {
    let mut expressions = Expressions::default();
    let mut names = HashSet::new();
    let routes = entries.into_iter().filter_map(|entry| {
        let place = entry.place;
        let route = route(entry, clusters, &mut expressions, faults)?;
        let asked = route.matching.attachments.iter().map(|condition| condition.name.clone());
        let before = names.len();
        names.extend(asked);
        if before <= ATTACHMENT_NAMES_MAX && names.len() > ATTACHMENT_NAMES_MAX {
            faults.add(
                place,
                format!(
                    "the routes of a file ask for at most {ATTACHMENT_NAMES_MAX} different attachments, as each of a call's \
                     is compared with them; write conditions on others"
                ),
            );
        }
        Some(route)
    });
    Routes::new(routes.collect())
}

fn route(
    entry: At<RouteEntry>,
    clusters: &NamedClusters,
    expressions: &mut Expressions,
    faults: &mut Faults,
) -> Option<Route> {
    let At { value: RouteEntry { r#match, cluster, idempotent, priority }, place } = entry;
    let matching = match r#match.0 {
        Some(entry) => Some(matching(entry.value, expressions, faults)),
        None => {
            faults.add(place, "this route has no `match`; write what it takes, or `match: {}` to take every call");
            None
        }
    };
    let Some(name) = cluster.0 else {
        faults.add(place, "this route has no cluster; write `cluster: …` with the name of one");
        return None;
    };
    let cluster = clusters.find(&name, faults)?;
    let matching = matching?;
    if clusters.is_dynamic(cluster) && matching.is_dubbo() {
        faults.add(
            name.place,
            format!(
                "cluster `{}` forwards to the host that a request names, and Dubbo calls name none; add \
                 `path_prefix: /` to the match, so that it takes HTTP only",
                name.value.0
            ),
        );
    }
    let priority = faults.read(priority.0, PriorityName::read).unwrap_or_default();
    Some(Route { matching, cluster, idempotent: idempotent.0.map(|at| at.value), priority })
}

fn matching(entry: MatchEntry, expressions: &mut Expressions, faults: &mut Faults) -> RouteMatch {
    let MatchEntry {
        host,
        path,
        path_prefix,
        path_regex,
        service,
        group,
        version,
        method,
        headers,
        query,
        tag,
        attachments,
    } = entry;
    let paths =
        [("path", place_of(&path)), ("path_prefix", place_of(&path_prefix)), ("path_regex", place_of(&path_regex))];
    check_one_path(paths, faults);
    let rest = [("headers", place_of(&headers)), ("query", place_of(&query))];
    let of_http = [("host", place_of(&host))].into_iter().chain(paths).chain(rest);
    let of_dubbo = [
        ("service", place_of(&service)),
        ("group", place_of(&group)),
        ("version", place_of(&version)),
        ("tag", place_of(&tag)),
        ("attachments", place_of(&attachments)),
    ];
    let there = |(key, place): (&'static str, Option<Place>)| Some((key, place?));
    match (of_http.into_iter().find_map(there), of_dubbo.into_iter().find_map(there)) {
        (Some((http, _)), Some((dubbo, place))) => faults.add(
            place,
            format!(
                "no call has both: `{http}` is of HTTP and `{dubbo}` of Dubbo; write a route for each, or leave one out"
            ),
        ),
        (Some(_), None) => check_http_method(method.0.as_ref(), faults),
        _ => {}
    }
    let path = faults.read(path.0, HttpPath::read).map(PathMatch::Exact);
    let prefix = faults.read(path_prefix.0, PathPrefix::read).map(PathMatch::Prefix);
    let regex = expressions.read(path_regex, faults).map(PathMatch::Regex);
    RouteMatch {
        host: faults.read(host.0, Host::read),
        path: path.or(prefix).or(regex),
        service: faults.read(service.0, TextPattern::read_filled),
        group: faults.read(group.0, TextPattern::read),
        version: faults.read(version.0, TextPattern::read),
        method: faults.read(method.0, Method::read),
        headers: conditions::read(headers, Of::Headers, expressions, faults),
        tag: faults.read(tag.0, TextPattern::read),
        query: conditions::read(query, Of::Query, expressions, faults),
        attachments: conditions::read(attachments, Of::Attachments, expressions, faults),
    }
}

fn place_of<T>(key: &Key<T>) -> Option<Place> {
    key.0.as_ref().map(|at| at.place)
}

/// A call has one path, so a route asks one thing of it.
fn check_one_path(keys: [(&str, Option<Place>); 3], faults: &mut Faults) {
    let mut there: Vec<(Place, &str)> = keys.into_iter().filter_map(|(key, place)| Some((place?, key))).collect();
    there.sort_unstable();
    if let [(_, first), (place, second), ..] = there[..] {
        faults.add(
            place,
            format!("`{first}` says which paths already; leave `{second}` out, or write another route for it"),
        );
    }
}

/// Methods of HTTP have a case (RFC 9110 §9.1); `get` would never match.
fn check_http_method(method: Option<&At<Method>>, faults: &mut Faults) {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    let Some((text, place)): Option<(&str, Place)> = method.map(|at| (at.value.0.as_str(), at.place)) else {
        return;
    };
    let upper_case = text.to_ascii_uppercase();
    if text != upper_case && KNOWN.contains(&upper_case.as_str()) {
        faults.add(
            place,
            format!("`{text}` is no method of HTTP, which are compared with their case; write `{upper_case}`"),
        );
    }
}
