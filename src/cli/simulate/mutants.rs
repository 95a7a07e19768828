//! Planted bugs: how many seeds it takes until one is found, and who finds it.
//!
//! A planted bug that breaks an assertion ends the process, for a node doesn't outlive that; so
//! each one that is hunted with others has a process of its own.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::{ControlFlow, Range};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::Mutex;

use super::{Verdict, print, tell_violation};
use crate::base::mutant::{ARE_HERE, Mutant, UnknownMutant};
use crate::cli::failure::Failure;
use crate::sim::batch::run_seeds;
use crate::sim::checker::{Checker, Violation};
use crate::sim::cluster::{Options, run};

/// Which bugs are to be hunted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// None: their names are printed.
    List,
    /// Each in its turn.
    All,
    /// This one.
    One(Mutant),
}

impl FromStr for Which {
    type Err = UnknownMutant;

    fn from_str(text: &str) -> Result<Self, UnknownMutant> {
        Ok(match text {
            "list" => Self::List,
            "all" => Self::All,
            name => Self::One(name.parse()?),
        })
    }
}

/// What came of a hunt.
#[derive(Debug)]
pub(super) struct Row<'a> {
    pub(super) mutant: Mutant,
    /// The first seed that was run, and the one that found the bug with what it found.
    pub(super) first: u64,
    pub(super) found: Option<(u64, &'a Violation)>,
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The field widths are those of the names alone.
        let (name, room) = (self.mutant.name(), self.mutant.room().name());
        match self.found {
            Some((seed, Violation { checker, .. })) => {
                let count = seed - self.first + 1;
                let checker = checker.to_string();
                write!(
                    f,
                    "mutant     {name:<26} {room:<9} found      {count:>6} {checker:<16} {seed}"
                )
            }
            None => write!(f, "mutant     {name:<26} {room:<9} survived"),
        }
    }
}

impl Which {
    /// That there are any.
    pub(super) fn check_is_here(self) -> Result<(), Failure> {
        if self == Self::List || ARE_HERE {
            return Ok(());
        }
        let line = "this was built without planted bugs: build it with `--features mutants`";
        Err(Failure::new(line))
    }
}

/// Hunts. Exit code: 0 all were found, 1 some weren't.
pub(super) fn hunt(
    which: Which,
    seeds: &Range<u64>,
    jobs: usize,
    options: Options,
) -> Result<Verdict, Failure> {
    match which {
        Which::List => Mutant::ALL.iter().try_for_each(|mutant| print(mutant.name()))?,
        Which::One(mutant) => return hunt_one(mutant, seeds.clone(), jobs, options),
        Which::All => {
            let mut verdict = Verdict::Done;
            for mutant in Mutant::ALL {
                if !is_found_by_child(*mutant, seeds, jobs, options)? {
                    verdict = Verdict::Negative;
                }
            }
            return Ok(verdict);
        }
    }
    Ok(Verdict::Done)
}

/// Runs seeds until one of them finds the bug: one that finds nothing without it.
fn hunt_one(
    mutant: Mutant,
    seeds: Range<u64>,
    jobs: usize,
    options: Options,
) -> Result<Verdict, Failure> {
    let first = seeds.start;
    let options = Options { mutant: Some(mutant), ..options };
    let finds_only = Mutex::new(BTreeSet::new());
    let summary = run_seeds(seeds, jobs, options, |report| {
        if report.violation.is_none() {
            return ControlFlow::Continue(());
        }
        if run(report.seed, Options { mutant: None, ..options }).violation.is_some() {
            return ControlFlow::Continue(());
        }
        tell_violation(report, options);
        finds_only.lock().expect("nobody panics with it").insert(report.seed);
        ControlFlow::Break(())
    });
    let finds_only = finds_only.into_inner().expect("nobody panics with it");
    let seed = finds_only.first().copied();
    let found = seed.and_then(|seed| Some((seed, summary.violations.get(&seed)?)));
    print(&Row { mutant, first, found }.to_string())?;
    Ok(if found.is_some() { Verdict::Done } else { Verdict::Negative })
}

/// The same in a process of its own; prints what came of it.
fn is_found_by_child(
    mutant: Mutant,
    seeds: &Range<u64>,
    jobs: usize,
    options: Options,
) -> Result<bool, Failure> {
    let failed = |error| Failure::new(format!("cannot run a simulation: {error}"));
    let program = std::env::current_exe().map_err(failed)?;
    let nodes = options.node_count.map(|count| count.to_string());
    let output = Command::new(program)
        .args(["simulate", "--mutant", mutant.name()])
        .args(["--seeds", &format!("{}..{}", seeds.start, seeds.end)])
        .args(["--jobs", &jobs.to_string()])
        .args(nodes.iter().flat_map(|count| ["--nodes", count.as_str()]))
        .stderr(Stdio::null())
        .output()
        .map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(row) = text.lines().find(|line| line.starts_with("mutant ")) else {
        let line = format!("the hunt for {mutant} came to no end: {}", output.status);
        return Err(Failure::new(line));
    };
    print(row)?;
    Ok(output.status.success())
}

/// The row of a bug that has broken an assertion.
pub(super) fn row_of_panic(mutant: Mutant, first: u64, seed: u64) -> String {
    let violation = Violation::new(Checker::Panic, "");
    Row { mutant, first, found: Some((seed, &violation)) }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_others_refused() {
        assert_eq!("all".parse(), Ok(Which::All));
        assert_eq!("list".parse(), Ok(Which::List));
        assert_eq!("keep-stale-log".parse(), Ok(Which::One(Mutant::KeepStaleLog)));
        assert_eq!("none".parse::<Which>(), Err(UnknownMutant));
    }

    #[test]
    fn row_says_how_many_seeds_it_took() {
        let (mutant, first) = (Mutant::ReplyBeforeDurable, 100);
        let text = row_of_panic(mutant, first, 109);
        let words: Vec<&str> = text.split_whitespace().collect();
        let expected = ["mutant", "reply-before-durable", "storage", "found", "10", "panic", "109"];
        assert_eq!(words, expected);
        assert!(Row { mutant, first, found: None }.to_string().ends_with("survived"));
    }

    #[cfg(not(feature = "mutants"))]
    #[test]
    fn program_without_planted_bugs_says_how_to_get_them() {
        let failure = Which::All.check_is_here().expect_err("there are none");
        assert!(failure.to_string().contains("--features mutants"), "{failure}");
        Which::List.check_is_here().expect("names can be told without them");
    }
}
