//! What a member remembers of another one's disk, to notice that it went back in time: a restored
//! backup, a cloned volume, a device that lies about what is durable.
//!
//! A member says at each connection which boot of its data directory it is, which process, and how
//! far each partition is ([`Standing`]). Boots are numbered durably before anything else is
//! written, so a lower number than one seen is an older copy, and the same number of another
//! process a second one of the same copy. A member that has answered for a slot in a view must have
//! it at any later boot. Whoever breaks this is treated as a member that has lost its disk: what it
//! promised can't be relied on.
//!
//! It is remembered in memory only: a member that restarts has seen nothing. So this catches what
//! some living peer can know, not everything.

use std::collections::BTreeMap;
use std::fmt;

use super::wal::Standing;
use crate::base::ids::{BootEpoch, Index, PartitionId, TermId};
use crate::base::mutant::{self, Mutant};

/// What a member says of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// The boot of its data directory.
    pub boot_epoch: BootEpoch,
    /// Drawn anew by each process.
    pub nonce: u64,
}

/// In which way a member's disk isn't the one that it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolledBack {
    /// It was at a later boot already.
    Boot {
        /// The latest boot seen.
        seen: BootEpoch,
        /// What it says now.
        found: BootEpoch,
    },
    /// Two processes say that they are the same boot.
    Twice {
        /// The boot.
        boot_epoch: BootEpoch,
    },
    /// It had voted for a view that it knows nothing of now.
    Vote {
        /// The partition.
        partition: PartitionId,
        /// The view for which it has voted.
        seen: TermId,
        /// What it says now.
        found: TermId,
    },
    /// It had adopted a view that it knows nothing of now.
    View {
        /// The partition.
        partition: PartitionId,
        /// The view for which it has answered.
        seen: TermId,
        /// What it says now.
        found: TermId,
    },
    /// It has answered for a slot that it hasn't now.
    Slot {
        /// The partition.
        partition: PartitionId,
        /// The slot for which it has answered.
        seen: Index,
        /// What it says now.
        found: Index,
    },
}

impl fmt::Display for RolledBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boot { seen, found } => {
                write!(f, "it is at boot {found}, but was at boot {seen} already")
            }
            Self::Twice { boot_epoch } => {
                write!(f, "two processes say that they are boot {boot_epoch} of one directory")
            }
            Self::Vote { partition, seen, found } => {
                write!(f, "partition {partition}: it voted for view {seen}, and knows of {found}")
            }
            Self::View { partition, seen, found } => {
                write!(f, "partition {partition}: it was in view {seen}, and is in {found} now")
            }
            Self::Slot { partition, seen, found } => {
                write!(f, "partition {partition}: it had slot {seen}, and has {found} slots now")
            }
        }
    }
}

impl std::error::Error for RolledBack {}

/// What is remembered of one member.
#[derive(Clone, Debug, Default)]
pub struct Witness {
    life: Option<Life>,
    said: BTreeMap<PartitionId, Said>,
}

/// What a member has said of a partition in its present life.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    /// The last view that it has voted for.
    voted: TermId,
    /// The last view for which it has answered, and the last slot in it.
    answered: (TermId, Index),
}

impl Witness {
    /// The member has answered that it holds all slots up to `last`, durably, in a view.
    pub fn on_answer(&mut self, partition: PartitionId, term: TermId, last: Index) {
        let said = self.said.entry(partition).or_default();
        said.answered = said.answered.max((term, last));
    }

    /// The member has voted for a view, durably.
    pub fn on_vote(&mut self, partition: PartitionId, term: TermId) {
        let said = self.said.entry(partition).or_default();
        said.voted = said.voted.max(term);
    }

    /// The process with which the member connected last, as long as nothing was wrong with it.
    #[must_use]
    pub const fn life(&self) -> Option<Life> {
        self.life
    }

    /// The member connects. What it says is remembered if it is possible.
    ///
    /// # Errors
    /// If its disk went back in time. It is for the caller to see that this is a new life of the
    /// member in each partition; what it says from then on is remembered anew.
    pub fn on_hello(
        &mut self,
        life: Life,
        standings: impl IntoIterator<Item = (PartitionId, Standing)>,
    ) -> Result<(), RolledBack> {
        let checked = match mutant::is(Mutant::RollbackUnnoticed) {
            true => Ok(()),
            false => self.check(life, standings),
        };
        if checked.is_err() {
            self.said.clear();
        }
        self.life = Some(life);
        checked
    }

