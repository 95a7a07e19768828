//! Reads a shard's log and says where it ends: at a torn tail, which is cut, or at damage, which is
//! refused.
//!
//! The newest segment whose snapshot is whole says which segments count, and up to which batch. (If
//! the segment before it isn't complete, the log ends there: then the newest snapshot is void, the
//! one before it says which segments count, and none of them was used again, because for that the
//! void one would have had to be durable.)
//! They are read once, oldest first. A batch counts when all of its blocks are there; the first
//! that isn't ends the log. What lies behind that place decides what it was:
//!
//! - A later block of the same boot that says the batch was complete: damage.
//! - A segment that a later boot counts: damage; that boot had read it.
//! - A block of another place, of this log or another shard's: a misdirected write, damage.
//! - Anything but zeros or a former life of the segment beyond the reach of the writes that can
//!   have been in flight: damage.
//! - Otherwise it is the tail of a crash. That a later batch is whole means nothing: both were in
//!   flight, and who waited for the first was never told of the second. All from there is void, and
//!   stays so because the next boot's snapshot counts only what was found.

mod empty;
mod member;
mod salvage;

use std::io;
use std::ops::Range;

use self::empty::begin_empty;
pub use self::member::{FormerLife, recover_member};
pub use self::salvage::{Salvage, Suspect, Suspicion, recover_partly};

use super::block::{BATCH_BLOCK_COUNT_MAX, Block, LogKey, boot_of, first_batch, offset_of};
use super::codec::decode;
use super::error::{Damage, Place, StorageError};
use super::ledger::Placed;
use super::record::{LiveSegment, PartitionSnapshot, Record, ShardSnapshot};
use super::replay::{Apply, RecoveredPartition, Replay, Replayed};
use super::scan::{Cursor, Reader, Segment, Step, Tail};
use super::wal::WalStart;
use crate::base::cast::u64_from;
use crate::base::ids::{BatchId, BootEpoch, Index, PartitionId, SegmentId};

/// Blocks read at once while a log is read through: large requests keep a device busy.
const READ_BLOCK_COUNT: usize = 256;

/// Reads segments; the files stay with the host.
pub trait SegmentSource {
    /// Fills `blocks` from a file, beginning at a block. Their number stays, their memory may be
    /// exchanged.
    ///
    /// # Errors
    /// If the device can't read.
    fn read(&mut self, file: usize, first_block: usize, blocks: &mut Vec<Block>) -> io::Result<()>;

    /// These blocks will probably be read soon, after those that were announced before.
    fn will_read(&mut self, _file: usize, _first_block: usize, _block_count: usize) {}
}

/// A file of a shard's folder that is named like a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    /// What its name says.
    pub name: SegmentId,
    /// How long it is.
    pub size_bytes: u64,
}

/// A shard's log as it lies there.
#[derive(Clone, Copy, Debug)]
pub struct LogFolder<'a> {
    /// Whose log it is.
    pub key: LogKey,
    /// The boot that recovers: later than any that wrote.
    pub boot_epoch: BootEpoch,
    /// The size of every segment.
    pub segment_size_bytes: usize,
    /// The shard's partitions, ascending.
    pub partitions: &'a [PartitionId],
    /// Its segments' files, in any order; the host knows each by its place here.
    pub files: &'a [SegmentFile],
    /// Whether the partitions have other members, to whom old slots are given: then it is noted
    /// where they lie.
    pub serves_peers: bool,
}

/// What the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Each partition, and what of it isn't stable.
    pub partitions: Vec<RecoveredPartition>,
    /// How to go on.
    pub start: WalStart,
    /// How many records were replayed.
    pub record_count: u64,
    /// The tail that was cut, if there was one.
    pub torn: Option<TornTail>,
    /// Partitions that must not go on from what is here, but recover from their other members.
    pub suspects: Vec<Suspect>,
    /// Files that count for nothing and never will: the host may delete them.
    pub garbage: Vec<SegmentId>,
    /// The checkpoints that were installed: the newest durable snapshot names them, so they stay
    /// until the log says that they are superseded.
    pub checkpoints: Vec<(PartitionId, Index)>,
}

/// Writes that a crash left incomplete. None of them was ever acknowledged as durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// Where the log ends now.
    pub place: Place,
    /// Blocks behind it that were written and are void.
    pub block_count: u64,
}

