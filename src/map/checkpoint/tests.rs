//! Checkpoints against a model: a plain sorted map for each index, and a twin that takes none.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample;

use super::*;
use crate::base::cast::usize_from;
use crate::base::checksum::digest128;
use crate::base::ids::{Sequence, SessionId};
use crate::base::limits::{
    ENTRY_TTL_MS_MAX, KEY_SIZE_BYTES_MAX, SESSION_COUNT_MAX, SESSION_RESULTS_SIZE_BYTES_MAX,
    SESSION_TTL_S_MAX, SESSION_WINDOW_COUNT, VALUE_SIZE_BYTES_MAX,
};
use crate::base::prng::Prng;
use crate::base::time::{NS_PER_MS, Timestamp};
use crate::map::digest::StateDigest;
use crate::map::hasher::{KeyHash, KeyHasher};
use crate::map::operation::{Command, Operation, QueryOperation, SessionCall, Ttl};
use crate::map::outcome::Outcome;
use crate::map::partition::{Execution, Undo};
use crate::map::reads::AsOf;

const MAPS: [&str; 4] = ["a", "orders", "a much longer name of a map", "rare"];
const ALL: SliceBudget = SliceBudget { record_count: usize::MAX, size_bytes: usize::MAX };

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    value: Vec<u8>,
    version: u64,
    created_ms: u64,
    updated_ms: u64,
}

type State = BTreeMap<String, BTreeMap<Vec<u8>, Entry>>;

/// A command that was executed and not undone, and its encoded result.
#[derive(Clone, Debug)]
struct Executed {
    index: u64,
    map: &'static str,
    change: Change,
    key: Vec<u8>,
    result: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Change {
    Put { value_len: usize },
    Remove,
    Clear,
}

#[derive(Clone, Debug)]
enum Step {
    Execute { map: usize, key: usize, change: Change },
    NoOp,
    Commit(sample::Index),
    Undo(sample::Index),
    Sweep(usize),
    Begin,
    Slice { record_count: usize, size_bytes: usize },
    Abort,
}

fn step() -> impl Strategy<Value = Step> {
    let change = prop_oneof![
        10 => prop_oneof![9 => 0_usize..40, 1 => Just(3_000)]
            .prop_map(|value_len| Change::Put { value_len }),
        7 => Just(Change::Remove),
        1 => Just(Change::Clear),
    ];
    let index = any::<sample::Index>;
    prop_oneof![
        30 => (0..MAPS.len(), 0_usize..1_000, change)
            .prop_map(|(map, key, change)| Step::Execute { map, key, change }),
        1 => Just(Step::NoOp),
        4 => index().prop_map(Step::Commit),
        2 => index().prop_map(Step::Undo),
        3 => (1_usize..200).prop_map(Step::Sweep),
        4 => Just(Step::Begin),
        12 => (0_usize..30, 0_usize..400)
            .prop_map(|(record_count, size_bytes)| Step::Slice { record_count, size_bytes }),
        1 => Just(Step::Abort),
    ]
}

/// A partition's map in an arena of its own.
struct World {
    arena: Arena,
    map: PartitionMap,
    hasher: KeyHasher,
}

impl World {
    fn new(hasher: KeyHasher) -> Self {
        let mut arena = Arena::new();
        let map = PartitionMap::new(hasher, &mut arena);
        Self { arena, map, hasher }
    }

    fn execute(&mut self, command: &Executed, undo: Undo) -> Vec<u8> {
        let Executed { index, map, change, key, .. } = command;
        let value = vec![index.to_le_bytes()[0]; 50_000];
        let operation = match *change {
            Change::Put { value_len } => Operation::Put {
                key,
                value: &value[..value_len],
                condition: None,
                ttl: Ttl::Unlimited,
                want_previous: true,
            },
            Change::Remove => Operation::Remove { key, condition: None, want_previous: true },
            Change::Clear => Operation::Clear,
        };
        let run = Execution { index: Index(*index), time: time_of(*index), undo };
        let command = Command { map, session: None, timeout_ms: 0, no_forward: false, operation };
        let mut result = Vec::new();
        self.map.execute(&mut self.arena, run, &command, self.hasher.hash(map, key), &mut result);
        result
    }

    /// Puts a key by a stable command.
    fn put(&mut self, map: &'static str, key: &[u8], value_len: usize) {
        let index = self.map.applied().0 + 1;
        let (change, key) = (Change::Put { value_len }, key.to_vec());
        self.execute(&Executed { index, map, change, key, result: vec![] }, Undo::Discard);
    }

    fn run(&mut self, map: &'static str, key: &[u8], change: Change, undo: Undo) {
        let index = self.map.applied().0 + 1;
        self.execute(&Executed { index, map, change, key: key.to_vec(), result: vec![] }, undo);
    }

    /// A whole checkpoint at once.
    fn checkpoint(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.map.begin_checkpoint(&mut self.arena);
        assert_eq!(self.map.checkpoint_slice(&mut self.arena, ALL, &mut out), Progress::Done);
        out
    }

    fn sweep(&mut self) {
        while self.map.sweep(&mut self.arena, 64) {}
    }

