//! Guarantee: a partition's map does what a plain map does, whatever is undone in between; and no
//! bytes in the place of a checkpoint make loading panic, keep memory, or give another state than
//! the one that was written.
//!
//! Commands go in and results come out as bytes, as clients see them. How to replay a round:
//! `tests/fuzzing`.

#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]

mod fuzzing;

use std::collections::BTreeMap;

use fuzzing::{byte, damage, entropy, fuzz_rounds, place};
use p2pmap::base::chain::Chain;
use p2pmap::base::ids::{Index, PartitionId};
use p2pmap::base::prng::Prng;
use p2pmap::base::time::{NS_PER_MS, Timestamp};
use p2pmap::map::arena::Arena;
use p2pmap::map::checkpoint::{MapLoader, Progress, SliceBudget};
use p2pmap::map::digest::StateDigest;
use p2pmap::map::hasher::KeyHasher;
use p2pmap::map::operation::with_command;
use p2pmap::map::partition::{Execution, PartitionMap, Undo};
use p2pmap::proto::p2pmap::v1;
use p2pmap::proto::p2pmap::v1::command::Operation;
use p2pmap::proto::p2pmap::v1::error::Code;
use p2pmap::proto::p2pmap::v1::result::Outcome;
use p2pmap::storage::block::Block;
use p2pmap::storage::checkpoint::{
    CHUNK_BLOCK_COUNT, CheckpointDecoder, CheckpointEncoder, CheckpointHead, CheckpointId,
};
use prost::Message as _;

const MAPS: [&str; 3] = ["a", "orders", "a much longer name of a map"];
const SECRET: [u8; 16] = [7; 16];
const SALT: u32 = 0xA5A5_0001;

/// An entry as clients see it.
type State = BTreeMap<(usize, Vec<u8>), v1::Versioned>;

/// What a command must do, in the plainest way.
fn execute_in_model(
    state: &mut State,
    (index, now_ms): (u64, i64),
    map: usize,
    operation: &Operation,
) -> Outcome {
    match operation {
        Operation::Put(put) => {
            let place = (map, put.key.to_vec());
            let current = state.get(&place).cloned();
            if let Some(error) = failure(put.condition.as_ref(), current.as_ref()) {
                return Outcome::Error(error);
            }
            let created_ms = current.as_ref().map_or(now_ms, |current| current.created_ms);
            let entry = v1::Versioned {
                value: put.value.clone(),
                version: index,
                created_ms,
                updated_ms: now_ms,
                ..Default::default()
            };
            state.insert(place, entry);
            let previous = current.filter(|_| put.want_previous);
            Outcome::Written(v1::Written { version: index, previous })
        }
        Operation::Remove(remove) => {
            let place = (map, remove.key.to_vec());
            let current = state.get(&place).cloned();
            if let Some(error) = failure(remove.condition.as_ref(), current.as_ref()) {
                return Outcome::Error(error);
            }
            state.remove(&place);
            let existed = current.is_some();
            let previous = current.filter(|_| remove.want_previous);
            Outcome::Removed(v1::Removed { existed, previous })
        }
        Operation::Clear(_) => {
            let before = state.len();
            state.retain(|(of, _), _| *of != map);
            Outcome::Cleared(v1::Cleared { entries: (before - state.len()) as u64 })
        }
        #[allow(unreachable_patterns, reason = "operations of later releases")]
        other => panic!("{other:?}"),
    }
}

fn failure(
    condition: Option<&v1::Condition>,
    current: Option<&v1::Versioned>,
) -> Option<v1::Error> {
    use v1::condition::Condition;
    let holds = match (condition?.condition.as_ref()?, current) {
        (Condition::Absent(_), current) => current.is_none(),
        (_, None) => false,
        (Condition::Present(_), Some(_)) => true,
        (Condition::Version(version), Some(entry)) => entry.version == *version,
        (Condition::Value(value), Some(entry)) => entry.value == *value,
    };
    let code = Code::ConditionFailed.into();
    (!holds).then(|| v1::Error { code, current: current.cloned(), ..Default::default() })
}

/// A partition and its model, side by side.
struct Pair {
    arena: Arena,
    hasher: KeyHasher,
    partition: PartitionMap,
    index: u64,
    now_ms: u64,
    committed: u64,
    /// The state at each index that may be undone to, the committed one first.
    states: BTreeMap<u64, State>,
}

impl Pair {
    fn new() -> Self {
        let mut arena = Arena::new();
        let hasher = KeyHasher::new(SECRET);
        let partition = PartitionMap::new(hasher, &mut arena);
        let states = [(0, State::new())].into();
        Self { arena, hasher, partition, index: 0, now_ms: 1_000, committed: 0, states }
    }

    fn state(&self) -> &State {
        self.states.last_key_value().expect("the committed state stays").1
    }

