//! Nothing that a node has acknowledged is lost when it is killed: every put is there after the
//! restart with its value and version, none shows up twice, and versions never go back.
//!
//! `P2PMAP_CRASH_COUNT` says how often the node is killed, `P2PMAP_CRASH_SEED` repeats a run's
//! load and moments; `scripts/crash.sh` sets them.
#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]
#![allow(clippy::disallowed_methods, reason = "a node is killed at a moment, not at an event")]

mod support;

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Barrier;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use p2pmap::base::prng::Prng;
use p2pmap::client::Client;
use p2pmap::client::connection::{Connection, Operation};
use p2pmap::node::placement;
use p2pmap::proto::p2pmap::v1::result::Outcome;
use p2pmap::proto::p2pmap::v1::{Entries, Put, Remove, Versioned};
use support::Node;

const MAP: &str = "crash";
/// Small, so that checkpoints, carrying over and recycling happen all the time.
const SETTINGS: [&str; 6] =
    ["--segment-size", "8MiB", "--log-max", "256MiB", "--checkpoint-interval", "1MiB"];
const WRITER_COUNT: usize = 4;
const KEY_COUNT: u64 = 300;
const DEPTH: usize = 32;
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a writer knows of one of its keys. Each key has one writer, and no two of its writes are
/// under way at once, so there is always one value that must be there, or one of two.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The last write that was acknowledged: its value (`None`: removed) and version.
    acknowledged: Option<(Option<Bytes>, u64)>,
    /// A write without an answer: it may have happened or not.
    pending: Option<Option<Bytes>>,
}

#[derive(Debug)]
struct Writer {
    id: usize,
    prng: Prng,
    next_value: u64,
    keys: BTreeMap<u64, Known>,
    acknowledged_count: u64,
}

impl Writer {
    fn new(id: usize, seed: u64) -> Self {
        let prng = Prng::new(seed, &format!("writer {id}"));
        Self { id, prng, next_value: 0, keys: BTreeMap::new(), acknowledged_count: 0 }
    }

    fn key(&self, number: u64) -> Bytes {
        format!("{}-{number}", self.id).into()
    }

    /// Mostly small values, some of many blocks and a few larger than a write batch.
    fn value(&mut self) -> Bytes {
        self.next_value += 1;
        let mut value = format!("{}:{};", self.id, self.next_value).into_bytes();
        let size = match self.prng.below(200) {
            0 => 300_000,
            1..10 => 10_000,
            _ => self.prng.below(100),
        };
        value.extend((0..size).map(|place| b'a' + (place % 26) as u8));
        value.into()
    }

    /// Writes until the connection breaks.
    fn run(&mut self, node: &str) {
        let Ok(mut connection) = Connection::connect(node, TIMEOUT) else { return };
        let mut under_way: BTreeMap<u64, u64> = BTreeMap::new();
        loop {
            while under_way.len() < DEPTH {
                let number = self.prng.below(KEY_COUNT);
                if under_way.values().any(|&other| other == number) {
                    continue;
                }
                let key = self.key(number);
                let (value, operation) = if self.prng.one_in(10) {
                    (None, Operation::Remove(Remove { key, ..Remove::default() }))
                } else {
                    let value = self.value();
                    let put = Put { key, value: value.clone(), ..Put::default() };
                    (Some(value), Operation::Put(put))
                };
                // Even a send that fails may have reached the node.
                self.keys.entry(number).or_default().pending = Some(value);
                let Ok(correlation) = connection.send(MAP, operation) else { return };
                under_way.insert(correlation, number);
            }
            let Ok(answer) = connection.receive() else { return };
            let number = under_way.remove(&answer.correlation).expect("each is answered once");
            self.on_answer(number, answer.index, answer.outcome);
        }
    }

    fn on_answer(&mut self, number: u64, index: u64, outcome: Outcome) {
        let known = self.keys.get_mut(&number).expect("it was written");
        let value = known.pending.take().expect("it was under way");
        match outcome {
            Outcome::Written(written) => assert_eq!(written.version, index),
            Outcome::Removed(_) => {}
            other => panic!("writer {}: key {number}: {other:?}", self.id),
        }
        let before = known.acknowledged.as_ref().map_or(0, |(_, version)| *version);
        assert!(index > before, "key {number}: version {index} after {before}");
        known.acknowledged = Some((value, index));
        self.acknowledged_count += 1;
    }

    /// Holds what the node has against what is known, and takes over what it decided about writes
    /// without an answer.
    fn check(&mut self, client: &mut Client) {
        let id = self.id;
        for (&number, known) in &mut self.keys {
            let key = format!("{id}-{number}");
            let found: Option<Versioned> = client.get(MAP, key.clone()).expect("the node answers");
            let acknowledged = known.acknowledged.clone().unwrap_or((None, 0));
            let found_value = found.as_ref().map(|found| found.value.clone());
            let is_acknowledged = found_value == acknowledged.0;
            let is_pending = known.pending.as_ref() == Some(&found_value);
            assert!(
                is_acknowledged || is_pending,
                "LOST: key {key}: acknowledged version {}, found version {:?}",
                acknowledged.1,
                found.as_ref().map(|found| found.version),
            );
            if let Some(found) = &found {
                assert!(found.version >= acknowledged.1, "key {key}: its version went back");
                if is_acknowledged {
                    assert_eq!(found.version, acknowledged.1, "key {key}: written twice");
                }
            }
            let version = found.map_or(acknowledged.1, |found| found.version);
            known.acknowledged = Some((found_value, version));
            known.pending = None;
        }
    }
}

