//! Synchronisation: what a quorum holds becomes stable (`NOPaxos`, synchronization; 3.3).
//!
//! The leader proposes a sync point with its no-ops and the chain digest there. A follower makes
//! its log equal, durably, and says so; the quorum's lowest is the new sync point. It runs beside
//! the normal case and stops nothing.

use std::collections::BTreeSet;

use super::gap::ranges;
use super::*;
use crate::base::limits::{REPAIR_COUNT_MAX, REPAIR_SIZE_BYTES_MAX, SYNC_BATCH_SIZE_BYTES};
use crate::base::mutant::{self, Mutant};
use crate::nopaxos::message::{Entry, Wanted};

/// How far the members are, as their leader knows.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct SyncLeader {
    /// The highest sync point that was proposed; it is what the leader itself acknowledges.
    issued: Index,
    /// What each member has said at most: it counts.
    acks: [Index; MEMBER_COUNT_MAX],
    /// What each member has said last: a restarted one falls back to its sync point.
    last: [Option<Index>; MEMBER_COUNT_MAX],
    /// When each member is told again, and how long after that.
    resend: [Option<(Monotonic, u64)>; MEMBER_COUNT_MAX],
    /// The sync point has moved since the others were told of it.
    is_moved: bool,
    /// When they were told last.
    told: Monotonic,
}

#[cfg(test)]
impl SyncLeader {
    /// Forgets when who is told again.
    pub(super) fn forget_time(&mut self) {
        (self.resend, self.is_moved, self.told) = Default::default();
    }
}

/// A sync point that the leader has proposed.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct OpenPrepare {
    log: LogSummary,
    /// The log differed though it was complete: these slots are fetched once more.
    refetched: Option<BTreeSet<Index>>,
    /// What was asked for and has not come yet, and how much has.
    asked: BTreeSet<Index>,
    received_size_bytes: usize,
    delay_ns: u64,
}

impl OpenPrepare {
    /// The proposed sync point.
    pub(super) fn point(&self) -> Index {
        self.log.last
    }
}

impl Replica {
    /// Moves the sync point of a leader (Y1). In a group of one its own durable prefix is a
    /// quorum's, so there is nobody to ask and nothing to wait for.
    #[inline]
    pub(super) fn sync(&mut self, world: &mut impl World) {
        if self.group.is_alone() {
            self.prepared = self.durable.appended.min(self.responded);
            self.advance(self.prepared, world);
        } else {
            self.sync_with_others(world);
        }
    }

    fn sync_with_others(&mut self, world: &mut impl World) {
        let ready = self.durable.appended.min(self.applied);
        if ready.since(self.sync.issued) >= self.settings.timing.sync_batch_count {
            self.propose(world);
        } else if ready > self.sync.issued {
            let due = world.now().after_ns(self.settings.timing.sync_interval_ns);
            self.timeouts.arm(Timeout::Sync, due);
        }
    }

    pub(super) fn on_sync_timeout(&mut self, world: &mut impl World) {
        if self.is_leading() {
            self.propose(world);
        }
    }

    /// Begins to lead: proposes the base of the view.
    pub(super) fn start_sync(&mut self, world: &mut impl World) {
        self.sync = SyncLeader::default();
        self.propose(world);
    }

    /// Proposes what is durable and answered as the next sync point.
    fn propose(&mut self, world: &mut impl World) {
        self.timeouts.cancel(Timeout::Sync);
        let point = self.durable.appended.min(self.applied);
        if point <= self.sync.issued && self.sync.issued > Index(0) {
            return;
        }
        self.sync.issued = point;
        self.prepared = self.prepared.max(point);
        let first = self.sync_point.next();
        for member in self.group.others() {
            self.send_prepare(member, first, world);
            let delay_ns = self.settings.timing.retransmit_ns;
            let due = world.now().after_ns(delay_ns);
            self.sync.resend[usize::from(member.0)] = Some((due, delay_ns));
        }
        let due = world.now().after_ns(self.settings.timing.retransmit_ns);
        self.timeouts.arm(Timeout::SyncResend, due);
        self.count_sync_acks(world);
    }

