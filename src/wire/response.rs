//! Responses as frames, appended to a connection's buffer without anything in between. What is the
//! same in all responses of a partition in a view is encoded once, in a [`ResponsePrefix`].
//!
//! The bytes are those that prost would write; `tests/wire_properties.rs` compares them.

use arrayvec::ArrayVec;
use bytes::BytesMut;
use prost::Message as _;

use crate::base::cast;
use crate::base::ids::{CorrelationId, Index, PartitionId, TermId};
use crate::base::limits::FRAME_PREFIX_SIZE_BYTES;
use crate::proto::atomix::map::ViewId;
use crate::proto::atomix::primitive::Name;
use crate::proto::p2pmap::v1;
use crate::proto::p2pmap::v1::error::Code;
use crate::proto::p2pmap::v1::result::Outcome;
use crate::proto::reader::{WIRE_BYTES, WIRE_VARINT, tag, varint_size_bytes};
use crate::wire::frame::{Flag, length_of};
use crate::wire::request::{Kind, Refusal};

const MESSAGE_TARGET: u8 = tag(1, WIRE_BYTES);
const MESSAGE_COMMAND_RESPONSE: u8 = tag(3, WIRE_BYTES);
const MESSAGE_QUERY_RESPONSE: u8 = tag(5, WIRE_BYTES);
// The first three fields of both responses and both closes.
const RESPONSE_MESSAGE_ID: u8 = tag(1, WIRE_VARINT);
const RESPONSE_SENDER_ID: u8 = tag(2, WIRE_BYTES);
const RESPONSE_VIEW_ID: u8 = tag(3, WIRE_BYTES);
const COMMAND_RESPONSE_INDEX: u8 = tag(4, WIRE_VARINT);
const COMMAND_RESPONSE_VALUE: u8 = tag(5, WIRE_BYTES);
const QUERY_RESPONSE_VALUE: u8 = tag(4, WIRE_BYTES);
const INDEXED_INDEX: u8 = tag(1, WIRE_VARINT);
const INDEXED_VALUE: u8 = tag(2, WIRE_BYTES);
const RESULT_ERROR: u8 = tag(1, WIRE_BYTES);
const RESULT_QUERY_CLOSE: u8 = tag(15, WIRE_BYTES);
const ERROR_CODE: u8 = tag(1, WIRE_VARINT);
const ERROR_MESSAGE: u8 = tag(2, WIRE_BYTES);
const ERROR_HINT: u8 = tag(3, WIRE_BYTES);
const HINT_TERM: u8 = tag(1, WIRE_VARINT);
const HINT_MEMBER: u8 = tag(2, WIRE_BYTES);
const HINT_ADDRESS: u8 = tag(3, WIRE_BYTES);

/// A view as responses show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View<'a> {
    /// The leader's name.
    pub leader: &'a str,
    /// The term.
    pub term: TermId,
}

/// Where a request would be better sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint<'a> {
    /// The term in which that holds.
    pub term: TermId,
    /// The member's name.
    pub member: &'a str,
    /// The member's address.
    pub address: &'a str,
}

/// An error in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorOutcome<'a> {
    /// For programs.
    pub code: Code,
    /// For people.
    pub message: &'a str,
    /// Where to try instead.
    pub hint: Option<Hint<'a>>,
}

/// What all responses of a partition in a view begin with, encoded once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponsePrefix {
    /// The field `target` of `Message`.
    target: Box<[u8]>,
    /// The fields `sender_id` and `view_id` of a response or close.
    sender: Box<[u8]>,
}

impl ResponsePrefix {
    /// The prefix of responses of `member`. Without a partition (an answer about all of them, or
    /// one that was never routed) the target only names the cluster.
    #[must_use]
    pub fn new(
        cluster: &str,
        partition: Option<PartitionId>,
        member: &str,
        view: Option<View<'_>>,
    ) -> Self {
        let name = Name {
            name: partition.map(|partition| format!("#{partition}")).unwrap_or_default(),
            namespace: cluster.to_owned(),
        };
        let mut sender = Vec::new();
        put_string(&mut sender, RESPONSE_SENDER_ID, member);
        if let Some(view) = view {
            let view = ViewId { leader_id: view.leader.to_owned(), term_id: view.term.0 };
            put_message(&mut sender, RESPONSE_VIEW_ID, &view);
        }
        let mut target = Vec::new();
        put_message(&mut target, MESSAGE_TARGET, &name);
        Self { target: target.into(), sender: sender.into() }
    }
}

/// Appends the answer to a command: its index and its encoded `p2pmap.v1.Result`.
#[inline]
pub fn encode_command_response(
    out: &mut BytesMut,
    prefix: &ResponsePrefix,
    correlation: CorrelationId,
    index: Index,
    result: &[u8],
) {
    encode_command_response_with(out, prefix, correlation, index, result.len(), |out| {
        out.extend_from_slice(result);
    });
}

