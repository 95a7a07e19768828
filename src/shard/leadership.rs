//! Which node leads which partition, as far as that is decided and not voted: a leader hands its
//! place over when it is asked to, and all of its places before its node goes down, so that nobody
//! has to find out that it is gone.
//!
//! Handing over is the members' business ([`Member::transfer_leadership`]): the leader stamps
//! nothing until the other one is as far as itself, for a bounded time, and whoever writes
//! meanwhile is told to try again.
//!
//! [`Member::transfer_leadership`]: crate::nopaxos::Member::transfer_leadership

use super::execute::World;
use super::partition::{Asker, Partition, PartitionView, Recipient, Waiter};
use super::{Core, Effects, RoutedRequest, Shard};
use crate::base::cast::{u64_from, usize_from};
use crate::base::ids::{Index, MemberId, NodeId, PartitionId, TermId};
use crate::base::limits::HANDOVER_INTERVAL_NS;
use crate::base::time::Monotonic;
use crate::nopaxos::Status;
use crate::proto::p2pmap::v1::error::Code;
use crate::wire::request::Kind;
use crate::wire::response;

/// The node is to lead nothing any more.
#[derive(Clone, Debug)]
pub(super) struct Retiring {
    /// When partitions that are led here still are handed over again.
    due: Monotonic,
    /// How often that was tried: each time to another member.
    tries_count: u64,
    /// In which term each partition was handed over first. One that is led here in a later term has
    /// come back: whoever had it retires as well, and it isn't handed to and fro.
    offered: Vec<Option<TermId>>,
}

impl Retiring {
    fn has_come_back(&self, place: usize, term: TermId) -> bool {
        self.offered[place].is_some_and(|offered| offered < term)
    }
}

impl Shard {
    /// Partitions that this node leads.
    #[must_use]
    pub fn led_count(&self) -> usize {
        self.partitions.iter().filter(|found| found.member.replica().is_leading()).count()
    }

    /// Partitions that this node leads though a member of another node that it is connected to
    /// could, but for those that came back after [`Input::Retire`](super::Input::Retire).
    #[must_use]
    pub fn to_be_handed_over_count(&self) -> usize {
        (0..self.partitions.len()).filter(|place| self.is_to_be_handed_over(*place)).count()
    }

    /// Whether there is nothing more to wait for after [`Input::Retire`](super::Input::Retire):
    /// others lead what they can, and can be asked. A host that goes down waits for it, for a
    /// while.
    #[must_use]
    pub fn has_retired(&self) -> bool {
        let is_settled = |Partition { member, view }: &Partition| {
            let connected_count = 1 + heirs(view).count();
            let replica = member.replica();
            replica.status() == Status::Normal || connected_count < view.group.quorum_count()
        };
        self.to_be_handed_over_count() == 0 && self.partitions.iter().all(is_settled)
    }

    fn is_to_be_handed_over(&self, place: usize) -> bool {
        let Partition { member, view } = &self.partitions[place];
        let retiring = self.core.retiring.as_ref();
        member.replica().is_leading()
            && heirs(view).next().is_some()
            && !retiring.is_some_and(|retiring| retiring.has_come_back(place, view.term))
    }

    /// Hands a partition that this node leads over to another node, if that is there and holds it.
    pub(super) fn transfer_leadership(
        &mut self,
        partition: PartitionId,
        to: NodeId,
        effects: &mut impl Effects,
    ) {
        if !self.core.config.partitions.contains(&partition.0) {
            return;
        }
        let view = &self.partitions[self.place(partition)].view;
        let to = heirs(view).find(|member| view.nodes[usize::from(member.0)] == to);
        if let Some(to) = to {
            self.hand_over(partition, to, effects);
        }
    }

