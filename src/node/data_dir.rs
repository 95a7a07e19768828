//! The data directory: made once, checked at every start, locked while in use. Here are the files
//! that `storage` only knows the bytes of.
//!
//! ```text
//! data/
//!   IDENTITY           whose it is; made last, by a rename that replaces nothing
//!   LOCK               locked first, never removed
//!   BOOT               the boot epoch, raised and durable before anything is appended
//!   CURRENT            the live generation and its layout
//!   gen-<generation>/
//!     shard-<k>/<segment>.log        and `<segment>.log.new` while it is being prepared
//!     shard-<k>/<partition>-<index>.ckpt
//! ```
//!
//! A segment gets its name when it is full of zeros and durably so. So a file with a segment's name
//! that is shorter than a segment was cut, and is refused; one that was being prepared is removed.

mod checkpoints;
mod checks;
mod error;
mod filesystem;
mod read_ahead;
mod rehome;
mod segments;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, RenameFlags};

pub use self::checkpoints::CheckpointReader;
pub use self::error::{DataDirError, Notice};
pub use self::filesystem::{Filesystem, Keeps};
pub use self::rehome::{Destination, RehomeStep};
pub use self::segments::ShardLog;
use crate::base::cast::{low_u64, u64_from, usize_from};
use crate::base::cluster::Cluster;
use crate::base::ids::{BootEpoch, PartitionId, SegmentId, ShardId};
use crate::base::limits::{BLOCK_SIZE_BYTES, LOG_SEGMENT_COUNT_MIN};
use crate::base::shards::ShardMap;
use crate::runtime::direct_io::open_to_read;
use crate::runtime::segment_workshop::sync_directory;
use crate::storage::block::LogKey;
use crate::storage::identity::{Boot, Current, FILE_SIZE_BYTES, Identity, Members, log_salt};
use crate::storage::recovery::Salvage;
use crate::storage::segment_name::{PREPARING_SUFFIX, segment_file_name};
use crate::storage::wal::{Durability, WalConfig, WalStart};

const IDENTITY: &str = "IDENTITY";
const LOCK: &str = "LOCK";
const BOOT: &str = "BOOT";
const CURRENT: &str = "CURRENT";
const GENERATION_PREFIX: &str = "gen-";
const FIRST_GENERATION: u64 = 1;

/// What a data directory is opened with.
#[derive(Clone, Debug)]
pub struct DataDirOptions {
    /// Where it is.
    pub path: PathBuf,
    /// The cluster that it must be of.
    pub cluster: String,
    /// The members of that cluster, seen by the one whose it must be.
    pub nodes: Cluster,
    /// How many partitions the cluster must have; `None`: whatever it has.
    pub partition_count: Option<u32>,
    /// How many partitions a new directory gets if nothing is said.
    pub partition_count_default: u32,
    /// How many shards the node has.
    pub shard_count: u16,
    /// How long segments are made, if the directory is.
    pub segment_size_bytes: usize,
    /// Whether an absent directory is an error: a mount that is missing, say.
    pub must_exist: bool,
    /// What it must be able to promise.
    pub durability: Durability,
    /// Whether a copy-on-write filesystem is accepted although it can't promise `sync` well.
    pub allow_copy_on_write: bool,
}

impl DataDirOptions {
    /// The member that it must be of.
    fn member(&self) -> &str {
        self.nodes.name(self.nodes.me())
    }
}

/// A data directory, locked until this is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Holds the lock.
    _lock: File,
    identity: Identity,
    current: Current,
    boot_epoch: BootEpoch,
    nonce: u64,
    filesystem: Filesystem,
    direct: bool,
    notices: Vec<Notice>,
}

impl DataDir {
    /// Opens a data directory to be written; makes it if it is absent. The boot epoch is raised.
    ///
    /// # Errors
    /// If it is another's, in use, damaged, or on a filesystem that can't promise what it must.
    pub fn open(options: &DataDirOptions) -> Result<Self, DataDirError> {
        let path = options.path.clone();
        let mut notices = Vec::new();
        if options.must_exist && !has_identity(&path)? {
            return Err(DataDirError::Absent { path });
        }
        create_folder(&path)?;
        let lock = lock(&path, FlockOperation::NonBlockingLockExclusive)?;
        let filesystem =
            Filesystem::of(&lock).map_err(doing("asking what filesystem has", &path))?;
        checks::filesystem(options, filesystem, &mut notices)?;
        // Only now that nobody else can be making it.
        if !has_identity(&path)? {
            initialise(options)?;
            notices.push(Notice::Initialised { path: path.clone() });
        }
        let identity = read_identity(&path)?;
        checks::identity(options, &identity)?;
        let current = read_current(&path)?;
        let partition_count = identity.partition_count;
        if u32::from(options.shard_count) > partition_count {
            let shard_count = options.shard_count;
            return Err(DataDirError::TooManyShards { path, shard_count, partition_count });
        }
        checks::layout(options, current, &mut notices);
        let boot_epoch = raise_boot(&path)?;
        let direct = is_direct(&path.join(IDENTITY))?;
        if !direct {
            notices.push(Notice::NoDirect { filesystem });
        }
        let data_dir = Self {
            path,
            _lock: lock,
            identity,
            current,
            boot_epoch,
            nonce: random_number()?,
            filesystem,
            direct,
            notices,
        };
        // The living generation must be there before others are taken for remains.
        data_dir.check_folders()?;
        data_dir.remove_other_generations()?;
        Ok(data_dir)
    }

