//! Which cores this process may run on: checked before an executor is pinned to one, so that a
//! container's smaller CPU set is a clear line and not a failure deep in the runtime; and how many
//! of them it runs on when nobody says.

use std::fmt;
use std::fs;
use std::path::Path;

use super::config::value::Cores;

/// A core that was asked for and can't be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacementError {
    /// The core.
    pub core: u16,
    /// The cores that the process may run on; empty if the kernel doesn't say.
    pub allowed: Vec<usize>,
}

impl fmt::Display for PlacementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let allowed: Vec<String> = self.allowed.iter().map(ToString::to_string).collect();
        write!(
            f,
            "cores: core {} is not available to this process; it may run on {}",
            self.core,
            if allowed.is_empty() { "none that are known".to_owned() } else { allowed.join(",") }
        )
    }
}

impl std::error::Error for PlacementError {}

/// The cores that a node runs on when nobody says: those that the process may run on, but no more
/// than its control groups give it time for. They would only be stopped in the middle of a turn.
#[must_use]
pub fn available() -> Cores {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let quota = quota_of(Path::new("/sys/fs/cgroup"), &groups);
    choose(ids.into_iter().map(|core| core.id).collect(), quota)
}

fn choose(mut allowed: Vec<usize>, quota: Option<usize>) -> Cores {
    allowed.sort_unstable();
    let count = quota.unwrap_or(allowed.len()).max(1);
    let numbers = allowed.into_iter().take(count).filter_map(|core| u16::try_from(core).ok());
    Cores::of(numbers)
}

/// How many cores' time the control groups in `groups` (as in `/proc/self/cgroup`) and those above
/// them allow, rounded up; none: as much as there is, or they aren't to be seen.
fn quota_of(root: &Path, groups: &str) -> Option<usize> {
    let paths = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        match controllers {
            "" => Some((root.to_owned(), path)),
            list if list.split(',').any(|name| name == "cpu") => Some((root.join("cpu"), path)),
            _ => None,
        }
    });
    let of_group = |group: &Path| quota_v2(group).or_else(|| quota_v1(group));
    let quotas = paths.flat_map(|(root, path)| {
        let group = root.join(path);
        let above = group.ancestors().take_while(|group| group.starts_with(&root));
        above.filter_map(of_group).collect::<Vec<_>>()
    });
    quotas.min()
}

fn quota_v2(group: &Path) -> Option<usize> {
    let text = fs::read_to_string(group.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    cores_of(quota.parse().ok()?, period.parse().ok()?)
}

fn quota_v1(group: &Path) -> Option<usize> {
    let number = |name| fs::read_to_string(group.join(name)).ok()?.trim().parse().ok();
    cores_of(number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?)
}

fn cores_of(quota_us: usize, period_us: usize) -> Option<usize> {
    (period_us > 0).then(|| quota_us.div_ceil(period_us).max(1))
}

/// Checks that the process may run on all of `cores`.
///
/// # Errors
/// The first core on which it may not.
pub fn check(cores: &Cores) -> Result<(), PlacementError> {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    check_against(cores, ids.into_iter().map(|core| core.id).collect())
}

fn check_against(cores: &Cores, allowed: Vec<usize>) -> Result<(), PlacementError> {
    match cores.numbers().iter().find(|core| !allowed.contains(&usize::from(**core))) {
        Some(core) => Err(PlacementError { core: *core, allowed }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_outside_the_process_affinity_is_refused_by_number() {
        let cores = Cores::parse("2-3").unwrap();
        assert_eq!(check_against(&cores, vec![1, 2, 3]), Ok(()));
        let refused = check_against(&cores, vec![0, 2]).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "cores: core 3 is not available to this process; it may run on 0,2"
        );
    }

    #[test]
    fn default_is_all_allowed_cores_as_far_as_there_is_time_for_them() {
        assert_eq!(choose(vec![3, 1, 2], None).numbers(), [1, 2, 3]);
        assert_eq!(choose(vec![3, 1, 2], Some(2)).numbers(), [1, 2]);
        assert_eq!(choose(vec![3, 1, 2], Some(0)).numbers(), [1]);
        assert_eq!(choose(vec![4], Some(9)).numbers(), [4]);
        assert_eq!(choose(Vec::new(), None).numbers(), [0], "nothing is known: the first");
    }

    #[test]
    fn least_quota_of_a_group_and_those_above_it_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let quota = |groups| quota_of(root.path(), groups);
        assert_eq!(quota("0::/a/b\n"), None, "nothing is to be seen");
        write("a/b/cpu.max", "max 100000\n");
        assert_eq!(quota("0::/a/b\n"), None);
        write("a/cpu.max", "150000 100000\n");
        assert_eq!(quota("0::/a/b\n"), Some(2), "one and a half, rounded up");
        write("a/b/cpu.max", "1000 100000\n");
        assert_eq!(quota("0::/a/b\n"), Some(1));
        assert_eq!(quota("0::/elsewhere\n"), None);
        write("cpu/c/cpu.cfs_quota_us", "-1\n");
        write("cpu/c/cpu.cfs_period_us", "100000\n");
        let groups = "3:memory:/c\n4:cpu,cpuacct:/c\n";
        assert_eq!(quota(groups), None);
        write("cpu/c/cpu.cfs_quota_us", "300000\n");
        assert_eq!(quota(groups), Some(3));
        assert_eq!(quota("nonsense\n::\n"), None);
    }

    #[test]
    fn this_process_may_run_somewhere() {
        let here = core_affinity::get_core_ids().unwrap()[0].id;
        assert_eq!(check(&Cores::parse(&here.to_string()).unwrap()), Ok(()));
    }
}
