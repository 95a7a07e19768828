//! Records as bytes: `length varint | kind u8 | fields`, the length counting kind and fields.
//! Numbers are varints in their shortest form (LEB128), times 8 bytes little-endian (a varint of
//! them would be longer), digests as they are; a value is whatever remains.
//!
//! Decoding is strict: an unknown kind, a length beyond the limit, a number in a longer form than
//! needed, a byte too few or too many is an error, never a guess.

use std::fmt;

use super::record::{Adopted, Entry, LiveSegment, PartitionSnapshot, Record, ShardSnapshot};
use crate::base::cast::u64_from;
use crate::base::ids::{
    BatchId, BootEpoch, Incarnation, Index, MessageId, PartitionId, SegmentId, TermId,
};
use crate::base::limits::{
    COMMAND_SIZE_BYTES_MAX, MEMBER_COUNT_MAX, PARTITION_COUNT_MAX, SEGMENT_SIZE_BYTES_MIN,
};
use crate::base::time::Timestamp;

/// The longest record without its length: a snapshot of all partitions, or the longest command.
pub const RECORD_SIZE_BYTES_MAX: usize = 7 << 19;

/// All of a record but the value of an entry and the body of a snapshot.
const HEAD_SIZE_BYTES_MAX: usize = 160;
const LENGTH_SIZE_BYTES_MAX: usize = 4;
const VARINT_SIZE_BYTES_MAX: usize = 10;
/// A partition's number.
const PARTITION_SIZE_BYTES_MAX: usize = 5;
/// A chain, a partition, a flag, a count of members, and numbers.
const PARTITION_SNAPSHOT_SIZE_BYTES_MAX: usize =
    16 + PARTITION_SIZE_BYTES_MAX + 2 + VARINT_SIZE_BYTES_MAX * (10 + MEMBER_COUNT_MAX);

// A length fits its varint; the longest command fits a record; a crash vector fits a head; a
// snapshot of the most partitions fits a record; a segment takes a snapshot and any record.
const _: () = assert!(RECORD_SIZE_BYTES_MAX < 1 << (7 * LENGTH_SIZE_BYTES_MAX));
const _: () = assert!(COMMAND_SIZE_BYTES_MAX + HEAD_SIZE_BYTES_MAX <= RECORD_SIZE_BYTES_MAX);
const _: () =
    assert!(VARINT_SIZE_BYTES_MAX * (4 + MEMBER_COUNT_MAX) + 16 + 8 < HEAD_SIZE_BYTES_MAX);
const _: () = assert!(SEGMENT_SIZE_BYTES_MIN >= 2 * RECORD_SIZE_BYTES_MAX);
const _: () = assert!(
    PARTITION_SNAPSHOT_SIZE_BYTES_MAX * (PARTITION_COUNT_MAX as usize) <= RECORD_SIZE_BYTES_MAX
);

mod kind {
    pub(super) const ENTRY: u8 = 1;
    pub(super) const NO_OP: u8 = 2;
    pub(super) const VIEW: u8 = 3;
    pub(super) const STAGE: u8 = 4;
    pub(super) const ADOPT: u8 = 5;
    pub(super) const SYNC_POINT: u8 = 6;
    pub(super) const CHECKPOINT_DONE: u8 = 7;
    pub(super) const CRASH_VECTOR: u8 = 8;
    pub(super) const CARRY: u8 = 9;
    pub(super) const OPEN_BOOT: u8 = 10;
    pub(super) const CLOSE_BOOT: u8 = 11;
    // 12 was a snapshot without counts of records, 13 one that didn't say whether its boot acts
    // early.
    pub(super) const INSTALL: u8 = 14;
    pub(super) const SNAPSHOT: u8 = 15;
}

