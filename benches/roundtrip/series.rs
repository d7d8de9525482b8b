//! Runs that take turns, and their numbers, one entry a round.

use serde_json::{Value, json};

use crate::shmesh::Measured;

/// What one way gave in each round.
pub struct Series {
    pub name: String,
    pub rounds: Vec<Measured>,
}

/// One way, to be measured once a round.
pub struct Turn<'a> {
    name: String,
    run: Box<dyn FnMut() -> Result<Measured, String> + 'a>,
}

impl<'a> Turn<'a> {
    pub fn new(name: impl Into<String>, run: impl FnMut() -> Result<Measured, String> + 'a) -> Turn<'a> {
        Turn { name: name.into(), run: Box::new(run) }
    }
}

/// A B C A B C …, so that a machine that wanders wanders for all.
///
/// # Errors
/// The first run that failed, with its name.
pub fn take_turns(rounds: usize, mut turns: Vec<Turn<'_>>) -> Result<Vec<Series>, String> {
    let mut series: Vec<Series> =
        turns.iter().map(|turn| Series { name: turn.name.clone(), rounds: Vec::new() }).collect();
    for _ in 0..rounds {
        for (turn, series) in turns.iter_mut().zip(&mut series) {
            let measured = (turn.run)().map_err(|sentence| format!("{}: {sentence}", turn.name))?;
            series.rounds.push(measured);
        }
    }
    Ok(series)
}

impl Series {
    pub fn values(&self, value: impl Fn(&Measured) -> f64) -> Vec<f64> {
        self.rounds.iter().map(value).collect()
    }

    pub fn median(&self, value: impl Fn(&Measured) -> f64) -> f64 {
        median(self.values(value))
    }

    /// Round by round, this one's value by the other's.
    pub fn against(&self, other: &Series, value: impl Fn(&Measured) -> f64) -> Vec<f64> {
        self.rounds.iter().zip(&other.rounds).map(|(own, other)| value(own) / value(other)).collect()
    }

    /// Its medians, for a person.
    pub fn line(&self) -> String {
        format!(
            "  {:<34} p50 {:>9.1} µs   p99 {:>9.1} µs   {:>9.0} calls/s",
            self.name,
            self.median(p50) / 1e3,
            self.median(p99) / 1e3,
            self.median(rps)
        )
    }

    pub fn json(&self) -> Value {
        let rounds: Vec<Value> = self
            .rounds
            .iter()
            .map(|round| json!({ "p50_ns": round.p50_ns, "p99_ns": round.p99_ns, "calls_per_second": round.rps }))
            .collect();
        json!({ "name": self.name, "rounds": rounds })
    }
}

pub fn p50(measured: &Measured) -> f64 {
    measured.p50_ns
}

pub fn p99(measured: &Measured) -> f64 {
    measured.p99_ns
}

pub fn rps(measured: &Measured) -> f64 {
    measured.rps
}

/// The middle one, or the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => (values[len / 2 - 1] + values[len / 2]) / 2.0,
    }
}
