//! A gRPC connection: see the room's own words in [`super`].

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use h2::server::{self, SendResponse};
use h2::{RecvStream, SendStream};
use http::Request;

use super::admission::{self, Admission, Admitted, Method};
use super::call::{Call, Taken};
use super::duplex::Duplex;
use super::keepalive::Keepalive;
use super::lane::GrpcLane;
use super::status::{GrpcCode, GrpcStatus};
use super::wake::WakeFlag;
use super::{CloseReason, ConnectionState, StreamId};
use crate::base::limits::{
    GRPC_CONNECTION_WINDOW_SIZE_BYTES, GRPC_HEADER_LIST_SIZE_BYTES_MAX,
    GRPC_HTTP2_FRAME_SIZE_BYTES_MAX, GRPC_INPUT_SIZE_BYTES_MAX, GRPC_OUTPUT_SIZE_BYTES,
    GRPC_OUTPUT_SIZE_BYTES_MAX, GRPC_PARTIAL_SIZE_BYTES_MAX, GRPC_RESET_COUNT_MAX,
    GRPC_STREAM_WINDOW_SIZE_BYTES, REQUESTS_PER_CONNECTION_MAX, SNIFF_NS_MAX, STREAM_COUNT_MAX,
};
use crate::base::time::Monotonic;

/// Passes that one poll makes at most; what remains is for the next turn.
const PASS_COUNT_MAX: usize = 8;

/// The server's side of one gRPC connection. It belongs to one thread and does no I/O.
///
/// Whoever owns it moves bytes between it and the socket, and calls [`GrpcConnection::poll`]
/// whenever [`GrpcConnection::needs_poll`] says so and when [`GrpcConnection::next_deadline`] has
/// come. Nothing else wakes it: there is work only after bytes came, replies were appended or
/// reported done, a stream was closed, or output was taken away. A turn therefore is
///
/// 1. [`GrpcConnection::receive`] and [`GrpcConnection::set_allowance`], then `poll`: messages come
///    out; again while [`GrpcConnection::has_unread`] and more are allowed;
/// 2. for each reply that is ready, [`GrpcConnection::reply_buffer`] and, after the last one to a
///    message, [`GrpcConnection::reply_done`];
/// 3. `poll` if `needs_poll`, once for all replies of the turn: they leave together;
/// 4. [`GrpcConnection::output`] to the socket, and from 3 again while `needs_poll`;
/// 5. the socket is read on if [`GrpcConnection::wants_bytes`], and the connection is slow if
///    [`GrpcConnection::queued_bytes`] stays high.
pub struct GrpcConnection {
    transport: Transport,
    /// Shared with h2, which owns the other handle.
    duplex: Duplex,
    /// The pipe's output while h2 isn't running.
    output: BytesMut,
    /// h2 has something to do.
    wake: WakeFlag,
    /// Something was asked of a stream, or of all.
    touched: bool,
    /// In the order of their ids, which is the order in which they came.
    calls: Vec<Call>,
    /// Messages that were handed out and not reported done, also those of streams that are gone.
    in_flight_count: usize,
    /// Replies that h2 took and has not written, because the output is full.
    handed_size_bytes: usize,
    /// Replies wait for room in the output, not for the client's window.
    held_back: bool,
    /// Where the next round over the calls begins, so that none of them always comes first.
    first: usize,
    opened_at: Option<Monotonic>,
    /// Messages that may still be handed out.
    allowance_count: usize,
    /// Streams that were reset because their replies stayed unread.
    unread_count: u64,
    serving: bool,
    draining: bool,
    /// Whether there are other members, who may call.
    takes_members: bool,
    /// The call of one that has come, until [`GrpcConnection::take_lane`].
    lane: Option<(RecvStream, SendStream<Bytes>)>,
}

enum Transport {
    Handshake(Box<server::Handshake<Duplex, Bytes>>),
    Open(Box<server::Connection<Duplex, Bytes>>, Keepalive),
    Closed(CloseReason),
}