/// Why bytes are no record. They were whole when they were written (their blocks' checksums fit),
/// so this is a defect of the writer or a later release's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordError {
    /// A kind that this release doesn't know.
    Kind(u8),
    /// A length of zero or beyond the limit.
    Length,
    /// The record ends within a field.
    Short,
    /// Bytes are left after the last field.
    Trailing,
    /// A number is too large for its field or not in its shortest form.
    Number,
    /// An entry without a value.
    NoValue,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(kind) => write!(f, "a record of the unknown kind {kind}"),
            Self::Length => f.write_str("a record of an impossible length"),
            Self::Short => f.write_str("a record that ends within a field"),
            Self::Trailing => f.write_str("a record with bytes left over"),
            Self::Number => f.write_str("a record with a number out of range"),
            Self::NoValue => f.write_str("an entry without a value"),
        }
    }
}

impl std::error::Error for RecordError {}

/// A record ready to be copied out: length, kind and fields in one piece, and the value, which is
/// not copied until then.
pub(super) struct Frame<'a> {
    head: [u8; LENGTH_SIZE_BYTES_MAX + HEAD_SIZE_BYTES_MAX],
    begin: usize,
    end: usize,
    value: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Everything but the value.
    pub(super) fn head(&self) -> &[u8] {
        &self.head[self.begin..self.end]
    }

    /// The value of an entry; otherwise empty.
    pub(super) const fn value(&self) -> &'a [u8] {
        self.value
    }

    pub(super) const fn len(&self) -> usize {
        self.end - self.begin + self.value.len()
    }

    /// By reference throughout: moving a frame costs more than filling it.
    #[inline]
    const fn new(kind: u8) -> Self {
        let mut head = [0; LENGTH_SIZE_BYTES_MAX + HEAD_SIZE_BYTES_MAX];
        head[LENGTH_SIZE_BYTES_MAX] = kind;
        Self { head, begin: LENGTH_SIZE_BYTES_MAX, end: LENGTH_SIZE_BYTES_MAX + 1, value: &[] }
    }

    #[inline]
    fn number(&mut self, mut value: u64) {
        let rest = &mut self.head[self.end..];
        let mut size = 0;
        for byte in rest {
            size += 1;
            if value < 0x80 {
                *byte = value.to_le_bytes()[0];
                break;
            }
            *byte = value.to_le_bytes()[0] | 0x80;
            value >>= 7;
        }
        self.end += size;
    }

    #[inline]
    fn partition(&mut self, partition: PartitionId) {
        self.number(partition.0.into());
    }

    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        self.head[self.end..][..bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    #[inline]
    fn entry(&mut self, entry: &Entry<'a>) {
        self.partition(entry.partition);
        self.number(entry.index.0);
        self.number(entry.term.0);
        self.number(entry.message_id.0);
        self.bytes(&entry.timestamp.0.to_le_bytes());
        self.value = entry.value;
    }

    fn adopted(&mut self, adopted: Option<&Adopted>) {
        self.bytes(&[u8::from(adopted.is_some())]);
        if let Some(Adopted { term, base, chain }) = adopted {
            self.number(term.0);
            self.number(base.0);
            self.bytes(chain);
        }
    }

    /// Puts the length, right-aligned, before the kind; `more` bytes follow the frame.
    #[inline]
    fn finish(&mut self, more: usize) {
        let mut size = self.len() + more;
        assert!(size <= RECORD_SIZE_BYTES_MAX, "a record is longer than the limit");
        let size_size = match size {
            0..0x80 => 1,
            0x80..0x4000 => 2,
            0x4000..0x20_0000 => 3,
            _ => LENGTH_SIZE_BYTES_MAX,
        };
        self.begin -= size_size;
        for position in self.begin..LENGTH_SIZE_BYTES_MAX {
            let more_follow = position + 1 < LENGTH_SIZE_BYTES_MAX;
            let bits = size.to_le_bytes()[0] & 0x7F;
            self.head[position] = if more_follow { bits | 0x80 } else { bits };
            size >>= 7;
        }
    }
}

