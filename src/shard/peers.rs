//! The other members of the shard's partitions: what comes from them, what goes to them, and the
//! deadlines of what is agreed with them.
//!
//! A node has one shard that holds a partition, whatever the number of its shards: what is said to
//! a member of a partition goes to that shard of that node, over the connection between the two.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;

use super::execute::World;
use super::partition::{Partition, PartitionView};
use super::{Core, Effects, Shard};
use crate::base::cast::usize_from_u32;
use crate::base::ids::{MemberId, NodeId, PartitionId};
use crate::base::limits::BAD_SENDER_COUNT_MAX;
use crate::base::time::{Monotonic, Timestamp};
use crate::nopaxos::message::Message;
use crate::storage::record::PartitionSnapshot;
use crate::storage::recovery::FormerLife;
use crate::storage::wal::{Durability, Standing};
use crate::storage::witness::{Life, RolledBack, Witness};
use crate::wire::peer::decode::Link;
use crate::wire::peer::hello::PartitionState;
use crate::wire::peer::{self, Body, PeerDrop, PeerError, Verdict};

/// When something is due in which partition.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Monotonic, PartitionId)>);

impl Timers {
    /// When the first is due.
    pub(super) fn next(&self) -> Option<Monotonic> {
        self.0.first().map(|(due, _)| *due)
    }

    /// A partition of which something is due.
    fn take_due(&mut self, now: Monotonic) -> Option<PartitionId> {
        let first = *self.0.first().filter(|(due, _)| *due <= now)?;
        self.0.remove(&first);
        Some(first.1)
    }

    fn replace(
        &mut self,
        partition: PartitionId,
        before: Option<Monotonic>,
        after: Option<Monotonic>,
    ) {
        if let Some(due) = before {
            self.0.remove(&(due, partition));
        }
        if let Some(due) = after {
            self.0.insert((due, partition));
        }
    }
}

impl Core {
    /// Notes what has changed with a step of a partition's member.
    #[inline]
    pub(super) fn after_step(&mut self, partition: &mut Partition) {
        self.account(partition);
        let Partition { member, view } = partition;
        if view.installed.is_some() {
            self.record_installed(view, None);
        }
        if let Some(index) = view.covered.take() {
            member.keep_after(index);
        }
        let due = member.next_deadline();
        if due != view.timer {
            let before = std::mem::replace(&mut view.timer, due);
            self.timers.replace(view.group.partition(), before, due);
        }
    }
}

impl Shard {
    /// A frame of another node, over the connection that is present.
    pub(super) fn on_peer_frame(
        &mut self,
        from: NodeId,
        payload: &Bytes,
        effects: &mut impl Effects,
    ) {
        let link =
            Link { cluster: &self.core.config.cluster, peer: self.core.config.nodes.name(from) };
        let partitions = &self.partitions;
        let own = &self.core.config.partitions;
        let group_of = |partition: PartitionId| {
            let place = partition.0.checked_sub(own.start).filter(|_| partition.0 < own.end)?;
            Some(&partitions[usize_from_u32(place)].view.group)
        };
        let received = match peer::decode(payload, link, group_of) {
            Ok(received) => received,
            Err(error) => return self.on_bad_frame(from, &error, effects),
        };
        match received.body {
            Body::Message(message) => {
                self.on_message(received.partition, received.sender, message, effects);
            }
            Body::Forwarded(forwarded) => {
                self.on_forwarded(received.partition, received.sender, forwarded, effects);
            }
        }
    }

    /// What can't be taken is counted, or ends the connection: what follows on it can't be trusted
    /// either.
    fn on_bad_frame(&mut self, from: NodeId, error: &PeerError, effects: &mut impl Effects) {
        match error.verdict() {
            Verdict::Close(_) => effects.refuse_peer(from, error),
            Verdict::Drop(reason) => {
                self.core.drop_frame(reason);
                let peer = &mut self.core.peers[usize::from(from.0)];
                peer.bad_senders_count += u32::from(reason == PeerDrop::BadSender);
                if peer.bad_senders_count >= BAD_SENDER_COUNT_MAX {
                    peer.bad_senders_count = 0;
                    effects.refuse_peer(from, error);
                }
            }
        }
    }

