//! Request lines and fields: RFC 9112 §2.2, §3, §5 and §9.3, RFC 9110 §2.5, §5, §7.2 and §9.3.6, RFC 6585 §5.

use super::Case;
use super::Expect::{self, Elsewhere, Last, One, Refused, Status};

/// First lines that are none, each before `Host: service`.
const NO_LINES: [&str; 44] = [
    "GET  /case HTTP/1.1",
    "GET /case  HTTP/1.1",
    " GET /case HTTP/1.1",
    "GET /case HTTP/1.1 ",
    "GET\t/case HTTP/1.1",
    "GET /case\tHTTP/1.1",
    "GET /case",
    "GET",
    "/case HTTP/1.1",
    "GET HTTP/1.1",
    "GET /ca se HTTP/1.1",
    "GET /case HTTP/1.1 HTTP/1.1",
    "GET /case http/1.1",
    "GET /case HTTP/1.1x",
    "GET /case HTTP/01.1",
    "GET /case HTTP/1.01",
    "GET /case HTTP/1,1",
    "GET /case HTTP/1",
    "GET /case HTTP/1.",
    "GET /case HTTP/.1",
    "GET /case HTTP1.1",
    "GET /case HTTP /1.1",
    "GET /case HTTP/ 1.1",
    "GET /case HTTP/+1.1",
    "GET /case HTTP/0.9",
    "GET /case HTTP/2.0",
    "GET /case HTTP/3.0",
    "GET /case HTTP/9.9",
    "GET /case HTTPS/1.1",
    "GET /case ICAP/1.0",
    "GE(T /case HTTP/1.1",
    "G@T /case HTTP/1.1",
    "GET: /case HTTP/1.1",
    "G\0T /case HTTP/1.1",
    "\u{b}GET /case HTTP/1.1",
    "GET /ca\0se HTTP/1.1",
    "GET /ca\u{1}se HTTP/1.1",
    "GET /ca\u{7f}se HTTP/1.1",
    "GET /ca\u{b}se HTTP/1.1",
    "GET /ca\rse HTTP/1.1",
    "GET case HTTP/1.1",
    "GET * HTTP/1.1",
    "GET ?case HTTP/1.1",
    "\u{feff}GET /case HTTP/1.1",
];

/// Fields of which none may be read as another or as the end of the head.
pub const NO_FIELDS: [&str; 26] = [
    "X",
    "X y",
    ": y",
    " X: y",
    "X : y",
    "X\t: y",
    "X\u{b}: y",
    "X(: y",
    "X@: y",
    "X\u{e9}: y",
    "X[0]: y",
    "\"X\": y",
    "X\0: y",
    "X: a\0b",
    "X: a\u{1}b",
    "X: a\u{7f}b",
    "X: a\u{b}b",
    "X: a\rb",
    "X: a\r\n b",
    "X: a\r\n\tb",
    "X: a\r\n b: c",
    "X: a\nY: b",
    "X: a\n\nGET /x HTTP/1.1",
    "X: a\r\r\nY: b",
    "X: a\n\r\nY: b",
    "X;: y",
];

/// Values of Host that are no host.
const NO_HOSTS: [&str; 22] = [
    "a, b",
    "service, service",
    "user@service",
    "user:password@service",
    "service/x",
    "service?x",
    "service#x",
    "http://service",
    "serv ice",
    "service other",
    "service\tother",
    "service:x",
    "service:99999",
    "service:-1",
    "service:+80",
    "service:80:80",
    "[::1",
    "::1]",
    "service\\x",
    "<service>",
    "service\"",
    "ser\u{e9}vice",
];

