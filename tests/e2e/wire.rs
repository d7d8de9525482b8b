//! Both ends of a connection, for clients and services of the tests: bytes, and HTTP/1.1 read by the letter.
//!
//! Nothing that reads comes from shmesh, so that the two cannot be wrong together.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use crate::process::PATIENCE;

/// A connection: TCP, Unix, or a stream in shared memory.
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Shm(shmesh_client::Stream),
}

/// A connection with what was read ahead.
pub struct Wire {
    stream: Stream,
    ahead: Vec<u8>,
}

/// The head of a request or an answer.
#[derive(Clone, Debug)]
pub struct Head {
    pub start: String,
    pub fields: Vec<(String, String)>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Vec<String>,
}

impl Wire {
    pub fn new(mut stream: Stream) -> Wire {
        stream.set_patience();
        Wire { stream, ahead: Vec::new() }
    }

    pub fn tcp(address: SocketAddr) -> Wire {
        Self::try_tcp(address).unwrap_or_else(|| panic!("{address} does not accept"))
    }

    pub fn try_tcp(address: SocketAddr) -> Option<Wire> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_nodelay(true).expect("a socket");
        Some(Wire::new(Stream::Tcp(stream)))
    }

    pub fn unix(path: &Path) -> Wire {
        let stream = UnixStream::connect(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Wire::new(Stream::Unix(stream))
    }

    /// The same connection once more, to write from another thread.
    pub fn twin(&self) -> Wire {
        Wire { stream: self.stream.twin(), ahead: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes.as_ref()).expect("the peer takes it");
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Ends the sending direction.
    pub fn end(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends both directions, whatever was not read.
    pub fn cut(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Ends a TCP connection by a RST.
    pub fn reset(self) {
        let Stream::Tcp(stream) = &self.stream else { panic!("only TCP has that") };
        setsockopt(stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).expect("it is a socket");
    }

    /// Reads what is there, at least one byte; 0 at the end.
    pub fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if !self.ahead.is_empty() {
            let len = out.len().min(self.ahead.len());
            out[..len].copy_from_slice(&self.ahead[..len]);
            self.ahead.drain(..len);
            return Ok(len);
        }
        self.stream.read(out)
    }

    /// Exactly `len` bytes; `None` if the peer ended before.
    pub fn exactly(&mut self, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut at = 0;
        while at < len {
            match self.read(&mut bytes[at..]).expect("the peer sends in time") {
                0 => return None,
                n => at += n,
            }
        }
        Some(bytes)
    }

    /// Everything up to the end, and whether the end came in order.
    pub fn rest(&mut self) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        let in_order = self.each_piece(u64::MAX, |piece| bytes.extend_from_slice(piece)).is_ok();
        (bytes, in_order)
    }

    /// Fails unless the peer has ended the connection, or does it now, without another byte.
    pub fn expect_closed(&mut self) {
        let (bytes, _) = self.rest();
        assert!(bytes.is_empty(), "more came: {}", String::from_utf8_lossy(&bytes));
    }

    /// Gives up to `len` bytes to `take` as they come; stops at the end.
    pub fn each_piece(&mut self, len: u64, mut take: impl FnMut(&[u8])) -> io::Result<u64> {
        let mut buffer = vec![0; 64 * 1024];
        let mut left = len;
        while left > 0 {
            let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = self.read(&mut buffer[..room]);
            if let Err(error) = &read
                && matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
            {
                panic!("nothing came for {} s", PATIENCE.as_secs());
            }
            match read? {
                0 => break,
                n => {
                    take(&buffer[..n]);
                    left -= n as u64;
                }
            }
        }
        Ok(len - left)
    }

    /// The next head; `None` if the peer ended before its first byte.
    pub fn head(&mut self) -> Option<Head> {
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\n") {
            let mut byte = [0; 4096];
            if self.ahead.is_empty() {
                match self.stream.read(&mut byte) {
                    Ok(0) => {
                        assert!(text.is_empty(), "the peer ended in a head: {}", String::from_utf8_lossy(&text));
                        return None;
                    }
                    Ok(n) => self.ahead.extend_from_slice(&byte[..n]),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                    Err(error) => panic!("no head came: {error}"),
                }
            }
            let from = text.len().saturating_sub(3);
            text.append(&mut self.ahead);
            if let Some(at) = text[from..].windows(4).position(|four| four == b"\r\n\r\n") {
                self.ahead = text.split_off(from + at + 4);
            }
        }
        Some(Head::parse(&text))
    }

    /// The body behind a head, in pieces; gives the trailers. `to_head`: the answer to a HEAD request.
    pub fn body(&mut self, head: &Head, to_head: bool, mut take: impl FnMut(&[u8])) -> Vec<String> {
        if to_head || head.has_no_body() {
            return Vec::new();
        }
        if head.get("transfer-encoding").is_some() {
            assert_eq!(head.get("transfer-encoding"), Some("chunked"));
            assert_eq!(head.get("content-length"), None, "framed twice");
            loop {
                let line = self.line();
                let len = u64::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("not a chunk size: {line:?}"));
                if len == 0 {
                    let mut trailers = Vec::new();
                    loop {
                        match self.line() {
                            line if line.is_empty() => return trailers,
                            line => trailers.push(line),
                        }
                    }
                }
                let read = self.each_piece(len, &mut take).expect("a chunk");
                assert_eq!(read, len, "the peer ended in a chunk");
                assert_eq!(self.line(), "", "the end of a chunk");
            }
        }
        match head.length() {
            Some(len) => {
                let read = self.each_piece(len, take).expect("a body");
                assert_eq!(read, len, "the peer ended in the body");
            }
            None if head.start.starts_with("HTTP/") => {
                self.each_piece(u64::MAX, take).expect("a body up to the end");
            }
            None => {}
        }
        Vec::new()
    }

    /// The next answer, held whole. Interim answers are an error: who expects one reads heads.
    pub fn answer(&mut self) -> Answer {
        self.answer_to(false)
    }

    pub fn answer_to(&mut self, to_head: bool) -> Answer {
        let head = self.head().expect("an answer");
        let mut body = Vec::new();
        let trailers = self.body(&head, to_head, |piece| body.extend_from_slice(piece));
        Answer { head, body, trailers }
    }

    /// Sends a request and reads its answer.
    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> Answer {
        self.send(request);
        self.answer()
    }

    fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.extend(self.exactly(1).expect("a line"));
        }
        line.truncate(line.len() - 2);
        String::from_utf8(line).expect("text")
    }
}

