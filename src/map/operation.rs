//! What can be done to a map: `p2pmap.v1.Command` and `Query`, parsed and checked. Everything
//! borrows from the bytes that came from the client or the log.

use crate::base::ids::Index;

/// A write, with all of its fields checked against the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// The map's name.
    pub map: &'a str,
    /// How long the client waits, in ms; 0: the default.
    pub timeout_ms: u32,
    /// What is done.
    pub operation: Operation<'a>,
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
}

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
