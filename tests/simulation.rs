//! Whole clusters in virtual time, under everything that can go wrong: fresh seeds, seeds that once
//! found something, and planted defects that must be found.
//!
//! Each run draws fresh seeds and prints them. `P2PMAP_SEED=… cargo test --test simulation` repeats
//! one, `P2PMAP_RUNS=…` makes more of them; `p2pmap simulate --seed … --trace` shows what happened.

// The seeds have to be seen; in a test a value that isn't there is a failure like any other.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::io;

use p2pmap::sim::cluster::{Options, run, run_swarm};
use p2pmap::sim::disk::Plant;
use p2pmap::sim::fault::Fault;
use p2pmap::sim::report::{Report, Summary};
use p2pmap::sim::swarm::Swarm;
use p2pmap::storage::wal::Durability;

/// Seeds that found a defect: of how many nodes, which, and what it was.
const REGRESSIONS: [(usize, u64, &str); 37] = [
    (1, 2_963, "slots were carried over out of a segment whose last writes were under way"),
    (1, 3_633, "the same, with the disk full"),
    (1, 3_918, "the same, after a failed write"),
    (3, 1, "a life of a member was forgotten by the write of another one's"),
    (3, 20, "a shard appended to its log after it had closed it"),
    (3, 24, "a map that was replaced was told to end a checkpoint that it had not begun"),
    (3, 44, "without a log nobody could give a lost member what memory had let go of"),
    (3, 184, "without a log a checkpoint was removed for being replaced by itself"),
    (5, 192, "the same: those who copied it waited for ever"),
    (3, 2_000_776, "a member that had promised a view that nobody began could not recover"),
    (7, 2_004_096, "a checkpoint was removed for one of its name that an earlier boot had left"),
    (3, 161, "a boot whose first segment could not be prepared asked for the second one"),
    (7, 186, "a checkpoint was taken again and again that let nothing go, and filled the log"),
    (3, 779, "a disk that went back in time was noticed in some of its partitions only"),
    (7, 158, "a follower whose log was full took in what kept its checkpoint from being logged"),
    (5, 1_016_762, "a member without anything and without room asked for a checkpoint of slot 0"),
    (3, 1_006_671, "without a log a vote was of slots that had left memory"),
    (7, 1_069_284, "members without room copied one checkpoint, and no newer one"),
    (5, 1_095_699, "the same, in another partition of a node whose log was full of copies"),
    (5, 1_082_184, "a follower without room for what would make its log stable asked for nothing"),
    (5, 1_086_600, "a member that recovered without room waited for it in a view that was over"),
    (7, 1_097_324, "a sequencer that doesn't lead stamped tick after tick before one was executed"),
    (3, 1_022_120, "a disk went back in time, and the member was lost again before it recovered"),
    (3, 1_069_586, "the same, and a majority was lost with it"),
    (7, 1_028_005, "the last greeting of a process that was gone accused the present one"),
    (7, 1_022_297, "the same, when the present one was gone as well"),
    (1, 1_026_771, "segments waited for a snapshot that waited for a segment"),
    (1, 1_036_852, "a log without room for its end was never closed"),
    (3, 2_031_810, "slots that were not stable kept a whole log, and its node from a quorum"),
    (3, 3_037_838, "the same, in a node that had restarted"),
    (3, 5_029_335, "a link of a healed network had less bandwidth than heartbeats need"),
    (7, 12, "a follower that was given a checkpoint in its view was not shown with it"),
    (5, 1_208, "the sync point stood still before a no-op once nobody wrote any more"),
    (3, 8_001_718, "a checkpoint was begun anew before its first file was reported durable"),
    (
        5,
        9_000_129,
        "a shard took its core for asking who could take a checkpoint that nobody could",
    ),
    (3, 8_002_084, "the greeting of a process that was gone counted, and accused the present one"),
    (3, 296, "members that stood still for longer than a timeout deposed each of their leaders"),
];

/// Within so many runs a planted defect is found.
const PLANTED_RUN_COUNT: u64 = 200;

fn seeds(default_count: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("P2PMAP_SEED") {
        return seed..seed + 1;
    }
    let count = number("P2PMAP_RUNS").unwrap_or(default_count);
    let mut bytes = [0; 8];
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").unwrap(), &mut bytes).unwrap();
    let first = u64::from_le_bytes(bytes) >> 16;
    first..first + count
}

