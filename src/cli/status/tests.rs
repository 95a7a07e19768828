//! Reports made of two answers.

use serde_json::Value;

use super::*;
use crate::client::error::ClientError;
use crate::proto::p2pmap::v1::partition_status::Activity;
use crate::proto::p2pmap::v1::{MemberAddress, PartitionStatus};

fn answer(uptime_ms: u64, answers: u64) -> NodeStatus {
    let shard = |shard| ShardStatus {
        shard,
        core: shard + 2,
        connections: 100_000,
        requests_in_flight: 65_536,
        answers,
        commands: answers / 2,
        queries: answers / 2,
        log_used_bytes: 63 << 30,
        log_max_bytes: 64 << 30,
        log_client_room_bytes: 1 << 20,
        map_used_bytes: 999 << 20,
        entries: 123_456_789,
        stalls: 1_007,
        stalls_off_core: 1_000,
        ..ShardStatus::default()
    };
    let partition = |partition| PartitionStatus {
        partition,
        shard: partition / 32,
        activity: Activity::Normal.into(),
        term: 1_234,
        last: 1_234_567_890_123,
        sync_point: 1_234_567_890_123,
        checkpoint: 1_234_567_890_000,
        entries: 123_456_789,
        entry_bytes: 999 << 30,
        leader: "node-1".to_owned(),
        digests: Vec::new(),
    };
    let mut read = Histogram::default();
    read.record_many(80_000, answers);
    let (buckets, counts) =
        read.buckets().map(|(bucket, count)| (u32::try_from(bucket).unwrap(), count)).unzip();
    NodeStatus {
        commit: "0123456789ab".to_owned(),
        version: "0.1.0".to_owned(),
        cluster: "prod-eu-west".to_owned(),
        member: "node-1".to_owned(),
        uptime_ms,
        condition: Condition::Ready.into(),
        durability: "sync".to_owned(),
        idle: "park".to_owned(),
        data_directory: "/var/lib/p2pmap".to_owned(),
        partition_count: 64,
        shards: (0..2).map(shard).collect(),
        partitions: (0..64).map(partition).collect(),
        next_partition: 0,
        distributions: vec![Distribution {
            name: "read".to_owned(),
            sum: read.sum(),
            max: read.max(),
            buckets,
            counts,
        }],
        members: Vec::new(),
    }
}

#[test]
fn rates_and_latencies_are_those_between_the_two_answers() {
    let report = Report::new(answer(10_000, 1_000), answer(12_000, 5_000));
    assert_eq!(report.sample_ms, 2_000);
    let rates = report.rates(&report.now.shards[1]);
    assert_eq!(rates, Rates { answers: 2_000.0, commands: 1_000.0, queries: 1_000.0 });
    let (name, read) = report.distributions().next().unwrap();
    assert_eq!((name, read.count()), ("read", 4_000));
    assert!((80_000..86_000).contains(&read.quantile(500_000)));
}

#[test]
fn node_that_was_restarted_in_between_has_counted_from_its_start() {
    let report = Report::new(answer(10_000, 1_000), answer(500, 50));
    assert_eq!(report.sample_ms, 500);
    assert!((report.rates(&report.now.shards[0]).answers - 100.0).abs() < 1e-9);
}

#[test]
fn figures_that_contradict_each_other_are_no_panic() {
    let mut before = answer(10_000, 5_000);
    before.distributions[0].counts = vec![u64::MAX, 3];
    before.distributions[0].buckets = vec![u32::MAX, 5, 7];
    let mut now = answer(10_000, 10);
    now.shards.truncate(1);
    let report = Report::new(before.clone(), now);
    assert!(table::text(&report).contains("node-1"));
    let report = Report::new(before, answer(10_000, 10));
    assert!(report.rates(&report.now.shards[0]).answers.abs() < 1e-9);
    assert!(!json::object(&report).is_empty());
    let unknown = NodeStatus { condition: 99, ..NodeStatus::default() };
    assert!(table::text(&Report::new(NodeStatus::default(), unknown)).contains("doesn't know"));
}

