//! That the table of scenarios says what is there, and that scenarios find what they are there for.

/// The files with scenarios, as the table names them.
const FILES: &[(&str, &str)] = &[
    ("scenarios.rs", include_str!("../scenarios.rs")),
    ("recovery.rs", include_str!("recovery.rs")),
    ("clients.rs", include_str!("clients.rs")),
    ("shard", include_str!("../../../shard/tests/cluster/scenarios.rs")),
];

/// Leases are not built.
const NOT_BUILT: &str = "38";

/// The rows of the table: number, file, test.
fn rows() -> Vec<(&'static str, &'static str, &'static str)> {
    let (_, table) = FILES[0];
    let rows = table.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("//! | ")?.split(" | ");
        let number = cells.next()?;
        number.starts_with(|first: char| first.is_ascii_digit()).then_some(())?;
        let file = cells.next()?.trim_matches('`');
        let test = cells.next()?.trim_end_matches(" |").trim_matches('`');
        Some((number, file, test))
    });
    rows.collect()
}

#[test]
fn every_scenario_of_the_specification_is_a_test_that_the_table_names() {
    let rows = rows();
    let mut numbers: Vec<String> = (1..=44).map(|number| number.to_string()).collect();
    numbers.extend(["25b", "33b"].map(str::to_owned));
    for number in numbers.iter().filter(|number| *number != NOT_BUILT) {
        assert!(rows.iter().any(|row| row.0 == number), "scenario {number} is in no row");
    }
    for (number, file, test) in rows {
        let (_, source) = FILES.iter().find(|(name, _)| *name == file).expect("a file of the list");
        assert!(source.contains(&format!("fn {test}()")), "{test} is not in {file}");
        let width = number.trim_end_matches('b').len();
        let expected = format!("s{}{number}_", &"00"[width..]);
        assert!(test.starts_with(&expected), "{test} doesn't begin with {expected}");
    }
}

#[test]
fn every_scenario_is_in_the_table() {
    let rows = rows();
    for (file, source) in FILES {
        let functions = source.lines().filter_map(|line| line.split_once("fn s"));
        for (_, rest) in
            functions.filter(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
        {
            let name = format!("s{}", rest.split('(').next().unwrap());
            assert!(rows.iter().any(|row| row.2 == name), "{name} of {file} is in no row");
        }
    }
}

/// The planted bugs, each with the scenario that is there to find it.
#[cfg(feature = "mutants")]
#[test]
fn planted_bugs_are_found_by_their_scenarios() {
    use super::*;
    use crate::base::mutant::{Mutant, switch};
    let found_by: &[(Mutant, fn())] = &[
        (Mutant::RemergeOnLateVote, s12_late_vote_gets_the_log_that_was_decided_without_it),
        (
            Mutant::AnswerBeyondFrontier,
            s06_nothing_above_a_no_op_is_answered_before_a_quorum_holds_it,
        ),
        (Mutant::MissingSlotsBecomeNoOps, s13_new_leader_that_lags_fetches_what_it_lacks),
        (
            Mutant::MissingSlotsBecomeNoOps,
            s14_term_ends_without_a_view_when_nobody_else_has_the_slots,
        ),
        (Mutant::KeepStaleLog, s15_log_of_an_older_view_is_discarded),
        (Mutant::StampAfterRestart, s24_restarted_sequencer_never_stamps_in_its_old_term),
        (Mutant::TruncateAndUnion, s16_no_op_below_a_voters_truncation_is_preserved),
        (Mutant::KeepOwnNoOp, s08_no_op_that_no_quorum_held_is_replaced_by_the_value),
        (Mutant::ValueBeatsNoOp, s07_no_op_of_a_quorum_survives_its_leader),
        (Mutant::ApplyBeyondPrepared, s27_sync_commit_without_its_prepare_applies_nothing),
        (
            Mutant::ReadWithoutQuorum,
            clients::s36_deposed_leader_that_doesnt_know_it_answers_no_read,
        ),
        (Mutant::IgnoreCrashVector, recovery::s31_vote_of_a_forgotten_life_does_not_count),
        (Mutant::IgnoreCrashVector, recovery::s32_ack_of_a_forgotten_life_completes_nothing),
        (Mutant::IgnoreCrashVector, s25b_vote_of_a_life_before_a_disk_was_lost_is_void),
    ];
    let survives = found_by.iter().enumerate().filter(|(_, (mutant, scenario))| {
        switch(Some(*mutant));
        let found = std::panic::catch_unwind(*scenario).is_err();
        switch(None);
        !found
    });
    let survivors: Vec<_> = survives.map(|(row, (mutant, _))| (row, *mutant)).collect();
    assert!(survivors.is_empty(), "{survivors:?} survive");
}
