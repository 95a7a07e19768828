//! No wake-up is lost: a node that parks, on two cores, answers after every pause, however busy its
//! cores are with something else.
//!
//! Clients are silent for random times, long enough for the cores to sleep, and then ask for keys
//! of both. A hog that never sleeps sits on the server's cores in turn. An answer that takes more
//! than 100 ms must be explained by the time that the threads it depends on waited for a core, or
//! that the machine itself was denied one (steal); one that takes 10 s never is.
//!
//! `P2PMAP_WAKEUP_SECONDS` says how long; `scripts/lost-wakeups.sh` sets it.
#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]
#![allow(clippy::disallowed_methods, reason = "pauses and stalls are what is measured")]
#![allow(clippy::print_stdout, reason = "the summary is what the script is for")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use p2pmap::base::prng::Prng;
use p2pmap::client::connection::{Connection, Operation};
use p2pmap::node::placement;
use p2pmap::proto::p2pmap::v1::Put;
use support::Node;

const CLIENT_COUNT: u64 = 4;
const PAUSE_MS_MAX: u64 = 200;
const BURST_COUNT_MAX: u64 = 64;
/// A node that doesn't answer for so long hangs.
const HANG: Duration = Duration::from_secs(10);
/// What has to be explained.
const STALL: Duration = Duration::from_millis(100);
/// How long the hog stays on a core.
const HOG_TURN: Duration = Duration::from_secs(2);

/// How long threads have waited for a core while they could run, and how long the machine was
/// denied one: everything that delays an answer and isn't the server's doing.
#[derive(Clone, Debug, Default)]
struct Waits {
    /// By thread: the server's and the client's own.
    by_thread: BTreeMap<String, Duration>,
    steal: Duration,
}

impl Waits {
    fn now(server: u32) -> Self {
        let mut by_thread = BTreeMap::new();
        // Threads come and go; one that is gone waits for nothing.
        let tasks = fs::read_dir(format!("/proc/{server}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            let label = format!("{} {}", name.trim(), task.file_name().display());
            by_thread.insert(label, waited(&task.path().join("schedstat").display().to_string()));
        }
        by_thread.insert("the client".to_owned(), waited("/proc/thread-self/schedstat"));
        Self { by_thread, steal: steal() }
    }

    /// What was added since `before`, the longest first.
    fn since(&self, before: &Self) -> (Vec<(String, Duration)>, Duration) {
        let mut added: Vec<(String, Duration)> = self
            .by_thread
            .iter()
            .map(|(name, wait)| {
                let before = before.by_thread.get(name).copied().unwrap_or_default();
                (name.clone(), wait.saturating_sub(before))
            })
            .filter(|(_, wait)| !wait.is_zero())
            .collect();
        added.sort_by_key(|(_, wait)| std::cmp::Reverse(*wait));
        (added, self.steal.saturating_sub(before.steal))
    }
}

/// The second field of a `schedstat`: nanoseconds spent waiting on a run queue.
fn waited(path: &str) -> Duration {
    let text = fs::read_to_string(path).unwrap_or_default();
    let field = text.split_whitespace().nth(1).and_then(|field| field.parse().ok());
    Duration::from_nanos(field.unwrap_or(0))
}

/// The eighth number of `/proc/stat`: hundredths of seconds, of all cores.
fn steal() -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let field = text.lines().next().and_then(|line| line.split_whitespace().nth(8)?.parse().ok());
    Duration::from_millis(10 * field.unwrap_or(0))
}

/// What a client saw.
#[derive(Debug, Default)]
struct Seen {
    latencies_us: Vec<u64>,
    bursts_count: u64,
    explained: Vec<String>,
    unexplained: Vec<String>,
}

/// One burst: sends all requests and takes all answers. Returns the longest time that one took.
fn burst(
    connection: &mut Connection,
    prng: &mut Prng,
    latencies_us: &mut Vec<u64>,
) -> Result<Duration, String> {
    let count = 1 + prng.below(BURST_COUNT_MAX);
    let begun = Instant::now();
    for _ in 0..count {
        // Ten thousand keys lie in all partitions, and so on both cores.
        let key = Bytes::from(format!("key {}", prng.below(10_000)));
        let operation = match prng.below(3) {
            0 => Operation::Put(Put { key, value: "value".into(), ..Put::default() }),
            _ => Operation::Get { key },
        };
        connection.send("wakeups", operation).map_err(|error| error.to_string())?;
    }
    let mut longest = Duration::ZERO;
    for answered in 0..count {
        if let Err(error) = connection.receive() {
            let waited = begun.elapsed();
            return Err(format!("{answered} of {count} were answered in {waited:?}: {error}"));
        }
        longest = begun.elapsed();
        latencies_us.push(u64::try_from(longest.as_micros()).unwrap());
    }
    Ok(longest)
}

