//! A node's configuration: as typed ([`Typed`]) and as needed ([`Config`]).
//!
//! Every setting is a flag, an environment variable and a key of a TOML file; a flag wins over
//! the environment, the environment over the file, the file over the default. Everything is
//! checked once, here: a [`Config`] can't hold a value that a node must refuse later, and a
//! configuration with five faults is answered with five lines rather than one at a time.
//!
//! Names no argument parser: the flags come in as text. The table of settings is [`setting`].

pub mod error;
pub mod members;
pub mod quantity;
pub mod setting;
pub mod source;
pub mod value;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use self::error::{ConfigError, Origin};
use self::members::Members;
use self::setting::{ALL_CORES, Setting};
use self::source::{Sources, Typed, TypedValue};
use self::value::{Cores, Durability, IdleMode, LogFormat, LogLevel, MemoryMax, PeerProtocol};
use super::placement;
use crate::base::cast;
use crate::base::limits::{
    CHECKPOINT_INTERVAL_SIZE_BYTES_MIN, LOG_SEGMENT_COUNT_MIN, LOG_SEGMENT_COUNT_MIN_REPLICATED,
    LOG_SIZE_BYTES_MAX, MEMBER_COUNT_MAX, MEMORY_SIZE_BYTES_MIN, PARTITION_COUNT_MAX,
    SCRUB_INTERVAL_MAX, SCRUB_INTERVAL_MIN, SEGMENT_SIZE_BYTES_MAX, SEGMENT_SIZE_BYTES_MIN,
    SPIN_NS_MAX, VALUE_SIZE_BYTES_MAX, WRITES_IN_FLIGHT_MAX,
};

/// A segment's size is a whole number of these: the unit in which segments are zero-filled.
const SEGMENT_SIZE_UNIT_BYTES: u64 = 1 << 20;

/// What a node runs with: every value is one that it can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where clients and members connect. Port 0: one that the kernel chooses.
    pub listen: SocketAddr,
    /// Where metrics are served, if anywhere. Port 0: one that the kernel chooses.
    pub metrics_listen: Option<SocketAddr>,
    /// Where everything durable is kept.
    pub data_dir: PathBuf,
    /// Whether an absent data directory is an error rather than made.
    pub must_exist: bool,
    /// The cores to run on.
    pub cores: Cores,
    /// When a write is answered.
    pub durability: Durability,
    /// What an idle loop does.
    pub idle: IdleMode,
    /// How long a parking loop spins before it sleeps.
    pub spin_for: Duration,
    /// The number of partitions that the data directory must have, or is given if it is new; none:
    /// what it has, or [`Cores::partition_count_default`].
    pub partitions: Option<u32>,
    /// The cluster's name.
    pub cluster: String,
    /// The node's name in its cluster.
    pub node_id: String,
    /// The nodes of the cluster, this one among them; none: it is alone.
    pub members: Members,
    /// How many nodes hold each partition: at most as many as there are.
    pub replication_factor: usize,
    /// How many places after its leader a partition's sequencer stands.
    pub sequencer_offset: u8,
    /// The file with the secret with which members prove who they are.
    pub secret_file: Option<PathBuf>,
    /// Whether members on other machines needn't prove who they are.
    pub insecure_peers: bool,
    /// What this node speaks to members that it dials.
    pub peer_protocol: PeerProtocol,
    /// Whether an empty data directory takes the place of the one that the member had.
    pub replace: bool,
    /// The longest value that is accepted.
    pub value_size_bytes_max: usize,
    /// What all maps may take: at least [`MEMORY_SIZE_BYTES_MIN`] for each core.
    pub memory_max: MemoryMax,
    /// The size of a log segment.
    pub segment_size_bytes: usize,
    /// The size of all log segments together: at least [`LOG_SEGMENT_COUNT_MIN`] of them on each
    /// core, and [`LOG_SEGMENT_COUNT_MIN_REPLICATED`] of a member.
    pub log_size_bytes_max: u64,
    /// Bytes that a shard logs between checkpoints of all its partitions, if they are small.
    pub checkpoint_interval_size_bytes: u64,
    /// How often all files are read and checked; zero: never.
    pub scrub_interval: Duration,
    /// Log writes under way at once: 1 to [`WRITES_IN_FLIGHT_MAX`].
    pub writes_in_flight: usize,
    /// Whether a copy-on-write filesystem will do for durability `sync`.
    pub allow_cow: bool,
    /// How log lines look.
    pub log_format: LogFormat,
    /// The least severe log lines that are written.
    pub log_level: LogLevel,
}

