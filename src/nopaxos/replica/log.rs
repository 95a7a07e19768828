//! The part of a partition's log that is kept in memory: what isn't stable yet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::base::cast::{u64_from, usize_from};
use crate::base::chain::Chain;
use crate::base::ids::{Index, MessageId, TermId};
use crate::base::limits::{RETAINED_COUNT_MAX, RETAINED_PARTITION_SIZE_BYTES_MAX};
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

    /// The chain digest at this slot if `chain` is the one before it.
    #[must_use]
    pub fn extend(&self, chain: Chain, index: Index) -> Chain {
        chain.extended(index, self.message_id, self.timestamp, self.value.as_deref())
    }

    /// Whether it is what another member holds there. No-ops have no time of their own, and of a
    /// slot that was fetched the term isn't known.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.message_id == other.message_id
            && self.value == other.value
            && (self.value.is_none() || self.timestamp == other.timestamp)
    }
}

/// The slots above a floor, without holes. Those up to the stable one are kept for members that
/// lag, as long as there is room.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub struct Log {
    /// All slots up to here are left to the state machine and the disk.
    floor: Index,
    floor_chain: Chain,
    floor_timestamp: Timestamp,
    /// Slots up to here are stable; never below `floor`.
    stable: Index,
    slots: VecDeque<(Slot, Chain)>,
    /// Bytes of the commands above `stable`.
    size_bytes: usize,
    /// Bytes of the commands in (floor, stable].
    retained_size_bytes: usize,
    /// Slots after this one are nowhere else.
    kept_after: Option<Index>,
    /// Bytes of the commands in (kept_after, stable] that are in memory.
    kept_size_bytes: usize,
    /// All known no-ops, those that have left memory among them, from the first slot of the durable
    /// log on: a vote names them (P6).
    no_ops: BTreeSet<Index>,
}

impl Log {
    /// An empty log above `floor`.
    #[must_use]
    pub fn new(floor: Index, floor_chain: Chain, floor_timestamp: Timestamp) -> Self {
        Self { floor, floor_chain, floor_timestamp, stable: floor, ..Self::default() }
    }

    /// All slots up to here have left memory.
    #[must_use]
    pub fn floor(&self) -> Index {
        self.floor
    }

    /// The last slot.
    #[must_use]
    #[inline]
    pub fn last(&self) -> Index {
        self.floor.plus(u64_from(self.slots.len()))
    }

    /// The chain digest at the last slot.
    #[must_use]
    #[inline]
    pub fn chain(&self) -> Chain {
        self.slots.back().map_or(self.floor_chain, |(_, chain)| *chain)
    }

    /// The timestamp of the last slot.
    #[must_use]
    #[inline]
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

    /// Bytes of all commands that aren't stable.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// A slot in memory.
    #[must_use]
    #[inline]
    pub fn slot(&self, index: Index) -> Option<&Slot> {
        let place = index.0.checked_sub(self.floor.0 + 1)?;
        self.slots.get(usize_from(place)).map(|(slot, _)| slot)
    }

    /// Adds the slot after the last.
    ///
    /// # Panics
    /// If its time is before that of the last slot (S4).
    #[inline]
    pub fn append(&mut self, slot: Slot) -> Index {
        assert!(slot.timestamp >= self.last_timestamp(), "time goes back in the log");
        let index = self.last().next();
        let chain = slot.extend(self.chain(), index);
        if slot.value.is_none() {
            self.no_ops.insert(index);
        }
        self.size_bytes += slot.size_bytes();
        self.slots.push_back((slot, chain));
        index
    }

    /// Makes no-ops of slots that aren't stable.
    ///
    /// # Panics
    /// If one of them is stable or isn't there.
    pub fn make_no_ops(&mut self, indexes: impl IntoIterator<Item = Index>) {
        let mut first = None;
        for index in indexes {
            assert!(index > self.stable && index <= self.last(), "an unstable slot is in memory");
            let place = usize_from(index.0 - self.floor.0 - 1);
            if let Some(value) = self.slots[place].0.value.take() {
                self.size_bytes -= value.len();
            }
            self.no_ops.insert(index);
            first = Some(first.map_or(index, |first: Index| first.min(index)));
        }
        if let Some(first) = first {
            self.link_from(first);
        }
    }

    /// Puts other slots in the place of some that aren't stable.
    ///
    /// # Panics
    /// If one of them is stable or isn't there, or time goes back.
    pub fn replace(&mut self, slots: BTreeMap<Index, Slot>) {
        let Some(first) = slots.keys().next().copied() else { return };
        for (index, slot) in slots {
            assert!(index > self.stable && index <= self.last(), "an unstable slot is in memory");
            match slot.value {
                Some(_) => self.no_ops.remove(&index),
                None => self.no_ops.insert(index),
            };
            let place = &mut self.slots[usize_from(index.0 - self.floor.0 - 1)].0;
            self.size_bytes = self.size_bytes + slot.size_bytes() - place.size_bytes();
            *place = slot;
        }
        self.link_from(first);
    }

