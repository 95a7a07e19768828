//! Brings connections to where they should be: the one place where their operations are issued.

use std::os::fd::AsFd;

use super::connection::{Phase, Protocol, Receive};
use super::connections::Connections;
use super::uring::{Key, Uring};
use crate::base::limits::{LINGER_NS_MAX, PEER_UNREAD_NS_MAX, UNREAD_FULL_NS_MAX, UNREAD_NS_MAX};
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
        self.settle_carried(key);
        self.send(key, now, ring);
        self.recount(key);
        self.resume_if_possible(key);
        self.advance_phase(key, now);
        self.receive(key, ring);
        let connection = self.of(key);
        if connection.phase == Phase::Broken && !connection.is_in_use() {
            return self.remove(slot, metrics);
        }
        if connection.phase == Phase::Open
            && !connection.is_in_use()
            && connection.link().is_some_and(|link| link.is_leaving())
        {
            self.leaving.push(key);
        }
        let connection = self.of(key);
        match connection.deadline() {
            Some(deadline) => self.deadlines.set(slot, deadline),
            None => self.deadlines.clear(slot),
        }
    }

    fn send(&mut self, key: Key, now: Monotonic, ring: &mut Uring) {
        let connection = self.of(key);
        if connection.sending_size > 0 || connection.phase == Phase::Broken {
            return;
        }
        if connection.output.is_empty() {
            // An idle connection keeps no buffer.
            let buffer = std::mem::take(&mut connection.output);
            return self.keep_spare(buffer);
        }
        let bytes = std::mem::take(&mut connection.output);
        connection.sending_size = bytes.len();
        let unread_ns = match connection.protocol {
            Protocol::Peer(_) => PEER_UNREAD_NS_MAX,
            Protocol::Sniffing | Protocol::Raw | Protocol::Grpc(_) => UNREAD_NS_MAX,
        };
        connection.read_by = Some(now.after_ns(unread_ns));
        ring.send(connection.socket.as_fd(), key, bytes);
    }

    /// Keeps the shard's count of queued bytes true.
    pub(super) fn recount(&mut self, key: Key) {
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
            connection.phase_by = Some(now.after_ns(LINGER_NS_MAX));
        }
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
        let has_looked = self.deadlines.sweep(now, &mut overdue);
        for slot in overdue {
            let Some(key) = self.in_slot(slot).map(|connection| connection.key) else { continue };
            self.on_deadline(key, now, metrics);
            self.mark_dirty(slot);
        }
        if has_looked {
            self.cut_those_behind(now, metrics);
        }
    }

    /// Cuts those that have left something unread for some time while nobody is given more to read,
    /// as many as it takes: they would keep all others waiting.
    fn cut_those_behind(&mut self, now: Monotonic, metrics: &mut LoopMetrics) {
        let mut left_size = self.queued_size;
        let by = now.after_ns(UNREAD_NS_MAX - UNREAD_FULL_NS_MAX);
        let slots: Vec<u32> = match self.is_full() {
            true => self.deadlines.until(by).collect(),
            false => Vec::new(),
        };
        for slot in slots {
            let Some(connection) = self.in_slot(slot) else { continue };
            let is_behind = connection.unread_by().is_some_and(|unread_by| unread_by <= by);
            let (key, size) = (connection.key, connection.counted_queued_size);
            if is_behind && left_size >= 2 * self.unread_size_max {
                tracing::warn!(slot, "clients leave too much unread: one that is behind is cut");
                self.cut(key, DropReason::Unread, metrics);
                left_size -= size;
            }
        }
    }

    fn on_deadline(&mut self, key: Key, now: Monotonic, metrics: &mut LoopMetrics) {
        let connection = self.of(key);
        if matches!(connection.protocol, Protocol::Peer(_)) && connection.phase == Phase::Open {
            return self.on_peer_deadline(key, now, metrics);
        }
        if connection.read_by.is_some_and(|by| by <= now) {
            tracing::warn!(slot = key.slot, "a client left its answers unread: it is cut");
            return self.cut(key, DropReason::Unread, metrics);
        }
        let phase_is_over = connection.phase_by.is_some_and(|by| by <= now);
        match (connection.phase, &connection.protocol) {
            (Phase::Open, Protocol::Grpc(_)) if phase_is_over => {
                connection.phase = Phase::Finishing;
                connection.phase_by = None;
            }
            (Phase::Open, Protocol::Sniffing) if phase_is_over => {
                tracing::warn!(
                    slot = key.slot,
                    "a connection didn't say what it speaks: it is cut"
                );
                self.cut(key, DropReason::SniffTimeout, metrics);
            }
            // A deadline of its streams: settling it acts on it.
            (Phase::Open, Protocol::Grpc(_)) => {}
            // It was told that it is closed and had its time.
            (Phase::Lingering, _) if phase_is_over => self.break_off(key),
            _ => {}
        }
    }
}
