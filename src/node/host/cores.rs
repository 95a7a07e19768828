//! The cores that a node may run on, and for how long: affinity and the cgroup's quota.

use std::path::Path;

use super::finding::{Check, Finding, Subject};
use super::tree::Tree;
use crate::base::cast::u64_from;
use crate::node::config::value::Cores;

const AFFINITY: Check = Check::new(Subject::Cores, "affinity");
const QUOTA: Check = Check::new(Subject::Cores, "quota");
const THROTTLING: Check = Check::new(Subject::Cores, "throttling");

const STATUS_FILE: &str = "/proc/self/status";
const ONLINE_FILE: &str = "/sys/devices/system/cpu/online";
const CGROUP_FILE: &str = "/proc/self/cgroup";
const CGROUP_FOLDER: &str = "/sys/fs/cgroup";
const MILLI: u64 = 1_000;

/// How much processor time a cgroup gives.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Quota {
    /// Thousandths of a core.
    millicores: u64,
    /// The file that says so.
    file: String,
}

/// How often a cgroup's processes were stopped because their quota was used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Throttling {
    count: u64,
    stopped_ms: u64,
}

/// What there is to know.
#[derive(Clone, Debug)]
pub(super) struct Allowance {
    allowed: Option<Cores>,
    online: Option<Cores>,
    /// Whether the cgroup's files can be seen at all.
    cgroup_visible: bool,
    /// The smallest of the cgroup's own and those of the ones above it.
    quota: Option<Quota>,
    throttling: Option<Throttling>,
}

impl Allowance {
    pub(super) fn gather(tree: &Tree) -> Self {
        let status = tree.text(STATUS_FILE).unwrap_or_default();
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let folders = cgroup_folders(tree);
        let quotas = folders.iter().filter_map(|folder| quota(tree, folder));
        Self {
            allowed: allowed.and_then(|list| Cores::parse(list.trim()).ok()),
            online: tree.text(ONLINE_FILE).and_then(|list| Cores::parse(&list).ok()),
            cgroup_visible: folders.iter().any(|folder| tree.has(folder)),
            quota: quotas.min_by_key(|quota| quota.millicores),
            throttling: folders.iter().find_map(|folder| throttling(tree, folder)),
        }
    }

    /// The cores that the machine has.
    pub(super) fn online(&self) -> Option<&Cores> {
        self.online.as_ref()
    }

    pub(super) fn check(&self, chosen: &Cores) -> Vec<Finding> {
        vec![self.check_affinity(chosen), self.check_quota(chosen), self.check_throttling()]
    }

    fn check_affinity(&self, chosen: &Cores) -> Finding {
        let Some(allowed) = &self.allowed else {
            return AFFINITY.not_visible(STATUS_FILE);
        };
        let missing = difference(chosen, allowed);
        match cores_of(&missing) {
            None => AFFINITY.ok(format!("{chosen} chosen, {allowed} allowed")),
            Some(missing) => AFFINITY.problem(
                format!("this process may run on {allowed}, not on {missing}: a start fails"),
                format!(
                    "taskset -c {chosen} p2pmap serve …, CPUAffinity={chosen} in a systemd unit, \
                     docker run --cpuset-cpus {chosen} …"
                ),
            ),
        }
    }

    /// A loop that spins uses all of its core: with a quota below that, the kernel stops the whole
    /// process for the rest of each period (100 ms by default).
    fn check_quota(&self, chosen: &Cores) -> Finding {
        let Some(quota) = &self.quota else {
            return if self.cgroup_visible {
                QUOTA.ok("none")
            } else {
                QUOTA.not_visible(CGROUP_FOLDER)
            };
        };
        let given =
            format!("{}.{:02} cores", quota.millicores / MILLI, quota.millicores % MILLI / 10);
        let count = chosen.count();
        let mend = format!(
            "give cores and not time: docker run --cpuset-cpus {chosen} … without --cpus, \
             CPUAffinity={chosen} without CPUQuota in a systemd unit ({})",
            quota.file
        );
        if quota.millicores < u64_from(count) * MILLI {
            let found = format!(
                "{given} for {count} chosen: once they are used up all loops stand still until \
                 the period ends"
            );
            return QUOTA.problem(found, mend);
        }
        if !quota.millicores.is_multiple_of(MILLI) {
            return QUOTA.advice(format!("{given}, not a whole number of them"), mend);
        }
        QUOTA.ok(format!("{given} for {count} chosen"))
    }

