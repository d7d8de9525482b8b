//! HTTP/1.1 read by the letter, from a peer that may break off at any moment but may never be ambiguous.

use std::io::Read;

/// Bytes of a body that a test sends at most; more is a fault.
const BODY_MAX: usize = 4 << 20;

/// Bytes of a head or of a chunk line.
const LINES_MAX: usize = 128 << 10;

/// A whole message.
#[derive(Debug)]
pub struct Message {
    pub start: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// What a connection brought.
#[derive(Debug)]
pub enum Next {
    Whole(Message),
    /// The peer ended between two messages.
    Ended,
    /// The peer ended within a message, which did not happen then.
    BrokenOff,
    /// What came is not one message, and nothing else.
    Fault(String),
}

/// A connection that is read message by message.
pub struct Strict<R> {
    stream: R,
    ahead: Vec<u8>,
}

enum Stop {
    BrokenOff,
    Fault(String),
}

type Outcome<T> = Result<T, Stop>;

impl<R: Read> Strict<R> {
    pub fn new(stream: R) -> Strict<R> {
        Strict { stream, ahead: Vec::new() }
    }

    pub fn stream(&mut self) -> &mut R {
        &mut self.stream
    }

    /// The next message, a request or the answer to something else than HEAD.
    pub fn next(&mut self) -> Next {
        if self.ahead.is_empty() && !self.more() {
            return Next::Ended;
        }
        match self.message() {
            Ok(message) => Next::Whole(message),
            Err(Stop::BrokenOff) => Next::BrokenOff,
            Err(Stop::Fault(fault)) => Next::Fault(fault),
        }
    }

    fn message(&mut self) -> Outcome<Message> {
        let head = self.until(b"\r\n\r\n")?;
        let shown = || String::from_utf8_lossy(&head).into_owned();
        let fault = |what: &str| Stop::Fault(format!("{what}: {:?}", shown()));
        // Values and reason phrases may have bytes above 127 (RFC 9110 §5.5), and no control characters.
        let text = String::from_utf8_lossy(&head).into_owned();
        if head.iter().any(|&byte| byte < b' ' && !b"\t\r\n".contains(&byte) || byte == 0x7f) {
            return Err(fault("not text"));
        }
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let mut fields = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(':').ok_or_else(|| fault("not a field"))?;
            let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            if name.is_empty() || !name.bytes().all(token) || value.contains(['\r', '\n', '\0']) {
                return Err(fault("not a field"));
            }
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut message = Message { start, fields, body: Vec::new() };
        message.body = self.body(&message).map_err(|stop| match stop {
            Stop::Fault(what) => fault(&what),
            broken_off => broken_off,
        })?;
        Ok(message)
    }

    fn body(&mut self, message: &Message) -> Outcome<Vec<u8>> {
        let fault = |what: &str| Stop::Fault(what.to_owned());
        let (lengths, codings) = (message.all("content-length"), message.all("transfer-encoding"));
        if lengths.len() + codings.len() > 1 {
            return Err(fault("framed twice"));
        }
        if let Some(status) = message.status()
            && (status < 200 || status == 204 || status == 304)
        {
            return Ok(Vec::new());
        }
        if let [length] = lengths[..] {
            let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
            // One that nobody will ever fill is in order; the caller breaks off then.
            let length = length.parse().ok().filter(|&length: &usize| digits && i64::try_from(length).is_ok());
            return self.exactly(length.ok_or_else(|| fault("not a length"))?);
        }
        match codings[..] {
            [] if message.status().is_none() => Ok(Vec::new()),
            [] => {
                while self.ahead.len() <= BODY_MAX && self.more() {}
                Ok(std::mem::take(&mut self.ahead))
            }
            ["chunked"] => self.chunks(),
            _ => Err(fault("an unknown coding")),
        }
    }

    fn chunks(&mut self) -> Outcome<Vec<u8>> {
        let fault = |what: String| Stop::Fault(what);
        let mut body = Vec::new();
        loop {
            let line = self.until(b"\r\n")?;
            let digits = &line[..line.len() - 2];
            let text = std::str::from_utf8(digits).unwrap_or("");
            let hex = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            let size = usize::from_str_radix(text, 16).ok().filter(|&size| hex && size <= BODY_MAX);
            let size = size.ok_or_else(|| fault(format!("not a chunk line: {:?}", String::from_utf8_lossy(&line))))?;
            if size == 0 {
                while self.until(b"\r\n")?.len() > 2 {}
                return Ok(body);
            }
            body.extend(self.exactly(size)?);
            if self.exactly(2)? != b"\r\n" || body.len() > BODY_MAX {
                return Err(fault("a chunk that does not end".to_owned()));
            }
        }
    }

    fn until(&mut self, end: &[u8]) -> Outcome<Vec<u8>> {
        loop {
            if let Some(at) = self.ahead.windows(end.len()).position(|window| window == end) {
                let rest = self.ahead.split_off(at + end.len());
                return Ok(std::mem::replace(&mut self.ahead, rest));
            }
            if self.ahead.len() > LINES_MAX {
                return Err(Stop::Fault("a line without an end".to_owned()));
            }
            if !self.more() {
                return Err(Stop::BrokenOff);
            }
        }
    }

    fn exactly(&mut self, len: usize) -> Outcome<Vec<u8>> {
        while self.ahead.len() < len {
            if self.ahead.len() > BODY_MAX {
                return Err(Stop::Fault("more than anybody sends".to_owned()));
            }
            if !self.more() {
                return Err(Stop::BrokenOff);
            }
        }
        let rest = self.ahead.split_off(len);
        Ok(std::mem::replace(&mut self.ahead, rest))
    }

    fn more(&mut self) -> bool {
        let mut piece = [0; 16 << 10];
        match self.stream.read(&mut piece) {
            Ok(0) | Err(_) => false,
            Ok(len) => {
                self.ahead.extend_from_slice(&piece[..len]);
                true
            }
        }
    }
}

impl Message {
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    /// Of an answer.
    pub fn status(&self) -> Option<u16> {
        self.start.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse().ok())
    }
}