    fn assert_holds(&self, state: &State) {
        let mut map_count = 0;
        for (map, entries) in state {
            map_count += usize::from(!entries.is_empty());
            let size = self.map.size(Index(u64::MAX), map);
            let bytes: usize =
                entries.iter().map(|(key, entry)| key.len() + entry.value.len()).sum();
            assert_eq!((size.entries, size.bytes), (u64_from(entries.len()), u64_from(bytes)));
            for (key, expected) in entries {
                let hash = self.hasher.hash(map, key);
                let get = QueryOperation::Get { key };
                let (index, time) = (Index(u64::MAX), Timestamp(0));
                let last = AsOf { index, time, asked: time };
                let Outcome::Found(Some(entry)) =
                    self.map.answer(&self.arena, last, (map, &get), hash)
                else {
                    panic!("{key:?} of {map} is missing")
                };
                let entry = Entry {
                    value: entry.value.to_vec(),
                    version: entry.version.0,
                    created_ms: entry.created_ms,
                    updated_ms: entry.updated_ms,
                };
                assert_eq!(&entry, expected);
            }
        }
        assert_eq!(self.map.map_count(), map_count);
    }

    /// All pages of the table, counted one by one.
    fn page_count(&self) -> u64 {
        let (mut count, mut first) = (0, Some(0));
        while let Some(hash) = first {
            let last = self.map.table.visit_page(&self.arena.tables, KeyHash(hash), |_| {});
            count += 1;
            first = last.0.checked_add(1);
        }
        count
    }

    /// Nothing is left of a checkpoint.
    fn assert_holds_nothing_back(&self) {
        assert_eq!(self.map.checkpoint_held_size_bytes(), 0);
        assert!(!self.map.has_released_checkpoint());
        assert_eq!(self.arena.usage().tables_used_bytes, 512 * self.page_count());
    }
}

fn time_of(index: u64) -> Timestamp {
    Timestamp((1_000 + index / 3) * NS_PER_MS + 5)
}

/// Loads a checkpoint in pieces whose sizes `prng` chooses.
fn load(hasher: KeyHasher, bytes: &[u8], prng: &mut Prng) -> (Arena, MapLoader) {
    let mut arena = Arena::new();
    let mut loader = MapLoader::new(hasher, &mut arena);
    let mut rest = bytes;
    while !rest.is_empty() {
        let most = if prng.one_in(2) { 5 } else { 5_000 };
        let size = usize_from(prng.below(most)).min(rest.len());
        let (piece, others) = rest.split_at(size);
        loader.feed(&mut arena, piece).expect("it is a checkpoint");
        rest = others;
    }
    (arena, loader)
}

/// A partition, its twin without checkpoints, its model and what was checkpointed.
struct Trial {
    world: World,
    twin: World,
    key_count: usize,
    prefers_stable: bool,
    /// States as of each index from the committed one on.
    states: Vec<(u64, State)>,
    log: Vec<Executed>,
    /// State and digest as of the beginning of the checkpoint, and its bytes so far.
    begun: Option<(State, StateDigest, Vec<u8>)>,
    /// What was loaded from a checkpoint of commands that can't be undone any more.
    loaded: Option<World>,
    prng: Prng,
}

impl Trial {
    fn new(hasher: KeyHasher, key_count: usize, prefers_stable: bool) -> Self {
        Self {
            world: World::new(hasher),
            twin: World::new(hasher),
            key_count,
            prefers_stable,
            states: vec![(0, State::new())],
            log: Vec::new(),
            begun: None,
            loaded: None,
            prng: Prng::new(u64_from(key_count), "trial"),
        }
    }

    fn last(&self) -> u64 {
        self.states.last().unwrap().0
    }

    fn execute(&mut self, map: usize, key: usize, change: &Change) {
        let (index, map) = (self.last() + 1, MAPS[map]);
        let key = format!("key {}", key % self.key_count).into_bytes();
        let is_stable = self.prefers_stable && self.world.map.undo_count() == 0;
        let undo = if is_stable { Undo::Discard } else { Undo::Keep };
        let mut executed = Executed { index, map, change: change.clone(), key, result: vec![] };
        executed.result = self.world.execute(&executed, undo);
        assert_eq!(self.twin.execute(&executed, undo), executed.result);
        let mut state = self.states.last().unwrap().1.clone();
        let entries = state.entry(map.to_owned()).or_default();
        match *change {
            Change::Put { value_len } => {
                let updated_ms = time_of(index).as_ms();
                let before = entries.get(&executed.key);
                let created_ms = before.map_or(updated_ms, |entry| entry.created_ms);
                let value = vec![index.to_le_bytes()[0]; value_len];
                let entry = Entry { value, version: index, created_ms, updated_ms };
                entries.insert(executed.key.clone(), entry);
            }
            Change::Remove => {
                entries.remove(&executed.key);
            }
            Change::Clear => entries.clear(),
        }
        self.log.push(executed);
        if is_stable {
            self.states.clear();
        }
        self.states.push((index, state));
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Execute { map, key, change } => self.execute(*map, *key, change),
            Step::NoOp => {
                let (last, state) = self.states.last().unwrap().clone();
                self.states.push((last + 1, state));
            }
            Step::Commit(pick) => self.commit(pick.index(self.states.len())),
            Step::Undo(pick) => self.undo(pick.index(self.states.len())),
            Step::Sweep(budget) => {
                self.world.map.sweep(&mut self.world.arena, *budget);
                self.twin.map.sweep(&mut self.twin.arena, *budget);
            }
            Step::Begin if self.begun.is_none() => {
                self.world.map.begin_checkpoint(&mut self.world.arena);
                let index = self.world.map.applied();
                assert_eq!(self.world.map.checkpoint_index(), Some(index));
                let state = self.states.last().unwrap().1.clone();
                self.begun = Some((state, self.world.map.digest(), Vec::new()));
            }
            Step::Slice { record_count, size_bytes } => {
                let budget = SliceBudget { record_count: *record_count, size_bytes: *size_bytes };
                self.slice(budget);
            }
            Step::Abort if self.begun.is_some() => self.abort(),
            Step::Begin | Step::Abort => {}
        }
        assert_eq!(self.world.map.digest(), self.twin.map.digest(), "after {step:?}");
    }