#[test]
fn tables_of_64_partitions_on_2_shards_fit_120_columns() {
    let text = table::text(&Report::new(answer(10_000, 0), answer(11_000, 5_000_000)));
    for line in text.lines() {
        assert!(line.chars().count() <= 120, "{} columns: {line}", line.chars().count());
        assert_eq!(line.trim_end(), line);
    }
    assert!(text.lines().count() > 64);
    let mut summary = answer(11_000, 5_000_000);
    summary.partitions.clear();
    let text = table::text(&Report::new(answer(10_000, 0), summary));
    assert!(text.lines().count() < 16, "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
}

#[test]
fn what_is_wrong_is_said_below_the_tables() {
    let mut now = answer(11_000, 0);
    assert!(!table::text(&Report::new(NodeStatus::default(), now.clone())).contains('!'));
    now.shards[1].log_client_room_bytes = 0;
    now.shards[0].stands = 3;
    now.partitions[7].activity = Activity::ViewChange.into();
    let text = table::text(&Report::new(NodeStatus::default(), now));
    for warning in [
        "! partitions that can't be written to: 1",
        "! shard 1 refuses writes: its log is full (--log-max)",
        "! shard 0 made no turn for 100 ms, 3 times since the start",
    ] {
        assert!(text.lines().any(|line| line == warning), "{warning} is missing in\n{text}");
    }
}

/// Two nodes of three that see the same partition: `b` is behind, `c` doesn't answer.
fn two_of_three() -> cluster::Nodes {
    let seen = |member: &str, last, activity: Activity| {
        let mut status = answer(11_000, 5_000);
        status.member = member.to_owned();
        status.partitions.truncate(2);
        for partition in &mut status.partitions {
            "a".clone_into(&mut partition.leader);
            (partition.last, partition.term) = (last, 7);
        }
        status.partitions[1].activity = activity.into();
        status.members = [("a", "h:1"), ("b", "h:2"), ("c", "h:3"), ("d", "h:4")]
            .map(|(name, address)| MemberAddress { name: name.into(), address: address.into() })
            .to_vec();
        Ok(status)
    };
    let gone = || Err(ClientError::Closed { node: "h:3".to_owned() });
    let addresses = ["h:1", "h:2", "h:3"].map(str::to_owned).to_vec();
    let before = vec![Ok(answer(10_000, 1_000)), Ok(NodeStatus::default()), gone()];
    let now = vec![seen("a", 105, Activity::Normal), seen("b", 100, Activity::Recovering), gone()];
    cluster::Nodes::new(addresses, before, now).unwrap()
}

#[test]
fn nodes_stand_side_by_side_and_one_that_does_not_answer_is_shown_as_that() {
    let text = two_of_three().text(true);
    let has =
        |words: &[&str]| text.lines().any(|line| line.split_whitespace().eq(words.iter().copied()));
    assert!(text.starts_with("2 of 3 nodes of prod-eu-west are ready, 64 partitions"), "{text}");
    for row in [
        &["a", "h:1", "ready", "11s", "2", "2", "0"][..],
        &["b", "h:2", "ready", "11s", "0", "1", "10"],
        &["c", "h:3", "no", "answer", "-", "-", "-", "-"],
        &[
            "PARTITION",
            "LEADER",
            "TERM",
            "LAST",
            "SYNC",
            "POINT",
            "a",
            "BEHIND",
            "b",
            "BEHIND",
            "c",
            "BEHIND",
        ],
        &["0", "a", "7", "105", "1234567890123", "0", "5", "-"],
        &["1", "a", "7", "105", "1234567890123", "0", "recovering", "-"],
        &["!", "c:", "the", "connection", "to", "h:3", "is", "closed"],
        &["!", "b:", "partitions", "that", "can't", "be", "written", "to:", "1"],
        &["!", "d", "(h:4)", "was", "not", "asked"],
    ] {
        assert!(has(row), "{row:?} is missing in\n{text}");
    }
    assert!(!two_of_three().text(false).contains("PARTITION"));
    assert!(!two_of_three().are_ready());
}

#[test]
fn programs_are_told_of_each_node_and_of_each_partition() {
    let object = Value::Object(two_of_three().object(true));
    let nodes = object["nodes"].as_array().unwrap();
    assert_eq!((&nodes[0]["member"], &nodes[0]["partitions_led"]), (&"a".into(), &2.into()));
    assert_eq!((&nodes[1]["behind"], &nodes[1]["partitions_normal"]), (&10.into(), &1.into()));
    assert_eq!((&nodes[2]["member"], &nodes[2]["address"]), (&"c".into(), &"h:3".into()));
    assert_eq!(nodes[2]["error"], "the connection to h:3 is closed");
    let partition = &object["partitions"][1];
    assert_eq!((&partition["leader"], &partition["last"]), (&"a".into(), &105.into()));
    let member = &partition["members"][1];
    assert_eq!((&member["member"], &member["behind"]), (&"b".into(), &5.into()));
    assert_eq!(member["activity"], "recovering");
    assert!(two_of_three().object(false).get("partitions").is_none());
}

#[test]
fn nodes_of_which_none_answers_are_an_error() {
    let gone = || vec![Err(ClientError::Closed { node: "h:1".to_owned() })];
    let error = cluster::Nodes::new(vec!["h:1".to_owned()], gone(), gone()).unwrap_err();
    assert!(matches!(error, ClientError::Closed { .. }), "{error}");
}