/// Targets that have no form which GET takes (RFC 9112 §3.2), or an authority that is none (RFC 9110 §4.2).
const NO_TARGETS: [&str; 20] = [
    "http://",
    "http:///case",
    "http://user@service/case",
    "http://user:password@service/case",
    "http://service:99999/case",
    "http://service:x/case",
    "http://a,b/case",
    "http://service\\other/case",
    "http://[::1/case",
    "http://service%/case",
    "http:/case",
    "http:case",
    "https://service/case",
    "ftp://service/case",
    "service:80",
    "service/case",
    "/case#x",
    "http://service/case#x",
    "#",
    "\u{e9}",
];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |expect: Expect, text: String| cases.push(Case { bytes: text.into_bytes(), expect });
    for line in NO_LINES {
        case(Refused, format!("{line}\r\nHost: service\r\n\r\n"));
    }
    for field in NO_FIELDS {
        case(Refused, format!("GET /case HTTP/1.1\r\nHost: service\r\n{field}\r\n\r\n"));
        // As the first of them.
        case(Refused, format!("GET /case HTTP/1.1\r\n{field}\r\nHost: service\r\n\r\n"));
    }
    for host in NO_HOSTS {
        case(Refused, format!("GET /case HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    }
    for fields in [
        "X: y",
        "Host: service\r\nHost: service",
        "Host: service\r\nHost: other",
        "Host: other\r\nX: y\r\nhost: service",
        "Host: service\r\nHOST: service",
        "Host : service",
        "Host\t: service",
        " Host: service",
        "Host: service\r\n other",
        "Host: service\nHost: other",
        "Host: service\rHost: other",
        "Host: service\r\nHost:",
        "Host:",
        "Host: \t",
    ] {
        case(Refused, format!("GET /case HTTP/1.1\r\n{fields}\r\n\r\n"));
    }
    // Line ends that only some see.
    for text in [
        "GET /case HTTP/1.1\nHost: service\n\n",
        "GET /case HTTP/1.1\r\nHost: service\n\r\n",
        "GET /case HTTP/1.1\r\nHost: service\r\n\n",
        "GET /case HTTP/1.1\nHost: service\r\n\r\n",
        "GET /case HTTP/1.1\rHost: service\r\r",
        "GET /case HTTP/1.1\r\nHost: service\r\n\r\r\n",
        "\nGET /case HTTP/1.1\r\nHost: service\r\n\r\n",
        "\rGET /case HTTP/1.1\r\nHost: service\r\n\r\n",
        "\r\n\r\nGET /case HTTP/1.1\r\nHost: service\r\n\r\n",
        " \r\nGET /case HTTP/1.1\r\nHost: service\r\n\r\n",
    ] {
        case(Refused, text.into());
    }
    let plain = One("GET", "/case", "");
    for text in [
        "GET /case HTTP/1.1\r\nHost: service\r\n\r\n",
        "GET /case HTTP/1.1\r\nhOST:service\r\n\r\n",
        "GET /case HTTP/1.1\r\nHost: \t service \t\r\n\r\n",
        "GET /case HTTP/1.1\r\nHost: service\r\nX:\r\n\r\n",
        "GET /case HTTP/1.1\r\nHost: service\r\nX: : a:b\r\n\r\n",
        "GET /case HTTP/1.1\r\nHost: service\r\nX: \u{e9}\r\n\r\n",
        "GET /case HTTP/1.1\r\nX: y\r\nHost: service\r\n\r\n",
        "\r\nGET /case HTTP/1.1\r\nHost: service\r\n\r\n",
    ] {
        case(plain, text.into());
    }
    case(One("get", "/case", ""), "get /case HTTP/1.1\r\nHost: service\r\n\r\n".into());
    case(One("OPTIONS", "*", ""), "OPTIONS * HTTP/1.1\r\nHost: service\r\n\r\n".into());
    case(One("GET", "/case?a=/../b&c", ""), "GET /case?a=/../b&c HTTP/1.1\r\nHost: service\r\n\r\n".into());
    // A backslash is no slash, two slashes are no authority, and nothing is decoded (RFC 9112 §3.2.1).
    for target in [
        "/case\\x",
        "//service/case",
        "/%2e%2e/%00%0d%0aHost:%20x",
        "/case;a=b?c=http://other/",
        "/case?",
        "/http://other/",
    ] {
        case(One("GET", target, ""), format!("GET {target} HTTP/1.1\r\nHost: service\r\n\r\n"));
    }
    // What a peer says of a higher minor version is 1.1 to us (RFC 9110 §2.5).
    case(plain, "GET /case HTTP/1.2\r\nHost: service\r\n\r\n".into());
    // The target's host is the one that counts (RFC 9112 §3.2.2).
    for text in [
        "GET http://service/case HTTP/1.1\r\nHost: service\r\n\r\n",
        "GET http://service/case HTTP/1.1\r\nHost: other\r\n\r\n",
        "GET HTTP://SERVICE/case HTTP/1.1\r\nHost: service\r\n\r\n",
        "GET http://service:80/case HTTP/1.1\r\nHost: other:81\r\n\r\n",
    ] {
        case(plain, text.into());
    }
    case(One("GET", "/?case", ""), "GET http://service?case HTTP/1.1\r\nHost: other\r\n\r\n".into());
    case(One("OPTIONS", "*", ""), "OPTIONS http://service HTTP/1.1\r\nHost: other\r\n\r\n".into());
    for text in [
        "GET http://other/case HTTP/1.1\r\nHost: service\r\n\r\n",
        "GET http://other HTTP/1.1\r\nHost: service\r\n\r\n",
        "GET http://service.other/case HTTP/1.1\r\nHost: service\r\n\r\n",
        "GET /case HTTP/1.1\r\nHost: other\r\n\r\n",
        "GET /case HTTP/1.1\r\nHost: servi%63e\r\n\r\n",
        "GET http://[::1]/case HTTP/1.1\r\nHost: service\r\n\r\n",
    ] {
        case(Elsewhere, text.into());
    }
    for target in NO_TARGETS {
        case(Refused, format!("GET {target} HTTP/1.1\r\nHost: service\r\n\r\n"));
    }
    // One Host beside an absolute target, too, and a valid one.
    case(Refused, "GET http://service/case HTTP/1.1\r\n\r\n".into());
    case(Refused, "GET http://service/case HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into());
    case(Refused, "GET http://service/case HTTP/1.1\r\nHost: a, b\r\n\r\n".into());
    // CONNECT is not allowed, whatever follows it.
    case(Status(405), "CONNECT service:443 HTTP/1.1\r\nHost: service:443\r\n\r\n".into());
    case(
        Status(405),
        "CONNECT service:80 HTTP/1.1\r\nHost: service\r\n\r\nGET /x HTTP/1.1\r\nHost: service\r\n\r\n".into(),
    );
    for target in ["service", "service:", "service:0", "/case", "http://service/", "user@service:443", ":443", "*"] {
        case(Refused, format!("CONNECT {target} HTTP/1.1\r\nHost: service\r\n\r\n"));
    }
    // HTTP/2 with prior knowledge, and its preface spoilt (RFC 9113 §3.4).
    case(Status(505), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into());
    case(Refused, "PRI * HTTP/1.1\r\nHost: service\r\n\r\nSM\r\n\r\n".into());
    // A service that does not switch protocols has answered in this one, and what was sent ahead is the next request (RFC 9110 §7.8).
    for fields in [
        "Connection: upgrade\r\nUpgrade: websocket",
        "Connection: Upgrade, x\r\nUpgrade: a, b/2\r\nUpgrade: c",
        "Connection: upgrade\r\nUpgrade: h2c",
        "Connection: upgrade",
        "Upgrade: websocket",
    ] {
        case(plain, format!("GET /case HTTP/1.1\r\nHost: service\r\n{fields}\r\n\r\n"));
    }
    // A connection that ends behind the answer, as its client wants it.
    for fields in [
        "Connection: close",
        "Connection: x, close",
        "Connection: Close\r\nConnection: keep-alive",
        "Connection: clo se",
    ] {
        case(Last("GET", "/case", ""), format!("GET /case HTTP/1.1\r\nHost: service\r\n{fields}\r\n\r\n"));
    }
    case(Last("GET", "/case", ""), "GET /case HTTP/1.0\r\nHost: service\r\n\r\n".into());
    case(Last("GET", "/case", ""), "GET http://service/case HTTP/1.0\r\n\r\n".into());
    // Nobody's request, as HTTP/1.0 need not say whose (RFC 9112 §3.2).
    case(Status(404), "GET /case HTTP/1.0\r\n\r\n".into());
    // Limits, each a byte or a line too far.
    let get = |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\nHost: service\r\n{fields}\r\n");
    case(Status(414), get(&format!("/{}", "a".repeat(8 * 1024)), ""));
    case(Status(431), get("/case", &"X: y\r\n".repeat(128)));
    case(Status(431), get("/case", &format!("X: {}\r\n", "a".repeat(64 * 1024))));
    case(Status(431), get("/case", &format!("Connection: {}\r\n", ["a"; 33].join(","))));
    case(Status(431), get("/case", &format!("Connection: {}\r\n", ",".repeat(64))));
    case(Status(501), format!("{} /case HTTP/1.1\r\nHost: service\r\n\r\n", "A".repeat(65)));
    case(plain, get("/case", &"X: y\r\n".repeat(127)));
    case(plain, get("/case", &format!("X: {}\r\n", "a".repeat(60 * 1024))));
    cases
}
