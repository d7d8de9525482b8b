//! Connections: two ends, and what is on its way to each of them.

use std::collections::VecDeque;
use std::net::SocketAddr;

use nix::errno::Errno;

use super::network::{Happening, Net};
use crate::driver::{Nanos, SockId, Target};

/// Names an end in the network's table.
pub(super) type EndId = SockId;

/// Who is told when something happens to a socket.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// In a backlog or a placeholder, or closed.
    Nobody,
    /// Looks by itself.
    Actor,
    /// The number of the driver's place, and its name for the socket.
    Driver(u32, SockId),
}

/// One side of a connection.
pub(super) struct End {
    pub unix: bool,
    pub owner: Owner,
    /// In its driver's list.
    pub listed: bool,
    /// Gone when the other side closed and there is nothing more to come of it.
    pub peer: Option<EndId>,
    /// Where it connects to.
    pub to: Option<Target>,
    pub connecting: bool,
    /// What came of the connect; taken when it is reported.
    pub answer: Option<Result<(), Errno>>,
    pub local: Option<SocketAddr>,
    pub remote: Option<SocketAddr>,
    pub inbound: Inbound,
    /// It sends no more.
    pub finished: bool,
    /// Its owner closed it.
    pub closed: bool,
    /// A reset arrived.
    pub reset: bool,
    /// As in the kernel: told to the first who asks.
    error: Option<Errno>,
    /// What it sends is lost, and so is what is sent to it.
    silent: bool,
    /// It wants to hear when there is room to send.
    blocked: bool,
}

/// What was sent to an end and not read yet.
pub(super) struct Inbound {
    bytes: VecDeque<u8>,
    /// So many of the bytes have arrived.
    pub arrived: usize,
    /// The rest, in segments, with their times of arrival.
    flight: VecDeque<(Nanos, Segment)>,
    /// When the last segment arrives: nothing overtakes it.
    pub last_at: Nanos,
    /// The greatest number of bytes.
    window: usize,
    /// The peer ended its stream, and everything before has arrived.
    ended: bool,
}

#[derive(Copy, Clone, Debug)]
enum Segment {
    Bytes(usize),
    Fin,
    Reset,
}

impl End {
    pub fn new(unix: bool, owner: Owner, window: usize) -> Self {
        Self {
            unix,
            owner,
            listed: false,
            peer: None,
            to: None,
            connecting: false,
            answer: None,
            local: None,
            remote: None,
            inbound: Inbound {
                bytes: VecDeque::new(),
                arrived: 0,
                flight: VecDeque::new(),
                last_at: 0,
                window,
                ended: false,
            },
            finished: false,
            closed: false,
            reset: false,
            error: None,
            silent: false,
            blocked: false,
        }
    }

    /// Whether a read would find something: bytes, the end, an error.
    pub fn is_readable(&self) -> bool {
        !self.connecting && (self.inbound.arrived > 0 || self.inbound.ended || self.reset)
    }

    /// The end of what it receives, once all bytes are read; an error is told once.
    pub fn take_end(&mut self) -> Option<Option<Errno>> {
        if self.inbound.arrived > 0 {
            None
        } else if let Some(errno) = self.error.take() {
            Some(Some(errno))
        } else {
            (self.inbound.ended || self.reset).then_some(None)
        }
    }
}

impl Inbound {
    /// Drops what has not arrived.
    fn forget_flight(&mut self) {
        self.bytes.truncate(self.arrived);
        self.flight.clear();
    }

    /// Drops the last segments in flight.
    fn keep_segments(&mut self, count: usize) {
        self.flight.truncate(count);
        let in_flight: usize = self
            .flight
            .iter()
            .map(|(_, segment)| match segment {
                Segment::Bytes(n) => *n,
                Segment::Fin | Segment::Reset => 0,
            })
            .sum();
        self.bytes.truncate(self.arrived + in_flight);
    }
}

impl Net {
    /// How many bytes an end may send now. If none, its owner is told when there is room.
    pub fn room(&mut self, id: EndId) -> Result<usize, Errno> {
        let Some(end) = self.ends.get_mut(id) else {
            return Err(Errno::EPIPE);
        };
        if end.connecting {
            return Err(Errno::ENOTCONN);
        }
        if end.unix && end.reset {
            return Err(Errno::EPIPE);
        }
        if let Some(errno) = end.error.take() {
            return Err(errno);
        }
        if end.finished || end.reset {
            return Err(Errno::EPIPE);
        }
        let (unix, peer) = (end.unix, end.peer);
        let room = match peer.and_then(|peer| self.ends.get(peer)) {
            Some(peer) if unix && peer.closed => return Err(Errno::EPIPE),
            Some(peer) => peer.inbound.window.saturating_sub(peer.inbound.bytes.len()),
            None if unix => return Err(Errno::EPIPE),
            // Its reset is on the way.
            None => super::faults::Link::tcp().window.0,
        };
        if room == 0
            && let Some(end) = self.ends.get_mut(id)
        {
            end.blocked = true;
        }
        Ok(room)
    }

