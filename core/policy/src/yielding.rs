//! Whether the sidecar yields: while it has too little CPU, a share of the calls of its apps goes round it.
//!
//! Load is told at regular times, and each time is one of three:
//!
//! | load | is | then |
//! |---|---|---|
//! | pressed | at a bound or above | after [`PRESSED_MIN`] such times the share grows by [`RAISE`] with each |
//! | between | below the bounds, but not by much | the share stays |
//! | calm | below three quarters of every bound | after a while (the *patience*) the share shrinks by [`LOWER`] with each |
//!
//! The share grows fast and shrinks slowly, and what is between does nothing: so it comes to rest where the load is between. A share that
//! has to grow again after it shrank doubles the patience, from [`PATIENCE_MIN`] to [`PATIENCE_MAX`]; [`HEALTH`] without a share makes
//! it short again. Times are nanoseconds of the caller's clock.

use std::time::Duration;

/// Of so many calls a share goes round.
pub const SHARE_ALL: u16 = 1000;
/// How much the share grows at a time.
pub const RAISE: u16 = 100;
/// How much it shrinks at a time.
pub const LOWER: u16 = 10;
/// So many times of pressure make it grow, calm not in between: one burst is no reason.
pub const PRESSED_MIN: u32 = 3;
/// How long it is calm before the share shrinks, at first.
pub const PATIENCE_MIN: u64 = 1_000_000_000;
/// And at most.
pub const PATIENCE_MAX: u64 = 30_000_000_000;
/// Time without a share after which the patience is short again.
pub const HEALTH: u64 = 60_000_000_000;

/// When the sidecar yields, and how much.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct YieldSpec {
    /// It does.
    pub enabled: bool,
    /// Percentage of the CPU quota at which it is pressed.
    pub cpu_percent: u32,
    /// Time that a worker which could run waits for a CPU at which it is pressed, on the average; `None`: never.
    pub lag: Option<Duration>,
    /// Percentage of the calls that goes round at most.
    pub max_percent: u32,
}

impl Default for YieldSpec {
    fn default() -> Self {
        // The quota is the operator's own word about what the sidecar may take. No bound of the lag is right for all machines.
        YieldSpec { enabled: true, cpu_percent: 90, lag: None, max_percent: 90 }
    }
}

/// What was measured since the time before.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// CPU time used, as a share of the quota in 1/1000; `None`: there is no quota.
    pub cpu_permille: Option<u32>,
    /// How long the worker that had it worst waited for a CPU, on the average; `None`: not known.
    pub lag: Option<Duration>,
}

/// Why it yields.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The CPU quota is all but used up.
    Quota,
    /// Workers wait for a CPU.
    Lag,
}

impl Reason {
    pub const ALL: [Reason; 2] = [Reason::Quota, Reason::Lag];

    /// The word for it in metrics and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Quota => "quota",
            Reason::Lag => "lag",
        }
    }
}

/// What a call is worth when not all can go through the sidecar: those of low priority go round it first.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    Low,
    #[default]
    Default,
    High,
}

impl Priority {
    pub const ALL: [Priority; 3] = [Priority::Low, Priority::Default, Priority::High];

    /// The word for it in configuration and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Priority::Low => "low",
            Priority::Default => "default",
            Priority::High => "high",
        }
    }

    /// Of a thousand calls of this priority so many go round, at a share of all. Nobody knows how many calls there are of each: the
    /// share follows the load, and so finds what is needed.
    pub fn share(self, of_all: u16) -> u16 {
        let twice = 2 * of_all.min(SHARE_ALL);
        match self {
            Priority::Low => twice.min(SHARE_ALL),
            Priority::Default => twice / 2,
            Priority::High => twice.saturating_sub(SHARE_ALL),
        }
    }
}

/// The state machine.
#[derive(Clone, Debug)]
pub struct Yielding {
    share: u16,
    reason: Option<Reason>,
    /// Times of pressure since it was calm last.
    pressed: u32,
    calm_since: Option<u64>,
    patience: u64,
    /// The share shrank since it grew last.
    shrank: bool,
    /// Since when there is no share.
    well_since: u64,
}

enum Pressure {
    Pressed(Reason),
    Between,
    Calm,
}

impl Yielding {
    pub fn new(now: u64) -> Yielding {
        Yielding {
            share: 0,
            reason: None,
            pressed: 0,
            calm_since: None,
            patience: PATIENCE_MIN,
            shrank: false,
            well_since: now,
        }
    }

    /// Of a thousand calls so many are to go round.
    pub fn share(&self) -> u16 {
        self.share
    }

    /// Why the share grew last; none if there is none.
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// Takes in what was measured: the share from now on.
    pub fn tell(&mut self, now: u64, load: Load, spec: &YieldSpec) -> u16 {
        if !spec.enabled {
            *self = Yielding::new(now);
            return 0;
        }
        let max = (spec.max_percent * 10).min(SHARE_ALL.into()) as u16;
        match pressure(load, spec) {
            Pressure::Pressed(reason) => {
                self.calm_since = None;
                self.pressed += 1;
                if self.pressed >= PRESSED_MIN {
                    self.raise(reason);
                }
            }
            Pressure::Between => self.calm_since = None,
            Pressure::Calm => {
                self.pressed = 0;
                let since = *self.calm_since.get_or_insert(now);
                if self.share > 0 && now.saturating_sub(since) >= self.patience {
                    self.lower(now);
                }
            }
        }
        self.share = self.share.min(max);
        if self.share == 0 && now.saturating_sub(self.well_since) >= HEALTH {
            self.patience = PATIENCE_MIN;
        }
        self.share
    }

    fn raise(&mut self, reason: Reason) {
        if self.shrank {
            self.shrank = false;
            self.patience = (2 * self.patience).min(PATIENCE_MAX);
        }
        self.share = (self.share + RAISE).min(SHARE_ALL);
        self.reason = Some(reason);
    }

    fn lower(&mut self, now: u64) {
        self.shrank = true;
        self.share = self.share.saturating_sub(LOWER);
        if self.share == 0 {
            self.reason = None;
            self.well_since = now;
        }
    }
}

fn pressure(load: Load, spec: &YieldSpec) -> Pressure {
    // Both in parts of their bound, in 1/1000.
    let quota = load.cpu_permille.map(|used| u64::from(used) * 100 / u64::from(spec.cpu_percent.max(1)));
    let lag = load.lag.zip(spec.lag).map(|(lag, bound)| {
        let parts = 1000 * lag.as_nanos() / bound.as_nanos().max(1);
        u64::try_from(parts).unwrap_or(u64::MAX)
    });
    match (quota.unwrap_or(0), lag.unwrap_or(0)) {
        (quota, lag) if quota >= 1000 && quota >= lag => Pressure::Pressed(Reason::Quota),
        (_, lag) if lag >= 1000 => Pressure::Pressed(Reason::Lag),
        (quota, lag) if quota < 750 && lag < 750 => Pressure::Calm,
        _ => Pressure::Between,
    }
}

#[cfg(test)]
mod tests;
