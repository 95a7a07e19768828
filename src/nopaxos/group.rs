//! Who the members of a partition are, and who leads and stamps in which term.

use crate::base::cast::{u64_from, usize_from};
use crate::base::ids::{MemberId, PartitionId, TermId};
use crate::base::limits::MEMBER_COUNT_MAX;

/// The members of one partition, seen by one of them.
#[derive(Clone, Debug)]
pub struct Group {
    partition: PartitionId,
    members: Vec<String>,
    me: MemberId,
    /// How many places after the leader the sequencer stands.
    sequencer_offset: u8,
}

impl Group {
    /// The group of `partition` with these `members`, seen by `me`.
    ///
    /// # Panics
    /// If the members are not sorted bytewise and unique, are too many, or lack `me`: the
    /// configuration is checked before a group is made of it.
    #[must_use]
    pub fn new(partition: PartitionId, members: Vec<String>, me: &str) -> Self {
        assert!(members.len() <= MEMBER_COUNT_MAX, "a group has too many members");
        assert!(members.is_sorted_by(|a, b| a < b), "members are sorted and unique");
        let me = members.iter().position(|member| member == me).expect("I am a member");
        Self { partition, me: member_id(me), members, sequencer_offset: 0 }
    }

    /// With the sequencer `offset` places after the leader. The same for all members.
    #[must_use]
    pub fn with_sequencer_offset(self, offset: u8) -> Self {
        Self { sequencer_offset: offset, ..self }
    }

    /// The partition.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// This member.
    #[must_use]
    pub fn me(&self) -> MemberId {
        self.me
    }

    /// A member's name.
    #[must_use]
    pub fn name(&self, member: MemberId) -> &str {
        &self.members[usize::from(member.0)]
    }

    /// How many members there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// How many members decide: a majority, so that any two quorums share a member.
    #[must_use]
    pub fn quorum_count(&self) -> usize {
        self.count() / 2 + 1
    }

    /// The leader of a term: `members[(term + partition) mod n]`. There is no other election.
    #[must_use]
    pub fn leader(&self, term: TermId) -> MemberId {
        member_id(place_of_leader(self.partition, self.count(), term))
    }

    /// The sequencer of a term: its leader, or the member that stands `sequencer_offset` places
    /// after it.
    #[must_use]
    pub fn sequencer(&self, term: TermId) -> MemberId {
        let place = usize::from(self.leader(term).0) + usize::from(self.sequencer_offset);
        member_id(place % self.count())
    }

    /// All members, this one among them.
    pub fn all(&self) -> impl Iterator<Item = MemberId> + use<> {
        (0..self.count()).map(member_id)
    }

    /// All members but this one.
    pub fn others(&self) -> impl Iterator<Item = MemberId> + use<> {
        let me = self.me;
        self.all().filter(move |member| *member != me)
    }

    /// Whether there is nobody else.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.members.len() == 1
    }
}

fn member_id(place: usize) -> MemberId {
    MemberId(u8::try_from(place).expect("a group has at most 9 members"))
}

/// Which of a partition's members leads in a term.
#[must_use]
pub fn place_of_leader(partition: PartitionId, member_count: usize, term: TermId) -> usize {
    let count = u64_from(member_count);
    usize_from((term.0 % count + u64::from(partition.0)) % count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(partition: u32, count: usize) -> Group {
        let members = ["a", "b", "c", "d", "e"][..count].iter().map(ToString::to_string).collect();
        Group::new(PartitionId(partition), members, "a")
    }

    #[test]
    fn leadership_rotates_with_term_and_partition() {
        let leaders = |partition| -> Vec<u8> {
            (1..=4).map(|term| group(partition, 3).leader(TermId(term)).0).collect()
        };
        assert_eq!(leaders(0), [1, 2, 0, 1]);
        assert_eq!(leaders(1), [2, 0, 1, 2]);
    }

    #[test]
    fn sequencer_stands_at_its_distance_from_the_leader() {
        let group = group(0, 3).with_sequencer_offset(1);
        let pairs: Vec<_> = (1..=3)
            .map(TermId)
            .map(|term| (group.leader(term).0, group.sequencer(term).0))
            .collect();
        assert_eq!(pairs, [(1, 2), (2, 0), (0, 1)]);
    }

    #[test]
    fn any_two_quorums_share_a_member() {
        for count in 1..=5 {
            assert!(2 * group(0, count).quorum_count() > count);
        }
    }
}
