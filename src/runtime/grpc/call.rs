//! One stream: a call of one method. Requests come out of it as whole messages; replies go in as
//! encoded frames and leave as far as the client's window allows.

use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};

use super::StreamId;
use super::admission::{self, Method};
use super::assembler::Assembler;
use super::health::{self, Watch};
use super::status::{GrpcCode, GrpcStatus};
use crate::base::cast::{u32_from, usize_from_u32};
use crate::base::limits::UNREAD_NS_MAX;
use crate::base::time::Monotonic;

/// One stream.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) id: StreamId,
    pub(super) deadline: Option<Monotonic>,
    /// Messages that were handed out and whose replies are not all in `replies` yet.
    pub(super) in_flight_count: usize,
    /// Encoded frames that the client's window has not had room for.
    pub(super) replies: BytesMut,
    /// The client's window leaves no room for `replies`, and must by then.
    unread_until: Option<Monotonic>,
    method: Method,
    watch: Option<Watch>,
    /// What the client sends; `None` when nothing more is wanted of it.
    requests: Option<RecvStream>,
    assembler: Assembler,
    /// Bytes taken from h2 for which the client has not got its window back.
    unreleased_size_bytes: u32,
    /// The client has sent all that it will.
    half_closed: bool,
    /// No more messages are handed out: how the stream ends once those that were are answered.
    requests_end: Option<GrpcStatus>,
    response: Response,
    /// How the stream ends once `replies` are out.
    end: Option<GrpcStatus>,
    /// Trailers are sent, or the client has reset the stream.
    over: bool,
}

#[derive(Debug)]
enum Response {
    /// Not begun: an error can still be a response of its own.
    Unsent(SendResponse<Bytes>),
    Begun(SendStream<Bytes>),
}

/// What a message asks of the connection.
#[derive(Debug)]
pub(super) enum Taken {
    /// A message for the shard.
    Message(Bytes),
    /// A message that was answered here.
    Answered,
    /// No whole message is there.
    Nothing,
}

impl Call {
    /// Begins the response of a streaming method at once: some clients wait for its headers before
    /// they send anything. `None`: the client has already reset the stream.
    pub(super) fn open(
        method: Method,
        requests: RecvStream,
        mut respond: SendResponse<Bytes>,
    ) -> Option<Self> {
        let id = StreamId(respond.stream_id().as_u32());
        let response = match method {
            Method::HealthCheck => Response::Unsent(respond),
            Method::Connect | Method::HealthWatch => {
                Response::Begun(respond.send_response(admission::response(), false).ok()?)
            }
        };
        Some(Self {
            id,
            deadline: None,
            in_flight_count: 0,
            replies: BytesMut::new(),
            unread_until: None,
            method,
            watch: None,
            requests: Some(requests),
            assembler: Assembler::default(),
            unreleased_size_bytes: 0,
            half_closed: false,
            requests_end: None,
            response,
            end: None,
            over: false,
        })
    }

