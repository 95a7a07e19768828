//! What a shard has under way at its disk: writes of the log, several at a time and in any order;
//! segments that are prepared or read, one after the other; and checkpoints, step by step.

use std::collections::{BTreeMap, VecDeque};

use super::durable_log::DurableLog;
use super::{Activity, Node};
use crate::base::cast::u64_from;
use crate::base::ids::{BatchId, ShardId};
use crate::base::limits::BLOCK_SIZE_BYTES;
use crate::base::prng::Prng;
use crate::shard::SegmentBlocks;
use crate::sim::checker::{Checker, Violation};
use crate::sim::cluster::{Event, World};
use crate::sim::disk::{Crash, Folder, WriteFate};
use crate::sim::host::Incoming;
use crate::storage::block::{LogKey, SegmentWrite};
use crate::storage::carry::SegmentRead;
use crate::storage::checkpoint::{
    CHUNK_BLOCK_COUNT, CheckpointBlocks, CheckpointChunk, CheckpointProgress, CheckpointStep,
    check_chunk,
};
use crate::storage::record::LiveSegment;
use crate::storage::scrub::{Scrubbed, SegmentScrub};
use crate::storage::wal::SegmentWanted;

/// What has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) enum DiskJob {
    /// A write of the log.
    Write(BatchId),
    /// What is first with the helper for segments.
    Helper,
    /// What is first with the writer of checkpoints.
    Writer,
    /// All was read again.
    Scrub,
}

/// A write under way.
#[derive(Debug)]
struct Issued {
    write: SegmentWrite,
    /// Everything up to this batch was complete when it was issued.
    proven: BatchId,
}

#[derive(Debug)]
enum HelperJob {
    Prepare(SegmentWanted),
    Read(SegmentRead),
}

/// A shard's part of the disk's work.
#[derive(Debug)]
pub(super) struct DiskQueue {
    pub(super) key: LogKey,
    /// What is durable of the log.
    pub(super) durable: DurableLog,
    writes: BTreeMap<BatchId, Issued>,
    pub(super) last_issued: BatchId,
    helper: VecDeque<HelperJob>,
    writer: VecDeque<CheckpointStep>,
    scrub: Option<Vec<LiveSegment>>,
    /// The shard was told to close.
    pub(super) was_closed: bool,
}

impl DiskQueue {
    /// Nothing is under way; the log goes on after a batch.
    pub(super) const fn new(key: LogKey, last_batch: BatchId, durable: DurableLog) -> Self {
        Self {
            key,
            durable,
            writes: BTreeMap::new(),
            last_issued: last_batch,
            helper: VecDeque::new(),
            writer: VecDeque::new(),
            scrub: None,
            was_closed: false,
        }
    }

    pub(super) fn has_no_writes(&self) -> bool {
        self.writes.is_empty()
    }

    /// What was under way when the process went.
    pub(super) fn tear(
        &self,
        folder: &mut Folder,
        block_count: usize,
        crash: Crash,
        prng: &mut Prng,
    ) {
        for issued in self.writes.values() {
            folder.tear(&issued.write, crash, prng);
        }
        if let Some(HelperJob::Prepare(wanted)) = self.helper.front() {
            folder.tear_preparation(*wanted, block_count, prng);
        }
        if let Some(CheckpointStep::Finish) = self.writer.front()
            && prng.one_in(2)
        {
            folder.finish_checkpoint();
        }
    }
}

impl Node {
    /// Hands what a turn wants of the disk to it.
    pub(super) fn begin_disk_jobs(&mut self, place: usize, world: &mut World) {
        let output = &mut self.hosts[place].output;
        let writes = std::mem::take(&mut output.writes);
        let segments = std::mem::take(&mut output.segments);
        let reads = std::mem::take(&mut output.reads);
        let steps = std::mem::take(&mut output.steps);
        let scrubs = std::mem::take(&mut output.scrubs);
        for write in writes {
            let size_bytes = write.blocks.len() * BLOCK_SIZE_BYTES;
            let queue = &mut self.queues[place];
            let oldest = queue.writes.keys().next().map(|batch| batch.previous());
            let proven = oldest.unwrap_or(queue.last_issued);
            queue.last_issued = write.batch;
            let job = DiskJob::Write(write.batch);
            queue.writes.insert(write.batch, Issued { write, proven });
            self.later(place, job, size_bytes, world);
        }
        let jobs = segments.into_iter().map(HelperJob::Prepare);
        for job in jobs.chain(reads.into_iter().map(HelperJob::Read)) {
            self.queues[place].helper.push_back(job);
            if self.queues[place].helper.len() == 1 {
                self.later_helper(place, world);
            }
        }
        for step in steps {
            self.queues[place].writer.push_back(step);
            if self.queues[place].writer.len() == 1 {
                self.later(place, DiskJob::Writer, BLOCK_SIZE_BYTES, world);
            }
        }
        if let Some(segments) = scrubs.into_iter().next_back()
            && self.queues[place].scrub.replace(segments).is_none()
        {
            self.later(place, DiskJob::Scrub, world.swarm.segment_size_bytes, world);
        }
    }

