use std::cell::Cell;

use super::*;
use crate::condition::Test;

mod rules;

thread_local! {
    /// What look-ups of this thread cost: see [`looked`].
    pub(super) static LOOKS: Cell<u64> = const { Cell::new(0) };
}

/// An expression that this crate can decide itself: digits.
fn digits(text: &str) -> Regex {
    assert_eq!(text, "[0-9]*");
    Regex::new(text, Arc::new(|value: &[u8]| value.iter().all(u8::is_ascii_digit)))
}

/// `name=text`, `name^prefix`, `name~regex` or `name` alone, behind `!` for not.
fn condition(text: &str) -> Condition {
    let (not, text) = match text.strip_prefix('!') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let at = text.find(['=', '^', '~']).unwrap_or(text.len());
    let (name, value) = (&text[..at], text.get(at + 1..).unwrap_or_default());
    let test = match text.as_bytes().get(at) {
        Some(b'=') => Test::Exact(value.into()),
        Some(b'^') => Test::Prefix(value.into()),
        Some(_) => Test::Regex(digits(value)),
        None => Test::Present,
    };
    Condition { name: name.into(), not, test }
}

/// A match from `key=value` words.
fn matching(line: &str) -> RouteMatch {
    let mut matching = RouteMatch::default();
    for word in line.split_whitespace() {
        let (key, value) = word.split_once('=').unwrap();
        match key {
            "host" => matching.host = Some(value.into()),
            "path" => matching.path = Some(PathMatch::Prefix(value.into())),
            "exact" => matching.path = Some(PathMatch::Exact(value.into())),
            "regex" => {
                let end = value.strip_prefix(".*").unwrap().to_owned();
                let program = move |path: &[u8]| path.ends_with(end.as_bytes());
                matching.path = Some(PathMatch::Regex(Regex::new(value, Arc::new(program))));
            }
            "header" => matching.headers.push(condition(value)),
            "query" => matching.query.push(condition(value)),
            "service" => matching.service = Some(Pattern::new(value)),
            "group" => matching.group = Some(Pattern::new(value)),
            "tag" => matching.tag = Some(Pattern::new(value)),
            "attachment" => matching.attachments.push(condition(value)),
            "version" => matching.version = Some(Pattern::new(value)),
            "method" => matching.method = Some(Pattern::new(value)),
            _ => panic!("{key}"),
        }
    }
    matching
}

/// A route for each line; its cluster is its place in the list.
fn routes(lines: &[impl AsRef<str>]) -> Routes {
    let lines = lines.iter().enumerate();
    let routes = lines.map(|(at, line)| Route {
        matching: matching(line.as_ref()),
        cluster: ClusterId(at as u32),
        idempotent: None,
        priority: Priority::Default,
    });
    Routes::new(routes.collect())
}

fn http(routes: &Routes, method: &str, authority: &str, path: &str) -> Option<u32> {
    http_with(routes, method, authority, path, &[])
}

fn http_with(routes: &Routes, method: &str, host: &str, path: &str, headers: &[(&str, &str)]) -> Option<u32> {
    let key = HttpKey {
        authority: host.as_bytes(),
        path_and_query: path.as_bytes(),
        method: method.as_bytes(),
        headers: &headers,
    };
    routes.http(&key).map(|way| way.cluster.0)
}

fn dubbo(routes: &Routes, service: &str, method: &str, version: Option<&str>, group: Attached<'_>) -> DubboRoute {
    dubbo_with(routes, service, method, version, [group, Attached::Unknown], None)
}

