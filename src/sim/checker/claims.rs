//! What members have said to each other, held against what they say later and against what their
//! disks hold when they come back.
//!
//! It reads the bytes that leave a node, with the generated types alone: what the encoder or the
//! replica think of them doesn't matter here. A member that has voted for a view says nothing in an
//! older one; a view starts only once a quorum has voted for it; no sync point is told that no
//! quorum has confirmed (I7); and whatever a member claims to hold durably is durable when it says
//! so (I14) and there after a crash (W1 to W4), unless its disk was lost or damaged.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;

use super::{Checker, Violation};
use crate::base::ids::{Index, PartitionId, TermId};
use crate::base::prng::Prng;
use crate::proto::atomix::map::message::Message as Kind;
use crate::proto::atomix::map::{Indexed, Message, ViewId};
use crate::sim::NodeId;
use crate::sim::again::is_passed_on;
use crate::storage::record::PartitionSnapshot;
use crate::storage::wal::Durability;
use crate::wire::frame::{self, Flag};

/// What a member has said of a partition in all of its lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Claim {
    /// The highest view that it has voted for.
    promised: TermId,
    /// The last view for which it has answered, and the last slot in it.
    answered: (TermId, Index),
}

/// Where a member stands in a partition, by what is durable of its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The highest view promised.
    pub view: TermId,
    /// The highest view adopted.
    pub last_normal: TermId,
    /// The last slot.
    pub last: Index,
    /// It has lost what it had promised, and takes no part.
    pub is_recovering: bool,
}

impl Standing {
    /// As a log's snapshot says.
    #[must_use]
    pub const fn of(state: &PartitionSnapshot) -> Self {
        let PartitionSnapshot { view, last_normal, last, is_recovering, .. } = *state;
        Self { view, last_normal, last, is_recovering }
    }
}

/// One send in so many is followed by a start of what a crash would leave.
const PROBED_ONE_IN: u64 = 400;

/// What all members have said.
#[derive(Debug)]
pub struct Claims {
    prng: Prng,
    /// Members remember what they have promised, at least as long as they live. (Without a log a
    /// group begins with the first view that all of its members can bear: 3.6, R6.)
    has_promises: bool,
    members: BTreeMap<(NodeId, PartitionId), Claim>,
    voters: BTreeMap<(PartitionId, TermId), BTreeSet<NodeId>>,
    /// The views that were said to have started.
    started: BTreeSet<(PartitionId, TermId)>,
    /// What each follower has confirmed at most in each view.
    confirmed: BTreeMap<(PartitionId, TermId), BTreeMap<NodeId, Index>>,
    /// The highest slot up to which a quorum was as its leader, in some view.
    covered: BTreeMap<PartitionId, Index>,
}

/// What a message claims.
enum Said {
    Vote(TermId),
    Holds(TermId, Index),
    /// The same, and that these slots are as the leader's.
    Confirms(TermId, Index),
    Start(TermId),
    /// All slots up to here are stable.
    Stable(TermId, Index),
}

impl Claims {
    /// Nothing was said yet.
    #[must_use]
    pub fn new(seed: u64, durability: Durability) -> Self {
        Self {
            prng: Prng::new(seed, "claims"),
            has_promises: durability != Durability::None,
            members: BTreeMap::new(),
            voters: BTreeMap::new(),
            started: BTreeSet::new(),
            confirmed: BTreeMap::new(),
            covered: BTreeMap::new(),
        }
    }

    /// Bytes leave a node for another one: whole frames. `quorum_count`: of the group. `durable`:
    /// where the node stands by what is durable; `None`: nothing needs to be. Returns whether it
    /// should be looked now what a start would find: that takes too long to be done each time, but
    /// for votes.
    ///
    /// # Errors
    /// If something contradicts what was said before, or isn't durable.
    pub fn on_sent(
        &mut self,
        node: NodeId,
        mut bytes: &[u8],
        quorum_count: usize,
        durable: impl Fn(PartitionId) -> Option<Standing>,
    ) -> Result<bool, Violation> {
        let mut is_new_vote = false;
        let wrong = |what: String| {
            Violation::new(Checker::Sense, format!("node {node} sends what nobody reads: {what}"))
        };
        loop {
            let next = frame::next(bytes).map_err(|error| wrong(error.to_string()))?;
            let Some((header, payload)) = next else { break };
            let end = payload.end;
            if header.flag == Flag::Message {
                let message = Message::decode(&bytes[payload]);
                let message = message.map_err(|error| wrong(error.to_string()))?;
                is_new_vote |= self.on_message(node, &message, quorum_count, &durable)?;
            }
            bytes = &bytes[end..];
        }
        match bytes.is_empty() {
            true => Ok(is_new_vote || self.prng.one_in(PROBED_ONE_IN)),
            false => Err(wrong("a part of a frame".to_owned())),
        }
    }

