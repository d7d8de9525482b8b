//! `shmesh check`: says whether a sidecar would take a configuration file.

use std::path::Path;
use std::process::ExitCode;

/// Prints one line if the file is good, else a line on stderr for each thing that is wrong with it.
pub fn check(file: &Path) -> ExitCode {
    match shmesh_config::load(file) {
        Ok(snapshot) => {
            println!(
                "{}: ok ({}, {}, {})",
                file.display(),
                count(snapshot.listeners.len(), "listener"),
                count(snapshot.routes.list().len(), "route"),
                count(snapshot.clusters.len(), "cluster"),
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn count(n: usize, noun: &str) -> String {
    match n {
        1 => format!("1 {noun}"),
        _ => format!("{n} {noun}s"),
    }
}
