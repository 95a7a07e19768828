//! What was acknowledged is there after a restart.

use std::collections::BTreeMap;

use super::{Checker, Violation};
use crate::base::ids::{Index, PartitionId};
use crate::sim::NodeId;

/// The highest slot of each partition that a client was told of.
#[derive(Debug, Default)]
pub struct Acknowledged {
    slots: BTreeMap<PartitionId, Index>,
}

impl Acknowledged {
    /// A client was told that a command has this slot.
    pub fn acknowledge(&mut self, partition: PartitionId, index: Index) {
        let known = self.slots.entry(partition).or_default();
        *known = index.max(*known);
    }

    /// The highest slot of a partition that a client was told of.
    #[must_use]
    pub fn last(&self, partition: PartitionId) -> Index {
        self.slots.get(&partition).copied().unwrap_or_default()
    }

    /// A member that must have all of a partition has a log that ends there.
    ///
    /// # Errors
    /// If it should reach further.
    pub fn recovered(
        &self,
        node: NodeId,
        partition: PartitionId,
        last: Index,
    ) -> Result<(), Violation> {
        match self.slots.get(&partition) {
            Some(known) if *known > last => {
                let what = format!(
                    "node {node}: the log of partition {partition} ends at slot {last}, but slot \
                     {known} was acknowledged"
                );
                Err(Violation::new(Checker::Durability, what))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_that_ends_before_what_was_acknowledged_is_found() {
        let mut acknowledged = Acknowledged::default();
        let (node, partition) = (NodeId(0), PartitionId(3));
        for index in [4, 9, 7] {
            acknowledged.acknowledge(partition, Index(index));
        }
        acknowledged.recovered(node, partition, Index(9)).expect("all is there");
        acknowledged.recovered(node, PartitionId(2), Index(0)).expect("nothing was acknowledged");
        let violation = acknowledged.recovered(node, partition, Index(8)).expect_err("slot 9");
        assert_eq!(violation.checker, Checker::Durability);
    }
}
