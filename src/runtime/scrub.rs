//! A helper thread that reads a shard's files once in a while and checks what is there. It takes a
//! small part of the device and the lowest priority: nothing waits for it.
//!
//! Which segments count changes while they are read: one may be let go and used again. Then its
//! file has another name before anything is written to it, so what is found under its old name, or
//! in a file that has lost it meanwhile, is no damage.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::clock::Clock;
use super::direct_io::{open_to_read, read_blocks, read_blocks_to_end};
use super::disk::ask_for_idle_io;
use super::fatal::{Fatal, FatalReason};
use super::segment_workshop::SegmentPlace;
use crate::base::cast::u64_from;
use crate::base::ids::{PartitionId, SegmentId};
use crate::base::limits::{CHECKPOINT_CHUNK_SIZE_BYTES, WRITE_BATCH_SIZE_BYTES_MAX};
use crate::base::time::NS_PER_S;
use crate::storage::block::{Block, LogKey, offset_of};
use crate::storage::checkpoint::{
    CHUNK_BLOCK_COUNT, CheckpointId, check_chunk, checkpoint_of_file_name,
};
use crate::storage::error::Damage;
use crate::storage::record::LiveSegment;
use crate::storage::scrub::{Scrubbed, SegmentScrub};

/// Blocks that are read at once.
const READ_BLOCK_COUNT: usize = WRITE_BATCH_SIZE_BYTES_MAX / size_of::<Block>();
/// After each read the thread pauses so many times as long as it took: a tenth of the device.
const PAUSE_FACTOR: u32 = 9;
/// The lowest priority.
const NICE: i32 = 19;

/// How a shard's files are scrubbed.
#[derive(Clone, Copy, Debug)]
pub struct ScrubOptions {
    /// Whose blocks they are.
    pub key: LogKey,
    /// How often; the first time after so long.
    pub interval: Duration,
}

/// What the scrubber has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubNews {
    /// It is time: it wants to know which segments count.
    Due,
    /// A segment is damaged.
    Segment(SegmentId),
    /// A partition's checkpoint is damaged.
    Checkpoint(PartitionId),
}

/// The loop's end of the thread.
#[derive(Debug)]
pub(super) struct Scrubber {
    jobs: Sender<Vec<LiveSegment>>,
}

impl Scrubber {
    /// Starts the scrubber of one shard; `say` says whether anybody listens still.
    pub(super) fn start(
        place: SegmentPlace,
        options: ScrubOptions,
        say: impl Fn(ScrubNews) -> bool + Send + 'static,
    ) -> Result<Self, Fatal> {
        let (jobs, inbox) = channel();
        std::thread::Builder::new()
            .name("scrub".into())
            .spawn(move || Thread { place, options, say }.work(&inbox))
            .map_err(|error| Fatal::new(FatalReason::Environment, error))?;
        Ok(Self { jobs })
    }

    /// Tells which segments count: they are read now.
    pub(super) fn scrub(&self, segments: Vec<LiveSegment>) {
        // If the thread is gone the process is about to end.
        let _ = self.jobs.send(segments);
    }
}

struct Thread<F> {
    place: SegmentPlace,
    options: ScrubOptions,
    say: F,
}

/// Where a file isn't what was written.
#[derive(Debug)]
struct Found {
    offset: u64,
    what: String,
}

