//! One TCP connection on which many requests may be under way: `send`, `send`, …, `receive`.
//!
//! Requests are gathered and written when someone waits for an answer, or when enough of them have
//! come together. Every request gets exactly one last answer ([`Answer::is_last`]); only entries
//! have answers before their last one. The first error of the connection is its end: afterwards
//! every call is [`ClientError::Closed`], so that a late answer is never taken for another's.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message as _;

use super::error::{ClientError, Phase, Violation};
use super::waiting::now;
use crate::base::cast;
use crate::base::ids::CorrelationId;
use crate::base::limits::{
    FRAME_PREFIX_SIZE_BYTES, FRAME_SENT_SIZE_BYTES_MAX, OPERATION_TIMEOUT_NS_MAX,
    REQUESTS_PER_CONNECTION_MAX,
};
use crate::base::time::NS_PER_MS;
use crate::map::operation::SessionCall;
use crate::proto::atomix::map::message::Message as Kinds;
use crate::proto::atomix::map::{CommandRequest, Indexed, Message, QueryRequest};
use crate::proto::atomix::primitive::Name;
use crate::proto::p2pmap::v1::result::Outcome;
use crate::proto::p2pmap::v1::{
    Clear, CloseSession, Command, Entries, Exists, Get, KeepSession, OpenSession, Put, Query,
    Remove, Result as ProtoResult, Size, Status, TransferLeadership, command, query,
};
use crate::wire::frame::{self, Flag, FrameError};

/// Requests gathered before they are written though nobody waits.
const GATHERED_SIZE_BYTES_MAX: usize = 64 << 10;
/// The most that one read from the socket takes.
const READ_SIZE_BYTES: usize = 64 << 10;

/// What a client asks of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Set a key's value.
    Put(Put),
    /// Remove a key.
    Remove(Remove),
    /// Remove all entries.
    Clear,
    /// Open a session in the partition that the target names.
    OpenSession {
        /// How long it outlives its last command; 0: as long as the node likes.
        ttl_ms: u64,
    },
    /// Keep the session alive in which the request is made.
    KeepSession,
    /// End the session in which the request is made.
    CloseSession,
    /// A key's entry.
    Get {
        /// The key.
        key: Bytes,
    },
    /// Whether a key is present.
    Exists {
        /// The key.
        key: Bytes,
    },
    /// The number of entries and their bytes.
    Size,
    /// Entries, in pages.
    Entries(Entries),
    /// How the node stands: asked of no map.
    Status(Status),
    /// That another member leads the partition that the target names.
    TransferLeadership(TransferLeadership),
}

/// One response of the node.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Which request it answers.
    pub correlation: CorrelationId,
    /// The log index of the command, or the one that the read reflects; 0 if the node says none.
    pub index: u64,
    /// What came of it.
    pub outcome: Outcome,
}

impl Answer {
    /// Whether no other answer to the same request follows.
    #[must_use]
    pub fn is_last(&self) -> bool {
        !matches!(self.outcome, Outcome::Page(_))
    }
}

/// Which kind of response a request has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Command,
    Query,
}

/// A connection with requests under way.
#[derive(Debug)]
pub struct Connection {
    node: String,
    stream: TcpStream,
    timeout: Duration,
    open: BTreeMap<CorrelationId, Kind>,
    last_correlation: CorrelationId,
    gathered: BytesMut,
    received: BytesMut,
    chunk: Box<[u8]>,
    ended: bool,
}

impl Connection {
    /// Connects to `node`, a host and a port. Connecting, each write and each wait for an answer
    /// may take as long as `timeout`.
    ///
    /// # Errors
    /// If `node` is no address or nobody answers there.
    pub fn connect(node: &str, timeout: Duration) -> Result<Self, ClientError> {
        let stream = connect_to_any(node, &resolve(node)?, timeout)?;
        let prepared =
            stream.set_nodelay(true).and_then(|()| stream.set_write_timeout(Some(timeout)));
        prepared.map_err(|source| ClientError::Broken { node: node.to_owned(), source })?;
        Ok(Self {
            node: node.to_owned(),
            stream,
            timeout,
            open: BTreeMap::new(),
            last_correlation: 0,
            gathered: BytesMut::new(),
            received: BytesMut::new(),
            chunk: vec![0; READ_SIZE_BYTES].into_boxed_slice(),
            ended: false,
        })
    }

