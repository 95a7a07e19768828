//! Linearizability by search (Wing and Gong, with Lowe's memory of what was tried): is there any
//! order of a key's operations that fits what they were told? It knows nothing of slots or
//! versions, so it judges independently of [`super::linearizability`]; but it may take long, so it
//! is for short histories and gives up at some point.

use std::collections::BTreeSet;

use super::{Checker, Violation};
use crate::base::limits::{SEARCHED_OPERATION_COUNT_MAX, SEARCHED_STEP_COUNT_MAX};
use crate::sim::history::{
    Action, Expectation, Freshness, History, Key, Operation, Outcome, Scope, Seen, ValueId,
};

/// What a search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is such an order.
    Order,
    /// There is none.
    NoOrder,
    /// There are too many to try all of them.
    GaveUp,
}

/// What an operation does with a key, and what it was told.
#[derive(Clone, Copy, Debug)]
enum Step {
    Write { condition: Option<Value>, value: Option<ValueId>, told: Option<Told> },
    Read(Told),
}

/// What is said of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Is(Option<ValueId>),
    Present(bool),
    /// Its condition didn't hold, and this was there.
    Refused(Option<ValueId>),
}

/// A condition, in values instead of versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Absent,
    Present,
    Is(ValueId),
    /// A version that nobody can tell the value of: it held if the operation was told so.
    Unknown,
}

/// An operation on one key.
#[derive(Clone, Copy, Debug)]
struct Item {
    operation: usize,
    invoked: u64,
    /// `u64::MAX`: it may take effect at any later time, or never.
    ended: u64,
    step: Step,
}

/// Searches an order for each key that has few enough operations. Returns for how many keys there
/// was one, and for how many the search gave up.
///
/// # Errors
/// If there is none.
pub fn check(history: &History) -> Result<(usize, usize), Violation> {
    let (mut ordered, mut given_up) = (0, 0);
    for key in history.universe.keys() {
        let expires = |operation: &Operation| match operation.action {
            Action::Put { key: at, value, .. } => at == key && history.ttl_ms(value).is_some(),
            _ => false,
        };
        if history.operations.iter().any(expires) {
            // It may vanish whenever the log's time says, of which a search knows nothing.
            given_up += 1;
            continue;
        }
        match search_key(history, key) {
            Found::Order => ordered += 1,
            Found::GaveUp => given_up += 1,
            Found::NoOrder => {
                let shown = items(history, key).into_iter().map(|item| {
                    let Operation { action, outcome, .. } = &history.operations[item.operation];
                    format!("\n  {}..{}: {action:?}: {outcome:?}", item.invoked, item.ended)
                });
                let shown: String = shown.collect();
                let what = format!("no order of the operations on {key} fits:{shown}");
                return Err(Violation::new(Checker::Search, what));
            }
        }
    }
    Ok((ordered, given_up))
}

/// Searches an order of the operations on one key.
#[must_use]
pub fn search_key(history: &History, key: Key) -> Found {
    let items = items(history, key);
    if items.len() > SEARCHED_OPERATION_COUNT_MAX {
        return Found::GaveUp;
    }
    let completed = items.iter().enumerate().filter(|(_, item)| item.ended < u64::MAX);
    let completed = completed.fold(0_u128, |set, (place, _)| set | 1 << place);
    let mut search = Search { items: &items, completed, tried: BTreeSet::new(), steps_count: 0 };
    match search.from(0, None) {
        _ if search.steps_count > SEARCHED_STEP_COUNT_MAX => Found::GaveUp,
        true => Found::Order,
        false => Found::NoOrder,
    }
}

struct Search<'a> {
    items: &'a [Item],
    /// The operations that must have taken effect.
    completed: u128,
    /// Sets of operations that were done, and the state after them.
    tried: BTreeSet<(u128, Option<ValueId>)>,
    steps_count: usize,
}

impl Search<'_> {
    /// Whether the operations that aren't `done` fit a state in some order.
    fn from(&mut self, done: u128, state: Option<ValueId>) -> bool {
        self.steps_count += 1;
        if done & self.completed == self.completed || self.steps_count > SEARCHED_STEP_COUNT_MAX {
            return true;
        }
        if !self.tried.insert((done, state)) {
            return false;
        }
        let open = |place: &usize| done >> place & 1 == 0;
        let left = || (0..self.items.len()).filter(open);
        // Whoever comes next was asked before all others that are left had ended.
        let horizon = left().map(|place| self.items[place].ended).min().unwrap_or(u64::MAX);
        let candidates: Vec<usize> =
            left().filter(|place| self.items[*place].invoked < horizon).collect();
        candidates.into_iter().any(|place| {
            let after = self.items[place].step.after(state);
            after.is_some_and(|after| self.from(done | 1 << place, after))
        })
    }
}

impl Step {
    /// The state after it; `None`: it can't have been told this in that state.
    fn after(&self, state: Option<ValueId>) -> Option<Option<ValueId>> {
        match *self {
            Self::Read(told) => told.fits(state).then_some(state),
            Self::Write { condition, value, told } => {
                let refused = matches!(told, Some(Told::Refused(_)));
                let holds = match condition {
                    None => true,
                    Some(Value::Unknown) => !refused,
                    Some(condition) => condition.holds(state),
                };
                let fits = match told {
                    // Nobody was told anything: it did what its condition allowed.
                    None => true,
                    Some(told) => holds != refused && told.fits(state),
                };
                fits.then_some(if holds { value } else { state })
            }
        }
    }
}

