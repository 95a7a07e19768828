//! What it takes to undo what commands that aren't stable yet did to sessions.

use super::{Session, Sessions, StoredResult};
use crate::base::cast::u64_from;
use crate::base::ids::{Index, Sequence, SessionId};
use crate::map::digest::StateDigest;
use crate::map::partition::{Execution, Undo};

/// How one change of a session is undone.
#[derive(Debug)]
pub(super) struct UndoRecord {
    /// The command that made it.
    index: Index,
    session: SessionId,
    change: Change,
}

/// What was changed.
#[derive(Debug)]
pub(super) enum Change {
    /// The session was opened.
    Opened,
    /// It was closed, or has expired.
    Ended(Box<Session>),
    /// A command of it has come.
    Called {
        /// When it was active before that, and what was acknowledged.
        before: (u64, Sequence),
        /// The results that were acknowledged with it.
        dropped: Vec<(Sequence, StoredResult)>,
    },
    /// The result of a command was kept.
    Stored(Sequence),
}

impl Sessions {
    /// Keeps what it takes to undo a change, if it may have to be.
    pub(super) fn note(&mut self, run: Execution, session: SessionId, change: Change) {
        if run.undo == Undo::Discard {
            return;
        }
        for (_, result) in change.results() {
            self.undoable.add(result);
        }
        let last = self.journal.back();
        assert!(last.is_none_or(|last| last.index <= run.index), "commands come in order");
        self.journal.push_back(UndoRecord { index: run.index, session, change });
    }

    /// How many changes may be undone.
    pub(in crate::map) fn undo_count(&self) -> usize {
        self.journal.len()
    }

    /// Bytes of what may be undone, but for results.
    pub(in crate::map) fn journal_size_bytes(&self) -> u64 {
        u64_from(self.journal.capacity() * size_of::<UndoRecord>())
    }

    /// Commands up to `index` will not be undone.
    pub(in crate::map) fn commit(&mut self, index: Index) {
        while let Some(record) = self.journal.pop_front_if(|record| record.index <= index) {
            for (_, result) in record.change.results() {
                self.undoable.remove(result);
            }
        }
    }

    /// Undoes the commands after `index`, the newest first.
    pub(in crate::map) fn undo_to(&mut self, index: Index) {
        while let Some(record) = self.journal.pop_back_if(|record| record.index > index) {
            for (_, result) in record.change.results() {
                self.undoable.remove(result);
            }
            self.undo(record.session, record.change);
        }
    }

    fn undo(&mut self, id: SessionId, change: Change) {
        match change {
            // A checkpoint has no session that was opened after it began.
            Change::Opened => drop(self.remove(id)),
            Change::Ended(session) => self.insert(id, session),
            Change::Called { before, dropped } => {
                self.set_head(id, before);
                let session = self.table.get_mut(&id).expect("what came later was undone");
                for (_, result) in &dropped {
                    session.long_size_bytes += result.long_size_bytes();
                }
                for (sequence, result) in &dropped {
                    self.held.add(result);
                    let digest = StateDigest::of_result(id, *sequence, result.bytes());
                    self.digest = self.digest.plus(digest);
                }
                session.results.splice(..0, dropped);
            }
            Change::Stored(sequence) => {
                let session = self.table.get_mut(&id).expect("what came later was undone");
                let position = session.position(sequence).expect("the result was kept");
                let (_, result) = session.results.remove(position);
                session.long_size_bytes -= result.long_size_bytes();
                self.held.remove(&result);
                let digest = StateDigest::of_result(id, sequence, result.bytes());
                self.digest = self.digest.minus(digest);
            }
        }
    }
}

impl Change {
    /// The results that are kept for undoing it.
    fn results(&self) -> &[(Sequence, StoredResult)] {
        match self {
            Self::Opened | Self::Stored(_) => &[],
            Self::Ended(session) => &session.results,
            Self::Called { dropped, .. } => dropped,
        }
    }
}
