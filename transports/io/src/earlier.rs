//! What another driver had of a connection when it let go of it.

use std::collections::VecDeque;
use std::io;

use crate::driver::{Event, SockId, Tag};
use crate::slice::Slice;

/// Bytes that had left the kernel, and what came after them; told before anything else is received.
#[derive(Debug, Default)]
pub(crate) struct Earlier {
    arrived: VecDeque<Slice>,
    end: Option<Option<io::Error>>,
}

impl Earlier {
    pub fn new(arrived: Vec<Slice>, end: Option<Option<io::Error>>) -> Self {
        Self { arrived: arrived.into(), end }
    }

    pub fn is_empty(&self) -> bool {
        self.arrived.is_empty() && self.end.is_none()
    }

    pub fn arrived(&self) -> Vec<&Slice> {
        self.arrived.iter().collect()
    }

    pub fn end(&self) -> Option<Option<&io::Error>> {
        self.end.as_ref().map(Option::as_ref)
    }

    /// Tells all of it. Returns whether that was the end.
    pub fn report(&mut self, tag: Tag, sock: SockId, events: &mut Vec<Event>) -> bool {
        events.extend(self.arrived.drain(..).map(|data| Event::Received { tag, sock, data }));
        let end = self.end.take();
        let ended = end.is_some();
        events.extend(end.map(|error| Event::Ended { tag, sock, error }));
        ended
    }
}
