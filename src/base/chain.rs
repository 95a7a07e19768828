//! The running digest of a partition's log: two logs with equal chains at a slot hold the same
//! slots up to it. The protocol compares members by it, the log on disk checks itself with it; both
//! must mean the same bytes, therefore it is defined here.

use super::checksum::digest128;
use super::ids::{Index, MessageId};
use super::time::Timestamp;

/// The chain digest at some slot. [`Chain::NONE`]: of the empty log, or not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Chain(pub [u8; 16]);

impl Chain {
    /// The chain of the empty log.
    pub const NONE: Self = Self([0; 16]);

    /// The chain at `index` if `self` is the one at the slot before. `None` is a no-op, which has
    /// no time: whatever `timestamp` says is not part of it.
    #[must_use]
    pub fn extended(
        self,
        index: Index,
        message_id: MessageId,
        timestamp: Timestamp,
        value: Option<&[u8]>,
    ) -> Self {
        // previous 16 | index 8 | message id 8 | value? 1 | timestamp 8 | digest of the value 16
        let mut link = [0; 57];
        link[..16].copy_from_slice(&self.0);
        link[16..24].copy_from_slice(&index.0.to_le_bytes());
        link[24..32].copy_from_slice(&message_id.0.to_le_bytes());
        if let Some(value) = value {
            link[32] = 1;
            link[33..41].copy_from_slice(&timestamp.0.to_le_bytes());
            link[41..].copy_from_slice(&digest128(value).to_le_bytes());
        }
        Self(digest128(&link).to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_tells_apart_whatever_differs() {
        let at = |index, message_id, time, value| {
            Chain::NONE.extended(Index(index), MessageId(message_id), Timestamp(time), value)
        };
        let first = at(1, 1, 5, Some(&b"a"[..]));
        assert_eq!(first, at(1, 1, 5, Some(b"a")));
        for other in [
            at(2, 1, 5, Some(b"a")),
            at(1, 2, 5, Some(b"a")),
            at(1, 1, 6, Some(b"a")),
            at(1, 1, 5, Some(b"b")),
            at(1, 1, 5, None),
            first.extended(Index(1), MessageId(1), Timestamp(5), Some(b"a")),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn chain_of_a_no_op_ignores_its_time() {
        let at = |time| Chain::NONE.extended(Index(1), MessageId(1), Timestamp(time), None);
        assert_eq!(at(0), at(7));
    }
}
