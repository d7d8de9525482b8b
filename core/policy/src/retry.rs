//! Whether a failed attempt is made once more.
//!
//! A keep-alive connection may be closed by its server at the very moment when a request is sent on it (RFC 9112
//! §9.3.1). That is nobody's failure, so the caller must not see it as one; but a request that may have run is
//! repeated only if that does no harm (RFC 9110 §9.2.2).
//!
//! | the answer began | attempts so far | request left | idempotent | all sent bytes kept | connection was | |
//! |---|---|---|---|---|---|---|
//! | yes | | | | | | no: the caller has seen part of it |
//! | | [`ATTEMPTS_MAX`] or more | | | | | no |
//! | | fewer | some or all | no | | | no: it may have run |
//! | | fewer | | | no | | no: it cannot be sent again |
//! | | fewer | no byte, or idempotent | | yes | reused | **again** |
//! | | fewer | no byte, or idempotent | | yes | fresh, and an endpoint is left | **elsewhere** |
//! | | fewer | | | | fresh, and none is left | no: the endpoint itself is sick |
//!
//! A call is idempotent if its route says so ([`crate::Route::idempotent`]), or, where the route says nothing, if it is HTTP and
//! its method is (RFC 9110 §9.2.2).
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
    /// There is an endpoint, or an address of one, that this call has not tried.
    pub endpoint_left: bool,
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
    /// Try once more, at an endpoint that was not tried.
    Elsewhere,
    /// Tell the caller.
    No,
}

impl Attempt {
    /// Looks the attempt up in the table of this module.
    pub fn decide(&self) -> Retry {
        let harmless = self.bytes_sent == 0 || self.idempotent;
        if self.response_started || self.attempts >= ATTEMPTS_MAX || !harmless || !self.replayable {
            Retry::No
        } else if self.reused_connection {
            Retry::Again
        } else if self.endpoint_left {
            Retry::Elsewhere
        } else {
            Retry::No
        }
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
        endpoint_left: true,
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
            ("fresh connection", Attempt { reused_connection: false, ..STALE }, Retry::Elsewhere),
            ("fresh, may have run", Attempt { reused_connection: false, idempotent: false, ..STALE }, Retry::No),
            ("fresh, body is gone", Attempt { reused_connection: false, replayable: false, ..STALE }, Retry::No),
            ("fresh, none left", Attempt { reused_connection: false, endpoint_left: false, ..STALE }, Retry::No),
            ("stale, none left", Attempt { endpoint_left: false, ..STALE }, Retry::Again),
            ("answer began", Attempt { response_started: true, ..STALE }, Retry::No),
            ("second attempt", Attempt { attempts: 2, ..STALE }, Retry::No),
        ];
        for (name, attempt, expected) in table {
            assert_eq!(attempt.decide(), expected, "{name}");
        }
    }
}
