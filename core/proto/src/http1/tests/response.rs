use super::*;
use HeadError::*;

fn refused(text: &[u8], expected: HeadError) {
    assert_refused_at_every_cut(text, expected, |front| parse_response(front, false).map(|(status, _)| status));
}

#[test]
fn reads_an_ordinary_response() {
    let text = b"HTTP/1.1 200 Fine  by me\r\nContent-Length: 2\r\nX: y\r\n\r\nok";
    let head = response(text);
    assert_eq!(head.len as usize, text.len() - 2);
    assert_eq!(head.status, 200);
    assert_eq!(head.reason.of(text), b"Fine  by me");
    assert_eq!(head.body, BodyKind::Length(2));
    assert!(head.keep_alive && !head.is_interim() && !head.upgrade);
    assert_eq!(head.header(text, "X"), Some(&b"y"[..]));
}

#[test]
fn status_line_rules() {
    let table: &[(&str, &[u8], HeadError)] = &[
        ("RFC 9112 4 version", b"HTTP/1.1\r\n", BadVersion),
        ("RFC 9112 4 version", b"http/1.1 200 OK\r\n", BadVersion),
        ("RFC 9112 4 single space", b"HTTP/1.1  200 OK\r\n", BadStatusCode),
        ("RFC 9112 4 three digits", b"HTTP/1.1 20 OK\r\n", BadStatusCode),
        ("RFC 9112 4 three digits", b"HTTP/1.1 2000 OK\r\n", BadStatusCode),
        ("RFC 9112 4 three digits", b"HTTP/1.1 2x0 OK\r\n", BadStatusCode),
        ("RFC 9110 15 range", b"HTTP/1.1 099 OK\r\n", BadStatusCode),
        ("RFC 9112 4 reason", b"HTTP/1.1 200 O\x00K\r\n", BadReasonPhrase),
        ("RFC 9112 2.2 bare LF", b"HTTP/1.1 200 OK\nX: y\n\n", BareLf),
        ("RFC 9112 2.2 bare CR", b"HTTP/1.1 200 OK\rX", BareCr),
        ("RFC 9110 2.5 major", b"HTTP/2.0 200 OK\r\n", UnsupportedVersion),
        ("RFC 9112 2.2 only requests skip a line", b"\r\nHTTP/1.1 200 OK\r\n", BadVersion),
        ("RFC 9112 4 HTTP/0.9", b"<html>", BadVersion),
        ("RFC 9112 5.2 obs-fold", b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n", ObsFold),
        ("RFC 9112 5.1 space", b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n", SpaceBeforeColon),
    ];
    for (rule, text, expected) in table {
        println!("{rule}");
        refused(text, *expected);
    }
}

#[test]
fn framing_rules() {
    let table: &[(&str, &str, HeadError)] = &[
        ("RFC 9112 6.3", "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", LengthAndTransferEncoding),
        ("RFC 9112 6.3", "Content-Length: 1\r\nContent-Length: 1\r\n", DuplicateContentLength),
        ("RFC 9112 6.3", "Content-Length: 1, 1\r\n", BadContentLength),
        ("RFC 9112 6.3", "Transfer-Encoding: gzip\r\n", BadTransferEncoding),
        ("RFC 9112 6.1", "Transfer-Encoding: gzip, chunked\r\n", UnknownTransferCoding),
    ];
    for (rule, lines, expected) in table {
        println!("{rule}");
        refused(format!("HTTP/1.1 200 OK\r\n{lines}\r\n").as_bytes(), *expected);
    }
    refused(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", TransferEncodingInHttp10);
}

#[test]
fn bodies_and_persistence() {
    use BodyKind::*;
    // RFC 9112 6.3, 9.3: (status line, lines, to HEAD, body, keep_alive, declared length)
    let table = [
        ("1.1 200", "Content-Length: 5\r\n", false, Length(5), true, Some(5)),
        ("1.1 200", "Content-Length: 5\r\n", true, None, true, Some(5)),
        ("1.1 200", "Transfer-Encoding: chunked\r\n", false, Chunked, true, Option::None),
        ("1.1 200", "Transfer-Encoding: chunked\r\n", true, None, true, Option::None),
        ("1.1 200", "", false, UntilClose, false, Option::None),
        ("1.1 200", "", true, None, true, Option::None),
        ("1.1 200", "Content-Length: 5\r\nConnection: close\r\n", false, Length(5), false, Some(5)),
        ("1.0 200", "Content-Length: 5\r\n", false, Length(5), false, Some(5)),
        ("1.0 200", "Content-Length: 5\r\nConnection: keep-alive\r\n", false, Length(5), true, Some(5)),
        ("1.0 200", "Connection: keep-alive\r\n", false, UntilClose, false, Option::None),
        ("1.1 304", "Content-Length: 5\r\n", false, None, true, Some(5)),
        ("1.1 304", "Transfer-Encoding: chunked\r\n", false, None, true, Option::None),
        ("1.1 204", "", false, None, true, Option::None),
        ("1.1 204", "Content-Length: 0\r\n", false, None, true, Some(0)),
        ("1.1 204", "Content-Length: 5\r\n", false, None, false, Some(5)),
        ("1.1 204", "Transfer-Encoding: chunked\r\n", false, None, false, Option::None),
        ("1.1 100", "", false, None, true, Option::None),
        ("1.1 103", "Content-Length: 5\r\n", false, None, false, Some(5)),
        ("1.1 999", "Content-Length: 0\r\n", false, Length(0), true, Some(0)),
    ];
    for (line, lines, to_head, body, keep_alive, declared) in table {
        let text = format!("HTTP/{line} \r\n{lines}\r\n");
        let (status, head) = parse_response(text.as_bytes(), to_head).unwrap();
        assert_eq!(status, Status::Complete);
        assert_eq!(head.body, body, "{line} {lines} {to_head}");
        assert_eq!(head.keep_alive, keep_alive, "{line} {lines} {to_head}");
        assert_eq!(head.declared_length, declared, "{line} {lines} {to_head}");
    }
}

#[test]
fn the_space_before_no_reason_may_be_missing() {
    let text = b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n";
    assert!(response(text).reason.is_empty());
    assert!(response(b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n").reason.is_empty());
}

#[test]
fn switching_protocols() {
    // RFC 9110 7.8, 15.2.2
    let lines = "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let head = response(format!("HTTP/1.1 101 Switching Protocols\r\n{lines}").as_bytes());
    assert!(head.upgrade && head.is_interim());
    assert!(!response(format!("HTTP/1.1 426 Upgrade Required\r\n{lines}").as_bytes()).upgrade);
    assert!(!response(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").upgrade);
}

#[test]
fn every_cut_of_a_valid_head_is_open() {
    let text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: \t y \r\n\r\n";
    for cut in 0..text.len() {
        let status = parse_response(&text[..cut], false).map(|(status, _)| status);
        assert_eq!(status, Ok(Status::Partial), "cut at {cut}");
    }
    response(text);
}
