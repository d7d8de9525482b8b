//! What is sent: private bytes, and bytes that lie in memory shared with a peer.

use std::collections::{VecDeque, vec_deque};
use std::fmt;
use std::rc::Rc;

use crate::slice::Slice;

/// Keeps a block of shared memory from being given back; dropping the last `Rc` of it releases the block.
pub trait Keep: 'static {
    /// The block, if it is one of a lane.
    fn block(&self) -> Option<&shmesh_shm::BlockLease> {
        None
    }
}

/// Payload in memory that a peer may change at any time. There is no way to read it here: it can only be sent from.
#[derive(Clone)]
pub struct SharedSlice {
    ptr: *const u8,
    len: usize,
    keep: Rc<dyn Keep>,
}

impl SharedSlice {
    /// # Safety
    /// `ptr .. ptr + len` stays mapped and readable until `keep` is dropped. (Its content may change at any time.)
    pub unsafe fn new(ptr: *const u8, len: usize, keep: Rc<dyn Keep>) -> Self {
        Self { ptr, len, keep }
    }

    /// Number of bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies the first bytes out; what arrives in `dst` is private and changes no more.
    ///
    /// # Panics
    /// If there are fewer than `dst.len()`.
    pub fn read_into(&self, dst: &mut [u8]) {
        assert!(dst.len() <= self.len, "read past the end");
        // SAFETY: the source is readable for `len` bytes (promised to `new`), `dst` is private memory and does not overlap.
        // A peer may write meanwhile; nothing here depends on the bytes.
        unsafe { std::ptr::copy_nonoverlapping(self.ptr, dst.as_mut_ptr(), dst.len()) };
        shmesh_shm::region::settle(dst);
    }

    /// Drops the first `n` bytes.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.len, "advance past the end");
        // SAFETY: stays inside the range (asserted) that `new` was promised.
        self.ptr = unsafe { self.ptr.add(n) };
        self.len -= n;
    }

    /// The block of a lane in which the bytes lie, and where they begin in its payload.
    pub fn in_block(&self) -> Option<(&shmesh_shm::BlockLease, u32)> {
        let lease = self.keep.block()?;
        Some((lease, (self.ptr as usize - lease.ptr() as usize) as u32))
    }

    /// Cuts off the first `n` bytes and returns them; the block is kept until both parts are gone.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn split_to(&mut self, n: usize) -> SharedSlice {
        assert!(n <= self.len, "split past the end");
        let first = SharedSlice { ptr: self.ptr, len: n, keep: self.keep.clone() };
        self.advance(n);
        first
    }
}

impl Keep for shmesh_shm::BlockLease {
    fn block(&self) -> Option<&shmesh_shm::BlockLease> {
        Some(self)
    }
}

/// The payload of a record, sent from where it lies; the block goes back to its lane when the last part is gone.
impl From<shmesh_shm::BlockLease> for SharedSlice {
    fn from(lease: shmesh_shm::BlockLease) -> Self {
        let (ptr, len) = (lease.ptr(), lease.len());
        // SAFETY: a lease keeps its segment mapped, and the range is inside of it.
        unsafe { Self::new(ptr, len, Rc::new(lease)) }
    }
}

impl fmt::Debug for SharedSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedSlice({} bytes)", self.len)
    }
}

/// One piece of what is sent.
#[derive(Clone, Debug)]
pub enum Chunk {
    Private(Slice),
    Shared(SharedSlice),
}

impl Chunk {
    /// Number of bytes.
    pub const fn len(&self) -> usize {
        match self {
            Self::Private(slice) => slice.len(),
            Self::Shared(slice) => slice.len(),
        }
    }

    /// Whether there are no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops the first `n` bytes.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn advance(&mut self, n: usize) {
        match self {
            Self::Private(slice) => slice.advance(n),
            Self::Shared(slice) => slice.advance(n),
        }
    }

    /// For the kernel to read from, while the chunk is kept.
    pub(crate) fn as_ptr(&self) -> *const u8 {
        match self {
            Self::Private(slice) => slice.as_slice().as_ptr(),
            Self::Shared(slice) => slice.ptr,
        }
    }
}

impl From<Slice> for Chunk {
    fn from(slice: Slice) -> Self {
        Self::Private(slice)
    }
}

impl From<SharedSlice> for Chunk {
    fn from(slice: SharedSlice) -> Self {
        Self::Shared(slice)
    }
}

/// A queue of chunks that knows its total length. Keeps its memory when emptied, so that it can be used again.
#[derive(Debug, Default)]
pub struct Chunks {
    /// Made with the first chunk: most queues of a call never see one, and cost two words then.
    #[allow(
        clippy::box_collection,
        reason = "a second allocation for a queue that is used, two words for one that is not"
    )]
    queue: Option<Box<VecDeque<Chunk>>>,
    bytes: usize,
}