    fn commit(&mut self, position: usize) {
        let index = Index(self.states[position].0);
        self.world.map.commit(&mut self.world.arena, index);
        self.twin.map.commit(&mut self.twin.arena, index);
        self.states.drain(..position);
    }

    fn undo(&mut self, position: usize) {
        let index = self.states[position].0;
        let checkpointed = self.world.map.checkpoint_index();
        let is_void = checkpointed.is_some_and(|checkpointed| checkpointed > Index(index));
        self.world.map.undo_to(&mut self.world.arena, Index(index));
        self.twin.map.undo_to(&mut self.twin.arena, Index(index));
        self.states.truncate(position + 1);
        self.log.retain(|executed| executed.index <= index);
        assert_eq!(self.world.map.checkpoint_is_void(), is_void);
        if is_void {
            self.abort();
        }
        if self.loaded.as_ref().is_some_and(|loaded| loaded.map.applied() > Index(index)) {
            self.loaded = None;
        }
    }

    fn abort(&mut self) {
        self.world.map.abort_checkpoint(&mut self.world.arena);
        assert_eq!(self.world.map.checkpoint_index(), None);
        self.begun = None;
    }

    fn slice(&mut self, budget: SliceBudget) {
        let Some((state, digest, bytes)) = &mut self.begun else { return };
        let index = self.world.map.checkpoint_index().unwrap();
        let before = bytes.len();
        let progress = self.world.map.checkpoint_slice(&mut self.world.arena, budget, bytes);
        let longest = 3_000 + 200;
        assert!(bytes.len() - before <= budget.size_bytes + longest);
        if progress == Progress::More {
            return;
        }
        assert_eq!(self.world.map.checkpoint_index(), None);
        assert_eq!(self.world.map.checkpoint_held_size_bytes(), 0);
        let (arena, loader) = load(self.world.hasher, bytes, &mut self.prng);
        let map = loader
            .finish(index, time_of(index.0), *digest)
            .expect("it is the state as of its index");
        let loaded = World { arena, map, hasher: self.world.hasher };
        assert_eq!((loaded.map.applied(), loaded.map.committed()), (index, index));
        loaded.assert_holds(state);
        self.loaded = Some(loaded);
        self.begun = None;
    }

    /// What was loaded goes on like its source; and nothing is left behind.
    fn finish(mut self) {
        if let Some(mut loaded) = self.loaded.take() {
            let applied = loaded.map.applied().0;
            for executed in self.log.iter().filter(|executed| executed.index > applied) {
                assert_eq!(loaded.execute(executed, Undo::Discard), executed.result);
            }
            assert_eq!(loaded.map.digest(), self.world.map.digest());
        }
        if self.begun.is_some() {
            self.abort();
        }
        let (last, state) = self.states.last().unwrap().clone();
        for world in [&mut self.world, &mut self.twin] {
            world.map.commit(&mut world.arena, Index(last));
            world.sweep();
            world.assert_holds(&state);
            world.assert_holds_nothing_back();
        }
        let records_used = |world: &World| world.arena.usage().records_used_bytes;
        assert_eq!(records_used(&self.world), records_used(&self.twin));
        let mut index = last;
        for (map, entries) in state {
            for key in entries.into_keys() {
                index += 1;
                let map = MAPS.into_iter().find(|name| *name == map).unwrap();
                let change = Change::Remove;
                let remove = Executed { index, map, change, key, result: vec![] };
                self.world.execute(&remove, Undo::Discard);
            }
        }
        assert_eq!(records_used(&self.world), 0);
        assert!(MAPS.iter().all(|map| self.world.map.maps.find(map).is_none()));
    }
}

proptest! {
    #[test]
    fn checkpoint_is_the_state_as_of_its_beginning(
        mask in sample::select(vec![u64::MAX, 0, 7 << 61, 0xF000_0000_0000_0707]),
        key_count in sample::select(vec![3_usize, 20, 300]),
        prefers_stable in any::<bool>(),
        is_filled in any::<bool>(),
        steps in vec(step(), 1..400),
    ) {
        let mut trial = Trial::new(KeyHasher::colliding(mask), key_count, prefers_stable);
        if is_filled {
            for key in 0..key_count {
                trial.execute(1, key, &Change::Put { value_len: 5 });
            }
            trial.commit(trial.states.len() - 1);
        }
        for step in &steps {
            trial.step(step);
        }
        trial.finish();
    }
}

