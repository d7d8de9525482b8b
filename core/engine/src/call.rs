//! A call: what was asked, by whom, where it went, how far it got. Plain data.

use shmesh_io::{Chunks, Nanos, Slice};
use shmesh_policy::{Ticket, Tries};
use shmesh_proto::dubbo::FrameHeader;
use shmesh_proto::http1::{BodyError, Date, OwnOut};

use crate::conn::Conn;
use crate::host::Order;
use crate::lane::SlotRef;
use crate::memory::NO_MEMORY;
use crate::quota::{Held, Quota};
use crate::slab::Key;

/// A call from the moment that its head was understood until its answer was handed over.
pub struct Call {
    /// Who asked.
    pub origin: Peer,
    /// Who answers; `None` until an endpoint is chosen, and between attempts.
    pub dest: Option<Peer>,
    /// Index of the listener through which it came.
    pub listener: u16,
    /// Index of the cluster that takes it.
    pub cluster: u32,
    /// Where a dynamic forward proxy sends it: the authority that the request names.
    pub named_host: Option<Box<(Box<str>, u16)>>,
    /// Endpoints not tried yet.
    pub tries: Tries,
    /// The endpoint that is to be tried once more before these: its name is being looked up, or has further addresses.
    pub host_again: Option<u32>,
    /// How many addresses of that name were tried.
    pub host_connects: u32,
    /// How many of these were passed over, as they are left out for a while.
    pub host_skips: u32,
    /// Endpoints that were passed over, for when all others have refused.
    pub skipped: Vec<u32>,
    /// All others have refused.
    pub last_resort: bool,
    /// Where among these it began.
    pub host_order: Order,
    /// How often it was sent.
    pub attempts: u32,
    /// How many connections were made for it.
    pub connects: u32,
    /// In the worker's list of calls to forward.
    pub queued: bool,
    pub started: Nanos,
    /// When it fails with a timeout unless something moves before.
    pub deadline: Nanos,
    /// The caller's own deadline, or when the call has taken as long as one may altogether; never moved.
    pub hard_deadline: Nanos,
    /// What the last endpoint said, should there be no other.
    pub last_failure: Failure,
    /// One of its sides is a socket.
    pub on_socket: bool,
    /// Goes on a fresh connection: a reused one turned out closed.
    pub fresh: bool,
    /// The first byte may have reached an upstream.
    pub forwarded: bool,
    /// A byte of the answer came.
    pub answered: bool,
    pub kind: Kind,
}

/// What differs between protocols.
pub enum Kind {
    Exchange(Exchange),
    Dubbo(Dubbo),
}

impl Kind {
    /// Bytes that are passed through: when such a call ends is not known to anybody here.
    pub fn is_raw(&self) -> bool {
        matches!(self, Kind::Exchange(Exchange { http: false, .. }))
    }
}

/// One side of a call.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Peer {
    Conn(Key<Conn>),
    Slot(SlotRef),
}

/// An HTTP request with its answer, or raw bytes both ways: streamed, never held whole.
#[derive(Default)]
pub struct Exchange {
    pub http: bool,
    /// Bytes flow until each side ends them; there is no answer that begins (raw connections).
    pub tunnel: bool,
    /// A CONNECT whose connection is not made yet; a tunnel afterwards.
    pub connect: bool,
    /// The request's head as it leaves, without framing, with the CRLF that ends it.
    pub head: Slice,
    /// What a service on a socket may switch to instead of answering.
    pub upgrade: Option<Box<[u8]>>,
    pub head_only: bool,
    /// By its route, or its method.
    pub idempotent: bool,
    /// Bytes of the request's body when known.
    pub request_length: Option<u64>,
    /// The request has a body at all.
    pub request_has_body: bool,
    /// Trailers of the request.
    pub request_trailers: Vec<u8>,
    /// Body that came before an endpoint was ready.
    pub pending: Chunks,
    /// What was sent of the body, kept for one more attempt.
    pub replay: Option<Chunks>,
    /// The request has come in whole.
    pub request_ended: bool,
    /// The answer as it goes to a conn: how its body is framed.
    pub response_chunked: bool,
    /// `Conn::flushes` of the caller's connection when the answer's head was put there behind nothing else.
    pub head_put_at: Option<u64>,
    /// `request_trailers` are the answer's by now.
    pub response_has_trailers: bool,
    pub status: u16,
    /// `x-request-id`, if calls are logged.
    pub request_id: Option<Box<[u8]>>,
    /// Body bytes of the request that came, where their number was announced.
    pub received: u64,
    /// Body bytes that a serving app has announced and not sent yet.
    pub answer_left: Option<u64>,
}