fn dubbo_with(
    routes: &Routes,
    service: &str,
    method: &str,
    version: Option<&str>,
    [group, tag]: [Attached<'_>; 2],
    attachments: Option<&dyn Fields>,
) -> DubboRoute {
    routes.dubbo(&DubboKey {
        service: service.as_bytes(),
        method: method.as_bytes(),
        version: version.map(str::as_bytes),
        group,
        tag,
        attachments,
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
fn a_suffix_takes_one_label_or_more() {
    let routes = routes(&["host=*.Example.com", "host=*.a.example.com", "host=a.example.com", "host=*.com:80"]);
    let table = [
        ("b.example.com", Some(0)),
        ("B.EXAMPLE.COM:80", Some(0)),
        ("c.b.example.com", Some(0)),
        ("a.example.com", Some(2)),
        ("x.a.example.com", Some(1)),
        ("y.x.a.example.com", Some(1)),
        ("example.com", Some(3)),
        ("xample.com", Some(3)),
        ("com", None),
        (".com", None),
        (".example.com", None),
        ("b.example.com.", None),
        ("example.org", None),
        ("", None),
    ];
    for (host, expected) in table {
        assert_eq!(http(&routes, "GET", host, "/"), expected, "{host}");
    }
}

#[test]
fn an_exact_path_is_that_one_only() {
    let routes = routes(&["exact=/a", "exact=/", "exact=/%61"]);
    let table = [
        ("/a", Some(0)),
        ("/a?x=/b", Some(0)),
        ("/a/", None),
        ("/A", None),
        ("/a/b", None),
        ("/", Some(1)),
        ("", Some(1)),
        ("?x", Some(1)),
        ("*", None),
        ("/%61", Some(2)),
    ];
    for (path, expected) in table {
        assert_eq!(http(&routes, "GET", "h", path), expected, "{path}");
    }
}

#[test]
fn exact_paths_come_before_expressions_and_these_before_prefixes() {
    let routes = routes(&[
        "",
        "path=/a/b/c",
        "regex=.*c",
        "regex=.*b/c",
        "exact=/a/b/c",
        "host=h",
        "host=*.h path=/a",
        "method=GET header=x header=y query=z",
        "path=/a/b/c header=x",
    ]);
    let table = [
        ("x", "/a/b/c", 4, "an exact path"),
        ("x", "/a/c", 2, "an expression, the first of those that match"),
        ("x", "/a/b/c?d", 4, "the query is not of the path"),
        ("x", "/a/b/c/d", 1, "the prefix"),
        ("h", "/a/b/c", 5, "host before path"),
        ("g.h", "/a/b/c", 6, "a suffix before no host"),
        ("g.h", "/b/c", 2, "a suffix whose path does not match leaves the call to others"),
    ];
    for (host, path, expected, why) in table {
        assert_eq!(http(&routes, "GET", host, path), Some(expected), "{why}");
    }
    assert_eq!(
        http_with(&routes, "GET", "x", "/a/b/c/d", &[("x", "")]),
        Some(8),
        "more conditions among equal prefixes"
    );
    assert_eq!(http_with(&routes, "GET", "x", "/?z", &[("x", ""), ("y", "")]), Some(7), "conditions before none");
}

#[test]
fn all_conditions_of_a_route_must_hold_and_more_of_them_win() {
    let routes = routes(&[
        "path=/",
        "path=/ header=x-tier=gold",
        "path=/ header=x-tier=gold header=!x-debug",
        "path=/ query=v=2",
        "path=/ query=v=2 query=w",
        "path=/ method=PUT",
        "path=/ header=n~[0-9]*",
    ]);
    type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)], u32, &'static str);
    let table: [Case; 9] = [
        ("GET", "/", &[], 0, "nothing holds"),
        ("GET", "/", &[("X-Tier", "gold")], 2, "two conditions before one"),
        ("GET", "/", &[("X-Tier", "gold"), ("x-debug", "")], 1, "a header that is there, though empty"),
        ("GET", "/", &[("X-Tier", "Gold")], 0, "values have a case"),
        ("GET", "/?v=2", &[("X-Tier", "gold"), ("x-debug", "")], 1, "headers before the query"),
        ("GET", "/?v=2", &[], 3, "the query"),
        ("GET", "/?w&v=2", &[], 4, "two conditions before one"),
        ("PUT", "/?w&v=2", &[("X-Tier", "gold")], 5, "the method before conditions"),
        ("GET", "/?v=2", &[("n", "17")], 6, "an expression"),
    ];
    for (method, path, headers, expected, why) in table {
        assert_eq!(http_with(&routes, method, "h", path, headers), Some(expected), "{why}");
    }
}

/// Headers that nobody may look at.
struct Unseen;

impl Fields for Unseen {
    fn any(&self, name: &str, _: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        panic!("{name} was looked at");
    }
}

#[test]
fn headers_are_looked_at_only_for_routes_that_ask_and_fit_otherwise() {
    let routes = routes(&["host=h path=/ header=x", "host=g method=GET header=x", "path=/a"]);
    for (method, host, path) in [("GET", "i", "/a"), ("PUT", "g", "/a")] {
        let key = HttpKey {
            authority: host.as_bytes(),
            path_and_query: path.as_bytes(),
            method: method.as_bytes(),
            headers: &Unseen,
        };
        assert_eq!(routes.http(&key), Some(Way::to(ClusterId(2))));
    }
}

#[test]
fn a_cluster_for_all_headers_and_queries_is_said_only_if_there_is_one() {
    let same = ClusterId(7);
    let mut list = routes(&[
        "host=a path=/ header=x",
        "host=a path=/",
        "host=b header=x",
        "host=c header=x",
        "host=c header=x query=y",
        "host=c",
        "path=/d header=x",
        "path=/d",
        "path=/d/e",
        "host=e header=x",
        "host=e header=y",
        "host=e",
    ])
    .list()
    .to_vec();
    for at in [3, 4, 5, 9, 11] {
        list[at].cluster = same;
    }
    let routes = Routes::new(list);
    let all = |host: &str, path: &str| {
        let key =
            HttpKey { authority: host.as_bytes(), path_and_query: path.as_bytes(), method: b"GET", headers: &Unseen };
        routes.all_http(&key).map(|way| way.cluster)
    };
    assert_eq!(all("a", "/"), None, "x decides");
    assert_eq!(all("b", "/"), None, "without x there is none");
    assert_eq!(all("c", "/"), Some(same), "whatever holds");
    assert_eq!(all("e", "/"), None, "y decides, and x does not");
    assert_eq!(all("x", "/d"), None, "x decides");
    assert_eq!(all("x", "/d/e"), Some(ClusterId(8)), "a better route than those that look");
    assert_eq!(all("x", "/"), None, "no route");
}

#[test]
fn a_route_says_whether_its_calls_are_idempotent() {
    let mut list = routes(&[
        "host=a",
        "host=a header=x",
        "host=b method=GET",
        "host=c",
        "host=c header=x",
        "service=S method=get*",
    ])
    .list()
    .to_vec();
    for (at, idempotent) in [(0, true), (1, true), (2, false), (3, true), (5, true)] {
        list[at].idempotent = Some(idempotent);
    }
    for at in [1, 4] {
        list[at].cluster = list[at - 1].cluster;
    }
    let routes = Routes::new(list);
    let key = |host: &'static str| HttpKey {
        authority: host.as_bytes(),
        path_and_query: b"/",
        method: b"GET",
        headers: &Unseen,
    };
    assert_eq!(
        routes.http(&key("b")),
        Some(Way { cluster: ClusterId(2), idempotent: Some(false), priority: Priority::Default })
    );
    assert_eq!(
        routes.all_http(&key("a")),
        Some(Way { cluster: ClusterId(0), idempotent: Some(true), priority: Priority::Default })
    );
    let unsure = Some(Way { cluster: ClusterId(3), idempotent: Some(false), priority: Priority::Default });
    assert_eq!(routes.all_http(&key("c")), unsure, "with x the method decides, without it the route does");
    let of = |method| dubbo(&routes, "S", method, None, Attached::None);
    assert_eq!(
        of("getAll"),
        DubboRoute::To(Way { cluster: ClusterId(5), idempotent: Some(true), priority: Priority::Default })
    );
    assert_eq!(of("put"), DubboRoute::NoRoute);
}

/// Ten thousand routes cost no more than twice what ten do. Counted, not timed: every look into a table and every
/// route that is looked at.
#[test]
fn ten_thousand_routes_cost_what_ten_do() {
    type Line = fn(usize) -> String;
    type Call = fn(usize) -> (String, String);
    let shapes: [(&str, Line, Call); 6] = [
        ("hosts", |n| format!("host=h{n}"), |n| (format!("h{n}"), "/".into())),
        ("hosts and prefixes", |n| format!("host=h{n} path=/p{n}"), |n| (format!("h{n}"), format!("/p{n}/x"))),
        ("suffixes", |n| format!("host=*.h{n}.local"), |n| (format!("a.h{n}.local"), "/".into())),
        ("prefixes of one host", |n| format!("host=h path=/a/{n}"), |n| ("h".into(), format!("/a/{n}/x/y"))),
        ("paths of one host", |n| format!("host=h exact=/a/{n}"), |n| ("h".into(), format!("/a/{n}"))),
        ("prefixes of any host", |n| format!("path=/{n}/a header=x"), |n| ("h".into(), format!("/{n}/a"))),
    ];
    for (what, line, call) in shapes {
        let cost = |count: usize| {
            let lines: Vec<String> = (0..count).map(line).collect();
            let routes = routes(&lines);
            let look = |n: usize, expected: Option<u32>| {
                let (host, path) = call(n);
                LOOKS.set(0);
                assert_eq!(http_with(&routes, "GET", &host, &path, &[("x", "")]), expected, "{what} {host} {path}");
                LOOKS.get()
            };
            let found = [0, count / 2, count - 1].map(|n| look(n, Some(n as u32)));
            // A call that no route takes must not cost more either.
            let missed = look(count, None);
            found.into_iter().chain([missed]).max().unwrap()
        };
        let (ten, ten_thousand) = (cost(10), cost(10_000));
        assert!(ten > 0 && ten_thousand <= 2 * ten, "{what}: {ten_thousand} looks, and {ten} with ten routes");
    }
}

/// Segments and labels cost a look each as far as routes go, and none beyond.
#[test]
fn a_long_path_or_host_costs_no_more_than_the_longest_of_a_route() {
    let routes = routes(&["path=/a/b", "host=*.b.a"]);
    LOOKS.set(0);
    http(&routes, "GET", &format!("{}b.a", "x.".repeat(100)), &"/a".repeat(4_000));
    assert!(LOOKS.get() <= 6, "{} looks", LOOKS.get());
}

#[test]
fn keys_of_one_protocol_keep_a_route_to_it() {
    let routes = routes(&["host=h", "path=/", "service=S", "group=*", "version=*", "method=m"]);
    assert_eq!(http(&routes, "m", "h", "/"), Some(0));
    assert_eq!(http(&routes, "m", "x", "/"), Some(1));
    assert_eq!(dubbo(&routes, "S", "x", None, Attached::None), DubboRoute::To(Way::to(ClusterId(2))));
    assert_eq!(dubbo(&routes, "T", "x", None, Attached::None), DubboRoute::To(Way::to(ClusterId(3))));
    let method_only = self::routes(&["method=m"]);
    assert_eq!(http(&method_only, "m", "x", "/"), Some(0));
    assert_eq!(dubbo(&method_only, "S", "m", None, Attached::None), DubboRoute::To(Way::to(ClusterId(0))));
    assert_eq!(dubbo(&method_only, "S", "n", None, Attached::None), DubboRoute::NoRoute);
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
    let to = |at| DubboRoute::To(Way::to(ClusterId(at)));
    let table = [
        ("S", "sayHello", Attached::Unknown, DubboRoute::NeedsAttachments),
        ("S", "sayHello", Attached::Is(b"g1"), to(0)),
        ("S", "sayHello", Attached::Is(b"g2"), to(1)),
        ("S", "sayHello", Attached::None, to(1)),
        ("S", "ask", Attached::Unknown, to(1)),
        ("T", "m", Attached::Unknown, to(2)),
        ("T", "m", Attached::None, to(2)),
        ("U", "m", Attached::Unknown, to(3)),
        ("Ux", "m", Attached::Unknown, DubboRoute::NeedsAttachments),
        ("Ux", "m", Attached::None, DubboRoute::NoRoute),
        ("V", "m", Attached::None, to(5)),
        ("V", "m", Attached::Is(b""), to(5)),
        ("V", "m", Attached::Is(b"g"), DubboRoute::NoRoute),
        ("W", "m", Attached::Unknown, DubboRoute::NoRoute),
    ];
    for (service, method, group, expected) in table {
        assert_eq!(dubbo(&routes, service, method, None, group), expected, "{service}.{method} {group:?}");
    }
}

/// Attachments; their names have a case.
struct Attachments<'a>(&'a [(&'a str, &'a str)]);

