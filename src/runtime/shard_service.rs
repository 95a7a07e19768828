//! A shard as the service of a core's loop: frames are parsed and routed here, and what the shard
//! wants done goes to the loop.

use std::ops::Range;

use arrayvec::ArrayVec;
use bytes::{Bytes, BytesMut};

use super::disk::PrepareError;
use super::fatal::{Fatal, FatalReason};
use super::scrub::ScrubNews;
use super::service::{Frame, Output, Service, WireStatus, WriteError};
use super::status;
use crate::base::ids::{AskId, Index, NodeId, Origin, PartitionId, SegmentId, ShardId};
use crate::base::limits::{PASS_COUNT_MAX, PUBLISHED_PARTITIONS_PER_TURN, STATUS_WEIGHT_COUNT};
use crate::base::shards::ShardMap;
use crate::base::time::{Monotonic, Now, Timestamp};
use crate::map::operation::QueryOperation;
use crate::metrics::histogram::Histogram;
use crate::metrics::{ServiceMetrics, ShardCounters};
use crate::proto::p2pmap::v1::error::Code;
use crate::shard::{
    Effects, Input, PartitionState, RoutedRequest, SegmentBlocks, Shard, StableDigests,
};
use crate::storage::block::SegmentWrite;
use crate::storage::carry::SegmentRead;
use crate::storage::checkpoint::{CheckpointProgress, CheckpointStep};
use crate::storage::halt::HaltDump;
use crate::storage::record::LiveSegment;
use crate::storage::wal::SegmentWanted;
use crate::storage::witness::{Life, RolledBack};
use crate::wire::error::WireError;
use crate::wire::peer::PeerError;
use crate::wire::peer::hello::{Lane, PartitionState as PeerPartition};
use crate::wire::request::{
    Acceptance, Body, ColdRequest, Kind, Refusal, Request, decode_cold, decode_hot,
};
use crate::wire::response::{self, ResponsePrefix};
use crate::wire::route::{Route, Router};

/// What a service holds clients' requests against.
#[derive(Clone, Debug)]
pub struct RequestConfig {
    /// The cluster's name.
    pub cluster: String,
    /// This node's name as a member.
    pub member: String,
    /// Which shard this is.
    pub shard: ShardId,
    /// The partitions of the cluster, and who owns them.
    pub shards: ShardMap,
    /// The longest value.
    pub value_size_bytes_max: usize,
    /// An empty data directory takes the place of the one that this member had.
    pub replaces: bool,
}

/// A shard behind a loop.
#[derive(Debug)]
pub struct ShardService {
    shard: Shard,
    router: Router,
    config: RequestConfig,
    /// The partitions of this shard.
    own: Range<u32>,
    /// The node, which is alone, goes down: clients' writes are refused.
    closing: bool,
    /// What answers begin with that no partition gives.
    prefix: ResponsePrefix,
    /// Why the node must stop.
    fatal: Option<Fatal>,
}

/// A frame of a pass: a request that borrows from it, or what became of it.
enum Parsed<'a> {
    Request(Request<'a>),
    /// It is among the pass's cold requests.
    Cold(usize),
    Failed(WireError),
}

type Pass<T> = ArrayVec<T, PASS_COUNT_MAX>;

impl ShardService {
    /// The service of `shard`.
    #[must_use]
    pub fn new(shard: Shard, config: RequestConfig) -> Self {
        let prefix = ResponsePrefix::new(&config.cluster, None, &config.member, None);
        let router = Router::new(config.shards.partition_count());
        let own = config.shards.partitions_of(config.shard);
        Self { shard, router, config, own, closing: false, prefix, fatal: None }
    }

    /// The shard to which a request of one of this shard's connections goes; none: this one.
    fn elsewhere(&self, origin: Origin, route: Route) -> Option<ShardId> {
        // What another shard has forwarded is where it belongs.
        if origin.home != self.config.shard {
            return None;
        }
        let Route::Partition(partition) = route else { return None };
        if self.own.contains(&partition.0) {
            return None;
        }
        Some(self.config.shards.owner(partition))
    }

