//! Two loops driven turn by turn on the test's own thread.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::base::ids::Origin;
use crate::base::limits::{
    FORWARDED_PER_CONNECTION_MAX, FORWARDED_PER_CONNECTION_MIN, SEND_QUEUES_SIZE_BYTES_MAX,
    UNREAD_FULL_NS_MAX,
};
use crate::base::time::Now;
use crate::metrics::DropReason;
use crate::runtime::core::Node;
use crate::runtime::disk::Disk;
use crate::runtime::event_loop::Turn;
use crate::runtime::listener::listen;
use crate::runtime::mesh::meshes_of;
use crate::runtime::service::Output;
use crate::runtime::uring::{RingSize, Uring};

/// Forwards everything to the other shard, and answers what that one forwards when it is told to.
#[derive(Debug)]
struct Partner {
    other: ShardId,
    /// Requests of the other shard, with what they say.
    waiting: VecDeque<(Origin, u32)>,
    seen: Vec<u32>,
    answers_per_turn: usize,
    answer_size: usize,
    /// Answers within the pass.
    at_once: bool,
}

impl Partner {
    fn answer(&mut self, count: usize, output: &mut Output<'_>) {
        for _ in 0..count.min(self.waiting.len()) {
            let Some((origin, number)) = self.waiting.pop_front() else { return };
            if let Some(buffer) = output.reply_buffer(origin, true) {
                buffer.extend_from_slice(&number.to_be_bytes());
                buffer.resize(buffer.len() + self.answer_size - 4, 9);
            }
        }
    }
}

