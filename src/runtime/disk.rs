//! The files of a shard's log: writes go through the core's own ring, new segments are made ready
//! by a helper thread.
//!
//! A segment is opened with `O_DIRECT | O_DSYNC`, so a write's completion means that it is durable.
//! Where the filesystem has no direct I/O, writes are buffered (`O_DSYNC` still holds), and the
//! start says so. A failed or short write is never tried again.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use slab::Slab;

use super::checkpoint_files::CheckpointFiles;
use super::core::Node;
use super::fatal::Fatal;
use super::scrub::ScrubNews;
use super::segment_workshop::{News, Prepared, SegmentPlace, Workshop};
use super::service::WriteError;
use super::uring::{Key, Uring};
use crate::base::cast::{u32_from, usize_from_u32};
use crate::base::ids::{BatchId, SegmentId};
use crate::base::limits::PREPARE_FAILURE_COUNT_MAX;
use crate::base::time::Monotonic;
use crate::metrics::histogram::Histogram;
use crate::shard::SegmentBlocks;
use crate::storage::block::{Block, SegmentWrite};
use crate::storage::carry::SegmentRead;
use crate::storage::checkpoint::{CheckpointProgress, CheckpointStep};
use crate::storage::record::LiveSegment;
use crate::storage::wal::SegmentWanted;

pub use super::segment_workshop::PrepareError;

/// A write in flight, without its blocks: those are lent to the ring.
#[derive(Debug)]
struct Pending {
    batch: BatchId,
    segment: SegmentId,
    offset: u64,
    size: usize,
    issued: Monotonic,
}

/// What comes of the helper's work.
#[derive(Debug)]
pub enum DiskNews {
    /// A segment is ready, or can't be.
    Prepared(SegmentId, Result<(), PrepareError>),
    /// Blocks were read.
    Read(SegmentBlocks),
    /// So many bytes are left.
    Space(u64),
    /// A step of a checkpoint was done.
    Checkpoint(CheckpointProgress),
    /// The scrubber has something to say.
    Scrub(ScrubNews),
}

/// The helpers of a shard with a log.
#[derive(Debug)]
pub struct Helpers {
    segments: Workshop,
    checkpoints: CheckpointFiles,
}

impl Helpers {
    /// Starts the helpers of one shard. `notify` is called after each of their results. To be
    /// called from a thread that isn't pinned: they inherit its cores.
    ///
    /// # Errors
    /// If no threads can be started.
    pub fn start(
        place: SegmentPlace,
        notify: impl Fn() + Clone + Send + Sync + 'static,
    ) -> Result<Self, Fatal> {
        let segments = Workshop::start(place.clone(), notify.clone())?;
        let checkpoints = CheckpointFiles::start(place, notify)?;
        Ok(Self { segments, checkpoints })
    }
}

/// The open segments of a shard.
#[derive(Debug)]
pub struct Disk {
    /// The one that is being written and those after it: those before it are full.
    segments: Vec<(SegmentId, OwnedFd)>,
    /// To be submitted at the end of the turn.
    outgoing: VecDeque<SegmentWrite>,
    in_flight: Slab<Pending>,
    helpers: Option<Helpers>,
    news: VecDeque<News>,
    progress: VecDeque<CheckpointProgress>,
    /// How often in a row a segment couldn't be prepared, other than for want of space.
    failures_count: u32,
    node: Arc<Node>,
    /// From when a write was issued until it was durable.
    write_times: Histogram,
}

impl Disk {
    /// The segments of one shard; `helpers` is `None` for a service without a log.
    #[must_use]
    pub fn new(node: Arc<Node>, helpers: Option<Helpers>) -> Self {
        Self {
            segments: Vec::new(),
            outgoing: VecDeque::new(),
            in_flight: Slab::new(),
            helpers,
            news: VecDeque::new(),
            progress: VecDeque::new(),
            failures_count: 0,
            node,
            write_times: Histogram::default(),
        }
    }