    /// Opens a data directory to be looked at: nothing in it is changed.
    ///
    /// # Errors
    /// If it is in use, or not a data directory.
    pub fn open_to_inspect(path: &Path) -> Result<Self, DataDirError> {
        let lock = lock(path, FlockOperation::NonBlockingLockShared)?;
        let filesystem =
            Filesystem::of(&lock).map_err(doing("asking what filesystem has", path))?;
        let identity = read_identity(path)?;
        let current = read_current(path)?;
        let boot = read_boot(path)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
            identity,
            current,
            // What was written was written by this boot or one before it.
            boot_epoch: boot.boot_epoch.next(),
            nonce: random_number()?,
            filesystem,
            direct: false,
            notices: Vec::new(),
        })
    }

    /// Whether anything was ever logged.
    ///
    /// # Errors
    /// If the folders can't be listed.
    pub fn has_logs(&self) -> Result<bool, DataDirError> {
        Ok(first_log_file(&self.path)?.is_some())
    }

    /// What the operator should be told.
    #[must_use]
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// Whose it is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether its partitions have other members.
    #[must_use]
    pub const fn has_peers(&self) -> bool {
        self.identity.members.replication_factor > 1
    }

    /// How it is laid out.
    #[must_use]
    pub const fn current(&self) -> Current {
        self.current
    }

    /// This boot.
    #[must_use]
    pub const fn boot_epoch(&self) -> BootEpoch {
        self.boot_epoch
    }

    /// Drawn anew each time that it is opened: no two processes have the same.
    #[must_use]
    pub const fn nonce(&self) -> u64 {
        self.nonce
    }

    /// What it lies on.
    #[must_use]
    pub const fn filesystem(&self) -> Filesystem {
        self.filesystem
    }

    /// Whether its files can be opened with `O_DIRECT`.
    #[must_use]
    pub const fn is_direct(&self) -> bool {
        self.direct
    }

    /// How long each segment is.
    #[must_use]
    pub const fn segment_size_bytes(&self) -> usize {
        usize_from(self.current.segment_size_bytes)
    }

    /// The folder of a shard's segments; to be synced when a segment gets its name.
    #[must_use]
    pub fn shard_folder(&self, shard: ShardId) -> PathBuf {
        shard_folder(&self.path, self.current.generation, shard)
    }

    /// The file of a segment.
    #[must_use]
    pub fn segment_path(&self, shard: ShardId, segment: SegmentId) -> PathBuf {
        self.shard_folder(shard).join(segment_file_name(segment))
    }

    /// Where a segment is prepared, before it is renamed to [`DataDir::segment_path`].
    #[must_use]
    pub fn preparing_path(&self, shard: ShardId, segment: SegmentId) -> PathBuf {
        self.shard_folder(shard).join(segment_file_name(segment) + PREPARING_SUFFIX)
    }

    /// Whose blocks a shard's are.
    #[must_use]
    pub fn log_key(&self, shard: ShardId) -> LogKey {
        LogKey { shard, salt: log_salt(&self.identity.uuid, self.current.generation) }
    }

    /// Which shard owns which partition.
    ///
    /// # Panics
    /// If there are more shards than partitions: a directory isn't made so.
    #[must_use]
    pub fn shards(&self) -> ShardMap {
        ShardMap::new(self.identity.partition_count, self.current.shard_count)
    }

    /// The partitions of a shard: a range, so that they spread over the shards of nodes with
    /// different numbers of them.
    pub fn partitions_of(&self, shard: ShardId) -> impl Iterator<Item = PartitionId> + use<> {
        self.shards().partitions_of(shard).map(PartitionId)
    }

    /// The same as a range of numbers.
    #[must_use]
    pub fn partition_range(&self, shard: ShardId) -> std::ops::Range<u32> {
        self.shards().partitions_of(shard)
    }

    /// What a shard's log is to be opened with.
    #[must_use]
    pub fn wal_config(
        &self,
        shard: ShardId,
        log_size_bytes_max: u64,
        writes_in_flight: usize,
        durability: Durability,
    ) -> WalConfig {
        WalConfig {
            key: self.log_key(shard),
            boot_epoch: self.boot_epoch,
            segment_size_bytes: self.segment_size_bytes(),
            log_size_bytes_max,
            writes_in_flight,
            durability,
        }
    }

    /// Whether a log that may become `log_size_bytes_max` long has room for the segment that each
    /// boot begins: without it a shard would wait for one for ever.
    ///
    /// # Errors
    /// If it hasn't, or if the directory's segments are too long for so small a log.
    pub fn check_log_size(
        &self,
        shard: ShardId,
        start: &WalStart,
        log_size_bytes_max: u64,
    ) -> Result<(), DataDirError> {
        let segment_count = u64_from(start.state.segments.len());
        let segment_size_bytes = self.current.segment_size_bytes;
        // The one that this boot begins. (Segments are let go when the next begins, for which the
        // log gets one beyond its bound.)
        let needed_count = (segment_count + 1).max(LOG_SEGMENT_COUNT_MIN);
        let needed_size_bytes = needed_count * segment_size_bytes;
        if log_size_bytes_max >= needed_size_bytes {
            return Ok(());
        }
        let path = self.shard_folder(shard);
        Err(DataDirError::LogTooSmall {
            path,
            segment_count,
            segment_size_bytes,
            // All shards together, as the setting says it.
            needed_size_bytes: needed_size_bytes * u64::from(self.current.shard_count),
        })
    }

    /// Reads a shard's log and makes what was found durable. Shards may be recovered in parallel.
    /// Partitions that must recover from other members are named: `storage::recovery` says when.
    ///
    /// # Errors
    /// If nothing that was applied may be served: it is damaged and the partitions have no other
    /// members, or it isn't to be touched.
    pub fn recover_shard(
        &self,
        shard: ShardId,
        apply: &mut impl Salvage,
    ) -> Result<ShardLog, DataDirError> {
        segments::recover_shard(self, shard, apply)
    }

    /// Folders are made with the directory: one that is missing was removed.
    fn check_folders(&self) -> Result<(), DataDirError> {
        for shard in 0..self.current.shard_count {
            let folder = self.shard_folder(ShardId(shard));
            if !folder.is_dir() {
                return Err(DataDirError::NoFolder { path: folder });
            }
        }
        Ok(())
    }
}

