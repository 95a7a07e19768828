//! Writes that are sent until they are answered, and executed once.
//!
//! A [`SessionClient`] opens a session in a partition when it first writes there. Every write gets
//! the next number of its session. When an answer doesn't come, or says that nobody knows what came
//! of it, the same write is sent again with the same number, over a new connection if need be,
//! until it is answered or patience ends. The node executes it once and answers alike each time.
//!
//! One write is under way at a time, so each of them says that all earlier results are no longer
//! needed. That makes giving up safe as well: what was given up is refused if it comes late.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Client;
use super::connection::{Answer, Operation};
use super::error::ClientError;
use super::nodes::{Deadline, Nodes, Trace, is_worth_repeating, trace_of};
use super::waiting::now;
use crate::base::ids::{PartitionId, Sequence, SessionId};
use crate::map::operation::SessionCall;
use crate::proto::p2pmap::v1::error::Code;
use crate::proto::p2pmap::v1::result::Outcome;
use crate::proto::p2pmap::v1::{Put, Remove, Removed, Written};
use crate::wire::route::Router;

/// A client whose writes are executed exactly once if they are answered, and at most once if not.
#[derive(Debug)]
pub struct SessionClient {
    nodes: Nodes,
    /// How long an attempt may take at most.
    timeout: Duration,
    /// How long the next one may take: a member that is there answers sooner, and one that isn't
    /// shall not be waited for. Doubled by each attempt that ends without an answer; after one,
    /// what that took is the measure, so that a cluster that is slow isn't asked everything twice.
    attempt_timeout: Duration,
    patience: Duration,
    router: Option<Router>,
    sessions: BTreeMap<PartitionId, Session>,
    is_repeated: bool,
}

/// A session in one partition.
#[derive(Clone, Copy, Debug)]
struct Session {
    id: SessionId,
    last: Sequence,
}

impl SessionClient {
    /// A client of `node`, a host and a port; it connects when it is needed. Each connection and
    /// each answer may take as long as `timeout`, a write with all of its repetitions as long as
    /// `patience`.
    #[must_use]
    pub fn new(node: &str, timeout: Duration, patience: Duration) -> Self {
        Self::of_members(vec![node.to_owned()], timeout, patience)
    }

    /// The same of several members of a cluster: when one doesn't answer, or can't, the write is
    /// sent to the next one. `timeout` is for all of them in turn; none is waited for so long at
    /// first, only when none of them has answered sooner.
    ///
    /// # Panics
    /// If there are no addresses.
    #[must_use]
    pub fn of_members(addresses: Vec<String>, timeout: Duration, patience: Duration) -> Self {
        let nodes = Nodes::new(addresses);
        let timeout = nodes.share_of(timeout);
        let attempt_timeout = nodes.first_of(timeout);
        Self {
            nodes,
            timeout,
            attempt_timeout,
            patience,
            router: None,
            sessions: BTreeMap::new(),
            is_repeated: false,
        }
    }

    /// Sets a key's value.
    ///
    /// # Errors
    /// [`ClientError::OutcomeUnknown`] if it was sent and not answered in time, or if the session
    /// has expired in the meantime: it may or may not have been done, once. With any other error it
    /// wasn't.
    pub fn put(&mut self, map: &str, put: Put) -> Result<Written, ClientError> {
        let key = put.key.clone();
        let answer = self.write(map, &key, &Operation::Put(put))?;
        self.client()?.expect(answer, |outcome| match outcome {
            Outcome::Written(written) => Some(written),
            _ => None,
        })
    }

    /// Removes a key. That it was absent is no error.
    ///
    /// # Errors
    /// As of [`SessionClient::put`].
    pub fn remove(&mut self, map: &str, remove: Remove) -> Result<Removed, ClientError> {
        let key = remove.key.clone();
        let answer = self.write(map, &key, &Operation::Remove(remove))?;
        self.client()?.expect(answer, |outcome| match outcome {
            Outcome::Removed(removed) => Some(removed),
            _ => None,
        })
    }

    /// Writes something to `key`, and returns the answer as it came, with the slot of the log that
    /// it is of, and whether earlier copies of the write may have been executed first: for those
    /// who check what a cluster says. That a condition doesn't hold is an answer here, as is any
    /// other error that is certain.
    ///
    /// # Errors
    /// As of [`SessionClient::put`].
    pub fn answer(
        &mut self,
        map: &str,
        key: &[u8],
        operation: &Operation,
    ) -> Result<(Answer, bool), ClientError> {
        let answer = self.write(map, key, operation)?;
        Ok((answer, self.is_repeated))
    }