impl Fields for Attachments<'_> {
    fn any(&self, name: &str, fits: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.0.iter().any(|(other, value)| *other == name && fits(value.as_bytes()))
    }
}

#[test]
fn tag_and_attachments_are_asked_for_only_when_they_decide() {
    let routes = routes(&[
        "service=S",
        "service=S tag=gray",
        "service=S method=m",
        "service=S attachment=tenant=a",
        "service=S attachment=tenant=a attachment=!debug",
        "service=T tag=*",
        "service=U group=g attachment=tenant",
        "service=U",
        "service=V tag=",
    ]);
    let to = |at| DubboRoute::To(Way::to(ClusterId(at)));
    let needs = DubboRoute::NeedsAttachments;
    let (unknown, none, gray) = (Attached::Unknown, Attached::None, Attached::Is(b"gray"));
    let attachments = |list: &'static [(&'static str, &'static str)]| Some(list);
    let table = [
        ("S", "x", none, unknown, None, needs, "the tag decides"),
        ("S", "x", none, gray, None, to(1), "the tag is known, and comes before conditions"),
        ("S", "x", none, none, None, needs, "conditions decide"),
        ("S", "m", none, unknown, None, to(2), "the method comes before both"),
        ("S", "x", none, none, attachments(&[]), to(0), "none holds"),
        ("S", "x", none, none, attachments(&[("tenant", "a"), ("debug", "")]), to(3), "one holds"),
        ("S", "x", none, none, attachments(&[("tenant", "a")]), to(4), "two hold"),
        ("S", "x", none, none, attachments(&[("Tenant", "a")]), to(0), "names have a case"),
        ("T", "x", none, unknown, None, to(5), "any tag, so it need not be known"),
        ("U", "x", none, unknown, None, to(7), "the group is not the one, so nothing else matters"),
        ("U", "x", Attached::Is(b"g"), unknown, None, needs, "the group is"),
        (
            "U",
            "x",
            unknown,
            unknown,
            attachments(&[]),
            to(7),
            "the condition does not hold, so the group does not matter",
        ),
        ("V", "x", none, none, None, to(8), "no tag"),
        ("V", "x", none, gray, None, DubboRoute::NoRoute, "a tag where none is asked for"),
    ];
    for (service, method, group, tag, attachments, expected, why) in table {
        let attachments = attachments.map(Attachments);
        let attachments = attachments.as_ref().map(|list| list as &dyn Fields);
        assert_eq!(dubbo_with(&routes, service, method, None, [group, tag], attachments), expected, "{why}");
    }
    let names: Vec<&str> = routes.attachment_names().iter().map(|name| &**name).collect();
    assert_eq!(names, ["debug", "dubbo.tag", "group", "tenant"]);
}

