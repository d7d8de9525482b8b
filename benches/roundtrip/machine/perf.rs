//! System calls, counted by the kernel's own trace points through `perf stat`: no ptrace, so that what is counted runs as
//! it does otherwise.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use crate::scene::command_of;
use crate::shmesh::{self, Measured};

/// What is said when it does not work here.
const HOW_TO_GET: &str = "needs perf (apt install linux-perf) and the right to use trace points (root, tracefs)";
/// All system calls.
const ALL: &str = "raw_syscalls:sys_enter";
/// The one that waiting consists of.
const YIELD: &str = "sched_yield";
/// Those that a call may cost, to see which it is.
const KINDS: [&str; 11] = [
    YIELD,
    "io_uring_enter",
    "epoll_wait",
    "epoll_pwait2",
    "ppoll",
    "poll",
    "sendto",
    "recvfrom",
    "write",
    "read",
    "futex",
];

/// The system calls of one process while the client ran.
#[derive(Clone, Debug)]
pub struct Counted {
    pub name: &'static str,
    /// All but `sched_yield`.
    pub calls: f64,
    pub yields: f64,
    /// The most frequent others, by name.
    pub kinds: Vec<(&'static str, f64)>,
}

/// Whether system calls can be counted here; if not, why.
pub fn probe() -> Result<(), String> {
    let output = Command::new("perf").args(["stat", "-x,", "-e", ALL, "true"]).stdin(Stdio::null()).output();
    let counted = output.ok().filter(|output| output.status.success());
    let text = counted.map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).unwrap_or_default();
    match text.lines().any(|line| line.split(',').next().is_some_and(|count| count.parse::<u64>().is_ok())) {
        true => Ok(()),
        false => Err(HOW_TO_GET.to_owned()),
    }
}

/// Runs a client and counts its system calls from its first to its last, and meanwhile those of `others`. `folder` takes
/// the counts.
pub fn count(
    client: &[OsString],
    others: &[(&'static str, u32)],
    folder: &dyn Fn(&str) -> String,
) -> Result<(Measured, Vec<Counted>), String> {
    let events: Vec<String> = KINDS.iter().map(|kind| format!("syscalls:sys_enter_{kind}")).collect();
    let events = format!("{ALL},{}", events.join(","));
    // perf with a process counts that process while its command runs, without one the command itself: nested, so that
    // all count over the same time.
    let mut line: Vec<OsString> = Vec::new();
    let mut names = Vec::new();
    for (name, pid) in others {
        let file = folder(&format!("perf-{name}"));
        let pid = pid.to_string();
        line.extend(["perf", "stat", "-x,", "-o", &file, "-e", &events, "-p", &pid, "--"].map(Into::into));
        names.push((*name, file));
    }
    let file = folder("perf-client");
    line.extend(["perf", "stat", "-x,", "-o", &file, "-e", &events, "--"].map(Into::into));
    names.push(("client", file));
    line.extend_from_slice(client);
    let measured = shmesh::measure(&mut command_of(&line))?;
    let mut counted = Vec::new();
    for (name, file) in names {
        let text = std::fs::read_to_string(&file).map_err(|error| format!("perf left no {file}: {error}"))?;
        counted.push(read(name, &text)?);
    }
    Ok((measured, counted))
}

/// Reads `count,unit,event,…` lines.
fn read(name: &'static str, text: &str) -> Result<Counted, String> {
    let value_of = |event: &str| {
        let line = text.lines().find(|line| line.split(',').nth(2) == Some(event));
        line.and_then(|line| line.split(',').next()).and_then(|count| count.parse::<f64>().ok())
    };
    let all =
        value_of(ALL).ok_or_else(|| format!("perf did not count the system calls of the {name}: {HOW_TO_GET}"))?;
    let mut kinds: Vec<(&str, f64)> = KINDS
        .iter()
        .map(|kind| (*kind, value_of(&format!("syscalls:sys_enter_{kind}")).unwrap_or(0.0)))
        .filter(|(_, count)| *count > 0.0)
        .collect();
    kinds.sort_by(|a, b| b.1.total_cmp(&a.1));
    let yields = kinds.iter().find(|(kind, _)| *kind == YIELD).map_or(0.0, |(_, count)| *count);
    kinds.retain(|(kind, _)| *kind != YIELD);
    Ok(Counted { name, calls: all - yields, yields, kinds })
}
