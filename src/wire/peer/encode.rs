//! Messages to other members as frames, appended to a connection's buffer. No message is built to
//! be encoded, nothing is allocated, and what is the same in all messages of a partition in a term
//! is encoded once.
//!
//! The bytes are those that prost would write; `tests/peer_properties.rs` compares them.

use bytes::{Bytes, BytesMut};

use crate::base::cast;
use crate::base::ids::{Index, PartitionId, TermId};
use crate::base::limits::{
    FRAME_PREFIX_SIZE_BYTES, FRAME_SENT_SIZE_BYTES_MAX, NO_OP_COUNT_MAX, POSITION_END,
};
use crate::nopaxos::Group;
use crate::nopaxos::message::{
    Answer, CheckpointPart, Entry, LogSummary, Message, RANGE_COUNT_MAX, SlotRange, Stamped,
};
use crate::wire::frame::{Flag, length_of};
use crate::wire::peer::error::EncodeError;
use crate::wire::peer::field::{Encode, Fields, size_bytes};
use crate::wire::peer::filter::FilterOf;
use crate::wire::peer::ranges::RangesOf;
use crate::wire::peer::split::split;
use crate::wire::peer::{DROPPED, FORWARDED, Forwarded, recovery_id};

/// Writes what one member says about one partition.
#[derive(Clone, Debug)]
pub struct PeerEncoder {
    partition: PartitionId,
    /// The field `target` of `Message`.
    target: Box<[u8]>,
    /// The term of the two below; 0: they have not been needed yet.
    term: TermId,
    /// The fields `sender_id` and `view_id`, as all messages begin that have both ...
    sender: BytesMut,
    /// ... but for the responses to commands and queries, where they come second.
    response_sender: BytesMut,
}

impl PeerEncoder {
    /// Writes what `group.me()` says in this cluster.
    #[must_use]
    pub fn new(cluster: &str, group: &Group) -> Self {
        let mut target = BytesMut::new();
        target.message(1, &Target { cluster, partition: group.partition() });
        Self {
            partition: group.partition(),
            target: target.to_vec().into(),
            term: TermId(0),
            sender: BytesMut::new(),
            response_sender: BytesMut::new(),
        }
    }

    /// Appends a frame with `message`; or several, if it has more entries than should be in one
    /// message ([`split()`]). Of a `RecoverResponse` only as many as fit one are written, as the
    /// protocol allows: its receiver asks for the rest.
    ///
    /// # Errors
    /// If it is too large to be sent; then nothing is appended.
    ///
    /// # Panics
    /// If the group isn't the one that this writes for, or if the message can't be true: members
    /// would refuse it, so it is better not to have said it.
    pub fn encode(
        &mut self,
        out: &mut BytesMut,
        group: &Group,
        message: &Message,
    ) -> Result<(), EncodeError> {
        assert!(group.partition() == self.partition, "an encoder has its partition");
        check_counts(message)?;
        if let Some(term) = viewed(message) {
            self.turn_to(group, term);
        }
        let (chunk, entries) = match message {
            Message::ViewRepairResponse { chunk, entries, .. }
            | Message::SyncRepairResponse { chunk, entries, .. }
            | Message::RecoverResponse { chunk, entries, .. } => (chunk.as_ref(), &entries[..]),
            _ => (None, &[][..]),
        };
        let is_whole = matches!(message, Message::RecoverResponse { .. });
        let begin = out.len();
        for (chunk, entries) in split(chunk, entries).take(if is_whole { 1 } else { usize::MAX }) {
            let body = Body { encoder: self, group, message, chunk, entries };
            let appended = self.append(out, kind(message), &body);
            if appended.is_err() {
                out.truncate(begin);
                return appended;
            }
        }
        Ok(())
    }

    /// Appends a frame with what a member passes on for its clients.
    ///
    /// # Errors
    /// If it is too large to be sent; then nothing is appended.
    ///
    /// # Panics
    /// If the group isn't the one that this writes for, or a correlation id is a client's.
    pub fn encode_forwarded(
        &mut self,
        out: &mut BytesMut,
        group: &Group,
        forwarded: &Forwarded,
    ) -> Result<(), EncodeError> {
        assert!(group.partition() == self.partition, "an encoder has its partition");
        assert!(forwarded.correlation() & FORWARDED != 0, "members set bit 63, clients don't");
        let (kind, term) = match forwarded {
            Forwarded::Command { .. } => (2, None),
            Forwarded::Query { .. } => (4, None),
            Forwarded::CommandAnswer { term, .. } => (3, Some(*term)),
            Forwarded::QueryAnswer { term, .. } => (5, Some(*term)),
        };
        if let Some(term) = term {
            self.turn_to(group, term);
        }
        self.append(out, kind, &ForwardedBody { encoder: self, forwarded })
    }

