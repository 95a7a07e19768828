//! What a node is given that was away: slots, checkpoints, and logs that are adopted.

use super::*;
use crate::storage::block::BlockState;
use crate::storage::codec::decode;
use crate::storage::record::Record;

/// What a log's records are, in their order.
fn kinds(disk: &Disk) -> Vec<(&'static str, PartitionId)> {
    let mut kinds = Vec::new();
    for (segment, blocks) in &disk.segments {
        let mut stream = Vec::new();
        for block in blocks {
            let BlockState::Valid(header) = BlockState::of(block, SALT) else { break };
            if header.segment != *segment {
                break;
            }
            if stream.is_empty() {
                stream.extend_from_slice(header.payload_from_record(block).unwrap_or_default());
            } else {
                stream.extend_from_slice(header.payload(block));
            }
        }
        let mut begin = 0;
        while let Ok(Some((record, size))) = decode(&stream[begin..]) {
            begin += size;
            kinds.extend(match record {
                Record::Install { partition, adopted: None, .. } => Some(("install", partition)),
                Record::Install { partition, .. } => Some(("install and adopt", partition)),
                Record::Stage { entry, .. } => Some(("stage", entry.partition)),
                Record::Adopt { partition, .. } => Some(("adopt", partition)),
                _ => None,
            });
        }
    }
    kinds
}

/// A cluster with little room for its logs, whose node 2 is away while much is written.
fn away_for_long(seed: u64) -> (Net, BTreeMap<String, String>) {
    let mut net = Net::start_as(seed, Form { log_segment_count: 8, ..Form::default() });
    net.wait_until_ready();
    net.put_all(0..20, "before");
    net.run_for(NS_PER_S);
    net.kill(2);
    net.run_for(2 * NS_PER_S);
    let mut written = BTreeMap::new();
    for round in 0..16 {
        written.extend(net.put_all(0..20, &format!("{round}{}", "x".repeat(150 << 10))));
    }
    net.run_for(NS_PER_S);
    (net, written)
}

#[test]
fn node_that_was_away_for_long_is_given_checkpoints_in_the_place_of_its_log() {
    let (mut net, written) = away_for_long(1);
    let before = kinds(net.disk(2));
    assert!(before.iter().all(|(kind, _)| !kind.starts_with("install")), "{before:?}");
    for node in [0, 1] {
        let log = &net.host(node).shard.core.log;
        let first = (0..PARTITION_COUNT).filter_map(|number| log.first_slot(PartitionId(number)));
        assert!(first.max() > Some(Index(20)), "the others have left nothing out of their logs");
    }
    drop(crate::base::mark::take());
    net.boot(2);
    net.wait_until_ready();
    net.assert_converged();
    let marks = crate::base::mark::take();
    assert!(marks.contains_key("checkpoint-received"), "{marks:?}");
    net.kill(2);
    let after = kinds(net.disk(2));
    let installed: BTreeSet<PartitionId> = after
        .iter()
        .filter(|(kind, _)| kind.starts_with("install"))
        .map(|(_, partition)| *partition)
        .collect();
    assert!(!installed.is_empty(), "nothing came as a checkpoint: {after:?}");
    // And it can go on from that: alone with one of the others, and from its own disk.
    net.boot(2);
    net.kill(0);
    net.run_for(3 * NS_PER_S);
    net.assert_has(&written);
    net.boot(0);
    net.wait_until_ready();
    net.assert_converged();
}

#[test]
fn crash_while_checkpoints_come_in_leaves_the_old_state_or_the_new() {
    let (mut net, written) = away_for_long(2);
    let mut crashes = 0;
    for _ in 0..8 {
        net.boot(2);
        let steps = net.prng.below(4_000);
        for _ in 0..steps {
            if !net.step() {
                net.run_for(NS_PER_S / 1_000);
            }
        }
        net.cut_power(2);
        crashes += 1;
    }
    assert_eq!(crashes, 8);
    net.boot(2);
    net.wait_until_ready();
    net.assert_converged();
    net.assert_has(&written);
    net.kill(2);
    let after = kinds(net.disk(2));
    assert!(after.iter().any(|(kind, _)| kind.starts_with("install")), "{after:?}");
}

