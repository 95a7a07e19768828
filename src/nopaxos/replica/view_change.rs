//! View changes (`NOPaxos`, view changes; 3.4): promise, vote, merge, start.
//!
//! 1. Endorsed by a quorum a member *moves*; shown that a higher view has begun it *jumps*; shown
//!    for a while by somebody's votes that it was left behind it moves as well (E3). Each way it
//!    promises the view durably (W1) and then votes with what its log holds.
//! 2. The leader of the view freezes a quorum of votes, once (M1), and merges their logs.
//! 3. It fetches what it lacks, adopts the result durably (W2), and starts the view.
//! 4. The others adopt the same log: `adoption`.
//!
//! The log isn't touched between the promise and the adoption, so a vote is the same however often
//! it is sent (I8).

use super::log_merge::{Own, log_merge};
use super::*;
use crate::base::mutant::{self, Mutant};

impl Replica {
    /// A quorum wants a view: this member tells the others, and votes.
    pub(super) fn move_to(&mut self, term: TermId, world: &mut impl World) {
        self.leave_for(term, world);
        for member in self.group.others() {
            world.send(member, Message::ViewChangeRequest { term });
        }
    }

    /// A view has begun without this member.
    pub(super) fn jump_to(&mut self, term: TermId, world: &mut impl World) {
        self.leave_for(term, world);
    }

    /// Leaves the present view and promises `term` (J). The log and what was executed stay as they
    /// are.
    fn leave_for(&mut self, term: TermId, world: &mut impl World) {
        invariant!(self, "I8", term > self.view, "a view goes back");
        if self.status == Status::Normal {
            self.note_view_left(world.now());
        }
        self.leave(world);
        for vote in &mut self.votes {
            vote.take_if(|(of, _)| *of < term);
        }
        self.view = term;
        self.status = Status::ViewChange;
        world.persist(Persist::View(term));
        self.arm_view_change(world);
    }

    /// Takes no part in the present view any more.
    pub(super) fn leave(&mut self, world: &mut impl World) {
        world.view_left();
        for timeout in [
            Timeout::Flush,
            Timeout::Gap,
            Timeout::GapGivenUp,
            Timeout::GapCommit,
            Timeout::Sync,
            Timeout::SyncResend,
            Timeout::SyncRepair,
            Timeout::Ping,
            Timeout::Silence,
            Timeout::MergeGrace,
            Timeout::Fetch,
            Timeout::Chunk,
        ] {
            self.timeouts.cancel(timeout);
        }
        self.stash.clear();
        self.stamped = Index(0);
        self.pending_gaps.clear();
        self.gap_replies.clear();
        self.lookups_answered.clear();
        self.answered.clear();
        (self.prepare, self.transfer, self.adoption) = (None, None, None);
        (self.vote, self.started) = (None, None);
        (self.ack_due, self.sync_reply_due, self.is_barred) = (false, false, false);
    }

    /// Whether the view was adopted and waits for the durable log (W2).
    pub(super) fn is_adopting(&self) -> bool {
        self.status == Status::ViewChange && self.last_normal == self.view && !self.is_barred
    }

    /// W1 is durable: the vote may be cast.
    pub(super) fn on_view_persisted(&mut self, term: TermId, world: &mut impl World) {
        if term != self.view || self.status != Status::ViewChange || self.is_adopting() {
            return;
        }
        // The log was written before the promise and has not changed since.
        self.durable.appended = self.log.last();
        if self.adoption.is_none() {
            self.cast_vote(world);
        }
    }

    /// Votes with what the log holds.
    pub(super) fn cast_vote(&mut self, world: &mut impl World) {
        self.note_truncated();
        let last = self.log.last();
        let vote = Vote {
            voter: self.group.me(),
            last_normal: self.last_normal,
            base: self.base,
            first: self.first,
            last,
            no_ops: self.log.no_ops_in(self.first, last),
        };
        self.vote = Some((vote.clone(), self.log.chain()));
        if self.leader() == self.group.me() {
            self.votes[usize::from(self.group.me().0)] = Some((self.view, vote));
            self.arm_view_change_retry(world);
            self.merge_votes(world);
        } else {
            self.send_vote(self.leader(), world);
            self.arm_view_change_retry(world);
        }
    }

