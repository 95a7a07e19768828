//! What a seed turns on. Not every fault in every run: a run in which everything fails all the time
//! gets nowhere, and many defects need the *absence* of some fault to show. So each seed draws
//! which faults there are and how often, how fast disk and network are, how large the cluster is
//! and what its clients do.

use super::fault::Fault;
use crate::base::cast::{low_u32, u16_from, u64_from, usize_from};
use crate::base::limits::{
    LOG_SEGMENT_COUNT_MIN, SEGMENT_SIZE_BYTES_SIMULATED_MIN, WRITE_BATCH_SIZE_BYTES_MAX,
    WRITES_IN_FLIGHT_MAX,
};
use crate::base::prng::Prng;
use crate::base::time::{NS_PER_MS, NS_PER_S, NS_PER_US};
use crate::storage::wal::Durability;

/// Everything that a seed decides before the run begins.
#[derive(Clone, Debug)]
pub struct Swarm {
    /// The shards of each node.
    pub shard_counts: Vec<u16>,
    /// The partitions of the cluster.
    pub partition_count: u32,
    /// How many places after its leader a partition's sequencer stands.
    pub sequencer_offset: u8,
    /// When writes are answered.
    pub durability: Durability,
    /// The size of the log's segments.
    pub segment_size_bytes: usize,
    /// Segments that a shard's log may have.
    pub segment_count_max: u64,
    /// Bytes logged between two checkpoints of a partition.
    pub checkpoint_interval_size_bytes: u64,
    /// Log writes in flight.
    pub writes_in_flight: usize,
    /// How long clients and faults are at it.
    pub active_ns: u64,
    /// What clients do.
    pub workload: WorkloadMix,
    /// How the network behaves when nothing is wrong with it.
    pub network: NetworkWeather,
    /// How the disks do.
    pub disk: DiskWeather,
    /// How long nodes stand still at most, again and again until all that clients asked has come to
    /// its end, because others are at work on their machines; 0: they don't.
    pub standstill_ns_max: u64,
    /// How far wall clocks are off at most.
    pub clock_skew_ns_max: u64,
    /// How often what is still whole is read and checked; 0: never.
    pub scrub_interval_ns: u64,
    /// The faults, each with the mean time between two of them.
    pub faults: Vec<(Fault, u64)>,
}

/// What clients do.
#[derive(Clone, Debug)]
pub struct WorkloadMix {
    /// How many there are.
    pub client_count: u32,
    /// Requests that each has under way at most.
    pub depth: usize,
    /// Mean pause between two requests of one.
    pub think_ns: u64,
    /// Named maps.
    pub map_count: u8,
    /// Keys of each.
    pub key_count: u16,
    /// The longest value.
    pub value_size_bytes_max: usize,
    /// Of a hundred requests, reads.
    pub read_percent: u64,
    /// Of a hundred writes, those with a condition.
    pub condition_percent: u64,
    /// Of a hundred reads, those that may be of an older state.
    pub stale_percent: u64,
    /// One in so many requests is about a whole map, or a partition of it.
    pub whole_map_one_in: u64,
    /// How long a client waits for an answer.
    pub patience_ns: u64,
    /// Of a hundred writes, those that are part of a session.
    pub session_percent: u64,
    /// How long a session outlives its last command.
    pub session_ttl_ms: u64,
    /// Of a hundred puts, those of entries that expire.
    pub ttl_percent: u64,
    /// After how long they do, on average.
    pub ttl_ms_mean: u64,
}

/// How the network behaves.
#[derive(Clone, Copy, Debug)]
pub struct NetworkWeather {
    /// What every message takes.
    pub delay_ns: u64,
    /// What it may take beside that.
    pub jitter_ns: u64,
    /// One delivery in so many comes in pieces.
    pub pieces_one_in: u64,
    /// Of a hundred reconnections between members, those after which the sender sends again what
    /// it can't know to have arrived.
    pub resend_percent: u64,
}

/// How a disk behaves.
#[derive(Clone, Copy, Debug)]
pub struct DiskWeather {
    /// What every operation takes.
    pub latency_ns: u64,
    /// What it may take beside that.
    pub jitter_ns: u64,
    /// One operation in so many takes twenty times as long.
    pub hiccup_one_in: u64,
}

