//! What can be done to a map: `p2pmap.v1.Command` and `Query`, parsed and checked. Everything
//! borrows from the bytes that came from the client or the log.
//!
//! There are two ways from bytes to an operation and one set of checks for both:
//!
//! ```text
//! bytes --hot--> draft --checks--> Command, Query       no copy; None for whatever is unusual
//!   \--prost--> owned message --> draft --checks--^      any encoding that protobuf allows
//! ```
//!
//! The hot way never accepts what the other refuses, nor reads it differently. [`with_command`]
//! and [`with_query`] try one after the other.
//!
//! # Ticks
//!
//! The time of a partition's log is that of its last command, so it stands still while nobody
//! writes. If something is due then ([`crate::map::partition::PartitionMap::next_expiry`]), the
//! sequencer stamps [`TICK`], the one command that no client may send: whoever takes requests from
//! clients refuses an [`Operation::is_internal`]. It executes like any other, with nothing to do
//! but what every slot does first: to remove what has expired.

pub mod cold;
mod draft;
pub mod error;
mod hot;

pub(super) use self::draft::checked_map;

use crate::base::ids::{Index, Sequence, SessionId};
use cold::{OwnedCommand, OwnedQuery};
use error::OperationError;

/// A write, with all of its fields checked against the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// The map's name; empty if the operation is about none.
    pub map: &'a str,
    /// The session that it is part of, if any.
    pub session: Option<SessionCall>,
    /// How long the client waits, in ms; 0: the default.
    pub timeout_ms: u32,
    /// A node that doesn't stamp answers with a hint rather than pass it on.
    pub no_forward: bool,
    /// What is done.
    pub operation: Operation<'a>,
}

/// A command's place in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionCall {
    /// The session.
    pub session: SessionId,
    /// The number of the command in it; 0 if it keeps or closes the session.
    pub sequence: Sequence,
    /// Results of lower numbers aren't needed any more.
    pub ack_below: Sequence,
}

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Sets a key's value.
    Put {
        /// The key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
        /// What must hold of the key.
        condition: Option<Condition<'a>>,
        /// How long the key is present.
        ttl: Ttl,
        /// Whether the result carries the entry that was replaced.
        want_previous: bool,
    },
    /// Removes a key.
    Remove {
        /// The key.
        key: &'a [u8],
        /// What must hold of the key.
        condition: Option<Condition<'a>>,
        /// Whether the result carries the entry that was removed.
        want_previous: bool,
    },
    /// Removes all entries of the map in this partition.
    Clear,
    /// Opens a session.
    OpenSession {
        /// How long it outlives its last command.
        ttl_s: u32,
    },
    /// Keeps the session of the command alive.
    KeepSession,
    /// Ends the session of the command.
    CloseSession,
    /// Lets the log's time go on. Only members make it.
    Tick,
}

/// How long a key is present once it was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// Until it is removed.
    Unlimited,
    /// Until what is replaced would have expired.
    Keep,
    /// For so many ms by the log's time, at least 1.
    Ms(u64),
}

/// The encoded [`Operation::Tick`].
pub const TICK: &[u8] = &[0xC2, 0x01, 0x00];

/// What must hold of a key before it is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition<'a> {
    /// The key is absent.
    Absent,
    /// The key is present.
    Present,
    /// The key is present with this version.
    Version(Index),
    /// The key is present with this value.
    Value(&'a [u8]),
}

/// A read, with all of its fields checked against the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// The map's name.
    pub map: &'a str,
    /// How fresh the answer must be.
    pub consistency: Consistency,
    /// The answer reflects at least this index.
    pub min_index: Index,
    /// How long the client waits, in ms; 0: the default.
    pub timeout_ms: u32,
    /// A node that can't answer does so with a hint rather than pass it on.
    pub no_forward: bool,
    /// What is asked.
    pub operation: QueryOperation<'a>,
}

