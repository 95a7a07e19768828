//! The file of a checkpoint: a partition's state at one slot of its log, in chunks that each say
//! what they are.
//!
//! ```text
//! file     chunks of 256 KiB; the last one is cut to whole blocks
//! chunk    a header of 48 bytes, payload, zeros to the end of its last block
//!           0  crc32      u32  over all that follows in the chunk, begun with the directory's salt
//!           4  partition  u32
//!           8  index      u64
//!          16  number     u32  of the chunk, from 0
//!          20  used       u32  bytes of payload
//!          24  flags      u8   bit 0: the last chunk
//!          25  version    u8
//!          26  zeros
//!          32  digest     16   of the payload of this chunk and all before it
//! payload  of all chunks together: the head of 64 bytes, then the state as `map` encodes it
//!           0  timestamp  u64  of the slot
//!           8  chain      16   of the log there
//!          24  digest     16   of the state
//!          40  zeros
//! ```
//!
//! A file gets its name when it is whole and durable, so a file without its last chunk was cut. One
//! that is written over an older checkpoint may go on behind its last chunk; what lies there is
//! never looked at. Every chunk names partition, slot and place: a chunk of another checkpoint, or
//! in another place, is damage.
//!
//! To a peer goes the payload of all chunks together, cut as the chunks are: part *n* is the
//! payload of chunk *n*. The last chunk says how long the whole is, and what its digest is.

use std::fmt;
use std::io;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::block::{BATCH_BLOCK_COUNT_MAX, Block};
use crate::base::cast::{u32_from, u64_from, usize_from_u32};
use crate::base::chain::Chain;
use crate::base::checksum::{Digest128, crc32_salted};
use crate::base::ids::{Index, PartitionId};
use crate::base::limits::{BLOCK_SIZE_BYTES, CHECKPOINT_CHUNK_SIZE_BYTES};
use crate::base::time::Timestamp;

/// What this release writes and reads.
const FORMAT_VERSION: u8 = 2;
const FLAG_LAST: u8 = 1;
const CHUNK_HEADER_SIZE_BYTES: usize = 48;
const HEAD_SIZE_BYTES: usize = 64;
/// The payload of a full chunk.
pub const PAYLOAD_SIZE_BYTES: usize =
    CHUNK_BLOCK_COUNT * BLOCK_SIZE_BYTES - CHUNK_HEADER_SIZE_BYTES;
/// Blocks of a full chunk.
pub const CHUNK_BLOCK_COUNT: usize = CHECKPOINT_CHUNK_SIZE_BYTES / BLOCK_SIZE_BYTES;

const _: () = assert!(size_of::<RawHeader>() == CHUNK_HEADER_SIZE_BYTES);
const _: () = assert!(size_of::<RawHead>() == HEAD_SIZE_BYTES);
// The head lies in the first chunk, and a chunk is no longer than a write may be.
const _: () = assert!(HEAD_SIZE_BYTES <= PAYLOAD_SIZE_BYTES);
const _: () = assert!(CHUNK_BLOCK_COUNT <= BATCH_BLOCK_COUNT_MAX);

/// Which checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckpointId {
    /// Whose state it is.
    pub partition: PartitionId,
    /// The last slot that it covers.
    pub index: Index,
}

/// What a checkpoint begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointHead {
    /// Which checkpoint.
    pub id: CheckpointId,
    /// The time of its slot.
    pub timestamp: Timestamp,
    /// The digest of the log there.
    pub chain: Chain,
    /// The digest of the state.
    pub digest: [u8; 16],
}

/// One write to a checkpoint's file.
#[derive(Debug)]
pub struct CheckpointChunk {
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What.
    pub blocks: Vec<Block>,
}

/// What is to be done with a shard's checkpoints. One is written at a time; all is done in order.
#[derive(Debug)]
pub enum CheckpointStep {
    /// Begin to write one. What was begun before and not finished is void.
    Begin(CheckpointId),
    /// Write a part of it; [`CheckpointProgress::Written`] follows.
    Write(CheckpointChunk),
    /// It is whole: make it durable and give it its name; [`CheckpointProgress::Finished`] follows.
    Finish,
    /// Nothing needs this finished one any more: its room may be used for others.
    Remove(CheckpointId),
    /// Read a part of a finished one; [`CheckpointProgress::Read`] follows.
    Read(CheckpointRead),
}

