//! Reads old slots of a partition back from its log's segments, for a peer that lacks them.
//!
//! Slots come in their order, each as it is held now ([`super::slot_index`] says which record that
//! is). A run of slots is read to its end before the first of them is given out, because a later
//! record of the run may hold an earlier slot. A segment that was let go meanwhile isn't read on:
//! its slots are looked for again, and if they are nowhere the peer has to take the checkpoint.

use std::collections::BTreeMap;

use super::block::{Block, LogKey};
use super::carry::SegmentRead;
use super::error::Damage;
use super::record::Record;
use super::record_stream::RecordStream;
use super::replay::LoggedEntry;
use super::slot_index::Run;
use super::state::StateError;
use super::wal::Wal;
use crate::base::ids::{Index, PartitionId, SegmentId, TermId};
use crate::base::limits::REPAIR_SIZE_BYTES_MAX;

/// Old slots of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRequest {
    /// Whose slots.
    pub partition: PartitionId,
    /// The first of them.
    pub first: Index,
    /// The last of them; not before the first.
    pub last: Index,
}

/// How reading goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotStep {
    /// These blocks are to be read.
    Read(SegmentRead),
    /// What was appended last is to become durable first.
    Wait,
    /// All slots were given out, or as many as one request may have.
    Done,
    /// The next slot isn't in the log any more, or not yet.
    Gone,
}

/// Reads the slots of one request.
#[derive(Debug)]
pub struct SlotReader {
    key: LogKey,
    request: SlotRequest,
    /// The next slot to be given out.
    next: Index,
    /// Bytes that were given out.
    size_bytes: usize,
    under_way: Option<RunRead>,
}

/// A run that is being read.
#[derive(Debug)]
struct RunRead {
    run: Run,
    records: RecordStream,
    found: BTreeMap<Index, LoggedEntry>,
}

impl SlotReader {
    /// Begins with a request to a log.
    #[must_use]
    pub const fn new(key: LogKey, request: SlotRequest) -> Self {
        Self { key, next: request.first, request, size_bytes: 0, under_way: None }
    }

    /// What was asked for.
    #[must_use]
    pub const fn request(&self) -> &SlotRequest {
        &self.request
    }

    /// The first slot that wasn't given out.
    #[must_use]
    pub const fn next(&self) -> Index {
        self.next
    }

    /// The segment that is being read.
    #[must_use]
    pub fn segment(&self) -> Option<SegmentId> {
        self.under_way.as_ref().map(|read| read.records.segment())
    }

    /// What is to be done next.
    pub fn step(&mut self, log: &Wal) -> SlotStep {
        // The file of a segment that is let go may be another one's by now.
        if self.under_way.as_ref().is_some_and(|read| !log.counts(read.run.segment)) {
            self.under_way = None;
        }
        if self.next > self.request.last || self.size_bytes >= REPAIR_SIZE_BYTES_MAX {
            return SlotStep::Done;
        }
        if self.under_way.is_none() {
            let Some(run) = log.find_slot(self.request.partition, self.next) else {
                return SlotStep::Gone;
            };
            if !log.can_read(&run) {
                return SlotStep::Wait;
            }
            self.under_way = Some(RunRead::new(self.key, run.up_to(self.request.last)));
        }
        let wanted = self.under_way.as_ref().and_then(|read| read.records.wants());
        SlotStep::Read(wanted.expect("a run that was read to its end isn't under way"))
    }

    /// The blocks that were asked for; `give` gets the slots that are known now, in their order.
    ///
    /// # Errors
    /// If they aren't what was written there, with the number of the block.
    pub fn on_read(
        &mut self,
        log: &Wal,
        blocks: &[Block],
        mut give: impl FnMut(LoggedEntry),
    ) -> Result<(), (usize, Damage)> {
        let partition = self.request.partition;
        let Some(mut read) = self.under_way.take() else { return Ok(()) };
        if !log.counts(read.run.segment) {
            return Ok(());
        }
        read.on_read(partition, blocks)?;
        if read.records.wants().is_some() {
            self.under_way = Some(read);
            return Ok(());
        }
        // What has taken its slots meanwhile is read instead.
        let is_held = |index| {
            log.find_slot(partition, index).is_some_and(|now| {
                (now.segment, now.adopting) == (read.run.segment, read.run.adopting)
            })
        };
        let expected = self.next;
        for (index, entry) in read.found {
            if index != self.next || !is_held(index) || self.size_bytes >= REPAIR_SIZE_BYTES_MAX {
                break;
            }
            self.next = index.next();
            self.size_bytes += entry.value.as_ref().map_or(0, bytes::Bytes::len);
            give(entry);
        }
        if self.next == expected && is_held(expected) {
            // The index says that it is here.
            let hole = StateError::Hole { last: expected.previous(), found: expected };
            let block = *read.run.blocks().start();
            return Err((block, Damage::State(Some(partition), hole)));
        }
        Ok(())
    }
}

impl RunRead {
    fn new(key: LogKey, run: Run) -> Self {
        let blocks = *run.blocks().start()..*run.blocks().end() + 1;
        Self { run, records: RecordStream::new(key, run.segment, blocks), found: BTreeMap::new() }
    }

    fn on_read(&mut self, partition: PartitionId, blocks: &[Block]) -> Result<(), (usize, Damage)> {
        let Self { run, records, found } = self;
        records.on_read(blocks, |record| {
            if record.partition() == Some(partition)
                && let Some(entry) = slot(record, run.adopting)
                && (run.first..=run.last).contains(&entry.index)
            {
                // The last record of the run's kind holds.
                found.insert(entry.index, entry);
            }
        })
    }
}

/// The slot that a record holds, if it is one that went to the log itself (`adopting` 0), or one
/// that was staged for the view.
fn slot(record: &Record<'_>, adopting: TermId) -> Option<LoggedEntry> {
    match record {
        Record::Stage { adopting: term, entry } if *term == adopting => {
            Some(LoggedEntry::of(entry))
        }
        _ if adopting > TermId(0) => None,
        Record::Entry(entry) | Record::Carry(entry) => Some(LoggedEntry::of(entry)),
        Record::NoOp { index, term, message_id, .. } => {
            Some(LoggedEntry::no_op(*index, *term, *message_id))
        }
        _ => None,
    }
}
