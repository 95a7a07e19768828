//! What a shard wants of its host.

use bytes::BytesMut;

use crate::base::ids::{AskId, NodeId, Origin, PartitionId, SegmentId, ShardId};
use crate::storage::block::SegmentWrite;
use crate::storage::carry::SegmentRead;
use crate::storage::checkpoint::CheckpointStep;
use crate::storage::record::LiveSegment;
use crate::storage::wal::SegmentWanted;
use crate::wire::peer::PeerError;

/// The world as a [`Shard`](super::Shard) sees it: the runtime and the simulator implement it.
/// Calls are synchronous and do no I/O themselves; a host performs them after the call.
pub trait Effects {
    /// Where to append the next frame for `origin`; `None` if it has gone away. `last`: this frame
    /// ends the answer to one request.
    fn reply_buffer(&mut self, origin: Origin, last: bool) -> Option<&mut BytesMut>;

    /// Asks another shard of the node for its share of something, which the host brings there as
    /// [`Input::ShareAsked`](super::Input::ShareAsked), in order with the requests that it forwards
    /// there. What is answered comes back as
    /// [`Input::ShareAnswered`](super::Input::ShareAnswered).
    fn ask(&mut self, to: ShardId, ask: AskId, request: &[u8]);

    /// Where to append the next frame for the shard of a node that holds a partition; `None` if
    /// there is no connection to it: what is not said now is said again later.
    fn peer_buffer(&mut self, to: NodeId, partition: PartitionId) -> Option<&mut BytesMut>;

    /// The same for what is long and can wait: what it says needn't arrive in order with the rest.
    /// A host without a second connection has it go with the rest.
    fn bulk_peer_buffer(&mut self, to: NodeId, partition: PartitionId) -> Option<&mut BytesMut> {
        self.peer_buffer(to, partition)
    }

    /// Says that a node sends what no member can, and ends the connection to it.
    fn refuse_peer(&mut self, node: NodeId, error: &PeerError);

    /// Writes a batch of the log durably. The host hands it back with
    /// [`Input::Written`](super::Input::Written); a failure ends the node.
    fn write(&mut self, write: SegmentWrite);

    /// Makes a segment ready: of a free one, or a new one full of zeros. The host says
    /// [`Input::SegmentPrepared`](super::Input::SegmentPrepared) or
    /// [`Input::SegmentRefused`](super::Input::SegmentRefused).
    fn prepare_segment(&mut self, wanted: SegmentWanted);

    /// Reads blocks of a segment that was written. The host says
    /// [`Input::SegmentRead`](super::Input::SegmentRead).
    fn read_segment(&mut self, read: SegmentRead);

    /// Reads segments, of which these count, and checks them in the background. The host says
    /// [`Input::SegmentDamaged`](super::Input::SegmentDamaged) of those that aren't whole.
    fn scrub(&mut self, segments: Vec<LiveSegment>);

    /// Says that a segment is damaged, and where.
    fn report_damage(&mut self, segment: SegmentId, offset: u64);

    /// Does a step of a checkpoint. The host says [`Input::Checkpoint`](super::Input::Checkpoint)
    /// if the step says so.
    fn checkpoint(&mut self, step: CheckpointStep);
}
