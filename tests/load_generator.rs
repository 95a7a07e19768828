//! The load generator says what clients would have felt, and sees what is wrong: against nodes that
//! stall, lie or fall silent on purpose.
#![allow(clippy::disallowed_methods, reason = "a stall is what is measured")]

mod mini_node;
mod support;

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use p2pmap::bench::dialect::Dialect;
use p2pmap::bench::keys::KeyChoice;
use p2pmap::bench::leaders::Leaders;
use p2pmap::bench::load::{LoadError, LoadOptions, Pace, run};
use p2pmap::bench::mix::{Kind, Mix, Ycsb};
use p2pmap::bench::recorder::{Interval, place};
use p2pmap::bench::report::Report;
use p2pmap::bench::schedule::Arrivals;
use p2pmap::bench::workload::Workload;
use p2pmap::node::placement;
use p2pmap::proto::atomix::map::message::Message as Kinds;
use p2pmap::proto::p2pmap::v1::result::Outcome;
use p2pmap::proto::p2pmap::v1::{Command, Found, Query, Versioned, Written, command, query};
use prost::Message as _;

const MS: u64 = 1_000_000;
const STALL: Duration = Duration::from_millis(200);

fn options(node: SocketAddr, pace: Pace) -> LoadOptions {
    let cores = placement::available();
    LoadOptions {
        nodes: vec![node],
        leaders: None,
        dialect: Dialect::Frames,
        cores: cores.numbers().iter().take(1).copied().map(usize::from).collect(),
        spin: false,
        connection_count: 1,
        depth: if pace == Pace::Closed { 1 } else { 1_000 },
        pace,
        ramp_ns: 0,
        warm_up_ns: 100 * MS,
        duration_ns: 2_000 * MS,
        workload: Workload { key_count: 100, ..Workload::default() },
        preload: false,
        verify: true,
    }
}

fn open(rate: f64) -> Pace {
    Pace::Open { arrivals: Arrivals::Constant, rate }
}

fn load(options: &LoadOptions) -> (Report, Vec<Interval>) {
    let mut intervals = Vec::new();
    let report = run(options, |_| {}, |interval| intervals.push(interval.clone()));
    (report.expect("the node answers"), intervals)
}

/// Sends back what comes, and once, a second after its first byte, nothing for [`STALL`].
fn stalling_echo() -> SocketAddr {
    mini_node::serve_each(|mut stream: TcpStream| {
        stream.set_nodelay(true)?;
        let mut buffer = [0; 1 << 16];
        let (mut begun, mut stalled) = (None, false);
        loop {
            let count = match stream.read(&mut buffer)? {
                0 => return Ok(()),
                count => count,
            };
            let begun = *begun.get_or_insert_with(Instant::now);
            if !stalled && begun.elapsed() >= Duration::from_secs(1) {
                stalled = true;
                thread::sleep(STALL);
            }
            stream.write_all(&buffer[..count])?;
        }
    })
}

/// At a fixed rate a stall meets every request that was meant to be sent meanwhile: of 2 s with a
/// stall of 0.2 s a tenth, and those wait evenly from nothing to all of it. So one request in a
/// hundred waits for more than nine tenths of the stall, and one in a thousand for more than 99 %.
/// A closed loop has one request under way when the node stalls, and hides it among thousands.
#[test]
fn stall_is_seen_by_everybody_who_would_have_waited() {
    // With room for all requests, and with room for one: then the others can't even be sent.
    for depth in [1_000, 1] {
        let options = LoadOptions { depth, ..options(stalling_echo(), open(1_000.0)) };
        let (report, intervals) = load(&options);
        let all = report.total.all_ns();
        assert_eq!(all.len(), 2_000, "every request counts");
        assert_eq!((report.counts.errors(), report.counts.echoes >= 2_000), (0, true));
        let percentile = |percent| all.value_at_percentile(percent) / MS;
        assert!(percentile(99.9) >= 195, "depth {depth}: p99.9 is {} ms", percentile(99.9));
        assert!(percentile(99.0) >= 175, "depth {depth}: p99 is {} ms", percentile(99.0));
        // At 95 % half of those who met the stall have waited less than half of it.
        let p95 = percentile(95.0);
        assert!((95..195).contains(&p95), "depth {depth}: p95 is {p95} ms");
        let of_intervals: u64 = intervals.iter().map(|interval| interval.all_ns().len()).sum();
        assert_eq!(of_intervals, 2_000, "intervals add up to the whole");
        assert!(intervals.len() >= 2 && report.is_open);
        if depth == 1 {
            assert!(report.counts.held_back >= 150, "{:?}", report.counts);
        }
    }

    let (closed, _) = load(&options(stalling_echo(), Pace::Closed));
    let all = closed.total.all_ns();
    let slow = all.count_between(190 * MS, u64::MAX);
    assert!(slow >= 1, "the stall is there");
    let naive_ms = all.value_at_percentile(99.9) / MS;
    assert!(naive_ms < 100, "the naive p99.9 is {naive_ms} ms");
    assert!(!closed.is_open);
}

