//! What was acknowledged is there after a restart.

use std::collections::BTreeMap;

use super::{Checker, Violation};
use crate::base::ids::{Index, PartitionId, TermId};
use crate::sim::NodeId;

/// The highest slot of each partition that a client was told of, in each of its views.
#[derive(Debug, Default)]
pub struct Acknowledged {
    slots: BTreeMap<(PartitionId, TermId), Index>,
}

impl Acknowledged {
    /// A client was told in a view that a command has this slot.
    pub fn acknowledge(&mut self, partition: PartitionId, term: TermId, index: Index) {
        let known = self.slots.entry((partition, term)).or_default();
        *known = index.max(*known);
    }

    /// The highest slot of a partition that a client was told of.
    #[must_use]
    pub fn last(&self, partition: PartitionId) -> Index {
        self.last_before(partition, TermId(u64::MAX))
    }

    /// The same in the views before one.
    #[must_use]
    pub fn last_before(&self, partition: PartitionId, term: TermId) -> Index {
        let before = self.slots.range((partition, TermId(0))..(partition, term));
        before.map(|(_, index)| *index).max().unwrap_or_default()
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
        let known = self.last(partition);
        if known <= last {
            return Ok(());
        }
        let what = format!(
            "node {node}: the log of partition {partition} ends at slot {last}, but slot {known} \
             was acknowledged"
        );
        Err(Violation::new(Checker::Durability, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_that_ends_before_what_was_acknowledged_is_found() {
        let mut acknowledged = Acknowledged::default();
        let (node, partition) = (NodeId(0), PartitionId(3));
        for (term, index) in [(1, 4), (2, 9), (2, 7), (3, 8)] {
            acknowledged.acknowledge(partition, TermId(term), Index(index));
        }
        assert_eq!(acknowledged.last_before(partition, TermId(1)), Index(0));
        assert_eq!(acknowledged.last_before(partition, TermId(2)), Index(4));
        acknowledged.recovered(node, partition, Index(9)).expect("all is there");
        acknowledged.recovered(node, PartitionId(2), Index(0)).expect("nothing was acknowledged");
        let violation = acknowledged.recovered(node, partition, Index(8)).expect_err("slot 9");
        assert_eq!(violation.checker, Checker::Durability);
    }
}
