//! The partition against a model: plain sorted maps, one copy for each index.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample;
use prost::Message;

use super::*;
use crate::base::cast::{u64_from, usize_from};
use crate::base::checksum::digest128;
use crate::base::time::NS_PER_MS;
use crate::map::MapSize;
use crate::map::operation::{Command, Condition, Operation, QueryOperation};
use crate::map::outcome::Outcome;
use crate::map::reads::{AsOf, Scan};
use crate::proto::p2pmap::v1;
use crate::proto::p2pmap::v1::error::Code;

mod exactly_once;
mod expiry;
mod sessions;

/// Nothing expires here.
fn at(index: Index) -> AsOf {
    AsOf { index, time: Timestamp(0), asked: Timestamp(0) }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    value: Vec<u8>,
    version: u64,
    created_ms: u64,
    updated_ms: u64,
}

impl Entry {
    fn versioned(&self) -> v1::Versioned {
        v1::Versioned {
            value: self.value.clone().into(),
            version: self.version,
            created_ms: self.created_ms.cast_signed(),
            updated_ms: self.updated_ms.cast_signed(),
            ttl_ms: 0,
        }
    }
}

type State = BTreeMap<String, BTreeMap<Vec<u8>, Entry>>;

/// What the state machine must do, in the plainest way.
fn execute_in_model(
    state: &mut State,
    run: Execution,
    command: &Command<'_>,
) -> v1::result::Outcome {
    let entries = state.entry(command.map.to_owned()).or_default();
    match command.operation {
        Operation::Put { key, value, condition, want_previous, .. } => {
            let current = entries.get(key).cloned();
            if let Some(error) = model_failure(condition, current.as_ref()) {
                return v1::result::Outcome::Error(error);
            }
            let updated_ms = run.time.as_ms();
            let created_ms = current.as_ref().map_or(updated_ms, |entry| entry.created_ms);
            let version = run.index.0;
            let entry = Entry { value: value.to_vec(), version, created_ms, updated_ms };
            entries.insert(key.to_vec(), entry);
            let previous = current.filter(|_| want_previous).map(|entry| entry.versioned());
            v1::result::Outcome::Written(v1::Written { version, previous })
        }
        Operation::Remove { key, condition, want_previous } => {
            let current = entries.get(key).cloned();
            if let Some(error) = model_failure(condition, current.as_ref()) {
                return v1::result::Outcome::Error(error);
            }
            entries.remove(key);
            let existed = current.is_some();
            let previous = current.filter(|_| want_previous).map(|entry| entry.versioned());
            v1::result::Outcome::Removed(v1::Removed { existed, previous })
        }
        Operation::Clear => {
            let count = u64_from(entries.len());
            entries.clear();
            v1::result::Outcome::Cleared(v1::Cleared { entries: count })
        }
        operation => unreachable!("{operation:?} is tested with sessions"),
    }
}

fn model_failure(condition: Option<Condition<'_>>, current: Option<&Entry>) -> Option<v1::Error> {
    let (holds, message) = match (condition?, current) {
        (Condition::Absent, current) => (current.is_none(), "the key is present"),
        (_, None) => (false, "the key is absent"),
        (Condition::Present, Some(_)) => (true, ""),
        (Condition::Version(version), Some(entry)) => {
            (entry.version == version.0, "the key has another version")
        }
        (Condition::Value(value), Some(entry)) => {
            (entry.value == value, "the key has another value")
        }
    };
    (!holds).then(|| v1::Error {
        code: Code::ConditionFailed.into(),
        message: message.to_owned(),
        hint: None,
        current: current.map(Entry::versioned),
    })
}

fn model_digest(state: &State) -> StateDigest {
    let mut digest = StateDigest::default();
    for (map, entries) in state {
        for (key, entry) in entries {
            let new = NewRecord {
                map: MapId(77),
                version: Index(entry.version),
                created_ms: entry.created_ms,
                updated_ms: entry.updated_ms,
                ttl_ms: 0,
                removed: false,
                key,
                value: &entry.value,
            };
            let mut bytes = vec![0; new.size_bytes()];
            new.write(&mut bytes);
            let of_entry = StateDigest::of_entry(digest128(map.as_bytes()), &Record::read(&bytes));
            digest = digest.plus(of_entry);
        }
    }
    digest
}

