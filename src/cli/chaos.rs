//! `chaos`: run a real cluster under faults, and check what its clients were told.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::failure::Failure;
use super::serve::planted;
use super::{Verdict, engine};
use crate::base::limits::{CHAOS_CLIENT_COUNT_MAX, CHAOS_SECONDS_MAX};
use crate::base::mutant::Mutant;
use crate::chaos::fault::FaultClass;
use crate::node::config::quantity::parse_duration;

/// Exit code: 0 nothing was wrong, 1 something was that must not be, 2 it couldn't be run to its
/// end.
#[derive(Debug, Args)]
pub(super) struct ChaosArgs {
    /// How long clients are at work, in seconds.
    #[arg(long, default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=CHAOS_SECONDS_MAX))]
    pub(super) seconds: u64,
    /// How many nodes: 3 or 5.
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = node_count)]
    pub(super) nodes: usize,
    /// What faults and load are drawn from.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
    /// How many clients.
    #[arg(long, value_name = "COUNT", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(CHAOS_CLIENT_COUNT_MAX)))]
    pub(super) clients: u32,
    /// Which faults may come; without this all that are possible here.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(super) faults: Vec<FaultClass>,
    /// Nothing is done to the cluster: the load is all there is.
    #[arg(long, conflicts_with = "faults")]
    pub(super) no_faults: bool,
    /// Where sequencers stand, as `serve` takes it.
    #[arg(long, value_name = "WHERE", default_value = "leader")]
    pub(super) sequencer: String,
    /// The longest time without an acknowledged write, where a majority of members is well.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(super) stall_max: Duration,
    /// Where each node has a folder; made if absent. What is in it is used.
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: PathBuf,
    /// Nodes with this planted bug. Needs a program that was built with `--features mutants`.
    #[arg(long, value_name = "NAME", value_parser = planted)]
    pub(super) mutant: Option<Mutant>,
    /// Each node in a network namespace of its own; this process must be in a fresh one already.
    #[arg(long)]
    pub(super) namespaces: bool,
    /// The nodes' folders are small filesystems of their own, which may be filled.
    #[arg(long)]
    pub(super) small_disks: bool,
}

fn node_count(text: &str) -> Result<usize, String> {
    match text {
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("expected 3 or 5".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "expected a duration such as 10s".to_owned())
}

pub(super) fn run(args: &ChaosArgs) -> Result<Verdict, Failure> {
    engine::chaos(args)
}
