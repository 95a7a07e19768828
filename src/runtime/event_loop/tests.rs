//! The loop driven turn by turn on the test's own thread, without an executor.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::*;
use crate::base::ids::{BatchId, Origin, SegmentId};
use crate::base::limits::{
    BLOCK_SIZE_BYTES, PASS_COUNT_MAX, PREPARE_FAILURE_COUNT_MAX, REQUESTS_PER_CONNECTION_MAX,
    SEGMENT_SIZE_BYTES_MIN,
};
use crate::runtime::disk::{Helpers, PrepareError};
use crate::runtime::listener::listen;
use crate::runtime::mesh::meshes;
use crate::runtime::segment_workshop::SegmentPlace;
use crate::runtime::service::{Frame, Output, WriteError};
use crate::runtime::uring::RingSize;
use crate::storage::block::{Block, SegmentWrite};
use crate::storage::wal::SegmentWanted;

/// Notes what it is given, and answers when it is told to.
#[derive(Debug, Default)]
struct Script {
    waiting: VecDeque<Origin>,
    longest_pass: usize,
    answers_per_turn: usize,
    write: Option<SegmentWrite>,
    write_failed: bool,
    /// A segment to ask for, and whether it was prepared.
    prepare: Option<SegmentId>,
    prepared: Option<bool>,
}

impl Service for Script {
    fn frames(&mut self, _now: Now, frames: &[Frame<'_>], _output: &mut Output<'_>) {
        self.longest_pass = self.longest_pass.max(frames.len());
        self.waiting.extend(frames.iter().map(|frame| frame.origin));
    }

    fn written(
        &mut self,
        _now: Now,
        _write: SegmentWrite,
        result: Result<(), WriteError>,
        _output: &mut Output<'_>,
    ) {
        self.write_failed = result.is_err();
    }

    fn segment_prepared(
        &mut self,
        _now: Now,
        _segment: SegmentId,
        result: Result<(), PrepareError>,
        _output: &mut Output<'_>,
    ) {
        self.prepared = Some(result.is_ok());
    }

    fn turn_end(&mut self, _now: Now, output: &mut Output<'_>) {
        if let Some(segment) = self.prepare.take() {
            output.prepare_segment(SegmentWanted { segment, from: None });
        }
        if let Some(write) = self.write.take() {
            output.write(write);
        }
        for _ in 0..self.answers_per_turn.min(self.waiting.len()) {
            let Some(origin) = self.waiting.pop_front() else { return };
            if let Some(buffer) = output.reply_buffer(origin, true) {
                buffer.extend_from_slice(b"\x00\x00\x00\x00\x01!");
            }
        }
    }

    fn is_drained(&self) -> bool {
        self.waiting.is_empty()
    }
}

fn event_loop(service: Script) -> (EventLoop<Script>, SocketAddr) {
    event_loop_with(service, None)
}

fn event_loop_with(service: Script, helpers: Option<Helpers>) -> (EventLoop<Script>, SocketAddr) {
    let node = Arc::new(Node::new(1, 1_000).expect("a node"));
    let (mut listeners, address) = listen(([127, 0, 0, 1], 0).into(), 1).expect("a port");
    let ring = Uring::new(RingSize::default()).expect("a ring");
    let disk = Disk::new(Arc::clone(&node), helpers);
    let listener = listeners.pop().expect("one listener");
    let mesh = meshes(1).pop().expect("one mesh");
    (EventLoop::new(service, ring, disk, listener, node, mesh), address)
}

/// Turns until `done`, or panics when that doesn't come.
fn turn_until(
    event_loop: &mut EventLoop<Script>,
    what: &str,
    mut done: impl FnMut(&EventLoop<Script>) -> bool,
) {
    let begun = event_loop.clock.monotonic();
    while !done(event_loop) {
        event_loop.turn().expect("a working loop");
        let taken_ns = event_loop.clock.monotonic().since_ns(begun);
        assert!(taken_ns < 20 * crate::base::time::NS_PER_S, "{what} doesn't come");
    }
}

#[test]
fn connection_with_too_many_requests_in_flight_is_stopped_and_read_on_later() {
    const COUNT: usize = 3 * REQUESTS_PER_CONNECTION_MAX;
    let (mut event_loop, address) = event_loop(Script::default());
    let mut client = TcpStream::connect(address).expect("a connection");
    client.write_all(&b"\x00\x00\x00\x00\x01?".repeat(COUNT)).expect("frames sent");
    turn_until(&mut event_loop, "a stop", |event_loop| event_loop.metrics.reads_stopped_count > 0);
    for _ in 0..100 {
        event_loop.turn().expect("a working loop");
    }
    assert_eq!(event_loop.service.waiting.len(), REQUESTS_PER_CONNECTION_MAX);
    assert!(event_loop.service.longest_pass <= PASS_COUNT_MAX);
    assert!(event_loop.connections.held_size() > 0);

    event_loop.service.answers_per_turn = 100;
    let all = u64_from(COUNT);
    turn_until(&mut event_loop, "the rest", |event_loop| event_loop.metrics.answers_count == all);
    let sent = u64_from(6 * COUNT);
    turn_until(&mut event_loop, "its sends", |event_loop| {
        event_loop.metrics.sent_size_bytes == sent
    });
    let mut answers = vec![0; 6 * COUNT];
    client.read_exact(&mut answers).expect("all answers");
    assert_eq!(event_loop.connections.held_size(), 0);
    assert_eq!(event_loop.connections.requests_in_flight(), 0);
}

#[test]
fn answer_to_a_connection_that_is_gone_is_dropped_and_counted() {
    let (mut event_loop, address) = event_loop(Script::default());
    let mut client = TcpStream::connect(address).expect("a connection");
    client.write_all(b"\x00\x00\x00\x00\x01?").expect("a frame sent");
    turn_until(&mut event_loop, "a frame", |event_loop| event_loop.metrics.frames_count == 1);
    // Reset, not closed: a half-closed client still gets its answer.
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).expect("no lingering");
    drop(client);
    turn_until(&mut event_loop, "an end", |event_loop| event_loop.connections.count() == 0);
    assert_eq!(event_loop.connections.requests_in_flight(), 0);
    event_loop.service.answers_per_turn = 1;
    event_loop.turn().expect("a working loop");
    assert_eq!(event_loop.metrics.drops.of(DropReason::AnswerWithoutConnection), 1);
}

