//! The connections between the shards of different nodes.
//!
//! A shard of this node and a shard of another one that hold partitions in common have two
//! connections, a [`Lane`] each. The node whose name comes first dials; both send on both, so there
//! is one stream in each direction and lane. A connection opens with a greeting of each side
//! (`secret`: with a proof, if the cluster has a secret), is asked now and then whether the other
//! side is still there, and is dialled again when it breaks, ever later and never at a regular
//! time.
//!
//! ```text
//! dialler:  Connecting -> Greeted ---------------------------------> Open -> gone
//! acceptor: Expecting (-> Leaving, to another core) -> Answered --> Open -> gone
//! ```
//!
//! Each side greets twice. The dialler's second greeting has its proof; and both second ones say
//! what each knows of lives in the very turn from which on it says anything else, so that a message
//! never comes before what its sender knew of them when it was sent (protocol, 3.6).
//!
//! Who dials chooses whether frames are sent raw or inside of gRPC ([`PeerProtocol`]); who accepts
//! sees it by the first bytes. All else is the same for both.
//!
//! What is said to a member is appended to the connection's output like an answer to a client, and
//! goes out with one write per turn for all partitions. What doesn't fit its bound is not said; the
//! protocol says it again.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `table` | which connections there should be and are, and when to dial |
//! | `link` | how far one connection has come |
//! | `secret` | how members prove themselves |
//! | `dial` | turns: dialling, losing, frames of open connections |
//! | `greet` | turns: greetings, and what follows from them |
//! | `carry` | turns: connections whose frames travel inside of gRPC |

mod carry;
mod dial;
mod greet;
pub mod link;
pub mod secret;
pub mod table;

use std::fmt;
use std::net::SocketAddr;

use self::secret::{Challenges, Secret};
use crate::base::cluster::Cluster;
use crate::base::ids::{BootEpoch, NodeId, ShardId};
use crate::wire::peer::hello::{Greeter, Lane};

/// What all shards of a node know of the cluster.
#[derive(Debug)]
pub struct PeerNetwork {
    /// The cluster's name.
    pub name: String,
    /// Its nodes, seen by this one.
    pub cluster: Cluster,
    /// Where they listen, by their ids.
    pub addresses: Vec<SocketAddr>,
    /// How many partitions there are.
    pub partition_count: u32,
    /// The digest of what all nodes must be told alike.
    pub configuration_hash: u64,
    /// How often this node's data directory was opened.
    pub boot_epoch: BootEpoch,
    /// Drawn when the process started.
    pub process_nonce: u64,
    /// With what members prove themselves, if they have to.
    pub secret: Option<Secret>,
    /// What others are asked to prove it.
    pub challenges: Challenges,
    /// What this node speaks to those that it dials. Those that dial it choose for themselves.
    pub protocol: PeerProtocol,
}

/// What a member speaks to another one that it dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerProtocol {
    /// Raw frames.
    Frames,
    /// The same inside of gRPC: `p2pmap.v1.MemberService`.
    Grpc,
}

impl PeerNetwork {
    pub(super) fn greeter(&self) -> Greeter<'_> {
        Greeter {
            name: &self.name,
            cluster: &self.cluster,
            partition_count: self.partition_count,
            configuration_hash: self.configuration_hash,
        }
    }

    /// Whether this node dials that one, rather than the other way round.
    pub(super) fn dials(&self, node: NodeId) -> bool {
        self.cluster.me() < node
    }
}

/// One of the connections that a shard has: to a shard of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WayId {
    /// The node.
    pub node: NodeId,
    /// Its shard.
    pub shard: ShardId,
    /// What is said on it.
    pub lane: Lane,
}

impl fmt::Display for WayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lane = match self.lane {
            Lane::Protocol => "protocol",
            Lane::Bulk => "bulk",
        };
        write!(f, "shard {}, {lane}", self.shard)
    }
}
