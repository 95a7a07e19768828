//! Whatever clients send or fail to do: the node stays up, its memory stays bounded, other clients
//! don't notice, and what was refused is counted and has a line in the log, but not one for each.
//!
//! `P2PMAP_FUZZ_SEED` repeats a run's random bytes.
#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]

mod support;

use std::env;
use std::ffi::OsStr;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use p2pmap::base::cast::u64_from;
use p2pmap::base::prng::Prng;
use p2pmap::client::Client;
use p2pmap::client::error::ClientError;
use p2pmap::proto::atomix::map::message::Message as Kind;
use p2pmap::proto::atomix::map::{CommandRequest, Message, Ping, QueryRequest, ViewChangeRequest};
use p2pmap::proto::atomix::primitive::Name;
use p2pmap::proto::p2pmap::v1::{
    Command, Condition, Entries, Get, Put, Query, Remove, command, condition, query,
};
use prost::Message as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Ended, Node};

/// What abuse may cost a node, besides what a case says: the receive pool is touched once, and what
/// was allocated doesn't all come back.
const GROWTH_SIZE_BYTES_MAX: u64 = 32 << 20;
/// Lines that a place in the code writes in a second, and the one that counts the others.
const LINES_PER_SECOND: usize = 11;
/// No single wait is longer: a node that hangs is a failure, not a hanging test.
const WAIT: Duration = Duration::from_secs(10);
const MAP: &str = "abused";

/// A node that is being abused, next to a client that goes on with its work.
struct Abused {
    node: Node,
    _data_dir: tempfile::TempDir,
    started: Instant,
    resident_before: u64,
    _turn: MutexGuard<'static, ()>,
}

#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}

impl Abused {
    fn start() -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        let path = data_dir.path().join("data");
        Self::with(data_dir, support::serve(&path, &["--segment-size", "8MiB"]))
    }

    fn with(data_dir: tempfile::TempDir, command: std::process::Command) -> Self {
        // The figures of one would be those of another, too.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let node = Node::run(command);
        let mut client = Client::connect(node.address(), WAIT).unwrap();
        // What every node touches once: its pools and its log's buffers.
        for number in 0..8 {
            put(&mut client, &format!("warm-{number}"), &vec![1; 1 << 20]).unwrap();
        }
        let resident_before = node.resident_size_bytes();
        let started = now();
        Self { node, _data_dir: data_dir, started, resident_before, _turn: turn }
    }

    /// Abuses the node while an innocent client puts and gets, which must not notice.
    fn abuse<T>(&self, abuse: impl FnOnce() -> T) -> T {
        let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
        let mut client = Client::connect(self.node.address(), WAIT).unwrap();
        // The node has it from here on: until then its connection may wait behind others'.
        put(&mut client, "innocent", b"first").unwrap();
        std::thread::scope(|scope| {
            let innocent = scope.spawn(|| innocent(&mut client, &stop, &count));
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(abuse));
            // It gets through afterwards as well.
            let before = count.load(Ordering::Acquire);
            while count.load(Ordering::Acquire) < before + 3 && !innocent.is_finished() {
                std::thread::yield_now();
            }
            stop.store(true, Ordering::Release);
            innocent.join().unwrap().expect("the innocent client noticed");
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.node.address()).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream
    }

    /// Sends bytes, then nothing more, and returns what comes back until the node closes.
    fn say(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer, then an end");
        answer
    }

    fn growth(&self) -> u64 {
        self.node.resident_size_bytes().saturating_sub(self.resident_before)
    }

    #[track_caller]
    fn grew_by_less_than(&self, limit: u64) {
        let growth = self.growth();
        assert!(growth < limit, "resident memory grew by {} KiB", growth >> 10);
    }

    /// The node still answers; it ends as it should and has counted and logged `expected`: names of
    /// counters, each with how much it must have counted at least, and a text of the log.
    #[track_caller]
    fn end(self, expected: &[(&str, u64, &str)]) -> Ended {
        let mut client = Client::connect(self.node.address(), WAIT).unwrap();
        put(&mut client, "last", b"word").unwrap();
        assert_eq!(client.get(MAP, "last").unwrap().unwrap().value, "word");
        drop(client);
        let second_count = usize::try_from(self.started.elapsed().as_secs()).unwrap() + 2;
        let ended = self.node.end();
        assert_eq!(ended.status.code(), Some(0), "{:#?}", ended.log);
        assert_eq!(ended.line_count("ERROR"), 0, "{:#?}", ended.log);
        for &(counter, count, text) in expected {
            let counted = ended.counter(counter);
            assert!(counted >= count, "{counter} is {counted}: {:#?}", ended.log);
            let lines = ended.line_count(text);
            assert!(lines >= 1, "nothing says {text:?}: {:#?}", ended.log);
            assert!(lines <= second_count * LINES_PER_SECOND, "{lines} lines say {text:?}");
        }
        ended
    }
}

