//! The server against frames made by hand: what no well-behaved client sends, and what can be seen
//! only in the bytes.

use bytes::{BufMut, Bytes};
use p2pmap::base::limits::{
    GRPC_INPUT_SIZE_BYTES_MAX, GRPC_OUTPUT_SIZE_BYTES_MAX, SEND_QUEUE_SIZE_BYTES_MAX, SNIFF_NS_MAX,
};
use p2pmap::base::prng::Prng;
use p2pmap::base::time::Monotonic;
use p2pmap::runtime::grpc::{
    CloseReason, ConnectionState, GrpcCode, GrpcConnection, GrpcStatus, StreamId,
};

use super::{CONNECT, echo, frame};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn http2(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_uint(payload.len().try_into().unwrap(), 3);
    bytes.put_u8(kind);
    bytes.put_u8(flags);
    bytes.put_u32(stream);
    bytes.put_slice(payload);
    bytes
}

/// HPACK without its tables: each field a literal.
fn header_block(path: &str, te: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", te),
    ];
    let mut block = Vec::new();
    for (name, value) in fields {
        block.put_u8(0);
        for text in [name, value] {
            block.put_u8(text.len().try_into().unwrap());
            block.put_slice(text.as_bytes());
        }
    }
    block
}

fn open(stream: u32) -> Vec<u8> {
    http2(HEADERS, END_HEADERS, stream, &header_block(CONNECT, "trailers"))
}

fn preface() -> Vec<u8> {
    [PREFACE, &http2(SETTINGS, 0, 0, &[])].concat()
}

struct Raw {
    server: GrpcConnection,
    messages: Vec<(StreamId, Bytes)>,
    state: ConnectionState,
    sent: Vec<u8>,
}

impl Raw {
    fn new() -> Self {
        let server = GrpcConnection::new(true);
        let state = ConnectionState::Open;
        Self { server, messages: Vec::new(), state, sent: Vec::new() }
    }

    fn begun() -> Self {
        let mut raw = Self::new();
        raw.receive(&preface());
        raw.frames();
        raw
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.server.receive(bytes);
        self.poll();
    }

    fn poll(&mut self) {
        while self.server.needs_poll() {
            self.state = self.server.poll(Monotonic(1), &mut self.messages);
        }
    }

    fn echo(&mut self) {
        for (stream, payload) in self.messages.drain(..) {
            echo(&mut self.server, stream, &payload);
        }
        self.poll();
    }

    /// The whole frames that came since the last look.
    fn frames(&mut self) -> Vec<Frame> {
        loop {
            let output = self.server.output().split();
            self.sent.extend_from_slice(&output);
            if output.is_empty() && !self.server.needs_poll() {
                break;
            }
            self.poll();
        }
        let mut frames = Vec::new();
        let mut rest = &self.sent[..];
        while let Some((&[a, b, c, kind, flags, s0, s1, s2, s3], tail)) = rest.split_first_chunk() {
            let size = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap();
            let stream = u32::from_be_bytes([s0, s1, s2, s3]);
            frames.push(Frame { kind, flags, stream, payload: tail[..size].to_vec() });
            rest = &tail[size..];
        }
        assert!(rest.is_empty());
        self.sent.clear();
        frames
    }

    fn frames_of(&mut self, kind: u8) -> Vec<Frame> {
        self.frames().into_iter().filter(|frame| frame.kind == kind).collect()
    }
}

