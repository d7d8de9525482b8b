//! Routes and what they match.

use std::sync::Arc;

use shmesh_policy::{Route, RouteMatch, Routes};

use super::Faults;
use super::clusters::NamedClusters;
use crate::file::{MatchEntry, RouteEntry};
use crate::located::{At, Place};
use crate::scalar::{Host, Method, PathPrefix, TextPattern};

pub(super) fn read(entries: Vec<At<RouteEntry>>, clusters: &NamedClusters, faults: &mut Faults) -> Routes {
    let routes = entries.into_iter().filter_map(|entry| route(entry, clusters, faults));
    Routes::new(routes.collect())
}

fn route(entry: At<RouteEntry>, clusters: &NamedClusters, faults: &mut Faults) -> Option<Route> {
    let At { value: RouteEntry { r#match, cluster }, place } = entry;
    let matching = match r#match.0 {
        Some(entry) => Some(matching(entry.value, faults)),
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
    Some(Route { matching, cluster })
}

fn matching(entry: MatchEntry, faults: &mut Faults) -> RouteMatch {
    let MatchEntry { host, path_prefix, service, group, version, method } = entry;
    let first_of_http =
        host.0.as_ref().map(|at| ("host", at.place)).or(path_prefix.0.as_ref().map(|at| ("path_prefix", at.place)));
    let of_dubbo = [("service", &service), ("group", &group), ("version", &version)];
    let first_of_dubbo = of_dubbo.iter().find_map(|(key, value)| value.0.as_ref().map(|at| (*key, at.place)));
    match (first_of_http, first_of_dubbo) {
        (Some((http, _)), Some((dubbo, place))) => faults.add(
            place,
            format!(
                "no call has both: `{http}` is of HTTP and `{dubbo}` of Dubbo; write a route for each, or leave one out"
            ),
        ),
        (Some(_), None) => check_http_method(method.0.as_ref(), faults),
        _ => {}
    }
    RouteMatch {
        host: faults.read(host.0, |host: &Host| host.read().map(Arc::from)),
        path_prefix: faults.read(path_prefix.0, |prefix: &PathPrefix| prefix.read().map(Arc::from)),
        service: faults.read(service.0, TextPattern::read_filled),
        group: faults.read(group.0, TextPattern::read),
        version: faults.read(version.0, TextPattern::read),
        method: faults.read(method.0, Method::read),
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
