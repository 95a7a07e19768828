//! Raw frames on the one port: whatever a client does, it gets an answer that fits or a clear end,
//! and other clients notice nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use p2pmap::base::limits::SNIFF_NS_MAX;
use p2pmap::runtime::core::Node;
use p2pmap::runtime::echo::EchoService;
use p2pmap::runtime::executor::Idle;
use p2pmap::runtime::node_runtime::{Options, Runtime};
use prost::Message as _;

/// An echo on a port of its own. Its threads end with the test process.
struct Echo {
    address: SocketAddr,
    node: Arc<Node>,
}

fn echo() -> Echo {
    let options = Options {
        listen: ([127, 0, 0, 1], 0).into(),
        cores: vec![0],
        idle: Idle::Park { spin_ns: 0 },
        segments: Vec::new(),
    };
    let runtime = Runtime::start(options, |_| Ok(EchoService)).expect("an echo");
    Echo { address: runtime.address(), node: runtime.node() }
}

impl Echo {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
        stream.set_nodelay(true).expect("no delay");
        stream
    }

    /// Waits until a counter has a value; the loop publishes them before it sleeps.
    fn await_counter(&self, name: &str, wanted: u64) {
        for _ in 0..1_000 {
            if self.node.cores[0].counter(name) == wanted {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        panic!("{name} is {} and not {wanted}", self.node.cores[0].counter(name));
    }
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend(u32::try_from(payload.len()).expect("a short payload").to_be_bytes());
    frame.extend(payload);
    frame
}

fn read_exactly(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).expect("an answer");
    bytes
}

fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("a clean end");
    bytes
}

#[test]
fn frame_that_comes_byte_by_byte_is_answered_once() {
    let echo = echo();
    let mut stream = echo.connect();
    let sent = frame(b"byte by byte");
    for byte in &sent {
        stream.write_all(&[*byte]).expect("a byte sent");
        std::thread::park_timeout(Duration::from_millis(1));
    }
    assert_eq!(read_exactly(&mut stream, sent.len()), sent);
    stream.shutdown(Shutdown::Write).expect("an end");
    assert_eq!(read_to_end(&mut stream), b"");
    echo.await_counter("frames_count", 1);
}

#[test]
fn many_frames_in_one_write_are_answered_in_order_across_all_cuts() {
    let echo = echo();
    let mut sent = Vec::new();
    for size in 0..700_u16 {
        sent.extend(frame(&vec![size.to_be_bytes()[1]; usize::from(size)]));
    }
    let mut stream = echo.connect();
    let mut reader = stream.try_clone().expect("a second handle");
    let writer = {
        let sent = sent.clone();
        std::thread::spawn(move || {
            for part in sent.chunks(997) {
                stream.write_all(part).expect("a part sent");
            }
        })
    };
    assert!(read_exactly(&mut reader, sent.len()) == sent, "the echo differs");
    writer.join().expect("a writer");
}

#[test]
fn longest_frame_is_answered_and_its_memory_grew_with_its_bytes() {
    let echo = echo();
    let sent = frame(&vec![7; (4 << 20) - 5]);
    let mut stream = echo.connect();
    let mut reader = stream.try_clone().expect("a second handle");
    let expected = sent.clone();
    let writer = std::thread::spawn(move || stream.write_all(&sent).expect("a frame sent"));
    assert!(read_exactly(&mut reader, expected.len()) == expected, "the echo differs");
    writer.join().expect("a writer");
}

#[test]
fn frame_of_four_gibibytes_is_refused_from_its_prefix_with_an_error_frame() {
    let echo = echo();
    let mut bystander = echo.connect();
    let mut stream = echo.connect();
    stream.write_all(&frame(b"before")).expect("a frame sent");
    stream.write_all(b"\x00\xff\xff\xff\xff").expect("a prefix sent");
    let answer = read_to_end(&mut stream);
    assert!(answer.starts_with(&frame(b"before")));
    let refusal = &answer[frame(b"before").len() + 5..];
    let message = p2pmap::proto::atomix::map::Message::decode(refusal).expect("a message");
    let text = format!("{message:?}");
    assert!(text.contains("a payload of 4294967295 bytes; 4194299 are allowed"), "{text}");
    echo.await_counter("drop_frame_too_long", 1);
    bystander.write_all(&frame(b"still here")).expect("a frame sent");
    assert_eq!(read_exactly(&mut bystander, 15), frame(b"still here"));
}

