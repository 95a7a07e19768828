//! What `GET /metrics` answers: everything that the cores have published, and what the node and
//! its process are. Made by the thread that serves it; no loop notices.

use crate::base::cast::{u32_from, u64_from};
use crate::base::ids::PartitionId;
use crate::base::time::{NS_PER_MS, NS_PER_S};
use crate::metrics::exposition::Exposition;
use crate::metrics::table::{Kind, Unit};
use crate::nopaxos::Status;
use crate::runtime::core::{Core, Node};

use std::sync::atomic::Ordering;

/// The whole page.
#[must_use]
pub fn page(node: &Node) -> String {
    let mut page = Exposition::default();
    put_node(&mut page, node);
    put_partitions(&mut page, node);
    put_cores(&mut page, node);
    let readings: Vec<_> =
        node.cores.iter().map(|core| core.published.reading(core.processor.to_string())).collect();
    page.cores(&readings);
    put_process(&mut page, node);
    page.into_text()
}

fn put_node(page: &mut Exposition, node: &Node) {
    let facts = &node.facts;
    page.family("build_info", Kind::Gauge, "Always 1: what the node is.");
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("cluster", &facts.cluster),
        ("member", &facts.member),
        ("durability", &facts.durability),
        ("idle", &facts.idle),
    ];
    page.sample("build_info", &labels, 1, Unit::One);
    page.family("ready", Kind::Gauge, "1 if the node serves requests, else 0: see /healthz.");
    page.sample("ready", &[], u64::from(node.is_serving()), Unit::One);
    page.family("uptime_seconds", Kind::Gauge, "How long the node has been running.");
    page.sample("uptime_seconds", &[], node.clock.monotonic().0, Unit::Nanoseconds);
}

fn put_partitions(page: &mut Exposition, node: &Node) {
    let (mut normal, mut view_change, mut recovering, mut starting) = (0, 0, 0, 0);
    let mut sizes = vec![(0, 0); node.cores.len()];
    for (number, partition) in node.partitions.iter().enumerate() {
        let state = partition.state();
        match state.map(|state| state.status) {
            Some(Status::Normal) => normal += 1,
            Some(Status::ViewChange) => view_change += 1,
            Some(Status::Recovering) => recovering += 1,
            None => starting += 1,
        }
        if let Some(state) = state {
            let (entries, bytes) = &mut sizes[node.shard_of(PartitionId(u32_from(number)))];
            *entries += state.entries;
            *bytes += state.size_bytes;
        }
    }
    let help = "Partitions by what their replicas are doing; only those in normal status can be \
                written to.";
    page.family("partitions", Kind::Gauge, help);
    for (status, count) in [
        ("normal", normal),
        ("view_change", view_change),
        ("recovering", recovering),
        ("starting", starting),
    ] {
        page.sample("partitions", &[("status", status)], count, Unit::One);
    }
    page.family("map_entries", Kind::Gauge, "Entries of all maps.");
    for (core, (entries, _)) in node.cores.iter().zip(&sizes) {
        put_of_core(page, "map_entries", core, *entries, Unit::One);
    }
    page.family("map_entry_bytes", Kind::Gauge, "Bytes of their keys and values.");
    for (core, (_, bytes)) in node.cores.iter().zip(&sizes) {
        put_of_core(page, "map_entry_bytes", core, *bytes, Unit::One);
    }
}