impl Chunks {
    /// An empty queue.
    pub const fn new() -> Self {
        Self { queue: None, bytes: 0 }
    }

    /// Total number of bytes.
    pub const fn len_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it never had a chunk, and so has no memory to keep.
    pub fn is_unused(&self) -> bool {
        self.queue.is_none()
    }

    /// Whether there is nothing to send.
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Appends a chunk. One that continues the last chunk in the same slot is merged with it; an empty one is dropped.
    pub fn push(&mut self, chunk: impl Into<Chunk>) {
        let chunk = chunk.into();
        if chunk.is_empty() {
            return;
        }
        self.bytes += chunk.len();
        let queue = self.queue.get_or_insert_default();
        let chunk = match (queue.back_mut(), chunk) {
            (Some(Chunk::Private(last)), Chunk::Private(next)) => match last.try_merge(next) {
                Ok(()) => return,
                Err(next) => Chunk::Private(next),
            },
            (_, chunk) => chunk,
        };
        queue.push_back(chunk);
    }

    /// Drops the first `n` bytes.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn advance(&mut self, mut n: usize) {
        assert!(n <= self.bytes, "advance past the end");
        self.bytes -= n;
        let Some(queue) = &mut self.queue else { return };
        while let Some(first) = queue.front_mut() {
            if n < first.len() {
                first.advance(n);
                return;
            }
            n -= first.len();
            queue.pop_front();
        }
    }

    /// Takes out the first chunk.
    pub fn pop_front(&mut self) -> Option<Chunk> {
        let chunk = self.queue.as_mut()?.pop_front()?;
        self.bytes -= chunk.len();
        Some(chunk)
    }

    /// Moves all chunks of `other` to the end of this queue.
    pub fn append(&mut self, other: &mut Chunks) {
        while let Some(chunk) = other.pop_front() {
            self.push(chunk);
        }
    }

    /// Drops all chunks; the queue's own memory stays.
    pub fn clear(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.clear();
        }
        self.bytes = 0;
    }

    /// The chunks in order.
    pub fn iter(&self) -> vec_deque::Iter<'_, Chunk> {
        match &self.queue {
            Some(queue) => queue.iter(),
            None => vec_deque::Iter::default(),
        }
    }
}

impl<C: Into<Chunk>> Extend<C> for Chunks {
    fn extend<I: IntoIterator<Item = C>>(&mut self, chunks: I) {
        for chunk in chunks {
            self.push(chunk);
        }
    }
}

impl<C: Into<Chunk>> From<C> for Chunks {
    fn from(chunk: C) -> Self {
        let mut chunks = Self::new();
        chunks.push(chunk);
        chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Pool;
    use std::cell::Cell;

    struct Block(Rc<Cell<bool>>);

    impl Keep for Block {}

    impl Drop for Block {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }

    #[test]
    fn neighbours_are_merged_and_strangers_are_not() {
        let pool = Pool::new(16).unwrap();
        let mut chunks = Chunks::new();
        chunks.push(pool.append(b"HTTP/1.1 200 OK\r\n"));
        chunks.push(pool.append(b"content-length: 3\r\n\r\n"));
        chunks.push(Slice::from_vec(b"abc".to_vec()));
        chunks.push(Slice::empty());
        chunks.push(pool.append(b"HTTP"));
        assert_eq!(chunks.iter().count(), 3);
        assert_eq!(chunks.len_bytes(), 17 + 21 + 3 + 4);
    }

    #[test]
    fn advancing_drops_whole_chunks_and_parts() {
        let mut chunks = Chunks::new();
        chunks.extend([b"abc".to_vec(), b"de".to_vec(), b"fgh".to_vec()].map(Slice::from_vec));
        chunks.advance(3);
        assert_eq!(chunks.iter().count(), 2);
        chunks.advance(3);
        assert_eq!(chunks.len_bytes(), 2);
        let Some(Chunk::Private(rest)) = chunks.pop_front() else {
            panic!("a private chunk");
        };
        assert_eq!(rest.as_slice(), b"gh");
        assert!(chunks.is_empty());
        assert!(chunks.pop_front().is_none());
    }

    #[test]
    fn a_shared_block_is_released_with_its_last_part() {
        let released = Rc::new(Cell::new(false));
        let bytes = *b"shared payload";
        // SAFETY: `bytes` outlives every use of the slice below.
        let mut slice = unsafe { SharedSlice::new(bytes.as_ptr(), bytes.len(), Rc::new(Block(released.clone()))) };
        let first = slice.split_to(6);
        let mut chunks = Chunks::from(first);
        chunks.push(slice);
        assert_eq!(chunks.len_bytes(), 14);
        chunks.advance(10);
        assert!(!released.get());
        chunks.advance(4);
        assert!(released.get());
    }
}
