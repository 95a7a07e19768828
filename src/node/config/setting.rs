//! The table of settings: every one has a name, which is its flag, its environment variable and
//! its key in the file; a default; and a sentence that says what it may be.
//!
//! Flags, file, environment, `--print-config` and the messages all read this one table, so that
//! they can't disagree.

use std::time::Duration;

use super::quantity::{format_duration, format_size};
use crate::base::cast;
use crate::base::limits::{
    CHECKPOINT_INTERVAL_SIZE_BYTES_DEFAULT, CHECKPOINT_INTERVAL_SIZE_BYTES_MIN, CORE_NUMBER_COUNT,
    LOG_SEGMENT_COUNT_MIN, LOG_SEGMENT_COUNT_MIN_REPLICATED, LOG_SIZE_BYTES_DEFAULT,
    LOG_SIZE_BYTES_MAX, MEMBER_COUNT_MAX, MEMBER_NAME_SIZE_BYTES_MAX, MEMORY_PERCENT_DEFAULT,
    MEMORY_SIZE_BYTES_MAX, MEMORY_SIZE_BYTES_MIN, PARTITION_COUNT_MAX, SCRUB_INTERVAL_DEFAULT,
    SCRUB_INTERVAL_MAX, SCRUB_INTERVAL_MIN, SEGMENT_SIZE_BYTES_DEFAULT, SEGMENT_SIZE_BYTES_MAX,
    SEGMENT_SIZE_BYTES_MIN, SPIN_NS_DEFAULT, SPIN_NS_MAX, VALUE_SIZE_BYTES_DEFAULT,
    VALUE_SIZE_BYTES_MAX, WRITES_IN_FLIGHT_DEFAULT, WRITES_IN_FLIGHT_MAX,
};

/// What an environment variable of p2pmap begins with.
pub const ENVIRONMENT_PREFIX: &str = "P2PMAP_";

/// One setting of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Setting {
    /// Where clients and members connect.
    Listen,
    /// Where metrics are served.
    MetricsListen,
    /// Where everything durable is kept.
    DataDir,
    /// Whether an absent data directory is an error.
    MustExist,
    /// The cores that the node runs on, one shard each.
    Cores,
    /// When a write is answered.
    Durability,
    /// What an idle loop does.
    Idle,
    /// How long a parking loop spins first.
    SpinFor,
    /// How many partitions a new data directory is given.
    Partitions,
    /// The cluster's name.
    Cluster,
    /// The node's name in its cluster.
    NodeId,
    /// The nodes of the cluster and where they listen.
    Members,
    /// How many nodes hold each partition.
    ReplicationFactor,
    /// Where a partition's sequencer stands.
    Sequencer,
    /// The file with the cluster's secret.
    SecretFile,
    /// Whether members on other machines needn't prove who they are.
    InsecurePeers,
    /// What this node speaks to members that it dials.
    PeerProtocol,
    /// Whether an empty data directory takes the place of the one that the member had.
    Replace,
    /// The longest value.
    MaxValue,
    /// What all maps may take.
    MemoryMax,
    /// The size of a log segment.
    SegmentSize,
    /// The size of all log segments together.
    LogMax,
    /// Bytes logged in a shard between checkpoints of its partitions.
    CheckpointInterval,
    /// How often what was written is read once more.
    ScrubInterval,
    /// Log writes under way at once.
    WritesInFlight,
    /// Whether a copy-on-write filesystem will do for durability `sync`.
    AllowCow,
    /// How log lines look.
    LogFormat,
    /// Which log lines there are.
    LogLevel,
}

/// What `cores` is when nobody says: all that affinity and control groups allow.
pub const ALL_CORES: &str = "all";

/// How a setting's value is written in a TOML file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A string.
    Text,
    /// A string, a whole number or an array of both.
    List,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Boolean,
}

impl Setting {
    /// All settings, in the order in which they are printed.
    pub const ALL: [Self; 28] = [
        Self::Listen,
        Self::MetricsListen,
        Self::DataDir,
        Self::MustExist,
        Self::Cores,
        Self::Durability,
        Self::Idle,
        Self::SpinFor,
        Self::Partitions,
        Self::Cluster,
        Self::NodeId,
        Self::Members,
        Self::ReplicationFactor,
        Self::Sequencer,
        Self::SecretFile,
        Self::InsecurePeers,
        Self::PeerProtocol,
        Self::Replace,
        Self::MaxValue,
        Self::MemoryMax,
        Self::SegmentSize,
        Self::LogMax,
        Self::CheckpointInterval,
        Self::ScrubInterval,
        Self::WritesInFlight,
        Self::AllowCow,
        Self::LogFormat,
        Self::LogLevel,
    ];

