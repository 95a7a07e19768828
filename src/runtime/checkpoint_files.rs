//! A helper thread that writes checkpoints: chunk by chunk into a file without a name, which gets
//! its name when it is whole and durable.
//!
//! A thread of its own, for the reasons for which segments have theirs (`segment_workshop`), and
//! because a checkpoint that waits for its turn at the device must not keep the log waiting for
//! its next segment. After each write it pauses, so that it takes a quarter of the device at most.
//!
//! A file that is no longer needed is kept and written over by a later checkpoint: its blocks are
//! allocated already, and a filesystem that discards what is deleted would stall commits for as
//! long as the device takes to do it. What is kept beyond that is cut away in small steps.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use zerocopy::IntoBytes;

use super::clock::Clock;
use super::direct_io::{direct_flag, open_to_read, read_blocks_to_end};
use super::fatal::{Fatal, FatalReason};
use super::segment_workshop::{HELPER_NICE, PAUSE_FACTOR, SegmentPlace, sync_directory};
use crate::base::cast::u64_from;
use crate::base::limits::{CHECKPOINT_SPARE_COUNT_MAX, FILE_CUT_SIZE_BYTES};
use crate::storage::block::Block;
use crate::storage::checkpoint::{
    CHUNK_BLOCK_COUNT, CheckpointBlocks, CheckpointChunk, CheckpointId, CheckpointProgress,
    CheckpointStep, checkpoint_file_name,
};

/// What is being written.
const UNFINISHED: &str = "checkpoint.new";
/// How long to wait between two cuts of a file that goes away.
const CUT_PAUSE: Duration = Duration::from_millis(20);

/// The loop's end of the helper thread.
#[derive(Debug)]
pub struct CheckpointFiles {
    steps: Sender<CheckpointStep>,
    progress: Receiver<CheckpointProgress>,
}

impl CheckpointFiles {
    /// Starts the helper of one shard. `notify` is called after each result. To be called from a
    /// thread that isn't pinned: the helper inherits its cores.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(place: SegmentPlace, notify: impl Fn() + Send + 'static) -> Result<Self, Fatal> {
        let (steps, inbox) = channel();
        let (outbox, progress) = channel();
        let work = move || {
            // Without it the thread is only less considerate.
            let _ = rustix::process::setpriority_process(None, HELPER_NICE);
            let mut writer = Writer::new(place);
            while let Ok(step) = inbox.recv() {
                let Some(progress) = writer.take(step) else { continue };
                if outbox.send(progress).is_err() {
                    return;
                }
                notify();
            }
        };
        std::thread::Builder::new()
            .name("checkpoints".into())
            .spawn(work)
            .map_err(|error| Fatal::new(FatalReason::Environment, error))?;
        Ok(Self { steps, progress })
    }

    /// Begins a step.
    pub fn take(&mut self, step: CheckpointStep) {
        self.steps.send(step).expect("the helper lives as long as its shard");
    }

    /// The next result, if there is one.
    pub fn next_progress(&mut self) -> Option<CheckpointProgress> {
        self.progress.try_recv().ok()
    }
}

/// The checkpoint that is being written.
#[derive(Debug)]
struct Unfinished {
    id: CheckpointId,
    file: OwnedFd,
    /// How far it was written.
    size_bytes: u64,
}

/// What failed, and doing what.
struct Failure {
    step: &'static str,
    path: PathBuf,
    error: io::Error,
}

#[derive(Debug)]
struct Writer {
    place: SegmentPlace,
    clock: Clock,
    unfinished: Option<Unfinished>,
    /// Files to be written over.
    spares: Vec<PathBuf>,
    /// For their names.
    spares_ever_count: u64,
}

impl Writer {
    fn new(place: SegmentPlace) -> Self {
        let clock = Clock::start();
        Self { place, clock, unfinished: None, spares: Vec::new(), spares_ever_count: 0 }
    }