/// Replays a shard's log.
///
/// # Errors
/// If it is damaged or can't be read. What was applied until then must not be served.
pub fn recover(
    folder: &LogFolder<'_>,
    source: &mut impl SegmentSource,
    apply: &mut impl Apply,
) -> Result<Recovered, StorageError> {
    let mut reader = Reader::new(source, folder.key);
    let segments = identify(folder, &mut reader)?;
    let mut newer = Vec::new();
    for (position, segment) in segments.iter().enumerate().rev() {
        if let Some(snapshot) = head(&mut reader, segment)? {
            check_boot(folder, segment, snapshot.boot_epoch)?;
            if is_void(&mut reader, &segments[..position], segment, &snapshot)? {
                newer.insert(0, *segment);
                continue;
            }
            let plan = Plan::new(folder, &segments, *segment, snapshot, newer)?;
            return plan.run(&mut reader, apply);
        }
        newer.insert(0, *segment);
    }
    begin_empty(folder, &mut reader, &newer)
}

/// Whether a segment was begun before the one before it was complete, and that never became so:
/// then its snapshot speaks of records that nobody has seen.
fn is_void(
    reader: &mut Reader<'_, impl SegmentSource>,
    older: &[Segment],
    segment: &Segment,
    snapshot: &ShardSnapshot,
) -> Result<bool, StorageError> {
    let Some(before) = snapshot.segments.last() else { return Ok(false) };
    if boot_of(before.last_batch) != snapshot.boot_epoch {
        // Whoever began this boot had read that segment.
        return Ok(false);
    }
    let Ok(position) = older.binary_search_by_key(&before.segment, |segment| segment.id) else {
        return Ok(false);
    };
    reader.set_chunk(READ_BLOCK_COUNT);
    if reader.proves(segment, before.last_batch)? {
        // Complete, or damaged: reading it will say which.
        return Ok(false);
    }
    let mut cursor = Cursor::begin(None);
    let mut stream = Vec::new();
    while let Step::Batch { batch, .. } =
        reader.next_batch(&older[position], &mut cursor, &mut stream)?
    {
        stream.clear();
        if batch == before.last_batch {
            return Ok(false);
        }
    }
    // A segment isn't left before its own snapshot is durable: if that is gone it is damage.
    Ok(cursor.next > 0)
}

/// Which segment each file is, ascending: its first block decides, or else its name.
fn identify(
    folder: &LogFolder<'_>,
    reader: &mut Reader<'_, impl SegmentSource>,
) -> Result<Vec<Segment>, StorageError> {
    let shard = folder.key.shard;
    let expected_size_bytes = u64_from(folder.segment_size_bytes);
    let mut segments = Vec::with_capacity(folder.files.len());
    for (file, &SegmentFile { name, size_bytes }) in folder.files.iter().enumerate() {
        if size_bytes != expected_size_bytes {
            return Err(StorageError::Cut {
                shard,
                segment: name,
                size_bytes,
                expected_size_bytes,
            });
        }
        let mut segment = Segment { file, name, id: name, block_count: folder.block_count() };
        reader.set_chunk(1);
        if let Some(header) = reader.own_header(&segment, 0)? {
            segment.id = header.segment;
        }
        segments.push(segment);
    }
    segments.sort_unstable_by_key(|segment| segment.id);
    if let Some(pair) = segments.windows(2).find(|pair| pair[0].id == pair[1].id) {
        return Err(StorageError::Duplicate { shard, segment: pair[0].id });
    }
    Ok(segments)
}

/// The snapshot with which a segment begins; `None`: it isn't whole.
fn head(
    reader: &mut Reader<'_, impl SegmentSource>,
    segment: &Segment,
) -> Result<Option<ShardSnapshot>, StorageError> {
    reader.set_chunk(BATCH_BLOCK_COUNT_MAX);
    let mut cursor = Cursor::begin(None);
    let mut stream = Vec::new();
    loop {
        match reader.next_batch(segment, &mut cursor, &mut stream)? {
            Step::Batch { batch, first_block } => {
                let damaged = |damage| reader.damaged(segment, first_block, batch, damage);
                match decode(&stream) {
                    Ok(Some((Record::Snapshot(snapshot), _))) => {
                        if snapshot.boot_epoch != boot_of(batch) {
                            return Err(damaged(Damage::Snapshot));
                        }
                        return Ok(Some(snapshot));
                    }
                    Ok(Some(_)) => return Err(damaged(Damage::Snapshot)),
                    Ok(None) => {}
                    Err(error) => return Err(damaged(Damage::Record(error))),
                }
            }
            Step::End { .. } => return Ok(None),
        }
    }
}

fn check_boot(
    folder: &LogFolder<'_>,
    segment: &Segment,
    found: BootEpoch,
) -> Result<(), StorageError> {
    if found < folder.boot_epoch {
        return Ok(());
    }
    let (shard, boot_epoch) = (folder.key.shard, folder.boot_epoch);
    Err(StorageError::FromTheFuture { shard, segment: segment.id, found, boot_epoch })
}

