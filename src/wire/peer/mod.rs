//! What members say to each other, in bytes: [`Message`] to and from `atomix.map.Message`.
//!
//! ```text
//! Message --PeerEncoder--> frame, or several of a repair that is too long for one
//! payload --decode--> Received   (nothing about it is wrong that can be seen without a replica)
//!                \--> PeerError  (drop and count, or close: `PeerError::verdict`)
//! ```
//!
//! | file | what it knows |
//! | --- | --- |
//! | `encode`, `field` | messages as frames, without an allocation |
//! | [`split()`] | repairs taken apart into messages of a bearable size |
//! | [`decode`](mod@decode) | frames as messages, checked; hot ones without prost |
//! | [`filter`], [`ranges`], [`chunk`], [`recovery_id`] | what is encoded inside of fields |
//! | [`error`] | what can be wrong, and what to do about it |
//! | [`hello`], [`configuration`] | the first frame of each direction |
//! | [`ping`] | whether the other one is there |
//! | [`member_frame`] | frames inside of gRPC |
//!
//! # What is checked here
//!
//! All that needs no replica: size, decoding and bounds of what is repeated, before anything is
//! allocated for it; the kind; the target; the sender, which must be the member at the other end
//! (but for a `Recover`, which may be relayed); the view, whose leader follows from its term; and
//! each field by itself and against the others of its message. What a message means to a replica,
//! and whether its sender may say it just now, the replica decides.
//!
//! Three things are stricter than they would have to be, because only our own members send them:
//! every position in a log is below 2⁶³, so that no sum of two overflows; votes, `StartView` and
//! `SyncPrepare` always carry the chain digest; a value has a timestamp and a no-op has none.
//! A stamped query carries no timestamp: nothing is evaluated by it.

pub mod chunk;
pub mod configuration;
pub mod decode;
mod encode;
pub mod error;
mod field;
pub mod filter;
pub mod hello;
pub mod member_frame;
pub mod ping;
pub mod ranges;
pub mod recovery_id;
mod split;

use bytes::Bytes;

pub use decode::{Link, decode};
pub use encode::PeerEncoder;
pub use error::{EncodeError, PeerDrop, PeerError, Verdict};
pub use split::{Split, split};

use crate::base::ids::{CorrelationId, Index, MemberId, PartitionId, TermId};
use crate::nopaxos::message::Message;
use crate::wire::request::FORWARDED;

/// What came from a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// What it is about.
    pub partition: PartitionId,
    /// Who sent it: a member of the partition, and not this one.
    pub sender: MemberId,
    /// What it says.
    pub body: Body,
}

/// What a member says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Something between replicas, sequencer and collector.
    Message(Message),
    /// Something that it passes on for a client.
    Forwarded(Forwarded),
}

/// What members pass on for clients: requests to the sequencer's node, and back what the collector
/// answers. Bit 63 of a correlation id is set in all of them, and in no client's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// A command that is to be stamped.
    Command {
        /// What the gateway calls it.
        correlation: CorrelationId,
        /// The encoded `p2pmap.v1.Command`, as the client sent it.
        value: Bytes,
    },
    /// A query that is to be answered.
    Query {
        /// What the gateway calls it.
        correlation: CorrelationId,
        /// The encoded `p2pmap.v1.Query`, as the client sent it.
        value: Bytes,
    },
    /// What came of a command.
    CommandAnswer {
        /// What the gateway calls it.
        correlation: CorrelationId,
        /// The view that it was answered in; 0: none.
        term: TermId,
        /// Its slot; 0: it was not stamped.
        index: Index,
        /// The encoded `p2pmap.v1.Result`.
        result: Bytes,
    },
    /// What came of a query.
    QueryAnswer {
        /// What the gateway calls it.
        correlation: CorrelationId,
        /// The view that it was answered in; 0: none.
        term: TermId,
        /// The slot that the answer reflects.
        index: Index,
        /// The encoded `p2pmap.v1.Result`.
        result: Bytes,
    },
}

impl Forwarded {
    /// What the gateway calls it.
    #[must_use]
    pub const fn correlation(&self) -> CorrelationId {
        match self {
            Self::Command { correlation, .. }
            | Self::Query { correlation, .. }
            | Self::CommandAnswer { correlation, .. }
            | Self::QueryAnswer { correlation, .. } => *correlation,
        }
    }
}

/// The encoded `p2pmap.v1.Result` that stands for a dropped command between leader and collector:
/// an error with the code `DROPPED` and nothing else.
const DROPPED: [u8; 4] = [0x0A, 2, 0x08, 64];
