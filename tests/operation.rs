//! Guarantee: a cluster of three real nodes can be operated. Nodes are restarted one after the
//! other under load without a failed request, and clients know where to go on.
#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]

mod mini_node;
mod support;

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use p2pmap::base::ids::PartitionId;
use p2pmap::client::cluster::ClusterClient;
use p2pmap::client::connection::{Connection, Operation};
use p2pmap::client::error::ClientError;
use p2pmap::client::session::SessionClient;
use p2pmap::proto::p2pmap::v1::condition::Condition as Wanted;
use p2pmap::proto::p2pmap::v1::result::Outcome;
use p2pmap::proto::p2pmap::v1::{
    Condition, IndexedDigest, MemberAddress, NodeStatus, PartitionStatus, Put,
};
use serde_json::Value;
use support::cluster::{ATTEMPT_COUNT, Cluster, NAMES, PAUSE, WAIT, put};

/// What one client asks for at most.
const REQUEST_COUNT_MAX: u64 = 20_000;

/// Writes a key again and again, each time only if it has the version that the last write gave it,
/// and reads it back. Returns how often, and its last version.
fn write_and_read(cluster: &Addresses, name: &str, stop: &AtomicBool) -> (u64, u64) {
    let mut writer = SessionClient::of_members(cluster.0.clone(), WAIT, 2 * WAIT);
    let mut reader = ClusterClient::new(cluster.0.clone(), 2 * WAIT);
    let mut version = 0;
    for number in 0..REQUEST_COUNT_MAX {
        if stop.load(Ordering::Relaxed) {
            writer.close();
            return (number, version);
        }
        let wanted = match version {
            0 => Wanted::Absent(true),
            version => Wanted::Version(version),
        };
        let condition = Some(Condition { condition: Some(wanted) });
        let value = number.to_string();
        let put = Put { condition, ..put(name, &value) };
        // A write that was done twice would find its own version.
        let written =
            writer.put("m", put).unwrap_or_else(|error| panic!("{name} {number}: {error}"));
        version = written.version;
        let found = reader.get("m", &name.to_owned().into());
        let found = found.unwrap_or_else(|error| panic!("get {name} {number}: {error}"));
        assert_eq!(found.map(|found| (found.version, found.value)), Some((version, value.into())));
    }
    panic!("the restarts take longer than {REQUEST_COUNT_MAX} requests");
}

/// Of the members, as a client is told.
struct Addresses(Vec<String>);

#[test]
fn nodes_are_restarted_one_after_the_other_and_no_request_fails() {
    let mut cluster = Cluster::start(&[]);
    let addresses = Addresses(cluster.addresses.clone());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let names = ["k1", "k2", "k3", "k4"];
        let clients: Vec<_> = names
            .iter()
            .map(|name| scope.spawn(|| write_and_read(&addresses, name, &stop)))
            .collect();
        let stops = StopOnDrop(&stop);
        for place in 0..3 {
            std::thread::park_timeout(Duration::from_millis(300));
            let ended = cluster.stop(place);
            assert_eq!(ended.status.code(), Some(0), "{:#?}", ended.log);
            let retired = "other nodes lead what this one has led";
            let lines: Vec<_> = ended.log.iter().filter(|line| line.contains(retired)).collect();
            assert!(lines.len() == 1 && lines[0].contains("in_time=true"), "{:#?}", ended.log);
            assert!(clients.iter().all(|client| !client.is_finished()), "a client has failed");
            cluster.restart(place);
        }
        drop(stops);
        for client in clients {
            let (count, version) = client.join().unwrap();
            assert!(count > 3 && version > 0, "{count} writes");
        }
    });
    cluster.wait_until_equal();
}

