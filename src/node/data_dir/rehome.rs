//! Re-homing: the same partitions on another number of shards.
//!
//! A new generation is made beside the living one: of every partition a checkpoint of what is
//! stable, and for every new shard a log that begins where those end, with the slots above them
//! carried over. When all of it is durable, CURRENT names the new generation, and the old one is
//! removed. A crash before that leaves the old generation as it was, and what was made of the new
//! one is removed by the next start; a crash after it leaves an old generation to be removed.
//!
//! Room for a second copy of the state is needed for as long as it takes. Nothing is made of a new
//! generation whose shards couldn't hold their entries: a directory that is moved can be started.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::RenameFlags;
use zerocopy::IntoBytes;

use super::{
    CURRENT, DataDir, DataDirError, GENERATION_PREFIX, create_folder, doing, folders, raise_boot,
    shard_folder, sync_folder, write_new,
};
use crate::base::cast::{u64_from, usize_from_u32};
use crate::base::ids::{BootEpoch, Index, PartitionId, SegmentId, ShardId};
use crate::base::limits::{CORE_NUMBER_COUNT, MAP_SIZE_BYTES_SPARE, WRITES_IN_FLIGHT_DEFAULT};
use crate::base::shards::ShardMap;
use crate::base::time::{Monotonic, NS_PER_MS};
use crate::map::arena::PAGES_SIZE_BYTES_MAX;
use crate::map::footprint::Footprint;
use crate::shard::{Installing, Loading};
use crate::storage::block::LogKey;
use crate::storage::checkpoint::{CheckpointId, checkpoint_file_name};
use crate::storage::identity::{Current, log_salt};
use crate::storage::record::{PartitionSnapshot, Record, ShardSnapshot};
use crate::storage::replay::RecoveredPartition;
use crate::storage::segment_name::segment_file_name;
use crate::storage::wal::{Durability, SegmentWanted, Wal, WalConfig, WalStart};

/// What was just done; after each of them the process may die.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RehomeStep {
    /// A shard of the old generation was loaded.
    Loaded,
    /// A folder of the new generation was made.
    FolderMade,
    /// A checkpoint was written and synced.
    CheckpointWritten,
    /// A segment was made.
    SegmentMade,
    /// Records were written to a segment.
    RecordsWritten,
    /// All of the new generation is durable.
    Durable,
    /// CURRENT names the new generation.
    Switched,
    /// The old generation is gone.
    Removed,
}

/// Where partitions move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// To how many shards.
    pub shard_count: u16,
    /// What the entries of each may take of its arena's pages.
    pub pages_size_bytes_max: u64,
}

impl Destination {
    /// Shards that can be written to when they are there: what is stamped and not executed yet
    /// must still fit.
    #[must_use]
    pub const fn of(shard_count: u16) -> Self {
        let pages_size_bytes_max = u64_from(PAGES_SIZE_BYTES_MAX) - MAP_SIZE_BYTES_SPARE;
        Self { shard_count, pages_size_bytes_max }
    }
}

/// A partition on its way: its stable state is in the loading of its old shard.
struct Moving {
    loading: usize,
    found: RecoveredPartition,
}

impl DataDir {
    /// Removes generations that CURRENT doesn't name: of a re-homing that was not completed, or
    /// whose last step was not done.
    ///
    /// # Errors
    /// If they can't be.
    pub(super) fn remove_other_generations(&self) -> Result<(), DataDirError> {
        let living = format!("{GENERATION_PREFIX}{}", self.current.generation);
        for folder in folders(&self.path, GENERATION_PREFIX)? {
            if folder.file_name().is_none_or(|name| name.to_string_lossy() != living) {
                fs::remove_dir_all(&folder).map_err(doing("removing", &folder))?;
                sync_folder(&self.path)?;
            }
        }
        Ok(())
    }

