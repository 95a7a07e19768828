//! Counts the replicas' responses to stamped commands and gives each command's result to whoever
//! asked, once a quorum with the leader among it has spoken in the same view.

use std::collections::VecDeque;

use super::Group;
use crate::base::cast::usize_from;
use crate::base::ids::{Index, MemberId, MessageId, TermId};
use crate::base::limits::MEMBER_COUNT_MAX;
use crate::base::payload::ResultBytes;

/// The collector of one partition. `W` says who waits for a command.
#[derive(Debug)]
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
}

#[derive(Debug)]
struct Waiting<W> {
    waiter: Option<W>,
    result: Option<ResultBytes>,
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
        }
    }

    /// Begins a term. Every member of the view's quorum holds its base.
    ///
    /// # Panics
    /// If commands of the last term still wait.
    pub fn activate(&mut self, group: &Group, term: TermId, base: Index) {
        assert!(self.waiting.is_empty(), "a collector leaves its term before it begins another");
        assert!(term > self.term, "terms increase");
        self.term = term;
        self.base = base;
        self.leader = group.leader(term);
        self.acks = [Index(0); MEMBER_COUNT_MAX];
        self.first = MessageId(1);
        self.commit = base;
    }

    /// Ends the term: the waiters whose outcome this collector will never know.
    pub fn deactivate(&mut self) -> impl Iterator<Item = W> + '_ {
        self.waiting.drain(..).filter_map(|waiting| waiting.waiter)
    }

    /// The highest slot that a quorum is known to hold, the base of the term at least.
    #[must_use]
    pub fn commit(&self) -> Index {
        self.commit
    }

    /// Commands without an answer.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// A command was stamped.
    ///
    /// # Panics
    /// If stamps are registered out of order.
    pub fn register(&mut self, message_id: MessageId, waiter: W) {
        let next = self.first.plus(crate::base::cast::u64_from(self.waiting.len()));
        assert_eq!(message_id, next, "commands are registered in the order of their stamps");
        self.waiting.push_back(Waiting { waiter: Some(waiter), result: None });
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
        let ack = &mut self.acks[usize::from(from.0)];
        *ack = (*ack).max(index);
        if let Some(result) = result {
            debug_assert_eq!(from, self.leader, "only the leader has a result");
            let place = index.since(self.base.plus(self.first.0));
            if let Some(waiting) = self.waiting.get_mut(usize_from(place)) {
                waiting.result = Some(result);
            }
        }
        self.commit = self.commit.max(self.quorum_ack());
    }

    /// The next command that is complete, in the order of stamps.
    pub fn next_completed(&mut self) -> Option<Completed<W>> {
        let index = self.base.plus(self.first.0);
        if index > self.commit {
            return None;
        }
        self.waiting.front()?.result.as_ref()?;
        let Waiting { waiter, result } = self.waiting.pop_front()?;
        self.first = self.first.next();
        Some(Completed { waiter, index, result: result? })
    }

    /// Takes the waiters out that `expired` says to give up; their commands go on without them.
    pub fn give_up(&mut self, mut expired: impl FnMut(&W) -> bool) -> Vec<W> {
        self.waiting
            .iter_mut()
            .filter_map(|waiting| waiting.waiter.take_if(|waiter| expired(waiter)))
            .collect()
    }

    /// The highest slot that a quorum with the leader among it has acked.
    fn quorum_ack(&self) -> Index {
        let mut acks = self.acks;
        acks.sort_unstable_by(|a, b| b.cmp(a));
        acks[self.quorum_count - 1].min(self.acks[usize::from(self.leader.0)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::PartitionId;

    fn collector(count: usize) -> (Group, Collector<u32>) {
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
        assert_eq!(collector.next_completed().unwrap().waiter, None);
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
