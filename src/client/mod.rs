//! A small blocking client over raw frames, for the command line and for tests.
//!
//! [`Client`] asks one thing and waits for its answer. Beneath it [`Connection`] pipelines: many
//! requests may be under way, and answers come in whatever order the node has them. Above it
//! [`cluster::ClusterClient`] knows several members and goes on with another one when one is gone;
//! [`session::SessionClient`] writes again until it has an answer, and yet only once. All speak to
//! one node at a time over one TCP connection, wait for a bounded time only, and trust nothing that
//! comes back: a frame that is too long, an answer to a question that wasn't asked or an answer of
//! the wrong kind ends the connection with a [`ClientError`] that says so.
//!
//! ```no_run
//! # fn main() -> Result<(), p2pmap::client::error::ClientError> {
//! use p2pmap::client::Client;
//! use p2pmap::proto::p2pmap::v1::Put;
//!
//! let mut client = Client::connect("127.0.0.1:5678", std::time::Duration::from_secs(5))?;
//! let put = Put { key: "k1".into(), value: "hello".into(), ..Put::default() };
//! let version = client.put("orders", put)?.version;
//! assert_eq!(client.get("orders", "k1")?.map(|entry| entry.version), Some(version));
//! # Ok(())
//! # }
//! ```

pub mod cluster;
pub mod connection;
pub mod error;
pub mod leadership;
pub mod members;
mod nodes;
pub mod session;
pub mod verification;
mod waiting;

use std::time::Duration;

use bytes::Bytes;

use self::connection::{Answer, Connection, Operation};
use self::error::{ClientError, Violation};
use crate::base::cast;
use crate::base::ids::{PartitionId, TermId};
use crate::base::limits::{ENTRIES_COUNT_MAX, PARTITION_COUNT_MAX};
use crate::map::operation::SessionCall;
use crate::proto::p2pmap::v1::result::Outcome;
use crate::proto::p2pmap::v1::{
    Entries, KeyValue, NodeStatus, Put, Remove, Removed, Sized, Status, TransferLeadership,
    Versioned, Written,
};

/// Pages of one answer: each is of one partition, and none is empty without need.
const PAGE_COUNT_MAX: usize = ENTRIES_COUNT_MAX + cast::usize_from_u32(PARTITION_COUNT_MAX);

/// A connection to a node on which one request at a time is made.
///
/// Maps are named as a target is: `orders`, or `orders#7` for what partition 7 has of it.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
}

/// The answer to one [`Client::entries`]: what one request gives, which has bounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EntriesAnswer {
    /// Some of the entries.
    pub items: Vec<KeyValue>,
    /// The key to continue after; none: these were the last.
    pub next: Option<Bytes>,
}

impl Client {
    /// Connects to `node`, a host and a port. Connecting, and later each request, may take as long
    /// as `timeout`.
    ///
    /// # Errors
    /// If `node` is no address or nobody answers there.
    pub fn connect(node: &str, timeout: Duration) -> Result<Self, ClientError> {
        Ok(Self { connection: Connection::connect(node, timeout)? })
    }

