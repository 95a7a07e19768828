//! Three nodes in processes of their own that are one cluster on loopback.

#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use p2pmap::client::Client;
use p2pmap::client::members::Members;
use p2pmap::client::verification::verify;
use p2pmap::proto::p2pmap::v1::{PartitionStatus, Put};

use super::{Ended, Node};

pub const WAIT: Duration = Duration::from_secs(10);
pub const PAUSE: Duration = Duration::from_millis(20);
/// Attempts until something has happened: a minute of pauses.
pub const ATTEMPT_COUNT: usize = 3_000;
pub const NAMES: [&str; 3] = ["a", "b", "c"];

/// A cluster of three; a place without a node is one that was killed.
pub struct Cluster {
    pub folder: tempfile::TempDir,
    pub members: String,
    pub addresses: Vec<String>,
    pub more: Vec<&'static str>,
    pub nodes: Vec<Option<Node>>,
}

/// As many free ports.
pub fn addresses(count: usize) -> Vec<String> {
    let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let listeners: Vec<TcpListener> = (0..count).map(bind).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
}

pub fn put(key: &str, value: &str) -> Put {
    Put { key: key.to_owned().into(), value: value.to_owned().into(), ..Put::default() }
}

impl Cluster {
    pub fn start(more: &[&'static str]) -> Self {
        let addresses = addresses(NAMES.len());
        let members = NAMES.iter().zip(&addresses).map(|(name, at)| format!("{name}={at}"));
        let members: Vec<String> = members.collect();
        let mut cluster = Self {
            folder: tempfile::tempdir().unwrap(),
            members: members.join(","),
            addresses,
            more: more.to_vec(),
            nodes: Vec::new(),
        };
        // None of them is ready before the others are there.
        let commands: Vec<_> = (0..NAMES.len()).map(|place| cluster.command(place)).collect();
        let starting =
            commands.into_iter().map(|command| std::thread::spawn(move || Node::run(command)));
        let starting: Vec<_> = starting.collect();
        cluster.nodes = starting.into_iter().map(|node| Some(node.join().unwrap())).collect();
        cluster
    }

    pub fn command(&self, place: usize) -> std::process::Command {
        let arguments = [
            &["--node-id", NAMES[place], "--members", &self.members][..],
            &["--listen", &self.addresses[place], "--partitions", "8"],
            &["--segment-size", "8MiB", "--cores", "0"],
            &self.more,
        ];
        super::serve(&self.folder.path().join(NAMES[place]), &arguments.concat())
    }

    pub fn kill(&mut self, place: usize) {
        self.nodes[place].take().expect("it runs").kill();
    }

    /// Ends a node in good order.
    pub fn stop(&mut self, place: usize) -> Ended {
        self.nodes[place].take().expect("it runs").end()
    }

    pub fn restart(&mut self, place: usize) {
        assert!(self.nodes[place].is_none(), "it was killed");
        self.nodes[place] = Some(Node::run(self.command(place)));
    }

    pub fn running(&self) -> Vec<usize> {
        (0..NAMES.len()).filter(|place| self.nodes[*place].is_some()).collect()
    }

    /// Asks one node until it answers: while a view changes it says that it can't.
    pub fn ask<T>(
        &self,
        place: usize,
        mut ask: impl FnMut(&mut Client) -> Result<T, p2pmap::client::error::ClientError>,
    ) -> T {
        let mut last = None;
        for _ in 0..ATTEMPT_COUNT {
            let answer = Client::connect(&self.addresses[place], WAIT);
            match answer.and_then(|mut client| ask(&mut client)) {
                Ok(answer) => return answer,
                Err(error) => last = Some(error),
            }
            std::thread::park_timeout(PAUSE);
        }
        panic!("node {} doesn't answer: {last:?}", NAMES[place]);
    }

    pub fn put(&self, place: usize, key: &str, value: &str) {
        self.ask(place, |client| client.put("m", put(key, value)));
    }

    pub fn get(&self, place: usize, key: &str) -> Option<String> {
        let found = self.ask(place, |client| client.get("m", key.to_owned()));
        found.map(|found| String::from_utf8(found.value.to_vec()).unwrap())
    }

    pub fn partitions(&self, place: usize) -> Vec<PartitionStatus> {
        self.ask(place, |client| client.status(true)).partitions
    }

    /// Waits until all nodes that run hold the same, and all of it is stable.
    pub fn wait_until_equal(&self) {
        let standing = |place| -> Vec<(u64, u64, u64, u64)> {
            let partitions = self.partitions(place);
            assert_eq!(partitions.len(), 8);
            let standing = |partition: &PartitionStatus| {
                (partition.term, partition.last, partition.sync_point, partition.entries)
            };
            partitions.iter().map(standing).collect()
        };
        let mut found = Vec::new();
        for _ in 0..ATTEMPT_COUNT {
            found = self.running().into_iter().map(standing).collect();
            let first = &found[0];
            if found.iter().all(|other| other == first)
                && first.iter().all(|(term, last, sync_point, _)| *term > 0 && last == sync_point)
            {
                return;
            }
            std::thread::park_timeout(PAUSE);
        }
        panic!("the nodes don't come together: {found:#?}");
    }

    /// All nodes have the same digests.
    pub fn assert_replicas_equal(&self) {
        let mut members = Members::find(self.addresses.clone(), WAIT).unwrap();
        let verification = verify(&mut members, WAIT);
        assert!(verification.is_equal(), "{verification:#?}");
    }
}
