//! Damage to what is durable.

use std::rc::Rc;

use super::Disk;
use super::folder::{Content, Folder, Segment};
use crate::base::cast::{u64_from, usize_from};
use crate::base::ids::{SegmentId, ShardId};
use crate::base::limits::BLOCK_SIZE_BYTES;
use crate::base::prng::Prng;
use crate::sim::fault::Fault;
use crate::storage::checkpoint::CheckpointId;

/// A block: its folder, file and number.
type BlockPlace = ((u64, ShardId), SegmentId, usize);

impl Disk {
    /// Damages something that is durable and that the log can know to have been so. Says what;
    /// `None`: there is nothing to damage.
    ///
    /// # Panics
    /// If the fault is no damage.
    pub fn damage(&mut self, fault: Fault) -> Option<String> {
        assert!(fault.is_damage(), "{fault} damages nothing");
        if fault == Fault::CheckpointFlip {
            return self.flip_in_checkpoint();
        }
        let victims: Vec<BlockPlace> = self.blocks(Folder::vouched_for).collect();
        let (folder, segment, number) = *draw(&mut self.prng, &victims)?;
        let others: Vec<BlockPlace> = self.blocks(Folder::written).collect();
        let other = *draw(&mut self.prng, &others)?;
        let before = self.content((folder, segment, number))?;
        let after = match fault {
            Fault::BitFlip => Some(flipped(&before, &mut self.prng)),
            Fault::LostWrite => None,
            _ => self.content(other),
        };
        if after.as_ref() == Some(&before) {
            return None;
        }
        let place = self.directory.folders.get_mut(&folder)?.segments.get_mut(&segment)?;
        place.places[number].content = after;
        self.is_damaged = true;
        let (generation, shard) = folder;
        Some(format!("generation {generation} shard {shard} segment {segment} block {number}"))
    }

    fn flip_in_checkpoint(&mut self) -> Option<String> {
        let folders = self.directory.folders.iter();
        let files: Vec<((u64, ShardId), CheckpointId)> = folders
            .flat_map(|(folder, found)| found.checkpoint_ids().map(move |id| (*folder, id)))
            .collect();
        let (folder, id) = *draw(&mut self.prng, &files)?;
        let file = self.directory.folders.get_mut(&folder)?.checkpoints.get_mut(&id)?;
        let number = usize_from(self.prng.below(u64_from(file.len())));
        file[number] = flipped(&file[number], &mut self.prng);
        self.is_damaged = true;
        let CheckpointId { partition, index } = id;
        Some(format!("checkpoint of partition {partition} at {index}, block {number}"))
    }

    fn blocks(
        &self,
        which: fn(&Folder, &Segment, usize) -> bool,
    ) -> impl Iterator<Item = BlockPlace> + '_ {
        self.directory.folders.iter().flat_map(move |(id, folder)| {
            folder.segments.iter().flat_map(move |(name, segment)| {
                let numbers = 0..segment.places.len();
                let chosen = numbers.filter(move |number| which(folder, segment, *number));
                chosen.map(move |number| (*id, *name, number))
            })
        })
    }

    fn content(&self, (folder, segment, number): BlockPlace) -> Option<Content> {
        self.directory.folders.get(&folder)?.segments.get(&segment)?.places[number].content.clone()
    }
}

impl Folder {
    fn written(&self, segment: &Segment, number: usize) -> bool {
        segment.places[number].content.is_some()
    }

    fn vouched_for(&self, segment: &Segment, number: usize) -> bool {
        self.written(segment, number) && segment.places[number].batch <= self.proven
    }
}

fn flipped(content: &Content, prng: &mut Prng) -> Content {
    let mut bytes = **content;
    let position = usize_from(prng.below(u64_from(BLOCK_SIZE_BYTES)));
    bytes[position] ^= 1 << prng.below(8);
    Rc::new(bytes)
}

fn draw<'a, T>(prng: &mut Prng, choices: &'a [T]) -> Option<&'a T> {
    let count = u64_from(choices.len());
    (count > 0).then(|| &choices[usize_from(prng.below(count))])
}
