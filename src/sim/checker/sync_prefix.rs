//! The sync prefix (I7): up to the lower of two replicas' sync points their logs are one, and what
//! a follower has found to be as its leader's is so.
//!
//! The chain digest at a slot covers all slots up to it, with their times, values and no-ops, also
//! those that have left memory: two logs with one digest there have one prefix. So in each turn the
//! digest of each replica is held against that of all others, at its sync point, and at `prepared`
//! against those of its view, the leader's among them. What a replica holds as stable it has found
//! to be as the leader's before; both only grow; and who doesn't lead executes nothing beyond (I9).
//! That a quorum has confirmed a sync point which is told others, is seen on the wire
//! ([`claims`](super::claims)).

use std::collections::BTreeMap;

use super::replicas::Inside;
use super::{Checker, Violation};
use crate::base::chain::Chain;
use crate::base::ids::{Index, PartitionId, TermId};
use crate::nopaxos::Status;
use crate::sim::NodeId;

/// The prefixes of all replicas' logs.
#[derive(Debug, Default)]
pub struct Prefixes {
    /// The chain at slots that were some replica's sync point, and whose.
    stable: BTreeMap<(PartitionId, Index), (Chain, NodeId)>,
    /// The chain at slots up to which some replica was as the leader of a view, and whose.
    prepared: BTreeMap<(PartitionId, TermId, Index), (Chain, NodeId)>,
    /// How far each replica was when it was looked at last, and in which view.
    reached: BTreeMap<(NodeId, PartitionId), (TermId, Index)>,
}

impl Prefixes {
    /// A replica is so inside.
    ///
    /// # Errors
    /// If its log has another prefix than that of others, or it acts on more than that.
    pub fn look_into(&mut self, node: NodeId, replica: &Inside<'_>) -> Result<(), Violation> {
        let Inside { partition, view, prepared, sync_point, applied, log, .. } = *replica;
        let wrong = |what: String| {
            let what = format!("node {node}, partition {partition}: {what}");
            Err(Violation::new(Checker::SyncPrefix, what))
        };
        if let Some((chain, _)) = log.at(sync_point) {
            let place = (partition, sync_point);
            let &mut (known, by) = self.stable.entry(place).or_insert((chain, node));
            if known != chain {
                return wrong(format!(
                    "stable up to slot {sync_point}, with another log than node {by} had there"
                ));
            }
        }
        if replica.status != Status::Normal {
            return Ok(());
        }
        if sync_point > prepared {
            return wrong(format!("slot {sync_point} is stable, and slot {prepared} prepared"));
        }
        if applied > sync_point && !replica.is_leading {
            return wrong(format!("slot {applied} is executed, and slot {sync_point} stable"));
        }
        let reached = self.reached.insert((node, partition), (view, prepared));
        if let Some((_, before)) =
            reached.filter(|(term, before)| *term == view && *before > prepared)
        {
            return wrong(format!("slot {before} was prepared in view {view}, and now {prepared}"));
        }
        let Some((chain, _)) = log.at(prepared) else { return Ok(()) };
        let place = (partition, view, prepared);
        let &mut (known, by) = self.prepared.entry(place).or_insert((chain, node));
        if known != chain {
            return wrong(format!(
                "as the leader of view {view} up to slot {prepared}, with another log than node \
                 {by} had there"
            ));
        }
        Ok(())
    }

    /// A process is gone: its next life prepares anew.
    pub fn forget_life(&mut self, node: NodeId) {
        self.reached.retain(|(other, _), _| *other != node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::MessageId;
    use crate::base::time::Timestamp;
    use crate::map::digest::StateDigest;
    use crate::nopaxos::replica::log::{Log, Slot};

    const PARTITION: PartitionId = PartitionId(2);

    fn log(values: &[&'static [u8]]) -> Log {
        let mut log = Log::new(Index(0), Chain::NONE, Timestamp(0));
        for (value, number) in values.iter().zip(1..) {
            let value = (!value.is_empty()).then(|| (*value).into());
            let (message_id, timestamp) = (MessageId(number), Timestamp(number));
            log.append(Slot { term: TermId(1), message_id, timestamp, value });
        }
        log
    }

    fn follower(log: &Log, prepared: u64, stable: u64) -> Inside<'_> {
        Inside {
            partition: PARTITION,
            status: Status::Normal,
            view: TermId(3),
            is_leading: false,
            started: None,
            log,
            prepared: Index(prepared),
            sync_point: Index(stable),
            applied: Index(stable),
            digest: StateDigest(0),
        }
    }

    /// Looks into replicas, one after the other, of nodes with these ids.
    fn look(replicas: &[(u8, Inside<'_>)]) -> Result<(), Violation> {
        let mut prefixes = Prefixes::default();
        replicas.iter().try_for_each(|(node, inside)| prefixes.look_into(NodeId(*node), inside))
    }

    fn found(replicas: &[(u8, Inside<'_>)]) {
        let violation = look(replicas).expect_err("something is wrong");
        assert_eq!(violation.checker, Checker::SyncPrefix);
    }

    #[test]
    fn logs_with_one_prefix_pass_whatever_follows() {
        let (one, other) = (log(&[b"a", b"b", b"c"]), log(&[b"a", b"b", b"d"]));
        let leader = Inside { is_leading: true, applied: Index(3), ..follower(&one, 3, 2) };
        look(&[(0, leader), (1, follower(&other, 2, 2)), (1, follower(&other, 2, 2))])
            .expect("slot 3 of node 1 is neither stable nor prepared");
        let later = Inside { view: TermId(4), ..follower(&other, 3, 2) };
        look(&[(0, leader), (1, later)]).expect("in another view");
    }

    #[test]
    fn another_value_or_a_no_op_below_a_sync_point_or_what_is_prepared_is_found() {
        let one = log(&[b"a", b"b", b"c"]);
        for other in [log(&[b"x", b"b", b"c"]), log(&[b"", b"b", b"c"])] {
            found(&[(0, follower(&one, 3, 3)), (1, follower(&other, 3, 3))]);
            found(&[(0, follower(&one, 3, 0)), (1, follower(&other, 3, 0))]);
            let mut short = other;
            // Its slots have left memory, all of them.
            short.rebase(Index(3), short.chain(), Timestamp(3));
            found(&[(0, follower(&one, 3, 3)), (1, follower(&short, 3, 3))]);
        }
    }

    #[test]
    fn what_is_acted_upon_beyond_its_bound_or_taken_back_is_found() {
        let log = log(&[b"a", b"b", b"c"]);
        found(&[(0, follower(&log, 1, 2))]);
        found(&[(0, Inside { applied: Index(3), ..follower(&log, 3, 2) })]);
        found(&[(0, follower(&log, 3, 2)), (0, follower(&log, 2, 2))]);
        let later = Inside { view: TermId(4), ..follower(&log, 2, 2) };
        look(&[(0, follower(&log, 3, 2)), (0, later)]).expect("a view begins with less");
    }
}
