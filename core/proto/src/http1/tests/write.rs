use super::*;

fn sent(text: &str, how: RequestOut<'_>) -> String {
    let mut out = b"before|".to_vec();
    write_request(&mut out, &request(text.as_bytes()), text.as_bytes(), &how);
    String::from_utf8(out).unwrap().strip_prefix("before|").expect("appends").to_owned()
}

fn plain(framing: Framing) -> RequestOut<'static> {
    RequestOut { framing, ..RequestOut::default() }
}

fn answered(text: &str, to_head: bool, how: ResponseOut) -> String {
    let (status, head) = parse_response(text.as_bytes(), to_head).unwrap();
    assert_eq!(status, Status::Complete);
    let mut out = Vec::new();
    write_response(&mut out, &head, text.as_bytes(), &how);
    String::from_utf8(out).unwrap()
}

fn to_1_1(framing: Framing) -> ResponseOut<'static> {
    ResponseOut { framing, ..ResponseOut::default() }
}

#[test]
fn a_request_leaves_in_origin_form_with_our_framing() {
    // RFC 9110 7.6.1, 7.6.3; RFC 9112 3.2.2, 6
    let text = "PUT http://Target:81/p?q HTTP/1.1\r\nA:  1 \r\nHost: other\r\nB: 2\r\nC: 3\r\n\
        Content-Length: 9\r\nConnection: close, x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
        Proxy-Connection: close\r\nTE: trailers\r\nUpgrade: websocket\r\nHTTP2-Settings: AA\r\n\
        Trailer: D\r\nVia: 1.0 first\r\nE: 4\r\n\r\n";
    assert_eq!(
        sent(text, plain(Framing::Length(9))),
        "PUT /p?q HTTP/1.1\r\nhost: Target:81\r\nA:  1\r\nB: 2\r\nC: 3\r\nVia: 1.0 first\r\nE: 4\r\n\
         content-length: 9\r\nvia: 1.1 shmesh\r\n\r\n"
    );
    let how = RequestOut {
        framing: Framing::Chunked,
        connection: ConnectionOption::Close,
        host: Some(b"named"),
        ..RequestOut::default()
    };
    assert_eq!(
        sent(text, how),
        "PUT /p?q HTTP/1.1\r\nhost: named\r\nA:  1\r\nB: 2\r\nC: 3\r\nTrailer: D\r\n\
         Via: 1.0 first\r\nE: 4\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\
         via: 1.1 shmesh\r\n\r\n"
    );
}

#[test]
fn targets_as_they_leave() {
    // RFC 9112 3.2
    for (line, expected) in [
        ("GET /a?b", "GET /a?b"),
        ("GET http://h", "GET /"),
        ("GET http://h?b", "GET /?b"),
        ("GET http://h/a", "GET /a"),
        ("OPTIONS *", "OPTIONS *"),
        ("OPTIONS http://h", "OPTIONS *"),
        ("OPTIONS http://h/", "OPTIONS /"),
        ("OPTIONS http://h?b", "OPTIONS /?b"),
        ("CONNECT h:1", "CONNECT h:1"),
    ] {
        let written = sent(&format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n"), plain(Framing::None));
        let start = format!("{expected} HTTP/1.1\r\nhost: h");
        assert!(written.starts_with(&start), "{line}: {written}");
    }
}

#[test]
fn an_old_request_leaves_as_1_1() {
    // RFC 9110 2.5, 7.6.3; RFC 9112 3.2: no Host known means an empty one
    assert_eq!(
        sent("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", plain(Framing::None)),
        "GET / HTTP/1.1\r\nhost: \r\nvia: 1.0 shmesh\r\n\r\n"
    );
}

#[test]
fn upgrade_passes_only_when_asked_for() {
    // RFC 9110 7.8
    let text = "GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";
    let how = RequestOut { connection: ConnectionOption::Upgrade, ..plain(Framing::None) };
    assert_eq!(
        sent(text, how),
        "GET / HTTP/1.1\r\nhost: h\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\
         connection: upgrade\r\nvia: 1.1 shmesh\r\n\r\n"
    );
    assert!(!sent(text, plain(Framing::None)).to_lowercase().contains("upgrade"));
    let answer = answered(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        false,
        ResponseOut { connection: ConnectionOption::Upgrade, ..to_1_1(Framing::None) },
    );
    assert_eq!(
        answer,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nconnection: upgrade\r\n\
         via: 1.1 shmesh\r\n\r\n"
    );
}

#[test]
fn connection_cannot_name_away_what_is_ours() {
    let text = "POST / HTTP/1.1\r\nHost: h\r\nConnection: host, content-length, via, X-A\r\n\
        Connection: x-b\r\nx-a: 1\r\nX-B: 2\r\nX-C: 3\r\nContent-Length: 1\r\n\r\n";
    assert_eq!(
        sent(text, plain(Framing::Length(1))),
        "POST / HTTP/1.1\r\nhost: h\r\nX-C: 3\r\ncontent-length: 1\r\nvia: 1.1 shmesh\r\n\r\n"
    );
}

#[test]
fn expect_goes_on_only_with_a_body() {
    // RFC 9110 10.1.1
    let text = "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n";
    assert!(sent(text, plain(Framing::Length(1))).contains("Expect: 100-continue\r\n"));
    assert!(!sent(text, plain(Framing::None)).contains("Expect"));
}

#[test]
fn canonical_chunked() {
    // RFC 9110 5.6.1
    let text = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: , CHUNKED\r\n\r\n";
    assert_eq!(
        sent(text, plain(Framing::Chunked)),
        "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\nvia: 1.1 shmesh\r\n\r\n"
    );
}

#[test]
fn headers_taken_out_of_the_head_do_not_leave() {
    let text = b"GET / HTTP/1.1\r\nHost: h\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n";
    let mut head = request(text);
    head.headers.retain(|header| header.name.of(text) != b"B");
    let mut out = Vec::new();
    write_request(&mut out, &head, text, &plain(Framing::None));
    assert_eq!(out, b"GET / HTTP/1.1\r\nhost: h\r\nA: 1\r\nC: 3\r\nvia: 1.1 shmesh\r\n\r\n");
}

#[test]
fn a_response_leaves_with_our_framing() {
    let text = "HTTP/1.0 200 Fine\r\nA: 1\r\nConnection: x\r\nX: 2\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(
        answered(text, false, to_1_1(Framing::Length(3))),
        "HTTP/1.1 200 Fine\r\nA: 1\r\ncontent-length: 3\r\nvia: 1.0 shmesh\r\n\r\n"
    );
    assert_eq!(
        answered(text, false, to_1_1(Framing::Chunked)),
        "HTTP/1.1 200 Fine\r\nA: 1\r\ntransfer-encoding: chunked\r\nvia: 1.0 shmesh\r\n\r\n"
    );
    assert_eq!(
        answered("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", false, to_1_1(Framing::None)),
        "HTTP/1.1 200 \r\ncontent-length: 0\r\nvia: 1.1 shmesh\r\n\r\n"
    );
}

