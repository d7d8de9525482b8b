//! The tables that the run ends with.

use crate::path::{Outcome, Path, Protocol, Way};
use crate::series::{Series, median};
use crate::shmesh::Measured;

/// One path and what its turns gave, one entry a round.
pub struct Row {
    pub path: Path,
    rounds: Vec<Measured>,
    /// Why there is nothing more to measure.
    ended: Option<Ended>,
}

enum Ended {
    Skipped(String),
    Failed(String),
}

impl Row {
    pub fn new(path: Path) -> Row {
        Row { path, rounds: Vec::new(), ended: None }
    }

    /// Whether it takes part in the next round.
    pub fn is_open(&self) -> bool {
        self.ended.is_none()
    }

    pub fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Measured(measured) => self.rounds.push(measured),
            Outcome::Skipped(reason) => self.ended = Some(Ended::Skipped(reason)),
            Outcome::Failed(sentence) => self.ended = Some(Ended::Failed(sentence)),
        }
    }

    /// What was measured of it.
    pub fn series(&self) -> Series {
        Series { name: self.path.id(), rounds: self.rounds.clone() }
    }

    /// The path's name and what went wrong.
    pub fn failure(&self) -> Option<String> {
        match &self.ended {
            Some(Ended::Failed(sentence)) => Some(format!("{}: {sentence}", self.path.id())),
            _ => None,
        }
    }
}

/// The table of one protocol. Ratios are to direct TCP, when that is among the rows.
pub fn table(protocol: Protocol, rows: &[Row]) -> String {
    let direct = rows.iter().find(|row| row.path.way == Way::DirectTcp && row.is_open());
    let mut text = format!(
        "{:<16} {:>10} {:>10} {:>11}   {:>12} {:>7} {:>9}\n",
        protocol.word(),
        "p50 µs",
        "p99 µs",
        "requests/s",
        "p50 ratio",
        "p99",
        "requests"
    );
    for row in rows {
        text.push_str(&format!("  {:<14} ", row.path.way.name()));
        match &row.ended {
            Some(Ended::Skipped(reason)) => text.push_str(&format!("skipped: {reason}\n")),
            Some(Ended::Failed(_)) => text.push_str("FAILED\n"),
            None => text.push_str(&line(row, direct)),
        }
    }
    text
}

fn line(row: &Row, direct: Option<&Row>) -> String {
    let median_of = |value: fn(&Measured) -> f64| median(row.rounds.iter().map(value).collect());
    let mut text = format!(
        "{:>10.1} {:>10.1} {:>11.0}",
        median_of(|round| round.p50_ns) / 1e3,
        median_of(|round| round.p99_ns) / 1e3,
        median_of(|round| round.rps)
    );
    if let Some(direct) = direct {
        let ratios = |value: fn(&Measured) -> f64| -> Vec<f64> {
            row.rounds.iter().zip(&direct.rounds).map(|(round, direct)| value(round) / value(direct)).collect()
        };
        let p50 = ratios(|round| round.p50_ns);
        let spread = format!("({:.2}-{:.2})", p50.iter().copied().fold(f64::MAX, f64::min), max(&p50));
        let (p99, rps) = (ratios(|round| round.p99_ns), ratios(|round| round.rps));
        text.push_str(&format!(" {:>6.2} {spread:>11} {:>4.2} {:>7.2}", median(p50), median(p99), median(rps)));
    }
    text.push('\n');
    text
}

fn max(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::MIN, f64::max)
}
