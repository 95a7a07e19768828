//! The turn of a core: completions → rings → frames → passes → effects → one submission →
//! doorbells.
//!
//! Every stage has a cap, so a turn is bounded: completions that don't fit wait in the ring, frames
//! beyond the cap leave their completions for the next turn, a connection's queues have bounds of
//! their own. Nothing here waits; who drives the loop decides when it sleeps (`executor.rs`).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::clock::Clock;
use super::connections::Connections;
use super::core::{Core, Node};
use super::disk::{Disk, DiskNews};
use super::fatal::{Fatal, FatalReason};
use super::grpc::StreamId;
use super::halt;
use super::mesh::Mesh;
use super::observation::Observation;
use super::pass::Pass;
use super::peers::table::Peers;
use super::publishing::Publishing;
use super::rate_limit::RateLimit;
use super::ring_turn::Descent;
use super::service::Service;
use super::thread_usage::OwnThread;
use super::uring::{Completion, Key, Uring};
use crate::base::cast::u64_from;
use crate::base::limits::{
    PASS_COUNT_MAX, SHUTDOWN_NS_MAX, TURN_REQUEST_COUNT_MAX, YIELD_INTERVAL_NS,
};
use crate::base::time::{Monotonic, NS_PER_MS, Now};
use crate::metrics::{DropReason, LoopMetrics};

/// Completions that a turn takes from the ring.
const TURN_COMPLETION_COUNT_MAX: usize = 64;
/// So many bytes of answers weigh as much as a frame: else a turn of reads of the largest values
/// would take seconds and gigabytes.
pub(super) const TURN_FRAME_SIZE_BYTES: usize = 8 << 10;
/// How long accepting rests after it failed, for lack of descriptors as a rule.
const ACCEPT_PAUSE_NS: u64 = 100 * NS_PER_MS;
/// How long a loop stays awake for work that the kernel says is left, if there is none.
const LEFT_WORK_NS_MAX: u64 = NS_PER_MS;
const LISTENER: Key = Key { slot: 0, generation: 0 };

/// A loop's service, and the parts of the loop that it may use.
macro_rules! output {
    ($event_loop:expr) => {
        (
            &mut $event_loop.service,
            &mut crate::runtime::service::Output {
                connections: &mut $event_loop.connections,
                disk: &mut $event_loop.disk,
                mesh: &mut $event_loop.mesh,
                peers: &$event_loop.peers,
                weight: &mut $event_loop.turn_frames,
                metrics: &mut $event_loop.metrics,
            },
        )
    };
}
pub(super) use output;

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
pub(super) enum Accepting {
    /// Not all services of the node are ready yet.
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
    pub(super) mesh: Mesh,
    pub(super) peers: Peers,
    pub(super) observation: Observation<OwnThread>,
    pub(super) publishing: Publishing,
    pub(super) service: S,
    pub(super) disk: Disk,
    clock: Clock,
    pub(super) now: Now,
    pub(super) node: Arc<Node>,
    listener: Option<OwnedFd>,
    pub(super) accepting: Accepting,
    pub(super) started: bool,
    /// The service is, and the other cores were told.
    pub(super) ready: bool,
    /// The shard whose ring was looked at first in this turn.
    pub(super) first_link: usize,
    /// Connections that need not wait for credits any more; empty between turns.
    pub(super) served: Vec<Key>,
    /// Connections that the node counts as this core's.
    pub(super) counted_connections: usize,
    /// Unread bytes of clients that the other cores know of.
    pub(super) told_unread_size: usize,
    pub(super) descent: Descent,
    /// Reaped and not yet handled.
    pub(super) completions: VecDeque<Completion>,
    /// Frames handed over in this turn, and what weighs as much.
    pub(super) turn_frames: usize,
    /// Messages of a gRPC connection on their way to the pass; empty otherwise.
    pub(super) messages: Vec<(StreamId, Bytes)>,
    yielded_at: Monotonic,
    /// When a shutdown must be over.
    shutdown_by: Option<Monotonic>,
}

impl<S: Service> EventLoop<S> {
    /// The loop of the shard whose `mesh` it is, on the thread that will drive it.
    #[must_use]
    pub fn new(
        service: S,
        ring: Uring,
        disk: Disk,
        listener: OwnedFd,
        node: Arc<Node>,
        mesh: Mesh,
    ) -> Self {
        let clock = Clock::start();
        let network = node.network.clone();
        let peers = network.map_or(Peers::default(), |network| {
            Peers::new(network, mesh.me(), node.shard_count(), clock.monotonic())
        });
        Self {
            ring,
            peers,
            connections: Connections::new(mesh.me(), &node),
            pass: Pass::default(),
            metrics: LoopMetrics::default(),
            accept_limit: RateLimit::default(),
            mesh,
            observation: Observation::new(clock.monotonic(), OwnThread::new()),
            publishing: Publishing::default(),
            service,
            disk,
            clock,
            now: clock.now(),
            node,
            listener: Some(listener),
            accepting: Accepting::Waiting,
            started: false,
            ready: false,
            first_link: 0,
            served: Vec::new(),
            counted_connections: 0,
            told_unread_size: 0,
            descent: Descent::default(),
            completions: VecDeque::with_capacity(TURN_COMPLETION_COUNT_MAX),
            turn_frames: 0,
            messages: Vec::with_capacity(PASS_COUNT_MAX),
            yielded_at: Monotonic(0),
            shutdown_by: None,
        }
    }

