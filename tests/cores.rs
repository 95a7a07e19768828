//! A node on two cores: whichever of them has a connection and whichever owns a key, clients see
//! one node. On a machine with one core the tests say so and run on that one.
#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]
#![allow(clippy::print_stderr, reason = "a test that can't do all that it should says so")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use p2pmap::base::ids::ShardId;
use p2pmap::base::prng::Prng;
use p2pmap::base::shards::ShardMap;
use p2pmap::client::Client;
use p2pmap::client::connection::{Connection, Operation};
use p2pmap::node::placement;
use p2pmap::proto::atomix::map as atomix;
use p2pmap::proto::atomix::map::message::Message as Kind;
use p2pmap::proto::p2pmap::v1::result::Outcome;
use p2pmap::proto::p2pmap::v1::{self, command};
use p2pmap::proto::p2pmap::v1::{Entries, Put, Remove};
use p2pmap::wire::route::Router;
use prost::Message as _;
use rustix::process::Signal;
use support::{Ended, Node};
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

const MAP: &str = "cores";
const PARTITION_COUNT: u32 = 64;
const WAIT: Duration = Duration::from_secs(60);

/// The first two cores that there are, or the only one.
fn cores() -> String {
    let available = placement::available();
    let cores: Vec<String> = available.numbers().iter().take(2).map(ToString::to_string).collect();
    if cores.len() < 2 {
        eprintln!("this machine has one core: what crosses cores is not tested here");
    }
    cores.join(",")
}

fn has_two_cores() -> bool {
    placement::available().count() >= 2
}

fn start(data_dir: &Path, arguments: &[&str]) -> Node {
    let cores = cores();
    let mut all = vec!["--cores", &cores, "--segment-size", "8MiB"];
    all.extend(arguments);
    Node::start(data_dir, &all)
}

fn connect(node: &Node) -> Connection {
    Connection::connect(node.address(), WAIT).unwrap()
}

/// Which of two shards owns a key.
fn owner_of(key: &[u8]) -> ShardId {
    let partition = Router::new(PARTITION_COUNT).partition_of_key(key);
    ShardMap::new(PARTITION_COUNT, 2).owner(partition)
}

fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Operation {
    Operation::Put(Put { key: key.into(), value: value.into(), ..Put::default() })
}

fn get(key: impl Into<Bytes>) -> Operation {
    Operation::Get { key: key.into() }
}

/// Ends a node and holds it to having ended well. Returns its log.
fn end(node: Node) -> Ended {
    let ended = node.end();
    assert_eq!(ended.status.code(), Some(0), "{:#?}", ended.log);
    ended
}

