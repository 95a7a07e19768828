//! What a shard leaves behind that found a broken invariant and stops: why, how its partitions
//! stood in memory, and the last slots of their logs. What was durable lies in the log itself; this
//! is the rest, for whoever has to find out what went wrong.
//!
//! ```text
//! "p2phalt\0" | version u32 | payload size u32 | crc32 of the payload u32 | payload
//! ```
//!
//! All numbers are little-endian. A dump is bounded by the number of partitions: of each at most
//! [`HALT_SLOT_COUNT_MAX`] slots are kept, and of each value [`HALT_VALUE_SIZE_BYTES_MAX`] bytes.

use std::error::Error;
use std::fmt;

use bytes::Bytes;

use crate::base::cast::{u32_from, usize_from_u32};
use crate::base::checksum::crc32;
use crate::base::ids::{BootEpoch, Index, MessageId, PartitionId, ShardId, TermId};
use crate::base::limits::{
    HALT_DUMP_SIZE_BYTES_MAX, HALT_REASON_SIZE_BYTES_MAX, HALT_SLOT_COUNT_MAX,
    HALT_VALUE_SIZE_BYTES_MAX, KEY_SLOT_COUNT, MEMBER_COUNT_MAX,
};
use crate::base::time::Timestamp;

const MAGIC: &[u8; 8] = b"p2phalt\0";
/// The only version that there is.
const VERSION: u32 = 1;
const HEAD_SIZE_BYTES: usize = MAGIC.len() + 12;

/// What [`HaltedPartition::positions`] are, in their order.
pub const POSITION_NAMES: [&str; 11] = [
    "view",
    "last_normal",
    "started",
    "base",
    "first",
    "last",
    "durable",
    "prepared",
    "sync_point",
    "applied",
    "commit",
];

/// A dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HaltDump {
    /// Whose it is.
    pub shard: ShardId,
    /// In which boot of the node.
    pub boot_epoch: BootEpoch,
    /// When.
    pub time: Timestamp,
    /// What was found to be wrong; a long text is cut.
    pub reason: String,
    /// How the partitions stood.
    pub partitions: Vec<HaltedPartition>,
}

/// How a partition stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HaltedPartition {
    /// Which.
    pub partition: PartitionId,
    /// What its replica was doing.
    pub status: HaltedStatus,
    /// Whether this node led it.
    pub is_leading: bool,
    /// Terms and watermarks: see [`POSITION_NAMES`].
    pub positions: [u64; POSITION_NAMES.len()],
    /// The chain digest at the last slot.
    pub chain: [u8; 16],
    /// The digest of the state.
    pub digest: [u8; 16],
    /// The highest life known of each member.
    pub crash_vector: Vec<u64>,
    /// The last slots in memory, ascending.
    pub slots: Vec<HaltedSlot>,
}

/// What a replica was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HaltedStatus {
    /// It was part of its view.
    Normal,
    /// It was between two views.
    ViewChange,
    /// It copied from others what it had lost.
    Recovering,
}

/// A slot of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HaltedSlot {
    /// Where.
    pub index: Index,
    /// The term that it was stamped in.
    pub term: TermId,
    /// Its number in that.
    pub message_id: MessageId,
    /// The sequencer's time.
    pub timestamp: Timestamp,
    /// The length of the command; 0: a no-op.
    pub size_bytes: u32,
    /// How the command begins.
    pub begin: Bytes,
}

/// Why a file is no dump that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HaltError {
    /// It is something else.
    NoDump,
    /// It is longer than a dump can be.
    TooLong,
    /// Only a later release can read it.
    VersionUnknown(u32),
    /// Its end is missing, or something follows it.
    Cut,
    /// It isn't what was written.
    Damaged,
}

impl fmt::Display for HaltError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDump => write!(f, "not the dump of a halted shard"),
            Self::TooLong => write!(f, "longer than {HALT_DUMP_SIZE_BYTES_MAX} bytes"),
            Self::VersionUnknown(version) => {
                write!(f, "a dump of version {version}; this release reads {VERSION}")
            }
            Self::Cut => write!(f, "a dump that isn't whole"),
            Self::Damaged => write!(f, "a dump that isn't what was written"),
        }
    }
}

impl Error for HaltError {}

impl HaltedStatus {
    const ALL: [Self; 3] = [Self::Normal, Self::ViewChange, Self::Recovering];

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::ViewChange => "view change",
            Self::Recovering => "recovering",
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Normal => 0,
            Self::ViewChange => 1,
            Self::Recovering => 2,
        }
    }
}

