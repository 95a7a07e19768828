//! Guarantee: what a node says on its metrics' address is what Prometheus' text format allows, and
//! true: it is read by a strict parser that shares nothing with the writer, from a node under load.
#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use p2pmap::client::Client;
use p2pmap::client::connection::{Connection, Operation};
use p2pmap::proto::p2pmap::v1::Put;
use support::Node;

const WAIT: Duration = Duration::from_secs(10);
const ARGUMENTS: [&str; 4] = ["--segment-size", "8MiB", "--metrics-listen", "127.0.0.1:0"];

// ---- a strict parser of the text format 0.0.4 ----

type Labels = BTreeMap<String, String>;

#[derive(Debug)]
struct Family {
    kind: String,
    /// Name, labels and value.
    samples: Vec<(String, Labels, f64)>,
}

/// A page, by family. Whatever the format forbids, or says that a writer shouldn't do, panics.
fn parse(page: &str) -> BTreeMap<String, Family> {
    assert!(page.ends_with('\n'), "the last line ends");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    let mut described = None;
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a family is described");
            assert!(!families.contains_key(name), "{name} is described once");
            assert!(!help.is_empty());
            described = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a family has a type");
            assert_eq!(described.take().as_deref(), Some(name), "what is described gets a type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            current = name.to_owned();
            let family = Family { kind: kind.to_owned(), samples: Vec::new() };
            families.insert(current.clone(), family);
        } else {
            let (name, labels, value) = sample(line);
            let family = families.get_mut(&current).expect("a sample has a family");
            let base = match family.kind.as_str() {
                "histogram" => ["_bucket", "_sum", "_count"]
                    .into_iter()
                    .find_map(|suffix| name.strip_suffix(suffix))
                    .unwrap_or_else(|| panic!("{name} is no part of a histogram")),
                _ => &name,
            };
            assert_eq!(base, current, "samples of a family stand together");
            family.samples.push((name, labels, value));
        }
    }
    assert_eq!(described, None);
    check(&families);
    families
}

fn sample(line: &str) -> (String, Labels, f64) {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("{line:?} is no sample"));
    let (name, mut rest) = line.split_at(end);
    let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    assert!(!name.is_empty() && name.chars().all(of_name), "{line}");
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").expect("a label has a value in quotes");
            assert!(label.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{line}");
            let mut value = String::new();
            let mut characters = after.char_indices();
            let closing = loop {
                match characters.next().expect("a value ends with a quote") {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match characters.next() {
                        Some((_, 'n')) => '\n',
                        Some((_, escaped @ ('\\' | '"'))) => escaped,
                        other => panic!("{other:?} is escaped in {line}"),
                    }),
                    (_, plain) => value.push(plain),
                }
            };
            assert_eq!(labels.insert(label.to_owned(), value), None, "{line}");
            rest = &after[closing + 1..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').unwrap_or_else(|| panic!("{line}: labels end"));
    }
    let value = rest.strip_prefix(' ').expect("one blank before the value");
    (name.to_owned(), labels, value.parse().unwrap_or_else(|_| panic!("{line}: a number")))
}

fn check(families: &BTreeMap<String, Family>) {
    for (name, family) in families {
        assert!(!family.samples.is_empty(), "{name} has samples");
        assert_eq!(name.ends_with("_total"), family.kind == "counter", "{name}");
        let mut seen = BTreeSet::new();
        for (name, labels, value) in &family.samples {
            assert!(seen.insert((name.clone(), labels.clone())), "{name} {labels:?} comes once");
            assert!(value.is_finite() && *value >= 0.0, "{name} {value}");
        }
        if family.kind == "histogram" {
            check_histogram(name, family);
        }
    }
}

fn check_histogram(name: &str, family: &Family) {
    let mut series: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let mut counts = BTreeMap::new();
    let mut sums = BTreeMap::new();
    for (sample, labels, value) in &family.samples {
        let core = labels["core"].clone();
        if sample.ends_with("_bucket") {
            let le =
                if labels["le"] == "+Inf" { f64::INFINITY } else { labels["le"].parse().unwrap() };
            series.entry(core).or_default().push((le, *value));
        } else if sample.ends_with("_count") {
            counts.insert(core, *value);
        } else {
            sums.insert(core, *value);
        }
    }
    for (core, buckets) in series {
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name}: {buckets:?}");
        let last = buckets.last().unwrap();
        assert_eq!((last.0, last.1), (f64::INFINITY, counts[&core]), "{name}");
        assert!(sums.contains_key(&core), "{name}");
    }
}

/// All counters and all parts of histograms, each under a name of its own.
fn growing(families: &BTreeMap<String, Family>) -> BTreeMap<String, f64> {
    let growing = families.values().filter(|family| family.kind != "gauge");
    let samples = growing.flat_map(|family| &family.samples);
    samples.map(|(name, labels, value)| (format!("{name}{labels:?}"), *value)).collect()
}

// ---- a node ----

/// The content type and the body.
fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let kind = head.lines().find_map(|line| line.strip_prefix("Content-Type: ")).unwrap();
    (kind.to_owned(), body.to_owned())
}

fn scrape(node: &Node) -> BTreeMap<String, Family> {
    let (kind, page) = get(node.metrics_address(), "/metrics");
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    parse(&page)
}

/// The value of a name with these labels: of all cores together.
fn value(families: &BTreeMap<String, Family>, name: &str, label: Option<(&str, &str)>) -> f64 {
    let found: Vec<f64> = families
        .values()
        .flat_map(|family| &family.samples)
        .filter(|sample| {
            let matches = |(name, value): (&str, &str)| {
                sample.1.get(name).is_some_and(|found| found == value)
            };
            sample.0 == name && label.is_none_or(matches)
        })
        .map(|sample| sample.2)
        .collect();
    assert!(!found.is_empty(), "no sample of {name} {label:?}");
    found.iter().sum()
}