    fn step(&mut self, prng: &mut Prng) {
        match prng.below(12) {
            0 => {
                self.committed += prng.below(self.index - self.committed + 1);
                self.partition.commit(&mut self.arena, Index(self.committed));
                let at = *self.states.range(..=self.committed).next_back().unwrap().0;
                self.states = self.states.split_off(&at);
            }
            1 => {
                self.index = self.committed + prng.below(self.index - self.committed + 1);
                self.partition.undo_to(&mut self.arena, Index(self.index));
                self.states.split_off(&(self.index + 1));
            }
            2 => {
                self.partition.sweep(&mut self.arena, 8);
            }
            _ => {
                let (map, operation) = self.operation(prng);
                self.execute(map, operation);
            }
        }
    }

    fn operation(&self, prng: &mut Prng) -> (usize, Operation) {
        let map = place(prng, MAPS.len());
        let size = 1 + place(prng, 3);
        let key: Vec<u8> = (0..size).map(|_| byte(prng) & 3).collect();
        let current = self.state().get(&(map, key.clone()));
        let key = key.into();
        let (condition, want_previous) = (self.condition(prng, current), prng.one_in(2));
        let operation = match prng.below(10) {
            0 => Operation::Clear(v1::Clear {}),
            1..4 => Operation::Remove(v1::Remove { key, condition, want_previous }),
            _ => {
                let value_size_max = if prng.one_in(10) { 5_000 } else { 20 };
                let value = entropy(prng, value_size_max).into();
                let put = v1::Put { key, value, condition, want_previous, ..Default::default() };
                Operation::Put(put)
            }
        };
        (map, operation)
    }

    /// A condition that holds as often as it doesn't, or none.
    fn condition(&self, prng: &mut Prng, current: Option<&v1::Versioned>) -> Option<v1::Condition> {
        use v1::condition::Condition;
        let version = current.map_or(1, |current| current.version);
        let value = current.map(|current| current.value.clone()).unwrap_or_default();
        let condition = match prng.below(12) {
            0 => Condition::Absent(true),
            1 => Condition::Present(true),
            2 => Condition::Version(version),
            3 => Condition::Version(1 + prng.below(self.index + 2)),
            4 => Condition::Value(value),
            5 => Condition::Value(entropy(prng, 4).into()),
            _ => return None,
        };
        Some(v1::Condition { condition: Some(condition) })
    }

    fn execute(&mut self, map: usize, operation: Operation) -> Outcome {
        self.index += 1;
        self.now_ms += self.index % 3;
        let mut state = self.state().clone();
        let now_ms = i64::try_from(self.now_ms).expect("it is small");
        let expected = execute_in_model(&mut state, (self.index, now_ms), map, &operation);
        self.states.insert(self.index, state);
        let key = match &operation {
            Operation::Put(put) => put.key.clone(),
            Operation::Remove(remove) => remove.key.clone(),
            _ => Default::default(),
        };
        let map = MAPS[map].to_owned();
        let hash = self.hasher.hash(&map, &key);
        let command = v1::Command { map, operation: Some(operation), ..Default::default() };
        let bytes = command.encode_to_vec();
        let time = Timestamp(self.now_ms * NS_PER_MS);
        let run = Execution { index: Index(self.index), time, undo: Undo::Keep };
        let mut result = Vec::new();
        with_command(&bytes, usize::MAX, |command| {
            let command = command.expect("it is valid");
            self.partition.execute(&mut self.arena, run, &command, hash, &mut result);
        });
        let result = v1::Result::decode(&result[..]).expect("a result");
        let mut outcome = result.outcome.expect("a result says something");
        if let Outcome::Error(error) = &mut outcome {
            // For people; the code and the entry are for programs.
            error.message.clear();
        }
        assert_eq!(outcome, expected);
        outcome
    }

    /// Looks at every entry by removing it, and at what is left: nothing.
    fn remove_everything(&mut self) {
        for (map, key) in self.state().clone().into_keys() {
            let remove = v1::Remove { key: key.into(), condition: None, want_previous: true };
            self.execute(map, Operation::Remove(remove));
        }
        assert_eq!(self.partition.digest(), StateDigest::default());
    }

    /// The state as a checkpoint, in slices.
    fn checkpoint(&mut self, prng: &mut Prng) -> Vec<u8> {
        let mut out = Vec::new();
        self.partition.begin_checkpoint(&mut self.arena);
        loop {
            let record_count = 1 + place(prng, 50);
            let budget = SliceBudget { record_count, size_bytes: 1 + place(prng, 4_000) };
            let progress = self.partition.checkpoint_slice(&mut self.arena, budget, &mut out);
            if progress == Progress::Done {
                return out;
            }
        }
    }
}

#[test]
fn map_does_what_a_plain_map_does() {
    fuzz_rounds(150, |prng| {
        let mut pair = Pair::new();
        for _ in 0..prng.below(600) {
            pair.step(prng);
        }
        pair.remove_everything();
    });
}

/// A partition with entries, and its checkpoint.
fn checkpointed(prng: &mut Prng) -> (Pair, Vec<u8>) {
    let mut pair = Pair::new();
    for _ in 0..prng.below(120) {
        pair.step(prng);
    }
    let bytes = pair.checkpoint(prng);
    (pair, bytes)
}