/// Blocks of a checkpoint's file that the host should read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointRead {
    /// Which checkpoint.
    pub id: CheckpointId,
    /// The number of the chunk.
    pub chunk: u32,
}

impl CheckpointRead {
    /// Where the chunk begins in the file, in bytes. It has up to [`CHUNK_BLOCK_COUNT`] blocks.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.chunk as u64 * u64_from(CHECKPOINT_CHUNK_SIZE_BYTES)
    }
}

/// Blocks of a checkpoint's file as they were read.
#[derive(Debug)]
pub struct CheckpointBlocks {
    /// What was asked for.
    pub read: CheckpointRead,
    /// What is there, fewer than a full chunk at the file's end; `None`: it can't be read.
    pub blocks: Option<Vec<Block>>,
}

/// What became of it.
#[derive(Debug)]
pub enum CheckpointProgress {
    /// A part was written; its memory comes back.
    Written(Vec<Block>),
    /// A part was read, or can't be.
    Read(CheckpointBlocks),
    /// It is durable, and has its name.
    Finished(CheckpointId),
    /// A step failed, for want of space as a rule. Nothing further is done until another begins.
    Failed(CheckpointId),
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    crc: U32,
    partition: U32,
    index: U64,
    number: U32,
    used: U32,
    flags: u8,
    version: u8,
    zeros: [u8; 6],
    digest: [u8; 16],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHead {
    timestamp: U64,
    chain: [u8; 16],
    digest: [u8; 16],
    zeros: [u8; 24],
}

/// The name of a checkpoint's file.
#[must_use]
pub fn checkpoint_file_name(id: CheckpointId) -> String {
    format!("{:05}-{:020}.ckpt", id.partition.0, id.index.0)
}

/// The checkpoint that a file name stands for; `None`: it is no checkpoint's.
#[must_use]
pub fn checkpoint_of_file_name(name: &str) -> Option<CheckpointId> {
    let (partition, index) = name.strip_suffix(".ckpt")?.split_once('-')?;
    let partition = PartitionId(partition.parse().ok()?);
    let id = CheckpointId { partition, index: Index(index.parse().ok()?) };
    (checkpoint_file_name(id) == name).then_some(id)
}

/// Cuts a state into chunks as it comes.
#[derive(Debug)]
pub struct CheckpointEncoder {
    id: CheckpointId,
    salt: u32,
    /// What isn't in a chunk yet.
    pending: Vec<u8>,
    chunk_count: u32,
    size_bytes: u64,
    /// Of the payload of all chunks.
    running: Digest128,
    /// The state has come to its end.
    ended: bool,
    /// So has the file.
    complete: bool,
}

impl CheckpointEncoder {
    /// The encoder of a checkpoint that begins with `head`. `salt`: that of the logs.
    #[must_use]
    pub fn new(salt: u32, head: &CheckpointHead) -> Self {
        let raw = RawHead {
            timestamp: U64::new(head.timestamp.0),
            chain: head.chain.0,
            digest: head.digest,
            zeros: [0; 24],
        };
        Self {
            id: head.id,
            salt,
            pending: raw.as_bytes().to_vec(),
            chunk_count: 0,
            size_bytes: 0,
            running: Digest128::default(),
            ended: false,
            complete: false,
        }
    }

    /// Which checkpoint it is.
    #[must_use]
    pub const fn id(&self) -> CheckpointId {
        self.id
    }

    /// Where the state goes, in pieces of any size.
    ///
    /// # Panics
    /// After [`CheckpointEncoder::end`].
    pub fn body(&mut self) -> &mut Vec<u8> {
        assert!(!self.ended, "nothing follows the end of a state");
        &mut self.pending
    }

    /// The state is complete.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Whether a chunk is ready.
    #[must_use]
    pub fn has_chunk(&self) -> bool {
        self.pending.len() > PAYLOAD_SIZE_BYTES || self.ended && !self.complete
    }

