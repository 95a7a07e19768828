use super::*;
use crate::base::ids::{Index, PartitionId};
use crate::base::prng::Prng;
use crate::base::time::Monotonic;
use crate::proto::p2pmap::v1::error::Code;
use crate::sim::ClientId;
use crate::sim::checker::search::{self, Found};
use crate::sim::history::{
    Action, Expectation, Freshness, Key, Outcome, PageSeen, Scope, Seen, Universe, ValueId,
};

const PARTITION: PartitionId = PartitionId(0);
const A: Key = Key { map: 0, number: 0 };
const B: Key = Key { map: 0, number: 1 };
const FRESH: Freshness = Freshness::Linearizable;

/// A history of one partition as it is written down.
struct Script {
    history: History,
    /// The values that will be put, in their order.
    values: Vec<ValueId>,
}

fn script() -> Script {
    let mut history = History::new(Universe::new(1, 4, 1));
    let values = (0..8).map(|_| history.new_value(8)).collect();
    Script { history, values }
}

impl Script {
    fn ask(&mut self, action: Action) -> usize {
        self.history.invoke(ClientId(0), action, Monotonic(0))
    }

    fn tell(&mut self, operation: usize, outcome: Outcome) -> &mut Self {
        self.history.end(operation, outcome, Monotonic(0));
        self
    }

    fn done(&mut self, action: Action, outcome: Outcome) -> &mut Self {
        let operation = self.ask(action);
        self.tell(operation, outcome)
    }

    fn seen(&self, value: usize, version: u64) -> Option<Seen> {
        let (value, version) = (self.values[value], Index(version));
        Some(Seen { value, version, updated_ms: i64::try_from(version.0).unwrap() })
    }

    fn put_action(&self, key: Key, value: usize) -> Action {
        let value = self.values[value];
        Action::Put { key, value, condition: None, wants_previous: false }
    }

    fn put(&mut self, key: Key, value: usize, index: u64) -> &mut Self {
        let action = self.put_action(key, value);
        self.done(action, Outcome::Written { index: Index(index), previous: None })
    }

    fn remove(&mut self, key: Key, index: u64, existed: bool) -> &mut Self {
        let outcome = Outcome::Removed { index: Index(index), existed, previous: None };
        self.done(removal(key), outcome)
    }

    fn get(&mut self, key: Key, index: u64, seen: Option<(usize, u64)>) -> &mut Self {
        let entry = seen.and_then(|(value, version)| self.seen(value, version));
        let outcome = Outcome::Found { index: Index(index), entry };
        self.done(Action::Get { key, freshness: FRESH }, outcome)
    }

    fn unknown(&mut self, action: Action) -> &mut Self {
        self.done(action, Outcome::Unknown)
    }

    fn size(&mut self, index: u64, entries: u64) -> &mut Self {
        let action = Action::Size { map: 0, scope: Scope::Partition(PARTITION) };
        let size_bytes = entries * 13;
        self.done(action, Outcome::Sized { index: Index(index), entries, size_bytes })
    }

    fn list(&mut self, index: u64, items: &[(Key, usize, u64)], is_cut: bool) -> &mut Self {
        let items = items
            .iter()
            .map(|(key, value, version)| (*key, self.seen(*value, *version).expect("it is some")));
        let items = items.collect();
        let page = PageSeen { partition: PARTITION, index: Index(index), items, is_cut };
        let action = Action::Entries { map: 0, scope: Scope::Partition(PARTITION), limit: 9 };
        self.done(action, Outcome::Listed(vec![page]))
    }

    fn whole_clear(&mut self) -> &mut Self {
        let action = Action::Clear { map: 0, scope: Scope::Whole };
        self.done(action, Outcome::Cleared { index: Index(0), entries: 1 })
    }

    fn conditional(&mut self, condition: Expectation, outcome: Outcome) -> &mut Self {
        self.conditional_of(5, condition, outcome)
    }

    fn conditional_of(
        &mut self,
        value: usize,
        condition: Expectation,
        outcome: Outcome,
    ) -> &mut Self {
        let (value, condition) = (self.values[value], Some(condition));
        self.done(Action::Put { key: A, value, condition, wants_previous: false }, outcome)
    }

    /// It is linearizable, says each checker.
    fn passes(&self) {
        check(&self.history).expect("it is linearizable");
        search::check(&self.history).expect("it is linearizable");
    }

