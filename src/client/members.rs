//! All members of a cluster, each asked for itself: what an operator's commands are made of.

use std::time::Duration;

use super::Client;
use super::cluster::ClusterClient;
use super::error::ClientError;
use crate::proto::p2pmap::v1::NodeStatus;

/// Asks whoever listens at these addresses, all at the same time, each over a connection of its own
/// that may take as long as `timeout`, as may the answer. In the order of the addresses.
pub fn ask_all<T: Send>(
    addresses: &[String],
    timeout: Duration,
    ask: impl Fn(&mut Client) -> Result<T, ClientError> + Sync,
) -> Vec<Result<T, ClientError>> {
    let ask = |address: &str| ask(&mut Client::connect(address, timeout)?);
    std::thread::scope(|scope| {
        let ask = &ask;
        let asked = addresses.iter().map(|address| scope.spawn(move || ask(address)));
        let asked: Vec<_> = asked.collect();
        asked.into_iter().map(|one| one.join().expect("who asks doesn't panic")).collect()
    })
}

/// The members of a cluster.
#[derive(Debug)]
pub struct Members {
    members: Vec<Member>,
    timeout: Duration,
}

/// One of them.
#[derive(Debug)]
struct Member {
    name: String,
    address: String,
    client: Option<Client>,
}

impl Members {
    /// Those that whoever answers at one of `addresses` knows; a node that is alone is the only
    /// one. Whatever is asked of a member later may take as long as `timeout`.
    ///
    /// # Errors
    /// If nobody answers.
    pub fn find(addresses: Vec<String>, timeout: Duration) -> Result<Self, ClientError> {
        let mut any = ClusterClient::new(addresses, timeout);
        let NodeStatus { members, member, .. } = any.status(false)?;
        let mut found: Vec<Member> = members
            .into_iter()
            .map(|found| Member { name: found.name, address: found.address, client: None })
            .collect();
        if found.is_empty() {
            found.push(Member { name: member, address: any.address().to_owned(), client: None });
        }
        Ok(Self { members: found, timeout })
    }

    /// Their names.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.members.iter().map(|member| member.name.clone()).collect()
    }

    /// Their names and addresses.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, &str)> {
        self.members.iter().map(|member| (member.name.as_str(), member.address.as_str()))
    }

    /// Asks all of them, one after the other.
    pub fn ask_each<T>(
        &mut self,
        mut ask: impl FnMut(&mut Client) -> Result<T, ClientError>,
    ) -> Vec<(String, Result<T, ClientError>)> {
        let timeout = self.timeout;
        let members = self.members.iter_mut();
        members.map(|member| (member.name.clone(), member.ask(timeout, &mut ask))).collect()
    }

    /// Asks one of them; `None`: nobody has that name.
    pub fn ask<T>(
        &mut self,
        name: &str,
        ask: impl FnOnce(&mut Client) -> Result<T, ClientError>,
    ) -> Option<Result<T, ClientError>> {
        let timeout = self.timeout;
        let member = self.members.iter_mut().find(|member| member.name == name)?;
        Some(member.ask(timeout, ask))
    }
}

impl Member {
    /// Over the connection that there is, or a new one.
    fn ask<T>(
        &mut self,
        timeout: Duration,
        ask: impl FnOnce(&mut Client) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let client = match self.client.take() {
            Some(client) => client,
            None => Client::connect(&self.address, timeout)?,
        };
        let client = self.client.insert(client);
        let answer = ask(client);
        if !matches!(answer, Ok(_) | Err(ClientError::Refused(_))) {
            self.client = None;
        }
        answer
    }
}
