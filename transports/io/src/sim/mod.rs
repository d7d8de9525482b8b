//! The simulated driver: virtual time, a simulated network, faults, all from one seed.
//!
//! A [`World`] is what a machine and its network are to real drivers: the clock, addresses, listeners, connections. It
//! lives on one thread. Processes that run the engine get a [`SimDriver`] each (one per worker), all others (simulated
//! upstreams and clients) use the plain non-blocking calls of [`ActorListener`] and [`ActorConn`]. The same seed and the
//! same calls give the same run, bit for bit: nothing in here looks at a wall clock, at addresses in memory or at the
//! order of a hash map.
//!
//! **Time** moves only when somebody says so: [`World::advance_to`], or a driver that waits. A driver that has nothing to
//! report and may wait calls the world's blocker ([`World::set_blocker`]). The default one moves the clock to the
//! next thing that happens; a scheduler of several simulated processes installs one that lets the others run.
//!
//! **Descriptors** are real where the engine shares them with an app, and placeholders where they stand for a socket of the
//! simulated network:
//!
//! * A doorbell that is watched ([`Driver::watch`](crate::Driver::watch)) and the driver's [`Waker`](crate::Waker)
//!   are real. They are looked at before the driver waits, after it has waited, and at every
//!   [`LOOK_EVERY`]th `poll` ([`World::set_look_every`]), so that a `poll` with nothing to do costs a few loads. (A waker says in memory that it was
//!   used, and is always noticed at once.) The simulator reads them to see the next edge, which nothing else may do.
//! * A bell that is rung ([`Driver::ring`](crate::Driver::ring)) is real.
//! * What is listened on or adopted comes from [`World::listener`] and [`World::pair`]: a memfd that says
//!   which socket of the world is meant.

mod actor;
mod bells;
mod connection;
mod driver;
mod faults;
mod network;
mod placeholder;
mod rest;
mod stream;
mod waiting;
mod world;

pub use actor::{ActorConn, ActorListener, Progress, Read};
pub use driver::SimDriver;
pub use faults::{Faults, Link, PPM};
pub use world::{Blocker, Census, Node, Pause, World};

/// A `poll` that does not wait looks at real descriptors once in so many times.
pub const LOOK_EVERY: u32 = 64;
