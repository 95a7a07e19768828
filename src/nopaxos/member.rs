//! One member of one partition: sequencer, replica and collector as one machine.
//!
//! How to drive it: [`Member::start`] once; then whatever happens, in any order: commands that
//! clients want stamped ([`Member::submit`]), reads ([`Member::barrier`], [`Member::query`]),
//! messages ([`Member::on_message`]), connections that come and go, what became durable
//! ([`Member::on_persisted`]), and time ([`Member::on_deadline`] when [`Member::next_deadline`] has
//! come). Once all inputs of a turn were handed in, [`Member::flush`] sends one ack for all of
//! them; left out, it is due at the next deadline.
//!
//! What it wants done it says at once through [`Effects`].

mod reads;
mod retransmission;
#[cfg(test)]
mod timeless;

use bytes::Bytes;

use super::collector::{Collector, Dropped};
use super::effects::{ChunkOutcome, Effects, GivenBack, Persisted, Round};
use super::group::Group;
use super::ignored::{IgnoreReason, Ignored};
use super::local::{Beside, Local, Present};
use super::message::{Answer, Message, Stamped};
use super::queries::{Asked, Queries, Unanswered};
use super::replica::{Replica, Restored, Status};
use super::sequencer::{Sequencer, Stamp};
use super::settings::Settings;
use super::timeout::{Timeout, Timeouts};
use crate::base::ids::{Incarnation, Index, MemberId, MessageId, TermId};
use crate::base::limits::{
    MEMBER_COUNT_MAX, QUERY_COUNT_MAX, RETRANSMIT_COUNT_MAX, RETRANSMIT_LAG_COUNT_MAX,
    UNSYNCED_COUNT_MAX,
};
use crate::base::mutant::{self, Mutant};
use crate::base::time::{Monotonic, Now, Timestamp};
use crate::mark;

/// A member of a partition. `W` says who waits for a command or a query.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Member<W> {
    settings: Settings,
    replica: Replica,
    beside: Beside<W>,
    timeouts: Timeouts,
    /// When each member is sent again what it has not acked, and how long after that.
    retransmit: [Option<(Monotonic, u64)>; MEMBER_COUNT_MAX],
    /// The leader's place is to be handed over to this member.
    handover: Option<MemberId>,
    deadline: Option<Monotonic>,
}

impl<W: Copy> Member<W> {
    /// A member with what it had before; a new one with [`Restored::default`]. `seed`: for timeouts
    /// and nonces, another one for each process.
    ///
    /// # Panics
    /// If what was restored contradicts itself.
    #[must_use]
    pub fn new(group: Group, settings: Settings, restored: Restored, seed: u64) -> Self {
        let beside = Beside {
            present: Present { leader: group.me(), sequencer: group.me(), ..Present::default() },
            sequencer: Sequencer::default(),
            collector: Collector::new(&group),
            queries: Queries::default(),
            ignored: Ignored::default(),
            group: group.clone(),
        };
        Self {
            settings,
            replica: Replica::new(group, settings, restored, seed),
            beside,
            timeouts: Timeouts::default(),
            retransmit: [None; MEMBER_COUNT_MAX],
            handover: None,
            deadline: None,
        }
    }

    // ---- what there is to see ----

