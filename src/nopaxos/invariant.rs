//! Invariants that are checked in every build (4). A member that finds one broken stops, with the
//! invariant's name and the partition: going on could lose what was acknowledged.

use crate::base::ids::PartitionId;

/// Stops unless `holds`.
macro_rules! invariant {
    ($replica:expr, $name:literal, $holds:expr, $what:literal) => {
        if !$holds {
            $crate::nopaxos::invariant::violated($replica.group.partition(), $name, $what);
        }
    };
}

pub(super) use invariant;

/// Stops.
#[cold]
#[inline(never)]
pub(super) fn violated(partition: PartitionId, name: &str, what: &str) -> ! {
    panic!("partition {partition}: invariant {name} is broken: {what}")
}
