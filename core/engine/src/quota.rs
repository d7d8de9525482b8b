//! Quotas: what apps may take of the sidecar, for each session, each uid, and all together.
//!
//! Lanes and bytes are taken when a session attaches and given back when the last that belongs to it is gone, its mappings
//! included. Calls are counted by
//! each lane for itself; a lane leases a few from its session's and uid's counts at a time, so that a call costs a compare.
//! Once one of these counts is half used, leases are exact.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};

use shmesh_policy::{Quotas, SessionSpec};

use crate::counters::lock;

/// Bytes of all sessions where no cgroup limits the memory: 2,000 lanes.
const BYTES_WITHOUT_LIMIT: u64 = 16 << 30;

/// Calls that a lane leases at a time while there are plenty.
const LEASE: u32 = 8;

/// A quota that was reached.
#[derive(Copy, Clone, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Quota {
    Sessions,
    Lanes,
    LanesPerUid,
    Bytes,
    BytesPerSession,
    BytesPerUid,
    CallsPerSession,
    CallsPerUid,
    RouteIdsPerSession,
    RouteIdsPerUid,
    KeyBytes,
}

impl Quota {
    /// Its key in the configuration, or the name of the constant; the label of the metric.
    pub fn name(self) -> &'static str {
        match self {
            Quota::Sessions => "session.sessions_max",
            Quota::Lanes => "session.lanes_max",
            Quota::LanesPerUid => "session.lanes_per_uid",
            Quota::Bytes => "session.bytes_max",
            Quota::BytesPerSession => "session.bytes_per_session",
            Quota::BytesPerUid => "session.bytes_per_uid",
            Quota::CallsPerSession => "session.calls_per_session",
            Quota::CallsPerUid => "session.calls_per_uid",
            Quota::RouteIdsPerSession => "session.route_ids_per_session",
            Quota::RouteIdsPerUid => "session.route_ids_per_uid",
            Quota::KeyBytes => "KEY_BYTES_MAX",
        }
    }

    /// What an app reads whose call is refused.
    pub fn sentence(self) -> &'static str {
        match self {
            Quota::CallsPerSession => "shmesh: session.calls_per_session is reached",
            Quota::CallsPerUid => "shmesh: session.calls_per_uid is reached",
            Quota::RouteIdsPerSession => {
                "shmesh: session.route_ids_per_session is reached; the route id is not defined"
            }
            Quota::RouteIdsPerUid => "shmesh: session.route_ids_per_uid is reached; the route id is not defined",
            Quota::Bytes => "shmesh: session.bytes_max is reached",
            Quota::BytesPerSession => "shmesh: session.bytes_per_session is reached",
            Quota::BytesPerUid => "shmesh: session.bytes_per_uid is reached",
            Quota::KeyBytes => "shmesh: KEY_BYTES_MAX of this lane is reached; the route id is not defined",
            _ => "shmesh: a quota of sessions is reached",
        }
    }

    /// A route id over this quota takes nothing: it counts when it is defined again.
    pub fn is_of_route_ids(self) -> bool {
        matches!(self, Quota::RouteIdsPerSession | Quota::RouteIdsPerUid)
    }
}

/// A quota, and its value.
pub type Reached = (Quota, u64);

/// What is in use, by whom.
#[derive(Default)]
pub struct QuotaDesk {
    all: Arc<Use>,
    uids: Mutex<HashMap<u32, Weak<Use>>>,
    /// Refusals by the name of the quota. Rare, so under a lock.
    refused: Mutex<BTreeMap<Quota, u64>>,
    /// The sidecar's memory that is for sessions unless the configuration says.
    bytes_default: AtomicU64,
}

/// What one session, one uid, or everybody uses.
#[derive(Default, Debug)]
struct Use {
    lanes: AtomicU64,
    bytes: AtomicU64,
    /// Calls that lanes have leased.
    calls: AtomicU64,
    route_ids: AtomicU64,
    /// More than half of the calls are leased: lanes keep none in reserve.
    tight: AtomicBool,
}

/// What a session uses. Given back when the session thread, all its lanes and its mappings are done with it.
#[derive(Debug)]
pub struct SessionUse {
    own: Use,
    uid: Arc<Use>,
    all: Arc<Use>,
    /// A refusal was logged; once a session is enough.
    told: AtomicBool,
}

