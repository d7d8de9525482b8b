//! What troubles did to calls: counted, apart for each way to the sidecar, and held against what must hold.

use std::time::{Duration, Instant};

use crate::app::TIMEOUT;
use crate::calls::{Called, Outcome, WAYS, Way};
use crate::service::Record;
use crate::socket_app::{PERSISTS, SILENCE};
use crate::stalls::Stood;
use crate::times::{Goal, Times};

/// What a busy machine adds to the time that a call may take.
const BUSY: Duration = Duration::from_secs(5);

/// So long before the trouble the same is looked at as afterwards, to see what the machine itself does to calls.
const BEFORE: Duration = Duration::from_millis(10);

/// When something happened.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Calls that end earlier do not meet it.
    pub from: Instant,
    pub began: Instant,
    /// Calls through the shim that begin later are sure to be answered.
    pub evaded: Instant,
    /// And so are all others.
    pub over: Instant,
}

/// What was counted.
pub struct Verdict {
    tallies: [Tally; WAYS.len()],
    /// Calls that were answered without the sidecar.
    round_it: u64,
    elsewhere: Option<Elsewhere>,
    /// The longest time until calls went through the sidecar again, and its bound.
    returned: Option<(Duration, Duration)>,
    /// What else was looked at.
    more: Vec<Row>,
    first: Option<String>,
}

#[derive(Default)]
struct Tally {
    calls: u64,
    /// Calls that met trouble.
    hit: u64,
    longest: Duration,
    late: u64,
    run_twice: u64,
    idempotent_failed: u64,
    /// Calls that are not idempotent and met trouble.
    open: u64,
    maybe: u64,
    /// Errors that say that nothing ran, of calls that ran.
    wrong: u64,
    /// Calls that are not idempotent and failed some other way.
    failed: u64,
    /// Successes that the service knows nothing of.
    invented: u64,
    /// Calls that failed before anything had happened.
    baseless: u64,
}

/// How long it took until calls were answered elsewhere.
struct Elsewhere {
    /// As callers saw it.
    whole: Times,
    /// Less the time in which the machine stood still.
    net: Times,
    /// And so the time to a caller's next answer, from some time before on.
    before: Times,
    /// Of `net`.
    goals: &'static [Goal],
    /// The machine does other work meanwhile.
    busy: bool,
}

/// One more thing that was looked at.
struct Row {
    what: String,
    found: String,
    must: String,
    holds: bool,
}

impl Verdict {
    pub fn new() -> Verdict {
        Verdict {
            tallies: Default::default(),
            round_it: 0,
            elsewhere: None,
            returned: None,
            more: Vec::new(),
            first: None,
        }
    }

    /// Also says how long it took until a caller was answered elsewhere, and holds that against the goals.
    pub fn timed(self, goals: &'static [Goal], busy: bool) -> Verdict {
        let (whole, net, before) = (Times::new(), Times::new(), Times::new());
        Verdict { elsewhere: Some(Elsewhere { whole, net, before, goals, busy }), ..self }
    }

    /// What one caller called around one trouble.
    pub fn judge(&mut self, calls: &[Called], record: &Record, trouble: Span, stood: &Stood) {
        let (mut elsewhere, mut next) = (None, None);
        let before = trouble.began - BEFORE;
        for called in calls {
            let runs = record.runs(called.call);
            if let Some(what) = self.tallies[called.way as usize].count(called, runs.all(), trouble) {
                let method = if called.idempotent { "PUT" } else { "POST" };
                let note = || format!("call {} ({method} over {:?}) {what}", called.call, called.way);
                self.first.get_or_insert_with(note);
            }
            if runs.direct > 0 && matches!(called.outcome, Outcome::Answered) && called.ended > trouble.began {
                self.round_it += 1;
                elsewhere.get_or_insert(called.ended);
            }
            if called.ended > before && called.ended < trouble.began {
                next.get_or_insert(called.ended);
            }
        }
        let Some(times) = &mut self.elsewhere else { return };
        if let Some(ended) = elsewhere {
            let whole = ended - trouble.began;
            times.whole.note(whole);
            times.net.note(whole - stood.within(trouble.began, ended));
        }
        if let Some(ended) = next {
            times.before.note(ended - before - stood.within(before, ended));
        }
    }

    /// So long after the trouble calls went through the sidecar again, all of them.
    pub fn returned(&mut self, after: Duration, bound: Duration) {
        self.returned = Some((self.returned.map_or(after, |(longest, _)| longest.max(after)), bound));
    }

    /// One more thing that was looked at.
    pub fn row(&mut self, what: &str, found: impl ToString, must: &str, holds: bool) {
        let row = Row { what: what.into(), found: found.to_string(), must: must.into(), holds };
        self.more.push(row);
    }

    /// What was wrong, if it is the first.
    pub fn note(&mut self, what: String) {
        self.first.get_or_insert(what);
    }

    /// Something of which as much should be there afterwards as before, within `slack`.
    pub fn left_behind(&mut self, what: &str, more: i64, slack: i64) {
        self.row(what, format!("{more:+}"), &format!("≤ +{slack}"), more <= slack);
    }

