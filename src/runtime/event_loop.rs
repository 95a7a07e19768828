//! The turn of a core: completions → frames → passes → effects → one submission.
//!
//! Every stage has a cap, so a turn is bounded: completions that don't fit wait in the ring, frames
//! beyond the cap leave their completions for the next turn, a connection's queues have bounds of
//! their own. Nothing here waits; who drives the loop decides when it sleeps (`executor.rs`).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::clock::Clock;
use super::connections::Connections;
use super::core::{Core, Node};
use super::disk::{Disk, DiskNews};
use super::fatal::{Fatal, FatalReason};
use super::grpc::StreamId;
use super::pass::Pass;
use super::rate_limit::RateLimit;
use super::service::{Output, Service};
use super::uring::{Completion, Key, Uring};
use crate::base::cast::u64_from;
use crate::base::limits::{PASS_COUNT_MAX, SHUTDOWN_NS_MAX, YIELD_INTERVAL_NS};
use crate::base::time::{Monotonic, NS_PER_MS, Now};
use crate::metrics::{DropReason, LoopMetrics};

/// Completions that a turn takes from the ring.
const TURN_COMPLETION_COUNT_MAX: usize = 64;
/// Frames after which a turn leaves the rest of its completions to the next one.
pub(super) const TURN_FRAME_COUNT_MAX: usize = 1_024;
/// So many bytes of answers weigh as much as a frame: else a turn of reads of the largest values
/// would take seconds and gigabytes.
const TURN_FRAME_SIZE_BYTES: usize = 8 << 10;
/// How long accepting rests after it failed, for lack of descriptors as a rule.
const ACCEPT_PAUSE_NS: u64 = 100 * NS_PER_MS;
/// How often a loop that doesn't sleep shows its counters.
const PUBLISH_INTERVAL_NS: u64 = 100 * NS_PER_MS;
const LISTENER: Key = Key { slot: 0, generation: 0 };

/// What a turn says to who drives the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There was something to do, and there may be more.
    Busy,
    /// There was nothing to do.
    Idle,
    /// The shutdown is complete.
    Finished,
}

/// The listener's state.
#[derive(Debug)]
enum Accepting {
    /// The service isn't ready yet.
    Waiting,
    /// Connections are accepted.
    Armed,
    /// It failed, and begins again then.
    Resting(Monotonic),
    /// The node stops.
    Ended,
}

/// A core's loop.
#[derive(Debug)]
pub struct EventLoop<S> {
    pub(super) ring: Uring,
    pub(super) connections: Connections,
    pub(super) pass: Pass,
    pub(super) metrics: LoopMetrics,
    pub(super) accept_limit: RateLimit,
    service: S,
    disk: Disk,
    clock: Clock,
    now: Now,
    node: Arc<Node>,
    shard: usize,
    listener: Option<OwnedFd>,
    accepting: Accepting,
    started: bool,
    /// Reaped and not yet handled.
    completions: VecDeque<Completion>,
    /// Frames handed over in this turn.
    pub(super) turn_frames: usize,
    /// Messages of a gRPC connection on their way to the pass; empty otherwise.
    pub(super) messages: Vec<(StreamId, Bytes)>,
    yielded_at: Monotonic,
    published_at: Monotonic,
    /// When a shutdown must be over.
    shutdown_by: Option<Monotonic>,
}

impl<S: Service> EventLoop<S> {
    /// The loop of the shard `shard`, on the thread that will drive it.
    #[must_use]
    pub fn new(
        service: S,
        ring: Uring,
        disk: Disk,
        listener: OwnedFd,
        node: Arc<Node>,
        shard: usize,
    ) -> Self {
        let clock = Clock::start();
        Self {
            ring,
            connections: Connections::new(node.connection_count_max),
            pass: Pass::default(),
            metrics: LoopMetrics::default(),
            accept_limit: RateLimit::default(),
            service,
            disk,
            clock,
            now: clock.now(),
            node,
            shard,
            listener: Some(listener),
            accepting: Accepting::Waiting,
            started: false,
            completions: VecDeque::with_capacity(TURN_COMPLETION_COUNT_MAX),
            turn_frames: 0,
            messages: Vec::with_capacity(PASS_COUNT_MAX),
            yielded_at: Monotonic(0),
            published_at: Monotonic(0),
            shutdown_by: None,
        }
    }

