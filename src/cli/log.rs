//! `log`: look into a log, offline.

use clap::Subcommand;

use super::failure::Failure;
use super::inspect::InspectOptions;
use super::{Verdict, engine};

#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Print the state of a log's blocks and a summary for each partition.
    Inspect(InspectOptions),
}

pub(super) fn run(command: LogCommand) -> Result<Verdict, Failure> {
    match command {
        LogCommand::Inspect(options) => engine::inspect(&options),
    }
}