    fn on_message(
        &mut self,
        node: NodeId,
        message: &Message,
        quorum_count: usize,
        durable: &impl Fn(PartitionId) -> Option<Standing>,
    ) -> Result<bool, Violation> {
        let name = message.target.as_ref().map_or("", |target| &target.name);
        let partition = name.strip_prefix('#').and_then(|number| number.parse().ok());
        let (Some(partition), Some(said)) = (partition.map(PartitionId), said(message)) else {
            return Ok(false);
        };
        if let Some(standing) = durable(partition) {
            is_durable(node, partition, &said, standing)?;
        }
        match said {
            Said::Vote(term) => {
                let claim = self.members.entry((node, partition)).or_default();
                claim.promised = claim.promised.max(term);
                return Ok(self.voters.entry((partition, term)).or_default().insert(node));
            }
            Said::Holds(term, index) => self.on_held((node, partition), term, index)?,
            Said::Confirms(term, index) => {
                self.on_held((node, partition), term, index)?;
                self.on_confirmed((node, partition), term, index, quorum_count);
            }
            Said::Start(term) => self.on_start((node, partition), term, quorum_count)?,
            Said::Stable(term, index) => {
                let covered = self.covered.get(&partition).copied().unwrap_or_default();
                if index > covered {
                    let what = format!(
                        "node {node} says in view {term} that partition {partition} is stable up \
                         to slot {index}; a quorum has confirmed slot {covered}"
                    );
                    return Err(Violation::new(Checker::SyncPrefix, what));
                }
            }
        }
        Ok(false)
    }

    /// A member answers for all slots up to `index` in a view.
    fn on_held(
        &mut self,
        (node, partition): (NodeId, PartitionId),
        term: TermId,
        index: Index,
    ) -> Result<(), Violation> {
        let claim = self.members.entry((node, partition)).or_default();
        if self.has_promises && term < claim.promised {
            let what = format!(
                "node {node} answers for slot {index} of partition {partition} in view {term}, and \
                 has voted for view {}",
                claim.promised
            );
            return Err(Violation::new(Checker::Promise, what));
        }
        claim.answered = claim.answered.max((term, index));
        Ok(())
    }

    /// A follower is as its leader up to `index`. The leader itself makes the quorum whole: it
    /// proposes nothing that isn't durable (Y1).
    fn on_confirmed(
        &mut self,
        (node, partition): (NodeId, PartitionId),
        term: TermId,
        index: Index,
        quorum_count: usize,
    ) {
        let confirmed = self.confirmed.entry((partition, term)).or_default();
        let known = confirmed.entry(node).or_default();
        *known = index.max(*known);
        let mut indexes: Vec<Index> = confirmed.values().copied().collect();
        indexes.sort_unstable_by(|one, other| other.cmp(one));
        let others_count = quorum_count - 1;
        if let Some(index) = others_count.checked_sub(1).and_then(|place| indexes.get(place)) {
            let covered = self.covered.entry(partition).or_default();
            *covered = (*covered).max(*index);
        }
    }

    /// A leader says that its view has started.
    fn on_start(
        &mut self,
        (node, partition): (NodeId, PartitionId),
        term: TermId,
        quorum_count: usize,
    ) -> Result<(), Violation> {
        let is_first = self.started.insert((partition, term));
        let voters = self.voters.entry((partition, term)).or_default();
        // The leader sends its own vote to nobody.
        voters.insert(node);
        if self.has_promises && is_first && voters.len() < quorum_count {
            let what = format!(
                "node {node} starts view {term} of partition {partition} with the votes of \
                 {voters:?} alone"
            );
            return Err(Violation::new(Checker::Votes, what));
        }
        Ok(())
    }

    /// A member of a group that survives crashes with its disk has come back.
    ///
    /// # Errors
    /// If it lacks what it had claimed to hold.
    pub fn recovered(&self, node: NodeId, found: &PartitionSnapshot) -> Result<(), Violation> {
        let partition = found.partition;
        let Some(&Claim { promised, answered }) = self.members.get(&(node, partition)) else {
            return Ok(());
        };
        let broken = if found.view < promised {
            Some(format!("voted for view {promised}, and knows of {}", found.view))
        } else if (found.last_normal, found.last) < answered {
            let ((term, index), found) = (answered, (found.last_normal, found.last));
            Some(format!(
                "answered for slot {index} in view {term}, and is at slot {} of view {}",
                found.1, found.0
            ))
        } else {
            None
        };
        let Some(broken) = broken else { return Ok(()) };
        let what = format!("node {node} had, in partition {partition}, {broken}");
        Err(Violation::new(Checker::Durability, what))
    }

