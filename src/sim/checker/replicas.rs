//! The replicas of a partition: each keeps its promises, from turn to turn and from life to life,
//! and all of them agree on what is stable.
//!
//! An observer: hosts tell it what they see of their shards, each turn, and what their starts find.
//! With one member it holds a replica against its own former lives; with several, all against all.
//!
//! # What a view must begin with
//!
//! All that was committed in *lower* views (I1), and of what higher ones commit it can know
//! nothing: a member that stood still while it had the votes of a quorum for view 2 in hand begins
//! that view when it goes on, though the others have long left it for view 3 and committed there.
//! That is harmless, and it is bound to happen: whoever has left view 2 takes no part in it, so
//! nothing will be committed there. So of each slot it is remembered in which view it was committed
//! at the latest: the one in which a client was told of it, and the one in which a replica was that
//! held it as stable. Only a higher view must begin with it. The lowest such view counts, and
//! whichever comes first is held against the other: what is committed in view 1, and seen only
//! after view 2 has begun, must be part of that beginning, too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::durability::Acknowledged;
use super::sync_prefix::Prefixes;
use super::{Checker, Violation};
use crate::base::chain::Chain;
use crate::base::ids::{Index, MessageId, PartitionId, TermId};
use crate::base::time::Timestamp;
use crate::map::digest::StateDigest;
use crate::nopaxos::message::LogSummary;
use crate::nopaxos::replica::log::{Log, Slot};
use crate::nopaxos::{Replica, Status};
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

impl SlotContent {
    fn of(slot: &Slot) -> Self {
        let Slot { message_id, timestamp, ref value, .. } = *slot;
        Self::new(message_id, timestamp, value.as_deref())
    }

    fn new(message_id: MessageId, timestamp: Timestamp, value: Option<&[u8]>) -> Self {
        // A no-op has no time of its own.
        let timestamp = if value.is_some() { timestamp } else { Timestamp(0) };
        Self { message_id, timestamp, value: value.map(word_of) }
    }
}

/// What one replica has shown of itself in its present life.
#[derive(Clone, Copy, Debug)]
struct Shown {
    state: PartitionState,
}

/// All replicas of a run.
#[derive(Debug, Default)]
pub struct Replicas {
    /// Slots that some replica held as stable, and the lowest view in which one did.
    stable: BTreeMap<(PartitionId, Index), (SlotContent, TermId)>,
    /// The state after slots that some replica held as stable.
    digests: BTreeMap<(PartitionId, Index), (StateDigest, NodeId)>,
    shown: BTreeMap<(NodeId, PartitionId), Shown>,
    /// What each is doing, and in which view.
    doing: BTreeMap<(NodeId, PartitionId), (Status, TermId)>,
    /// The highest view that each member has ever been in; it survives restarts.
    terms: BTreeMap<(NodeId, PartitionId), TermId>,
    /// How each log stands at sync points and at slots that are as the leader's.
    prefixes: Prefixes,
    /// Up to which slot each process was compared with the others.
    compared: BTreeMap<(NodeId, PartitionId), Index>,
    /// What each view started with, and who said so first.
    starts: BTreeMap<(PartitionId, TermId), (ViewStart, NodeId)>,
    /// The views whose leaders were seen, and the last slot with which each began.
    led: BTreeMap<(PartitionId, TermId), Index>,
}

/// A replica as it is inside.
#[derive(Clone, Copy, Debug)]
pub struct Inside<'a> {
    /// What it replicates.
    pub partition: PartitionId,
    /// What it is doing.
    pub status: Status,
    /// The highest view promised.
    pub view: TermId,
    /// Whether it leads that.
    pub is_leading: bool,
    /// What that started with, and the view whose logs were merged for it.
    pub started: Option<(TermId, &'a LogSummary)>,
    /// Its log.
    pub log: &'a Log,
    /// Slots up to here are as the leader's.
    pub prepared: Index,
    /// Slots up to here are stable.
    pub sync_point: Index,
    /// Slots up to here are executed.
    pub applied: Index,
    /// The digest of what was executed.
    pub digest: StateDigest,
}

impl<'a> Inside<'a> {
    /// As a replica shows itself.
    #[must_use]
    pub fn of(replica: &'a Replica, digest: StateDigest) -> Self {
        Self {
            partition: replica.group().partition(),
            status: replica.status(),
            view: replica.view(),
            is_leading: replica.is_leading(),
            started: replica.started(),
            log: replica.log(),
            prepared: replica.prepared(),
            sync_point: replica.sync_point(),
            applied: replica.applied(),
            digest,
        }
    }
}

