//! Linearizable reads at the sequencer (3.7). A round asks all members whether they are still in
//! the view: a quorum's answers, given after the round began, exclude that a higher view committed
//! anything before it. One round is under way at a time and the reads that come meanwhile share the
//! next. Where the leader is another member each query is stamped on its own and evaluated there.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::effects::Round;
use super::member_set::MemberSet;
use crate::base::ids::{Index, MemberId, TermId};

/// The reads of one partition that are under way.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Queries<W> {
    term: TermId,
    /// The number that the next query gets: a counter of their own, they take no slots.
    next: u64,
    /// The round under way.
    round: Option<(u64, Asked)>,
    /// Reads wait for the round after it.
    gathers: bool,
    /// The last round that began.
    begun: Round,
    /// Queries that a leader elsewhere evaluates, by number.
    stamped: BTreeMap<u64, Stamped<W>>,
}

/// What was asked of the members.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// The slot that the answer must cover.
    pub(super) covers: Index,
    /// Who has answered.
    pub(super) responded: MemberSet,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Stamped<W> {
    waiter: W,
    value: Bytes,
    asked: Asked,
    answer: Option<(Index, Bytes)>,
}

/// A query that is to be sent to members.
#[derive(Debug)]
pub(super) struct Unanswered {
    pub(super) query_id: u64,
    pub(super) covers: Index,
    pub(super) value: Bytes,
    /// Who has answered already.
    pub(super) responded: MemberSet,
}

/// A query that is answered.
#[derive(Debug)]
pub(super) struct Answered<W> {
    pub(super) waiter: W,
    pub(super) index: Index,
    pub(super) value: Bytes,
}

impl<W> Default for Queries<W> {
    fn default() -> Self {
        Self {
            term: TermId(0),
            next: 1,
            round: None,
            gathers: false,
            begun: Round(0),
            stamped: BTreeMap::new(),
        }
    }
}

impl<W> Queries<W> {
    /// Begins a term.
    pub(super) fn activate(&mut self, term: TermId) {
        assert!(self.is_idle(), "reads end with their term");
        (self.term, self.next) = (term, 1);
    }

    /// Ends the term: those who wait for a query. Whoever waits for a round waits in vain.
    pub(super) fn deactivate(&mut self) -> impl Iterator<Item = W> + use<W> {
        self.round = None;
        self.gathers = false;
        // Rounds are never numbered twice, though the next one may be of another term.
        self.begun = Round(self.begun.0 + 1);
        std::mem::take(&mut self.stamped).into_values().map(|stamped| stamped.waiter)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.round.is_none() && self.stamped.is_empty()
    }

    pub(super) fn count(&self) -> usize {
        self.stamped.len()
    }

    /// The round that a read of now may wait for, and whether it is to be begun.
    pub(super) fn join(&mut self) -> (Round, bool) {
        if self.round.is_some() {
            self.gathers = true;
            return (Round(self.begun.0 + 1), false);
        }
        (Round(self.begun.0 + 1), true)
    }

    /// Begins the next round.
    pub(super) fn begin(&mut self, covers: Index) -> Unanswered {
        assert!(self.round.is_none(), "one round is under way at a time");
        self.begun = Round(self.begun.0 + 1);
        self.gathers = false;
        let query_id = self.take_number();
        let asked = Asked { covers, responded: MemberSet::default() };
        self.round = Some((query_id, asked));
        Unanswered { query_id, covers, value: Bytes::new(), responded: asked.responded }
    }

    /// Stamps a query for a leader elsewhere.
    pub(super) fn stamp(&mut self, covers: Index, value: Bytes, waiter: W) -> Unanswered {
        let query_id = self.take_number();
        let asked = Asked { covers, responded: MemberSet::default() };
        let sent = value.clone();
        self.stamped.insert(query_id, Stamped { waiter, value, asked, answer: None });
        Unanswered { query_id, covers, value: sent, responded: asked.responded }
    }

    fn take_number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    /// A member has answered; what the leader says comes with it. Whether anybody asked.
    pub(super) fn on_response(
        &mut self,
        from: MemberId,
        query_id: u64,
        answer: Option<(Index, Bytes)>,
    ) -> bool {
        if let Some((_, asked)) = self.round.as_mut().filter(|(number, _)| *number == query_id) {
            return asked.responded.insert(from);
        }
        let Some(stamped) = self.stamped.get_mut(&query_id) else { return false };
        stamped.answer = answer.or(stamped.answer.take());
        stamped.asked.responded.insert(from)
    }

