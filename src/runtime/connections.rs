//! The connections of a core, and the bounds that they share.
//!
//! Whatever happens to a connection marks it *dirty*; at the end of the turn each dirty one is
//! settled (`settle.rs`): the one place where sends, receives, cancellations and closes are issued.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use bytes::{Buf, BytesMut};

use super::connection::{Connection, Phase, Protocol, Wait};
use super::core::Node;
use super::deadlines::Deadlines;
use super::grpc::StreamId;
use super::peers::WayId;
use super::peers::link::PeerLink;
use super::refusal;
use super::service::WireStatus;
use super::uring::Key;
use crate::base::cast::{u32_from, u64_from, usize_from_u32};
use crate::base::ids::{Origin, ShardId};
use crate::base::limits::{
    FORWARDED_PER_CONNECTION_MAX, FORWARDED_PER_CONNECTION_MIN, REQUESTS_PER_CONNECTION_MAX,
    REQUESTS_PER_SHARD_MAX, SEND_QUEUE_SIZE_BYTES_MAX, SNIFF_NS_MAX,
};
use crate::base::time::Monotonic;
use crate::metrics::{DropReason, LoopMetrics};

/// Output buffers kept for the next connection that needs one.
const SPARE_COUNT_MAX: usize = 256;
/// Starved connections that a turn looks at.
const STARVED_PER_TURN_COUNT: usize = 64;
/// Answers of other shards from this size on aren't copied where they come first, and a connection
/// that has such ones has fewer under way.
const LONG_SIZE_BYTES: usize = 64 << 10;
/// Larger ones aren't kept.
const SPARE_SIZE_BYTES_MAX: usize = 256 << 10;

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    connection: Option<Box<Connection>>,
}

/// The table of connections.
#[derive(Debug, Default)]
pub struct Connections {
    home: ShardId,
    slots: Vec<Slot>,
    free: Vec<u32>,
    count: usize,
    count_max: usize,
    /// Bytes that clients may leave unread before they are served less.
    pub(super) unread_size_max: usize,
    pub(super) dirty: Vec<u32>,
    /// When something of a connection is overdue: what, depends on its phase.
    pub(super) deadlines: Deadlines,
    resumable: VecDeque<Key>,
    /// Stopped because of a bound of the shard: nothing of their own will wake them.
    starved: VecDeque<Key>,
    pub(super) spare: Vec<BytesMut>,
    requests_in_flight: usize,
    pub(super) held_size: usize,
    pub(super) queued_size: usize,
    pub(super) draining: bool,
    /// Connections of members that are over, and weren't reported yet.
    pub(super) lost: Vec<(Key, WayId)>,
    /// Connections of members that go to another core.
    pub(super) leaving: Vec<Key>,
}

impl Connections {
    /// None yet; those of the shard `home` of a node.
    #[must_use]
    pub fn new(home: ShardId, node: &Node) -> Self {
        let Node { connection_count_max: count_max, unread_size_max, .. } = *node;
        Self { home, count_max, unread_size_max, ..Self::default() }
    }

    /// The origin of what comes on a stream of a connection.
    #[must_use]
    pub fn origin_of(&self, key: Key, stream: u32) -> Origin {
        let Key { slot, generation } = key;
        Origin { home: self.home, connection: slot, generation, stream }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes received and not yet handed over.
    #[must_use]
    pub fn held_size(&self) -> usize {
        self.held_size
    }

    /// Bytes that wait for clients to read them.
    #[must_use]
    pub fn queued_size(&self) -> usize {
        self.queued_size
    }

    /// Frames handed over and not yet answered.
    #[must_use]
    pub fn requests_in_flight(&self) -> usize {
        self.requests_in_flight
    }

    /// Connections that aren't read until there is room for their requests.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.resumable.len() + self.starved.len()
    }

    /// Takes a new connection in, or closes it if there are too many.
    pub fn open(&mut self, socket: OwnedFd, now: Monotonic, metrics: &mut LoopMetrics) {
        if self.count >= self.count_max {
            let count = self.count;
            tracing::warn!(count, "there are as many connections as there may be: one is closed");
            metrics.drops.count(DropReason::ConnectionLimit);
            return;
        }
        metrics.connections_accepted_count += 1;
        let key = self.insert(socket);
        self.of(key).phase_by = Some(now.after_ns(SNIFF_NS_MAX));
    }

