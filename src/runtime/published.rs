//! What a core shows to other threads: copies of its numbers in atomics, which it alone writes.
//!
//! Nobody waits for anybody: a loop stores what has changed, every hundred milliseconds while it is
//! busy and before it sleeps, and a reader takes what is there. Each number is right, and a counter
//! never goes back; numbers that were read together may be of moments some microseconds apart.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::base::cast::{low_u64, u64_from, usize_from};
use crate::base::ids::{Index, TermId};
use crate::base::limits::DIGEST_COUNT_MAX;
use crate::map::digest::StateDigest;
use crate::metrics::CoreMetrics;
use crate::metrics::exposition::CoreReading;
use crate::metrics::histogram::{BUCKET_COUNT, Histogram};
use crate::metrics::stage::{Stage, Stages};
use crate::nopaxos::Status;
use crate::shard::{IndexedDigest, PartitionState, StableDigests};

/// What a core shows.
#[derive(Debug)]
pub struct PublishedCore {
    /// In the order of [`CoreMetrics::rows`].
    values: Box<[AtomicU64]>,
    /// In the order of [`Stage::ALL`].
    stages: Box<[PublishedHistogram]>,
}

#[derive(Debug)]
struct PublishedHistogram {
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
    max: AtomicU64,
}

impl Default for PublishedCore {
    fn default() -> Self {
        Self {
            values: zeros(CoreMetrics::rows().len()),
            stages: Stage::ALL.iter().map(|_| PublishedHistogram::default()).collect(),
        }
    }
}

impl Default for PublishedHistogram {
    fn default() -> Self {
        Self { counts: zeros(BUCKET_COUNT), sum: AtomicU64::new(0), max: AtomicU64::new(0) }
    }
}

fn zeros(count: usize) -> Box<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

impl PublishedCore {
    /// Shows the core's numbers.
    pub fn publish(&self, metrics: &CoreMetrics) {
        let mut places = self.values.iter();
        metrics.each(&mut |_, value| {
            if let Some(place) = places.next() {
                place.store(value, Ordering::Relaxed);
            }
        });
    }

    /// Shows what has changed of a distribution since it was shown last.
    pub fn publish_stage(&self, stage: Stage, histogram: &mut Histogram) {
        let place = &self.stages[stage as usize];
        histogram.take_changed(|bucket, count| {
            place.counts[bucket].store(count, Ordering::Relaxed);
        });
        place.sum.store(histogram.sum(), Ordering::Relaxed);
        place.max.store(histogram.max(), Ordering::Relaxed);
    }

    /// The numbers as they were shown last, in the order of [`CoreMetrics::rows`].
    pub fn values(&self) -> impl Iterator<Item = u64> {
        self.values.iter().map(|value| value.load(Ordering::Relaxed))
    }

    /// The same, each in its place.
    #[must_use]
    pub fn metrics(&self) -> CoreMetrics {
        let (mut metrics, mut values) = (CoreMetrics::default(), self.values());
        metrics.fill(&mut || values.next().unwrap_or_default());
        metrics
    }

    /// A distribution as it was shown last.
    #[must_use]
    pub fn stage(&self, stage: Stage) -> Histogram {
        Self::stage_of_all(std::iter::once(self), stage)
    }

    /// A distribution of all of these together.
    #[must_use]
    pub fn stage_of_all<'a>(
        all: impl Iterator<Item = &'a Self> + Clone,
        stage: Stage,
    ) -> Histogram {
        let load = |place: &AtomicU64| place.load(Ordering::Relaxed);
        let of_stage = all.map(|core| &core.stages[stage as usize]);
        let sum = of_stage.clone().map(|one| load(&one.sum)).fold(0, u64::wrapping_add);
        let max = of_stage.clone().map(|one| load(&one.max)).max().unwrap_or_default();
        let counts = of_stage.flat_map(|one| one.counts.iter().map(load).enumerate());
        Histogram::from_parts(counts.filter(|(_, count)| *count > 0), sum, max)
    }

    /// Everything as it was shown last, for a page of metrics on which the core is called `core`.
    #[must_use]
    pub fn reading(&self, core: String) -> CoreReading {
        let mut stages = Stages::default();
        for stage in Stage::ALL {
            *stages.of_mut(*stage) = self.stage(*stage);
        }
        CoreReading { core, values: self.values().collect(), stages }
    }
}

/// What the node knows of a partition; the core that owns it writes it.
#[derive(Debug, Default)]
pub struct PublishedPartition {
    /// 0: nothing yet.
    status: AtomicU64,
    term: AtomicU64,
    last: AtomicU64,
    sync_point: AtomicU64,
    checkpoint: AtomicU64,
    entries: AtomicU64,
    size_bytes: AtomicU64,
    digests: PublishedDigests,
}

/// Digests with their indexes. Unlike other numbers each belongs to the others, so a reader that
/// was overtaken by the writer reads again.
#[derive(Debug, Default)]
struct PublishedDigests {
    /// Odd while they are written.
    writes_count: AtomicU64,
    /// How many there are.
    count: AtomicU64,
    /// The index, and both halves of the digest.
    values: [[AtomicU64; 3]; DIGEST_COUNT_MAX + 1],
}

/// How often a reader tries before it goes without: a writer comes every hundred milliseconds.
const READ_COUNT_MAX: usize = 64;

