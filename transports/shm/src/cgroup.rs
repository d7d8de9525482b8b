//! What this process may have: memory and CPU, as its cgroup says.

use std::fs;
use std::path::{Path, PathBuf};

/// Where cgroups are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// A limit of so many bytes is none: cgroup v1 says "unlimited" with a number near 2^63.
const UNLIMITED: u64 = 1 << 60;

/// The memory limit of this process's cgroup, or the smallest one above it, in bytes.
pub fn memory_limit() -> Option<u64> {
    smallest(Path::new(ROOT), &membership()?, "memory", memory)
}

/// A cgroup of this process, or one above it, whose memory is limited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryGroup {
    folder: PathBuf,
    /// Bytes that it may have before the kernel takes drastic measures: ends processes, or (`memory.high`) stalls them.
    pub limit: u64,
}

/// All of them, from the process's own up.
pub fn memory_groups() -> Vec<MemoryGroup> {
    membership().map(|membership| memory_groups_of(Path::new(ROOT), &membership)).unwrap_or_default()
}

fn memory_groups_of(root: &Path, membership: &str) -> Vec<MemoryGroup> {
    limits(root, membership, "memory", |folder| {
        let both = memory(folder).into_iter().chain(bytes(folder, &["memory.high"]));
        let limit = both.filter(|&limit| limit > 0).min()?;
        Some(MemoryGroup { folder: folder.to_owned(), limit })
    })
    .collect()
}

impl MemoryGroup {
    /// Bytes that count against the limit: all of them. `None`: the group is gone, or nothing counts that.
    pub fn charged(&self) -> Option<u64> {
        bytes(&self.folder, &["memory.current", "memory.usage_in_bytes"])
    }

    /// The same without what the kernel takes back before it does anything drastic: contents of files that nobody looked at lately.
    pub fn used(&self) -> Option<u64> {
        let stat = fs::read_to_string(self.folder.join("memory.stat")).unwrap_or_default();
        // Of all below it, too: version 1 has a name of its own for that.
        let files = number(&stat, "total_inactive_file").or_else(|| number(&stat, "inactive_file"));
        Some(self.charged()?.saturating_sub(files.unwrap_or(0)))
    }
}

/// The CPU quota of this process's cgroup, or the smallest one above it, in thousandths of a core.
pub fn cpu_quota() -> Option<u64> {
    smallest(Path::new(ROOT), &membership()?, "cpu", cpu)
}

/// How often and how long a cgroup was kept from running because its CPU quota was used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttled {
    pub periods: u64,
    pub nanos: u64,
}

/// Of this process's cgroup, or of the one above it that was kept longest. `None`: nothing counts that.
pub fn cpu_throttled() -> Option<Throttled> {
    limits(Path::new(ROOT), &membership()?, "cpu", throttled).max_by_key(|throttled| throttled.nanos)
}

/// The groups of this process, one a line: `number:controllers:path`.
fn membership() -> Option<String> {
    fs::read_to_string("/proc/self/cgroup").ok()
}

/// The smallest limit from the process's own groups up to the roots. In a container the path may be the host's, of which only
/// the last part is mounted, at the root: missing folders say nothing.
fn smallest(root: &Path, membership: &str, controller: &str, read: fn(&Path) -> Option<u64>) -> Option<u64> {
    limits(root, membership, controller, read).min()
}

/// What is read in the process's own groups and all above them.
fn limits<'a, T>(
    root: &'a Path,
    membership: &'a str,
    controller: &'a str,
    read: fn(&Path) -> Option<T>,
) -> impl Iterator<Item = T> + 'a
where
    T: 'a,
{
    let hierarchies = membership.lines().filter_map(move |line| hierarchy(root, line, controller));
    hierarchies.flat_map(|(mount, path)| folders(&mount, &path)).filter_map(move |folder| read(&folder))
}

