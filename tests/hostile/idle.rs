//! Whether a process does nothing while there is nothing to do.

use std::time::Duration;

use crate::process::{Process, until};

/// How long it is watched, and how much of that it may work.
const WATCHED: Duration = Duration::from_millis(300);
const WORK_MAX: Duration = Duration::from_millis(30);

/// Waits until the process does next to nothing.
pub fn expect_idle(process: &Process) {
    until("the sidecar has nothing to do", || {
        let before = worked(process);
        std::thread::sleep(WATCHED);
        worked(process) - before <= WORK_MAX
    });
}

/// Processor time that it has used, user and system.
fn worked(process: &Process) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).expect("it runs");
    // Behind the command, which may hold anything: utime and stime are the fields 14 and 15, in ticks of 10 ms.
    let (_, fields) = stat.rsplit_once(") ").expect("a command");
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(10 * ticks)
}
