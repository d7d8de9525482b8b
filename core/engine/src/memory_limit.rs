//! How much memory this process may have: what its cgroup says.

use std::fs;
use std::path::{Path, PathBuf};

/// Where cgroups are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// A limit of so many bytes is none: cgroup v1 says "unlimited" with a number near 2^63.
const UNLIMITED: u64 = 1 << 60;

/// The memory limit of this process's cgroup, or the smallest one above it, in bytes.
pub fn of_this_process() -> Option<u64> {
    of(Path::new(ROOT), &fs::read_to_string("/proc/self/cgroup").ok()?)
}

/// `membership` is the text of /proc/self/cgroup.
fn of(root: &Path, membership: &str) -> Option<u64> {
    membership.lines().filter_map(|line| hierarchy(root, line)).filter_map(smallest).min()
}

/// Of one line `number:controllers:path`: the mounted hierarchy, the path in it, and the name of the file with the limit.
fn hierarchy(root: &Path, line: &str) -> Option<(PathBuf, PathBuf, &'static str)> {
    let mut parts = line.splitn(3, ':');
    let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let (mount, file) = match number {
        "0" => (root.to_path_buf(), "memory.max"),
        _ if controllers.split(',').any(|name| name == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
        _ => return None,
    };
    Some((mount, PathBuf::from(path.trim_start_matches('/')), file))
}

/// The smallest limit from the process's own cgroup up to the root. In a container the path may be the host's, of which only
/// the last part is mounted, at the root: missing folders say nothing.
fn smallest((mount, path, file): (PathBuf, PathBuf, &'static str)) -> Option<u64> {
    let limit = |folder: &Path| fs::read_to_string(mount.join(folder).join(file)).ok()?.trim().parse().ok();
    path.ancestors().filter_map(limit).filter(|&bytes: &u64| bytes < UNLIMITED).min()
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

    #[test]
    fn the_smallest_limit_on_the_way_up_counts() {
        let root = tree(&[
            ("kubepods/memory.max", "1000000\n"),
            ("kubepods/pod/memory.max", "5000\n"),
            ("kubepods/pod/shmesh/memory.max", "max\n"),
            ("kubepods/other/memory.max", "7\n"),
        ]);
        assert_eq!(of(root.path(), "0::/kubepods/pod/shmesh\n"), Some(5000));
        assert_eq!(of(root.path(), "0::/kubepods\n"), Some(1_000_000));
        assert_eq!(of(root.path(), "0::/\n"), None);
    }

    #[test]
    fn a_container_sees_its_own_at_the_root() {
        let root = tree(&[("memory.max", "4096\n")]);
        assert_eq!(of(root.path(), "0::/\n"), Some(4096));
        assert_eq!(of(root.path(), "0::/kubepods/somewhere/on/the/host\n"), Some(4096));
    }

    #[test]
    fn the_first_version_has_a_hierarchy_of_its_own() {
        let root = tree(&[
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/app/memory.limit_in_bytes", "8192\n"),
            ("cpu/app/memory.limit_in_bytes", "1\n"),
        ]);
        assert_eq!(of(root.path(), "5:cpu:/app\n4:memory:/app\n0::/\n"), Some(8192));
        assert_eq!(of(root.path(), "4:hugetlb,memory:/\n"), None, "no limit is none");
    }

    #[test]
    fn what_cannot_be_read_limits_nothing() {
        let root = tree(&[]);
        assert_eq!(of(root.path(), "0::/a/b\nnonsense\n4:memory:/x\n"), None);
    }
}
