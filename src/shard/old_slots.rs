//! Old slots for peers: requests wait in a queue and are answered one after the other, in parts
//! that fit a message, from what is read back from the log's segments in the background. Where the
//! slots lie, and when they are gone: `storage::old_slots`.

use std::collections::VecDeque;

use super::{Effects, SegmentBlocks};
use crate::base::ids::SegmentId;
use crate::base::limits::{
    OLD_SLOT_REQUEST_COUNT_MAX, PEER_MESSAGE_SIZE_BYTES, REPAIR_SIZE_BYTES_MAX,
};
use crate::storage::block::offset_of;
use crate::storage::carry::SegmentRead;
use crate::storage::old_slots::{SlotReader, SlotRequest, SlotStep};
use crate::storage::replay::LoggedEntry;
use crate::storage::wal::Wal;

/// A request for old slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotAsk {
    /// What the asker calls it; unique among those that wait.
    pub(super) token: u64,
    /// What is wanted.
    pub(super) request: SlotRequest,
}

/// A part of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlotAnswer {
    /// What was asked for.
    pub(super) ask: SlotAsk,
    /// The next slots, ascending and without a hole.
    pub(super) entries: Vec<LoggedEntry>,
    /// Why nothing follows; `None`: another part does.
    pub(super) end: Option<SlotsEnd>,
}

/// Why an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotsEnd {
    /// All slots were given, or as many as one request gets: whoever wants more asks again.
    Given,
    /// What follows isn't in the log any more: only a checkpoint has it.
    Gone,
    /// What follows is damaged here.
    Damaged,
}

/// The requests of a shard.
#[derive(Debug, Default)]
pub(super) struct OldSlots {
    waiting: VecDeque<SlotAsk>,
    under_way: Option<UnderWay>,
    answers: VecDeque<SlotAnswer>,
    /// Bytes of the values in `answers`.
    answers_size_bytes: usize,
    /// What the host reads.
    reading: Option<SegmentRead>,
}

#[derive(Debug)]
struct UnderWay {
    ask: SlotAsk,
    reader: SlotReader,
}

impl OldSlots {
    /// Takes a request.
    ///
    /// # Errors
    /// If too many wait: it is given back.
    pub(super) fn ask(&mut self, ask: SlotAsk) -> Result<(), SlotAsk> {
        if self.waiting.len() >= OLD_SLOT_REQUEST_COUNT_MAX {
            return Err(ask);
        }
        self.waiting.push_back(ask);
        Ok(())
    }

    /// The next part of an answer.
    pub(super) fn next_answer(&mut self) -> Option<SlotAnswer> {
        let answer = self.answers.pop_front()?;
        self.answers_size_bytes -= answer.size_bytes();
        Some(answer)
    }

    /// Goes on, if there is anything to be read and the answers are being taken.
    pub(super) fn go_on(&mut self, log: &Wal, effects: &mut impl Effects) {
        while self.reading.is_none() && self.answers_size_bytes < REPAIR_SIZE_BYTES_MAX {
            let under_way = match &mut self.under_way {
                Some(under_way) => under_way,
                None => {
                    let Some(ask) = self.waiting.pop_front() else { return };
                    let reader = SlotReader::new(log.key(), ask.request);
                    self.under_way.insert(UnderWay { ask, reader })
                }
            };
            let end = match under_way.reader.step(log) {
                SlotStep::Read(read) => {
                    self.reading = Some(read);
                    effects.read_segment(read);
                    return;
                }
                SlotStep::Wait => return,
                SlotStep::Done => SlotsEnd::Given,
                SlotStep::Gone => SlotsEnd::Gone,
            };
            let ask = under_way.ask;
            self.under_way = None;
            self.end(ask, end);
        }
    }

    /// Whether this is what was asked for.
    #[must_use]
    pub(super) fn awaits(&self, read: &SegmentRead) -> bool {
        self.reading.as_ref() == Some(read)
    }

    /// Blocks were read. Says where they are damaged, if they are.
    ///
    /// # Panics
    /// If they weren't asked for ([`OldSlots::awaits`]).
    pub(super) fn on_read(&mut self, log: &Wal, read: &SegmentBlocks) -> Option<(SegmentId, u64)> {
        assert_eq!(self.reading.take(), Some(read.read), "what was asked for is read");
        if !log.counts(read.read.segment) {
            // The file may have become another segment's: what is needed is looked for again.
            return None;
        }
        let UnderWay { ask, mut reader } = self.under_way.take()?;
        let mut entries = Vec::new();
        let result = match &read.blocks {
            None => Err(read.read.first_block),
            Some(blocks) => {
                reader.on_read(log, blocks, |entry| entries.push(entry)).map_err(|(block, _)| block)
            }
        };
        self.give(ask, entries);
        match result {
            Ok(()) => {
                self.under_way = Some(UnderWay { ask, reader });
                None
            }
            Err(block) => {
                self.end(ask, SlotsEnd::Damaged);
                Some((read.read.segment, offset_of(block)))
            }
        }
    }

    /// Adds slots to the answer, in parts that fit a message.
    fn give(&mut self, ask: SlotAsk, entries: Vec<LoggedEntry>) {
        for entry in entries {
            let size_bytes = size_bytes(&entry);
            self.answers_size_bytes += size_bytes;
            match self.answers.back_mut() {
                Some(part)
                    if part.ask == ask
                        && part.end.is_none()
                        && part.size_bytes() + size_bytes <= PEER_MESSAGE_SIZE_BYTES =>
                {
                    part.entries.push(entry);
                }
                _ => self.answers.push_back(SlotAnswer { ask, entries: vec![entry], end: None }),
            }
        }
    }

    fn end(&mut self, ask: SlotAsk, end: SlotsEnd) {
        match self.answers.back_mut() {
            Some(part) if part.ask == ask && part.end.is_none() => part.end = Some(end),
            _ => self.answers.push_back(SlotAnswer { ask, entries: vec![], end: Some(end) }),
        }
    }
}

impl SlotAnswer {
    fn size_bytes(&self) -> usize {
        self.entries.iter().map(size_bytes).sum()
    }
}

/// What a slot takes in an answer: its value, and about as much as the rest of it.
fn size_bytes(entry: &LoggedEntry) -> usize {
    entry.value.as_ref().map_or(0, bytes::Bytes::len) + size_of::<LoggedEntry>()
}