/// Frames any record but a snapshot, which is of no fixed size: see [`encode_snapshot`].
///
/// # Panics
/// If it is a snapshot, an entry without a value or a record longer than the limit.
#[inline]
pub(super) fn frame<'a>(record: &Record<'a>) -> Frame<'a> {
    let mut frame = Frame::new(kind_of(record));
    match record {
        Record::Entry(entry) => {
            assert!(!entry.value.is_empty(), "an entry has a value");
            frame.entry(entry);
        }
        Record::NoOp { partition, index, term, message_id } => {
            frame.partition(*partition);
            frame.number(index.0);
            frame.number(term.0);
            frame.number(message_id.0);
        }
        Record::View { partition, term } => {
            frame.partition(*partition);
            frame.number(term.0);
        }
        Record::Stage { adopting, entry } => {
            frame.number(adopting.0);
            frame.entry(entry);
        }
        Record::Adopt { partition, term, base, kept, chain } => {
            frame.partition(*partition);
            frame.number(term.0);
            frame.number(base.0);
            frame.number(kept.0);
            frame.bytes(chain);
        }
        Record::SyncPoint { partition, index } => {
            frame.partition(*partition);
            frame.number(index.0);
        }
        Record::CheckpointDone { partition, index, size_bytes, digest } => {
            frame.partition(*partition);
            frame.number(index.0);
            frame.number(*size_bytes);
            frame.bytes(digest);
        }
        Record::Install { partition, index, size_bytes, digest, kept, adopted } => {
            frame.partition(*partition);
            frame.number(index.0);
            frame.number(*size_bytes);
            frame.bytes(digest);
            frame.number(kept.0);
            frame.adopted(adopted.as_ref());
        }
        Record::CrashVector { partition, incarnation, crash_vector, is_recovering } => {
            assert!(crash_vector.len() <= MEMBER_COUNT_MAX);
            frame.partition(*partition);
            frame.number(incarnation.0);
            frame.number(u64_from(crash_vector.len()));
            for incarnation in crash_vector {
                frame.number(incarnation.0);
            }
            frame.number(u64::from(*is_recovering));
        }
        Record::Carry(entry) => frame.entry(entry),
        Record::OpenBoot { boot_epoch, clean } => {
            frame.number(boot_epoch.0);
            frame.bytes(&[u8::from(*clean)]);
        }
        Record::CloseBoot { boot_epoch } => frame.number(boot_epoch.0),
        Record::Snapshot(_) => unreachable!("a snapshot is encoded by encode_snapshot"),
    }
    frame.finish(0);
    frame
}

const fn kind_of(record: &Record<'_>) -> u8 {
    match record {
        Record::Entry(_) => kind::ENTRY,
        Record::NoOp { .. } => kind::NO_OP,
        Record::View { .. } => kind::VIEW,
        Record::Stage { .. } => kind::STAGE,
        Record::Adopt { .. } => kind::ADOPT,
        Record::SyncPoint { .. } => kind::SYNC_POINT,
        Record::CheckpointDone { .. } => kind::CHECKPOINT_DONE,
        Record::Install { .. } => kind::INSTALL,
        Record::CrashVector { .. } => kind::CRASH_VECTOR,
        Record::Carry(_) => kind::CARRY,
        Record::OpenBoot { .. } => kind::OPEN_BOOT,
        Record::CloseBoot { .. } => kind::CLOSE_BOOT,
        Record::Snapshot(_) => kind::SNAPSHOT,
    }
}

/// Appends a snapshot's record to `into`.
///
/// # Panics
/// If it is longer than the limit.
pub(super) fn encode_snapshot(snapshot: &ShardSnapshot, into: &mut Vec<u8>) {
    let begin = into.len();
    put_number(into, snapshot.boot_epoch.0);
    into.push(snapshot.acts_early.into());
    put_number(into, u64_from(snapshot.segments.len()));
    for live in &snapshot.segments {
        put_number(into, live.segment.0);
        put_number(into, live.last_batch.0);
    }
    put_number(into, u64_from(snapshot.partitions.len()));
    for partition in &snapshot.partitions {
        put_partition(into, partition);
    }
    let mut head = Frame::new(kind::SNAPSHOT);
    head.finish(into.len() - begin);
    into.splice(begin..begin, head.head().iter().copied());
}

