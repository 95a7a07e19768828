//! The clients: writers that put on a fixed schedule, however long the cluster takes.
//!
//! *Bundled* ones, one for each partition, write in sessions and know all members: each put is
//! repeated until it is answered, and happens once. They say when what was acknowledged. *Single*
//! ones stay with their node while it lives and send everything once, so that it is seen what the
//! cluster refuses and leaves open.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;

use super::acks::{Ack, Acks};
use super::{DrillError, Settings, ns_of};
use crate::base::cast::{u64_from, usize_from_u32};
use crate::base::ids::PartitionId;
use crate::base::time::{Monotonic, NS_PER_MS, NS_PER_S};
use crate::client::Client;
use crate::client::error::{ClientError, Phase};
use crate::client::session::SessionClient;
use crate::proto::p2pmap::v1::Put;
use crate::proto::p2pmap::v1::error::Code;
use crate::runtime::clock::Clock;
use crate::wire::route::Router;

const MAP: &str = "drill";
const VALUE_SIZE_BYTES: usize = 64;
/// What the command line's client gives an answer, and a write with `--retry-for 10s`.
const BUNDLED_TIMEOUT: Duration = Duration::from_secs(5);
const BUNDLED_PATIENCE: Duration = Duration::from_secs(10);
/// Single clients of each node, and how often each of them puts something.
const SINGLE_COUNT_PER_NODE: usize = 2;
const SINGLE_INTERVAL: Duration = Duration::from_millis(10);
const SINGLE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it may take until each partition has acknowledged something.
const FIRST_ACKS_NS_MAX: u64 = 60 * NS_PER_S;

/// What an error leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// It was certainly not done; it may be tried again.
    Unavailable,
    /// It may have been done.
    Unknown,
    /// Anything else: nobody should be told that.
    Other,
}

/// What clients of one kind were told.
#[derive(Debug, Default)]
pub(super) struct Tally {
    acknowledged_count: AtomicU64,
    errors: Mutex<BTreeMap<Kind, Errors>>,
}

/// Errors of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Errors {
    /// How many.
    pub(super) count: u64,
    /// The first one.
    pub(super) first: String,
}

/// The clients of a drill, at work until this is dropped.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) acks: Arc<Acks>,
    pub(super) bundled: Arc<Tally>,
    pub(super) single: Arc<Tally>,
    clock: Clock,
    is_over: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    /// The clients begin.
    pub(super) fn start(settings: &Settings, addresses: &[String], clock: Clock) -> Self {
        let mut load = Self {
            acks: Arc::new(Acks::of(settings.partition_count)),
            bundled: Arc::default(),
            single: Arc::default(),
            clock,
            is_over: Arc::default(),
            writers: Vec::new(),
        };
        let router = Router::new(settings.partition_count);
        let key = |partition| Bytes::from(router.tag_of(PartitionId(partition)));
        let keys: Vec<Bytes> = load.acks.partitions().map(key).collect();
        for (partition, key) in load.acks.partitions().zip(&keys) {
            load.start_bundled(settings, partition, key.clone(), addresses);
        }
        for number in 0..addresses.len() * SINGLE_COUNT_PER_NODE {
            load.start_single(number, keys.clone(), addresses);
        }
        load
    }

    fn start_bundled(
        &mut self,
        settings: &Settings,
        partition: u32,
        key: Bytes,
        addresses: &[String],
    ) {
        let interval_ns = ns_of(settings.interval);
        // Spread over the interval, and over the nodes.
        let offset_ns = interval_ns * u64::from(partition) / u64::from(settings.partition_count);
        let addresses = rotated(addresses, usize_from_u32(partition));
        let mut client = SessionClient::of_members(addresses, BUNDLED_TIMEOUT, BUNDLED_PATIENCE);
        let (acks, tally) = (Arc::clone(&self.acks), Arc::clone(&self.bundled));
        let clock = self.clock;
        self.start_writer(interval_ns, offset_ns, move |due| {
            match client.put(MAP, put(&key)) {
                Ok(_) => acks.add(partition, Ack { due, at: clock.monotonic() }),
                Err(error) => return tally.add(&error),
            }
            tally.acknowledge();
        });
    }

    fn start_single(&mut self, number: usize, keys: Vec<Bytes>, addresses: &[String]) {
        let interval_ns = ns_of(SINGLE_INTERVAL);
        let count = u64_from(addresses.len() * SINGLE_COUNT_PER_NODE);
        let offset_ns = interval_ns * u64_from(number) / count;
        let addresses = rotated(addresses, number);
        let mut client = SingleClient { addresses, client: None };
        let tally = Arc::clone(&self.single);
        let mut next = number;
        self.start_writer(interval_ns, offset_ns, move |_| {
            next = (next + 1) % keys.len();
            match client.put(put(&keys[next])) {
                Ok(()) => tally.acknowledge(),
                Err(error) => tally.add(&error),
            }
        });
    }

    /// A thread that writes at fixed times. When one write takes long, those that were due in the
    /// meantime follow at once.
    fn start_writer(
        &mut self,
        interval_ns: u64,
        offset_ns: u64,
        mut write: impl FnMut(Monotonic) + Send + 'static,
    ) {
        let (clock, is_over) = (self.clock, Arc::clone(&self.is_over));
        let mut due = clock.monotonic().after_ns(offset_ns);
        self.writers.push(std::thread::spawn(move || {
            while !is_over.load(Ordering::Acquire) {
                wait_until(&clock, due);
                write(due);
                due = due.after_ns(interval_ns);
            }
        }));
    }

    /// Waits until each partition has acknowledged something.
    pub(super) fn await_first_acks(&self) -> Result<(), DrillError> {
        let by = self.clock.monotonic().after_ns(FIRST_ACKS_NS_MAX);
        while !self.acks.are_of_all() {
            if self.clock.monotonic() > by {
                let what = "each partition has acknowledged a put".to_owned();
                return Err(DrillError::Late { what });
            }
            wait_until(&self.clock, self.clock.monotonic().after_ns(10 * NS_PER_MS));
        }
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        for writer in self.writers.drain(..) {
            writer.join().expect("a writer doesn't panic");
        }
    }
}

