//! One entry in memory: an immutable run of bytes.
//!
//! ```text
//! version 8 | updated_ms 6 | flags 1 | map id | key length | value length | [age in ms]
//! | [time to live in ms] | key | value
//! ```
//!
//! Fixed fields are little-endian, the others LEB128 varints. `age` is how long before its last
//! write the key came to be; it is left out where that is 0, which is the case until a value is
//! replaced. The time to live is from the last write on, and left out where there is none. With a
//! key of 16 and a value of 64 bytes a record takes 98 bytes, and its header and key lie within 34.
//!
//! Flags that are not assigned yet are zero and are checked to be.

use crate::base::{
    cast::{low_u64, u64_from, usize_from},
    ids::Index,
};
use crate::proto::reader::varint_size_bytes;

/// A member's own number for one life of a named map: it ends when the map is cleared. Never leaves
/// the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MapId(pub(super) u32);

/// Version, time and flags.
const HEAD_SIZE_BYTES: usize = 15;
/// The record has an age.
const FLAG_AGE: u8 = 1;
/// The record says that the key was removed by a command that may yet be undone.
const FLAG_REMOVED: u8 = 2;
/// The record has a time to live.
const FLAG_TTL: u8 = 4;
const FLAGS: u8 = FLAG_AGE | FLAG_REMOVED | FLAG_TTL;
/// Milliseconds fit six bytes until the year 10889, nanoseconds since 1970 fit `u64` until 2554.
pub(super) const MS_MAX: u64 = (1 << 48) - 1;
const _: () = assert!(u64::MAX / crate::base::time::NS_PER_MS <= MS_MAX);

/// What a new record is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewRecord<'a> {
    /// The life of the map that it belongs to.
    pub(super) map: MapId,
    /// The index of the command that wrote it.
    pub(super) version: Index,
    /// When the key came to be; not after `updated_ms`.
    pub(super) created_ms: u64,
    /// The time of the command.
    pub(super) updated_ms: u64,
    /// How long after `updated_ms` it expires; 0: never.
    pub(super) ttl_ms: u64,
    /// Whether it stands for a removal; it has no value then.
    pub(super) removed: bool,
    /// The key.
    pub(super) key: &'a [u8],
    /// The value.
    pub(super) value: &'a [u8],
}

/// What a record's size follows from.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordSize {
    /// The life of the map that it belongs to.
    pub(super) map: MapId,
    /// How long before its last write the key came to be.
    pub(super) age_ms: u64,
    /// How long after its last write it expires; 0: never.
    pub(super) ttl_ms: u64,
    /// The key's length.
    pub(super) key_size_bytes: usize,
    /// The value's length.
    pub(super) value_size_bytes: usize,
}

/// How many bytes a record takes.
#[inline]
pub(super) const fn record_size_bytes(size: &RecordSize) -> usize {
    let RecordSize { map, age_ms, ttl_ms, key_size_bytes, value_size_bytes } = *size;
    HEAD_SIZE_BYTES
        + varint_size_bytes(map.0 as u64)
        + varint_size_bytes(u64_from(key_size_bytes))
        + varint_size_bytes(u64_from(value_size_bytes))
        + if age_ms == 0 { 0 } else { varint_size_bytes(age_ms) }
        + if ttl_ms == 0 { 0 } else { varint_size_bytes(ttl_ms) }
        + key_size_bytes
        + value_size_bytes
}

