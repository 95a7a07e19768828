//! Sessions: what lets a client send a command again without its being executed again (protocol,
//! 3.8).
//!
//! A session belongs to one partition, and its id is the index of the command that opened it: so a
//! late duplicate of that command opens another session, which nobody uses, and can never bring
//! back one that has expired. A command of a session has a number in it; the result of each is kept
//! until the client says that it needs those below some number no more. Of a window of
//! [`SESSION_WINDOW_COUNT`] numbers from there on, commands are taken in any order:
//!
//! ```text
//! session unknown, or expired by the log's time     SESSION_EXPIRED, not executed
//! number below what the client has acknowledged     SESSION_EXPIRED: its result is gone
//! number with a result                              that result, not executed
//! number beyond the window                          RESOURCE_EXHAUSTED, not executed
//! any other number                                  executed, and the result kept
//! ```
//!
//! A result that the session has no room for is RESOURCE_EXHAUSTED before anything was changed, and
//! isn't kept. Every command of a session keeps it alive: it expires when the log's time is more
//! than its time to live after its last command, to the second. Each slot removes a few expired
//! sessions, in the order of (time of expiry, id); until then they count, but are unknown.
//!
//! All of it is part of the state: of the digest, of checkpoints, and of what is undone.

mod saving;
mod undo;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::base::cast::u64_from;
use crate::base::ids::{Sequence, SessionId};
use crate::base::limits::{
    SESSION_COUNT_MAX, SESSION_RESULTS_SIZE_BYTES_MAX, SESSION_WINDOW_COUNT,
    SESSIONS_EXPIRED_PER_SLOT_COUNT_MAX, SESSIONS_RESULTS_SIZE_BYTES_MAX,
};
use crate::base::time::Timestamp;
use crate::mark;

pub(super) use self::saving::Saved;
use self::saving::Saving;
use self::undo::{Change, UndoRecord};
use super::digest::StateDigest;
use super::operation::SessionCall;
use super::partition::{Execution, Undo};

/// A result up to here lies in its session, a longer one is an allocation of its own.
const SHORT_SIZE_BYTES_MAX: usize = 22;
/// What a session takes beside its results: itself, and its places in two trees.
const SESSION_SIZE_BYTES: usize = size_of::<Session>() + 128;
/// What a result takes beside its bytes; lists of them grow by doubling.
const RESULT_SIZE_BYTES: usize = 2 * size_of::<(Sequence, StoredResult)>();

/// The sessions of a partition.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    table: BTreeMap<SessionId, Box<Session>>,
    /// When each of them expires, in seconds.
    deadlines: BTreeSet<(u64, SessionId)>,
    /// The first of these; 0: there is none.
    next_deadline_s: u64,
    /// How what isn't stable yet is undone, in the order of the log.
    journal: VecDeque<UndoRecord>,
    digest: StateDigest,
    /// The results of all sessions.
    held: Held,
    /// Results that are kept for undoing alone.
    undoable: Held,
    saving: Saving,
}

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    /// How long it outlives its last command.
    pub(super) ttl_s: u32,
    /// The log's time at its last command, in whole seconds.
    pub(super) active_s: u64,
    /// Results of lower numbers are gone; at least 1.
    pub(super) ack_below: Sequence,
    /// The results from there on, ascending, less than a window.
    pub(super) results: Vec<(Sequence, StoredResult)>,
    /// Bytes of the long ones among them.
    long_size_bytes: usize,
    /// The checkpoint that has it already, by its number in this process.
    saved_in: u64,
}

/// An encoded result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StoredResult {
    /// As that of a put: a version.
    Short {
        /// How many bytes it has.
        len: u8,
        /// Those, and zeros.
        bytes: [u8; SHORT_SIZE_BYTES_MAX],
    },
    /// With a value or an error.
    Long(Box<[u8]>),
}

/// Results, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    count: usize,
    /// Of the long ones.
    size_bytes: usize,
}

/// How a command stands in its session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing<'a> {
    /// There is no such session, or it has expired.
    Unknown,
    /// The client has said that it doesn't need the result.
    Acknowledged,
    /// It was executed before, with this result.
    Answered(&'a [u8]),
    /// Too many results are not acknowledged.
    BeyondWindow,
    /// It is to be executed, unless its result takes more than so many bytes.
    New {
        /// The bound.
        size_bytes_max: usize,
    },
}

impl StoredResult {
    pub(super) fn new(result: &[u8]) -> Self {
        assert!(!result.is_empty(), "a result says something");
        match u8::try_from(result.len()) {
            Ok(len) if result.len() <= SHORT_SIZE_BYTES_MAX => {
                let mut bytes = [0; SHORT_SIZE_BYTES_MAX];
                bytes[..result.len()].copy_from_slice(result);
                Self::Short { len, bytes }
            }
            _ => Self::Long(result.into()),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => &bytes[..usize::from(*len)],
            Self::Long(bytes) => bytes,
        }
    }

