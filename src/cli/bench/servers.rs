//! What `bench run` loads, and what it speaks to it.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::super::failure::Failure;
use super::super::node_address::NodeAddress;
use crate::bench::dialect::Dialect;
use crate::bench::leaders::{Leaders, LeadersError};
use crate::client::Client;
use crate::client::error::ClientError;
use crate::proto::p2pmap::v1::NodeStatus;

/// How long a node may take to say what it is.
const STATUS_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is asked who leads, until every partition is led.
const LEADER_ATTEMPT_COUNT_MAX: u32 = 100;
/// Between two of these.
const LEADER_PAUSE: Duration = Duration::from_millis(100);
/// Replicas that a write can be wanted on.
const REPLICA_COUNT_MAX: i64 = 8;

#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    #[command(flatten)]
    address: NodeAddress,
    /// What the server is spoken to in: a node's raw frames or gRPC; `resp` for Redis and Valkey,
    /// `etcd` for etcd's gRPC.
    #[arg(long, value_enum, default_value_t = DialectArg::Frames)]
    protocol: DialectArg,
    /// With `resp`: a write is done when so many replicas have it; one WAIT follows the writes that
    /// are sent together.
    #[arg(long, value_name = "REPLICAS",
          value_parser = clap::value_parser!(u32).range(1..=REPLICA_COUNT_MAX))]
    resp_wait: Option<u32>,
    /// Ask leaders: each client has a connection to every node, and each request goes to the one
    /// that leads its partition when the load begins. Otherwise each client has one connection, to
    /// one of the nodes in turn, which passes on what another one leads.
    #[arg(long)]
    to_leaders: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DialectArg {
    /// A node's raw frames.
    Frames,
    /// A node's gRPC, one stream for each connection.
    Grpc,
    /// Redis and Valkey.
    Resp,
    /// etcd, a call for each request.
    Etcd,
}

impl ServerArgs {
    /// What is spoken.
    pub(super) fn dialect(&self) -> Result<Dialect, Failure> {
        if self.resp_wait.is_some() && self.protocol != DialectArg::Resp {
            return Err(Failure::new("--resp-wait: only with --protocol resp is there a WAIT"));
        }
        Ok(match self.protocol {
            DialectArg::Frames => Dialect::Frames,
            DialectArg::Grpc => Dialect::Grpc,
            DialectArg::Resp => Dialect::Resp { replica_count: self.resp_wait.unwrap_or(0) },
            DialectArg::Etcd => Dialect::Etcd,
        })
    }

    /// Whether what is loaded is a node of ours.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self.protocol, DialectArg::Frames | DialectArg::Grpc)
    }

    /// Where they listen.
    pub(super) fn nodes(&self) -> Result<Vec<SocketAddr>, Failure> {
        let unknown = |node| Failure::new(format!("--node {node:?}: expected HOST:PORT"));
        let nodes = self.address.node.split(',');
        nodes.map(|node| resolve(node).ok_or_else(|| unknown(node))).collect()
    }

    /// Who leads which partition, if that matters.
    pub(super) fn leaders(&self, nodes: &[SocketAddr]) -> Result<Option<Leaders>, Failure> {
        if !self.to_leaders {
            return Ok(None);
        }
        if !self.is_ours() {
            return Err(Failure::new("--to-leaders: only a node says who leads"));
        }
        let mut attempts_left = LEADER_ATTEMPT_COUNT_MAX;
        loop {
            let status = self.status(true).map_err(|error| Failure::new(error.to_string()))?;
            attempts_left -= 1;
            match leaders_in(&status, nodes) {
                // Between two views there is nobody, for a moment.
                Err(LeadersError::NoLeader { .. }) if attempts_left > 0 => {
                    std::thread::park_timeout(LEADER_PAUSE);
                }
                found => {
                    let failure = |error| Failure::new(format!("--to-leaders: {error}"));
                    return found.map(Some).map_err(failure);
                }
            }
        }
    }

    /// What the first of them says of itself.
    pub(super) fn status(&self, partitions: bool) -> Result<NodeStatus, ClientError> {
        let first = self.address.node.split(',').next().unwrap_or_default();
        Client::connect(first, STATUS_TIMEOUT)?.status(partitions)
    }
}

/// Who leads, as a node says.
fn leaders_in(status: &NodeStatus, nodes: &[SocketAddr]) -> Result<Leaders, LeadersError> {
    // A node that is alone leads everything, and names no members.
    let address_of = |leader: &str| match status.members.as_slice() {
        [] => nodes.first().copied(),
        members => {
            let member = members.iter().find(|member| member.name == leader)?;
            resolve(&member.address)
        }
    };
    let leaders = status.partitions.iter().map(|partition| address_of(&partition.leader));
    Leaders::among(nodes, &leaders.collect::<Vec<_>>())
}

fn resolve(node: &str) -> Option<SocketAddr> {
    node.to_socket_addrs().ok()?.next()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        servers: ServerArgs,
    }

    fn servers(line: &[&str]) -> ServerArgs {
        Line::try_parse_from([&["x"], line].concat()).expect("it can be read").servers
    }

    #[test]
    fn replicas_are_waited_for_only_where_there_is_a_wait() {
        let resp = |line: &[&str]| servers(&[&["--protocol", "resp"], line].concat()).dialect();
        let of = |replica_count| Dialect::Resp { replica_count };
        assert_eq!(resp(&[]).ok(), Some(of(0)));
        assert_eq!(resp(&["--resp-wait", "2"]).ok(), Some(of(2)));
        assert!(Line::try_parse_from(["x", "--resp-wait", "0"]).is_err());
        let refused = servers(&["--resp-wait", "1"]).dialect().expect_err("frames have none");
        assert!(refused.to_string().contains("--resp-wait"), "{refused}");
    }

    #[test]
    fn leaders_of_others_are_not_asked_for() {
        let nodes = [SocketAddr::from(([127, 0, 0, 1], 1))];
        let etcd = servers(&["--protocol", "etcd", "--to-leaders"]);
        assert!(etcd.leaders(&nodes).expect_err("it doesn't say").to_string().contains("leads"));
        assert!(servers(&[]).leaders(&nodes).is_ok_and(|leaders| leaders.is_none()));
    }
}
