//! A client's request, parsed: it cannot be wrong any more.
//!
//! [`decode_hot`] reads the usual encoding without a copy; [`decode_cold`] reads the rest through
//! prost and finds the words for what is wrong. A connection does:
//!
//! ```
//! # use p2pmap::wire::error::WireError;
//! # use p2pmap::wire::request::{Acceptance, Refusal, Request, decode_cold, decode_hot};
//! # fn handle(_: Result<Request<'_>, Refusal>) {}
//! fn on_payload(payload: &[u8], acceptance: Acceptance<'_>) -> Result<(), WireError> {
//!     match decode_hot(payload, acceptance) {
//!         Some(request) => handle(Ok(request)),
//!         None => handle(decode_cold(payload)?.request(acceptance)),
//!     }
//!     Ok(())
//! }
//! ```
//!
//! A value that is no operation is a [`Refusal`], not a [`WireError`]: the message around it was
//! understood, so the client learns which of its requests was wrong and goes on.

use bytes::Bytes;
use prost::Message as _;

use crate::base::ids::{CorrelationId, Index, PartitionId};
use crate::base::limits::COMMAND_SIZE_BYTES_MAX;
use crate::map::operation::cold::{OwnedCommand, OwnedQuery};
use crate::map::operation::error::OperationError;
use crate::map::operation::{Command, Query, decode_command, decode_query};
use crate::proto::atomix::map::{CommandRequest, Message, QueryRequest, message};
use crate::proto::atomix::primitive::Name;
use crate::proto::p2pmap::v1;
use crate::proto::p2pmap::v1::error::Code;
use crate::proto::reader::{Fields, Reader, Seen, WIRE_BYTES, WIRE_VARINT, tag};
use crate::wire::error::WireError;
use crate::wire::target;

/// A client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What the response repeats. 0 is as good as any, though errors of the connection itself have
    /// it too: the close that follows those tells them apart.
    pub correlation: CorrelationId,
    /// The partition that `target` names, if it names one: `orders#7` or `#7`. Not yet checked
    /// against the number of partitions.
    pub partition: Option<PartitionId>,
    /// What is wanted.
    pub body: Body<'a>,
}

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// A write.
    Command {
        /// The encoded command, as it goes into the log.
        bytes: &'a [u8],
        /// The same, parsed.
        command: Command<'a>,
    },
    /// A read.
    Query(Query<'a>),
    /// A question about the node.
    Status(StatusQuery),
    /// The wish that a member leads the partition: its name.
    Transfer(&'a str),
}

/// What is asked about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusQuery {
    /// Partitions are to be listed, from this one on; it may not exist.
    pub partitions_from: Option<PartitionId>,
    /// With their digests.
    pub digests: bool,
}

/// Which of the two a request is: the response is of the same kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Answered by a `CommandResponse`.
    Command,
    /// Answered by a `QueryResponse`.
    Query,
}

impl Kind {
    /// The field of `Message`.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Query => "query",
        }
    }
}

/// A request that was understood and is refused: it is answered, and its stream goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the response repeats.
    pub correlation: CorrelationId,
    /// What kind of response it wants.
    pub kind: Kind,
    /// For programs.
    pub code: Code,
    /// For people: names the field.
    pub message: String,
}

impl<'a> Request<'a> {
    /// What kind of response it wants.
    #[inline]
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self.body {
            Body::Command { .. } => Kind::Command,
            Body::Query(_) | Body::Status(_) | Body::Transfer(_) => Kind::Query,
        }
    }

    /// The map that it is about; empty if it is about the node.
    #[inline]
    #[must_use]
    pub const fn map(&self) -> &'a str {
        match self.body {
            Body::Command { command, .. } => command.map,
            Body::Query(query) => query.map,
            Body::Status(_) | Body::Transfer(_) => "",
        }
    }

    /// The key that it is about, if it is about one.
    #[inline]
    #[must_use]
    pub const fn key(&self) -> Option<&'a [u8]> {
        match self.body {
            Body::Command { command, .. } => command.operation.key(),
            Body::Query(query) => query.operation.key(),
            Body::Status(_) | Body::Transfer(_) => None,
        }
    }

    /// How long the client waits, in ms; 0: the default.
    #[inline]
    #[must_use]
    pub const fn timeout_ms(&self) -> u32 {
        match self.body {
            Body::Command { command, .. } => command.timeout_ms,
            Body::Query(query) => query.timeout_ms,
            Body::Status(_) | Body::Transfer(_) => 0,
        }
    }

    /// Refuses it.
    #[must_use]
    pub const fn refusal(&self, code: Code, message: String) -> Refusal {
        Refusal { correlation: self.correlation, kind: self.kind(), code, message }
    }
}

/// What a node holds a client's requests against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acceptance<'a> {
    /// The cluster's name: the only namespace besides the empty one.
    pub cluster: &'a str,
    /// The longest value, as configured.
    pub value_size_bytes_max: usize,
}