#[test]
fn frames_with_other_flags_are_refused_with_their_reason() {
    let echo = echo();
    for (flag, reason) in [
        (1, "compressed messages are not accepted"),
        (2, "hello: only members of the cluster may send it"),
        (3, "flag 0x03 is unknown"),
    ] {
        let mut stream = echo.connect();
        // The first byte of a connection also says what it speaks: 3 would be something else.
        stream.write_all(&frame(b"first")).expect("a frame sent");
        stream.write_all(&[flag, 0, 0, 0, 0]).expect("a prefix sent");
        let answer = read_to_end(&mut stream);
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(text.contains(reason), "{flag}: {text}");
    }
}

#[test]
fn http1_request_gets_a_valid_answer_that_says_what_is_spoken() {
    let echo = echo();
    let mut stream = echo.connect();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("a request sent");
    let answer = String::from_utf8(read_to_end(&mut stream)).expect("text");
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain"), "{answer}");
    assert!(answer.ends_with("atomix.map.P2PMapService/Connect\n"), "{answer}");
    echo.await_counter("drop_http1", 1);
}

#[test]
fn other_protocols_get_one_line_and_an_end() {
    let echo = echo();
    for first in [&b"\x16\x03\x01\x02\x00"[..], b"SSH-2.0-OpenSSH_9\r\n", b"hello\n"] {
        let mut stream = echo.connect();
        stream.write_all(first).expect("bytes sent");
        let answer = String::from_utf8(read_to_end(&mut stream)).expect("text");
        assert!(answer.starts_with("p2pmap speaks"), "{answer}");
        assert_eq!(answer.lines().count(), 1);
    }
    echo.await_counter("drop_unknown_protocol", 3);
}

#[test]
fn request_before_a_half_close_is_answered() {
    let echo = echo();
    let mut stream = echo.connect();
    stream.write_all(&frame(b"last words")).expect("a frame sent");
    stream.shutdown(Shutdown::Write).expect("an end");
    assert_eq!(read_to_end(&mut stream), frame(b"last words"));
}

#[test]
fn connection_cut_in_the_middle_of_a_frame_is_counted_and_others_go_on() {
    let echo = echo();
    let mut bystander = echo.connect();
    let mut stream = echo.connect();
    stream.write_all(b"\x00\x00\x00\x00\x09four").expect("half a frame sent");
    stream.shutdown(Shutdown::Write).expect("an end");
    assert_eq!(read_to_end(&mut stream), b"");
    echo.await_counter("drop_cut_mid_frame", 1);
    bystander.write_all(&frame(b"x")).expect("a frame sent");
    assert_eq!(read_exactly(&mut bystander, 6), frame(b"x"));
}

#[test]
fn reset_connection_leaves_others_alone() {
    let echo = echo();
    let mut bystander = echo.connect();
    let mut stream = echo.connect();
    stream.write_all(&frame(&[1; 100_000])).expect("a frame sent");
    echo.await_counter("frames_count", 1);
    // Closing with unread bytes resets the connection.
    drop(stream);
    echo.await_counter("connections_closed_count", 1);
    bystander.write_all(&frame(b"x")).expect("a frame sent");
    assert_eq!(read_exactly(&mut bystander, 6), frame(b"x"));
}

#[test]
fn shutdown_answers_what_came_ends_connections_and_refuses_new_ones() {
    let options = Options {
        listen: ([127, 0, 0, 1], 0).into(),
        cores: vec![0, 0],
        idle: Idle::Park { spin_ns: 50_000 },
        segments: Vec::new(),
    };
    let mut runtime = Runtime::start(options, |_| Ok(EchoService)).expect("an echo on two loops");
    assert_eq!(runtime.wait_until_ready(), Ok(true));
    let (address, node) = (runtime.address(), runtime.node());
    let mut streams: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(address).expect("a connection");
            stream.write_all(&frame(b"x")).expect("a frame sent");
            stream
        })
        .collect();
    for stream in &mut streams {
        assert_eq!(read_exactly(stream, 6), frame(b"x"));
    }
    let waiter = std::thread::spawn(move || runtime.wait());
    node.begin_shutdown();
    for stream in &mut streams {
        assert_eq!(read_to_end(stream), b"");
    }
    drop(streams);
    assert_eq!(waiter.join().expect("a waiter"), Ok(()));
    let refused = TcpStream::connect(address).expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn silent_connection_is_closed_when_its_time_is_up() {
    let mut silent = echo().connect();
    let allowed = Duration::from_nanos(SNIFF_NS_MAX) + Duration::from_secs(3);
    silent.set_read_timeout(Some(allowed)).expect("a time-out");
    assert_eq!(silent.read(&mut [0]).expect("a clean end"), 0);
}
