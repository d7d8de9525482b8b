//! An upstream that writes down what it is sent, and reads it by the letter.

use std::sync::{Arc, Mutex};

use crate::service::Service;
use crate::wire::Wire;

/// One request, as it came.
#[derive(Clone, Default, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub body: Vec<u8>,
    /// It came to its end.
    pub whole: bool,
    /// Why it can be read in more than one way.
    pub flaw: Option<String>,
}

/// What came, in its order.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Seen>>>);

impl Log {
    pub fn clear(&self) {
        self.0.lock().expect("whole").clear();
    }

    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.0.lock().expect("whole"))
    }

    fn push(&self, seen: Seen) {
        self.0.lock().expect("whole").push(seen);
    }
}

/// The upstream, and its log.
pub fn recording() -> (Service, Log) {
    let log = Log::default();
    let seen = log.clone();
    let service = Service::tcp(move |mut wire| {
        while let Some(request) = request(&mut wire) {
            let go_on = request.whole && request.flaw.is_none();
            // Before the answer, so that whoever has that finds it.
            seen.push(request);
            if !go_on || wire.try_send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                return;
            }
        }
    });
    (service, log)
}

/// The next request; nothing if the connection ends before its first byte.
fn request(wire: &mut Wire) -> Option<Seen> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match byte(wire) {
            Some(byte) => head.push(byte),
            None if head.is_empty() => return None,
            None => return Some(Seen::default()),
        }
    }
    let mut seen = Seen::default();
    match read_head(&head, &mut seen) {
        Err(flaw) => seen.flaw = Some(format!("{flaw} in {}", head.escape_ascii())),
        Ok(Framing::Length(len)) => {
            let body: Option<Vec<u8>> = (0..len).map(|_| byte(wire)).collect();
            seen.whole = body.is_some();
            seen.body = body.unwrap_or_default();
        }
        Ok(Framing::Chunked) => match read_chunks(wire, &mut seen.body) {
            Ok(whole) => seen.whole = whole,
            Err(flaw) => seen.flaw = Some(flaw),
        },
    }
    Some(seen)
}

enum Framing {
    Length(u64),
    Chunked,
}

fn read_head(head: &[u8], seen: &mut Seen) -> Result<Framing, String> {
    let text = head.strip_suffix(b"\r\n\r\n").expect("read up to there");
    let mut lines = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        lines.push(line.strip_suffix(b"\r").unwrap_or(line));
    }
    // As many line feeds as line ends, and neither of their bytes within a line.
    if text.windows(2).filter(|two| *two == b"\r\n").count() + 1 != lines.len() {
        return Err("a bare line feed".into());
    }
    if let Some(line) = lines.iter().find(|line| line.iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127))) {
        return Err(format!("a control character: {}", line.escape_ascii()));
    }
    let words: Vec<_> = lines[0].split(|byte| *byte == b' ').collect();
    let [method, target, b"HTTP/1.1"] = words[..] else { return Err("not a request line of HTTP/1.1".into()) };
    if method.is_empty() || !method.iter().all(is_token) || target.is_empty() {
        return Err("method or target".into());
    }
    seen.method = String::from_utf8_lossy(method).into_owned();
    seen.target = String::from_utf8_lossy(target).into_owned();
    let (mut length, mut chunked, mut hosts) = (None, false, 0);
    for line in &lines[1..] {
        let colon = line.iter().position(|byte| *byte == b':').ok_or("a line without a colon")?;
        let name = String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase();
        if colon == 0 || !line[..colon].iter().all(is_token) {
            return Err(format!("a field's name: {name:?}"));
        }
        let value = line[colon + 1..].trim_ascii();
        match &name[..] {
            "host" => {
                hosts += 1;
                // The route takes one host only; any other was not the one that was routed.
                let name = value.split(|byte| *byte == b':').next().unwrap_or_default();
                if !name.eq_ignore_ascii_case(b"service") {
                    return Err(format!("Host: {}", value.escape_ascii()));
                }
            }
            "content-length" if length.is_some() => return Err("Content-Length twice".into()),
            "content-length" => {
                if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                    return Err(format!("Content-Length: {}", value.escape_ascii()));
                }
                length = Some(String::from_utf8_lossy(value).parse().map_err(|_| "a length beyond 64 bits")?);
            }
            "transfer-encoding" if chunked => return Err("Transfer-Encoding twice".into()),
            "transfer-encoding" if value == b"chunked" => chunked = true,
            "transfer-encoding" => return Err(format!("Transfer-Encoding: {}", value.escape_ascii())),
            _ => {}
        }
    }
    match (length, chunked, hosts) {
        (_, _, hosts) if hosts != 1 => Err(format!("{hosts} times Host")),
        (Some(_), true, _) => Err("Content-Length and Transfer-Encoding".into()),
        (None, true, _) => Ok(Framing::Chunked),
        (length, false, _) => Ok(Framing::Length(length.unwrap_or(0))),
    }
}

/// True: up to the end of the body; false: the connection ended.
fn read_chunks(wire: &mut Wire, body: &mut Vec<u8>) -> Result<bool, String> {
    loop {
        let Some(line) = line(wire)? else { return Ok(false) };
        if line.is_empty() || line.len() > 16 || !line.iter().all(u8::is_ascii_hexdigit) {
            return Err(format!("a chunk's size: {}", line.escape_ascii()));
        }
        let size = u64::from_str_radix(&String::from_utf8_lossy(&line), 16).map_err(|error| error.to_string())?;
        for _ in 0..size {
            let Some(byte) = byte(wire) else { return Ok(false) };
            body.push(byte);
        }
        if size == 0 {
            break;
        }
        match self::line(wire)? {
            Some(end) if end.is_empty() => {}
            Some(end) => return Err(format!("behind a chunk: {}", end.escape_ascii())),
            None => return Ok(false),
        }
    }
    loop {
        let Some(trailer) = line(wire)? else { return Ok(false) };
        if trailer.is_empty() {
            return Ok(true);
        }
        let name = trailer.split(|byte| *byte == b':').next().unwrap_or_default().to_ascii_lowercase();
        let forged = [&b"content-length"[..], b"transfer-encoding", b"host"].contains(&&name[..]);
        if forged || name.len() == trailer.len() || !name.iter().all(is_token) {
            return Err(format!("a trailer: {}", trailer.escape_ascii()));
        }
    }
}

/// The next line without its end; nothing if the connection ended.
fn line(wire: &mut Wire) -> Result<Option<Vec<u8>>, String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        match byte(wire) {
            Some(byte) => line.push(byte),
            None => return Ok(None),
        }
    }
    line.truncate(line.len() - 2);
    match line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        true => Err(format!("a bare CR, LF or NUL: {}", line.escape_ascii())),
        false => Ok(Some(line)),
    }
}

fn byte(wire: &mut Wire) -> Option<u8> {
    let mut byte = [0];
    matches!(wire.read(&mut byte), Ok(1)).then_some(byte[0])
}

fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}
