//! Commands and queries as they were read, by whichever decoder, before anything is checked; and
//! the checks. All that makes an operation valid stands here and nowhere else.

use super::error::OperationError;
use super::{Command, Condition, Consistency, Operation, Query, QueryOperation, SessionCall, Ttl};
use crate::base::cast;
use crate::base::ids::{Index, Sequence, SessionId};
use crate::base::limits::{
    ENTRIES_COUNT_DEFAULT, ENTRIES_COUNT_MAX, ENTRY_TTL_MS_MAX, KEY_SIZE_BYTES_MAX,
    MAP_NAME_SIZE_BYTES_MAX, OPERATION_TIMEOUT_NS_MAX, SESSION_TTL_S_DEFAULT, SESSION_TTL_S_MAX,
    SESSION_TTL_S_MIN,
};
use crate::base::time::NS_PER_MS;

/// The fields of a `p2pmap.v1.Command`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CommandDraft<'a> {
    pub(super) map: &'a [u8],
    pub(super) session_id: u64,
    pub(super) sequence: u64,
    pub(super) ack_below: u64,
    pub(super) timeout_ms: u32,
    pub(super) no_forward: bool,
    pub(super) operation: Option<OperationDraft<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OperationDraft<'a> {
    Put(PutDraft<'a>),
    Remove(RemoveDraft<'a>),
    Clear,
    OpenSession { ttl_ms: u64 },
    KeepSession,
    CloseSession,
    Tick,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PutDraft<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) condition: Option<ConditionDraft<'a>>,
    pub(super) ttl_ms: u64,
    pub(super) keep_ttl: bool,
    pub(super) want_previous: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RemoveDraft<'a> {
    pub(super) key: &'a [u8],
    pub(super) condition: Option<ConditionDraft<'a>>,
    pub(super) want_previous: bool,
}

// Without a bool: it would stand beside the tag, and the two be copied with what follows as one run
// of odd bytes, which stalls a processor that has just stored it in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConditionDraft<'a> {
    Unset,
    Absent,
    NotAbsent,
    Present,
    NotPresent,
    Version(u64),
    Value(&'a [u8]),
}

impl ConditionDraft<'_> {
    pub(super) const fn absent(absent: bool) -> Self {
        if absent { Self::Absent } else { Self::NotAbsent }
    }

    pub(super) const fn present(present: bool) -> Self {
        if present { Self::Present } else { Self::NotPresent }
    }
}

/// The fields of a `p2pmap.v1.Query`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct QueryDraft<'a> {
    pub(super) map: &'a [u8],
    pub(super) consistency: i32,
    pub(super) min_index: u64,
    pub(super) timeout_ms: u32,
    pub(super) no_forward: bool,
    pub(super) operation: Option<QueryOperationDraft<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueryOperationDraft<'a> {
    Get { key: &'a [u8] },
    Exists { key: &'a [u8] },
    Size,
    Entries { prefix: &'a [u8], start_after: &'a [u8], limit: u32, keys_only: bool },
}

impl<'a> CommandDraft<'a> {
    #[inline]
    pub(super) fn check(self, value_size_bytes_max: usize) -> Result<Command<'a>, OperationError> {
        let operation = match self.operation {
            Some(OperationDraft::Put(put)) => put.check(value_size_bytes_max)?,
            Some(OperationDraft::Remove(remove)) => remove.check(value_size_bytes_max)?,
            Some(OperationDraft::Clear) => Operation::Clear,
            Some(OperationDraft::OpenSession { ttl_ms }) => {
                Operation::OpenSession { ttl_s: checked_session_ttl(ttl_ms)? }
            }
            Some(OperationDraft::KeepSession) => Operation::KeepSession,
            Some(OperationDraft::CloseSession) => Operation::CloseSession,
            Some(OperationDraft::Tick) => Operation::Tick,
            None => return Err(OperationError::OperationMissing { message: "command" }),
        };
        let is_about_map = operation.is_about_map();
        // What is about a session or the partition may name a map all the same: a target may demand
        // it. It has no meaning.
        let map = match self.map.is_empty() && !is_about_map {
            true => "",
            false => checked_map(self.map)?,
        };
        let session = match is_about_map {
            true => self.session_of_map()?,
            false => {
                let wants_session =
                    matches!(operation, Operation::KeepSession | Operation::CloseSession);
                session_alone(self.session_call(), wants_session)?
            }
        };
        let timeout_ms = bounded_timeout_ms(self.timeout_ms);
        Ok(Command { map, session, timeout_ms, no_forward: self.no_forward, operation })
    }

    /// The session of an operation on a map: there may be one.
    #[inline]
    fn session_of_map(&self) -> Result<Option<SessionCall>, OperationError> {
        match (self.session_id, self.sequence, self.ack_below) {
            (0, 0, 0) => Ok(None),
            (0, 0, _) => Err(OperationError::SessionMissing { field: "ack_below" }),
            (0, _, _) => Err(OperationError::SessionMissing { field: "sequence" }),
            (_, 0, _) => Err(OperationError::SequenceMissing),
            (_, sequence, ack_below) if ack_below > sequence => {
                Err(OperationError::AckAhead { sequence, ack_below })
            }
            _ => Ok(Some(self.session_call())),
        }
    }

    const fn session_call(&self) -> SessionCall {
        SessionCall {
            session: SessionId(self.session_id),
            sequence: Sequence(self.sequence),
            ack_below: Sequence(self.ack_below),
        }
    }
}

