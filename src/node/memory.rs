//! How much memory the process may have: what the machine has, or less if its control groups say
//! so.

use std::fs;
use std::path::{Path, PathBuf};

use super::config::value::MemoryMax;

/// What all maps of the node may take; none: as much as fits, for nobody says how much there is.
#[must_use]
pub fn maps_size_bytes_max(max: MemoryMax) -> Option<u64> {
    match max {
        MemoryMax::Bytes(size_bytes) => Some(size_bytes),
        MemoryMax::Percent(percent) => {
            let available = available_size_bytes(Path::new("/"))?;
            Some(available / 100 * u64::from(percent))
        }
    }
}

/// The memory that this process may have, with the system's files below `root`.
fn available_size_bytes(root: &Path) -> Option<u64> {
    let machine = read(&root.join("proc/meminfo")).and_then(|text| total_of(&text));
    let groups = read(&root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = limit_files(&groups).into_iter();
    let limits = limits.filter_map(|file| read(&root.join(file))?.trim().parse().ok());
    limits.chain(machine).min()
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// `MemTotal` of `/proc/meminfo`.
fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}

/// The files with the limits of the process's control group and of all groups around it, by what
/// `/proc/self/cgroup` says; a file without a limit says `max`. In a container the group's path may
/// be that of the host, of which only the mount's root is seen: it is always among them.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (mount, name) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let inner = Path::new(path.trim_start_matches('/'));
        // A path that leaves the mount belongs to a group that this process doesn't see.
        let ancestors = inner.ancestors().filter(|group| !group.starts_with(".."));
        files.extend(ancestors.map(|group| Path::new(mount).join(group).join(name)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const MEMINFO: (&str, &str) =
        ("proc/meminfo", "MemTotal:       16384 kB\nMemFree:         1000 kB\n");

    #[test]
    fn tightest_limit_of_all_groups_counts() {
        let root = root(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/a.slice/b.service\n"),
            ("sys/fs/cgroup/a.slice/b.service/memory.max", "max\n"),
            ("sys/fs/cgroup/a.slice/memory.max", "5000000\n"),
        ]);
        assert_eq!(available_size_bytes(root.path()), Some(5_000_000));
    }

    #[test]
    fn group_of_a_container_is_found_at_the_root_of_its_mount() {
        let root = root(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/../../docker/0123\n"),
            ("sys/fs/cgroup/memory.max", "7000000\n"),
        ]);
        assert_eq!(available_size_bytes(root.path()), Some(7_000_000));
    }

    #[test]
    fn limit_of_the_first_version_counts_and_its_huge_number_for_none_does_not() {
        let cgroup = ("proc/self/cgroup", "5:cpu,memory:/x\n4:cpuset:/y\n");
        let limit = "sys/fs/cgroup/memory/x/memory.limit_in_bytes";
        let limited = root(&[MEMINFO, cgroup, (limit, "3000000\n")]);
        assert_eq!(available_size_bytes(limited.path()), Some(3_000_000));
        let unlimited = root(&[MEMINFO, cgroup, (limit, "9223372036854771712\n")]);
        assert_eq!(available_size_bytes(unlimited.path()), Some(16 << 20));
    }

    #[test]
    fn machine_that_says_nothing_has_no_limit() {
        assert_eq!(available_size_bytes(root(&[]).path()), None);
        let garbled = root(&[("proc/meminfo", "MemTotal: many\n"), ("proc/self/cgroup", "?\n:")]);
        assert_eq!(available_size_bytes(garbled.path()), None);
    }

    #[test]
    fn this_machine_has_memory_and_a_share_of_it_is_less() {
        let share = maps_size_bytes_max(MemoryMax::Percent(50)).unwrap();
        assert!(share > 0 && share < available_size_bytes(Path::new("/")).unwrap());
        assert_eq!(maps_size_bytes_max(MemoryMax::Bytes(7)), Some(7));
    }
}
