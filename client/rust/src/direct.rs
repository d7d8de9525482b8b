//! One call straight to an endpoint, over a connection of its own: blocking, small, only for when the sidecar is gone.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use shmesh_policy::Address;
use shmesh_proto::dubbo::{FrameHeader, HEADER_LEN, write_heartbeat_reply};
use shmesh_proto::http1::{BodyReader, HeadLimits, ResponseHead, ResponseOut, Status, write_response};

use crate::call::{Request, RequestKind, Response};
use crate::error::{CallError, Ran};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes the call.
pub(crate) fn call(
    address: &Address,
    request: &Request<'_>,
    timeout: Duration,
    answer_bytes_max: usize,
) -> Result<Response, CallError> {
    let deadline = Instant::now() + timeout;
    let direct = |ran: Ran| move |sentence: String| CallError::Direct { ran, sentence };
    let peer = Peer::connect(address, CONNECT_TIMEOUT.min(timeout))
        .map_err(|error| format!("{address}: {error}"))
        .map_err(direct(Ran::No))?;
    let mut exchange = Conversation { peer, deadline, answer_bytes_max, received: Vec::new() };
    let outcome = match &request.kind {
        RequestKind::Http { head, body } => exchange.http(head, body),
        RequestKind::Dubbo { frame, .. } => exchange.dubbo(frame, request.is_one_way()),
        RequestKind::Raw { bytes, .. } => exchange.raw(bytes),
    };
    // What was sent may have been executed, whatever came back.
    outcome.map_err(|error| direct(Ran::Maybe)(format!("{address}: {error}")))
}

enum Peer {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Peer {
    fn connect(address: &Address, timeout: Duration) -> io::Result<Peer> {
        // The simulation has no network of the kernel's: there every endpoint refuses.
        if cfg!(shmesh_sim) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let tcp = |addresses: &mut dyn Iterator<Item = std::net::SocketAddr>| {
            let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
            for address in addresses {
                match TcpStream::connect_timeout(&address, timeout) {
                    Ok(stream) => {
                        stream.set_nodelay(true)?;
                        return Ok(Peer::Tcp(stream));
                    }
                    Err(error) => last = error,
                }
            }
            Err(last)
        };
        match address {
            Address::Tcp(address) => tcp(&mut [*address].into_iter()),
            Address::Host { host, port } => tcp(&mut (&**host, *port).to_socket_addrs()?),
            Address::Unix(path) => UnixStream::connect(path).map(Peer::Unix),
            Address::Shm(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        let timeout = Some(timeout.max(Duration::from_millis(1)));
        match self {
            Peer::Tcp(stream) => {
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)
            }
            Peer::Unix(stream) => {
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)
            }
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Peer::Tcp(stream) => stream.read(into),
            Peer::Unix(stream) => stream.read(into),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Peer::Tcp(stream) => stream.write(bytes),
            Peer::Unix(stream) => stream.write(bytes),
        }
    }

    fn end_write(&self) -> io::Result<()> {
        match self {
            Peer::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Peer::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

struct Conversation {
    peer: Peer,
    deadline: Instant,
    answer_bytes_max: usize,
    /// Bytes that came and were not looked at yet.
    received: Vec<u8>,
}

impl Conversation {
    fn http(&mut self, head: &[u8], body: &[u8]) -> io::Result<Response> {
        let mut out = head.to_vec();
        let to_head = head.starts_with(b"HEAD ");
        if !body.is_empty() || !has_no_body_by_nature(head) {
            out.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
        }
        out.extend_from_slice(b"connection: close\r\n\r\n");
        self.send(&out)?;
        // A server may answer before it has read everything, and close: its answer counts.
        let sent = self.send(body);
        match self.http_answer(to_head) {
            Ok(response) => Ok(response),
            Err(error) => Err(sent.err().unwrap_or(error)),
        }
    }

    fn http_answer(&mut self, to_head: bool) -> io::Result<Response> {
        let mut head = ResponseHead::default();
        loop {
            match head.parse(&self.received, &HeadLimits::default(), to_head).map_err(invalid)? {
                Status::Complete if head.is_interim() => drop(self.received.drain(..head.len as usize)),
                Status::Complete => break,
                Status::Partial if self.receive()? == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                Status::Partial => {}
            }
        }
        let mut response = Response { status: head.status, ..Response::default() };
        let how = ResponseOut::default();
        write_response(&mut response.head, &head, &self.received, &how);
        self.received.drain(..head.len as usize);
        let mut reader = BodyReader::new(head.body);
        while !reader.is_done() {
            let step = reader.read(&self.received).map_err(invalid)?;
            response.body.extend_from_slice(&self.received[step.data]);
            self.check_len(response.body.len())?;
            self.received.drain(..step.consumed);
            if step.consumed == 0 && self.receive()? == 0 {
                return if reader.may_end_here() { Ok(response) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
        Ok(response)
    }

    fn dubbo(&mut self, frame: &[u8], one_way: bool) -> io::Result<Response> {
        self.send(frame)?;
        if one_way {
            return Ok(Response::default());
        }
        let id = frame.get(4..12).ok_or(io::ErrorKind::InvalidInput)?;
        loop {
            while self.received.len() < HEADER_LEN {
                self.must_receive()?;
            }
            let Some(bytes) = self.received.first_chunk::<HEADER_LEN>() else { continue };
            let limit = u32::try_from(self.answer_bytes_max).unwrap_or(u32::MAX);
            let header = FrameHeader::parse(bytes, limit).map_err(invalid)?;
            let len = HEADER_LEN + header.body_len as usize;
            while self.received.len() < len {
                self.must_receive()?;
            }
            let rest = self.received.split_off(len);
            let answer = std::mem::replace(&mut self.received, rest);
            if header.event && header.request && header.two_way {
                let mut reply = Vec::new();
                write_heartbeat_reply(&mut reply, &header);
                self.send(&reply)?;
            } else if !header.request && !header.event && &answer[4..12] == id {
                return Ok(Response { status: u16::from(header.status), head: Vec::new(), body: answer });
            }
        }
    }

    fn raw(&mut self, bytes: &[u8]) -> io::Result<Response> {
        self.send(bytes)?;
        self.peer.end_write()?;
        while self.receive()? > 0 {
            self.check_len(self.received.len())?;
        }
        Ok(Response { status: 0, head: Vec::new(), body: std::mem::take(&mut self.received) })
    }

    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.peer.set_timeout(self.left()?)?;
            match self.peer.write(bytes) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<usize> {
        let mut piece = [0; 16 << 10];
        loop {
            self.peer.set_timeout(self.left()?)?;
            match self.peer.read(&mut piece) {
                Ok(len) => {
                    self.received.extend_from_slice(&piece[..len]);
                    return Ok(len);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn must_receive(&mut self) -> io::Result<()> {
        match self.receive()? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }

    fn check_len(&self, len: usize) -> io::Result<()> {
        if len > self.answer_bytes_max {
            return Err(io::Error::other(format!("the answer is longer than {} bytes", self.answer_bytes_max)));
        }
        Ok(())
    }
}

/// RFC 9110 §8.6: a Content-Length of 0 is sent only where a body is to be expected.
fn has_no_body_by_nature(head: &[u8]) -> bool {
    [&b"GET "[..], b"HEAD ", b"DELETE ", b"OPTIONS ", b"TRACE "].iter().any(|method| head.starts_with(method))
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
