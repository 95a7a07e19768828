//! A connection's gRPC side as the loop sees it: the object that speaks HTTP/2, and the messages
//! that it handed out and that wait for a pass.

use bytes::{Bytes, BytesMut};

use super::grpc::{ConnectionState, GrpcCode, GrpcConnection, GrpcStatus, StreamId};
use super::service::{StatusCode, WireStatus};
use crate::base::time::Monotonic;

/// Polls in a row at most; what remains is for the next turn.
const POLL_COUNT_MAX: usize = 4;

/// See the module's documentation.
#[derive(Debug)]
pub struct GrpcLink {
    grpc: GrpcConnection,
    /// Whole messages, in the order in which they came.
    inbox: Vec<(StreamId, Bytes)>,
    over: bool,
    /// A deadline has come: it must be polled.
    overdue: bool,
}

impl Default for GrpcLink {
    fn default() -> Self {
        Self { grpc: GrpcConnection::new(true), inbox: Vec::new(), over: false, overdue: false }
    }
}

impl GrpcLink {
    /// Bytes came.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.grpc.receive(bytes);
    }

    /// No more bytes will come.
    pub fn receive_end(&mut self) {
        self.grpc.received_eof();
    }

    /// Its deadline has come.
    pub fn set_overdue(&mut self) {
        self.overdue = true;
    }

    /// Moves everything as far as it goes. Messages gather in the inbox.
    pub fn poll(&mut self, now: Monotonic) {
        for _ in 0..POLL_COUNT_MAX {
            if !self.needs_poll() {
                return;
            }
            self.overdue = false;
            if let ConnectionState::Closed(reason) = self.grpc.poll(now, &mut self.inbox)
                && !self.over
            {
                tracing::debug!(%reason, "a gRPC connection is over");
                self.over = true;
            }
        }
    }

    /// Whether polling does something.
    #[must_use]
    pub fn needs_poll(&self) -> bool {
        !self.over && (self.overdue || self.grpc.needs_poll())
    }

    /// Whether messages wait for a pass.
    #[must_use]
    pub fn has_messages(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// Takes the messages out.
    pub fn take_messages(&mut self) -> Vec<(StreamId, Bytes)> {
        std::mem::take(&mut self.inbox)
    }

    /// Gives the emptied list back, so that its memory is used again.
    pub fn give_back(&mut self, mut messages: Vec<(StreamId, Bytes)>) {
        messages.clear();
        if self.inbox.is_empty() {
            self.inbox = messages;
        }
    }

    /// Where the answers of a stream go; `None` if it takes no more.
    pub fn reply_buffer(&mut self, stream: u32) -> Option<&mut BytesMut> {
        self.grpc.reply_buffer(StreamId(stream))
    }

    /// A message needs no more answers. Once for each.
    pub fn finish(&mut self, stream: u32) {
        self.grpc.reply_done(StreamId(stream));
    }

    /// Ends a stream after what was answered on it.
    pub fn close_stream(&mut self, stream: u32, status: &WireStatus) {
        let status = GrpcStatus::new(grpc_code(status.code), status.message.clone());
        self.grpc.close_stream(StreamId(stream), status);
    }

    /// Stops or continues to hand out messages.
    pub fn set_paused(&mut self, paused: bool) {
        self.grpc.set_read_paused(paused);
    }

    /// The node is leaving.
    pub fn leave(&mut self) {
        self.grpc.shutdown();
    }

    /// Whether nothing is unanswered.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.grpc.in_flight_count() == 0
    }

    /// Bytes for the socket.
    pub fn output(&mut self) -> &mut BytesMut {
        self.grpc.output()
    }

    /// Bytes that the client hasn't read yet, apart from those that are with the socket.
    #[must_use]
    pub fn queued_size(&self) -> usize {
        self.grpc.queued_bytes()
    }

    /// Whether the socket should be read.
    #[must_use]
    pub fn wants_bytes(&self) -> bool {
        self.grpc.wants_bytes()
    }

    /// Whether the connection is over: its output is to be sent, then it closes.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// When it must be polled at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Monotonic> {
        self.grpc.next_deadline()
    }
}

const fn grpc_code(code: StatusCode) -> GrpcCode {
    match code {
        StatusCode::InvalidArgument => GrpcCode::InvalidArgument,
        StatusCode::PermissionDenied => GrpcCode::PermissionDenied,
        StatusCode::ResourceExhausted => GrpcCode::ResourceExhausted,
        StatusCode::Unimplemented => GrpcCode::Unimplemented,
        StatusCode::Internal => GrpcCode::Internal,
        StatusCode::Unavailable => GrpcCode::Unavailable,
    }
}
