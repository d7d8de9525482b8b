//! Handing a worker over to another process, in the middle of everything ([ADR 5](../../../../docs/adr/0005-upgrade-hands-state-over.md)).
//!
//! `rest` brings a worker to where nothing moves, and from there back to work; `give` says what it knows then; `take` makes a worker of
//! another process go on with that. Until the other one says that it can, nothing that was done here is final.

mod give;
mod rest;
mod state;
mod take;

use std::os::fd::OwnedFd;

pub use state::{FORMAT, FORMAT_MIN};
pub use take::Refusal;

/// A worker at rest, as the next process gets it.
#[derive(Debug)]
pub struct Handover {
    /// A [`state::WorkerState`].
    pub state: Vec<u8>,
    /// The sockets of its conns, in their order there.
    pub sockets: Vec<OwnedFd>,
    /// What it rings its lanes with, in their order there.
    pub bells: Vec<OwnedFd>,
}