    /// Sends the vote to the leader of the view, which counts it, or to another member: that is
    /// shown that the view was left for which it may still be part of.
    pub(super) fn send_vote(&mut self, to: MemberId, world: &mut impl World) {
        let Some((vote, chain)) = &self.vote else { return };
        if to == self.group.me() || self.adoption.is_some() || self.is_adopting() {
            return;
        }
        let Vote { last_normal, base, first, last, no_ops, .. } = vote.clone();
        let log = LogSummary { first, last, no_ops, chain: *chain };
        world.send(to, Message::ViewChange { term: self.view, last_normal, base, log });
    }

    fn arm_view_change_retry(&mut self, world: &mut impl World) {
        let due = world.now().after_ns(self.settings.timing.view_change_retry_ns);
        self.timeouts.set(Timeout::ViewChangeRetry, due);
    }

    /// Votes and started views are repeated.
    pub(super) fn on_view_change_retry_timeout(&mut self, world: &mut impl World) {
        match self.status {
            Status::ViewChange if self.vote.is_some() => {
                // To all: who hears this member and not those with whom it was a quorum follows.
                for member in self.group.others() {
                    self.send_vote(member, world);
                }
                self.arm_view_change_retry(world);
            }
            Status::Normal if self.is_leading() => {
                let lacking: Vec<MemberId> =
                    self.group.others().filter(|member| self.lacks_view(*member)).collect();
                for member in &lacking {
                    self.send_start_view(*member, world);
                }
                if !lacking.is_empty() {
                    self.arm_view_change_retry(world);
                }
            }
            Status::Normal | Status::ViewChange | Status::Recovering => {}
        }
    }

    /// A member asks for the present view.
    pub(super) fn on_view_change_request(
        &mut self,
        from: MemberId,
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        self.check_is_leading()?;
        self.send_start_view(from, world);
        Ok(())
    }

    /// A vote for the view that this member is to lead.
    pub(super) fn on_view_change(
        &mut self,
        from: MemberId,
        message: Message,
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        if self.is_leading() {
            if mutant::is(Mutant::RemergeOnLateVote) {
                self.note_vote(from, message, world)?;
                return self.merge_again(world);
            }
            mark!("late-vote");
            self.send_start_view(from, world);
            return Ok(());
        }
        if self.leader() != self.group.me() {
            return Err(IgnoreReason::NotLeading);
        }
        self.note_vote(from, message, world)?;
        self.merge_votes(world);
        Ok(())
    }

    /// Keeps a vote for a view that may yet be promised.
    pub(super) fn note_vote(
        &mut self,
        from: MemberId,
        message: Message,
        _world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        let Message::ViewChange { term, last_normal, base, log } = message else { return Ok(()) };
        let is_empty = log.first > log.last;
        let is_whole = last_normal < term
            && log.first > Index(0)
            && log.first <= log.last.next()
            && base <= log.last
            && log.no_ops.first().is_none_or(|first| !is_empty && *first >= log.first)
            && log.no_ops.last().is_none_or(|last| *last <= log.last);
        if !is_whole {
            return Err(IgnoreReason::Malformed);
        }
        if self.group.leader(term) != self.group.me() {
            return Ok(());
        }
        let LogSummary { first, last, no_ops, .. } = log;
        let vote = Vote { voter: from, last_normal, base, first, last, no_ops };
        let place = &mut self.votes[usize::from(from.0)];
        match place {
            Some((of, _)) if *of > term => return Err(IgnoreReason::StaleView),
            // Once the votes are frozen none counts any more (M1).
            Some((of, _)) if *of == term && self.adoption.is_some() => {
                return Err(IgnoreReason::Duplicate);
            }
            Some((of, cast)) if *of == term && !is_same_vote(cast, &vote) => {
                return Err(IgnoreReason::ChangedVote);
            }
            _ => *place = Some((term, vote)),
        }
        Ok(())
    }

