//! The replicas of a partition: each keeps its promises, from turn to turn and from life to life,
//! and all of them agree on what is stable.
//!
//! An observer: hosts tell it what they see of their shards, each turn, and what their starts find.
//! With one member it holds a replica against its own former lives; with several, all against all.

use std::collections::BTreeMap;

use super::durability::Acknowledged;
use super::{Checker, Violation};
use crate::base::ids::{Index, MessageId, PartitionId, TermId};
use crate::base::time::Timestamp;
use crate::map::digest::StateDigest;
use crate::nopaxos::Status;
use crate::shard::PartitionState;
use crate::sim::NodeId;
use crate::sim::trace::word_of;

/// A slot as it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SlotContent {
    message_id: MessageId,
    /// Of a value.
    timestamp: Timestamp,
    /// The value's digest; `None`: a no-op.
    value: Option<u64>,
}

/// What one replica has shown of itself in its present life.
#[derive(Clone, Copy, Debug)]
struct Shown {
    state: PartitionState,
}

/// All replicas of a run.
#[derive(Debug, Default)]
pub struct Replicas {
    /// Slots that some replica held as stable.
    stable: BTreeMap<(PartitionId, Index), SlotContent>,
    /// The state after slots that some replica held as stable.
    digests: BTreeMap<(PartitionId, Index), (StateDigest, NodeId)>,
    shown: BTreeMap<(NodeId, PartitionId), Shown>,
    /// The highest view that each member has ever been in; it survives restarts.
    terms: BTreeMap<(NodeId, PartitionId), TermId>,
}

impl Replicas {
    /// A replica stands so. `digest`: of what it has executed.
    ///
    /// # Errors
    /// If it contradicts itself or others.
    pub fn observe(
        &mut self,
        node: NodeId,
        partition: PartitionId,
        state: PartitionState,
        digest: StateDigest,
    ) -> Result<(), Violation> {
        let wrong = |what: String| {
            let what = format!("node {node}, partition {partition}: {what}");
            Err(Violation::new(Checker::Replicas, what))
        };
        if state.sync_point > state.last || state.checkpoint > state.sync_point {
            return wrong(format!("watermarks out of order: {state:?}"));
        }
        let before = self.shown.insert((node, partition), Shown { state });
        if let Some(Shown { state: before }) = before {
            if state.sync_point < before.sync_point || state.checkpoint < before.checkpoint {
                return wrong(format!("what was stable isn't: {before:?}, then {state:?}"));
            }
            // Between two views a log is cut: what follows is the next view's.
            let is_in_view = state.status == Status::Normal && before.status == Status::Normal;
            if is_in_view && state.term == before.term && state.last < before.last {
                return wrong(format!("the log became shorter in a term: {before:?}, {state:?}"));
            }
        }
        let term = self.terms.entry((node, partition)).or_default();
        if state.term < *term && state.term > TermId(0) {
            let known = *term;
            return wrong(format!("it was in term {known}, and is in {}", state.term));
        }
        *term = state.term.max(*term);
        if state.status == Status::Normal && state.sync_point == state.last {
            let place = (partition, state.last);
            let &mut (known, by) = self.digests.entry(place).or_insert((digest, node));
            if known != digest {
                let last = state.last;
                return wrong(format!("another state at slot {last} than node {by} had there"));
            }
        }
        Ok(())
    }

    /// A process is gone: of its next life only what is durable is to be expected.
    pub fn forget_life(&mut self, node: NodeId) {
        self.shown.retain(|(other, _), _| *other != node);
    }

    /// What a member had promised is gone with its disk.
    pub fn forget_member(&mut self, node: NodeId) {
        self.forget_life(node);
        self.terms.retain(|(other, _), _| *other != node);
    }

    /// A member holds a slot as stable.
    ///
    /// # Errors
    /// If another one, or itself in a former life, held something else there.
    pub fn stable_slot(
        &mut self,
        node: NodeId,
        (partition, index): (PartitionId, Index),
        message_id: MessageId,
        timestamp: Timestamp,
        value: Option<&[u8]>,
    ) -> Result<(), Violation> {
        // A no-op has no time of its own.
        let timestamp = if value.is_some() { timestamp } else { Timestamp(0) };
        let content = SlotContent { message_id, timestamp, value: value.map(word_of) };
        let known = self.stable.entry((partition, index)).or_insert(content);
        if *known == content {
            return Ok(());
        }
        let what = format!(
            "node {node}: slot {index} of partition {partition} is {content:?}, but was stable as \
             {known:?}"
        );
        Err(Violation::new(Checker::Replicas, what))
    }