    /// What an earlier life of a member said counts no longer.
    pub(super) fn void(&mut self, member: MemberId) {
        if let Some((_, asked)) = &mut self.round {
            asked.responded.remove(member);
        }
        for stamped in self.stamped.values_mut() {
            stamped.asked.responded.remove(member);
        }
    }

    /// The round, if `is_complete` says that it is: then it is over. The flag says whether reads
    /// wait for another one.
    pub(super) fn take_round(
        &mut self,
        is_complete: impl Fn(&Asked) -> bool,
    ) -> Option<(Round, Asked, bool)> {
        let (_, asked) = self.round.take_if(|(_, asked)| is_complete(asked))?;
        Some((self.begun, asked, self.gathers))
    }

    /// A query that has the leader's answer, if `is_complete` says so of it.
    pub(super) fn take_answered(
        &mut self,
        is_complete: impl Fn(&Asked) -> bool,
    ) -> Option<Answered<W>> {
        let is_done =
            |stamped: &Stamped<W>| stamped.answer.is_some() && is_complete(&stamped.asked);
        let query_id = *self.stamped.iter().find(|(_, stamped)| is_done(stamped))?.0;
        let Stamped { waiter, answer, .. } = self.stamped.remove(&query_id)?;
        let (index, value) = answer?;
        Some(Answered { waiter, index, value })
    }

    /// What has not been answered by all yet.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = Unanswered> + '_ {
        let round = self.round.iter().map(|(query_id, asked)| Unanswered {
            query_id: *query_id,
            covers: asked.covers,
            value: Bytes::new(),
            responded: asked.responded,
        });
        let stamped = self.stamped.iter().map(|(query_id, stamped)| Unanswered {
            query_id: *query_id,
            covers: stamped.asked.covers,
            value: stamped.value.clone(),
            responded: stamped.asked.responded,
        });
        round.chain(stamped)
    }

    /// Takes the waiters out that `expired` says to give up.
    pub(super) fn give_up(&mut self, mut expired: impl FnMut(&W) -> bool) -> Vec<W> {
        let gone: Vec<u64> = self
            .stamped
            .iter()
            .filter(|(_, stamped)| expired(&stamped.waiter))
            .map(|(query_id, _)| *query_id)
            .collect();
        gone.iter()
            .filter_map(|query_id| self.stamped.remove(query_id))
            .map(|stamped| stamped.waiter)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_that_come_during_a_round_share_the_next() {
        let mut queries = Queries::<u32>::default();
        queries.activate(TermId(1));
        assert_eq!(queries.join(), (Round(1), true));
        let asked = queries.begin(Index(7));
        assert_eq!(queries.join(), (Round(2), false));
        assert_eq!(queries.join(), (Round(2), false));
        assert!(queries.on_response(MemberId(1), asked.query_id, None));
        assert!(!queries.on_response(MemberId(1), asked.query_id, None), "a member answers once");
        let complete = |count| move |asked: &Asked| asked.responded.count() >= count;
        assert!(queries.take_round(complete(2)).is_none());
        let (round, asked, gathers) = queries.take_round(complete(1)).unwrap();
        assert_eq!((round, asked.covers, gathers), (Round(1), Index(7), true));
        assert_eq!(queries.begin(Index(9)).query_id, 2);
    }

    #[test]
    fn stamped_query_is_answered_when_the_leader_and_enough_others_have_responded() {
        let mut queries = Queries::default();
        queries.activate(TermId(1));
        let asked = queries.stamp(Index(7), Bytes::from_static(b"q"), 100);
        queries.on_response(MemberId(1), asked.query_id, None);
        queries.on_response(MemberId(2), asked.query_id, None);
        let complete = |asked: &Asked| asked.responded.count() >= 2;
        assert!(queries.take_answered(complete).is_none(), "the leader has said nothing");
        let answer = Some((Index(8), Bytes::from_static(b"r")));
        queries.on_response(MemberId(0), asked.query_id, answer);
        let answered = queries.take_answered(complete).unwrap();
        assert_eq!((answered.waiter, answered.index), (100, Index(8)));
        assert!(queries.is_idle());
    }

    #[test]
    fn rounds_of_a_term_that_ended_are_never_completed() {
        let mut queries = Queries::<u32>::default();
        queries.activate(TermId(1));
        let asked = queries.begin(Index(7));
        let (waited_for, _) = queries.join();
        assert_eq!(queries.deactivate().count(), 0);
        queries.activate(TermId(2));
        let (round, begins) = queries.join();
        assert!(begins && round > waited_for);
        assert_eq!(queries.begin(Index(7)).query_id, asked.query_id, "numbers are of a term");
    }
}
