//! What the kernel has done: each completion moves its socket on, and may be an event. Receiving has a module of its own
//! ([`receiving`](super::receiving)).

use std::io;
use std::mem;
use std::os::fd::AsFd;

use super::operation::{Kept, Operation};
use super::parking::Watch;
use super::ring::Completion;
use super::sockets::{Armed, Kind, Stream};
use super::{UringDriver, rest};
use crate::driver::{ACCEPT_PAUSE, Event, SockId};
use crate::socket;

/// After the kernel was entered.
impl UringDriver {
    pub(super) fn complete(&mut self, completion: Completion, events: &mut Vec<Event>) {
        let id = completion.id;
        match completion.operation {
            Operation::Waker => {
                self.waker_armed = completion.more;
                if completion.result > 0 {
                    self.waker.take();
                    events.push(Event::Woken);
                }
            }
            Operation::Parking => {
                self.parking.watched = completion.more;
                self.on_readable();
            }
            // A bell that is full counts as rung, and one whose peer is gone is ignored.
            Operation::Bell => {}
            Operation::Cancel => self.on_uncancelled(id),
            Operation::Watch => self.on_watch(completion, events),
            Operation::Accept => self.on_accept(completion, events),
            Operation::Connect => self.on_connect(completion, events),
            Operation::Receive => self.on_receive(completion, events),
            Operation::Land => self.on_land(completion, events),
            Operation::Send => self.on_send(completion, events),
        }
        if let Some(socket) = self.sockets.get(id)
            && socket.closing
            && socket.is_idle()
        {
            self.sockets.remove(id);
        }
    }

    /// A cancellation did not find its operation: it has just ended, or was between two places. If it is still there
    /// at the next `poll`, it is cancelled again.
    fn on_uncancelled(&mut self, id: SockId) {
        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        match &mut socket.kind {
            Kind::Watched(armed) => armed.uncancelled(),
            Kind::Listener(listener) => listener.armed.uncancelled(),
            Kind::Stream(stream) => {
                stream.cancelling_send = false;
                stream.armed.uncancelled();
                stream.landing.armed.uncancelled();
            }
        }
        self.look_at(id);
    }

    /// The ring receives from those that were parked and have something, and one piece at a time from those that have ended.
    fn on_readable(&mut self) {
        let (parking, sockets, dirty) = (&self.parking, &mut self.sockets, &mut self.dirty);
        parking.told(|id| {
            if let Some(socket) = sockets.get_mut(id)
                && let Kind::Stream(stream) = &mut socket.kind
            {
                let next = if stream.is_parked() { Watch::Nothing } else { Watch::Ended };
                parking.turn(&mut stream.watch, next, id, socket.fd.as_fd());
                if !mem::replace(&mut socket.listed, true) {
                    dirty.push(id);
                }
            }
        });
    }

    fn on_watch(&mut self, completion: Completion, events: &mut Vec<Event>) {
        let Some(socket) = self.sockets.get_mut(completion.id) else {
            return;
        };
        let Kind::Watched(armed) = &mut socket.kind else {
            return;
        };
        if completion.result > 0 && !socket.closing {
            events.push(Event::Rung { tag: socket.tag });
        }
        if !completion.more {
            *armed = Armed::No;
            // Where the other end is gone nobody rings any more, and asking again would be answered at once, for ever.
            let dead = completion.result & i32::from(libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0;
            if completion.result < 0 || !dead {
                self.look_at(completion.id);
            }
        }
    }

    fn on_accept(&mut self, mut completion: Completion, events: &mut Vec<Event>) {
        let accepted = match completion.accepted.take() {
            Some(fd) => Ok(fd),
            None => Err(io::Error::from_raw_os_error(-completion.result)),
        };
        let id = completion.id;
        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        let (tag, closing) = (socket.tag, socket.closing);
        let Kind::Listener(listener) = &mut socket.kind else {
            return;
        };
        if !completion.more {
            listener.armed = Armed::No;
        }
        let tcp = listener.tcp;
        if closing {
            return;
        }
        if !completion.more {
            self.look_at(id);
        }
        match accepted.and_then(|fd| socket::peer(fd.as_fd(), tcp).map(|peer| (fd, peer))) {
            Ok((fd, peer)) => {
                let sock = self.insert(fd, 0, Kind::Stream(Stream::new(tcp)));
                events.push(Event::Accepted { tag, sock, peer });
            }
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {}
            Err(error) if socket::is_passing(&error) => {}
            Err(error) if socket::is_exhaustion(&error) => {
                self.paused.push((id, self.clock.now() + ACCEPT_PAUSE));
                events.push(Event::AcceptPaused { tag, error });
            }
            Err(error) => {
                self.want_accept(id, false);
                events.push(Event::Ended { tag, sock: id, error: Some(error) });
            }
        }
    }

    fn on_connect(&mut self, completion: Completion, events: &mut Vec<Event>) {
        let Some(socket) = self.sockets.get_mut(completion.id) else {
            return;
        };
        let Kind::Stream(stream) = &mut socket.kind else {
            return;
        };
        stream.connecting = false;
        if !socket.closing {
            events.push(Event::Connected {
                tag: socket.tag,
                sock: completion.id,
                result: completion.result().map(drop),
            });
            // The engine may have asked to receive already.
            self.look_at(completion.id);
        }
    }

    fn on_send(&mut self, mut completion: Completion, events: &mut Vec<Event>) {
        let id = completion.id;
        let Some(Kept::Outgoing(mut outgoing)) = completion.kept.take() else {
            return;
        };
        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        let Kind::Stream(stream) = &mut socket.kind else {
            return;
        };
        stream.cancelling_send = false;
        let result = match completion.result() {
            _ if socket.closing => Err(io::ErrorKind::Interrupted.into()),
            Err(error) if self.suspended && rest::is_passing(&error) => {
                stream.held = Some(outgoing);
                return;
            }
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                outgoing.chunks.advance(count as usize);
                if !outgoing.chunks.is_empty() && self.suspended {
                    stream.held = Some(outgoing);
                    return;
                }
                if !outgoing.chunks.is_empty() {
                    self.ring.send(id, socket.fd.as_fd(), outgoing);
                    return;
                }
                Ok(outgoing.bytes)
            }
            Err(error) => match error.raw_os_error() {
                // A send is cancelled for a rest, which may be over by now.
                Some(libc::EINTR | libc::EAGAIN | libc::ECANCELED) => {
                    self.ring.send(id, socket.fd.as_fd(), outgoing);
                    return;
                }
                _ => Err(error),
            },
        };
        outgoing.chunks.clear();
        stream.sending = false;
        if mem::take(&mut stream.shutdown_after_send) {
            socket::shutdown_write(&socket.fd);
        }
        if !socket.closing {
            events.push(Event::Sent { tag: socket.tag, sock: id, result, chunks: outgoing.chunks });
        }
        self.ring.recycle(outgoing.message);
    }
}
