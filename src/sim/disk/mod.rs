//! A node's simulated disk: its data directory, how long everything takes, and what can be wrong.
//!
//! What a completed write has written is durable; a write under way when the process or the power
//! goes is there, isn't, or is there in part ([`Folder::tear`]). Damage is done only to what the
//! log can know to have been complete: a block that nothing written later vouches for can't be told
//! from the tail of a crash, by anybody.

mod damage;
mod folder;
mod source;

use std::collections::BTreeMap;

pub use self::folder::{Crash, Folder};
pub use self::source::{CheckpointReader, SegmentReader};
use super::swarm::DiskWeather;
use crate::base::cast::u64_from;
use crate::base::ids::{BootEpoch, ShardId};
use crate::base::limits::BLOCK_SIZE_BYTES;
use crate::base::mutant::{self, Mutant};
use crate::base::prng::Prng;
use crate::base::time::{Monotonic, NS_PER_MS};
use crate::storage::block::LogKey;
use crate::storage::identity::{Boot, Current, Identity, IdentityError, log_salt};

/// How much longer everything takes on a slow disk.
const SLOW_FACTOR: u64 = 30;
/// How much longer an operation takes once in a while.
const HICCUP_FACTOR: u64 = 20;
/// What a disk takes for each byte.
const PS_PER_BYTE: u64 = 1_000;

/// A defect that is planted in the disk or its host, to show that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// Writes are said to be durable that a loss of power takes away.
    AcknowledgesBeforeDurable,
    /// A failed write is said to be durable.
    IgnoresWriteErrors,
    /// A command that goes to another shard gets there twice.
    ForwardsTwice,
}

/// What becomes of a write of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFate {
    /// It is durable.
    Done,
    /// It fails; what of it is there nobody knows.
    Fails,
    /// The same, but its host doesn't notice: a planted defect.
    FailsSilently,
}

/// What lies on a disk. An image of it shares what it can with others.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// The file IDENTITY; empty: the directory was never made.
    pub identity: Vec<u8>,
    /// The file BOOT.
    pub boot: Vec<u8>,
    /// The file CURRENT.
    pub current: Vec<u8>,
    /// The shards' folders, of each generation.
    pub folders: BTreeMap<(u64, ShardId), Folder>,
}

/// Why a data directory can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryError {
    /// Which of its files.
    pub file: &'static str,
    /// What is wrong with it.
    pub error: IdentityError,
}

/// What a data directory says of itself.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Whose it is.
    pub identity: Identity,
    /// How it is laid out.
    pub current: Current,
    /// This boot.
    pub boot_epoch: BootEpoch,
}

impl Opened {
    /// Whose blocks a shard's are.
    #[must_use]
    pub fn log_key(&self, shard: ShardId) -> LogKey {
        LogKey { shard, salt: log_salt(&self.identity.uuid, self.current.generation) }
    }
}

/// A node's disk.
#[derive(Debug)]
pub struct Disk {
    /// What lies on it.
    pub directory: Directory,
    pub(super) prng: Prng,
    weather: DiskWeather,
    slow_until: Monotonic,
    /// There is no room.
    is_full: bool,
    /// The next write of the log fails.
    fails_write: bool,
    /// So many reads of a start fail.
    failing_reads_count: u32,
    /// Something durable was damaged: a start that is refused for it is right.
    is_damaged: bool,
    plant: Option<Plant>,
}

impl Disk {
    /// An empty disk.
    #[must_use]
    pub fn new(seed: u64, salt: &str, weather: DiskWeather, plant: Option<Plant>) -> Self {
        Self {
            directory: Directory::default(),
            prng: Prng::new(seed, salt),
            weather,
            slow_until: Monotonic(0),
            is_full: false,
            fails_write: false,
            failing_reads_count: 0,
            is_damaged: false,
            plant,
        }
    }

    /// Makes the data directory, if it isn't there.
    pub fn initialise(&mut self, identity: &Identity, current: Current) {
        if self.directory.identity.is_empty() {
            for shard in (0..current.shard_count).map(ShardId) {
                self.directory.folders.insert((current.generation, shard), Folder::default());
            }
            self.directory.boot = Boot { boot_epoch: BootEpoch(0) }.encode();
            self.directory.current = current.encode();
            self.directory.identity = identity.encode();
        }
    }

    /// Opens the data directory as a start does: the boot epoch is raised, durably, and generations
    /// that CURRENT doesn't name are removed.
    ///
    /// # Errors
    /// If one of its files isn't what was written.
    pub fn open(&mut self) -> Result<Opened, DirectoryError> {
        let Directory { identity, boot, current, folders } = &mut self.directory;
        let failed = |file| move |error| DirectoryError { file, error };
        let identity = Identity::decode(identity).map_err(failed("IDENTITY"))?;
        let current = Current::decode(current).map_err(failed("CURRENT"))?;
        let boot_epoch = Boot::decode(boot).map_err(failed("BOOT"))?.boot_epoch.next();
        *boot = Boot { boot_epoch }.encode();
        folders.retain(|(generation, _), _| *generation == current.generation);
        Ok(Opened { identity, current, boot_epoch })
    }

