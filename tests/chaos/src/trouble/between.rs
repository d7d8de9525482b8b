//! A sidecar is stopped exactly when it has taken calls and not forwarded them, and goes on when the shim has left it.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::World;
use crate::app;
use crate::calls::{Called, Outcome};
use crate::own;
use crate::service::At;
use crate::verdict::{Span, Verdict};

/// The sidecar waits for connections for longer than this takes.
pub const KEYS: &str = "connect_timeout: 10m, first_byte_timeout: 10m";

/// Calls at once.
const CALLS: usize = 8;

/// A bound that is not reached.
const PATIENCE: Duration = Duration::from_secs(120);

/// A sidecar that goes on could forward for so long what it must not.
const AFTERMATH: Duration = Duration::from_millis(150);

/// What was found in all rounds.
#[derive(Default)]
pub struct Found {
    /// Calls that were taken and not forwarded when it was stopped.
    taken: usize,
    /// Calls that it forwarded when it went on.
    forwarded: usize,
    /// Calls that were answered without it.
    round_it: usize,
    calls: usize,
}

impl World {
    /// It cannot forward a call as long as the service answers no SYN.
    pub fn stop_between(&mut self, verdict: &mut Verdict, found: &mut Found) {
        let At::Tcp(address) = *self.services[0].at() else { panic!("a service without SYN") };
        let from = Instant::now();
        let client = self.client(super::Trouble::Between);
        self.settle(&client);
        self.services[0].die();
        // The sidecar has none to it that it could use.
        until(|| own::connections(address) == 0);
        let silent = self.services[0].listen_silently();
        let calls: Vec<Called> = thread::scope(|scope| {
            let callers: Vec<_> = (0..CALLS).map(|_| scope.spawn(|| app::call(&client))).collect();
            until(|| own::unanswered_syns(address) >= CALLS);
            self.sidecar.signal(Signal::SIGSTOP);
            found.taken += own::unanswered_syns(address);
            self.services[0].end_silence(silent);
            callers.into_iter().map(|caller| caller.join().expect("a caller panicked")).collect()
        });
        // Its connections are there when it goes on, so that nothing but the withdrawal keeps it from forwarding.
        until(|| own::unanswered_syns(address) == 0);
        self.sidecar.signal(Signal::SIGCONT);
        thread::sleep(AFTERMATH);
        // It is well: calls go through it.
        self.settle(&client);
        for called in &calls {
            let runs = self.record.runs(called.call);
            found.forwarded += runs.through_sidecar as usize;
            found.round_it += usize::from(matches!(called.outcome, Outcome::Answered) && runs.direct == 1);
        }
        found.calls += calls.len();
        let now = Instant::now();
        verdict.judge(&calls, &self.record, Span { from, began: from, evaded: now, over: now }, &self.stood());
    }
}

impl Found {
    pub fn judge(&self, verdict: &mut Verdict) {
        let Found { taken, forwarded, round_it, calls } = *self;
        let all = calls.to_string();
        verdict.row(
            "calls that it had taken and not forwarded when it was stopped",
            taken,
            &format!("≥ {all}"),
            taken >= calls,
        );
        verdict.row("calls that it forwarded when it went on", forwarded, "0", forwarded == 0);
        verdict.row("calls that ran once, without it, and were answered", round_it, &all, round_it == calls);
    }
}

fn until(is_so: impl Fn() -> bool) {
    let late = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < late, "the connections do not get to where they should");
        thread::sleep(Duration::from_millis(1));
    }
}
