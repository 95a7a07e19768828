//! A set of members of one group.

use crate::base::ids::MemberId;
use crate::base::limits::MEMBER_COUNT_MAX;

/// Members of a group, each once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MemberSet(u16);

const _: () = assert!(MEMBER_COUNT_MAX <= 16, "a set has a bit for each member");

impl MemberSet {
    /// Adds a member; whether it is new.
    pub(super) fn insert(&mut self, member: MemberId) -> bool {
        let before = self.0;
        self.0 |= Self::bit(member);
        self.0 != before
    }

    /// Takes a member out.
    pub(super) fn remove(&mut self, member: MemberId) {
        self.0 &= !Self::bit(member);
    }

    /// Whether a member is in it.
    #[must_use]
    pub(super) fn contains(self, member: MemberId) -> bool {
        self.0 & Self::bit(member) != 0
    }

    /// How many there are.
    #[must_use]
    pub(super) fn count(self) -> usize {
        crate::base::cast::usize_from_u32(self.0.count_ones())
    }

    fn bit(member: MemberId) -> u16 {
        1 << member.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_member_counts_once() {
        let mut set = MemberSet::default();
        assert!(set.insert(MemberId(8)) && set.insert(MemberId(0)));
        assert!(!set.insert(MemberId(8)));
        assert_eq!(set.count(), 2);
        set.remove(MemberId(8));
        assert!(set.contains(MemberId(0)) && !set.contains(MemberId(8)));
    }
}
