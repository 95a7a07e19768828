//! What can be wrong with a command or query. The text is for the person who wrote the client: it
//! names the field.

use std::error::Error;
use std::fmt;

use crate::base::limits::{
    ENTRY_TTL_MS_MAX, KEY_SIZE_BYTES_MAX, MAP_NAME_SIZE_BYTES_MAX, SESSION_TTL_S_MAX,
    SESSION_TTL_S_MIN,
};
use crate::proto::p2pmap::v1::error::Code;

/// What is wrong with a command or query. All of it is the client's doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationError {
    /// It is no protobuf message of that type.
    Undecodable {
        /// `command` or `query`.
        message: &'static str,
        /// What prost says: names the field, if it got that far.
        error: prost::DecodeError,
    },
    /// The name of the map is missing.
    MapMissing,
    /// The name of the map is too long.
    MapTooLong {
        /// How long it is.
        size_bytes: usize,
    },
    /// The name of the map is no UTF-8.
    MapNotText,
    /// The name of the map holds `#` or a control character.
    MapCharacter {
        /// The first such character.
        character: char,
    },
    /// A key is missing: keys have at least one byte.
    KeyMissing {
        /// Whose.
        field: &'static str,
    },
    /// A key is too long.
    KeyTooLong {
        /// Whose.
        field: &'static str,
        /// How long it is.
        size_bytes: usize,
    },
    /// A value is too long.
    ValueTooLong {
        /// Which.
        field: &'static str,
        /// How long it is.
        size_bytes: usize,
        /// How long it may be.
        size_bytes_max: usize,
    },
    /// A condition is there but says nothing.
    ConditionMissing {
        /// Whose.
        field: &'static str,
    },
    /// A condition can't be meant: `absent: false`, `present: false`, `version: 0`.
    ConditionMeaningless {
        /// Whose.
        field: &'static str,
        /// What to write instead.
        instead: &'static str,
    },
    /// This number is no consistency.
    ConsistencyUnknown {
        /// The number.
        number: i32,
    },
    /// No operation is set.
    OperationMissing {
        /// `command` or `query`.
        message: &'static str,
    },
    /// An operation is set that a later release may know.
    OperationUnknown {
        /// `command` or `query`.
        message: &'static str,
        /// The field's number.
        number: u32,
        /// The field's name, where it has one already.
        name: Option<&'static str>,
    },
    /// A command has a field that a later release may know. It isn't skipped: members of another
    /// release would execute the command differently.
    FieldUnknown {
        /// In which message.
        message: &'static str,
        /// The field's number.
        number: u32,
    },
    /// A time to live is longer than any entry's.
    TtlTooLong {
        /// How long it is.
        ttl_ms: u64,
    },
    /// A time to live is given, and that of the present entry is to be kept.
    TtlTwice,
    /// No session can have this time to live.
    SessionTtl {
        /// How long it is.
        ttl_ms: u64,
    },
    /// Something asks for a session, but none is named.
    SessionMissing {
        /// What.
        field: &'static str,
    },
    /// A command of a session has no number.
    SequenceMissing,
    /// A command says that its own result is no longer needed.
    AckAhead {
        /// Its number.
        sequence: u64,
        /// The number that it gives.
        ack_below: u64,
    },
    /// A field of a command in a session is set where it has no meaning.
    SessionUnexpected {
        /// Which.
        field: &'static str,
    },
    /// Only members make such a command.
    MembersOnly,
}

impl OperationError {
    /// The same for programs.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Undecodable { .. }
            | Self::MapMissing
            | Self::MapTooLong { .. }
            | Self::MapNotText
            | Self::MapCharacter { .. }
            | Self::KeyMissing { .. }
            | Self::KeyTooLong { .. }
            | Self::ValueTooLong { .. }
            | Self::ConditionMissing { .. }
            | Self::ConditionMeaningless { .. }
            | Self::ConsistencyUnknown { .. }
            | Self::OperationMissing { .. }
            | Self::TtlTooLong { .. }
            | Self::TtlTwice
            | Self::SessionTtl { .. }
            | Self::SessionMissing { .. }
            | Self::SequenceMissing
            | Self::AckAhead { .. }
            | Self::SessionUnexpected { .. }
            | Self::MembersOnly => Code::InvalidArgument,
            Self::OperationUnknown { .. } | Self::FieldUnknown { .. } => Code::Unimplemented,
        }
    }
}

impl fmt::Display for OperationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undecodable { message, error } => write!(f, "not a {message}: {error}"),
            Self::MapMissing => write!(f, "map: the name of the map is missing"),
            Self::MapTooLong { size_bytes } => write!(
                f,
                "map: a name of {size_bytes} bytes; {MAP_NAME_SIZE_BYTES_MAX} are allowed"
            ),
            Self::MapNotText => write!(f, "map: the name is no UTF-8"),
            Self::MapCharacter { character } => {
                write!(f, "map: {character:?} is not allowed in a name")
            }
            Self::KeyMissing { field } => write!(f, "{field}: the key is missing or empty"),
            Self::KeyTooLong { field, size_bytes } => {
                write!(f, "{field}: a key of {size_bytes} bytes; {KEY_SIZE_BYTES_MAX} are allowed")
            }
            Self::ValueTooLong { field, size_bytes, size_bytes_max } => {
                write!(f, "{field}: a value of {size_bytes} bytes; {size_bytes_max} are allowed")
            }
            Self::ConditionMissing { field } => write!(f, "{field}: the condition is not set"),
            Self::ConditionMeaningless { field, instead } => {
                write!(f, "{field}: no condition; {instead}")
            }
            Self::ConsistencyUnknown { number } => {
                write!(f, "consistency: {number} is unknown")
            }
            Self::OperationMissing { message } => {
                write!(f, "operation: the {message} has no operation")
            }
            Self::OperationUnknown { message, number, name: Some(name) } => {
                write!(f, "{name}: not implemented (field {number} of the {message})")
            }
            Self::OperationUnknown { message, number, name: None } => {
                write!(f, "operation: field {number} of the {message} is unknown")
            }
            Self::FieldUnknown { message, number } => {
                write!(f, "{message}: field {number} is unknown, and commands must be understood")
            }
            Self::TtlTooLong { ttl_ms } => {
                write!(f, "put.ttl_ms: {ttl_ms} ms; {ENTRY_TTL_MS_MAX} are allowed")
            }
            Self::TtlTwice => write!(f, "put.keep_ttl: not together with put.ttl_ms"),
            Self::SessionTtl { ttl_ms } => write!(
                f,
                "open_session.ttl_ms: {ttl_ms} ms; {SESSION_TTL_S_MIN} to {SESSION_TTL_S_MAX} \
                 seconds are allowed"
            ),
            Self::SessionMissing { field } => write!(f, "{field}: needs a session_id"),
            Self::SequenceMissing => {
                write!(f, "sequence: a command of a session has a number, from 1")
            }
            Self::AckAhead { sequence, ack_below } => {
                write!(f, "ack_below: {ack_below} is above the command's own sequence, {sequence}")
            }
            Self::SessionUnexpected { field } => {
                write!(f, "{field}: has no meaning in this operation")
            }
            Self::MembersOnly => write!(f, "tick: only members make it"),
        }
    }
}

impl Error for OperationError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Undecodable { error, .. } => Some(error),
            _ => None,
        }
    }
}