    /// Whether a send would take a byte, or fail at once.
    pub fn is_writable(&self, id: EndId) -> bool {
        let Some(end) = self.ends.get(id) else {
            return true;
        };
        let peer = end.peer.and_then(|peer| self.ends.get(peer));
        !end.connecting
            && (end.reset || end.finished || peer.is_none_or(|peer| peer.inbound.bytes.len() < peer.inbound.window))
    }

    /// Sends bytes for which there is room.
    pub fn push(&mut self, from: EndId, bytes: &[u8]) {
        let Some(End { peer: Some(to), unix, silent, .. }) = self.ends.get(from) else {
            return;
        };
        let (to, unix, silent) = (*to, *unix, *silent);
        let mut rest = bytes;
        while !rest.is_empty() {
            let (longest, cut_ppm) = (self.link(unix).segment_max.max(1), self.link(unix).cut_ppm);
            let mut len = rest.len().min(longest);
            if len > 1 && self.chance(cut_ppm) {
                len = 1 + self.random.below(len as u64 - 1) as usize;
            }
            let (segment, later) = rest.split_at(len);
            self.put(to, Segment::Bytes(len), segment, silent);
            rest = later;
        }
    }

    /// Sends the FIN.
    pub fn finish(&mut self, id: EndId) {
        if let Some(end) = self.ends.get_mut(id)
            && !std::mem::replace(&mut end.finished, true)
            && let Some(peer) = end.peer
        {
            let silent = end.silent;
            self.put(peer, Segment::Fin, &[], silent);
        }
    }

    /// Closes an end as the kernel does: with a reset if that was asked for, or if something is unread.
    pub fn close(&mut self, id: EndId, reset: bool) {
        let Some(end) = self.ends.get_mut(id) else {
            return;
        };
        if end.closed {
            return;
        }
        end.closed = true;
        end.owner = Owner::Nobody;
        let unread = end.inbound.arrived > 0;
        let (unix, silent, was_reset) = (end.unix, end.silent, end.reset);
        let Some(peer) = end.peer else {
            self.ends.remove(id);
            return;
        };
        if self.ends.get(peer).is_none_or(|peer| peer.closed) {
            self.ends.remove(id);
            self.ends.remove(peer);
        } else if was_reset {
            self.ends.remove(id);
            if let Some(peer) = self.ends.get_mut(peer) {
                peer.peer = None;
            }
        } else if unread || (reset && !unix) {
            self.hang_up(id, peer, silent);
        } else {
            self.finish(id);
        }
    }

    /// Tells the peer of a closed end with a reset; the end is no more.
    fn hang_up(&mut self, id: EndId, peer: EndId, silent: bool) {
        self.ends.remove(id);
        if let Some(peer) = self.ends.get_mut(peer) {
            peer.peer = None;
        }
        self.put(peer, Segment::Reset, &[], silent);
    }

    /// An end that nobody has any more, and nobody hears of.
    pub fn vanish(&mut self, id: EndId) {
        let Some(end) = self.ends.get_mut(id) else {
            return;
        };
        if end.unix {
            // The peer is on the same machine.
            self.close(id, false);
            return;
        }
        end.silent = true;
        end.closed = true;
        end.owner = Owner::Nobody;
        let peer = end.peer;
        if peer.and_then(|peer| self.ends.get(peer)).is_none_or(|peer| peer.closed) {
            self.ends.remove(id);
            if let Some(peer) = peer {
                self.ends.remove(peer);
            }
        }
    }

    /// Reads what has arrived; the sender hears of the room, a way later.
    pub fn read(&mut self, id: EndId, into: &mut [u8]) -> usize {
        let Some(end) = self.ends.get_mut(id) else {
            return 0;
        };
        let inbound = &mut end.inbound;
        let len = inbound.arrived.min(into.len());
        if len == 0 {
            return 0;
        }
        let (first, second) = inbound.bytes.as_slices();
        let cut = len.min(first.len());
        into[..cut].copy_from_slice(&first[..cut]);
        into[cut..len].copy_from_slice(&second[..len - cut]);
        inbound.bytes.drain(..len);
        inbound.arrived -= len;
        let (unix, peer, silent) = (end.unix, end.peer, end.silent);
        if !silent
            && let Some(peer) = peer
            && let Some(sender) = self.ends.get_mut(peer)
            && std::mem::take(&mut sender.blocked)
        {
            let at = self.now() + self.latency(unix);
            self.schedule(at, Happening::Room(peer));
        }
        len
    }

