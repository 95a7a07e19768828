//! Recovers what a damaged log still says for certain, and names the partitions of which it
//! doesn't: those recover from their other members, the others go on.
//!
//! A log that is whole is recovered as ever. If it isn't:
//!
//! - *Damage in a segment that was left for a later one*: it is read block by block, and what is
//!   whole is replayed. The next segment's snapshot says where each partition stood, and how many
//!   records it had: a partition whose count differs has lost some. It is suspect, unless its
//!   checkpoint covers all slots that it had then. All others are exactly what they were.
//! - *Damage in the newest segment*, a file that is cut and isn't an older one's, or damage to the
//!   snapshot that says which segments count: no later snapshot says who has lost what, and every
//!   partition is suspect. That a partition has a later
//!   record isn't enough: what is missing before it may be a no-op in a slot that it had already,
//!   for which it has answered, or a higher life of another member; neither leaves a hole.
//! - *A checkpoint that can't be loaded*: its partition is suspect.
//!
//! A suspect partition begins anew with its checkpoint, if that is whole, or with nothing; what its
//! snapshot still says of views and lives is a lower bound. Its old records are void
//! ([`PartitionSnapshot::begins`]), and it is marked, durably from the next snapshot on, until it
//! adopts a view. Until then each start names it again, so a crash in between forgets nothing. The
//! same holds for the damage itself: no file is removed before that snapshot is durable.

use std::fmt;

use super::{
    Damage, LogFolder, Place, Plan, Progress, Recovered, RecoveredPartition, SegmentSource,
    check_boot, head, is_void, recover,
};
use crate::base::cast::{u64_from, usize_from};
use crate::base::ids::{BatchId, Index, PartitionId, SegmentId};
use crate::base::limits::BLOCK_SIZE_BYTES;
use crate::storage::block::{boot_of, offset_of};
use crate::storage::error::StorageError;
use crate::storage::ledger::Ledger;
use crate::storage::record::{LiveSegment, PartitionSnapshot, ShardSnapshot};
use crate::storage::replay::Apply;
use crate::storage::scan::{Reader, Segment};
use crate::storage::segment_name::segment_file_name;
use crate::storage::wal::WalStart;

use super::READ_BLOCK_COUNT;

/// A partition that has lost something that it may have promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// Which.
    pub partition: PartitionId,
    /// Why.
    pub suspicion: Suspicion,
}

/// Why a partition can't go on from what its log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// Records of it are missing, or may be.
    Damaged {
        /// Where.
        place: Place,
        /// In which way.
        damage: Damage,
    },
    /// Its checkpoint can't be loaded.
    Checkpoint,
    /// It was suspect at an earlier start, and has adopted no view since.
    Unrecovered,
    /// The process before this one acted on records before they were durable, and wasn't closed.
    Unclean,
    /// Nothing was ever logged of it: it is new, or its disk is, or nothing is kept.
    Blank,
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { place, damage } => {
                let Place { shard, segment, offset, .. } = place;
                let file = segment_file_name(*segment);
                write!(f, "shard-{shard}/{file} is damaged at byte {offset}: {damage}")
            }
            Self::Checkpoint => f.write_str("the checkpoint can't be loaded"),
            Self::Unrecovered => f.write_str("an earlier recovery was not completed"),
            Self::Unclean => {
                f.write_str("with durability async the last process may have lost what it promised")
            }
            Self::Blank => f.write_str("nothing is stored here"),
        }
    }
}

/// Takes what is stable, and can begin anew.
pub trait Salvage: Apply {
    /// Whether the checkpoint that was to be installed for a partition, if one was, could be
    /// loaded. If it couldn't, the slots after it were left out.
    fn is_whole(&self, partition: PartitionId) -> bool;

    /// Forgets a partition, and begins it anew: with a checkpoint, or with nothing (index 0).
    /// Whether the checkpoint could be loaded; if not, the partition is empty.
    fn reset(&mut self, partition: PartitionId, checkpoint: Index) -> bool;
}

