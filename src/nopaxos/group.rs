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
        Self { partition, me: member_id(me), members }
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
        let count = u64_from(self.count());
        let place = (term.0 % count + u64::from(self.partition.0)) % count;
        member_id(usize_from(place))
    }

    /// The sequencer of a term: its leader.
    #[must_use]
    pub fn sequencer(&self, term: TermId) -> MemberId {
        self.leader(term)
    }
}

fn member_id(place: usize) -> MemberId {
    MemberId(u8::try_from(place).expect("a group has at most 9 members"))
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
    fn any_two_quorums_share_a_member() {
        for count in 1..=5 {
            assert!(2 * group(0, count).quorum_count() > count);
        }
    }
}
