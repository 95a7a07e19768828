//! Counts the replicas' responses to stamped commands and gives each command's result to whoever
//! asked, once a quorum with the leader among it has spoken in the same view.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::Group;
use crate::base::cast::{u64_from, usize_from};
use crate::base::ids::{Index, MemberId, MessageId, TermId};
use crate::base::limits::{DROPPED_RETRY_COUNT_MAX, MEMBER_COUNT_MAX};
use crate::base::payload::ResultBytes;

/// The collector of one partition. `W` says who waits for a command.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Collector<W> {
    term: TermId,
    base: Index,
    quorum_count: usize,
    leader: MemberId,
    /// Each member's cumulative ack: it holds all slots up to here in this view.
    acks: [Index; MEMBER_COUNT_MAX],
    /// Commands without an answer, by message id, from `first` on without holes.
    waiting: VecDeque<Waiting<W>>,
    first: MessageId,
    commit: Index,
    /// Committed slots up to here were looked at for results that came out of order.
    scanned: Index,
    /// Results that came for slots that were looked at already.
    late: VecDeque<Index>,
    /// Commands that may have to be stamped anew: only a leader elsewhere can lack one.
    values: BTreeMap<MessageId, Value>,
    dropped: VecDeque<Dropped<W>>,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Waiting<W> {
    waiter: Option<W>,
    result: Option<ResultBytes>,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Value {
    value: Bytes,
    tries_count: u32,
}

/// A command that is complete: a quorum holds it and the leader has executed it.
#[derive(Debug, PartialEq, Eq)]
pub struct Completed<W> {
    /// Who waited; `None` if they were told already that the outcome is unknown.
    pub waiter: Option<W>,
    /// The command's slot.
    pub index: Index,
    /// The leader's result.
    pub result: ResultBytes,
}

/// A command whose slot has become a no-op: it was never executed.
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Clone))]
pub struct Dropped<W> {
    /// Who waits.
    pub waiter: W,
    /// The command, if it may be stamped anew.
    pub value: Option<Bytes>,
    /// How often it was already.
    pub tries_count: u32,
}

impl<W> Collector<W> {
    /// A collector that has no term yet.
    #[must_use]
    pub fn new(group: &Group) -> Self {
        Self {
            term: TermId(0),
            base: Index(0),
            quorum_count: group.quorum_count(),
            leader: group.me(),
            acks: [Index(0); MEMBER_COUNT_MAX],
            waiting: VecDeque::new(),
            first: MessageId(1),
            commit: Index(0),
            scanned: Index(0),
            late: VecDeque::new(),
            values: BTreeMap::new(),
            dropped: VecDeque::new(),
        }
    }

    /// Begins a term. Every member of the view's quorum holds its base.
    ///
    /// # Panics
    /// If commands of the last term still wait.
    pub fn activate(&mut self, group: &Group, term: TermId, base: Index) {
        assert!(self.waiting.is_empty(), "a collector leaves its term before it begins another");
        assert!(term > self.term, "terms increase (I6)");
        self.term = term;
        self.base = base;
        self.leader = group.leader(term);
        self.acks = [Index(0); MEMBER_COUNT_MAX];
        self.first = MessageId(1);
        self.commit = base;
        self.scanned = base;
    }

