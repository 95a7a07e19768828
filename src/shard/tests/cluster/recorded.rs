//! Cases in which other systems have lost what they had acknowledged, done to this one: whole
//! shards with their logs and checkpoints on disks that are damaged, cut, or lose power.
//!
//! From Jepsen's report on NATS JetStream 2.12.1 (2025), by nats-server's issue:
//!
//! - 7549: a flipped bit in a `.blk` file, or one that was cut, of a minority of the nodes lost a
//!   large part of what was acknowledged: `nats_flipped_bit_...`, `nats_truncated_log_...`.
//! - 7556: a node with a damaged snapshot took the stream for an orphan and removed its data, with
//!   other nodes following: `nats_damaged_snapshot_...`, `replaced_disk_...`.
//! - 7564: what is acknowledged is flushed two minutes later at most; a power loss of all nodes
//!   lost it: `nats_power_loss_of_all_nodes_...`.
//! - 7567: so did the power loss of one node while another was away for a while:
//!   `nats_power_loss_of_one_node_...`.
//!
//! From etcd's issues on 3.5:
//!
//! - 14370: a single member answered before its write was durable: `etcd_write_...`.
//! - 13766: the index of what was applied became durable without the data, and members of one
//!   revision differed after a crash: `etcd_crash_around_a_checkpoint_...`.

use super::*;
use crate::base::ids::BatchId;
use crate::storage::block::BlockState;

/// A bit of a disk: which block of which segment, and which bit of it.
fn flip(disk: &mut Disk, segment: SegmentId, block: usize, bit: u64) {
    let block = &mut disk.segments.get_mut(&segment).expect("it is there")[block];
    block.0[usize_from(bit / 8)] ^= 1 << (bit % 8);
}

/// The blocks of a log of which a later one says that they were complete: what is wrong with them
/// can't be the tail of a crash. Whoever was answered for what lies behind them is told by other
/// members' memory of it (`storage::witness`), not by the log.
fn proven_blocks(disk: &Disk) -> Vec<(SegmentId, usize)> {
    let mut found = Vec::new();
    let mut proven = BatchId(0);
    for (segment, blocks) in &disk.segments {
        for (number, block) in blocks.iter().enumerate() {
            if let BlockState::Valid(header) = BlockState::of(block, SALT)
                && header.segment == *segment
            {
                proven = proven.max(header.proven);
                found.push((header.batch, *segment, number));
            }
        }
    }
    let found = found.into_iter().filter(|(batch, _, _)| *batch <= proven);
    found.map(|(_, segment, number)| (segment, number)).collect()
}

/// A cluster that has written keys, part of them while a node was away.
fn written(seed: u64) -> (Net, BTreeMap<String, String>) {
    let mut net = Net::start(seed);
    net.wait_until_ready();
    let mut written = net.put_all(0..30, "a");
    written.extend(net.put_all(15..45, "b"));
    net.run_for(NS_PER_S);
    (net, written)
}

/// The damaged node returns, and one of the others goes: what it gives back must do.
fn damaged_node_does_its_part(net: &mut Net, damaged: usize, written: &BTreeMap<String, String>) {
    net.boot(damaged);
    net.wait_until_whole(damaged);
    net.run_for(NS_PER_S);
    let other = (damaged + 1) % NODE_COUNT;
    net.kill(other);
    net.run_for(2 * NS_PER_S);
    net.assert_has(written);
    net.put_all(100..105, "afterwards");
    net.boot(other);
    net.wait_until_ready();
    net.assert_converged();
    net.assert_has(written);
}

#[test]
fn nats_flipped_bit_in_the_log_of_one_node_loses_nothing() {
    let mut noticed = 0;
    for seed in 0..9 {
        let (mut net, mut written) = written(seed);
        let damaged = usize_from(seed % 3);
        net.kill(damaged);
        let blocks = proven_blocks(net.disk(damaged));
        assert!(blocks.len() > 20, "{}", blocks.len());
        // The first, the last, or any.
        let (segment, block) = match seed / 3 {
            0 => blocks[0],
            1 => *blocks.last().unwrap(),
            _ => blocks[usize_from(net.prng.below(u64_from(blocks.len())))],
        };
        let bit = net.prng.below(8 * u64_from(size_of::<Block>()));
        flip(net.disk(damaged), segment, block, bit);
        // The others go on, so that nothing of this is in what the damaged node is sent anyway.
        net.run_for(2 * NS_PER_S);
        written.extend(net.put_all(40..50, "c"));
        damaged_node_does_its_part(&mut net, damaged, &written);
        noticed += usize::from(!net.suspects[damaged].is_empty());
    }
    assert_eq!(noticed, 9, "a flipped bit goes unnoticed");
}

