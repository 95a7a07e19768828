//! A shard's folder on a simulated disk: segments and checkpoints, what of them is durable, and
//! what becomes of them when a process or the power goes.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use zerocopy::IntoBytes;

use crate::base::cast::{u64_from, usize_from};
use crate::base::ids::{BatchId, SegmentId};
use crate::base::limits::BLOCK_SIZE_BYTES;
use crate::base::prng::Prng;
use crate::storage::block::{Block, SegmentWrite};
use crate::storage::checkpoint::{CHUNK_BLOCK_COUNT, CheckpointChunk, CheckpointId};
use crate::storage::wal::SegmentWanted;

/// What is written and read at once, or not at all.
const SECTOR_SIZE_BYTES: usize = 512;

/// What a block holds. Images of a disk share what they have in common.
pub(super) type Content = Rc<[u8; BLOCK_SIZE_BYTES]>;

/// A file of the log.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) places: Vec<Place>,
    /// Blocks that are in the disk's cache only, with what lies below it.
    cached: BTreeMap<usize, Place>,
}

/// A block of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    /// `None`: zeros.
    pub(super) content: Option<Content>,
    /// The batch that was written there.
    pub(super) batch: BatchId,
}

/// A shard's folder.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    pub(super) segments: BTreeMap<SegmentId, Segment>,
    pub(super) checkpoints: BTreeMap<CheckpointId, Vec<Content>>,
    /// The checkpoint that has no name yet.
    unfinished: Option<(CheckpointId, Vec<Content>)>,
    /// Files whose names are gone, but not durably.
    removed: Vec<(CheckpointId, Vec<Content>)>,
    /// Files of which the loss of power has undone the removal: nothing needs them, and what is in
    /// them may be anything.
    came_back: BTreeSet<CheckpointId>,
    /// What was written up to here is known to have been complete by something written later: if
    /// it is damaged, that can be noticed.
    pub(super) proven: BatchId,
}

/// What ended a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// It was killed; the disk goes on.
    Process,
    /// The power failed.
    Power,
}

impl Segment {
    pub(super) fn new(block_count: usize) -> Self {
        Self { places: vec![Place::default(); block_count], cached: BTreeMap::new() }
    }

    fn put(&mut self, number: usize, content: Content, batch: BatchId) {
        self.places[number] = Place { content: Some(content), batch };
        self.cached.remove(&number);
    }

    /// Puts a block where the loss of power can take it away again.
    fn put_in_cache(&mut self, number: usize, content: Content, batch: BatchId) {
        let place = Place { content: Some(content), batch };
        let below = std::mem::replace(&mut self.places[number], place);
        self.cached.entry(number).or_insert(below);
    }
}

impl Folder {
    /// A write is complete. `cached`: only as far as its writer can see.
    ///
    /// # Panics
    /// If the segment was not prepared: a host doesn't write there.
    pub fn write(&mut self, write: &SegmentWrite, cached: bool) {
        let segment = self.segments.get_mut(&write.segment).expect("prepared before it is written");
        for (number, block) in blocks_of(write) {
            let content = Rc::new(block.0);
            match cached {
                true => segment.put_in_cache(number, content, write.batch),
                false => segment.put(number, content, write.batch),
            }
        }
    }

    /// A write that was under way is there, isn't, or is there in part: blocks in any order, and
    /// sectors of blocks. What a killed process has left may still be in the disk's cache.
    pub fn tear(&mut self, write: &SegmentWrite, crash: Crash, prng: &mut Prng) {
        let Some(segment) = self.segments.get_mut(&write.segment) else { return };
        let odds = prng.below(5);
        for (number, block) in blocks_of(write) {
            if odds == 0 || (odds < 4 && prng.below(4) > odds) {
                continue;
            }
            let mut content = block.0;
            if prng.one_in(4) {
                let former = segment.places[number].content.as_deref();
                let former = former.unwrap_or(&[0; BLOCK_SIZE_BYTES]);
                let sectors = content.chunks_mut(SECTOR_SIZE_BYTES);
                for (sector, former) in sectors.zip(former.chunks(SECTOR_SIZE_BYTES)) {
                    if prng.one_in(2) {
                        sector.copy_from_slice(former);
                    }
                }
            }
            match crash {
                Crash::Process => segment.put_in_cache(number, Rc::new(content), write.batch),
                Crash::Power => segment.put(number, Rc::new(content), write.batch),
            }
        }
    }

    /// Everything up to `batch` is known to be complete by what was written now.
    pub fn prove(&mut self, batch: BatchId) {
        self.proven = self.proven.max(batch);
    }

    /// Makes a segment ready, of a free one if there is one.
    pub fn prepare(&mut self, wanted: SegmentWanted, block_count: usize) {
        if self.segments.contains_key(&wanted.segment) {
            return;
        }
        let former = wanted.from.and_then(|free| {
            let file = self.segments.remove(&free.segment);
            file.filter(|_| !free.wipe)
        });
        let file = former.unwrap_or_else(|| Segment::new(block_count));
        self.segments.insert(wanted.segment, file);
    }

