//! Assembles a node: the data directory, a shard for each core, the loops, and the end.

use std::fs::File;
use std::io::{Read as _, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::banner::{Banner, announce, announce_ready};
use super::config::value::{Durability, IdleMode};
use super::config::{self, Config};
use super::data_dir::{DataDir, DataDirError, DataDirOptions, Destination, random};
use super::memory::maps_size_bytes_max;
use super::metrics_endpoint::MetricsListener;
use crate::base::cast::{u16_from, u64_from};
use crate::base::cluster::Cluster;
use crate::base::ids::{ShardId, TermId};
use crate::base::io_error::describe;
use crate::base::limits::{SECRET_SIZE_BYTES_MAX, SECRET_SIZE_BYTES_MIN};
use crate::nopaxos::Settings;
use crate::runtime::clock::Clock;
use crate::runtime::core::NodeFacts;
use crate::runtime::executor::Idle;
use crate::runtime::fatal::{Fatal, FatalReason, exit_on_panic};
use crate::runtime::node_runtime::{Options, Runtime};
use crate::runtime::peers::secret::{Challenges, Secret};
use crate::runtime::peers::{PeerNetwork, PeerProtocol};
use crate::runtime::scrub::ScrubOptions;
use crate::runtime::segment_workshop::SegmentPlace;
use crate::runtime::shard_service::{RequestConfig, ShardService};
use crate::shard::{self, Installing, Loading, Shard, survival};
use crate::storage::wal::{self, Wal, WalStart};
use crate::wire::peer::configuration::Configuration;

/// Runs a node until a signal stops it. `out` is told what is starting and when it is ready.
///
/// # Errors
/// Why the node can't start, or had to stop.
pub fn serve(config: &Config, out: &mut impl Write) -> Result<(), Fatal> {
    exit_on_panic();
    let mut data_dir = open_data_dir(config)?;
    rehome(config, &mut data_dir)?;
    let partition_count = data_dir.identity().partition_count;
    let metrics = config.metrics_listen.map(MetricsListener::bind).transpose()?;
    let metrics_address = metrics.as_ref().map(MetricsListener::address);
    let banner = Banner::new(config, partition_count).with_metrics(metrics_address);
    announce(out, &banner).map_err(stdout_failed)?;

    let (options, facts) = (options(config, &data_dir), facts(config, &data_dir));
    let memory_size_bytes_max = memory_of_a_shard(config);
    let network = network(config, &data_dir)?;
    let seed = network.as_ref().map_or(0, |network| network.process_nonce);
    let assembly =
        Arc::new(Assembly { config: config.clone(), data_dir, memory_size_bytes_max, seed });
    // The loops are the last to write to the directory, and live as long as the process: so must
    // its lock, whatever becomes of what made them.
    std::mem::forget(Arc::clone(&assembly));
    let make = move |shard| assembly.make(ShardId(u16_from(shard)));
    let mut runtime = Runtime::start_member(options, facts, network, make)?;
    runtime.stop_on_signals()?;
    if let Some(metrics) = metrics {
        metrics.serve(runtime.node())?;
    }
    if runtime.wait_until_ready()? {
        announce_ready(out, runtime.address()).map_err(stdout_failed)?;
    }
    let node = runtime.node();
    let ended = runtime.wait();
    for (shard, core) in node.cores.iter().enumerate() {
        let counted = core.counters().into_iter().filter(|(_, value)| *value > 0);
        let counters: Vec<String> =
            counted.map(|(name, value)| format!("{name}={value}")).collect();
        info!(shard, counters = counters.join(" "), "what the loop counted");
    }
    ended
}

fn open_data_dir(config: &Config) -> Result<DataDir, Fatal> {
    let options = DataDirOptions {
        path: config.data_dir.clone(),
        cluster: config.cluster.clone(),
        nodes: nodes(config),
        partition_count: config.partitions,
        partition_count_default: config.cores.partition_count_default(),
        shard_count: u16_from(config.cores.count()),
        segment_size_bytes: config.segment_size_bytes,
        must_exist: config.must_exist,
        durability: durability(config.durability),
        allow_copy_on_write: config.allow_cow,
    };
    let data_dir = DataDir::open(&options).map_err(data_dir_failed)?;
    for notice in data_dir.notices() {
        warn!("{notice}");
    }
    Ok(data_dir)
}

/// The nodes of the cluster, seen by this one.
fn nodes(config: &Config) -> Cluster {
    config.members.cluster(&config.node_id, config.replication_factor)
}

fn holds_a_log(path: &Path) -> Fatal {
    let message = format!(
        "{} holds a log, which durability none would neither keep nor continue; choose another \
         --data-dir",
        path.display()
    );
    Fatal::new(FatalReason::DataDirectory, message)
}

/// Moves the partitions, if the node has another number of cores than before.
fn rehome(config: &Config, data_dir: &mut DataDir) -> Result<(), Fatal> {
    let shard_count = u16_from(config.cores.count());
    let from = data_dir.current().shard_count;
    if from == shard_count {
        return Ok(());
    }
    if config.durability == Durability::None && data_dir.has_logs().map_err(data_dir_failed)? {
        return Err(holds_a_log(&config.data_dir));
    }
    let clock = Clock::start();
    let load = |data_dir: &DataDir, shard| {
        let partitions = data_dir.partition_range(shard);
        Loading::new(shard_config(config, data_dir, shard, partitions, u64::MAX, &clock))
    };
    let to = Destination::of(shard_count);
    let known_count = data_dir.notices().len();
    data_dir.rehome(to, load, &mut |_| Ok(())).map_err(data_dir_failed)?;
    for notice in &data_dir.notices()[known_count..] {
        warn!("{notice}");
    }
    let ms = clock.monotonic().0 / 1_000_000;
    info!(from, to = shard_count, ms, "moved the partitions to another number of shards");
    Ok(())
}

/// The share of each shard in what all maps may take.
fn memory_of_a_shard(config: &Config) -> u64 {
    let Some(size_bytes) = maps_size_bytes_max(config.memory_max) else {
        warn!("cannot tell how much memory there is: the maps are not bounded by it");
        return u64::MAX;
    };
    let mib = size_bytes >> 20;
    info!(mib, "what the maps may take (--memory-max)");
    size_bytes / u64_from(config.cores.count())
}

fn options(config: &Config, data_dir: &DataDir) -> Options {
    let shards = 0..u16_from(config.cores.count());
    let segments = shards.map(|shard| SegmentPlace {
        directory: data_dir.shard_folder(ShardId(shard)),
        segment_size_bytes: data_dir.segment_size_bytes(),
        direct: data_dir.is_direct(),
        scrub: (!config.scrub_interval.is_zero()).then(|| ScrubOptions {
            key: data_dir.log_key(ShardId(shard)),
            interval: config.scrub_interval,
        }),
    });
    Options {
        listen: config.listen,
        cores: config.cores.numbers().iter().copied().map(usize::from).collect(),
        idle: idle(config),
        segments: segments.collect(),
    }
}

/// What the shards know of the other nodes, if there are any.
fn network(config: &Config, data_dir: &DataDir) -> Result<Option<Arc<PeerNetwork>>, Fatal> {
    if config.members.node_count() == 1 {
        return Ok(None);
    }
    let cluster = config.members.cluster(&config.node_id, config.replication_factor);
    let partition_count = data_dir.identity().partition_count;
    let configuration = Configuration {
        cluster: &cluster,
        partition_count,
        durability: durability(config.durability),
        sequencer_offset: config.sequencer_offset,
    };
    let configuration_hash = configuration.hash();
    let secret = config.secret_file.as_deref().map(read_secret).transpose()?;
    info!(
        members = %config.members,
        partition_count,
        replication = config.replication_factor,
        durability = %config.durability,
        sequencer_offset = config.sequencer_offset,
        configuration_hash,
        "one of a cluster"
    );
    let key: [u8; 16] = random().map_err(data_dir_failed)?;
    Ok(Some(Arc::new(PeerNetwork {
        name: config.cluster.clone(),
        cluster,
        addresses: config.members.addresses(),
        partition_count,
        configuration_hash,
        boot_epoch: data_dir.boot_epoch(),
        process_nonce: process_nonce()?,
        secret,
        challenges: Challenges::new(key),
        protocol: match config.peer_protocol {
            config::value::PeerProtocol::Frames => PeerProtocol::Frames,
            config::value::PeerProtocol::Grpc => PeerProtocol::Grpc,
        },
    })))
}

/// Reads the cluster's secret: what the file holds, but for the end of its line.
fn read_secret(path: &Path) -> Result<Secret, Fatal> {
    let fail = |reason: String| {
        let message = format!("the cluster's secret, {}: {reason}", path.display());
        Fatal::new(FatalReason::Environment, message)
    };
    let file = File::open(path).map_err(|error| fail(describe(&error)))?;
    let mut bytes = Vec::new();
    let bound = u64_from(SECRET_SIZE_BYTES_MAX) + 2;
    file.take(bound).read_to_end(&mut bytes).map_err(|error| fail(describe(&error)))?;
    let secret = bytes.trim_ascii_end();
    Secret::new(secret).ok_or_else(|| {
        let length = secret.len();
        fail(format!(
            "{length} bytes; it must have {SECRET_SIZE_BYTES_MIN} to {SECRET_SIZE_BYTES_MAX}"
        ))
    })
}

/// Distinguishes this process from all others.
fn process_nonce() -> Result<u64, Fatal> {
    let [a, b, c, d, e, f, g, h, ..]: [u8; 16] = random().map_err(data_dir_failed)?;
    Ok(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
}

fn facts(config: &Config, data_dir: &DataDir) -> NodeFacts {
    NodeFacts {
        cluster: config.cluster.clone(),
        member: config.node_id.clone(),
        durability: config.durability.to_string(),
        idle: config.idle.to_string(),
        data_dir: config.data_dir.display().to_string(),
        partition_count: data_dir.identity().partition_count,
    }
}

/// What the shards of a node are made of.
struct Assembly {
    config: Config,
    data_dir: DataDir,
    /// What the maps of each shard may take.
    memory_size_bytes_max: u64,
    /// Of timeouts and nonces; where a node is alone nobody could do the same at the same time.
    seed: u64,
}

impl Assembly {
    /// Makes a shard from its log. Runs on the shard's core, so that all shards load at once.
    fn make(&self, shard: ShardId) -> Result<ShardService, Fatal> {
        let Self { config, data_dir, .. } = self;
        let clock = Clock::start();
        let partitions = data_dir.partition_range(shard);
        let memory = self.memory_size_bytes_max;
        let loading_config = shard_config(config, data_dir, shard, partitions, memory, &clock);
        let loading_config = shard::Config { seed: self.seed, ..loading_config };
        let mut loading = Loading::new(loading_config);
        let mut checkpoints = data_dir.checkpoint_reader(shard);
        let salt = data_dir.log_key(shard).salt;
        let mut installing = Installing::new(&mut loading, &mut checkpoints, salt);
        let log = data_dir.recover_shard(shard, &mut installing).map_err(data_dir_failed)?;
        installing.finish().map_err(|error| {
            data_dir_failed(DataDirError::Checkpoint { path: data_dir.shard_folder(shard), error })
        })?;
        for notice in log.notices.iter().filter(|notice| notice.is_recovery()) {
            warn!("{notice}");
        }
        let recovered = log.recovered;
        if let Some(torn) = recovered.torn {
            let (segment, offset) = (torn.place.segment, torn.place.offset);
            let blocks = torn.block_count;
            info!(%shard, %segment, offset, blocks, "cut the torn tail that the last crash left");
        }
        let (records, ms) = (recovered.record_count, clock.monotonic().0 / 1_000_000);
        info!(%shard, records, ms, clean = recovered.start.clean, "recovered the log");
        if durability(config.durability) == wal::Durability::None && recovered.record_count > 0 {
            return Err(holds_a_log(&data_dir.shard_folder(shard)));
        }
        // The bound is the node's: each shard has an equal part of it.
        let log_size_bytes_max = config.log_size_bytes_max / u64_from(config.cores.count());
        data_dir
            .check_log_size(shard, &recovered.start, log_size_bytes_max)
            .map_err(data_dir_failed)?;
        let wal_config = data_dir.wal_config(
            shard,
            log_size_bytes_max,
            config.writes_in_flight,
            durability(config.durability),
        );
        // What is prepared is opened when the log asks for it, like any other segment.
        let stale = data_dir.stale_checkpoints(shard, &recovered.start).map_err(data_dir_failed)?;
        let start = WalStart { prepared: Vec::new(), ..recovered.start };
        let wal = Wal::open(wal_config, start);
        let shard_id = shard;
        let mut shard = Shard::new(loading, recovered.partitions, wal, stale);
        if config.members.node_count() > 1 {
            let addresses = config.members.addresses().into_iter();
            shard.know_addresses(addresses.map(|at| at.to_string().into()).collect());
        }
        let requests = RequestConfig {
            cluster: config.cluster.clone(),
            member: config.node_id.clone(),
            shard: shard_id,
            shards: data_dir.shards(),
            value_size_bytes_max: config.value_size_bytes_max,
            replaces: config.replace,
        };
        Ok(ShardService::new(shard, requests))
    }
}

/// What the shard of `partitions` is told.
fn shard_config(
    config: &Config,
    data_dir: &DataDir,
    shard: ShardId,
    partitions: std::ops::Range<u32>,
    memory_size_bytes_max: u64,
    clock: &Clock,
) -> shard::Config {
    let durability = durability(config.durability);
    let count = u64::from(partitions.end - partitions.start);
    shard::Config {
        cluster: config.cluster.clone(),
        nodes: nodes(config),
        sequencer_offset: config.sequencer_offset,
        settings: Settings { survival: survival(durability), ..Settings::default() },
        seed: data_dir.nonce(),
        shard,
        partitions,
        partition_count: data_dir.identity().partition_count,
        shard_count: data_dir.shards().shard_count(),
        durability,
        first_term: match durability {
            wal::Durability::Sync | wal::Durability::Async => TermId(1),
            // Without a log nobody remembers the terms of earlier lives, but time goes on.
            wal::Durability::None => TermId(clock.now().wall.as_ms()),
        },
        hash_key: data_dir.identity().hash_key,
        checkpoint_salt: data_dir.log_key(shard).salt,
        checkpoint_interval_size_bytes: config.checkpoint_interval_size_bytes / count,
        memory_size_bytes_max,
    }
}

/// What the loops do when there is nothing to do.
pub(super) fn idle(config: &Config) -> Idle {
    match config.idle {
        IdleMode::Spin => Idle::Spin,
        IdleMode::Park => Idle::Park { spin_ns: duration_ns(config.spin_for) },
    }
}

fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

const fn durability(durability: Durability) -> wal::Durability {
    match durability {
        Durability::Sync => wal::Durability::Sync,
        Durability::Async => wal::Durability::Async,
        Durability::None => wal::Durability::None,
    }
}

fn data_dir_failed(error: DataDirError) -> Fatal {
    Fatal::new(FatalReason::DataDirectory, error)
}

pub(super) fn stdout_failed(error: std::io::Error) -> Fatal {
    Fatal::new(FatalReason::Environment, format!("cannot write to stdout: {error}"))
}
