//! What one process tells the next about a worker, as protobuf messages: the format of an upgrade.
//!
//! Its rules are those of protobuf: a field keeps its number and its meaning for ever, a new one has a new number and means by its absence what
//! was so before it existed, and an old process skips it. What cannot be said that way raises [`FORMAT`], and [`FORMAT_MIN`] once the version
//! before is not read any more. Keys of tables travel as their 64 bits, times as nanoseconds of CLOCK_MONOTONIC, which all processes of a
//! machine share.

use prost::{Message, Oneof};

/// The version that is written.
pub const FORMAT: u32 = 1;
/// The oldest that is read.
pub const FORMAT_MIN: u32 = 1;

/// One worker at rest.
#[derive(Clone, PartialEq, Message)]
pub struct WorkerState {
    #[prost(uint32, tag = "1")]
    pub format: u32,
    /// Generations of all places of the tables, free ones included: a key that is stale stays so.
    #[prost(uint32, repeated, tag = "2")]
    pub conn_generations: Vec<u32>,
    #[prost(uint32, repeated, tag = "3")]
    pub call_generations: Vec<u32>,
    #[prost(uint32, repeated, tag = "4")]
    pub lane_generations: Vec<u32>,
    /// By the index that conns name.
    #[prost(string, repeated, tag = "5")]
    pub addresses: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    pub conns: Vec<ConnState>,
    #[prost(message, repeated, tag = "7")]
    pub calls: Vec<CallState>,
    #[prost(message, repeated, tag = "8")]
    pub lanes: Vec<LaneState>,
    #[prost(message, repeated, tag = "9")]
    pub sessions: Vec<SessionState>,
    /// Processes before the ones that have `turn` name only those against whose endpoints something is held.
    #[prost(message, repeated, tag = "10")]
    pub clusters: Vec<ClusterRest>,
    /// Host names of which something is known. Absent: they are looked up again.
    #[prost(message, repeated, tag = "11")]
    pub names: Vec<NameState>,
}

/// Whose turn it is in a cluster, and what is held against its endpoints.
#[derive(Clone, PartialEq, Message)]
pub struct ClusterRest {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, repeated, tag = "2")]
    pub suspects: Vec<SuspectState>,
    /// Absent: it begins at random.
    #[prost(uint64, optional, tag = "3")]
    pub turn: Option<u64>,
}

/// What is known of a host name.
#[derive(Clone, PartialEq, Message)]
pub struct NameState {
    #[prost(string, tag = "1")]
    pub host: String,
    #[prost(uint32, tag = "2")]
    pub port: u32,
    /// A request named it, not the configuration.
    #[prost(bool, tag = "3")]
    pub of_request: bool,
    /// None: there is no such host.
    #[prost(string, repeated, tag = "4")]
    pub addresses: Vec<String>,
    #[prost(uint64, tag = "5")]
    pub turn: u64,
    /// Addresses of the second family are taken first.
    #[prost(bool, tag = "6")]
    pub second_first: bool,
    #[prost(uint64, tag = "7")]
    pub fresh_until: u64,
    #[prost(uint64, tag = "8")]
    pub stale_until: u64,
}

/// What is held against an endpoint (`shmesh_policy::Suspect`).
#[derive(Clone, PartialEq, Message)]
pub struct SuspectState {
    #[prost(string, tag = "1")]
    pub address: String,
    #[prost(uint32, tag = "2")]
    pub local_origin_failures: u32,
    #[prost(uint32, tag = "3")]
    pub gateway_failures: u32,
    #[prost(uint32, tag = "4")]
    pub server_errors: u32,
    #[prost(uint32, tag = "5")]
    pub times: u32,
    #[prost(uint64, optional, tag = "6")]
    pub out_until: Option<u64>,
    #[prost(uint64, tag = "7")]
    pub back_since: u64,
}

