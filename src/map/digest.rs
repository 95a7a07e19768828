//! The digest of a partition's state: members with the same entries have the same digest.
//!
//! It is the sum, modulo 2¹²⁸, of a hash of each entry: its map's name, key, value, version and
//! times. So a write changes it by one subtraction and one addition, and neither the order of
//! writes nor a member's own numbers matter. It guards against accidents, not against malice.

use crate::base::{cast::u64_from, checksum::digest128};

use super::record::Record;

/// A sum of entries' hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateDigest(pub u128);

impl StateDigest {
    /// The digest with the entries of `other` as well.
    #[must_use]
    pub(super) const fn plus(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    /// The digest without the entries of `other`.
    #[must_use]
    pub(super) const fn minus(self, other: Self) -> Self {
        Self(self.0.wrapping_sub(other.0))
    }

    /// The digest of one entry of the map with the name that has the digest `map`.
    #[inline]
    #[must_use]
    pub(super) fn of_entry(map: u128, record: &Record<'_>) -> Self {
        let mut fields = [0; 64];
        fields[..16].copy_from_slice(&map.to_le_bytes());
        fields[16..32].copy_from_slice(&digest128(record.body()).to_le_bytes());
        fields[32..40].copy_from_slice(&record.version.0.to_le_bytes());
        fields[40..48].copy_from_slice(&record.created_ms.to_le_bytes());
        fields[48..56].copy_from_slice(&record.updated_ms.to_le_bytes());
        fields[56..].copy_from_slice(&u64_from(record.key().len()).to_le_bytes());
        Self(digest128(&fields))
    }
}
