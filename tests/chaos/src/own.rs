//! What the kernel lists of connections: whether the other end is in this process, and which are being made.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::stream::Stream;

/// Whether the other end is in this process.
pub fn is(stream: &Stream) -> io::Result<bool> {
    match stream {
        Stream::Unix(stream) => Ok(getsockopt(stream, PeerCredentials)?.pid() == std::process::id().cast_signed()),
        Stream::Tcp(stream) => is_tcp(stream),
    }
}

/// The kernel does not say it of a TCP connection, but lists all sockets, and those that a process has.
fn is_tcp(stream: &TcpStream) -> io::Result<bool> {
    let (here, there) = (listed(stream.local_addr()?), listed(stream.peer_addr()?));
    let other_end = sockets()?.into_iter().find(|socket| socket.local == there && socket.remote == here);
    let Some(Socket { inode, .. }) = other_end else { return Ok(false) };
    let wanted = format!("socket:[{inode}]");
    let mut own = fs::read_dir("/proc/self/fd")?.flatten();
    Ok(own.any(|entry| fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str())))
}

/// Connections to an address that are being made: their SYN is not answered.
pub fn unanswered_syns(address: SocketAddr) -> usize {
    count(address, |state| state == SYN_SENT)
}

/// Connections to an address that somebody holds.
pub fn connections(address: SocketAddr) -> usize {
    count(address, |state| state != TIME_WAIT)
}

fn count(address: SocketAddr, is_one: impl Fn(&str) -> bool) -> usize {
    let address = listed(address);
    let is_one = |socket: &Socket| socket.remote == address && is_one(&socket.state);
    sockets().expect("a list").iter().filter(|socket| is_one(socket)).count()
}

const SYN_SENT: &str = "02";
const TIME_WAIT: &str = "06";

struct Socket {
    local: String,
    remote: String,
    state: String,
    inode: String,
}

/// All of TCP in this thread's network.
fn sockets() -> io::Result<Vec<Socket>> {
    let list = fs::read_to_string("/proc/thread-self/net/tcp")?;
    let socket = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1).map(str::to_owned);
        let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Socket { local, remote, state, inode: fields.nth(5)? })
    };
    Ok(list.lines().skip(1).filter_map(socket).collect())
}

/// An address as that list has it.
fn listed(address: SocketAddr) -> String {
    let SocketAddr::V4(address) = address else { return String::new() };
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}
