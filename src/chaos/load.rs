//! The clients: a few, each with one operation under way, that meet on a few keys.
//!
//! They are the bundled ones with all members' addresses: those with an even number write without
//! a session (a write whose answer is lost is of unknown outcome), the others with one (it is
//! repeated until it is answered, and happens once). Every value is written once. One in four keys
//! is never removed: of such a key no unknown removal can explain that a value is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::record::Record;
use crate::base::cast::{u16_from, usize_from, usize_from_u32};
use crate::base::ids::Index;
use crate::base::prng::Prng;
use crate::client::cluster::ClusterClient;
use crate::client::connection::Operation;
use crate::client::error::ClientError;
use crate::client::session::SessionClient;
use crate::proto::p2pmap::v1::command;
use crate::proto::p2pmap::v1::error::Code;
use crate::sim::ClientId;
use crate::sim::client::codec::{outcome_of, write};
use crate::sim::history::{Action, Expectation, Freshness, History, Key, Outcome, Universe};

/// How long a request may take, with all of its repetitions.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long one answer to a write in a session may take, with all members tried in turn.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The longest pause of a client between two operations.
const PAUSE_US_MAX: u64 = 16_000;
/// Values are so long, or one in so many times a hundred times as long.
const VALUE_SIZE_BYTES_MAX: u64 = 100;
const LONG_VALUE_ONE_IN: u64 = 50;
/// A client returns so often to the key whose version it knows.
const RETURNS_ONE_IN: u64 = 4;

/// The clients of a run, at work until they are told to stop.
#[derive(Debug)]
pub(super) struct Load {
    is_over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct LoadClient {
    id: ClientId,
    prng: Prng,
    record: Arc<Record>,
    plain: ClusterClient,
    session: Option<SessionClient>,
    /// The version that it saw last, and of which key.
    last_seen: Option<(Key, Index)>,
}

impl Load {
    /// So many clients begin.
    pub(super) fn start(count: u32, seed: u64, addresses: &[String], record: &Arc<Record>) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let clients = (0..count).map(|number| {
            // Each begins with another member.
            let mut addresses = addresses.to_vec();
            let first = usize_from_u32(number) % addresses.len();
            addresses.rotate_left(first);
            let mut client = LoadClient::new(ClientId(number), seed, addresses, record);
            let is_over = Arc::clone(&is_over);
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Acquire) {
                    client.run_one();
                }
            })
        });
        let clients = clients.collect();
        Self { is_over, clients }
    }

    /// Waits until each has ended what it is about.
    pub(super) fn stop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        for client in self.clients.drain(..) {
            client.join().expect("a client doesn't panic");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
    }
}

impl LoadClient {
    pub(super) fn new(
        id: ClientId,
        seed: u64,
        addresses: Vec<String>,
        record: &Arc<Record>,
    ) -> Self {
        let session = (id.0 % 2 == 1)
            .then(|| SessionClient::of_members(addresses.clone(), TIMEOUT, PATIENCE));
        Self {
            id,
            prng: Prng::new(seed, &format!("client {}", id.0)),
            record: Arc::clone(record),
            plain: ClusterClient::new(addresses, PATIENCE),
            session,
            last_seen: None,
        }
    }

    fn run_one(&mut self) {
        let pause = Duration::from_micros(self.prng.below(PAUSE_US_MAX));
        std::thread::park_timeout(pause);
        let action = self.choose();
        self.ask(action);
    }

    fn choose(&mut self) -> Action {
        let universe = self.record.with(|history| history.universe.clone());
        let key = match self.last_seen {
            Some((key, _)) if self.prng.one_in(RETURNS_ONE_IN) => key,
            _ => Key {
                map: low_u8(self.prng.below(u64::from(universe.map_count))),
                number: u16_from(usize_from(self.prng.below(u64::from(universe.key_count)))),
            },
        };
        let wants_previous = self.prng.one_in(3);
        match self.prng.below(10) {
            0..=3 => {
                let freshness = Freshness::Linearizable;
                match self.prng.one_in(5) {
                    true => Action::Exists { key, freshness },
                    false => Action::Get { key, freshness },
                }
            }
            4 if !key.number.is_multiple_of(4) => {
                let condition = self.choose_condition(key);
                Action::Remove { key, condition, wants_previous }
            }
            _ => {
                let long = if self.prng.one_in(LONG_VALUE_ONE_IN) { 100 } else { 1 };
                let size = (1 + self.prng.below(VALUE_SIZE_BYTES_MAX)) * long;
                let value = self.record.with(|history| history.new_value(usize_from(size)));
                let condition = self.choose_condition(key);
                Action::Put { key, value, condition, wants_previous }
            }
        }
    }

    fn choose_condition(&mut self, key: Key) -> Option<Expectation> {
        match self.prng.below(10) {
            0 => Some(Expectation::Absent),
            1 => Some(Expectation::Present),
            2 | 3 => match self.last_seen {
                Some((seen, version)) if seen == key => Some(Expectation::Version(version)),
                _ => None,
            },
            _ => None,
        }
    }

