//! The `shmesh` binary: the sidecar itself, and the clients and services to try it with.
//!
//! Exit codes: 0 done, 1 it could not be done (one sentence on stderr says why), 2 wrong usage.

#![forbid(unsafe_code)]

mod address;
mod cli;
mod socket;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