    /// Takes a new connection in.
    pub(super) fn insert(&mut self, socket: OwnedFd) -> Key {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32_from(self.slots.len() - 1)
        });
        let place = &mut self.slots[usize_from_u32(slot)];
        let key = Key { slot, generation: place.generation };
        place.connection = Some(Box::new(Connection::new(key, socket)));
        self.count += 1;
        self.mark_dirty(slot);
        key
    }

    /// How many slots there have been.
    pub(super) fn slot_count(&self) -> u32 {
        u32_from(self.slots.len())
    }

    /// The connection in the slot, if there is one.
    pub(super) fn in_slot(&self, slot: u32) -> Option<&Connection> {
        self.slots[usize_from_u32(slot)].connection.as_deref()
    }

    /// The connection that `key` of a completion names. It is there: a slot isn't used again before
    /// the last completion of its operations.
    pub fn of(&mut self, key: Key) -> &mut Connection {
        let slot = &mut self.slots[usize_from_u32(key.slot)];
        slot.connection.as_mut().expect("a connection outlives its operations")
    }

    /// The connection that `key` names, if it is still there.
    pub fn find(&mut self, key: Key) -> Option<&mut Connection> {
        let slot = self.slots.get_mut(usize_from_u32(key.slot))?;
        if slot.generation != key.generation {
            return None;
        }
        slot.connection.as_deref_mut()
    }

    /// See [`super::service::Output::reply_buffer`].
    pub fn reply_buffer(
        &mut self,
        origin: Origin,
        last: bool,
        metrics: &mut LoopMetrics,
    ) -> Option<&mut BytesMut> {
        if last {
            self.finish(origin);
            metrics.answers_count += 1;
        }
        let Some(connection) = self.find(key_of(origin)).filter(|c| c.phase == Phase::Open) else {
            metrics.drops.count(DropReason::AnswerWithoutConnection);
            return None;
        };
        let is_grpc = matches!(connection.protocol, Protocol::Grpc(_));
        let needs_buffer = !is_grpc && connection.output.capacity() == 0;
        self.mark_dirty(origin.connection);
        let spare = if needs_buffer { self.spare.pop() } else { None };
        let connection = self.of(key_of(origin));
        if let Protocol::Grpc(grpc) = &mut connection.protocol {
            let buffer = grpc.reply_buffer(StreamId(origin.stream));
            if buffer.is_none() {
                metrics.drops.count(DropReason::AnswerWithoutStream);
            }
            return buffer;
        }
        if let Some(spare) = spare {
            connection.output = spare;
        }
        Some(&mut connection.output)
    }

    /// See [`super::service::Output::finish`].
    pub fn finish(&mut self, origin: Origin) {
        let Some(connection) = self.find(key_of(origin)) else { return };
        assert!(connection.requests_in_flight > 0, "a request is finished once");
        connection.requests_in_flight -= 1;
        if let Protocol::Grpc(grpc) = &mut connection.protocol {
            grpc.reply_done(StreamId(origin.stream));
        }
        self.requests_in_flight -= 1;
        self.mark_dirty(origin.connection);
    }

    /// Whether another of the connection's requests may go to another shard.
    pub(super) fn may_forward(&mut self, origin: Origin) -> bool {
        let connection = self.find(key_of(origin));
        connection.is_none_or(|c| c.forwarded_count < c.forwarded_count_max)
    }

    /// One of its requests went to another shard.
    pub(super) fn count_forwarded(&mut self, origin: Origin) {
        if let Some(connection) = self.find(key_of(origin)) {
            connection.forwarded_count += 1;
        }
    }

    /// A connection that waited for a credit may be read on.
    pub(super) fn stop_waiting(&mut self, key: Key) {
        if let Some(connection) = self.find(key) {
            connection.wait = Wait::None;
            self.mark_dirty(key.slot);
        }
    }

    /// Another shard's answer to a request, in whole frames: `bytes`, or `large` if they have a
    /// buffer of their own.
    pub(super) fn answered(
        &mut self,
        origin: Origin,
        bytes: &[u8],
        large: Option<BytesMut>,
        metrics: &mut LoopMetrics,
    ) {
        let Some(connection) = self.find(key_of(origin)) else {
            metrics.drops.count(DropReason::AnswerWithoutConnection);
            return;
        };
        connection.forwarded_count -= 1;
        connection.forwarded_count_max = match &large {
            Some(large) if large.len() >= LONG_SIZE_BYTES => FORWARDED_PER_CONNECTION_MIN,
            _ => FORWARDED_PER_CONNECTION_MAX.min(connection.forwarded_count_max + 1),
        };
        if self.draining && self.is_full() {
            // The other shard can't close before it has answered, and nobody reads it.
            self.finish(origin);
            return self.cut(key_of(origin), DropReason::ShutdownTimeout, metrics);
        }
        match (self.reply_buffer(origin, true, metrics), large) {
            (None, _) => {}
            (Some(buffer), Some(large)) if buffer.is_empty() && large.len() >= LONG_SIZE_BYTES => {
                let spare = std::mem::replace(buffer, large);
                self.keep_spare(spare);
            }
            (Some(buffer), Some(large)) => buffer.extend_from_slice(&large),
            (Some(buffer), None) => buffer.extend_from_slice(bytes),
        }
        // Others of the same turn must see what is queued.
        if self.find(key_of(origin)).is_some() {
            self.recount(key_of(origin));
        }
    }

    /// See [`super::service::Output::close`].
    pub fn close_stream(&mut self, origin: Origin, status: &WireStatus, metrics: &mut LoopMetrics) {
        let Some(connection) = self.find(key_of(origin)) else { return };
        if connection.phase == Phase::Open {
            tracing::debug!(?origin, ?status, "the service ended a stream");
            match &mut connection.protocol {
                Protocol::Grpc(grpc) => {
                    grpc.finish_stream(StreamId(origin.stream), status.into());
                }
                Protocol::Sniffing | Protocol::Raw | Protocol::Peer(_) => {
                    connection.phase = Phase::Finishing;
                }
            }
            metrics.drops.count(DropReason::EndedByService);
            self.mark_dirty(origin.connection);
        }
    }

    /// Tells the peer why its connection is closed, and closes it.
    pub fn refuse(
        &mut self,
        key: Key,
        status: &WireStatus,
        reason: DropReason,
        metrics: &mut LoopMetrics,
    ) {
        let connection = self.of(key);
        if connection.phase != Phase::Open {
            return;
        }
        if let Protocol::Grpc(grpc) = &mut connection.protocol {
            grpc.refuse(&status.into());
            metrics.drops.count(reason);
            self.mark_dirty(key.slot);
            return;
        }
        refusal::append(status, connection.frames());
        if let Some(lane) = connection.link().and_then(PeerLink::lane) {
            lane.finish(status.into());
        }
        self.give_up_link(key);
        self.end_with(key, &[], reason, metrics);
    }

    /// Sends a last text and closes.
    pub fn end_with(
        &mut self,
        key: Key,
        text: &[u8],
        reason: DropReason,
        metrics: &mut LoopMetrics,
    ) {
        metrics.drops.count(reason);
        let connection = self.of(key);
        connection.output.extend_from_slice(text);
        connection.phase = Phase::Finishing;
        self.release_held(key);
        self.mark_dirty(key.slot);
    }

    /// Cuts a connection: nothing more goes in or out.
    pub fn cut(&mut self, key: Key, reason: DropReason, metrics: &mut LoopMetrics) {
        let connection = self.of(key);
        if connection.phase != Phase::Broken {
            metrics.drops.count(reason);
            self.break_off(key);
        }
    }

    pub(super) fn break_off(&mut self, key: Key) {
        let connection = self.of(key);
        connection.phase = Phase::Broken;
        self.give_up_link(key);
        let connection = self.of(key);
        // This ends the operations that are in flight. An error means that it is broken already.
        let _ = rustix::net::shutdown(&connection.socket, rustix::net::Shutdown::Both);
        self.release_held(key);
        self.mark_dirty(key.slot);
    }

    /// How many frames of this connection may be handed over now.
    pub(super) fn room(&mut self, key: Key) -> usize {
        let shard_room = REQUESTS_PER_SHARD_MAX.saturating_sub(self.requests_in_flight);
        let crowded = self.queued_size >= self.unread_size_max;
        let is_full = self.is_full();
        let connection = self.of(key);
        let queued = connection.queued_size();
        if queued >= SEND_QUEUE_SIZE_BYTES_MAX || crowded && queued > 0 || is_full {
            return 0;
        }
        // How long an answer is isn't known before: when it is crowded, one at a time.
        let most = if crowded { 1 } else { REQUESTS_PER_CONNECTION_MAX };
        most.saturating_sub(connection.requests_in_flight).min(shard_room)
    }

    /// Counts what was queued for the connections of a pass, which others of the same turn must
    /// see, and returns how much that is.
    pub(super) fn recount_origins(&mut self, origins: impl Iterator<Item = Origin>) -> usize {
        let before = self.queued_size;
        let mut last = None;
        for key in origins.map(key_of) {
            // Most passes have many frames of one connection in a row.
            if last.replace(key) != Some(key) && self.find(key).is_some() {
                self.recount(key);
            }
        }
        self.queued_size.saturating_sub(before)
    }

    /// A frame of this connection is handed over. There must be room for it.
    pub(super) fn count_request(&mut self, key: Key) {
        self.of(key).requests_in_flight += 1;
        self.requests_in_flight += 1;
    }

    /// So many frames of this connection were handed over and are given back.
    pub(super) fn uncount_requests(&mut self, key: Key, count: usize) {
        self.of(key).requests_in_flight -= count;
        self.requests_in_flight -= count;
        self.mark_dirty(key.slot);
    }

    /// Whether a frame of this connection may be handed over now. If not, the connection is
    /// stopped.
    pub fn admit(&mut self, key: Key, metrics: &mut LoopMetrics) -> bool {
        if self.room(key) == 0 {
            self.stop(key, metrics);
            return false;
        }
        self.count_request(key);
        true
    }

    /// Frames wait for which there is no room: the connection is read on when there is again.
    pub(super) fn stop(&mut self, key: Key, metrics: &mut LoopMetrics) {
        self.of(key).stopped = true;
        metrics.reads_stopped_count += 1;
        self.mark_dirty(key.slot);
    }

    /// Queues a connection to be read on in the next turn: it has had its part of this one.
    pub(super) fn resume_next_turn(&mut self, key: Key) {
        let connection = self.of(key);
        connection.stopped = true;
        if !std::mem::replace(&mut connection.resuming, true) {
            self.resumable.push_back(key);
        }
    }

    /// Queues a stopped connection to be read on if it is well below all bounds again, so that it
    /// isn't stopped anew at once.
    pub(super) fn resume_if_possible(&mut self, key: Key) {
        let (crowded, has_room) = (self.queued_size >= self.unread_size_max, self.has_room());
        let connection = self.of(key);
        if connection.wait == Wait::Forwarded
            && connection.forwarded_count <= connection.forwarded_count_max / 2
        {
            connection.wait = Wait::None;
        }
        let queued = connection.queued_size();
        let may_resume = connection.wait == Wait::None
            && connection.requests_in_flight <= REQUESTS_PER_CONNECTION_MAX / 2
            && queued <= SEND_QUEUE_SIZE_BYTES_MAX / 2
            && !(crowded && queued > 0);
        if !connection.stopped || connection.resuming || !may_resume {
            return;
        }
        if has_room {
            connection.resuming = true;
            self.resumable.push_back(key);
        } else if !std::mem::replace(&mut connection.starved, true) {
            self.starved.push_back(key);
        }
    }

    /// Looks again at some of those that were stopped because of a bound of the shard.
    pub(super) fn wake_starved(&mut self) {
        for _ in 0..STARVED_PER_TURN_COUNT {
            if !self.has_room() {
                return;
            }
            let Some(key) = self.starved.pop_front() else { return };
            if let Some(connection) = self.find(key) {
                connection.starved = false;
                self.mark_dirty(key.slot);
            }
        }
    }

    /// Whether connections wait only for their turn to be read on.
    pub(super) fn has_resumable(&self) -> bool {
        !self.resumable.is_empty()
    }

    fn has_room(&self) -> bool {
        self.requests_in_flight <= REQUESTS_PER_SHARD_MAX / 4 * 3 && !self.is_full()
    }

    /// Whether clients leave so much unread that nobody is given more to read.
    pub(super) fn is_full(&self) -> bool {
        self.queued_size >= 2 * self.unread_size_max
    }

    /// The next connection that was stopped and can be read on.
    pub fn next_resumable(&mut self) -> Option<Key> {
        while let Some(key) = self.resumable.pop_front() {
            let Some(connection) = self.find(key) else { continue };
            connection.resuming = false;
            let is_ready = connection.stopped && connection.wait == Wait::None;
            if connection.phase == Phase::Open && is_ready {
                connection.stopped = false;
                self.mark_dirty(key.slot);
                return Some(key);
            }
        }
        None
    }

    /// How many connections wait to be read on.
    #[must_use]
    pub fn resumable_count(&self) -> usize {
        self.resumable.len()
    }

    /// A send ended: its buffer comes back.
    pub fn sent(
        &mut self,
        key: Key,
        mut bytes: BytesMut,
        result: &std::io::Result<usize>,
        metrics: &mut LoopMetrics,
    ) {
        let connection = self.of(key);
        let sending_size = std::mem::take(&mut connection.sending_size);
        connection.read_by = None;
        match result {
            Ok(size) => {
                metrics.sent_size_bytes += u64_from(*size);
                if *size < sending_size && connection.phase < Phase::Broken {
                    // The rest goes first the next time. Short sends are rare: it may be copied.
                    bytes.advance(*size);
                    bytes.extend_from_slice(&connection.output);
                    connection.output = std::mem::take(&mut bytes);
                }
            }
            Err(_) => self.cut(key, DropReason::ConnectionFailed, metrics),
        }
        self.mark_dirty(key.slot);
        self.keep_spare(bytes);
    }

    pub(super) fn keep_spare(&mut self, mut bytes: BytesMut) {
        bytes.clear();
        let size = bytes.capacity();
        if size > 0 && size <= SPARE_SIZE_BYTES_MAX && self.spare.len() < SPARE_COUNT_MAX {
            self.spare.push(bytes);
        }
    }

    /// A connection is to be settled at the end of the turn.
    pub fn mark_dirty(&mut self, slot: u32) {
        let Some(connection) = &mut self.slots[usize_from_u32(slot)].connection else { return };
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(slot);
        }
    }

    /// No more frames are read: what was handed over is answered, then connections close.
    pub fn drain(&mut self) {
        self.draining = true;
        for connection in self.slots.iter_mut().filter_map(|slot| slot.connection.as_mut()) {
            if let Protocol::Grpc(grpc) = &mut connection.protocol {
                grpc.shutdown();
            }
        }
        self.mark_all_dirty();
    }

    /// Cuts all that haven't closed by themselves.
    pub fn cut_all(&mut self, reason: DropReason, metrics: &mut LoopMetrics) {
        for slot in 0..self.slots.len() {
            if let Some(connection) = &self.slots[slot].connection {
                let key = connection.key;
                self.cut(key, reason, metrics);
            }
        }
    }

    fn mark_all_dirty(&mut self) {
        for slot in 0..self.slots.len() {
            self.mark_dirty(u32_from(slot));
        }
    }

    pub(super) fn remove(&mut self, slot: u32, metrics: &mut LoopMetrics) {
        if let Some(connection) = self.take_out(slot) {
            metrics.connections_closed_count += 1;
            self.keep_spare(connection.output);
        }
    }

    /// Takes a connection out with which the kernel has nothing to do.
    pub(super) fn take_out(&mut self, slot: u32) -> Option<Box<Connection>> {
        let place = &mut self.slots[usize_from_u32(slot)];
        let connection = place.connection.take()?;
        place.generation = connection.key.next_use().generation;
        self.count -= 1;
        self.requests_in_flight -= connection.requests_in_flight;
        self.held_size -= connection.counted_held_size;
        self.queued_size -= connection.counted_queued_size;
        self.free.push(slot);
        self.deadlines.clear(slot);
        Some(connection)
    }
}

pub(super) fn key_of(origin: Origin) -> Key {
    Key { slot: origin.connection, generation: origin.generation }
}
