//! What a client was answered, read by the letter.

use std::fmt::{self, Debug, Formatter};

/// One whole answer.
#[derive(Default)]
pub struct Reply {
    pub status: u16,
    /// It says that the connection ends behind it.
    pub closes: bool,
    /// `x-shmesh-reason`; empty in a service's answer.
    pub reason: String,
    pub body: Vec<u8>,
    pub trailers: Vec<String>,
}

impl Debug for Reply {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.status, self.reason, self.body.escape_ascii())
    }
}

/// The answers to requests of which `to_head` says whether each was HEAD; interim ones are left out. What breaks off in the middle is not
/// among them; what can be read in two ways is an error.
pub fn replies(mut bytes: &[u8], to_head: &[bool]) -> Result<Vec<Reply>, String> {
    let mut replies = Vec::new();
    while !bytes.is_empty() {
        let Some(&to_head) = to_head.get(replies.len()) else {
            return Err(format!("more answers than requests: {}", bytes.escape_ascii()));
        };
        match reply(&mut bytes, to_head)? {
            Some(Reply { status: 100..200, .. }) => {}
            Some(reply) => replies.push(reply),
            None => break,
        }
    }
    Ok(replies)
}

/// The next answer; none if it breaks off.
fn reply(bytes: &mut &[u8], to_head: bool) -> Result<Option<Reply>, String> {
    let Some(head) = until(bytes, b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(head).into_owned();
    let fault = |what: &str| format!("{what}: {head:?}");
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).and_then(|rest| rest.get(..3));
    let status = status.and_then(|status| status.parse().ok()).ok_or_else(|| fault("not a status line"))?;
    let mut reply = Reply { status, ..Reply::default() };
    let (mut length, mut chunked) = (None, false);
    for line in lines {
        let (name, value) = line.split_once(": ").ok_or_else(|| fault("not a field"))?;
        if name.bytes().any(|byte| !byte.is_ascii_alphanumeric() && byte != b'-') || line.contains(['\r', '\n', '\0']) {
            return Err(fault("not a field"));
        }
        match &name.to_ascii_lowercase()[..] {
            "connection" => reply.closes = value == "close",
            "x-shmesh-reason" => value.clone_into(&mut reply.reason),
            "content-length" if length.is_none() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                length = Some(value.parse().map_err(|_| fault("not a length"))?);
            }
            "transfer-encoding" if value == "chunked" && !chunked => chunked = true,
            "content-length" | "transfer-encoding" => return Err(fault("framed twice, or by nobody knows what")),
            _ => {}
        }
    }
    if to_head || matches!(status, 100..200 | 204 | 304) {
        return Ok(Some(reply));
    }
    match (length, chunked) {
        (Some(length), false) => {
            let Some((body, rest)) = bytes.split_at_checked(length) else { return Ok(None) };
            (reply.body, *bytes) = (body.to_vec(), rest);
            Ok(Some(reply))
        }
        (None, true) => Ok(chunks(bytes, &mut reply)?.then_some(reply)),
        _ => Err(fault("framed twice, or not at all")),
    }
}

/// True: up to the end of the body.
fn chunks(bytes: &mut &[u8], reply: &mut Reply) -> Result<bool, String> {
    loop {
        let Some(line) = until(bytes, b"\r\n") else { return Ok(false) };
        let digits = String::from_utf8_lossy(line);
        let size = usize::from_str_radix(&digits, 16).map_err(|_| format!("not a chunk's size: {digits:?}"))?;
        if size == 0 {
            break;
        }
        let Some((data, rest)) = bytes.split_at_checked(size) else { return Ok(false) };
        reply.body.extend_from_slice(data);
        *bytes = rest;
        match until(bytes, b"\r\n") {
            Some(b"") => {}
            Some(more) => return Err(format!("behind a chunk: {}", more.escape_ascii())),
            None => return Ok(false),
        }
    }
    loop {
        match until(bytes, b"\r\n") {
            Some(b"") => return Ok(true),
            Some(trailer) => reply.trailers.push(String::from_utf8_lossy(trailer).into_owned()),
            None => return Ok(false),
        }
    }
}

/// What stands before `end`, which is taken, too.
fn until<'a>(bytes: &mut &'a [u8], end: &[u8]) -> Option<&'a [u8]> {
    let at = bytes.windows(end.len()).position(|window| window == end)?;
    let front = &bytes[..at];
    *bytes = &bytes[at + end.len()..];
    Some(front)
}
