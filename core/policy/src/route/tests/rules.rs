//! Look-ups agree with the rules, whatever the routes and the calls.

use proptest::prelude::*;

use super::*;

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

    fn holds(condition: &Condition, values: &[(String, &str)]) -> bool {
        let mut values = values.iter().filter(|(name, _)| *name == *condition.name).map(|(_, value)| *value);
        let found = values.any(|value| match &condition.test {
            Test::Present => true,
            Test::Exact(text) => value == &**text,
            Test::Prefix(text) => value.starts_with(&**text),
            Test::Regex(_) => value.chars().all(|letter| letter.is_ascii_digit()),
        });
        if condition.not { !found } else { found }
    }

    fn host_fits(wanted: &HostMatch, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        match wanted {
            HostMatch::Exact(wanted) => host == wanted.to_ascii_lowercase(),
            HostMatch::Suffix(labels) => {
                let front = host.strip_suffix(&format!(".{}", labels.to_ascii_lowercase()));
                front.is_some_and(|front| !front.is_empty() && !front.starts_with('.'))
            }
        }
    }

    fn path_fits(wanted: &PathMatch, segments: &[&str]) -> bool {
        match wanted {
            PathMatch::Exact(path) => format!("/{}", segments.join("/")) == **path,
            PathMatch::Regex(regex) => regex.matches(format!("/{}", segments.join("/")).as_bytes()),
            PathMatch::Prefix(prefix) => {
                let prefix: Vec<&str> = prefix.split('/').filter(|segment| !segment.is_empty()).collect();
                segments.starts_with(&prefix)
            }
        }
    }

    pub struct Request<'a> {
        pub host: &'a str,
        pub segments: &'a [&'a str],
        pub method: &'a str,
        pub headers: &'a [(&'a str, &'a str)],
        pub query: &'a [(&'a str, &'a str)],
    }

    pub fn http(list: &[Route], request: &Request<'_>) -> Option<u32> {
        let lower: Vec<(String, &str)> =
            request.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), *value)).collect();
        let query: Vec<(String, &str)> = request.query.iter().map(|(name, value)| (name.to_string(), *value)).collect();
        best(list, |matching| {
            matching.service.is_none()
                && matching.group.is_none()
                && matching.version.is_none()
                && matching.tag.is_none()
                && matching.attachments.is_empty()
                && matching.host.as_ref().is_none_or(|wanted| host_fits(wanted, request.host))
                && matching.path.as_ref().is_none_or(|wanted| path_fits(wanted, request.segments))
                && fits(&matching.method, request.method)
                && matching.headers.iter().all(|condition| holds(condition, &lower))
                && matching.query.iter().all(|condition| holds(condition, &query))
        })
    }

    pub struct Call<'a> {
        pub service: &'a str,
        pub group: &'a str,
        pub version: &'a str,
        pub method: &'a str,
        pub tag: &'a str,
        pub attachments: &'a [(&'a str, &'a str)],
    }

    pub fn dubbo(list: &[Route], call: &Call<'_>) -> Option<u32> {
        let attachments: Vec<_> = call.attachments.iter().map(|(name, value)| (name.to_string(), *value)).collect();
        best(list, |matching| {
            matching.host.is_none()
                && matching.path.is_none()
                && matching.headers.is_empty()
                && matching.query.is_empty()
                && fits(&matching.service, call.service)
                && fits(&matching.group, call.group)
                && fits(&matching.version, call.version)
                && fits(&matching.method, call.method)
                && fits(&matching.tag, call.tag)
                && matching.attachments.iter().all(|condition| holds(condition, &attachments))
        })
    }
}

