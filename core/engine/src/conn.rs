//! A connection, or a stream that stands in for one: its state as plain data.

use std::net::{IpAddr, SocketAddr};

use shmesh_io::{Chunks, Nanos, Slice, SockId};
use shmesh_policy::Turns;
use shmesh_proto::http1::BodyReader;

use crate::call::{Call, Peer};
use crate::dubbo_extension::Agreement;
use crate::dubbo_own::Own;
use crate::frame::FrameReader;
use crate::lane::SlotRef;
use crate::slab::Key;
use crate::upstream::AddressId;

/// A byte stream in both directions with what is known of it.
pub struct Conn {
    /// What carries the bytes.
    pub pipe: Pipe,
    /// What is spoken on it, and how far it got.
    pub role: Role,
    /// Received and not yet understood.
    pub input: Slice,
    /// To be sent, in order.
    pub out: Chunks,
    /// Bytes that the driver is sending now; the next batch waits for it.
    pub sending: u64,
    /// Nobody waits for that: it is told with whatever happens next.
    pub unawaited: bool,
    /// There was more to send than was handed to the driver: sources may pause because of that.
    pub behind: bool,
    /// How often something was given to the driver, or to the lane.
    pub flushes: u64,
    /// In the worker's list of conns to flush.
    pub listed: bool,
    /// Receiving is armed.
    pub receiving: bool,
    /// The peer's bytes have ended.
    pub ended: bool,
    /// When `out` has left: end our direction.
    pub finish: Finish,
    /// Our direction has been ended.
    pub write_ended: bool,
    /// When something last moved.
    pub active: Nanos,
    /// Where it was going before the packet filter redirected it here.
    pub original: OriginalDst,
    /// When the conn gives up, and why; `Nanos::MAX` = never.
    pub deadline: Nanos,
}

/// What carries a conn's bytes.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Pipe {
    /// A socket of the driver.
    Socket(SockId),
    /// A stream on a lane.
    Stream(SlotRef),
}

/// What happens when everything was sent.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Finish {
    /// Nothing: more may come.
    Stay,
    /// End our direction and go on receiving.
    Shutdown,
    /// Close in order: end our direction, take what the peer still sends for a moment, close.
    Close,
}

/// Where a conn was going.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum OriginalDst {
    /// Nobody wanted to know.
    Unasked,
    /// Here.
    Here,
    /// There.
    At(SocketAddr),
}

/// What is spoken on a conn, and how far it got.
pub enum Role {
    /// A client that speaks HTTP to us.
    HttpDown(HttpDown),
    /// An HTTP server.
    HttpUp(HttpUp),
    /// A consumer that speaks Dubbo to us.
    DubboDown(DubboDown),
    /// A Dubbo provider.
    DubboUp(DubboUp),
    /// A client whose bytes are passed through.
    RawDown(RawDown),
    /// Where raw bytes go.
    RawUp(RawUp),
    /// Everything is said; what still comes is thrown away until the peer closes too.
    Lingering,
}

/// An HTTP client connection. One request at a time; what comes after it waits in `Conn::input`.
pub struct HttpDown {
    pub listener: u16,
    /// Where it comes from, if that is an address.
    pub address: Option<IpAddr>,
    /// The request that is being served.
    pub call: Option<Key<Call>>,
    /// The body of that request, until it was read to its end.
    pub body: Option<BodyReader>,
    /// The client may send another request afterwards.
    pub keep_alive: bool,
    /// The client speaks 1.0.
    pub old: bool,
    /// A byte of the next head has come.
    pub head_started: bool,
    /// A request came.
    pub served: bool,
}

