//! The answer to `Status`: how the node stands, from what all of its cores have published.
//! Whichever core is asked answers at once and asks no other one; the work is bounded by the number
//! of cores and of partitions in an answer.

use std::sync::atomic::Ordering;

use prost::Message as _;

use super::core::{self, Core, Node};
use super::published::PublishedCore;
use crate::base::cast::{low_u32, u32_from, u64_from, usize_from_u32};
use crate::base::ids::PartitionId;
use crate::base::limits::STATUS_PARTITION_COUNT_MAX;
use crate::base::time::NS_PER_MS;
use crate::metrics::stage::Stage;
use crate::nopaxos::{Status, place_of_leader};
use crate::proto::p2pmap::v1::node_status::Condition;
use crate::proto::p2pmap::v1::partition_status::Activity;
use crate::proto::p2pmap::v1::result::Outcome;
use crate::proto::p2pmap::v1::{
    Distribution, IndexedDigest, MemberAddress, NodeStatus, PartitionStatus, Result as ProtoResult,
    ShardStatus,
};
use crate::shard::{self, PartitionState, StableDigests};
use crate::wire::request::StatusQuery;

/// The encoded `p2pmap.v1.Result`.
#[must_use]
pub fn answer(node: &Node, query: StatusQuery) -> Vec<u8> {
    let status = node_status(node, query);
    ProtoResult { outcome: Some(Outcome::Status(status)) }.encode_to_vec()
}

fn node_status(node: &Node, query: StatusQuery) -> NodeStatus {
    let facts = &node.facts;
    let (partitions, next_partition) = match query.partitions_from {
        Some(first) => partitions(node, first, query.digests),
        None => (Vec::new(), 0),
    };
    NodeStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: facts.cluster.clone(),
        member: facts.member.clone(),
        uptime_ms: node.clock.monotonic().0 / NS_PER_MS,
        condition: condition(node).into(),
        durability: facts.durability.clone(),
        idle: facts.idle.clone(),
        data_directory: facts.data_dir.clone(),
        partition_count: u32_from(node.partitions.len()),
        shards: shards(node),
        partitions,
        next_partition,
        distributions: Stage::ALL.iter().map(|stage| distribution(node, *stage)).collect(),
        commit: env!("P2PMAP_COMMIT").to_owned(),
        members: members(node),
    }
}

fn members(node: &Node) -> Vec<MemberAddress> {
    let Some(network) = &node.network else { return Vec::new() };
    let names = network.cluster.nodes().map(|node| network.cluster.name(node).to_owned());
    let members = names.zip(&network.addresses);
    members.map(|(name, at)| MemberAddress { name, address: at.to_string() }).collect()
}

fn condition(node: &Node) -> Condition {
    match node.condition() {
        core::Condition::Starting => Condition::Starting,
        core::Condition::Ready => Condition::Ready,
        core::Condition::Stopping => Condition::Stopping,
    }
}

fn shards(node: &Node) -> Vec<ShardStatus> {
    let mut sizes = vec![(0, 0); node.cores.len()];
    for (number, partition) in node.partitions.iter().enumerate() {
        let (entries, bytes) = &mut sizes[node.shard_of(PartitionId(u32_from(number)))];
        *entries += partition.entries();
        *bytes += partition.size_bytes();
    }
    let cores = node.cores.iter().enumerate().zip(sizes);
    cores.map(|((shard, core), size)| shard_status(u32_from(shard), core, size)).collect()
}

fn shard_status(shard: u32, core: &Core, (entries, entry_bytes): (u64, u64)) -> ShardStatus {
    let metrics = core.published.metrics();
    let (event_loop, service) = (&metrics.event_loop, &metrics.service);
    let counters = &service.counters;
    ShardStatus {
        shard,
        core: low_u32(u64_from(core.processor)),
        sleeping: core.is_sleeping(),
        connections: event_loop.connections,
        requests_in_flight: event_loop.requests_in_flight,
        answers: event_loop.answers_count,
        commands: counters.commands,
        queries: counters.queries,
        refusals: counters.refused_unavailable
            + counters.refused_unsynced
            + counters.refused_log_full
            + counters.refused_map_full,
        drops: event_loop.drops.sum(),
        log_used_bytes: service.gauges.log_used_size_bytes,
        log_max_bytes: service.gauges.log_size_bytes_max,
        log_client_room_bytes: service.gauges.log_client_size_bytes,
        map_used_bytes: service.gauges.map_used_size_bytes,
        map_reserved_bytes: service.gauges.map_reserved_size_bytes,
        map_max_bytes: service.gauges.map_size_bytes_max,
        entries,
        entry_bytes,
        stalls: event_loop.stalls_count,
        stalls_off_core: event_loop.stalls_off_core_count,
        stands: core.stands_count.load(Ordering::Relaxed),
        checkpoints: service.checkpoints.checkpoints_count,
        checkpoint_failures: service.checkpoints.checkpoint_failures_count,
    }
}

