//! The status for people: what the node is, a line for each shard, latencies, and what is wrong.

use std::fmt::Write as _;
use std::time::Duration;

use super::Report;
use crate::metrics::histogram::Histogram;
use crate::proto::p2pmap::v1::node_status::Condition;
use crate::proto::p2pmap::v1::partition_status::Activity;
use crate::proto::p2pmap::v1::{PartitionStatus, ShardStatus};

/// The latencies that are shown, as they are named in the answer and in the table.
const LATENCIES: [(&str, &str); 4] = [
    ("read", "read"),
    ("commit", "write, durable"),
    ("log_write", "log write"),
    ("turn", "turn of the loop"),
];

/// All of it, without the last line's end.
pub(super) fn text(report: &Report) -> String {
    let mut text = head(report);
    text += "\n\n";
    text += &shards(report);
    text += "\n";
    text += &latencies(report);
    if !report.now.partitions.is_empty() {
        text += "\n";
        text += &partitions(&report.now.partitions);
    }
    for warning in warnings(report) {
        writeln!(text, "\n! {warning}").expect("writing to a string never fails");
    }
    text.truncate(text.trim_end().len());
    text
}

fn head(report: &Report) -> String {
    let now = &report.now;
    let condition = condition(now.condition());
    let since = match report.before.uptime_ms {
        0 => "since the start".to_owned(),
        _ => format!("over the last {:.1?}", Duration::from_millis(report.sample_ms)),
    };
    format!(
        "{} of {}: {condition}, up {}, p2pmap {}\n{} partitions, durability {}, idle {}, in {}\n\
         rates and latencies are {since}",
        now.member,
        now.cluster,
        uptime(now.uptime_ms),
        now.version,
        now.partition_count,
        now.durability,
        now.idle,
        now.data_directory,
    )
}

pub(super) const fn condition(condition: Condition) -> &'static str {
    match condition {
        Condition::Ready => "ready",
        Condition::Starting => "starting",
        Condition::Stopping => "stopping",
        Condition::UnknownCondition => "in a condition that this release doesn't know",
    }
}

/// What stands above [`shard_rows`].
pub(super) const SHARD_HEAD: [&str; 12] = [
    "SHARD", "CORE", "CONNS", "WRITES/S", "READS/S", "OPEN", "ENTRIES", "MAP", "LOG", "LOG MAX",
    "STALLS", "STOLEN",
];

fn shards(report: &Report) -> String {
    let head = SHARD_HEAD.map(str::to_owned).to_vec();
    align(&std::iter::once(head).chain(shard_rows(report)).collect::<Vec<_>>(), 0)
}

pub(super) fn shard_rows(report: &Report) -> impl Iterator<Item = Vec<String>> {
    report.now.shards.iter().map(|shard| {
        let rates = report.rates(shard);
        vec![
            shard.shard.to_string(),
            shard.core.to_string(),
            shard.connections.to_string(),
            rate(rates.commands),
            rate(rates.queries),
            shard.requests_in_flight.to_string(),
            shard.entries.to_string(),
            size(shard.map_used_bytes),
            size(shard.log_used_bytes),
            size(shard.log_max_bytes),
            (shard.stalls.saturating_sub(shard.stalls_off_core)).to_string(),
            shard.stalls_off_core.to_string(),
        ]
    })
}

