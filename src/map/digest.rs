//! The digest of a partition's state: members with the same entries and sessions have the same
//! digest.
//!
//! It is the sum, modulo 2¹²⁸, of a hash of each entry (its map's name, key, value, version and
//! times), of each session and of each of their results. So a write changes it by one subtraction
//! and one addition, and neither the order of writes nor a member's own numbers matter. It guards
//! against accidents, not against malice.
//!
//! What has expired counts until it is removed, which all members do at the same index; so the
//! digest is a function of the index alone. An entry without a time to live and a partition without
//! sessions have the digest that they had before there were such: checkpoints have it in them.

use crate::base::{
    cast::u64_from,
    checksum::digest128,
    ids::{Sequence, SessionId},
};

use super::record::Record;

/// A sum of hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateDigest(pub u128);

impl StateDigest {
    /// The digest of both.
    #[must_use]
    pub(super) const fn plus(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    /// The digest without `other`, which is a part of it.
    #[must_use]
    pub(super) const fn minus(self, other: Self) -> Self {
        Self(self.0.wrapping_sub(other.0))
    }

    /// The digest of one entry of the map with the name that has the digest `map`.
    #[inline]
    #[must_use]
    pub(super) fn of_entry(map: u128, record: &Record<'_>) -> Self {
        let mut fields = [0; 72];
        fields[..16].copy_from_slice(&map.to_le_bytes());
        fields[16..32].copy_from_slice(&digest128(record.body()).to_le_bytes());
        fields[32..40].copy_from_slice(&record.version.0.to_le_bytes());
        fields[40..48].copy_from_slice(&record.created_ms.to_le_bytes());
        fields[48..56].copy_from_slice(&record.updated_ms.to_le_bytes());
        fields[56..64].copy_from_slice(&u64_from(record.key().len()).to_le_bytes());
        if record.ttl_ms == 0 {
            return Self(digest128(&fields[..64]));
        }
        fields[64..].copy_from_slice(&record.ttl_ms.to_le_bytes());
        Self(digest128(&fields))
    }

    /// The digest of a session without its results: four numbers.
    #[must_use]
    pub(super) fn of_session(session: SessionId, state: [u64; 3]) -> Self {
        let mut fields = [0; 32];
        fields[..8].copy_from_slice(&session.0.to_le_bytes());
        for (place, number) in state.iter().enumerate() {
            fields[8 * (place + 1)..8 * (place + 2)].copy_from_slice(&number.to_le_bytes());
        }
        Self(digest128(&fields))
    }

    /// The digest of one result of a session.
    #[must_use]
    pub(super) fn of_result(session: SessionId, sequence: Sequence, result: &[u8]) -> Self {
        let mut fields = [0; 40];
        fields[..8].copy_from_slice(&session.0.to_le_bytes());
        fields[8..16].copy_from_slice(&sequence.0.to_le_bytes());
        fields[16..24].copy_from_slice(&u64_from(result.len()).to_le_bytes());
        fields[24..].copy_from_slice(&digest128(result).to_le_bytes());
        Self(digest128(&fields))
    }
}