    /// Both sides of a connection are reset, now.
    pub fn strike(&mut self, id: EndId) {
        let peer = self.ends.get(id).and_then(|end| end.peer);
        for end in [Some(id), peer].into_iter().flatten() {
            self.land(end, Segment::Reset);
        }
    }

    /// The two sides of a connection hear no more of each other.
    pub fn silence(&mut self, id: EndId) {
        let peer = self.ends.get(id).and_then(|end| end.peer);
        for end in [Some(id), peer].into_iter().flatten() {
            if let Some(end) = self.ends.get_mut(end) {
                end.silent = true;
            }
        }
        self.note(5);
    }

    /// Sends a segment to an end.
    fn put(&mut self, to: EndId, segment: Segment, bytes: &[u8], lost: bool) {
        let Some(end) = self.ends.get(to) else {
            return;
        };
        let unix = end.unix;
        let lost = lost || end.silent;
        let mut at = self.now() + self.latency(unix);
        if self.chance(self.faults.delay_ppm) {
            at += self.between((0, self.faults.delay_max));
        }
        // What is lost of a stream when its sender resets it.
        let lost_before = matches!(segment, Segment::Reset) && !unix && self.chance(super::PPM / 2);
        let kept = if lost_before {
            let in_flight = self.ends.get(to).map_or(0, |end| end.inbound.flight.len());
            Some(self.random.below(in_flight as u64 + 1) as usize)
        } else {
            None
        };
        let Some(end) = self.ends.get_mut(to) else {
            return;
        };
        if let Some(kept) = kept {
            end.inbound.keep_segments(kept);
        }
        end.inbound.bytes.extend(bytes);
        let at = at.max(end.inbound.last_at);
        end.inbound.last_at = at;
        end.inbound.flight.push_back((at, segment));
        if !lost {
            self.schedule(at, Happening::Arrive(to));
        }
    }

    /// The first segment in flight gets there, if it was not lost meanwhile.
    pub fn arrive(&mut self, id: EndId) {
        let now = self.now();
        let Some(end) = self.ends.get_mut(id) else {
            return;
        };
        if end.silent {
            return;
        }
        if let Some((at, segment)) = end.inbound.flight.front().copied()
            && at <= now
        {
            end.inbound.flight.pop_front();
            self.land(id, segment);
        }
    }

    fn land(&mut self, id: EndId, segment: Segment) {
        let Some(end) = self.ends.get_mut(id) else {
            return;
        };
        let what = match segment {
            Segment::Bytes(n) if end.closed || end.reset => {
                // Nobody reads it: the sender has to know.
                end.inbound.forget_flight();
                let silent = end.silent;
                let (closed, peer) = (end.closed, end.peer);
                if closed && let Some(peer) = peer {
                    self.hang_up(id, peer, silent);
                }
                6 + ((n as u64) << 8)
            }
            Segment::Bytes(n) => {
                end.inbound.arrived += n;
                7 + ((n as u64) << 8)
            }
            Segment::Fin => {
                end.inbound.ended = true;
                8
            }
            Segment::Reset => {
                end.reset = true;
                end.error = Some(Errno::ECONNRESET);
                end.inbound.forget_flight();
                if end.closed {
                    let peer = end.peer;
                    self.ends.remove(id);
                    if let Some(peer) = peer.and_then(|peer| self.ends.get_mut(peer)) {
                        peer.peer = None;
                    }
                }
                9
            }
        };
        self.note(what);
        self.notify(id);
    }

    /// Ends a connection with an error at once, on this side; the peer hears of it as of a reset.
    pub fn break_off(&mut self, id: EndId) {
        let Some(end) = self.ends.get_mut(id) else {
            return;
        };
        end.reset = true;
        end.error = None;
        end.inbound.forget_flight();
        let (peer, silent) = (end.peer.take(), end.silent);
        if let Some(peer_id) = peer {
            if let Some(peer) = self.ends.get_mut(peer_id) {
                peer.peer = None;
            }
            self.put(peer_id, Segment::Reset, &[], silent);
        }
    }
}
