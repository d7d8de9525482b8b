use super::*;
use HeadError::*;

fn refused(text: &[u8], expected: HeadError) {
    assert_refused_at_every_cut(text, expected, |front| parse_request(front).map(|(status, _)| status));
}

#[test]
fn reads_an_ordinary_request() {
    let text = b"GET /a/b?c=d HTTP/1.1\r\nHost: Reviews:9080\r\nX-Empty:\r\nX-Spaced: \t v w \t\r\n\
        Accept:*/*\r\n\r\nnext";
    let head = request(text);
    assert_eq!(head.len as usize, text.len() - b"next".len());
    assert_eq!(head.method.of(text), b"GET");
    assert_eq!(head.target.of(text), b"/a/b?c=d");
    assert_eq!(head.path.of(text), b"/a/b?c=d");
    assert_eq!(head.authority.of(text), b"Reviews:9080");
    assert_eq!(head.version, Version::Http11);
    assert_eq!(head.form, TargetForm::Origin);
    assert_eq!(head.body, BodyKind::None);
    assert!(head.keep_alive && !head.upgrade && !head.expect_continue);
    let expected = [("Host", "Reviews:9080"), ("X-Empty", ""), ("X-Spaced", "v w"), ("Accept", "*/*")];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(pairs(&head.headers, text), expected);
    assert_eq!(head.header(text, "x-spaced"), Some(&b"v w"[..]));
    assert_eq!(head.header(text, "x-none"), None);
}

#[test]
fn scratch_keeps_nothing_of_the_last_message() {
    let limits = HeadLimits::default();
    let mut head = RequestHead::default();
    let first = b"PUT http://a/ HTTP/1.0\r\nConnection: x, keep-alive\r\nContent-Length: 9\r\n\r\n";
    assert_eq!(head.parse(first, &limits), Ok(Status::Complete));
    let capacity = head.headers.capacity();
    let second = b"GET / HTTP/1.1\r\nHost: b\r\n\r\n";
    assert_eq!(head.parse(second, &limits), Ok(Status::Complete));
    assert_eq!(format!("{head:?}"), format!("{:?}", request(second)));
    assert_eq!(head.headers.capacity(), capacity);
}