    /// Says all of it; whether everything holds.
    pub fn print(&self) -> bool {
        let mut holds = true;
        let mut row = |what: &str, found: [String; 3], must: &str, ok: bool| {
            let [shm, uds, tcp] = found;
            println!(
                "| {what} | {shm} | {uds} | {tcp} | {must} | {} |",
                if ok { "holds" } else { "**does not hold**" }
            );
            holds &= ok;
        };
        let [shm, uds, _] = &self.tallies;
        let each = |count: fn(&Tally) -> u64| self.tallies.each_ref().map(|tally| count(tally).to_string());
        println!("| what | shm | UDS | TCP | must be | |");
        println!("|---|---|---|---|---|---|");
        row("calls", each(|tally| tally.calls), "", true);
        row("of these in flight when it happened", each(|tally| tally.hit), "", true);
        let longest = self.tallies.each_ref().map(|tally| format!("{:.1?}", tally.longest));
        row("the longest call", longest, "", true);
        let mut none = |what: &str, count: fn(&Tally) -> u64| {
            row(what, each(count), "0", self.tallies.iter().all(|tally| count(tally) == 0));
        };
        none("calls that did not return in time", |tally| tally.late);
        none("answers to calls that never ran", |tally| tally.invented);
        none("non-idempotent calls that ran twice", |tally| tally.run_twice);
        none("calls that ran, and were said not to have", |tally| tally.wrong);
        none("calls that failed before anything had happened", |tally| tally.baseless);
        let sound = shm.idempotent_failed == 0 && uds.idempotent_failed == 0;
        row("idempotent calls that failed", each(|tally| tally.idempotent_failed), "0; TCP: shown", sound);
        let sound = shm.failed == 0 && uds.failed == 0;
        let what = "non-idempotent calls that failed otherwise than as perhaps executed";
        row(what, each(|tally| tally.failed), "0; TCP: shown", sound);
        let what = "perhaps executed (`MaybeExecuted`, or no answer over a socket)";
        let must = format!("≤ {}; ≤ {}; shown", shm.open, uds.open);
        let sound = shm.maybe <= shm.open && uds.maybe <= uds.open;
        row(what, each(|tally| tally.maybe), &must, sound);
        let mut row = |what: &str, found: &str, must: &str, ok: bool| {
            row(what, [found.into(), String::new(), String::new()], must, ok);
        };
        row("answered without the sidecar", &self.round_it.to_string(), "", true);
        if let Some(Elsewhere { whole, net, before, goals, busy }) = &self.elsewhere {
            let figures = |times: &Times| times.at(&[0.5, 0.99]);
            row("time to a caller's first answer from elsewhere, p50 / p99", &figures(whole), "", true);
            let (must, sound) = net.hold(goals, *busy);
            row("the same, less what the machine stood still", &figures(net), &must, sound);
            row("time to a caller's next answer before it happened, less that", &figures(before), "", true);
        }
        if let Some((longest, bound)) = self.returned {
            let what = "longest time until all calls went through the sidecar again";
            row(what, &format!("{longest:.1?}"), &format!("≤ {bound:?}"), longest <= bound);
        }
        for Row { what, found, must, holds } in &self.more {
            row(what, found, must, *holds);
        }
        if let Some(first) = &self.first {
            println!("\nthe first: {first}");
        }
        holds
    }
}

impl Tally {
    /// What is wrong with it.
    fn count(&mut self, called: &Called, runs: u32, trouble: Span) -> Option<String> {
        self.calls += 1;
        let until = if called.way == Way::Shm { trouble.evaded } else { trouble.over };
        let hit = called.started <= until && trouble.from < called.ended;
        self.hit += u64::from(hit);
        self.longest = self.longest.max(called.ended - called.started);
        self.open += u64::from(hit && !called.idempotent);
        let mut wrong = None;
        let mut note = |counter: &mut u64, what: String| {
            *counter += 1;
            wrong.get_or_insert(what);
        };
        let allowed = if called.way == Way::Shm { TIMEOUT } else { PERSISTS + SILENCE } + BUSY;
        if called.ended - called.started > allowed {
            note(&mut self.late, "took too long".into());
        }
        if !called.idempotent && runs > 1 {
            note(&mut self.run_twice, "ran twice".into());
        }
        let why = match &called.outcome {
            Outcome::Answered if runs == 0 => {
                note(&mut self.invented, "was answered and never ran".into());
                return wrong;
            }
            Outcome::Answered => return wrong,
            Outcome::Maybe(why) | Outcome::NotRun(why) | Outcome::Failed(why) => why,
        };
        if called.ended < trouble.from {
            note(&mut self.baseless, format!("failed when nothing had happened: {why}"));
        }
        if matches!(called.outcome, Outcome::NotRun(_)) && runs > 0 {
            note(&mut self.wrong, format!("ran, and its caller was told that it did not: {why}"));
        }
        match &called.outcome {
            Outcome::Maybe(_) if !called.idempotent || called.way == Way::Tcp => self.maybe += 1,
            _ if called.way == Way::Tcp => {
                *(if called.idempotent { &mut self.idempotent_failed } else { &mut self.failed }) += 1;
            }
            _ if called.idempotent => note(&mut self.idempotent_failed, format!("failed: {why}")),
            _ => note(&mut self.failed, format!("failed: {why}")),
        }
        wrong
    }
}