/// A connection, or a stream that stands in for one.
#[derive(Clone, PartialEq, Message)]
pub struct ConnState {
    #[prost(fixed64, tag = "1")]
    pub key: u64,
    #[prost(oneof = "Pipe", tags = "2, 3")]
    pub pipe: Option<Pipe>,
    #[prost(oneof = "Role", tags = "4, 5, 6, 7, 8, 9, 10")]
    pub role: Option<Role>,
    #[prost(bytes = "vec", tag = "11")]
    pub input: Vec<u8>,
    #[prost(message, repeated, tag = "12")]
    pub out: Vec<Piece>,
    #[prost(uint64, tag = "13")]
    pub flushes: u64,
    #[prost(bool, tag = "14")]
    pub receiving: bool,
    #[prost(bool, tag = "15")]
    pub ended: bool,
    /// 0 stay, 1 shut down, 2 close.
    #[prost(uint32, tag = "16")]
    pub finish: u32,
    #[prost(bool, tag = "17")]
    pub write_ended: bool,
    #[prost(uint64, tag = "18")]
    pub active: u64,
    #[prost(uint64, tag = "19")]
    pub deadline: u64,
    /// Where it was going before it was redirected; `here` if that was asked and it was not.
    #[prost(string, optional, tag = "20")]
    pub original: Option<String>,
    #[prost(bool, tag = "21")]
    pub behind: bool,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Pipe {
    #[prost(message, tag = "2")]
    Socket(SocketState),
    #[prost(message, tag = "3")]
    Stream(SlotAt),
}

/// A connected socket; its descriptor comes in the order of these, if it did not come ahead.
#[derive(Clone, PartialEq, Message)]
pub struct SocketState {
    /// What had left the kernel and was not wanted.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub arrived: Vec<Vec<u8>>,
    /// And then the end: 0 in order, else the error's number.
    #[prost(uint32, optional, tag = "2")]
    pub end: Option<u32>,
    /// Its descriptor came ahead.
    #[prost(bool, tag = "3")]
    pub ahead: bool,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Role {
    #[prost(message, tag = "4")]
    HttpDown(HttpDownState),
    #[prost(message, tag = "5")]
    HttpUp(HttpUpState),
    #[prost(message, tag = "6")]
    DubboDown(DubboDownState),
    #[prost(message, tag = "7")]
    DubboUp(DubboUpState),
    #[prost(message, tag = "8")]
    RawDown(RawDownState),
    #[prost(message, tag = "9")]
    RawUp(RawUpState),
    #[prost(message, tag = "10")]
    Lingering(Nothing),
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct Nothing {}

#[derive(Clone, PartialEq, Message)]
pub struct HttpDownState {
    #[prost(uint32, tag = "1")]
    pub listener: u32,
    #[prost(string, optional, tag = "2")]
    pub address: Option<String>,
    #[prost(fixed64, optional, tag = "3")]
    pub call: Option<u64>,
    #[prost(message, optional, tag = "4")]
    pub body: Option<BodyState>,
    #[prost(bool, tag = "5")]
    pub keep_alive: bool,
    #[prost(bool, tag = "6")]
    pub old: bool,
    #[prost(bool, tag = "7")]
    pub head_started: bool,
    #[prost(bool, tag = "8")]
    pub served: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct HttpUpState {
    #[prost(uint32, tag = "1")]
    pub address: u32,
    #[prost(fixed64, optional, tag = "2")]
    pub call: Option<u64>,
    #[prost(message, optional, tag = "3")]
    pub body: Option<BodyState>,
    #[prost(bool, tag = "4")]
    pub keep_alive: bool,
    #[prost(bool, tag = "5")]
    pub reused: bool,
    #[prost(bool, tag = "6")]
    pub request_done: bool,
    #[prost(bool, tag = "7")]
    pub sent: bool,
    #[prost(bool, tag = "8")]
    pub broken: bool,
    #[prost(bool, tag = "9")]
    pub for_app: bool,
    #[prost(bool, tag = "10")]
    pub in_bulk: bool,
    #[prost(bool, tag = "11")]
    pub awaits_credit: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct DubboDownState {
    #[prost(uint32, tag = "1")]
    pub listener: u32,
    #[prost(message, optional, tag = "2")]
    pub frames: Option<FramesState>,
    #[prost(uint32, tag = "3")]
    pub waiting: u32,
    #[prost(fixed64, repeated, tag = "4")]
    pub own: Vec<u64>,
    #[prost(message, repeated, tag = "5")]
    pub callbacks: Vec<CallbackState>,
    #[prost(uint64, tag = "6")]
    pub last_callback: u64,
    #[prost(bool, tag = "7")]
    pub extended: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct CallbackState {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(fixed64, tag = "2")]
    pub provider: u64,
    #[prost(fixed64, tag = "3")]
    pub provider_id: u64,
    #[prost(uint64, tag = "4")]
    pub until: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct DubboUpState {
    #[prost(uint32, tag = "1")]
    pub address: u32,
    #[prost(fixed64, optional, tag = "2")]
    pub consumer: Option<u64>,
    #[prost(message, optional, tag = "3")]
    pub frames: Option<FramesState>,
    /// Calls that wait for their turn, the next one first.
    #[prost(fixed64, repeated, tag = "4")]
    pub turns: Vec<u64>,
    #[prost(uint32, tag = "5")]
    pub waiting: u32,
    #[prost(bool, tag = "6")]
    pub readonly: bool,
    /// 0 unasked, 1 offered, 2 agreed.
    #[prost(uint32, tag = "7")]
    pub agreement: u32,
    #[prost(uint64, tag = "8")]
    pub heard: u64,
    #[prost(bool, tag = "9")]
    pub answered: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct RawDownState {
    #[prost(fixed64, optional, tag = "1")]
    pub call: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct RawUpState {
    #[prost(uint32, tag = "1")]
    pub address: u32,
    #[prost(fixed64, optional, tag = "2")]
    pub call: Option<u64>,
}

/// Frames that come in pieces.
#[derive(Clone, PartialEq, Message)]
pub struct FramesState {
    #[prost(bytes = "vec", optional, tag = "1")]
    pub header: Option<Vec<u8>>,
    #[prost(bytes = "vec", tag = "2")]
    pub held: Vec<u8>,
}

/// An HTTP body that is being read.
#[derive(Clone, PartialEq, Message)]
pub struct BodyState {
    #[prost(uint32, tag = "1")]
    pub state: u32,
    #[prost(uint64, tag = "2")]
    pub number: u64,
    #[prost(uint32, tag = "3")]
    pub line_bytes: u32,
    #[prost(bytes = "vec", tag = "4")]
    pub trailer_lines: Vec<u8>,
    #[prost(uint32, tag = "5")]
    pub line_start: u32,
    #[prost(uint32, tag = "6")]
    pub value_start: u32,
    #[prost(uint32, tag = "7")]
    pub trailer_bytes: u32,
    #[prost(uint32, tag = "8")]
    pub place: u32,
}

/// Bytes that are to be sent: these, or those of a block of a lane.
#[derive(Clone, PartialEq, Message)]
pub struct Piece {
    #[prost(bytes = "vec", tag = "1")]
    pub bytes: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    pub lent: Option<LentState>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct LentState {
    #[prost(fixed64, tag = "1")]
    pub lane: u64,
    #[prost(uint32, tag = "2")]
    pub block: u32,
    #[prost(uint32, tag = "3")]
    pub from: u32,
    #[prost(uint32, tag = "4")]
    pub len: u32,
}

/// A call's place on a lane.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct SlotAt {
    #[prost(fixed64, tag = "1")]
    pub lane: u64,
    #[prost(uint32, tag = "2")]
    pub slot: u32,
    #[prost(uint64, tag = "3")]
    pub generation: u64,
}

/// One side of a call: a conn, or a slot.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct PeerState {
    #[prost(fixed64, optional, tag = "1")]
    pub conn: Option<u64>,
    #[prost(message, optional, tag = "2")]
    pub slot: Option<SlotAt>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CallState {
    #[prost(fixed64, tag = "1")]
    pub key: u64,
    #[prost(message, optional, tag = "2")]
    pub origin: Option<PeerState>,
    /// Absent: it is to be dispatched.
    #[prost(message, optional, tag = "3")]
    pub dest: Option<PeerState>,
    #[prost(uint32, tag = "4")]
    pub listener: u32,
    #[prost(uint32, tag = "5")]
    pub cluster: u32,
    #[prost(string, optional, tag = "6")]
    pub named_host: Option<String>,
    #[prost(uint32, tag = "7")]
    pub named_port: u32,
    #[prost(uint32, tag = "8")]
    pub attempts: u32,
    #[prost(uint32, tag = "9")]
    pub connects: u32,
    #[prost(uint64, tag = "10")]
    pub started: u64,
    #[prost(uint64, tag = "11")]
    pub deadline: u64,
    #[prost(uint64, tag = "12")]
    pub hard_deadline: u64,
    #[prost(bool, tag = "13")]
    pub on_socket: bool,
    #[prost(bool, tag = "14")]
    pub fresh: bool,
    #[prost(bool, tag = "15")]
    pub forwarded: bool,
    #[prost(bool, tag = "16")]
    pub answered: bool,
    #[prost(oneof = "Kind", tags = "17, 18")]
    pub kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Kind {
    #[prost(message, tag = "17")]
    Exchange(ExchangeState),
    #[prost(message, tag = "18")]
    Dubbo(DubboState),
}

#[derive(Clone, PartialEq, Message)]
pub struct ExchangeState {
    #[prost(bool, tag = "1")]
    pub http: bool,
    #[prost(bool, tag = "2")]
    pub tunnel: bool,
    #[prost(bool, tag = "3")]
    pub connect: bool,
    #[prost(bytes = "vec", tag = "4")]
    pub head: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "5")]
    pub upgrade: Option<Vec<u8>>,
    #[prost(bool, tag = "6")]
    pub head_only: bool,
    #[prost(bool, tag = "7")]
    pub idempotent: bool,
    #[prost(uint64, optional, tag = "8")]
    pub request_length: Option<u64>,
    #[prost(bool, tag = "9")]
    pub request_has_body: bool,
    #[prost(bytes = "vec", tag = "10")]
    pub request_trailers: Vec<u8>,
    #[prost(message, repeated, tag = "11")]
    pub pending: Vec<Piece>,
    #[prost(bool, tag = "12")]
    pub replayable: bool,
    #[prost(message, repeated, tag = "13")]
    pub replay: Vec<Piece>,
    #[prost(bool, tag = "14")]
    pub request_ended: bool,
    #[prost(bool, tag = "15")]
    pub response_chunked: bool,
    #[prost(uint64, optional, tag = "16")]
    pub head_put_at: Option<u64>,
    #[prost(bool, tag = "17")]
    pub response_has_trailers: bool,
    #[prost(uint32, tag = "18")]
    pub status: u32,
    #[prost(bytes = "vec", optional, tag = "19")]
    pub request_id: Option<Vec<u8>>,
    #[prost(uint64, tag = "20")]
    pub received: u64,
    #[prost(uint64, optional, tag = "21")]
    pub answer_left: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DubboState {
    #[prost(bytes = "vec", tag = "1")]
    pub header: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    pub body: Vec<Piece>,
    #[prost(bytes = "vec", tag = "3")]
    pub told: Vec<u8>,
    /// What it counts for the app that sent it.
    #[prost(uint64, optional, tag = "4")]
    pub held: Option<u64>,
    #[prost(bool, tag = "5")]
    pub idempotent: bool,
    #[prost(bool, tag = "6")]
    pub replayable: bool,
    #[prost(message, repeated, tag = "7")]
    pub replay: Vec<Piece>,
}

#[derive(Clone, PartialEq, Message)]
pub struct LaneState {
    #[prost(fixed64, tag = "1")]
    pub key: u64,
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// Its number in the session.
    #[prost(uint32, tag = "3")]
    pub lane: u32,
    #[prost(uint64, tag = "4")]
    pub put: u64,
    #[prost(uint64, tag = "5")]
    pub consumed: u64,
    #[prost(uint64, tag = "6")]
    pub taken: u64,
    #[prost(uint64, tag = "7")]
    pub released: u64,
    #[prost(uint64, tag = "8")]
    pub reclaimed: u64,
    /// Blocks that the app has: offset, then bytes, and so on.
    #[prost(uint32, repeated, tag = "9")]
    pub lent: Vec<u32>,
    #[prost(message, repeated, tag = "10")]
    pub slots: Vec<SlotState>,
    /// Slots that the sidecar may open, the last one first.
    #[prost(uint32, repeated, tag = "11")]
    pub free: Vec<u32>,
    #[prost(fixed64, repeated, tag = "12")]
    pub waiting: Vec<u64>,
    #[prost(message, repeated, tag = "13")]
    pub routes: Vec<RouteState>,
    /// What rings it came ahead.
    #[prost(bool, tag = "14")]
    pub ahead: bool,
}

/// A slot that was used.
#[derive(Clone, PartialEq, Message)]
pub struct SlotState {
    #[prost(uint32, tag = "1")]
    pub slot: u32,
    #[prost(uint64, tag = "2")]
    pub generation: u64,
    /// 0 nobody, 1 a frame that is coming in, 2 a call, 3 a stream, 4 what comes is thrown away.
    #[prost(uint32, tag = "3")]
    pub user: u32,
    #[prost(fixed64, tag = "4")]
    pub user_key: u64,
    #[prost(uint64, tag = "5")]
    pub window: u64,
    #[prost(uint64, tag = "6")]
    pub ungranted: u64,
    #[prost(uint32, tag = "7")]
    pub grant: u32,
    #[prost(bool, tag = "8")]
    pub received_end: bool,
    #[prost(message, optional, tag = "9")]
    pub partial: Option<PartialState>,
    #[prost(message, optional, tag = "10")]
    pub first: Option<FirstState>,
    #[prost(message, repeated, tag = "11")]
    pub out: Vec<Piece>,
    #[prost(bool, tag = "12")]
    pub end: bool,
    #[prost(bool, tag = "13")]
    pub sent_end: bool,
    /// Code of the RESET that waits; 0 = none.
    #[prost(uint32, tag = "14")]
    pub reset: u32,
    #[prost(uint64, tag = "15")]
    pub credit: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct PartialState {
    #[prost(message, optional, tag = "1")]
    pub key: Option<RouteState>,
    #[prost(uint32, tag = "2")]
    pub route: u32,
    #[prost(bool, tag = "3")]
    pub one_way: bool,
    #[prost(uint64, tag = "4")]
    pub hard_deadline: u64,
    #[prost(uint64, optional, tag = "5")]
    pub held: Option<u64>,
    #[prost(bytes = "vec", tag = "6")]
    pub frame: Vec<u8>,
    #[prost(uint64, tag = "7")]
    pub until: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct FirstState {
    #[prost(bool, tag = "1")]
    pub open: bool,
    #[prost(bool, tag = "2")]
    pub stream: bool,
    #[prost(uint32, tag = "3")]
    pub code: u32,
    #[prost(bytes = "vec", tag = "4")]
    pub head: Vec<u8>,
    #[prost(uint64, tag = "5")]
    pub total: u64,
    #[prost(bool, tag = "6")]
    pub one_way: bool,
    #[prost(uint32, tag = "7")]
    pub deadline_us: u32,
}

/// A routing key, as its app defined it.
#[derive(Clone, PartialEq, Message)]
pub struct RouteState {
    #[prost(uint32, tag = "1")]
    pub id: u32,
    #[prost(uint32, tag = "2")]
    pub protocol: u32,
    #[prost(bytes = "vec", tag = "3")]
    pub key: Vec<u8>,
    /// 0 it is a key, 1 it is not valid, 2 there were too many ids, 3 the keys were too long.
    #[prost(uint32, tag = "4")]
    pub flaw: u32,
    /// Bytes that it counts for its lane.
    #[prost(uint32, tag = "5")]
    pub bytes: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct SessionState {
    #[prost(uint64, tag = "1")]
    pub session: u64,
    /// The `dirty` bits that were seen.
    #[prost(uint64, tag = "2")]
    pub seen: u64,
}