    /// Does a step. `None`: nobody waits for it.
    fn take(&mut self, step: CheckpointStep) -> Option<CheckpointProgress> {
        let (id, result) = match step {
            CheckpointStep::Begin(id) => (id, self.begin(id).map(|()| None)),
            // What was begun has failed, and said so.
            CheckpointStep::Write(_) | CheckpointStep::Finish if self.unfinished.is_none() => {
                return None;
            }
            CheckpointStep::Write(chunk) => {
                let id = self.unfinished.as_ref()?.id;
                (id, self.write(chunk).map(Some))
            }
            CheckpointStep::Finish => {
                let unfinished = self.unfinished.take()?;
                let id = unfinished.id;
                let finished = self.finish(unfinished);
                (id, finished.map(|()| Some(CheckpointProgress::Finished(id))))
            }
            CheckpointStep::Remove(id) => {
                self.remove(id);
                return None;
            }
            CheckpointStep::Read(read) => {
                let path = self.place.directory.join(checkpoint_file_name(read.id));
                let blocks = read_chunk(&path, self.place.direct, read.offset());
                if let Err(error) = &blocks {
                    tracing::error!(path = %path.display(), %error, "a checkpoint can't be read");
                }
                // Gone or unreadable: whoever wanted it takes another one.
                let blocks = blocks.ok().flatten();
                return Some(CheckpointProgress::Read(CheckpointBlocks { read, blocks }));
            }
        };
        match result {
            Ok(progress) => progress,
            Err(Failure { step, path, error }) => {
                let (partition, path) = (id.partition, path.display());
                tracing::error!(%partition, %path, %error, "a checkpoint failed: can't {step}");
                self.unfinished = None;
                // What it has taken may be all that there was: the log needs it more.
                let path = self.unfinished_path();
                if path.exists()
                    && let Err(error) = cut_away(&path)
                {
                    tracing::warn!(path = %path.display(), %error, "an unfinished file stays");
                }
                Some(CheckpointProgress::Failed(id))
            }
        }
    }

    fn unfinished_path(&self) -> PathBuf {
        self.place.directory.join(UNFINISHED)
    }

    fn begin(&mut self, id: CheckpointId) -> Result<(), Failure> {
        let path = self.unfinished_path();
        if let Some(spare) = self.spares.pop() {
            rustix::fs::rename(&spare, &path).map_err(failed("reuse", &spare))?;
        }
        let direct = direct_flag(self.place.direct);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | direct;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
        let file = rustix::fs::open(&path, flags, mode).map_err(failed("create", &path))?;
        self.unfinished = Some(Unfinished { id, file, size_bytes: 0 });
        Ok(())
    }

    fn write(&mut self, chunk: CheckpointChunk) -> Result<CheckpointProgress, Failure> {
        let path = self.unfinished_path();
        let unfinished = self.unfinished.as_mut().expect("asked by the caller");
        let begun = self.clock.monotonic();
        let CheckpointChunk { offset, blocks } = chunk;
        let bytes = blocks.as_slice().as_bytes();
        let written =
            rustix::io::pwrite(&unfinished.file, bytes, offset).map_err(failed("write", &path))?;
        if written != bytes.len() {
            return Err(failed("write", &path)(rustix::io::Errno::NOSPC));
        }
        unfinished.size_bytes = offset + u64_from(written);
        let taken = Duration::from_nanos(self.clock.monotonic().since_ns(begun));
        std::thread::park_timeout(taken * PAUSE_FACTOR);
        Ok(CheckpointProgress::Written(blocks))
    }

    fn finish(&mut self, unfinished: Unfinished) -> Result<(), Failure> {
        let Unfinished { id, file, size_bytes } = unfinished;
        let path = self.unfinished_path();
        // What it was written over may have been longer.
        cut_to(&file, size_bytes).map_err(failed("cut", &path))?;
        rustix::fs::fsync(&file).map_err(failed("sync", &path))?;
        drop(file);
        let named = self.place.directory.join(checkpoint_file_name(id));
        rustix::fs::rename(&path, &named).map_err(failed("name", &named))?;
        if let Err(error) = sync_directory(&self.place.directory) {
            // Nobody will ever know of it.
            self.remove(id);
            return Err(failed("sync the directory of", &named)(error));
        }
        Ok(())
    }

    /// Takes a file's name away; what it holds may be written over.
    fn remove(&mut self, id: CheckpointId) {
        let path = self.place.directory.join(checkpoint_file_name(id));
        self.spares_ever_count += 1;
        let spare = self.place.directory.join(format!("spare-{}.new", self.spares_ever_count));
        if let Err(error) = rustix::fs::rename(&path, &spare) {
            // The next start removes it.
            tracing::warn!(path = %path.display(), %error, "an old checkpoint stays");
            return;
        }
        self.spares.push(spare);
        if self.spares.len() > CHECKPOINT_SPARE_COUNT_MAX {
            let oldest = self.spares.remove(0);
            if let Err(error) = cut_away(&oldest) {
                tracing::warn!(path = %oldest.display(), %error, "an old checkpoint stays");
            }
        }
    }
}

/// The blocks of a checkpoint's chunk, as far as the file goes; none if the file is gone.
fn read_chunk(file: &Path, direct: bool, offset: u64) -> io::Result<Option<Vec<Block>>> {
    let file = match open_to_read(file, direct) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut blocks = vec![Block::ZERO; CHUNK_BLOCK_COUNT];
    let count = read_blocks_to_end(&file, offset, &mut blocks)?;
    blocks.truncate(count);
    Ok(Some(blocks))
}

