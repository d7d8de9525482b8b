//! Endpoints that fail again and again are left out for a while (outlier detection, in the words of Envoy).
//!
//! A function of what happened and when: the caller tells outcomes and the time, and asks who is out. Each worker keeps one
//! [`Outliers`] for each cluster, as it shares nothing; what one worker has found out, each other one finds out with its own calls.

use std::time::Duration;

/// Endpoints of one cluster against which one worker holds something, at most; of more, the ones that are not out are
/// forgotten. 1,024: as many as fail at once in a cluster of that size.
pub const SUSPECTS_MAX: usize = 1_024;

/// When an endpoint is left out, and for how long. The names are Envoy's.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Failures in a row that the sidecar saw itself: a connection that is not made, ends before the answer does, or on which no answer
    /// begins in time, and answers that are no protocol. 0: never. 5, as in Envoy: an endpoint that is well interrupts any row,
    /// and one that is dead costs five calls a detour. On unless configured otherwise, as nobody wants the detours, and no call
    /// fails because of it: endpoints that are out are asked when all others have refused.
    pub consecutive_local_origin_failure: u32,
    /// Answers 502, 503 and 504 in a row. 0: never. 0: whoever says so is alive, and knows better what it means.
    pub consecutive_gateway_failure: u32,
    /// Answers of 5xx in a row. 0: never. 0, for the same reason: an application that fails for one caller's requests is not sick.
    pub consecutive_5xx: u32,
    /// For how long; the second time in a row twice as long, and so on. 30 s, as in Envoy: what restarts is there again by then.
    pub base_ejection_time: Duration,
    /// The longest. 300 s, as in Envoy.
    pub max_ejection_time: Duration,
    /// The share of a cluster's endpoints that may be out at once; one may in any case if there are two or more, unless it is 0. 50: beyond that
    /// Envoy uses all of them anyway (its panic threshold), where its own default of 10 leaves most of a dead zone in turn.
    pub max_ejection_percent: u32,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        OutlierDetection {
            consecutive_local_origin_failure: 5,
            consecutive_gateway_failure: 0,
            consecutive_5xx: 0,
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_percent: 50,
        }
    }
}

/// What an endpoint did with a call, or with a connection.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered: in full, for long, or for as long as the caller cared.
    Good,
    /// It answered 502, 503 or 504.
    GatewayFailure,
    /// It answered another 5xx.
    ServerError,
    /// There was no answer, or none to be understood.
    LocalOriginFailure,
}

impl Outcome {
    /// Of an HTTP answer.
    pub fn of_status(status: u16) -> Outcome {
        match status {
            502..=504 => Outcome::GatewayFailure,
            500..=599 => Outcome::ServerError,
            _ => Outcome::Good,
        }
    }
}

/// An endpoint is left out from now on.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// For so long.
    pub time: Duration,
    /// How often in a row, this time included.
    pub times: u32,
}

/// What a worker holds against the endpoints of a cluster, by whatever they are known to it.
#[derive(Clone, Debug)]
pub struct Outliers<K> {
    suspects: Vec<Suspect<K>>,
}

/// What is held against one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect<K> {
    pub endpoint: K,
    /// In a row.
    pub local_origin_failures: u32,
    pub gateway_failures: u32,
    /// 5xx of all kinds.
    pub server_errors: u32,
    /// Ejections in a row.
    pub times: u32,
    /// It is out until then, in nanoseconds.
    pub out_until: Option<u64>,
    /// When it came back; or when the first ejection would have ended, had there been one.
    pub back_since: u64,
}

impl<K> Default for Outliers<K> {
    fn default() -> Self {
        Outliers { suspects: Vec::new() }
    }
}

impl<K: Clone + Eq> Outliers<K> {
    /// Everything that is held against endpoints, for another worker to go on with.
    pub fn suspects(&self) -> &[Suspect<K>] {
        &self.suspects
    }

    /// Goes on with what another worker held against endpoints, as far as there is room.
    pub fn of(mut suspects: Vec<Suspect<K>>) -> Outliers<K> {
        suspects.truncate(SUSPECTS_MAX);
        Outliers { suspects }
    }

    /// Nothing is held against any endpoint, so that a good outcome changes nothing.
    #[inline]
    pub fn is_quiet(&self) -> bool {
        self.suspects.is_empty()
    }

    /// Whether an endpoint is left out.
    pub fn is_out(&self, endpoint: &K) -> bool {
        self.suspects.iter().any(|suspect| suspect.out_until.is_some() && suspect.endpoint == *endpoint)
    }

    /// How many are.
    pub fn out(&self) -> usize {
        self.suspects.iter().filter(|suspect| suspect.out_until.is_some()).count()
    }

