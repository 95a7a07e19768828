//! `status`: how a node stands, or several nodes of a cluster, for a person who was woken by it and
//! for programs.
//!
//! The node counts from its start. What happens now is the difference of two answers, the second
//! one asked for a moment after the first.

mod cluster;
mod json;
mod table;

use std::time::Duration;

use clap::Args;

use super::Verdict;
use super::failure::Failure;
use super::node_address::NodeArgs;
use crate::base::cast::usize_from_u32;
use crate::metrics::histogram::Histogram;
use crate::node::config::quantity::parse_duration;
use crate::proto::p2pmap::v1::node_status::Condition;
use crate::proto::p2pmap::v1::{Distribution, NodeStatus, ShardStatus};

/// Rates and latencies are those of the time between two looks at the node, `--sample` apart; with
/// `--sample 0s` they are those since its start. OPEN are requests without an answer yet; STALLS
/// are turns of the loop of more than a millisecond since the start, STOLEN those that had been
/// short enough if others had not taken the core. With several nodes (`--node a,b,c`) each of them
/// is asked, and shown beside the others: LEADS are partitions that it leads, NORMAL those whose
/// view it is part of, BEHIND slots that the others have in their logs and it hasn't; with
/// `--partitions`, of each partition by whom it is led and how far each node is behind. Exits with
/// 1 if a node isn't ready or doesn't answer.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// List the partitions as well.
    #[arg(long)]
    partitions: bool,
    /// For how long to count requests.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = sample)]
    sample: Duration,
}

pub(super) fn run(args: StatusArgs) -> Result<Verdict, Failure> {
    if args.node.addresses().len() > 1 {
        return cluster::run(&args);
    }
    let mut client = args.node.client();
    let before = match args.sample {
        Duration::ZERO => NodeStatus::default(),
        sample => {
            let before = client.status(false)?;
            std::thread::park_timeout(sample);
            before
        }
    };
    let report = Report::new(before, client.status(args.partitions)?);
    args.node.output().print(|| table::text(&report), || json::object(&report))?;
    match report.now.condition() {
        Condition::Ready => Ok(Verdict::Done),
        Condition::Starting | Condition::Stopping | Condition::UnknownCondition => {
            Ok(Verdict::Negative)
        }
    }
}

/// A second is enough for a look, and an hour is no look.
fn sample(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|sample| *sample <= Duration::from_secs(3_600))
        .ok_or_else(|| "expected a duration of up to an hour with its unit, e.g. 1s".to_owned())
}

/// A node's answer, and what has changed since an earlier one.
#[derive(Debug)]
struct Report {
    now: NodeStatus,
    before: NodeStatus,
    /// The time between the two.
    sample_ms: u64,
}

/// What happens on a shard.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rates {
    answers: f64,
    commands: f64,
    queries: f64,
}

impl Report {
    fn new(before: NodeStatus, now: NodeStatus) -> Self {
        // A node that was restarted in between has counted from its start.
        let same = before.uptime_ms <= now.uptime_ms && before.shards.len() <= now.shards.len();
        let before = if same { before } else { NodeStatus::default() };
        let sample_ms = now.uptime_ms - before.uptime_ms;
        Self { now, before, sample_ms }
    }

    fn rates(&self, shard: &ShardStatus) -> Rates {
        let before = self.before.shards.iter().find(|other| other.shard == shard.shard);
        let before = before.cloned().unwrap_or_default();
        let rate = |now: u64, before: u64| per_second(now.saturating_sub(before), self.sample_ms);
        Rates {
            answers: rate(shard.answers, before.answers),
            commands: rate(shard.commands, before.commands),
            queries: rate(shard.queries, before.queries),
        }
    }

    /// The distributions of the sample.
    fn distributions(&self) -> impl Iterator<Item = (&str, Histogram)> {
        self.now.distributions.iter().map(|distribution| {
            let name = distribution.name.as_str();
            let before = self.before.distributions.iter().find(|other| other.name == name);
            let now = histogram(distribution);
            let since = before.map(|before| now.since(&histogram(before)));
            (name, since.unwrap_or(now))
        })
    }
}

fn per_second(count: u64, ms: u64) -> f64 {
    // Neither is so large that a figure for people suffers.
    #[allow(clippy::cast_precision_loss)]
    let (count, ms) = (count as f64, ms.max(1) as f64);
    count * 1_000.0 / ms
}

fn histogram(distribution: &Distribution) -> Histogram {
    let buckets = distribution.buckets.iter().map(|bucket| usize_from_u32(*bucket));
    let counts = distribution.counts.iter().copied();
    Histogram::from_parts(buckets.zip(counts), distribution.sum, distribution.max)
}

#[cfg(test)]
mod tests;