impl GrpcConnection {
    /// A connection whose first byte is yet to come. `serving` is what the health service says.
    #[must_use]
    pub fn new(serving: bool) -> Self {
        let duplex = Duplex::default();
        let handshake = server::Builder::new()
            .initial_window_size(GRPC_STREAM_WINDOW_SIZE_BYTES)
            .initial_connection_window_size(GRPC_CONNECTION_WINDOW_SIZE_BYTES)
            .max_frame_size(GRPC_HTTP2_FRAME_SIZE_BYTES_MAX)
            .max_header_list_size(GRPC_HEADER_LIST_SIZE_BYTES_MAX)
            .max_concurrent_streams(STREAM_COUNT_MAX)
            .max_concurrent_reset_streams(GRPC_RESET_COUNT_MAX)
            .max_pending_accept_reset_streams(GRPC_RESET_COUNT_MAX)
            .max_send_buffer_size(GRPC_OUTPUT_SIZE_BYTES)
            .handshake(duplex.clone());
        Self {
            transport: Transport::Handshake(Box::new(handshake)),
            duplex,
            output: BytesMut::new(),
            wake: WakeFlag::raised(),
            touched: false,
            calls: Vec::new(),
            in_flight_count: 0,
            handed_size_bytes: 0,
            held_back: false,
            first: 0,
            opened_at: None,
            allowance_count: usize::MAX,
            unread_count: 0,
            serving,
            draining: false,
            takes_members: false,
            lane: None,
        }
    }

    /// The same, of a node that has other members.
    #[must_use]
    pub fn taking_members(mut self) -> Self {
        self.takes_members = true;
        self
    }

    /// Bytes came from the socket.
    pub fn receive(&mut self, bytes: &[u8]) {
        match &mut self.transport {
            Transport::Handshake(_) => {}
            Transport::Open(_, keepalive) => keepalive.hear(),
            Transport::Closed(_) => return,
        }
        self.duplex.pipe().input.extend_from_slice(bytes);
        self.wake.raise();
    }

    /// No more bytes will come from the socket.
    pub fn received_eof(&mut self) {
        self.duplex.pipe().input_ended = true;
        self.wake.raise();
    }

    /// Whether the socket should be read: HTTP/2 keeps up with what came. It doesn't while the
    /// client leaves its own answers unread.
    #[must_use]
    pub fn wants_bytes(&self) -> bool {
        self.duplex.pipe().input.len() < GRPC_INPUT_SIZE_BYTES_MAX
    }

    /// Moves everything as far as it goes. Messages of `Connect` streams are appended to
    /// `messages`; [`GrpcConnection::reply_done`] is due exactly once for each.
    pub fn poll(
        &mut self,
        now: Monotonic,
        messages: &mut Vec<(StreamId, Bytes)>,
    ) -> ConnectionState {
        mem::swap(&mut self.duplex.pipe().output, &mut self.output);
        let waker = self.wake.waker();
        let cx = &mut Context::from_waker(&waker);
        self.touched = false;
        if self.duplex.pipe().output_blocked {
            self.wake.raise();
        }
        self.expire(now, cx);
        for _ in 0..PASS_COUNT_MAX {
            if self.wake.is_raised() {
                self.drive(now, cx);
                // What h2 woke us for meanwhile is done; what comes from here on is not.
                self.wake.lower();
                self.collect(cx);
            }
            self.read(messages);
            self.write(now);
            if !self.wake.is_raised() {
                break;
            }
        }
        mem::swap(&mut self.duplex.pipe().output, &mut self.output);
        self.state()
    }

    /// Whether [`GrpcConnection::poll`] has something to do, deadlines apart.
    #[must_use]
    pub fn needs_poll(&self) -> bool {
        let output_size = self.output.len();
        self.touched
            || self.wake.is_raised()
            || (self.held_back && output_size < GRPC_OUTPUT_SIZE_BYTES)
            || (self.duplex.pipe().output_blocked && output_size < GRPC_OUTPUT_SIZE_BYTES_MAX)
    }

    /// Where the replies of a stream go: whole encoded frames, prefix and payload. `None` when the
    /// stream takes no more: the client has cancelled it, or its end is decided.
    pub fn reply_buffer(&mut self, stream: StreamId) -> Option<&mut BytesMut> {
        let place = self.place(stream)?;
        let call = &mut self.calls[place];
        if call.is_ending() {
            return None;
        }
        self.touched = true;
        Some(&mut call.replies)
    }