const MAPS: [&str; 3] = ["a", "orders", "a much longer name of a map"];

#[derive(Clone, Debug)]
enum Change {
    Put { value_len: usize, condition: u8, want_previous: bool },
    Remove { condition: u8, want_previous: bool },
    Clear,
}

#[derive(Clone, Debug)]
enum Step {
    Execute { map: usize, key: usize, change: Change },
    NoOp,
    Commit(sample::Index),
    Undo(sample::Index),
    Sweep(usize),
    Read { map: usize, key: usize, as_of: sample::Index },
    Scan { map: usize, as_of: sample::Index, prefix_len: usize, limit: usize, visited: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let change = prop_oneof![
        10 => (0_usize..40, 0_u8..8, any::<bool>()).prop_map(
            |(value_len, condition, want_previous)| {
                Change::Put { value_len, condition, want_previous }
            }
        ),
        6 => (0_u8..8, any::<bool>())
            .prop_map(|(condition, want_previous)| Change::Remove { condition, want_previous }),
        1 => Just(Change::Clear),
    ];
    let index = any::<sample::Index>;
    prop_oneof![
        20 => (0..MAPS.len(), 0_usize..1_000, change)
            .prop_map(|(map, key, change)| Step::Execute { map, key, change }),
        1 => Just(Step::NoOp),
        2 => index().prop_map(Step::Commit),
        2 => index().prop_map(Step::Undo),
        2 => (1_usize..200).prop_map(Step::Sweep),
        6 => (0..MAPS.len(), 0_usize..1_000, index())
            .prop_map(|(map, key, as_of)| Step::Read { map, key, as_of }),
        2 => (0..MAPS.len(), index(), 0_usize..3, 1_usize..20, 1_usize..200).prop_map(
            |(map, as_of, prefix_len, limit, visited)| Step::Scan {
                map, as_of, prefix_len, limit, visited
            }
        ),
    ]
}

/// A partition and its model, side by side.
struct Pair {
    arena: Arena,
    partition: PartitionMap,
    hasher: KeyHasher,
    key_count: usize,
    /// States as of each index from the committed one on.
    states: Vec<(u64, State)>,
    /// Whether stable commands are executed where that is allowed.
    prefers_stable: bool,
}

impl Pair {
    fn new(hasher: KeyHasher, key_count: usize, prefers_stable: bool) -> Self {
        let mut arena = Arena::new();
        let partition = PartitionMap::new(hasher, &mut arena);
        let states = vec![(0, State::new())];
        Self { arena, partition, hasher, key_count, states, prefers_stable }
    }

    fn key(&self, number: usize) -> Vec<u8> {
        let number = number % self.key_count;
        // Some are prefixes of others.
        let mut key = vec![b'k', u8::try_from(number % 7).unwrap()];
        key.extend(number.to_string().bytes().skip(1 - number % 2));
        key
    }

    fn state(&self) -> &State {
        &self.states.last().unwrap().1
    }

    fn last(&self) -> u64 {
        self.states.last().unwrap().0
    }

