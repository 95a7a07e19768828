//! Records out of some blocks of a segment that is read a second time, by the host and little by
//! little: to carry slots over, or to give them to a peer.

use std::ops::Range;

use super::block::{Block, BlockState, LogKey};
use super::carry::SegmentRead;
use super::codec::decode;
use super::error::Damage;
use super::record::Record;
use super::scan::expected_block;
use crate::base::ids::SegmentId;
use crate::base::limits::WRITE_BATCH_SIZE_BYTES_MAX;

/// Blocks that are read at once.
const READ_BLOCK_COUNT: usize = WRITE_BATCH_SIZE_BYTES_MAX / size_of::<Block>();

/// The records that begin in a range of blocks and end in it.
#[derive(Debug)]
pub(super) struct RecordStream {
    key: LogKey,
    segment: SegmentId,
    /// What isn't read yet.
    blocks: Range<usize>,
    /// Records that aren't whole yet; empty until the first record begins.
    stream: Vec<u8>,
    began: bool,
}

impl RecordStream {
    pub(super) const fn new(key: LogKey, segment: SegmentId, blocks: Range<usize>) -> Self {
        Self { key, segment, blocks, stream: Vec::new(), began: false }
    }

    pub(super) const fn segment(&self) -> SegmentId {
        self.segment
    }

    /// What is to be read next; `None`: all was read.
    pub(super) fn wants(&self) -> Option<SegmentRead> {
        let block_count = self.blocks.len().min(READ_BLOCK_COUNT);
        let (segment, first_block) = (self.segment, self.blocks.start);
        (block_count > 0).then_some(SegmentRead { segment, first_block, block_count })
    }

    /// The blocks that were asked for: `take` gets each record that ends in them.
    ///
    /// # Errors
    /// If they aren't what was written there, with the number of the block.
    ///
    /// # Panics
    /// If they aren't as many as were asked for.
    pub(super) fn on_read(
        &mut self,
        blocks: &[Block],
        mut take: impl FnMut(&Record<'_>),
    ) -> Result<(), (usize, Damage)> {
        let wanted = self.wants().map(|read| read.block_count);
        assert_eq!(Some(blocks.len()), wanted, "what was asked for is read");
        for block in blocks {
            let number = self.blocks.start;
            self.gather(number, block).map_err(|damage| (number, damage))?;
            self.blocks.start += 1;
        }
        let mut begin = 0;
        let last = self.blocks.start - 1;
        while let Some((record, size)) =
            decode(&self.stream[begin..]).map_err(|error| (last, Damage::Record(error)))?
        {
            begin += size;
            take(&record);
        }
        self.stream.drain(..begin);
        Ok(())
    }

    /// Adds a block's payload to the stream, which begins where a record does.
    fn gather(&mut self, number: usize, block: &Block) -> Result<(), Damage> {
        let state = BlockState::of(block, self.key.salt);
        let header = expected_block(self.key, self.segment, number, state)?;
        if self.began {
            self.stream.extend_from_slice(header.payload(block));
        } else if let Some(payload) = header.payload_from_record(block) {
            self.stream.extend_from_slice(payload);
            self.began = true;
        }
        Ok(())
    }
}
