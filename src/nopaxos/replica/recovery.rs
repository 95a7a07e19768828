//! Lives and the way back after a loss (3.6; the idea is that of "Recovering Shared Objects Without
//! Stable Storage", DISC 2017).
//!
//! A member that has lost what it promised begins a new life, with a higher incarnation. The others
//! are told before they tell it anything, and void whatever its earlier lives have said: votes,
//! acks, confirmed no-ops and sync points. What a member has heard of lives is its *crash vector*.
//! Every connection begins with the sender's vector, and changes travel on it before any later
//! message (a relayed `Recover`); so whatever is counted together was said by lives that knew of
//! each other, and no quorum rests on a promise that was forgotten.
//!
//! A raised vector takes effect here once it is durable (W7); until then nothing is answered, so
//! what was said meanwhile was said before the new life had its answer, which then covers it.
//!
//! 1. The recovering member asks which life it is (R2): the highest that anybody knows, and one.
//! 2. It asks for the state (R3). A quorum of *others*, all part of a view, the leader of the
//!    highest one among them, must answer (R4).
//! 3. It copies that leader's log, also what lies above the frontier: an earlier life may have
//!    confirmed a no-op there (R5). Then it is a follower. It never stamps in that term. If it has
//!    promised a higher view than any of them, which nobody has begun, it asks for that one, as a
//!    member does that is stuck in a view change: the others follow a wish that lasts (E3).
//! 4. If all others are as empty as itself, the group is new (R6).
//!
//! A member whose disk went back in time doesn't know that it has lost anything, but others may
//! (`storage::witness`). Whoever notices it takes the member's life for over, as if the next one
//! had begun, and says so to the member, by a `Recover` about the member itself; and so do all
//! later greetings. A member that hears of a life of its own that it doesn't know begins to
//! recover, whatever it was doing.

use super::*;
use crate::base::limits::REPAIR_SIZE_BYTES_MAX;
use crate::base::mutant::{self, Mutant};
use crate::nopaxos::message::{Entry, RecoveryId};

/// A recovery that is under way.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Recovery {
    /// The first term of a group that has none.
    first_term: TermId,
    nonce: u128,
    delay_ns: u64,
    /// The life is known and durable: the state is asked for.
    has_life: bool,
    /// Which of the writes of lives that was.
    life_write: Option<u64>,
    /// Who has answered this nonce, and what.
    answers: [Option<RecoverAnswer>; MEMBER_COUNT_MAX],
    /// The `StartView` that each member has sent last.
    start_views: [Option<(TermId, TermId, LogSummary)>; MEMBER_COUNT_MAX],
    /// The view whose log is being copied.
    copying: Option<TermId>,
    /// Which write says that it was copied.
    copied_write: Option<u64>,
}

#[derive(Clone, Debug)]
struct RecoverAnswer {
    /// 0: it has never been part of a view.
    term: TermId,
    message_id: MessageId,
    entries: Vec<Entry>,
}

/// Writes of the crash vector, and who waits for them.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Lives {
    issued_count: u64,
    durable_count: u64,
    waiting: Vec<(u64, MemberId, RecoveryId)>,
}

impl Replica {
    // ---- lives ----

    /// Which life sent a message: an earlier one has no say (C8).
    pub(super) fn check_life(
        &mut self,
        from: MemberId,
        incarnation: Incarnation,
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        if mutant::is(Mutant::IgnoreCrashVector) {
            return Ok(());
        }
        let known = self.crash_vector[usize::from(from.0)];
        if incarnation < known {
            mark!("earlier-life");
            return Err(IgnoreReason::StaleIncarnation);
        }
        if incarnation > known && self.raise(from, incarnation, world) {
            self.persist_lives(world);
        }
        Ok(())
    }

    /// What another member knows of lives: when a connection with it begins.
    pub(in crate::nopaxos) fn on_crash_vector(
        &mut self,
        vector: &[Incarnation],
        world: &mut impl World,
    ) {
        let members = self.group.all();
        let mut is_raised = false;
        for (member, incarnation) in members.zip(vector) {
            is_raised |= self.raise(member, *incarnation, world);
        }
        if is_raised && !self.begin_anew(world) {
            self.persist_lives(world);
        }
    }