    pub(super) fn long_size_bytes(&self) -> usize {
        match self {
            Self::Short { .. } => 0,
            Self::Long(bytes) => bytes.len(),
        }
    }
}

impl Held {
    fn add(&mut self, result: &StoredResult) {
        self.count += 1;
        self.size_bytes += result.long_size_bytes();
    }

    fn remove(&mut self, result: &StoredResult) {
        self.count -= 1;
        self.size_bytes -= result.long_size_bytes();
    }

    const fn memory_size_bytes(&self) -> usize {
        self.count * RESULT_SIZE_BYTES + self.size_bytes
    }
}

impl Session {
    /// A session as a checkpoint has it.
    pub(super) fn loaded(
        ttl_s: u32,
        active_s: u64,
        ack_below: Sequence,
        results: Vec<(Sequence, StoredResult)>,
    ) -> Self {
        let long_size_bytes = results.iter().map(|(_, result)| result.long_size_bytes()).sum();
        Self { ttl_s, active_s, ack_below, results, long_size_bytes, saved_in: 0 }
    }

    /// The first second of the log's time at which it is unknown: later than its time to live after
    /// its last command, whatever part of a second that came at.
    fn deadline_s(&self) -> u64 {
        self.active_s.saturating_add(u64::from(self.ttl_s)).saturating_add(1)
    }

    fn digest(&self, id: SessionId) -> StateDigest {
        let state = [u64::from(self.ttl_s), self.active_s, self.ack_below.0];
        StateDigest::of_session(id, state)
    }

    fn position(&self, sequence: Sequence) -> Result<usize, usize> {
        self.results.binary_search_by_key(&sequence, |(sequence, _)| *sequence)
    }
}

impl Sessions {
    /// How many there are, expired ones among them.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether one has expired.
    #[inline]
    pub(super) const fn is_due(&self, time: Timestamp) -> bool {
        self.next_deadline_s != 0 && time.parts().0 >= self.next_deadline_s
    }