    /// Moves all partitions to other shards. `load` makes the empty state of one of the
    /// shards that there are; `observe` is told of every step.
    ///
    /// # Errors
    /// If a shard couldn't hold its entries, if something can't be read or written, or `observe`
    /// says so. The directory is as good as before then, but must be opened again.
    pub fn rehome(
        &mut self,
        to: Destination,
        load: impl Fn(&Self, ShardId) -> Loading,
        observe: &mut impl FnMut(RehomeStep) -> Result<(), DataDirError>,
    ) -> Result<(), DataDirError> {
        let mut loadings = Vec::new();
        let mut moving: Vec<Moving> = Vec::new();
        for shard in (0..self.current.shard_count).map(ShardId) {
            let mut loading = load(self, shard);
            let mut reader = self.checkpoint_reader(shard);
            let mut installing =
                Installing::new(&mut loading, &mut reader, self.log_key(shard).salt);
            let mut log = self.recover_shard(shard, &mut installing)?;
            log.recovered.keep_blank();
            self.notices.append(&mut log.notices);
            installing.finish().map_err(|error| DataDirError::Checkpoint {
                path: self.shard_folder(shard),
                error,
            })?;
            let found = log.recovered.partitions.into_iter();
            moving.extend(found.map(|found| Moving { loading: loadings.len(), found }));
            loadings.push(loading);
            observe(RehomeStep::Loaded)?;
        }
        moving.sort_unstable_by_key(|moving| moving.found.state.partition);
        self.check_room(to, &moving, &loadings)?;

        let was_never_used = |moving: &Moving| {
            let state = &moving.found.state;
            *state == PartitionSnapshot::empty(state.partition)
        };
        let is_empty = moving.iter().all(was_never_used);
        let shard_count = to.shard_count;
        let shards = ShardMap::new(self.identity.partition_count, shard_count);
        let generation = self.current.generation + 1;
        let current = Current { generation, shard_count, ..self.current };
        for shard in (0..shard_count).map(ShardId) {
            let moved: Vec<Moving> = moving.drain(..shards.partitions_of(shard).len()).collect();
            let made = if is_empty {
                // Without a log there is nothing to move, and there must be none afterwards.
                create_folder(&shard_folder(&self.path, generation, shard))
            } else {
                self.make_shard(current, shard, moved, &mut loadings, observe)
            };
            if let Err(error) = made {
                // Half a copy must not keep the disk full.
                let _ = self.remove_other_generations();
                return Err(error);
            }
        }
        observe(RehomeStep::Durable)?;
        write_new(&self.path, CURRENT, &current.encode(), RenameFlags::empty())?;
        observe(RehomeStep::Switched)?;
        self.current = current;
        self.remove_other_generations()?;
        observe(RehomeStep::Removed)?;
        // The epoch of this boot has written a log, and closed it.
        self.boot_epoch = raise_boot(&self.path)?;
        Ok(())
    }

    /// Whether each of the new shards can hold what will be its part.
    fn check_room(
        &self,
        to: Destination,
        moving: &[Moving],
        loadings: &[Loading],
    ) -> Result<(), DataDirError> {
        let footprint =
            |moving: &Moving| loadings[moving.loading].footprint(moving.found.state.partition);
        let footprints: Vec<Footprint> = moving.iter().map(footprint).collect();
        let fits = |shard_count: u16| {
            let shards = ShardMap::new(self.identity.partition_count, shard_count);
            (0..shard_count).map(ShardId).all(|shard| {
                let mut all = Footprint::default();
                for partition in shards.partitions_of(shard) {
                    all.merge(&footprints[usize_from_u32(partition)]);
                }
                all.pages_size_bytes() <= to.pages_size_bytes_max
            })
        };
        if fits(to.shard_count) {
            return Ok(());
        }
        let most = u16::try_from(self.identity.partition_count).unwrap_or(u16::MAX);
        let more = to.shard_count + 1..=most.min(CORE_NUMBER_COUNT);
        Err(DataDirError::TooFewShards {
            path: self.path.clone(),
            shard_count: to.shard_count,
            from: self.current.shard_count,
            needed: more.into_iter().find(|count| fits(*count)),
        })
    }

    /// Makes a shard's folder with all that is in it, durably.
    fn make_shard(
        &self,
        current: Current,
        shard: ShardId,
        moved: Vec<Moving>,
        loadings: &mut [Loading],
        observe: &mut impl FnMut(RehomeStep) -> Result<(), DataDirError>,
    ) -> Result<(), DataDirError> {
        let folder = shard_folder(&self.path, current.generation, shard);
        create_folder(&folder)?;
        observe(RehomeStep::FolderMade)?;
        let salt = log_salt(&self.identity.uuid, current.generation);
        let mut state = ShardSnapshot::default();
        let mut logs = Vec::new();
        for Moving { loading, found } in moved {
            let partition = found.state.partition;
            let stable = write_checkpoint(&folder, &mut loadings[loading], partition, salt)?;
            observe(RehomeStep::CheckpointWritten)?;
            assert_eq!(stable, found.state.sync_point, "what is stable was loaded");
            state.partitions.push(PartitionSnapshot {
                checkpoint: stable,
                first: stable.next(),
                begins: SegmentId(0),
                ..found.state
            });
            logs.push((partition, found.log));
        }
        let config = WalConfig {
            key: LogKey { shard, salt },
            boot_epoch: self.boot_epoch,
            segment_size_bytes: self.segment_size_bytes(),
            log_size_bytes_max: u64::MAX,
            writes_in_flight: WRITES_IN_FLIGHT_DEFAULT,
            durability: Durability::Sync,
        };
        assert!(state.boot_epoch < BootEpoch(1), "whoever writes is of a later boot");
        let start =
            WalStart { state, next_segment: SegmentId(1), clean: true, ..WalStart::default() };
        let mut writer = LogWriter::open(&folder, config, start);
        for (partition, entries) in logs {
            for entry in entries {
                writer.append(&Record::Carry(entry.as_entry(partition)));
                writer.pump(observe)?;
            }
        }
        writer.close(observe)?;
        sync_folder(&folder)
    }
}

