//! A connection over a Unix socket or TCP.

use std::io::{self, Read, Write};
use std::net::{self, TcpStream};
use std::os::unix::net::UnixStream;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt::Linger};

#[derive(Debug)]
pub enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    /// Ends it in both directions; over TCP with RST, once whoever reads from it has found that out.
    pub fn reset(&self) {
        // It may have ended.
        let _ = match self {
            Stream::Unix(stream) => stream.shutdown(net::Shutdown::Both),
            Stream::Tcp(stream) => {
                let _ = setsockopt(stream, Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
                stream.shutdown(net::Shutdown::Both)
            }
        };
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).read(buffer),
            Stream::Tcp(stream) => (&*stream).read(buffer),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).write(bytes),
            Stream::Tcp(stream) => (&*stream).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
