//! Where a run took place: the machine, the builds, the disk. Results of different surroundings
//! don't compare, so they are recorded with every result (`environment.json`).
//!
//! Everything is read from what the kernel says of itself; what it doesn't say is "unknown", never
//! guessed.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The version of `environment.json`.
pub const ENVIRONMENT_SCHEMA_VERSION: u32 = 1;
/// What stands for what can't be found out.
pub const UNKNOWN: &str = "unknown";

/// A build of this program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// The release.
    pub version: String,
    /// The commit, with `-dirty` if the sources were changed since.
    pub commit: String,
}

/// The filesystem that a node writes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    /// Its kind.
    pub kind: String,
    /// The device that it is on.
    pub device: String,
    /// `write back` or `write through`.
    pub write_cache: String,
    /// Whether single writes can go past the cache.
    pub fua: String,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// `p2pmap-bench-environment`.
    pub schema: String,
    /// [`ENVIRONMENT_SCHEMA_VERSION`].
    pub schema_version: u32,
    /// What made the load.
    pub generator: Build,
    /// What was measured, as it said itself; none if it isn't a node of ours.
    pub server: Option<Build>,
    /// The kernel's release.
    pub kernel: String,
    /// The processor's name.
    pub cpu: String,
    /// Processors that are online.
    pub cpu_count: usize,
    /// Of each processor that is online.
    pub governor: String,
    /// What the kernel keeps time with.
    pub clock_source: String,
    /// What the kernel's `io_uring` can do.
    pub io_uring: String,
    /// Where the node keeps its log; none if it keeps none, or not here.
    pub filesystem: Option<Filesystem>,
}

/// The name of this file's schema.
pub const ENVIRONMENT_SCHEMA: &str = "p2pmap-bench-environment";

impl Build {
    /// This program.
    #[must_use]
    pub fn own() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: env!("P2PMAP_COMMIT").to_owned(),
        }
    }
}

impl Environment {
    /// Of this machine. `data_dir`: where the node keeps its log, if that can be looked at here.
    #[must_use]
    pub fn of_this_machine(server: Option<Build>, data_dir: Option<&Path>) -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpu_info = text("/proc/cpuinfo");
        Self {
            schema: ENVIRONMENT_SCHEMA.to_owned(),
            schema_version: ENVIRONMENT_SCHEMA_VERSION,
            generator: Build::own(),
            server,
            kernel: known(&text("/proc/sys/kernel/osrelease")),
            cpu: known(cpu_name(&cpu_info)),
            cpu_count: cpu_info.lines().filter(|line| line.starts_with("processor")).count(),
            governor: governors(),
            clock_source: known(&text(
                "/sys/devices/system/clocksource/clocksource0/current_clocksource",
            )),
            io_uring: ring_features(),
            filesystem: data_dir.and_then(filesystem),
        }
    }

    /// What differs between two, in words; commits don't count, nor does who made the load.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let disk = |environment: &Self| match &environment.filesystem {
            Some(Filesystem { kind, device, write_cache, fua }) => {
                format!("{kind} on {device}, {write_cache}, FUA {fua}")
            }
            None => "none".to_owned(),
        };
        let texts = |environment: &Self| {
            [
                ("kernel", environment.kernel.clone()),
                ("processor", environment.cpu.clone()),
                ("processors", environment.cpu_count.to_string()),
                ("governor", environment.governor.clone()),
                ("clock source", environment.clock_source.clone()),
                ("io_uring", environment.io_uring.clone()),
                ("filesystem", disk(environment)),
            ]
        };
        let pairs = texts(self).into_iter().zip(texts(other));
        pairs
            .filter(|((_, own), (_, others))| own != others)
            .map(|((name, own), (_, others))| format!("{name}: {own} | {others}"))
            .collect()
    }
}

fn known(text: &str) -> String {
    match text.trim() {
        "" => UNKNOWN.to_owned(),
        text => text.to_owned(),
    }
}

fn cpu_name(cpu_info: &str) -> &str {
    let line = cpu_info.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(':')).map_or("", |(_, name)| name)
}

/// One word if all processors have the same.
fn governors() -> String {
    let folder = "/sys/devices/system/cpu";
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path().join("cpufreq/scaling_governor")).ok())
        .map(|text| known(&text))
        .collect();
    names.sort();
    names.dedup();
    known(&names.join(", "))
}