impl Service for Partner {
    fn frames(&mut self, _now: Now, frames: &[Frame<'_>], output: &mut Output<'_>) {
        let mut stopped = Vec::new();
        for (place, frame) in frames.iter().enumerate() {
            if frame.origin.home == self.other {
                let number = u32::from_be_bytes(frame.payload.try_into().expect("four bytes"));
                self.seen.push(number);
                self.waiting.push_back((frame.origin, number));
            } else if stopped.contains(&frame.origin) || !output.forward(self.other, *frame) {
                stopped.push(frame.origin);
                output.defer(place, self.other);
            }
        }
        if self.at_once {
            self.answer(self.waiting.len(), output);
        }
    }

    fn turn_end(&mut self, _now: Now, output: &mut Output<'_>) {
        self.answer(self.answers_per_turn, output);
    }

    fn is_drained(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Loops of two cores. All connections are the first one's.
struct Pair {
    loops: Vec<EventLoop<Partner>>,
    address: SocketAddr,
    node: Arc<Node>,
}

fn pair(slot_count: usize) -> Pair {
    pair_of(Node::new(2, 100).expect("a node"), slot_count)
}

fn pair_of(node: Node, slot_count: usize) -> Pair {
    let node = Arc::new(node);
    let (listeners, address) = listen(([127, 0, 0, 1], 0).into(), 1).expect("a port");
    let (spare, _) = listen(([127, 0, 0, 1], 0).into(), 1).expect("a port");
    let ends = meshes_of(2, slot_count).into_iter().zip(listeners.into_iter().chain(spare));
    let new = |(mesh, listener): (crate::runtime::mesh::Mesh, _)| {
        let service = Partner {
            other: ShardId(1 - mesh.me().0),
            waiting: VecDeque::new(),
            seen: Vec::new(),
            answers_per_turn: 0,
            answer_size: 6,
            at_once: false,
        };
        let ring = Uring::new(RingSize::default()).expect("a ring");
        let disk = Disk::new(Arc::clone(&node), None);
        EventLoop::new(service, ring, disk, listener, Arc::clone(&node), mesh)
    };
    let loops = ends.map(new).collect();
    // Else half of the connections would be the second one's.
    node.cores[1].connection_count.fetch_add(1_000, Ordering::Relaxed);
    Pair { loops, address, node }
}

impl Pair {
    fn turn(&mut self) {
        for event_loop in &mut self.loops {
            event_loop.turn().expect("a working loop");
        }
    }

    fn turn_until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        for _ in 0..2_000_000 {
            if done(self) {
                return;
            }
            self.turn();
        }
        panic!("{what} doesn't come");
    }

    /// Turns until what has come is where it gets without answers.
    fn calm(&mut self) {
        for _ in 0..2_000 {
            self.turn();
        }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).expect("a connection")
    }

    /// A connection that is known for short answers. It leaves `seen` and what was sent as they
    /// were before it.
    fn connect_trusted(&mut self) -> TcpStream {
        const COUNT: u32 = 200;
        let mut client = self.connect();
        let sent = self.loops[0].metrics.sent_size_bytes;
        let per_turn = std::mem::replace(&mut self.loops[1].service.answers_per_turn, 10);
        client.write_all(&frames(0..COUNT)).expect("frames sent");
        self.turn_until("trust", |pair| {
            pair.loops[0].metrics.sent_size_bytes == sent + 6 * u64::from(COUNT)
        });
        answers(&mut client, COUNT, 6);
        self.loops[1].service.answers_per_turn = per_turn;
        self.loops[1].service.seen.clear();
        for event_loop in &mut self.loops {
            event_loop.metrics = crate::metrics::LoopMetrics::default();
        }
        client
    }

    fn is_idle(&self) -> bool {
        self.loops.iter().all(|event_loop| {
            event_loop.mesh.is_idle()
                && event_loop.connections.requests_in_flight() == 0
                && event_loop.connections.held_size() == 0
        })
    }
}

/// Frames that say their numbers.
fn frames(numbers: std::ops::Range<u32>) -> Vec<u8> {
    numbers
        .flat_map(|number| [vec![0, 0, 0, 0, 4], number.to_be_bytes().to_vec()].concat())
        .collect()
}

/// The numbers that are answered.
fn answers(client: &mut TcpStream, count: u32, size: usize) -> Vec<u32> {
    let mut answers = vec![0; size * usize::try_from(count).expect("few")];
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
    client.read_exact(&mut answers).expect("all answers");
    let number = |answer: &[u8]| u32::from_be_bytes(answer[..4].try_into().expect("four bytes"));
    answers.chunks(size).map(number).collect()
}

#[test]
fn frames_without_a_credit_wait_and_are_served_in_order() {
    let mut pair = pair(64);
    let mut client = pair.connect_trusted();
    client.write_all(&frames(0..1_000)).expect("frames sent");
    pair.turn_until("a request", |pair| pair.loops[1].service.seen.len() >= 64);
    pair.calm();
    assert_eq!(pair.loops[1].service.seen.len(), 64, "as many as there are credits");
    assert!(pair.loops[0].connections.held_size() > 0, "the rest waits, unread or held");
    assert!(pair.loops[0].metrics.deferred_count > 0);
    // More comes while it waits.
    client.write_all(&frames(1_000..2_000)).expect("frames sent");
    pair.calm();
    assert_eq!(pair.loops[1].service.seen.len(), 64);
    pair.loops[1].service.answers_per_turn = 5;
    pair.turn_until("all", |pair| pair.loops[0].metrics.sent_size_bytes == 2_000 * 6);
    let all: Vec<u32> = (0..2_000).collect();
    assert_eq!(pair.loops[1].service.seen, all);
    assert_eq!(answers(&mut client, 2_000, 6), all);
    assert!(pair.is_idle());
    let metrics = &pair.loops[0].metrics;
    assert_eq!((metrics.frames_count, metrics.forwarded_count), (2_000, 2_000), "each counts once");
}

#[test]
fn frames_that_are_given_back_come_before_what_was_begun_after_them() {
    let mut pair = pair(64);
    let mut client = pair.connect();
    let bytes = frames(0..21);
    let (most, rest) = bytes.split_at(bytes.len() - 4);
    client.write_all(most).expect("frames and a beginning sent");
    pair.turn_until("a bound", |pair| {
        pair.loops[1].service.seen.len() == FORWARDED_PER_CONNECTION_MIN
    });
    client.write_all(rest).expect("the rest sent");
    pair.calm();
    pair.loops[1].service.answers_per_turn = 1;
    pair.turn_until("all", |pair| pair.loops[0].metrics.sent_size_bytes == 21 * 6);
    assert_eq!(answers(&mut client, 21, 6), (0..21).collect::<Vec<_>>());
    assert!(pair.is_idle());
}

#[test]
fn frames_that_wait_stay_where_they_lie_until_most_of_what_lay_with_them_is_gone() {
    const COUNT: u32 = 600;
    let mut pair = pair(64);
    let mut client = pair.connect_trusted();
    // Few enough to come at once: nothing is added to them later.
    client.write_all(&frames(0..COUNT)).expect("frames sent");
    pair.turn_until("a request", |pair| pair.loops[1].service.seen.len() == 64);
    pair.calm();
    let held = |pair: &Pair| {
        let held = &pair.loops[0].connections.in_slot(0).expect("the connection").held;
        (held.as_ptr() as usize + held.len(), held.len())
    };
    let (end, all) = held(&pair);
    assert_eq!(all, 9 * (600 - 64), "the rest waits");
    let (mut moves_count, mut before) = (0, (end, all));
    pair.loops[1].service.answers_per_turn = 5;
    pair.turn_until("all", |pair| {
        let now = held(pair);
        if now.1 > 0 && now.0 != before.0 {
            moves_count += 1;
            assert!(now.1 < all / (1 << moves_count), "{} of {all} bytes were moved", now.1);
        }
        before = if now.1 > 0 { now } else { before };
        pair.loops[0].metrics.sent_size_bytes == 6 * u64::from(COUNT)
    });
    assert!(moves_count > 0, "memory isn't kept for a few bytes");
    assert_eq!(answers(&mut client, COUNT, 6), (0..COUNT).collect::<Vec<_>>());
    assert!(pair.is_idle());
}

#[test]
fn connection_with_many_forwarded_requests_waits_and_others_do_not() {
    let mut pair = pair(4_096);
    let (mut greedy, mut modest) = (pair.connect_trusted(), pair.connect());
    greedy.write_all(&frames(0..3_000)).expect("frames sent");
    pair.turn_until("a bound", |pair| {
        pair.loops[1].service.seen.len() == FORWARDED_PER_CONNECTION_MAX
    });
    pair.calm();
    assert_eq!(pair.loops[1].service.seen.len(), FORWARDED_PER_CONNECTION_MAX);
    // Of one whose answers aren't known yet there are few.
    modest.write_all(&frames(5_000..5_100)).expect("frames sent");
    pair.calm();
    let both = FORWARDED_PER_CONNECTION_MAX + FORWARDED_PER_CONNECTION_MIN;
    assert_eq!(pair.loops[1].service.seen.len(), both);
    pair.loops[1].service.answers_per_turn = 100;
    pair.turn_until("all", |pair| pair.loops[0].metrics.sent_size_bytes == 3_100 * 6);
    assert_eq!(answers(&mut greedy, 3_000, 6), (0..3_000).collect::<Vec<_>>());
    assert_eq!(answers(&mut modest, 100, 6), (5_000..5_100).collect::<Vec<_>>());
    assert!(pair.is_idle());
}

#[test]
fn answers_to_a_connection_that_is_gone_are_dropped_and_their_credits_come_back() {
    let mut pair = pair(64);
    let mut client = pair.connect_trusted();
    client.write_all(&frames(0..60)).expect("frames sent");
    pair.turn_until("requests", |pair| pair.loops[1].service.seen.len() == 60);
    let before = pair.loops[0].metrics.sent_size_bytes;
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).expect("no lingering");
    drop(client);
    pair.turn_until("an end", |pair| pair.loops[0].connections.count() == 0);
    // The next one has its place.
    let mut next = pair.connect();
    next.write_all(&frames(900..1_000)).expect("frames sent");
    pair.calm();
    pair.loops[1].service.answers_per_turn = 10;
    pair.turn_until("the next one's", |pair| {
        pair.loops[0].metrics.sent_size_bytes == before + 100 * 6
    });
    assert_eq!(answers(&mut next, 100, 6), (900..1_000).collect::<Vec<_>>());
    let drops = &pair.loops[0].metrics.drops;
    assert_eq!(drops.of(DropReason::AnswerWithoutConnection), 60);
    assert!(pair.is_idle());
}

