//! Takes repairs apart: what a repair answers may be longer than a message should be. The protocol
//! lets an answer come in any number of messages, so nobody has to put them together again.

use crate::base::limits::{
    PEER_ENTRY_COUNT_MAX, PEER_MESSAGE_OVERHEAD_BYTES_MAX, PEER_MESSAGE_SIZE_BYTES,
};
use crate::nopaxos::message::{CheckpointPart, Entry};
use crate::wire::peer::field::{Encode, Fields, size_bytes};

/// Takes the entries of an answer apart into what goes into one message each. None of them makes a
/// message longer than it should be, unless a single entry does. The first message carries the
/// chunk, if there is one, so there is always a first one, if need be without an entry.
#[must_use]
pub fn split<'a>(chunk: Option<&'a CheckpointPart>, entries: &'a [Entry]) -> Split<'a> {
    Split { is_begun: false, chunk, entries }
}

/// What goes into one message after the other. See [`split()`].
#[derive(Clone, Debug)]
pub struct Split<'a> {
    is_begun: bool,
    chunk: Option<&'a CheckpointPart>,
    entries: &'a [Entry],
}

impl<'a> Iterator for Split<'a> {
    type Item = (Option<&'a CheckpointPart>, &'a [Entry]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_begun && self.entries.is_empty() {
            return None;
        }
        self.is_begun = true;
        let chunk = self.chunk.take();
        let (entries, rest) = self.entries.split_at(fitting_count(chunk, self.entries));
        self.entries = rest;
        Some((chunk, entries))
    }
}

/// How many entries fit a message with this chunk; at least one if there is no chunk.
fn fitting_count(chunk: Option<&CheckpointPart>, entries: &[Entry]) -> usize {
    let mut size = PEER_MESSAGE_OVERHEAD_BYTES_MAX + chunk.map_or(0, size_bytes);
    let fits = |entry: &&Entry| {
        size += size_bytes(&EntryField(entry));
        size <= PEER_MESSAGE_SIZE_BYTES
    };
    let count = entries.iter().take(PEER_ENTRY_COUNT_MAX).take_while(fits).count();
    if count == 0 && chunk.is_none() { entries.len().min(1) } else { count }
}

/// An entry with what stands before it; in all messages its key takes one byte.
struct EntryField<'a>(&'a Entry);

impl Encode for EntryField<'_> {
    fn encode(&self, out: &mut impl Fields) {
        out.message(1, self.0);
    }
}

#[cfg(test)]
mod tests;