/// A node that stops answering for good: what was sent and what was not is counted, with the time
/// that it has waited at least.
#[test]
fn requests_without_an_answer_are_neither_lost_nor_fast() {
    let silent = mini_node::serve_each(|mut stream: TcpStream| {
        let mut buffer = [0; 1 << 16];
        while stream.read(&mut buffer)? > 0 {}
        Ok(())
    });
    let mut options = options(silent, open(200.0));
    options.depth = 10;
    options.warm_up_ns = MS;
    options.duration_ns = 500 * MS;
    let (report, _) = load(&options);
    assert_eq!(report.answers(), 0);
    let counts = &report.counts;
    // One of the ten was meant to be sent during the warm-up.
    assert_eq!(counts.timeouts + counts.unsent, 100);
    assert!((9..=10).contains(&counts.timeouts), "{counts:?}");
    assert_eq!(counts.errors(), 100);
    // What was due last has waited for 5 s; a histogram of three digits knows it to a thousandth.
    assert!(report.total.all_ns().min() >= 4_990 * MS);
}

/// A map that answers reads from the state before the last `lag` writes of each key.
fn node_behind_by(lag: usize) -> SocketAddr {
    type Entries = std::collections::BTreeMap<Vec<u8>, Vec<Versioned>>;
    let state: Mutex<(u64, Entries)> = Mutex::default();
    let answer = move |message| {
        let id = mini_node::correlation(&message);
        let mut state = state.lock().map_err(|_| io::Error::other("poisoned"))?;
        let (index, entries) = &mut *state;
        match message.message {
            Some(Kinds::Command(request)) => {
                *index += 1;
                let version = *index;
                let command = Command::decode(request.value)?;
                let Some(command::Operation::Put(put)) = command.operation else {
                    return Err(io::Error::other("a load only puts"));
                };
                let entry = Versioned { value: put.value, version, ..Versioned::default() };
                entries.entry(put.key.to_vec()).or_default().push(entry);
                let written = Outcome::Written(Written { version, previous: None });
                Ok(mini_node::command_response(id, version, written))
            }
            Some(Kinds::Query(request)) => {
                let query = Query::decode(request.value)?;
                let Some(query::Operation::Get(get)) = query.operation else {
                    return Err(io::Error::other("a load only gets"));
                };
                let history = entries.get(&get.key[..]);
                let entry = history.and_then(|all| all.iter().rev().nth(lag).cloned());
                let found = Outcome::Found(Found { entry });
                Ok(mini_node::query_response(id, *index, found))
            }
            other => Err(io::Error::other(format!("a load sent {other:?}"))),
        }
    };
    mini_node::serve_each(move |mut stream: TcpStream| {
        loop {
            let message = mini_node::read_message(&mut stream)?;
            stream.write_all(&mini_node::frame(&answer(message)?))?;
        }
    })
}

#[test]
fn node_that_answers_from_the_past_fails_the_run() {
    let mut options = options(node_behind_by(1), Pace::Closed);
    options.workload.mix = Mix::of_puts(50);
    options.duration_ns = 300 * MS;
    let (report, _) = load(&options);
    assert!(report.counts.violations > 0, "{:?}", report.counts);
    assert!(!report.is_right());
    assert!(report.to_string().contains("WRONG ANSWERS"));

    options.verify = false;
    options.nodes = vec![node_behind_by(1)];
    // Absent keys aside, nobody looks.
    assert!(load(&options).0.is_right());
}