/// Deletes a file, bit by bit.
fn cut_away(path: &Path) -> rustix::io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    cut_to(&file, 0)?;
    rustix::fs::unlink(path)
}

/// Cuts a file bit by bit, so that a filesystem that discards what is freed never has much to
/// discard at once.
fn cut_to(file: &OwnedFd, size_bytes: u64) -> rustix::io::Result<()> {
    let mut size = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
    while size > size_bytes {
        size = size.saturating_sub(u64_from(FILE_CUT_SIZE_BYTES)).max(size_bytes);
        rustix::fs::ftruncate(file, size)?;
        std::thread::park_timeout(CUT_PAUSE);
    }
    Ok(())
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(rustix::io::Errno) -> Failure {
    let path = path.to_path_buf();
    move |error| Failure { step, path, error: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{Index, PartitionId};
    use crate::base::limits::SEGMENT_SIZE_BYTES_MIN;
    use crate::runtime::segment_workshop::takes_direct_io;
    use crate::storage::block::Block;

    fn id(index: u64) -> CheckpointId {
        CheckpointId { partition: PartitionId(2), index: Index(index) }
    }

    fn writer(directory: &Path) -> Writer {
        Writer::new(SegmentPlace {
            directory: directory.into(),
            segment_size_bytes: SEGMENT_SIZE_BYTES_MIN,
            direct: takes_direct_io(directory).expect("a directory"),
            scrub: None,
        })
    }

    fn write(writer: &mut Writer, number: u64, fill: u8) -> Option<CheckpointProgress> {
        let blocks = vec![Block([fill; 4_096])];
        writer.take(CheckpointStep::Write(CheckpointChunk { offset: number * 4_096, blocks }))
    }

    fn checkpoint(writer: &mut Writer, index: u64, block_count: u64) {
        assert!(writer.take(CheckpointStep::Begin(id(index))).is_none());
        for number in 0..block_count {
            let progress = write(writer, number, 7);
            assert!(matches!(progress, Some(CheckpointProgress::Written(_))), "{progress:?}");
        }
        let progress = writer.take(CheckpointStep::Finish);
        assert!(matches!(progress, Some(CheckpointProgress::Finished(done)) if done == id(index)));
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).expect("a list");
        let name = |entry: io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name();
        let mut names: Vec<_> =
            entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn checkpoint_has_its_name_only_when_it_is_finished() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut writer = writer(directory.path());
        writer.take(CheckpointStep::Begin(id(5)));
        write(&mut writer, 0, 1);
        assert_eq!(names(directory.path()), [UNFINISHED]);
        checkpoint(&mut writer, 6, 3);
        let name = checkpoint_file_name(id(6));
        assert_eq!(names(directory.path()), [name.as_str()]);
        let bytes = std::fs::read(directory.path().join(name)).expect("the file");
        assert_eq!(bytes, vec![7; 3 * 4_096]);
    }

    #[test]
    fn removed_one_is_written_over_and_few_are_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut writer = writer(directory.path());
        let count = u64_from(CHECKPOINT_SPARE_COUNT_MAX) + 3;
        for index in 1..=count {
            checkpoint(&mut writer, index, 4);
        }
        for index in 1..=count {
            writer.take(CheckpointStep::Remove(id(index)));
        }
        assert_eq!(names(directory.path()).len(), CHECKPOINT_SPARE_COUNT_MAX);
        checkpoint(&mut writer, 100, 1);
        assert_eq!(names(directory.path()).len(), CHECKPOINT_SPARE_COUNT_MAX);
        let path = directory.path().join(checkpoint_file_name(id(100)));
        let size = std::fs::metadata(path).expect("the file").len();
        assert_eq!(size, 4_096, "no longer than what was written");
    }

    #[test]
    fn failed_step_is_reported_once_and_the_next_checkpoint_begins_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut writer = writer(directory.path());
        writer.take(CheckpointStep::Begin(id(5)));
        // Not aligned, or on a read-only file: it fails either way.
        let read_only = std::fs::File::open(directory.path().join(UNFINISHED)).expect("the file");
        writer.unfinished = Some(Unfinished { id: id(5), file: read_only.into(), size_bytes: 0 });
        let failed = write(&mut writer, 0, 1);
        assert!(matches!(failed, Some(CheckpointProgress::Failed(found)) if found == id(5)));
        assert!(write(&mut writer, 1, 1).is_none());
        assert!(writer.take(CheckpointStep::Finish).is_none());
        checkpoint(&mut writer, 6, 1);
    }
}