/// What is known of a core from outside of its loop.
fn put_cores(page: &mut Exposition, node: &Node) {
    page.family("shard_info", Kind::Gauge, "Always 1: which shard a core runs.");
    for (shard, core) in node.cores.iter().enumerate() {
        let (number, shard) = (core.processor.to_string(), shard.to_string());
        page.sample("shard_info", &[("core", &number), ("shard", &shard)], 1, Unit::One);
    }
    page.family("sleeping", Kind::Gauge, "1 if the loop sleeps, else 0.");
    for core in &node.cores {
        put_of_core(page, "sleeping", core, u64::from(core.is_sleeping()), Unit::One);
    }
    let help = "Times that the watchdog, which looks every 100 ms, found that the loop had made \
                no turn.";
    page.family("stands_total", Kind::Counter, help);
    for core in &node.cores {
        let count = core.stands_count.load(Ordering::Relaxed);
        put_of_core(page, "stands_total", core, count, Unit::One);
    }
    let help = "Time that the hypervisor has taken of the core since the machine's start, in steps \
                of 10 ms.";
    page.family("core_steal_seconds_total", Kind::Counter, help);
    for core in &node.cores {
        let steal_ns = core.steal_ns.load(Ordering::Relaxed);
        put_of_core(page, "core_steal_seconds_total", core, steal_ns, Unit::Nanoseconds);
    }
}

fn put_of_core(page: &mut Exposition, family: &str, core: &Core, value: u64, unit: Unit) {
    page.sample(family, &[("core", &core.processor.to_string())], value, unit);
}

/// Under the names that every process has; what the kernel doesn't say is left out.
fn put_process(page: &mut Exposition, node: &Node) {
    let mut put = |family, kind, help, value: Option<u64>, unit| {
        if let Some(value) = value {
            page.process_family(family, kind, help);
            page.process_sample(family, value, unit);
        }
    };
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let usage = Usage::parse(&stat);
    put(
        "process_cpu_seconds_total",
        Kind::Counter,
        "CPU time of all threads.",
        usage.as_ref().map(|usage| usage.cpu_ns),
        Unit::Nanoseconds,
    );
    put(
        "process_resident_memory_bytes",
        Kind::Gauge,
        "Resident memory.",
        usage.as_ref().map(|usage| usage.resident_size_bytes),
        Unit::One,
    );
    put(
        "process_open_fds",
        Kind::Gauge,
        "Open file descriptors.",
        std::fs::read_dir("/proc/self/fd").ok().map(|files| u64_from(files.count())),
        Unit::One,
    );
    put(
        "process_start_time_seconds",
        Kind::Gauge,
        "When the node was started, in seconds since 1970.",
        Some(node.started.0 / NS_PER_MS * NS_PER_MS),
        Unit::Nanoseconds,
    );
}

/// What a process uses, as `/proc/self/stat` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Usage {
    cpu_ns: u64,
    resident_size_bytes: u64,
}

impl Usage {
    fn parse(stat: &str) -> Option<Self> {
        // The command's name is in parentheses and may hold anything, parentheses too.
        let (_, rest) = stat.rsplit_once(')')?;
        let words: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The first word after the name is the third of the file's description.
        let number = |place: usize| words.get(place - 3)?.parse::<u64>().ok();
        let ticks = number(14)?.checked_add(number(15)?)?;
        Some(Self {
            cpu_ns: ticks.checked_mul(NS_PER_S / rustix::param::clock_ticks_per_second())?,
            resident_size_bytes: number(24)?.checked_mul(u64_from(rustix::param::page_size()))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_whatever_the_process_is_called() {
        let rest =
            "S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 5 0 9999 123456 300 18446744073709551615";
        for name in ["p2pmap", "a) R (b", ""] {
            let usage = Usage::parse(&format!("77 ({name}) {rest}")).expect("it is whole");
            assert_eq!(usage.cpu_ns, 200 * NS_PER_S / rustix::param::clock_ticks_per_second());
            let page_size = u64_from(rustix::param::page_size());
            assert_eq!(usage.resident_size_bytes, 300 * page_size);
        }
        for stat in ["", "77 (p2pmap", "77 (p2pmap) S 1 2", &format!("77 (x) {rest}")[..40]] {
            assert_eq!(Usage::parse(stat), None, "{stat:?}");
        }
        let own = std::fs::read_to_string("/proc/self/stat").expect("this is Linux");
        assert!(Usage::parse(&own).is_some_and(|usage| usage.resident_size_bytes > 0));
    }
}