/// Set in correlation ids of members that pass requests on; clients leave it clear, and the numbers
/// of stamped commands and queries are below it.
pub const FORWARDED: CorrelationId = 1 << 63;

const MESSAGE_TARGET: u8 = tag(1, WIRE_BYTES);
const MESSAGE_COMMAND: u8 = tag(2, WIRE_BYTES);
const MESSAGE_QUERY: u8 = tag(4, WIRE_BYTES);
// `CommandRequest` and `QueryRequest` have the same fields.
const REQUEST_TERM_ID: u8 = tag(1, WIRE_VARINT);
const REQUEST_MESSAGE_ID: u8 = tag(2, WIRE_VARINT);
const REQUEST_VALUE: u8 = tag(4, WIRE_BYTES);

/// Decodes a request in the usual encoding: a target and a command or query, each field at most
/// once, none unknown. `None` says nothing about the request: [`decode_cold`] decides.
#[inline]
#[must_use]
pub fn decode_hot<'a>(payload: &'a [u8], acceptance: Acceptance<'_>) -> Option<Request<'a>> {
    let mut reader = Reader::new(payload);
    let mut target: Option<&[u8]> = None;
    let mut body: Option<(Kind, &[u8])> = None;
    while let Some(tag) = reader.byte() {
        let bytes = reader.bytes()?;
        let twice = match tag {
            MESSAGE_TARGET => target.replace(bytes).is_some(),
            MESSAGE_COMMAND => body.replace((Kind::Command, bytes)).is_some(),
            MESSAGE_QUERY => body.replace((Kind::Query, bytes)).is_some(),
            _ => return None,
        };
        if twice {
            return None;
        }
    }
    let (kind, bytes) = body?;
    let (correlation, value) = hot_request(bytes)?;
    let partition_of = |map: &str| match target {
        Some(target) => target::partition(target::hot_name(target, acceptance.cluster)?, map).ok(),
        None => Some(None),
    };
    // Each of the two is put together where it will be: a request is long, and moves cost.
    match kind {
        Kind::Command if value.len() > COMMAND_SIZE_BYTES_MAX => None,
        Kind::Command => {
            let command = decode_command(value, acceptance.value_size_bytes_max)?;
            let partition = partition_of(command.map)?;
            Some(Request { correlation, partition, body: Body::Command { bytes: value, command } })
        }
        Kind::Query => {
            let query = decode_query(value)?;
            let partition = partition_of(query.map)?;
            Some(Request { correlation, partition, body: Body::Query(query) })
        }
    }
}

#[inline]
fn hot_request(bytes: &[u8]) -> Option<(CorrelationId, &[u8])> {
    let mut reader = Reader::new(bytes);
    let mut seen = Seen::default();
    let mut correlation = 0;
    let mut value: &[u8] = &[];
    while let Some(tag) = reader.byte() {
        seen.first(tag)?;
        match tag {
            REQUEST_TERM_ID if reader.varint()? == 0 => {}
            REQUEST_MESSAGE_ID => correlation = reader.varint()?,
            REQUEST_VALUE => value = reader.bytes()?,
            // A stamp, a timestamp or unknown.
            _ => return None,
        }
    }
    (correlation & FORWARDED == 0).then_some((correlation, value))
}

/// Decodes a request that [`decode_hot`] doesn't.
///
/// # Errors
/// If the stream must end: the payload is no message, or not one that a client may send.
pub fn decode_cold(payload: &[u8]) -> Result<ColdRequest, WireError> {
    refuse_forbidden_kinds(payload)?;
    let Message { target, message } =
        Message::decode(payload).map_err(|error| WireError::Undecodable { error })?;
    let target = target.unwrap_or_default();
    // The timestamp of an unsequenced request is ignored.
    let (kind, term_id, correlation, value) = match message {
        Some(message::Message::Command(request)) => {
            let CommandRequest { term_id, message_id, timestamp: _, value } = request;
            (Kind::Command, term_id, message_id, value)
        }
        Some(message::Message::Query(request)) => {
            let QueryRequest { term_id, message_id, timestamp: _, value } = request;
            (Kind::Query, term_id, message_id, value)
        }
        // The others were refused before they were decoded.
        _ => return Err(WireError::KindMissing),
    };
    if term_id != 0 {
        return Err(WireError::Stamped { kind });
    }
    let body = match kind {
        Kind::Command => OwnedCommand::decode(&value).map(ColdBody::Command),
        Kind::Query => OwnedQuery::decode(&value).map(ColdBody::Query),
    };
    Ok(ColdRequest { correlation, kind, target, value, body })
}

/// Clients send two kinds of messages; prost shall not even see the others: a frame full of empty
/// entries would become thirty times as many bytes of objects. The oneof may be set more than once,
/// so each field counts, not only the last.
fn refuse_forbidden_kinds(payload: &[u8]) -> Result<(), WireError> {
    let mut fields = Fields::of(payload);
    match fields.by_ref().find_map(|field| forbidden_kind(field.number)) {
        Some(field) => Err(WireError::KindForbidden { field }),
        None if fields.is_well_formed() => Ok(()),
        None => Err(WireError::Malformed),
    }
}

