//! A byte range in a buffer that somebody else keeps.

/// A byte range in the buffer that was parsed, `start` inclusive, `end` exclusive.
///
/// Parsers return spans instead of slices so that a parsed message can be kept beside its buffer.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    /// The bytes of this range in `buf`, the buffer that was parsed.
    ///
    /// A range that does not lie in `buf` gives no bytes: only a caller that hands in another buffer
    /// than the one that was parsed can meet that.
    #[inline]
    pub fn of<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        buf.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    /// Bodies and heads are limited to `u32` bytes before any span is made, so nothing is cut here.
    #[inline]
    pub(crate) fn new(start: usize, end: usize) -> Span {
        debug_assert!(start <= end && u32::try_from(end).is_ok());
        Span { start: start as u32, end: end as u32 }
    }
}
