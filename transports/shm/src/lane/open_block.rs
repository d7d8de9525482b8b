//! A block that is filled where it lies, by a system call, before its record is put.

use std::fmt;
use std::sync::Arc;

use super::{LaneEnd, NoRoom, Returns};
use crate::record::Header;
use crate::region::Mapping;

/// A block of this side's own arena that is being filled. Dropped before its record is put, it is free again. Keeps its segment
/// mapped: a kernel that still writes there when the lane is gone writes into nobody else's memory.
pub struct OpenBlock {
    segment: Arc<Mapping>,
    at: usize,
    len: u32,
    block: u32,
    /// Taken when the record is put.
    unused: Option<Arc<Returns>>,
}

impl LaneEnd {
    /// A block for so many bytes, to be filled through [`OpenBlock::ptr`] and put by [`LaneEnd::put_block`].
    pub fn open_block(&mut self, len: u32) -> Result<OpenBlock, NoRoom> {
        let block = self.lend(u64::from(len))?;
        let at = self.arena_at() + block as usize;
        Ok(OpenBlock { segment: self.mine.clone(), at, len, block, unused: Some(self.unused.clone()) })
    }

    /// Puts a record whose payload is the first `len` bytes of the block. The block comes back when there is no room, and when it is
    /// not of this lane or has fewer bytes.
    pub fn put_block(&mut self, header: &Header, mut block: OpenBlock, len: u32) -> Result<(), OpenBlock> {
        let ours = block.unused.as_ref().is_some_and(|unused| Arc::ptr_eq(unused, &self.unused));
        if !ours || len > block.len || self.room() == 0 {
            return Err(block);
        }
        block.unused = None;
        self.producer.put(header, len, block.block);
        Ok(())
    }

    /// Blocks that were opened for nothing are free again.
    pub(super) fn take_unused(&mut self) {
        let arena = &mut self.arena;
        // A peer that gave back what it never had freed the block already.
        self.unused.drain(|block| _ = arena.free(block));
    }
}

impl OpenBlock {
    /// Where the bytes go. For system calls only: the peer may read them, and, if it breaks the page, count on them.
    #[cfg(not(loom))]
    pub fn ptr(&self) -> *mut u8 {
        self.segment.pointer(self.at, self.len as usize).cast_mut()
    }

    /// Copies bytes in, for those that have them already; false if there is no room for them.
    #[must_use]
    pub fn write(&mut self, from: u32, bytes: &[u8]) -> bool {
        let fits = u64::from(from) + bytes.len() as u64 <= u64::from(self.len);
        if fits {
            self.segment.write_bytes(self.at + from as usize, bytes);
        }
        fits
    }

    /// Copies out what was filled, for those who cannot put it. As with all shared memory, nothing may be decided by it: a peer
    /// with more rights than it should have can have changed it. False if the block ends before.
    #[must_use]
    pub fn read(&self, from: u32, bytes: &mut [u8]) -> bool {
        let fits = u64::from(from) + bytes.len() as u64 <= u64::from(self.len);
        if fits {
            self.segment.read_bytes(self.at + from as usize, bytes);
        }
        fits
    }

    /// Its offset in the arena.
    pub fn block(&self) -> u32 {
        self.block
    }

    /// Bytes that it takes.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for OpenBlock {
    fn drop(&mut self) {
        if let Some(unused) = self.unused.take() {
            unused.push(self.block);
        }
    }
}

impl fmt::Debug for OpenBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenBlock").field("block", &self.block).field("len", &self.len).finish()
    }
}
