//! Are the replicas equal? Their digests at the same indexes are.
//!
//! Members are asked again and again, for none of them stands still for the others: what each of
//! them said of an index stays true, so an answer of now is compared with those of before.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::error::ClientError;
use super::members::Members;
use super::nodes::Deadline;
use crate::proto::p2pmap::v1::NodeStatus;

/// What came of comparing all replicas.
#[derive(Debug)]
pub struct Verification {
    /// The members, in the order of names.
    pub members: Vec<String>,
    /// Those that did not answer the last time.
    pub unreached: Vec<(String, ClientError)>,
    /// Each partition.
    pub partitions: Vec<(u32, Verdict)>,
}

/// What came of comparing the replicas of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All members had the same state at this index, and wherever else two of them were compared.
    Equal {
        /// The highest such index.
        index: u64,
    },
    /// They had not.
    Different {
        /// The lowest index at which that was seen.
        index: u64,
        /// Who had which digest there.
        groups: Vec<Group>,
    },
    /// There was no index at which all members said something.
    Incomparable,
}

/// Members with the same state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The digest of the state.
    pub digest: Bytes,
    /// The members, in the order of names.
    pub members: Vec<String>,
}

/// What one member said of one partition: digests by index.
type Known = BTreeMap<u64, Bytes>;

impl Verification {
    /// Whether all members were compared and are equal.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        let is_equal = |(_, verdict): &(u32, Verdict)| matches!(verdict, Verdict::Equal { .. });
        self.unreached.is_empty()
            && !self.partitions.is_empty()
            && self.partitions.iter().all(is_equal)
    }

    /// How many partitions have such a verdict.
    #[must_use]
    pub fn count(&self, is_meant: impl Fn(&Verdict) -> bool) -> usize {
        self.partitions.iter().filter(|(_, verdict)| is_meant(verdict)).count()
    }
}

/// Asks all members until each partition can be compared, or `patience` ends.
pub fn verify(members: &mut Members, patience: Duration) -> Verification {
    let names = members.names();
    let mut known: BTreeMap<u32, BTreeMap<String, Known>> = BTreeMap::new();
    let mut deadline = Deadline::after(patience);
    loop {
        let mut unreached = Vec::new();
        for (name, status) in members.ask_each(super::Client::digests) {
            match status {
                Ok(status) => learn(&mut known, &name, status),
                Err(error) => unreached.push((name, error)),
            }
        }
        let compare = |(partition, known): (&u32, &BTreeMap<String, Known>)| {
            (*partition, compare(&names, known))
        };
        let partitions: Vec<(u32, Verdict)> = known.iter().map(compare).collect();
        let is_over = |(_, verdict): &(u32, Verdict)| *verdict != Verdict::Incomparable;
        let is_whole = !partitions.is_empty() && partitions.iter().all(is_over);
        if is_whole && unreached.is_empty() || !deadline.pause() {
            return Verification { members: names, unreached, partitions };
        }
    }
}

fn learn(known: &mut BTreeMap<u32, BTreeMap<String, Known>>, member: &str, status: NodeStatus) {
    for partition in status.partitions {
        let of_partition = known.entry(partition.partition).or_default();
        let of_member = of_partition.entry(member.to_owned()).or_default();
        of_member.extend(partition.digests.into_iter().map(|found| (found.index, found.digest)));
    }
}

/// Compares what members said of one partition.
fn compare(members: &[String], known: &BTreeMap<String, Known>) -> Verdict {
    let mut by_index: BTreeMap<u64, Vec<Group>> = BTreeMap::new();
    for (name, digests) in known {
        for (index, digest) in digests {
            let groups = by_index.entry(*index).or_default();
            match groups.iter_mut().find(|group| group.digest == *digest) {
                Some(group) => group.members.push(name.clone()),
                None => groups.push(Group { digest: digest.clone(), members: vec![name.clone()] }),
            }
        }
    }
    let different = by_index.iter().find(|(_, groups)| groups.len() > 1);
    if let Some((index, groups)) = different {
        return Verdict::Different { index: *index, groups: groups.clone() };
    }
    let is_of_all = |groups: &[Group]| {
        members.len() > 1 && groups.iter().any(|group| group.members.len() == members.len())
    };
    match by_index.iter().rfind(|(_, groups)| is_of_all(groups)) {
        Some((index, _)) => Verdict::Equal { index: *index },
        None => Verdict::Incomparable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members with digests, each written as a letter, by index.
    fn verdict(known: &[(&str, &[(u64, &'static str)])]) -> Verdict {
        let names: Vec<String> = known.iter().map(|(name, _)| (*name).to_owned()).collect();
        let known = known.iter().map(|(name, digests)| {
            let digests = digests.iter().map(|(index, digest)| (*index, Bytes::from(*digest)));
            ((*name).to_owned(), digests.collect())
        });
        compare(&names, &known.collect())
    }

    #[test]
    fn replicas_are_equal_at_the_highest_index_of_all() {
        let known: [(&str, &[(u64, &str)]); 3] = [
            ("a", &[(1_024, "x"), (2_048, "y"), (3_072, "z")]),
            ("b", &[(1_024, "x"), (2_048, "y"), (2_050, "w")]),
            ("c", &[(2_048, "y"), (3_072, "z")]),
        ];
        assert_eq!(verdict(&known), Verdict::Equal { index: 2_048 });
    }

    #[test]
    fn one_difference_of_two_members_counts_more_than_all_that_is_equal() {
        let known: [(&str, &[(u64, &str)]); 3] = [
            ("a", &[(1_024, "x"), (2_048, "y"), (9, "q")]),
            ("b", &[(1_024, "x"), (2_048, "Y"), (3_072, "Z")]),
            ("c", &[(1_024, "x"), (3_072, "z")]),
        ];
        let group = |digest: &'static str, member: &str| Group {
            digest: Bytes::from(digest),
            members: vec![member.to_owned()],
        };
        let groups = vec![group("y", "a"), group("Y", "b")];
        assert_eq!(verdict(&known), Verdict::Different { index: 2_048, groups });
    }

    #[test]
    fn what_not_all_members_said_is_not_compared() {
        for known in [
            &[("a", &[(1, "x")][..]), ("b", &[(1, "x")]), ("c", &[])][..],
            &[("a", &[(1, "x")]), ("b", &[(2, "x")])],
            &[("a", &[(1, "x")])],
            &[("a", &[]), ("b", &[])],
        ] {
            assert_eq!(verdict(known), Verdict::Incomparable, "{known:?}");
        }
    }
}