#[test]
fn place_that_is_used_again_is_not_the_same_origin() {
    let (mut event_loop, address) = event_loop(Script::default());
    let mut first = TcpStream::connect(address).expect("a connection");
    first.write_all(b"\x00\x00\x00\x00\x01?").expect("a frame sent");
    turn_until(&mut event_loop, "a frame", |event_loop| event_loop.metrics.frames_count == 1);
    rustix::net::sockopt::set_socket_linger(&first, Some(Duration::ZERO)).expect("no lingering");
    drop(first);
    turn_until(&mut event_loop, "an end", |event_loop| event_loop.connections.count() == 0);
    let mut second = TcpStream::connect(address).expect("a connection");
    second.write_all(b"\x00\x00\x00\x00\x01?").expect("a frame sent");
    turn_until(&mut event_loop, "a frame", |event_loop| event_loop.metrics.frames_count == 2);
    let [old, new] = event_loop.service.waiting.make_contiguous() else { panic!("two frames") };
    assert_eq!(old.connection, new.connection);
    assert_ne!(old.generation, new.generation);
}

#[test]
fn failed_write_of_the_log_reaches_the_service_and_stops_the_node() {
    let (mut event_loop, _) = event_loop(Script::default());
    // A file that can only be read: the write fails as it would on a broken device.
    let file = std::fs::File::open("/proc/self/exe").expect("this very program");
    event_loop.disk.adopt(SegmentId(5), file.into());
    let blocks = vec![Block([1; BLOCK_SIZE_BYTES])];
    let write = SegmentWrite { batch: BatchId(1), segment: SegmentId(5), offset: 8_192, blocks };
    event_loop.service.write = Some(write);
    let fatal = loop {
        match event_loop.turn() {
            Ok(_) => {}
            Err(fatal) => break fatal,
        }
    };
    assert_eq!(fatal.reason, FatalReason::LogWrite);
    assert!(fatal.message.contains("segment 5, offset 8192"), "{fatal}");
    assert!(event_loop.service.write_failed);
    assert_eq!(event_loop.node.writes_in_flight.load(Ordering::Relaxed), 0);
}

