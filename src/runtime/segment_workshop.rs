//! A helper thread that makes segments ready to be written: created, allocated, *zero-filled*,
//! synced and durable in their directory. A synced write into a file that isn't costs milliseconds.
//! A segment that the log doesn't need any more is all of that but for its name: renamed, it is the
//! next one. The thread also reads old segments for the log, and looks how much room is left.
//!
//! It is a thread and not operations of the core's ring because allocation and syncs block:
//! io_uring hands them to kernel workers that are pinned to the loop's core and fight with it. The
//! thread is free to run on any core, at a lower priority, and takes pauses so that commits in
//! between find the device free.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use zerocopy::IntoBytes;

use super::clock::Clock;
use super::direct_io::{direct_flag, open_to_read, read_blocks};
use super::fatal::{Fatal, FatalReason};
use super::scrub::{ScrubNews, ScrubOptions, Scrubber};
use crate::base::cast::{u64_from, usize_from_u32};
use crate::base::ids::SegmentId;
use crate::base::limits::{
    BLOCK_SIZE_BYTES, SEGMENT_SIZE_BYTES_MAX, SEGMENT_SIZE_BYTES_MIN, WRITE_BATCH_SIZE_BYTES_MAX,
};
use crate::shard::SegmentBlocks;
use crate::storage::block::{Block, offset_of};
use crate::storage::carry::SegmentRead;
use crate::storage::record::LiveSegment;
use crate::storage::segment_name::{PREPARING_SUFFIX, segment_file_name};
use crate::storage::wal::{FreeSegment, SegmentWanted};

/// After each slice the thread pauses this many times as long as the slice took, so that a segment
/// costs a quarter of the device. The first segment is filled without pauses: nobody writes yet.
pub(super) const PAUSE_FACTOR: u32 = 3;
/// A lower priority than the loops', but not the lowest: with it a thread hardly runs at all where
/// every core spins, and the log would wait for its next segment.
pub(super) const HELPER_NICE: i32 = 5;
/// How long to wait, and how often, when the system is short of descriptors or memory: some
/// seconds in all, many times as long as a burst of connections takes to be turned away.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(10);
const SHORTAGE_RETRY_COUNT_MAX: usize = 500;

/// How often to look how much room is left.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);
/// A change of it that is worth telling.
const SPACE_STEP_BYTES: u64 = 1 << 20;

/// Where a shard's segments lie.
#[derive(Clone, Debug)]
pub struct SegmentPlace {
    /// The directory; it exists.
    pub directory: PathBuf,
    /// The size of every segment.
    pub segment_size_bytes: usize,
    /// Whether direct I/O is used; [`takes_direct_io`] says whether it can be.
    pub direct: bool,
    /// How they are scrubbed, if they are.
    pub scrub: Option<ScrubOptions>,
}

impl SegmentPlace {
    /// The path of a segment.
    #[must_use]
    pub fn path(&self, segment: SegmentId) -> PathBuf {
        self.directory.join(segment_file_name(segment))
    }

    /// The path of a segment that isn't ready.
    #[must_use]
    pub fn preparing_path(&self, segment: SegmentId) -> PathBuf {
        self.directory.join(segment_file_name(segment) + PREPARING_SUFFIX)
    }

    fn open_flags(&self) -> OFlags {
        OFlags::WRONLY | OFlags::CLOEXEC | direct_flag(self.direct)
    }
}

/// Finds out whether a directory's filesystem takes direct I/O, by trying.
///
/// # Errors
/// If no file can be made there.
pub fn takes_direct_io(directory: &Path) -> io::Result<bool> {
    let path = directory.join("probe.preparing");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    drop(rustix::fs::open(&path, flags, mode)?);
    let direct = match rustix::fs::open(&path, flags | OFlags::DIRECT, mode) {
        Ok(file) => rustix::io::pwrite(&file, zero_blocks(1).as_bytes(), 0).is_ok(),
        Err(_) => false,
    };
    rustix::fs::unlink(&path)?;
    Ok(direct)
}

/// Why a segment could not be made ready.
#[derive(Debug)]
pub struct PrepareError {
    path: PathBuf,
    step: &'static str,
    error: io::Error,
}

