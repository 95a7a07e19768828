//! The normal case: stamped commands are appended, executed by the leader ahead of commitment, and
//! answered once they are durable (`NOPaxos`, normal operation; 3.1).

use std::collections::VecDeque;

use bytes::Bytes;

use super::*;
use crate::base::limits::{
    RETAINED_ANSWER_COUNT_MAX, RETAINED_ANSWER_SIZE_BYTES_MAX, UNSYNCED_FOLLOWER_COUNT_MAX,
};
use crate::base::mutant::{self, Mutant};
use crate::nopaxos::Stamp;
use crate::nopaxos::message::Stamped;

/// What a leader has answered to a collector on another member, newest last. An answer that was
/// lost is asked for by sending its command again; one that is gone from here as well is not given
/// twice, and its waiter is told that the outcome is unknown.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Answered {
    answers: VecDeque<(Index, Answer)>,
    size_bytes: usize,
}

impl Answered {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn push(&mut self, index: Index, answer: &Answer) {
        self.size_bytes += answer_size_bytes(answer);
        self.answers.push_back((index, answer.clone()));
        while self.answers.len() > RETAINED_ANSWER_COUNT_MAX
            || self.size_bytes > RETAINED_ANSWER_SIZE_BYTES_MAX
        {
            let Some((_, oldest)) = self.answers.pop_front() else { break };
            self.size_bytes -= answer_size_bytes(&oldest);
        }
    }

    fn find(&self, index: Index) -> Option<&Answer> {
        let place = self.answers.binary_search_by_key(&index, |(at, _)| *at).ok()?;
        Some(&self.answers[place].1)
    }
}

fn answer_size_bytes(answer: &Answer) -> usize {
    match answer {
        Answer::Result(result) => result.len(),
        Answer::Ack | Answer::Dropped => 0,
    }
}

impl Replica {
    /// A command that the own sequencer stamped.
    ///
    /// # Panics
    /// If the stamp isn't the next one of the view: the commands of one core come in order.
    #[inline]
    pub(in crate::nopaxos) fn on_own_command(
        &mut self,
        stamp: Stamp,
        value: Bytes,
        world: &mut impl World,
    ) {
        let Stamp { term, message_id, timestamp, index } = stamp;
        assert_eq!(self.status, Status::Normal, "a sequencer is active in a normal view only");
        assert_eq!(term, self.view, "a sequencer stamps in the view of its replica");
        invariant!(self, "I4", index == self.log.last().next(), "a stamp leaves a gap");
        self.append(Slot { term, message_id, timestamp, value: Some(value) }, world);
    }

    /// A stamped command, from the sequencer or, repeated, from who holds it.
    pub(super) fn on_command(
        &mut self,
        from: MemberId,
        command: Stamped,
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        let leads = self.leader() == self.group.me();
        if from != self.sequencer() && from != self.leader() && !leads {
            return Err(IgnoreReason::BadSender);
        }
        if command.message_id == MessageId(0) || command.value.is_empty() {
            return Err(IgnoreReason::Malformed);
        }
        if self.status != Status::Normal {
            // The view has begun, its base isn't known here yet.
            mark!("stash-before-adoption");
            return self.stash.insert(command).then_some(()).ok_or(IgnoreReason::Full);
        }
        let index = self.base.plus(command.message_id.0);
        self.stamped = self.stamped.max(index);
        if index <= self.log.last() {
            return self.on_repeated_command(index, &command, world);
        }
        if index.since(self.sync_point) > UNSYNCED_FOLLOWER_COUNT_MAX {
            return Err(IgnoreReason::Full);
        }
        if index > self.log.last().next() {
            mark!("stash");
            let kept = self.stash.insert(command);
            self.arm_gap(world);
            return kept.then_some(()).ok_or(IgnoreReason::Full);
        }
        if self.stash.has_no_op(index) {
            self.drain(world);
            return Err(IgnoreReason::NoOpSlot);
        }
        if !world.has_room(command.value.len()) {
            mark!("slot-without-room");
            self.arm_gap(world);
            return Err(IgnoreReason::Full);
        }
        let Stamped { term, message_id, timestamp, value } = command;
        self.append(Slot { term, message_id, timestamp, value: Some(value) }, world);
        if !self.stash.is_empty() {
            self.stash.drop_up_to(self.base, index);
        }
        self.on_appended(world);
        Ok(())
    }

