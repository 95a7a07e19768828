//! Slots that are missing (`NOPaxos`, gap agreement; 3.2). Whoever lacks a slot asks the leader.
//! The leader asks everybody, and what nobody holds becomes a no-op: first in the leader's own log,
//! then at the others. Until a quorum holds it the leader answers nothing above it (the frontier),
//! so that any later quorum of votes contains the no-op or no committed slot above it.

use super::*;
use crate::base::limits::{
    REPAIR_RANGE_COUNT_MAX, SLOT_LOOKUP_ANSWER_INTERVAL_NS, SLOT_LOOKUP_ANSWERED_COUNT_MAX,
    SLOT_LOOKUP_COUNT_MAX, SLOT_LOOKUP_MISSING_COUNT_MAX,
};
use crate::nopaxos::message::{SlotRange, Stamped, Wanted};

impl Replica {
    /// Appends what the stash holds after the last slot, as far as it goes.
    pub(super) fn drain(&mut self, world: &mut impl World) {
        let before = self.log.last();
        self.drain_stash(world);
        if self.log.last() > before {
            self.on_appended(world);
        } else if !self.stash.is_empty() || self.stamped > before {
            self.arm_gap(world);
        }
    }

    fn drain_stash(&mut self, world: &mut impl World) {
        while !self.stash.is_empty() {
            let index = self.log.last().next();
            let message_id = MessageId(index.since(self.base));
            if self.stash.take_no_op(index) {
                self.stash.take_command(message_id);
                self.append(self.no_op(index), world);
                self.gap_replies.insert(index);
            } else if let Some(command) = self.stash.command(message_id)
                && world.has_room(command.value.len())
                && let Some(command) = self.stash.take_command(message_id)
            {
                let Stamped { term, message_id, timestamp, value } = command;
                self.append(Slot { term, message_id, timestamp, value: Some(value) }, world);
            } else {
                break;
            }
        }
    }

    /// The log has grown: what waited for that goes on.
    pub(super) fn on_appended(&mut self, world: &mut impl World) {
        self.drain_stash(world);
        self.timeouts.cancel(Timeout::Gap);
        self.timeouts.cancel(Timeout::GapGivenUp);
        self.lookup_delay_ns = self.settings.timing.slot_lookup_retry_ns;
        if self.prepare.is_some() {
            self.try_prepare(world);
        }
        if !self.stash.is_empty() || self.stamped > self.log.last() {
            self.arm_gap(world);
        }
    }

    /// The no-op of this view for a slot after the last.
    pub(super) fn no_op(&self, index: Index) -> Slot {
        Slot {
            term: self.view,
            message_id: MessageId(index.since(self.base)),
            timestamp: self.log.last_timestamp(),
            value: None,
        }
    }

    pub(super) fn arm_gap(&mut self, world: &mut impl World) {
        self.timeouts.arm(Timeout::Gap, world.now().after_ns(self.settings.timing.gap_wait_ns));
    }

    /// The slots after the last that were stamped and aren't here, up to a bound.
    fn missing(&self, count_max: u64) -> Vec<Index> {
        let last = self.stash.last(self.base).unwrap_or_default().max(self.stamped);
        let first = self.log.last().next();
        (first.0..=last.0)
            .map(Index)
            .filter(|index| {
                let message_id = MessageId(index.since(self.base));
                self.stash.command(message_id).is_none() && !self.stash.has_no_op(*index)
            })
            .take(crate::base::cast::usize_from(count_max))
            .collect()
    }

    /// The slot after the last has been missing for a while (G2, G3).
    pub(super) fn on_gap_timeout(&mut self, world: &mut impl World) {
        if self.status != Status::Normal {
            return;
        }
        let missing = self.missing(SLOT_LOOKUP_MISSING_COUNT_MAX + 1);
        if missing.is_empty() {
            // What is here may have waited for room.
            self.drain(world);
            return;
        }
        let timing = self.settings.timing;
        let term = self.view;
        if self.is_leading() {
            mark!("slot-lookup-by-leader");
            for index in missing.iter().take(SLOT_LOOKUP_COUNT_MAX) {
                let message_id = MessageId(index.since(self.base));
                for member in self.group.others() {
                    world.send(member, Message::SlotLookup { term, message_id });
                }
            }
            let given_up = world.now().after_ns(timing.gap_request_timeout_ns);
            self.timeouts.arm(Timeout::GapGivenUp, given_up);
        } else if missing.len() > SLOT_LOOKUP_COUNT_MAX {
            mark!("slot-lookup-by-ranges");
            let wanted = Wanted { checkpoint: Index(0), slots: ranges(missing.into_iter()) };
            world.send(self.leader(), Message::SyncRepair { term, wanted });
        } else {
            mark!("slot-lookup");
            for index in missing {
                let message_id = MessageId(index.since(self.base));
                world.send(self.leader(), Message::SlotLookup { term, message_id });
            }
        }
        self.timeouts.set(Timeout::Gap, world.now().after_ns(self.lookup_delay_ns));
        self.lookup_delay_ns = (self.lookup_delay_ns * 2).min(timing.slot_lookup_retry_ns_max);
    }