fn distribution(node: &Node, stage: Stage) -> Distribution {
    let cores = node.cores.iter().map(|core| &core.published);
    let histogram = PublishedCore::stage_of_all(cores, stage);
    let (buckets, counts) =
        histogram.buckets().map(|(bucket, count)| (u32_from(bucket), count)).unzip();
    let (sum, max) = (histogram.sum(), histogram.max());
    Distribution { name: stage.name().to_owned(), sum, max, buckets, counts }
}

/// As many as fit one answer, and with which to go on.
fn partitions(node: &Node, first: PartitionId, digests: bool) -> (Vec<PartitionStatus>, u32) {
    let end = u32_from(node.partitions.len());
    let page_end = first.0.saturating_add(u32_from(STATUS_PARTITION_COUNT_MAX)).min(end);
    let status = |number| partition(node, PartitionId(number), digests);
    let page = (first.0..page_end).map(status).collect();
    (page, if page_end < end { page_end } else { 0 })
}

fn partition(node: &Node, partition: PartitionId, digests: bool) -> PartitionStatus {
    let unknown = PartitionStatus {
        partition: partition.0,
        shard: u32_from(node.shard_of(partition)),
        ..PartitionStatus::default()
    };
    let published = &node.partitions[usize_from_u32(partition.0)];
    let Some(state) = published.state() else { return unknown };
    let digests = if digests { published.digests() } else { StableDigests::default() };
    let activity = match state.status {
        Status::Normal => Activity::Normal,
        Status::ViewChange => Activity::ViewChange,
        Status::Recovering => Activity::Recovering,
    };
    PartitionStatus {
        activity: activity.into(),
        term: state.term.0,
        last: state.last.0,
        sync_point: state.sync_point.0,
        checkpoint: state.checkpoint.0,
        entries: state.entries,
        entry_bytes: state.size_bytes,
        leader: leader(node, partition, &state),
        digests: digests.iter().map(indexed_digest).collect(),
        ..unknown
    }
}

fn indexed_digest(found: &shard::IndexedDigest) -> IndexedDigest {
    let digest = found.digest.0.to_be_bytes().to_vec().into();
    IndexedDigest { index: found.index.0, digest }
}

/// Who leads a partition, if it has a view.
fn leader(node: &Node, partition: PartitionId, state: &PartitionState) -> String {
    if state.status != Status::Normal {
        return String::new();
    }
    let Some(network) = &node.network else { return node.facts.member.clone() };
    let cluster = &network.cluster;
    let members = cluster.members(partition);
    let leader = place_of_leader(partition, members.len(), state.term);
    cluster.name(members[leader]).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{Index, TermId};
    use crate::runtime::core::NodeFacts;

    const PARTITION_COUNT: u32 = 1_100;

    fn node() -> Node {
        let facts = NodeFacts { partition_count: PARTITION_COUNT, ..NodeFacts::default() };
        let node = Node::new(2, 10).expect("a node").with_facts(facts, &[4, 6]);
        for (number, partition) in node.partitions.iter().enumerate() {
            partition.publish(&PartitionState {
                status: Status::Normal,
                term: TermId(1),
                last: Index(u64_from(number)),
                sync_point: Index(0),
                checkpoint: Index(0),
                entries: 1,
                size_bytes: 10,
            });
        }
        node
    }

    #[test]
    fn partitions_come_in_pages_and_each_once() {
        let node = node();
        let mut first = 0;
        let mut seen = Vec::new();
        loop {
            let partitions_from = Some(PartitionId(first));
            let status = node_status(&node, StatusQuery { partitions_from, digests: false });
            assert!(status.partitions.len() <= STATUS_PARTITION_COUNT_MAX);
            seen.extend(status.partitions.iter().map(|partition| partition.partition));
            first = status.next_partition;
            if first == 0 {
                break;
            }
        }
        assert!(seen.into_iter().eq(0..PARTITION_COUNT));
    }

    #[test]
    fn partitions_that_do_not_exist_are_not_listed() {
        for first in [PARTITION_COUNT, u32::MAX] {
            let query = StatusQuery { partitions_from: Some(PartitionId(first)), digests: true };
            let status = node_status(&node(), query);
            assert_eq!((status.partitions.len(), status.next_partition), (0, 0));
        }
    }

    #[test]
    fn shards_have_their_own_partitions_entries_and_processors() {
        let status = node_status(&node(), StatusQuery { partitions_from: None, digests: false });
        let shards = status.shards.iter();
        let shown: Vec<_> = shards.map(|one| (one.shard, one.core, one.entries)).collect();
        assert_eq!(shown, [(0, 4, 550), (1, 6, 550)]);
        assert!(status.partitions.is_empty());
        assert_eq!(status.condition(), Condition::Starting);
        assert_eq!(status.distributions.len(), Stage::ALL.len());
    }
}
