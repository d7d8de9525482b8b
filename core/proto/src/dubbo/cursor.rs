//! A place in a body, moved forward by readers that check every bound.

use super::flaw::Flaw;
use crate::Span;

/// Where a reader is in a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Starts at `at`. What lies beyond 4 GiB is not seen; no frame is as large.
    pub fn new(bytes: &'a [u8], at: u32) -> Self {
        let seen = bytes.len().min(u32::MAX as usize);
        let bytes = &bytes[..seen];
        Cursor { bytes, at: (at as usize).min(seen) }
    }

    /// Offset of the next byte.
    pub fn at(&self) -> u32 {
        self.at as u32
    }

    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub fn is_at_end(&self) -> bool {
        self.remaining() == 0
    }

    /// What lies ahead.
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    pub fn peek(&self) -> Result<u8, Flaw> {
        self.bytes.get(self.at).copied().ok_or(Flaw::End)
    }

    pub fn byte(&mut self) -> Result<u8, Flaw> {
        let byte = self.peek()?;
        self.at += 1;
        Ok(byte)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let bytes = *self.rest().first_chunk::<N>().ok_or(Flaw::End)?;
        self.at += N;
        Ok(bytes)
    }

    pub fn skip(&mut self, len: usize) -> Result<(), Flaw> {
        if len > self.remaining() {
            return Err(Flaw::End);
        }
        self.at += len;
        Ok(())
    }

    /// The range of the next `len` bytes; goes behind them.
    pub fn take(&mut self, len: usize) -> Result<Span, Flaw> {
        let start = self.at();
        self.skip(len)?;
        Ok(Span { start, end: self.at() })
    }

    /// A reader of the next `len` bytes only, with the same offsets; `self` goes behind them.
    pub fn field(&mut self, len: usize) -> Result<Cursor<'a>, Flaw> {
        let at = self.at;
        self.skip(len)?;
        Ok(Cursor { bytes: &self.bytes[..self.at], at })
    }
}