/// How fresh the answer to a query must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Reflects every write that was answered before the query was sent.
    Linearizable,
    /// Some stable past state.
    Stale,
}

/// What a query asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryOperation<'a> {
    /// A key's entry.
    Get {
        /// The key.
        key: &'a [u8],
    },
    /// Whether a key is present.
    Exists {
        /// The key.
        key: &'a [u8],
    },
    /// The number of entries and their bytes.
    Size,
    /// A page of entries, in the order of the table.
    Entries {
        /// Only keys that begin with this.
        prefix: &'a [u8],
        /// Continue after this key; empty: from the beginning.
        start_after: &'a [u8],
        /// At most this many; already bounded.
        limit: u32,
        /// Leave the values out.
        keys_only: bool,
    },
}

/// Decodes a command in the usual encoding: each field at most once, none unknown. `None` says
/// nothing about the command: [`OwnedCommand`] decides. `value_size_bytes_max` is the configured
/// bound for clients; what stands in the log was checked before and is read with `usize::MAX`.
#[inline]
#[must_use]
pub fn decode_command(bytes: &[u8], value_size_bytes_max: usize) -> Option<Command<'_>> {
    hot::command(bytes)?.check(value_size_bytes_max).ok()
}

/// Decodes a query in the usual encoding, as [`decode_command`] does. `None`: [`OwnedQuery`]
/// decides.
#[inline]
#[must_use]
pub fn decode_query(bytes: &[u8]) -> Option<Query<'_>> {
    hot::query(bytes)?.check().ok()
}

/// Calls `then` with the command, however it is encoded, or with what is wrong with it.
pub fn with_command<T>(
    bytes: &[u8],
    value_size_bytes_max: usize,
    then: impl FnOnce(Result<Command<'_>, OperationError>) -> T,
) -> T {
    if let Some(command) = decode_command(bytes, value_size_bytes_max) {
        return then(Ok(command));
    }
    match OwnedCommand::decode(bytes) {
        Ok(owned) => then(owned.command(value_size_bytes_max)),
        Err(error) => then(Err(error)),
    }
}

/// Calls `then` with the query, however it is encoded, or with what is wrong with it.
pub fn with_query<T>(bytes: &[u8], then: impl FnOnce(Result<Query<'_>, OperationError>) -> T) -> T {
    if let Some(query) = decode_query(bytes) {
        return then(Ok(query));
    }
    match OwnedQuery::decode(bytes) {
        Ok(owned) => then(owned.query()),
        Err(error) => then(Err(error)),
    }
}

impl<'a> Operation<'a> {
    /// The key, unless it is about the whole map.
    #[inline]
    #[must_use]
    pub const fn key(&self) -> Option<&'a [u8]> {
        match *self {
            Self::Put { key, .. } | Self::Remove { key, .. } => Some(key),
            Self::Clear
            | Self::OpenSession { .. }
            | Self::KeepSession
            | Self::CloseSession
            | Self::Tick => None,
        }
    }

    /// Whether it is about a map, and not about a partition's sessions or its time.
    #[inline]
    #[must_use]
    pub const fn is_about_map(&self) -> bool {
        matches!(self, Self::Put { .. } | Self::Remove { .. } | Self::Clear)
    }

    /// Whether it is about a partition's sessions and not about a map.
    #[must_use]
    pub const fn is_about_sessions(&self) -> bool {
        matches!(self, Self::OpenSession { .. } | Self::KeepSession | Self::CloseSession)
    }

    /// Whether only members may make it.
    #[must_use]
    pub const fn is_internal(&self) -> bool {
        matches!(self, Self::Tick)
    }
}

impl<'a> QueryOperation<'a> {
    /// The key, unless it is about the whole map.
    #[inline]
    #[must_use]
    pub const fn key(&self) -> Option<&'a [u8]> {
        match *self {
            Self::Get { key } | Self::Exists { key } => Some(key),
            Self::Size | Self::Entries { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests;