/// As [`encode_command_response`], with a result that is written where it is needed.
///
/// # Panics
/// If `write` doesn't append exactly `result_size_bytes`.
#[inline]
pub fn encode_command_response_with(
    out: &mut BytesMut,
    prefix: &ResponsePrefix,
    correlation: CorrelationId,
    index: Index,
    result_size_bytes: usize,
    write: impl FnOnce(&mut BytesMut),
) {
    let mut tail = Head::new();
    put_number(&mut tail, COMMAND_RESPONSE_INDEX, index.0);
    if result_size_bytes > 0 {
        put_tag_and_size(&mut tail, COMMAND_RESPONSE_VALUE, result_size_bytes);
    }
    let response = Response { tag: MESSAGE_COMMAND_RESPONSE, correlation, tail, result_size_bytes };
    response.encode(out, prefix, write);
}

/// Appends the answer to a query: the index that it reflects and its encoded `p2pmap.v1.Result`.
#[inline]
pub fn encode_query_response(
    out: &mut BytesMut,
    prefix: &ResponsePrefix,
    correlation: CorrelationId,
    index: Index,
    result: &[u8],
) {
    encode_query_response_with(out, prefix, correlation, index, result.len(), |out| {
        out.extend_from_slice(result);
    });
}

/// As [`encode_query_response`], with a result that is written where it is needed.
///
/// # Panics
/// If `write` doesn't append exactly `result_size_bytes`.
#[inline]
pub fn encode_query_response_with(
    out: &mut BytesMut,
    prefix: &ResponsePrefix,
    correlation: CorrelationId,
    index: Index,
    result_size_bytes: usize,
    write: impl FnOnce(&mut BytesMut),
) {
    let indexed_size = number_size(index.0) + bytes_size_unless_empty(result_size_bytes);
    let mut tail = Head::new();
    if indexed_size > 0 {
        put_tag_and_size(&mut tail, QUERY_RESPONSE_VALUE, indexed_size);
        put_number(&mut tail, INDEXED_INDEX, index.0);
        if result_size_bytes > 0 {
            put_tag_and_size(&mut tail, INDEXED_VALUE, result_size_bytes);
        }
    }
    let response = Response { tag: MESSAGE_QUERY_RESPONSE, correlation, tail, result_size_bytes };
    response.encode(out, prefix, write);
}

/// Appends the last response of a streamed answer to a query.
pub fn encode_query_close(
    out: &mut BytesMut,
    prefix: &ResponsePrefix,
    correlation: CorrelationId,
    index: Index,
) {
    let close_size = number_size(correlation) + prefix.sender.len();
    let size = bytes_size(close_size);
    encode_query_response_with(out, prefix, correlation, index, size, |out| {
        let mut head = Head::new();
        put_tag_and_size(&mut head, RESULT_QUERY_CLOSE, close_size);
        put_number(&mut head, RESPONSE_MESSAGE_ID, correlation);
        out.extend_from_slice(&head);
        out.extend_from_slice(&prefix.sender);
    });
}

/// Appends a refusal.
pub fn encode_refusal(out: &mut BytesMut, prefix: &ResponsePrefix, refusal: &Refusal) {
    let error = ErrorOutcome { code: refusal.code, message: &refusal.message, hint: None };
    encode_error(out, prefix, refusal.correlation, refusal.kind, error);
}

/// Appends an error as the answer to a request. It reflects no index.
pub fn encode_error(
    out: &mut BytesMut,
    prefix: &ResponsePrefix,
    correlation: CorrelationId,
    kind: Kind,
    error: ErrorOutcome<'_>,
) {
    let size = error.result_size_bytes();
    let write = |out: &mut BytesMut| error.write_result(out);
    match kind {
        Kind::Command => {
            encode_command_response_with(out, prefix, correlation, Index(0), size, write);
        }
        Kind::Query => {
            encode_query_response_with(out, prefix, correlation, Index(0), size, write);
        }
    }
}

/// Appends what is wrong with a raw connection, before it is closed: an error with the
/// `message_id` 0.
pub fn encode_connection_error(
    out: &mut BytesMut,
    prefix: &ResponsePrefix,
    code: Code,
    message: &str,
) {
    let error = ErrorOutcome { code, message, hint: None };
    encode_error(out, prefix, 0, Kind::Command, error);
}

impl ErrorOutcome<'_> {
    fn result_size_bytes(&self) -> usize {
        bytes_size(self.size_bytes())
    }

    fn size_bytes(&self) -> usize {
        number_size(self.code_number())
            + bytes_size_unless_empty(self.message.len())
            + self.hint.map_or(0, |hint| bytes_size(hint.size_bytes()))
    }

    fn code_number(&self) -> u64 {
        u64::from(i32::from(self.code).unsigned_abs())
    }

    /// Appends a `Result` with this error.
    fn write_result(&self, out: &mut BytesMut) {
        let mut head = Head::new();
        put_tag_and_size(&mut head, RESULT_ERROR, self.size_bytes());
        put_number(&mut head, ERROR_CODE, self.code_number());
        out.extend_from_slice(&head);
        write_string(out, ERROR_MESSAGE, self.message);
        if let Some(hint) = self.hint {
            let mut head = Head::new();
            put_tag_and_size(&mut head, ERROR_HINT, hint.size_bytes());
            put_number(&mut head, HINT_TERM, hint.term.0);
            out.extend_from_slice(&head);
            write_string(out, HINT_MEMBER, hint.member);
            write_string(out, HINT_ADDRESS, hint.address);
        }
    }
}

