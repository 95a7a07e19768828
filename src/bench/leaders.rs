//! Who leads which partition, so that requests go straight there: looked up before a load, and not
//! again. What has moved since is passed on by the node that it is sent to.

use std::error::Error;
use std::fmt;
use std::net::SocketAddr;

use crate::base::cast::{u32_from, usize_from_u32};
use crate::wire::route::Router;

/// The leaders of all partitions, among the nodes of a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaders {
    router: Router,
    node_count: usize,
    /// For each partition the place of its leader among the nodes.
    places: Vec<usize>,
}

/// Why requests can't go to leaders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeadersError {
    /// There is no partition.
    NoPartition,
    /// Nobody leads a partition, as far as was told.
    NoLeader {
        /// Which one.
        partition: usize,
    },
    /// The leader of a partition isn't one of the nodes.
    Elsewhere {
        /// Which one.
        partition: usize,
        /// Where its leader listens.
        address: SocketAddr,
    },
}

impl fmt::Display for LeadersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPartition => f.write_str("the node has no partition"),
            Self::NoLeader { partition } => write!(f, "nobody leads partition {partition}"),
            Self::Elsewhere { partition, address } => {
                write!(f, "partition {partition} is led at {address}, which isn't among the nodes")
            }
        }
    }
}

impl Error for LeadersError {}

impl Leaders {
    /// Of a load of `nodes`; `leaders` are where the leaders of all partitions listen, as far as
    /// they are known.
    ///
    /// # Errors
    /// If one isn't known, or isn't among the nodes.
    pub fn among(
        nodes: &[SocketAddr],
        leaders: &[Option<SocketAddr>],
    ) -> Result<Self, LeadersError> {
        if leaders.is_empty() {
            return Err(LeadersError::NoPartition);
        }
        let place = |(partition, address): (usize, &Option<SocketAddr>)| {
            let address = address.ok_or(LeadersError::NoLeader { partition })?;
            let place = nodes.iter().position(|node| *node == address);
            place.ok_or(LeadersError::Elsewhere { partition, address })
        };
        let places = leaders.iter().enumerate().map(place).collect::<Result<_, _>>()?;
        Ok(Self { router: Router::new(u32_from(leaders.len())), node_count: nodes.len(), places })
    }

    /// How many nodes there are.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.node_count
    }

    /// The place among the nodes of who leads a key's partition.
    #[must_use]
    pub fn place_of(&self, key: &[u8]) -> usize {
        self.places[usize_from_u32(self.router.partition_of_key(key).0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn keys_go_to_who_leads_their_partition() {
        // "foo" has slot 12,182 of 16,384: the third of four partitions.
        let leaders = [3, 3, 1, 2].map(|port| Some(node(port)));
        let leaders = Leaders::among(&[1, 2, 3].map(node), &leaders).unwrap();
        assert_eq!((leaders.place_of(b"foo"), leaders.node_count()), (0, 3));
        let leaders = [3, 3, 2, 1].map(|port| Some(node(port)));
        let leaders = Leaders::among(&[1, 2, 3].map(node), &leaders).unwrap();
        assert_eq!(leaders.place_of(b"foo"), 1);
        // And one with slot 0 goes to the first partition's.
        assert_eq!(leaders.place_of(b""), 2);
    }

    #[test]
    fn leaders_that_are_not_known_or_not_asked_are_named() {
        let nodes = [1, 2].map(node);
        let among = |leaders: &[Option<SocketAddr>]| Leaders::among(&nodes, leaders).unwrap_err();
        assert_eq!(among(&[]), LeadersError::NoPartition);
        assert_eq!(among(&[Some(node(1)), None]), LeadersError::NoLeader { partition: 1 });
        let elsewhere = LeadersError::Elsewhere { partition: 0, address: node(3) };
        assert_eq!(among(&[Some(node(3))]), elsewhere);
    }
}
