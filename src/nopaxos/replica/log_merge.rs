//! The dangerous decision of a view change, as a pure function: which log a new view starts with.
//!
//! Why it is safe. A slot is committed in a term only when a quorum holds it, the leader among
//! them, and the leader answers no slot above a no-op that isn't held by a quorum. A vote is cast
//! only after all lower views were left. Any quorum of votes shares a member with the quorum of
//! every committed slot, so:
//!
//! - Only votes with the highest `last_normal` count (M2): a member of that view had adopted all
//!   that was committed before it, and an older log may hold values that the view replaced.
//! - The log ends at the longest of those (M3): a committed slot is held by one of them at least.
//! - A no-op beats a value (M3): the leader doesn't answer past a no-op that isn't held by a
//!   quorum, so a value in a slot that some voter holds as a no-op was never answered.
//! - A slot that no voter reports as a no-op holds a value, known to somebody: it is fetched, and
//!   *never* made a no-op because the new leader lacks it (M5): it may be committed.
//! - Below the highest truncation of a voter nothing is known of no-ops (M4): what lies there is
//!   stable, and comes from the own stable prefix or from that voter's checkpoint.
//!
//! The votes are frozen before the merge and the merge is done once in a term (M1): two merges of
//! different votes could start the same view with different logs.

use std::collections::BTreeSet;

use crate::base::ids::{Index, MemberId, TermId};
use crate::base::mutant::{self, Mutant};

/// A `ViewChange`: what a member's log holds when it leaves a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Who votes.
    pub voter: MemberId,
    /// The last view that it had adopted; its log is of that view. 0: none.
    pub last_normal: TermId,
    /// The base of `last_normal`.
    pub base: Index,
    /// The first slot still in the log; below it everything is covered by a checkpoint.
    pub first: Index,
    /// The last slot.
    pub last: Index,
    /// The no-ops in [first, last].
    pub no_ops: BTreeSet<Index>,
}

/// What the merging member holds itself.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// The last view that it had adopted.
    pub last_normal: TermId,
    /// Its stable prefix.
    pub sync_point: Index,
    /// Its last slot.
    pub last: Index,
}

/// The log with which the view starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The view whose logs were merged.
    pub source_term: TermId,
    /// The base of that view.
    pub source_base: Index,
    /// Everything up to here is the stable prefix: the own one, or that of a checkpoint.
    pub floor: Index,
    /// If set, the own stable prefix ends below `floor`: fetch a checkpoint that covers `floor`
    /// from this member.
    pub checkpoint_from: Option<MemberId>,
    /// The last slot: the base of the new view.
    pub last: Index,
    /// The no-ops in (floor, last].
    pub no_ops: BTreeSet<Index>,
    /// What in (floor, last] the own log doesn't hold and the votes don't say: values, and no-ops
    /// of views before the merged one, whose message ids nobody can compute.
    pub missing: Vec<Index>,
    /// Who has logs of the source term, longest first: where missing values come from.
    pub sources: Vec<MemberId>,
}

/// Votes that no correct group casts. Going on would lose what was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeError {
    /// Members of one view disagree on its base (I4).
    BaseDisagreement(MemberId, MemberId),
    /// The merged log ends below a stable prefix (I1).
    StablePrefixLost {
        /// Where it ends.
        last: Index,
        /// What is stable.
        stable: Index,
    },
}

impl std::fmt::Display for MergeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BaseDisagreement(a, b) => {
                write!(f, "members {a} and {b} disagree on the base of the view they shared")
            }
            Self::StablePrefixLost { last, stable } => {
                write!(f, "the merged log ends at {last}, below the stable index {stable}")
            }
        }
    }
}

impl std::error::Error for MergeError {}

/// Merges a frozen quorum of votes (M2 to M5).
///
/// # Panics
/// If there are no votes.
///
/// # Errors
/// If the votes contradict each other or what is stable.
pub fn log_merge(votes: &[Vote], own: Own) -> Result<Plan, MergeError> {
    let source_term = votes.iter().map(|vote| vote.last_normal).max().expect("a quorum has votes");
    let mut sources: Vec<&Vote> =
        votes.iter().filter(|vote| vote.last_normal == source_term).collect();
    sources.sort_by_key(|vote| (std::cmp::Reverse(vote.last), vote.voter));
    let longest = sources[0];
    if let Some(other) = sources.iter().find(|vote| vote.base != longest.base) {
        return Err(MergeError::BaseDisagreement(longest.voter, other.voter));
    }

    let truncated = sources.iter().max_by_key(|vote| vote.first).expect("there is a source");
    let covered = truncated.first.previous();
    let trusts_itself = mutant::is(Mutant::TruncateAndUnion) && own.last_normal == source_term;
    let (floor, checkpoint_from) = if own.sync_point < covered && !trusts_itself {
        (covered, Some(truncated.voter))
    } else {
        (own.sync_point, None)
    };
    if longest.last < floor {
        return Err(MergeError::StablePrefixLost { last: longest.last, stable: floor });
    }

    let mut no_ops: BTreeSet<Index> =
        sources.iter().flat_map(|vote| &vote.no_ops).copied().filter(|&i| i > floor).collect();
    let own_last = if own.last_normal == source_term { own.last } else { own.sync_point };
    if mutant::is(Mutant::ValueBeatsNoOp) {
        let is_value = |vote: &&Vote, index| vote.last >= index && !vote.no_ops.contains(&index);
        no_ops.retain(|&index| !sources.iter().any(|vote| is_value(vote, index)));
    }
    let mut missing = missing(floor, longest.last, own_last, (longest.base, &no_ops));
    if mutant::is(Mutant::MissingSlotsBecomeNoOps) {
        no_ops.extend(missing.drain(..).filter(|index| *index > longest.base));
    }
    Ok(Plan {
        source_term,
        source_base: longest.base,
        floor,
        checkpoint_from,
        last: longest.last,
        no_ops,
        missing,
        sources: sources.iter().map(|vote| vote.voter).collect(),
    })
}

