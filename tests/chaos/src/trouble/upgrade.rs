//! Another process takes over from the sidecar, with all connections, or breaks while it does so.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{Trouble, World};
use crate::Options;
use crate::app::Callers;
use crate::busy_lanes::BusyLanes;
use crate::calls::{Called, Way};
use crate::http;
use crate::kept::Kept;
use crate::stalls::Stood;
use crate::times::{Goal, Times};
use crate::verdict::{Span, Verdict};

/// Sessions, and lanes of each, that have a call in flight in each upgrade.
const SESSIONS: u16 = 2;
const LANES: u16 = 50;

/// The old process is gone after this, with the time that the new one takes to start.
const REPLACED_WITHIN: Duration = Duration::from_secs(120);

/// The longest pause of a caller in an upgrade.
const PAUSE: [Goal; 1] = [(0.999, Duration::from_millis(5))];

/// Callers go on for so long around each upgrade: what connections begin and end in the same round is done by then.
const AROUND_MS: u64 = 60;

/// The longest time that a new process is left alone before it is broken: it has started and taken over by then, on a machine that does
/// nothing else.
const BREAKS_MS: u64 = 60;

/// One that says nothing is given up by the old process before this, and so is one that hangs.
const SAYS_NOTHING: Duration = Duration::from_millis(1_200);
const HANGS: Duration = Duration::from_millis(2_500);

/// When the process was another one.
struct Window {
    began: Instant,
    over: Instant,
}

impl Window {
    /// As much time in which nothing happens.
    fn again(&self) -> Window {
        let began = Instant::now();
        thread::sleep(self.over - self.began);
        Window { began, over: Instant::now() }
    }
}

