//! From received bytes to frames: the loop's part that knows what a connection speaks.
//!
//! Frames are cut where they were received. Only the beginning of a frame whose end hasn't come is
//! copied, to its connection's `held` bytes, and what comes while a connection is stopped.

use std::io;

use super::buffer_pool::ReceivedBuffer;
use super::client_frame::{FrameRefusal, frame_size};
use super::connection::{Phase, Protocol, Receive};
use super::event_loop::EventLoop;
use super::pass::Chunk;
use super::peers::link::Carrier;
use super::service::{Service, WireStatus};
use super::sniff::{Foreign, Sniffed, sniff};
use super::uring::Key;
use crate::base::cast::u64_from;
use crate::base::limits::FRAME_PREFIX_SIZE_BYTES;
use crate::metrics::DropReason;
use crate::wire::error::StatusCode;

impl<S: Service> EventLoop<S> {
    /// Something came in on a connection, or its receive ended.
    pub(super) fn received(
        &mut self,
        key: Key,
        data: io::Result<Option<ReceivedBuffer>>,
        more: bool,
    ) {
        let connection = self.connections.of(key);
        if !more {
            connection.receive = Receive::Idle;
            self.connections.mark_dirty(key.slot);
        }
        match data {
            Ok(Some(buffer)) => self.consume(key, buffer),
            Ok(None) => self.peer_ended(key),
            Err(error) => self.receive_failed(key, &error),
        }
    }

    /// Goes on with a connection that was stopped: cuts what it holds.
    pub(super) fn resume(&mut self, key: Key) {
        match self.connections.of(key).protocol {
            Protocol::Grpc(_) => return self.take_messages(key),
            Protocol::Peer(_) => return self.take_carried(key),
            Protocol::Sniffing | Protocol::Raw => {}
        }
        let held = self.connections.take_held(key);
        self.pass.begin(Chunk::Held(held));
        self.cut_chunk(key, 0);
    }

    fn peer_ended(&mut self, key: Key) {
        let connection = self.connections.of(key);
        connection.ended = true;
        if let Protocol::Grpc(grpc) = &mut connection.protocol {
            grpc.received_eof();
        }
        if connection.is_mid_frame() {
            tracing::warn!(slot = key.slot, "a client closed its side in the middle of a frame");
            self.metrics.drops.count(DropReason::CutMidFrame);
        }
        let is_link = self.connections.of(key).link().is_some_and(|link| !link.is_leaving());
        if is_link && self.connections.of(key).phase == Phase::Open {
            self.connections.cut(key, DropReason::MemberLeft, &mut self.metrics);
        }
        self.connections.mark_dirty(key.slot);
    }

    fn receive_failed(&mut self, key: Key, error: &io::Error) {
        match error.raw_os_error() {
            // We cancelled it; or the pool was empty: settling the connection arms it again.
            Some(libc::ECANCELED) => {}
            Some(libc::ENOBUFS) => self.metrics.receive_pool_empty_count += 1,
            _ => {
                let connection = self.connections.of(key);
                connection.ended = true;
                let reason = if connection.is_mid_frame() {
                    tracing::warn!(slot = key.slot, %error, "cut in the middle of a frame");
                    DropReason::CutMidFrame
                } else {
                    // Clients that end without a goodbye are nothing unusual.
                    tracing::debug!(slot = key.slot, %error, "a connection failed");
                    DropReason::ConnectionFailed
                };
                self.connections.cut(key, reason, &mut self.metrics);
            }
        }
    }

    fn consume(&mut self, key: Key, buffer: ReceivedBuffer) {
        self.metrics.received_size_bytes += u64_from(buffer.len());
        let connection = self.connections.of(key);
        if connection.phase != Phase::Open {
            return self.ring.buffers_mut().give_back(buffer);
        }
        match connection.protocol {
            Protocol::Sniffing => self.consume_first(key, buffer),
            Protocol::Raw if connection.stopped => {
                self.hold(key, &buffer);
                self.ring.buffers_mut().give_back(buffer);
            }
            Protocol::Raw => self.consume_raw(key, buffer),
            Protocol::Grpc(_) => self.consume_grpc(key, buffer),
            Protocol::Peer(_) => self.consume_peer(key, buffer),
        }
    }

    /// The first bytes of a connection, as a rule all of them in one buffer.
    fn consume_first(&mut self, key: Key, buffer: ReceivedBuffer) {
        if self.connections.of(key).held.is_empty() {
            match sniff(self.ring.buffers().bytes(&buffer)) {
                Sniffed::Hello if self.peers.network().is_some() => {
                    self.expect_greeting(key, Carrier::Frames);
                    return self.consume_peer(key, buffer);
                }
                // Who is alone refuses a greeting as it refuses any frame that clients don't send.
                Sniffed::Raw | Sniffed::Hello => {
                    self.connections.of(key).recognise(Protocol::Raw);
                    return self.consume_raw(key, buffer);
                }
                Sniffed::Http2 => {
                    self.connections.begin_grpc(key, self.peers.network().is_some());
                    return self.consume_grpc(key, buffer);
                }
                Sniffed::Undecided | Sniffed::Foreign(_) => {}
            }
        }
        self.hold(key, &buffer);
        self.ring.buffers_mut().give_back(buffer);
        match sniff(&self.connections.of(key).held) {
            Sniffed::Undecided => {}
            Sniffed::Raw | Sniffed::Hello => {
                self.connections.of(key).recognise(Protocol::Raw);
                self.resume(key);
            }
            Sniffed::Http2 => {
                self.connections.begin_grpc(key, self.peers.network().is_some());
                self.take_messages(key);
            }
            Sniffed::Foreign(foreign) => self.refuse_foreign(key, foreign),
        }
    }

