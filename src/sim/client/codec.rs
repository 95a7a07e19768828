//! Requests as bytes and answers out of bytes: what a client of ours would write and read, in the
//! words of the history.

use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message as _;

use super::sessions::{Call, as_of_first};
use crate::base::cast::low_u32;
use crate::base::ids::{CorrelationId, Index, PartitionId, TermId};
use crate::base::time::NS_PER_MS;
use crate::proto::atomix::map::message::Message as Kinds;
use crate::proto::atomix::map::{CommandRequest, Indexed, Message, QueryRequest};
use crate::proto::atomix::primitive::Name;
use crate::proto::p2pmap::v1;
use crate::proto::p2pmap::v1::error::Code;
use crate::proto::p2pmap::v1::result::Outcome as Told;
use crate::proto::p2pmap::v1::{Consistency, command, condition, query};
use crate::sim::history::{
    Action, Expectation, Freshness, History, Outcome, PageSeen, Scope, Seen, SessionStep, Universe,
};
use crate::wire::frame::{self, Flag};

/// An answer, or a part of one.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) correlation: CorrelationId,
    /// The partition that gives it, if it is one.
    partition: Option<PartitionId>,
    /// The view in which it is given; 0: in none.
    pub(super) term: TermId,
    index: Index,
    told: Told,
}

impl Reply {
    /// The member that would rather be asked, if one is named.
    pub(super) fn hint(&self) -> Option<&str> {
        match &self.told {
            Told::Error(error) => error.hint.as_ref().map(|hint| hint.member.as_str()),
            _ => None,
        }
    }
}

/// What it means.
#[derive(Debug)]
pub(super) enum Answer {
    /// All of it.
    Whole(Outcome),
    /// A part of it.
    Page(PageSeen),
    /// There are no more parts.
    End,
}

/// How a request is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Envelope {
    pub(super) correlation: CorrelationId,
    pub(super) patience_ns: u64,
    /// The session, and the results that aren't needed any more.
    pub(super) call: Option<(Call, u64)>,
}

/// A request as a frame.
pub(super) fn encode(action: &Action, envelope: Envelope, history: &History) -> Vec<u8> {
    let Envelope { correlation, patience_ns, call } = envelope;
    let timeout_ms = low_u32((patience_ns / NS_PER_MS).max(1));
    let map = |number| Universe::map_name(number);
    let command = |map, operation| {
        let mut command = v1::Command { map, timeout_ms, operation, ..v1::Command::default() };
        if let Some((call, ack_below)) = call {
            (command.session_id, command.sequence) = (call.session, call.sequence);
            command.ack_below = ack_below;
        }
        let value = command.encode_to_vec().into();
        let message_id = correlation;
        Kinds::Command(CommandRequest { message_id, value, ..CommandRequest::default() })
    };
    let (name, kind) = match *action {
        Action::Put { key, .. } | Action::Remove { key, .. } => {
            let operation = write(action, history);
            (map(key.map), command(map(key.map), operation))
        }
        Action::Clear { map: number, scope } => {
            let operation = Some(command::Operation::Clear(v1::Clear {}));
            (target(number, scope), command(map(number), operation))
        }
        Action::Session { partition, step } => {
            let operation = Some(match step {
                SessionStep::Open { ttl_ms } => {
                    command::Operation::OpenSession(v1::OpenSession { ttl_ms })
                }
                SessionStep::Keep => command::Operation::KeepSession(v1::KeepSession {}),
                SessionStep::Close => command::Operation::CloseSession(v1::CloseSession {}),
            });
            (format!("#{partition}"), command(String::new(), operation))
        }
        Action::Get { key, freshness } => {
            let operation = query::Operation::Get(v1::Get { key: key_bytes(key) });
            let query = read(map(key.map), timeout_ms, operation, freshness);
            (map(key.map), question(&query, correlation))
        }
        Action::Exists { key, freshness } => {
            let operation = query::Operation::Exists(v1::Exists { key: key_bytes(key) });
            let query = read(map(key.map), timeout_ms, operation, freshness);
            (map(key.map), question(&query, correlation))
        }
        Action::Size { map: number, scope } => {
            let operation = query::Operation::Size(v1::Size {});
            let query = read(map(number), timeout_ms, operation, Freshness::Linearizable);
            (target(number, scope), question(&query, correlation))
        }
        Action::Entries { map: number, scope, limit } => {
            let entries = v1::Entries { limit, ..v1::Entries::default() };
            let operation = query::Operation::Entries(entries);
            let query = read(map(number), timeout_ms, operation, Freshness::Linearizable);
            (target(number, scope), question(&query, correlation))
        }
    };
    let target = Some(Name { name, namespace: String::new() });
    let mut bytes = BytesMut::new();
    frame::encode(&mut bytes, Flag::Message, &Message { target, message: Some(kind) });
    bytes.to_vec()
}

