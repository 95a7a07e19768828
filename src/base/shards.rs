//! Which shard of a node owns a partition: equal shares of consecutive partitions. (A plain
//! remainder would line up with the rule of leaders and put all of a node's on some of its cores.)

use std::ops::Range;

use super::cast::{low_u32, u16_from, usize_from_u32};
use super::ids::{PartitionId, ShardId};

/// How a node's shards share the partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardMap {
    partition_count: u32,
    shard_count: u16,
}

impl ShardMap {
    /// So many partitions on so many shards.
    ///
    /// # Panics
    /// If there are no shards, or fewer partitions than shards: the configuration was checked.
    #[must_use]
    pub fn new(partition_count: u32, shard_count: u16) -> Self {
        assert!(shard_count > 0, "a node has shards");
        assert!(partition_count >= u32::from(shard_count), "each shard owns a partition");
        Self { partition_count, shard_count }
    }

    /// How many shards there are.
    #[inline]
    #[must_use]
    pub fn shard_count(&self) -> u16 {
        self.shard_count
    }

    /// How many partitions there are.
    #[inline]
    #[must_use]
    pub fn partition_count(&self) -> u32 {
        self.partition_count
    }

    /// The shard that owns a partition: ⌊partition × shards / partitions⌋.
    #[inline]
    #[must_use]
    pub fn owner(&self, partition: PartitionId) -> ShardId {
        debug_assert!(partition.0 < self.partition_count, "the partition exists");
        let product = u64::from(partition.0) * u64::from(self.shard_count);
        let owner = low_u32(product / u64::from(self.partition_count));
        ShardId(u16_from(usize_from_u32(owner)))
    }

    /// The partitions of a shard; none if there is no such shard.
    #[must_use]
    pub fn partitions_of(&self, shard: ShardId) -> Range<u32> {
        self.first_of(shard.0)..self.first_of(shard.0.saturating_add(1))
    }

    /// The first partition whose owner is `shard` or one after it.
    fn first_of(&self, shard: u16) -> u32 {
        let product = u64::from(shard.min(self.shard_count)) * u64::from(self.partition_count);
        low_u32(product.div_ceil(u64::from(self.shard_count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_the_shards_are_what_their_owners_say() {
        for (partitions, shards) in [(1, 1), (8, 3), (64, 1), (64, 5), (64, 64), (16_384, 1_000)] {
            let map = ShardMap::new(partitions, shards);
            let mut next = 0;
            for shard in (0..shards).map(ShardId) {
                let range = map.partitions_of(shard);
                assert_eq!(range.start, next, "consecutive");
                assert!(!range.is_empty(), "each shard owns a partition");
                assert!(range.clone().all(|p| map.owner(PartitionId(p)) == shard));
                next = range.end;
            }
            assert_eq!(next, partitions);
            assert!(map.partitions_of(ShardId(shards)).is_empty());
        }
    }
}
