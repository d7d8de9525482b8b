//! What the simulated network is like: its links, and what goes wrong on them.

use crate::driver::Nanos;

/// Certainty, in the unit of all probabilities here: parts per million.
pub const PPM: u32 = 1_000_000;

/// One direction of a connection, each drawn anew from these ranges when a connection is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Shortest and longest way of a segment, in nanoseconds. Segments never overtake each other.
    pub latency: (Nanos, Nanos),
    /// Least and greatest number of bytes that may be between a sender and the reader: buffers of both and in flight.
    pub window: (usize, usize),
    /// The longest segment in bytes.
    pub segment_max: usize,
    /// How often a send is cut into segments at arbitrary places.
    pub cut_ppm: u32,
    /// Connections that wait to be accepted; more are refused an answer (TCP asks again after a second).
    pub backlog: usize,
}

impl Link {
    /// A TCP connection inside one machine.
    pub fn tcp() -> Self {
        Self {
            latency: (5_000, 40_000),
            window: (64 << 10, 1 << 20),
            segment_max: 65_483,
            cut_ppm: 50_000,
            backlog: 128,
        }
    }

    /// A Unix stream socket: nothing is ever in flight.
    pub fn unix() -> Self {
        Self { latency: (0, 0), window: (208 << 10, 208 << 10), segment_max: 32 << 10, cut_ppm: 0, backlog: 128 }
    }
}

/// How often things go wrong. Nothing does by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A connect over TCP that is refused although somebody listens.
    pub connect_refused_ppm: u32,
    /// A connect over TCP that never completes.
    pub connect_lost_ppm: u32,
    /// A connection that is reset, for both sides, at some time within [`within`](Self::within).
    pub reset_ppm: u32,
    /// A connection whose two sides never hear of each other again, from some time within [`within`](Self::within).
    pub silence_ppm: u32,
    /// When a connection's reset or silence strikes: at the latest so long after it was made, in nanoseconds.
    pub within: Nanos,
    /// A segment that comes late.
    pub delay_ppm: u32,
    /// How much later, at most, in nanoseconds.
    pub delay_max: Nanos,
    /// A send that fails, with its connection.
    pub send_error_ppm: u32,
    /// An accept that finds the process out of descriptors: the listener pauses.
    pub accept_pause_ppm: u32,
    /// A `poll` that could have waited, and returns at once with nothing.
    pub empty_poll_ppm: u32,
    /// A `poll` that reports a ring that nobody rang.
    pub spurious_ring_ppm: u32,
    /// Bytes that were there and are reported only by a later `poll`.
    pub late_report_ppm: u32,
}