    /// Puts all keys into one of the maps, so that its pages have split.
    fn fill(&mut self) {
        for key in 0..self.key_count {
            let change = Change::Put { value_len: 5, condition: 9, want_previous: false };
            self.execute(MAPS[1], key, &change);
        }
        let last = self.last();
        self.partition.commit(&mut self.arena, Index(last));
        self.states.drain(..self.states.len() - 1);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Execute { map, key, change } => self.execute(MAPS[*map], *key, change),
            Step::NoOp => self.states.push((self.last() + 1, self.state().clone())),
            Step::Commit(pick) => {
                let position = pick.index(self.states.len());
                let index = self.states[position].0;
                self.partition.commit(&mut self.arena, Index(index));
                self.states.drain(..position);
            }
            Step::Undo(pick) => {
                let position = pick.index(self.states.len());
                let index = self.states[position].0;
                self.partition.undo_to(&mut self.arena, Index(index));
                self.states.truncate(position + 1);
            }
            Step::Sweep(budget) => {
                self.partition.sweep(&mut self.arena, *budget);
            }
            Step::Read { map, key, as_of } => self.read(MAPS[*map], *key, *as_of),
            Step::Scan { map, as_of, prefix_len, limit, visited } => {
                let (as_of, state) = self.pick_state(*as_of);
                let prefix = &self.key(*limit)[..*prefix_len];
                self.scan(MAPS[*map], as_of, &state, prefix, *limit, *visited);
            }
        }
        assert_eq!(self.partition.digest(), model_digest(self.state()), "after {step:?}");
        let entries = self.state().values().flatten();
        let entries = entries.map(|(key, entry)| (1, key.len() + entry.value.len()));
        let (count, bytes) = entries.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let total = MapSize { entries: count, bytes: u64_from(bytes) };
        assert_eq!(self.partition.total_size(), total, "after {step:?}");
    }

    fn execute(&mut self, map: &str, key: usize, change: &Change) {
        let index = self.last() + 1;
        let key = self.key(key);
        let current = self.state().get(map).and_then(|entries| entries.get(&key)).cloned();
        let (version, value) = current.map_or((9, vec![]), |entry| (entry.version, entry.value));
        let condition = |choice| match choice {
            0 => Some(Condition::Absent),
            1 => Some(Condition::Present),
            2 => Some(Condition::Version(Index(version))),
            3 => Some(Condition::Version(Index(index - 1))),
            4 => Some(Condition::Value(&value)),
            _ => None,
        };
        let new_value = [index.to_le_bytes()[0]; 40];
        let operation = match *change {
            Change::Put { value_len, condition: choice, want_previous } => Operation::Put {
                key: &key,
                value: &new_value[..value_len],
                condition: condition(choice),
                ttl: Ttl::Unlimited,
                want_previous,
            },
            Change::Remove { condition: choice, want_previous } => {
                Operation::Remove { key: &key, condition: condition(choice), want_previous }
            }
            Change::Clear => Operation::Clear,
        };
        let is_stable = self.prefers_stable && self.partition.undo_count() == 0;
        let run = Execution {
            index: Index(index),
            time: Timestamp((1_000 + index / 3) * NS_PER_MS + 5),
            undo: if is_stable { Undo::Discard } else { Undo::Keep },
        };
        let command = Command { map, session: None, timeout_ms: 0, no_forward: false, operation };
        let mut out = Vec::new();
        let hash = self.hasher.hash(map, &key);
        self.partition.execute(&mut self.arena, run, &command, hash, &mut out);
        let mut state = self.state().clone();
        let outcome = execute_in_model(&mut state, run, &command);
        assert_eq!(v1::Result::decode(&out[..]).unwrap().outcome, Some(outcome), "{command:?}");
        if is_stable {
            self.states.clear();
        }
        self.states.push((index, state));
    }

    fn pick_state(&self, as_of: sample::Index) -> (Index, State) {
        let (index, state) = &self.states[as_of.index(self.states.len())];
        (Index(*index), state.clone())
    }

    fn answer(
        &self,
        as_of: Index,
        map: &str,
        key: &[u8],
        operation: QueryOperation<'_>,
    ) -> v1::result::Outcome {
        let mut out = Vec::new();
        let hash = self.hasher.hash(map, key);
        let as_of = at(as_of);
        let answer = self.partition.query(&self.arena, as_of, (map, &operation), hash, &mut out);
        assert!(answer.is_finished || matches!(operation, QueryOperation::Entries { .. }));
        v1::Result::decode(&out[..]).unwrap().outcome.unwrap()
    }

