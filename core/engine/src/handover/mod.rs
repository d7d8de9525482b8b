//! Handing a worker over to another process, in the middle of everything ([ADR 5](../../../../docs/adr/0005-upgrade-hands-state-over.md)).
//!
//! `rest` brings a worker to where nothing moves, and from there back to work; `give` says what it knows then; `take` makes a worker of
//! another process go on with that. Until the other one says that it can, nothing that was done here is final.

mod ahead;
mod begin;
mod clusters;
mod desk;
#[cfg(test)]
mod format;
mod give;
mod giver;
mod messages;
mod rest;
mod state;
mod take;
mod taker;
mod wire;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex};

pub use ahead::Ahead;
pub(crate) use ahead::{Giving, Known, Ready};
pub use desk::DeskHandover;
pub(crate) use desk::TakenDesk;
pub use giver::{Giver, HandedOver};
pub use state::{FORMAT, FORMAT_MIN};
pub use take::Refusal;
pub(crate) use taker::Restoring;
pub use taker::{Predecessor, TakeError, TakenOver, UpgradeSocket};

/// A worker at rest, as the next process gets it.
#[derive(Debug)]
pub struct Handover {
    /// A [`state::WorkerState`].
    pub state: Vec<u8>,
    /// What it rings its lanes with, and then the sockets of its conns, each in their order there; without those that were given ahead.
    pub descriptors: Vec<OwnedFd>,
}

/// Asks a thread of the engine to come to rest, and to say what it knows.
#[derive(Debug)]
pub(crate) struct RestOrder<T> {
    /// `None`: it did not come to rest in time, and goes on.
    pub rested: Sender<io::Result<Option<T>>>,
    /// What comes of it. The sender's end: the thread goes on.
    pub outcome: Receiver<Over>,
    /// Another process may go on at any moment. Whoever rests writes nothing but under this lock, and only while it is not so.
    pub held: Arc<Mutex<bool>>,
}

/// Another process goes on; who rests does nothing any more.
#[derive(Debug)]
pub(crate) struct Over;
