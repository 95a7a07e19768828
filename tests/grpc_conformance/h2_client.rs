//! The server against h2's client.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response};
use p2pmap::base::limits::{
    FRAME_PREFIX_SIZE_BYTES, FRAME_SIZE_BYTES_MAX, GRPC_HEADER_LIST_SIZE_BYTES_MAX,
    GRPC_KEEPALIVE_IDLE_NS, GRPC_KEEPALIVE_TIMEOUT_NS, GRPC_OUTPUT_SIZE_BYTES_MAX,
    GRPC_STREAM_WINDOW_SIZE_BYTES, REQUESTS_PER_CONNECTION_MAX, STREAM_COUNT_MAX, UNREAD_NS_MAX,
};
use p2pmap::base::prng::Prng;
use p2pmap::base::time::{Monotonic, NS_PER_MS};
use p2pmap::proto::health::health_check_response::ServingStatus;
use p2pmap::proto::health::{HealthCheckRequest, HealthCheckResponse};
use p2pmap::runtime::grpc::{
    CloseReason, ConnectionState, GrpcCode, GrpcConnection, GrpcStatus, StreamId,
};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{CHECK, CONNECT, WATCH, echo, frame};

/// The client's end of the connection.
#[derive(Clone, Default)]
struct Pipe(Rc<RefCell<(BytesMut, BytesMut)>>);

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let input = &mut self.0.borrow_mut().0;
        if input.is_empty() {
            return Poll::Pending;
        }
        let count = input.len().min(buffer.remaining());
        buffer.put_slice(&input.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().1.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A server and a client with nothing but memory between them.
struct Pair {
    server: GrpcConnection,
    state: ConnectionState,
    now: Monotonic,
    messages: Vec<(StreamId, Bytes)>,
    echoes: bool,
    pipe: Pipe,
    connection: Connection<Pipe, Bytes>,
    requests: SendRequest<Bytes>,
    client_error: Option<h2::Error>,
}

impl Pair {
    fn new() -> Self {
        let builder = &mut h2::client::Builder::new();
        builder.initial_window_size(1 << 20);
        Self::with_client(builder.initial_connection_window_size(1 << 30))
    }

    fn with_client(builder: &h2::client::Builder) -> Self {
        let pipe = Pipe::default();
        let mut handshake = std::pin::pin!(builder.handshake(pipe.clone()));
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok((requests, connection))) = handshake.as_mut().poll(&mut cx) else {
            panic!("the client's handshake needs no answer");
        };
        let server = GrpcConnection::new(true);
        let mut pair = Self {
            server,
            state: ConnectionState::Open,
            now: Monotonic(1),
            messages: Vec::new(),
            echoes: true,
            pipe,
            connection,
            requests,
            client_error: None,
        };
        pair.run();
        pair
    }

    /// Lets both sides go on until neither has anything to say.
    fn run(&mut self) {
        for _ in 0..100_000 {
            if !self.turn() {
                return;
            }
        }
        panic!("the two never come to rest");
    }

    fn turn(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(Err(error)) = Pin::new(&mut self.connection).poll(&mut cx) {
            self.client_error = Some(error);
        }
        let mut moved = false;
        if self.server.wants_bytes() {
            let sent = self.pipe.0.borrow_mut().1.split();
            if !sent.is_empty() {
                self.server.receive(&sent);
                moved = true;
            }
        }
        if self.server.needs_poll() {
            self.state = self.server.poll(self.now, &mut self.messages);
            moved = true;
        }
        if self.echoes {
            for (stream, payload) in self.messages.drain(..) {
                echo(&mut self.server, stream, &payload);
                moved = true;
            }
        }
        let output = self.server.output().split();
        moved |= !output.is_empty();
        self.pipe.0.borrow_mut().0.extend_from_slice(&output);
        moved
    }

    fn at(&mut self, now: Monotonic) {
        self.now = now;
        self.state = self.server.poll(now, &mut self.messages);
        self.run();
    }

    fn call(&mut self, path: &str) -> Client {
        self.call_with(path, |_| {})
    }

    fn call_with(&mut self, path: &str, edit: impl FnOnce(&mut Request<()>)) -> Client {
        let mut request = Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        edit(&mut request);
        let (response, stream) = self.requests.send_request(request, false).unwrap();
        self.run();
        Client { response, head: None, stream, body: None, received: Vec::new() }
    }
}

/// A call as its client sees it.
struct Client {
    response: ResponseFuture,
    head: Option<Response<()>>,
    stream: SendStream<Bytes>,
    body: Option<RecvStream>,
    received: Vec<u8>,
}

impl Client {
    fn head(&mut self) -> &Response<()> {
        self.try_head().expect("no response has begun");
        self.head.as_ref().unwrap()
    }

    fn try_head(&mut self) -> Option<()> {
        if self.head.is_none() {
            let mut cx = Context::from_waker(Waker::noop());
            let Poll::Ready(response) = Pin::new(&mut self.response).poll(&mut cx) else {
                return None;
            };
            let (head, body) = response.unwrap().into_parts();
            self.head = Some(Response::from_parts(head, ()));
            self.body = Some(body);
        }
        Some(())
    }

