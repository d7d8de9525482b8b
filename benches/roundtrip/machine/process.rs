//! What `/proc` says of a process: CPU time, switches, memory.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Bytes of a block as `stat` counts them, whatever the file system.
const STAT_BLOCK_BYTES: u64 = 512;

/// Resident memory in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// `RssAnon`: the process's own.
    pub anon: u64,
    /// `RssShmem`: touched pages of mapped memfds.
    pub shmem: u64,
    /// `VmRSS`: all, the binary's pages included.
    pub all: u64,
}

/// CPU time of all threads, in nanoseconds, kernel time included (`/proc/PID/task/*/schedstat`).
pub fn cpu_ns(pid: u32) -> Result<f64, String> {
    let mut sum = 0.0;
    for task in tasks(pid)? {
        // A thread may end while it is looked at.
        let Ok(text) = fs::read_to_string(task.join("schedstat")) else { continue };
        sum += text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0);
    }
    Ok(sum)
}

/// How often threads were switched to: each wake-up is at least one.
pub fn switches(pid: u32) -> Result<f64, String> {
    let mut sum = 0;
    for task in tasks(pid)? {
        let Ok(text) = fs::read_to_string(task.join("status")) else { continue };
        sum += field(&text, "voluntary_ctxt_switches:") + field(&text, "nonvoluntary_ctxt_switches:");
    }
    Ok(sum as f64)
}

pub fn memory(pid: u32) -> Result<Memory, String> {
    let text = read(pid, "status")?;
    let kilobytes = |name| field(&text, name) * 1024;
    Ok(Memory { anon: kilobytes("RssAnon:"), shmem: kilobytes("RssShmem:"), all: kilobytes("VmRSS:") })
}

/// Bytes of memory that the memfds which a process has mapped or open take, whoever touched them.
pub fn memfd_bytes(pid: u32) -> Result<u64, String> {
    let mut sizes = BTreeMap::new();
    for folder in ["fd", "map_files"] {
        let entries = fs::read_dir(format!("/proc/{pid}/{folder}")).map_err(|error| wrong(pid, folder, &error))?;
        for entry in entries.flatten() {
            // `/memfd:NAME (deleted)`, which is one word to a path.
            let is_memfd = fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:"));
            // Follows the link to the memfd itself.
            if let (true, Ok(metadata)) = (is_memfd, fs::metadata(entry.path())) {
                sizes.insert((metadata.dev(), metadata.ino()), metadata.blocks() * STAT_BLOCK_BYTES);
            }
        }
    }
    Ok(sizes.values().sum())
}

fn tasks(pid: u32) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| wrong(pid, "task", &error))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

fn read(pid: u32, file: &str) -> Result<String, String> {
    fs::read_to_string(format!("/proc/{pid}/{file}")).map_err(|error| wrong(pid, file, &error))
}

fn wrong(pid: u32, what: &str, error: &std::io::Error) -> String {
    format!("cannot read /proc/{pid}/{what}: {error}")
}

/// The number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or(0)
}