    /// Queues a write for the end of the turn.
    pub fn write(&mut self, write: SegmentWrite) {
        assert!(!write.blocks.is_empty(), "a write writes something");
        assert!(self.file(write.segment).is_some(), "a segment is prepared before it is written");
        // Counted from here: what makes it durable may need the core from the submission on.
        self.node.writes_in_flight.fetch_add(1, Ordering::Relaxed);
        self.outgoing.push_back(write);
    }

    /// Begins to prepare a segment.
    pub fn prepare(&mut self, wanted: SegmentWanted) {
        self.helpers_mut().segments.prepare(wanted);
    }

    /// Begins to read blocks of a segment.
    pub fn read(&mut self, read: SegmentRead) {
        self.helpers_mut().segments.read(read);
    }

    /// Begins a step of a checkpoint.
    pub fn checkpoint(&mut self, step: CheckpointStep) {
        self.helpers_mut().checkpoints.take(step);
    }

    /// Begins to scrub: these segments count.
    pub fn scrub(&mut self, segments: Vec<LiveSegment>) {
        self.helpers_mut().segments.scrub(segments);
    }

    fn helpers_mut(&mut self) -> &mut Helpers {
        self.helpers.as_mut().expect("a service with a log has a directory")
    }

    /// Looks whether the helpers have something to say.
    pub fn poll_news(&mut self) -> bool {
        if let Some(Helpers { segments, checkpoints }) = &mut self.helpers {
            self.news.extend(std::iter::from_fn(|| segments.next_news()));
            self.progress.extend(std::iter::from_fn(|| checkpoints.next_progress()));
        }
        !self.news.is_empty() || !self.progress.is_empty()
    }

    /// What the helpers have to say next.
    pub fn next_news(&mut self) -> Option<DiskNews> {
        self.poll_news();
        if let Some(progress) = self.progress.pop_front() {
            return Some(DiskNews::Checkpoint(progress));
        }
        Some(match self.news.pop_front()? {
            News::Prepared(Prepared { segment, file }) => {
                let result = file.map(|file| self.segments.push((segment, file)));
                match &result {
                    Ok(()) => self.failures_count = 0,
                    // Space may come back whenever somebody makes some.
                    Err(error) => self.failures_count += u32::from(!error.is_full()),
                }
                DiskNews::Prepared(segment, result)
            }
            News::Read(read) => DiskNews::Read(read),
            News::Space(left_size_bytes) => DiskNews::Space(left_size_bytes),
            News::Scrub(news) => DiskNews::Scrub(news),
        })
    }

    /// Whether segments can't be prepared for a reason that doesn't pass.
    #[must_use]
    pub const fn cannot_prepare(&self) -> bool {
        self.failures_count >= PREPARE_FAILURE_COUNT_MAX
    }

    /// Whether writes wait to be submitted.
    #[must_use]
    pub fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Puts the queued writes into the ring.
    pub fn submit(&mut self, ring: &mut Uring, now: Monotonic) {
        while let Some(SegmentWrite { batch, segment, offset, blocks }) = self.outgoing.pop_front()
        {
            let size = blocks.len() * size_of::<Block>();
            let slot = self.in_flight.insert(Pending { batch, segment, offset, size, issued: now });
            let key = Key { slot: u32_from(slot), generation: 0 };
            let file = self.file(segment).expect("a segment stays open while it is written");
            ring.write(file.as_fd(), key, blocks, offset);
        }
    }

    /// A write ended.
    pub fn written(
        &mut self,
        key: Key,
        blocks: Vec<Block>,
        result: std::io::Result<usize>,
        now: Monotonic,
    ) -> (SegmentWrite, Result<(), WriteError>) {
        self.node.writes_in_flight.fetch_sub(1, Ordering::Relaxed);
        let pending = self.in_flight.remove(usize_from_u32(key.slot));
        let Pending { batch, segment, offset, size: wanted, issued } = pending;
        self.write_times.record(now.since_ns(issued));
        let result = match result {
            Ok(written) if written == wanted => Ok(()),
            Ok(written) => Err(WriteError::Short { written, wanted }),
            Err(error) => Err(WriteError::Failed(error)),
        };
        self.close_full(segment);
        (SegmentWrite { batch, segment, offset, blocks }, result)
    }