    /// When the next one expires.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        (self.next_deadline_s > 0).then(|| self.next_deadline_s.saturating_mul(1_000))
    }

    /// The digest of all sessions and their results.
    pub(super) const fn digest(&self) -> StateDigest {
        self.digest
    }

    /// Bytes of sessions, of their results and of what may be undone, roughly.
    pub(super) fn size_bytes(&self) -> u64 {
        let sessions = self.table.len() * SESSION_SIZE_BYTES;
        let results = self.held.memory_size_bytes() + self.undoable.memory_size_bytes();
        u64_from(sessions + results) + self.journal_size_bytes()
    }

    /// Removes a few of those that have expired.
    pub(super) fn expire(&mut self, run: Execution) {
        for _ in 0..SESSIONS_EXPIRED_PER_SLOT_COUNT_MAX {
            if !self.is_due(run.time) {
                return;
            }
            mark!("session-removed");
            let (_, id) = *self.deadlines.first().expect("one is due");
            self.end(run, id);
        }
    }

    /// Opens a session, unless there are too many.
    pub(super) fn open(&mut self, run: Execution, ttl_s: u32) -> Option<SessionId> {
        if self.table.len() >= SESSION_COUNT_MAX {
            return None;
        }
        let id = SessionId(run.index.0);
        let active_s = run.time.parts().0;
        self.insert(id, Box::new(Session::loaded(ttl_s, active_s, Sequence(1), Vec::new())));
        self.note(run, id, Change::Opened);
        Some(id)
    }

    /// Notes that a command of a session has come, and says what is to be done with it.
    pub(super) fn call(&mut self, run: Execution, call: SessionCall) -> Standing<'_> {
        if !self.touch(run, call) {
            return Standing::Unknown;
        }
        let session = &self.table[&call.session];
        if call.sequence < session.ack_below {
            return Standing::Acknowledged;
        }
        match session.position(call.sequence) {
            Ok(position) => Standing::Answered(session.results[position].1.bytes()),
            Err(_) if call.sequence.since(session.ack_below) >= SESSION_WINDOW_COUNT => {
                Standing::BeyondWindow
            }
            Err(_) => {
                let of_session = SESSION_RESULTS_SIZE_BYTES_MAX - session.long_size_bytes;
                let of_all = SESSIONS_RESULTS_SIZE_BYTES_MAX - self.held.size_bytes;
                let size_bytes_max = of_session.min(of_all).max(SHORT_SIZE_BYTES_MAX);
                Standing::New { size_bytes_max }
            }
        }
    }

    /// Keeps the result of a command that was executed.
    ///
    /// # Panics
    /// If it isn't a new one of a session that is known.
    pub(super) fn store(&mut self, run: Execution, call: SessionCall, result: &[u8]) {
        let (id, sequence) = (call.session, call.sequence);
        self.preserve(id);
        let session = self.table.get_mut(&id).expect("the command's session is known");
        let position = session.position(sequence).expect_err("the command is a new one");
        let stored = StoredResult::new(result);
        session.long_size_bytes += stored.long_size_bytes();
        self.held.add(&stored);
        session.results.insert(position, (sequence, stored));
        self.digest = self.digest.plus(StateDigest::of_result(id, sequence, result));
        self.note(run, id, Change::Stored(sequence));
    }

    /// A command keeps its session alive; how long the session outlives it. `None`: unknown.
    pub(super) fn keep(&mut self, run: Execution, call: SessionCall) -> Option<u32> {
        let is_known = self.touch(run, call);
        is_known.then(|| self.table[&call.session].ttl_s)
    }

    /// Ends a session. False: it is unknown.
    pub(super) fn close(&mut self, run: Execution, call: SessionCall) -> bool {
        let is_known = self.is_known(run, call.session);
        if is_known {
            self.end(run, call.session);
        }
        is_known
    }

    /// Adds a session as a checkpoint has it. False: it has it twice, or too many.
    pub(super) fn load(&mut self, id: SessionId, session: Session) -> bool {
        let is_new = !self.table.contains_key(&id) && self.table.len() < SESSION_COUNT_MAX;
        if is_new {
            self.insert(id, Box::new(session));
        }
        is_new && self.held.size_bytes <= SESSIONS_RESULTS_SIZE_BYTES_MAX
    }

    fn is_known(&self, run: Execution, id: SessionId) -> bool {
        let session = self.table.get(&id);
        session.is_some_and(|session| run.time.parts().0 < session.deadline_s())
    }

    /// Notes a sign of life, and what the client has acknowledged. False: there is no such session.
    fn touch(&mut self, run: Execution, call: SessionCall) -> bool {
        let id = call.session;
        if !self.is_known(run, id) {
            return false;
        }
        let session = &self.table[&id];
        let active_s = run.time.parts().0.max(session.active_s);
        let ack_below = call.ack_below.max(session.ack_below);
        if (active_s, ack_below) == (session.active_s, session.ack_below) {
            return true;
        }
        self.preserve(id);
        let before = self.set_head(id, (active_s, ack_below));
        let session = self.table.get_mut(&id).expect("it is known");
        let count = session.results.partition_point(|(sequence, _)| *sequence < ack_below);
        let mut dropped = Vec::new();
        for (sequence, result) in session.results.drain(..count) {
            session.long_size_bytes -= result.long_size_bytes();
            self.held.remove(&result);
            let digest = StateDigest::of_result(id, sequence, result.bytes());
            self.digest = self.digest.minus(digest);
            if run.undo == Undo::Keep {
                dropped.push((sequence, result));
            }
        }
        self.note(run, id, Change::Called { before, dropped });
        true
    }

    /// Sets when a session was active and what is acknowledged; what was there before.
    fn set_head(&mut self, id: SessionId, head: (u64, Sequence)) -> (u64, Sequence) {
        let session = self.table.get_mut(&id).expect("the session is known");
        let before = (session.active_s, session.ack_below);
        let (deadline_s, digest) = (session.deadline_s(), session.digest(id));
        (session.active_s, session.ack_below) = head;
        let new_deadline_s = session.deadline_s();
        self.digest = self.digest.minus(digest).plus(session.digest(id));
        if deadline_s != new_deadline_s {
            self.deadlines.remove(&(deadline_s, id));
            self.deadlines.insert((new_deadline_s, id));
            self.note_next_deadline();
        }
        before
    }

    fn insert(&mut self, id: SessionId, session: Box<Session>) {
        self.deadlines.insert((session.deadline_s(), id));
        self.note_next_deadline();
        self.digest = self.digest.plus(session.digest(id));
        for (sequence, result) in &session.results {
            self.held.add(result);
            let digest = StateDigest::of_result(id, *sequence, result.bytes());
            self.digest = self.digest.plus(digest);
        }
        let before = self.table.insert(id, session);
        assert!(before.is_none(), "an index opens one session");
    }

    fn remove(&mut self, id: SessionId) -> Box<Session> {
        let session = self.table.remove(&id).expect("a session that ends is there");
        self.deadlines.remove(&(session.deadline_s(), id));
        self.note_next_deadline();
        self.digest = self.digest.minus(session.digest(id));
        for (sequence, result) in &session.results {
            self.held.remove(result);
            let digest = StateDigest::of_result(id, *sequence, result.bytes());
            self.digest = self.digest.minus(digest);
        }
        session
    }

    fn end(&mut self, run: Execution, id: SessionId) {
        self.preserve(id);
        let session = self.remove(id);
        self.note(run, id, Change::Ended(session));
    }

    fn note_next_deadline(&mut self) {
        self.next_deadline_s = self.deadlines.first().map_or(0, |(deadline_s, _)| *deadline_s);
    }
}

// A stored result takes no more than a reference to a longer one would.
const _: () = assert!(size_of::<StoredResult>() == 24);

#[cfg(test)]
mod tests;