impl PrepareError {
    /// Whether the system was short of something that comes back by itself: a burst of connections
    /// takes more descriptors than they may keep, until those beyond the limit are closed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        let shortages = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EAGAIN, libc::EINTR];
        self.error.raw_os_error().is_some_and(|code| shortages.contains(&code))
    }

    /// Whether there was no room: the node goes on, and refuses writes when its log is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self.error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

impl fmt::Display for PrepareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "can't {} {}: {}", self.step, self.path.display(), self.error)
    }
}

impl std::error::Error for PrepareError {}

/// A segment that became ready, or didn't.
#[derive(Debug)]
pub struct Prepared {
    /// Which.
    pub segment: SegmentId,
    /// Open for synced writes.
    pub file: Result<OwnedFd, PrepareError>,
}

/// What the helper has to say.
#[derive(Debug)]
pub enum News {
    /// A segment became ready, or didn't.
    Prepared(Prepared),
    /// Blocks were read, or can't be.
    Read(SegmentBlocks),
    /// So many bytes are left on the filesystem.
    Space(u64),
    /// The scrubber has something to say.
    Scrub(ScrubNews),
}

enum Job {
    Prepare(SegmentWanted),
    Read(SegmentRead),
}

/// The loop's end of the helper thread.
#[derive(Debug)]
pub struct Workshop {
    jobs: Sender<Job>,
    scrubber: Option<Scrubber>,
    news: Receiver<News>,
}

