//! Takes repairs apart: what a repair answers may be longer than a message should be.

use std::iter::Peekable;
use std::vec;

use crate::base::ids::TermId;
use crate::base::limits::{
    MESSAGE_ENTRY_COUNT_MAX, MESSAGE_OVERHEAD_BYTES_MAX, MESSAGE_SIZE_BYTES,
};
use crate::nopaxos::message::{CheckpointPart, Entry, Message};
use crate::wire::peer::field::{Encode, Fields, size_bytes};

/// The messages that say what `message` says, in order, none of them longer than a message should
/// be unless an entry is, or a chunk and nothing else.
///
/// A `RecoverResponse` stays one message: entries that don't fit are left out, as the protocol
/// allows (its receiver asks for the rest).
#[must_use]
pub fn split(message: Message) -> Split {
    let (kind, chunk, entries) = match message {
        Message::ViewRepairResponse { term, chunk, entries } => (Kind::View(term), chunk, entries),
        Message::SyncRepairResponse { term, chunk, entries } => (Kind::Sync(term), chunk, entries),
        Message::RecoverResponse { attempt, term, message_id, chunk, entries } => {
            let mut entries = entries.into_iter().peekable();
            let entries = run(chunk.as_ref(), &mut entries);
            let whole = Message::RecoverResponse { attempt, term, message_id, chunk, entries };
            (Kind::Whole(Some(whole)), None, Vec::new())
        }
        other => (Kind::Whole(Some(other)), None, Vec::new()),
    };
    Split { kind, is_begun: false, chunk, entries: entries.into_iter().peekable() }
}

/// Messages that together say what a long one would. See [`split`].
#[derive(Debug)]
pub struct Split {
    kind: Kind,
    is_begun: bool,
    chunk: Option<CheckpointPart>,
    entries: Peekable<vec::IntoIter<Entry>>,
}

#[derive(Debug)]
enum Kind {
    Whole(Option<Message>),
    View(TermId),
    Sync(TermId),
}

impl Iterator for Split {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        if let Kind::Whole(message) = &mut self.kind {
            return message.take();
        }
        if self.is_begun && self.entries.peek().is_none() {
            return None;
        }
        self.is_begun = true;
        let chunk = self.chunk.take();
        let entries = run(chunk.as_ref(), &mut self.entries);
        match &mut self.kind {
            Kind::View(term) => Some(Message::ViewRepairResponse { term: *term, chunk, entries }),
            Kind::Sync(term) => Some(Message::SyncRepairResponse { term: *term, chunk, entries }),
            Kind::Whole(message) => message.take(),
        }
    }
}

/// As many entries as fit a message with this chunk; at least one if there is no chunk.
fn run(chunk: Option<&CheckpointPart>, entries: &mut Peekable<vec::IntoIter<Entry>>) -> Vec<Entry> {
    let mut size = MESSAGE_OVERHEAD_BYTES_MAX + chunk.map_or(0, size_bytes);
    let mut run = Vec::new();
    while let Some(entry) = entries.peek() {
        size += entry_size_bytes(entry);
        let is_alone = run.is_empty() && chunk.is_none();
        if !is_alone && (size > MESSAGE_SIZE_BYTES || run.len() == MESSAGE_ENTRY_COUNT_MAX) {
            break;
        }
        run.extend(entries.next());
    }
    run
}

/// What an entry takes in a message, with what stands before it.
fn entry_size_bytes(entry: &Entry) -> usize {
    struct Field<'a>(&'a Entry);

    impl Encode for Field<'_> {
        fn encode(&self, out: &mut impl Fields) {
            out.message(ENTRIES, self.0);
        }
    }

    size_bytes(&Field(entry))
}

/// The field of entries; in all messages its key takes one byte.
const ENTRIES: u32 = 5;

#[cfg(test)]
mod tests;