    /// Nobody has what the leader looked for: no-ops up to the first slot that it has (G4).
    pub(super) fn on_gap_given_up(&mut self, world: &mut impl World) {
        let Some(first) = self.stash.first_command().filter(|_| self.is_leading()) else { return };
        let first = self.base.plus(first.0);
        mark!("gap-commit");
        while self.log.last().next() < first {
            let index = self.log.last().next();
            self.pending_gaps.insert(index, MemberSet::default());
            self.append(self.no_op(index), world);
            for member in self.group.others() {
                world.send(member, Message::GapCommitRequest { term: self.view, index });
            }
        }
        let retry = world.now().after_ns(self.settings.timing.gap_commit_retry_ns);
        self.timeouts.arm(Timeout::GapCommit, retry);
        self.drain(world);
    }

    /// No-ops are without their quorum: who has not confirmed them is told again.
    pub(super) fn on_gap_commit_timeout(&mut self, world: &mut impl World) {
        if !self.is_leading() || self.pending_gaps.is_empty() {
            return;
        }
        for member in self.group.others() {
            self.repeat_gaps(member, world);
        }
        let retry = world.now().after_ns(self.settings.timing.gap_commit_retry_ns);
        self.timeouts.set(Timeout::GapCommit, retry);
    }

    /// Tells a member again of the no-ops that it has not confirmed.
    pub(super) fn repeat_gaps(&mut self, member: MemberId, world: &mut impl World) {
        let open = self.pending_gaps.iter().filter(|(_, by)| !by.contains(member));
        for (index, _) in open.take(SLOT_LOOKUP_COUNT_MAX) {
            let (term, index) = (self.view, *index);
            world.send(member, Message::GapCommitRequest { term, index });
        }
    }

    /// A member lacks a command.
    pub(super) fn on_slot_lookup(
        &mut self,
        from: MemberId,
        message_id: MessageId,
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        if self.status != Status::Normal {
            return Err(IgnoreReason::NotNormal);
        }
        if message_id == MessageId(0) {
            return Err(IgnoreReason::Malformed);
        }
        let leads = self.is_leading();
        if !leads {
            self.check_leads(from)?;
        }
        self.note_lookup(from, message_id, world.now())?;
        let index = self.base.plus(message_id.0);
        if index > self.log.last() {
            if let Some(command) = self.stash.command(message_id) {
                world.send(from, Message::Command(command.clone()));
            } else if leads {
                // Somebody has seen a later one: this one was stamped.
                self.stamped = self.stamped.max(index);
                self.arm_gap(world);
            }
            return Ok(());
        }
        match self.log.slot(index) {
            Some(Slot { value: Some(value), timestamp, .. }) => {
                mark!("slot-lookup-answered");
                let (term, timestamp, value) = (self.view, *timestamp, value.clone());
                let command = Stamped { term, message_id, timestamp, value };
                world.send(from, Message::Command(command));
            }
            Some(Slot { value: None, .. }) if leads => {
                mark!("slot-lookup-of-no-op");
                world.send(from, Message::GapCommitRequest { term: self.view, index });
            }
            None if leads => {
                self.serve_sync(from, &[SlotRange { first: index, last: index }], world)
            }
            Some(_) | None => {}
        }
        Ok(())
    }

