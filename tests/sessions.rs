//! Guarantee: a write in a session is executed once and answered alike however often it is sent,
//! also after the node was killed; an entry with a time to live is gone when it is over, and not
//! before, whether the node was running or not.
#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]

mod support;

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use p2pmap::base::ids::{Sequence, SessionId};
use p2pmap::client::Client;
use p2pmap::client::connection::{Connection, Operation};
use p2pmap::client::session::SessionClient;
use p2pmap::map::operation::SessionCall;
use p2pmap::proto::p2pmap::v1::error::Code;
use p2pmap::proto::p2pmap::v1::result::Outcome;
use p2pmap::proto::p2pmap::v1::{Put, Remove};
use p2pmap::wire::route::Router;
use support::Node;

const WAIT: Duration = Duration::from_secs(20);
const SMALL: [&str; 4] = ["--segment-size", "8MiB", "--partitions", "4"];

fn put(key: &str, value: &str) -> Put {
    Put { key: key.to_owned().into(), value: value.to_owned().into(), ..Put::default() }
}

/// The target of the partition that has a key.
fn partition_of(key: &str) -> String {
    format!("#{}", Router::new(4).partition_of_key(key.as_bytes()))
}

fn ask(
    connection: &mut Connection,
    session: Option<SessionCall>,
    target: &str,
    operation: Operation,
) -> Outcome {
    connection.send_in(session, target, operation).unwrap();
    connection.receive().unwrap().outcome
}

fn open(connection: &mut Connection, key: &str, ttl_ms: u64) -> SessionId {
    let operation = Operation::OpenSession { ttl_ms };
    match ask(connection, None, &partition_of(key), operation) {
        Outcome::Session(session) => SessionId(session.session_id),
        other => panic!("no session: {other:?}"),
    }
}

fn call(session: SessionId, sequence: u64) -> Option<SessionCall> {
    Some(SessionCall { session, sequence: Sequence(sequence), ack_below: Sequence(0) })
}

fn code_of(outcome: &Outcome) -> Code {
    match outcome {
        Outcome::Error(error) => error.code(),
        other => panic!("no error: {other:?}"),
    }
}

/// A pause that is part of what is tested: time must pass.
#[allow(clippy::disallowed_methods)]
fn pass(duration: Duration) {
    std::thread::sleep(duration);
}

#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}

#[test]
fn retried_write_is_executed_once_and_answered_alike_also_by_a_restarted_node() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::start(folder.path(), &SMALL);
    let mut connection = Connection::connect(node.address(), WAIT).unwrap();
    let session = open(&mut connection, "k", 0);
    let first = Operation::Put(Put { want_previous: true, ..put("k", "1") });
    let second = Operation::Put(Put { want_previous: true, ..put("k", "2") });
    let remove = Operation::Remove(Remove { key: "{k}absent".into(), ..Remove::default() });
    assert_eq!(partition_of("{k}absent"), partition_of("k"), "one session serves both");
    let answers = [(1, &first), (2, &second), (3, &remove)].map(|(sequence, operation)| {
        ask(&mut connection, call(session, sequence), "m", operation.clone())
    });
    let Outcome::Written(written) = &answers[1] else { panic!("{answers:?}") };
    assert_eq!(written.previous.as_ref().unwrap().value, "1");
    let version = written.version;
    for round in 0..3 {
        if round > 0 {
            node.kill();
            node = Node::start(folder.path(), &SMALL);
        }
        let mut connection = Connection::connect(node.address(), WAIT).unwrap();
        for (sequence, operation, answer) in
            [(2, &second, &answers[1]), (1, &first, &answers[0]), (3, &remove, &answers[2])]
        {
            let again = ask(&mut connection, call(session, sequence), "m", operation.clone());
            assert_eq!(&again, answer, "round {round}, sequence {sequence}");
        }
        let mut client = Client::connect(node.address(), WAIT).unwrap();
        let entry = client.get("m", "k").unwrap().unwrap();
        assert_eq!((entry.version, &entry.value[..]), (version, &b"2"[..]), "round {round}");
    }
    assert_eq!(node.terminate().code(), Some(0));
}

#[test]
fn expired_session_executes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), &SMALL);
    let mut connection = Connection::connect(node.address(), WAIT).unwrap();
    let session = open(&mut connection, "k", 1_000);
    // More than its second, and the one by which the log's time is rounded.
    pass(Duration::from_millis(2_100));
    let outcome = ask(&mut connection, call(session, 1), "m", Operation::Put(put("k", "v")));
    assert_eq!(code_of(&outcome), Code::SessionExpired);
    let keep = ask(&mut connection, call(session, 0), &partition_of("k"), Operation::KeepSession);
    assert_eq!(code_of(&keep), Code::SessionExpired);
    let mut client = Client::connect(node.address(), WAIT).unwrap();
    assert_eq!(client.get("m", "k").unwrap(), None);
}

