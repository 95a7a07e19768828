//! Nodes are restarted in good order, one after the other: what they lead they hand over first.

use std::time::Duration;

use rustix::process::Signal;

use super::machine::{Reading, Taken};
use super::nodes::{NODE_COUNT, name};
use super::report::{Distribution, Goals, Report};
use super::{DrillError, Ground};
use crate::base::time::NS_PER_MS;

/// The time between a node's return and the next restart.
const CALM: Duration = Duration::from_millis(500);

/// What restarts did.
#[derive(Debug, Default)]
struct Found {
    /// The longest gap of each partition that the restarted node led.
    led_gaps_ns: Vec<u64>,
    /// Of each partition.
    all_gaps_ns: Vec<u64>,
    taken: Taken,
}

/// Restarts all nodes so many times, and says what came of it.
pub(super) fn run(ground: &mut Ground<'_>, count: u32) -> Result<Report, DrillError> {
    let mut found = Found::default();
    for round in 0..count {
        for place in 0..NODE_COUNT {
            let line = once(ground, place, &mut found)?;
            ground.say(&format!("restart {} of {}: {line}", round + 1, name(place)))?;
        }
    }
    let goals = Goals { p50_ns_max: Some(50 * NS_PER_MS), max_ns_max: None };
    let mut report = Report::default();
    report.add(Distribution::new("led by the restarted node", found.led_gaps_ns, goals));
    report.add(Distribution::new("all partitions", found.all_gaps_ns, Goals::default()));
    report.add_taken("restarts", found.taken);
    report.add_clients(&ground.load);
    Ok(report)
}

/// Restarts one node. Returns a line that says what came of it.
fn once(ground: &mut Ground<'_>, place: usize, found: &mut Found) -> Result<String, DrillError> {
    let status = ground.nodes.status(place)?;
    let led = status.partitions.iter().filter(|partition| partition.leader == name(place));
    let led: Vec<u32> = led.map(|partition| partition.partition).collect();
    let begun = ground.now();
    let others = ground.nodes.pids_but(place);
    let reading = Reading::take(&others, begun);
    ground.nodes.signal(place, Signal::TERM);
    ground.nodes.await_end(place)?;
    let ended = ground.now();
    ground.nodes.start(place)?;
    ground.nodes.await_normal(place)?;
    let well = ground.now();
    ground.wait(CALM);
    let now = ground.now();
    let taken = Reading::take(&others, now).since(&reading);
    let acks = &ground.load.acks;
    let gaps: Vec<u64> =
        acks.partitions().map(|partition| acks.longest_gap(partition, begun, now)).collect();
    let led_gaps: Vec<u64> =
        led.iter().map(|partition| acks.longest_gap(*partition, begun, now)).collect();
    acks.forget_before(now);
    let longest = |gaps: &[u64]| gaps.iter().max().copied().unwrap_or_default() / NS_PER_MS;
    let line = format!(
        "it led {}, ended after {} ms, was back after {} ms; longest pause {} ms of those, {} ms \
         of all; stolen {} ms, the others waited {} ms in {} ms",
        led.len(),
        ended.since_ns(begun) / NS_PER_MS,
        well.since_ns(ended) / NS_PER_MS,
        longest(&led_gaps),
        longest(&gaps),
        taken.steal_ns / NS_PER_MS,
        taken.queue_ns / NS_PER_MS,
        taken.time_ns / NS_PER_MS,
    );
    found.led_gaps_ns.extend(led_gaps);
    found.all_gaps_ns.extend(gaps);
    found.taken = found.taken.and(taken);
    Ok(line)
}