impl World {
    pub fn upgrades(&mut self, options: &Options, verdict: &mut Verdict) {
        // The first one by itself: what it leaves is what is kept for the next ones.
        let mut given_up = u64::from(self.upgrade().is_none());
        let (files, before) = self.rest(None);
        let client = self.client(Trouble::Upgrade);
        let mut lanes = BusyLanes::new(&self.setup, SESSIONS, LANES);
        let mut kept = Kept::new(&self.setup, options.connections, options.seed);
        self.settle(&client);
        let (shim, sockets) = (Callers::start(&client), Callers::over_sockets(&self.setup));
        let gate = self.services[0].gate().clone();
        let (mut windows, mut still) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            gate.close();
            kept.begin(&self.setup);
            lanes.begin();
            thread::sleep(Duration::from_millis(AROUND_MS + self.random.below(AROUND_MS)));
            match self.upgrade() {
                Some(window) => windows.push(window),
                None => given_up += 1,
            }
            thread::sleep(Duration::from_millis(AROUND_MS));
            still.extend(windows.last().map(Window::again));
            thread::sleep(Duration::from_millis(AROUND_MS));
            gate.open();
            kept.end(&self.setup);
            lanes.end();
        }
        let mut calls = shim.finish();
        calls.extend(sockets.finish());
        let now = Instant::now();
        let never = Span { from: now, began: now, evaded: now, over: now };
        let stood = self.stood();
        calls.iter().for_each(|caller| verdict.judge(caller, &self.record, never, &stood));
        verdict.row("upgrades", windows.len(), "≥ 1", !windows.is_empty());
        // Where others are busy something may take longer than its bound; then the old process goes on.
        let most = if options.busy { u64::from(options.rounds).div_ceil(2) } else { 0 };
        let (must, holds) = (format!("≤ {most}"), given_up <= most);
        verdict.row("upgrades that were given up", given_up, &must, holds);
        let failed: usize = calls.iter().flatten().filter(|called| !called.is_answered()).count();
        verdict.row("failed calls", failed, "0", failed == 0);
        let what = format!("connections that ended, of {}", options.connections);
        verdict.row(&what, kept.closed, "0", kept.closed == 0);
        let reconnects = calls.iter().flatten().filter(|called| called.reconnected).count();
        verdict.row("connections of callers that ended", reconnects, "0", reconnects == 0);
        let what = format!("failed calls over {} lanes", SESSIONS * LANES);
        verdict.row(&what, lanes.failed, "0", lanes.failed == 0);
        for first in [&kept.first, &lanes.first].into_iter().flatten() {
            verdict.note(first.clone());
        }
        let (met, without) = (Pauses::of(&calls, &windows, &stood), Pauses::of(&calls, &still, &stood));
        met.judge(&without, options, verdict);
        let longest = windows.iter().map(|window| window.over - window.began).max().unwrap_or_default();
        verdict.row(
            "longest time from the new process's start to the old one's end",
            format!("{longest:.1?}"),
            "",
            true,
        );
        drop((client, lanes, kept));
        let (files_after, after) = self.rest(Some(before));
        verdict.left_behind("files beside the session socket", files_after - files, 0);
        after.compare(before, "the sidecar", verdict);
    }

    /// None: the old process goes on, or did not end as it should and was killed. There is one that serves all the same.
    fn upgrade(&mut self) -> Option<Window> {
        let began = Instant::now();
        let mut next = self.setup.launch(&["--upgrade"]);
        let late = began + REPLACED_WITHIN;
        let code = loop {
            if let Some(code) = self.replaced(Duration::ZERO) {
                break code;
            }
            // It gave up, and the old one goes on, with everything.
            if next.ended().is_some() {
                return None;
            }
            if Instant::now() > late {
                self.sidecar.end();
                break -1;
            }
            thread::sleep(Duration::from_micros(200));
        };
        let over = Instant::now();
        self.sidecar = next;
        if self.sidecar.ended().is_some() {
            self.sidecar = self.setup.start();
            return None;
        }
        (code == 0).then_some(Window { began, over })
    }

    /// With which code the old process has ended; none: it has not.
    fn replaced(&mut self, within: Duration) -> Option<i32> {
        let late = Instant::now() + within;
        loop {
            if let Some(status) = self.sidecar.ended() {
                return Some(status.code().unwrap_or(-1));
            }
            if Instant::now() > late {
                return None;
            }
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// The longest call of each caller in each window: what else there is in it than an upgrade's pause is small beside that.
struct Pauses {
    /// As callers saw them.
    whole: Times,
    /// Less the time in which the machine stood still.
    net: Times,
    /// How much of all windows that was.
    stood: f64,
}

impl Pauses {
    fn of(calls: &[Vec<Called>], windows: &[Window], stood: &Stood) -> Pauses {
        let (mut whole, mut net) = (Times::new(), Times::new());
        for caller in calls {
            let mut calls = &caller[..];
            for window in windows {
                let first = calls.partition_point(|called| called.ended < window.began);
                calls = &calls[first..];
                let met = || calls.iter().take_while(|called| called.started <= window.over);
                let took = |called: &Called| called.ended - called.started;
                if let Some(longest) = met().map(took).max() {
                    whole.note(longest);
                }
                let took = |called: &Called| took(called) - stood.within(called.started, called.ended);
                if let Some(longest) = met().map(took).max() {
                    net.note(longest);
                }
            }
        }
        let all: Duration = windows.iter().map(|window| window.over - window.began).sum();
        let stood: Duration = windows.iter().map(|window| stood.within(window.began, window.over)).sum();
        Pauses { whole, net, stood: stood.as_secs_f64() / all.as_secs_f64() }
    }

    fn judge(&self, without: &Pauses, options: &Options, verdict: &mut Verdict) {
        let figures = |times: &Times| times.at(&[0.5, 0.99, 0.999]);
        let what = "longest pause of a caller in an upgrade, p50 / p99 / p99.9";
        verdict.row(what, figures(&self.whole), "", true);
        verdict.row("the same in as much time without one", figures(&without.whole), "", true);
        let what = "in an upgrade, less what the machine stood still";
        let (must, holds) = self.net.hold(&PAUSE, options.busy);
        verdict.row(what, figures(&self.net), &must, holds);
        verdict.row("without one, less that", figures(&without.net), "", true);
        let shares = format!("{:.2} % / {:.2} %", 100.0 * self.stood, 100.0 * without.stood);
        verdict.row("the machine stood still in upgrades / without", shares, "", true);
    }
}

/// How upgrades to processes that break ended.
#[derive(Default)]
pub struct Endings {
    /// The old process went on.
    old: u32,
    /// The new one had taken over when it broke.
    new: u32,
    /// Calls that failed although the old process went on.
    failed: usize,
    /// Connections that ended although it did.
    closed: usize,
    /// The old process ended otherwise than in peace.
    unrest: u32,
}

/// What the next one does.
#[derive(Clone, Copy, Debug)]
enum Breach {
    /// It connects, and ends.
    Leaves,
    /// It connects, and says nothing.
    SaysNothing,
    /// It is killed at some time.
    Dies,
    /// It is stopped at some time.
    Hangs,
    /// It is killed when the old one is gone.
    DiesLate,
}

const BREACHES: [Breach; 5] = [Breach::Leaves, Breach::SaysNothing, Breach::Dies, Breach::Hangs, Breach::DiesLate];

impl World {
    pub fn upgrade_breaks(&mut self, verdict: &mut Verdict, endings: &mut Endings) {
        let client = self.client(Trouble::BrokenUpgrade);
        self.settle(&client);
        let (shim, sockets) = (Callers::start(&client), Callers::over_sockets(&self.setup));
        thread::sleep(Duration::from_millis(self.random.below(AROUND_MS)));
        let breach = BREACHES[(endings.old + endings.new) as usize % BREACHES.len()];
        let began = Instant::now();
        let old_ended = self.break_upgrade(breach);
        thread::sleep(Duration::from_millis(AROUND_MS));
        let mut calls = shim.finish();
        if let Some(code) = old_ended {
            endings.new += 1;
            endings.unrest += u32::from(code != 0);
            self.sidecar = self.setup.start();
        }
        let now = Instant::now();
        calls.extend(sockets.finish());
        // If the old process went on, nothing happened.
        let from = if old_ended.is_some() { began } else { now };
        let span = Span { from, began, evaded: now, over: now };
        let stood = self.stood();
        calls.iter().for_each(|caller| verdict.judge(caller, &self.record, span, &stood));
        if old_ended.is_none() {
            endings.old += 1;
            let calls = || calls.iter().flatten();
            endings.failed += calls().filter(|called| !called.is_answered()).count();
            endings.closed += calls().filter(|called| called.reconnected).count();
        }
    }

    /// With which code the old process ended; none: it goes on, and the new one is gone.
    fn break_upgrade(&mut self, breach: Breach) -> Option<i32> {
        let at = Duration::from_micros(self.random.below(BREAKS_MS * 1000));
        let connect = || UnixStream::connect(self.setup.upgrade_socket()).expect("a socket for upgrades");
        match breach {
            Breach::Leaves => drop(connect()),
            Breach::SaysNothing => {
                let silent = connect();
                thread::sleep(SAYS_NOTHING);
                drop(silent);
            }
            Breach::Dies => {
                let mut next = self.setup.launch(&["--upgrade"]);
                thread::sleep(at);
                next.end();
            }
            Breach::Hangs => {
                let mut next = self.setup.launch(&["--upgrade"]);
                thread::sleep(at);
                next.signal_if_there(Signal::SIGSTOP);
                thread::sleep(HANGS);
                next.end();
            }
            Breach::DiesLate => {
                let mut next = self.setup.launch(&["--upgrade"]);
                self.replaced(REPLACED_WITHIN);
                next.end();
            }
        }
        // One that has handed over ends, and answers nobody.
        let late = Instant::now() + REPLACED_WITHIN;
        while !self.answers() {
            if let Some(code) = self.replaced(Duration::ZERO) {
                return Some(code);
            }
            assert!(Instant::now() < late, "the old process neither goes on nor ends: {}", self.setup.log());
        }
        None
    }

    /// Whether a call gets its answer now.
    fn answers(&self) -> bool {
        let Ok(stream) = self.setup.connect(Way::Uds, Duration::from_millis(500)) else { return false };
        let request = http::request_with("GET", "", b"");
        let answer = (&stream).write_all(&request).and_then(|()| http::receive(&mut &stream, &mut Vec::new()));
        answer.is_ok_and(|answer| answer.is_some_and(|answer| answer.status() == 200))
    }
}

impl Endings {
    pub fn judge(&self, verdict: &mut Verdict) {
        let Endings { old, new, failed, closed, unrest } = *self;
        verdict.row("the old process went on / the new one had taken over", format!("{old} / {new}"), "", true);
        verdict.row("failed calls where the old process went on", failed, "0", failed == 0);
        verdict.row("connections of callers that ended where it did", closed, "0", closed == 0);
        verdict.row("old processes that ended otherwise than in peace", unrest, "0", unrest == 0);
    }
}