    fn check(
        &self,
        life: Life,
        standings: impl IntoIterator<Item = (PartitionId, Standing)>,
    ) -> Result<(), RolledBack> {
        if let Some(seen) = self.life {
            if life.boot_epoch < seen.boot_epoch {
                let (seen, found) = (seen.boot_epoch, life.boot_epoch);
                return Err(RolledBack::Boot { seen, found });
            }
            if life.boot_epoch == seen.boot_epoch && life.nonce != seen.nonce {
                return Err(RolledBack::Twice { boot_epoch: life.boot_epoch });
            }
        }
        for (partition, standing) in standings {
            let Some(&Said { voted, answered }) = self.said.get(&partition) else { continue };
            let (term, last) = answered;
            if standing.view < voted {
                let (seen, found) = (voted, standing.view);
                return Err(RolledBack::Vote { partition, seen, found });
            }
            if standing.last_normal < term {
                let (seen, found) = (term, standing.last_normal);
                return Err(RolledBack::View { partition, seen, found });
            }
            if standing.last_normal == term && standing.last < last {
                let (seen, found) = (last, standing.last);
                return Err(RolledBack::Slot { partition, seen, found });
            }
        }
        Ok(())
    }

    /// The member has lost its disk, and says so by a higher incarnation: what it had answered in a
    /// partition before that is void.
    pub fn on_new_incarnation(&mut self, partition: PartitionId) {
        self.said.remove(&partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(3);

    fn life(boot: u64, nonce: u64) -> Life {
        Life { boot_epoch: BootEpoch(boot), nonce }
    }

    fn standing(last_normal: u64, last: u64) -> [(PartitionId, Standing); 1] {
        let (view, last_normal, last) = (TermId(last_normal), TermId(last_normal), Index(last));
        [(P, Standing { view, last_normal, last })]
    }

    #[test]
    fn older_copy_and_second_copy_of_a_directory_are_noticed() {
        let mut witness = Witness::default();
        assert_eq!(witness.on_hello(life(5, 1), []), Ok(()));
        assert_eq!(witness.on_hello(life(5, 1), []), Ok(()), "it connects again");
        let twice = RolledBack::Twice { boot_epoch: BootEpoch(5) };
        assert_eq!(witness.clone().on_hello(life(5, 2), []), Err(twice));
        let older = RolledBack::Boot { seen: BootEpoch(5), found: BootEpoch(4) };
        assert_eq!(witness.on_hello(life(4, 3), []), Err(older));
        assert_eq!(witness.on_hello(life(4, 3), []), Ok(()), "it was told, and goes on from there");
        assert_eq!(witness.on_hello(life(6, 2), []), Ok(()));
        assert!(witness.on_hello(life(5, 1), []).is_err());
    }

    #[test]
    fn less_than_was_answered_for_is_noticed_even_at_a_later_boot() {
        let mut witness = Witness::default();
        witness.on_hello(life(1, 1), standing(2, 10)).unwrap();
        witness.on_answer(P, TermId(2), Index(15));
        witness.on_answer(P, TermId(2), Index(12));
        let slot = RolledBack::Slot { partition: P, seen: Index(15), found: Index(14) };
        assert_eq!(witness.clone().on_hello(life(2, 2), standing(2, 14)), Err(slot));
        assert_eq!(witness.on_hello(life(2, 2), standing(2, 15)), Ok(()));
        // A later view may have dropped slots that weren't committed.
        assert_eq!(witness.on_hello(life(3, 3), standing(4, 13)), Ok(()));
        witness.on_answer(P, TermId(4), Index(13));
        let view = RolledBack::View { partition: P, seen: TermId(4), found: TermId(2) };
        assert_eq!(witness.clone().on_hello(life(4, 4), standing(2, 99)), Err(view));
        witness.on_vote(P, TermId(6));
        let vote = RolledBack::Vote { partition: P, seen: TermId(6), found: TermId(5) };
        assert_eq!(witness.clone().on_hello(life(4, 4), standing(5, 99)), Err(vote));
        witness.on_new_incarnation(P);
        assert_eq!(witness.on_hello(life(4, 4), standing(0, 0)), Ok(()));
    }

    #[test]
    fn what_was_said_before_a_rollback_was_noticed_counts_no_longer() {
        let mut witness = Witness::default();
        witness.on_hello(life(1, 1), standing(2, 10)).unwrap();
        witness.on_answer(P, TermId(2), Index(15));
        witness.on_hello(life(2, 2), standing(2, 14)).unwrap_err();
        assert_eq!(witness.on_hello(life(2, 2), standing(2, 14)), Ok(()), "noticed once");
        assert_eq!(witness.life(), Some(life(2, 2)));
    }
}
