//! The shim: what an application links to talk to its sidecar through shared memory.
//!
//! ```no_run
//! use shmesh_client::{Client, Request};
//!
//! let client = Client::connect("/run/shmesh/shmesh.sock")?;
//! let response = client.call(Request::http("GET", "reviews", "/reviews/1").header("accept", "text/plain"))?;
//! println!("{} {}", response.status, String::from_utf8_lossy(&response.body));
//! # Ok::<(), shmesh_client::CallError>(())
//! ```
//!
//! - [`Client::call`]: one request, one answer, from any thread; it goes round a sidecar that is gone, and comes back little by little.
//! - [`Client::lane`]: many calls in flight from one thread.
//! - [`Client::exchange`]: a call whose bodies are too large to be held whole.
//! - [`Client::stream`]: a byte stream that stands in for a TCP connection (`AsyncStream` with the feature `tokio`).
//! - [`Server`]: receives calls under a name.
//!
//! No thread is started, except to look up a host name on the way round the sidecar, and no runtime needed. Whoever waits spins for as long as that has caught something lately, then
//! sleeps on the lane's bell and the session's socket, which ends when the sidecar dies. Messages of the sidecar
//! (endpoints, going away) are taken whenever a thread waits or wakes, at most every 20 ms. A sidecar that is stopped or hung is asked
//! for a sign of life by whoever waits for an answer, and left when it gives none ([`ClientBuilder::hang_timeout`]); for streams at rest,
//! which may be silent for long, it is asked ever more rarely.
//!
//! A child of `fork` does not have the shared memory of its parent: lanes and streams in hand fail there with
//! [`CallError::Forked`], and a [`Client`] attaches a session of its own for the next call. (Copies of the parent's descriptors
//! that the child holds keep the parent's session open should the parent die, until the child drops its copies of lanes and
//! streams, executes another program, or ends.)
#![forbid(unsafe_code)]

#[cfg(feature = "tokio")]
mod async_lane_stream;
#[cfg(feature = "tokio")]
mod async_stream;
mod attachment;
mod back_off;
mod buffers;
mod call;
mod calls;
mod client;
mod clock;
mod detour;
mod direct;
mod direct_answer;
mod direct_exchange;
mod direct_request;
mod direct_stream;
mod directory;
mod errand;
mod error;
mod exchange;
mod fallback;
mod flow;
mod http_answer;
mod idle;
mod lane;
mod lane_stream;
mod names;
mod own_connection;
mod own_socket;
mod peer;
mod policy_file;
mod pool;
mod pulse;
mod raw_request;
mod reattachment;
mod routes;
mod served;
mod server;
mod session;
mod stream;
mod ways;
mod wire;

#[cfg(feature = "tokio")]
pub use async_stream::AsyncStream;
pub use call::{Answer, Call, CallId, Request, Response, Route, SubmitError, Target, Wait};
pub use client::{Client, ClientBuilder};
pub use error::{CallError, ConnectError, Place, Ran, Retry};
pub use exchange::Exchange;
pub use lane::Lane;
pub use served::{Handler, Served, ServedResponse, StreamEvent, StreamId, StreamReply};
pub use server::{Server, ServerBuilder, ServingLane};
pub use shmesh_shm::key::DubboKey;
pub use shmesh_shm::{Priority, Protocol, Reset};
pub use stream::Stream;
