//! A node as whoever runs it sees it: why it didn't start, in one line and an exit code, and how it
//! ends.
#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use p2pmap::client::Client;
use p2pmap::client::connection::{Answer, Connection, Operation};
use p2pmap::proto::p2pmap::v1::Put;
use p2pmap::proto::p2pmap::v1::result::Outcome;
use p2pmap::runtime::fatal::FatalReason;
use rustix::process::Signal;
use support::Node;

const WAIT: Duration = Duration::from_secs(10);
const SMALL: [&str; 2] = ["--segment-size", "8MiB"];

/// What a node that doesn't start says last, and its exit code.
fn refusal(data_dir: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = support::serve(data_dir, &[&SMALL, arguments].concat());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let status = support::wait_at_most(&mut child, WAIT);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let mut errors = said.lines().filter(|line| line.starts_with("p2pmap: "));
    let error = errors.next().expect("it says why").to_owned();
    assert_eq!(errors.next(), None, "one line is enough:\n{said}");
    (status.code().expect("it exits by itself"), error)
}

fn put(key: &str, value: &str) -> Put {
    Put { key: key.to_owned().into(), value: value.to_owned().into(), ..Put::default() }
}

#[test]
fn port_of_another_node_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(&folder.path().join("a"), &SMALL);
    let (code, line) = refusal(&folder.path().join("b"), &["--listen", node.address()]);
    assert_eq!(code, i32::from(FatalReason::Listen.exit_code()));
    assert!(line.contains(node.address()) && line.contains("another process"), "{line}");
    assert_eq!(node.terminate().code(), Some(0));
}

#[test]
fn directory_of_a_running_node_is_refused_and_free_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), &SMALL);
    let mut client = Client::connect(node.address(), WAIT).unwrap();
    client.put("m", put("k", "v")).unwrap();
    let (code, line) = refusal(folder.path(), &[]);
    assert_eq!(code, i32::from(FatalReason::DataDirectory.exit_code()));
    assert!(line.contains("is in use by a running process"), "{line}");
    client.put("m", put("k", "w")).unwrap();
    drop(client);
    assert_eq!(node.terminate().code(), Some(0));
    let node = Node::start(folder.path(), &SMALL);
    let mut client = Client::connect(node.address(), WAIT).unwrap();
    assert_eq!(client.get("m", "k").unwrap().unwrap().value, "w");
}

#[test]
fn directory_of_another_cluster_or_shape_is_refused_by_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Node::start(folder.path(), &SMALL).terminate().code(), Some(0));
    for (arguments, reason) in [
        (["--cluster", "other"], "has cluster "),
        (["--node-id", "other"], "has member "),
        (["--partitions", "128"], "has number of partitions 64, but 128"),
    ] {
        let (code, line) = refusal(folder.path(), &arguments);
        assert_eq!(code, i32::from(FatalReason::DataDirectory.exit_code()));
        assert!(line.contains(reason), "{line}");
    }
}

#[test]
fn directory_that_cannot_be_made_or_must_exist_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "no directory").unwrap();
    let absent = folder.path().join("absent");
    for (path, arguments, reason) in [
        (&file, &[][..], "file"),
        (&file.join("below"), &[], "file"),
        (&"/proc/no-such-directory".into(), &[], "/proc/no-such-directory"),
        (&absent, &["--must-exist"], "--must-exist forbids to make one"),
    ] {
        let (code, line) = refusal(path, arguments);
        assert_eq!(code, i32::from(FatalReason::DataDirectory.exit_code()), "{line}");
        assert!(line.contains(reason), "{line}");
    }
    assert!(!absent.exists(), "nothing was made");
}

#[test]
fn killed_node_starts_again_at_once_on_the_same_port() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::start(folder.path(), &SMALL);
    let address = node.address().to_owned();
    for round in 0..3 {
        let mut client = Client::connect(&address, WAIT).unwrap();
        client.put("m", put("k", &round.to_string())).unwrap();
        node.kill();
        node = Node::start(folder.path(), &["--listen", &address]);
        let mut client = Client::connect(&address, WAIT).unwrap();
        assert_eq!(client.get("m", "k").unwrap().unwrap().value, round.to_string());
    }
    assert_eq!(node.terminate().code(), Some(0));
}

