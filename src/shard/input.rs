//! What a host tells a shard.

use std::ops::Range;

use bytes::Bytes;

use super::carry::SegmentBlocks;
use crate::base::ids::{AskId, NodeId, Origin, PartitionId, SegmentId};
use crate::base::time::Timestamp;
use crate::storage::block::SegmentWrite;
use crate::storage::checkpoint::CheckpointProgress;
use crate::storage::witness::Life;
use crate::wire::peer::hello::PartitionState;
use crate::wire::request::Request;
use crate::wire::route::Route;

/// One input of a shard.
#[derive(Debug)]
pub enum Input<'a> {
    /// A client's request.
    Request(RoutedRequest<'a>),
    /// Another shard of the node asks for this one's share of something. The answer goes to
    /// [`Effects::reply_buffer`](super::Effects::reply_buffer) like any other.
    ShareAsked {
        /// Where it goes.
        origin: Origin,
        /// What [`Effects::ask`](super::Effects::ask) was given.
        request: &'a [u8],
    },
    /// The answer to something that another shard was asked for. It may come late, but not twice.
    ShareAnswered {
        /// What it was called.
        ask: AskId,
        /// What the other shard has answered.
        answer: &'a [u8],
    },
    /// A batch of the log is durable.
    Written(SegmentWrite),
    /// A segment that was asked for is ready.
    SegmentPrepared(SegmentId),
    /// A segment that was asked for could not be made, for want of space as a rule.
    SegmentRefused(SegmentId),
    /// Blocks of a segment that were asked for.
    SegmentRead(SegmentBlocks),
    /// It is time to read what was written once more.
    ScrubDue,
    /// A segment isn't what was written to it, or can't be read.
    SegmentDamaged(SegmentId),
    /// The partition's newest checkpoint isn't what was written, or can't be read.
    CheckpointDamaged(PartitionId),
    /// So many bytes are left where the log lies.
    DiskSpace(u64),
    /// A step of a checkpoint was done.
    Checkpoint(CheckpointProgress),
    /// A message of another node, over the connection that is present.
    Peer {
        /// The node.
        from: NodeId,
        /// The frame's payload.
        payload: Bytes,
    },
    /// A connection to a shard of another node is there: what is said from here on of the
    /// partitions that both hold arrives, in order, until it is gone. Said again when the other
    /// shard has said anew what it knows of lives; before another connection takes its place,
    /// [`Input::PeerDisconnected`] says that it is gone.
    PeerConnected {
        /// The node.
        node: NodeId,
        /// Its process, and the boot of its data directory.
        life: Life,
        /// What its clock says.
        clock: Timestamp,
        /// What it has said of the partitions that both hold.
        partitions: &'a [PartitionState],
    },
    /// The connection to a shard of another node is gone.
    PeerDisconnected {
        /// The node.
        node: NodeId,
        /// The partitions of the shard there.
        partitions: Range<u32>,
        /// Its host says that the process is gone, too.
        refused: bool,
    },
    /// A partition that this node leads is to be led by another node. Nothing happens if it isn't
    /// led here, or that node isn't there or doesn't hold it; who leads then is seen in
    /// [`Shard::take_changed`](super::Shard::take_changed).
    TransferLeadership {
        /// The partition.
        partition: PartitionId,
        /// Who is to lead it.
        to: NodeId,
    },
    /// The node is about to go down: it hands over what it leads, and goes on serving. Once it
    /// [has retired](super::Shard::has_retired), or after a while, comes [`Input::Close`].
    Retire,
    /// Time has passed: the shard's deadline is due. It is at once while somebody waits for what
    /// is done little by little, so that a host does as much of that in a turn as in any other.
    Deadline,
    /// The node is going down: make everything durable. What is asked later is passed on to other
    /// nodes, as far as they are there, or refused.
    Close,
}

/// A request, where it came from, and who has to answer it.
#[derive(Clone, Copy, Debug)]
pub struct RoutedRequest<'a> {
    /// Where the answer goes.
    pub origin: Origin,
    /// Who owns it.
    pub route: Route,
    /// What is wanted.
    pub request: Request<'a>,
}
