//! Lanes come and go: what a worker does when an app attaches, rings, breaks the rules, or is gone.

use shmesh_io::{Bell, Driver};
use shmesh_shm::{DirtyWatch, LaneEnd, Side};

use crate::attempt::Ended;
use crate::ingress::Breach;
use crate::lane::{Lane, User};
use crate::quota::Quota;
use crate::session::{Attached, NewLanes};
use crate::slab::Key;
use crate::token::Token;
use crate::worker::Worker;

impl<D: Driver> Worker<D> {
    /// An app attached: its lanes of this worker begin, asleep until they are rung for.
    pub(crate) fn attach(&mut self, mut new: NewLanes) {
        let now = self.driver.now();
        let watch = DirtyWatch::new(&new.to_proxy, &new.to_app, new.worker);
        let bell = match new
            .bell
            .try_clone()
            .and_then(|bell| self.driver.watch(bell, Token::Session(new.session).tag()))
        {
            Ok(bell) => bell,
            Err(error) => {
                tracing::error!(session = new.session, %error, "cannot watch a session's doorbell; the session is ended");
                self.shared.sessions.end(new.session);
                return;
            }
        };
        let mut by_bit = Vec::new();
        for lane in std::mem::take(&mut new.lanes) {
            let Some(ring) = lane.bell else { continue };
            let mut end = LaneEnd::new(Side::Sidecar, &new.to_proxy, &new.to_app, &new.geometry, lane.lane);
            // Nothing can have been published before WELCOME; from here on the app has to ring.
            let quiet = end.park(false);
            let made = Lane::new(end, &new, lane.lane, lane.serving, Bell::new(ring), now);
            let key = self.lanes.insert(Lane { hot: !quiet, ..made });
            if !quiet {
                self.hot.push(key);
            }
            if lane.serving {
                self.serving.insert(new.app.clone(), key);
            }
            let bit = lane.bit as usize;
            if by_bit.len() <= bit {
                by_bit.resize(bit + 1, None);
            }
            by_bit[bit] = Some(key);
        }
        self.sessions.insert(new.session, Attached { watch, bell, lanes: by_bit });
        self.session_rung(new.session);
    }

    /// The app rang: the lanes that it marked are looked at from now on.
    pub(crate) fn session_rung(&mut self, session: u64) {
        let now = self.driver.now();
        let Some(attached) = self.sessions.get_mut(&session) else { return };
        let mut bits = attached.watch.take();
        while bits != 0 {
            let bit = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            let Some(&Some(key)) = attached.lanes.get(bit) else { continue };
            let Some(lane) = self.lanes.get_mut(key) else { continue };
            lane.active = now;
            lane.end.tell();
            if lane.blocked && !lane.listed {
                lane.listed = true;
                self.dirty_lanes.push(key);
                self.idle.stirred = true;
            }
            if !lane.hot {
                lane.hot = true;
                lane.looked = self.stages.begin();
                lane.end.unpark();
                self.hot.push(key);
            }
        }
    }

    /// Announces sleep on every hot lane; false if one of them has something after all.
    pub(crate) fn park_lanes(&mut self) -> bool {
        let lanes = &mut self.lanes;
        let mut quiet = true;
        for &key in &self.hot {
            if let Some(lane) = lanes.get_mut(key) {
                quiet &= lane.end.park(lane.blocked);
            }
        }
        if !quiet {
            for &key in &self.hot {
                if let Some(lane) = lanes.get_mut(key) {
                    lane.end.unpark();
                }
            }
            return false;
        }
        // They stay parked until they ring: nobody looks at a cold lane.
        for key in self.hot.drain(..) {
            if let Some(lane) = lanes.get_mut(key) {
                lane.hot = false;
                lane.usage.rest();
            }
        }
        true
    }

    /// The app broke the page: its session ends, and touches no other.
    pub(crate) fn breach(&mut self, key: Key<Lane>, breach: Breach) {
        self.hot.retain(|&hot| hot != key);
        let Some(lane) = self.lanes.get_mut(key) else { return };
        let session = lane.session;
        tracing::warn!(session, app = ?lane.app, reason = %breach, "an app broke shm-v1; its session is ended");
        lane.hot = false;
        self.shared.registry.breached(breach.reason());
        self.detach(session);
        self.shared.sessions.end(session);
    }

    /// Something that an app wanted is over a quota. Counted each time, said once a session.
    pub(crate) fn over_quota(&mut self, key: Key<Lane>, quota: Quota) {
        self.shared.sessions.quotas.refused(quota);
        let Some(lane) = self.lanes.get(key) else { return };
        if lane.usage.session().tell() {
            tracing::warn!(session = lane.session, app = ?lane.app, limit = quota.name(), "an app is over a quota");
        }
    }

    /// The app is gone, or is to go: its calls end, its lanes are forgotten.
    pub(crate) fn detach(&mut self, session: u64) {
        let Some(attached) = self.sessions.remove(&session) else { return };
        self.driver.close(attached.bell);
        for key in attached.lanes.into_iter().flatten() {
            self.unlink_all(key);
            let Some(lane) = self.lanes.get_mut(key) else { continue };
            let serves = lane.serves.clone();
            let users: Vec<User> = lane.slots.iter().map(|slot| slot.user).collect();
            let waiting = std::mem::take(&mut lane.waiting);
            self.lanes.remove(key);
            if let Some(name) = &serves
                && self.serving.get(name) == Some(&key)
            {
                self.serving.remove(name);
            }
            for user in users {
                match user {
                    User::Call(call) if serves.is_some() => {
                        // The callee is gone: whoever called it is told. A call that it had not been handed goes elsewhere.
                        let forwarded = self.calls.get(call).is_some_and(|call| call.forwarded);
                        if let Some(state) = self.calls.get_mut(call) {
                            state.dest = None;
                        }
                        if forwarded {
                            let ended = Ended { reused_connection: false, unsent: false, response_started: false };
                            self.attempt_failed(call, ended);
                        } else {
                            self.dispatch(call);
                        }
                    }
                    User::Call(call) => self.cancel(call),
                    User::Stream(conn) => {
                        self.conn_ended(conn, Some(std::io::ErrorKind::ConnectionReset.into()));
                        self.drop_conn(conn);
                    }
                    User::Free | User::Partial | User::Relay(_) | User::Discard => {}
                }
            }
            for call in waiting {
                self.dispatch(call);
            }
        }
        self.hot.retain(|&key| self.lanes.get(key).is_some());
    }
}