impl PublishedDigests {
    fn publish(&self, digests: &StableDigests) {
        let count = self.writes_count.load(Ordering::Relaxed);
        self.writes_count.store(count.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.count.store(u64_from(digests.len()), Ordering::Relaxed);
        for (place, IndexedDigest { index, digest: StateDigest(digest) }) in
            self.values.iter().zip(digests)
        {
            let high = low_u64(*digest >> 64);
            for (place, value) in place.iter().zip([index.0, high, low_u64(*digest)]) {
                place.store(value, Ordering::Relaxed);
            }
        }
        self.writes_count.store(count.wrapping_add(2), Ordering::Release);
    }

    fn read(&self) -> StableDigests {
        for _ in 0..READ_COUNT_MAX {
            let before = self.writes_count.load(Ordering::Acquire);
            let count = usize_from(self.count.load(Ordering::Relaxed));
            let read = self.values.iter().take(count).map(|place| {
                let [index, high, low] =
                    place.each_ref().map(|place| place.load(Ordering::Relaxed));
                let digest = StateDigest(u128::from(high) << 64 | u128::from(low));
                IndexedDigest { index: Index(index), digest }
            });
            let digests: StableDigests = read.collect();
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.writes_count.load(Ordering::Relaxed) == before {
                return digests;
            }
            std::hint::spin_loop();
        }
        StableDigests::default()
    }
}

impl PublishedPartition {
    /// Shows its digests.
    pub fn publish_digests(&self, digests: &StableDigests) {
        self.digests.publish(digests);
    }

    /// Its digests, as they were shown last.
    #[must_use]
    pub fn digests(&self) -> StableDigests {
        self.digests.read()
    }

    /// Shows how a partition stands.
    pub fn publish(&self, state: &PartitionState) {
        let status = match state.status {
            Status::Normal => 1,
            Status::ViewChange => 2,
            Status::Recovering => 3,
        };
        for (place, value) in [
            (&self.status, status),
            (&self.term, state.term.0),
            (&self.last, state.last.0),
            (&self.sync_point, state.sync_point.0),
            (&self.checkpoint, state.checkpoint.0),
            (&self.entries, state.entries),
            (&self.size_bytes, state.size_bytes),
        ] {
            place.store(value, Ordering::Relaxed);
        }
    }

    /// Its entries, when they were shown last.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// The bytes of their keys and values.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Relaxed)
    }

    /// How it stood when that was shown last; none before the first time.
    #[must_use]
    pub fn state(&self) -> Option<PartitionState> {
        let read = |place: &AtomicU64| place.load(Ordering::Relaxed);
        let status = match read(&self.status) {
            1 => Status::Normal,
            2 => Status::ViewChange,
            3 => Status::Recovering,
            _ => return None,
        };
        Some(PartitionState {
            status,
            term: TermId(read(&self.term)),
            last: Index(read(&self.last)),
            sync_point: Index(read(&self.sync_point)),
            checkpoint: Index(read(&self.checkpoint)),
            entries: read(&self.entries),
            size_bytes: read(&self.size_bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::LoopMetrics;

    #[test]
    fn what_is_published_is_read_back_in_its_place() {
        let published = PublishedCore::default();
        let event_loop = LoopMetrics { frames_count: 7, ..LoopMetrics::default() };
        let mut metrics = CoreMetrics { event_loop, ..CoreMetrics::default() };
        metrics.service.gauges.streams = 9;
        published.publish(&metrics);
        let mut stages = Stages::default();
        for round in 1..=3 {
            stages.of_mut(Stage::Read).record(round * 1_000);
            published.publish_stage(Stage::Read, stages.of_mut(Stage::Read));
        }
        let reading = published.reading("0".to_owned());
        assert_eq!(published.metrics(), metrics);
        let named: Vec<_> = CoreMetrics::rows().into_iter().zip(&reading.values).collect();
        let seen = named.iter().filter(|(_, value)| **value > 0);
        let seen: Vec<_> = seen.map(|(row, value)| (row.name, **value)).collect();
        assert_eq!(seen, [("frames_count", 7), ("streams", 9)]);
        let read = reading.stages.of(Stage::Read);
        assert_eq!((read.count(), read.sum(), read.max()), (3, 6_000, 3_000));
        assert_eq!(reading.stages.of(Stage::Turn).count(), 0);
    }

    #[test]
    fn partition_is_unknown_until_it_is_published() {
        let published = PublishedPartition::default();
        assert_eq!(published.state(), None);
        let state = PartitionState {
            status: Status::ViewChange,
            term: TermId(1),
            last: Index(2),
            sync_point: Index(3),
            checkpoint: Index(4),
            entries: 5,
            size_bytes: 6,
        };
        published.publish(&state);
        assert_eq!(published.state(), Some(state));
    }

    #[test]
    fn digests_are_read_whole_however_often_they_are_written() {
        let published = PublishedPartition::default();
        let digests = |number: u64| {
            let digest = StateDigest(u128::from(number) << 64 | u128::from(number));
            let digest = IndexedDigest { index: Index(number), digest };
            StableDigests::from([digest; DIGEST_COUNT_MAX + 1])
        };
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for number in 1..=20_000 {
                    published.publish_digests(&digests(number));
                }
            });
            let mut last = 0;
            while !writer.is_finished() {
                let read = published.digests();
                let Some(first) = read.first() else { continue };
                assert_eq!(read, digests(first.index.0), "torn");
                assert!(first.index.0 >= last);
                last = first.index.0;
            }
        });
        assert_eq!(published.digests(), digests(20_000));
    }
}