fn put(client: &mut Client, key: &str, value: &[u8]) -> Result<(), ClientError> {
    let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value));
    client.put(MAP, Put { key, value, ..Put::default() }).map(drop)
}

fn innocent(client: &mut Client, stop: &AtomicBool, count: &AtomicU64) -> Result<(), ClientError> {
    while !stop.load(Ordering::Acquire) {
        let number = count.fetch_add(1, Ordering::AcqRel) + 1;
        let (key, value) = (format!("innocent-{}", number % 100), number.to_string());
        put(client, &key, value.as_bytes())?;
        let found = client.get(MAP, key)?.expect("it was put");
        assert_eq!(found.value, value, "another value than was put");
    }
    Ok(())
}

fn frame_of(flag: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![flag];
    frame.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend(payload);
    frame
}

fn framed(target: &str, kind: Kind) -> Vec<u8> {
    let target = Name { name: target.to_owned(), namespace: String::new() };
    frame_of(0, &Message { target: Some(target), message: Some(kind) }.encode_to_vec())
}

fn command(map: &str, message_id: u64, operation: command::Operation) -> Vec<u8> {
    let command = Command { map: map.to_owned(), operation: Some(operation), ..Command::default() };
    let value = command.encode_to_vec().into();
    framed(map, Kind::Command(CommandRequest { message_id, value, ..CommandRequest::default() }))
}

fn query(map: &str, message_id: u64, operation: query::Operation) -> Vec<u8> {
    let query = Query { map: map.to_owned(), operation: Some(operation), ..Query::default() };
    let value = query.encode_to_vec().into();
    framed(map, Kind::Query(QueryRequest { message_id, value, ..QueryRequest::default() }))
}

fn get(key: &str, message_id: u64) -> Vec<u8> {
    query(MAP, message_id, query::Operation::Get(Get { key: key.to_owned().into() }))
}

#[allow(clippy::disallowed_methods, clippy::print_stdout)]
fn random(salt: &str) -> Prng {
    let seed = env::var("P2PMAP_FUZZ_SEED").map_or_else(
        |_| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos().into(),
        |seed| seed.parse().expect("a number"),
    );
    println!("P2PMAP_FUZZ_SEED={seed}");
    Prng::new(seed, salt)
}

fn random_bytes(prng: &mut Prng, size: u64) -> Vec<u8> {
    (0..size).map(|_| prng.next_u64().to_le_bytes()[0]).collect()
}

/// A request as a client would send it.
fn some_request(prng: &mut Prng, message_id: u64) -> Vec<u8> {
    let key = Bytes::from(format!("key-{}", prng.below(100)));
    let size = prng.below(300);
    let value = Bytes::from(random_bytes(prng, size));
    let condition = Condition { condition: Some(condition::Condition::Version(prng.below(9))) };
    let map = "fuzz";
    match prng.below(6) {
        0 => {
            command(map, message_id, command::Operation::Put(Put { key, value, ..Put::default() }))
        }
        1 => {
            let condition = Some(condition);
            let put = Put { key, value, condition, want_previous: true, ..Put::default() };
            command(map, message_id, command::Operation::Put(put))
        }
        2 => {
            let remove = Remove { key, ..Remove::default() };
            command(map, message_id, command::Operation::Remove(remove))
        }
        3 => query(map, message_id, query::Operation::Get(Get { key })),
        4 => {
            let entries = Entries { prefix: key, limit: 10, ..Entries::default() };
            query(map, message_id, query::Operation::Entries(entries))
        }
        _ => {
            query("fuzz#7", message_id, query::Operation::Size(p2pmap::proto::p2pmap::v1::Size {}))
        }
    }
}

#[test]
fn fuzzed_requests_are_answered_or_refused() {
    let abused = Abused::start();
    let mut prng = random("fuzzed requests");
    abused.abuse(|| {
        let mut answered_count = 0;
        for _ in 0..300 {
            let mut bytes = Vec::new();
            for message_id in 1..=20 {
                let mut frame = some_request(&mut prng, message_id);
                // Most stay within the payload: else few connections get beyond their first frame.
                let first = if prng.one_in(20) { 0 } else { 5 };
                for _ in 0..prng.below(4) {
                    let place = usize::try_from(prng.below(u64_from(frame.len() - first)));
                    frame[first + place.unwrap()] ^= 1 << prng.below(8);
                }
                bytes.extend(frame);
            }
            // Nothing, if the first frame was made longer than all of them.
            answered_count += usize::from(!abused.say(&bytes).is_empty());
        }
        assert!(answered_count > 200, "{answered_count} connections got an answer");
    });
    abused.grew_by_less_than(GROWTH_SIZE_BYTES_MAX);
    abused.end(&[
        ("refusals_count", 100, "refused a request"),
        ("drop_ended_by_service", 100, "ended a stream"),
    ]);
}