fn key_bytes(key: crate::sim::history::Key) -> Bytes {
    Universe::key_bytes(key).into()
}

fn target(map: u8, scope: Scope) -> String {
    let name = Universe::map_name(map);
    match scope {
        Scope::Whole => name,
        Scope::Partition(partition) => format!("{name}#{partition}"),
    }
}

/// A put or a removal as a command.
#[must_use]
pub fn write(action: &Action, history: &History) -> Option<command::Operation> {
    let wanted = |condition: Option<Expectation>| {
        condition.map(|condition| v1::Condition {
            condition: Some(match condition {
                Expectation::Absent => condition::Condition::Absent(true),
                Expectation::Present => condition::Condition::Present(true),
                Expectation::Version(Index(version)) => condition::Condition::Version(version),
                Expectation::Value(value) => {
                    condition::Condition::Value(history.value_bytes(value).into())
                }
            }),
        })
    };
    match *action {
        Action::Put { key, value, condition, wants_previous } => {
            Some(command::Operation::Put(v1::Put {
                key: key_bytes(key),
                value: history.value_bytes(value).into(),
                condition: wanted(condition),
                want_previous: wants_previous,
                ttl_ms: history.ttl_ms(value).unwrap_or_default(),
                ..v1::Put::default()
            }))
        }
        Action::Remove { key, condition, wants_previous } => {
            Some(command::Operation::Remove(v1::Remove {
                key: key_bytes(key),
                condition: wanted(condition),
                want_previous: wants_previous,
            }))
        }
        _ => None,
    }
}

fn read(
    map: String,
    timeout_ms: u32,
    operation: query::Operation,
    freshness: Freshness,
) -> v1::Query {
    let (consistency, min_index) = match freshness {
        Freshness::Linearizable => (Consistency::Linearizable, 0),
        Freshness::Stale(Index(min_index)) => (Consistency::Stale, min_index),
    };
    v1::Query {
        map,
        timeout_ms,
        consistency: consistency.into(),
        min_index,
        operation: Some(operation),
        ..v1::Query::default()
    }
}

fn question(query: &v1::Query, message_id: CorrelationId) -> Kinds {
    let value = query.encode_to_vec().into();
    Kinds::Query(QueryRequest { message_id, value, ..QueryRequest::default() })
}

/// The payload of the frame at the beginning, if it is whole.
pub(super) fn take_frame(received: &mut BytesMut) -> Result<Option<Bytes>, String> {
    match frame::next(received) {
        Ok(None) => Ok(None),
        Ok(Some((header, payload))) if header.flag == Flag::Message => {
            let mut frame = received.split_to(payload.end);
            frame.advance(payload.start);
            Ok(Some(frame.freeze()))
        }
        Ok(Some((header, _))) => Err(format!("a node sent a frame with {:?}", header.flag)),
        Err(error) => Err(format!("a node's frame was not understood: {error}")),
    }
}

/// What a payload says.
pub(super) fn decode(payload: Bytes) -> Result<Reply, String> {
    let undecodable = |error: prost::DecodeError| format!("an answer isn't protobuf: {error}");
    let message = Message::decode(payload).map_err(undecodable)?;
    let name = message.target.unwrap_or_default().name;
    let partition = name.strip_prefix('#').and_then(|number| number.parse().ok());
    let (correlation, view, index, value) = match message.message {
        Some(Kinds::CommandResponse(response)) => {
            (response.message_id, response.view_id, response.index, response.value)
        }
        Some(Kinds::QueryResponse(response)) => {
            let indexed = Indexed::decode(response.value).map_err(undecodable)?;
            (response.message_id, response.view_id, indexed.index, indexed.value)
        }
        other => return Err(format!("a node sent {other:?}")),
    };
    let result = v1::Result::decode(value).map_err(undecodable)?;
    let told = result.outcome.ok_or("an answer without an outcome")?;
    let partition = partition.map(PartitionId);
    let term = view.map_or(TermId(0), |view| TermId(view.term_id));
    Ok(Reply { correlation, partition, term, index: Index(index), told })
}

