//! Sees everything and checks the invariants at every step: I1 to I8, I10, I14, and that reads are
//! linearizable.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::disk::Image;
use super::host::Host;
use crate::base::ids::{Incarnation, Index, MemberId, MessageId, TermId};
use crate::base::time::Timestamp;
use crate::nopaxos::message::{Answer, LogSummary, Message};
use crate::nopaxos::replica::log::Slot;
use crate::nopaxos::{Member, Survival, ViewStarted};

/// A read that is under way.
#[derive(Clone, Copy, Debug)]
struct Read {
    /// The last slot that was answered, or read, before it began.
    covers: Index,
}

#[derive(Debug, Default)]
pub(super) struct Observer {
    /// The slots that are stable anywhere, and the state after each.
    stable: BTreeMap<Index, (MessageId, Option<Bytes>)>,
    states: BTreeMap<Index, u128>,
    /// What was answered: slot, command, and the term in which it was.
    committed: BTreeMap<Index, (u64, TermId)>,
    /// The slot of each command that was answered.
    answered: BTreeMap<u64, Index>,
    /// Slots that were read, with the state that was seen.
    read: BTreeMap<Index, u128>,
    reads: BTreeMap<u64, Read>,
    /// The last slot that was answered or read.
    seen: Index,
    stamps: BTreeMap<(TermId, MessageId), (Timestamp, Bytes)>,
    start_views: BTreeMap<TermId, (TermId, LogSummary)>,
    sequencers: BTreeMap<TermId, (MemberId, u64)>,
    /// The highest view that each life of a member has voted for.
    voted: BTreeMap<(MemberId, Incarnation), TermId>,
    /// What each life of a member has voted with, by term.
    votes: BTreeMap<(MemberId, Incarnation, TermId), (TermId, LogSummary)>,
    pub(super) reads_count: u64,
}