/// The name of a field of `Message` that only members may send.
const fn forbidden_kind(number: u32) -> Option<&'static str> {
    Some(match number {
        3 => "command_response",
        5 => "query_response",
        6 => "slot_lookup",
        7 => "gap_commit",
        8 => "gap_commit_response",
        9 => "view_change_request",
        10 => "view_change",
        11 => "view_change_repair",
        12 => "view_change_repair_response",
        13 => "start_view",
        14 => "view_repair",
        15 => "view_repair_response",
        16 => "sync_prepare",
        17 => "sync_repair",
        18 => "sync_repair_response",
        19 => "sync_response",
        20 => "sync_commit",
        21 => "recover",
        22 => "recover_response",
        23 => "ping",
        _ => return None,
    })
}

/// A request that prost decoded; [`Request`] borrows from it.
#[derive(Clone, Debug, PartialEq)]
pub struct ColdRequest {
    correlation: CorrelationId,
    kind: Kind,
    target: Name,
    value: Bytes,
    body: Result<ColdBody, OperationError>,
}

#[derive(Clone, Debug, PartialEq)]
enum ColdBody {
    Command(OwnedCommand),
    Query(OwnedQuery),
}

impl ColdRequest {
    /// The request, checked.
    ///
    /// # Errors
    /// If it is answered with an error.
    pub fn request(&self, acceptance: Acceptance<'_>) -> Result<Request<'_>, Refusal> {
        self.refuse_envelope(acceptance.cluster)?;
        let invalid = |error: OperationError| self.refusal(error.code(), self.named(&error));
        let body = match self.body.as_ref().map_err(|error| invalid(error.clone()))? {
            ColdBody::Command(owned) => {
                let command = owned.command(acceptance.value_size_bytes_max).map_err(invalid)?;
                if command.operation.is_internal() {
                    return Err(invalid(OperationError::MembersOnly));
                }
                Body::Command { bytes: &self.value, command }
            }
            ColdBody::Query(owned) => match (owned.status(), owned.transfer_leadership()) {
                (Some(status), _) => Body::Status(self.status_query(owned, status)?),
                (_, Some(transfer)) => {
                    self.refuse_map_and_index(owned, "leadership")?;
                    Body::Transfer(&transfer.to)
                }
                (None, None) => Body::Query(owned.query().map_err(invalid)?),
            },
        };
        let mut request = Request { correlation: self.correlation, partition: None, body };
        request.partition = target::partition(self.target.name.as_bytes(), request.map())
            .map_err(|error| self.refusal(Code::InvalidArgument, error.to_string()))?;
        Ok(request)
    }

    /// A question about the node, which is about nothing else.
    fn status_query(
        &self,
        query: &OwnedQuery,
        status: &v1::Status,
    ) -> Result<StatusQuery, Refusal> {
        let v1::Status { partitions, first_partition, digests } = *status;
        self.refuse_map_and_index(query, "a node's status")?;
        let partitions_from = partitions.then_some(PartitionId(first_partition));
        Ok(StatusQuery { partitions_from, digests })
    }

    /// Refuses what names a map or an index and is about neither.
    fn refuse_map_and_index(&self, query: &OwnedQuery, what: &str) -> Result<(), Refusal> {
        let field = if !query.map().is_empty() {
            "map"
        } else if query.min_index() > Index(0) {
            "min_index"
        } else {
            return Ok(());
        };
        let message = format!("query.value: {field}: {what} is of no map and no index");
        Err(self.refusal(Code::InvalidArgument, message))
    }

    /// Refuses what is wrong around the operation.
    fn refuse_envelope(&self, cluster: &str) -> Result<(), Refusal> {
        let namespace = &self.target.namespace;
        if !namespace.is_empty() && namespace != cluster {
            let message = format!("target.namespace: this is {cluster:?}, not {namespace:?}");
            return Err(self.refusal(Code::WrongNamespace, message));
        }
        if self.correlation & FORWARDED != 0 {
            let field = self.kind.field();
            let message = format!("{field}.message_id: bit 63 is the cluster's own");
            return Err(self.refusal(Code::InvalidArgument, message));
        }
        let size = self.value.len();
        if self.kind == Kind::Command && size > COMMAND_SIZE_BYTES_MAX {
            let message = format!(
                "command.value: a command of {size} bytes; {COMMAND_SIZE_BYTES_MAX} are allowed"
            );
            return Err(self.refusal(Code::InvalidArgument, message));
        }
        Ok(())
    }

    /// What is wrong with the operation, from the outermost field.
    fn named(&self, error: &OperationError) -> String {
        format!("{}.value: {error}", self.kind.field())
    }

    fn refusal(&self, code: Code, message: String) -> Refusal {
        Refusal { correlation: self.correlation, kind: self.kind, code, message }
    }
}

#[cfg(test)]
mod tests;
