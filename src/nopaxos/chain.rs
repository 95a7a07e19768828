//! The chain digest: one value that stands for a whole prefix of the log.

use crate::base::checksum::digest128;
use crate::base::ids::{Index, MessageId};
use crate::base::time::Timestamp;

/// A running digest over (slot, message id, timestamp, value or no-op mark). Two logs with equal
/// chains at a slot are equal up to it; a chain guards against defects, not against forgery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chain(pub [u8; 16]);

impl Chain {
    /// The chain after one more slot; `value` is `None` for a no-op.
    #[must_use]
    pub fn extended(
        self,
        index: Index,
        message_id: MessageId,
        timestamp: Timestamp,
        value: Option<&[u8]>,
    ) -> Self {
        let mut link = [0; 57];
        link[..16].copy_from_slice(&self.0);
        link[16..24].copy_from_slice(&index.0.to_le_bytes());
        link[24..32].copy_from_slice(&message_id.0.to_le_bytes());
        link[32..40].copy_from_slice(&timestamp.0.to_le_bytes());
        if let Some(value) = value {
            link[40] = 1;
            link[41..].copy_from_slice(&digest128(value).to_le_bytes());
        }
        Self(digest128(&link).to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_differ_when_any_part_of_a_slot_differs() {
        let chain = |index, message_id, timestamp, value| {
            Chain::default().extended(
                Index(index),
                MessageId(message_id),
                Timestamp(timestamp),
                value,
            )
        };
        let one: Chain = chain(1, 1, 1, Some(b"a".as_slice()));
        for other in [
            chain(2, 1, 1, Some(b"a")),
            chain(1, 2, 1, Some(b"a")),
            chain(1, 1, 2, Some(b"a")),
            chain(1, 1, 1, Some(b"b")),
            chain(1, 1, 1, None),
        ] {
            assert_ne!(one, other);
        }
        assert_eq!(one, chain(1, 1, 1, Some(b"a")));
    }
}