    /// Ends the term: the waiters whose outcome this collector will never know.
    pub fn deactivate(&mut self) -> impl Iterator<Item = W> + '_ {
        self.late.clear();
        self.values.clear();
        let dropped = self.dropped.drain(..).map(|dropped| dropped.waiter);
        self.waiting.drain(..).filter_map(|waiting| waiting.waiter).chain(dropped)
    }

    /// The highest slot that a quorum is known to hold, the base of the term at least.
    #[must_use]
    #[inline]
    pub fn commit(&self) -> Index {
        self.commit
    }

    /// Commands without an answer.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// A member holds all slots up to here in this term, as far as is known.
    #[must_use]
    pub fn ack(&self, member: MemberId) -> Index {
        self.acks[usize::from(member.0)]
    }

    /// How many members hold all slots up to `index`.
    #[must_use]
    pub fn holders_count(&self, index: Index) -> usize {
        self.acks.iter().filter(|ack| **ack >= index && **ack > Index(0)).count()
    }

    /// The oldest committed commands for whose result somebody waits.
    pub fn lacks_result(&self) -> impl Iterator<Item = Index> + '_ {
        let first = self.base.plus(self.first.0).0;
        (first..self.acks[usize::from(self.leader.0)].0.saturating_add(1))
            .zip(&self.waiting)
            .filter(|(_, waiting)| waiting.waiter.is_some() && waiting.result.is_none())
            .map(|(index, _)| Index(index))
    }

    /// A command was stamped.
    ///
    /// # Panics
    /// If stamps are registered out of order.
    #[inline]
    pub fn register(&mut self, message_id: MessageId, waiter: W) {
        let next = self.first.plus(u64_from(self.waiting.len()));
        assert_eq!(message_id, next, "commands are registered in the order of their stamps");
        self.waiting.push_back(Waiting { waiter: Some(waiter), result: None });
    }

    /// Keeps a command that was stamped `tries_count` times before, in case that its slot becomes a
    /// no-op.
    pub fn keep(&mut self, message_id: MessageId, value: Bytes, tries_count: u32) {
        self.values.insert(message_id, Value { value, tries_count });
    }

    /// A replica holds all slots up to `index` in `term`; the leader says what came of the command
    /// in that slot. What is complete now comes out of [`Collector::next_completed`].
    pub fn on_command_response(
        &mut self,
        from: MemberId,
        term: TermId,
        index: Index,
        result: Option<ResultBytes>,
    ) {
        if term != self.term {
            return;
        }
        if let Some(result) = result {
            debug_assert_eq!(from, self.leader, "only the leader has a result");
            if let Some(waiting) = self.waiting_at(index)
                && waiting.waiter.is_some()
            {
                waiting.result = Some(result);
                if index <= self.scanned {
                    self.late.push_back(index);
                }
            }
        }
        self.on_ack(from, index);
    }

    /// The leader of a group of one has executed the command in `index` and holds it: whoever waits
    /// for it, if nothing before it waits for anything. Otherwise the result is given back, for
    /// [`Collector::on_command_response`].
    #[inline]
    pub fn complete_alone(
        &mut self,
        index: Index,
        result: ResultBytes,
    ) -> Result<Completed<W>, ResultBytes> {
        let is_next = self.quorum_count == 1 && index == self.base.plus(self.first.0);
        if !is_next || !self.values.is_empty() {
            return Err(result);
        }
        let Some(Waiting { waiter, .. }) = self.waiting.pop_front() else { return Err(result) };
        self.first = self.first.next();
        self.acks[usize::from(self.leader.0)] = index;
        self.commit = index;
        Ok(Completed { waiter, index, result })
    }

    /// A replica holds all slots up to `index` in this term.
    pub fn on_ack(&mut self, from: MemberId, index: Index) {
        let ack = &mut self.acks[usize::from(from.0)];
        *ack = (*ack).max(index);
        self.commit = self.commit.max(self.quorum_ack());
    }

    /// The leader has made the slot of a command a no-op, for good: a quorum holds that. Its waiter
    /// comes out of [`Collector::next_dropped`].
    pub fn on_dropped(&mut self, term: TermId, index: Index) {
        if term != self.term {
            return;
        }
        self.on_ack(self.leader, index);
        let Some(waiter) = self.waiting_at(index).and_then(|waiting| waiting.waiter.take()) else {
            return;
        };
        let kept = self.values.remove(&MessageId(index.since(self.base)));
        let tries_count = kept.as_ref().map_or(0, |kept| kept.tries_count);
        let value =
            kept.filter(|kept| kept.tries_count < DROPPED_RETRY_COUNT_MAX).map(|kept| kept.value);
        self.dropped.push_back(Dropped { waiter, value, tries_count });
    }

    /// What an earlier life of a member said counts no longer.
    pub fn void(&mut self, member: MemberId) {
        self.acks[usize::from(member.0)] = Index(0);
    }

    /// The next command that is complete: in the order of stamps, but that results which were lost
    /// and are awaited hold up nobody else.
    pub fn next_completed(&mut self) -> Option<Completed<W>> {
        while self.base.plus(self.first.0) <= self.commit {
            let front = self.waiting.front()?;
            if front.waiter.is_some() && front.result.is_none() {
                return self.next_scanned();
            }
            let index = self.base.plus(self.first.0);
            let Waiting { waiter, result } = self.waiting.pop_front()?;
            if !self.values.is_empty() {
                self.values.remove(&self.first);
            }
            self.first = self.first.next();
            if let Some(result) = result {
                return Some(Completed { waiter, index, result });
            }
        }
        None
    }

    /// A command behind one whose result was lost.
    fn next_scanned(&mut self) -> Option<Completed<W>> {
        while let Some(index) = self.next_to_scan() {
            let Some(waiting) = self.waiting_at(index) else { continue };
            if let Some(result) = waiting.result.take() {
                let waiter = waiting.waiter.take();
                return Some(Completed { waiter, index, result });
            }
        }
        None
    }

    fn next_to_scan(&mut self) -> Option<Index> {
        let late = self.late.pop_front();
        if late.is_some() {
            return late;
        }
        self.scanned = self.scanned.max(self.base.plus(self.first.previous().0));
        (self.scanned < self.commit).then(|| {
            self.scanned = self.scanned.next();
            self.scanned
        })
    }

    /// The next command whose slot became a no-op.
    pub fn next_dropped(&mut self) -> Option<Dropped<W>> {
        self.dropped.pop_front()
    }

    /// Takes the waiters out that `expired` says to give up; their commands go on without them.
    pub fn give_up(&mut self, mut expired: impl FnMut(&W) -> bool) -> Vec<W> {
        self.waiting
            .iter_mut()
            .filter_map(|waiting| waiting.waiter.take_if(|waiter| expired(waiter)))
            .collect()
    }

    fn waiting_at(&mut self, index: Index) -> Option<&mut Waiting<W>> {
        let place = index.0.checked_sub(self.base.plus(self.first.0).0)?;
        self.waiting.get_mut(usize_from(place))
    }

    /// The highest slot that a quorum with the leader among it has acked.
    fn quorum_ack(&self) -> Index {
        if self.quorum_count == 1 {
            return self.acks[usize::from(self.leader.0)];
        }
        let mut acks = self.acks;
        acks.sort_unstable_by(|a, b| b.cmp(a));
        acks[self.quorum_count - 1].min(self.acks[usize::from(self.leader.0)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::PartitionId;

    fn collector(count: usize) -> (Group, Collector<u64>) {
        let members = ["a", "b", "c"][..count].iter().map(ToString::to_string).collect();
        let group = Group::new(PartitionId(0), members, "a");
        let mut collector = Collector::new(&group);
        collector.activate(&group, TermId(3), Index(10));
        (group, collector)
    }

    fn result() -> Option<ResultBytes> {
        Some(ResultBytes::from_slice(b"r"))
    }

    #[test]
    fn command_completes_when_a_quorum_with_the_leader_has_acked() {
        let (group, mut collector) = collector(3);
        let leader = group.leader(TermId(3));
        assert_eq!(leader, MemberId(0));
        collector.register(MessageId(1), 100);
        collector.register(MessageId(2), 200);
        collector.on_command_response(MemberId(1), TermId(3), Index(12), None);
        collector.on_command_response(MemberId(2), TermId(3), Index(12), None);
        assert_eq!(collector.next_completed(), None, "two followers without the leader");
        collector.on_command_response(leader, TermId(3), Index(11), result());
        let completed = collector.next_completed().unwrap();
        assert_eq!((completed.waiter, completed.index), (Some(100), Index(11)));
        assert_eq!(collector.next_completed(), None, "the leader has not executed the second");
        assert_eq!(collector.commit(), Index(11));
    }

    #[test]
    fn responses_of_another_term_do_not_count() {
        let (_, mut collector) = collector(1);
        collector.register(MessageId(1), 100);
        collector.on_command_response(MemberId(0), TermId(2), Index(11), result());
        assert_eq!(collector.next_completed(), None);
        assert_eq!(collector.commit(), Index(10));
    }

    #[test]
    fn commands_complete_in_the_order_of_their_stamps() {
        let (_, mut collector) = collector(1);
        for message_id in 1..=3 {
            collector.register(MessageId(message_id), 0);
        }
        for index in 11..=13 {
            collector.on_command_response(MemberId(0), TermId(3), Index(index), result());
        }
        let indexes: Vec<_> =
            std::iter::from_fn(|| collector.next_completed()).map(|done| done.index.0).collect();
        assert_eq!(indexes, [11, 12, 13]);
        assert_eq!(collector.waiting_count(), 0);
    }

    #[test]
    fn a_waiter_that_gave_up_is_not_answered_twice() {
        let (_, mut collector) = collector(1);
        collector.register(MessageId(1), 100);
        assert_eq!(collector.give_up(|_| true), [100]);
        collector.on_command_response(MemberId(0), TermId(3), Index(11), result());
        assert_eq!(collector.next_completed(), None);
        assert_eq!(collector.waiting_count(), 0, "its command went on without it");
    }

    #[test]
    fn lost_result_holds_up_nobody_else() {
        let (group, mut collector) = collector(3);
        let leader = group.leader(TermId(3));
        for message_id in 1..=4 {
            collector.register(MessageId(message_id), message_id * 100);
        }
        collector.on_command_response(MemberId(1), TermId(3), Index(14), None);
        for index in [12, 13] {
            collector.on_command_response(leader, TermId(3), Index(index), result());
        }
        let mut completed = || collector.next_completed().map(|done| done.waiter.unwrap());
        assert_eq!([completed(), completed(), completed()], [Some(200), Some(300), None]);
        assert_eq!(collector.lacks_result().collect::<Vec<_>>(), [Index(11)]);
        collector.on_command_response(leader, TermId(3), Index(11), result());
        assert_eq!(collector.next_completed().unwrap().waiter, Some(100));
        collector.on_command_response(leader, TermId(3), Index(14), result());
        assert_eq!(collector.next_completed().unwrap().waiter, Some(400));
        assert_eq!(collector.waiting_count(), 0);
    }

    #[test]
    fn dropped_command_can_be_stamped_anew_a_few_times() {
        let (_, mut collector) = collector(3);
        let value = Bytes::from_static(b"x");
        for (message_id, tries_count) in [(1, 0), (2, DROPPED_RETRY_COUNT_MAX)] {
            collector.register(MessageId(message_id), message_id);
            collector.keep(MessageId(message_id), value.clone(), tries_count);
            collector.on_dropped(TermId(3), Index(10 + message_id));
        }
        let dropped = collector.next_dropped().unwrap();
        assert_eq!(dropped, Dropped { waiter: 1, value: Some(value), tries_count: 0 });
        assert_eq!(collector.next_dropped().unwrap().value, None, "enough is enough");
        collector.on_command_response(MemberId(1), TermId(3), Index(12), None);
        assert_eq!(collector.next_completed(), None);
        assert_eq!(collector.waiting_count(), 0);
    }

    #[test]
    fn ack_of_an_earlier_life_is_voided() {
        let (group, mut collector) = collector(3);
        collector.register(MessageId(1), 100);
        collector.on_command_response(MemberId(2), TermId(3), Index(11), None);
        collector.void(MemberId(2));
        let leader = group.leader(TermId(3));
        collector.on_command_response(leader, TermId(3), Index(11), result());
        assert_eq!(collector.next_completed(), None);
        collector.on_command_response(MemberId(2), TermId(3), Index(11), None);
        assert!(collector.next_completed().is_some());
    }

    #[test]
    fn leaving_a_term_hands_its_waiters_out() {
        let (_, mut collector) = collector(1);
        collector.register(MessageId(1), 100);
        collector.register(MessageId(2), 200);
        assert_eq!(collector.deactivate().collect::<Vec<_>>(), [100, 200]);
        assert_eq!(collector.waiting_count(), 0);
    }
}