    /// Computes chains and the times of no-ops anew, from a slot on.
    fn link_from(&mut self, first: Index) {
        let (mut chain, mut timestamp) =
            self.at(first.previous()).expect("the slot before is the floor or in memory");
        let begin = usize_from(first.0 - self.floor.0 - 1);
        let indexes = (first.0..).map(Index);
        for (index, (slot, link)) in indexes.zip(self.slots.range_mut(begin..)) {
            if slot.value.is_none() {
                slot.timestamp = timestamp;
            }
            chain = slot.extend(chain, index);
            timestamp = slot.timestamp;
            *link = chain;
        }
    }

    /// Drops the slots above `last`.
    ///
    /// # Panics
    /// If stable slots were among them.
    pub fn truncate(&mut self, last: Index) {
        assert!(last >= self.stable, "a stable slot is never dropped");
        while self.last() > last {
            let (slot, _) = self.slots.pop_back().expect("it is above the floor");
            self.size_bytes -= slot.size_bytes();
        }
        self.no_ops.split_off(&last.next());
    }

    /// Puts a checkpoint in the place of all slots up to `index`. Those above it stay if the log
    /// reaches that far.
    pub fn rebase(&mut self, index: Index, chain: Chain, timestamp: Timestamp) {
        if index < self.last() && index >= self.floor {
            while self.floor < index {
                self.pop_front();
            }
        } else {
            self.slots.clear();
            (self.size_bytes, self.retained_size_bytes, self.kept_size_bytes) = (0, 0, 0);
            self.no_ops.clear();
        }
        (self.floor, self.floor_chain, self.floor_timestamp) = (index, chain, timestamp);
        self.stable = index;
        if !self.slots.is_empty() {
            self.link_from(index.next());
        }
    }

    /// Slots up to `index` are stable; returns the bytes of the commands that became so.
    ///
    /// # Panics
    /// If `index` is beyond the last slot.
    #[inline]
    pub fn stabilise(&mut self, index: Index) -> usize {
        assert!(index <= self.last(), "only slots of the log become stable");
        let before = self.size_bytes;
        while self.stable < index {
            self.stable = self.stable.next();
            let place = usize_from(self.stable.0 - self.floor.0 - 1);
            let size_bytes = self.slots[place].0.size_bytes();
            self.size_bytes -= size_bytes;
            self.retained_size_bytes += size_bytes;
            if self.is_kept(self.stable) {
                self.kept_size_bytes += size_bytes;
            }
        }
        before - self.size_bytes
    }

    /// Nothing but memory holds the slots after `index`: what comes before is in a checkpoint.
    pub fn keep_after(&mut self, index: Index) {
        assert!(self.kept_after.is_none_or(|before| before <= index), "checkpoints don't go back");
        let before = self.kept_after.replace(index).unwrap_or_default().max(self.floor);
        for covered in (before.0 + 1..=index.0.min(self.stable.0)).map(Index) {
            let size_bytes = self.slot(covered).map_or(0, Slot::size_bytes);
            self.kept_size_bytes -= size_bytes;
        }
    }

    /// The first slot that is anywhere, if no disk holds any: those below it are only in the state.
    #[must_use]
    pub fn first_in_memory(&self) -> Option<Index> {
        self.kept_after.map(|_| self.floor.next())
    }

    /// Whether a slot is nowhere but in memory.
    fn is_kept(&self, index: Index) -> bool {
        index > self.kept_after.unwrap_or_default()
    }

    /// Bytes of the commands of stable slots in memory that are in no checkpoint.
    #[must_use]
    pub fn kept_size_bytes(&self) -> usize {
        self.kept_size_bytes
    }

    /// Whether a stable slot may leave memory. However much somebody needs them, those that stay
    /// are bounded.
    fn may_release(&self) -> bool {
        let is_kept = self.kept_after.is_some_and(|index| self.floor >= index);
        !is_kept || u64_from(self.retained_size_bytes) > RETAINED_PARTITION_SIZE_BYTES_MAX
    }

    /// Lets stable slots leave memory until no more bytes of them are kept than these.
    #[inline]
    pub fn release(&mut self, retained_size_bytes: usize) {
        let count_max = if retained_size_bytes == 0 { 0 } else { RETAINED_COUNT_MAX };
        while self.floor < self.stable
            && self.may_release()
            && (self.retained_size_bytes > retained_size_bytes
                || usize_from(self.stable.since(self.floor)) > count_max)
        {
            self.pop_front();
        }
    }

    #[inline]
    fn pop_front(&mut self) {
        let (slot, chain) = self.slots.pop_front().expect("the slot is above the floor");
        self.floor = self.floor.next();
        self.floor_chain = chain;
        self.floor_timestamp = slot.timestamp;
        if self.floor <= self.stable {
            self.retained_size_bytes -= slot.size_bytes();
            if self.is_kept(self.floor) {
                self.kept_size_bytes -= slot.size_bytes();
            }
        } else {
            self.size_bytes -= slot.size_bytes();
            self.stable = self.floor;
        }
    }