impl NewRecord<'_> {
    const fn age_ms(&self) -> u64 {
        // The sequencer's timestamps don't go back; if they ever did, a key would look newborn.
        self.updated_ms.saturating_sub(self.created_ms)
    }

    /// How many bytes [`NewRecord::write`] fills.
    #[inline]
    pub(super) fn size_bytes(&self) -> usize {
        record_size_bytes(&RecordSize {
            map: self.map,
            age_ms: self.age_ms(),
            ttl_ms: self.ttl_ms,
            key_size_bytes: self.key.len(),
            value_size_bytes: self.value.len(),
        })
    }

    /// Writes the record to the beginning of `out`.
    ///
    /// # Panics
    /// If `out` is shorter than [`NewRecord::size_bytes`].
    #[inline]
    pub(super) fn write(&self, out: &mut [u8]) {
        debug_assert!(self.updated_ms <= MS_MAX, "milliseconds exceed six bytes");
        let age_ms = self.age_ms();
        let flags = if age_ms == 0 { 0 } else { FLAG_AGE }
            | if self.removed { FLAG_REMOVED } else { 0 }
            | if self.ttl_ms == 0 { 0 } else { FLAG_TTL };
        out[..8].copy_from_slice(&self.version.0.to_le_bytes());
        out[8..14].copy_from_slice(&self.updated_ms.to_le_bytes()[..6]);
        out[14] = flags;
        let mut at = HEAD_SIZE_BYTES;
        at = write_varint(out, at, u64::from(self.map.0));
        at = write_varint(out, at, u64_from(self.key.len()));
        at = write_varint(out, at, u64_from(self.value.len()));
        if age_ms != 0 {
            at = write_varint(out, at, age_ms);
        }
        if self.ttl_ms != 0 {
            at = write_varint(out, at, self.ttl_ms);
        }
        let (key, rest) = out[at..].split_at_mut(self.key.len());
        key.copy_from_slice(self.key);
        rest[..self.value.len()].copy_from_slice(self.value);
    }
}

/// A record as it is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    /// The life of the map that it belongs to.
    pub(super) map: MapId,
    /// The index of the command that wrote it.
    pub(super) version: Index,
    /// When the key came to be.
    pub(super) created_ms: u64,
    /// The time of the last write.
    pub(super) updated_ms: u64,
    /// How long after the last write it expires; 0: never.
    pub(super) ttl_ms: u64,
    /// Whether it stands for a removal.
    pub(super) removed: bool,
    /// Key and value, one after the other.
    body: &'a [u8],
    key_len: usize,
}

impl<'a> Record<'a> {
    /// Reads the record at the beginning of `bytes`; what follows it is ignored.
    ///
    /// # Panics
    /// If there is none: the arena hands out only what was written.
    // Most callers look at some of it only, and what they don't look at need not be read.
    #[inline(always)]
    pub(super) fn read(bytes: &'a [u8]) -> Self {
        let (head, mut rest) =
            bytes.split_first_chunk::<HEAD_SIZE_BYTES>().expect("a record has a whole head");
        let head = {
            let mut wide = [0; 16];
            wide[..HEAD_SIZE_BYTES].copy_from_slice(head);
            u128::from_le_bytes(wide)
        };
        let version = Index(low_u64(head));
        let updated_ms = low_u64(head >> 64) & MS_MAX;
        let flags = low_u64(head >> 112);
        debug_assert_eq!(flags & !u64::from(FLAGS), 0, "unknown record flags");
        let map = MapId(crate::base::cast::low_u32(take_varint(&mut rest)));
        let key_len = usize_from(take_varint(&mut rest));
        let value_len = usize_from(take_varint(&mut rest));
        let has_age = flags & u64::from(FLAG_AGE) != 0;
        let age_ms = if has_age { take_varint(&mut rest) } else { 0 };
        let has_ttl = flags & u64::from(FLAG_TTL) != 0;
        let ttl_ms = if has_ttl { take_varint(&mut rest) } else { 0 };
        Self {
            map,
            version,
            created_ms: updated_ms - age_ms,
            updated_ms,
            ttl_ms,
            removed: flags & u64::from(FLAG_REMOVED) != 0,
            body: &rest[..key_len + value_len],
            key_len,
        }
    }

    /// From when on it is hidden, if it has a time to live.
    #[inline]
    pub(super) const fn expires_ms(&self) -> Option<u64> {
        if self.ttl_ms == 0 { None } else { Some(self.updated_ms + self.ttl_ms) }
    }

