//! Requests to a sidecar's admin interface.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Where it is unless said otherwise.
pub const ADDRESS: &str = "127.0.0.1:15000";
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes.
const ANSWER_MAX: u64 = 16 << 20;

/// Status and body of what is shown at this path.
pub fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    ask(address, &format!("GET {path} HTTP/1.1\r\n"), "")
}

/// Changes something.
pub fn post(address: SocketAddr, path: &str, json: &str) -> io::Result<(u16, String)> {
    let head = format!("POST {path} HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n", json.len());
    ask(address, &head, json)
}

fn ask(address: SocketAddr, head: &str, body: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "{head}host: {address}\r\nconnection: close\r\n\r\n{body}")?;
    let mut text = String::new();
    let late = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {PATIENCE:?}")),
        _ => error,
    };
    stream.take(ANSWER_MAX).read_to_string(&mut text).map_err(late)?;
    let no_answer = || io::Error::new(io::ErrorKind::InvalidData, "what answers there does not speak HTTP");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(no_answer)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(no_answer)?;
    Ok((status, body.to_owned()))
}