    /// A member's disk isn't the one that it was: it has said more than it knows now. What it says
    /// counts no longer, as if it had begun a new life; and it is told, so that it does.
    pub(in crate::nopaxos) fn on_rolled_back(&mut self, member: MemberId, world: &mut impl World) {
        let incarnation = self.crash_vector[usize::from(member.0)].next();
        mark!("member-rolled-back");
        self.raise(member, incarnation, world);
        self.persist_lives(world);
        // If it is lost, the next connection with it begins with the same.
        let attempt = RecoveryId { incarnation, nonce: 0 };
        world.send(member, Message::Recover { member, attempt });
    }

    /// Others may know of a life of this member that it doesn't know itself: its disk went back in
    /// time, and what it has said since counts for nothing, nor does what it holds above the sync
    /// point. It begins anew then, which is written in one with the life that it has heard of:
    /// else a restart in between would take that for its own. Whether it did.
    fn begin_anew(&mut self, world: &mut impl World) -> bool {
        let known = self.crash_vector[usize::from(self.group.me().0)];
        let asks_for_life =
            self.recovery.as_ref().is_some_and(|recovery| recovery.life_write.is_none());
        if known <= self.incarnation || asks_for_life || self.group.is_alone() {
            return false;
        }
        mark!("own-life-unknown");
        // The way back may lead into the same view, and what is stable stays.
        self.write_sync_point(world);
        self.leave(world);
        for timeout in
            [Timeout::Silence, Timeout::ViewChange, Timeout::ViewChangeRetry, Timeout::Endorse]
        {
            self.timeouts.cancel(timeout);
        }
        self.votes.fill(None);
        self.status = Status::Recovering;
        self.recovery = Some(Recovery { first_term: TermId(1), ..Recovery::default() });
        self.write_lives(true, world);
        self.start_recovery(world);
        true
    }

    /// A life of a member is known: what earlier ones said is void. Whether that is new.
    fn raise(
        &mut self,
        member: MemberId,
        incarnation: Incarnation,
        world: &mut impl World,
    ) -> bool {
        let known = &mut self.crash_vector[usize::from(member.0)];
        if incarnation <= *known {
            return false;
        }
        *known = incarnation;
        if mutant::is(Mutant::IgnoreCrashVector) || member == self.group.me() {
            return true;
        }
        mark!("life-raised");
        if self.adoption.is_none() && !self.is_adopting() {
            self.votes[usize::from(member.0)] = None;
        }
        self.void_sync(member);
        self.void_election(member);
        world.void(member);
        true
    }

    fn persist_lives(&mut self, world: &mut impl World) -> u64 {
        let is_lost = self.recovery.as_ref().is_some_and(|open| open.copied_write.is_none());
        self.write_lives(is_lost, world)
    }

    fn write_lives(&mut self, is_lost: bool, world: &mut impl World) -> u64 {
        // What is being written of others, and takes effect once it is durable, stays written.
        let mut crash_vector = self.crash_vector.clone();
        for (_, member, attempt) in &self.lives.waiting {
            let known = &mut crash_vector[usize::from(member.0)];
            *known = attempt.incarnation.max(*known);
        }
        let incarnation = self.incarnation;
        world.persist(Persist::Lives { incarnation, crash_vector: &crash_vector, is_lost });
        self.lives.issued_count += 1;
        self.lives.issued_count
    }

    /// Lives are durable (W7): those who asked are answered, the others told.
    pub(super) fn on_lives_persisted(&mut self, world: &mut impl World) {
        self.lives.durable_count += 1;
        let durable = self.lives.durable_count;
        let waiting = std::mem::take(&mut self.lives.waiting);
        for (write, member, attempt) in waiting {
            if write > durable {
                self.lives.waiting.push((write, member, attempt));
            } else {
                self.on_life_durable(member, attempt, world);
            }
        }
        let Some(recovery) = &mut self.recovery else { return };
        if recovery.life_write.is_some_and(|write| write <= durable) && !recovery.has_life {
            recovery.has_life = true;
            // Whoever answered the first question has not voided anything yet.
            recovery.answers = Default::default();
            recovery.start_views = Default::default();
            self.ask(world);
        } else if recovery.copied_write.is_some_and(|write| write <= durable) {
            self.finish_recovery(world);
        }
    }

