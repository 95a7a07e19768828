//! Guarantee: whoever asks a node how it stands, over the port that everybody uses, is told: by the
//! client, and by `p2pmap status` for people and for programs.
#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]

mod mini_node;
mod support;

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use p2pmap::client::Client;
use p2pmap::client::connection::{Connection, Operation};
use p2pmap::node::placement;
use p2pmap::proto::p2pmap::v1::node_status::Condition;
use p2pmap::proto::p2pmap::v1::partition_status::Activity;
use p2pmap::proto::p2pmap::v1::result::Outcome;
use p2pmap::proto::p2pmap::v1::{NodeStatus, Put, ShardStatus, Status};
use serde_json::Value;
use support::Node;

const WAIT: Duration = Duration::from_secs(10);
const SMALL: [&str; 2] = ["--segment-size", "8MiB"];

fn put(key: &str) -> Put {
    Put { key: key.to_owned().into(), value: "v".into(), ..Put::default() }
}

/// Asks until that is so: what a core counts is shown within a tenth of a second.
fn status_until(client: &mut Client, holds: impl Fn(&NodeStatus) -> bool) -> NodeStatus {
    for _ in 0..200 {
        let status = client.status(true).unwrap();
        if holds(&status) {
            return status;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    panic!("it isn't shown: {:#?}", client.status(true));
}

/// How many values a distribution has.
fn value_count(status: &NodeStatus, name: &str) -> u64 {
    let found = status.distributions.iter().find(|distribution| distribution.name == name);
    found.unwrap().counts.iter().sum()
}

/// Runs `p2pmap status`.
fn run(node: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2pmap"));
    command.arg("status").args(arguments).env("P2PMAP_NODE", node).env_remove("P2PMAP_TIMEOUT");
    command.stdin(Stdio::null()).output().unwrap()
}

fn text(output: &Output) -> &str {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    std::str::from_utf8(&output.stdout).unwrap()
}

#[test]
fn node_says_what_it_is_and_what_its_partitions_hold() {
    let folder = tempfile::tempdir().unwrap();
    let core = placement::available().numbers()[0].to_string();
    let arguments = [&SMALL[..], &["--partitions", "600", "--cores", &core]].concat();
    let node = Node::start(folder.path(), &arguments);
    let mut client = Client::connect(node.address(), WAIT).unwrap();
    put_and_get_fifty(&mut client);
    let status = status_until(&mut client, |status| {
        let shard = &status.shards[0];
        shard.entries == 50 && shard.answers >= 100 && value_count(status, "read") == 50
    });
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    assert!(!status.commit.is_empty(), "a node says what it was built from, or that it can't");
    assert_eq!((status.cluster.as_str(), status.member.as_str()), ("p2pmap", "node-1"));
    assert_eq!((status.durability.as_str(), status.idle.as_str()), ("sync", "park"));
    assert_eq!(status.data_directory, folder.path().to_str().unwrap());
    assert_eq!(status.condition(), Condition::Ready);
    assert_eq!((status.partition_count, status.shards.len()), (600, 1));
    let shard = &status.shards[0];
    assert_eq!((shard.shard, shard.core.to_string(), shard.connections), (0, core, 1));
    assert_eq!((shard.commands, shard.refusals), (50, 0));
    assert!(shard.log_used_bytes > 0 && shard.log_used_bytes <= shard.log_max_bytes);
    assert!(shard.map_used_bytes > 0 && shard.map_used_bytes <= shard.map_reserved_bytes);
    // More than one answer holds, and all of them in their order.
    assert!(status.partitions.iter().map(|partition| partition.partition).eq(0..600));
    let entries: u64 = status.partitions.iter().map(|partition| partition.entries).sum();
    assert_eq!(entries, 50);
    for partition in &status.partitions {
        assert_eq!(partition.activity(), Activity::Normal);
        assert_eq!((partition.shard, partition.term), (0, 1));
        // Keys were never written twice.
        assert_eq!(partition.last, partition.entries);
        assert!(partition.sync_point <= partition.last);
    }
    assert_eq!((value_count(&status, "read"), value_count(&status, "commit")), (50, 50));
}

#[test]
fn cores_of_a_node_have_together_what_clients_did() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), &SMALL);
    let mut client = Client::connect(node.address(), WAIT).unwrap();
    put_and_get_fifty(&mut client);
    let sum = |status: &NodeStatus, of: fn(&ShardStatus) -> u64| -> u64 {
        status.shards.iter().map(of).sum()
    };
    let status = status_until(&mut client, |status| {
        // Each core shows what it counts in its own time.
        value_count(status, "read") == 50
            && value_count(status, "commit") == 50
            && sum(status, |shard| shard.entries) == 50
            && sum(status, |shard| shard.answers) >= 100
            && sum(status, |shard| shard.commands) == 50
    });
    assert_eq!(status.shards.len(), placement::available().count());
    assert_eq!(sum(&status, |shard| shard.connections), 1);
}