    fn read(&self, map: &str, key: usize, as_of: sample::Index) {
        let (as_of, state) = self.pick_state(as_of);
        let key = self.key(key);
        let entries = state.get(map).cloned().unwrap_or_default();
        let entry = entries.get(&key).map(Entry::versioned);
        let exists = entry.is_some();
        assert_eq!(
            self.answer(as_of, map, &key, QueryOperation::Get { key: &key }),
            v1::result::Outcome::Found(v1::Found { entry }),
        );
        assert_eq!(
            self.answer(as_of, map, &key, QueryOperation::Exists { key: &key }),
            v1::result::Outcome::Exists(v1::Existence { exists }),
        );
        let bytes: usize = entries.iter().map(|(key, entry)| key.len() + entry.value.len()).sum();
        let (entries, bytes) = (u64_from(entries.len()), u64_from(bytes));
        assert_eq!(
            self.answer(as_of, map, &key, QueryOperation::Size),
            v1::result::Outcome::Size(v1::Sized { entries, bytes }),
        );
    }

    /// Page after page gives each entry of the model once, in order, within the bounds.
    fn scan(
        &self,
        map: &str,
        as_of: Index,
        state: &State,
        prefix: &[u8],
        limit: usize,
        visited_count_max: usize,
    ) {
        let keys_only = limit.is_multiple_of(2);
        let size_bytes_max = limit * 20;
        let mut start_after = Vec::new();
        let mut found = Vec::new();
        for page_count in 0.. {
            assert!(page_count < 2_000, "paging makes no progress");
            let start_after_now = std::mem::take(&mut start_after);
            let scan = Scan {
                prefix,
                start_after: &start_after_now,
                limit,
                keys_only,
                size_bytes_max,
                visited_count_max,
                cursor_tag: b"{tag}",
            };
            let page = self.partition.entries(&self.arena, at(as_of), map, &scan);
            assert!(page.items.len() <= limit);
            assert!(page.size_bytes <= size_bytes_max || page.items.len() == 1);
            found.extend(page.items.iter().map(|(key, entry)| (key.to_vec(), entry.version.0)));
            assert!(page.items.iter().all(|(_, entry)| !keys_only || entry.value.is_empty()));
            if page.next.is_empty() {
                break;
            }
            start_after = page.next;
        }
        let entries = state.get(map).cloned().unwrap_or_default();
        let mut expected: Vec<_> = entries
            .iter()
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(key, entry)| (key.clone(), entry.version))
            .collect();
        expected.sort_by_key(|(key, _)| (self.hasher.hash(map, key), key.clone()));
        assert_eq!(found, expected);
    }

    /// Removes everything and checks that nothing is left behind.
    fn finish(mut self) {
        let last = self.last();
        self.partition.commit(&mut self.arena, Index(last));
        self.states.drain(..self.states.len() - 1);
        assert_eq!(self.partition.undo_count(), 0);
        for (map, entries) in self.state().clone() {
            for key in entries.into_keys() {
                let operation =
                    Operation::Remove { key: &key, condition: None, want_previous: false };
                let command = Command {
                    map: &map,
                    session: None,
                    timeout_ms: 0,
                    no_forward: false,
                    operation,
                };
                let index = Index(self.last() + 1);
                let run = Execution { index, time: Timestamp(0), undo: Undo::Discard };
                let hash = self.hasher.hash(&map, &key);
                self.partition.execute(&mut self.arena, run, &command, hash, &mut Vec::new());
                self.states.push((index.0, State::new()));
            }
        }
        while self.partition.sweep(&mut self.arena, 64) {}
        assert_eq!(self.arena.usage().records_used_bytes, 0);
        assert_eq!(self.partition.digest(), StateDigest::default());
        assert_eq!(self.partition.map_count(), 0);
        assert_eq!(self.partition.maps.find(MAPS[0]), None);
    }
}

proptest! {
    #[test]
    fn partition_behaves_like_the_model(
        mask in sample::select(vec![u64::MAX, 0, 7 << 61, 0xF000_0000_0000_0707]),
        key_count in sample::select(vec![3_usize, 20, 300]),
        prefers_stable in any::<bool>(),
        is_filled in any::<bool>(),
        steps in vec(step(), 1..300),
    ) {
        let mut pair = Pair::new(KeyHasher::colliding(mask), key_count, prefers_stable);
        if is_filled {
            pair.fill();
        }
        for step in &steps {
            pair.step(step);
        }
        pair.finish();
    }
}