/// The cores that the node runs on, in turns: partitions move from one to two and back. On a
/// machine with a single core there is nothing to move.
fn layouts() -> Vec<String> {
    let available = placement::available();
    let few: Vec<String> = available.numbers().iter().take(2).map(ToString::to_string).collect();
    let mut layouts = vec![few[0].clone(), few.join(",")];
    layouts.dedup();
    layouts
}

fn kill_while_starting(data_dir: &Path, arguments: &[&str], moment: Duration) {
    let mut command = support::serve(data_dir, arguments);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(moment);
    child.kill().expect("it was running");
    child.wait().expect("it is our child");
}

/// Notes what a killed node was in the middle of, as far as its files tell.
fn note_states(data_dir: &Path, states: &mut BTreeMap<&str, usize>) {
    let Ok(entries) = std::fs::read_dir(data_dir) else { return };
    let generations: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("gen-"))
        .collect();
    let mut note = |state| *states.entry(state).or_default() += 1;
    if generations.len() > 1 {
        note("partitions moving: two generations");
    }
    let shards = generations.iter().flat_map(|generation| std::fs::read_dir(generation).unwrap());
    for shard in shards {
        let files = std::fs::read_dir(shard.unwrap().path()).unwrap();
        let names: Vec<String> =
            files.map(|file| file.unwrap().file_name().to_string_lossy().into_owned()).collect();
        let has = |part: &str| names.iter().any(|name| name.contains(part));
        let mut partitions: Vec<&str> =
            names.iter().filter(|name| name.ends_with(".ckpt")).map(|name| &name[..5]).collect();
        partitions.sort_unstable();
        for (is_so, state) in [
            (has("checkpoint.new"), "a checkpoint being written"),
            (has(".log.new"), "a segment being made"),
            (has("spare-"), "files of old checkpoints waiting to be used again"),
            (
                partitions.windows(2).any(|pair| pair[0] == pair[1]),
                "two checkpoints of a partition",
            ),
            (!has("000000000001.log") && has(".log"), "the first segment used again or let go"),
        ] {
            if is_so {
                note(state);
            }
        }
    }
}

/// All entries, page by page: no key twice, and exactly those that the writers know of.
fn check_entries(client: &mut Client, writers: &[Writer]) {
    let mut found = BTreeMap::new();
    let mut start_after = Bytes::new();
    loop {
        let entries = Entries { start_after, keys_only: true, ..Entries::default() };
        let answer = client.entries(MAP, entries).expect("the node answers");
        for item in answer.items {
            let version = item.entry.expect("entries have versions").version;
            let before = found.insert(item.key.clone(), version);
            assert_eq!(before, None, "key {:?} shows up twice", item.key);
        }
        match answer.next {
            Some(next) => start_after = next,
            None => break,
        }
    }
    let mut expected = BTreeMap::new();
    for writer in writers {
        for (number, known) in &writer.keys {
            if let Some((Some(_), version)) = &known.acknowledged {
                expected.insert(writer.key(*number), *version);
            }
        }
    }
    assert_eq!(found, expected, "entries and gets disagree");
    let size = client.size(MAP).expect("the node answers");
    assert_eq!(size.entries, expected.len() as u64);
}

#[test]
#[allow(clippy::print_stdout)]
fn nothing_acknowledged_is_lost_when_the_node_is_killed() {
    let count: usize =
        env::var("P2PMAP_CRASH_COUNT").map_or(3, |count| count.parse().expect("a number"));
    let seed = env::var("P2PMAP_CRASH_SEED").map_or_else(
        |_| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos().into(),
        |seed| seed.parse().expect("a number"),
    );
    println!("seed {seed}");
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let mut prng = Prng::new(seed, "moments");
    let mut writers: Vec<Writer> = (0..WRITER_COUNT).map(|id| Writer::new(id, seed)).collect();

    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    let layouts = layouts();

    for round in 0..count {
        let layout = &layouts[round % layouts.len()];
        let arguments: Vec<&str> = SETTINGS.iter().copied().chain(["--cores", layout]).collect();
        while prng.one_in(3) {
            // Killed while it starts: that is when partitions move to another number of cores.
            let moment = Duration::from_micros(prng.below(400_000));
            kill_while_starting(&data_dir, &arguments, moment);
            note_states(&data_dir, &mut states);
        }
        let node = Node::start(&data_dir, &arguments);
        let address = node.address().to_owned();
        let mut client = Client::connect(&address, TIMEOUT).expect("the node is ready");
        writers.iter_mut().for_each(|writer| writer.check(&mut client));
        check_entries(&mut client, &writers);

        let started = Barrier::new(WRITER_COUNT + 1);
        let life = Duration::from_millis(20 + prng.below(400));
        std::thread::scope(|scope| {
            for writer in &mut writers {
                let (started, address) = (&started, &address);
                scope.spawn(move || {
                    started.wait();
                    writer.run(address);
                });
            }
            started.wait();
            std::thread::sleep(life);
            node.kill();
        });
        note_states(&data_dir, &mut states);
        if (round + 1) % 10 == 0 {
            println!("{} restarts", round + 1);
        }
    }

    let node = Node::start(&data_dir, &SETTINGS);
    let mut client = Client::connect(node.address(), TIMEOUT).expect("the node is ready");
    writers.iter_mut().for_each(|writer| writer.check(&mut client));
    check_entries(&mut client, &writers);
    let acknowledged: u64 = writers.iter().map(|writer| writer.acknowledged_count).sum();
    assert!(acknowledged > 0, "the load never got through");
    assert!(node.terminate().success(), "the node ends cleanly when asked to");
    println!("what a kill left behind, and how often: {states:#?}");
    println!("{acknowledged} writes acknowledged, {count} times killed, lost = 0");
}