    fn send(&mut self, pair: &mut Pair, payload: &[u8]) {
        self.stream.send_data(frame(payload), false).unwrap();
        pair.run();
    }

    fn half_close(&mut self, pair: &mut Pair) {
        self.stream.send_data(Bytes::new(), true).unwrap();
        pair.run();
    }

    /// Takes what has arrived, and gives the window back.
    fn read(&mut self) -> Result<(), h2::Error> {
        self.head();
        let body = self.body.as_mut().unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(data)) = body.poll_data(&mut cx) {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            self.received.extend_from_slice(&data);
        }
        Ok(())
    }

    fn read_all(&mut self, pair: &mut Pair) {
        loop {
            let before = self.received.len();
            self.read().unwrap();
            pair.run();
            if self.received.len() == before {
                return;
            }
        }
    }

    /// The messages that have arrived whole.
    fn messages(&mut self, pair: &mut Pair) -> Vec<Bytes> {
        self.read_all(pair);
        let mut rest = Bytes::from(std::mem::take(&mut self.received));
        let mut messages = Vec::new();
        while rest.len() >= 5 {
            assert_eq!(rest.get_u8(), 0);
            let size = rest.get_u32();
            messages.push(rest.split_to(size.try_into().unwrap()));
        }
        assert!(rest.is_empty());
        messages
    }

    fn trailers(&mut self, pair: &mut Pair) -> Option<HeaderMap> {
        self.read_all(pair);
        let mut cx = Context::from_waker(Waker::noop());
        match self.body.as_mut().unwrap().poll_trailers(&mut cx) {
            Poll::Ready(trailers) => trailers.unwrap(),
            Poll::Pending => None,
        }
    }

    fn status(&mut self, pair: &mut Pair) -> Option<GrpcCodeNumber> {
        let trailers = self.trailers(pair)?;
        Some(trailers["grpc-status"].to_str().unwrap().parse().unwrap())
    }

    fn status_only(&mut self) -> GrpcCodeNumber {
        let ended = {
            self.head();
            self.body.as_ref().unwrap().is_end_stream()
        };
        assert!(ended, "the response consists of its headers");
        self.head().headers()["grpc-status"].to_str().unwrap().parse().unwrap()
    }
}

type GrpcCodeNumber = i32;

fn number(code: GrpcCode) -> GrpcCodeNumber {
    code as GrpcCodeNumber
}

#[test]
fn headers_of_a_response_come_before_any_message() {
    let mut pair = Pair::new();
    let mut call = pair.call(CONNECT);
    assert_eq!(call.head().status(), 200);
    assert_eq!(call.head().headers()["content-type"], "application/grpc");
    assert_eq!(call.head().headers()["grpc-accept-encoding"], "identity");
    assert!(!call.head().headers().contains_key("grpc-status"));
    let mut watch = pair.call(WATCH);
    assert_eq!(watch.head().status(), 200);
}

#[test]
fn messages_are_answered_in_order_on_one_stream() {
    let mut pair = Pair::new();
    let mut call = pair.call(CONNECT);
    for round in 0_u8..100 {
        call.send(&mut pair, &[round; 40]);
        assert_eq!(call.messages(&mut pair), [&[round; 40][..]]);
    }
}

#[test]
fn messages_are_found_in_data_frames_cut_anywhere() {
    let bytes = [frame(b"one"), frame(b""), frame(&[7; 700]), frame(b"four")].concat();
    for piece in [1, 2, 3, 4, 5, 6, 7, 11, 100, 719, 1_000] {
        let mut pair = Pair::new();
        let mut call = pair.call(CONNECT);
        for chunk in bytes.chunks(piece) {
            call.stream.send_data(Bytes::copy_from_slice(chunk), false).unwrap();
            if piece % 2 == 0 {
                pair.run();
            }
        }
        pair.run();
        assert_eq!(call.messages(&mut pair), [&b"one"[..], b"", &[7; 700], b"four"]);
    }
}

#[test]
fn streams_of_a_connection_are_answered_each_on_its_own() {
    let mut pair = Pair::new();
    let mut calls: Vec<_> = (0..8).map(|_| pair.call(CONNECT)).collect();
    for round in 0_u8..10 {
        for (number, call) in (0_u8..).zip(&mut calls) {
            call.stream.send_data(frame(&[round, number]), false).unwrap();
        }
        pair.run();
        for (number, call) in (0_u8..).zip(&mut calls) {
            assert_eq!(call.messages(&mut pair), [&[round, number][..]]);
        }
    }
}

#[test]
fn a_half_closed_stream_ends_with_ok_after_its_last_reply() {
    let mut pair = Pair::new();
    pair.echoes = false;
    let mut call = pair.call(CONNECT);
    call.send(&mut pair, b"one");
    call.send(&mut pair, b"two");
    call.half_close(&mut pair);
    assert_eq!(call.status(&mut pair), None);

    let messages = std::mem::take(&mut pair.messages);
    echo(&mut pair.server, messages[0].0, &messages[0].1);
    pair.run();
    assert_eq!(call.messages(&mut pair), [&b"one"[..]]);
    assert_eq!(call.status(&mut pair), None);

    echo(&mut pair.server, messages[1].0, &messages[1].1);
    pair.run();
    assert_eq!(call.messages(&mut pair), [&b"two"[..]]);
    assert_eq!(call.status(&mut pair), Some(0));
    assert!(pair.server.reply_buffer(messages[0].0).is_none());
}

