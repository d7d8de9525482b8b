//! Why a call has no answer: where it failed, and whether it may be tried again.

use std::io;

use shmesh_shm::handshake::{HandshakeError, RefusedCode};
use shmesh_shm::{Reset, Violation};

/// Where a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// In this process: the request itself, or a limit of the shim.
    App,
    /// In the sidecar, or on the way to it.
    Sidecar,
    /// Behind the sidecar.
    Upstream,
}

/// Whether a failed call may be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// It certainly did not run.
    Safe,
    /// It may have run: again only if running it twice does no harm.
    IfIdempotent,
    /// It would fail again.
    No,
}

/// Whether a call may have reached the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ran {
    /// It did not, and will not.
    No,
    /// It may have.
    Maybe,
}

/// Why a call has no (complete) answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request cannot be sent as it is.
    #[error("the request is not valid: {0}")]
    BadRequest(&'static str),
    /// No route or cluster takes it.
    #[error("no route takes the call: {0}")]
    NoRoute(String),
    /// No endpoint could be connected.
    #[error("no endpoint took the connection: {0}")]
    Refused(String),
    /// The upstream ended before its answer was complete.
    #[error("the upstream ended in the middle: {sentence}")]
    Died { ran: Ran, sentence: String },
    /// A timeout or the deadline passed.
    #[error("the call took too long: {sentence}")]
    Timeout { ran: Ran, sentence: String },
    /// The message broke its protocol.
    #[error("the message broke its protocol: {sentence}")]
    Malformed { ran: Ran, sentence: String },
    /// A limit of the sidecar was reached.
    #[error("a limit of the sidecar was reached: {sentence}")]
    Overloaded { ran: Ran, sentence: String },
    /// The sidecar is stopping and takes nothing new.
    #[error("the sidecar is stopping: {sentence}")]
    Draining { ran: Ran, sentence: String },
    /// The other side gave up.
    #[error("the other side cancelled the call: {sentence}")]
    Cancelled { ran: Ran, sentence: String },
    /// The call was withdrawn; nothing was forwarded.
    #[error("the call was withdrawn before it was forwarded")]
    Withdrawn,
    /// Every call is to go round the sidecar, and a lane leads through it.
    #[error(
        "all calls are to go round the sidecar now (`shmesh direct`), and a lane leads through it: use Client::call"
    )]
    ToldToGoRound,
    /// The sidecar went away after the call was forwarded: it may have run.
    #[error("the sidecar went away and the call may have been executed: {0}")]
    MaybeExecuted(String),
    /// The sidecar went away in the middle of a byte stream. At least the first `acknowledged` bytes that were written had been passed
    /// on by then; whether the others were, nobody knows.
    #[error("the sidecar went away; of the stream {acknowledged} bytes are known to have been passed on: {sentence}")]
    StreamReset { acknowledged: u64, sentence: String },
    /// The sidecar is not there, or went away before the call was forwarded: it did not run.
    #[error("the sidecar is gone, the call was not executed: {0}")]
    SidecarGone(String),
    /// The answer is longer than the shim was told to take.
    #[error("the answer is longer than {limit} bytes")]
    AnswerTooLong { limit: usize },
    /// Every lane is in use, and no more may be attached.
    #[error("all {lanes} lanes are in use")]
    NoLane { lanes: usize },
    /// The session ended because the sidecar broke the shm protocol.
    #[error("the sidecar broke the shm protocol: {0}")]
    Violation(#[from] Violation),
    /// The lane or stream was opened by the process that this one was forked from.
    #[error("the lane was opened by the process that this one was forked from; open one in the child")]
    Forked,
    /// Attaching failed.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The sidecar was gone and the direct way to the service failed too.
    #[error("the direct call without the sidecar failed: {sentence}")]
    Direct { ran: Ran, sentence: String },
}

impl CallError {
    /// Where the call failed.
    pub fn place(&self) -> Place {
        match self {
            CallError::BadRequest(_)
            | CallError::AnswerTooLong { .. }
            | CallError::NoLane { .. }
            | CallError::Forked => Place::App,
            CallError::NoRoute(_)
            | CallError::Overloaded { .. }
            | CallError::Draining { .. }
            | CallError::Withdrawn
            | CallError::ToldToGoRound
            | CallError::MaybeExecuted(_)
            | CallError::StreamReset { .. }
            | CallError::SidecarGone(_)
            | CallError::Violation(_)
            | CallError::Connect(_) => Place::Sidecar,
            CallError::Refused(_)
            | CallError::Died { .. }
            | CallError::Timeout { .. }
            | CallError::Malformed { .. }
            | CallError::Cancelled { .. }
            | CallError::Direct { .. } => Place::Upstream,
        }
    }