/// A stable put to map `map`.
fn put(
    partition: &mut PartitionMap,
    arena: &mut Arena,
    map: &str,
    key: &[u8],
    value: &[u8],
) -> Vec<u8> {
    let operation =
        Operation::Put { key, value, condition: None, ttl: Ttl::Unlimited, want_previous: false };
    execute(partition, arena, Undo::Discard, map, operation)
}

fn execute(
    partition: &mut PartitionMap,
    arena: &mut Arena,
    undo: Undo,
    map: &str,
    operation: Operation<'_>,
) -> Vec<u8> {
    let key = match operation {
        Operation::Put { key, .. } | Operation::Remove { key, .. } => key,
        _ => &[],
    };
    let index = partition.applied().next();
    let run = Execution { index, time: Timestamp(index.0 * NS_PER_MS), undo };
    let hash = partition.hasher.hash(map, key);
    let mut out = Vec::new();
    partition.execute(
        arena,
        run,
        &Command { map, session: None, timeout_ms: 0, no_forward: false, operation },
        hash,
        &mut out,
    );
    out
}

fn value_of(partition: &PartitionMap, arena: &Arena, map: &str, key: &[u8]) -> Option<Vec<u8>> {
    let hash = partition.hasher.hash(map, key);
    let operation = QueryOperation::Get { key };
    let last = at(Index(u64::MAX));
    match partition.answer(arena, last, (map, &operation), hash) {
        Outcome::Found(entry) => entry.map(|entry| entry.value.to_vec()),
        _ => unreachable!("a get finds or doesn't"),
    }
}

fn world() -> (Arena, PartitionMap) {
    let mut arena = Arena::new();
    let partition = PartitionMap::new(KeyHasher::new([9; 16]), &mut arena);
    (arena, partition)
}

#[test]
fn many_keys_survive_the_splits_of_their_pages() {
    let (mut arena, mut partition) = world();
    for number in 0..50_000_u32 {
        put(&mut partition, &mut arena, "m", &number.to_be_bytes(), &number.to_le_bytes());
    }
    for number in 0..50_000_u32 {
        let value = value_of(&partition, &arena, "m", &number.to_be_bytes());
        assert_eq!(value.as_deref(), Some(&number.to_le_bytes()[..]));
    }
    assert_eq!(value_of(&partition, &arena, "m", &50_000_u32.to_be_bytes()), None);
    assert_eq!(value_of(&partition, &arena, "n", &1_u32.to_be_bytes()), None);
}

#[test]
fn swept_maps_give_their_memory_back() {
    let (mut arena, mut partition) = world();
    put(&mut partition, &mut arena, "kept", b"key", b"value");
    let used = arena.bytes_used();
    for number in 0..20_000_u32 {
        put(&mut partition, &mut arena, "m", &number.to_be_bytes(), &[1; 50]);
    }
    execute(&mut partition, &mut arena, Undo::Discard, "m", Operation::Clear);
    let mut turn_count = 0;
    while partition.sweep(&mut arena, 64) {
        turn_count += 1;
    }
    assert!(turn_count > 100, "a turn sweeps a page or two");
    assert_eq!(arena.bytes_used(), used);
    assert_eq!(value_of(&partition, &arena, "kept", b"key").as_deref(), Some(&b"value"[..]));
}

#[test]
fn keys_and_values_of_all_sizes_are_kept() {
    let (mut arena, mut partition) = world();
    let used_bytes = arena.bytes_used();
    let sizes = [(1, 0), (4_096, 0), (4_096, 4_096), (7, 2_000), (8, 2_050), (16, 2_031_616)];
    for (number, (key_len, value_len)) in sizes.iter().enumerate() {
        let byte = u8::try_from(number).unwrap();
        put(&mut partition, &mut arena, "m", &vec![byte; *key_len], &vec![byte; *value_len]);
    }
    for (number, (key_len, value_len)) in sizes.iter().enumerate() {
        let byte = u8::try_from(number).unwrap();
        let key = vec![byte; *key_len];
        assert_eq!(value_of(&partition, &arena, "m", &key), Some(vec![byte; *value_len]));
        let remove = Operation::Remove { key: &key, condition: None, want_previous: false };
        execute(&mut partition, &mut arena, Undo::Discard, "m", remove);
        assert_eq!(value_of(&partition, &arena, "m", &key), None);
    }
    assert_eq!(arena.bytes_used(), used_bytes);
}

