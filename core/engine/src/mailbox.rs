//! What other threads tell a worker: read between loop turns, never waited for.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use crossbeam::queue::SegQueue;
use shmesh_io::Waker;

use crate::handover::{Ahead, Handover, Known, RestOrder};
use crate::resolve::Answer;
use crate::session::NewLanes;

/// A message to a worker.
pub enum Mail {
    /// An app attached.
    Attach(Box<NewLanes>),
    /// An app is gone.
    Detach { session: u64 },
    /// A host name was looked up.
    Resolved(Answer),
    /// Another process is about to go on: give what can be given before the rest.
    Ahead(Sender<io::Result<Ahead>>),
    /// Come to rest, and give all that the other process does not know.
    Rest(RestOrder<Handover>, Known),
    /// Accept nothing new, finish what is there.
    Drain,
    /// Stop now.
    Stop,
}

/// Puts mail into a worker's box.
#[derive(Clone)]
pub struct Postbox {
    queue: Arc<SegQueue<Mail>>,
    waker: Waker,
}

impl Postbox {
    pub fn new(waker: Waker) -> Postbox {
        Postbox { queue: Arc::new(SegQueue::new()), waker }
    }

    pub fn send(&self, mail: Mail) {
        self.queue.push(mail);
        self.waker.wake();
    }

    pub fn resolved(&self, answer: Answer) {
        self.send(Mail::Resolved(answer));
    }

    /// For snapshots, which are looked for after each wake-up.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// For the worker: the next message.
    pub fn take(&self) -> Option<Mail> {
        self.queue.pop()
    }
}