/// The slots above what the own log of the source term holds, but for no-ops of that term. An own
/// no-op is among the merged ones, since the own vote is among the votes.
fn missing(
    floor: Index,
    last: Index,
    own_last: Index,
    (source_base, no_ops): (Index, &BTreeSet<Index>),
) -> Vec<Index> {
    let from = floor.max(own_last);
    let is_known = |index: &Index| *index > source_base && no_ops.contains(index);
    (from.0 + 1..=last.0).map(Index).filter(|index| !is_known(index)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(voter: u8, last_normal: u64, first: u64, last: u64, no_ops: &[u64]) -> Vote {
        Vote {
            voter: MemberId(voter),
            last_normal: TermId(last_normal),
            base: Index(0),
            first: Index(first),
            last: Index(last),
            no_ops: no_ops.iter().copied().map(Index).collect(),
        }
    }

    fn own(last_normal: u64, sync_point: u64, last: u64) -> Own {
        Own { last_normal: TermId(last_normal), sync_point: Index(sync_point), last: Index(last) }
    }

    fn indexes(indexes: &[u64]) -> BTreeSet<Index> {
        indexes.iter().copied().map(Index).collect()
    }

    #[test]
    fn first_view_of_an_empty_group_starts_empty() {
        let plan = log_merge(&[vote(0, 0, 1, 0, &[])], own(0, 0, 0)).unwrap();
        assert_eq!((plan.floor, plan.last), (Index(0), Index(0)));
        assert!(plan.missing.is_empty());
    }

    #[test]
    fn own_log_is_kept_whole_when_it_is_alone() {
        let plan = log_merge(&[vote(0, 4, 1, 9, &[7])], own(4, 5, 9)).unwrap();
        assert_eq!((plan.source_term, plan.floor, plan.last), (TermId(4), Index(5), Index(9)));
        assert_eq!(plan.no_ops, indexes(&[7]));
        assert!(plan.missing.is_empty());
    }

    #[test]
    fn no_op_beats_value() {
        let votes = [vote(0, 1, 1, 6, &[]), vote(1, 1, 1, 5, &[5])];
        let plan = log_merge(&votes, own(1, 0, 6)).unwrap();
        assert_eq!(plan.no_ops, indexes(&[5]));
        assert_eq!(plan.last, Index(6));
    }

    #[test]
    fn slot_missing_at_the_new_leader_is_fetched_and_never_made_a_no_op() {
        let votes = [vote(0, 1, 1, 3, &[]), vote(1, 1, 1, 6, &[5])];
        let plan = log_merge(&votes, own(1, 2, 3)).unwrap();
        assert_eq!(plan.missing, [Index(4), Index(6)]);
        assert_eq!(plan.no_ops, indexes(&[5]));
        assert_eq!(plan.sources, [MemberId(1), MemberId(0)]);
    }

    #[test]
    fn no_op_of_an_older_view_is_fetched_like_a_value() {
        let mut voted = vote(1, 3, 1, 8, &[4, 7]);
        voted.base = Index(5);
        let plan = log_merge(&[vote(0, 1, 1, 9, &[]), voted], own(1, 3, 9)).unwrap();
        assert_eq!(plan.missing, [4, 5, 6, 8].map(Index), "7 has its message id from the base");
        assert_eq!(plan.no_ops, indexes(&[4, 7]));
    }

    #[test]
    fn log_of_an_older_view_counts_for_nothing_above_the_stable_prefix() {
        let votes = [vote(0, 1, 1, 9, &[8]), vote(1, 3, 1, 5, &[])];
        let plan = log_merge(&votes, own(1, 2, 9)).unwrap();
        assert_eq!(plan.source_term, TermId(3));
        assert_eq!(plan.last, Index(5));
        assert!(plan.no_ops.is_empty());
        assert_eq!(plan.missing, [Index(3), Index(4), Index(5)]);
    }

    #[test]
    fn below_a_truncation_only_a_checkpoint_is_trusted() {
        let votes = [vote(0, 1, 1, 9, &[]), vote(1, 1, 7, 9, &[])];
        let plan = log_merge(&votes, own(1, 3, 9)).unwrap();
        assert_eq!((plan.floor, plan.checkpoint_from), (Index(6), Some(MemberId(1))));
        let plan = log_merge(&votes, own(1, 6, 9)).unwrap();
        assert_eq!((plan.floor, plan.checkpoint_from), (Index(6), None));
    }

    #[test]
    fn contradictions_are_errors() {
        let mut disagreeing = vote(1, 1, 1, 5, &[]);
        disagreeing.base = Index(2);
        assert_eq!(
            log_merge(&[vote(0, 1, 1, 5, &[]), disagreeing], own(1, 0, 5)),
            Err(MergeError::BaseDisagreement(MemberId(0), MemberId(1)))
        );
        assert_eq!(
            log_merge(&[vote(0, 1, 1, 5, &[])], own(1, 8, 9)),
            Err(MergeError::StablePrefixLost { last: Index(5), stable: Index(8) })
        );
    }
}