    /// One turn.
    ///
    /// # Errors
    /// If the node must stop.
    pub fn turn(&mut self) -> Result<Turn, Fatal> {
        self.ring.submit().map_err(|error| Fatal::new(FatalReason::Ring, error))?;
        self.ring_doorbells();
        let room = TURN_COMPLETION_COUNT_MAX.saturating_sub(self.completions.len());
        self.ring.reap(&mut self.completions, room);
        self.now = self.clock.now();
        self.observation.turn_begins(self.now.monotonic, self.completions.len(), &mut self.metrics);
        let began = self.now.monotonic;
        self.yield_to_writes();
        let mut busy = !self.completions.is_empty() || self.connections.resumable_count() > 0;
        self.turn_frames = 0;
        busy |= self.begin();
        busy |= self.take_arrivals();
        busy |= self.take_member_arrivals();
        busy |= self.drain_rings();
        self.resume_stopped();
        while self.turn_frames < TURN_REQUEST_COUNT_MAX {
            let Some(completion) = self.completions.pop_front() else { break };
            self.complete(completion)?;
        }
        self.deliver();
        self.service.fatal().map_or(Ok(()), Err)?;
        busy |= self.take_disk_news()?;
        busy |= self.run_deadlines();
        busy |= self.run_peers();
        let (service, output) = output!(self);
        service.turn_end(self.now, output);
        busy |= self.disk.has_outgoing();
        self.disk.submit(&mut self.ring, self.now.monotonic);
        busy |= self.connections.has_dirty();
        self.connections.settle_all(self.now.monotonic, &mut self.ring, &mut self.metrics);
        self.hand_members_over();
        if self.mesh.publish() {
            self.metrics.published_count += 1;
            busy = true;
        }
        self.publish_connections();
        self.count_turn(began, busy);
        let descent = self.descent;
        if self.shut_down()? {
            self.ring_doorbells();
            while self.take_arrivals() {}
            self.publish_last();
            return Ok(Turn::Finished);
        }
        busy |= self.descent != descent;
        Ok(if busy { Turn::Busy } else { Turn::Idle })
    }

    /// A turn has panicked and `said` why: nothing is done with the loop after this.
    pub(super) fn halt(&self, said: &str) -> Fatal {
        let data_dir = Path::new(&self.node.facts.data_dir);
        halt::leave(said, data_dir, || self.service.halt_dump(said))
    }

    /// Announces that the loop will sleep on its eventfd, and looks once more. True: it may sleep.
    /// Either way [`EventLoop::wake`] must follow.
    ///
    /// # Errors
    /// If the node must stop.
    pub fn prepare_to_sleep(&mut self) -> Result<bool, Fatal> {
        self.ring_doorbells();
        self.core().announce_sleep();
        self.ring.set_eventfd_signals(true);
        let now = self.clock.monotonic();
        if let Some(deadline) = self.next_deadline() {
            if deadline <= now {
                return Ok(false);
            }
            self.ring.set_alarm(deadline, now);
        }
        self.ring.submit().map_err(|error| Fatal::new(FatalReason::Ring, error))?;
        self.ring.reap(&mut self.completions, TURN_COMPLETION_COUNT_MAX);
        let has_work = self.ring.has_work();
        if has_work {
            // The kernel can say so of work that is done. The next work takes that back.
            self.ring.set_alarm(now.after_ns(LEFT_WORK_NS_MAX), now);
        }
        let knows_shutdown = self.shutdown_by.is_some() || self.descent.retire_by.is_some();
        let shutdown_is_news = !knows_shutdown && self.node.shutdown.load(Ordering::Acquire);
        self.observation.sleeps(now);
        let idle = self.completions.is_empty()
            && !has_work
            && !self.connections.has_dirty()
            && self.connections.lost.is_empty()
            && !self.disk.poll_news()
            && !self.has_incoming()
            && !self.core().has_arrivals()
            && !self.progress_is_news()
            && !shutdown_is_news
            && !self.connections.has_resumable()
            && self.partitions_are_published();
        if idle {
            self.metrics.parks_count += 1;
            self.publish();
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

    pub(super) fn core(&self) -> &Core {
        &self.node.cores[usize::from(self.mesh.me().0)]
    }

    fn count_turn(&mut self, began: Monotonic, busy: bool) {
        let (left, reads) = (self.completions.len(), self.service.reads_count());
        self.observation.turn_ends(began, busy, left, reads);
        self.metrics.turns_count += 1;
        self.metrics.turns_busy_count += u64::from(busy);
        self.core().turns.store(self.metrics.turns_count, Ordering::Relaxed);
        self.publish_when_due();
    }

    /// Starts the service, and accepts connections once those of all cores are ready for them.
    fn begin(&mut self) -> bool {
        if self.ready && !matches!(self.accepting, Accepting::Waiting) {
            return false;
        }
        if !self.started {
            self.started = true;
            self.node.arrive(|progress| &progress.started_count);
            let (service, output) = output!(self);
            service.start(self.now, output);
            return true;
        }
        if !self.ready {
            self.ready = self.service.is_ready();
            if self.ready {
                self.node.arrive(|progress| &progress.ready_count);
            }
        }
        let is_waiting = matches!(self.accepting, Accepting::Waiting) && self.may_accept();
        let Some(listener) = self.listener.as_ref().filter(|_| is_waiting) else {
            return false;
        };
        self.ring.accept(listener.as_fd(), LISTENER);
        self.accepting = Accepting::Armed;
        true
    }

    /// Whether connections may be accepted: once requests are served; among other nodes before
    /// that, for no view starts without them.
    pub(super) fn may_accept(&self) -> bool {
        match self.node.network {
            Some(_) => self.node.all_arrived(|progress| &progress.started_count),
            None => self.ready && self.node.all_arrived(|progress| &progress.ready_count),
        }
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
                let now = self.now.monotonic;
                let (write, result) = self.disk.written(key, blocks, result, now);
                let size = write.blocks.len() * crate::base::limits::BLOCK_SIZE_BYTES;
                self.metrics.log_writes_count += 1;
                self.metrics.log_written_size_bytes += u64_from(size);
                let failure = result.as_ref().err().map(|error| {
                    let (segment, offset) = (write.segment, write.offset);
                    let place = format!("segment {segment}, offset {offset}");
                    let message = format!("the log can't be written ({place}): {error}");
                    Fatal::new(FatalReason::LogWrite, message)
                });
                let (service, output) = output!(self);
                service.written(self.now, write, result, output);
                return failure.map_or(Ok(()), Err);
            }
            Completion::Connected { key, result } => self.connected(key, &result),
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
            Ok(socket) => self.place(socket),
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
            if self.turn_frames >= TURN_REQUEST_COUNT_MAX {
                return;
            }
            let Some(key) = self.connections.next_resumable() else { return };
            self.resume(key);
        }
    }

