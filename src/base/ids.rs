//! Identifiers and positions as types of their own, so that the compiler catches a swap.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        id!($(#[$doc])* $name(u64));

        impl $name {
            /// The one after this.
            ///
            /// # Panics
            /// On overflow, which no run reaches: 2⁶⁴ steps.
            #[inline]
            #[must_use]
            pub const fn next(self) -> Self {
                self.plus(1)
            }

            /// The one before this; the least stays.
            #[inline]
            #[must_use]
            pub const fn previous(self) -> Self {
                Self(self.0.saturating_sub(1))
            }

            /// `count` steps on.
            ///
            /// # Panics
            /// On overflow, which no run reaches: 2⁶⁴ steps.
            #[inline]
            #[must_use]
            pub const fn plus(self, count: u64) -> Self {
                match self.0.checked_add(count) {
                    Some(value) => Self(value),
                    None => panic!(concat!(stringify!($name), " overflows")),
                }
            }

            /// How many steps after `earlier` this is; 0 if it isn't after it.
            #[inline]
            #[must_use]
            pub const fn since(self, earlier: Self) -> u64 {
                self.0.saturating_sub(earlier.0)
            }
        }
    };
}

id!(
    /// One replicated log with its slice of every map.
    PartitionId(u32)
);
id!(
    /// One core's share of a node.
    ShardId(u16)
);
id!(
    /// One process of the cluster: its place in the list of nodes, sorted bytewise.
    NodeId(u8)
);
id!(
    /// A member of a partition: its place in the partition's list of members, sorted bytewise.
    MemberId(u8)
);
counter!(
    /// A term: one view, one leader, one sequencer session. 0: no view. Real terms are below 2⁶³.
    TermId
);
counter!(
    /// A position in a partition's log, over all terms, from 1. 0: none.
    Index
);
counter!(
    /// A command's number within its term, from 1. 0: none.
    MessageId
);
counter!(
    /// A client's exactly-once session in a partition: the index of the command that opened it. 0:
    /// none.
    SessionId
);
counter!(
    /// A command's number within its session, from 1.
    Sequence
);
counter!(
    /// A record's number in the order of appends to a shard's log in this process, from 1.
    AppendId
);
counter!(
    /// A write batch of a shard's log. Never used twice in one data directory.
    BatchId
);
counter!(
    /// A segment of a shard's log. Never used twice in one data directory.
    SegmentId
);
counter!(
    /// How often a data directory was opened to be written.
    BootEpoch
);
counter!(
    /// A member's life; a life ends when the member loses what it promised.
    Incarnation
);

/// What a client calls its request; echoed in the response.
pub type CorrelationId = u64;

/// Where a request came from, and so where its answer goes: a stream of a connection of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The shard that has the connection. Where that is another one, the other fields are what the
    /// owner of the partition calls the request until it is answered.
    pub home: ShardId,
    /// The connection's place in the shard's table.
    pub connection: u32,
    /// Distinguishes the connections that have had this place.
    pub generation: u32,
    /// The stream of the connection; 0 where a connection is one stream.
    pub stream: u32,
}

/// What a shard calls a share that it has asked another shard for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskId {
    /// Where it waits for the answer.
    pub place: u32,
    /// Distinguishes those that have had this place.
    pub number: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_step_and_subtract_without_wrapping() {
        assert_eq!(Index(7).next(), Index(8));
        assert_eq!(Index(0).previous(), Index(0));
        assert_eq!(Index(7).since(Index(9)), 0);
        assert_eq!(Index(9).since(Index(7)), 2);
    }
}
