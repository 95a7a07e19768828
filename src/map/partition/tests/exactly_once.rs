//! All of the state machine against a model: sessions, times to live, conditions and clears, with
//! commands undone to any index, checkpoints loaded in the middle of it, and a twin that never
//! undoes anything.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample;
use prost::Message as _;

use super::*;
use crate::base::ids::{Sequence, SessionId};
use crate::base::limits::{
    EXPIRED_PER_SLOT_COUNT_MAX, SESSION_RESULTS_SIZE_BYTES_MAX, SESSION_WINDOW_COUNT,
    SESSIONS_EXPIRED_PER_SLOT_COUNT_MAX,
};
use crate::map::checkpoint::{MapLoader, Progress, SliceBudget};
use crate::map::operation::SessionCall;
use crate::proto::p2pmap::v1::result::Outcome as Answer;

const MAPS: [&str; 2] = ["a", "orders"];
const NS_PER_S: u64 = crate::base::time::NS_PER_S;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    value: Vec<u8>,
    version: u64,
    created_ms: u64,
    updated_ms: u64,
    expires_ms: Option<u64>,
}

impl Entry {
    fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms)
    }

    fn versioned(&self, now_ms: u64) -> v1::Versioned {
        v1::Versioned {
            value: self.value.clone().into(),
            version: self.version,
            created_ms: self.created_ms.cast_signed(),
            updated_ms: self.updated_ms.cast_signed(),
            ttl_ms: self.expires_ms.map_or(0, |expires_ms| expires_ms - now_ms),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ModelSession {
    ttl_s: u32,
    active_s: u64,
    ack_below: u64,
    results: BTreeMap<u64, Vec<u8>>,
}

impl ModelSession {
    fn deadline_s(&self) -> u64 {
        self.active_s + u64::from(self.ttl_s) + 1
    }

    fn long_size_bytes(&self) -> usize {
        self.results.values().map(Vec::len).filter(|len| *len > 22).sum()
    }
}

/// What the state machine's state is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    maps: BTreeMap<&'static str, BTreeMap<Vec<u8>, Entry>>,
    sessions: BTreeMap<u64, ModelSession>,
}

#[derive(Clone, Debug)]
enum Wanted {
    Absent,
    Present,
    Version(u64),
    Value(Vec<u8>),
}

#[derive(Clone, Debug)]
enum Change {
    Put { value: Vec<u8>, ttl: Ttl, wanted: Option<Wanted>, want_previous: bool },
    Remove { wanted: Option<Wanted>, want_previous: bool },
    Clear,
    Open { ttl_s: u32 },
    Keep,
    Close,
    Tick,
}

/// A command of the log, and what came of it.
#[derive(Clone, Debug)]
struct Logged {
    index: u64,
    time: Timestamp,
    map: &'static str,
    key: Vec<u8>,
    session: Option<SessionCall>,
    change: Change,
    result: Vec<u8>,
}

fn condition(wanted: Option<&Wanted>) -> Option<Condition<'_>> {
    wanted.map(|wanted| match wanted {
        Wanted::Absent => Condition::Absent,
        Wanted::Present => Condition::Present,
        Wanted::Version(version) => Condition::Version(Index(*version)),
        Wanted::Value(value) => Condition::Value(value),
    })
}

impl Logged {
    fn command(&self) -> Command<'_> {
        let key = &self.key[..];
        let operation = match &self.change {
            Change::Put { value, ttl, wanted, want_previous } => Operation::Put {
                key,
                value,
                condition: condition(wanted.as_ref()),
                ttl: *ttl,
                want_previous: *want_previous,
            },
            Change::Remove { wanted, want_previous } => Operation::Remove {
                key,
                condition: condition(wanted.as_ref()),
                want_previous: *want_previous,
            },
            Change::Clear => Operation::Clear,
            Change::Open { ttl_s } => Operation::OpenSession { ttl_s: *ttl_s },
            Change::Keep => Operation::KeepSession,
            Change::Close => Operation::CloseSession,
            Change::Tick => Operation::Tick,
        };
        Command {
            map: self.map,
            session: self.session,
            timeout_ms: 0,
            no_forward: false,
            operation,
        }
    }
}