#[test]
fn sessions_are_of_one_partition_and_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), &SMALL);
    let mut connection = Connection::connect(node.address(), WAIT).unwrap();
    let everywhere = ask(&mut connection, None, "", Operation::OpenSession { ttl_ms: 0 });
    assert_eq!(code_of(&everywhere), Code::InvalidArgument);
    let session = open(&mut connection, "k", 0);
    let clear = ask(&mut connection, call(session, 1), "m", Operation::Clear);
    assert_eq!(code_of(&clear), Code::InvalidArgument);
    let partition = partition_of("k");
    let clear = ask(&mut connection, call(session, 1), &format!("m{partition}"), Operation::Clear);
    assert!(matches!(clear, Outcome::Cleared(_)), "{clear:?}");
    let closed = ask(&mut connection, call(session, 0), &partition, Operation::CloseSession);
    assert!(matches!(closed, Outcome::Session(session) if session.ttl_ms == 0));
    let after = ask(&mut connection, call(session, 2), "m", Operation::Put(put("k", "v")));
    assert_eq!(code_of(&after), Code::SessionExpired);
}

#[test]
fn session_client_goes_on_with_a_node_that_was_killed_and_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::start(folder.path(), &SMALL);
    let address = node.address().to_owned();
    let mut client = SessionClient::new(&address, Duration::from_secs(2), WAIT);
    let mut version = client.put("m", put("k", "0")).unwrap().version;
    for round in 1..4 {
        let value = round.to_string();
        let starting = std::thread::spawn({
            let (path, address) = (folder.path().to_owned(), address.clone());
            move || {
                node.kill();
                Node::start(&path, &[&SMALL[..], &["--listen", &address]].concat())
            }
        });
        // Before, while or after the node is down.
        let compare = Put { want_previous: true, ..put("k", &value) };
        let written = client.put("m", compare).unwrap();
        let previous = written.previous.unwrap();
        assert_eq!((previous.version, previous.value), (version, (round - 1).to_string().into()));
        version = written.version;
        node = starting.join().unwrap();
    }
    let removed = client.remove("m", Remove { key: "k".into(), ..Remove::default() }).unwrap();
    assert!(removed.existed);
    client.close();
    assert_eq!(node.terminate().code(), Some(0));
}

#[test]
fn entries_expire_when_their_time_is_over_and_not_before_also_across_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::start(folder.path(), &SMALL);
    let mut client = Client::connect(node.address(), WAIT).unwrap();
    let begun = now();
    client.put("m", Put { ttl_ms: 3_000, ..put("short", "v") }).unwrap();
    client.put("m", Put { ttl_ms: 600_000, ..put("long", "v") }).unwrap();
    client.put("m", put("for ever", "v")).unwrap();
    client.put("m", Put { keep_ttl: true, ..put("long", "w") }).unwrap();
    let before = client.get("m", "long").unwrap().unwrap();
    assert!((1..=600_000).contains(&before.ttl_ms) && before.value == "w", "{before:?}");
    drop(client);
    node.kill();
    node = Node::start(folder.path(), &SMALL);
    let mut client = Client::connect(node.address(), WAIT).unwrap();
    let after = client.get("m", "long").unwrap().unwrap();
    assert!(after.ttl_ms <= before.ttl_ms && after.ttl_ms > 500_000, "{after:?}");
    assert_eq!(client.get("m", "for ever").unwrap().unwrap().ttl_ms, 0);
    loop {
        let is_present = client.exists("m", "short").unwrap();
        let elapsed = begun.elapsed();
        assert!(is_present || elapsed >= Duration::from_secs(3), "gone after {elapsed:?}");
        if !is_present {
            break;
        }
        assert!(elapsed < Duration::from_secs(8), "still there after {elapsed:?}");
        pass(Duration::from_millis(50));
    }
    // It is removed as well, though nobody writes.
    let patience = now() + WAIT;
    while client.size("m").unwrap().entries > 2 {
        assert!(now() < patience, "an expired entry isn't removed");
        pass(Duration::from_millis(10));
    }
    assert_eq!(node.terminate().code(), Some(0));
}

fn cli(node: &Node, arguments: &[&str]) -> Output {
    let binary = Path::new(env!("CARGO_BIN_EXE_p2pmap"));
    Command::new(binary).args(arguments).args(["--node", node.address()]).output().unwrap()
}

#[test]
fn command_line_sets_keeps_and_shows_times_to_live() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), &SMALL);
    let ttl_ms = || {
        let shown = cli(&node, &["get", "m", "k", "--json"]);
        let object: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
        object.get("ttl_ms").map(|ttl_ms| ttl_ms.as_u64().unwrap())
    };
    for (arguments, expected) in [
        (&["--ttl", "30s"][..], Some(1..=30_000)),
        (&["--keep-ttl", "--retry-for", "10s"], Some(1..=30_000)),
        (&["--ttl", "500h", "--retry-for", "10s"], Some(30_001..=1_800_000_000)),
        (&[], None),
    ] {
        let written = cli(&node, &[&["put", "m", "k", "v"], arguments].concat());
        assert_eq!(written.status.code(), Some(0), "{written:?}");
        let shown = ttl_ms();
        let fits = match (&expected, shown) {
            (Some(range), Some(ttl_ms)) => range.contains(&ttl_ms),
            (None, None) => true,
            _ => false,
        };
        assert!(fits, "{arguments:?}: {shown:?}, not {expected:?}");
    }
    for wrong in
        [&["--ttl", "0s"][..], &["--ttl", "1"], &["--ttl", "1us"], &["--ttl", "9s", "--keep-ttl"]]
    {
        let refused = cli(&node, &[&["put", "m", "k", "v"], wrong].concat());
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    }
}
