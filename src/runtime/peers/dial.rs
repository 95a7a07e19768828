//! What a loop does for its connections to other members: dials those that are due, notices those
//! that are gone, and passes on what comes.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::Ordering;

use bytes::{Buf as _, Bytes, BytesMut};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::WayId;
use super::link::{PeerLink, Stage};
use super::table::{Change, Due};
use crate::base::cast::u64_from;
use crate::base::ids::NodeId;
use crate::base::limits::{PEER_GREETING_NS_MAX, PEER_QUEUE_SIZE_BYTES_MAX};
use crate::base::time::Monotonic;
use crate::metrics::{DropReason, LoopMetrics};
use crate::runtime::buffer_pool::ReceivedBuffer;
use crate::runtime::connection::{Phase, Protocol};
use crate::runtime::connections::Connections;
use crate::runtime::event_loop::{EventLoop, TURN_FRAME_SIZE_BYTES, output};
use crate::runtime::service::Service;
use crate::runtime::uring::Key;
use crate::wire::frame::{self, Flag, FrameHeader};
use crate::wire::peer::ping::Ping;

impl<S: Service> EventLoop<S> {
    /// Dials what is due and passes on what is gone. True: there was something.
    pub(in crate::runtime) fn run_peers(&mut self) -> bool {
        let mut busy = self.take_lost();
        if self.is_going_down() {
            return busy;
        }
        while let Some(due) = self.peers.take_due(self.now.monotonic) {
            busy = true;
            self.dial(due);
        }
        busy
    }

    /// When there is something to dial.
    pub(in crate::runtime) fn next_dial(&self) -> Option<Monotonic> {
        self.peers.next_due().filter(|_| self.started && !self.is_going_down())
    }

    fn dial(&mut self, due: Due) {
        let now = self.now.monotonic;
        let Some(network) = self.peers.network() else { return };
        let address = network.addresses[usize::from(due.way.node.0)];
        let socket = match socket_for(address) {
            Ok(socket) => socket,
            Err(error) => {
                if let Some(suppressed) = self.accept_limit.admit(now) {
                    tracing::warn!(%error, suppressed, "no socket to another member");
                }
                return self.peers.not_dialled(due.way, now);
            }
        };
        self.metrics.member_dials_count += 1;
        self.counted_connections += 1;
        self.core().connection_count.fetch_add(1, Ordering::Relaxed);
        let key = self.connections.insert(socket);
        let connection = self.connections.of(key);
        let stage = Stage::Connecting { is_probe: due.is_probe };
        connection.protocol = Protocol::Peer(Box::new(PeerLink::new(Some(due.way), stage, now)));
        connection.phase_by = Some(now.after_ns(PEER_GREETING_NS_MAX));
        self.ring.connect(connection.socket.as_fd(), key, address);
        self.peers.dialling(due.way, key);
    }

    /// A connection that was dialled is there, or isn't.
    pub(in crate::runtime) fn connected(&mut self, key: Key, result: &io::Result<()>) {
        let connection = self.connections.of(key);
        let is_open = connection.phase == Phase::Open;
        let Some(link) = connection.link() else { return };
        let Stage::Connecting { is_probe } = std::mem::replace(&mut link.stage, Stage::Over) else {
            return;
        };
        self.connections.mark_dirty(key.slot);
        let Some(way) = self.connections.of(key).link().and_then(|link| link.way) else { return };
        match result {
            _ if !is_open => {}
            Ok(()) if is_probe => self.end_link(key, way, DropReason::MemberProbed),
            Ok(()) => self.greet(key, way),
            Err(error) => {
                self.end_link(key, way, DropReason::ConnectionFailed);
                if error.raw_os_error() == Some(libc::ECONNREFUSED) {
                    self.tell_refused(way);
                }
            }
        }
    }

    /// Cuts a connection that isn't open yet.
    fn end_link(&mut self, key: Key, way: WayId, reason: DropReason) {
        self.connections.cut(key, reason, &mut self.metrics);
        let change = self.peers.lost(way, key, self.now.monotonic);
        self.follow(way.node, change);
    }