#[test]
fn a_stream_half_closed_without_a_message_ends_with_ok() {
    let mut pair = Pair::new();
    let mut call = pair.call(CONNECT);
    call.half_close(&mut pair);
    assert_eq!(call.status(&mut pair), Some(0));
}

#[test]
fn a_stream_that_ends_inside_a_message_is_an_error() {
    let mut pair = Pair::new();
    let mut call = pair.call(CONNECT);
    call.stream.send_data(frame(b"whole"), false).unwrap();
    call.stream.send_data(frame(b"cut").slice(..6), true).unwrap();
    pair.run();
    assert_eq!(call.messages(&mut pair), [&b"whole"[..]]);
    assert_eq!(call.status(&mut pair), Some(number(GrpcCode::Internal)));
}

#[test]
fn an_unknown_method_gets_a_status_and_nothing_else() {
    let mut pair = Pair::new();
    for path in ["/atomix.map.P2PMapService/Nothing", "/other.Service/Connect", "/"] {
        let mut call = pair.call(path);
        assert_eq!(call.head().status(), 200);
        assert_eq!(call.status_only(), number(GrpcCode::Unimplemented));
    }
    // The connection goes on.
    let mut call = pair.call(CONNECT);
    call.send(&mut pair, b"x");
    assert_eq!(call.messages(&mut pair), [&b"x"[..]]);
}

#[test]
fn what_is_no_grpc_is_refused_by_http() {
    let mut pair = Pair::new();
    let mut call = pair.call_with(CONNECT, |request| *request.method_mut() = Method::GET);
    assert_eq!(call.head().status(), 405);
    let mut call = pair.call_with(CONNECT, |request| {
        request.headers_mut().insert("content-type", "application/json".parse().unwrap());
    });
    assert_eq!(call.head().status(), 415);
    assert!(!call.head().headers().contains_key("grpc-status"));
}

#[test]
fn a_client_that_leaves_te_out_is_served() {
    let mut pair = Pair::new();
    let mut call = pair.call_with(CONNECT, |request| {
        request.headers_mut().remove("te");
        request.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
    });
    assert_eq!(call.head().status(), 200);
}

#[test]
fn compression_is_refused_and_says_what_is_accepted() {
    let mut pair = Pair::new();
    let mut call = pair.call_with(CONNECT, |request| {
        request.headers_mut().insert("grpc-encoding", "gzip".parse().unwrap());
    });
    assert_eq!(call.status_only(), number(GrpcCode::Unimplemented));
    assert_eq!(call.head().headers()["grpc-accept-encoding"], "identity");

    let mut call = pair.call(CONNECT);
    call.stream.send_data(Bytes::from_static(&[1, 0, 0, 0, 1, 9]), false).unwrap();
    pair.run();
    assert_eq!(call.status(&mut pair), Some(number(GrpcCode::Unimplemented)));
}

#[test]
fn a_message_too_long_is_refused_by_its_prefix() {
    let mut pair = Pair::new();
    let mut call = pair.call(CONNECT);
    call.send(&mut pair, b"before");
    call.stream.send_data(Bytes::from_static(&[0, 0, 0x40, 0, 1]), false).unwrap();
    pair.run();
    assert_eq!(call.messages(&mut pair), [&b"before"[..]]);
    assert_eq!(call.status(&mut pair), Some(number(GrpcCode::ResourceExhausted)));
}

#[test]
fn the_longest_message_passes_both_ways() {
    let mut pair = Pair::new();
    let mut call = pair.call(CONNECT);
    let payload = vec![0x5A; FRAME_SIZE_BYTES_MAX - FRAME_PREFIX_SIZE_BYTES];
    call.send(&mut pair, &payload);
    assert_eq!(call.messages(&mut pair), [&payload[..]]);
}

#[test]
fn a_timeout_ends_the_stream_after_the_replies_that_are_there() {
    let mut pair = Pair::new();
    pair.echoes = false;
    let mut call = pair.call_with(CONNECT, |request| {
        request.headers_mut().insert("grpc-timeout", "250m".parse().unwrap());
    });
    let deadline = pair.now.after_ns(250 * NS_PER_MS);
    assert_eq!(pair.server.next_deadline(), Some(deadline));
    call.send(&mut pair, b"answered");
    call.send(&mut pair, b"late");
    let (stream, payload) = pair.messages.remove(0);
    echo(&mut pair.server, stream, &payload);
    pair.at(Monotonic(deadline.0 - 1));
    assert_eq!(call.status(&mut pair), None);
    pair.at(deadline);
    assert_eq!(call.messages(&mut pair), [&b"answered"[..]]);
    assert_eq!(call.status(&mut pair), Some(number(GrpcCode::DeadlineExceeded)));
    assert_ne!(pair.server.next_deadline(), Some(deadline));
    assert!(pair.server.reply_buffer(stream).is_none());
    pair.server.reply_done(stream);
    assert_eq!(pair.server.in_flight_count(), 0);
}