/// Scrapes until that is so: what a loop counts is shown within a tenth of a second.
fn scrape_until(
    node: &Node,
    holds: impl Fn(&BTreeMap<String, Family>) -> bool,
) -> BTreeMap<String, Family> {
    for _ in 0..200 {
        let families = scrape(node);
        if holds(&families) {
            return families;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    panic!("it isn't shown:\n{}", get(node.metrics_address(), "/metrics").1);
}

fn put(key: &str) -> Put {
    Put { key: key.to_owned().into(), value: "v".into(), ..Put::default() }
}

/// Puts and gets so many keys, some at a time.
fn load(address: &str, count: usize) -> Connection {
    let mut connection = Connection::connect(address, WAIT).unwrap();
    for number in 0..count {
        let key = number.to_string();
        connection.send("m", Operation::Put(put(&key))).unwrap();
        connection.send("m", Operation::Get { key: key.into() }).unwrap();
        while connection.open_count() > 20 {
            connection.receive().unwrap();
        }
    }
    while connection.open_count() > 0 {
        connection.receive().unwrap();
    }
    connection
}

#[test]
fn counters_of_a_node_under_load_never_go_back_and_add_up() {
    const COUNT: usize = 1_000;
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), &ARGUMENTS);
    assert_eq!(get(node.metrics_address(), "/healthz").1, "ready\n");
    let address = node.address().to_owned();
    let load = std::thread::spawn(move || load(&address, COUNT));
    let mut before = growing(&scrape(&node));
    loop {
        let finished = load.is_finished();
        let now = growing(&scrape(&node));
        assert!(now.keys().eq(before.keys()), "a node shows the same metrics all its life");
        for (name, value) in &now {
            assert!(*value >= before[name], "{name} went from {} to {value}", before[name]);
        }
        before = now;
        if finished {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    let connection = load.join().unwrap();
    let count = f64::from(u32::try_from(COUNT).unwrap());
    let families = scrape_until(&node, |families| {
        value(families, "p2pmap_answers_total", None) >= 2.0 * count
            && value(families, "p2pmap_map_entries", None) >= count
            && value(families, "p2pmap_read_duration_seconds_count", None) >= count
            && value(families, "p2pmap_requests_in_flight", None) < 0.5
    });
    for (name, expected) in [
        ("p2pmap_answers_total", 2.0 * count),
        ("p2pmap_frames_total", 2.0 * count),
        ("p2pmap_commands_total", count),
        ("p2pmap_queries_total", count),
        ("p2pmap_reads_total", count),
        ("p2pmap_connections", 1.0),
        ("p2pmap_requests_in_flight", 0.0),
        ("p2pmap_map_entries", count),
        ("p2pmap_ready", 1.0),
        ("p2pmap_read_duration_seconds_count", count),
        ("p2pmap_commit_duration_seconds_count", count),
        ("p2pmap_pass_frames_sum", 2.0 * count),
    ] {
        let found = value(&families, name, None);
        assert!((found - expected).abs() < 0.5, "{name} is {found}, expected {expected}");
    }
    let shown = |name| value(&families, name, None);
    let writes = shown("p2pmap_log_writes_total");
    assert!(
        writes > 0.0 && (shown("p2pmap_log_write_duration_seconds_count") - writes).abs() < 0.5
    );
    assert!(shown("p2pmap_turn_duration_seconds_count") <= shown("p2pmap_turns_busy_total"));
    assert!(shown("p2pmap_passes_total") <= shown("p2pmap_frames_total"));
    assert!(shown("p2pmap_log_used_bytes") <= shown("p2pmap_log_max_bytes"));
    assert!(shown("p2pmap_stalls_off_core_total") <= shown("p2pmap_stalls_total"));
    let normal = value(&families, "p2pmap_partitions", Some(("status", "normal")));
    assert!((normal - 64.0).abs() < 0.5, "{normal}");
    drop(connection);
}

#[test]
fn what_is_refused_and_discarded_is_counted_by_reason() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), &ARGUMENTS);
    let http1 = Some(("reason", "http1"));
    assert!(value(&scrape(&node), "p2pmap_drops_total", http1) < 0.5);
    let mut stream = TcpStream::connect(node.address()).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    scrape_until(&node, |families| value(families, "p2pmap_drops_total", http1) > 0.5);
    let mut client = Client::connect(node.address(), WAIT).unwrap();
    client.get("a#b#c", "k").unwrap_err();
    scrape_until(&node, |families| value(families, "p2pmap_requests_refused_total", None) > 0.5);
}

#[test]
fn restarted_node_shows_the_entries_that_its_log_held() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), &ARGUMENTS);
    let mut client = Client::connect(node.address(), WAIT).unwrap();
    for number in 0..10 {
        client.put("m", put(&number.to_string())).unwrap();
    }
    assert_eq!(node.terminate().code(), Some(0));
    let node = Node::start(folder.path(), &ARGUMENTS);
    let families =
        scrape_until(&node, |families| value(families, "p2pmap_map_entries", None) > 9.5);
    assert!((value(&families, "p2pmap_map_entry_bytes", None) - 20.0).abs() < 0.5);
    // Without a log of its own there is nothing to wait for.
    assert!(value(&families, "p2pmap_commands_total", None) < 0.5);
}

#[test]
fn address_of_another_is_refused_before_anything_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = support::serve(folder.path(), &["--metrics-listen", &address]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(11));
    let said = String::from_utf8(output.stderr).unwrap();
    let line = said.lines().last().unwrap();
    assert!(line.contains(&address) && line.contains("for metrics"), "{line}");
}
