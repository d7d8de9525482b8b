//! The calls of one connection that have no answer yet.

use std::collections::VecDeque;
use std::time::Instant;

/// Starts of calls by number; numbers are given out in order.
#[derive(Debug, Default)]
pub struct Outstanding {
    /// Number of the first entry; `None` where an answer has come already.
    first: u64,
    starts: VecDeque<Option<Instant>>,
    len: usize,
}

impl Outstanding {
    /// Takes a call in and gives it its number.
    pub fn begin(&mut self, start: Instant) -> u64 {
        self.starts.push_back(Some(start));
        self.len += 1;
        self.first + self.starts.len() as u64 - 1
    }

    /// Start of call `number`, which leaves; `None` if it is not outstanding.
    pub fn end(&mut self, number: u64) -> Option<Instant> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let start = self.starts.get_mut(index)?.take()?;
        self.len -= 1;
        while let Some(None) = self.starts.front() {
            self.starts.pop_front();
            self.first += 1;
        }
        Some(start)
    }

    pub fn oldest(&self) -> Option<u64> {
        // The front is never an answered one.
        (self.len > 0).then_some(self.first)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All leave.
    pub fn drain(&mut self) -> impl Iterator<Item = Instant> {
        self.first += self.starts.len() as u64;
        self.len = 0;
        self.starts.drain(..).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_end_in_any_order_once() {
        let mut calls = Outstanding::default();
        let start = Instant::now();
        let numbers: Vec<u64> = (0..4).map(|_| calls.begin(start)).collect();
        assert_eq!(numbers, [0, 1, 2, 3]);
        assert_eq!(calls.end(1), Some(start));
        assert_eq!(calls.end(1), None);
        assert_eq!(calls.end(4), None);
        assert_eq!((calls.oldest(), calls.len()), (Some(0), 3));
        assert_eq!(calls.end(0), Some(start));
        assert_eq!((calls.oldest(), calls.len()), (Some(2), 2));
        assert_eq!(calls.end(0), None);
        assert_eq!(calls.drain().count(), 2);
        assert_eq!((calls.oldest(), calls.is_empty()), (None, true));
        assert_eq!(calls.begin(start), 4);
        assert_eq!(calls.oldest(), Some(4));
    }
}
