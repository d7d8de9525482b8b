//! Groups of processes that get less of the CPUs than others, or more.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// How much of the CPUs a group gets beside others, at most: `cpu.weight` of a unified hierarchy, `cpu.shares` of one of the CPU's own.
const WEIGHT_MAX: u32 = 10_000;
const SHARES_MAX: u32 = 262_144;

/// What threads of real-time priority of a group may take of each second, µs, where groups have to be allowed any: those that look for stalls
/// take next to nothing.
const REAL_TIME_US: u32 = 100_000;

/// Removed with it, when its processes have ended or left.
pub struct Cgroup {
    folder: PathBuf,
    unified: bool,
}

impl Cgroup {
    /// The error says why there is none.
    pub fn new(purpose: &str) -> Result<Cgroup, String> {
        let name = format!("shmesh-chaos-{purpose}-{}", std::process::id());
        let mut reasons = Vec::new();
        for (root, unified, file) in [
            ("/sys/fs/cgroup", true, "cpu.max"),
            ("/sys/fs/cgroup/cpu", false, "cpu.cfs_quota_us"),
            ("/sys/fs/cgroup/cpu,cpuacct", false, "cpu.cfs_quota_us"),
        ] {
            let group = Cgroup { folder: Path::new(root).join(&name), unified };
            match group.make(Path::new(root), file) {
                Ok(()) => return Ok(group),
                Err(error) => reasons.push(format!("{root}: {error}")),
            }
        }
        Err(format!("no cgroup for CPU time can be made here: {}", reasons.join("; ")))
    }

    fn make(&self, root: &Path, file: &str) -> io::Result<()> {
        // Of another kind, it would let a folder be made.
        fs::metadata(root.join("cgroup.procs"))?;
        if self.unified {
            // It may be so already, or be somebody else's to say.
            let _ = fs::write(root.join("cgroup.subtree_control"), "+cpu");
        }
        fs::create_dir(&self.folder)?;
        fs::metadata(self.folder.join(file))?;
        self.set(
            if self.unified { "cpu.weight" } else { "cpu.shares" },
            if self.unified { WEIGHT_MAX } else { SHARES_MAX },
        )
    }

    fn set(&self, file: &str, value: impl ToString) -> io::Result<()> {
        fs::write(self.folder.join(file), value.to_string())
    }

    /// Puts a process into it.
    pub fn hold(&self, pid: u32) -> io::Result<()> {
        self.set("cgroup.procs", pid)
    }

    /// So many µs out of so many; none: as much as there is.
    pub fn limit(&self, share: Option<(u32, u32)>) -> io::Result<()> {
        let period = share.map_or(100_000, |(_, period)| period);
        if self.unified {
            let quota = share.map_or("max".into(), |(quota, _)| quota.to_string());
            return self.set("cpu.max", format!("{quota} {period}"));
        }
        let quota = share.map_or(-1, |(quota, _)| i64::from(quota));
        self.set("cpu.cfs_period_us", period)?;
        self.set("cpu.cfs_quota_us", quota)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}

/// This process and all that it starts come before what else runs on the machine, which is not what is measured. Until it is dropped.
pub struct Precedence(Cgroup);

impl Precedence {
    /// The error says why not.
    pub fn take() -> Result<Precedence, String> {
        let group = Cgroup::new("first")?;
        if group.folder.join("cpu.rt_runtime_us").exists() {
            let _ = group.set("cpu.rt_runtime_us", REAL_TIME_US);
        }
        group.hold(std::process::id()).map_err(|error| error.to_string())?;
        Ok(Precedence(group))
    }
}

impl Drop for Precedence {
    fn drop(&mut self) {
        let Some(outside) = self.0.folder.parent() else { return };
        let _ = fs::write(outside.join("cgroup.procs"), std::process::id().to_string());
    }
}
