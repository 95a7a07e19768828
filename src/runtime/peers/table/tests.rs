#![allow(clippy::single_range_in_vec_init, reason = "a list of one range is meant")]

use super::*;
use crate::base::cluster::Cluster;
use crate::base::ids::{BootEpoch, Incarnation};
use crate::base::time::{NS_PER_S, Timestamp};
use crate::runtime::peers::secret::Challenges;

const START: Monotonic = Monotonic(NS_PER_S);

/// Shard `shard` of `count` of the node `me`, one of `a`, `b` and `c`.
fn peers_of(me: &str, shard: u16, count: u16) -> Peers {
    let cluster = Cluster::new(["a", "b", "c"].map(str::to_owned).to_vec(), me, 3);
    let network = PeerNetwork {
        name: "p".to_owned(),
        cluster,
        addresses: (1..=3).map(|port| ([127, 0, 0, 1], port).into()).collect(),
        partition_count: 64,
        configuration_hash: 0,
        boot_epoch: BootEpoch(1),
        process_nonce: 1,
        secret: None,
        challenges: Challenges::new([0; 16]),
        protocol: crate::runtime::peers::PeerProtocol::Frames,
    };
    Peers::new(Arc::new(network), ShardId(shard), count, START)
}

const fn key(slot: u32) -> Key {
    Key { slot, generation: 0 }
}

fn way(node: u8, shard: u16, lane: Lane) -> WayId {
    WayId { node: NodeId(node), shard: ShardId(shard), lane }
}

fn hello(node: u8, nonce: u64, lane: Lane) -> Hello {
    Hello {
        member: NodeId(node),
        incarnation: Incarnation(1),
        crash_vector: std::collections::BTreeMap::new(),
        shard: ShardId(0),
        shard_count: 1,
        boot_epoch: BootEpoch(1),
        process_nonce: nonce,
        proof: None,
        challenge: None,
        partitions: Vec::new(),
        lane,
        clock: Timestamp(0),
    }
}

/// All that is due then, as if it were dialled with keys from `first` on.
fn dial(peers: &mut Peers, now: Monotonic, first: u32) -> Vec<Due> {
    let mut found = Vec::new();
    while let Some(due) = peers.take_due(now) {
        peers.dialling(due.way, key(first + u32::try_from(found.len()).unwrap()));
        found.push(due);
    }
    found
}

#[test]
fn node_alone_has_nothing_to_dial() {
    let mut peers = Peers::default();
    assert_eq!((peers.next_due(), peers.take_due(Monotonic(u64::MAX))), (None, None));
    assert_eq!(peers.key(NodeId(0), PartitionId(0), Lane::Protocol), None);
}

#[test]
fn first_of_two_nodes_dials_and_the_lane_of_bulk_comes_second() {
    let mut peers = peers_of("b", 0, 1);
    let due = dial(&mut peers, START, 0);
    assert_eq!(due, [Due { way: way(2, 0, Lane::Protocol), is_probe: false }]);
    assert_eq!(peers.key(NodeId(2), PartitionId(5), Lane::Protocol), None);
    let change = peers.opened(due[0].way, key(0), &hello(2, 7, Lane::Protocol), START);
    assert_eq!(change, Change::default());
    assert_eq!(peers.key(NodeId(2), PartitionId(5), Lane::Protocol), Some(key(0)));
    assert_eq!(peers.connected_count(), 1);
    let due = dial(&mut peers, START, 1);
    assert_eq!(due, [Due { way: way(2, 0, Lane::Bulk), is_probe: false }]);
    let _ = peers.opened(due[0].way, key(1), &hello(2, 7, Lane::Bulk), START);
    assert_eq!(peers.key(NodeId(2), PartitionId(5), Lane::Bulk), Some(key(1)));
    assert_eq!(peers.next_due(), None);
}

#[test]
fn lanes_to_different_processes_are_not_mixed() {
    let mut peers = peers_of("b", 0, 1);
    let (protocol, bulk) = (way(0, 0, Lane::Protocol), way(0, 0, Lane::Bulk));
    let _ = peers.opened(bulk, key(0), &hello(0, 7, Lane::Bulk), START);
    assert!(!peers.is_current(bulk, key(0)), "nobody speaks protocol yet");
    let change = peers.opened(protocol, key(1), &hello(0, 8, Lane::Protocol), START);
    assert_eq!(change, Change { cut: vec![key(0)], gone: Vec::new() });
    assert!(peers.is_current(protocol, key(1)) && !peers.is_current(bulk, key(0)));
    assert_eq!(peers.key(NodeId(0), PartitionId(0), Lane::Bulk), None);
}

#[test]
fn later_connection_takes_the_place_of_an_earlier_one() {
    let mut peers = peers_of("b", 0, 1);
    let protocol = way(0, 0, Lane::Protocol);
    let _ = peers.opened(protocol, key(0), &hello(0, 7, Lane::Protocol), START);
    let change = peers.opened(protocol, key(1), &hello(0, 8, Lane::Protocol), START);
    assert_eq!(change, Change { cut: vec![key(0)], gone: vec![0..64] });
    assert_eq!(peers.lost(protocol, key(0), START), Change::default(), "it is no longer the one");
    assert!(peers.is_current(protocol, key(1)));
}

