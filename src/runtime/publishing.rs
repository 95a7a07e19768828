//! When and what a loop shows to other threads: everything every hundred milliseconds while it is
//! awake, and before it sleeps. Of partitions only those that have changed, and a bounded number
//! of them in one turn.

use super::event_loop::EventLoop;
use super::service::Service;
use crate::base::cast::{u64_from, usize_from_u32};
use crate::base::limits::PUBLISHED_PARTITIONS_PER_TURN;
use crate::base::time::{Monotonic, NS_PER_MS};
use crate::metrics::CoreMetrics;
use crate::metrics::stage::Stage;

/// How often a loop that doesn't sleep shows what it counted.
const INTERVAL_NS: u64 = 100 * NS_PER_MS;

/// When a loop published last, and what is left of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Publishing {
    at: Monotonic,
    /// Partitions that had changed then and were too many for one turn.
    partitions_left: usize,
}

impl<S: Service> EventLoop<S> {
    /// Publishes if it is time.
    pub(super) fn publish_when_due(&mut self) {
        let now = self.monotonic();
        if now.since_ns(self.publishing.at) >= INTERVAL_NS {
            self.publishing.at = now;
            self.publish();
            self.publishing.partitions_left = self.service.changed_count();
        }
        if self.publishing.partitions_left > 0 {
            self.publish_partitions();
        }
    }

    /// Before the loop sleeps: publishes partitions. False: there are more, so it may not sleep
    /// yet.
    pub(super) fn partitions_are_published(&mut self) -> bool {
        self.publish_partitions();
        self.service.changed_count() == 0
    }

    /// Publishes everything: the loop's last act.
    pub(super) fn publish_last(&mut self) {
        while self.service.changed_count() > 0 {
            self.publish_partitions();
        }
        self.publish();
    }

    /// Publishes everything but partitions.
    pub(super) fn publish(&mut self) {
        self.measure_peers();
        let metrics = &mut self.metrics;
        metrics.connections = u64_from(self.connections.count());
        metrics.connections_waiting = u64_from(self.connections.waiting_count());
        metrics.requests_in_flight = u64_from(self.connections.requests_in_flight());
        metrics.held_size_bytes = u64_from(self.connections.held_size());
        metrics.queued_size_bytes = u64_from(self.connections.queued_size());
        metrics.completions_waiting = u64_from(self.completions.len());
        metrics.log_writes_in_flight = u64_from(self.disk.in_flight_count());
        let mut all = CoreMetrics { event_loop: *metrics, ..CoreMetrics::default() };
        self.service.measure(&mut all.service);

        let published = &self.node.cores[usize::from(self.mesh.me().0)].published;
        published.publish(&all);
        for stage in [Stage::Read, Stage::Turn, Stage::PassFrames] {
            published.publish_stage(stage, self.observation.stages.of_mut(stage));
        }
        published.publish_stage(Stage::LogWrite, self.disk.write_times());
        if let Some(commit_waits) = self.service.commit_waits() {
            published.publish_stage(Stage::Commit, commit_waits);
        }
    }

    fn publish_partitions(&mut self) {
        let partitions = &self.node.partitions;
        let count = PUBLISHED_PARTITIONS_PER_TURN;
        self.service.take_changed(count, |partition, state, digests| {
            // A service without partitions, or a test's, needn't have told the node of any.
            if let Some(place) = partitions.get(usize_from_u32(partition.0)) {
                place.publish(&state);
                place.publish_digests(digests);
            }
        });
        self.publishing.partitions_left = self.publishing.partitions_left.saturating_sub(count);
    }
}