#[test]
fn nats_truncated_log_of_one_node_loses_nothing() {
    for seed in 0..6 {
        let (mut net, written) = written(seed);
        let damaged = usize_from(seed % 3);
        net.kill(damaged);
        let disk = net.disk(damaged);
        let newest = *disk.segments.keys().max().unwrap();
        let used = proven_blocks(disk).iter().filter(|(segment, _)| *segment == newest).count();
        // In the middle of what was written, or all of it.
        let left = if seed < 3 { used / 2 } else { 0 };
        net.disk(damaged).segments.get_mut(&newest).unwrap().truncate(left);
        damaged_node_does_its_part(&mut net, damaged, &written);
        assert_eq!(net.suspects[damaged].len(), usize_from_u32(PARTITION_COUNT));
    }
}

#[test]
fn nats_damaged_snapshot_of_one_node_makes_it_recover_and_nobody_else_forget() {
    for seed in 0..2 {
        // Their logs have no room for all of it: what was written first is in the checkpoints only.
        let mut net = Net::start_as(seed, Form { log_segment_count: 8, ..Form::default() });
        net.wait_until_ready();
        let mut written = BTreeMap::new();
        for round in 0..16 {
            written.extend(net.put_all(0..20, &format!("{round}{}", "x".repeat(150 << 10))));
        }
        net.run_for(NS_PER_S);
        let damaged = usize_from(seed % 3);
        net.kill(damaged);
        let files = &mut net.nodes[damaged].as_mut().err().unwrap().checkpoints;
        assert!(!files.is_empty(), "there are checkpoints");
        let newest: BTreeMap<PartitionId, Index> =
            files.keys().map(|id| (id.partition, id.index)).collect();
        for (partition, index) in newest {
            let blocks = files.get_mut(&CheckpointId { partition, index }).unwrap();
            let number = usize_from(net.prng.below(u64_from(blocks.len())));
            match seed % 2 {
                0 => blocks[number].0[99] ^= 4,
                _ => blocks.truncate(number),
            }
        }
        let before: Vec<_> = net.nodes.iter().flatten().map(Host::digests).collect();
        net.boot(damaged);
        assert!(!net.suspects[damaged].is_empty());
        // Whatever the damaged node says, the others keep what they have.
        let after: Vec<_> = (0..NODE_COUNT).filter(|node| *node != damaged).collect();
        let after: Vec<_> = after.into_iter().map(|node| net.host(node).digests()).collect();
        assert_eq!(before, after);
        net.kill(damaged);
        damaged_node_does_its_part(&mut net, damaged, &written);
    }
}

/// Commands to all nodes at once, and what of them was answered until now.
fn put_at_once(net: &mut Net, keys: Range<u32>, value: &str) -> BTreeMap<String, String> {
    let mut asked = BTreeMap::new();
    for number in keys {
        let key = format!("k{number}");
        if let Some(node) = net.stamper(&key) {
            let correlation = net.host(node).put(&key, value);
            asked.insert((node, correlation), key);
        }
    }
    let steps = net.prng.below(400);
    for _ in 0..steps {
        net.step();
    }
    let mut answered = BTreeMap::new();
    for node in 0..NODE_COUNT {
        for (correlation, answers) in net.host(node).answers() {
            if let [(_, Outcome::Written(_))] = &answers[..] {
                answered.insert(asked[&(node, correlation)].clone(), value.to_owned());
            }
        }
    }
    answered
}

#[test]
fn nats_power_loss_of_all_nodes_at_once_loses_nothing() {
    let (mut answered_count, mut open_count) = (0, 0);
    for seed in 0..10 {
        let mut net = Net::start(seed);
        net.wait_until_ready();
        for round in 0..5 {
            let first = 100 * round;
            let answered = put_at_once(&mut net, first..first + 30, &format!("{round}"));
            for node in 0..NODE_COUNT {
                net.cut_power(node);
            }
            for node in 0..NODE_COUNT {
                net.boot(node);
            }
            net.wait_until_ready();
            net.assert_has(&answered);
            answered_count += answered.len();
            open_count += 30 - answered.len();
        }
        net.assert_converged();
    }
    assert!(answered_count > 100 && open_count > 100, "{answered_count} {open_count}");
}

#[test]
fn nats_power_loss_of_one_node_and_absence_of_another_lose_nothing() {
    let mut answered_count = 0;
    for seed in 0..12 {
        let mut net = Net::start(seed);
        net.wait_until_ready();
        let (absent, torn) = (usize_from(seed % 3), usize_from((seed / 3 + seed + 1) % 3));
        // Nothing reaches the absent node: the two others hold what is answered now.
        net.isolate(absent);
        net.run_for(2 * NS_PER_S);
        let answered = put_at_once(&mut net, 0..40, "v");
        answered_count += answered.len();
        net.cut_power(torn);
        net.boot(torn);
        if torn != absent {
            net.isolate(absent);
            net.run_for(NS_PER_S);
        }
        // The third goes: what it held, the torn node must hold.
        let third = (0..NODE_COUNT).find(|node| *node != absent && *node != torn).unwrap();
        net.kill(third);
        net.join(absent);
        net.run_for(3 * NS_PER_S);
        if torn != absent {
            net.assert_has(&answered);
        }
        net.boot(third);
        net.wait_until_ready();
        net.assert_has(&answered);
        net.assert_converged();
    }
    assert!(answered_count > 100, "{answered_count}");
}

