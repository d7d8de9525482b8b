//! What an operation needs while the kernel works on it, and how its completion finds back.

use std::ptr;

use nix::sys::socket::SockaddrStorage;
use shmesh_shm::OpenBlock;

use crate::chunk::Chunks;
use crate::driver::SockId;
use crate::sys;
use crate::table::GENERATION_BITS;

/// What a completion is about.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
#[repr(u8)]
pub(super) enum Operation {
    Accept = 1,
    Connect,
    Receive,
    Land,
    Send,
    Watch,
    Cancel,
    Bell,
    Waker,
    Parking,
}

impl Operation {
    const ALL: [Operation; 10] = [
        Self::Accept,
        Self::Connect,
        Self::Receive,
        Self::Land,
        Self::Send,
        Self::Watch,
        Self::Cancel,
        Self::Bell,
        Self::Waker,
        Self::Parking,
    ];

    /// Whether the kernel uses memory or a descriptor of ours until the terminal completion.
    pub(super) fn is_tracked(self) -> bool {
        !matches!(self, Self::Cancel | Self::Bell)
    }

    /// Where its [`Kept`] is, if it keeps something: a socket has at most one such operation in each direction.
    pub(super) fn place(self) -> Option<usize> {
        match self {
            Self::Connect | Self::Send => Some(0),
            Self::Land => Some(1),
            _ => None,
        }
    }
}

/// Index, generation and operation, in the 64 bits that the kernel carries through.
pub(super) fn pack(id: SockId, operation: Operation) -> u64 {
    const { assert!(GENERATION_BITS + 8 == 32) }
    u64::from(id.index()) << 32 | u64::from(id.generation()) << 8 | operation as u64
}

/// The reverse of [`pack`]; `None` for what this driver never packed.
pub(super) fn unpack(user_data: u64) -> Option<(SockId, Operation)> {
    let operation = Operation::ALL.into_iter().find(|operation| *operation as u64 == user_data & 0xFF)?;
    let generation = (user_data >> 8) as u32 & ((1 << GENERATION_BITS) - 1);
    Some((SockId::new((user_data >> 32) as u32, generation), operation))
}

/// Memory that an operation in flight points to.
pub(super) enum Kept {
    Address(#[expect(dead_code, reason = "only the kernel reads it")] Box<SockaddrStorage>),
    Outgoing(Outgoing),
    /// Received into.
    Block(OpenBlock),
}

/// How many of them a socket may have, see [`Operation::place`].
pub(super) const PLACES: usize = 2;

/// A send: its chunks, and the list of them in the kernel's form if there are several.
pub(super) struct Outgoing {
    pub(super) chunks: Chunks,
    /// How many bytes it was at first.
    pub(super) bytes: u64,
    /// Boxed, so that it stays where it is while it is in flight.
    pub(super) message: Option<Box<Message>>,
    /// Success is not told by a completion, see [`super::ring::Ring::send_silently`].
    pub(super) silent: bool,
}

impl Outgoing {
    pub(super) fn new(chunks: Chunks) -> Self {
        Self { bytes: chunks.len_bytes() as u64, chunks, message: None, silent: false }
    }
}

/// A `msghdr` and the pieces it points to.
pub(super) struct Message {
    pub(super) header: libc::msghdr,
    pieces: [libc::iovec; sys::PIECES_PER_SEND],
}

impl Message {
    pub(super) fn new() -> Box<Self> {
        Box::new(Self {
            // SAFETY: all zeroes is an empty msghdr.
            header: unsafe { std::mem::zeroed() },
            pieces: [sys::EMPTY_PIECE; sys::PIECES_PER_SEND],
        })
    }

    /// Points to the first chunks.
    pub(super) fn fill(&mut self, chunks: &Chunks) {
        let count = sys::list_pieces(chunks, &mut self.pieces);
        self.header.msg_iov = self.pieces.as_mut_ptr();
        self.header.msg_iovlen = count as _;
    }

    /// Points to nothing.
    pub(super) fn clear(&mut self) {
        self.header.msg_iov = ptr::null_mut();
        self.header.msg_iovlen = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_keeps_everything() {
        for operation in Operation::ALL {
            for (index, generation) in [(0, 0), (1, 0xFF_FFFF), (u32::MAX, 0xAB_CDEF)] {
                let id = SockId::new(index, generation);
                assert_eq!(unpack(pack(id, operation)), Some((id, operation)));
            }
        }
        assert_eq!(unpack(0), None);
        assert_eq!(unpack(0xFF), None);
    }
}