    /// No-ops that have left memory already.
    pub fn note_no_ops(&mut self, no_ops: impl IntoIterator<Item = Index>) {
        self.no_ops.extend(no_ops);
    }

    /// Forgets the no-ops below `first`: the durable log begins there.
    pub fn forget_no_ops(&mut self, first: Index) {
        self.no_ops = self.no_ops.split_off(&first);
    }

    /// The no-ops that are known, ascending.
    #[must_use]
    pub fn no_ops(&self) -> &BTreeSet<Index> {
        &self.no_ops
    }

    /// The known no-ops in [first, last].
    #[must_use]
    pub fn no_ops_in(&self, first: Index, last: Index) -> BTreeSet<Index> {
        if first > last {
            return BTreeSet::new();
        }
        self.no_ops.range(first..=last).copied().collect()
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
        released.stabilise(Index(2));
        released.release(0);
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
        log.stabilise(Index(8));
        log.release(0);
        assert_eq!(log.at(Index(8)).map(|(_, timestamp)| timestamp), Some(Timestamp(1)));
        assert_eq!((log.at(Index(7)), log.at(Index(10))), (None, None));
    }

    #[test]
    fn no_ops_are_found_by_their_index() {
        let mut log = Log::new(Index(7), Chain::default(), Timestamp(0));
        log.append(slot(1, None));
        log.append(slot(2, Some(b"two")));
        log.append(slot(3, None));
        let no_ops: Vec<_> = log.no_ops().iter().copied().collect();
        assert_eq!(no_ops, [Index(8), Index(10)]);
        assert_eq!(log.no_ops_in(Index(9), Index(10)), BTreeSet::from([Index(10)]));
    }

    #[test]
    fn slot_that_becomes_a_no_op_is_as_if_it_had_never_been_a_value() {
        let (mut log, mut other) = (Log::default(), Log::default());
        for (log, second) in [(&mut log, Some(&b"two"[..])), (&mut other, None)] {
            log.append(slot(1, Some(b"one")));
            let timestamp = if second.is_some() { Timestamp(2) } else { Timestamp(1) };
            log.append(Slot { timestamp, ..slot(2, second) });
            log.append(Slot { timestamp, ..slot(3, None) });
            log.append(slot(4, Some(b"four")));
        }
        log.make_no_ops([Index(2)]);
        assert_eq!(log.chain(), other.chain());
        assert_eq!(log.slot(Index(3)), other.slot(Index(3)));
        assert_eq!((log.size_bytes(), log.no_ops()), (7, other.no_ops()));
    }

    #[test]
    fn stable_slots_stay_as_long_as_there_is_room() {
        let mut log = Log::default();
        for message_id in 1..=4 {
            log.append(slot(message_id, Some(b"12345")));
        }
        assert_eq!(log.stabilise(Index(3)), 15);
        log.release(10);
        assert_eq!((log.floor(), log.size_bytes()), (Index(1), 5));
        log.truncate(Index(3));
        assert_eq!((log.last(), log.size_bytes()), (Index(3), 0));
    }

    #[test]
    fn only_slots_in_no_checkpoint_count_as_kept() {
        let mut log = Log::default();
        for message_id in 1..=4 {
            log.append(slot(message_id, Some(b"12345")));
        }
        log.keep_after(Index(0));
        log.stabilise(Index(3));
        assert_eq!(log.kept_size_bytes(), 15);
        log.release(0);
        assert_eq!((log.floor(), log.kept_size_bytes()), (Index(0), 15), "they are nowhere else");
        log.keep_after(Index(2));
        assert_eq!(log.kept_size_bytes(), 5);
        log.release(0);
        assert_eq!((log.floor(), log.kept_size_bytes()), (Index(2), 5));
        log.keep_after(Index(9));
        assert_eq!(log.kept_size_bytes(), 0, "the checkpoint of another member covers more");
        log.rebase(Index(9), Chain([8; 16]), Timestamp(9));
        log.append(slot(10, Some(b"12345")));
        log.stabilise(Index(10));
        assert_eq!(log.kept_size_bytes(), 5);
    }

    #[test]
    fn checkpoint_takes_the_place_of_what_it_covers() {
        let mut log = Log::default();
        for message_id in 1..=4 {
            log.append(slot(message_id, Some(b"12345")));
        }
        log.rebase(Index(3), Chain([7; 16]), Timestamp(3));
        assert_eq!((log.floor(), log.last(), log.size_bytes()), (Index(3), Index(4), 5));
        assert_eq!(log.chain(), slot(4, Some(b"12345")).extend(Chain([7; 16]), Index(4)));
        log.rebase(Index(9), Chain([8; 16]), Timestamp(9));
        assert_eq!((log.floor(), log.last(), log.size_bytes()), (Index(9), Index(9), 0));
        log.append(slot(10, None));
        assert_eq!(log.last(), Index(10));
    }

    #[test]
    #[should_panic(expected = "time goes back")]
    fn time_does_not_go_back() {
        let mut log = Log::default();
        log.append(slot(2, None));
        log.append(slot(1, None));
    }
}
