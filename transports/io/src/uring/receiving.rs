//! Receiving: into lent slots, or into a block of a lane.
//!
//! Slots are filled until that is cancelled, a block is filled once. One slot is filled once, too, where a block is likely to
//! follow: cancelling costs a turn, in which the kernel fills slots with all that there is.
//!
//! The kernel has one of the two at a time, so that bytes keep their order. A block therefore waits for the terminal
//! completion of the slots' operation. After a block has landed nothing is asked for before the next `poll`: by
//! then the engine may have given the next block, for which nothing has to be cancelled.

use std::mem;
use std::os::fd::BorrowedFd;

use shmesh_shm::OpenBlock;

use super::operation::{Kept, Operation};
use super::parking::{Parking, Watch};
use super::ring::{Completion, Ring};
use super::sockets::{Armed, Arrival, Kind, Stream};
use super::{UringDriver, cancel_armed};
use crate::driver::{Event, SockId, Tag};
use crate::slice::Slice;

/// Before the kernel is entered.
impl Stream {
    /// Whether this block may be the next to receive into.
    pub(super) fn accepts(&self, block: &OpenBlock) -> bool {
        let none_before = self.landing.block.is_none() && (self.landing.armed == Armed::No || self.landing.taken_back);
        self.receiving && !self.ended && none_before && !block.is_empty()
    }

    /// Drops the block, or has [`settle`](Self::settle) cancel its operation.
    pub(super) fn take_block_back(&mut self) {
        self.landing.block = None;
        self.landing.taken_back = self.landing.armed != Armed::No;
    }

    /// Reports what arrived while it was not wanted. Returns whether there was anything.
    pub(super) fn report_stash(&mut self, tag: Tag, id: SockId, events: &mut Vec<Event>) -> bool {
        let any = self.receiving && !self.stash.is_empty();
        if any {
            events.extend(self.stash.drain(..).map(|arrival| arrival.into_event(tag, id)));
        }
        any
    }

    /// Has it parked that is to be, takes it out for what cannot wait for bytes to come, and sees that its end is not lost.
    pub(super) fn settle_parking(
        &mut self,
        ring: &mut Ring,
        parking: &Parking,
        id: SockId,
        fd: BorrowedFd<'_>,
        rests: bool,
    ) {
        let lands = self.landing.block.is_some() || self.landing.armed != Armed::No;
        if lands || rests || !self.receiving || self.ended {
            self.to_be_parked = false;
        } else if self.to_be_parked && self.armed == Armed::No {
            self.to_be_parked = false;
            parking.turn(&mut self.watch, Watch::Readable, id, fd);
        } else if self.to_be_parked {
            cancel_armed(ring, id, Operation::Receive, &mut self.armed);
        }
        if self.is_parked() && lands {
            parking.turn(&mut self.watch, Watch::Nothing, id, fd);
        }
        let in_slots = self.receiving && !self.alone && !self.ended && !self.connecting && !rests;
        if in_slots && self.armed == Armed::No && self.watch == Watch::Nothing {
            let end = if self.tcp { Watch::Reset } else { Watch::End };
            parking.turn(&mut self.watch, end, id, fd);
        }
    }

    /// Whether one slot is to be filled at a time, until further notice.
    fn stays_alone(&self) -> bool {
        self.always_alone || matches!(self.watch, Watch::Ended | Watch::Refused)
    }

    /// Brings what the kernel receives in line with what is wanted; nothing is while the driver `rests`. Returns false if the next
    /// `poll` has to look again.
    pub(super) fn settle(
        &mut self,
        ring: &mut Ring,
        id: SockId,
        fd: BorrowedFd<'_>,
        slots: bool,
        reported: bool,
        rests: bool,
    ) -> bool {
        if self.landing.armed != Armed::No {
            if self.landing.taken_back || rests {
                cancel_armed(ring, id, Operation::Land, &mut self.landing.armed);
            }
            return true;
        }
        let wanted = self.receiving && !self.ended && !rests;
        let into_block = wanted && self.landing.block.is_some();
        if self.armed != Armed::No {
            if !wanted || into_block || self.stays_alone() && !self.armed_alone {
                cancel_armed(ring, id, Operation::Receive, &mut self.armed);
            }
            return true;
        }
        if !wanted || self.connecting || self.is_parked() {
            return true;
        }
        if into_block {
            // Not in the `poll` that reports bytes from before: the engine may want to take the block back.
            if !reported && let Some(block) = self.landing.block.take() {
                self.landing.armed = Armed::Yes;
                ring.land(id, fd, block);
            }
            return !reported;
        }
        if slots {
            self.armed = Armed::Yes;
            self.armed_alone = self.alone || self.stays_alone();
            ring.receive(id, fd, self.armed_alone);
        }
        slots
    }