    /// Takes note of what one of `endpoints` endpoints did at `now` (nanoseconds). Says so if it is left out from now on.
    pub fn observe(
        &mut self,
        spec: &OutlierDetection,
        endpoint: &K,
        outcome: Outcome,
        endpoints: usize,
        now: u64,
    ) -> Option<Ejection> {
        let at = match self.suspects.iter().position(|suspect| suspect.endpoint == *endpoint) {
            Some(at) => at,
            None if outcome == Outcome::Good => return None,
            None => self.suspect(endpoint, now)?,
        };
        let out = self.out();
        let suspect = &mut self.suspects[at];
        if suspect.out_until.is_some() {
            // What was under way when it was left out, and what asks it as the last resort.
            return None;
        }
        if !suspect.note(spec, outcome) {
            if suspect.is_forgiven(spec, now) {
                self.suspects.swap_remove(at);
            }
            return None;
        }
        if !may_eject(spec, out, endpoints) {
            return None;
        }
        suspect.times = suspect.times_at(spec, now) + 1;
        let time = spec.base_ejection_time.saturating_mul(suspect.times);
        let time = time.min(spec.max_ejection_time.max(spec.base_ejection_time));
        suspect.out_until = Some(now.saturating_add(time.as_nanos() as u64));
        Some(Ejection { time, times: suspect.times })
    }

    /// The endpoints whose time is over at `now`: they are in turn again.
    pub fn returned(&mut self, now: u64) -> Vec<K> {
        let back = self.suspects.iter_mut().filter(|suspect| suspect.out_until.is_some_and(|until| until <= now));
        let back = back.map(|suspect| {
            suspect.out_until = None;
            suspect.back_since = now;
            suspect.forget_rows();
            suspect.endpoint.clone()
        });
        back.collect()
    }

    /// When the next one returns.
    pub fn next_return(&self) -> Option<u64> {
        self.suspects.iter().filter_map(|suspect| suspect.out_until).min()
    }

    /// Adds an endpoint; `None` if there is no room.
    fn suspect(&mut self, endpoint: &K, now: u64) -> Option<usize> {
        if self.suspects.len() >= SUSPECTS_MAX {
            let forgettable = self.suspects.iter().position(|suspect| suspect.out_until.is_none())?;
            self.suspects.swap_remove(forgettable);
        }
        self.suspects.push(Suspect {
            endpoint: endpoint.clone(),
            local_origin_failures: 0,
            gateway_failures: 0,
            server_errors: 0,
            times: 0,
            out_until: None,
            back_since: now,
        });
        Some(self.suspects.len() - 1)
    }
}

impl<K> Suspect<K> {
    /// Counts; true if a row is long enough.
    fn note(&mut self, spec: &OutlierDetection, outcome: Outcome) -> bool {
        let is_answer = outcome != Outcome::LocalOriginFailure;
        // An answer of any kind ends a row of none, and none says nothing about answers.
        self.local_origin_failures = if is_answer { 0 } else { self.local_origin_failures.saturating_add(1) };
        match outcome {
            Outcome::Good => (self.gateway_failures, self.server_errors) = (0, 0),
            Outcome::GatewayFailure => {
                self.gateway_failures = self.gateway_failures.saturating_add(1);
                self.server_errors = self.server_errors.saturating_add(1);
            }
            Outcome::ServerError => {
                self.gateway_failures = 0;
                self.server_errors = self.server_errors.saturating_add(1);
            }
            Outcome::LocalOriginFailure => {}
        }
        let rows = [
            (self.local_origin_failures, spec.consecutive_local_origin_failure),
            (self.gateway_failures, spec.consecutive_gateway_failure),
            (self.server_errors, spec.consecutive_5xx),
        ];
        rows.into_iter().any(|(row, enough)| enough > 0 && row >= enough)
    }

    /// How many ejections in a row it has behind it: one less for each `base_ejection_time` that it has been back.
    fn times_at(&self, spec: &OutlierDetection, now: u64) -> u32 {
        let step = (spec.base_ejection_time.as_nanos() as u64).max(1);
        let steps = now.saturating_sub(self.back_since) / step;
        self.times.saturating_sub(u32::try_from(steps).unwrap_or(u32::MAX))
    }

    fn is_forgiven(&self, spec: &OutlierDetection, now: u64) -> bool {
        self.local_origin_failures == 0
            && self.gateway_failures == 0
            && self.server_errors == 0
            && self.times_at(spec, now) == 0
    }

    fn forget_rows(&mut self) {
        self.local_origin_failures = 0;
        self.gateway_failures = 0;
        self.server_errors = 0;
    }
}

/// Whether one more may be left out, besides `out` of `endpoints`.
fn may_eject(spec: &OutlierDetection, out: usize, endpoints: usize) -> bool {
    let share = (out + 1) * 100 <= spec.max_ejection_percent as usize * endpoints;
    endpoints > 1 && spec.max_ejection_percent > 0 && (out == 0 || share)
}

#[cfg(test)]
#[path = "outlier/tests.rs"]
mod tests;
