//! The order of slots against the order in time.

use super::super::Violation;
use super::facts::{Facts, PartitionFacts, Placed};
use super::violation;
use crate::base::ids::{Index, PartitionId};

/// What has ended so far: the highest slot, and who has it.
type Floor = Option<Placed>;

pub(super) fn check(facts: &Facts<'_>) -> Result<(), Violation> {
    for (partition, found) in &facts.partitions {
        no_slot_twice(facts, *partition, found)?;
        order_of_time(facts, found)?;
    }
    Ok(())
}

fn no_slot_twice(
    facts: &Facts<'_>,
    partition: PartitionId,
    found: &PartitionFacts,
) -> Result<(), Violation> {
    for pair in found.commands.windows(2) {
        if pair[0].index == pair[1].index {
            let what = format!("two commands in slot {} of partition {partition}", pair[0].index);
            let involved = [pair[0].operation, pair[1].operation];
            return Err(violation(facts.history, &what, &involved));
        }
    }
    match found.commands.first() {
        Some(Placed { index: Index(0), operation }) => {
            Err(violation(facts.history, "a command without a slot", &[*operation]))
        }
        _ => Ok(()),
    }
}

/// Goes through the moments: who begins now must come after all that has ended.
fn order_of_time(facts: &Facts<'_>, found: &PartitionFacts) -> Result<(), Violation> {
    let operations = &facts.history.operations;
    let is_command = [true, false];
    let items: Vec<(Placed, bool)> = [&found.commands, &found.reads]
        .into_iter()
        .zip(is_command)
        .flat_map(|(placed, is_command)| placed.iter().map(move |placed| (*placed, is_command)))
        .collect();
    let mut moments: Vec<(u64, usize, bool)> = Vec::new();
    for (place, (placed, _)) in items.iter().enumerate() {
        let operation = &operations[placed.operation];
        moments.push((operation.invoked.number, place, true));
        if let Some(ended) = operation.ended {
            moments.push((ended.number, place, false));
        }
    }
    moments.sort_unstable();
    let mut floor: Floor = None;
    for (_, place, begins) in moments {
        let (placed, is_command) = items[place];
        if !begins {
            floor = floor.max(Some(placed));
        } else if let Some(before) = floor {
            let is_after = match is_command {
                true => placed.index > before.index,
                false => placed.index >= before.index,
            };
            if !is_after {
                let what = format!(
                    "slot {} was reached, and what was asked for later is as of slot {}",
                    before.index, placed.index
                );
                let involved = [before.operation, placed.operation];
                return Err(violation(facts.history, &what, &involved));
            }
        }
    }
    Ok(())
}

/// The highest slot of a partition that had been reached before an operation was asked for.
pub(super) fn reached_before(facts: &Facts<'_>, partition: PartitionId, operation: usize) -> Index {
    let operations = &facts.history.operations;
    let invoked = operations[operation].invoked;
    let Some(found) = facts.partitions.get(&partition) else { return Index(0) };
    let has_ended =
        |placed: &&Placed| operations[placed.operation].ended.is_some_and(|ended| ended < invoked);
    let placed = found.commands.iter().chain(&found.reads).filter(has_ended);
    placed.map(|placed| placed.index).max().unwrap_or_default()
}