/// What it said last was long on its way. Were it believed, the present process would seem to have
/// a disk that went back in time.
#[test]
fn answer_of_an_earlier_boot_counts_only_if_the_later_one_was_known_when_it_was_asked_for() {
    let mut peers = peers_of("b", 0, 1);
    let of_boot = |boot| Hello { boot_epoch: BootEpoch(boot), ..hello(0, boot, Lane::Protocol) };
    let early = peers.latest_boot(NodeId(0));
    assert!(peers.on_answer(&of_boot(2), early));
    assert!(!peers.on_answer(&of_boot(1), early));
    // It has more shards than was assumed, and is forgotten but for its boots.
    assert!(peers.learn_shards(NodeId(0), 2, START).is_some());
    assert!(!peers.on_answer(&of_boot(1), early));
    // A disk that did go back in time.
    let late = peers.latest_boot(NodeId(0));
    assert!(peers.on_answer(&of_boot(1), late));
}

#[test]
fn lost_connection_takes_its_other_lane_along_and_is_dialled_later_and_later() {
    let mut peers = peers_of("a", 0, 1);
    dial(&mut peers, START, 0);
    let (protocol, bulk) = (way(1, 0, Lane::Protocol), way(1, 0, Lane::Bulk));
    let _ = peers.opened(protocol, key(0), &hello(1, 7, Lane::Protocol), START);
    dial(&mut peers, START, 5);
    let _ = peers.opened(bulk, key(5), &hello(1, 7, Lane::Bulk), START);
    let change = peers.lost(protocol, key(0), START);
    assert_eq!(change, Change { cut: vec![key(5)], gone: vec![0..64] });
    assert_eq!(peers.lost(bulk, key(5), START), Change::default());
    let mut now = START;
    let mut waits = Vec::new();
    for round in 0..12 {
        let due = peers.next_due().expect("it is dialled again");
        waits.push(due.since_ns(now));
        now = due;
        let found = dial(&mut peers, now, 10 + round);
        assert_eq!(found, [Due { way: protocol, is_probe: false }], "one lane first");
        let _ = peers.lost(protocol, key(10 + round), now);
    }
    assert!(waits[0] <= PEER_BACKOFF_NS_MIN && waits[0] >= PEER_BACKOFF_NS_MIN / 2, "{waits:?}");
    let late = &waits[8..];
    assert!(late.iter().all(|ns| (PEER_BACKOFF_NS_MAX / 2..=PEER_BACKOFF_NS_MAX).contains(ns)));
    assert!(late.windows(2).any(|pair| pair[0] != pair[1]), "never at a regular time: {late:?}");
}

#[test]
fn who_is_dialled_looks_whether_a_lost_dialler_is_gone_and_says_so_once() {
    let mut peers = peers_of("c", 0, 1);
    assert_eq!(peers.next_due(), None, "all others dial");
    let protocol = way(0, 0, Lane::Protocol);
    let _ = peers.opened(protocol, key(0), &hello(0, 7, Lane::Protocol), START);
    let _ = peers.lost(protocol, key(0), START);
    let now = peers.next_due().expect("it looks");
    assert_eq!(dial(&mut peers, now, 1), [Due { way: protocol, is_probe: true }]);
    // Somebody still listens; the next time nobody does.
    let _ = peers.lost(protocol, key(1), now);
    let now = peers.next_due().expect("it looks again");
    dial(&mut peers, now, 2);
    let _ = peers.lost(protocol, key(2), now);
    assert!(peers.refused(protocol));
    assert!(!peers.refused(protocol), "that is no news");
    assert_eq!(peers.next_due(), None, "it will dial");
    let _ = peers.opened(protocol, key(3), &hello(0, 9, Lane::Protocol), now);
    let _ = peers.lost(protocol, key(3), now);
    assert!(peers.refused(protocol), "another process of it");
}

#[test]
fn nodes_with_other_numbers_of_shards_are_connected_shard_by_shard() {
    let mut peers = peers_of("a", 0, 2);
    assert_eq!(peers.shared(way(1, 0, Lane::Protocol)), 0..32);
    dial(&mut peers, START, 0);
    let change = peers.learn_shards(NodeId(1), 4, START).expect("that is news");
    assert_eq!(change, Change { cut: vec![key(0)], gone: Vec::new() });
    assert_eq!(peers.learn_shards(NodeId(1), 4, START), None);
    let due = dial(&mut peers, START, 4);
    let protocol = |shard| way(1, shard, Lane::Protocol);
    assert_eq!(due.iter().map(|due| due.way).collect::<Vec<_>>(), [protocol(0), protocol(1)]);
    assert_eq!(peers.shared(protocol(1)), 16..32);
    let _ = peers.opened(protocol(1), key(5), &hello(1, 7, Lane::Protocol), START);
    assert_eq!(peers.key(NodeId(1), PartitionId(20), Lane::Protocol), Some(key(5)));
    assert_eq!(peers.key(NodeId(1), PartitionId(15), Lane::Protocol), None);
    assert_eq!(peers.connected_count(), 0, "only a half of it is");
    let change = peers.lost(protocol(1), key(5), START);
    assert_eq!(change.gone, [16..32]);
    assert!(!peers.knows(protocol(2)), "its partitions are the other shard's");
}

#[test]
fn complaints_are_told_once_until_they_change() {
    let mut peers = peers_of("a", 0, 1);
    assert!(peers.complain(NodeId(1), "other partitions"));
    assert!(!peers.complain(NodeId(1), "other partitions"));
    assert!(peers.complain(NodeId(1), "other secret"));
}
