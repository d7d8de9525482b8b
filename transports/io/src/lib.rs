//! The completion-based driver interface of a worker, and its implementations.
//!
//! * [`driver`]: the interface, [`Driver`] and [`Event`], and its rules
//! * [`pool`], [`slice`](mod@slice), [`chunk`]: the buffers that pass through it
//! * [`bell`], [`waker`]: ringing somebody, being woken by somebody
//! * [`epoll`]: for every Linux; what containers run whose seccomp profile forbids io_uring
//! * [`uring`]: one io_uring a worker, multishot, with provided buffers
//! * [`sim`]: virtual time, a simulated network and faults, all from a seed: for tests that replay, and for counting
//! * [`probe`]: which of the real ones this system allows
//! * [`net`]: listening sockets, TCP and Unix, that no two sidecars share by accident
//!
//! Unsafe code is confined to the modules that say `allow(unsafe_code)` below.

#![deny(unsafe_code)]

pub mod bell;
#[allow(unsafe_code)] // a slice over memory that a peer writes to is made, and only sent from
pub mod chunk;
mod clock;
pub mod driver;
mod earlier;
pub mod epoll;
pub mod net;
#[allow(unsafe_code)] // the slots' memory
pub mod pool;
pub mod probe;
pub mod sim;
#[allow(unsafe_code)] // reads the slots
pub mod slice;
mod socket;
#[allow(unsafe_code)] // system calls without a safe wrapper
mod sys;
mod table;
pub mod uring;
pub mod waker;

pub use bell::Bell;
pub use chunk::{Chunk, Chunks, Keep, SharedSlice};
pub use driver::{AtRest, Driver, Event, Limits, Nanos, PeerAddr, PeerCheck, SockId, Tag, Target, Wait};
pub use epoll::EpollDriver;
pub use pool::{Pool, SLOT_BYTES};
pub use probe::Choice;
pub use sim::{SimDriver, World};
pub use slice::Slice;
pub use socket::is_exhaustion;
pub use sys::give_back_free_memory;
pub use uring::UringDriver;
pub use waker::Waker;