    /// Asks it and writes down what comes of it. False: it isn't certain that it was done.
    pub(super) fn ask(&mut self, action: Action) -> bool {
        let Some(key) = action.key() else { return false };
        let operation = self.record.with(|history| operation_of(&action, history));
        let number = self.record.invoke(self.id, action);
        let map = Universe::map_name(key.map);
        let told = match &mut self.session {
            Some(session) if action.is_write() => {
                session.answer(&map, &Universe::key_bytes(key), &operation)
            }
            _ => self.plain.answer(&map, &operation).map(|answer| (answer, false)),
        };
        let (mut seen, mut is_done) = (None, false);
        self.record.end(number, |history| {
            let outcome = match told {
                Ok((answer, is_repeated)) => {
                    let index = Index(answer.index);
                    outcome_of(&action, index, answer.outcome, is_repeated, history)?
                }
                Err(error) => outcome_of_error(&error)?,
            };
            is_done = !matches!(outcome, Outcome::Failed(_) | Outcome::Unknown);
            seen = match &outcome {
                Outcome::Written { index, .. } => Some((key, *index)),
                Outcome::Found { entry: Some(entry), .. } => Some((key, entry.version)),
                _ => None,
            };
            Ok(outcome)
        });
        self.last_seen = seen.or(self.last_seen);
        is_done
    }
}

fn operation_of(action: &Action, history: &History) -> Operation {
    let key = |key| Universe::key_bytes(key).into();
    match *action {
        Action::Get { key: at, .. } => Operation::Get { key: key(at) },
        Action::Exists { key: at, .. } => Operation::Exists { key: key(at) },
        _ => match write(action, history) {
            Some(command::Operation::Put(put)) => Operation::Put(put),
            Some(command::Operation::Remove(remove)) => Operation::Remove(remove),
            other => unreachable!("clients don't ask for {other:?}"),
        },
    }
}

/// What is certain when there is no answer.
fn outcome_of_error(error: &ClientError) -> Result<Outcome, String> {
    match error {
        ClientError::OutcomeUnknown { last } => match &**last {
            ClientError::Violation { .. } => Err(last.to_string()),
            _ => Ok(Outcome::Unknown),
        },
        ClientError::Violation { .. } => Err(error.to_string()),
        ClientError::Refused(refused) => match refused.code() {
            Code::OutcomeUnknown => Ok(Outcome::Unknown),
            code @ (Code::Unavailable | Code::ResourceExhausted | Code::SessionExpired) => {
                Ok(Outcome::Failed(code))
            }
            _ => Err(error.to_string()),
        },
        // It was never sent, or it was a read: nothing came of it.
        _ => Ok(Outcome::Failed(Code::Unavailable)),
    }
}

fn low_u8(number: u64) -> u8 {
    u8::try_from(number).expect("maps are few")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::error::{Phase, Violation};
    use crate::proto::p2pmap::v1::Error;

    fn refused(code: Code) -> ClientError {
        ClientError::Refused(Box::new(Error { code: code.into(), ..Error::default() }))
    }

    fn timed_out(phase: Phase) -> ClientError {
        ClientError::TimedOut { node: "a:1".to_owned(), phase, after: PATIENCE }
    }

    #[test]
    fn only_what_certainly_had_no_effect_has_failed() {
        let unknown = ClientError::OutcomeUnknown { last: Box::new(timed_out(Phase::Answer)) };
        for error in [unknown, refused(Code::OutcomeUnknown)] {
            assert_eq!(outcome_of_error(&error), Ok(Outcome::Unknown), "{error}");
        }
        for code in [Code::Unavailable, Code::ResourceExhausted, Code::SessionExpired] {
            assert_eq!(outcome_of_error(&refused(code)), Ok(Outcome::Failed(code)));
        }
        let unsent = timed_out(Phase::Connecting);
        assert_eq!(outcome_of_error(&unsent), Ok(Outcome::Failed(Code::Unavailable)));
    }

    #[test]
    fn what_no_node_may_say_to_these_clients_is_no_outcome() {
        let violation = || ClientError::Violation {
            node: "a:1".to_owned(),
            violation: Violation::UnexpectedMessage,
        };
        let sent = ClientError::OutcomeUnknown { last: Box::new(violation()) };
        let codes = [Code::InvalidArgument, Code::Internal, Code::Unimplemented];
        for error in codes.map(refused).into_iter().chain([violation(), sent]) {
            assert!(outcome_of_error(&error).is_err(), "{error}");
        }
    }

    #[test]
    fn keys_that_are_never_removed_are_asked_for_too() {
        let record = Arc::new(Record::start());
        let addresses = vec!["127.0.0.1:1".to_owned()];
        let mut client = LoadClient::new(ClientId(0), 1, addresses, &record);
        let (mut kept_count, mut removed_count) = (0, 0);
        for _ in 0..2_000 {
            match client.choose() {
                Action::Remove { key, .. } => {
                    assert!(!key.number.is_multiple_of(4), "it is never removed");
                    removed_count += 1;
                }
                Action::Put { key, .. } if key.number.is_multiple_of(4) => kept_count += 1,
                _ => {}
            }
        }
        assert!(kept_count > 100 && removed_count > 50, "{kept_count} {removed_count}");
    }
}
