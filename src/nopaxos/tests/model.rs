//! The model: all states of a small group, breadth first, with the real code of its members.

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