    /// Nobody listens at the other end: its process is gone.
    fn tell_refused(&mut self, way: WayId) {
        if self.peers.refused(way) {
            let (now, node, partitions) = (self.now, way.node, self.peers.partitions_of(way));
            let (service, output) = output!(self);
            service.peer_disconnected(now, node, partitions, true, output);
        }
    }

    /// Passes on which connections are gone.
    fn take_lost(&mut self) -> bool {
        let mut busy = false;
        while let Some((key, way)) = self.connections.lost.pop() {
            busy = true;
            let change = self.peers.lost(way, key, self.now.monotonic);
            self.follow(way.node, change);
        }
        busy
    }

    /// Does what follows from a change in the table.
    pub(super) fn follow(&mut self, node: NodeId, change: Change) {
        for key in change.cut {
            if self.connections.find(key).is_some() {
                self.connections.cut(key, DropReason::MemberReplaced, &mut self.metrics);
            }
        }
        for partitions in change.gone {
            self.metrics.member_losses_count += 1;
            let name = self.peers.network().map(|network| network.cluster.name(node));
            tracing::warn!(node = name, ?partitions, "the connection to a member is gone");
            let now = self.now;
            let (service, output) = output!(self);
            service.peer_disconnected(now, node, partitions, false, output);
        }
    }

    /// Bytes of another member.
    pub(in crate::runtime) fn consume_peer(&mut self, key: Key, buffer: ReceivedBuffer) {
        if self.connections.of(key).link().is_some_and(|link| link.lane().is_some()) {
            return self.consume_carried(key, buffer);
        }
        let fits = self.connections.hold(key, self.ring.buffers().bytes(&buffer));
        self.ring.buffers_mut().give_back(buffer);
        if !fits {
            return self.refuse_holding(key);
        }
        let now = self.now.monotonic;
        if let Some(link) = self.connections.of(key).link() {
            link.heard_at = now;
        }
        let mut held = std::mem::take(&mut self.connections.of(key).held);
        while self.connections.of(key).phase == Phase::Open {
            match next_frame(&mut held) {
                Ok(Some((header, payload))) => {
                    self.turn_frames += 1 + payload.len() / TURN_FRAME_SIZE_BYTES;
                    self.take_frame(key, header.flag, payload);
                }
                Ok(None) => break,
                Err(error) => self.refuse_malformed(key, &error.to_string()),
            }
        }
        let connection = self.connections.of(key);
        if connection.phase == Phase::Open {
            connection.held = held;
        }
        self.connections.recount_held(key);
    }

    pub(super) fn take_frame(&mut self, key: Key, flag: Flag, payload: Bytes) {
        let Some(link) = self.connections.of(key).link() else { return };
        if !link.is_open() {
            return self.take_greeting(key, flag, payload);
        }
        let Some(way) = link.way else { return };
        match flag {
            Flag::Message => self.take_message(key, way, payload),
            Flag::Ping => self.take_ping(key, &payload),
            Flag::Hello => self.take_fresh_greeting(key, way, &payload),
        }
    }

    fn take_message(&mut self, key: Key, way: WayId, payload: Bytes) {
        if !self.peers.is_current(way, key) {
            self.metrics.member_frames_untimely_count += 1;
            return;
        }
        self.metrics.member_frames_count += 1;
        let now = self.now;
        let (service, output) = output!(self);
        service.peer_frame(now, way.node, payload, output);
    }

    fn take_ping(&mut self, key: Key, payload: &[u8]) {
        match Ping::decode(payload) {
            Some(Ping::Ask(number)) => {
                let connection = self.connections.of(key);
                // Who asks and reads no answer is told no more.
                if connection.queued_size() < PEER_QUEUE_SIZE_BYTES_MAX {
                    Ping::Answer(number).encode(connection.frames());
                    self.connections.mark_dirty(key.slot);
                }
            }
            Some(Ping::Answer(asked_at)) => {
                self.metrics.member_pings_count += 1;
                self.metrics.member_pings_ns += self.now.monotonic.since_ns(Monotonic(asked_at));
            }
            None => self.refuse_malformed(key, "a ping that is none"),
        }
    }