    fn refuse_foreign(&mut self, key: Key, foreign: Foreign) {
        tracing::warn!(slot = key.slot, ?foreign, "a connection speaks what isn't spoken here");
        let connections = &mut self.connections;
        connections.end_with(key, foreign.answer(), foreign.drop_reason(), &mut self.metrics);
    }

    fn consume_raw(&mut self, key: Key, buffer: ReceivedBuffer) {
        let used = match self.complete_held(key, &buffer) {
            Ok(used) => used,
            Err(error) => {
                self.ring.buffers_mut().give_back(buffer);
                return self.refuse_frame(key, error);
            }
        };
        self.pass.begin(Chunk::Received(buffer));
        self.cut_chunk(key, used);
    }

    /// Adds to a begun frame what it lacks, and hands it to the pass if that completes it. Returns
    /// how many of the received bytes were used.
    fn complete_held(&mut self, key: Key, buffer: &ReceivedBuffer) -> Result<usize, FrameRefusal> {
        let mut used = 0;
        while !self.connections.of(key).held.is_empty() {
            let held = &self.connections.of(key).held;
            // As far as is known: the prefix says more.
            let wanted = frame_size(held)?.unwrap_or(FRAME_PREFIX_SIZE_BYTES);
            let missing = wanted.saturating_sub(held.len());
            if missing == 0 {
                self.resume(key);
                break;
            }
            let rest = &self.ring.buffers().bytes(buffer)[used..];
            let taken = missing.min(rest.len());
            if taken == 0 {
                break;
            }
            let fits = self.connections.hold(key, &rest[..taken]);
            used += taken;
            if !fits {
                self.refuse_holding(key);
            }
        }
        Ok(used)
    }

    /// Cuts the chunk with which the pass was begun into frames.
    fn cut_chunk(&mut self, key: Key, from: usize) {
        let mut at = from;
        while self.connections.of(key).phase == Phase::Open {
            let rest = &self.pass.current(self.ring.buffers())[at..];
            match frame_size(rest) {
                Ok(Some(size)) if size <= rest.len() => {
                    if self.pass.is_full() {
                        self.deliver();
                    }
                    if self.connections.of(key).stopped
                        || !self.connections.admit(key, &mut self.metrics)
                    {
                        self.hold_rest(key, at);
                        break;
                    }
                    let origin = self.connections.origin_of(key, 0);
                    self.pass.push(origin, at + FRAME_PREFIX_SIZE_BYTES..at + size);
                    at += size;
                }
                Ok(_) => {
                    self.hold_rest(key, at);
                    break;
                }
                Err(error) => {
                    // What came before it is still answered, as far as it can be at once.
                    self.deliver();
                    if self.connections.of(key).stopped {
                        self.hold_rest(key, at);
                        break;
                    }
                    self.refuse_frame(key, error);
                }
            }
        }
        self.pass.end();
    }

    fn hold_rest(&mut self, key: Key, from: usize) {
        let fits = match self.pass.take_rest(from) {
            // Or it has come back with frames before it.
            Some(rest) => rest.is_empty() || self.connections.hold_again(key, rest, from),
            None => {
                let rest = &self.pass.current(self.ring.buffers())[from..];
                self.connections.hold(key, rest)
            }
        };
        if !fits {
            self.refuse_holding(key);
        }
    }

    fn hold(&mut self, key: Key, buffer: &ReceivedBuffer) {
        if !self.connections.hold(key, self.ring.buffers().bytes(buffer)) {
            self.refuse_holding(key);
        }
    }

    fn refuse_frame(&mut self, key: Key, error: FrameRefusal) {
        tracing::warn!(slot = key.slot, %error, "a connection is closed for a frame");
        let connections = &mut self.connections;
        connections.refuse(key, &error.status(), error.drop_reason(), &mut self.metrics);
    }

    pub(super) fn refuse_holding(&mut self, key: Key) {
        if let Some(suppressed) = self.accept_limit.admit(self.monotonic()) {
            tracing::warn!(suppressed, "clients hold all memory for unfinished frames");
        }
        let message = "too many bytes of unfinished frames".to_owned();
        let status = WireStatus { code: StatusCode::ResourceExhausted, message };
        self.connections.refuse(key, &status, DropReason::HeldLimit, &mut self.metrics);
    }
}