    /// The next chunk, if it is ready, in the memory of `blocks`.
    pub fn next_chunk(&mut self, mut blocks: Vec<Block>) -> Option<CheckpointChunk> {
        if !self.has_chunk() {
            return None;
        }
        let used = self.pending.len().min(PAYLOAD_SIZE_BYTES);
        let last = self.ended && used == self.pending.len();
        let block_count = (CHUNK_HEADER_SIZE_BYTES + used).div_ceil(BLOCK_SIZE_BYTES);
        blocks.clear();
        blocks.resize(block_count, Block::ZERO);
        self.running.update(&self.pending[..used]);
        let header = RawHeader {
            crc: U32::ZERO,
            partition: U32::new(self.id.partition.0),
            index: U64::new(self.id.index.0),
            number: U32::new(self.chunk_count),
            used: U32::new(u32_from(used)),
            flags: if last { FLAG_LAST } else { 0 },
            version: FORMAT_VERSION,
            zeros: [0; 6],
            digest: self.running.value().to_le_bytes(),
        };
        let bytes = blocks.as_mut_slice().as_mut_bytes();
        bytes[..CHUNK_HEADER_SIZE_BYTES].copy_from_slice(header.as_bytes());
        bytes[CHUNK_HEADER_SIZE_BYTES..][..used].copy_from_slice(&self.pending[..used]);
        let crc = crc32_salted(self.salt, &bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        self.pending.drain(..used);
        let offset = u64::from(self.chunk_count) * u64_from(CHECKPOINT_CHUNK_SIZE_BYTES);
        self.chunk_count += 1;
        self.size_bytes += u64_from(block_count * BLOCK_SIZE_BYTES);
        self.complete = last;
        Some(CheckpointChunk { offset, blocks })
    }

    /// Whether the last chunk was handed out.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Bytes of the chunks handed out.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

/// Checks the chunks of a checkpoint as they are read, and hands out its state.
#[derive(Debug)]
pub struct CheckpointDecoder {
    id: CheckpointId,
    salt: u32,
    head: Option<CheckpointHead>,
    chunk_count: u32,
    running: Digest128,
    complete: bool,
}

impl CheckpointDecoder {
    /// The decoder of the checkpoint `id`. `salt`: that of the logs.
    #[must_use]
    pub fn new(salt: u32, id: CheckpointId) -> Self {
        let running = Digest128::default();
        Self { id, salt, head: None, chunk_count: 0, running, complete: false }
    }

    /// Takes the next chunk: what lies in the file from where the last one ended, up to
    /// [`CHUNK_BLOCK_COUNT`] blocks. Returns its part of the state.
    ///
    /// # Errors
    /// If it isn't that chunk, or is damaged.
    pub fn chunk<'a>(&mut self, blocks: &'a [Block]) -> Result<&'a [u8], CheckpointError> {
        let number = self.chunk_count;
        let Chunk { payload, is_last, digest } = checked_chunk(self.salt, self.id, number, blocks)?;
        self.running.update(payload);
        if self.running.value() != digest {
            return Err(CheckpointError::Checksum { chunk: number });
        }
        self.chunk_count += 1;
        self.complete = is_last;
        if self.head.is_some() {
            return Ok(payload);
        }
        let bad = CheckpointError::Checksum { chunk: 0 };
        let (head, state) = CheckpointHead::decode(self.id, payload).ok_or(bad)?;
        self.head = Some(head);
        Ok(state)
    }

    /// What the checkpoint began with, once its first chunk was read.
    #[must_use]
    pub const fn head(&self) -> Option<&CheckpointHead> {
        self.head.as_ref()
    }

    /// Whether the last chunk was read.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.complete
    }
}

impl CheckpointHead {
    /// The head of a checkpoint out of the beginning of its payload, and the rest of that; `None`:
    /// it is too short.
    #[must_use]
    pub fn decode(id: CheckpointId, payload: &[u8]) -> Option<(Self, &[u8])> {
        let (raw, state) = RawHead::ref_from_prefix(payload).ok()?;
        let timestamp = Timestamp(raw.timestamp.get());
        let (chain, digest) = (Chain(raw.chain), raw.digest);
        Some((Self { id, timestamp, chain, digest }, state))
    }
}

/// A chunk of a checkpoint that is what was written.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// What it holds.
    pub payload: &'a [u8],
    /// Whether it is the last.
    pub is_last: bool,
    /// The digest of the payload up to its end, as it says.
    pub digest: u128,
}

/// Checks the chunk `number` of a checkpoint, and returns its payload, and whether it is the last.
///
/// # Errors
/// As [`checked_chunk`].
pub fn check_chunk(
    salt: u32,
    id: CheckpointId,
    number: u32,
    blocks: &[Block],
) -> Result<(&[u8], bool), CheckpointError> {
    checked_chunk(salt, id, number, blocks).map(|chunk| (chunk.payload, chunk.is_last))
}

