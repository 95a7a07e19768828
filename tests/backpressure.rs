//! Clients that don't behave cost bounded memory, and others are served meanwhile.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use p2pmap::base::limits::SEND_QUEUE_SIZE_BYTES_MAX;
use p2pmap::runtime::echo::EchoService;
use p2pmap::runtime::executor::Idle;
use p2pmap::runtime::node_runtime::{Options, Runtime};

/// Some tests measure the memory of the process, so each runs alone.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn echo() -> Runtime {
    let options = Options {
        listen: ([127, 0, 0, 1], 0).into(),
        cores: vec![0],
        idle: Idle::Park { spin_ns: 0 },
        segments: Vec::new(),
    };
    Runtime::start(options, |_| Ok(EchoService)).expect("an echo")
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend(u32::try_from(payload.len()).expect("a short payload").to_be_bytes());
    frame.extend(payload);
    frame
}

fn round_trip(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
    stream.write_all(&frame(b"ping")).expect("a frame sent");
    let mut answer = [0; 9];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer[..], frame(b"ping"));
}

/// Resident memory of this process, which hosts the echo too.
fn resident_size_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a Linux process");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("a size");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kib * 1_024
}

#[test]
fn client_that_never_reads_is_no_longer_read_and_others_are_served() {
    let _alone = alone();
    let runtime = echo();
    let mut deaf = TcpStream::connect(runtime.address()).expect("a connection");
    deaf.set_write_timeout(Some(Duration::from_millis(500))).expect("a time-out");
    let block = frame(&vec![1; 256 << 10]);
    let mut sent = 0;
    let error = loop {
        match deaf.write(&block) {
            Ok(count) => sent += count,
            Err(error) => break error,
        }
        assert!(sent < 20 * SEND_QUEUE_SIZE_BYTES_MAX, "the echo reads without limit");
    };
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    round_trip(&mut TcpStream::connect(runtime.address()).expect("a connection"));
    assert!(runtime.node().cores[0].counter("reads_stopped_count") >= 1);
}

#[test]
fn client_that_reads_late_gets_everything_in_order() {
    let _alone = alone();
    let runtime = echo();
    let mut late = TcpStream::connect(runtime.address()).expect("a connection");
    let mut reader = late.try_clone().expect("a second handle");
    let block: Vec<u8> = (0..100_000_u32).flat_map(u32::to_be_bytes).collect();
    let frames = frame(&block);
    let repeats = 5 * SEND_QUEUE_SIZE_BYTES_MAX / frames.len();
    let expected = frames.clone();
    let writer = std::thread::spawn(move || {
        for _ in 0..repeats {
            late.write_all(&frames).expect("a frame sent");
        }
    });
    // The queues fill up and the echo stops reading.
    std::thread::park_timeout(Duration::from_millis(500));
    for _ in 0..repeats {
        let mut answer = vec![0; expected.len()];
        reader.read_exact(&mut answer).expect("an answer");
        assert!(answer == expected, "an answer differs");
    }
    writer.join().expect("a writer");
}

#[test]
fn thousands_of_idle_connections_cost_little_memory_each() {
    const COUNT: usize = 4_000;
    let _alone = alone();
    let runtime = echo();
    round_trip(&mut TcpStream::connect(runtime.address()).expect("a connection"));
    let before = resident_size_bytes();
    let mut streams: Vec<TcpStream> =
        (0..COUNT).map(|_| TcpStream::connect(runtime.address()).expect("a connection")).collect();
    for stream in &mut streams {
        round_trip(stream);
    }
    let grown = resident_size_bytes().saturating_sub(before);
    let each = grown / COUNT as u64;
    // The receive pool is touched once, whoever comes: 8 MiB, 2 KiB for each of these.
    assert!(each < 4_096, "{each} bytes for each of {COUNT} idle connections");
}

#[test]
fn announced_frames_cost_what_was_sent_of_them() {
    let _alone = alone();
    let runtime = echo();
    let before = resident_size_bytes();
    let mut streams = Vec::new();
    for _ in 0..500 {
        let mut stream = TcpStream::connect(runtime.address()).expect("a connection");
        stream.write_all(b"\x00\x00\x3f\xff\x00begun").expect("a beginning sent");
        streams.push(stream);
    }
    round_trip(&mut TcpStream::connect(runtime.address()).expect("a connection"));
    let grown = resident_size_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes for 500 begun frames of 4 MiB");
    for stream in &mut streams {
        stream.set_nonblocking(true).expect("a socket");
        let error = stream.read(&mut [0; 64]).expect_err("a frame that isn't refused");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
}