/// Loads bytes in pieces; whether they are the state that they should be.
fn loads(pair: &Pair, mut bytes: &[u8], prng: &mut Prng) -> bool {
    let mut arena = Arena::new();
    let mut loader = MapLoader::new(pair.hasher, &mut arena);
    let mut is_fed = true;
    while is_fed && !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(bytes.len().min(1 + place(prng, 700)));
        is_fed = loader.feed(&mut arena, piece).is_ok();
        bytes = rest;
    }
    let is_state = loader.check(pair.partition.applied(), pair.partition.digest()).is_ok();
    assert!(is_fed || !is_state, "what could not be read is no state");
    loader.discard(&mut arena);
    assert_eq!(arena.usage().records_used_bytes, 0, "nothing is kept");
    is_state
}

#[test]
fn checkpoints_load_whatever_pieces_they_come_in() {
    fuzz_rounds(100, |prng| {
        let (pair, bytes) = checkpointed(prng);
        assert!(loads(&pair, &bytes, prng));
    });
}

#[test]
fn damaged_checkpoints_are_refused_or_the_same_state() {
    fuzz_rounds(1_000, |prng| {
        let (pair, bytes) = checkpointed(prng);
        let mut damaged = bytes.clone();
        damage(&mut damaged, prng);
        if loads(&pair, &damaged, prng) && damaged != bytes {
            // Possible: a number that is written with more bytes than it needs. The digest says
            // that it is the same state.
            assert!(damaged.len() > bytes.len(), "{damaged:?} {bytes:?}");
        }
    });
}

#[test]
fn garbage_is_no_checkpoint() {
    fuzz_rounds(2_000, |prng| {
        let pair = Pair::new();
        let mut bytes = entropy(prng, 300);
        // Items begin with 1 to 4.
        for byte in &mut bytes {
            if prng.one_in(3) {
                *byte &= 7;
            }
        }
        // It may well be the empty state.
        loads(&pair, &bytes, prng);
    });
}

// ---- the file of a checkpoint ----

const ID: CheckpointId = CheckpointId { partition: PartitionId(3), index: Index(77) };

/// A checkpoint's file.
fn file(state: &[u8]) -> Vec<u8> {
    let head =
        CheckpointHead { id: ID, timestamp: Timestamp(5), chain: Chain([1; 16]), digest: [2; 16] };
    let mut encoder = CheckpointEncoder::new(SALT, &head);
    encoder.body().extend_from_slice(state);
    encoder.end();
    let mut out = Vec::new();
    while let Some(chunk) = encoder.next_chunk(Vec::new()) {
        assert_eq!(chunk.offset, out.len() as u64);
        out.extend(chunk.blocks.iter().flat_map(|block| block.0));
    }
    out
}

/// The state in a file; `None`: it is damaged, or isn't whole.
fn state_of(file: &[u8]) -> Option<Vec<u8>> {
    let (blocks, _) = file.as_chunks::<4_096>();
    let blocks: Vec<Block> = blocks.iter().map(|bytes| Block(*bytes)).collect();
    let mut decoder = CheckpointDecoder::new(SALT, ID);
    let mut state = Vec::new();
    for chunk in blocks.chunks(CHUNK_BLOCK_COUNT) {
        state.extend_from_slice(decoder.chunk(chunk).ok()?);
        if decoder.is_complete() {
            return Some(state);
        }
    }
    None
}

#[test]
fn damaged_files_of_checkpoints_are_refused_or_unharmed() {
    fuzz_rounds(300, |prng| {
        let size = if prng.one_in(3) { 600_000 } else { 10_000 };
        let mut state = entropy(prng, 2_000);
        state.resize(state.len() + place(prng, size), 7);
        let mut bytes = file(&state);
        assert_eq!(state_of(&bytes).as_ref(), Some(&state));
        if prng.one_in(4) {
            // A block in the place of another.
            let (from, to) = (place(prng, bytes.len() / 4_096), place(prng, bytes.len() / 4_096));
            bytes.copy_within(from * 4_096..(from + 1) * 4_096, to * 4_096);
        } else {
            damage(&mut bytes, prng);
        }
        assert!(state_of(&bytes).is_none_or(|found| found == state));
    });
}

/// Somebody computed the checksum of damaged bytes anew: nothing is taken on trust.
#[test]
fn sealed_garbage_in_the_place_of_a_checkpoint_does_not_panic() {
    fuzz_rounds(1_000, |prng| {
        let state = entropy(prng, 9_000);
        let mut bytes = file(&state);
        for _ in 0..1 + prng.below(3) {
            let bound = if prng.one_in(2) { 32 } else { bytes.len() };
            let at = place(prng, bound);
            bytes[at] = byte(prng);
        }
        let used = u32::from_le_bytes(bytes[20..24].try_into().unwrap()) as usize;
        let size = used.saturating_add(32).next_multiple_of(4_096).min(bytes.len());
        let crc = p2pmap::base::checksum::crc32_salted(SALT, &bytes[4..size]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        if let Some(state) = state_of(&bytes) {
            assert!(state.len() <= bytes.len());
        }
    });
}