    /// What each frame holds; `cold`: the requests that aren't of the usual shape.
    fn parse<'a>(&self, frames: &[Frame<'a>], cold: &mut Pass<ColdRequest>) -> Pass<Parsed<'a>> {
        let mut parsed = ArrayVec::new();
        for frame in frames {
            parsed.push(match decode_hot(frame.payload, self.acceptance()) {
                Some(request) => Parsed::Request(request),
                None => match decode_cold(frame.payload) {
                    Ok(request) => {
                        cold.push(request);
                        Parsed::Cold(cold.len() - 1)
                    }
                    Err(error) => Parsed::Failed(error),
                },
            });
        }
        parsed
    }

    /// What the request is, or why there is none.
    fn routed<'a>(
        &self,
        origin: Origin,
        request: Result<Request<'a>, Refusal>,
    ) -> Result<(Request<'a>, Route), Refusal> {
        let request = request?;
        let route = self.router.route(&request)?;
        let is_write = request.kind() == Kind::Command;
        if is_write && self.closing && origin.home == self.config.shard {
            return Err(request.refusal(Code::Unavailable, "the node is going down".to_owned()));
        }
        Ok((request, route))
    }

    /// As how many others a request counts that all partitions of this shard have to do with, or
    /// all cores; 0: it is one like others, or does its work little by little.
    fn weight(&self, request: &Request<'_>, route: Route) -> usize {
        match (route, &request.body) {
            (Route::Node, _) => STATUS_WEIGHT_COUNT,
            (Route::Partition(_), _) => 0,
            (Route::All, Body::Query(query))
                if matches!(query.operation, QueryOperation::Entries { .. }) =>
            {
                0
            }
            (Route::All, _) => self.own.len(),
        }
    }

    fn acceptance(&self) -> Acceptance<'_> {
        Acceptance {
            cluster: &self.config.cluster,
            value_size_bytes_max: self.config.value_size_bytes_max,
        }
    }

    fn refuse(&self, origin: Origin, refusal: &Refusal, output: &mut Output<'_>) {
        tracing::info!(code = ?refusal.code, reason = refusal.message, "refused a request");
        output.metrics.refusals_count += 1;
        if let Some(buffer) = output.reply_buffer(origin, true) {
            response::encode_refusal(buffer, &self.prefix, refusal);
        }
    }

    /// Answers a question about the node, from what all cores have published.
    fn answer_status(&self, origin: Origin, request: &Request<'_>, output: &mut Output<'_>) {
        let Body::Status(query) = request.body else { return };
        let result = status::answer(output.node(), query);
        if let Some(buffer) = output.reply_buffer(origin, true) {
            let (prefix, correlation) = (&self.prefix, request.correlation);
            response::encode_query_response(buffer, prefix, correlation, Index(0), &result);
        }
    }

    /// Hands requests to the shard.
    fn hand_over(
        &mut self,
        now: Now,
        requests: &mut Pass<RoutedRequest<'_>>,
        output: &mut Output<'_>,
    ) {
        let before = *self.shard.counters();
        self.shard.handle_batch(now, requests, output);
        self.tell_refusals(before);
        requests.clear();
    }

    /// Says in the log which bound commands ran into.
    fn tell_refusals(&self, before: ShardCounters) {
        let now = self.shard.counters();
        if now.refused_log_full > before.refused_log_full {
            tracing::error!(
                "no room for the log: writes are refused, reads go on; make room on the disk, or \
                 raise --log-max"
            );
        }
        if now.refused_map_full > before.refused_map_full {
            tracing::error!(
                "the map is full: puts are refused, reads, removals and clears go on; raise \
                 --memory-max, or --cores if a shard has 13 GiB of entries"
            );
        }
        if now.refused_unsynced > before.refused_unsynced {
            tracing::warn!("the disk is too slow: writes are refused until it has caught up");
        }
    }

    /// Ends a stream whose message can't be understood. A raw connection has no status: it gets
    /// the text as an answer first.
    fn end_stream(&self, origin: Origin, error: &WireError, output: &mut Output<'_>) {
        let message = error.to_string();
        tracing::warn!(?origin, %error, "ended a stream");
        if origin.stream != 0 {
            output.finish(origin);
        } else if let Some(buffer) = output.reply_buffer(origin, true) {
            let code = error.status().code();
            response::encode_connection_error(buffer, &self.prefix, code, &message);
        }
        output.close(origin, &WireStatus { code: error.status(), message });
    }
}

impl Service for ShardService {
    fn start(&mut self, now: Now, output: &mut Output<'_>) {
        self.shard.start(now, output);
    }

    fn is_ready(&self) -> bool {
        self.shard.is_ready()
    }