#[test]
fn a_malformed_timeout_is_refused() {
    let mut pair = Pair::new();
    let mut call = pair.call_with(CONNECT, |request| {
        request.headers_mut().insert("grpc-timeout", "soon".parse().unwrap());
    });
    assert_eq!(call.status_only(), number(GrpcCode::Internal));
}

#[test]
fn a_cancelled_stream_takes_no_replies_and_disturbs_no_other() {
    let mut pair = Pair::new();
    pair.echoes = false;
    let mut gone = pair.call(CONNECT);
    let mut other = pair.call(CONNECT);
    gone.send(&mut pair, b"gone");
    other.send(&mut pair, b"other");
    gone.stream.send_reset(Reason::CANCEL);
    pair.run();
    let messages = std::mem::take(&mut pair.messages);
    assert!(pair.server.reply_buffer(messages[0].0).is_none());
    assert_eq!(pair.server.in_flight_count(), 2);
    for (stream, payload) in &messages {
        echo(&mut pair.server, *stream, payload);
    }
    pair.run();
    assert_eq!(other.messages(&mut pair), [&b"other"[..]]);
    assert_eq!(pair.server.in_flight_count(), 0);
    assert_eq!(pair.server.queued_bytes(), 0);
}

#[test]
fn a_stream_cancelled_after_its_half_close_is_noticed() {
    let mut pair = Pair::new();
    pair.echoes = false;
    let mut call = pair.call(CONNECT);
    call.send(&mut pair, b"x");
    call.half_close(&mut pair);
    let (stream, _) = pair.messages.remove(0);
    assert!(pair.server.reply_buffer(stream).is_some());
    call.stream.send_reset(Reason::CANCEL);
    pair.run();
    assert!(pair.server.reply_buffer(stream).is_none());
    pair.server.reply_done(stream);
}

#[test]
fn a_closed_stream_ends_with_its_status_after_its_replies() {
    let mut pair = Pair::new();
    pair.echoes = false;
    let mut call = pair.call(CONNECT);
    call.send(&mut pair, b"x");
    let (stream, payload) = pair.messages.remove(0);
    pair.server.reply_buffer(stream).unwrap().extend_from_slice(&frame(&payload));
    let status = GrpcStatus::new(GrpcCode::InvalidArgument, "`command.value`: 100 % wrong\n");
    pair.server.close_stream(stream, status);
    assert!(pair.server.reply_buffer(stream).is_none());
    pair.server.reply_done(stream);
    pair.run();
    assert_eq!(call.messages(&mut pair), [&b"x"[..]]);
    let trailers = call.trailers(&mut pair).unwrap();
    assert_eq!(trailers["grpc-status"], "3");
    assert_eq!(trailers["grpc-message"], "`command.value`: 100 %25 wrong%0A");
}

#[test]
fn a_finished_stream_answers_what_was_handed_out_before_its_status() {
    let mut pair = Pair::new();
    pair.echoes = false;
    let mut call = pair.call(CONNECT);
    call.send(&mut pair, b"good");
    call.send(&mut pair, b"bad");
    let (stream, payload) = pair.messages.remove(0);
    pair.server.finish_stream(stream, GrpcStatus::new(GrpcCode::InvalidArgument, "bad"));
    pair.server.reply_done(stream);
    call.send(&mut pair, b"after");
    assert_eq!(pair.messages.len(), 1);
    assert_eq!(call.status(&mut pair), None);
    echo(&mut pair.server, stream, &payload);
    pair.run();
    assert_eq!(call.messages(&mut pair), [&b"good"[..]]);
    assert_eq!(call.status(&mut pair), Some(number(GrpcCode::InvalidArgument)));
}

#[test]
fn a_draining_connection_ends_when_its_last_stream_is_cancelled() {
    let mut pair = Pair::new();
    pair.echoes = false;
    let mut call = pair.call(CONNECT);
    call.send(&mut pair, b"x");
    pair.server.shutdown();
    pair.run();
    assert_eq!(pair.state, ConnectionState::Draining);
    call.stream.send_reset(Reason::CANCEL);
    pair.run();
    assert_eq!(pair.state, ConnectionState::Closed(CloseReason::Finished));
}

#[test]
fn a_slow_reader_gets_what_its_window_takes_and_the_rest_when_it_reads() {
    const WINDOW: usize = 100_000;
    const REPLY: usize = 30_000;
    let builder = &mut h2::client::Builder::new();
    builder.initial_window_size(WINDOW.try_into().unwrap());
    let mut pair = Pair::with_client(builder.initial_connection_window_size(1 << 24));
    pair.echoes = false;
    let mut slow = pair.call(CONNECT);
    let mut quick = pair.call(CONNECT);
    slow.send(&mut pair, b"x");
    let (stream, _) = pair.messages.remove(0);
    for byte in 0..50 {
        let replies = pair.server.reply_buffer(stream).unwrap();
        replies.extend_from_slice(&frame(&[byte; REPLY]));
    }
    pair.server.reply_done(stream);
    pair.run();
    assert_eq!(pair.server.queued_bytes(), 50 * (REPLY + 5) - WINDOW);
    assert!(!pair.server.needs_poll(), "the loop may sleep");

    // The other stream isn't held up.
    pair.echoes = true;
    quick.send(&mut pair, b"quick");
    assert_eq!(quick.messages(&mut pair), [&b"quick"[..]]);

    let messages = slow.messages(&mut pair);
    assert_eq!(messages.len(), 50);
    for (byte, message) in (0_u8..).zip(messages) {
        assert_eq!(message, &[byte; REPLY][..]);
    }
    assert_eq!(pair.server.queued_bytes(), 0);
}