/// The segments after the newest whole one are named one after the other: they are made so. A gap
/// is a file that is gone.
fn check_names(
    folder: &LogFolder<'_>,
    newest: SegmentId,
    newer: &[Segment],
) -> Result<(), StorageError> {
    let mut expected = newest.next();
    for segment in newer {
        if segment.name != expected {
            let shard = folder.key.shard;
            return Err(StorageError::Missing { shard, segment: expected });
        }
        expected = expected.next();
    }
    Ok(())
}

/// The next segment to write and those of `newer` that are ready for it.
fn next_segments(
    newest: SegmentId,
    newer: &[Segment],
    blank: impl Fn(&Segment) -> bool,
) -> (SegmentId, Vec<SegmentId>) {
    let used = newer.iter().filter(|segment| !blank(segment)).map(|segment| segment.name);
    let next = used.max().unwrap_or(newest).max(newest).next();
    let prepared = newer.iter().map(|segment| segment.name).filter(|&name| name >= next).collect();
    (next, prepared)
}

impl LogFolder<'_> {
    const fn block_count(&self) -> usize {
        self.segment_size_bytes / crate::base::limits::BLOCK_SIZE_BYTES
    }
}

/// What is to be read, as the newest snapshot says.
struct Plan<'a> {
    folder: &'a LogFolder<'a>,
    /// Settled or, of the newest boot, to be judged; oldest first.
    counted: Vec<(Segment, BatchId)>,
    newest: Segment,
    snapshot: ShardSnapshot,
    newer: Vec<Segment>,
    garbage: Vec<SegmentId>,
}

/// How far reading has come.
struct Progress<'r, A> {
    replay: Option<Replay<'r, A>>,
    apply: Option<&'r mut A>,
    live: Vec<LiveSegment>,
    /// The segment's first record hasn't come yet: it is its snapshot.
    snapshot_due: bool,
    /// The payload of complete batches from the first record on that isn't replayed yet.
    stream: Vec<u8>,
    /// In which block that begins, or before which.
    stream_block: usize,
    last_batch: Option<BatchId>,
    /// Segments may be missing among those that were read.
    is_partial: bool,
}

impl<'r, A> Progress<'r, A> {
    const fn new(apply: &'r mut A, is_partial: bool) -> Self {
        Self {
            replay: None,
            apply: Some(apply),
            live: Vec::new(),
            snapshot_due: true,
            stream: Vec::new(),
            stream_block: 0,
            last_batch: None,
            is_partial,
        }
    }
}

impl<'a> Plan<'a> {
    fn new(
        folder: &'a LogFolder<'a>,
        segments: &[Segment],
        newest: Segment,
        snapshot: ShardSnapshot,
        newer: Vec<Segment>,
    ) -> Result<Self, StorageError> {
        let is_missing = |live: &&LiveSegment| {
            segments.binary_search_by_key(&live.segment, |segment| segment.id).is_err()
        };
        if let Some(live) = snapshot.segments.iter().find(is_missing) {
            let shard = folder.key.shard;
            return Err(StorageError::Missing { shard, segment: live.segment });
        }
        Self::of_present(folder, segments, newest, snapshot, newer)
    }

    /// As [`Plan::new`], whatever is missing.
    fn of_present(
        folder: &'a LogFolder<'a>,
        segments: &[Segment],
        newest: Segment,
        snapshot: ShardSnapshot,
        newer: Vec<Segment>,
    ) -> Result<Self, StorageError> {
        let mut counted = Vec::with_capacity(snapshot.segments.len());
        for live in &snapshot.segments {
            let found = segments.binary_search_by_key(&live.segment, |segment| segment.id);
            if let Ok(position) = found {
                counted.push((segments[position], live.last_batch));
            }
        }
        let is_counted = |id| counted.iter().any(|(segment, _)| segment.id == id);
        let left_over =
            segments.iter().filter(|segment| segment.id < newest.id && !is_counted(segment.id));
        // A segment that was renamed to be used again, but not yet written, still says in its first
        // block what it was.
        let (renamed, garbage): (Vec<Segment>, Vec<Segment>) =
            left_over.copied().partition(|segment| segment.name > newest.id);
        let mut newer = newer;
        newer.extend(renamed.into_iter().map(|segment| Segment { id: segment.name, ..segment }));
        newer.sort_unstable_by_key(|segment| segment.name);
        check_names(folder, newest.id, &newer)?;
        let garbage = garbage.into_iter().map(|segment| segment.name).collect();
        Ok(Self { folder, counted, newest, snapshot, newer, garbage })
    }