/// A configuration that was read and is sound.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the node runs with.
    pub config: Config,
    /// What was typed, to be shown.
    pub typed: Typed,
}

impl Config {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// Everything that is wrong with it, never empty.
    pub fn load(sources: &Sources) -> Result<Loaded, Vec<ConfigError>> {
        let (typed, mut errors) = Typed::gather(sources);
        match Self::check(&typed) {
            Ok(config) if errors.is_empty() => Ok(Loaded { config, typed }),
            Ok(_) => Err(errors),
            Err(more) => {
                errors.extend(more);
                Err(errors)
            }
        }
    }

    /// What is likely a mistake but does no harm.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let Self { replication_factor: factor, .. } = self;
        if !factor.is_multiple_of(2) {
            return Vec::new();
        }
        let warning = format!(
            "replication-factor = {factor}: as many members may be lost as with {}, and one more \
             must answer each write; an odd number is better",
            factor - 1
        );
        vec![warning]
    }

    /// Checks what was typed.
    ///
    /// # Errors
    /// Each value that its setting can't have, never empty.
    pub fn check(typed: &Typed) -> Result<Self, Vec<ConfigError>> {
        let mut check = Check { typed, errors: Vec::new() };
        let unchecked = UncheckedConfig {
            listen: check.one(Setting::Listen, |text| text.parse().ok()),
            metrics_listen: check.one(Setting::MetricsListen, parse_metrics_listen),
            data_dir: check.one(Setting::DataDir, parse_path),
            must_exist: check.one(Setting::MustExist, parse_bool),
            cores: check.with_reason(Setting::Cores, parse_cores),
            durability: check.one(Setting::Durability, Durability::parse),
            idle: check.one(Setting::Idle, IdleMode::parse),
            spin_for: check.one(Setting::SpinFor, parse_spin),
            partitions: check.optional(Setting::Partitions, |text| {
                value::parse_number(text).filter(|count| (1..=PARTITION_COUNT_MAX).contains(count))
            }),
            cluster: check.one(Setting::Cluster, value::parse_name),
            node_id: check.one(Setting::NodeId, value::parse_name),
            members: check.members(),
            replication_factor: check.optional(Setting::ReplicationFactor, |text| {
                value::parse_number(text).filter(|count| (1..=MEMBER_COUNT_MAX).contains(count))
            }),
            sequencer_offset: check.one(Setting::Sequencer, parse_sequencer),
            secret_file: check.optional(Setting::SecretFile, parse_path),
            insecure_peers: check.one(Setting::InsecurePeers, parse_bool),
            peer_protocol: check.one(Setting::PeerProtocol, PeerProtocol::parse),
            replace: check.one(Setting::Replace, parse_bool),
            value_size_bytes_max: check.one(Setting::MaxValue, |text| {
                parse_size(text, 1, cast::u64_from(VALUE_SIZE_BYTES_MAX))
            }),
            memory_max: check.one(Setting::MemoryMax, MemoryMax::parse),
            segment_size_bytes: check.one(Setting::SegmentSize, parse_segment_size),
            log_size_bytes_max: check
                .one(Setting::LogMax, |text| parse_size(text, 1, LOG_SIZE_BYTES_MAX)),
            checkpoint_interval_size_bytes: check.one(Setting::CheckpointInterval, |text| {
                parse_size(text, CHECKPOINT_INTERVAL_SIZE_BYTES_MIN, LOG_SIZE_BYTES_MAX)
            }),
            scrub_interval: check.one(Setting::ScrubInterval, parse_scrub_interval),
            writes_in_flight: check.one(Setting::WritesInFlight, |text| {
                value::parse_number(text).filter(|count| (1..=WRITES_IN_FLIGHT_MAX).contains(count))
            }),
            allow_cow: check.one(Setting::AllowCow, parse_bool),
            log_format: check.one(Setting::LogFormat, LogFormat::parse),
            log_level: check.one(Setting::LogLevel, LogLevel::parse),
        };
        check.log_holds_its_segments(&unchecked);
        if let (Some(memory_max), Some(cores)) = (unchecked.memory_max, &unchecked.cores) {
            check.memory_suffices_for(memory_max, cores);
        }
        check.each_core_has_a_partition(&unchecked);
        let mut unchecked = unchecked;
        check.cluster_is_sound(&mut unchecked);
        check.metrics_have_a_port_of_their_own(&unchecked);
        match unchecked.complete() {
            Some(config) if check.errors.is_empty() => Ok(config),
            _ => {
                assert!(!check.errors.is_empty(), "a setting without a value has an error");
                Err(check.errors)
            }
        }
    }
}

