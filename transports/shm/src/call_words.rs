//! Slot words: which calls may have run. docs/spec/shm-v1.md §5.

use crate::record::MAX_GENERATION;

/// How far a call got, as the sidecar says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CallState {
    /// Nothing was taken from the ring.
    Free = 0,
    /// The OPEN was taken from the ring.
    Accepted = 1,
    /// Its bytes may have reached an upstream.
    Forwarded = 2,
    /// The record that ends the answer is about to be published, or was.
    Answered = 3,
}

impl CallState {
    /// The slot word of a generation in this state.
    pub fn word(self, generation: u64) -> u64 {
        (generation & MAX_GENERATION) << 2 | self as u64
    }

    /// Generation and state of a slot word; every word has both.
    pub fn of_word(word: u64) -> (u64, CallState) {
        let state = match word & 3 {
            0 => CallState::Free,
            1 => CallState::Accepted,
            2 => CallState::Forwarded,
            _ => CallState::Answered,
        };
        (word >> 2, state)
    }
}
