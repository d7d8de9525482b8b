//! Answers that shmesh makes itself.

use super::date::Date;
use super::head::HeaderKind;
use super::request::RequestHead;
use super::write::{Framing, write_date, write_framing, write_status};

/// Headers of a request that are not reflected to whoever asks for a TRACE (RFC 9110 §9.3.8).
const NOT_REFLECTED: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

/// An answer in plain text.
#[derive(Clone, Copy, Debug)]
pub struct OwnOut<'a> {
    pub status: u16,
    /// Goes into `x-shmesh-reason`.
    pub reason: &'a str,
    pub sentence: &'a str,
    /// Says `connection: close`.
    pub close: bool,
    /// Leaves the text out but not its length, as for HEAD.
    pub no_body: bool,
    pub date: Option<&'a Date>,
}

/// Appends a plain text with its length and the reason, then the sentence and a line feed.
///
/// A 405 says which methods there are instead (RFC 9110 §15.5.6): none, as shmesh only ever refuses CONNECT in this way,
/// and no other method is defined for a target in authority form.
pub fn write_own_response(out: &mut Vec<u8>, own: &OwnOut<'_>) {
    write_status(out, own.status);
    out.extend_from_slice(reason_phrase(own.status).as_bytes());
    out.extend_from_slice(b"\r\ncontent-type: text/plain; charset=utf-8\r\n");
    write_framing(out, Framing::Length(own.sentence.len() as u64 + 1));
    if own.status == 405 {
        out.extend_from_slice(b"allow: \r\n");
    }
    out.extend_from_slice(b"x-shmesh-reason: ");
    // A code is visible ASCII; anything else must not be able to end the line.
    out.extend(own.reason.bytes().map(|byte| match byte {
        b'!'..=b'~' => byte,
        _ => b'-',
    }));
    out.extend_from_slice(b"\r\n");
    write_date(out, own.date);
    if own.close {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if !own.no_body {
        out.extend_from_slice(own.sentence.as_bytes());
        out.push(b'\n');
    }
}

/// Appends the answer of a TRACE's last recipient: the request's head as it came, without what is secret
/// (RFC 9110 §9.3.8).
pub fn write_reflection(out: &mut Vec<u8>, head: &RequestHead, buf: &[u8], close: bool, date: Option<&Date>) {
    let line_end = head.headers.first().map_or(head.len as usize, |header| header.name.start as usize);
    let mut body = buf.get(head.method.start as usize..line_end).unwrap_or_default().to_vec();
    for header in &head.headers {
        let (name, value) = (header.name.of(buf), header.value.of(buf));
        let secret = header.kind == HeaderKind::Other
            && NOT_REFLECTED.iter().any(|secret| name.eq_ignore_ascii_case(secret.as_bytes()));
        if !secret {
            body.extend_from_slice(&[name, b": ", value, b"\r\n"].concat());
        }
    }
    body.extend_from_slice(b"\r\n");
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: message/http\r\n");
    write_framing(out, Framing::Length(body.len() as u64));
    write_date(out, date);
    if close {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&body);
}

/// Appends the answer that turns a connection into a tunnel (RFC 9110 §9.3.6).
pub fn write_connected(out: &mut Vec<u8>, date: Option<&Date>) {
    out.extend_from_slice(b"HTTP/1.1 200 Connection established\r\n");
    write_date(out, date);
    out.extend_from_slice(b"\r\n");
}

/// Reason phrase of a status (RFC 9110 §15, RFC 6585); empty for one without a name.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        _ => "",
    }
}
