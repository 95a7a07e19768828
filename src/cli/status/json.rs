//! The status for programs: one object, whose fields are the answer's own (`NodeStatus` in
//! `proto/p2pmap/v1/map.proto`) and keep their names. Added to them are `sample_ms` and what is
//! reckoned from it: of each shard `answers_per_second`, `commands_per_second` and
//! `queries_per_second`, and the `latencies` of the sample.

use serde_json::{Map, Value, json};

use super::Report;
use super::table::activity;
use crate::metrics::histogram::Histogram;
use crate::proto::p2pmap::v1::node_status::Condition;
use crate::proto::p2pmap::v1::{Distribution, PartitionStatus, ShardStatus};

/// The whole report.
pub(super) fn object(report: &Report) -> Map<String, Value> {
    let now = &report.now;
    let condition = match now.condition() {
        Condition::Ready => "ready",
        Condition::Starting => "starting",
        Condition::Stopping => "stopping",
        Condition::UnknownCondition => "unknown",
    };
    let shards: Vec<Value> = now.shards.iter().map(|one| shard(report, one)).collect();
    let mut object = Map::new();
    for (name, value) in [
        ("version", json!(now.version)),
        ("commit", json!(now.commit)),
        ("cluster", json!(now.cluster)),
        ("member", json!(now.member)),
        ("uptime_ms", json!(now.uptime_ms)),
        ("condition", json!(condition)),
        ("durability", json!(now.durability)),
        ("idle", json!(now.idle)),
        ("data_directory", json!(now.data_directory)),
        ("partition_count", json!(now.partition_count)),
        ("sample_ms", json!(report.sample_ms)),
        ("shards", json!(shards)),
        ("latencies", latencies(report)),
        ("distributions", now.distributions.iter().map(distribution).collect()),
    ] {
        object.insert(name.to_owned(), value);
    }
    if !now.members.is_empty() {
        let members = now.members.iter();
        let members = members.map(|one| json!({ "name": one.name, "address": one.address }));
        object.insert("members".to_owned(), members.collect());
    }
    if !now.partitions.is_empty() {
        let partitions = now.partitions.iter().map(partition).collect();
        object.insert("partitions".to_owned(), partitions);
    }
    object
}

fn shard(report: &Report, shard: &ShardStatus) -> Value {
    let rates = report.rates(shard);
    json!({
        "shard": shard.shard,
        "core": shard.core,
        "sleeping": shard.sleeping,
        "connections": shard.connections,
        "requests_in_flight": shard.requests_in_flight,
        "answers": shard.answers,
        "answers_per_second": rates.answers,
        "commands": shard.commands,
        "commands_per_second": rates.commands,
        "queries": shard.queries,
        "queries_per_second": rates.queries,
        "refusals": shard.refusals,
        "drops": shard.drops,
        "log_used_bytes": shard.log_used_bytes,
        "log_max_bytes": shard.log_max_bytes,
        "log_client_room_bytes": shard.log_client_room_bytes,
        "map_used_bytes": shard.map_used_bytes,
        "map_reserved_bytes": shard.map_reserved_bytes,
        "map_max_bytes": shard.map_max_bytes,
        "entries": shard.entries,
        "entry_bytes": shard.entry_bytes,
        "stalls": shard.stalls,
        "stalls_off_core": shard.stalls_off_core,
        "stands": shard.stands,
        "checkpoints": shard.checkpoints,
        "checkpoint_failures": shard.checkpoint_failures,
    })
}

/// Those of the sample, by name; none where nothing was measured in it.
fn latencies(report: &Report) -> Value {
    let times = report.distributions().filter(|(name, _)| *name != "pass_frames");
    times.map(|(name, histogram)| (name.to_owned(), percentiles(&histogram))).collect()
}

fn percentiles(histogram: &Histogram) -> Value {
    if histogram.count() == 0 {
        return Value::Null;
    }
    json!({
        "count": histogram.count(),
        "p50_ns": histogram.quantile(500_000),
        "p90_ns": histogram.quantile(900_000),
        "p99_ns": histogram.quantile(990_000),
        "p999_ns": histogram.quantile(999_000),
        "max_ns": histogram.max(),
    })
}

/// Since the start, to be merged with others.
fn distribution(distribution: &Distribution) -> Value {
    let Distribution { name, sum, max, buckets, counts } = distribution;
    json!({ "name": name, "sum": sum, "max": max, "buckets": buckets, "counts": counts })
}

pub(super) fn partition(partition: &PartitionStatus) -> Value {
    json!({
        "partition": partition.partition,
        "shard": partition.shard,
        "activity": activity(partition.activity()),
        "term": partition.term,
        "last": partition.last,
        "sync_point": partition.sync_point,
        "checkpoint": partition.checkpoint,
        "entries": partition.entries,
        "entry_bytes": partition.entry_bytes,
        "leader": partition.leader,
    })
}
