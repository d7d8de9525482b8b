//! Header lines and what they say about framing and connection, by requests.

use super::*;
use HeadError::*;

fn refused(text: &[u8], expected: HeadError) {
    assert_refused_at_every_cut(text, expected, |front| parse_request(front).map(|(status, _)| status));
}

#[test]
fn header_line_rules() {
    let table: &[(&str, &[u8], HeadError)] = &[
        ("RFC 9112 5.1 space before colon", b"X : y\r\n", SpaceBeforeColon),
        ("RFC 9112 5.1 tab before colon", b"X\t: y\r\n", SpaceBeforeColon),
        ("RFC 9112 5.1 colon", b"X\r\n", BadHeaderName),
        ("RFC 9110 5.1 name", b": y\r\n", BadHeaderName),
        ("RFC 9110 5.1 token", b"X(: y\r\n", BadHeaderName),
        ("RFC 9110 5.1 token", b"X\x00: y\r\n", BadHeaderName),
        ("RFC 9110 5.1 token", b"X\xc3\xa9: y\r\n", BadHeaderName),
        ("RFC 9112 5.2 obs-fold", b"X: y\r\n z\r\n", ObsFold),
        ("RFC 9112 5.2 obs-fold by tab", b"X: y\r\n\tz\r\n", ObsFold),
        ("RFC 9110 5.5 NUL", b"X: a\x00b\r\n", BadHeaderValue),
        ("RFC 9110 5.5 control byte", b"X: a\x1fb\r\n", BadHeaderValue),
        ("RFC 9110 5.5 DEL", b"X: a\x7fb\r\n", BadHeaderValue),
        ("RFC 9112 2.2 bare CR", b"X: a\rb\r\n", BareCr),
        ("RFC 9112 2.2 bare CR at the end", b"X: a\r\r\n", BareCr),
        ("RFC 9112 2.2 bare LF", b"X: a\nY: b\r\n", BareLf),
        ("RFC 9112 2.2 bare LF in a name", b"X\nY: b\r\n", BareLf),
        ("RFC 9112 2.2 final line", b"\n", BareLf),
        ("RFC 9112 2.2 final line", b"\rX", BareCr),
        ("RFC 9112 3.2 two Hosts", b"Host: h\r\n", DuplicateHost),
        ("RFC 9112 3.2 two Hosts, any case", b"hOST: g\r\n", DuplicateHost),
    ];
    for (rule, lines, expected) in table {
        println!("{rule}");
        let front: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n";
        refused(&[front, lines, b"\r\n"].concat(), *expected);
    }
    refused(b"GET / HTTP/1.1\r\n Host: h\r\n\r\n", LeadingWhitespace);
}

#[test]
fn obs_text_and_tabs_are_values() {
    // RFC 9110 5.5
    let text = with_headers("X: caf\u{e9} \t x\r\n");
    let head = request(&text);
    assert_eq!(head.header(&text, "x"), Some("caf\u{e9} \t x".as_bytes()));
}

#[test]
fn host_rules() {
    // RFC 9112 3.2, RFC 9110 7.2
    refused(b"GET / HTTP/1.1\r\n\r\n", MissingHost);
    refused(b"GET http://a/ HTTP/1.1\r\n\r\n", MissingHost);
    for value in ["", "a b", "a, b", "a,b", "u@a", "a/b", "http://a", "a:b", "a:99999", "a\u{e9}", "[::1"] {
        let text = format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n");
        refused(text.as_bytes(), BadHost);
    }
    let old = b"GET /x HTTP/1.0\r\n\r\n";
    let head = request(old);
    assert!(head.authority.is_empty() && !head.keep_alive);
    assert_eq!(head.version, Version::Http10);
    refused(b"GET / HTTP/1.0\r\nHost: a b\r\n\r\n", BadHost);
}