    /// The process was stopped while it raised the boot epoch: one copy of it may be new, and torn.
    pub fn tear_boot(&mut self) {
        let Ok(Boot { boot_epoch }) = Boot::decode(&self.directory.boot) else { return };
        let raised = Boot { boot_epoch: boot_epoch.next() }.encode();
        let cut = usize::try_from(self.prng.below(u64_from(BLOCK_SIZE_BYTES))).unwrap_or(0);
        // The first copy is durable before the second one is written.
        let (from, to) = match self.prng.below(3) {
            0 => (0, cut),
            1 => (0, BLOCK_SIZE_BYTES + cut),
            _ => (0, raised.len()),
        };
        self.directory.boot[from..to].copy_from_slice(&raised[from..to]);
    }

    /// A shard's folder.
    ///
    /// # Panics
    /// If there is none: folders are made with their generation.
    pub fn folder(&mut self, generation: u64, shard: ShardId) -> &mut Folder {
        self.directory.folders.get_mut(&(generation, shard)).expect("made with its generation")
    }

    /// How long an operation takes that begins now.
    pub fn latency_ns(&mut self, now: Monotonic, size_bytes: usize) -> u64 {
        let DiskWeather { latency_ns, jitter_ns, hiccup_one_in } = self.weather;
        let usual = latency_ns + self.prng.below(jitter_ns + 1);
        let usual = usual + u64_from(size_bytes) * PS_PER_BYTE / 1_000;
        let hiccup = if self.prng.one_in(hiccup_one_in) { HICCUP_FACTOR } else { 1 };
        let slow = if now < self.slow_until { SLOW_FACTOR } else { 1 };
        // However bad it is, an operation ends: what never does is a broken disk.
        (usual * hiccup * slow).min(2_000 * NS_PER_MS)
    }

    /// Everything takes long until then.
    pub fn slow_down(&mut self, until: Monotonic) {
        self.slow_until = self.slow_until.max(until);
    }

    /// There is room, or there isn't.
    pub const fn set_full(&mut self, is_full: bool) {
        self.is_full = is_full;
    }

    /// Whether there is no room for anything new.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.is_full
    }

    /// Bytes that are left.
    #[must_use]
    pub const fn left_size_bytes(&self) -> u64 {
        if self.is_full { 0 } else { 1 << 40 }
    }

    /// The next write of the log will fail.
    pub const fn fail_write(&mut self) {
        self.fails_write = true;
    }

    /// What becomes of the write of the log that ends now.
    pub fn write_fate(&mut self) -> WriteFate {
        let is_noticed =
            self.plant != Some(Plant::IgnoresWriteErrors) && !mutant::is(Mutant::WriteErrorIgnored);
        match (std::mem::take(&mut self.fails_write), is_noticed) {
            (false, _) => WriteFate::Done,
            (true, false) => WriteFate::FailsSilently,
            (true, true) => WriteFate::Fails,
        }
    }

    /// So many reads of the next start will fail.
    pub const fn fail_reads(&mut self, count: u32) {
        self.failing_reads_count = count;
    }

    /// Whether a write or a read is to fail.
    #[must_use]
    pub const fn will_fail(&self) -> bool {
        self.fails_write || self.failing_reads_count > 0
    }

    /// Everything works again.
    pub const fn heal(&mut self) {
        self.slow_until = Monotonic(0);
        self.is_full = false;
        self.fails_write = false;
        self.failing_reads_count = 0;
    }

    /// Whether something durable was damaged.
    #[must_use]
    pub const fn is_damaged(&self) -> bool {
        self.is_damaged
    }

    /// Whether what is acknowledged may still be lost.
    #[must_use]
    pub fn lies(&self) -> bool {
        self.plant == Some(Plant::AcknowledgesBeforeDurable)
    }

    /// Whether a command for another shard gets there twice.
    #[must_use]
    pub fn forwards_twice(&self) -> bool {
        self.plant == Some(Plant::ForwardsTwice)
    }

    /// The process has ended without a word.
    pub fn on_crash(&mut self, crash: Crash) {
        for folder in self.directory.folders.values_mut() {
            folder.on_crash(crash, &mut self.prng);
        }
    }

    /// The disk is gone, and an empty one is in its place.
    pub fn lose(&mut self) {
        self.directory = Directory::default();
        self.is_damaged = false;
    }

    /// An image of what lies on it.
    #[must_use]
    pub fn image(&self) -> Directory {
        self.directory.clone()
    }

    /// What lies on it is what an image says.
    pub fn roll_back(&mut self, image: Directory) {
        self.directory = image;
    }
}

#[cfg(test)]
mod tests;