/// Each field of [`Config`] that could be read so far.
struct UncheckedConfig {
    listen: Option<SocketAddr>,
    metrics_listen: Option<Option<SocketAddr>>,
    data_dir: Option<PathBuf>,
    must_exist: Option<bool>,
    cores: Option<Cores>,
    durability: Option<Durability>,
    idle: Option<IdleMode>,
    spin_for: Option<Duration>,
    partitions: Option<u32>,
    cluster: Option<String>,
    node_id: Option<String>,
    members: Option<Members>,
    replication_factor: Option<usize>,
    sequencer_offset: Option<u8>,
    secret_file: Option<PathBuf>,
    insecure_peers: Option<bool>,
    peer_protocol: Option<PeerProtocol>,
    replace: Option<bool>,
    value_size_bytes_max: Option<u64>,
    memory_max: Option<MemoryMax>,
    segment_size_bytes: Option<u64>,
    log_size_bytes_max: Option<u64>,
    checkpoint_interval_size_bytes: Option<u64>,
    scrub_interval: Option<Duration>,
    writes_in_flight: Option<usize>,
    allow_cow: Option<bool>,
    log_format: Option<LogFormat>,
    log_level: Option<LogLevel>,
}

impl UncheckedConfig {
    fn complete(self) -> Option<Config> {
        Some(Config {
            listen: self.listen?,
            metrics_listen: self.metrics_listen?,
            data_dir: self.data_dir?,
            must_exist: self.must_exist?,
            cores: self.cores?,
            durability: self.durability?,
            idle: self.idle?,
            spin_for: self.spin_for?,
            partitions: self.partitions,
            cluster: self.cluster?,
            node_id: self.node_id?,
            members: self.members?,
            replication_factor: self.replication_factor?,
            sequencer_offset: self.sequencer_offset?,
            secret_file: self.secret_file,
            insecure_peers: self.insecure_peers?,
            peer_protocol: self.peer_protocol?,
            replace: self.replace?,
            value_size_bytes_max: cast::usize_from(self.value_size_bytes_max?),
            memory_max: self.memory_max?,
            segment_size_bytes: cast::usize_from(self.segment_size_bytes?),
            log_size_bytes_max: self.log_size_bytes_max?,
            checkpoint_interval_size_bytes: self.checkpoint_interval_size_bytes?,
            scrub_interval: self.scrub_interval?,
            writes_in_flight: self.writes_in_flight?,
            allow_cow: self.allow_cow?,
            log_format: self.log_format?,
            log_level: self.log_level?,
        })
    }
}

/// Collects the errors while the settings are read one by one.
struct Check<'a> {
    typed: &'a Typed,
    errors: Vec<ConfigError>,
}

