//! The state of one slot of a calling lane.

use crate::call::Response;
use crate::error::CallError;
use crate::flow::{Inbound, Outbound};

/// A slot, and the call in it.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub generation: u64,
    pub busy: bool,
    pub queued: bool,
    /// ANSWER came (or is not expected: streams).
    pub begun: bool,
    /// A byte stream.
    pub stream: bool,
    /// The user reads in its own pace: nothing is handed over at the end, credit follows the reading.
    pub paced: bool,
    /// The user is gone: END follows what was written, and nothing more is taken.
    pub detached: bool,
    /// Nanoseconds of the clock; 0 = none.
    pub deadline: u64,
    pub out: Outbound,
    pub inbound: Inbound,
    pub response: Response,
    /// Bytes of the body that a paced user has read.
    pub read: usize,
    pub failure: Option<CallError>,
}

/// What reading a paced call gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadOutcome {
    Bytes(usize),
    /// Everything was read.
    End,
    /// Nothing is there yet.
    Empty,
}

/// How a call is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// One whole message, its answer handed over whole.
    Whole,
    /// A message whose body follows by `write` (its bytes, if known), and whose answer is read by `read`.
    Paced(Option<u64>),
    /// A byte stream.
    Stream,
}

impl Slot {
    /// Another call begins.
    pub fn begin(&mut self, generation: u64, window: u32, opening: Opening) {
        self.generation = generation;
        self.busy = true;
        self.stream = opening == Opening::Stream;
        self.begun = self.stream;
        self.paced = opening != Opening::Whole;
        self.out.begin(window);
        self.inbound.begin(window);
        self.response.clear();
        self.read = 0;
        self.failure = None;
    }
}