/// Writes the checkpoint of a partition's loaded state, durably but for its name. Returns the last
/// slot that it covers; of an empty log there is none.
fn write_checkpoint(
    folder: &Path,
    loading: &mut Loading,
    partition: PartitionId,
    salt: u32,
) -> Result<Index, DataDirError> {
    let index = loading.applied(partition);
    if index == Index(0) {
        return Ok(index);
    }
    let path = folder.join(checkpoint_file_name(CheckpointId { partition, index }));
    let file = File::create_new(&path).map_err(doing("making", &path))?;
    loading
        .checkpoint(partition, salt, &mut |chunk| {
            file.write_all_at(chunk.blocks.as_slice().as_bytes(), chunk.offset)
        })
        .and_then(|()| file.sync_all())
        .map_err(doing("writing", &path))?;
    Ok(index)
}

/// Does by hand what a loop does for a log.
pub(super) struct LogWriter<'a> {
    folder: &'a Path,
    segment_size_bytes: usize,
    wal: Wal,
    file: Option<(SegmentId, PathBuf, File)>,
}

impl<'a> LogWriter<'a> {
    pub(super) fn open(folder: &'a Path, config: WalConfig, start: WalStart) -> Self {
        let segment_size_bytes = config.segment_size_bytes;
        Self { folder, segment_size_bytes, wal: Wal::open(config, start), file: None }
    }

    pub(super) fn append(&mut self, record: &Record<'_>) {
        self.wal.append(record);
    }

    /// Ends the log.
    pub(super) fn close(
        &mut self,
        observe: &mut impl FnMut(RehomeStep) -> Result<(), DataDirError>,
    ) -> Result<(), DataDirError> {
        self.wal.close();
        self.pump(observe)?;
        assert!(self.wal.is_closed(), "nothing is left to be written");
        Ok(())
    }

    fn pump(
        &mut self,
        observe: &mut impl FnMut(RehomeStep) -> Result<(), DataDirError>,
    ) -> Result<(), DataDirError> {
        let now = Monotonic(NS_PER_MS);
        loop {
            if let Some(write) = self.wal.poll_write(now) {
                self.turn_to(write.segment)?;
                let (_, path, file) = self.file.as_ref().expect("it was opened");
                file.write_all_at(write.blocks.as_slice().as_bytes(), write.offset)
                    .and_then(|()| file.sync_data())
                    .map_err(doing("writing", path))?;
                self.wal.on_written(write);
                observe(RehomeStep::RecordsWritten)?;
            } else if self.wal.space().gathering_size_bytes > 0
                && let Some(SegmentWanted { segment, .. }) = self.wal.wants_segment(now)
            {
                let path = self.folder.join(segment_file_name(segment));
                let size = u64_from(self.segment_size_bytes);
                // Zeros, as far as anybody reads. Only segments that are written are made: the next
                // boot's must not be one with holes.
                File::create_new(&path)
                    .and_then(|file| file.set_len(size).and_then(|()| file.sync_all()))
                    .map_err(doing("making", &path))?;
                self.wal.on_segment_prepared(segment);
                observe(RehomeStep::SegmentMade)?;
            } else {
                return Ok(());
            }
        }
    }

    fn turn_to(&mut self, segment: SegmentId) -> Result<(), DataDirError> {
        if self.file.as_ref().is_some_and(|(open, ..)| *open == segment) {
            return Ok(());
        }
        let path = self.folder.join(segment_file_name(segment));
        let file = OpenOptions::new().write(true).open(&path).map_err(doing("opening", &path))?;
        self.file = Some((segment, path, file));
        Ok(())
    }
}