impl QuotaDesk {
    /// Finds out how much memory sessions may have. To be called once, before the first session.
    pub fn size_up(&self) {
        let limit = shmesh_shm::cgroup::memory_limit();
        let bytes = limit.map_or(BYTES_WITHOUT_LIMIT, three_quarters);
        self.bytes_default.store(bytes, Relaxed);
        if let Some(limit) = limit {
            tracing::info!(
                bytes,
                limit,
                "sessions may have three quarters of the cgroup's memory, unless session.bytes_max says"
            );
        }
    }

    /// A session with so many lanes, whose two memory files have so many bytes together: takes its share, or says which quota
    /// is in the way.
    pub fn admit(&self, uid: u32, lanes: u64, bytes: u64, spec: &SessionSpec) -> Result<Arc<SessionUse>, Reached> {
        let quotas = &spec.quotas;
        let of_uid = self.uid(uid);
        let bytes_max = self.bytes_max(quotas);
        let rules = [
            (Quota::LanesPerUid, of_uid.lanes.load(Relaxed) + lanes, u64::from(quotas.lanes_per_uid)),
            (Quota::BytesPerSession, bytes, quotas.bytes_per_session),
            (Quota::BytesPerUid, of_uid.bytes.load(Relaxed) + bytes, quotas.bytes_per_uid.unwrap_or(bytes_max)),
            (Quota::Bytes, self.all.bytes.load(Relaxed) + bytes, bytes_max),
        ];
        // Of two that are reached the one that was set is the one to name: without a value of its own a uid has all bytes.
        let rules = rules.into_iter().filter(|rule| rule.0 != Quota::BytesPerUid || quotas.bytes_per_uid.is_some());
        for (quota, would_be, most) in rules {
            if would_be > most {
                return Err((quota, most));
            }
        }
        Ok(self.go_on(uid, lanes, bytes))
    }

    /// A session that is attached already goes on in this process, whatever the quotas are by now.
    pub fn go_on(&self, uid: u32, lanes: u64, bytes: u64) -> Arc<SessionUse> {
        let of_uid = self.uid(uid);
        let session =
            SessionUse { own: Use::default(), uid: of_uid, all: self.all.clone(), told: AtomicBool::new(false) };
        for place in session.places() {
            place.lanes.fetch_add(lanes, Relaxed);
            place.bytes.fetch_add(bytes, Relaxed);
        }
        Arc::new(session)
    }

    /// Counts a refusal.
    pub fn refused(&self, quota: Quota) {
        *lock(&self.refused).entry(quota).or_default() += 1;
    }

    /// Refusals by the name of the quota.
    pub fn refusals(&self) -> Vec<(&'static str, u64)> {
        lock(&self.refused).iter().map(|(quota, &count)| (quota.name(), count)).collect()
    }

    /// Bytes of all memory files now, and at most.
    pub fn bytes(&self, quotas: &Quotas) -> (u64, u64) {
        (self.all.bytes.load(Relaxed), self.bytes_max(quotas))
    }

    /// `session.bytes_max`.
    pub fn bytes_max(&self, quotas: &Quotas) -> u64 {
        quotas.bytes_max.unwrap_or_else(|| self.bytes_default.load(Relaxed))
    }

    fn uid(&self, uid: u32) -> Arc<Use> {
        let mut uids = lock(&self.uids);
        if let Some(known) = uids.get(&uid).and_then(Weak::upgrade) {
            return known;
        }
        uids.retain(|_, of_uid| of_uid.strong_count() > 0);
        let new = Arc::new(Use::default());
        uids.insert(uid, Arc::downgrade(&new));
        new
    }
}

impl SessionUse {
    /// True the first time.
    pub fn tell(&self) -> bool {
        !self.told.swap(true, Relaxed)
    }

    /// A route id is defined that was not.
    pub fn take_route_id(&self, quotas: &Quotas) -> Result<(), Quota> {
        take(&self.own.route_ids, 1, quotas.route_ids_per_session.into()).map_err(|()| Quota::RouteIdsPerSession)?;
        take(&self.uid.route_ids, 1, quotas.route_ids_per_uid.into()).map_err(|()| {
            self.own.route_ids.fetch_sub(1, Relaxed);
            Quota::RouteIdsPerUid
        })
    }

