//! The members of a cluster, as its nodes are told: `a=127.0.0.1:5678,b=127.0.0.1:5679`.

use std::fmt;
use std::net::SocketAddr;

use super::value::parse_name;
use crate::base::cluster::Cluster;
use crate::base::limits::NODE_COUNT_MAX;

/// The members of a cluster, each with its address; none: a node that is alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members(Vec<(String, SocketAddr)>);

impl Members {
    /// Parses a list; an empty one says that a node is alone.
    ///
    /// # Errors
    /// None if it isn't such a list, a reason if it is one that no cluster can have.
    pub fn parse(text: &str) -> Result<Self, Option<String>> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let mut members: Vec<(String, SocketAddr)> = Vec::new();
        for part in text.split(',') {
            let (name, address) = part.trim().split_once('=').ok_or(None)?;
            let name = parse_name(name).ok_or(None)?;
            let address: SocketAddr = address
                .parse()
                .map_err(|_| Some(format!("the address of {name} is no IP address with a port")))?;
            if address.port() == 0 {
                return Err(Some(format!("the port of {name} is 0")));
            }
            for (other, taken) in &members {
                if *other == name {
                    return Err(Some(format!("{name} is listed twice")));
                }
                if *taken == address {
                    return Err(Some(format!("{other} and {name} have the same address")));
                }
            }
            members.push((name, address));
        }
        if members.len() > NODE_COUNT_MAX {
            return Err(Some(format!("more than {NODE_COUNT_MAX} members")));
        }
        members.sort_unstable();
        Ok(Self(members))
    }

    /// Whether there are any: else the node is alone.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many nodes there are; 1 if nobody is listed.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.0.len().max(1)
    }

    /// Where a member listens.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, address)| *address)
    }

    /// The addresses, in the order of names.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|(_, address)| *address).collect()
    }

    /// The names, in their order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.clone()).collect()
    }

    /// A member that other machines can pretend to be.
    #[must_use]
    pub fn remote(&self) -> Option<&str> {
        let remote = self.0.iter().find(|(_, address)| !address.ip().is_loopback());
        remote.map(|(name, _)| name.as_str())
    }

    /// The cluster, seen by `me`, which is one of them.
    #[must_use]
    pub fn cluster(&self, me: &str, replication_factor: usize) -> Cluster {
        match self.is_empty() {
            true => Cluster::alone(me),
            false => Cluster::new(self.names(), me, replication_factor),
        }
    }
}

impl fmt::Display for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members: Vec<String> =
            self.0.iter().map(|(name, address)| format!("{name}={address}")).collect();
        f.write_str(&members.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_sorted_by_name_and_found_by_it() {
        let members = Members::parse("b=[::1]:2, a=127.0.0.1:1").unwrap();
        assert_eq!(members.to_string(), "a=127.0.0.1:1,b=[::1]:2");
        assert_eq!(members.names(), ["a", "b"]);
        assert_eq!(members.address("b"), Some("[::1]:2".parse().unwrap()));
        assert_eq!((members.address("c"), members.node_count()), (None, 2));
        assert_eq!(members.cluster("b", 2).me(), crate::base::ids::NodeId(1));
        assert_eq!(Members::parse(""), Ok(Members::default()));
        assert_eq!(Members::default().cluster("x", 1), Cluster::alone("x"));
    }

    #[test]
    fn lists_that_are_none_are_refused() {
        for text in [",", "a", "a=127.0.0.1:1,", "=127.0.0.1:1", "a b=127.0.0.1:1"] {
            assert_eq!(Members::parse(text), Err(None), "{text:?}");
        }
    }

    #[test]
    fn lists_that_contradict_themselves_are_refused_with_the_reason() {
        let refused = |text: &str, reason: &str| {
            assert_eq!(Members::parse(text), Err(Some(reason.to_owned())));
        };
        refused("a=127.0.0.1:1,b=127.0.0.1:2,a=127.0.0.1:3", "a is listed twice");
        refused("a=127.0.0.1:1,b=127.0.0.1:1", "a and b have the same address");
        refused("a=127.0.0.1:0", "the port of a is 0");
        refused("a=127.0.0.1", "the address of a is no IP address with a port");
        refused("a=host:1", "the address of a is no IP address with a port");
        let many: Vec<String> = (1..=65).map(|port| format!("m{port}=127.0.0.1:{port}")).collect();
        refused(&many.join(","), "more than 64 members");
    }

    #[test]
    fn only_members_on_loopback_are_local() {
        assert_eq!(Members::parse("a=127.0.0.1:1,b=127.9.9.9:2").unwrap().remote(), None);
        assert_eq!(Members::parse("a=[::1]:1,b=10.0.0.1:2").unwrap().remote(), Some("b"));
    }
}