#[test]
fn another_protocol_is_turned_away() {
    let mut raw = Raw::new();
    raw.receive(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert_eq!(raw.state, ConnectionState::Closed(CloseReason::NoPreface));
    raw.receive(b"more");
    assert_eq!(raw.state, ConnectionState::Closed(CloseReason::NoPreface));
}

#[test]
fn a_client_that_stops_inside_the_preface_is_cut() {
    let mut raw = Raw::new();
    raw.receive(&PREFACE[..20]);
    let deadline = Monotonic(1).after_ns(SNIFF_NS_MAX);
    assert_eq!(raw.server.next_deadline(), Some(deadline));
    let state = raw.server.poll(deadline, &mut raw.messages);
    assert_eq!(state, ConnectionState::Closed(CloseReason::NoPreface));

    let mut raw = Raw::new();
    raw.receive(&PREFACE[..20]);
    raw.server.received_eof();
    raw.poll();
    assert_eq!(raw.state, ConnectionState::Closed(CloseReason::NoPreface));
}

#[test]
fn a_ping_is_answered() {
    let mut raw = Raw::begun();
    raw.receive(&http2(PING, 0, 0, b"12345678"));
    let pongs = raw.frames_of(PING);
    assert_eq!(pongs.len(), 1);
    assert_eq!((pongs[0].flags, &pongs[0].payload[..]), (ACK, &b"12345678"[..]));
}

#[test]
fn answers_to_pings_that_nobody_reads_stop_the_socket() {
    let mut raw = Raw::begun();
    let pings = http2(PING, 0, 0, b"12345678").repeat(1_000);
    let mut size = 0;
    while raw.server.wants_bytes() {
        raw.receive(&pings);
        size += pings.len();
        assert!(raw.server.queued_bytes() <= GRPC_OUTPUT_SIZE_BYTES_MAX);
    }
    assert!(size <= GRPC_OUTPUT_SIZE_BYTES_MAX + GRPC_INPUT_SIZE_BYTES_MAX + 2 * pings.len());
    assert!(!raw.server.needs_poll(), "the loop may sleep");
    assert_eq!(raw.frames_of(PING).len(), size / 17);
    assert!(raw.server.wants_bytes());
}

#[test]
fn replies_of_one_turn_leave_in_one_data_frame() {
    let mut raw = Raw::begun();
    let requests: Vec<_> =
        (0_u8..100).flat_map(|byte| http2(DATA, 0, 1, &frame(&[byte; 50]))).collect();
    raw.receive(&[open(1), requests].concat());
    assert_eq!(raw.messages.len(), 100);
    raw.echo();
    let data = raw.frames_of(DATA);
    assert_eq!(data.len(), 1);
    let expected: Vec<_> = (0_u8..100).flat_map(|byte| frame(&[byte; 50])).collect();
    assert_eq!(data[0].payload, expected);
}

#[test]
fn many_messages_in_one_data_frame_are_all_seen() {
    let mut raw = Raw::begun();
    let requests: Vec<_> = (0_u8..100).flat_map(|byte| frame(&[byte; 50])).collect();
    raw.receive(&[open(1), http2(DATA, END_STREAM, 1, &requests)].concat());
    assert_eq!(raw.messages.len(), 100);
    raw.echo();
    let frames = raw.frames();
    let kinds: Vec<_> = frames.iter().filter(|f| f.stream == 1).map(|f| f.kind).collect();
    assert_eq!(kinds, [HEADERS, DATA, HEADERS]);
    assert_eq!(frames.last().unwrap().flags, END_STREAM | END_HEADERS);
}

/// A client's whole life, and what it gets.
fn session() -> Vec<u8> {
    let data = [frame(b"one"), frame(&[9; 300]), frame(b"")].concat();
    [
        preface(),
        open(1),
        http2(DATA, 0, 1, &data[..150]),
        http2(PING, 0, 0, b"abcdefgh"),
        open(3),
        http2(DATA, END_STREAM, 3, &frame(b"three")),
        http2(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]),
        http2(DATA, END_STREAM, 1, &data[150..]),
    ]
    .concat()
}

#[test]
fn bytes_may_arrive_one_by_one() {
    let outcome = |piece: usize| {
        let mut raw = Raw::new();
        let mut messages = Vec::new();
        let mut frames = Vec::new();
        for bytes in session().chunks(piece) {
            raw.receive(bytes);
            messages.append(&mut raw.messages.clone());
            raw.echo();
            frames.append(&mut raw.frames());
        }
        assert_eq!(raw.state, ConnectionState::Open);
        // Where one turn ends and the next begins is not the same.
        let data = |stream| -> Vec<u8> {
            let of = frames.iter().filter(|f| f.kind == DATA && f.stream == stream);
            of.flat_map(|f| f.payload.clone()).collect()
        };
        messages.sort_by_key(|(stream, _)| *stream);
        (messages, data(1), data(3))
    };
    let whole = outcome(usize::MAX);
    assert_eq!(whole.0.len(), 4);
    for piece in [1, 2, 3, 7, 9, 10, 64] {
        assert_eq!(outcome(piece), whole);
    }
}

#[test]
fn te_with_another_value_is_reset() {
    let mut raw = Raw::begun();
    raw.receive(&http2(HEADERS, END_HEADERS, 1, &header_block(CONNECT, "gzip")));
    assert_eq!(raw.frames_of(RST_STREAM).len(), 1);
    assert_eq!(raw.state, ConnectionState::Open);
}

#[test]
fn a_stream_that_the_server_ends_first_is_reset_without_an_error() {
    let mut raw = Raw::begun();
    raw.receive(&open(1));
    let status = GrpcStatus::new(GrpcCode::PermissionDenied, "no");
    raw.server.close_stream(StreamId(1), status);
    raw.poll();
    let frames: Vec<_> = raw.frames().into_iter().filter(|f| f.stream == 1).collect();
    let kinds: Vec<_> = frames.iter().map(|f| f.kind).collect();
    assert_eq!(kinds, [HEADERS, HEADERS, RST_STREAM]);
    assert_eq!(frames[2].payload, [0, 0, 0, 0]);
    // What was under way is dropped, and its window given back.
    for _ in 0..10 {
        raw.receive(&http2(DATA, 0, 1, &frame(&[0; 10_000])));
    }
    assert_eq!(raw.state, ConnectionState::Open);
    assert!(raw.messages.is_empty());
}

