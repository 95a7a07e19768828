//! The 4 KiB unit of writes to a segment.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::base::ids::{BatchId, SegmentId};
use crate::base::limits::BLOCK_SIZE_BYTES;

/// A block, aligned as direct I/O wants it.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
pub struct Block(pub [u8; BLOCK_SIZE_BYTES]);

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Block").finish_non_exhaustive()
    }
}

/// One aligned write to a segment: a batch. The host returns it when the write is complete, so that
/// its memory is used again.
#[derive(Debug)]
pub struct SegmentWrite {
    /// Which batch this is.
    pub batch: BatchId,
    /// The segment.
    pub segment: SegmentId,
    /// Where in the segment, in bytes; a multiple of the block size.
    pub offset: u64,
    /// What.
    pub blocks: Vec<Block>,
}