fn doing<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DataDirError + 'a {
    move |error| DataDirError::Io { doing, path: path.to_owned(), error }
}

fn shard_folder(path: &Path, generation: u64, shard: ShardId) -> PathBuf {
    path.join(format!("{GENERATION_PREFIX}{generation}")).join(format!("shard-{shard}"))
}

fn has_identity(path: &Path) -> Result<bool, DataDirError> {
    path.join(IDENTITY).try_exists().map_err(doing("looking into", path))
}

/// Takes the lock or says that somebody else has it.
fn lock(path: &Path, operation: FlockOperation) -> Result<File, DataDirError> {
    let file = path.join(LOCK);
    let write = matches!(operation, FlockOperation::NonBlockingLockExclusive);
    let lock = OpenOptions::new()
        .read(true)
        .write(write)
        .create(write)
        .truncate(false)
        .open(&file)
        .map_err(doing("opening", &file))?;
    match rustix::fs::flock(&lock, operation) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DataDirError::InUse { path: path.to_owned() }),
        Err(error) => Err(doing("locking", &file)(error.into())),
    }
}

/// Makes everything but IDENTITY, then IDENTITY. A crash in between leaves empty folders, which
/// the next start takes for what they are; folders with anything in them are somebody's logs.
fn initialise(options: &DataDirOptions) -> Result<(), DataDirError> {
    let path = &options.path;
    if let Some(found) = first_log_file(path)? {
        return Err(DataDirError::NoIdentity { path: path.clone(), found });
    }
    let current = Current {
        generation: FIRST_GENERATION,
        shard_count: options.shard_count,
        segment_size_bytes: u64_from(options.segment_size_bytes),
    };
    for shard in 0..options.shard_count {
        create_folder(&shard_folder(path, FIRST_GENERATION, ShardId(shard)))?;
    }
    let boot = Boot { boot_epoch: BootEpoch(0) };
    write_new(path, BOOT, &boot.encode(), RenameFlags::empty())?;
    write_new(path, CURRENT, &current.encode(), RenameFlags::empty())?;
    let identity = Identity {
        cluster: options.cluster.clone(),
        member: options.member().to_owned(),
        members: Members::of(&options.nodes),
        uuid: random_uuid()?,
        partition_count: options.partition_count.unwrap_or(options.partition_count_default),
        hash_key: random()?,
    };
    write_new(path, IDENTITY, &identity.encode(), RenameFlags::NOREPLACE)
}