    /// Encodes what is the same in all messages of a term, if it isn't there yet.
    fn turn_to(&mut self, group: &Group, term: TermId) {
        assert!(term.0 < POSITION_END, "terms are below 2^63");
        if self.term == term && !self.sender.is_empty() {
            return;
        }
        self.term = term;
        let me = group.name(group.me()).as_bytes();
        for (sender, first) in [(&mut self.sender, 1), (&mut self.response_sender, 2)] {
            sender.clear();
            sender.bytes(first, me);
            view(sender, first + 1, group, term);
        }
    }

    fn append(&self, out: &mut BytesMut, kind: u32, body: &impl Encode) -> Result<(), EncodeError> {
        let body_size = size_bytes(body);
        let payload_size = self.target.len() + size_bytes(&Around { kind, body_size }) + body_size;
        let size = FRAME_PREFIX_SIZE_BYTES + payload_size;
        if size > FRAME_SENT_SIZE_BYTES_MAX {
            return Err(EncodeError::TooLong { size_bytes: size });
        }
        let end = out.len() + size;
        out.reserve(size);
        let [a, b, c, d] = length_of(payload_size);
        out.put(&[Flag::Message.byte(), a, b, c, d]);
        out.put(&self.target);
        Around { kind, body_size }.encode(out);
        body.encode(out);
        assert!(out.len() == end, "a message has the size that was announced");
        Ok(())
    }
}

/// The field of `atomix.map.Message`.
const fn kind(message: &Message) -> u32 {
    match message {
        Message::Command(_) => 2,
        Message::CommandResponse { .. } => 3,
        Message::Query { .. } => 4,
        Message::QueryResponse { .. } => 5,
        Message::SlotLookup { .. } => 6,
        Message::GapCommitRequest { .. } => 7,
        Message::GapCommitResponse { .. } => 8,
        Message::ViewChangeRequest { .. } => 9,
        Message::ViewChange { .. } => 10,
        Message::ViewChangeRepair { .. } => 11,
        Message::ViewChangeRepairResponse { .. } => 12,
        Message::StartView { .. } => 13,
        Message::ViewRepair { .. } => 14,
        Message::ViewRepairResponse { .. } => 15,
        Message::SyncPrepare { .. } => 16,
        Message::SyncRepair { .. } => 17,
        Message::SyncRepairResponse { .. } => 18,
        Message::SyncResponse { .. } => 19,
        Message::SyncCommit { .. } => 20,
        Message::Recover { .. } => 21,
        Message::RecoverResponse { .. } => 22,
        Message::Ping { .. } => 23,
    }
}

/// The term whose view stands where the encoder has it ready.
fn viewed(message: &Message) -> Option<TermId> {
    match message {
        Message::Command(_)
        | Message::Query { .. }
        | Message::Recover { .. }
        | Message::RecoverResponse { .. } => None,
        _ => {
            let term = message.term();
            assert!(term.is_some(), "what is said in a view has a term");
            term
        }
    }
}

fn check_counts(message: &Message) -> Result<(), EncodeError> {
    let (no_ops, ranges) = match message {
        Message::ViewChange { log, .. }
        | Message::StartView { log, .. }
        | Message::SyncPrepare { log, .. } => (log.no_ops.len(), 0),
        Message::ViewChangeRepair { wanted, .. }
        | Message::ViewRepair { wanted, .. }
        | Message::SyncRepair { wanted, .. } => (0, wanted.slots.len()),
        Message::ViewChangeRepairResponse { values, .. } => (0, values.len()),
        _ => (0, 0),
    };
    if cast::u64_from(no_ops) > NO_OP_COUNT_MAX {
        Err(EncodeError::TooManyNoOps { count: no_ops })
    } else if ranges > RANGE_COUNT_MAX {
        Err(EncodeError::TooManyRanges { count: ranges })
    } else {
        Ok(())
    }
}

/// `Message.target` of what members say to each other.
struct Target<'a> {
    cluster: &'a str,
    partition: PartitionId,
}

