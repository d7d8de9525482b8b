//! A control group with a CPU quota, of version 2 or 1, whichever is mounted.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// The period of a quota, in microseconds: the kernel's default, and that of Kubernetes.
const PERIOD_US: u64 = 100_000;
/// How often the removal of a group is tried, and the pause between: its processes may be ending yet.
const REMOVALS: usize = 50;
const REMOVAL_PAUSE: Duration = Duration::from_millis(20);
/// Where control groups are mounted, and where version 1 has the CPU's.
const MOUNT: &str = "/sys/fs/cgroup";
const CPU_V1: [&str; 2] = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"];

/// A group of its own, removed when dropped.
pub struct Quota {
    folder: PathBuf,
}

impl Quota {
    /// Makes a group that may use `cores` of the CPU and puts a process in it, all its threads included.
    pub fn of(pid: u32, cores: f64) -> Result<Quota, String> {
        let name = format!("shmesh-bench-{pid}");
        let quota_us = (cores * PERIOD_US as f64) as u64;
        let (folder, settings) = match parent()? {
            Parent::V2(folder) => (folder.join(name), vec![("cpu.max", format!("{quota_us} {PERIOD_US}"))]),
            Parent::V1(folder) => (
                folder.join(name),
                vec![("cpu.cfs_period_us", PERIOD_US.to_string()), ("cpu.cfs_quota_us", quota_us.to_string())],
            ),
        };
        fs::create_dir(&folder).map_err(|error| unwritable(&folder, &error))?;
        // From here on it is removed, whatever fails.
        let quota = Quota { folder };
        for (file, value) in settings {
            quota.write(file, &value)?;
        }
        quota.write("cgroup.procs", &pid.to_string())?;
        Ok(quota)
    }

    /// Periods in which the group ran into its quota, so far.
    pub fn throttled(&self) -> Result<f64, String> {
        let file = self.folder.join("cpu.stat");
        let text = fs::read_to_string(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        line.and_then(|count| count.parse().ok()).ok_or_else(|| format!("{} has no nr_throttled", file.display()))
    }

    fn write(&self, file: &str, value: &str) -> Result<(), String> {
        let file = self.folder.join(file);
        fs::write(&file, value).map_err(|error| unwritable(&file, &error))
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // What is in it moves up first, or ends: a group with processes cannot be removed.
        let above = self.folder.parent().map(|folder| folder.join("cgroup.procs"));
        for pid in fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default().lines() {
            if let Some(above) = &above {
                let _ = fs::write(above, pid);
            }
        }
        for _ in 0..REMOVALS {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            thread::sleep(REMOVAL_PAUSE);
        }
        eprintln!("roundtrip: {} is left behind", self.folder.display());
    }
}

enum Parent {
    V2(PathBuf),
    V1(PathBuf),
}

/// Where a group with the CPU controller can be made.
fn parent() -> Result<Parent, String> {
    let root = Path::new(MOUNT);
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    if controllers.split_whitespace().any(|controller| controller == "cpu") {
        // Groups below get it only if it is handed down.
        let handed_down = root.join("cgroup.subtree_control");
        fs::write(&handed_down, "+cpu").map_err(|error| unwritable(&handed_down, &error))?;
        return Ok(Parent::V2(root.to_owned()));
    }
    let v1 = CPU_V1
        .iter()
        .map(Path::new)
        .find(|folder| folder.join("cpu.cfs_quota_us").exists() || folder.join("cpu.shares").exists());
    v1.map(|folder| Parent::V1(folder.to_owned()))
        .ok_or_else(|| format!("there is no control group for the CPU under {MOUNT}"))
}

fn unwritable(file: &Path, error: &std::io::Error) -> String {
    format!("control groups cannot be written here ({}: {error})", file.display())
}