/// A call that is not read may have any service, group, version and method: none at all is not what it has.
#[test]
fn what_is_not_read_goes_only_where_nothing_is_asked() {
    let asking = [
        "service=S",
        "version=",
        "version=0.0.0",
        "group=",
        "group=g1",
        "method=m*",
        "service=* version=",
        "tag=gray",
        "tag=",
        "attachment=a",
    ];
    assert_eq!(routes(&asking).unread_dubbo(), None);
    for open in ["", "service=*", "service=* group=* version=* method=* tag=*"] {
        let list: Vec<&str> = asking.into_iter().chain(["host=h", open]).collect();
        assert_eq!(routes(&list).unread_dubbo(), Some(Way::to(ClusterId(11))), "{open:?}");
    }
}

#[test]
fn no_version_has_three_spellings() {
    for pattern in ["version=", "version=0.0.0"] {
        let routes = routes(&[pattern, "version=1.*"]);
        for version in [None, Some(""), Some("0.0.0")] {
            assert_eq!(
                dubbo(&routes, "S", "m", version, Attached::None),
                DubboRoute::To(Way::to(ClusterId(0))),
                "{version:?}"
            );
        }
        assert_eq!(dubbo(&routes, "S", "m", Some("1.0.0"), Attached::None), DubboRoute::To(Way::to(ClusterId(1))));
        assert_eq!(dubbo(&routes, "S", "m", Some("2.0.0"), Attached::None), DubboRoute::NoRoute);
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
        let found = dubbo(&routes, service, method, version, Attached::Is(b"g"));
        assert_eq!(found, DubboRoute::To(Way::to(ClusterId(expected))), "{why}");
    }
    let found = dubbo(&routes, "org.T", "m", Some("1.0.0"), Attached::None);
    assert_eq!(found, DubboRoute::To(Way::to(ClusterId(2))), "version before method alone");
}
