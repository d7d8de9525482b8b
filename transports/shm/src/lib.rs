//! shm-v1: rings, arenas, handshake and doorbells, the code of docs/spec/shm-v1.md.
//!
//! An app and its sidecar share two memfds, each written by one of them. This crate is what both sides use to
//! talk through them: [`LaneEnd`] is one side of one lane, [`Dirty`] and [`DirtyWatch`] tell a worker which lanes to
//! look at, [`handshake`] speaks on the session socket, [`segment`] makes the memfds, [`Waiter`] decides how to wait.
//!
//! A peer is hostile until proved otherwise: what it wrote is copied once, the copy is validated, and only the
//! copy is used. What breaks the page is a [`Violation`], which ends the session and nothing else.
//!
//! `unsafe` lives in two modules: [`region`] (the mapped memory) and `descriptors` (descriptors that arrive over a socket).
#![deny(unsafe_code)]

mod arena;
mod atomics;
mod call_words;
#[cfg(shmesh_sim)]
pub mod delayed;
mod direct;
mod dirty;
pub mod geometry;
pub mod key;
mod lane;
mod record;
pub mod region;
mod release;
mod ring;
mod violation;
pub mod wait;

#[cfg(not(loom))]
pub mod cgroup;
#[cfg(not(loom))]
pub mod descriptors;
#[cfg(not(loom))]
pub mod doorbell;
#[cfg(not(loom))]
pub mod handshake;
#[cfg(not(loom))]
pub mod host;
#[cfg(not(loom))]
mod policy;
#[cfg(not(loom))]
pub mod segment;

pub use arena::{Arena, NotLent};
pub use call_words::CallState;
pub use direct::{DirectShares, Priority};
pub use dirty::{Dirty, DirtyWatch};
pub use geometry::{Geometry, GeometryError};
pub use lane::{BlockLease, Implausible, InPlace, LaneEnd, LaneRest, NoRoom, OpenBlock, Part, Side};
pub use record::{Flags, Header, INLINE_KEY, Kind, MAX_GENERATION, Protocol, ROUTE_IDS, Reset, TOTAL_UNKNOWN};
#[cfg(not(loom))]
pub use region::ForkGuard;
pub use region::Mapping;
pub use violation::Violation;
pub use wait::{Step, Waiter};
