//! `leader`: who leads which partition.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, json};

use super::Verdict;
use super::failure::Failure;
use super::node_address::{NodeArgs, positive_duration};
use crate::base::ids::PartitionId;
use crate::client::leadership::{Wanted, transfer};

#[derive(Debug, Subcommand)]
pub(super) enum LeaderCommand {
    /// Let another member lead a partition, or all of them.
    Transfer(TransferArgs),
}

/// Writes wait a moment while their partition changes its leader. Exits with 2 if the member
/// doesn't lead what it should within the time; what it leads by then it keeps.
#[derive(Debug, Args)]
pub(super) struct TransferArgs {
    /// The partition.
    #[arg(long, value_name = "NUMBER", required_unless_present = "all", conflicts_with = "all")]
    partition: Option<u32>,
    /// All partitions.
    #[arg(long)]
    all: bool,
    /// The name of the member that is to lead.
    #[arg(long, value_name = "MEMBER")]
    to: String,
    /// How long to wait until it leads.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = positive_duration)]
    wait: Duration,
    #[command(flatten)]
    node: NodeArgs,
}

pub(super) fn run(command: &LeaderCommand) -> Result<Verdict, Failure> {
    let LeaderCommand::Transfer(args) = command;
    let wanted =
        args.partition.map_or(Wanted::All, |number| Wanted::Partition(PartitionId(number)));
    let mut members = args.node.members()?;
    let moved_count = transfer(&mut members, wanted, &args.to, args.wait)
        .map_err(|error| Failure::new(format!("{}: {error}", args.to)))?;
    let to = &args.to;
    args.node.output().print(
        || match (wanted, moved_count) {
            (Wanted::Partition(partition), 0) => {
                format!("{to} leads partition {partition} already")
            }
            (Wanted::Partition(partition), _) => format!("{to} leads partition {partition}"),
            (Wanted::All, count) => format!("{to} leads all partitions, {count} of them newly"),
        },
        || {
            let mut object = Map::new();
            object.insert("leader".to_owned(), json!(to));
            object.insert("moved".to_owned(), json!(moved_count));
            object
        },
    )?;
    Ok(Verdict::Done)
}
