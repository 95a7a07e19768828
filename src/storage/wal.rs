//! The log of a shard as it is written: records go in, aligned writes come out, completions go in,
//! durability comes out. No file handle, no clock.
//!
//! Guarantees:
//! - `durable` advances in the order of appends, never past a batch that isn't complete.
//! - No block is ever written twice: a partly filled one is padded.
//! - A record lies in one segment, and each segment begins with a snapshot of where the partitions
//!   stood before the record that follows it.
//! - While as many writes as allowed are in flight the next batch gathers; there is no timer but
//!   the one that proves the last batch complete when nothing follows it (and that of `async`).
//! - A segment is let go only when no partition has a slot above its checkpoint in it, only as the
//!   oldest one, and its file is used again only when a snapshot that doesn't count it is durable.
//! - In steady state nothing is allocated: a batch's memory comes back with its completion.

mod keeping;
mod peers;
mod start;

use std::collections::VecDeque;

pub use self::keeping::{CarriedPartition, CarryPlan, Pinned};
pub use self::peers::Standing;
pub use self::start::{Durability, WalConfig, WalStart};
use super::block::{
    self, BATCH_BLOCK_COUNT_MAX, Block, BlockHeader, LogKey, PAYLOAD_SIZE_BYTES, SegmentWrite,
};
use super::codec::{Frame, encode_snapshot, frame};
use super::ledger::{Ledger, Placed};
use super::record::{LiveSegment, Record, ShardSnapshot};
use super::slot_index::SlotIndex;
use super::supply::Supply;
pub use super::supply::{FreeSegment, SegmentWanted, Space};
use crate::base::cast::{u16_from, u64_from};
use crate::base::ids::{AppendId, BatchId, Index, PartitionId, SegmentId};
use crate::base::limits::{
    ASYNC_INTERVAL_NS, BLOCK_HEADER_SIZE_BYTES, BLOCK_SIZE_BYTES, PROOF_DELAY_NS,
    SEGMENT_SIZE_BYTES_MAX, SEGMENT_SIZE_BYTES_SIMULATED_MIN, WRITE_BATCH_SIZE_BYTES_MAX,
    WRITES_IN_FLIGHT_MAX,
};
use crate::base::mutant::{self, Mutant};
use crate::base::time::Monotonic;

/// No batch: the snapshot that ends with it isn't written yet.
const UNNAMED: BatchId = BatchId(u64::MAX);
/// Segments of the smallest log: one is written, one is ahead, one is kept for the protocol.
const SEGMENT_COUNT_MIN: u64 = 3;

/// A batch that gathers.
#[derive(Debug)]
struct Batch {
    id: BatchId,
    blocks: Vec<Block>,
    /// Payload in the last block; all others are full.
    used: usize,
    /// The last record that is whole with this batch and those before it.
    last_append: AppendId,
    /// The segment that begins with this batch.
    begins: Option<SegmentId>,
}

#[derive(Debug)]
struct InFlight {
    batch: BatchId,
    last_append: AppendId,
    /// Where it ends: a segment and a block.
    end: (SegmentId, usize),
    complete: bool,
}