impl Encode for Target<'_> {
    fn encode(&self, out: &mut impl Fields) {
        out.bytes(1, format!("#{}", self.partition).as_bytes());
        out.bytes(2, self.cluster.as_bytes());
    }
}

/// What stands before the body of a message.
struct Around {
    kind: u32,
    body_size: usize,
}

impl Encode for Around {
    #[inline]
    fn encode(&self, out: &mut impl Fields) {
        out.length(self.kind, self.body_size);
    }
}

/// A `ViewId`.
struct View<'a> {
    leader: &'a str,
    term: TermId,
}

impl Encode for View<'_> {
    fn encode(&self, out: &mut impl Fields) {
        out.bytes(1, self.leader.as_bytes());
        out.number(2, self.term.0);
    }
}

/// The view of a term; none if it is 0.
fn view(out: &mut impl Fields, field: u32, group: &Group, term: TermId) {
    if term > TermId(0) {
        out.message(field, &View { leader: group.name(group.leader(term)), term });
    }
}

/// An `Indexed`.
struct Indexed<'a> {
    index: Index,
    value: &'a Bytes,
}

impl Encode for Indexed<'_> {
    #[inline]
    fn encode(&self, out: &mut impl Fields) {
        out.number(1, self.index.0);
        out.bytes(2, self.value);
    }
}

impl Encode for Entry {
    #[inline]
    fn encode(&self, out: &mut impl Fields) {
        out.number(1, self.index.0);
        if let Some(value) = &self.value {
            assert!(!value.is_empty(), "an empty value is a no-op");
            out.timestamp(2, self.timestamp);
            out.number(3, self.message_id.0);
            out.bytes(4, value);
        } else {
            out.number(3, self.message_id.0);
        }
    }
}

/// What is inside of a `Message`, but for its target.
struct Body<'a> {
    encoder: &'a PeerEncoder,
    group: &'a Group,
    message: &'a Message,
    /// Of an answer with entries: its chunk, if this is its first message.
    chunk: Option<&'a CheckpointPart>,
    /// Of such an answer: the entries that go into this message.
    entries: &'a [Entry],
}

impl Encode for Body<'_> {
    #[inline]
    fn encode(&self, out: &mut impl Fields) {
        let sender = &self.encoder.sender;
        match self.message {
            Message::Command(stamped) => command(out, stamped),
            Message::CommandResponse { message_id, index, answer, .. } => {
                out.number(1, message_id.0);
                out.put(&self.encoder.response_sender);
                out.number(4, index.0);
                out.bytes(5, answer_bytes(answer));
            }
            Message::Query { term, query_id, covers, value } => {
                out.number(1, term.0);
                out.number(2, *query_id);
                out.encoded(4, &Indexed { index: *covers, value });
            }
            Message::QueryResponse { query_id, index, value, .. } => {
                out.number(1, *query_id);
                out.put(&self.encoder.response_sender);
                out.encoded(4, &Indexed { index: *index, value });
            }
            Message::SlotLookup { message_id, .. } => {
                out.put(sender);
                out.number(3, message_id.0);
            }
            Message::GapCommitRequest { index, .. }
            | Message::GapCommitResponse { index, .. }
            | Message::SyncResponse { index, .. } => {
                out.put(sender);
                out.number(3, index.0);
            }
            Message::ViewChangeRequest { .. } | Message::Ping { .. } => out.put(sender),
            Message::SyncPrepare { message_id, log, .. } => {
                out.put(sender);
                out.number(3, message_id.0);
                summary(out, 4, None, log);
            }
            Message::SyncCommit { message_id, sync_point, .. } => {
                out.put(sender);
                out.number(3, message_id.0);
                out.number(4, sync_point.0);
            }
            _ => self.encode_rare(out),
        }
    }
}