    fn frames(&mut self, now: Now, frames: &[Frame<'_>], output: &mut Output<'_>) {
        let mut cold: Pass<ColdRequest> = ArrayVec::new();
        let parsed = self.parse(frames, &mut cold);
        let mut requests: Pass<RoutedRequest<'_>> = ArrayVec::new();
        let mut ended: Pass<(Origin, &WireError)> = ArrayVec::new();
        let mut stopped: Pass<(Origin, ShardId)> = ArrayVec::new();
        for (place, (frame, parsed)) in frames.iter().zip(&parsed).enumerate() {
            let origin = frame.origin;
            // Nor is what comes after one that has to wait, until that had its turn.
            if let Some((_, to)) = stopped.iter().find(|(o, _)| is_same_connection(*o, origin)) {
                match *to == self.config.shard {
                    true => output.postpone(place),
                    false => output.defer(place, *to),
                }
                continue;
            }
            // What comes after a message that ends its stream isn't looked at.
            if ended.iter().any(|(other, _)| *other == origin) {
                output.finish(origin);
                continue;
            }
            let request = match parsed {
                Parsed::Request(request) => Ok(*request),
                Parsed::Cold(place) => cold[*place].request(self.acceptance()),
                Parsed::Failed(error) => {
                    ended.push((origin, error));
                    continue;
                }
            };
            let routed = self.routed(origin, request);
            let weight = routed.as_ref().map_or(0, |(request, route)| self.weight(request, *route));
            if weight > 0 && output.is_turn_full() {
                stopped.push((origin, self.config.shard));
                output.postpone(place);
                continue;
            }
            output.weigh(weight);
            match routed {
                Ok((request, Route::Node)) => self.answer_status(origin, &request, output),
                Ok((request, route)) => {
                    let Some(to) = self.elsewhere(origin, route) else {
                        requests.push(RoutedRequest { origin, route, request });
                        continue;
                    };
                    // What was asked of all shards before must be in the ring before it.
                    let is_overtaken = |before: &RoutedRequest<'_>| {
                        before.route == Route::All && is_same_connection(before.origin, origin)
                    };
                    if requests.iter().any(is_overtaken) {
                        self.hand_over(now, &mut requests, output);
                    }
                    if !output.forward(to, *frame) {
                        stopped.push((origin, to));
                        output.defer(place, to);
                    }
                }
                Err(refusal) => self.refuse(origin, &refusal, output),
            }
        }
        self.hand_over(now, &mut requests, output);
        // After what stood before it in the stream: that is answered, as far as it can be at once.
        for (origin, error) in ended {
            self.end_stream(origin, error, output);
        }
    }

    fn share_asked(&mut self, now: Now, origin: Origin, request: &[u8], output: &mut Output<'_>) {
        output.weigh(self.own.len());
        self.shard.handle(now, Input::ShareAsked { origin, request }, output);
    }

    fn share_answered(&mut self, now: Now, ask: AskId, answer: &[u8], output: &mut Output<'_>) {
        self.shard.handle(now, Input::ShareAnswered { ask, answer }, output);
    }

    fn greeting(&self, node: NodeId) -> Vec<PeerPartition> {
        self.shard.greeting(node)
    }

    fn peer_connected(
        &mut self,
        now: Now,
        (node, life): (NodeId, Life),
        clock: Timestamp,
        partitions: &[PeerPartition],
        output: &mut Output<'_>,
    ) -> Option<RolledBack> {
        if !self.config.replaces
            && let Some(former) = self.shard.former_life(partitions)
        {
            // Before it says a word to anybody: nothing has happened.
            self.fatal = Some(Fatal::new(FatalReason::DataDirectory, former));
            return None;
        }
        let input = Input::PeerConnected { node, life, clock, partitions };
        self.shard.handle(now, input, output);
        self.shard.take_rolled_back()
    }

    fn fatal(&mut self) -> Option<Fatal> {
        self.fatal.take()
    }

    fn halt_dump(&self, reason: &str) -> Option<HaltDump> {
        Some(self.shard.halt_dump(reason))
    }

    fn peer_disconnected(
        &mut self,
        now: Now,
        node: NodeId,
        partitions: Range<u32>,
        refused: bool,
        output: &mut Output<'_>,
    ) {
        let input = Input::PeerDisconnected { node, partitions, refused };
        self.shard.handle(now, input, output);
    }

    fn peer_frame(&mut self, now: Now, from: NodeId, payload: Bytes, output: &mut Output<'_>) {
        self.shard.handle(now, Input::Peer { from, payload }, output);
    }

    fn written(
        &mut self,
        now: Now,
        write: SegmentWrite,
        result: Result<(), WriteError>,
        output: &mut Output<'_>,
    ) {
        // After a failed write nothing is certain any more; the loop ends the process.
        if result.is_ok() {
            self.shard.handle(now, Input::Written(write), output);
        }
    }

    fn segment_prepared(
        &mut self,
        now: Now,
        segment: SegmentId,
        result: Result<(), PrepareError>,
        output: &mut Output<'_>,
    ) {
        let input = match result {
            Ok(()) => Input::SegmentPrepared(segment),
            Err(_) => Input::SegmentRefused(segment),
        };
        self.shard.handle(now, input, output);
    }

    fn segment_read(&mut self, now: Now, read: SegmentBlocks, output: &mut Output<'_>) {
        self.shard.handle(now, Input::SegmentRead(read), output);
    }