fn error(code: Code, current: Option<v1::Versioned>) -> Answer {
    Answer::Error(v1::Error { code: code.into(), message: String::new(), hint: None, current })
}

/// Why a condition does not hold, if it doesn't. The text is part of a result's length.
fn failure(wanted: Option<&Wanted>, current: Option<&Entry>, now_ms: u64) -> Option<Answer> {
    let (holds, message) = match (wanted?, current) {
        (Wanted::Absent, current) => (current.is_none(), "the key is present"),
        (_, None) => (false, "the key is absent"),
        (Wanted::Present, Some(_)) => (true, ""),
        (Wanted::Version(version), Some(entry)) => {
            (entry.version == *version, "the key has another version")
        }
        (Wanted::Value(value), Some(entry)) => (entry.value == *value, "the key has another value"),
    };
    (!holds).then(|| {
        Answer::Error(v1::Error {
            code: Code::ConditionFailed.into(),
            message: message.to_owned(),
            hint: None,
            current: current.map(|entry| entry.versioned(now_ms)),
        })
    })
}

impl Model {
    /// What a slot does, in the plainest way; texts of errors of sessions are left out.
    fn execute(&mut self, logged: &Logged) -> Answer {
        let now_ms = logged.time.as_ms();
        let expired_count = self.expire(now_ms);
        let now_s = logged.time.0 / NS_PER_S;
        let mut due: Vec<_> =
            self.sessions.iter().map(|(id, session)| (session.deadline_s(), *id)).collect();
        due.sort_unstable();
        due.retain(|(deadline_s, _)| *deadline_s <= now_s);
        for (_, id) in due.into_iter().take(SESSIONS_EXPIRED_PER_SLOT_COUNT_MAX) {
            self.sessions.remove(&id);
        }
        match logged.change {
            Change::Tick => return Answer::Cleared(v1::Cleared { entries: expired_count }),
            Change::Open { ttl_s } => {
                let (active_s, ack_below, results) = (now_s, 1, BTreeMap::new());
                let session = ModelSession { ttl_s, active_s, ack_below, results };
                self.sessions.insert(logged.index, session);
                let ttl_ms = u64::from(ttl_s) * 1_000;
                return Answer::Session(v1::Session { session_id: logged.index, ttl_ms });
            }
            _ => {}
        }
        let Some(call) = logged.session else { return self.operate(logged, usize::MAX).unwrap() };
        let id = call.session.0;
        let known = self.sessions.get_mut(&id).filter(|session| now_s < session.deadline_s());
        let Some(session) = known else { return error(Code::SessionExpired, None) };
        if let Change::Close = logged.change {
            self.sessions.remove(&id);
            return Answer::Session(v1::Session { session_id: id, ttl_ms: 0 });
        }
        session.active_s = now_s;
        session.ack_below = session.ack_below.max(call.ack_below.0);
        session.results = session.results.split_off(&session.ack_below);
        if let Change::Keep = logged.change {
            let ttl_ms = u64::from(session.ttl_s) * 1_000;
            return Answer::Session(v1::Session { session_id: id, ttl_ms });
        }
        if call.sequence.0 < session.ack_below {
            return error(Code::SessionExpired, None);
        }
        if let Some(result) = session.results.get(&call.sequence.0) {
            return v1::Result::decode(&result[..]).unwrap().outcome.unwrap();
        }
        if call.sequence.0 >= session.ack_below + SESSION_WINDOW_COUNT {
            return error(Code::ResourceExhausted, None);
        }
        let room = (SESSION_RESULTS_SIZE_BYTES_MAX - session.long_size_bytes()).max(22);
        let Some(answer) = self.operate(logged, room) else {
            return error(Code::ResourceExhausted, None);
        };
        let result = v1::Result { outcome: Some(answer.clone()) }.encode_to_vec();
        self.sessions.get_mut(&id).unwrap().results.insert(call.sequence.0, result);
        answer
    }

