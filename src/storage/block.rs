//! The 4 KiB unit of writes to a segment: its header, how it is sealed and what can be found where
//! one is expected.
//!
//! ```text
//!  0  crc32         u32  over bytes 4..4096, begun with the salt of data directory and generation
//!  4  shard         u16
//!  6  number        u16  of the block in its segment
//!  8  segment       u64
//! 16  batch         u64  boot epoch << 40 | number of the write in that boot
//! 24  proven lag    u16  batch − proven; proven: every batch of this boot up to it was complete
//! 26  first record  u16  where in the block the first record begins; 0: none begins here
//! 28  used          u16  bytes of payload; the rest is zero
//! 30  flags         u8   bit 0: the last block of its batch
//! 31  version       u8
//! ```
//!
//! A lag instead of `proven` itself, because no more writes are in flight than fit two bytes, and
//! the six bytes saved say where records begin and end. The boot epoch in the batch number makes
//! batch numbers unique in a data directory although torn ones leave no trace, and says of each
//! block which start of the node wrote it.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::base::cast::{u16_from, u64_from};
use crate::base::checksum::crc32_salted;
use crate::base::ids::{BatchId, BootEpoch, SegmentId, ShardId};
use crate::base::limits::{
    BLOCK_HEADER_SIZE_BYTES, BLOCK_SIZE_BYTES, WRITE_BATCH_SIZE_BYTES_MAX, WRITES_IN_FLIGHT_MAX,
};

/// The payload of a full block.
pub const PAYLOAD_SIZE_BYTES: usize = BLOCK_SIZE_BYTES - BLOCK_HEADER_SIZE_BYTES;
/// Blocks of a batch at most.
pub const BATCH_BLOCK_COUNT_MAX: usize = WRITE_BATCH_SIZE_BYTES_MAX / BLOCK_SIZE_BYTES;
/// What this release writes and reads.
pub const FORMAT_VERSION: u8 = 1;

const FLAG_LAST: u8 = 1;
const BATCH_COUNT_BITS: u32 = 40;

const _: () = assert!(size_of::<RawHeader>() == BLOCK_HEADER_SIZE_BYTES);
// Positions within a block and the lag of `proven` fit their 16 bits.
const _: () = assert!(BLOCK_SIZE_BYTES <= u16::MAX as usize);
const _: () = assert!(WRITES_IN_FLIGHT_MAX < u16::MAX as usize);

/// A block, aligned as direct I/O wants it.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
pub struct Block(pub [u8; BLOCK_SIZE_BYTES]);

impl Block {
    /// A block as a prepared segment is full of.
    pub const ZERO: Self = Self([0; BLOCK_SIZE_BYTES]);
}

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

/// Whose blocks these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogKey {
    /// The shard.
    pub shard: ShardId,
    /// Begins each checksum; from the data directory's UUID and generation
    /// ([`super::identity::log_salt`]).
    pub salt: u32,
}

/// What a valid block says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// Whose log it belongs to.
    pub shard: ShardId,
    /// Its place in the segment.
    pub number: u16,
    /// The segment.
    pub segment: SegmentId,
    /// The batch.
    pub batch: BatchId,
    /// All batches of the same boot up to this one were complete when this one was written.
    pub proven: BatchId,
    /// Where in the block the first record begins; 0: none begins here.
    pub first_record: u16,
    /// How many bytes of payload it holds.
    pub used: u16,
    /// Whether it is the last of its batch.
    pub last: bool,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    crc: U32,
    shard: U16,
    number: U16,
    segment: U64,
    batch: U64,
    proven_lag: U16,
    first_record: U16,
    used: U16,
    flags: u8,
    version: u8,
}

/// What lies where a block is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockState {
    /// Nothing was ever written here.
    Zero,
    /// A whole block, of this log or another place of it.
    Valid(BlockHeader),
    /// The checksum doesn't fit, or the header makes no sense.
    Bad,
    /// A whole block in a format that this release doesn't know.
    Unknown {
        /// The format's version.
        version: u8,
    },
}