impl Check<'_> {
    /// A setting that always has a value, if only its default.
    fn one<T>(&mut self, setting: Setting, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        self.with_reason(setting, |text| parse(text).ok_or(None))
    }

    /// The same, where the parser may know more about what is wrong.
    fn with_reason<T>(
        &mut self,
        setting: Setting,
        parse: impl Fn(&str) -> Result<T, Option<String>>,
    ) -> Option<T> {
        let value = self.typed.value(setting).expect("a setting without a default is optional");
        parse(&value.text).map_err(|reason| self.refuse(setting, value, reason)).ok()
    }

    /// A setting that may have no value at all.
    fn optional<T>(&mut self, setting: Setting, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        self.typed.value(setting)?;
        self.one(setting, parse)
    }

    fn refuse(&mut self, setting: Setting, value: &TypedValue, reason: Option<String>) {
        let TypedValue { text, origin } = value.clone();
        self.errors.push(ConfigError::Value { setting, text, origin, reason });
    }

    /// A relation between two settings: each core has its share of memory.
    fn memory_suffices_for(&mut self, memory_max: MemoryMax, cores: &Cores) {
        let MemoryMax::Bytes(size_bytes) = memory_max else { return };
        let needed = cast::u64_from(cores.count()) * MEMORY_SIZE_BYTES_MIN;
        if size_bytes < needed {
            let value = self.typed.value(Setting::MemoryMax).expect("`memory-max` has a default");
            let (count, needed) = (cores.count(), quantity::format_size(needed));
            let reason = format!("too little for {count} cores ({needed})");
            self.refuse(Setting::MemoryMax, value, Some(reason));
        }
    }

    fn each_core_has_a_partition(&mut self, config: &UncheckedConfig) {
        let (Some(cores), Some(partitions)) = (&config.cores, config.partitions) else { return };
        if cast::usize_from_u32(partitions) < cores.count() {
            let value = self.typed.value(Setting::Partitions).expect("it was read");
            let reason = format!("fewer than cores ({cores})");
            self.refuse(Setting::Partitions, value, Some(reason));
        }
    }

    /// Who is alone lists nobody.
    fn members(&mut self) -> Option<Members> {
        match self.typed.value(Setting::Members) {
            Some(_) => self.with_reason(Setting::Members, Members::parse),
            None => Some(Members::default()),
        }
    }

    /// Relations between the settings of a cluster; and what follows from them where nobody says.
    fn cluster_is_sound(&mut self, config: &mut UncheckedConfig) {
        let Some(members) = config.members.clone() else { return };
        let count = members.node_count();
        let factor = *config.replication_factor.get_or_insert(count);
        if factor > count {
            let reason = format!("more than there are members ({count})");
            self.refuse_one(Setting::ReplicationFactor, reason);
        }
        // A shard can't do without partitions of its range so far.
        if factor < count {
            let reason = format!("each of the {count} members holds every partition so far");
            self.refuse_one(Setting::ReplicationFactor, reason);
        }
        if config.sequencer_offset.is_some_and(|offset| usize::from(offset) >= factor) {
            let reason = format!("each partition has {factor} members");
            self.refuse_one(Setting::Sequencer, reason);
        }
        if members.is_empty() {
            return;
        }
        if count > MEMBER_COUNT_MAX {
            let reason = format!("more than {MEMBER_COUNT_MAX} members can't hold every partition");
            self.refuse_one(Setting::Members, reason);
        }
        if let Some(remote) = members.remote()
            && config.insecure_peers == Some(false)
            && self.typed.value(Setting::SecretFile).is_none()
        {
            let reason = format!(
                "{remote} is on another machine: name a --secret-file with which members prove \
                 who they are, or say --insecure-peers"
            );
            self.refuse_one(Setting::Members, reason);
        }
        let Some(me) = &config.node_id else { return };
        match members.address(me) {
            Some(address) => {
                let listen = self.typed.value(Setting::Listen);
                if listen.is_none_or(|listen| listen.origin == Origin::Default) {
                    config.listen = Some(address);
                }
            }
            None => {
                let reason = format!("not among the members ({})", members.names().join(", "));
                self.refuse_one(Setting::NodeId, reason);
            }
        }
    }

    /// A setting's value contradicts others.
    fn refuse_one(&mut self, setting: Setting, reason: String) {
        if let Some(value) = self.typed.value(setting) {
            self.refuse(setting, value, Some(reason));
        }
    }

    /// The kernel would say that another process listens there.
    fn metrics_have_a_port_of_their_own(&mut self, config: &UncheckedConfig) {
        if let (Some(clients), Some(Some(metrics))) = (config.listen, config.metrics_listen)
            && clients == metrics
            && clients.port() > 0
        {
            let value = self.typed.value(Setting::MetricsListen).expect("it has a default");
            let reason = "clients connect there".to_owned();
            self.refuse(Setting::MetricsListen, value, Some(reason));
        }
    }

    /// Each shard has an equal part of the log, and segments have room in it.
    /// A relation between two settings: the log has room for a few segments.
    fn log_holds_its_segments(&mut self, config: &UncheckedConfig) {
        let (Some(segment), Some(log)) = (config.segment_size_bytes, config.log_size_bytes_max)
        else {
            return;
        };
        let core_count = config.cores.as_ref().map_or(1, |cores| cast::u64_from(cores.count()));
        let is_member = config.members.as_ref().is_some_and(|members| !members.is_empty());
        let count_min =
            if is_member { LOG_SEGMENT_COUNT_MIN_REPLICATED } else { LOG_SEGMENT_COUNT_MIN };
        let count = count_min * core_count;
        let needed = segment.saturating_mul(count);
        if log < needed {
            let value = self.typed.value(Setting::LogMax).expect("`log-max` has a default");
            let needed = quantity::format_size(needed);
            let reason = match core_count {
                1 => format!("too small for {count} segments ({needed})"),
                _ => format!("too small for {count} segments ({needed}) of {core_count} cores"),
            };
            self.refuse(Setting::LogMax, value, Some(reason));
        }
    }
}

