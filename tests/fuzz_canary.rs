//! Guarantee: the harness of the fuzz tests can fail. A bug is planted; it must be found, in a
//! bounded number of rounds, and the seed that is reported must show it again.

mod fuzzing;

use std::collections::BTreeSet;

use fuzzing::peer::{Said, check_payload};
use fuzzing::{Failure, Length, Plan, damage, place};
use p2pmap::base::ids::Index;
use p2pmap::base::prng::Prng;
use p2pmap::wire::peer::filter::{self, Filter};

const ROUNDS: Plan = Plan { first_seed: 1_000, length: Length::Rounds(2_000) };

#[track_caller]
fn found(plan: Plan, check: impl FnMut(&mut Prng)) -> Failure {
    plan.run(check).expect_err("the planted bug is found")
}

/// A filter's decoder that forgets to look whether something follows.
fn decode_with_planted_bug(bytes: &[u8], first: Index, last: Index) -> Option<BTreeSet<Index>> {
    (1..=bytes.len())
        .find_map(|end| filter::decode(&bytes[..end], first, last).ok())
        .map(|Filter { no_ops, .. }| no_ops)
}

#[test]
fn planted_bug_is_found_and_its_seed_shows_it_again() {
    let check = |prng: &mut Prng| {
        let mut bytes = vec![1, 0, 2, 0, 1];
        bytes.extend(std::iter::repeat_n(0, place(prng, 3)));
        if prng.one_in(2) {
            damage(&mut bytes, prng);
        }
        let (first, last) = (Index(1), Index(100));
        let right = filter::decode(&bytes, first, last).ok().map(|filter| filter.no_ops);
        let wrong = decode_with_planted_bug(&bytes, first, last);
        assert_eq!(wrong, right, "the planted bug");
    };
    let Failure { seed, message } = found(ROUNDS, check);
    assert!(message.contains("the planted bug"), "{message}");
    let again = found(Plan { first_seed: seed, length: Length::Rounds(1) }, check);
    assert_eq!((again.seed, again.message), (seed, message));
}

#[test]
fn planted_confusion_of_two_members_is_found() {
    // The check of damaged messages, with the wrong idea of who said them.
    let check = |prng: &mut Prng| {
        let said = Said::arbitrary(prng);
        let other = Said { from: said.to, to: said.from, ..said.clone() };
        let payload = said.payload();
        assert!(other.decode(&payload).is_err() || other.received() != said.received());
        check_payload(&said, &payload);
        assert_eq!(other.decode(&payload), Ok(said.received()), "the planted bug");
    };
    assert!(found(ROUNDS, check).message.contains("the planted bug"));
}

#[test]
fn run_that_finds_nothing_has_made_all_its_rounds() {
    let mut rounds = 0;
    let result = ROUNDS.run(|_| rounds += 1);
    assert_eq!((result.ok(), rounds), (Some(2_000), 2_000));
    let seconds = Plan { first_seed: 1, length: Length::Seconds(1) };
    assert!(seconds.run(|_| {}).is_ok_and(|rounds| rounds > 0));
}