    fn on_message(
        &mut self,
        partition: PartitionId,
        from: MemberId,
        message: Message,
        effects: &mut impl Effects,
    ) {
        self.core.counters.peer_received += 1;
        if !self.core.hears(&message) {
            self.core.counters.peer_unheard += 1;
            return;
        }
        let now = self.core.now;
        let place = self.place(partition);
        let Partition { member, view } = &mut self.partitions[place];
        let life = &mut view.lives[usize::from(from.0)];
        if let Message::Recover { member, attempt } = &message
            && *member == from
        {
            // It says itself which life it is.
            if attempt.incarnation > *life {
                *life = attempt.incarnation;
                let witness = &mut view.witnesses[usize::from(from.0)];
                *witness = Witness::default();
            }
        }
        let life = *life;
        remember(&mut view.witnesses[usize::from(from.0)], &message);
        let mut world = World::new(view, &mut self.core, effects);
        member.on_message(now, (from, life), message, &mut world);
        self.stepped(place);
    }

    /// A connection to a shard of a node is there; `partitions`: what that said of those that both
    /// hold. While the node goes down its members don't hear of it, but what clients ask is passed
    /// on over it.
    pub(super) fn on_peer_connected(
        &mut self,
        (node, life): (NodeId, Life),
        clock: Timestamp,
        partitions: &[PartitionState],
        effects: &mut impl Effects,
    ) {
        self.core.peers[usize::from(node.0)] = Peer::default();
        self.core.rolled_back = None;
        let mut known = Vec::new();
        for state in partitions {
            let Some((place, from)) = self.member_of(state.partition, node) else { continue };
            let view = &mut self.partitions[place].view;
            if state.lives.len() == view.group.count() {
                let (is_new, found) = meet(view, (from, life), state, self.core.config.durability);
                self.core.rolled_back = found.or(self.core.rolled_back);
                known.push((state, place, from, is_new));
            }
        }
        // All of them lie in one log: if it went back for one, it did for all.
        let went_back = self.core.rolled_back.is_some();
        self.core.counters.rolled_back += u64::from(went_back);
        let now = self.core.now;
        for (PartitionState { lives, .. }, place, from, is_new) in known {
            let Partition { member, view } = &mut self.partitions[place];
            view.links[usize::from(from.0)].is_connected = true;
            if self.core.closing {
                continue;
            }
            let mut world = World::new(view, &mut self.core, effects);
            member.on_crash_vector(now, lives, &mut world);
            if went_back && !is_new {
                member.on_rolled_back(now, from, &mut world);
            }
            member.on_peer_clock(now, from, clock);
            member.on_peer_connected(now, from, &mut world);
            self.stepped(place);
        }
    }

    /// How it shows, if it does, that the disk of the node that has connected just now went back in
    /// time. Somebody should look at it: what comes next may not be noticed.
    #[must_use]
    pub fn take_rolled_back(&mut self) -> Option<RolledBack> {
        self.core.rolled_back.take()
    }

    /// Whether all partitions that a node has in common with this shard have met this process of
    /// it, and none since.
    #[must_use]
    pub fn has_met(&self, node: NodeId, life: Life) -> bool {
        self.partitions.iter().all(|Partition { view, .. }| {
            let place = view.nodes.iter().position(|found| *found == node);
            place.is_none_or(|place| view.witnesses[place].life() == Some(life))
        })
    }

    /// The connection to the shard of a node that has these partitions is gone; `refused`: its
    /// process is, too.
    pub(super) fn on_peer_disconnected(
        &mut self,
        node: NodeId,
        partitions: Range<u32>,
        refused: bool,
        effects: &mut impl Effects,
    ) {
        self.give_up_forwards_to(node, &partitions, effects);
        let now = self.core.now;
        for partition in partitions.map(PartitionId) {
            let Some((place, from)) = self.member_of(partition, node) else { continue };
            let Partition { member, view } = &mut self.partitions[place];
            let link = &mut view.links[usize::from(from.0)];
            if std::mem::take(&mut link.is_connected) {
                link.breaks_count = link.breaks_count.wrapping_add(1);
            }
            if self.core.closing {
                continue;
            }
            let mut world = World::new(view, &mut self.core, effects);
            member.on_peer_disconnected(now, from, refused, &mut world);
            self.stepped(place);
        }
    }

    /// What this shard says when a connection to a node begins: how the partitions stand that both
    /// hold, and what is known of their members' lives.
    #[must_use]
    pub fn greeting(&self, node: NodeId) -> Vec<PartitionState> {
        let shared = self.partitions.iter().filter(|found| found.view.nodes.contains(&node));
        let standing = shared.map(|found| {
            let replica = found.member.replica();
            PartitionState {
                partition: found.view.group.partition(),
                term: replica.view(),
                last_normal: replica.last_normal(),
                durable_last: replica.stored(),
                lives: replica.crash_vector().to_vec(),
            }
        });
        standing.collect()
    }