/// Keeps `depth` writes and reads under way on keys of its own and checks each answer: writes of
/// a key take effect in the order in which they were sent, and reads show what was answered.
fn load(node: &Node, name: usize, depth: usize, count: usize) {
    let mut connection = connect(node);
    let mut prng = Prng::new(u64::try_from(name).unwrap(), "load");
    let keys: Vec<Bytes> = (0..20).map(|key| format!("{name}/{key}").into()).collect();
    let owners: BTreeSet<ShardId> = keys.iter().map(|key| owner_of(key)).collect();
    assert_eq!(owners.len(), 2, "keys of both shards");
    // By correlation: the key, and what was written, or the version that the read must reflect.
    let mut under_way: BTreeMap<u64, (usize, Result<u64, u64>)> = BTreeMap::new();
    let mut sent: Vec<u64> = vec![0; keys.len()];
    let mut answered: Vec<(u64, u64)> = vec![(0, 0); keys.len()];
    let value = |number: u64| Bytes::from(format!("{name}:{number}"));
    for step in 0..count + depth {
        if step >= depth || under_way.len() == depth {
            let answer = connection.receive().unwrap();
            let (key, asked) = under_way.remove(&answer.correlation).expect("answered once");
            match (asked, answer.outcome) {
                (Ok(number), Outcome::Written(written)) => {
                    let (last_number, last_version) = answered[key];
                    assert!(number > last_number, "answers to writes of a key are in order");
                    assert!(written.version > last_version, "and so are the writes");
                    answered[key] = (number, written.version);
                }
                (Err(at_least), Outcome::Found(found)) => {
                    let version = found.entry.as_ref().map_or(0, |entry| entry.version);
                    assert!(version >= at_least, "a read shows what was answered before it");
                    if let Some(entry) = found.entry {
                        let text = String::from_utf8(entry.value.to_vec()).unwrap();
                        let (owner, number) = text.split_once(':').unwrap();
                        assert_eq!(owner, name.to_string());
                        assert!(number.parse::<u64>().unwrap() <= sent[key]);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        if step < count {
            let key = usize::try_from(prng.below(20)).unwrap();
            if prng.one_in(2) {
                sent[key] += 1;
                let number = sent[key];
                let correlation = connection.send(MAP, put(keys[key].clone(), value(number)));
                under_way.insert(correlation.unwrap(), (key, Ok(number)));
            } else {
                let correlation = connection.send(MAP, get(keys[key].clone())).unwrap();
                under_way.insert(correlation, (key, Err(answered[key].1)));
            }
        }
    }
    assert!(under_way.is_empty());
}

#[test]
fn fifty_pipelined_connections_read_what_they_wrote_on_both_cores() {
    for idle in ["park", "spin"] {
        let folder = tempfile::tempdir().unwrap();
        let node = start(folder.path(), &["--durability", "async", "--idle", idle]);
        thread::scope(|scope| {
            for name in 0..50 {
                let node = &node;
                scope.spawn(move || load(node, name, 64, 400));
            }
        });
        let ended = end(node);
        if has_two_cores() {
            assert!(ended.counter("forwarded_count") > 0);
            let forwarded = ended.counter("forwarded_count");
            assert_eq!(ended.counter("guests_count"), forwarded, "each arrives once");
            let accepted = ended.counter_by_core("connections_accepted_count");
            // Some end before the last ones come, so it isn't always half of them.
            let shared = accepted.iter().all(|count| (15..=35).contains(count));
            assert!(shared, "both cores have connections: {accepted:?}");
        }
    }
}

#[test]
fn connections_go_to_the_core_with_the_fewest() {
    if !has_two_cores() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), &["--durability", "none"]);
    let mut connections: Vec<Connection> = (0..40).map(|_| connect(&node)).collect();
    for connection in &mut connections {
        connection.send(MAP, get("k")).unwrap();
        connection.receive().unwrap();
    }
    drop(connections);
    let ended = end(node);
    let accepted = ended.counter_by_core("connections_accepted_count");
    assert_eq!(accepted, [20, 20]);
}

/// A frame of a client's command.
fn command_frame(map: &str, message_id: u64, operation: command::Operation) -> Vec<u8> {
    let command =
        v1::Command { map: map.to_owned(), operation: Some(operation), ..v1::Command::default() };
    let value = command.encode_to_vec().into();
    let request = atomix::CommandRequest { message_id, value, ..Default::default() };
    let message = atomix::Message { target: None, message: Some(Kind::Command(request)) };
    let payload = message.encode_to_vec();
    let mut frame = vec![0];
    frame.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend(payload);
    frame
}

/// A clear is asked of every core, a put of one: whoever sends both at once sees them happen in
/// that order.
#[test]
fn put_after_a_clear_of_the_same_connection_is_not_cleared_by_it() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), &["--durability", "none"]);
    // Of both cores, wherever the connections are.
    let mut streams: Vec<TcpStream> =
        (0..2).map(|_| TcpStream::connect(node.address()).unwrap()).collect();
    let mut client = Client::connect(node.address(), WAIT).unwrap();
    for round in 0..100_u32 {
        let map = format!("map {round}");
        let key = Bytes::from(round.to_string());
        for stream in &mut streams {
            let operation = command::Operation::Put(Put {
                key: key.clone(),
                value: "v".into(),
                ..Put::default()
            });
            let mut frames =
                command_frame(&map, 1, command::Operation::Clear(v1::Clear::default()));
            frames.extend(command_frame(&map, 2, operation));
            stream.write_all(&frames).unwrap();
            for _ in 0..2 {
                let mut prefix = [0; 5];
                stream.read_exact(&mut prefix).unwrap();
                let size = u32::from_be_bytes(prefix[1..].try_into().unwrap());
                stream.read_exact(&mut vec![0; usize::try_from(size).unwrap()]).unwrap();
            }
            let found = client.get(&map, key.clone()).unwrap();
            assert!(found.is_some(), "round {round}: the clear came after the put");
        }
    }
    end(node);
}