    fn run<S: SegmentSource, A: Apply>(
        mut self,
        reader: &mut Reader<'_, S>,
        apply: &mut A,
    ) -> Result<Recovered, StorageError> {
        self.check_partitions(reader)?;
        reader.set_chunk(READ_BLOCK_COUNT);
        let mut progress = Progress::new(apply, false);
        let counted = std::mem::take(&mut self.counted);
        let order = counted.iter().map(|(segment, _)| segment).chain([&self.newest]);
        reader.set_order(order.map(|segment| segment.file).collect());
        for &(segment, limit) in &counted {
            let end = self.read(reader, &mut progress, segment, Some(limit))?;
            assert!(end.is_none(), "a segment that counts is read to its limit");
        }
        let newest = self.newest;
        let cursor = self.read(reader, &mut progress, newest, None)?;
        let cursor = cursor.expect("only a limit ends a segment otherwise");
        let newer = std::mem::take(&mut self.newer);
        self.end(reader, progress, newest, &cursor, newer)
    }

    fn check_partitions(
        &self,
        reader: &Reader<'_, impl SegmentSource>,
    ) -> Result<(), StorageError> {
        let said = self.snapshot.partitions.iter().map(|partition| partition.partition);
        if said.eq(self.folder.partitions.iter().copied()) {
            return Ok(());
        }
        let batch = first_batch(self.snapshot.boot_epoch);
        Err(reader.damaged(&self.newest, 0, batch, Damage::Partitions))
    }

    /// Replays a segment up to its limit, or to where it ends: then says where.
    fn read<S: SegmentSource, A: Apply>(
        &self,
        reader: &mut Reader<'_, S>,
        progress: &mut Progress<'_, A>,
        segment: Segment,
        limit: Option<BatchId>,
    ) -> Result<Option<Cursor>, StorageError> {
        let boot = limit.map_or(self.snapshot.boot_epoch, boot_of);
        let continues = progress.last_batch.filter(|&last| boot_of(last) == boot);
        if let Some(last) = continues
            && !progress.stream.is_empty()
        {
            return Err(reader.damaged(&segment, 0, last, Damage::Unended));
        }
        // What a boot left unended when it crashed is void.
        progress.stream.clear();
        progress.stream_block = 0;
        progress.snapshot_due = true;
        let expected = match (continues, progress.last_batch) {
            (Some(last), _) => Some(last.next()),
            (None, Some(_)) => Some(first_batch(boot)),
            (None, None) => None,
        };
        let mut cursor = Cursor::begin(expected);
        loop {
            match reader.next_batch(&segment, &mut cursor, &mut progress.stream)? {
                Step::Batch { batch, first_block } => {
                    let damaged = |damage| reader.damaged(&segment, first_block, batch, damage);
                    if limit.is_some_and(|limit| batch > limit) || boot_of(batch) != boot {
                        return Err(damaged(Damage::Segments));
                    }
                    let blocks = first_block..cursor.next;
                    self.replay(progress, &segment, boot, &blocks).map_err(damaged)?;
                    progress.last_batch = Some(batch);
                    match progress.live.last_mut() {
                        Some(live) if live.segment == segment.id => live.last_batch = batch,
                        _ => progress
                            .live
                            .push(LiveSegment { segment: segment.id, last_batch: batch }),
                    }
                    if Some(batch) == limit {
                        return Ok(None);
                    }
                }
                Step::End { bad_block } => {
                    let batch = cursor.expected.unwrap_or(first_batch(boot));
                    // Who counted it had seen it complete, or the newest segment would be void.
                    if limit.is_some() {
                        let damage = reader.damage_at(&segment, bad_block)?;
                        return Err(reader.damaged(&segment, bad_block, batch, damage));
                    }
                    cursor.bad_block = bad_block;
                    return Ok(Some(cursor));
                }
            }
        }
    }

