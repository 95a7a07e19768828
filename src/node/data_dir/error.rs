//! Why a data directory can't be used, and what its operator should know of one that can.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::filesystem::Filesystem;
use crate::base::ids::{PartitionId, ShardId};
use crate::shard::InstallError;
use crate::storage::error::StorageError;
use crate::storage::identity::IdentityError;
use crate::storage::recovery::{Suspicion, TornTail};

/// Why a data directory can't be used. Each says in one line what to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum DataDirError {
    /// The operating system refused.
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// It isn't there though it must be.
    Absent {
        /// Where it should be.
        path: PathBuf,
    },
    /// A process has it open.
    InUse {
        /// Which one.
        path: PathBuf,
    },
    /// There are logs but nothing says whose.
    NoIdentity {
        /// Where.
        path: PathBuf,
        /// One of the logs' files.
        found: PathBuf,
    },
    /// A shard would have no partition.
    TooManyShards {
        /// Which directory.
        path: PathBuf,
        /// How many shards the node would have.
        shard_count: u16,
        /// How many partitions the cluster has.
        partition_count: u32,
    },
    /// A shard would have more entries than it can hold.
    TooFewShards {
        /// Which directory.
        path: PathBuf,
        /// How many shards the node would have.
        shard_count: u16,
        /// How many it had.
        from: u16,
        /// With how many, above those, each could hold its part; `None`: with none.
        needed: Option<u16>,
    },
    /// A checkpoint that a shard's log needs can't be loaded.
    Checkpoint {
        /// The shard's folder.
        path: PathBuf,
        /// Which, and why.
        error: InstallError,
    },
    /// A shard's folder is gone.
    NoFolder {
        /// Which one.
        path: PathBuf,
    },
    /// One of the small files is damaged.
    Identity {
        /// Which one.
        path: PathBuf,
        /// In which way.
        error: IdentityError,
    },
    /// It belongs to another cluster or member, or has another shape.
    Another {
        /// Which one.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// What it has.
        found: String,
        /// What the configuration says.
        wanted: String,
    },
    /// It was made in a cluster of other members.
    OtherMembers {
        /// Which one.
        path: PathBuf,
        /// How many members it knows.
        found: u8,
        /// How many there are to be.
        wanted: u8,
    },
    /// It is on a filesystem that moves what is written again.
    CopyOnWrite {
        /// Which one.
        path: PathBuf,
        /// The filesystem.
        filesystem: Filesystem,
    },
    /// The log may not become as large as a start needs it.
    LogTooSmall {
        /// The shard's folder.
        path: PathBuf,
        /// The segments that it holds.
        segment_count: u64,
        /// How long each is.
        segment_size_bytes: u64,
        /// How large the log must be allowed to be at least.
        needed_size_bytes: u64,
    },
    /// A shard's log is damaged.
    Storage(StorageError),
}

