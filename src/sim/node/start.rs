//! The start of a process: the data directory, each shard from its log, and their first turn.

use super::disk_queue::DiskQueue;
use super::durable_log::DurableLog;
pub(in crate::sim) use super::load::StartFailure;
use super::{Activity, Node, member_name};
use crate::base::cast::{low_u32, u64_from};
use crate::base::cluster::Cluster;
use crate::base::ids::{ShardId, TermId};
use crate::base::limits::LOG_SEGMENT_COUNT_MIN;
use crate::base::prng::Prng;
use crate::base::shards::ShardMap;
use crate::nopaxos::Settings;
use crate::shard::{Config, Shard, survival};
use crate::sim::NodeId;
use crate::sim::checker::{Checker, Violation};
use crate::sim::cluster::{CLUSTER, World};
use crate::sim::disk::{Crash, Opened};
use crate::sim::host::ShardHost;
use crate::storage::block::first_batch;
use crate::storage::checkpoint::CheckpointId;
use crate::storage::identity::{Current, Identity, Members};
use crate::storage::wal::{Durability, Wal, WalConfig, WalStart};
use crate::storage::witness::Life;

impl Node {
    /// A process has come to read its logs.
    pub(in crate::sim) fn on_started(&mut self, world: &mut World) -> Result<(), Violation> {
        assert_eq!(self.activity, Activity::Starting, "it was begun");
        let now = world.now();
        self.clock.begin_process(now);
        match self.start(world) {
            Ok(()) => {
                self.activity = Activity::Running;
                self.begin_peers(world);
                self.tell_space(world);
                (0..self.hosts.len()).try_for_each(|place| self.after_turn(place, world))
            }
            Err(StartFailure::Violation(violation)) => Err(violation.at(now)),
            Err(StartFailure::Refused(reason)) if !self.disk.is_damaged() => {
                let what = format!("node {}: refused what nobody damaged: {reason}", self.id);
                Err(Violation::new(Checker::Sense, what).at(now))
            }
            Err(StartFailure::Refused(reason)) => {
                let words = [u64::from(self.id.0)];
                world.trace.event(now, "refused", &words, || format!("{}: {reason}", self.id));
                world.report.mark("damage refused at a start", 1);
                self.end_process(world);
                self.activity = Activity::Refused(reason);
                Ok(())
            }
            Err(failure @ (StartFailure::Unreadable | StartFailure::Interrupted)) => {
                let words = [u64::from(self.id.0)];
                world.trace.event(now, "not started", &words, || format!("{}: {failure}", self.id));
                world.report.mark("start failed and tried again", 1);
                self.crash(world, Crash::Process);
                Ok(())
            }
        }
    }

    fn start(&mut self, world: &mut World) -> Result<(), StartFailure> {
        self.initialise(world);
        let mut opened = self.disk.open()?;
        if opened.current.shard_count != self.shard_count {
            self.rehome(&mut opened, world)?;
            world.report.mark("partitions moved to another number of shards", 1);
        }
        self.generation = opened.current.generation;
        let words = [u64::from(self.id.0), opened.boot_epoch.0, u64::from(self.shard_count)];
        world.trace.event(world.schedule.now(), "start", &words, || {
            format!("{} boot {} with {} shards", self.id, opened.boot_epoch, self.shard_count)
        });
        for shard in (0..self.shard_count).map(ShardId) {
            let (host, durable) = self.make_host(&opened, shard, world)?;
            self.hosts.push(host);
            let last_batch = first_batch(opened.boot_epoch).previous();
            self.queues.push(DiskQueue::new(opened.log_key(shard), last_batch, durable));
        }
        let clock = self.clock.now(world.now());
        for host in &mut self.hosts {
            host.shard.start(clock, &mut host.output);
        }
        Ok(())
    }

    /// Makes the data directory, if it isn't there.
    fn initialise(&mut self, world: &World) {
        let mut prng = Prng::new(self.seed, &format!("identity {}", self.id));
        let mut draw = || {
            let halves = [prng.next_u64().to_le_bytes(), prng.next_u64().to_le_bytes()];
            let mut bytes = [0; 16];
            bytes.copy_from_slice(halves.as_flattened());
            bytes
        };
        let identity = Identity {
            cluster: CLUSTER.to_owned(),
            member: self.member.clone(),
            members: Members::of(&self.nodes(world)),
            uuid: draw(),
            partition_count: world.swarm.partition_count,
            hash_key: world.hash_key,
        };
        let current = Current {
            generation: 1,
            shard_count: self.shard_count,
            segment_size_bytes: u64_from(world.swarm.segment_size_bytes),
        };
        self.disk.initialise(&identity, current);
    }