impl Swarm {
    /// What `seed` decides for a cluster of `node_count` nodes.
    #[must_use]
    pub fn new(seed: u64, node_count: usize) -> Self {
        let mut prng = Prng::new(seed, "swarm");
        let Size { shard_counts, partition_count, durability, active_ns } = match node_count {
            1 => Size::alone(&mut prng),
            _ => Size::together(&mut prng, node_count),
        };
        let disk = DiskWeather {
            latency_ns: *pick(&mut prng, &[20, 100, 500, 4_000]) * NS_PER_US,
            jitter_ns: *pick(&mut prng, &[10, 200, 2_000]) * NS_PER_US,
            hiccup_one_in: *pick(&mut prng, &[20, 1_000]),
        };
        let network = NetworkWeather {
            delay_ns: *pick(&mut prng, &[10, 50, 500, 5_000]) * NS_PER_US,
            jitter_ns: *pick(&mut prng, &[1, 100, 10_000]) * NS_PER_US,
            pieces_one_in: *pick(&mut prng, &[2, 20]),
            resend_percent: *pick(&mut prng, &[0, 50]),
        };
        let is_remote = node_count > 1 && Prng::new(seed, "sequencer").one_in(3);
        let mut overload = Prng::new(seed, "overload");
        let is_overloaded = node_count > 1 && overload.one_in(16);
        let standstill_ns_max = *pick(&mut overload, &[100, 300]) * NS_PER_MS;
        let mut swarm = Self {
            shard_counts,
            partition_count,
            sequencer_offset: u8::from(is_remote),
            durability,
            segment_size_bytes: SEGMENT_SIZE_BYTES_SIMULATED_MIN,
            segment_count_max: *pick(&mut prng, &[16, 32]),
            checkpoint_interval_size_bytes: *pick(&mut prng, &[8, 64, 1_024]) << 10,
            writes_in_flight: 1 + usize_from(prng.below(u64_from(WRITES_IN_FLIGHT_MAX))),
            active_ns,
            workload: workload(&mut prng, active_ns),
            network,
            disk,
            standstill_ns_max: if is_overloaded { standstill_ns_max } else { 0 },
            clock_skew_ns_max: *pick(&mut prng, &[1, 500, 3_600_000]) * NS_PER_MS,
            scrub_interval_ns: *pick(&mut prng, &[0, 1_000]) * NS_PER_MS,
            faults: faults(&mut prng, node_count, durability, active_ns),
        };
        let written_size_bytes_max = swarm.writes_in_flight * WRITE_BATCH_SIZE_BYTES_MAX;
        swarm.segment_size_bytes = swarm.segment_size_bytes.max(written_size_bytes_max);
        let mut prng = Prng::new(seed, "heavy");
        if prng.one_in(if node_count == 1 { 3 } else { 10 }) {
            swarm.make_heavy(&mut prng);
        }
        if !is_remote {
            // A leader that stamps itself lacks no command.
            swarm.faults.retain(|(fault, _)| *fault != Fault::LostCommand);
        }
        swarm
    }

    /// Long values, so that a checkpoint is more than a member sends at once, or that a lone node's
    /// log is as small for them as it may be. (A member of a group may have to log what it adopts
    /// while nothing lets it go of what it has: so small a log can be too small for that.)
    fn make_heavy(&mut self, prng: &mut Prng) {
        if self.node_count() == 1 {
            self.segment_count_max = LOG_SEGMENT_COUNT_MIN;
        }
        self.checkpoint_interval_size_bytes = *pick(prng, &[64, 512]) << 10;
        self.workload.key_count = 40;
        self.workload.value_size_bytes_max = 60_000;
        self.workload.read_percent = 20;
    }

    /// How many nodes there are.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.shard_counts.len()
    }

    /// Whether a kind of fault is turned on.
    #[must_use]
    pub fn has(&self, fault: Fault) -> bool {
        self.faults.iter().any(|(kind, _)| *kind == fault)
    }

    /// Whether what is durable may be damaged.
    #[must_use]
    pub fn has_damage(&self) -> bool {
        self.faults.iter().any(|(kind, _)| kind.is_damage())
    }
}

/// How large a run is, and what its nodes promise.
struct Size {
    shard_counts: Vec<u16>,
    partition_count: u32,
    durability: Durability,
    active_ns: u64,
}

impl Size {
    fn alone(prng: &mut Prng) -> Self {
        let shard_counts = vec![u16_from(usize_from(1 + prng.below(4)))];
        let partition_count = low_u32(*pick(prng, &[4, 6, 8, 12]));
        // Without `sync` the only member that crashes loses what it has promised: it doesn't crash.
        let durability = if prng.one_in(8) { Durability::Async } else { Durability::Sync };
        let active_ns = (2 + prng.below(8)) * NS_PER_S;
        Self { shard_counts, partition_count, durability, active_ns }
    }