/// The first file in a shard's folder of any generation.
fn first_log_file(path: &Path) -> Result<Option<PathBuf>, DataDirError> {
    for generation in folders(path, GENERATION_PREFIX)? {
        for shard in folders(&generation, "shard-")? {
            let mut files = fs::read_dir(&shard).map_err(doing("listing", &shard))?;
            if let Some(file) = files.next() {
                return Ok(Some(file.map_err(doing("listing", &shard))?.path()));
            }
        }
    }
    Ok(None)
}

fn folders(path: &Path, prefix: &str) -> Result<Vec<PathBuf>, DataDirError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(doing("listing", path))? {
        let entry = entry.map_err(doing("listing", path))?;
        if entry.file_name().to_string_lossy().starts_with(prefix) && entry.path().is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Makes a folder and those above it, each durably.
fn create_folder(path: &Path) -> Result<(), DataDirError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_folder(parent)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(doing("making", path)(error))
        }
        _ => sync_folder(parent),
    }
}

fn sync_folder(path: &Path) -> Result<(), DataDirError> {
    sync_directory(path).map_err(|error| doing("syncing", path)(error.into()))
}

/// A file that is there whole or not at all.
fn write_new(
    folder: &Path,
    name: &str,
    content: &[u8],
    flags: RenameFlags,
) -> Result<(), DataDirError> {
    let temporary = folder.join(format!("{name}.new"));
    let path = folder.join(name);
    fs::write(&temporary, content)
        .and_then(|()| File::open(&temporary)?.sync_all())
        .map_err(doing("writing", &temporary))?;
    let cwd = rustix::fs::CWD;
    rustix::fs::renameat_with(cwd, &temporary, cwd, &path, flags)
        .map_err(|error| doing("naming", &path)(error.into()))?;
    sync_folder(folder)
}

fn read_identity(path: &Path) -> Result<Identity, DataDirError> {
    let file = path.join(IDENTITY);
    let content = fs::read(&file).map_err(doing("reading", &file))?;
    Identity::decode(&content).map_err(|error| DataDirError::Identity { path: file, error })
}

fn read_current(path: &Path) -> Result<Current, DataDirError> {
    let file = path.join(CURRENT);
    let content = fs::read(&file).map_err(doing("reading", &file))?;
    Current::decode(&content).map_err(|error| DataDirError::Identity { path: file, error })
}

fn read_boot(path: &Path) -> Result<Boot, DataDirError> {
    let file = path.join(BOOT);
    let content = fs::read(&file).map_err(doing("reading", &file))?;
    Boot::decode(&content).map_err(|error| DataDirError::Identity { path: file, error })
}

/// One copy after the other, each durable before the next: whenever the power goes, one is whole.
fn raise_boot(path: &Path) -> Result<BootEpoch, DataDirError> {
    let boot = Boot { boot_epoch: read_boot(path)?.boot_epoch.next() };
    let file_path = path.join(BOOT);
    let content = boot.encode();
    assert_eq!(content.len(), FILE_SIZE_BYTES);
    let file =
        OpenOptions::new().write(true).open(&file_path).map_err(doing("opening", &file_path))?;
    for (copy, offset) in content.chunks(BLOCK_SIZE_BYTES).zip([0, u64_from(BLOCK_SIZE_BYTES)]) {
        file.write_all_at(copy, offset)
            .and_then(|()| file.sync_data())
            .map_err(doing("writing", &file_path))?;
    }
    Ok(boot.boot_epoch)
}

fn is_direct(file: &Path) -> Result<bool, DataDirError> {
    match open_to_read(file, true) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
        Err(error) => Err(doing("opening", file)(error)),
    }
}

/// A version 4 UUID.
fn random_uuid() -> Result<[u8; 16], DataDirError> {
    let mut uuid: [u8; 16] = random()?;
    uuid[6] = uuid[6] & 0x0F | 0x40;
    uuid[8] = uuid[8] & 0x3F | 0x80;
    Ok(uuid)
}

fn random_number() -> Result<u64, DataDirError> {
    Ok(low_u64(u128::from_le_bytes(random()?)))
}

pub(super) fn random() -> Result<[u8; 16], DataDirError> {
    let source = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    let mut file = File::open(source).map_err(doing("opening", source))?;
    io::Read::read_exact(&mut file, &mut bytes).map_err(doing("reading", source))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
