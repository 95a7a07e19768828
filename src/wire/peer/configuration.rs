//! The digest of what all members of a cluster must be told alike. Two members whose digests differ
//! would send messages to the wrong partitions, count quorums of other sets or trust promises that
//! were never made durable; so they don't talk to each other.

use crate::base::cast;
use crate::base::checksum::digest128;
use crate::base::cluster::Cluster;
use crate::storage::wal::Durability;

/// What all members of a cluster must be told alike. Addresses aren't among it.
#[derive(Clone, Copy, Debug)]
pub struct Configuration<'a> {
    /// The members, and how many of them hold each partition.
    pub cluster: &'a Cluster,
    /// How many partitions there are.
    pub partition_count: u32,
    /// When a member's promise is one.
    pub durability: Durability,
    /// How many places behind its leader the sequencer of a partition stands; 0: it is the leader.
    pub sequencer_offset: u8,
}

/// What the digest is of, so that a later one is of something else.
const DOMAIN: &[u8] = b"p2pmap configuration 1";

impl Configuration<'_> {
    /// Its digest. Equal configurations of all members, and only those, have equal ones.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let Self { cluster, partition_count, durability, sequencer_offset } = *self;
        let durability = match durability {
            Durability::Sync => 1,
            Durability::Async => 2,
            Durability::None => 3,
        };
        let mut bytes = DOMAIN.to_vec();
        bytes.extend_from_slice(&partition_count.to_le_bytes());
        bytes.extend_from_slice(&[durability, sequencer_offset]);
        put_count(&mut bytes, cluster.replication_factor());
        put_count(&mut bytes, cluster.count());
        for node in cluster.nodes() {
            let name = cluster.name(node);
            put_count(&mut bytes, name.len());
            bytes.extend_from_slice(name.as_bytes());
        }
        cast::low_u64(digest128(&bytes))
    }
}

/// A length before what it is of: no two lists have the same bytes.
fn put_count(bytes: &mut Vec<u8>, count: usize) {
    bytes.extend_from_slice(&cast::u32_from(count).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(names: &[&str], me: &str, replication: usize, rest: (u32, Durability, u8)) -> u64 {
        let names = names.iter().map(ToString::to_string).collect();
        let cluster = Cluster::new(names, me, replication);
        let (partition_count, durability, sequencer_offset) = rest;
        let configuration =
            Configuration { cluster: &cluster, partition_count, durability, sequencer_offset };
        configuration.hash()
    }

    #[test]
    fn whatever_members_must_agree_on_changes_the_hash() {
        let usual = (64, Durability::Sync, 0);
        let hash_of_usual = hash(&["a", "b", "c"], "a", 3, usual);
        assert_eq!(hash_of_usual, hash(&["a", "b", "c"], "b", 3, usual), "who looks is no part");
        let others = [
            hash(&["a", "b", "d"], "a", 3, usual),
            hash(&["a", "b", "c", "d"], "a", 3, usual),
            hash(&["a", "bc", "d"], "a", 3, usual),
            hash(&["ab", "c", "d"], "ab", 3, usual),
            hash(&["a", "b", "c"], "a", 2, usual),
            hash(&["a", "b", "c"], "a", 3, (128, Durability::Sync, 0)),
            hash(&["a", "b", "c"], "a", 3, (64, Durability::Async, 0)),
            hash(&["a", "b", "c"], "a", 3, (64, Durability::None, 0)),
            hash(&["a", "b", "c"], "a", 3, (64, Durability::Sync, 1)),
        ];
        for (at, other) in others.iter().enumerate() {
            assert_ne!(*other, hash_of_usual, "{at}");
            assert_eq!(others.iter().filter(|hash| *hash == other).count(), 1, "{at}");
        }
    }

    #[test]
    fn hash_of_a_configuration_does_not_change_between_releases() {
        let hash = hash(&["a", "b", "c"], "a", 3, (64, Durability::Sync, 0));
        assert_eq!(hash, 6_337_252_163_276_856_444);
    }
}
