//! The rows of the table of goals (docs/BENCHMARKS.md): each measures one thing beside what it is to be held against, in one
//! run, and says how that stands to its goal.

mod busy;
mod cpu;
mod dubbo_proxy;
mod idle;
mod in_flight;
mod one_in_flight;
mod open_loop;
mod payloads;
mod proxies;
mod quota;
mod saturated;
mod syscalls;

use crate::goal::Report;
use crate::options::Options;
use crate::path::Tools;

/// What every row is given.
pub struct Bench<'a> {
    pub options: &'a Options,
    pub tools: &'a Tools,
}

/// One row, or a few that are measured together.
pub struct Row {
    /// The word that selects it.
    pub name: &'static str,
    pub about: &'static str,
    /// Measures; what fails as a whole is an error, what cannot be had here is a missing number of the report.
    pub run: fn(&Bench<'_>, &mut Report) -> Result<(), String>,
}

/// All rows, in the order of the table.
pub const ALL: [Row; 13] = [
    Row {
        name: one_in_flight::NAME,
        about: "64 bytes, one call at a time, against direct TCP and UDS",
        run: one_in_flight::run,
    },
    Row {
        name: in_flight::NAME,
        about: "64 calls in flight over one lane, against wrk and nginx",
        run: in_flight::run,
    },
    Row { name: payloads::NAME, about: "64 B to 4 MB, against direct UDS and shmipc", run: payloads::run },
    Row { name: cpu::NAME, about: "CPU time of the sidecar for a call, against Envoy's", run: cpu::run },
    Row { name: syscalls::NAME, about: "system calls of all three processes for a call", run: syscalls::run },
    Row { name: idle::NAME, about: "100 lanes at rest: wake-ups and memory", run: idle::run },
    Row { name: idle::NEIGHBOURS, about: "one busy lane among 1,000 idle ones", run: idle::run_neighbours },
    Row { name: open_loop::NAME, about: "1,000 calls a second whatever the answers do", run: open_loop::run },
    Row { name: busy::NAME, about: "a CPU hog on each core", run: busy::run },
    Row { name: quota::NAME, about: "half a core for the sidecar, against parking at once", run: quota::run },
    Row { name: proxies::NAME, about: "HTTP from TCP to TCP, against HAProxy and Envoy", run: proxies::run },
    Row { name: dubbo_proxy::NAME, about: "Dubbo from TCP to TCP, against Envoy's dubbo_proxy", run: dubbo_proxy::run },
    Row { name: saturated::NAME, about: "a neighbour that moves large payloads", run: saturated::run },
];