#[test]
fn random_bytes_get_a_line_and_an_end() {
    let abused = Abused::start();
    let mut prng = random("random bytes");
    abused.abuse(|| {
        for _ in 0..500 {
            let size = 16 + prng.below(4_000);
            let mut bytes = random_bytes(&mut prng, size);
            if prng.one_in(4) {
                bytes[0] = 0;
            }
            abused.say(&bytes);
        }
    });
    abused.grew_by_less_than(GROWTH_SIZE_BYTES_MAX);
    abused.end(&[
        ("drop_unknown_protocol", 250, "speaks what isn't spoken here"),
        ("drop_frame_too_long", 50, "closed for a frame"),
    ]);
}

#[test]
fn http1_requests_get_an_answer_that_a_browser_shows() {
    let abused = Abused::start();
    let body = "x".repeat(100_000);
    let post = format!("POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{body}");
    abused.abuse(|| {
        for request in ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", &post] {
            let answer = String::from_utf8(abused.say(request.as_bytes())).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").expect("headers and a body");
            let mut lines = head.split("\r\n");
            assert_eq!(lines.next(), Some("HTTP/1.1 400 Bad Request"));
            let length = format!("content-length: {}", body.len());
            assert!(lines.any(|line| line == length), "{length} isn't in {head:?}");
            assert!(body.contains("gRPC (HTTP/2) and raw frames"), "{body:?}");
        }
    });
    abused.grew_by_less_than(GROWTH_SIZE_BYTES_MAX);
    let ended = abused.end(&[("drop_http1", 2, "speaks what isn't spoken here")]);
    assert_eq!(ended.counter("drop_http1"), 2);
}

#[test]
fn tls_client_is_told_that_it_is_not_spoken_here() {
    let abused = Abused::start();
    let mut hello = b"\x16\x03\x01\x00\xf8\x01\x00\x00\xf4\x03\x03".to_vec();
    hello.extend([7; 242]);
    abused.abuse(|| {
        for _ in 0..20 {
            let answer = String::from_utf8(abused.say(&hello)).unwrap();
            assert!(answer.starts_with("p2pmap speaks gRPC") && answer.ends_with('\n'), "{answer}");
        }
    });
    abused.grew_by_less_than(GROWTH_SIZE_BYTES_MAX);
    abused.end(&[("drop_unknown_protocol", 20, "speaks what isn't spoken here")]);
}

/// Sends until the node takes no more.
fn send_until_refused(stream: &mut TcpStream, bytes: &[u8], limit: usize) {
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut sent = 0;
    loop {
        match stream.write(bytes) {
            Ok(count) => sent += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return;
            }
            Err(error) => panic!("after {sent} bytes: {error}"),
        }
        assert!(sent < limit, "the node reads without limit");
    }
}

#[test]
fn client_that_never_reads_is_no_longer_read() {
    let abused = Abused::start();
    let gets: Vec<u8> = (0..4_000).flat_map(|number| get("warm-0", number)).collect();
    let mut deaf = abused.connect();
    abused.abuse(|| send_until_refused(&mut deaf, &gets, 64 << 20));
    // Its queue, and the answers of the pass that filled it: 64 of 1 MiB.
    abused.grew_by_less_than(GROWTH_SIZE_BYTES_MAX + (8 << 20) + (64 << 20));
    let ended = abused.end(&[]);
    assert!(ended.counter("reads_stopped_count") >= 1);
}

#[test]
fn many_clients_that_never_read_share_one_bound() {
    let abused = Abused::start();
    let gets: Vec<u8> = (0..256).flat_map(|number| get("warm-0", number)).collect();
    let mut peak = 0;
    let streams: Vec<TcpStream> = abused.abuse(|| {
        let mut streams: Vec<TcpStream> = (0..32).map(|_| abused.connect()).collect();
        for stream in &mut streams {
            stream.write_all(&gets).unwrap();
        }
        let until = now() + Duration::from_millis(500);
        while now() < until {
            peak = peak.max(abused.growth());
            std::thread::park_timeout(Duration::from_millis(5));
        }
        streams
    });
    // The queues of all clients of a core, and the answers of the pass that filled them.
    let core_count = u64::try_from(p2pmap::node::placement::available().count()).unwrap();
    let limit = GROWTH_SIZE_BYTES_MAX + core_count * ((256 << 20) + (128 << 20));
    assert!(peak < limit, "resident memory grew by {} MiB", peak >> 20);
    drop(streams);
    let ended = abused.end(&[]);
    assert!(ended.counter("reads_stopped_count") >= 1);
}