#[test]
fn a_shutdown_names_the_last_stream_that_is_served() {
    let mut raw = Raw::begun();
    raw.receive(&[open(1), http2(DATA, 0, 1, &frame(b"x"))].concat());
    raw.frames();
    raw.server.shutdown();
    raw.poll();
    let frames = raw.frames();
    let ping = frames.iter().find(|f| f.kind == PING).unwrap();
    assert!(frames.iter().any(|f| f.kind == GOAWAY));
    // A stream that was opened before the client heard of it is still told what happens.
    raw.receive(&open(3));
    let frames = raw.frames();
    assert!(frames.iter().any(|f| f.kind == HEADERS && f.stream == 3));
    raw.receive(&http2(PING, ACK, 0, &ping.payload));
    let goaway = raw.frames_of(GOAWAY);
    assert_eq!(goaway[0].payload, [0, 0, 0, 3, 0, 0, 0, 0]);
    assert_eq!(raw.state, ConnectionState::Draining);
    raw.echo();
    assert!(raw.frames().iter().any(|f| f.kind == DATA && f.stream == 1));
    assert_eq!(raw.state, ConnectionState::Closed(CloseReason::Finished));
}

#[test]
fn a_client_that_opens_and_cancels_streams_without_end_is_cut() {
    let mut raw = Raw::begun();
    let mut cut_after = None;
    for batch in 0..100_u32 {
        let bytes: Vec<_> = (0..200)
            .flat_map(|place| {
                let stream = 2 * (200 * batch + place) + 1;
                [open(stream), http2(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
            })
            .collect();
        raw.receive(&bytes);
        raw.frames();
        if let ConnectionState::Closed(reason) = raw.state {
            assert_eq!(reason, CloseReason::Http2(h2::Reason::ENHANCE_YOUR_CALM));
            cut_after = Some(batch);
            break;
        }
    }
    assert_eq!(cut_after, Some(0));
}

#[test]
fn a_client_that_ignores_its_window_loses_its_stream() {
    let mut raw = Raw::begun();
    raw.server.set_allowance(0);
    raw.receive(&open(1));
    raw.frames();
    for _ in 0..14 {
        raw.receive(&http2(DATA, 0, 1, &[0; 10_000]));
    }
    let resets = raw.frames_of(RST_STREAM);
    assert_eq!(resets[0].payload, [0, 0, 0, 3], "FLOW_CONTROL_ERROR");
    assert!(raw.server.reply_buffer(StreamId(1)).is_none());
}

#[test]
fn an_endless_header_list_ends_the_connection() {
    let mut raw = Raw::begun();
    raw.receive(&http2(HEADERS, 0, 1, &header_block(CONNECT, "trailers")));
    for _ in 0..10_000 {
        raw.receive(&http2(9, 0, 1, &[0x40, 1, b'a', 1, b'b']));
        if let ConnectionState::Closed(reason) = raw.state {
            assert!(matches!(reason, CloseReason::Http2(_)));
            assert_eq!(raw.frames_of(GOAWAY).len(), 1);
            return;
        }
    }
    panic!("10,000 continuations were accepted");
}

#[test]
fn damaged_bytes_never_break_a_bound() {
    let session = session();
    for seed in 0..3_000 {
        let mut prng = Prng::new(seed, "grpc");
        let mut below =
            |bound: usize| -> usize { prng.below(bound.try_into().unwrap()).try_into().unwrap() };
        let mut bytes = session.clone();
        for _ in 0..=below(4) {
            let place = PREFACE.len() + below(bytes.len() - PREFACE.len());
            match below(4) {
                0 => bytes[place] ^= 1 << below(8),
                1 => bytes[place] = below(256).try_into().unwrap(),
                2 => drop(bytes.drain(place..(place + below(20)).min(bytes.len()))),
                _ => {
                    let copied = bytes[place..(place + below(60)).min(bytes.len())].to_vec();
                    bytes.splice(place..place, copied);
                }
            }
        }
        let mut raw = Raw::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(1 + below(rest.len()));
            raw.receive(now);
            if below(2) == 0 {
                raw.echo();
            }
            assert!(raw.server.queued_bytes() <= SEND_QUEUE_SIZE_BYTES_MAX, "seed {seed}");
            rest = later;
        }
        raw.server.received_eof();
        raw.poll();
        raw.echo();
        assert!(matches!(raw.state, ConnectionState::Closed(_)), "seed {seed}");
        assert_eq!(raw.server.in_flight_count(), 0, "seed {seed}");
    }
}
