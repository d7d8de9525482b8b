//! A cgroup that gives the sidecar next to no time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use shmesh_client::Client;

use super::{Results, World};
use crate::app::Callers;
use crate::verdict::Verdict;

/// So many µs out of so many: it stands still for shorter than apps wait for a sign of life, and for longer.
const SHARES_US: [(u32, u32); 4] = [(20_000, 100_000), (2_000, 100_000), (1_000, 300_000), (1_000, 900_000)];

/// How long that lasts.
const STARVED: Duration = Duration::from_millis(1_500);

/// Once it has its time again calls go through it again, all of them: after the longest pause that the shim makes between two looks, the
/// steps of a return, and what a busy machine adds.
const RETURNS_WITHIN: Duration = Duration::from_secs(60);

/// The group; removed with it.
pub struct Quota {
    folder: PathBuf,
    unified: bool,
}

impl Quota {
    /// The error says why there is none.
    pub fn new() -> Result<Quota, String> {
        let name = format!("shmesh-chaos-{}", std::process::id());
        let mut reasons = Vec::new();
        for (root, unified, file) in [
            ("/sys/fs/cgroup", true, "cpu.max"),
            ("/sys/fs/cgroup/cpu", false, "cpu.cfs_quota_us"),
            ("/sys/fs/cgroup/cpu,cpuacct", false, "cpu.cfs_quota_us"),
        ] {
            let quota = Quota { folder: Path::new(root).join(&name), unified };
            match quota.make(Path::new(root), file) {
                Ok(()) => return Ok(quota),
                Err(error) => reasons.push(format!("{root}: {error}")),
            }
        }
        Err(format!("no cgroup with a CPU quota can be made here: {}", reasons.join("; ")))
    }

    fn make(&self, root: &Path, file: &str) -> io::Result<()> {
        // Of another kind, it would let a folder be made.
        fs::metadata(root.join("cgroup.procs"))?;
        if self.unified {
            // It may be so already, or be somebody else's to say.
            let _ = fs::write(root.join("cgroup.subtree_control"), "+cpu");
        }
        fs::create_dir(&self.folder)?;
        fs::metadata(self.folder.join(file)).map(drop)
    }

    /// Puts a process into it.
    fn hold(&self, pid: u32) -> io::Result<()> {
        fs::write(self.folder.join("cgroup.procs"), pid.to_string())
    }

    /// None: as much as there is.
    fn set(&self, share: Option<(u32, u32)>) -> io::Result<()> {
        let period = share.map_or(100_000, |(_, period)| period);
        if self.unified {
            let quota = share.map_or("max".into(), |(quota, _)| quota.to_string());
            return fs::write(self.folder.join("cpu.max"), format!("{quota} {period}"));
        }
        let quota = share.map_or(-1, |(quota, _)| i64::from(quota));
        fs::write(self.folder.join("cpu.cfs_period_us"), period.to_string())?;
        fs::write(self.folder.join("cpu.cfs_quota_us"), quota.to_string())
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // The sidecar that was in it has ended.
        let _ = fs::remove_dir(&self.folder);
    }
}

impl World {
    pub fn starve(&mut self, shim: Callers, client: &Client, verdict: &mut Verdict) -> Results {
        let quota = self.quota.as_ref().expect("it was made for this");
        let share = SHARES_US[self.random.below(SHARES_US.len() as u64) as usize];
        quota.hold(self.sidecar.pid()).expect("a cgroup takes it");
        quota.set(Some(share)).expect("a cgroup takes its quota");
        thread::sleep(STARVED);
        quota.set(None).expect("a cgroup takes its quota");
        let lifted = Instant::now();
        let calls = shim.finish();
        self.settle(client);
        verdict.returned(lifted.elapsed(), RETURNS_WITHIN);
        (calls, Instant::now())
    }
}
