use proptest::prelude::*;

use super::*;

/// A route from `key=value` words; its cluster is its place in the list.
fn routes(lines: &[&str]) -> Routes {
    let list = lines.iter().enumerate().map(|(at, line)| {
        let mut matching = RouteMatch::default();
        for word in line.split_whitespace() {
            let (key, value) = word.split_once('=').unwrap();
            match key {
                "host" => matching.host = Some(value.into()),
                "path" => matching.path_prefix = Some(value.into()),
                "service" => matching.service = Some(Pattern::new(value)),
                "group" => matching.group = Some(Pattern::new(value)),
                "version" => matching.version = Some(Pattern::new(value)),
                "method" => matching.method = Some(Pattern::new(value)),
                _ => panic!("{key}"),
            }
        }
        Route { matching, cluster: ClusterId(at as u32) }
    });
    Routes::new(list.collect())
}

fn http(routes: &Routes, method: &str, authority: &str, path: &str) -> Option<u32> {
    routes.http(authority.as_bytes(), path.as_bytes(), method.as_bytes()).map(|cluster| cluster.0)
}

fn dubbo(routes: &Routes, service: &str, method: &str, version: Option<&str>, group: Group<'_>) -> DubboRoute {
    routes.dubbo(&DubboKey {
        service: service.as_bytes(),
        method: method.as_bytes(),
        version: version.map(str::as_bytes),
        group,
    })
}

#[test]
fn host_ignores_case_and_port() {
    let routes = routes(&["host=Reviews", "host=[::1]", "host=ratings:8080"]);
    for authority in ["reviews", "REVIEWS", "reviews:80", "Reviews:9080", "reviews:"] {
        assert_eq!(http(&routes, "GET", authority, "/"), Some(0), "{authority}");
    }
    for authority in ["[::1]", "[::1]:80"] {
        assert_eq!(http(&routes, "GET", authority, "/"), Some(1), "{authority}");
    }
    for authority in ["ratings", "ratings:1"] {
        assert_eq!(http(&routes, "GET", authority, "/"), Some(2), "{authority}");
    }
    for authority in ["", ":80", "review", "reviews.local", "[::2]:80", "[::1", "::1"] {
        assert_eq!(http(&routes, "GET", authority, "/"), None, "{authority}");
    }
}

#[test]
fn a_host_that_is_too_long_matches_no_host() {
    let longest = "a".repeat(HOST_BYTES_MAX);
    let longer = "a".repeat(HOST_BYTES_MAX + 1);
    let (named, both) = (format!("host={longest}"), format!("host={longer}"));
    let routes = routes(&[&named, &both]);
    assert_eq!(http(&routes, "GET", &longest, "/"), Some(0));
    assert_eq!(http(&routes, "GET", &format!("{longest}:65535"), "/"), Some(0));
    assert_eq!(http(&routes, "GET", &longer, "/"), None);
}

#[test]
fn path_prefix_takes_whole_segments() {
    for prefix in ["path=/a", "path=/a/"] {
        let routes = routes(&[prefix]);
        for path in ["/a", "/a/", "/a/b", "/a?x", "/a/?x", "/a?/b"] {
            assert_eq!(http(&routes, "GET", "h", path), Some(0), "{prefix} {path}");
        }
        for path in ["/ab", "/", "", "/A", "/b/a", "?/a", "*"] {
            assert_eq!(http(&routes, "GET", "h", path), None, "{prefix} {path}");
        }
    }
    let routes = routes(&["path=/"]);
    for path in ["/", "", "/a", "?x", "*", "//"] {
        assert_eq!(http(&routes, "GET", "h", path), Some(0), "{path}");
    }
}

#[test]
fn more_specific_http_routes_come_first() {
    let routes = routes(&[
        "",
        "method=GET",
        "path=/",
        "path=/a",
        "path=/a method=G*",
        "path=/a method=GET",
        "path=/a/b",
        "host=h",
        "host=h path=/a",
        "host=h path=/a",
    ]);
    let table = [
        ("GET", "h", "/a/b", 8, "host is compared first, and the first of equals wins"),
        ("GET", "h", "/b", 7, "a host without prefix beats prefixes without host"),
        ("GET", "x", "/a/b/c", 6, "the longest prefix"),
        ("GET", "x", "/a/c", 5, "an exact method among equal prefixes"),
        ("GOT", "x", "/a/c", 4, "a glob before none"),
        ("PUT", "x", "/a/c", 3, "none at last"),
        ("GET", "x", "/", 2, "a prefix of `/` before a method"),
    ];
    for (method, host, path, expected, why) in table {
        assert_eq!(http(&routes, method, host, path), Some(expected), "{why}");
    }
}

