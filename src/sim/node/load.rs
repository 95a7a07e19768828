//! From a simulated disk to a shard's state: the real recovery and the real checkpoints, seen by
//! the checkers on the way.

use std::fmt;

use super::Node;
use crate::base::cast::u64_from;
use crate::base::ids::{Index, MessageId, PartitionId, ShardId, TermId};
use crate::base::time::Timestamp;
use crate::shard::{Config, InstallError, Installing, Loading};
use crate::sim::NodeId;
use crate::sim::checker::replicas::Replicas;
use crate::sim::checker::{Checker, Violation};
use crate::sim::cluster::World;
use crate::sim::disk::{CheckpointReader, DirectoryError, Opened};
use crate::storage::checkpoint::CheckpointSource;
use crate::storage::error::StorageError;
use crate::storage::recovery::{LogFolder, Recovered, Salvage, Suspect, recover_member};
use crate::storage::replay::Apply;

/// Why a process doesn't come to serve.
#[derive(Debug)]
pub(in crate::sim) enum StartFailure {
    /// The device couldn't read: it may another time.
    Unreadable,
    /// The process was stopped on the way.
    Interrupted,
    /// What is there isn't what was written.
    Refused(String),
    /// Something is wrong with the code.
    Violation(Violation),
}

impl From<StorageError> for StartFailure {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Read { .. } => Self::Unreadable,
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<InstallError> for StartFailure {
    fn from(error: InstallError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl From<DirectoryError> for StartFailure {
    fn from(error: DirectoryError) -> Self {
        Self::Refused(format!("{}: {}", error.file, error.error))
    }
}

impl From<Violation> for StartFailure {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl fmt::Display for StartFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => f.write_str("the device can't read"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Refused(reason) => f.write_str(reason),
            Self::Violation(violation) => violation.fmt(f),
        }
    }
}

/// Hands stable slots on, and shows them to a checker.
struct Observing<'a, 'r, S> {
    installing: Installing<'a, S>,
    replicas: &'r mut Replicas,
    node: NodeId,
    installed_count: u64,
    violation: Option<Violation>,
}

impl<S: CheckpointSource> Apply for Observing<'_, '_, S> {
    fn install(&mut self, partition: PartitionId, index: Index) {
        self.installed_count += 1;
        self.installing.install(partition, index);
    }

    fn apply(
        &mut self,
        partition: PartitionId,
        index: Index,
        term: TermId,
        message_id: MessageId,
        timestamp: Timestamp,
        value: Option<&[u8]>,
    ) {
        let place = (partition, index);
        let seen = self.replicas.stable_slot(self.node, place, message_id, timestamp, value);
        self.violation = self.violation.take().or(seen.err());
        self.installing.apply(partition, index, term, message_id, timestamp, value);
    }
}

impl<S: CheckpointSource> Salvage for Observing<'_, '_, S> {
    fn is_whole(&self, partition: PartitionId) -> bool {
        self.installing.is_whole(partition)
    }

    fn reset(&mut self, partition: PartitionId, checkpoint: Index) -> bool {
        self.installing.reset(partition, checkpoint)
    }
}

impl Node {
    /// Reads a shard's log and checkpoints, as a start does.
    pub(super) fn load(
        &mut self,
        opened: &Opened,
        config: Config,
        world: &mut World,
    ) -> Result<(Loading, Recovered), StartFailure> {
        let shard = config.shard;
        let partitions: Vec<PartitionId> = config.partitions.clone().map(PartitionId).collect();
        let key = opened.log_key(shard);
        let (mut segments, mut checkpoints) = self.disk.readers(opened.current.generation, shard);
        let files = segments.files();
        let folder = LogFolder {
            key,
            boot_epoch: opened.boot_epoch,
            segment_size_bytes: world.swarm.segment_size_bytes,
            partitions: &partitions,
            files: &files,
            serves_peers: config.nodes.replication_factor() > 1,
        };
        let mut loading = Loading::new(config);
        let mut observing: Observing<'_, '_, CheckpointReader<'_>> = Observing {
            installing: Installing::new(&mut loading, &mut checkpoints, key.salt),
            replicas: &mut world.replicas,
            node: self.id,
            installed_count: 0,
            violation: None,
        };
        let is_alone = !folder.serves_peers;
        let recovered = recover_member(&folder, &mut segments, &mut observing)?;
        let Observing { installing, installed_count, violation, .. } = observing;
        violation.map_or(Ok(()), Err)?;
        if is_alone {
            installing.finish()?;
        } else {
            self.check_suspects(&recovered, world)?;
        }
        world.report.mark("checkpoint installed at a start", installed_count);
        world.report.mark("torn tail cut", u64::from(recovered.torn.is_some()));
        world.report.mark("start after a clean end", u64::from(recovered.start.clean));
        world.report.mark("garbage segment removed", u64_from(recovered.garbage.len()));
        self.check_recovered(&recovered, world)?;
        self.sync_folder(opened, shard, &recovered);
        Ok((loading, recovered))
    }

    /// A partition is held back from its group only for what was done to its disk.
    fn check_suspects(&self, recovered: &Recovered, world: &mut World) -> Result<(), StartFailure> {
        let suspects = &recovered.suspects;
        world.report.mark("partition suspect at a start", u64_from(suspects.len()));
        for Suspect { partition, suspicion } in suspects {
            let words = [u64::from(self.id.0), u64::from(partition.0)];
            world.trace.event(world.schedule.now(), "suspect", &words, || {
                format!("{} #{partition}: {suspicion}", self.id)
            });
            if self.is_whole() {
                let node = self.id;
                let what = format!("node {node} mistrusts what nobody damaged: {suspicion}");
                return Err(Violation::new(Checker::Durability, what).into());
            }
        }
        Ok(())
    }

    /// What was found holds all that was acknowledged, where nobody else could.
    fn check_recovered(
        &self,
        recovered: &Recovered,
        world: &mut World,
    ) -> Result<(), StartFailure> {
        if world.promises_durability() && world.swarm.node_count() == 1 {
            for found in &recovered.partitions {
                let state = &found.state;
                world.acknowledged.recovered(self.id, state.partition, state.last)?;
            }
        }
        for found in &recovered.partitions {
            let state = &found.state;
            if state.is_recovering {
                world.claims.forget_partition(self.id, state.partition);
            } else if !self.disk.is_damaged() {
                // What was damaged the others make good for; what a crash loses without `sync`
                // nobody expects (`Claims::forget_member`), but all that a process had claimed
                // which was told to stop.
                world.claims.recovered(self.id, state)?;
            }
        }
        Ok(())
    }

    /// What was found is durable from here on, and what counts for nothing is removed.
    fn sync_folder(&mut self, opened: &Opened, shard: ShardId, recovered: &Recovered) {
        let folder = self.disk.folder(opened.current.generation, shard);
        folder.sync();
        for segment in &recovered.garbage {
            folder.remove_segment(*segment);
        }
    }
}
