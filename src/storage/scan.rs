//! Reads segments block by block: forward in whole batches while they are there, and behind the end
//! to find out whether it is one.

use super::block::{
    BATCH_BLOCK_COUNT_MAX, Block, BlockHeader, BlockState, LogKey, boot_of, first_batch, offset_of,
};
use super::error::{Damage, Place, StorageError};
use super::record::LiveSegment;
use super::recovery::{SegmentSource, TornTail};
use crate::base::ids::{BatchId, BootEpoch, SegmentId};
use crate::base::limits::WRITES_IN_FLIGHT_MAX;
use crate::base::mutant::{self, Mutant};

/// How many chunks are announced before they are read.
const READ_AHEAD_COUNT: usize = 8;
/// How far behind the last complete batch of a segment a write in flight can have reached.
const REACH_BLOCK_COUNT: usize = WRITES_IN_FLIGHT_MAX * BATCH_BLOCK_COUNT_MAX;

/// A file taken for a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Its place among the host's files.
    pub(super) file: usize,
    /// What its name says.
    pub(super) name: SegmentId,
    /// What it is.
    pub(super) id: SegmentId,
    /// How many blocks it has.
    pub(super) block_count: usize,
}

/// How far a segment was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    /// The first block after the last complete batch.
    pub(super) next: usize,
    /// The batch that should follow; `None`: whichever comes first.
    pub(super) expected: Option<BatchId>,
    /// Where the log ends: the first block that isn't of the batch that should follow.
    pub(super) bad_block: usize,
}

impl Cursor {
    pub(super) const fn begin(expected: Option<BatchId>) -> Self {
        Self { next: 0, expected, bad_block: 0 }
    }
}

/// What came next in a segment.
#[derive(Debug)]
pub(super) enum Step {
    /// A complete batch.
    Batch { batch: BatchId, first_block: usize },
    /// The segment's end, or a block that isn't of the batch that should follow.
    End { bad_block: usize },
}

/// What must be the block `number` of a segment: its header, or in which way it isn't that block.
pub(super) fn expected_block(
    key: LogKey,
    segment: SegmentId,
    number: usize,
    state: BlockState,
) -> Result<BlockHeader, Damage> {
    match state {
        BlockState::Bad => Err(Damage::BadBlock),
        BlockState::Unknown { version } => Err(Damage::Version(version)),
        BlockState::Zero => Err(Damage::LostWrite),
        BlockState::Valid(header) if is_elsewhere(key, segment, number, &header) => {
            Err(misdirected(&header))
        }
        // Of the file's former life.
        BlockState::Valid(header) if header.segment < segment => Err(Damage::LostWrite),
        BlockState::Valid(header) => Ok(header),
    }
}

/// Whether a block can't ever have been written there.
fn is_elsewhere(key: LogKey, segment: SegmentId, number: usize, header: &BlockHeader) -> bool {
    header.shard != key.shard || usize::from(header.number) != number || header.segment > segment
}

const fn misdirected(header: &BlockHeader) -> Damage {
    let BlockHeader { shard, segment, number, .. } = *header;
    Damage::Misdirected { shard, segment, number }
}

/// A window on the segments.
#[derive(Debug)]
pub(super) struct Reader<'s, S> {
    source: &'s mut S,
    key: LogKey,
    chunk: usize,
    blocks: Vec<Block>,
    loaded: Option<(usize, usize)>,
    /// The files that are read through, one after the other.
    order: Vec<usize>,
    /// What was announced last: the place of a file in the order, and a block.
    announced: Option<(usize, usize)>,
}

impl<'s, S: SegmentSource> Reader<'s, S> {
    pub(super) fn new(source: &'s mut S, key: LogKey) -> Self {
        let (blocks, order) = (Vec::new(), Vec::new());
        Self { source, key, chunk: 1, blocks, loaded: None, order, announced: None }
    }

    /// These files will be read through, one after the other, in chunks of the present size.
    pub(super) fn set_order(&mut self, files: Vec<usize>) {
        self.order = files;
        self.announced = None;
    }

