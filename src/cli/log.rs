//! `log`: look into a log, offline.

use std::io::{self, BufWriter, Write as _};

use clap::Subcommand;

use super::Verdict;
use super::failure::Failure;
use super::inspect::{self, InspectError, InspectOptions};

#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Print the state of a log's blocks and a summary for each partition.
    Inspect(InspectOptions),
}

pub(super) fn run(command: LogCommand) -> Result<Verdict, Failure> {
    let LogCommand::Inspect(options) = command;
    let mut stdout = BufWriter::new(io::stdout().lock());
    let inspected = inspect::run(&options, &mut stdout);
    stdout.flush().map_err(|e| Failure::stdout(&e))?;
    match inspected {
        Ok(()) => Ok(Verdict::Done),
        Err(InspectError::Output(e)) => Err(Failure::stdout(&e)),
        Err(other) => Err(Failure::new(other.to_string())),
    }
}
