//! A node's maps keep to `--memory-max`: puts are refused there, everything else goes on, and so do
//! puts once there is space again. Seen from outside, on a real node.
#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]
#![allow(clippy::disallowed_methods, reason = "tests may look at the clock")]

mod support;

use std::time::{Duration, Instant};

use p2pmap::client::Client;
use p2pmap::node::placement;
use p2pmap::proto::p2pmap::v1::{Put, Remove};
use support::Node;

const WAIT: Duration = Duration::from_secs(10);
const MEMORY_MIB: u64 = 24;
/// What a node takes beside its maps while it serves one client, and more.
const OTHER_MIB: u64 = 16;

fn put(key: &str, value_size: usize) -> Put {
    Put { key: key.to_owned().into(), value: vec![b'x'; value_size].into(), ..Put::default() }
}

/// The error of a put that must be refused for want of memory.
fn refusal(client: &mut Client, key: &str, value_size: usize) -> String {
    client.put("m", put(key, value_size)).expect_err("there is no room").to_string()
}

#[test]
fn node_keeps_to_its_memory_and_goes_on_at_the_bound() {
    let folder = tempfile::tempdir().unwrap();
    let memory = format!("{MEMORY_MIB}MiB");
    // On one core: each has its share.
    let core = placement::available().numbers()[0].to_string();
    let arguments = ["--memory-max", &memory, "--durability", "none", "--cores", &core];
    let node = Node::start(folder.path(), &arguments);
    let before_mib = node.resident_size_bytes() >> 20;
    let mut client = Client::connect(node.address(), WAIT).unwrap();

    let mut count = 0;
    let error = loop {
        match client.put("m", put(&format!("key {count:06}"), 2_000)) {
            Ok(_) => count += 1,
            Err(error) => break error.to_string(),
        }
        assert!(count < 24 << 9, "more than fits");
    };
    assert!(count > 8_000, "only {count} fit");
    assert!(error.contains("--memory-max"), "{error}");
    let grown_mib = (node.resident_size_bytes() >> 20) - before_mib;
    assert!(grown_mib <= MEMORY_MIB + OTHER_MIB, "grew by {grown_mib} MiB");

    assert_eq!(client.get("m", "key 000007").unwrap().unwrap().value.len(), 2_000);
    assert!(refusal(&mut client, "key new000", 2_000).contains("--memory-max"));
    let remove = |key: &'static str| Remove { key: key.into(), ..Remove::default() };
    assert!(client.remove("m", remove("key 000007")).unwrap().existed);
    client.put("m", put("key new000", 2_000)).expect("there is room for one");

    assert_eq!(client.clear("m").unwrap(), count);
    // What was cleared is freed little by little.
    let deadline = Instant::now() + WAIT;
    while let Err(error) = client.put("m", put("other size", 1_000)) {
        assert!(Instant::now() < deadline, "{error}");
    }
    drop(client);
    let ended = node.end();
    assert_eq!(ended.status.code(), Some(0));
    let is_told = |line: &String| line.contains("the map is full") && line.contains("--memory-max");
    assert!(ended.log.iter().any(is_told), "{:#?}", ended.log);
}