impl Head {
    fn parse(text: &[u8]) -> Head {
        let text = String::from_utf8(text.to_vec()).expect("a head is text");
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let start = lines.next().expect("a first line").to_owned();
        let fields = lines
            .map(|line| {
                let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("not a field: {line}"));
                (name.to_ascii_lowercase(), value.trim().to_owned())
            })
            .collect();
        Head { start, fields }
    }

    /// Value of the field; fails if it is there twice.
    pub fn get(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() < 2, "{name} twice: {values:?}");
        values.first().copied()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    pub fn status(&self) -> u16 {
        let code =
            self.start.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse().ok());
        code.unwrap_or_else(|| panic!("not a status line: {}", self.start))
    }

    pub fn length(&self) -> Option<u64> {
        self.get("content-length").map(|value| value.parse().expect("a length"))
    }

    /// Second word of a request line.
    pub fn path(&self) -> &str {
        self.start.split(' ').nth(1).expect("a target")
    }

    pub fn method(&self) -> &str {
        self.start.split(' ').next().expect("a method")
    }

    fn has_no_body(&self) -> bool {
        self.start.starts_with("HTTP/") && matches!(self.status(), 100..=199 | 204 | 304)
    }
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// `x-shmesh-reason`.
    pub fn reason(&self) -> &str {
        self.head.get("x-shmesh-reason").unwrap_or("")
    }
}

impl Stream {
    fn set_patience(&mut self) {
        let set = match self {
            Stream::Shm(stream) => {
                stream.set_read_timeout(Some(PATIENCE));
                stream.set_write_timeout(Some(PATIENCE));
                Ok(())
            }
            Stream::Tcp(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).and(stream.set_write_timeout(Some(PATIENCE)))
            }
            Stream::Unix(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).and(stream.set_write_timeout(Some(PATIENCE)))
            }
        };
        set.expect("a socket");
    }

    fn twin(&self) -> Stream {
        match self {
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone().expect("a descriptor")),
            Stream::Unix(stream) => Stream::Unix(stream.try_clone().expect("a descriptor")),
            Stream::Shm(stream) => Stream::Shm(stream.try_clone().expect("a descriptor")),
        }
    }

    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.shutdown(how),
            Stream::Unix(stream) => stream.shutdown(how),
            Stream::Shm(stream) => stream.shutdown(how),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(out),
            Stream::Unix(stream) => stream.read(out),
            Stream::Shm(stream) => stream.read(out),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
            Stream::Shm(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
