//! `p2pmap.v1.Hello`: the first frame of each direction between members, flag 2. It says who
//! speaks, in which life, and that both mean the same by what they will say.
//!
//! The dialer speaks first. The acceptor's `Hello` answers its challenge, if it has one, and may
//! have one of its own: then the dialer's second frame is its `Hello` [once more], with the proof.
//! How a proof is computed and checked is the business of who handles connections.
//!
//! [once more]: Hello::proving

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use crate::base::cast;
use crate::base::cluster::Cluster;
use crate::base::ids::{BootEpoch, Incarnation, Index, NodeId, PartitionId, ShardId, TermId};
use crate::base::limits::{
    HELLO_PROOF_SIZE_BYTES, HELLO_SIZE_BYTES_MAX, NODE_COUNT_MAX, PARTITION_COUNT_MAX, POSITION_END,
};
use crate::base::time::Timestamp;
use crate::proto::p2pmap::v1;
use crate::proto::reader::Fields;
use crate::wire::error::StatusCode;
use crate::wire::frame::{self, Flag};

/// What this release speaks. Members of another version are refused.
pub const PROTOCOL_VERSION: u32 = 1;

/// A member's greeting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who sends it.
    pub member: NodeId,
    /// The sender's present life.
    pub incarnation: Incarnation,
    /// The latest life that the sender knows of each member; a member that isn't named here has
    /// had none that it knows of.
    pub crash_vector: BTreeMap<NodeId, Incarnation>,
    /// From the dialer the shard that it wants; from the acceptor the shard that it is.
    pub shard: ShardId,
    /// How many shards the sender has; at least 1.
    pub shard_count: u16,
    /// How often the sender's data directory was opened.
    pub boot_epoch: BootEpoch,
    /// Drawn when the sender's process started.
    pub process_nonce: u64,
    /// The answer to the other side's challenge.
    pub proof: Option<Proof>,
    /// What the other side is to answer.
    pub challenge: Option<Proof>,
    /// What the sender holds of the partitions that both share: ascending.
    pub partitions: Vec<PartitionState>,
    /// What the connection is for.
    pub lane: Lane,
    /// What the sender's clock says.
    pub clock: Timestamp,
}

impl Hello {
    /// What a dialer says when it has been challenged: the same once more, with the proof.
    #[must_use]
    pub fn proving(&self, proof: Proof) -> Self {
        let partitions = Vec::new();
        Self { proof: Some(proof), challenge: None, partitions, ..self.clone() }
    }

    /// Whether a second greeting is from the same process, about the same connection.
    #[must_use]
    pub fn is_once_more(&self, first: &Self) -> bool {
        let who = |hello: &Self| (hello.member, hello.incarnation, hello.process_nonce);
        let what = |hello: &Self| (hello.shard, hello.shard_count, hello.boot_epoch, hello.lane);
        who(self) == who(first) && what(self) == what(first)
    }
}

/// A challenge, or the answer to one.
pub type Proof = [u8; HELLO_PROOF_SIZE_BYTES];

/// What a connection is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lane {
    /// All that is short and can't wait.
    #[default]
    Protocol,
    /// All that carries entries, logs or checkpoints, and what must precede or close it.
    Bulk,
}

/// What a member holds of a partition, durably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionState {
    /// The partition.
    pub partition: PartitionId,
    /// The highest view that it has promised; 0: none.
    pub term: TermId,
    /// The last view that it has adopted; 0: none.
    pub last_normal: TermId,
    /// The last slot of its log.
    pub durable_last: Index,
    /// The latest life that it knows of each of the partition's members, in their order; its own
    /// among them.
    pub lives: Vec<Incarnation>,
}

/// What one member knows of the cluster before it talks to another.
#[derive(Clone, Copy, Debug)]
pub struct Greeter<'a> {
    /// The cluster's name.
    pub name: &'a str,
    /// Its members, seen by this one.
    pub cluster: &'a Cluster,
    /// How many partitions there are.
    pub partition_count: u32,
    /// The digest of what all members must be told alike.
    pub configuration_hash: u64,
}