    /// Whether the call may be made again.
    pub fn retry(&self) -> Retry {
        match self {
            CallError::BadRequest(_)
            | CallError::NoRoute(_)
            | CallError::AnswerTooLong { .. }
            | CallError::Malformed { .. }
            | CallError::Forked => Retry::No,
            CallError::Refused(_)
            | CallError::Withdrawn
            | CallError::ToldToGoRound
            | CallError::SidecarGone(_)
            | CallError::NoLane { .. }
            | CallError::Connect(_) => Retry::Safe,
            CallError::MaybeExecuted(_) | CallError::StreamReset { .. } | CallError::Violation(_) => {
                Retry::IfIdempotent
            }
            CallError::Died { ran, .. }
            | CallError::Timeout { ran, .. }
            | CallError::Overloaded { ran, .. }
            | CallError::Draining { ran, .. }
            | CallError::Cancelled { ran, .. }
            | CallError::Direct { ran, .. } => match ran {
                Ran::No => Retry::Safe,
                Ran::Maybe => Retry::IfIdempotent,
            },
        }
    }

    /// Whether the call may be made without the sidecar, if it may be made again at all: that is the reason of the failure, or had no room for the
    /// call or for another attempt at it.
    pub(crate) fn leads_round(&self) -> bool {
        self.is_sidecar_lost() || matches!(self, CallError::Overloaded { .. })
    }

    /// Whether the sidecar is the reason, and not to be used for a while.
    pub(crate) fn is_sidecar_lost(&self) -> bool {
        matches!(
            self,
            CallError::MaybeExecuted(_)
                | CallError::SidecarGone(_)
                | CallError::Violation(_)
                | CallError::Connect(_)
                | CallError::Draining { .. }
        )
    }

    /// What a RESET says.
    pub(crate) fn of_reset(reset: Reset, ran: Ran, sentence: String) -> CallError {
        match reset {
            Reset::Cancelled => CallError::Cancelled { ran, sentence },
            Reset::NoRoute => CallError::NoRoute(sentence),
            Reset::Refused => CallError::Refused(sentence),
            Reset::Died => CallError::Died { ran, sentence },
            Reset::Timeout => CallError::Timeout { ran, sentence },
            Reset::Malformed => CallError::Malformed { ran, sentence },
            Reset::Overloaded => CallError::Overloaded { ran, sentence },
            Reset::Draining => CallError::Draining { ran, sentence },
            Reset::Withdrawn => CallError::Withdrawn,
        }
    }
}

impl From<CallError> for io::Error {
    fn from(error: CallError) -> io::Error {
        let kind = match &error {
            CallError::BadRequest(_) | CallError::AnswerTooLong { .. } => io::ErrorKind::InvalidInput,
            CallError::NoRoute(_) => io::ErrorKind::NotFound,
            CallError::Refused(_) | CallError::Connect(_) => io::ErrorKind::ConnectionRefused,
            CallError::Timeout { .. } => io::ErrorKind::TimedOut,
            CallError::Malformed { .. } | CallError::Violation(_) => io::ErrorKind::InvalidData,
            CallError::NoLane { .. } | CallError::Overloaded { .. } => io::ErrorKind::QuotaExceeded,
            _ => io::ErrorKind::ConnectionReset,
        };
        io::Error::new(kind, error)
    }
}

/// Why no session could be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens on the session socket.
    #[error("no sidecar answers on {path}: {reason}")]
    Socket { path: String, kind: io::ErrorKind, reason: String },
    /// The sidecar speaks other versions of shm.
    #[error(
        "the sidecar speaks shm {theirs_min} to {theirs_max}, this shim {ours_min} to {ours_max}: update the older one"
    )]
    Version { ours_min: u16, ours_max: u16, theirs_min: u16, theirs_max: u16 },
    /// The sidecar refused the session.
    #[error("the sidecar refused the session ({code}): {sentence}")]
    Refused { code: u16, sentence: String },
    /// What came on the session socket was no shm.
    #[error("the session socket does not speak shm: {0}")]
    Handshake(#[from] HandshakeError),
    /// The sidecar closed the session before it began.
    #[error("the sidecar closed the session before WELCOME")]
    Closed,
    /// No answer came in time.
    #[error("the sidecar did not answer within {seconds} s")]
    Silent { seconds: u64 },
    /// WELCOME did not bring what it announced.
    #[error("WELCOME announced {announced} descriptors and brought {came}")]
    Descriptors { announced: usize, came: usize },
    /// The sidecar gave no lane of the kind that was asked for.
    #[error("the sidecar gave no lane")]
    NoLanes,
    /// A serving app cannot listen where it was told to.
    #[error("the app cannot listen on its own socket {path}: {reason}")]
    OwnSocket { path: String, reason: String },
    /// The segments could not be mapped.
    #[error("the shared memory could not be mapped: {0}")]
    Mapping(String),
}

impl ConnectError {
    /// Nobody was there, or nobody that answered: that may change by itself.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, ConnectError::Socket { .. } | ConnectError::Closed | ConnectError::Silent { .. })
    }

    /// The code of REFUSED, if it was that.
    pub fn refused(&self) -> Option<RefusedCode> {
        let ConnectError::Refused { code, .. } = self else { return None };
        [RefusedCode::Identity, RefusedCode::Limit, RefusedCode::NameTaken, RefusedCode::Malformed]
            .into_iter()
            .find(|known| *known as u16 == *code)
    }
}