    /// A log is written from segment to segment: when a write to one has ended, those before it
    /// are full, unless another write to one of them is still under way. A log of thousands of
    /// segments must not hold thousands of descriptors.
    fn close_full(&mut self, written: SegmentId) {
        let in_flight = self.in_flight.iter().map(|(_, pending)| pending.segment);
        let outgoing = self.outgoing.iter().map(|write| write.segment);
        let first = in_flight.chain(outgoing).fold(written, SegmentId::min);
        self.segments.retain(|(id, _)| *id >= first);
    }

    /// Whether nothing is being written.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.outgoing.is_empty()
    }

    /// How many writes are under way or about to be.
    #[must_use]
    pub fn in_flight_count(&self) -> usize {
        self.in_flight.len() + self.outgoing.len()
    }

    /// How long writes took.
    pub fn write_times(&mut self) -> &mut Histogram {
        &mut self.write_times
    }

    /// The node of which this is a disk.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// A segment on a file of a test's choice.
    #[cfg(test)]
    pub(super) fn adopt(&mut self, segment: SegmentId, file: OwnedFd) {
        self.segments.push((segment, file));
    }

    fn file(&self, segment: SegmentId) -> Option<&OwnedFd> {
        self.segments.iter().find(|(id, _)| *id == segment).map(|(_, file)| file)
    }
}

/// Asks the scheduler for a long slice for the calling thread: then kernel threads that finish
/// synced writes on this core are let in when the loop yields, and it isn't preempted in between.
/// A kernel that doesn't know how says no, and nothing is lost but some latency.
///
/// Only a loop with a log asks, of a node that is alone: on a core that others use too, who yields
/// gives up all of its slice, and waits for as long as that is. A member that is silent for 100 ms
/// again and again, because another process wants its core, is deposed for it.
pub(super) fn ask_for_long_slice() -> bool {
    const SLICE_NS: u64 = 100_000_000;
    /// `struct sched_attr` as the kernel has it, version 1 (`SCHED_ATTR_SIZE_VER0`).
    #[repr(C)]
    #[derive(Default)]
    struct SchedulingAttributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    // The call sets the nice value as well: it stays what it is.
    let Ok(nice) = rustix::process::getpriority_process(None) else { return false };
    let attributes = SchedulingAttributes {
        size: u32_from(size_of::<SchedulingAttributes>()),
        nice,
        // For an ordinary thread `runtime` is the slice that it asks for.
        runtime: SLICE_NS,
        ..SchedulingAttributes::default()
    };
    // SAFETY: the call reads `size` bytes of `attributes`, which lives until it returns. Thread 0
    // is the calling one, and the last argument must be 0.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    result == 0
}

/// How often the calling thread has blocked: given its core away to wait for something.
pub(super) fn blocked_count() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the call writes a `rusage` to where `usage` points, which lives until it returns. All
    // zeros are a `rusage` as well, so it may be read whatever the call says.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    u64::try_from(usage.ru_nvcsw).unwrap_or_default()
}

