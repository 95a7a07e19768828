//! Sessions in a checkpoint: as of the index at which it began, while commands go on.
//!
//! They are written in the order of their ids. A session that is about to change before its turn
//! comes is written at once, into a buffer that goes before the next ones. What was opened later
//! has an id above the checkpoint's index, so it isn't taken for a part of it.

use super::{Session, Sessions};
use crate::base::cast::u64_from;
use crate::base::ids::{Index, SessionId};
use crate::map::checkpoint::{ITEM_SESSION, push_varint};

/// Which sessions the checkpoint that is under way has.
#[derive(Debug, Default)]
pub(super) struct Saving {
    /// The checkpoint's number in this process.
    number: u64,
    /// Sessions with these ids are still to be written, unless they were out of their turn.
    left: Option<(SessionId, SessionId)>,
    /// What was written out of its turn, and how much of it is part of a slice already.
    early: Vec<u8>,
    early_taken: usize,
}

/// What one step of writing came upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::map) enum Saved {
    /// There may be more to write.
    Some,
    /// All sessions are written.
    All,
}

impl Sessions {
    /// A checkpoint of the state as of `index`, the last one executed, begins.
    pub(in crate::map) fn begin_saving(&mut self, index: Index) {
        self.saving = Saving {
            number: self.saving.number + 1,
            left: Some((SessionId(0), SessionId(index.0))),
            ..Saving::default()
        };
    }

    /// Appends the next session to `out`, or what was written out of turn.
    pub(in crate::map) fn save(&mut self, size_bytes_max: usize, out: &mut Vec<u8>) -> Saved {
        let Self { saving, table, .. } = self;
        let early = &saving.early[saving.early_taken..];
        if !early.is_empty() {
            let size_bytes = early.len().min(size_bytes_max.max(1));
            out.extend_from_slice(&early[..size_bytes]);
            saving.early_taken += size_bytes;
            return Saved::Some;
        }
        (saving.early, saving.early_taken) = (Vec::new(), 0);
        let Some((first, last)) = saving.left else { return Saved::All };
        let next = table.range_mut(first..=last).next();
        let more = next.as_ref().is_some_and(|(id, _)| **id < last);
        saving.left = next.as_ref().filter(|_| more).map(|(id, _)| (id.next(), last));
        let Some((id, session)) = next else { return Saved::All };
        if session.saved_in != saving.number {
            session.saved_in = saving.number;
            session.encode(*id, out);
        }
        Saved::Some
    }

    /// The checkpoint that is under way has ended early.
    pub(in crate::map) fn stop_saving(&mut self) {
        self.saving = Saving { number: self.saving.number, ..Saving::default() };
    }

    /// Bytes that were written out of turn.
    pub(in crate::map) fn saving_size_bytes(&self) -> u64 {
        u64_from(self.saving.early.capacity())
    }

    /// A session is about to change: the checkpoint that is under way has it as it is now.
    pub(super) fn preserve(&mut self, id: SessionId) {
        let Self { saving, table, .. } = self;
        let Some((first, last)) = saving.left else { return };
        if first <= id
            && id <= last
            && let Some(session) = table.get_mut(&id)
            && session.saved_in != saving.number
        {
            session.saved_in = saving.number;
            session.encode(id, &mut saving.early);
        }
    }
}

impl Session {
    fn encode(&self, id: SessionId, out: &mut Vec<u8>) {
        out.push(ITEM_SESSION);
        let ttl_s = u64::from(self.ttl_s);
        let count = u64_from(self.results.len());
        for field in [id.0, ttl_s, self.active_s, self.ack_below.0, count] {
            push_varint(out, field);
        }
        for (sequence, result) in &self.results {
            push_varint(out, sequence.0);
            push_varint(out, u64_from(result.bytes().len()));
            out.extend_from_slice(result.bytes());
        }
    }
}
