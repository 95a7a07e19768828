//! What a shard shows of itself: its counters, what it holds, and how its partitions stand. Costs
//! nothing per request but a mark on a partition that has changed.

use super::{Partition, Shard};
use crate::base::cast::u64_from;
use crate::base::ids::{Index, PartitionId, TermId};
use crate::metrics::histogram::Histogram;
use crate::metrics::{IgnoredMetrics, MemberGauges, ServiceMetrics, ShardGauges};
use crate::nopaxos::replica::Replica;
use crate::nopaxos::{Ignored, Status};

/// How a partition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionState {
    /// What its replica is doing.
    pub status: Status,
    /// The term of the view that was started last.
    pub term: TermId,
    /// The last index of its log.
    pub last: Index,
    /// The last index that is stable.
    pub sync_point: Index,
    /// The index that its last checkpoint reflects; 0: there is none.
    pub checkpoint: Index,
    /// Entries of all its maps.
    pub entries: u64,
    /// Bytes of their keys and values.
    pub size_bytes: u64,
}

impl Shard {
    /// Fills in what the shard has counted and what it holds.
    pub fn measure(&self, metrics: &mut ServiceMetrics) {
        let core = &self.core;
        let (space, map) = (core.log.space(), core.arena.usage());
        let used = map.records_used_bytes + map.tables_used_bytes;
        let reserved = map.records_reserved_bytes + map.tables_reserved_bytes;
        metrics.counters = core.counters;
        metrics.checkpoints = core.checkpoint_metrics;
        if core.config.is_replicated() {
            metrics.ignored = self.ignored();
            metrics.member = self.member_gauges();
        }
        metrics.gauges = ShardGauges {
            awaiting: u64_from(core.awaiting.len()),
            unsynced_size_bytes: u64_from(core.unsynced_size_bytes),
            results_size_bytes: u64_from(core.results_size_bytes),
            gathers: u64_from(core.gathers.len()),
            waiting_reads: u64_from(core.waiting_reads.len()),
            streams: u64_from(core.streams.len()),
            sweeping_partitions: u64_from(core.sweeping.len()),
            log_used_size_bytes: space.used_size_bytes,
            log_size_bytes_max: space.size_bytes_max,
            log_client_size_bytes: space.client_size_bytes,
            log_gathering_size_bytes: space.gathering_size_bytes,
            map_used_size_bytes: used,
            map_reserved_size_bytes: reserved,
            map_size_bytes_max: reserved + core.arena.pages_size_bytes_left(),
        };
    }

    /// What other members said in vain.
    fn ignored(&self) -> IgnoredMetrics {
        let mut sum = Ignored::default();
        for Partition { member, .. } in &self.partitions {
            sum.add(member.ignored());
        }
        let mut counts = sum.each().map(|(_, count)| count).chain(self.core.peer_drops);
        let mut ignored = IgnoredMetrics::default();
        ignored.fill(&mut || counts.next().expect("there is a row for each reason"));
        assert!(counts.next().is_none(), "there is a reason for each row");
        ignored
    }

    fn member_gauges(&self) -> MemberGauges {
        let forwards = u64_from(self.core.forwards.count());
        let mut gauges = MemberGauges { forwards, ..MemberGauges::default() };
        for Partition { member, view } in &self.partitions {
            let replica = member.replica();
            let unstable = replica.log().last().0.saturating_sub(replica.sync_point().0);
            let unapplied = member.readable().0.saturating_sub(replica.applied().0);
            gauges.partitions_led += u64::from(replica.is_leading());
            gauges.term_max = gauges.term_max.max(view.term.0);
            gauges.unstable_slots_max = gauges.unstable_slots_max.max(unstable);
            gauges.unapplied_slots_max = gauges.unapplied_slots_max.max(unapplied);
        }
        gauges
    }

    /// How long writes waited to be durable, counted when they were answered.
    pub fn commit_waits(&mut self) -> &mut Histogram {
        &mut self.core.commit_waits
    }

    /// The replica of a partition, to be looked at.
    ///
    /// # Panics
    /// If the shard doesn't own the partition.
    #[must_use]
    pub fn replica(&self, partition: PartitionId) -> &Replica {
        self.partitions[self.place(partition)].member.replica()
    }

    /// How many partitions have changed since they were taken by [`Shard::take_changed`].
    #[must_use]
    pub fn changed_count(&self) -> usize {
        self.core.changed.len()
    }

    /// Up to `count_max` of the partitions that have changed since they were taken last, and how
    /// they stand now. At the start all of them have.
    pub fn take_changed(
        &mut self,
        count_max: usize,
        mut visit: impl FnMut(PartitionId, PartitionState),
    ) {
        for _ in 0..count_max {
            let Some(partition) = self.core.changed.pop_front() else { return };
            let place = self.place(partition);
            let Partition { member, view } = &mut self.partitions[place];
            let replica = member.replica();
            view.changed = false;
            let size = view.map.total_size();
            let state = PartitionState {
                status: replica.status(),
                term: view.term,
                last: replica.log().last(),
                sync_point: replica.sync_point(),
                checkpoint: self
                    .core
                    .log
                    .state()
                    .partition(partition)
                    .map_or(Index(0), |state| state.checkpoint),
                entries: size.entries,
                size_bytes: size.bytes,
            };
            visit(partition, state);
        }
    }
}
