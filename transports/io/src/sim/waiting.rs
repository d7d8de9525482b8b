//! Waiting in a world: others run meanwhile, and somebody may ring.

use std::os::fd::{AsFd, BorrowedFd};

use super::driver::SimDriver;
use super::world::Pause;
use crate::driver::{Event, Wait};

impl SimDriver {
    /// Lets others run until something is there or the time has come.
    pub(super) fn wait(&mut self, wait: Wait, events: &mut Vec<Event>) {
        self.look_at_bells(events);
        if !self.rung.is_empty() {
            return;
        }
        let until = match wait {
            Wait::Until(time) if time > self.clock.now.get() => Some(time),
            Wait::Forever => None,
            _ => return,
        };
        let (early, spurious) = self.world.net(|net| {
            let faults = (net.faults.empty_poll_ppm, net.faults.spurious_ring_ppm);
            (net.chance(faults.0), net.chance(faults.1))
        });
        if spurious && self.bells.ids().len() > 0 {
            let at = self.world.net(|net| net.random.below(self.bells.ids().len() as u64)) as usize;
            self.rung.extend(self.bells.ids().nth(at));
            self.report_rung(events);
            return;
        }
        if early {
            return;
        }
        let (waker, with_bells): (_, Vec<BorrowedFd<'_>>);
        let fds = if self.bells.ids().len() == 0 {
            waker = [self.waker.as_fd()];
            &waker[..]
        } else {
            with_bells = std::iter::once(self.waker.as_fd()).chain(self.bells.fds()).collect();
            &with_bells
        };
        self.world.block(&Pause { world: &self.world, node: &self.node, until, fds });
        if self.has_due() {
            self.collect(events);
        }
        // The default blocker lets nobody else run.
        if self.world.has_own_blocker() {
            self.look_at_bells(events);
        }
    }

    pub(super) fn look_at_bells(&mut self, events: &mut Vec<Event>) {
        self.rung.clear();
        self.bells.look(&mut self.rung);
        self.report_rung(events);
    }

    fn report_rung(&mut self, events: &mut Vec<Event>) {
        for sock in &self.rung {
            if let Some(socket) = self.sockets.get(*sock) {
                events.push(Event::Rung { tag: socket.tag });
            }
        }
    }
}
