//! Where the command line meets the engine: the only file of this room that starts a loop or
//! loads one. Each function gets arguments that were checked, and returns what comes of
//! running it to its end.

use super::Verdict;
use super::bench::{BenchDiskArgs, BenchRunArgs};
use super::failure::Failure;
use crate::node::config::Config;

/// Runs a node until it is told to stop.
pub(super) fn serve(config: &Config) -> Result<Verdict, Failure> {
    Err(missing("serve", &config.listen.to_string()))
}

/// Runs a node's loop that sends back what it receives, until it is told to stop.
pub(super) fn echo(config: &Config) -> Result<Verdict, Failure> {
    Err(missing("echo", &config.listen.to_string()))
}

/// Loads a node and prints the figures.
pub(super) fn bench_run(args: &BenchRunArgs) -> Result<Verdict, Failure> {
    let BenchRunArgs { node, connections, depth, duration, puts, .. } = args;
    let load = format!("{node} {connections} x {depth} for {duration:?}, {puts} % puts");
    Err(missing("bench run", &load))
}

/// Measures a disk and prints the figures.
pub(super) fn bench_disk(args: &BenchDiskArgs) -> Result<Verdict, Failure> {
    let BenchDiskArgs { dir, duration, .. } = args;
    Err(missing("bench disk", &format!("{} for {duration:?}", dir.display())))
}

fn missing(command: &str, what: &str) -> Failure {
    Failure::new(format!("{command} {what}: this build has no engine"))
}