impl Told {
    fn fits(self, state: Option<ValueId>) -> bool {
        match self {
            Self::Is(value) | Self::Refused(value) => value == state,
            Self::Present(present) => present == state.is_some(),
        }
    }
}

impl Value {
    fn holds(self, state: Option<ValueId>) -> bool {
        match self {
            Self::Absent => state.is_none(),
            Self::Present => state.is_some(),
            Self::Is(value) => state == Some(value),
            Self::Unknown => true,
        }
    }
}

fn items(history: &History, key: Key) -> Vec<Item> {
    let numbered = history.operations.iter().enumerate();
    numbered
        .flat_map(|(number, operation)| {
            let steps = steps(history, key, operation);
            steps.into_iter().map(move |step| Item {
                operation: number,
                invoked: operation.invoked.number,
                ended: operation.ended.map_or(u64::MAX, |ended| ended.number),
                step,
            })
        })
        .collect()
}

/// What an operation is for a key.
fn steps(history: &History, key: Key, operation: &Operation) -> Vec<Step> {
    let told = |seen: &Option<Seen>| seen.map(|seen| seen.value);
    let of = |condition: Option<Expectation>| {
        condition.map(|condition| match condition {
            Expectation::Absent => Value::Absent,
            Expectation::Present => Value::Present,
            Expectation::Value(value) => Value::Is(value),
            Expectation::Version(version) => {
                value_of(history, key, version).map_or(Value::Unknown, Value::Is)
            }
        })
    };
    let partition = history.universe.partition_of(key);
    match (operation.action, &operation.outcome) {
        (_, Outcome::Failed(_)) => Vec::new(),
        (Action::Put { key: at, value, condition, wants_previous }, outcome) if at == key => {
            let told = match outcome {
                Outcome::Written { previous, .. } => {
                    wants_previous.then(|| Told::Is(told(previous)))
                }
                Outcome::ConditionFailed { current, .. } => Some(Told::Refused(told(current))),
                _ => None,
            };
            let condition = of(condition);
            vec![written(condition, Some(value), told, outcome)]
        }
        (Action::Remove { key: at, condition, wants_previous }, outcome) if at == key => {
            let told = match outcome {
                Outcome::Removed { previous, .. } if wants_previous => {
                    Some(Told::Is(told(previous)))
                }
                Outcome::Removed { existed, .. } => Some(Told::Present(*existed)),
                Outcome::ConditionFailed { current, .. } => Some(Told::Refused(told(current))),
                _ => None,
            };
            vec![written(of(condition), None, told, outcome)]
        }
        (Action::Clear { map, scope }, _) if map == key.map => {
            let is_here = scope == Scope::Whole || scope == Scope::Partition(partition);
            let clear = Step::Write { condition: None, value: None, told: None };
            if is_here { vec![clear] } else { Vec::new() }
        }
        (Action::Get { key: at, freshness }, Outcome::Found { entry, .. }) => {
            let is_read = at == key && freshness == Freshness::Linearizable;
            is_read.then(|| Step::Read(Told::Is(told(entry)))).into_iter().collect()
        }
        (Action::Exists { key: at, freshness }, Outcome::Exists { exists, .. }) => {
            let is_read = at == key && freshness == Freshness::Linearizable;
            is_read.then_some(Step::Read(Told::Present(*exists))).into_iter().collect()
        }
        (Action::Entries { map, .. }, Outcome::Listed(pages)) if map == key.map => {
            let page = pages.iter().find(|page| page.partition == partition);
            let listed = page.and_then(|page| {
                let seen = page.items.iter().find(|(at, _)| *at == key).map(|(_, seen)| *seen);
                (seen.is_some() || !page.is_cut).then(|| Step::Read(Told::Is(told(&seen))))
            });
            listed.into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// A write. One that was done though nothing was told of what was there must still have been
/// allowed to.
fn written(
    condition: Option<Value>,
    value: Option<ValueId>,
    told: Option<Told>,
    outcome: &Outcome,
) -> Step {
    let is_done = matches!(outcome, Outcome::Written { .. } | Outcome::Removed { .. });
    let told = match (condition, told) {
        (Some(Value::Absent), None) if is_done => Some(Told::Present(false)),
        (Some(Value::Present | Value::Unknown), None) if is_done => Some(Told::Present(true)),
        (Some(Value::Is(value)), None) if is_done => Some(Told::Is(Some(value))),
        (_, told) => told,
    };
    Step::Write { condition, value, told }
}

/// The value that has a version, as far as anybody was told.
fn value_of(history: &History, key: Key, version: crate::base::ids::Index) -> Option<ValueId> {
    history.operations.iter().find_map(|operation| {
        let of_seen = |seen: &Option<Seen>| {
            seen.filter(|seen| seen.version == version).map(|seen| seen.value)
        };
        match (operation.action, &operation.outcome) {
            (Action::Put { key: at, value, .. }, Outcome::Written { index, previous })
                if at == key =>
            {
                if *index == version {
                    Some(value)
                } else {
                    of_seen(previous)
                }
            }
            (action, Outcome::Found { entry, .. }) if action.key() == Some(key) => of_seen(entry),
            (
                action,
                Outcome::ConditionFailed { current: seen, .. }
                | Outcome::Removed { previous: seen, .. },
            ) if action.key() == Some(key) => of_seen(seen),
            (_, Outcome::Listed(pages)) => pages.iter().find_map(|page| {
                let found =
                    page.items.iter().find(|(at, seen)| *at == key && seen.version == version);
                found.map(|(_, seen)| seen.value)
            }),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests;