    fn check_throttling(&self) -> Finding {
        match self.throttling {
            Some(Throttling { count: 0, .. }) => THROTTLING.ok("never"),
            Some(Throttling { count, stopped_ms }) => THROTTLING.advice(
                format!("this cgroup was stopped {count} times so far, for {stopped_ms} ms in all"),
                "raise or remove the quota; then see whether nr_throttled in cpu.stat still grows",
            ),
            None if self.cgroup_visible && self.quota.is_none() => {
                THROTTLING.ok("never: there is no quota")
            }
            None => THROTTLING.not_visible(format!("cpu.stat in {CGROUP_FOLDER}")),
        }
    }
}

/// The numbers of `of` that aren't in `other`.
pub(super) fn difference(of: &Cores, other: &Cores) -> Vec<u16> {
    let numbers = of.numbers().iter().copied();
    numbers.filter(|core| !other.numbers().contains(core)).collect()
}

/// Those cores, if there are any.
pub(super) fn cores_of(numbers: &[u16]) -> Option<Cores> {
    let list: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    Cores::parse(&list.join(",")).ok()
}

/// The folders of the cgroup that rules processor time, its own first, then those above it.
fn cgroup_folders(tree: &Tree) -> Vec<String> {
    let cgroups = tree.text(CGROUP_FILE).unwrap_or_default();
    let mut folders = Vec::new();
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        // Version 2 has one tree for all controllers, version 1 one for some of them.
        let mount = match controllers {
            "" => CGROUP_FOLDER.to_owned(),
            _ if controllers.split(',').any(|name| name == "cpu") => {
                format!("{CGROUP_FOLDER}/{controllers}")
            }
            _ => continue,
        };
        for ancestor in Path::new(path).ancestors() {
            let below = ancestor.to_string_lossy();
            folders.push(format!("{mount}{}", below.trim_end_matches('/')));
        }
    }
    folders
}

fn quota(tree: &Tree, folder: &str) -> Option<Quota> {
    let (quota_us, period_us, file) = match tree.text(format!("{folder}/cpu.max")) {
        Some(max) => {
            let (quota, period) = max.split_once(' ')?;
            (quota.parse::<u64>().ok()?, period.trim().parse().ok()?, format!("{folder}/cpu.max"))
        }
        None => {
            let file = format!("{folder}/cpu.cfs_quota_us");
            // −1 is none, and no number of ours.
            (tree.number(&file)?, tree.number(format!("{folder}/cpu.cfs_period_us"))?, file)
        }
    };
    let millicores = quota_us.checked_mul(MILLI)?.checked_div(period_us)?;
    Some(Quota { millicores, file })
}

fn throttling(tree: &Tree, folder: &str) -> Option<Throttling> {
    let stat = tree.text(format!("{folder}/cpu.stat"))?;
    let value = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<u64>().ok()
    };
    let count = value("nr_throttled ")?;
    let us = value("throttled_usec ").or_else(|| value("throttled_time ").map(|ns| ns / MILLI));
    Some(Throttling { count, stopped_ms: us.unwrap_or_default() / MILLI })
}

/// The cores from 0 on.
#[cfg(test)]
pub(super) fn first_cores(count: u16) -> Cores {
    cores_of(&(0..count).collect::<Vec<_>>()).unwrap()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn with_quota(millicores: u64) -> Allowance {
        Allowance {
            allowed: Some(first_cores(4)),
            online: Some(first_cores(8)),
            cgroup_visible: true,
            quota: Some(Quota { millicores, file: "/f".into() }),
            throttling: None,
        }
    }

    #[test]
    fn quota_below_the_chosen_cores_is_a_problem_and_a_broken_one_advice() {
        let verdict =
            |millicores, count| with_quota(millicores).check_quota(&first_cores(count)).verdict;
        assert_eq!(verdict(1_999, 2), Verdict::Problem);
        assert_eq!(verdict(2_000, 2), Verdict::Ok);
        assert_eq!(verdict(2_500, 2), Verdict::Advice);
    }

    #[test]
    fn core_outside_of_the_affinity_is_a_problem() {
        let found = with_quota(64_000).check_affinity(&first_cores(6));
        assert_eq!(found.verdict, Verdict::Problem);
        assert!(found.found.contains("not on 4-5"), "{}", found.found);
    }
}
