//! `simulate`: run clusters in virtual time under everything that can go wrong, and check them.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::ops::Range;
use std::panic::PanicHookInfo;

use clap::{ArgGroup, Args};

use super::Verdict;
use super::failure::Failure;
use crate::base::time::{NS_PER_MS, NS_PER_S};
use crate::runtime::clock::Clock;
use crate::sim::batch::{run_seed, run_seeds, seed_of_this_thread};
use crate::sim::checker::Violation;
use crate::sim::cluster::Options;
use crate::sim::report::{Report, Summary};

/// What this was built from.
const COMMIT: Option<&str> = option_env!("P2PMAP_COMMIT");
/// The exit code of a run in which something was that must not be.
const EXIT_VIOLATION: i32 = 1;

/// Exit code: 0 nothing was wrong, 1 something was that must not be.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("runs").required(true).args(["seed", "seeds"])))]
pub(super) struct SimulateArgs {
    /// Run this one.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Print a line for each event.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Run all of these, the end not among them.
    #[arg(long, value_name = "A..B", value_parser = range)]
    seeds: Option<Range<u64>>,
    /// Clusters of so many nodes; without this each seed says how many.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=7))]
    nodes: Option<u8>,
    /// On so many threads.
    #[arg(long, value_name = "COUNT", default_value_t = 1, requires = "seeds")]
    jobs: usize,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let wrong = || "expected A..B with A below B, e.g. 0..1000".to_owned();
    let (start, end) = text.split_once("..").ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    let seeds = number(start)?..number(end)?;
    if seeds.is_empty() { Err(wrong()) } else { Ok(seeds) }
}

pub(super) fn run(args: SimulateArgs) -> Result<Verdict, Failure> {
    report_panics();
    let clock = Clock::start();
    let node_count = args.nodes.map(usize::from);
    let options = Options { node_count, ..Options::default() };
    let summary = match (args.seed, args.seeds) {
        (Some(seed), _) => {
            let trace = args.trace.then_some(print_line as fn(&str));
            let report = run_seed(seed, Options { trace, ..options });
            tell_violation(&report);
            let mut summary = Summary::default();
            summary.add(&report);
            print(&format!("trace      {:016x}", report.trace_hash))?;
            summary
        }
        (None, seeds) => run_seeds(seeds.unwrap_or_default(), args.jobs, options, tell_violation),
    };
    print(&told(&summary, clock.monotonic().0))?;
    match summary.violations.is_empty() {
        true => Ok(Verdict::Done),
        false => Ok(Verdict::Negative),
    }
}

/// What there is to say of all runs.
fn told(summary: &Summary, real_ns: u64) -> String {
    let Summary { runs_count, virtual_ns, events_count, operations_count, .. } = *summary;
    let per_second = |count: u64| count.saturating_mul(NS_PER_S) / real_ns.max(1);
    let mut text = String::new();
    let mut line = |name: &str, what: String| {
        // Writing to a string doesn't fail.
        let _ = writeln!(text, "{name:<10} {what}");
    };
    let violations_count = summary.violations.len();
    let s = format!("{}.{:03} s", real_ns / NS_PER_S, real_ns % NS_PER_S / NS_PER_MS);
    line("runs", format!("{runs_count} in {s}, {} a second", per_second(runs_count)));
    let virtual_s = virtual_ns / NS_PER_S;
    let speed = virtual_ns / real_ns.max(1);
    line("time", format!("{virtual_s} s virtual, {speed} of them in a real one"));
    line("events", format!("{events_count}, {} a second", per_second(events_count)));
    let outcomes: Vec<String> =
        summary.outcomes.iter().map(|(name, count)| format!("{count} {name}")).collect();
    line("operations", format!("{operations_count}: {}", outcomes.join(", ")));
    let (ordered, given_up) = summary.searched;
    line("checked", format!("{} states of a key", summary.observations_count));
    line("searched", format!("{ordered} keys, {given_up} given up"));
    for (fault, (times, runs)) in &summary.faults {
        line("fault", format!("{fault:<18} {times} times in {runs} runs"));
    }
    for (place, (times, runs)) in &summary.marks {
        line("mark", format!("{place:<46} {times} times in {runs} runs"));
    }
    line("violations", violations_count.to_string());
    text.trim_end().to_owned()
}

/// Says at once what is wrong with a run, and how to see it again.
fn tell_violation(report: &Report) {
    if let Some(violation) = &report.violation {
        tell(report.seed, violation);
    }
}

fn tell(seed: u64, violation: &Violation) {
    let commit = COMMIT.unwrap_or("unknown");
    let text = format!(
        "violation  seed {seed}, commit {commit}: {violation}\n\
         replay     p2pmap simulate --seed {seed} --trace"
    );
    // If nobody reads, the exit code still says it.
    let _ = print(&text);
}

fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(|e| Failure::stdout(&e))
}

fn print_line(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// A broken assertion of the code under test ends the process, as it does in a node; before that it
/// is told whose seed it was.
fn report_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic: &PanicHookInfo<'_>| {
        usual(panic);
        if let Some(seed) = seed_of_this_thread() {
            let checker = crate::sim::checker::Checker::Panic;
            tell(seed, &Violation::new(checker, panic.to_string()));
            std::process::exit(EXIT_VIOLATION);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_seeds_are_read_and_others_refused() {
        assert_eq!(range("3..10"), Ok(3..10));
        for wrong in ["3", "..", "3..", "..3", "3..3", "5..3", "a..b", "-1..3", "1...3"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }
}