    /// It is not, by what it says of slots: values alone don't tell.
    fn fails(&self) {
        let violation = check(&self.history).expect_err("it is not linearizable");
        assert_eq!(violation.checker, Checker::Linearizability);
    }

    /// It is not, says each checker.
    fn fails_both(&self) {
        self.fails();
        let violation = search::check(&self.history).expect_err("there is no such order");
        assert_eq!(violation.checker, Checker::Search);
    }
}

const fn removal(key: Key) -> Action {
    Action::Remove { key, condition: None, wants_previous: false }
}

fn written(index: u64) -> Outcome {
    Outcome::Written { index: Index(index), previous: None }
}

#[test]
fn history_of_one_after_the_other_passes() {
    let mut script = script();
    script.put(A, 0, 1).get(A, 1, Some((0, 1))).put(A, 1, 2).put(B, 2, 3);
    script.list(3, &[(A, 1, 2), (B, 2, 3)], false).size(3, 2);
    script.remove(A, 4, true).get(A, 4, None).remove(A, 5, false).size(5, 1);
    script.conditional(Expectation::Absent, written(6)).get(A, 6, Some((5, 6)));
    let failed = Outcome::ConditionFailed { index: Index(7), current: script_seen(5, 6) };
    script.conditional_of(6, Expectation::Absent, failed);
    script.whole_clear().get(B, 9, None).passes();
}

fn script_seen(value: usize, version: u64) -> Option<Seen> {
    script().seen(value, version)
}

#[test]
fn operations_at_the_same_time_may_come_in_either_order() {
    for first in [true, false] {
        let mut script = script();
        let put = script.ask(script.put_action(A, 0));
        script.get(A, u64::from(first), first.then_some((0, 1)));
        script.tell(put, written(1)).get(A, 1, Some((0, 1))).passes();
    }
}

#[test]
fn write_of_unknown_outcome_may_be_done_now_later_or_never() {
    let mut script = script();
    let unknown = script.put_action(A, 0);
    script.unknown(unknown).get(A, 0, None).put(A, 1, 1).get(A, 1, Some((1, 1)));
    script.passes();
    // It comes at last.
    script.get(A, 2, Some((0, 2))).passes();
    // A removal too: seen by what it leaves.
    script.unknown(removal(A)).get(A, 2, Some((0, 2))).get(A, 3, None).passes();
}

#[test]
fn older_state_than_what_was_answered_is_found() {
    script().put(A, 0, 1).put(A, 1, 2).get(A, 1, Some((0, 1))).fails_both();
}

#[test]
fn state_that_is_not_that_of_its_slot_is_found() {
    script().put(A, 0, 1).put(A, 1, 2).get(A, 2, Some((0, 1))).fails_both();
    script().put(A, 0, 1).remove(A, 2, true).get(A, 2, Some((0, 1))).fails_both();
}

#[test]
fn write_that_is_lost_is_found() {
    script().put(A, 0, 1).get(A, 1, None).fails_both();
    script().put(A, 0, 1).remove(A, 2, false).fails_both();
    script().put(A, 0, 1).put(B, 1, 2).list(2, &[(B, 1, 2)], false).fails_both();
}

#[test]
fn command_that_is_done_twice_is_found() {
    let mut twice = script();
    twice.put(A, 0, 1).put(A, 1, 2).get(A, 3, Some((0, 3))).fails_both();
    // Though nobody was told that it was done once.
    let mut script = script();
    let unknown = script.put_action(A, 0);
    script.unknown(unknown).get(A, 1, Some((0, 1))).get(A, 2, Some((0, 2))).fails();
}

#[test]
fn two_commands_in_one_slot_are_found() {
    script().put(A, 0, 1).put(B, 1, 1).fails();
}

#[test]
fn slots_that_contradict_time_are_found() {
    script().put(A, 0, 5).put(B, 1, 3).fails();
    script().put(A, 0, 5).get(B, 4, None).fails();
    script().get(B, 4, None).put(A, 0, 4).fails();
}

#[test]
fn put_that_was_refused_and_is_seen_is_found() {
    let mut script = script();
    let refused = script.put_action(A, 0);
    script.done(refused, Outcome::Failed(Code::Unavailable)).get(A, 1, Some((0, 1))).fails_both();
}

#[test]
fn value_out_of_nothing_is_found() {
    script().get(A, 1, Some((0, 1))).fails_both();
    // Before it is put.
    script().get(A, 1, Some((0, 1))).put(A, 0, 1).fails_both();
    // At another key.
    script().put(A, 0, 1).get(B, 1, Some((0, 1))).fails_both();
}

