//! Letting go of everything, so that another driver can go on with it; or going on oneself.

use std::io;
use std::os::fd::AsFd;

use super::operation::Operation;
use super::ring::Ring;
use super::sockets::{Armed, Arrival, Kind, Socket, Stream};
use super::{SockId, UringDriver};
use crate::driver::AtRest;

impl UringDriver {
    /// Has the next `poll` look at every socket: what is wanted of them has changed.
    pub(super) fn look_at_all(&mut self) {
        let all: Vec<SockId> = self.sockets.iter().map(|(id, _)| id).collect();
        all.into_iter().for_each(|id| self.look_at(id));
    }

    /// Whether the kernel has nothing that begins, takes or sends bytes, and everything it did was told.
    pub(super) fn rests(&self) -> bool {
        self.dirty.is_empty()
            && self.refused.is_empty()
            && self.sockets.iter().all(|(_, socket)| match &socket.kind {
                Kind::Watched(_) => true,
                Kind::Listener(listener) => listener.armed == Armed::No,
                Kind::Stream(stream) => stream.connecting || socket.is_idle(),
            })
    }

    /// Sends what was held back.
    pub(super) fn send_held(&mut self) {
        let held = |(id, socket): (SockId, &Socket)| match &socket.kind {
            Kind::Stream(stream) if stream.held.is_some() && !socket.closing => Some(id),
            _ => None,
        };
        let ids: Vec<SockId> = self.sockets.iter().filter_map(held).collect();
        for id in ids {
            let Some(socket) = self.sockets.get_mut(id) else { continue };
            if let Kind::Stream(stream) = &mut socket.kind
                && let Some(outgoing) = stream.held.take()
            {
                self.ring.send(id, socket.fd.as_fd(), outgoing);
            }
        }
    }
}

impl Stream {
    /// Takes a send back that is under way.
    pub(super) fn cancel_send(&mut self, ring: &mut Ring, id: SockId) {
        let in_kernel = self.sending && self.sent_nothing.is_none() && self.held.is_none();
        if in_kernel && !self.cancelling_send {
            self.cancelling_send = true;
            ring.cancel(id, Operation::Send);
        }
    }
}

impl Socket {
    pub(super) fn at_rest(&self) -> Option<AtRest<'_>> {
        match &self.kind {
            Kind::Stream(stream) if !self.closing && !stream.connecting => Some(AtRest {
                socket: self.fd.as_fd(),
                arrived: stream.stash.iter().filter_map(Arrival::bytes).collect(),
                end: stream.stash.iter().find_map(|arrival| match arrival {
                    Arrival::End(error) => Some(error.as_ref()),
                    Arrival::Bytes(_) => None,
                }),
                unsent: stream.held.as_ref().map(|outgoing| &outgoing.chunks),
            }),
            _ => None,
        }
    }
}

/// A send that ended so has not failed: nothing of it was sent, as it was cancelled or for a reason that passes.
pub(super) fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECANCELED | libc::EINTR | libc::EAGAIN))
}
