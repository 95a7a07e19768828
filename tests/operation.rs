//! Guarantee: a cluster of three real nodes can be operated. Nodes are restarted one after the
//! other under load without a failed request, and clients know where to go on.
#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use p2pmap::client::cluster::ClusterClient;
use p2pmap::client::error::ClientError;
use p2pmap::client::session::SessionClient;
use p2pmap::proto::p2pmap::v1::condition::Condition as Wanted;
use p2pmap::proto::p2pmap::v1::{Condition, Put};
use support::cluster::{Cluster, PAUSE, WAIT, put};

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
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            let (count, version) = client.join().unwrap();
            assert!(count > 3 && version > 0, "{count} writes");
        }
    });
    cluster.wait_until_equal();
}

#[test]
fn client_goes_on_with_another_member_when_its_own_is_killed() {
    let mut cluster = Cluster::start(&[]);
    let mut client = ClusterClient::new(cluster.addresses.clone(), WAIT);
    client.put("m", &put("k", "before")).unwrap();
    cluster.kill(0);
    // What it had a connection to is gone: a read is made again, of a write nobody knows.
    match client.put("m", &put("k", "unknown")) {
        Ok(_) | Err(ClientError::OutcomeUnknown { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    client.put("m", &put("k", "after")).unwrap();
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
