//! Whose connection it is: this process's own, or another one's.

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
    let Some(inode) = fs::read_to_string("/proc/thread-self/net/tcp")?.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let is_other_end = fields.next() == Some(&there) && fields.next() == Some(&here);
        is_other_end.then(|| fields.nth(6).map(str::to_owned)).flatten()
    }) else {
        return Ok(false);
    };
    let wanted = format!("socket:[{inode}]");
    let mut own = fs::read_dir("/proc/self/fd")?.flatten();
    Ok(own.any(|entry| fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str())))
}

/// An address as that list has it.
fn listed(address: SocketAddr) -> String {
    let SocketAddr::V4(address) = address else { return String::new() };
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}
