//! Connections between members whose frames travel inside of gRPC: bytes become frames and frames
//! bytes in a [`GrpcLane`], and all else is as with raw frames.

use std::mem;

use super::link::{Carrier, PeerLink, Stage};
use crate::base::limits::HELD_SIZE_BYTES_MAX;
use crate::metrics::DropReason;
use crate::runtime::buffer_pool::ReceivedBuffer;
use crate::runtime::connection::{Phase, Protocol};
use crate::runtime::connections::Connections;
use crate::runtime::event_loop::{EventLoop, TURN_FRAME_SIZE_BYTES};
use crate::runtime::grpc::{GrpcLane, LaneEnd};
use crate::runtime::grpc_turn::SETTLE_POLL_COUNT_MAX;
use crate::runtime::service::Service;
use crate::runtime::uring::Key;

impl<S: Service> EventLoop<S> {
    /// A connection that spoke gRPC is another member's.
    pub(in crate::runtime) fn begin_carried(&mut self, key: Key, lane: GrpcLane) {
        assert!(self.messages.is_empty(), "a member's call is the first one of its connection");
        self.expect_greeting(key, Carrier::Grpc(Box::new(lane)));
        self.take_carried(key);
    }

    /// Bytes of another member that speaks gRPC.
    pub(super) fn consume_carried(&mut self, key: Key, buffer: ReceivedBuffer) {
        let fits = self.connections.receive_carried(key, self.ring.buffers().bytes(&buffer));
        self.ring.buffers_mut().give_back(buffer);
        if !fits {
            return self.refuse_holding(key);
        }
        let now = self.now.monotonic;
        if let Some(link) = self.connections.of(key).link() {
            link.heard_at = now;
        }
        self.take_carried(key);
    }

    /// Takes the frames that came inside of gRPC, and the end of the call, if it came.
    pub(in crate::runtime) fn take_carried(&mut self, key: Key) {
        if let Some(lane) = self.connections.lane(key) {
            lane.poll();
        }
        while self.connections.of(key).phase == Phase::Open {
            let Some(lane) = self.connections.lane(key) else { break };
            match lane.next_frame() {
                Ok(Some((flag, payload))) => {
                    self.turn_frames += 1 + payload.len() / TURN_FRAME_SIZE_BYTES;
                    self.take_frame(key, flag, payload);
                }
                Ok(None) => {
                    if let Some(end) = lane.take_end() {
                        self.carrier_ended(key, &end);
                    }
                    break;
                }
                Err(error) => self.refuse_malformed(key, &error.to_string()),
            }
        }
        self.connections.recount_held(key);
        self.connections.mark_dirty(key.slot);
    }

    /// The other side has ended the call; before it has greeted, that is its answer.
    fn carrier_ended(&mut self, key: Key, end: &LaneEnd) {
        let link = self.connections.of(key).link();
        if link.is_some_and(|link| matches!(link.stage, Stage::Greeted { .. })) {
            return self.complain(key, &format!("the member refuses this one: {end}"));
        }
        tracing::debug!(slot = key.slot, %end, "a member has ended its call");
        self.connections.cut(key, DropReason::MemberLeft, &mut self.metrics);
    }
}

impl Connections {
    /// The call that becomes a member's connection, if one has come.
    pub(in crate::runtime) fn take_lane(&mut self, key: Key) -> Option<GrpcLane> {
        let Protocol::Grpc(grpc) = &mut self.of(key).protocol else { return None };
        grpc.take_lane()
    }

    fn lane(&mut self, key: Key) -> Option<&mut GrpcLane> {
        self.of(key).link().and_then(PeerLink::lane)
    }

    /// Gives a lane what came; false if all connections together hold too much already.
    fn receive_carried(&mut self, key: Key, bytes: &[u8]) -> bool {
        if self.held_size + bytes.len() > HELD_SIZE_BYTES_MAX {
            return false;
        }
        if let Some(lane) = self.lane(key) {
            lane.receive(bytes);
        }
        true
    }

    /// Moves what is said inside of gRPC to the socket's queue. Does nothing for others.
    pub(in crate::runtime) fn settle_carried(&mut self, key: Key) {
        let connection = self.of(key);
        let Protocol::Peer(link) = &mut connection.protocol else { return };
        let Carrier::Grpc(lane) = &mut link.carrier else { return };
        if connection.phase > Phase::Finishing {
            return;
        }
        for _ in 0..SETTLE_POLL_COUNT_MAX {
            if lane.needs_poll() {
                lane.poll();
            }
            if connection.sending_size == 0 && connection.output.is_empty() {
                mem::swap(&mut connection.output, lane.output());
            }
            if !lane.needs_poll() {
                break;
            }
        }
        let (has_more, has_news) = (lane.needs_poll(), lane.has_news());
        let is_open = connection.phase == Phase::Open;
        self.recount_held(key);
        if has_more {
            self.mark_dirty(key.slot);
        }
        if has_news && is_open {
            self.resume_next_turn(key);
        }
    }
}
