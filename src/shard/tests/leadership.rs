//! Leaders give their places away when they are asked to.

use super::cluster::{NODE_COUNT, Net, id};
use super::*;

impl Net {
    fn leads(&mut self) -> Vec<usize> {
        (0..NODE_COUNT).map(|node| self.host(node).shard.led_count()).collect()
    }
}

#[test]
fn partition_is_led_by_the_node_that_it_was_handed_over_to() {
    let mut net = Net::start(1);
    net.wait_until_ready();
    let partition = net.host(0).shard.core.router.partition_of_key(b"k");
    for to in [0, 2, 1, 0] {
        let from = net.stamper("k").expect("somebody leads");
        net.host(from).handle(Input::TransferLeadership { partition, to: id(to) });
        net.run_for(NS_PER_S / 5);
        assert_eq!(net.stamper("k"), Some(to), "from {from}");
        let put = net.put("k", &format!("{to}"));
        assert!(matches!(put, Some(Outcome::Written(_))), "{put:?}");
    }
    // Those that can't be: not led here, not there, not another one, not a partition of ours.
    let from = net.stamper("k").expect("somebody leads");
    let before = net.leads();
    net.host(1).handle(Input::TransferLeadership { partition, to: id(2) });
    net.disconnect(from, 1, false);
    for (partition, to) in [(partition, 1), (partition, from), (PartitionId(999), 2)] {
        net.host(from).handle(Input::TransferLeadership { partition, to: id(to) });
    }
    assert!(
        net.host(from)
            .shard
            .partitions
            .iter()
            .all(|found| { !found.member.replica().is_leading() || found.member.is_stamping() }),
        "nothing is held up"
    );
    net.connect(from, 1);
    net.run_for(NS_PER_S / 5);
    assert_eq!(net.leads(), before);
    net.assert_converged();
}

#[test]
fn node_that_retires_leads_nothing_and_serves_on_and_nobody_notices_that_it_goes() {
    for seed in 0..4 {
        let mut net = Net::start(seed);
        net.wait_until_ready();
        let victim = net.stamper("k").expect("somebody leads");
        let led = net.host(victim).shard.to_be_handed_over_count();
        assert!(led > 0);
        net.host(victim).handle(Input::Retire);
        for _ in 0..100 {
            if net.host(victim).shard.to_be_handed_over_count() == 0 {
                break;
            }
            net.run_for(NS_PER_S / 100);
        }
        assert_eq!(net.host(victim).shard.led_count(), 0, "seed {seed}");
        net.wait_until_ready();
        let others = net.leads().into_iter().filter(|count| *count > 0).count();
        assert_eq!(others, 2, "both others have got some of them");
        // It passes on what it is asked for, also when it closes.
        let written = net.host(victim).put("k", "v");
        assert!(matches!(net.answer(victim, written), Some(Outcome::Written(_))));
        net.host(victim).handle(Input::Close);
        let written = net.host(victim).put("k", "w");
        assert!(matches!(net.answer(victim, written), Some(Outcome::Written(_))));
        let terms = |net: &mut Net, node: usize| -> Vec<TermId> {
            let partitions = &net.host(node).shard.partitions;
            partitions.iter().map(|found| found.view.term).collect()
        };
        let other = (victim + 1) % NODE_COUNT;
        let before = terms(&mut net, other);
        net.kill(victim);
        net.run_for(NS_PER_S);
        assert_eq!(terms(&mut net, other), before, "no view changes for it");
        assert_eq!(net.get("k").as_deref(), Some("w"));
    }
}

#[test]
fn nodes_that_retire_together_do_not_hand_leadership_to_and_fro() {
    for seed in 0..4 {
        let mut net = Net::start(seed);
        net.wait_until_ready();
        for node in 0..NODE_COUNT {
            net.host(node).handle(Input::Retire);
        }
        let has_retired =
            |net: &mut Net| (0..NODE_COUNT).all(|node| net.host(node).shard.has_retired());
        let mut rounds = 0..200;
        while !has_retired(&mut net) {
            assert!(rounds.next().is_some(), "seed {seed}");
            net.run_for(NS_PER_S / 100);
        }
        let terms = |net: &mut Net| -> Vec<TermId> {
            let partitions = &net.host(0).shard.partitions;
            partitions.iter().map(|found| found.view.term).collect()
        };
        let before = terms(&mut net);
        net.run_for(NS_PER_S);
        assert_eq!(terms(&mut net), before, "seed {seed}: it goes on");
        assert!(net.put("k", "v").is_some(), "seed {seed}: they serve until they close");
    }
}

#[test]
fn node_alone_has_nobody_to_hand_anything_over_to() {
    let mut host = Host::start(Durability::Sync);
    host.handle(Input::Retire);
    assert_eq!(host.shard.to_be_handed_over_count(), 0);
    host.put("k", "v");
    host.run();
    assert_eq!(host.answers().len(), 1);
}

#[test]
fn what_members_say_in_vain_and_what_tells_of_trouble_is_counted() {
    let mut net = Net::start(3);
    net.wait_until_ready();
    let victim = net.stamper("k").expect("somebody leads");
    net.kill(victim);
    net.run_for(2 * NS_PER_S);
    for number in 0..20 {
        net.put(&format!("k{number}"), "v");
    }
    net.boot(victim);
    net.run_for(2 * NS_PER_S);
    let mut led = 0;
    for node in 0..NODE_COUNT {
        let mut metrics = crate::metrics::ServiceMetrics::default();
        let shard = &net.host(node).shard;
        shard.measure(&mut metrics);
        led += metrics.member.partitions_led;
        assert!(metrics.counters.views_started > 0 && metrics.member.term_max > 1);
        let by_member = shard.partitions.iter().map(|found| found.member.ignored());
        let expected: u64 = by_member.flat_map(|ignored| ignored.each()).map(|(_, n)| n).sum();
        let mut sum = 0;
        metrics.ignored.each(&mut |row, value| {
            assert_eq!(row.label.map(|(name, _)| name), Some("reason"));
            sum += value;
        });
        assert_eq!(sum, expected);
    }
    assert_eq!(led, u64::from(PARTITION_COUNT), "each partition has one leader");
}

#[test]
fn slot_that_a_member_misses_is_counted_when_it_asks_for_it() {
    let mut net = Net::start(5);
    net.wait_until_ready();
    let leader = net.stamper("k").expect("somebody leads");
    let follower = (leader + 1) % NODE_COUNT;
    while net.step() {}
    assert_eq!(net.host(follower).shard.counters().slot_lookups, 0);
    for value in ["missed", "seen"] {
        net.host(leader).put("k", value);
    }
    net.collect();
    let link = net.links.get_mut(&(leader, follower)).expect("they are connected");
    let count = link.len();
    link.retain(|payload| !payload.windows(6).any(|bytes| bytes == b"missed"));
    assert_eq!(link.len() + 1, count, "one command is lost");
    net.run_for(NS_PER_S / 10);
    assert!(net.host(follower).shard.counters().slot_lookups > 0);
    net.assert_converged();
}

#[test]
fn rows_of_ignored_messages_are_in_the_order_of_their_reasons() {
    let mut labels = Vec::new();
    crate::metrics::IgnoredMetrics::default().each(&mut |row, _| {
        labels.push(row.label.map(|(_, reason)| reason).expect("each has a reason"));
    });
    let reasons = crate::nopaxos::IgnoreReason::ALL.iter().map(|reason| reason.name());
    let drops = PeerDrop::ALL.iter().map(|reason| reason.name());
    assert_eq!(labels, reasons.chain(drops).collect::<Vec<_>>());
}