#[test]
fn every_mix_runs_against_a_right_node_without_errors() {
    for ycsb in [Ycsb::A, Ycsb::D, Ycsb::F] {
        let mut options = options(node_behind_by(0), open(500.0));
        let (mix, key_choice) = ycsb.parts();
        options.workload = Workload { mix, key_choice, ..options.workload };
        options.workload.key_size_bytes = 12..=20;
        options.workload.value_size_bytes = 24..=200;
        options.preload = true;
        options.connection_count = 3;
        options.duration_ns = 500 * MS;
        let (report, _) = load(&options);
        // Whether all are sent and answered in time is the machine's affair.
        let counts = &report.counts;
        assert!(counts.refusals.is_empty() && counts.strays == 0, "{ycsb}: {counts:?}");
        assert_eq!(counts.violations, 0, "{ycsb}: {counts:?}");
        assert_eq!(report.total.all_ns().len(), 250, "{ycsb}");
        assert!(report.counts.checked >= 350, "{ycsb}: {:?}", report.counts);
    }
}

#[test]
fn closed_loop_keeps_every_connection_as_deep_as_it_was_told() {
    let mut options = options(node_behind_by(0), Pace::Closed);
    options.connection_count = 4;
    options.depth = 8;
    options.duration_ns = 300 * MS;
    options.workload.key_choice = KeyChoice::Sequential;
    let (report, _) = load(&options);
    assert!(report.answers() > 32);
    assert_eq!(report.counts.errors(), 0);
}

#[test]
fn node_that_is_not_there_or_goes_away_is_told_so() {
    let nobody = options(mini_node::nobody(), Pace::Closed);
    let failed = run(&nobody, |_| {}, |_| {});
    assert!(matches!(failed, Err(LoadError::Connect(..))), "{failed:?}");
    let closing = mini_node::serve_each(|mut stream: TcpStream| {
        mini_node::read_message(&mut stream).map(drop)
    });
    let failed = run(&options(closing, Pace::Closed), |_| {}, |_| {});
    assert!(matches!(failed, Err(LoadError::Closed | LoadError::Connection(_))), "{failed:?}");
    let lanes = LoadOptions { cores: vec![0, 0], ..options(mini_node::nobody(), Pace::Closed) };
    let failed = run(&lanes, |_| {}, |_| {});
    assert!(matches!(failed, Err(LoadError::Connections)), "{failed:?}");
}

/// A server that speaks RESP, whose writes so many replicas have. With `lies` a read has the value
/// of whichever key was written last.
fn redis(lies: bool, replica_count: u32) -> SocketAddr {
    let values: Mutex<HashMap<Vec<u8>, Vec<u8>>> = Mutex::default();
    mini_node::serve_each(move |mut stream: TcpStream| {
        stream.set_nodelay(true)?;
        let mut requests = BufReader::new(stream.try_clone()?);
        let mut last = Vec::new();
        loop {
            let mut line = String::new();
            if requests.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let count: usize = line.trim_end().trim_start_matches('*').parse().expect("an array");
            let mut parts = Vec::new();
            for _ in 0..count {
                line.clear();
                requests.read_line(&mut line)?;
                let size: usize = line.trim_end().trim_start_matches('$').parse().expect("a size");
                let mut part = vec![0; size + 2];
                requests.read_exact(&mut part)?;
                part.truncate(size);
                parts.push(part);
            }
            let mut values = values.lock().expect("nobody panics");
            match parts.as_slice() {
                [name, key, value] if name == b"SET" => {
                    last.clone_from(value);
                    values.insert(key.clone(), value.clone());
                    stream.write_all(b"+OK\r\n")?;
                }
                [name, key] if name == b"GET" => match values.get(key) {
                    Some(value) => {
                        let value = if lies && !last.is_empty() { &last } else { value };
                        write!(stream, "${}\r\n", value.len())?;
                        stream.write_all(value)?;
                        stream.write_all(b"\r\n")?;
                    }
                    None => stream.write_all(b"$-1\r\n")?,
                },
                [name, wanted, _] if name == b"WAIT" && !wanted.is_empty() => {
                    write!(stream, ":{replica_count}\r\n")?;
                }
                _ => stream.write_all(b"-ERR unknown command\r\n")?,
            }
        }
    })
}