    fn take_bytes(&self, bytes: u64, quotas: &Quotas, bytes_max: u64) -> Result<(), Quota> {
        let rules = [
            (Quota::BytesPerSession, quotas.bytes_per_session),
            (Quota::BytesPerUid, quotas.bytes_per_uid.unwrap_or(u64::MAX)),
            (Quota::Bytes, bytes_max),
        ];
        for (index, (place, (quota, most))) in self.places().into_iter().zip(rules).enumerate() {
            if take(&place.bytes, bytes, most).is_err() {
                for place in &self.places()[..index] {
                    place.bytes.fetch_sub(bytes, Relaxed);
                }
                return Err(quota);
            }
        }
        Ok(())
    }

    fn take_calls(&self, calls: u32, quotas: &Quotas) -> Result<(), Quota> {
        let calls = u64::from(calls);
        take(&self.own.calls, calls, quotas.calls_per_session.into()).map_err(|()| Quota::CallsPerSession)?;
        take(&self.uid.calls, calls, quotas.calls_per_uid.into()).map_err(|()| {
            self.own.calls.fetch_sub(calls, Relaxed);
            Quota::CallsPerUid
        })
    }

    fn give_back_calls(&self, calls: u32) {
        self.own.calls.fetch_sub(u64::from(calls), Relaxed);
        self.uid.calls.fetch_sub(u64::from(calls), Relaxed);
    }

    fn is_tight(&self) -> bool {
        self.own.tight.load(Relaxed) || self.uid.tight.load(Relaxed)
    }

    /// Looks again whether there are plenty.
    fn weigh(&self, quotas: &Quotas) -> bool {
        for (place, most) in [(&self.own, quotas.calls_per_session), (&*self.uid, quotas.calls_per_uid)] {
            let tight = (place.calls.load(Relaxed) + u64::from(LEASE)) * 2 > u64::from(most);
            if tight != place.tight.load(Relaxed) {
                place.tight.store(tight, Relaxed);
            }
        }
        self.is_tight()
    }

    fn places(&self) -> [&Use; 3] {
        [&self.own, &self.uid, &self.all]
    }
}

impl Drop for SessionUse {
    fn drop(&mut self) {
        let (lanes, bytes) = (self.own.lanes.load(Relaxed), self.own.bytes.load(Relaxed));
        for place in self.places() {
            place.lanes.fetch_sub(lanes, Relaxed);
            place.bytes.fetch_sub(bytes, Relaxed);
        }
        self.uid.calls.fetch_sub(self.own.calls.load(Relaxed), Relaxed);
        self.uid.route_ids.fetch_sub(self.own.route_ids.load(Relaxed), Relaxed);
    }
}

/// Memory of the sidecar's own that holds what an app sent. It counts like the session's files until it is dropped.
pub struct Held {
    session: Arc<SessionUse>,
    bytes: u64,
}

impl Held {
    /// How much that is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Holds more. `bytes_max` is [`QuotaDesk::bytes_max`]. An error says which quota that is too much for; nothing was taken then.
    pub fn grow(&mut self, bytes: u64, quotas: &Quotas, bytes_max: u64) -> Result<(), Quota> {
        self.session.take_bytes(bytes, quotas, bytes_max)?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for place in self.session.places() {
            place.bytes.fetch_sub(self.bytes, Relaxed);
        }
    }
}

/// A lane's calls.
pub struct LaneUse {
    session: Arc<SessionUse>,
    /// Calls and streams in its slots, refused ones included until the app has ended them.
    calls: u32,
    /// Calls that it may have without asking.
    leased: u32,
}

impl LaneUse {
    pub fn new(session: Arc<SessionUse>) -> LaneUse {
        LaneUse { session, calls: 0, leased: 0 }
    }

    pub fn session(&self) -> &SessionUse {
        &self.session
    }

    /// Nothing yet of what its app sent.
    pub fn held(&self) -> Held {
        Held { session: self.session.clone(), bytes: 0 }
    }