#[test]
fn long_answers_arrive_whole_whether_they_are_copied_or_not() {
    const SIZE: usize = 100_000;
    let mut pair = pair(64);
    let mut client = pair.connect();
    pair.loops[1].service.answers_per_turn = 3;
    pair.loops[1].service.answer_size = SIZE;
    client.write_all(&frames(0..30)).expect("frames sent");
    let reader = std::thread::spawn(move || answers(&mut client, 30, SIZE));
    pair.turn_until("all", |pair| pair.loops[0].metrics.sent_size_bytes >= 30 * u64_from(SIZE));
    assert_eq!(reader.join().expect("a reader"), (0..30).collect::<Vec<_>>());
    pair.calm();
    assert!(pair.is_idle());
}

#[test]
fn requests_stay_in_the_ring_while_the_clients_of_their_shard_do_not_read() {
    let mut pair = pair(64);
    let mut client = pair.connect();
    pair.loops[1].service.answers_per_turn = 10;
    pair.node.cores[0].unread_size.store(2 * SEND_QUEUES_SIZE_BYTES_MAX, Ordering::Relaxed);
    client.write_all(&frames(0..8)).expect("frames sent");
    pair.turn_until("forwards", |pair| pair.loops[0].metrics.forwarded_count == 8);
    pair.calm();
    assert!(pair.loops[1].service.seen.is_empty());
    pair.node.cores[0].unread_size.store(0, Ordering::Relaxed);
    pair.turn_until("all", |pair| pair.loops[0].metrics.sent_size_bytes == 48);
    assert_eq!(answers(&mut client, 8, 6), (0..8).collect::<Vec<_>>());
}

