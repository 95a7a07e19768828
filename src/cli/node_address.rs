//! What every command that talks to a node is told: which node, how long to wait, how to print.

use std::time::Duration;

use clap::Args;

use super::failure::Failure;
use super::output::Output;
use crate::client::cluster::ClusterClient;
use crate::client::members::Members;
use crate::client::session::SessionClient;
use crate::node::config::quantity::parse_duration;

/// Which node.
#[derive(Debug, Args)]
pub(super) struct NodeAddress {
    /// The node to talk to, or several members of a cluster with commas between them: whichever
    /// of them answers.
    #[arg(
        long,
        visible_alias = "connect",
        value_name = "HOST:PORT,...",
        env = "P2PMAP_NODE",
        hide_env_values = true,
        default_value = "127.0.0.1:5678"
    )]
    pub(super) node: String,
}

#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    #[command(flatten)]
    address: NodeAddress,
    /// How long to wait for the connection, and then for each answer; with several nodes, for
    /// everything together.
    #[arg(
        long,
        value_name = "DURATION",
        env = "P2PMAP_TIMEOUT",
        hide_env_values = true,
        default_value = "5s",
        value_parser = positive_duration
    )]
    timeout: Duration,
    /// Print JSON, one object a line; bytes that aren't UTF-8 as `…_base64`.
    #[arg(long)]
    json: bool,
}

impl NodeArgs {
    /// A client of whichever node answers.
    pub(super) fn client(&self) -> ClusterClient {
        ClusterClient::new(self.addresses(), self.timeout)
    }

    /// A client whose writes are done once, however often it has to send them.
    pub(super) fn session_client(&self, patience: Duration) -> SessionClient {
        SessionClient::of_members(self.addresses(), self.timeout, patience)
    }

    /// All members that whichever node answers knows.
    pub(super) fn members(&self) -> Result<Members, Failure> {
        Ok(Members::find(self.addresses(), self.timeout)?)
    }

    /// Where the nodes listen.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.address.node.split(',').map(|node| node.trim().to_owned()).collect()
    }

    /// How long to wait for each answer.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn output(&self) -> Output {
        if self.json { Output::Json } else { Output::Human }
    }
}

/// A timeout of zero would be none at all.
pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|timeout| !timeout.is_zero())
        .ok_or_else(|| "expected a duration above 0 with its unit, e.g. 500ms or 5s".to_owned())
}