fn world() -> World {
    World::new(KeyHasher::new([9; 16]))
}

/// A world of `count` keys in several maps.
fn filled(count: u32) -> World {
    let mut world = world();
    for number in 0..count {
        let map = MAPS[usize_from_u32(number % 3)];
        world.put(map, &number.to_be_bytes(), usize_from_u32(number % 50));
    }
    world
}

fn digest_of_loaded(hasher: KeyHasher, bytes: &[u8], applied: Index) -> StateDigest {
    let (_, loader) = load(hasher, bytes, &mut Prng::new(3, "pieces"));
    let nothing = StateDigest::default();
    match loader.check(applied, nothing) {
        Ok(()) => nothing,
        Err(LoadError::Digest { loaded, .. }) => loaded,
        Err(error) => panic!("{error}"),
    }
}

/// Every key is overwritten or removed while the walk is in the middle of the table.
#[test]
fn checkpoint_of_many_pages_does_not_see_what_is_written_meanwhile() {
    for seed in 0..4 {
        let mut prng = Prng::new(seed, "meanwhile");
        let mut world = filled(20_000);
        let (index, digest) = (world.map.applied(), world.map.digest());
        let used_bytes = world.arena.usage().records_used_bytes;
        world.map.begin_checkpoint(&mut world.arena);
        let mut out = Vec::new();
        let budget = SliceBudget { record_count: 200, size_bytes: usize::MAX };
        while world.map.checkpoint_slice(&mut world.arena, budget, &mut out) == Progress::More {
            for _ in 0..prng.below(800) {
                let number = u32::try_from(prng.below(25_000)).unwrap();
                let (map, key) = (MAPS[usize_from_u32(number % 3)], number.to_be_bytes());
                match prng.below(3) {
                    0 => world.run(map, &key, Change::Remove, Undo::Discard),
                    _ => world.put(map, &key, usize_from(prng.below(50))),
                }
            }
            let held_bytes = world.map.checkpoint_held_size_bytes();
            assert!(held_bytes <= used_bytes + 512 * 2 * 20_000 / 60);
        }
        world.assert_holds_nothing_back();
        assert_eq!(digest_of_loaded(world.hasher, &out, index), digest);
        assert_ne!(world.map.digest(), digest);
    }
}

/// What a cleared map leaves is swept, and its number used again, before the walk comes to it.
#[test]
fn checkpoint_knows_maps_that_are_gone_before_it_comes_to_them() {
    let mut world = filled(3_000);
    let (index, digest) = (world.map.applied(), world.map.digest());
    world.map.begin_checkpoint(&mut world.arena);
    for map in MAPS {
        world.run(map, b"", Change::Clear, Undo::Discard);
    }
    world.sweep();
    for number in 0..500_u32 {
        world.put("rare", &number.to_be_bytes(), 7);
    }
    let mut out = Vec::new();
    let progress = world.map.checkpoint_slice(&mut world.arena, ALL, &mut out);
    assert_eq!(progress, Progress::Done);
    assert_eq!(digest_of_loaded(world.hasher, &out, index), digest);
    assert!(world.map.has_released_checkpoint(), "the lives of the maps");
    world.sweep();
    world.assert_holds_nothing_back();
}

#[test]
fn speculative_state_is_part_of_a_checkpoint_and_removals_are_not() {
    let mut world = world();
    world.put("a", b"kept", 3);
    world.put("a", b"removed", 3);
    world.put("orders", b"cleared", 3);
    world.run("a", b"new", Change::Put { value_len: 4 }, Undo::Keep);
    world.run("a", b"removed", Change::Remove, Undo::Keep);
    world.run("orders", b"", Change::Clear, Undo::Keep);
    world.run("orders", b"after", Change::Put { value_len: 4 }, Undo::Keep);
    let (applied, digest) = (world.map.applied(), world.map.digest());
    let bytes = world.checkpoint();
    let (_, loader) = load(world.hasher, &bytes, &mut Prng::new(1, "pieces"));
    let map = loader.finish(applied, Timestamp(0), digest).unwrap();
    assert_eq!((map.size(applied, "a").entries, map.size(applied, "orders").entries), (2, 1));
    assert_eq!(bytes.iter().filter(|byte| **byte == b'k').count(), 1, "each entry once");
    assert!(!bytes.windows(7).any(|word| word == b"removed" || word == b"cleared"));
    assert_eq!(map.undo_count(), 0);
}

#[test]
fn undoing_what_a_checkpoint_holds_voids_it_and_undoing_later_commands_does_not() {
    let mut world = filled(300);
    let put = || Change::Put { value_len: 9 };
    world.run("a", b"k", put(), Undo::Keep);
    let index = world.map.applied();
    world.map.begin_checkpoint(&mut world.arena);
    world.run("a", b"k", put(), Undo::Keep);
    world.map.undo_to(&mut world.arena, index);
    assert!(!world.map.checkpoint_is_void());
    world.map.undo_to(&mut world.arena, Index(index.0 - 1));
    assert!(world.map.checkpoint_is_void());
    world.map.abort_checkpoint(&mut world.arena);
    assert!(!world.map.checkpoint_is_void());
    world.sweep();
    world.assert_holds_nothing_back();
}