    /// One turn.
    ///
    /// # Errors
    /// If the node must stop.
    pub fn turn(&mut self) -> Result<Turn, Fatal> {
        self.ring.submit().map_err(|error| Fatal::new(FatalReason::Ring, error))?;
        let room = TURN_COMPLETION_COUNT_MAX.saturating_sub(self.completions.len());
        self.ring.reap(&mut self.completions, room);
        self.now = self.clock.now();
        self.yield_to_writes();
        let mut busy = !self.completions.is_empty() || self.connections.resumable_count() > 0;
        self.turn_frames = 0;
        busy |= self.begin();
        self.resume_stopped();
        while self.turn_frames < TURN_FRAME_COUNT_MAX {
            let Some(completion) = self.completions.pop_front() else { break };
            self.complete(completion)?;
        }
        self.deliver();
        busy |= self.take_disk_news()?;
        busy |= self.run_deadlines();
        let output = &mut output(&mut self.connections, &mut self.disk, &mut self.metrics);
        self.service.turn_end(self.now, output);
        busy |= self.disk.has_outgoing();
        self.disk.submit(&mut self.ring);
        busy |= self.connections.has_dirty();
        self.connections.settle_all(self.now.monotonic, &mut self.ring, &mut self.metrics);
        self.count_turn(busy);
        if self.shut_down()? {
            self.core().publish(&self.metrics);
            return Ok(Turn::Finished);
        }
        Ok(if busy { Turn::Busy } else { Turn::Idle })
    }

    /// Announces that the loop will sleep on its eventfd, and looks once more. True: it may sleep.
    /// Either way [`EventLoop::wake`] must follow.
    ///
    /// # Errors
    /// If the node must stop.
    pub fn prepare_to_sleep(&mut self) -> Result<bool, Fatal> {
        self.core().announce_sleep();
        self.ring.set_eventfd_signals(true);
        let now = self.clock.monotonic();
        if let Some(deadline) = self.next_deadline() {
            let delay_ns = deadline.since_ns(now);
            if delay_ns == 0 {
                return Ok(false);
            }
            self.ring.set_alarm(Duration::from_nanos(delay_ns));
        }
        self.ring.submit().map_err(|error| Fatal::new(FatalReason::Ring, error))?;
        self.ring.reap(&mut self.completions, TURN_COMPLETION_COUNT_MAX);
        let shutdown_is_news =
            self.shutdown_by.is_none() && self.node.shutdown.load(Ordering::Acquire);
        let idle = self.completions.is_empty()
            && !self.connections.has_dirty()
            && !self.disk.poll_news()
            && !shutdown_is_news;
        if idle {
            self.metrics.parks_count += 1;
            self.core().publish(&self.metrics);
        }
        Ok(idle)
    }

    /// The loop is awake again.
    pub fn wake(&mut self) {
        self.core().announce_awake();
        self.ring.set_eventfd_signals(false);
    }

    /// The time of this turn.
    pub(super) fn monotonic(&self) -> Monotonic {
        self.now.monotonic
    }

