//! A small HTTP service for tests of the direct way: keeps connections, echoes with status 202, and counts. Paths that begin with one of
//! these do something else: `/break` (the connection ends without an answer), `/half` (in the middle of one), `/silent` (no
//! answer ever), `/leave` (the connection ends behind an answer that did not say so), `/refuse` (status 413 and the end, before the body is
//! read).
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

#[derive(Clone)]
pub struct Service {
    pub address: String,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    requests: AtomicU64,
}

impl Service {
    pub fn tcp() -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let service = Service::new(format!("tcp:{}", listener.local_addr().unwrap()));
        let counts = service.counts.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, counts) = (stream.unwrap(), counts.clone());
                std::thread::spawn(move || serve(stream, &counts));
            }
        });
        service
    }

    pub fn unix(path: &Path) -> Service {
        let listener = UnixListener::bind(path).unwrap();
        let service = Service::new(format!("unix:{}", path.display()));
        let counts = service.counts.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, counts) = (stream.unwrap(), counts.clone());
                std::thread::spawn(move || serve(stream, &counts));
            }
        });
        service
    }

    fn new(address: String) -> Service {
        Service { address, counts: Arc::default() }
    }

    pub fn connections(&self) -> u64 {
        self.counts.connections.load(SeqCst)
    }

    pub fn requests(&self) -> u64 {
        self.counts.requests.load(SeqCst)
    }
}

fn serve(mut stream: impl Read + Write, counts: &Counts) {
    counts.connections.fetch_add(1, SeqCst);
    while let Some((head, rest)) = read_head(&mut stream) {
        let path = head.split(' ').nth(1).unwrap();
        if path.starts_with("/refuse") {
            let _ = stream.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\nmuch");
            return;
        }
        let Some(body) = read_body(&mut stream, &head, rest) else { return };
        counts.requests.fetch_add(1, SeqCst);
        if path.starts_with("/break") {
            return;
        }
        if path.starts_with("/half") {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive5");
            return;
        }
        if path.starts_with("/silent") {
            let _ = stream.read(&mut [0]);
            return;
        }
        if answer(&mut stream, &body).is_err() || path.starts_with("/leave") {
            return;
        }
    }
}

fn answer(stream: &mut impl Write, body: &[u8]) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 100 Continue\r\n\r\n")?;
    write!(stream, "HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    for piece in body.chunks(1000) {
        write!(stream, "{:x}\r\n", piece.len())?;
        stream.write_all(piece)?;
        write!(stream, "\r\n")?;
    }
    write!(stream, "0\r\n\r\n")
}

/// A head, and what came behind it; none at the end of the connection.
fn read_head(stream: &mut impl Read) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Some((String::from_utf8(bytes).unwrap(), rest));
        }
        more(stream, &mut bytes)?;
    }
}

/// None: the connection ended before it was complete.
fn read_body(stream: &mut impl Read, head: &str, mut rest: Vec<u8>) -> Option<Vec<u8>> {
    if !head.contains("transfer-encoding: chunked\r\n") {
        let line = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let (len, have) = (line.map_or(0, |line| line.parse().unwrap()), rest.len());
        rest.resize(len, 0);
        stream.read_exact(&mut rest[have..]).ok()?;
        return Some(rest);
    }
    let mut body = Vec::new();
    loop {
        let line = loop {
            match rest.windows(2).position(|window| window == b"\r\n") {
                Some(end) => break end,
                None => more(stream, &mut rest)?,
            }
        };
        let len = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        while rest.len() < line + 2 + len + 2 {
            more(stream, &mut rest)?;
        }
        body.extend_from_slice(&rest[line + 2..line + 2 + len]);
        rest.drain(..line + 2 + len + 2);
        if len == 0 {
            assert!(rest.is_empty());
            return Some(body);
        }
    }
}

fn more(stream: &mut impl Read, bytes: &mut Vec<u8>) -> Option<()> {
    let mut piece = [0; 1024];
    match stream.read(&mut piece) {
        Ok(0) | Err(_) => None,
        Ok(len) => {
            bytes.extend_from_slice(&piece[..len]);
            Some(())
        }
    }
}