#[test]
fn framing_rules() {
    let table: &[(&str, &str, HeadError)] = &[
        ("RFC 9112 6.1 TE and CL", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", LengthAndTransferEncoding),
        ("RFC 9112 6.1 TE and CL", "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", LengthAndTransferEncoding),
        ("RFC 9110 5.6.1 empty TE and CL", "Transfer-Encoding:\r\nContent-Length: 3\r\n", LengthAndTransferEncoding),
        ("RFC 9112 6.3 differing CLs", "Content-Length: 3\r\nContent-Length: 4\r\n", DuplicateContentLength),
        ("RFC 9112 6.3 equal CLs", "Content-Length: 3\r\ncontent-length: 3\r\n", DuplicateContentLength),
        ("RFC 9112 6.3 list of CLs", "Content-Length: 5, 5\r\n", BadContentLength),
        ("RFC 9110 8.6 digits", "Content-Length: +5\r\n", BadContentLength),
        ("RFC 9110 8.6 digits", "Content-Length: -1\r\n", BadContentLength),
        ("RFC 9110 8.6 digits", "Content-Length:\r\n", BadContentLength),
        ("RFC 9110 8.6 digits", "Content-Length: 0x10\r\n", BadContentLength),
        ("RFC 9110 8.6 digits", "Content-Length: 1 0\r\n", BadContentLength),
        ("RFC 9110 8.6 digits", "Content-Length: 1.0\r\n", BadContentLength),
        ("RFC 9110 8.6 overflow", "Content-Length: 9223372036854775808\r\n", BadContentLength),
        ("RFC 9110 8.6 overflow", "Content-Length: 18446744073709551617\r\n", BadContentLength),
        ("RFC 9110 8.6 overflow", "Content-Length: 00000000000000000001\r\n", BadContentLength),
        ("RFC 9112 6.3 not final", "Transfer-Encoding: gzip\r\n", BadTransferEncoding),
        ("RFC 9112 6.3 not final", "Transfer-Encoding: chunked, gzip\r\n", BadTransferEncoding),
        (
            "RFC 9112 6.3 not final",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            BadTransferEncoding,
        ),
        ("RFC 9112 6.3 not chunked", "Transfer-Encoding: xchunked\r\n", BadTransferEncoding),
        ("RFC 9112 6.3 not chunked", "Transfer-Encoding: \"chunked\"\r\n", BadTransferEncoding),
        ("RFC 9112 6.3 not chunked", "Transfer-Encoding: chunked chunked\r\n", BadTransferEncoding),
        ("RFC 9112 6.3 none", "Transfer-Encoding: ,\r\n", BadTransferEncoding),
        ("RFC 9112 7.1 twice", "Transfer-Encoding: chunked, chunked\r\n", BadTransferEncoding),
        ("RFC 9112 7.1 twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", BadTransferEncoding),
        ("RFC 9112 7.1 parameter", "Transfer-Encoding: chunked;q=1\r\n", BadTransferEncoding),
        ("RFC 9112 6.1 unknown", "Transfer-Encoding: gzip, chunked\r\n", UnknownTransferCoding),
        (
            "RFC 9112 6.1 unknown",
            "Transfer-Encoding: gzip;q=1\r\nTransfer-Encoding: chunked\r\n",
            UnknownTransferCoding,
        ),
    ];
    for (rule, lines, expected) in table {
        println!("{rule}");
        refused(&with_headers(lines), *expected);
    }
    refused(b"POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", TransferEncodingInHttp10);
}

#[test]
fn bodies_that_are_understood() {
    // RFC 9112 6.3
    let table = [
        ("", BodyKind::None),
        ("Content-Length: 0\r\n", BodyKind::Length(0)),
        ("Content-Length:007 \r\n", BodyKind::Length(7)),
        ("Content-Length: 9223372036854775807\r\n", BodyKind::Length(i64::MAX as u64)),
        ("Transfer-Encoding: CHUNKED\r\n", BodyKind::Chunked),
        ("Transfer-Encoding: , chunked\r\n", BodyKind::Chunked),
        ("Transfer-Encoding: ,\r\nTransfer-Encoding: \tchunked ,\r\n", BodyKind::Chunked),
    ];
    for (lines, body) in table {
        assert_eq!(request(&with_headers(lines)).body, body, "{lines}");
    }
}

#[test]
fn persistence() {
    // RFC 9112 9.3
    let table = [
        ("1.1", "", true),
        ("1.1", "Connection: keep-alive\r\n", true),
        ("1.1", "Connection: Close\r\n", false),
        ("1.1", "Connection: x, ,close\r\n", false),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
        ("1.1", "Connection: closed\r\n", true),
        ("1.1", "Connection: clo se\r\n", false),
        ("1.1", "Proxy-Connection: close\r\n", true),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
        ("1.0", "Proxy-Connection: keep-alive\r\n", false),
    ];
    for (version, lines, expected) in table {
        let text = format!("GET / HTTP/{version}\r\nHost: h\r\n{lines}\r\n");
        assert_eq!(request(text.as_bytes()).keep_alive, expected, "{version} {lines}");
    }
}

#[test]
fn upgrade_and_expect() {
    // RFC 9110 7.8, 10.1.1: (version, lines, upgrade, expect_continue)
    let table = [
        ("1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n", true, false),
        ("1.1", "Upgrade: websocket\r\nConnection: keep-alive, upgrade\r\n", true, false),
        ("1.1", "Upgrade: websocket\r\n", false, false),
        ("1.1", "Connection: upgrade\r\n", false, false),
        ("1.1", "Connection: upgrade\r\nUpgrade:\r\n", false, false),
        ("1.1", "Connection: upgrade\r\nUpgrade: H2C, websocket\r\n", false, false),
        ("1.1", "Connection: upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n", false, false),
        ("1.0", "Connection: upgrade\r\nUpgrade: websocket\r\n", false, false),
        ("1.1", "Expect: 100-Continue\r\n", false, true),
        ("1.1", "Expect: 200-ok\r\n", false, false),
        ("1.0", "Expect: 100-continue\r\n", false, false),
    ];
    for (version, lines, upgrade, expect) in table {
        let text = format!("GET / HTTP/{version}\r\nHost: h\r\n{lines}\r\n");
        let head = request(text.as_bytes());
        assert_eq!(head.upgrade, upgrade, "{version} {lines}");
        assert_eq!(head.expect_continue, expect, "{version} {lines}");
    }
}

#[test]
fn header_and_option_counts_are_limited() {
    let lines = |count: usize| with_headers(&"A: b\r\n".repeat(count - 1));
    assert_eq!(request(&lines(128)).headers.len(), 128);
    refused(&lines(129), TooManyHeaders);

    let options = |count: usize| with_headers(&format!("Connection: a{}\r\n", ",".repeat(count - 1)));
    request(&options(usize::from(CONNECTION_OPTIONS_MAX)));
    refused(&options(usize::from(CONNECTION_OPTIONS_MAX) + 1), TooManyConnectionOptions);
}