    /// From here on each request may take as long as `timeout`.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.connection.set_timeout(timeout);
    }

    /// Sets a key's value.
    ///
    /// # Errors
    /// [`ClientError::Refused`] if the condition fails or the node can't do it; any other error
    /// leaves open whether it was done.
    pub fn put(&mut self, map: &str, put: Put) -> Result<Written, ClientError> {
        let answer = self.ask(map, Operation::Put(put))?;
        self.expect(answer, |outcome| match outcome {
            Outcome::Written(written) => Some(written),
            _ => None,
        })
    }

    /// Removes a key. That it was absent is no error.
    ///
    /// # Errors
    /// As of [`Client::put`].
    pub fn remove(&mut self, map: &str, remove: Remove) -> Result<Removed, ClientError> {
        let answer = self.ask(map, Operation::Remove(remove))?;
        self.expect(answer, |outcome| match outcome {
            Outcome::Removed(removed) => Some(removed),
            _ => None,
        })
    }

    /// Removes all entries of a map and returns how many there were.
    ///
    /// # Errors
    /// As of [`Client::put`].
    pub fn clear(&mut self, map: &str) -> Result<u64, ClientError> {
        let answer = self.ask(map, Operation::Clear)?;
        self.expect(answer, |outcome| match outcome {
            Outcome::Cleared(cleared) => Some(cleared.entries),
            _ => None,
        })
    }

    /// A key's entry, if the key is present.
    ///
    /// # Errors
    /// If the node doesn't answer or refuses.
    pub fn get(
        &mut self,
        map: &str,
        key: impl Into<Bytes>,
    ) -> Result<Option<Versioned>, ClientError> {
        let answer = self.ask(map, Operation::Get { key: key.into() })?;
        self.expect(answer, |outcome| match outcome {
            Outcome::Found(found) => Some(found.entry),
            _ => None,
        })
    }

    /// Whether a key is present.
    ///
    /// # Errors
    /// If the node doesn't answer or refuses.
    pub fn exists(&mut self, map: &str, key: impl Into<Bytes>) -> Result<bool, ClientError> {
        let answer = self.ask(map, Operation::Exists { key: key.into() })?;
        self.expect(answer, |outcome| match outcome {
            Outcome::Exists(existence) => Some(existence.exists),
            _ => None,
        })
    }

    /// How many entries a map has, and how many bytes their keys and values are.
    ///
    /// # Errors
    /// If the node doesn't answer or refuses.
    pub fn size(&mut self, map: &str) -> Result<Sized, ClientError> {
        let answer = self.ask(map, Operation::Size)?;
        self.expect(answer, |outcome| match outcome {
            Outcome::Size(size) => Some(size),
            _ => None,
        })
    }

    /// Some entries of a map. To have all, ask again with `start_after` set to the answer's
    /// `next`, until there is none.
    ///
    /// # Errors
    /// If the node doesn't answer or refuses.
    pub fn entries(&mut self, map: &str, entries: Entries) -> Result<EntriesAnswer, ClientError> {
        let asked_after = entries.start_after.clone();
        let mut answer = EntriesAnswer::default();
        let mut page_count = 0;
        let mut response = self.ask(map, Operation::Entries(entries))?;
        loop {
            let page = self.expect(response, |outcome| match outcome {
                Outcome::Page(page) => Some(Some(page)),
                Outcome::QueryClose(_) => Some(None),
                _ => None,
            })?;
            let Some(page) = page else {
                break;
            };
            answer.next = Some(page.next).filter(|next| !next.is_empty());
            answer.items.extend(page.items);
            page_count += 1;
            if answer.items.len() > ENTRIES_COUNT_MAX || page_count > PAGE_COUNT_MAX {
                return Err(self.connection.end(Violation::TooManyEntries));
            }
            response = self.connection.receive()?;
        }
        // Whoever pages through a map must come to its end.
        if answer.items.is_empty() && answer.next.as_ref() == Some(&asked_after) {
            return Err(self.connection.end(Violation::EntriesStandStill));
        }
        Ok(answer)
    }

    /// How the node stands; `partitions`: with all of its partitions.
    ///
    /// # Errors
    /// If the node doesn't answer, or is of a release that doesn't know the question.
    pub fn status(&mut self, partitions: bool) -> Result<NodeStatus, ClientError> {
        self.status_of(Status { partitions, ..Status::default() })
    }

    /// How the node stands, with all of its partitions and their digests.
    ///
    /// # Errors
    /// As of [`Client::status`].
    pub fn digests(&mut self) -> Result<NodeStatus, ClientError> {
        self.status_of(Status { partitions: true, digests: true, ..Status::default() })
    }

    /// Asks the leader of a partition to let another member lead. `Ok`: that has begun, and the
    /// leader's term.
    ///
    /// # Errors
    /// [`ClientError::Refused`] if this node doesn't lead it (then with a hint, if it knows who
    /// does), or the other one is no member or not there.
    pub fn transfer_leadership(
        &mut self,
        partition: PartitionId,
        to: &str,
    ) -> Result<TermId, ClientError> {
        let transfer = TransferLeadership { to: to.to_owned() };
        let target = format!("#{partition}");
        let answer = self.ask(&target, Operation::TransferLeadership(transfer))?;
        self.expect(answer, |outcome| match outcome {
            Outcome::LeadershipTransfer(transfer) => Some(TermId(transfer.term)),
            _ => None,
        })
    }

    fn status_of(&mut self, what: Status) -> Result<NodeStatus, ClientError> {
        let mut status = self.status_from(what)?;
        while status.next_partition > 0 {
            let first = status.next_partition;
            let more = self.status_from(Status { first_partition: first, ..what })?;
            // Whoever pages through the partitions must come to their end.
            let is_next = |place: u32| place > first && place <= status.partition_count;
            if more.next_partition > 0 && !is_next(more.next_partition) {
                return Err(self.connection.end(Violation::PartitionsStandStill));
            }
            status.partitions.extend(more.partitions);
            status.next_partition = more.next_partition;
        }
        Ok(status)
    }

    fn status_from(&mut self, status: Status) -> Result<NodeStatus, ClientError> {
        let answer = self.ask("", Operation::Status(status))?;
        self.expect(answer, |outcome| match outcome {
            Outcome::Status(status) => Some(status),
            _ => None,
        })
    }

    fn ask(&mut self, map: &str, operation: Operation) -> Result<Answer, ClientError> {
        self.ask_in(None, map, operation)
    }

    fn ask_in(
        &mut self,
        session: Option<SessionCall>,
        map: &str,
        operation: Operation,
    ) -> Result<Answer, ClientError> {
        self.connection.send_in(session, map, operation)?;
        self.connection.receive()
    }

    /// Takes what was asked for out of an answer.
    fn expect<T>(
        &mut self,
        answer: Answer,
        take: impl FnOnce(Outcome) -> Option<T>,
    ) -> Result<T, ClientError> {
        if let Outcome::Error(error) = answer.outcome {
            return Err(ClientError::Refused(Box::new(error)));
        }
        take(answer.outcome).ok_or_else(|| self.connection.end(Violation::WrongOutcome))
    }
}
