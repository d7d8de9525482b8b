//! Content-Length and Transfer-Encoding: RFC 9112 §6.1 to §6.3 and §11.2, RFC 9110 §5.6.1 and §8.6.

use super::Expect::{Last, One};
use super::{Case, refused};

/// Content-Length values that are no length, or more than one.
pub const NO_LENGTHS: [&str; 28] = [
    "",
    "+5",
    "-5",
    "+0",
    "-0",
    "0x5",
    "5 5",
    "5,5",
    "5, 5",
    "5, 6",
    ",5",
    "5,",
    "5;a",
    "5.0",
    "\"5\"",
    "'5'",
    "five",
    "5e0",
    "5\t5",
    "0 5",
    "5_0",
    "\u{665}",
    "0b101",
    "5L",
    "NaN",
    "18446744073709551616",
    "9223372036854775808",
    "99999999999999999999999999",
];

/// Transfer-Encoding values that are not just `chunked`.
pub const NO_CODINGS: [&str; 28] = [
    "",
    "chunked, chunked",
    "chunked,chunked",
    "chunked, identity",
    "identity",
    "identity, chunked",
    "gzip",
    "gzip, chunked",
    "chunked, gzip",
    "xchunked",
    "chunkedx",
    "x-chunked",
    "chunked;q=1",
    "chunked; a=b",
    "\"chunked\"",
    "'chunked'",
    "chunk ed",
    "chun\tked",
    "cow",
    "cow, chunked",
    "chunked cow",
    "chunked\u{a0}",
    "\u{131}chunked",
    "chunked:",
    "=chunked",
    "(chunked)",
    "chunked/1",
    "chunked=1",
];

/// Heads' fields that frame a body twice, or not in a way that all read alike.
pub const TWICE: [&str; 34] = [
    "Content-Length: 5\r\nContent-Length: 5",
    "Content-Length: 5\r\nContent-Length: 6",
    "Content-Length: 6\r\nContent-Length: 5",
    "Content-Length: 5\r\ncontent-length: 5",
    "Content-Length: 5\r\nX-Between: a\r\nContent-Length: 5",
    "Content-Length: 0\r\nContent-Length: 5",
    "Content-Length: 5\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 5",
    "Content-Length: 0\r\nTransfer-Encoding: chunked",
    "Content-Length: 5\r\nTransfer-Encoding: identity",
    "Content-Length: 5\r\nTransfer-Encoding: gzip",
    "Content-Length: 5\r\nTransfer-Encoding: ",
    "Content-Length: 5\r\ntransfer-encoding: CHUNKED",
    "TRANSFER-ENCODING: chunked\r\ncontent-length: 5",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nX: y\r\nTransfer-Encoding: cow",
    "Content-Length : 5",
    "Content-Length\t: 5",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding\t: chunked",
    "Transfer-Encoding\u{b}: chunked",
    "Transfer-Encoding:\r\n chunked",
    "Transfer-Encoding: \r\n\tchunked",
    "Content-Length: 5\r\n Transfer-Encoding: chunked",
    "X: a\r\n Content-Length: 5",
    "X: a\nContent-Length: 5",
    "X: a\rContent-Length: 5",
    "X: a\r\n\tTransfer-Encoding: chunked",
    "Content-Length: 5\nTransfer-Encoding: chunked",
    "Content-Length: 5\rTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\nContent-Length: 5",
];