/// Why a greeting is not taken. In each case the connection is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelloError {
    /// It is too long.
    TooLong {
        /// How long.
        size_bytes: usize,
    },
    /// It is no `p2pmap.v1.Hello`.
    Undecodable {
        /// What prost says: names the field.
        error: prost::DecodeError,
    },
    /// It isn't protobuf, or something in it is repeated too often.
    Overfull,
    /// It is from a member of another cluster.
    ClusterDiffers,
    /// The sender speaks another version.
    VersionDiffers {
        /// Which one.
        version: u32,
    },
    /// No member of this cluster has this name, or only this one itself.
    MemberUnknown,
    /// The sender was told something else about the cluster.
    ConfigurationDiffers,
    /// A field has a value that it can't have.
    Malformed {
        /// The field.
        field: &'static str,
    },
}

impl HelloError {
    /// The status that ends a gRPC stream.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::TooLong { .. }
            | Self::Undecodable { .. }
            | Self::Overfull
            | Self::Malformed { .. } => StatusCode::InvalidArgument,
            Self::ClusterDiffers
            | Self::VersionDiffers { .. }
            | Self::MemberUnknown
            | Self::ConfigurationDiffers => StatusCode::FailedPrecondition,
        }
    }
}

impl fmt::Display for HelloError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { size_bytes } => {
                write!(f, "hello: {size_bytes} bytes; {HELLO_SIZE_BYTES_MAX} are allowed")
            }
            Self::Undecodable { error } => write!(f, "hello: {error}"),
            Self::Overfull => {
                write!(f, "hello: no protobuf, or more members or partitions than there can be")
            }
            Self::ClusterDiffers => write!(f, "hello.cluster: this is another cluster"),
            Self::VersionDiffers { version } => write!(
                f,
                "hello.protocol_version: {version}; this member speaks {PROTOCOL_VERSION}"
            ),
            Self::MemberUnknown => {
                write!(f, "hello.member: no other member of this cluster has this name")
            }
            Self::ConfigurationDiffers => write!(
                f,
                "hello.configuration_hash: the members were not told the same members, \
                 partitions, replication, durability and sequencer"
            ),
            Self::Malformed { field } => write!(f, "hello.{field}: it can't have this value"),
        }
    }
}

impl Error for HelloError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Undecodable { error } => Some(error),
            _ => None,
        }
    }
}

