//! A start with another number of shards: a new generation is made beside the living one, of the
//! same parts of which a node makes it, and counts when CURRENT names it. It may be interrupted
//! anywhere.

use super::{Node, StartFailure};
use crate::base::ids::SegmentId;
use crate::base::ids::{Index, ShardId};
use crate::base::limits::{BLOCK_SIZE_BYTES, WRITES_IN_FLIGHT_DEFAULT};
use crate::base::shards::ShardMap;
use crate::base::time::{Monotonic, NS_PER_MS};
use crate::shard::Loading;
use crate::sim::cluster::World;
use crate::sim::disk::{Folder, Opened};
use crate::storage::block::LogKey;
use crate::storage::checkpoint::CheckpointId;
use crate::storage::identity::{Boot, Current, log_salt};
use crate::storage::record::{Entry, PartitionSnapshot, Record, ShardSnapshot};
use crate::storage::replay::{LoggedEntry, RecoveredPartition};
use crate::storage::wal::{Durability, Wal, WalConfig, WalStart};

/// A partition on its way: its stable state is in the loading of its old shard.
struct Moving {
    loading: usize,
    found: RecoveredPartition,
}

impl Node {
    /// Moves all partitions to the shards that this start has.
    pub(super) fn rehome(
        &mut self,
        opened: &mut Opened,
        world: &mut World,
    ) -> Result<(), StartFailure> {
        let (mut loadings, mut moving) = self.load_old_shards(opened, world)?;
        let is_empty = moving.iter().all(|moving| {
            let PartitionSnapshot { partition, is_recovering, .. } = moving.found.state;
            let empty = PartitionSnapshot::empty(partition);
            moving.found.state == PartitionSnapshot { is_recovering, ..empty }
        });
        let shards = ShardMap::new(opened.identity.partition_count, self.shard_count);
        let generation = opened.current.generation + 1;
        let current = Current { generation, shard_count: self.shard_count, ..opened.current };
        for shard in (0..self.shard_count).map(ShardId) {
            self.maybe_interrupted(world)?;
            let moved: Vec<Moving> = moving.drain(..shards.partitions_of(shard).len()).collect();
            let folder = match is_empty {
                true => Folder::default(),
                false => make_folder(opened, current, shard, moved, &mut loadings, world),
            };
            self.disk.directory.folders.insert((generation, shard), folder);
        }
        self.maybe_interrupted(world)?;
        self.disk.directory.current = current.encode();
        self.maybe_interrupted(world)?;
        self.disk.directory.folders.retain(|(living, _), _| *living == generation);
        // The epoch of this boot has written a log, and closed it.
        opened.boot_epoch = opened.boot_epoch.next();
        opened.current = current;
        self.disk.directory.boot = Boot { boot_epoch: opened.boot_epoch }.encode();
        Ok(())
    }

    fn load_old_shards(
        &mut self,
        opened: &Opened,
        world: &mut World,
    ) -> Result<(Vec<Loading>, Vec<Moving>), StartFailure> {
        let (mut loadings, mut moving) = (Vec::new(), Vec::new());
        for shard in (0..opened.current.shard_count).map(ShardId) {
            let config = self.shard_config(opened, shard, world);
            let (loading, mut recovered) = self.load(opened, config, world)?;
            recovered.keep_blank();
            let found = recovered.partitions.into_iter();
            moving.extend(found.map(|found| Moving { loading: loadings.len(), found }));
            loadings.push(loading);
        }
        moving.sort_unstable_by_key(|moving| moving.found.state.partition);
        Ok((loadings, moving))
    }

    /// The process may die at any step.
    fn maybe_interrupted(&mut self, world: &mut World) -> Result<(), StartFailure> {
        if world.may_crash() && self.prng.one_in(20) {
            world.report.mark("interrupted while partitions were moved", 1);
            return Err(StartFailure::Interrupted);
        }
        Ok(())
    }
}

/// A shard's folder of the new generation with all that is in it.
fn make_folder(
    opened: &Opened,
    current: Current,
    shard: ShardId,
    moved: Vec<Moving>,
    loadings: &mut [Loading],
    world: &World,
) -> Folder {
    let mut folder = Folder::default();
    let salt = log_salt(&opened.identity.uuid, current.generation);
    let mut state = ShardSnapshot::default();
    let mut logs = Vec::new();
    for Moving { loading, found } in moved {
        let partition = found.state.partition;
        let loading = &mut loadings[loading];
        let index = loading.applied(partition);
        assert_eq!(index, found.state.sync_point, "what is stable was loaded");
        if index > Index(0) {
            folder.begin_checkpoint(CheckpointId { partition, index });
            let written: Result<(), std::convert::Infallible> =
                loading.checkpoint(partition, salt, &mut |chunk| {
                    folder.write_checkpoint(chunk);
                    Ok(())
                });
            let Ok(()) = written;
            folder.finish_checkpoint();
        }
        let first = index.next();
        let begins = SegmentId(0);
        let state_of = PartitionSnapshot { checkpoint: index, first, begins, ..found.state };
        state.partitions.push(state_of);
        logs.push((partition, found.log));
    }
    let config = WalConfig {
        key: LogKey { shard, salt },
        boot_epoch: opened.boot_epoch,
        segment_size_bytes: world.swarm.segment_size_bytes,
        log_size_bytes_max: u64::MAX,
        writes_in_flight: WRITES_IN_FLIGHT_DEFAULT,
        durability: Durability::Sync,
    };
    let start = WalStart { state, next_segment: SegmentId(1), clean: true, ..WalStart::default() };
    let mut wal = Wal::open(config, start);
    for (partition, entries) in logs {
        for LoggedEntry { index, term, message_id, timestamp, value } in entries {
            let value = value.as_deref().unwrap_or_default();
            let entry = Entry { partition, index, term, message_id, timestamp, value };
            wal.append(&Record::Carry(entry));
            pump(&mut wal, &mut folder, world.swarm.segment_size_bytes);
        }
    }
    wal.close();
    pump(&mut wal, &mut folder, world.swarm.segment_size_bytes);
    assert!(wal.is_closed(), "nothing is left to be written");
    folder
}

/// Does by hand what a loop does for a log.
fn pump(wal: &mut Wal, folder: &mut Folder, segment_size_bytes: usize) {
    let now = Monotonic(NS_PER_MS);
    loop {
        if let Some(write) = wal.poll_write(now) {
            folder.write(&write, false);
            wal.on_written(write);
        } else if wal.space().gathering_size_bytes > 0
            && let Some(wanted) = wal.wants_segment(now)
        {
            folder.prepare(wanted, segment_size_bytes / BLOCK_SIZE_BYTES);
            wal.on_segment_prepared(wanted.segment);
        } else {
            return;
        }
    }
}