/// A Dubbo frame with its answer, each held whole.
pub struct Dubbo {
    /// The request's header as the caller sent it.
    pub header: FrameHeader,
    /// The body until it has left.
    pub body: Chunks,
    /// Its route says so.
    pub idempotent: bool,
    /// The body that has left, kept for one more attempt.
    pub replay: Option<Chunks>,
    /// Its place among those that wait for their turn on a provider's connection.
    pub turn: Option<Ticket>,
    /// What the next sidecar is told in front of the body; empty where the cluster does not want it.
    pub told: Slice,
    /// What it counts for the app that sent it, if that is long.
    pub held: Option<Held>,
}

impl Call {
    /// A call of which nothing was sent yet.
    #[inline]
    pub fn new(origin: Peer, listener: u16, cluster: u32, kind: Kind) -> Call {
        Call {
            origin,
            dest: None,
            listener,
            cluster,
            named_host: None,
            tries: Tries::default(),
            host_again: None,
            host_connects: 0,
            host_skips: 0,
            skipped: Vec::new(),
            last_resort: false,
            host_order: Order::default(),
            attempts: 0,
            connects: 0,
            queued: false,
            started: 0,
            deadline: Nanos::MAX,
            hard_deadline: Nanos::MAX,
            last_failure: Failure::Refused,
            on_socket: false,
            fresh: false,
            forwarded: false,
            answered: false,
            kind,
        }
    }

    /// The exchange, if that is what it is.
    pub fn exchange(&mut self) -> Option<&mut Exchange> {
        match &mut self.kind {
            Kind::Exchange(exchange) => Some(exchange),
            Kind::Dubbo(_) => None,
        }
    }
}

/// Why a call has no answer of its own; decides what the caller is told.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    NoRoute,
    /// No endpoint took the connection.
    Refused,
    /// No endpoint took the connection in time.
    ConnectTimeout,
    /// The upstream ended in the middle.
    Died,
    /// The first byte, or progress, did not come in time.
    Timeout,
    /// The whole call took longer than it may.
    TookTooLong,
    /// The upstream broke its protocol.
    MalformedAnswer,
    /// The caller broke its protocol.
    MalformedRequest,
    /// The caller broke it in the framing of an HTTP body.
    MalformedBody(BodyError),
    /// A route asks for what is not read of a Dubbo request in this serialization.
    Unread,
    /// A limit was reached.
    Overloaded,
    /// The app that serves it takes no more; nothing was forwarded.
    Full,
    /// The process has no descriptor or memory left for it.
    Exhausted,
    /// So much memory is used that nothing new is taken.
    NoMemory,
    /// A quota of the app was reached.
    OverQuota(Quota),
    /// A host name has no address.
    Unresolved,
    /// The caller withdrew it before anything was forwarded.
    Withdrawn,
    /// The request would come back to this sidecar.
    Loop,
    /// It is to go where its connection was going, and that was here.
    NotRedirected,
}

impl Failure {
    /// Status of the HTTP answer.
    pub fn http_status(self) -> u16 {
        match self {
            Failure::NoRoute => 404,
            Failure::Refused
            | Failure::Overloaded
            | Failure::Full
            | Failure::Exhausted
            | Failure::NoMemory
            | Failure::OverQuota(_)
            | Failure::Unresolved
            | Failure::Withdrawn
            | Failure::NotRedirected => 503,
            Failure::ConnectTimeout | Failure::Timeout | Failure::TookTooLong => 504,
            Failure::Died | Failure::MalformedAnswer => 502,
            Failure::MalformedRequest | Failure::Unread => 400,
            Failure::MalformedBody(error) => error.status(),
            Failure::Loop => 508,
        }
    }

