//! Reads what is there again, while everything is well: a block that has rotted is found while its
//! content is still in memory, where a checkpoint makes good for it.

use super::block::{Block, BlockState, LogKey};
use super::error::Damage;
use super::record::LiveSegment;
use super::scan::expected_block;
use crate::base::ids::BatchId;

/// Checks the blocks of a segment that was written to its end, one after the other.
#[derive(Debug)]
pub struct SegmentScrub {
    key: LogKey,
    segment: LiveSegment,
    next_block: usize,
    /// The batch that the next block is of; `None`: the first, whichever it is.
    batch: Option<BatchId>,
}

/// How a segment's scrub goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scrubbed {
    /// More blocks are to come.
    More,
    /// Everything that counts was there.
    Whole,
    /// The block isn't what was written there. (Or the file has become another segment since: who
    /// reads files knows.)
    Damaged {
        /// The block's number.
        block: usize,
        /// In which way.
        damage: Damage,
    },
}

impl SegmentScrub {
    /// Begins with a segment's first block.
    #[must_use]
    pub const fn new(key: LogKey, segment: LiveSegment) -> Self {
        Self { key, segment, next_block: 0, batch: None }
    }

    /// The number of the block that comes next.
    #[must_use]
    pub const fn next_block(&self) -> usize {
        self.next_block
    }

    /// The next blocks.
    pub fn on_read(&mut self, blocks: &[Block]) -> Scrubbed {
        for block in blocks {
            let number = self.next_block;
            match self.check(number, block) {
                Ok(last) if last => return Scrubbed::Whole,
                Ok(_) => self.next_block += 1,
                Err(damage) => return Scrubbed::Damaged { block: number, damage },
            }
        }
        Scrubbed::More
    }

    /// Whether a block is the last that counts.
    fn check(&mut self, number: usize, block: &Block) -> Result<bool, Damage> {
        let state = BlockState::of(block, self.key.salt);
        let header = expected_block(self.key, self.segment.segment, number, state)?;
        if self.batch.is_some_and(|expected| expected != header.batch)
            || header.batch > self.segment.last_batch
        {
            return Err(Damage::LostWrite);
        }
        self.batch = Some(if header.last { header.batch.next() } else { header.batch });
        Ok(header.last && header.batch == self.segment.last_batch)
    }
}

#[cfg(test)]
mod tests {
    use super::super::block::{BlockHeader, first_batch, seal};
    use super::*;
    use crate::base::cast::u16_from;
    use crate::base::ids::{BootEpoch, SegmentId, ShardId};

    const KEY: LogKey = LogKey { shard: ShardId(1), salt: 5 };
    const BLOCK_COUNT: usize = 9;

    fn batch(number: usize) -> BatchId {
        first_batch(BootEpoch(2)).plus(crate::base::cast::u64_from(number))
    }

    fn block(key: LogKey, segment: u64, number: usize, batch: BatchId, last: bool) -> Block {
        let mut block = Block::ZERO;
        let header = BlockHeader {
            shard: key.shard,
            number: u16_from(number),
            segment: SegmentId(segment),
            batch,
            proven: batch.previous(),
            first_record: 0,
            used: 0,
            last,
        };
        seal(&mut block, key.salt, &header);
        block
    }

    /// A segment of batches of three blocks.
    fn blocks() -> Vec<Block> {
        let block = |number| block(KEY, 7, number, batch(number / 3), number % 3 == 2);
        (0..BLOCK_COUNT).map(block).collect()
    }

    fn scrub(blocks: &[Block]) -> Scrubbed {
        let segment = LiveSegment { segment: SegmentId(7), last_batch: batch(2) };
        let mut scrub = SegmentScrub::new(KEY, segment);
        let parts = blocks.chunks(2).map(|part| scrub.on_read(part));
        parts.into_iter().find(|scrubbed| *scrubbed != Scrubbed::More).unwrap_or(Scrubbed::More)
    }

    #[test]
    fn segment_is_whole_to_its_last_batch_whatever_lies_behind_it() {
        let mut segment = blocks();
        assert_eq!(scrub(&segment), Scrubbed::Whole);
        assert_eq!(scrub(&segment[..BLOCK_COUNT - 1]), Scrubbed::More);
        segment.push(Block([9; size_of::<Block>()]));
        assert_eq!(scrub(&segment), Scrubbed::Whole);
    }

    #[test]
    fn each_kind_of_damage_is_found_where_it_is() {
        for number in 0..BLOCK_COUNT {
            let other = LogKey { shard: ShardId(2), ..KEY };
            let replacements = [
                (Block([9; size_of::<Block>()]), Damage::BadBlock),
                (Block::ZERO, Damage::LostWrite),
                (block(KEY, 3, number, batch(0), true), Damage::LostWrite),
                (
                    block(KEY, 8, number, batch(0), true),
                    Damage::Misdirected {
                        shard: ShardId(1),
                        segment: SegmentId(8),
                        number: u16_from(number),
                    },
                ),
                (
                    block(other, 7, number, batch(0), true),
                    Damage::Misdirected {
                        shard: ShardId(2),
                        segment: SegmentId(7),
                        number: u16_from(number),
                    },
                ),
            ];
            for (replacement, damage) in replacements {
                let mut segment = blocks();
                segment[number] = replacement;
                assert_eq!(scrub(&segment), Scrubbed::Damaged { block: number, damage });
            }
        }
        let mut segment = blocks();
        segment[4] = block(KEY, 7, 4, batch(2), false);
        let (block, damage) = (4, Damage::LostWrite);
        assert_eq!(scrub(&segment), Scrubbed::Damaged { block, damage }, "another batch");
    }
}