/// A new disk in the place of one that held promises, while what two had acknowledged is with one
/// of them only: the node must not vote as though it had promised nothing.
#[test]
fn replaced_disk_of_one_node_makes_it_recover_before_it_votes() {
    for seed in 0..4 {
        let mut net = Net::start(seed);
        net.wait_until_ready();
        net.put_all(0..10, "a");
        net.run_for(NS_PER_S);
        // Nodes 0 and 2 hold what is written now; node 1 lags.
        net.isolate(1);
        net.run_for(2 * NS_PER_S);
        let written = net.put_all(0..10, "b");
        net.kill(2);
        *net.disk(2) = Disk::default();
        net.kill(0);
        net.boot(2);
        net.join(1);
        net.run_for(5 * NS_PER_S);
        for key in written.keys() {
            assert_eq!(net.stamper(key), None, "two of three go on without what they promised");
        }
        net.boot(0);
        net.wait_until_ready();
        net.assert_has(&written);
        net.assert_converged();
    }
}

#[test]
fn etcd_write_of_a_single_node_is_there_if_it_was_answered_before_a_crash() {
    let mut crashes = 0;
    for seed in 0..20 {
        let mut prng = Prng::new(seed, "etcd");
        let mut host = Host::start(Durability::Sync);
        let mut asked = BTreeMap::new();
        let mut answered = BTreeMap::new();
        for number in 0..40 {
            let key = format!("k{number}");
            let value = "v".repeat(usize_from(prng.below(6_000)));
            asked.insert(host.put(&key, &value), (key, value));
            for _ in 0..prng.below(4) {
                let draw = prng.next_u64();
                host.step(draw);
                let answers = host.answers();
                if answers.is_empty() {
                    continue;
                }
                for (correlation, outcomes) in answers {
                    assert!(matches!(&outcomes[..], [(_, Outcome::Written(_))]));
                    answered.extend(asked.remove(&correlation));
                }
                // The machine stops at the very moment of the answer.
                crashes += 1;
                let mut other = Host::boot(host.disk.clone(), Durability::Sync, 2);
                for (key, value) in &answered {
                    assert_eq!(other.get(key).as_ref(), Some(value), "seed {seed}: {key}");
                }
            }
        }
    }
    assert!(crashes > 100, "{crashes}");
}

impl Net {
    /// Some steps, until a node wants something done for a checkpoint: what.
    fn step_until_checkpoint(&mut self, node: usize) -> Option<&'static str> {
        let mut steps = self.prng.below(40);
        loop {
            let step = self.host(node).asked.steps.front().map(|step| match step {
                CheckpointStep::Begin(_) => "begin",
                CheckpointStep::Write(_) => "write",
                CheckpointStep::Finish => "finish",
                CheckpointStep::Remove(_) => "remove",
                CheckpointStep::Read(_) => "read",
            });
            if step.is_some() || steps == 0 {
                return step;
            }
            steps -= 1;
            if !self.step() {
                self.run_for(NS_PER_S / 1_000);
            }
        }
    }
}

#[test]
fn etcd_crash_around_a_checkpoint_leaves_replicas_equal() {
    let mut crashed_at = BTreeSet::new();
    for seed in 0..12 {
        let mut net = Net::start(seed);
        net.wait_until_ready();
        let victim = usize_from(seed % 3);
        let value = "x".repeat(8 << 10);
        let mut left = seed / 3;
        for round in 0..10 {
            let mut written = net.put_all(0..4, &format!("{round}{value}"));
            // Some more, until a checkpoint's step is asked for: the first, the second...
            for number in 0..60 {
                let key = format!("k{}", number % 10);
                if let Some(node) = net.stamper(&key) {
                    net.host(node).put(&key, &format!("{round}{number}{value}"));
                    written.remove(&key);
                }
                let step = net.step_until_checkpoint(victim);
                let Some(step) = step else { continue };
                if left == 0 {
                    crashed_at.insert(step);
                    net.cut_power(victim);
                    left = net.prng.below(8);
                    break;
                }
                left -= 1;
                net.host(victim).checkpoint_step();
            }
            net.run_for(NS_PER_S);
            if !net.is_up(victim) {
                net.boot(victim);
                net.wait_until_ready();
            }
            net.assert_has(&written);
        }
        // What a replica says it has applied, and what it has: versions are part of the digest.
        net.assert_converged();
    }
    let all = BTreeSet::from(["begin", "write", "finish"]);
    assert!(crashed_at.is_superset(&all), "{crashed_at:?}");
}
