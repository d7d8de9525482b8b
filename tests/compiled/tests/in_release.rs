//! Runs the probes as they are compiled in a release; in a debug build the optimiser would have nothing to undo.

#![forbid(unsafe_code)]

use std::process::Command;

#[test]
fn memory_that_a_peer_writes_is_read_once() {
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--release", "--package", env!("CARGO_PKG_NAME")])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
}