    /// Reports an arrival, or keeps it for when it is wanted.
    fn arrive(&mut self, arrival: Arrival, tag: Tag, id: SockId, events: &mut Vec<Event>) {
        if matches!(arrival, Arrival::End(_)) {
            self.ended = true;
            self.landing.block = None;
        }
        if self.receiving {
            events.push(arrival.into_event(tag, id));
        } else {
            self.stash.push_back(arrival);
        }
    }
}

/// After the kernel was entered.
impl UringDriver {
    pub(super) fn on_receive(&mut self, mut completion: Completion, events: &mut Vec<Event>) {
        let id = completion.id;
        let slot = completion.slot.take();
        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        let Kind::Stream(stream) = &mut socket.kind else {
            return;
        };
        if !completion.more {
            stream.armed = Armed::No;
        }
        if socket.closing {
            return;
        }
        let arrival = match completion.result().map(|len| (len as usize, slot)) {
            Ok((0, _)) => Some(Arrival::End(None)),
            Ok((len, Some(slot))) => {
                stream.alone = stream.always_alone;
                let bytes = if stream.receiving {
                    self.pool.deliver(slot, len)
                } else {
                    // Nobody knows for how long: not in a slot.
                    self.pool.deliver_to_heap(slot, len)
                };
                Some(Arrival::Bytes(bytes))
            }
            Ok((_, None)) => {
                // Bytes without a place: the kernel does not do that, and going on would lose them.
                Some(Arrival::End(Some(std::io::ErrorKind::InvalidData.into())))
            }
            Err(error) => match error.raw_os_error() {
                // No slot was left; a cancellation; a passing condition: armed again if wanted.
                Some(libc::ENOBUFS | libc::ECANCELED | libc::EINTR | libc::EAGAIN) => None,
                _ => Some(Arrival::End(Some(error))),
            },
        };
        if let Some(arrival) = arrival {
            stream.arrive(arrival, socket.tag, id, events);
        }
        if !completion.more {
            self.look_at(id);
        }
    }

    pub(super) fn on_land(&mut self, mut completion: Completion, events: &mut Vec<Event>) {
        let id = completion.id;
        let Some(Kept::Block(block)) = completion.kept.take() else {
            return;
        };
        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        let Kind::Stream(stream) = &mut socket.kind else {
            return;
        };
        stream.landing.armed = Armed::No;
        let taken_back = mem::take(&mut stream.landing.taken_back);
        if socket.closing {
            return;
        }
        let tag = socket.tag;
        match completion.result() {
            Ok(0) => stream.arrive(Arrival::End(None), tag, id, events),
            Ok(len) if !taken_back => {
                stream.alone = true;
                events.push(Event::Landed { tag, sock: id, block, len });
            }
            Ok(len) => stream.arrive(Arrival::Bytes(copy_of(&block, len)), tag, id, events),
            Err(error) => match error.raw_os_error() {
                // A cancellation; a passing condition: again if wanted.
                Some(libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {
                    if !taken_back {
                        stream.landing.block = Some(block);
                    }
                }
                _ => stream.arrive(Arrival::End(Some(error)), tag, id, events),
            },
        }
        self.look_at(id);
    }
}

/// The first bytes of a block that goes back to its lane.
fn copy_of(block: &OpenBlock, len: u32) -> Slice {
    let mut bytes = vec![0; len as usize];
    let inside = block.read(0, &mut bytes);
    assert!(inside, "the kernel received no more than there was room for");
    Slice::from_vec(bytes)
}