pub fn cases() -> Vec<Case> {
    let chunks = "5\r\nhello\r\n0\r\n\r\n";
    let post = |fields: &str, body: &str| format!("POST /case HTTP/1.1\r\nHost: service\r\n{fields}\r\n\r\n{body}");
    let mut cases = Vec::new();
    for value in NO_LENGTHS {
        cases.push(refused(post(&format!("Content-Length: {value}"), "hello")));
    }
    for value in NO_CODINGS {
        cases.push(refused(post(&format!("Transfer-Encoding: {value}"), chunks)));
    }
    for control in ["\u{b}", "\u{c}", "\0", "\u{1}", "\u{7f}"] {
        cases.push(refused(post(&format!("Transfer-Encoding: {control}chunked"), chunks)));
        cases.push(refused(post(&format!("Transfer-Encoding: chunked{control}"), chunks)));
        cases.push(refused(post(&format!("Content-Length: {control}5"), "hello")));
        cases.push(refused(post(&format!("Content-Length: 5{control}"), "hello")));
    }
    for fields in TWICE {
        cases.push(refused(post(fields, chunks)));
    }
    // HTTP/1.0 has no codings.
    cases.push(refused(format!("POST /case HTTP/1.0\r\nHost: service\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")));
    // An empty element of a list counts for nothing, but a Content-Length beside it is one too many.
    cases.push(refused(post("Transfer-Encoding: ,\r\nContent-Length: 5", "hello")));
    cases.push(refused(post("Content-Length: 5\r\nTransfer-Encoding: , chunked", chunks)));
    // More digits than any length has, if only zeros.
    cases.push(refused(post("Content-Length: 00000000000000000000000000005", "hello")));
    let mut takes = |expect, bytes: String| cases.push(Case { bytes: bytes.into_bytes(), expect });
    let hello = One("POST", "/case", "hello");
    for fields in [
        "Content-Length: 5",
        "cOnTeNt-lEnGtH:5",
        "Content-Length:  \t 5 \t ",
        "Content-Length: 005",
        "Content-Length: 0000000000000000005",
        // Fields that only look like those which frame.
        "Content-Length: 5\r\nTE: chunked",
        "Content-Length: 5\r\nTransfer_Encoding: chunked",
        "Content-Length: 5\r\nContent_Length: 6",
        "Content-Length: 5\r\nX-Transfer-Encoding: chunked",
        "Content-Length: 5\r\nTransfer-Encodin: chunked",
        "Content-Length: 5\r\nContent-Lengths: 6",
        // Connection cannot take the framing away, nor Host (RFC 9110 §7.6.1).
        "Connection: Content-Length\r\nContent-Length: 5",
        "Connection: keep-alive, host, content-length\r\nContent-Length: 5",
        "Content-Length: 5\r\nConnection: transfer-encoding, te, content-length",
        // Who says that it waits may send at once (RFC 9110 §10.1.1).
        "Content-Length: 5\r\nExpect: 100-continue",
        "Content-Length: 5\r\nExpect: something-else",
        // No protocol but this one follows (RFC 9110 §7.8).
        "Content-Length: 5\r\nConnection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        "Content-Length: 5\r\nConnection: upgrade\r\nUpgrade: websocket",
    ] {
        takes(hello, post(fields, "hello"));
    }
    for fields in [
        "Transfer-Encoding: chunked",
        "tRANSFER-eNCODING:\tChunked ",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: , chunked",
        "Transfer-Encoding: ,,\t, chunked ,",
        "Transfer-Encoding: ,\r\nTransfer-Encoding: chunked",
        "Connection: transfer-encoding\r\nTransfer-Encoding: chunked",
    ] {
        takes(hello, post(fields, chunks));
    }
    // Old clients put an empty line behind a body (RFC 9112 §2.2).
    takes(hello, post("Content-Length: 5", "hello\r\n"));
    takes(Last("POST", "/case", "hello"), post("Content-Length: 5\r\nConnection: close", "hello"));
    takes(Last("POST", "/case", "hello"), post("Content-Length: 5\r\nConnection: keep-alive, CLOSE", "hello"));
    // Bodies where few expect them, with a request in it.
    let inner = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
    for method in ["GET", "DELETE", "OPTIONS"] {
        let head = format!("{method} /case HTTP/1.1\r\nHost: service\r\n");
        takes(One(method, "/case", inner), format!("{head}Content-Length: {}\r\n\r\n{inner}", inner.len()));
        let chunked = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
        takes(One(method, "/case", inner), format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunked}"));
    }
    takes(One("GET", "/case", ""), "GET /case HTTP/1.1\r\nHost: service\r\nContent-Length: 0\r\n\r\n".into());
    takes(One("POST", "/case", ""), "POST /case HTTP/1.1\r\nHost: service\r\n\r\n".into());
    // HTTP/1.0 ends the connection unless it asks for more (RFC 9112 §9.3).
    let old = "POST /case HTTP/1.0\r\nHost: service\r\nContent-Length: 5\r\n";
    takes(Last("POST", "/case", "hello"), format!("{old}\r\nhello"));
    takes(hello, format!("{old}Connection: keep-alive\r\n\r\nhello"));
    cases
}