impl fmt::Display for DataDirError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { doing, path, error } => write!(f, "{doing} {}: {error}", path.display()),
            Self::Absent { path } => write!(
                f,
                "{} isn't a data directory, and --must-exist forbids to make one: is it mounted?",
                path.display()
            ),
            Self::InUse { path } => {
                write!(f, "{} is in use by a running process", path.display())
            }
            Self::NoIdentity { path, found } => write!(
                f,
                "{} holds logs ({}) but no IDENTITY: restore that file, or start with an empty \
                 directory",
                path.display(),
                found.display()
            ),
            Self::TooManyShards { path, shard_count, partition_count } => write!(
                f,
                "{} has {partition_count} partitions, too few for {shard_count} cores: name fewer \
                 (--cores)",
                path.display()
            ),
            Self::TooFewShards { path, shard_count, from, needed } => {
                let count = needed.unwrap_or(*from);
                write!(
                    f,
                    "{} holds too much for {shard_count} cores: each can have 13 GiB of entries \
                     of less than 2 KiB; give it {count} (--cores)",
                    path.display()
                )
            }
            Self::Checkpoint { path, error } => write!(
                f,
                "{}: {error}: restore the directory from a backup, or start with an empty one",
                path.display()
            ),
            Self::NoFolder { path } => {
                write!(f, "{} is missing: restore it from a backup", path.display())
            }
            Self::Identity { path, error } => {
                write!(f, "{}: {error}: restore it from a backup", path.display())
            }
            Self::Another { path, what, found, wanted } => write!(
                f,
                "{} has {what} {found}, but {wanted} was asked for: name the right directory or \
                 change the setting",
                path.display()
            ),
            Self::OtherMembers { path, found, wanted } => {
                write!(f, "{} was made in {}", path.display(), other_members(*found, *wanted))
            }
            Self::CopyOnWrite { path, filesystem } => write!(
                f,
                "{} is on {filesystem}, which moves a segment's blocks on every write: choose \
                 another filesystem or pass --allow-cow",
                path.display()
            ),
            Self::LogTooSmall { path, segment_count, segment_size_bytes, needed_size_bytes } => {
                write!(
                    f,
                    "{} holds {segment_count} segments of {segment_size_bytes} bytes and each \
                     start begins another: raise --log-max to {needed_size_bytes} bytes at least",
                    path.display()
                )
            }
            Self::Storage(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DataDirError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            Self::Identity { error, .. } => Some(error),
            Self::Storage(error) => Some(error),
            Self::Checkpoint { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// What an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// The directory was made.
    Initialised {
        /// Where.
        path: PathBuf,
    },
    /// Everything is lost with the machine's memory.
    NotDurable {
        /// Why.
        filesystem: Filesystem,
    },
    /// Writes go through the page cache.
    NoDirect {
        /// Why.
        filesystem: Filesystem,
    },
    /// A copy-on-write filesystem was accepted.
    CopyOnWrite {
        /// Which one.
        filesystem: Filesystem,
    },
    /// What the filesystem promises isn't known.
    Unknown {
        /// Which one.
        filesystem: Filesystem,
    },
    /// Segments keep the size with which the directory was made.
    SegmentSize {
        /// That size.
        size_bytes: u64,
    },
    /// The node has another number of cores than before: its partitions move.
    Rehoming {
        /// How many shards the directory has.
        from: u16,
        /// How many it will have.
        to: u16,
    },
    /// Partitions don't go on from what is here, but recover from their other members.
    Recovering {
        /// Of which shard.
        shard: ShardId,
        /// Why.
        why: Suspicion,
        /// Which.
        partitions: Vec<PartitionId>,
    },
    /// A crash left writes incomplete; none of them had been acknowledged.
    Torn {
        /// Whose log.
        shard: ShardId,
        /// Where it ends now.
        tail: TornTail,
    },
}

impl Notice {
    /// Whether it says that partitions recover from other members.
    #[must_use]
    pub const fn is_recovery(&self) -> bool {
        matches!(self, Self::Recovering { .. })
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Initialised { path } => {
                write!(f, "made the data directory {}", path.display())
            }
            Self::NotDurable { filesystem } => write!(
                f,
                "the data directory is on {filesystem}: not durable, a restart of the machine \
                 loses everything"
            ),
            Self::NoDirect { filesystem } => write!(
                f,
                "{filesystem} offers no direct I/O: log writes go through the page cache and are \
                 slower"
            ),
            Self::CopyOnWrite { filesystem } => {
                write!(
                    f,
                    "{filesystem} copies on write: log writes are slow and may run out of space"
                )
            }
            Self::Unknown { filesystem } => {
                write!(f, "the data directory is on {filesystem}, whose promises aren't known")
            }
            Self::SegmentSize { size_bytes } => write!(
                f,
                "segments keep the {size_bytes} bytes with which the data directory was made"
            ),
            Self::Rehoming { from, to } => write!(
                f,
                "the data directory is of a node with {from} cores, this one has {to}: the \
                 partitions move, which takes room for a second copy"
            ),
            Self::Recovering { shard, why, partitions } => {
                let partitions = ranges(partitions);
                write!(
                    f,
                    "shard {shard}: partitions {partitions} recover from the other members: {why}"
                )
            }
            Self::Torn { shard, tail } => write!(
                f,
                "shard {shard}: the log ends at byte {} of segment {}: {} blocks behind it are of \
                 writes that a crash left incomplete, none of them acknowledged",
                tail.place.offset, tail.place.segment, tail.block_count
            ),
        }
    }
}

fn other_members(found: u8, wanted: u8) -> String {
    let differ = match found == wanted {
        true => "with other names".to_owned(),
        false => format!("and {wanted} were named"),
    };
    format!(
        "a cluster of {found} members, {differ}: name those that it has (--members); they can't \
         be changed yet"
    )
}

/// Partitions as a person would name them: `3, 5-9`.
fn ranges(partitions: &[PartitionId]) -> String {
    let mut numbers: Vec<u32> = partitions.iter().map(|partition| partition.0).collect();
    numbers.sort_unstable();
    let runs = numbers.chunk_by(|before, after| before + 1 == *after);
    let names: Vec<String> = runs
        .map(|run| match run {
            [first, .., last] => format!("{first}-{last}"),
            _ => run.iter().map(u32::to_string).collect(),
        })
        .collect();
    names.join(", ")
}
