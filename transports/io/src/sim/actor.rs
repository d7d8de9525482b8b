//! The network for those who do not run on a driver: simulated upstreams and clients. Nothing here ever waits.

use std::io;
use std::net::SocketAddr;

use nix::errno::Errno;

use super::connection::EndId;
use super::network::ListenerId;
use super::world::World;
use crate::driver::{Nanos, Target};

/// A listening socket of a simulated peer. Dropping it closes it.
pub struct ActorListener {
    world: World,
    id: ListenerId,
}

/// One end of a connection, of a simulated peer. Dropping it closes it.
pub struct ActorConn {
    world: World,
    id: EndId,
}

/// How far a connect has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Connecting,
    Connected,
    Failed(io::ErrorKind),
}

/// What a look at the receiving side found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// So many bytes were appended.
    Bytes(usize),
    /// Nothing is there at the moment.
    Nothing,
    /// The peer ended its stream in order.
    Eof,
    /// The connection was reset. Told once; afterwards it is at its end.
    Reset,
}

impl ActorListener {
    pub(super) fn new(world: &World, id: ListenerId) -> Self {
        Self { world: world.clone(), id }
    }

    /// Where it listens.
    pub fn address(&self) -> Target {
        self.world
            .net(|net| net.listeners.get(self.id).map(|listener| listener.at.clone()))
            .expect("open until dropped")
    }

    /// Whether a connection waits.
    pub fn is_acceptable(&self) -> bool {
        self.world.net(|net| net.listeners.get(self.id).is_some_and(|listener| !listener.backlog.is_empty()))
    }

    /// The next connection that waits.
    pub fn accept(&self) -> Option<ActorConn> {
        let id = self.world.net(|net| net.accept_for_actor(self.id))?;
        Some(ActorConn::new(&self.world, id))
    }
}

impl Drop for ActorListener {
    fn drop(&mut self) {
        self.world.net(|net| net.close_listener(self.id));
    }
}

impl ActorConn {
    pub(super) fn new(world: &World, id: EndId) -> Self {
        Self { world: world.clone(), id }
    }

    /// How far its connect has come; an accepted one is connected.
    pub fn progress(&self) -> Progress {
        self.world.net(|net| match net.ends.get(self.id) {
            Some(end) if end.connecting => Progress::Connecting,
            Some(end) => match end.answer {
                Some(Err(errno)) => Progress::Failed(io::Error::from(errno).kind()),
                _ => Progress::Connected,
            },
            None => Progress::Failed(io::ErrorKind::NotConnected),
        })
    }

    /// The address that the other side sees, over TCP, if this side connected.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.world.net(|net| net.ends.get(self.id)?.local)
    }

    /// Hands over the first bytes, as many as there is room for; possibly none, and none before it is connected.
    ///
    /// # Errors
    /// The connection is broken, or this side was shut down.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.world.net(|net| match net.room(self.id) {
            Ok(room) => {
                let len = room.min(bytes.len());
                net.push(self.id, &bytes[..len]);
                Ok(len)
            }
            Err(Errno::ENOTCONN) => Ok(0),
            Err(errno) => Err(errno.into()),
        })
    }

    /// Takes what arrived.
    pub fn recv(&self, into: &mut Vec<u8>) -> Read {
        self.recv_up_to(usize::MAX, into)
    }

    /// Takes at most so many bytes of what arrived: a slow reader.
    pub fn recv_up_to(&self, max: usize, into: &mut Vec<u8>) -> Read {
        self.world.net(|net| {
            let Some(end) = net.ends.get_mut(self.id) else {
                return Read::Eof;
            };
            if !end.is_readable() {
                return Read::Nothing;
            }
            match end.take_end() {
                Some(Some(_)) => Read::Reset,
                Some(None) => Read::Eof,
                None => {
                    let (start, len) = (into.len(), end.inbound.arrived.min(max));
                    if len == 0 {
                        return Read::Nothing;
                    }
                    into.resize(start + len, 0);
                    Read::Bytes(net.read(self.id, &mut into[start..]))
                }
            }
        })
    }

    /// Ends this side's stream in order, after what was handed over.
    pub fn shutdown(&self) {
        self.world.net(|net| net.finish(self.id));
    }

    /// Ends the connection with a reset (over TCP; a Unix socket is just closed).
    pub fn reset(self) {
        self.world.net(|net| net.close(self.id, true));
    }

    /// This side is never heard of again, without a word: a machine that lost its power.
    pub fn vanish(self) {
        self.world.net(|net| net.vanish(self.id));
    }

    /// Whether `recv` would find something (an end counts).
    pub fn is_readable(&self) -> bool {
        self.world.net(|net| net.ends.get(self.id).is_none_or(|end| end.is_readable()))
    }

    /// Whether `send` would take a byte, or fail.
    pub fn is_writable(&self) -> bool {
        self.world.net(|net| net.is_writable(self.id))
    }

    /// When the last byte that is on its way to this side arrives; in the past, if all have.
    pub fn arrives_at(&self) -> Nanos {
        self.world.net(|net| net.ends.get(self.id).map_or(0, |end| end.inbound.last_at))
    }
}

impl Drop for ActorConn {
    fn drop(&mut self) {
        self.world.net(|net| net.close(self.id, false));
    }
}