#[test]
fn a_stream_whose_replies_stay_unread_is_reset_and_the_others_go_on() {
    const WINDOW: usize = 1_000;
    let builder = &mut h2::client::Builder::new();
    builder.initial_window_size(WINDOW.try_into().unwrap());
    let mut pair = Pair::with_client(builder.initial_connection_window_size(1 << 24));
    let mut deaf = pair.call(CONNECT);
    let mut slow = pair.call(CONNECT);
    let begun_at = pair.now;
    deaf.send(&mut pair, &[1; 3 * WINDOW]);
    slow.send(&mut pair, &[2; 3 * WINDOW]);
    let until = begun_at.after_ns(UNREAD_NS_MAX);
    assert_eq!(pair.server.next_deadline(), Some(until));

    // Whoever reads but a little is no nuisance.
    pair.at(Monotonic(until.0 - 1));
    slow.read().unwrap();
    pair.run();
    assert_eq!(pair.server.take_unread_count(), 0);
    pair.at(until);
    assert_eq!(pair.server.take_unread_count(), 1);
    assert_eq!(pair.state, ConnectionState::Open);
    assert_eq!(deaf.read().unwrap_err().reason(), Some(Reason::ENHANCE_YOUR_CALM));
    assert_eq!(slow.messages(&mut pair), [&[2; 3 * WINDOW][..]]);
    assert_eq!(pair.server.queued_bytes(), 0);
    assert_ne!(pair.server.next_deadline(), Some(until));
}

#[test]
fn replies_wait_while_the_socket_takes_no_more() {
    let builder = &mut h2::client::Builder::new();
    builder.initial_window_size(1 << 30);
    let mut pair = Pair::with_client(builder.initial_connection_window_size(1 << 30));
    pair.echoes = false;
    let mut call = pair.call(CONNECT);
    call.send(&mut pair, b"x");
    let (stream, _) = pair.messages.remove(0);
    let size = 8 << 20;
    let replies = pair.server.reply_buffer(stream).unwrap();
    replies.extend_from_slice(&frame(&vec![7; size]));
    pair.server.reply_done(stream);
    for _ in 0..10 {
        pair.server.poll(pair.now, &mut pair.messages);
        assert!(pair.server.output().len() <= GRPC_OUTPUT_SIZE_BYTES_MAX);
        assert!(pair.server.queued_bytes() >= size);
        assert!(pair.server.queued_bytes() < size + size / 64);
    }
    assert!(!pair.server.needs_poll(), "nothing can be done until output is taken");
    pair.run();
    call.read_all(&mut pair);
    assert_eq!(call.received.len(), size + 5);
}

#[test]
fn a_paused_connection_stops_its_client_and_goes_on_when_resumed() {
    let mut pair = Pair::new();
    let mut call = pair.call(CONNECT);
    pair.server.set_allowance(0);
    let count = 20_000;
    for number in 0_u32..count {
        call.stream.send_data(frame(&number.to_be_bytes()), false).unwrap();
    }
    pair.run();
    assert!(call.messages(&mut pair).is_empty());
    // The client has used up the stream's window, and no more.
    let used: usize = GRPC_STREAM_WINDOW_SIZE_BYTES.try_into().unwrap();
    call.stream.reserve_capacity(1);
    pair.run();
    assert_eq!(call.stream.capacity(), 0);
    assert!(used < 9 * usize::try_from(count).unwrap());
    assert_eq!(pair.state, ConnectionState::Open);

    pair.server.set_allowance(usize::MAX);
    pair.run();
    let messages = call.messages(&mut pair);
    assert_eq!(messages.len(), usize::try_from(count).unwrap());
    for (number, message) in (0_u32..).zip(messages) {
        assert_eq!(message, &number.to_be_bytes()[..]);
    }
}

#[test]
fn no_more_messages_are_handed_out_than_are_allowed() {
    let mut pair = Pair::new();
    pair.echoes = false;
    pair.server.set_allowance(3);
    let mut calls: Vec<_> = (0..4).map(|_| pair.call(CONNECT)).collect();
    for call in &mut calls {
        for byte in 0_u8..5 {
            call.stream.send_data(frame(&[byte]), false).unwrap();
        }
    }
    pair.run();
    assert_eq!(pair.messages.len(), 3);
    assert!(pair.server.has_unread());
    assert_eq!(pair.server.held_bytes(), 17 * frame(&[0]).len());
    while pair.server.has_unread() {
        let before = pair.messages.len();
        pair.server.set_allowance(3);
        pair.run();
        assert_eq!(pair.messages.len(), (before + 3).min(20));
    }
    assert_eq!((pair.messages.len(), pair.server.held_bytes()), (20, 0));
    for call in &calls {
        let stream = StreamId(call.stream.stream_id().into());
        let bytes = pair.messages.iter().filter(|(id, _)| *id == stream).map(|(_, bytes)| bytes[0]);
        assert!(bytes.eq(0..5), "a stream's messages stay in order");
    }
}