#[test]
fn conditions_that_were_judged_wrongly_are_found() {
    let failed = |index, current| Outcome::ConditionFailed { index: Index(index), current };
    let mut held = script();
    held.put(A, 0, 1).conditional(Expectation::Absent, written(2)).fails_both();
    let mut held = script();
    held.conditional(Expectation::Present, written(1)).fails_both();
    let mut held = script();
    held.put(A, 0, 1).put(A, 1, 2);
    held.conditional(Expectation::Version(Index(1)), written(3)).fails_both();
    let mut held = script();
    let value = held.values[0];
    held.put(A, 0, 1).put(A, 1, 2).conditional(Expectation::Value(value), written(3)).fails_both();
    let mut refused = script();
    refused.conditional(Expectation::Absent, failed(1, None)).fails_both();
    let mut refused = script();
    refused.put(A, 0, 1).conditional(Expectation::Present, failed(2, None)).fails_both();
}

#[test]
fn answer_older_than_the_client_asked_for_is_found() {
    let mut script = script();
    let freshness = Freshness::Stale(Index(2));
    let old = Outcome::Found { index: Index(1), entry: script.seen(0, 1) };
    script.put(A, 0, 1).put(B, 1, 2).done(Action::Get { key: A, freshness }, old).fails();
}

#[test]
fn stale_read_is_held_against_the_slot_that_it_names() {
    let read = |script: &mut Script, seen: Option<Seen>| {
        let action = Action::Get { key: A, freshness: Freshness::Stale(Index(0)) };
        script.put(A, 0, 1).put(A, 1, 2);
        script.done(action, Outcome::Found { index: Index(1), entry: seen });
    };
    let mut right = script();
    read(&mut right, script_seen(0, 1));
    right.passes();
    let mut wrong = script();
    read(&mut wrong, script_seen(1, 2));
    wrong.fails();
}

#[test]
fn sizes_and_lists_of_what_is_not_there_are_found() {
    script().put(A, 0, 1).size(1, 2).fails();
    script().put(A, 0, 1).put(B, 1, 2).list(2, &[(A, 0, 1)], false).fails();
    script().put(A, 0, 1).list(1, &[(A, 0, 1), (A, 0, 1)], false).fails();
    script().put(A, 0, 1).put(B, 1, 2).list(2, &[(A, 0, 1)], true).passes();
}

#[test]
fn time_of_the_log_that_goes_back_is_found() {
    let mut script = script();
    let seen = |script: &Script, value, version, updated_ms| {
        Some(Seen { updated_ms, ..script.seen(value, version).expect("it is some") })
    };
    script.put(A, 0, 1).put(B, 1, 2);
    for (key, value, version, updated_ms) in [(A, 0, 1, 900), (B, 1, 2, 800)] {
        let entry = seen(&script, value, version, updated_ms);
        let outcome = Outcome::Found { index: Index(2), entry };
        script.done(Action::Get { key, freshness: FRESH }, outcome);
    }
    script.fails();
}

#[test]
fn each_value_that_vanishes_takes_a_removal_of_its_own() {
    let mut script = script();
    script.unknown(removal(A)).put(A, 0, 1).get(A, 2, None).passes();
    script.put(A, 1, 3).get(A, 4, None).fails_both();
    // Nor can it have been asked for after it was missed.
    let mut late = self::script();
    late.put(A, 0, 1).get(A, 1, None).unknown(removal(A)).fails_both();
}

#[test]
fn entry_that_outlives_the_clear_of_its_map_is_found() {
    script().put(A, 0, 1).whole_clear().get(A, 2, Some((0, 1))).fails_both();
    // What was put after it is nobody's concern.
    script().put(A, 0, 1).whole_clear().put(A, 1, 3).get(A, 3, Some((1, 3))).passes();
}

#[test]
fn answer_of_another_kind_is_found() {
    let mut script = script();
    let put = script.put_action(A, 0);
    script.done(put, Outcome::Exists { index: Index(1), exists: true }).fails();
}

// ---- both checkers against each other ----

/// A map that does one thing after the other, and clients that ask at the same time.
struct Model {
    prng: Prng,
    history: History,
    state: std::collections::BTreeMap<Key, Seen>,
    last: Index,
    /// What was asked and not answered: with what came of it, if it was done.
    open: Vec<(usize, Option<Outcome>)>,
}

