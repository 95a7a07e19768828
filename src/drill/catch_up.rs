//! A node was down while much was written: it catches up, and the others serve on meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rustix::process::Signal;

use super::machine::Reading;
use super::nodes::{NODE_COUNT, name};
use super::report::{Distribution, Goals, Ratio, Report};
use super::{DrillError, Ground};
use crate::base::cast::u64_from;
use crate::base::time::{NS_PER_MS, NS_PER_S};
use crate::client::error::ClientError;
use crate::client::session::SessionClient;
use crate::proto::p2pmap::v1::Put;

/// Who is down.
const ABSENT: usize = NODE_COUNT - 1;
/// How long the others are looked at before it comes back, and after it has caught up.
const LOOK: Duration = Duration::from_secs(20);
/// The time between what is written and that.
const CALM: Duration = Duration::from_secs(5);
/// Who writes what it misses, and in which pieces.
const WRITER_COUNT: u64 = 4;
const PIECE_SIZE_BYTES: usize = 64 << 10;
const MAP: &str = "missed";
/// How long one piece may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How much longer the slowest hundredth may take while a node catches up.
const RATIO_MAX: f64 = 2.0;

/// Has a node miss so much, and says what came of it.
pub(super) fn run(ground: &mut Ground<'_>, mib: u32) -> Result<Report, DrillError> {
    ground.nodes.signal(ABSENT, Signal::TERM);
    ground.nodes.await_end(ABSENT)?;
    let begun = ground.now();
    write(&ground.nodes.addresses()[..ABSENT], mib)?;
    let ms = ground.now().since_ns(begun) / NS_PER_MS;
    ground.say(&format!("{mib} MiB written in {ms} ms without {}", name(ABSENT)))?;
    ground.wait(CALM);

    let mut report = Report::default();
    let before = look(ground, LOOK);
    let others = ground.nodes.pids();
    let started = Reading::take(&others, ground.now());
    ground.nodes.start(ABSENT)?;
    let goals: Vec<u64> = synced(ground)?;
    ground.nodes.await_status(ABSENT, "has caught up", |status| {
        let synced = status.partitions.iter().map(|partition| partition.sync_point);
        status.partitions.len() == goals.len()
            && synced.zip(&goals).all(|(synced, goal)| synced >= *goal)
    })?;
    ground.nodes.await_normal(ABSENT)?;
    let ended = ground.now();
    let during = ground.load.acks.latencies(started.at, ended);
    report.add_taken("while it catches up", Reading::take(&others, ended).since(&started));
    let s = ended.since_ns(started.at).div_ceil(NS_PER_S);
    ground.say(&format!("{} has caught up after {s} s", name(ABSENT)))?;
    ground.wait(CALM);
    let after = look(ground, LOOK);

    let ratio = Ratio::of_p99("p99 while it catches up / before", &during, &before, RATIO_MAX);
    for (what, latencies) in
        [("put, two nodes", before), ("put, while one catches up", during), ("put, after", after)]
    {
        report.add(Distribution::new(what, latencies, Goals::default()));
    }
    report.add_ratio(ratio);
    report.add_clients(&ground.load);
    Ok(report)
}

/// How long puts take for some time.
fn look(ground: &Ground<'_>, time: Duration) -> Vec<u64> {
    let from = ground.now();
    ground.load.acks.forget_before(from);
    ground.wait(time);
    ground.load.acks.latencies(from, ground.now())
}

/// How far all partitions are stable now.
fn synced(ground: &Ground<'_>) -> Result<Vec<u64>, DrillError> {
    let status = ground.nodes.status(0)?;
    Ok(status.partitions.iter().map(|partition| partition.sync_point).collect())
}

/// Writes so much, in pieces with keys of their own.
fn write(addresses: &[String], mib: u32) -> Result<(), ClientError> {
    let piece_count = (u64::from(mib) << 20).div_ceil(u64_from(PIECE_SIZE_BYTES));
    let next = AtomicU64::new(0);
    let write = || {
        let mut client = SessionClient::of_members(addresses.to_vec(), TIMEOUT, TIMEOUT);
        let value = Bytes::from(vec![b'x'; PIECE_SIZE_BYTES]);
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= piece_count {
                return Ok(());
            }
            let key = Bytes::from(format!("piece-{number}"));
            client.put(MAP, Put { key, value: value.clone(), ..Put::default() })?;
        }
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITER_COUNT).map(|_| scope.spawn(write)).collect();
        let ended = writers.into_iter().map(|writer| writer.join().expect("it doesn't panic"));
        ended.collect()
    })
}
