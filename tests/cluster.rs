//! Guarantee: three real nodes on loopback are one cluster. What was acknowledged on one is there
//! on the others, whichever of them is killed, and who comes back catches up.
#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]

mod support;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use p2pmap::client::Client;
use p2pmap::proto::p2pmap::v1::partition_status::Activity;
use rustix::process::Signal;
use support::Node;
use support::cluster::{ATTEMPT_COUNT, Cluster, PAUSE, WAIT};

/// More than a member has for its greeting, and less than a connection for its first bytes.
const GREETING_WAIT: Duration = Duration::from_secs(6);

#[test]
fn what_was_put_on_one_node_is_there_on_the_others() {
    let cluster = Cluster::start(&[]);
    for number in 0..24 {
        cluster.put(number % 3, &format!("k{number}"), &format!("v{number}"));
    }
    for number in 0..24 {
        let expected = Some(format!("v{number}"));
        assert_eq!(cluster.get((number + 1) % 3, &format!("k{number}")), expected);
    }
    assert_eq!(cluster.get(2, "none"), None);
    cluster.wait_until_equal();
    let normal = i32::from(Activity::Normal);
    for place in 0..3 {
        assert!(cluster.partitions(place).iter().all(|found| found.activity == normal));
    }
}

#[test]
fn any_node_may_be_killed_and_catches_up_when_it_comes_back() {
    let mut cluster = Cluster::start(&[]);
    for (round, victim) in [0, 1, 2].into_iter().enumerate() {
        let others: Vec<usize> = (0..3).filter(|place| *place != victim).collect();
        for number in 0..8 {
            cluster.put(victim, &format!("k{number}"), &format!("before {round}"));
        }
        cluster.kill(victim);
        for number in 0..8 {
            let key = format!("k{number}");
            assert_eq!(cluster.get(others[0], &key), Some(format!("before {round}")), "LOST");
            cluster.put(others[1], &key, &format!("without {round}"));
            assert_eq!(cluster.get(others[0], &key), Some(format!("without {round}")));
        }
        cluster.restart(victim);
        cluster.wait_until_equal();
        for number in 0..8 {
            let found = cluster.get(victim, &format!("k{number}"));
            assert_eq!(found, Some(format!("without {round}")));
        }
    }
}

#[test]
fn node_that_hangs_is_noticed_and_taken_back_when_it_goes_on() {
    let cluster = Cluster::start(&[]);
    cluster.put(0, "k", "before");
    let hanging = cluster.nodes[1].as_ref().unwrap();
    hanging.signal(Signal::STOP);
    for number in 0..8 {
        cluster.put(0, &format!("k{number}"), "meanwhile");
        assert_eq!(cluster.get(2, &format!("k{number}")).as_deref(), Some("meanwhile"));
    }
    // Longer than a member may be silent: its connections are cut.
    std::thread::park_timeout(Duration::from_secs(7));
    hanging.signal(Signal::CONT);
    cluster.wait_until_equal();
    assert_eq!(cluster.get(1, "k7").as_deref(), Some("meanwhile"));
}

#[test]
fn members_with_the_same_secret_find_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef\n").unwrap();
    let path: &'static str = Box::leak(secret.display().to_string().into_boxed_str());
    let cluster = Cluster::start(&["--secret-file", path]);
    cluster.put(0, "k", "v");
    assert_eq!(cluster.get(1, "k").as_deref(), Some("v"));
    cluster.wait_until_equal();
}

/// One that is killed and comes back holds what the others do, whatever waits for the disk.
fn killed_node_comes_back_equal(durability: &'static str) {
    let mut cluster = Cluster::start(&["--durability", durability]);
    for (round, victim) in [1, 0].into_iter().enumerate() {
        for number in 0..24 {
            cluster.put(number % 3, &format!("k{number}"), &format!("before {round}"));
        }
        cluster.kill(victim);
        for number in 0..24 {
            let key = format!("k{number}");
            assert_eq!(cluster.get(2, &key), Some(format!("before {round}")), "LOST");
            cluster.put(2, &key, &format!("without {round}"));
        }
        cluster.restart(victim);
        cluster.wait_until_equal();
        cluster.assert_replicas_equal();
        for number in 0..24 {
            let found = cluster.get(victim, &format!("k{number}"));
            assert_eq!(found, Some(format!("without {round}")));
        }
    }
}

