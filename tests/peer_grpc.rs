//! Guarantee: members that speak gRPC to each other are a cluster like any other, also with members
//! that dial with raw frames, and refuse strangers and a wrong secret as clearly.
#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use http::uri::PathAndQuery;
use p2pmap::proto::p2pmap::v1::{Hello, MemberFrame, member_frame};
use support::Node;
use support::cluster::{ATTEMPT_COUNT, Cluster, NAMES, PAUSE};
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

const GRPC: [&str; 2] = ["--peer-protocol", "grpc"];
const CONNECT: PathAndQuery = PathAndQuery::from_static("/p2pmap.v1.MemberService/Connect");
/// No single wait is longer.
const WAIT: Duration = Duration::from_secs(30);

/// What a node's connections to other members are carried by, as its log says.
fn carriers(log: &[String]) -> Vec<&'static str> {
    let connected = log.iter().filter(|line| line.contains("a member is connected"));
    let carrier = |line: &String| match (line.contains("\"grpc\""), line.contains("\"frames\"")) {
        (true, false) => "grpc",
        (false, true) => "frames",
        _ => panic!("what carries it isn't said: {line}"),
    };
    connected.map(carrier).collect()
}

/// Ends all nodes in good order and says what carried their connections.
fn end(mut cluster: Cluster) -> Vec<&'static str> {
    let mut found = Vec::new();
    for place in 0..NAMES.len() {
        let ended = cluster.stop(place);
        assert_eq!(ended.status.code(), Some(0), "{:#?}", ended.log);
        // Nor is a heartbeat ever kept behind what is long.
        for counter in ["drop_member_malformed", "drop_member_silent"] {
            assert_eq!(ended.counter(counter), 0, "{counter}: {:#?}", ended.log);
        }
        found.extend(carriers(&ended.log));
    }
    found
}

/// `p2pmap verify`, as a person calls it.
fn verify(cluster: &Cluster) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2pmap"));
    let output = command.arg("verify").args(["--node", &cluster.addresses[0]]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}{failed}");
}

#[test]
fn any_node_may_be_killed_and_catches_up_when_it_comes_back() {
    let mut cluster = Cluster::start(&GRPC);
    // Longer than what HTTP/2's windows take, so that the bulk lane has to wait for them.
    let long = |round: usize| format!("{round}").repeat(700_000);
    for victim in 0..3 {
        let others: Vec<usize> = (0..3).filter(|place| *place != victim).collect();
        for number in 0..8 {
            cluster.put(victim, &format!("k{number}"), &format!("before {victim}"));
            let found = cluster.get(others[0], &format!("k{number}"));
            assert_eq!(found, Some(format!("before {victim}")));
        }
        cluster.kill(victim);
        for number in 0..8 {
            let key = format!("k{number}");
            assert_eq!(cluster.get(others[0], &key), Some(format!("before {victim}")), "LOST");
            cluster.put(others[1], &key, &format!("without {victim}"));
        }
        for number in 0..3 {
            cluster.put(others[0], &format!("long {number}"), &long(victim));
        }
        cluster.restart(victim);
        cluster.wait_until_equal();
        for number in 0..8 {
            let found = cluster.get(victim, &format!("k{number}"));
            assert_eq!(found, Some(format!("without {victim}")));
        }
        for number in 0..3 {
            let found = cluster.get(victim, &format!("long {number}"));
            assert!(found == Some(long(victim)), "long {number}");
        }
        verify(&cluster);
    }
    let carriers = end(cluster);
    assert!(carriers.len() >= 4 && carriers.iter().all(|by| *by == "grpc"), "{carriers:?}");
}

#[test]
fn members_change_to_grpc_one_by_one_and_are_one_cluster_all_the_while() {
    let mut cluster = Cluster::start(&[]);
    cluster.put(0, "k", "frames");
    cluster.more = GRPC.to_vec();
    for place in [2, 0, 1] {
        let ended = cluster.stop(place);
        assert!(carriers(&ended.log).contains(&"frames"), "{:#?}", ended.log);
        cluster.restart(place);
        let value = format!("since {place}");
        cluster.put(place, "k", &value);
        for other in 0..3 {
            assert_eq!(cluster.get(other, "k"), Some(value.clone()));
        }
        cluster.wait_until_equal();
    }
    verify(&cluster);
    // The last one that was started has dialled one, and was dialled by one.
    let ended = cluster.stop(1);
    let carriers = carriers(&ended.log);
    assert!(carriers.len() >= 2 && carriers.iter().all(|by| *by == "grpc"), "{carriers:?}");
}

#[test]
fn lanes_go_to_the_cores_that_they_are_for() {
    if p2pmap::node::placement::available().count() < 2 {
        return;
    }
    let mut cluster = Cluster::start(&GRPC);
    cluster.put(0, "before", "v");
    // The last `--cores` would be a second one. `a` dials `b`, and both dial `c`.
    for place in [1, 2] {
        cluster.kill(place);
        let data_dir = cluster.folder.path().join(NAMES[place]);
        let name = ["--node-id", NAMES[place], "--members", &cluster.members, "--partitions", "8"];
        let more = ["--listen", &cluster.addresses[place], "--segment-size", "8MiB"];
        let arguments = [&name[..], &more, &GRPC, &["--cores", "0-1"]].concat();
        cluster.nodes[place] = Some(Node::run(support::serve(&data_dir, &arguments)));
        for number in 0..16 {
            cluster.put(number % 3, &format!("k{number}"), "v");
            let found = cluster.get((number + 1) % 3, &format!("k{number}"));
            assert_eq!(found.as_deref(), Some("v"));
        }
        cluster.wait_until_equal();
    }
    verify(&cluster);
    let ended = cluster.stop(2);
    assert!(ended.counter("handed_over_count") > 0, "{:#?}", ended.log);
    assert!(carriers(&ended.log).iter().all(|by| *by == "grpc"), "{:#?}", ended.log);
}