#[test]
fn a_client_that_is_refused_hears_why_and_is_then_rid_of() {
    let mut pair = Pair::new();
    let mut call = pair.call(CONNECT);
    call.stream.send_data(frame(b"begun").slice(..7), false).unwrap();
    pair.run();
    assert!(pair.server.held_bytes() > 0);
    pair.server.refuse(&GrpcStatus::new(GrpcCode::ResourceExhausted, "too much"));
    pair.run();
    assert_eq!(pair.server.held_bytes(), 0);
    assert_eq!(call.status(&mut pair), Some(number(GrpcCode::ResourceExhausted)));
    pair.run();
    assert_eq!(pair.state, ConnectionState::Closed(CloseReason::Finished));
}

#[test]
fn a_bad_message_is_not_excused_by_the_clients_own_end() {
    let mut pair = Pair::new();
    pair.echoes = false;
    let mut call = pair.call(CONNECT);
    call.stream.send_data(frame(b"bad"), true).unwrap();
    pair.run();
    let (stream, _) = pair.messages.remove(0);
    pair.server.reply_done(stream);
    pair.server.finish_stream(stream, GrpcStatus::new(GrpcCode::InvalidArgument, "bad"));
    pair.run();
    assert_eq!(call.status(&mut pair), Some(number(GrpcCode::InvalidArgument)));
}

#[test]
fn a_fast_client_keeps_going() {
    let mut pair = Pair::new();
    let mut call = pair.call(CONNECT);
    for _ in 0..200 {
        for byte in 0_u8..50 {
            call.stream.send_data(frame(&[byte; 1_500]), false).unwrap();
        }
        pair.run();
        assert_eq!(call.messages(&mut pair).len(), 50);
    }
}

#[test]
fn unanswered_messages_of_a_connection_are_bounded() {
    let mut pair = Pair::new();
    pair.echoes = false;
    let mut calls: Vec<_> = (0..4).map(|_| pair.call(CONNECT)).collect();
    for call in &mut calls {
        for _ in 0..REQUESTS_PER_CONNECTION_MAX {
            call.stream.send_data(frame(b"x"), false).unwrap();
        }
    }
    pair.run();
    assert_eq!(pair.messages.len(), REQUESTS_PER_CONNECTION_MAX);
    pair.echoes = true;
    pair.run();
    for call in &mut calls {
        assert_eq!(call.messages(&mut pair).len(), REQUESTS_PER_CONNECTION_MAX);
    }
}

#[test]
fn long_messages_of_many_streams_at_once_all_get_through() {
    let mut pair = Pair::new();
    let mut calls: Vec<_> = (0..12).map(|_| pair.call(CONNECT)).collect();
    let size = 3 << 20;
    let bytes = frame(&vec![1; size]);
    for start in (0..bytes.len()).step_by(50_000) {
        for call in &mut calls {
            let chunk = bytes.slice(start..bytes.len().min(start + 50_000));
            call.stream.send_data(chunk, false).unwrap();
        }
    }
    pair.run();
    for call in &mut calls {
        assert_eq!(call.messages(&mut pair)[0].len(), size);
    }
}

#[test]
fn streams_beyond_the_limit_are_not_opened() {
    let mut pair = Pair::new();
    let mut calls: Vec<_> = (0..STREAM_COUNT_MAX).map(|_| pair.call(CONNECT)).collect();
    let mut one_more = pair.call(CONNECT);
    assert!(one_more.try_head().is_none());
    calls[7].half_close(&mut pair);
    assert_eq!(calls[7].status(&mut pair), Some(0));
    pair.run();
    assert_eq!(one_more.head().status(), 200);
}

#[test]
fn headers_beyond_the_limit_are_refused() {
    let mut pair = Pair::new();
    let mut call = pair.call_with(CONNECT, |request| {
        let long = "x".repeat(GRPC_HEADER_LIST_SIZE_BYTES_MAX.try_into().unwrap());
        request.headers_mut().insert("long", long.parse().unwrap());
    });
    assert_eq!(call.head().status(), 431);
    assert!(pair.messages.is_empty());
}

fn serving_status(message: &[u8]) -> ServingStatus {
    HealthCheckResponse::decode(message).unwrap().status()
}

fn health_request(service: &str) -> Vec<u8> {
    HealthCheckRequest { service: service.to_owned() }.encode_to_vec()
}