/// The partitions with staged slots: those without an adopted view, and those with one.
fn adopting(
    kinds: &[(&'static str, PartitionId)],
) -> (BTreeSet<PartitionId>, BTreeSet<PartitionId>) {
    let of = |kind| kinds.iter().filter(move |found| found.0 == kind).map(|found| found.1);
    let adopted: BTreeSet<PartitionId> = of("adopt").collect();
    of("stage").partition(|partition| !adopted.contains(partition))
}

#[test]
fn adopted_log_counts_whole_or_not_at_all_wherever_the_power_is_cut() {
    let (mut staged_only, mut adopted) = (0, 0);
    for seed in 0..12 {
        let mut net = Net::start(seed);
        net.wait_until_ready();
        let mut written = net.put_all(0..16, "a");
        net.run_for(NS_PER_S);
        // Node 0 goes on alone with slots that nobody else has, the others with others.
        net.isolate(0);
        for number in 0..16 {
            let key = format!("k{number}");
            if net.replica(0, &key).is_leading() {
                for _ in 0..3 {
                    net.host(0).put(&key, "lost");
                }
            }
        }
        net.run_for(3 * NS_PER_S);
        // Much, so that it doesn't go into one write.
        written.extend(net.put_all(0..16, &"b".repeat(200 << 10)));
        // They are in their third views: what node 0 has beyond its sync point is of no use there,
        // and what the second views began with is not what it has.
        net.kill(1);
        net.run_for(NS_PER_S);
        net.boot(1);
        net.isolate(0);
        net.run_for(3 * NS_PER_S);
        written.extend(net.put_all(16..24, "c"));
        let before = kinds(&net.host(0).disk).len();
        net.join(0);
        // The power is cut somewhere on the way into the others' views.
        for _ in 0..20_000 {
            let writes_count = net.host(0).asked.writes.len();
            net.step();
            let host = net.host(0);
            let is_written = host.asked.writes.len() < writes_count;
            // Where slots are staged and the view isn't adopted, or anywhere.
            let is_between = is_written && !adopting(&kinds(&host.disk)[before..]).0.is_empty();
            if is_between || seed % 2 == 1 && is_written && net.prng.one_in(6) {
                break;
            }
        }
        net.cut_power(0);
        let after = kinds(net.disk(0));
        let (between, whole) = adopting(after.get(before..).unwrap_or_default());
        staged_only += between.len();
        adopted += whole.len();
        // What it has now must do, with one of the others.
        net.boot(0);
        net.run_for(2 * NS_PER_S);
        net.kill(1);
        net.run_for(3 * NS_PER_S);
        net.assert_has(&written);
        net.boot(1);
        net.wait_until_ready();
        net.assert_converged();
    }
    assert!(staged_only > 0 && adopted > 0, "{staged_only} only staged, {adopted} adopted");
}

/// The checkpoints of a node, and how many it has taken.
fn checkpoints(net: &mut Net, node: usize) -> (Vec<CheckpointId>, u64) {
    let host = net.host(node);
    let core = &host.shard.core;
    let recorded = core.log.state().partitions.iter().filter_map(|state| {
        let id = CheckpointId { partition: state.partition, index: state.checkpoint };
        (state.checkpoint > Index(0)).then_some(id)
    });
    let recorded: Vec<CheckpointId> = recorded.collect();
    for id in &recorded {
        assert!(host.disk.checkpoints.contains_key(id), "node {node} has removed {id:?}");
    }
    (recorded, core.checkpoint_metrics.checkpoints_count)
}

#[test]
fn group_without_a_log_gives_the_checkpoint_that_it_has_and_takes_none_while_nothing_is_written() {
    let mut net = Net::start_as(4, Form { durability: Durability::None, ..Form::default() });
    net.wait_until_ready();
    // More than a checkpoint's interval, and less than memory keeps of stable slots anyway.
    let written = net.put_all(0..20, &"x".repeat(48 << 10));
    net.run_for(NS_PER_S);
    let before: Vec<_> = (0..NODE_COUNT).map(|node| checkpoints(&mut net, node)).collect();
    net.run_for(3 * NS_PER_S);
    let after: Vec<_> = (0..NODE_COUNT).map(|node| checkpoints(&mut net, node)).collect();
    assert_eq!(before, after, "what is in a checkpoint is worth no other one");
    assert!(after.iter().all(|(recorded, _)| !recorded.is_empty()));
    net.kill(2);
    *net.disk(2) = Disk::default();
    net.boot(2);
    net.wait_until_whole(2);
    net.assert_converged();
    net.assert_has(&written);
}