    /// The settings of a loop without a map behind it, as `p2pmap echo` runs it.
    pub const OF_A_LOOP: [Self; 6] =
        [Self::Listen, Self::Cores, Self::Idle, Self::SpinFor, Self::LogFormat, Self::LogLevel];

    /// Its name: the key in the file, and the flag without its dashes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::MetricsListen => "metrics-listen",
            Self::DataDir => "data-dir",
            Self::MustExist => "must-exist",
            Self::Replace => "replace",
            Self::Cores => "cores",
            Self::Durability => "durability",
            Self::Idle => "idle",
            Self::SpinFor => "spin-for",
            Self::Partitions => "partitions",
            Self::Cluster => "cluster",
            Self::NodeId => "node-id",
            Self::Members => "members",
            Self::ReplicationFactor => "replication-factor",
            Self::Sequencer => "sequencer",
            Self::SecretFile => "secret-file",
            Self::InsecurePeers => "insecure-peers",
            Self::PeerProtocol => "peer-protocol",
            Self::MaxValue => "max-value",
            Self::MemoryMax => "memory-max",
            Self::SegmentSize => "segment-size",
            Self::LogMax => "log-max",
            Self::CheckpointInterval => "checkpoint-interval",
            Self::ScrubInterval => "scrub-interval",
            Self::WritesInFlight => "writes-in-flight",
            Self::AllowCow => "allow-cow",
            Self::LogFormat => "log-format",
            Self::LogLevel => "log-level",
        }
    }

    /// The setting of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|setting| setting.name() == name)
    }

    /// Its environment variable.
    #[must_use]
    pub fn variable(self) -> String {
        let name = self.name().to_ascii_uppercase().replace('-', "_");
        format!("{ENVIRONMENT_PREFIX}{name}")
    }

    /// How its value is written in a file.
    #[must_use]
    pub const fn form(self) -> Form {
        match self {
            Self::MustExist | Self::Replace | Self::AllowCow | Self::InsecurePeers => Form::Boolean,
            Self::Partitions | Self::ReplicationFactor | Self::WritesInFlight => Form::Integer,
            Self::Cores | Self::Members => Form::List,
            Self::Listen
            | Self::MetricsListen
            | Self::DataDir
            | Self::Durability
            | Self::Idle
            | Self::SpinFor
            | Self::Cluster
            | Self::NodeId
            | Self::Sequencer
            | Self::SecretFile
            | Self::PeerProtocol
            | Self::MaxValue
            | Self::MemoryMax
            | Self::SegmentSize
            | Self::LogMax
            | Self::CheckpointInterval
            | Self::ScrubInterval
            | Self::LogFormat
            | Self::LogLevel => Form::Text,
        }
    }

    /// What its value is when nobody says and it has no default.
    #[must_use]
    pub const fn otherwise(self) -> &'static str {
        match self {
            Self::Members => "none: the node is alone",
            Self::ReplicationFactor => "as many as there are members",
            Self::SecretFile => "none: members needn't prove who they are",
            _ => "what the data directory has, or 64 if it is new",
        }
    }

    /// Its value when nobody says; none: see [`Setting::otherwise`].
    #[must_use]
    pub fn default_text(self) -> Option<String> {
        Some(match self {
            Self::Listen => "127.0.0.1:5678".to_owned(),
            Self::MetricsListen => "off".to_owned(),
            Self::DataDir => "./p2pmap-data".to_owned(),
            Self::MustExist | Self::Replace | Self::AllowCow | Self::InsecurePeers => {
                "false".to_owned()
            }
            Self::Cores => ALL_CORES.to_owned(),
            Self::Durability => "sync".to_owned(),
            Self::Idle => "park".to_owned(),
            Self::SpinFor => format_duration(Duration::from_nanos(SPIN_NS_DEFAULT)),
            Self::Partitions | Self::Members | Self::ReplicationFactor | Self::SecretFile => {
                return None;
            }
            Self::Sequencer => "leader".to_owned(),
            Self::PeerProtocol => "frames".to_owned(),
            Self::Cluster => "p2pmap".to_owned(),
            Self::NodeId => "node-1".to_owned(),
            Self::MaxValue => format_size(cast::u64_from(VALUE_SIZE_BYTES_DEFAULT)),
            Self::MemoryMax => format!("{MEMORY_PERCENT_DEFAULT}%"),
            Self::SegmentSize => format_size(cast::u64_from(SEGMENT_SIZE_BYTES_DEFAULT)),
            Self::LogMax => format_size(LOG_SIZE_BYTES_DEFAULT),
            Self::CheckpointInterval => format_size(CHECKPOINT_INTERVAL_SIZE_BYTES_DEFAULT),
            Self::ScrubInterval => format_duration(SCRUB_INTERVAL_DEFAULT),
            Self::WritesInFlight => WRITES_IN_FLIGHT_DEFAULT.to_string(),
            Self::LogFormat => "human".to_owned(),
            Self::LogLevel => "info".to_owned(),
        })
    }

    /// What its value may be, as the end of a sentence.
    #[must_use]
    pub fn allowed(self) -> String {
        match self {
            Self::Listen => "an IP address and a port, e.g. 127.0.0.1:5678 or [::]:5678".to_owned(),
            Self::MetricsListen => {
                "off, or an IP address and a port, e.g. 127.0.0.1:5679".to_owned()
            }
            Self::DataDir => "the path of a directory".to_owned(),
            Self::MustExist | Self::Replace | Self::AllowCow | Self::InsecurePeers => {
                "true or false".to_owned()
            }
            Self::Members => {
                "names with IP addresses and ports, e.g. a=127.0.0.1:5678,b=127.0.0.1:5679"
                    .to_owned()
            }
            Self::ReplicationFactor => format!("a whole number from 1 to {MEMBER_COUNT_MAX}"),
            Self::Sequencer => format!(
                "leader, or offset:1 to offset:{} for a member after the leader",
                MEMBER_COUNT_MAX - 1
            ),
            Self::SecretFile => "the path of a file".to_owned(),
            Self::PeerProtocol => "frames or grpc".to_owned(),
            Self::Cores => {
                let last = CORE_NUMBER_COUNT - 1;
                format!("{ALL_CORES}, or core numbers from 0 to {last}, e.g. 0 or 0,2-3")
            }
            Self::Durability => "sync, async or none".to_owned(),
            Self::Idle => "spin or park".to_owned(),
            Self::SpinFor => format!(
                "a duration from 0us to {}, e.g. 50us",
                format_duration(Duration::from_nanos(SPIN_NS_MAX))
            ),
            Self::Partitions => format!("a whole number from 1 to {PARTITION_COUNT_MAX}"),
            Self::Cluster | Self::NodeId => format!(
                "1 to {MEMBER_NAME_SIZE_BYTES_MAX} letters, digits, dots, dashes or underscores"
            ),
            Self::MaxValue => size_range(1, cast::u64_from(VALUE_SIZE_BYTES_MAX)),
            Self::MemoryMax => format!(
                "a share of memory from 1% to 100%, or {}, e.g. 75% or 8GiB; at least {} a core",
                size_range(MEMORY_SIZE_BYTES_MIN, MEMORY_SIZE_BYTES_MAX),
                format_size(MEMORY_SIZE_BYTES_MIN)
            ),
            Self::SegmentSize => format!(
                "{}, in whole MiB",
                size_range(
                    cast::u64_from(SEGMENT_SIZE_BYTES_MIN),
                    cast::u64_from(SEGMENT_SIZE_BYTES_MAX)
                )
            ),
            Self::LogMax => format!(
                "a size from {LOG_SEGMENT_COUNT_MIN} × segment-size a core (of a member \
                 {LOG_SEGMENT_COUNT_MIN_REPLICATED} ×) to {}, e.g. 64GiB",
                format_size(LOG_SIZE_BYTES_MAX)
            ),
            Self::CheckpointInterval => {
                size_range(CHECKPOINT_INTERVAL_SIZE_BYTES_MIN, LOG_SIZE_BYTES_MAX)
            }
            Self::ScrubInterval => format!(
                "a duration from {} to {}, or 0s for never",
                format_duration(SCRUB_INTERVAL_MIN),
                format_duration(SCRUB_INTERVAL_MAX)
            ),
            Self::WritesInFlight => format!("a whole number from 1 to {WRITES_IN_FLIGHT_MAX}"),
            Self::LogFormat => "human or json".to_owned(),
            Self::LogLevel => "error, warn, info, debug or trace".to_owned(),
        }
    }

    /// What it does, for `--help`.
    #[must_use]
    pub const fn help(self) -> &'static str {
        match self {
            Self::Listen => "Where clients connect",
            Self::MetricsListen => {
                "Where GET /metrics (Prometheus) and GET /healthz are answered, to anybody"
            }
            Self::DataDir => "Where everything durable is kept; made if absent",
            Self::MustExist => "Refuse to start on an absent data directory",
            Self::Cores => {
                "Cores to run on, one shard each; all: those that affinity and quota allow"
            }
            Self::Durability => {
                "When a write is answered: once on disk, before that, or without a log"
            }
            Self::Idle => "What an idle loop does: spin (fastest, one core busy) or park",
            Self::SpinFor => "With --idle park: how long to spin before sleeping",
            Self::Partitions => {
                "Partitions of a new data directory [default: what the directory has, or 64]"
            }
            Self::Cluster => "Name of the cluster, kept in the data directory",
            Self::NodeId => "Name of this node in its cluster, kept in the data directory",
            Self::Members => {
                "All nodes of the cluster, this one among them; it listens at its address there \
                 unless --listen says otherwise"
            }
            Self::ReplicationFactor => {
                "How many nodes hold each partition [default, and so far the only one: all]"
            }
            Self::Sequencer => "Which member numbers a partition's commands",
            Self::SecretFile => {
                "File with a secret of 16 bytes or more with which members prove who they are"
            }
            Self::Replace => {
                "Take the place of this member's former life with an empty data directory"
            }
            Self::InsecurePeers => {
                "Accept members on other machines without a secret: whoever reaches the port can \
                 pretend to be one"
            }
            Self::PeerProtocol => {
                "What members that this one dials are spoken to in: raw frames, or the same inside \
                 of gRPC; who dials it chooses for itself"
            }
            Self::MaxValue => "Longest value that is accepted",
            Self::MemoryMax => {
                "Memory for the maps, as a size or a share of what the process may have; at this \
                 bound puts are refused"
            }
            Self::SegmentSize => "Size of one file of the log",
            Self::LogMax => "Size of all files of the log; at this bound writes are refused",
            Self::CheckpointInterval => {
                "Bytes that a shard logs between checkpoints of all its partitions, if they are \
                 small; else a partition logs as much as its last checkpoint was long"
            }
            Self::ScrubInterval => "How often all files are read once and checked; 0s: never",
            Self::WritesInFlight => "Log writes under way at once",
            Self::AllowCow => "Accept durability sync on a copy-on-write filesystem",
            Self::LogFormat => "How log lines on stderr look",
            Self::LogLevel => "Least severe log lines that are written",
        }
    }

    /// What stands for its value in `--help`.
    #[must_use]
    pub const fn placeholder(self) -> &'static str {
        match self {
            Self::Listen => "ADDR:PORT",
            Self::MetricsListen => "off|ADDR:PORT",
            Self::DataDir => "DIR",
            Self::MustExist | Self::Replace | Self::AllowCow | Self::InsecurePeers => "true|false",
            Self::Cores => "LIST",
            Self::Members => "NAME=ADDR:PORT,…",
            Self::ReplicationFactor => "COUNT",
            Self::Sequencer => "leader|offset:N",
            Self::SecretFile => "FILE",
            Self::PeerProtocol => "frames|grpc",
            Self::Durability => "sync|async|none",
            Self::Idle => "spin|park",
            Self::SpinFor | Self::ScrubInterval => "DURATION",
            Self::Partitions | Self::WritesInFlight => "COUNT",
            Self::Cluster | Self::NodeId => "NAME",
            Self::MaxValue | Self::SegmentSize | Self::LogMax | Self::CheckpointInterval => "SIZE",
            Self::MemoryMax => "SIZE|PERCENT",
            Self::LogFormat => "human|json",
            Self::LogLevel => "LEVEL",
        }
    }
}

