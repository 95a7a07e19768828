//! What a core shares with the other threads of its node.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

use crossbeam::utils::CachePadded;
use zerocopy::IntoBytes;

use super::uring;
use crate::metrics::LoopMetrics;

/// What all cores of a node share.
#[derive(Debug)]
pub struct Node {
    /// The cores, by shard.
    pub cores: Vec<Core>,
    /// Connections that each of them may have.
    pub connection_count_max: usize,
    /// Log writes in flight in the whole process. While there are any, every loop yields to the
    /// scheduler now and then: on devices without FUA a kernel thread on *some* core finishes each.
    pub writes_in_flight: CachePadded<AtomicUsize>,
    /// The node is to stop.
    pub shutdown: AtomicBool,
}

/// What one core shares.
#[derive(Debug)]
pub struct Core {
    /// Turns of the loop, so that a watchdog sees it going round.
    pub turns: CachePadded<AtomicU64>,
    /// Raised every few milliseconds by a task of the executor: proves that timers and wake-ups
    /// work even while the loop sleeps.
    pub heartbeats: CachePadded<AtomicU64>,
    /// The loop sleeps, or is about to: whoever has something for it writes to `eventfd`.
    sleeping: CachePadded<AtomicBool>,
    /// What it sleeps on.
    pub eventfd: OwnedFd,
    /// What its counters were a moment ago, in their order.
    published: Box<[AtomicU64]>,
}

impl Node {
    /// A node with so many cores, which may have `connection_count_max` connections each.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn new(core_count: usize, connection_count_max: usize) -> std::io::Result<Self> {
        let cores = (0..core_count).map(|_| Core::new()).collect::<std::io::Result<_>>()?;
        let shutdown = AtomicBool::new(false);
        let writes_in_flight = CachePadded::default();
        Ok(Self { cores, connection_count_max, writes_in_flight, shutdown })
    }

    /// Tells all cores to finish what is in flight and stop.
    pub fn begin_shutdown(&self) {
        self.shutdown.store(true, Ordering::Release);
        for core in &self.cores {
            core.ring_doorbell();
        }
    }
}

impl Core {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            turns: CachePadded::default(),
            heartbeats: CachePadded::default(),
            sleeping: CachePadded::default(),
            eventfd: uring::eventfd()?,
            published: values_of(&LoopMetrics::default()).map(AtomicU64::new).collect(),
        })
    }

    /// Wakes the loop if it sleeps. To be called after that for which it is woken was published.
    pub fn ring_doorbell(&self) {
        // Pairs with the fence of `announce_sleep`: either we see that it sleeps, or its re-check
        // sees what we published.
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) {
            // It can fail only if 2⁶⁴ − 2 rings weren't answered, and then it is awake.
            let _ = rustix::io::write(&self.eventfd, 1_u64.as_bytes());
        }
    }

    /// The loop will sleep unless it finds something when it looks once more.
    pub fn announce_sleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The loop is awake.
    pub fn announce_awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Shows the counters to other threads.
    pub fn publish(&self, metrics: &LoopMetrics) {
        let mut places = self.published.iter();
        metrics.each(|_, value| {
            if let Some(place) = places.next() {
                place.store(value, Ordering::Relaxed);
            }
        });
    }

    /// The counters as they were published last, by name. Each is right, but they may be of
    /// different moments.
    #[must_use]
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = Vec::with_capacity(self.published.len());
        LoopMetrics::default().each(|name, _| counters.push((name, 0)));
        for ((_, value), place) in counters.iter_mut().zip(&self.published) {
            *value = place.load(Ordering::Relaxed);
        }
        counters
    }

    /// One of them; 0 if there is none of that name.
    #[must_use]
    pub fn counter(&self, name: &str) -> u64 {
        self.counters().into_iter().find(|(other, _)| *other == name).map_or(0, |(_, value)| value)
    }

    /// Whether the loop sleeps.
    #[must_use]
    pub fn is_sleeping(&self) -> bool {
        self.sleeping.load(Ordering::Relaxed)
    }
}

fn values_of(metrics: &LoopMetrics) -> impl Iterator<Item = u64> {
    let mut values = Vec::new();
    metrics.each(|_, value| values.push(value));
    values.into_iter()
}
