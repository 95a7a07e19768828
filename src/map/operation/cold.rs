//! The cold way: prost decodes into a message of its own, from which operations borrow. It reads
//! every encoding that protobuf allows, and says what is wrong with the rest.

use bytes::Bytes;
use prost::Message as _;

use super::draft::{
    CommandDraft, ConditionDraft, OperationDraft, PutDraft, QueryDraft, QueryOperationDraft,
    RemoveDraft,
};
use super::error::OperationError;
use super::{Command, Consistency, Query, QueryOperation};
use crate::base::ids::Index;
use crate::proto::p2pmap::v1;
use crate::proto::reader::{Fields, Value};

/// A decoded command that operations borrow from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedCommand(v1::Command);

/// A decoded query that operations borrow from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedQuery(v1::Query);

/// The usual encoding of a query, for whoever else is to answer it.
#[must_use]
pub fn encode_query(query: &Query<'_>) -> Bytes {
    let Query { map, consistency, min_index, timeout_ms, no_forward, operation } = *query;
    let bytes = Bytes::copy_from_slice;
    let consistency = match consistency {
        Consistency::Linearizable => v1::Consistency::Linearizable,
        Consistency::Stale => v1::Consistency::Stale,
    };
    let operation = match operation {
        QueryOperation::Get { key } => v1::query::Operation::Get(v1::Get { key: bytes(key) }),
        QueryOperation::Exists { key } => {
            v1::query::Operation::Exists(v1::Exists { key: bytes(key) })
        }
        QueryOperation::Size => v1::query::Operation::Size(v1::Size {}),
        QueryOperation::Entries { prefix, start_after, limit, keys_only } => {
            v1::query::Operation::Entries(v1::Entries {
                prefix: bytes(prefix),
                start_after: bytes(start_after),
                limit,
                keys_only,
            })
        }
    };
    let query = v1::Query {
        map: map.to_owned(),
        consistency: consistency.into(),
        min_index: min_index.0,
        timeout_ms,
        no_forward,
        operation: Some(operation),
    };
    query.encode_to_vec().into()
}

impl OwnedCommand {
    /// Decodes a `p2pmap.v1.Command`. Fields that this release doesn't know are an error: commands
    /// are logged as they came, and members of mixed releases must execute them alike.
    ///
    /// # Errors
    /// If it is no such message, or has unknown fields.
    pub fn decode(bytes: &[u8]) -> Result<Self, OperationError> {
        let command = v1::Command::decode(bytes)
            .map_err(|error| OperationError::Undecodable { message: "command", error })?;
        refuse_unknown_fields(bytes)?;
        Ok(Self(command))
    }

    /// The command, checked.
    ///
    /// # Errors
    /// If a field is missing, out of bounds or not implemented.
    pub fn command(&self, value_size_bytes_max: usize) -> Result<Command<'_>, OperationError> {
        // Each field is named, so that a new one isn't forgotten.
        let &v1::Command {
            ref map,
            session_id,
            sequence,
            ack_below,
            timeout_ms,
            no_forward,
            ref operation,
        } = &self.0;
        let draft = CommandDraft {
            map: map.as_bytes(),
            session_id,
            sequence,
            ack_below,
            timeout_ms,
            no_forward,
            operation: operation.as_ref().map(operation_draft),
        };
        draft.check(value_size_bytes_max)
    }
}

impl OwnedQuery {
    /// Decodes a `p2pmap.v1.Query`. Unknown fields are skipped, unless they may be an operation.
    ///
    /// # Errors
    /// If it is no such message, or its operation is unknown.
    pub fn decode(bytes: &[u8]) -> Result<Self, OperationError> {
        let query = v1::Query::decode(bytes)
            .map_err(|error| OperationError::Undecodable { message: "query", error })?;
        match Fields::of(bytes).map(|field| field.number).find(|n| LATER_QUERIES.contains(n)) {
            None => Ok(Self(query)),
            Some(number) => {
                let name = (number == 14).then_some("watch");
                Err(OperationError::OperationUnknown { message: "query", number, name })
            }
        }
    }

    /// The question, if it is about the node and not about a map.
    #[must_use]
    pub fn status(&self) -> Option<&v1::Status> {
        match &self.0.operation {
            Some(v1::query::Operation::Status(status)) => Some(status),
            _ => None,
        }
    }

    /// The wish, if it is that another member leads.
    #[must_use]
    pub fn transfer_leadership(&self) -> Option<&v1::TransferLeadership> {
        match &self.0.operation {
            Some(v1::query::Operation::TransferLeadership(transfer)) => Some(transfer),
            _ => None,
        }
    }

    /// The name of the map as it was given, for such a question.
    #[must_use]
    pub fn map(&self) -> &str {
        &self.0.map
    }

    /// The index that the answer must reflect.
    #[must_use]
    pub fn min_index(&self) -> Index {
        Index(self.0.min_index)
    }

    /// The query, checked.
    ///
    /// # Errors
    /// If a field is missing or out of bounds, or it isn't about a map.
    pub fn query(&self) -> Result<Query<'_>, OperationError> {
        let v1::Query { map, consistency, min_index, timeout_ms, no_forward, operation } = &self.0;
        let draft = QueryDraft {
            map: map.as_bytes(),
            consistency: *consistency,
            min_index: *min_index,
            timeout_ms: *timeout_ms,
            no_forward: *no_forward,
            operation: operation.as_ref().and_then(query_operation_draft),
        };
        draft.check()
    }
}

