//! `simulate`: run clusters in virtual time under everything that can go wrong, and check them.

mod mutants;
mod told;

use std::io::{self, Write as _};
use std::ops::{ControlFlow, Range};
use std::panic::PanicHookInfo;

use clap::{ArgGroup, Args};

use self::mutants::Which;
use self::told::told;
use super::Verdict;
use super::failure::Failure;
use crate::base::mutant::Mutant;
use crate::runtime::clock::Clock;
use crate::sim::batch::{run_seed, run_seeds, seed_of_this_thread};
use crate::sim::checker::{Checker, Violation};
use crate::sim::cluster::Options;
use crate::sim::report::{Report, Summary};

/// What this was built from.
const COMMIT: &str = env!("P2PMAP_COMMIT");
/// The exit code of a run in which something was that must not be.
const EXIT_VIOLATION: i32 = 1;
/// The seeds by which a planted bug is hunted if none are named.
const HUNTING_SEEDS: Range<u64> = 0..3_000;

/// Exit code: 0 nothing was wrong, 1 something was that must not be. Of planted bugs: 0 all were
/// found, 1 some weren't.
#[derive(Debug, Args)]
#[command(group(
    ArgGroup::new("runs").required(true).multiple(true).args(["seed", "seeds", "mutant"])
))]
pub(super) struct SimulateArgs {
    /// Run this one.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Print a line for each event.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Run all of these, the end not among them.
    #[arg(long, value_name = "A..B", value_parser = range, conflicts_with = "seed")]
    seeds: Option<Range<u64>>,
    /// With this planted bug, until it is found (`list`: all names, `all`: each in its turn). Needs
    /// a program that was built with `--features mutants`.
    #[arg(long, value_name = "NAME")]
    mutant: Option<Which>,
    /// Clusters of so many nodes; without this each seed says how many.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=7))]
    nodes: Option<u8>,
    /// On so many threads.
    #[arg(long, value_name = "COUNT", default_value_t = 1, conflicts_with = "seed")]
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
    let SimulateArgs { seed, trace, seeds, nodes, mutant, jobs } = args;
    if let Some(which) = mutant {
        which.check_is_here()?;
    }
    let node_count = nodes.map(usize::from);
    let options = Options { node_count, mutant: mutant.and_then(one), ..Options::default() };
    if let (Some(which), None) = (mutant, seed) {
        let seeds = seeds.unwrap_or(HUNTING_SEEDS);
        report_panics(options, Some(seeds.start));
        return mutants::hunt(which, &seeds, jobs, options);
    }
    report_panics(options, None);
    let clock = Clock::start();
    let summary = match seed {
        Some(seed) => {
            let trace = trace.then_some(print_line as fn(&str));
            let report = run_seed(seed, Options { trace, ..options });
            tell_violation(&report, options);
            let mut summary = Summary::default();
            summary.add(&report);
            print(&format!("trace      {:016x}", report.trace_hash))?;
            summary
        }
        None => run_seeds(seeds.unwrap_or_default(), jobs, options, |report| {
            tell_violation(report, options);
            ControlFlow::Continue(())
        }),
    };
    print(&told(&summary, clock.monotonic().0))?;
    match summary.violations.is_empty() {
        true => Ok(Verdict::Done),
        false => Ok(Verdict::Negative),
    }
}

/// The planted bug, if it is one.
const fn one(which: Which) -> Option<Mutant> {
    if let Which::One(mutant) = which { Some(mutant) } else { None }
}

/// Says at once what is wrong with a run, and how to see it again.
fn tell_violation(report: &Report, options: Options) {
    if let Some(violation) = &report.violation {
        tell(report.seed, options, violation);
    }
}

fn tell(seed: u64, options: Options, violation: &Violation) {
    let replay = replay(seed, options);
    let text = format!(
        "violation  seed {seed}, commit {COMMIT}: {violation}\n\
         replay     {replay}"
    );
    // If nobody reads, the exit code still says it.
    let _ = print(&text);
}

/// The command that does it again.
fn replay(seed: u64, options: Options) -> String {
    let nodes = options.node_count.map_or(String::new(), |count| format!(" --nodes {count}"));
    let (feature, mutant) = match options.mutant {
        Some(mutant) => (" --features mutants", format!(" --mutant {mutant}")),
        None => ("", String::new()),
    };
    format!("cargo run --release{feature} -- simulate --seed {seed}{nodes}{mutant} --trace")
}

fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(|e| Failure::stdout(&e))
}

fn print_line(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// A broken assertion of the code under test ends the process, as it does in a node; before that it
/// is told whose seed it was. A planted bug that is hunted (from a first seed on) was found by it.
fn report_panics(options: Options, hunted_from: Option<u64>) {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic: &PanicHookInfo<'_>| {
        usual(panic);
        if let Some(seed) = seed_of_this_thread() {
            tell(seed, options, &Violation::new(Checker::Panic, panic.to_string()));
            if let (Some(mutant), Some(first)) = (options.mutant, hunted_from) {
                let _ = print(&mutants::row_of_panic(mutant, first, seed));
                std::process::exit(0);
            }
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

    #[test]
    fn replay_says_all_that_was_asked_for() {
        let options = Options { node_count: Some(3), ..Options::default() };
        assert_eq!(
            replay(7, options),
            "cargo run --release -- simulate --seed 7 --nodes 3 --trace"
        );
        let options = Options { mutant: Some(Mutant::KeepStaleLog), ..Options::default() };
        assert_eq!(
            replay(7, options),
            "cargo run --release --features mutants -- simulate --seed 7 --mutant keep-stale-log \
             --trace"
        );
    }
}
