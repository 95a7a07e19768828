//! `bench`: measure a node, or a disk.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::failure::Failure;
use super::{Verdict, engine};
use crate::base::cast;
use crate::node::config::quantity::{parse_duration, parse_size};

#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Load a node in a closed loop and print a table of latencies.
    Run(BenchRunArgs),
    /// Measure plain blocking durable writes, to hold a durable put against.
    Disk(BenchDiskArgs),
}

#[derive(Debug, Args)]
pub(super) struct BenchRunArgs {
    /// The node to load.
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "P2PMAP_NODE",
        hide_env_values = true,
        default_value = "127.0.0.1:5678"
    )]
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
    /// How long to load before measuring.
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = duration)]
    pub(super) warm_up: Duration,
    /// Puts among a hundred requests; the rest are gets.
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 50,
        value_parser = clap::value_parser!(u8).range(0..=100)
    )]
    pub(super) puts: u8,
    /// Different keys.
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    pub(super) keys: usize,
    /// Length of a key: at least 8 bytes.
    #[arg(long, value_name = "SIZE", default_value = "16B", value_parser = size)]
    pub(super) key_size: usize,
    /// Length of a value.
    #[arg(long, value_name = "SIZE", default_value = "64B", value_parser = size)]
    pub(super) value_size: usize,
    /// The map.
    #[arg(long, value_name = "MAP", default_value = "bench")]
    pub(super) map: String,
    /// Of the choice of keys and operations: the same seed asks the same.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(super) seed: u64,
    /// Put every key before measuring, so that gets find them.
    #[arg(long)]
    pub(super) preload: bool,
    /// The core that loads; not the node's.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(super) core: usize,
    /// Wait for answers by spinning rather than sleeping.
    #[arg(long)]
    pub(super) spin: bool,
}

#[derive(Debug, Args)]
pub(super) struct BenchDiskArgs {
    /// Where to write the file that is measured; it is removed afterwards.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(super) dir: PathBuf,
    /// Length of a write.
    #[arg(long, value_name = "SIZE", default_value = "4KiB", value_parser = size)]
    pub(super) write_size: usize,
    /// How long to measure.
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

fn size(text: &str) -> Result<usize, String> {
    parse_size(text)
        .map(cast::usize_from)
        .ok_or_else(|| "expected a size with its unit, e.g. 64B or 4KiB".to_owned())
}
