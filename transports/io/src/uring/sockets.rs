//! What the driver knows of a socket: what the engine wants of it, and what the kernel has of it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use shmesh_shm::OpenBlock;

use super::operation::Outgoing;
use super::parking::Watch;
use crate::chunk::Chunks;
use crate::driver::{Event, SockId, Tag};
use crate::slice::Slice;

pub(super) struct Socket {
    pub(super) fd: OwnedFd,
    pub(super) tag: Tag,
    /// Closed by the engine; only waits for its last completions.
    pub(super) closing: bool,
    /// In the list of dirty sockets.
    pub(super) listed: bool,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Listener(Listener),
    Stream(Stream),
    Watched(Armed),
}

pub(super) struct Listener {
    pub(super) tcp: bool,
    pub(super) wanted: bool,
    pub(super) armed: Armed,
}

pub(super) struct Stream {
    pub(super) connecting: bool,
    /// The engine wants bytes.
    pub(super) receiving: bool,
    /// Receiving into lent slots.
    pub(super) armed: Armed,
    pub(super) landing: Landing,
    /// By the [parking](super::parking).
    pub(super) watch: Watch,
    /// It is to be watched instead, as soon as the ring has let go of it.
    pub(super) to_be_parked: bool,
    pub(super) tcp: bool,
    /// A block may follow what comes next, which therefore comes alone.
    pub(super) alone: bool,
    /// And so does all that follows.
    pub(super) always_alone: bool,
    /// The kernel was asked for one slot only.
    pub(super) armed_alone: bool,
    /// What arrived while it did not.
    pub(super) stash: VecDeque<Arrival>,
    /// The end arrived.
    pub(super) ended: bool,
    pub(super) sending: bool,
    /// A send of nothing, to be reported.
    pub(super) sent_nothing: Option<Chunks>,
    pub(super) cancelling_send: bool,
    /// A send that the kernel does not have, while the driver is suspended.
    pub(super) held: Option<Outgoing>,
    pub(super) shutdown_after_send: bool,
}

/// Receiving into a block. The kernel has this operation or the one that fills slots, never both.
pub(super) struct Landing {
    /// Given by the engine, and not yet to the kernel.
    pub(super) block: Option<OpenBlock>,
    /// Of a block that the kernel has.
    pub(super) armed: Armed,
    /// The engine took that one back: what still comes into it is copied.
    pub(super) taken_back: bool,
}

pub(super) enum Arrival {
    Bytes(Slice),
    End(Option<io::Error>),
}

/// The state of an operation that waits for what others do.
#[derive(Copy, Clone, Eq, PartialEq)]
pub(super) enum Armed {
    No,
    Yes,
    /// A cancellation is under way; the terminal completion is still to come.
    Cancelling,
}

impl Socket {
    /// Whether the kernel has no operation of it.
    pub(super) fn is_idle(&self) -> bool {
        match &self.kind {
            Kind::Listener(listener) => listener.armed == Armed::No,
            Kind::Watched(armed) => *armed == Armed::No,
            Kind::Stream(stream) => {
                let in_flight = stream.sending && stream.sent_nothing.is_none() && stream.held.is_none();
                let receiving = stream.armed != Armed::No || stream.landing.armed != Armed::No;
                !receiving && !stream.connecting && !in_flight
            }
        }
    }
}

impl Armed {
    /// A cancellation found nothing. What is still to come has to be cancelled again.
    pub(super) fn uncancelled(&mut self) {
        if *self == Self::Cancelling {
            *self = Self::Yes;
        }
    }
}

impl Stream {
    pub(super) fn new(tcp: bool) -> Self {
        Self {
            connecting: false,
            receiving: false,
            armed: Armed::No,
            watch: Watch::Nothing,
            to_be_parked: false,
            tcp,
            alone: true,
            always_alone: false,
            armed_alone: false,
            landing: Landing { block: None, armed: Armed::No, taken_back: false },
            stash: VecDeque::new(),
            ended: false,
            sending: false,
            sent_nothing: None,
            cancelling_send: false,
            held: None,
            shutdown_after_send: false,
        }
    }

    /// Whether the ring is asked nothing before the parking tells.
    pub(super) fn is_parked(&self) -> bool {
        self.watch == Watch::Readable
    }
}

impl Arrival {
    pub(super) fn bytes(&self) -> Option<&Slice> {
        match self {
            Self::Bytes(data) => Some(data),
            Self::End(_) => None,
        }
    }

    pub(super) fn into_event(self, tag: Tag, sock: SockId) -> Event {
        match self {
            Self::Bytes(data) => Event::Received { tag, sock, data },
            Self::End(error) => Event::Ended { tag, sock, error },
        }
    }
}