/// What a reply says of a request.
pub(super) fn understand(
    action: &Action,
    reply: &Reply,
    is_repeated: bool,
    history: &History,
) -> Result<Answer, String> {
    let index = reply.index;
    let seen = |versioned: &Option<v1::Versioned>| {
        versioned.as_ref().map(|versioned| seen(versioned, history)).transpose()
    };
    Ok(Answer::Whole(match &reply.told {
        Told::Error(error) => return failure(error, index, history).map(Answer::Whole),
        Told::Written(written) => {
            if written.version > index.0 || written.version < index.0 && !is_repeated {
                return Err("a version that isn't the slot".to_owned());
            }
            let index = Index(written.version);
            Outcome::Written { index, previous: seen(&written.previous)? }
        }
        Told::Removed(removed) => {
            Outcome::Removed { index, existed: removed.existed, previous: seen(&removed.previous)? }
        }
        Told::Cleared(cleared) => Outcome::Cleared { index, entries: cleared.entries },
        Told::Found(found) => Outcome::Found { index, entry: seen(&found.entry)? },
        Told::Exists(existence) => Outcome::Exists { index, exists: existence.exists },
        Told::Size(sized) => {
            Outcome::Sized { index, entries: sized.entries, size_bytes: sized.bytes }
        }
        Told::Page(page) => return page_of(action, reply, page, history).map(Answer::Page),
        Told::QueryClose(_) => return Ok(Answer::End),
        Told::Session(session) => {
            let Action::Session { step, .. } = action else {
                return Err("a session that nobody asked for".to_owned());
            };
            if matches!(step, SessionStep::Open { .. }) && session.session_id != index.0 {
                return Err("a session that isn't its slot".to_owned());
            }
            Outcome::Session { index, id: session.session_id }
        }
        Told::CommandClose(_) | Told::Status(_) | Told::LeadershipTransfer(_) => {
            return Err("nobody asked that".to_owned());
        }
    }))
}

/// What a whole answer says of a request that a real client made; `is_repeated`: it may have been
/// sent more than once.
///
/// # Errors
/// What no node may say, in words.
pub fn outcome_of(
    action: &Action,
    index: Index,
    told: Told,
    is_repeated: bool,
    history: &History,
) -> Result<Outcome, String> {
    let reply = Reply { correlation: 0, partition: None, term: TermId(0), index, told };
    match understand(action, &reply, is_repeated, history)? {
        Answer::Whole(outcome) => Ok(as_of_first(outcome, is_repeated)),
        Answer::Page(_) | Answer::End => Err("a part of an answer, and nobody asked".to_owned()),
    }
}

fn failure(error: &v1::Error, index: Index, history: &History) -> Result<Outcome, String> {
    match error.code() {
        Code::ConditionFailed => {
            let current = error.current.as_ref();
            let current = current.map(|current| seen(current, history)).transpose()?;
            Ok(Outcome::ConditionFailed { index, current })
        }
        Code::OutcomeUnknown => Ok(Outcome::Unknown),
        Code::Unavailable | Code::ResourceExhausted | Code::SessionExpired => {
            Ok(Outcome::Failed(error.code()))
        }
        code => Err(format!("a well-formed request was refused with {code:?}: {}", error.message)),
    }
}

fn seen(versioned: &v1::Versioned, history: &History) -> Result<Seen, String> {
    let v1::Versioned { ref value, version, created_ms, updated_ms, .. } = *versioned;
    let value = history.value_of(value).ok_or("a value that nobody wrote")?;
    if created_ms > updated_ms || version == 0 {
        return Err("an entry that was changed before it was made, or never".to_owned());
    }
    Ok(Seen { value, version: Index(version), updated_ms })
}

fn page_of(
    action: &Action,
    reply: &Reply,
    page: &v1::Page,
    history: &History,
) -> Result<PageSeen, String> {
    let Action::Entries { map, .. } = *action else { return Err("a page of nothing".to_owned()) };
    let partition = reply.partition.ok_or("a page of no partition")?;
    let items = page.items.iter().map(|item| {
        let key = history.universe.key_of(map, &item.key).ok_or("a key that nobody wrote")?;
        let entry = item.entry.as_ref().ok_or("a key without an entry")?;
        Ok((key, seen(entry, history)?))
    });
    let items = items.collect::<Result<Vec<_>, String>>()?;
    Ok(PageSeen { partition, index: reply.index, items, is_cut: !page.next.is_empty() })
}