    fn send_prepare(&self, member: MemberId, first: Index, world: &mut impl World) {
        let last = self.sync.issued;
        let first = first.max(self.first).min(last.next());
        let (chain, _) = self.log.at(last).expect("what is proposed is in memory");
        let no_ops = self.log.no_ops_in(first, last);
        let log = LogSummary { first, last, no_ops, chain };
        let message_id = MessageId(last.since(self.base));
        world.send(member, Message::SyncPrepare { term: self.view, message_id, log });
    }

    /// Tells a member again what is proposed, from where it is, if it has not confirmed it.
    pub(super) fn repeat_prepare(&mut self, member: MemberId, world: &mut impl World) {
        let place = usize::from(member.0);
        let last = self.sync.last[place];
        if self.sync.issued <= last.unwrap_or_default() || mutant::is(Mutant::SyncPrepareOnce) {
            return;
        }
        mark!("sync-prepare-repeated");
        let first = last.unwrap_or(self.sync_point).min(self.sync_point).next();
        self.send_prepare(member, first, world);
    }

    pub(super) fn on_sync_resend_timeout(&mut self, world: &mut impl World) {
        if !self.is_leading() {
            return;
        }
        let (now, timing) = (world.now(), self.settings.timing);
        let mut next = None;
        for member in self.group.others() {
            let place = usize::from(member.0);
            let Some((mut due, mut delay_ns)) = self.sync.resend[place] else { continue };
            if due <= now {
                self.repeat_prepare(member, world);
                delay_ns = (delay_ns * 2).min(timing.retransmit_ns_max);
                due = now.after_ns(delay_ns);
                self.sync.resend[place] = Some((due, delay_ns));
            }
            next = Some(next.map_or(due, |next: Monotonic| next.min(due)));
        }
        if let Some(due) = next {
            self.timeouts.set(Timeout::SyncResend, due);
        }
    }

    /// A member's durable log is this one's up to `index`.
    pub(super) fn on_sync_response(
        &mut self,
        from: MemberId,
        index: Index,
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        self.check_is_leading()?;
        if index > self.log.last() {
            return Err(IgnoreReason::Malformed);
        }
        let place = usize::from(from.0);
        self.sync.last[place] = Some(index);
        self.sync.acks[place] = self.sync.acks[place].max(index);
        if index >= self.sync.issued {
            self.sync.resend[place] = None;
        } else if self.sync.resend[place].is_none() {
            // It had confirmed more in an earlier life.
            mark!("sync-response-fell-back");
            let delay_ns = self.settings.timing.retransmit_ns;
            let due = world.now().after_ns(delay_ns);
            self.sync.resend[place] = Some((due, delay_ns));
            self.timeouts.arm(Timeout::SyncResend, due);
        }
        self.count_sync_acks(world);
        Ok(())
    }

    /// Moves the sync point to what a quorum has confirmed (Y4).
    fn count_sync_acks(&mut self, world: &mut impl World) {
        let issued = self.sync.issued;
        let mut acks = self.sync.acks.map(|ack| ack.min(issued));
        acks[usize::from(self.group.me().0)] = issued;
        acks.sort_unstable_by(|a, b| b.cmp(a));
        let lacking = usize::from(mutant::is(Mutant::SyncWithoutQuorum));
        let point = acks[self.group.quorum_count() - 1 - lacking];
        if point > self.sync_point {
            mark!("sync-point");
            self.advance(point, world);
            self.sync.is_moved = true;
            self.tell_sync_point(world);
        }
    }

    /// Tells all followers of the sync point.
    pub(super) fn tell_sync_point(&mut self, world: &mut impl World) {
        self.sync.told = world.now();
        let sync_point = self.sync_point;
        let message_id = MessageId(sync_point.since(self.base));
        for member in self.group.others() {
            world.send(member, Message::SyncCommit { term: self.view, message_id, sync_point });
        }
    }