    /// Says what will be read after a chunk, so that the device needn't wait for us.
    fn announce(&mut self, segment: &Segment, number: usize) {
        let Some(place) = self.order.iter().position(|file| *file == segment.file) else { return };
        let limit = segment.block_count.div_ceil(self.chunk);
        let chunk_of = |(place, number): (usize, usize)| place * limit + number / self.chunk;
        let now = chunk_of((place, number));
        let mut next = self.announced.map_or(now, chunk_of).max(now) + 1;
        while next <= now + READ_AHEAD_COUNT {
            let (place, number) = (next / limit, next % limit * self.chunk);
            let Some(&file) = self.order.get(place) else { return };
            let block_count = self.chunk.min(segment.block_count - number);
            self.source.will_read(file, number, block_count);
            self.announced = Some((place, number));
            next += 1;
        }
    }

    /// How many blocks to ask for at once from now on.
    pub(super) const fn set_chunk(&mut self, block_count: usize) {
        self.chunk = block_count;
    }

    fn block(&mut self, segment: &Segment, number: usize) -> Result<&Block, StorageError> {
        let held = self.loaded.filter(|&(file, first)| {
            file == segment.file && (first..first + self.blocks.len()).contains(&number)
        });
        let first = match held {
            Some((_, first)) => first,
            None => {
                let first = number / self.chunk * self.chunk;
                let count = self.chunk.min(segment.block_count - first);
                self.loaded = None;
                self.blocks.resize(count, Block::ZERO);
                self.announce(segment, first);
                self.source.read(segment.file, first, &mut self.blocks).map_err(|error| {
                    StorageError::Read {
                        shard: self.key.shard,
                        segment: segment.name,
                        offset: offset_of(first),
                        error,
                    }
                })?;
                self.loaded = Some((segment.file, first));
                first
            }
        };
        Ok(&self.blocks[number - first])
    }

    fn state(&mut self, segment: &Segment, number: usize) -> Result<BlockState, StorageError> {
        let salt = self.key.salt;
        self.block(segment, number).map(|block| BlockState::of(block, salt))
    }

    /// The header of a block that is whole and where it belongs, whatever the segment's name.
    pub(super) fn own_header(
        &mut self,
        segment: &Segment,
        number: usize,
    ) -> Result<Option<BlockHeader>, StorageError> {
        Ok(match self.state(segment, number)? {
            BlockState::Valid(header)
                if header.shard == self.key.shard && usize::from(header.number) == number =>
            {
                Some(header)
            }
            _ => None,
        })
    }