impl HaltDump {
    /// The file.
    ///
    /// # Panics
    /// If there is more of something than a dump may have.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        payload.extend(self.shard.0.to_le_bytes());
        payload.extend(self.boot_epoch.0.to_le_bytes());
        payload.extend(self.time.0.to_le_bytes());
        let mut end = self.reason.len().min(HALT_REASON_SIZE_BYTES_MAX);
        while !self.reason.is_char_boundary(end) {
            end -= 1;
        }
        put_bytes(&mut payload, &self.reason.as_bytes()[..end]);
        payload.extend(u32_from(self.partitions.len()).to_le_bytes());
        for partition in &self.partitions {
            partition.encode(&mut payload);
        }
        let mut file = Vec::with_capacity(HEAD_SIZE_BYTES + payload.len());
        file.extend(MAGIC);
        for number in [VERSION, u32_from(payload.len()), crc32(&payload)] {
            file.extend(number.to_le_bytes());
        }
        file.extend(payload);
        assert!(file.len() <= HALT_DUMP_SIZE_BYTES_MAX, "a dump is bounded");
        file
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it is no dump, or not a whole one.
    pub fn decode(file: &[u8]) -> Result<Self, HaltError> {
        if file.len() > HALT_DUMP_SIZE_BYTES_MAX {
            return Err(HaltError::TooLong);
        }
        let rest = file.strip_prefix(MAGIC).ok_or(HaltError::NoDump)?;
        let mut head = Reader(rest);
        let version = head.u32().ok_or(HaltError::Cut)?;
        if version != VERSION {
            return Err(HaltError::VersionUnknown(version));
        }
        let (size, checksum) =
            (head.u32().ok_or(HaltError::Cut)?, head.u32().ok_or(HaltError::Cut)?);
        if head.0.len() != usize_from_u32(size) {
            return Err(HaltError::Cut);
        }
        if crc32(head.0) != checksum {
            return Err(HaltError::Damaged);
        }
        let mut payload = head;
        let dump = Self::read(&mut payload).filter(|_| payload.0.is_empty());
        dump.ok_or(HaltError::Damaged)
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let shard = ShardId(u16::from_le_bytes(reader.array()?));
        let (boot_epoch, time) = (BootEpoch(reader.u64()?), Timestamp(reader.u64()?));
        let reason = std::str::from_utf8(reader.bytes(HALT_REASON_SIZE_BYTES_MAX)?).ok()?;
        let count = reader.count(usize_from_u32(KEY_SLOT_COUNT))?;
        let partitions =
            (0..count).map(|_| HaltedPartition::read(reader)).collect::<Option<_>>()?;
        Some(Self { shard, boot_epoch, time, reason: reason.to_owned(), partitions })
    }
}

impl HaltedPartition {
    fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.slots.len() <= HALT_SLOT_COUNT_MAX, "the slots of a dump are bounded");
        out.extend(self.partition.0.to_le_bytes());
        out.extend([self.status.number(), u8::from(self.is_leading)]);
        for position in self.positions {
            out.extend(position.to_le_bytes());
        }
        out.extend(self.chain);
        out.extend(self.digest);
        out.extend(u32_from(self.crash_vector.len()).to_le_bytes());
        for life in &self.crash_vector {
            out.extend(life.to_le_bytes());
        }
        out.extend(u32_from(self.slots.len()).to_le_bytes());
        for slot in &self.slots {
            let HaltedSlot { index, term, message_id, timestamp, size_bytes, begin } = slot;
            for number in [index.0, term.0, message_id.0, timestamp.0] {
                out.extend(number.to_le_bytes());
            }
            out.extend(size_bytes.to_le_bytes());
            put_bytes(out, &begin[..begin.len().min(HALT_VALUE_SIZE_BYTES_MAX)]);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let partition = PartitionId(reader.u32()?);
        let [status, is_leading] = reader.array()?;
        let status = HaltedStatus::ALL.into_iter().find(|known| known.number() == status)?;
        let mut positions = [0; POSITION_NAMES.len()];
        for position in &mut positions {
            *position = reader.u64()?;
        }
        let (chain, digest) = (reader.array()?, reader.array()?);
        let count = reader.count(MEMBER_COUNT_MAX)?;
        let crash_vector = (0..count).map(|_| reader.u64()).collect::<Option<_>>()?;
        let count = reader.count(HALT_SLOT_COUNT_MAX)?;
        let slots = (0..count).map(|_| HaltedSlot::read(reader)).collect::<Option<_>>()?;
        let is_leading = is_leading > 0;
        Some(Self { partition, status, is_leading, positions, chain, digest, crash_vector, slots })
    }
}