#[test]
fn a_health_check_answers_for_the_services_that_are_there() {
    let mut pair = Pair::new();
    for service in ["", "atomix.map.P2PMapService"] {
        let mut call = pair.call(CHECK);
        call.send(&mut pair, &health_request(service));
        let messages = call.messages(&mut pair);
        assert_eq!(messages.len(), 1);
        assert_eq!(serving_status(&messages[0]), ServingStatus::Serving);
        assert_eq!(call.status(&mut pair), Some(0));
    }
    let mut call = pair.call(CHECK);
    call.send(&mut pair, &health_request("other"));
    assert_eq!(call.status_only(), number(GrpcCode::NotFound));

    pair.server.set_serving(false);
    let mut call = pair.call(CHECK);
    call.send(&mut pair, &health_request(""));
    assert_eq!(serving_status(&call.messages(&mut pair)[0]), ServingStatus::NotServing);
}

#[test]
fn a_health_check_takes_exactly_one_request() {
    let mut pair = Pair::new();
    let mut call = pair.call(CHECK);
    call.half_close(&mut pair);
    assert_eq!(call.status_only(), number(GrpcCode::Unimplemented));
    let mut call = pair.call(CHECK);
    call.send(&mut pair, &[0xFF]);
    assert_eq!(call.status_only(), number(GrpcCode::Internal));
}

#[test]
fn a_health_watch_hears_of_changes_and_of_the_end() {
    let mut pair = Pair::new();
    let mut watch = pair.call(WATCH);
    watch.send(&mut pair, &health_request(""));
    watch.half_close(&mut pair);
    let told = |watch: &mut Client, pair: &mut Pair| -> Vec<_> {
        watch.messages(pair).iter().map(|message| serving_status(message)).collect()
    };
    assert_eq!(told(&mut watch, &mut pair), [ServingStatus::Serving]);
    pair.server.set_serving(false);
    pair.run();
    pair.server.set_serving(false);
    pair.run();
    assert_eq!(told(&mut watch, &mut pair), [ServingStatus::NotServing]);
    pair.server.set_serving(true);
    pair.run();
    assert_eq!(told(&mut watch, &mut pair), [ServingStatus::Serving]);

    let mut other = pair.call(WATCH);
    other.send(&mut pair, &health_request("other"));
    assert_eq!(told(&mut other, &mut pair), [ServingStatus::ServiceUnknown]);

    pair.server.shutdown();
    pair.run();
    assert_eq!(told(&mut watch, &mut pair), [ServingStatus::NotServing]);
    assert_eq!(watch.status(&mut pair), Some(number(GrpcCode::Unavailable)));
    assert_eq!(other.status(&mut pair), Some(number(GrpcCode::Unavailable)));
}

#[test]
fn a_health_watch_that_nobody_reads_costs_one_message() {
    const RESPONSE_SIZE_BYTES: usize = 7;
    let builder = &mut h2::client::Builder::new();
    let mut pair = Pair::with_client(builder.initial_window_size(7));
    let mut watch = pair.call(WATCH);
    watch.send(&mut pair, &health_request(""));
    for change in 0..101 {
        pair.server.set_serving(change % 2 == 1);
        pair.run();
        assert!(pair.server.queued_bytes() <= RESPONSE_SIZE_BYTES);
    }
    let messages = watch.messages(&mut pair);
    assert!(messages.len() <= 3);
    assert_eq!(serving_status(messages.last().unwrap()), ServingStatus::NotServing);
}

#[test]
fn a_shutdown_answers_what_was_handed_out_and_nothing_more() {
    let mut pair = Pair::new();
    pair.echoes = false;
    let mut busy = pair.call(CONNECT);
    let mut idle = pair.call(CONNECT);
    busy.send(&mut pair, b"before");
    pair.server.shutdown();
    pair.run();
    assert_eq!(pair.state, ConnectionState::Draining);
    assert_eq!(idle.status(&mut pair), Some(number(GrpcCode::Unavailable)));
    busy.send(&mut pair, b"after");
    assert_eq!(pair.messages.len(), 1);
    assert_eq!(busy.status(&mut pair), None);

    let (stream, payload) = pair.messages.remove(0);
    echo(&mut pair.server, stream, &payload);
    pair.run();
    assert_eq!(busy.messages(&mut pair), [&b"before"[..]]);
    assert_eq!(busy.status(&mut pair), Some(number(GrpcCode::Unavailable)));
    pair.run();
    assert_eq!(pair.state, ConnectionState::Closed(CloseReason::Finished));
    let refused = pair.requests.send_request(Request::new(()), false);
    assert!(refused.is_err(), "the client has heard GOAWAY");
}

#[test]
fn a_connection_ends_with_its_client() {
    let mut pair = Pair::new();
    pair.echoes = false;
    let mut call = pair.call(CONNECT);
    call.send(&mut pair, b"x");
    pair.server.received_eof();
    pair.run();
    assert_eq!(pair.state, ConnectionState::Closed(CloseReason::Finished));
    let (stream, _) = pair.messages.remove(0);
    assert!(pair.server.reply_buffer(stream).is_none());
    pair.server.reply_done(stream);
    assert_eq!(pair.server.next_deadline(), None);
}

