//! What the driver knows of a socket: what the engine wants of it, and what the kernel said of it.

use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::SockaddrStorage;
use shmesh_shm::OpenBlock;

use super::pack;
use crate::chunk::Chunks;
use crate::driver::{AtRest, SockId, Tag};
use crate::earlier::Earlier;
use crate::pool::{Pool, SLOT_BYTES};
use crate::slice::Slice;
use crate::table::Table;
use crate::{socket, sys};

#[derive(Debug)]
pub(super) struct Socket {
    pub(super) fd: OwnedFd,
    pub(super) tag: Tag,
    pub(super) registered: bool,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Listener(Listener),
    Stream(Stream),
    Watched,
}

#[derive(Debug)]
pub(super) struct Listener {
    pub(super) tcp: bool,
    /// The engine wants connections.
    pub(super) wanted: bool,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) unix: bool,
    pub(super) connecting: Option<Connecting>,
    /// The engine wants bytes.
    pub(super) receiving: bool,
    /// The kernel may have bytes, or the end of them.
    pub(super) readable: bool,
    /// The end, or an error, is in sight: a short read no longer means that all was read.
    pub(super) end_in_sight: bool,
    /// The end was reported.
    pub(super) ended: bool,
    /// What to receive into next.
    pub(super) block: Option<OpenBlock>,
    /// A block may follow what comes next, which therefore comes alone.
    pub(super) alone: bool,
    /// And so does all that follows.
    pub(super) always_alone: bool,
    /// The last `poll` in which a block landed, or something came alone: nothing more is read in it.
    pub(super) done_in: u64,
    /// In the list of readable sockets.
    pub(super) listed: bool,
    /// EPOLLOUT is registered.
    pub(super) blocked: bool,
    pub(super) sending: Option<Sending>,
    /// A completion that waits for the next `poll`.
    pub(super) sent: Option<Sent>,
    pub(super) shutdown_after_send: bool,
    pub(super) earlier: Earlier,
}

#[derive(Debug)]
pub(super) struct Connecting {
    pub(super) addr: SockaddrStorage,
    /// A result that waits for the next `poll`.
    pub(super) result: Option<io::Result<()>>,
}

#[derive(Debug)]
pub(super) struct Sending {
    pub(super) chunks: Chunks,
    pub(super) bytes: u64,
}

#[derive(Debug)]
pub(super) struct Sent {
    pub(super) chunks: Chunks,
    pub(super) result: io::Result<u64>,
}

/// What was received.
pub(super) enum Arrival {
    Bytes(Slice),
    Block(OpenBlock, u32),
}

impl Socket {
    pub(super) fn register(&mut self, epoll: &Epoll, id: SockId, flags: EpollFlags) -> io::Result<()> {
        epoll.add(&self.fd, EpollEvent::new(flags, pack(id)))?;
        self.registered = true;
        Ok(())
    }

    pub(super) fn at_rest(&self) -> Option<AtRest<'_>> {
        match &self.kind {
            Kind::Stream(stream) if stream.connecting.is_none() => Some(AtRest {
                socket: self.fd.as_fd(),
                arrived: stream.earlier.arrived(),
                end: stream.earlier.end(),
                unsent: stream.sending.as_ref().map(|sending| &sending.chunks),
            }),
            _ => None,
        }
    }

    pub(super) fn unregister(&mut self, epoll: &Epoll) {
        if mem::take(&mut self.registered) {
            // It was added, so it can be taken out.
            let _ = epoll.delete(&self.fd);
        }
    }
}

impl Stream {
    pub(super) fn new(unix: bool) -> Self {
        Self {
            unix,
            connecting: None,
            receiving: false,
            readable: false,
            end_in_sight: false,
            ended: false,
            block: None,
            alone: true,
            always_alone: false,
            done_in: 0,
            listed: false,
            blocked: false,
            sending: None,
            sent: None,
            shutdown_after_send: false,
            earlier: Earlier::default(),
        }
    }

    /// Nothing more is received.
    pub(super) fn end(&mut self) {
        self.ended = true;
        self.block = None;
    }

    /// Receives once. `None`: the end.
    pub(super) fn receive(&mut self, fd: &OwnedFd, pool: &Pool) -> io::Result<Option<Arrival>> {
        let (arrival, len, room) = match self.block.take() {
            None => {
                let data = pool.receive_with(|room| socket::recv(fd, room))?;
                let len = data.len();
                (Arrival::Bytes(data), len, SLOT_BYTES)
            }
            Some(mut block) => {
                let len = match sys::receive(fd.as_fd(), &mut block) {
                    Ok(len) => len,
                    Err(error) => {
                        self.block = Some(block);
                        return Err(error);
                    }
                };
                let room = block.len();
                (Arrival::Block(block, len as u32), len, room)
            }
        };
        // A read that did not fill its room took all there was; more will be announced.
        self.readable = len == room || self.end_in_sight;
        Ok((len > 0).then_some(arrival))
    }

    /// Sends what the kernel takes. Returns the completion, or nothing if the kernel wants no more now.
    pub(super) fn go_on_sending(&mut self, fd: &OwnedFd) -> Option<Sent> {
        let sending = self.sending.as_mut()?;
        let result = loop {
            if sending.chunks.is_empty() {
                break Ok(sending.bytes);
            }
            match sys::send(fd.as_fd(), &sending.chunks) {
                Ok(n) => sending.chunks.advance(n),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => return None,
                    _ => break Err(error),
                },
            }
        };
        let mut chunks = self.sending.take()?.chunks;
        chunks.clear();
        if mem::take(&mut self.shutdown_after_send) {
            socket::shutdown_write(fd);
        }
        Some(Sent { chunks, result })
    }
}

pub(super) fn stream_mut(sockets: &mut Table<Socket>, id: SockId) -> Option<(&OwnedFd, &mut Stream)> {
    let socket = sockets.get_mut(id)?;
    match &mut socket.kind {
        Kind::Stream(stream) => Some((&socket.fd, stream)),
        _ => None,
    }
}

pub(super) fn list_if_readable(list: &mut Vec<SockId>, id: SockId, stream: &mut Stream) {
    let something = stream.readable || !stream.earlier.is_empty();
    if stream.receiving && something && !stream.ended && !stream.listed {
        stream.listed = true;
        list.push(id);
    }
}
