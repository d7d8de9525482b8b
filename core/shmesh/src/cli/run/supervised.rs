//! A sidecar that a supervisor has started.

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use tracing::warn;

/// The environment variable in which a supervisor tells its children its process id.
pub const SUPERVISOR: &str = "SHMESH_SUPERVISOR";

/// Whoever started this process, if it is a supervisor. What such a process starts in turn has another parent.
pub fn supervisor() -> Option<Pid> {
    let parent = getppid();
    let named: i32 = std::env::var(SUPERVISOR).ok()?.parse().ok()?;
    (parent.as_raw() == named).then_some(parent)
}

/// Lets this process be told to end, as by SIGTERM, when its supervisor dies: nobody would start it again, and it would stand in the way
/// of the next one. Says whether the supervisor is still there.
pub fn end_with_supervisor() -> bool {
    let Some(supervisor) = supervisor() else { return true };
    if let Err(error) = set_pdeathsig(Signal::SIGTERM) {
        warn!("this process goes on if its supervisor dies: {error}");
    }
    // It may have died before that was said.
    getppid() == supervisor
}
