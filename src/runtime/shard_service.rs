//! A shard as the service of a core's loop: frames are parsed and routed here, and what the shard
//! wants done goes to the loop.

use arrayvec::ArrayVec;
use bytes::BytesMut;

use super::disk::PrepareError;
use super::service::{Frame, Output, Service, WireStatus, WriteError};
use super::status;
use crate::base::ids::{Index, Origin, PartitionId, SegmentId};
use crate::base::limits::PASS_COUNT_MAX;
use crate::base::time::{Monotonic, Now};
use crate::metrics::histogram::Histogram;
use crate::metrics::{ServiceMetrics, ShardCounters};
use crate::shard::{Effects, Input, PartitionState, RoutedRequest, Shard};
use crate::storage::block::SegmentWrite;
use crate::wire::error::WireError;
use crate::wire::request::{
    Acceptance, Body, ColdRequest, Refusal, Request, decode_cold, decode_hot,
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
    /// The partitions of the cluster.
    pub partition_count: u32,
    /// The longest value.
    pub value_size_bytes_max: usize,
}

/// A shard behind a loop.
#[derive(Debug)]
pub struct ShardService {
    shard: Shard,
    router: Router,
    config: RequestConfig,
    /// What answers begin with that no partition gives.
    prefix: ResponsePrefix,
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
        Self { shard, router: Router::new(config.partition_count), config, prefix }
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

    /// Says in the log which bound commands ran into.
    fn tell_refusals(&self, before: ShardCounters) {
        let now = self.shard.counters();
        if now.refused_log_full > before.refused_log_full {
            tracing::error!("the log is full: writes are refused, reads go on; raise --log-max");
        }
        if now.refused_map_full > before.refused_map_full {
            tracing::error!("the map is full: writes are refused, reads and removals go on");
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
        let mut parsed: Pass<Parsed<'_>> = ArrayVec::new();
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

        let mut requests: Pass<RoutedRequest<'_>> = ArrayVec::new();
        let mut ended: Pass<(Origin, &WireError)> = ArrayVec::new();
        for (frame, parsed) in frames.iter().zip(&parsed) {
            let origin = frame.origin;
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
            let routed = request.and_then(|request| Ok((request, self.router.route(&request)?)));
            match routed {
                Ok((request, Route::Node)) => self.answer_status(origin, &request, output),
                Ok((request, route)) => requests.push(RoutedRequest { origin, route, request }),
                Err(refusal) => self.refuse(origin, &refusal, output),
            }
        }
        let before = *self.shard.counters();
        self.shard.handle_batch(now, &requests, output);
        self.tell_refusals(before);
        // After what stood before it in the stream: that is answered, as far as it can be at once.
        for (origin, error) in ended {
            self.end_stream(origin, error, output);
        }
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

    fn turn_end(&mut self, _now: Now, _output: &mut Output<'_>) {}

    fn next_deadline(&self) -> Option<Monotonic> {
        self.shard.next_deadline()
    }

    fn deadline(&mut self, now: Now, output: &mut Output<'_>) {
        self.shard.handle(now, Input::Deadline, output);
    }

    fn begin_shutdown(&mut self, now: Now, output: &mut Output<'_>) {
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

    fn take_changed(&mut self, count_max: usize, visit: impl FnMut(PartitionId, PartitionState)) {
        self.shard.take_changed(count_max, visit);
    }
}

impl Effects for Output<'_> {
    fn reply_buffer(&mut self, origin: Origin, last: bool) -> Option<&mut BytesMut> {
        Output::reply_buffer(self, origin, last)
    }

    fn write(&mut self, write: SegmentWrite) {
        Output::write(self, write);
    }

    fn prepare_segment(&mut self, segment: SegmentId) {
        Output::prepare_segment(self, segment);
    }
}