/// The log of a shard.
#[derive(Debug)]
pub struct Wal {
    config: WalConfig,
    segment_block_count: usize,
    /// All appended records folded; `segments` are those before the one being filled.
    state: ShardSnapshot,
    /// The segment being filled (not yet, perhaps, being written), and how far.
    filling: SegmentId,
    filled_block_count: usize,
    gathering: VecDeque<Batch>,
    gathering_block_count: usize,
    next_batch: BatchId,
    appended: AppendId,
    /// The segment being written, and its next block.
    writing: Option<(SegmentId, usize)>,
    in_flight: VecDeque<InFlight>,
    durable_batch: BatchId,
    durable: AppendId,
    /// All blocks before this one are durable.
    durable_end: (SegmentId, usize),
    supply: Supply,
    ledger: Ledger,
    /// Where slots lie, if they are kept for peers.
    slots: Option<SlotIndex>,
    /// The batch with which the snapshot of the segment being filled ends.
    snapshot_end: BatchId,
    /// Checkpoints that a later one replaced: no snapshot after this batch names them.
    superseded: VecDeque<(BatchId, (PartitionId, Index))>,
    /// The size of the state of which this is the log.
    state_size_bytes: u64,
    /// Live segments that aren't what was written to them.
    damaged: Vec<SegmentId>,
    /// So is a checkpoint that the last snapshot names.
    checkpoint_is_damaged: bool,
    /// Somebody lacks room, and how much was asked for: nothing is kept that isn't needed.
    gives_way: bool,
    wanted_size_bytes: u64,
    /// The last batch of what the log begins with: a snapshot, the boot's opening, what is lost.
    opening_end: BatchId,
    /// Counts the segments that were left and have become complete since.
    completed_count: u64,
    last_write_at: Monotonic,
    /// The last batch issued holds records, so an empty one has to say that it is complete.
    proof_owed: bool,
    /// Since when a batch gathers that isn't full (`async` only).
    gathering_since: Option<Monotonic>,
    closing: bool,
    pool: Vec<Vec<Block>>,
    scratch: Vec<u8>,
}

impl Wal {
    /// Opens the log where recovery says it goes on. The first batch, a snapshot and the boot's
    /// opening, is pending at once and waits for the segment that [`Wal::wants_segment`] asks for.
    ///
    /// # Panics
    /// If the configuration is out of the limits.
    #[must_use]
    pub fn open(config: WalConfig, start: WalStart) -> Self {
        let size = config.segment_size_bytes;
        // Hosts allow no less than what the longest command needs; simulations have short ones.
        assert!((SEGMENT_SIZE_BYTES_SIMULATED_MIN..=SEGMENT_SIZE_BYTES_MAX).contains(&size));
        assert!(size.is_multiple_of(BLOCK_SIZE_BYTES), "segments consist of blocks");
        assert!((1..=WRITES_IN_FLIGHT_MAX).contains(&config.writes_in_flight));
        // Else one under way could lie before whole segments, which a start takes for a loss.
        assert!(size >= config.writes_in_flight * WRITE_BATCH_SIZE_BYTES_MAX);
        assert!(config.log_size_bytes_max / u64_from(size) >= SEGMENT_COUNT_MIN);
        assert!(config.boot_epoch > start.state.boot_epoch, "each boot has an epoch of its own");
        let first_batch = block::first_batch(config.boot_epoch);
        let mut ledger = match start.ledger == Ledger::default() {
            true => Ledger::new(start.state.partitions.len()),
            false => start.ledger,
        };
        ledger.on_boot();
        let live = || start.state.segments.iter().map(|live| live.segment);
        let mut slots = start.slots;
        if let Some(slots) = &mut slots {
            slots.on_boot();
        }
        ledger.retain(|id| live().any(|live| live == id));
        assert!(ledger.segments().eq(live()), "the books are of the segments that count");
        let live_count = u64_from(start.state.segments.len());
        let log_size_bytes_max = config.log_size_bytes_max;
        let superseded = start.superseded.into_iter().map(|checkpoint| (UNNAMED, checkpoint));
        let mut wal = Self {
            segment_block_count: size / BLOCK_SIZE_BYTES,
            supply: Supply::new(u64_from(size), log_size_bytes_max, live_count, start.prepared),
            ledger,
            slots,
            snapshot_end: first_batch,
            superseded: superseded.collect(),
            state_size_bytes: 0,
            damaged: start.damaged,
            checkpoint_is_damaged: false,
            gives_way: false,
            wanted_size_bytes: 0,
            completed_count: 0,
            opening_end: first_batch.previous(),
            state: ShardSnapshot {
                boot_epoch: config.boot_epoch,
                acts_early: config.durability == Durability::Async,
                ..start.state
            },
            filling: start.next_segment,
            filled_block_count: 0,
            gathering: VecDeque::new(),
            gathering_block_count: 0,
            next_batch: first_batch,
            appended: AppendId(0),
            writing: None,
            in_flight: VecDeque::new(),
            durable_batch: first_batch.previous(),
            durable: AppendId(0),
            durable_end: (start.next_segment, 0),
            last_write_at: Monotonic(0),
            proof_owed: false,
            gathering_since: None,
            closing: false,
            pool: Vec::new(),
            scratch: Vec::new(),
            config,
        };
        assert!(wal.supply.next_prepared().is_none_or(|prepared| prepared == wal.filling));
        if wal.config.durability != Durability::None {
            wal.begin_boot(start.clean, start.void, start.lost);
        }
        wal
    }