impl Observer {
    pub(super) fn answered(&self) -> impl Iterator<Item = (u64, Index)> + '_ {
        self.answered.iter().map(|(op, index)| (*op, *index))
    }

    pub(super) fn answer_of(&self, op: u64) -> Option<Index> {
        self.answered.get(&op).copied()
    }

    pub(super) fn start_view(&self, term: u64) -> Option<&LogSummary> {
        self.start_views.get(&TermId(term)).map(|(_, log)| log)
    }

    pub(super) fn start_views_count(&self) -> usize {
        self.start_views.len()
    }

    pub(super) fn stable_value(&self, index: u64) -> Option<Option<u64>> {
        let (_, value) = self.stable.get(&Index(index))?;
        Some(value.as_deref().map(op_of))
    }

    /// Where a command is in the stable log: each is there once at most.
    pub(super) fn places_of(&self, op: u64) -> Vec<Index> {
        let is_it = |value: &Option<Bytes>| value.as_deref().map(op_of) == Some(op);
        self.stable.iter().filter(|(_, (_, value))| is_it(value)).map(|(at, _)| *at).collect()
    }

    /// Each of these commands is in the stable log, once.
    pub(super) fn check_once(&self, ops: &[u64]) {
        for op in ops {
            let places = self.places_of(*op);
            assert_eq!(places.len(), 1, "command {op} is in {places:?}");
        }
    }

    // ---- what members say ----

    pub(super) fn on_send(
        &mut self,
        from: MemberId,
        message: &Message,
        (image, survival): (&Image, Survival),
        member: &Member<u64>,
    ) {
        if let Message::Command(stamped) = message {
            let key = (stamped.term, stamped.message_id);
            let said = (stamped.timestamp, stamped.value.clone());
            let first = self.stamps.entry(key).or_insert_with(|| said.clone());
            assert_eq!(*first, said, "I3: a stamp has two values");
        }
        if let Message::StartView { term, source_term, log } = message {
            let said = (*source_term, log.clone());
            let first = self.start_views.entry(*term).or_insert_with(|| said.clone());
            assert_eq!(first.0, said.0, "I5: view {term} has two sources");
            assert_eq!(first.1.last, said.1.last, "I5: view {term} has two bases");
            assert_eq!(first.1.no_ops, said.1.no_ops, "I5: view {term} starts with two logs");
            assert_eq!(first.1.chain, said.1.chain, "I5: view {term} starts with two logs");
            self.check_completeness(*term, member);
        }
        let is_claim = matches!(
            message,
            Message::CommandResponse { .. }
                | Message::GapCommitResponse { .. }
                | Message::SyncResponse { .. }
                | Message::QueryResponse { .. }
        );
        let term = message.term().unwrap_or_default();
        if is_claim && survival != Survival::Never {
            let life = (from, member.replica().incarnation());
            let voted = self.voted.get(&life).copied().unwrap_or_default();
            assert!(term >= voted, "I8: member {from} goes on in term {term} after {voted}");
        }
        if survival == Survival::Always {
            check_durable(message, image, member);
        }
        if let Message::ViewChange { term, last_normal, log, .. } = message {
            let incarnation = member.replica().incarnation();
            let voted = self.voted.entry((from, incarnation)).or_default();
            *voted = (*voted).max(*term);
            self.check_vote((from, incarnation, *term), (*last_normal, log));
        }
    }

    /// I8: a vote is the same however often it is cast, also after a restart; but for slots that a
    /// truncation has put out of it, which are noticed as such only by the next process.
    fn check_vote(
        &mut self,
        key: (MemberId, Incarnation, TermId),
        (last_normal, log): (TermId, &LogSummary),
    ) {
        let (first_normal, first) =
            self.votes.entry(key).or_insert_with(|| (last_normal, log.clone()));
        assert_eq!((*first_normal, first.last), (last_normal, log.last), "I8: {key:?} changes");
        assert_eq!(first.chain, log.chain, "I8: {key:?} changes");
        let from = first.first.max(log.first);
        let is_same = first.no_ops.range(from..).eq(log.no_ops.range(from..));
        assert!(is_same, "I8: the no-ops of {key:?} change");
    }

    /// I1: a view starts with everything that was answered, and with everything that is stable.
    fn check_completeness(&self, term: TermId, member: &Member<u64>) {
        let replica = member.replica();
        if replica.base() < replica.log().floor() || replica.last_normal() != term {
            return;
        }
        for (index, (op, in_term)) in &self.committed {
            if *in_term >= term {
                continue;
            }
            assert!(*index <= replica.base(), "I1: view {term} lacks slot {index}");
            if let Some(slot) = replica.log().slot(*index) {
                let found = slot.value.as_deref().map(op_of);
                assert_eq!(found, Some(*op), "I1: view {term} lost the answer of slot {index}");
            }
        }
    }

    pub(super) fn on_started(&mut self, node: MemberId, process: u64, started: ViewStarted) {
        if started.sequencing {
            let by = (node, process);
            let first = *self.sequencers.entry(started.term).or_insert(by);
            assert_eq!(first, by, "I6: term {} has two sequencers", started.term);
        }
    }

    // ---- what becomes of commands ----

    /// A member's sync point has moved from `before` to `stable`.
    pub(super) fn on_stable(&mut self, before: Index, host: &Host, member: &Member<u64>) {
        for index in (before.0 + 1..=host.stable.0).map(Index) {
            let slot: Option<&Slot> = host.disk.written.slots.get(&index);
            if let Some(slot) = slot {
                let found = (slot.message_id, slot.value.clone());
                let first = self.stable.entry(index).or_insert_with(|| found.clone());
                assert_eq!(*first, found, "I7: slot {index} differs at {}", member.group().me());
                self.check_committed(index);
            }
        }
        let state = host.machine.as_of(host.stable);
        let first = *self.states.entry(host.stable).or_insert(state);
        assert_eq!(first, state, "I10: states differ at slot {}", host.stable);
        if let Some(seen) = self.read.get(&host.stable) {
            assert_eq!(*seen, state, "I12: a read saw another state of slot {}", host.stable);
        }
    }

    fn check_committed(&self, index: Index) {
        if let (Some((_, value)), Some((op, _))) =
            (self.stable.get(&index), self.committed.get(&index))
        {
            let found = value.as_deref().map(op_of);
            assert_eq!(found, Some(*op), "I1: the answer of slot {index} was lost");
        }
    }

    pub(super) fn on_answer(&mut self, op: u64, index: Index, result: &[u8], term: TermId) {
        assert_eq!(op_of(result), op, "an answer is of its command");
        let first = *self.answered.entry(op).or_insert(index);
        assert_eq!(first, index, "I11: a command is answered twice");
        let first = *self.committed.entry(index).or_insert((op, term));
        assert_eq!(first.0, op, "I1: slot {index} answers two commands");
        self.check_committed(index);
        self.seen = self.seen.max(index);
    }

    // ---- reads ----

    pub(super) fn begin_read(&mut self, read: u64) {
        self.reads.insert(read, Read { covers: self.seen });
    }

    pub(super) fn void_read(&mut self, read: u64) {
        self.reads.remove(&read);
    }

    pub(super) fn on_read(&mut self, read: u64, index: Index, state: u128) {
        let Some(begun) = self.reads.remove(&read) else { return };
        assert!(index >= begun.covers, "I12: a read of slot {index} misses {}", begun.covers);
        let first = *self.read.entry(index).or_insert(state);
        assert_eq!(first, state, "I12: two reads of slot {index} differ");
        if let Some(stable) = self.states.get(&index) {
            assert_eq!(*stable, state, "I12: a read saw another state of slot {index}");
        }
        self.seen = self.seen.max(index);
        self.reads_count += 1;
    }

    /// Everything that was answered is in the stable log, once.
    pub(super) fn check_end(&self) {
        let mut ops = BTreeSet::new();
        for (index, (_, value)) in &self.stable {
            if let Some(value) = value {
                assert!(ops.insert(op_of(value)), "I11: slot {index} executes a command again");
            }
        }
        for (op, index) in &self.answered {
            let (_, value) = self.stable.get(index).expect("what was answered is stable");
            assert_eq!(value.as_deref().map(op_of), Some(*op), "the answer of {index} was lost");
        }
    }
}