#[test]
fn commands_whose_answers_are_values_cost_bounded_memory() {
    let abused = Abused::start();
    let puts: Vec<u8> = (0..4_000)
        .flat_map(|number| {
            let condition = Some(Condition { condition: Some(condition::Condition::Version(77)) });
            let put = Put { key: "warm-0".into(), condition, ..Put::default() };
            command(MAP, number, command::Operation::Put(put))
        })
        .collect();
    let mut peak = 0;
    let stream = abused.abuse(|| {
        let mut stream = abused.connect();
        stream.write_all(&puts).unwrap();
        let until = now() + Duration::from_millis(500);
        while now() < until {
            peak = peak.max(abused.growth());
            std::thread::park_timeout(Duration::from_millis(5));
        }
        stream
    });
    assert!(peak < 512 << 20, "resident memory grew by {} MiB", peak >> 20);
    drop(stream);
    abused.end(&[]);
}

/// Raises the limit on open files as far as it may be, and returns it.
fn raise_descriptor_limit() -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[test]
#[allow(clippy::print_stdout)]
fn ten_thousand_idle_connections_cost_little_and_nobody_notices() {
    let wanted = 10_000;
    let count = wanted.min(raise_descriptor_limit() - 200);
    if count < wanted {
        println!("{count} connections: the limit on open files allows no more");
    }
    assert!(count >= 4_000, "too few open files for this test: {count}");
    let abused = Abused::start();
    let streams: Vec<TcpStream> = abused.abuse(|| {
        let mut streams: Vec<TcpStream> = (0..count).map(|_| abused.connect()).collect();
        let ping = get("absent", 1);
        for stream in &mut streams {
            stream.write_all(&ping).unwrap();
        }
        for stream in &mut streams {
            stream.read_exact(&mut [0; 5]).unwrap();
        }
        streams
    });
    // 4 KiB each, on top of what any abuse may cost.
    abused.grew_by_less_than(GROWTH_SIZE_BYTES_MAX + count * 4_096);
    abused.abuse(|| drop(streams));
    let ended = abused.end(&[]);
    assert!(ended.counter("connections_accepted_count") > count);
    assert_eq!(ended.line_count("WARN p2pmap::runtime::rec"), 0, "{:#?}", ended.log);
}

#[test]
fn node_that_runs_out_of_descriptors_says_so_and_serves_those_that_it_has() {
    let data_dir = tempfile::tempdir().unwrap();
    let path = data_dir.path().join("data");
    let script = "ulimit -n 256; exec \"$@\"";
    let binary = env!("CARGO_BIN_EXE_p2pmap");
    let before = ["-c", script, "sh", binary].map(OsStr::new);
    let rest = ["--segment-size", "8MiB"];
    let abused = Abused::with(data_dir, support::serve_with("sh", &before, &path, &rest));
    abused.abuse(|| {
        let mut client = abused.connect();
        let mut put = |number| {
            let put = Put { key: "k".into(), value: vec![1; 1 << 20].into(), ..Put::default() };
            client.write_all(&command(MAP, number, command::Operation::Put(put))).unwrap();
            let mut prefix = [0; 5];
            client.read_exact(&mut prefix).unwrap();
            let size = u32::from_be_bytes(prefix[1..].try_into().unwrap());
            let mut answer = vec![0; usize::try_from(size).unwrap()];
            client.read_exact(&mut answer).unwrap();
        };
        // Those that the node has are served, and this is one of them.
        put(0);
        let streams: Vec<TcpStream> = (0..400).map(|_| abused.connect()).collect();
        // The log must go on: it takes descriptors, too.
        (1..40).for_each(&mut put);
        drop(streams);
    });
    abused.grew_by_less_than(GROWTH_SIZE_BYTES_MAX);
    abused.end(&[
        ("drop_connection_limit", 100, "as many connections as there may be"),
        ("log_writes_count", 20, "open files are limited"),
    ]);
}