    fn scrub(&mut self, now: Now, news: ScrubNews, output: &mut Output<'_>) {
        let input = match news {
            ScrubNews::Due => Input::ScrubDue,
            ScrubNews::Segment(segment) => Input::SegmentDamaged(segment),
            ScrubNews::Checkpoint(partition) => Input::CheckpointDamaged(partition),
        };
        self.shard.handle(now, input, output);
    }

    fn disk_space(&mut self, now: Now, left_size_bytes: u64, output: &mut Output<'_>) {
        self.shard.handle(now, Input::DiskSpace(left_size_bytes), output);
    }

    fn checkpoint_progressed(
        &mut self,
        now: Now,
        progress: CheckpointProgress,
        output: &mut Output<'_>,
    ) {
        self.shard.handle(now, Input::Checkpoint(progress), output);
    }

    fn next_deadline(&self) -> Option<Monotonic> {
        self.shard.next_deadline()
    }

    fn deadline(&mut self, now: Now, output: &mut Output<'_>) {
        self.shard.handle(now, Input::Deadline, output);
    }

    fn retire(&mut self, now: Now, output: &mut Output<'_>) {
        self.shard.handle(now, Input::Retire, output);
    }

    fn has_retired(&self) -> bool {
        self.shard.has_retired()
    }

    fn waits_for_members(&self) -> bool {
        self.shard.waits_for_members()
    }

    fn begin_shutdown(&mut self, _now: Now, output: &mut Output<'_>) {
        // Among others the shard passes on what it doesn't take.
        self.closing = output.node().network.is_none();
    }

    fn close(&mut self, now: Now, output: &mut Output<'_>) {
        tracing::info!(counters = ?self.shard.counters(), "the shard closes");
        self.shard.handle(now, Input::Close, output);
    }

    fn is_drained(&self) -> bool {
        self.shard.is_drained()
    }

    fn measure(&self, metrics: &mut ServiceMetrics) {
        self.shard.measure(metrics);
    }

    fn reads_count(&self) -> u64 {
        self.shard.counters().reads
    }

    fn commit_waits(&mut self) -> Option<&mut Histogram> {
        Some(self.shard.commit_waits())
    }

    fn changed_count(&self) -> usize {
        self.shard.changed_count()
    }

    fn take_changed(
        &mut self,
        count_max: usize,
        mut visit: impl FnMut(PartitionId, PartitionState, &StableDigests),
    ) {
        let mut changed = ArrayVec::<_, PUBLISHED_PARTITIONS_PER_TURN>::new();
        let count_max = count_max.min(changed.capacity());
        self.shard.take_changed(count_max, |partition, state| changed.push((partition, state)));
        for (partition, state) in changed {
            visit(partition, state, &self.shard.stable_digests(partition));
        }
    }
}

fn is_same_connection(one: Origin, other: Origin) -> bool {
    (one.home, one.connection, one.generation) == (other.home, other.connection, other.generation)
}

impl Effects for Output<'_> {
    fn reply_buffer(&mut self, origin: Origin, last: bool) -> Option<&mut BytesMut> {
        Output::reply_buffer(self, origin, last)
    }

    fn ask(&mut self, to: ShardId, ask: AskId, request: &[u8]) {
        Output::ask(self, to, ask, request);
    }

    fn peer_buffer(&mut self, to: NodeId, partition: PartitionId) -> Option<&mut BytesMut> {
        Output::peer_buffer(self, to, partition, Lane::Protocol)
    }

    fn bulk_peer_buffer(&mut self, to: NodeId, partition: PartitionId) -> Option<&mut BytesMut> {
        Output::peer_buffer(self, to, partition, Lane::Bulk)
    }

    fn refuse_peer(&mut self, node: NodeId, error: &PeerError) {
        tracing::error!(%node, %error, "another node sends what no member can");
        Output::refuse_peer(self, node);
    }

    fn write(&mut self, write: SegmentWrite) {
        Output::write(self, write);
    }

    fn prepare_segment(&mut self, wanted: SegmentWanted) {
        Output::prepare_segment(self, wanted);
    }

    fn read_segment(&mut self, read: SegmentRead) {
        Output::read_segment(self, read);
    }

    fn scrub(&mut self, segments: Vec<LiveSegment>) {
        Output::scrub(self, segments);
    }

    fn report_damage(&mut self, segment: SegmentId, offset: u64) {
        tracing::error!(%segment, offset, "a segment of the log is damaged, or can't be read");
    }

    fn checkpoint(&mut self, step: CheckpointStep) {
        Output::checkpoint(self, step);
    }
}

#[cfg(test)]
mod tests;