#[test]
fn node_that_writes_behind_is_killed_and_comes_back_equal() {
    killed_node_comes_back_equal("async");
}

#[test]
fn node_without_a_log_is_killed_and_comes_back_equal() {
    killed_node_comes_back_equal("none");
}

/// A node that is one of three and doesn't become ready, and what it logs until it says `text`.
fn log_of_lonely(folder: &Path, members: &str, more: &[&str], text: &str) -> String {
    let arguments =
        [&["--members", members, "--partitions", "8", "--segment-size", "8MiB"][..], more].concat();
    let mut command = support::serve(folder, &arguments);
    let mut child = command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let (mut log, mut chunk) = (String::new(), [0; 4_096]);
    // The log ends with the process, and that with the test's patience.
    let pid = rustix::process::Pid::from_child(&child);
    let (told, patience) = std::sync::mpsc::channel::<()>();
    let killer = std::thread::spawn(move || {
        let _ = patience.recv_timeout(Duration::from_secs(30));
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    });
    while !log.contains(text) {
        match stderr.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(size) => log.push_str(&String::from_utf8_lossy(&chunk[..size])),
        }
    }
    told.send(()).unwrap();
    killer.join().unwrap();
    child.wait().unwrap();
    log
}

#[test]
fn members_that_contradict_each_other_say_why_in_one_line() {
    let cluster = Cluster::start(&[]);
    // The third one is killed; in its place comes one that was told something else.
    let mut cluster = cluster;
    cluster.kill(2);
    let folder = tempfile::tempdir().unwrap();
    let listen = cluster.addresses[2].clone();
    let base = ["--node-id", "c", "--listen", &listen, "--cores", "0"];
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef").unwrap();
    let secret = secret.display().to_string();
    for (place, (more, text)) in [
        (vec!["--sequencer", "offset:1"], "hello.configuration_hash"),
        (vec!["--cluster", "another"], "hello.cluster"),
        (vec!["--secret-file", &secret], "by the cluster's secret"),
    ]
    .into_iter()
    .enumerate()
    {
        let data_dir = folder.path().join(place.to_string());
        let arguments = [&base[..], &more].concat();
        let log = log_of_lonely(&data_dir, &cluster.members, &arguments, text);
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(text)).collect();
        assert!(!lines.is_empty(), "{text} isn't said:\n{log}");
        assert!(lines.iter().all(|line| line.contains("ERROR")), "{lines:#?}");
    }
    // Two of three still serve.
    cluster.put(0, "k", "v");
    assert_eq!(cluster.get(1, "k").as_deref(), Some("v"));
}

#[test]
fn strangers_that_speak_as_members_are_cut_and_counted() {
    let mut cluster = Cluster::start(&["--metrics-listen", "127.0.0.1:0"]);
    let address = cluster.addresses[0].clone();
    let hello = |length: u32| [&[2_u8][..], &length.to_be_bytes()].concat();
    // A length of 4 GiB, nonsense, a greeting that ends in the middle, and none at all.
    for (bytes, closes_itself) in [
        (hello(u32::MAX), true),
        ([hello(4), b"none".to_vec()].concat(), true),
        ([hello(1_000), vec![0; 10]].concat(), false),
    ] {
        let mut stranger = TcpStream::connect(&address).unwrap();
        stranger.write_all(&bytes).unwrap();
        if closes_itself {
            stranger.set_read_timeout(Some(WAIT)).unwrap();
            let mut said = Vec::new();
            let _ = stranger.read_to_end(&mut said);
        }
    }
    // Its bytes come in a later turn than the one that accepted it.
    let mut silent = TcpStream::connect(&address).unwrap();
    std::thread::park_timeout(Duration::from_millis(300));
    silent.write_all(&hello(1_000)).unwrap();
    silent.set_read_timeout(Some(GREETING_WAIT)).unwrap();
    match silent.read(&mut [0; 64]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("it waits for no greeting: {other:?}"),
    }
    cluster.put(0, "k", "v");
    assert_eq!(cluster.get(1, "k").as_deref(), Some("v"));
    let node = cluster.nodes[0].take().unwrap();
    let ended = node.end();
    assert_eq!(ended.status.code(), Some(0), "{:#?}", ended.log);
    for (counter, at_least) in [
        ("drop_member_malformed", 1),
        ("drop_member_refused", 1),
        ("drop_member_greeting_timeout", 1),
        ("member_connects_count", 4),
    ] {
        assert!(ended.counter(counter) >= at_least, "{counter}: {:#?}", ended.log);
    }
}