#[test]
#[should_panic(expected = "a void checkpoint is aborted")]
fn void_checkpoint_gives_no_slice() {
    let mut world = filled(10);
    world.run("a", b"k", Change::Remove, Undo::Keep);
    world.map.begin_checkpoint(&mut world.arena);
    world.map.undo_to(&mut world.arena, Index(10));
    world.map.checkpoint_slice(&mut world.arena, ALL, &mut Vec::new());
}

#[test]
#[should_panic(expected = "one checkpoint at a time")]
fn second_checkpoint_at_a_time_is_refused() {
    let mut world = world();
    world.map.begin_checkpoint(&mut world.arena);
    world.map.begin_checkpoint(&mut world.arena);
}

/// The release of one checkpoint and the next one don't get mixed up.
#[test]
fn checkpoint_can_begin_right_after_one_was_aborted() {
    let mut world = filled(5_000);
    for round in 1..4 {
        world.map.begin_checkpoint(&mut world.arena);
        let budget = SliceBudget { record_count: 1_000, size_bytes: usize::MAX };
        world.map.checkpoint_slice(&mut world.arena, budget, &mut Vec::new());
        for number in 0..5_000_u32 {
            world.put(MAPS[usize_from_u32(number % 3)], &number.to_be_bytes(), round);
        }
        assert!(world.map.checkpoint_held_size_bytes() > 100_000);
        world.map.abort_checkpoint(&mut world.arena);
    }
    let digest = world.map.digest();
    let bytes = world.checkpoint();
    assert_eq!(digest_of_loaded(world.hasher, &bytes, world.map.applied()), digest);
    world.assert_holds_nothing_back();
}

/// Pages that are ahead of a walk are not joined when they are emptied, but when it has passed.
#[test]
fn pages_emptied_ahead_of_a_walk_are_joined_once_it_has_passed_or_was_aborted() {
    for is_aborted in [false, true] {
        let mut world = filled(5_000);
        let tables_used = |world: &World| world.arena.usage().tables_used_bytes;
        world.map.begin_checkpoint(&mut world.arena);
        for number in 0..5_000_u32 {
            let map = MAPS[usize_from_u32(number % 3)];
            world.run(map, &number.to_be_bytes(), Change::Remove, Undo::Discard);
        }
        assert!(tables_used(&world) > 100 * 512);
        if is_aborted {
            world.map.abort_checkpoint(&mut world.arena);
        } else {
            world.map.checkpoint_slice(&mut world.arena, ALL, &mut Vec::new());
        }
        world.sweep();
        assert_eq!((world.arena.usage().records_used_bytes, tables_used(&world)), (0, 512));
    }
}

#[test]
fn nothing_more_is_kept_for_a_checkpoint_that_was_aborted() {
    let mut world = filled(5_000);
    world.map.begin_checkpoint(&mut world.arena);
    world.put("a", &0_u32.to_be_bytes(), 1);
    world.put("a", &3_u32.to_be_bytes(), 1);
    let held_bytes = world.map.checkpoint_held_size_bytes();
    assert!(held_bytes >= 512);
    world.map.abort_checkpoint(&mut world.arena);
    for number in 0..5_000_u32 {
        world.put(MAPS[usize_from_u32(number % 3)], &number.to_be_bytes(), 1);
    }
    assert!(world.map.checkpoint_held_size_bytes() <= held_bytes);
    world.sweep();
    world.assert_holds_nothing_back();
}

#[test]
fn slice_keeps_to_its_budget_but_for_one_large_value() {
    let mut world = world();
    for number in 0..500_u32 {
        world.put("a", &number.to_be_bytes(), if number % 10 == 0 { 50_000 } else { 20 });
    }
    let (applied, digest) = (world.map.applied(), world.map.digest());
    world.map.begin_checkpoint(&mut world.arena);
    let budget = SliceBudget { record_count: 40, size_bytes: 10_000 };
    let mut out = Vec::new();
    let mut slice_count = 0;
    loop {
        let before = out.len();
        let progress = world.map.checkpoint_slice(&mut world.arena, budget, &mut out);
        assert!(out.len() - before < 10_000 + 50_100);
        slice_count += 1;
        if progress == Progress::Done {
            break;
        }
    }
    assert!(slice_count >= 50, "each large value ends a slice");
    assert_eq!(digest_of_loaded(world.hasher, &out, applied), digest);
}

#[test]
fn empty_map_is_checkpointed_and_loaded() {
    let mut world = world();
    let bytes = world.checkpoint();
    assert_eq!(bytes, [ITEM_END, 0]);
    let (_, loader) = load(world.hasher, &bytes, &mut Prng::new(1, "pieces"));
    let map = loader.finish(Index(7), Timestamp(0), StateDigest::default()).unwrap();
    assert_eq!((map.applied(), map.map_count()), (Index(7), 0));
}

