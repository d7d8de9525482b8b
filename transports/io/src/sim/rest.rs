//! Letting go of connections, so that another driver of the world can go on with them.

use std::io;
use std::os::fd::AsFd;

use super::driver::{Kind, SimDriver, Socket};
use crate::driver::{AtRest, SockId};

impl SimDriver {
    /// Whether everything was told, and there is something that stands for each connection.
    pub(super) fn rests(&self) -> bool {
        let told = |socket: &Socket| match &socket.kind {
            Kind::Stream(stream) => stream.connecting || stream.sent.is_none() && socket.fd.is_some(),
            Kind::Listener(_) | Kind::Watched => true,
        };
        self.refused.is_empty() && self.sockets.iter().all(|(_, socket)| told(socket))
    }

    /// Makes what stands for connections that began here.
    pub(super) fn make_placeholders(&mut self) -> io::Result<()> {
        let bare = |(sock, socket): (SockId, &Socket)| match &socket.kind {
            Kind::Stream(stream) if socket.fd.is_none() && !stream.connecting => Some((sock, stream.end)),
            _ => None,
        };
        let bare: Vec<_> = self.sockets.iter().filter_map(bare).collect();
        for (sock, end) in bare {
            let fd = self.world.placeholder_of(end)?;
            if let Some(socket) = self.sockets.get_mut(sock) {
                socket.fd = Some(fd);
            }
        }
        Ok(())
    }
}

impl Socket {
    pub(super) fn at_rest(&self) -> Option<AtRest<'_>> {
        match (&self.kind, &self.fd) {
            (Kind::Stream(stream), Some(fd)) if !stream.connecting => Some(AtRest {
                socket: fd.as_fd(),
                arrived: stream.earlier.arrived(),
                end: stream.earlier.end(),
                unsent: stream.sending.as_ref().map(|sending| &sending.chunks),
            }),
            _ => None,
        }
    }
}