/// Asks that what the calling thread reads waits for everybody else. A scheduler that knows no
/// priorities ignores it.
pub(super) fn ask_for_idle_io() -> bool {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_IDLE: libc::c_int = 3 << 13;
    // SAFETY: the call takes three numbers and touches no memory. Thread 0 is the calling one.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE) };
    result == 0
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::base::limits::BLOCK_SIZE_BYTES;

    /// A disk with one segment on a real file, and a write of two blocks in flight.
    fn writing() -> (Disk, Uring, Arc<Node>) {
        let node = Arc::new(Node::new(1, 100).expect("a node"));
        let mut disk = Disk::new(Arc::clone(&node), None);
        let file = tempfile::tempfile().expect("a file");
        disk.adopt(SegmentId(3), file.into());
        let blocks = vec![Block([7; BLOCK_SIZE_BYTES]); 2];
        disk.write(SegmentWrite {
            batch: BatchId(9),
            segment: SegmentId(3),
            offset: 4_096,
            blocks,
        });
        let mut ring = Uring::new(super::super::uring::RingSize::default()).expect("a ring");
        disk.submit(&mut ring, Monotonic(5));
        (disk, ring, node)
    }

    fn completion(ring: &mut Uring) -> (Key, Vec<Block>, io::Result<usize>) {
        let mut completions = VecDeque::new();
        while completions.is_empty() {
            ring.submit_and_wait().expect("a working ring");
            ring.reap(&mut completions, 1);
        }
        match completions.pop_front() {
            Some(super::super::uring::Completion::Written { key, blocks, result }) => {
                (key, blocks, result)
            }
            other => panic!("a write was expected, not {other:?}"),
        }
    }

    #[test]
    fn write_comes_back_whole_and_is_counted_while_it_is_in_flight() {
        let (mut disk, mut ring, node) = writing();
        assert_eq!(node.writes_in_flight.load(Ordering::Relaxed), 1);
        let (key, blocks, result) = completion(&mut ring);
        let (write, result) = disk.written(key, blocks, result, Monotonic(9));
        result.expect("a whole write");
        assert_eq!((write.batch, write.segment, write.offset), (BatchId(9), SegmentId(3), 4_096));
        assert_eq!(write.blocks.len(), 2);
        assert_eq!(node.writes_in_flight.load(Ordering::Relaxed), 0);
        assert!(disk.is_idle());
        assert_eq!((disk.write_times().count(), disk.write_times().sum()), (1, 4));
    }

    #[test]
    fn short_and_failed_writes_are_errors() {
        let (mut disk, mut ring, _node) = writing();
        let (key, blocks, _) = completion(&mut ring);
        let (_, result) = disk.written(key, blocks, Ok(4_096), Monotonic(9));
        assert!(matches!(result, Err(WriteError::Short { written: 4_096, wanted: 8_192 })));
        let (mut disk, mut ring, _node) = writing();
        let (key, blocks, _) = completion(&mut ring);
        let (_, result) =
            disk.written(key, blocks, Err(io::ErrorKind::StorageFull.into()), Monotonic(9));
        assert!(matches!(result, Err(WriteError::Failed(_))));
    }

    #[test]
    fn full_segment_is_closed_once_no_write_to_it_is_under_way() {
        let (mut disk, mut ring, _node) = writing();
        for segment in [2, 4] {
            disk.adopt(SegmentId(segment), tempfile::tempfile().expect("a file").into());
        }
        let blocks = vec![Block([7; BLOCK_SIZE_BYTES])];
        disk.write(SegmentWrite { batch: BatchId(10), segment: SegmentId(4), offset: 0, blocks });
        disk.submit(&mut ring, Monotonic(5));
        let open = |disk: &Disk| [2, 3, 4].map(|id| disk.file(SegmentId(id)).is_some());
        for _ in 0..2 {
            let (key, blocks, result) = completion(&mut ring);
            disk.written(key, blocks, result, Monotonic(9)).1.expect("a whole write");
            let oldest_is_closed = !open(&disk)[0];
            assert!(oldest_is_closed, "all writes are to later segments");
        }
        assert_eq!(open(&disk), [false, false, true]);
    }

    #[test]
    #[should_panic(expected = "a segment is prepared before it is written")]
    fn write_to_a_segment_that_is_not_open_is_a_defect() {
        let node = Arc::new(Node::new(1, 100).expect("a node"));
        let blocks = vec![Block([7; BLOCK_SIZE_BYTES])];
        let write = SegmentWrite { batch: BatchId(1), segment: SegmentId(1), offset: 0, blocks };
        Disk::new(node, None).write(write);
    }
}
