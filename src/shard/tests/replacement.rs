//! A data directory that isn't the one that its node had.

use super::*;
use crate::base::ids::Incarnation;
use crate::storage::recovery::FormerLife;
use crate::storage::witness::Life;
use crate::wire::peer::hello::PartitionState;

fn member(durability: Durability) -> Host {
    let names: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
    let nodes = Cluster::new(names, "b", 3);
    Host::boot_member(nodes, (ShardId(0), 1), Disk::default(), (durability, 1), u64::MAX)
}

fn lives(partition: u32, lives: [u64; 3]) -> PartitionState {
    PartitionState {
        partition: PartitionId(partition),
        term: TermId(1),
        last_normal: TermId(1),
        durable_last: Index(1),
        lives: lives.map(Incarnation).to_vec(),
    }
}

#[test]
fn former_life_is_known_by_others_as_long_as_nothing_is_stored_here() {
    let mut host = member(Durability::Sync);
    let new = [lives(0, [1, 0, 1]), lives(1, [0, 0, 0])];
    assert_eq!(host.shard.former_life(&new), None, "the group begins");
    let known = [lives(0, [1, 0, 1]), lives(2, [1, 1, 1])];
    let former = FormerLife { partition: PartitionId(2), known: Incarnation(1) };
    assert_eq!(host.shard.former_life(&known), Some(former));
    for other in
        [lives(PARTITION_COUNT, [1, 1, 1]), PartitionState { lives: vec![], ..lives(0, [0; 3]) }]
    {
        assert_eq!(host.shard.former_life(&[other]), None, "what makes no sense says nothing");
    }
    assert_eq!(member(Durability::None).shard.former_life(&known), None, "it keeps nothing");
    // It hears of others' lives, and stores that: from here on it is a member like any other.
    let life = Life { boot_epoch: BootEpoch(1), nonce: 7 };
    let (node, clock) = (NodeId(0), host.now.wall);
    host.handle(Input::PeerConnected { node, life, clock, partitions: &known });
    assert_eq!(host.shard.former_life(&known), None);
}