impl Body<'_> {
    /// View changes, repairs and recoveries.
    fn encode_rare(&self, out: &mut impl Fields) {
        match self.message {
            Message::Recover { member, attempt } => {
                out.bytes(1, self.group.name(*member).as_bytes());
                out.bytes(2, recovery_id::text(*attempt).as_bytes());
                return;
            }
            Message::RecoverResponse { attempt, term, message_id, .. } => {
                out.bytes(1, self.group.name(self.group.me()).as_bytes());
                out.bytes(2, recovery_id::text(*attempt).as_bytes());
                view(out, 3, self.group, *term);
                out.number(4, message_id.0);
                part(out, 5, self.chunk);
                each_entry(out, 7, self.entries);
                return;
            }
            _ => out.put(&self.encoder.sender),
        }
        match self.message {
            Message::ViewChange { last_normal, base, log, .. } => {
                assert!(*base <= log.last, "a log reaches to the base of its view at least");
                view(out, 3, self.group, *last_normal);
                out.number(4, log.last.since(*base));
                summary(out, 5, None, log);
            }
            Message::StartView { source_term, log, .. } => {
                out.number(3, 1);
                summary(out, 4, Some(*source_term), log);
            }
            Message::ViewChangeRepair { request, wanted, .. }
            | Message::ViewRepair { request, wanted, .. } => {
                out.number(3, *request);
                out.number(4, wanted.checkpoint.0);
                slots(out, 5, &wanted.slots);
            }
            Message::SyncRepair { wanted, .. } => {
                out.number(3, wanted.checkpoint.0);
                slots(out, 4, &wanted.slots);
            }
            Message::ViewChangeRepairResponse { request, chunk, values, .. } => {
                out.number(3, *request);
                part(out, 4, chunk.as_ref());
                slots(out, 6, values);
            }
            Message::ViewRepairResponse { .. } | Message::SyncRepairResponse { .. } => {
                part(out, 3, self.chunk);
                each_entry(out, 5, self.entries);
            }
            _ => unreachable!("the others are written by `encode`"),
        }
    }
}

#[inline]
fn command(out: &mut impl Fields, stamped: &Stamped) {
    assert!(!stamped.value.is_empty(), "a command is not empty");
    out.number(1, stamped.term.0);
    out.number(2, stamped.message_id.0);
    out.timestamp(3, stamped.timestamp);
    out.bytes(4, &stamped.value);
}

/// The value of a `CommandResponse`.
#[inline]
fn answer_bytes(answer: &Answer) -> &[u8] {
    match answer {
        Answer::Ack => &[],
        Answer::Result(result) => {
            assert!(!result.is_empty(), "an empty result would be an ack");
            result
        }
        Answer::Dropped => &DROPPED,
    }
}

/// A log in three fields: its no-ops, its first slot and its last.
fn summary(out: &mut impl Fields, field: u32, source_term: Option<TermId>, log: &LogSummary) {
    assert!(log.first > Index(0), "logs begin at 1");
    assert!(log.first.0 <= log.last.0 + 1, "an empty stretch begins where it ends");
    assert!(log.no_ops.first().is_none_or(|slot| *slot >= log.first), "no-ops are in the log");
    assert!(log.no_ops.last().is_none_or(|slot| *slot <= log.last), "no-ops are in the log");
    out.encoded(field, &FilterOf { source_term, log });
    out.number(field + 1, log.first.0);
    out.number(field + 2, log.last.0);
}

/// A chunk in two fields: its checkpoint's index, and the chunk.
fn part(out: &mut impl Fields, field: u32, chunk: Option<&CheckpointPart>) {
    if let Some(chunk) = chunk {
        assert!(chunk.index > Index(0), "a checkpoint has an index");
        out.number(field, chunk.index.0);
        out.encoded(field + 1, chunk);
    }
}

fn slots(out: &mut impl Fields, field: u32, ranges: &[SlotRange]) {
    out.encoded(field, &RangesOf(ranges));
}

fn each_entry(out: &mut impl Fields, field: u32, entries: &[Entry]) {
    for entry in entries {
        out.message(field, entry);
    }
}

/// What is inside of a `Message` that is passed on for a client.
struct ForwardedBody<'a> {
    encoder: &'a PeerEncoder,
    forwarded: &'a Forwarded,
}

impl Encode for ForwardedBody<'_> {
    fn encode(&self, out: &mut impl Fields) {
        match self.forwarded {
            Forwarded::Command { correlation, value } | Forwarded::Query { correlation, value } => {
                assert!(!value.is_empty(), "a request is not empty");
                out.number(2, *correlation);
                out.bytes(4, value);
            }
            Forwarded::CommandAnswer { correlation, index, result, .. } => {
                assert!(!result.is_empty(), "an answer is not empty");
                out.number(1, *correlation);
                out.put(&self.encoder.response_sender);
                out.number(4, index.0);
                out.bytes(5, result);
            }
            Forwarded::QueryAnswer { correlation, index, result, .. } => {
                assert!(!result.is_empty(), "an answer is not empty");
                out.number(1, *correlation);
                out.put(&self.encoder.response_sender);
                out.encoded(4, &Indexed { index: *index, value: result });
            }
        }
    }
}