fn assert_passes(node_count: usize, report: &Report) {
    if let Some(violation) = &report.violation {
        let seed = report.seed;
        panic!(
            "seed {seed}: {violation}\n\
             replay: p2pmap simulate --seed {seed} --nodes {node_count} --trace"
        );
    }
}

fn of_nodes(node_count: usize) -> Options {
    Options { node_count: Some(node_count), ..Options::default() }
}

#[test]
fn whatever_goes_wrong_with_a_node_nothing_is_lost_and_everything_ends() {
    let seeds = seeds(300);
    println!("P2PMAP_SEED={} to {}", seeds.start, seeds.end - 1);
    let mut summary = Summary::default();
    for seed in seeds {
        let report = run(seed, of_nodes(1));
        assert_passes(1, &report);
        summary.add(&report);
    }
    println!("{summary:#?}");
}

/// The seeds of several nodes are always the same ones here, so that a change is judged by what it
/// does; `scripts/simulate.sh` hunts with fresh ones.
const SEEDS_OF_SEVERAL: std::ops::Range<u64> = 0..200;

#[test]
fn seeds_of_several_nodes_find_nothing() {
    let mut summary = Summary::default();
    for node_count in [3, 5, 7] {
        for seed in SEEDS_OF_SEVERAL {
            let report = run(seed, of_nodes(node_count));
            assert_passes(node_count, &report);
            summary.add(&report);
        }
    }
    println!("{summary:#?}");
}

#[test]
fn seeds_that_once_found_a_defect_find_none() {
    for (node_count, seed, what) in REGRESSIONS {
        println!("seed {seed}, nodes {node_count}: {what}");
        assert_passes(node_count, &run(seed, of_nodes(node_count)));
    }
}

#[test]
fn each_seed_gives_the_same_trace_twice() {
    for seed in seeds(20) {
        let [one, other] = [(); 2].map(|()| run(seed, Options::default()));
        assert_eq!(one.trace_hash, other.trace_hash, "P2PMAP_SEED={seed}");
        assert_eq!(one.events_count, other.events_count, "P2PMAP_SEED={seed}");
    }
}

#[test]
fn faults_and_places_are_reached_by_some_of_the_seeds() {
    let mut summary = Summary::default();
    for seed in 0..600 {
        summary.add(&run(seed, of_nodes(1)));
    }
    assert!(summary.violations.is_empty(), "{:?}", summary.violations);
    for fault in Fault::ALL.into_iter().filter(|fault| !fault.needs_others()) {
        assert!(summary.faults.contains_key(&fault), "{fault} never happened");
    }
    for place in [
        "checkpoint installed at a start",
        "checkpoint recorded",
        "damage refused at a start",
        "interrupted while partitions were moved",
        "partitions moved to another number of shards",
        "segment recycled",
        "segment refused",
        "slots carried over",
        "torn tail cut",
        "write error ended the node",
    ] {
        assert!(summary.marks.contains_key(place), "nobody came by: {place}");
    }
}

/// How many runs it takes until a planted defect is found, with these faults.
fn runs_until_found(plant: Plant, faults: &[Fault]) -> Option<u64> {
    (0..PLANTED_RUN_COUNT).find(|&seed| {
        let mut swarm = Swarm::new(seed, 1);
        swarm.durability = Durability::Sync;
        swarm.faults = faults.iter().map(|fault| (*fault, swarm.active_ns / 4)).collect();
        let honest = run_swarm(seed, swarm.clone(), Options::default());
        assert_passes(1, &honest);
        let options = Options { plant: Some(plant), ..Options::default() };
        run_swarm(seed, swarm, options).violation.inspect(|found| println!("{found}")).is_some()
    })
}

#[test]
fn disk_that_acknowledges_before_it_is_durable_is_found() {
    let found = runs_until_found(Plant::AcknowledgesBeforeDurable, &[Fault::PowerLoss]);
    println!("after {found:?} runs");
    assert!(found.is_some());
}

#[test]
fn write_error_that_is_ignored_is_found() {
    let found = runs_until_found(Plant::IgnoresWriteErrors, &[Fault::WriteError, Fault::Kill]);
    println!("after {found:?} runs");
    assert!(found.is_some());
}

#[test]
fn command_that_is_forwarded_twice_is_found() {
    let found = runs_until_found(Plant::ForwardsTwice, &[]);
    println!("after {found:?} runs");
    assert!(found.is_some());
}