    /// Many members of few partitions, for a short while.
    fn together(prng: &mut Prng, node_count: usize) -> Self {
        let partition_count = low_u32(*pick(prng, &[1, 2, 3, 4]));
        let most = u64::from(partition_count);
        let shard_counts = (0..node_count).map(|_| u16_from(usize_from(1 + prng.below(most))));
        let shard_counts = shard_counts.collect();
        let sync = Durability::Sync;
        let durability = *pick(prng, &[sync, sync, sync, Durability::Async, Durability::None]);
        let active_ns = (1 + prng.below(3)) * NS_PER_S;
        Self { shard_counts, partition_count, durability, active_ns }
    }
}

/// How many nodes a seed's cluster has, if nobody says otherwise.
#[must_use]
pub fn node_count_of(seed: u64) -> usize {
    *pick(&mut Prng::new(seed, "nodes"), &[1, 3, 3, 3, 3, 5, 5, 7])
}

fn workload(prng: &mut Prng, active_ns: u64) -> WorkloadMix {
    let client_count = low_u32(1 + prng.below(5));
    let depth = usize_from(*pick(prng, &[1, 4, 16]));
    // So many requests in all, whatever the time that there is for them.
    let request_count = *pick(prng, &[100, 300, 800]);
    WorkloadMix {
        client_count,
        depth,
        think_ns: active_ns * u64::from(client_count) / request_count,
        map_count: u8::try_from(1 + prng.below(2)).unwrap_or(1),
        key_count: u16_from(usize_from(*pick(prng, &[2, 8, 40]))),
        value_size_bytes_max: usize_from(*pick(prng, &[16, 500, 20_000])),
        read_percent: *pick(prng, &[20, 50, 80]),
        condition_percent: *pick(prng, &[0, 20, 60]),
        stale_percent: *pick(prng, &[0, 30]),
        whole_map_one_in: *pick(prng, &[10, 50]),
        patience_ns: *pick(prng, &[100, 1_500, 5_000]) * NS_PER_MS,
        session_percent: *pick(prng, &[0, 30, 90]),
        session_ttl_ms: *pick(prng, &[1_000, 5_000, 600_000]),
        ttl_percent: *pick(prng, &[0, 0, 20, 70]),
        ttl_ms_mean: *pick(prng, &[5, 300, 3_000]),
    }
}

/// Each fault is there in about every third run that can have it.
fn faults(
    prng: &mut Prng,
    node_count: usize,
    durability: Durability,
    active_ns: u64,
) -> Vec<(Fault, u64)> {
    let may_have = |fault: Fault| match fault {
        Fault::LostCommand | Fault::Transfer => node_count > 1,
        // It ends the process at some later time, when another one may have lost something.
        Fault::WriteError if node_count > 1 => durability == Durability::Sync,
        _ if node_count > 1 => true,
        Fault::Kill | Fault::PowerLoss | Fault::WriteError => {
            node_count > 1 || durability == Durability::Sync
        }
        // What the others would have to make good for.
        _ if fault.is_loss() => node_count > 1,
        _ if fault.is_damage() => durability == Durability::Sync,
        _ => true,
    };
    let mut faults = Vec::new();
    for fault in Fault::ALL {
        // Drawn for each, so that one kind more doesn't change the others.
        let (on, rarity) = (prng.one_in(3), *pick(prng, &[1, 3, 8]));
        // Few runs can have it: most of them do.
        let on = on != (fault == Fault::LostCommand);
        // Most runs of a lone node that damage something end there.
        let on = on && (!fault.is_damage() || prng.one_in(4) || node_count > 1);
        if on && may_have(fault) {
            faults.push((fault, active_ns / rarity));
        }
    }
    faults
}

/// One of some choices.
pub(super) fn pick<'a, T>(prng: &mut Prng, choices: &'a [T]) -> &'a T {
    &choices[usize_from(prng.below(u64_from(choices.len())))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_decides_everything_and_seeds_differ() {
        let text = |seed| format!("{:?}", Swarm::new(seed, 3));
        assert_eq!(text(5), text(5));
        assert_ne!(text(5), text(6));
    }

    #[test]
    fn every_fault_is_on_in_some_seeds_and_off_in_others() {
        for fault in Fault::ALL {
            let on = (0..400).filter(|seed| Swarm::new(*seed, 3).has(fault)).count();
            assert!((10..390).contains(&on), "{fault}: {on} of 400");
        }
    }

    #[test]
    fn lone_node_is_spared_what_only_others_could_make_good_for() {
        for seed in 0..400 {
            let swarm = Swarm::new(seed, 1);
            assert!(swarm.faults.iter().all(|(fault, _)| !fault.is_loss()));
            if swarm.durability != Durability::Sync {
                assert!(!swarm.has_damage());
                for fault in [Fault::Kill, Fault::PowerLoss, Fault::WriteError] {
                    assert!(!swarm.has(fault), "seed {seed}: {fault}");
                }
            }
        }
    }
}