    fn expire(&mut self, now_ms: u64) -> u64 {
        let mut due = Vec::new();
        for (map, entries) in &self.maps {
            let expired = entries.iter().filter(|(_, entry)| entry.is_expired(now_ms));
            due.extend(
                expired.map(|(key, entry)| (entry.expires_ms, entry.version, *map, key.clone())),
            );
        }
        due.sort();
        due.truncate(EXPIRED_PER_SLOT_COUNT_MAX);
        for (_, _, map, key) in &due {
            self.maps.get_mut(map).unwrap().remove(key);
        }
        u64_from(due.len())
    }

    /// `None`: its result is longer than `room`.
    fn operate(&mut self, logged: &Logged, room: usize) -> Option<Answer> {
        let now_ms = logged.time.as_ms();
        let entries = self.maps.entry(logged.map).or_default();
        let current = entries.get(&logged.key).filter(|entry| !entry.is_expired(now_ms)).cloned();
        let current = current.as_ref();
        let versioned = current.map(|entry| entry.versioned(now_ms));
        let answer = match &logged.change {
            Change::Put { wanted, want_previous, .. } => failure(wanted.as_ref(), current, now_ms)
                .unwrap_or_else(|| {
                    let previous = versioned.filter(|_| *want_previous);
                    Answer::Written(v1::Written { version: logged.index, previous })
                }),
            Change::Remove { wanted, want_previous } => failure(wanted.as_ref(), current, now_ms)
                .unwrap_or_else(|| {
                    let previous = versioned.filter(|_| *want_previous);
                    Answer::Removed(v1::Removed { existed: current.is_some(), previous })
                }),
            Change::Clear => Answer::Cleared(v1::Cleared { entries: u64_from(entries.len()) }),
            other => unreachable!("{other:?} is about no map"),
        };
        if (v1::Result { outcome: Some(answer.clone()) }).encoded_len() > room {
            return None;
        }
        match (&answer, &logged.change) {
            (Answer::Written(_), Change::Put { value, ttl, .. }) => {
                let expires_ms = match ttl {
                    Ttl::Unlimited => None,
                    Ttl::Keep => current.and_then(|entry| entry.expires_ms),
                    Ttl::Ms(ttl_ms) => Some(now_ms + ttl_ms),
                };
                let created_ms = current.map_or(now_ms, |entry| entry.created_ms);
                let (value, version, updated_ms) = (value.clone(), logged.index, now_ms);
                let entry = Entry { value, version, created_ms, updated_ms, expires_ms };
                entries.insert(logged.key.clone(), entry);
            }
            // What has expired is left to those who remove it.
            (Answer::Removed(removed), _) if removed.existed => drop(entries.remove(&logged.key)),
            (Answer::Cleared(_), _) => entries.clear(),
            _ => {}
        }
        Some(answer)
    }

    fn digest(&self) -> StateDigest {
        let mut digest = StateDigest::default();
        for (map, entries) in &self.maps {
            for (key, entry) in entries {
                let new = NewRecord {
                    map: MapId(77),
                    version: Index(entry.version),
                    created_ms: entry.created_ms,
                    updated_ms: entry.updated_ms,
                    ttl_ms: entry.expires_ms.map_or(0, |expires_ms| expires_ms - entry.updated_ms),
                    removed: false,
                    key,
                    value: &entry.value,
                };
                let mut bytes = vec![0; new.size_bytes()];
                new.write(&mut bytes);
                let name = digest128(map.as_bytes());
                digest = digest.plus(StateDigest::of_entry(name, &Record::read(&bytes)));
            }
        }
        for (id, session) in &self.sessions {
            let head = [u64::from(session.ttl_s), session.active_s, session.ack_below];
            digest = digest.plus(StateDigest::of_session(SessionId(*id), head));
            for (sequence, result) in &session.results {
                let sequence = Sequence(*sequence);
                digest = digest.plus(StateDigest::of_result(SessionId(*id), sequence, result));
            }
        }
        digest
    }