#[test]
fn request_line_rules() {
    let table: &[(&str, &[u8], HeadError)] = &[
        ("RFC 9112 3.1 method is a token", b"G@T / HTTP/1.1\r\n", BadMethod),
        ("RFC 9112 3.1 method is there", b" / HTTP/1.1\r\n", BadMethod),
        ("RFC 9112 3 single space", b"GET  / HTTP/1.1\r\n", BadTarget),
        ("RFC 9112 3 single space", b"GET /  HTTP/1.1\r\n", BadVersion),
        ("RFC 9112 3 no tab", b"GET\t/ HTTP/1.1\r\n", BadMethod),
        ("RFC 9112 3 no tab", b"GET /\tHTTP/1.1\r\n", BadTarget),
        ("RFC 9112 3 no tab", b"GET / HTTP/1.1\t\r\n", BadVersion),
        ("RFC 9112 3 no trailing space", b"GET / HTTP/1.1 \r\n", BadVersion),
        ("RFC 9112 3.2 no space in target", b"GET /a b HTTP/1.1\r\n", BadVersion),
        ("RFC 9112 3.2 no control byte", b"GET /a\x01 HTTP/1.1\r\n", BadTarget),
        ("RFC 9112 3.2 no NUL", b"GET /\x00 HTTP/1.1\r\n", BadTarget),
        ("RFC 9112 3.2 no DEL", b"GET /\x7f HTTP/1.1\r\n", BadTarget),
        ("RFC 3986 2 ASCII only", b"GET /\xc3\xa9 HTTP/1.1\r\n", BadTarget),
        ("RFC 9112 3.2 no fragment", b"GET /a#b HTTP/1.1\r\n", BadTarget),
        ("RFC 9112 2.2 bare CR", b"GET /a\rb HTTP/1.1\r\n", MissingVersion),
        ("RFC 9112 2.2 bare CR", b"GET / HTTP/1.1\rX", BareCr),
        ("RFC 9112 2.2 bare LF", b"GET / HTTP/1.1\nHost: h\n\n", BareLf),
        ("RFC 9112 2.2 one empty line only", b"\r\n\r\nGET / HTTP/1.1\r\n", BadMethod),
        ("RFC 9112 2.2 empty line strict", b"\nGET / HTTP/1.1\r\n", BareLf),
        ("RFC 9112 2.2 empty line strict", b"\rGET / HTTP/1.1\r\n", BareCr),
        ("RFC 9110 2.5 HTTP/0.9", b"GET /\r\n", MissingVersion),
        ("RFC 9110 2.5 no version", b"GET /\n", MissingVersion),
        ("RFC 9112 2.3 case", b"GET / http/1.1\r\n", BadVersion),
        ("RFC 9112 2.3 digits", b"GET / HTTP/1\r\n", BadVersion),
        ("RFC 9112 2.3 digits", b"GET / HTTP/11.1\r\n", BadVersion),
        ("RFC 9112 2.3 digits", b"GET / HTTP/1.10\r\n", BadVersion),
        ("RFC 9112 2.3 digits", b"GET / HTTP/1,1\r\n", BadVersion),
        ("RFC 9112 2.3 other protocol", b"GET / ICY/1.1\r\n", BadVersion),
        ("RFC 9110 2.5 major", b"GET / HTTP/2.0\r\n", UnsupportedVersion),
        ("RFC 9110 2.5 major", b"GET / HTTP/0.9\r\n", UnsupportedVersion),
        ("RFC 9110 2.5 major", b"GET / HTTP/3.0\r\n", UnsupportedVersion),
        ("RFC 9113 3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Http2PriorKnowledge),
        ("RFC 9113 3.4 only 2.0", b"PRI * HTTP/1.1\r\n", BadTargetForm),
        ("RFC 9112 3.2.4 only OPTIONS", b"GET * HTTP/1.1\r\n", BadTargetForm),
        ("RFC 9112 3.2.1 slash", b"GET a HTTP/1.1\r\n", BadTargetForm),
        ("RFC 9112 3.2.1 slash", b"GET ?a HTTP/1.1\r\n", BadTargetForm),
        ("RFC 3986 3.1 scheme", b"GET ://a/ HTTP/1.1\r\n", BadTargetForm),
        ("RFC 3986 3.1 scheme", b"GET 1x://a/ HTTP/1.1\r\n", BadTargetForm),
        ("RFC 9112 3.2.2 slashes", b"GET http:/a HTTP/1.1\r\n", BadTargetForm),
        ("RFC 9112 3.2.3 only CONNECT", b"GET a:80 HTTP/1.1\r\n", BadTargetForm),
        ("RFC 9110 9.3.6 port", b"CONNECT a HTTP/1.1\r\n", BadTargetForm),
        ("RFC 9110 9.3.6 port", b"CONNECT a: HTTP/1.1\r\n", BadTargetForm),
        ("RFC 9110 9.3.6 port", b"CONNECT a:0 HTTP/1.1\r\n", BadTargetForm),
        ("RFC 9110 9.3.6 authority", b"CONNECT /a HTTP/1.1\r\n", BadTargetForm),
        ("RFC 9110 4.2.1 host", b"GET http:///a HTTP/1.1\r\n", BadAuthority),
        ("RFC 9110 4.2.4 userinfo", b"GET http://u@a/ HTTP/1.1\r\n", BadAuthority),
        ("RFC 3986 3.2.3 port", b"GET http://a:x/ HTTP/1.1\r\n", BadAuthority),
        ("RFC 9110 7.4", b"GET https://a/ HTTP/1.1\r\n", UnsupportedScheme),
        ("RFC 9110 7.4", b"GET ftp://a/ HTTP/1.1\r\n", UnsupportedScheme),
        ("TLS on a plain port", b"\x16\x03\x01\x02\x00\x01", BadMethod),
    ];
    for (rule, text, expected) in table {
        println!("{rule}");
        refused(text, *expected);
    }
}

#[test]
fn minor_versions_above_one_are_1_1() {
    // RFC 9110 2.5
    let head = request(b"GET / HTTP/1.2\r\nHost: h\r\n\r\n");
    assert_eq!(head.version, Version::Http11);
    let error = parse_request(b"GET / HTTP/1.9\r\n\r\n").unwrap_err();
    assert_eq!(error, MissingHost);
}

#[test]
fn one_empty_line_in_front_is_skipped_and_counted() {
    // RFC 9112 2.2
    let text = b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let head = request(text);
    assert_eq!(head.len as usize, text.len());
    assert_eq!(head.method.of(text), b"GET");
}

#[test]
fn target_forms() {
    // RFC 9112 3.2.1 to 3.2.4: (request line, form, authority, path)
    let table = [
        ("GET /a?b HTTP/1.1", TargetForm::Origin, "h", "/a?b"),
        ("GET //x/..;/%2e?{|}^`\" HTTP/1.1", TargetForm::Origin, "h", "//x/..;/%2e?{|}^`\""),
        ("GET http://a:8/b?c HTTP/1.1", TargetForm::Absolute, "a:8", "/b?c"),
        ("GET HTTP://A HTTP/1.1", TargetForm::Absolute, "A", ""),
        ("GET http://a?b/c HTTP/1.1", TargetForm::Absolute, "a", "?b/c"),
        ("GET http://[::1]:80/ HTTP/1.1", TargetForm::Absolute, "[::1]:80", "/"),
        ("CONNECT a.b:443 HTTP/1.1", TargetForm::Authority, "a.b:443", ""),
        ("OPTIONS * HTTP/1.1", TargetForm::Asterisk, "h", "*"),
    ];
    for (line, form, authority, path) in table {
        let text = format!("{line}\r\nHost: h\r\n\r\n").into_bytes();
        let head = request(&text);
        assert_eq!(head.form, form, "{line}");
        assert_eq!(head.authority.of(&text), authority.as_bytes(), "{line}");
        assert_eq!(head.path.of(&text), path.as_bytes(), "{line}");
    }
}

#[test]
fn methods() {
    // RFC 9110 9.2.2, 9.1: methods are case-sensitive
    for (method, idempotent) in [
        ("GET", true),
        ("HEAD", true),
        ("PUT", true),
        ("DELETE", true),
        ("OPTIONS", true),
        ("TRACE", true),
        ("POST", false),
        ("PATCH", false),
        ("get", false),
        ("GETS", false),
    ] {
        let text = format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n");
        let head = request(text.as_bytes());
        assert_eq!(head.is_idempotent(text.as_bytes()), idempotent, "{method}");
        assert_eq!(head.is_head(text.as_bytes()), method == "HEAD");
        assert!(!head.is_connect(text.as_bytes()));
    }
    let text = b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n";
    assert!(request(text).is_connect(text) && !request(text).is_idempotent(text));
}

#[test]
fn refused_at_the_offending_byte() {
    // The last byte of each is the offending one, and the head is far from complete.
    let table: &[(&[u8], HeadError)] = &[
        (b"G\x00", BadMethod),
        (b"GET  ", BadTarget),
        (b"GET /\t", BadTarget),
        (b"GET * ", BadTargetForm),
        (b"GET http://u@h/ ", BadAuthority),
        (b"GET / h", BadVersion),
        (b"GET / HTTP/2.0", UnsupportedVersion),
        (b"PRI * HTTP/2.0", Http2PriorKnowledge),
        (b"GET / HTTP/1.1 ", BadVersion),
        (b"GET / HTTP/1.1\n", BareLf),
        (b"GET / HTTP/1.1\r\n ", LeadingWhitespace),
        (b"GET / HTTP/1.1\r\nX ", SpaceBeforeColon),
        (b"GET / HTTP/1.1\r\nX:\x00", BadHeaderValue),
        (b"GET / HTTP/1.1\r\nX: y\n", BareLf),
        (b"GET / HTTP/1.1\r\nX: y\r\n ", ObsFold),
        (b"GET / HTTP/1.1\r\nHost: a,", BadHost),
        (b"GET / HTTP/1.1\r\nHost: a b", BadHost),
        (b"GET / HTTP/1.1\r\nHost: a\r\nhost:", DuplicateHost),
        (b"GET / HTTP/1.1\r\nContent-Length: 5,", BadContentLength),
        (b"GET / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length:", DuplicateContentLength),
        (b"GET / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding:", LengthAndTransferEncoding),
        (b"GET / HTTP/1.0\r\nTransfer-Encoding:", TransferEncodingInHttp10),
    ];
    for (text, expected) in table {
        let shown = text.escape_ascii().to_string();
        assert_eq!(parse_request(text).unwrap_err(), *expected, "{shown}");
        let front = &text[..text.len() - 1];
        let status = parse_request(front).map(|(status, _)| status);
        assert_eq!(status, Ok(Status::Partial), "{shown} without its last byte");
    }
}

#[test]
fn limits_are_exact() {
    // RFC 6585 5, RFC 9112 3
    let text = b"GET /abc HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n";
    let exact = HeadLimits {
        head_bytes: text.len() as u32,
        start_line_bytes: b"GET /abc HTTP/1.1\r\n".len() as u32,
        headers: 2,
    };
    let parse = |text: &[u8], limits| RequestHead::default().parse(text, &limits);
    assert_eq!(parse(text, exact), Ok(Status::Complete));
    let more = [&text[..], b"body"].concat();
    assert_eq!(parse(&more, exact), Ok(Status::Complete));

    let head_bytes = exact.head_bytes - 1;
    assert_eq!(parse(text, HeadLimits { head_bytes, ..exact }), Err(HeadTooLarge));
    let start_line_bytes = exact.start_line_bytes - 1;
    let shorter = HeadLimits { start_line_bytes, ..exact };
    assert_eq!(parse(text, shorter), Err(StartLineTooLong));
    assert_eq!(parse(text, HeadLimits { headers: 1, ..exact }), Err(TooManyHeaders));

    // Refused as soon as the limit is full, and open one byte before.
    let target = [b"GET /".as_slice(), &[b'a'; 9000]].concat();
    let default = HeadLimits::default();
    assert_eq!(parse(&target[..8191], default), Ok(Status::Partial));
    assert_eq!(parse(&target[..8192], default), Err(StartLineTooLong));
    let mut value = b"GET / HTTP/1.1\r\nHost: h\r\nX: ".to_vec();
    value.resize(65535, b'x');
    assert_eq!(parse(&value, default), Ok(Status::Partial));
    value.push(b'x');
    assert_eq!(parse(&value, default), Err(HeadTooLarge));

    let method = [b'A'; METHOD_BYTES_MAX + 1];
    assert_eq!(parse(&method[1..], default), Ok(Status::Partial));
    assert_eq!(parse(&method, default), Err(MethodTooLong));
}

#[test]
fn statuses_and_reasons() {
    for (error, status) in [
        (BadHeaderName, 400),
        (StartLineTooLong, 414),
        (HeadTooLarge, 431),
        (TooManyHeaders, 431),
        (UnknownTransferCoding, 501),
        (MethodTooLong, 501),
        (UnsupportedVersion, 505),
        (Http2PriorKnowledge, 505),
    ] {
        assert_eq!(error.status(), status, "{error}");
    }
    assert_eq!(Http2PriorKnowledge.reason(), "http2-prior-knowledge");
    assert!(Http2PriorKnowledge.to_string().contains("HTTP/1.1"));
}

#[test]
fn every_cut_of_a_valid_head_is_open() {
    let text = b"\r\nPOST http://a:1/b HTTP/1.1\r\nHost: c\r\nContent-Length: 12\r\n\
        Connection: close, x\r\nX: \t y \r\nEmpty: \r\n\r\n";
    for cut in 0..text.len() {
        let status = parse_request(&text[..cut]).map(|(status, _)| status);
        assert_eq!(status, Ok(Status::Partial), "cut at {cut}");
    }
    let whole = format!("{:?}", request(text));
    let longer = [&text[..], b"\r\nmore"].concat();
    assert_eq!(format!("{:?}", request(&longer)), whole);
}