    /// With a ping: once more after it has moved, and from time to time.
    pub(super) fn refresh_sync_point(&mut self, world: &mut impl World) {
        let idle_ns = self.settings.timing.idle_ping_interval_ns;
        if std::mem::take(&mut self.sync.is_moved)
            || world.now().since_ns(self.sync.told) >= idle_ns
        {
            self.tell_sync_point(world);
        }
    }

    /// Whether a member holds all that this leader has stamped and answered, for good.
    pub(in crate::nopaxos) fn is_level_with(&self, member: MemberId) -> bool {
        let last = self.log.last();
        self.sync.acks[usize::from(member.0)] == last
            && self.sync_point == last
            && self.responded == last
    }

    /// Whether the others are about to be told of a new sync point.
    pub(super) fn sync_is_moving(&self) -> bool {
        self.sync.is_moved
    }

    /// Whether a member has not said yet that it has adopted the view.
    pub(super) fn lacks_view(&self, member: MemberId) -> bool {
        self.sync.acks[usize::from(member.0)] < self.base
            || self.sync.last[usize::from(member.0)].is_none()
    }

    /// What a member confirmed in an earlier life counts no longer.
    pub(super) fn void_sync(&mut self, member: MemberId) {
        let place = usize::from(member.0);
        self.sync.acks[place] = Index(0);
        self.sync.last[place] = None;
        for by in self.pending_gaps.values_mut() {
            by.remove(member);
        }
    }

    /// Moves the sync point to `index`, which is executed.
    #[inline]
    pub(super) fn advance(&mut self, index: Index, world: &mut impl World) {
        if index > self.sync_point {
            self.sync_point = index;
            self.unwritten_size_bytes += self.log.stabilise(index);
            let alone = self.group.is_alone();
            self.log.release(if alone { 0 } else { self.settings.retained_size_bytes });
            world.stabilise(index);
        }
        // Few slots can hold many bytes, and a restart holds all above the sync point in memory.
        if self.sync_point.since(self.sync_point_written) >= crate::base::limits::SYNC_BATCH_COUNT
            || self.unwritten_size_bytes >= SYNC_BATCH_SIZE_BYTES
        {
            self.write_sync_point(world);
        }
    }

    /// Writes the sync point to the durable log if it has moved: a restart then executes less
    /// again.
    pub(in crate::nopaxos) fn write_sync_point(&mut self, world: &mut impl World) {
        if self.sync_point > self.sync_point_written {
            world.persist(Persist::SyncPoint(self.sync_point));
            self.sync_point_written = self.sync_point;
            self.unwritten_size_bytes = 0;
        }
    }

    // ---- followers ----

    /// The leader proposes a sync point.
    pub(super) fn on_sync_prepare(
        &mut self,
        from: MemberId,
        message_id: MessageId,
        log: LogSummary,
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        self.check_leads_me(from)?;
        if log.last < self.base || message_id.0 != log.last.since(self.base) {
            return Err(IgnoreReason::Malformed);
        }
        if log.last <= self.prepared {
            self.send_sync_response(world);
            return Err(IgnoreReason::Duplicate);
        }
        if self.prepare.as_ref().is_some_and(|open| open.log.last > log.last) {
            return Err(IgnoreReason::Duplicate);
        }
        self.stamped = self.stamped.max(log.last);
        let refetched = self.prepare.take().and_then(|open| {
            // What this proposal adds was compared no more than the rest: it names no-ops from its
            // own first slot on.
            let added = (open.log.last.0 + 1..=log.last.0).map(Index);
            open.refetched.map(|refetched| refetched.into_iter().chain(added).collect())
        });
        self.prepare = Some(OpenPrepare {
            log,
            refetched,
            asked: BTreeSet::new(),
            received_size_bytes: 0,
            delay_ns: self.settings.timing.repair_retry_ns,
        });
        self.try_prepare(world);
        Ok(())
    }

