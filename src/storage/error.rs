//! What can be wrong with a log. The variant says who is to blame: the device, whoever cut or
//! removed a file, or a defect; the text says where and what to do. A torn tail is no error.

use super::segment_name::segment_file_name;
use std::fmt;
use std::io;

use super::block::batch_name;
use super::codec::RecordError;
use super::state::StateError;
use crate::base::ids::{BatchId, BootEpoch, PartitionId, SegmentId, ShardId};

/// Why a shard's log can't be recovered. Nothing of it may be served then.
#[derive(Debug)]
#[non_exhaustive]
pub enum StorageError {
    /// The device couldn't read.
    Read {
        /// Which shard's log.
        shard: ShardId,
        /// Which segment.
        segment: SegmentId,
        /// Where, in bytes.
        offset: u64,
        /// What the device said.
        error: io::Error,
    },
    /// A segment's file is not as long as segments are: somebody cut it.
    Cut {
        /// Which shard's log.
        shard: ShardId,
        /// Which segment.
        segment: SegmentId,
        /// How long it is.
        size_bytes: u64,
        /// How long it was made.
        expected_size_bytes: u64,
    },
    /// A segment's file is gone.
    Missing {
        /// Which shard's log.
        shard: ShardId,
        /// Which segment.
        segment: SegmentId,
    },
    /// Two files claim to be the same segment.
    Duplicate {
        /// Which shard's log.
        shard: ShardId,
        /// Which segment.
        segment: SegmentId,
    },
    /// The log was written by a boot that the data directory knows nothing of: the directory, or
    /// part of it, went back in time.
    FromTheFuture {
        /// Which shard's log.
        shard: ShardId,
        /// Which segment.
        segment: SegmentId,
        /// The boot that wrote it.
        found: BootEpoch,
        /// This boot.
        boot_epoch: BootEpoch,
    },
    /// What is there isn't what was written.
    Damaged {
        /// Where.
        place: Place,
        /// In which way.
        damage: Damage,
    },
}

/// A place in a shard's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which shard's log.
    pub shard: ShardId,
    /// Which segment.
    pub segment: SegmentId,
    /// Where, in bytes.
    pub offset: u64,
    /// The batch that is there or should be.
    pub batch: BatchId,
}

/// In which way a log is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// A block whose batch is known to have been complete has a wrong checksum.
    BadBlock,
    /// Such a block was never written here, or only in the segment's former life: a lost write.
    LostWrite,
    /// A block that belongs elsewhere: a misdirected write.
    Misdirected {
        /// The shard to which it belongs.
        shard: ShardId,
        /// Its segment.
        segment: SegmentId,
        /// Its number there.
        number: u16,
    },
    /// Something lies where nothing can have been written yet.
    Stray,
    /// A block in the format of a later release.
    Version(u8),
    /// A record that doesn't decode although its blocks are whole.
    Record(RecordError),
    /// A record that doesn't follow from those before it.
    State(Option<PartitionId>, StateError),
    /// A segment that doesn't begin with a snapshot, or a snapshot elsewhere.
    Snapshot,
    /// The segments that a snapshot counts aren't those before it.
    Segments,
    /// A segment ends within a record.
    Unended,
    /// The snapshot is of other partitions than this shard has.
    Partitions,
    /// The device couldn't read it.
    Unreadable,
    /// The file isn't there, or not all of it.
    Missing,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadBlock => f.write_str("a block of a completed write has a wrong checksum"),
            Self::LostWrite => f.write_str("a block of a completed write is missing"),
            Self::Misdirected { shard, segment, number } => {
                write!(f, "a block of shard {shard}, segment {segment}, number {number} lies here")
            }
            Self::Stray => f.write_str("something lies where nothing can have been written yet"),
            Self::Version(version) => {
                write!(f, "a block of format version {version}, written by a later release")
            }
            Self::Record(error) => error.fmt(f),
            Self::State(Some(partition), error) => write!(f, "partition {partition}: {error}"),
            Self::State(None, error) => error.fmt(f),
            Self::Snapshot => f.write_str("a segment doesn't begin with its only snapshot"),
            Self::Segments => f.write_str("the segments counted aren't those that are there"),
            Self::Unended => f.write_str("the segment ends within a record"),
            Self::Unreadable => f.write_str("the device can't read it"),
            Self::Missing => f.write_str("the file isn't there, or not all of it"),
            Self::Partitions => f.write_str("the log is of other partitions than this shard's"),
        }
    }
}

const CURE: &str = "nothing of this log is served; `p2pmap log inspect` shows what is readable; \
                    restore the data directory from a backup, or remove it and let the node \
                    recover from the other members";

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = |shard: &ShardId, segment: &SegmentId| {
            format!("shard-{shard}/{}", segment_file_name(*segment))
        };
        match self {
            Self::Read { shard, segment, offset, error } => {
                let file = file(shard, segment);
                write!(f, "{file}: reading at byte {offset} failed: {error}; check the device")
            }
            Self::Cut { shard, segment, size_bytes, expected_size_bytes } => {
                let file = file(shard, segment);
                write!(f, "{file}: cut to {size_bytes} of {expected_size_bytes} bytes; {CURE}")
            }
            Self::Missing { shard, segment } => {
                write!(f, "{}: the file is missing; {CURE}", file(shard, segment))
            }
            Self::Duplicate { shard, segment } => {
                let file = file(shard, segment);
                write!(f, "{file}: another file says that it is this segment; {CURE}")
            }
            Self::FromTheFuture { shard, segment, found, boot_epoch } => {
                let file = file(shard, segment);
                write!(
                    f,
                    "{file}: written by boot {found}, but this is boot {boot_epoch}: the data \
                     directory was restored in part; {CURE}"
                )
            }
            Self::Damaged { place, damage } => {
                let Place { shard, segment, offset, batch } = place;
                let file = file(shard, segment);
                let batch = batch_name(*batch);
                write!(f, "{file}: damaged at byte {offset}, batch {batch}: {damage}; {CURE}")
            }
        }
    }
}

impl StorageError {
    /// What is damaged, and where; `None`: this isn't damage, but a log of another release, of
    /// other partitions or from another time, of which nothing may be touched.
    #[must_use]
    pub fn damage(&self) -> Option<(Place, Damage)> {
        let (batch, whole) = (BatchId(0), 0);
        let at = |shard: &ShardId, segment: &SegmentId, offset: u64| Place {
            shard: *shard,
            segment: *segment,
            offset,
            batch,
        };
        match self {
            Self::Read { shard, segment, offset, .. } => {
                Some((at(shard, segment, *offset), Damage::Unreadable))
            }
            Self::Cut { shard, segment, size_bytes, .. } => {
                Some((at(shard, segment, *size_bytes), Damage::Missing))
            }
            Self::Missing { shard, segment } => Some((at(shard, segment, whole), Damage::Missing)),
            Self::Duplicate { shard, segment } => {
                Some((at(shard, segment, whole), Damage::Segments))
            }
            Self::FromTheFuture { .. }
            | Self::Damaged { damage: Damage::Version(_) | Damage::Partitions, .. } => None,
            Self::Damaged { place, damage } => Some((*place, *damage)),
        }
    }
}

impl std::error::Error for StorageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { error, .. } => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_names_file_offset_and_cure() {
        let place = Place {
            shard: ShardId(3),
            segment: SegmentId(12),
            offset: 8_192,
            batch: BatchId((2 << 40) + 77),
        };
        let text = StorageError::Damaged { place, damage: Damage::BadBlock }.to_string();
        for part in ["shard-3/000000000012.log", "8192", "2.77", "checksum", "log inspect"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