fn ring_features() -> String {
    let Ok(ring) = io_uring::IoUring::new(2) else { return UNKNOWN.to_owned() };
    let params = ring.params();
    let features = [
        ("nodrop", params.is_feature_nodrop()),
        ("fast-poll", params.is_feature_fast_poll()),
        ("ext-arg", params.is_feature_ext_arg()),
        ("native-workers", params.is_feature_native_workers()),
        ("skip-cqe", params.is_feature_skip_cqe_on_success()),
        ("recvsend-bundle", params.is_feature_recvsend_bundle()),
        ("min-timeout", params.is_feature_min_timeout()),
    ];
    let names = features.iter().filter(|(_, has)| *has).map(|(name, _)| *name);
    names.collect::<Vec<_>>().join(" ")
}

/// The filesystem of a folder, from the longest mount point above it.
fn filesystem(folder: &Path) -> Option<Filesystem> {
    let folder = folder.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let (device, kind) = mounts
        .lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut fields = before.split(' ').skip(2);
            let (device, point) = (fields.next()?, fields.nth(1)?);
            let kind = after.split(' ').next()?;
            folder.starts_with(point).then_some((point.len(), device, kind))
        })
        .max_by_key(|(length, _, _)| *length)
        .map(|(_, device, kind)| (device, kind))?;
    let queue = |name: &str| {
        let link = format!("/sys/dev/block/{device}");
        // A partition has no queue of its own: its disk has.
        let of = |path: String| fs::read_to_string(path).ok();
        let own = of(format!("{link}/queue/{name}"));
        known(&own.or_else(|| of(format!("{link}/../queue/{name}"))).unwrap_or_default())
    };
    Some(Filesystem {
        kind: kind.to_owned(),
        device: device.to_owned(),
        write_cache: queue("write_cache"),
        fua: queue("fua"),
    })
}

/// Time that the host above a virtual machine took from it, and all time, in ticks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Steal {
    stolen: u64,
    total: u64,
}

impl Steal {
    /// Up to now.
    #[must_use]
    pub fn now() -> Self {
        Self::read(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    fn read(stat: &str) -> Self {
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u64> =
            line.split_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
        Self { stolen: ticks.get(7).copied().unwrap_or(0), total: ticks.iter().sum() }
    }

    /// The share of all time since `before` that was stolen, in percent.
    #[must_use]
    pub fn percent_since(&self, before: &Self) -> f64 {
        let total = self.total.saturating_sub(before.total).max(1);
        let stolen = self.stolen.saturating_sub(before.stolen);
        super::schedule::float(stolen) * 100.0 / super::schedule::float(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        let folder = tempfile::tempdir().expect("a folder");
        Environment::of_this_machine(None, Some(folder.path()))
    }

    #[test]
    fn this_machine_has_a_kernel_processors_and_a_filesystem() {
        let environment = environment();
        assert_ne!(environment.kernel, UNKNOWN);
        assert!(environment.cpu_count > 0);
        assert!(environment.filesystem.is_some_and(|filesystem| filesystem.kind != UNKNOWN));
    }

    #[test]
    fn differences_are_named_with_both_sides_and_commits_are_none() {
        let one = environment();
        let mut other = one.clone();
        other.generator.commit = "another".to_owned();
        other.server = Some(Build { version: "9".to_owned(), commit: "x".to_owned() });
        assert_eq!(one.differences(&other), Vec::<String>::new());
        other.kernel = "7.0".to_owned();
        other.cpu_count += 1;
        let differences = one.differences(&other);
        assert_eq!(differences.len(), 2);
        assert_eq!(differences[0], format!("kernel: {} | 7.0", one.kernel));
    }

    #[test]
    fn environment_is_read_back_as_it_was_written() {
        let environment = environment();
        let text = serde_json::to_string(&environment).expect("it is plain data");
        assert_eq!(serde_json::from_str::<Environment>(&text).expect("its own"), environment);
    }

    #[test]
    fn stolen_time_is_a_share_of_all_time() {
        let before = Steal::read("cpu  10 0 10 80 0 0 0 0 0 0\n");
        let after = Steal::read("cpu  20 0 20 140 0 0 0 20 0 0\n");
        assert!((after.percent_since(&before) - 20.0).abs() < 1e-9);
        assert!(Steal::read("").percent_since(&Steal::read("")).abs() < 1e-9);
    }
}