/// Replays a shard's log as far as it is whole. The partitions that can't go on from what is found
/// are among [`Recovered::suspects`].
///
/// # Errors
/// If the log isn't damaged, but not to be touched: of another release, of other partitions, or of
/// a later time.
pub fn recover_partly(
    folder: &LogFolder<'_>,
    source: &mut impl SegmentSource,
    apply: &mut impl Salvage,
) -> Result<Recovered, StorageError> {
    let mut recovered = match recover(folder, source, apply) {
        Ok(recovered) => recovered,
        Err(error) => {
            let Some(why) = error.damage() else { return Err(error) };
            salvage(folder, source, apply, why)?
        }
    };
    for &partition in folder.partitions {
        let is_known = recovered.suspects.iter().any(|suspect| suspect.partition == partition);
        if !is_known && !apply.is_whole(partition) {
            let suspicion = Suspicion::Checkpoint;
            recovered.suspects.push(Suspect { partition, suspicion });
        }
    }
    for suspect in recovered.suspects.clone() {
        let is_anew = suspect.suspicion == Suspicion::Unrecovered;
        if !is_anew || !apply.is_whole(suspect.partition) {
            begin_anew(&mut recovered, suspect.partition, apply);
        }
    }
    Ok(recovered)
}

fn salvage(
    folder: &LogFolder<'_>,
    source: &mut impl SegmentSource,
    apply: &mut impl Salvage,
    why: (Place, Damage),
) -> Result<Recovered, StorageError> {
    reset_all(folder, apply);
    let mut reader = Reader::new(source, folder.key);
    let segments = identify(folder, &mut reader);
    match read_on(folder, &mut reader, &segments, apply) {
        Ok(recovered) => Ok(recovered),
        Err(error) if error.damage().is_none() => Err(error),
        Err(_) => {
            reset_all(folder, apply);
            Ok(begin_all_anew(folder, &mut reader, &segments, why))
        }
    }
}

fn reset_all(folder: &LogFolder<'_>, apply: &mut impl Salvage) {
    for &partition in folder.partitions {
        apply.reset(partition, Index(0));
    }
}

/// Which segment each file is, ascending, whatever is left of it.
fn identify(folder: &LogFolder<'_>, reader: &mut Reader<'_, impl SegmentSource>) -> Vec<Segment> {
    reader.set_chunk(1);
    let mut segments = Vec::with_capacity(folder.files.len());
    for (file, found) in folder.files.iter().enumerate() {
        let block_count = usize_from(found.size_bytes) / BLOCK_SIZE_BYTES;
        let block_count = block_count.min(folder.block_count());
        if block_count == 0 {
            continue;
        }
        let mut segment = Segment { file, name: found.name, id: found.name, block_count };
        if let Ok(Some(header)) = reader.own_header(&segment, 0) {
            segment.id = header.segment;
        }
        segments.push(segment);
    }
    segments.sort_unstable_by_key(|segment| segment.id);
    segments
}

/// Reads what can be read, if the newest segment is whole.
fn read_on(
    folder: &LogFolder<'_>,
    reader: &mut Reader<'_, impl SegmentSource>,
    segments: &[Segment],
    apply: &mut impl Salvage,
) -> Result<Recovered, StorageError> {
    let shard = folder.key.shard;
    if let Some(pair) = segments.windows(2).find(|pair| pair[0].id == pair[1].id) {
        return Err(StorageError::Duplicate { shard, segment: pair[0].id });
    }
    let is_cut = |segment: &&Segment| segment.block_count < folder.block_count();
    let empty = folder.files.iter().filter(|file| file.size_bytes < u64_from(BLOCK_SIZE_BYTES));
    let cut = segments.iter().filter(is_cut).map(|segment| segment.id);
    let last_cut = cut.chain(empty.map(|file| file.name)).max();
    let mut newer = Vec::new();
    for (position, segment) in segments.iter().enumerate().rev() {
        if let Some(cut) = last_cut.filter(|cut| *cut >= segment.id) {
            // What would say that more was written is cut off with it.
            return Err(StorageError::Missing { shard, segment: cut });
        }
        if let Some(snapshot) = head(reader, segment)? {
            check_boot(folder, segment, snapshot.boot_epoch)?;
            if is_void(reader, &segments[..position], segment, &snapshot)? {
                newer.insert(0, *segment);
                continue;
            }
            let counted = snapshot.segments.clone();
            let plan = Plan::of_present(folder, segments, *segment, snapshot, newer)?;
            return plan.read_partly(reader, &counted, apply);
        }
        newer.insert(0, *segment);
    }
    Err(StorageError::Missing { shard, segment: SegmentId(1) })
}