/// One of three replicas is gone, say: who wants two gets them, and who wants three is told nothing
/// that was done.
#[test]
fn write_counts_only_if_as_many_replicas_have_it_as_were_asked_for() {
    for (wanted, is_done) in [(1, true), (2, true), (3, false)] {
        let mut options = options(redis(false, 2), Pace::Closed);
        options.dialect = Dialect::Resp { replica_count: wanted };
        options.depth = 8;
        options.connection_count = 2;
        options.duration_ns = 200 * MS;
        options.workload.mix = Mix::of_puts(50);
        let (report, _) = load(&options);
        let counts = &report.counts;
        let writes = report.total.latencies_ns[place(Kind::Write)].len();
        assert_eq!(writes > 0, is_done, "{wanted}: {counts:?}");
        assert_eq!(counts.errors() > 0, !is_done, "{wanted}: {counts:?}");
        // Reads wait for nobody.
        assert!(report.answers() > writes, "{wanted}: {counts:?}");
        assert_eq!((counts.strays, counts.timeouts), (0, 0), "{wanted}: {counts:?}");
    }
}

/// Two nodes with a map each: what goes to the wrong one isn't found there by those who ask the
/// right one.
#[test]
fn requests_go_to_who_leads_the_partition_of_their_key() {
    let nodes = [node_behind_by(0), node_behind_by(0)];
    let led = [nodes[0], nodes[1], nodes[1], nodes[0]].map(Some);
    let leaders = Leaders::among(&nodes, &led).expect("all are known");
    let mut options = options(nodes[0], Pace::Closed);
    options.duration_ns = 200 * MS;
    options.connection_count = 3;
    options.preload = true;
    let load_of = |nodes: &[SocketAddr], leaders: Option<Leaders>, puts, preload| {
        let workload = Workload { mix: Mix::of_puts(puts), ..options.workload.clone() };
        let nodes = nodes.to_vec();
        load(&LoadOptions { nodes, leaders, workload, preload, ..options.clone() }).0
    };
    let report = load_of(&nodes, Some(leaders.clone()), 50, true);
    assert_eq!((report.counts.errors(), report.counts.absent), (0, 0));
    assert!(report.is_right() && report.answers() > 0);
    // What one of them leads is not at the other one.
    let report = load_of(&nodes[..1], None, 0, false);
    let absent = report.counts.absent;
    assert!(absent > 0 && absent < report.answers(), "{absent} of {}", report.answers());
}

#[test]
fn servers_of_resp_are_loaded_and_wrong_values_found() {
    for lies in [false, true] {
        let mut options = options(redis(lies, 0), Pace::Closed);
        options.dialect = Dialect::Resp { replica_count: 0 };
        options.depth = 8;
        options.connection_count = 2;
        options.duration_ns = 300 * MS;
        options.preload = true;
        let (mix, key_choice) = Ycsb::F.parts();
        options.workload = Workload { mix, key_choice, ..options.workload };
        let (report, _) = load(&options);
        let counts = &report.counts;
        assert!(report.answers() > 0 && counts.checked > 0, "{counts:?}");
        assert_eq!((counts.errors(), counts.absent), (0, 0), "{counts:?}");
        assert_eq!(report.is_right(), !lies, "{counts:?}");
    }
    let foreign = mini_node::serve_each(|mut stream: TcpStream| {
        stream.read_exact(&mut [0; 10])?;
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n")
    });
    let foreign = LoadOptions {
        dialect: Dialect::Resp { replica_count: 0 },
        ..options(foreign, Pace::Closed)
    };
    let failed = run(&foreign, |_| {}, |_| {}).map(|report| report.answers());
    assert!(matches!(failed, Err(LoadError::Line(_))), "{failed:?}");
}

#[test]
fn node_is_loaded_over_grpc_as_over_frames() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = support::Node::start(folder.path(), &["--durability", "none"]);
    let address = node.address().parse().expect("an address");
    for (dialect, value_size_bytes) in
        [(Dialect::Frames, 64), (Dialect::Grpc, 64), (Dialect::Grpc, 40_000)]
    {
        let mut options = options(address, Pace::Closed);
        options.dialect = dialect;
        options.depth = 16;
        options.connection_count = 3;
        options.duration_ns = 500 * MS;
        options.preload = true;
        options.workload.mix = Mix::of_puts(50);
        options.workload.value_size_bytes = value_size_bytes..=value_size_bytes;
        let (report, _) = load(&options);
        let counts = &report.counts;
        assert!(report.answers() > 0 && counts.checked > 100, "{dialect:?}: {counts:?}");
        assert_eq!((counts.errors(), counts.absent), (0, 0), "{dialect:?}: {counts:?}");
        assert!(report.is_right(), "{dialect:?}: {counts:?}");
    }
}
