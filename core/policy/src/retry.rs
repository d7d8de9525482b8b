//! Whether a failed attempt is made once more.
//!
//! A keep-alive connection may be closed by its server at the very moment when a request is sent on it (RFC 9112
//! §9.3.1). That is nobody's failure, so the caller must not see it as one; but a request that may have run is
//! repeated only if that does no harm (RFC 9110 §9.2.2).
//!
//! | the answer began | connection was | request left | idempotent | all sent bytes kept | attempts so far | |
//! |---|---|---|---|---|---|---|
//! | yes | | | | | | no: the caller has seen part of it |
//! | | | | | | [`ATTEMPTS_MAX`] or more | no |
//! | | fresh | | | | | no: the endpoint itself is sick |
//! | | reused | no byte of it | | yes | fewer | **again** |
//! | | reused | some or all | yes | yes | fewer | **again** |
//! | | reused | some or all | yes | no | | no: it cannot be sent again |
//! | | reused | some or all | no | | | no: it may have run |
//!
//! An endpoint that refuses a connection is another matter: no request was sent, and the next endpoint is asked
//! ([`crate::balance::Tries`]). Timeouts are never retried: the time that the caller gave is spent.

/// How often one request is sent at most.
pub const ATTEMPTS_MAX: u32 = 2;

/// An attempt whose upstream connection was closed before the answer was complete.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Sending the request twice does no harm: by its method, or by its route's policy.
    pub idempotent: bool,
    /// Bytes of the request that were handed to the kernel, or published to a ring.
    pub bytes_sent: u64,
    /// Whatever was sent of the request is still held, so that it can be sent again from its first byte.
    pub replayable: bool,
    /// The connection had carried another call before.
    pub reused_connection: bool,
    /// A byte of the answer came in.
    pub response_started: bool,
    /// How often the request was tried, this attempt included.
    pub attempts: u32,
}

/// The decision about an [`Attempt`].
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Try once more, on a fresh connection.
    Again,
    /// Tell the caller.
    No,
}

impl Attempt {
    /// Looks the attempt up in the table of this module.
    pub fn decide(&self) -> Retry {
        if self.response_started || self.attempts >= ATTEMPTS_MAX || !self.reused_connection {
            return Retry::No;
        }
        let harmless = self.bytes_sent == 0 || self.idempotent;
        if harmless && self.replayable { Retry::Again } else { Retry::No }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALE: Attempt = Attempt {
        idempotent: true,
        bytes_sent: 100,
        replayable: true,
        reused_connection: true,
        response_started: false,
        attempts: 1,
    };

    #[test]
    fn the_table_holds() {
        let table = [
            ("idempotent on a stale connection", STALE, Retry::Again),
            ("unsent, not idempotent", Attempt { idempotent: false, bytes_sent: 0, ..STALE }, Retry::Again),
            ("may have run", Attempt { idempotent: false, ..STALE }, Retry::No),
            ("body is gone", Attempt { replayable: false, ..STALE }, Retry::No),
            ("unsent, but given away", Attempt { replayable: false, bytes_sent: 0, ..STALE }, Retry::No),
            ("fresh connection", Attempt { reused_connection: false, ..STALE }, Retry::No),
            ("fresh, unsent", Attempt { reused_connection: false, bytes_sent: 0, ..STALE }, Retry::No),
            ("answer began", Attempt { response_started: true, ..STALE }, Retry::No),
            ("second attempt", Attempt { attempts: 2, ..STALE }, Retry::No),
        ];
        for (name, attempt, expected) in table {
            assert_eq!(attempt.decide(), expected, "{name}");
        }
    }
}
