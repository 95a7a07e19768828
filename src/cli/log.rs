//! `log`: look into a log, offline.

use std::path::PathBuf;

use clap::Subcommand;

use super::failure::Failure;
use super::{Verdict, engine};

#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Print a log's records, the state of its blocks and a summary for each partition.
    Inspect {
        /// The data directory of a node that isn't running.
        #[arg(value_name = "DATA_DIR")]
        data_dir: PathBuf,
    },
}

pub(super) fn run(command: LogCommand) -> Result<Verdict, Failure> {
    match command {
        LogCommand::Inspect { data_dir } => engine::inspect(&data_dir),
    }
}