#[test]
fn announced_gibibytes_are_refused_and_begun_frames_cost_what_came() {
    let abused = Abused::start();
    abused.abuse(|| {
        for _ in 0..100 {
            let answer = abused.say(b"\x00\xff\xff\xff\xff and so on");
            let text = String::from_utf8_lossy(&answer).into_owned();
            assert!(text.contains("a payload of 4294967295 bytes"), "{text}");
        }
        let begun = |_| {
            let mut stream = abused.connect();
            stream.write_all(b"\x00\x00\x3f\xff\x00begun").unwrap();
            stream
        };
        let streams: Vec<TcpStream> = (0..200).map(begun).collect();
        drop(streams);
    });
    abused.grew_by_less_than(GROWTH_SIZE_BYTES_MAX);
    abused.end(&[
        ("drop_frame_too_long", 100, "closed for a frame"),
        ("drop_cut_mid_frame", 200, "in the middle of a frame"),
    ]);
}

#[test]
fn frames_with_other_flags_are_refused_by_name() {
    let abused = Abused::start();
    abused.abuse(|| {
        for (flag, reason) in [(1, "compressed"), (2, "hello: only members"), (3, "0x03")] {
            let mut bytes = get("absent", 1);
            bytes.extend(frame_of(flag, b"payload"));
            let answer = String::from_utf8_lossy(&abused.say(&bytes)).into_owned();
            assert!(answer.contains(reason), "{flag}: {answer}");
        }
    });
    abused.grew_by_less_than(GROWTH_SIZE_BYTES_MAX);
    let ended = abused.end(&[
        ("drop_frame_compressed", 1, "compressed messages are not accepted"),
        ("drop_hello_refused", 1, "hello: only members of the cluster may send it"),
        ("drop_frame_flag_unknown", 1, "flag 0x03 is unknown"),
    ]);
    assert_eq!(ended.line_count("closed for a frame"), 3);
}

#[test]
fn connections_cut_in_the_middle_of_a_frame_are_counted() {
    let abused = Abused::start();
    abused.abuse(|| {
        for number in 0..100 {
            let mut stream = abused.connect();
            let whole = get("warm-0", 1);
            let cut = 1 + number % (whole.len() - 1);
            stream.write_all(&get("absent", 1)).unwrap();
            stream.read_exact(&mut [0; 5]).unwrap();
            stream.write_all(&whole[..cut]).unwrap();
            if number % 2 == 0 {
                // Closing now resets the connection.
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
            }
        }
    });
    abused.grew_by_less_than(GROWTH_SIZE_BYTES_MAX);
    let ended = abused.end(&[("drop_cut_mid_frame", 50, "in the middle of a frame")]);
    // A reset may overtake what was sent before it.
    let resets = ended.counter("drop_connection_failed");
    assert_eq!(ended.counter("drop_cut_mid_frame") + resets, 100);
}

#[test]
fn messages_of_members_are_denied_to_clients() {
    let abused = Abused::start();
    abused.abuse(|| {
        let stamped = CommandRequest { term_id: 9, message_id: 1, ..CommandRequest::default() };
        for (kind, reason) in [
            (Kind::Ping(Ping::default()), "ping: only members of the cluster may send it"),
            (Kind::ViewChangeRequest(ViewChangeRequest::default()), "view_change_request: only"),
            (Kind::Command(stamped), "command.term_id: only sequencers stamp"),
        ] {
            let mut bytes = get("absent", 5);
            bytes.extend(framed(MAP, kind));
            bytes.extend(get("absent", 6));
            let answer = String::from_utf8_lossy(&abused.say(&bytes)).into_owned();
            assert!(answer.contains(reason), "{answer}");
        }
    });
    abused.grew_by_less_than(GROWTH_SIZE_BYTES_MAX);
    let ended = abused.end(&[
        ("drop_ended_by_service", 3, "ping: only members of the cluster may send it"),
        ("drop_ended_by_service", 3, "command.term_id: only sequencers stamp"),
    ]);
    assert_eq!(ended.line_count("ended a stream"), 3);
}

#[test]
fn http2_that_is_none_is_closed() {
    let abused = Abused::start();
    let mut prng = random("http2");
    abused.abuse(|| {
        for _ in 0..20 {
            abused.say(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\nno preface");
            let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
            // A DATA frame of a stream that was never opened.
            bytes.extend(b"\0\0\x08\0\x01\0\0\0\x07");
            bytes.extend(random_bytes(&mut prng, 200));
            abused.say(&bytes);
        }
    });
    abused.grew_by_less_than(GROWTH_SIZE_BYTES_MAX);
    abused.end(&[
        ("drop_unknown_protocol", 20, "a gRPC connection is closed"),
        ("drop_http2", 20, "a gRPC connection is closed"),
    ]);
}
