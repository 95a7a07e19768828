//! A node that leads is killed, or stopped; others must lead in its place.

use std::time::Duration;

use rustix::process::Signal;

use super::machine::{Reading, Taken};
use super::nodes::name;
use super::report::{Distribution, Goals, Report};
use super::results::Kept;
use super::{DrillError, Ground, Settings};
use crate::base::time::{Monotonic, NS_PER_MS, NS_PER_S};

/// How long a node is away at least.
const AWAY: Duration = Duration::from_millis(1_500);
/// How long others may take to lead in its place until the drill is given up.
const LED_NS_MAX: u64 = 30 * NS_PER_S;
/// The time between a node's return and the next fault.
const CALM: Duration = Duration::from_millis(500);

/// How a node goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// `kill -9`: the system closes its connections at once.
    Kill,
    /// SIGSTOP: it says nothing, and its connections stay.
    Stop,
}

/// What one kind of fault did.
#[derive(Debug, Default)]
struct Found {
    /// The longest gap of each partition that a victim led, until it came back.
    gaps_ns: Vec<u64>,
    /// The same from its return on.
    return_gaps_ns: Vec<u64>,
    taken: Taken,
}

/// Kills so many times, stops as often, and says what came of it.
pub(super) fn run(
    ground: &mut Ground<'_>,
    count: u32,
    settings: &Settings,
) -> Result<Report, DrillError> {
    let mut report = Report::default();
    for (fault, what, scenario, p50_ns_max) in [
        (Fault::Kill, "kill -9", "failover-kill", 100 * NS_PER_MS),
        (Fault::Stop, "SIGSTOP", "failover-stop", 300 * NS_PER_MS),
    ] {
        let (started, acknowledged_before) = (ground.clock.now(), ground.load.bundled.read().0);
        let mut found = Found::default();
        for round in 0..count {
            let line = once(ground, fault, round, &mut found)?;
            ground.say(&format!("{what} {}: {line}", round + 1))?;
        }
        if let Some(to) = &settings.results {
            let kept = Kept {
                scenario,
                settings,
                count,
                started: started.wall,
                duration_ns: ground.now().since_ns(started.monotonic),
                values: &found.gaps_ns,
                acknowledged_count: ground.load.bundled.read().0 - acknowledged_before,
                taken: found.taken,
            };
            kept.write(to, &ground.nodes.status(0)?).map_err(DrillError::Results)?;
        }
        let goals = Goals { p50_ns_max: Some(p50_ns_max), max_ns_max: Some(NS_PER_S) };
        report.add(Distribution::new(&format!("{what}: led by the victim"), found.gaps_ns, goals));
        let comes_back = format!("{what}: while it comes back");
        report.add(Distribution::new(&comes_back, found.return_gaps_ns, Goals::default()));
        report.add_taken(what, found.taken);
    }
    report.add_clients(&ground.load);
    Ok(report)
}

/// Takes one node away and brings it back. Returns a line that says what came of it.
fn once(
    ground: &mut Ground<'_>,
    fault: Fault,
    round: u32,
    found: &mut Found,
) -> Result<String, DrillError> {
    let partition_count = u32::try_from(ground.load.acks.partitions().count());
    let partition = round % partition_count.expect("partitions are counted by one");
    let (victim, led) = ground.nodes.leader_of(partition)?;
    let begun = ground.now();
    match fault {
        Fault::Kill => ground.nodes.kill(victim),
        Fault::Stop => ground.nodes.signal(victim, Signal::STOP),
    }
    let pids = ground.nodes.pids();
    let reading = Reading::take(&pids, begun);
    ground.wait(AWAY);
    await_acks(ground, &led, begun)?;
    let back = ground.now();
    let taken = Reading::take(&pids, back).since(&reading);
    match fault {
        Fault::Kill => ground.nodes.start(victim)?,
        Fault::Stop => ground.nodes.signal(victim, Signal::CONT),
    }
    ground.nodes.await_normal(victim)?;
    let well = ground.now();
    ground.wait(CALM);
    let acks = &ground.load.acks;
    let of = |partition: &u32, from, to| acks.longest_gap(*partition, from, to);
    let gaps: Vec<u64> = led.iter().map(|partition| of(partition, begun, back)).collect();
    let now = ground.now();
    let return_gaps: Vec<u64> = acks.partitions().map(|one| of(&one, back, now)).collect();
    acks.forget_before(now);
    let longest = |gaps: &[u64]| gaps.iter().max().copied().unwrap_or_default() / NS_PER_MS;
    let line = format!(
        "{} led {}, longest gap {} ms; back after {} ms, longest gap {} ms; \
         stolen {} ms, nodes waited {} ms in {} ms",
        name(victim),
        led.len(),
        longest(&gaps),
        well.since_ns(back) / NS_PER_MS,
        longest(&return_gaps),
        taken.steal_ns / NS_PER_MS,
        taken.queue_ns / NS_PER_MS,
        taken.time_ns / NS_PER_MS,
    );
    found.gaps_ns.extend(gaps);
    found.return_gaps_ns.extend(return_gaps);
    found.taken = found.taken.and(taken);
    Ok(line)
}

/// Waits until each of these partitions has acknowledged something that wasn't under way.
fn await_acks(ground: &Ground<'_>, led: &[u32], begun: Monotonic) -> Result<(), DrillError> {
    let by = begun.after_ns(LED_NS_MAX);
    // An answer of the victim's may have been on its way.
    let since = begun.after_ns(100 * NS_PER_MS);
    let waits =
        |partition: &&u32| ground.load.acks.last(**partition).is_none_or(|last| last < since);
    while let Some(partition) = led.iter().find(waits) {
        if ground.now() > by {
            let what = format!("partition {partition} acknowledges puts again");
            return Err(DrillError::Late { what });
        }
        ground.wait(Duration::from_millis(10));
    }
    Ok(())
}