/// Checks the chunk `number` of a checkpoint: what lies in its file from where the one before it
/// ends, up to [`CHUNK_BLOCK_COUNT`] blocks.
///
/// # Errors
/// If it isn't that chunk, or is damaged.
pub fn checked_chunk(
    salt: u32,
    id: CheckpointId,
    number: u32,
    blocks: &[Block],
) -> Result<Chunk<'_>, CheckpointError> {
    let bytes = blocks.as_bytes();
    let Ok((header, _)) = RawHeader::ref_from_prefix(bytes) else {
        return Err(CheckpointError::Cut { chunk: number });
    };
    let used = usize_from_u32(header.used.get());
    let size = CHUNK_HEADER_SIZE_BYTES.saturating_add(used).next_multiple_of(BLOCK_SIZE_BYTES);
    let bad = CheckpointError::Checksum { chunk: number };
    // A length that isn't one was not written so.
    let bytes = bytes.get(..size).ok_or(bad)?;
    if header.crc.get() != crc32_salted(salt, &bytes[4..]) {
        return Err(bad);
    }
    if header.version != FORMAT_VERSION {
        return Err(CheckpointError::Version { version: header.version });
    }
    let index = Index(header.index.get());
    let found = CheckpointId { partition: PartitionId(header.partition.get()), index };
    if found != id || header.number.get() != number {
        return Err(CheckpointError::Misplaced { chunk: number, found });
    }
    let last = header.flags & FLAG_LAST != 0;
    if !last && used != PAYLOAD_SIZE_BYTES {
        return Err(bad);
    }
    let payload = &bytes[CHUNK_HEADER_SIZE_BYTES..][..used];
    Ok(Chunk { payload, is_last: last, digest: u128::from_le_bytes(header.digest) })
}

/// Reads checkpoints; the files stay with the host.
pub trait CheckpointSource {
    /// Fills `blocks` from a checkpoint's file, beginning at an offset in bytes; returns how many
    /// whole blocks there were, fewer than asked for only at the file's end.
    ///
    /// # Errors
    /// If there is no such file, or the device can't read.
    fn read(&mut self, id: CheckpointId, offset: u64, blocks: &mut [Block]) -> io::Result<usize>;
}

/// Why a file isn't the checkpoint that it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file ends before its last chunk.
    Cut {
        /// The chunk that is missing.
        chunk: u32,
    },
    /// A chunk isn't what was written.
    Checksum {
        /// Which.
        chunk: u32,
    },
    /// A whole chunk of another checkpoint, or of another place.
    Misplaced {
        /// The chunk that should be there.
        chunk: u32,
        /// Of which checkpoint it is.
        found: CheckpointId,
    },
    /// A chunk in the format of a later release.
    Version {
        /// The format's version.
        version: u8,
    },
}

impl CheckpointError {
    /// Where in the file, in bytes.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        let chunk = match *self {
            Self::Cut { chunk } | Self::Checksum { chunk } | Self::Misplaced { chunk, .. } => chunk,
            Self::Version { .. } => 0,
        };
        chunk as u64 * u64_from(CHECKPOINT_CHUNK_SIZE_BYTES)
    }
}

impl fmt::Display for CheckpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut { chunk } => write!(f, "the file ends before its chunk {chunk}"),
            Self::Checksum { chunk } => write!(f, "chunk {chunk} has a wrong checksum"),
            Self::Misplaced { chunk, found } => {
                let CheckpointId { partition, index } = found;
                write!(
                    f,
                    "a chunk of partition {partition} at slot {index} stands in the place of chunk \
                     {chunk}"
                )
            }
            Self::Version { version } => {
                write!(f, "it has format {version}; this release reads {FORMAT_VERSION}")
            }
        }
    }
}

