//! What came ahead of the log's end, kept until the slots before it are there. A command's slot is
//! known only once its view is adopted, therefore commands are kept by their message ids.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::ids::{Index, MessageId};
use crate::base::limits::{STASH_COUNT_MAX, STASH_SIZE_BYTES_MAX};
use crate::nopaxos::message::Stamped;

/// Stamped commands and no-ops of the present view.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Stash {
    commands: BTreeMap<MessageId, Stamped>,
    size_bytes: usize,
    no_ops: BTreeSet<Index>,
}

impl Stash {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Keeps a command unless the stash is full; then the highest ones make way: they will be
    /// repaired. Whether it was kept.
    pub(super) fn insert(&mut self, command: Stamped) -> bool {
        let message_id = command.message_id;
        if self.commands.contains_key(&message_id) {
            return true;
        }
        self.size_bytes += command.value.len();
        self.commands.insert(message_id, command);
        let mut is_kept = true;
        while self.commands.len() > STASH_COUNT_MAX || self.size_bytes > STASH_SIZE_BYTES_MAX {
            let Some((highest, dropped)) = self.commands.pop_last() else { break };
            self.size_bytes -= dropped.value.len();
            is_kept &= highest != message_id;
        }
        is_kept
    }

    /// Keeps the place of a no-op; whether there was room.
    pub(super) fn insert_no_op(&mut self, index: Index) -> bool {
        let has_room = self.no_ops.len() < STASH_COUNT_MAX || self.no_ops.contains(&index);
        if has_room {
            self.no_ops.insert(index);
        }
        has_room
    }

    pub(super) fn command(&self, message_id: MessageId) -> Option<&Stamped> {
        self.commands.get(&message_id)
    }

    pub(super) fn take_command(&mut self, message_id: MessageId) -> Option<Stamped> {
        let command = self.commands.remove(&message_id)?;
        self.size_bytes -= command.value.len();
        Some(command)
    }

    pub(super) fn take_no_op(&mut self, index: Index) -> bool {
        !self.no_ops.is_empty() && self.no_ops.remove(&index)
    }

    pub(super) fn has_no_op(&self, index: Index) -> bool {
        self.no_ops.contains(&index)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.commands.is_empty() && self.no_ops.is_empty()
    }

    /// The first command.
    pub(super) fn first_command(&self) -> Option<MessageId> {
        self.commands.first_key_value().map(|(message_id, _)| *message_id)
    }

    /// The highest slot of all.
    pub(super) fn last(&self, base: Index) -> Option<Index> {
        let command = self.commands.last_key_value().map(|(id, _)| base.plus(id.0));
        command.max(self.no_ops.last().copied())
    }

    /// Drops what is in the log already.
    pub(super) fn drop_up_to(&mut self, base: Index, last: Index) {
        while let Some(message_id) = self.first_command()
            && base.plus(message_id.0) <= last
        {
            self.take_command(message_id);
        }
        self.no_ops = self.no_ops.split_off(&last.next());
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::base::ids::TermId;
    use crate::base::time::Timestamp;

    fn command(message_id: u64, size_bytes: usize) -> Stamped {
        Stamped {
            term: TermId(1),
            message_id: MessageId(message_id),
            timestamp: Timestamp(0),
            value: Bytes::from(vec![0; size_bytes]),
        }
    }

    #[test]
    fn full_stash_drops_the_highest() {
        let mut stash = Stash::default();
        for message_id in (2..).take(STASH_COUNT_MAX) {
            assert!(stash.insert(command(message_id, 1)));
        }
        assert!(!stash.insert(command(10_000, 1)));
        assert!(stash.insert(command(1, 1)));
        let last = stash.last(Index(0)).unwrap();
        assert_eq!(last, Index(crate::base::cast::u64_from(STASH_COUNT_MAX)));
        assert!(!stash.insert(command(20_000, STASH_SIZE_BYTES_MAX)));
        assert_eq!(stash.size_bytes, STASH_COUNT_MAX);
    }

    #[test]
    fn what_the_log_holds_is_dropped() {
        let mut stash = Stash::default();
        for message_id in [1, 3, 5] {
            stash.insert(command(message_id, 7));
        }
        stash.insert_no_op(Index(14));
        stash.drop_up_to(Index(10), Index(13));
        assert_eq!(stash.first_command(), Some(MessageId(5)));
        assert_eq!(stash.size_bytes, 7);
        assert!(stash.take_no_op(Index(14)) && !stash.take_no_op(Index(14)));
        assert!(stash.take_command(MessageId(5)).is_some() && stash.is_empty());
    }
}