    /// Closes a connection on which something came that no member sends.
    pub(super) fn refuse_malformed(&mut self, key: Key, error: &str) {
        let way = self.connections.of(key).link().and_then(|link| link.way);
        if let Some(suppressed) = self.accept_limit.admit(self.now.monotonic) {
            let name = self.name_of(way);
            tracing::error!(node = name, error, suppressed, "a member sends what no member can");
        }
        self.connections.cut(key, DropReason::MemberMalformed, &mut self.metrics);
    }

    pub(super) fn name_of(&self, way: Option<WayId>) -> Option<&str> {
        Some(self.peers.network()?.cluster.name(way?.node))
    }

    /// Before what the other cores are told.
    pub(in crate::runtime) fn measure_peers(&mut self) {
        let mut queued_size = 0;
        for key in self.peers.all_keys() {
            queued_size += self.connections.find(key).map_or(0, |found| found.queued_size());
        }
        self.metrics.members_connected = u64_from(self.peers.connected_count());
        self.metrics.member_queued_size_bytes = u64_from(queued_size);
    }
}

impl Connections {
    /// A connection is over: if it is a member's, that is passed on.
    pub(in crate::runtime) fn give_up_link(&mut self, key: Key) {
        let Some(link) = self.of(key).link() else { return };
        let way = link.way;
        // While the kernel is still making it, it is in use.
        if !link.is_connecting() {
            link.stage = Stage::Over;
        }
        if let Some(way) = way {
            self.lost.push((key, way));
        }
    }

    /// Acts on a deadline of a member's connection.
    pub(in crate::runtime) fn on_peer_deadline(
        &mut self,
        key: Key,
        now: Monotonic,
        metrics: &mut LoopMetrics,
    ) {
        let connection = self.of(key);
        let is_unread = connection.read_by.is_some_and(|by| by <= now);
        let is_late = connection.phase_by.is_some_and(|by| by <= now);
        let Some(link) = connection.link() else { return };
        if is_unread || link.is_open() && link.silent_by() <= now {
            tracing::warn!(slot = key.slot, is_unread, "a member gives no sign of life: it is cut");
            return self.cut(key, DropReason::MemberSilent, metrics);
        }
        if is_late {
            return self.cut(key, DropReason::MemberGreetingTimeout, metrics);
        }
        if link.is_open() && link.asks_by() <= now {
            link.asked_at = now;
            Ping::Ask(now.0).encode(connection.frames());
        }
    }

    /// Where to append a frame to a member; `None`: too much waits for it already.
    pub(in crate::runtime) fn peer_buffer(
        &mut self,
        key: Key,
        metrics: &mut LoopMetrics,
    ) -> Option<&mut BytesMut> {
        let connection = self.find(key).filter(|found| found.phase == Phase::Open)?;
        if connection.queued_size() >= PEER_QUEUE_SIZE_BYTES_MAX {
            metrics.member_overflows_count += 1;
            return None;
        }
        let needs_buffer = connection.frames().capacity() == 0;
        self.mark_dirty(key.slot);
        let spare = if needs_buffer { self.spare.pop() } else { None };
        let frames = self.of(key).frames();
        if let Some(spare) = spare {
            *frames = spare;
        }
        Some(frames)
    }

    /// Cuts the connections to other members: the node goes down and needs them no more.
    pub(in crate::runtime) fn cut_members(&mut self, metrics: &mut LoopMetrics) {
        for slot in 0..self.slot_count() {
            let found = self.in_slot(slot);
            let is_member = |protocol: &Protocol| matches!(protocol, Protocol::Peer(_));
            let key = found.filter(|found| is_member(&found.protocol)).map(|found| found.key);
            if let Some(key) = key {
                self.cut(key, DropReason::MemberLeft, metrics);
            }
        }
    }
}

/// Cuts the first frame off, if it is whole.
fn next_frame(held: &mut BytesMut) -> Result<Option<(FrameHeader, Bytes)>, frame::FrameError> {
    let Some((header, payload)) = frame::next(held)? else { return Ok(None) };
    let mut whole = held.split_to(payload.end);
    whole.advance(payload.start);
    Ok(Some((header, whole.freeze())))
}

fn socket_for(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    Ok(socket)
}