#[test]
fn longest_keys_and_values_are_loaded() {
    let mut world = world();
    world.put("a", &[7; KEY_SIZE_BYTES_MAX], 3_000);
    let key = vec![8; KEY_SIZE_BYTES_MAX];
    let value = vec![9; VALUE_SIZE_BYTES_MAX];
    let operation = Operation::Put {
        key: &key,
        value: &value,
        condition: None,
        ttl: Ttl::Unlimited,
        want_previous: false,
    };
    let run = Execution { index: Index(2), time: time_of(2), undo: Undo::Discard };
    let command = Command {
        map: &"m".repeat(255),
        session: None,
        timeout_ms: 0,
        no_forward: false,
        operation,
    };
    let hash = world.hasher.hash(command.map, &key);
    world.map.execute(&mut world.arena, run, &command, hash, &mut Vec::new());
    let bytes = world.checkpoint();
    let digest = world.map.digest();
    assert_eq!(digest_of_loaded(world.hasher, &bytes, Index(2)), digest);
}

#[test]
fn discarded_loader_leaves_nothing_behind() {
    let bytes = filled(5_000).checkpoint();
    for size in [0, 1, bytes.len() / 2, bytes.len()] {
        let mut arena = Arena::new();
        let mut loader = MapLoader::new(KeyHasher::new([9; 16]), &mut arena);
        loader.feed(&mut arena, &bytes[..size]).unwrap();
        loader.discard(&mut arena);
        assert_eq!(arena.bytes_used(), 0);
    }
}

/// Feeds bytes at once; what `finish` says to what was loaded.
fn load_untrusted(bytes: &[u8], applied: Index, digest: StateDigest) -> Result<(), LoadError> {
    let mut arena = Arena::new();
    let mut loader = MapLoader::new(KeyHasher::new([9; 16]), &mut arena);
    if let Err(error) = loader.feed(&mut arena, bytes) {
        assert_eq!(loader.feed(&mut arena, &[]), Err(error), "it stays failed");
        assert_eq!(loader.check(applied, digest), Err(error));
        loader.discard(&mut arena);
        assert_eq!(arena.bytes_used(), 0);
        return Err(error);
    }
    loader.finish(applied, Timestamp(0), digest).map(drop)
}

/// As [`filled`], with times to live and a few sessions, one of which has results of both kinds.
fn filled_with_all(count: u32) -> World {
    let mut world = filled(count);
    let execute = |world: &mut World, sequence: Option<u64>, operation: Operation<'_>| {
        let index = world.map.applied().next();
        let session = sequence.map(|sequence| SessionCall {
            session: SessionId(u64::from(count) + 1),
            sequence: Sequence(sequence),
            ack_below: Sequence(sequence.saturating_sub(4)),
        });
        let run = Execution { index, time: time_of(index.0), undo: Undo::Discard };
        let command = Command { map: "rare", session, timeout_ms: 0, no_forward: false, operation };
        let hash = world.hasher.hash("rare", operation.key().unwrap_or_default());
        world.map.execute(&mut world.arena, run, &command, hash, &mut Vec::new());
    };
    for ttl_s in [60, 600] {
        execute(&mut world, None, Operation::OpenSession { ttl_s });
    }
    let value = [7; 30];
    for sequence in 1..=9 {
        let want_previous = sequence == 7;
        let (condition, ttl) = (None, Ttl::Ms(100 * sequence));
        let put = Operation::Put { key: b"k", value: &value, condition, ttl, want_previous };
        execute(&mut world, Some(sequence), put);
    }
    world
}

#[test]
fn checkpoint_of_a_state_without_sessions_and_times_to_live_is_what_it_always_was() {
    let mut world = world();
    world.put("orders", b"key", 3);
    world.put("orders", b"key", 2);
    let version_2_at_1000_ms = [ITEM_ENTRY, 0, 0, 2, 0xE8, 0x07, 3, 2, b'k', b'e', b'y', 2, 2];
    let expected = [&[ITEM_MAP, 6][..], b"orders", &version_2_at_1000_ms, &[ITEM_END, 1]].concat();
    assert_eq!(world.checkpoint(), expected);
    // As the release before sessions computed it: it stands in the head of its checkpoints.
    let mut fields = Vec::new();
    fields.extend(digest128(b"orders").to_le_bytes());
    fields.extend(digest128(b"key\x02\x02").to_le_bytes());
    for number in [2_u64, 1_000, 1_000, 3] {
        fields.extend(number.to_le_bytes());
    }
    let digest = StateDigest(digest128(&fields));
    assert_eq!(world.map.digest(), digest);
    assert_eq!(load_untrusted(&expected, Index(2), digest), Ok(()));
}

#[test]
fn sessions_and_times_to_live_are_loaded() {
    let mut world = filled_with_all(30);
    let (applied, digest) = (world.map.applied(), world.map.digest());
    let bytes = world.checkpoint();
    let mut arena = Arena::new();
    let mut loader = MapLoader::new(world.hasher, &mut arena);
    loader.feed(&mut arena, &bytes).unwrap();
    let loaded = loader.finish(applied, time_of(applied.0), digest).unwrap();
    assert_eq!(loaded.session_count(), 2);
    assert_eq!(loaded.next_expiry(), world.map.next_expiry());
    assert!(loaded.next_expiry().is_some());
    // A checkpoint of it is a checkpoint of the same.
    let mut again = World { arena, map: loaded, hasher: world.hasher };
    assert_eq!(load_untrusted(&again.checkpoint(), applied, digest), Ok(()));
}