    /// From here on each write and each wait for an answer may take as long as this.
    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// How many requests wait for their last answer.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.open.len()
    }

    /// Makes a request of `map` and returns what its answers will be called.
    ///
    /// # Errors
    /// If the request is too long (nothing was sent), or the connection breaks or has ended.
    ///
    /// # Panics
    /// If [`REQUESTS_PER_CONNECTION_MAX`] requests are open: the node would stop reading, and who
    /// doesn't receive would wait for ever.
    pub fn send(&mut self, map: &str, operation: Operation) -> Result<CorrelationId, ClientError> {
        self.send_in(None, map, operation)
    }

    /// As [`Connection::send`], for a command in a session. A query is in none.
    ///
    /// # Errors
    /// As [`Connection::send`].
    ///
    /// # Panics
    /// As [`Connection::send`].
    pub fn send_in(
        &mut self,
        session: Option<SessionCall>,
        map: &str,
        operation: Operation,
    ) -> Result<CorrelationId, ClientError> {
        assert!(self.open.len() < REQUESTS_PER_CONNECTION_MAX, "receive answers before sending on");
        self.check_open()?;
        let correlation = self.last_correlation + 1;
        let envelope = Envelope { session, correlation, timeout_ms: self.operation_timeout_ms() };
        let (kind, message) = message(map, operation, &envelope);
        let size_bytes = message.encoded_len();
        if size_bytes > FRAME_SENT_SIZE_BYTES_MAX {
            return Err(ClientError::TooLong { size_bytes });
        }
        self.gathered.reserve(FRAME_PREFIX_SIZE_BYTES + size_bytes);
        self.gathered.extend_from_slice(&[0]);
        self.gathered.extend_from_slice(&cast::u32_from(size_bytes).to_be_bytes());
        message.encode(&mut self.gathered).expect("room was reserved for the message");
        self.last_correlation = correlation;
        self.open.insert(correlation, kind);
        if self.gathered.len() >= GATHERED_SIZE_BYTES_MAX {
            self.flush()?;
        }
        Ok(correlation)
    }

    /// Writes the requests that were gathered.
    ///
    /// # Errors
    /// If the connection breaks or has ended.
    pub fn flush(&mut self) -> Result<(), ClientError> {
        self.check_open()?;
        let deadline = now() + self.timeout;
        while !self.gathered.is_empty() {
            match self.stream.write(&self.gathered) {
                Ok(0) => return Err(self.break_off(io::ErrorKind::WriteZero.into())),
                Ok(written) => self.gathered.advance(written),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if is_timeout(&e) => return Err(self.time_out(Phase::Sending)),
                Err(e) => return Err(self.break_off(e)),
            }
            if !self.gathered.is_empty() && now() >= deadline {
                return Err(self.time_out(Phase::Sending));
            }
        }
        Ok(())
    }

    /// Waits for the next answer to any of the open requests.
    ///
    /// # Errors
    /// If none comes in time, or the connection breaks, has ended or is ended by the node. That the
    /// node refuses a request is an answer.
    pub fn receive(&mut self) -> Result<Answer, ClientError> {
        self.flush()?;
        let deadline = now() + self.timeout;
        loop {
            if let Some(payload) = self.take_frame()? {
                return self.take_answer(payload);
            }
            self.read_some(deadline)?;
        }
    }

    /// Ends the connection because of what the node sent.
    pub(super) fn end(&mut self, violation: Violation) -> ClientError {
        self.ended = true;
        ClientError::Violation { node: self.node.clone(), violation }
    }

    /// The node gives up a little before the client does, so that its answer still arrives.
    fn operation_timeout_ms(&self) -> u32 {
        let ms_max = OPERATION_TIMEOUT_NS_MAX / NS_PER_MS;
        let ms = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
        cast::low_u32((ms.saturating_mul(9) / 10).clamp(1, ms_max))
    }

    fn check_open(&self) -> Result<(), ClientError> {
        if self.ended { Err(ClientError::Closed { node: self.node.clone() }) } else { Ok(()) }
    }

    fn break_off(&mut self, source: io::Error) -> ClientError {
        self.ended = true;
        ClientError::Broken { node: self.node.clone(), source }
    }

    fn time_out(&mut self, phase: Phase) -> ClientError {
        self.ended = true;
        ClientError::TimedOut { node: self.node.clone(), phase, after: self.timeout }
    }

    fn read_some(&mut self, deadline: Instant) -> Result<(), ClientError> {
        let left = deadline.saturating_duration_since(now());
        if left.is_zero() {
            return Err(self.time_out(Phase::Answer));
        }
        if let Err(e) = self.stream.set_read_timeout(Some(left)) {
            return Err(self.break_off(e));
        }
        match self.stream.read(&mut self.chunk) {
            Ok(0) => {
                self.ended = true;
                Err(ClientError::Closed { node: self.node.clone() })
            }
            Ok(size) => {
                self.received.extend_from_slice(&self.chunk[..size]);
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(e) if is_timeout(&e) => Err(self.time_out(Phase::Answer)),
            Err(e) => Err(self.break_off(e)),
        }
    }

    /// Takes the payload of a whole frame, if there is one. The announced length is checked before
    /// anything is awaited or allocated for it.
    fn take_frame(&mut self) -> Result<Option<Bytes>, ClientError> {
        let violation = match frame::next(&self.received) {
            Ok(None) => return Ok(None),
            Ok(Some((header, payload))) if header.flag == Flag::Message => {
                let mut frame = self.received.split_to(payload.end);
                frame.advance(payload.start);
                return Ok(Some(frame.freeze()));
            }
            Ok(Some((header, _))) => Violation::FrameFlag(header.flag.byte()),
            Err(FrameError::Compressed) => Violation::FrameFlag(1),
            Err(FrameError::FlagUnknown { flag }) => Violation::FrameFlag(flag),
            Err(FrameError::TooLong { payload_size_bytes }) => {
                Violation::FrameTooLong(payload_size_bytes)
            }
        };
        Err(self.end(violation))
    }

    fn take_answer(&mut self, payload: Bytes) -> Result<Answer, ClientError> {
        let (kind, answer) = parse_answer(payload).map_err(|violation| self.end(violation))?;
        if answer.correlation == 0
            && let Outcome::Error(error) = answer.outcome
        {
            self.ended = true;
            return Err(ClientError::Ended { node: self.node.clone(), error: Box::new(error) });
        }
        let Some(asked) = self.open.get(&answer.correlation) else {
            return Err(self.end(Violation::UnknownRequest(answer.correlation)));
        };
        if *asked != kind {
            return Err(self.end(Violation::WrongKind(answer.correlation)));
        }
        if answer.is_last() {
            self.open.remove(&answer.correlation);
        }
        Ok(answer)
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn resolve(node: &str) -> Result<Vec<SocketAddr>, ClientError> {
    let bad = |reason: &str| ClientError::Address { node: node.to_owned(), reason: reason.into() };
    match node.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {}
        _ => return Err(bad("expected HOST:PORT, e.g. 127.0.0.1:5678")),
    }
    let addresses: Vec<SocketAddr> =
        node.to_socket_addrs().map_err(|_| bad("no host has that name"))?.collect();
    if addresses.is_empty() { Err(bad("no host has that name")) } else { Ok(addresses) }
}

/// Tries the host's addresses in turn, all within one timeout.
fn connect_to_any(
    node: &str,
    addresses: &[SocketAddr],
    timeout: Duration,
) -> Result<TcpStream, ClientError> {
    let deadline = now() + timeout;
    let mut refusal = None;
    for address in addresses {
        let left = deadline.saturating_duration_since(now());
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(address, left) {
            Ok(stream) => return Ok(stream),
            Err(e) if is_timeout(&e) => {}
            Err(e) => refusal = Some(e),
        }
    }
    let node = node.to_owned();
    Err(match refusal {
        Some(source) => ClientError::Unreachable { node, source },
        None => ClientError::TimedOut { node, phase: Phase::Connecting, after: timeout },
    })
}

/// What goes with an operation.
struct Envelope {
    session: Option<SessionCall>,
    correlation: CorrelationId,
    timeout_ms: u32,
}

/// A target may name a partition (`orders#7`); the command or query names the map alone.
fn message(target: &str, operation: Operation, envelope: &Envelope) -> (Kind, Message) {
    let Envelope { session, correlation, timeout_ms } = *envelope;
    let map = target.split('#').next().unwrap_or_default().to_owned();
    let command = |operation| {
        let command = Command {
            map: map.clone(),
            session_id: session.map_or(0, |call| call.session.0),
            sequence: session.map_or(0, |call| call.sequence.0),
            ack_below: session.map_or(0, |call| call.ack_below.0),
            timeout_ms,
            operation: Some(operation),
            ..Command::default()
        };
        let value = command.encode_to_vec().into();
        let request =
            CommandRequest { message_id: correlation, value, ..CommandRequest::default() };
        (Kind::Command, Kinds::Command(request))
    };
    let query = |operation| {
        let query =
            Query { map: map.clone(), timeout_ms, operation: Some(operation), ..Query::default() };
        let value = query.encode_to_vec().into();
        let request = QueryRequest { message_id: correlation, value, ..QueryRequest::default() };
        (Kind::Query, Kinds::Query(request))
    };
    let (kind, message) = match operation {
        Operation::Put(put) => command(command::Operation::Put(put)),
        Operation::Remove(remove) => command(command::Operation::Remove(remove)),
        Operation::Clear => command(command::Operation::Clear(Clear {})),
        Operation::OpenSession { ttl_ms } => {
            command(command::Operation::OpenSession(OpenSession { ttl_ms }))
        }
        Operation::KeepSession => command(command::Operation::KeepSession(KeepSession {})),
        Operation::CloseSession => command(command::Operation::CloseSession(CloseSession {})),
        Operation::Get { key } => query(query::Operation::Get(Get { key })),
        Operation::Exists { key } => query(query::Operation::Exists(Exists { key })),
        Operation::Size => query(query::Operation::Size(Size {})),
        Operation::Entries(entries) => query(query::Operation::Entries(entries)),
        Operation::Status(status) => query(query::Operation::Status(status)),
        Operation::TransferLeadership(transfer) => {
            query(query::Operation::TransferLeadership(transfer))
        }
    };
    let target = Name { name: target.to_owned(), namespace: String::new() };
    (kind, Message { target: Some(target), message: Some(message) })
}

fn parse_answer(payload: Bytes) -> Result<(Kind, Answer), Violation> {
    let message = Message::decode(payload).map_err(Violation::Undecodable)?;
    let (kind, correlation, index, value) = match message.message {
        Some(Kinds::CommandResponse(response)) => {
            (Kind::Command, response.message_id, response.index, response.value)
        }
        Some(Kinds::QueryResponse(response)) => {
            let indexed = Indexed::decode(response.value).map_err(Violation::Undecodable)?;
            (Kind::Query, response.message_id, indexed.index, indexed.value)
        }
        _ => return Err(Violation::UnexpectedMessage),
    };
    let result = ProtoResult::decode(value).map_err(Violation::Undecodable)?;
    let outcome = result.outcome.ok_or(Violation::NoOutcome)?;
    Ok((kind, Answer { correlation, index, outcome }))
}
