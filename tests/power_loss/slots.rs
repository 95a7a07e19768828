//! Old slots, read back for peers from the disk as it is, are what the model says.

use p2pmap::base::ids::{Index, PartitionId};
use p2pmap::storage::block::Block;
use p2pmap::storage::carry::SegmentRead;
use p2pmap::storage::old_slots::{SlotReader, SlotRequest, SlotStep};
use p2pmap::storage::wal::Wal;

use super::{Disk, Expected, KEY, Model, Slot, digest128};

/// A request that is being answered.
pub(super) struct Reading {
    reader: SlotReader,
    asked: Option<SegmentRead>,
}

impl Reading {
    pub(super) fn new(partition: PartitionId, first: u64, last: u64) -> Self {
        let request = SlotRequest { partition, first: Index(first), last: Index(last) };
        Self { reader: SlotReader::new(KEY, request), asked: None }
    }

    pub(super) fn partition(&self) -> PartitionId {
        self.reader.request().partition
    }

    /// Asks for blocks, or reads those that were asked for; what comes of it must be expected.
    pub(super) fn go_on(
        &mut self,
        wal: &Wal,
        disk: &Disk,
        expected: &Expected,
    ) -> Option<SlotStep> {
        let partition = self.partition();
        let Some(read) = self.asked.take() else {
            let step = self.reader.step(wal);
            if let SlotStep::Read(read) = step {
                self.asked = Some(read);
            }
            if step == SlotStep::Gone {
                let first = wal.first_slot(partition).unwrap();
                assert!(self.reader.next() < first, "slot {} isn't served", self.reader.next());
            }
            return Some(step);
        };
        let zero = std::rc::Rc::new(Block::ZERO);
        let blocks: Vec<Block> = (read.first_block..read.first_block + read.block_count)
            .map(|number| disk.blocks.get(&(read.segment, number)).unwrap_or(&zero))
            .map(|block| Block::clone(block))
            .collect();
        let mut next = self.reader.next().0;
        let result = self.reader.on_read(wal, &blocks, |entry| {
            assert_eq!(entry.index.0, next, "slots come in their order");
            let slot = Slot {
                term: entry.term,
                message_id: entry.message_id,
                timestamp: entry.timestamp,
                value: entry.value.as_deref().map(digest128),
            };
            assert_eq!(Some(&slot), expected.slots.get(&next), "slot {next} of {partition}");
            next += 1;
        });
        result.unwrap();
        None
    }
}

/// All slots that are served are what they should be, if everything is durable.
pub(super) fn check(disk: &Disk, wal: &Wal, model: &Model) {
    if wal.durable() != wal.appended() {
        return;
    }
    for (&partition, expected) in model {
        let mut next = wal.first_slot(partition).unwrap().0;
        assert!(next <= expected.checkpoint + 1, "what is above the checkpoint is there");
        while next <= expected.last() {
            let mut reading = Reading::new(partition, next, expected.last());
            let end = loop {
                match reading.go_on(wal, disk, expected) {
                    Some(SlotStep::Read(_)) | None => {}
                    Some(end) => break end,
                }
            };
            assert_eq!(end, SlotStep::Done, "slot {} of {partition}", reading.reader.next());
            assert!(reading.reader.next().0 > next, "each request gets something");
            next = reading.reader.next().0;
        }
    }
}