    /// A start has found that a member lost what it had promised in a partition, and says so to the
    /// others: what it said before counts for nothing (3.6).
    pub fn forget_partition(&mut self, node: NodeId, partition: PartitionId) {
        self.members.remove(&(node, partition));
    }

    /// What a member had said can't be expected of it any more: its disk was lost or damaged, or
    /// its process is gone and hadn't waited for the disk. From then on it counts as another life.
    pub fn forget_member(&mut self, node: NodeId) {
        self.members.retain(|(other, _), _| *other != node);
    }
}

/// That what is said is durable. One that recovers claims nothing until it has adopted a view.
fn is_durable(
    node: NodeId,
    partition: PartitionId,
    said: &Said,
    standing: Standing,
) -> Result<(), Violation> {
    let Standing { view, last_normal, last, .. } = standing;
    let what = match *said {
        Said::Vote(term) if view < term => format!("votes for view {term}"),
        Said::Start(term) if last_normal < term => format!("starts view {term}"),
        Said::Holds(term, index) | Said::Confirms(term, index)
            if (last_normal, last) < (term, index) =>
        {
            format!("answers for slot {index} in view {term}")
        }
        _ => return Ok(()),
    };
    let what = format!(
        "node {node} {what} of partition {partition}, and of that is durable only {standing:?}"
    );
    Err(Violation::new(Checker::Durability, what))
}