    /// A former life of this node that another one knows, though nothing is stored here: the data
    /// directory isn't the one that it had. (With durability `none` that says nothing.) To be asked
    /// of what a node says before
    /// [`Input::PeerConnected`](super::Input::PeerConnected), unless an operator has said that the
    /// node is to begin a new life in the place of the old one: with that input it does.
    #[must_use]
    pub fn former_life(&self, lives: &[PartitionState]) -> Option<FormerLife> {
        let mut states = self.core.log.state().partitions.iter();
        let keeps = self.core.config.durability != Durability::None;
        if !keeps || !states.all(PartitionSnapshot::is_blank) {
            return None;
        }
        lives.iter().find_map(|found| {
            let place = found.partition.0.checked_sub(self.core.config.partitions.start);
            let Partition { member, view } = self.partitions.get(usize_from_u32(place?))?;
            let known = found.lives.get(usize::from(view.group.me().0))?;
            FormerLife::of(found.partition, member.replica().incarnation(), *known)
        })
    }

    /// Where a partition of this shard lies and which member of it a node is.
    fn member_of(&self, partition: PartitionId, node: NodeId) -> Option<(usize, MemberId)> {
        if !self.core.config.partitions.contains(&partition.0)
            || node == self.core.config.nodes.me()
        {
            return None;
        }
        let place = self.place(partition);
        let member = self.partitions[place].view.nodes.iter().position(|found| *found == node)?;
        Some((place, MemberId(u8::try_from(member).expect("a group has few members"))))
    }

    /// Does everything that is due in partitions.
    pub(super) fn run_timers(&mut self, effects: &mut impl Effects) {
        if self.core.closing {
            return;
        }
        let now = self.core.now;
        // What is due at once again is for the next turn.
        for _ in 0..self.core.timers.0.len() {
            let Some(partition) = self.core.timers.take_due(now.monotonic) else { return };
            let place = self.place(partition);
            let Partition { member, view } = &mut self.partitions[place];
            view.timer = None;
            let mut world = World::new(view, &mut self.core, effects);
            member.on_deadline(now, &mut world);
            self.stepped(place);
        }
    }

    /// After a step of a partition's member.
    fn stepped(&mut self, place: usize) {
        self.core.after_step(&mut self.partitions[place]);
        let partition = self.partitions[place].view.group.partition();
        self.core.reads_due = true;
        self.consider_checkpoint(partition);
    }
}

/// Another node, as this shard sees it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Peer {
    /// Messages that somebody else should have sent, since the last connection began.
    bad_senders_count: u32,
}

/// Keeps in mind what a message says to be durable at its sender.
fn remember(witness: &mut Witness, message: &Message) {
    match *message {
        Message::CommandResponse { term, index, .. }
        | Message::SyncResponse { term, index }
        | Message::GapCommitResponse { term, index } => witness.on_answer(term, index),
        Message::ViewChange { term, .. } => witness.on_vote(term),
        _ => {}
    }
}

/// A member connects, in this life and process. Whether it has begun a life since it was met last;
/// and how it shows, if it does, that its disk went back in time since then.
fn meet(
    view: &mut PartitionView,
    (from, process): (MemberId, Life),
    state: &PartitionState,
    durability: Durability,
) -> (bool, Option<RolledBack>) {
    let place = usize::from(from.0);
    let is_new = state.lives[place] > view.lives[place];
    if is_new {
        // Whatever its disk was, it has begun anew.
        view.witnesses[place] = Witness::default();
    }
    view.lives[place] = state.lives[place];
    let PartitionState { partition, term, last_normal, durable_last: last, .. } = *state;
    let standing = match durability {
        Durability::Sync => Some(Standing { view: term, last_normal, last }),
        // It may lose the end of what it has said, and recovers by itself then.
        Durability::Async => None,
        Durability::None => return (is_new, None),
    };
    (is_new, view.witnesses[place].on_hello(process, partition, standing).err())
}

impl Core {
    /// Whether a message of another member is taken. While the node goes down only answers are, for
    /// those who still wait for them: whatever else is said could have to be logged, and the log
    /// would never come to its end, or has.
    fn hears(&self, message: &Message) -> bool {
        let is_answer = matches!(
            message,
            Message::CommandResponse { .. }
                | Message::QueryResponse { .. }
                | Message::GapCommitResponse { .. }
        );
        !self.closing || is_answer && !self.closed
    }

    fn drop_frame(&mut self, reason: PeerDrop) {
        let place = PeerDrop::ALL.iter().position(|known| *known == reason);
        self.peer_drops[place.expect("all reasons are known")] += 1;
    }
}
