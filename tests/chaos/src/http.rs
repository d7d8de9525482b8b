//! Messages of HTTP/1.1, as far as clients and services of this program send them: a head, and a body of which the head says the length.

use std::io::{self, Read};

/// A request or an answer.
pub struct Message {
    /// The head's first line, and all of its fields, in small letters.
    head: String,
    pub body: Vec<u8>,
}

impl Message {
    /// A field that holds a number; none: it is not there.
    pub fn number(&self, name: &str) -> Option<u64> {
        number(&self.head, name)
    }

    /// Of an answer. 0: this is no answer.
    pub fn status(&self) -> u16 {
        self.head.strip_prefix("http/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or(0)
    }

    pub fn head(&self) -> &str {
        &self.head
    }
}

/// What a request looks like that carries the number of its call.
pub fn request(method: &str, call: u64, body: &[u8]) -> Vec<u8> {
    request_with(method, &format!("x-call: {call}\r\n"), body)
}

/// What a request looks like with these lines in its head.
pub fn request_with(method: &str, lines: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("{method} /run HTTP/1.1\r\nhost: service\r\n{lines}content-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// An answer with status 200.
pub fn answer(body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

/// The next message; nothing at the end of the connection. `input` keeps what came beyond it.
pub fn receive(stream: &mut impl Read, input: &mut Vec<u8>) -> io::Result<Option<Message>> {
    loop {
        if let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&input[..end]).to_ascii_lowercase();
            let length = number(&head, "content-length").unwrap_or(0) as usize;
            if input.len() >= end + 4 + length {
                let rest = input.split_off(end + 4 + length);
                let body = std::mem::replace(input, rest).split_off(end + 4);
                return Ok(Some(Message { head, body }));
            }
        }
        let before = input.len();
        receive_some(stream, input)?;
        if input.len() == before {
            return Ok(None);
        }
    }
}

/// What has come, or comes next; nothing at the end of the connection.
pub fn receive_some(stream: &mut impl Read, input: &mut Vec<u8>) -> io::Result<()> {
    let mut piece = [0; 16 << 10];
    let len = stream.read(&mut piece)?;
    input.extend_from_slice(&piece[..len]);
    Ok(())
}

fn number(head: &str, name: &str) -> Option<u64> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
}