    fn begin_boot(&mut self, clean: bool, void: Vec<SegmentId>, lost: Vec<PartitionId>) {
        self.begin_segment();
        self.supply.release_void(self.snapshot_end, void);
        let boot_epoch = self.config.boot_epoch;
        self.put_frame(&frame(&Record::OpenBoot { boot_epoch, clean }));
        for partition in lost {
            let state = self.state.partition(partition).expect("who has lost something is known");
            let (incarnation, crash_vector) = (state.incarnation, state.crash_vector.clone());
            let is_recovering = true;
            let record =
                Record::CrashVector { partition, incarnation, crash_vector, is_recovering };
            self.append(&record);
        }
        self.opening_end = self.back().id;
    }

    /// Whether what the log begins with is durable: no start after this one takes the boot before
    /// it for the last. Until then nothing may be promised that rests on this boot alone.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.durable_batch >= self.opening_end
    }

    /// Appends a record; it becomes durable in its turn.
    ///
    /// # Panics
    /// If it doesn't fit what was appended before it ([`super::state::StateError`]): the caller
    /// broke an invariant, and a log that says so can't be replayed. If the log was closed.
    pub fn append(&mut self, record: &Record<'_>) -> AppendId {
        assert!(!self.closing, "nothing follows the end of a boot");
        let fold = |state: &mut ShardSnapshot| {
            if let Err(error) = state.fold(record) {
                let partition = record.partition();
                panic!("a record of partition {partition:?} doesn't fit the log: {error}");
            }
        };
        if self.config.durability == Durability::None {
            fold(&mut self.state);
            self.appended = self.appended.next();
            self.durable = self.appended;
            return self.appended;
        }
        let frame = frame(record);
        self.make_room(frame.len());
        let position = record.partition().and_then(|partition| self.state.position(partition));
        let before = position.map(|position| &self.state.partitions[position]);
        let (last, checkpoint) =
            before.map_or((Index(0), Index(0)), |state| (state.last, state.checkpoint));
        // Only now: a snapshot that making room wrote must not know of this record.
        fold(&mut self.state);
        let first_block = self.filled_block_count - 1;
        self.put_frame(&frame);
        let position = position.expect("folding found its partition");
        let blocks = first_block..self.filled_block_count;
        let placed = Placed { segment: self.filling, blocks, size: frame.len() };
        self.ledger.on_record(position, last, record, &placed);
        if let Some(slots) = &mut self.slots {
            slots.on_record(position, record, &placed);
        }
        self.supersede(position, checkpoint);
        self.appended = self.appended.next();
        self.back().last_append = self.appended;
        self.appended
    }

    /// The last record that is durable, and with it all before it.
    #[must_use]
    pub const fn durable(&self) -> AppendId {
        self.durable
    }

    /// The last record appended.
    #[must_use]
    pub const fn appended(&self) -> AppendId {
        self.appended
    }

    /// Whose log it is.
    #[must_use]
    pub const fn key(&self) -> LogKey {
        self.config.key
    }

    /// Where the shard stands according to all appended records.
    #[must_use]
    pub const fn state(&self) -> &ShardSnapshot {
        &self.state
    }

    /// The next write, if one is due and may be in flight. To be called after each turn's appends,
    /// after each completion and at [`Wal::next_deadline`], until it says `None`.
    pub fn poll_write(&mut self, now: Monotonic) -> Option<SegmentWrite> {
        if self.in_flight.len() >= self.config.writes_in_flight {
            return None;
        }
        self.make_room_for_clients();
        if self.gathering.is_empty() {
            if !self.proof_is_due(now) {
                return None;
            }
            if self.closing && self.filled_block_count == self.segment_block_count {
                // Another segment would begin with a snapshot, and the boot not end with its end.
                self.proof_owed = false;
                return None;
            }
            self.make_room(1);
            if self.gathering.is_empty() {
                self.begin_batch(None);
            }
        }
        if self.must_gather(now) {
            return None;
        }
        if !self.has_segment_for(self.gathering.front()?) {
            return None;
        }
        let batch = self.gathering.pop_front()?;
        self.gathering_block_count -= batch.blocks.len();
        if let Some(segment) = batch.begins {
            self.supply.begin(segment);
            self.writing = Some((segment, 0));
        }
        self.gathering_since = None;
        self.last_write_at = now;
        Some(self.issue(batch))
    }

    /// A write is complete and durable.
    ///
    /// # Panics
    /// If it isn't in flight. (A failed write must not come here: it ends the node.)
    pub fn on_written(&mut self, write: SegmentWrite) {
        let written = self
            .in_flight
            .iter_mut()
            .find(|in_flight| in_flight.batch == write.batch && !in_flight.complete)
            .expect("only writes in flight complete, and once");
        written.complete = true;
        let before = self.durable_batch;
        while let Some(first) = self.in_flight.front().filter(|first| first.complete) {
            assert!(first.last_append >= self.durable, "what is durable stays so");
            self.durable_batch = first.batch;
            self.durable = first.last_append;
            self.durable_end = first.end;
            self.in_flight.pop_front();
        }
        self.supply.on_durable(self.durable_batch);
        let completes =
            |live: &LiveSegment| before < live.last_batch && live.last_batch <= self.durable_batch;
        self.completed_count += u64::from(self.state.segments.last().is_some_and(completes));
        // One batch fills while the others are in flight; a burst's further memory is let go.
        if self.pool.len() <= self.config.writes_in_flight {
            let mut blocks = write.blocks;
            blocks.clear();
            self.pool.push(blocks);
        }
    }

    /// The segment that the host should prepare now, durably named: of a free one, whatever is in
    /// it, or a new one full of zeros. It is asked for once; then [`Wal::on_segment_prepared`] or
    /// [`Wal::on_segment_failed`] follows.
    pub fn wants_segment(&mut self, now: Monotonic) -> Option<SegmentWanted> {
        if self.config.durability == Durability::None {
            return None;
        }
        let would_release = || self.ledger.releasable_count(&self.state.partitions) > 0;
        let writing = self.writing.map(|(segment, _)| segment);
        // A boot that has written nothing may be filling a later segment than its first by now.
        let begun = self.gathering.front().and_then(|batch| batch.begins);
        let first = begun.unwrap_or(self.filling);
        let written = (writing, self.issued());
        self.supply.wants(now, written, (first, self.filling), would_release)
    }

    /// When [`Wal::poll_write`] or [`Wal::wants_segment`] should be called again though nothing
    /// was appended and nothing completed.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Monotonic> {
        let may_write = self.in_flight.len() < self.config.writes_in_flight
            && self.gathering.front().is_some_and(|batch| self.has_segment_for(batch));
        let since = self.gathering_since.filter(|_| may_write);
        let gathered = since.map(|since| since.after_ns(ASYNC_INTERVAL_NS));
        let proof_pending =
            self.proof_owed && self.gathering.is_empty() && self.in_flight.is_empty();
        let proof = proof_pending.then(|| self.last_write_at.after_ns(PROOF_DELAY_NS));
        [gathered, proof, self.supply.next_deadline()].into_iter().flatten().min()
    }

    /// Ends the boot cleanly: whatever is pending, then the closing record, then its proof. Go on
    /// with [`Wal::poll_write`] until [`Wal::is_closed`].
    pub fn close(&mut self) {
        if self.closing {
            return;
        }
        if self.config.durability != Durability::None {
            let boot_epoch = self.config.boot_epoch;
            let frame = frame(&Record::CloseBoot { boot_epoch });
            self.make_room(frame.len());
            self.put_frame(&frame);
        }
        self.closing = true;
    }

    /// Whether everything is written and proven after [`Wal::close`]; or nothing more can be, and
    /// nobody was promised it: the next start then finds a log that was not ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let is_proven = self.gathering.is_empty() && !self.proof_owed;
        let has_promised = self.config.durability == Durability::Async;
        let waits =
            |batch: &Batch| batch.begins.is_some() && self.supply.is_exhausted(self.issued());
        let cannot_end = !has_promised && self.gathering.front().is_some_and(waits);
        self.closing && self.in_flight.is_empty() && (is_proven || cannot_end)
    }

    /// The last batch that was handed out to be written.
    fn issued(&self) -> BatchId {
        self.in_flight.back().map_or(self.durable_batch, |write| write.batch)
    }

    // ---- gathering ----

    /// Begins another segment if `size` more bytes don't fit the one being filled.
    fn make_room(&mut self, size: usize) {
        let room = self.gathering.back().map_or(0, |batch| PAYLOAD_SIZE_BYTES - batch.used);
        let more = size.saturating_sub(room).div_ceil(PAYLOAD_SIZE_BYTES);
        if self.filled_block_count + more <= self.segment_block_count {
            return;
        }
        self.leave_segment();
    }

    /// Goes on in the next segment, whose snapshot counts those before it that are still needed.
    fn leave_segment(&mut self) {
        let last_batch = self.next_batch.previous();
        self.state.segments.push(LiveSegment { segment: self.filling, last_batch });
        self.ledger.close(self.filling);
        self.filling = self.filling.next();
        self.filled_block_count = 0;
        self.begin_segment();
    }

    fn begin_segment(&mut self) {
        let released = self.release_segments();
        self.begin_batch(Some(self.filling));
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        if mutant::is(Mutant::PromisesNotInSnapshot) {
            encode_snapshot(&self.state.without_promises(), &mut scratch);
        } else {
            encode_snapshot(&self.state, &mut scratch);
        }
        self.begin_record();
        self.put(&scratch);
        self.scratch = scratch;
        self.snapshot_end = self.next_batch.previous();
        for free in released {
            self.supply.release(self.snapshot_end, free);
        }
        for (end, _) in self.superseded.iter_mut().rev().take_while(|(end, _)| *end == UNNAMED) {
            *end = self.snapshot_end;
        }
    }

    fn begin_batch(&mut self, begins: Option<SegmentId>) {
        let mut blocks =
            self.pool.pop().unwrap_or_else(|| Vec::with_capacity(BATCH_BLOCK_COUNT_MAX));
        blocks.push(Block::ZERO);
        self.filled_block_count += 1;
        self.gathering_block_count += 1;
        let last_append = self.appended;
        self.gathering.push_back(Batch {
            id: self.next_batch,
            blocks,
            used: 0,
            last_append,
            begins,
        });
        self.next_batch = self.next_batch.next();
    }

    fn put_frame(&mut self, frame: &Frame<'_>) {
        self.begin_record();
        self.put(frame.head());
        self.put(frame.value());
    }

    /// Marks the place where a record begins, so that a reader can find its way after a damage.
    fn begin_record(&mut self) {
        self.ensure_room();
        let batch = self.back();
        let offset = BLOCK_HEADER_SIZE_BYTES + batch.used;
        block::mark_record(last_block(&mut batch.blocks), offset);
    }

    /// Makes the last block one with room for at least a byte.
    fn ensure_room(&mut self) {
        match self.gathering.back_mut() {
            Some(batch) if batch.used < PAYLOAD_SIZE_BYTES => {}
            Some(batch) if batch.blocks.len() < BATCH_BLOCK_COUNT_MAX => {
                batch.blocks.push(Block::ZERO);
                batch.used = 0;
                self.filled_block_count += 1;
                self.gathering_block_count += 1;
            }
            _ => self.begin_batch(None),
        }
        assert!(self.filled_block_count <= self.segment_block_count, "a record fits its segment");
    }

    fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.ensure_room();
            let batch = self.back();
            let begin = BLOCK_HEADER_SIZE_BYTES + batch.used;
            let room = &mut last_block(&mut batch.blocks).0[begin..];
            let (now, later) = bytes.split_at(bytes.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            batch.used += now.len();
            bytes = later;
        }
    }

    fn back(&mut self) -> &mut Batch {
        self.gathering.back_mut().expect("a batch gathers")
    }

    // ---- writing ----

    /// Whether nothing follows the last batch, so that an empty one should say it is complete.
    fn proof_is_due(&self, now: Monotonic) -> bool {
        self.proof_owed
            && self.in_flight.is_empty()
            && (self.closing || now.since_ns(self.last_write_at) >= PROOF_DELAY_NS)
    }

    /// In mode `async` a batch that isn't full waits for its interval.
    fn must_gather(&mut self, now: Monotonic) -> bool {
        let only = self.gathering.len() == 1
            && self.gathering.front().is_some_and(|batch| {
                batch.blocks.len() < BATCH_BLOCK_COUNT_MAX && !is_empty(batch)
            });
        if self.config.durability != Durability::Async || self.closing || !only {
            return false;
        }
        let since = *self.gathering_since.get_or_insert(now);
        now.since_ns(since) < ASYNC_INTERVAL_NS
    }

    /// Whether the segment that a batch begins, if it begins one, is prepared.
    fn has_segment_for(&self, batch: &Batch) -> bool {
        batch.begins.is_none_or(|segment| self.supply.next_prepared() == Some(segment))
    }

    fn issue(&mut self, mut batch: Batch) -> SegmentWrite {
        let (segment, first_block) = self.writing.expect("the first batch begins a segment");
        let block_count = batch.blocks.len();
        assert!(first_block + block_count <= self.segment_block_count, "a batch fits its segment");
        for (position, block) in batch.blocks.iter_mut().enumerate() {
            let last = position + 1 == block_count;
            let header = BlockHeader {
                shard: self.config.key.shard,
                number: u16_from(first_block + position),
                segment,
                batch: batch.id,
                proven: self.durable_batch,
                first_record: block::first_record(block),
                used: u16_from(if last { batch.used } else { PAYLOAD_SIZE_BYTES }),
                last,
            };
            block::seal(block, self.config.key.salt, &header);
        }
        self.proof_owed = !is_empty(&batch);
        self.writing = Some((segment, first_block + block_count));
        self.in_flight.push_back(InFlight {
            batch: batch.id,
            last_append: batch.last_append,
            end: (segment, first_block + block_count),
            complete: false,
        });
        SegmentWrite {
            batch: batch.id,
            segment,
            offset: block::offset_of(first_block),
            blocks: batch.blocks,
        }
    }
}

const fn is_empty(batch: &Batch) -> bool {
    batch.blocks.len() == 1 && batch.used == 0
}

fn last_block(blocks: &mut [Block]) -> &mut Block {
    blocks.last_mut().expect("a batch has a block")
}

#[cfg(test)]
mod tests;
