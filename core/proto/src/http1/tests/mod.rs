//! The rules, one by one; what the parts do together is in `properties`.

mod body;
mod headers;
mod lenient;
mod properties;
mod request;
mod response;
mod write;

use super::*;

fn parse_request(text: &[u8]) -> Result<(Status, RequestHead), HeadError> {
    let mut head = RequestHead::default();
    let status = head.parse(text, &HeadLimits::default())?;
    Ok((status, head))
}

/// The head of a request that must be valid and complete.
fn request(text: &[u8]) -> RequestHead {
    match parse_request(text) {
        Ok((Status::Complete, head)) => head,
        other => panic!("{:?}: {other:?}", text.escape_ascii().to_string()),
    }
}

fn parse_response(text: &[u8], to_head: bool) -> Result<(Status, ResponseHead), HeadError> {
    let mut head = ResponseHead::default();
    let status = head.parse(text, &HeadLimits::default(), to_head)?;
    Ok((status, head))
}

/// The head of a response that must be valid and complete.
fn response(text: &[u8]) -> ResponseHead {
    match parse_response(text, false) {
        Ok((Status::Complete, head)) => head,
        other => panic!("{:?}: {other:?}", text.escape_ascii().to_string()),
    }
}

/// A request with these header lines (each with its CRLF) after a valid Host.
fn with_headers(lines: &str) -> Vec<u8> {
    format!("POST /p HTTP/1.1\r\nHost: h\r\n{lines}\r\n").into_bytes()
}

/// Names and values as text, in their order.
fn pairs(headers: &[Header], buf: &[u8]) -> Vec<(String, String)> {
    let text = |span: Span| String::from_utf8_lossy(span.of(buf)).into_owned();
    headers.iter().map(|header| (text(header.name), text(header.value))).collect()
}

/// Every front of a refused head is either open or refused with the same status: an answer never
/// depends on how the bytes were cut.
fn assert_refused_at_every_cut(text: &[u8], expected: HeadError, parse: impl Fn(&[u8]) -> Result<Status, HeadError>) {
    let shown = text.escape_ascii().to_string();
    assert_eq!(parse(text), Err(expected), "{shown}");
    let mut refused = false;
    for cut in 0..text.len() {
        match parse(&text[..cut]) {
            Ok(status) => {
                assert_eq!(status, Status::Partial, "{shown} cut at {cut}");
                assert!(!refused, "{shown}: refused before {cut}, open again there");
            }
            Err(error) => {
                assert_eq!(error.status(), expected.status(), "{shown} cut at {cut}");
                refused = true;
            }
        }
    }
}