    /// Whether a block of a segment says that a batch of the same boot was complete.
    pub(super) fn proves(
        &mut self,
        segment: &Segment,
        batch: BatchId,
    ) -> Result<bool, StorageError> {
        for number in 0..segment.block_count {
            let header = self.own_header(segment, number)?;
            let Some(header) = header.filter(|header| header.segment == segment.id) else {
                return Ok(false);
            };
            if header.proven >= batch && boot_of(header.batch) == boot_of(batch) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Appends the payload of the next complete batch to `stream`, or nothing at the end.
    pub(super) fn next_batch(
        &mut self,
        segment: &Segment,
        cursor: &mut Cursor,
        stream: &mut Vec<u8>,
    ) -> Result<Step, StorageError> {
        let begin = stream.len();
        let first_block = cursor.next;
        let mut expected = cursor.expected;
        let end = segment.block_count.min(first_block + BATCH_BLOCK_COUNT_MAX);
        for number in first_block..end {
            let header = self.own_header(segment, number)?.filter(|header| {
                mutant::is(Mutant::OldBlocksAccepted)
                    || header.segment == segment.id
                        && expected.is_none_or(|expected| expected == header.batch)
            });
            let Some(header) = header else {
                stream.truncate(begin);
                return Ok(Step::End { bad_block: number });
            };
            expected = Some(header.batch);
            stream.extend_from_slice(header.payload(self.block(segment, number)?));
            if header.last {
                *cursor = Cursor {
                    next: number + 1,
                    expected: Some(header.batch.next()),
                    bad_block: number + 1,
                };
                return Ok(Step::Batch { batch: header.batch, first_block });
            }
        }
        stream.truncate(begin);
        Ok(Step::End { bad_block: end })
    }

    /// A block that should be whole and of a segment, however little else is; or what is wrong with
    /// it.
    pub(super) fn block_if_whole(
        &mut self,
        segment: &Segment,
        number: usize,
    ) -> Result<(BlockHeader, &Block), Damage> {
        let key = self.key;
        let chunk = self.chunk;
        if self.block(segment, number).is_err() {
            // One block that can't be read spoils all that are read with it.
            self.chunk = 1;
            let alone = self.block(segment, number).is_ok();
            self.chunk = chunk;
            if !alone {
                return Err(Damage::Unreadable);
            }
        }
        let block = self.block(segment, number).map_err(|_| Damage::Unreadable)?;
        let state = BlockState::of(block, key.salt);
        expected_block(key, segment.id, number, state).map(|header| (header, block))
    }

    /// In which way a block is damaged that should be part of a complete batch.
    pub(super) fn damage_at(
        &mut self,
        segment: &Segment,
        number: usize,
    ) -> Result<Damage, StorageError> {
        if number >= segment.block_count {
            return Ok(Damage::LostWrite);
        }
        let state = self.state(segment, number)?;
        let expected = expected_block(self.key, segment.id, number, state);
        Ok(expected.err().unwrap_or(Damage::LostWrite))
    }

    /// Whether a whole block belongs elsewhere. A block of an older segment may be left from the
    /// file's former life, unless that segment is `live` in a file of its own.
    fn misdirected(
        &self,
        segment: &Segment,
        number: usize,
        header: &BlockHeader,
        live: impl Fn(SegmentId) -> bool,
    ) -> Option<Damage> {
        let elsewhere = is_elsewhere(self.key, segment.id, number, header) || live(header.segment);
        elsewhere.then(|| misdirected(header))
    }

    pub(super) fn damaged(
        &self,
        segment: &Segment,
        block: usize,
        batch: BatchId,
        damage: Damage,
    ) -> StorageError {
        let shard = self.key.shard;
        let place = Place { shard, segment: segment.id, offset: offset_of(block), batch };
        StorageError::Damaged { place, damage }
    }
}

/// What lies behind the end of a log.
#[derive(Debug)]
pub(super) struct Tail<'l> {
    boot_epoch: BootEpoch,
    /// The end: its batch is the first that isn't complete, and what it is if it was complete once.
    /// `None`: there is no log.
    end: Option<(Place, Damage)>,
    /// The first batch that isn't complete, of the boot whose segments are being scanned.
    missing: BatchId,
    live: &'l [LiveSegment],
    used: Vec<SegmentId>,
    void_block_count: u64,
    first_void: Option<Place>,
}

impl<'l> Tail<'l> {
    pub(super) fn new(
        boot_epoch: BootEpoch,
        end: Option<(Place, Damage)>,
        live: &'l [LiveSegment],
    ) -> Self {
        let missing = end.map_or(BatchId(0), |(end, _)| end.batch);
        Self {
            boot_epoch,
            end,
            missing,
            live,
            used: Vec::new(),
            void_block_count: 0,
            first_void: None,
        }
    }

    /// Whether anything was ever written to a segment in its present life.
    pub(super) fn is_used(&self, segment: &Segment) -> bool {
        self.used.contains(&segment.id)
    }

    pub(super) const fn is_torn(&self) -> bool {
        self.void_block_count > 0
    }

    pub(super) fn torn(&self) -> Option<TornTail> {
        let place = self.end.map(|(place, _)| place).or(self.first_void)?;
        self.is_torn().then_some(TornTail { place, block_count: self.void_block_count })
    }