fn client(node: &Node, number: u64, end: Instant, failed: &AtomicBool) -> Seen {
    let mut prng = Prng::new(number, "wakeups");
    let mut seen = Seen::default();
    let mut connection = Connection::connect(node.address(), HANG).unwrap();
    while Instant::now() < end && !failed.load(Ordering::Relaxed) {
        // Half of the pauses are about as long as a loop spins before it sleeps.
        let pause_us = match prng.below(2) {
            0 => prng.below(1_000 * PAUSE_MS_MAX),
            _ => prng.below(150),
        };
        thread::sleep(Duration::from_micros(pause_us));
        let before = Waits::now(node.pid());
        match burst(&mut connection, &mut prng, &mut seen.latencies_us) {
            Ok(longest) if longest > STALL => {
                let (waits, steal) = Waits::now(node.pid()).since(&before);
                let explained = waits.iter().map(|(_, wait)| *wait).sum::<Duration>() + steal;
                let waits: Vec<String> =
                    waits.iter().take(4).map(|(name, wait)| format!("{name} {wait:.1?}")).collect();
                let stall = format!(
                    "client {number}: {longest:.1?}; waited for a core: {}; steal {steal:.1?}",
                    waits.join(", ")
                );
                let is_explained = longest.saturating_sub(explained) <= STALL;
                if is_explained { &mut seen.explained } else { &mut seen.unexplained }.push(stall);
            }
            Ok(_) => {}
            Err(hang) => {
                failed.store(true, Ordering::Relaxed);
                seen.unexplained.push(format!("client {number}: HANGS: {hang}"));
                return seen;
            }
        }
        seen.bursts_count += 1;
    }
    seen
}

/// Sits on the cores, one after the other, and never sleeps.
fn hog(cores: &[u16], stop: &AtomicBool) {
    for core in cores.iter().cycle() {
        assert!(core_affinity::set_for_current(core_affinity::CoreId { id: usize::from(*core) }));
        let begun = Instant::now();
        while begun.elapsed() < HOG_TURN {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            for _ in 0..1_000 {
                std::hint::spin_loop();
            }
        }
    }
}

fn percentile(sorted: &[u64], share: f64) -> u64 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let place = (sorted.len().saturating_sub(1) as f64 * share) as usize;
    sorted.get(place).copied().unwrap_or(0)
}

#[test]
fn parked_cores_answer_after_every_pause_though_a_hog_sits_on_them() {
    let seconds = std::env::var("P2PMAP_WAKEUP_SECONDS").map_or(3, |text| text.parse().unwrap());
    let available = placement::available();
    let cores = &available.numbers()[..available.count().min(2)];
    let listed: Vec<String> = cores.iter().map(ToString::to_string).collect();
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--cores", &listed.join(","), "--idle", "park", "--durability", "none"];
    let node = Node::start(folder.path(), &arguments);

    let (stop, failed) = (AtomicBool::new(false), AtomicBool::new(false));
    let all = Mutex::new(Seen::default());
    thread::scope(|scope| {
        let hog = scope.spawn(|| hog(cores, &stop));
        let end = Instant::now() + Duration::from_secs(seconds);
        let clients: Vec<_> = (0..CLIENT_COUNT)
            .map(|number| {
                let (node, failed) = (&node, &failed);
                scope.spawn(move || client(node, number, end, failed))
            })
            .collect();
        let mut all = all.lock().unwrap();
        for client in clients {
            let seen = client.join().unwrap();
            all.bursts_count += seen.bursts_count;
            all.latencies_us.extend(seen.latencies_us);
            all.explained.extend(seen.explained);
            all.unexplained.extend(seen.unexplained);
        }
        stop.store(true, Ordering::Relaxed);
        hog.join().unwrap();
    });

    let Seen { mut latencies_us, bursts_count, explained, unexplained } = all.into_inner().unwrap();
    latencies_us.sort_unstable();
    let ended = node.end();
    let parks = ended.log.iter().filter_map(|line| {
        line.split_once("parks_count=")?.1.split([' ', '"']).next()?.parse::<u64>().ok()
    });
    let parks_count: u64 = parks.sum();
    println!(
        "{seconds} s on cores {}: {bursts_count} bursts, {} answers, {parks_count} sleeps",
        listed.join(","),
        latencies_us.len()
    );
    println!(
        "an answer took p50 {} us, p99 {} us, at most {} us",
        percentile(&latencies_us, 0.5),
        percentile(&latencies_us, 0.99),
        percentile(&latencies_us, 1.0)
    );
    println!("stalls of more than {STALL:?} explained by waits for a core: {}", explained.len());
    for stall in explained.iter().take(20) {
        println!("  {stall}");
    }
    println!("stalls without explanation: {}", unexplained.len());
    for stall in &unexplained {
        println!("  {stall}");
    }
    assert!(unexplained.is_empty(), "{unexplained:#?}");
    assert_eq!(ended.status.code(), Some(0), "{:#?}", ended.log);
    assert!(parks_count > 0, "the cores never slept: nothing was tested");
}