impl std::error::Error for CheckpointError {}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u32 = 77;
    const ID: CheckpointId = CheckpointId { partition: PartitionId(3), index: Index(900) };

    fn head() -> CheckpointHead {
        CheckpointHead { id: ID, timestamp: Timestamp(123), chain: Chain([5; 16]), digest: [9; 16] }
    }

    fn file(state: &[u8], piece_size: usize) -> Vec<Block> {
        let mut encoder = CheckpointEncoder::new(SALT, &head());
        let mut file = Vec::new();
        let mut take = |encoder: &mut CheckpointEncoder| {
            while let Some(chunk) = encoder.next_chunk(vec![Block([1; BLOCK_SIZE_BYTES])]) {
                assert_eq!(chunk.offset, u64_from(file.len() * BLOCK_SIZE_BYTES));
                file.extend(chunk.blocks);
            }
        };
        for piece in state.chunks(piece_size) {
            encoder.body().extend_from_slice(piece);
            take(&mut encoder);
        }
        encoder.end();
        take(&mut encoder);
        assert!(encoder.is_complete());
        assert_eq!(encoder.size_bytes(), u64_from(file.len() * BLOCK_SIZE_BYTES));
        file
    }

    fn read(id: CheckpointId, file: &[Block]) -> Result<Vec<u8>, CheckpointError> {
        let mut decoder = CheckpointDecoder::new(SALT, id);
        let mut state = Vec::new();
        for chunk in file.chunks(CHUNK_BLOCK_COUNT) {
            state.extend_from_slice(decoder.chunk(chunk)?);
            if decoder.is_complete() {
                assert_eq!(decoder.head(), Some(&head()));
                return Ok(state);
            }
        }
        decoder.chunk(&[]).map(<[u8]>::to_vec)
    }

    fn state(size: usize) -> Vec<u8> {
        (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    #[test]
    fn state_comes_back_whatever_its_size_and_pieces() {
        let full = PAYLOAD_SIZE_BYTES - HEAD_SIZE_BYTES;
        for size in [0, 1, full - 1, full, full + 1, 3 * CHECKPOINT_CHUNK_SIZE_BYTES] {
            for piece_size in [100, 64 << 10, 1 << 20] {
                let file = file(&state(size), piece_size);
                assert_eq!(read(ID, &file).unwrap(), state(size), "{size} {piece_size}");
            }
        }
    }

    #[test]
    fn what_lies_behind_the_last_chunk_is_not_looked_at() {
        let mut file = file(&state(10), 10);
        file.extend(vec![Block([0xEE; BLOCK_SIZE_BYTES]); 100]);
        assert_eq!(read(ID, &file).unwrap(), state(10));
    }

    #[test]
    fn flipped_byte_anywhere_is_found() {
        let file = file(&state(300_000), 100_000);
        for at in (0..file.as_slice().as_bytes().len()).step_by(997).chain(0..64) {
            let mut damaged = file.clone();
            damaged.as_mut_slice().as_mut_bytes()[at] ^= 0x10;
            read(ID, &damaged).unwrap_err();
        }
    }

    #[test]
    fn cut_file_lacks_its_last_chunk() {
        let file = file(&state(600_000), 100_000);
        for block_count in 0..file.len() {
            read(ID, &file[..block_count]).unwrap_err();
        }
        assert_eq!(
            read(ID, &file[..2 * CHUNK_BLOCK_COUNT]),
            Err(CheckpointError::Cut { chunk: 2 })
        );
    }

    #[test]
    fn chunk_of_another_checkpoint_or_place_is_found() {
        let file = file(&state(600_000), 100_000);
        let other = CheckpointId { index: Index(901), ..ID };
        let misplaced = CheckpointError::Misplaced { chunk: 0, found: ID };
        assert_eq!(read(other, &file), Err(misplaced));
        let mut swapped = file.clone();
        let (first, second) = swapped.split_at_mut(CHUNK_BLOCK_COUNT);
        second[..CHUNK_BLOCK_COUNT].clone_from_slice(first);
        assert_eq!(read(ID, &swapped), Err(CheckpointError::Misplaced { chunk: 1, found: ID }));
        let mut decoder = CheckpointDecoder::new(SALT + 1, ID);
        let error = decoder.chunk(&file[..CHUNK_BLOCK_COUNT]).unwrap_err();
        assert_eq!(error, CheckpointError::Checksum { chunk: 0 });
    }

    #[test]
    fn file_names_stand_for_checkpoints_and_nothing_else_does() {
        let name = checkpoint_file_name(ID);
        assert_eq!(name, "00003-00000000000000000900.ckpt");
        assert_eq!(checkpoint_of_file_name(&name), Some(ID));
        for other in ["3-900.ckpt", "00003-00000000000000000900.ckpt.new", "", "-.ckpt"] {
            assert_eq!(checkpoint_of_file_name(other), None, "{other}");
        }
    }
}