    fn next_expiry_ms(&self) -> Option<u64> {
        let entries = self.maps.values().flatten().filter_map(|(_, entry)| entry.expires_ms);
        let sessions = self.sessions.values().map(|session| session.deadline_s() * 1_000);
        entries.chain(sessions).min()
    }
}

/// The same without texts for people.
fn without_text(result: &[u8]) -> Answer {
    let mut answer = v1::Result::decode(result).unwrap().outcome.unwrap();
    if let Answer::Error(error) = &mut answer {
        assert!(!std::mem::take(&mut error.message).is_empty(), "an error says something");
    }
    answer
}

#[derive(Clone, Debug)]
enum Step {
    Execute {
        map: usize,
        key: usize,
        change: Kind,
        session: Option<(sample::Index, u8, u8)>,
        pause: u64,
    },
    /// Many keys that expire together, or many sessions.
    Burst {
        first_key: usize,
        ttl_ms: u64,
        opens: bool,
    },
    NoOp,
    Commit(sample::Index),
    Undo(sample::Index),
    Sweep(usize),
    Read {
        map: usize,
        key: usize,
        as_of: sample::Index,
        later_ns: u64,
    },
    Begin,
    Slice(usize, usize),
    Abort,
    Restart,
}

#[derive(Clone, Debug)]
enum Kind {
    Put { value_len: usize, ttl: Ttl, wanted: u8, want_previous: bool },
    Remove { wanted: u8, want_previous: bool },
    Clear,
    Open(u32),
    Keep,
    Close,
    Tick,
}

