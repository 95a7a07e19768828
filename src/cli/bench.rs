//! `bench`: measure a node, or a disk.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::failure::Failure;
use super::{Verdict, engine};
use crate::node::config::quantity::parse_duration;

#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Load a node in a closed loop and print a table of latencies.
    Run(BenchRunArgs),
    /// Measure durable writes as the log does them, beside plain blocking ones.
    Disk(BenchDiskArgs),
}

#[derive(Debug, Args)]
pub(super) struct BenchRunArgs {
    /// The node to load.
    #[arg(long, value_name = "HOST:PORT", env = "P2PMAP_NODE", default_value = "127.0.0.1:5678")]
    pub(super) node: String,
    /// Connections.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub(super) connections: usize,
    /// Requests under way on each connection.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub(super) depth: usize,
    /// How long to measure.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub(super) duration: Duration,
    /// Puts among a hundred requests; the rest are gets.
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 50,
        value_parser = clap::value_parser!(u8).range(0..=100)
    )]
    pub(super) puts: u8,
}

#[derive(Debug, Args)]
pub(super) struct BenchDiskArgs {
    /// Where to write the file that is measured; it is removed afterwards.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(super) dir: PathBuf,
    /// How long to measure each way of writing.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub(super) duration: Duration,
}

pub(super) fn run(command: BenchCommand) -> Result<Verdict, Failure> {
    match command {
        BenchCommand::Run(args) => engine::bench_run(&args),
        BenchCommand::Disk(args) => engine::bench_disk(&args),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "expected a duration above 0 with its unit, e.g. 10s".to_owned())
}