    /// Takes what h2 has received, whether or not messages are wanted now: what lies in h2 counts
    /// against a client that sends many small DATA frames. The window isn't given back here.
    pub(super) fn receive(&mut self, cx: &mut Context<'_>) {
        while let Some(requests) = &mut self.requests
            && !self.half_closed
        {
            match requests.poll_data(cx) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(bytes))) => {
                    self.unreleased_size_bytes += u32_from(bytes.len());
                    self.assembler.push(bytes);
                }
                Poll::Ready(Some(Err(_))) => {
                    self.over = true;
                    return;
                }
                Poll::Ready(None) => self.half_closed = true,
            }
        }
        let reset = match &mut self.response {
            Response::Unsent(respond) => respond.poll_reset(cx),
            Response::Begun(stream) => stream.poll_reset(cx),
        };
        self.over |= reset.is_ready();
    }

    /// Takes the next whole message. What can't be a message ends the stream.
    pub(super) fn take(&mut self, serving: bool) -> Taken {
        if self.requests.is_none() {
            return Taken::Nothing;
        }
        match self.assembler.next() {
            Ok(Some(message)) => self.dispatch(message, serving),
            Ok(None) => {
                if self.half_closed {
                    self.end_requests(self.half_close_status());
                }
                Taken::Nothing
            }
            Err(error) => {
                self.end_requests((&error.status()).into());
                Taken::Nothing
            }
        }
    }

    /// Whether its messages go to the shard.
    pub(super) fn feeds_shard(&self) -> bool {
        self.method == Method::Connect
    }

    /// Gives the client its window back for what has been looked at.
    pub(super) fn release(&mut self) {
        let waiting = u32_from(self.assembler.pending_len());
        self.release_window(self.unreleased_size_bytes - waiting);
    }

    /// Whether something came that hasn't been looked at.
    pub(super) fn has_unread(&self) -> bool {
        self.requests.is_some() && (self.pending_len() > 0 || self.half_closed)
    }

    /// Bytes that haven't been looked at.
    pub(super) fn pending_len(&self) -> usize {
        self.assembler.pending_len()
    }

    /// Bytes of an incomplete message.
    pub(super) fn partial_len(&self) -> usize {
        self.assembler.partial_len()
    }

    /// Ends the stream once the replies that it has are out. The first end counts.
    pub(super) fn end_with(&mut self, status: GrpcStatus) {
        if self.end.is_none() {
            self.end = Some(status);
            self.stop_receiving();
        }
    }

    /// It takes no more replies.
    pub(super) fn is_ending(&self) -> bool {
        self.end.is_some() || self.over
    }

    /// Nothing is left to do for it.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Hands out no more messages; ends the stream once those that were are answered. The first
    /// end counts, but a client's own end is no reason to tell it that all was well.
    pub(super) fn end_requests(&mut self, status: GrpcStatus) {
        if self.requests_end.as_ref().is_none_or(|end| end.code == GrpcCode::Ok) {
            self.requests_end = Some(status);
            self.stop_receiving();
        }
    }

    /// Brings the stream to its end if its time has come.
    pub(super) fn settle(&mut self, serving: bool) {
        if self.is_ending() {
            return;
        }
        let is_told = match &mut self.watch {
            Some(watch) => watch.tell(serving, &mut self.replies),
            None => true,
        };
        if self.in_flight_count == 0
            && is_told
            && let Some(status) = self.requests_end.take()
        {
            self.end_with(status);
        }
    }

    /// Hands at most `size_max` bytes of replies to h2, and no more than the client's window takes:
    /// h2 would queue them without bound. Returns how many.
    pub(super) fn send(&mut self, size_max: usize, now: Monotonic) -> usize {
        let wanted = self.replies.len().min(size_max);
        if wanted == 0 || self.over {
            return 0;
        }
        let Some(stream) = self.begun() else {
            self.over = true;
            return 0;
        };
        stream.reserve_capacity(wanted);
        let size = stream.capacity().min(wanted);
        if size == 0 {
            self.unread_until.get_or_insert_with(|| now.after_ns(UNREAD_NS_MAX));
            return 0;
        }
        self.unread_until = (size < wanted).then(|| now.after_ns(UNREAD_NS_MAX));
        let bytes = self.replies.split_to(size).freeze();
        let Response::Begun(stream) = &mut self.response else { return 0 };
        self.over = stream.send_data(bytes, false).is_err();
        size
    }

    /// Resets the stream if the client has left its replies unread for too long: trailers could not
    /// overtake them.
    pub(super) fn reset_if_unread(&mut self, now: Monotonic) -> bool {
        if self.over || self.unread_until.is_none_or(|until| now < until) {
            return false;
        }
        if let Response::Begun(stream) = &mut self.response {
            stream.send_reset(Reason::ENHANCE_YOUR_CALM);
        }
        self.over = true;
        true
    }

    /// When time runs out for it.
    /// When the client must have read on, if it leaves replies unread.
    pub(super) fn unread_until(&self) -> Option<Monotonic> {
        self.unread_until.filter(|_| !self.over)
    }

    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        let deadline = self.deadline.filter(|_| !self.is_ending());
        deadline.into_iter().chain(self.unread_until).min()
    }

    /// Sends the trailers if nothing stands before them any more.
    pub(super) fn finish(&mut self) {
        let Some(status) = &self.end else { return };
        if self.over || !self.replies.is_empty() {
            return;
        }
        // An error here means that the client has reset the stream: it is over as well.
        let _ = match &mut self.response {
            Response::Unsent(respond) => {
                let response = admission::response_with_status_only(status);
                respond.send_response(response, true).map(drop)
            }
            Response::Begun(stream) => stream.send_trailers(status.trailers()),
        };
        self.over = true;
    }

    fn dispatch(&mut self, message: Bytes, serving: bool) -> Taken {
        match self.method {
            Method::Connect => {
                self.in_flight_count += 1;
                return Taken::Message(message);
            }
            Method::HealthCheck => {
                let status = health::check(message, serving, &mut self.replies);
                self.end_with(status);
            }
            Method::HealthWatch => match Watch::begin(message) {
                Ok(watch) => {
                    self.watch = Some(watch);
                    self.stop_receiving();
                }
                Err(status) => self.end_with(status),
            },
        }
        Taken::Answered
    }

    fn half_close_status(&self) -> GrpcStatus {
        if self.partial_len() > 0 {
            let text = "the client's side ended inside a message";
            return GrpcStatus::new(GrpcCode::Internal, text);
        }
        match self.method {
            Method::Connect => GrpcStatus::OK,
            Method::HealthCheck | Method::HealthWatch => {
                let text = "the method takes exactly one request";
                GrpcStatus::new(GrpcCode::Unimplemented, text)
            }
        }
    }

    /// Takes no more messages; what the client still sends is dropped and costs it no window.
    fn stop_receiving(&mut self) {
        self.release_window(self.unreleased_size_bytes);
        self.requests = None;
        self.assembler = Assembler::default();
    }

    fn release_window(&mut self, size_bytes: u32) {
        if size_bytes == 0 {
            return;
        }
        let requests = self.requests.as_mut().expect("bytes are unreleased only while they come");
        let released = requests.flow_control().release_capacity(usize_from_u32(size_bytes));
        debug_assert!(released.is_ok(), "more is given back than was taken");
        self.unreleased_size_bytes -= size_bytes;
    }

    /// The response, begun if it wasn't; `None`: the client has reset the stream.
    fn begun(&mut self) -> Option<&mut SendStream<Bytes>> {
        if let Response::Unsent(respond) = &mut self.response {
            let stream = respond.send_response(admission::response(), false).ok()?;
            self.response = Response::Begun(stream);
        }
        match &mut self.response {
            Response::Begun(stream) => Some(stream),
            Response::Unsent(_) => None,
        }
    }
}