    /// A slot is taken. An error says which quota that is too much for; the slot counts all the same until
    /// [`LaneUse::end_call`].
    #[inline]
    pub fn begin_call(&mut self, quotas: &Quotas) -> Result<(), Quota> {
        self.calls += 1;
        if self.calls <= self.leased { Ok(()) } else { self.lease(quotas) }
    }

    /// A slot is free again.
    #[inline(always)]
    pub fn end_call(&mut self) {
        self.calls -= 1;
        if self.session.is_tight() {
            self.rest();
        }
    }

    /// Gives back what is leased and not used: the lane will not be looked at for a while.
    pub fn rest(&mut self) {
        if self.leased > self.calls {
            self.session.give_back_calls(self.leased - self.calls);
            self.leased = self.calls;
        }
    }

    #[cold]
    fn lease(&mut self, quotas: &Quotas) -> Result<(), Quota> {
        let wanted = self.calls - self.leased;
        let more = if self.session.weigh(quotas) { wanted } else { wanted.max(LEASE) };
        let leased = self.session.take_calls(more, quotas);
        self.session.weigh(quotas);
        leased?;
        self.leased += more;
        Ok(())
    }
}

/// Adds unless that were more than `most`.
fn take(count: &AtomicU64, n: u64, most: u64) -> Result<(), ()> {
    let add = |used: u64| Some(used + n).filter(|&sum| sum <= most);
    count.fetch_update(Relaxed, Relaxed, add).map(drop).map_err(drop)
}

