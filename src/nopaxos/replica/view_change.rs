//! View changes (`NOPaxos`, view changes; 3.4): endorse, promise, vote, merge, adopt.
//!
//! 1. A member that wants a new view *endorses* it: it asks all members. This promises nothing.
//! 2. Endorsed by a quorum, the member *moves*: it promises the view durably (W1) and votes.
//! 3. The leader of the view freezes a quorum of votes, merges their logs, and adopts the result
//!    durably (W2).
//! 4. It starts the view. A process never leads a view that it had promised in an earlier life.

use super::log_merge::{Own, log_merge};
use super::*;
use crate::base::ids::MemberId;
use crate::nopaxos::ViewStarted;

impl Replica {
    /// Begins a process's life: asks for a view above all that were promised, `first_term` at
    /// least. A restarted leader or sequencer never goes on in its old term (S3, T3).
    ///
    /// # Panics
    /// If the replica has started already.
    pub fn start(&mut self, first_term: TermId, effects: &mut impl Effects) {
        assert_eq!(self.status, Status::ViewChange, "a replica starts once");
        let term = self.view.next().max(first_term);
        self.on_view_change_request(self.group.me(), term, effects);
    }

    /// A member, perhaps this one, asks for a view. A quorum's wish is followed (E1).
    pub fn on_view_change_request(
        &mut self,
        from: MemberId,
        term: TermId,
        effects: &mut impl Effects,
    ) {
        let endorsed = &mut self.endorsed[usize::from(from.0)];
        *endorsed = (*endorsed).max(term);
        let mut terms = self.endorsed.clone();
        terms.sort_unstable_by(|a, b| b.cmp(a));
        let wanted = terms[self.group.quorum_count() - 1];
        if wanted > self.view {
            self.move_to(wanted, effects);
        }
    }

    /// Leaves the present view and promises `term`. The log and what was executed stay as they
    /// are.
    fn move_to(&mut self, term: TermId, effects: &mut impl Effects) {
        assert!(term > self.view, "views increase (I8)");
        effects.view_left();
        self.votes.fill(None);
        self.adopting = None;
        self.view = term;
        self.status = Status::ViewChange;
        effects.persist(Persist::View(term));
    }

    /// W1 is durable: the vote may be cast.
    pub(super) fn on_view_persisted(&mut self, term: TermId, effects: &mut impl Effects) {
        if term != self.view || self.status != Status::ViewChange {
            return;
        }
        if self.group.leader(term) == self.group.me() {
            let vote = self.vote();
            self.on_view_change(vote, effects);
        }
    }

    /// What this replica's log holds. The same whenever it is asked for within one view change.
    fn vote(&self) -> Vote {
        Vote {
            voter: self.group.me(),
            last_normal: self.last_normal,
            base: self.base,
            first: self.first,
            last: self.log.last(),
            no_ops: self.log.no_ops().collect(),
        }
    }

    /// A member's vote for the view that this replica is to lead. With a quorum's the view's log
    /// is decided, once (M1).
    ///
    /// # Panics
    /// If the votes contradict what is stable: going on would lose what was acknowledged.
    fn on_view_change(&mut self, vote: Vote, effects: &mut impl Effects) {
        if self.adopting.is_some() {
            return;
        }
        let place = usize::from(vote.voter.0);
        self.votes[place] = Some(vote);
        let votes: Vec<Vote> = self.votes.iter().flatten().cloned().collect();
        let has_mine = self.votes[usize::from(self.group.me().0)].is_some();
        if votes.len() < self.group.quorum_count() || !has_mine {
            return;
        }
        let own = Own {
            last_normal: self.last_normal,
            sync_point: self.sync_point,
            last: self.log.last(),
        };
        let plan = match log_merge(&votes, own) {
            Ok(plan) => plan,
            Err(error) => panic!("partition {}: {error}", self.group.partition()),
        };
        assert!(plan.missing.is_empty(), "a group of one lacks nothing");
        assert_eq!(plan.last, self.log.last(), "a group of one keeps its whole log");
        self.adopt(plan.last, effects);
    }

    /// Adopts the merged log (M6): undoes what was executed ahead, and makes the adoption durable.
    fn adopt(&mut self, base: Index, effects: &mut impl Effects) {
        effects.undo_to(self.sync_point);
        self.applied = self.sync_point;
        self.drop_results();
        self.adopting = Some((self.view, base));
        effects.persist(Persist::Adopt {
            term: self.view,
            base,
            kept: base,
            chain: self.log.chain(),
        });
    }

    /// W2 is durable: the view starts (M7).
    pub(super) fn on_adopted(&mut self, term: TermId, effects: &mut impl Effects) {
        let Some((adopting, base)) = self.adopting.take() else { return };
        if adopting != term {
            return;
        }
        assert_eq!(term, self.view, "a view that was left is not adopted");
        self.status = Status::Normal;
        self.last_normal = term;
        self.base = base;
        self.durable = base;
        let leading = self.is_leading();
        effects.view_started(ViewStarted {
            term,
            base,
            last_timestamp: self.log.last_timestamp(),
            sequencing: self.group.sequencer(term) == self.group.me(),
        });
        if leading {
            self.execute(effects);
            // Nobody of this term waits for what came of the slots of earlier ones.
            self.drop_results();
            self.responded = self.applied;
            self.sync(effects);
            self.write_sync_point(effects);
        }
    }
}