    fn on_life_durable(&mut self, member: MemberId, attempt: RecoveryId, world: &mut impl World) {
        if self.raise(member, attempt.incarnation, world) {
            mark!("life-relayed");
        }
        // Relayed even if it is known by now: those who hear it twice don't mind.
        for other in self.group.others().filter(|other| *other != member) {
            world.send(other, Message::Recover { member, attempt });
        }
        self.answer_recover(member, attempt, world);
    }

    // ---- members that are asked ----

    /// A member has lost what it held.
    pub(super) fn on_recover(
        &mut self,
        from: MemberId,
        member: MemberId,
        attempt: RecoveryId,
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        if usize::from(member.0) >= self.group.count() {
            return Err(IgnoreReason::Malformed);
        }
        if member == self.group.me() {
            if !self.raise(member, attempt.incarnation, world) {
                return Err(IgnoreReason::Duplicate);
            }
            if !self.begin_anew(world) {
                self.persist_lives(world);
            }
            return Ok(());
        }
        let known = self.crash_vector[usize::from(member.0)];
        if from != member {
            let is_raised = self.raise(member, attempt.incarnation, world);
            if is_raised {
                self.note_recovering(member);
                self.persist_lives(world);
            }
            return is_raised.then_some(()).ok_or(IgnoreReason::Duplicate);
        }
        self.note_recovering(member);
        if attempt.incarnation == Incarnation(0) {
            // It asks which life it is: the crash vector has told it when the connection began.
            let term = if self.status == Status::Recovering { TermId(0) } else { self.view };
            let message_id = MessageId(0);
            let response = Message::RecoverResponse {
                attempt,
                term,
                message_id,
                chunk: None,
                entries: Vec::new(),
            };
            world.send(member, response);
            return Ok(());
        }
        let of_member = |(_, other, _): &&(u64, MemberId, RecoveryId)| *other == member;
        let waiting =
            self.lives.waiting.iter().find(of_member).map(|(.., found)| found.incarnation);
        if attempt.incarnation < waiting.unwrap_or_default().max(known) {
            return Err(IgnoreReason::StaleIncarnation);
        }
        if attempt.incarnation == known {
            self.answer_recover(member, attempt, world);
            return Ok(());
        }
        self.lives.waiting.retain(|(_, other, _)| *other != member);
        self.lives.waiting.push((self.lives.issued_count + 1, member, attempt));
        self.persist_lives(world);
        Ok(())
    }

    /// Tells a recovering member what it must know, if this one knows (R3).
    fn answer_recover(&mut self, member: MemberId, attempt: RecoveryId, world: &mut impl World) {
        let is_cold = self.last_normal == TermId(0) && self.status != Status::Normal;
        let is_lost = self.status == Status::Recovering && self.view > TermId(0);
        let (term, message_id) = match self.status {
            Status::Normal => (self.view, MessageId(self.log.last().since(self.base))),
            Status::ViewChange | Status::Recovering if is_cold && !is_lost => {
                (TermId(0), MessageId(0))
            }
            Status::ViewChange | Status::Recovering => return,
        };
        mark!("recover-answered");
        if self.is_leading() {
            self.send_start_view(member, world);
        }
        let response = Message::RecoverResponse {
            attempt,
            term,
            message_id,
            chunk: None,
            entries: if self.is_leading() { self.entries_after_base() } else { Vec::new() },
        };
        world.send(member, response);
        let is_missed = member == self.leader() || member == self.sequencer();
        if self.status == Status::Normal && is_missed {
            mark!("leader-recovers");
            self.on_leader_restarted(world);
        }
    }

    /// The leader's slots above the base, as many as fit a message.
    fn entries_after_base(&self) -> Vec<Entry> {
        let mut size_bytes = 0;
        (self.base.0 + 1..=self.log.last().0)
            .map(Index)
            .filter_map(|index| Some(repair::entry(index, self.log.slot(index)?)))
            .take_while(|entry| {
                size_bytes += entry.size_bytes();
                size_bytes < REPAIR_SIZE_BYTES_MAX / 4
            })
            .collect()
    }

    // ---- the member that recovers ----