    /// That what clients were told of is in every replica, once all of them have come to rest.
    ///
    /// # Errors
    /// If one of them lacks something.
    pub fn hold_all(&self, acknowledged: &Acknowledged) -> Result<(), Violation> {
        self.shown.iter().try_for_each(|((node, partition), shown)| {
            acknowledged.recovered(*node, *partition, shown.state.last)
        })
    }

    /// That all replicas of a partition have shown themselves and are in one state.
    ///
    /// # Errors
    /// How they stand, if they aren't.
    pub fn have_converged(
        &self,
        partition: PartitionId,
        member_count: usize,
    ) -> Result<(), Violation> {
        let shown = self.shown.iter().filter(|((_, of), _)| *of == partition);
        let states: Vec<PartitionState> = shown.map(|(_, shown)| shown.state).collect();
        let is_settled = |state: &PartitionState| {
            state.status == Status::Normal
                && state.sync_point == state.last
                && state.last == states[0].last
        };
        if states.len() == member_count && states.iter().all(is_settled) {
            return Ok(());
        }
        let what = format!("the replicas of partition {partition} don't come to rest: {states:?}");
        Err(Violation::new(Checker::Progress, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(0);
    const PARTITION: PartitionId = PartitionId(2);

    fn state(term: u64, last: u64, sync_point: u64) -> PartitionState {
        PartitionState {
            status: Status::Normal,
            term: TermId(term),
            last: Index(last),
            sync_point: Index(sync_point),
            checkpoint: Index(0),
            entries: 0,
            size_bytes: 0,
        }
    }

    fn observe(replicas: &mut Replicas, states: &[PartitionState]) -> Result<(), Violation> {
        let digest = |state: &PartitionState| StateDigest(u128::from(state.last.0));
        states.iter().try_for_each(|state| replicas.observe(NODE, PARTITION, *state, digest(state)))
    }

    #[test]
    fn replica_that_goes_on_is_fine() {
        let mut replicas = Replicas::default();
        let states = [state(1, 4, 0), state(1, 6, 5), state(2, 6, 6), state(3, 6, 6)];
        observe(&mut replicas, &states).expect("nothing is wrong");
        replicas.have_converged(PARTITION, 1).expect("all is stable");
        replicas.have_converged(PARTITION, 2).expect_err("the other one never showed itself");
        replicas.forget_life(NODE);
        observe(&mut replicas, &[state(4, 6, 3)]).expect("a restart knows less");
    }

    #[test]
    fn each_broken_promise_is_found() {
        let broken: [&[PartitionState]; 5] = [
            &[state(1, 4, 5)],
            &[state(1, 4, 4), state(1, 4, 3)],
            &[state(1, 4, 2), state(1, 3, 2)],
            &[state(2, 4, 4), state(1, 4, 4)],
            &[PartitionState { checkpoint: Index(3), ..state(1, 4, 2) }],
        ];
        for states in broken {
            observe(&mut Replicas::default(), states).expect_err("a promise is broken");
        }
        let mut replicas = Replicas::default();
        observe(&mut replicas, &[state(2, 4, 4)]).expect("nothing is wrong");
        replicas.forget_life(NODE);
        observe(&mut replicas, &[state(1, 4, 4)]).expect_err("a promise survives a restart");
        replicas.forget_member(NODE);
        observe(&mut replicas, &[state(1, 4, 4)]).expect("a lost disk promises nothing");
    }

    #[test]
    fn two_states_after_one_slot_are_found() {
        let mut replicas = Replicas::default();
        let state = state(1, 4, 4);
        replicas.observe(NODE, PARTITION, state, StateDigest(1)).expect("the first");
        replicas.observe(NodeId(1), PARTITION, state, StateDigest(1)).expect("the same");
        replicas.observe(NodeId(2), PARTITION, state, StateDigest(2)).expect_err("another");
    }

    #[test]
    fn stable_slot_that_becomes_another_is_found() {
        let mut replicas = Replicas::default();
        let mut slot = |message_id, at, value: Option<&[u8]>| {
            let place = (PARTITION, Index(7));
            replicas.stable_slot(NODE, place, MessageId(message_id), Timestamp(at), value)
        };
        slot(3, 9, Some(b"value")).expect("the first");
        slot(3, 9, Some(b"value")).expect("the same");
        slot(4, 9, Some(b"value")).expect_err("another command");
        slot(3, 8, Some(b"value")).expect_err("another time");
        slot(3, 9, Some(b"eulav")).expect_err("another value");
        slot(3, 9, None).expect_err("a no-op");
    }
}
