//! What a member of a group does with its log when its process starts: the one place where it is
//! decided whether a partition goes on, or recovers from its other members before it takes part.
//!
//! In a group of one there is nobody to recover from: a damaged log is refused. In a group of
//! several a partition recovers ([`Recovered::suspects`] says which and why) when its log isn't all
//! that it has promised:
//!
//! | | what the log says | why |
//! | --- | --- | --- |
//! | damage | [`super::recover_partly`] | what is missing may have been promised |
//! | `async`, not closed | the last snapshot's boot acts early, no `CloseBoot` | its end is lost |
//! | blank | no record was ever appended | it is new, or the disk is, or nothing is kept (`none`) |
//! | unrecovered | it is marked | it was one of these at an earlier start |
//!
//! That a blank partition recovers is what makes a new disk safe: a member answers nobody before
//! its crash vector is durable, so who is blank has told no other member that it is new. A group
//! that begins is blank on all members; they tell each other, and begin (`nopaxos`, R6). A member
//! alone in that finds a quorum with data, and begins a new life. Whether it may is for an operator
//! to say ([`FormerLife`]): the others remember that it has lived.
//!
//! How a boot acts is in its snapshots rather than in what the node is told now: a node that was
//! killed under `async` isn't whole because it is started again with `sync`.
//!
//! `CloseBoot` is the last record of a boot, durable before the process ends. The next boot
//! consumes it with its first snapshot, and no slot counts as durable before that
//! ([`Wal::is_open`](crate::storage::wal::Wal::is_open)). Until then nothing was promised that the
//! closed log doesn't say, so a start that fails early may be repeated. That a partition has lost
//! something is recorded in the same breath
//! ([`WalStart::lost`](crate::storage::wal::WalStart::lost)): however that boot ends, a clean
//! end of it doesn't mean that the partition has recovered. Of a blank partition nothing is
//! recorded: it stays blank until it has answered somebody or begun a life.

use std::fmt;

use super::{
    LogFolder, Recovered, Salvage, SegmentSource, Suspect, Suspicion, recover, recover_partly,
};
use crate::base::ids::{Incarnation, PartitionId};
use crate::storage::error::StorageError;

/// Replays the log of a shard, and says which of its partitions must recover from their other
/// members, if they have any.
///
/// # Errors
/// If the log isn't to be touched, or damaged and its partitions have no other members. What was
/// applied until then must not be served.
pub fn recover_member(
    folder: &LogFolder<'_>,
    source: &mut impl SegmentSource,
    apply: &mut impl Salvage,
) -> Result<Recovered, StorageError> {
    if !folder.serves_peers {
        return recover(folder, source, apply);
    }
    let mut recovered = recover_partly(folder, source, apply)?;
    recovered.mistrust();
    Ok(recovered)
}

impl Recovered {
    /// Whether nothing was ever logged of any partition.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.start.state.partitions.iter().all(super::PartitionSnapshot::is_blank)
    }

    /// For a log that is moved rather than gone on with: partitions of which nothing is stored are
    /// to be found blank again by the next start.
    pub fn keep_blank(&mut self) {
        for (state, recovered) in self.start.state.partitions.iter().zip(&mut self.partitions) {
            recovered.state.is_recovering &= !state.is_blank();
        }
    }

    /// Suspects what recovery alone doesn't.
    fn mistrust(&mut self) {
        let Self { partitions, start, suspects, .. } = self;
        let is_unclean = start.state.acts_early && !start.clean;
        for (state, recovered) in start.state.partitions.iter().zip(partitions) {
            let partition = state.partition;
            if suspects.iter().any(|suspect| suspect.partition == partition) {
                continue;
            }
            let suspicion = match (state.is_blank(), is_unclean) {
                (true, _) => Suspicion::Blank,
                (false, true) => Suspicion::Unclean,
                (false, false) => continue,
            };
            if suspicion == Suspicion::Unclean {
                start.lost.push(partition);
            }
            suspects.push(Suspect { partition, suspicion });
            recovered.state.is_recovering = true;
        }
    }
}

/// Another member knows that this one has lived before, though nothing is stored here: the data
/// directory is empty among members that have data. Only an operator can say that the member is to
/// begin a new life in the place of the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormerLife {
    /// Where.
    pub partition: PartitionId,
    /// Which life the other member knows.
    pub known: Incarnation,
}

impl FormerLife {
    /// What another member's knowledge means: `own` is this member's incarnation, `known` what the
    /// other one knows of it when their connection begins. Only of a shard of which nothing is
    /// stored ([`Recovered::is_blank`]).
    #[must_use]
    pub fn of(partition: PartitionId, own: Incarnation, known: Incarnation) -> Option<Self> {
        let is_former = own == Incarnation(0) && known > own;
        is_former.then_some(Self { partition, known })
    }
}

impl fmt::Display for FormerLife {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, known } = self;
        write!(
            f,
            "the data directory is empty, but another member knows life {known} of this node \
             (partition {partition}): start it with the directory that it had, or with --replace \
             to take its place with an empty one"
        )
    }
}

impl std::error::Error for FormerLife {}