    fn later(&mut self, place: usize, job: DiskJob, size_bytes: usize, world: &mut World) {
        let latency_ns = self.disk.latency_ns(world.now(), size_bytes);
        let (node, life, shard) = (self.id, self.life, self.hosts[place].me);
        world.schedule.after(latency_ns, Event::Disk { node, life, shard, job });
    }

    fn later_helper(&mut self, place: usize, world: &mut World) {
        let size_bytes = match self.queues[place].helper.front() {
            Some(HelperJob::Prepare(wanted)) if wanted.from.is_none_or(|free| free.wipe) => {
                world.swarm.segment_size_bytes
            }
            _ => BLOCK_SIZE_BYTES,
        };
        self.later(place, DiskJob::Helper, size_bytes, world);
    }

    /// Something that was under way at the disk has ended.
    pub(in crate::sim) fn on_disk(
        &mut self,
        shard: ShardId,
        job: DiskJob,
        world: &mut World,
    ) -> Result<(), Violation> {
        if !matches!(self.activity, Activity::Running | Activity::Stopping) {
            return Ok(());
        }
        let place = usize::from(shard.0);
        match job {
            DiskJob::Write(batch) => self.end_write(place, batch, world),
            DiskJob::Helper => self.end_helper_job(place, world),
            DiskJob::Writer => self.end_step(place, world),
            DiskJob::Scrub => return self.end_scrub(place, world),
        }
        Ok(())
    }

    /// Something was done for a shard: for people who read a trace.
    fn trace_disk(
        &self,
        place: usize,
        name: &'static str,
        words: [u64; 3],
        world: &mut World,
        line: impl FnOnce() -> String,
    ) {
        let (now, shard) = (world.now(), self.hosts[place].me);
        world.trace.event(now, name, &words, || format!("{}.{shard} {}", self.id, line()));
    }

    fn end_write(&mut self, place: usize, batch: BatchId, world: &mut World) {
        let shard = self.hosts[place].me;
        let fate = self.disk.write_fate();
        if fate == WriteFate::Fails {
            // A node doesn't outlive a failed write of its log.
            world.report.mark("write error ended the node", 1);
            self.crash(world, Crash::Process);
            return;
        }
        let lies = self.disk.lies();
        let issued = self.queues[place].writes.remove(&batch).expect("it was under way");
        let SegmentWrite { segment, offset, ref blocks, .. } = issued.write;
        self.trace_disk(place, "written", [segment.0, batch.0, offset], world, || {
            format!("segment {segment} at {offset}: {} blocks, {fate:?}", blocks.len())
        });
        let folder = self.disk.directory.folders.get_mut(&(self.generation, shard));
        let folder = folder.expect("a running shard has a folder");
        match fate {
            WriteFate::Done => {
                folder.write(&issued.write, lies);
                folder.prove(issued.proven);
                if !lies {
                    self.queues[place].durable.on_durable(&issued.write);
                }
            }
            _ => folder.tear(&issued.write, Crash::Power, &mut self.disk.prng),
        }
        self.put(place, Incoming::Written(issued.write), world);
    }

    fn end_helper_job(&mut self, place: usize, world: &mut World) {
        let shard = self.hosts[place].me;
        let Some(job) = self.queues[place].helper.pop_front() else { return };
        let block_count = world.swarm.segment_size_bytes / BLOCK_SIZE_BYTES;
        let is_full = self.disk.is_full();
        let words = match &job {
            HelperJob::Prepare(wanted) => [wanted.segment.0, 0, 0],
            HelperJob::Read(read) => [read.segment.0, u64_from(read.first_block), 1],
        };
        self.trace_disk(place, "helped", words, world, || format!("{job:?}"));
        let folder = self.disk.folder(self.generation, shard);
        let incoming = match job {
            // A free one takes no room.
            HelperJob::Prepare(wanted) if is_full && wanted.from.is_none() => {
                world.report.mark("segment refused", 1);
                Incoming::Prepared(wanted.segment, false)
            }
            HelperJob::Prepare(wanted) => {
                world.report.mark("segment recycled", u64::from(wanted.from.is_some()));
                folder.prepare(wanted, block_count);
                Incoming::Prepared(wanted.segment, true)
            }
            HelperJob::Read(read) => {
                let SegmentRead { segment, first_block, block_count } = read;
                let blocks = folder.blocks(segment, first_block, block_count);
                Incoming::Read(SegmentBlocks { read, blocks })
            }
        };
        self.put(place, incoming, world);
        if !self.queues[place].helper.is_empty() {
            self.later_helper(place, world);
        }
    }

