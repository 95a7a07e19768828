//! A paced load with verification: operations are due at fixed times, whatever became of those
//! before, and their latency counts from when they were due.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use p2pmap::base::cast::low_u32;
use p2pmap::base::ids::PartitionId;
use p2pmap::base::prng::Prng;
use p2pmap::client::Client;
use p2pmap::client::connection::{Connection, Operation};
use p2pmap::proto::p2pmap::v1::result::Outcome;
use p2pmap::proto::p2pmap::v1::{Put, Remove};
use p2pmap::wire::route::Router;

use crate::sample::Recorder;

pub(crate) const PARTITION_COUNT: u32 = 64;
/// Written once, by nobody here.
pub(crate) const QUIET_PARTITION: u32 = 37;
/// Keys of a worker in a partition: so few that they all are there when the warm-up ends.
pub(crate) const SLOT_COUNT: u64 = 32;
pub(crate) const VALUE_SIZE_BYTES: usize = 1_024;
/// Operations that are sent together at most when the load is behind.
const BATCH_COUNT_MAX: usize = 32;
const TIMEOUT: Duration = Duration::from_secs(30);

static TAGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let router = Router::new(PARTITION_COUNT);
    let tags = (0..PARTITION_COUNT).map(|partition| router.tag_of(PartitionId(partition)));
    tags.map(|tag| String::from_utf8(tag.into()).expect("tags are text")).collect()
});

/// What the keys of a partition begin with.
pub(crate) fn tag_of(partition: u32) -> &'static str {
    &TAGS[partition as usize]
}

/// Writes and reads its own keys, which nobody else writes, so it knows what each must be.
#[derive(Debug)]
pub(crate) struct Worker {
    map: String,
    prng: Prng,
    interval: Duration,
    next_value: u64,
    /// The number of each key's value.
    known: BTreeMap<(u32, u64), u64>,
    pub(crate) acknowledged_count: u64,
    pub(crate) operation_count: u64,
    pub(crate) refused_count: u64,
}

/// An operation under way.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Put { partition: u32, slot: u64, number: u64 },
    Get { partition: u32, slot: u64 },
    Remove { partition: u32, slot: u64 },
    Clear { partition: u32 },
}

impl Worker {
    pub(crate) fn new(id: usize, seed: u64, rate: u64, worker_count: usize) -> Self {
        let per_worker = (rate / worker_count as u64).max(1);
        Self {
            map: format!("soak-{id}"),
            prng: Prng::new(seed, &format!("worker {id}")),
            interval: Duration::from_nanos(1_000_000_000 / per_worker),
            next_value: (id as u64) << 48,
            known: BTreeMap::new(),
            acknowledged_count: 0,
            operation_count: 0,
            refused_count: 0,
        }
    }

    /// Loads until it is told to stop.
    pub(crate) fn run(
        &mut self,
        node: &str,
        begin: Instant,
        stop: &AtomicBool,
        recorder: &Recorder,
    ) {
        let mut connection = Connection::connect(node, TIMEOUT).expect("the node is ready");
        let mut due = begin;
        while !stop.load(Ordering::Acquire) {
            let now = Instant::now();
            if now < due {
                std::thread::sleep(due - now);
                continue;
            }
            let mut asked = BTreeMap::new();
            // No two at once in one partition: then there is no doubt which came first.
            let mut busy = BTreeSet::from([QUIET_PARTITION]);
            while due <= now && asked.len() < BATCH_COUNT_MAX {
                let partition = self.choose_partition(&mut busy);
                let (operation, what) = self.choose(partition);
                let target = match what {
                    Asked::Clear { partition } => format!("{}#{partition}", self.map),
                    _ => self.map.clone(),
                };
                let correlation = connection.send(&target, operation).expect("a connection");
                asked.insert(correlation, (what, due));
                due += self.interval;
            }
            while !asked.is_empty() {
                let answer = connection.receive().expect("the node answers");
                let (what, due) = asked.remove(&answer.correlation).expect("each once");
                recorder.record(due.elapsed());
                self.on_answer(what, answer.outcome);
            }
        }
    }

    fn choose_partition(&mut self, busy: &mut BTreeSet<u32>) -> u32 {
        loop {
            let partition = low_u32(self.prng.below(u64::from(PARTITION_COUNT)));
            if busy.insert(partition) {
                return partition;
            }
        }
    }

    fn choose(&mut self, partition: u32) -> (Operation, Asked) {
        let slot = self.prng.below(SLOT_COUNT);
        let key = key(partition, slot);
        match self.prng.below(1_000) {
            0..600 => {
                self.next_value += 1;
                let number = self.next_value;
                let put = Put { key, value: value(number), ..Put::default() };
                (Operation::Put(put), Asked::Put { partition, slot, number })
            }
            600..950 => (Operation::Get { key }, Asked::Get { partition, slot }),
            950..997 => {
                let remove = Remove { key, ..Remove::default() };
                (Operation::Remove(remove), Asked::Remove { partition, slot })
            }
            _ => (Operation::Clear, Asked::Clear { partition }),
        }
    }

    fn on_answer(&mut self, what: Asked, outcome: Outcome) {
        self.operation_count += 1;
        match (what, outcome) {
            // Refused before it was stamped: nothing was changed.
            (_, Outcome::Error(_)) => {
                self.refused_count += 1;
                return;
            }
            (Asked::Put { partition, slot, number }, Outcome::Written(_)) => {
                self.known.insert((partition, slot), number);
            }
            (Asked::Remove { partition, slot }, Outcome::Removed(removed)) => {
                let known = self.known.remove(&(partition, slot));
                assert_eq!(removed.existed, known.is_some(), "{partition}/{slot}");
            }
            (Asked::Clear { partition }, Outcome::Cleared(cleared)) => {
                let before = self.known.len();
                self.known.retain(|(other, _), _| *other != partition);
                let gone = (before - self.known.len()) as u64;
                assert_eq!(cleared.entries, gone, "{partition} is cleared");
            }
            (Asked::Get { partition, slot }, Outcome::Found(found)) => {
                let found = found.entry.map(|entry| entry.value);
                self.assert_known(partition, slot, found, "under load");
                return;
            }
            (what, outcome) => panic!("{what:?} was answered with {outcome:?}"),
        }
        self.acknowledged_count += 1;
    }

    /// Reads every key that was ever possible; returns how many there are.
    pub(crate) fn check(&mut self, client: &mut Client, when: &str) -> usize {
        for partition in (0..PARTITION_COUNT).filter(|partition| *partition != QUIET_PARTITION) {
            for slot in 0..SLOT_COUNT {
                let found = client.get(&self.map, key(partition, slot)).expect("the node answers");
                self.assert_known(partition, slot, found.map(|entry| entry.value), when);
            }
        }
        self.known.len()
    }

    fn assert_known(&self, partition: u32, slot: u64, found: Option<Bytes>, when: &str) {
        let known = self.known.get(&(partition, slot)).map(|number| value(*number));
        let map = &self.map;
        assert!(found == known, "LOST {when}: map {map}, key {:?}", key(partition, slot));
    }
}

fn key(partition: u32, slot: u64) -> Bytes {
    format!("{}{slot}", tag_of(partition)).into()
}

/// Its number, over and over.
fn value(number: u64) -> Bytes {
    let mut value = format!("{number:016x};").into_bytes().repeat(VALUE_SIZE_BYTES / 17 + 1);
    value.truncate(VALUE_SIZE_BYTES);
    value.into()
}
