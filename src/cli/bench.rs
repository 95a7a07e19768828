//! `bench`: measure a node, or a disk.

mod compare;
mod run;
mod servers;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::failure::Failure;
use super::{Verdict, engine};
use crate::base::cast;
use crate::base::limits::{BLOCK_SIZE_BYTES, WRITE_BATCH_SIZE_BYTES_MAX, WRITES_IN_FLIGHT_MAX};
use crate::node::config::quantity::{format_size, parse_duration, parse_size};

#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Load a node at a fixed rate, or as fast as it goes, and print a table of latencies.
    Run(Box<run::BenchRunArgs>),
    /// Say whether results differ: which side is faster, and how certain that is.
    Compare(Box<compare::BenchCompareArgs>),
    /// Measure durable writes: plain blocking ones, then those of the log.
    Disk(BenchDiskArgs),
    /// Serve a plain echo, without frames or the runtime, to hold `p2pmap echo` against.
    BareEcho(BareEchoArgs),
}

#[derive(Debug, Args)]
pub(super) struct BenchDiskArgs {
    /// Where to write the file that is measured; it is removed afterwards.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(super) dir: PathBuf,
    /// Length of a write: whole blocks of 4KiB.
    #[arg(long, value_name = "SIZE", default_value = "4KiB", value_parser = write_size)]
    pub(super) write_size: usize,
    /// Log writes under way at once.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 1,
        value_parser = count::<WRITES_IN_FLIGHT_MAX>
    )]
    pub(super) depth: usize,
    /// The core that writes.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(super) core: usize,
    /// Wait for log writes by spinning rather than sleeping.
    #[arg(long)]
    pub(super) spin: bool,
    /// Prepare new segments meanwhile.
    #[arg(long)]
    pub(super) preparing: bool,
    /// How long to measure each.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub(super) duration: Duration,
}

#[derive(Debug, Args)]
pub(super) struct BareEchoArgs {
    /// Where to listen.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:5678")]
    pub(super) listen: SocketAddr,
    /// The core that serves.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(super) core: usize,
    /// Wait for requests by spinning rather than sleeping.
    #[arg(long)]
    pub(super) spin: bool,
}

pub(super) fn run(command: BenchCommand) -> Result<Verdict, Failure> {
    match command {
        BenchCommand::Run(args) => run::run(&args),
        BenchCommand::Compare(args) => compare::run(&args),
        BenchCommand::Disk(args) => engine::bench_disk(&args),
        BenchCommand::BareEcho(args) => engine::bench_bare_echo(&args),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "expected a duration above 0 with its unit, e.g. 10s".to_owned())
}

fn size<const MIN: usize, const MAX: usize>(text: &str) -> Result<usize, String> {
    let (min, max) = (cast::u64_from(MIN), cast::u64_from(MAX));
    parse_size(text)
        .filter(|size| (min..=max).contains(size))
        .map(cast::usize_from)
        .ok_or_else(|| format!("expected a size from {} to {}", format_size(min), format_size(max)))
}

fn write_size(text: &str) -> Result<usize, String> {
    size::<BLOCK_SIZE_BYTES, WRITE_BATCH_SIZE_BYTES_MAX>(text).and_then(|size| {
        if size.is_multiple_of(BLOCK_SIZE_BYTES) {
            Ok(size)
        } else {
            Err("expected whole blocks of 4KiB".to_owned())
        }
    })
}

fn count<const MAX: usize>(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=MAX).contains(count));
    count.ok_or_else(|| format!("expected a whole number from 1 to {MAX}"))
}