    /// A segment was being prepared: it may have its name already, or its file no name at all.
    pub fn tear_preparation(&mut self, wanted: SegmentWanted, block_count: usize, prng: &mut Prng) {
        match prng.below(3) {
            0 => self.prepare(wanted, block_count),
            // Taken to be filled with zeros; the next start removes what isn't ready.
            1 if wanted.from.is_some_and(|free| free.wipe) => {
                self.segments.remove(&wanted.from.expect("it is some").segment);
            }
            _ => {}
        }
    }

    /// Blocks of a segment; `None`: it isn't there, or not so long.
    #[must_use]
    pub fn blocks(&self, segment: SegmentId, first: usize, count: usize) -> Option<Vec<Block>> {
        let places = self.segments.get(&segment)?.places.get(first..first + count)?;
        Some(places.iter().map(|place| block_of(place.content.as_ref())).collect())
    }

    /// Begins a checkpoint.
    pub fn begin_checkpoint(&mut self, id: CheckpointId) {
        self.unfinished = Some((id, Vec::new()));
    }

    /// Writes a part of it; which checkpoint it is of. `None`: none was begun, or it has failed.
    pub fn write_checkpoint(&mut self, chunk: &CheckpointChunk) -> Option<CheckpointId> {
        let (id, file) = self.unfinished.as_mut()?;
        assert_eq!(usize_from(chunk.offset), file.len() * BLOCK_SIZE_BYTES, "one after the other");
        file.extend(chunk.blocks.iter().map(|block| Rc::new(block.0)));
        Some(*id)
    }

    /// Gives it its name. With that the names before it are durable too.
    pub fn finish_checkpoint(&mut self) -> Option<CheckpointId> {
        let (id, file) = self.unfinished.take()?;
        self.checkpoints.insert(id, file);
        self.came_back.remove(&id);
        self.removed.clear();
        Some(id)
    }

    /// Something went wrong with the checkpoint that was begun.
    pub fn fail_checkpoint(&mut self) -> Option<CheckpointId> {
        self.unfinished.take().map(|(id, _)| id)
    }

    /// Takes a checkpoint's name away; until the folder is synced the loss of power may undo it.
    pub fn remove_checkpoint(&mut self, id: CheckpointId) {
        self.came_back.remove(&id);
        if let Some(file) = self.checkpoints.remove(&id) {
            self.removed.push((id, file));
        }
    }

    /// The checkpoints that there are.
    pub fn checkpoint_ids(&self) -> impl Iterator<Item = CheckpointId> + '_ {
        self.checkpoints.keys().copied()
    }

    /// The chunks of a checkpoint's file, one after the other.
    pub fn checkpoint_chunks(&self, id: CheckpointId) -> impl Iterator<Item = Vec<Block>> + '_ {
        let file = self.checkpoints.get(&id).map(Vec::as_slice).unwrap_or_default();
        let blocks = |chunk: &[Content]| chunk.iter().map(|c| block_of(Some(c))).collect();
        file.chunks(CHUNK_BLOCK_COUNT).map(blocks)
    }

    /// The segments that there are, in the order of their names.
    pub fn segment_names(&self) -> impl Iterator<Item = SegmentId> + '_ {
        self.segments.keys().copied()
    }

    /// Removes a segment that counts no more.
    pub fn remove_segment(&mut self, segment: SegmentId) {
        self.segments.remove(&segment);
    }

    /// What is there is durable from here on.
    pub fn sync(&mut self) {
        self.segments.values_mut().for_each(|segment| segment.cached.clear());
    }

    /// A process has ended without a word.
    pub fn on_crash(&mut self, crash: Crash, prng: &mut Prng) {
        self.unfinished = None;
        if crash == Crash::Process {
            return;
        }
        for segment in self.segments.values_mut() {
            for (number, below) in std::mem::take(&mut segment.cached) {
                if prng.one_in(2) {
                    segment.places[number] = below;
                }
            }
        }
        for (id, mut file) in std::mem::take(&mut self.removed) {
            if prng.one_in(2) && !self.checkpoints.contains_key(&id) {
                // Its room may have been used for another one by then.
                let cut = usize_from(prng.below(u64_from(file.len()) + 1));
                for content in file.iter_mut().skip(cut) {
                    *content = Rc::new([0; BLOCK_SIZE_BYTES]);
                }
                self.checkpoints.insert(id, file);
                self.came_back.insert(id);
            }
        }
    }

    /// Whether a checkpoint is there only because the loss of power has undone its removal.
    #[must_use]
    pub fn is_remains(&self, id: CheckpointId) -> bool {
        self.came_back.contains(&id)
    }

    /// Bytes of all files.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        let segments = self.segments.values().map(|segment| segment.places.len());
        let checkpoints = self.checkpoints.values().map(Vec::len);
        u64_from(segments.chain(checkpoints).sum::<usize>() * BLOCK_SIZE_BYTES)
    }
}

/// A block with this content.
pub(super) fn block_of(content: Option<&Content>) -> Block {
    content.map_or(Block::ZERO, |content| Block(**content))
}

fn blocks_of(write: &SegmentWrite) -> impl Iterator<Item = (usize, &Block)> {
    let first = usize_from(write.offset) / BLOCK_SIZE_BYTES;
    (first..).zip(&write.blocks)
}

/// Copies a content to where a block is read.
pub(super) fn copy_to(content: Option<&Content>, block: &mut Block) {
    match content {
        Some(content) => block.as_mut_bytes().copy_from_slice(&content[..]),
        None => block.0.fill(0),
    }
}
