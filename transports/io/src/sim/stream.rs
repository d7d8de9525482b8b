//! A connection as its driver sees it, and how its bytes get to the network.

use std::io;
use std::mem;

use shmesh_shm::OpenBlock;

use super::connection::EndId;
use super::world::World;
use crate::chunk::{Chunk, Chunks};
use crate::earlier::Earlier;

/// The most that is copied to the network in one piece.
const PIECE_MAX: usize = 64 << 10;

pub(super) struct Stream {
    pub end: EndId,
    pub connecting: bool,
    pub receiving: bool,
    /// The end was reported.
    pub ended: bool,
    /// What to receive into next.
    pub block: Option<OpenBlock>,
    /// A block may follow what comes next, which therefore comes alone.
    pub alone: bool,
    /// And so does all that follows.
    pub always_alone: bool,
    /// The last `poll` in which a block landed, or something came alone: nothing more is read in it.
    pub done_in: u32,
    pub sending: Option<Sending>,
    /// A completion that waits for the next `poll`.
    pub sent: Option<Sent>,
    pub shutdown_after_send: bool,
    pub earlier: Earlier,
}

pub(super) struct Sending {
    pub chunks: Chunks,
    pub bytes: u64,
}

pub(super) struct Sent {
    pub chunks: Chunks,
    pub result: io::Result<u64>,
}

impl Stream {
    pub fn new(end: EndId) -> Self {
        Self {
            end,
            connecting: false,
            receiving: false,
            ended: false,
            block: None,
            alone: true,
            always_alone: false,
            done_in: 0,
            sending: None,
            sent: None,
            shutdown_after_send: false,
            earlier: Earlier::default(),
        }
    }

    /// Sends what there is room for. What completes is left in `sent`.
    ///
    /// Letting go of a chunk may call into the engine's lanes, so the network is not borrowed then.
    pub fn go_on_sending(&mut self, world: &World, piece: &mut Vec<u8>) {
        let Some(sending) = self.sending.as_mut() else {
            return;
        };
        let result = loop {
            if sending.chunks.is_empty() {
                break Ok(sending.bytes);
            }
            match world.net(|net| net.room(self.end)) {
                Ok(0) => return,
                Ok(room) => {
                    copy_first(&sending.chunks, room.min(PIECE_MAX), piece);
                    world.net(|net| net.push(self.end, piece));
                    sending.chunks.advance(piece.len());
                }
                Err(errno) => break Err(errno.into()),
            }
        };
        let Some(Sending { mut chunks, .. }) = self.sending.take() else {
            return;
        };
        chunks.clear();
        if mem::take(&mut self.shutdown_after_send) {
            world.net(|net| net.finish(self.end));
        }
        self.sent = Some(Sent { chunks, result });
    }
}

/// Copies the first bytes of the chunks, at most `max`.
fn copy_first(chunks: &Chunks, max: usize, into: &mut Vec<u8>) {
    into.clear();
    for chunk in chunks.iter() {
        let start = into.len();
        let len = chunk.len().min(max - start);
        match chunk {
            Chunk::Private(slice) => into.extend_from_slice(&slice[..len]),
            Chunk::Shared(slice) => {
                into.resize(start + len, 0);
                slice.read_into(&mut into[start..]);
            }
        }
        if into.len() == max {
            return;
        }
    }
}
