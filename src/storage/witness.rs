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
use crate::base::ids::{BootEpoch, Index, NodeId, PartitionId, TermId};
use crate::base::mutant::{self, Mutant};

/// What a member says of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// The boot of its data directory.
    pub boot_epoch: BootEpoch,
    /// Drawn anew by each process.
    pub nonce: u64,
}

/// The latest boot of each other node that a shard has heard of, to tell a disk that went back in
/// time from the last words of a process that is gone and was long on its way.
///
/// Who greets says the boot of its process in answer to a greeting of ours. An earlier boot than
/// the latest is believed only of an answer to what was said when that one was known already: its
/// process lived on after the later one.
#[derive(Debug, Default)]
pub struct LatestBoots(BTreeMap<NodeId, BootEpoch>);

impl LatestBoots {
    /// The latest boot of a node: to be kept with what is said to it.
    #[must_use]
    pub fn of(&self, node: NodeId) -> BootEpoch {
        self.0.get(&node).copied().unwrap_or_default()
    }

    /// A node says which boot it is in answer to what was said when `known` was its latest one.
    /// False: the process may be gone, so what it says proves nothing.
    pub fn on_answer(&mut self, node: NodeId, boot: BootEpoch, known: BootEpoch) -> bool {
        let latest = self.0.entry(node).or_default();
        let counts = boot >= *latest || known >= *latest;
        *latest = boot.max(*latest);
        counts
    }
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

/// What is remembered of one member of a partition.
#[derive(Clone, Copy, Debug, Default)]
pub struct Witness {
    life: Option<Life>,
    /// The last view that it has voted for.
    voted: TermId,
    /// The last view for which it has answered, and the last slot in it.
    answered: (TermId, Index),
}

impl Witness {
    /// The member has answered that it holds all slots up to `last`, durably, in a view.
    pub fn on_answer(&mut self, term: TermId, last: Index) {
        self.answered = self.answered.max((term, last));
    }

    /// The member has voted for a view, durably.
    pub fn on_vote(&mut self, term: TermId) {
        self.voted = self.voted.max(term);
    }

    /// The process with which the member connected last.
    #[must_use]
    pub const fn life(&self) -> Option<Life> {
        self.life
    }

    /// The member connects, and says how the partition stands; `None`: it is not to be held to
    /// that.
    ///
    /// # Errors
    /// If its disk went back in time. It is for the caller to see that a new life of the member
    /// begins; what it says from then on is remembered anew.
    pub fn on_hello(
        &mut self,
        life: Life,
        partition: PartitionId,
        standing: Option<Standing>,
    ) -> Result<(), RolledBack> {
        let checked = match mutant::is(Mutant::RollbackUnnoticed) {
            true => Ok(()),
            false => self.check(life, partition, standing),
        };
        if checked.is_err() {
            *self = Self::default();
        }
        self.life = Some(life);
        checked
    }

    fn check(
        &self,
        life: Life,
        partition: PartitionId,
        standing: Option<Standing>,
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
        let Some(standing) = standing else { return Ok(()) };
        if standing.view < self.voted {
            let (seen, found) = (self.voted, standing.view);
            return Err(RolledBack::Vote { partition, seen, found });
        }
        let (term, last) = self.answered;
        if standing.last_normal < term {
            let (seen, found) = (term, standing.last_normal);
            return Err(RolledBack::View { partition, seen, found });
        }
        if standing.last_normal == term && standing.last < last {
            let (seen, found) = (last, standing.last);
            return Err(RolledBack::Slot { partition, seen, found });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(3);

    /// The member connects; `at`: the view of its log, and its last slot.
    fn hello(
        witness: &mut Witness,
        (boot, nonce): (u64, u64),
        at: (u64, u64),
    ) -> Option<RolledBack> {
        let (last_normal, last) = (TermId(at.0), Index(at.1));
        let standing = Standing { view: last_normal, last_normal, last };
        let life = Life { boot_epoch: BootEpoch(boot), nonce };
        witness.on_hello(life, P, Some(standing)).err()
    }

    #[test]
    fn older_copy_and_second_copy_of_a_directory_are_noticed() {
        let mut witness = Witness::default();
        assert_eq!(hello(&mut witness, (5, 1), (0, 0)), None);
        assert_eq!(hello(&mut witness, (5, 1), (0, 0)), None, "it connects again");
        let twice = RolledBack::Twice { boot_epoch: BootEpoch(5) };
        assert_eq!(hello(&mut witness.clone(), (5, 2), (0, 0)), Some(twice));
        let older = RolledBack::Boot { seen: BootEpoch(5), found: BootEpoch(4) };
        assert_eq!(hello(&mut witness, (4, 3), (0, 0)), Some(older));
        assert_eq!(
            hello(&mut witness, (4, 3), (0, 0)),
            None,
            "it was told, and goes on from there"
        );
        assert_eq!(hello(&mut witness, (6, 2), (0, 0)), None);
        assert_ne!(hello(&mut witness, (5, 1), (0, 0)), None);
    }

    #[test]
    fn earlier_boot_counts_only_in_answer_to_what_was_said_after_the_later_one_was_known() {
        const A: NodeId = NodeId(0);
        let mut boots = LatestBoots::default();
        let first = boots.of(A);
        assert!(boots.on_answer(A, BootEpoch(1), first), "the first that is heard of it");
        let (before, also_before) = (boots.of(A), boots.of(A));
        assert!(boots.on_answer(A, BootEpoch(2), before));
        assert!(!boots.on_answer(A, BootEpoch(1), also_before), "it may be gone since");
        let after = boots.of(A);
        assert_eq!(after, BootEpoch(2));
        assert!(boots.on_answer(A, BootEpoch(1), after), "its disk went back in time");
        assert!(boots.on_answer(A, BootEpoch(2), after), "two processes of one disk");
        assert_eq!(boots.of(NodeId(1)), BootEpoch(0), "another node is another matter");
    }

    #[test]
    fn less_than_was_answered_for_is_noticed_even_at_a_later_boot() {
        let mut witness = Witness::default();
        assert_eq!(hello(&mut witness, (1, 1), (2, 10)), None);
        witness.on_answer(TermId(2), Index(15));
        witness.on_answer(TermId(2), Index(12));
        let slot = RolledBack::Slot { partition: P, seen: Index(15), found: Index(14) };
        assert_eq!(hello(&mut witness.clone(), (2, 2), (2, 14)), Some(slot));
        let life = Life { boot_epoch: BootEpoch(2), nonce: 2 };
        assert_eq!(witness.clone().on_hello(life, P, None), Ok(()), "it isn't held to that");
        assert_eq!(hello(&mut witness, (2, 2), (2, 15)), None);
        // A later view may have dropped slots that weren't committed.
        assert_eq!(hello(&mut witness, (3, 3), (4, 13)), None);
        witness.on_answer(TermId(4), Index(13));
        let view = RolledBack::View { partition: P, seen: TermId(4), found: TermId(2) };
        assert_eq!(hello(&mut witness.clone(), (4, 4), (2, 99)), Some(view));
        witness.on_vote(TermId(6));
        let vote = RolledBack::Vote { partition: P, seen: TermId(6), found: TermId(5) };
        assert_eq!(hello(&mut witness, (4, 4), (5, 99)), Some(vote));
        assert_eq!(hello(&mut witness, (4, 4), (0, 0)), None, "it was noticed, and is forgotten");
    }
}
