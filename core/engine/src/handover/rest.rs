//! A worker comes to rest, and goes on.

use std::io;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Duration;

use shmesh_io::{Driver, Nanos, Wait};

use super::{Handover, Known, Over, RestOrder};
use crate::conn::{Conn, HttpUp, Role};
use crate::counters::lock;
use crate::slab::Key;
use crate::worker::Worker;

/// How long a worker may take to come to rest.
const REST_WITHIN: Nanos = 200_000_000;

/// How often it looks meanwhile.
const LOOK_EVERY: Nanos = 200_000;

/// How often it looks for apps that ask for a sign of life while it rests; theirs is `ClientBuilder::hang_timeout`.
const TELL_EVERY: Duration = Duration::from_millis(10);

impl<D: Driver> Worker<D> {
    /// Rests, says what it knows, and does nothing until it is known whether another process goes on with that.
    pub(crate) fn rest(&mut self, order: &RestOrder<Handover>, known: &Known) -> io::Result<()> {
        if !self.come_to_rest()? {
            let _ = order.rested.send(Ok(None));
            return Ok(());
        }
        let mut waits = order.rested.send(self.give(known).map(Some)).is_ok();
        while waits {
            match order.outcome.recv_timeout(TELL_EVERY) {
                // All this is another process's now, which must not see any of it dropped.
                Ok(Over) => loop {
                    thread::park();
                },
                Err(RecvTimeoutError::Timeout) => {
                    let held = lock(&order.held);
                    if !*held {
                        self.tell_all();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => waits = false,
            }
        }
        self.go_on();
        Ok(())
    }

    /// Gives the signs of life that apps ask for while it rests: it is not dead.
    fn tell_all(&mut self) {
        for key in self.lanes.keys() {
            if let Some(lane) = self.lanes.get_mut(key) {
                lane.end.tell();
            }
        }
    }

    /// Stops in the middle of everything: no record is taken any more, and the kernel has nothing to do for any connection. What was taken
    /// before goes as far as it does by itself. False: it did not come to rest in time, and goes on working.
    pub(crate) fn come_to_rest(&mut self) -> io::Result<bool> {
        for key in self.lanes.keys() {
            self.unlink_all(key);
        }
        self.driver.suspend();
        self.resting = true;
        let late = self.driver.refresh_clock() + REST_WITHIN;
        let mut moved = true;
        loop {
            if moved {
                self.take_landings_back();
            }
            let until = self.driver.refresh_clock() + LOOK_EVERY;
            moved = self.drive(Wait::Until(until))?;
            self.end_of_turn();
            if self.driver.is_at_rest() && self.has_nothing_to_do() && !self.end_broken() {
                return Ok(true);
            }
            if self.driver.now() > late {
                self.go_on();
                return Ok(false);
            }
        }
    }

    /// Works again, as if it had never rested.
    pub(crate) fn go_on(&mut self) {
        self.resting = false;
        self.driver.resume();
        for key in std::mem::take(&mut self.landings_stopped) {
            self.start_recv(key);
        }
        // Records came meanwhile, without a ring or with one that nobody heard.
        for key in self.lanes.keys() {
            self.warm(key);
        }
    }

    /// Ends the sessions of apps that broke the page and were not found out so far. True: there were some.
    fn end_broken(&mut self) -> bool {
        let mut found = false;
        for key in self.lanes.keys() {
            let violation = self.lanes.get_mut(key).and_then(|lane| lane.end.violation_at_rest());
            if let Some(violation) = violation {
                found = true;
                self.breach(key, violation.into());
            }
        }
        found
    }

    fn has_nothing_to_do(&self) -> bool {
        let lists = self.ready.len() + self.dirty_conns.len() + self.dirty_lanes.len() + self.deferred.len();
        lists + self.revisit.len() == 0 && !self.has_returns()
    }

    /// Blocks into which nothing was received yet go back to their lanes.
    fn take_landings_back(&mut self) {
        if self.landings == 0 {
            return;
        }
        let lands = |key: &Key<Conn>| {
            matches!(self.conns.get(*key), Some(Conn { role: Role::HttpUp(HttpUp { landing: Some(_), .. }), .. }))
        };
        let landing: Vec<_> = self.conns.keys().into_iter().filter(lands).collect();
        for key in landing {
            self.stop_recv(key);
            self.landings_stopped.push(key);
        }
    }

    /// The lane is looked at from now on.
    pub(super) fn warm(&mut self, key: Key<crate::lane::Lane>) {
        let now = self.driver.now();
        let Some(lane) = self.lanes.get_mut(key) else { return };
        lane.active = now;
        if !lane.hot {
            lane.hot = true;
            lane.end.unpark();
            self.hot.push(key);
        }
    }
}