#[test]
fn sessions_that_change_ahead_of_a_checkpoint_are_in_it_as_they_were() {
    let mut world = World::new(KeyHasher::new([9; 16]));
    let run = |index, undo| Execution { index: Index(index), time: time_of(index), undo };
    let sessions = &mut world.map.sessions;
    for index in 1..=20 {
        sessions.open(run(index, Undo::Discard), 60);
    }
    world.map.applied = Index(20);
    let digest = world.map.digest();
    world.map.begin_checkpoint(&mut world.arena);
    let one = SliceBudget { record_count: 1, size_bytes: usize::MAX };
    let mut out = Vec::new();
    world.map.checkpoint_slice(&mut world.arena, one, &mut out);
    let sessions = &mut world.map.sessions;
    let call = |session| SessionCall {
        session: SessionId(session),
        sequence: Sequence(1),
        ack_below: Sequence(0),
    };
    sessions.store(run(21, Undo::Keep), call(1), b"written already");
    sessions.store(run(22, Undo::Keep), call(9), b"ahead");
    assert!(sessions.close(run(23, Undo::Keep), call(10)));
    assert!(sessions.close(run(24, Undo::Keep), call(9)));
    assert!(sessions.open(run(25, Undo::Keep), 60).is_some(), "not part of it");
    sessions.undo_to(Index(23));
    assert!(world.map.checkpoint_held_size_bytes() > 0);
    while world.map.checkpoint_slice(&mut world.arena, one, &mut out) == Progress::More {}
    assert_eq!(world.map.checkpoint_held_size_bytes(), 0);
    assert_eq!(load_untrusted(&out, Index(20), digest), Ok(()));
}

#[test]
fn checkpoint_that_was_cut_is_refused_wherever_it_was_cut() {
    let mut world = filled_with_all(300);
    let bytes = world.checkpoint();
    let (applied, digest) = (world.map.applied(), world.map.digest());
    for size in 0..bytes.len() {
        let cut = load_untrusted(&bytes[..size], applied, digest);
        assert_eq!(cut, Err(LoadError::Incomplete), "{size} bytes");
    }
    assert_eq!(load_untrusted(&bytes, applied, digest), Ok(()));
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(load_untrusted(&longer, applied, digest), Err(LoadError::AfterEnd));
}