    /// A question is answered once in a while.
    fn note_lookup(
        &mut self,
        from: MemberId,
        message_id: MessageId,
        now: Monotonic,
    ) -> Result<(), IgnoreReason> {
        let interval_ns = SLOT_LOOKUP_ANSWER_INTERVAL_NS.min(self.settings.timing.gap_wait_ns);
        let answered = self.lookups_answered.get(&(from, message_id));
        if answered.is_some_and(|at| now.since_ns(*at) < interval_ns) {
            return Err(IgnoreReason::AnsweredJustNow);
        }
        if self.lookups_answered.len() >= SLOT_LOOKUP_ANSWERED_COUNT_MAX {
            self.lookups_answered.clear();
        }
        self.lookups_answered.insert((from, message_id), now);
        Ok(())
    }

    /// The leader has made a slot a no-op.
    pub(super) fn on_gap_commit_request(
        &mut self,
        from: MemberId,
        index: Index,
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        self.check_leads(from)?;
        if self.status != Status::Normal {
            mark!("gap-commit-before-adoption");
            return self.stash.insert_no_op(index).then_some(()).ok_or(IgnoreReason::Full);
        }
        if index <= self.base {
            return Err(IgnoreReason::Malformed);
        }
        self.stamped = self.stamped.max(index);
        if index > self.log.last() {
            let kept = self.stash.insert_no_op(index);
            self.drain(world);
            return kept.then_some(()).ok_or(IgnoreReason::Full);
        }
        let is_no_op = self.log.no_ops().contains(&index);
        if !is_no_op && index < self.first {
            return Err(IgnoreReason::BelowSyncPoint);
        }
        if !is_no_op {
            invariant!(self, "I2", index > self.prepared, "a prepared value becomes a no-op");
            invariant!(self, "I2", index > self.applied, "an executed value becomes a no-op");
            mark!("gap-commit-over-value");
            self.overwrite([index], world);
        }
        self.gap_replies.insert(index);
        self.reply_to_gaps(world);
        Ok(())
    }

    /// Makes no-ops of slots that are values, in memory and in the durable log.
    pub(super) fn overwrite(
        &mut self,
        indexes: impl IntoIterator<Item = Index> + Clone,
        world: &mut impl World,
    ) {
        self.log.make_no_ops(indexes.clone());
        for index in indexes {
            let slot = self.log.slot(index).expect("it was overwritten in memory");
            world.persist(Persist::NoOp(index, slot));
            self.durable.no_ops.push_back(index);
        }
    }

    /// Confirms the no-ops that are durable with all before them (W4).
    pub(super) fn reply_to_gaps(&mut self, world: &mut impl World) {
        if self.gap_replies.is_empty() {
            return;
        }
        let durable = self.durable.index();
        while let Some(index) = self.gap_replies.first().copied().filter(|index| *index <= durable)
        {
            self.gap_replies.pop_first();
            let response = Message::GapCommitResponse { term: self.view, index };
            world.send(self.leader(), response);
        }
    }

    /// A member holds a no-op.
    pub(super) fn on_gap_commit_response(
        &mut self,
        from: MemberId,
        index: Index,
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        self.check_is_leading()?;
        let by = self.pending_gaps.get_mut(&index).ok_or(IgnoreReason::Duplicate)?;
        by.insert(from);
        self.close_gaps(world);
        self.respond(world);
        // What was withheld may be the last for a long time.
        self.sync(world);
        Ok(())
    }

    /// Lets no-ops count that a quorum holds (G5).
    pub(super) fn close_gaps(&mut self, world: &mut impl World) {
        let (durable, quorum_count) = (self.durable.appended, self.group.quorum_count());
        let before = self.pending_gaps.len();
        self.pending_gaps
            .retain(|index, by| by.count() + usize::from(*index <= durable) < quorum_count);
        if self.pending_gaps.len() < before {
            mark!("gap-commit-quorum");
            self.execute(world);
        }
        if self.pending_gaps.is_empty() {
            self.timeouts.cancel(Timeout::GapCommit);
        }
    }
}

/// Ascending indexes as ranges, as many as a request may name.
pub(super) fn ranges(indexes: impl Iterator<Item = Index>) -> Vec<SlotRange> {
    let mut ranges: Vec<SlotRange> = Vec::new();
    for index in indexes {
        if let Some(range) = ranges.last_mut().filter(|range| range.last.next() == index) {
            range.last = index;
        } else if ranges.len() < REPAIR_RANGE_COUNT_MAX {
            ranges.push(SlotRange { first: index, last: index });
        } else {
            break;
        }
    }
    ranges
}