/// Where the controller's hierarchy is mounted, and the path in it, if the line speaks of it.
fn hierarchy(root: &Path, line: &str, controller: &str) -> Option<(PathBuf, PathBuf)> {
    let mut parts = line.splitn(3, ':');
    let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let mount = match number {
        "0" => root.to_path_buf(),
        _ if controllers.split(',').any(|name| name == controller) => root.join(controller),
        _ => return None,
    };
    Some((mount, PathBuf::from(path.trim_start_matches('/'))))
}

fn folders(mount: &Path, path: &Path) -> Vec<PathBuf> {
    path.ancestors().map(|folder| mount.join(folder)).collect()
}

/// A folder's limit, of version 2 or 1.
fn memory(folder: &Path) -> Option<u64> {
    bytes(folder, &["memory.max", "memory.limit_in_bytes"])
}

/// What the first of these files that is there says, unless that is "unlimited".
fn bytes(folder: &Path, files: &[&str]) -> Option<u64> {
    let text = files.iter().find_map(|file| fs::read_to_string(folder.join(file)).ok())?;
    text.trim().parse().ok().filter(|&bytes: &u64| bytes < UNLIMITED)
}

/// What a file of names and numbers, one a line, says of a name.
fn number(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

/// As [`memory`]: quota and period, in microseconds, in one file or two.
fn cpu(folder: &Path) -> Option<u64> {
    let file = |name| fs::read_to_string(folder.join(name)).ok();
    let text = file("cpu.max").or_else(|| Some(file("cpu.cfs_quota_us")? + &file("cpu.cfs_period_us")?))?;
    let mut words = text.split_whitespace().map(str::parse::<u64>);
    let (quota, period) = (words.next()?.ok()?, words.next()?.ok()?);
    quota.checked_mul(1000)?.checked_div(period)
}

/// A folder's counts, of version 2 or 1.
fn throttled(folder: &Path) -> Option<Throttled> {
    let text = fs::read_to_string(folder.join("cpu.stat")).ok()?;
    let nanos = number(&text, "throttled_usec").map(|usec| usec.saturating_mul(1000));
    Some(Throttled {
        periods: number(&text, "nr_throttled")?,
        nanos: nanos.or_else(|| number(&text, "throttled_time"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::TempDir::new().expect("a folder");
        for (file, content) in files {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().expect("inside")).expect("a folder");
            fs::write(file, content).expect("a file");
        }
        root
    }

    fn memory_of(root: &tempfile::TempDir, membership: &str) -> Option<u64> {
        smallest(root.path(), membership, "memory", memory)
    }

    fn cpu_of(root: &tempfile::TempDir, membership: &str) -> Option<u64> {
        smallest(root.path(), membership, "cpu", cpu)
    }

    #[test]
    fn the_smallest_limit_on_the_way_up_counts() {
        let root = tree(&[
            ("kubepods/memory.max", "1000000\n"),
            ("kubepods/pod/memory.max", "5000\n"),
            ("kubepods/pod/shmesh/memory.max", "max\n"),
            ("kubepods/other/memory.max", "7\n"),
        ]);
        assert_eq!(memory_of(&root, "0::/kubepods/pod/shmesh\n"), Some(5000));
        assert_eq!(memory_of(&root, "0::/kubepods\n"), Some(1_000_000));
        assert_eq!(memory_of(&root, "0::/\n"), None);
    }

    #[test]
    fn a_container_sees_its_own_at_the_root() {
        let root = tree(&[("memory.max", "4096\n")]);
        assert_eq!(memory_of(&root, "0::/\n"), Some(4096));
        assert_eq!(memory_of(&root, "0::/kubepods/somewhere/on/the/host\n"), Some(4096));
    }

    #[test]
    fn the_first_version_has_a_hierarchy_of_its_own() {
        let root = tree(&[
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/app/memory.limit_in_bytes", "8192\n"),
            ("cpu/app/memory.limit_in_bytes", "1\n"),
        ]);
        assert_eq!(memory_of(&root, "5:cpu:/app\n4:memory:/app\n0::/\n"), Some(8192));
        assert_eq!(memory_of(&root, "4:hugetlb,memory:/\n"), None, "no limit is none");
    }

    #[test]
    fn what_is_used_is_without_files_that_nobody_looked_at_lately() {
        let root = tree(&[
            ("pod/memory.max", "max\n"),
            ("pod/memory.high", "900\n"),
            ("pod/memory.current", "500\n"),
            ("pod/memory.stat", "anon 300\nfile 150\ninactive_file 150\nactive_file 50\n"),
            ("pod/app/memory.max", "2000\n"),
            ("pod/app/memory.high", "max\n"),
            ("pod/app/memory.current", "100\n"),
            ("memory/old/memory.limit_in_bytes", "700\n"),
            ("memory/old/memory.usage_in_bytes", "90\n"),
            ("memory/old/memory.stat", "inactive_file 1\ntotal_inactive_file 20\n"),
        ]);
        let of = |membership: &str| -> Vec<_> {
            let groups = memory_groups_of(root.path(), membership);
            groups.iter().map(|group| (group.limit, group.charged(), group.used())).collect()
        };
        assert_eq!(of("0::/pod/app\n"), [(2000, Some(100), Some(100)), (900, Some(500), Some(350))]);
        assert_eq!(of("4:memory:/old\n"), [(700, Some(90), Some(70))]);
        assert_eq!(of("0::/\n"), []);
        let gone = MemoryGroup { folder: root.path().join("gone"), limit: 1 };
        assert_eq!((gone.charged(), gone.used()), (None, None));
    }

    #[test]
    fn what_cannot_be_read_limits_nothing() {
        let root = tree(&[]);
        assert_eq!(memory_of(&root, "0::/a/b\nnonsense\n4:memory:/x\n"), None);
    }

    #[test]
    fn being_kept_from_running_is_counted_by_either_version() {
        let root = tree(&[
            ("cpu.stat", "usage_usec 9\n"),
            ("pod/cpu.stat", "nr_periods 9\nnr_throttled 3\nthrottled_usec 20\nnr_bursts 0\n"),
            ("pod/app/cpu.stat", "usage_usec 7\nnr_periods 9\nnr_throttled 4\nthrottled_usec 10\n"),
            ("cpu/old/cpu.stat", "nr_periods 1\nnr_throttled 1\nthrottled_time 5\n"),
        ]);
        let of = |membership: &str| limits(root.path(), membership, "cpu", throttled).max_by_key(|t| t.nanos);
        assert_eq!(of("0::/pod/app\n"), Some(Throttled { periods: 3, nanos: 20_000 }));
        assert_eq!(of("4:cpu,cpuacct:/old\n0::/\n"), Some(Throttled { periods: 1, nanos: 5 }));
        assert_eq!(of("0::/\n"), None);
    }

    #[test]
    fn a_quota_is_a_share_of_the_period() {
        let root = tree(&[
            ("pod/cpu.max", "200000 100000\n"),
            ("pod/half/cpu.max", "25000 50000\n"),
            ("pod/free/cpu.max", "max 100000\n"),
            ("pod/zero/cpu.max", "5 0\n"),
        ]);
        assert_eq!(cpu_of(&root, "0::/pod/half\n"), Some(500));
        assert_eq!(cpu_of(&root, "0::/pod/free\n"), Some(2000));
        assert_eq!(cpu_of(&root, "0::/pod/zero\n"), Some(2000));
        assert_eq!(cpu_of(&root, "0::/\n"), None);
        let first = tree(&[
            ("cpu/app/cpu.cfs_quota_us", "150000\n"),
            ("cpu/app/cpu.cfs_period_us", "100000\n"),
            ("cpu/cpu.cfs_quota_us", "-1\n"),
            ("cpu/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(cpu_of(&first, "4:cpu,cpuacct:/app\n"), Some(1500));
        assert_eq!(cpu_of(&first, "4:cpu,cpuacct:/\n"), None, "-1 is no quota");
    }
}