/// The first batch that a boot writes.
#[must_use]
pub const fn first_batch(boot_epoch: BootEpoch) -> BatchId {
    assert!(boot_epoch.0 < 1 << (u64::BITS - BATCH_COUNT_BITS), "a boot epoch fits 24 bits");
    BatchId(boot_epoch.0 << BATCH_COUNT_BITS)
}

/// The boot that wrote a batch.
#[must_use]
pub const fn boot_of(batch: BatchId) -> BootEpoch {
    BootEpoch(batch.0 >> BATCH_COUNT_BITS)
}

/// A batch as people read it: its boot and its number in it.
#[must_use]
pub fn batch_name(batch: BatchId) -> String {
    let boot = boot_of(batch);
    format!("{boot}.{}", batch.since(first_batch(boot)))
}

/// Notes that a record begins at `offset` (from the block's begin), if none did before it.
pub(super) fn mark_record(block: &mut Block, offset: usize) {
    let header = raw_mut(block);
    if header.first_record.get() == 0 {
        header.first_record = U16::new(u16_from(offset));
    }
}

/// Fills in the header of a block whose payload and record mark are in place.
pub(super) fn seal(block: &mut Block, salt: u32, header: &BlockHeader) {
    assert!(header.proven < header.batch, "a batch can't be complete before it is written");
    assert!(usize::from(header.used) <= PAYLOAD_SIZE_BYTES);
    let raw = raw_mut(block);
    assert_eq!(raw.first_record.get(), header.first_record);
    raw.shard = U16::new(header.shard.0);
    raw.number = U16::new(header.number);
    raw.segment = U64::new(header.segment.0);
    raw.batch = U64::new(header.batch.0);
    raw.proven_lag = U16::new(lag(header));
    raw.used = U16::new(header.used);
    raw.flags = if header.last { FLAG_LAST } else { 0 };
    raw.version = FORMAT_VERSION;
    let crc = crc32_salted(salt, &block.0[4..]);
    raw_mut(block).crc = U32::new(crc);
}

fn lag(header: &BlockHeader) -> u16 {
    u16::try_from(header.batch.since(header.proven)).expect("few writes are in flight")
}

/// Where the first record of an unsealed block begins; 0: none.
pub(super) fn first_record(block: &Block) -> u16 {
    raw(block).first_record.get()
}

impl BlockState {
    const ZEROS: [u8; BLOCK_SIZE_BYTES] = [0; BLOCK_SIZE_BYTES];

    /// Looks at a block of the log with this salt.
    #[must_use]
    pub fn of(block: &Block, salt: u32) -> Self {
        let raw = raw(block);
        if raw.version == 0 && block.0 == Self::ZEROS {
            return Self::Zero;
        }
        if raw.crc.get() != crc32_salted(salt, &block.0[4..]) {
            return Self::Bad;
        }
        if raw.version != FORMAT_VERSION {
            return Self::Unknown { version: raw.version };
        }
        BlockHeader::of(raw).map_or(Self::Bad, Self::Valid)
    }
}

impl BlockHeader {
    fn of(raw: &RawHeader) -> Option<Self> {
        let lag = u64::from(raw.proven_lag.get());
        let end = BLOCK_HEADER_SIZE_BYTES + usize::from(raw.used.get());
        let first_record = usize::from(raw.first_record.get());
        let in_payload = (BLOCK_HEADER_SIZE_BYTES..end).contains(&first_record);
        let plausible = lag > 0
            && end <= BLOCK_SIZE_BYTES
            && (first_record == 0 || in_payload)
            && raw.flags & !FLAG_LAST == 0;
        let proven = raw.batch.get().checked_sub(lag)?;
        plausible.then(|| Self {
            shard: ShardId(raw.shard.get()),
            number: raw.number.get(),
            segment: SegmentId(raw.segment.get()),
            batch: BatchId(raw.batch.get()),
            proven: BatchId(proven),
            first_record: raw.first_record.get(),
            used: raw.used.get(),
            last: raw.flags & FLAG_LAST != 0,
        })
    }