    /// A segment that may have been begun: its first batches may be complete though its snapshot,
    /// of many partitions, isn't.
    pub(super) fn scan_begun<S: SegmentSource>(
        &mut self,
        reader: &mut Reader<'_, S>,
        segment: &Segment,
    ) -> Result<(), StorageError> {
        let mut complete_end = 0;
        let header = reader.own_header(segment, 0)?;
        if let Some(header) = header.filter(|header| header.segment == segment.id) {
            let boot = boot_of(header.batch);
            if boot != boot_of(self.missing) {
                self.missing = first_batch(boot);
            }
            let mut cursor = Cursor::begin(Some(self.missing));
            let mut stream = Vec::new();
            while let Step::Batch { batch, .. } =
                reader.next_batch(segment, &mut cursor, &mut stream)?
            {
                self.missing = batch.next();
                stream.clear();
            }
            complete_end = cursor.next;
        }
        self.look(reader, segment, 0, complete_end)
    }

    /// Looks at a segment from the end of its complete batches on.
    pub(super) fn scan<S: SegmentSource>(
        &mut self,
        reader: &mut Reader<'_, S>,
        segment: &Segment,
        complete_end: usize,
    ) -> Result<(), StorageError> {
        self.look(reader, segment, complete_end, complete_end)
    }

    /// Looks at a segment from `begin` on; writes in flight began at `complete_end`.
    fn look<S: SegmentSource>(
        &mut self,
        reader: &mut Reader<'_, S>,
        segment: &Segment,
        begin: usize,
        complete_end: usize,
    ) -> Result<(), StorageError> {
        // The first block here that isn't a whole one of this segment.
        let mut first_bad = None;
        for number in begin..segment.block_count {
            let state = reader.state(segment, number)?;
            let own = matches!(&state, BlockState::Valid(header) if header.segment == segment.id);
            if !own {
                first_bad.get_or_insert(number);
            }
            let void = match state {
                BlockState::Zero => false,
                BlockState::Bad => true,
                BlockState::Unknown { version } => {
                    let damage = Damage::Version(version);
                    return Err(reader.damaged(segment, number, self.missing, damage));
                }
                BlockState::Valid(header) => {
                    self.check(reader, segment, number, first_bad, &header)?;
                    own
                }
            };
            if !void {
                continue;
            }
            if number >= complete_end + REACH_BLOCK_COUNT {
                return Err(reader.damaged(segment, number, self.missing, Damage::Stray));
            }
            self.void_block_count += 1;
            if self.used.last() != Some(&segment.id) {
                self.used.push(segment.id);
            }
            let shard = reader.key.shard;
            let offset = offset_of(number);
            let place = Place { shard, segment: segment.id, offset, batch: BatchId(0) };
            self.first_void.get_or_insert(place);
        }
        Ok(())
    }

    /// A whole block behind the end: it must be where it belongs, of a write that can have been in
    /// flight, and say nothing of what is missing.
    fn check<S: SegmentSource>(
        &self,
        reader: &mut Reader<'_, S>,
        segment: &Segment,
        number: usize,
        first_bad: Option<usize>,
        header: &BlockHeader,
    ) -> Result<(), StorageError> {
        let batch = header.batch;
        let live = |id| id < segment.id && self.live.iter().any(|live| live.segment == id);
        if let Some(damage) = reader.misdirected(segment, number, header, live) {
            return Err(reader.damaged(segment, number, batch, damage));
        }
        if header.segment < segment.id {
            return Ok(());
        }
        let boot = boot_of(batch);
        if boot >= self.boot_epoch {
            return Err(StorageError::FromTheFuture {
                shard: header.shard,
                segment: segment.id,
                found: boot,
                boot_epoch: self.boot_epoch,
            });
        }
        // A boot whose first block isn't whole can't have completed its first batch.
        let missing = if boot == boot_of(self.missing) { self.missing } else { first_batch(boot) };
        if header.proven < missing {
            return Ok(());
        }
        match self.end.filter(|(end, _)| end.batch == missing) {
            Some((place, damage))
                if place.segment == segment.id
                    || self.used.contains(&place.segment)
                    || first_bad.is_none() =>
            {
                Err(StorageError::Damaged { place, damage })
            }
            // The log left its segment and something is missing from the next one.
            _ => {
                let block = first_bad.unwrap_or(0);
                let damage = reader.damage_at(segment, block)?;
                Err(reader.damaged(segment, block, missing, damage))
            }
        }
    }
}
