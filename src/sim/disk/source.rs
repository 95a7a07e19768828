//! How a start reads a folder.

use std::io;

use super::Disk;
use super::folder::{Folder, copy_to};
use crate::base::cast::{u64_from, usize_from};
use crate::base::ids::{SegmentId, ShardId};
use crate::base::limits::BLOCK_SIZE_BYTES;
use crate::storage::block::Block;
use crate::storage::checkpoint::{CheckpointId, CheckpointSource};
use crate::storage::recovery::{SegmentFile, SegmentSource};

/// Reads segments.
#[derive(Debug)]
pub struct SegmentReader<'a> {
    folder: &'a Folder,
    names: Vec<SegmentId>,
    failing_reads_count: u32,
}

/// Reads checkpoints.
#[derive(Debug)]
pub struct CheckpointReader<'a> {
    folder: &'a Folder,
}

impl Disk {
    /// What reads a shard's folder. Reads that are to fail are used up by it.
    ///
    /// # Panics
    /// If there is no such folder.
    pub fn readers(
        &mut self,
        generation: u64,
        shard: ShardId,
    ) -> (SegmentReader<'_>, CheckpointReader<'_>) {
        let failing_reads_count = std::mem::take(&mut self.failing_reads_count);
        let segments = self.segment_reader(generation, shard);
        let folder = segments.folder;
        (SegmentReader { failing_reads_count, ..segments }, CheckpointReader { folder })
    }

    /// What reads a shard's segments as they are now, whatever fails.
    ///
    /// # Panics
    /// If there is no such folder.
    #[must_use]
    pub fn segment_reader(&self, generation: u64, shard: ShardId) -> SegmentReader<'_> {
        let folder = &self.directory.folders[&(generation, shard)];
        let names = folder.segment_names().collect();
        SegmentReader { folder, names, failing_reads_count: 0 }
    }
}

impl SegmentReader<'_> {
    /// The segments' files, in the order of their names.
    #[must_use]
    pub fn files(&self) -> Vec<SegmentFile> {
        let file = |name: &SegmentId| {
            let block_count = self.folder.segments[name].places.len();
            SegmentFile { name: *name, size_bytes: u64_from(block_count * BLOCK_SIZE_BYTES) }
        };
        self.names.iter().map(file).collect()
    }
}

impl SegmentSource for SegmentReader<'_> {
    fn read(&mut self, file: usize, first_block: usize, blocks: &mut Vec<Block>) -> io::Result<()> {
        if self.failing_reads_count > 0 {
            self.failing_reads_count -= 1;
            return Err(io::Error::other("the device can't read"));
        }
        let places = &self.folder.segments[&self.names[file]].places[first_block..];
        for (block, place) in blocks.iter_mut().zip(places) {
            copy_to(place.content.as_ref(), block);
        }
        Ok(())
    }
}

impl CheckpointSource for CheckpointReader<'_> {
    fn read(&mut self, id: CheckpointId, offset: u64, blocks: &mut [Block]) -> io::Result<usize> {
        let file = self.folder.checkpoints.get(&id).ok_or(io::ErrorKind::NotFound)?;
        let rest = &file[(usize_from(offset) / BLOCK_SIZE_BYTES).min(file.len())..];
        for (block, content) in blocks.iter_mut().zip(rest) {
            copy_to(Some(content), block);
        }
        Ok(rest.len().min(blocks.len()))
    }
}
