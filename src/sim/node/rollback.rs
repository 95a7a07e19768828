//! A node whose disk goes back in time.

use std::collections::BTreeMap;

use super::Node;
use crate::base::cast::u16_from;
use crate::base::ids::{Incarnation, NodeId, PartitionId};
use crate::base::shards::ShardMap;
use crate::sim::cluster::World;
use crate::sim::disk::Directory;
use crate::storage::witness::Life;

impl Node {
    /// Its present process, if there is one.
    pub(in crate::sim) fn process(&self) -> Option<Life> {
        self.hosts.first().map(|host| host.life)
    }

    /// Whether all of its shards have met this process of another node, and none since.
    pub(in crate::sim) fn has_met(&self, node: NodeId, life: Life) -> bool {
        self.hosts.iter().all(|host| host.shard.has_met(node, life))
    }

    /// Whether its disk went back in time and it doesn't know it.
    pub(in crate::sim) fn is_rolled_back(&self) -> bool {
        !self.rolled_back.is_empty()
    }

    /// The power fails, and what lies on the disk then is what lay there a while ago.
    pub(in crate::sim) fn roll_back_disk(&mut self, image: Directory, world: &mut World) {
        self.rolled_back = self.lives(world);
        self.lose_disk(world);
        self.disk.roll_back(image);
    }

    /// It knows, once it has begun a new life in each partition: until it has recovered there, its
    /// next process may know nothing of that again.
    pub(super) fn look_for_new_life(&mut self, world: &World) {
        if self.is_rolled_back() && self.is_serving() {
            let lives = self.lives(world);
            let is_new = |(partition, old): (&PartitionId, &Incarnation)| {
                lives.get(partition).is_some_and(|life| life > old)
            };
            if self.rolled_back.iter().all(is_new) {
                self.rolled_back.clear();
            }
        }
    }

    /// Which life it is in each partition.
    fn lives(&self, world: &World) -> BTreeMap<PartitionId, Incarnation> {
        let shards = ShardMap::new(world.swarm.partition_count, u16_from(self.hosts.len()).max(1));
        let partitions = |shard| shards.partitions_of(shard).map(PartitionId);
        let hosts = self.hosts.iter();
        hosts
            .flat_map(|host| partitions(host.me).map(|partition| host.shard.replica(partition)))
            .map(|replica| (replica.group().partition(), replica.incarnation()))
            .collect()
    }
}