impl Workshop {
    /// Starts the helper of one shard. `notify` is called after each result. To be called from a
    /// thread that isn't pinned: the helper inherits its cores.
    ///
    /// # Errors
    /// If no thread can be started.
    ///
    /// # Panics
    /// If the segment size isn't one that the configuration allows.
    pub fn start(
        place: SegmentPlace,
        notify: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, Fatal> {
        let size = place.segment_size_bytes;
        assert!((SEGMENT_SIZE_BYTES_MIN..=SEGMENT_SIZE_BYTES_MAX).contains(&size));
        assert!(size.is_multiple_of(BLOCK_SIZE_BYTES));
        discard_unfinished(&place.directory);
        let (jobs, inbox) = channel();
        let (outbox, news) = channel();
        let notify = Arc::new(notify);
        let scrubber = place.scrub.map(|options| {
            let (outbox, notify) = (outbox.clone(), Arc::clone(&notify));
            let say = move |news| {
                let heard = outbox.send(News::Scrub(news)).is_ok();
                notify();
                heard
            };
            Scrubber::start(place.clone(), options, say)
        });
        let scrubber = scrubber.transpose()?;
        let helper = Helper { place, pause_factor: 0, told_space: None };
        std::thread::Builder::new()
            .name("segments".into())
            .spawn(move || helper.work(&inbox, &outbox, &*notify))
            .map_err(|error| Fatal::new(FatalReason::Environment, error))?;
        Ok(Self { jobs, scrubber, news })
    }

    /// Begins to prepare a segment.
    pub fn prepare(&mut self, wanted: SegmentWanted) {
        self.jobs.send(Job::Prepare(wanted)).expect("the helper lives as long as its shard");
    }

    /// Begins to read blocks of a segment.
    pub fn read(&mut self, read: SegmentRead) {
        self.jobs.send(Job::Read(read)).expect("the helper lives as long as its shard");
    }

    /// Begins to scrub: these segments count.
    pub fn scrub(&mut self, segments: Vec<LiveSegment>) {
        let scrubber = self.scrubber.as_ref().expect("who asks for segments scrubs them");
        scrubber.scrub(segments);
    }

    /// What the helper has to say next, if anything.
    pub fn next_news(&mut self) -> Option<News> {
        self.news.try_recv().ok()
    }
}

/// The helper's thread.
struct Helper {
    place: SegmentPlace,
    pause_factor: u32,
    /// What was said last of the room that is left.
    told_space: Option<u64>,
}

impl Helper {
    fn work(mut self, inbox: &Receiver<Job>, outbox: &Sender<News>, notify: &impl Fn()) {
        // Without it the thread is only less considerate.
        let _ = rustix::process::setpriority_process(None, HELPER_NICE);
        loop {
            let news = match inbox.recv_timeout(SPACE_INTERVAL) {
                Ok(job) => Some(self.run(job)),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            for news in news.into_iter().chain(self.space()) {
                if outbox.send(news).is_err() {
                    return;
                }
                notify();
            }
        }
    }

    fn run(&mut self, job: Job) -> News {
        match job {
            Job::Prepare(wanted) => {
                let file = patiently(|| prepare(&self.place, wanted, self.pause_factor));
                self.pause_factor = PAUSE_FACTOR;
                News::Prepared(Prepared { segment: wanted.segment, file })
            }
            Job::Read(read) => {
                let blocks = match self::read(&self.place, read) {
                    Ok(blocks) => Some(blocks),
                    Err(error) => {
                        let path = self.place.path(read.segment);
                        tracing::warn!(path = %path.display(), %error, "a segment can't be read");
                        None
                    }
                };
                News::Read(SegmentBlocks { read, blocks })
            }
        }
    }

    /// The room that is left, if that is news. (Where nobody can say, nobody is refused for it.)
    fn space(&mut self) -> Option<News> {
        let found = rustix::fs::statvfs(&self.place.directory).ok()?;
        let left = found.f_bavail.saturating_mul(found.f_frsize);
        let is_news = self.told_space.is_none_or(|told| told.abs_diff(left) >= SPACE_STEP_BYTES);
        is_news.then(|| {
            self.told_space = Some(left);
            News::Space(left)
        })
    }
}

fn read(place: &SegmentPlace, read: SegmentRead) -> io::Result<Vec<Block>> {
    let file = open_to_read(&place.path(read.segment), place.direct)?;
    let mut blocks = zero_blocks(read.block_count);
    read_blocks(&file, offset_of(read.first_block), &mut blocks)?;
    Ok(blocks)
}

/// Deletes segments that a former process didn't finish. What can't be deleted only takes room.
fn discard_unfinished(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.to_string_lossy().ends_with(PREPARING_SUFFIX)
            && let Err(error) = rustix::fs::unlink(&path)
        {
            tracing::warn!(path = %path.display(), %error, "an unfinished segment stays");
        }
    }
}

/// Tries again while the system is short of something that comes back by itself. The log goes on
/// gathering meanwhile; only what lasts is reported, for it makes the log refuse writes.
fn patiently<T>(mut attempt: impl FnMut() -> Result<T, PrepareError>) -> Result<T, PrepareError> {
    for _ in 0..SHORTAGE_RETRY_COUNT_MAX {
        match attempt() {
            Err(error) if error.is_transient() => std::thread::park_timeout(SHORTAGE_PAUSE),
            result => return result,
        }
    }
    attempt()
}

/// Makes a segment ready and opens it for synced writes.
fn prepare(
    place: &SegmentPlace,
    wanted: SegmentWanted,
    pause_factor: u32,
) -> Result<OwnedFd, PrepareError> {
    let SegmentWanted { segment, from } = wanted;
    let path = place.path(segment);
    let at = |step, path: &Path| {
        let path = path.to_path_buf();
        move |error: rustix::io::Errno| PrepareError { path, step, error: error.into() }
    };
    if open_ready(place, &path).is_none()
        && let Some(free) = from
    {
        reuse(place, free, segment).map_err(at("name", &path))?;
    }
    if let Some(file) = open_ready(place, &path) {
        // Whoever named it may have been stopped, or have failed, before the name was durable.
        sync_directory(&place.directory).map_err(at("sync the directory of", &path))?;
        return Ok(file);
    }
    let unfinished = place.preparing_path(segment);
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
    let create = place.open_flags() | OFlags::CREATE;
    let file = rustix::fs::open(&unfinished, create, mode).map_err(at("create", &unfinished))?;
    let size = u64_from(place.segment_size_bytes);
    rustix::fs::ftruncate(&file, size).map_err(at("size", &unfinished))?;
    match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size) {
        // Zero-filling allocates as well, only less contiguously.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
        Err(error) => return Err(at("allocate", &unfinished)(error)),
    }
    fill(&file, place.segment_size_bytes, pause_factor).map_err(at("fill", &unfinished))?;
    rustix::fs::fsync(&file).map_err(at("sync", &unfinished))?;
    drop(file);
    let synced = place.open_flags() | OFlags::DSYNC;
    let file = rustix::fs::open(&unfinished, synced, mode).map_err(at("open", &unfinished))?;
    rustix::fs::rename(&unfinished, &path).map_err(at("name", &path))?;
    sync_directory(&place.directory).map_err(at("sync the directory of", &path))?;
    Ok(file)
}

