//! Guarantee: members that speak gRPC to each other are a cluster like any other, also with members
//! that dial with raw frames, and refuse a wrong secret as clearly.
#![allow(clippy::unwrap_used, reason = "what fails in a test's own hands fails the test")]

mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use support::Node;
use support::cluster::{ATTEMPT_COUNT, Cluster, NAMES, PAUSE, addresses};

const GRPC: [&str; 2] = ["--peer-protocol", "grpc"];

/// What a node's log says of a member's connection.
fn carriers(log: &[String]) -> Vec<&str> {
    let connected = log.iter().filter(|line| line.contains("a member is connected"));
    let carrier = |line: &'_ String| match () {
        () if line.contains("carrier=\"grpc\"") => "grpc",
        () if line.contains("carrier=\"frames\"") => "frames",
        () => panic!("what it is carried by isn't said: {line}"),
    };
    connected.map(carrier).collect()
}