    /// Whether the service serves requests.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.service.is_ready()
    }

    /// What the loop did.
    #[must_use]
    pub fn metrics(&self) -> &LoopMetrics {
        &self.metrics
    }

    fn core(&self) -> &Core {
        &self.node.cores[self.shard]
    }

    fn count_turn(&mut self, busy: bool) {
        self.metrics.turns_count += 1;
        self.metrics.turns_busy_count += u64::from(busy);
        self.core().turns.store(self.metrics.turns_count, Ordering::Relaxed);
        if self.now.monotonic.since_ns(self.published_at) >= PUBLISH_INTERVAL_NS {
            self.published_at = self.now.monotonic;
            self.core().publish(&self.metrics);
        }
    }

    /// Starts the service, and accepts connections once it is ready for them.
    fn begin(&mut self) -> bool {
        if !matches!(self.accepting, Accepting::Waiting) {
            return false;
        }
        if !self.started {
            self.started = true;
            let output = &mut output(&mut self.connections, &mut self.disk, &mut self.metrics);
            self.service.start(self.now, output);
            return true;
        }
        let Some(listener) = self.listener.as_ref().filter(|_| self.service.is_ready()) else {
            return false;
        };
        self.ring.accept(listener.as_fd(), LISTENER);
        self.accepting = Accepting::Armed;
        true
    }

    /// Lets the scheduler run what finishes synced writes, often enough while there are any.
    fn yield_to_writes(&mut self) {
        if self.node.writes_in_flight.load(Ordering::Relaxed) == 0 {
            return;
        }
        if self.now.monotonic.since_ns(self.yielded_at) >= YIELD_INTERVAL_NS {
            rustix::thread::sched_yield();
            self.yielded_at = self.clock.monotonic();
        }
    }

    fn complete(&mut self, completion: Completion) -> Result<(), Fatal> {
        match completion {
            Completion::Accepted { socket, more } => self.accepted(socket, more),
            Completion::Received { key, data, more } => self.received(key, data, more),
            Completion::Sent { key, bytes, result } => {
                self.connections.sent(key, bytes, &result, &mut self.metrics);
            }
            Completion::Written { key, blocks, result } => {
                let (write, result) = self.disk.written(key, blocks, result);
                let size = write.blocks.len() * crate::base::limits::BLOCK_SIZE_BYTES;
                self.metrics.log_writes_count += 1;
                self.metrics.log_written_size_bytes += u64_from(size);
                let failure = result.as_ref().err().map(|error| {
                    let (segment, offset) = (write.segment, write.offset);
                    let place = format!("segment {segment}, offset {offset}");
                    let message = format!("the log can't be written ({place}): {error}");
                    Fatal::new(FatalReason::LogWrite, message)
                });
                let output = &mut output(&mut self.connections, &mut self.disk, &mut self.metrics);
                self.service.written(self.now, write, result, output);
                return failure.map_or(Ok(()), Err);
            }
            Completion::Alarm => {}
        }
        Ok(())
    }

    fn accepted(&mut self, socket: io::Result<OwnedFd>, more: bool) {
        let now = self.now.monotonic;
        if !more && !matches!(self.accepting, Accepting::Ended) {
            self.accepting = Accepting::Resting(now);
        }
        match socket {
            // It came while the listener was being closed: the peer tries another node.
            Ok(_) if matches!(self.accepting, Accepting::Ended) => {}
            Ok(socket) => self.connections.open(socket, now, &mut self.metrics),
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {}
            Err(error) => {
                self.metrics.accept_errors_count += 1;
                if let Some(suppressed) = self.accept_limit.admit(now) {
                    tracing::warn!(%error, suppressed, "a connection can't be accepted");
                }
                if !more {
                    self.accepting = Accepting::Resting(now.after_ns(ACCEPT_PAUSE_NS));
                }
            }
        }
    }

    fn resume_stopped(&mut self) {
        // Those that are queued meanwhile have had their part of this turn.
        for _ in 0..self.connections.resumable_count() {
            if self.turn_frames >= TURN_FRAME_COUNT_MAX {
                return;
            }
            let Some(key) = self.connections.next_resumable() else { return };
            self.resume(key);
        }
    }

    /// Hands the pass over.
    pub(super) fn deliver(&mut self) {
        if self.pass.is_empty() {
            self.pass.clear(self.ring.buffers_mut());
            return;
        }
        self.now = self.clock.now();
        self.yield_to_writes();
        let frames = self.pass.frames(self.ring.buffers());
        let output = &mut output(&mut self.connections, &mut self.disk, &mut self.metrics);
        self.service.frames(self.now, &frames, output);
        self.metrics.passes_count += 1;
        self.metrics.frames_count += u64_from(frames.len());
        let queued = self.connections.recount_origins(frames.iter().map(|frame| frame.origin));
        self.turn_frames += frames.len() + queued / TURN_FRAME_SIZE_BYTES;
        drop(frames);
        self.pass.clear(self.ring.buffers_mut());
    }

    /// Passes on what the disk's helper has to say.
    fn take_disk_news(&mut self) -> Result<bool, Fatal> {
        let mut busy = false;
        while let Some(news) = self.disk.next_news() {
            busy = true;
            let now = self.now;
            let failure = match &news {
                DiskNews::Prepared(segment, Err(error)) => {
                    tracing::error!(%segment, %error, "a segment can't be prepared");
                    let message = || format!("segments can't be prepared: {error}");
                    let fatal = || Fatal::new(FatalReason::SegmentPreparation, message());
                    self.disk.cannot_prepare().then(fatal)
                }
                _ => None,
            };
            let output = &mut output(&mut self.connections, &mut self.disk, &mut self.metrics);
            match news {
                DiskNews::Prepared(segment, result) => {
                    output.metrics.segments_prepared_count += u64::from(result.is_ok());
                    self.service.segment_prepared(now, segment, result, output);
                }
                DiskNews::Read(read) => self.service.segment_read(now, read, output),
                DiskNews::Space(left) => self.service.disk_space(now, left, output),
                DiskNews::Scrub(news) => self.service.scrub(now, news, output),
            }
            failure.map_or(Ok(()), Err)?;
        }
        Ok(busy)
    }

    fn run_deadlines(&mut self) -> bool {
        let mut busy = false;
        let now = self.now.monotonic;
        if self.service.next_deadline().is_some_and(|deadline| deadline <= now) {
            busy = true;
            let output = &mut output(&mut self.connections, &mut self.disk, &mut self.metrics);
            self.service.deadline(self.now, output);
        }
        self.connections.sweep(now, &mut self.metrics);
        if let (Accepting::Resting(until), Some(listener)) = (&self.accepting, &self.listener)
            && *until <= now
        {
            self.ring.accept(listener.as_fd(), LISTENER);
            self.accepting = Accepting::Armed;
            busy = true;
        }
        busy
    }

    fn next_deadline(&self) -> Option<Monotonic> {
        let resting = match self.accepting {
            Accepting::Resting(until) => Some(until),
            Accepting::Waiting | Accepting::Armed | Accepting::Ended => None,
        };
        let deadlines = [
            self.service.next_deadline(),
            self.connections.deadlines.next_sweep(),
            resting,
            self.shutdown_by,
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Goes on with a shutdown, if there is one. True: it is complete.
    fn shut_down(&mut self) -> Result<bool, Fatal> {
        let Some(by) = self.shutdown_by else {
            if self.node.shutdown.load(Ordering::Acquire) {
                self.begin_shutdown();
            }
            return Ok(false);
        };
        let drained = self.service.is_drained() && self.disk.is_idle();
        if drained && self.connections.count() == 0 {
            return Ok(true);
        }
        if self.now.monotonic < by {
            return Ok(false);
        }
        self.connections.cut_all(DropReason::ShutdownTimeout, &mut self.metrics);
        if drained {
            return Ok(true);
        }
        let message = "the shutdown's time was up before everything in flight was finished";
        Err(Fatal::new(FatalReason::ShutdownTimeout, message))
    }

    fn begin_shutdown(&mut self) {
        tracing::info!(connections = self.connections.count(), "finishing what is in flight");
        self.shutdown_by = Some(self.now.monotonic.after_ns(SHUTDOWN_NS_MAX));
        if matches!(self.accepting, Accepting::Armed) {
            self.ring.cancel_accept(LISTENER);
        }
        self.accepting = Accepting::Ended;
        self.listener = None;
        self.connections.drain();
        let output = &mut output(&mut self.connections, &mut self.disk, &mut self.metrics);
        self.service.begin_shutdown(self.now, output);
    }
}

/// The parts of the loop that a service may use, beside the service itself.
fn output<'a>(
    connections: &'a mut Connections,
    disk: &'a mut Disk,
    metrics: &'a mut LoopMetrics,
) -> Output<'a> {
    Output { connections, disk, metrics }
}

#[cfg(test)]
mod tests;
