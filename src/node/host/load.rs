//! Who else wants the machine right now: other processes on the chosen cores, and the host above a
//! virtual machine.

use super::finding::{Check, Finding, Subject};
use super::tree::Tree;
use crate::base::limits::{
    HOST_BUSY_PERCENT_MAX, HOST_PRESSURE_PERCENT_MAX, HOST_STEAL_PERCENT_MAX,
};
use crate::node::config::value::Cores;

const STEAL: Check = Check::new(Subject::Load, "steal");
const BUSY: Check = Check::new(Subject::Load, "busy");
const CPU_PRESSURE: Check = Check::new(Subject::Load, "cpu-pressure");
const IO_PRESSURE: Check = Check::new(Subject::Load, "io-pressure");

const STAT_FILE: &str = "/proc/stat";
const PRESSURE_FOLDER: &str = "/proc/pressure";

/// The ticks of a core since the start, by what it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ticks {
    total: u64,
    idle: u64,
    stolen: u64,
}

/// One reading of all cores' ticks.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading(Vec<(u16, Ticks)>);

impl Reading {
    pub(super) fn take(tree: &Tree) -> Self {
        let stat = tree.text(STAT_FILE).unwrap_or_default();
        Self(stat.lines().filter_map(ticks).collect())
    }

    fn of(&self, core: u16) -> Option<Ticks> {
        self.0.iter().find(|(number, _)| *number == core).map(|(_, ticks)| *ticks)
    }
}

/// `cpu0 user nice system idle iowait irq softirq steal guest guest_nice`; the guests' ticks are
/// among the user's.
fn ticks(line: &str) -> Option<(u16, Ticks)> {
    let mut words = line.strip_prefix("cpu")?.split(' ');
    let core = words.next()?.parse().ok()?;
    let values: Vec<u64> = words.take(8).map_while(|word| word.parse().ok()).collect();
    let [_, _, _, idle, waiting, _, _, stolen] = values[..] else {
        return None;
    };
    let total = values.iter().try_fold(0_u64, |sum, value| sum.checked_add(*value))?;
    Some((core, Ticks { total, idle: idle.checked_add(waiting)?, stolen }))
}

/// What there is to know.
#[derive(Clone, Debug)]
pub(super) struct Load {
    before: Reading,
    after: Reading,
    /// The share of the last minute in which some thread waited for a core.
    cpu_percent: Option<f64>,
    /// The share of the last minute in which all threads waited for disks.
    io_percent: Option<f64>,
}

impl Load {
    pub(super) fn gather(tree: &Tree, before: Reading) -> Self {
        Self {
            before,
            after: Reading::take(tree),
            cpu_percent: pressure(tree, "cpu", "some"),
            io_percent: pressure(tree, "io", "full"),
        }
    }

    pub(super) fn check(&self, chosen: &Cores) -> Vec<Finding> {
        vec![
            self.check_steal(chosen),
            self.check_busy(chosen),
            self.check_pressure(CPU_PRESSURE, "cpu", self.cpu_percent),
            self.check_pressure(IO_PRESSURE, "io", self.io_percent),
        ]
    }

    /// Of each chosen core, what `part` was of its time between the readings, and since the start.
    fn shares(&self, chosen: &Cores, part: fn(Ticks) -> u64) -> Vec<(u16, u64, u64)> {
        let share = |part: u64, total: u64| part.saturating_mul(100) / total.max(1);
        let of = |core: &u16| {
            let (before, after) = (self.before.of(*core)?, self.after.of(*core)?);
            let since = after.total.saturating_sub(before.total);
            let now = share(part(after).saturating_sub(part(before)), since);
            Some((*core, now, share(part(after), after.total)))
        };
        chosen.numbers().iter().filter_map(of).collect()
    }

    fn check_steal(&self, chosen: &Cores) -> Finding {
        let shares = self.shares(chosen, |ticks| ticks.stolen);
        let worst = |pick: fn(&(u16, u64, u64)) -> u64| shares.iter().map(pick).max();
        let (Some(now), Some(ever)) = (worst(|share| share.1), worst(|share| share.2)) else {
            return STEAL.not_visible(STAT_FILE);
        };
        let found = format!("{now} % of the last second, {ever} % since the machine started");
        if now.max(ever) >= HOST_STEAL_PERCENT_MAX {
            return STEAL.advice(
                format!("the host took {found}: a loop can't be steadier than its core"),
                "rent a machine with cores of its own; no command on this one mends it",
            );
        }
        STEAL.ok(found)
    }

    fn check_busy(&self, chosen: &Cores) -> Finding {
        let shares = self.shares(chosen, |ticks| {
            ticks.total.saturating_sub(ticks.idle).saturating_sub(ticks.stolen)
        });
        let Some((core, percent, _)) = shares.into_iter().max_by_key(|share| share.1) else {
            return BUSY.not_visible(STAT_FILE);
        };
        let found = format!("core {core} was busy for {percent} % of the last second");
        if percent >= HOST_BUSY_PERCENT_MAX {
            return BUSY.advice(
                format!("{found}: a node there would share it"),
                format!("ps -eLo psr,pcpu,pid,comm --sort=-pcpu | awk '$1 == {core}' | head"),
            );
        }
        BUSY.ok(found)
    }

    fn check_pressure(&self, check: Check, resource: &str, percent: Option<f64>) -> Finding {
        let Some(percent) = percent else {
            return check.not_visible(format!(
                "{PRESSURE_FOLDER}/{resource} (a kernel parameter psi=1 may be missing)"
            ));
        };
        let found = format!("threads waited for {resource} {percent:.1} % of the last minute");
        if percent >= HOST_PRESSURE_PERCENT_MAX {
            return check.advice(
                found,
                format!(
                    "find who it is: grep -r some /sys/fs/cgroup --include={resource}.pressure"
                ),
            );
        }
        check.ok(found)
    }
}

fn pressure(tree: &Tree, resource: &str, kind: &str) -> Option<f64> {
    let text = tree.text(format!("{PRESSURE_FOLDER}/{resource}"))?;
    let line = text.lines().find(|line| line.starts_with(kind))?;
    let average = line.split(' ').find_map(|word| word.strip_prefix("avg60="))?;
    average.parse().ok().filter(|percent: &f64| (0.0..=100.0).contains(percent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_a_core_are_read_and_those_of_all_together_are_not() {
        let expected = Ticks { total: 36, idle: 9, stolen: 8 };
        assert_eq!(ticks("cpu3 1 2 3 4 5 6 7 8 9 9"), Some((3, expected)));
        assert_eq!(ticks("cpu  1 2 3 4 5 6 7 8 9 9"), None);
        assert_eq!(ticks("cpu3 1 2 3"), None);
        assert_eq!(ticks("intr 1 2 3 4 5 6 7 8"), None);
        let most = u64::MAX;
        assert_eq!(ticks(&format!("cpu0 {most} {most} 1 1 1 1 1 1")), None);
    }
}