#[test]
fn connection_of_a_response() {
    // RFC 9112 9.3, 9.6
    for (connection, version, line) in [
        (ConnectionOption::KeepAlive, Version::Http11, ""),
        (ConnectionOption::KeepAlive, Version::Http10, "connection: keep-alive\r\n"),
        (ConnectionOption::Close, Version::Http11, "connection: close\r\n"),
        (ConnectionOption::Close, Version::Http10, "connection: close\r\n"),
    ] {
        let how = ResponseOut { framing: Framing::UntilClose, connection, version, date: None };
        assert_eq!(
            answered("HTTP/1.1 200 OK\r\n\r\n", false, how),
            format!("HTTP/1.1 200 OK\r\n{line}via: 1.1 shmesh\r\n\r\n")
        );
    }
}

#[test]
fn the_length_of_a_body_that_does_not_follow() {
    // RFC 9110 8.6, 9.3.2: (status, to HEAD, lines that came, content-length that leaves)
    for (status, to_head, lines, expected) in [
        (200, true, "Content-Length: 7\r\n", Some(7)),
        (200, true, "Transfer-Encoding: chunked\r\n", None),
        (200, true, "", None),
        (304, false, "Content-Length: 7\r\n", Some(7)),
        (304, false, "", None),
        (204, false, "Content-Length: 0\r\n", None),
        (103, false, "", None),
    ] {
        let text = format!("HTTP/1.1 {status} X\r\n{lines}\r\n");
        let written = answered(&text, to_head, to_1_1(Framing::None));
        let (_, head) = parse_response(written.as_bytes(), to_head).unwrap();
        assert_eq!(head.declared_length, expected, "{text}");
        assert!(!written.contains("transfer-encoding"), "{text}");
    }
    // RFC 9110 15.3.5, 15.2: not even when asked to.
    for status in [100, 204] {
        let text = format!("HTTP/1.1 {status} X\r\n\r\n");
        let written = answered(&text, false, to_1_1(Framing::Length(0)));
        assert_eq!(written, format!("HTTP/1.1 {status} X\r\nvia: 1.1 shmesh\r\n\r\n"));
    }
}

#[test]
fn own_responses() {
    let mut out = Vec::new();
    let own = OwnOut {
        status: 404,
        reason: "no-route",
        sentence: "no route takes it",
        close: false,
        no_body: false,
        date: None,
    };
    write_own_response(&mut out, &own);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "HTTP/1.1 404 Not Found\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: 18\r\nx-shmesh-reason: no-route\r\n\r\nno route takes it\n"
    );
    let mut out = Vec::new();
    let error = HeadError::BareLf;
    let sentence = error.to_string();
    let refusal = OwnOut {
        status: error.status(),
        reason: "a\r\nb",
        sentence: &sentence,
        close: true,
        no_body: true,
        date: Some(&Date::at(0)),
    };
    write_own_response(&mut out, &refusal);
    let head = response(&out);
    assert_eq!(head.len as usize, out.len());
    assert_eq!(head.body, BodyKind::Length(error.to_string().len() as u64 + 1));
    assert_eq!(head.header(&out, "x-shmesh-reason"), Some(&b"a--b"[..]));
    assert_eq!(head.header(&out, "date"), Some(&b"Thu, 01 Jan 1970 00:00:00 GMT"[..]));
    assert_eq!(head.header(&out, "allow"), None);
    assert!(!head.keep_alive);
    assert_eq!(response(CONTINUE).status, 100);
}

#[test]
fn every_status_of_an_error_has_a_phrase() {
    for status in [400, 404, 408, 413, 414, 429, 431, 500, 501, 502, 503, 504, 505] {
        assert!(!reason_phrase(status).is_empty(), "{status}");
    }
}

#[test]
fn chunk_lines() {
    for len in [1, 9, 15, 16, 17, 0x1f, 255, 256, 4096, 65535, 1 << 20, usize::MAX] {
        let (line, used) = chunk_line(len);
        assert_eq!(line[..used], *format!("{len:x}\r\n").as_bytes());
    }
    let mut out = Vec::new();
    write_last_chunk(&mut out, b"a: b\r\n");
    assert_eq!(out, b"0\r\na: b\r\n\r\n");
}
