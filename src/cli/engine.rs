//! Where the command line meets the engine: the only file of this room that starts a loop, loads a
//! node or opens a log. Each function gets arguments that were checked, and returns what comes of
//! running it to its end.

use std::io::{self, BufWriter, Write as _};

use super::Verdict;
use super::bench::{BenchDiskArgs, BenchRunArgs};
use super::failure::Failure;
use super::inspect::{self, InspectError, InspectOptions};
use crate::node::config::Config;

/// Runs a node until it is told to stop.
pub(super) fn serve(config: &Config) -> Result<Verdict, Failure> {
    crate::node::serve::serve(config, &mut io::stdout())?;
    Ok(Verdict::Done)
}

/// Runs a node's loop that sends back what it receives, until it is told to stop.
pub(super) fn echo(config: &Config) -> Result<Verdict, Failure> {
    crate::node::echo::echo(config, &mut io::stdout())?;
    Ok(Verdict::Done)
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

/// Prints what a log holds.
pub(super) fn inspect(options: &InspectOptions) -> Result<Verdict, Failure> {
    let mut stdout = BufWriter::new(io::stdout().lock());
    let inspected = inspect::run(options, &mut stdout);
    stdout.flush().map_err(|e| Failure::stdout(&e))?;
    match inspected {
        Ok(()) => Ok(Verdict::Done),
        Err(InspectError::Output(error)) => Err(Failure::stdout(&error)),
        Err(error) => Err(Failure::new(error.to_string())),
    }
}

fn missing(command: &str, what: &str) -> Failure {
    Failure::new(format!("{command} {what}: this build has no engine"))
}
