//! What the numbers are held against: goals, and what a run found of them.

use std::fmt;
use std::fs;

use serde_json::{Value, json};

use crate::series::{Series, median};

/// What a number is to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// Just said: there is nothing to hold it against.
    Stated,
}

impl Goal {
    fn is_met(self, value: f64) -> Option<bool> {
        match self {
            Goal::AtMost(bound) => Some(value <= bound),
            Goal::AtLeast(bound) => Some(value >= bound),
            Goal::Stated => None,
        }
    }

    /// How the number stands to the goal, in one word or a few.
    fn verdict(self, value: f64) -> String {
        match (self, self.is_met(value)) {
            (_, None) => "stated".to_owned(),
            (_, Some(true)) => "ok".to_owned(),
            (Goal::AtMost(0.0), _) => "short".to_owned(),
            (Goal::AtMost(bound), _) => format!("short: {:.2} × the goal", value / bound),
            (Goal::AtLeast(bound), _) => format!("short: {:.2} × the goal", value / bound),
            (Goal::Stated, _) => String::new(),
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Goal::AtMost(bound) => write!(f, "≤ {}", figure(*bound)),
            Goal::AtLeast(bound) => write!(f, "≥ {}", figure(*bound)),
            Goal::Stated => f.write_str("-"),
        }
    }
}

/// One number of the table of goals: the median of what each round gave.
struct Finding {
    row: &'static str,
    what: String,
    goal: Goal,
    /// One entry a round, or why there is none.
    rounds: Result<Vec<f64>, String>,
}

/// Everything that a run found.
#[derive(Default)]
pub struct Report {
    findings: Vec<Finding>,
    measured: Vec<Value>,
}

impl Report {
    /// A number of `row`, with its value in each round.
    pub fn found(&mut self, row: &'static str, what: impl Into<String>, goal: Goal, rounds: Vec<f64>) {
        self.findings.push(Finding { row, what: what.into(), goal, rounds: Ok(rounds) });
    }

    /// A number of `row` that could not be had here, and why.
    pub fn missing(&mut self, row: &'static str, what: impl Into<String>, goal: Goal, reason: impl Into<String>) {
        let reason = reason.into().lines().map(str::trim).collect::<Vec<_>>().join(" ");
        self.findings.push(Finding { row, what: what.into(), goal, rounds: Err(reason) });
    }

    /// Prints what was measured, medians over the rounds, and keeps it.
    pub fn measured(&mut self, row: &'static str, about: &str, series: &[Series]) {
        println!("{row}: {about}");
        series.iter().for_each(|series| println!("{}", series.line()));
        println!();
        self.keep(&format!("{row}: {about}"), series);
    }

    /// Keeps what was measured and is printed elsewhere.
    pub fn keep(&mut self, about: &str, series: &[Series]) {
        self.measured.extend(series.iter().map(|series| json!({ "about": about, "series": series.json() })));
    }

    pub fn is_empty(&self) -> bool {
        self.findings.is_empty()
    }

    /// The table of goals.
    pub fn table(&self) -> String {
        let mut text = format!("{:<14} {:<62} {:>11} {:>24}  \n", "row", "what", "goal", "measured");
        for Finding { row, what, goal, rounds } in &self.findings {
            let pad = 62usize.saturating_sub(what.chars().count());
            text.push_str(&format!("{row:<14} {what}{:pad$} {:>11} ", "", goal.to_string()));
            match rounds {
                Ok(rounds) => {
                    let value = median(rounds.clone());
                    text.push_str(&format!("{:>24}  {}\n", spread(rounds), goal.verdict(value)));
                }
                Err(reason) => text.push_str(&format!("{:>24}  {reason}\n", "not measured")),
            }
        }
        text
    }

    /// Writes all of it as one JSON object.
    pub fn write(&self, file: &str, environment: Value) -> Result<(), String> {
        let findings: Vec<Value> = self.findings.iter().map(Finding::json).collect();
        let all = json!({ "environment": environment, "findings": findings, "measured": self.measured });
        fs::write(file, format!("{all:#}\n")).map_err(|error| format!("cannot write {file}: {error}"))
    }
}

impl Finding {
    fn json(&self) -> Value {
        let mut object = json!({ "row": self.row, "what": self.what, "goal": self.goal.to_string() });
        match &self.rounds {
            Ok(rounds) => {
                let value = median(rounds.clone());
                object["value"] = json!(value);
                object["rounds"] = json!(rounds);
                object["met"] = json!(self.goal.is_met(value));
            }
            Err(reason) => object["not_measured"] = json!(reason),
        }
        object
    }
}

/// The median, and the least and the greatest when there are several.
fn spread(rounds: &[f64]) -> String {
    let middle = figure(median(rounds.to_vec()));
    match rounds {
        [] | [_] => middle,
        _ => {
            let least = rounds.iter().copied().fold(f64::INFINITY, f64::min);
            let most = rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            format!("{middle} ({}-{})", figure(least), figure(most))
        }
    }
}

/// Three digits or so.
fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        1_000_000.0.. => format!("{:.2} M", value / 1e6),
        10_000.0.. => format!("{:.0} k", value / 1e3),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        0.01.. => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}