#[test]
fn core_sleeps_while_all_it_has_is_held_back_and_is_woken_when_it_may_go_on() {
    let mut pair = pair(64);
    let mut client = pair.connect();
    pair.turn_until("a connection", |pair| pair.loops[0].connections.count() == 1);
    let much = 2 * SEND_QUEUES_SIZE_BYTES_MAX;
    pair.loops[0].told_unread_size = much;
    pair.node.cores[0].unread_size.store(much, Ordering::Relaxed);
    client.write_all(&frames(0..8)).expect("frames sent");
    for _ in 0..2_000_000 {
        // It would publish that nothing is unread.
        pair.loops[0].told_unread_size = pair.loops[0].connections.queued_size();
        pair.loops[0].turn().expect("a working loop");
        if pair.loops[0].metrics.forwarded_count == 8 {
            break;
        }
    }
    pair.loops[0].told_unread_size = much;
    pair.loops[0].ring_doorbells();
    pair.loops[1].turn().expect("a working loop");
    assert!(pair.loops[1].mesh.has_incoming(), "requests lie in the ring");
    assert!(pair.loops[1].prepare_to_sleep().expect("a working loop"), "it has nothing to do");
    let bell = &pair.node.cores[1].eventfd;
    rustix::io::ioctl_fionbio(bell, true).expect("an eventfd");
    let _ = rustix::io::read(bell, &mut [0; 8]);
    for _ in 0..2 {
        pair.loops[0].turn().expect("a working loop");
    }
    assert_eq!(pair.node.cores[0].unread_size.load(Ordering::Relaxed), 0);
    assert_eq!(rustix::io::read(bell, &mut [0; 8]), Ok(8), "it was rung");
    assert!(!pair.loops[1].prepare_to_sleep().expect("a working loop"));
    pair.loops[1].wake();
    pair.loops[1].service.answers_per_turn = 10;
    pair.turn_until("all", |pair| pair.loops[0].metrics.sent_size_bytes == 48);
}

/// A pair whose first core may have few bytes unread, and clients that read none of their answers:
/// those to the requests of the first pass are more than kernels buffer, the others lie in the
/// ring.
fn full_pair() -> (Pair, Vec<TcpStream>) {
    const COUNT: u32 = 10;
    const ALL: u64 = 10 * u64_from(FORWARDED_PER_CONNECTION_MIN);
    const _: () = assert!(ALL > u64_from(PASS_COUNT_MAX));
    let mut node = Node::new(2, 100).expect("a node");
    node.unread_size_max = 8 << 20;
    let mut pair = pair_of(node, 256);
    pair.loops[1].service.answer_size = 1 << 20;
    pair.loops[1].service.at_once = true;
    let connect = |_| {
        let client = pair.connect();
        rustix::net::sockopt::set_socket_recv_buffer_size(&client, 4_096).expect("a socket");
        client
    };
    let mut clients: Vec<TcpStream> = (0..COUNT).map(connect).collect();
    pair.turn_until("all", |pair| pair.loops[0].connections.count() == clients.len());
    for client in &mut clients {
        client.write_all(&frames(0..8)).expect("frames sent");
    }
    for _ in 0..2_000_000 {
        pair.loops[0].turn().expect("a working loop");
        if pair.loops[0].metrics.forwarded_count == ALL {
            break;
        }
    }
    pair.turn_until("unread answers", |pair| pair.node.is_full_of_unread(0));
    assert!(pair.loops[1].mesh.has_incoming(), "requests lie in the ring");
    (pair, clients)
}

