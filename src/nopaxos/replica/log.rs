//! The part of a partition's log that is kept in memory: what isn't stable yet.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::base::cast::{u64_from, usize_from};
use crate::base::chain::Chain;
use crate::base::ids::{Index, MessageId, TermId};
use crate::base::time::Timestamp;

/// One slot of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The term whose sequencer stamped it.
    pub term: TermId,
    /// Its message id in that term.
    pub message_id: MessageId,
    /// The sequencer's time; of a no-op, that of the slot before it.
    pub timestamp: Timestamp,
    /// The command; `None`: a no-op.
    pub value: Option<Bytes>,
}

impl Slot {
    /// Bytes of the command.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// The slots above a floor, without holes.
#[derive(Debug, Default)]
pub struct Log {
    /// All slots up to here are stable and left to the state machine and the disk.
    floor: Index,
    floor_chain: Chain,
    floor_timestamp: Timestamp,
    slots: VecDeque<(Slot, Chain)>,
    size_bytes: usize,
}

impl Log {
    /// An empty log above `floor`.
    #[must_use]
    pub fn new(floor: Index, floor_chain: Chain, floor_timestamp: Timestamp) -> Self {
        Self { floor, floor_chain, floor_timestamp, slots: VecDeque::new(), size_bytes: 0 }
    }

    /// All slots up to here have left memory.
    #[must_use]
    pub fn floor(&self) -> Index {
        self.floor
    }

    /// The last slot.
    #[must_use]
    pub fn last(&self) -> Index {
        self.floor.plus(u64_from(self.slots.len()))
    }

    /// The chain digest at the last slot.
    #[must_use]
    pub fn chain(&self) -> Chain {
        self.slots.back().map_or(self.floor_chain, |(_, chain)| *chain)
    }

    /// The timestamp of the last slot.
    #[must_use]
    pub fn last_timestamp(&self) -> Timestamp {
        self.slots.back().map_or(self.floor_timestamp, |(slot, _)| slot.timestamp)
    }

    /// The chain digest and the timestamp at a slot that is the floor or in memory.
    #[must_use]
    pub fn at(&self, index: Index) -> Option<(Chain, Timestamp)> {
        match index.0.checked_sub(self.floor.0)? {
            0 => Some((self.floor_chain, self.floor_timestamp)),
            above => {
                let (slot, chain) = self.slots.get(usize_from(above - 1))?;
                Some((*chain, slot.timestamp))
            }
        }
    }

    /// Bytes of all commands in memory.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// A slot in memory.
    #[must_use]
    pub fn slot(&self, index: Index) -> Option<&Slot> {
        let place = index.0.checked_sub(self.floor.0 + 1)?;
        self.slots.get(usize_from(place)).map(|(slot, _)| slot)
    }

    /// Adds the slot after the last.
    ///
    /// # Panics
    /// If its time is before that of the last slot (S4).
    pub fn append(&mut self, slot: Slot) -> Index {
        assert!(slot.timestamp >= self.last_timestamp(), "time goes back in the log");
        let index = self.last().next();
        let value = slot.value.as_deref();
        let chain = self.chain().extended(index, slot.message_id, slot.timestamp, value);
        self.size_bytes += slot.size_bytes();
        self.slots.push_back((slot, chain));
        index
    }

    /// Lets all slots up to `index` leave memory.
    ///
    /// # Panics
    /// If `index` is beyond the last slot.
    pub fn release_to(&mut self, index: Index) {
        assert!(index <= self.last(), "only slots of the log become stable");
        while self.floor < index {
            let (slot, chain) = self.slots.pop_front().expect("the slot is above the floor");
            self.size_bytes -= slot.size_bytes();
            self.floor = self.floor.next();
            self.floor_chain = chain;
            self.floor_timestamp = slot.timestamp;
        }
    }

    /// The no-ops in memory, ascending.
    pub fn no_ops(&self) -> impl Iterator<Item = Index> + '_ {
        let first = self.floor.0 + 1;
        (first..)
            .zip(&self.slots)
            .filter(|(_, (slot, _))| slot.value.is_none())
            .map(|(index, _)| Index(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(message_id: u64, value: Option<&'static [u8]>) -> Slot {
        Slot {
            term: TermId(1),
            message_id: MessageId(message_id),
            timestamp: Timestamp(message_id),
            value: value.map(Bytes::from_static),
        }
    }

    #[test]
    fn chain_at_the_last_slot_does_not_depend_on_what_left_memory() {
        let mut released = Log::default();
        let mut kept = Log::default();
        for log in [&mut released, &mut kept] {
            log.append(slot(1, Some(b"one")));
            log.append(slot(2, None));
        }
        released.release_to(Index(2));
        assert_eq!((released.floor(), released.last()), (Index(2), Index(2)));
        assert_eq!(released.size_bytes(), 0);
        assert_eq!(released.chain(), kept.chain());
        released.append(slot(3, Some(b"three")));
        kept.append(slot(3, Some(b"three")));
        assert_eq!(released.chain(), kept.chain());
        assert_eq!(released.slot(Index(2)), None);
        assert_eq!(released.slot(Index(3)), kept.slot(Index(3)));
    }

    #[test]
    fn chain_and_time_are_known_from_the_floor_to_the_last_slot() {
        let mut log = Log::new(Index(7), Chain([1; 16]), Timestamp(0));
        log.append(slot(1, Some(b"one")));
        log.append(slot(2, Some(b"two")));
        assert_eq!(log.at(Index(7)), Some((Chain([1; 16]), Timestamp(0))));
        assert_eq!(log.at(Index(9)), Some((log.chain(), Timestamp(2))));
        log.release_to(Index(8));
        assert_eq!(log.at(Index(8)).map(|(_, timestamp)| timestamp), Some(Timestamp(1)));
        assert_eq!((log.at(Index(7)), log.at(Index(10))), (None, None));
    }

    #[test]
    fn no_ops_are_found_by_their_index() {
        let mut log = Log::new(Index(7), Chain::default(), Timestamp(0));
        log.append(slot(1, None));
        log.append(slot(2, Some(b"two")));
        log.append(slot(3, None));
        assert_eq!(log.no_ops().collect::<Vec<_>>(), [Index(8), Index(10)]);
    }

    #[test]
    #[should_panic(expected = "time goes back")]
    fn time_does_not_go_back() {
        let mut log = Log::default();
        log.append(slot(2, None));
        log.append(slot(1, None));
    }
}