    /// The HTTP answer.
    pub fn own_answer(self, close: bool, no_body: bool, date: Option<&Date>) -> OwnOut<'_> {
        let (status, reason, sentence) = (self.http_status(), self.reason(), self.sentence());
        OwnOut { status, reason, sentence, close, no_body, date }
    }

    /// Status of the Dubbo answer (`org.apache.dubbo.remoting.exchange.Response`).
    pub fn dubbo_status(self) -> u8 {
        use shmesh_proto::dubbo::status;
        match self {
            Failure::NoRoute => status::SERVICE_NOT_FOUND,
            Failure::Timeout | Failure::TookTooLong => status::SERVER_TIMEOUT,
            Failure::MalformedAnswer => status::BAD_RESPONSE,
            Failure::MalformedRequest | Failure::MalformedBody(_) | Failure::Unread => status::BAD_REQUEST,
            Failure::Refused
            | Failure::ConnectTimeout
            | Failure::Died
            | Failure::Overloaded
            | Failure::Full
            | Failure::Exhausted
            | Failure::NoMemory
            | Failure::OverQuota(_)
            | Failure::Unresolved
            | Failure::Withdrawn
            | Failure::Loop
            | Failure::NotRedirected => status::SERVER_ERROR,
        }
    }

    /// Code of the RESET towards an app.
    pub fn reset(self) -> shmesh_shm::Reset {
        use shmesh_shm::Reset;
        match self {
            Failure::NoRoute | Failure::Loop | Failure::NotRedirected => Reset::NoRoute,
            // Not `Overloaded`, with which an app would go past the sidecar to that very app.
            Failure::Refused | Failure::Unresolved | Failure::Full => Reset::Refused,
            Failure::ConnectTimeout | Failure::Timeout | Failure::TookTooLong => Reset::Timeout,
            Failure::Died => Reset::Died,
            Failure::MalformedAnswer | Failure::MalformedRequest | Failure::MalformedBody(_) | Failure::Unread => {
                Reset::Malformed
            }
            Failure::Overloaded | Failure::Exhausted | Failure::NoMemory | Failure::OverQuota(_) => Reset::Overloaded,
            Failure::Withdrawn => Reset::Withdrawn,
        }
    }

    /// Whether an app gets it as a RESET, whatever the protocol of its call. Then the call's state says whether it ran, and so whether the
    /// app can make it elsewhere; behind an answer there is no state.
    pub fn resets_apps(self) -> bool {
        matches!(self, Failure::Exhausted | Failure::NoMemory | Failure::OverQuota(_) | Failure::Withdrawn)
    }

    /// Value of `x-shmesh-reason`, and label of the metric.
    pub fn reason(self) -> &'static str {
        match self {
            Failure::NoRoute => "no-route",
            Failure::Refused => "upstream-refused",
            Failure::ConnectTimeout => "connect-timeout",
            Failure::Died => "upstream-died",
            Failure::Timeout => "upstream-timeout",
            Failure::TookTooLong => "request-timeout",
            Failure::MalformedAnswer => "upstream-malformed",
            Failure::MalformedRequest => "malformed-request",
            Failure::MalformedBody(error) => error.reason(),
            Failure::Unread => "unread-serialization",
            Failure::Overloaded | Failure::Full | Failure::OverQuota(_) => "overloaded",
            Failure::Exhausted | Failure::NoMemory => "exhausted",
            Failure::Unresolved => "host-unresolved",
            Failure::Withdrawn => "withdrawn",
            Failure::Loop => "loop",
            Failure::NotRedirected => "not-redirected",
        }
    }

    /// What the caller reads.
    pub fn sentence(self) -> &'static str {
        match self {
            Failure::NoRoute => "shmesh: no route takes this call; compare it with `routes` in GET /snapshot",
            Failure::Refused => "shmesh: no endpoint of the cluster accepted a connection; see GET /clusters",
            Failure::ConnectTimeout => "shmesh: no endpoint of the cluster accepted a connection in time",
            Failure::Died => "shmesh: the upstream closed the connection before its answer was complete",
            Failure::Timeout => "shmesh: the upstream did not answer in time",
            Failure::TookTooLong => "shmesh: the whole call took longer than its caller or `request_timeout` allows",
            Failure::MalformedAnswer => "shmesh: the upstream's answer broke the protocol",
            Failure::MalformedRequest => "shmesh: the request broke the protocol",
            Failure::MalformedBody(_) => "shmesh: the request's body is not framed as the protocol has it",
            Failure::Unread => {
                "shmesh: the routes ask for what shmesh does not read in this serialization (docs/PROTOCOLS.md); \
                 a route without these keys takes it"
            }
            Failure::Overloaded | Failure::Full => "shmesh: a limit is reached; see docs/LIMITS.md and GET /metrics",
            Failure::Exhausted => {
                "shmesh: the sidecar has no descriptor or no memory left for this call; see docs/OPERATIONS.md"
            }
            Failure::NoMemory => NO_MEMORY,
            Failure::OverQuota(quota) => quota.sentence(),
            Failure::Unresolved => "shmesh: the host name has no address",
            Failure::Withdrawn => "shmesh: the caller withdrew the call",
            Failure::Loop => "shmesh: the request names this sidecar itself",
            Failure::NotRedirected => {
                "shmesh: the call is to go on to where its connection was going, and nothing redirected that connection \
                 (docs/REDIRECT.md)"
            }
        }
    }
}