fn three_quarters(bytes: u64) -> u64 {
    bytes / 4 * 3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(change: impl FnOnce(&mut Quotas)) -> SessionSpec {
        let mut spec = SessionSpec::default();
        spec.quotas.bytes_max = Some(1000);
        change(&mut spec.quotas);
        spec
    }

    fn refusal(outcome: Result<Arc<SessionUse>, Reached>) -> Option<Reached> {
        outcome.err()
    }

    #[test]
    fn lanes_and_bytes_come_back_with_the_last_that_holds_them() {
        let (desk, spec) = (QuotaDesk::default(), spec(|quotas| quotas.lanes_per_uid = 10));
        let session = desk.admit(1, 6, 100, &spec).expect("room");
        assert_eq!(refusal(desk.admit(1, 5, 100, &spec)), Some((Quota::LanesPerUid, 10)));
        let other = desk.admit(2, 5, 100, &spec).expect("another uid");
        let lane = LaneUse::new(session.clone());
        drop(session);
        assert!(desk.admit(1, 5, 100, &spec).is_err(), "a lane is still there");
        drop(lane);
        assert!(desk.admit(1, 10, 100, &spec).is_ok());
        drop(other);
        assert_eq!(desk.bytes(&spec.quotas), (0, 1000));
        assert_eq!(lock(&desk.uids).len(), 2);
        drop(desk.admit(3, 1, 1, &spec));
        assert_eq!(lock(&desk.uids).len(), 1, "uids that are gone are forgotten");
    }

    #[test]
    fn each_quota_of_bytes_is_named() {
        let desk = QuotaDesk::default();
        assert_eq!(refusal(desk.admit(1, 1, 1001, &spec(|_| ()))), Some((Quota::Bytes, 1000)));
        let of_session = spec(|quotas| quotas.bytes_per_session = 300);
        assert_eq!(refusal(desk.admit(1, 1, 301, &of_session)), Some((Quota::BytesPerSession, 300)));
        let of_uid = spec(|quotas| quotas.bytes_per_uid = Some(500));
        let _held = desk.admit(1, 1, 300, &of_uid).expect("room");
        assert_eq!(refusal(desk.admit(1, 1, 300, &of_uid)), Some((Quota::BytesPerUid, 500)));
        let _other = desk.admit(2, 1, 500, &of_uid).expect("room");
        assert_eq!(refusal(desk.admit(3, 1, 300, &of_uid)), Some((Quota::Bytes, 1000)));
    }

    #[test]
    fn what_is_held_counts_until_it_is_dropped() {
        let (desk, spec) = (QuotaDesk::default(), spec(|quotas| quotas.bytes_per_session = 300));
        let session = desk.admit(1, 1, 100, &spec).expect("room");
        let other = desk.admit(1, 1, 300, &spec).expect("room");
        let (mut first, mut second) = (LaneUse::new(session.clone()).held(), LaneUse::new(session).held());
        first.grow(150, &spec.quotas, 1000).expect("room");
        assert_eq!(second.grow(60, &spec.quotas, 1000), Err(Quota::BytesPerSession));
        assert_eq!(second.grow(40, &spec.quotas, 580), Err(Quota::Bytes));
        second.grow(40, &spec.quotas, 1000).expect("what was refused took nothing");
        assert_eq!(desk.all.bytes.load(Relaxed), 590);
        drop(first);
        assert_eq!(desk.all.bytes.load(Relaxed), 440);
        drop((second, other));
        assert_eq!(desk.all.bytes.load(Relaxed), 0);
    }

    #[test]
    fn never_more_calls_than_a_session_may_have() {
        let desk = QuotaDesk::default();
        for most in [1, 7, 20, 100] {
            let spec = spec(|quotas| quotas.calls_per_session = most);
            let session = desk.admit(1, 4, 1, &spec).expect("room");
            let mut lanes: Vec<LaneUse> = (0..4).map(|_| LaneUse::new(session.clone())).collect();
            for _ in 0..3 {
                let (mut open, mut refused) = (0, 0);
                for turn in 0..200 {
                    match lanes[turn % 4].begin_call(&spec.quotas) {
                        Ok(()) => open += 1,
                        Err(quota) => {
                            assert_eq!(quota, Quota::CallsPerSession);
                            refused += 1;
                        }
                    }
                }
                // At most a reserve of one lease may be left on each other lane, and only below half.
                assert!(open <= most && open + 3 * LEASE >= most.min(200), "{open} of {most}");
                assert_eq!(open + refused, 200);
                for turn in 0..200 {
                    lanes[turn % 4].end_call();
                }
                lanes.iter_mut().for_each(LaneUse::rest);
                assert_eq!(session.own.calls.load(Relaxed), 0);
            }
        }
    }

    #[test]
    fn one_lane_can_have_all_calls_when_the_others_rest() {
        let (desk, spec) = (QuotaDesk::default(), spec(|quotas| quotas.calls_per_session = 40));
        let session = desk.admit(1, 2, 1, &spec).expect("room");
        let (mut busy, mut idle) = (LaneUse::new(session.clone()), LaneUse::new(session));
        idle.begin_call(&spec.quotas).expect("plenty");
        idle.end_call();
        idle.rest();
        for _ in 0..40 {
            busy.begin_call(&spec.quotas).expect("nobody else has one");
        }
        assert_eq!(idle.begin_call(&spec.quotas), Err(Quota::CallsPerSession));
        busy.end_call();
        idle.end_call();
        assert_eq!(idle.begin_call(&spec.quotas), Ok(()), "while it is tight, each one comes back at once");
    }

    #[test]
    fn sessions_of_one_uid_share_its_calls_and_route_ids() {
        let desk = QuotaDesk::default();
        let spec = spec(|quotas| {
            quotas.calls_per_uid = 3;
            quotas.route_ids_per_uid = 2;
        });
        let (first, second) = (desk.admit(1, 1, 1, &spec).expect("room"), desk.admit(1, 1, 1, &spec).expect("room"));
        let (mut a, mut b) = (LaneUse::new(first.clone()), LaneUse::new(second.clone()));
        a.begin_call(&spec.quotas).expect("one");
        a.begin_call(&spec.quotas).expect("two");
        b.begin_call(&spec.quotas).expect("three");
        assert_eq!(b.begin_call(&spec.quotas), Err(Quota::CallsPerUid));
        first.take_route_id(&spec.quotas).expect("one");
        second.take_route_id(&spec.quotas).expect("two");
        assert_eq!(second.take_route_id(&spec.quotas), Err(Quota::RouteIdsPerUid));
        drop((first, a));
        assert_eq!(second.take_route_id(&spec.quotas), Ok(()), "a session that is gone has none");
        b.end_call();
        b.begin_call(&spec.quotas).expect("nor calls");
    }
}