    fn end_step(&mut self, place: usize, world: &mut World) {
        let shard = self.hosts[place].me;
        let Some(step) = self.queues[place].writer.pop_front() else { return };
        let is_full = self.disk.is_full();
        let (name, at) = match &step {
            CheckpointStep::Begin(id) => ("begin", id.index.0),
            CheckpointStep::Write(chunk) => ("write", chunk.offset),
            CheckpointStep::Finish => ("finish", 0),
            CheckpointStep::Remove(id) => ("remove", id.index.0),
            CheckpointStep::Read(read) => ("read", read.offset()),
        };
        self.trace_disk(place, "checkpoint", [at, 0, 0], world, || match &step {
            CheckpointStep::Begin(id) | CheckpointStep::Remove(id) => format!("{name} {id:?}"),
            _ => format!("{name} {at}"),
        });
        let folder = self.disk.folder(self.generation, shard);
        let progress = match step {
            CheckpointStep::Begin(id) => {
                folder.begin_checkpoint(id);
                None
            }
            CheckpointStep::Write(_) if is_full => {
                world.report.mark("checkpoint failed", 1);
                folder.fail_checkpoint().map(CheckpointProgress::Failed)
            }
            CheckpointStep::Write(chunk) => {
                let CheckpointChunk { ref blocks, .. } = chunk;
                assert!(blocks.len() <= CHUNK_BLOCK_COUNT, "chunks are bounded");
                let is_under_way = folder.write_checkpoint(&chunk).is_some();
                is_under_way.then_some(CheckpointProgress::Written(chunk.blocks))
            }
            CheckpointStep::Finish => folder.finish_checkpoint().map(CheckpointProgress::Finished),
            CheckpointStep::Remove(id) => {
                folder.remove_checkpoint(id);
                None
            }
            CheckpointStep::Read(read) => {
                let number = crate::base::cast::usize_from_u32(read.chunk);
                let blocks = folder.checkpoint_chunks(read.id).nth(number);
                Some(CheckpointProgress::Read(CheckpointBlocks { read, blocks }))
            }
        };
        if let Some(progress) = progress {
            self.put(place, Incoming::Checkpoint(progress), world);
        }
        let size_bytes = match self.queues[place].writer.front() {
            None => return,
            Some(CheckpointStep::Write(chunk)) => chunk.blocks.len() * BLOCK_SIZE_BYTES,
            Some(_) => BLOCK_SIZE_BYTES,
        };
        self.later(place, DiskJob::Writer, size_bytes, world);
    }

    /// Everything was read again: says what isn't what was written.
    fn end_scrub(&mut self, place: usize, world: &mut World) -> Result<(), Violation> {
        let shard = self.hosts[place].me;
        let Some(segments) = self.queues[place].scrub.take() else { return Ok(()) };
        let key = self.queues[place].key;
        let folder = self.disk.folder(self.generation, shard);
        let mut found = Vec::new();
        for live in segments {
            if segment_is_damaged(folder, key, live, world.swarm.segment_size_bytes) {
                found.push(Incoming::SegmentDamaged(live.segment));
            }
        }
        // Remains are found, too, where a start couldn't remove them yet: that does no harm.
        for id in folder.checkpoint_ids().filter(|id| !folder.is_remains(*id)) {
            let damaged = folder
                .checkpoint_chunks(id)
                .zip(0..)
                .any(|(blocks, number)| check_chunk(key.salt, id, number, &blocks).is_err());
            if damaged {
                found.push(Incoming::CheckpointDamaged(id.partition));
            }
        }
        world.report.mark("scrub found damage", u64_from(found.len()));
        if !found.is_empty() && !self.disk.is_damaged() {
            let what = format!("node {}: a scrub found what nobody damaged: {found:?}", self.id);
            return Err(Violation::new(Checker::Sense, what).at(world.now()));
        }
        for incoming in found {
            self.put(place, incoming, world);
        }
        Ok(())
    }
}

/// Whether a segment isn't what was written to it; one that is gone meanwhile is none.
fn segment_is_damaged(
    folder: &Folder,
    key: LogKey,
    live: LiveSegment,
    segment_size_bytes: usize,
) -> bool {
    let count = segment_size_bytes / BLOCK_SIZE_BYTES;
    let Some(blocks) = folder.blocks(live.segment, 0, count) else { return false };
    !matches!(SegmentScrub::new(key, live).on_read(&blocks), Scrubbed::Whole)
}
