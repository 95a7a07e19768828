//! The nodes of a cluster, and which of them hold which partition.

use super::checksum::digest128;
use super::ids::{NodeId, PartitionId};
use super::limits::{MEMBER_COUNT_MAX, MEMBER_NAME_SIZE_BYTES_MAX, NODE_COUNT_MAX};

/// The nodes of a cluster, seen by one of them. Equal on all nodes but for who looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Sorted bytewise, unique: a [`NodeId`] is a place in it.
    names: Vec<String>,
    me: NodeId,
    replication_factor: usize,
}

impl Cluster {
    /// The cluster of the nodes with these names, each partition held by `replication_factor` of
    /// them, seen by `me`.
    ///
    /// # Panics
    /// If the names aren't sorted and unique or lack `me`, or if a count is out of bounds: a
    /// configuration is checked before a cluster is made of it.
    #[must_use]
    pub fn new(names: Vec<String>, me: &str, replication_factor: usize) -> Self {
        assert!(names.len() <= NODE_COUNT_MAX, "a cluster has too many nodes");
        assert!(names.is_sorted_by(|a, b| a < b), "names are sorted and unique");
        let is_name = |name: &String| (1..=MEMBER_NAME_SIZE_BYTES_MAX).contains(&name.len());
        assert!(names.iter().all(is_name), "a name is neither empty nor too long");
        assert!(
            (1..=names.len().min(MEMBER_COUNT_MAX)).contains(&replication_factor),
            "a partition has at least one member, and no more than there are nodes"
        );
        let me = names.iter().position(|name| name == me).expect("I am one of the nodes");
        Self { names, me: node_id(me), replication_factor }
    }

    /// A cluster of one node.
    #[must_use]
    pub fn alone(me: &str) -> Self {
        Self::new(vec![me.to_owned()], me, 1)
    }

    /// How many nodes there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// How many nodes hold each partition.
    #[must_use]
    pub fn replication_factor(&self) -> usize {
        self.replication_factor
    }

    /// This node.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.names.len()).map(node_id)
    }

    /// A node's name.
    #[must_use]
    pub fn name(&self, node: NodeId) -> &str {
        &self.names[usize::from(node.0)]
    }

    /// The node with this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.names.binary_search_by(|known| known.as_str().cmp(name)).ok().map(node_id)
    }

    /// The nodes that hold a partition, ascending: those with the highest random weights
    /// (rendezvous hashing; Thaler and Ravishankar, 1998), so that a node more or less moves only
    /// the partitions that it has.
    #[must_use]
    pub fn members(&self, partition: PartitionId) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = self.nodes().collect();
        if self.replication_factor < nodes.len() {
            nodes.sort_by_cached_key(|node| std::cmp::Reverse(self.weight(*node, partition)));
            nodes.truncate(self.replication_factor);
            nodes.sort_unstable();
        }
        nodes
    }

    fn weight(&self, node: NodeId, partition: PartitionId) -> u128 {
        let mut bytes = partition.0.to_le_bytes().to_vec();
        bytes.extend_from_slice(self.name(node).as_bytes());
        digest128(&bytes)
    }
}

fn node_id(place: usize) -> NodeId {
    NodeId(u8::try_from(place).expect("the nodes are few enough"))
}

// A node's place fits its id.
const _: () = assert!(NODE_COUNT_MAX <= 256);
const _: () = assert!(MEMBER_COUNT_MAX <= NODE_COUNT_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(count: usize, replication_factor: usize) -> Cluster {
        let names = (0..count).map(|place| format!("node-{place:02}")).collect();
        Cluster::new(names, "node-00", replication_factor)
    }

    #[test]
    fn all_nodes_of_a_small_cluster_hold_all_partitions() {
        let cluster = cluster(3, 3);
        assert_eq!(cluster.members(PartitionId(7)), [NodeId(0), NodeId(1), NodeId(2)]);
        assert_eq!(Cluster::alone("a").members(PartitionId(7)), [NodeId(0)]);
    }

    #[test]
    fn partitions_are_spread_over_the_nodes() {
        let cluster = cluster(5, 3);
        let mut held = [0; 5];
        for partition in 0..1_000 {
            let members = cluster.members(PartitionId(partition));
            assert!(members.is_sorted_by(|a, b| a < b) && members.len() == 3);
            for node in members {
                held[usize::from(node.0)] += 1;
            }
        }
        assert!(held.iter().all(|count| (520..680).contains(count)), "{held:?}");
    }

    #[test]
    fn node_more_takes_partitions_and_moves_no_others() {
        let (five, six) = (cluster(5, 3), cluster(6, 3));
        let mut taken_count = 0;
        for partition in (0..1_000).map(PartitionId) {
            let (before, after) = (five.members(partition), six.members(partition));
            let kept_count = after.iter().filter(|node| before.contains(node)).count();
            assert!(kept_count == 3 || (kept_count == 2 && after.contains(&NodeId(5))));
            taken_count += usize::from(kept_count == 2);
        }
        assert!((420..580).contains(&taken_count), "{taken_count}");
    }

    #[test]
    fn nodes_are_found_by_their_names() {
        let cluster = cluster(12, 3);
        for node in cluster.nodes() {
            assert_eq!(cluster.find(cluster.name(node)), Some(node));
        }
        assert_eq!(cluster.find("node-12"), None);
    }
}