impl Model {
    fn history(seed: u64) -> History {
        let history = History::new(Universe::new(1, 2, 1));
        let mut model = Self {
            prng: Prng::new(seed, "model"),
            history,
            state: std::collections::BTreeMap::new(),
            last: Index(0),
            open: Vec::new(),
        };
        for _ in 0..60 {
            model.step();
        }
        while !model.open.is_empty() {
            model.go_on();
        }
        model.history
    }

    fn step(&mut self) {
        if self.open.len() < 3 && self.prng.one_in(2) {
            let key = if self.prng.one_in(2) { A } else { B };
            let wants_previous = self.prng.one_in(2);
            let condition = match self.prng.below(6) {
                0 => Some(Expectation::Absent),
                1 => Some(Expectation::Present),
                2 => self.state.get(&key).map(|seen| Expectation::Version(seen.version)),
                3 => self.state.get(&key).map(|seen| Expectation::Value(seen.value)),
                _ => None,
            };
            let action = match self.prng.below(4) {
                0 => Action::Remove { key, condition, wants_previous },
                1 => {
                    let value = self.history.new_value(8);
                    Action::Put { key, value, condition, wants_previous }
                }
                2 => Action::Exists { key, freshness: FRESH },
                _ => Action::Get { key, freshness: FRESH },
            };
            let operation = self.history.invoke(ClientId(0), action, Monotonic(0));
            self.open.push((operation, None));
        } else if !self.open.is_empty() {
            self.go_on();
        }
    }

    fn go_on(&mut self) {
        let place = crate::base::cast::usize_from(
            self.prng.below(crate::base::cast::u64_from(self.open.len())),
        );
        match self.open[place].clone() {
            // Nobody is told whether it was done.
            (operation, _) if self.prng.one_in(12) => {
                self.open.swap_remove(place);
                self.history.end(operation, Outcome::Unknown, Monotonic(0));
            }
            (operation, Some(outcome)) => {
                self.open.swap_remove(place);
                self.history.end(operation, outcome, Monotonic(0));
            }
            (operation, None) => {
                let outcome = self.execute(self.history.operations[operation].action);
                self.open[place].1 = Some(outcome);
            }
        }
    }

    fn execute(&mut self, action: Action) -> Outcome {
        let key = action.key().expect("all of them have one");
        let current = self.state.get(&key).copied();
        let holds = |condition: Option<Expectation>| match condition {
            None => true,
            Some(Expectation::Absent) => current.is_none(),
            Some(Expectation::Present) => current.is_some(),
            Some(Expectation::Version(version)) => current.is_some_and(|s| s.version == version),
            Some(Expectation::Value(value)) => current.is_some_and(|seen| seen.value == value),
        };
        let index = if action.is_write() { self.last.next() } else { self.last };
        self.last = index;
        match action {
            Action::Put { condition, .. } | Action::Remove { condition, .. }
                if !holds(condition) =>
            {
                Outcome::ConditionFailed { index, current }
            }
            Action::Put { value, wants_previous, .. } => {
                let updated_ms = i64::try_from(index.0).unwrap();
                self.state.insert(key, Seen { value, version: index, updated_ms });
                Outcome::Written { index, previous: current.filter(|_| wants_previous) }
            }
            Action::Remove { wants_previous, .. } => {
                self.state.remove(&key);
                let previous = current.filter(|_| wants_previous);
                Outcome::Removed { index, existed: current.is_some(), previous }
            }
            Action::Exists { .. } => Outcome::Exists { index, exists: current.is_some() },
            _ => Outcome::Found { index, entry: current },
        }
    }
}

/// Falsifies one answer.
fn falsify(history: &mut History, prng: &mut Prng) -> bool {
    let count = crate::base::cast::u64_from(history.operations.len());
    let chosen = crate::base::cast::usize_from(prng.below(count));
    let seen: Vec<Seen> = history
        .operations
        .iter()
        .filter_map(|operation| match (operation.action, &operation.outcome) {
            (Action::Put { value, .. }, Outcome::Written { index, .. }) => {
                let updated_ms = i64::try_from(index.0).unwrap();
                Some(Seen { value, version: *index, updated_ms })
            }
            _ => None,
        })
        .collect();
    let mut other = |was: Option<Seen>| {
        let place = prng.below(crate::base::cast::u64_from(seen.len()) + 1);
        let other = seen.get(crate::base::cast::usize_from(place)).copied();
        (other != was).then_some(other)
    };
    match &mut history.operations[chosen].outcome {
        Outcome::Found { entry: told, .. }
        | Outcome::ConditionFailed { current: told, .. }
        | Outcome::Written { previous: told @ Some(_), .. }
        | Outcome::Removed { previous: told @ Some(_), .. } => {
            let Some(falsified) = other(*told) else { return false };
            *told = falsified;
        }
        Outcome::Exists { exists: told, .. }
        | Outcome::Removed { existed: told, previous: None, .. } => *told = !*told,
        _ => return false,
    }
    true
}

