//! What a slot does: it removes some of what has expired by its time, then executes its command, in
//! its session if it has one.

use smallvec::SmallVec;

use super::{Execution, PartitionMap, Target, Undo};
use crate::base::cast::u64_from;
use crate::base::limits::EXPIRED_PER_SLOT_COUNT_MAX;
use crate::base::mutant::{self, Mutant};
use crate::base::payload::ResultBytes;
use crate::map::arena::{Arena, RecordRef};
use crate::map::hasher::KeyHash;
use crate::map::journal::{Change, UndoRecord};
use crate::map::operation::{Command, Condition, Operation, SessionCall, Ttl};
use crate::map::outcome::{Failure, Outcome, Sink, Versioned};
use crate::map::record::{NewRecord, Record};
use crate::map::sessions::Standing;
use crate::map::table::Place;
use crate::mark;
use crate::proto::p2pmap::v1::error::Code;

/// What a put is to do.
#[derive(Clone, Copy)]
struct Put<'a> {
    value: &'a [u8],
    condition: Option<Condition<'a>>,
    ttl: Ttl,
    want_previous: bool,
}

/// Where a command's result goes, and how long it may be.
struct Reply<'o, S> {
    out: &'o mut S,
    size_bytes_max: usize,
    /// It was too long: the command must not change anything.
    is_refused: bool,
}

impl<S: Sink> Reply<'_, S> {
    /// Gives the result, before the command has changed anything. False: it must not do so.
    #[inline]
    fn give(&mut self, outcome: &Outcome<'_>) -> bool {
        if self.size_bytes_max < usize::MAX && outcome.encoded_size_bytes() > self.size_bytes_max {
            Outcome::Failed(NO_ROOM_FOR_RESULT).encode(self.out);
            self.is_refused = true;
            return false;
        }
        outcome.encode(self.out);
        true
    }
}

impl PartitionMap {
    /// Executes a command and appends its encoded `Result` to `out`. `hash` is that of the
    /// command's map and key ([`KeyHasher::hash`](crate::map::hasher::KeyHasher::hash)); what is
    /// about no key has none and ignores it.
    ///
    /// # Panics
    /// If the index is not after the last one, or if a stable command follows one that is not.
    pub fn execute(
        &mut self,
        arena: &mut Arena,
        run: Execution,
        command: &Command<'_>,
        hash: KeyHash,
        out: &mut impl Sink,
    ) {
        assert!(run.index > self.applied, "commands come in order");
        assert!(run.index > self.committed, "what is committed is executed already");
        if run.undo == Undo::Discard {
            assert!(self.undo_count() == 0, "what precedes a stable command is stable");
            self.committed = run.index;
        }
        self.applied = run.index;
        let mut expired_count = 0;
        if self.maps.is_due(run.time) {
            expired_count = self.expire(arena, run);
        }
        if self.sessions.is_due(run.time) {
            self.sessions.expire(run);
        }
        match (command.operation, command.session) {
            (Operation::Tick, _) => Outcome::Cleared { entries: expired_count }.encode(out),
            (Operation::OpenSession { ttl_s }, _) => self.open_session(run, ttl_s, out),
            (Operation::KeepSession | Operation::CloseSession, Some(call)) => {
                self.end_or_keep_session(run, command.operation, call, out);
            }
            (_, Some(call)) => self.execute_in_session(arena, run, (command, call), hash, out),
            (_, None) => {
                let mut reply = Reply { out, size_bytes_max: usize::MAX, is_refused: false };
                self.operate(arena, run, command, hash, &mut reply);
            }
        }
    }

