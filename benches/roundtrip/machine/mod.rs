//! What the machine tells of processes: `/proc`, counted system calls, control groups.

pub mod cgroup;
pub mod perf;
pub mod process;
