//! Disks that went back in time: a backup was put in their place, or a clone.

use super::*;
use crate::base::ids::Incarnation;

fn lives(net: &Net, node: usize) -> Vec<Incarnation> {
    let host = net.nodes[node].as_ref().unwrap_or_else(|_| panic!("node {node} is down"));
    let members = host.shard.partitions.iter().map(|found| &found.member);
    members.map(|member| member.replica().incarnation()).collect()
}

/// Puts the disk of a node back to what it was before the last writes; `forgets_boots`: the count
/// of its boots as well. Whether anybody noticed.
fn roll_back(net: &mut Net, forgets_boots: bool) -> (bool, BTreeMap<String, String>) {
    let mut written = net.put_all(0..20, "before");
    net.run_for(NS_PER_S);
    net.kill(2);
    let copy = net.disk(2).clone();
    net.boot(2);
    net.run_for(NS_PER_S / 10);
    net.wait_until_whole(2);
    written.extend(net.put_all(10..40, "after"));
    net.run_for(NS_PER_S);
    let before = lives(net, 2);
    net.kill(2);
    *net.disk(2) = copy;
    net.boots[2] -= u64::from(forgets_boots);
    drop(crate::base::mark::take());
    net.boot(2);
    net.run_for(NS_PER_S / 10);
    net.wait_until_whole(2);
    net.run_for(NS_PER_S);
    let marks = crate::base::mark::take();
    let is_noticed = marks.contains_key("member-rolled-back");
    assert_eq!(marks.contains_key("own-life-unknown"), is_noticed, "who is told believes it");
    let mut both = before.iter().zip(lives(net, 2));
    assert!(both.all(|(before, after)| (after > *before) == is_noticed), "{before:?}");
    (is_noticed, written)
}

#[test]
fn node_whose_disk_went_back_in_time_recovers_before_it_votes() {
    for seed in 0..4 {
        for forgets_boots in [true, false] {
            let mut net = Net::start(seed);
            net.wait_until_ready();
            let (is_noticed, written) = roll_back(&mut net, forgets_boots);
            assert!(is_noticed, "seed {seed}, its boots forgotten: {forgets_boots}");
            // It does its part again: without another one nothing is lost.
            net.kill(usize_from(seed % 2));
            net.run_for(2 * NS_PER_S);
            net.assert_has(&written);
        }
    }
}

#[test]
fn node_that_comes_back_with_all_it_had_is_not_taken_for_another_one() {
    for seed in 0..4 {
        let mut net = Net::start(seed);
        net.wait_until_ready();
        drop(crate::base::mark::take());
        for round in 0..6 {
            net.put_all(0..10, &format!("{round}"));
            let node = usize_from(net.prng.below(3));
            net.cut_power(node);
            net.run_for(NS_PER_S);
            net.boot(node);
            net.wait_until_ready();
            net.isolate(node);
            net.join(node);
            net.run_for(NS_PER_S / 10);
        }
        assert!(!crate::base::mark::take().contains_key("member-rolled-back"), "seed {seed}");
    }
}