fn size_range(size_bytes_min: u64, size_bytes_max: u64) -> String {
    format!("a size from {} to {}", format_size(size_bytes_min), format_size(size_bytes_max))
}

/// The known name nearest to a mistyped one, if any is near enough to be meant.
#[must_use]
pub fn nearest<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let close_enough = (typed.chars().count() / 3).max(1);
    known
        .map(|name| (edit_distance(typed, name), name))
        .filter(|(distance, _)| *distance <= close_enough)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// How many characters must be inserted, removed or replaced to make `a` of `b` (Levenshtein).
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_unique_and_finds_its_setting() {
        for setting in Setting::ALL {
            assert_eq!(Setting::named(setting.name()), Some(setting));
        }
        assert_eq!(Setting::named("data_dir"), None);
        assert_eq!(Setting::DataDir.variable(), "P2PMAP_DATA_DIR");
    }

    #[test]
    fn nearest_name_is_found_for_a_slip_and_not_for_another_word() {
        let names = || Setting::ALL.into_iter().map(Setting::name);
        assert_eq!(nearest("data_dir", names()), Some("data-dir"));
        assert_eq!(nearest("lisen", names()), Some("listen"));
        assert_eq!(nearest("core", names()), Some("cores"));
        assert_eq!(nearest("replication-faktor", names()), Some("replication-factor"));
        assert_eq!(nearest("quorum", names()), None);
        assert_eq!(nearest("", names()), None);
    }

    #[test]
    fn edit_distance_counts_single_changes() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("abc", "abc"), 0);
    }
}