/// So many requests at once that other shards' credits of the connection run out: those that wait
/// keep their order.
#[test]
fn writes_that_had_to_wait_take_effect_in_the_order_in_which_they_were_sent() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), &["--durability", "none"]);
    let mut connection = connect(&node);
    let keys: Vec<Bytes> = (0..10).map(|key| format!("ordered {key}").into()).collect();
    for round in 0..5 {
        let mut numbers = BTreeMap::new();
        for number in 0..4_000_usize {
            let value = format!("{round} {number}");
            let correlation = connection.send(MAP, put(keys[number % 10].clone(), value)).unwrap();
            numbers.insert(correlation, number);
        }
        let mut versions: Vec<BTreeMap<usize, u64>> = vec![BTreeMap::new(); 10];
        while !numbers.is_empty() {
            let answer = connection.receive().unwrap();
            let number = numbers.remove(&answer.correlation).expect("each is answered once");
            let Outcome::Written(written) = answer.outcome else { panic!("{answer:?}") };
            versions[number % 10].insert(number, written.version);
        }
        for versions in versions {
            assert!(versions.values().is_sorted(), "by number: {versions:?}");
        }
        let correlation = connection.send(MAP, get(keys[9].clone())).unwrap();
        let answer = connection.receive().unwrap();
        assert_eq!(answer.correlation, correlation);
        let Outcome::Found(found) = answer.outcome else { panic!("{answer:?}") };
        assert_eq!(found.entry.unwrap().value, format!("{round} 3999"));
    }
    let ended = end(node);
    if has_two_cores() {
        assert!(ended.counter("deferred_count") > 0, "none had to wait");
    }
}

#[tokio::test]
async fn grpc_stream_that_had_to_wait_is_served_whole_and_in_order() {
    const COUNT: usize = 3_000;
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), &["--durability", "none"]);
    let endpoint = Endpoint::from_shared(format!("http://{}", node.address())).unwrap();
    let mut client = Grpc::new(endpoint.timeout(WAIT).connect().await.unwrap());
    client.ready().await.unwrap();
    let requests = (0..COUNT).map(|number| {
        let operation = command::Operation::Put(Put {
            key: format!("grpc {}", number % 10).into(),
            value: format!("{number}").into(),
            ..Put::default()
        });
        let command =
            v1::Command { map: MAP.into(), operation: Some(operation), ..Default::default() };
        let request = atomix::CommandRequest {
            message_id: u64::try_from(number).unwrap(),
            value: command.encode_to_vec().into(),
            ..Default::default()
        };
        atomix::Message { target: None, message: Some(Kind::Command(request)) }
    });
    let path = PathAndQuery::from_static("/atomix.map.P2PMapService/Connect");
    let codec = ProstCodec::<atomix::Message, atomix::Message>::default();
    let requests = Request::new(tokio_stream::iter(requests.collect::<Vec<_>>()));
    let mut answers = client.streaming(requests, path, codec).await.unwrap().into_inner();
    let mut versions: Vec<BTreeMap<u64, u64>> = vec![BTreeMap::new(); 10];
    while let Some(answer) = answers.message().await.unwrap() {
        let Some(Kind::CommandResponse(answer)) = answer.message else { panic!("{answer:?}") };
        let outcome = v1::Result::decode(answer.value).unwrap().outcome;
        let Some(Outcome::Written(written)) = outcome else { panic!("{outcome:?}") };
        let of_key = &mut versions[usize::try_from(answer.message_id).unwrap() % 10];
        assert_eq!(of_key.insert(answer.message_id, written.version), None, "answered once");
    }
    assert_eq!(versions.iter().map(BTreeMap::len).sum::<usize>(), COUNT);
    assert!(versions.iter().all(|versions| versions.values().is_sorted()), "in order");
    drop(client);
    let ended = end(node);
    if has_two_cores() {
        assert!(ended.counter("deferred_count") > 0, "none had to wait");
    }
}