    /// Begins to ask (R1).
    pub(super) fn start_recovery(&mut self, world: &mut impl World) {
        mark!("recover");
        self.next_attempt(world);
    }

    /// The first term of the group, should it be a new one.
    pub(in crate::nopaxos) fn note_first_term(&mut self, first_term: TermId) {
        if let Some(recovery) = &mut self.recovery {
            recovery.first_term = first_term.max(TermId(1));
        }
    }

    /// The view whose log is being copied.
    pub(super) fn recovering_into(&self) -> Option<TermId> {
        self.recovery.as_ref().and_then(|recovery| recovery.copying)
    }

    /// Asks all others anew: what they answered before counts no longer.
    fn next_attempt(&mut self, world: &mut impl World) {
        let high = u128::from(self.prng.next_u64()) << 64;
        let nonce = high | u128::from(self.prng.next_u64());
        let timing = self.settings.timing;
        let Some(recovery) = &mut self.recovery else { return };
        recovery.nonce = nonce;
        recovery.answers = Default::default();
        recovery.copying = None;
        recovery.delay_ns = match recovery.delay_ns {
            0 => timing.recover_retry_ns,
            delay_ns => (delay_ns * 2).min(timing.recover_retry_ns_max),
        };
        let due = world.now().after_ns(recovery.delay_ns);
        (self.adoption, self.transfer) = (None, None);
        self.timeouts.cancel(Timeout::Fetch);
        self.timeouts.cancel(Timeout::Chunk);
        self.timeouts.set(Timeout::Recover, due);
        self.ask(world);
    }

    fn attempt(&self) -> Option<RecoveryId> {
        let recovery = self.recovery.as_ref()?;
        let incarnation = if recovery.has_life { self.incarnation } else { Incarnation(0) };
        Some(RecoveryId { incarnation, nonce: recovery.nonce })
    }

    fn ask(&mut self, world: &mut impl World) {
        let Some(attempt) = self.attempt() else { return };
        let member = self.group.me();
        for other in self.group.others() {
            world.send(other, Message::Recover { member, attempt });
        }
    }

    pub(super) fn repeat_recover(&mut self, to: MemberId, world: &mut impl World) {
        if let Some(attempt) = self.attempt() {
            world.send(to, Message::Recover { member: self.group.me(), attempt });
        }
        self.resume_fetch(to, world);
    }

    pub(super) fn on_recover_timeout(&mut self, world: &mut impl World) {
        let has_progressed = self.take_progress();
        let Some(recovery) = &mut self.recovery else { return };
        if recovery.copied_write.is_some() {
            return;
        }
        if recovery.copying.is_some() && has_progressed {
            let due = world.now().after_ns(recovery.delay_ns);
            self.timeouts.set(Timeout::Recover, due);
            return;
        }
        mark!("recover-again");
        self.next_attempt(world);
    }

    /// A member has answered.
    pub(super) fn on_recover_response(
        &mut self,
        from: MemberId,
        message: Message,
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        let Message::RecoverResponse { attempt, term, message_id, entries, .. } = message else {
            return Err(IgnoreReason::Malformed);
        };
        if self.attempt() != Some(attempt) {
            return Err(IgnoreReason::Unasked);
        }
        let Some(recovery) = &mut self.recovery else { return Err(IgnoreReason::Unasked) };
        if recovery.copying.is_some() || recovery.copied_write.is_some() {
            return Err(IgnoreReason::Duplicate);
        }
        recovery.answers[usize::from(from.0)] = Some(RecoverAnswer { term, message_id, entries });
        let others = self.group.count() - 1;
        let answers = recovery.answers.iter().flatten();
        let in_view = answers.clone().filter(|answer| answer.term > TermId(0)).count();
        let is_all = answers.count() == others;
        if !recovery.has_life {
            if in_view >= self.group.quorum_count() || is_all {
                self.begin_life(world);
            }
        } else if is_all && in_view == 0 {
            self.start_cold(world);
        } else if in_view >= self.group.quorum_count() {
            self.choose_view(world);
        }
        Ok(())
    }