/// The lines with `text` in what a node logs that doesn't become ready, once it has said it.
fn refusals(cluster: &Cluster, folder: &Path, place: usize, more: &[&str]) -> Vec<String> {
    let text = "by the cluster's secret";
    let name = ["--node-id", NAMES[place], "--members", &cluster.members, "--partitions", "8"];
    let rest = ["--listen", &cluster.addresses[place], "--segment-size", "8MiB", "--cores", "0"];
    let path = folder.join("log");
    let arguments = [&name[..], &rest, &GRPC, more].concat();
    let mut command = support::serve(&folder.join("data"), &arguments);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&path).unwrap())
        .spawn()
        .unwrap();
    let lines = || -> Vec<String> {
        let log = std::fs::read_to_string(&path).unwrap();
        log.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    };
    let mut attempts = 0..ATTEMPT_COUNT;
    while lines().is_empty() && attempts.next().is_some() {
        std::thread::park_timeout(PAUSE);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    lines()
}

#[test]
fn wrong_secret_and_none_are_refused_by_both_sides_in_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let secret = |name: &str, text: &str| -> &'static str {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Box::leak(path.display().to_string().into_boxed_str())
    };
    let right = secret("right", "0123456789abcdef0123456789abcdef\n");
    let wrong = secret("wrong", "0123456789abcdef0123456789abcdeF\n");
    let mut cluster = Cluster::start(&[&GRPC[..], &["--secret-file", right]].concat());
    cluster.put(0, "k", "v");
    assert_eq!(cluster.get(1, "k").as_deref(), Some("v"));
    // `a` dials both others, `c` is dialled by both.
    for (place, other) in [(0, 1), (2, 1)] {
        cluster.kill(place);
        for (name, more) in [("wrong", &["--secret-file", wrong][..]), ("none", &[])] {
            let folder = folder.path().join(format!("{place} {name}"));
            std::fs::create_dir(&folder).unwrap();
            let lines = refusals(&cluster, &folder, place, more);
            assert!(!lines.is_empty(), "{name} secret of {place}: nothing is said");
            assert!(lines.iter().all(|line| line.contains("ERROR")), "{lines:#?}");
        }
        let log = cluster.nodes[other].as_ref().unwrap().log();
        let said = |line: &String| line.contains("ERROR") && line.contains("cluster's secret");
        assert!(log.iter().any(said), "{log:#?}");
        cluster.restart(place);
        cluster.put(place, "k", "again");
        assert_eq!(cluster.get(other, "k").as_deref(), Some("again"));
    }
    cluster.wait_until_equal();
}

/// Calls a node as a member would, with a library that knows nothing but the proto: what it
/// answers, and how the call ends.
async fn call(address: &str, frame: member_frame::Frame) -> (Vec<MemberFrame>, Status) {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut grpc = Grpc::new(endpoint.timeout(WAIT).connect().await.unwrap());
    grpc.ready().await.unwrap();
    let said = tokio_stream::iter([MemberFrame { frame: Some(frame) }]);
    // It says nothing more, but doesn't hang up.
    let said = tokio_stream::StreamExt::chain(said, tokio_stream::pending());
    let codec = ProstCodec::<MemberFrame, MemberFrame>::default();
    let mut answers = Vec::new();
    let mut stream = match grpc.streaming(Request::new(said), CONNECT, codec).await {
        Ok(response) => response.into_inner(),
        Err(status) => return (answers, status),
    };
    loop {
        match stream.message().await {
            Ok(Some(answer)) => answers.push(answer),
            Ok(None) => return (answers, Status::ok("")),
            Err(status) => return (answers, status),
        }
    }
}

#[test]
fn strangers_that_call_as_members_are_told_why_not() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let cluster = Cluster::start(&GRPC);
    let hello = |cluster: &str| {
        let hello = Hello { cluster: cluster.to_owned(), ..Hello::default() };
        member_frame::Frame::Hello(hello)
    };
    let address = &cluster.addresses[0];
    let (answers, status) = runtime.block_on(call(address, hello("another")));
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(status.message().contains("hello.cluster"), "{status:?}");
    let is_message =
        |answer: &MemberFrame| matches!(answer.frame, Some(member_frame::Frame::Message(_)));
    assert!(answers.len() == 1 && is_message(&answers[0]), "{answers:?}");
    let (_, status) = runtime.block_on(call(address, hello("p2pmap")));
    assert!(status.message().contains("hello."), "{status:?}");
    // A question before any greeting, and what is no frame at all: cut.
    for frame in [member_frame::Frame::Ping(vec![0; 9].into()), hello(&"x".repeat(4_000_000))] {
        let (answers, status) = runtime.block_on(call(address, frame));
        assert!(answers.len() <= 1 && status.code() != Code::Ok, "{answers:?} {status:?}");
    }
    // They have done no harm.
    cluster.put(0, "k", "v");
    assert_eq!(cluster.get(1, "k").as_deref(), Some("v"));
    let folder = tempfile::tempdir().unwrap();
    let alone = Node::start(&folder.path().join("data"), &["--durability", "none"]);
    let (answers, status) = runtime.block_on(call(alone.address(), hello("p2pmap")));
    assert!(answers.is_empty());
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    assert!(status.message().contains("no other members"), "{status:?}");
}