fn put_partition(into: &mut Vec<u8>, partition: &PartitionSnapshot) {
    assert!(partition.crash_vector.len() <= MEMBER_COUNT_MAX);
    for number in [
        partition.partition.0.into(),
        partition.view.0,
        partition.last_normal.0,
        partition.base.0,
        partition.sync_point.0,
        partition.checkpoint.0,
        partition.first.0,
        partition.last.0,
        partition.incarnation.0,
        partition.record_count,
        partition.begins.0,
        u64_from(partition.crash_vector.len()),
    ] {
        put_number(into, number);
    }
    for incarnation in &partition.crash_vector {
        put_number(into, incarnation.0);
    }
    into.extend_from_slice(&partition.chain);
    into.push(partition.is_recovering.into());
}

fn put_number(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    into.push(value.to_le_bytes()[0]);
}

/// Appends any record to `into`.
///
/// # Panics
/// If an entry has no value, or the record is longer than the limit.
pub fn encode(record: &Record<'_>, into: &mut Vec<u8>) {
    if let Record::Snapshot(snapshot) = record {
        encode_snapshot(snapshot, into);
    } else {
        let frame = frame(record);
        into.extend_from_slice(frame.head());
        into.extend_from_slice(frame.value());
    }
}

/// The first record of `stream` and how long it is with its length; `None`: more bytes are needed.
///
/// # Errors
/// If the bytes are no record.
pub fn decode(stream: &[u8]) -> Result<Option<(Record<'_>, usize)>, RecordError> {
    let mut reader = Reader { rest: stream };
    let size = match reader.number() {
        Ok(size) => size,
        Err(RecordError::Short) if stream.len() < LENGTH_SIZE_BYTES_MAX => return Ok(None),
        Err(_) => return Err(RecordError::Length),
    };
    let size = usize::try_from(size).map_err(|_| RecordError::Length)?;
    if size == 0 || size > RECORD_SIZE_BYTES_MAX {
        return Err(RecordError::Length);
    }
    let Some(body) = reader.rest.get(..size) else { return Ok(None) };
    let record = decode_body(body)?;
    Ok(Some((record, stream.len() - reader.rest.len() + size)))
}

