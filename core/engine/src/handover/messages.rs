//! What two processes of an upgrade tell each other besides the workers' states: who they are, what to prepare, and the sessions. The rules of
//! [`state`](super::state) hold here, too.

use prost::Message;

use super::state::WorkerState;

/// New: which formats it reads.
#[derive(Clone, PartialEq, Message)]
pub struct Take {
    #[prost(uint32, tag = "1")]
    pub format_min: u32,
    #[prost(uint32, tag = "2")]
    pub format_max: u32,
    /// For the log.
    #[prost(string, tag = "3")]
    pub version: String,
    /// Said by nobody any more: it takes an [`AheadState`] whose draft names no addresses.
    #[prost(bool, tag = "4")]
    pub ahead: bool,
    /// It takes an [`AheadState`].
    #[prost(bool, tag = "5")]
    pub drafts: bool,
}

/// Old: what the new one begins with. Its descriptors: the listeners' in their order, the admin interface's, the upgrade socket's and the claim to its
/// name, and a pipe that ends when the old process does.
#[derive(Clone, PartialEq, Message)]
pub struct Plan {
    #[prost(uint32, tag = "1")]
    pub format: u32,
    /// For the log.
    #[prost(string, tag = "2")]
    pub version: String,
    /// The configuration in force, as it was written; absent: the one without a file.
    #[prost(string, optional, tag = "3")]
    pub config: Option<String>,
    /// Of that snapshot.
    #[prost(uint64, tag = "4")]
    pub snapshot_version: u64,
    #[prost(uint32, tag = "5")]
    pub workers: u32,
    /// How many descriptors each listener has: TCP one a worker; Unix and session sockets themselves, and the claim to their name.
    #[prost(uint32, repeated, tag = "6")]
    pub listener_descriptors: Vec<u32>,
    /// How many the old process has open, so that there is room for them.
    #[prost(uint32, tag = "7")]
    pub open_descriptors: u32,
}

/// The session thread at rest. Its descriptors: for each app its socket; if it is attached also `to_proxy`, `to_app`, the bells of all workers, and the
/// liveness socket. Then those that each worker gives ahead: its bells, and then its sockets.
#[derive(Clone, PartialEq, Message)]
pub struct DeskState {
    #[prost(uint64, tag = "1")]
    pub next_session: u64,
    #[prost(uint32, tag = "2")]
    pub next_worker: u32,
    #[prost(message, repeated, tag = "3")]
    pub apps: Vec<AppState>,
    /// For each worker what it gives before it rests; none if the new process does not take it.
    #[prost(message, repeated, tag = "4")]
    pub ahead: Vec<AheadState>,
}

/// Descriptors that a worker gives while it works, so that calls need not wait for that. What is said of them when it rests names them by key; those
/// of which nothing is said are gone by then.
#[derive(Clone, PartialEq, Message)]
pub struct AheadState {
    /// Of what it rings these lanes with.
    #[prost(message, repeated, tag = "1")]
    pub lanes: Vec<AheadLane>,
    /// Of the sockets of conns with these keys.
    #[prost(fixed64, repeated, tag = "2")]
    pub conns: Vec<u64>,
    /// Conns and calls as they are now, with the generations of their tables and the addresses that they name. One that is still there when the
    /// worker rests, and of which nothing is said then, has not changed.
    #[prost(message, optional, tag = "3")]
    pub draft: Option<WorkerState>,
}

/// A lane by its number in a session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct AheadLane {
    #[prost(uint64, tag = "1")]
    pub session: u64,
    #[prost(uint32, tag = "2")]
    pub lane: u32,
}

/// A connection of an app.
#[derive(Clone, PartialEq, Message)]
pub struct AppState {
    #[prost(uint32, tag = "1")]
    pub listener: u32,
    /// What came of a message that is not complete.
    #[prost(bytes = "vec", tag = "2")]
    pub input: Vec<u8>,
    #[prost(uint32, tag = "3")]
    pub uid: u32,
    #[prost(int32, tag = "4")]
    pub pid: i32,
    /// When it connected, nanoseconds of CLOCK_MONOTONIC.
    #[prost(uint64, tag = "5")]
    pub since: u64,
    /// It is attached.
    #[prost(message, optional, tag = "6")]
    pub session: Option<AttachedState>,
    /// What its socket has not taken yet.
    #[prost(bytes = "vec", tag = "7")]
    pub unsaid: Vec<u8>,
}

/// An app that is attached.
#[derive(Clone, PartialEq, Message)]
pub struct AttachedState {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The WELCOME that it was sent, as docs/spec/shm-v1.md writes it: features, geometry, lanes.
    #[prost(bytes = "vec", tag = "2")]
    pub welcome: Vec<u8>,
    #[prost(string, tag = "3")]
    pub app: String,
    #[prost(bool, tag = "4")]
    pub serves: bool,
    /// The socket of its own on which it listens.
    #[prost(string, optional, tag = "5")]
    pub served_at: Option<String>,
    #[prost(bool, tag = "6")]
    pub isolation: bool,
    #[prost(uint64, tag = "7")]
    pub since_unix_ms: u64,
    /// What its direct-mode word says.
    #[prost(uint64, tag = "8")]
    pub direct: u64,
    #[prost(message, repeated, tag = "9")]
    pub lookups: Vec<LookupState>,
    /// Its liveness socket is among the descriptors.
    #[prost(bool, tag = "10")]
    pub liveness: bool,
    /// Answers changed that it was not told.
    #[prost(bool, tag = "11")]
    pub behind: bool,
}

/// What an app asked, and what it was told: the messages of docs/spec/shm-v1.md §6.1.
#[derive(Clone, PartialEq, Message)]
pub struct LookupState {
    #[prost(bytes = "vec", tag = "1")]
    pub asked: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub told: Vec<u8>,
}

/// What happened between the session thread's rest and the workers'.
#[derive(Clone, PartialEq, Message)]
pub struct Last {
    /// Sessions that workers ended.
    #[prost(uint64, repeated, tag = "1")]
    pub ended: Vec<u64>,
}
