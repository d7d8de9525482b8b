//! Chaos: a sidecar is killed, stopped and starved, and services behind it die and vanish, while apps call through it; what services write down of
//! what they ran says what that did.
//!
//! `just chaos` runs it long, `.ci/run` short. Each trouble ends with a table; a row that does not hold makes the exit code 1. All that is
//! random comes from `--seed`, except what the machine does in between.

#![forbid(unsafe_code)]

mod app;
mod arenas;
mod busy_lanes;
mod calls;
mod cgroup;
mod http;
mod kept;
mod own;
mod random;
mod service;
mod sidecar;
mod socket_app;
mod stalls;
mod stream;
mod times;
mod trouble;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use crate::cgroup::Precedence;
use crate::trouble::Trouble;

/// What to do.
#[derive(Parser, Debug)]
#[command(about)]
pub struct Options {
    /// The sidecar's binary.
    #[arg(long, default_value = "target/release/shmesh")]
    shmesh: PathBuf,
    /// What happens to the sidecar, or to what is behind it.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "kill,stop,between,upstream,blackhole,quota,upgrade,broken-upgrade"
    )]
    troubles: Vec<Trouble>,
    #[arg(long, value_delimiter = ',', default_value = "uring,epoll")]
    drivers: Vec<Driver>,
    /// How often it happens.
    #[arg(long, default_value_t = 200)]
    rounds: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Other work is done on this machine meanwhile: of times the medians are bounded, by twenty times the goals.
    #[arg(long)]
    busy: bool,
    /// MiB of shared memory that the sidecar and an app have used before, both directions together.
    #[arg(long, default_value_t = 256)]
    arenas: usize,
    /// Connections that are to outlive upgrades.
    #[arg(long, default_value_t = 1000)]
    connections: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    Uring,
    Epoll,
}

impl Driver {
    pub fn name(self) -> &'static str {
        match self {
            Driver::Uring => "uring",
            Driver::Epoll => "epoll",
        }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let precedence = Precedence::take();
    if let Err(why) = &precedence {
        println!("times hold what other processes of this machine take, too: {why}");
    }
    let mut all_hold = true;
    for &driver in &options.drivers {
        if driver == Driver::Uring && !sidecar::can_use_uring(&options.shmesh) {
            println!("uring: skipped, this machine refuses io_uring");
            continue;
        }
        for &trouble in &options.troubles {
            match trouble::run(&options, driver, trouble) {
                Ok(verdict) => {
                    println!("\n{trouble:?} × {} on {}, seed {}\n", options.rounds, driver.name(), options.seed);
                    all_hold &= verdict.print();
                }
                Err(why) => println!("\n{trouble:?} on {}: left out, {why}", driver.name()),
            }
        }
    }
    if all_hold { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