    /// A command whose slot is in the log: the sender doesn't know that it is here.
    fn on_repeated_command(
        &mut self,
        index: Index,
        command: &Stamped,
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        if let Some(slot) = self.log.slot(index).filter(|slot| slot.value.is_some()) {
            let is_same = slot.message_id == command.message_id
                && slot.timestamp == command.timestamp
                && slot.value.as_ref() == Some(&command.value);
            invariant!(self, "I3", is_same, "one stamp has two values");
        }
        if !self.is_leading() {
            self.ack_later(world);
        } else if index <= self.responded
            && let Some(answer) = self.answered.find(index).cloned()
        {
            mark!("answer-repeated");
            world.respond(command.message_id, index, answer);
        }
        Err(IgnoreReason::Duplicate)
    }

    /// Appends the slot after the last.
    #[inline]
    pub(super) fn append(&mut self, slot: Slot, world: &mut impl World) {
        let index = self.log.last().next();
        let is_in_place = index == self.base.plus(slot.message_id.0);
        invariant!(self, "I4", is_in_place, "a slot is not the base and its message id");
        self.log.append(slot);
        let slot = self.log.slot(index).expect("it was just appended");
        world.persist(Persist::Slot(index, slot));
        if self.is_leading() {
            self.execute(world);
        }
    }

    /// The slots that the leader may execute and answer: up to the first no-op that isn't held by a
    /// quorum. No-one answers above it, so that a no-op that gets lost takes nothing with it (G4).
    pub(super) fn frontier(&self) -> Index {
        if mutant::is(Mutant::AnswerBeyondFrontier) {
            return self.log.last();
        }
        match self.pending_gaps.first_key_value() {
            Some((index, _)) => index.previous(),
            None => self.log.last(),
        }
    }

    /// Executes what was appended and keeps the results until they may be given out.
    #[inline]
    pub(super) fn execute(&mut self, world: &mut impl World) {
        let frontier = self.frontier();
        while self.applied < frontier {
            let index = self.applied.next();
            let slot = self.log.slot(index).expect("what isn't executed is in memory");
            let result = match slot.value {
                Some(_) => world.execute(index, slot),
                None => ResultBytes::new(),
            };
            self.results_size_bytes += result.len();
            self.results.push_back(result);
            self.applied = index;
        }
    }

    /// Forgets the results of slots for which nobody waits any more.
    pub(super) fn drop_results(&mut self) {
        self.results.clear();
        self.results_size_bytes = 0;
    }

    /// Gives the results of what is durable to the collector (W3).
    #[inline]
    pub(super) fn respond(&mut self, world: &mut impl World) {
        let ready = self.durable.appended.min(self.applied);
        while self.responded < ready {
            let index = self.responded.next();
            let result = self.results.pop_front().expect("an executed slot has a result");
            self.results_size_bytes -= result.len();
            let answer = match self.log.no_ops().contains(&index) {
                true => Answer::Dropped,
                false => Answer::Result(result),
            };
            if self.sequencer() != self.group.me() {
                self.answered.push(index, &answer);
            }
            world.respond(MessageId(index.since(self.base)), index, answer);
            self.responded = index;
        }
    }

    /// Acknowledges at the end of the turn: one ack for all that came in it.
    pub(super) fn ack_later(&mut self, world: &mut impl World) {
        self.ack_due = true;
        self.timeouts.arm(Timeout::Flush, world.now());
    }

    /// Sends the ack that is due, if any: all slots up to here are present in this view.
    pub(in crate::nopaxos) fn flush(&mut self, world: &mut impl World) {
        self.timeouts.cancel(Timeout::Flush);
        if !std::mem::take(&mut self.ack_due) || self.status != Status::Normal || self.is_leading()
        {
            return;
        }
        let index = self.durable.appended;
        if index > self.base {
            world.respond(MessageId(index.since(self.base)), index, Answer::Ack);
        }
    }
}