fn decode_body(body: &[u8]) -> Result<Record<'_>, RecordError> {
    let mut reader = Reader { rest: body };
    let kind = reader.byte()?;
    let record = match kind {
        kind::ENTRY => {
            let entry = reader.entry()?;
            if entry.value.is_empty() {
                return Err(RecordError::NoValue);
            }
            Record::Entry(entry)
        }
        kind::NO_OP => Record::NoOp {
            partition: reader.partition()?,
            index: reader.number().map(Index)?,
            term: reader.number().map(TermId)?,
            message_id: reader.number().map(MessageId)?,
        },
        kind::VIEW => {
            Record::View { partition: reader.partition()?, term: reader.number().map(TermId)? }
        }
        kind::STAGE => {
            Record::Stage { adopting: reader.number().map(TermId)?, entry: reader.entry()? }
        }
        kind::ADOPT => Record::Adopt {
            partition: reader.partition()?,
            term: reader.number().map(TermId)?,
            base: reader.number().map(Index)?,
            kept: reader.number().map(Index)?,
            chain: reader.array()?,
        },
        kind::SYNC_POINT => {
            Record::SyncPoint { partition: reader.partition()?, index: reader.number().map(Index)? }
        }
        kind::CHECKPOINT_DONE => Record::CheckpointDone {
            partition: reader.partition()?,
            index: reader.number().map(Index)?,
            size_bytes: reader.number()?,
            digest: reader.array()?,
        },
        kind::INSTALL => Record::Install {
            partition: reader.partition()?,
            index: reader.number().map(Index)?,
            size_bytes: reader.number()?,
            digest: reader.array()?,
            kept: reader.number().map(Index)?,
            adopted: reader.adopted()?,
        },
        kind::CRASH_VECTOR => Record::CrashVector {
            partition: reader.partition()?,
            incarnation: reader.number().map(Incarnation)?,
            crash_vector: reader.crash_vector()?,
            is_recovering: reader.flag()?,
        },
        kind::CARRY => Record::Carry(reader.entry()?),
        kind::OPEN_BOOT => {
            Record::OpenBoot { boot_epoch: reader.number().map(BootEpoch)?, clean: reader.flag()? }
        }
        kind::CLOSE_BOOT => Record::CloseBoot { boot_epoch: reader.number().map(BootEpoch)? },
        kind::SNAPSHOT => Record::Snapshot(reader.snapshot()?),
        unknown => return Err(RecordError::Kind(unknown)),
    };
    if reader.rest.is_empty() { Ok(record) } else { Err(RecordError::Trailing) }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, RecordError> {
        let (&first, rest) = self.rest.split_first().ok_or(RecordError::Short)?;
        self.rest = rest;
        Ok(first)
    }

    fn flag(&mut self) -> Result<bool, RecordError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(RecordError::Number),
        }
    }

    fn array<const SIZE: usize>(&mut self) -> Result<[u8; SIZE], RecordError> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(RecordError::Short)?;
        self.rest = rest;
        Ok(*array)
    }

    fn number(&mut self) -> Result<u64, RecordError> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if (bits << shift) >> shift != bits || (byte == 0 && shift > 0) {
                return Err(RecordError::Number);
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(RecordError::Number)
    }

    fn partition(&mut self) -> Result<PartitionId, RecordError> {
        let number = self.number()?;
        u32::try_from(number).map(PartitionId).map_err(|_| RecordError::Number)
    }

    /// An entry: its value is all that remains.
    fn entry(&mut self) -> Result<Entry<'a>, RecordError> {
        Ok(Entry {
            partition: self.partition()?,
            index: self.number().map(Index)?,
            term: self.number().map(TermId)?,
            message_id: self.number().map(MessageId)?,
            timestamp: Timestamp(u64::from_le_bytes(self.array()?)),
            value: std::mem::take(&mut self.rest),
        })
    }

    /// The view that is adopted with a checkpoint, if one is.
    fn adopted(&mut self) -> Result<Option<Adopted>, RecordError> {
        if !self.flag()? {
            return Ok(None);
        }
        Ok(Some(Adopted {
            term: self.number().map(TermId)?,
            base: self.number().map(Index)?,
            chain: self.array()?,
        }))
    }

    /// How many items of at least `size_bytes` follow; more than there are bytes is an error before
    /// anything is allocated for them.
    fn count(&mut self, size_bytes: usize) -> Result<usize, RecordError> {
        let count = usize::try_from(self.number()?).map_err(|_| RecordError::Number)?;
        if count > self.rest.len() / size_bytes { Err(RecordError::Short) } else { Ok(count) }
    }

    fn crash_vector(&mut self) -> Result<Vec<Incarnation>, RecordError> {
        let count = self.count(1)?;
        if count > MEMBER_COUNT_MAX {
            return Err(RecordError::Number);
        }
        (0..count).map(|_| self.number().map(Incarnation)).collect()
    }

    fn snapshot(&mut self) -> Result<ShardSnapshot, RecordError> {
        let boot_epoch = self.number().map(BootEpoch)?;
        let acts_early = self.flag()?;
        let segments = (0..self.count(2)?)
            .map(|_| {
                Ok(LiveSegment {
                    segment: self.number().map(SegmentId)?,
                    last_batch: self.number().map(BatchId)?,
                })
            })
            .collect::<Result<_, _>>()?;
        let partitions =
            (0..self.count(29)?).map(|_| self.partition_snapshot()).collect::<Result<_, _>>()?;
        Ok(ShardSnapshot { boot_epoch, acts_early, segments, partitions })
    }

    fn partition_snapshot(&mut self) -> Result<PartitionSnapshot, RecordError> {
        Ok(PartitionSnapshot {
            partition: self.partition()?,
            view: self.number().map(TermId)?,
            last_normal: self.number().map(TermId)?,
            base: self.number().map(Index)?,
            sync_point: self.number().map(Index)?,
            checkpoint: self.number().map(Index)?,
            first: self.number().map(Index)?,
            last: self.number().map(Index)?,
            incarnation: self.number().map(Incarnation)?,
            record_count: self.number()?,
            begins: self.number().map(SegmentId)?,
            crash_vector: self.crash_vector()?,
            chain: self.array()?,
            is_recovering: self.flag()?,
        })
    }
}

#[cfg(test)]
mod tests;