#[test]
fn each_flipped_bit_is_refused() {
    let mut world = filled_with_all(60);
    let mut bytes = world.checkpoint();
    let (applied, digest) = (world.map.applied(), world.map.digest());
    for bit in 0..8 * bytes.len() {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(load_untrusted(&bytes, applied, digest).is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

proptest! {
    #[test]
    fn random_bytes_are_refused_without_a_panic(bytes in vec(any::<u8>(), 0..300)) {
        let nothing = StateDigest::default();
        let loaded = load_untrusted(&bytes, Index(9), nothing);
        prop_assert!(loaded.is_err() || bytes == [ITEM_END, 0]);
    }

    /// Items that are plausible one by one, in any order, some of them damaged.
    #[test]
    fn mutated_checkpoints_are_refused_without_a_panic(
        key_count in 1_u32..200,
        cuts in vec((any::<sample::Index>(), any::<sample::Index>(), 0_usize..40), 1..4),
        bytes_at in vec((any::<sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut world = filled_with_all(key_count);
        let original = world.checkpoint();
        let (applied, digest) = (world.map.applied(), world.map.digest());
        let mut bytes = original.clone();
        for (from, to, len) in cuts {
            let from = from.index(bytes.len());
            let piece = bytes[from..(from + len).min(bytes.len())].to_vec();
            let to = to.index(bytes.len());
            bytes.splice(to..to, piece);
        }
        for (at, byte) in bytes_at {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let loaded = load_untrusted(&bytes, applied, digest);
        prop_assert!(loaded.is_err() || bytes == original);
    }
}

/// A map, an entry of it, and the end, with one field replaced.
fn entry_with(field: usize, value: u64) -> Vec<u8> {
    let mut bytes = vec![ITEM_MAP, 1, b'm', ITEM_ENTRY];
    // Map, flags, version, updated_ms, age_ms, ttl_ms, key length, value length.
    let mut fields = [0, FLAG_AGE | FLAG_TTL, 5, 9, 2, 3, 1, 0];
    fields[field] = value;
    fields.into_iter().for_each(|field| push_varint(&mut bytes, field));
    bytes
}

/// A session with two results, as far as its fields go.
fn session_with(field: usize, value: u64) -> Vec<u8> {
    let mut bytes = vec![ITEM_SESSION];
    // Id, ttl_s, active_s, ack_below, count, sequence, length, result, sequence, length, result.
    let mut fields = [5, 60, 9, 3, 2, 4, 1, 0, 34, 1, 0];
    fields[field] = value;
    fields.into_iter().for_each(|field| push_varint(&mut bytes, field));
    bytes
}

#[test]
fn fields_that_no_session_has_are_refused_before_the_session_is_whole() {
    let refused = |bytes: &[u8]| load_untrusted(bytes, Index(9), StateDigest::default());
    assert!(matches!(refused(&session_with(0, 5)), Err(LoadError::Incomplete)), "it is sound");
    let (day, window) = (u64::from(SESSION_TTL_S_MAX), SESSION_WINDOW_COUNT);
    let longest = u64_from(SESSION_RESULTS_SIZE_BYTES_MAX);
    for (field, value, fault) in [
        (0, 0, SessionFault::Id),
        (1, 0, SessionFault::Time),
        (1, day + 1, SessionFault::Time),
        (1, 1 << 32, SessionFault::Time),
        (2, 1 << 48, SessionFault::Time),
        (3, 0, SessionFault::Results),
        (3, 5, SessionFault::Results),
        (3, 2, SessionFault::Results),
        (4, window + 1, SessionFault::Results),
        (5, 2, SessionFault::Results),
        (5, 34, SessionFault::Results),
        (6, 0, SessionFault::Results),
        (6, longest + 1, SessionFault::Results),
        (8, 4, SessionFault::Results),
        (8, 35, SessionFault::Results),
        (9, longest + 1, SessionFault::Results),
    ] {
        let bytes = session_with(field, value);
        assert_eq!(refused(&bytes), Err(LoadError::Session(fault)), "{bytes:?}");
    }
    let end = [ITEM_END, 0];
    let newer = [&session_with(0, 10)[..], &end].concat();
    assert_eq!(refused(&newer), Err(LoadError::Session(SessionFault::Id)));
    let twice = [session_with(0, 5), session_with(0, 5)].concat();
    assert_eq!(refused(&twice), Err(LoadError::Session(SessionFault::Id)));
    // Of two results of which each may be as long, only one is.
    let mut bytes = vec![ITEM_SESSION];
    [5, 60, 9, 3, 2].into_iter().for_each(|field| push_varint(&mut bytes, field));
    for sequence in [3, 4] {
        push_varint(&mut bytes, sequence);
        push_varint(&mut bytes, longest);
        bytes.extend(vec![7; usize_from(longest)]);
    }
    assert_eq!(refused(&bytes), Err(LoadError::Session(SessionFault::Results)));
}

#[test]
fn too_many_sessions_are_refused() {
    let mut bytes = Vec::new();
    for id in 1..=u64_from(SESSION_COUNT_MAX) + 1 {
        bytes.push(ITEM_SESSION);
        [id, 60, 9, 1, 0].into_iter().for_each(|field| push_varint(&mut bytes, field));
    }
    let refused = load_untrusted(&bytes, Index(1 << 20), StateDigest::default());
    assert_eq!(refused, Err(LoadError::Session(SessionFault::Id)));
}

#[test]
fn fields_that_no_entry_has_are_refused_before_the_entry_is_whole() {
    let refused = |bytes: &[u8]| load_untrusted(bytes, Index(9), StateDigest::default());
    let too_long = u64_from(KEY_SIZE_BYTES_MAX) + 1;
    let huge = u64::MAX;
    for (bytes, error) in [
        (entry_with(1, 4), LoadError::UnknownFlags { flags: 4 }),
        (entry_with(2, 0), LoadError::Version { version: Index(0) }),
        (entry_with(3, 1), LoadError::Time),
        (entry_with(3, 1 << 48), LoadError::Time),
        (entry_with(4, 10), LoadError::Time),
        (entry_with(5, 0), LoadError::Time),
        (entry_with(5, ENTRY_TTL_MS_MAX + 1), LoadError::Time),
        (entry_with(6, 0), LoadError::KeySize { size_bytes: 0 }),
        (entry_with(6, too_long), LoadError::KeySize { size_bytes: too_long }),
        (entry_with(7, huge), LoadError::ValueSize { size_bytes: huge }),
        (vec![0], LoadError::Item { first_byte: 0 }),
        (vec![ITEM_MAP, 0x80, 2], LoadError::MapName),
        (vec![ITEM_MAP, 0], LoadError::MapName),
        (vec![ITEM_MAP, 1, 0xFF], LoadError::MapName),
        (vec![ITEM_MAP, 1, b'm', ITEM_MAP, 1, b'm'], LoadError::MapTwice),
        ([&[ITEM_END][..], &[0xFF; 10]].concat(), LoadError::Number),
        (vec![ITEM_END, 1], LoadError::EntryCount { written: 1, loaded: 0 }),
        (vec![ITEM_MAP, 1, b'm', ITEM_END, 0], LoadError::MapEmpty),
    ] {
        assert_eq!(refused(&bytes), Err(error), "{bytes:?}");
    }
    let whole = |field, value| [&entry_with(field, value)[..], b"k"].concat();
    assert_eq!(refused(&whole(0, 1)), Err(LoadError::UnknownMap { number: 1 }));
    let end = [ITEM_END, 1];
    let newer = [&whole(2, 10)[..], &end].concat();
    assert_eq!(refused(&newer), Err(LoadError::Version { version: Index(10) }));
    let twice = [&whole(0, 0)[..], &whole(0, 0)[3..], &end].concat();
    assert_eq!(refused(&twice), Err(LoadError::KeyTwice));
    // Another key with the same version, in the same order of expiry.
    let other_key = [&whole(0, 0)[..], &entry_with(0, 0)[3..], b"j", &end].concat();
    assert_eq!(refused(&other_key), Err(LoadError::Version { version: Index(5) }));
}
