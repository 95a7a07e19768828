//! What a loop hosts: the seam between it and a shard (or an echo).
//!
//! A service is driven with inputs and answers through an [`Output`] within the same call. It does
//! no I/O, reads no clock and never blocks.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::connections::Connections;
use super::core::Node;
use super::disk::Disk;
use super::disk::PrepareError;
use super::fatal::Fatal;
use super::mesh::Mesh;
use super::peers::table::Peers;
use super::scrub::ScrubNews;
use crate::base::ids::{AskId, NodeId, Origin, PartitionId, SegmentId, ShardId};
use crate::base::limits::TURN_REQUEST_COUNT_MAX;
use crate::base::time::{Monotonic, Now, Timestamp};
use crate::metrics::histogram::Histogram;
use crate::metrics::{DropReason, LoopMetrics, ServiceMetrics};
use crate::shard::{PartitionState, SegmentBlocks, StableDigests};
use crate::storage::block::SegmentWrite;
use crate::storage::carry::SegmentRead;
use crate::storage::checkpoint::{CheckpointProgress, CheckpointStep};
use crate::storage::halt::HaltDump;
use crate::storage::record::LiveSegment;
use crate::storage::wal::SegmentWanted;
use crate::storage::witness::{Life, RolledBack};
use crate::wire::error::StatusCode;
use crate::wire::peer::hello::{Lane, PartitionState as PeerPartition};

/// A whole frame of some stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Where it came from.
    pub origin: Origin,
    /// Its payload, without the prefix.
    pub payload: &'a [u8],
}