    /// What comes before each pass: the time may have gone on a good deal since the last one.
    pub(super) fn begin_pass(&mut self) {
        self.now = self.clock.now();
        self.yield_to_writes();
    }

    /// Hands the pass over.
    pub(super) fn deliver(&mut self) {
        if self.pass.is_empty() {
            self.pass.clear(self.ring.buffers_mut());
            return;
        }
        self.begin_pass();
        let frames = self.pass.frames(self.ring.buffers());
        let (service, output) = output!(self);
        service.frames(self.now, &frames, output);
        self.metrics.passes_count += 1;
        let count = u64_from(frames.len() - self.mesh.deferred.len());
        self.metrics.frames_count += count;
        self.observation.pass(count);
        let queued = self.connections.recount_origins(frames.iter().map(|frame| frame.origin));
        self.turn_frames += frames.len() + queued / TURN_FRAME_SIZE_BYTES;
        drop(frames);
        if !self.mesh.deferred.is_empty() {
            self.put_back();
        }
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
            let (service, output) = output!(self);
            match news {
                DiskNews::Prepared(segment, result) => {
                    output.metrics.segments_prepared_count += u64::from(result.is_ok());
                    service.segment_prepared(now, segment, result, output);
                }
                DiskNews::Read(read) => service.segment_read(now, read, output),
                DiskNews::Space(left) => service.disk_space(now, left, output),
                DiskNews::Checkpoint(progress) => {
                    service.checkpoint_progressed(now, progress, output);
                }
                DiskNews::Scrub(news) => service.scrub(now, news, output),
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
            let (service, output) = output!(self);
            service.deadline(self.now, output);
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
            self.shutdown_by.or(self.descent.retire_by),
            self.next_dial(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Whether a shutdown is under way.
    pub(super) fn is_going_down(&self) -> bool {
        self.shutdown_by.is_some()
    }

    /// Goes on with a shutdown, if there is one. True: it is complete.
    fn shut_down(&mut self) -> Result<bool, Fatal> {
        let Some(by) = self.shutdown_by else {
            if self.node.shutdown.load(Ordering::Acquire) && self.retire() {
                self.begin_shutdown();
            }
            return Ok(false);
        };
        self.descend();
        if self.is_drained() && !self.keeps_clients_waiting() {
            self.connections.cut_members(&mut self.metrics);
        }
        if self.descent.quiet && self.all_are_quiet() {
            return Ok(true);
        }
        // A core that still reads its log can't come along, and isn't to blame.
        let all_have_started = self.node.all_arrived(|progress| &progress.started_count);
        if !all_have_started {
            self.shutdown_by = Some(self.now.monotonic.after_ns(SHUTDOWN_NS_MAX));
            return Ok(false);
        }
        if self.now.monotonic < by {
            return Ok(false);
        }
        self.connections.cut_all(DropReason::ShutdownTimeout, &mut self.metrics);
        if self.is_drained() {
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
        let (service, output) = output!(self);
        service.begin_shutdown(self.now, output);
    }
}

#[cfg(test)]
mod tests;