#[test]
fn clients_that_are_behind_are_cut_soon_once_all_together_leave_too_much_unread() {
    let (mut pair, _clients) = full_pair();
    let first = &mut pair.loops[0];
    let (count, now) = (first.connections.count(), first.monotonic());
    let cut = |event_loop: &EventLoop<Partner>| event_loop.metrics.drops.of(DropReason::Unread);
    first.connections.sweep(now.after_ns(UNREAD_FULL_NS_MAX / 2), &mut first.metrics);
    assert_eq!(cut(first), 0, "they may have begun to read");
    first.connections.sweep(now.after_ns(2 * UNREAD_FULL_NS_MAX), &mut first.metrics);
    assert!(cut(first) > 0);
    pair.turn_until("their ends", |pair| {
        !pair.node.is_full_of_unread(0) && pair.loops[0].connections.count() < count
    });
    let left = pair.loops[0].connections.count();
    assert!(left > 0, "no more than need be were cut");
    // Nobody is cut for it where there is room.
    let first = &mut pair.loops[0];
    let before = cut(first);
    first.connections.sweep(now.after_ns(4 * UNREAD_FULL_NS_MAX), &mut first.metrics);
    assert_eq!(cut(first), before);
}

#[test]
fn core_closes_though_clients_of_another_one_do_not_read() {
    let (mut pair, clients) = full_pair();
    pair.node.begin_shutdown();
    let begun = pair.loops[0].monotonic();
    pair.turn_until("an end", |pair| pair.loops[1].descent.closed);
    let waited_ns = pair.loops[0].monotonic().since_ns(begun);
    assert!(waited_ns < crate::base::limits::SHUTDOWN_NS_MAX, "no client was cut for its time");
    let drops = &pair.loops[0].metrics.drops;
    assert!(drops.of(DropReason::ShutdownTimeout) > 0, "what is too much is dropped");
    drop(clients);
    let mut finished = [false; 2];
    while finished != [true; 2] {
        for (event_loop, finished) in pair.loops.iter_mut().zip(&mut finished) {
            *finished = *finished || event_loop.turn().expect("a loop") == Turn::Finished;
        }
    }
}

#[test]
fn no_core_ends_before_what_it_was_asked_is_answered() {
    let mut pair = pair(64);
    let mut client = pair.connect_trusted();
    client.write_all(&frames(0..20)).expect("frames sent");
    pair.turn_until("requests", |pair| pair.loops[1].service.seen.len() == 20);
    pair.node.begin_shutdown();
    for _ in 0..1_000 {
        for event_loop in &mut pair.loops {
            assert_ne!(event_loop.turn().expect("a working loop"), Turn::Finished);
        }
    }
    pair.loops[1].service.answers_per_turn = 1;
    let reader = std::thread::spawn(move || {
        let found = answers(&mut client, 20, 6);
        (found, client.read(&mut [0]).expect("a clean end"))
    });
    let mut finished = [false; 2];
    for _ in 0..10_000_000_u32 {
        for (event_loop, finished) in pair.loops.iter_mut().zip(&mut finished) {
            // One that has finished takes no more turns.
            *finished = *finished || event_loop.turn().expect("a loop") == Turn::Finished;
        }
        if finished == [true; 2] {
            break;
        }
    }
    assert_eq!(finished, [true; 2]);
    assert_eq!(reader.join().expect("a reader"), ((0..20).collect::<Vec<_>>(), 0));
    assert!(pair.is_idle());
}

#[test]
fn connection_that_nobody_took_in_is_closed_with_its_node() {
    let node = Node::new(2, 100).expect("a node");
    node.cores[0].connection_count.fetch_add(1, Ordering::Relaxed);
    let (listeners, address) = listen(([127, 0, 0, 1], 0).into(), 1).expect("a port");
    let mut client = TcpStream::connect(address).expect("a connection");
    let accepted = rustix::net::accept(&listeners[0]).expect("the connection");
    let core = node.hand_over(ShardId(0), accepted).expect("the other core has fewer");
    assert_eq!(core, 1);
    assert!(node.cores[1].has_arrivals());
    drop(node);
    assert_eq!(client.read(&mut [0]).expect("a clean end"), 0);
}

#[test]
fn accepted_connections_go_to_the_core_with_the_fewest_and_stay_where_there_is_no_room() {
    let mut pair = pair(64);
    pair.node.cores[1].connection_count.fetch_sub(1_000, Ordering::Relaxed);
    let clients: Vec<TcpStream> = (0..10).map(|_| pair.connect()).collect();
    pair.turn_until("all", |pair| {
        pair.loops.iter().map(|event_loop| event_loop.connections.count()).sum::<usize>() == 10
    });
    assert_eq!(pair.loops[0].connections.count(), 5);
    drop(clients);
    pair.turn_until("their ends", |pair| {
        pair.loops.iter().all(|event_loop| event_loop.connections.count() == 0)
    });
    let counts = pair.node.cores.iter().map(|core| core.connection_count.load(Ordering::Relaxed));
    assert_eq!(counts.collect::<Vec<_>>(), [0, 0], "each was counted out where it was counted in");
}
