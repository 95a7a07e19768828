//! A client that knows several members of a cluster, and goes on with another one when the one that
//! it talks to is gone.
//!
//! Reads are made again until they are answered or their time is up. A write is made again only if
//! it has certainly left no trace; otherwise its outcome is unknown, and that is said
//! ([`ClientError::OutcomeUnknown`]). Who wants writes to be repeated takes a
//! [`SessionClient`](super::session::SessionClient).

use std::time::Duration;

use bytes::Bytes;

use super::connection::{Answer, Operation};
use super::error::ClientError;
use super::nodes::{Deadline, Nodes, Trace, is_worth_repeating, trace_of};
use super::{Client, EntriesAnswer};
use crate::proto::p2pmap::v1::error::Code;
use crate::proto::p2pmap::v1::result::Outcome;
use crate::proto::p2pmap::v1::{
    Entries, NodeStatus, Put, Remove, Removed, Sized, Versioned, Written,
};

/// A client of several members.
#[derive(Debug)]
pub struct ClusterClient {
    nodes: Nodes,
    timeout: Duration,
}

/// Whether a request changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
}

impl ClusterClient {
    /// A client of the members that listen at `addresses`, hosts and ports; it connects when it is
    /// needed. Each request, with connecting and all of its repetitions, may take as long as
    /// `timeout`. A single member is asked once, within `timeout` for the connection and as much
    /// for the answer.
    ///
    /// # Panics
    /// If there are no addresses.
    #[must_use]
    pub fn new(addresses: Vec<String>, timeout: Duration) -> Self {
        Self { nodes: Nodes::new(addresses), timeout }
    }

    /// Where the member listens that is talked to.
    #[must_use]
    pub fn address(&self) -> &str {
        self.nodes.address()
    }

    /// Sets a key's value.
    ///
    /// # Errors
    /// [`ClientError::OutcomeUnknown`] if it may or may not have been done; any other error says
    /// that it wasn't.
    pub fn put(&mut self, map: &str, put: &Put) -> Result<Written, ClientError> {
        self.ask(Kind::Write, |client| client.put(map, put.clone()))
    }

    /// Removes a key. That it was absent is no error.
    ///
    /// # Errors
    /// As of [`ClusterClient::put`].
    pub fn remove(&mut self, map: &str, remove: &Remove) -> Result<Removed, ClientError> {
        self.ask(Kind::Write, |client| client.remove(map, remove.clone()))
    }

    /// Removes all entries of a map, partition by partition, and returns how many there were: if a
    /// member could not do all of it, how many there were left for the next one.
    ///
    /// # Errors
    /// As of [`ClusterClient::put`].
    pub fn clear(&mut self, map: &str) -> Result<u64, ClientError> {
        self.ask(Kind::Write, |client| client.clear(map))
    }

    /// A key's entry, if the key is present.
    ///
    /// # Errors
    /// If no member answers in time, or one refuses.
    pub fn get(&mut self, map: &str, key: &Bytes) -> Result<Option<Versioned>, ClientError> {
        self.ask(Kind::Read, |client| client.get(map, key.clone()))
    }

    /// Whether a key is present.
    ///
    /// # Errors
    /// As of [`ClusterClient::get`].
    pub fn exists(&mut self, map: &str, key: &Bytes) -> Result<bool, ClientError> {
        self.ask(Kind::Read, |client| client.exists(map, key.clone()))
    }

    /// How many entries a map has, and how many bytes their keys and values are.
    ///
    /// # Errors
    /// As of [`ClusterClient::get`].
    pub fn size(&mut self, map: &str) -> Result<Sized, ClientError> {
        self.ask(Kind::Read, |client| client.size(map))
    }

    /// Some entries of a map, as of [`Client::entries`].
    ///
    /// # Errors
    /// As of [`ClusterClient::get`].
    pub fn entries(&mut self, map: &str, entries: &Entries) -> Result<EntriesAnswer, ClientError> {
        self.ask(Kind::Read, |client| client.entries(map, entries.clone()))
    }

    /// How one of the members stands.
    ///
    /// # Errors
    /// As of [`ClusterClient::get`].
    pub fn status(&mut self, partitions: bool) -> Result<NodeStatus, ClientError> {
        self.ask(Kind::Read, |client| client.status(partitions))
    }

    /// Asks something that has one answer, and returns that as it came, with the slot of the log
    /// that it is of: for those who check what a cluster says. That a condition doesn't hold is an
    /// answer here.
    ///
    /// # Errors
    /// As of [`ClusterClient::put`] and [`ClusterClient::get`].
    pub fn answer(&mut self, map: &str, operation: &Operation) -> Result<Answer, ClientError> {
        let kind = match operation {
            Operation::Get { .. }
            | Operation::Exists { .. }
            | Operation::Size
            | Operation::Entries(_)
            | Operation::Status(_) => Kind::Read,
            _ => Kind::Write,
        };
        self.ask(kind, |client| {
            let answer = client.ask(map, operation.clone())?;
            match answer.outcome {
                Outcome::Error(error) if error.code() != Code::ConditionFailed => {
                    Err(ClientError::Refused(Box::new(error)))
                }
                _ => Ok(answer),
            }
        })
    }

    fn ask<T>(
        &mut self,
        kind: Kind,
        mut ask: impl FnMut(&mut Client) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let mut deadline = Deadline::after(self.timeout);
        let share_max = self.nodes.share_of(self.timeout);
        let mut share = self.nodes.first_of(share_max);
        loop {
            let error = match self.attempt(kind, share, &deadline, &mut ask) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            self.nodes.leave(&error);
            if kind == Kind::Write && trace_of(&error) == Trace::Unknown {
                return Err(ClientError::OutcomeUnknown { last: Box::new(error) });
            }
            if !self.nodes.are_several() || !is_worth_repeating(&error) || !deadline.pause() {
                return Err(error);
            }
            share = (share * 2).min(share_max);
        }
    }

    fn attempt<T>(
        &mut self,
        kind: Kind,
        share: Duration,
        deadline: &Deadline,
        ask: &mut impl FnMut(&mut Client) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let is_alone = !self.nodes.are_several();
        let connecting = if is_alone { self.timeout } else { share.min(deadline.left()) };
        let client = self.nodes.client(at_least(connecting))?;
        // A write that isn't answered can't be made again: it has all the time that is left.
        let answering = match kind {
            _ if is_alone => self.timeout,
            Kind::Write => deadline.left(),
            Kind::Read => share.min(deadline.left()),
        };
        client.set_timeout(at_least(answering));
        ask(client)
    }
}

/// No time at all would be none to fail in.
fn at_least(timeout: Duration) -> Duration {
    timeout.max(Duration::from_millis(1))
}