/// Gives the file of a free segment the name of the next one, or the name of one that is to be
/// filled with zeros. If it is gone, a new one is made.
fn reuse(place: &SegmentPlace, free: FreeSegment, segment: SegmentId) -> rustix::io::Result<()> {
    let to = if free.wipe { place.preparing_path(segment) } else { place.path(segment) };
    match rustix::fs::rename(place.path(free.segment), to) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A segment that has its name and its size: a free one that was renamed just now, one that a
/// former process prepared and never wrote, or one of this process whose directory could not be
/// synced. It holds zeros or blocks of former segments: recovery found nothing else in it, or it
/// would not be asked for.
fn open_ready(place: &SegmentPlace, path: &Path) -> Option<OwnedFd> {
    let synced = place.open_flags() | OFlags::DSYNC;
    let file = rustix::fs::open(path, synced, Mode::empty()).ok()?;
    let size = rustix::fs::fstat(&file).ok()?.st_size;
    (u64::try_from(size).ok()? == u64_from(place.segment_size_bytes)).then_some(file)
}

/// Makes the names in a directory durable.
///
/// # Errors
/// If the system says so.
pub fn sync_directory(directory: &Path) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::fsync(rustix::fs::open(directory, flags, Mode::empty())?)
}

fn fill(file: &OwnedFd, size: usize, pause_factor: u32) -> rustix::io::Result<()> {
    let clock = Clock::start();
    let zeros = zero_blocks(WRITE_BATCH_SIZE_BYTES_MAX / BLOCK_SIZE_BYTES);
    let mut offset = 0;
    while offset < size {
        let slice = &zeros.as_bytes()[..WRITE_BATCH_SIZE_BYTES_MAX.min(size - offset)];
        let begun = clock.monotonic();
        let written = rustix::io::pwrite(file, slice, u64_from(offset))?;
        if written == 0 || !written.is_multiple_of(BLOCK_SIZE_BYTES) {
            return Err(rustix::io::Errno::NOSPC);
        }
        offset += written;
        let taken = Duration::from_nanos(clock.monotonic().since_ns(begun));
        std::thread::park_timeout(taken * pause_factor);
    }
    Ok(())
}

fn zero_blocks(count: usize) -> Vec<Block> {
    vec![Block([0; BLOCK_SIZE_BYTES]); count]
}