#[test]
fn checkers_agree_on_true_histories_and_slots_find_whatever_a_search_finds() {
    let (mut falsified, mut found, mut found_by_search, mut certain) = (0, 0, 0, 0);
    for seed in 0..400 {
        let mut history = Model::history(seed);
        check(&history).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        for key in [A, B] {
            assert_eq!(search::search_key(&history, key), Found::Order, "seed {seed}");
        }
        let mut prng = Prng::new(seed, "falsify");
        if !falsify(&mut history, &mut prng) {
            continue;
        }
        falsified += 1;
        let by_slots = check(&history).is_err();
        let by_search = search::check(&history).is_err();
        // What a write that nobody saw could explain has the benefit of the doubt.
        let is_certain = history
            .operations
            .iter()
            .all(|operation| operation.outcome != Outcome::Unknown || !operation.action.is_write());
        assert!(by_slots || !is_certain, "seed {seed}: nothing explains it");
        certain += usize::from(is_certain);
        found += usize::from(by_slots);
        found_by_search += usize::from(by_search);
    }
    assert!(falsified > 200, "{falsified} histories were falsified");
    assert!(certain > 30, "{certain} of them were certain");
    assert!(found * 5 > falsified * 4, "{found} of {falsified} were found by their slots");
    assert!(found_by_search * 2 > falsified, "{found_by_search} of {falsified} by search");
}

/// A history in which a value that lives for 10 ms is put in slot 1, at 100 ms by the log.
fn expiring() -> Script {
    let mut script = script();
    let value = script.values[0];
    script.history.set_ttl(value, 10);
    for (index, ms) in [(1, 100), (2, 109), (3, 110)] {
        script.history.slot_times.insert((PARTITION, Index(index)), ms);
    }
    script.put(A, 0, 1);
    script
}

#[test]
fn what_expires_does_so_at_its_slot_for_commands() {
    for (index, existed, is_right) in
        [(2, true, true), (2, false, false), (3, false, true), (3, true, false)]
    {
        let mut script = expiring();
        script.remove(A, index, existed);
        let checked = check(&script.history);
        assert_eq!(checked.is_ok(), is_right, "{index} {existed}: {checked:?}");
    }
}

#[test]
fn what_expires_does_so_at_its_slot_for_reads() {
    for (index, sees, is_right) in
        [(2, true, true), (2, false, false), (3, false, true), (3, true, false)]
    {
        let mut script = expiring();
        let entry = if sees { script.seen(0, 1) } else { None };
        let get = Action::Get { key: A, freshness: FRESH };
        script.done(get, Outcome::Found { index: Index(index), entry });
        let checked = check(&script.history);
        assert_eq!(checked.is_ok(), is_right, "{index} {sees}: {checked:?}");
    }
}

#[test]
fn value_without_a_time_to_live_does_not_expire() {
    let mut script = expiring();
    script.put(B, 1, 2);
    script.remove(B, 3, false);
    check(&script.history).expect_err("nobody removed it");
}

#[test]
fn search_leaves_keys_alone_whose_values_expire() {
    let mut script = expiring();
    script.remove(A, 3, false);
    let (ordered, given_up) = search::check(&script.history).expect("it can't know");
    assert_eq!((ordered, given_up), (3, 1));
}

#[test]
fn what_expires_may_have_taken_the_place_of_what_is_missed() {
    for (ttl, is_right) in [(Some(10), true), (None, false)] {
        let mut script = script();
        script.put(A, 0, 1);
        let action = script.put_action(A, 1);
        if let Some(ttl) = ttl {
            script.history.set_ttl(script.values[1], ttl);
        }
        script.done(action, Outcome::Unknown);
        script.remove(A, 3, false);
        assert_eq!(check(&script.history).is_ok(), is_right);
    }
}