fn kind() -> impl Strategy<Value = Kind> {
    let ttl = prop_oneof![
        Just(Ttl::Unlimited),
        Just(Ttl::Keep),
        sample::select(vec![1, 3, 10, 1_000, 50_000]).prop_map(Ttl::Ms),
    ];
    let value_len = prop_oneof![9 => 0_usize..30, 1 => Just(25_000)];
    prop_oneof![
        14 => (value_len, ttl, 0_u8..10, any::<bool>()).prop_map(
            |(value_len, ttl, wanted, want_previous)| {
                Kind::Put { value_len, ttl, wanted, want_previous }
            }
        ),
        6 => (0_u8..10, any::<bool>())
            .prop_map(|(wanted, want_previous)| Kind::Remove { wanted, want_previous }),
        1 => Just(Kind::Clear),
        3 => sample::select(vec![1, 2, 60]).prop_map(Kind::Open),
        1 => Just(Kind::Keep),
        1 => Just(Kind::Close),
        1 => Just(Kind::Tick),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<sample::Index>;
    let pause = prop_oneof![
        6 => Just(0),
        6 => Just(NS_PER_MS),
        4 => Just(3 * NS_PER_MS),
        2 => Just(700 * NS_PER_MS),
        1 => Just(3 * NS_PER_S),
        1 => Just(70 * NS_PER_S),
    ];
    let session = option::of((index(), 0_u8..8, 0_u8..4));
    prop_oneof![
        30 => (0..MAPS.len(), 0_usize..9, kind(), session, pause).prop_map(
            |(map, key, change, session, pause)| Step::Execute { map, key, change, session, pause }
        ),
        2 => (0_usize..5, sample::select(vec![1_u64, 5]), prop::bool::weighted(0.3))
            .prop_map(|(first_key, ttl_ms, opens)| Step::Burst { first_key, ttl_ms, opens }),
        1 => Just(Step::NoOp),
        3 => index().prop_map(Step::Commit),
        3 => index().prop_map(Step::Undo),
        1 => (1_usize..200).prop_map(Step::Sweep),
        8 => (0..MAPS.len(), 0_usize..9, index(), sample::select(vec![0, NS_PER_MS, NS_PER_S]))
            .prop_map(|(map, key, as_of, later_ns)| Step::Read { map, key, as_of, later_ns }),
        3 => Just(Step::Begin),
        8 => (1_usize..20, 1_usize..3_000).prop_map(|(count, size)| Step::Slice(count, size)),
        1 => Just(Step::Abort),
        1 => Just(Step::Restart),
    ]
}

struct Member {
    arena: Arena,
    map: PartitionMap,
}

impl Member {
    fn new(hasher: KeyHasher) -> Self {
        let mut arena = Arena::new();
        let map = PartitionMap::new(hasher, &mut arena);
        Self { arena, map }
    }

    fn execute(&mut self, logged: &Logged, undo: Undo) -> Vec<u8> {
        let run = Execution { index: Index(logged.index), time: logged.time, undo };
        let hash = self.map.hasher.hash(logged.map, &logged.key);
        let mut result = Vec::new();
        self.map.execute(&mut self.arena, run, &logged.command(), hash, &mut result);
        assert!(!result.is_empty());
        result
    }
}

/// A checkpoint that is under way, or whole.
struct Taken {
    index: u64,
    bytes: Vec<u8>,
    is_whole: bool,
}

struct World {
    hasher: KeyHasher,
    /// Executes ahead of commitment and undoes.
    subject: Member,
    /// Executes what is committed and never undoes.
    straight: Member,
    /// As of each index from the committed one on, with the log's time there.
    states: Vec<(u64, Timestamp, Model)>,
    log: Vec<Logged>,
    checkpoint: Option<Taken>,
    /// Sessions that ever were, also in logs that were undone.
    sessions: Vec<u64>,
}

impl World {
    fn new(hasher: KeyHasher) -> Self {
        Self {
            hasher,
            subject: Member::new(hasher),
            straight: Member::new(hasher),
            states: vec![(0, Timestamp(10 * NS_PER_S + 7), Model::default())],
            log: Vec::new(),
            checkpoint: None,
            sessions: vec![0, 3],
        }
    }

    fn last(&self) -> &(u64, Timestamp, Model) {
        self.states.last().unwrap()
    }

    fn key(number: usize) -> Vec<u8> {
        format!("key {number}").into_bytes()
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Execute { map, key, change, session, pause } => {
                let key = Self::key(*key);
                let change = self.change(MAPS[*map], &key, change);
                let call = session.map(|pick| self.call(pick));
                let (call, change) = match change {
                    Change::Open { .. } | Change::Tick => (None, change),
                    // What is about a session names one.
                    Change::Keep | Change::Close if call.is_none() => (None, Change::Tick),
                    _ => (call, change),
                };
                self.execute(MAPS[*map], key, call, change, *pause);
            }
            Step::Burst { first_key, ttl_ms, opens } => self.burst(*first_key, *ttl_ms, *opens),
            Step::NoOp => {
                let (index, time, state) = self.last().clone();
                self.states.push((index + 1, time, state));
            }
            Step::Commit(pick) => self.commit(pick.index(self.states.len())),
            Step::Undo(pick) => self.undo(pick.index(self.states.len())),
            Step::Sweep(budget) => {
                self.subject.map.sweep(&mut self.subject.arena, *budget);
            }
            Step::Read { map, key, as_of, later_ns } => {
                let place = as_of.index(self.states.len());
                self.read(MAPS[*map], &Self::key(*key), place, *later_ns);
            }
            Step::Begin => self.begin_checkpoint(),
            Step::Slice(record_count, size_bytes) => {
                self.slice(SliceBudget { record_count: *record_count, size_bytes: *size_bytes });
            }
            Step::Abort => self.abort(),
            Step::Restart => self.restart(),
        }
        self.check(&format!("{step:?}"));
    }

    fn check(&self, after: &str) {
        let (_, _, state) = self.last();
        assert_eq!(self.subject.map.digest(), state.digest(), "after {after}");
        assert_eq!(self.subject.map.session_count(), state.sessions.len(), "after {after}");
        let next = self.subject.map.next_expiry().map(Timestamp::as_ms);
        assert_eq!(next, state.next_expiry_ms(), "after {after}");
        for map in MAPS {
            let entries = state.maps.get(map).into_iter().flatten();
            let sizes = entries.map(|(key, entry)| (1, key.len() + entry.value.len()));
            let (entries, bytes) = sizes.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            let size = MapSize { entries, bytes: u64_from(bytes) };
            assert_eq!(self.subject.map.size(Index(u64::MAX), map), size, "after {after}");
        }
    }

    fn change(&self, map: &str, key: &[u8], kind: &Kind) -> Change {
        let (index, _, state) = self.last();
        let current = state.maps.get(map).and_then(|entries| entries.get(key));
        let wanted = |choice: u8| match choice {
            0 => Some(Wanted::Absent),
            1 => Some(Wanted::Present),
            2 => Some(Wanted::Version(current.map_or(9, |entry| entry.version))),
            3 => Some(Wanted::Value(current.map_or(vec![], |entry| entry.value.clone()))),
            4 => Some(Wanted::Version(*index)),
            _ => None,
        };
        match *kind {
            Kind::Put { value_len, ttl, wanted: choice, want_previous } => Change::Put {
                value: vec![index.to_le_bytes()[0]; value_len],
                ttl,
                wanted: wanted(choice),
                want_previous,
            },
            Kind::Remove { wanted: choice, want_previous } => {
                Change::Remove { wanted: wanted(choice), want_previous }
            }
            Kind::Clear => Change::Clear,
            Kind::Open(ttl_s) => Change::Open { ttl_s },
            Kind::Keep => Change::Keep,
            Kind::Close => Change::Close,
            Kind::Tick => Change::Tick,
        }
    }

    /// A place in a session that is mostly known: new, a retry, acknowledged or beyond the window.
    fn call(&self, (pick, place, ack): (sample::Index, u8, u8)) -> SessionCall {
        let (_, _, state) = self.last();
        let known: Vec<u64> = state.sessions.keys().copied().collect();
        let id = match (place, known.is_empty()) {
            (0, _) | (_, true) => *pick.get(&self.sessions),
            _ => *pick.get(&known),
        };
        let session = state.sessions.get(&id);
        let ack_below = session.map_or(1, |session| session.ack_below);
        let newest = session.and_then(|session| session.results.keys().next_back().copied());
        let sequence = match place {
            1 | 2 => newest.unwrap_or(1),
            3 => ack_below.saturating_sub(1).max(1),
            4 => ack_below + SESSION_WINDOW_COUNT - 1,
            5 => ack_below + SESSION_WINDOW_COUNT,
            _ => newest.map_or(ack_below, |newest| newest + 1),
        };
        let acked = match ack {
            0 => 0,
            1 => sequence,
            2 => newest.unwrap_or(0).min(sequence),
            _ => ack_below.min(sequence),
        };
        SessionCall {
            session: SessionId(id),
            sequence: Sequence(sequence),
            ack_below: Sequence(acked),
        }
    }

    fn execute(
        &mut self,
        map: &'static str,
        key: Vec<u8>,
        session: Option<SessionCall>,
        change: Change,
        pause: u64,
    ) {
        let (last, time, mut state) = self.last().clone();
        let (index, time) = (last + 1, Timestamp(time.0 + pause));
        let is_open = matches!(change, Change::Open { .. });
        let mut logged = Logged { index, time, map, key, session, change, result: Vec::new() };
        logged.result = self.subject.execute(&logged, Undo::Keep);
        let expected = state.execute(&logged);
        assert_eq!(without_text(&logged.result), without_text_of(expected), "{logged:?}");
        if is_open {
            self.sessions.push(index);
        }
        self.states.push((index, time, state));
        self.log.push(logged);
    }

    fn burst(&mut self, first_key: usize, ttl_ms: u64, opens: bool) {
        // The keys that other steps use come last, and so are hidden for some slots before they are
        // removed.
        for number in (0..if opens { 12 } else { 100 }).rev() {
            let change = match opens {
                true => Change::Open { ttl_s: 1 },
                false => Change::Put {
                    value: vec![1],
                    ttl: Ttl::Ms(ttl_ms),
                    wanted: None,
                    want_previous: false,
                },
            };
            self.execute(MAPS[number % 2], Self::key(first_key + number), None, change, 0);
        }
    }

    fn commit(&mut self, place: usize) {
        let (index, _, _) = self.states[place];
        self.subject.map.commit(&mut self.subject.arena, Index(index));
        self.states.drain(..place);
        let done = self.straight.map.applied().0;
        for logged in self.log.iter().filter(|logged| logged.index > done && logged.index <= index)
        {
            assert_eq!(self.straight.execute(logged, Undo::Discard), logged.result, "{logged:?}");
        }
        assert_eq!(self.straight.map.digest(), self.states[0].2.digest(), "the twin agrees");
    }

    fn undo(&mut self, place: usize) {
        let (index, _, _) = self.states[place];
        self.subject.map.undo_to(&mut self.subject.arena, Index(index));
        self.states.truncate(place + 1);
        self.log.retain(|logged| logged.index <= index);
        let is_void = self.subject.map.checkpoint_is_void();
        let undone = self.checkpoint.take_if(|taken| taken.index > index);
        let is_under_way = undone.is_some_and(|taken| !taken.is_whole);
        assert_eq!(is_void, is_under_way, "what a checkpoint holds was undone");
        if is_void {
            self.subject.map.abort_checkpoint(&mut self.subject.arena);
        }
    }

    fn read(&self, map: &'static str, key: &[u8], place: usize, later_ns: u64) {
        let (index, time, state) = &self.states[place];
        let hash = self.hasher.hash(map, key);
        let at = |time| AsOf { index: Index(*index), time, asked: time };
        let get = QueryOperation::Get { key };
        let found = |as_of| {
            let mut out = Vec::new();
            self.subject.map.query(&self.subject.arena, as_of, (map, &get), hash, &mut out);
            match without_text(&out) {
                Answer::Found(found) => found.entry,
                other => panic!("{other:?}"),
            }
        };
        let later = Timestamp(time.0 + later_ns);
        let present = |now: Timestamp| {
            let entry = state.maps.get(map).and_then(|entries| entries.get(key));
            entry.filter(|entry| !entry.is_expired(now.as_ms()))
        };
        let expected = present(later).map(|entry| entry.versioned(later.as_ms()));
        assert_eq!(found(at(later)), expected, "{key:?} at {index} and {later:?}");
        // A clock that is behind doesn't bring back what the log has let expire.
        assert_eq!(found(at(Timestamp(0))).is_some(), present(*time).is_some());
        let scan = Scan {
            prefix: b"",
            start_after: b"",
            limit: 1_000,
            keys_only: true,
            size_bytes_max: 1 << 20,
            visited_count_max: 1_000_000,
            cursor_tag: b"",
        };
        let page = self.subject.map.entries(&self.subject.arena, at(later), map, &scan);
        let listed: BTreeMap<&[u8], u64> =
            page.items.iter().map(|(key, entry)| (*key, entry.version.0)).collect();
        let entries = state.maps.get(map).into_iter().flatten();
        let present = entries.filter(|(_, entry)| !entry.is_expired(later.as_ms()));
        let present: BTreeMap<&[u8], u64> =
            present.map(|(key, entry)| (&key[..], entry.version)).collect();
        assert_eq!(listed, present);
    }

    fn begin_checkpoint(&mut self) {
        if self.subject.map.checkpoint_index().is_none() {
            let index = self.subject.map.applied().0;
            // A no-op may be the last slot; the map hasn't heard of it.
            self.subject.map.begin_checkpoint(&mut self.subject.arena);
            self.checkpoint = Some(Taken { index, bytes: Vec::new(), is_whole: false });
        }
    }

    fn slice(&mut self, budget: SliceBudget) {
        let Some(taken) = self.checkpoint.as_mut().filter(|taken| !taken.is_whole) else { return };
        let Member { arena, map } = &mut self.subject;
        let progress = map.checkpoint_slice(arena, budget, &mut taken.bytes);
        taken.is_whole = progress == Progress::Done;
    }

    fn abort(&mut self) {
        if let Some(taken) = self.checkpoint.take_if(|taken| !taken.is_whole) {
            assert_eq!(self.subject.map.checkpoint_index(), Some(Index(taken.index)));
            self.subject.map.abort_checkpoint(&mut self.subject.arena);
        }
    }

    /// Goes on with what is loaded from the checkpoint, if there is one of committed slots.
    fn restart(&mut self) {
        let (committed, _, _) = self.states[0];
        let is_usable = |taken: &mut Taken| taken.is_whole && taken.index <= committed;
        let Some(taken) = self.checkpoint.take_if(is_usable) else { return };
        let mut twin = Member::new(self.hasher);
        let before = self.log.partition_point(|logged| logged.index <= taken.index);
        let mut time = Timestamp(0);
        for logged in &self.log[..before] {
            twin.execute(logged, Undo::Discard);
            time = logged.time;
        }
        let digest = twin.map.digest();
        let mut arena = Arena::new();
        let mut loader = MapLoader::new(self.hasher, &mut arena);
        for piece in taken.bytes.chunks(101) {
            loader.feed(&mut arena, piece).unwrap();
        }
        let map = loader.finish(Index(taken.index), time, digest).unwrap();
        self.subject = Member { arena, map };
        for logged in &self.log[before..] {
            let is_stable = logged.index <= committed;
            let undo = if is_stable { Undo::Discard } else { Undo::Keep };
            assert_eq!(self.subject.execute(logged, undo), logged.result, "{logged:?}");
        }
        self.subject.map.commit(&mut self.subject.arena, Index(committed));
    }

    /// Lets everything expire and checks that nothing is left behind.
    fn finish(mut self) {
        for _ in 0..50 {
            self.execute(MAPS[0], vec![], None, Change::Tick, 1_000 * NS_PER_S);
        }
        assert_eq!(self.subject.map.next_expiry(), None, "everything has expired");
        for map in MAPS {
            self.execute(map, vec![], None, Change::Clear, 0);
        }
        self.check("the end");
        self.commit(self.states.len() - 1);
        self.abort();
        let Member { arena, map } = &mut self.subject;
        while map.sweep(arena, 64) {}
        assert_eq!(arena.usage().records_used_bytes, 0);
        assert_eq!((map.digest(), map.undo_count()), (StateDigest::default(), 0));
        assert_eq!(map.sessions.size_bytes() - map.sessions.journal_size_bytes(), 0);
        assert_eq!(map.checkpoint_held_size_bytes(), 0);
    }
}

fn without_text_of(mut answer: Answer) -> Answer {
    if let Answer::Error(error) = &mut answer {
        error.message.clear();
    }
    answer
}

proptest! {
    #[test]
    fn state_machine_behaves_like_the_model(
        mask in sample::select(vec![u64::MAX, 0, 0xF000_0000_0000_0707]),
        steps in vec(step(), 1..150),
    ) {
        let mut world = World::new(KeyHasher::colliding(mask));
        for step in &steps {
            world.step(step);
        }
        world.finish();
    }
}