impl Plan<'_> {
    /// Replays what is whole of the segments that count, and all of the newest one.
    fn read_partly<S: SegmentSource, A: Apply>(
        mut self,
        reader: &mut Reader<'_, S>,
        counted: &[LiveSegment],
        apply: &mut A,
    ) -> Result<Recovered, StorageError> {
        self.check_partitions(reader)?;
        reader.set_chunk(READ_BLOCK_COUNT);
        let mut progress = Progress::new(apply, true);
        let mut damaged = Vec::new();
        // What is missing of segments before the first whole snapshot.
        let mut before = None;
        for live in counted {
            let present = self.counted.iter().find(|(segment, _)| segment.id == live.segment);
            let hole = match present.copied() {
                Some((segment, limit)) => self.read_whole(reader, &mut progress, segment, limit)?,
                None => Some((self.place(live.segment, 0, live.last_batch), Damage::Missing)),
            };
            progress.last_batch = Some(live.last_batch);
            progress.stream.clear();
            let Some((place, damage)) = hole else { continue };
            damaged.push(live.segment);
            match &mut progress.replay {
                Some(replay) => replay.on_hole(place, damage),
                None => before = before.or(Some((place, damage))),
            }
        }
        let newest = self.newest;
        let cursor = self.read(reader, &mut progress, newest, None)?;
        let cursor = cursor.expect("only a limit ends a segment otherwise");
        if let (Some(replay), Some((place, damage))) = (&mut progress.replay, before) {
            replay.on_hole(place, damage);
        }
        let newer = std::mem::take(&mut self.newer);
        let mut recovered = self.end(reader, progress, newest, &cursor, newer)?;
        let is_live =
            |id: &SegmentId| recovered.start.state.segments.iter().any(|live| live.segment == *id);
        damaged.retain(is_live);
        recovered.start.damaged = damaged;
        Ok(recovered)
    }

    /// Replays the whole blocks of a segment that was left for a later one, as far as it counts.
    /// Says what is missing, if anything is.
    fn read_whole<S: SegmentSource, A: Apply>(
        &self,
        reader: &mut Reader<'_, S>,
        progress: &mut Progress<'_, A>,
        segment: Segment,
        limit: BatchId,
    ) -> Result<Option<(Place, Damage)>, StorageError> {
        let mut missing = None;
        let mut is_in_step = true;
        let mut ended = false;
        progress.stream.clear();
        progress.stream_block = 0;
        progress.snapshot_due = true;
        let previous = progress.live.last().map(|live| live.segment);
        for number in 0..segment.block_count {
            let place = self.place(segment.id, number, limit);
            let found = match reader.block_if_whole(&segment, number) {
                Ok((header, _)) if header.batch > limit => break,
                Ok((header, block)) if is_in_step => {
                    progress.stream.extend_from_slice(header.payload(block));
                    Ok(header)
                }
                Ok((header, block)) => {
                    if let Some(payload) = header.payload_from_record(block) {
                        progress.stream.extend_from_slice(payload);
                        progress.stream_block = number;
                        is_in_step = true;
                    }
                    Ok(header)
                }
                Err(damage) => Err(damage),
            };
            let replayed = match found {
                Ok(header) => {
                    ended = header.last && header.batch == limit;
                    let is_dead = progress.replay.is_none() && !progress.snapshot_due;
                    let blocks = number..number + 1;
                    if is_dead || !is_in_step {
                        Ok(())
                    } else {
                        self.replay(progress, &segment, boot_of(limit), &blocks)
                    }
                }
                Err(damage) => Err(damage),
            };
            if let Err(damage) = replayed {
                missing = missing.or(Some((place, damage)));
                is_in_step = false;
                progress.stream.clear();
                let lost_snapshot = std::mem::take(&mut progress.snapshot_due);
                if let Some(replay) = &mut progress.replay {
                    if lost_snapshot && let Some(previous) = previous {
                        replay.on_lost_snapshot(previous, boot_of(limit));
                    }
                    replay.on_hole(place, damage);
                }
            }
            if ended {
                break;
            }
        }
        if !ended {
            let place = self.place(segment.id, segment.block_count, limit);
            missing = missing.or(Some((place, Damage::Missing)));
        }
        if progress.replay.is_some() {
            progress.live.push(LiveSegment { segment: segment.id, last_batch: limit });
        }
        Ok(missing)
    }

    pub(super) const fn place(&self, segment: SegmentId, block: usize, batch: BatchId) -> Place {
        Place { shard: self.folder.key.shard, segment, offset: offset_of(block), batch }
    }
}