#[test]
fn node_asked_to_end_under_load_exits_with_0_and_keeps_what_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), &SMALL);
    let mut connection = Connection::connect(node.address(), WAIT).unwrap();
    let mut answers = Vec::new();
    let load = std::thread::spawn(move || {
        for number in 0.. {
            let key = number.to_string();
            if connection.send("m", Operation::Put(put(&key, &key))).is_err() {
                break;
            }
            if connection.open_count() < 64 {
                continue;
            }
            match connection.receive() {
                Ok(answer) => answers.push(answer),
                Err(_) => break,
            }
        }
        // Answers that were under way still arrive.
        while let Ok(answer) = connection.receive() {
            answers.push(answer);
        }
        let written = |answer: &Answer| matches!(answer.outcome, Outcome::Written(_));
        let acknowledged = answers.iter().filter(|answer| written(answer));
        let acknowledged: Vec<u64> = acknowledged.map(|answer| answer.correlation).collect();
        acknowledged
    });
    std::thread::park_timeout(Duration::from_millis(300));
    assert_eq!(node.terminate().code(), Some(0));
    let acknowledged = load.join().unwrap();
    assert!(acknowledged.len() > 64, "the load got through");
    let node = Node::start(folder.path(), &SMALL);
    let mut client = Client::connect(node.address(), WAIT).unwrap();
    for correlation in &acknowledged {
        let key = (correlation - 1).to_string();
        let found = client.get("m", key.clone()).unwrap();
        assert_eq!(found.map(|found| found.value), Some(key.into()), "LOST");
    }
}

#[test]
fn node_that_loses_its_directory_ends_with_the_reason_and_keeps_what_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let arguments = [&SMALL[..], &["--cores", "0"]].concat();
    let mut node = Node::start(&data_dir, &arguments);
    let shard = data_dir.join("gen-1/shard-0");
    let away = folder.path().join("away");
    while !shard.join("000000000002.log").exists() {
        std::thread::park_timeout(Duration::from_millis(10));
    }
    std::fs::rename(&shard, &away).unwrap();
    let mut client = Client::connect(node.address(), WAIT).unwrap();
    // More than a segment: one more is wanted, and can't be made.
    let value = "v".repeat(1 << 20);
    let mut acknowledged = 0;
    while acknowledged < 10 && client.put("m", put(&acknowledged.to_string(), &value)).is_ok() {
        acknowledged += 1;
    }
    assert!(acknowledged > 6, "what is prepared is written");
    // It is asked for once a second, as it may be something that passes.
    let ended = node.wait_at_most(Duration::from_secs(120));
    let code = FatalReason::SegmentPreparation.exit_code();
    assert_eq!(ended.status.code(), Some(i32::from(code)), "{}", ended.log.join("\n"));
    let line = ended.log.iter().find(|line| line.starts_with("p2pmap: ")).unwrap();
    let path = shard.display().to_string();
    assert!(line.contains("segments can't be prepared") && line.contains(&path), "{line}");
    std::fs::rename(&away, &shard).unwrap();
    let node = Node::start(&data_dir, &arguments);
    let mut client = Client::connect(node.address(), WAIT).unwrap();
    for key in 0..acknowledged {
        let found = client.get("m", key.to_string()).unwrap();
        assert!(found.is_some_and(|found| found.value == value), "LOST");
    }
}

#[test]
fn node_that_may_lock_too_little_memory_says_so_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let serve = support::serve(folder.path(), &SMALL);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -l 64 && exec \"$@\"", "sh"]);
    command.arg(serve.get_program()).args(serve.get_args());
    let start = move || {
        // Root isn't held to the limit; what it starts without this is. (Whoever isn't root needs
        // no such thing.)
        let lock = rustix::thread::CapabilitySet::IPC_LOCK;
        let _ = rustix::thread::remove_capability_from_bounding_set(lock);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    // A thread of its own: what it gives up others keep.
    let mut child = std::thread::spawn(start).join().unwrap();
    let status = support::wait_at_most(&mut child, WAIT);
    let said = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
    assert_eq!(status.code(), Some(i32::from(FatalReason::Executor.exit_code())), "{said}");
    let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("p2pmap: ")).collect();
    assert_eq!(errors.len(), 1, "{said}");
    assert!(errors[0].contains("ulimit -l") && errors[0].contains("check-host"), "{said}");
}

#[test]
fn second_signal_ends_a_node_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::start(folder.path(), &SMALL);
    node.signal(Signal::INT);
    node.signal(Signal::INT);
    // 0, if it was done before the second one came.
    let code = node.wait().status.code();
    assert!(matches!(code, Some(0 | 130)), "{code:?}");
}