    /// A client wishes that another node leads a partition: begun, or refused with the reason.
    pub(super) fn on_transfer(
        &mut self,
        partition: PartitionId,
        request: &RoutedRequest<'_>,
        to: &str,
        effects: &mut impl Effects,
    ) {
        let asker = Asker {
            to: Recipient::Client(request.origin),
            correlation: request.request.correlation,
            kind: Kind::Query,
            deadline: self.deadline(0),
        };
        let Partition { member, view } = &self.partitions[self.place(partition)];
        let nodes = &self.core.config.nodes;
        let heir = nodes.find(to).filter(|node| view.nodes.contains(node));
        let is_there = |node| {
            node == nodes.me() || heirs(view).any(|heir| view.nodes[usize::from(heir.0)] == node)
        };
        let refusal = match heir {
            None => {
                let names: Vec<&str> = view.nodes.iter().map(|node| nodes.name(*node)).collect();
                let names = names.join(", ");
                Some((Code::InvalidArgument, format!("{to:?} doesn't hold it, but {names}")))
            }
            Some(node) if member.replica().is_leading() && !is_there(node) => {
                Some((Code::Unavailable, format!("{to} isn't connected with the leader")))
            }
            Some(_) => None,
        };
        let (term, is_leading) = (view.term, member.replica().is_leading());
        let leader = (member.replica().status() == Status::Normal)
            .then(|| view.group.leader(member.replica().view()));
        if let (None, Some(node), true) = (&refusal, heir, is_leading) {
            self.transfer_leadership(partition, node, effects);
        }
        let (_, mut world) = self.partition(partition, effects);
        match refusal {
            Some((code, message)) => {
                let message = format!("partition {partition}: {message}");
                world.fail(Waiter::Asker(asker), code, &message);
            }
            None if !is_leading => world.refuse_to_lead(Waiter::Asker(asker), leader),
            None => {
                let result = response::leadership_transfer(term);
                world.answer_waiter(Waiter::Asker(asker), Index(0), &result);
            }
        }
    }

    /// From here on this node leads nothing that another one can.
    pub(super) fn retire(&mut self, effects: &mut impl Effects) {
        let due = self.core.now.monotonic;
        let offered = vec![None; self.partitions.len()];
        self.core.retiring.get_or_insert(Retiring { due, tries_count: 0, offered });
        self.hand_all_over(effects);
    }

    /// Hands over what is led here, each partition to another of its members than its neighbours,
    /// if that is due.
    pub(super) fn hand_all_over(&mut self, effects: &mut impl Effects) {
        let now = self.core.now.monotonic;
        let Some(retiring) = self.core.retiring.as_mut().filter(|found| found.due <= now) else {
            return;
        };
        retiring.due = now.after_ns(HANDOVER_INTERVAL_NS);
        let tries_count = retiring.tries_count;
        retiring.tries_count += 1;
        for partition in self.core.config.partitions.clone() {
            let place = self.place(PartitionId(partition));
            if !self.is_to_be_handed_over(place) {
                continue;
            }
            let view = &self.partitions[place].view;
            let heirs: Vec<MemberId> = heirs(view).collect();
            let turn = (u64::from(partition) + tries_count) % u64_from(heirs.len());
            if let Some(retiring) = &mut self.core.retiring {
                retiring.offered[place].get_or_insert(view.term);
            }
            self.hand_over(PartitionId(partition), heirs[usize_from(turn)], effects);
        }
    }

    fn hand_over(&mut self, partition: PartitionId, to: MemberId, effects: &mut impl Effects) {
        let now = self.core.now;
        let place = self.place(partition);
        let Partition { member, view } = &mut self.partitions[place];
        let mut world = World::new(view, &mut self.core, effects);
        member.transfer_leadership(now, to, &mut world);
        self.core.after_step(&mut self.partitions[place]);
    }
}

impl Core {
    /// When something is to be handed over again.
    pub(super) fn handover_due(&self) -> Option<Monotonic> {
        self.retiring.as_ref().filter(|_| !self.closing).map(|retiring| retiring.due)
    }
}

/// The other members that could lead a partition, as far as this node sees.
fn heirs(view: &PartitionView) -> impl Iterator<Item = MemberId> + '_ {
    view.group.others().filter(|member| view.links[usize::from(member.0)].is_connected)
}