    /// Closes all sessions, as far as the node can be reached. Those that aren't closed expire.
    pub fn close(&mut self) {
        for (partition, session) in std::mem::take(&mut self.sessions) {
            let call =
                SessionCall { session: session.id, sequence: Sequence(0), ack_below: Sequence(0) };
            let target = format!("#{partition}");
            let Ok(client) = self.client() else { return };
            if client.ask_in(Some(call), &target, Operation::CloseSession).is_err() {
                return;
            }
        }
    }

    /// Sends a write until it is answered; the answer may be an error that is certain.
    fn write(
        &mut self,
        map: &str,
        key: &[u8],
        operation: &Operation,
    ) -> Result<Answer, ClientError> {
        let mut deadline = Deadline::after(self.patience);
        let (mut sent, mut trace) = (None, Trace::None);
        self.is_repeated = false;
        loop {
            let begun = now();
            let error = match self.attempt(map, key, operation, &mut sent) {
                Ok(answer) => {
                    let usual = begun.elapsed() * USUAL_TIMES;
                    let first = self.nodes.first_of(self.timeout);
                    self.attempt_timeout = usual.clamp(first, self.timeout);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            self.nodes.leave(&error);
            if !matches!(error.code(), Some(Code::Unavailable | Code::SessionExpired)) {
                self.attempt_timeout = (self.attempt_timeout * 2).min(self.timeout);
            }
            if sent.is_some() && trace_of(&error) == Trace::Unknown {
                trace = Trace::Unknown;
                self.is_repeated = true;
            }
            let has_expired = error.code() == Some(Code::SessionExpired);
            if has_expired && trace == Trace::None {
                // It was certainly not executed, so another session may do so.
                sent = None;
            }
            let is_over = has_expired && sent.is_some();
            if is_over || !is_worth_repeating(&error) || !deadline.pause() {
                return Err(match trace {
                    Trace::None => error,
                    Trace::Unknown => ClientError::OutcomeUnknown { last: Box::new(error) },
                });
            }
        }
    }

    /// Sends a write once, as `sent` before if it was. Errors that leave it open or say that it can
    /// be tried again are errors here; others are its answer.
    fn attempt(
        &mut self,
        map: &str,
        key: &[u8],
        operation: &Operation,
        sent: &mut Option<(PartitionId, SessionCall)>,
    ) -> Result<Answer, ClientError> {
        let (partition, call) = match *sent {
            Some(sent) => sent,
            None => self.next_call(key)?,
        };
        *sent = Some((partition, call));
        let answer = self.client()?.ask_in(Some(call), map, operation.clone())?;
        let code = match &answer.outcome {
            Outcome::Error(error) => Some(error.code()),
            _ => None,
        };
        match code {
            Some(Code::Unavailable | Code::OutcomeUnknown) => Err(refused(answer)),
            Some(Code::SessionExpired) => {
                self.sessions.remove(&partition);
                Err(refused(answer))
            }
            _ => Ok(answer),
        }
    }

    /// The next number in the session of the key's partition, which is opened if there is none.
    fn next_call(&mut self, key: &[u8]) -> Result<(PartitionId, SessionCall), ClientError> {
        let router = match self.router {
            Some(router) => router,
            None => {
                let status = self.client()?.status(false)?;
                *self.router.insert(Router::new(status.partition_count.clamp(1, PARTITIONS_MAX)))
            }
        };
        let partition = router.partition_of_key(key);
        let session = match self.sessions.get(&partition) {
            Some(session) => *session,
            None => Session { id: self.open(partition)?, last: Sequence(0) },
        };
        let session = Session { last: session.last.next(), ..session };
        self.sessions.insert(partition, session);
        let (session, sequence) = (session.id, session.last);
        Ok((partition, SessionCall { session, sequence, ack_below: sequence }))
    }

    fn open(&mut self, partition: PartitionId) -> Result<SessionId, ClientError> {
        let client = self.client()?;
        let operation = Operation::OpenSession { ttl_ms: 0 };
        let answer = client.ask_in(None, &format!("#{partition}"), operation)?;
        client.expect(answer, |outcome| match outcome {
            Outcome::Session(session) => Some(SessionId(session.session_id)),
            _ => None,
        })
    }

    fn client(&mut self) -> Result<&mut Client, ClientError> {
        let timeout = self.attempt_timeout;
        let client = self.nodes.client(timeout)?;
        client.set_timeout(timeout);
        Ok(client)
    }
}

/// An attempt that takes so many times as long as the last answer did is given up.
const USUAL_TIMES: u32 = 4;
const PARTITIONS_MAX: u32 = crate::base::limits::PARTITION_COUNT_MAX;

/// The error that an answer is.
fn refused(answer: Answer) -> ClientError {
    match answer.outcome {
        Outcome::Error(error) => ClientError::Refused(Box::new(error)),
        other => unreachable!("an error, not {other:?}"),
    }
}