/// Small alphabets, so that routes collide and calls match.
fn any_route() -> impl Strategy<Value = RouteMatch> {
    let pattern = |texts: &'static [&'static str]| {
        proptest::option::weighted(0.3, proptest::sample::select(texts).prop_map(Pattern::new))
    };
    let conditions = |texts: &'static [&'static str]| {
        proptest::collection::vec(proptest::sample::select(texts).prop_map(condition), 0..3)
    };
    let hosts = &["a", "A", "b.a", "[::1]", "*.a", "*.b.A", "*.c"][..];
    let paths = &[
        "path=/",
        "path=/x",
        "path=/x/",
        "path=/x/y",
        "path=/y",
        "path=/xy",
        "exact=/x",
        "exact=/",
        "exact=/x/y",
        "regex=.*y",
        "regex=.*/x",
    ][..];
    (
        proptest::option::weighted(0.5, proptest::sample::select(hosts)),
        proptest::option::weighted(0.6, proptest::sample::select(paths)),
        pattern(&["S", "T", "S*", "*", "*T"]),
        pattern(&["g", "g*", "*", ""]),
        pattern(&["1", "*", ""]),
        pattern(&["GET", "G*", "*T", "*", "m"]),
        conditions(&["h", "!h", "h=1", "!h=1", "h^1", "!h~[0-9]*", "i"]),
        conditions(&["q", "!q", "q=1", "q=", "!q^1", "Q"]),
        pattern(&["t", "t*", "*", ""]),
        conditions(&["a", "!a", "a=1", "!a=1", "a^1", "!a~[0-9]*", "A"]),
        any::<bool>(),
    )
        .prop_map(|(host, path, service, group, version, method, headers, query, tag, attachments, is_http)| {
            // Routes that no call matches would be most of them otherwise.
            let (http, dubbo) = (is_http.then_some(()), (!is_http).then_some(()));
            RouteMatch {
                host: http.and(host).map(HostMatch::from),
                path: http.and(path).and_then(|path| matching(path).path),
                service: dubbo.and(service),
                group: dubbo.and(group),
                version: dubbo.and(version),
                method,
                headers: http.map(|()| headers).unwrap_or_default(),
                query: http.map(|()| query).unwrap_or_default(),
                tag: dubbo.and(tag),
                attachments: dubbo.map(|()| attachments).unwrap_or_default(),
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn look_up_agrees_with_the_rules(
        matches in proptest::collection::vec(any_route(), 0..12),
        host in proptest::sample::select(&["a", "A", "b.a", "c.b.a", "x.c", ".a", "..a", "c", "[::1]"][..]),
        port in proptest::sample::select(&["", ":80"][..]),
        segments in proptest::collection::vec(proptest::sample::select(&["x", "y", "xy", "z", ""][..]), 0..4),
        headers in proptest::collection::vec(
            (proptest::sample::select(&["h", "H", "i"][..]), proptest::sample::select(&["1", "12", "", "a"][..])), 0..3),
        query in proptest::collection::vec(
            (proptest::sample::select(&["q", "Q", "r"][..]), proptest::sample::select(&["1", "12", "", "a"][..])), 0..3),
        method in proptest::sample::select(&["GET", "GOT", "PUT", "m"][..]),
        service in proptest::sample::select(&["S", "T", "ST", "U"][..]),
        group in proptest::sample::select(&["", "g", "g1"][..]),
        version in proptest::sample::select(&["", "1"][..]),
        tag in proptest::sample::select(&["", "t", "t1"][..]),
        attachments in proptest::collection::vec(
            (proptest::sample::select(&["a", "A", "b"][..]), proptest::sample::select(&["1", "12", "", "a"][..])), 0..3),
        told in any::<[bool; 3]>(),
    ) {
        let list: Vec<Route> = matches
            .into_iter()
            .enumerate()
            .map(|(at, matching)| Route { matching, cluster: ClusterId(at as u32), idempotent: None, priority: Priority::Default })
            .collect();
        let routes = Routes::new(list.clone());

        let parameters: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let path = format!("/{}?{}", segments.join("/"), parameters.join("&"));
        let authority = format!("{host}{port}");
        let found = http_with(&routes, method, &authority, &path, &headers);
        let request = reference::Request { host, segments: &segments, method, headers: &headers, query: &query };
        prop_assert_eq!(found, reference::http(&list, &request));

        // What is said of all headers and queries holds for these.
        let key = HttpKey {
            authority: authority.as_bytes(),
            path_and_query: path.as_bytes(),
            method: method.as_bytes(),
            headers: &Unseen,
        };
        if let Some(way) = routes.all_http(&key) {
            prop_assert_eq!(found, Some(way.cluster.0));
        }

        let call = reference::Call { service, group, version, method, tag, attachments: &attachments };
        let expected =
            reference::dubbo(&list, &call).map_or(DubboRoute::NoRoute, |at| DubboRoute::To(Way::to(ClusterId(at))));
        let attached = |text: &'static str| if text.is_empty() { Attached::None } else { Attached::Is(text.as_bytes()) };
        let all = Attachments(&attachments);
        let look_up = |told: [bool; 3]| {
            let tell = |told, text| if told { attached(text) } else { Attached::Unknown };
            let fields = told[2].then_some(&all as &dyn Fields);
            dubbo_with(&routes, service, method, Some(version), [tell(told[0], group), tell(told[1], tag)], fields)
        };
        prop_assert_eq!(look_up([true; 3]), expected);
        // An answer that comes before all is known must be the answer with all of it.
        let early = look_up(told);
        if early != DubboRoute::NeedsAttachments {
            prop_assert_eq!(early, expected);
        }
    }
}