/// A service that a loop can host. What it doesn't ask for it isn't told: a service without a log,
/// without deadlines or with nothing to finish leaves those calls as they are.
pub trait Service {
    /// The loop begins: what has to be done before the first frame.
    fn start(&mut self, _now: Now, _output: &mut Output<'_>) {}

    /// Whether requests are served. Asked after each turn until it is true; no connection is
    /// accepted before.
    fn is_ready(&self) -> bool {
        true
    }

    /// A pass: at most [`PASS_COUNT_MAX`] whole frames, those of one stream in the order in which
    /// they came. Each is in flight until [`Output::reply_buffer`] was asked for its last answer,
    /// or [`Output::finish`] was called.
    ///
    /// [`PASS_COUNT_MAX`]: crate::base::limits::PASS_COUNT_MAX
    fn frames(&mut self, now: Now, frames: &[Frame<'_>], output: &mut Output<'_>);

    /// Another shard asks for this one's share of something, which is answered like a frame.
    fn share_asked(
        &mut self,
        _now: Now,
        _origin: Origin,
        _request: &[u8],
        _output: &mut Output<'_>,
    ) {
    }

    /// The answer to what [`Output::ask`] asked for.
    fn share_answered(&mut self, _now: Now, _ask: AskId, _answer: &[u8], _output: &mut Output<'_>) {
    }

    /// What is said to another node when a connection to it begins: how the partitions stand that
    /// both hold.
    fn greeting(&self, _node: NodeId) -> Vec<PeerPartition> {
        Vec::new()
    }

    /// A shard of another node is connected and has said how its partitions stand, or has said so
    /// anew. How it shows, if it does, that its disk went back in time.
    fn peer_connected(
        &mut self,
        _now: Now,
        _peer: (NodeId, Life),
        _clock: Timestamp,
        _partitions: &[PeerPartition],
        _output: &mut Output<'_>,
    ) -> Option<RolledBack> {
        None
    }

    /// The shard of another node that has these partitions isn't connected any more; `refused`: its
    /// process is gone.
    fn peer_disconnected(
        &mut self,
        _now: Now,
        _node: NodeId,
        _partitions: Range<u32>,
        _refused: bool,
        _output: &mut Output<'_>,
    ) {
    }

    /// Why the node must stop, if it must: asked in each turn.
    fn fatal(&mut self) -> Option<Fatal> {
        None
    }

    /// What it leaves behind when it has panicked for this reason, if anything.
    fn halt_dump(&self, _reason: &str) -> Option<HaltDump> {
        None
    }

    /// A message of another node that is connected.
    fn peer_frame(&mut self, _now: Now, _from: NodeId, _payload: Bytes, _output: &mut Output<'_>) {}

    /// A write ended. After a failed one the node stops: this is the last call.
    fn written(
        &mut self,
        _now: Now,
        _write: SegmentWrite,
        _result: Result<(), WriteError>,
        _output: &mut Output<'_>,
    ) {
    }

    /// A segment is ready to be written, or can't be.
    fn segment_prepared(
        &mut self,
        _now: Now,
        _segment: SegmentId,
        _result: Result<(), PrepareError>,
        _output: &mut Output<'_>,
    ) {
    }

    /// Blocks of a segment that were asked for.
    fn segment_read(&mut self, _now: Now, _read: SegmentBlocks, _output: &mut Output<'_>) {}

    /// The scrubber wants to know which segments count ([`Output::scrub`]), or found damage.
    fn scrub(&mut self, _now: Now, _news: ScrubNews, _output: &mut Output<'_>) {}

    /// So many bytes are left where the log lies. Said now and then.
    fn disk_space(&mut self, _now: Now, _left_size_bytes: u64, _output: &mut Output<'_>) {}

    /// A step of a checkpoint was done.
    fn checkpoint_progressed(
        &mut self,
        _now: Now,
        _progress: CheckpointProgress,
        _output: &mut Output<'_>,
    ) {
    }

    /// All inputs of this turn were given: what was gathered can go out.
    fn turn_end(&mut self, _now: Now, _output: &mut Output<'_>) {}

    /// When [`Service::deadline`] is to be called next.
    fn next_deadline(&self) -> Option<Monotonic> {
        None
    }

    /// The deadline has come.
    fn deadline(&mut self, _now: Now, _output: &mut Output<'_>) {}

    /// The node is about to go down: others are to do what it does alone. It goes on serving.
    fn retire(&mut self, _now: Now, _output: &mut Output<'_>) {}

    /// Whether others do, as far as they can, after [`Service::retire`].
    fn has_retired(&self) -> bool {
        true
    }

    /// Whether it has asked other nodes for something that a client waits for.
    fn waits_for_members(&self) -> bool {
        false
    }

    /// The node goes down: from now on clients' writes are refused, unless other nodes can take
    /// them. Those that other shards have forwarded still come.
    fn begin_shutdown(&mut self, _now: Now, _output: &mut Output<'_>) {}

    /// No more writes will be taken, of nobody. Finish what is in flight and make it durable.
    fn close(&mut self, _now: Now, _output: &mut Output<'_>) {}

    /// Whether everything is finished after [`Service::close`].
    fn is_drained(&self) -> bool;

    /// Fills in what the service has counted and what it holds. Called now and then.
    fn measure(&self, _metrics: &mut ServiceMetrics) {}

    /// How many reads it has answered in the turn that brought them, in all.
    fn reads_count(&self) -> u64 {
        0
    }

    /// How long writes waited to be durable, if it measures that.
    fn commit_waits(&mut self) -> Option<&mut Histogram> {
        None
    }

    /// How many partitions have changed since they were taken last.
    fn changed_count(&self) -> usize {
        0
    }

    /// Up to `count_max` of them, with how they stand.
    fn take_changed(
        &mut self,
        _count_max: usize,
        _visit: impl FnMut(PartitionId, PartitionState, &StableDigests),
    ) {
    }
}

/// Why a write of the log failed. Fatal for the node.
#[derive(Debug)]
pub enum WriteError {
    /// The system said so.
    Failed(std::io::Error),
    /// Less was written than asked for.
    Short {
        /// How many bytes were written.
        written: usize,
        /// How many should have been.
        wanted: usize,
    },
}

impl std::fmt::Display for WriteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::Short { written, wanted } => {
                write!(f, "only {written} of {wanted} bytes were written")
            }
        }
    }
}

impl std::error::Error for WriteError {}

/// How a stream ends when it ends badly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireStatus {
    /// For programs.
    pub code: StatusCode,
    /// For people.
    pub message: String,
}

/// What a service may do within a call.
#[derive(Debug)]
pub struct Output<'a> {
    pub(super) connections: &'a mut Connections,
    pub(super) disk: &'a mut Disk,
    pub(super) mesh: &'a mut Mesh,
    pub(super) peers: &'a Peers,
    pub(super) weight: &'a mut usize,
    pub(super) metrics: &'a mut LoopMetrics,
}

impl Output<'_> {
    /// What all cores of the node share.
    #[must_use]
    pub fn node(&self) -> &Node {
        self.disk.node()
    }

    /// The buffer to which one encoded frame, prefix and payload, is to be appended. `last`: the
    /// request that this answers is no longer in flight. `None`: the connection is gone.
    pub fn reply_buffer(&mut self, origin: Origin, last: bool) -> Option<&mut BytesMut> {
        if origin.home == self.mesh.me() {
            return self.connections.reply_buffer(origin, last, self.metrics);
        }
        Some(self.mesh.answer_buffer(origin, last))
    }

    /// A frame needs no answer (any more).
    pub fn finish(&mut self, origin: Origin) {
        if origin.home == self.mesh.me() {
            return self.connections.finish(origin);
        }
        // An answer without a frame.
        let _ = self.mesh.answer_buffer(origin, true);
    }

    /// Forwards a frame of this shard's connections to another shard, whose answer goes to the
    /// connection without coming here again. False: it can't go now. Then it is to be given to
    /// [`Output::defer`], and all that follow it in the same connection too.
    #[must_use]
    pub fn forward(&mut self, to: ShardId, frame: Frame<'_>) -> bool {
        let forwards = self.connections.may_forward(frame.origin)
            && self.mesh.forward(to, frame.origin, frame.payload);
        if forwards {
            self.connections.count_forwarded(frame.origin);
            self.metrics.forwarded_count += 1;
        }
        forwards
    }

    /// The frame at `place` of this pass comes again when `to` has room for more. Its connection is
    /// not read before.
    pub fn defer(&mut self, place: usize, to: ShardId) {
        self.metrics.deferred_count += 1;
        self.mesh.deferred.push((place, to));
    }

    /// The frame at `place` of this pass comes again in the next turn, and all that follow it in
    /// the same connection are to be treated likewise: this turn has enough to do.
    pub fn postpone(&mut self, place: usize) {
        self.mesh.deferred.push((place, self.mesh.me()));
    }

    /// What was handed over takes as long as so many requests more.
    pub fn weigh(&mut self, requests: usize) {
        *self.weight += requests;
    }

    /// Whether this turn has enough to do.
    #[must_use]
    pub fn is_turn_full(&self) -> bool {
        *self.weight >= TURN_REQUEST_COUNT_MAX
    }

    /// Asks another shard for its share of something; [`Service::share_answered`] brings the
    /// answer. In order with what is forwarded to it.
    pub fn ask(&mut self, to: ShardId, ask: AskId, request: &[u8]) {
        self.mesh.ask(to, ask, request);
    }

    /// Ends a stream. What was already appended to its reply buffer still goes out.
    ///
    /// # Panics
    /// If it isn't a stream of this shard: what another has forwarded it has parsed before.
    pub fn close(&mut self, origin: Origin, status: &WireStatus) {
        assert_eq!(origin.home, self.mesh.me(), "the home shard parses first");
        self.connections.close_stream(origin, status, self.metrics);
    }

    /// The buffer to which one encoded frame to another node is to be appended, about a partition
    /// of this shard. `None`: it isn't connected, or too much waits for it already.
    pub fn peer_buffer(
        &mut self,
        to: NodeId,
        partition: PartitionId,
        lane: Lane,
    ) -> Option<&mut BytesMut> {
        let key = self.peers.key(to, partition, lane)?;
        self.connections.peer_buffer(key, self.metrics)
    }

    /// Cuts the connections to a node that sends what no member can.
    pub fn refuse_peer(&mut self, node: NodeId) {
        for key in self.peers.keys(node) {
            if self.connections.find(key).is_some() {
                self.connections.cut(key, DropReason::MemberMalformed, self.metrics);
            }
        }
    }

    /// Writes to a segment that was prepared; [`Service::written`] says when it is durable.
    pub fn write(&mut self, write: SegmentWrite) {
        self.disk.write(write);
    }

    /// Prepares a segment in the background; [`Service::segment_prepared`] says when it is ready.
    pub fn prepare_segment(&mut self, wanted: SegmentWanted) {
        self.disk.prepare(wanted);
    }

    /// Scrubs segments in the background; [`Service::scrub`] says what is wrong with them.
    pub fn scrub(&mut self, segments: Vec<LiveSegment>) {
        self.disk.scrub(segments);
    }

    /// Reads blocks of a segment in the background; [`Service::segment_read`] says what is there.
    pub fn read_segment(&mut self, read: SegmentRead) {
        self.disk.read(read);
    }

    /// Begins a step of a checkpoint; [`Service::checkpoint_progressed`] follows, if
    /// [`CheckpointStep`] says so.
    pub fn checkpoint(&mut self, step: CheckpointStep) {
        self.disk.checkpoint(step);
    }
}
