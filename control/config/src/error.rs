//! What is wrong with a configuration file.

use std::fmt;

use thiserror::Error;

use crate::located::Place;

/// Why there is no snapshot. Displays as one line for each fault: `file:line:column: what is wrong and what to write
/// instead`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The file cannot be read at all.
    #[error("{file}: {reason}")]
    Unreadable {
        /// As named by the caller.
        file: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The file was read, and what it says cannot be used.
    #[error("{}", lines(.file, .faults))]
    Invalid {
        /// As named by the caller.
        file: String,
        /// In the order of their places; never empty.
        faults: Vec<Fault>,
    },
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// From 1.
    pub line: u64,
    /// From 1; counts characters.
    pub column: u64,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl Fault {
    pub(crate) fn new(place: Place, message: impl Into<String>) -> Fault {
        Fault { line: place.line, column: place.column, message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

fn lines(file: &str, faults: &[Fault]) -> String {
    let lines: Vec<String> = faults.iter().map(|fault| format!("{file}:{fault}")).collect();
    lines.join("\n")
}