    /// Whether the votes of a quorum are here, this member's own among them.
    fn present_votes(&self) -> Option<Vec<Vote>> {
        let is_present = |(of, _): &&(TermId, Vote)| *of == self.view;
        let has_mine = self.vote.is_some();
        let votes: Vec<Vote> =
            self.votes.iter().flatten().filter(is_present).map(|(_, vote)| vote.clone()).collect();
        (has_mine && votes.len() >= self.group.quorum_count()).then_some(votes)
    }

    fn may_merge(&self) -> bool {
        self.status == Status::ViewChange
            && self.leader() == self.group.me()
            && !self.is_barred
            && self.adoption.is_none()
            && !self.is_adopting()
    }

    /// With a quorum's votes, and perhaps a little later, the view's log is decided.
    fn merge_votes(&mut self, world: &mut impl World) {
        if !self.may_merge() {
            return;
        }
        let Some(votes) = self.present_votes() else { return };
        if votes.len() == self.group.count() {
            self.freeze(world);
        } else {
            let due = world.now().after_ns(self.settings.timing.merge_grace_ns);
            self.timeouts.arm(Timeout::MergeGrace, due);
        }
    }

    /// Merges the votes that are here: from now on none counts any more in this view (M1).
    ///
    /// # Panics
    /// If the votes contradict what is stable: going on would lose what was acknowledged.
    pub(super) fn freeze(&mut self, world: &mut impl World) {
        if !self.may_merge() {
            return;
        }
        let Some(votes) = self.present_votes() else { return };
        self.timeouts.cancel(Timeout::MergeGrace);
        let own = Own {
            last_normal: self.last_normal,
            sync_point: self.sync_point,
            last: self.log.last(),
        };
        match log_merge(&votes, own) {
            Ok(plan) => {
                mark!("merge");
                self.begin_merge(plan, world);
            }
            Err(error) => panic!("partition {}: {error}", self.group.partition()),
        }
    }

    /// A planted bug: what the paper's model does with a late vote (P1).
    fn merge_again(&mut self, world: &mut impl World) -> Result<(), IgnoreReason> {
        let Some(votes) = self.present_votes() else { return Err(IgnoreReason::Duplicate) };
        let own =
            Own { last_normal: TermId(0), sync_point: self.sync_point, last: self.log.last() };
        let Ok(plan) = log_merge(&votes, own) else { return Err(IgnoreReason::Duplicate) };
        if let Some((_, log)) = &mut self.started
            && plan.last == log.last
            && !plan.no_ops.is_subset(&log.no_ops)
        {
            log.no_ops.extend(plan.no_ops);
            log.chain = Chain::NONE;
        }
        for member in self.group.others() {
            self.send_start_view(member, world);
        }
        Ok(())
    }

    /// Sends the log with which the view starts: the same whenever it is sent (I5).
    pub(super) fn send_start_view(&mut self, to: MemberId, world: &mut impl World) {
        if let Some((source_term, log)) = &self.started {
            let (term, source_term, log) = (self.view, *source_term, log.clone());
            world.send(to, Message::StartView { term, source_term, log });
        }
    }

    pub(super) fn repeat_start_view(&mut self, member: MemberId, world: &mut impl World) {
        if self.lacks_view(member) {
            self.send_start_view(member, world);
        }
    }