#[test]
fn nodes_with_different_numbers_of_cores_are_connected_core_by_core() {
    if p2pmap::node::placement::available().count() < 2 {
        return;
    }
    let mut cluster = Cluster::start(&[]);
    cluster.put(0, "before", "v");
    cluster.kill(1);
    // The last `--cores` would be a second one.
    let data_dir = cluster.folder.path().join("b");
    let arguments = ["--node-id", "b", "--members", &cluster.members, "--partitions", "8"];
    let more = ["--listen", &cluster.addresses[1], "--segment-size", "8MiB", "--cores", "0-1"];
    let node = Node::run(support::serve(&data_dir, &[&arguments[..], &more].concat()));
    cluster.nodes[1] = Some(node);
    for number in 0..16 {
        cluster.put(number % 3, &format!("k{number}"), "v");
    }
    for number in 0..16 {
        assert_eq!(cluster.get((number + 1) % 3, &format!("k{number}")).as_deref(), Some("v"));
    }
    assert_eq!(cluster.get(1, "before").as_deref(), Some("v"));
    cluster.wait_until_equal();
}

#[test]
fn local_cluster_is_one_command_and_leaves_nobody_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_p2pmap"));
    command.args(["cluster", "local", "--nodes", "3", "--port", "0", "--data-dir"]);
    command.arg(folder.path()).stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let mut nodes = Vec::new();
    for line in lines.by_ref().map_while(Result::ok).take_while(|line| line != "ready") {
        let Some((address, rest)) = line
            .strip_prefix("node ")
            .and_then(|line| line.split_once(": ")?.1.split_once(", pid "))
        else {
            continue;
        };
        let pid: i32 = rest.split_once(',').unwrap().0.parse().unwrap();
        nodes.push((address.to_owned(), rustix::process::Pid::from_raw(pid).unwrap()));
    }
    assert_eq!(nodes.len(), 3);
    let mut client = Client::connect(&nodes[0].0, WAIT).unwrap();
    assert_eq!(client.status(false).unwrap().member, "a");
    drop(client);
    // However it ends: killed, it can't stop anybody itself.
    child.kill().unwrap();
    child.wait().unwrap();
    for (_, pid) in nodes {
        let is_gone = || rustix::process::test_kill_process(pid).is_err();
        let mut attempts = 0..ATTEMPT_COUNT;
        while !is_gone() {
            assert!(attempts.next().is_some(), "a node has outlived its parent");
            std::thread::park_timeout(PAUSE);
        }
    }
}

#[test]
fn member_that_has_lost_its_directory_takes_its_place_again_only_if_told_to() {
    let mut cluster = Cluster::start(&[]);
    for number in 0..24 {
        cluster.put(number % 3, &format!("k{number}"), "before");
    }
    cluster.kill(2);
    let data_dir = cluster.folder.path().join("c");
    std::fs::remove_dir_all(&data_dir).unwrap();
    let mut refused = cluster.command(2);
    let mut child = refused
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let status = support::wait_at_most(&mut child, Duration::from_secs(30));
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(status.code(), Some(12), "{log}");
    let lines: Vec<_> = log.lines().filter(|line| line.starts_with("p2pmap: ")).collect();
    assert!(lines.len() == 1 && lines[0].contains("with --replace"), "{log}");
    // The others go on without it.
    cluster.put(0, "k0", "without");
    let mut replacing = cluster.command(2);
    replacing.arg("--replace");
    cluster.nodes[2] = Some(Node::run(replacing));
    cluster.wait_until_equal();
    cluster.assert_replicas_equal();
    assert_eq!(cluster.get(2, "k0").as_deref(), Some("without"));
    assert_eq!(cluster.get(2, "k1").as_deref(), Some("before"));
    // It counts again: another one may fail, and it starts as any other.
    cluster.kill(0);
    cluster.put(2, "k1", "after");
    cluster.restart(0);
    cluster.kill(2);
    cluster.restart(2);
    cluster.wait_until_equal();
    cluster.assert_replicas_equal();
    assert_eq!(cluster.get(2, "k1").as_deref(), Some("after"));
}