#[test]
fn a_silent_client_is_asked_and_one_that_answers_is_kept() {
    let mut pair = Pair::new();
    let _call = pair.call(CONNECT);
    for _ in 0..3 {
        let deadline = pair.server.next_deadline().unwrap();
        assert_eq!(deadline, pair.now.after_ns(GRPC_KEEPALIVE_IDLE_NS));
        // The client's library answers the ping.
        pair.at(deadline);
        assert_eq!(pair.state, ConnectionState::Open);
    }
}

#[test]
fn a_client_without_a_sign_of_life_is_cut() {
    let mut pair = Pair::new();
    let _call = pair.call(CONNECT);
    let asked_at = pair.server.next_deadline().unwrap();
    pair.server.poll(asked_at, &mut pair.messages);
    let deadline = asked_at.after_ns(GRPC_KEEPALIVE_TIMEOUT_NS);
    assert_eq!(pair.server.next_deadline(), Some(deadline));
    let state = pair.server.poll(deadline, &mut pair.messages);
    assert_eq!(state, ConnectionState::Closed(CloseReason::Silent));
}

/// A stream of a random session, and what it has sent.
struct Talker {
    /// `None` once it is cancelled: what arrived for it would keep the connection's window.
    client: Option<Client>,
    sent: Vec<Vec<u8>>,
    received: Vec<u8>,
    half_closed: bool,
}

impl Talker {
    fn send(&mut self, prng: &mut Prng) {
        let Some(client) = &mut self.client else { return };
        if self.half_closed {
            return;
        }
        let size = match prng.below(4) {
            0 => prng.below(4),
            1 | 2 => prng.below(300),
            _ => prng.below(60_000),
        };
        let byte = u8::try_from(prng.below(256)).unwrap();
        let payload = vec![byte; size.try_into().unwrap()];
        let mut bytes = frame(&payload);
        while !bytes.is_empty() {
            let size = 1 + prng.below(bytes.len().try_into().unwrap());
            let piece = bytes.split_to(size.try_into().unwrap());
            client.stream.send_data(piece, false).unwrap();
        }
        self.sent.push(payload);
    }

    fn half_close(&mut self) {
        if let Some(client) = &mut self.client
            && !self.half_closed
        {
            client.stream.send_data(Bytes::new(), true).unwrap();
            self.half_closed = true;
        }
    }

    fn read(&mut self) {
        if let Some(client) = &mut self.client {
            client.read().unwrap();
            self.received.append(&mut client.received);
        }
    }

    fn cancel(&mut self) {
        if let Some(mut client) = self.client.take() {
            client.stream.send_reset(Reason::CANCEL);
        }
    }
}

fn random_session(seed: u64) {
    let prng = &mut Prng::new(seed, "session");
    let builder = &mut h2::client::Builder::new();
    builder.initial_window_size(u32::try_from(1 + prng.below(100_000)).unwrap());
    let mut pair = Pair::with_client(builder);
    pair.echoes = false;
    let count = 1 + prng.below(6);
    let mut talkers: Vec<_> = (0..count)
        .map(|_| {
            let client = Some(pair.call(CONNECT));
            Talker { client, sent: Vec::new(), received: Vec::new(), half_closed: false }
        })
        .collect();
    for _ in 0..200 {
        let place: usize = prng.below(count).try_into().unwrap();
        let talker = &mut talkers[place];
        match prng.below(12) {
            0..4 => talker.send(prng),
            4..7 => talker.read(),
            7 if prng.one_in(10) => talker.half_close(),
            8 if prng.one_in(20) => talker.cancel(),
            9 => pair.server.set_allowance(if prng.one_in(2) { 0 } else { usize::MAX }),
            10 => pair.echoes = prng.one_in(2),
            _ => drop(pair.turn()),
        }
        if prng.one_in(3) {
            pair.run();
        }
    }
    pair.server.set_allowance(usize::MAX);
    pair.echoes = true;
    pair.run();
    finish(&mut pair, &mut talkers, seed);
}

/// Everything that was sent is answered, in order, and every stream ends with OK.
fn finish(pair: &mut Pair, talkers: &mut [Talker], seed: u64) {
    talkers.iter_mut().for_each(Talker::half_close);
    // The streams share the connection's window: all have to be read for one to go on.
    let mut before = usize::MAX;
    let mut total = 0;
    while before != total {
        before = total;
        pair.run();
        talkers.iter_mut().for_each(Talker::read);
        total = talkers.iter().map(|talker| talker.received.len()).sum();
    }
    for talker in talkers {
        let Some(client) = &mut talker.client else { continue };
        let expected: Vec<u8> = talker.sent.iter().flat_map(|payload| frame(payload)).collect();
        assert!(talker.received == expected, "seed {seed}");
        assert_eq!(client.status(pair), Some(0), "seed {seed}");
    }
    assert_eq!(pair.server.in_flight_count(), 0, "seed {seed}");
    assert_eq!(pair.server.queued_bytes(), 0, "seed {seed}");
    assert_eq!(pair.state, ConnectionState::Open, "seed {seed}");
    assert!(pair.client_error.is_none(), "seed {seed}");
}

#[test]
fn whatever_clients_do_every_message_is_answered_once_and_in_order() {
    for seed in 0..150 {
        random_session(seed);
    }
}