/// What a message claims; `None`: nothing that is checked here.
fn said(message: &Message) -> Option<Said> {
    let term = |view: &Option<ViewId>| view.as_ref().map(|view| TermId(view.term_id));
    let holds = |view, index| term(view).map(|term| Said::Holds(term, Index(index)));
    if is_passed_on(message) {
        // No claim of a replica.
        return None;
    }
    match message.message.as_ref()? {
        Kind::ViewChange(vote) => term(&vote.view_id).map(Said::Vote),
        Kind::StartView(start) => term(&start.view_id).map(Said::Start),
        Kind::CommandResponse(response) => holds(&response.view_id, response.index),
        Kind::GapCommitResponse(response) => holds(&response.view_id, response.index),
        Kind::SyncResponse(response) => {
            let index = Index(response.index);
            term(&response.view_id).map(|term| Said::Confirms(term, index))
        }
        Kind::SyncCommit(commit) => {
            let index = Index(commit.sync_point);
            term(&commit.view_id).map(|term| Said::Stable(term, index))
        }
        Kind::QueryResponse(response) => {
            let index = Indexed::decode(response.value.clone()).ok()?.index;
            holds(&response.view_id, index)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::proto::atomix::map::{
        CommandResponse, StartView, SyncCommit, SyncResponse, ViewChange,
    };
    use crate::proto::atomix::primitive::Name;

    const PARTITION: PartitionId = PartitionId(3);
    const QUORUM: usize = 2;

    fn view(term_id: u64) -> Option<ViewId> {
        Some(ViewId { term_id, ..ViewId::default() })
    }

    fn frames(kinds: &[Kind]) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        for kind in kinds {
            let name = format!("#{PARTITION}");
            let target = Some(Name { name, namespace: String::new() });
            let message = Message { target, message: Some(kind.clone()) };
            frame::encode(&mut bytes, Flag::Message, &message);
        }
        bytes.to_vec()
    }

    fn vote(term: u64) -> Kind {
        Kind::ViewChange(ViewChange { view_id: view(term), ..ViewChange::default() })
    }

    fn start(term: u64) -> Kind {
        Kind::StartView(StartView { view_id: view(term), ..StartView::default() })
    }

    fn ack(term: u64, index: u64) -> Kind {
        let view_id = view(term);
        Kind::CommandResponse(CommandResponse { view_id, index, ..CommandResponse::default() })
    }

    fn send(claims: &mut Claims, node: u8, kinds: &[Kind]) -> Result<(), Violation> {
        claims.on_sent(NodeId(node), &frames(kinds), QUORUM, |_| None).map(|_| ())
    }

    fn confirmation(term: u64, index: u64) -> Kind {
        let view_id = view(term);
        Kind::SyncResponse(SyncResponse { view_id, index, ..SyncResponse::default() })
    }

    fn stable(term: u64, sync_point: u64) -> Kind {
        let view_id = view(term);
        Kind::SyncCommit(SyncCommit { view_id, sync_point, ..SyncCommit::default() })
    }

    #[test]
    fn claim_that_is_not_durable_when_it_leaves_is_found() {
        let (view, last_normal, last) = (TermId(3), TermId(2), Index(7));
        let standing = Standing { view, last_normal, last, is_recovering: false };
        let send = |kind: Kind| {
            let mut claims = Claims::new(1, Durability::Sync);
            for voter in [1, 2] {
                claims.on_sent(NodeId(voter), &frames(&[vote(2), vote(3)]), QUORUM, |_| None)?;
            }
            let durable = |of| (of == PARTITION).then_some(standing);
            claims.on_sent(NodeId(0), &frames(&[kind]), QUORUM, durable).map(|_| ())
        };
        for kind in [ack(2, 7), ack(1, 9), vote(3), start(2), confirmation(2, 7)] {
            send(kind).expect("it is durable");
        }
        for kind in [ack(2, 8), ack(3, 1), vote(4), start(3), confirmation(2, 8)] {
            let violation = send(kind).expect_err("it isn't");
            assert_eq!(violation.checker, Checker::Durability);
        }
    }

    #[test]
    fn sync_point_that_no_quorum_has_confirmed_is_found() {
        const QUORUM_OF_FIVE: usize = 3;
        let mut claims = Claims::new(1, Durability::Sync);
        let mut send = |node: u8, kind: Kind| {
            claims.on_sent(NodeId(node), &frames(&[kind]), QUORUM_OF_FIVE, |_| None).map(|_| ())
        };
        send(1, confirmation(2, 9)).expect("one of two that it takes");
        let violation = send(0, stable(2, 1)).expect_err("the leader and one follower");
        assert_eq!(violation.checker, Checker::SyncPrefix);
        send(1, confirmation(2, 8)).expect("the same one again");
        send(2, confirmation(3, 9)).expect("in another view");
        send(0, stable(2, 9)).expect_err("in no view a quorum");
        send(3, confirmation(2, 7)).expect("the second");
        send(0, stable(2, 7)).expect("a quorum has confirmed it");
        send(4, stable(4, 7)).expect("a later leader knows it");
        send(0, stable(2, 8)).expect_err("one follower is behind");
    }

    #[test]
    fn answer_in_an_older_view_than_one_voted_for_is_found() {
        let mut claims = Claims::new(1, Durability::Sync);
        send(&mut claims, 1, &[ack(1, 4), vote(3), ack(3, 5)]).expect("views grow");
        let violation = send(&mut claims, 1, &[ack(2, 6)]).expect_err("it has voted for view 3");
        assert_eq!(violation.checker, Checker::Promise);
        send(&mut claims, 2, &[ack(2, 6)]).expect("another member has promised nothing");
    }

    #[test]
    fn view_that_starts_without_a_quorum_of_votes_is_found() {
        let mut claims = Claims::new(1, Durability::Sync);
        let violation = send(&mut claims, 0, &[start(4)]).expect_err("nobody has voted");
        assert_eq!(violation.checker, Checker::Votes);
        let mut claims = Claims::new(1, Durability::Sync);
        send(&mut claims, 1, &[vote(4)]).expect("a vote");
        send(&mut claims, 0, &[start(4), start(4)]).expect("a vote, and its own");
    }

    #[test]
    fn disk_that_holds_less_than_was_claimed_is_found() {
        let mut claims = Claims::new(1, Durability::Sync);
        send(&mut claims, 1, &[ack(2, 7), vote(3)]).expect("nothing is wrong");
        let found = |view, last_normal, last| {
            let (view, last_normal, last) = (TermId(view), TermId(last_normal), Index(last));
            PartitionSnapshot { view, last_normal, last, ..PartitionSnapshot::empty(PARTITION) }
        };
        claims.recovered(NodeId(1), &found(3, 2, 7)).expect("all is there");
        claims.recovered(NodeId(1), &found(3, 3, 5)).expect("a later view may be shorter");
        for less in [found(2, 2, 7), found(3, 2, 6), found(3, 1, 9)] {
            let violation = claims.recovered(NodeId(1), &less).expect_err("something is missing");
            assert_eq!(violation.checker, Checker::Durability);
        }
        claims.forget_member(NodeId(1));
        claims.recovered(NodeId(1), &found(0, 0, 0)).expect("nothing is expected");
    }

    #[test]
    fn what_is_no_frame_is_found() {
        let mut claims = Claims::new(1, Durability::Sync);
        let mut bytes = frames(&[vote(3)]);
        bytes.pop();
        let sent = claims.on_sent(NodeId(0), &bytes, QUORUM, |_| None);
        let violation = sent.expect_err("a part is missing");
        assert_eq!(violation.checker, Checker::Sense);
    }
}
