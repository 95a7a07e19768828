//! gRPC connections in a loop's turn: received bytes become messages of the pass, and settling one
//! moves what its streams have to say into the socket's queue.
//!
//! The bounds are those of raw connections. A [`GrpcConnection`] is allowed as many messages at a
//! time as the pass has room for, so that what they are answered counts before the next are taken;
//! where a raw connection is no longer read, a gRPC one is allowed none, and its windows fill up.

use std::mem;

use bytes::Bytes;

use super::buffer_pool::ReceivedBuffer;
use super::connection::{Phase, Protocol, Wait};
use super::connections::Connections;
use super::event_loop::EventLoop;
use super::grpc::{CloseReason, ConnectionState, GrpcConnection, StreamId};
use super::service::Service;
use super::uring::Key;
use crate::base::limits::{
    HELD_SIZE_BYTES_MAX, LINGER_NS_MAX, PASS_COUNT_MAX, TURN_REQUEST_COUNT_MAX,
};
use crate::base::time::Monotonic;
use crate::metrics::{DropReason, LoopMetrics};

/// How often settling polls a connection at most; what remains is for the next turn.
pub(super) const SETTLE_POLL_COUNT_MAX: usize = 4;

impl<S: Service> EventLoop<S> {
    /// Bytes came on a gRPC connection.
    pub(super) fn consume_grpc(&mut self, key: Key, buffer: ReceivedBuffer) {
        let fits = self.connections.receive_grpc(key, self.ring.buffers().bytes(&buffer));
        self.ring.buffers_mut().give_back(buffer);
        if !fits {
            return self.refuse_holding(key);
        }
        self.take_messages(key);
    }

    /// Hands the messages of a gRPC connection to the pass, as many as the bounds allow.
    pub(super) fn take_messages(&mut self, key: Key) {
        let waits = self.connections.of(key).wait != Wait::None;
        if waits || !self.take_given_back(key) {
            self.connections.recount_held(key);
            self.connections.mark_dirty(key.slot);
            return;
        }
        loop {
            if self.turn_frames + self.pass.len() >= TURN_REQUEST_COUNT_MAX {
                self.connections.resume_next_turn(key);
                break;
            }
            if self.pass.is_full() {
                self.deliver();
                if !self.connections.of(key).given_back.is_empty() {
                    break;
                }
            }
            let allowed = self.connections.room(key).min(PASS_COUNT_MAX - self.pass.len());
            let now = self.monotonic();
            let has_unread = self.connections.poll_grpc(key, allowed, now, &mut self.messages);
            if let Some(lane) = self.connections.take_lane(key) {
                return self.begin_carried(key, lane);
            }
            let taken = self.messages.len();
            for (stream, payload) in self.messages.drain(..) {
                self.connections.count_request(key);
                let origin = self.connections.origin_of(key, stream.0);
                self.pass.push_payload(origin, payload);
            }
            if !has_unread {
                break;
            }
            if taken == 0 {
                self.connections.stop(key, &mut self.metrics);
                break;
            }
        }
        self.connections.recount_held(key);
        self.connections.mark_dirty(key.slot);
    }

    /// Hands the messages to the pass that were given back by an earlier one. False: some have to
    /// wait.
    fn take_given_back(&mut self, key: Key) -> bool {
        while let before @ 1.. = self.connections.of(key).given_back.len() {
            if self.turn_frames + self.pass.len() >= TURN_REQUEST_COUNT_MAX {
                self.connections.resume_next_turn(key);
                return false;
            }
            if self.pass.is_full() {
                self.deliver();
                if self.connections.of(key).given_back.len() > before {
                    return false;
                }
            }
            if self.connections.room(key) == 0 {
                self.connections.stop(key, &mut self.metrics);
                return false;
            }
            if let Some((stream, payload)) = self.connections.of(key).given_back.pop_front() {
                self.connections.count_request(key);
                let origin = self.connections.origin_of(key, stream.0);
                self.pass.push_payload(origin, payload);
            }
        }
        true
    }
}

impl Connections {
    /// A connection speaks gRPC; it may have begun to. Other members may, if there are any.
    pub(super) fn begin_grpc(&mut self, key: Key, takes_members: bool) {
        let begun = self.take_held(key);
        let grpc = GrpcConnection::new(!self.draining);
        let mut grpc = Box::new(if takes_members { grpc.taking_members() } else { grpc });
        grpc.receive(&begun);
        self.of(key).recognise(Protocol::Grpc(grpc));
    }