impl HaltedSlot {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            index: Index(reader.u64()?),
            term: TermId(reader.u64()?),
            message_id: MessageId(reader.u64()?),
            timestamp: Timestamp(reader.u64()?),
            size_bytes: reader.u32()?,
            begin: Bytes::copy_from_slice(reader.bytes(HALT_VALUE_SIZE_BYTES_MAX)?),
        })
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u32_from(bytes.len()).to_le_bytes());
    out.extend(bytes);
}

/// What is left of a dump.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn count(&mut self, count_max: usize) -> Option<usize> {
        self.u32().map(usize_from_u32).filter(|count| *count <= count_max)
    }

    fn bytes(&mut self, size_bytes_max: usize) -> Option<&'a [u8]> {
        let size_bytes = self.count(size_bytes_max)?;
        let (bytes, rest) = self.0.split_at_checked(size_bytes)?;
        self.0 = rest;
        Some(bytes)
    }
}

/// A slot of a dump, at most.
const SLOT_SIZE_BYTES_MAX: usize = 4 * 8 + 4 + 4 + HALT_VALUE_SIZE_BYTES_MAX;
/// A partition of a dump without its slots, at most.
const PARTITION_SIZE_BYTES_MAX: usize = 6 + 8 * POSITION_NAMES.len() + 40 + 8 * MEMBER_COUNT_MAX;

// Of a node with one shard, which has all partitions, everything fits.
const _: () = assert!(
    HEAD_SIZE_BYTES
        + 64
        + HALT_REASON_SIZE_BYTES_MAX
        + (KEY_SLOT_COUNT as usize)
            * (PARTITION_SIZE_BYTES_MAX + HALT_SLOT_COUNT_MAX * SLOT_SIZE_BYTES_MAX)
        <= HALT_DUMP_SIZE_BYTES_MAX
);

#[cfg(test)]
mod tests {
    use super::*;

    fn dump() -> HaltDump {
        let slot = |index| HaltedSlot {
            index: Index(index),
            term: TermId(3),
            message_id: MessageId(index - 1),
            timestamp: Timestamp(77),
            size_bytes: 9,
            begin: Bytes::from_static(b"beginning"),
        };
        let partition = |number| HaltedPartition {
            partition: PartitionId(number),
            status: HaltedStatus::ViewChange,
            is_leading: number > 4,
            positions: std::array::from_fn(crate::base::cast::u64_from),
            chain: [7; 16],
            digest: [8; 16],
            crash_vector: vec![1, 2, 3],
            slots: (2..6).map(slot).collect(),
        };
        HaltDump {
            shard: ShardId(2),
            boot_epoch: BootEpoch(9),
            time: Timestamp(1_000),
            reason: "partition 4: invariant I2 is broken".into(),
            partitions: vec![partition(4), partition(5)],
        }
    }

    #[test]
    fn dumps_are_read_as_they_were_written() {
        assert_eq!(HaltDump::decode(&dump().encode()), Ok(dump()));
        let long = HaltDump { reason: "ü".repeat(HALT_REASON_SIZE_BYTES_MAX), ..dump() };
        let read = HaltDump::decode(&long.encode()).expect("it was cut between two letters");
        assert!(long.reason.starts_with(&read.reason));
        assert!(read.reason.len() > HALT_REASON_SIZE_BYTES_MAX - 2);
    }

    #[test]
    fn cut_and_flipped_dumps_are_told_apart_from_whole_ones() {
        let file = dump().encode();
        for end in 0..file.len() {
            let expected = if end < MAGIC.len() { HaltError::NoDump } else { HaltError::Cut };
            assert_eq!(HaltDump::decode(&file[..end]), Err(expected), "cut at {end}");
        }
        for place in 0..file.len() * 8 {
            let mut flipped = file.clone();
            flipped[place / 8] ^= 1 << (place % 8);
            assert!(HaltDump::decode(&flipped).is_err(), "bit {place}");
        }
        let longer = [&file[..], b"x"].concat();
        assert_eq!(HaltDump::decode(&longer), Err(HaltError::Cut));
        let huge = vec![0; HALT_DUMP_SIZE_BYTES_MAX + 1];
        assert_eq!(HaltDump::decode(&huge), Err(HaltError::TooLong));
        let mut later = file;
        later[8] = 2;
        assert_eq!(HaltDump::decode(&later), Err(HaltError::VersionUnknown(2)));
    }
}