    fn make_host(
        &mut self,
        opened: &Opened,
        shard: ShardId,
        world: &mut World,
    ) -> Result<(ShardHost, DurableLog), StartFailure> {
        let config = self.shard_config(opened, shard, world);
        let (loading, recovered) = self.load(opened, config, world)?;
        let found = recovered.partitions.iter().map(|found| &found.state);
        let (key, first) = (opened.log_key(shard), first_batch(opened.boot_epoch));
        let durable = DurableLog::new(key, first, found);
        let live_count = u64_from(recovered.start.state.segments.len());
        let needed = (live_count + 1).max(LOG_SEGMENT_COUNT_MIN);
        if self.segment_count_max < needed {
            // A node with so small a log doesn't start; whoever runs it allows it more.
            self.segment_count_max = 2 * needed;
            world.report.mark("log allowed to be larger", 1);
        }
        let segment_size_bytes = world.swarm.segment_size_bytes;
        let wal_config = WalConfig {
            key: opened.log_key(shard),
            boot_epoch: opened.boot_epoch,
            segment_size_bytes,
            log_size_bytes_max: self.segment_count_max * u64_from(segment_size_bytes),
            writes_in_flight: world.swarm.writes_in_flight,
            durability: world.swarm.durability,
        };
        let stale = self.stale_checkpoints(opened, shard, &recovered.start);
        // What is prepared is asked for again, like any other segment.
        let start = WalStart { prepared: Vec::new(), ..recovered.start };
        let shard_machine =
            Shard::new(loading, recovered.partitions, Wal::open(wal_config, start), stale);
        let shards = ShardMap::new(opened.identity.partition_count, opened.current.shard_count);
        let me = crate::base::ids::NodeId(self.id.0);
        let life = Life { boot_epoch: opened.boot_epoch, nonce: self.process_seed };
        let names = (CLUSTER, &*self.member);
        Ok((ShardHost::new(shard_machine, (me, life, shard), names, shards), durable))
    }

    /// What a shard is told about itself.
    pub(super) fn shard_config(&self, opened: &Opened, shard: ShardId, world: &World) -> Config {
        let Current { shard_count, .. } = opened.current;
        let partition_count = opened.identity.partition_count;
        Config {
            cluster: CLUSTER.to_owned(),
            nodes: self.nodes(world),
            sequencer_offset: world.swarm.sequencer_offset,
            settings: Settings {
                survival: survival(world.swarm.durability),
                ..Settings::default()
            },
            seed: self.process_seed,
            shard,
            partitions: ShardMap::new(partition_count, shard_count).partitions_of(shard),
            partition_count,
            shard_count,
            durability: world.swarm.durability,
            first_term: match world.swarm.durability {
                Durability::Sync | Durability::Async => TermId(1),
                // Without a log nobody remembers the terms of earlier lives, but time goes on.
                Durability::None => TermId(self.clock.now(world.now()).wall.as_ms()),
            },
            hash_key: opened.identity.hash_key,
            checkpoint_salt: opened.log_key(shard).salt,
            checkpoint_interval_size_bytes: world.swarm.checkpoint_interval_size_bytes,
            memory_size_bytes_max: u64::MAX,
        }
    }

    /// The cluster, as this node sees it.
    pub(super) fn nodes(&self, world: &World) -> Cluster {
        let count = world.swarm.node_count();
        let ids = (0..u8::try_from(count).unwrap_or(u8::MAX)).map(NodeId);
        Cluster::new(ids.map(member_name).collect(), &self.member, count)
    }

    /// The checkpoints of which the log knows nothing.
    fn stale_checkpoints(
        &mut self,
        opened: &Opened,
        shard: ShardId,
        start: &WalStart,
    ) -> Vec<CheckpointId> {
        let folder = self.disk.folder(opened.current.generation, shard);
        let is_stale = |id: &CheckpointId| {
            let recorded = start.state.partition(id.partition).map(|found| found.checkpoint);
            let is_superseded = start.superseded.contains(&(id.partition, id.index));
            recorded != Some(id.index) && !is_superseded
        };
        folder.checkpoint_ids().filter(is_stale).collect()
    }

    /// The next start has another number of shards.
    pub(in crate::sim) fn change_shard_count(&mut self, world: &World) {
        let most = world.swarm.partition_count.min(4);
        let drawn = 1 + low_u32(self.prng.below(u64::from(most)));
        self.shard_count = u16::try_from(drawn).unwrap_or(1);
    }
}
