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
use std::time::{Duration, Instant};

use super::Client;
use super::connection::{Answer, Operation};
use super::error::ClientError;
use crate::base::ids::{PartitionId, Sequence, SessionId};
use crate::map::operation::SessionCall;
use crate::proto::p2pmap::v1::error::Code;
use crate::proto::p2pmap::v1::result::Outcome;
use crate::proto::p2pmap::v1::{Put, Remove, Removed, Written};
use crate::wire::route::Router;

/// How long to wait before the first repetition; each later one waits half as long again.
const RETRY_AFTER: Duration = Duration::from_millis(10);
/// The same at most.
const RETRY_AFTER_MAX: Duration = Duration::from_millis(100);

/// A client whose writes are executed exactly once if they are answered, and at most once if not.
#[derive(Debug)]
pub struct SessionClient {
    node: String,
    timeout: Duration,
    patience: Duration,
    client: Option<Client>,
    router: Option<Router>,
    sessions: BTreeMap<PartitionId, Session>,
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
        Self {
            node: node.to_owned(),
            timeout,
            patience,
            client: None,
            router: None,
            sessions: BTreeMap::new(),
        }
    }

    /// Sets a key's value.
    ///
    /// # Errors
    /// [`ClientError::Refused`] if the condition fails or the node can't do it. If it was not
    /// answered in time, by any other error or as `OUTCOME_UNKNOWN`, or if the session has expired
    /// in the meantime (`SESSION_EXPIRED`), it may or may not have been done, once.
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
        let deadline = now() + self.patience;
        let mut pause = RETRY_AFTER;
        let mut sent = None;
        loop {
            let error = match self.attempt(map, key, operation, &mut sent) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !is_worth_repeating(&error) || now() + pause > deadline {
                return Err(error);
            }
            wait(pause);
            pause = (pause * 3 / 2).min(RETRY_AFTER_MAX);
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
        let (is_first, (partition, call)) = match *sent {
            Some(sent) => (false, sent),
            None => (true, self.next_call(key)?),
        };
        *sent = Some((partition, call));
        let answered = self.client()?.ask_in(Some(call), map, operation.clone());
        let answer = answered.inspect_err(|_| self.client = None)?;
        let code = match &answer.outcome {
            Outcome::Error(error) => Some(error.code()),
            _ => None,
        };
        match code {
            Some(Code::Unavailable | Code::OutcomeUnknown) => Err(refused(answer)),
            Some(Code::SessionExpired) => {
                self.sessions.remove(&partition);
                if is_first {
                    // It was certainly not executed, so another session may do so.
                    *sent = None;
                    return Err(refused(answer));
                }
                Ok(answer)
            }
            _ => Ok(answer),
        }
    }

    /// The next number in the session of the key's partition, which is opened if there is none.
    fn next_call(&mut self, key: &[u8]) -> Result<(PartitionId, SessionCall), ClientError> {
        let router = match self.router {
            Some(router) => router,
            None => {
                let status = self.client()?.status(false);
                let status = status.inspect_err(|_| self.client = None)?;
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
        let opened = client.ask_in(None, &format!("#{partition}"), operation).and_then(|answer| {
            client.expect(answer, |outcome| match outcome {
                Outcome::Session(session) => Some(SessionId(session.session_id)),
                _ => None,
            })
        });
        if !matches!(opened, Ok(_) | Err(ClientError::Refused(_))) {
            self.client = None;
        }
        opened
    }

    fn client(&mut self) -> Result<&mut Client, ClientError> {
        let client = match self.client.take() {
            Some(client) => client,
            None => Client::connect(&self.node, self.timeout)?,
        };
        Ok(self.client.insert(client))
    }
}

const PARTITIONS_MAX: u32 = crate::base::limits::PARTITION_COUNT_MAX;

/// The error that an answer is.
fn refused(answer: Answer) -> ClientError {
    match answer.outcome {
        Outcome::Error(error) => ClientError::Refused(Box::new(error)),
        other => unreachable!("an error, not {other:?}"),
    }
}

/// Whether the same write may have another answer.
fn is_worth_repeating(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. }
        | ClientError::TimedOut { .. }
        | ClientError::Broken { .. }
        | ClientError::Closed { .. } => true,
        ClientError::Refused(error) => {
            matches!(error.code(), Code::Unavailable | Code::OutcomeUnknown | Code::SessionExpired)
        }
        ClientError::Ended { error, .. } => error.code() == Code::Unavailable,
        ClientError::Address { .. }
        | ClientError::Violation { .. }
        | ClientError::TooLong { .. } => false,
    }
}

/// The client waits on a real socket; nothing of it is replayed.
#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}

#[allow(clippy::disallowed_methods)]
fn wait(pause: Duration) {
    std::thread::sleep(pause);
}