    /// All replies to one message of the stream are appended, or will never be. Due exactly once
    /// for each message that [`GrpcConnection::poll`] handed out, also if the stream is gone.
    ///
    /// # Panics
    /// If it is called more often than messages were handed out.
    pub fn reply_done(&mut self, stream: StreamId) {
        assert!(self.in_flight_count > 0, "a reply is done that no message asked for");
        self.in_flight_count -= 1;
        if let Some(place) = self.place(stream) {
            let call = &mut self.calls[place];
            assert!(call.in_flight_count > 0, "a stream has more replies than messages");
            call.in_flight_count -= 1;
        }
        self.touched = true;
    }

    /// Ends a stream after the replies that were appended so far; it takes no others.
    pub fn close_stream(&mut self, stream: StreamId, status: GrpcStatus) {
        if let Some(place) = self.place(stream) {
            self.calls[place].end_with(status);
            self.touched = true;
        }
    }

    /// Hands out no more messages of a stream, and ends it when those that it has handed out are
    /// answered.
    pub fn finish_stream(&mut self, stream: StreamId, status: GrpcStatus) {
        if let Some(place) = self.place(stream) {
            self.calls[place].end_requests(status);
            self.touched = true;
        }
    }

    /// Bytes for the socket. The owner takes them from the front, as many as it likes.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Everything that the client has not read yet. Exact but for HTTP/2's framing and what h2
    /// holds when a client shrinks its window, which is less than its output buffer.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        let replies: usize = self.calls.iter().map(|call| call.replies.len()).sum();
        replies + self.handed_size_bytes + self.output.len()
    }

    /// Messages that were handed out and not reported done.
    #[must_use]
    pub fn in_flight_count(&self) -> usize {
        self.in_flight_count
    }

    /// When to poll at the latest: a stream's `grpc-timeout`, replies that a client leaves unread,
    /// or the client's sign of life.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Monotonic> {
        let connection = match &self.transport {
            Transport::Handshake(_) => self.opened_at.map(|at| at.after_ns(SNIFF_NS_MAX)),
            Transport::Open(_, keepalive) => Some(keepalive.deadline()),
            Transport::Closed(_) => return None,
        };
        self.calls.iter().filter_map(Call::next_deadline).chain(connection).min()
    }

    /// When a client must have read on in one of the streams whose replies it leaves unread.
    #[must_use]
    pub fn unread_until(&self) -> Option<Monotonic> {
        self.calls.iter().filter_map(Call::unread_until).min()
    }

    /// Says that the node is leaving: GOAWAY with the last stream that is served. No stream hands
    /// out messages any more; each ends with `UNAVAILABLE` when those it has handed out are
    /// answered, so that a client knows that what is unanswered was not executed. The connection
    /// ends by itself if the client answers; how long to wait for that is the owner's decision.
    pub fn shutdown(&mut self) {
        if mem::replace(&mut self.draining, true) {
            return;
        }
        self.serving = false;
        if let Transport::Open(connection, _) = &mut self.transport {
            connection.graceful_shutdown();
            self.wake.raise();
        }
        for call in &mut self.calls {
            call.end_requests(leaving());
        }
        self.touched = true;
    }

    /// What the health service says from now on.
    pub fn set_serving(&mut self, serving: bool) {
        self.serving = serving && !self.draining;
        self.touched = true;
    }

    /// How many messages may be handed out until this is called again. While there are none to be
    /// handed out, no window is given back either: the client stops when its windows are used up.
    /// Cancellations, pings and health checks go on.
    pub fn set_allowance(&mut self, count: usize) {
        self.touched |= count > 0 && self.has_unread();
        self.allowance_count = count;
    }

    /// Whether a poll with an allowance might hand out messages without further bytes.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        self.lane.is_some() || self.calls.iter().any(|call| call.feeds_shard() && call.has_unread())
    }

    /// The lane that it has become, if another member has called: nothing is left here then.
    #[must_use]
    pub fn take_lane(&mut self) -> Option<GrpcLane> {
        let call = self.lane.take()?;
        let over = Transport::Closed(CloseReason::Finished);
        let Transport::Open(connection, _) = mem::replace(&mut self.transport, over) else {
            return None;
        };
        let wake = mem::replace(&mut self.wake, WakeFlag::raised());
        let output = mem::take(&mut self.output);
        Some(GrpcLane::accepted(connection, call, (self.duplex.clone(), wake, output)))
    }

    /// Bytes that came and aren't messages yet.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let held = self.calls.iter().map(|call| call.pending_len() + call.partial_len());
        self.duplex.pipe().input.len() + held.sum::<usize>()
    }

    /// How many streams were reset since the last call because their replies stayed unread.
    pub fn take_unread_count(&mut self) -> u64 {
        mem::take(&mut self.unread_count)
    }

    /// Ends all streams at once with a status, takes no more of them, and ends the connection when
    /// the client has heard that.
    pub fn refuse(&mut self, status: &GrpcStatus) {
        for call in &mut self.calls {
            call.end_with(status.clone());
        }
        self.shutdown();
    }

    /// What has become of it.
    #[must_use]
    pub fn state(&self) -> ConnectionState {
        match self.transport {
            Transport::Closed(reason) => ConnectionState::Closed(reason),
            _ if self.draining => ConnectionState::Draining,
            _ => ConnectionState::Open,
        }
    }

    fn place(&self, stream: StreamId) -> Option<usize> {
        self.calls.binary_search_by_key(&stream, |call| call.id).ok()
    }

    /// Ends what has run out of time.
    fn expire(&mut self, now: Monotonic, cx: &mut Context<'_>) {
        let opened_at = *self.opened_at.get_or_insert(now);
        match &mut self.transport {
            Transport::Handshake(_) if now >= opened_at.after_ns(SNIFF_NS_MAX) => {
                self.close(CloseReason::NoPreface);
            }
            Transport::Open(_, keepalive) => {
                if keepalive.check(now, cx).is_err() {
                    self.close(CloseReason::Silent);
                }
            }
            Transport::Handshake(_) | Transport::Closed(_) => {}
        }
        for call in &mut self.calls {
            if call.deadline.is_some_and(|deadline| deadline <= now) {
                let text = "the stream's `grpc-timeout` has passed";
                call.end_with(GrpcStatus::new(GrpcCode::DeadlineExceeded, text));
            }
            if call.reset_if_unread(now) {
                self.unread_count += 1;
                self.wake.raise();
            }
        }
    }

    /// Lets h2 read and write and report new streams.
    fn drive(&mut self, now: Monotonic, cx: &mut Context<'_>) {
        self.duplex.pipe().output_blocked = false;
        if let Transport::Handshake(handshake) = &mut self.transport {
            match Pin::new(handshake.as_mut()).poll(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(connection)) => self.begin(connection, now),
                Poll::Ready(Err(_)) => self.close(CloseReason::NoPreface),
            }
        }
        while let Transport::Open(connection, _) = &mut self.transport {
            match connection.poll_accept(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok((request, respond)))) => self.accept(request, respond, now),
                Poll::Ready(Some(Err(error))) => self.close(close_reason(&error)),
                Poll::Ready(None) => self.close(CloseReason::Finished),
            }
        }
        if !self.duplex.pipe().output_blocked {
            // h2 got no more than the client's windows take, and has written it.
            self.handed_size_bytes = 0;
        }
    }

    /// Takes what h2 has received for the calls: bytes and resets.
    fn collect(&mut self, cx: &mut Context<'_>) {
        for call in &mut self.calls {
            call.receive(cx);
        }
        self.calls.retain(|call| !call.is_over());
    }

    fn begin(&mut self, mut connection: server::Connection<Duplex, Bytes>, now: Monotonic) {
        let pings = connection.ping_pong().expect("it is taken once");
        if self.draining {
            connection.graceful_shutdown();
        }
        self.transport = Transport::Open(Box::new(connection), Keepalive::new(pings, now));
    }

    fn accept(
        &mut self,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        now: Monotonic,
    ) {
        match admission::admit(&request) {
            Ok(Admitted::Lane) => self.accept_lane(request.into_body(), respond),
            Ok(Admitted::Call(_)) if self.lane.is_some() => refuse_beside_lane(&mut respond),
            Ok(Admitted::Call(Admission { method, timeout_ns })) => {
                let Some(mut call) = Call::open(method, request.into_body(), respond) else {
                    return;
                };
                call.deadline = timeout_ns.map(|timeout_ns| now.after_ns(timeout_ns));
                if self.draining && method != Method::HealthCheck {
                    call.end_requests(leaving());
                }
                debug_assert!(self.calls.last().is_none_or(|last| last.id < call.id));
                self.calls.push(call);
            }
            Err(refusal) => {
                // An error means that the client has reset the stream already.
                let _ = respond.send_response(refusal.response(), true);
            }
        }
    }

    /// Another member calls.
    fn accept_lane(&mut self, frames: RecvStream, mut respond: SendResponse<Bytes>) {
        let status = if !self.takes_members {
            GrpcStatus::new(GrpcCode::Unimplemented, "this node has no other members")
        } else if self.draining {
            leaving()
        } else if self.lane.is_some() || !self.calls.is_empty() || self.in_flight_count > 0 {
            return refuse_beside_lane(&mut respond);
        } else {
            // An error means that the member has reset the call already.
            if let Ok(sending) = respond.send_response(admission::response(), false) {
                self.lane = Some((frames, sending));
            }
            return;
        };
        let _ = respond.send_response(admission::response_with_status_only(&status), true);
    }

    /// Takes messages from the calls and gives windows back.
    fn read(&mut self, messages: &mut Vec<(StreamId, Bytes)>) {
        for place in self.round() {
            let call = &mut self.calls[place];
            while !call.feeds_shard()
                || (self.allowance_count > 0 && self.in_flight_count < REQUESTS_PER_CONNECTION_MAX)
            {
                match call.take(self.serving) {
                    Taken::Message(payload) => {
                        self.in_flight_count += 1;
                        self.allowance_count -= 1;
                        messages.push((call.id, payload));
                    }
                    Taken::Answered => {}
                    Taken::Nothing => break,
                }
            }
        }
        self.release();
    }

    /// Gives windows back, except for incomplete messages when there is too much of them: then
    /// only the first stream's goes on, so that they get done one by one.
    fn release(&mut self) {
        let partial_size: usize = self.calls.iter().map(Call::partial_len).sum();
        let mut may_assemble = true;
        for call in &mut self.calls {
            let is_partial = call.partial_len() > 0;
            if !is_partial || may_assemble {
                call.release();
            }
            if is_partial && partial_size > GRPC_PARTIAL_SIZE_BYTES_MAX {
                may_assemble = false;
            }
        }
    }

    /// Hands replies to h2 and ends streams.
    fn write(&mut self, now: Monotonic) {
        let output_size = self.duplex.pipe().output.len();
        self.held_back = false;
        for place in self.round() {
            let call = &mut self.calls[place];
            call.settle(self.serving);
            let room = GRPC_OUTPUT_SIZE_BYTES.saturating_sub(output_size + self.handed_size_bytes);
            let size = call.send(room, now);
            call.finish();
            self.held_back |= size == room && !call.replies.is_empty();
            if size > 0 || call.is_over() {
                self.handed_size_bytes += size;
                self.wake.raise();
            }
        }
        self.calls.retain(|call| !call.is_over());
        self.first = self.first.wrapping_add(1);
    }

    /// The places of all calls, beginning with another one each time.
    fn round(&self) -> impl Iterator<Item = usize> + use<> {
        let count = self.calls.len();
        let first = self.first.checked_rem(count).unwrap_or(0);
        (first..count).chain(0..first)
    }

    fn close(&mut self, reason: CloseReason) {
        self.calls.clear();
        self.handed_size_bytes = 0;
        self.held_back = false;
        self.transport = Transport::Closed(reason);
    }
}

impl fmt::Debug for GrpcConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcConnection")
            .field("state", &self.state())
            .field("calls", &self.calls.len())
            .field("in_flight_count", &self.in_flight_count)
            .field("queued_bytes", &self.queued_bytes())
            .finish_non_exhaustive()
    }
}

/// A lane between members is all that its connection is for.
pub(super) fn refuse_beside_lane(respond: &mut SendResponse<Bytes>) {
    let text = "the call of a member is the only one of its connection";
    let status = GrpcStatus::new(GrpcCode::FailedPrecondition, text);
    // An error means that the other side has reset the call already.
    let _ = respond.send_response(admission::response_with_status_only(&status), true);
}

fn leaving() -> GrpcStatus {
    GrpcStatus::new(GrpcCode::Unavailable, "the node is shutting down")
}

fn close_reason(error: &h2::Error) -> CloseReason {
    // An error of I/O can only be our own pipe's end of input: the client is gone.
    error.reason().map_or(CloseReason::Finished, CloseReason::Http2)
}
