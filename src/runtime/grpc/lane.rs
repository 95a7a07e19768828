//! A lane between two members inside of gRPC: one call of `p2pmap.v1.MemberService/Connect`, alone
//! on its connection. Frames are appended to it and come out of it as if they were sent raw.
//!
//! Both ends are this object; they differ in which side of HTTP/2 h2 plays. As in a
//! [`GrpcConnection`](super::GrpcConnection) nothing but a poll moves anything, and h2 gets no more
//! than the other end's window and a small output buffer take. What comes is handed out at once, so
//! its window is given back at once: whoever drives the lane bounds what waits to be sent, by
//! [`GrpcLane::queued_bytes`], as for raw frames.

use std::fmt;
use std::future::Future as _;
use std::mem;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream, client, server};
use http::Response;

use super::admission;
use super::assembler::Assembler;
use super::connection::refuse_beside_lane;
use super::duplex::Duplex;
use super::status::{self, GrpcStatus};
use super::wake::WakeFlag;
use crate::base::limits::{
    GRPC_CONNECTION_WINDOW_SIZE_BYTES, GRPC_HEADER_LIST_SIZE_BYTES_MAX,
    GRPC_HTTP2_FRAME_SIZE_BYTES_MAX, GRPC_OUTPUT_SIZE_BYTES, GRPC_OUTPUT_SIZE_BYTES_MAX,
    GRPC_STREAM_WINDOW_SIZE_BYTES,
};
use crate::runtime::client_frame::FrameRefusal;
use crate::wire::frame::Flag;
use crate::wire::peer::member_frame::{unwrap, wrap};

/// Passes that one poll makes at most; what remains is for the next one.
const PASS_COUNT_MAX: usize = 8;

/// One end of a lane.
pub struct GrpcLane {
    side: Side,
    incoming: Incoming,
    assembler: Assembler,
    /// How the other side has ended it.
    end: Option<LaneEnd>,
    /// Where frames go; `None`: nothing more can be said.
    outgoing: Option<SendStream<Bytes>>,
    /// Raw frames that were appended since the last poll.
    frames: BytesMut,
    /// The same as messages of gRPC, for which the other end's window or the output had no room.
    messages: BytesMut,
    /// Messages that h2 took and has not written, because the output is full.
    handed_size_bytes: usize,
    /// Messages wait for room in the output, not for the other end's window.
    held_back: bool,
    /// How it ends once what was appended is out.
    finish: Option<GrpcStatus>,
    /// Shared with h2, which owns the other handle.
    duplex: Duplex,
    /// h2 has something to do.
    wake: WakeFlag,
    /// The duplex's output while h2 isn't running.
    output: BytesMut,
}

enum Side {
    Dialler(Box<client::Connection<Duplex, Bytes>>),
    Acceptor(Box<server::Connection<Duplex, Bytes>>),
    Over,
}

enum Incoming {
    /// The call isn't answered yet.
    Response(ResponseFuture),
    Frames(RecvStream),
    Over,
}

/// How the other side has ended a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaneEnd {
    /// With this status of gRPC, said for people.
    Status(String),
    /// It speaks HTTP/2, but not gRPC: HTTP's status.
    NotGrpc(u16),
    /// HTTP/2 broke off.
    Broken(String),
    /// Without a word.
    Closed,
}

impl fmt::Display for LaneEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "gRPC, {status}"),
            Self::NotGrpc(code) => write!(f, "it doesn't speak gRPC (HTTP status {code})"),
            Self::Broken(error) => write!(f, "HTTP/2: {error}"),
            Self::Closed => f.write_str("it closed the call"),
        }
    }
}

/// What came is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneError {
    /// It isn't even a message of gRPC that is accepted.
    Message(FrameRefusal),
    /// It is no `p2pmap.v1.MemberFrame`.
    Frame,
}

impl fmt::Display for LaneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(refusal) => refusal.fmt(f),
            Self::Frame => f.write_str("a message that is no p2pmap.v1.MemberFrame"),
        }
    }
}

impl std::error::Error for LaneError {}

impl GrpcLane {
    /// The end of a member that dials another one.
    #[must_use]
    pub fn dial(authority: SocketAddr) -> Self {
        let (duplex, wake) = (Duplex::default(), WakeFlag::raised());
        let mut builder = client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(GRPC_STREAM_WINDOW_SIZE_BYTES)
            .initial_connection_window_size(GRPC_CONNECTION_WINDOW_SIZE_BYTES)
            .max_frame_size(GRPC_HTTP2_FRAME_SIZE_BYTES_MAX)
            .max_header_list_size(GRPC_HEADER_LIST_SIZE_BYTES_MAX)
            .max_send_buffer_size(GRPC_OUTPUT_SIZE_BYTES);
        let handshake = pin!(builder.handshake(duplex.clone()));
        let waker = wake.waker();
        let Poll::Ready(Ok((mut requests, connection))) =
            handshake.poll(&mut Context::from_waker(&waker))
        else {
            unreachable!("memory takes HTTP/2's preface at once");
        };
        let request = admission::lane_request(authority);
        let (response, outgoing) =
            requests.send_request(request, false).expect("the first request is within all bounds");
        let output = mem::take(&mut duplex.pipe().output);
        Self::new(
            Side::Dialler(Box::new(connection)),
            (Incoming::Response(response), outgoing),
            (duplex, wake, output),
        )
    }

