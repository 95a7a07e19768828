//! `drill`: have a real cluster go through failures and restarts under load, and measure it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::failure::Failure;
use super::node_address::positive_duration;
use super::{Verdict, engine};
use crate::base::limits::{DRILL_COUNT_MAX, DRILL_MIB_MAX, DRILL_PARTITION_COUNT_MAX};
use crate::drill::Drill;
use crate::drill::results::Destination;

/// Exit code: 0 all goals are met, 1 one is missed, 2 it couldn't be run to its end.
#[derive(Debug, Subcommand)]
pub(super) enum DrillCommand {
    /// Kill the leader of some partition, and then stop one, again and again.
    Failover {
        /// How often each.
        #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = count())]
        count: u32,
        /// Where to keep the gaps as results for `bench compare`: in folders failover-kill and
        /// failover-stop below it.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// The number of this round of several; each has a folder of its own.
        #[arg(long, value_name = "NUMBER", requires = "out",
              value_parser = clap::value_parser!(u32).range(1..=1_000))]
        round: Option<u32>,
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Restart all nodes in good order, one after the other.
    RollingRestart {
        /// How often.
        #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = count())]
        count: u32,
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Have a node miss much that is written, and catch up.
    CatchUp {
        /// How much, in MiB.
        #[arg(long, value_name = "MIB", default_value_t = 1_024,
              value_parser = clap::value_parser!(u32).range(1..=i64::from(DRILL_MIB_MAX)))]
        mib: u32,
        #[command(flatten)]
        cluster: ClusterArgs,
    },
}

/// What all of them work on: three nodes on loopback, with default settings.
#[derive(Debug, Args)]
pub(super) struct ClusterArgs {
    /// Where each node has its data directory and its log; made if absent.
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: PathBuf,
    /// How many partitions there are; each has a client that writes to it.
    #[arg(long, value_name = "COUNT", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(DRILL_PARTITION_COUNT_MAX)))]
    pub(super) partitions: u32,
    /// How often each partition is written to.
    #[arg(long, value_name = "DURATION", default_value = "20ms", value_parser = positive_duration)]
    pub(super) every: Duration,
}

fn count() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(DRILL_COUNT_MAX))
}

pub(super) fn run(command: &DrillCommand) -> Result<Verdict, Failure> {
    match command {
        DrillCommand::Failover { count, out, round, cluster } => {
            let results = out.clone().map(|below| Destination { below, round: *round });
            engine::drill(Drill::Failover { count: *count }, cluster, results)
        }
        DrillCommand::RollingRestart { count, cluster } => {
            engine::drill(Drill::Restarts { count: *count }, cluster, None)
        }
        DrillCommand::CatchUp { mib, cluster } => {
            engine::drill(Drill::CatchUp { mib: *mib }, cluster, None)
        }
    }
}