impl<F: Fn(ScrubNews) -> bool> Thread<F> {
    fn work(&self, inbox: &Receiver<Vec<LiveSegment>>) {
        // Without them the thread is only less considerate.
        let _ = rustix::process::setpriority_process(None, NICE);
        let _ = ask_for_idle_io();
        let mut asked = false;
        loop {
            match inbox.recv_timeout(self.options.interval) {
                Ok(segments) => {
                    asked = false;
                    self.scrub(&segments);
                }
                Err(RecvTimeoutError::Timeout) if asked => {}
                Err(RecvTimeoutError::Timeout) => {
                    asked = true;
                    if !(self.say)(ScrubNews::Due) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn scrub(&self, segments: &[LiveSegment]) {
        let clock = Clock::start();
        let mut damaged_count = 0;
        for &segment in segments {
            let path = self.place.path(segment.segment);
            if let Some(Found { offset, what }) = self.scrub_segment(segment, &path) {
                damaged_count += 1;
                tracing::error!(file = %path.display(), offset, what, "scrub: damaged");
                (self.say)(ScrubNews::Segment(segment.segment));
            }
        }
        let checkpoints = self.checkpoints();
        for (id, path) in &checkpoints {
            if let Some(Found { offset, what }) = self.scrub_checkpoint(*id, path) {
                damaged_count += 1;
                let file = path.display();
                tracing::error!(%file, offset, what, "scrub: a checkpoint is damaged");
                (self.say)(ScrubNews::Checkpoint(id.partition));
            }
        }
        let (segments, checkpoints) = (segments.len(), checkpoints.len());
        let s = clock.monotonic().0 / NS_PER_S;
        tracing::info!(segments, checkpoints, damaged_count, s, "scrubbed");
    }

    /// What is wrong with a segment, if anything is.
    fn scrub_segment(&self, segment: LiveSegment, path: &Path) -> Option<Found> {
        let file = match open_to_read(path, self.place.direct) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return Some(Found { offset: 0, what: error.to_string() }),
        };
        let opened = file.metadata().ok()?.ino();
        let mut scrub = SegmentScrub::new(self.options.key, segment);
        let mut blocks = vec![Block::ZERO; READ_BLOCK_COUNT];
        let block_count = self.place.segment_size_bytes / size_of::<Block>();
        loop {
            let clock = Clock::start();
            let next = scrub.next_block();
            let part = &mut blocks[..READ_BLOCK_COUNT.min(block_count - next)];
            let found = match read_blocks(&file, offset_of(next), part) {
                Err(error) => Some(Found { offset: offset_of(next), what: error.to_string() }),
                Ok(()) => match scrub.on_read(part) {
                    Scrubbed::Whole => return None,
                    Scrubbed::More if next + part.len() == block_count => {
                        let what = Damage::LostWrite.to_string();
                        Some(Found { offset: offset_of(block_count), what })
                    }
                    Scrubbed::More => None,
                    Scrubbed::Damaged { block, damage } => {
                        Some(Found { offset: offset_of(block), what: damage.to_string() })
                    }
                },
            };
            // What is read after the file has lost its name is another segment's.
            if std::fs::metadata(path).ok()?.ino() != opened {
                return None;
            }
            if found.is_some() {
                return found;
            }
            pause(&clock);
        }
    }

    /// The files of the folder that are checkpoints.
    fn checkpoints(&self) -> Vec<(CheckpointId, PathBuf)> {
        let Ok(entries) = std::fs::read_dir(&self.place.directory) else { return Vec::new() };
        let paths = entries.flatten().map(|entry| entry.path());
        let id = |path: &Path| path.file_name()?.to_str().and_then(checkpoint_of_file_name);
        paths.filter_map(|path| Some((id(&path)?, path))).collect()
    }

    /// What is wrong with a checkpoint, if anything is.
    fn scrub_checkpoint(&self, id: CheckpointId, path: &Path) -> Option<Found> {
        let mut blocks = vec![Block::ZERO; CHUNK_BLOCK_COUNT];
        for number in 0.. {
            let clock = Clock::start();
            let offset = u64::from(number) * u64_from(CHECKPOINT_CHUNK_SIZE_BYTES);
            let mut check = || {
                let file = open_to_read(path, self.place.direct).map_err(|e| e.to_string())?;
                let count = read_blocks_to_end(&file, offset, &mut blocks);
                let count = count.map_err(|error| error.to_string())?;
                let checked = check_chunk(self.options.key.salt, id, number, &blocks[..count]);
                checked.map(|(_, is_last)| is_last).map_err(|error| error.to_string())
            };
            match check() {
                Ok(true) => return None,
                Ok(false) => pause(&clock),
                // It was let go meanwhile, and is being written over: it loses its name first.
                Err(_) if !path.exists() => return None,
                Err(what) => return Some(Found { offset, what }),
            }
        }
        None
    }
}

fn pause(since: &Clock) {
    let taken = Duration::from_nanos(since.monotonic().0);
    std::thread::park_timeout(taken * PAUSE_FACTOR);
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use zerocopy::IntoBytes;

    use super::*;
    use crate::base::chain::Chain;
    use crate::base::ids::{Index, ShardId};
    use crate::base::limits::SEGMENT_SIZE_BYTES_MIN;
    use crate::base::time::{Monotonic, Timestamp};
    use crate::storage::checkpoint::{CheckpointEncoder, CheckpointHead, checkpoint_file_name};
    use crate::storage::record::ShardSnapshot;
    use crate::storage::wal::{Durability, Wal, WalConfig, WalStart};

    const KEY: LogKey = LogKey { shard: ShardId(0), salt: 3 };

    /// A directory with segment 1 as the log writes it, and what the log says of it.
    fn written(directory: &Path) -> LiveSegment {
        let config = WalConfig {
            key: KEY,
            boot_epoch: crate::base::ids::BootEpoch(1),
            segment_size_bytes: SEGMENT_SIZE_BYTES_MIN,
            log_size_bytes_max: 1 << 30,
            writes_in_flight: 1,
            durability: Durability::Sync,
        };
        let start = WalStart {
            state: ShardSnapshot::default(),
            next_segment: SegmentId(1),
            ..WalStart::default()
        };
        let mut wal = Wal::open(config, start);
        let wanted = wal.wants_segment(Monotonic(0)).expect("the first");
        wal.on_segment_prepared(wanted.segment);
        let write = wal.poll_write(Monotonic(0)).expect("the first batch");
        let mut bytes = vec![0; SEGMENT_SIZE_BYTES_MIN];
        bytes[..write.blocks.as_bytes().len()].copy_from_slice(write.blocks.as_bytes());
        let place = place(directory);
        std::fs::write(place.path(SegmentId(1)), bytes).expect("a segment");
        LiveSegment { segment: SegmentId(1), last_batch: write.batch }
    }

    fn place(directory: &Path) -> SegmentPlace {
        SegmentPlace {
            directory: directory.into(),
            segment_size_bytes: SEGMENT_SIZE_BYTES_MIN,
            direct: false,
            scrub: None,
        }
    }

    /// A scrubber of a directory, which says what it finds to `say`.
    fn thread<F: Fn(ScrubNews) -> bool>(directory: &Path, say: F) -> Thread<F> {
        let options = ScrubOptions { key: KEY, interval: Duration::from_secs(1) };
        Thread { place: place(directory), options, say }
    }

    /// Scrubs once and says what was said.
    fn scrub(directory: &Path, segments: &[LiveSegment]) -> Vec<ScrubNews> {
        let said = Mutex::new(Vec::new());
        let say = |news| {
            said.lock().expect("nobody panicked").push(news);
            true
        };
        thread(directory, say).scrub(segments);
        said.into_inner().expect("nobody panicked")
    }

    #[test]
    fn whole_segment_is_nothing_to_speak_of_and_a_flipped_bit_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let segment = written(directory.path());
        assert_eq!(scrub(directory.path(), &[segment]), []);
        let path = place(directory.path()).path(SegmentId(1));
        let mut bytes = std::fs::read(&path).expect("the segment");
        bytes[77] ^= 1;
        std::fs::write(&path, bytes).expect("the segment");
        assert_eq!(scrub(directory.path(), &[segment]), [ScrubNews::Segment(SegmentId(1))]);
    }

    #[test]
    fn segment_that_was_cut_is_damaged_and_one_that_is_another_by_now_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let segment = written(directory.path());
        let place = place(directory.path());
        let path = place.path(SegmentId(1));
        let file = std::fs::OpenOptions::new().write(true).open(&path).expect("the segment");
        file.set_len(100).expect("cut");
        assert_eq!(scrub(directory.path(), &[segment]), [ScrubNews::Segment(SegmentId(1))]);
        std::fs::rename(&path, place.path(SegmentId(5))).expect("another name");
        assert_eq!(scrub(directory.path(), &[segment]), []);
    }
    #[test]
    fn flipped_bit_of_a_checkpoint_is_found_and_a_file_that_is_gone_is_passed_over() {
        let directory = tempfile::tempdir().expect("a directory");
        let id = CheckpointId { partition: PartitionId(2), index: Index(5) };
        let (timestamp, chain) = (Timestamp(1), Chain::NONE);
        let head = CheckpointHead { id, timestamp, chain, digest: [0; 16] };
        let mut encoder = CheckpointEncoder::new(KEY.salt, &head);
        encoder.body().extend_from_slice(&vec![3; 600_000]);
        encoder.end();
        let mut whole = Vec::new();
        while let Some(chunk) = encoder.next_chunk(Vec::new()) {
            whole.extend_from_slice(chunk.blocks.as_slice().as_bytes());
        }
        let path = directory.path().join(checkpoint_file_name(id));
        std::fs::write(directory.path().join("spare-1.new"), "no checkpoint").expect("a file");
        std::fs::write(&path, &whole).expect("a file");
        assert_eq!(scrub(directory.path(), &[]), []);
        let scrubber = thread(directory.path(), |_| true);
        assert_eq!(scrubber.checkpoints(), [(id, path.clone())]);
        let chunk = CHECKPOINT_CHUNK_SIZE_BYTES;
        for (flipped, offset) in [(77, 0), (300_000, chunk), (2 * chunk + 99, 2 * chunk)] {
            let mut bytes = whole.clone();
            bytes[flipped] ^= 1;
            std::fs::write(&path, &bytes).expect("a file");
            assert_eq!(scrub(directory.path(), &[]), [ScrubNews::Checkpoint(PartitionId(2))]);
            let found = scrubber.scrub_checkpoint(id, &path).expect("it is damaged");
            assert_eq!(found.offset, u64_from(offset));
        }
        std::fs::write(&path, &whole[..2 * chunk]).expect("a file");
        let found = scrubber.scrub_checkpoint(id, &path).expect("its end is missing");
        assert_eq!(found.offset, u64_from(2 * chunk));
        std::fs::remove_file(&path).expect("it was there");
        assert!(scrubber.scrub_checkpoint(id, &path).is_none(), "it is gone: no damage");
    }
}