fn put_and_get_fifty(client: &mut Client) {
    for number in 0..50 {
        client.put("m", put(&number.to_string())).unwrap();
        client.get("m", number.to_string()).unwrap();
    }
}

#[test]
fn status_is_answered_among_other_requests_of_its_connection() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), &SMALL);
    let mut connection = Connection::connect(node.address(), WAIT).unwrap();
    let first = connection.send("m", Operation::Put(put("k"))).unwrap();
    let asked = connection.send("", Operation::Status(Status::default())).unwrap();
    let last = connection.send("m", Operation::Get { key: "k".into() }).unwrap();
    let mut answered = Vec::new();
    while connection.open_count() > 0 {
        let answer = connection.receive().unwrap();
        let is_status = matches!(answer.outcome, Outcome::Status(_));
        assert_eq!(is_status, answer.correlation == asked, "{answer:?}");
        assert!(answer.index == 0 || !is_status, "a status reflects no index: {answer:?}");
        answered.push(answer.correlation);
    }
    answered.sort_unstable();
    assert_eq!(answered, [first, asked, last]);
}

#[test]
fn command_prints_tables_and_exits_with_0_when_the_node_is_ready() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), &SMALL);
    let output = run(node.address(), &["--sample", "10ms"]);
    assert_eq!(output.status.code(), Some(0));
    let printed = text(&output);
    assert!(printed.starts_with("node-1 of p2pmap: ready, up "), "{printed}");
    assert!(printed.contains("64 partitions, durability sync, idle park"), "{printed}");
    assert!(printed.lines().any(|line| line.starts_with("SHARD  CORE")), "{printed}");
    assert!(!printed.contains("PARTITION  LEADER"), "{printed}");
    let output = run(node.address(), &["--sample", "0s", "--partitions"]);
    let printed = text(&output);
    assert!(printed.contains("since the start"), "{printed}");
    let rows = printed.lines().filter(|line| line.contains("  normal  "));
    assert_eq!(rows.count(), 64, "{printed}");
    assert!(printed.lines().all(|line| line.chars().count() <= 100), "{printed}");
}

#[test]
fn json_has_the_documented_names_and_merges_back() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), &SMALL);
    let mut client = Client::connect(node.address(), WAIT).unwrap();
    client.put("m", put("k")).unwrap();
    status_until(&mut client, |status| value_count(status, "commit") == 1);
    let output = run(node.address(), &["--json", "--sample", "0s", "--partitions"]);
    let printed = text(&output);
    assert_eq!(printed.lines().count(), 1, "one object");
    let object: Value = serde_json::from_str(printed).unwrap();
    let names = |value: &Value| -> Vec<String> {
        let mut names: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        names.sort_unstable();
        names
    };
    let expected = "cluster commit condition data_directory distributions durability idle \
                    latencies member partition_count partitions sample_ms shards uptime_ms version";
    assert_eq!(names(&object).join(" "), expected);
    let expected = "answers answers_per_second checkpoint_failures checkpoints commands \
                    commands_per_second connections core drops entries entry_bytes \
                    log_client_room_bytes log_max_bytes log_used_bytes map_max_bytes \
                    map_reserved_bytes map_used_bytes queries queries_per_second refusals \
                    requests_in_flight shard sleeping stalls stalls_off_core stands";
    assert_eq!(names(&object["shards"][0]).join(" "), expected);
    let expected = "activity checkpoint entries entry_bytes last leader partition shard sync_point \
                    term";
    assert_eq!(names(&object["partitions"][63]).join(" "), expected);
    assert_eq!(names(&object["latencies"]).join(" "), "commit log_write read turn");
    let expected = "count max_ns p50_ns p90_ns p999_ns p99_ns";
    assert_eq!(names(&object["latencies"]["commit"]).join(" "), expected);
    assert_eq!(object["latencies"]["commit"]["count"], 1);
    assert_eq!(object["latencies"]["read"], Value::Null, "nothing was read");
    let commit = &object["distributions"][1];
    assert_eq!((&commit["name"], &commit["counts"]), (&"commit".into(), &[1].as_slice().into()));
    assert_eq!(commit["sum"], commit["max"], "it is the only one");
}

#[test]
fn node_that_is_none_or_too_old_is_one_line() {
    let nobody = mini_node::nobody().to_string();
    for (node, words) in
        [(nobody.as_str(), "cannot reach"), (&mini_node::start().to_string(), "(UNIMPLEMENTED)")]
    {
        let output = run(node, &[]);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(words), "{said}");
    }
}