fn parse_sequencer(text: &str) -> Option<u8> {
    match text.strip_prefix("offset:") {
        Some(offset) => value::parse_number(offset)
            .filter(|offset| (1..MEMBER_COUNT_MAX).contains(&usize::from(*offset))),
        None => (text == "leader").then_some(0),
    }
}

fn parse_metrics_listen(text: &str) -> Option<Option<SocketAddr>> {
    if text == "off" { Some(None) } else { text.parse().ok().map(Some) }
}

fn parse_path(text: &str) -> Option<PathBuf> {
    (!text.is_empty() && !text.contains('\0')).then(|| PathBuf::from(text))
}

fn parse_bool(text: &str) -> Option<bool> {
    text.parse().ok()
}

fn parse_cores(text: &str) -> Result<Cores, Option<String>> {
    if text == ALL_CORES {
        return Ok(placement::available());
    }
    Cores::parse(text)
}

fn parse_spin(text: &str) -> Option<Duration> {
    quantity::parse_duration(text).filter(|spin| *spin <= Duration::from_nanos(SPIN_NS_MAX))
}

fn parse_scrub_interval(text: &str) -> Option<Duration> {
    let allowed = SCRUB_INTERVAL_MIN..=SCRUB_INTERVAL_MAX;
    quantity::parse_duration(text)
        .filter(|interval| interval.is_zero() || allowed.contains(interval))
}

fn parse_size(text: &str, size_bytes_min: u64, size_bytes_max: u64) -> Option<u64> {
    quantity::parse_size(text).filter(|size| (size_bytes_min..=size_bytes_max).contains(size))
}

fn parse_segment_size(text: &str) -> Option<u64> {
    let min = cast::u64_from(SEGMENT_SIZE_BYTES_MIN);
    let max = cast::u64_from(SEGMENT_SIZE_BYTES_MAX);
    parse_size(text, min, max).filter(|size| size.is_multiple_of(SEGMENT_SIZE_UNIT_BYTES))
}

#[cfg(test)]
mod tests;
