//! `cluster`: run a whole cluster on this machine.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::failure::Failure;
use super::{Verdict, engine};

#[derive(Debug, Subcommand)]
pub(super) enum ClusterCommand {
    /// Run a cluster on loopback until Ctrl-C; each node is a process of its own.
    Local(LocalArgs),
}

#[derive(Debug, Args)]
pub(super) struct LocalArgs {
    /// How many nodes.
    #[arg(long, value_name = "COUNT", default_value_t = 3,
          value_parser = clap::value_parser!(u8).range(1..=9))]
    pub(super) nodes: u8,
    /// Where the nodes' data directories, settings and logs lie; made if absent.
    #[arg(long, value_name = "DIR", default_value = "./p2pmap-cluster")]
    pub(super) data_dir: PathBuf,
    /// The first node's port; the others have those after it. 0: free ones.
    #[arg(long, value_name = "PORT", default_value_t = 5678)]
    pub(super) port: u16,
}

pub(super) fn run(command: ClusterCommand) -> Result<Verdict, Failure> {
    match command {
        ClusterCommand::Local(args) => engine::cluster_local(&args),
    }
}