    /// Gives a gRPC connection what came; false if all connections together hold too much already.
    fn receive_grpc(&mut self, key: Key, bytes: &[u8]) -> bool {
        if self.held_size + bytes.len() > HELD_SIZE_BYTES_MAX {
            return false;
        }
        if let Protocol::Grpc(grpc) = &mut self.of(key).protocol {
            grpc.receive(bytes);
        }
        true
    }

    /// Takes at most `allowed` messages; true if there are more.
    fn poll_grpc(
        &mut self,
        key: Key,
        allowed: usize,
        now: Monotonic,
        messages: &mut Vec<(StreamId, Bytes)>,
    ) -> bool {
        self.lend_output(key);
        let Protocol::Grpc(grpc) = &mut self.of(key).protocol else { return false };
        grpc.set_allowance(allowed);
        // What has become of it is looked at when it is settled.
        let _ = grpc.poll(now, messages);
        assert!(messages.len() <= allowed, "no more messages come than are allowed");
        grpc.has_unread()
    }

    /// Moves a gRPC connection as far as it goes without handing out messages, and its output to
    /// the socket's queue. Does nothing for others.
    pub(super) fn settle_grpc(&mut self, key: Key, now: Monotonic, metrics: &mut LoopMetrics) {
        self.lend_output(key);
        let draining = self.draining;
        let connection = self.of(key);
        let Protocol::Grpc(grpc) = &mut connection.protocol else { return };
        if connection.phase > Phase::Finishing {
            return;
        }
        grpc.set_allowance(0);
        let mut due = grpc.next_deadline().is_some_and(|deadline| deadline <= now);
        for _ in 0..SETTLE_POLL_COUNT_MAX {
            if due || grpc.needs_poll() {
                let _ = grpc.poll(now, &mut Vec::new());
            }
            if connection.sending_size == 0 && connection.output.is_empty() {
                mem::swap(&mut connection.output, grpc.output());
            }
            due = false;
            if !grpc.needs_poll() {
                break;
            }
        }
        let has_more = grpc.needs_poll();
        let is_open = connection.phase == Phase::Open;
        let waits_for_pass = is_open && !connection.stopped && grpc.has_unread();
        for _ in 0..grpc.take_unread_count() {
            metrics.drops.count(DropReason::Unread);
        }
        let unused = grpc.output().is_empty().then(|| mem::take(grpc.output()));
        if let ConnectionState::Closed(reason) = grpc.state()
            && is_open
        {
            connection.phase = Phase::Finishing;
            if let Some(counted) = drop_reason(reason) {
                tracing::warn!(slot = key.slot, %reason, "a gRPC connection is closed");
                metrics.drops.count(counted);
            }
        }
        let served = connection.requests_in_flight == 0 && connection.queued_size() == 0;
        if draining && served && connection.phase_by.is_none() {
            // It ends by itself if the client answers, but that isn't waited for long.
            connection.phase_by = Some(now.after_ns(LINGER_NS_MAX));
        }
        if let Some(unused) = unused {
            self.keep_spare(unused);
        }
        self.recount_held(key);
        if has_more {
            self.mark_dirty(key.slot);
        }
        if waits_for_pass {
            self.resume_next_turn(key);
        }
    }

    /// Output buffers are shared by all connections: an idle one has none.
    fn lend_output(&mut self, key: Key) {
        let Protocol::Grpc(grpc) = &mut self.of(key).protocol else { return };
        if grpc.output().capacity() > 0 {
            return;
        }
        if let Some(spare) = self.spare.pop()
            && let Protocol::Grpc(grpc) = &mut self.of(key).protocol
        {
            *grpc.output() = spare;
        }
    }
}

/// How the end of a connection is counted, if there is something wrong with it.
fn drop_reason(reason: CloseReason) -> Option<DropReason> {
    match reason {
        CloseReason::Finished | CloseReason::Http2(h2::Reason::NO_ERROR) => None,
        CloseReason::Http2(_) => Some(DropReason::Http2),
        CloseReason::NoPreface => Some(DropReason::UnknownProtocol),
        CloseReason::Silent => Some(DropReason::Silent),
    }
}