/// The operations of queries that have a number but no code yet.
const LATER_QUERIES: [u32; 8] = [14, 17, 18, 19, 20, 21, 22, 23];

fn operation_draft(operation: &v1::command::Operation) -> OperationDraft<'_> {
    match operation {
        v1::command::Operation::Put(put) => {
            let v1::Put { key, value, condition, ttl_ms, keep_ttl, want_previous } = put;
            OperationDraft::Put(PutDraft {
                key,
                value,
                condition: condition.as_ref().map(condition_draft),
                ttl_ms: *ttl_ms,
                keep_ttl: *keep_ttl,
                want_previous: *want_previous,
            })
        }
        v1::command::Operation::Remove(remove) => {
            let v1::Remove { key, condition, want_previous } = remove;
            OperationDraft::Remove(RemoveDraft {
                key,
                condition: condition.as_ref().map(condition_draft),
                want_previous: *want_previous,
            })
        }
        v1::command::Operation::Clear(v1::Clear {}) => OperationDraft::Clear,
        v1::command::Operation::OpenSession(v1::OpenSession { ttl_ms }) => {
            OperationDraft::OpenSession { ttl_ms: *ttl_ms }
        }
        v1::command::Operation::KeepSession(v1::KeepSession {}) => OperationDraft::KeepSession,
        v1::command::Operation::CloseSession(v1::CloseSession {}) => OperationDraft::CloseSession,
        v1::command::Operation::Tick(v1::Tick {}) => OperationDraft::Tick,
    }
}

fn condition_draft(condition: &v1::Condition) -> ConditionDraft<'_> {
    match &condition.condition {
        None => ConditionDraft::Unset,
        Some(v1::condition::Condition::Absent(absent)) => ConditionDraft::absent(*absent),
        Some(v1::condition::Condition::Present(present)) => ConditionDraft::present(*present),
        Some(v1::condition::Condition::Version(version)) => ConditionDraft::Version(*version),
        Some(v1::condition::Condition::Value(value)) => ConditionDraft::Value(value),
    }
}

/// None: it isn't about a map.
fn query_operation_draft(operation: &v1::query::Operation) -> Option<QueryOperationDraft<'_>> {
    Some(match operation {
        v1::query::Operation::Get(v1::Get { key }) => QueryOperationDraft::Get { key },
        v1::query::Operation::Exists(v1::Exists { key }) => QueryOperationDraft::Exists { key },
        v1::query::Operation::Size(v1::Size {}) => QueryOperationDraft::Size,
        v1::query::Operation::Entries(entries) => {
            let v1::Entries { prefix, start_after, limit, keys_only } = entries;
            QueryOperationDraft::Entries {
                prefix,
                start_after,
                limit: *limit,
                keys_only: *keys_only,
            }
        }
        v1::query::Operation::Status(_) | v1::query::Operation::TransferLeadership(_) => {
            return None;
        }
    })
}

/// `bytes` is a well-formed `Command`: prost decoded it.
fn refuse_unknown_fields(bytes: &[u8]) -> Result<(), OperationError> {
    for field in Fields::of(bytes) {
        match (field.number, field.value) {
            (10, Value::Bytes(put)) => {
                refuse_above(6, "put", put)?;
                refuse_unknown_conditions(3, put)?;
            }
            (11, Value::Bytes(remove)) => {
                refuse_above(3, "remove", remove)?;
                refuse_unknown_conditions(2, remove)?;
            }
            (12, Value::Bytes(clear)) => refuse_above(0, "clear", clear)?,
            (20, Value::Bytes(open)) => refuse_above(1, "open_session", open)?,
            (21, Value::Bytes(keep)) => refuse_above(0, "keep_session", keep)?,
            (22, Value::Bytes(close)) => refuse_above(0, "close_session", close)?,
            (24, Value::Bytes(tick)) => refuse_above(0, "tick", tick)?,
            (1..=6, _) => {}
            (number @ 13..=23, _) => {
                let name = later_command(number);
                return Err(OperationError::OperationUnknown { message: "command", number, name });
            }
            (number, _) => {
                return Err(OperationError::FieldUnknown { message: "command", number });
            }
        }
    }
    Ok(())
}

fn refuse_unknown_conditions(condition: u32, operation: &[u8]) -> Result<(), OperationError> {
    for field in Fields::of(operation) {
        if let (true, Value::Bytes(bytes)) = (field.number == condition, field.value) {
            refuse_above(4, "condition", bytes)?;
        }
    }
    Ok(())
}

/// In these messages the known fields are 1 to `last`.
fn refuse_above(last: u32, message: &'static str, bytes: &[u8]) -> Result<(), OperationError> {
    match Fields::of(bytes).map(|field| field.number).find(|number| *number > last) {
        None => Ok(()),
        Some(number) => Err(OperationError::FieldUnknown { message, number }),
    }
}

/// The operations that have a number but no code yet.
const fn later_command(number: u32) -> Option<&'static str> {
    match number {
        13 => Some("batch"),
        14 => Some("increment"),
        15 => Some("append"),
        16 => Some("expire"),
        23 => Some("drop_map"),
        _ => None,
    }
}
