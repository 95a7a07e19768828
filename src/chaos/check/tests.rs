use super::*;
use crate::base::ids::Index;
use crate::chaos::fault::FaultClass;
use crate::sim::ClientId;
use crate::sim::history::{Action, Freshness, Key, Seen, Universe, ValueId};

const KEY: Key = Key { map: 0, number: 0 };

/// A history in which clients write and read one key, a millisecond after each other.
struct Script {
    history: History,
    at: Monotonic,
}

fn script() -> Script {
    Script { history: History::new(Universe::new(1, 4, 1)), at: Monotonic(0) }
}

impl Script {
    fn done(&mut self, action: Action, outcome: Outcome) {
        let number = self.history.invoke(ClientId(0), action, self.at);
        self.at = self.at.after_ns(NS_PER_MS);
        self.history.end(number, outcome, self.at);
    }

    fn put(&mut self, index: u64) -> ValueId {
        let value = self.history.new_value(8);
        let action = Action::Put { key: KEY, value, condition: None, wants_previous: false };
        self.done(action, Outcome::Written { index: Index(index), previous: None });
        value
    }

    fn get(&mut self, index: u64, found: Option<(ValueId, u64)>) {
        let action = Action::Get { key: KEY, freshness: Freshness::Linearizable };
        let entry = found.map(|(value, version)| Seen {
            value,
            version: Index(version),
            updated_ms: i64::try_from(version).unwrap(),
        });
        self.done(action, Outcome::Found { index: Index(index), entry });
    }
}

#[test]
fn write_that_was_acknowledged_and_is_there_is_fine() {
    let mut script = script();
    script.put(1);
    let value = script.put(2);
    script.get(2, Some((value, 2)));
    assert_eq!(history(&script.history).unwrap().operations_count, 3);
}

#[test]
fn write_that_was_acknowledged_and_is_lost_is_found() {
    // An older value is there again.
    let mut older = script();
    let value = older.put(1);
    older.put(2);
    older.get(2, Some((value, 1)));
    assert!(history(&older.history).is_err());
    // A log that was cut: the reader's slot is below that of the write.
    let mut cut = script();
    let value = cut.put(1);
    cut.put(2);
    cut.get(1, Some((value, 1)));
    assert!(history(&cut.history).is_err());
    // Nothing at all is there.
    let mut none = script();
    none.put(1);
    none.get(1, None);
    assert!(history(&none.history).is_err());
    // Another command has the slot.
    let mut twice = script();
    twice.put(1);
    twice.put(1);
    assert!(history(&twice.history).is_err());
}

fn ms(ms: u64) -> Monotonic {
    Monotonic(ms * NS_PER_MS)
}

fn event(class: FaultClass, begun: u64, well: u64) -> Event {
    let what = class.to_string();
    Event { class, what, begun: ms(begun), healed: ms(begun), well: ms(well) }
}

/// The times without an acknowledgement of a load that lasts 100 ms, with acknowledgements then.
fn gaps_of(times: &[u64]) -> (Gaps, Gap) {
    let mut script = script();
    for (place, time) in times.iter().enumerate() {
        script.at = ms(time - 1);
        script.put(u64::try_from(place).unwrap() + 1);
    }
    let load = Gap { from: ms(0), to: ms(100) };
    (Gaps::of(&script.history, load), load)
}

#[test]
fn gaps_are_between_acknowledgements_and_reach_to_both_ends() {
    let (gaps, load) = gaps_of(&[10, 15, 60]);
    let spans: Vec<u64> = gaps.whole.iter().map(|gap| gap.ns() / NS_PER_MS).collect();
    assert_eq!(spans, [10, 5, 45, 40]);
    let whole = Gap { from: ms(15), to: ms(60) };
    assert_eq!(gaps.longest(load), (whole, whole));
    assert_eq!(gaps.longest(Gap { from: ms(11), to: ms(12) }).0.ns(), 5 * NS_PER_MS);
}

#[test]
fn partition_that_stands_still_is_found_while_others_go_on() {
    let mut script = Script { history: History::new(Universe::new(1, 40, 2)), at: ms(0) };
    // Of two partitions only the key's own is written to, and the other one has keys, too.
    let universe = &script.history.universe;
    let own = universe.partition_of(KEY);
    assert!(universe.keys().any(|key| universe.partition_of(key) != own));
    for index in 1..=99 {
        script.put(index);
    }
    let load = Gap { from: ms(0), to: ms(100) };
    let gaps = Gaps::of(&script.history, load);
    let (whole, of_one) = gaps.longest(load);
    assert!(whole.ns() <= 2 * NS_PER_MS, "{whole:?}");
    assert_eq!(of_one, load);
    let found = progress(&gaps, &[], load, 50 * NS_PER_MS).expect_err("it stands still");
    assert_eq!(found.checker, Checker::Progress);
}

#[test]
fn reads_and_refusals_are_no_acknowledged_writes() {
    let mut script = script();
    script.get(0, None);
    let value = script.history.new_value(8);
    let put = Action::Put { key: KEY, value, condition: None, wants_previous: false };
    script.done(put, Outcome::Unknown);
    let load = Gap { from: ms(0), to: ms(100) };
    assert_eq!(Gaps::of(&script.history, load).whole, [load]);
}

#[test]
fn what_a_fault_excuses_is_told_apart_from_what_nothing_does() {
    let (gaps, load) = gaps_of(&[10, 15, 60, 95]);
    let longest = |events: &[Event]| Stretches::of(events, load).longest(&gaps.whole);
    let gap = |from, to| Gap { from: ms(from), to: ms(to) };
    let nothing = longest(&[event(FaultClass::Kill, 20, 50)]);
    assert_eq!(nothing, Standstill { demanded: gap(15, 60), excused: None });
    let part = longest(&[event(FaultClass::Blackout, 20, 50)]);
    assert_eq!(part, Standstill { demanded: gap(60, 95), excused: Some(gap(20, 50)) });
    // It goes on after the load has ended.
    let last = longest(&[event(FaultClass::Blackout, 61, 120)]);
    assert_eq!(last, Standstill { demanded: gap(15, 60), excused: Some(gap(61, 95)) });
}

#[test]
fn stall_is_found_unless_a_fault_excuses_it() {
    let (gaps, load) = gaps_of(&[10, 15, 60, 95]);
    let limit = 40 * NS_PER_MS;
    let check = |events: &[Event]| progress(&gaps, events, load, limit);
    assert!(check(&[]).is_err());
    assert!(progress(&gaps, &[], load, 45 * NS_PER_MS).is_ok());
    assert!(check(&[event(FaultClass::Kill, 10, 60)]).is_err(), "a minority's death is no excuse");
    assert!(check(&[event(FaultClass::Blackout, 20, 50)]).is_ok());
    assert!(check(&[event(FaultClass::Blackout, 1, 14)]).is_err(), "it was over long before");
    assert!(check(&[event(FaultClass::Blackout, 57, 99)]).is_err(), "it came only after");
}
