//! Timeouts and limits: each has a name, a unit, a default and a reason.

use std::time::Duration;

/// How long things may take.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Making a connection to an endpoint. 1 s: one lost SYN is repeated after 1 s, so what takes longer is lost or
    /// overloaded, and the next endpoint is the better choice.
    pub connect: Duration,
    /// From the end of a request's head to the first byte of its answer. 15 s: longer than calls that people wait
    /// for, as in Envoy's route timeout.
    pub first_byte: Duration,
    /// From a request's head to the last byte of its answer, attempts and all; `None`: as long as bytes move. None, as a
    /// download takes the time that it takes; what does not move is bounded by `first_byte` and `idle`.
    pub request: Option<Duration>,
    /// A connection without a byte in either direction: a keep-alive connection between requests, or a stalled body.
    /// 60 s: the heartbeat interval of Dubbo.
    pub idle: Duration,
    /// What was sent over HTTP or Dubbo may stay unacknowledged by an endpoint's kernel, and a connection to an endpoint be silent before that is
    /// asked whether it is there; `None`: as the system has it (15 minutes, and never). 60 s, as `idle`: so no call is lost that `idle` would not
    /// have ended.
    pub unacknowledged: Option<Duration>,
    /// From the first byte of a request's head to its last. 10 s: a head fits in a few packets; slower is an attack.
    pub head_read: Duration,
    /// From SIGTERM until calls that are still in flight are cut. 30 s: the grace period of Kubernetes.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(1),
            first_byte: Duration::from_secs(15),
            request: None,
            idle: Duration::from_secs(60),
            unacknowledged: Some(Duration::from_secs(60)),
            head_read: Duration::from_secs(10),
            drain: Duration::from_secs(30),
        }
    }
}

/// Who is short of memory stays so until this percentage of its limit less is used. 2: more than calls that come and go make of a
/// difference, and little, as what apps have touched does not shrink while they are there.
const SHORT_OF_MEMORY_PERCENT: u32 = 2;

/// How much of everything there may be.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of an HTTP head with its start line. 64 KiB: cookies and tokens fit; answered with 431 beyond (RFC 6585
    /// §5).
    pub head_bytes: u32,
    /// Bytes of an HTTP request line. 8 KiB: what RFC 9112 §3 asks for at least; answered with 414 beyond.
    pub start_line_bytes: u32,
    /// Header fields of an HTTP head. 128: real heads have under 50; answered with 431 beyond.
    pub headers: u16,
    /// Bytes of a Dubbo body. 8 MiB: the default payload limit of Dubbo Java; answered with status 40 beyond.
    pub dubbo_body_bytes: u32,
    /// Downstream connections of one worker. 16,384: a descriptor and its upstream one each, below the usual hard
    /// limit of descriptors with four workers; not accepted beyond.
    pub connections_per_worker: u32,
    /// Idle upstream connections that a worker keeps for one cluster. 256: more than a worker can have busy at 64
    /// in flight with bursts; closed at once beyond.
    pub pool_idle_per_cluster: u32,
    /// Dubbo calls that wait on one upstream connection, and calls that wait on one downstream connection. 1,024:
    /// a bound of the id table; answered with status 80 beyond.
    pub calls_per_connection: u32,
    /// Streams that are open on one lane. 256: each may hold a connection and its credit.
    pub streams_per_lane: u32,
    /// Bytes that wait on one connection because the other side is slow; reading stops beyond. 256 KiB: the
    /// bandwidth of 1 Gbit/s at 2 ms.
    pub buffered_bytes_per_connection: u32,
    /// Percentage of the memory of the sidecar's cgroup that may be used; 0: all of it. 95: what is under way may grow yet. New
    /// calls and sessions are refused beyond.
    pub memory_percent: u32,
}

impl Limits {
    /// Bytes in use, out of `limit`, from which on nothing new is taken; somewhat less where that is so already, so that it does
    /// not begin and end all the time. `None`: there is no such bound.
    pub fn memory_bound(&self, limit: u64, is_short: bool) -> Option<u64> {
        let percent = |part: u32| (u128::from(limit) * u128::from(part) / 100) as u64;
        let bound = percent(self.memory_percent);
        let less = percent(SHORT_OF_MEMORY_PERCENT).min(bound / 2);
        (self.memory_percent > 0).then_some(if is_short { bound - less } else { bound })
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head_bytes: 64 * 1024,
            start_line_bytes: 8 * 1024,
            headers: 128,
            dubbo_body_bytes: 8 * 1024 * 1024,
            connections_per_worker: 16_384,
            pool_idle_per_cluster: 256,
            calls_per_connection: 1_024,
            streams_per_lane: 256,
            buffered_bytes_per_connection: 256 * 1024,
            memory_percent: 95,
        }
    }
}

/// What apps that attach may take of their sidecar: one session, all sessions of one uid, or all there are. Whoever asks for
/// more is refused with the name of the quota.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Lanes of all sessions of one uid. 2,048: a thousand threads with room to spare.
    pub lanes_per_uid: u32,
    /// Bytes of the memory files of all sessions: both count in full when they are made, because an app can have every page
    /// of them touched. `None`: three quarters of the memory limit of the sidecar's cgroup; 16 GiB, the size of
    /// 2,000 lanes, where there is none.
    pub bytes_max: Option<u64>,
    /// The same of one session. 2 GiB: as many lanes as a session can have.
    pub bytes_per_session: u64,
    /// The same of one uid. `None`: as much as all together.
    pub bytes_per_uid: Option<u64>,
    /// Calls and streams that one session has open. 4,096: the slots of 64 lanes.
    pub calls_per_session: u32,
    /// The same of one uid. 65,536: 16 sessions of that size; at a few KiB each what a sidecar can hold.
    pub calls_per_uid: u32,
    /// Route ids that one session has defined, over all its lanes. 16,384: 256 keys on each of 64 lanes.
    pub route_ids_per_session: u32,
    /// The same of one uid. 131,072: 64 keys on each of 2,048 lanes.
    pub route_ids_per_uid: u32,
}

impl Default for Quotas {
    fn default() -> Self {
        Quotas {
            lanes_per_uid: 2_048,
            bytes_max: None,
            bytes_per_session: 2 << 30,
            bytes_per_uid: None,
            calls_per_session: 4_096,
            calls_per_uid: 65_536,
            route_ids_per_session: 16_384,
            route_ids_per_uid: 131_072,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_of_memory_stays_so_until_some_is_free_again() {
        let limits = |memory_percent| Limits { memory_percent, ..Limits::default() };
        assert_eq!(limits(50).memory_bound(2000, false), Some(1000));
        assert_eq!(limits(50).memory_bound(2000, true), Some(960));
        assert_eq!(limits(95).memory_bound(2000, true), Some(1860));
        assert_eq!(limits(1).memory_bound(2000, true), Some(10), "never nothing");
        assert_eq!(limits(100).memory_bound(u64::MAX, false), Some(u64::MAX));
        assert_eq!(limits(0).memory_bound(2000, false), None);
    }
}