/// An HTTP server connection. One request at a time.
pub struct HttpUp {
    pub address: AddressId,
    /// The request that is being answered; `None` in the pool.
    pub call: Option<Key<Call>>,
    /// The body of the answer, once its head was read.
    pub body: Option<BodyReader>,
    /// When that was.
    pub head_at: Nanos,
    /// The server lets us send another request afterwards.
    pub keep_alive: bool,
    /// It has carried a call before.
    pub reused: bool,
    /// The connection is made.
    pub connected: bool,
    /// The whole request was handed over.
    pub request_done: bool,
    /// Bytes of the current request were given to the driver.
    pub sent: bool,
    /// A send failed: not for another request.
    pub broken: bool,
    /// Its answers go to apps for now: it receives one piece at a time.
    pub for_app: bool,
    /// The last receive brought much of a body.
    pub in_bulk: bool,
    /// Receives no more before the app has given credit.
    pub awaits_credit: bool,
    /// A block waits for the next bytes: for which slot, and how much of its credit was set aside.
    pub landing: Option<(SlotRef, u64)>,
}

/// A Dubbo consumer's connection.
pub struct DubboDown {
    pub listener: u16,
    pub frames: FrameReader,
    /// Calls that wait for an answer.
    pub waiting: u32,
    /// Connections to providers that nobody else uses.
    pub own: Own,
    /// It has offered extended requests.
    pub extended: bool,
}

/// A Dubbo provider's connection; carries many calls.
pub struct DubboUp {
    pub address: AddressId,
    /// Whose own it is; `None` if it is shared by all.
    pub consumer: Option<Key<Conn>>,
    pub frames: FrameReader,
    pub connected: bool,
    /// Calls that wait for the connection to be made.
    pub queue: Vec<Key<Call>>,
    /// Calls whose frames wait for their sender's turn, while others leave.
    pub turns: Turns<Sender, Key<Call>>,
    /// Calls that wait for an answer, or for their turn before.
    pub waiting: u32,
    /// The provider asked for no new calls.
    pub readonly: bool,
    /// Whether requests may be extended.
    pub agreement: Agreement,
    /// It has brought an answer.
    pub answered: bool,
    /// When it last sent anything.
    pub heard: Nanos,
}

/// A client whose bytes are passed through.
pub struct RawDown {
    pub call: Option<Key<Call>>,
}

/// Who takes turns on a provider's connection: a consumer's connection, or a lane. The bits are those of its key.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Sender {
    Conn(u64),
    Lane(u64),
}

impl From<Peer> for Sender {
    fn from(origin: Peer) -> Sender {
        match origin {
            Peer::Conn(key) => Sender::Conn(key.to_bits()),
            Peer::Slot(at) => Sender::Lane(at.lane.to_bits()),
        }
    }
}

/// Where raw bytes go; serves one call.
pub struct RawUp {
    pub address: AddressId,
    pub call: Option<Key<Call>>,
    pub connected: bool,
}

impl Conn {
    /// Whether the connection is there, and not still being made.
    pub fn is_made(&self) -> bool {
        match &self.role {
            Role::HttpUp(up) => up.connected,
            Role::DubboUp(up) => up.connected,
            Role::RawUp(up) => up.connected,
            _ => true,
        }
    }

    /// A conn on which nothing has happened.
    pub fn new(pipe: Pipe, role: Role, now: Nanos) -> Conn {
        Conn {
            pipe,
            role,
            input: Slice::empty(),
            out: Chunks::new(),
            sending: 0,
            unawaited: false,
            behind: false,
            flushes: 0,
            listed: false,
            receiving: false,
            ended: false,
            finish: Finish::Stay,
            write_ended: false,
            active: now,
            original: OriginalDst::Unasked,
            deadline: Nanos::MAX,
        }
    }

    /// Bytes that have not left yet.
    pub fn unsent(&self) -> u64 {
        let waiting = match &self.role {
            Role::DubboUp(up) => up.turns.bytes(),
            _ => 0,
        };
        self.out.len_bytes() as u64 + self.sending + waiting
    }

    /// The call that this conn works for, if its role has just one.
    pub fn call(&self) -> Option<Key<Call>> {
        match &self.role {
            Role::HttpDown(down) => down.call,
            Role::HttpUp(up) => up.call,
            Role::RawDown(down) => down.call,
            Role::RawUp(up) => up.call,
            Role::DubboDown(_) | Role::DubboUp(_) | Role::Lingering => None,
        }
    }
}