#[test]
fn values_of_all_sizes_cross_cores_whole() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), &["--durability", "async"]);
    let sizes = [0, 1, 60, 100, 150, 180, 192, 193, 250, 4_096, 65_535, 65_536, 300_000, 1 << 20];
    let values: Vec<(Bytes, Bytes)> = (0_u32..)
        .zip(sizes.iter().cycle().take(4 * sizes.len()))
        .map(|(number, &size)| {
            let fill = u8::try_from(number % 251).unwrap();
            (format!("sized {number}").into(), vec![fill; size].into())
        })
        .collect();
    for _ in 0..2 {
        // From a connection of each core.
        let mut connections = [connect(&node), connect(&node)];
        for connection in &mut connections {
            for (key, value) in &values {
                connection.send(MAP, put(key.clone(), value.clone())).unwrap();
            }
            for _ in &values {
                assert!(matches!(connection.receive().unwrap().outcome, Outcome::Written(_)));
            }
            let gets = values.iter().map(|(key, value)| {
                (connection.send(MAP, get(key.clone())).unwrap(), value.clone())
            });
            let mut asked: BTreeMap<u64, Bytes> = gets.collect();
            while !asked.is_empty() {
                let answer = connection.receive().unwrap();
                let value = asked.remove(&answer.correlation).expect("answered once");
                let Outcome::Found(found) = answer.outcome else { panic!("no entry") };
                assert!(found.entry.unwrap().value == value, "a value of {} bytes", value.len());
            }
        }
    }
    end(node);
}

#[test]
fn whole_maps_are_those_of_all_cores() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), &[]);
    let mut clients: Vec<Client> =
        (0..2).map(|_| Client::connect(node.address(), WAIT).unwrap()).collect();
    let keys: BTreeSet<Bytes> =
        (0..500).map(|key| Bytes::from(format!("whole {key:03}"))).collect();
    let mut writer = connect(&node);
    for key in &keys {
        writer.send(MAP, put(key.clone(), "1234567")).unwrap();
    }
    for _ in &keys {
        assert!(matches!(writer.receive().unwrap().outcome, Outcome::Written(_)));
    }
    for client in &mut clients {
        let size = client.size(MAP).unwrap();
        assert_eq!((size.entries, size.bytes), (500, 500 * 16));
        for limit in [0, 3, 77, 499, 500, 501] {
            let mut found = BTreeSet::new();
            let mut start_after = Bytes::new();
            loop {
                let asked = Entries { limit, start_after, ..Entries::default() };
                let answer = client.entries(MAP, asked).unwrap();
                let before = found.len();
                found.extend(answer.items.into_iter().map(|item| item.key));
                assert!(limit == 0 || found.len() - before <= usize::try_from(limit).unwrap());
                match answer.next {
                    Some(next) => start_after = next,
                    None => break,
                }
            }
            assert_eq!(found, keys, "a limit of {limit}");
        }
        let of_one: u64 =
            (0..PARTITION_COUNT).map(|p| client.size(&format!("{MAP}#{p}")).unwrap().entries).sum();
        assert_eq!(of_one, 500, "partition by partition");
    }
    assert_eq!(clients[1].clear(MAP).unwrap(), 500);
    assert_eq!(clients[0].size(MAP).unwrap().entries, 0);
    assert_eq!(clients[0].clear(MAP).unwrap(), 0);
    end(node);
}

#[test]
fn clients_that_go_in_the_middle_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), &["--durability", "async"]);
    for round in 0..30 {
        let mut connection = connect(&node);
        for number in 0..300 {
            let value = vec![1; if round % 3 == 0 { 20_000 } else { 20 }];
            connection.send(MAP, put(format!("gone {number}"), value)).unwrap();
            connection.send(MAP, get(format!("gone {number}"))).unwrap();
        }
        connection.send(MAP, Operation::Size).unwrap();
        connection.send(MAP, Operation::Entries(Entries::default())).unwrap();
        connection.flush().unwrap();
        for _ in 0..round {
            connection.receive().unwrap();
        }
        // Closing with unread answers resets the connection.
        drop(connection);
    }
    load(&node, 1, 64, 2_000);
    end(node);
}

#[test]
fn nothing_answered_is_lost_when_a_node_of_two_cores_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<Bytes, u64> = BTreeMap::new();
    for round in 0..3_u64 {
        let node = start(folder.path(), &[]);
        let mut client = Client::connect(node.address(), WAIT).unwrap();
        for (key, least) in &acknowledged {
            let entry = client.get(MAP, key.clone()).unwrap().expect("it was acknowledged");
            let number: u64 = String::from_utf8(entry.value.to_vec()).unwrap().parse().unwrap();
            assert!(number >= *least, "{key:?} is {number}, though {least} was acknowledged");
        }
        let mut connection = connect(&node);
        let mut under_way = BTreeMap::new();
        for number in 0..1_500_u64 {
            let key = Bytes::from(format!("kept {}", number % 100));
            let value = round * 1_000_000 + number;
            let sent = connection.send(MAP, put(key.clone(), value.to_string())).unwrap();
            under_way.insert(sent, (key, value));
            if under_way.len() == 64 {
                let answer = connection.receive().unwrap();
                let (key, value) = under_way.remove(&answer.correlation).unwrap();
                assert!(matches!(answer.outcome, Outcome::Written(_)), "{answer:?}");
                acknowledged.insert(key, value);
            }
        }
        // With 63 under way.
        node.kill();
    }
    let node = start(folder.path(), &[]);
    let mut client = Client::connect(node.address(), WAIT).unwrap();
    for (key, least) in &acknowledged {
        let entry = client.get(MAP, key.clone()).unwrap().expect("it was acknowledged");
        let number: u64 = String::from_utf8(entry.value.to_vec()).unwrap().parse().unwrap();
        assert!(number >= *least);
    }
    end(node);
}

