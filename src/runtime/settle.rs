//! Brings connections to where they should be: the one place where their operations are issued.

use std::os::fd::AsFd;

use super::connection::{Phase, Protocol, Receive};
use super::connections::Connections;
use super::uring::{Key, Uring};
use crate::base::limits::{LINGER_NS_MAX, UNREAD_NS_MAX};
use crate::base::time::Monotonic;
use crate::metrics::{DropReason, LoopMetrics};

impl Connections {
    /// Settles every connection to which something happened.
    pub fn settle_all(&mut self, now: Monotonic, ring: &mut Uring, metrics: &mut LoopMetrics) {
        self.wake_starved();
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            self.settle(slot, now, ring, metrics);
        }
        // Settling may have marked some again: those wait for the next turn.
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
    }

    /// Whether some connection waits to be settled.
    #[must_use]
    pub fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    fn settle(&mut self, slot: u32, now: Monotonic, ring: &mut Uring, metrics: &mut LoopMetrics) {
        let Some(key) = self.in_slot(slot).map(|connection| connection.key) else { return };
        self.of(key).dirty = false;
        self.settle_grpc(key, now, metrics);
        self.send(key, now, ring);
        self.recount(key);
        self.resume_if_possible(key);
        self.advance_phase(key, now);
        self.receive(key, ring);
        self.set_grpc_deadline(key);
        let connection = self.of(key);
        if connection.phase == Phase::Broken && !connection.is_in_use() {
            self.remove(slot, metrics);
        }
    }

    fn send(&mut self, key: Key, now: Monotonic, ring: &mut Uring) {
        let connection = self.of(key);
        if connection.sending_size > 0 || connection.phase == Phase::Broken {
            return;
        }
        if connection.output.is_empty() {
            if connection.phase == Phase::Open && !connection.is_sniffing() {
                self.deadlines.clear(key.slot);
            }
            // An idle connection keeps no buffer.
            let buffer = std::mem::take(&mut self.of(key).output);
            self.keep_spare(buffer);
            return;
        }
        let bytes = std::mem::take(&mut connection.output);
        connection.sending_size = bytes.len();
        let unread_until = now.after_ns(UNREAD_NS_MAX);
        connection.unread_until = unread_until;
        ring.send(connection.socket.as_fd(), key, bytes);
        self.deadlines.set(key.slot, unread_until);
    }

    /// Keeps the shard's count of queued bytes true.
    fn recount(&mut self, key: Key) {
        let connection = self.of(key);
        let queued = connection.queued_size();
        let counted = std::mem::replace(&mut connection.counted_queued_size, queued);
        self.queued_size = self.queued_size - counted + queued;
    }

    fn advance_phase(&mut self, key: Key, now: Monotonic) {
        let draining = self.draining;
        let connection = self.of(key);
        if connection.phase == Phase::Open && connection.is_served(draining) {
            connection.phase = Phase::Finishing;
        }
        if connection.phase == Phase::Finishing && connection.queued_size() == 0 {
            connection.phase = Phase::Lingering;
            // An error means that the connection is broken already: the receive will say so.
            let _ = rustix::net::shutdown(&connection.socket, rustix::net::Shutdown::Write);
            self.deadlines.set(key.slot, now.after_ns(LINGER_NS_MAX));
        }
        let connection = self.of(key);
        if connection.phase == Phase::Lingering && connection.ended {
            connection.phase = Phase::Broken;
        }
    }

    fn receive(&mut self, key: Key, ring: &mut Uring) {
        let draining = self.draining;
        let connection = self.of(key);
        match (connection.wants_receive(draining), connection.receive) {
            (true, Receive::Idle) => {
                connection.receive = Receive::Armed;
                ring.receive(connection.socket.as_fd(), key);
            }
            // A broken connection's receive ends by itself: its socket is shut.
            (false, Receive::Armed) if connection.phase < Phase::Broken && !connection.ended => {
                connection.receive = Receive::Cancelling;
                ring.cancel_receive(key);
            }
            _ => {}
        }
    }

    /// Acts on the deadlines that have come.
    pub fn sweep(&mut self, now: Monotonic, metrics: &mut LoopMetrics) {
        let mut overdue = Vec::new();
        self.deadlines.sweep(now, &mut overdue);
        for slot in overdue {
            let Some(connection) = self.in_slot(slot) else { continue };
            let key = connection.key;
            match connection.phase {
                Phase::Open | Phase::Finishing
                    if connection.sending_size > 0 && connection.unread_until <= now =>
                {
                    tracing::warn!(slot, "a client left its answers unread: its connection is cut");
                    self.cut(key, DropReason::Unread, metrics);
                }
                Phase::Open if connection.is_sniffing() => {
                    self.cut(key, DropReason::SniffTimeout, metrics);
                }
                // A deadline of its streams': settling it acts on it.
                Phase::Open if matches!(connection.protocol, Protocol::Grpc(_)) => {
                    self.mark_dirty(slot);
                }
                // It was told that it is closed and had its time.
                Phase::Lingering => self.break_off(key),
                Phase::Open | Phase::Finishing | Phase::Broken => {}
            }
        }
    }
}