#[test]
fn replaced_value_keeps_the_time_of_creation_and_a_cleared_one_does_not() {
    let (mut arena, mut partition) = world();
    let created_ms = |partition: &PartitionMap, arena: &Arena| {
        let hash = partition.hasher.hash("m", b"k");
        let operation = QueryOperation::Get { key: b"k" };
        match partition.answer(arena, at(Index(u64::MAX)), ("m", &operation), hash) {
            Outcome::Found(Some(entry)) => (entry.created_ms, entry.updated_ms),
            _ => (0, 0),
        }
    };
    put(&mut partition, &mut arena, "m", b"k", b"1");
    put(&mut partition, &mut arena, "m", b"k", b"2");
    assert_eq!(created_ms(&partition, &arena), (1, 2));
    for undo in [Undo::Discard, Undo::Keep] {
        execute(&mut partition, &mut arena, undo, "m", Operation::Clear);
        assert_eq!(value_of(&partition, &arena, "m", b"k"), None);
        let again = Operation::Put {
            key: b"k",
            value: b"3",
            condition: None,
            ttl: Ttl::Unlimited,
            want_previous: true,
        };
        execute(&mut partition, &mut arena, undo, "m", again);
        let index = partition.applied().0;
        assert_eq!(created_ms(&partition, &arena), (index, index));
    }
}

#[test]
fn a_map_too_many_is_refused_until_another_one_is_empty() {
    let (mut arena, mut partition) = world();
    for number in 0..crate::base::limits::NAMED_MAP_COUNT_MAX {
        put(&mut partition, &mut arena, &format!("map {number}"), b"k", b"v");
    }
    let refused = |bytes: &[u8]| match v1::Result::decode(bytes).unwrap().outcome.unwrap() {
        v1::result::Outcome::Error(error) => error.code() == Code::ResourceExhausted,
        _ => false,
    };
    assert!(refused(&put(&mut partition, &mut arena, "one more", b"k", b"v")));
    assert!(!refused(&put(&mut partition, &mut arena, "map 7", b"another key", b"v")));
    assert_eq!(value_of(&partition, &arena, "one more", b"k"), None);
    let remove = Operation::Remove { key: b"k", condition: None, want_previous: false };
    execute(&mut partition, &mut arena, Undo::Keep, "map 8", remove);
    let one_more = |undo| {
        let operation = Operation::Put {
            key: b"k",
            value: b"v",
            condition: None,
            ttl: Ttl::Unlimited,
            want_previous: false,
        };
        (undo, "one more", operation)
    };
    let (undo, map, operation) = one_more(Undo::Keep);
    assert!(!refused(&execute(&mut partition, &mut arena, undo, map, operation)));
    // Undone, the name that was removed counts again.
    let applied = partition.applied();
    partition.undo_to(&mut arena, Index(applied.0 - 2));
    let (undo, map, operation) = one_more(Undo::Keep);
    assert!(refused(&execute(&mut partition, &mut arena, undo, map, operation)));
}