    /// Enough members have told which lives they know: this is the next (R2).
    fn begin_life(&mut self, world: &mut impl World) {
        let me = usize::from(self.group.me().0);
        if self.recovery.as_ref().is_some_and(|recovery| recovery.life_write.is_some()) {
            return;
        }
        self.incarnation = self.incarnation.max(self.crash_vector[me]).next();
        self.crash_vector[me] = self.incarnation;
        mark!("life-begun");
        let write = self.write_lives(true, world);
        if let Some(recovery) = &mut self.recovery {
            recovery.life_write = Some(write);
            recovery.answers = Default::default();
        }
    }

    /// Nobody has anything: the group is new (R6).
    fn start_cold(&mut self, world: &mut impl World) {
        if self.view > TermId(0) {
            return;
        }
        mark!("cold-start");
        let first_term = self.recovery.take().map_or(TermId(1), |recovery| recovery.first_term);
        self.timeouts.cancel(Timeout::Recover);
        self.status = Status::ViewChange;
        self.write_lives(false, world);
        self.want_first_view(first_term, world);
    }

    /// A quorum of others is part of views (R4).
    fn choose_view(&mut self, world: &mut impl World) {
        let Some(recovery) = &mut self.recovery else { return };
        let term = recovery.answers.iter().flatten().map(|answer| answer.term).max();
        let Some(term) = term else { return };
        if term < self.view {
            self.ask_for_promised_view(world);
            return;
        }
        let leader = self.group.leader(term);
        let place = usize::from(leader.0);
        if leader == self.group.me() {
            return;
        }
        let Some(answer) = recovery.answers[place].clone() else { return };
        let Some((of, source_term, log)) = recovery.start_views[place].clone() else { return };
        if answer.term != term || of != term {
            return;
        }
        mark!("recovery-copies");
        recovery.copying = Some(term);
        self.note_progress();
        self.view = term;
        // The own stable prefix may reach into the term; it is kept.
        let last = log.last.plus(answer.message_id.0);
        invariant!(self, "I1", last >= self.sync_point, "a leader's log ends below a sync point");
        let adoption = self.adoption_of(source_term, log, last, false);
        self.copy(adoption, leader, answer.entries, world);
    }

    /// The leader says with what its view has started: directly before its answer.
    pub(super) fn on_start_view_recovering(
        &mut self,
        from: MemberId,
        term: TermId,
        (source_term, log): (TermId, LogSummary),
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        if from != self.group.leader(term) {
            return Err(IgnoreReason::BadSender);
        }
        if source_term >= term || log.first > log.last.next() || log.first == Index(0) {
            return Err(IgnoreReason::Malformed);
        }
        let Some(recovery) = &mut self.recovery else { return Err(IgnoreReason::Unasked) };
        if recovery.copying.is_some() || recovery.copied_write.is_some() {
            return Err(IgnoreReason::Duplicate);
        }
        recovery.start_views[usize::from(from.0)] = Some((term, source_term, log));
        let in_view = recovery.answers.iter().flatten().filter(|answer| answer.term > TermId(0));
        if recovery.has_life && in_view.count() >= self.group.quorum_count() {
            self.choose_view(world);
        }
        Ok(())
    }

    /// The view's log is here: what the leader has appended since follows it, and then the note
    /// that nothing is lost any more.
    pub(super) fn finish_recovery_copy(&mut self, appended: Vec<Slot>, world: &mut impl World) {
        if self.recovery.is_none() {
            invariant!(self, "I4", appended.is_empty(), "a view starts with slots above its base");
            return;
        }
        for mut slot in appended {
            slot.term = self.view;
            if slot.value.is_none() {
                slot.timestamp = self.log.last_timestamp();
            }
            self.append(slot, world);
        }
        self.timeouts.cancel(Timeout::Recover);
        let write = self.write_lives(false, world);
        if let Some(recovery) = &mut self.recovery {
            recovery.copied_write = Some(write);
        }
    }

    /// All of it is durable: this member is part of the view again (R5).
    fn finish_recovery(&mut self, world: &mut impl World) {
        mark!("recovered");
        self.prepared = self.log.last();
        self.enter_normal(world);
        self.recovery = None;
        // It may lead again.
        for member in self.group.others() {
            world.send(member, Message::Ping { term: self.view });
        }
        if self.sequencer() == self.group.me() {
            self.on_leader_restarted(world);
        }
    }
}