    /// Executes an operation on a map.
    #[inline]
    fn operate(
        &mut self,
        arena: &mut Arena,
        run: Execution,
        command: &Command<'_>,
        hash: KeyHash,
        reply: &mut Reply<'_, impl Sink>,
    ) {
        match command.operation {
            Operation::Put { key, value, condition, ttl, want_previous } => {
                let target = self.target(arena, command.map, key, hash);
                let put = Put { value, condition, ttl, want_previous };
                self.put(arena, run, &target, put, reply);
            }
            Operation::Remove { key, condition, want_previous } => {
                let target = self.target(arena, command.map, key, hash);
                self.remove(arena, run, &target, (condition, want_previous), reply);
            }
            Operation::Clear => self.clear(run, command.map, reply),
            Operation::OpenSession { .. }
            | Operation::KeepSession
            | Operation::CloseSession
            | Operation::Tick => unreachable!("it is about no map"),
        }
    }

    /// Executes a command of a session, unless it was executed before.
    #[cold]
    fn execute_in_session(
        &mut self,
        arena: &mut Arena,
        run: Execution,
        (command, call): (&Command<'_>, SessionCall),
        hash: KeyHash,
        out: &mut impl Sink,
    ) {
        let size_bytes_max = match self.sessions.call(run, call) {
            Standing::Unknown => {
                mark!("session-unknown");
                return Outcome::Failed(SESSION_UNKNOWN).encode(out);
            }
            Standing::Acknowledged => {
                mark!("session-result-gone");
                return Outcome::Failed(RESULT_GONE).encode(out);
            }
            Standing::BeyondWindow => {
                mark!("session-window-full");
                return Outcome::Failed(WINDOW_FULL).encode(out);
            }
            Standing::Answered(_) if mutant::is(Mutant::RetryExecuted) => {
                let mut reply = Reply { out, size_bytes_max: usize::MAX, is_refused: false };
                return self.operate(arena, run, command, hash, &mut reply);
            }
            Standing::Answered(result) => {
                mark!("session-result-repeated");
                return out.append(result);
            }
            Standing::New { size_bytes_max } => size_bytes_max,
        };
        let mut result = ResultBytes::new();
        let mut reply = Reply { out: &mut result, size_bytes_max, is_refused: false };
        self.operate(arena, run, command, hash, &mut reply);
        if !reply.is_refused {
            self.sessions.store(run, call, &result);
        }
        out.append(&result);
    }

    #[cold]
    fn open_session(&mut self, run: Execution, ttl_s: u32, out: &mut impl Sink) {
        let outcome = match self.sessions.open(run, ttl_s) {
            Some(session) => Outcome::Session { session, ttl_ms: u64::from(ttl_s) * 1_000 },
            None => Outcome::Failed(TOO_MANY_SESSIONS),
        };
        outcome.encode(out);
    }

    #[cold]
    fn end_or_keep_session(
        &mut self,
        run: Execution,
        operation: Operation<'_>,
        call: SessionCall,
        out: &mut impl Sink,
    ) {
        let ttl_s = match operation {
            Operation::CloseSession => self.sessions.close(run, call).then_some(0),
            _ => self.sessions.keep(run, call),
        };
        let outcome = match ttl_s {
            Some(ttl_s) => {
                Outcome::Session { session: call.session, ttl_ms: u64::from(ttl_s) * 1_000 }
            }
            None => Outcome::Failed(SESSION_UNKNOWN),
        };
        outcome.encode(out);
    }

    /// Removes some of the entries that have expired; how many.
    #[cold]
    fn expire(&mut self, arena: &mut Arena, run: Execution) -> u64 {
        let now_ms = run.time.as_ms();
        self.horizon.advance(run.index, now_ms, run.undo);
        let mut count = 0;
        while count < EXPIRED_PER_SLOT_COUNT_MAX
            && let Some((_, at)) = self.maps.next_due().filter(|(key, _)| key.expires_ms <= now_ms)
        {
            let record = arena.records.record(at);
            let key: SmallVec<[u8; 64]> = SmallVec::from_slice(record.key());
            let hash = self.hasher.hash(self.maps.life(record.map).name(), &key);
            let found = self.table.find(&arena.tables, hash, |found| found == at);
            let (place, _) = found.expect("an entry that expires is in the table");
            self.take_out(arena, run, (&key, hash), (place, at));
            mark!("entry-expired");
            count += 1;
        }
        u64_from(count)
    }

    fn put(
        &mut self,
        arena: &mut Arena,
        run: Execution,
        target: &Target<'_>,
        put: Put<'_>,
        reply: &mut Reply<'_, impl Sink>,
    ) {
        let updated_ms = run.time.as_ms();
        let stored = target.stored(arena);
        let current = stored.filter(|record| !record.is_expired(updated_ms));
        if let Some(failure) = failure(put.condition, current, updated_ms) {
            reply.give(&Outcome::Failed(failure));
            return;
        }
        if stored.is_none() && self.maps.is_full_for(target.id) {
            reply.give(&Outcome::Failed(TOO_MANY_MAPS));
            return;
        }
        let previous = current.filter(|_| put.want_previous);
        let previous = previous.map(|record| Versioned::of(&record, || updated_ms));
        if !reply.give(&Outcome::Written { version: run.index, previous }) {
            return;
        }

        let created_ms = current.map_or(updated_ms, |record| record.created_ms);
        let ttl_ms = ttl_ms(put.ttl, updated_ms, current.as_ref());
        let map = target.id.unwrap_or_else(|| self.maps.bind(target.map, run.index));
        let life = self.maps.life(map);
        let before = life.size();
        let old = target.found.map(|(_, old)| old);
        let removed = stored.zip(old).map(|(record, old)| life.weight(old, &record));
        let new = arena.records.insert(&NewRecord {
            map,
            version: run.index,
            created_ms,
            updated_ms,
            ttl_ms,
            removed: false,
            key: target.key,
            value: put.value,
        });
        let added = life.weight(new, &arena.records.record(new));
        match target.found {
            Some((place, _)) => self.table.replace(&mut arena.tables, target.hash, place, new),
            None => self.insert(arena, target.hash, new),
        }
        self.maps.account(map, removed, Some(added), run.index);
        match run.undo {
            Undo::Keep => {
                self.maps.hold(map);
                let change = Change::Put { hash: target.hash, old, new };
                self.journal.push(UndoRecord { index: run.index, map, before, change });
            }
            Undo::Discard => {
                if let Some(old) = old {
                    self.free(arena, target.hash, old);
                }
            }
        }
    }

    fn remove(
        &mut self,
        arena: &mut Arena,
        run: Execution,
        target: &Target<'_>,
        (condition, want_previous): (Option<Condition<'_>>, bool),
        reply: &mut Reply<'_, impl Sink>,
    ) {
        let now_ms = run.time.as_ms();
        // What has expired is left to those who remove it in its turn.
        let current = target.stored(arena).filter(|record| !record.is_expired(now_ms));
        if let Some(failure) = failure(condition, current, now_ms) {
            reply.give(&Outcome::Failed(failure));
            return;
        }
        let previous = current.filter(|_| want_previous);
        let previous = previous.map(|record| Versioned::of(&record, || now_ms));
        let is_given = reply.give(&Outcome::Removed { existed: current.is_some(), previous });
        if is_given && current.is_some() {
            let found = target.found.expect("what is present was found");
            self.take_out(arena, run, (target.key, target.hash), found);
        }
    }

    /// Removes an entry of the state.
    fn take_out(
        &mut self,
        arena: &mut Arena,
        run: Execution,
        (key, hash): (&[u8], KeyHash),
        (place, old): (Place, RecordRef),
    ) {
        let record = arena.records.record(old);
        let map = record.map;
        let life = self.maps.life(map);
        let before = life.size();
        let removed = life.weight(old, &record);
        self.maps.account(map, Some(removed), None, run.index);
        match run.undo {
            Undo::Keep => {
                let now_ms = run.time.as_ms();
                let new = arena.records.insert(&NewRecord {
                    map,
                    version: run.index,
                    created_ms: now_ms,
                    updated_ms: now_ms,
                    ttl_ms: 0,
                    removed: true,
                    key,
                    value: &[],
                });
                self.table.replace(&mut arena.tables, hash, place, new);
                self.maps.hold(map);
                let change = Change::Removed { hash, old, new };
                self.journal.push(UndoRecord { index: run.index, map, before, change });
            }
            Undo::Discard => {
                self.table.remove(&mut arena.tables, hash, place);
                self.free(arena, hash, old);
                self.maps.drop_if_unused(map);
            }
        }
    }

    fn clear(&mut self, run: Execution, map: &str, reply: &mut Reply<'_, impl Sink>) {
        let id = self.maps.find(map).filter(|id| self.maps.life(*id).size().entries > 0);
        let before = id.map(|id| self.maps.life(id).size()).unwrap_or_default();
        let is_given = reply.give(&Outcome::Cleared { entries: before.entries });
        let Some(id) = id.filter(|_| is_given) else { return };
        match run.undo {
            Undo::Keep => {
                let fresh = self.maps.clear_reversibly(id, run.index);
                self.maps.hold(id);
                self.maps.hold(fresh);
                let change = Change::Cleared { fresh };
                self.journal.push(UndoRecord { index: run.index, map: id, before, change });
            }
            Undo::Discard => self.maps.clear(id, run.index),
        }
    }
}

const fn refusal(code: Code, message: &'static str) -> Failure<'static> {
    Failure { code, message, current: None }
}

const TOO_MANY_MAPS: Failure<'static> =
    refusal(Code::ResourceExhausted, "the partition has as many maps as it may have");
const TOO_MANY_SESSIONS: Failure<'static> =
    refusal(Code::ResourceExhausted, "the partition has as many sessions as it may have");
const WINDOW_FULL: Failure<'static> = refusal(
    Code::ResourceExhausted,
    "the session keeps as many results as it may: raise ack_below",
);
const NO_ROOM_FOR_RESULT: Failure<'static> = refusal(
    Code::ResourceExhausted,
    "the session has no room for the result: raise ack_below, or ask for no entry with it",
);
const SESSION_UNKNOWN: Failure<'static> =
    refusal(Code::SessionExpired, "the session is unknown, or has expired");
const RESULT_GONE: Failure<'static> =
    refusal(Code::SessionExpired, "the result was acknowledged, and is gone");

/// How long a new record lives that replaces `current`.
#[inline]
pub(super) fn ttl_ms(ttl: Ttl, now_ms: u64, current: Option<&Record<'_>>) -> u64 {
    match ttl {
        Ttl::Unlimited => 0,
        Ttl::Ms(ttl_ms) => ttl_ms,
        // It is present, so it hasn't expired.
        Ttl::Keep => {
            current.and_then(Record::expires_ms).map_or(0, |expires_ms| expires_ms - now_ms)
        }
    }
}

/// Why the condition does not hold, if it doesn't.
fn failure<'a>(
    condition: Option<Condition<'_>>,
    current: Option<Record<'a>>,
    now_ms: u64,
) -> Option<Failure<'a>> {
    let message = match (condition?, current) {
        (Condition::Absent, None) | (Condition::Present, Some(_)) => return None,
        (Condition::Version(version), Some(record)) if record.version == version => return None,
        (Condition::Value(value), Some(record)) if record.value() == value => return None,
        (Condition::Absent, Some(_)) => "the key is present",
        (Condition::Present | Condition::Version(_) | Condition::Value(_), None) => {
            "the key is absent"
        }
        (Condition::Version(_), Some(_)) => "the key has another version",
        (Condition::Value(_), Some(_)) => "the key has another value",
    };
    let current = current.map(|record| Versioned::of(&record, || now_ms));
    Some(Failure { code: Code::ConditionFailed, message, current })
}
