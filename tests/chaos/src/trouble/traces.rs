//! What troubles could leave behind, in the process of the apps and in the sidecar's.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::verdict::Verdict;

/// Descriptors that come and go.
const DESCRIPTORS_SLACK: i64 = 8;

/// KiB that the allocator keeps for later.
const MEMORY_SLACK: i64 = 32 << 10;

/// What ends by itself does so a little later.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

/// What a process has.
#[derive(Clone, Copy)]
pub struct Traces {
    descriptors: i64,
    /// Shared memory of sessions that is mapped.
    segments: i64,
    /// KiB of memory that count.
    memory: i64,
}

impl Traces {
    /// Of this process; of its memory only what is shared, as it keeps a record of all calls.
    pub fn of_apps() -> Traces {
        Traces::of("self", &["RssShmem:"])
    }

    pub fn of_sidecar(pid: u32) -> Traces {
        Traces::of(&pid.to_string(), &["RssShmem:", "RssAnon:"])
    }

    fn of(process: &str, counted: &[&str]) -> Traces {
        let folder = Path::new("/proc").join(process);
        let maps = fs::read_to_string(folder.join("maps")).unwrap_or_default();
        let status = fs::read_to_string(folder.join("status")).unwrap_or_default();
        let kib = |line: &str| {
            let line = counted.iter().find_map(|name| line.strip_prefix(name))?;
            line.trim().strip_suffix(" kB")?.parse::<i64>().ok()
        };
        Traces {
            descriptors: entries(&folder.join("fd")),
            segments: maps.lines().filter(|line| line.contains("memfd:shmesh")).count() as i64,
            memory: status.lines().filter_map(kib).sum(),
        }
    }

    /// Once what ends by itself has ended, so that there is no more than before. Without a before: once no session is left.
    pub fn settled(of: impl Fn() -> Traces, before: Option<Traces>) -> Traces {
        let late = Instant::now() + SETTLES_WITHIN;
        loop {
            let traces = of();
            let is_settled = before.map_or(traces.segments == 0, |before| {
                traces.descriptors <= before.descriptors && traces.segments <= before.segments
            });
            if is_settled || Instant::now() > late {
                return traces;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Says how much more there is than before.
    pub fn compare(self, before: Traces, whose: &str, verdict: &mut Verdict) {
        let descriptors = self.descriptors - before.descriptors;
        verdict.left_behind(&format!("descriptors of {whose}"), descriptors, DESCRIPTORS_SLACK);
        verdict.left_behind(&format!("segments mapped by {whose}"), self.segments - before.segments, 0);
        verdict.left_behind(&format!("KiB of memory of {whose}"), self.memory - before.memory, MEMORY_SLACK);
    }
}

pub fn entries(folder: &Path) -> i64 {
    fs::read_dir(folder).map_or(0, |entries| entries.count() as i64)
}