    /// The log with which the present view starts.
    pub(super) fn on_start_view(
        &mut self,
        from: MemberId,
        source_term: TermId,
        log: LogSummary,
        world: &mut impl World,
    ) -> Result<(), IgnoreReason> {
        self.check_leads(from)?;
        if source_term >= self.view || log.first > log.last.next() || log.first == Index(0) {
            return Err(IgnoreReason::Malformed);
        }
        self.check_started(source_term, &log);
        if self.last_normal == self.view && !mutant::is(Mutant::ReadoptStartView) {
            if self.status == Status::Normal {
                mark!("start-view-again");
                self.send_sync_response(world);
            }
            return Err(IgnoreReason::Duplicate);
        }
        if self.adoption.is_some() || self.is_adopting() {
            return Err(IgnoreReason::Duplicate);
        }
        invariant!(self, "I1", log.last >= self.sync_point, "a view starts below the sync point");
        mark!("adopt");
        self.status = Status::ViewChange;
        self.begin_adoption(source_term, log, world);
        Ok(())
    }

    /// Whatever is known of the view's start is the same in every copy (I5).
    pub(super) fn check_started(&self, source_term: TermId, log: &LogSummary) {
        let known = match &self.adoption {
            Some(adoption) => adoption.started(),
            None => self.started.as_ref().map(|(term, log)| (*term, log)),
        };
        if let Some((known_term, known)) = known {
            let first = known.first.max(log.first);
            let is_same = known_term == source_term
                && known.last == log.last
                && known.chain == log.chain
                && known.no_ops.range(first..).eq(log.no_ops.range(first..));
            invariant!(self, "I5", is_same, "a view starts with two logs");
        } else if self.last_normal == self.view {
            invariant!(self, "I5", self.base == log.last, "a view has two bases");
        }
    }

    /// W2 is durable: the view starts (M7, A5).
    pub(super) fn on_adopted(&mut self, term: TermId, world: &mut impl World) {
        if term != self.view || !self.is_adopting() {
            return;
        }
        self.enter_normal(world);
    }

    /// Becomes part of the view whose log was adopted.
    pub(super) fn enter_normal(&mut self, world: &mut impl World) {
        self.status = Status::Normal;
        self.durable.appended = self.log.last();
        if !mutant::is(Mutant::RemergeOnLateVote) {
            self.vote = None;
            self.votes.fill(None);
        }
        for timeout in [Timeout::ViewChangeRetry, Timeout::MergeGrace, Timeout::Fetch] {
            self.timeouts.cancel(timeout);
        }
        self.settle_election(world.now());
        let (_, last_timestamp) = self.log.at(self.base.max(self.log.floor())).unwrap_or_default();
        let leading = self.is_leading();
        world.view_started(ViewStarted {
            term: self.view,
            base: self.base,
            last_timestamp,
            sequencing: self.sequencer() == self.group.me() && self.recovery.is_none(),
        });
        self.arm_silence(world);
        if leading {
            self.lead(world);
        } else {
            self.follow(world);
        }
        if leading || self.sequencer() == self.group.me() {
            self.arm_ping(world);
        }
        if self.group.is_alone() {
            self.timeouts.cancel(Timeout::Ping);
        }
    }

    /// Begins to lead the view (M7).
    fn lead(&mut self, world: &mut impl World) {
        mark!("lead");
        for member in self.group.others() {
            self.send_start_view(member, world);
        }
        self.execute(world);
        // Nobody of this term waits for what came of the slots of earlier ones.
        self.drop_results();
        self.responded = self.applied;
        if self.group.is_alone() {
            self.sync(world);
            self.write_sync_point(world);
        } else {
            self.start_sync(world);
            self.arm_view_change_retry(world);
        }
        self.drain(world);
    }

    /// Begins to follow the view's leader.
    pub(super) fn follow(&mut self, world: &mut impl World) {
        mark!("follow");
        self.send_sync_response(world);
        self.ack_later(world);
        self.stash.drop_up_to(self.base, self.log.last());
        self.drain(world);
    }
}

/// Whether a vote is the one that was cast before. A restart may have cut the log's beginning.
fn is_same_vote(a: &Vote, b: &Vote) -> bool {
    let first = a.first.max(b.first);
    (a.last_normal, a.base, a.last) == (b.last_normal, b.base, b.last)
        && a.no_ops.range(first..).eq(b.no_ops.range(first..))
}
