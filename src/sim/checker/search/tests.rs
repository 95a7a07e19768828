use super::*;
use crate::base::ids::Index;
use crate::base::time::Monotonic;
use crate::sim::ClientId;
use crate::sim::history::Universe;

const KEY: Key = Key { map: 0, number: 0 };

fn get(history: &mut History, value: Option<ValueId>) {
    let action = Action::Get { key: KEY, freshness: Freshness::Linearizable };
    let operation = history.invoke(ClientId(0), action, Monotonic(0));
    let entry = value.map(|value| Seen { value, version: Index(1), updated_ms: 0 });
    history.end(operation, Outcome::Found { index: Index(1), entry }, Monotonic(0));
}

fn unknown_puts(count: usize) -> (History, Vec<ValueId>) {
    let mut history = History::new(Universe::new(1, 1, 1));
    let values: Vec<ValueId> = (0..count).map(|_| history.new_value(8)).collect();
    for &value in &values {
        let action = Action::Put { key: KEY, value, condition: None, wants_previous: false };
        let operation = history.invoke(ClientId(0), action, Monotonic(0));
        history.end(operation, Outcome::Unknown, Monotonic(0));
    }
    (history, values)
}

#[test]
fn order_of_unknown_writes_is_found_from_what_was_read() {
    let (mut history, values) = unknown_puts(5);
    for place in [3, 0, 4] {
        get(&mut history, Some(values[place]));
    }
    assert_eq!(search_key(&history, KEY), Found::Order);
    // It was written over, and is written once.
    get(&mut history, Some(values[0]));
    assert_eq!(search_key(&history, KEY), Found::NoOrder);
}

#[test]
fn history_that_is_too_long_or_too_hard_is_given_up_and_never_called_wrong() {
    let (history, _) = unknown_puts(SEARCHED_OPERATION_COUNT_MAX + 1);
    assert_eq!(search_key(&history, KEY), Found::GaveUp);
    let (mut history, values) = unknown_puts(40);
    for place in [1, 0, 2] {
        get(&mut history, Some(values[place]));
    }
    // No order fits, and too many would have to be tried.
    get(&mut history, Some(values[1]));
    assert_eq!(search_key(&history, KEY), Found::GaveUp);
}