impl Greeter<'_> {
    /// Appends a frame with `hello`.
    ///
    /// # Panics
    /// If the partitions don't ascend: nobody would take it.
    pub fn encode(&self, out: &mut BytesMut, hello: &Hello) {
        assert!(
            hello.partitions.is_sorted_by(|a, b| a.partition < b.partition),
            "partitions ascend"
        );
        let name = |node| self.cluster.name(node).to_owned();
        let crash_vector = hello.crash_vector.iter();
        let partitions = hello.partitions.iter().map(|state| v1::PartitionState {
            partition: state.partition.0,
            term: state.term.0,
            last_normal: state.last_normal.0,
            durable_last: state.durable_last.0,
            lives: state.lives.iter().map(|life| life.0).collect(),
        });
        let lane = match hello.lane {
            Lane::Protocol => v1::hello::Lane::Protocol,
            Lane::Bulk => v1::hello::Lane::Bulk,
        };
        let hello = v1::Hello {
            cluster: self.name.to_owned(),
            member: name(hello.member),
            incarnation: hello.incarnation.0,
            crash_vector: crash_vector.map(|(node, life)| (name(*node), life.0)).collect(),
            configuration_hash: self.configuration_hash,
            protocol_version: PROTOCOL_VERSION,
            shard: u32::from(hello.shard.0),
            shards: u32::from(hello.shard_count),
            boot_epoch: hello.boot_epoch.0,
            process_nonce: hello.process_nonce,
            proof: proof_bytes(hello.proof),
            challenge: proof_bytes(hello.challenge),
            partitions: partitions.collect(),
            lane: lane.into(),
            clock_ns: hello.clock.0,
        };
        frame::encode(out, Flag::Hello, &hello);
    }

    /// Decodes another member's greeting.
    ///
    /// # Errors
    /// If the connection must be closed.
    pub fn decode(&self, payload: &[u8]) -> Result<Hello, HelloError> {
        check_bounds(payload)?;
        let hello = v1::Hello::decode(payload);
        let hello = hello.map_err(|error| HelloError::Undecodable { error })?;
        let member = self.check_agreement(&hello)?;
        let malformed = |field| HelloError::Malformed { field };
        if hello.incarnation >= POSITION_END {
            return Err(malformed("incarnation"));
        }
        if hello.boot_epoch >= POSITION_END {
            return Err(malformed("boot_epoch"));
        }
        let lane = match v1::hello::Lane::try_from(hello.lane) {
            Ok(v1::hello::Lane::Protocol) => Lane::Protocol,
            Ok(v1::hello::Lane::Bulk) => Lane::Bulk,
            Err(_) => return Err(malformed("lane")),
        };
        let shard_count = u16::try_from(hello.shards).ok().filter(|count| *count > 0);
        Ok(Hello {
            member,
            incarnation: Incarnation(hello.incarnation),
            crash_vector: self.crash_vector(&hello.crash_vector)?,
            shard: ShardId(u16::try_from(hello.shard).map_err(|_| malformed("shard"))?),
            shard_count: shard_count.ok_or(malformed("shards"))?,
            boot_epoch: BootEpoch(hello.boot_epoch),
            process_nonce: hello.process_nonce,
            proof: proof("proof", &hello.proof)?,
            challenge: proof("challenge", &hello.challenge)?,
            partitions: self.partitions(&hello.partitions)?,
            lane,
            clock: Timestamp(hello.clock_ns),
        })
    }

    /// Whether both mean the same by what they say; and who the other one is.
    fn check_agreement(&self, hello: &v1::Hello) -> Result<NodeId, HelloError> {
        if hello.cluster != self.name {
            return Err(HelloError::ClusterDiffers);
        }
        if hello.protocol_version != PROTOCOL_VERSION {
            return Err(HelloError::VersionDiffers { version: hello.protocol_version });
        }
        let member = self.cluster.find(&hello.member).filter(|node| *node != self.cluster.me());
        let member = member.ok_or(HelloError::MemberUnknown)?;
        if hello.configuration_hash != self.configuration_hash {
            return Err(HelloError::ConfigurationDiffers);
        }
        Ok(member)
    }

    fn crash_vector(
        &self,
        lives: &BTreeMap<String, u64>,
    ) -> Result<BTreeMap<NodeId, Incarnation>, HelloError> {
        let life = |(name, life): (&String, &u64)| {
            let node = self.cluster.find(name).filter(|_| *life < POSITION_END)?;
            Some((node, Incarnation(*life)))
        };
        let lives: Option<_> = lives.iter().map(life).collect();
        lives.ok_or(HelloError::Malformed { field: "crash_vector" })
    }

    fn partitions(&self, states: &[v1::PartitionState]) -> Result<Vec<PartitionState>, HelloError> {
        let ascend = states.is_sorted_by(|a, b| a.partition < b.partition);
        let possible = |state: &v1::PartitionState| {
            state.partition < self.partition_count
                && state.last_normal <= state.term
                && state.term < POSITION_END
                && state.durable_last < POSITION_END
                && state.lives.len() == self.cluster.replication_factor()
                && state.lives.iter().all(|life| *life < POSITION_END)
        };
        if !ascend || !states.iter().all(possible) {
            return Err(HelloError::Malformed { field: "partitions" });
        }
        let states = states.iter().map(|state| PartitionState {
            partition: PartitionId(state.partition),
            term: TermId(state.term),
            last_normal: TermId(state.last_normal),
            durable_last: Index(state.durable_last),
            lives: state.lives.iter().copied().map(Incarnation).collect(),
        });
        Ok(states.collect())
    }
}

const HELLO_CRASH_VECTOR: u32 = 4;
const HELLO_PARTITIONS: u32 = 13;

/// Counts what is repeated before anything is made of it.
fn check_bounds(payload: &[u8]) -> Result<(), HelloError> {
    if payload.len() > HELLO_SIZE_BYTES_MAX {
        return Err(HelloError::TooLong { size_bytes: payload.len() });
    }
    let (mut lives, mut partitions) = (0, 0);
    let mut fields = Fields::of(payload);
    for field in fields.by_ref() {
        match field.number {
            HELLO_CRASH_VECTOR => lives += 1,
            HELLO_PARTITIONS => partitions += 1,
            _ => {}
        }
    }
    let are_few = lives <= NODE_COUNT_MAX
        && partitions <= cast::usize_from_u32(PARTITION_COUNT_MAX)
        && fields.is_well_formed();
    if are_few { Ok(()) } else { Err(HelloError::Overfull) }
}

fn proof_bytes(proof: Option<Proof>) -> Bytes {
    proof.map(|proof| Bytes::copy_from_slice(&proof)).unwrap_or_default()
}

fn proof(field: &'static str, bytes: &[u8]) -> Result<Option<Proof>, HelloError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    bytes.try_into().map(Some).map_err(|_| HelloError::Malformed { field })
}

#[cfg(test)]
mod tests;