#[test]
fn node_stops_when_segments_cannot_be_prepared_many_times_in_a_row_and_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = folder.path().join("shard");
    let place = SegmentPlace {
        directory: directory.clone(),
        segment_size_bytes: SEGMENT_SIZE_BYTES_MIN,
        direct: false,
        scrub: None,
    };
    let helpers = Helpers::start(place, || {}).expect("threads");
    let (mut event_loop, _) = event_loop_with(Script::default(), Some(helpers));
    let mut prepare = |segment| -> Result<bool, Fatal> {
        event_loop.service.prepare = Some(SegmentId(segment));
        event_loop.service.prepared = None;
        loop {
            event_loop.turn()?;
            if let Some(prepared) = event_loop.service.prepared {
                return Ok(prepared);
            }
        }
    };
    let most = u64::from(PREPARE_FAILURE_COUNT_MAX);
    for segment in 1..most {
        assert_eq!(prepare(segment), Ok(false));
    }
    // One that succeeds shows that it passes.
    std::fs::create_dir(&directory).expect("a folder");
    assert_eq!(prepare(100), Ok(true));
    std::fs::remove_dir_all(&directory).expect("its folder");
    for segment in 1..most {
        assert_eq!(prepare(segment), Ok(false));
    }
    let fatal = prepare(most).expect_err("the last straw");
    assert_eq!(fatal.reason, FatalReason::SegmentPreparation);
    let path = directory.display().to_string();
    assert!(fatal.message.contains(&path) && fatal.message.contains("No such file"), "{fatal}");
}

#[test]
fn shutdown_waits_for_what_is_in_flight() {
    let (mut event_loop, address) = event_loop(Script::default());
    let mut client = TcpStream::connect(address).expect("a connection");
    client.write_all(b"\x00\x00\x00\x00\x01?").expect("a frame sent");
    turn_until(&mut event_loop, "a frame", |event_loop| event_loop.metrics.frames_count == 1);
    event_loop.node.begin_shutdown();
    for _ in 0..100 {
        assert_ne!(event_loop.turn().expect("a working loop"), Turn::Finished);
    }
    event_loop.service.answers_per_turn = 1;
    turn_until(&mut event_loop, "its send", |event_loop| event_loop.metrics.sent_size_bytes == 6);
    let mut answer = Vec::new();
    let reader = std::thread::spawn(move || client.read_to_end(&mut answer).map(|_| answer));
    while event_loop.turn().expect("a working loop") != Turn::Finished {}
    let answer = reader.join().expect("a reader").expect("a clean end");
    assert_eq!(answer, b"\x00\x00\x00\x00\x01!");
}

/// Sleeps as the executor's task does, at most so long. Returns whether it was woken.
fn park(event_loop: &mut EventLoop<Script>, at_most: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    let may_sleep = event_loop.prepare_to_sleep().expect("a working loop");
    let bell = &event_loop.node.cores[0].eventfd;
    let at_most = Timespec::try_from(at_most).expect("a short time");
    let woken = !may_sleep
        || poll(&mut [PollFd::new(bell, PollFlags::IN)], Some(&at_most)).expect("a poll") > 0;
    if may_sleep && woken {
        rustix::io::read(bell, &mut [0; 8]).expect("a bell");
    }
    event_loop.wake();
    woken
}

/// The kernel does twenty pieces of the work that it left to us at a time, and rings for one only
/// if no other waits. When many connections are shut, that work is to find that there is nothing to
/// receive: nothing completes, though more of it waits.
#[test]
fn loop_does_not_sleep_while_the_kernel_has_work_left_for_it() {
    const COUNT: usize = 400;
    let (mut event_loop, address) = event_loop(Script::default());
    let node = Arc::clone(&event_loop.node);
    event_loop.ring.register_eventfd(&node.cores[0].eventfd).expect("a ring without one");
    // A length that is refused: an answer, and the connection is shut.
    let shut = || {
        let mut client = TcpStream::connect(address).expect("a connection");
        client.write_all(b"\x00\xff\xff\xff\xff").expect("a prefix sent");
        client
    };
    let clients: Vec<TcpStream> = (0..COUNT).map(|_| shut()).collect();
    turn_until(&mut event_loop, "all refusals", |event_loop| {
        event_loop.metrics.drops.of(DropReason::FrameTooLong) == u64_from(COUNT)
            && event_loop.connections.queued_size() == 0
    });
    // The peers acknowledge the end, all at once.
    for client in &clients {
        rustix::net::sockopt::set_tcp_quickack(client, true).expect("a connection");
    }
    while park(&mut event_loop, Duration::ZERO) {
        event_loop.turn().expect("a working loop");
    }
    let accepted = u64_from(COUNT) + 1;
    let _client = TcpStream::connect(address).expect("a connection");
    while event_loop.metrics.connections_accepted_count < accepted {
        assert!(park(&mut event_loop, Duration::from_secs(5)), "asleep beside a new connection");
        event_loop.turn().expect("a working loop");
    }
}