/// Nothing of the log is certain: each partition begins anew, in a log of its own.
fn begin_all_anew(
    folder: &LogFolder<'_>,
    reader: &mut Reader<'_, impl SegmentSource>,
    segments: &[Segment],
    (place, damage): (Place, Damage),
) -> Recovered {
    let mut known = ShardSnapshot::default();
    for segment in segments.iter().rev() {
        if let Ok(Some(snapshot)) = head(reader, segment) {
            known = snapshot;
            break;
        }
    }
    let state = |&partition: &PartitionId| {
        let empty = || PartitionSnapshot::empty(partition);
        known.partition(partition).cloned().unwrap_or_else(empty)
    };
    let states: Vec<PartitionSnapshot> = folder.partitions.iter().map(state).collect();
    let ids = segments.iter().map(|segment| segment.id);
    let names = folder.files.iter().map(|file| file.name);
    let next_segment = ids.chain(names).max().unwrap_or_default().next();
    let partitions = states.iter().map(|state| RecoveredPartition {
        state: state.clone(),
        chain: None,
        log: Vec::new(),
    });
    let suspicion = Suspicion::Damaged { place, damage };
    let suspects = folder.partitions.iter().map(|&partition| Suspect { partition, suspicion });
    let checkpoints = states.iter().map(|state| (state.partition, state.checkpoint));
    Recovered {
        partitions: partitions.collect(),
        record_count: 0,
        torn: None,
        suspects: suspects.collect(),
        garbage: Vec::new(),
        checkpoints: checkpoints.filter(|found| found.1 > Index(0)).collect(),
        start: WalStart {
            ledger: Ledger::new(states.len()),
            slots: folder.slot_index(),
            state: ShardSnapshot {
                boot_epoch: known.boot_epoch,
                acts_early: known.acts_early,
                segments: Vec::new(),
                partitions: states,
            },
            next_segment,
            void: folder.files.iter().map(|file| file.name).collect(),
            ..WalStart::default()
        },
    }
}

/// What is here of a partition is void, but for its checkpoint.
fn begin_anew(recovered: &mut Recovered, partition: PartitionId, apply: &mut impl Salvage) {
    let start = &mut recovered.start;
    let position = start.state.position(partition).expect("suspects are of the shard");
    let state = &mut start.state.partitions[position];
    let known = state.checkpoint;
    let checkpoint = if apply.reset(partition, known) { known } else { Index(0) };
    if checkpoint < known {
        start.superseded.push((partition, known));
    }
    *state = state.anew(checkpoint, start.next_segment);
    start.ledger.forget(position);
    if let Some(slots) = &mut start.slots {
        slots.reset(position, checkpoint);
    }
    let recovered = &mut recovered.partitions[position];
    *recovered = RecoveredPartition { state: state.clone(), chain: None, log: Vec::new() };
}