/// Writes until the node says no or goes. Returns what was acknowledged.
fn write_until_the_end(address: &str, name: usize, count: &AtomicU64) -> BTreeMap<Bytes, Bytes> {
    let mut acknowledged = BTreeMap::new();
    let mut under_way = BTreeMap::new();
    let mut connection = Connection::connect(address, WAIT).unwrap();
    for number in 0_u64.. {
        let key = Bytes::from(format!("term {name} {}", number % 50));
        let value = Bytes::from(number.to_string());
        let Ok(sent) = connection.send(MAP, put(key.clone(), value.clone())) else { break };
        under_way.insert(sent, (key, value));
        if under_way.len() < 64 {
            continue;
        }
        let Ok(answer) = connection.receive() else { break };
        let (key, value) = under_way.remove(&answer.correlation).expect("answered once");
        match answer.outcome {
            Outcome::Written(_) => {
                acknowledged.insert(key, value);
                count.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Error(error) => assert_eq!(error.message, "the node is going down"),
            other => panic!("{other:?}"),
        }
    }
    acknowledged
}

#[test]
fn node_that_is_told_to_end_under_load_keeps_what_it_answered_and_ends_well() {
    for idle in ["park", "spin"] {
        let folder = tempfile::tempdir().unwrap();
        let node = start(folder.path(), &["--idle", idle]);
        let count = AtomicU64::new(0);
        let address = node.address().to_owned();
        let (acknowledged, ended) = thread::scope(|scope| {
            let (address, count) = (&address, &count);
            let writers: Vec<_> = (0..8)
                .map(|name| scope.spawn(move || write_until_the_end(address, name, count)))
                .collect();
            // Somebody who asks for all of it at the same time.
            let lister = scope.spawn(move || {
                let mut client = Client::connect(address, WAIT).unwrap();
                while client.size(MAP).is_ok() && client.entries(MAP, Entries::default()).is_ok() {}
            });
            while count.load(Ordering::Relaxed) < 1_000 {
                thread::park_timeout(Duration::from_millis(5));
            }
            let ended = end(node);
            lister.join().unwrap();
            let known = writers.into_iter().map(|writer| writer.join().unwrap());
            (
                known.fold(BTreeMap::new(), |mut all, one| {
                    all.extend(one);
                    all
                }),
                ended,
            )
        });
        assert!(!acknowledged.is_empty());
        assert_eq!(ended.line_count("the shard closes"), cores().split(',').count());
        let node = start(folder.path(), &[]);
        let mut client = Client::connect(node.address(), WAIT).unwrap();
        for (key, value) in acknowledged {
            let entry = client.get(MAP, key.clone()).unwrap().expect("it was acknowledged");
            let number = |value: &[u8]| std::str::from_utf8(value).unwrap().parse::<u64>().unwrap();
            assert!(number(&entry.value) >= number(&value), "{key:?}");
        }
        end(node);
    }
}

#[test]
fn idle_node_of_two_cores_ends_at_once_and_removals_cross_cores() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), &[]);
    let mut client = Client::connect(node.address(), WAIT).unwrap();
    for number in 0..20 {
        let key = Bytes::from(format!("removed {number}"));
        client.put(MAP, Put { key: key.clone(), ..Put::default() }).unwrap();
        assert!(client.exists(MAP, key.clone()).unwrap());
        let removed = client.remove(MAP, Remove { key: key.clone(), ..Remove::default() }).unwrap();
        assert!(removed.existed);
        assert!(!client.exists(MAP, key).unwrap());
    }
    drop(client);
    node.signal(Signal::TERM);
    let mut node = node;
    assert_eq!(node.wait().status.code(), Some(0));
}