#[test]
fn rare_map_is_scanned_past_the_entries_of_others() {
    let (mut arena, mut partition) = world();
    for number in 0..30_000_u32 {
        put(&mut partition, &mut arena, "common", &number.to_be_bytes(), b"");
    }
    for number in 0..5_u32 {
        put(&mut partition, &mut arena, "rare", &number.to_be_bytes(), b"");
    }
    let (mut found, mut page_count, mut start_after) = (Vec::new(), 0, Vec::new());
    loop {
        let operation = QueryOperation::Entries {
            prefix: b"",
            start_after: &start_after,
            limit: 100,
            keys_only: true,
        };
        let mut out = Vec::new();
        let answer = partition.query(
            &arena,
            at(partition.applied()),
            ("rare", &operation),
            KeyHash::default(),
            &mut out,
        );
        let outcome = v1::Result::decode(&out[..]).unwrap().outcome;
        let Some(v1::result::Outcome::Page(page)) = outcome else { panic!("not a page") };
        assert_eq!(page.items.len(), answer.item_count);
        found.extend(page.items.into_iter().map(|item| item.key.to_vec()));
        page_count += 1;
        if answer.is_finished {
            break;
        }
        start_after = page.next.to_vec();
    }
    found.sort_unstable();
    assert_eq!(found, (0..5_u32).map(|number| number.to_be_bytes().to_vec()).collect::<Vec<_>>());
    assert!((7..40).contains(&page_count), "{page_count} pages");
}

#[test]
#[should_panic(expected = "never undone")]
fn undoing_what_is_committed_is_refused() {
    let (mut arena, mut partition) = world();
    put(&mut partition, &mut arena, "m", b"k", b"v");
    partition.undo_to(&mut arena, Index(0));
}

#[test]
#[should_panic(expected = "in order")]
fn executing_an_index_twice_is_refused() {
    let (mut arena, mut partition) = world();
    let run = Execution { index: Index(1), time: Timestamp(0), undo: Undo::Keep };
    let command = Command {
        map: "m",
        session: None,
        timeout_ms: 0,
        no_forward: false,
        operation: Operation::Clear,
    };
    for _ in 0..2 {
        partition.execute(&mut arena, run, &command, KeyHash::default(), &mut Vec::new());
    }
}

/// Members whose speculation took different ways agree once they have executed the same log.
#[test]
fn digest_does_not_depend_on_what_was_undone() {
    let (mut straight_arena, mut straight) = world();
    let (mut detour_arena, mut detour) = world();
    for number in 0..200_u64 {
        let key = [number.to_le_bytes()[0] % 50];
        let map = MAPS[usize_from(number) % 3];
        let operation = if number % 40 == 39 {
            Operation::Clear
        } else {
            Operation::Put {
                key: &key,
                value: &key,
                condition: None,
                ttl: Ttl::Unlimited,
                want_previous: false,
            }
        };
        execute(&mut straight, &mut straight_arena, Undo::Discard, map, operation);
        for other in 1..4 {
            let map = MAPS[usize_from(number + other) % 3];
            execute(&mut detour, &mut detour_arena, Undo::Keep, map, operation);
        }
        detour.undo_to(&mut detour_arena, Index(number));
        execute(&mut detour, &mut detour_arena, Undo::Keep, map, operation);
        if number % 7 == 0 {
            detour.commit(&mut detour_arena, Index(number));
        }
        assert_eq!(straight.digest(), detour.digest());
    }
}

/// A read that looked at each pending write of its key would take minutes here.
#[test]
fn key_with_many_pending_writes_is_read_as_of_any_of_them() {
    let (mut arena, mut partition) = world();
    for index in 1..=60_000_u64 {
        let key: &[u8] = if index.is_multiple_of(7) { b"rare" } else { b"hot" };
        let value = &index.to_le_bytes();
        let put = Operation::Put {
            key,
            value,
            condition: None,
            ttl: Ttl::Unlimited,
            want_previous: false,
        };
        execute(&mut partition, &mut arena, Undo::Keep, "m", put);
    }
    let hash = partition.hasher.hash("m", b"hot");
    for as_of in (1..60_000_u64).step_by(2) {
        let get = QueryOperation::Get { key: b"hot" };
        let answer = partition.answer(&arena, at(Index(as_of)), ("m", &get), hash);
        let Outcome::Found(Some(entry)) = answer else { panic!("{answer:?}") };
        let version = if as_of.is_multiple_of(7) { as_of - 1 } else { as_of };
        assert_eq!((entry.version, entry.value), (Index(version), &version.to_le_bytes()[..]));
    }
}