impl<'a> PutDraft<'a> {
    #[inline]
    fn check(self, value_size_bytes_max: usize) -> Result<Operation<'a>, OperationError> {
        let ttl = match (self.ttl_ms, self.keep_ttl) {
            (0, false) => Ttl::Unlimited,
            (0, true) => Ttl::Keep,
            (_, true) => return Err(OperationError::TtlTwice),
            (ttl_ms, false) if ttl_ms > ENTRY_TTL_MS_MAX => {
                return Err(OperationError::TtlTooLong { ttl_ms });
            }
            (ttl_ms, false) => Ttl::Ms(ttl_ms),
        };
        Ok(Operation::Put {
            key: checked_key(self.key, "put.key")?,
            value: checked_value(self.value, "put.value", value_size_bytes_max)?,
            condition: checked_condition(self.condition, "put.condition", value_size_bytes_max)?,
            ttl,
            want_previous: self.want_previous,
        })
    }
}

/// The session of an operation that is about none of the maps: it wants one, or there is none.
#[cold]
fn session_alone(
    call: SessionCall,
    wants_session: bool,
) -> Result<Option<SessionCall>, OperationError> {
    let SessionCall { session, sequence, ack_below } = call;
    let fields = [
        (sequence.0, "sequence", true),
        (session.0, "session_id", !wants_session),
        (ack_below.0, "ack_below", !wants_session),
    ];
    for (value, field, is_refused) in fields {
        if is_refused && value != 0 {
            return Err(OperationError::SessionUnexpected { field });
        }
    }
    if wants_session && session.0 == 0 {
        return Err(OperationError::SessionMissing { field: "operation" });
    }
    Ok(wants_session.then_some(call))
}

/// In whole seconds, rounded up.
fn checked_session_ttl(ttl_ms: u64) -> Result<u32, OperationError> {
    if ttl_ms == 0 {
        return Ok(SESSION_TTL_S_DEFAULT);
    }
    let least = u64::from(SESSION_TTL_S_MIN) * 1_000;
    let ttl_s = u32::try_from(ttl_ms.div_ceil(1_000)).ok();
    let ttl_s = ttl_s.filter(|ttl_s| ttl_ms >= least && *ttl_s <= SESSION_TTL_S_MAX);
    ttl_s.ok_or(OperationError::SessionTtl { ttl_ms })
}

impl<'a> RemoveDraft<'a> {
    #[inline]
    fn check(self, value_size_bytes_max: usize) -> Result<Operation<'a>, OperationError> {
        let condition = self.condition;
        Ok(Operation::Remove {
            key: checked_key(self.key, "remove.key")?,
            condition: checked_condition(condition, "remove.condition", value_size_bytes_max)?,
            want_previous: self.want_previous,
        })
    }
}

impl<'a> QueryDraft<'a> {
    #[inline]
    pub(super) fn check(self) -> Result<Query<'a>, OperationError> {
        let map = checked_map(self.map)?;
        let consistency = match self.consistency {
            // Leases are off, so a lease read asks for no less than a quorum gives.
            0 | 1 => Consistency::Linearizable,
            2 => Consistency::Stale,
            number => return Err(OperationError::ConsistencyUnknown { number }),
        };
        let operation = match self.operation {
            Some(operation) => operation.check()?,
            None => return Err(OperationError::OperationMissing { message: "query" }),
        };
        Ok(Query {
            map,
            consistency,
            min_index: Index(self.min_index),
            timeout_ms: bounded_timeout_ms(self.timeout_ms),
            no_forward: self.no_forward,
            operation,
        })
    }
}