/// Puts a value until it is known to be there. Outside of a session nobody knows what became of a
/// write during which a leader changed, and on a busy machine one changes at any time.
fn put_until_written(client: &mut ClusterClient, value: &str) {
    for _ in 0..ATTEMPT_COUNT {
        match client.put("m", &put("k", value)) {
            Ok(_) => return,
            Err(ClientError::OutcomeUnknown { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it is never known whether {value} is there");
}

#[test]
fn client_goes_on_with_another_member_when_its_own_is_killed() {
    let mut cluster = Cluster::start(&[]);
    let mut client = ClusterClient::new(cluster.addresses.clone(), WAIT);
    put_until_written(&mut client, "before");
    cluster.kill(0);
    // What it had a connection to is gone: a read is made again, of a write nobody knows.
    match client.put("m", &put("k", "unknown")) {
        Ok(_) | Err(ClientError::OutcomeUnknown { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    put_until_written(&mut client, "after");
    let found = client.get("m", &"k".into()).unwrap();
    assert_eq!(found.map(|found| found.value), Some("after".into()));
    let mut writer = SessionClient::of_members(cluster.addresses.clone(), WAIT, 2 * WAIT);
    writer.put("m", put("k", "in a session")).unwrap();
    let found = client.get("m", &"k".into()).unwrap();
    assert_eq!(found.map(|found| found.value), Some("in a session".into()));
}

#[test]
fn nobody_who_listens_is_said_in_time() {
    let addresses = support::cluster::addresses(3);
    let mut client = ClusterClient::new(addresses.clone(), 10 * PAUSE);
    for error in [client.put("m", &put("k", "v")).unwrap_err(), client.size("m").unwrap_err()] {
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    }
    let mut client = SessionClient::of_members(addresses, WAIT, 10 * PAUSE);
    let error = client.put("m", put("k", "v")).unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
}

/// What a command said.
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn p2pmap(nodes: &[String], words: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2pmap"));
    command.args(words).args(["--node", &nodes.join(",")]).stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Lets clients stop however their test ends.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes one key in one partition, many at a time, until told to stop. Returns how often.
fn write_much(address: &str, stop: &AtomicBool) -> u64 {
    const DEPTH: usize = 16;
    let mut connection = Connection::connect(address, WAIT).unwrap();
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        while connection.open_count() < DEPTH {
            connection.send("m", Operation::Put(put("k", "v"))).unwrap();
        }
        let answer = connection.receive().unwrap();
        count += u64::from(matches!(answer.outcome, Outcome::Written(_)));
    }
    count
}

#[test]
fn replicas_are_compared_while_they_are_written_to_and_when_they_stand_still() {
    let mut cluster = Cluster::start(&[]);
    let one = &cluster.addresses[..1];
    let stop = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_much(&cluster.addresses[1], &stop));
        let stops = StopOnDrop(&stop);
        let mut found = 0;
        for _ in 0..ATTEMPT_COUNT {
            let said = p2pmap(one, &["verify", "--json", "--wait", "30s"]);
            assert_eq!(said.code, Some(0), "{} {}", said.stdout, said.stderr);
            let said: Value = serde_json::from_str(&said.stdout).unwrap();
            assert_eq!(said["members"], serde_json::json!(["a", "b", "c"]));
            let partitions = said["partitions"].as_array().unwrap();
            assert_eq!(partitions.len(), 8);
            assert!(partitions.iter().all(|found| found["verdict"] == "equal"), "{said}");
            // At an index at which no member stood still.
            let indexes = partitions.iter().filter_map(|found| found["index"].as_u64());
            found = indexes.max().unwrap();
            if found >= 4_096 && found.is_multiple_of(1_024) {
                break;
            }
        }
        assert!(found >= 4_096 && found.is_multiple_of(1_024), "{found}");
        drop(stops);
        writer.join().unwrap()
    });
    assert!(written > 4_000, "{written}");
    // A node that comes back remembers no digests, but where it stands.
    cluster.kill(2);
    let said = p2pmap(&cluster.addresses[..2], &["verify", "--wait", "1s"]);
    assert_eq!(said.code, Some(1), "{}", said.stdout);
    assert!(said.stdout.contains("c can't be asked: cannot reach "), "{}", said.stdout);
    cluster.restart(2);
    cluster.wait_until_equal();
    let said = p2pmap(&cluster.addresses, &["verify", "--wait", "30s"]);
    assert_eq!(said.stdout, "8 of 8 partitions are equal on a, b, c\n", "{}", said.stderr);
    assert_eq!(said.code, Some(0));
}

/// A member that says of partitions 0 and 1 what it is told to: digests with their indexes.
fn pretender(
    name: &'static str,
    members: &Arc<OnceLock<Vec<SocketAddr>>>,
    digests: [&'static [(u64, u8)]; 2],
) -> SocketAddr {
    let members = Arc::clone(members);
    mini_node::serve_each(move |mut stream| {
        loop {
            let asked = mini_node::read_message(&mut stream)?;
            let members = members.get().unwrap().iter().zip(["x", "y"]);
            let partitions = (0..).zip(digests).map(|(partition, digests)| PartitionStatus {
                partition,
                digests: digests
                    .iter()
                    .map(|(index, digest)| IndexedDigest {
                        index: *index,
                        digest: vec![*digest; 16].into(),
                    })
                    .collect(),
                ..PartitionStatus::default()
            });
            let status = NodeStatus {
                member: name.to_owned(),
                partition_count: 2,
                partitions: partitions.collect(),
                members: members
                    .map(|(at, name)| MemberAddress {
                        name: name.to_owned(),
                        address: at.to_string(),
                    })
                    .collect(),
                ..NodeStatus::default()
            };
            let answer = mini_node::query_response(
                mini_node::correlation(&asked),
                0,
                Outcome::Status(status),
            );
            stream.write_all(&mini_node::frame(&answer))?;
        }
    })
}

#[test]
fn replica_that_differs_is_named_with_partition_index_and_nodes() {
    let members = Arc::new(OnceLock::new());
    let x = pretender("x", &members, [&[(1_024, 1), (1_030, 2)], &[(7, 1)]]);
    let y = pretender("y", &members, [&[(1_024, 1), (1_030, 3)], &[(7, 1)]]);
    members.set(vec![x, y]).unwrap();
    let said = p2pmap(&[x.to_string()], &["verify", "--partitions"]);
    let digest = |byte: &str| byte.repeat(16);
    let line = format!(
        "partition 0: DIFFERENT at index 1030: x have {}, y have {}\npartition 1: equal at index \
         7\n1 of 2 partitions are DIFFERENT on x, y\n",
        digest("02"),
        digest("03")
    );
    assert_eq!((said.code, said.stdout), (Some(1), line), "{}", said.stderr);
}

#[test]
fn what_has_no_index_in_common_is_not_called_equal() {
    let members = Arc::new(OnceLock::new());
    let x = pretender("x", &members, [&[(1, 1)], &[(7, 1)]]);
    let y = pretender("y", &members, [&[(2, 1)], &[(7, 1)]]);
    members.set(vec![x, y]).unwrap();
    let said = p2pmap(&[y.to_string()], &["verify", "--wait", "200ms"]);
    let line = "partition 0: no index in common in time\n1 of 2 partitions are equal on x, y\n";
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), line), "{}", said.stderr);
}

/// Who leads each partition, as one node says.
fn leaders(cluster: &Cluster, place: usize) -> Vec<String> {
    cluster.partitions(place).into_iter().map(|found| found.leader).collect()
}

/// Moves leaders and looks whether they are where they should be: again if a member was silent for
/// so long meanwhile, on a machine with too much to do, that another one was elected.
fn move_leaders(cluster: &Cluster, words: &[&str], has_moved: impl Fn(&str, &[String]) -> bool) {
    let mut last = None;
    for _ in 0..10 {
        let said = p2pmap(&cluster.addresses[2..], words);
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        let to = NAMES.iter().position(|name| said.stdout.starts_with(name)).unwrap();
        let found = leaders(cluster, to);
        if has_moved(&said.stdout, &found) {
            return;
        }
        last = Some((said.stdout, found));
    }
    panic!("{last:?}");
}

#[test]
fn leaders_are_moved_by_command() {
    let mut cluster = Cluster::start(&[]);
    for to in ["c", "a"] {
        move_leaders(&cluster, &["leader", "transfer", "--all", "--to", to], |said, found| {
            said.starts_with(&format!("{to} leads all partitions, "))
                && found.iter().all(|leader| leader == to)
        });
    }
    let one = ["leader", "transfer", "--partition", "3", "--to", "b"];
    move_leaders(&cluster, &one, |said, found| {
        said.starts_with("b leads partition 3") && found[3] == "b"
    });
    move_leaders(&cluster, &one, |said, found| {
        said == "b leads partition 3 already\n" && found[3] == "b"
    });
    cluster.put(0, "k", "v");
    // Who doesn't lead says who does.
    let refused = (0..ATTEMPT_COUNT).find_map(|_| {
        let leader = leaders(&cluster, 0)[3].clone();
        let other = NAMES.iter().position(|name| *name != leader).unwrap();
        cluster.ask(other, |client| match client.transfer_leadership(PartitionId(3), "a") {
            Err(ClientError::Refused(error)) => Ok(Some(error)),
            Ok(_) => Ok(None),
            Err(error) => Err(error),
        })
    });
    let hint = refused.unwrap().hint.unwrap();
    let place = NAMES.iter().position(|name| *name == hint.member).unwrap();
    assert_eq!(hint.address, cluster.addresses[place]);
    for (words, reason) in [
        (["8", "b"], "b: there is no such partition; there are 8, from 0"),
        (["0", "d"], "d: no member has that name; there are a, b, c"),
    ] {
        let [partition, to] = words;
        let words = ["leader", "transfer", "--partition", partition, "--to", to];
        let said = p2pmap(&cluster.addresses, &words);
        assert_eq!((said.code, said.stderr), (Some(2), format!("p2pmap: {reason}\n")));
    }
    cluster.kill(1);
    let words = ["leader", "transfer", "--partition", "0", "--to", "b", "--wait", "1s"];
    let said = p2pmap(&cluster.addresses, &words);
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.starts_with("p2pmap: b: who is to lead doesn't answer"), "{}", said.stderr);
}