impl Hint<'_> {
    fn size_bytes(&self) -> usize {
        number_size(self.term.0)
            + bytes_size_unless_empty(self.member.len())
            + bytes_size_unless_empty(self.address.len())
    }
}

/// What a `p2pmap.v1.Result` says that another node has encoded; `None`: it is none.
#[must_use]
pub fn decode_result(result: &[u8]) -> Option<Outcome> {
    <v1::Result as prost::Message>::decode(result).ok()?.outcome
}

/// Tags, sizes and numbers that stand next to each other.
type Head = ArrayVec<u8, HEAD_SIZE_BYTES_MAX>;

/// Five tags with a varint each: no head has more, `encode`'s has a frame's prefix besides.
const HEAD_SIZE_BYTES_MAX: usize = 5 * 11;

/// A response but for its result.
struct Response {
    /// Its field in `Message`.
    tag: u8,
    correlation: CorrelationId,
    /// What stands between the prefix's sender and the result.
    tail: Head,
    result_size_bytes: usize,
}

impl Response {
    #[inline]
    fn encode(
        &self,
        out: &mut BytesMut,
        prefix: &ResponsePrefix,
        write: impl FnOnce(&mut BytesMut),
    ) {
        let response_size = number_size(self.correlation)
            + prefix.sender.len()
            + self.tail.len()
            + self.result_size_bytes;
        let payload_size = prefix.target.len() + bytes_size(response_size);
        let end = out.len() + FRAME_PREFIX_SIZE_BYTES + payload_size;
        out.reserve(end - out.len());

        let [a, b, c, d] = length_of(payload_size);
        out.extend_from_slice(&[Flag::Message.byte(), a, b, c, d]);
        out.extend_from_slice(&prefix.target);
        let mut head = Head::new();
        put_tag_and_size(&mut head, self.tag, response_size);
        put_number(&mut head, RESPONSE_MESSAGE_ID, self.correlation);
        out.extend_from_slice(&head);
        out.extend_from_slice(&prefix.sender);
        out.extend_from_slice(&self.tail);
        write(out);
        assert!(out.len() == end, "a result has the size that was announced");
    }
}

/// The size of a field with a number, which is left out if it is 0.
#[inline]
fn number_size(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + varint_size_bytes(value) }
}

/// The size of a field with so many bytes.
#[inline]
fn bytes_size(size: usize) -> usize {
    1 + varint_size_bytes(cast::u64_from(size)) + size
}

/// The size of a field with so many bytes, which is left out if there are none.
#[inline]
fn bytes_size_unless_empty(size: usize) -> usize {
    if size == 0 { 0 } else { bytes_size(size) }
}

#[inline]
fn put_varint(head: &mut Head, mut value: u64) {
    while value >= 0x80 {
        head.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    head.push(value.to_le_bytes()[0]);
}

#[inline]
fn put_number(head: &mut Head, tag: u8, value: u64) {
    if value != 0 {
        head.push(tag);
        put_varint(head, value);
    }
}

#[inline]
fn put_tag_and_size(head: &mut Head, tag: u8, size: usize) {
    head.push(tag);
    put_varint(head, cast::u64_from(size));
}

fn write_string(out: &mut BytesMut, tag: u8, text: &str) {
    if !text.is_empty() {
        let mut head = Head::new();
        put_tag_and_size(&mut head, tag, text.len());
        out.extend_from_slice(&head);
        out.extend_from_slice(text.as_bytes());
    }
}

fn put_string(out: &mut Vec<u8>, tag: u8, text: &str) {
    if !text.is_empty() {
        put_length_delimited(out, tag, text.as_bytes());
    }
}

fn put_message(out: &mut Vec<u8>, tag: u8, message: &impl prost::Message) {
    put_length_delimited(out, tag, &message.encode_to_vec());
}

fn put_length_delimited(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    let mut head = Head::new();
    put_tag_and_size(&mut head, tag, bytes.len());
    out.extend_from_slice(&head);
    out.extend_from_slice(bytes);
}

/// The encoded `p2pmap.v1.Result` of a leader that has begun to hand its place over.
#[must_use]
pub fn leadership_transfer(term: TermId) -> Vec<u8> {
    let transfer = v1::LeadershipTransfer { term: term.0 };
    v1::Result { outcome: Some(Outcome::LeadershipTransfer(transfer)) }.encode_to_vec()
}