impl<'a> QueryOperationDraft<'a> {
    #[inline]
    fn check(self) -> Result<QueryOperation<'a>, OperationError> {
        Ok(match self {
            Self::Get { key } => QueryOperation::Get { key: checked_key(key, "get.key")? },
            Self::Exists { key } => QueryOperation::Exists { key: checked_key(key, "exists.key")? },
            Self::Size => QueryOperation::Size,
            Self::Entries { prefix, start_after, limit, keys_only } => QueryOperation::Entries {
                prefix: bounded_key(prefix, "entries.prefix")?,
                start_after: bounded_key(start_after, "entries.start_after")?,
                limit: match limit {
                    0 => cast::u32_from(ENTRIES_COUNT_DEFAULT),
                    limit => limit.min(cast::u32_from(ENTRIES_COUNT_MAX)),
                },
                keys_only,
            },
        })
    }
}

/// The name of a map: 1 to 255 bytes of UTF-8 without `#`, which separates it from the partition in
/// a target, and without control characters, which would garble logs.
#[inline]
pub(in crate::map) fn checked_map(name: &[u8]) -> Result<&str, OperationError> {
    if name.is_empty() {
        return Err(OperationError::MapMissing);
    }
    if name.len() > MAP_NAME_SIZE_BYTES_MAX {
        return Err(OperationError::MapTooLong { size_bytes: name.len() });
    }
    let Ok(text) = std::str::from_utf8(name) else { return Err(OperationError::MapNotText) };
    let plain = |byte: u8| (b' '..0x7F).contains(&byte) && byte != b'#';
    if name.iter().all(|byte| plain(*byte)) { Ok(text) } else { checked_characters(text) }
}

#[cold]
fn checked_characters(name: &str) -> Result<&str, OperationError> {
    match name.chars().find(|character| *character == '#' || character.is_control()) {
        None => Ok(name),
        Some(character) => Err(OperationError::MapCharacter { character }),
    }
}

#[inline]
fn checked_key<'a>(key: &'a [u8], field: &'static str) -> Result<&'a [u8], OperationError> {
    if key.is_empty() {
        return Err(OperationError::KeyMissing { field });
    }
    bounded_key(key, field)
}

#[inline]
fn bounded_key<'a>(key: &'a [u8], field: &'static str) -> Result<&'a [u8], OperationError> {
    if key.len() > KEY_SIZE_BYTES_MAX {
        return Err(OperationError::KeyTooLong { field, size_bytes: key.len() });
    }
    Ok(key)
}

#[inline]
fn checked_value<'a>(
    value: &'a [u8],
    field: &'static str,
    size_bytes_max: usize,
) -> Result<&'a [u8], OperationError> {
    let size_bytes = value.len();
    if size_bytes > size_bytes_max {
        return Err(OperationError::ValueTooLong { field, size_bytes, size_bytes_max });
    }
    Ok(value)
}

#[inline]
fn checked_condition<'a>(
    condition: Option<ConditionDraft<'a>>,
    field: &'static str,
    value_size_bytes_max: usize,
) -> Result<Option<Condition<'a>>, OperationError> {
    let Some(condition) = condition else { return Ok(None) };
    let meaningless = |instead| Err(OperationError::ConditionMeaningless { field, instead });
    Ok(Some(match condition {
        ConditionDraft::Unset => return Err(OperationError::ConditionMissing { field }),
        ConditionDraft::Absent => Condition::Absent,
        ConditionDraft::NotAbsent => return meaningless("`absent: false` is `present: true`"),
        ConditionDraft::Present => Condition::Present,
        ConditionDraft::NotPresent => return meaningless("`present: false` is `absent: true`"),
        ConditionDraft::Version(0) => return meaningless("versions begin at 1"),
        ConditionDraft::Version(version) => Condition::Version(Index(version)),
        ConditionDraft::Value(value) => {
            Condition::Value(checked_value(value, field, value_size_bytes_max)?)
        }
    }))
}

/// Longer timeouts are shortened, not refused: the bound is the operator's, not the client's.
#[inline]
fn bounded_timeout_ms(timeout_ms: u32) -> u32 {
    timeout_ms.min(cast::low_u32(OPERATION_TIMEOUT_NS_MAX / NS_PER_MS))
}