    /// Whether it is hidden at `now_ms`.
    #[inline]
    pub(super) const fn is_expired(&self, now_ms: u64) -> bool {
        self.ttl_ms != 0 && self.updated_ms + self.ttl_ms <= now_ms
    }

    /// The key.
    #[inline]
    pub(super) fn key(&self) -> &'a [u8] {
        &self.body[..self.key_len]
    }

    /// The value.
    #[inline]
    pub(super) fn value(&self) -> &'a [u8] {
        &self.body[self.key_len..]
    }

    /// Key and value, one after the other.
    #[inline]
    pub(super) const fn body(&self) -> &'a [u8] {
        self.body
    }
}

#[inline]
fn write_varint(out: &mut [u8], mut at: usize, mut value: u64) -> usize {
    while value >= 0x80 {
        out[at] = value.to_le_bytes()[0] | 0x80;
        value >>= 7;
        at += 1;
    }
    out[at] = value.to_le_bytes()[0];
    at + 1
}

#[inline]
fn take_varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    let mut shift = 0;
    loop {
        let (byte, rest) = bytes.split_first().expect("a record ends with its value");
        *bytes = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return value;
        }
        shift += 7;
        assert!(shift < 64, "a record's varint has at most ten bytes");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::limits::ENTRY_TTL_MS_MAX;

    proptest! {
        #[test]
        fn what_was_written_is_read_back(
            map in any::<u32>(),
            version in any::<u64>(),
            created_ms in 0..=MS_MAX,
            age_ms in prop_oneof![Just(0_u64), 0..1_000_000_u64],
            ttl_ms in prop_oneof![Just(0_u64), 0..=ENTRY_TTL_MS_MAX],
            removed in any::<bool>(),
            key in prop::collection::vec(any::<u8>(), 0..300),
            value in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let updated_ms = (created_ms + age_ms).min(MS_MAX);
            let map = MapId(map);
            let version = Index(version);
            let (key, value) = (&key[..], &value[..]);
            let new =
                NewRecord { map, version, created_ms, updated_ms, ttl_ms, removed, key, value };
            let mut bytes = vec![0xEE; new.size_bytes() + 3];
            new.write(&mut bytes);
            prop_assert_eq!(&bytes[new.size_bytes()..], &[0xEE; 3]);
            let read = Record::read(&bytes);
            prop_assert_eq!((read.map, read.version), (map, version));
            prop_assert_eq!((read.created_ms, read.updated_ms), (created_ms, updated_ms));
            prop_assert_eq!((read.key(), read.value()), (key, value));
            prop_assert_eq!((read.ttl_ms, read.removed), (ttl_ms, removed));
            let expires_ms = (ttl_ms > 0).then_some(updated_ms + ttl_ms);
            prop_assert_eq!(read.expires_ms(), expires_ms);
        }

        #[test]
        fn varints_take_as_many_bytes_as_announced(value in any::<u64>(), shift in 0_u32..64) {
            let value = value >> shift;
            let mut bytes = [0; 10];
            prop_assert_eq!(write_varint(&mut bytes, 0, value), varint_size_bytes(value));
            prop_assert_eq!(take_varint(&mut &bytes[..]), value);
        }
    }

    #[test]
    fn small_entry_takes_98_bytes() {
        let (key, value) = ([1; 16], [2; 64]);
        let new = NewRecord {
            map: MapId(1),
            version: Index(u64::MAX),
            created_ms: 1_700_000_000_000,
            updated_ms: 1_700_000_000_000,
            ttl_ms: 0,
            removed: false,
            key: &key,
            value: &value,
        };
        assert_eq!(new.size_bytes(), 98);
        // An hour takes four bytes more.
        assert_eq!(NewRecord { ttl_ms: 3_600_000, ..new }.size_bytes(), 102);
    }
}