/// A client that sends everything once.
#[derive(Debug)]
struct SingleClient {
    /// The first of them is the one it talks to.
    addresses: Vec<String>,
    client: Option<Client>,
}

impl SingleClient {
    fn put(&mut self, put: Put) -> Result<(), ClientError> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => match Client::connect(&self.addresses[0], SINGLE_TIMEOUT) {
                Ok(client) => client,
                Err(error) => {
                    self.addresses.rotate_left(1);
                    return Err(error);
                }
            },
        };
        match client.put(MAP, put) {
            Ok(_) => self.client = Some(client),
            Err(error @ ClientError::Refused(_)) => {
                // The connection is as good as before.
                self.client = Some(client);
                return Err(error);
            }
            Err(error) => {
                self.addresses.rotate_left(1);
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Tally {
    fn acknowledge(&self) {
        self.acknowledged_count.fetch_add(1, Ordering::Relaxed);
    }

    fn add(&self, error: &ClientError) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let first = || Errors { count: 0, first: error.to_string() };
        errors.entry(kind_of(error)).or_insert_with(first).count += 1;
    }

    /// How many puts were acknowledged, and the errors.
    pub(super) fn read(&self) -> (u64, BTreeMap<Kind, Errors>) {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        (self.acknowledged_count.load(Ordering::Relaxed), errors.clone())
    }
}

/// What an error of a put that was sent at most once says of it.
fn kind_of(error: &ClientError) -> Kind {
    match error {
        ClientError::Unreachable { .. }
        | ClientError::TimedOut { phase: Phase::Connecting, .. } => Kind::Unavailable,
        // It was sent, or a part of it.
        ClientError::TimedOut { .. } | ClientError::Broken { .. } | ClientError::Closed { .. } => {
            Kind::Unknown
        }
        ClientError::OutcomeUnknown { last } => match &**last {
            ClientError::Violation { .. } => Kind::Other,
            _ => Kind::Unknown,
        },
        ClientError::Refused(refused) => match refused.code() {
            Code::Unavailable => Kind::Unavailable,
            Code::OutcomeUnknown => Kind::Unknown,
            _ => Kind::Other,
        },
        ClientError::Ended { error, .. } if error.code() == Code::Unavailable => Kind::Unknown,
        ClientError::Ended { .. }
        | ClientError::Address { .. }
        | ClientError::Violation { .. }
        | ClientError::TooLong { .. } => Kind::Other,
    }
}

/// Lets time pass until then.
pub(super) fn wait_until(clock: &Clock, then: Monotonic) {
    loop {
        let left_ns = then.since_ns(clock.monotonic());
        if left_ns == 0 {
            return;
        }
        std::thread::park_timeout(Duration::from_nanos(left_ns));
    }
}

/// With another one at the front.
fn rotated(addresses: &[String], by: usize) -> Vec<String> {
    let mut addresses = addresses.to_vec();
    let first = by % addresses.len();
    addresses.rotate_left(first);
    addresses
}

fn put(key: &Bytes) -> Put {
    let value = Bytes::from_static(&[b'v'; VALUE_SIZE_BYTES]);
    Put { key: key.clone(), value, ..Put::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::error::Violation;
    use crate::proto::p2pmap::v1::Error;

    fn refused(code: Code) -> ClientError {
        ClientError::Refused(Box::new(Error { code: code.into(), ..Error::default() }))
    }

    fn timed_out(phase: Phase) -> ClientError {
        ClientError::TimedOut { node: "a:1".to_owned(), phase, after: SINGLE_TIMEOUT }
    }

    #[test]
    fn what_was_sent_and_not_answered_is_unknown_and_what_was_not_sent_unavailable() {
        let broken = ClientError::Broken {
            node: "a:1".to_owned(),
            source: std::io::ErrorKind::ConnectionReset.into(),
        };
        for error in [timed_out(Phase::Answer), refused(Code::OutcomeUnknown), broken] {
            assert_eq!(kind_of(&error), Kind::Unknown, "{error}");
        }
        for error in [timed_out(Phase::Connecting), refused(Code::Unavailable)] {
            assert_eq!(kind_of(&error), Kind::Unavailable, "{error}");
        }
    }

    #[test]
    fn what_nobody_should_be_told_is_neither() {
        let violation = || ClientError::Violation {
            node: "a:1".to_owned(),
            violation: Violation::UnexpectedMessage,
        };
        let sent = ClientError::OutcomeUnknown { last: Box::new(violation()) };
        for error in [refused(Code::Internal), refused(Code::SessionExpired), violation(), sent] {
            assert_eq!(kind_of(&error), Kind::Other, "{error}");
        }
    }

    #[test]
    fn tally_keeps_the_first_error_of_each_kind() {
        let tally = Tally::default();
        tally.acknowledge();
        tally.add(&timed_out(Phase::Answer));
        tally.add(&refused(Code::OutcomeUnknown));
        let (acknowledged_count, errors) = tally.read();
        let first = timed_out(Phase::Answer).to_string();
        let expected = BTreeMap::from([(Kind::Unknown, Errors { count: 2, first })]);
        assert_eq!((acknowledged_count, errors), (1, expected));
    }
}