    /// The end of a member that was dialled, and has begun its response.
    pub(super) fn accepted(
        connection: Box<server::Connection<Duplex, Bytes>>,
        (frames, outgoing): (RecvStream, SendStream<Bytes>),
        transport: (Duplex, WakeFlag, BytesMut),
    ) -> Self {
        Self::new(Side::Acceptor(connection), (Incoming::Frames(frames), outgoing), transport)
    }

    fn new(
        side: Side,
        (incoming, outgoing): (Incoming, SendStream<Bytes>),
        (duplex, wake, output): (Duplex, WakeFlag, BytesMut),
    ) -> Self {
        wake.raise();
        Self {
            side,
            incoming,
            assembler: Assembler::default(),
            end: None,
            outgoing: Some(outgoing),
            frames: BytesMut::new(),
            messages: BytesMut::new(),
            handed_size_bytes: 0,
            held_back: false,
            finish: None,
            duplex,
            wake,
            output,
        }
    }

    /// Bytes came from the socket.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.duplex.pipe().input.extend_from_slice(bytes);
        self.wake.raise();
    }

    /// Where frames are appended: whole ones.
    pub fn frames(&mut self) -> &mut BytesMut {
        &mut self.frames
    }

    /// The next frame that came.
    ///
    /// # Errors
    /// If what came is none. Nothing comes after that.
    pub fn next_frame(&mut self) -> Result<Option<(Flag, Bytes)>, LaneError> {
        let Some(message) = self.assembler.next().map_err(LaneError::Message)? else {
            return Ok(None);
        };
        unwrap(&message).map(Some).ok_or(LaneError::Frame)
    }

    /// How the other side has ended it, when all its frames were taken.
    pub fn take_end(&mut self) -> Option<LaneEnd> {
        self.end.take()
    }

    /// Whether there may be a frame, or an end, that wasn't taken.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.assembler.pending_len() > 0 || self.end.is_some()
    }

    /// Ends it after what was appended so far, but without waiting for the other end to take that:
    /// with a status if it was dialled, in silence if it has dialled.
    pub fn finish(&mut self, status: GrpcStatus) {
        self.finish = Some(status);
        self.wake.raise();
    }

    /// Moves everything as far as it goes.
    pub fn poll(&mut self) {
        mem::swap(&mut self.duplex.pipe().output, &mut self.output);
        let waker = self.wake.waker();
        let cx = &mut Context::from_waker(&waker);
        if self.duplex.pipe().output_blocked {
            self.wake.raise();
        }
        for _ in 0..PASS_COUNT_MAX {
            if self.wake.is_raised() {
                self.drive(cx);
                // What h2 woke us for meanwhile is done; what comes from here on is not.
                self.wake.lower();
                self.collect(cx);
            }
            self.write();
            if !self.wake.is_raised() {
                break;
            }
        }
        mem::swap(&mut self.duplex.pipe().output, &mut self.output);
    }

    /// Whether [`GrpcLane::poll`] has something to do.
    #[must_use]
    pub fn needs_poll(&self) -> bool {
        let output_size = self.output.len();
        !self.frames.is_empty()
            || self.wake.is_raised()
            || (self.held_back && output_size < GRPC_OUTPUT_SIZE_BYTES)
            || (self.duplex.pipe().output_blocked && output_size < GRPC_OUTPUT_SIZE_BYTES_MAX)
    }

    /// Bytes for the socket. The owner takes them from the front, as many as it likes.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Everything that was appended and isn't with the socket yet, and the end, if it is to come.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        let end = usize::from(self.finish.is_some());
        let appended = self.frames.len() + self.messages.len() + self.handed_size_bytes;
        appended + self.output.len() + end
    }

    /// Bytes that came and aren't frames yet.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let begun = self.assembler.pending_len() + self.assembler.partial_len();
        self.duplex.pipe().input.len() + begun
    }

    /// Lets h2 read and write.
    fn drive(&mut self, cx: &mut Context<'_>) {
        self.duplex.pipe().output_blocked = false;
        let end = match &mut self.side {
            Side::Dialler(connection) => match Pin::new(connection.as_mut()).poll(cx) {
                Poll::Pending => None,
                Poll::Ready(Ok(())) => Some(LaneEnd::Closed),
                Poll::Ready(Err(error)) => Some(LaneEnd::Broken(error.to_string())),
            },
            Side::Acceptor(connection) => loop {
                match connection.poll_accept(cx) {
                    Poll::Pending => break None,
                    Poll::Ready(Some(Ok((_, mut respond)))) => refuse_beside_lane(&mut respond),
                    Poll::Ready(Some(Err(error))) => {
                        break Some(LaneEnd::Broken(error.to_string()));
                    }
                    Poll::Ready(None) => break Some(LaneEnd::Closed),
                }
            },
            Side::Over => None,
        };
        if !self.duplex.pipe().output_blocked {
            self.handed_size_bytes = 0;
        }
        if let Some(end) = end {
            (self.side, self.outgoing) = (Side::Over, None);
            self.collect(cx);
            self.end_with(end);
        }
    }

    /// Takes what h2 has received.
    fn collect(&mut self, cx: &mut Context<'_>) {
        if let Incoming::Response(response) = &mut self.incoming {
            match Pin::new(response).poll(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(response)) => self.begin(response),
                Poll::Ready(Err(error)) => {
                    return self.end_with(LaneEnd::Broken(error.to_string()));
                }
            }
        }
        let Incoming::Frames(incoming) = &mut self.incoming else { return };
        let end = loop {
            match incoming.poll_data(cx) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(bytes))) => {
                    let size = bytes.len();
                    self.assembler.push(bytes);
                    let released = incoming.flow_control().release_capacity(size);
                    debug_assert!(released.is_ok(), "as much is given back as was taken");
                }
                Poll::Ready(Some(Err(error))) => break LaneEnd::Broken(error.to_string()),
                Poll::Ready(None) => match incoming.poll_trailers(cx) {
                    Poll::Pending => return,
                    Poll::Ready(Ok(trailers)) => {
                        let told = trailers.as_ref().and_then(status::told);
                        break told.map_or(LaneEnd::Closed, LaneEnd::Status);
                    }
                    Poll::Ready(Err(error)) => break LaneEnd::Broken(error.to_string()),
                },
            }
        };
        self.end_with(end);
    }

    /// The call that was made is answered.
    fn begin(&mut self, response: Response<RecvStream>) {
        if !admission::is_grpc_response(&response) {
            return self.end_with(LaneEnd::NotGrpc(response.status().as_u16()));
        }
        match status::told(response.headers()) {
            Some(told) => self.end_with(LaneEnd::Status(told)),
            None => self.incoming = Incoming::Frames(response.into_body()),
        }
    }

    /// The first end counts.
    fn end_with(&mut self, end: LaneEnd) {
        if !matches!(self.incoming, Incoming::Over) {
            self.incoming = Incoming::Over;
            self.end = Some(end);
        }
    }

    /// Hands messages to h2, as many as it writes at once, and ends the call if it is to end.
    fn write(&mut self) {
        wrap(&self.frames, &mut self.messages);
        self.frames.clear();
        if self.frames.capacity() > GRPC_OUTPUT_SIZE_BYTES {
            self.frames = BytesMut::new();
        }
        let output_size = self.duplex.pipe().output.len();
        let room = GRPC_OUTPUT_SIZE_BYTES.saturating_sub(output_size + self.handed_size_bytes);
        let size = self.hand_over(room);
        self.held_back = size == room && !self.messages.is_empty();
        if size > 0 {
            self.handed_size_bytes += size;
            self.wake.raise();
        }
        if !self.held_back
            && let Some(status) = self.finish.take()
        {
            self.say_end(&status);
        }
    }

    /// Hands at most `size_max` bytes to h2, and no more than the other end's window takes: h2
    /// would queue them without bound. Returns how many.
    fn hand_over(&mut self, size_max: usize) -> usize {
        let wanted = self.messages.len().min(size_max);
        let Some(outgoing) = &mut self.outgoing else {
            self.messages.clear();
            return 0;
        };
        if wanted == 0 {
            return 0;
        }
        outgoing.reserve_capacity(wanted);
        let size = outgoing.capacity().min(wanted);
        if size == 0 {
            return 0;
        }
        let bytes = self.messages.split_to(size).freeze();
        if outgoing.send_data(bytes, false).is_err() {
            // The other side has reset the call: that comes in too.
            self.outgoing = None;
            self.messages.clear();
            return 0;
        }
        size
    }

    fn say_end(&mut self, status: &GrpcStatus) {
        self.messages.clear();
        if let Some(mut outgoing) = self.outgoing.take() {
            // An error means that the other side has reset the call already.
            let _ = match self.side {
                Side::Acceptor(_) => outgoing.send_trailers(status.trailers()),
                Side::Dialler(_) | Side::Over => outgoing.send_data(Bytes::new(), true),
            };
            self.wake.raise();
        }
    }
}

impl fmt::Debug for GrpcLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Side::Dialler(_) => "dialler",
            Side::Acceptor(_) => "acceptor",
            Side::Over => "over",
        };
        f.debug_struct("GrpcLane")
            .field("side", &side)
            .field("end", &self.end)
            .field("queued_bytes", &self.queued_bytes())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