/// I14: what is claimed is durable.
pub(super) fn check_durable(message: &Message, image: &Image, member: &Member<u64>) {
    match message {
        Message::CommandResponse { term, index, answer, .. } => {
            assert_eq!(image.last_normal, *term, "I14: an ack of a view that isn't adopted");
            assert!(image.last >= *index, "I14: slot {index} is acknowledged and not durable");
            if let (Answer::Result(_), Some(slot)) = (answer, image.slots.get(index)) {
                assert!(slot.value.is_some(), "I14: a result of a no-op");
            }
        }
        Message::GapCommitResponse { term, index } => {
            assert_eq!(image.last_normal, *term, "I14: a no-op of a view that isn't adopted");
            let slot = image.slots.get(index);
            assert!(slot.is_none_or(|slot| slot.value.is_none()), "I14: no-op {index} not durable");
            assert!(image.last >= *index, "I14: slots before no-op {index} are not durable");
        }
        Message::SyncResponse { term, index } => {
            assert_eq!(image.last_normal, *term, "I14: a sync of a view that isn't adopted");
            assert!(image.last >= *index, "I14: prepared slot {index} is not durable");
            if let Some((chain, _)) = member.replica().log().at(*index)
                && *index >= image.checkpoint.index
            {
                assert_eq!(image.chain(*index), chain, "I14: what is prepared is not durable");
            }
        }
        Message::QueryResponse { term, index, .. } => {
            assert_eq!(image.last_normal, *term, "I14: a read of a view that isn't adopted");
            assert!(image.last >= *index, "I14: slot {index} is read and not durable");
        }
        Message::ViewChange { term, last_normal, log, .. } => {
            assert!(image.view >= *term, "I14: a vote that isn't durable");
            assert_eq!(image.last_normal, *last_normal, "I14: a vote says more than the disk");
            assert_eq!(image.last, log.last, "I14: a vote says more than the disk");
        }
        Message::StartView { term, log, .. } => {
            assert_eq!(image.last_normal, *term, "I14: a view starts that isn't adopted");
            assert_eq!(image.base, log.last);
        }
        _ => {}
    }
}

/// The number of a command.
pub(super) fn op_of(value: &[u8]) -> u64 {
    u64::from_le_bytes(value[..8].try_into().unwrap())
}