impl fmt::Display for Inside<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, status, view, log, sync_point, .. } = self;
        write!(f, "partition {partition}: {status:?} in view {view}")?;
        if let Some((source, start)) = self.started {
            let role = if self.is_leading { "leading" } else { "following" };
            write!(f, ", {role}, begun with slot {} of view {source}", start.last)?;
        }
        write!(f, "; slot {}, stable {sync_point}", log.last())
    }
}

/// What a view starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ViewStart {
    source_term: TermId,
    last: Index,
    no_ops: BTreeSet<Index>,
    chain: Chain,
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
            self.agree_on_state(node, (partition, state.last), digest)?;
        }
        Ok(())
    }

    /// Whether a replica is doing something else than when this was asked last, or in another view.
    pub fn has_moved(&mut self, node: NodeId, replica: &Inside<'_>) -> bool {
        let doing = (replica.status, replica.view);
        self.doing.insert((node, replica.partition), doing) != Some(doing)
    }

    /// A replica is so inside. `acknowledged`: the highest slot of which a client was told in a
    /// view before this one.
    ///
    /// # Errors
    /// If it contradicts itself or others, or lacks what it must have.
    pub fn look_into(
        &mut self,
        node: NodeId,
        replica: &Inside<'_>,
        acknowledged: Index,
    ) -> Result<(), Violation> {
        let Inside { partition, log, sync_point, view, .. } = *replica;
        let compared = self.compared.get(&(node, partition)).copied().unwrap_or_default();
        for index in (compared.max(log.floor()).0 + 1..=sync_point.0).map(Index) {
            if let Some(slot) = log.slot(index) {
                self.hold_stable(node, (partition, index), SlotContent::of(slot), view)?;
            }
        }
        self.compared.insert((node, partition), sync_point.max(compared));
        self.prefixes.look_into(node, replica)?;
        if replica.status != Status::Normal {
            return Ok(());
        }
        if replica.applied == sync_point {
            self.agree_on_state(node, (partition, sync_point), replica.digest)?;
        }
        self.one_start(node, replica)?;
        match replica.started.filter(|_| replica.is_leading) {
            Some((_, start)) if !self.led.contains_key(&(partition, view)) => {
                self.led.insert((partition, view), start.last);
                self.is_complete(node, (replica, start.last), acknowledged)
            }
            _ => Ok(()),
        }
    }

    fn agree_on_state(
        &mut self,
        node: NodeId,
        place: (PartitionId, Index),
        digest: StateDigest,
    ) -> Result<(), Violation> {
        let &mut (known, by) = self.digests.entry(place).or_insert((digest, node));
        if known == digest {
            return Ok(());
        }
        let (partition, index) = place;
        let what = format!(
            "node {node}, partition {partition}: another state at slot {index} than node {by} had \
             there"
        );
        Err(Violation::new(Checker::Replicas, what))
    }

    /// A term has one view, which starts with one log.
    fn one_start(&mut self, node: NodeId, replica: &Inside<'_>) -> Result<(), Violation> {
        let Some((source_term, log)) = replica.started else { return Ok(()) };
        let LogSummary { last, ref no_ops, chain, .. } = *log;
        let start = ViewStart { source_term, last, no_ops: no_ops.clone(), chain };
        let (partition, term) = (replica.partition, replica.view);
        let (known, by) =
            self.starts.entry((partition, term)).or_insert_with(|| (start.clone(), node));
        if *known == start {
            return Ok(());
        }
        let what = format!(
            "node {node}: view {term} of partition {partition} starts with {start:?}, and for node \
             {by} with {known:?}"
        );
        Err(Violation::new(Checker::StartView, what))
    }

    /// A view starts with everything that was stable or answered in lower ones.
    fn is_complete(
        &self,
        node: NodeId,
        (replica, base): (&Inside<'_>, Index),
        acknowledged: Index,
    ) -> Result<(), Violation> {
        let Inside { partition, view: term, log, .. } = *replica;
        let lacks = |index: Index, what: &str| {
            let what = format!(
                "node {node} leads view {term} of partition {partition} without slot {index}, \
                 which {what}"
            );
            Err(Violation::new(Checker::LeaderCompleteness, what))
        };
        if acknowledged > base {
            return lacks(acknowledged, "was answered");
        }
        let floor = log.floor().next();
        let known = self.stable.range((partition, floor)..=(partition, Index(u64::MAX)));
        for ((_, index), (content, by)) in known.filter(|(_, (_, by))| *by < term) {
            let own = log.slot(*index).map(SlotContent::of);
            if *index > base || own.as_ref() != Some(content) {
                let what = format!("was stable in view {by} as {content:?}; it has {own:?}");
                return lacks(*index, &what);
            }
        }
        Ok(())
    }

    /// A client is told in a view that a command has this slot.
    ///
    /// # Errors
    /// If a higher view has begun without it.
    pub fn on_answered(
        &self,
        partition: PartitionId,
        term: TermId,
        index: Index,
    ) -> Result<(), Violation> {
        self.is_part_of_later_views((partition, index), term, "is answered")
    }

    fn is_part_of_later_views(
        &self,
        (partition, index): (PartitionId, Index),
        term: TermId,
        what: &str,
    ) -> Result<(), Violation> {
        let later = self.led.range((partition, term.next())..=(partition, TermId(u64::MAX)));
        match later.map(|((_, later), base)| (*later, *base)).find(|(_, base)| *base < index) {
            None => Ok(()),
            Some((later, base)) => {
                let what = format!(
                    "slot {index} of partition {partition} {what} in view {term}, and view \
                     {later} has begun with slot {base}"
                );
                Err(Violation::new(Checker::LeaderCompleteness, what))
            }
        }
    }

    /// The log's time of the slots that were stable somewhere and have one, in ms.
    pub fn slot_times(&self) -> impl Iterator<Item = ((PartitionId, Index), u64)> + '_ {
        let valued = self.stable.iter().filter(|(_, (content, _))| content.value.is_some());
        valued.map(|(place, (content, _))| (*place, content.timestamp.as_ms()))
    }

    /// A process is gone: of its next life only what is durable is to be expected.
    pub fn forget_life(&mut self, node: NodeId) {
        self.shown.retain(|(other, _), _| *other != node);
        self.doing.retain(|(other, _), _| *other != node);
        self.prefixes.forget_life(node);
        self.compared.retain(|(other, _), _| *other != node);
    }

    /// What a member had promised is gone with its disk.
    pub fn forget_member(&mut self, node: NodeId) {
        self.forget_life(node);
        self.terms.retain(|(other, _), _| *other != node);
    }

    /// A member's start finds a slot that was stable, at the latest in the highest view that the
    /// member has been in.
    ///
    /// # Errors
    /// If another one, or itself in a former life, held something else there.
    pub fn stable_slot(
        &mut self,
        node: NodeId,
        place: (PartitionId, Index),
        message_id: MessageId,
        timestamp: Timestamp,
        value: Option<&[u8]>,
    ) -> Result<(), Violation> {
        let term = self.terms.get(&(node, place.0)).copied().unwrap_or(TermId(u64::MAX));
        self.hold_stable(node, place, SlotContent::new(message_id, timestamp, value), term)
    }

    /// A member in view `term` holds a slot as stable.
    fn hold_stable(
        &mut self,
        node: NodeId,
        place: (PartitionId, Index),
        content: SlotContent,
        term: TermId,
    ) -> Result<(), Violation> {
        let (known, by) = self.stable.entry(place).or_insert((content, TermId(u64::MAX)));
        if *known != content {
            let (partition, index) = place;
            let what = format!(
                "node {node}: slot {index} of partition {partition} is {content:?}, but was \
                 stable as {known:?}"
            );
            return Err(Violation::new(Checker::LogAgreement, what));
        }
        if term >= *by {
            return Ok(());
        }
        *by = term;
        self.is_part_of_later_views(place, term, "is stable")
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
    use crate::base::time::NS_PER_MS;

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

    /// A log of some commands, of which each has its own number as its value.
    fn log(values: &[u64]) -> Log {
        let mut log = Log::new(Index(0), Chain::NONE, Timestamp(0));
        for (value, number) in values.iter().zip(1..) {
            let value = Some(value.to_le_bytes().to_vec().into());
            let (message_id, timestamp) = (MessageId(number), Timestamp(number * NS_PER_MS));
            log.append(Slot { term: TermId(1), message_id, timestamp, value });
        }
        log
    }

    fn inside<'a>(log: &'a Log, start: &'a LogSummary, stable: u64, term: u64) -> Inside<'a> {
        Inside {
            partition: PARTITION,
            status: Status::Normal,
            view: TermId(term),
            is_leading: true,
            started: Some((TermId(term - 1), start)),
            log,
            prepared: Index(stable),
            sync_point: Index(stable),
            applied: Index(stable),
            digest: StateDigest(u128::from(stable)),
        }
    }

    fn found(replicas: &mut Replicas, node: u8, inside: &Inside<'_>, answered: u64) -> Checker {
        let violation = replicas.look_into(NodeId(node), inside, Index(answered));
        violation.expect_err("something is wrong").checker
    }

    #[test]
    fn logs_that_disagree_on_what_is_stable_are_found_and_on_what_is_not_they_may() {
        let (start, one, other) = (start_with(3), log(&[4, 5, 6]), log(&[4, 5, 7]));
        let mut replicas = Replicas::default();
        replicas.look_into(NODE, &inside(&one, &start, 3, 2), Index(3)).expect("the first");
        let follower = Inside { is_leading: false, ..inside(&other, &start, 2, 2) };
        replicas.look_into(NodeId(1), &follower, Index(3)).expect("slot 3 isn't stable here");
        let times: Vec<u64> = replicas.slot_times().map(|(_, ms)| ms).collect();
        assert_eq!(times, [1, 2, 3]);
        let follower = Inside { is_leading: false, ..inside(&other, &start, 3, 2) };
        assert_eq!(found(&mut replicas, 1, &follower, 3), Checker::LogAgreement);
    }

    /// What a view of so many slots begins with.
    fn start_with(last: u64) -> LogSummary {
        LogSummary { last: Index(last), ..LogSummary::default() }
    }

    #[test]
    fn leader_without_what_was_stable_or_answered_in_a_lower_view_is_found() {
        let (two, one) = (start_with(2), start_with(1));
        let (whole, short) = (log(&[4, 5]), log(&[4]));
        let mut replicas = Replicas::default();
        replicas.look_into(NODE, &inside(&whole, &two, 2, 2), Index(2)).expect("the first");
        let of_three = inside(&short, &one, 1, 3);
        assert_eq!(found(&mut replicas, 1, &of_three, 1), Checker::LeaderCompleteness);
        let mut replicas = Replicas::default();
        let of_three = inside(&short, &one, 0, 3);
        assert_eq!(found(&mut replicas, 1, &of_three, 2), Checker::LeaderCompleteness);
        let mut replicas = Replicas::default();
        let of_three = inside(&whole, &one, 0, 3);
        assert_eq!(found(&mut replicas, 1, &of_three, 2), Checker::LeaderCompleteness);
        let mut replicas = Replicas::default();
        replicas.look_into(NodeId(1), &of_three, Index(1)).expect("it has what was answered");
    }

    #[test]
    fn view_that_begins_late_knows_nothing_of_higher_ones_and_all_of_lower_ones() {
        let (two, one) = (start_with(2), start_with(1));
        let (whole, short) = (log(&[4, 5]), log(&[4]));
        let late = inside(&short, &one, 1, 3);
        let mut replicas = Replicas::default();
        replicas.look_into(NODE, &inside(&whole, &two, 2, 4), Index(0)).expect("view 4");
        replicas.look_into(NodeId(1), &late, Index(0)).expect("view 3 knows nothing of view 4");
        let mut replicas = Replicas::default();
        replicas.look_into(NODE, &inside(&whole, &two, 2, 4), Index(0)).expect("view 4");
        let in_two = Inside { is_leading: false, ..inside(&whole, &two, 2, 2) };
        replicas.look_into(NodeId(2), &in_two, Index(0)).expect("it was stable in view 2 even");
        assert_eq!(found(&mut replicas, 1, &late, 0), Checker::LeaderCompleteness);
    }

    #[test]
    fn what_a_lower_view_commits_after_a_view_has_begun_without_it_is_found() {
        let (start, whole) = (start_with(1), log(&[4, 5]));
        let mut replicas = Replicas::default();
        replicas.look_into(NODE, &inside(&log(&[4]), &start, 1, 3), Index(0)).expect("view 3");
        replicas.on_answered(PARTITION, TermId(2), Index(1)).expect("it began with slot 1");
        replicas.on_answered(PARTITION, TermId(3), Index(2)).expect("its own");
        let violation = replicas.on_answered(PARTITION, TermId(2), Index(2)).expect_err("slot 2");
        assert_eq!(violation.checker, Checker::LeaderCompleteness);
        let in_two = Inside { is_leading: false, ..inside(&whole, &start, 2, 2) };
        assert_eq!(found(&mut replicas, 1, &in_two, 0), Checker::LeaderCompleteness);
    }

    #[test]
    fn two_starts_of_a_view_are_found() {
        let log = log(&[4]);
        let (one, mut other) = (LogSummary::default(), LogSummary::default());
        let mut replicas = Replicas::default();
        replicas.look_into(NODE, &inside(&log, &one, 0, 2), Index(0)).expect("the first");
        replicas.look_into(NodeId(1), &inside(&log, &one, 0, 2), Index(0)).expect("the same");
        other.no_ops.insert(Index(1));
        let with_no_op = inside(&log, &other, 0, 2);
        assert_eq!(found(&mut replicas, 2, &with_no_op, 0), Checker::StartView);
        replicas.look_into(NODE, &inside(&log, &other, 0, 3), Index(0)).expect("another view");
    }
}
