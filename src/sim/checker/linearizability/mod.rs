//! Linearizability by versions, in O(n log n): the slots of the log say in which order commands
//! took effect, and which slot each read reflects. So nothing has to be searched for:
//!
//! - *One order*: no two commands have one slot, no put has two. Whatever ended before something
//!   else was asked for has a lower slot (a read: none that is higher).
//! - *One state*: every key that somebody saw, at whatever slot, is what the last command at or
//!   before that slot made of it.
//! - *Nothing out of nothing*: no value is seen that nobody wrote, that was refused, or before it
//!   was written.
//!
//! Writes whose outcome nobody knows may have been done at any later time, once, or never. If their
//! value was seen, its version is their slot. If a key is absent where the known commands left a
//! value, an unknown removal must have been at work: one for each value that vanished. (Where such
//! a write could explain what was seen it has the benefit of the doubt; [`super::search`], which
//! judges all short histories as well, gives none.)

mod facts;
mod order;
mod state;

#[cfg(test)]
mod tests;

use super::{Checker, Violation};
use crate::sim::history::History;

/// What was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Operations of the history.
    pub operations_count: usize,
    /// States of a key that somebody saw.
    pub observations_count: usize,
}

/// Checks a history.
///
/// # Errors
/// What contradicts linearizability.
pub fn check(history: &History) -> Result<Checked, Violation> {
    let facts = facts::Facts::gather(history)?;
    order::check(&facts)?;
    state::check(&facts)?;
    Ok(Checked {
        operations_count: history.operations.len(),
        observations_count: facts.observations.len(),
    })
}

fn violation(history: &History, what: &str, operations: &[usize]) -> Violation {
    let shown = operations.iter().map(|number| {
        let operation = &history.operations[*number];
        let ended = operation.ended.map_or("never".to_owned(), |ended| ended.number.to_string());
        format!(
            "\n  operation {number} of client {}: {:?} from {} to {ended}: {:?}",
            operation.client.0, operation.action, operation.invoked.number, operation.outcome
        )
    });
    let shown: String = shown.collect();
    let at = operations.iter().filter_map(|number| history.operations[*number].ended).max();
    let violation = Violation::new(Checker::Linearizability, format!("{what}{shown}"));
    Violation { at: at.map(|moment| moment.at), ..violation }
}