    /// Makes the log equal to what is proposed, if all of it is here (Y3).
    pub(super) fn try_prepare(&mut self, world: &mut impl World) {
        let Some(open) = self.prepare.take() else { return };
        let point = open.log.last;
        if point <= self.prepared {
            self.reply_to_prepare_later(world);
            return;
        }
        if point > self.log.last() {
            let due = world.now().after_ns(self.settings.timing.gap_wait_ns);
            self.timeouts.arm(Timeout::SyncRepair, due);
            self.prepare = Some(open);
            return;
        }
        let first = self.prepared.next().max(open.log.first);
        let own = self.log.no_ops_in(first, point);
        let is_subset = own.is_subset(&open.log.no_ops);
        invariant!(self, "I2", is_subset, "an own no-op is a value at the leader");
        let differing: Vec<Index> =
            open.log.no_ops.range(first..=point.max(first)).copied().collect();
        let differing: Vec<Index> =
            differing.into_iter().filter(|index| !own.contains(index) && *index <= point).collect();
        if !differing.is_empty() {
            mark!("no-op-by-sync");
            self.overwrite(differing.iter().copied(), world);
        }
        let (chain, _) = self.log.at(point).expect("it is above the sync point");
        if chain == open.log.chain {
            self.timeouts.cancel(Timeout::SyncRepair);
            self.prepared = point;
            self.reply_to_prepare_later(world);
        } else {
            self.on_prepare_differs(open, world);
        }
    }

    /// The log is complete and yet another one: below what the leader has named no-ops of, a no-op
    /// may be a value here. Everything is compared slot by slot, once.
    fn on_prepare_differs(&mut self, mut open: OpenPrepare, world: &mut impl World) {
        let is_done = open.refetched.as_ref().is_some_and(BTreeSet::is_empty);
        invariant!(self, "I7", !is_done, "the log differs from the leader's");
        if open.refetched.is_none() {
            mark!("sync-refetch");
            let all = (self.prepared.0 + 1..=open.log.last.0).map(Index);
            open.refetched = Some(all.collect());
            self.prepare = Some(open);
            self.request_sync_repair(world);
        } else {
            self.prepare = Some(open);
        }
    }

    pub(super) fn on_sync_repair_timeout(&mut self, world: &mut impl World) {
        if self.status != Status::Normal || self.prepare.is_none() {
            return;
        }
        if self.transfer.is_some() {
            // A checkpoint is on its way: asked for again, it would begin again.
            let due = world.now().after_ns(self.settings.timing.repair_retry_ns);
            self.timeouts.set(Timeout::SyncRepair, due);
        } else {
            self.request_sync_repair(world);
        }
    }

    /// Asks the leader for what a proposed sync point needs (Y2).
    fn request_sync_repair(&mut self, world: &mut impl World) {
        let Some(mut open) = self.prepare.take() else { return };
        let wanted: BTreeSet<Index> = match &open.refetched {
            Some(refetched) => refetched.iter().copied().take(REPAIR_COUNT_MAX).collect(),
            None => {
                let missing = (self.log.last().0 + 1..=open.log.last.0).map(Index);
                let is_missing = |index: &Index| {
                    let message_id = MessageId(index.since(self.base));
                    self.stash.command(message_id).is_none() && !self.stash.has_no_op(*index)
                };
                missing.filter(is_missing).take(REPAIR_COUNT_MAX).collect()
            }
        };
        if !wanted.is_empty() {
            mark!("sync-repair");
            let slots = ranges(wanted.iter().copied());
            let wanted_slots = Wanted { checkpoint: Index(0), slots };
            let message = Message::SyncRepair { term: self.view, wanted: wanted_slots };
            world.send(self.leader(), message);
        }
        open.asked = wanted;
        open.received_size_bytes = 0;
        self.timeouts.set(Timeout::SyncRepair, world.now().after_ns(open.delay_ns));
        open.delay_ns = (open.delay_ns * 2).min(self.settings.timing.repair_retry_ns_max);
        self.prepare = Some(open);
    }

