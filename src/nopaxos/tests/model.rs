//! The model: all states of a group of three within bounds, breadth first, with the real code of
//! its members ([`Member`](super::super::Member)), the disk of these tests, and undo.
//!
//! # What may happen
//!
//! *Network.* A message that was sent may arrive at any time, in any order, any number of times, or
//! never. That is more than connections permit, which are first in, first out each: but a member
//! has several with another one, old and new, and sends again on each what has no answer, so
//! nothing may depend on an order. One thing does: a raised crash vector travels before any later
//! message (3.6). So each message carries the vector and the life of its sender when it sent it,
//! and whoever receives it is told of these first.
//!
//! *Time.* There is none. What waits for a timeout may have it at any time (`node::TIMEOUTS`).
//! Other timeouts say again what is on its way already, or wish a view; a wish promises nothing, so
//! any member may at any time hear that both others wish any view.
//!
//! *Processes.* A member that is down does nothing, and nobody can tell it from one that is slow.
//! So the end of a process and the beginning of the next are one step; what was in flight to the
//! disk is lost from any record on. With `lazy=1` the disk is a step of its own, all that was
//! written at once; else it takes no time. With `survival=never`, or of `losses`, nothing is left.
//!
//! *Clients* stamp commands and begin reads wherever somebody stamps. *Acks* go out after each
//! step: one that covers more is the same as several of which the first ones never come.
//!
//! # What is checked
//!
//! After each step the invariants that the code itself asserts, those of the disk, and what a
//! member says against what is durable (I8, I9, I14); and each new fact against all others: one log
//! for all copies of a view's start (I5), stamps (I3, I6), stable slots and states (I7, I10),
//! answers that survive and are given once (I1, I11), and reads (I12).
//!
//! No state within the bounds is left out: there is no reduction but that equal states are one.
//! What time has told (who was heard when, whose wish is whose) is forgotten in the members after
//! each step, so that it neither tells states apart nor changes what they do next.

mod bounds;
mod facts;
mod node;
mod search;
mod space;

use self::bounds::Bounds;
use self::search::explore;

/// For a person: `P2PMAP_MODEL='terms=2 commands=2' cargo test --lib model::bounds_that`.
#[test]
#[allow(clippy::print_stdout, reason = "what was explored is the result")]
fn bounds_that_are_asked_for_break_no_invariant() {
    let Ok(text) = std::env::var("P2PMAP_MODEL") else { return };
    let bounds = Bounds::parse(&text).unwrap();
    println!("{bounds}");
    #[cfg(feature = "mutants")]
    if let Ok(name) = std::env::var("P2PMAP_MUTANT") {
        crate::base::mutant::switch(Some(name.parse().unwrap()));
        println!("mutant={name}");
    }
    match explore(bounds) {
        Ok(explored) => println!("{explored}"),
        Err(violation) => panic!("{violation}"),
    }
}

/// What is explored whenever the tests run; `scripts/model.sh` goes much further.
#[test]
#[allow(clippy::print_stdout, reason = "what was explored is the result")]
fn small_groups_break_no_invariant() {
    for (text, is_all) in [
        ("terms=2 commands=1 cold=1", true),
        ("terms=2 commands=1 cold=1 offset=1", true),
        ("terms=2 commands=1 restarts=1 lazy=1", true),
        ("terms=2 commands=1 restarts=1 lazy=1 offset=1", true),
        ("terms=2 commands=1 reads=1", true),
        ("terms=3 commands=1", true),
        ("terms=2 commands=2 gaps=1 asks=1 offset=1 states=500000", false),
        ("terms=2 commands=1 losses=1 states=500000", false),
    ] {
        let bounds = Bounds::parse(text).unwrap();
        let explored = explore(bounds).unwrap_or_else(|violation| panic!("{violation}"));
        println!("{bounds}\n    {explored}");
        assert_eq!(explored.is_exhausted, is_all, "{bounds}");
    }
}

/// Bounds within which each planted bug is found; the one that isn't here ends no run in a wrong
/// state, it keeps it from ending.
#[cfg(feature = "mutants")]
const FINDS: &[(crate::base::mutant::Mutant, &str)] = {
    use crate::base::mutant::Mutant;
    const GAPS: &str = "terms=2 commands=2 gaps=1 asks=1 offset=1 states=1000000";
    &[
        (Mutant::RemergeOnLateVote, GAPS),
        (Mutant::AnswerBeyondFrontier, GAPS),
        (Mutant::MissingSlotsBecomeNoOps, "terms=2 commands=1"),
        (Mutant::KeepStaleLog, "terms=3 commands=2 states=2000000"),
        (Mutant::StampAfterRestart, "terms=2 commands=2 restarts=1"),
        (
            Mutant::TruncateAndUnion,
            "terms=2 commands=2 gaps=1 asks=1 checkpoints=1 offset=1 states=8000000",
        ),
        (Mutant::KeepOwnNoOp, GAPS),
        (Mutant::ValueBeatsNoOp, GAPS),
        (Mutant::ApplyBeyondPrepared, GAPS),
        (Mutant::SyncWithoutQuorum, "terms=2 commands=1"),
        (Mutant::ReadoptStartView, "terms=2 commands=1 restarts=1"),
        (Mutant::ReadAtApplied, "terms=2 commands=1 reads=1"),
        (Mutant::ReadWithoutQuorum, "terms=2 commands=1 reads=1"),
        (Mutant::IgnoreCrashVector, "terms=2 commands=1 losses=1 states=2000000"),
    ]
};

#[cfg(feature = "mutants")]
#[test]
#[allow(clippy::print_stdout, reason = "how many states a planted bug takes is the result")]
fn planted_bugs_are_found() {
    use super::swarm::planted;
    use crate::base::mutant::{Mutant, switch};
    for (mutant, text) in FINDS {
        let bounds = Bounds::parse(text).unwrap();
        switch(Some(*mutant));
        let explored = explore(bounds);
        switch(None);
        match explored {
            Ok(explored) => panic!("{mutant} survives: {explored}"),
            Err(violation) => println!("model {mutant} {} states", violation.states_count),
        }
    }
    let is_found = |mutant: &Mutant| FINDS.iter().any(|(found, _)| found == mutant);
    let rest: Vec<_> = planted().filter(|mutant| !is_found(mutant)).collect();
    assert_eq!(rest, [&Mutant::SyncPrepareOnce]);
}