#[test]
fn a_route_of_the_host_that_does_not_match_leaves_the_call_to_others() {
    let routes = routes(&["host=h path=/a", "path=/"]);
    assert_eq!(http(&routes, "GET", "h", "/b"), Some(1));
}

#[test]
fn keys_of_one_protocol_keep_a_route_to_it() {
    let routes = routes(&["host=h", "path=/", "service=S", "group=*", "version=*", "method=m"]);
    assert_eq!(http(&routes, "m", "h", "/"), Some(0));
    assert_eq!(http(&routes, "m", "x", "/"), Some(1));
    assert_eq!(dubbo(&routes, "S", "x", None, Group::None), DubboRoute::To(ClusterId(2)));
    assert_eq!(dubbo(&routes, "T", "x", None, Group::None), DubboRoute::To(ClusterId(3)));
    let method_only = self::routes(&["method=m"]);
    assert_eq!(http(&method_only, "m", "x", "/"), Some(0));
    assert_eq!(dubbo(&method_only, "S", "m", None, Group::None), DubboRoute::To(ClusterId(0)));
    assert_eq!(dubbo(&method_only, "S", "n", None, Group::None), DubboRoute::NoRoute);
}

#[test]
fn group_is_asked_for_only_when_it_decides() {
    let routes = routes(&[
        "service=S group=g1 method=say*",
        "service=S",
        "service=T group=*",
        "service=U",
        "service=U* group=g1",
        "service=V group=",
    ]);
    let to = |at| DubboRoute::To(ClusterId(at));
    let table = [
        ("S", "sayHello", Group::Unknown, DubboRoute::NeedsGroup),
        ("S", "sayHello", Group::Is(b"g1"), to(0)),
        ("S", "sayHello", Group::Is(b"g2"), to(1)),
        ("S", "sayHello", Group::None, to(1)),
        ("S", "ask", Group::Unknown, to(1)),
        ("T", "m", Group::Unknown, to(2)),
        ("T", "m", Group::None, to(2)),
        ("U", "m", Group::Unknown, to(3)),
        ("Ux", "m", Group::Unknown, DubboRoute::NeedsGroup),
        ("Ux", "m", Group::None, DubboRoute::NoRoute),
        ("V", "m", Group::None, to(5)),
        ("V", "m", Group::Is(b""), to(5)),
        ("V", "m", Group::Is(b"g"), DubboRoute::NoRoute),
        ("W", "m", Group::Unknown, DubboRoute::NoRoute),
    ];
    for (service, method, group, expected) in table {
        assert_eq!(dubbo(&routes, service, method, None, group), expected, "{service}.{method} {group:?}");
    }
}

#[test]
fn no_version_has_three_spellings() {
    for pattern in ["version=", "version=0.0.0"] {
        let routes = routes(&[pattern, "version=1.*"]);
        for version in [None, Some(""), Some("0.0.0")] {
            assert_eq!(dubbo(&routes, "S", "m", version, Group::None), DubboRoute::To(ClusterId(0)), "{version:?}");
        }
        assert_eq!(dubbo(&routes, "S", "m", Some("1.0.0"), Group::None), DubboRoute::To(ClusterId(1)));
        assert_eq!(dubbo(&routes, "S", "m", Some("2.0.0"), Group::None), DubboRoute::NoRoute);
    }
}

#[test]
fn more_specific_dubbo_routes_come_first() {
    let routes = routes(&[
        "",
        "method=m",
        "version=1.0.0 method=m",
        "group=g",
        "service=com.*",
        "service=com.demo.*",
        "service=com.demo.S",
        "service=com.demo.S method=m",
        "service=com.demo.S version=1.0.0",
        "service=com.demo.S group=*",
    ]);
    let table = [
        ("com.demo.S", "m", Some("1.0.0"), 9, "group before version before method"),
        ("com.demo.T", "m", Some("1.0.0"), 5, "the glob with more literal bytes"),
        ("com.T", "m", Some("1.0.0"), 4, "a service glob before keys compared later"),
        ("org.T", "m", Some("1.0.0"), 3, "group before version"),
    ];
    for (service, method, version, expected, why) in table {
        let found = dubbo(&routes, service, method, version, Group::Is(b"g"));
        assert_eq!(found, DubboRoute::To(ClusterId(expected)), "{why}");
    }
    let found = dubbo(&routes, "org.T", "m", Some("1.0.0"), Group::None);
    assert_eq!(found, DubboRoute::To(ClusterId(2)), "version before method alone");
}