    /// The payload of the block that this header is of.
    #[must_use]
    pub fn payload<'a>(&self, block: &'a Block) -> &'a [u8] {
        &block.0[BLOCK_HEADER_SIZE_BYTES..][..usize::from(self.used)]
    }

    /// The payload from the first record that begins in it; `None`: none does.
    #[must_use]
    pub fn payload_from_record<'a>(&self, block: &'a Block) -> Option<&'a [u8]> {
        let before = usize::from(self.first_record).checked_sub(BLOCK_HEADER_SIZE_BYTES)?;
        self.payload(block).get(before..)
    }
}

/// Where a block begins in its segment, in bytes.
#[must_use]
pub const fn offset_of(block_number: usize) -> u64 {
    u64_from(block_number) * u64_from(BLOCK_SIZE_BYTES)
}

fn raw(block: &Block) -> &RawHeader {
    RawHeader::ref_from_prefix(&block.0).expect("a block is longer than its header").0
}

fn raw_mut(block: &mut Block) -> &mut RawHeader {
    RawHeader::mut_from_prefix(&mut block.0).expect("a block is longer than its header").0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> BlockHeader {
        BlockHeader {
            shard: ShardId(3),
            number: 9,
            segment: SegmentId(12),
            batch: first_batch(BootEpoch(2)).plus(7),
            proven: first_batch(BootEpoch(2)).plus(5),
            first_record: 40,
            used: 500,
            last: true,
        }
    }

    fn sealed(header: &BlockHeader, salt: u32) -> Block {
        let mut block = Block::ZERO;
        block.0[32..532].fill(7);
        if header.first_record != 0 {
            mark_record(&mut block, header.first_record.into());
        }
        seal(&mut block, salt, header);
        block
    }

    #[test]
    fn sealed_block_says_what_it_was_sealed_with() {
        let block = sealed(&header(), 99);
        assert_eq!(BlockState::of(&block, 99), BlockState::Valid(header()));
        assert_eq!(header().payload(&block), &[7; 500]);
        assert_eq!(boot_of(header().batch), BootEpoch(2));
    }

    #[test]
    fn any_flipped_bit_makes_a_block_bad() {
        let block = sealed(&header(), 99);
        for bit in 0..BLOCK_SIZE_BYTES * 8 {
            let mut flipped = block.clone();
            flipped.0[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(BlockState::of(&flipped, 99), BlockState::Bad, "bit {bit}");
        }
    }

    #[test]
    fn block_of_another_data_directory_is_bad() {
        assert_eq!(BlockState::of(&sealed(&header(), 98), 99), BlockState::Bad);
    }

    #[test]
    fn zeros_are_no_block_and_one_set_bit_is_a_bad_one() {
        assert_eq!(BlockState::of(&Block::ZERO, 99), BlockState::Zero);
        let mut block = Block::ZERO;
        block.0[4_000] = 1;
        assert_eq!(BlockState::of(&block, 99), BlockState::Bad);
    }

    #[test]
    fn whole_block_of_a_later_format_is_named_as_such() {
        let mut block = sealed(&header(), 99);
        block.0[31] = 2;
        let crc = crc32_salted(99, &block.0[4..]);
        block.0[..4].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(BlockState::of(&block, 99), BlockState::Unknown { version: 2 });
    }

    #[test]
    fn whole_block_whose_header_makes_no_sense_is_bad() {
        // Byte 24: a lag of zero; 29: more payload than fits; 26: a record begins in the header.
        for (position, byte) in [(24, 0), (29, 0xFF), (26, 1), (30, 2)] {
            let mut block = sealed(&header(), 99);
            block.0[position] = byte;
            let crc = crc32_salted(99, &block.0[4..]);
            block.0[..4].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(BlockState::of(&block, 99), BlockState::Bad, "byte {position}");
        }
    }
}