    /// Replays the whole records of the stream and leaves the rest in it.
    fn replay<A: Apply>(
        &self,
        progress: &mut Progress<'_, A>,
        segment: &Segment,
        boot: BootEpoch,
        blocks: &Range<usize>,
    ) -> Result<(), Damage> {
        let mut begin = 0;
        let mut placed = Placed { segment: segment.id, blocks: blocks.clone(), size: 0 };
        placed.blocks.start = progress.stream_block;
        while let Some((record, size)) =
            decode(&progress.stream[begin..]).map_err(Damage::Record)?
        {
            begin += size;
            let snapshot_due = std::mem::take(&mut progress.snapshot_due);
            match (record, &mut progress.replay) {
                (Record::Snapshot(snapshot), _) if !snapshot_due || snapshot.boot_epoch != boot => {
                    return Err(Damage::Snapshot);
                }
                (Record::Snapshot(snapshot), Some(replay)) => {
                    let before = match progress.live.split_last() {
                        Some((last, before)) if last.segment == segment.id => before,
                        _ => &progress.live,
                    };
                    match snapshot.segments.ends_with(before) {
                        true => {}
                        false if !progress.is_partial => return Err(Damage::Segments),
                        // One between was missing at an earlier start, and isn't counted since.
                        false => {
                            let place = self.place(segment.id, 0, first_batch(boot));
                            replay.on_hole(place, Damage::Missing);
                        }
                    }
                    let ended = before.last().ok_or(Damage::Segments)?.segment;
                    replay.on_snapshot(ended, &snapshot)?;
                }
                (Record::Snapshot(snapshot), replay) => {
                    let apply = progress.apply.take().expect("replay begins once");
                    let newest = (&self.snapshot, self.folder.serves_peers);
                    *replay = Some(Replay::begin(snapshot, newest, apply)?);
                }
                (record, Some(replay)) if !snapshot_due => {
                    placed.size = size;
                    replay.on_record(&record, &placed)?;
                }
                _ => return Err(Damage::Snapshot),
            }
            // Only the first of them can have begun in a batch before this one.
            placed.blocks.start = blocks.start;
        }
        progress.stream.drain(..begin);
        match (progress.stream.is_empty(), begin) {
            (true, _) => progress.stream_block = blocks.end,
            (false, 0) => progress.stream_block = placed.blocks.start,
            (false, _) => progress.stream_block = blocks.start,
        }
        Ok(())
    }

    /// The log ends in a segment: makes sure that nothing behind it says otherwise.
    fn end<S: SegmentSource, A: Apply>(
        self,
        reader: &mut Reader<'_, S>,
        progress: Progress<'_, A>,
        segment: Segment,
        cursor: &Cursor,
        behind: Vec<Segment>,
    ) -> Result<Recovered, StorageError> {
        let batch = cursor.expected.unwrap_or(first_batch(self.snapshot.boot_epoch));
        let place = Place {
            shard: self.folder.key.shard,
            segment: segment.id,
            offset: offset_of(cursor.bad_block),
            batch,
        };
        let damage = reader.damage_at(&segment, cursor.bad_block)?;
        let live = progress.live.clone();
        let mut tail = Tail::new(self.folder.boot_epoch, Some((place, damage)), &live);
        tail.scan(reader, &segment, cursor.next)?;
        for segment in &behind {
            tail.scan_begun(reader, segment)?;
        }
        let replay = progress.replay.expect("the newest segment's snapshot is whole");
        let last = progress.live.last().map_or(segment.id, |live| live.segment);
        let replayed =
            replay.finish(last).map_err(|damage| StorageError::Damaged { place, damage })?;
        let Replayed { state, partitions, ledger, slots, suspects, closed, record_count } =
            replayed;
        let (next_segment, prepared) =
            next_segments(segment.id, &behind, |segment| !tail.is_used(segment));
        let checkpoints = self.snapshot.partitions.iter().map(|p| (p.partition, p.checkpoint));
        let checkpoints: Vec<_> = checkpoints.filter(|found| found.1 > Index(0)).collect();
        let newer = |&(partition, old): &(PartitionId, Index)| {
            state.partition(partition).is_some_and(|found| found.checkpoint > old)
        };
        let superseded = checkpoints.iter().copied().filter(newer).collect();
        let suspects = suspects.into_iter().map(|(position, place, damage)| Suspect {
            partition: state.partitions[position].partition,
            suspicion: Suspicion::Damaged { place, damage },
        });
        let mut suspects: Vec<Suspect> = suspects.collect();
        for found in state.partitions.iter().filter(|found| found.is_recovering) {
            let suspicion = Suspicion::Unrecovered;
            suspects.push(Suspect { partition: found.partition, suspicion });
        }
        let state = ShardSnapshot { segments: progress.live, ..state };
        let start = WalStart {
            state,
            prepared,
            next_segment,
            clean: closed,
            ledger,
            superseded,
            slots,
            ..WalStart::default()
        };
        Ok(Recovered {
            partitions,
            start,
            record_count,
            torn: tail.torn(),
            suspects,
            garbage: self.garbage,
            checkpoints,
        })
    }
}

#[cfg(test)]
mod tests;