/// The rules as they are written down, route by route, without index or normal form.
mod reference {
    use super::*;

    fn fits(key: &Option<Pattern>, value: &str) -> bool {
        key.as_ref().is_none_or(|pattern| pattern.matches(value.as_bytes()))
    }

    /// The greatest specificity wins; among equals the first.
    fn best(list: &[Route], matches: impl Fn(&RouteMatch) -> bool) -> Option<u32> {
        let mut best: Option<(Specificity, u32)> = None;
        for route in list.iter().filter(|route| matches(&route.matching)) {
            let specificity = route.matching.specificity();
            if best.is_none_or(|(so_far, _)| specificity > so_far) {
                best = Some((specificity, route.cluster.0));
            }
        }
        best.map(|(_, cluster)| cluster)
    }

    pub fn http(list: &[Route], host: &str, segments: &[&str], method: &str) -> Option<u32> {
        best(list, |matching| {
            matching.service.is_none()
                && matching.group.is_none()
                && matching.version.is_none()
                && matching.host.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(host))
                && matching.path_prefix.as_deref().is_none_or(|prefix| {
                    let prefix: Vec<&str> = prefix.split('/').filter(|segment| !segment.is_empty()).collect();
                    segments.starts_with(&prefix)
                })
                && fits(&matching.method, method)
        })
    }

    pub fn dubbo(list: &[Route], service: &str, group: &str, version: &str, method: &str) -> Option<u32> {
        best(list, |matching| {
            matching.host.is_none()
                && matching.path_prefix.is_none()
                && fits(&matching.service, service)
                && fits(&matching.group, group)
                && fits(&matching.version, version)
                && fits(&matching.method, method)
        })
    }
}

/// Small alphabets, so that routes collide and calls match.
fn any_route() -> impl Strategy<Value = RouteMatch> {
    let pattern = |texts: &'static [&'static str]| {
        proptest::option::weighted(0.4, proptest::sample::select(texts).prop_map(Pattern::new))
    };
    (
        proptest::option::weighted(0.4, proptest::sample::select(&["a", "A", "b", "[::1]"][..])),
        proptest::option::weighted(0.5, proptest::sample::select(&["/", "/x", "/x/", "/x/y", "/y", "/xy"][..])),
        pattern(&["S", "T", "S*", "*", "*T"]),
        pattern(&["g", "g*", "*", ""]),
        pattern(&["1", "*", ""]),
        pattern(&["GET", "G*", "*T", "*", "m"]),
    )
        .prop_map(|(host, prefix, service, group, version, method)| RouteMatch {
            host: host.map(Arc::from),
            path_prefix: prefix.map(Arc::from),
            service,
            group,
            version,
            method,
        })
}

proptest! {
    #[test]
    fn look_up_agrees_with_the_rules(
        matches in proptest::collection::vec(any_route(), 0..12),
        host in proptest::sample::select(&["a", "A", "b", "c", "[::1]"][..]),
        port in proptest::sample::select(&["", ":80"][..]),
        segments in proptest::collection::vec(proptest::sample::select(&["x", "y", "xy", "z"][..]), 0..4),
        query in proptest::sample::select(&["", "?", "?q=/x"][..]),
        method in proptest::sample::select(&["GET", "GOT", "PUT", "m"][..]),
        service in proptest::sample::select(&["S", "T", "ST", "U"][..]),
        group in proptest::sample::select(&["", "g", "g1"][..]),
        version in proptest::sample::select(&["", "1"][..]),
    ) {
        let list: Vec<Route> = matches
            .into_iter()
            .enumerate()
            .map(|(at, matching)| Route { matching, cluster: ClusterId(at as u32) })
            .collect();
        let routes = Routes::new(list.clone());

        let path = format!("/{}{query}", segments.join("/"));
        prop_assert_eq!(
            http(&routes, method, &format!("{host}{port}"), &path),
            reference::http(&list, host, &segments, method)
        );

        let expected = reference::dubbo(&list, service, group, version, method)
            .map_or(DubboRoute::NoRoute, |at| DubboRoute::To(ClusterId(at)));
        let known = if group.is_empty() { Group::None } else { Group::Is(group.as_bytes()) };
        prop_assert_eq!(dubbo(&routes, service, method, Some(version), known), expected);
        // An answer without the group must be the answer with it.
        let early = dubbo(&routes, service, method, Some(version), Group::Unknown);
        if early != DubboRoute::NeedsGroup {
            prop_assert_eq!(early, expected);
        }
    }
}
