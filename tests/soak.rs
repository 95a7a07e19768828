//! A node can run for long: under a moderate load of puts, gets, removes and clears on all
//! partitions but one, its disk stays under its cap, its memory is flat, checkpoints don't hold
//! clients up, and in the end everything that was acknowledged is there, the entry that was written
//! once at the beginning too.
//!
//! `scripts/soak.sh` runs it; its variables: `P2PMAP_SOAK_SECONDS` (3 if it isn't set: then it only
//! shows that the load works), `P2PMAP_SOAK_CORES`, `P2PMAP_SOAK_LOG_MAX`, `P2PMAP_SOAK_RATE`
//! (operations a second), `P2PMAP_SOAK_DIR`, `P2PMAP_SOAK_SEED`.

#![allow(clippy::disallowed_methods, clippy::print_stdout)]

mod support;

#[path = "soak/load.rs"]
mod load;
#[path = "soak/machine.rs"]
mod machine;
#[path = "soak/sample.rs"]
mod sample;
#[path = "soak/verdict.rs"]
mod verdict;

use std::env;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use load::{PARTITION_COUNT, QUIET_PARTITION, Worker, tag_of};
use machine::Pauses;
use p2pmap::client::Client;
use p2pmap::node::config::quantity::{format_size, parse_size};
use p2pmap::proto::p2pmap::v1::Put;
use sample::Sampler;
use support::Node;

pub(crate) const WORKER_COUNT: usize = 4;
const TIMEOUT: Duration = Duration::from_secs(10);
const QUIET_MAP: &str = "soak-quiet";
const QUIET_VALUE: &str = "written once";
/// So small that every partition has several checkpoints within a minute.
const CHECKPOINT_INTERVAL: &str = "16MiB";
/// Runs that are this long must keep every bound; shorter ones print what they saw.
const FULL_SECONDS: u64 = 600;

/// How a run goes.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) seconds: u64,
    pub(crate) cores: String,
    pub(crate) log_size_bytes_max: u64,
    pub(crate) rate: u64,
    pub(crate) seed: u64,
}

impl Run {
    fn from_environment() -> Self {
        let variable = |name: &str| env::var(format!("P2PMAP_SOAK_{name}")).ok();
        let number = |name: &str| variable(name).map(|text| text.parse().expect("a number"));
        let log_max = variable("LOG_MAX").unwrap_or_else(|| "128MiB".to_owned());
        Self {
            seconds: number("SECONDS").unwrap_or(3),
            cores: variable("CORES").unwrap_or_else(|| "0".to_owned()),
            log_size_bytes_max: parse_size(&log_max).expect("a size with its unit"),
            rate: number("RATE").unwrap_or(2_000),
            seed: number("SEED").unwrap_or(1),
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.seconds >= FULL_SECONDS
    }

    /// For how long the machine is watched before and after: a tenth of the run, and half a second
    /// at least.
    fn watch_time(&self) -> Duration {
        Duration::from_secs(self.seconds).div_f64(10.0).max(Duration::from_millis(500))
    }

    fn arguments(&self, metrics: SocketAddr) -> Vec<String> {
        let partitions = PARTITION_COUNT.to_string();
        let log_max = format_size(self.log_size_bytes_max);
        let mut arguments = vec!["--cores", &self.cores, "--partitions", &partitions];
        arguments.extend(["--segment-size", "8MiB", "--log-max", &log_max]);
        arguments.extend(["--checkpoint-interval", CHECKPOINT_INTERVAL]);
        let mut arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        arguments.extend(["--metrics-listen".to_owned(), metrics.to_string()]);
        arguments
    }
}

#[test]
fn node_runs_for_long_on_a_bounded_disk_in_bounded_memory() {
    let run = Run::from_environment();
    println!("{run:?}");
    let folder = match env::var("P2PMAP_SOAK_DIR") {
        Ok(path) => tempfile::tempdir_in(path),
        Err(_) => tempfile::tempdir(),
    };
    let folder = folder.expect("a folder to write in");
    let data_dir = folder.path().join("data");
    let metrics = free_address();
    let arguments = run.arguments(metrics);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();

    let before = Pauses::watch(&run.cores, run.watch_time());
    let node = Node::start(&data_dir, &arguments);
    write_once(node.address());
    let mut workers: Vec<Worker> =
        (0..WORKER_COUNT).map(|id| Worker::new(id, run.seed, run.rate, WORKER_COUNT)).collect();
    let mut sampler = Sampler::new(node.pid(), &data_dir, metrics);
    drive(&run, node.address(), &mut workers, &mut sampler);
    let mut report = sampler.finish(&workers);
    println!("{report}");

    check(node.address(), &mut workers, "while it runs");
    assert!(node.terminate().success(), "the node ends cleanly when asked to");
    // What is found now came from checkpoints and what is left of the log.
    let started = Instant::now();
    let node = Node::start(&data_dir, &arguments);
    println!("started again in {:.2} s", started.elapsed().as_secs_f64());
    check(node.address(), &mut workers, "after a restart");
    assert!(node.terminate().success(), "the node ends cleanly when asked to");

    report.machine = before.and(Pauses::watch(&run.cores, run.watch_time()));
    let failures = verdict::failures(&run, &report);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Loads for the time of the run, and samples each part of a second meanwhile.
fn drive(run: &Run, address: &str, workers: &mut [Worker], sampler: &mut Sampler) {
    let stop = AtomicBool::new(false);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for worker in workers.iter_mut() {
            let stop = &stop;
            let recorder = sampler.recorder();
            scope.spawn(move || worker.run(address, begin, stop, &recorder));
        }
        sampler.sample_until(begin + Duration::from_secs(run.seconds));
        stop.store(true, Ordering::Release);
    });
}

fn write_once(address: &str) {
    let mut client = Client::connect(address, TIMEOUT).expect("the node is ready");
    let put = Put { key: quiet_key(), value: QUIET_VALUE.into(), ..Put::default() };
    client.put(QUIET_MAP, put).expect("it is acknowledged");
}

fn quiet_key() -> Bytes {
    format!("{}once", tag_of(QUIET_PARTITION)).into()
}

fn check(address: &str, workers: &mut [Worker], when: &str) {
    let mut client = Client::connect(address, TIMEOUT).expect("the node is ready");
    let found = client.get(QUIET_MAP, quiet_key()).expect("the node answers");
    let found = found.map(|entry| entry.value);
    assert_eq!(found, Some(QUIET_VALUE.into()), "{when}: the entry that was written once is LOST");
    let entries: usize = workers.iter_mut().map(|worker| worker.check(&mut client, when)).sum();
    println!("{when}: all {entries} entries are there, and none that was removed or cleared");
}

/// A port that is free a moment later too: the kernel gives others first.
fn free_address() -> SocketAddr {
    let probe = TcpListener::bind("127.0.0.1:0").expect("a port");
    probe.local_addr().expect("it is bound")
}
