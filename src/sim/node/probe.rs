//! What a crash at this moment would leave: the real recovery reads what is durable, and it must
//! hold all that the node has claimed (W1 to W4), in each of its sends and not only where a fault
//! happens to end a process.

use super::Node;
use crate::base::cast::u16_from;
use crate::base::ids::{Index, MessageId, PartitionId, TermId};
use crate::base::shards::ShardMap;
use crate::base::time::Timestamp;
use crate::mark;
use crate::sim::checker::{Checker, Violation};
use crate::sim::cluster::World;
use crate::storage::block::boot_of;
use crate::storage::recovery::{LogFolder, recover};
use crate::storage::replay::Apply;

/// Recovery is asked where everything stands, not what it is.
struct Standing;

impl Apply for Standing {
    fn install(&mut self, _: PartitionId, _: Index) {}

    fn apply(
        &mut self,
        _: PartitionId,
        _: Index,
        _: TermId,
        _: MessageId,
        _: Timestamp,
        _: Option<&[u8]>,
    ) {
    }
}

impl Node {
    /// Checks that all which the node has claimed of a shard's partitions is durable now.
    pub(super) fn probe(&self, place: usize, world: &World) -> Result<(), Violation> {
        // What was damaged the others make good for.
        if self.disk.is_damaged() || !world.promises_durability() {
            return Ok(());
        }
        mark!("claims-probed");
        let (shard, queue) = (self.hosts[place].me, &self.queues[place]);
        let mut segments = self.disk.segment_reader(self.generation, shard);
        let files = segments.files();
        // The next start may have another number of shards.
        let shards = ShardMap::new(world.swarm.partition_count, u16_from(self.hosts.len()));
        let partitions: Vec<PartitionId> = shards.partitions_of(shard).map(PartitionId).collect();
        let folder = LogFolder {
            key: queue.key,
            boot_epoch: boot_of(queue.last_issued).next(),
            segment_size_bytes: world.swarm.segment_size_bytes,
            partitions: &partitions,
            files: &files,
            serves_peers: world.swarm.node_count() > 1,
        };
        let recovered = recover(&folder, &mut segments, &mut Standing).map_err(|error| {
            let what = format!("node {}: a crash now would be fatal: {error}", self.id);
            Violation::new(Checker::Durability, what)
        })?;
        let states = recovered.partitions.iter().map(|found| &found.state);
        let whole = states.filter(|state| !state.is_recovering);
        whole.into_iter().try_for_each(|state| world.claims.recovered(self.id, state))
    }
}