    /// The replica.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.beside.group
    }

    /// The messages that had no effect, by reason.
    #[must_use]
    pub fn ignored(&self) -> &Ignored {
        &self.beside.ignored
    }

    /// The term of the view that was started last.
    #[must_use]
    pub fn term(&self) -> TermId {
        self.beside.present.term
    }

    /// Whether commands are stamped here: this member is the present view's sequencer.
    #[must_use]
    pub fn is_stamping(&self) -> bool {
        self.replica.status() == Status::Normal && self.beside.sequencer.is_stamping()
    }

    /// Where commands of the present view are stamped; `None` between two views.
    #[must_use]
    pub fn sequencer(&self) -> Option<MemberId> {
        (self.replica.status() == Status::Normal).then_some(self.beside.present.sequencer)
    }

    /// The slot that the next command will have, if it is stamped here.
    #[must_use]
    pub fn next_index(&self) -> Option<Index> {
        self.beside.sequencer.next_index()
    }

    /// The log's time if a command were stamped here now; `None`: it wouldn't be.
    #[must_use]
    pub fn stamp_time(&self, now: Timestamp) -> Option<Timestamp> {
        let quorum_count = self.beside.group.quorum_count();
        let time = self.beside.sequencer.time(now, quorum_count);
        time.filter(|_| self.replica.status() == Status::Normal)
    }

    /// Stamped slots that aren't stable yet.
    #[must_use]
    pub fn unsynced_count(&self) -> u64 {
        self.replica.log().last().since(self.replica.sync_point())
    }

    /// Bytes of the commands of slots that aren't stable yet.
    #[must_use]
    pub fn unsynced_size_bytes(&self) -> usize {
        self.replica.log().size_bytes()
    }

    /// Commands without an answer.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.beside.collector.waiting_count() + self.beside.queries.count()
    }

    /// The index that a linearizable read reflects once its round is complete, or at once in a
    /// group of one: everything that was answered, and everything that is stable (3.7).
    #[must_use]
    pub fn readable(&self) -> Index {
        self.beside.collector.commit().max(self.replica.sync_point())
    }

    /// When [`Member::on_deadline`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Monotonic> {
        self.deadline
    }

    // ---- what happens ----

    /// Begins the process's life. `first_term`: the first of a group that has none; without a
    /// durable log it must be above any earlier one.
    pub fn start(&mut self, now: Now, first_term: TermId, effects: &mut impl Effects<W>) {
        self.step(now, effects, |replica, world| replica.start(first_term, world));
    }

    /// Stamps a command and sends it to all, or gives it back.
    pub fn submit(&mut self, now: Now, value: Bytes, waiter: W, effects: &mut impl Effects<W>) {
        self.stamp(now, value, waiter, 0, effects);
        self.settle(now, effects);
    }

    /// A message of another member; `incarnation`: which of its lives sent it, as it said when the
    /// connection began.
    pub fn on_message(
        &mut self,
        now: Now,
        (from, incarnation): (MemberId, Incarnation),
        message: Message,
        effects: &mut impl Effects<W>,
    ) {
        let mut world = Local { now, beside: &mut self.beside, effects };
        let rest = self.replica.on_message(from, incarnation, message, &mut world);
        if let Some(message) = rest
            && let Err(reason) = self.on_present(now, from, message, effects)
        {
            self.beside.ignored.count(reason);
        }
        self.settle(now, effects);
    }

    /// Something became durable, in the order in which it was handed to [`Effects::persist`].
    pub fn on_persisted(&mut self, now: Now, persisted: Persisted, effects: &mut impl Effects<W>) {
        self.step(now, effects, |replica, world| replica.on_persisted(persisted, world));
    }

    /// What came of [`Effects::receive_chunk`].
    pub fn on_chunk(&mut self, now: Now, outcome: ChunkOutcome, effects: &mut impl Effects<W>) {
        self.step(now, effects, |replica, world| replica.on_chunk(outcome, world));
    }

    /// A connection to a member is there.
    pub fn on_peer_connected(&mut self, now: Now, member: MemberId, effects: &mut impl Effects<W>) {
        if self.beside.sequencer.is_active() {
            self.retransmit_to(member, effects);
        }
        self.step(now, effects, |replica, world| replica.on_peer_connected(member, world));
    }

    /// The last connection to a member is gone; `refused`: and so is its process, as its host says.
    pub fn on_peer_disconnected(
        &mut self,
        now: Now,
        member: MemberId,
        refused: bool,
        effects: &mut impl Effects<W>,
    ) {
        self.step(now, effects, |replica, world| {
            replica.on_peer_disconnected(member, refused, world);
        });
    }

    /// What a member knows of lives: to be told when a connection with it begins, before any of its
    /// messages.
    pub fn on_crash_vector(
        &mut self,
        now: Now,
        vector: &[Incarnation],
        effects: &mut impl Effects<W>,
    ) {
        self.step(now, effects, |replica, world| replica.on_crash_vector(vector, world));
    }

    /// A member has said more than it knows now: its disk went back in time. It is treated as one
    /// that has lost its disk, and told so.
    pub fn on_rolled_back(&mut self, now: Now, member: MemberId, effects: &mut impl Effects<W>) {
        self.step(now, effects, |replica, world| replica.on_rolled_back(member, world));
    }

    /// What a member's clock says, so that no single one can carry the log's time away (S4).
    pub fn on_peer_clock(&mut self, now: Now, member: MemberId, clock: Timestamp) {
        self.beside.sequencer.on_clock(member, now.wall, clock);
    }

    /// A member is alive in `term`, as its host says for all of its unchanged views at once.
    pub fn on_heartbeat(
        &mut self,
        now: Now,
        member: MemberId,
        term: TermId,
        effects: &mut impl Effects<W>,
    ) {
        if term == self.replica.view() {
            self.step(now, effects, |replica, world| replica.on_sign_of_life(member, world));
        }
    }

    /// No durable log holds the slots after `index`, up to which a checkpoint reaches: they stay in
    /// memory, for members that lag or have lost theirs. To be said before any slot is stable.
    pub fn keep_after(&mut self, index: Index) {
        self.replica.keep_after(index);
    }

    /// The durable log begins at `first` now: a checkpoint covers what was before. While a vote is
    /// out that counts from the next one on (K3).
    pub fn on_truncated(&mut self, first: Index) {
        self.replica.on_truncated(first);
    }

    /// Everything whose time has come.
    pub fn on_deadline(&mut self, now: Now, effects: &mut impl Effects<W>) {
        if self.timeouts.take(Timeout::Retransmit, now.monotonic) {
            self.on_retransmit_timeout(now.monotonic, effects);
        }
        if self.timeouts.take(Timeout::QueryRetry, now.monotonic) {
            self.on_query_retry_timeout(now.monotonic, effects);
        }
        if self.timeouts.take(Timeout::Transfer, now.monotonic) {
            mark!("transfer-given-up");
            self.handover = None;
            self.beside.sequencer.pause(false);
        }
        self.step(now, effects, |replica, world| replica.on_deadline(world));
    }

    /// Sends the ack that is due.
    pub fn flush(&mut self, now: Now, effects: &mut impl Effects<W>) {
        self.step(now, effects, |replica, world| replica.flush(world));
    }

    /// Writes the sync point to the durable log if it has moved.
    pub fn write_sync_point(&mut self, now: Now, effects: &mut impl Effects<W>) {
        self.step(now, effects, |replica, world| replica.write_sync_point(world));
    }

    /// Hands the leader's place over to a member, if this one leads: nothing is stamped until that
    /// member is as far as this one and the view changes, or until it takes too long (L1).
    pub fn transfer_leadership(&mut self, now: Now, to: MemberId, effects: &mut impl Effects<W>) {
        if !self.replica.is_leading() || to == self.beside.group.me() || self.handover.is_some() {
            return;
        }
        self.handover = Some(to);
        self.beside.sequencer.pause(true);
        let due = now.monotonic.after_ns(self.settings.timing.transfer_timeout_ns);
        self.timeouts.set(Timeout::Transfer, due);
        self.settle(now, effects);
    }

    /// Takes out those who wait that `expired` says to give up: for commands, whose outcome they
    /// will not know, and for queries.
    pub fn give_up(&mut self, mut expired: impl FnMut(&W) -> bool) -> Vec<W> {
        let mut waiters = self.beside.collector.give_up(&mut expired);
        waiters.extend(self.beside.queries.give_up(expired));
        waiters
    }

    // ---- commands ----

    fn stamp(
        &mut self,
        now: Now,
        value: Bytes,
        waiter: W,
        tries_count: u32,
        effects: &mut impl Effects<W>,
    ) {
        let quorum_count = self.beside.group.quorum_count();
        let stamp = match self.is_full() {
            true => None,
            false => self.beside.sequencer.stamp(now.wall, quorum_count),
        };
        let Some(stamp) = stamp.filter(|_| self.replica.status() == Status::Normal) else {
            effects.give_back(waiter, GivenBack::NotTaken);
            return;
        };
        let Stamp { term, message_id, timestamp, .. } = stamp;
        self.beside.collector.register(message_id, waiter);
        if !self.beside.group.is_alone() {
            if !self.replica.is_leading() {
                self.beside.collector.keep(message_id, value.clone(), tries_count);
            }
            for member in self.beside.group.others() {
                let value = value.clone();
                let command = Stamped { term, message_id, timestamp, value };
                effects.send(member, Message::Command(command));
                self.retransmit_later(member, now.monotonic);
            }
        }
        let mut world = Local { now, beside: &mut self.beside, effects };
        self.replica.on_own_command(stamp, value, &mut world);
    }

    /// Whether too much is stamped that isn't stable (S5).
    fn is_full(&self) -> bool {
        let settled = self.beside.collector.commit().max(self.replica.sync_point());
        let last = self.replica.log().last();
        last.since(settled) >= UNSYNCED_COUNT_MAX
            || last.since(self.replica.sync_point()) >= 2 * UNSYNCED_COUNT_MAX
    }

    /// What of the present view is for the sequencer's node, or for a reader.
    fn on_present(
        &mut self,
        now: Now,
        from: MemberId,
        message: Message,
        effects: &mut impl Effects<W>,
    ) -> Result<(), IgnoreReason> {
        match message {
            Message::CommandResponse { message_id, index, answer, .. } => {
                self.check_response(message_id, index)?;
                self.on_command_response(now, from, (index, answer), effects)
            }
            Message::QueryResponse { query_id, index, value, .. } => {
                let last = self.beside.sequencer.last_index();
                if index > last.ok_or(IgnoreReason::NotSequencing)? {
                    return Err(IgnoreReason::Malformed);
                }
                let answer = (from == self.beside.present.leader).then_some((index, value));
                self.beside.collector.on_ack(from, index);
                let is_new = self.beside.queries.on_response(from, query_id, answer);
                is_new.then_some(()).ok_or(IgnoreReason::Unasked)
            }
            Message::Query { query_id, covers, value, .. } => {
                self.on_query(from, (query_id, covers), &value, effects)
            }
            _ => Err(IgnoreReason::Malformed),
        }
    }

    fn check_response(&self, message_id: MessageId, index: Index) -> Result<(), IgnoreReason> {
        let last = self.beside.sequencer.last_index().ok_or(IgnoreReason::NotSequencing)?;
        let is_whole = index == self.beside.present.base.plus(message_id.0) && index <= last;
        is_whole.then_some(()).ok_or(IgnoreReason::Malformed)
    }

    /// A member holds slots; the leader says what came of one.
    fn on_command_response(
        &mut self,
        now: Now,
        from: MemberId,
        (index, answer): (Index, Answer),
        effects: &mut impl Effects<W>,
    ) -> Result<(), IgnoreReason> {
        let Present { term, leader, .. } = self.beside.present;
        let before = self.beside.collector.ack(from);
        let collector = &mut self.beside.collector;
        match answer {
            Answer::Ack if from != leader => {
                collector.on_command_response(from, term, index, None);
            }
            Answer::Result(result) if from == leader => {
                collector.on_command_response(from, term, index, Some(result));
            }
            Answer::Dropped if from == leader => collector.on_dropped(term, index),
            Answer::Ack | Answer::Result(_) | Answer::Dropped => {
                return Err(IgnoreReason::BadSender);
            }
        }
        Local { now, beside: &mut self.beside, effects }.complete();
        if self.beside.collector.ack(from) > before {
            self.retransmit[usize::from(from.0)] = None;
            self.retransmit_later(from, now.monotonic);
        }
        Ok(())
    }

    /// The sequencer asks whether this member is still in the view.
    fn on_query(
        &mut self,
        from: MemberId,
        (query_id, covers): (u64, Index),
        value: &[u8],
        effects: &mut impl Effects<W>,
    ) -> Result<(), IgnoreReason> {
        let Present { term, sequencer, .. } = self.beside.present;
        if from != sequencer {
            return Err(IgnoreReason::BadSender);
        }
        let mut index = self.replica.durable();
        let mut answer = Bytes::new();
        if self.replica.is_leading() {
            let held = index.min(self.replica.applied());
            index = covers.max(self.replica.sync_point());
            if index > held {
                return Err(IgnoreReason::UnknownSlot);
            }
            if mutant::is(Mutant::ReadAtApplied) {
                index = self.replica.applied();
            }
            if !value.is_empty() {
                mark!("query-evaluated");
                answer = Bytes::from(effects.evaluate(index, value).into_vec());
            }
        }
        let response = Message::QueryResponse { term, query_id, index, value: answer };
        effects.send(from, response);
        Ok(())
    }

    /// Commands whose slots became no-ops are stamped anew, or given back: they were not executed.
    fn stamp_anew(&mut self, now: Now, effects: &mut impl Effects<W>) {
        while let Some(Dropped { waiter, value, tries_count }) =
            self.beside.collector.next_dropped()
        {
            match value {
                Some(value) => {
                    mark!("dropped-stamped-anew");
                    self.stamp(now, value, waiter, tries_count + 1, effects);
                }
                None => effects.give_back(waiter, GivenBack::NotTaken),
            }
        }
    }

    // ---- after every step ----

    fn step<E: Effects<W>>(
        &mut self,
        now: Now,
        effects: &mut E,
        step: impl FnOnce(&mut Replica, &mut Local<'_, W, E>),
    ) {
        step(&mut self.replica, &mut Local { now, beside: &mut self.beside, effects });
        self.settle(now, effects);
    }

    /// What follows from a step.
    #[inline]
    fn settle(&mut self, now: Now, effects: &mut impl Effects<W>) {
        if !self.beside.group.is_alone() {
            self.settle_with_others(now, effects);
        }
    }

    fn settle_with_others(&mut self, now: Now, effects: &mut impl Effects<W>) {
        self.stamp_anew(now, effects);
        self.complete_reads(now, effects);
        self.hand_over(now, effects);
        self.deadline =
            [self.replica.timeouts.next(), self.timeouts.next()].into_iter().flatten().min();
    }

    /// Asks for the view of the member that is to lead once it is as far as this one (L1).
    fn hand_over(&mut self, now: Now, effects: &mut impl Effects<W>) {
        let Some(to) = self.handover else { return };
        if !self.replica.is_leading() {
            self.handover = None;
            self.timeouts.cancel(Timeout::Transfer);
            return;
        }
        if self.replica.is_level_with(to) {
            self.handover = None;
            let mut world = Local { now, beside: &mut self.beside, effects };
            self.replica.endorse_leader(to, &mut world);
        }
    }
}
