//! What an app in order would say: keys, heads, frames and bodies, and the pieces that smugglers use.

use std::sync::atomic::{AtomicU64, Ordering};

use shmesh_proto::dubbo::{FrameHeader, Invocation, serialization, write_request, write_value_response};
use shmesh_shm::key::DubboKey;

use crate::choices::Choices;

/// Where the attacks go. `service` and `flaky` lead to upstreams that keep a record; nothing of `nowhere` may arrive there.
pub const HOSTS: [&str; 9] =
    ["nowhere", "nowhere", "nowhere", "nowhere", "service", "service", "flaky", "local", "good"];

/// A second request, hidden where a body or a head belongs. No route takes its host, so that it can only arrive by stealth.
pub const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: nowhere\r\n\r\n";

/// A second answer, hidden where a body or a head belongs.
pub const SMUGGLED_ANSWER: &str = "HTTP/1.1 200 OK\r\nX-Smuggled: 1\r\nContent-Length: 4\r\n\r\nevil";

pub const SERVICE: &str = "com.demo.GreetService";

/// Lines that have no place in a key, or say something else than the record.
const LINES: [&str; 16] = [
    "Content-Length: 3\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: 3\r\nContent-Length: 30\r\n",
    "Content-Length: 3, 3\r\n",
    "Content-Length: +3\r\n",
    "Content-Length: 18446744073709551616\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: identity, chunked\r\nContent-Length: 3\r\n",
    "Transfer-Encoding : chunked\r\n",
    "X-A: 1\r\n Transfer-Encoding: chunked\r\n",
    "X-A: 1\nTransfer-Encoding: chunked\r\n",
    "X-A: 1\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: nowhere\r\n",
    "Connection: host, content-length\r\n",
    "Connection: upgrade\r\nUpgrade: h2c\r\n",
    "Expect: 100-continue\r\n",
    "Host: nowhere\r\n",
];

/// A name that no other call of this process has, and that a bit more or less does not turn into another's.
fn name() -> u64 {
    static NAMED: AtomicU64 = AtomicU64::new(0);
    Choices::Seeded(NAMED.fetch_add(1, Ordering::Relaxed)).word()
}

pub struct Words<'c, 'a>(pub &'c mut Choices<'a>);

impl Words<'_, '_> {
    /// An HTTP key; `declared` is said as Content-Length now and then, rightly. One that is not defined for many calls has a name of
    /// its own.
    pub fn http_key(&mut self, declared: Option<usize>, named: bool) -> Vec<u8> {
        let method = self.0.pick(&["GET", "POST", "PUT", "HEAD", "DELETE"]);
        let host = self.0.pick(&HOSTS);
        let path = self.0.below(64);
        let name = if named { format!("X-Call: {:x}\r\n", name()) } else { String::new() };
        let length = match declared {
            Some(length) if self.0.one_in(4) => format!("Content-Length: {length}\r\n"),
            _ => String::new(),
        };
        format!("{method} /h/{path} HTTP/1.1\r\nHost: {host}\r\nX-Caller: hostile\r\n{name}{length}\r\n").into_bytes()
    }

    /// Puts a line into a head that does not belong there.
    pub fn spoil_head(&mut self, head: &mut Vec<u8>) {
        let ends: Vec<usize> =
            head.windows(2).enumerate().filter(|(_, w)| *w == b"\r\n").map(|(at, _)| at + 2).collect();
        let Some(&at) = ends.get(self.0.below(ends.len().max(1) as u64) as usize) else { return };
        let line = self.0.pick(&LINES);
        head.splice(at..at, line.bytes());
    }

    /// A body of up to 20 KiB, small as a rule, with a request hidden in it now and then.
    pub fn body(&mut self) -> Vec<u8> {
        let len = match self.0.below(16) {
            0..=5 => 0,
            6..=12 => self.0.below(200),
            13..=14 => 400 + self.0.below(200),
            _ => 1_000 + self.0.below(19_000),
        };
        let mut body = vec![b'b'; len as usize];
        if self.0.one_in(3) && body.len() >= SMUGGLED.len() {
            let at = body.len() - SMUGGLED.len();
            body[at..].copy_from_slice(SMUGGLED.as_bytes());
        }
        body
    }

    pub fn dubbo_key(&mut self) -> Vec<u8> {
        let mut key = Vec::new();
        let group = self.0.pick(&[Some("g1"), Some("g1"), None, Some("g2")]);
        DubboKey { service: SERVICE, method: "sayHello", group, version: Some("1.0.0"), tag: None }.encode(&mut key);
        key
    }

    pub fn dubbo_frame(&mut self, two_way: bool) -> Vec<u8> {
        let argument = vec![b'h'; self.0.pick(&[1, 3, 20, 300, 700, 6_000])];
        let invocation = Invocation {
            path: SERVICE,
            version: Some("1.0.0"),
            group: Some("g1"),
            method: "sayHello",
            argument: Some(&argument),
            timeout_ms: None,
            attachments: &[],
        };
        let mut frame = Vec::new();
        write_request(&mut frame, self.0.below(1 << 20), two_way, serialization::HESSIAN2, &invocation);
        frame
    }

    /// Bytes of an HTTP stream: requests whole or not, lengths and chunk lines right or not.
    pub fn http_bytes(&mut self) -> Vec<u8> {
        let host = self.0.pick(&HOSTS);
        let head = |extra: &str| format!("POST /h/stream HTTP/1.1\r\nHost: {host}\r\nX-Caller: hostile\r\n{extra}\r\n");
        let text = match self.0.below(8) {
            0 => head(""),
            1 => head("Content-Length: 5\r\n") + "hello",
            2 => head("Content-Length: 5\r\n") + "hel",
            3 => head("Transfer-Encoding: chunked\r\n") + "5\r\nhello\r\n0\r\n\r\n",
            4 => head("Transfer-Encoding: chunked\r\n") + "5;x=\"y\r\nhello\r\n3\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n",
            5 => head("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n") + "0\r\n\r\n" + SMUGGLED,
            6 => head("Transfer-Encoding: chunked\r\n") + "FFFFFFFFFFFFFFFFF\r\n" + SMUGGLED,
            _ => head("Content-Length: 44\r\n") + SMUGGLED,
        };
        text.into_bytes()
    }

    /// The head of an answer.
    pub fn answer_head(&mut self) -> Vec<u8> {
        let text = self.0.pick(&[
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX-Own: yes\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        ]);
        text.as_bytes().to_vec()
    }

    pub fn answer_body(&mut self) -> Vec<u8> {
        match self.0.below(6) {
            0 => Vec::new(),
            1 => b"evil".to_vec(),
            2 => SMUGGLED_ANSWER.as_bytes().to_vec(),
            3 => [b"0\r\n\r\n", SMUGGLED_ANSWER.as_bytes()].concat(),
            4 => vec![b'a'; self.0.below(600) as usize],
            _ => vec![b'a'; 1_000 + self.0.below(9_000) as usize],
        }
    }

    /// The answer to a Dubbo frame, with its id, or with another one.
    pub fn dubbo_answer(&mut self, request: &[u8]) -> Vec<u8> {
        let mut answer = Vec::new();
        let header = request.first_chunk().and_then(|bytes| FrameHeader::parse(bytes, u32::MAX).ok());
        let Some(mut header) = header else { return answer };
        if self.0.one_in(4) {
            header.id ^= 1 << self.0.below(64);
        }
        write_value_response(&mut answer, &header, b"\x04evil");
        answer
    }
}