const _: () = assert!(usize_from_u32(u32::MAX) > SEGMENT_SIZE_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    fn place(directory: &Path) -> SegmentPlace {
        SegmentPlace {
            directory: directory.into(),
            segment_size_bytes: SEGMENT_SIZE_BYTES_MIN,
            direct: takes_direct_io(directory).expect("a directory"),
            scrub: None,
        }
    }

    fn new_segment(segment: u64) -> SegmentWanted {
        SegmentWanted { segment: SegmentId(segment), from: None }
    }

    #[test]
    fn free_segment_becomes_the_next_one_by_its_name_and_is_wiped_only_if_it_must_be() {
        for wipe in [false, true] {
            let directory = tempfile::tempdir().expect("a directory");
            let place = place(directory.path());
            let former = vec![7; SEGMENT_SIZE_BYTES_MIN];
            std::fs::write(place.path(SegmentId(2)), &former).expect("a segment");
            let from = Some(FreeSegment { segment: SegmentId(2), wipe });
            let wanted = SegmentWanted { segment: SegmentId(9), from };
            prepare(&place, wanted, 0).expect("a segment");
            let bytes = std::fs::read(place.path(SegmentId(9))).expect("the segment");
            assert_eq!(bytes == former, !wipe);
            assert_eq!(bytes.iter().all(|byte| *byte == 0), wipe);
            assert_eq!(std::fs::read_dir(directory.path()).expect("a list").count(), 1);
            // Asked for again, because the directory couldn't be synced, say.
            prepare(&place, wanted, 0).expect("a segment");
            assert_eq!(std::fs::read(place.path(SegmentId(9))).expect("the segment"), bytes);
        }
    }

    #[test]
    fn free_segment_that_is_gone_is_made_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = place(directory.path());
        let from = Some(FreeSegment { segment: SegmentId(2), wipe: false });
        prepare(&place, SegmentWanted { segment: SegmentId(9), from }, 0).expect("a segment");
        assert!(place.path(SegmentId(9)).exists());
    }

    #[test]
    fn blocks_are_read_from_where_they_lie() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = place(directory.path());
        let bytes: Vec<u8> = (0..=255).cycle().step_by(4_097).take(64 << 10).collect();
        std::fs::write(place.path(SegmentId(2)), &bytes).expect("a segment");
        let segment = SegmentId(2);
        let at = |first_block, block_count| SegmentRead { segment, first_block, block_count };
        let blocks = read(&place, at(3, 5)).expect("blocks");
        assert_eq!(blocks.as_bytes(), &bytes[3 * BLOCK_SIZE_BYTES..8 * BLOCK_SIZE_BYTES]);
        read(&place, at(15, 2)).expect_err("it ends there");
    }

    #[test]
    fn segment_that_is_ready_has_its_size_is_zero_and_leaves_nothing_unfinished() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = place(directory.path());
        prepare(&place, new_segment(7), 0).expect("a segment");
        let bytes = std::fs::read(place.path(SegmentId(7))).expect("the segment");
        assert_eq!(bytes.len(), SEGMENT_SIZE_BYTES_MIN);
        assert!(bytes.iter().all(|byte| *byte == 0));
        assert_eq!(std::fs::read_dir(directory.path()).expect("a list").count(), 1);
    }

    #[test]
    fn unfinished_segment_of_a_crash_is_made_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = place(directory.path());
        let unfinished = place.preparing_path(SegmentId(7));
        std::fs::write(unfinished, b"old bytes").expect("a file");
        prepare(&place, new_segment(7), 0).expect("a segment");
        let bytes = std::fs::read(place.path(SegmentId(7))).expect("the segment");
        assert!(bytes.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn unfinished_segments_of_a_former_process_are_deleted_at_the_start() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = place(directory.path());
        let unfinished = place.preparing_path(SegmentId(7));
        std::fs::write(&unfinished, b"old bytes").expect("a file");
        std::fs::write(place.path(SegmentId(6)), b"a log").expect("a file");
        let _workshop = Workshop::start(place.clone(), || {}).expect("a helper");
        assert!(!unfinished.exists());
        assert!(place.path(SegmentId(6)).exists());
    }

    fn failure(code: i32) -> PrepareError {
        let error = io::Error::from_raw_os_error(code);
        PrepareError { path: "a segment".into(), step: "create", error }
    }

    #[test]
    fn shortage_of_descriptors_is_waited_out_and_other_errors_are_not() {
        let mut attempts = 0;
        let result = patiently(|| {
            attempts += 1;
            if attempts < 4 { Err(failure(libc::EMFILE)) } else { Ok(attempts) }
        });
        assert_eq!(result.expect("the shortage ended"), 4);
        for lasting in [libc::ENOSPC, libc::EIO, libc::EACCES] {
            let mut attempts = 0;
            let result: Result<(), _> = patiently(|| {
                attempts += 1;
                Err(failure(lasting))
            });
            result.expect_err("it doesn't pass by itself");
            assert_eq!(attempts, 1, "error {lasting}");
        }
    }

    #[test]
    fn absent_directory_is_an_error_that_names_path_and_step() {
        let place = SegmentPlace {
            directory: "/nonexistent".into(),
            segment_size_bytes: SEGMENT_SIZE_BYTES_MIN,
            direct: false,
            scrub: None,
        };
        let error = prepare(&place, new_segment(1), 0).expect_err("no directory");
        assert!(error.to_string().starts_with("can't create /nonexistent/"), "{error}");
        assert!(!error.is_full());
    }
}
