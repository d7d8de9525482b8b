//! Memory of large messages that are over, kept for the next ones: fresh pages cost more than what is copied into them.

/// Buffers up to this many bytes stay where they are; larger ones come from here and go back.
pub(crate) const LARGE: usize = 64 << 10;
/// Bytes that a lane keeps.
const KEPT_MAX: usize = 8 << 20;

/// What a lane keeps.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    spare: Vec<Vec<u8>>,
    bytes: usize,
}

impl Buffers {
    /// Makes the buffer, which is empty, fit for so many bytes, as far as that is worth something.
    pub fn lend(&mut self, buffer: &mut Vec<u8>, len: usize) {
        if len <= LARGE || buffer.capacity() >= len {
            return;
        }
        let fits = self.spare.iter().rposition(|spare| spare.capacity() >= len);
        if let Some(index) = fits.or(self.spare.len().checked_sub(1)) {
            let spare = self.spare.swap_remove(index);
            self.bytes -= spare.capacity();
            *buffer = spare;
        }
        // What announces more than this has to show it.
        buffer.reserve(len.min(KEPT_MAX));
    }

    /// Takes the memory of a large buffer back, which is empty then; leaves that of a small one to it.
    pub fn give_back(&mut self, buffer: &mut Vec<u8>) {
        buffer.clear();
        if buffer.capacity() > LARGE {
            let buffer = std::mem::take(buffer);
            if self.bytes + buffer.capacity() <= KEPT_MAX {
                self.bytes += buffer.capacity();
                self.spare.push(buffer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_memory_comes_again_and_is_bounded() {
        let mut buffers = Buffers::default();
        let mut small = Vec::with_capacity(LARGE);
        buffers.give_back(&mut small);
        assert_eq!(small.capacity(), LARGE);
        let mut large = Vec::with_capacity(1 << 20);
        large.push(1);
        let at = large.as_ptr();
        buffers.give_back(&mut large);
        assert_eq!((large.capacity(), buffers.bytes), (0, 1 << 20));
        let mut next = Vec::new();
        buffers.lend(&mut next, LARGE);
        assert_eq!(next.capacity(), 0);
        buffers.lend(&mut next, LARGE + 1);
        assert_eq!((next.as_ptr(), next.len(), buffers.bytes), (at, 0, 0));
        for _ in 0..9 {
            buffers.give_back(&mut Vec::with_capacity(1 << 20));
        }
        assert_eq!(buffers.bytes, KEPT_MAX);
        let mut announced = Vec::new();
        buffers.lend(&mut announced, usize::MAX);
        assert!(announced.capacity() <= 2 * KEPT_MAX);
    }
}
