//! What was validated is what is used: asked of the compiled code. Memory that a peer writes is put behind a [`trap`] that
//! counts every instruction that reads it and changes it behind each; then the functions that read it run, as
//! they are compiled in a release. docs/adr/0002-memory-that-a-peer-writes.md says why this is needed.
//!
//!     cargo run --release -p shmesh-compiled
#![deny(unsafe_code)]

use std::process::ExitCode;

#[cfg(target_arch = "x86_64")]
mod cases;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod naive;
#[cfg(target_arch = "x86_64")]
mod probes;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod trap;

#[cfg(not(target_arch = "x86_64"))]
fn main() -> ExitCode {
    println!("skipped: the trap is written for x86-64");
    ExitCode::SUCCESS
}

#[cfg(target_arch = "x86_64")]
fn main() -> ExitCode {
    let mut failed = false;
    for (name, case) in cases::CASES {
        let (word, detail) = match case() {
            Ok(detail) => ("ok", detail),
            Err(detail) => ("NOT OK", detail),
        };
        failed |= word != "ok";
        println!("{word}: {name}: {detail}");
    }
    // A detector that finds nothing proves nothing.
    for (name, control) in cases::CONTROLS {
        match control() {
            Err(found) => println!("ok: found in the naive program ({name}): {found}"),
            Ok(detail) => {
                failed = true;
                println!("NOT OK: the naive program ({name}) reads twice, and it was not found: {detail}");
            }
        }
    }
    ExitCode::from(u8::from(failed))
}