    /// Slots from the leader, to a follower that lacks them.
    pub(super) fn on_sync_entries(
        &mut self,
        entries: Vec<Entry>,
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        for entry in entries {
            let index = entry.index;
            if let Some(open) = &mut self.prepare {
                open.received_size_bytes += entry.size_bytes();
                open.asked.remove(&index);
            }
            if index > self.sync_point && index > self.base.min(self.log.last()) {
                self.on_sync_entry(entry, world);
            }
            if let Some(refetched) = self.prepare.as_mut().and_then(|open| open.refetched.as_mut())
            {
                refetched.remove(&index);
            }
        }
        self.drain(world);
        self.try_prepare(world);
        // What there is no room for is asked for again after a while only.
        let goes_on = world.has_room(1)
            && self.prepare.as_ref().is_some_and(|open| {
                open.asked.is_empty() || open.received_size_bytes >= REPAIR_SIZE_BYTES_MAX
            });
        if goes_on {
            if let Some(open) = &mut self.prepare {
                open.delay_ns = self.settings.timing.repair_retry_ns;
            }
            self.request_sync_repair(world);
        }
        Ok(())
    }

    fn on_sync_entry(&mut self, entry: Entry, world: &mut impl World) {
        let Entry { index, message_id, timestamp, value } = entry;
        let is_in_place = index == self.base.plus(message_id.0);
        invariant!(self, "I4", is_in_place, "the leader's slot is not the base and its message id");
        if index > self.log.last() {
            match value {
                Some(value) => {
                    let command = crate::nopaxos::message::Stamped {
                        term: self.view,
                        message_id,
                        timestamp,
                        value,
                    };
                    self.stash.insert(command);
                }
                None => {
                    self.stash.insert_no_op(index);
                }
            }
            return;
        }
        let Some(own) = self.log.slot(index) else { return };
        match value {
            Some(value) => {
                let is_same = own.value.as_ref() == Some(&value) && own.timestamp == timestamp;
                invariant!(self, "I3", is_same, "the leader has another value");
            }
            None if own.value.is_some() => {
                invariant!(self, "I2", index > self.prepared, "a prepared value becomes a no-op");
                mark!("no-op-by-repair");
                self.overwrite([index], world);
            }
            None => {}
        }
    }

    /// Says how much of the log is durable and the leader's, once all of it is.
    pub(super) fn reply_to_prepare_later(&mut self, world: &mut impl World) {
        self.sync_reply_due = true;
        self.reply_to_prepare(world);
    }

    pub(super) fn reply_to_prepare(&mut self, world: &mut impl World) {
        if self.sync_reply_due && self.durable.index() >= self.prepared {
            self.send_sync_response(world);
        }
    }

    /// Says how much of the log is durable and the leader's (2.21).
    pub(super) fn send_sync_response(&mut self, world: &mut impl World) {
        let index = self.prepared.min(self.durable.index());
        self.sync_reply_due &= index < self.prepared;
        world.send(self.leader(), Message::SyncResponse { term: self.view, index });
    }

    /// The leader's sync point (Y5).
    pub(super) fn on_sync_commit(
        &mut self,
        from: MemberId,
        point: Index,
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        self.check_leads_me(from)?;
        let mut reached = point.min(self.prepared);
        if mutant::is(Mutant::ApplyBeyondPrepared) {
            reached = point.min(self.log.last());
            self.prepared = self.prepared.max(reached);
        }
        if reached > self.sync_point {
            mark!("sync-commit");
            self.apply_to(reached, world);
            self.advance(reached, world);
        }
        if point > self.prepared && self.prepare.is_none() {
            // The leader may believe that more was prepared: in an earlier life it was.
            mark!("sync-commit-beyond-prepared");
            self.send_sync_response(world);
        }
        Ok(())
    }

    fn apply_to(&mut self, point: Index, world: &mut impl World) {
        while self.applied < point {
            let index = self.applied.next();
            let slot = self.log.slot(index);
            invariant!(self, "I7", slot.is_some(), "a stable slot is missing");
            if let Some(slot) = slot.filter(|slot| slot.value.is_some()) {
                world.apply(index, slot);
            }
            self.applied = index;
        }
    }
}