fn latencies(report: &Report) -> String {
    let head = ["LATENCY", "COUNT", "P50", "P99", "P99.9", "MAX"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (name, histogram) in report.distributions() {
        let Some((_, shown)) = LATENCIES.into_iter().find(|(known, _)| *known == name) else {
            continue;
        };
        rows.push([vec![shown.to_owned()], percentiles(&histogram)].concat());
    }
    align(&rows, 1)
}

fn percentiles(histogram: &Histogram) -> Vec<String> {
    let count = histogram.count();
    let mut row = vec![count.to_string()];
    for (parts_per_million, beyond) in [(500_000, 2), (990_000, 100), (999_000, 1_000)] {
        // With fewer values the percentile would be the greatest one by another name.
        let known = count >= beyond;
        row.push(if known { time(histogram.quantile(parts_per_million)) } else { "-".to_owned() });
    }
    row.push(if count > 0 { time(histogram.max()) } else { "-".to_owned() });
    row
}

fn partitions(partitions: &[PartitionStatus]) -> String {
    let head = [
        "PARTITION",
        "LEADER",
        "STATUS",
        "TERM",
        "LAST",
        "SYNC POINT",
        "CHECKPOINT",
        "ENTRIES",
        "BYTES",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for partition in partitions {
        rows.push(vec![
            partition.partition.to_string(),
            match partition.leader.as_str() {
                "" => "-".to_owned(),
                leader => leader.to_owned(),
            },
            activity(partition.activity()).to_owned(),
            partition.term.to_string(),
            partition.last.to_string(),
            partition.sync_point.to_string(),
            match partition.checkpoint {
                0 => "-".to_owned(),
                index => index.to_string(),
            },
            partition.entries.to_string(),
            size(partition.entry_bytes),
        ]);
    }
    align(&rows, 0)
}

pub(super) const fn activity(activity: Activity) -> &'static str {
    match activity {
        Activity::NotStarted => "not started",
        Activity::Normal => "normal",
        Activity::ViewChange => "view change",
        Activity::Recovering => "recovering",
    }
}

/// What someone should look at.
pub(super) fn warnings(report: &Report) -> Vec<String> {
    let mut warnings = Vec::new();
    let unusual = |partition: &&PartitionStatus| partition.activity() != Activity::Normal;
    let count = report.now.partitions.iter().filter(unusual).count();
    if count > 0 {
        warnings.push(format!("partitions that can't be written to: {count}"));
    }
    for shard in &report.now.shards {
        warnings.extend(shard_warnings(shard, report.now.durability != "none"));
    }
    warnings
}

fn shard_warnings(shard: &ShardStatus, has_log: bool) -> impl Iterator<Item = String> {
    let number = shard.shard;
    let log_full = has_log && shard.log_client_room_bytes == 0;
    let failed = shard.checkpoint_failures;
    [
        log_full.then(|| format!("shard {number} refuses writes: its log is full (--log-max)")),
        (shard.stands > 0).then(|| {
            let times = shard.stands;
            format!("shard {number} made no turn for 100 ms, {times} times since the start")
        }),
        (failed > 0).then(|| format!("shard {number} could not write {failed} checkpoints")),
    ]
    .into_iter()
    .flatten()
}

/// Columns as wide as they need to be, the first `text_count` of them to the left.
pub(super) fn align(rows: &[Vec<String>], text_count: usize) -> String {
    let column_count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..column_count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column < text_count { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text += line.trim_end();
        text += "\n";
    }
    text
}

/// The two largest units of a time.
pub(super) fn uptime(ms: u64) -> String {
    let s = ms / 1_000;
    let (days, hours, minutes) = (s / 86_400, s / 3_600 % 24, s / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{s}s"),
        (0, 0, _) => format!("{minutes}m {}s", s % 60),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// Three digits and a unit.
pub(super) fn size(bytes: u64) -> String {
    scaled(bytes, 1_024, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

fn time(ns: u64) -> String {
    scaled(ns, 1_000, &["ns", "us", "ms", "s"])
}

fn scaled(value: u64, step: u64, units: &[&str]) -> String {
    let (mut whole, mut unit, mut divisor) = (value, 0, 1);
    while whole >= step && unit + 1 < units.len() {
        whole /= step;
        divisor *= step;
        unit += 1;
    }
    let tenths = value % divisor * 10 / divisor;
    let name = units[unit];
    if unit == 0 || whole >= 100 {
        format!("{whole}{name}")
    } else {
        format!("{whole}.{tenths}{name}")
    }
}

pub(super) fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate >= 1e6 => format!("{:.2}M", rate / 1e6),
        rate if rate >= 1e4 => format!("{:.1}k", rate / 1e3),
        rate => format!("{rate:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_short_and_have_their_unit() {
        for (bytes, text) in [
            (0, "0B"),
            (1_023, "1023B"),
            (1_024, "1.0KiB"),
            (16 << 20, "16.0MiB"),
            (100 << 30, "100GiB"),
            (u64::MAX, "15.9EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        for (ns, text) in
            [(999, "999ns"), (1_550, "1.5us"), (131_072, "131us"), (9_000_000_000_000, "9000s")]
        {
            assert_eq!(time(ns), text);
        }
        for (ms, text) in
            [(900, "0s"), (61_000, "1m 1s"), (3_600_000, "1h 0m"), (90_061_000, "1d 1h")]
        {
            assert_eq!(uptime(ms), text);
        }
        assert_eq!(
            [rate(0.0), rate(9_999.0), rate(87_123.0), rate(2_500_000.0)],
            ["0", "9999", "87.1k", "2.50M"]
        );
    }

    #[test]
    fn columns_are_aligned_and_lines_end_without_blanks() {
        let rows = [vec!["a".to_owned(), "bcd".to_owned()], vec!["ä€x".to_owned(), "1".to_owned()]];
        assert_eq!(align(&rows, 1), "a    bcd\nä€x    1\n");
        assert_eq!(align(&rows, 2), "a    bcd\nä€x  1\n");
    }
}
